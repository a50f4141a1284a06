/*
 * manifest.c - see manifest.h. The text of manifest.json is a body followed by a tail of
 * fixed length that holds the checksum of the body; the tail is found from the end of the
 * file, so nothing has to be parsed to know whether the manifest is whole.
 */
#include "manifest.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "json.h"

#define TAIL_HEAD ",\n  \"self\": \""
#define TAIL_END  "\"\n}\n"
#define TAIL      (sizeof TAIL_HEAD - 1 + PF_HASH_TEXT - 1 + sizeof TAIL_END - 1)
#define MAX_BYTES 65536
#define VERSION   1
#define CHUNK     ((size_t)1 << 18) /* bytes summed up at a time */

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

const char *pf_manifest_hash(const pf_manifest *m, const char *name) {
    for (int i = 0; i < m->n; i++) {
        if (!strcmp(m->file[i].name, name)) return m->file[i].hash;
    }
    return NULL;
}

bool pf_manifest_has(const pf_manifest *m, const char *name) {
    return pf_manifest_hash(m, name) != NULL;
}

int pf_manifest_add(pf_manifest *m, const char *name, int64_t size, const char *hash) {
    if (m->n >= PF_MANIFEST_FILES || !good_name(name) || size < 0 || !good_hash(hash) ||
        pf_manifest_has(m, name)) {
        return pf_fail(PF_EFORMAT, "%s: not an entry of a checkpoint's manifest: '%.64s'",
                       PF_MANIFEST_FILE, name ? name : "");
    }
    snprintf(m->file[m->n].name, sizeof m->file->name, "%s", name); /* both fit: checked above */
    snprintf(m->file[m->n].hash, sizeof m->file->hash, "%s", hash);
    m->file[m->n].size = size;
    m->n++;
    return PF_OK;
}

/* All of it, its own checksum last. */
static int print_manifest(pf_text *text, const pf_manifest *m) {
    char hash[PF_HASH_TEXT];
    pf_text_print(text, "{\n  \"format\": %d,\n  \"files\": [", VERSION);
    for (int i = 0; i < m->n; i++) {
        pf_text_print(text, "%s\n    {\"name\": \"%s\", \"size\": %lld, \"xxh3_128\": \"%s\"}",
                      i > 0 ? "," : "", m->file[i].name, (long long)m->file[i].size,
                      m->file[i].hash);
    }
    pf_text_print(text, "\n  ]");
    if (m->run[0]) {
        pf_text_print(text, ",\n  \"run\": \"%s\",\n  \"step\": \"%llu\"", m->run,
                      (unsigned long long)m->step);
    }
    if (text->failed) return pf_fail(PF_ENOMEM, "manifest: out of memory");
    pf_hash_bytes(text->data, text->size, hash);
    pf_text_print(text, "%s%s%s", TAIL_HEAD, hash, TAIL_END);
    return text->failed ? pf_fail(PF_ENOMEM, "manifest: out of memory") : PF_OK;
}

