/*
 * input.h - a file read front to back in chunks, plain or gzip alike. A damaged or cut
 * gzip stream is an error, never a shorter file.
 */
#ifndef PF_INPUT_H
#define PF_INPUT_H

#include "runtime.h"

#define PF_INPUT_CHUNK (1 << 17)

typedef struct {
    pf_engine *engine; /* its heap, and its cancel flag between chunks */
    const char *path;  /* borrowed */
    void *file;        /* zlib's */
    uint8_t *bytes;    /* the chunk: [at, n) is unread */
    size_t at, n;
} pf_input;

int pf_input_open(pf_input *input, pf_engine *engine, const char *path);
/* Reads the next chunk: 1, or 0 at the end. What was unread is dropped. */
int pf_input_next(pf_input *input);
void pf_input_close(pf_input *input);

/* The rest of the input as one block of the heap (*capacity bytes; *n used). */
int pf_input_rest(pf_input *input, uint8_t **bytes, int64_t *n, int64_t *capacity);

#endif
