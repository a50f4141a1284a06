/*
 * norm_exact.c - see norm_exact.h. In double the squares of any floats are finite, and a mean's
 * rounding is below what a float can show.
 */
#include "norm_exact.h"

#include <math.h>

typedef struct {
    double mean, rstd;
} moments;

static moments moments_of(const pf_norm_row *r) {
    double sum = 0, squares = 0, n = (double)r->n;
    for (int64_t i = 0; i < r->n && !r->rms; i++) sum += (double)r->x[i];
    moments m = {.mean = sum / n};
    for (int64_t i = 0; i < r->n; i++) {
        double d = (double)r->x[i] - m.mean;
        squares += d * d;
    }
    m.rstd = 1 / sqrt(squares / n + r->eps);
    return m;
}

static double hat(const pf_norm_row *r, const moments *m, int64_t i) {
    return ((double)r->x[i] - m->mean) * m->rstd;
}

void pf_norm_exact(const pf_norm_row *r, float *y, float *mean, float *rstd) {
    const moments m = moments_of(r);
    for (int64_t i = 0; i < r->n; i++) {
        double v = hat(r, &m, i) * (double)r->w[i];
        y[i] = (float)(r->b ? v + (double)r->b[i] : v);
    }
    *mean = (float)m.mean;
    *rstd = (float)m.rstd;
}

/* With h = (x - mean) rstd and g = dy w: dx += rstd (g - mean(g) - h mean(g h)), without mean(g)
 * for rmsnorm. */
void pf_norm_exact_grad(const pf_norm_row *r, float *dx, float *dw, float *db) {
    const moments m = moments_of(r);
    double g_sum = 0, gh_sum = 0, n = (double)r->n;
    for (int64_t i = 0; i < r->n; i++) {
        double g = (double)r->dy[i] * (double)r->w[i];
        if (!r->rms) g_sum += g;
        gh_sum += g * hat(r, &m, i);
    }
    for (int64_t i = 0; i < r->n; i++) {
        double g = (double)r->dy[i] * (double)r->w[i], h = hat(r, &m, i);
        dx[i] += (float)(m.rstd * (g - g_sum / n - h * (gh_sum / n)));
        if (dw) dw[i] += (float)((double)r->dy[i] * h);
        if (db) db[i] += r->dy[i];
    }
}
