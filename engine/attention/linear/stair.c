/*
 * stair.c - products with a block's own (queries, keys) matrix, of which query i has the
 * first sees[i] entries. Queries come in the order of what they see, so the entries make a
 * stair, here of 6 queries and 8 keys, `x` seen and `.` not:
 *
 *     x . . . . . . .        Products go in strips. Scores take COLUMNS keys at a time, from the
 *     x x x . . . . .        first query that sees any of them on; a sum over keys takes STRIP
 *     x x x . . . . .        queries at a time, up to the last key that the last of them sees;
 *     x x x x x . . .        one over queries STRIP keys at a time, like the scores. So much of
 *     x x x x x x x .        what lies behind the stair is left out: a third and more, causally.
 *     x x x x x x x x
 *
 * Where the BLAS stands in products are whole, as its bits depend on the shape.
 *
 * What lies behind the stair is never read before it is set to 0: not multiplied by 0, since a
 * later key may hold anything. A strip's own corner is computed and then overwritten
 * (pf_stair_decay), or multiplied while it is 0.
 */
#include <math.h>
#include <string.h>

#include "operator.h"

/* Rows or columns of a strip, those of one or two register tiles: smaller ones would leave out more
 * and fill the tiles less. */
enum { STRIP = 12, COLUMNS = 16 };

/* The first loaded query that sees more than j keys. */
static int64_t first_above(const pf_work *w, int64_t j) {
    int64_t i = 0;
    while (i < w->queries && w->sees[i] <= j) i++;
    return i;
}

void pf_stair_scores(pf_work *w, int64_t n, const float *x, const float *y, float *c) {
    int64_t C = w->op->block;
    if (!w->kern->block_gemm) {
        pf_work_gemm(w, false, true, w->q_rows, w->k_rows, n, x, n, y, n, 0, c, C);
        return;
    }
    for (int64_t j = 0; j < w->keys; j += COLUMNS) {
        int64_t i = first_above(w, j), columns = pf_min(COLUMNS, w->keys - j);
        pf_work_gemm(w, false, true, w->queries - i, columns, n, x + i * n, n, y + j * n, n, 0,
                     c + i * C + j, C);
    }
}

/* Queries that follow each other often have the same running maximum, so the same factors: they
 * are made when it changes. A masked key's is 0, as are its features. */
void pf_stair_decay(pf_work *w, float *c, float *sum) {
    int64_t C = w->op->block;
    float top = NAN; /* whose factors stand there: no query's */
    for (int64_t i = 0; i < w->q_rows; i++) {
        int64_t n = i < w->queries ? w->sees[i] : 0;
        float total = 0;
        if (n > 0) {
            /* The factors of the keys behind may overflow; nobody reads them. */
            if (!(w->top[i] == top)) pf_decays(w, w->keys, w->shift, w->top[i], w->factor);
            top = w->top[i];
            w->kern->features_pull(1, n, n, w->factor, NULL, NULL, c + i * C, &total);
        }
        memset(c + i * C + n, 0, (size_t)(C - n) * sizeof(float));
        if (sum) sum[i] = total;
    }
}

void pf_stair_apply(pf_work *w, const float *c, int64_t n, const float *y, float *to) {
    int64_t C = w->op->block;
    if (!w->kern->block_gemm) {
        pf_work_gemm(w, false, false, w->q_rows, n, w->k_rows, c, C, y, n, 1, to, n);
        return;
    }
    for (int64_t i = 0; i < w->queries; i += STRIP) {
        int64_t rows = pf_min(STRIP, w->queries - i), k = w->sees[i + rows - 1];
        pf_work_gemm(w, false, false, rows, n, k, c + i * C, C, y, n, 1, to + i * n, n);
    }
}

void pf_stair_turned(pf_work *w, const float *c, int64_t n, const float *x, float *to) {
    int64_t C = w->op->block;
    if (!w->kern->block_gemm) {
        pf_work_gemm(w, true, false, w->k_rows, n, w->q_rows, c, C, x, n, 1, to, n);
        return;
    }
    for (int64_t j = 0; j < w->keys; j += STRIP) {
        int64_t i = first_above(w, j), columns = pf_min(STRIP, w->keys - j);
        pf_work_gemm(w, true, false, columns, n, w->queries - i, c + i * C + j, C, x + i * n, n, 1,
                     to + j * n, n);
    }
}
