/*
 * loss.c - losses: cross-entropy over ids, and mean square.
 *
 * What holds: sums over positions are added in double, in an order that depends on the shape
 * alone; a position that is not counted adds nothing, whatever its logits hold (NaN too); one
 * whose logits are all -inf has an infinite loss and no gradient;
 * the backward writes softmax - onehot straight into the gradient. Of each row forward
 * keeps its maximum m and log of sum exp(x - m) apart, because their sum loses the loss's
 * last digits when logits are large.
 */
#include <math.h>
#include <string.h>

#include "loss.h"

enum { PIECE = 512, SQUARE_BLOCK = 16384, MIN_ROWS = 1, ROW_WORK = 16384 };

/* ---- cross-entropy: forward ---- */

static const pf_attr_info cross_entropy_attrs[] = {PF_REDUCTION_ATTR};

/* logits (..., V), ids (...) -> (), or (...) for reduction none */
static int cross_entropy_shape(pf_call *c) {
    PF_TRY(pf_want(c, 0, PF_F32));
    PF_TRY(pf_want(c, 1, PF_I32));
    const pf_tensor *x = c->in[0], *ids = c->in[1];
    bool fits = x->rank == ids->rank + 1;
    for (int d = 0; fits && d < ids->rank; d++) fits = x->shape[d] == ids->shape[d];
    if (!fits)
        return pf_shape_fail(c, "ids must be shaped like the logits without their last dimension");
    int rank = c->attr[0].i == PF_REDUCE_NONE ? ids->rank : 0;
    return pf_set_shape(c, 0, PF_F32, rank, ids->shape);
}

int pf_entropy_check(const pf_call *c, const pf_tensor *ids, int64_t vocab) {
    const int32_t *id = pf_i32(ids);
    for (int64_t i = 0; i < pf_tensor_numel(ids); i++)
        if (id[i] < -1 || id[i] >= vocab)
            return pf_fail(PF_EINVAL,
                           "%s: id %d at position %s of ids %s is neither -1 (not "
                           "counted) nor in 0 .. V-1, V = %lld",
                           c->op->name, id[i], pf_place(i), pf_shape_of(ids), (long long)vocab);
    return PF_OK;
}

static int64_t count_ids(const int32_t *id, int64_t n) {
    int64_t counted = 0;
    for (int64_t i = 0; i < n; i++) counted += id[i] >= 0;
    return counted;
}

/* log of sum exp(x - m) over a row, in double from piece to piece. */
static double log_sum(const pf_kern *kern, int64_t n, const float *x, float m) {
    float piece[PIECE];
    double sum = 0;
    for (int64_t i = 0; i < n; i += PIECE) {
        int64_t k = pf_min(PIECE, n - i);
        kern->affine(k, 1.0f, -m, x + i, piece);
        kern->unary(PF_UNARY_EXP, k, piece, piece);
        sum += (double)kern->sum(k, piece);
    }
    return log(sum);
}

/* The first place of a row's maximum; NaN: 0. */
static int32_t place_of(int64_t n, const float *x, float m) {
    for (int64_t i = 0; i < n; i++)
        if (x[i] == m) return (int32_t)i;
    return 0;
}

static void entropy_rows(void *context, int64_t first, int64_t last) {
    const pf_entropy *job = context;
    for (int64_t r = first; r < last; r++) {
        const float *x = job->x + r * job->vocab;
        job->loss[r] = 0;
        if (job->norm) job->norm[2 * r] = job->norm[2 * r + 1] = 0;
        if (job->best) job->best[r] = -1;
        if (job->id[r] < 0) continue;
        float m = job->kern->max(job->vocab, x);
        if (job->best) job->best[r] = place_of(job->vocab, x, m);
        bool none = m == -INFINITY; /* as log_softmax has it: no id is possible, no gradient */
        double ls = none ? INFINITY : log_sum(job->kern, job->vocab, x, m);
        job->loss[r] = none ? INFINITY : ((double)m - (double)x[job->id[r]]) + ls;
        if (!job->norm) continue;
        job->norm[2 * r] = m;
        job->norm[2 * r + 1] = (float)ls;
    }
}

/* Rows a task takes: enough work, whatever V. */
static int64_t row_grain(int64_t vocab) { return pf_max(MIN_ROWS, ROW_WORK / pf_max(1, vocab)); }

int pf_entropy_run(pf_engine *e, const pf_entropy *job, int64_t rows) {
    return pf_parallel_range(e, rows, row_grain(job->vocab), entropy_rows, (void *)job);
}

void pf_entropy_reduce(pf_tensor *out, int64_t reduction, const double *loss, const int32_t *id,
                       int64_t rows) {
    float *y = pf_f32(out);
    if (reduction == PF_REDUCE_NONE) {
        for (int64_t r = 0; r < rows; r++) y[r] = (float)loss[r];
        return;
    }
    double total = 0;
    for (int64_t r = 0; r < rows; r++) total += loss[r];
    int64_t counted = count_ids(id, rows);
    if (reduction == PF_REDUCE_MEAN && counted > 0) total /= (double)counted;
    y[0] = (float)total;
}

