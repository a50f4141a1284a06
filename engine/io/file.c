/*
 * file.c - files: see file.h. What must hold: after pf_writer_commit returned 0 the content
 * is on the disk under its name; after anything failed, no temporary file is left and what
 * had the name before has it still.
 */
#include "file.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- what is there ---- */

static const char *kind_name(pf_entry_kind kind) {
    return kind == PF_ENTRY_FOLDER ? "a folder"
           : kind == PF_ENTRY_LINK ? "a link"
                                   : "a pipe or device";
}

bool pf_is_there(pf_engine *engine, const char *path) {
    pf_file_info info;
    return pf_disk_look_through(engine, path, &info) >= 0;
}

bool pf_is_folder(pf_engine *engine, const char *path) {
    pf_file_info info;
    return pf_disk_look_through(engine, path, &info) >= 0 && info.kind == PF_ENTRY_FOLDER;
}

int pf_look_for(pf_engine *engine, const char *path, bool *there, bool *folder) {
    pf_file_info info;
    int result = pf_disk_look_through(engine, path, &info);
    *there = result >= 0;
    if (folder) *folder = *there && info.kind == PF_ENTRY_FOLDER;
    bool absent = result == -ENOENT || result == -ENOTDIR;
    return *there || absent ? PF_OK : pf_file_fail(result, "look at", path);
}

/* ---- reading ------------------------------------------------------------------ */

/* What was opened, or what opening it answered. */
static int begin_reading(pf_reader *r, int opened) {
    const char *path = r->path;
    pf_file_info info;
    if (opened < 0) return pf_file_fail(opened, "open", path);
    int status = PF_OK, result = pf_disk_about(&r->file, &info);
    if (result < 0) {
        status = pf_file_fail(result, "look at", path);
    } else if (info.kind != PF_ENTRY_FILE) {
        status =
            pf_fail(PF_EIO, "open %s: it is %s, not a regular file", path, kind_name(info.kind));
    }
    if (status < 0) pf_reader_close(r);
    r->size = info.bytes;
    return status;
}

int pf_reader_open(pf_reader *r, pf_engine *engine, const char *path) {
    *r = (pf_reader){.path = path};
    return begin_reading(r, pf_disk_open(&r->file, engine, path, PF_OPEN_READ, 0));
}

int pf_reader_open_by(pf_reader *r, const pf_file_access *io, const char *path) {
    *r = (pf_reader){.path = path};
    return begin_reading(r, pf_disk_open_by(&r->file, io, path, PF_OPEN_READ, 0));
}

int pf_reader_read(const pf_reader *r, int64_t offset, void *out, size_t bytes) {
    char *to = out;
    while (bytes > 0) {
        int64_t got = pf_disk_read(&r->file, offset, to, bytes);
        if (got < 0) return pf_file_fail((int)got, "read", r->path);
        if (got == 0) {
            return pf_fail(PF_EFORMAT, "read %s: the file ends at byte %lld, %zu bytes early",
                           r->path, (long long)offset, bytes);
        }
        to += got;
        offset += got;
        bytes -= (size_t)got;
    }
    return PF_OK;
}

void pf_reader_close(pf_reader *r) { pf_disk_close(&r->file); }

/* More than the heap could ever give is told as too much, before it is asked for. */
int pf_file_whole(pf_engine *engine, char **text, size_t *bytes, const char *path, size_t cap) {
    pf_reader r;
    *text = NULL;
    *bytes = 0;
    PF_TRY(pf_reader_open(&r, engine, path));
    int status = PF_OK;
    char *data = NULL;
    size_t size = (size_t)r.size;
    if (size > cap || size == SIZE_MAX) {
        status = pf_fail(PF_EFORMAT, "read %s: %zu bytes, at most %zu are read", path, size, cap);
    } else if (!(data = pf_heap_alloc(engine->heap, size + 1))) {
        status = pf_fail_in(PF_ENOMEM, "read %s", path);
    } else {
        status = pf_reader_read(&r, 0, data, size);
    }
    pf_reader_close(&r);
    if (status < 0) {
        pf_heap_free(engine->heap, data, size + 1);
        return status;
    }
    data[size] = 0;
    *text = data;
    *bytes = size;
    return PF_OK;
}

/* ---- writing ------------------------------------------------------------------ */

enum { LINKS = 40 }; /* followed one after the other, as the system does */

