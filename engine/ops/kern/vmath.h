/*
 * vmath.h - elementary functions on vectors, in the verbs of vec.h. Errors are in ulp of
 * the correctly rounded float and hold at every level; simd_math_test.c sweeps them.
 *
 * Without fast-math: NaN gives NaN, infinities and zeros give what C's libm gives, unless
 * a comment says otherwise. Polynomials are minimax fits of our own, or Cephes' (log, tanh,
 * sin, cos: S. Moshier, Methods and Programs for Mathematical Functions, 1989).
 */
#ifndef PF_VMATH_H
#define PF_VMATH_H

#include "vec.h"

/* Adding 1.5 * 2^23 rounds to the nearest integer and leaves it in the low bits. */
#define VM_ROUND      0x1.8p23f
#define VM_ROUND_BITS 0x4B400000

/* The exponential: x = n ln 2 + b, |b| <= 0.347. ln 2 is in two parts, the first of 15
 * bits, so that n times it is exact; e^b = 1 + b + b^2 (C2 + C3 b + ...) to 3e-9. */
#define VM_LOG2E    0x1.715476p+0f
#define VM_LN2_HIGH 0x1.62e4p-1f
#define VM_LN2_LOW  0x1.7f7d1cp-20f
#define VM_EXP_C2   0x1.fffffcp-2f
#define VM_EXP_C3   0x1.555492p-3f
#define VM_EXP_C4   0x1.5558f2p-5f
#define VM_EXP_C5   0x1.1239f6p-7f
#define VM_EXP_C6   0x1.6a2416p-10f

/* Returns b; *bits is VM_ROUND_BITS + n. */
PF_INLINE vf vm_reduce_exp(vf x, vi *bits) {
    vf z = vf_fma(x, vf_set(VM_LOG2E), vf_set(VM_ROUND));
    vf n = vf_sub(z, vf_set(VM_ROUND));
    *bits = vi_of(z);
    return vf_fnma(n, vf_set(VM_LN2_LOW), vf_fnma(n, vf_set(VM_LN2_HIGH), x));
}

/* e^b - 1 */
PF_INLINE vf vm_poly_exp(vf b) {
    vf bb = vf_mul(b, b);
    vf high = vf_fma(vf_set(VM_EXP_C6), b, vf_set(VM_EXP_C5));
    vf mid = vf_fma(vf_set(VM_EXP_C4), b, vf_set(VM_EXP_C3));
    vf q = vf_fma(vf_fma(high, bb, mid), b, vf_set(VM_EXP_C2));
    return vf_fma(bb, q, b);
}

/* 2^n as float from the rounding bits, -127 <= n <= 127; n = -127 gives 0. */
PF_INLINE vf vm_scale(vi bits) { return vf_of(vi_add(vi_shl(bits, 23), vi_set(0x3f800000))); }

/* e^x for x <= 88: 1 ulp. Below -87.34, where the result is no normal number, it fades to
 * 0, and is 0 from -87.7 on. */
PF_INLINE vf vm_exp_low(vf x) {
    vi bits;
    vf b = vm_reduce_exp(vf_max(vf_set(-88.0f), x), &bits);
    vf k = vm_scale(bits);
    return vf_fma(k, vm_poly_exp(b), k);
}

/* vm_exp_low on four vectors, the same bits, for the hot loops: step by step side by side,
 * so that four chains of dependent operations fill the pipes (measured: a sixth faster). */
