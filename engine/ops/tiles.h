/*
 * tiles.h - matrix products cut in tiles: C = A B (+ C) for every place of a batch, with
 * any broadcasting between the three. A tile is one task and one GEMM call of a shape that
 * the rows' count never changes: rows are cut in tiles of PF_ROW_TILE from an item's first
 * row on, and the last tile is filled up with zero rows. So a row's bits are the same
 * alone, in a batch, and whatever follows it.
 */
#ifndef PF_TILES_H
#define PF_TILES_H

#include "fold.h"
#include "gemm.h"

/* A matrix (rows, cols) as the BLAS takes it, for every place of the batch dimensions. */
typedef struct pf_matrix {
    pf_tensor batch;  /* header over the batch dimensions only; its offset is the first place */
    float *data;
    int64_t rows, cols;
    int64_t ld;
    bool transposed;  /* element (i, j) lies at j * ld + i */
    pf_tensor *owned; /* the compact copy, where strides did not fit the BLAS */
} pf_matrix;

/* The last two dimensions of `t` (rank >= 2, f32) as a matrix; the others are its batch. */
int pf_matrix_open(pf_matrix *m, pf_engine *engine, const pf_tensor *t);
void pf_matrix_close(pf_matrix *m);
pf_matrix pf_matrix_flip(const pf_matrix *m); /* its transpose; borrows */
/* All rows of all items as one matrix, if they are evenly spaced. */
bool pf_matrix_flatten(const pf_matrix *m, pf_matrix *flat);

typedef struct pf_tiles {
    pf_engine *engine;
    const pf_matrix *a, *b, *c; /* (m, k) (k, n) (m, n); c is not transposed */
    int rank;                   /* the batch; where c has size 1 in it, products are summed */
    const int64_t *batch;
    int64_t rows, cols;         /* of a tile */
    bool pad;                   /* row tiles are filled up; else the last one is smaller */
    bool overwrite;             /* C is written, else added to */
    const float *bias;          /* (n) added to each row, or NULL */
} pf_tiles;

enum { PF_COL_TILE = 512 };

int pf_tiles_run(const pf_tiles *job);
/* Tile sizes for a weight's gradient: as large as leaves a few tasks for every thread. */
void pf_tiles_for_weight(pf_tiles *job);

#endif
