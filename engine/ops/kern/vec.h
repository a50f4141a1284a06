/*
 * vec.h - the vector vocabulary of the kernels. A kernel is written once in these verbs and
 * compiled a level at a time (PF_LEVEL 0 generic, 1 AVX2+FMA, 2 AVX-512); the three headers
 * below give the same verbs for each.
 *
 *   vf, vi, vm, vd   VW floats, VW int32, VW truth values, VW/2 doubles
 *   vf_load vf_store            whole vectors, any alignment
 *   vf_load_n vf_load_or        the first n < VW lanes; the others are 0 / lanes of `fill`
 *   vf_store_n                  the first n < VW lanes; touches no other memory
 *   vf_fma(a,b,c) = ab + c      vf_fnma(a,b,c) = c - ab (generic: two roundings)
 *   vf_max(a,b) = a > b ? a : b vf_min(a,b) = a < b ? a : b: a NaN in either gives b, so
 *                               the operand whose NaN must survive stands second
 *   vf_select(m,a,b)            m ? a : b, a lane at a time
 *   vf_sum vf_top               lanes added as a fixed tree; the largest lane (no NaN rule)
 *   vi_of / vf_of               reinterpret bits
 *
 * What must hold: lanes never mix outside the reductions and the two pair verbs, so an
 * element's bits cannot depend on its lane.
 */
#ifndef PF_VEC_H
#define PF_VEC_H

#include <math.h>
#include <string.h>

#include "base.h"

#define PF_INLINE static inline __attribute__((always_inline))

#if PF_LEVEL == 0
#include "vec_generic.h"
#define PF_KERN(name) pf_kern_##name##_generic
#define PF_LEVEL_NAME "generic"
#elif PF_LEVEL == 1
#include "vec_avx2.h"
#define PF_KERN(name) pf_kern_##name##_avx2
#define PF_LEVEL_NAME "avx2"
#elif PF_LEVEL == 2
#include "vec_avx512.h"
#define PF_KERN(name) pf_kern_##name##_avx512
#define PF_LEVEL_NAME "avx512"
#else
#error "PF_LEVEL is 0, 1 or 2"
#endif

/* Verbs that follow from the others. */

PF_INLINE vf vf_zero(void) { return vf_set(0.0f); }

/* -0.0f is the sign bit alone. */
PF_INLINE vf vf_neg(vf a) { return vf_xor(a, vf_set(-0.0f)); }
PF_INLINE vf vf_abs(vf a) { return vf_andnot(vf_set(-0.0f), a); }
PF_INLINE vf vf_minus_abs(vf a) { return vf_or(a, vf_set(-0.0f)); }
/* |a| with the sign of b, for a >= 0. */
PF_INLINE vf vf_give_sign(vf a, vf b) { return vf_or(a, vf_and(b, vf_set(-0.0f))); }
PF_INLINE vm vf_is_nan(vf a) { return vf_unordered(a, a); }

/* Lanes 0 .. k-1 of a run's rest, all for k >= VW; the others are 0 or left alone. */
PF_INLINE vf vf_get(const float *p, int64_t k) { return k >= VW ? vf_load(p) : vf_load_n(p, k); }
PF_INLINE void vf_put(float *p, int64_t k, vf a) {
    if (k >= VW)
        vf_store(p, a);
    else
        vf_store_n(p, k, a);
}

/* ((a0 + a1) + (a2 + a3)), lanes last: the tree of every four-accumulator reduction. */
PF_INLINE float vf_sum4(vf a0, vf a1, vf a2, vf a3) {
    return vf_sum(vf_add(vf_add(a0, a1), vf_add(a2, a3)));
}

#endif