PF_INLINE void vm_exp_low4(vf x[4]) {
    enum { N = 4 };
    vf k[N], z[N], b[N], bb[N], p[N], q[N];
    for (int j = 0; j < N; j++) x[j] = vf_max(vf_set(-88.0f), x[j]);
    for (int j = 0; j < N; j++) z[j] = vf_fma(x[j], vf_set(VM_LOG2E), vf_set(VM_ROUND));
    for (int j = 0; j < N; j++) k[j] = vm_scale(vi_of(z[j]));
    for (int j = 0; j < N; j++) z[j] = vf_sub(z[j], vf_set(VM_ROUND));
    for (int j = 0; j < N; j++) b[j] = vf_fnma(z[j], vf_set(VM_LN2_HIGH), x[j]);
    for (int j = 0; j < N; j++) b[j] = vf_fnma(z[j], vf_set(VM_LN2_LOW), b[j]);
    for (int j = 0; j < N; j++) bb[j] = vf_mul(b[j], b[j]);
    for (int j = 0; j < N; j++) p[j] = vf_fma(vf_set(VM_EXP_C6), b[j], vf_set(VM_EXP_C5));
    for (int j = 0; j < N; j++) q[j] = vf_fma(vf_set(VM_EXP_C4), b[j], vf_set(VM_EXP_C3));
    for (int j = 0; j < N; j++) q[j] = vf_fma(p[j], bb[j], q[j]);
    for (int j = 0; j < N; j++) q[j] = vf_fma(q[j], b[j], vf_set(VM_EXP_C2));
    for (int j = 0; j < N; j++) q[j] = vf_fma(bb[j], q[j], b[j]);
    for (int j = 0; j < N; j++) x[j] = vf_fma(k[j], q[j], k[j]);
}

/* e^(hi + lo), hi <= 0, |lo| <= 0.06: for exponents that no single float can hold. */
PF_INLINE vf vm_exp_sum(vf hi, vf lo) {
    vi bits;
    vf b = vf_add(vm_reduce_exp(vf_max(vf_set(-88.0f), hi), &bits), lo);
    vf k = vm_scale(bits);
    return vf_fma(k, vm_poly_exp(b), k);
}

/* e^x for any x: 1 ulp, denormal results right to their last bit but one.
 * 2^n goes in two factors, because it may be no float itself. */
PF_INLINE vf vm_exp(vf x) {
    vi bits;
    vf b = vm_reduce_exp(vf_min(vf_set(89.5f), vf_max(vf_set(-105.0f), x)), &bits);
    vi n = vi_sub(bits, vi_set(VM_ROUND_BITS));
    vi half = vi_sar(n, 1);
    vf p = vf_add(vm_poly_exp(b), vf_set(1.0f));
    return vf_mul(vf_mul(p, vm_scale(half)), vm_scale(vi_sub(n, half)));
}

/* e^x - 1 for x <= 88: 1 ulp, also near 0. */
PF_INLINE vf vm_expm1_low(vf x) {
    vi bits;
    vf b = vm_reduce_exp(vf_max(vf_set(-88.0f), x), &bits);
    vf k = vm_scale(bits);
    return vf_fma(k, vm_poly_exp(b), vf_sub(k, vf_set(1.0f)));
}

/* log x: 1 ulp. */
PF_INLINE vf vm_log(vf x) {
    const vf tiny = vf_set(0x1p-126f);
    vm denormal = vf_lt(x, tiny);
    vf y = vf_select(denormal, vf_mul(x, vf_set(0x1p23f)), x);
    /* y = 2^e f with f from sqrt(1/2) to sqrt(2). */
    vi e = vi_sar(vi_sub(vi_of(y), vi_set(0x3f3504f3)), 23);
    vf f = vf_sub(vf_of(vi_sub(vi_of(y), vi_shl(e, 23))), vf_set(1.0f));
    vf ef = vf_sub(vf_of(vi_add(e, vi_set(VM_ROUND_BITS))), vf_set(VM_ROUND));
    ef = vf_sub(ef, vf_select(denormal, vf_set(23.0f), vf_zero()));

    vf p = vf_fma(vf_set(7.0376836292e-2f), f, vf_set(-1.1514610310e-1f));
    p = vf_fma(p, f, vf_set(1.1676998740e-1f));
    p = vf_fma(p, f, vf_set(-1.2420140846e-1f));
    p = vf_fma(p, f, vf_set(1.4249322787e-1f));
    p = vf_fma(p, f, vf_set(-1.6668057665e-1f));
    p = vf_fma(p, f, vf_set(2.0000714765e-1f));
    p = vf_fma(p, f, vf_set(-2.4999993993e-1f));
    p = vf_fma(p, f, vf_set(3.3333331174e-1f));
    vf ff = vf_mul(f, f);
    p = vf_mul(vf_mul(p, f), ff);
    p = vf_fma(ef, vf_set(-2.12194440e-4f), p);
    p = vf_fma(vf_set(-0.5f), ff, p);
    vf r = vf_fma(ef, vf_set(0.693359375f), vf_add(f, p));

    r = vf_select(vf_lt(x, vf_set(INFINITY)), r, x); /* inf and NaN are their own logs */
    r = vf_select(vf_eq(x, vf_zero()), vf_set(-INFINITY), r);
    return vf_select(vf_lt(x, vf_zero()), vf_set(NAN), r);
}

