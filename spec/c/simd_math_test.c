/*
 * simd_math_test.c - the functions of one variable and their derivatives against the C
 * library in double, at every level this machine has: dense sweeps of the useful range
 * and of all bit patterns, special values, and one rule for all: an element's bits don't
 * depend on its place in the run.
 */
#include "check.h"
#include "kern.h"

#include <float.h>

enum { COUNT = 16384, RUN = 67 };

static float x_[COUNT], y_[COUNT], dy_[COUNT], dx_[COUNT];

/* ---- what is right ------------------------------------------------------------ */

static double gelu_tanh_inner(double x) { return 0.79788456080286536 * (x + 0.044715 * x * x * x); }

static double value(pf_unary f, double x) {
    switch (f) {
    case PF_UNARY_NEG:
        return -x;
    case PF_UNARY_EXP:
        return exp(x);
    case PF_UNARY_LOG:
        return log(x);
    case PF_UNARY_SQRT:
        return sqrt(x);
    case PF_UNARY_SQUARE:
        return x * x;
    case PF_UNARY_TANH:
        return tanh(x);
    case PF_UNARY_SIGMOID:
        return 1 / (1 + exp(-x));
    case PF_UNARY_RELU:
        return x < 0 ? 0 : x;
    case PF_UNARY_REQU:
        return x < 0 ? 0 : x * x;
    case PF_UNARY_GELU:
        return x == -INFINITY ? 0 : 0.5 * x * erfc(-x * 0.70710678118654752);
    case PF_UNARY_GELU_TANH:
        return x == -INFINITY ? 0 : x / (1 + exp(-2 * gelu_tanh_inner(x)));
    case PF_UNARY_SILU:
        return x == -INFINITY ? 0 : x / (1 + exp(-x));
    case PF_UNARY_ELU:
        return x > 0 ? x : expm1(x);
    case PF_UNARY_ABS:
        return fabs(x);
    case PF_UNARY_COS:
        return cos(x);
    case PF_UNARY_SIN:
        return sin(x);
    case PF_UNARY_COUNT:
        break;
    }
    return NAN;
}

static double slope(pf_unary f, double x) {
    double s = 1 / (1 + exp(-x)), u = gelu_tanh_inner(x);
    switch (f) {
    case PF_UNARY_NEG:
        return -1;
    case PF_UNARY_EXP:
        return exp(x);
    case PF_UNARY_LOG:
        return 1 / x;
    case PF_UNARY_SQRT:
        return 0.5 / sqrt(x);
    case PF_UNARY_SQUARE:
        return 2 * x;
    case PF_UNARY_TANH:
        return 1 - tanh(x) * tanh(x);
    case PF_UNARY_SIGMOID:
        return s * (1 - s);
    case PF_UNARY_RELU:
        return x > 0;
    case PF_UNARY_REQU:
        return x > 0 ? 2 * x : 0;
    case PF_UNARY_GELU:
        return 0.5 * erfc(-x * 0.70710678118654752) + x * exp(-x * x / 2) * 0.39894228040143268;
    case PF_UNARY_GELU_TANH:
        s = 1 / (1 + exp(-2 * u));
        return s + x * s * (1 - s) * 2 * 0.79788456080286536 * (1 + 3 * 0.044715 * x * x);
    case PF_UNARY_SILU:
        return s + x * s * (1 - s);
    case PF_UNARY_ELU:
        return x > 0 ? 1 : exp(x);
    case PF_UNARY_ABS:
        return (x > 0) - (x < 0);
    case PF_UNARY_COS:
        return -sin(x);
    case PF_UNARY_SIN:
        return cos(x);
    case PF_UNARY_COUNT:
        break;
    }
    return NAN;
}

/* Bounds as documented in vmath.h and kern.h in ulp, and an absolute floor below which
 * results may fade to 0. */
static const struct {
    const char *name;
    double ulp, floor, low, high;
} bound[PF_UNARY_COUNT] = {
    [PF_UNARY_NEG] = {"neg", 0, 0, -10, 10},
    [PF_UNARY_EXP] = {"exp", 1, 0, -110, 95},
    [PF_UNARY_LOG] = {"log", 1, 0, 0, 20},
    [PF_UNARY_SQRT] = {"sqrt", 0.5, 0, 0, 100},
    [PF_UNARY_SQUARE] = {"square", 0.5, 0, -10, 10},
    [PF_UNARY_TANH] = {"tanh", 2, 0, -12, 12},
    [PF_UNARY_SIGMOID] = {"sigmoid", 3, 0x1p-126, -90, 20},
    [PF_UNARY_RELU] = {"relu", 0, 0, -10, 10},
    [PF_UNARY_REQU] = {"requ", 0.5, 0, -10, 10},
    [PF_UNARY_GELU] = {"gelu", 4, 0x1p-122, -14, 8},
    [PF_UNARY_GELU_TANH] = {"gelu_tanh", 4, 0x1p-119, -12, 8},
    [PF_UNARY_SILU] = {"silu", 3, 0x1p-119, -90, 20},
    [PF_UNARY_ELU] = {"elu", 1, 0, -100, 5},
    [PF_UNARY_ABS] = {"abs", 0, 0, -10, 10},
    [PF_UNARY_COS] = {"cos", 3, 0, -1e4, 1e4},
    [PF_UNARY_SIN] = {"sin", 3, 0, -1e4, 1e4},
};

