/*
 * fold.h - the one strided loop of the elementwise and reducing ops:
 *
 *     to[kept] (+)= scale * sum over the reduced dimensions of f(x0, x1, x2)
 *
 * over a full shape to which the operands are broadcast. Dimensions where `to` has size 1
 * and the full shape has not are the reduced ones. With none reduced it is an elementwise
 * loop; with f NULL (f = x0) it is a sum; with both it is a broadcast copy. Pieces, tasks
 * and the order of additions follow from the shapes alone, so bits don't depend on threads.
 */
#ifndef PF_FOLD_H
#define PF_FOLD_H

#include "kern.h"
#include "op.h"

enum { PF_FOLD_IN = 3, PF_FOLD_PIECE = 256, PF_FOLD_GRAIN = 32768 };

/* g[i] = f(x[0][i], x[1][i], x[2][i]) for i < n, all contiguous; g aliases no operand
 * unless `to` does. */
typedef void (*pf_fold_fn)(const void *context, int64_t n, const float *const *x, float *g);

typedef struct pf_fold_job {
    pf_engine *engine;
    const pf_tensor *to; /* f32, any strides, no overlap; right-aligned with the shape */
    bool overwrite;      /* `to` is written, else added to */
    int rank;            /* the full shape */
    const int64_t *shape;
    int n;                          /* operands */
    const pf_tensor *x[PF_FOLD_IN]; /* f32; broadcast to the shape, right-aligned */
    pf_fold_fn f;
    const void *context;
    double scale;
} pf_fold_job;

int pf_fold(const pf_fold_job *job);

/* Splits `shape` by operand 0 (dimensions where it has size 1 and the shape has not are
 * reduced) and makes the iterator of all operands over the kept, or the reduced, ones.
 * Returns the number of places in that space. */
int64_t pf_split_space(int rank, const int64_t *shape, int n, const pf_tensor *const *operand,
                       bool kept, pf_iter *it);
/* Element offsets of place `index` (row-major). */
void pf_iter_place(const pf_iter *it, int64_t index, int64_t *offsets);

/* to (+)= scale * from, where `from` broadcasts to the shape of `to`. */
int pf_add_into(pf_engine *engine, const pf_tensor *to, bool overwrite, const pf_tensor *from,
                double scale);

/* n floats at p with `stride`, contiguous: p itself, or gathered into `buffer`. */
const float *pf_gather_run(const pf_kern *kern, const float *p, int64_t stride, int64_t n,
                           float *buffer);

#endif
