/*
 * unary.c - functions of one element: one forward and one backward for the whole family,
 * over the kernels of the same names. `uses` says which of x and y the derivative is
 * written in; the other one is not kept, and the kernel gets the kept one in its place.
 */
#include "fold.h"

typedef struct unary_job {
    const pf_kern *kern;
    pf_unary f;
} unary_job;

/* x (...) -> the same shape. */
static int unary_shape(pf_call *c) {
    PF_TRY(pf_want(c, 0, PF_F32));
    return pf_same_as(c, 0, 0);
}

static void apply_piece(const void *context, int64_t n, const float *const *x, float *g) {
    const unary_job *job = context;
    job->kern->unary(job->f, n, x[0], g);
}

static int map(pf_call *c, const pf_tensor *to, bool overwrite, const pf_fold_job *operands,
               pf_fold_fn f, const void *context, double scale) {
    pf_fold_job job = *operands;
    job.engine = c->engine;
    job.to = to;
    job.overwrite = overwrite;
    job.rank = to->rank;
    job.shape = to->shape;
    job.f = f;
    job.context = context;
    job.scale = scale;
    return pf_fold(&job);
}

static int unary_forward(pf_call *c) {
    const unary_job job = {c->engine->kern, c->op->of};
    const pf_fold_job x = {.n = 1, .x = {c->in[0]}};
    return map(c, c->out[0], true, &x, apply_piece, &job, 1);
}

/* g = dy f'(x) from (dy, x or y, y or x). */
static void pull_piece(const void *context, int64_t n, const float *const *x, float *g) {
    const unary_job *job = context;
    job->kern->fill(n, 0.0f, g);
    job->kern->unary_grad(job->f, n, x[1], x[2], x[0], g);
}

static int unary_backward(pf_call *c) {
    if (!c->need[0]) return PF_OK;
    const unary_job job = {c->engine->kern, c->op->of};
    const pf_tensor *dy = c->dout[0];
    const pf_tensor *x = c->op->uses & PF_USES_IN(0) ? c->in[0] : NULL;
    const pf_tensor *y = c->op->uses & PF_USES_OUT(0) ? c->out[0] : NULL;
    if (!x) x = y ? y : dy;
    if (!y) y = x;
    bool fresh;
    pf_tensor *dx;
    PF_TRY(pf_grad_fresh(c, 0, &fresh, &dx));
    const pf_fold_job operands = {.n = 3, .x = {dy, x, y}};
    return map(c, dx, fresh, &operands, pull_piece, &job, 1);
}

/* ---- affine ------------------------------------------------------------------- */

static void affine_piece(const void *context, int64_t n, const float *const *x, float *g) {
    const pf_call *c = context;
    c->engine->kern->affine(n, (float)c->attr[0].f, (float)c->attr[1].f, x[0], g);
}

static int affine_forward(pf_call *c) {
    const pf_fold_job x = {.n = 1, .x = {c->in[0]}};
    return map(c, c->out[0], true, &x, affine_piece, c, 1);
}

static int affine_backward(pf_call *c) {
    if (!c->need[0]) return PF_OK;
    if (c->attr[0].f == 1) return pf_grad_give(c, 0, c->dout[0]);
    bool fresh;
    pf_tensor *dx;
    PF_TRY(pf_grad_fresh(c, 0, &fresh, &dx));
    return pf_add_into(c->engine, dx, fresh, c->dout[0], c->attr[0].f);
}

static const pf_attr_info affine_attrs[] = {
    {.name = "scale", .kind = PF_ATTR_FLOAT, .def = 1, .doc = "factor"},
    {.name = "shift", .kind = PF_ATTR_FLOAT, .def = 0, .doc = "added after"},
};

const pf_op pf_op_affine = {
    .name = "affine",
    .args = "x",
    .results = "y",
    .doc = "y = scale x + shift, with two numbers; y is shaped like x.",
    .min_in = 1,
    .max_in = 1,
    .n_out = 1,
    .attrs = affine_attrs,
    .n_attrs = PF_COUNT(affine_attrs),
    .shape = unary_shape,
    .forward = affine_forward,
    .backward = affine_backward,
};

