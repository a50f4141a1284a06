/*
 * spread.c - variances, norms and products along a dimension, or of all elements. What must hold:
 * sums and products are taken in double, one row after its order, so that no square of a float
 * overflows and every level of processor gives the same bits; and a gradient divides by nothing
 * that is 0.
 */
#include <math.h>

#include "reduce.h"

enum { VAR, STD }; /* pf_op.of */
enum { LANES = 4 };

/* ---- sums in double: element i goes to sum i % LANES ------------------------------ */

typedef struct lanes {
    double of[LANES];
} lanes;

static double total(const lanes *s) { return (s->of[0] + s->of[2]) + (s->of[1] + s->of[3]); }

static double mean_of(int64_t n, const float *x) {
    lanes s = {{0}};
    for (int64_t i = 0; i < n; i++) s.of[i % LANES] += (double)x[i];
    return total(&s) / (double)n;
}

/* The sum of (x - mean)^2. */
static double scatter_of(int64_t n, const float *x, double mean) {
    lanes s = {{0}};
    for (int64_t i = 0; i < n; i++) {
        const double d = (double)x[i] - mean;
        s.of[i % LANES] += d * d;
    }
    return total(&s);
}

/* A row of operand k = 0, in place or gathered, and where in the others it begins. */
static const float *row_of(const pf_rows *rows, int64_t row, float **at, float *scratch) {
    pf_rows_at(rows, row, at);
    return pf_gather_run(rows->kern, at[0], rows->stride[0], rows->n, scratch);
}

/* ---- var and std -------------------------------------------------------------- */

static const pf_attr_info var_attrs[] = {
    PF_REDUCE_ATTRS,
    {.name = "unbiased",
     .kind = PF_ATTR_BOOL,
     .def = 1,
     .doc = "divide by n - 1, which is right for a sample; else by n, for all there is"},
};
enum { UNBIASED = 2 };

static int var_shape(pf_call *c) {
    int dim;
    PF_TRY(pf_want(c, 0, PF_F32));
    PF_TRY(pf_reduce_shape(c, PF_F32, true));
    PF_TRY(pf_reduced_dim(c, &dim));
    if (c->attr[UNBIASED].i && pf_reduced_count(c->in[0], dim) == 1)
        return pf_shape_fail(
            c, "there is no unbiased %s of one element; without `unbiased` it is 0", c->op->name);
    return PF_OK;
}

static double divisor_of(const pf_call *c, int64_t n) {
    return (double)(n - (c->attr[UNBIASED].i ? 1 : 0));
}

typedef struct var_job {
    const pf_call *call;
    float *y; /* (rows) */
} var_job;

static void var_row(const pf_rows *rows, void *context, int64_t row, float *scratch) {
    const var_job *job = context;
    float *at[PF_ROWS_OPS];
    const float *x = row_of(rows, row, at, scratch);
    double var = scatter_of(rows->n, x, mean_of(rows->n, x)) / divisor_of(job->call, rows->n);
    job->y[row] = (float)(job->call->op->of == STD ? sqrt(var) : var);
}

static int var_forward(pf_call *c) {
    var_job job = {c, pf_f32(c->out[0])};
    return pf_reduce_rows(c, 1, var_row, &job);
}

/* dx += dy 2 (x - mean) / divisor, of std that over 2 std; where std is 0 all x are the mean. */
static void var_pull(const pf_rows *rows, void *context, int64_t row, float *scratch) {
    const pf_call *c = context;
    float *at[PF_ROWS_OPS];
    const float *x = row_of(rows, row, at, scratch);
    const double mean = mean_of(rows->n, x), divisor = divisor_of(c, rows->n);
    double slope = 2 * (double)at[1][0] / divisor;
    if (c->op->of == STD) {
        const double std = sqrt(scatter_of(rows->n, x, mean) / divisor);
        slope = std == 0 ? 0 : (double)at[1][0] / (divisor * std);
    }
    for (int64_t i = 0; i < rows->n; i++)
        at[3][i * rows->stride[3]] += (float)(slope * ((double)x[i] - mean));
}

