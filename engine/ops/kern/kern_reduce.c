/*
 * kern_reduce.c - kernels that reduce a run: sums, softmax rows, row norms; compiled once a
 * level. Every sum has four accumulators of VW lanes that take the vectors in turn, then
 * single vectors into the first, the tail (padded so that it adds nothing) into the
 * second, then one tree: the order depends on n alone.
 */
#include "kern_level.h"
#include "vmath.h"

/* ---- sums --------------------------------------------------------------------- */

/* The addends of elements i .. i+k-1, k <= VW; the other lanes are 0. */
typedef vf (*term_fn)(const void *context, int64_t i, int64_t k);

PF_INLINE float sum_terms(term_fn term, const void *context, int64_t n) {
    vf s0 = vf_zero(), s1 = vf_zero(), s2 = vf_zero(), s3 = vf_zero();
    int64_t i = 0;
    for (; i + 4 * VW <= n; i += 4 * VW) {
        s0 = vf_add(s0, term(context, i, VW));
        s1 = vf_add(s1, term(context, i + VW, VW));
        s2 = vf_add(s2, term(context, i + 2 * VW, VW));
        s3 = vf_add(s3, term(context, i + 3 * VW, VW));
    }
    for (; i + VW <= n; i += VW) s0 = vf_add(s0, term(context, i, VW));
    if (i < n) s1 = vf_add(s1, term(context, i, n - i));
    return vf_sum4(s0, s1, s2, s3);
}

PF_INLINE vf term_value(const void *x, int64_t i, int64_t k) {
    return vf_get((const float *)x + i, k);
}

float PF_KERN(sum)(int64_t n, const float *x) { return sum_terms(term_value, x, n); }

float PF_KERN(dot)(int64_t n, const float *a, const float *b) {
    vf s0 = vf_zero(), s1 = vf_zero(), s2 = vf_zero(), s3 = vf_zero();
    int64_t i = 0;
    for (; i + 4 * VW <= n; i += 4 * VW) {
        s0 = vf_fma(vf_load(a + i), vf_load(b + i), s0);
        s1 = vf_fma(vf_load(a + i + VW), vf_load(b + i + VW), s1);
        s2 = vf_fma(vf_load(a + i + 2 * VW), vf_load(b + i + 2 * VW), s2);
        s3 = vf_fma(vf_load(a + i + 3 * VW), vf_load(b + i + 3 * VW), s3);
    }
    for (; i + VW <= n; i += VW) s0 = vf_fma(vf_load(a + i), vf_load(b + i), s0);
    if (i < n) s1 = vf_fma(vf_load_n(a + i, n - i), vf_load_n(b + i, n - i), s1);
    return vf_sum4(s0, s1, s2, s3);
}

float PF_KERN(sumsq)(int64_t n, const float *x) { return PF_KERN(dot)(n, x, x); }

/* Adds the squares of v's lanes to two accumulators. */
PF_INLINE void square_double(vf v, vd *low, vd *high) {
    vd a = vd_low(v), b = vd_high(v);
    *low = vd_fma(a, a, *low);
    *high = vd_fma(b, b, *high);
}

double PF_KERN(sumsq_double)(int64_t n, const float *x) {
    vd s0 = vd_zero(), s1 = vd_zero(), s2 = vd_zero(), s3 = vd_zero();
    int64_t i = 0;
    for (; i + 2 * VW <= n; i += 2 * VW) {
        square_double(vf_load(x + i), &s0, &s1);
        square_double(vf_load(x + i + VW), &s2, &s3);
    }
    if (i + VW <= n) {
        square_double(vf_load(x + i), &s0, &s1);
        i += VW;
    }
    if (i < n) square_double(vf_load_n(x + i, n - i), &s2, &s3);
    return vd_sum(vd_add(vd_add(s0, s1), vd_add(s2, s3)));
}

