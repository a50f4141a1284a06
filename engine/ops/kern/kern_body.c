/*
 * kern_body.c - the elementwise kernels of several inputs, the optimizer's step, and the
 * level's table, compiled once a level.
 */
#include "kern_level.h"
#include "vmap.h"

/* ---- y = f(a, b) -------------------------------------------------------------- */

PF_INLINE vf f_add(vf a, vf b) { return vf_add(a, b); }
PF_INLINE vf f_sub(vf a, vf b) { return vf_sub(a, b); }
PF_INLINE vf f_mul(vf a, vf b) { return vf_mul(a, b); }
PF_INLINE vf f_div(vf a, vf b) { return vf_div(a, b); }

/* A NaN on either side stays. */
PF_INLINE vf f_max(vf a, vf b) { return vf_select(vf_is_nan(a), a, vf_max(a, b)); }
PF_INLINE vf f_min(vf a, vf b) { return vf_select(vf_is_nan(a), a, vf_min(a, b)); }

/* y[i] = f(a[i * sa], b[i * sb]). A single value is read once, before y is written. */
PF_INLINE void map_binary(vf (*f)(vf, vf), int64_t n, const float *a, int64_t sa, const float *b,
                          int64_t sb, float *y) {
    if (n == 0) return;
    const vf a0 = vf_set(a[0]), b0 = vf_set(b[0]);
    int64_t i = 0, k;
    if (sa != 0 && sb != 0) {
        for (; i + VW <= n; i += VW) vf_store(y + i, f(vf_load(a + i), vf_load(b + i)));
        k = n - i;
        if (k > 0) vf_store_n(y + i, k, f(vf_load_n(a + i, k), vf_load_n(b + i, k)));
    } else if (sa != 0) {
        for (; i + VW <= n; i += VW) vf_store(y + i, f(vf_load(a + i), b0));
        k = n - i;
        if (k > 0) vf_store_n(y + i, k, f(vf_load_n(a + i, k), b0));
    } else if (sb != 0) {
        for (; i + VW <= n; i += VW) vf_store(y + i, f(a0, vf_load(b + i)));
        k = n - i;
        if (k > 0) vf_store_n(y + i, k, f(a0, vf_load_n(b + i, k)));
    } else {
        const vf both = f(a0, b0);
        for (; i + VW <= n; i += VW) vf_store(y + i, both);
        if (i < n) vf_store_n(y + i, n - i, both);
    }
}

/* The C library's powf, one at a time. */
static void binary_pow(int64_t n, const float *a, int64_t sa, const float *b, int64_t sb,
                       float *y) {
    if (n == 0) return;
    const float a0 = a[0], b0 = b[0];
    for (int64_t i = 0; i < n; i++) y[i] = powf(sa != 0 ? a[i] : a0, sb != 0 ? b[i] : b0);
}

static void binary(pf_binary f, int64_t n, const float *a, int64_t sa, const float *b, int64_t sb,
                   float *y) {
    switch (f) {
    case PF_BINARY_ADD:
        map_binary(f_add, n, a, sa, b, sb, y);
        break;
    case PF_BINARY_SUB:
        map_binary(f_sub, n, a, sa, b, sb, y);
        break;
    case PF_BINARY_MUL:
        map_binary(f_mul, n, a, sa, b, sb, y);
        break;
    case PF_BINARY_DIV:
        map_binary(f_div, n, a, sa, b, sb, y);
        break;
    case PF_BINARY_POW:
        binary_pow(n, a, sa, b, sb, y);
        break;
    case PF_BINARY_MAX:
        map_binary(f_max, n, a, sa, b, sb, y);
        break;
    case PF_BINARY_MIN:
        map_binary(f_min, n, a, sa, b, sb, y);
        break;
    case PF_BINARY_COUNT:
        break;
    }
}

/* ---- multiples and sums ------------------------------------------------------- */

PF_INLINE vf step_axpy(const vf *c, vf x, vf y) { return vf_fma(c[0], x, y); }
PF_INLINE vf step_scale(const vf *c, vf x) { return vf_mul(c[0], x); }
PF_INLINE vf step_affine(const vf *c, vf x) { return vf_fma(c[0], x, c[1]); }
PF_INLINE vf step_fma(const vf *c, vf a, vf b, vf y) { return (void)c, vf_fma(a, b, y); }

