/*
 * map_trig.c - the trigonometric features of exp(x.y), the older estimator, for comparison
 * (paper, section 2.3; Rahimi and Recht):
 *
 *     phi(x) = m^(-1/2) exp(|x|^2/2) [cos(w_a.x), sin(w_a.x)],  2m features from m projections
 *
 * E[phi(x).phi(y)] = exp(x.y), but single weights can be negative and denominators near 0:
 * the paper shows training with it fail. Encoded as f = [cos u, sin u] (+ eps) with the
 * log-shift +|x|^2/2.
 */
#include <math.h>

#include "kern.h"
#include "map.h"

/* u (n, m; ld) -> [cos u, sin u] (n, 2m). */
static void encode(const pf_map_args *args, pf_side side, int64_t n, int64_t ld, float *u,
                   const float *half, float *shift) {
    (void)side;
    int64_t m = args->m;
    for (int64_t i = 0; i < n; i++) {
        float *row = u + i * ld;
        args->kern->unary(PF_UNARY_SIN, m, row, row + m);
        args->kern->unary(PF_UNARY_COS, m, row, row);
        if (args->eps > 0) args->kern->affine(2 * m, 1, args->eps, row, row);
        shift[i] = half[i];
    }
}

/* du = df_sin cos u - df_cos sin u; dx gets x * sum(df f) from |x|^2 / 2. */
static void pull(const pf_map_args *args, pf_side side, int64_t n, int64_t ld, const float *f,
                 const float *u, const float *c, const float *z, float *df, float *coef) {
    (void)side, (void)u;
    pf_map_join(args, n, ld, c, z, df);
    int64_t m = args->m;
    for (int64_t i = 0; i < n; i++) {
        const float *cos_u = f + i * ld, *sin_u = cos_u + m;
        float *d_cos = df + i * ld, *d_sin = d_cos + m;
        coef[i] = args->kern->dot(2 * m, cos_u, d_cos);
        for (int64_t a = 0; a < m; a++) {
            d_cos[a] = d_sin[a] * (cos_u[a] - args->eps) - d_cos[a] * (sin_u[a] - args->eps);
        }
    }
}

static void define(const pf_map_args *args, const double *u, double half, double *log_phi,
                   double *sign) {
    int64_t m = args->m;
    for (int64_t a = 0; a < 2 * m; a++) {
        double f = (a < m ? cos(u[a]) : sin(u[a - m])) + (double)args->eps;
        log_phi[a] = args->left_out + half + log(fabs(f));
        sign[a] = (f > 0) - (f < 0);
    }
}

const pf_map pf_map_softmax_trig = {
    .name = "softmax_trig",
    .doc = "Trigonometric features of exp(q.k / sqrt(d)), cos(w.x) and sin(w.x): 2m features from "
           "m projections, of both signs. For comparison. Paper, section 2.3.",
    .softmax = true,
    .shifts = true,
    .root = 1,
    .width = 2,
    .encode = encode,
    .pull = pull,
    .define = define,
};
