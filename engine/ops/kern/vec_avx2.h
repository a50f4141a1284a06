/* vec_avx2.h - the verbs of vec.h in AVX2 and FMA: eight lanes, masks as full vectors. */
#ifndef PF_VEC_AVX2_H
#define PF_VEC_AVX2_H

#include <immintrin.h>

#include "vec_turn.h"

enum { VW = 8 };

typedef __m256 vf;
typedef __m256i vi;
typedef __m256 vm; /* a lane's sign bit counts; all bits are equal */
typedef __m256d vd;

PF_INLINE vi vi_of(vf a) { return _mm256_castps_si256(a); }
PF_INLINE vf vf_of(vi a) { return _mm256_castsi256_ps(a); }

/* All bits set in the first n of eight lanes. */
PF_INLINE vi vec_first(int64_t n) {
    static const int32_t mask[16] = {-1, -1, -1, -1, -1, -1, -1, -1};
    return _mm256_loadu_si256((const __m256i *)(const void *)(mask + 8 - n));
}

PF_INLINE vf vf_set(float a) { return _mm256_set1_ps(a); }
PF_INLINE vf vf_load(const float *p) { return _mm256_loadu_ps(p); }
PF_INLINE void vf_store(float *p, vf a) { _mm256_storeu_ps(p, a); }
PF_INLINE vf vf_load_n(const float *p, int64_t n) { return _mm256_maskload_ps(p, vec_first(n)); }
PF_INLINE vf vf_load_or(const float *p, int64_t n, vf fill) {
    vi mask = vec_first(n);
    return _mm256_blendv_ps(fill, _mm256_maskload_ps(p, mask), vf_of(mask));
}
PF_INLINE void vf_store_n(float *p, int64_t n, vf a) { _mm256_maskstore_ps(p, vec_first(n), a); }

PF_INLINE vf vf_add(vf a, vf b) { return _mm256_add_ps(a, b); }
PF_INLINE vf vf_sub(vf a, vf b) { return _mm256_sub_ps(a, b); }
PF_INLINE vf vf_mul(vf a, vf b) { return _mm256_mul_ps(a, b); }
PF_INLINE vf vf_div(vf a, vf b) { return _mm256_div_ps(a, b); }
PF_INLINE vf vf_fma(vf a, vf b, vf c) { return _mm256_fmadd_ps(a, b, c); }
PF_INLINE vf vf_fnma(vf a, vf b, vf c) { return _mm256_fnmadd_ps(a, b, c); }
PF_INLINE vf vf_sqrt(vf a) { return _mm256_sqrt_ps(a); }
/* The instructions return the second operand when either is NaN: the verbs' rule. */
PF_INLINE vf vf_max(vf a, vf b) { return _mm256_max_ps(a, b); }
PF_INLINE vf vf_min(vf a, vf b) { return _mm256_min_ps(a, b); }

PF_INLINE vf vf_and(vf a, vf b) { return _mm256_and_ps(a, b); }
PF_INLINE vf vf_andnot(vf a, vf b) { return _mm256_andnot_ps(a, b); }
PF_INLINE vf vf_or(vf a, vf b) { return _mm256_or_ps(a, b); }
PF_INLINE vf vf_xor(vf a, vf b) { return _mm256_xor_ps(a, b); }

PF_INLINE vm vf_lt(vf a, vf b) { return _mm256_cmp_ps(a, b, _CMP_LT_OQ); }
PF_INLINE vm vf_ge(vf a, vf b) { return _mm256_cmp_ps(a, b, _CMP_GE_OQ); }
PF_INLINE vm vf_eq(vf a, vf b) { return _mm256_cmp_ps(a, b, _CMP_EQ_OQ); }
PF_INLINE vm vf_unordered(vf a, vf b) { return _mm256_cmp_ps(a, b, _CMP_UNORD_Q); }
PF_INLINE vm vm_none(void) { return _mm256_setzero_ps(); }
PF_INLINE vm vm_or(vm a, vm b) { return _mm256_or_ps(a, b); }
PF_INLINE bool vm_any(vm a) { return _mm256_movemask_ps(a) != 0; }
PF_INLINE vf vf_select(vm m, vf a, vf b) { return _mm256_blendv_ps(b, a, m); }

PF_INLINE vi vi_set(int32_t a) { return _mm256_set1_epi32(a); }
PF_INLINE vi vi_load(const uint32_t *p) {
    return _mm256_loadu_si256((const __m256i *)(const void *)p);
}
PF_INLINE vi vi_load_n(const uint32_t *p, int64_t n) {
    return _mm256_maskload_epi32((const int *)(const void *)p, vec_first(n));
}
PF_INLINE vi vi_add(vi a, vi b) { return _mm256_add_epi32(a, b); }
PF_INLINE vi vi_sub(vi a, vi b) { return _mm256_sub_epi32(a, b); }
PF_INLINE vi vi_and(vi a, vi b) { return _mm256_and_si256(a, b); }
PF_INLINE vi vi_shl(vi a, int n) { return _mm256_slli_epi32(a, n); }
PF_INLINE vi vi_sar(vi a, int n) { return _mm256_srai_epi32(a, n); }
PF_INLINE vm vi_eq(vi a, vi b) { return vf_of(_mm256_cmpeq_epi32(a, b)); }
PF_INLINE vm vi_unsigned_ge(vi a, vi b) {
    return vf_of(_mm256_cmpeq_epi32(_mm256_max_epu32(a, b), a));
}

/* Halves, then quarters, then neighbours. */
PF_INLINE float vf_sum(vf a) {
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}
PF_INLINE float vf_top(vf a) {
    __m128 s = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    s = _mm_max_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_max_ss(s, _mm_movehdup_ps(s)));
}

PF_INLINE vf vf_swap_pairs(vf a) { return _mm256_permute_ps(a, 0xB1); }
PF_INLINE vf vf_load_twice(const float *p) {
    __m128 a = _mm_loadu_ps(p);
    return _mm256_set_m128(_mm_unpackhi_ps(a, a), _mm_unpacklo_ps(a, a));
}

PF_INLINE vd vd_zero(void) { return _mm256_setzero_pd(); }
PF_INLINE vd vd_low(vf a) { return _mm256_cvtps_pd(_mm256_castps256_ps128(a)); }
PF_INLINE vd vd_high(vf a) { return _mm256_cvtps_pd(_mm256_extractf128_ps(a, 1)); }
PF_INLINE vd vd_add(vd a, vd b) { return _mm256_add_pd(a, b); }
PF_INLINE vd vd_fma(vd a, vd b, vd c) { return _mm256_fmadd_pd(a, b, c); }
PF_INLINE double vd_sum(vd a) {
    __m128d s = _mm_add_pd(_mm256_castpd256_pd128(a), _mm256_extractf128_pd(a, 1));
    return _mm_cvtsd_f64(_mm_add_sd(s, _mm_unpackhi_pd(s, s)));
}

#endif
