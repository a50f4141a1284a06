/*
 * disk.c - see disk.h. What must hold: nothing here keeps anything of a file but the handle that
 * its access gave, and every handle is closed once.
 */
#include "disk.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>

enum {
    INTERRUPTS = 1000, /* one after the other, and the call counts as failed */
    LINKS = 40         /* followed one after the other, as a system does */
};

/* A call that was interrupted before it did anything is made again. */
#define RETRY(result, call)                                                                        \
    do {                                                                                           \
        int tries_ = 0;                                                                            \
        const uint64_t before_ = pf_failures();                                                    \
        do (result) = (call);                                                                      \
        while ((result) == -EINTR && ++tries_ < INTERRUPTS);                                       \
        (result) = (__typeof__(result))pf_disk_said((result), before_);                            \
    } while (0)

/* ---- which disk ---- */

const pf_file_access *pf_disk_access(pf_engine *engine, const char *path) {
    if (engine->lent) return engine->lent;
    if (pf_path_in_memory(path)) return pf_disk_memory(engine);
    return engine->files.open ? &engine->files : &pf_disk_libc;
}

/* What a closed engine had in memory is gone. */
static int no_disk(const pf_engine *engine) { return engine->closed ? -ENOENT : -ENOMEM; }

const pf_file_access *pf_file_system(void) { return &pf_disk_libc; }

/* ---- open files ---- */

int pf_disk_open_by(pf_file *file, const pf_file_access *io, const char *path, pf_open_how how,
                    unsigned mode) {
    int result;
    *file = (pf_file){0};
    RETRY(result, io->open(io->context, path, how, mode, &file->handle));
    if (result >= 0) file->io = io;
    return result;
}

int pf_disk_open(pf_file *file, pf_engine *engine, const char *path, pf_open_how how,
                 unsigned mode) {
    const pf_file_access *io = pf_disk_access(engine, path);
    *file = (pf_file){0};
    return io ? pf_disk_open_by(file, io, path, how, mode) : no_disk(engine);
}

int pf_disk_about(const pf_file *file, pf_file_info *info) {
    int result;
    *info = (pf_file_info){.size = sizeof *info};
    RETRY(result, file->io->about(file->io->context, file->handle, info));
    if (result < 0 || info->bytes >= 0) return result;
    return (int)pf_disk_lied("in a file", info->bytes);
}

/* A host that says it did more than it was asked to did something else. */
int64_t pf_disk_read(const pf_file *file, int64_t offset, void *out, size_t bytes) {
    int64_t result;
    RETRY(result, file->io->read_at(file->io->context, file->handle, offset, out, bytes));
    return result > (int64_t)bytes ? pf_disk_lied("read, more than it was asked for", result)
                                   : result;
}

int64_t pf_disk_write(const pf_file *file, const void *in, size_t bytes) {
    int64_t result;
    if (!file->io->write) return -EROFS;
    RETRY(result, file->io->write(file->io->context, file->handle, in, bytes));
    /* No progress and no reason: not to be tried for ever. */
    return result == 0 || result > (int64_t)bytes
               ? pf_disk_lied("written, of others that it was asked for", result)
               : result;
}

int pf_disk_sync(const pf_file *file) {
    int result;
    if (!file->io->sync) return PF_OK;
    RETRY(result, file->io->sync(file->io->context, file->handle));
    return result;
}

int pf_disk_lock(const pf_file *file) {
    int result;
    if (!file->io->lock) return -ENOSYS;
    RETRY(result, file->io->lock(file->io->context, file->handle));
    return result;
}

/* Once: it is closed whatever was answered, and asking again could close another's. What was
 * written is synced by then. */
int pf_disk_close(pf_file *file) {
    const pf_file_access *io = file->io;
    if (!io) return PF_OK;
    int result = io->close(io->context, file->handle);
    *file = (pf_file){0};
    if (result < -INT_MAX) return -EIO; /* what was said before this stays */
    return result == -EINTR ? PF_OK : result;
}

/* ---- paths of a disk ---- */

/* An access that can't look opens: what it can't open for reading may be a folder. */
static int look_open(pf_engine *engine, const char *path, pf_file_info *info) {
    pf_file file;
    int result = pf_disk_open(&file, engine, path, PF_OPEN_READ, 0);
    if (result < 0) {
        int folder = pf_disk_open(&file, engine, path, PF_OPEN_FOLDER, 0);
        if (folder < 0) return result;
    }
    result = pf_disk_about(&file, info);
    pf_disk_close(&file);
    return result;
}

