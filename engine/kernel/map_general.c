/*
 * map_general.c - generalised attention (paper, section 2.2): phi(x)_a = ratio f(u_a) + eps,
 * with u = W x, or u = x without a projection. No log-shift, but for exp: features are what
 * they are.
 *
 * f is a row of the kernels' table of functions. The pull-back reads f'(u) off the feature
 * where it can; where the sign of u is lost in f (abs, square) or f' is no function of f, the
 * operator makes u again (needs_u).
 */
#include <math.h>
#include <string.h>

#include "kern.h"
#include "map.h"

/* Rows are worked through in pieces of this many numbers, which fit the stack. */
enum { PIECE = 128 };

static void no_shift(int64_t n, float *shift) { memset(shift, 0, (size_t)n * sizeof *shift); }

static void general_encode(const pf_map_args *args, pf_side side, int64_t n, int64_t ld, float *u,
                           const float *half, float *shift) {
    (void)side, (void)half;
    for (int64_t i = 0; i < n; i++) {
        float *row = u + i * ld;
        args->kern->unary((pf_unary)args->map->function, args->m, row, row);
        if (args->ratio != 1 || args->eps != 0) {
            args->kern->affine(args->m, args->ratio, args->eps, row, row);
        }
    }
    no_shift(n, shift);
}

/* du = ratio f'(u) df. Of what unary_grad may read, u and y = f(u), it gets u twice when
 * there is one, else y = (feature - eps) / ratio twice: enough for sigmoid and tanh. */
static void general_pull(const pf_map_args *args, pf_side side, int64_t n, int64_t ld,
                         const float *f, const float *u, const float *c, const float *z, float *df,
                         float *coef) {
    (void)side;
    pf_map_join(args, n, ld, c, z, df);
    float y[PIECE], slope[PIECE];
    pf_unary function = (pf_unary)args->map->function;
    for (int64_t i = 0; i < n; i++) {
        for (int64_t a = 0; a < args->m; a += PIECE) {
            int64_t k = pf_min(PIECE, args->m - a);
            float *d = df + i * ld + a;
            const float *x = u ? u + i * args->m + a : y;
            if (!u) {
                args->kern->affine(k, 1 / args->ratio, -args->eps / args->ratio, f + i * ld + a, y);
            }
            memset(slope, 0, sizeof slope);
            args->kern->unary_grad(function, k, x, x, d, slope);
            args->kern->scale(k, args->ratio, slope, d);
        }
        coef[i] = 0;
    }
}

/* The same for relu, with an exact comparison: a feature of eps is one of u <= 0. */
static void relu_pull(const pf_map_args *args, pf_side side, int64_t n, int64_t ld, const float *f,
                      const float *u, const float *c, const float *z, float *df, float *coef) {
    (void)side, (void)u;
    pf_map_join(args, n, ld, c, z, df);
    float ratio = args->ratio;
    for (int64_t i = 0; i < n; i++) {
        for (int64_t a = i * ld; a < i * ld + args->m; a++) {
            df[a] = f[a] > args->eps ? ratio * df[a] : 0;
        }
        coef[i] = 0;
    }
}

static double general_value(int function, double u) {
    switch (function) {
    case PF_UNARY_RELU:
        return fmax(u, 0);
    case PF_UNARY_ELU:
        return u > 0 ? u + 1 : exp(u);
    case PF_UNARY_GELU:
        return u * 0.5 * erfc(-u / sqrt(2));
    case PF_UNARY_SIGMOID:
        return 1 / (1 + exp(-u));
    case PF_UNARY_TANH:
        return tanh(u);
    case PF_UNARY_ABS:
        return fabs(u);
    case PF_UNARY_COS:
        return cos(u);
    case PF_UNARY_SIN:
        return sin(u);
    case PF_UNARY_SQUARE:
        return u * u;
    case PF_UNARY_REQU:
        return u > 0 ? u * u : 0;
    default:
        return u; /* identity */
    }
}

static void general_define(const pf_map_args *args, const double *u, double half, double *log_phi,
                           double *sign) {
    (void)half;
    for (int64_t a = 0; a < args->m; a++) {
        double f =
            (double)args->ratio * general_value(args->map->function, u[a]) + (double)args->eps;
        log_phi[a] = log(fabs(f));
        sign[a] = (f > 0) - (f < 0);
    }
}

/* ---- elu + 1: u + 1 above 0, exp(u) below (the Linear Transformer's) ---- */

