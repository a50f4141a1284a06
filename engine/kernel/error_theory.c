/*
 * error_theory.c - the error of random features, told beforehand (paper, Lemma 2, and more).
 *
 * One row w of the projection estimates exp(x.y) by Z, and Z / exp(x.y) depends on
 * s = |x + y|^2 (for trig: on t = |x - y|^2) alone. Of it are known, for rows of chi norms,
 *
 *     softmax       E[Z]  1    E[Z^2]  e^s
 *     softmax_hyp         1            cosh s
 *     softmax_trig        1            cosh t
 *     softmax_plus        1            (1-4A)^d (1-8A)^(-d/2) exp(2 (1-4A) s / (1-8A) - s)
 *
 * and for rows of norm sqrt(d), with F(c) = 0F1(d/2; c d/4), the mean of exp(w.v), |v|^2 = c:
 * e^(-s/2) F(s), and e^(-s) F(4s), (1 + F(4s)) / 2 e^(-s) or (1 + F(-4t)) / 2 e^t. The mean over
 * m independent rows then errs, relative to exp(x.y), by (E[Z^2] - E[Z]^2) / m + (E[Z] - 1)^2.
 *
 * Rows of one block are not independent. With an angle of cosine c between any two,
 *
 *     E[Z Z'] = e^(-s) mean over theta, with weight sin^(d-1), of 1F1(d; d/2; s/2 (1 + c sin))
 *
 * (sqrt(d) norms: e^(-s) 0F1(d/2; s d/2 (1 + c))); hyp and trig take the mean over c and -c. It
 * is less than 1, so orthogonal rows (c = 0) and, for exp alone much more, the rows of a simplex
 * (c = -1/(n-1), n rows a block) err less. Features with eps > 0 err more.
 */
#include <math.h>

#include "kernel.h"

/* Beyond this |x + y|^2 every number is at its limit. */
static const double too_far = 600, limit = 1e300;

/* What one row gives, and two of a block, relative to exp(x.y). */
typedef struct {
    double excess; /* E[Z^2] - E[Z]^2 */
    double bias;   /* E[Z] - 1 */
} one_row;

static double clamp(double value) { return value < limit ? value : limit; } /* NaN too */

/* e^(-drop) sum_n t_n with t_0 = 1, t_(n+1) = t_n x / ((b + n) (n + 1)), times a + n for
 * a > 0: 1F1(a; b; x), or 0F1(; b; x). x < 0 loses digits, of about e^|x| in e^(-|x|). */
static double series(double a, double b, double x, double drop) {
    double term = 1, sum = 1, scale = 0;
    for (int n = 0; n < 100000; n++) {
        double next = x * (a > 0 ? a + n : 1) / ((b + n) * (n + 1));
        term *= next;
        sum += term;
        if (fabs(term) > 1e200) {
            term *= 1e-200, sum *= 1e-200;
            scale += 200 * log(10);
        }
        if (fabs(next) < 0.5 && fabs(term) < 1e-17 * fabs(sum)) break;
    }
    return sum * exp(scale - drop);
}

static bool is_trig(const pf_kernel_spec *k) { return k->map->width == 2 && !k->map->positive; }

/* log of (1-4A)^d (1-8A)^(-d/2) exp(2 (1-4A) s / (1-8A) - s); infinite from A = 1/8 on. */
static double tilted_log(double tilt, double d, double s) {
    if (tilt >= 0.125) return INFINITY;
    return d * log1p(-4 * tilt) - d / 2 * log1p(-8 * tilt) +
           2 * (1 - 4 * tilt) * s / (1 - 8 * tilt) - s;
}

/* Chi norms; s = |x + y|^2, for trig |x - y|^2. */
static one_row chi_row(const pf_kernel_spec *k, double s) {
    if (k->map->width == 2) return (one_row){2 * pow(sinh(s / 2), 2), 0};
    if (!k->map->tilted) return (one_row){expm1(s), 0};
    return (one_row){expm1(tilted_log(k->numbers.tilt, (double)k->head_dim, s)), 0};
}

