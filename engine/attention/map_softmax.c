/*
 * map_softmax.c - SM+, the positive features of FAVOR+ (paper, Lemma 1):
 *
 *     phi(x)_a = m^(-1/2) exp(w_a . x - |x|^2 / 2),    E[phi(x) . phi(y)] = exp(x . y)
 *
 * Encoded as f_a = exp(u_a - max u) and the log-shift max u - |x|^2 / 2, so every feature
 * is at most 1 and one is exactly 1. m^(-1/2) is left out: it cancels in the attention.
 * The maximum is a constant for the gradient: the attention does not depend on it.
 */
#include <math.h>

#include "kern.h"
#include "maps.h"

/* u (n, m) -> features (n, m), in place. */
static void encode(const pf_map_args *args, pf_side side, int64_t n, int64_t ld, float *u,
                   const float *half, float *shift) {
    (void)side;
    args->kern->softmax_features(n, args->m, ld, u, half, shift);
}

/* du = df * f; dx gets -x * rowsum(du) from |x|^2 / 2. */
static void pull(const pf_map_args *args, pf_side side, int64_t n, int64_t ld, const float *f,
                 float *df, float *coef) {
    (void)side;
    args->kern->features_pull(n, args->m, ld, f, df, coef);
    for (int64_t i = 0; i < n; i++) coef[i] = -coef[i];
}

/* The plain definition of one row, in double: out (m). */
static void define(const pf_map_args *args, const double *u, double half, double *out) {
    double ratio = 1 / sqrt((double)args->m);
    for (int64_t a = 0; a < args->m; a++) out[a] = ratio * exp(u[a] - half);
}

const pf_map pf_map_softmax = {
    .name = "softmax",
    .doc = "SM+ (FAVOR+): positive orthogonal features that estimate exp(q.k / sqrt(d)). "
           "Paper, Lemma 1.",
    .softmax = true,
    .positive = true,
    .width = 1,
    .encode = encode,
    .pull = pull,
    .define = define,
};