/* 1 / (1 + e^-x): 3 ulp; 0 from -87.7 down. */
PF_INLINE vf vm_sigmoid(vf x) {
    const vf one = vf_set(1.0f);
    vf e = vm_exp_low(vf_minus_abs(x));
    return vf_div(vf_select(vf_ge(x, vf_zero()), one, e), vf_add(one, e));
}

/* The same, and its derivative s (1 - s) without cancellation. */
PF_INLINE vf vm_sigmoid_slope(vf x, vf *slope) {
    const vf one = vf_set(1.0f);
    vf e = vm_exp_low(vf_minus_abs(x));
    vf r = vf_div(one, vf_add(one, e)), er = vf_mul(e, r);
    *slope = vf_mul(er, r);
    return vf_select(vf_ge(x, vf_zero()), r, er);
}

/* tanh x: 2 ulp. */
PF_INLINE vf vm_tanh(vf x) {
    const vf one = vf_set(1.0f);
    vf t = vf_abs(x);
    vf e = vm_exp_low(vf_mul(vf_set(-2.0f), t));
    vf far = vf_div(vf_sub(one, e), vf_add(one, e));
    vf z = vf_mul(t, t);
    vf p = vf_fma(vf_set(-5.70498872745e-3f), z, vf_set(2.06390887954e-2f));
    p = vf_fma(p, z, vf_set(-5.37397155531e-2f));
    p = vf_fma(p, z, vf_set(1.33314422036e-1f));
    p = vf_fma(p, z, vf_set(-3.33332819422e-1f));
    vf near = vf_fma(vf_mul(p, z), t, t);
    return vf_give_sign(vf_select(vf_lt(t, vf_set(0.625f)), near, far), x);
}

/*
 * The normal distribution: returns P(Z <= x) = (1 + erf(x / sqrt 2)) / 2, and its density
 * in *density. 4 ulp (5 without FMA) also in the lower tail, where 1 + erf would cancel:
 * with t = |x|, P(Z <= -t) = e^(-t^2/2) M(t), and M is smooth (a polynomial in 1/(1+0.3t)).
 * Below x = -13.2 the result is 0.
 */
