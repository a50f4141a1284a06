/*
 * map_softmax.c - the positive features that estimate exp(x.y) (paper, Lemma 1 and 2.3):
 *
 *     softmax      phi(x)_a = m^(-1/2) exp(w_a.x - |x|^2/2)                          SM+
 *     softmax_reg  the same, the rows of W having norm sqrt(d)                       SMREG
 *     softmax_hyp  (2m)^(-1/2) exp(-|x|^2/2) [exp(w_a.x), exp(-w_a.x)], 2m features  SMhyp+
 *     softmax_plus m^(-1/2) (1-4A)^(d/4) exp(A |w_a|^2 + sqrt(1-4A) w_a.x - |x|^2/2) FAVOR++
 *
 * E[phi(x).phi(y)] = exp(x.y) for all but SMREG. The last is SM+ under an exponential tilt of
 * the Gaussian, any A < 1/4 (arXiv 2205.15317): a slope and a bias for u, which the caller
 * keeps in the arguments.
 *
 * Encoded as f_a = exp(u_a - t), t the row's largest u, and the log-shift t - |x|^2 / 2, so
 * every feature is at most 1 and one is exactly 1. Constant factors are left out: they cancel
 * in the attention. So does t, a constant for the gradient, unless eps > 0.
 *
 * eps is added to f: phi_a = e^(u_a - |x|^2/2) + eps e^(t - |x|^2/2), eps being a share of the
 * row's own largest feature. It depends on nothing but the row, so it is causal, streams, and
 * no long key can drown the others in eps. Published versions take the largest u over all keys
 * instead, without |x|^2/2: equal to this for eps = 0, and leaking the future otherwise.
 */
#include <math.h>

#include "kern.h"
#include "map.h"

/* ---- rows of exponentials, `width` wide: shared by all ---- */

/* u (n, width; ld) -> exp(u - t) + eps, shift t - half. */
static void exp_encode(const pf_map_args *args, int64_t n, int64_t width, int64_t ld, float *u,
                       const float *half, float *shift) {
    args->kern->softmax_features(n, width, ld, u, half, shift);
    if (args->eps == 0) return;
    for (int64_t i = 0; i < n; i++) {
        args->kern->affine(width, 1, args->eps, u + i * ld, u + i * ld);
    }
}

/* dLoss/du of a row with eps > 0: f = e^(u - t) + eps, and t = max u is the row's own. */
static float pull_with_eps(const pf_map_args *args, int64_t width, const float *f, float *df) {
    float total = 0, sum = args->kern->sum(width, df);
    int64_t top = 0;
    for (int64_t a = 0; a < width; a++) {
        if (f[a] > f[top]) top = a;
        df[a] *= f[a] - args->eps;
    }
    df[top] += args->eps * sum;
    total = args->kern->sum(width, df);
    return total;
}

/* df (n, width; ld) + c z^T -> dLoss/du; coef -sum(du), from |x|^2 / 2. */
static void exp_pull(const pf_map_args *args, int64_t n, int64_t width, int64_t ld, const float *f,
                     const float *c, const float *z, float *df, float *coef) {
    if (args->eps == 0) {
        args->kern->features_pull(n, width, ld, f, c, z, df, coef);
    } else {
        pf_map_join(args, n, ld, c, z, df);
        for (int64_t i = 0; i < n; i++) {
            coef[i] = pull_with_eps(args, width, f + i * ld, df + i * ld);
        }
    }
    for (int64_t i = 0; i < n; i++) coef[i] = -coef[i];
}

/* log(e^u + eps e^t) of `width` numbers, in place, and what every feature has. */
static void exp_define(const pf_map_args *args, int64_t width, double half, double *log_phi,
                       double *sign) {
    double top = -INFINITY;
    for (int64_t a = 0; a < width; a++) top = fmax(top, log_phi[a]);
    for (int64_t a = 0; a < width; a++) {
        double l = log_phi[a];
        if (args->eps > 0) l = top + log(exp(l - top) + (double)args->eps);
        log_phi[a] = args->left_out + l - half;
        sign[a] = log_phi[a] == -INFINITY ? 0 : 1;
    }
}

/* ---- softmax, softmax_reg ---- */

static void softmax_encode(const pf_map_args *args, pf_side side, int64_t n, int64_t ld, float *u,
                           const float *half, float *shift) {
    (void)side;
    exp_encode(args, n, args->m, ld, u, half, shift);
}

static void softmax_pull(const pf_map_args *args, pf_side side, int64_t n, int64_t ld,
                         const float *f, const float *u, const float *c, const float *z, float *df,
                         float *coef) {
    (void)side, (void)u;
    exp_pull(args, n, args->m, ld, f, c, z, df, coef);
}

