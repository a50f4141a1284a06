/*
 * kern_unary.c - functions of one variable and their derivatives, compiled once a level.
 * A function is one line of arithmetic here and one case in each of the two switches.
 * Bounds of the values stand in vmath.h; the derivatives are good to 1e-6 of max(1, |f'|).
 */
#include "kern_level.h"
#include "vmap.h"
#include "vmath.h"

/* ---- values ------------------------------------------------------------------- */

PF_INLINE vf f_neg(const vf *c, vf x) { return (void)c, vf_neg(x); }
PF_INLINE vf f_exp(const vf *c, vf x) { return (void)c, vm_exp(x); }
PF_INLINE vf f_log(const vf *c, vf x) { return (void)c, vm_log(x); }
PF_INLINE vf f_sqrt(const vf *c, vf x) { return (void)c, vf_sqrt(x); }
PF_INLINE vf f_square(const vf *c, vf x) { return (void)c, vf_mul(x, x); }
PF_INLINE vf f_tanh(const vf *c, vf x) { return (void)c, vm_tanh(x); }
PF_INLINE vf f_sigmoid(const vf *c, vf x) { return (void)c, vm_sigmoid(x); }
PF_INLINE vf f_relu(const vf *c, vf x) { return (void)c, vf_max(vf_zero(), x); }
PF_INLINE vf f_abs(const vf *c, vf x) { return (void)c, vf_abs(x); }
PF_INLINE vf f_cos(const vf *c, vf x) { return (void)c, vm_trig(x, true); }
PF_INLINE vf f_sin(const vf *c, vf x) { return (void)c, vm_trig(x, false); }

PF_INLINE vf f_requ(const vf *c, vf x) {
    (void)c;
    vf r = vf_max(vf_zero(), x);
    return vf_mul(r, r);
}

/* Where the gate is 0 the product shall be 0 even at x = -inf. */
PF_INLINE vf f_gate(vf x, vf gate) { return vf_mul(vf_max(vf_set(-200.0f), x), gate); }

PF_INLINE vf f_gelu(const vf *c, vf x) {
    (void)c;
    vf density;
    return f_gate(x, vm_normal(x, &density));
}

/* x (1 + tanh u) / 2 = x sigmoid(2u), u = sqrt(2/pi) (x + 0.044715 x^3). In the lower tail
 * the rounding of u shows: up to 6 |u| ulp. */
PF_INLINE vf gelu_tanh_inner(vf x) {
    vf cube = vf_mul(vf_mul(vf_set(0.044715f), x), vf_mul(x, x));
    return vf_mul(vf_set(0x1.988454p+0f), vf_add(x, cube));
}
PF_INLINE vf f_gelu_tanh(const vf *c, vf x) {
    (void)c;
    vf t = vf_max(vf_set(-200.0f), x);
    return vf_mul(t, vm_sigmoid(gelu_tanh_inner(t)));
}
PF_INLINE vf f_silu(const vf *c, vf x) { return (void)c, f_gate(x, vm_sigmoid(x)); }

PF_INLINE vf f_elu(const vf *c, vf x) {
    (void)c;
    vf low = vm_expm1_low(vf_min(vf_zero(), x));
    return vf_select(vf_lt(vf_zero(), x), x, low);
}

