/*
 * norm.c - layernorm and rmsnorm over the last dimension; add_layernorm and add_rmsnorm, which
 * norm a sum x + h while its row is in the cache, and return the sum too. They have h as second
 * input, the sum as first output, and the bits of add followed by the norm.
 *
 * Rows are worked on in blocks of ROW_BLOCK, whatever the number of threads. The gradients
 * of weight and bias are sums over rows: one partial sum a block, added in block order, so
 * that their bits depend on the shape alone. Rows whose squares or mean single precision can't
 * hold are few, and told by what came of them: they are done again in double (norm_exact.h).
 */
#include "norm_exact.h"

#include <string.h>

#include "kern.h"
#include "op.h"

enum { ROW_BLOCK = 128, COLUMN_GRAIN = 256 };
enum { LAYER, RMS }; /* pf_op.of */

static const pf_attr_info norm_attrs[] = {
    {.name = "eps",
     .kind = PF_ATTR_FLOAT,
     .def = 1e-5,
     .doc = "added to the variance (mean square)"},
};

/* The row is one of a sum. */
static bool is_sum(const pf_call *c) { return c->op->n_out == 2; }
/* Where the weight stands among the inputs; the bias, if any, is the next. */
static int weight_at(const pf_call *c) { return is_sum(c) ? 2 : 1; }
static int bias_at(const pf_call *c) { return weight_at(c) + 1; }

/* x (..., D), [h (..., D)], weight (D), [bias (D)] -> [(..., D)], (..., D) */
static int norm_shape(pf_call *c) {
    for (int i = 0; i < c->n_in; i++)
        if (c->in[i]) PF_TRY(pf_want(c, i, PF_F32));
    const pf_tensor *x = c->in[0];
    PF_HOLDS(x);
    if (x->rank < 1) return pf_shape_fail(c, "x needs a dimension to normalise over");
    int64_t width = x->shape[x->rank - 1];
    if (is_sum(c) && !pf_same_shape(x, c->in[1]))
        return pf_shape_fail(c, "x and h must have one shape");
    for (int i = weight_at(c); i < c->n_in; i++)
        if (c->in[i] && (c->in[i]->rank != 1 || c->in[i]->shape[0] != width))
            return pf_shape_fail(c, "%s must be [%lld], the last dimension of x",
                                 pf_op_arg_name(c->op, i), (long long)width);
    if (is_sum(c)) PF_TRY(pf_same_as(c, 1, 0));
    return pf_same_as(c, 0, 0);
}

static int64_t rows_of(const pf_tensor *x) { return pf_shape_numel(x->rank - 1, x->shape); }

/* ---- forward ---- */

typedef struct {
    const pf_kern *kern;
    int64_t width;
    double eps;
    bool rms;
    const float *x, *h, *w, *b;   /* h NULL: no sum */
    float *sum, *y, *mean, *rstd; /* mean, rstd NULL: not kept */
} forward_job;

static void norm_one(const forward_job *job, const float *x, float *y, float *mean, float *rstd) {
    *mean = 0;
    if (job->rms)
        job->kern->rmsnorm(job->width, (float)job->eps, x, job->w, y, rstd);
    else
        job->kern->layernorm(job->width, (float)job->eps, x, job->w, job->b, y, mean, rstd);
    if (!pf_norm_is_odd(*mean, *rstd)) return;
    const pf_norm_row row = {
        .n = job->width, .rms = job->rms, .eps = job->eps, .x = x, .w = job->w, .b = job->b};
    pf_norm_exact(&row, y, mean, rstd);
}

static void forward_rows(void *context, int64_t first, int64_t last) {
    const forward_job *job = context;
    float mean, rstd;
    for (int64_t r = first; r < last; r++) {
        const float *x = job->x + r * job->width;
        float *y = job->y + r * job->width;
        if (job->h) {
            float *sum = job->sum + r * job->width;
            job->kern->binary(PF_BINARY_ADD, job->width, x, 1, job->h + r * job->width, 1, sum);
            x = sum;
        }
        norm_one(job, x, y, &mean, &rstd);
        if (job->mean) job->mean[r] = mean;
        if (job->rstd) job->rstd[r] = rstd;
    }
}