/* Norms sqrt(d). */
static one_row fixed_row(const pf_kernel_spec *k, double s) {
    double d = (double)k->head_dim, sign = is_trig(k) ? -1 : 1;
    double mean = series(0, d / 2, sign * s * d / 4, sign * s / 2);
    double square = series(0, d / 2, sign * s * d, sign * s);
    if (k->map->width == 2) square = 0.5 * (exp(-sign * s) + square);
    return (one_row){square - mean * mean, mean - 1};
}

/* ---- rows of one block ---- */

enum { ANGLES = 32 };

/* E[Z Z'] of two rows at an angle of cosine c, for Z an exponential of w.v. */
static double pair_mean(const pf_kernel_spec *k, double s, double c) {
    double d = (double)k->head_dim, sign = is_trig(k) ? -1 : 1, sum = 0, weight = 0;
    if (k->norms == PF_NORMS_SQRT_D) return series(0, d / 2, sign * s * d / 2 * (1 + c), sign * s);
    if (c == 0) return series(d, d / 2, sign * s / 2, sign * s);
    for (int i = 0; i < ANGLES; i++) { /* midpoints: full accuracy for a periodic function */
        double sine = sin(acos(-1) * (i + 0.5) / ANGLES), w = pow(sine, d - 1);
        sum += w * series(d, d / 2, sign * s / 2 * (1 + c * sine), sign * s);
        weight += w;
    }
    return sum / weight;
}

/* n (n - 1) ordered pairs of one block of n rows: the sum of E[Z Z'] - E[Z]^2. */
static double block_excess(const pf_kernel_spec *k, double mean, double s, int64_t n) {
    if (n < 2) return 0;
    double c = k->rows == PF_ROWS_SIMPLEX ? -1 / (double)(n - 1) : 0;
    double pair = pair_mean(k, s, c);
    if (c != 0 && k->map->width == 2) pair = (pair + pair_mean(k, s, -c)) / 2;
    return (double)n * (double)(n - 1) * (pair - mean * mean);
}

/* The same over all blocks. */
static double coupled_excess(const pf_kernel_spec *k, double mean, double s) {
    const int64_t d = k->head_dim;
    if (k->rows == PF_ROWS_IID || k->rows == PF_ROWS_GIVEN) return 0;
    const int64_t whole = k->features / d;
    return (double)whole * block_excess(k, mean, s, d) + block_excess(k, mean, s, k->features % d);
}

/* Where e^s is this large, what the coupling takes off (less than d / m) is nothing beside it,
 * and the series of trig have no digits left. */
static const double coupled_until = 20;

void pf_kernel_error(pf_prediction *p, const pf_kernel_spec *kernel, double sum,
                     double difference) {
    double s = is_trig(kernel) ? difference : sum, m = (double)kernel->features;
    bool fixed = kernel->norms == PF_NORMS_SQRT_D;
    *p = (pf_prediction){.size = sizeof *p, .rel_mse = limit, .coupled_rel_mse = limit};
    if (!(s < too_far)) return;
    one_row one = fixed && !(is_trig(kernel) && s > coupled_until) ? fixed_row(kernel, s)
                                                                   : chi_row(kernel, s);
    p->bias = one.bias;
    p->rel_mse = clamp(one.excess / m + one.bias * one.bias);
    p->coupled_rel_mse = p->rel_mse;
    if (s > coupled_until) return;
    double off = coupled_excess(kernel, 1 + one.bias, s) / (m * m);
    p->coupled_rel_mse = clamp(fmax(p->rel_mse + off, 0));
}

/* ---- public ---- */

int pf_kernel_predict(pf_prediction *prediction, const pf_kernel *kernel, int64_t head_dim,
                      double sum, double difference) {
    PF_NEED(prediction, kernel);
    pf_kernel_spec spec;
    PF_TRY(pf_kernel_spec_for(&spec, kernel, head_dim, "predict"));
    if (!(sum >= 0) || !(difference >= 0)) {
        return pf_fail(PF_EINVAL,
                       "predict: |x + y|^2 (%g) and |x - y|^2 (%g) must be numbers "
                       "from 0 on",
                       sum, difference);
    }
    pf_prediction own = {.size = sizeof own};
    pf_kernel_error(&own, &spec, sum, difference);
    return pf_result_give(prediction, &own, sizeof own, "predict");
}