int pf_manifest_write(const pf_manifest *m, pf_engine *engine, const char *folder,
                      const char *shown) {
    pf_text text = {.heap = engine->heap};
    pf_writer w;
    int status = print_manifest(&text, m);
    if (status >= 0) status = pf_writer_open_in(&w, engine, folder, shown, PF_MANIFEST_FILE);
    if (status >= 0) {
        status = pf_writer_put(&w, text.data, text.size);
        if (status >= 0)
            status = pf_writer_commit(&w, NULL);
        else
            pf_writer_abort(&w);
    }
    pf_text_close(&text);
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
static int read_origin(pf_manifest *m, const pf_config *doc, const char *folder) {
    const char *run = pf_config_string(pf_config_get(doc, "run"));
    const char *step = pf_config_string(pf_config_get(doc, "step"));
    if (!run && !step) return PF_OK;
    char *end = NULL;
    errno = 0;
    if (step && *step >= '0' && *step <= '9') m->step = strtoull(step, &end, 10);
    if (!good_hash(run) || !end || *end || errno) return damaged(folder, "no run and step");
    snprintf(m->run, sizeof m->run, "%s", run); /* it fits: checked above */
    return PF_OK;
}

/* A count of bytes, as a number of JSON holds it exactly. */
static int64_t size_of(const pf_config *node) {
    double size = pf_config_kind_of(node) == PF_NUMBER ? pf_config_number(node) : -1;
    return size >= 0 && size <= 0x1p53 && size == floor(size) ? (int64_t)size : -1;
}

static int read_entries(pf_manifest *m, const pf_config *doc, const char *folder) {
    const pf_config *files = pf_config_get(doc, "files");
    double version = pf_config_number(pf_config_get(doc, "format"));
    if (version != VERSION) {
        return pf_fail(PF_EFORMAT, "%s in %s has format %.0f; this version reads format %d",
                       PF_MANIFEST_FILE, folder, version, VERSION);
    }
    if (pf_config_kind_of(files) != PF_LIST) return damaged(folder, "no list of files");
    PF_TRY(read_origin(m, doc, folder));
    for (int i = 0; i < pf_config_size(files); i++) {
        const pf_config *file = pf_config_at(files, i);
        PF_TRY(pf_manifest_add(m, pf_config_string(pf_config_get(file, "name")),
                               size_of(pf_config_get(file, "size")),
                               pf_config_string(pf_config_get(file, "xxh3_128"))));
    }
    return PF_OK;
}

int pf_manifest_read(pf_manifest *m, pf_engine *engine, const char *folder) {
    char *path, *text;
    size_t bytes;
    pf_config *doc = NULL;
    *m = (pf_manifest){0};
    PF_TRY(pf_path(&path, engine, "%s/%s", folder, PF_MANIFEST_FILE));
    int status = pf_file_whole(engine, &text, &bytes, path, MAX_BYTES);
    pf_path_free(path);
    if (status == PF_ENOTFOUND) {
        return pf_fail(status, "%s in %s is missing", PF_MANIFEST_FILE, folder);
    }
    if (status < 0) return status;
    if (!whole(text, bytes)) status = damaged(folder, "checksum differs");
    if (status >= 0) status = pf_json_read(&doc, engine, text, bytes, PF_MANIFEST_FILE);
    if (status >= 0) status = read_entries(m, doc, folder);
    pf_config_free(doc);
    pf_heap_free(engine->heap, text, bytes + 1);
    return status;
}

/* ---- verifying ---------------------------------------------------------------- */

static int hash_file(pf_engine *engine, const pf_reader *r, char text[PF_HASH_TEXT]) {
    pf_hash hash;
    char *buffer = pf_heap_alloc(engine->heap, CHUNK);
    if (!buffer) return PF_ENOMEM;
    int status = pf_hash_begin(&hash, engine->heap);
    for (int64_t at = 0; status >= 0 && at < r->size; at += (int64_t)CHUNK) {
        size_t bytes = (size_t)pf_min(r->size - at, (int64_t)CHUNK);
        status = pf_charge(engine, pf_work_of((double)bytes / 4, 0));
        if (status >= 0) status = pf_progress_at(engine, "verifying", at, r->size);
        if (status >= 0) status = pf_reader_read(r, at, buffer, bytes);
        if (status >= 0) pf_hash_put(&hash, buffer, bytes);
    }
    if (status >= 0) pf_hash_hex(&hash, text);
    pf_hash_end(&hash);
    pf_heap_free(engine->heap, buffer, CHUNK);
    return status;
}

static int verify_open(const pf_manifest *m, int i, pf_engine *engine, const pf_reader *r,
                       const char *folder, bool contents) {
    char hash[PF_HASH_TEXT];
    if (r->size != m->file[i].size) {
        return pf_fail(PF_EFORMAT, "%s in %s is damaged (%lld bytes, %lld expected)",
                       m->file[i].name, folder, (long long)r->size, (long long)m->file[i].size);
    }
    if (!contents) return PF_OK;
    PF_TRY(hash_file(engine, r, hash));
    if (!strcmp(hash, m->file[i].hash)) return PF_OK;
    return pf_fail(PF_EFORMAT, "%s in %s is damaged (checksum differs)", m->file[i].name, folder);
}

/* PF_ENOTFOUND: it is not there. */
static int verify_one(const pf_manifest *m, int i, pf_engine *engine, const char *folder,
                      bool contents) {
    pf_reader r;
    char *path;
    PF_TRY(pf_path(&path, engine, "%s/%s", folder, m->file[i].name));
    int status = pf_reader_open(&r, engine, path);
    if (status >= 0) {
        status = verify_open(m, i, engine, &r, folder, contents);
        pf_reader_close(&r);
    }
    pf_path_free(path);
    return status;
}

/* The name in the list that is the file's. */
static const char *listed(const char *const *names, const char *file) {
    while (*names && strcmp(*names, file) != 0) names++;
    return *names;
}

int pf_manifest_verify(const pf_manifest *m, pf_engine *engine, const char *folder, bool contents,
                       const char *unread, const char *const *spared, const char **missing) {
    *missing = NULL;
    for (int i = 0; i < m->n; i++) {
        const char *name = m->file[i].name, *spare = listed(spared, name);
        bool later = unread && !strcmp(name, unread);
        PF_TRY(pf_check_cancel(engine));
        int status = verify_one(m, i, engine, folder, contents && !later);
        if (status == PF_ENOTFOUND && !spare)
            return pf_fail(PF_EFORMAT, "%s in %s is missing", name, folder);
        if (status == PF_ENOTFOUND && !*missing) *missing = spare;
        if (status < 0 && status != PF_ENOTFOUND) return status;
    }
    return PF_OK;
}
