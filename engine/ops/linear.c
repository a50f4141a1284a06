/*
 * linear.c - the linear layer, y = x W^T + b. Rows go through tiles of one fixed GEMM shape
 * that start at each item's first row (tiles.h), or, with `step`, one by one through the
 * kernel `gemv`. Either way a row's bits depend on the row alone; the two ways differ in
 * the last bits from each other.
 */
#include "tiles.h"

#include <string.h>

enum { X, WEIGHT, BIAS };
enum { STEP_ELEMENTS = 65536, STEP_MIN = 16 }; /* weights a task of the step path reads */

/* ---- shape -------------------------------------------------------------------- */

static int weight_mismatch(const pf_call *c) {
    const pf_tensor *x = c->in[X], *w = c->in[WEIGHT];
    const int64_t k = x->shape[x->rank - 1];
    return pf_shape_fail(c, "x's last dimension (%lld) must equal weight's last (%lld)%s",
                         (long long)k, (long long)w->shape[1],
                         w->shape[0] == k ? "; weight transposed would fit" : "");
}

/* x (..., K), weight (N, K), bias (N) -> (..., N) */
static int linear_shape(pf_call *c) {
    const pf_tensor *x = c->in[X], *w = c->in[WEIGHT], *b = c->in[BIAS];
    int64_t shape[PF_MAX_RANK];
    for (int i = 0; i < 3; i++)
        if (c->in[i]) PF_TRY(pf_want(c, i, PF_F32));
    if (x->rank < 1) return pf_shape_fail(c, "x needs at least one dimension");
    if (w->rank != 2) return pf_shape_fail(c, "weight must be (out, in)");
    if (x->shape[x->rank - 1] != w->shape[1]) return weight_mismatch(c);
    if (b && (b->rank != 1 || b->shape[0] != w->shape[0]))
        return pf_shape_fail(c, "bias must be [%lld], as weight's first dimension",
                             (long long)w->shape[0]);
    for (int d = 0; d < x->rank - 1; d++) shape[d] = x->shape[d];
    shape[x->rank - 1] = w->shape[0];
    return pf_set_shape(c, 0, PF_F32, x->rank, shape);
}

/* ---- forward ------------------------------------------------------------------ */

/* x or y with rows: a vector is one row. */
static pf_tensor with_rows(const pf_tensor *t) {
    pf_tensor h = *t;
    if (t->rank != 1) return h;
    h.rank = 2;
    h.shape[0] = 1;
    h.shape[1] = t->shape[0];
    h.stride[0] = t->shape[0] * t->stride[0];
    h.stride[1] = t->stride[0];
    return h;
}

static int open_rows(pf_matrix *m, pf_engine *engine, const pf_tensor *t) {
    const pf_tensor header = with_rows(t);
    return pf_matrix_open(m, engine, &header);
}

/* Tiles of a product over the rows of `rows_of`, item by item. */
static pf_tiles row_tiles(pf_engine *engine, const pf_matrix *rows_of) {
    return (pf_tiles){
        .engine = engine,
        .rank = rows_of->batch.rank,
        .batch = rows_of->batch.shape,
        .rows = PF_ROW_TILE,
        .cols = PF_COL_TILE,
        .pad = true,
        .overwrite = true,
    };
}

/* y = x W^T (+ bias) in tiles. */
static int forward_tiles(pf_call *c, const pf_matrix *x, const pf_matrix *w, const float *bias) {
    pf_matrix y;
    PF_TRY(open_rows(&y, c->engine, c->out[0])); /* contiguous: owns nothing */
    const pf_matrix wt = pf_matrix_flip(w);
    pf_tiles tiles = row_tiles(c->engine, &y);
    tiles.a = x;
    tiles.b = &wt;
    tiles.c = &y;
    tiles.bias = bias;
    return pf_tiles_run(&tiles);
}

typedef struct step_job {
    const pf_kern *kern;
    const float *x, *w, *bias;
    float *y;
    int64_t rows, n, k, ldw, grain;
} step_job;

/* Outputs task*grain .. of every row: these weights are read once. */
static void step_task(void *context, int64_t task, void *scratch) {
    const step_job *job = context;
    const int64_t first = task * job->grain, n = pf_min(job->grain, job->n - first);
    (void)scratch;
    for (int64_t i = 0; i < job->rows; i++)
        job->kern->gemv(n, job->k, job->w + first * job->ldw, job->ldw, job->x + i * job->k,
                        job->bias ? job->bias + first : NULL, job->y + i * job->n + first);
}

