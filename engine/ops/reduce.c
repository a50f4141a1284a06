/*
 * reduce.c - sums, means, extremes and logarithms of sums, along one dimension or over all
 * elements. The dimension is lost unless `keep`, which leaves it with size 1. Over an empty
 * dimension a sum is 0 and a logsumexp -inf; a mean or an extreme is refused.
 */
#include "reduce.h"

#include <math.h>

static const pf_attr_info reduce_attrs[] = {PF_REDUCE_ATTRS};

/* ---- sum and mean ------------------------------------------------------------- */

/* pf_op.of, for the rows that take i32 too, is their pf_whole. A mean of i32 is f32. */

static int total_shape(pf_call *c) {
    bool mean = c->op->of == PF_WHOLE_MEAN;
    return pf_reduce_shape(c, mean ? PF_F32 : c->in[0]->dtype, mean);
}

static double total_scale(const pf_call *c, const pf_tensor *x, int dim) {
    return c->op->of == PF_WHOLE_MEAN ? 1.0 / (double)pf_reduced_count(x, dim) : 1.0;
}

static int total_forward(pf_call *c) {
    const pf_tensor *x = c->in[0];
    int dim;
    if (x->dtype == PF_I32) return pf_reduce_i32(c, (pf_whole)c->op->of);
    PF_TRY(pf_reduced_dim(c, &dim));
    const pf_tensor to = pf_keep_header(c->out[0], x->rank, dim);
    return pf_fold(&(pf_fold_job){
        .engine = c->engine,
        .to = &to,
        .overwrite = true,
        .rank = x->rank,
        .shape = x->shape,
        .n = 1,
        .x = {x},
        .scale = total_scale(c, x, dim),
    });
}

static int total_backward(pf_call *c) {
    if (!c->need[0]) return PF_OK;
    bool fresh;
    pf_tensor *dx;
    int dim;
    PF_TRY(pf_reduced_dim(c, &dim));
    PF_TRY(pf_grad_fresh(c, 0, &fresh, &dx));
    const pf_tensor dy = pf_keep_header(c->dout[0], dx->rank, dim);
    return pf_add_into(c->engine, dx, fresh, &dy, total_scale(c, dx, dim));
}

/* ---- extremes and their places ------------------------------------------------ */

/* Position of the first largest element; the first NaN wins. n > 0 */
static int64_t first_largest(const pf_kern *kern, int64_t n, const float *x) {
    float most = kern->max(n, x);
    for (int64_t i = 0; i < n; i++)
        if (x[i] == most || (isnan(most) && isnan(x[i]))) return i;
    return 0;
}

typedef struct extreme_job {
    bool least;        /* of the numbers turned round the largest */
    float *value;      /* (rows), NULL: not wanted */
    int32_t *position; /* (rows), NULL: not wanted; beside values -1 - p for a NaN at p */
} extreme_job;

static void extreme_row(const pf_rows *rows, void *context, int64_t row, float *scratch) {
    const extreme_job *job = context;
    float *at[PF_ROWS_OPS];
    pf_rows_at(rows, row, at);
    const float *x = pf_gather_run(rows->kern, at[0], rows->stride[0], rows->n, scratch);
    if (job->least) {
        rows->kern->unary(PF_UNARY_NEG, rows->n, x, scratch);
        x = scratch;
    }
    int64_t first = first_largest(rows->kern, rows->n, x);
    if (job->value) job->value[row] = job->least ? -x[first] : x[first];
    if (!job->position) return;
    bool marked = job->value && isnan(x[first]);
    job->position[row] = (int32_t)(marked ? -1 - first : first);
}

static int extreme_shape(pf_call *c) { return pf_reduce_shape(c, c->in[0]->dtype, true); }

/* Whether the positions of all that is reduced are numbers of an i32. */
static int check_places(const pf_call *c) {
    int dim;
    PF_TRY(pf_reduced_dim(c, &dim));
    return pf_want_places(c, pf_reduced_count(c->in[0], dim));
}

/* Of i32 it is looked at where one was found: a view can repeat a number for ever. */
static int place_shape(pf_call *c) {
    if (c->in[0]->dtype == PF_F32) PF_TRY(check_places(c));
    return pf_reduce_shape(c, PF_I32, true);
}

/* Positions are kept for backward, so that x need not be. */
static int extreme_forward(pf_call *c) {
    const pf_tensor *y = c->out[0];
    if (y->dtype == PF_I32) return pf_reduce_i32(c, (pf_whole)c->op->of);
    extreme_job job = {.least = c->op->of == PF_WHOLE_MIN, .value = pf_f32(y)};
    if (c->record) {
        PF_TRY(check_places(c));
        PF_TRY(pf_tensor_make(&c->saved[0], c->engine, PF_I32, y->rank, y->shape));
        job.position = pf_i32(c->saved[0]);
    }
    return pf_reduce_rows(c, 1, extreme_row, &job);
}

static int extreme_backward(pf_call *c) {
    if (!c->need[0]) return PF_OK;
    pf_rows rows;
    PF_TRY(pf_reduce_slot(c, &rows));
    const int32_t *position = pf_i32(c->saved[0]);
    for (int64_t row = 0; row < rows.count; row++) {
        float *at[PF_ROWS_OPS];
        pf_rows_at(&rows, row, at);
        int64_t p = position[row];
        if (p >= 0)
            at[0][p * rows.stride[0]] += at[1][0];
        else
            at[0][(-1 - p) * rows.stride[0]] = NAN;
    }
    return PF_OK;
}

