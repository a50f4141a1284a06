/*
 * swiglu.c - the gate of a gated feed-forward: silu(gate) * value, in pieces that stay in
 * the first cache, so that silu(gate) is never stored.
 */
#include "kern.h"
#include "op.h"

enum { PIECE = 512, GRAIN = 16384 };

typedef struct {
    const pf_kern *kern;
    const float *gate, *value, *dy;
    float *y, *dgate, *dvalue;
    bool fresh_gate, fresh_value;
} swiglu_job;

/* gate, value of one shape */
static int swiglu_shape(pf_call *c) {
    PF_TRY(pf_want(c, 0, PF_F32));
    PF_TRY(pf_want(c, 1, PF_F32));
    if (!pf_same_shape(c->in[0], c->in[1])) return pf_shape_fail(c, "they must be of one shape");
    return pf_same_as(c, 0, 0);
}

static void forward_range(void *context, int64_t first, int64_t last) {
    const swiglu_job *job = context;
    float silu[PIECE];
    for (int64_t i = first; i < last; i += PIECE) {
        int64_t n = pf_min(PIECE, last - i);
        job->kern->unary(PF_UNARY_SILU, n, job->gate + i, silu);
        job->kern->binary(PF_BINARY_MUL, n, silu, 1, job->value + i, 1, job->y + i);
    }
}

/* dgate += dy * value * silu'(gate) */
static void grad_gate(const swiglu_job *job, int64_t i, int64_t n, const float *silu) {
    float pulled[PIECE];
    if (job->fresh_gate) job->kern->fill(n, 0.0f, job->dgate + i);
    job->kern->binary(PF_BINARY_MUL, n, job->dy + i, 1, job->value + i, 1, pulled);
    job->kern->unary_grad(PF_UNARY_SILU, n, job->gate + i, silu, pulled, job->dgate + i);
}

static void backward_range(void *context, int64_t first, int64_t last) {
    const swiglu_job *job = context;
    float silu[PIECE];
    for (int64_t i = first; i < last; i += PIECE) {
        int64_t n = pf_min(PIECE, last - i);
        job->kern->unary(PF_UNARY_SILU, n, job->gate + i, silu);
        if (job->dgate) grad_gate(job, i, n, silu);
        if (!job->dvalue) continue;
        if (job->fresh_value)
            job->kern->binary(PF_BINARY_MUL, n, job->dy + i, 1, silu, 1, job->dvalue + i);
        else
            job->kern->fma(n, job->dy + i, silu, job->dvalue + i);
    }
}

static int swiglu_forward(pf_call *c) {
    pf_tensor *gate, *value;
    PF_TRY(pf_call_compact(c, c->in[0], &gate));
    PF_TRY(pf_call_compact(c, c->in[1], &value));
    swiglu_job job = {.kern = c->engine->kern,
                      .gate = pf_f32(gate),
                      .value = pf_f32(value),
                      .y = pf_f32(c->out[0])};
    return pf_parallel_range(c->engine, pf_tensor_numel(gate), GRAIN, forward_range, &job);
}

static int swiglu_backward(pf_call *c) {
    pf_tensor *gate, *value, *dy, *slot;
    PF_TRY(pf_call_compact(c, c->in[0], &gate));
    PF_TRY(pf_call_compact(c, c->in[1], &value));
    PF_TRY(pf_call_compact(c, c->dout[0], &dy));
    swiglu_job job = {
        .kern = c->engine->kern, .gate = pf_f32(gate), .value = pf_f32(value), .dy = pf_f32(dy)};
    if (c->need[0]) {
        PF_TRY(pf_grad_fresh(c, 0, &job.fresh_gate, &slot));
        job.dgate = pf_f32(slot);
    }
    if (c->need[1]) {
        PF_TRY(pf_grad_fresh(c, 1, &job.fresh_value, &slot));
        job.dvalue = pf_f32(slot);
    }
    return pf_parallel_range(c->engine, pf_tensor_numel(gate), GRAIN, backward_range, &job);
}

const pf_op pf_op_swiglu = {
    .name = "swiglu",
    .args = "gate, value",
    .results = "y",
    .doc = "y = silu(gate) * value, silu(x) = x / (1 + exp(-x)); gate and value of one shape "
           "(Shazeer 2020).",
    .min_in = 2,
    .max_in = 2,
    .n_out = 1,
    .uses = PF_USES_IN(0) | PF_USES_IN(1),
    .reads = {0, PF_USES_IN(0)},
    .shape = swiglu_shape,
    .forward = swiglu_forward,
    .backward = swiglu_backward,
};
