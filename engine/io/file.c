/*
 * file.c - files: see file.h. What must hold: after pf_writer_commit returned 0 the content
 * is on the disk under its name; after anything failed, no temporary file is left and what
 * had the name before has it still.
 */
#include "file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>
#define XXH_STATIC_LINKING_ONLY /* the size of a state */
#include <xxhash.h>

#define CHUNK ((size_t)1 << 18) /* bytes hashed at a time */

/* ---- the system's calls ------------------------------------------------------- */

static int libc_open(const char *path, int flags, mode_t mode) { return open(path, flags, mode); }

static int libc_lock(int fd) { return flock(fd, LOCK_EX | LOCK_NB); }

static int libc_exchange(const char *a, const char *b) {
#ifdef RENAME_EXCHANGE
    return renameat2(AT_FDCWD, a, AT_FDCWD, b, RENAME_EXCHANGE);
#else
    (void)a, (void)b;
    errno = ENOSYS;
    return -1;
#endif
}

const pf_file_ops pf_file_libc = {
    .open = libc_open,
    .read_at = pread,
    .write = write,
    .sync = fsync,
    .close = close,
    .stat = fstat,
    .look = lstat,
    .read_link = readlink,
    .set_mode = fchmod,
    .lock = libc_lock,
    .rename = rename,
    .exchange = libc_exchange,
    .make_dir = mkdir,
    .unlink = unlink,
    .remove_dir = rmdir,
    .open_dir = opendir,
    .next = readdir,
};

static _Thread_local const pf_file_ops *calls = &pf_file_libc;

void pf_file_hook(const pf_file_ops *ops) { calls = ops ? ops : &pf_file_libc; }

const pf_file_ops *pf_file_calls(void) { return calls; }

/* ---- helpers ------------------------------------------------------------------ */

int pf_file_fail(const char *verb, const char *path) {
    int error = errno;
    char buffer[128];
    int status = error == ENOENT || error == ENOTDIR ? PF_ENOTFOUND
                 : error == ENOMEM                   ? PF_ENOMEM
                                                     : PF_EIO;
    return pf_fail(status, "%s %s: %s", verb, path, strerror_r(error, buffer, sizeof buffer));
}

int pf_path(char **path, const char *format, ...) {
    va_list args;
    va_start(args, format);
    int length = vasprintf(path, format, args);
    va_end(args);
    if (length >= 0) return PF_OK;
    *path = NULL;
    return pf_fail(PF_ENOMEM, "path: out of memory");
}

static int open_retry(const char *path, int flags) {
    int fd;
    do fd = calls->open(path, flags | O_CLOEXEC | O_NOCTTY, 0666);
    while (fd < 0 && errno == EINTR);
    return fd;
}

/* Linux closes the descriptor even when close says EINTR: trying again could close
 * another's. What was written is synced by then. */
static int close_once(int fd) { return calls->close(fd) < 0 && errno != EINTR ? -1 : 0; }

static int sync_retry(int fd) {
    int result;
    do result = calls->sync(fd);
    while (result < 0 && errno == EINTR);
    return result;
}

static const char *kind_name(mode_t mode) {
    return S_ISDIR(mode) ? "a folder" : S_ISLNK(mode) ? "a link" : "a pipe or device";
}

bool pf_is_folder(const char *path) {
    struct stat info;
    return stat(path, &info) == 0 && S_ISDIR(info.st_mode);
}

/* The folder part of a path: "." without one. */
static int parent_of(char **parent, const char *path) {
    const char *slash = strrchr(path, '/');
    if (!slash) return pf_path(parent, ".");
    if (slash == path) return pf_path(parent, "/");
    return pf_path(parent, "%.*s", (int)(slash - path), path);
}

/* ---- reading ------------------------------------------------------------------ */