static int cross_entropy_forward(pf_call *c) {
    int64_t rows = pf_tensor_numel(c->in[1]), vocab = c->in[0]->shape[c->in[0]->rank - 1];
    pf_tensor *x, *ids;
    PF_TRY(pf_call_compact(c, c->in[0], &x));
    PF_TRY(pf_call_compact(c, c->in[1], &ids));
    PF_TRY(pf_entropy_check(c, ids, vocab));
    if (c->record) PF_TRY(pf_tensor_make(&c->saved[0], c->engine, PF_F32, 2, (int64_t[]){rows, 2}));
    double *loss = pf_call_alloc(c, (size_t)rows * sizeof *loss);
    if (!loss) return PF_ENOMEM;
    pf_entropy job = {.kern = c->engine->kern,
                      .vocab = vocab,
                      .x = pf_f32(x),
                      .id = pf_i32(ids),
                      .loss = loss,
                      .norm = c->saved[0] ? pf_f32(c->saved[0]) : NULL};
    PF_TRY(pf_entropy_run(c->engine, &job, rows));
    pf_entropy_reduce(c->out[0], c->attr[0].i, loss, job.id, rows);
    return PF_OK;
}

/* ---- cross-entropy: backward ---- */

/* dx (+)= g * (exp((x - m) - log sum) - onehot), one row of V */
static void entropy_grad_row(const pf_entropy *job, int64_t r, float g) {
    const pf_kern *kern = job->kern;
    const float *x = job->x + r * job->vocab;
    float *dx = job->dx + r * job->vocab, piece[PIECE];
    float m = job->norm[2 * r], ls = job->norm[2 * r + 1];
    for (int64_t i = 0; i < job->vocab; i += PIECE) {
        int64_t n = pf_min(PIECE, job->vocab - i);
        kern->affine(n, 1.0f, -m, x + i, piece);
        kern->affine(n, 1.0f, -ls, piece, piece);
        kern->unary(PF_UNARY_EXP, n, piece, piece);
        if (job->fresh)
            kern->scale(n, g, piece, dx + i);
        else
            kern->axpy(n, g, piece, dx + i);
    }
    dx[job->id[r]] -= g;
}

static void entropy_grad_rows(void *context, int64_t first, int64_t last) {
    const pf_entropy *job = context;
    for (int64_t r = first; r < last; r++) {
        if (job->id[r] >= 0 && job->norm[2 * r] != -INFINITY)
            entropy_grad_row(job, r, job->dy ? job->dy[r] : job->scale);
        else if (job->fresh)
            memset(job->dx + r * job->vocab, 0, (size_t)job->vocab * sizeof(float));
    }
}

int pf_entropy_pull(pf_engine *e, const pf_entropy *job, int64_t rows) {
    return pf_parallel_range(e, rows, row_grain(job->vocab), entropy_grad_rows, (void *)job);
}

int pf_entropy_weigh(pf_call *c, int64_t reduction, const int32_t *id, int64_t rows,
                     pf_entropy *job) {
    pf_tensor *dy;
    PF_TRY(pf_call_compact(c, c->dout[0], &dy));
    if (reduction == PF_REDUCE_NONE)
        job->dy = pf_f32(dy);
    else
        job->scale = pf_f32(dy)[0];
    if (reduction == PF_REDUCE_MEAN)
        job->scale = (float)((double)job->scale / (double)pf_max(1, count_ids(id, rows)));
    return PF_OK;
}

static int cross_entropy_backward(pf_call *c) {
    int64_t rows = pf_tensor_numel(c->in[1]), vocab = c->in[0]->shape[c->in[0]->rank - 1];
    pf_tensor *x, *ids, *dx;
    if (!c->need[0]) return PF_OK;
    PF_TRY(pf_call_compact(c, c->in[0], &x));
    PF_TRY(pf_call_compact(c, c->in[1], &ids));
    PF_TRY(pf_entropy_check(c, ids, vocab));
    pf_entropy job = {.kern = c->engine->kern,
                      .vocab = vocab,
                      .x = pf_f32(x),
                      .id = pf_i32(ids),
                      .norm = pf_f32(c->saved[0])};
    PF_TRY(pf_entropy_weigh(c, c->attr[0].i, job.id, rows, &job));
    PF_TRY(pf_grad_fresh(c, 0, &job.fresh, &dx));
    job.dx = pf_f32(dx);
    return pf_entropy_pull(c->engine, &job, rows);
}

/* ---- mean square ---- */

typedef struct {
    const pf_kern *kern;
    int64_t n;
    const float *a, *b;
    double *partial; /* one a block */
    float factor;    /* 2 dy / n */
    float *da, *db;
    bool fresh_a, fresh_b;
} square_job;

/* a, b of one shape -> () */
static int mean_square_shape(pf_call *c) {
    PF_TRY(pf_want(c, 0, PF_F32));
    PF_TRY(pf_want(c, 1, PF_F32));
    if (!pf_same_shape(c->in[0], c->in[1])) return pf_shape_fail(c, "they must be of one shape");
    return pf_set_shape(c, 0, PF_F32, 0, NULL);
}