PF_INLINE vf vm_normal(vf x, vf *density) {
    const vf one = vf_set(1.0f);
    vf t = vf_min(vf_set(15.0f), vf_abs(x));
    /* t^2 exactly: a has 12 bits, so a*a is exact, and the rest is small. */
    vf a = vf_of(vi_and(vi_of(t), vi_set(~0xfff)));
    vf rest = vf_mul(vf_sub(t, a), vf_add(t, a));
    vf e = vm_exp_sum(vf_mul(vf_set(-0.5f), vf_mul(a, a)), vf_mul(vf_set(-0.5f), rest));

    vf scaled = vf_mul(vf_set(0.3f), t);
    vf w = vf_div(one, vf_add(scaled, one));
    vf s = vf_fnma(scaled, w, vf_set(0.5f)); /* w - 1/2, more exact near t = 0 */
    vf p = vf_fma(vf_set(-0x1.516bfep-6f), s, vf_set(0x1.4115b2p-6f));
    p = vf_fma(p, s, vf_set(0x1.264b4p-5f));
    p = vf_fma(p, s, vf_set(-0x1.2aa708p-5f));
    p = vf_fma(p, s, vf_set(-0x1.3da854p-4f));
    p = vf_fma(p, s, vf_set(0x1.dc0f52p-6f));
    p = vf_fma(p, s, vf_set(0x1.c6d34cp-3f));
    p = vf_fma(p, s, vf_set(0x1.6281f2p-2f));
    p = vf_fma(p, s, vf_set(0x1.510f0cp-2f));
    p = vf_fma(p, s, vf_set(0x1.c69888p-3f));
    vf tail = vf_mul(e, vf_mul(p, w));
    *density = vf_mul(e, vf_set(0x1.988454p-2f)); /* 1 / sqrt(2 pi) */
    return vf_select(vf_lt(vf_zero(), x), vf_sub(one, tail), tail);
}

/* Beyond this the four parts of pi/2 no longer carry n exactly. */
#define VM_TRIG_LIMIT 1e4f

/* The lanes beyond the limit, one at a time by the C library (which has all of pi). */
static __attribute__((noinline)) vf vm_trig_slow(vf x, vf y, bool cosine) {
    float in[VW], out[VW];
    vf_store(in, x);
    vf_store(out, y);
    for (int i = 0; i < VW; i++)
        if (!(fabsf(in[i]) <= VM_TRIG_LIMIT)) out[i] = cosine ? cosf(in[i]) : sinf(in[i]);
    return vf_load(out);
}

/* sin x (cosine: cos x): 3 ulp for |x| <= 1e4, the C library's beyond. */
PF_INLINE vf vm_trig(vf x, bool cosine) {
    vf z = vf_fma(x, vf_set(0x1.45f306p-1f), vf_set(VM_ROUND));
    vf n = vf_sub(z, vf_set(VM_ROUND));
    /* pi/2 in parts of 11 bits and a last one of 24: n has at most 13, so the products
     * with the first three are exact. */
    vf r = vf_fnma(n, vf_set(0x1.92p+0f), x);
    r = vf_fnma(n, vf_set(0x1.fb4p-12f), r);
    r = vf_fnma(n, vf_set(0x1.444p-24f), r);
    r = vf_fnma(n, vf_set(0x1.68c234p-39f), r);

    vf rr = vf_mul(r, r);
    vf s = vf_fma(vf_set(-1.9515295891e-4f), rr, vf_set(8.3321608736e-3f));
    s = vf_fma(s, rr, vf_set(-1.6666654611e-1f));
    s = vf_fma(vf_mul(s, rr), r, r);
    vf c = vf_fma(vf_set(2.443315711809948e-5f), rr, vf_set(-1.388731625493765e-3f));
    c = vf_fma(c, rr, vf_set(4.166664568298827e-2f));
    c = vf_fma(vf_fma(c, rr, vf_set(-0.5f)), rr, vf_set(1.0f));

    /* The quarter turn picks the polynomial (bit 0) and the sign (bit 1). */
    vi quarter = vi_add(vi_of(z), vi_set(cosine ? 1 : 0));
    vm odd = vi_eq(vi_and(quarter, vi_set(1)), vi_set(1));
    vf y = vf_select(odd, c, s);
    y = vf_xor(y, vf_of(vi_shl(vi_and(quarter, vi_set(2)), 30)));
    vm far = vm_or(vf_lt(vf_set(VM_TRIG_LIMIT), vf_abs(x)), vf_is_nan(x));
    return __builtin_expect(vm_any(far), 0) ? vm_trig_slow(x, y, cosine) : y;
}

#endif
