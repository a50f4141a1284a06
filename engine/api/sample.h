/*
 * sample.h - picking the next token of each sequence from its logits. What is drawn depends
 * on the seed, the row and the position alone.
 */
#ifndef PF_SAMPLE_H
#define PF_SAMPLE_H

#include "module.h"

typedef struct pf_sampler {
    int64_t batch, vocab; /* vocab 0: not known yet */
    float *logits;        /* (batch, vocab) of the next token */
    double *weight;       /* (vocab), work of one row, with `order` */
    int32_t *order;
    uint8_t *allow; /* (vocab); NULL: all */
} pf_sampler;

/* Makes room for `batch` rows of `vocab` logits; the vocabulary never changes. */
int pf_sampler_room(pf_sampler *s, pf_heap *heap, int64_t batch, int64_t vocab);
void pf_sampler_free(pf_sampler *s, pf_heap *heap);
/* `to` is zeroed; it gets what `from` holds, or its rows. */
int pf_sampler_copy(pf_sampler *to, pf_heap *heap, const pf_sampler *from);
int pf_sampler_reorder(pf_sampler *to, pf_heap *heap, const pf_sampler *from, const int64_t *rows,
                       int64_t n);
/* Only ids with allow[id] != 0 are drawn from now on; NULL: all. */
int pf_sampler_allow(pf_sampler *s, pf_heap *heap, int64_t batch, const uint8_t *allow, int64_t n);
/* next (batch) at `position`; sampling NULL: greedy. */
int pf_sampler_draw(const pf_sampler *s, int64_t position, const pf_sampling *sampling,
                    int32_t *next);

#endif
