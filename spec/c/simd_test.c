/*
 * simd_test.c - the kernel tables against plain loops in double, at every level this
 * machine has: lengths 0 to 67 and a few long ones, unaligned pointers, special values,
 * nothing written outside the run, bits that don't depend on place or neighbours, levels
 * close to each other. Functions of one variable have simd_math_test.c.
 */
#include "check.h"
#include "kern.h"

#include <float.h>

enum { MAX = 1200, SHORT = 67 };

static const pf_kern *k; /* the level under test */
static float a_[MAX], b_[MAX], c_[MAX], y_[MAX], z_[MAX], copy_[MAX];

/* Values in (-1, 1), a different sequence a seed. */
static void draw(float *x, int n, uint32_t seed) {
    for (int i = 0; i < n; i++) {
        seed = seed * 1664525u + 1013904223u;
        x[i] = (float)((int32_t)(seed >> 8) - 0x800000) / 0x800000;
    }
}

static void fresh(void) {
    draw(a_, MAX, 1);
    draw(b_, MAX, 2);
    draw(c_, MAX, 3);
    draw(y_, MAX, 4);
    memcpy(copy_, y_, sizeof y_);
}

static bool close_to(double got, double want, double tolerance) {
    return fabs(got - want) <= tolerance || (isnan(got) && isnan(want)) || got == want;
}

/* The next length: 0 .. 67, then a few long ones. */
static int next_length(int n) {
    return n < SHORT ? n + 1 : n == SHORT ? 128 : n == 128 ? 200 : n == 200 ? 513 : MAX;
}

/* ---- elementwise -------------------------------------------------------------- */

static double binary_value(pf_binary f, double a, double b) {
    switch (f) {
    case PF_BINARY_ADD:
        return a + b;
    case PF_BINARY_SUB:
        return a - b;
    case PF_BINARY_MUL:
        return a * b;
    case PF_BINARY_DIV:
        return a / b;
    case PF_BINARY_POW:
        return pow(a, b);
    case PF_BINARY_MAX:
        return a > b ? a : b;
    case PF_BINARY_MIN:
        return a < b ? a : b;
    case PF_BINARY_COUNT:
        break;
    }
    return NAN;
}

static void check_binary(int n, int at) {
    for (int f = 0; f < PF_BINARY_COUNT; f++) {
        for (int strides = 0; strides < 4; strides++) {
            const int sa = strides & 1, sb = strides >> 1;
            bool good = true;
            fresh();
            k->binary((pf_binary)f, n, a_ + at, sa, b_ + at, sb, y_ + at);
            for (int i = 0; i < n; i++) {
                const float a = a_[at + i * sa], b = b_[at + i * sb];
                const float want = (float)binary_value((pf_binary)f, (double)a, (double)b);
                good &= close_to((double)y_[at + i], (double)want, 1e-7 * fabs((double)want));
            }
            CHECK(good && y_[at + n] == copy_[at + n]);
            memcpy(z_, y_, sizeof z_);
            k->binary((pf_binary)f, n, a_ + at, sa, b_ + at, sb, a_ + at); /* in place */
            CHECK(memcmp(a_ + at, z_ + at, (size_t)n * sizeof(float)) == 0);
        }
    }
}

/* y += a x (in place and into another place), y = a x, y = a x + b, y += a b, y = value: one pass
 * each, all compared. */
static void check_linear(int n, int at) {
    int bad = 0;
    const size_t bytes = sizeof y_;
    fresh();
    k->axpy(n, 0.7f, a_ + at, y_ + at);
    for (int i = 0; i < n; i++)
        bad += !close_to((double)y_[at + i], (double)(0.7f * a_[at + i] + copy_[at + i]), 2e-7);
    memcpy(z_, copy_, bytes);
    k->axpy_to(n, 0.7f, a_ + at, copy_ + at, z_ + at);
    bad += memcmp(z_, y_, bytes) != 0;
    memcpy(y_, copy_, bytes);
    k->scale(n, 0.7f, a_ + at, y_ + at);
    for (int i = 0; i < n; i++) bad += y_[at + i] != 0.7f * a_[at + i];
    k->affine(n, 0.7f, 0.3f, a_ + at, y_ + at);
    for (int i = 0; i < n; i++)
        bad += !close_to((double)y_[at + i], (double)(0.7f * a_[at + i] + 0.3f), 2e-7);
    memcpy(y_, copy_, bytes);
    k->fma(n, a_ + at, b_ + at, y_ + at);
    for (int i = 0; i < n; i++)
        bad += !close_to((double)y_[at + i],
                         (double)a_[at + i] * (double)b_[at + i] + (double)copy_[at + i], 2e-7);
    k->fill(n, 5, y_ + at);
    for (int i = 0; i < n; i++) bad += y_[at + i] != 5;
    bad += y_[at + n] != copy_[at + n] || (at && y_[at - 1] != copy_[at - 1]);
    CHECK(bad == 0);
}