static int place_forward(pf_call *c) {
    if (c->in[0]->dtype == PF_I32) return pf_reduce_i32(c, (pf_whole)c->op->of);
    /* The rows' second operand is the result only for its shape; positions are written here. */
    extreme_job job = {.least = c->op->of == PF_WHOLE_ARGMIN, .position = pf_i32(c->out[0])};
    return pf_reduce_rows(c, 1, extreme_row, &job);
}

/* ---- logsumexp ---------------------------------------------------------------- */

static void logsumexp_row(const pf_rows *rows, void *context, int64_t row, float *scratch) {
    float *y = context, *at[PF_ROWS_OPS];
    pf_rows_at(rows, row, at);
    const float *x = pf_gather_run(rows->kern, at[0], rows->stride[0], rows->n, scratch);
    y[row] = rows->kern->logsumexp(rows->n, x);
    if (isnan(y[row])) y[row] = rows->kern->max(rows->n, x); /* of a NaN, or of inf */
}

static int logsumexp_shape(pf_call *c) {
    PF_TRY(pf_want(c, 0, PF_F32));
    return pf_reduce_shape(c, PF_F32, false);
}

static int logsumexp_forward(pf_call *c) {
    return pf_reduce_rows(c, 1, logsumexp_row, pf_f32(c->out[0]));
}

/* p = softmax(x), of a row with infinities its limit: they share it evenly. */
static void shares(const pf_kern *k, int64_t n, const float *x, float *p) {
    if (k->max(n, x) != INFINITY) {
        k->softmax(n, x, p);
        return;
    }
    int64_t top = 0;
    for (int64_t i = 0; i < n; i++) top += x[i] == INFINITY;
    for (int64_t i = 0; i < n; i++) p[i] = x[i] == INFINITY ? 1.0f / (float)top : 0.0f;
}

/* dx += dy softmax(x), which is nothing where y is -inf; operands x, dy, dy, dx. From x alone: far
 * from 0 y has not the digits for exp(x - y). */
static void logsumexp_pull(const pf_rows *rows, void *context, int64_t row, float *scratch) {
    (void)context;
    const pf_kern *k = rows->kern;
    int64_t n = rows->n;
    float *at[PF_ROWS_OPS], *p = scratch;
    pf_rows_at(rows, row, at);
    const float *x = pf_gather_run(k, at[0], rows->stride[0], n, p);
    float *dx = pf_row_open(rows, 3, at[3], scratch + n);
    shares(k, n, x, p);
    k->axpy(n, at[2][0], p, dx);
    pf_row_put(rows, 3, at[3], dx);
}

static int logsumexp_backward(pf_call *c) {
    return c->need[0] ? pf_reduce_pull(c, 2, logsumexp_pull, NULL) : PF_OK;
}

/* ---- rows --------------------------------------------------------------------- */

#define REDUCTION                                                                                  \
    .args = "x", .min_in = 1, .max_in = 1, .n_out = 1, .attrs = reduce_attrs,                      \
    .n_attrs = PF_COUNT(reduce_attrs)

#define TOTAL                                                                                      \
    REDUCTION, .results = "y", .shape = total_shape, .forward = total_forward,                     \
               .backward = total_backward

#define EXTREME                                                                                    \
    REDUCTION, .results = "y", .shape = extreme_shape, .forward = extreme_forward,                 \
               .backward = extreme_backward

#define PLACE                                                                                      \
    REDUCTION, .results = "position", .flags = PF_OP_NO_GRAD, .places = PF_USES_OUT(0),            \
               .shape = place_shape, .forward = place_forward

const pf_op pf_op_sum = {
    TOTAL,
    .name = "sum",
    .of = PF_WHOLE_SUM,
    .doc = "y = the sum of x" PF_REDUCE_ALONG " Over no elements 0. Of i32 in 64 bits, to i32; a "
           "sum that i32 can't hold is refused.",
};

const pf_op pf_op_mean = {
    TOTAL,
    .name = "mean",
    .of = PF_WHOLE_MEAN,
    .doc = "y (f32) = the mean of x" PF_REDUCE_ALONG " Of no elements an error. Of i32 the sum "
           "is taken in 64 bits.",
};

#define EXTREME_DOC                                                                                \
    " NaN wins, and has NaN for a gradient; of equal values the first gets the gradient. Of no "   \
    "elements an error. f32, or i32."

const pf_op pf_op_max = {
    EXTREME,
    .name = "max",
    .of = PF_WHOLE_MAX,
    .doc = "y = the largest of x" PF_REDUCE_ALONG EXTREME_DOC,
};

const pf_op pf_op_min = {
    EXTREME,
    .name = "min",
    .of = PF_WHOLE_MIN,
    .doc = "y = the smallest of x" PF_REDUCE_ALONG EXTREME_DOC,
};

#define PLACE_DOC                                                                                  \
    " The first of equal values, the first NaN before all. Of no elements an error. x f32 or i32."

const pf_op pf_op_argmax = {
    PLACE,
    .name = "argmax",
    .of = PF_WHOLE_ARGMAX,
    .doc = "position (i32) = where x is largest" PF_REDUCE_ALONG PLACE_DOC,
};

const pf_op pf_op_argmin = {
    PLACE,
    .name = "argmin",
    .of = PF_WHOLE_ARGMIN,
    .doc = "position (i32) = where x is smallest" PF_REDUCE_ALONG PLACE_DOC,
};

const pf_op pf_op_logsumexp = {
    REDUCTION,
    .name = "logsumexp",
    .results = "y",
    .doc = "y = log(sum(exp(x)))" PF_REDUCE_ALONG " Computed without overflow; -inf over no "
           "elements, inf where x has an inf: those share the gradient.",
    .uses = PF_USES_IN(0),
    .shape = logsumexp_shape,
    .forward = logsumexp_forward,
    .backward = logsumexp_backward,
};
