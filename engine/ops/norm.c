/*
 * norm.c - layernorm and rmsnorm over the last dimension.
 *
 * Rows are worked on in blocks of ROW_BLOCK, whatever the number of threads. The gradients
 * of weight and bias are sums over rows: one partial sum a block, added in block order, so
 * that their bits depend on the shape alone.
 */
#include <string.h>

#include "kern.h"
#include "op.h"

enum { ROW_BLOCK = 128, COLUMN_GRAIN = 256 };

static const pf_attr_info norm_attrs[] = {
    {.name = "eps", .kind = PF_ATTR_FLOAT, .def = 1e-5,
     .doc = "added to the variance (mean square)"},
};

/* x (..., D), weight (D), [bias (D)] -> (..., D) */
static int norm_shape(pf_call *c) {
    for (int i = 0; i < c->n_in; i++)
        if (c->in[i]) PF_TRY(pf_want(c, i, PF_F32));
    const pf_tensor *x = c->in[0];
    if (x->rank < 1) return pf_shape_fail(c, "x needs a dimension to normalise over");
    int64_t width = x->shape[x->rank - 1];
    for (int i = 1; i < c->n_in; i++)
        if (c->in[i] && (c->in[i]->rank != 1 || c->in[i]->shape[0] != width))
            return pf_shape_fail(c, "%s must be [%lld], the last dimension of x",
                                 pf_op_arg_name(c->op, i), (long long)width);
    return pf_same_as(c, 0, 0);
}

static int64_t rows_of(const pf_tensor *x) { return pf_shape_numel(x->rank - 1, x->shape); }

/* ---- forward ---- */

typedef struct {
    const pf_kern *kern;
    int64_t width;
    float eps;
    bool rms;
    const float *x, *w, *b;
    float *y, *mean, *rstd; /* mean, rstd NULL: not kept */
} forward_job;

static void forward_rows(void *context, int64_t first, int64_t last) {
    const forward_job *job = context;
    float mean = 0, rstd;
    for (int64_t r = first; r < last; r++) {
        const float *x = job->x + r * job->width;
        float *y = job->y + r * job->width;
        if (job->rms) job->kern->rmsnorm(job->width, job->eps, x, job->w, y, &rstd);
        else job->kern->layernorm(job->width, job->eps, x, job->w, job->b, y, &mean, &rstd);
        if (job->mean) job->mean[r] = mean;
        if (job->rstd) job->rstd[r] = rstd;
    }
}

/* Contiguous x, weight and bias of a call, retained. */
typedef struct {
    pf_tensor *x, *w, *b;
} norm_inputs;

static void drop_inputs(norm_inputs *in) {
    pf_tensor_release(&in->x);
    pf_tensor_release(&in->w);
    pf_tensor_release(&in->b);
}

static int take_inputs(norm_inputs *in, pf_call *c) {
    *in = (norm_inputs){NULL, NULL, NULL};
    int status = pf_tensor_compact(&in->x, c->engine, c->in[0]);
    if (status >= 0) status = pf_tensor_compact(&in->w, c->engine, c->in[1]);
    if (status >= 0 && c->n_in > 2 && c->in[2] && c->in[2]->storage)
        status = pf_tensor_compact(&in->b, c->engine, c->in[2]);
    if (status < 0) drop_inputs(in);
    return status;
}

/* saved[0]: 1 / deviation of each row, saved[1]: its mean (layernorm). */
static int norm_forward(pf_call *c, bool rms) {
    int64_t rows = rows_of(c->in[0]), width = c->in[0]->shape[c->in[0]->rank - 1];
    if (c->record) PF_TRY(pf_tensor_make(&c->saved[0], c->engine, PF_F32, 1, &rows));
    if (c->record && !rms) PF_TRY(pf_tensor_make(&c->saved[1], c->engine, PF_F32, 1, &rows));
    if (rows == 0 || width == 0) return PF_OK;
    norm_inputs in;
    PF_TRY(take_inputs(&in, c));
    forward_job job = {.kern = c->engine->kern, .width = width, .eps = (float)c->attr[0].f,
                       .rms = rms, .x = pf_f32(in.x), .w = pf_f32(in.w),
                       .b = in.b ? pf_f32(in.b) : NULL, .y = pf_f32(c->out[0]),
                       .rstd = c->saved[0] ? pf_f32(c->saved[0]) : NULL,
                       .mean = c->saved[1] ? pf_f32(c->saved[1]) : NULL};
    int status = pf_parallel_range(c->engine, rows, ROW_BLOCK, forward_rows, &job);
    drop_inputs(&in);
    return status;
}

/* ---- backward ---- */

typedef struct {
    const pf_kern *kern;
    int64_t rows, width, blocks;
    bool rms, fresh_x;
    const float *x, *w, *mean, *rstd, *dy;
    float *dx;       /* NULL: not wanted; goes to scratch */
    float *dw, *db;  /* (blocks, width) partial sums, or NULL */
} backward_job;

/* One block of rows: its dx, and its own line of dw and db. */
static void backward_block(void *context, int64_t block, void *scratch) {
    const backward_job *job = context;
    int64_t n = job->width, last = pf_min(job->rows, (block + 1) * ROW_BLOCK);
    float *dw = job->dw ? job->dw + block * n : NULL;
    float *db = job->db ? job->db + block * n : NULL;
    if (dw) memset(dw, 0, (size_t)n * sizeof *dw);
    if (db) memset(db, 0, (size_t)n * sizeof *db);
    for (int64_t r = block * ROW_BLOCK; r < last; r++) {
        float *dx = job->dx ? job->dx + r * n : scratch;
        if (!job->dx || job->fresh_x) memset(dx, 0, (size_t)n * sizeof *dx);
        if (job->rms)
            job->kern->rmsnorm_grad(n, job->x + r * n, job->w, job->rstd[r], job->dy + r * n, dx,
                                    dw);
        else
            job->kern->layernorm_grad(n, job->x + r * n, job->w, job->mean[r], job->rstd[r],
                                      job->dy + r * n, dx, dw, db);
    }
}

