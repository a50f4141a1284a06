/*
 * glu.c - gated linear units (Dauphin et al. 2017, Shazeer 2020): f(gate) * value, in pieces that
 * stay in the first cache, so that f(gate) is never stored. Which f a row's `of` says.
 */
#include "kern.h"
#include "op.h"

enum { PIECE = 512, GRAIN = 16384 };

typedef struct {
    const pf_kern *kern;
    pf_unary f;
    const float *gate, *value, *dy;
    float *y, *dgate, *dvalue;
    bool fresh_gate, fresh_value;
} glu_job;

/* gate, value of one shape */
static int glu_shape(pf_call *c) {
    PF_TRY(pf_want(c, 0, PF_F32));
    PF_TRY(pf_want(c, 1, PF_F32));
    if (!pf_same_shape(c->in[0], c->in[1])) return pf_shape_fail(c, "they must be of one shape");
    return pf_same_as(c, 0, 0);
}

static void forward_range(void *context, int64_t first, int64_t last) {
    const glu_job *job = context;
    float open[PIECE];
    for (int64_t i = first; i < last; i += PIECE) {
        int64_t n = pf_min(PIECE, last - i);
        job->kern->unary(job->f, n, job->gate + i, open);
        job->kern->binary(PF_BINARY_MUL, n, open, 1, job->value + i, 1, job->y + i);
    }
}

/* dgate += dy * value * f'(gate) */
static void grad_gate(const glu_job *job, int64_t i, int64_t n, const float *open) {
    float pulled[PIECE];
    if (job->fresh_gate) job->kern->fill(n, 0.0f, job->dgate + i);
    job->kern->binary(PF_BINARY_MUL, n, job->dy + i, 1, job->value + i, 1, pulled);
    job->kern->unary_grad(job->f, n, job->gate + i, open, pulled, job->dgate + i);
}

static void backward_range(void *context, int64_t first, int64_t last) {
    const glu_job *job = context;
    float open[PIECE];
    for (int64_t i = first; i < last; i += PIECE) {
        int64_t n = pf_min(PIECE, last - i);
        job->kern->unary(job->f, n, job->gate + i, open);
        if (job->dgate) grad_gate(job, i, n, open);
        if (!job->dvalue) continue;
        if (job->fresh_value)
            job->kern->binary(PF_BINARY_MUL, n, job->dy + i, 1, open, 1, job->dvalue + i);
        else
            job->kern->fma(n, job->dy + i, open, job->dvalue + i);
    }
}

static int glu_forward(pf_call *c) {
    pf_tensor *gate, *value;
    PF_TRY(pf_call_compact(c, c->in[0], &gate));
    PF_TRY(pf_call_compact(c, c->in[1], &value));
    glu_job job = {.kern = c->engine->kern,
                   .f = (pf_unary)c->op->of,
                   .gate = pf_f32(gate),
                   .value = pf_f32(value),
                   .y = pf_f32(c->out[0])};
    return pf_parallel_range(c->engine, pf_tensor_numel(gate), GRAIN, forward_range, &job);
}

static int glu_backward(pf_call *c) {
    pf_tensor *gate, *value, *dy, *slot;
    PF_TRY(pf_call_compact(c, c->in[0], &gate));
    PF_TRY(pf_call_compact(c, c->in[1], &value));
    PF_TRY(pf_call_compact(c, c->dout[0], &dy));
    glu_job job = {.kern = c->engine->kern,
                   .f = (pf_unary)c->op->of,
                   .gate = pf_f32(gate),
                   .value = pf_f32(value),
                   .dy = pf_f32(dy)};
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

#define GLU(f)                                                                                     \
    .args = "gate, value", .results = "y", .min_in = 2, .max_in = 2, .n_out = 1,                   \
    .uses = PF_USES_IN(0) | PF_USES_IN(1), .reads = {0, PF_USES_IN(0)}, .of = (f),                 \
    .shape = glu_shape, .forward = glu_forward, .backward = glu_backward

const pf_op pf_op_swiglu = {
    GLU(PF_UNARY_SILU),
    .name = "swiglu",
    .doc = "y = silu(gate) * value, silu(x) = x / (1 + exp(-x)); gate and value of one shape "
           "(Shazeer 2020).",
};

const pf_op pf_op_geglu = {
    GLU(PF_UNARY_GELU),
    .name = "geglu",
    .doc = "y = gelu(gate) * value; gate and value of one shape (Shazeer 2020).",
};

const pf_op pf_op_geglu_tanh = {
    GLU(PF_UNARY_GELU_TANH),
    .name = "geglu_tanh",
    .doc = "y = gelu_tanh(gate) * value; gate and value of one shape (Gemma's).",
};

const pf_op pf_op_reglu = {
    GLU(PF_UNARY_RELU),
    .name = "reglu",
    .doc = "y = max(gate, 0) * value; gate and value of one shape (Shazeer 2020).",
};

const pf_op pf_op_glu = {
    GLU(PF_UNARY_SIGMOID),
    .name = "glu",
    .doc = "y = sigmoid(gate) * value; gate and value of one shape (Dauphin et al. 2017).",
};
