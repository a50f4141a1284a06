/*
 * file.h - the engine's way to the file system: whole reads with a cap, positioned reads,
 * writes that are complete, synced and renamed into place. Every call is retried on EINTR,
 * finishes what was read or written short, and fails with the path and what the system
 * says. Reading takes regular files only: a pipe or a device could block or never end. Writing goes
 * through links to the file that they name, and takes the place of nothing but a regular file.
 */
#ifndef PF_FILE_H
#define PF_FILE_H

#include <dirent.h>
#include <sys/stat.h>
#include <sys/types.h>

#include "runtime.h"

/* The system calls that io/ makes. Tests put their own table in front of libc's to make
 * any of them fail; the hook counts for the calling thread only. Errors by errno. */
typedef struct pf_file_ops {
    int (*open)(const char *path, int flags, mode_t mode);
    ssize_t (*read_at)(int fd, void *out, size_t bytes, off_t offset);
    ssize_t (*write)(int fd, const void *in, size_t bytes);
    int (*sync)(int fd);
    int (*close)(int fd);
    int (*stat)(int fd, struct stat *info);
    int (*look)(const char *path, struct stat *info); /* lstat */
    ssize_t (*read_link)(const char *path, char *out, size_t bytes);
    int (*set_mode)(int fd, mode_t mode);
    int (*lock)(int fd); /* exclusive, does not wait */
    int (*rename)(const char *from, const char *to);
    int (*exchange)(const char *a, const char *b); /* atomically; ENOSYS where there is none */
    int (*make_dir)(const char *path, mode_t mode);
    int (*unlink)(const char *path);
    int (*remove_dir)(const char *path);
    DIR *(*open_dir)(const char *path);
    struct dirent *(*next)(DIR *dir); /* NULL: the end, or errno */
} pf_file_ops;

extern const pf_file_ops pf_file_libc;
void pf_file_hook(const pf_file_ops *ops); /* NULL: libc's */
const pf_file_ops *pf_file_calls(void);

/* "verb path: what errno says", as PF_ENOTFOUND, PF_ENOMEM or PF_EIO. */
int pf_file_fail(const char *verb, const char *path);

/* printf into a new text (free with free). PF_ENOMEM. */
int pf_path(char **path, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* ---- reading ---- */
typedef struct pf_reader {
    int fd;
    int64_t size;     /* bytes at open */
    const char *path; /* borrowed */
} pf_reader;

int pf_reader_open(pf_reader *r, const char *path);
/* Exactly `bytes` from `offset`; PF_EFORMAT when the file ends before. */
int pf_reader_read(const pf_reader *r, int64_t offset, void *out, size_t bytes);
void pf_reader_close(pf_reader *r);
/* A whole file of at most `cap` bytes, with a 0 behind it: a block of bytes + 1 of the heap. */
int pf_file_read(pf_heap *heap, char **text, size_t *bytes, const char *path, size_t cap);
bool pf_is_folder(const char *path);

/* ---- writing ---- */
#define PF_HASH_TEXT 33 /* XXH3-128 as 32 hex digits and a 0 */

typedef struct pf_writer {
    int fd;
    int64_t size;     /* bytes put so far */
    const char *path; /* borrowed */
    char *target;     /* the file that `path` names behind its links */
    char *temp;       /* what is written to; the target when not atomic */
    bool atomic;
    struct XXH3_state_s *hash; /* of what was put */
} pf_writer;

/* atomic: to a temporary file beside the target, which takes its name and its mode at commit; else
 * the file itself, which must not exist (inside a folder that is still temporary). */
int pf_writer_open(pf_writer *w, const char *path, bool atomic);
int pf_writer_put(pf_writer *w, const void *data, size_t bytes);
/* Syncs, closes, renames, syncs the folder; hash (PF_HASH_TEXT, may be NULL) is that of
 * the content. On failure nothing is left behind. */
int pf_writer_commit(pf_writer *w, char *hash);
void pf_writer_abort(pf_writer *w); /* closes and removes; keeps the message that stands */
int pf_file_write(const char *path, const void *data, size_t bytes); /* atomically */

/* ---- folders ---- */
int pf_dir_make(const char *path); /* with its parents; it may be there already */
int pf_dir_sync(const char *path);
/* Removes a folder and the files in it (no folders in it), of a link the link alone. No message:
 * for clean-up. */
bool pf_dir_remove(const char *path);

/* ---- checksums ---- */
void pf_hash_bytes(const void *data, size_t bytes, char hash[PF_HASH_TEXT]);
/* A checksum as bytes come; pf_hash_hex ends it. */
typedef struct pf_hash {
    pf_heap *heap;
    void *state;
} pf_hash;
int pf_hash_begin(pf_hash *hash, pf_heap *heap);
void pf_hash_put(pf_hash *hash, const void *data, size_t bytes);
void pf_hash_hex(const pf_hash *hash, char text[PF_HASH_TEXT]);
void pf_hash_end(pf_hash *hash);
int pf_hash_file(const pf_engine *engine, const pf_reader *r, char text[PF_HASH_TEXT]);

#endif