int pf_disk_look(pf_engine *engine, const char *path, pf_file_info *info) {
    const pf_file_access *io = pf_disk_access(engine, path);
    int result;
    *info = (pf_file_info){.size = sizeof *info};
    if (!io) return no_disk(engine);
    if (!io->look) return look_open(engine, path, info);
    RETRY(result, io->look(io->context, path, info));
    return result;
}

int pf_disk_look_through(pf_engine *engine, const char *path, pf_file_info *info) {
    int result = pf_disk_look(engine, path, info);
    if (result < 0 || info->kind != PF_ENTRY_LINK) return result;
    char *at = NULL;
    if (pf_path(&at, engine, "%s", path) < 0) return -ENOMEM;
    for (int links = 0; result >= 0 && info->kind == PF_ENTRY_LINK; links++) {
        result = links < LINKS ? pf_path_follow(engine, &at) : -ELOOP;
        if (result >= 0) result = pf_disk_look(engine, at, info);
    }
    pf_path_free(at);
    return result;
}

int64_t pf_disk_read_link(pf_engine *engine, const char *path, char *out, size_t bytes) {
    const pf_file_access *io = pf_disk_access(engine, path);
    int64_t result;
    if (!io || !io->read_link) return -EINVAL;
    RETRY(result, io->read_link(io->context, path, out, bytes));
    return result > (int64_t)bytes ? pf_disk_lied("of a link, more than it has room for", result)
                                   : result;
}

int pf_disk_list(pf_engine *engine, const char *path, pf_entry_fn each, void *to) {
    const pf_file_access *io = pf_disk_access(engine, path);
    if (!io) return no_disk(engine);
    int result;
    if (!io->list) return -ENOSYS;
    const uint64_t before = pf_failures();
    result = io->list(io->context, path, each, to);
    return (int)pf_disk_said(result, before);
}

/* From disk to disk nothing is renamed. */
static const pf_file_access *access_to_both(pf_engine *engine, const char *a, const char *b) {
    const bool together = engine->lent || pf_path_in_memory(a) == pf_path_in_memory(b);
    return together ? pf_disk_access(engine, a) : NULL;
}

int pf_disk_rename(pf_engine *engine, const char *from, const char *to) {
    const pf_file_access *io = access_to_both(engine, from, to);
    int result;
    if (!io) return -EXDEV;
    if (!io->rename) return -EROFS;
    RETRY(result, io->rename(io->context, from, to));
    return result;
}

int pf_disk_exchange(pf_engine *engine, const char *a, const char *b) {
    const pf_file_access *io = access_to_both(engine, a, b);
    int result;
    if (!io || !io->exchange) return -ENOSYS;
    RETRY(result, io->exchange(io->context, a, b));
    return result;
}

int pf_disk_make_dir(pf_engine *engine, const char *path) {
    const pf_file_access *io = pf_disk_access(engine, path);
    int result;
    if (!io) return no_disk(engine);
    if (!io->make_dir) return -EROFS;
    RETRY(result, io->make_dir(io->context, path));
    return result;
}

int pf_disk_remove(pf_engine *engine, const char *path) {
    const pf_file_access *io = pf_disk_access(engine, path);
    int result;
    if (!io) return no_disk(engine);
    if (!io->remove) return -EROFS;
    RETRY(result, io->remove(io->context, path));
    return result;
}

/* ---- links ---- */

int pf_path_follow(pf_engine *engine, char **path) {
    char to[4096], *parent, *next = NULL;
    int64_t n = pf_disk_read_link(engine, *path, to, sizeof to - 1);
    if (n < 0) return (int)n;
    if (n == (int64_t)sizeof to - 1) return -ENAMETOOLONG;
    to[n] = '\0';
    if (pf_path_parent(&parent, engine, *path) < 0) return -ENOMEM;
    int status = to[0] == '/' ? pf_path(&next, engine, "%s", to)
                              : pf_path(&next, engine, "%s/%s", parent, to);
    pf_path_free(parent);
    if (status < 0) return -ENOMEM;
    pf_path_free(*path);
    *path = next;
    return PF_OK;
}
