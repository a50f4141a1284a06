/*
 * manifest.c - see manifest.h. The text of manifest.json is a body followed by a tail of
 * fixed length that holds the checksum of the body; the tail is found from the end of the
 * file, so nothing has to be parsed to know whether the manifest is whole.
 */
#include "manifest.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "json.h"

#define TAIL_HEAD ",\n  \"self\": \""
#define TAIL_END  "\"\n}\n"
#define TAIL      (sizeof TAIL_HEAD - 1 + PF_HASH_TEXT - 1 + sizeof TAIL_END - 1)
#define MAX_BYTES 65536
#define VERSION   1

/* Names come from files: one path part of plain characters, never hidden, never "..". */
static bool good_name(const char *name) {
    size_t length = name ? strlen(name) : 0;
    const char *plain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.";
    return length > 0 && length < PF_MANIFEST_NAME && name[0] != '.' &&
           strspn(name, plain) == length;
}

static bool good_hash(const char *hash) {
    return hash && strlen(hash) == PF_HASH_TEXT - 1 &&
           strspn(hash, "0123456789abcdef") == PF_HASH_TEXT - 1;
}

bool pf_manifest_has(const pf_manifest *m, const char *name) {
    for (int i = 0; i < m->n; i++) {
        if (!strcmp(m->file[i].name, name)) return true;
    }
    return false;
}

int pf_manifest_add(pf_manifest *m, const char *name, int64_t size, const char *hash) {
    if (m->n >= PF_MANIFEST_FILES || !good_name(name) || size < 0 || !good_hash(hash) ||
        pf_manifest_has(m, name)) {
        return pf_fail(PF_EFORMAT, "%s: not an entry of a checkpoint's manifest: '%.64s'",
                       PF_MANIFEST_FILE, name ? name : "");
    }
    strcpy(m->file[m->n].name, name); /* both fit: checked above */
    strcpy(m->file[m->n].hash, hash);
    m->file[m->n].size = size;
    m->n++;
    return PF_OK;
}

int pf_manifest_write(const pf_manifest *m, const char *folder) {
    pf_text text = {0};
    char *path, hash[PF_HASH_TEXT];
    PF_TRY(pf_path(&path, "%s/%s", folder, PF_MANIFEST_FILE));
    pf_text_print(&text, "{\n  \"format\": %d,\n  \"files\": [", VERSION);
    for (int i = 0; i < m->n; i++) {
        pf_text_print(&text, "%s\n    {\"name\": \"%s\", \"size\": %lld, \"xxh3_128\": \"%s\"}",
                      i > 0 ? "," : "", m->file[i].name, (long long)m->file[i].size,
                      m->file[i].hash);
    }
    pf_text_print(&text, "\n  ]");
    if (m->run[0]) {
        pf_text_print(&text, ",\n  \"run\": \"%s\",\n  \"step\": \"%llu\"", m->run,
                      (unsigned long long)m->step);
    }
    int status = text.failed ? pf_fail(PF_ENOMEM, "manifest: out of memory") : PF_OK;
    if (status >= 0) {
        pf_hash_bytes(text.data, text.size, hash);
        pf_text_print(&text, "%s%s%s", TAIL_HEAD, hash, TAIL_END);
        if (text.failed) status = pf_fail(PF_ENOMEM, "manifest: out of memory");
    }
    pf_writer w;
    if (status >= 0) status = pf_writer_open(&w, path, false);
    if (status >= 0) {
        status = pf_writer_put(&w, text.data, text.size);
        if (status >= 0)
            status = pf_writer_commit(&w, NULL);
        else
            pf_writer_abort(&w);
    }
    free(text.data);
    free(path);
    return status;
}

/* ---- reading ------------------------------------------------------------------ */

static int damaged(const char *folder, const char *what) {
    return pf_fail(PF_EFORMAT, "%s in %s is damaged (%s)", PF_MANIFEST_FILE, folder, what);
}

static bool whole(const char *text, size_t bytes) {
    char hash[PF_HASH_TEXT];
    if (bytes <= TAIL) return false;
    const char *tail = text + bytes - TAIL;
    const char *sum = tail + sizeof TAIL_HEAD - 1;
    pf_hash_bytes(text, bytes - TAIL, hash);
    return !memcmp(tail, TAIL_HEAD, sizeof TAIL_HEAD - 1) && !memcmp(sum, hash, PF_HASH_TEXT - 1) &&
           !memcmp(sum + PF_HASH_TEXT - 1, TAIL_END, sizeof TAIL_END - 1);
}