static int var_backward(pf_call *c) {
    return c->need[0] ? pf_reduce_pull(c, 1, var_pull, c) : PF_OK;
}

/* ---- norm --------------------------------------------------------------------- */

static const pf_attr_info norm_attrs[] = {
    {.name = "p", .kind = PF_ATTR_FLOAT, .def = 2, .doc = "1, 2, any from 1 on, or infinity"},
    PF_REDUCE_ATTRS,
};

static int norm_shape(pf_call *c) {
    PF_TRY(pf_want(c, 0, PF_F32));
    if (!(c->attr[0].f >= 1))
        return pf_fail(PF_EINVAL, "norm: p is %g, must be 1 or more, infinity among them",
                       c->attr[0].f);
    return pf_reduce_shape(c, PF_F32, false);
}

/* The largest |x|; NaN if there is one, 0 of none. */
static double largest_of(int64_t n, const float *x) {
    double most = 0;
    for (int64_t i = 0; i < n; i++) {
        const double size = fabs((double)x[i]);
        if (!(size <= most)) most = size;
        if (isnan(most)) return most;
    }
    return most;
}

/* (sum of |x|^p)^(1/p). Powers are of |x| over the largest, which is at most 1; sums of sizes and
 * of squares are far from the ends of a double. */
static double norm_of(int64_t n, const float *x, double p) {
    const double most = largest_of(n, x);
    if (most == 0 || !isfinite(most) || isinf(p)) return most;
    lanes s = {{0}};
    for (int64_t i = 0; i < n; i++) {
        const double size = fabs((double)x[i]);
        s.of[i % LANES] += p == 1 ? size : p == 2 ? size * size : pow(size / most, p);
    }
    return p == 1 ? total(&s) : p == 2 ? sqrt(total(&s)) : most * pow(total(&s), 1 / p);
}

typedef struct norm_job {
    double p;
    float *y; /* (rows); NULL in backward */
} norm_job;

static void norm_row(const pf_rows *rows, void *context, int64_t row, float *scratch) {
    const norm_job *job = context;
    float *at[PF_ROWS_OPS];
    const float *x = row_of(rows, row, at, scratch);
    job->y[row] = (float)norm_of(rows->n, x, job->p);
}

static int norm_forward(pf_call *c) {
    norm_job job = {c->attr[0].f, pf_f32(c->out[0])};
    return pf_reduce_rows(c, 1, norm_row, &job);
}

/* d norm / dx = sign(x) (|x| / norm)^(p - 1); 0 where norm is. */
static double norm_slope(double x, double norm, double p) {
    if (norm == 0) return 0;
    if (p == 1) return x > 0 ? 1 : x < 0 ? -1 : x;
    if (p == 2) return x / norm;
    return copysign(pow(fabs(x) / norm, p - 1), x);
}

/* With p infinite the first of the largest has it all. */
static void most_pull(const pf_rows *rows, const float *x, const float *dy, float *dx) {
    const double most = largest_of(rows->n, x);
    if (most == 0) return;
    for (int64_t i = 0; i < rows->n; i++) {
        if (isnan(most) ? !isnan(x[i]) : fabs((double)x[i]) != most) continue;
        dx[i * rows->stride[3]] += isnan(most) ? NAN : copysignf(1.0f, x[i]) * dy[0];
        return;
    }
}

static void norm_pull(const pf_rows *rows, void *context, int64_t row, float *scratch) {
    const norm_job *job = context;
    float *at[PF_ROWS_OPS];
    const float *x = row_of(rows, row, at, scratch);
    if (isinf(job->p)) {
        most_pull(rows, x, at[1], at[3]);
        return;
    }
    const double norm = norm_of(rows->n, x, job->p), dy = (double)at[1][0];
    for (int64_t i = 0; i < rows->n; i++)
        at[3][i * rows->stride[3]] += (float)(dy * norm_slope((double)x[i], norm, job->p));
}

