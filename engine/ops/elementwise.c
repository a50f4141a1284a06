/*
 * elementwise.c - ops of two inputs with numpy's broadcasting: dimensions are aligned from
 * the right, a size of 1 stretches. The gradient of a stretched input sums over what it was
 * stretched along, in a fixed order (fold.h).
 */
#include "fold.h"

#include <math.h>

typedef struct binary_job {
    const pf_kern *kern;
    pf_binary f;
    int input; /* backward: the input whose gradient is asked for */
} binary_job;

/* ---- forward ------------------------------------------------------------------ */

/* a and b of one dtype, shapes broadcast -> y. i32 where the op is exact on integers. */
static int binary_shape(pf_call *c, bool integers) {
    const pf_tensor *a = c->in[0], *b = c->in[1];
    int64_t shape[PF_MAX_RANK];
    int rank, axis;
    if (a->dtype != PF_F32 && !integers) PF_TRY(pf_want(c, 0, PF_F32));
    PF_TRY(pf_want(c, 1, a->dtype));
    if (pf_shape_broadcast(a->rank, a->shape, b->rank, b->shape, &rank, shape, &axis) < 0)
        return pf_shape_fail(c,
                             "dimension %d (from the end) disagrees; sizes must be equal or 1, "
                             "aligned from the right",
                             axis - (int)pf_max(a->rank, b->rank));
    return pf_set_shape(c, 0, a->dtype, rank, shape);
}

static int shape_any(pf_call *c) { return binary_shape(c, true); }
static int shape_f32(pf_call *c) { return binary_shape(c, false); }

static void apply_piece(const void *context, int64_t n, const float *const *x, float *g) {
    const binary_job *job = context;
    job->kern->binary(job->f, n, x[0], 1, x[1], 1, g);
}

/* Wraps around on overflow, as two's complement does. */
static int32_t apply_i32(pf_binary f, int32_t a, int32_t b) {
    const uint32_t ua = (uint32_t)a, ub = (uint32_t)b;
    switch (f) {
    case PF_BINARY_ADD:
        return (int32_t)(ua + ub);
    case PF_BINARY_SUB:
        return (int32_t)(ua - ub);
    case PF_BINARY_MUL:
        return (int32_t)(ua * ub);
    default:
        return a > b ? a : b;
    }
}

/* Index arithmetic on small tensors: one thread, element by element. */
static void forward_i32(pf_call *c, pf_binary f) {
    const pf_tensor *operand[3] = {c->out[0], c->in[0], c->in[1]};
    pf_iter it;
    pf_iter_make(&it, c->out[0]->rank, c->out[0]->shape, 3, operand);
    for (int64_t run = 0; run < it.outer; run++) {
        int64_t at[PF_ITER_MAX];
        pf_iter_at(&it, run, at);
        int32_t *y = pf_i32(c->out[0]) + at[0];
        const int32_t *a = pf_i32(c->in[0]) + at[1], *b = pf_i32(c->in[1]) + at[2];
        for (int64_t i = 0; i < it.inner; i++)
            y[i * it.inner_stride[0]] =
                apply_i32(f, a[i * it.inner_stride[1]], b[i * it.inner_stride[2]]);
    }
}

static int binary_forward(pf_call *c, pf_binary f) {
    const pf_tensor *y = c->out[0];
    if (y->dtype == PF_I32) {
        if (pf_tensor_numel(y) > 0) forward_i32(c, f);
        return PF_OK;
    }
    const binary_job job = {c->engine->kern, f, 0};
    return pf_fold(&(pf_fold_job){
        .engine = c->engine,
        .to = y,
        .overwrite = true,
        .rank = y->rank,
        .shape = y->shape,
        .n = 2,
        .x = {c->in[0], c->in[1]},
        .f = apply_piece,
        .context = &job,
        .scale = 1,
    });
}

static int add_forward(pf_call *c) { return binary_forward(c, PF_BINARY_ADD); }
static int sub_forward(pf_call *c) { return binary_forward(c, PF_BINARY_SUB); }
static int mul_forward(pf_call *c) { return binary_forward(c, PF_BINARY_MUL); }
static int div_forward(pf_call *c) { return binary_forward(c, PF_BINARY_DIV); }
static int pow_forward(pf_call *c) { return binary_forward(c, PF_BINARY_POW); }
static int maximum_forward(pf_call *c) { return binary_forward(c, PF_BINARY_MAX); }

/* ---- backward ----------------------------------------------------------------- */

/* Each gives g = dy * d f / d input, from x = (dy, a, b). */

static void mul_piece(const void *context, int64_t n, const float *const *x, float *g) {
    const binary_job *job = context;
    job->kern->binary(PF_BINARY_MUL, n, x[0], 1, x[job->input == 0 ? 2 : 1], 1, g);
}

static void div_piece(const void *context, int64_t n, const float *const *x, float *g) {
    const binary_job *job = context;
    if (job->input == 0) {
        job->kern->binary(PF_BINARY_DIV, n, x[0], 1, x[2], 1, g);
        return;
    }
    for (int64_t i = 0; i < n; i++) g[i] = -x[0][i] * (x[1][i] / x[2][i]) / x[2][i];
}

/* d/da = b a^(b-1), and 0 where b is 0; d/db = a^b log a, and 0 where a is 0 (a^b is
 * constant there for b > 0). */
