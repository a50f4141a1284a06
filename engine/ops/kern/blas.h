/*
 * blas.h - the BLAS as gemm.c sees it: the functions it calls, once the library is there.
 */
#ifndef PF_BLAS_H
#define PF_BLAS_H

#include <cblas.h>

typedef struct pf_blas {
    void (*sgemm)(enum CBLAS_ORDER order, enum CBLAS_TRANSPOSE ta, enum CBLAS_TRANSPOSE tb,
                  blasint m, blasint n, blasint k, float alpha, const float *a, blasint lda,
                  const float *b, blasint ldb, float beta, float *c, blasint ldc);
    char *(*config)(void);
    int (*parallel)(void); /* 0: sequential, 1: own threads, 2: OpenMP */
} pf_blas;

/* The functions, loaded by the first call; NULL where there is no BLAS. From any thread. */
const pf_blas *pf_blas_get(void);

#endif
