/*
 * reduce.c - sums, means, maxima and logarithms of sums, along one dimension or over all
 * elements. The dimension is lost unless `keep`, which leaves it with size 1. Over an empty
 * dimension a sum is 0 and a logsumexp -inf; a mean, max or argmax is refused.
 */
#include "rows.h"

#include <math.h>

static const pf_attr_info reduce_attrs[] = {
    {.name = "dim",
     .kind = PF_ATTR_DIM,
     .def = PF_DIM_ALL,
     .doc = "the dimension; not given: over all elements"},
    {.name = "keep", .kind = PF_ATTR_BOOL, .def = 0, .doc = "keep the dimension with size 1"},
};

/* ---- shapes ------------------------------------------------------------------- */

/* The call's dimension, PF_DIM_ALL when not given. */
static int reduced_dim(const pf_call *c, int *dim) {
    *dim = (int)c->attr[0].i;
    if (*dim == PF_DIM_ALL) return PF_OK;
    return pf_dim(*dim, c->in[0]->rank, c->op->name, dim);
}

static int64_t reduced_count(const pf_tensor *x, int dim) {
    return dim == PF_DIM_ALL ? pf_tensor_numel(x) : x->shape[dim];
}

static int reduce_shape(pf_call *c, pf_dtype result, bool needs_some) {
    const pf_tensor *x = c->in[0];
    int64_t shape[PF_MAX_RANK];
    int dim, rank = 0;
    PF_TRY(pf_want(c, 0, PF_F32));
    PF_TRY(reduced_dim(c, &dim));
    if (needs_some && reduced_count(x, dim) == 0)
        return pf_shape_fail(c, "there is no %s of no elements", c->op->name);
    for (int d = 0; d < x->rank; d++) {
        bool lost = dim == PF_DIM_ALL || d == dim;
        if (lost && !c->attr[1].i) continue;
        shape[rank++] = lost ? 1 : x->shape[d];
    }
    return pf_set_shape(c, 0, result, rank, shape);
}

static int shape_any(pf_call *c) { return reduce_shape(c, PF_F32, false); }
static int shape_some(pf_call *c) { return reduce_shape(c, PF_F32, true); }
static int shape_index(pf_call *c) { return reduce_shape(c, PF_I32, true); }

/* ---- sum and mean ------------------------------------------------------------- */

enum { SUM, MEAN }; /* pf_op.of */

static double total_scale(const pf_call *c, const pf_tensor *x, int dim) {
    return c->op->of == MEAN ? 1.0 / (double)reduced_count(x, dim) : 1.0;
}

static int total_forward(pf_call *c) {
    const pf_tensor *x = c->in[0];
    int dim;
    PF_TRY(reduced_dim(c, &dim));
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
    PF_TRY(reduced_dim(c, &dim));
    PF_TRY(pf_grad_fresh(c, 0, &fresh, &dx));
    const pf_tensor dy = pf_keep_header(c->dout[0], dx->rank, dim);
    return pf_add_into(c->engine, dx, fresh, &dy, total_scale(c, dx, dim));
}

/* ---- rows of x and of the result ---------------------------------------------- */

/* Rows of x (operand 0), of up to two tensors of the result's shape (1, 2) and of one more
 * of x's shape (3). Over all elements x is one row, for which it has to be contiguous:
 * `x` and `like_x` are then compact already. */
static int along(pf_call *c, pf_rows *rows, const pf_tensor *x, const pf_tensor *const small[2],
                 const pf_tensor *like_x) {
    int dim;
    PF_TRY(reduced_dim(c, &dim));
    bool all = dim == PF_DIM_ALL;
    pf_tensor flat[PF_ROWS_OPS];
    const pf_tensor *operand[PF_ROWS_OPS];
    for (int k = 0; k < PF_ROWS_OPS; k++) {
        const pf_tensor *t = k == 0 ? x : k == 3 ? like_x : small[k - 1];
        bool is_small = k == 1 || k == 2;
        flat[k] = is_small && !all ? pf_keep_header(t, x->rank, dim) : *t;
        if (all) {
            flat[k].rank = 1;
            flat[k].shape[0] = is_small ? 1 : pf_tensor_numel(x);
            flat[k].stride[0] = 1;
        }
        operand[k] = &flat[k];
    }
    pf_rows_make(rows, c->engine, flat[0].rank, flat[0].shape, all ? 0 : dim, PF_ROWS_OPS, operand);
    return PF_OK;
}

/* x itself, or a contiguous copy where all elements make one row. */
static int row_source(pf_call *c, pf_tensor **x) {
    *x = c->in[0];
    return c->attr[0].i == PF_DIM_ALL ? pf_call_compact(c, c->in[0], x) : PF_OK;
}

/* Runs fn over the rows of x and the result. */
static int forward_rows(pf_call *c, pf_row_fn fn, void *context) {
    pf_tensor *x;
    pf_rows rows;
    PF_TRY(row_source(c, &x));
    PF_TRY(along(c, &rows, x, (const pf_tensor *[2]){c->out[0], c->out[0]}, x));
    return pf_rows_run(c->engine, &rows, 1, fn, context);
}

/* ---- max and argmax ----------------------------------------------------------- */

/* Position of the first largest element; the first NaN wins. n > 0 */
static int64_t first_largest(const pf_kern *kern, int64_t n, const float *x) {
    float most = kern->max(n, x);
    for (int64_t i = 0; i < n; i++)
        if (x[i] == most || (isnan(most) && isnan(x[i]))) return i;
    return 0;
}