static void softmax_define(const pf_map_args *args, const double *u, double half, double *log_phi,
                           double *sign) {
    for (int64_t a = 0; a < args->m; a++) log_phi[a] = u[a];
    exp_define(args, args->m, half, log_phi, sign);
}

/* ---- softmax_hyp: [u, -u], so that t = max |u| ---- */

static void hyp_encode(const pf_map_args *args, pf_side side, int64_t n, int64_t ld, float *u,
                       const float *half, float *shift) {
    (void)side;
    int64_t m = args->m;
    for (int64_t i = 0; i < n; i++) args->kern->scale(m, -1, u + i * ld, u + i * ld + m);
    exp_encode(args, n, 2 * m, ld, u, half, shift);
}

static void hyp_pull(const pf_map_args *args, pf_side side, int64_t n, int64_t ld, const float *f,
                     const float *u, const float *c, const float *z, float *df, float *coef) {
    (void)side, (void)u;
    int64_t m = args->m;
    exp_pull(args, n, 2 * m, ld, f, c, z, df, coef);
    for (int64_t i = 0; i < n; i++) args->kern->axpy(m, -1, df + i * ld + m, df + i * ld);
}

static void hyp_define(const pf_map_args *args, const double *u, double half, double *log_phi,
                       double *sign) {
    int64_t m = args->m;
    for (int64_t a = 0; a < m; a++) {
        log_phi[a] = u[a];
        log_phi[m + a] = -u[a];
    }
    exp_define(args, 2 * m, half, log_phi, sign);
}

/* ---- softmax_plus: slope * u + bias for u ---- */

static void plus_encode(const pf_map_args *args, pf_side side, int64_t n, int64_t ld, float *u,
                        const float *half, float *shift) {
    (void)side;
    for (int64_t i = 0; i < n && args->bias; i++) {
        args->kern->scale(args->m, args->slope, u + i * ld, u + i * ld);
        args->kern->axpy(args->m, 1, args->bias, u + i * ld);
    }
    exp_encode(args, n, args->m, ld, u, half, shift);
}

static void plus_pull(const pf_map_args *args, pf_side side, int64_t n, int64_t ld, const float *f,
                      const float *u, const float *c, const float *z, float *df, float *coef) {
    (void)side, (void)u;
    exp_pull(args, n, args->m, ld, f, c, z, df, coef);
    if (args->slope == 1) return;
    for (int64_t i = 0; i < n; i++) {
        args->kern->scale(args->m, args->slope, df + i * ld, df + i * ld);
    }
}

static void plus_define(const pf_map_args *args, const double *u, double half, double *log_phi,
                        double *sign) {
    for (int64_t a = 0; a < args->m; a++) {
        log_phi[a] = (double)args->slope * u[a] + (args->bias ? (double)args->bias[a] : 0);
    }
    exp_define(args, args->m, half, log_phi, sign);
}

const pf_map pf_map_softmax = {
    .name = "softmax",
    .doc = "SM+ (FAVOR+): positive orthogonal features that estimate exp(q.k / sqrt(d)). "
           "Paper, Lemma 1.",
    .softmax = true,
    .shifts = true,
    .positive = true,
    .root = 1,
    .width = 1,
    .encode = softmax_encode,
    .pull = softmax_pull,
    .define = softmax_define,
};

const pf_map pf_map_softmax_hyp = {
    .name = "softmax_hyp",
    .doc = "SMhyp+ (cosh): 2m positive features from m projections, exp(w.x) and exp(-w.x); less "
           "error than SM+ with 2m projections. Paper, Lemma 1.",
    .softmax = true,
    .shifts = true,
    .positive = true,
    .root = 2,
    .width = 2,
    .encode = hyp_encode,
    .pull = hyp_pull,
    .define = hyp_define,
};

const pf_map pf_map_softmax_reg = {
    .name = "softmax_reg",
    .doc = "SMREG: SM+ whose projection rows have norm sqrt(d): steadier in training, and biased, "
           "the more the longer x + y (at d = 16 a weight is 16 % small at |x + y|^2 = 4, 45 % at "
           "8; at 64 5 and 19 %: kernel:predict). Paper, section 2.3.",
    .softmax = true,
    .shifts = true,
    .positive = true,
    .regular = true,
    .root = 1,
    .width = 1,
    .encode = softmax_encode,
    .pull = softmax_pull,
    .define = softmax_define,
};

const pf_map pf_map_softmax_plus = {
    .name = "softmax_plus",
    .doc = "FAVOR++: SM+ under an exponential tilt A of the projections, unbiased for any A < 1/4 "
           "and of least error where A fits the data (kernel:fit; a layer fits its own in "
           "training). arXiv 2205.15317.",
    .softmax = true,
    .shifts = true,
    .positive = true,
    .tilted = true,
    .root = 1,
    .width = 1,
    .encode = plus_encode,
    .pull = plus_pull,
    .define = plus_define,
};
