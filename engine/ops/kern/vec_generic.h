/*
 * vec_generic.h - the verbs of vec.h for any processor: four lanes in the compiler's own
 * vector type, which becomes SSE2, NEON, or scalar code as the target allows. There is no
 * fused multiply-add here (without the hardware it is a slow library call).
 */
#ifndef PF_VEC_GENERIC_H
#define PF_VEC_GENERIC_H

enum { VW = 4 };

typedef float vf __attribute__((vector_size(16)));
typedef int32_t vi __attribute__((vector_size(16)));
typedef uint32_t vec_u32 __attribute__((vector_size(16)));
typedef vi vm; /* a lane is 0 or -1 */
typedef double vd __attribute__((vector_size(16)));

PF_INLINE vi vi_of(vf a) { return (vi)a; }
PF_INLINE vf vf_of(vi a) { return (vf)a; }

PF_INLINE vf vf_set(float a) { return (vf){a, a, a, a}; }
PF_INLINE vf vf_load(const float *p) {
    vf a;
    memcpy(&a, p, sizeof a);
    return a;
}
PF_INLINE void vf_store(float *p, vf a) { memcpy(p, &a, sizeof a); }
PF_INLINE vf vf_load_or(const float *p, int64_t n, vf fill) {
    for (int64_t i = 0; i < n; i++) fill[i] = p[i];
    return fill;
}
PF_INLINE vf vf_load_n(const float *p, int64_t n) { return vf_load_or(p, n, vf_set(0.0f)); }
PF_INLINE void vf_store_n(float *p, int64_t n, vf a) {
    for (int64_t i = 0; i < n; i++) p[i] = a[i];
}

PF_INLINE vf vf_add(vf a, vf b) { return a + b; }
PF_INLINE vf vf_sub(vf a, vf b) { return a - b; }
PF_INLINE vf vf_mul(vf a, vf b) { return a * b; }
PF_INLINE vf vf_div(vf a, vf b) { return a / b; }
PF_INLINE vf vf_fma(vf a, vf b, vf c) { return a * b + c; }
PF_INLINE vf vf_fnma(vf a, vf b, vf c) { return c - a * b; }
PF_INLINE vf vf_sqrt(vf a) { return (vf){sqrtf(a[0]), sqrtf(a[1]), sqrtf(a[2]), sqrtf(a[3])}; }

PF_INLINE vf vf_and(vf a, vf b) { return (vf)((vi)a & (vi)b); }
PF_INLINE vf vf_andnot(vf a, vf b) { return (vf)(~(vi)a & (vi)b); }
PF_INLINE vf vf_or(vf a, vf b) { return (vf)((vi)a | (vi)b); }
PF_INLINE vf vf_xor(vf a, vf b) { return (vf)((vi)a ^ (vi)b); }

PF_INLINE vm vf_lt(vf a, vf b) { return a < b; }
PF_INLINE vm vf_ge(vf a, vf b) { return a >= b; }
PF_INLINE vm vf_eq(vf a, vf b) { return a == b; }
/* NaN alone is no number's equal, not its own. NOLINTNEXTLINE(misc-redundant-expression) */
PF_INLINE vm vf_unordered(vf a, vf b) { return (a != a) | (b != b); }
PF_INLINE vm vm_none(void) { return (vm){0, 0, 0, 0}; }
PF_INLINE vm vm_or(vm a, vm b) { return a | b; }
PF_INLINE bool vm_any(vm a) { return (a[0] | a[1] | a[2] | a[3]) != 0; }
PF_INLINE vf vf_select(vm m, vf a, vf b) { return (vf)((m & (vi)a) | (~m & (vi)b)); }
PF_INLINE vf vf_max(vf a, vf b) { return vf_select(a > b, a, b); }
PF_INLINE vf vf_min(vf a, vf b) { return vf_select(a < b, a, b); }

PF_INLINE vi vi_set(int32_t a) { return (vi){a, a, a, a}; }
PF_INLINE vi vi_load(const uint32_t *p) {
    vi a;
    memcpy(&a, p, sizeof a);
    return a;
}
PF_INLINE vi vi_load_n(const uint32_t *p, int64_t n) {
    vec_u32 a = {0, 0, 0, 0};
    for (int64_t i = 0; i < n; i++) a[i] = p[i];
    return (vi)a;
}
/* Unsigned, so that wrapping is defined. */
PF_INLINE vi vi_add(vi a, vi b) { return (vi)((vec_u32)a + (vec_u32)b); }
PF_INLINE vi vi_sub(vi a, vi b) { return (vi)((vec_u32)a - (vec_u32)b); }
PF_INLINE vi vi_and(vi a, vi b) { return a & b; }
PF_INLINE vi vi_shl(vi a, int n) { return (vi)((vec_u32)a << (uint32_t)n); }
PF_INLINE vi vi_sar(vi a, int n) { return a >> n; }
PF_INLINE vm vi_eq(vi a, vi b) { return a == b; }
PF_INLINE vm vi_unsigned_ge(vi a, vi b) { return (vm)((vec_u32)a >= (vec_u32)b); }

PF_INLINE float vf_sum(vf a) { return (a[0] + a[2]) + (a[1] + a[3]); }
PF_INLINE float vf_top(vf a) {
    float low = a[0] > a[2] ? a[0] : a[2], high = a[1] > a[3] ? a[1] : a[3];
    return low > high ? low : high;
}

/* Pairs of neighbours: (a0, a1, ...) gives (a1, a0, ...); VW/2 values, each twice. */
PF_INLINE vf vf_swap_pairs(vf a) { return (vf){a[1], a[0], a[3], a[2]}; }
PF_INLINE vf vf_load_twice(const float *p) { return (vf){p[0], p[0], p[1], p[1]}; }

PF_INLINE vd vd_zero(void) { return (vd){0.0, 0.0}; }
PF_INLINE vd vd_low(vf a) { return (vd){(double)a[0], (double)a[1]}; }
PF_INLINE vd vd_high(vf a) { return (vd){(double)a[2], (double)a[3]}; }
PF_INLINE vd vd_add(vd a, vd b) { return a + b; }
PF_INLINE vd vd_fma(vd a, vd b, vd c) { return a * b + c; }
PF_INLINE double vd_sum(vd a) { return a[0] + a[1]; }

/* The transpose of a block of VT x VT: to[i * ldt + j] = from[j * ldf + i]. */
enum { VT = 4 };
PF_INLINE void vt_turn(const float *from, int64_t ldf, float *to, int64_t ldt) {
    for (int i = 0; i < VT; i++) {
        for (int j = 0; j < VT; j++) to[i * ldt + j] = from[j * ldf + i];
    }
}

#endif
