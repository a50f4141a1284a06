/*
 * softmax.c - softmax and its logarithm along one dimension. A row of nothing but -inf has
 * no largest element to divide by: its softmax is 0 everywhere, its logarithm -inf, its
 * gradient 0.
 */
#include "rows.h"

#include <math.h>

/* x (..., n along dim, ...) -> the same shape. */
static int softmax_shape(pf_call *c) {
    int dim;
    PF_TRY(pf_want(c, 0, PF_F32));
    PF_TRY(pf_dim((int)c->attr[0].i, c->in[0]->rank, c->op->name, &dim));
    return pf_same_as(c, 0, 0);
}

/* Rows of the given operands along the call's dimension. */
static int softmax_rows(pf_call *c, pf_rows *rows, int n, const pf_tensor *const *operands) {
    const pf_tensor *shape = operands[0];
    int dim;
    PF_TRY(pf_dim((int)c->attr[0].i, shape->rank, c->op->name, &dim));
    pf_rows_make(rows, c->engine, shape->rank, shape->shape, dim, n, operands);
    return PF_OK;
}

/* ---- softmax ------------------------------------------------------------------ */

static void softmax_row(const pf_rows *rows, void *context, int64_t row, float *scratch) {
    (void)context;
    float *at[PF_ROWS_OPS];
    pf_rows_at(rows, row, at);
    const float *x = pf_gather_run(rows->kern, at[1], rows->stride[1], rows->n, scratch);
    float *y = pf_row_target(rows, 0, at[0], scratch);
    rows->kern->softmax(rows->n, x, y);
    pf_row_put(rows, 0, at[0], y);
}

static int softmax_forward(pf_call *c) {
    pf_rows rows;
    PF_TRY(softmax_rows(c, &rows, 2, (const pf_tensor *[]){c->out[0], c->in[0]}));
    return pf_rows_run(c->engine, &rows, 1, softmax_row, NULL);
}

/* dx += y (dy - sum(dy y)); operands dx, y, dy. */
static void softmax_pull(const pf_rows *rows, void *context, int64_t row, float *scratch) {
    (void)context;
    float *at[PF_ROWS_OPS];
    pf_rows_at(rows, row, at);
    float *dx = pf_row_open(rows, 0, at[0], scratch);
    const float *y = pf_gather_run(rows->kern, at[1], rows->stride[1], rows->n, scratch + rows->n);
    const float *dy =
        pf_gather_run(rows->kern, at[2], rows->stride[2], rows->n, scratch + 2 * rows->n);
    rows->kern->softmax_grad(rows->n, y, dy, dx);
    pf_row_put(rows, 0, at[0], dx);
}

static int pull_rows(pf_call *c, pf_row_fn fn) {
    pf_rows rows;
    pf_tensor *dx;
    if (!c->need[0]) return PF_OK;
    PF_TRY(pf_grad_slot(c, 0, &dx));
    PF_TRY(softmax_rows(c, &rows, 3, (const pf_tensor *[]){dx, c->out[0], c->dout[0]}));
    return pf_rows_run(c->engine, &rows, 4, fn, NULL);
}

static int softmax_backward(pf_call *c) { return pull_rows(c, softmax_pull); }

/* ---- log_softmax -------------------------------------------------------------- */

static void log_softmax_row(const pf_rows *rows, void *context, int64_t row, float *scratch) {
    (void)context;
    float *at[PF_ROWS_OPS];
    pf_rows_at(rows, row, at);
    const float *x = pf_gather_run(rows->kern, at[1], rows->stride[1], rows->n, scratch);
    float *y = pf_row_target(rows, 0, at[0], scratch);
    float top = rows->kern->max(rows->n, x);
    if (top == -INFINITY) {
        rows->kern->fill(rows->n, -INFINITY, y);
    } else { /* top and the sum's logarithm apart: together they lose its last digits */
        rows->kern->affine(rows->n, 1.0f, -top, x, y);
        rows->kern->affine(rows->n, 1.0f, -rows->kern->logsumexp(rows->n, y), y, y);
    }
    pf_row_put(rows, 0, at[0], y);
}

static int log_softmax_forward(pf_call *c) {
    pf_rows rows;
    PF_TRY(softmax_rows(c, &rows, 2, (const pf_tensor *[]){c->out[0], c->in[0]}));
    return pf_rows_run(c->engine, &rows, 1, log_softmax_row, NULL);
}

/* dx += dy - exp(y) sum(dy); operands dx, y, dy. */
static void log_softmax_pull(const pf_rows *rows, void *context, int64_t row, float *scratch) {
    (void)context;
    const pf_kern *k = rows->kern;
    int64_t n = rows->n;
    float *at[PF_ROWS_OPS];
    pf_rows_at(rows, row, at);
    float *dx = pf_row_open(rows, 0, at[0], scratch), *p = scratch + 3 * n;
    const float *y = pf_gather_run(k, at[1], rows->stride[1], n, scratch + n);
    const float *dy = pf_gather_run(k, at[2], rows->stride[2], n, scratch + 2 * n);
    if (k->max(n, y) == -INFINITY) return;
    k->unary(PF_UNARY_EXP, n, y, p);
    k->axpy(n, 1.0f, dy, dx);
    k->axpy(n, -k->sum(n, dy), p, dx);
    pf_row_put(rows, 0, at[0], dx);
}

static int log_softmax_backward(pf_call *c) { return pull_rows(c, log_softmax_pull); }

/* ---- rows --------------------------------------------------------------------- */

static const pf_attr_info dim_attr[] = {
    {.name = "dim", .kind = PF_ATTR_DIM, .def = -1, .doc = "the dimension to normalise along"},
};

const pf_op pf_op_softmax = {
    .name = "softmax",
    .args = "x",
    .results = "y",
    .doc = "y = exp(x) / sum(exp(x)) along `dim`, computed without overflow; y is shaped like x. "
           "Where all of x along `dim` is -inf, y is 0.",
    .min_in = 1,
    .max_in = 1,
    .n_out = 1,
    .uses = PF_USES_OUT(0),
    .attrs = dim_attr,
    .n_attrs = PF_COUNT(dim_attr),
    .shape = softmax_shape,
    .forward = softmax_forward,
    .backward = softmax_backward,
};

const pf_op pf_op_log_softmax = {
    .name = "log_softmax",
    .args = "x",
    .results = "y",
    .doc = "y = x - logsumexp(x) along `dim`, as exact far from 0 as near it; y is shaped like x. "
           "Where all of x along `dim` is -inf, y is -inf; where one is inf, NaN.",
    .min_in = 1,
    .max_in = 1,
    .n_out = 1,
    .uses = PF_USES_OUT(0),
    .attrs = dim_attr,
    .n_attrs = PF_COUNT(dim_attr),
    .shape = softmax_shape,
    .forward = log_softmax_forward,
    .backward = log_softmax_backward,
};
