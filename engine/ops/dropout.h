/*
 * dropout.h - a mask of dropout by counter, for ops that drop on their way: whether element i stays
 * is a function of (seed, draw, i) alone.
 */
#ifndef PF_DROPOUT_H
#define PF_DROPOUT_H

#include "kern.h"
#include "op.h"

typedef struct pf_drops {
    const pf_kern *kern;
    pf_rng rng;
    uint32_t cut; /* words below it drop their element */
    float scale;  /* of those that stay, 1 / (1 - p) */
} pf_drops;

pf_drops pf_drops_of(const pf_kern *kern, double p, uint64_t seed, uint64_t draw);
/* y_i = x_i scale where element first + i stays, else 0, also of a NaN; y may be x. `first` is a
 * multiple of 4. */
void pf_drops_apply(const pf_drops *drops, int64_t first, int64_t n, const float *x, float *y);
/* The engine's seed as it is now into saved[slot] of a call; its backward reads it there, since the
 * host may have set another. */
int pf_drops_save(pf_call *c, int slot);
uint64_t pf_drops_seed(const pf_call *c, int slot);

#endif