static void axpy_to(int64_t n, float a, const float *x, const float *y, float *to) {
    const vf c = vf_set(a);
    vmap2(step_axpy, &c, n, x, y, to);
}

static void axpy(int64_t n, float a, const float *x, float *y) { axpy_to(n, a, x, y, y); }

static void scale(int64_t n, float a, const float *x, float *y) {
    const vf c = vf_set(a);
    vmap1(step_scale, &c, n, x, y);
}

static void affine(int64_t n, float a, float b, const float *x, float *y) {
    const vf c[2] = {vf_set(a), vf_set(b)};
    vmap1(step_affine, c, n, x, y);
}

static void multiply_add(int64_t n, const float *a, const float *b, float *y) {
    vmap3(step_fma, NULL, n, a, b, y, y);
}

static void fill(int64_t n, float value, float *y) {
    const vf v = vf_set(value);
    int64_t i = 0;
    for (; i + VW <= n; i += VW) vf_store(y + i, v);
    if (i < n) vf_store_n(y + i, n - i, v);
}

/* ---- dropout, rotary ---------------------------------------------------------- */

static void dropout(int64_t n, const uint32_t *words, uint32_t cut, float factor, const float *x,
                    float *y) {
    const vi limit = vi_set((int32_t)cut);
    const vf c = vf_set(factor), zero = vf_zero();
    int64_t i = 0;
    for (; i + VW <= n; i += VW) {
        vm keep = vi_unsigned_ge(vi_load(words + i), limit);
        vf_store(y + i, vf_select(keep, vf_mul(vf_load(x + i), c), zero));
    }
    int64_t k = n - i;
    if (k > 0) {
        vm keep = vi_unsigned_ge(vi_load_n(words + i, k), limit);
        vf_store_n(y + i, k, vf_select(keep, vf_mul(vf_load_n(x + i, k), c), zero));
    }
}

/* Halves (i, i + n/2): (a, b) becomes (a c - b s, b c + a s). */
static void rotate_halves(int64_t h, const float *x, const float *cs, const float *sn, float sign,
                          float *y) {
    const vf turn = vf_set(sign);
    int64_t i = 0;
    for (; i + VW <= h; i += VW) {
        vf a = vf_load(x + i), b = vf_load(x + h + i);
        vf c = vf_load(cs + i), s = vf_mul(turn, vf_load(sn + i));
        vf_store(y + i, vf_fnma(b, s, vf_mul(a, c)));
        vf_store(y + h + i, vf_fma(a, s, vf_mul(b, c)));
    }
    int64_t k = h - i;
    if (k > 0) {
        vf a = vf_load_n(x + i, k), b = vf_load_n(x + h + i, k);
        vf c = vf_load_n(cs + i, k), s = vf_mul(turn, vf_load_n(sn + i, k));
        vf_store_n(y + i, k, vf_fnma(b, s, vf_mul(a, c)));
        vf_store_n(y + h + i, k, vf_fma(a, s, vf_mul(b, c)));
    }
}

/* Neighbours: lanes (a, b) times (c, c), plus lanes (b, a) times (-s, s). */
PF_INLINE vf rotate_lanes(vf x, vf c, vf s) { return vf_fma(vf_swap_pairs(x), s, vf_mul(x, c)); }

/* The signs are a table: an array on the stack would be aligned to 64 bytes, which GCC 12 misses
 * under the address sanitizer. */
static void rotate_pairs(int64_t n, const float *x, const float *cs, const float *sn, float sign,
                         float *y) {
    static const float signs[16] = {-1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1};
    const vf turn = vf_mul(vf_set(sign), vf_load(signs));
    int64_t i = 0;
    for (; i + VW <= n; i += VW) {
        vf c = vf_load_twice(cs + i / 2), s = vf_mul(turn, vf_load_twice(sn + i / 2));
        vf_store(y + i, rotate_lanes(vf_load(x + i), c, s));
    }
    int64_t k = n - i;
    if (k > 0) {
        float half[2][VW / 2] = {{0}};
        memcpy(half[0], cs + i / 2, (size_t)(k / 2) * sizeof(float));
        memcpy(half[1], sn + i / 2, (size_t)(k / 2) * sizeof(float));
        vf c = vf_load_twice(half[0]), s = vf_mul(turn, vf_load_twice(half[1]));
        vf_store_n(y + i, k, rotate_lanes(vf_load_n(x + i, k), c, s));
    }
}

