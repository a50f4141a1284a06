/*
 * linear.c - the linear layer, y = act(x W^T + b). Rows go through the tiles of tiles.h, each
 * activated while it is in the caches, or, with `step`, one by one through the kernel `gemv`.
 * Either way a row's bits depend on the row alone; the two ways differ in the last bits from
 * each other.
 */
#include "tiles.h"

#include <string.h>

enum { X, WEIGHT, BIAS };
enum { A_STEP, A_ACT };
enum { STEP_ELEMENTS = 65536, STEP_MIN = 16 }; /* weights a task of the step path reads */

/* ---- shape -------------------------------------------------------------------- */

static int weight_mismatch(const pf_call *c) {
    const pf_tensor *x = c->in[X], *w = c->in[WEIGHT];
    int64_t k = x->shape[x->rank - 1];
    return pf_shape_fail(c, "x's last dimension (%lld) must equal weight's last (%lld)%s",
                         (long long)k, (long long)w->shape[1],
                         w->shape[0] == k ? "; weight transposed would fit" : "");
}

/* x (..., K), weight (N, K), bias (N) -> (..., N) */
static int linear_shape(pf_call *c) {
    const pf_tensor *x = c->in[X], *w = c->in[WEIGHT], *b = c->in[BIAS];
    int64_t shape[PF_MAX_RANK];
    PF_HOLDS(x && w);
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

static double linear_products(const pf_call *c) {
    const pf_tensor *x = c->in[X];
    return (double)pf_tensor_numel(x) * (double)c->in[WEIGHT]->shape[0];
}

/* ---- forward ------------------------------------------------------------------ */

/* x or y with rows: a vector is one row. */
static pf_tensor with_rows(const pf_tensor *t) {
    pf_tensor h = pf_tensor_place(t);
    if (t->rank != 1) return h;
    h.rank = 2;
    h.shape[0] = 1;
    h.shape[1] = t->shape[0];
    h.stride[0] = t->shape[0] * t->stride[0];
    h.stride[1] = t->stride[0];
    return h;
}

static int open_rows(pf_matrix *m, pf_call *c, const pf_tensor *t) {
    const pf_tensor header = with_rows(t);
    return pf_matrix_open(m, c, &header);
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

/* The activation of a call, or NULL. */
static const pf_unary *act_of(const pf_call *c) {
    static const pf_unary acts[] = {
        /* in the order of PF_ACTS */
        PF_UNARY_GELU, PF_UNARY_GELU_TANH, PF_UNARY_RELU, PF_UNARY_SILU, PF_UNARY_REQU,
    };
    return c->attr[A_ACT].i == 0 ? NULL : &acts[c->attr[A_ACT].i - 1];
}

/* y = act(x W^T + bias) in tiles. slope as in pf_tiles. */
static int forward_tiles(pf_call *c, const float *bias, float *slope) {
    pf_matrix x, w, y;
    PF_TRY(open_rows(&x, c, c->in[X]));
    PF_TRY(pf_matrix_open(&w, c, c->in[WEIGHT]));
    PF_TRY(open_rows(&y, c, c->out[0]));
    const pf_matrix wt = pf_matrix_flip(&w);
    pf_tiles tiles = row_tiles(c->engine, &y);
    tiles.a = &x;
    tiles.b = &wt;
    tiles.c = &y;
    tiles.bias = bias;
    tiles.act = act_of(c);
    tiles.slope = slope;
    return pf_tiles_run(&tiles);
}

typedef struct step_job {
    const pf_kern *kern;
    const float *x, *w, *bias;
    const pf_unary *act;
    float *y;
    int64_t rows, n, k, ldw, grain;
} step_job;

/* Outputs task*grain .. of every row: these weights are read once. */
static void step_task(void *context, int64_t task, void *scratch) {
    const step_job *job = context;
    int64_t first = task * job->grain, n = pf_min(job->grain, job->n - first);
    (void)scratch;
    for (int64_t i = 0; i < job->rows; i++) {
        float *y = job->y + i * job->n + first;
        job->kern->gemv(n, job->k, job->w + first * job->ldw, job->ldw, job->x + i * job->k,
                        job->bias ? job->bias + first : NULL, y);
        if (job->act) job->kern->unary(*job->act, n, y, y);
    }
}

static int forward_step(pf_call *c, const float *bias) {
    int64_t n = c->in[WEIGHT]->shape[0], k = c->in[WEIGHT]->shape[1];
    pf_tensor *x, *w;
    PF_TRY(pf_call_compact(c, c->in[X], &x));
    PF_TRY(pf_call_compact(c, c->in[WEIGHT], &w));
    step_job job = {
        .kern = c->engine->kern,
        .x = pf_f32(x),
        .w = pf_f32(w),
        .bias = bias,
        .act = act_of(c),
        .y = pf_f32(c->out[0]),
        .rows = pf_shape_numel(x->rank - 1, x->shape),
        .n = n,
        .k = k,
        .ldw = k,
        .grain = pf_max(STEP_MIN, STEP_ELEMENTS / pf_max(1, k)),
    };
    return pf_parallel(c->engine, pf_ceil_div(n, job.grain), 0, step_task, &job);
}

/* saved[0]: the derivative of the activation, shaped like y. The tiles alone can make it. */
static int linear_forward(pf_call *c) {
    const pf_tensor *y = c->out[0];
    pf_tensor *b;
    float *slope = NULL;
    PF_TRY(pf_call_compact(c, c->in[BIAS], &b));
    const float *bias = b ? pf_f32(b) : NULL;
    if (c->record && act_of(c)) {
        PF_TRY(pf_tensor_make(&c->saved[0], c->engine, PF_F32, y->rank, y->shape));
        slope = pf_f32(c->saved[0]);
    }
    return c->attr[A_STEP].i && !slope ? forward_step(c, bias) : forward_tiles(c, bias, slope);
}

/* ---- backward ----------------------------------------------------------------- */

static void multiply_piece(const void *context, int64_t n, const float *const *x, float *g) {
    const pf_kern *kern = context;
    kern->binary(PF_BINARY_MUL, n, x[0], 1, x[1], 1, g);
}

/* *dsum: the gradient of x W^T + b. */
static int through_act(pf_call *c, pf_tensor **dsum) {
    const pf_tensor *slope = c->saved[0];
    *dsum = c->dout[0];
    if (!act_of(c)) return PF_OK;
    PF_TRY(pf_call_make(c, PF_F32, slope->rank, slope->shape, dsum));
    return pf_fold(&(pf_fold_job){
        .engine = c->engine,
        .to = *dsum,
        .overwrite = true,
        .rank = slope->rank,
        .shape = slope->shape,
        .n = 2,
        .x = {c->dout[0], slope},
        .f = multiply_piece,
        .context = c->engine->kern,
        .scale = 1,
    });
}

/* dx (..., K) += dy (..., N) W */
static int pull_x(pf_call *c, const pf_matrix *dy) {
    pf_tensor *slot;
    bool fresh;
    pf_matrix w, dx;
    PF_TRY(pf_matrix_open(&w, c, c->in[WEIGHT]));
    PF_TRY(pf_grad_fresh(c, X, &fresh, &slot));
    PF_TRY(open_rows(&dx, c, slot));
    pf_tiles tiles = row_tiles(c->engine, dy);
    tiles.a = dy;
    tiles.b = &w;
    tiles.c = &dx;
    tiles.overwrite = fresh;
    return pf_tiles_run(&tiles);
}

/* dW (N, K) += dy^T x */
static int pull_weight(pf_call *c, const pf_matrix *dy) {
    pf_tensor *slot;
    bool fresh;
    pf_matrix x, dw;
    PF_TRY(open_rows(&x, c, c->in[X]));
    PF_TRY(pf_grad_fresh(c, WEIGHT, &fresh, &slot));
    PF_TRY(pf_matrix_open(&dw, c, slot));
    return pf_tiles_over_rows(&(pf_over_rows){
        .engine = c->engine,
        .left = dy,
        .right = &x,
        .c = &dw,
        .rank = dy->batch.rank,
        .batch = dy->batch.shape,
        .overwrite = fresh,
    });
}

/* db (N) += the sum of dy over all rows */
static int pull_bias(pf_call *c, const pf_tensor *dy) {
    pf_tensor *slot;
    bool fresh;
    PF_TRY(pf_grad_fresh(c, BIAS, &fresh, &slot));
    return pf_fold(&(pf_fold_job){
        .engine = c->engine,
        .to = slot,
        .overwrite = fresh,
        .rank = dy->rank,
        .shape = dy->shape,
        .n = 1,
        .x = {dy},
        .scale = 1,
    });
}

static int linear_backward(pf_call *c) {
    pf_tensor *dsum;
    pf_matrix dy;
    PF_TRY(through_act(c, &dsum));
    PF_TRY(open_rows(&dy, c, dsum));
    if (c->need[X]) PF_TRY(pull_x(c, &dy));
    if (c->need[WEIGHT]) PF_TRY(pull_weight(c, &dy));
    return c->need[BIAS] ? pull_bias(c, dsum) : PF_OK;
}

static const pf_attr_info linear_attrs[] = {
    {.name = "step",
     .kind = PF_ATTR_BOOL,
     .def = 0,
     .doc = "a few rows, as in decoding: row by row through the weights instead of in tiles"},
    {.name = "act",
     .kind = PF_ATTR_CHOICE,
     .def = 0,
     .choices = "none|" PF_ACTS,
     .doc = "activation of the sum"},
};

const pf_op pf_op_linear = {
    .name = "linear",
    .args = "x, weight, [bias]",
    .results = "y",
    .doc = "y = act(x weight^T + bias) for x (..., K), weight (N, K), bias (N): y is (..., N). A "
           "row of y has the same bits alone, in a batch, and whatever rows follow it.",
    .min_in = 2,
    .max_in = 3,
    .n_out = 1,
    .uses = PF_USES_IN(X) | PF_USES_IN(WEIGHT),
    .reads = {PF_USES_IN(WEIGHT), PF_USES_IN(X), PF_USES_NONE},
    .attrs = linear_attrs,
    .n_attrs = PF_COUNT(linear_attrs),
    .shape = linear_shape,
    .products = linear_products,
    .forward = linear_forward,
    .backward = linear_backward,
};
