/*
 * simd_rows_test.c - the kernels on many rows against plain loops in double, at every
 * level this machine has. A row's bits are those it has alone, in whatever block it
 * stands; the columns between m and ld are never written.
 */
#include "check.h"
#include "kern.h"

enum { ROWS = 11, WIDE = 1100, FLOATS = ROWS * (WIDE + 3) };

static const pf_kern *k; /* the level under test */
static float f_[FLOATS], g_[FLOATS], u_[FLOATS], z_[WIDE + 8], y_[WIDE + 8], w_[WIDE + 8];

static const int widths[] = {0,  1,  2,  3,  4,  5,  7,  8,  9,  15, 16,  17,  31,  32,
                             33, 47, 63, 64, 65, 66, 67, 95, 96, 97, 128, 200, 256, 1100};

static void draw(float *x, int n, uint32_t seed, float scale) {
    for (int i = 0; i < n; i++) {
        seed = seed * 1664525u + 1013904223u;
        x[i] = scale * (float)((int32_t)(seed >> 8) - 0x800000) / 0x800000;
    }
}

static void fresh(float scale) {
    draw(f_, FLOATS, 1, scale);
    draw(g_, FLOATS, 2, 1);
    draw(z_, WIDE + 8, 3, 1);
    draw(y_, WIDE + 8, 4, 1);
    draw(w_, WIDE + 8, 5, 1);
    memcpy(u_, f_, sizeof u_);
}

/* Columns beyond m are as they were. */
static bool gaps_kept(int n, int m, int ld, const float *x, const float *before) {
    for (int i = 0; i < n; i++)
        if (memcmp(x + i * ld + m, before + i * ld + m, (size_t)(ld - m) * sizeof(float)) != 0)
            return false;
    return true;
}

static void check_features(int n, int m, float scale) {
    const int ld = m + 3;
    float shift[ROWS + 1] = {0}, alone;
    int bad = 0;
    fresh(scale);
    shift[n] = 9;
    k->softmax_features(n, m, ld, u_, w_, shift);
    for (int i = 0; i < n; i++) {
        float top = -INFINITY;
        for (int a = 0; a < m; a++) top = fmaxf(top, f_[i * ld + a]);
        bad += shift[i] != top - w_[i];
        for (int a = 0; a < m; a++) {
            const double want = exp((double)f_[i * ld + a] - (double)top);
            /* The difference is rounded before the exponential sees it. */
            const double allowed = want * (2.4e-7 + 1.2e-7 * fabs((double)(f_[i * ld + a] - top)));
            bad += !(fabs((double)u_[i * ld + a] - want) <= allowed + 1e-38);
        }
    }
    CHECK(bad == 0 && shift[n] == 9 && gaps_kept(n, m, ld, u_, f_));
    for (int i = 0; i < n; i++) { /* alone, elsewhere, without half: the same bits */
        memcpy(g_ + 1, f_ + i * ld, (size_t)m * sizeof(float));
        k->softmax_features(1, m, m, g_ + 1, NULL, &alone);
        bad += memcmp(g_ + 1, u_ + i * ld, (size_t)m * sizeof(float)) != 0;
        bad += alone - w_[i] != shift[i];
    }
    CHECK(bad == 0);
}

/* One special value in the middle row; the rows beside it must not notice. */
static void check_features_special(int m) {
    const int ld = m + 3, at = m / 2;
    static float clean[FLOATS];
    float shift[3], clean_shift[3];
    bool good = true;
    const float specials[] = {NAN, -NAN, INFINITY, -INFINITY};
    for (int s = 0; s < PF_COUNT(specials); s++) {
        fresh(3);
        memcpy(clean, f_, sizeof clean);
        k->softmax_features(3, m, ld, clean, NULL, clean_shift);
        u_[ld + at] = specials[s];
        k->softmax_features(3, m, ld, u_, NULL, shift);
        for (int a = 0; a < m && s < 3; a++) good &= isnan(u_[ld + a]) != 0;
        good &= s < 3 ? isnan(shift[1]) != 0 : u_[ld + at] == 0;
        good &= memcmp(u_, clean, (size_t)m * sizeof(float)) == 0 && shift[0] == clean_shift[0];
        good &= memcmp(u_ + 2 * ld, clean + 2 * ld, (size_t)m * sizeof(float)) == 0;
    }
    for (int a = 0; a < m; a++) u_[a] = -INFINITY;
    k->softmax_features(1, m, ld, u_, w_, shift);
    for (int a = 0; a < m; a++) good &= u_[a] == 0;
    CHECK(good && shift[0] == -INFINITY);
    /* The largest finite floats of both signs: 1 and 0. */
    for (int a = 0; a < m; a++) u_[a] = a == at ? 3e38f : -3e38f;
    k->softmax_features(1, m, ld, u_, NULL, shift);
    CHECK(u_[at] == 1 && shift[0] == 3e38f && (m == 1 || u_[at == 0] == 0));
}

