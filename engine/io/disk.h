/*
 * disk.h - where files lie: the engine's pf_file_access (the host's, or the C library's), and
 * behind paths that begin with "memory:" the engine's own memory. Every touch of a file goes
 * through these calls. Each answers 0 or more, or a negative errno, which pf_file_fail puts into
 * words; what was interrupted is asked again, and no answer of a host's is trusted that can't be.
 */
#ifndef PF_DISK_H
#define PF_DISK_H

#include "runtime.h"

#define PF_MEMORY_PATH "memory:"

/* An open file, with the access that opened it. */
typedef struct pf_file {
    const pf_file_access *io; /* NULL: not open */
    void *handle;
} pf_file;

int pf_disk_open(pf_file *file, pf_engine *engine, const char *path, pf_open_how how,
                 unsigned mode);
/* By this access, which must last as long as the file is open. */
int pf_disk_open_by(pf_file *file, const pf_file_access *io, const char *path, pf_open_how how,
                    unsigned mode);
/* What a path is reached by now; NULL: PF_ENOMEM, or an engine that has closed. */
const pf_file_access *pf_disk_access(pf_engine *engine, const char *path);
int pf_disk_about(const pf_file *file, pf_file_info *info);
/* A part of what was asked for may come; 0: the end. */
int64_t pf_disk_read(const pf_file *file, int64_t offset, void *out, size_t bytes);
int64_t pf_disk_write(const pf_file *file, const void *in, size_t bytes); /* > 0 */
int pf_disk_sync(const pf_file *file);
int pf_disk_lock(const pf_file *file);
int pf_disk_close(pf_file *file); /* takes one that is not open */

/* What stands at a path; `through`: what its links lead to. */
int pf_disk_look(pf_engine *engine, const char *path, pf_file_info *info);
int pf_disk_look_through(pf_engine *engine, const char *path, pf_file_info *info);
int64_t pf_disk_read_link(pf_engine *engine, const char *path, char *out, size_t bytes);
int pf_disk_list(pf_engine *engine, const char *path, pf_entry_fn each, void *to);
int pf_disk_rename(pf_engine *engine, const char *from, const char *to);
int pf_disk_exchange(pf_engine *engine, const char *a, const char *b);
int pf_disk_make_dir(pf_engine *engine, const char *path);
int pf_disk_remove(pf_engine *engine, const char *path);

/* "verb path: what the access or the number says", as PF_ENOTFOUND, PF_ENOMEM or PF_EIO. */
int pf_file_fail(int error, const char *verb, const char *path);
/* Behind each call of an access: `result` is its answer, pf_failures was `before`. Gives the answer
 * that counts, -EIO in the place of one that can't be. */
int64_t pf_disk_said(int64_t result, uint64_t before);
/* An answer of so many bytes that can't be: -EIO, with words. */
int64_t pf_disk_lied(const char *what, int64_t answer);
/* What the last call of an access, if `error` is its answer, left in words (pf_set_error); else
 * what the number means, in the buffer or not. */
const char *pf_disk_words(int error, char *buffer, size_t bytes);

/* ---- paths ---- */

/* printf into a new text in the engine's heap, for pf_path_free. PF_ENOMEM. */
int pf_path(char **path, const pf_engine *engine, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
void pf_path_free(char *path); /* takes NULL */
bool pf_path_in_memory(const char *path);
const char *pf_path_name(const char *path); /* its last part, without the folders before it */
int pf_path_parent(char **parent, const pf_engine *engine, const char *path);
/* *path, the place of a link, becomes the place that it names. */
int pf_path_follow(pf_engine *engine, char **path);

/* ---- the two kinds of disk ---- */

extern const pf_file_access pf_disk_libc;                /* disk_libc.c */
const pf_file_access *pf_disk_memory(pf_engine *engine); /* disk_memory.c; NULL: PF_ENOMEM */

#endif
