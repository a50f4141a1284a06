/*
 * clip.h - the global norm of gradients: their squares are summed in double over fixed blocks,
 * gradient by gradient, and the blocks are added in order. So the norm's bits depend neither on the
 * threads nor on who has summed which block.
 */
#ifndef PF_CLIP_H
#define PF_CLIP_H

#include "optim.h"

enum { PF_NORM_BLOCK = 1 << 15 }; /* numbers of a block, the last of a gradient may be shorter */

typedef struct {
    pf_tensor *const *grads; /* n contiguous f32 ones */
    int n;
    int64_t *first; /* each one's first block, n + 1 of them */
    double *sums;   /* one a block */
    size_t bytes;   /* of both, in one block of memory */
} pf_norm;

int pf_norm_open(pf_norm *norm, pf_engine *e, pf_tensor *const *grads, int n);
/* Sums up the listed blocks (NULL: the first `count`). */
int pf_norm_sum(const pf_norm *norm, pf_engine *e, const int64_t *list, int64_t count);
/* From the sums of all blocks, and of other squares that add up to `more`: the root of all of them;
 * *bad: the first gradient that is not finite, else -1. */
double pf_norm_tell(const pf_norm *norm, double more, int *bad);
void pf_norm_close(pf_norm *norm, pf_engine *e);

/* All of that. */
int pf_grad_norm(pf_engine *e, pf_tensor *const *grads, int n, double more, double *norm, int *bad);

#endif