static void check_pull(int n, int m) {
    const int ld = m + 3;
    float rowsum[ROWS], alone;
    int bad = 0;
    fresh(1);
    memcpy(u_, g_, sizeof u_);
    k->features_pull(n, m, ld, f_, NULL, NULL, u_, rowsum);
    for (int i = 0; i < n; i++) {
        double sum = 0;
        for (int a = 0; a < m; a++) {
            bad += u_[i * ld + a] != g_[i * ld + a] * f_[i * ld + a];
            sum += (double)u_[i * ld + a];
        }
        bad += !(fabs((double)rowsum[i] - sum) <= 2e-6 * (1 + sqrt(m)));
        bad += rowsum[i] != k->sum(m, u_ + i * ld);
    }
    CHECK(bad == 0 && gaps_kept(n, m, ld, u_, g_));
    for (int i = 0; i < n; i++) {
        memcpy(u_ + 1, g_ + i * ld, (size_t)m * sizeof(float));
        k->features_pull(1, m, m, f_ + i * ld, NULL, NULL, u_ + 1, &alone);
        bad += alone != rowsum[i];
    }
    CHECK(bad == 0);
}

/* With a factor a row and a row z: (df + c z) f, one rounding before the product. */
static void check_pull_joined(int n, int m) {
    const int ld = m + 3;
    float rowsum[ROWS], plain[ROWS];
    int bad = 0;
    fresh(1);
    memcpy(u_, g_, sizeof u_);
    k->features_pull(n, m, ld, f_, w_, z_ + 1, u_, rowsum);
    CHECK(gaps_kept(n, m, ld, u_, g_));
    for (int i = 0; i < n; i++) k->axpy(m, w_[i], z_ + 1, g_ + i * ld);
    k->features_pull(n, m, ld, f_, NULL, NULL, g_, plain);
    for (int i = 0; i < n; i++) {
        bad += memcmp(u_ + i * ld, g_ + i * ld, (size_t)m * sizeof(float)) != 0;
        bad += rowsum[i] != plain[i];
    }
    CHECK(bad == 0);
}

/* Against scale, axpy and dot, a row at a time: their bits. */
static void check_scaled(int n, int d) {
    const int ldx = d + 3, ldy = d + 1;
    static float x[FLOATS], y[FLOATS], want[FLOATS];
    const float one = 0.37f;
    for (int c = 0; c < 4; c++) { /* one factor or one a row; written or added */
        const bool add = c % 2 != 0;
        fresh(1);
        memcpy(x, f_, sizeof x), memcpy(y, g_, sizeof y), memcpy(want, g_, sizeof want);
        k->rows_scale(n, d, c < 2 ? &one : w_, c < 2 ? 0 : 1, x, ldx, add, y, ldy);
        for (int i = 0; i < n; i++) {
            float *row = x + i * ldx, *to = want + i * ldy;
            k->scale(d, c < 2 ? one : w_[i], row, add ? row : to);
            if (add) k->axpy(d, 1, row, to);
        }
        CHECK(memcmp(y, want, sizeof y) == 0);
    }
    memcpy(x, f_, sizeof x);
    k->rows_scale(n, d, w_, 1, x, ldx, false, x, ldx); /* in place */
    for (int i = 0; i < n; i++) k->scale(d, w_[i], f_ + i * ldx, f_ + i * ldx);
    CHECK(memcmp(x, f_, sizeof x) == 0);
}

