/*
 * elementwise.c - ops of two inputs with numpy's broadcasting: dimensions are aligned from
 * the right, a size of 1 stretches. The gradient of a stretched input sums over what it was
 * stretched along, in a fixed order (fold.h).
 */
#include <math.h>

#include "fold.h"
#include "each.h"

/* pf_op.of: a function of the kernels, or one of these. */
enum { FLOOR_DIVIDE = PF_BINARY_COUNT, REMAINDER, FUNCTIONS };

typedef struct binary_job {
    const pf_kern *kern;
    int f;
    int input; /* backward: the input whose gradient is asked for */
} binary_job;

/* ---- forward ------------------------------------------------------------------ */

/* a and b of one dtype, shapes broadcast -> y. i32 where the op is exact on integers. */
static int binary_shape(pf_call *c) {
    const pf_op *op = c->op;
    bool integers = op->of != PF_BINARY_DIV && op->of != PF_BINARY_POW;
    PF_TRY(pf_want_alike(c, 0, 1));
    if (!integers && c->in[0]->dtype != PF_F32)
        return pf_fail(PF_EDTYPE, "%s: %s %s is i32, must be f32; cast makes it so%s", op->name,
                       pf_op_arg_name(op, 0), pf_shape_of(c->in[0]),
                       op->of == PF_BINARY_DIV ? ", floor_divide divides whole numbers" : "");
    return pf_broadcast_shape(c, c->in[0]->dtype, 0, 2);
}

/* The largest whole number not above a / b: in double, where the quotient of two floats does not
 * become whole by rounding. */
static double floor_of(float a, float b) { return floor((double)a / (double)b); }

/* a - floor(a / b) b, exact but for the last addition; it has the sign of b, as Lua's. */
static float remainder_of(float a, float b) {
    float m = fmodf(a, b);
    return (m > 0 ? b < 0 : m < 0 && b > 0) ? m + b : m;
}

static void apply_piece(const void *context, int64_t n, const float *const *x, float *g) {
    const binary_job *job = context;
    if (job->f < PF_BINARY_COUNT)
        job->kern->binary((pf_binary)job->f, n, x[0], 1, x[1], 1, g);
    else if (job->f == FLOOR_DIVIDE)
        for (int64_t i = 0; i < n; i++) g[i] = (float)floor_of(x[0][i], x[1][i]);
    else
        for (int64_t i = 0; i < n; i++) g[i] = remainder_of(x[0][i], x[1][i]);
}

/* ---- whole numbers: they wrap around on overflow, as two's complement does -------- */

static uint32_t bits(int32_t a) { return (uint32_t)a; }
PF_EACH_2(add_i32, int32_t, int32_t, (int32_t)(bits(a) + bits(b)))
PF_EACH_2(sub_i32, int32_t, int32_t, (int32_t)(bits(a) - bits(b)))
PF_EACH_2(mul_i32, int32_t, int32_t, (int32_t)(bits(a) * bits(b)))
PF_EACH_2(max_i32, int32_t, int32_t, a > b ? a : b)
PF_EACH_2(min_i32, int32_t, int32_t, a < b ? a : b)

/* Of the quotient cut toward zero; b is not 0. In 64 bits, where the least by -1 has one. */
static int64_t floor_i64(int64_t a, int64_t b) {
    return a / b - (a % b != 0 && (a < 0) != (b < 0));
}
PF_EACH_2(floor_i32, int32_t, int32_t, (int32_t)(uint32_t)floor_i64(a, b))
PF_EACH_2(remainder_i32, int32_t, int32_t, (int32_t)((int64_t)a - floor_i64(a, b) * b))

static const pf_each_fn whole[FUNCTIONS] = {
    [PF_BINARY_ADD] = add_i32,   [PF_BINARY_SUB] = sub_i32, [PF_BINARY_MUL] = mul_i32,
    [PF_BINARY_MAX] = max_i32,   [PF_BINARY_MIN] = min_i32, [FLOOR_DIVIDE] = floor_i32,
    [REMAINDER] = remainder_i32,
};

/* What divides whole numbers is not 0. */
static int check_divisor(const pf_call *c) {
    const pf_tensor *b = c->in[1];
    if (c->op->of < FLOOR_DIVIDE || pf_tensor_numel(c->out[0]) == 0) return PF_OK;
    pf_iter it;
    pf_iter_make(&it, b->rank, b->shape, 1, &b);
    for (int64_t run = 0; run < it.outer; run++) {
        int64_t at[PF_ITER_MAX];
        pf_iter_at(&it, run, at);
        for (int64_t i = 0; i < it.inner; i++)
            if (pf_i32(b)[at[0] + i * it.inner_stride[0]] == 0)
                return pf_fail(PF_EINVAL,
                               "%s: b %s has a 0, and no whole number is what i32 divided by 0 "
                               "gives",
                               c->op->name, pf_shape_of(b));
    }
    return PF_OK;
}

