/*
 * kern_rows.c - kernels on many rows: the softmax features of FAVOR+, their pullback, and
 * the products of a matrix with a vector; compiled once a level. Rows share loads, never
 * arithmetic: a row's result does not depend on its neighbours or its place.
 */
#include "kern_level.h"
#include "vmath.h"

/* ---- softmax features --------------------------------------------------------- */

/* e^b = 1 + b (C1 + C2 b + ...), |b| <= 0.3466, to 9.2e-8: minimax. */
#define FEATURE_C1 0x1.fffff6p-1f
#define FEATURE_C2 0x1.fffdc4p-2f
#define FEATURE_C3 0x1.555a6cp-3f
#define FEATURE_C4 0x1.573a86p-5f
#define FEATURE_C5 0x1.0fa76p-7f

/* n <= 4 vectors x - t, in place, to e^(x - t) in 3 ulp, 0 from -87.7 on: of vm_exp_low's
 * steps those that x, a sum of many products, and the rounding of x - t leave a meaning to. ln 2
 * is 1.9e-9 off in one part, 3e-9 |x - t| in the result, where one rounding is an fma. Side by
 * side, so that four chains of dependent operations fill the pipes. */
PF_INLINE void exp_features(const int n, vf *x) {
    vf k[4], z[4];
    for (int j = 0; j < n; j++) x[j] = vf_max(vf_set(-88.0f), x[j]);
    for (int j = 0; j < n; j++) z[j] = vf_fma(x[j], vf_set(VM_LOG2E), vf_set(VM_ROUND));
    for (int j = 0; j < n; j++) k[j] = vm_scale(vi_of(z[j]));
    for (int j = 0; j < n; j++) z[j] = vf_sub(z[j], vf_set(VM_ROUND));
#if PF_LEVEL == 0
    for (int j = 0; j < n; j++) x[j] = vf_fnma(z[j], vf_set(VM_LN2_HIGH), x[j]);
    for (int j = 0; j < n; j++) x[j] = vf_fnma(z[j], vf_set(VM_LN2_LOW), x[j]);
#else
    for (int j = 0; j < n; j++) x[j] = vf_fnma(z[j], vf_set(0x1.62e43p-1f), x[j]);
#endif
    for (int j = 0; j < n; j++) z[j] = vf_fma(vf_set(FEATURE_C5), x[j], vf_set(FEATURE_C4));
    for (int j = 0; j < n; j++) z[j] = vf_fma(z[j], x[j], vf_set(FEATURE_C3));
    for (int j = 0; j < n; j++) z[j] = vf_fma(z[j], x[j], vf_set(FEATURE_C2));
    for (int j = 0; j < n; j++) z[j] = vf_fma(z[j], x[j], vf_set(FEATURE_C1));
    for (int j = 0; j < n; j++) x[j] = vf_mul(z[j], x[j]);
    for (int j = 0; j < n; j++) x[j] = vf_fma(k[j], x[j], k[j]);
}

/* e^(x - t) on a row, in place; t is finite or NaN. */
PF_INLINE void exp_row(int64_t m, float *u, float t) {
    const vf shift = vf_set(t);
    int64_t a = 0;
    for (; a + 4 * VW <= m; a += 4 * VW) {
        vf x[4];
        for (int j = 0; j < 4; j++) x[j] = vf_sub(vf_load(u + a + j * VW), shift);
        exp_features(4, x);
        for (int j = 0; j < 4; j++) vf_store(u + a + j * VW, x[j]);
    }
    for (; a < m; a += VW) {
        vf x = vf_sub(vf_get(u + a, m - a), shift);
        exp_features(1, &x);
        vf_put(u + a, m - a, x);
    }
}

/* A row with NaN or +inf becomes NaN and so does its shift; a row of -inf alone becomes 0
 * with shift -inf. The maxima of a few rows come first: while one is folded over its lanes
 * the next row's loads are under way. */
void PF_KERN(softmax_features)(int64_t n, int64_t m, int64_t ld, float *u, const float *half,
                               float *shift) {
    enum { GROUP = 4 };
    for (int64_t first = 0; first < n; first += GROUP) {
        const int64_t last = pf_min(first + GROUP, n);
        float top[GROUP];
        for (int64_t i = first; i < last; i++) top[i - first] = PF_KERN(max)(m, u + i * ld);
        for (int64_t i = first; i < last; i++) {
            /* cppcheck-suppress uninitvar ; the loop before has the same bounds */
            float t = top[i - first];
            if (t == INFINITY) t = NAN;
            exp_row(m, u + i * ld, t == -INFINITY ? 0.0f : t);
            shift[i] = half ? t - half[i] : t;
        }
    }
}