/* ---- measuring ---------------------------------------------------------------- */

/* |got - want| in ulp of the float nearest to want; 0 where both are the same special
 * value or the difference is below `floor`; infinity where got is of another kind. */
static double ulp_error(float got, double want, double floor) {
    if (isnan(want)) return isnan(got) ? 0 : INFINITY;
    if (isnan(got)) return INFINITY;
    const float near = (float)want;
    if (got == near || fabs((double)got - want) <= floor) return 0;
    if (isinf(near) || isinf(got)) {
        /* At the edge of overflow one ulp decides. */
        return fabsf(isinf(got) ? near : got) >= FLT_MAX && signbit(got) == signbit(near)
                   ? 1
                   : INFINITY;
    }
    int e;
    frexp(fabs(want), &e);
    return fabs((double)got - want) / ldexp(1, (e < -125 ? -125 : e) - 24);
}

/* The worst error over the points in x_; *where is its x. */
static double worst(const pf_kern *k, pf_unary f, int n, float *where) {
    const double floor = bound[f].floor;
    double w = 0;
    k->unary(f, n, x_, y_);
    for (int i = 0; i < n; i++) {
        double e = ulp_error(y_[i], value(f, (double)x_[i]), floor);
        /* gelu_tanh: the rounding of u shows in the lower tail. */
        if (f == PF_UNARY_GELU_TANH && x_[i] < 0)
            e -= fmin(300, 6 * fabs(gelu_tanh_inner((double)x_[i])));
        if (e > w) w = e, *where = x_[i];
    }
    return w;
}

static void check_sweep(const pf_kern *k, pf_unary f) {
    const bool fused = k != pf_kern_table(PF_CPU_GENERIC);
    const double allowed = f == PF_UNARY_GELU && !fused ? 5 : bound[f].ulp;
    double w = 0, e;
    float at = 0, here = 0;
    for (int part = 0; part < 16; part++) { /* a grid of the useful range */
        for (int i = 0; i < COUNT; i++) {
            double t = (part * COUNT + i + 0.37) / (16.0 * COUNT);
            x_[i] = (float)(bound[f].low + t * (bound[f].high - bound[f].low));
        }
        e = worst(k, f, COUNT, &here);
        if (e > w) w = e, at = here;
    }
    for (uint32_t part = 0; part < 16; part++) { /* all bit patterns, every 16381st */
        for (uint32_t i = 0; i < COUNT; i++) {
            const uint32_t bits = (part * COUNT + i) * 16381u;
            memcpy(&x_[i], &bits, sizeof bits);
        }
        e = worst(k, f, COUNT, &here);
        if (e > w) w = e, at = here;
    }
    if (w > allowed)
        fprintf(stderr, "%s %s: %.2f ulp at %.9g (%a)\n", k->name, bound[f].name, w, (double)at,
                (double)at);
    if (getenv("PF_VERBOSE")) printf("%s %s: %.3f ulp\n", k->name, bound[f].name, w);
    CHECK(w <= allowed);
}

static void check_slope(const pf_kern *k, pf_unary f) {
    int bad = 0;
    const double low = fmax(bound[f].low, -60), high = fmin(bound[f].high, 60);
    for (int i = 0; i < COUNT; i++) {
        x_[i] = (float)(low + (i + 0.37) / COUNT * (high - low));
        y_[i] = (float)value(f, (double)x_[i]);
        dy_[i] = (float)sin(i);
        dx_[i] = (float)cos(3 * i);
    }
    k->unary_grad(f, COUNT, x_, y_, dy_, dx_);
    for (int i = 0; i < COUNT; i++) {
        const double d = slope(f, (double)x_[i]), before = (double)(float)cos(3 * i);
        const double want = before + (double)dy_[i] * d;
        const double scale = fmax(1, fabs(d)) * fabs((double)dy_[i]) + fabs(before);
        if (!(fabs((double)dx_[i] - want) <= 1e-6 * scale)) bad++;
    }
    if (bad) fprintf(stderr, "%s %s: %d wrong derivatives\n", k->name, bound[f].name, bad);
    CHECK(bad == 0);
}

/* ---- special values and places ------------------------------------------------ */

static float one(const pf_kern *k, pf_unary f, float x) {
    float y;
    k->unary(f, 1, &x, &y);
    return y;
}

static float one_grad(const pf_kern *k, pf_unary f, float x) {
    float y = one(k, f, x), dy = 1, dx = 0;
    k->unary_grad(f, 1, &x, &y, &dy, &dx);
    return dx;
}

