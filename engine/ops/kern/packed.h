/*
 * packed.h - a matrix B (n, k), turned once, for many products A B^T with few rows each:
 * block_gemm turns B's panels anew in every call. The products have block_gemm's bits, which
 * do not depend on the way.
 */
#ifndef PF_TURNED_H
#define PF_TURNED_H

#include "gemm.h"
#include "kern.h"

/* Strips of PF_TURNED_WIDTH rows of B, each (k, PF_TURNED_WIDTH). */
typedef struct pf_turned {
    int64_t n, k;
    float *strips; /* NULL: not turned */
} pf_turned;

enum { PF_TURNED_WIDTH = 32 }; /* two of the widest vectors */

static inline int64_t pf_turned_floats(int64_t n, int64_t k) {
    return pf_round_up(n, PF_TURNED_WIDTH) * k;
}
/* t->strips (pf_turned_floats) <- b (n, k). */
void pf_turn(pf_turned *t, const float *b);
/* c (m, n; ldc) <- a (m, k; lda) B^T; panel: block_gemm's. The level has a block_gemm. */
void pf_turned_gemm(const pf_kern *kern, const pf_turned *t, int64_t m, const float *a, int64_t lda,
                    float *c, int64_t ldc, float *panel);

#endif
