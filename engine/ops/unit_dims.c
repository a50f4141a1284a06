/*
 * unit_dims.c - dimensions of size 1 put in, taken out and stretched: unsqueeze, squeeze, expand,
 * and stack, which puts one in and joins. Views of the same storage, but for stack.
 */
#include "fold.h"

/* Any dtype; what moves is not looked at. */

/* Hands `view`, which it takes over, on as the gradient of input i. */
static int give(pf_call *c, int i, pf_tensor *view) {
    PF_TRY(pf_call_hold(c, view));
    return pf_grad_give(c, i, view);
}

/* *out = a view of t that has the dimensions of the set bits alone. */
static int with_dims(pf_tensor **out, const pf_tensor *t, unsigned kept) {
    int rank = 0;
    PF_TRY(pf_tensor_view(out, t));
    for (int d = 0; d < t->rank; d++) {
        if (!(kept >> d & 1)) continue;
        (*out)->shape[rank] = t->shape[d];
        (*out)->stride[rank++] = t->stride[d];
    }
    (*out)->rank = rank;
    return PF_OK;
}

/* *out = a view of t with dimensions of size 1 where bits of the result's dimensions are set. */
static int with_units(pf_tensor **out, const pf_tensor *t, int rank, unsigned units) {
    PF_TRY(pf_tensor_view(out, t));
    (*out)->rank = rank;
    for (int d = 0, from = 0; d < rank; d++) {
        bool unit = units >> d & 1;
        (*out)->shape[d] = unit ? 1 : t->shape[from];
        (*out)->stride[d] = unit ? 1 : t->stride[from];
        if (!unit) from++;
    }
    return PF_OK;
}

/* The place of a new dimension before one of `rank`, or behind them all. */
static int gap(const pf_call *c, int rank, int *dim) {
    int64_t given = c->attr[0].i, at = given < 0 ? given + rank + 1 : given;
    *dim = 0; /* a compiler can't know that a failure is below 0 */
    if (at < 0 || at > rank)
        return pf_shape_fail(c, "a new dimension can stand at %s to %s, or %d to -1, not at %s",
                             pf_place_dim(0), pf_place_dim(rank), -rank - 1, pf_place_dim(given));
    *dim = (int)at;
    return PF_OK;
}

static const pf_attr_info gap_attrs[] = {
    {.name = "dim",
     .kind = PF_ATTR_NEW_DIM,
     .required = true,
     .doc = "which of the result's dimensions is the new one"},
};

/* ---- unsqueeze ------------------------------------------------------------------ */

static int unsqueeze_shape(pf_call *c) {
    const pf_tensor *x = c->in[0];
    int64_t shape[PF_MAX_RANK + 1];
    int dim;
    PF_TRY(gap(c, x->rank, &dim));
    for (int d = 0; d <= x->rank; d++) shape[d] = d == dim ? 1 : x->shape[d < dim ? d : d - 1];
    return pf_set_shape(c, 0, x->dtype, x->rank + 1, shape);
}

static int unsqueeze_forward(pf_call *c) {
    int dim;
    PF_TRY(gap(c, c->in[0]->rank, &dim));
    return with_units(&c->out[0], c->in[0], c->in[0]->rank + 1, 1u << dim);
}

static int unsqueeze_backward(pf_call *c) {
    pf_tensor *dx;
    int dim;
    if (!c->need[0]) return PF_OK;
    PF_TRY(gap(c, c->in[0]->rank, &dim));
    PF_TRY(with_dims(&dx, c->dout[0], ~(1u << dim)));
    return give(c, 0, dx);
}

const pf_op pf_op_unsqueeze = {
    .name = "unsqueeze",
    .args = "x",
    .results = "y",
    .doc = "y is a view of x with one more dimension, of size 1, that is its `dim`. Any dtype.",
    .min_in = 1,
    .max_in = 1,
    .n_out = 1,
    .flags = PF_OP_OWN_OUTPUTS | PF_OP_PICKS,
    .attrs = gap_attrs,
    .n_attrs = PF_COUNT(gap_attrs),
    .shape = unsqueeze_shape,
    .forward = unsqueeze_forward,
    .backward = unsqueeze_backward,
};

/* ---- squeeze -------------------------------------------------------------------- */