/* As max(u, 0) + exp(min(u, 0)), which keeps the digits of a small exp(u). */
static void elu_encode(const pf_map_args *args, pf_side side, int64_t n, int64_t ld, float *u,
                       const float *half, float *shift) {
    (void)side, (void)half;
    float above[PIECE];
    for (int64_t i = 0; i < n; i++) {
        for (int64_t a = 0; a < args->m; a += PIECE) {
            int64_t k = pf_min(PIECE, args->m - a);
            float *x = u + i * ld + a;
            args->kern->unary(PF_UNARY_RELU, k, x, above);
            for (int64_t c = 0; c < k; c++) x[c] = x[c] > 0 ? 0 : x[c];
            args->kern->unary(PF_UNARY_EXP, k, x, x);
            args->kern->axpy(k, 1, above, x);
            args->kern->affine(k, args->ratio, args->eps, x, x);
        }
    }
    no_shift(n, shift);
}

/* f' = 1 above 0, f itself (without ratio and eps) below. */
static void elu_pull(const pf_map_args *args, pf_side side, int64_t n, int64_t ld, const float *f,
                     const float *u, const float *c, const float *z, float *df, float *coef) {
    (void)side, (void)u;
    pf_map_join(args, n, ld, c, z, df);
    for (int64_t i = 0; i < n; i++) {
        for (int64_t a = i * ld; a < i * ld + args->m; a++) {
            float plain = f[a] - args->eps;
            df[a] *= plain < args->ratio ? plain : args->ratio;
        }
        coef[i] = 0;
    }
}

/* ---- identity ---- */

static void identity_encode(const pf_map_args *args, pf_side side, int64_t n, int64_t ld, float *u,
                            const float *half, float *shift) {
    (void)side, (void)half;
    for (int64_t i = 0; i < n; i++) {
        args->kern->affine(args->m, args->ratio, args->eps, u + i * ld, u + i * ld);
    }
    no_shift(n, shift);
}

static void identity_pull(const pf_map_args *args, pf_side side, int64_t n, int64_t ld,
                          const float *f, const float *u, const float *c, const float *z, float *df,
                          float *coef) {
    (void)side, (void)f, (void)u;
    pf_map_join(args, n, ld, c, z, df);
    for (int64_t i = 0; i < n; i++) {
        args->kern->scale(args->m, args->ratio, df + i * ld, df + i * ld);
        coef[i] = 0;
    }
}

/* ---- exp: ratio exp(u) + eps, divided by exp(top), so that nothing overflows ---- */

/* The largest of u and log(eps / ratio), the log of the feature of u = -inf. */
static float exp_top(const pf_map_args *args, float largest) {
    float floor = args->eps > 0 ? logf(args->eps / args->ratio) : -INFINITY;
    return largest < floor ? floor : largest;
}

/* f = exp(u - top) + exp(log(eps / ratio) - top), shift = top + log(ratio). */
static void exp_encode(const pf_map_args *args, pf_side side, int64_t n, int64_t ld, float *u,
                       const float *half, float *shift) {
    (void)side, (void)half;
    args->kern->softmax_features(n, args->m, ld, u, NULL, shift);
    for (int64_t i = 0; i < n; i++) {
        float top = exp_top(args, shift[i]);
        if (args->eps > 0) {
            float down = shift[i] == -INFINITY ? 0 : expf(shift[i] - top);
            float more = expf(logf(args->eps / args->ratio) - top);
            args->kern->affine(args->m, down, more, u + i * ld, u + i * ld);
        }
        shift[i] = top + logf(args->ratio);
    }
}

/* du = df exp(u - top), the feature without its eps. */
static void exp_pull(const pf_map_args *args, pf_side side, int64_t n, int64_t ld, const float *f,
                     const float *u, const float *c, const float *z, float *df, float *coef) {
    (void)side;
    float plain[PIECE];
    if (args->eps == 0) {
        args->kern->features_pull(n, args->m, ld, f, c, z, df, coef);
        memset(coef, 0, (size_t)n * sizeof *coef);
        return;
    }
    pf_map_join(args, n, ld, c, z, df);
    for (int64_t i = 0; i < n; i++) {
        const float *row = u + i * args->m;
        float top = exp_top(args, args->kern->max(args->m, row));
        for (int64_t a = 0; a < args->m; a += PIECE) {
            int64_t k = pf_min(PIECE, args->m - a);
            float *d = df + i * ld + a;
            args->kern->affine(k, 1, -top, row + a, plain);
            args->kern->unary(PF_UNARY_EXP, k, plain, plain);
            args->kern->binary(PF_BINARY_MUL, k, d, 1, plain, 1, d);
        }
        coef[i] = 0;
    }
}

static void exp_define(const pf_map_args *args, const double *u, double half, double *log_phi,
                       double *sign) {
    (void)half;
    double floor = log((double)args->eps), ratio = log((double)args->ratio);
    for (int64_t a = 0; a < args->m; a++) {
        double top = fmax(u[a] + ratio, floor);
        log_phi[a] = top == -INFINITY ? top : top + log(exp(u[a] + ratio - top) + exp(floor - top));
        sign[a] = 1;
    }
}

/* ---- given: the features are the input (linear_attention) ---- */