/* One row: y = (y + c z) x, without z where it is NULL; returns the sum of y in the order of
 * `sum` (kern_reduce.c). */
PF_INLINE float pull_row(int64_t m, const float *x, float c, const float *z, float *y) {
    const vf cc = vf_set(c);
    vf s[4] = {vf_zero(), vf_zero(), vf_zero(), vf_zero()};
    int64_t a = 0;
    for (; a + 4 * VW <= m; a += 4 * VW) {
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) {
            vf v = vf_load(y + a + j * VW);
            if (z) v = vf_fma(cc, vf_load(z + a + j * VW), v);
            v = vf_mul(v, vf_load(x + a + j * VW));
            vf_store(y + a + j * VW, v);
            s[j] = vf_add(s[j], v);
        }
    }
    for (; a < m; a += VW) {
        const int64_t k = m - a;
        vf v = vf_get(y + a, k);
        if (z) v = vf_fma(cc, vf_get(z + a, k), v);
        v = vf_mul(v, vf_get(x + a, k));
        vf_put(y + a, k, v);
        s[k < VW] = vf_add(s[k < VW], v);
    }
    return vf_sum4(s[0], s[1], s[2], s[3]);
}

void PF_KERN(features_pull)(int64_t n, int64_t m, int64_t ld, const float *f, const float *c,
                            const float *z, float *df, float *rowsum) {
    for (int64_t i = 0; i < n; i++) {
        float *row = df + i * ld;
        rowsum[i] =
            c ? pull_row(m, f + i * ld, c[i], z, row) : pull_row(m, f + i * ld, 0, NULL, row);
    }
}

/* ---- rows times numbers ------------------------------------------------------- */

/* y = c x (+ y): one row. */
PF_INLINE void scale_row(int64_t d, vf c, const float *x, bool add, float *y) {
    int64_t a = 0;
    for (; a + VW <= d; a += VW) {
        vf v = vf_mul(c, vf_load(x + a));
        vf_store(y + a, add ? vf_add(vf_load(y + a), v) : v);
    }
    const int64_t k = d - a;
    if (k == 0) return;
    vf v = vf_mul(c, vf_load_n(x + a, k));
    vf_store_n(y + a, k, add ? vf_add(vf_load_n(y + a, k), v) : v);
}

void PF_KERN(rows_scale)(int64_t n, int64_t d, const float *c, int64_t step, const float *x,
                         int64_t ldx, bool add, float *y, int64_t ldy) {
    for (int64_t i = 0; i < n; i++) {
        const vf ci = vf_set(c[i * step]);
        if (add) {
            scale_row(d, ci, x + i * ldx, true, y + i * ldy);
        } else {
            scale_row(d, ci, x + i * ldx, false, y + i * ldy);
        }
    }
}

/* y = c x, and y . z in the order of `dot`; z NULL: y . y. */
PF_INLINE float scale_dot(int64_t d, vf c, const float *x, const float *z, float *y) {
    vf s[4] = {vf_zero(), vf_zero(), vf_zero(), vf_zero()};
    int64_t a = 0;
    for (; a + 4 * VW <= d; a += 4 * VW) {
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) {
            vf v = vf_mul(c, vf_load(x + a + j * VW));
            vf_store(y + a + j * VW, v);
            s[j] = vf_fma(v, z ? vf_load(z + a + j * VW) : v, s[j]);
        }
    }
    for (; a + VW <= d; a += VW) {
        vf v = vf_mul(c, vf_load(x + a));
        vf_store(y + a, v);
        s[0] = vf_fma(v, z ? vf_load(z + a) : v, s[0]);
    }
    const int64_t k = d - a;
    if (k > 0) {
        vf v = vf_mul(c, vf_load_n(x + a, k));
        vf_store_n(y + a, k, v);
        s[1] = vf_fma(v, z ? vf_load_n(z + a, k) : v, s[1]);
    }
    return vf_sum4(s[0], s[1], s[2], s[3]);
}

void PF_KERN(rows_load)(int64_t n, int64_t d, float c, const float *x, int64_t ldx, float *y,
                        float *half) {
    const vf cc = vf_set(c);
    for (int64_t i = 0; i < n; i++) {
        half[i] = 0.5f * scale_dot(d, cc, x + i * ldx, NULL, y + i * d);
    }
}

void PF_KERN(rows_weigh)(int64_t n, int64_t d, const float *c, const float *x, int64_t ldx,
                         const float *z, int64_t ldz, float *y, float *dots) {
    for (int64_t i = 0; i < n; i++) {
        dots[i] = -scale_dot(d, vf_set(c[i]), x + i * ldx, z + i * ldz, y + i * d);
    }
}

