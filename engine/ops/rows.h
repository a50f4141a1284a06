/*
 * rows.h - ops along one dimension: the operands seen as rows, a row being all elements
 * along the dimension at one place of the others, counted in row-major order. A row is
 * one task's, and its arithmetic never sees its neighbours.
 */
#ifndef PF_ROWS_H
#define PF_ROWS_H

#include "fold.h"

enum { PF_ROWS_OPS = 4 };

typedef struct pf_rows {
    const pf_kern *kern;
    int64_t n;     /* elements a row */
    int64_t count; /* rows */
    float *base[PF_ROWS_OPS];
    int64_t stride[PF_ROWS_OPS]; /* of the elements of a row */
    pf_iter it;                  /* over the other dimensions */
} pf_rows;

/* Operands of one shape (f32), or of size 1 along `dim`: then the row's one element, stride 0. */
void pf_rows_make(pf_rows *rows, pf_engine *engine, int rank, const int64_t *shape, int dim,
                  int n_ops, const pf_tensor *const *operands);
/* Start of row `index` in each operand. */
void pf_rows_at(const pf_rows *rows, int64_t index, float **at);

/* `scratch` holds `buffers` rows of floats. */
typedef void (*pf_row_fn)(const pf_rows *rows, void *context, int64_t row, float *scratch);
int pf_rows_run(pf_engine *engine, const pf_rows *rows, int buffers, pf_row_fn fn, void *context);

/* Where a row of operand k is written: its own place when contiguous, else `buffer`, which
 * pf_row_put brings home. */
static inline float *pf_row_target(const pf_rows *rows, int k, float *at, float *buffer) {
    return rows->stride[k] == 1 ? at : buffer;
}
void pf_row_put(const pf_rows *rows, int k, float *at, const float *from);

/* A row of operand k to read, or to add to and put back: in place, else gathered. */
float *pf_row_open(const pf_rows *rows, int k, float *at, float *buffer);

/* The header of `t` (made by reducing `dim`, or all for PF_DIM_ALL) with its lost
 * dimensions put back as size 1, so that it broadcasts to the input's `rank`. */
pf_tensor pf_keep_header(const pf_tensor *t, int rank, int dim);

#endif