static int binary_forward(pf_call *c) {
    const pf_tensor *y = c->out[0];
    if (y->dtype == PF_I32) {
        PF_TRY(check_divisor(c));
        const pf_tensor *operand[3] = {y, c->in[0], c->in[1]};
        return pf_each(c->engine, 3, operand, whole[c->op->of], NULL);
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
static void extreme_piece(const void *context, int64_t n, const float *const *x, float *g) {
    const binary_job *job = context;
    bool first = (job->input == 0) == (job->f == PF_BINARY_MAX);
    const float *mine = x[first ? 1 : 2], *other = x[first ? 2 : 1];
    for (int64_t i = 0; i < n; i++)
        g[i] = mine[i] > other[i]    ? x[0][i]
               : mine[i] == other[i] ? 0.5f * x[0][i]
               : mine[i] < other[i]  ? 0.0f
                                     : NAN;
}

/* Where the quotient is NaN, so is the gradient. */
static void floor_divide_piece(const void *context, int64_t n, const float *const *x, float *g) {
    (void)context;
    for (int64_t i = 0; i < n; i++) {
        double q = (double)x[1][i] / (double)x[2][i];
        g[i] = isnan(q) ? NAN : 0.0f;
    }
}

/* d/da = 1, d/db = -floor(a / b) */
static void remainder_piece(const void *context, int64_t n, const float *const *x, float *g) {
    const binary_job *job = context;
    for (int64_t i = 0; i < n; i++) {
        double dy = (double)x[0][i];
        g[i] = (float)(job->input == 0 ? dy : -dy * floor_of(x[1][i], x[2][i]));
    }
}

/* The gradient of each function: f NULL is dy itself, times scale[input]. */
static const struct {
    pf_fold_fn f;
    double scale[2];
} pulls[FUNCTIONS] = {
    [PF_BINARY_ADD] = {NULL, {1, 1}},          [PF_BINARY_SUB] = {NULL, {1, -1}},
    [PF_BINARY_MUL] = {mul_piece, {1, 1}},     [PF_BINARY_DIV] = {div_piece, {1, 1}},
    [PF_BINARY_POW] = {pow_piece, {1, 1}},     [PF_BINARY_MAX] = {extreme_piece, {1, 1}},
    [PF_BINARY_MIN] = {extreme_piece, {1, 1}}, [FLOOR_DIVIDE] = {floor_divide_piece, {1, 1}},
    [REMAINDER] = {remainder_piece, {1, 1}},
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
    .in_place = "add_",
    .doc = "y = a + b." BROADCAST " f32, or both i32 (wraps around).",
};

const pf_op pf_op_sub = {
    BINARY(PF_BINARY_SUB),
    .name = "sub",
    .in_place = "sub_",
    .doc = "y = a - b." BROADCAST " f32, or both i32 (wraps around).",
};

const pf_op pf_op_mul = {
    BINARY(PF_BINARY_MUL),
    .name = "mul",
    .in_place = "mul_",
    .uses = PF_USES_IN(0) | PF_USES_IN(1),
    .reads = {PF_USES_IN(1), PF_USES_IN(0)},
    .doc = "y = a * b, element by element." BROADCAST " f32, or both i32 (wraps around).",
};

const pf_op pf_op_div = {
    BINARY(PF_BINARY_DIV),
    .name = "div",
    .in_place = "div_",
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

const pf_op pf_op_minimum = {
    BINARY(PF_BINARY_MIN),
    .name = "minimum",
    .uses = PF_USES_IN(0) | PF_USES_IN(1),
    .doc = "y = the smaller of a and b, element by element; equal values share the gradient, "
           "NaN wins, and both gradients are NaN." BROADCAST " f32, or both i32.",
};

const pf_op pf_op_floor_divide = {
    BINARY(FLOOR_DIVIDE),
    .name = "floor_divide",
    .uses = PF_USES_IN(0) | PF_USES_IN(1),
    .doc =
        "y = the largest whole number not above a / b, element by element; the gradient is "
        "0." BROADCAST " f32, or both i32: then a 0 in b is refused, and -2147483648 by -1 wraps "
        "around.",
};

const pf_op pf_op_remainder = {
    BINARY(REMAINDER),
    .name = "remainder",
    .uses = PF_USES_IN(0) | PF_USES_IN(1),
    .doc =
        "y = a - floor(a / b) b, element by element, of the sign of b; of f32 by 0 NaN." BROADCAST
        " f32, or both i32: then a 0 in b is refused.",
};
