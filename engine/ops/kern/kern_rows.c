/*
 * kern_rows.c - kernels on many rows: the softmax features of FAVOR+, their pullback, and
 * the products of a matrix with a vector; compiled once a level. Rows share loads, never
 * arithmetic: a row's result does not depend on its neighbours or its place.
 */
#include "kern_level.h"
#include "vmath.h"

/* ---- softmax features --------------------------------------------------------- */

/* e^(x - t) on a row, in place; t is finite or NaN. */
PF_INLINE void exp_row(int64_t m, float *u, float t) {
    const vf shift = vf_set(t);
    int64_t a = 0;
    for (; a + 4 * VW <= m; a += 4 * VW) {
        vf x[4];
        for (int j = 0; j < 4; j++) x[j] = vf_sub(vf_load(u + a + j * VW), shift);
        vm_exp_low4(x);
        for (int j = 0; j < 4; j++) vf_store(u + a + j * VW, x[j]);
    }
    for (; a < m; a += VW)
        vf_put(u + a, m - a, vm_exp_low(vf_sub(vf_get(u + a, m - a), shift)));
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
            float t = top[i - first];
            if (t == INFINITY) t = NAN;
            exp_row(m, u + i * ld, t == -INFINITY ? 0.0f : t);
            shift[i] = half ? t - half[i] : t;
        }
    }
}

void PF_KERN(features_pull)(int64_t n, int64_t m, int64_t ld, const float *f, float *df,
                            float *rowsum) {
    for (int64_t i = 0; i < n; i++) {
        const float *x = f + i * ld;
        float *y = df + i * ld;
        vf s0 = vf_zero(), s1 = vf_zero(), s2 = vf_zero(), s3 = vf_zero();
        int64_t a = 0;
        for (; a + 4 * VW <= m; a += 4 * VW) {
            vf y0 = vf_mul(vf_load(y + a), vf_load(x + a));
            vf y1 = vf_mul(vf_load(y + a + VW), vf_load(x + a + VW));
            vf y2 = vf_mul(vf_load(y + a + 2 * VW), vf_load(x + a + 2 * VW));
            vf y3 = vf_mul(vf_load(y + a + 3 * VW), vf_load(x + a + 3 * VW));
            vf_store(y + a, y0);
            vf_store(y + a + VW, y1);
            vf_store(y + a + 2 * VW, y2);
            vf_store(y + a + 3 * VW, y3);
            s0 = vf_add(s0, y0);
            s1 = vf_add(s1, y1);
            s2 = vf_add(s2, y2);
            s3 = vf_add(s3, y3);
        }
        for (; a < m; a += VW) {
            vf y0 = vf_mul(vf_get(y + a, m - a), vf_get(x + a, m - a));
            vf_put(y + a, m - a, y0);
            s0 = vf_add(s0, y0);
        }
        rowsum[i] = vf_sum4(s0, s1, s2, s3);
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

void PF_KERN(rows_dot)(int64_t n, int64_t m, int64_t ld, const float *f, const float *z,
                       float *y) {
    int64_t i = 0;
    for (; i + 2 <= n; i += 2) dot_pair(m, f + i * ld, f + (i + 1) * ld, z, y + i);
    if (i < n) y[i] = PF_KERN(dot)(m, f + i * ld, z);
}

/* Row after row: one stream from memory is faster than two (15 against 12 GB/s). */
void PF_KERN(gemv)(int64_t n, int64_t k, const float *w, int64_t ld, const float *x,
                   const float *b, float *y) {
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

void PF_KERN(rows_sum)(int64_t n, int64_t m, int64_t ld, const float *f, const float *w,
                       float *y) {
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
