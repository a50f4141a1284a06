/*
 * input.h - what a file holds, front to back, plain or gzip alike. What must hold: every byte of
 * the file is given out or named in an error. A damaged or cut gzip stream is never a shorter
 * file, gzip data in several members is one, and what stands behind it is not lost in silence.
 */
#ifndef PF_INPUT_H
#define PF_INPUT_H

#include "source.h"

#define PF_INPUT_CHUNK (1 << 17)

typedef struct {
    pf_source source;
    uint8_t *raw; /* a chunk as it lies in the file: [raw_at, raw_n) is unread */
    size_t raw_at, raw_n;
    bool begun;     /* something has been read, and it is known whether it is gzip */
    void *gzip;     /* zlib's z_stream; NULL: plain */
    bool in_member; /* gzip: not behind the last member */
    int64_t total;  /* bytes given out */
    uint8_t *bytes; /* the chunk: [at, n) is unread */
    size_t at, n;
} pf_input;

/* Reads nothing yet. */
int pf_input_open(pf_input *input, pf_engine *engine, const char *path);
/* Reads the next chunk, a full one but for the last: 1, or 0 at the end. What was unread is
 * dropped. */
int pf_input_next(pf_input *input);
void pf_input_close(pf_input *input); /* takes one that failed to open, or zeros */

/* How many bytes it seems to hold in all, or -1: for a first guess of room, no more. */
int64_t pf_input_guess(const pf_input *input);
/* Puts the rest of the input behind the *n bytes of a block of the heap (*capacity bytes). */
int pf_input_rest(pf_input *input, uint8_t **bytes, int64_t *n, int64_t *capacity);

#endif