/* saved[0]: 1 / deviation of each row, saved[1]: its mean (layernorm). */
static int norm_forward(pf_call *c) {
    bool rms = c->op->of == RMS;
    int64_t rows = rows_of(c->in[0]), width = c->in[0]->shape[c->in[0]->rank - 1];
    pf_tensor *x, *h = NULL, *w, *b;
    if (c->record) PF_TRY(pf_tensor_make(&c->saved[0], c->engine, PF_F32, 1, &rows));
    if (c->record && !rms) PF_TRY(pf_tensor_make(&c->saved[1], c->engine, PF_F32, 1, &rows));
    if (rows == 0 || width == 0) return PF_OK;
    PF_TRY(pf_call_compact(c, c->in[0], &x));
    if (is_sum(c)) PF_TRY(pf_call_compact(c, c->in[1], &h));
    PF_TRY(pf_call_compact(c, c->in[weight_at(c)], &w));
    PF_TRY(pf_call_compact(c, c->in[bias_at(c)], &b));
    forward_job job = {.kern = c->engine->kern,
                       .width = width,
                       .eps = c->attr[0].f,
                       .rms = rms,
                       .x = pf_f32(x),
                       .w = pf_f32(w),
                       .b = b ? pf_f32(b) : NULL,
                       .h = h ? pf_f32(h) : NULL,
                       .sum = pf_f32(c->out[0]),
                       .y = pf_f32(c->out[is_sum(c)]),
                       .rstd = c->saved[0] ? pf_f32(c->saved[0]) : NULL,
                       .mean = c->saved[1] ? pf_f32(c->saved[1]) : NULL};
    return pf_parallel_range(c->engine, rows, ROW_BLOCK, forward_rows, &job);
}

/* ---- backward ---- */

typedef struct {
    const pf_kern *kern;
    int64_t rows, width, blocks;
    double eps;
    bool rms, fresh_x; /* fresh_x: rows of dx are undefined and begin as dsum's, or 0 */
    const float *x, *w, *mean, *rstd, *dy;
    const float *dsum; /* NULL: none, or in dx already */
    float *dx;         /* NULL: not wanted; goes to scratch */
    float *dw, *db;    /* (blocks, width) partial sums, or NULL */
} backward_job;

static void pull_one(const backward_job *job, int64_t r, float *dx, float *dw, float *db) {
    int64_t n = job->width;
    const float *x = job->x + r * n, *dy = job->dy + r * n;
    float mean = job->mean ? job->mean[r] : 0, rstd = job->rstd[r];
    if (pf_norm_is_odd(mean, rstd)) {
        const pf_norm_row row = {
            .n = n, .rms = job->rms, .eps = job->eps, .x = x, .w = job->w, .dy = dy};
        pf_norm_exact_grad(&row, dx, dw, db);
    } else if (job->rms) {
        job->kern->rmsnorm_grad(n, x, job->w, rstd, dy, dx, dw);
    } else {
        job->kern->layernorm_grad(n, x, job->w, mean, rstd, dy, dx, dw, db);
    }
}

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
        if (job->dx && job->dsum)
            memcpy(dx, job->dsum + r * n, (size_t)n * sizeof *dx);
        else if (!job->dx || job->fresh_x)
            memset(dx, 0, (size_t)n * sizeof *dx);
        pull_one(job, r, dx, dw, db);
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
    int w = weight_at(c), b = bias_at(c);
    size_t line = (size_t)(job->blocks * job->width), bytes = 0;
    if (!pf_mul_size(line, sizeof(float) * 2, &bytes))
        return pf_fail(PF_ENOMEM, "%s: gradients too large", c->op->name);
    if (c->need[w] || c->need[b]) {
        float *partial = pf_call_alloc(c, bytes);
        if (!partial) return PF_ENOMEM;
        job->dw = c->need[w] ? partial : NULL;
        job->db = c->need[b] ? partial + line : NULL;
    }
    size_t scratch = (size_t)job->width * sizeof(float);
    PF_TRY(pf_parallel(c->engine, job->blocks, scratch, backward_block, job));
    if (c->need[w]) PF_TRY(add_partials(c, job, w, job->dw));
    return c->need[b] ? add_partials(c, job, b, job->db) : PF_OK;
}

/* Nothing to sum: the wanted gradients exist and are unchanged. */
static int empty_backward(pf_call *c) {
    pf_tensor *t;
    for (int i = 0; i < c->n_in; i++)
        if (c->need[i]) PF_TRY(pf_grad_slot(c, i, &t));
    return PF_OK;
}

/* x and h of a sum have the same gradient. */
static int give_sum(pf_call *c, pf_tensor *dx) {
    if (c->need[0]) PF_TRY(pf_grad_give(c, 0, dx));
    return c->need[1] ? pf_grad_give(c, 1, dx) : PF_OK;
}

/* Where the gradient of a sum gathers: in what arrived for it, if nobody else reads that, else
 * in a new tensor, whose rows begin as *dsum's (NULL: as zeros). */
static int open_sum(pf_call *c, pf_tensor **dx, pf_tensor **dsum) {
    pf_tensor *arrived = c->dout[0];
    if (!c->need[0] && !c->need[1]) return PF_OK;
    if (arrived && pf_tensor_own(arrived)) {
        *dx = arrived;
        return PF_OK;
    }
    PF_TRY(pf_call_compact(c, arrived, dsum));
    return pf_call_make(c, PF_F32, c->out[0]->rank, c->out[0]->shape, dx);
}

