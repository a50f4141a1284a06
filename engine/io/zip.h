/*
 * zip.h - zip files as numpy's .npz are: entries stored or deflated, read by the list at the end of
 * the file, written front to back. What must hold: nothing that the file says is followed before
 * it has been held against what is there; a damaged entry is never a shorter one.
 */
#ifndef PF_ZIP_H
#define PF_ZIP_H

#include "file.h"

enum { PF_ZIP_ENTRIES = 65535 };

typedef struct pf_zip_entry {
    char *name; /* in the list's text */
    bool deflated;
    uint32_t sum; /* CRC-32 of what it holds */
    int64_t packed, bytes, header;
} pf_zip_entry;

typedef struct pf_zip {
    pf_reader file;
    pf_heap *heap;
    int n;
    pf_zip_entry *entry;
    char *list;
    size_t list_bytes;
} pf_zip;

int pf_zip_open(pf_zip *zip, pf_engine *engine, const char *path);
void pf_zip_close(pf_zip *zip);

/* What an entry holds, front to back. */
typedef struct pf_unzip {
    const pf_zip *zip;
    const pf_zip_entry *entry;
    int64_t at, left; /* where packed bytes go on in the file; bytes that are to come */
    int64_t packed;   /* bytes of them that are unread */
    uint32_t sum;     /* of what has come */
    void *inflate;    /* zlib's z_stream, or NULL */
    uint8_t *raw;     /* its input */
} pf_unzip;

int pf_unzip_open(pf_unzip *in, const pf_zip *zip, int i);
/* Exactly `bytes`; with the last of the entry its checksum is looked at. */
int pf_unzip_read(pf_unzip *in, void *out, size_t bytes);
void pf_unzip_close(pf_unzip *in); /* takes one that failed to open, or zeros */

/* ---- writing ---- */

typedef struct pf_zipper {
    pf_writer *to;
    pf_heap *heap;
    int n;
    char *list; /* of what has been put, as it stands at the end */
    int64_t list_bytes, list_room;
    int64_t begun; /* where the entry begins */
    const char *name;
    int64_t bytes, data; /* of the entry: what it holds, and where that begins */
    uint32_t sum;
    void *deflate; /* zlib's z_stream; NULL: stored */
    uint8_t *raw;
} pf_zipper;

/* Entries, one after another; name must last until its end. */
int pf_zipper_begin(pf_zipper *zip, const char *name, bool deflated);
int pf_zipper_put(pf_zipper *zip, const void *data, size_t bytes);
int pf_zipper_end(pf_zipper *zip);
int pf_zipper_finish(pf_zipper *zip); /* the list: the file is whole */
void pf_zipper_close(pf_zipper *zip); /* gives back what it holds */

#endif
