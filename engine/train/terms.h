/*
 * terms.h - inside the floor train/: what all ranks of a step must have alike.
 */
#ifndef PF_TERMS_H
#define PF_TERMS_H

#include "optimizer.h"

typedef struct {
    double lr, clip;
    uint64_t steps; /* that are over */
    int64_t lanes;
    uint64_t options; /* a sum of their bytes */
} pf_terms;

/* Of this rank, for a step with `lr` and `clip`. */
pf_terms pf_terms_of(const pf_optimizer *o, const pf_engine *e, double lr, double clip);
/* all: those of every rank, each `stride` bytes behind the one before. Fails on all ranks alike,
 * with the first one that has others than rank 0. */
int pf_terms_compare(const pf_engine *e, const char *all, size_t stride);

#endif