/* The dimensions that go, as bits: the named ones, which must have size 1, or all of size 1. */
static int squeezed(const pf_call *c, unsigned *units) {
    const pf_tensor *x = c->in[0];
    const pf_attr *named = &c->attr[0];
    *units = 0;
    for (int d = 0; named->n == 0 && d < x->rank; d++) *units |= (unsigned)(x->shape[d] == 1) << d;
    for (int i = 0; i < named->n; i++) {
        int64_t given = named->list[i];
        int dim;
        PF_TRY(
            pf_dim((int)pf_max(INT32_MIN, pf_min(given, INT32_MAX)), x->rank, c->op->name, &dim));
        if (x->shape[dim] != 1)
            return pf_shape_fail(c, "dimension %s has %lld elements, not 1", pf_place_dim(dim),
                                 (long long)x->shape[dim]);
        *units |= 1u << dim;
    }
    return PF_OK;
}

static int squeeze_shape(pf_call *c) {
    const pf_tensor *x = c->in[0];
    int64_t shape[PF_MAX_RANK];
    unsigned units;
    int rank = 0;
    PF_TRY(squeezed(c, &units));
    for (int d = 0; d < x->rank; d++)
        if (!(units >> d & 1)) shape[rank++] = x->shape[d];
    return pf_set_shape(c, 0, x->dtype, rank, shape);
}

static int squeeze_forward(pf_call *c) {
    unsigned units;
    PF_TRY(squeezed(c, &units));
    return with_dims(&c->out[0], c->in[0], ~units);
}

static int squeeze_backward(pf_call *c) {
    pf_tensor *dx;
    unsigned units;
    if (!c->need[0]) return PF_OK;
    PF_TRY(squeezed(c, &units));
    PF_TRY(with_units(&dx, c->dout[0], c->in[0]->rank, units));
    return give(c, 0, dx);
}

static const pf_attr_info squeeze_attrs[] = {
    {.name = "dims",
     .kind = PF_ATTR_DIMS,
     .doc = "the dimensions, of size 1; not given: all that have size 1"},
};

const pf_op pf_op_squeeze = {
    .name = "squeeze",
    .args = "x",
    .results = "y",
    .doc = "y is a view of x without `dims`, each of size 1; not given: without all dimensions of "
           "size 1. Any dtype.",
    .min_in = 1,
    .max_in = 1,
    .n_out = 1,
    .flags = PF_OP_OWN_OUTPUTS | PF_OP_PICKS,
    .attrs = squeeze_attrs,
    .n_attrs = PF_COUNT(squeeze_attrs),
    .shape = squeeze_shape,
    .forward = squeeze_forward,
    .backward = squeeze_backward,
};

/* ---- expand --------------------------------------------------------------------- */

/* Sizes of x, aligned from the right, stay or stretch from 1; -1 says that one stays. */
static int expand_shape(pf_call *c) {
    const pf_tensor *x = c->in[0];
    const pf_attr *wanted = &c->attr[0];
    int64_t shape[PF_MAX_RANK];
    int more = wanted->n - x->rank;
    if (more < 0)
        return pf_shape_fail(c, "%s has fewer dimensions", pf_shape_text(wanted->n, wanted->list));
    for (int d = 0; d < wanted->n; d++) {
        bool stays = wanted->list[d] == -1 && d >= more;
        shape[d] = stays ? x->shape[d - more] : wanted->list[d];
        if (shape[d] < 0) return pf_shape_fail(c, "a new dimension has a size of at least 0");
        if (d < more || shape[d] == x->shape[d - more] || x->shape[d - more] == 1) continue;
        return pf_shape_fail(c, "a size of %lld does not stretch to %lld in %s",
                             (long long)x->shape[d - more], (long long)shape[d],
                             pf_shape_text(wanted->n, wanted->list));
    }
    return pf_set_shape(c, 0, x->dtype, wanted->n, shape);
}

static int expand_forward(pf_call *c) {
    const pf_tensor *x = c->in[0];
    const pf_shape *s = &c->shape[0];
    PF_TRY(pf_tensor_view(&c->out[0], x));
    pf_tensor *y = c->out[0];
    y->rank = s->rank;
    for (int d = 0; d < s->rank; d++) {
        int own = d - (s->rank - x->rank);
        bool same = own >= 0 && s->dim[d] == x->shape[own];
        y->shape[d] = s->dim[d];
        y->stride[d] = same ? x->stride[own] : 0;
    }
    return PF_OK;
}

