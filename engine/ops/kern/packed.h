/*
 * packed.h - a matrix B (n, k), turned once, for many products A B^T with few rows each:
 * block_gemm turns B's panels anew in every call. The products have block_gemm's bits, which
 * do not depend on the way.
 */
#ifndef PF_PACKED_H
#define PF_PACKED_H

#include "gemm.h"
#include "kern.h"

/* Strips of PF_PACKED_WIDTH rows of B, each (k, PF_PACKED_WIDTH). */
typedef struct pf_packed {
    int64_t n, k;
    float *strips; /* NULL: not turned */
} pf_packed;

enum { PF_PACKED_WIDTH = 32 }; /* two of the widest vectors */

static inline int64_t pf_packed_floats(int64_t n, int64_t k) {
    return pf_round_up(n, PF_PACKED_WIDTH) * k;
}
/* t->strips (pf_packed_floats) <- b (n, k). */
void pf_pack(pf_packed *t, const float *b);
/* c (m, n; ldc) <- a (m, k; lda) B^T; panel: block_gemm's. The level has a block_gemm. */
void pf_packed_gemm(const pf_kern *kern, const pf_packed *t, int64_t m, const float *a, int64_t lda,
                    float *c, int64_t ldc, float *panel);

#endif