/* The file behind all links of w->path, which may not be there yet; *mode: what it has, or 0. */
static int find_target(pf_writer *w, unsigned *mode) {
    pf_file_info info;
    *mode = 0;
    PF_TRY(pf_path(&w->target, w->engine, "%s", w->path));
    for (int links = 0; links <= LINKS; links++) {
        int result = pf_disk_look(w->engine, w->target, &info);
        if (result < 0)
            return result == -ENOENT ? PF_OK : pf_file_fail(result, "look at", w->target);
        *mode = info.mode;
        if (info.kind == PF_ENTRY_FILE) return PF_OK;
        if (info.kind != PF_ENTRY_LINK) {
            return pf_fail(PF_EIO, "write %s: it is %s, which no file takes the place of", w->path,
                           kind_name(info.kind));
        }
        result = pf_path_follow(w->engine, &w->target);
        if (result < 0) return pf_file_fail(result, "follow link", w->target);
    }
    return pf_file_fail(-ELOOP, "write", w->path);
}

/* ".NAME.tmp-PID-COUNT" beside path; the counter keeps threads of one process apart. */
static int temp_name(char **temp, const pf_engine *engine, const char *path) {
    static atomic_uint count;
    const char *name = pf_path_name(path);
    return pf_path(temp, engine, "%.*s.%s.tmp-%ld-%u", (int)(name - path), path, name,
                   (long)getpid(), atomic_fetch_add(&count, 1u));
}

static void writer_free(pf_writer *w) {
    pf_path_free(w->temp);
    pf_path_free(w->target);
    pf_path_free(w->parent);
    pf_path_free(w->shown);
    if (w->hash.state) pf_hash_end(&w->hash);
    *w = (pf_writer){0};
}

static int create(pf_writer *w, unsigned mode) {
    int result = pf_disk_open(&w->file, w->engine, w->temp, PF_OPEN_NEW, mode);
    if (result == -EEXIST && w->target) { /* of a dead process with our number */
        pf_disk_remove(w->engine, w->temp);
        result = pf_disk_open(&w->file, w->engine, w->temp, PF_OPEN_NEW, mode);
    }
    return result < 0 ? pf_file_fail(result, "create", w->path) : PF_OK;
}

/* Paths of what is written beside its target, and renamed. */
static int name_paths(pf_writer *w, unsigned *mode) {
    PF_TRY(find_target(w, mode));
    PF_TRY(temp_name(&w->temp, w->engine, w->target));
    return pf_path_parent(&w->parent, w->engine, w->target);
}

static int begin_writing(pf_writer *w, int named, unsigned mode) {
    int status = named;
    if (status >= 0) status = pf_hash_begin(&w->hash, w->engine->heap);
    if (status >= 0) status = create(w, mode);
    if (status < 0) writer_free(w);
    return status;
}

int pf_writer_open(pf_writer *w, pf_engine *engine, const char *path) {
    unsigned mode = 0;
    *w = (pf_writer){.engine = engine, .path = path};
    if (!*path) return pf_fail(PF_EINVAL, "write: the path is empty");
    int status = name_paths(w, &mode);
    return begin_writing(w, status, mode);
}

int pf_writer_open_in(pf_writer *w, pf_engine *engine, const char *temp, const char *folder,
                      const char *name) {
    *w = (pf_writer){.engine = engine};
    int status = pf_path(&w->temp, engine, "%s/%s", temp, name);
    if (status >= 0) status = pf_path(&w->shown, engine, "%s/%s", folder, name);
    w->path = w->shown;
    return begin_writing(w, status, 0);
}

int pf_writer_put(pf_writer *w, const void *data, size_t bytes) {
    const char *from = data;
    if (bytes == 0) return PF_OK;
    if (w->hash.state) pf_hash_put(&w->hash, data, bytes);
    while (bytes > 0) {
        int64_t put = pf_disk_write(&w->file, from, bytes);
        if (put < 0) return pf_file_fail((int)put, "write", w->path);
        from += put;
        w->size += put;
        bytes -= (size_t)put;
    }
    return PF_OK;
}

/* Everything but the last sync: a file that carries the name is complete on the disk. */
static int writer_finish(pf_writer *w) {
    int result = pf_disk_sync(&w->file);
    if (result < 0) return pf_file_fail(result, "sync", w->path);
    result = pf_disk_close(&w->file);
    if (result < 0) return pf_file_fail(result, "close", w->path);
    if (w->target) result = pf_disk_rename(w->engine, w->temp, w->target);
    return result < 0 ? pf_file_fail(result, "rename to", w->path) : PF_OK;
}

int pf_writer_commit(pf_writer *w, char *hash) {
    int status = writer_finish(w);
    if (status < 0) {
        pf_writer_abort(w);
        return status;
    }
    if (hash) pf_hash_hex(&w->hash, hash);
    if (w->target) status = pf_dir_sync(w->engine, w->parent);
    writer_free(w);
    return status;
}

int pf_writer_end(pf_writer *w) {
    int result = pf_disk_close(&w->file);
    int status = result < 0 ? pf_file_fail(result, "close", w->path) : PF_OK;
    writer_free(w);
    return status;
}

void pf_writer_abort(pf_writer *w) {
    pf_disk_close(&w->file);
    if (w->temp) pf_disk_remove(w->engine, w->temp);
    writer_free(w);
}

