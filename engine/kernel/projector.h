/*
 * projector.h - a projection ready for blocks of rows: u = x W^T and its transpose, by a
 * matrix product or, where the rows are a Hadamard product and long enough, in O(m log d).
 */
#ifndef PF_PROJECTOR_H
#define PF_PROJECTOR_H

#include "gemm.h"
#include "kern.h"
#include "projection.h"
#include "packed.h"

typedef struct pf_projector {
    const pf_kern *kern;
    int64_t m, d;
    const float *w;            /* (m, d) */
    const pf_hadamard *blocks; /* NULL: by the matrix */
    pf_packed packed;          /* w, for many rows */
    float *panel;              /* of pf_block_gemm */
    float *lanes;              /* of the Hadamard kernels */
} pf_projector;

/* Whether the factors of an (m, d) projection are worth having; never depends on the rows. */
bool pf_projector_factored(int64_t m, int64_t d);
/* w (m, d) of one head and, where they are worth it, its factors (blocks, rounds + 1, d) or
 * NULL; panel (PF_PANEL) is the caller's. Cuts its work space from *scratch; with *scratch
 * NULL-based and w NULL it only measures. Factors that do not give w are left alone. */
void pf_projector_open(pf_projector *p, const pf_kern *kern, int64_t m, int64_t d, const float *w,
                       const float *factors, float *panel, void **scratch);
/* Faster for many rows, with the same bits: strips hold pf_packed_floats(m, d). Where the level
 * has a block_gemm. */
void pf_projector_pack(pf_projector *p, float *strips);
/* u (n, m; ldu) <- x (n, d) W^T;  x (n, d) += u W. */
void pf_project(const pf_projector *p, int64_t n, const float *x, float *u, int64_t ldu);
void pf_project_back(const pf_projector *p, int64_t n, const float *u, int64_t ldu, float *x);

#endif
