/*
 * vmap.h - the loops of the elementwise kernels: y[i] = f(c, x[i], ...) over a run, whole
 * vectors first, then the tail through the same f. `c` carries f's constants. f is always
 * inlined, so a loop is as tight as one written out. Inputs may be the output (not merely
 * overlap it): a vector is read whole before it is written.
 */
#ifndef PF_VMAP_H
#define PF_VMAP_H

#include "vec.h"

typedef vf (*vmap_fn1)(const vf *c, vf x);
typedef vf (*vmap_fn2)(const vf *c, vf a, vf b);
typedef vf (*vmap_fn3)(const vf *c, vf a, vf b, vf d);
typedef vf (*vmap_fn4)(const vf *c, vf a, vf b, vf d, vf e);

PF_INLINE void vmap1(vmap_fn1 f, const vf *c, int64_t n, const float *x, float *y) {
    int64_t i = 0;
    for (; i + VW <= n; i += VW) vf_store(y + i, f(c, vf_load(x + i)));
    if (i < n) vf_store_n(y + i, n - i, f(c, vf_load_n(x + i, n - i)));
}

PF_INLINE void vmap2(vmap_fn2 f, const vf *c, int64_t n, const float *a, const float *b, float *y) {
    int64_t i = 0;
    for (; i + VW <= n; i += VW) vf_store(y + i, f(c, vf_load(a + i), vf_load(b + i)));
    int64_t k = n - i;
    if (k > 0) vf_store_n(y + i, k, f(c, vf_load_n(a + i, k), vf_load_n(b + i, k)));
}

PF_INLINE void vmap3(vmap_fn3 f, const vf *c, int64_t n, const float *a, const float *b,
                     const float *d, float *y) {
    int64_t i = 0;
    for (; i + VW <= n; i += VW)
        vf_store(y + i, f(c, vf_load(a + i), vf_load(b + i), vf_load(d + i)));
    int64_t k = n - i;
    if (k > 0)
        vf_store_n(y + i, k, f(c, vf_load_n(a + i, k), vf_load_n(b + i, k), vf_load_n(d + i, k)));
}

PF_INLINE void vmap4(vmap_fn4 f, const vf *c, int64_t n, const float *a, const float *b,
                     const float *d, const float *e, float *y) {
    int64_t i = 0;
    for (; i + VW <= n; i += VW)
        vf_store(y + i, f(c, vf_load(a + i), vf_load(b + i), vf_load(d + i), vf_load(e + i)));
    int64_t k = n - i;
    if (k > 0)
        vf_store_n(y + i, k,
                   f(c, vf_load_n(a + i, k), vf_load_n(b + i, k), vf_load_n(d + i, k),
                     vf_load_n(e + i, k)));
}

#endif
