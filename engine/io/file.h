/*
 * file.h - files and folders of a disk (disk.h): whole reads with a cap, positioned reads,
 * writes that are complete, synced and renamed into place. What was read or written short is
 * finished, and what fails says the path and what the disk answered. Reading takes regular
 * files only: a pipe or a device could block or never end. Writing goes through links to the file
 * that they name, and takes the place of nothing but a regular file.
 */
#ifndef PF_FILE_H
#define PF_FILE_H

#include "disk.h"

/* ---- reading ---- */
typedef struct pf_reader {
    pf_file file;
    int64_t size;     /* bytes at open */
    const char *path; /* borrowed */
} pf_reader;

int pf_reader_open(pf_reader *r, pf_engine *engine, const char *path);
int pf_reader_open_by(pf_reader *r, const pf_file_access *io, const char *path);
/* Exactly `bytes` from `offset`; PF_EFORMAT when the file ends before. */
int pf_reader_read(const pf_reader *r, int64_t offset, void *out, size_t bytes);
void pf_reader_close(pf_reader *r);
/* A whole file of at most `cap` bytes, with a 0 behind it: a block of bytes + 1 of the heap. */
int pf_file_whole(pf_engine *engine, char **text, size_t *bytes, const char *path, size_t cap);
/* Is something there, a folder, behind whatever links? What can't be looked at is not. */
bool pf_is_there(pf_engine *engine, const char *path);
bool pf_is_folder(pf_engine *engine, const char *path);
/* The same for whom it matters why: fails where the disk does not say. */
int pf_look_for(pf_engine *engine, const char *path, bool *there, bool *folder);

/* ---- writing ---- */
#define PF_HASH_TEXT 33 /* XXH3-128 as 32 hex digits and a 0 */

/* A checksum as bytes come; pf_hash_hex ends it. */
typedef struct pf_hash {
    pf_heap *heap;
    void *state;
} pf_hash;

typedef struct pf_writer {
    pf_engine *engine;
    pf_file file;
    int64_t size;     /* bytes put so far */
    const char *path; /* for messages: borrowed, or `shown` */
    char *temp;       /* what is written to */
    char *target;     /* the file that `path` names behind its links; NULL: temp stays */
    char *parent;     /* the target's folder */
    char *shown;
    pf_hash hash; /* of what was put */
} pf_writer;

/* To a temporary file beside the target, which takes its name and its mode at commit. */
int pf_writer_open(pf_writer *w, pf_engine *engine, const char *path);
/* The file `name` itself, which must not exist, in the folder `temp`, which will be `folder`: so
 * messages call it. */
int pf_writer_open_in(pf_writer *w, pf_engine *engine, const char *temp, const char *folder,
                      const char *name);
int pf_writer_put(pf_writer *w, const void *data, size_t bytes);
/* Syncs, closes, renames, syncs the folder, and asks for no memory; hash (PF_HASH_TEXT, may be
 * NULL) is that of the content. On failure nothing is left behind. */
int pf_writer_commit(pf_writer *w, char *hash);
/* Closes a file that nobody is to find after this process: without a sync. */
int pf_writer_end(pf_writer *w);
void pf_writer_abort(pf_writer *w); /* closes and removes; keeps the message that stands */

/* ---- folders ---- */
int pf_dir_make(pf_engine *engine, const char *path); /* with its parents; may be there already */
int pf_dir_sync(pf_engine *engine, const char *path);
/* The names in a folder, so that it may be changed while they are gone through. */
typedef struct pf_names {
    pf_heap *heap;
    char *text; /* each with a 0 behind it */
    int64_t n, capacity;
} pf_names;
int pf_names_read(pf_names *names, pf_engine *engine, const char *path); /* or a negative errno */
/* before NULL: the first. */
const char *pf_names_next(const pf_names *names, const char *before);
void pf_names_free(pf_names *names);
/* Removes a folder and the files in it (no folders in it), of a link the link alone. No message:
 * for clean-up. */
bool pf_dir_remove(pf_engine *engine, const char *path);

/* ---- checksums (hash.c) ---- */
void pf_hash_bytes(const void *data, size_t bytes, char hash[PF_HASH_TEXT]);
int pf_hash_begin(pf_hash *hash, pf_heap *heap);
void pf_hash_put(pf_hash *hash, const void *data, size_t bytes);
void pf_hash_hex(const pf_hash *hash, char text[PF_HASH_TEXT]);
void pf_hash_end(pf_hash *hash);

#endif
