/*
 * gemm.h - matrix products: the only door to the BLAS. Row-major, float32. The BLAS is loaded
 * at its first use: many programs never need it, and it takes longer to load than they run.
 *
 * pf_gemm is one BLAS call on the calling thread: call it only inside pf_parallel, where
 * the BLAS is single-threaded. A row's bits depend on the shape of the call and on the
 * row's position in it, so a path with a bit promise calls it with one fixed shape.
 */
#ifndef PF_GEMM_H
#define PF_GEMM_H

#include "kern.h"

/* Loads the BLAS, if nobody has: before the parallel loop whose tasks call pf_gemm, so that
 * the BLAS sees the host's OpenMP settings and its absence is an error of the op. */
int pf_blas_need(void);

/* C (m, n; ldc) = alpha * op(A) (m, k) * op(B) (k, n) + beta * C. ta: A is stored (k, m).
 * beta 0 never reads C. m, n or k of 0 are allowed (k = 0 scales C). */
void pf_gemm(bool ta, bool tb, int64_t m, int64_t n, int64_t k, float alpha, const float *a,
             int64_t lda, const float *b, int64_t ldb, float beta, float *c, int64_t ldc);

/* The product of blocks that lie in the caches: kern->block_gemm where the level has one,
 * else pf_gemm. panel: PF_PANEL floats. */
static inline void pf_block_gemm(const pf_kern *kern, bool ta, bool tb, int64_t m, int64_t n,
                                 int64_t k, const float *a, int64_t lda, const float *b,
                                 int64_t ldb, float beta, float *c, int64_t ldc, float *panel) {
    if (kern->block_gemm) {
        kern->block_gemm(ta, tb, m, n, k, a, lda, b, ldb, beta, c, ldc, panel);
    } else {
        pf_gemm(ta, tb, m, n, k, 1, a, lda, b, ldb, beta, c, ldc);
    }
}

/* How many rows of a short block such a product takes: all of the block's where bits depend
 * on the shape of the call, only the real ones where they don't. */
static inline int64_t pf_block_rows(const pf_kern *kern, int64_t rows, int64_t block) {
    return kern->block_gemm ? rows : block;
}

/* Rows that one GEMM call of a row-wise product takes (linear layers). Measured: 0.93 of
 * the large-GEMM rate at 128 rows, 0.86 at 64. */
enum { PF_ROW_TILE = 128 };

/* What the BLAS says of itself: version, build, processor core; loads it. Static text. */
const char *pf_blas_config(void);

#endif