/* A comparison drops NaN, so NaN is looked for beside it, two vectors a question. */
float PF_KERN(max)(int64_t n, const float *x) {
    const vf low = vf_set(-INFINITY);
    vf m0 = low, m1 = low;
    vm bad = vm_none();
    int64_t i = 0;
    for (; i + 4 * VW <= n; i += 4 * VW) {
        vf a = vf_load(x + i), b = vf_load(x + i + VW);
        vf c = vf_load(x + i + 2 * VW), d = vf_load(x + i + 3 * VW);
        m0 = vf_max(m0, vf_max(a, b));
        m1 = vf_max(m1, vf_max(c, d));
        bad = vm_or(bad, vm_or(vf_unordered(a, b), vf_unordered(c, d)));
    }
    for (; i + VW <= n; i += VW) {
        vf a = vf_load(x + i);
        m0 = vf_max(m0, a);
        bad = vm_or(bad, vf_is_nan(a));
    }
    if (i < n) {
        vf a = vf_load_or(x + i, n - i, low);
        m0 = vf_max(m0, a);
        bad = vm_or(bad, vf_is_nan(a));
    }
    return vm_any(bad) ? NAN : vf_top(vf_max(m0, m1));
}

/* ---- softmax ------------------------------------------------------------------ */

/* e^(x - top) of one vector; lanes beyond k hold 0. Stored unless y is NULL. */
PF_INLINE vf exp_one(const float *x, float *y, int64_t k, vf top) {
    vf e = vm_exp_low(vf_sub(k >= VW ? vf_load(x) : vf_load_or(x, k, vf_set(-INFINITY)), top));
    if (y) vf_put(y, k, e);
    return e;
}

/* Sum of e^(x - top); y, unless NULL, receives the terms. The row becomes NaN if top is NaN
 * or +inf. The order is that of sum_terms. */
PF_INLINE float sum_exp(int64_t n, const float *x, float *y, float top) {
    const vf shift = vf_set(top);
    vf s[4] = {vf_zero(), vf_zero(), vf_zero(), vf_zero()};
    int64_t i = 0;
    for (; i + 4 * VW <= n; i += 4 * VW) {
        vf e[4];
        for (int j = 0; j < 4; j++) e[j] = vf_sub(vf_load(x + i + j * VW), shift);
        vm_exp_low4(e);
        for (int j = 0; j < 4; j++) s[j] = vf_add(s[j], e[j]);
        for (int j = 0; j < 4 && y; j++) vf_store(y + i + j * VW, e[j]);
    }
    for (; i + VW <= n; i += VW) s[0] = vf_add(s[0], exp_one(x + i, y ? y + i : y, VW, shift));
    if (i < n) s[1] = vf_add(s[1], exp_one(x + i, y ? y + i : y, n - i, shift));
    return vf_sum4(s[0], s[1], s[2], s[3]);
}

float PF_KERN(softmax)(int64_t n, const float *x, float *y) {
    float top = PF_KERN(max)(n, x);
    if (top == -INFINITY) {
        for (int64_t i = 0; i < n; i++) y[i] = 0.0f;
        return top;
    }
    float total = sum_exp(n, x, y, top);
    const vf part = vf_set(1.0f / total);
    for (int64_t i = 0; i < n; i += VW) vf_put(y + i, n - i, vf_mul(vf_get(y + i, n - i), part));
    return top + logf(total);
}

float PF_KERN(logsumexp)(int64_t n, const float *x) {
    float top = PF_KERN(max)(n, x);
    return top == -INFINITY ? top : top + logf(sum_exp(n, x, NULL, top));
}

void PF_KERN(softmax_grad)(int64_t n, const float *y, const float *dy, float *dx) {
    const vf mean = vf_set(PF_KERN(dot)(n, y, dy));
    for (int64_t i = 0; i < n; i += VW) {
        int64_t k = n - i;
        vf d = vf_sub(vf_get(dy + i, k), mean);
        vf_put(dx + i, k, vf_fma(vf_get(y + i, k), d, vf_get(dx + i, k)));
    }
}

/* ---- norms -------------------------------------------------------------------- */

/* One row of a norm. w NULL stands for ones. */
typedef struct {
    const float *x, *w, *dy;
    float mean, rstd;
} norm_row;

PF_INLINE vf norm_weighted(const norm_row *r, int64_t i, int64_t k, vf v) {
    return r->w ? vf_mul(v, vf_get(r->w + i, k)) : v;
}

/* (x - mean)^2; lanes beyond the row hold the mean. */
PF_INLINE vf term_spread(const void *context, int64_t i, int64_t k) {
    const norm_row *r = context;
    const vf mean = vf_set(r->mean);
    vf d = vf_sub(k >= VW ? vf_load(r->x + i) : vf_load_or(r->x + i, k, mean), mean);
    return vf_mul(d, d);
}

