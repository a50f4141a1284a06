/*
 * rounding.c - functions of one element that have no vector verbs of their own: signs, whole
 * numbers, bounds, inverses. All are exact or rounded once, so that every level of processor gives
 * the same bits. What must hold: NaN stays NaN, and has NaN for a gradient.
 */
#include <math.h>

#include "fold.h"
#include "each.h"

enum { SIGN, FLOOR, CEIL, ROUND, RECIPROCAL, RSQRT }; /* pf_op.of */

/* ---- values: g[i] = f(x[0][i]) -------------------------------------------------- */

/* 0 and NaN are their own sign. */
static void sign_piece(const void *context, int64_t n, const float *const *x, float *g) {
    (void)context;
    for (int64_t i = 0; i < n; i++) g[i] = x[0][i] > 0 ? 1.0f : x[0][i] < 0 ? -1.0f : x[0][i];
}

static void floor_piece(const void *context, int64_t n, const float *const *x, float *g) {
    (void)context;
    for (int64_t i = 0; i < n; i++) g[i] = floorf(x[0][i]);
}

static void ceil_piece(const void *context, int64_t n, const float *const *x, float *g) {
    (void)context;
    for (int64_t i = 0; i < n; i++) g[i] = ceilf(x[0][i]);
}

/* To the nearest, halves to even, whatever the caller's rounding mode is. */
static float nearest(float x) {
    const float low = floorf(x), over = x - low;
    if (over == 0.5f) return 2.0f * roundf(0.5f * x);
    return copysignf(over < 0.5f ? low : ceilf(x), x); /* NaN: ceilf(NaN) */
}

static void round_piece(const void *context, int64_t n, const float *const *x, float *g) {
    (void)context;
    for (int64_t i = 0; i < n; i++) g[i] = nearest(x[0][i]);
}

static void reciprocal_piece(const void *context, int64_t n, const float *const *x, float *g) {
    (void)context;
    for (int64_t i = 0; i < n; i++) g[i] = 1.0f / x[0][i];
}

/* Infinite at -0 as at 0. */
static void rsqrt_piece(const void *context, int64_t n, const float *const *x, float *g) {
    (void)context;
    for (int64_t i = 0; i < n; i++) g[i] = (float)(1.0 / sqrt((double)x[0][i] + 0.0));
}

/* ---- gradients: g[i] from (dy, y), in double where a part of it can overflow ------ */

static void flat_pull(const void *context, int64_t n, const float *const *x, float *g) {
    (void)context;
    for (int64_t i = 0; i < n; i++) g[i] = isnan(x[1][i]) ? x[1][i] : 0.0f;
}

static void reciprocal_pull(const void *context, int64_t n, const float *const *x, float *g) {
    (void)context;
    for (int64_t i = 0; i < n; i++) {
        const double y = (double)x[1][i];
        g[i] = (float)(-(double)x[0][i] * y * y);
    }
}

static void rsqrt_pull(const void *context, int64_t n, const float *const *x, float *g) {
    (void)context;
    for (int64_t i = 0; i < n; i++) {
        const double y = (double)x[1][i];
        g[i] = (float)(-0.5 * (double)x[0][i] * y * y * y);
    }
}

static const struct {
    pf_fold_fn value, pull;
} functions[] = {
    [SIGN] = {sign_piece, flat_pull},
    [FLOOR] = {floor_piece, flat_pull},
    [CEIL] = {ceil_piece, flat_pull},
    [ROUND] = {round_piece, flat_pull},
    [RECIPROCAL] = {reciprocal_piece, reciprocal_pull},
    [RSQRT] = {rsqrt_piece, rsqrt_pull},
};

/* ---- one call ----------------------------------------------------------------- */

static int point_shape(pf_call *c) {
    PF_TRY(pf_want(c, 0, PF_F32));
    return pf_same_as(c, 0, 0);
}

/* to (+)= f of the operands, shaped alike. */
static int map(pf_call *c, const pf_tensor *to, bool overwrite, const pf_tensor *first,
               const pf_tensor *second, pf_fold_fn f) {
    return pf_fold(&(pf_fold_job){
        .engine = c->engine,
        .to = to,
        .overwrite = overwrite,
        .rank = to->rank,
        .shape = to->shape,
        .n = second ? 2 : 1,
        .x = {first, second},
        .f = f,
        .context = c,
        .scale = 1,
    });
}

static int point_forward(pf_call *c) {
    return map(c, c->out[0], true, c->in[0], NULL, functions[c->op->of].value);
}

static int point_backward(pf_call *c) {
    if (!c->need[0]) return PF_OK;
    bool fresh;
    pf_tensor *dx;
    PF_TRY(pf_grad_fresh(c, 0, &fresh, &dx));
    return map(c, dx, fresh, c->dout[0], c->out[0], functions[c->op->of].pull);
}

/* ---- clamp -------------------------------------------------------------------- */

enum { LOW, HIGH }; /* attributes */

static const pf_attr_info clamp_attrs[] = {
    {.name = "min", .kind = PF_ATTR_FLOAT, .def = -INFINITY, .doc = "the least that y can be"},
    {.name = "max", .kind = PF_ATTR_FLOAT, .def = INFINITY, .doc = "the most that y can be"},
};

