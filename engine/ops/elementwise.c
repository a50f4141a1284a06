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
static int binary_shape(pf_call *c) {
    const pf_tensor *a = c->in[0], *b = c->in[1];
    bool integers = c->op->of != PF_BINARY_DIV && c->op->of != PF_BINARY_POW;
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

static void apply_piece(const void *context, int64_t n, const float *const *x, float *g) {
    const binary_job *job = context;
    job->kern->binary(job->f, n, x[0], 1, x[1], 1, g);
}

/* Wraps around on overflow, as two's complement does. */
static int32_t apply_i32(pf_binary f, int32_t a, int32_t b) {
    uint32_t ua = (uint32_t)a, ub = (uint32_t)b;
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

static int binary_forward(pf_call *c) {
    const pf_tensor *y = c->out[0];
    if (y->dtype == PF_I32) {
        if (pf_tensor_numel(y) > 0) forward_i32(c, c->op->of);
        return PF_OK;
    }
    const binary_job job = {c->engine->kern, c->op->of, 0};
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
    for (int64_t i = 0; i < n; i++) { /* -dy a / b^2: in double no part of it overflows */
        double b = (double)x[2][i];
        g[i] = (float)(-(double)x[0][i] * ((double)x[1][i] / b) / b);
    }
}

/* a^b log a; 0 where a is 0, as a^b is constant there for b > 0, and where a^b sinks to 0. */
static double pow_slope(double a, double b) {
    double y = pow(a, b);
    if ((a == 0 && b >= 0) || (y == 0 && a > 0)) return 0;
    return y * log(a);
}

/* d/da = b a^(b-1), and 0 where b is 0; d/db = a^b log a. In double no part of it overflows. */
static void pow_piece(const void *context, int64_t n, const float *const *x, float *g) {
    const binary_job *job = context;
    for (int64_t i = 0; i < n; i++) {
        double dy = (double)x[0][i], a = (double)x[1][i], b = (double)x[2][i];
        if (job->input == 1)
            g[i] = (float)(dy * pow_slope(a, b));
        else
            g[i] = b == 0 ? 0.0f : (float)(dy * b * pow(a, b - 1));
    }
}

/* Equal values share the gradient; where one is NaN the value is, and both gradients. */
static void maximum_piece(const void *context, int64_t n, const float *const *x, float *g) {
    const binary_job *job = context;
    const float *mine = x[job->input == 0 ? 1 : 2], *other = x[job->input == 0 ? 2 : 1];
    for (int64_t i = 0; i < n; i++)
        g[i] = mine[i] > other[i]    ? x[0][i]
               : mine[i] == other[i] ? 0.5f * x[0][i]
               : mine[i] < other[i]  ? 0.0f
                                     : NAN;
}

/* The gradient of each function: f NULL is dy itself, times scale[input]. */
static const struct {
    pf_fold_fn f;
    double scale[2];
} pulls[PF_BINARY_COUNT] = {
    [PF_BINARY_ADD] = {NULL, {1, 1}},      [PF_BINARY_SUB] = {NULL, {1, -1}},
    [PF_BINARY_MUL] = {mul_piece, {1, 1}}, [PF_BINARY_DIV] = {div_piece, {1, 1}},
    [PF_BINARY_POW] = {pow_piece, {1, 1}}, [PF_BINARY_MAX] = {maximum_piece, {1, 1}},
};

static int binary_backward(pf_call *c) {
    const pf_tensor *dy = c->dout[0];
    pf_fold_fn f = pulls[c->op->of].f;
    for (int i = 0; i < 2; i++) {
        double scale = pulls[c->op->of].scale[i];
        if (!c->need[i]) continue;
        if (!f && scale == 1 && pf_same_shape(c->in[i], dy)) {
            PF_TRY(pf_grad_give(c, i, c->dout[0]));
            continue;
        }
        bool fresh;
        pf_tensor *slot;
        PF_TRY(pf_grad_fresh(c, i, &fresh, &slot));
        const binary_job job = {c->engine->kern, c->op->of, i};
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
            .scale = scale,
        }));
    }
    return PF_OK;
}

/* ---- rows --------------------------------------------------------------------- */

#define BROADCAST " a and b broadcast: aligned from the right, a size of 1 stretches."

/* What the rows share. */
#define BINARY(which)                                                                              \
    .args = "a, b", .results = "y", .min_in = 2, .max_in = 2, .n_out = 1, .of = (which),           \
    .shape = binary_shape, .forward = binary_forward, .backward = binary_backward

const pf_op pf_op_add = {
    BINARY(PF_BINARY_ADD),
    .name = "add",
    .doc = "y = a + b." BROADCAST " f32, or both i32 (wraps around).",
};

const pf_op pf_op_sub = {
    BINARY(PF_BINARY_SUB),
    .name = "sub",
    .doc = "y = a - b." BROADCAST " f32, or both i32 (wraps around).",
};

const pf_op pf_op_mul = {
    BINARY(PF_BINARY_MUL),
    .name = "mul",
    .uses = PF_USES_IN(0) | PF_USES_IN(1),
    .reads = {PF_USES_IN(1), PF_USES_IN(0)},
    .doc = "y = a * b, element by element." BROADCAST " f32, or both i32 (wraps around).",
};

const pf_op pf_op_div = {
    BINARY(PF_BINARY_DIV),
    .name = "div",
    .uses = PF_USES_IN(0) | PF_USES_IN(1),
    .reads = {PF_USES_IN(1)},
    .doc = "y = a / b, element by element; dividing by 0 gives infinity or NaN." BROADCAST " f32.",
};

const pf_op pf_op_pow = {
    BINARY(PF_BINARY_POW),
    .name = "pow",
    .uses = PF_USES_IN(0) | PF_USES_IN(1),
    .doc = "y = a ^ b, element by element; NaN for a negative a and a broken b. The gradient "
           "for b is 0 where a is 0." BROADCAST " f32.",
};

const pf_op pf_op_maximum = {
    BINARY(PF_BINARY_MAX),
    .name = "maximum",
    .uses = PF_USES_IN(0) | PF_USES_IN(1),
    .doc = "y = the larger of a and b, element by element; equal values share the gradient, "
           "NaN wins, and both gradients are NaN." BROADCAST " f32, or both i32.",
};