void PF_KERN(unary)(pf_unary f, int64_t n, const float *x, float *y) {
    switch (f) {
    case PF_UNARY_NEG:
        vmap1(f_neg, NULL, n, x, y);
        break;
    case PF_UNARY_EXP:
        vmap1(f_exp, NULL, n, x, y);
        break;
    case PF_UNARY_LOG:
        vmap1(f_log, NULL, n, x, y);
        break;
    case PF_UNARY_SQRT:
        vmap1(f_sqrt, NULL, n, x, y);
        break;
    case PF_UNARY_SQUARE:
        vmap1(f_square, NULL, n, x, y);
        break;
    case PF_UNARY_TANH:
        vmap1(f_tanh, NULL, n, x, y);
        break;
    case PF_UNARY_SIGMOID:
        vmap1(f_sigmoid, NULL, n, x, y);
        break;
    case PF_UNARY_RELU:
        vmap1(f_relu, NULL, n, x, y);
        break;
    case PF_UNARY_REQU:
        vmap1(f_requ, NULL, n, x, y);
        break;
    case PF_UNARY_GELU:
        vmap1(f_gelu, NULL, n, x, y);
        break;
    case PF_UNARY_GELU_TANH:
        vmap1(f_gelu_tanh, NULL, n, x, y);
        break;
    case PF_UNARY_SILU:
        vmap1(f_silu, NULL, n, x, y);
        break;
    case PF_UNARY_ELU:
        vmap1(f_elu, NULL, n, x, y);
        break;
    case PF_UNARY_ABS:
        vmap1(f_abs, NULL, n, x, y);
        break;
    case PF_UNARY_COS:
        vmap1(f_cos, NULL, n, x, y);
        break;
    case PF_UNARY_SIN:
        vmap1(f_sin, NULL, n, x, y);
        break;
    case PF_UNARY_COUNT:
        break;
    }
}

/* ---- derivatives: (x, y = f(x), dy, dx) gives the new dx ---------------------- */

PF_INLINE vf g_neg(const vf *c, vf x, vf y, vf dy, vf dx) {
    return (void)c, (void)x, (void)y, vf_sub(dx, dy);
}
PF_INLINE vf g_exp(const vf *c, vf x, vf y, vf dy, vf dx) {
    return (void)c, (void)x, vf_fma(dy, y, dx);
}
/* NaN below 0, as the value. */
PF_INLINE vf g_log(const vf *c, vf x, vf y, vf dy, vf dx) {
    (void)c, (void)y;
    return vf_add(vf_select(vf_lt(x, vf_zero()), vf_set(NAN), vf_div(dy, x)), dx);
}
PF_INLINE vf g_sqrt(const vf *c, vf x, vf y, vf dy, vf dx) {
    return (void)c, (void)x, vf_add(vf_div(vf_mul(vf_set(0.5f), dy), vf_abs(y)), dx);
}
PF_INLINE vf g_square(const vf *c, vf x, vf y, vf dy, vf dx) {
    return (void)c, (void)y, vf_fma(vf_add(x, x), dy, dx);
}
PF_INLINE vf g_tanh(const vf *c, vf x, vf y, vf dy, vf dx) {
    return (void)c, (void)x, vf_fma(vf_fnma(y, y, vf_set(1.0f)), dy, dx);
}
PF_INLINE vf g_sigmoid(const vf *c, vf x, vf y, vf dy, vf dx) {
    return (void)c, (void)x, vf_fma(vf_fnma(y, y, y), dy, dx);
}
/* 0 at the kink, and NaN at NaN. */
PF_INLINE vf g_relu(const vf *c, vf x, vf y, vf dy, vf dx) {
    (void)c, (void)y;
    return vf_add(vf_select(vf_lt(vf_zero(), x), dy, vf_max(vf_zero(), x)), dx);
}
PF_INLINE vf g_requ(const vf *c, vf x, vf y, vf dy, vf dx) {
    (void)c, (void)y;
    vf r = vf_max(vf_zero(), x);
    return vf_fma(vf_add(r, r), dy, dx);
}
/* Phi(x) + x phi(x) */
PF_INLINE vf g_gelu(const vf *c, vf x, vf y, vf dy, vf dx) {
    (void)c, (void)y;
    const vf far = vf_set(200.0f);
    vf density, below = vm_normal(x, &density);
    vf t = vf_min(far, vf_max(vf_neg(far), x));
    return vf_fma(vf_fma(t, density, below), dy, dx);
}
/* s + x s (1 - s) 2u', s = sigmoid(2u) */
PF_INLINE vf g_gelu_tanh(const vf *c, vf x, vf y, vf dy, vf dx) {
    (void)c, (void)y;
    const vf far = vf_set(200.0f), one = vf_set(1.0f);
    vf t = vf_min(far, vf_max(vf_neg(far), x));
    vf bump, s = vm_sigmoid_slope(gelu_tanh_inner(t), &bump);
    vf inner = vf_mul(vf_set(0x1.988454p+0f), vf_fma(vf_set(3 * 0.044715f), vf_mul(t, t), one));
    return vf_fma(vf_fma(bump, vf_mul(t, inner), s), dy, dx);
}
/* s + x s (1 - s) */
PF_INLINE vf g_silu(const vf *c, vf x, vf y, vf dy, vf dx) {
    (void)c, (void)y;
    const vf far = vf_set(200.0f);
    vf t = vf_min(far, vf_max(vf_neg(far), x));
    vf bump, s = vm_sigmoid_slope(t, &bump);
    return vf_fma(vf_fma(bump, t, s), dy, dx);
}
PF_INLINE vf g_elu(const vf *c, vf x, vf y, vf dy, vf dx) {
    (void)c;
    const vf one = vf_set(1.0f);
    return vf_fma(vf_select(vf_lt(vf_zero(), x), one, vf_add(y, one)), dy, dx);
}
/* The sign of x; 0 at 0, NaN at NaN. */
PF_INLINE vf g_abs(const vf *c, vf x, vf y, vf dy, vf dx) {
    (void)c, (void)y;
    vf turned = vf_xor(dy, vf_and(x, vf_set(-0.0f)));
    vf flat = vf_select(vf_eq(x, vf_zero()), vf_zero(), turned);
    return vf_add(vf_select(vf_is_nan(x), x, flat), dx);
}
PF_INLINE vf g_cos(const vf *c, vf x, vf y, vf dy, vf dx) {
    return (void)c, (void)y, vf_fnma(vm_trig(x, false), dy, dx);
}
PF_INLINE vf g_sin(const vf *c, vf x, vf y, vf dy, vf dx) {
    return (void)c, (void)y, vf_fma(vm_trig(x, true), dy, dx);
}

