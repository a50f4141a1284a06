/*
 * source.h - bytes from a path, front to back and once: a file, a pipe, a FIFO, the standard
 * input. What must hold: a path is opened once; what can wait (a pipe without a writer) can be
 * cancelled and says that it waits; what has no end (a device) is refused.
 */
#ifndef PF_SOURCE_H
#define PF_SOURCE_H

#include "disk.h"

typedef struct {
    pf_engine *engine; /* its cancel flag and its log */
    const char *name;  /* as messages say it; borrowed */
    pf_file file;
    bool waits;       /* a read may have to wait: a pipe, a socket, a terminal */
    bool told;        /* that it waits */
    bool once;        /* can't be opened again to read the same */
    int64_t size;     /* bytes of a regular file from here on, as it was when opened; else -1 */
    int64_t n;        /* bytes read so far */
    int64_t modified; /* of a regular file: when, as it was opened */
} pf_source;

/* "-" and "/dev/stdin" are the standard input. */
int pf_source_open(pf_source *source, pf_engine *engine, const char *path);
/* Fills `room` bytes, fewer only at the end: how many, or a status. */
int64_t pf_source_read(pf_source *source, uint8_t *bytes, size_t room);
/* A regular file that is not what it was when it was opened: PF_EIO. */
int pf_source_check(const pf_source *source);
void pf_source_close(pf_source *source); /* takes a source that failed to open, or zeros */

#endif