static void check_loaded(int n, int d) {
    const int ld = d + 3;
    static float y[FLOATS], row[WIDE];
    float half[ROWS + 1], dots[ROWS + 1];
    int bad = 0;
    fresh(1);
    half[n] = dots[n] = y[n * d] = 9;
    k->rows_load(n, d, 0.7f, f_, ld, y, half);
    for (int i = 0; i < n; i++) {
        k->scale(d, 0.7f, f_ + i * ld, row);
        bad += memcmp(row, y + i * d, (size_t)d * sizeof(float)) != 0;
        bad += half[i] != 0.5f * k->sumsq(d, row);
    }
    k->rows_weigh(n, d, w_, f_, ld, g_, ld, y, dots);
    for (int i = 0; i < n; i++) {
        k->scale(d, w_[i], f_ + i * ld, row);
        bad += memcmp(row, y + i * d, (size_t)d * sizeof(float)) != 0;
        bad += dots[i] != -k->dot(d, row, g_ + i * ld);
    }
    CHECK(bad == 0 && half[n] == 9 && dots[n] == 9 && y[n * d] == 9);
}

static void check_products(int n, int m) {
    const int ld = m + 3;
    float out[ROWS + 1], biased[ROWS];
    int bad = 0;
    fresh(1);
    out[n] = 9;
    k->rows_dot(n, m, ld, f_, z_ + 1, out);
    k->gemv(n, m, f_, ld, z_ + 1, w_, biased);
    for (int i = 0; i < n; i++) {
        double want = 0;
        for (int a = 0; a < m; a++) want += (double)f_[i * ld + a] * (double)z_[1 + a];
        bad += !(fabs((double)out[i] - want) <= 2e-6 * (1 + sqrt(m)));
        bad += out[i] != k->dot(m, f_ + i * ld, z_ + 1);
        bad += biased[i] != out[i] + w_[i];
    }
    CHECK(bad == 0 && out[n] == 9);
    k->gemv(n, m, f_, ld, z_ + 1, NULL, biased);
    CHECK(memcmp(biased, out, (size_t)n * sizeof(float)) == 0);
}

static void check_rows_sum(int n, int m, bool weighted) {
    const int ld = m + 3;
    float before[WIDE + 8], alone;
    int bad = 0;
    fresh(1);
    memcpy(before, y_, sizeof before);
    k->rows_sum(n, m, ld, f_, weighted ? w_ : NULL, y_);
    for (int a = 0; a < m; a++) {
        double want = (double)before[a];
        for (int i = 0; i < n; i++) want += (weighted ? (double)w_[i] : 1) * (double)f_[i * ld + a];
        bad += !(fabs((double)y_[a] - want) <= 3e-6);
        alone = before[a]; /* a column by itself: the same bits */
        k->rows_sum(n, 1, ld, f_ + a, weighted ? w_ : NULL, &alone);
        bad += alone != y_[a];
    }
    CHECK(bad == 0 && y_[m] == before[m]);
}

/* Every level stays close to the generic one. */
static void check_levels(const pf_kern *generic) {
    static float v[FLOATS];
    float shift[ROWS], other[ROWS];
    const int m = 256;
    int bad = 0;
    fresh(8);
    memcpy(v, f_, sizeof v);
    k->softmax_features(ROWS, m, m, u_, NULL, shift);
    generic->softmax_features(ROWS, m, m, v, NULL, other);
    for (int i = 0; i < ROWS * m; i++) bad += !(fabsf(u_[i] - v[i]) <= 3.6e-7f * v[i]);
    bad += memcmp(shift, other, sizeof shift) != 0;
    k->rows_dot(ROWS, m, m, u_, z_, shift);
    generic->rows_dot(ROWS, m, m, u_, z_, other);
    for (int i = 0; i < ROWS; i++) bad += !(fabsf(shift[i] - other[i]) <= 2e-6f);
    CHECK(bad == 0);
}

int main(void) {
    for (int level = 0; level <= (int)pf_cpu_detect(); level++) {
        k = pf_kern_table((pf_cpu)level);
        CHECK(k != NULL);
        if (!k) continue;
        check_levels(pf_kern_table(PF_CPU_GENERIC));
        for (int j = 0; j < PF_COUNT(widths); j++) {
            const int m = widths[j];
            if (m > 0) check_features_special(m);
            for (int n = 0; n <= ROWS; n++) {
                check_features(n, m, n % 2 ? 5.0f : 60.0f);
                check_pull(n, m);
                check_pull_joined(n, m);
                check_scaled(n, m);
                check_loaded(n, m);
                check_products(n, m);
                check_rows_sum(n, m, true);
                check_rows_sum(n, m, false);
            }
        }
    }
    return CHECK_REPORT();
}
