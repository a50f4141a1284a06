/*
 * vec_avx512.h - the verbs of vec.h in AVX-512 (F, DQ, BW, VL): sixteen lanes, masks in
 * mask registers, so that tails cost no more than whole vectors.
 */
#ifndef PF_VEC_AVX512_H
#define PF_VEC_AVX512_H

#include <immintrin.h>

#include "vec_turn.h"

enum { VW = 16 };

typedef __m512 vf;
typedef __m512i vi;
typedef __mmask16 vm;
typedef __m512d vd;

PF_INLINE vi vi_of(vf a) { return _mm512_castps_si512(a); }
PF_INLINE vf vf_of(vi a) { return _mm512_castsi512_ps(a); }

/* The first n of sixteen lanes. */
PF_INLINE vm vec_first(int64_t n) { return (vm)((1u << (unsigned)n) - 1u); }

PF_INLINE vf vf_set(float a) { return _mm512_set1_ps(a); }
PF_INLINE vf vf_load(const float *p) { return _mm512_loadu_ps(p); }
PF_INLINE void vf_store(float *p, vf a) { _mm512_storeu_ps(p, a); }
PF_INLINE vf vf_load_n(const float *p, int64_t n) { return _mm512_maskz_loadu_ps(vec_first(n), p); }
PF_INLINE vf vf_load_or(const float *p, int64_t n, vf fill) {
    return _mm512_mask_loadu_ps(fill, vec_first(n), p);
}
PF_INLINE void vf_store_n(float *p, int64_t n, vf a) { _mm512_mask_storeu_ps(p, vec_first(n), a); }

PF_INLINE vf vf_add(vf a, vf b) { return _mm512_add_ps(a, b); }
PF_INLINE vf vf_sub(vf a, vf b) { return _mm512_sub_ps(a, b); }
PF_INLINE vf vf_mul(vf a, vf b) { return _mm512_mul_ps(a, b); }
PF_INLINE vf vf_div(vf a, vf b) { return _mm512_div_ps(a, b); }
PF_INLINE vf vf_fma(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }
PF_INLINE vf vf_fnma(vf a, vf b, vf c) { return _mm512_fnmadd_ps(a, b, c); }
PF_INLINE vf vf_sqrt(vf a) { return _mm512_sqrt_ps(a); }
/* The instructions return the second operand when either is NaN: the verbs' rule. */
PF_INLINE vf vf_max(vf a, vf b) { return _mm512_max_ps(a, b); }
PF_INLINE vf vf_min(vf a, vf b) { return _mm512_min_ps(a, b); }

PF_INLINE vf vf_and(vf a, vf b) { return _mm512_and_ps(a, b); }
PF_INLINE vf vf_andnot(vf a, vf b) { return _mm512_andnot_ps(a, b); }
PF_INLINE vf vf_or(vf a, vf b) { return _mm512_or_ps(a, b); }
PF_INLINE vf vf_xor(vf a, vf b) { return _mm512_xor_ps(a, b); }

PF_INLINE vm vf_lt(vf a, vf b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ); }
PF_INLINE vm vf_ge(vf a, vf b) { return _mm512_cmp_ps_mask(a, b, _CMP_GE_OQ); }
PF_INLINE vm vf_eq(vf a, vf b) { return _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ); }
PF_INLINE vm vf_unordered(vf a, vf b) { return _mm512_cmp_ps_mask(a, b, _CMP_UNORD_Q); }
PF_INLINE vm vm_none(void) { return 0; }
PF_INLINE vm vm_or(vm a, vm b) { return (vm)(a | b); }
PF_INLINE bool vm_any(vm a) { return a != 0; }
PF_INLINE vf vf_select(vm m, vf a, vf b) { return _mm512_mask_blend_ps(m, b, a); }

PF_INLINE vi vi_set(int32_t a) { return _mm512_set1_epi32(a); }
PF_INLINE vi vi_load(const uint32_t *p) { return _mm512_loadu_si512(p); }
PF_INLINE vi vi_load_n(const uint32_t *p, int64_t n) {
    return _mm512_maskz_loadu_epi32(vec_first(n), p);
}
PF_INLINE vi vi_add(vi a, vi b) { return _mm512_add_epi32(a, b); }
PF_INLINE vi vi_sub(vi a, vi b) { return _mm512_sub_epi32(a, b); }
PF_INLINE vi vi_and(vi a, vi b) { return _mm512_and_si512(a, b); }
PF_INLINE vi vi_shl(vi a, int n) { return _mm512_slli_epi32(a, (unsigned)n); }
PF_INLINE vi vi_sar(vi a, int n) { return _mm512_srai_epi32(a, (unsigned)n); }
PF_INLINE vm vi_eq(vi a, vi b) { return _mm512_cmpeq_epi32_mask(a, b); }
PF_INLINE vm vi_unsigned_ge(vi a, vi b) { return _mm512_cmpge_epu32_mask(a, b); }

/* Halves, then quarters, and so on: the compiler's tree is not promised, so it is ours. */
PF_INLINE __m256 vec_high_half(vf a) { return _mm512_extractf32x8_ps(a, 1); }
PF_INLINE float vf_sum(vf a) {
    __m256 h = _mm256_add_ps(_mm512_castps512_ps256(a), vec_high_half(a));
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}
PF_INLINE float vf_top(vf a) {
    __m256 h = _mm256_max_ps(_mm512_castps512_ps256(a), vec_high_half(a));
    __m128 s = _mm_max_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
    s = _mm_max_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_max_ss(s, _mm_movehdup_ps(s)));
}

PF_INLINE vf vf_swap_pairs(vf a) { return _mm512_permute_ps(a, 0xB1); }
PF_INLINE vf vf_load_twice(const float *p) {
    const vi twice = _mm512_set_epi32(7, 7, 6, 6, 5, 5, 4, 4, 3, 3, 2, 2, 1, 1, 0, 0);
    return _mm512_permutexvar_ps(twice, _mm512_castps256_ps512(_mm256_loadu_ps(p)));
}

PF_INLINE vd vd_zero(void) { return _mm512_setzero_pd(); }
PF_INLINE vd vd_low(vf a) { return _mm512_cvtps_pd(_mm512_castps512_ps256(a)); }
PF_INLINE vd vd_high(vf a) { return _mm512_cvtps_pd(vec_high_half(a)); }
PF_INLINE vd vd_add(vd a, vd b) { return _mm512_add_pd(a, b); }
PF_INLINE vd vd_fma(vd a, vd b, vd c) { return _mm512_fmadd_pd(a, b, c); }
PF_INLINE double vd_sum(vd a) {
    __m256d h = _mm256_add_pd(_mm512_castpd512_pd256(a), _mm512_extractf64x4_pd(a, 1));
    __m128d s = _mm_add_pd(_mm256_castpd256_pd128(h), _mm256_extractf128_pd(h, 1));
    return _mm_cvtsd_f64(_mm_add_sd(s, _mm_unpackhi_pd(s, s)));
}

#endif