static void pow_piece(const void *context, int64_t n, const float *const *x, float *g) {
    const binary_job *job = context;
    const float *dy = x[0], *a = x[1], *b = x[2];
    if (job->input == 0)
        for (int64_t i = 0; i < n; i++)
            g[i] = b[i] == 0.0f ? 0.0f : dy[i] * b[i] * powf(a[i], b[i] - 1.0f);
    else
        for (int64_t i = 0; i < n; i++)
            g[i] = a[i] == 0.0f && b[i] >= 0.0f ? 0.0f : dy[i] * powf(a[i], b[i]) * logf(a[i]);
}

/* Equal values share the gradient. */
static void maximum_piece(const void *context, int64_t n, const float *const *x, float *g) {
    const binary_job *job = context;
    const float *mine = x[job->input == 0 ? 1 : 2], *other = x[job->input == 0 ? 2 : 1];
    for (int64_t i = 0; i < n; i++)
        g[i] = mine[i] > other[i] ? x[0][i] : mine[i] == other[i] ? 0.5f * x[0][i] : 0.0f;
}

/* Gradients of the needed inputs; f NULL: dy itself, times scale[input]. */
static int binary_backward(pf_call *c, pf_fold_fn f, const double scale[2]) {
    const pf_tensor *dy = c->dout[0];
    for (int i = 0; i < 2; i++) {
        if (!c->need[i]) continue;
        if (!f && scale[i] == 1 && pf_same_shape(c->in[i], dy)) {
            PF_TRY(pf_grad_give(c, i, c->dout[0]));
            continue;
        }
        bool fresh;
        pf_tensor *slot;
        PF_TRY(pf_grad_fresh(c, i, &fresh, &slot));
        const binary_job job = {c->engine->kern, PF_BINARY_COUNT, i};
        PF_TRY(pf_fold(&(pf_fold_job){
            .engine = c->engine,
            .to = slot,
            .overwrite = fresh,
            .rank = dy->rank,
            .shape = dy->shape,
            .n = f ? 3 : 1,
            .x = {dy, c->in[0], c->in[1]},
            .f = f,
            .context = &job,
            .scale = scale[i],
        }));
    }
    return PF_OK;
}

static const double both_plus[2] = {1, 1}, plus_minus[2] = {1, -1};

static int add_backward(pf_call *c) { return binary_backward(c, NULL, both_plus); }
static int sub_backward(pf_call *c) { return binary_backward(c, NULL, plus_minus); }
static int mul_backward(pf_call *c) { return binary_backward(c, mul_piece, both_plus); }
static int div_backward(pf_call *c) { return binary_backward(c, div_piece, both_plus); }
static int pow_backward(pf_call *c) { return binary_backward(c, pow_piece, both_plus); }
static int maximum_backward(pf_call *c) { return binary_backward(c, maximum_piece, both_plus); }

/* ---- rows --------------------------------------------------------------------- */

#define BROADCAST " a and b broadcast: aligned from the right, a size of 1 stretches."

const pf_op pf_op_add = {
    .name = "add",
    .args = "a, b",
    .results = "y",
    .doc = "y = a + b." BROADCAST " f32, or both i32 (wraps around).",
    .min_in = 2,
    .max_in = 2,
    .n_out = 1,
    .shape = shape_any,
    .forward = add_forward,
    .backward = add_backward,
};

const pf_op pf_op_sub = {
    .name = "sub",
    .args = "a, b",
    .results = "y",
    .doc = "y = a - b." BROADCAST " f32, or both i32 (wraps around).",
    .min_in = 2,
    .max_in = 2,
    .n_out = 1,
    .shape = shape_any,
    .forward = sub_forward,
    .backward = sub_backward,
};

const pf_op pf_op_mul = {
    .name = "mul",
    .args = "a, b",
    .results = "y",
    .doc = "y = a * b, element by element." BROADCAST " f32, or both i32 (wraps around).",
    .min_in = 2,
    .max_in = 2,
    .n_out = 1,
    .uses = PF_USES_IN(0) | PF_USES_IN(1),
    .shape = shape_any,
    .forward = mul_forward,
    .backward = mul_backward,
};

const pf_op pf_op_div = {
    .name = "div",
    .args = "a, b",
    .results = "y",
    .doc = "y = a / b, element by element; dividing by 0 gives infinity or NaN." BROADCAST " f32.",
    .min_in = 2,
    .max_in = 2,
    .n_out = 1,
    .uses = PF_USES_IN(0) | PF_USES_IN(1),
    .shape = shape_f32,
    .forward = div_forward,
    .backward = div_backward,
};

const pf_op pf_op_pow = {
    .name = "pow",
    .args = "a, b",
    .results = "y",
    .doc = "y = a ^ b, element by element; NaN for a negative a and a broken b. The gradient "
           "for b is 0 where a is 0." BROADCAST " f32.",
    .min_in = 2,
    .max_in = 2,
    .n_out = 1,
    .uses = PF_USES_IN(0) | PF_USES_IN(1),
    .shape = shape_f32,
    .forward = pow_forward,
    .backward = pow_backward,
};

const pf_op pf_op_maximum = {
    .name = "maximum",
    .args = "a, b",
    .results = "y",
    .doc = "y = the larger of a and b, element by element; equal values share the gradient, "
           "NaN wins." BROADCAST " f32, or both i32.",
    .min_in = 2,
    .max_in = 2,
    .n_out = 1,
    .uses = PF_USES_IN(0) | PF_USES_IN(1),
    .shape = shape_any,
    .forward = maximum_forward,
    .backward = maximum_backward,
};