static int forward_step(pf_call *c, const float *bias) {
    const int64_t n = c->in[WEIGHT]->shape[0], k = c->in[WEIGHT]->shape[1];
    pf_tensor *x = NULL, *w = NULL;
    int status = pf_tensor_compact(&x, c->engine, c->in[X]);
    if (status >= 0) status = pf_tensor_compact(&w, c->engine, c->in[WEIGHT]);
    if (status >= 0) {
        step_job job = {
            .kern = c->engine->kern,
            .x = pf_f32(x),
            .w = pf_f32(w),
            .bias = bias,
            .y = pf_f32(c->out[0]),
            .rows = pf_shape_numel(x->rank - 1, x->shape),
            .n = n,
            .k = k,
            .ldw = k,
            .grain = pf_max(STEP_MIN, STEP_ELEMENTS / pf_max(1, k)),
        };
        status = pf_parallel(c->engine, pf_ceil_div(n, job.grain), 0, step_task, &job);
    }
    pf_tensor_release(&x);
    pf_tensor_release(&w);
    return status;
}

static int linear_forward(pf_call *c) {
    pf_tensor *bias = NULL;
    pf_matrix x = {0}, w = {0};
    int status = c->in[BIAS] ? pf_tensor_compact(&bias, c->engine, c->in[BIAS]) : PF_OK;
    const float *b = bias ? pf_f32(bias) : NULL;
    if (status >= 0 && c->attr[0].i) {
        status = forward_step(c, b);
    } else if (status >= 0) {
        status = open_rows(&x, c->engine, c->in[X]);
        if (status >= 0) status = pf_matrix_open(&w, c->engine, c->in[WEIGHT]);
        if (status >= 0) status = forward_tiles(c, &x, &w, b);
    }
    pf_matrix_close(&x);
    pf_matrix_close(&w);
    pf_tensor_release(&bias);
    return status;
}

/* ---- backward ----------------------------------------------------------------- */

/* dx (..., K) += dy (..., N) W */
static int pull_x(pf_call *c, const pf_matrix *dy, const pf_matrix *w) {
    pf_tensor *slot;
    bool fresh;
    pf_matrix dx;
    PF_TRY(pf_grad_fresh(c, X, &fresh, &slot));
    PF_TRY(open_rows(&dx, c->engine, slot));
    pf_tiles tiles = row_tiles(c->engine, dy);
    tiles.a = dy;
    tiles.b = w;
    tiles.c = &dx;
    tiles.overwrite = fresh;
    return pf_tiles_run(&tiles);
}

/* dW (N, K) += dy^T x */
static int pull_weight(pf_call *c, const pf_matrix *dy, const pf_matrix *x) {
    pf_tensor *slot;
    bool fresh;
    pf_matrix dw;
    PF_TRY(pf_grad_fresh(c, WEIGHT, &fresh, &slot));
    PF_TRY(pf_matrix_open(&dw, c->engine, slot));
    return pf_tiles_over_rows(&(pf_over_rows){
        .engine = c->engine,
        .left = dy,
        .right = x,
        .c = &dw,
        .rank = dy->batch.rank,
        .batch = dy->batch.shape,
        .overwrite = fresh,
    });
}

/* db (N) += the sum of dy over all rows */
static int pull_bias(pf_call *c) {
    pf_tensor *slot;
    bool fresh;
    PF_TRY(pf_grad_fresh(c, BIAS, &fresh, &slot));
    return pf_fold(&(pf_fold_job){
        .engine = c->engine,
        .to = slot,
        .overwrite = fresh,
        .rank = c->dout[0]->rank,
        .shape = c->dout[0]->shape,
        .n = 1,
        .x = {c->dout[0]},
        .scale = 1,
    });
}

static int linear_backward(pf_call *c) {
    pf_matrix dy = {0}, x = {0}, w = {0};
    int status = open_rows(&dy, c->engine, c->dout[0]);
    if (c->need[X] && status >= 0) {
        status = pf_matrix_open(&w, c->engine, c->in[WEIGHT]);
        if (status >= 0) status = pull_x(c, &dy, &w);
    }
    if (c->need[WEIGHT] && status >= 0) {
        status = open_rows(&x, c->engine, c->in[X]);
        if (status >= 0) status = pull_weight(c, &dy, &x);
    }
    if (c->need[BIAS] && status >= 0) status = pull_bias(c);
    pf_matrix_close(&dy);
    pf_matrix_close(&x);
    pf_matrix_close(&w);
    return status;
}

static const pf_attr_info linear_attrs[] = {
    {.name = "step", .kind = PF_ATTR_BOOL, .def = 0,
     .doc = "a few rows, as in decoding: row by row through the weights instead of in tiles of "
            "128 rows"},
};

const pf_op pf_op_linear = {
    .name = "linear", .args = "x, weight, [bias]", .results = "y",
    .doc = "y = x weight^T + bias for x (..., K), weight (N, K), bias (N): y is (..., N). A row of "
           "y has the same bits alone, in a batch, and whatever rows follow it.",
    .min_in = 2, .max_in = 3, .n_out = 1, .uses = PF_USES_IN(X) | PF_USES_IN(WEIGHT),
    .attrs = linear_attrs, .n_attrs = PF_COUNT(linear_attrs),
    .shape = linear_shape, .forward = linear_forward, .backward = linear_backward,
};