static void check_dropout(int n, int at) {
    static uint32_t words[MAX];
    int bad = 0;
    for (int i = 0; i < MAX; i++) words[i] = (uint32_t)i * 2654435761u;
    fresh();
    const uint32_t cut = 0x90000000u;
    k->dropout(n, words + at, cut, 1.25f, a_ + at, y_ + at);
    for (int i = 0; i < n; i++)
        bad += y_[at + i] != (words[at + i] >= cut ? a_[at + i] * 1.25f : 0);
    CHECK(bad == 0 && y_[at + n] == copy_[at + n]);
    k->dropout(n, words + at, 0, 1, a_ + at, y_ + at);
    CHECK(memcmp(y_ + at, a_ + at, (size_t)n * sizeof(float)) == 0);
}

static void check_rotary(int n, int at) {
    const int h = n / 2;
    int bad = 0;
    for (int halves = 0; halves < 2; halves++) {
        fresh();
        k->rotary(2 * h, halves, a_ + at, b_, c_, 1, y_ + at);
        for (int i = 0; i < h; i++) {
            const int p = at + (halves ? i : 2 * i), q = at + (halves ? i + h : 2 * i + 1);
            const double x0 = (double)a_[p], x1 = (double)a_[q];
            const double c = (double)b_[i], s = (double)c_[i];
            bad += !close_to((double)y_[p], x0 * c - x1 * s, 2e-7);
            bad += !close_to((double)y_[q], x1 * c + x0 * s, 2e-7);
        }
        bad += y_[at + 2 * h] != copy_[at + 2 * h];
        for (int i = 0; i < h; i++) b_[i] = cosf((float)i), c_[i] = sinf((float)i);
        memcpy(z_, a_, sizeof z_);
        k->rotary(2 * h, halves, z_ + at, b_, c_, 1, z_ + at); /* in place, there and back */
        k->rotary(2 * h, halves, z_ + at, b_, c_, -1, z_ + at);
        for (int i = 0; i < 2 * h; i++)
            bad += !close_to((double)z_[at + i], (double)a_[at + i], 1e-6);
    }
    CHECK(bad == 0);
}

static void check_adamw(int n, int at) {
    const double b1 = 0.9, b2 = 0.98, lr = 0.01, eps = 1e-8, decay = 0.1, c1 = 10, c2 = 50;
    int bad = 0;
    fresh();
    memset(b_, 0, sizeof b_);
    memset(c_, 0, sizeof c_);
    double m = 0, v = 0, p = n > 0 ? (double)y_[at + n - 1] : 0;
    for (int step = 0; step < 3; step++) {
        k->adamw(n, y_ + at, a_ + at, b_ + at, c_ + at, 0.5f, (float)lr, (float)b1, (float)b2,
                 (float)eps, (float)decay, (float)c1, (float)c2);
        if (n == 0) continue;
        const double g = 0.5 * (double)a_[at + n - 1];
        m = b1 * m + (1 - b1) * g;
        v = b2 * v + (1 - b2) * g * g;
        p -= lr * (m * c1 / (sqrt(v * c2) + eps) + decay * p);
        bad += !close_to((double)y_[at + n - 1], p, 2e-6);
        bad += !close_to((double)b_[at + n - 1], m, 1e-6);
        bad += !close_to((double)c_[at + n - 1], v, 1e-6);
    }
    CHECK(bad == 0 && y_[at + n] == copy_[at + n] && b_[at + n] == 0 && c_[at + n] == 0);
}