/* Of which run and step; both or neither. */
static int read_origin(pf_manifest *m, const pf_json *doc, const char *folder) {
    const char *run = pf_json_string(pf_json_get(doc, "run"));
    const char *step = pf_json_string(pf_json_get(doc, "step"));
    if (!run && !step) return PF_OK;
    char *end = NULL;
    errno = 0;
    if (step && *step >= '0' && *step <= '9') m->step = strtoull(step, &end, 10);
    if (!good_hash(run) || !end || *end || errno) return damaged(folder, "no run and step");
    strcpy(m->run, run); /* it fits: checked above */
    return PF_OK;
}

static int read_entries(pf_manifest *m, const pf_json *doc, const char *folder) {
    int64_t version = 0, size;
    const pf_json *files = pf_json_get(doc, "files");
    if (!pf_json_integer(pf_json_get(doc, "format"), &version) || version != VERSION) {
        return pf_fail(PF_EFORMAT, "%s in %s has format %lld; this version reads format %d",
                       PF_MANIFEST_FILE, folder, (long long)version, VERSION);
    }
    if (!pf_json_is_list(files)) return damaged(folder, "no list of files");
    PF_TRY(read_origin(m, doc, folder));
    for (size_t i = 0; i < pf_json_size(files); i++) {
        const pf_json *file = pf_json_at(files, i);
        if (!pf_json_integer(pf_json_get(file, "size"), &size)) size = -1;
        PF_TRY(pf_manifest_add(m, pf_json_string(pf_json_get(file, "name")), size,
                               pf_json_string(pf_json_get(file, "xxh3_128"))));
    }
    return PF_OK;
}

int pf_manifest_read(pf_manifest *m, const char *folder) {
    char *path, *text;
    size_t bytes;
    pf_json *doc = NULL;
    *m = (pf_manifest){0};
    PF_TRY(pf_path(&path, "%s/%s", folder, PF_MANIFEST_FILE));
    int status = pf_file_read(&text, &bytes, path, MAX_BYTES);
    free(path);
    if (status == PF_ENOTFOUND) {
        return pf_fail(status, "%s in %s is missing", PF_MANIFEST_FILE, folder);
    }
    if (status < 0) return status;
    if (!whole(text, bytes)) status = damaged(folder, "checksum differs");
    if (status >= 0) status = pf_json_open(&doc, text, bytes, PF_MANIFEST_FILE);
    if (status >= 0) status = read_entries(m, doc, folder);
    pf_json_close(&doc);
    free(text);
    return status;
}

/* ---- verifying ---------------------------------------------------------------- */

static int verify_open(const pf_manifest *m, int i, const pf_reader *r, const char *folder,
                       bool contents) {
    char hash[PF_HASH_TEXT];
    if (r->size != m->file[i].size) {
        return pf_fail(PF_EFORMAT, "%s in %s is damaged (%lld bytes, %lld expected)",
                       m->file[i].name, folder, (long long)r->size, (long long)m->file[i].size);
    }
    if (!contents) return PF_OK;
    PF_TRY(pf_hash_file(r, hash));
    if (!strcmp(hash, m->file[i].hash)) return PF_OK;
    return pf_fail(PF_EFORMAT, "%s in %s is damaged (checksum differs)", m->file[i].name, folder);
}

static int verify_one(const pf_manifest *m, int i, const char *folder, bool contents) {
    pf_reader r;
    char *path;
    PF_TRY(pf_path(&path, "%s/%s", folder, m->file[i].name));
    int status = pf_reader_open(&r, path);
    if (status == PF_ENOTFOUND) {
        status = pf_fail(PF_EFORMAT, "%s in %s is missing", m->file[i].name, folder);
    } else if (status >= 0) {
        status = verify_open(m, i, &r, folder, contents);
        pf_reader_close(&r);
    }
    free(path);
    return status;
}

int pf_manifest_verify(const pf_manifest *m, const pf_engine *engine, const char *folder,
                       bool contents) {
    for (int i = 0; i < m->n; i++) {
        PF_TRY(pf_check_cancel(engine));
        PF_TRY(verify_one(m, i, folder, contents));
    }
    return PF_OK;
}