int pf_reader_open(pf_reader *r, const char *path) {
    *r = (pf_reader){.fd = -1, .path = path};
    /* Not blocking: opening a pipe must not hang before we see that it is none of ours. */
    int fd = open_retry(path, O_RDONLY | O_NONBLOCK);
    if (fd < 0) return pf_file_fail("open", path);
    struct stat info;
    int status = PF_OK;
    if (calls->stat(fd, &info) < 0) {
        status = pf_file_fail("look at", path);
    } else if (!S_ISREG(info.st_mode)) {
        status =
            pf_fail(PF_EIO, "open %s: it is %s, not a regular file", path, kind_name(info.st_mode));
    }
    if (status < 0) {
        close_once(fd);
        return status;
    }
    r->fd = fd;
    r->size = info.st_size;
    return PF_OK;
}

int pf_reader_read(const pf_reader *r, int64_t offset, void *out, size_t bytes) {
    char *to = out;
    while (bytes > 0) {
        ssize_t got = calls->read_at(r->fd, to, bytes, offset);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return pf_file_fail("read", r->path);
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

void pf_reader_close(pf_reader *r) {
    if (r->fd >= 0) close_once(r->fd);
    r->fd = -1;
}

int pf_file_read(pf_heap *heap, char **text, size_t *bytes, const char *path, size_t cap) {
    pf_reader r;
    *text = NULL;
    *bytes = 0;
    PF_TRY(pf_reader_open(&r, path));
    int status = PF_OK;
    char *data = NULL;
    size_t size = (size_t)r.size;
    if (size > cap || size == SIZE_MAX) {
        status = pf_fail(PF_EFORMAT, "read %s: %zu bytes, at most %zu are read", path, size, cap);
    } else if (!(data = pf_heap_alloc(heap, size + 1))) {
        status = pf_fail_in(PF_ENOMEM, "read %s", path);
    } else {
        status = pf_reader_read(&r, 0, data, size);
    }
    pf_reader_close(&r);
    if (status < 0) {
        pf_heap_free(heap, data, size + 1);
        return status;
    }
    data[size] = 0;
    *text = data;
    *bytes = size;
    return PF_OK;
}

/* ---- writing ------------------------------------------------------------------ */

enum { LINKS = 40 }; /* followed one after the other, as the system does */

/* *path, the place of a link, becomes the place that it names. */
static int follow(char **path) {
    char to[4096], *parent, *next = NULL;
    ssize_t n = calls->read_link(*path, to, sizeof to - 1);
    if (n < 0 || n == (ssize_t)sizeof to - 1) {
        if (n >= 0) errno = ENAMETOOLONG;
        return pf_file_fail("follow link", *path);
    }
    to[n] = '\0';
    PF_TRY(parent_of(&parent, *path));
    int status = to[0] == '/' ? pf_path(&next, "%s", to) : pf_path(&next, "%s/%s", parent, to);
    free(parent);
    if (status < 0) return status;
    free(*path);
    *path = next;
    return PF_OK;
}

/* The file behind all links of w->path, which may not be there yet; *mode: what it has, or 0. */
static int find_target(pf_writer *w, mode_t *mode) {
    struct stat info;
    *mode = 0;
    PF_TRY(pf_path(&w->target, "%s", w->path));
    for (int links = 0; links <= LINKS; links++) {
        if (calls->look(w->target, &info) < 0)
            return errno == ENOENT ? PF_OK : pf_file_fail("look at", w->target);
        *mode = info.st_mode;
        if (S_ISREG(info.st_mode)) return PF_OK;
        if (!S_ISLNK(info.st_mode)) {
            return pf_fail(PF_EIO, "write %s: it is %s, which no file takes the place of", w->path,
                           kind_name(info.st_mode));
        }
        PF_TRY(follow(&w->target));
    }
    errno = ELOOP;
    return pf_file_fail("write", w->path);
}

/* ".NAME.tmp-PID-COUNT" beside path; the counter keeps threads of one process apart. */
static int temp_name(char **temp, const char *path) {
    static atomic_uint count;
    const char *slash = strrchr(path, '/');
    int folder = slash ? (int)(slash - path) + 1 : 0;
    return pf_path(temp, "%.*s.%s.tmp-%ld-%u", folder, path, path + folder, (long)getpid(),
                   atomic_fetch_add(&count, 1u));
}

static void writer_free(pf_writer *w) {
    free(w->temp);
    free(w->target);
    XXH3_freeState(w->hash);
    *w = (pf_writer){.fd = -1};
}

static int make_hash(pf_writer *w) {
    w->hash = XXH3_createState();
    if (w->hash && XXH3_128bits_reset(w->hash) != XXH_ERROR) return PF_OK;
    return pf_fail(PF_ENOMEM, "write %s: out of memory", w->path);
}

static int create(pf_writer *w, mode_t mode) {
    int flags = O_WRONLY | O_CREAT | O_EXCL;
    w->fd = open_retry(w->temp, flags);
    if (w->fd < 0 && errno == EEXIST && w->atomic) { /* of a dead process with our number */
        calls->unlink(w->temp);
        w->fd = open_retry(w->temp, flags);
    }
    if (w->fd < 0) return pf_file_fail("create", w->temp);
    /* Not every file system keeps a mode; and without it the file is as good. */
    if (mode) calls->set_mode(w->fd, mode & 0777);
    return PF_OK;
}

int pf_writer_open(pf_writer *w, const char *path, bool atomic) {
    mode_t mode = 0;
    *w = (pf_writer){.fd = -1, .path = path, .atomic = atomic};
    if (!*path) return pf_fail(PF_EINVAL, "write: the path is empty");
    int status = atomic ? find_target(w, &mode) : pf_path(&w->target, "%s", path);
    if (status >= 0)
        status = atomic ? temp_name(&w->temp, w->target) : pf_path(&w->temp, "%s", path);
    if (status >= 0) status = make_hash(w);
    if (status >= 0) status = create(w, mode);
    if (status < 0) writer_free(w);
    return status;
}

int pf_writer_put(pf_writer *w, const void *data, size_t bytes) {
    const char *from = data;
    if (bytes == 0) return PF_OK;
    XXH3_128bits_update(w->hash, data, bytes);
    while (bytes > 0) {
        ssize_t put = calls->write(w->fd, from, bytes);
        if (put < 0 && errno == EINTR) continue;
        if (put == 0) errno = EIO; /* no progress and no reason: don't spin */
        if (put <= 0) return pf_file_fail("write", w->path);
        from += put;
        w->size += put;
        bytes -= (size_t)put;
    }
    return PF_OK;
}

static void put_hex(XXH128_hash_t value, char hash[PF_HASH_TEXT]) {
    snprintf(hash, PF_HASH_TEXT, "%016llx%016llx", (unsigned long long)value.high64,
             (unsigned long long)value.low64);
}

/* Everything but the last sync: a file that carries the name is complete on the disk. */
static int writer_finish(pf_writer *w) {
    if (sync_retry(w->fd) < 0) return pf_file_fail("sync", w->path);
    int fd = w->fd;
    w->fd = -1;
    if (close_once(fd) < 0) return pf_file_fail("close", w->path);
    if (w->atomic && calls->rename(w->temp, w->target) < 0)
        return pf_file_fail("rename to", w->path);
    return PF_OK;
}

int pf_writer_commit(pf_writer *w, char *hash) {
    int status = writer_finish(w);
    if (status < 0) {
        pf_writer_abort(w);
        return status;
    }
    if (hash) put_hex(XXH3_128bits_digest(w->hash), hash);
    if (w->atomic) {
        char *parent;
        status = parent_of(&parent, w->target);
        if (status >= 0) status = pf_dir_sync(parent);
        free(parent);
    }
    writer_free(w);
    return status;
}

void pf_writer_abort(pf_writer *w) {
    if (w->fd >= 0) close_once(w->fd);
    if (w->temp) calls->unlink(w->temp);
    writer_free(w);
}

int pf_file_write(const char *path, const void *data, size_t bytes) {
    pf_writer w;
    PF_TRY(pf_writer_open(&w, path, true));
    int status = pf_writer_put(&w, data, bytes);
    if (status >= 0) return pf_writer_commit(&w, NULL);
    pf_writer_abort(&w);
    return status;
}

/* ---- folders ------------------------------------------------------------------ */

int pf_dir_sync(const char *path) {
    int fd = open_retry(path, O_RDONLY | O_DIRECTORY);
    if (fd < 0) return pf_file_fail("open", path);
    int status = PF_OK;
    /* Some file systems (network, FUSE) can't sync a folder and say so with EINVAL. */
    if (sync_retry(fd) < 0 && errno != EINVAL) status = pf_file_fail("sync", path);
    if (close_once(fd) < 0 && status >= 0) status = pf_file_fail("close", path);
    return status;
}

/* One level; *made says whether it is new. */
static int make_level(const char *path, bool *made) {
    *made = calls->make_dir(path, 0777) == 0;
    if (*made) return PF_OK;
    if (errno != EEXIST) return pf_file_fail("make folder", path);
    int fd = open_retry(path, O_RDONLY | O_DIRECTORY); /* a file in its place is an error */
    if (fd < 0) return pf_file_fail("make folder", path);
    close_once(fd);
    return PF_OK;
}

int pf_dir_make(const char *path) {
    char *copy, *parent;
    bool made = false;
    PF_TRY(pf_path(&copy, "%s", path));
    int status = PF_OK;
    for (char *c = copy; status >= 0 && *c; c++) {
        if (c == copy || *c != '/' || c[-1] == '/') continue;
        *c = 0;
        /* A level above may be readable by nobody, or be there: only the last one counts. */
        if (calls->make_dir(copy, 0777) < 0 && errno == ENOSPC) {
            status = pf_file_fail("make folder", copy);
        }
        *c = '/';
    }
    free(copy);
    if (status >= 0) status = make_level(path, &made);
    if (status < 0 || !made) return status;
    PF_TRY(parent_of(&parent, path));
    status = pf_dir_sync(parent);
    free(parent);
    return status;
}

bool pf_dir_remove(const char *path) {
    struct stat info;
    if (calls->look(path, &info) == 0 && S_ISLNK(info.st_mode)) return calls->unlink(path) == 0;
    DIR *dir = calls->open_dir(path);
    bool good = dir != NULL;
    struct dirent *entry;
    while (dir && (entry = calls->next(dir))) {
        char *file;
        if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, "..")) continue;
        if (asprintf(&file, "%s/%s", path, entry->d_name) < 0) {
            good = false;
            continue;
        }
        good = calls->unlink(file) == 0 && good;
        free(file);
    }
    if (dir) closedir(dir);
    return calls->remove_dir(path) == 0 && good;
}