/* ---- the family --------------------------------------------------------------- */

/* What the rows share. */
#define UNARY(f)                                                                                   \
    .args = "x", .results = "y", .min_in = 1, .max_in = 1, .n_out = 1, .of = (f),                  \
    .shape = unary_shape, .forward = unary_forward, .backward = unary_backward

const pf_op pf_op_neg = {
    UNARY(PF_UNARY_NEG),
    .name = "neg",
    .doc = "y = -x; y is shaped like x.",
};

const pf_op pf_op_exp = {
    UNARY(PF_UNARY_EXP),
    .name = "exp",
    .uses = PF_USES_OUT(0),
    .doc = "y = exp(x); y is shaped like x.",
};

const pf_op pf_op_log = {
    UNARY(PF_UNARY_LOG),
    .name = "log",
    .uses = PF_USES_IN(0),
    .doc = "y = log(x), natural; -inf at 0, NaN below; y is shaped like x.",
};

const pf_op pf_op_sqrt = {
    UNARY(PF_UNARY_SQRT),
    .name = "sqrt",
    .uses = PF_USES_OUT(0),
    .doc = "y = the square root of x; NaN below 0, an infinite gradient at 0; y is "
           "shaped like x.",
};

const pf_op pf_op_square = {
    UNARY(PF_UNARY_SQUARE),
    .name = "square",
    .uses = PF_USES_IN(0),
    .doc = "y = x^2; y is shaped like x.",
};

const pf_op pf_op_tanh = {
    UNARY(PF_UNARY_TANH),
    .name = "tanh",
    .uses = PF_USES_OUT(0),
    .doc = "y = tanh(x); y is shaped like x.",
};

const pf_op pf_op_sigmoid = {
    UNARY(PF_UNARY_SIGMOID),
    .name = "sigmoid",
    .uses = PF_USES_OUT(0),
    .doc = "y = 1 / (1 + exp(-x)); y is shaped like x.",
};

const pf_op pf_op_relu = {
    UNARY(PF_UNARY_RELU),
    .name = "relu",
    .uses = PF_USES_OUT(0),
    .doc = "y = max(x, 0); the gradient at 0 is 0; y is shaped like x.",
};

const pf_op pf_op_requ = {
    UNARY(PF_UNARY_REQU),
    .name = "requ",
    .uses = PF_USES_IN(0),
    .doc = "y = max(x, 0)^2; y is shaped like x.",
};

const pf_op pf_op_gelu = {
    UNARY(PF_UNARY_GELU),
    .name = "gelu",
    .uses = PF_USES_IN(0),
    .doc = "y = x P(x), with P the normal distribution function: x (1 + erf(x / sqrt "
           "2)) / 2; y is shaped like x.",
};

const pf_op pf_op_gelu_tanh = {
    UNARY(PF_UNARY_GELU_TANH),
    .name = "gelu_tanh",
    .uses = PF_USES_IN(0),
    .doc = "y = x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2, the approximation "
           "of gelu in GPT-2; y is shaped like x.",
};

const pf_op pf_op_silu = {
    UNARY(PF_UNARY_SILU),
    .name = "silu",
    .uses = PF_USES_IN(0),
    .doc = "y = x sigmoid(x); y is shaped like x.",
};

const pf_op pf_op_elu = {
    UNARY(PF_UNARY_ELU),
    .name = "elu",
    .uses = PF_USES_OUT(0),
    .doc = "y = x for x > 0, else exp(x) - 1; y is shaped like x.",
};

const pf_op pf_op_abs = {
    UNARY(PF_UNARY_ABS),
    .name = "abs",
    .uses = PF_USES_IN(0),
    .doc = "y = |x|; the gradient at 0 is 0; y is shaped like x.",
};

const pf_op pf_op_cos = {
    UNARY(PF_UNARY_COS),
    .name = "cos",
    .uses = PF_USES_IN(0),
    .doc = "y = cos(x), x in radians; y is shaped like x.",
};

const pf_op pf_op_sin = {
    UNARY(PF_UNARY_SIN),
    .name = "sin",
    .uses = PF_USES_IN(0),
    .doc = "y = sin(x), x in radians; y is shaped like x.",
};