static int check_bound(const pf_call *c, int k) {
    const pf_dtype_row *row = pf_dtype_find(c->in[0]->dtype);
    const double bound = c->attr[k].f;
    if (isnan(bound))
        return pf_fail(PF_EINVAL, "clamp: %s is NaN, which bounds nothing", c->op->attrs[k].name);
    const bool none = bound == (k == LOW ? -INFINITY : INFINITY);
    if (none || !row->whole || pf_dtype_fits(row, bound, false)) return PF_OK;
    return pf_fail(PF_EINVAL,
                   "clamp: %s is %g, but x is %s: a bound must be a whole number of 32 bits",
                   c->op->attrs[k].name, bound, row->name);
}

static int clamp_shape(pf_call *c) {
    PF_TRY(check_bound(c, LOW));
    PF_TRY(check_bound(c, HIGH));
    if (c->attr[LOW].f > c->attr[HIGH].f)
        return pf_fail(PF_EINVAL, "clamp: min is %g and max is %g; min must not be above max",
                       c->attr[LOW].f, c->attr[HIGH].f);
    return pf_same_as(c, 0, 0);
}

static void clamp_piece(const void *context, int64_t n, const float *const *x, float *g) {
    const pf_call *c = context;
    const float low = (float)c->attr[LOW].f, high = (float)c->attr[HIGH].f;
    for (int64_t i = 0; i < n; i++) {
        const float least = x[0][i] < low ? low : x[0][i];
        g[i] = least > high ? high : least;
    }
}

/* Bounds are whole numbers of 32 bits, or infinite where no element is beyond them. */
static void clamp_i32(const void *context, const pf_run_at *r) {
    const pf_call *c = context;
    const double low = c->attr[LOW].f, high = c->attr[HIGH].f;
    int32_t *y = r->at[0];
    const int32_t *x = r->at[1];
    for (int64_t i = 0; i < r->n; i++) {
        const double a = x[i * r->step[1]];
        y[i * r->step[0]] = (int32_t)(a < low ? low : a > high ? high : a);
    }
}

static int clamp_forward(pf_call *c) {
    if (c->in[0]->dtype == PF_F32) return map(c, c->out[0], true, c->in[0], NULL, clamp_piece);
    const pf_tensor *operand[2] = {c->out[0], c->in[0]};
    return pf_each(c->engine, 2, operand, clamp_i32, c);
}

/* From (dy, x): 1 within the bounds and on them. */
static void clamp_pull(const void *context, int64_t n, const float *const *x, float *g) {
    const pf_call *c = context;
    const float low = (float)c->attr[LOW].f, high = (float)c->attr[HIGH].f;
    for (int64_t i = 0; i < n; i++) {
        const float a = x[1][i];
        g[i] = a >= low && a <= high ? x[0][i] : isnan(a) ? a : 0.0f;
    }
}

static int clamp_backward(pf_call *c) {
    if (!c->need[0]) return PF_OK;
    bool fresh;
    pf_tensor *dx;
    PF_TRY(pf_grad_fresh(c, 0, &fresh, &dx));
    return map(c, dx, fresh, c->dout[0], c->in[0], clamp_pull);
}

/* ---- rows --------------------------------------------------------------------- */

#define POINT(which)                                                                               \
    .args = "x", .results = "y", .min_in = 1, .max_in = 1, .n_out = 1, .uses = PF_USES_OUT(0),     \
    .of = (which), .shape = point_shape, .forward = point_forward, .backward = point_backward

#define FLAT " The gradient is 0 everywhere; y is shaped like x."

const pf_op pf_op_sign = {
    POINT(SIGN),
    .name = "sign",
    .doc = "y = 1 for x > 0, -1 for x < 0, and 0 at 0." FLAT,
};

const pf_op pf_op_floor = {
    POINT(FLOOR),
    .name = "floor",
    .doc = "y = the largest whole number that is not above x." FLAT,
};

const pf_op pf_op_ceil = {
    POINT(CEIL),
    .name = "ceil",
    .doc = "y = the smallest whole number that is not below x." FLAT,
};

const pf_op pf_op_round = {
    POINT(ROUND),
    .name = "round",
    .doc = "y = the whole number nearest to x, of two the even one." FLAT,
};

const pf_op pf_op_reciprocal = {
    POINT(RECIPROCAL),
    .name = "reciprocal",
    .doc = "y = 1 / x, infinite at 0; y is shaped like x.",
};

const pf_op pf_op_rsqrt = {
    POINT(RSQRT),
    .name = "rsqrt",
    .doc = "y = 1 / sqrt(x), infinite at 0 and NaN below; y is shaped like x.",
};

const pf_op pf_op_clamp = {
    .name = "clamp",
    .in_place = "clamp_",
    .args = "x",
    .results = "y",
    .doc = "y = x, but `min` where x is below it and `max` where x is above; each may be left out. "
           "f32, or i32 with whole bounds. NaN stays. The gradient is 1 within the bounds and on "
           "them, 0 beyond; y is shaped like x.",
    .min_in = 1,
    .max_in = 1,
    .n_out = 1,
    .uses = PF_USES_IN(0),
    .attrs = clamp_attrs,
    .n_attrs = PF_COUNT(clamp_attrs),
    .shape = clamp_shape,
    .forward = clamp_forward,
    .backward = clamp_backward,
};
