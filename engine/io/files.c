/*
 * files.c - single files, as performer_files.h has them for hosts and scripts: through the same
 * door as all that the engine reads and writes.
 */
#include <errno.h>
#include <stdlib.h>

#include "file.h"

int pf_file_size(pf_engine *engine, const char *path, int64_t *bytes) {
    PF_OPEN(engine);
    PF_NEED(path, bytes);
    pf_reader r;
    *bytes = 0;
    PF_TRY(pf_reader_open(&r, engine, path));
    *bytes = r.size;
    pf_reader_close(&r);
    return PF_OK;
}

int pf_file_read(pf_engine *engine, const char *path, int64_t offset, void *out, size_t bytes) {
    PF_OPEN(engine);
    PF_NEED(path, out);
    pf_reader r;
    if (offset < 0) return pf_fail(PF_EINVAL, "read %s: from byte %lld", path, (long long)offset);
    PF_TRY(pf_reader_open(&r, engine, path));
    const bool beyond = offset > r.size || bytes > (uint64_t)(r.size - offset);
    int status = beyond
                     ? pf_fail(PF_EFORMAT,
                               "read %s: %zu bytes from byte %lld are asked for, and the file has "
                               "%lld in all",
                               path, bytes, (long long)offset, (long long)r.size)
                     : pf_reader_read(&r, offset, out, bytes);
    pf_reader_close(&r);
    return status;
}

int pf_file_write(pf_engine *engine, const char *path, const void *data, size_t bytes) {
    PF_OPEN(engine);
    PF_NEED(path);
    if (bytes > 0) PF_NEED(data);
    pf_writer w;
    PF_TRY(pf_writer_open(&w, engine, path));
    int status = pf_writer_put(&w, data, bytes);
    if (status >= 0) return pf_writer_commit(&w, NULL);
    pf_writer_abort(&w);
    return status;
}

int pf_file_make_folder(pf_engine *engine, const char *path) {
    PF_OPEN(engine);
    PF_NEED(path);
    if (!*path) return pf_fail(PF_EINVAL, "make folder: the path is empty");
    return pf_dir_make(engine, path);
}

/* ---- lists ---- */

/* A callback's answer is a status, or a number of the host's own: it goes past the disk's. */
typedef struct {
    pf_entry_fn each;
    void *to;
    int status;
} listing;

static int hand_on(void *to, const char *name) {
    listing *l = to;
    l->status = l->each(l->to, name);
    return l->status < 0 ? -ECANCELED : 0;
}

int pf_file_list(pf_engine *engine, const char *path, pf_entry_fn each, void *to) {
    PF_OPEN(engine);
    PF_NEED(path);
    if (!each) return pf_fail(PF_EINVAL, "%s: each is NULL", __func__);
    listing l = {.each = each, .to = to};
    uint64_t before = pf_failures();
    int result = pf_disk_list(engine, path, hand_on, &l);
    if (l.status < 0) return pf_callback_failed(l.status, before, "list %s: the callback", path);
    return result < 0 ? pf_file_fail(result, "list", path) : PF_OK;
}

/* ---- taking away ---- */

enum { DEEPEST = 64 }; /* folders in folders that are emptied */

static int remove_deep(pf_engine *engine, const char *path, int depth);

static int empty(pf_engine *engine, const char *path, int depth) {
    pf_names names;
    int result = pf_names_read(&names, engine, path), status = PF_OK;
    if (result < 0) return pf_file_fail(result, "list", path);
    for (const char *name = NULL; status >= 0 && (name = pf_names_next(&names, name));) {
        char *inner;
        status = pf_path(&inner, engine, "%s/%s", path, name);
        if (status >= 0) status = remove_deep(engine, inner, depth + 1);
        pf_path_free(inner);
    }
    pf_names_free(&names);
    return status;
}

static int remove_deep(pf_engine *engine, const char *path, int depth) {
    pf_file_info info;
    int result = pf_disk_look(engine, path, &info);
    if (result < 0) return pf_file_fail(result, "remove", path);
    if (depth > DEEPEST) return pf_fail(PF_EIO, "remove %s: it lies too deep", path);
    if (info.kind == PF_ENTRY_FOLDER) PF_TRY(empty(engine, path, depth));
    result = pf_disk_remove(engine, path);
    return result < 0 ? pf_file_fail(result, "remove", path) : PF_OK;
}

int pf_file_remove(pf_engine *engine, const char *path) {
    PF_OPEN(engine);
    PF_NEED(path);
    return remove_deep(engine, path, 0);
}
