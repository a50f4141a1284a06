/*
 * conv.c - the short depthwise convolution along a sequence: every channel looks at a few
 * neighbours with weights of its own. A tap counts only where it lies in the same document
 * and is not masked; it is left out, not multiplied by zero, so that NaN behind a boundary
 * stays there. Tasks are blocks of rows of one item; a row adds its taps in their order.
 */
#include "kern.h"
#include "op.h"

enum { ROWS = 64, MAX_WIDTH = 16 };

typedef struct conv_job {
    const pf_kern *kern;
    int64_t length, dim, width, blocks; /* blocks of ROWS rows an item */
    int64_t centre;                     /* tap j of row t is row t + centre - j */
    const float *x, *weight, *dy;       /* (B, L, D), (W, D), (B, L, D) */
    const int32_t *documents, *mask;    /* (B, L), or NULL */
    float *y, *dx, *partial;            /* partial (B * blocks, W, D) */
    bool fresh;                         /* dx holds nothing yet */
} conv_job;

/* The row that tap j of row t reads, or -1. `base` is the item's first row. */
static int64_t tap_row(const conv_job *job, int64_t base, int64_t t, int64_t j) {
    int64_t s = t + job->centre - j;
    if (s < 0 || s >= job->length) return -1;
    if (job->documents && job->documents[base + s] != job->documents[base + t]) return -1;
    if (job->mask && job->mask[base + s] == 0) return -1;
    return s;
}

/* First row of the item, and the rows of its block, of a task. */
static int64_t block_of(const conv_job *job, int64_t task, int64_t *first, int64_t *end) {
    *first = task % job->blocks * ROWS;
    *end = pf_min(*first + ROWS, job->length);
    return task / job->blocks * job->length;
}

/* y (+)= a * b, overwriting when *first. */
static void add_product(const conv_job *job, bool *first, const float *a, const float *b,
                        float *y) {
    if (*first) {
        job->kern->binary(PF_BINARY_MUL, job->dim, a, 1, b, 1, y);
    } else {
        job->kern->fma(job->dim, a, b, y);
    }
    *first = false;
}

static void forward_task(void *context, int64_t task, void *scratch) {
    const conv_job *job = context;
    int64_t first, end, d = job->dim, base = block_of(job, task, &first, &end);
    (void)scratch;
    for (int64_t t = first; t < end; t++) {
        float *y = job->y + (base + t) * d;
        bool empty = true;
        for (int64_t j = 0; j < job->width; j++) {
            int64_t s = tap_row(job, base, t, j);
            if (s >= 0) add_product(job, &empty, job->weight + j * d, job->x + (base + s) * d, y);
        }
        if (empty) job->kern->fill(d, 0, y);
    }
}

/* Row s gathers from the rows whose taps read it. */
static void input_task(void *context, int64_t task, void *scratch) {
    const conv_job *job = context;
    int64_t first, end, d = job->dim, base = block_of(job, task, &first, &end);
    (void)scratch;
    for (int64_t s = first; s < end; s++) {
        float *dx = job->dx + (base + s) * d;
        bool empty = job->fresh;
        for (int64_t j = 0; j < job->width; j++) {
            int64_t t = s - job->centre + j;
            if (t < 0 || t >= job->length || tap_row(job, base, t, j) != s) continue;
            add_product(job, &empty, job->weight + j * d, job->dy + (base + t) * d, dx);
        }
        if (empty) job->kern->fill(d, 0, dx);
    }
}

static void weight_task(void *context, int64_t task, void *scratch) {
    const conv_job *job = context;
    int64_t first, end, d = job->dim, base = block_of(job, task, &first, &end);
    float *partial = job->partial + task * job->width * d;
    (void)scratch;
    job->kern->fill(job->width * d, 0, partial);
    for (int64_t t = first; t < end; t++) {
        for (int64_t j = 0; j < job->width; j++) {
            int64_t s = tap_row(job, base, t, j);
            if (s < 0) continue;
            job->kern->fma(d, job->dy + (base + t) * d, job->x + (base + s) * d, partial + j * d);
        }
    }
}

/* ---- the row ---- */

/* An optional (B, L) i32 input. */
static int check_flags(pf_call *c, int i) {
    const pf_tensor *x = c->in[0], *t = c->in[i];
    if (!t) return PF_OK;
    PF_TRY(pf_want(c, i, PF_I32));
    if (t->rank == 2 && t->shape[0] == x->shape[0] && t->shape[1] == x->shape[1]) return PF_OK;
    return pf_shape_fail(c, "%s must be (B, L)", pf_op_arg_name(c->op, i));
}

