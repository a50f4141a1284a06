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
    float *coming;        /* as many: those of the call that is under way */
    uint8_t *seen;        /* as many: 1 where it was fed, 2 where by the call under way (or by one
                             that failed, and then the next note of it takes it away) */
    double *weight;       /* (vocab), work of one row, with `order` */
    int32_t *order;
    uint8_t *allow; /* (n_allow); NULL: all */
    int64_t n_allow;
} pf_sampler;

/* Makes room for `batch` rows of `vocab` logits; the vocabulary never changes, and what is allowed
 * must be of it. */
int pf_sampler_room(pf_sampler *s, pf_heap *heap, int64_t batch, int64_t vocab);
void pf_sampler_free(pf_sampler *s, pf_heap *heap);
/* `to` is zeroed; it gets what `from` holds, or its rows. */
int pf_sampler_copy(pf_sampler *to, pf_heap *heap, const pf_sampler *from);
int pf_sampler_reorder(pf_sampler *to, pf_heap *heap, const pf_sampler *from, const int64_t *rows,
                       int64_t n);
/* Only ids with allow[id] != 0 are drawn from now on, of n that there are; NULL: all. */
int pf_sampler_allow(pf_sampler *s, pf_heap *heap, const uint8_t *allow, int64_t n);
/* With room made: the call under way feeds n ids of each row, `stride` apart. */
void pf_sampler_note(pf_sampler *s, const int32_t *ids, int64_t n, size_t stride);
/* The coming logits, and what was noted, stand from now on. */
void pf_sampler_keep(pf_sampler *s);
/* A caller's, checked, over the defaults; NULL: greedy. */
int pf_sampling_take(pf_sampling *own, const pf_sampling *given);
/* next (batch) at `position` from `logits`, those that stand or that come, with the tokens that
 * were fed until then; sampling NULL: greedy. */
int pf_sampler_draw(const pf_sampler *s, const pf_engine *engine, const float *logits,
                    int64_t position, const pf_sampling *sampling, int32_t *next);

#endif