static int expand_backward(pf_call *c) {
    const pf_tensor *dy = c->dout[0];
    pf_tensor *dx;
    bool fresh;
    if (!c->need[0]) return PF_OK;
    if (pf_same_shape(c->in[0], dy)) return pf_grad_give(c, 0, c->dout[0]);
    PF_TRY(pf_grad_fresh(c, 0, &fresh, &dx));
    return pf_fold(&(pf_fold_job){
        .engine = c->engine,
        .to = dx,
        .overwrite = fresh,
        .rank = dy->rank,
        .shape = dy->shape,
        .n = 1,
        .x = {dy},
        .scale = 1,
    });
}

static const pf_attr_info expand_attrs[] = {
    {.name = "shape",
     .kind = PF_ATTR_INTS,
     .required = true,
     .doc = "the new sizes, aligned from the right; -1: as it is"},
};

const pf_op pf_op_expand = {
    .name = "expand",
    .args = "x",
    .results = "y",
    .doc = "y is a view of x whose dimensions of size 1, and new ones before the first, repeat the "
           "same numbers as often as `shape` says. It is only read: a detached copy has numbers of "
           "its own. The gradient sums over what was repeated. Any dtype.",
    .min_in = 1,
    .max_in = 1,
    .n_out = 1,
    .flags = PF_OP_OWN_OUTPUTS | PF_OP_PICKS,
    .attrs = expand_attrs,
    .n_attrs = PF_COUNT(expand_attrs),
    .shape = expand_shape,
    .forward = expand_forward,
    .backward = expand_backward,
};

/* ---- stack ---------------------------------------------------------------------- */

static int stack_shape(pf_call *c) {
    const pf_tensor *first = c->in[0];
    int64_t shape[PF_MAX_RANK + 1];
    int dim;
    PF_TRY(gap(c, first->rank, &dim));
    for (int i = 1; i < c->n_in; i++) {
        PF_TRY(pf_want(c, i, first->dtype));
        if (!pf_same_shape(c->in[i], first))
            return pf_shape_fail(c, "%s differs from the first in its shape",
                                 pf_op_arg_name(c->op, i));
    }
    for (int d = 0; d <= first->rank; d++)
        shape[d] = d == dim ? c->n_in : first->shape[d < dim ? d : d - 1];
    return pf_set_shape(c, 0, first->dtype, first->rank + 1, shape);
}

/* *out = a view of t at place i of dimension dim, without it. */
static int at_place(pf_tensor **out, const pf_tensor *t, int dim, int64_t i) {
    PF_TRY(with_dims(out, t, ~(1u << dim)));
    if (pf_tensor_numel(*out) > 0) (*out)->offset += i * t->stride[dim];
    return PF_OK;
}

static int stack_forward(pf_call *c) {
    int dim;
    PF_TRY(gap(c, c->in[0]->rank, &dim));
    for (int i = 0; i < c->n_in; i++) {
        pf_tensor *part;
        PF_TRY(at_place(&part, c->out[0], dim, i));
        PF_TRY(pf_call_hold(c, part));
        if (part->dtype == PF_F32)
            PF_TRY(pf_add_into(c->engine, part, true, c->in[i], 1));
        else
            PF_TRY(pf_tensor_copy(part, c->in[i]));
    }
    return PF_OK;
}

static int stack_backward(pf_call *c) {
    int dim;
    PF_TRY(gap(c, c->dout[0]->rank - 1, &dim));
    for (int i = 0; i < c->n_in; i++) {
        pf_tensor *part;
        if (!c->need[i]) continue;
        PF_TRY(at_place(&part, c->dout[0], dim, i));
        PF_TRY(give(c, i, part));
    }
    return PF_OK;
}

static const pf_attr_info stack_attrs[] = {
    {.name = "dim",
     .kind = PF_ATTR_NEW_DIM,
     .def = 0,
     .doc = "which of the result's dimensions is the new one"},
};

const pf_op pf_op_stack = {
    .name = "stack",
    .args = "tensors",
    .results = "y",
    .doc = "y has the inputs, all of one shape and dtype, side by side along a new dimension, its "
           "`dim`. Any dtype.",
    .min_in = 1,
    .max_in = PF_MAX_IN,
    .n_out = 1,
    .flags = PF_OP_VARIADIC,
    .attrs = stack_attrs,
    .n_attrs = PF_COUNT(stack_attrs),
    .shape = stack_shape,
    .forward = stack_forward,
    .backward = stack_backward,
};
