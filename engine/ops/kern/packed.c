/* packed.c - see packed.h. */
#include "packed.h"

void pf_pack(pf_packed *t, const float *b) {
    enum { W = PF_PACKED_WIDTH };
    for (int64_t j = 0; j < t->n; j++) {
        float *to = t->strips + j / W * W * t->k + j % W;
        for (int64_t p = 0; p < t->k; p++) to[p * W] = b[j * t->k + p];
    }
}

void pf_packed_gemm(const pf_kern *kern, const pf_packed *t, int64_t m, const float *a, int64_t lda,
                    float *c, int64_t ldc, float *panel) {
    enum { W = PF_PACKED_WIDTH };
    for (int64_t j = 0; j < t->n; j += W) {
        kern->block_gemm(false, false, m, pf_min(W, t->n - j), t->k, a, lda, t->strips + j * t->k,
                         W, 0, c + j, ldc, panel);
    }
}