/* An element's bits are those it has alone: the step on n elements, then each by itself. */
static void check_adamw_places(void) {
    float p[SHORT], m[SHORT], v[SHORT];
    fresh();
    memcpy(p, y_, sizeof p);
    for (int i = 0; i < SHORT; i++) m[i] = b_[i], v[i] = c_[i] * c_[i];
    memcpy(z_, v, sizeof v);
    k->adamw(SHORT, y_, a_, b_, z_, 1, 0.1f, 0.9f, 0.9f, 1e-6f, 0.1f, 2, 3);
    for (int i = 0; i < SHORT; i++)
        k->adamw(1, p + i, a_ + i, m + i, v + i, 1, 0.1f, 0.9f, 0.9f, 1e-6f, 0.1f, 2, 3);
    CHECK(memcmp(p, y_, sizeof p) == 0 && memcmp(m, b_, sizeof m) == 0);
    CHECK(memcmp(v, z_, sizeof v) == 0);
}

/* ---- reductions --------------------------------------------------------------- */

static void check_sums(int n, int at) {
    double sum = 0, dot = 0, squares = 0;
    float top = -INFINITY;
    fresh();
    for (int i = 0; i < n; i++) {
        const double a = (double)a_[at + i];
        sum += a;
        dot += a * (double)b_[at + i];
        squares += a * a;
        top = fmaxf(top, a_[at + i]);
    }
    const double tolerance = 1e-7 * (4 + sqrt(n)) * 4;
    CHECK(close_to((double)k->sum(n, a_ + at), sum, tolerance));
    CHECK(close_to((double)k->dot(n, a_ + at, b_ + at), dot, tolerance));
    CHECK(close_to((double)k->sumsq(n, a_ + at), squares, tolerance * (1 + squares / 10)));
    CHECK(close_to(k->sumsq_double(n, a_ + at), squares, 1e-13 * (1 + squares)));
    CHECK(k->max(n, a_ + at) == top);
    /* One special value anywhere. */
    for (int i = 0; i < n && n <= SHORT; i++) {
        const float keep = a_[at + i];
        a_[at + i] = NAN;
        bool good = isnan(k->max(n, a_ + at)) && isnan(k->sum(n, a_ + at));
        a_[at + i] = -NAN;
        good &= isnan(k->max(n, a_ + at)) != 0;
        a_[at + i] = INFINITY;
        good &= k->max(n, a_ + at) == INFINITY && k->sum(n, a_ + at) == INFINITY;
        a_[at + i] = keep;
        CHECK(good);
    }
    /* The same bits at another address. */
    const float before = k->sum(n, a_ + at), before_dot = k->dot(n, a_ + at, b_ + at);
    memmove(z_, a_ + at, (size_t)n * sizeof(float));
    CHECK(k->sum(n, z_) == before && k->dot(n, z_, b_ + at) == before_dot);
}

static void check_softmax(int n, int at, float scale) {
    int bad = 0;
    fresh();
    for (int i = 0; i < MAX; i++) a_[i] *= scale;
    double top = -INFINITY, total = 0, mix = 0;
    for (int i = 0; i < n; i++) top = fmax(top, (double)a_[at + i]);
    for (int i = 0; i < n; i++) total += exp((double)a_[at + i] - top);
    const double want = n == 0 ? -INFINITY : top + log(total);
    CHECK(close_to((double)k->logsumexp(n, a_ + at), want, 1e-6 * (1 + scale)));
    CHECK(close_to((double)k->softmax(n, a_ + at, y_ + at), want, 1e-6 * (1 + scale)));
    for (int i = 0; i < n; i++) {
        /* x - top is rounded before the exponential sees it. */
        const double below = (double)a_[at + i] - top, p = exp(below) / total;
        bad += !close_to((double)y_[at + i], p, p * (1e-6 - 1.2e-7 * below) + 1e-38);
        mix += p * (double)b_[at + i];
    }
    CHECK(bad == 0 && y_[at + n] == copy_[at + n]);
    k->softmax_grad(n, y_ + at, b_ + at, c_ + at);
    draw(z_, MAX, 3);
    for (int i = 0; i < n; i++) {
        const double pulled = (double)y_[at + i] * ((double)b_[at + i] - mix);
        bad += !close_to((double)c_[at + i], (double)z_[at + i] + pulled, 5e-6);
    }
    CHECK(bad == 0 && c_[at + n] == z_[at + n]);
}

static void check_softmax_special(int n) {
    bool good = true;
    for (int i = 0; i < n; i++) a_[i] = -INFINITY;
    good &= k->softmax(n, a_, y_) == -INFINITY && k->logsumexp(n, a_) == -INFINITY;
    for (int i = 0; i < n; i++) good &= y_[i] == 0;
    if (n > 0) {
        a_[n - 1] = 3; /* one left: it has all the weight */
        good &= k->softmax(n, a_, y_) == 3 && y_[n - 1] == 1 && (n == 1 || y_[0] == 0);
        a_[n / 2] = NAN;
        good &= isnan(k->softmax(n, a_, y_)) && isnan(y_[0]) && isnan(y_[n - 1]);
    }
    CHECK(good);
}

