/*
 * heads.h - a (B, H, L, width) tensor as loops see it: a base pointer and strides. Rows of a
 * head lie a stride apart, so heads that are views of one matrix are read where they stand.
 */
#ifndef PF_HEADS_H
#define PF_HEADS_H

#include "kern.h"
#include "op.h"

typedef struct pf_heads {
    float *data;
    int64_t item, head, row; /* strides; the last one is 1 */
    int64_t width;
    bool add; /* of a gradient: the rows hold a part of it already */
} pf_heads;

static inline float *pf_heads_row(const pf_heads *h, int64_t item, int64_t head, int64_t row) {
    return h->data + item * h->item + head * h->head + row * h->row;
}

/* n finished rows x (n, width) to their places from `row` on, each times factor[i * step] (step
 * 0: one factor): written, or of gradients added, with the bits of a sum of two gradients. */
static inline void pf_heads_put(const pf_kern *kern, const pf_heads *h, int64_t item, int64_t head,
                                int64_t row, int64_t n, const float *factor, int64_t step,
                                const float *x) {
    kern->rows_scale(n, h->width, factor, step, x, h->width, h->add,
                     pf_heads_row(h, item, head, row), h->row);
}

pf_heads pf_heads_of(const pf_tensor *t);
/* *t: x with last stride 1, itself retained or a compact copy; heads: how to walk it. */
int pf_heads_ready(pf_engine *e, pf_tensor *x, pf_tensor **t, pf_heads *heads);
/* The same in a forward or backward: the copy, where one is needed, is the call's. */
int pf_call_heads(pf_call *c, pf_tensor *x, pf_heads *heads);
/* Where a backward writes the gradient of input i, with pf_heads_put: the rows of its slot, and
 * *t is NULL, or where a slot saves nothing those of *t, to be given, with heads that merge. The
 * call holds *t. */
int pf_heads_gradient(pf_call *c, int i, pf_tensor **t, pf_heads *heads);
int pf_heads_own_gradient(pf_call *c, int i, pf_tensor **t, pf_heads *heads); /* always *t */
/* An output (B, H, L, width) laid out as (B, L, H, width), so heads merge without a copy. */
int pf_heads_output(pf_tensor **t, pf_engine *e, int64_t B, int64_t H, int64_t L, int64_t width);

#endif