static void check_special(const pf_kern *k) {
    const float inf = INFINITY;
    CHECK(one(k, PF_UNARY_EXP, -inf) == 0 && one(k, PF_UNARY_EXP, inf) == inf);
    CHECK(one(k, PF_UNARY_EXP, 0) == 1 && one(k, PF_UNARY_EXP, -104) == 0);
    CHECK(one(k, PF_UNARY_EXP, 88.8f) == inf && one(k, PF_UNARY_EXP, 88.7f) < inf);
    CHECK(one(k, PF_UNARY_LOG, 0) == -inf && one(k, PF_UNARY_LOG, inf) == inf);
    CHECK(one(k, PF_UNARY_LOG, 1) == 0 && isnan(one(k, PF_UNARY_LOG, -1)));
    CHECK(isnan(one(k, PF_UNARY_LOG, -inf)));
    CHECK(one(k, PF_UNARY_TANH, inf) == 1 && one(k, PF_UNARY_TANH, -inf) == -1);
    CHECK(signbit(one(k, PF_UNARY_TANH, -0.0f)));
    CHECK(one(k, PF_UNARY_SIGMOID, -inf) == 0 && one(k, PF_UNARY_SIGMOID, 0) == 0.5f);
    CHECK(one(k, PF_UNARY_GELU, -inf) == 0 && one(k, PF_UNARY_GELU, inf) == inf);
    CHECK(one(k, PF_UNARY_SILU, -inf) == 0 && one(k, PF_UNARY_GELU_TANH, -inf) == 0);
    CHECK(one(k, PF_UNARY_ELU, -inf) == -1 && one(k, PF_UNARY_ELU, inf) == inf);
    CHECK(isnan(one(k, PF_UNARY_SIN, inf)) && isnan(one(k, PF_UNARY_COS, -inf)));
    CHECK(one(k, PF_UNARY_COS, 0) == 1 && one(k, PF_UNARY_SIN, 0) == 0);
    for (int f = 0; f < PF_UNARY_COUNT; f++) CHECK(isnan(one(k, (pf_unary)f, NAN)));
    CHECK(one_grad(k, PF_UNARY_RELU, 0) == 0 && one_grad(k, PF_UNARY_ABS, 0) == 0);
    CHECK(one_grad(k, PF_UNARY_GELU, inf) == 1 && one_grad(k, PF_UNARY_GELU, -inf) == 0);
    CHECK(one_grad(k, PF_UNARY_SILU, inf) == 1 && one_grad(k, PF_UNARY_SILU, -inf) == 0);
    CHECK(one_grad(k, PF_UNARY_GELU_TANH, inf) == 1 && one_grad(k, PF_UNARY_GELU_TANH, -inf) == 0);
}

/* Every length and offset gives each element the bits it has alone, writes nothing else,
 * and works in place. */
static void check_places(const pf_kern *k, pf_unary f) {
    float alone[RUN + 4], alone_grad[RUN + 4];
    int bad = 0;
    for (int i = 0; i < RUN + 4; i++) {
        x_[i] = (float)(i % 5 == 0 ? 3e4 * i : 3.3 * sin(i));
        dy_[i] = (float)cos(i);
        alone[i] = one(k, f, x_[i]);
        alone_grad[i] = 0.25f;
        k->unary_grad(f, 1, x_ + i, alone + i, dy_ + i, alone_grad + i);
    }
    for (int n = 0; n <= RUN; n++) {
        for (int at = 0; at < 4; at++) {
            for (int i = 0; i < RUN + 8; i++) y_[i] = dx_[i] = 0.25f;
            k->unary(f, n, x_ + at, y_ + at);
            k->unary_grad(f, n, x_ + at, alone + at, dy_ + at, dx_ + at);
            bad += memcmp(y_ + at, alone + at, (size_t)n * sizeof(float)) != 0;
            bad += memcmp(dx_ + at, alone_grad + at, (size_t)n * sizeof(float)) != 0;
            bad += y_[at + n] != 0.25f || dx_[at + n] != 0.25f || (at && y_[at - 1] != 0.25f);
            memcpy(y_, x_, sizeof(float) * (RUN + 4));
            k->unary(f, n, y_ + at, y_ + at);
            bad += memcmp(y_ + at, alone + at, (size_t)n * sizeof(float)) != 0;
        }
    }
    CHECK(bad == 0);
}

int main(void) {
    for (int level = 0; level <= (int)pf_cpu_detect(); level++) {
        const pf_kern *k = pf_kern_table((pf_cpu)level);
        CHECK(k != NULL);
        if (!k) continue;
        check_special(k);
        for (int f = 0; f < PF_UNARY_COUNT; f++) {
            check_sweep(k, (pf_unary)f);
            check_slope(k, (pf_unary)f);
            check_places(k, (pf_unary)f);
        }
    }
    return CHECK_REPORT();
}