/* ---- folders ------------------------------------------------------------------ */

int pf_dir_sync(pf_engine *engine, const char *path) {
    pf_file file;
    int result = pf_disk_open(&file, engine, path, PF_OPEN_FOLDER, 0);
    if (result < 0) return pf_file_fail(result, "open", path);
    result = pf_disk_sync(&file);
    int closed = pf_disk_close(&file);
    if (result < 0) return pf_file_fail(result, "sync", path);
    return closed < 0 ? pf_file_fail(closed, "close", path) : PF_OK;
}

/* What is new in the folder that it stands in stays there. */
static int sync_parent(pf_engine *engine, const char *path) {
    char *parent;
    PF_TRY(pf_path_parent(&parent, engine, path));
    int status = pf_dir_sync(engine, parent);
    pf_path_free(parent);
    return status;
}

/* The last level: a file in its place is an error. */
static int make_level(pf_engine *engine, const char *path) {
    int result = pf_disk_make_dir(engine, path);
    if (result >= 0) return sync_parent(engine, path);
    if (result == -EEXIST && pf_is_folder(engine, path)) return PF_OK;
    return pf_file_fail(result == -EEXIST ? -ENOTDIR : result, "make folder", path);
}

/* A level above may be readable by nobody, or be there: only the last one counts, but where no
 * level below can be made any more. */
static int make_above(pf_engine *engine, const char *path) {
    PF_TRY(pf_check_cancel(engine));
    int result = pf_disk_make_dir(engine, path);
    if (result >= 0) return sync_parent(engine, path);
    const bool ends = result == -ENOSPC || result == -ENAMETOOLONG;
    return ends ? pf_file_fail(result, "make folder", path) : PF_OK;
}

int pf_dir_make(pf_engine *engine, const char *path) {
    char *copy;
    PF_TRY(pf_path(&copy, engine, "%s", path));
    int status = PF_OK;
    for (char *c = copy; status >= 0 && *c; c++) {
        if (c == copy || *c != '/' || c[-1] == '/') continue;
        *c = 0;
        status = make_above(engine, copy);
        *c = '/';
    }
    pf_path_free(copy);
    return status < 0 ? status : make_level(engine, path);
}

static int add_name(void *to, const char *name) {
    pf_names *names = to;
    int64_t bytes = (int64_t)strlen(name) + 1;
    if (pf_heap_grow(names->heap, (void **)&names->text, &names->capacity, names->n + bytes, 1) < 0)
        return -ENOMEM;
    memcpy(names->text + names->n, name, (size_t)bytes);
    names->n += bytes;
    return 0;
}

int pf_names_read(pf_names *names, pf_engine *engine, const char *path) {
    *names = (pf_names){.heap = engine->heap};
    int result = pf_disk_list(engine, path, add_name, names);
    if (result < 0) pf_names_free(names);
    return result;
}

const char *pf_names_next(const pf_names *names, const char *before) {
    const char *next = before ? before + strlen(before) + 1 : names->text;
    return next && next < names->text + names->n ? next : NULL;
}

void pf_names_free(pf_names *names) {
    if (names->text) pf_heap_free(names->heap, names->text, (size_t)names->capacity);
    *names = (pf_names){0};
}

/* Clean-up is for when memory has run out, too: it asks for none, and takes some names at once. */
enum { FEW_BYTES = 4096 };
typedef struct {
    char text[FEW_BYTES]; /* each with a 0 behind it */
    size_t n;
    bool more; /* there are others */
} few_names;

static int add_few(void *to, const char *name) {
    few_names *names = to;
    size_t bytes = strlen(name) + 1;
    names->more = bytes > sizeof names->text - names->n;
    if (names->more) return -ENOBUFS;
    memcpy(names->text + names->n, name, bytes);
    names->n += bytes;
    return 0;
}

static bool remove_few(pf_engine *engine, const char *path, const few_names *names) {
    bool good = true;
    for (size_t at = 0; at < names->n; at += strlen(names->text + at) + 1) {
        char file[FEW_BYTES];
        int length = pf_print(file, sizeof file, "%s/%s", path, names->text + at);
        good = length < FEW_BYTES && pf_disk_remove(engine, file) >= 0 && good;
    }
    return good;
}

bool pf_dir_remove(pf_engine *engine, const char *path) {
    pf_file_info info;
    few_names names;
    bool good = true;
    if (pf_disk_look(engine, path, &info) >= 0 && info.kind == PF_ENTRY_LINK)
        return pf_disk_remove(engine, path) >= 0;
    do {
        names.n = 0, names.more = false;
        good = pf_disk_list(engine, path, add_few, &names) >= 0 || names.n > 0;
        good = remove_few(engine, path, &names) && good;
    } while (good && names.more);
    return pf_disk_remove(engine, path) >= 0 && good;
}