void PF_KERN(unary_grad)(pf_unary f, int64_t n, const float *x, const float *y, const float *dy,
                         float *dx) {
    switch (f) {
    case PF_UNARY_NEG:
        vmap4(g_neg, NULL, n, x, y, dy, dx, dx);
        break;
    case PF_UNARY_EXP:
        vmap4(g_exp, NULL, n, x, y, dy, dx, dx);
        break;
    case PF_UNARY_LOG:
        vmap4(g_log, NULL, n, x, y, dy, dx, dx);
        break;
    case PF_UNARY_SQRT:
        vmap4(g_sqrt, NULL, n, x, y, dy, dx, dx);
        break;
    case PF_UNARY_SQUARE:
        vmap4(g_square, NULL, n, x, y, dy, dx, dx);
        break;
    case PF_UNARY_TANH:
        vmap4(g_tanh, NULL, n, x, y, dy, dx, dx);
        break;
    case PF_UNARY_SIGMOID:
        vmap4(g_sigmoid, NULL, n, x, y, dy, dx, dx);
        break;
    case PF_UNARY_RELU:
        vmap4(g_relu, NULL, n, x, y, dy, dx, dx);
        break;
    case PF_UNARY_REQU:
        vmap4(g_requ, NULL, n, x, y, dy, dx, dx);
        break;
    case PF_UNARY_GELU:
        vmap4(g_gelu, NULL, n, x, y, dy, dx, dx);
        break;
    case PF_UNARY_GELU_TANH:
        vmap4(g_gelu_tanh, NULL, n, x, y, dy, dx, dx);
        break;
    case PF_UNARY_SILU:
        vmap4(g_silu, NULL, n, x, y, dy, dx, dx);
        break;
    case PF_UNARY_ELU:
        vmap4(g_elu, NULL, n, x, y, dy, dx, dx);
        break;
    case PF_UNARY_ABS:
        vmap4(g_abs, NULL, n, x, y, dy, dx, dx);
        break;
    case PF_UNARY_COS:
        vmap4(g_cos, NULL, n, x, y, dy, dx, dx);
        break;
    case PF_UNARY_SIN:
        vmap4(g_sin, NULL, n, x, y, dy, dx, dx);
        break;
    case PF_UNARY_COUNT:
        break;
    }
}