static int norm_backward(pf_call *c) {
    norm_job job = {c->attr[0].f, NULL};
    return c->need[0] ? pf_reduce_pull(c, 1, norm_pull, &job) : PF_OK;
}

/* ---- prod --------------------------------------------------------------------- */

static const pf_attr_info prod_attrs[] = {PF_REDUCE_ATTRS};

static int prod_shape(pf_call *c) { return pf_reduce_shape(c, c->in[0]->dtype, false); }

static void prod_row(const pf_rows *rows, void *context, int64_t row, float *scratch) {
    float *y = context, *at[PF_ROWS_OPS];
    const float *x = row_of(rows, row, at, scratch);
    double product = 1;
    for (int64_t i = 0; i < rows->n; i++) product *= (double)x[i];
    y[row] = (float)product;
}

static int prod_forward(pf_call *c) {
    if (c->in[0]->dtype == PF_I32) return pf_reduce_i32(c, PF_WHOLE_PROD);
    return pf_reduce_rows(c, 1, prod_row, pf_f32(c->out[0]));
}

/* The product of all others, also where one is 0: those before it, kept in `before`, by those
 * behind it. */
static void prod_pull(const pf_rows *rows, void *context, int64_t row, float *scratch) {
    (void)context;
    const int64_t n = rows->n;
    float *at[PF_ROWS_OPS];
    double *before = (double *)(void *)scratch;
    const float *x = row_of(rows, row, at, scratch + 2 * n);
    double product = 1;
    for (int64_t i = 0; i < n; i++) {
        before[i] = product;
        product *= (double)x[i];
    }
    product = (double)at[1][0];
    for (int64_t i = n - 1; i >= 0; i--) {
        at[3][i * rows->stride[3]] += (float)(before[i] * product);
        product *= (double)x[i];
    }
}

static int prod_backward(pf_call *c) {
    return c->need[0] ? pf_reduce_pull(c, 3, prod_pull, NULL) : PF_OK;
}

/* ---- rows --------------------------------------------------------------------- */

#define REDUCTION                                                                                  \
    .args = "x", .results = "y", .min_in = 1, .max_in = 1, .n_out = 1, .uses = PF_USES_IN(0)

#define SPREAD(which)                                                                              \
    REDUCTION, .of = (which), .attrs = var_attrs, .n_attrs = PF_COUNT(var_attrs),                  \
               .shape = var_shape, .forward = var_forward, .backward = var_backward

const pf_op pf_op_var = {
    SPREAD(VAR),
    .name = "var",
    .doc = "y = the variance of x, the mean square distance to the mean," PF_REDUCE_ALONG
           " With `unbiased` the sum is divided by n - 1, and of one element there is none; of no "
           "elements an error. Two passes, in double.",
};

const pf_op pf_op_std = {
    SPREAD(STD),
    .name = "std",
    .doc = "y = the standard deviation of x, the root of its variance," PF_REDUCE_ALONG
           " With `unbiased` of the variance over n - 1, and of one element there is none; of no "
           "elements an error. Where it is 0 the gradient is 0.",
};

const pf_op pf_op_norm = {
    REDUCTION,
    .name = "norm",
    .doc = "y = (sum of |x|^p)^(1/p), with p infinite the largest |x|," PF_REDUCE_ALONG
           " Computed without overflow on the way; of no elements 0. Where y is 0 the gradient is "
           "0; with p infinite the first of the largest gets it.",
    .attrs = norm_attrs,
    .n_attrs = PF_COUNT(norm_attrs),
    .shape = norm_shape,
    .forward = norm_forward,
    .backward = norm_backward,
};

const pf_op pf_op_prod = {
    REDUCTION,
    .name = "prod",
    .doc = "y = the product of x, taken in double," PF_REDUCE_ALONG " Of no elements 1. Of i32 "
           "exact, to i32; a product that i32 can't hold is refused.",
    .attrs = prod_attrs,
    .n_attrs = PF_COUNT(prod_attrs),
    .shape = prod_shape,
    .forward = prod_forward,
    .backward = prod_backward,
};