static void square_block(void *context, int64_t block, void *scratch) {
    const square_job *job = context;
    (void)scratch;
    int64_t first = block * SQUARE_BLOCK, last = pf_min(job->n, first + SQUARE_BLOCK);
    double sum = 0;
    for (int64_t i = first; i < last; i++) {
        double d = (double)job->a[i] - (double)job->b[i];
        sum += d * d;
    }
    job->partial[block] = sum;
}

static int mean_square_forward(pf_call *c) {
    pf_tensor *a, *b;
    PF_TRY(pf_call_compact(c, c->in[0], &a));
    PF_TRY(pf_call_compact(c, c->in[1], &b));
    square_job job = {.n = pf_tensor_numel(a), .a = pf_f32(a), .b = pf_f32(b)};
    int64_t blocks = pf_ceil_div(job.n, SQUARE_BLOCK);
    job.partial = pf_call_alloc(c, (size_t)blocks * sizeof *job.partial);
    if (!job.partial) return PF_ENOMEM;
    PF_TRY(pf_parallel(c->engine, blocks, 0, square_block, &job));
    double total = 0;
    for (int64_t i = 0; i < blocks; i++) total += job.partial[i];
    pf_f32(c->out[0])[0] = (float)(total / (double)pf_max(1, job.n));
    return PF_OK;
}

/* d (+)= factor * (a - b), where a difference is too large for a float: the product may not be. */
static void wide_grad(const square_job *job, int64_t i, int64_t n, float factor, bool fresh,
                      float *d) {
    for (int64_t end = i + n; i < end; i++) {
        double difference = (double)job->a[i] - (double)job->b[i];
        d[i] = (fresh ? 0 : d[i]) + (float)((double)factor * difference);
    }
}

/* d (+)= factor * (a - b) */
static void square_grad(const square_job *job, int64_t i, int64_t n, float factor, bool fresh,
                        float *d) {
    float piece[PIECE];
    job->kern->binary(PF_BINARY_SUB, n, job->a + i, 1, job->b + i, 1, piece);
    if (!isfinite(job->kern->sum(n, piece))) {
        wide_grad(job, i, n, factor, fresh, d);
        return;
    }
    if (fresh)
        job->kern->scale(n, factor, piece, d + i);
    else
        job->kern->axpy(n, factor, piece, d + i);
}

static void square_grad_range(void *context, int64_t first, int64_t last) {
    const square_job *job = context;
    for (int64_t i = first; i < last; i += PIECE) {
        int64_t n = pf_min(PIECE, last - i);
        if (job->da) square_grad(job, i, n, job->factor, job->fresh_a, job->da);
        if (job->db) square_grad(job, i, n, -job->factor, job->fresh_b, job->db);
    }
}

static int mean_square_backward(pf_call *c) {
    pf_tensor *a, *b, *slot;
    double dy;
    PF_TRY(pf_call_compact(c, c->in[0], &a));
    PF_TRY(pf_call_compact(c, c->in[1], &b));
    PF_TRY(pf_tensor_get(c->dout[0], 0, &dy));
    square_job job = {
        .kern = c->engine->kern, .n = pf_tensor_numel(a), .a = pf_f32(a), .b = pf_f32(b)};
    job.factor = (float)(2 * dy / (double)pf_max(1, job.n));
    if (c->need[0]) {
        PF_TRY(pf_grad_fresh(c, 0, &job.fresh_a, &slot));
        job.da = pf_f32(slot);
    }
    if (c->need[1]) {
        PF_TRY(pf_grad_fresh(c, 1, &job.fresh_b, &slot));
        job.db = pf_f32(slot);
    }
    return pf_parallel_range(c->engine, job.n, SQUARE_BLOCK, square_grad_range, &job);
}

/* ---- rows ---- */

const pf_op pf_op_cross_entropy = {
    .name = "cross_entropy",
    .args = "logits, ids",
    .results = "loss",
    .doc = "-log softmax(logits)[id] in nats, averaged over the counted positions: logits "
           "(..., V), ids (...) i32 in 0 .. V-1, or -1 for a position that is not counted. No "
           "position counted: 0.",
    .min_in = 2,
    .max_in = 2,
    .n_out = 1,
    .uses = PF_USES_IN(0) | PF_USES_IN(1),
    .attrs = cross_entropy_attrs,
    .n_attrs = PF_COUNT(cross_entropy_attrs),
    .shape = cross_entropy_shape,
    .forward = cross_entropy_forward,
    .backward = cross_entropy_backward,
};

const pf_op pf_op_mean_square = {
    .name = "mean_square",
    .args = "a, b",
    .results = "loss",
    .doc = "The mean of (a - b)^2 over all elements of two tensors of one shape; 0 when they "
           "are empty.",
    .min_in = 2,
    .max_in = 2,
    .n_out = 1,
    .uses = PF_USES_IN(0) | PF_USES_IN(1),
    .shape = mean_square_shape,
    .forward = mean_square_forward,
    .backward = mean_square_backward,
};
