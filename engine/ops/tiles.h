/*
 * tiles.h - matrix products cut in tiles: C = A B (+ C) for every place of a batch, with any
 * broadcasting between the three. A tile is one task. A row's bits are the same alone, in a
 * batch, and whatever follows it: those of the own block_gemm depend on the row alone. Where the
 * BLAS stands in, a row-wise product is one call of a fixed shape: rows are cut in tiles of
 * PF_ROW_TILE from an item's first row on, and the last tile is filled up with zero rows.
 */
#ifndef PF_TILES_H
#define PF_TILES_H

#include "fold.h"
#include "gemm.h"

/* A matrix (rows, cols) as the BLAS takes it, for every place of the batch dimensions. */
typedef struct pf_matrix {
    pf_tensor batch; /* header over the batch dimensions only; its offset is the first place */
    float *data;
    int64_t rows, cols;
    int64_t ld;
    bool transposed; /* element (i, j) lies at j * ld + i */
} pf_matrix;

/* The last two dimensions of `t` (rank >= 2, f32) as a matrix; the others are its batch. Where
 * strides do not fit the BLAS it is of a copy, which the call holds. */
int pf_matrix_open(pf_matrix *m, pf_call *c, const pf_tensor *t);
pf_matrix pf_matrix_flip(const pf_matrix *m); /* its transpose */

typedef struct pf_tiles {
    pf_engine *engine;
    const pf_matrix *a, *b, *c; /* (m, k) (k, n) (m, n); c is not transposed */
    int rank;                   /* the batch; where c has size 1 in it, products are summed */
    const int64_t *batch;
    int64_t rows, cols;  /* of a tile, where the BLAS computes it */
    bool pad;            /* there the last row tile is filled up, else it is smaller */
    bool overwrite;      /* C is written, else added to */
    const float *bias;   /* (n) added to each row, or NULL */
    const pf_unary *act; /* then C = act(C), or NULL */
    float *slope;        /* laid out as C: the derivative of act there, or NULL */
    int64_t stretch;     /* 0, or: only this many of k at a time, each to its own C (m, n),
                                 * one after another; without a batch */
} pf_tiles;

enum { PF_COL_TILE = 512 };

int pf_tiles_run(const pf_tiles *job);
/* Takes the scratch that this needs, which the engine then has; the matrices are shapes alone. */
int pf_tiles_ready(const pf_tiles *job);

/* C (n, k) (+)= left^T right summed over the rows of left (rows, n) and right (rows, k):
 * a weight's gradient. Where all rows are evenly spaced they are one matrix, cut in few
 * long stretches whose partial sums are added in order, so that tiles stay large. */
typedef struct pf_over_rows {
    pf_engine *engine;
    const pf_matrix *left, *right, *c;
    int rank; /* the batch, as in pf_tiles */
    const int64_t *batch;
    bool overwrite;
} pf_over_rows;

int pf_tiles_over_rows(const pf_over_rows *job);

#endif