/* (x - mean) * rstd, garbage beyond the row. */
PF_INLINE vf norm_hat(const norm_row *r, int64_t i, int64_t k) {
    return vf_mul(vf_sub(vf_get(r->x + i, k), vf_set(r->mean)), vf_set(r->rstd));
}

PF_INLINE vf term_pull(const void *context, int64_t i, int64_t k) {
    const norm_row *r = context;
    return norm_weighted(r, i, k, vf_get(r->dy + i, k));
}

PF_INLINE vf term_pull_hat(const void *context, int64_t i, int64_t k) {
    return vf_mul(term_pull(context, i, k), norm_hat(context, i, k));
}

void PF_KERN(layernorm)(int64_t n, float eps, const float *x, const float *w, const float *b,
                        float *y, float *mean, float *rstd) {
    norm_row r = {.x = x, .w = w};
    const float count = (float)pf_max(n, 1);
    r.mean = PF_KERN(sum)(n, x) / count;
    r.rstd = 1.0f / sqrtf(sum_terms(term_spread, &r, n) / count + eps);
    for (int64_t i = 0; i < n; i += VW) {
        int64_t k = n - i;
        vf h = norm_weighted(&r, i, k, norm_hat(&r, i, k));
        vf_put(y + i, k, b ? vf_add(h, vf_get(b + i, k)) : h);
    }
    *mean = r.mean;
    *rstd = r.rstd;
}

/* With h = (x - mean) rstd and g = dy w: dx += rstd (g - mean(g) - h mean(g h)). */
void PF_KERN(layernorm_grad)(int64_t n, const float *x, const float *w, float mean, float rstd,
                             const float *dy, float *dx, float *dw, float *db) {
    const norm_row r = {.x = x, .w = w, .dy = dy, .mean = mean, .rstd = rstd};
    const float count = (float)pf_max(n, 1);
    const vf g_mean = vf_set(sum_terms(term_pull, &r, n) / count);
    const vf gh_mean = vf_set(sum_terms(term_pull_hat, &r, n) / count);
    const vf scale = vf_set(rstd);
    for (int64_t i = 0; i < n; i += VW) {
        int64_t k = n - i;
        vf h = norm_hat(&r, i, k), d = vf_get(dy + i, k);
        vf inner = vf_fnma(h, gh_mean, vf_sub(term_pull(&r, i, k), g_mean));
        vf_put(dx + i, k, vf_fma(scale, inner, vf_get(dx + i, k)));
        if (dw) vf_put(dw + i, k, vf_fma(d, h, vf_get(dw + i, k)));
        if (db) vf_put(db + i, k, vf_add(d, vf_get(db + i, k)));
    }
}

void PF_KERN(rmsnorm)(int64_t n, float eps, const float *x, const float *w, float *y, float *rrms) {
    const norm_row r = {.x = x, .w = w};
    const float mean_square = PF_KERN(sumsq)(n, x) / (float)pf_max(n, 1);
    *rrms = 1.0f / sqrtf(mean_square + eps);
    const vf scale = vf_set(*rrms);
    for (int64_t i = 0; i < n; i += VW) {
        int64_t k = n - i;
        vf_put(y + i, k, norm_weighted(&r, i, k, vf_mul(vf_get(x + i, k), scale)));
    }
}

/* With h = x rrms and g = dy w: dx += rrms (g - h mean(g h)). */
void PF_KERN(rmsnorm_grad)(int64_t n, const float *x, const float *w, float rrms, const float *dy,
                           float *dx, float *dw) {
    const norm_row r = {.x = x, .w = w, .dy = dy, .mean = 0.0f, .rstd = rrms};
    const vf gh_mean = vf_set(sum_terms(term_pull_hat, &r, n) / (float)pf_max(n, 1));
    const vf scale = vf_set(rrms);
    for (int64_t i = 0; i < n; i += VW) {
        int64_t k = n - i;
        vf h = norm_hat(&r, i, k), d = vf_get(dy + i, k);
        vf inner = vf_fnma(h, gh_mean, term_pull(&r, i, k));
        vf_put(dx + i, k, vf_fma(scale, inner, vf_get(dx + i, k)));
        if (dw) vf_put(dw + i, k, vf_fma(d, h, vf_get(dw + i, k)));
    }
}
