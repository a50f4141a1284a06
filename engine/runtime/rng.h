/*
 * rng.h - random numbers by counter (Philox 4x32-10, Salmon et al. 2011): a value depends
 * on its key and index only, never on a thread, a process or a previous draw. A stream is
 * keyed by (seed, purpose, a, b): "which seed, what for, which step/layer, which row".
 */
#ifndef PF_RNG_H
#define PF_RNG_H

#include "base.h"

typedef enum {
    PF_DRAW_USER = 1,   /* pf.randn and friends; a counts the calls */
    PF_DRAW_INIT,       /* parameters; a = position in the model's walk */
    PF_DRAW_PROJECTION, /* a = layer << 32 | head, b = epoch */
    PF_DRAW_DROPOUT,    /* a = step, b = call within the step */
    PF_DRAW_DATA,       /* order of rows; a = pass over the data */
    PF_DRAW_MASK,       /* masked LM; a = step, b = row */
    PF_DRAW_SAMPLE,     /* generation; a = stream, b = position */
    PF_DRAW_PATTERN,    /* random blocks; a = layer << 32 | head, b = block of queries */
    PF_DRAW_ROOMS       /* hashes and first centroids; a = layer << 32 | head */
} pf_draw;

typedef struct {
    uint32_t key[2];
    uint32_t base[2]; /* upper half of the counter */
} pf_rng;

/* The raw block function: 4 words from a 4-word counter and a 2-word key. */
void pf_philox(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4]);

pf_rng pf_rng_make(uint64_t seed, pf_draw purpose, uint64_t a, uint64_t b);

/* The index-th value of the stream. */
uint32_t pf_rng_u32(const pf_rng *rng, uint64_t index);
double pf_rng_uniform(const pf_rng *rng, uint64_t index);             /* in (0, 1), 32 bits */
uint64_t pf_rng_below(const pf_rng *rng, uint64_t index, uint64_t n); /* in 0 .. n-1 */

/* out[i] = value first+i of the stream, i < n. Normals by Box-Muller in double. */
void pf_rng_fill_uniform(const pf_rng *rng, uint64_t first, int64_t n, float *out);
void pf_rng_fill_normal(const pf_rng *rng, uint64_t first, int64_t n, float *out);
void pf_rng_fill_normal_double(const pf_rng *rng, uint64_t first, int64_t n, double *out);

#endif
