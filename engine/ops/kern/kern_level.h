/*
 * kern_level.h - the kernels of one level: what kern_*.c define under level-suffixed names
 * (PF_KERN(exp) is pf_kern_exp_avx2) and kern_body.c gathers in that level's table. The
 * meanings stand in kern.h.
 */
#ifndef PF_KERN_LEVEL_H
#define PF_KERN_LEVEL_H

#include "kern.h"
#include "vec.h"

extern const pf_kern PF_KERN(table);

/* kern_unary.c */
void PF_KERN(unary)(pf_unary f, int64_t n, const float *x, float *y);
void PF_KERN(unary_grad)(pf_unary f, int64_t n, const float *x, const float *y, const float *dy,
                         float *dx);

/* kern_reduce.c */
float PF_KERN(sum)(int64_t n, const float *x);
float PF_KERN(max)(int64_t n, const float *x);
float PF_KERN(dot)(int64_t n, const float *a, const float *b);
float PF_KERN(sumsq)(int64_t n, const float *x);
double PF_KERN(sumsq_double)(int64_t n, const float *x);
float PF_KERN(softmax)(int64_t n, const float *x, float *y);
float PF_KERN(logsumexp)(int64_t n, const float *x);
void PF_KERN(softmax_grad)(int64_t n, const float *y, const float *dy, float *dx);
void PF_KERN(layernorm)(int64_t n, float eps, const float *x, const float *w, const float *b,
                        float *y, float *mean, float *rstd);
void PF_KERN(layernorm_grad)(int64_t n, const float *x, const float *w, float mean, float rstd,
                             const float *dy, float *dx, float *dw, float *db);
void PF_KERN(rmsnorm)(int64_t n, float eps, const float *x, const float *w, float *y, float *rrms);
void PF_KERN(rmsnorm_grad)(int64_t n, const float *x, const float *w, float rrms, const float *dy,
                           float *dx, float *dw);

/* kern_rows.c */
void PF_KERN(softmax_features)(int64_t n, int64_t m, int64_t ld, float *u, const float *half,
                               float *shift);
void PF_KERN(features_pull)(int64_t n, int64_t m, int64_t ld, const float *f, const float *c,
                            const float *z, float *df, float *rowsum);
void PF_KERN(rows_scale)(int64_t n, int64_t d, const float *c, int64_t step, const float *x,
                         int64_t ldx, bool add, float *y, int64_t ldy);
void PF_KERN(rows_load)(int64_t n, int64_t d, float c, const float *x, int64_t ldx, float *y,
                        float *half);
void PF_KERN(rows_weigh)(int64_t n, int64_t d, const float *c, const float *x, int64_t ldx,
                         const float *z, int64_t ldz, float *y, float *dots);
void PF_KERN(rows_dot)(int64_t n, int64_t m, int64_t ld, const float *f, const float *z, float *y);
void PF_KERN(rows_sum)(int64_t n, int64_t m, int64_t ld, const float *f, const float *w, float *y);
void PF_KERN(gemv)(int64_t n, int64_t k, const float *w, int64_t ld, const float *x, const float *b,
                   float *y);

/* kern_gemm.c */
void PF_KERN(block_gemm)(bool ta, bool tb, int64_t m, int64_t n, int64_t k, const float *a,
                         int64_t lda, const float *b, int64_t ldb, float beta, float *c,
                         int64_t ldc, float *panel);

/* kern_hadamard.c */
void PF_KERN(hadamard)(const pf_hadamard *blocks, int64_t m, int64_t n, const float *x, int64_t ldx,
                       float *y, int64_t ldy, float *panel);
void PF_KERN(hadamard_back)(const pf_hadamard *blocks, int64_t m, int64_t n, const float *y,
                            int64_t ldy, float *x, int64_t ldx, float *panel);

#endif