/* ---- norms -------------------------------------------------------------------- */

/* Both norms by one plain form: centre false is rmsnorm. */
static void check_norm(int n, bool centre, bool weights) {
    static float dx[MAX], dw[MAX], db[MAX];
    const float *w = weights ? b_ : NULL, *b = weights ? c_ : NULL;
    double mean = 0, spread = 0, g_mean = 0, gh_mean = 0;
    float got_mean = 0, got_rstd;
    int bad = 0;
    fresh();
    for (int i = 0; i < MAX; i++) dx[i] = dw[i] = db[i] = 0.5f;
    for (int i = 0; i < n; i++) a_[i] = 2 * a_[i] + 3;
    for (int i = 0; i < n && centre; i++) mean += (double)a_[i] / n;
    for (int i = 0; i < n; i++) spread += ((double)a_[i] - mean) * ((double)a_[i] - mean) / n;
    const double rstd = 1 / sqrt(spread + 1e-5);
    for (int i = 0; i < n; i++) {
        const double g = (double)z_[i] * (w ? (double)w[i] : 1);
        g_mean += centre ? g / n : 0;
        gh_mean += g * ((double)a_[i] - mean) * rstd / n;
    }
    if (centre) {
        k->layernorm(n, 1e-5f, a_, w, b, y_, &got_mean, &got_rstd);
        k->layernorm_grad(n, a_, w, got_mean, got_rstd, z_, dx, weights ? dw : NULL,
                          weights ? db : NULL);
    } else {
        k->rmsnorm(n, 1e-5f, a_, w, y_, &got_rstd);
        k->rmsnorm_grad(n, a_, w, got_rstd, z_, dx, weights ? dw : NULL);
    }
    bad += !close_to((double)got_mean, mean, 1e-6) || !close_to((double)got_rstd / rstd, 1, 1e-5);
    for (int i = 0; i < n; i++) {
        const double h = ((double)a_[i] - mean) * rstd, wi = w ? (double)w[i] : 1;
        const double bi = b && centre ? (double)b[i] : 0;
        const double g = (double)z_[i] * wi;
        /* A row of one has spread 0: 1/sqrt(eps) enlarges every rounding. */
        const double tolerance = n == 1 ? 1e-3 : 2e-5;
        bad += !close_to((double)y_[i], h * wi + bi, tolerance);
        bad += !close_to((double)dx[i], 0.5 + rstd * (g - g_mean - h * gh_mean), tolerance);
        bad += weights && !close_to((double)dw[i], 0.5 + (double)z_[i] * h, tolerance);
        bad += weights && centre && !close_to((double)db[i], 0.5 + (double)z_[i], 1e-6);
    }
    bad += y_[n] != copy_[n] || dx[n] != 0.5f || dw[n] != 0.5f || db[n] != 0.5f;
    CHECK(bad == 0);
}

int main(void) {
    for (int level = 0; level <= (int)pf_cpu_detect(); level++) {
        k = pf_kern_table((pf_cpu)level);
        CHECK(k && strcmp(k->name, pf_cpu_name((pf_cpu)level)) == 0);
        if (!k) continue;
        for (int f = PF_BINARY_MAX; f <= PF_BINARY_MIN; f++) {
            CHECK(isnan((k->binary((pf_binary)f, 1, &(float){NAN}, 1, &(float){1}, 1, y_), y_[0])));
            CHECK(isnan((k->binary((pf_binary)f, 1, &(float){1}, 1, &(float){NAN}, 1, y_), y_[0])));
        }
        check_adamw_places();
        for (int n = 0; n < MAX; n = next_length(n)) {
            draw(z_, MAX, 5);
            for (int centre = 0; centre < 2; centre++)
                for (int weights = 0; weights < 2; weights++) {
                    draw(z_, MAX, 5);
                    check_norm(n, centre, weights);
                }
            check_softmax_special(n);
            for (int at = 0; at < 4; at++) {
                check_binary(n, at);
                check_linear(n, at);
                check_dropout(n, at);
                check_rotary(n, at);
                check_adamw(n, at);
                check_sums(n, at);
                check_softmax(n, at, at == 3 ? 100.0f : 5.0f);
            }
        }
    }
    return CHECK_REPORT();
}