/* ---- checksums ---------------------------------------------------------------- */

void pf_hash_bytes(const void *data, size_t bytes, char hash[PF_HASH_TEXT]) {
    put_hex(XXH3_128bits(data, bytes), hash);
}

int pf_hash_begin(pf_hash *hash, pf_heap *heap) {
    *hash = (pf_hash){heap, pf_heap_alloc(heap, sizeof(XXH3_state_t))};
    if (!hash->state) return PF_ENOMEM;
    XXH3_INITSTATE((XXH3_state_t *)hash->state);
    XXH3_128bits_reset(hash->state);
    return PF_OK;
}

void pf_hash_put(pf_hash *hash, const void *data, size_t bytes) {
    XXH3_128bits_update(hash->state, data, bytes);
}

void pf_hash_hex(const pf_hash *hash, char text[PF_HASH_TEXT]) {
    put_hex(XXH3_128bits_digest(hash->state), text);
}

void pf_hash_end(pf_hash *hash) {
    pf_heap_free(hash->heap, hash->state, sizeof(XXH3_state_t));
    hash->state = NULL;
}

int pf_hash_file(const pf_engine *engine, const pf_reader *r, char text[PF_HASH_TEXT]) {
    pf_hash hash;
    char *buffer = pf_heap_alloc(engine->heap, CHUNK);
    if (!buffer) return PF_ENOMEM;
    int status = pf_hash_begin(&hash, engine->heap);
    for (int64_t at = 0; status >= 0 && at < r->size; at += (int64_t)CHUNK) {
        size_t bytes = (size_t)pf_min(r->size - at, (int64_t)CHUNK);
        status = pf_progress_at(engine, "verifying", at, r->size);
        if (status >= 0) status = pf_reader_read(r, at, buffer, bytes);
        if (status >= 0) pf_hash_put(&hash, buffer, bytes);
    }
    if (status >= 0) pf_hash_hex(&hash, text);
    pf_hash_end(&hash);
    pf_heap_free(engine->heap, buffer, CHUNK);
    return status;
}
