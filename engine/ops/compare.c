/*
 * compare.c - questions about elements: comparisons, logic, NaN and infinity. The answer is i32, 1
 * for yes and 0 for no, and has no gradient; whatever else than 0 stands for yes where a condition
 * is read. A comparison with NaN is no, but `ne`, as IEEE 754 has it.
 */
#include <math.h>

#include "each.h"

enum { EQ, NE, LT, LE, GT, GE, AND, OR, XOR, NOT, IS_NAN, IS_INF, IS_FINITE }; /* pf_op.of */

/* ---- loops -------------------------------------------------------------------- */

PF_EACH_2(eq_f32, int32_t, float, a == b)
PF_EACH_2(ne_f32, int32_t, float, a != b)
PF_EACH_2(lt_f32, int32_t, float, a < b)
PF_EACH_2(le_f32, int32_t, float, a <= b)
PF_EACH_2(gt_f32, int32_t, float, a > b)
PF_EACH_2(ge_f32, int32_t, float, a >= b)
PF_EACH_2(eq_i32, int32_t, int32_t, a == b)
PF_EACH_2(ne_i32, int32_t, int32_t, a != b)
PF_EACH_2(lt_i32, int32_t, int32_t, a < b)
PF_EACH_2(le_i32, int32_t, int32_t, a <= b)
PF_EACH_2(gt_i32, int32_t, int32_t, a > b)
PF_EACH_2(ge_i32, int32_t, int32_t, a >= b)
PF_EACH_2(and_i32, int32_t, int32_t, (a != 0) & (b != 0))
PF_EACH_2(or_i32, int32_t, int32_t, (a != 0) | (b != 0))
PF_EACH_2(xor_i32, int32_t, int32_t, (a != 0) ^ (b != 0))
PF_EACH_1(not_i32, int32_t, int32_t, a == 0)
PF_EACH_1(is_nan_f32, int32_t, float, a != a)
PF_EACH_1(is_inf_f32, int32_t, float, fabsf(a) == INFINITY)
PF_EACH_1(is_finite_f32, int32_t, float, fabsf(a) < INFINITY)

/* By the inputs' dtype; NULL: refused. */
static const struct {
    pf_each_fn f32, i32;
} loops[] = {
    [EQ] = {eq_f32, eq_i32},
    [NE] = {ne_f32, ne_i32},
    [LT] = {lt_f32, lt_i32},
    [LE] = {le_f32, le_i32},
    [GT] = {gt_f32, gt_i32},
    [GE] = {ge_f32, ge_i32},
    [AND] = {NULL, and_i32},
    [OR] = {NULL, or_i32},
    [XOR] = {NULL, xor_i32},
    [NOT] = {NULL, not_i32},
    [IS_NAN] = {is_nan_f32, NULL},
    [IS_INF] = {is_inf_f32, NULL},
    [IS_FINITE] = {is_finite_f32, NULL},
};

/* ---- one call ----------------------------------------------------------------- */

static int question_shape(pf_call *c) {
    int which = c->op->of;
    pf_dtype dtype = c->in[0]->dtype;
    if (!loops[which].f32 && dtype == PF_F32)
        return pf_fail(
            PF_EDTYPE, "%s: %s %s is f32, must be i32; a comparison, as ne(%s, 0), makes one of it",
            c->op->name, pf_op_arg_name(c->op, 0), pf_shape_of(c->in[0]), pf_op_arg_name(c->op, 0));
    if (!loops[which].i32) PF_TRY(pf_want(c, 0, PF_F32));
    if (c->n_in > 1) PF_TRY(pf_want_alike(c, 0, 1));
    return pf_broadcast_shape(c, PF_I32, 0, c->n_in);
}

static int question_forward(pf_call *c) {
    const pf_tensor *operand[3] = {c->out[0], c->in[0], c->in[1]};
    bool f32 = c->in[0]->dtype == PF_F32;
    pf_each_fn fn = f32 ? loops[c->op->of].f32 : loops[c->op->of].i32;
    return pf_each(c->engine, c->n_in + 1, operand, fn, NULL);
}

/* ---- rows --------------------------------------------------------------------- */

#define YES_NO  "y (i32) = 1 where "
#define ALIKE   " and 0 elsewhere; a and b of one dtype, f32 or i32, broadcast. "
#define LOGIC   " and 0 elsewhere; a and b i32, broadcast. Not differentiable."
#define NO_GRAD "Not differentiable."

#define QUESTION(which, names, n)                                                                  \
    .args = (names), .results = "y", .min_in = (n), .max_in = (n), .n_out = 1,                     \
    .flags = PF_OP_NO_GRAD, .of = (which), .shape = question_shape, .forward = question_forward

const pf_op pf_op_eq = {
    QUESTION(EQ, "a, b", 2),
    .name = "eq",
    .doc = YES_NO "a equals b" ALIKE "NaN equals nothing. " NO_GRAD,
};

const pf_op pf_op_ne = {
    QUESTION(NE, "a, b", 2),
    .name = "ne",
    .doc = YES_NO "a does not equal b" ALIKE "NaN equals nothing, so the answer is 1. " NO_GRAD,
};

const pf_op pf_op_lt = {
    QUESTION(LT, "a, b", 2),
    .name = "lt",
    .doc = YES_NO "a < b" ALIKE "0 where one is NaN. " NO_GRAD,
};

const pf_op pf_op_le = {
    QUESTION(LE, "a, b", 2),
    .name = "le",
    .doc = YES_NO "a <= b" ALIKE "0 where one is NaN. " NO_GRAD,
};

const pf_op pf_op_gt = {
    QUESTION(GT, "a, b", 2),
    .name = "gt",
    .doc = YES_NO "a > b" ALIKE "0 where one is NaN. " NO_GRAD,
};

const pf_op pf_op_ge = {
    QUESTION(GE, "a, b", 2),
    .name = "ge",
    .doc = YES_NO "a >= b" ALIKE "0 where one is NaN. " NO_GRAD,
};

const pf_op pf_op_logical_and = {
    QUESTION(AND, "a, b", 2),
    .name = "logical_and",
    .doc = YES_NO "neither a nor b is 0" LOGIC,
};

const pf_op pf_op_logical_or = {
    QUESTION(OR, "a, b", 2),
    .name = "logical_or",
    .doc = YES_NO "a or b is not 0" LOGIC,
};

const pf_op pf_op_logical_xor = {
    QUESTION(XOR, "a, b", 2),
    .name = "logical_xor",
    .doc = YES_NO "one of a and b is 0 and the other not" LOGIC,
};

const pf_op pf_op_logical_not = {
    QUESTION(NOT, "x", 1),
    .name = "logical_not",
    .doc = YES_NO "x (i32) is 0, and 0 elsewhere. " NO_GRAD,
};

const pf_op pf_op_isnan = {
    QUESTION(IS_NAN, "x", 1),
    .name = "isnan",
    .doc = YES_NO "x is NaN, and 0 elsewhere; y is shaped like x. " NO_GRAD,
};

const pf_op pf_op_isinf = {
    QUESTION(IS_INF, "x", 1),
    .name = "isinf",
    .doc = YES_NO "x is infinite, of either sign, and 0 elsewhere; y is shaped like x. " NO_GRAD,
};

const pf_op pf_op_isfinite = {
    QUESTION(IS_FINITE, "x", 1),
    .name = "isfinite",
    .doc = YES_NO "x is neither NaN nor infinite, and 0 elsewhere; y is shaped like x. " NO_GRAD,
};