static void given_encode(const pf_map_args *args, pf_side side, int64_t n, int64_t ld, float *u,
                         const float *half, float *shift) {
    (void)args, (void)side, (void)ld, (void)u, (void)half;
    no_shift(n, shift);
}

static void given_pull(const pf_map_args *args, pf_side side, int64_t n, int64_t ld, const float *f,
                       const float *u, const float *c, const float *z, float *df, float *coef) {
    (void)side, (void)f, (void)u;
    pf_map_join(args, n, ld, c, z, df);
    memset(coef, 0, (size_t)n * sizeof *coef);
}

const pf_map pf_map_given = {
    .name = "given",
    .doc = "The features are the input.",
    .width = 1,
    .encode = given_encode,
    .pull = given_pull,
    .define = general_define,
    .function = PF_UNARY_COUNT,
};

/* ---- the rows ---- */

const pf_map pf_map_relu = {
    .name = "relu",
    .doc = "Generalised attention with relu(u) (Performer-ReLU of the paper). Paper, 2.2.",
    .positive = true,
    .eps = 1e-3,
    .width = 1,
    .function = PF_UNARY_RELU,
    .encode = general_encode,
    .pull = relu_pull,
    .define = general_define,
};

const pf_map pf_map_elu = {
    .name = "elu",
    .doc = "Generalised attention with elu(u) + 1 (the Linear Transformer's map).",
    .positive = true,
    .width = 1,
    .function = PF_UNARY_ELU,
    .encode = elu_encode,
    .pull = elu_pull,
    .define = general_define,
};

const pf_map pf_map_exp = {
    .name = "exp",
    .doc = "Generalised attention with exp(u); safe for any u, since logarithms are kept.",
    .shifts = true,
    .positive = true,
    .needs_u = true,
    .width = 1,
    .function = PF_UNARY_EXP,
    .encode = exp_encode,
    .pull = exp_pull,
    .define = exp_define,
};

const pf_map pf_map_gelu = {
    .name = "gelu",
    .doc = "Generalised attention with gelu(u), the exact one (erf): down to -0.17, so a "
           "denominator can come near 0.",
    .needs_u = true,
    .width = 1,
    .function = PF_UNARY_GELU,
    .encode = general_encode,
    .pull = general_pull,
    .define = general_define,
};

const pf_map pf_map_sigmoid = {
    .name = "sigmoid",
    .doc = "Generalised attention with 1 / (1 + exp(-u)).",
    .positive = true,
    .width = 1,
    .function = PF_UNARY_SIGMOID,
    .encode = general_encode,
    .pull = general_pull,
    .define = general_define,
};

const pf_map pf_map_tanh = {
    .name = "tanh",
    .doc = "Generalised attention with tanh(u), of both signs: denominators can be near 0.",
    .width = 1,
    .function = PF_UNARY_TANH,
    .encode = general_encode,
    .pull = general_pull,
    .define = general_define,
};

const pf_map pf_map_abs = {
    .name = "abs",
    .doc = "Generalised attention with |u|.",
    .positive = true,
    .needs_u = true,
    .width = 1,
    .function = PF_UNARY_ABS,
    .encode = general_encode,
    .pull = general_pull,
    .define = general_define,
};

const pf_map pf_map_cos = {
    .name = "cos",
    .doc = "Generalised attention with cos(u), of both signs: denominators can be near 0.",
    .needs_u = true,
    .width = 1,
    .function = PF_UNARY_COS,
    .encode = general_encode,
    .pull = general_pull,
    .define = general_define,
};

const pf_map pf_map_sin = {
    .name = "sin",
    .doc = "Generalised attention with sin(u), of both signs: denominators can be near 0.",
    .needs_u = true,
    .width = 1,
    .function = PF_UNARY_SIN,
    .encode = general_encode,
    .pull = general_pull,
    .define = general_define,
};

const pf_map pf_map_identity = {
    .name = "identity",
    .doc = "Generalised attention with u itself, of both signs: denominators can be near 0.",
    .width = 1,
    .function = PF_UNARY_COUNT,
    .encode = identity_encode,
    .pull = identity_pull,
    .define = general_define,
};

const pf_map pf_map_square = {
    .name = "square",
    .doc = "Generalised attention with u^2.",
    .positive = true,
    .needs_u = true,
    .width = 1,
    .function = PF_UNARY_SQUARE,
    .encode = general_encode,
    .pull = general_pull,
    .define = general_define,
};

const pf_map pf_map_requ = {
    .name = "requ",
    .doc = "Generalised attention with u^2 where u > 0, else 0.",
    .positive = true,
    .eps = 1e-3,
    .needs_u = true,
    .width = 1,
    .function = PF_UNARY_REQU,
    .encode = general_encode,
    .pull = general_pull,
    .define = general_define,
};