static int conv_shape(pf_call *c) {
    const pf_tensor *x = c->in[0], *w = c->in[1];
    PF_TRY(pf_want(c, 0, PF_F32));
    PF_TRY(pf_want(c, 1, PF_F32));
    if (x->rank != 3 || w->rank != 2 || w->shape[1] != x->shape[2]) {
        return pf_shape_fail(c, "x must be (B, L, D) and weight (W, D)");
    }
    if (w->shape[0] < 1 || w->shape[0] > MAX_WIDTH) {
        return pf_shape_fail(c, "the width W must be 1 to %d", MAX_WIDTH);
    }
    PF_TRY(check_flags(c, 2));
    PF_TRY(check_flags(c, 3));
    return pf_same_as(c, 0, 0);
}

static int open_job(pf_call *c, conv_job *job) {
    const pf_tensor *x = c->in[0];
    int64_t width = c->in[1]->shape[0];
    pf_tensor *in[4];
    for (int i = 0; i < PF_COUNT(in); i++) PF_TRY(pf_call_compact(c, c->in[i], &in[i]));
    *job = (conv_job){
        .kern = c->engine->kern,
        .length = x->shape[1],
        .dim = x->shape[2],
        .width = width,
        .blocks = pf_max(pf_ceil_div(x->shape[1], ROWS), 1),
        .centre = c->attr[0].i ? 0 : (width - 1) / 2,
        .x = pf_f32(in[0]),
        .weight = pf_f32(in[1]),
        .documents = in[2] ? pf_i32(in[2]) : NULL,
        .mask = in[3] ? pf_i32(in[3]) : NULL,
    };
    return PF_OK;
}

static int64_t task_count(const pf_call *c, const conv_job *job) {
    return pf_tensor_numel(c->in[0]) > 0 ? c->in[0]->shape[0] * job->blocks : 0;
}

static int conv_forward(pf_call *c) {
    conv_job job;
    PF_TRY(open_job(c, &job));
    job.y = pf_f32(c->out[0]);
    return pf_parallel(c->engine, task_count(c, &job), 0, forward_task, &job);
}

static int input_grad(pf_call *c, conv_job *job) {
    pf_tensor *dx;
    PF_TRY(pf_grad_fresh(c, 0, &job->fresh, &dx));
    job->dx = pf_f32(dx);
    return pf_parallel(c->engine, task_count(c, job), 0, input_task, job);
}

/* Every task sums its rows apart; the sums are then added in the order of the tasks. */
static int weight_grad(pf_call *c, conv_job *job) {
    pf_tensor *dw, *partial;
    int64_t tasks = task_count(c, job), n = job->width * job->dim;
    PF_TRY(pf_grad_slot(c, 1, &dw));
    PF_TRY(pf_call_make(c, PF_F32, 2, (int64_t[]){tasks, n}, &partial));
    job->partial = pf_f32(partial);
    PF_TRY(pf_parallel(c->engine, tasks, 0, weight_task, job));
    for (int64_t i = 0; i < tasks; i++) job->kern->axpy(n, 1, job->partial + i * n, pf_f32(dw));
    return PF_OK;
}

static int conv_backward(pf_call *c) {
    conv_job job;
    pf_tensor *dy;
    if (!c->dout[0]) return PF_OK;
    PF_TRY(open_job(c, &job));
    PF_TRY(pf_call_compact(c, c->dout[0], &dy));
    job.dy = pf_f32(dy);
    if (c->need[0]) PF_TRY(input_grad(c, &job));
    return c->need[1] ? weight_grad(c, &job) : PF_OK;
}

/* Taps are no matrix product: one costs some eight of those. */
static double conv_products(const pf_call *c) {
    return 8 * (double)pf_tensor_numel(c->in[0]) * (double)c->in[1]->shape[0];
}

static const pf_attr_info conv_attrs[] = {
    {.name = "causal",
     .kind = PF_ATTR_BOOL,
     .def = 1,
     .doc = "taps look back only; false: they are centred, one more back than ahead for even W"},
};

const pf_op pf_op_short_conv = {
    .name = "short_conv",
    .args = "x, weight, [documents], [mask]",
    .results = "y",
    .doc = "Depthwise convolution along the sequence: y[b, t] = sum over j < W of weight[j] * "
           "x[b, t - j], elementwise over D. x (B, L, D), weight (W, D) -> (B, L, D). A tap "
           "counts where documents (B, L) agree and mask (B, L) is not 0.",
    .min_in = 2,
    .max_in = 4,
    .n_out = 1,
    .uses = PF_USES_ALL_IN,
    .reads = {PF_USES_ALL_IN & ~PF_USES_IN(0), PF_USES_ALL_IN & ~PF_USES_IN(1)},
    .attrs = conv_attrs,
    .n_attrs = PF_COUNT(conv_attrs),
    .shape = conv_shape,
    .products = conv_products,
    .forward = conv_forward,
    .backward = conv_backward,
};