static int norm_backward(pf_call *c) {
    bool rms = c->op->of == RMS, sum = is_sum(c), fresh = true;
    const pf_tensor *shape = c->in[0];
    int64_t rows = rows_of(shape), width = shape->shape[shape->rank - 1];
    pf_tensor *x, *w, *dy, *dsum = NULL, *dx = NULL;
    if (rows == 0 || width == 0) return empty_backward(c);
    if (!c->dout[sum]) return give_sum(c, c->dout[0]);
    PF_TRY(pf_call_compact(c, sum ? c->out[0] : c->in[0], &x));
    PF_TRY(pf_call_compact(c, c->in[weight_at(c)], &w));
    PF_TRY(pf_call_compact(c, c->dout[sum], &dy));
    if (sum) {
        PF_TRY(open_sum(c, &dx, &dsum));
        fresh = dx != c->dout[0];
    } else if (c->need[0]) {
        PF_TRY(pf_grad_fresh(c, 0, &fresh, &dx));
    }
    backward_job job = {.kern = c->engine->kern,
                        .rows = rows,
                        .width = width,
                        .blocks = pf_ceil_div(rows, ROW_BLOCK),
                        .eps = c->attr[0].f,
                        .rms = rms,
                        .fresh_x = fresh,
                        .x = pf_f32(x),
                        .w = pf_f32(w),
                        .dy = pf_f32(dy),
                        .rstd = pf_f32(c->saved[0]),
                        .mean = rms ? NULL : pf_f32(c->saved[1]),
                        .dsum = dsum ? pf_f32(dsum) : NULL,
                        .dx = dx ? pf_f32(dx) : NULL};
    PF_TRY(run_backward(c, &job));
    return sum ? give_sum(c, dx) : PF_OK;
}

/* ---- rows ---- */

const pf_op pf_op_layernorm = {
    .name = "layernorm",
    .of = LAYER,
    .args = "x, weight, [bias]",
    .results = "y",
    .doc = "y = (x - mean) / sqrt(variance + eps) * weight + bias over the last dimension: "
           "x (..., D), weight and bias (D). The variance divides by D.",
    .min_in = 2,
    .max_in = 3,
    .n_out = 1,
    .uses = PF_USES_IN(0) | PF_USES_IN(1),
    .reads = {0, PF_USES_IN(0), PF_USES_NONE},
    .attrs = norm_attrs,
    .n_attrs = PF_COUNT(norm_attrs),
    .shape = norm_shape,
    .forward = norm_forward,
    .backward = norm_backward,
};

const pf_op pf_op_rmsnorm = {
    .name = "rmsnorm",
    .of = RMS,
    .args = "x, weight",
    .results = "y",
    .doc = "y = x / sqrt(mean(x^2) + eps) * weight over the last dimension: x (..., D), "
           "weight (D).",
    .min_in = 2,
    .max_in = 2,
    .n_out = 1,
    .uses = PF_USES_IN(0) | PF_USES_IN(1),
    .reads = {0, PF_USES_IN(0), PF_USES_NONE},
    .attrs = norm_attrs,
    .n_attrs = PF_COUNT(norm_attrs),
    .shape = norm_shape,
    .forward = norm_forward,
    .backward = norm_backward,
};

const pf_op pf_op_add_layernorm = {
    .name = "add_layernorm",
    .of = LAYER,
    .args = "x, h, weight, [bias]",
    .results = "sum, y",
    .doc = "sum = x + h and y = layernorm(sum) in one pass: x and h (..., D), weight and bias (D). "
           "The bits are those of add followed by layernorm.",
    .min_in = 3,
    .max_in = 4,
    .n_out = 2,
    .uses = PF_USES_OUT(0) | PF_USES_IN(2),
    .reads = {0, 0, PF_USES_OUT(0), PF_USES_NONE},
    .attrs = norm_attrs,
    .n_attrs = PF_COUNT(norm_attrs),
    .shape = norm_shape,
    .forward = norm_forward,
    .backward = norm_backward,
};

const pf_op pf_op_add_rmsnorm = {
    .name = "add_rmsnorm",
    .of = RMS,
    .args = "x, h, weight",
    .results = "sum, y",
    .doc = "sum = x + h and y = rmsnorm(sum) in one pass: x and h (..., D), weight (D). The bits "
           "are those of add followed by rmsnorm.",
    .min_in = 3,
    .max_in = 3,
    .n_out = 2,
    .uses = PF_USES_OUT(0) | PF_USES_IN(2),
    .reads = {0, 0, PF_USES_OUT(0), PF_USES_NONE},
    .attrs = norm_attrs,
    .n_attrs = PF_COUNT(norm_attrs),
    .shape = norm_shape,
    .forward = norm_forward,
    .backward = norm_backward,
};