/* ---- matrix times vector ------------------------------------------------------ */

/* Two rows at once, each in the order of `dot` (kern_reduce.c). */
PF_INLINE void dot_pair(int64_t k, const float *p, const float *q, const float *x, float *y) {
    vf p0 = vf_zero(), p1 = vf_zero(), p2 = vf_zero(), p3 = vf_zero();
    vf q0 = vf_zero(), q1 = vf_zero(), q2 = vf_zero(), q3 = vf_zero();
    int64_t i = 0;
    for (; i + 4 * VW <= k; i += 4 * VW) {
        vf x0 = vf_load(x + i), x1 = vf_load(x + i + VW);
        vf x2 = vf_load(x + i + 2 * VW), x3 = vf_load(x + i + 3 * VW);
        p0 = vf_fma(vf_load(p + i), x0, p0);
        q0 = vf_fma(vf_load(q + i), x0, q0);
        p1 = vf_fma(vf_load(p + i + VW), x1, p1);
        q1 = vf_fma(vf_load(q + i + VW), x1, q1);
        p2 = vf_fma(vf_load(p + i + 2 * VW), x2, p2);
        q2 = vf_fma(vf_load(q + i + 2 * VW), x2, q2);
        p3 = vf_fma(vf_load(p + i + 3 * VW), x3, p3);
        q3 = vf_fma(vf_load(q + i + 3 * VW), x3, q3);
    }
    for (; i + VW <= k; i += VW) {
        vf x0 = vf_load(x + i);
        p0 = vf_fma(vf_load(p + i), x0, p0);
        q0 = vf_fma(vf_load(q + i), x0, q0);
    }
    if (i < k) {
        vf x0 = vf_load_n(x + i, k - i);
        p1 = vf_fma(vf_load_n(p + i, k - i), x0, p1);
        q1 = vf_fma(vf_load_n(q + i, k - i), x0, q1);
    }
    y[0] = vf_sum4(p0, p1, p2, p3);
    y[1] = vf_sum4(q0, q1, q2, q3);
}

void PF_KERN(rows_dot)(int64_t n, int64_t m, int64_t ld, const float *f, const float *z, float *y) {
    int64_t i = 0;
    for (; i + 2 <= n; i += 2) dot_pair(m, f + i * ld, f + (i + 1) * ld, z, y + i);
    if (i < n) y[i] = PF_KERN(dot)(m, f + i * ld, z);
}

/* Row after row: one stream from memory is faster than two (15 against 12 GB/s). */
void PF_KERN(gemv)(int64_t n, int64_t k, const float *w, int64_t ld, const float *x, const float *b,
                   float *y) {
    for (int64_t j = 0; j < n; j++) {
        const float sum = PF_KERN(dot)(k, w + j * ld, x);
        y[j] = b ? sum + b[j] : sum;
    }
}

/* ---- sum of rows -------------------------------------------------------------- */

/* Columns are strips of eight vectors, held in registers over all rows. A sum begins at 0 and
 * joins y at its end: y may be the sum of a long sequence, in which single rows get lost. */
enum { STRIP = 8 };

PF_INLINE void strip_sum(int64_t n, int64_t ld, const float *f, const float *w, float *y) {
    vf s[STRIP];
    for (int j = 0; j < STRIP; j++) s[j] = vf_zero();
    for (int64_t i = 0; i < n; i++) {
        const float *row = f + i * ld;
        if (w) {
            const vf wi = vf_set(w[i]);
            for (int j = 0; j < STRIP; j++) s[j] = vf_fma(wi, vf_load(row + j * VW), s[j]);
        } else {
            for (int j = 0; j < STRIP; j++) s[j] = vf_add(vf_load(row + j * VW), s[j]);
        }
    }
    for (int j = 0; j < STRIP; j++) vf_store(y + j * VW, vf_add(vf_load(y + j * VW), s[j]));
}

void PF_KERN(rows_sum)(int64_t n, int64_t m, int64_t ld, const float *f, const float *w, float *y) {
    int64_t a = 0;
    for (; a + STRIP * VW <= m; a += STRIP * VW) strip_sum(n, ld, f + a, w, y + a);
    for (; a < m; a += VW) {
        const int64_t k = m - a;
        vf s = vf_zero();
        for (int64_t i = 0; i < n; i++) {
            vf x = vf_get(f + i * ld + a, k);
            s = w ? vf_fma(vf_set(w[i]), x, s) : vf_add(x, s);
        }
        vf_put(y + a, k, vf_add(vf_get(y + a, k), s));
    }
}