static void rotary(int64_t n, bool halves, const float *x, const float *cs, const float *sn,
                   float sign, float *y) {
    if (halves)
        rotate_halves(n / 2, x, cs, sn, sign, y);
    else
        rotate_pairs(n, x, cs, sn, sign, y);
}

/* ---- AdamW -------------------------------------------------------------------- */

typedef struct {
    vf gscale, lr, b1, b2, rest1, rest2, eps, decay, c1, c2;
} adamw_consts;

/* Moves (p, m, v) by gradient g. */
PF_INLINE void adamw_step(const adamw_consts *k, vf g, vf *p, vf *m, vf *v) {
    g = vf_mul(g, k->gscale);
    *m = vf_fma(k->b1, *m, vf_mul(k->rest1, g));
    *v = vf_fma(k->b2, *v, vf_mul(k->rest2, vf_mul(g, g)));
    vf root = vf_add(vf_sqrt(vf_mul(*v, k->c2)), k->eps);
    vf move = vf_fma(k->decay, *p, vf_div(vf_mul(*m, k->c1), root));
    *p = vf_fnma(k->lr, move, *p);
}

static void adamw(int64_t n, float *p, const float *g, float *m, float *v, float gscale, float lr,
                  float b1, float b2, float eps, float decay, float c1, float c2) {
    const adamw_consts c = {vf_set(gscale), vf_set(lr),  vf_set(b1),    vf_set(b2), vf_set(1 - b1),
                            vf_set(1 - b2), vf_set(eps), vf_set(decay), vf_set(c1), vf_set(c2)};
    int64_t i = 0;
    for (; i + VW <= n; i += VW) {
        vf vp = vf_load(p + i), vm1 = vf_load(m + i), vm2 = vf_load(v + i);
        adamw_step(&c, vf_load(g + i), &vp, &vm1, &vm2);
        vf_store(p + i, vp);
        vf_store(m + i, vm1);
        vf_store(v + i, vm2);
    }
    int64_t k = n - i;
    if (k > 0) {
        vf vp = vf_load_n(p + i, k), vm1 = vf_load_n(m + i, k), vm2 = vf_load_n(v + i, k);
        adamw_step(&c, vf_load_n(g + i, k), &vp, &vm1, &vm2);
        vf_store_n(p + i, k, vp);
        vf_store_n(m + i, k, vm1);
        vf_store_n(v + i, k, vm2);
    }
}

const pf_kern PF_KERN(table) = {
    .name = PF_LEVEL_NAME,
    .unary = PF_KERN(unary),
    .unary_grad = PF_KERN(unary_grad),
    .binary = binary,
    .sum = PF_KERN(sum),
    .max = PF_KERN(max),
    .dot = PF_KERN(dot),
    .sumsq = PF_KERN(sumsq),
    .sumsq_double = PF_KERN(sumsq_double),
    .axpy = axpy,
    .axpy_to = axpy_to,
    .scale = scale,
    .affine = affine,
    .fma = multiply_add,
    .fill = fill,
    .softmax = PF_KERN(softmax),
    .logsumexp = PF_KERN(logsumexp),
    .softmax_grad = PF_KERN(softmax_grad),
    .layernorm = PF_KERN(layernorm),
    .layernorm_grad = PF_KERN(layernorm_grad),
    .rmsnorm = PF_KERN(rmsnorm),
    .rmsnorm_grad = PF_KERN(rmsnorm_grad),
    .softmax_features = PF_KERN(softmax_features),
    .features_pull = PF_KERN(features_pull),
    .rows_scale = PF_KERN(rows_scale),
    .rows_load = PF_KERN(rows_load),
    .rows_weigh = PF_KERN(rows_weigh),
    .rows_dot = PF_KERN(rows_dot),
    .rows_sum = PF_KERN(rows_sum),
    .gemv = PF_KERN(gemv),
#if PF_LEVEL > 0 /* plain C is no match for the BLAS */
    .block_gemm = PF_KERN(block_gemm),
#endif
    .hadamard = PF_KERN(hadamard),
    .hadamard_back = PF_KERN(hadamard_back),
    .adamw = adamw,
    .rotary = rotary,
    .dropout = dropout,
};