typedef struct max_job {
    float *value;      /* (rows), NULL: not wanted */
    int32_t *position; /* (rows), NULL: not wanted; beside values -1 - p for a NaN at p */
} max_job;

static void max_row(const pf_rows *rows, void *context, int64_t row, float *scratch) {
    const max_job *job = context;
    float *at[PF_ROWS_OPS];
    pf_rows_at(rows, row, at);
    const float *x = pf_gather_run(rows->kern, at[0], rows->stride[0], rows->n, scratch);
    int64_t first = first_largest(rows->kern, rows->n, x);
    if (job->value) job->value[row] = x[first];
    if (!job->position) return;
    bool marked = job->value && isnan(x[first]);
    job->position[row] = (int32_t)(marked ? -1 - first : first);
}

/* Positions are kept for backward, so that x need not be. */
static int max_forward(pf_call *c) {
    const pf_tensor *y = c->out[0];
    max_job job = {.value = pf_f32(y)};
    if (c->record) {
        PF_TRY(pf_tensor_make(&c->saved[0], c->engine, PF_I32, y->rank, y->shape));
        job.position = pf_i32(c->saved[0]);
    }
    return forward_rows(c, max_row, &job);
}

static int max_backward(pf_call *c) {
    if (!c->need[0]) return PF_OK;
    pf_tensor *dx;
    pf_rows rows;
    PF_TRY(pf_grad_slot(c, 0, &dx));
    PF_TRY(along(c, &rows, dx, (const pf_tensor *[2]){c->dout[0], c->dout[0]}, dx));
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

static int argmax_forward(pf_call *c) {
    /* The rows' second operand is the result only for its shape; positions are written here. */
    max_job job = {.position = pf_i32(c->out[0])};
    return forward_rows(c, max_row, &job);
}

/* ---- logsumexp ---------------------------------------------------------------- */

static void logsumexp_row(const pf_rows *rows, void *context, int64_t row, float *scratch) {
    float *y = context, *at[PF_ROWS_OPS];
    pf_rows_at(rows, row, at);
    const float *x = pf_gather_run(rows->kern, at[0], rows->stride[0], rows->n, scratch);
    y[row] = rows->kern->logsumexp(rows->n, x);
    if (isnan(y[row])) y[row] = rows->kern->max(rows->n, x); /* of a NaN, or of inf */
}

static int logsumexp_forward(pf_call *c) {
    return forward_rows(c, logsumexp_row, pf_f32(c->out[0]));
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
    if (!c->need[0]) return PF_OK;
    pf_tensor *dx, *x;
    pf_rows rows;
    PF_TRY(pf_grad_slot(c, 0, &dx));
    PF_TRY(row_source(c, &x));
    PF_TRY(along(c, &rows, x, (const pf_tensor *[2]){c->dout[0], c->dout[0]}, dx));
    return pf_rows_run(c->engine, &rows, 2, logsumexp_pull, NULL);
}

/* ---- rows --------------------------------------------------------------------- */

#define ALONG " along `dim`, or over all elements; the dimension is lost unless `keep`."

const pf_op pf_op_sum = {
    .name = "sum",
    .of = SUM,
    .args = "x",
    .results = "y",
    .doc = "y = the sum of x" ALONG " Over no elements 0.",
    .min_in = 1,
    .max_in = 1,
    .n_out = 1,
    .attrs = reduce_attrs,
    .n_attrs = PF_COUNT(reduce_attrs),
    .shape = shape_any,
    .forward = total_forward,
    .backward = total_backward,
};

const pf_op pf_op_mean = {
    .name = "mean",
    .of = MEAN,
    .args = "x",
    .results = "y",
    .doc = "y = the mean of x" ALONG " Of no elements an error.",
    .min_in = 1,
    .max_in = 1,
    .n_out = 1,
    .attrs = reduce_attrs,
    .n_attrs = PF_COUNT(reduce_attrs),
    .shape = shape_some,
    .forward = total_forward,
    .backward = total_backward,
};

const pf_op pf_op_max = {
    .name = "max",
    .args = "x",
    .results = "y",
    .doc = "y = the largest of x" ALONG " NaN wins, and has NaN for a gradient; of equal values "
           "the first gets the gradient. Of no elements an error.",
    .min_in = 1,
    .max_in = 1,
    .n_out = 1,
    .attrs = reduce_attrs,
    .n_attrs = PF_COUNT(reduce_attrs),
    .shape = shape_some,
    .forward = max_forward,
    .backward = max_backward,
};

const pf_op pf_op_argmax = {
    .name = "argmax",
    .args = "x",
    .results = "position",
    .doc = "position (i32) = where x is largest" ALONG " The first of equal values, the first NaN "
           "before all. Of no elements an error.",
    .min_in = 1,
    .max_in = 1,
    .n_out = 1,
    .flags = PF_OP_NO_GRAD,
    .attrs = reduce_attrs,
    .n_attrs = PF_COUNT(reduce_attrs),
    .shape = shape_index,
    .forward = argmax_forward,
};

const pf_op pf_op_logsumexp = {
    .name = "logsumexp",
    .args = "x",
    .results = "y",
    .doc = "y = log(sum(exp(x)))" ALONG " Computed without overflow; -inf over no elements, inf "
           "where x has an inf: those share the gradient.",
    .min_in = 1,
    .max_in = 1,
    .n_out = 1,
    .uses = PF_USES_IN(0),
    .attrs = reduce_attrs,
    .n_attrs = PF_COUNT(reduce_attrs),
    .shape = shape_any,
    .forward = logsumexp_forward,
    .backward = logsumexp_backward,
};