typedef struct {
    const pf_kern *kern;
    int64_t blocks, width;
    const float *partial;
    float *to;
} sum_job;

static void sum_columns(void *context, int64_t first, int64_t last) {
    const sum_job *job = context;
    for (int64_t b = 0; b < job->blocks; b++)
        job->kern->axpy(last - first, 1.0f, job->partial + b * job->width + first, job->to + first);
}

/* Adds the partial sums, in block order, to the gradient of input i. */
static int add_partials(pf_call *c, const backward_job *job, int i, const float *partial) {
    pf_tensor *to;
    PF_TRY(pf_grad_slot(c, i, &to));
    sum_job sum = {job->kern, job->blocks, job->width, partial, pf_f32(to)};
    return pf_parallel_range(c->engine, job->width, COLUMN_GRAIN, sum_columns, &sum);
}

/* Runs the blocks, with room for the partial sums that are wanted. */
static int run_backward(pf_call *c, backward_job *job) {
    bool want_w = c->need[1], want_b = c->n_in > 2 && c->need[2];
    size_t line = (size_t)(job->blocks * job->width), bytes = 0;
    if (!pf_mul_size(line, sizeof(float) * 2, &bytes))
        return pf_fail(PF_ENOMEM, "%s: gradients too large", c->op->name);
    float *partial = NULL;
    if (want_w || want_b) {
        partial = pf_heap_alloc(c->engine->heap, bytes);
        if (!partial) return PF_ENOMEM;
        job->dw = want_w ? partial : NULL;
        job->db = want_b ? partial + line : NULL;
    }
    size_t scratch = (size_t)job->width * sizeof(float);
    int status = pf_parallel(c->engine, job->blocks, scratch, backward_block, job);
    if (status >= 0 && want_w) status = add_partials(c, job, 1, job->dw);
    if (status >= 0 && want_b) status = add_partials(c, job, 2, job->db);
    pf_heap_free(c->engine->heap, partial, partial ? bytes : 0);
    return status;
}

/* Nothing to sum: the wanted gradients exist and are unchanged. */
static int empty_backward(pf_call *c) {
    pf_tensor *t;
    for (int i = 0; i < c->n_in; i++)
        if (c->need[i]) PF_TRY(pf_grad_slot(c, i, &t));
    return PF_OK;
}

static int norm_backward(pf_call *c, bool rms) {
    int64_t rows = rows_of(c->in[0]), width = c->in[0]->shape[c->in[0]->rank - 1];
    if (rows == 0 || width == 0) return empty_backward(c);
    norm_inputs in;
    pf_tensor *dy = NULL, *dx = NULL;
    PF_TRY(take_inputs(&in, c));
    bool fresh = false;
    int status = pf_tensor_compact(&dy, c->engine, c->dout[0]);
    if (status >= 0 && c->need[0]) status = pf_grad_fresh(c, 0, &fresh, &dx);
    if (status >= 0) {
        backward_job job = {.kern = c->engine->kern, .rows = rows, .width = width,
                            .blocks = pf_ceil_div(rows, ROW_BLOCK), .rms = rms, .fresh_x = fresh,
                            .x = pf_f32(in.x), .w = pf_f32(in.w), .dy = pf_f32(dy),
                            .rstd = pf_f32(c->saved[0]),
                            .mean = rms ? NULL : pf_f32(c->saved[1]),
                            .dx = dx ? pf_f32(dx) : NULL};
        status = run_backward(c, &job);
    }
    pf_tensor_release(&dy);
    drop_inputs(&in);
    return status;
}

static int layernorm_forward(pf_call *c) { return norm_forward(c, false); }
static int layernorm_backward(pf_call *c) { return norm_backward(c, false); }
static int rmsnorm_forward(pf_call *c) { return norm_forward(c, true); }
static int rmsnorm_backward(pf_call *c) { return norm_backward(c, true); }

/* ---- rows ---- */

const pf_op pf_op_layernorm = {
    .name = "layernorm",
    .args = "x, weight, [bias]",
    .results = "y",
    .doc = "y = (x - mean) / sqrt(variance + eps) * weight + bias over the last dimension: "
           "x (..., D), weight and bias (D). The variance divides by D.",
    .min_in = 2,
    .max_in = 3,
    .n_out = 1,
    .uses = PF_USES_IN(0) | PF_USES_IN(1),
    .attrs = norm_attrs,
    .n_attrs = PF_COUNT(norm_attrs),
    .shape = norm_shape,
    .forward = layernorm_forward,
    .backward = layernorm_backward,
};

const pf_op pf_op_rmsnorm = {
    .name = "rmsnorm",
    .args = "x, weight",
    .results = "y",
    .doc = "y = x / sqrt(mean(x^2) + eps) * weight over the last dimension: x (..., D), "
           "weight (D).",
    .min_in = 2,
    .max_in = 2,
    .n_out = 1,
    .uses = PF_USES_IN(0) | PF_USES_IN(1),
    .attrs = norm_attrs,
    .n_attrs = PF_COUNT(norm_attrs),
    .shape = norm_shape,
    .forward = rmsnorm_forward,
    .backward = rmsnorm_backward,
};
