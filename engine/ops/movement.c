/*
 * movement.c - ops that move no number: views of the same storage wherever strides allow.
 * Their gradients are views of the output's gradient, handed over as they are.
 */
#include "fold.h"

/* Any dtype; what moves is not looked at. */

/* ---- reshape ------------------------------------------------------------------ */

/* Reads the target shape; one -1 stands for what is left. */
static int reshape_target(const pf_call *c, int64_t *shape) {
    const pf_attr *wanted = &c->attr[0];
    int64_t total = pf_tensor_numel(c->in[0]);
    int64_t known = 1;
    int open = -1;
    for (int d = 0; d < wanted->n; d++) {
        shape[d] = wanted->list[d];
        if (shape[d] < -1)
            return pf_shape_fail(c, "a size must be -1 or at least 0, not %lld",
                                 (long long)shape[d]);
        if (shape[d] == -1 && open >= 0) return pf_shape_fail(c, "only one size may be -1");
        if (shape[d] == -1)
            open = d;
        else if (__builtin_mul_overflow(known, shape[d], &known))
            return pf_shape_fail(c, "the new sizes are too large");
    }
    if (open >= 0) {
        if (known == 0 || total % known != 0)
            return pf_shape_fail(c, "%lld elements don't fill %s", (long long)total,
                                 pf_shape_text(wanted->n, wanted->list));
        shape[open] = total / known;
    } else if (known != total) {
        return pf_shape_fail(c, "%lld elements don't fill %s, which has %lld", (long long)total,
                             pf_shape_text(wanted->n, wanted->list), (long long)known);
    }
    return PF_OK;
}

static int reshape_shape(pf_call *c) {
    int64_t shape[PF_MAX_RANK];
    PF_TRY(reshape_target(c, shape));
    return pf_set_shape(c, 0, c->in[0]->dtype, c->attr[0].n, shape);
}

/* Strides under which `t` looks like `shape` without a copy; false when there are none.
 * Groups of t's dimensions that step evenly are cut anew, from the last to the first. */
static bool view_strides(const pf_tensor *t, int rank, const int64_t *shape, int64_t *stride) {
    int to = rank - 1;
    int64_t group = 1, filled = 1; /* elements of the group, and how many are placed */
    int64_t step = 1;
    if (pf_tensor_numel(t) == 0) {
        pf_shape_strides(rank, shape, stride);
        return true;
    }
    for (int d = t->rank - 1; d >= 0; d--) {
        if (group == 1) step = t->shape[d] == 1 ? step : t->stride[d];
        group *= t->shape[d];
        if (d > 0 && (t->shape[d - 1] == 1 || t->stride[d - 1] == group * step)) continue;
        for (; to >= 0 && (filled < group || shape[to] == 1); to--) {
            stride[to] = filled * step;
            filled *= shape[to];
        }
        if (filled != group) return false;
        group = filled = 1;
    }
    for (; to >= 0; to--) stride[to] = 1; /* sizes of 1 in front */
    return true;
}

/* *out = t seen as `shape`: a view, of a contiguous copy where strides don't allow another. */
static int reshaped(pf_call *c, const pf_tensor *t, int rank, const int64_t *shape,
                    pf_tensor **out) {
    int64_t stride[PF_MAX_RANK];
    pf_tensor *from = NULL;
    bool fits = view_strides(t, rank, shape, stride);
    if (!fits) {
        PF_TRY(pf_call_compact(c, t, &from));
        pf_shape_strides(rank, shape, stride);
    }
    PF_TRY(pf_tensor_view(out, fits ? t : from));
    (*out)->rank = rank;
    for (int d = 0; d < rank; d++) {
        (*out)->shape[d] = shape[d];
        (*out)->stride[d] = stride[d];
    }
    return PF_OK;
}

static int reshape_forward(pf_call *c) {
    return reshaped(c, c->in[0], c->shape[0].rank, c->shape[0].dim, &c->out[0]);
}

/* Hands `view`, which it takes over, on as the gradient of input i. */
static int give(pf_call *c, int i, pf_tensor *view) {
    PF_TRY(pf_call_hold(c, view));
    return pf_grad_give(c, i, view);
}

static int reshape_backward(pf_call *c) {
    pf_tensor *dx;
    if (!c->need[0]) return PF_OK;
    PF_TRY(reshaped(c, c->dout[0], c->in[0]->rank, c->in[0]->shape, &dx));
    return give(c, 0, dx);
}

static const pf_attr_info reshape_attrs[] = {
    {.name = "shape",
     .kind = PF_ATTR_INTS,
     .required = true,
     .doc = "the new sizes; one may be -1: what is left"},
};

const pf_op pf_op_reshape = {
    .name = "reshape",
    .args = "x",
    .results = "y",
    .doc = "y holds the elements of x in row-major order under the sizes `shape`. A view of x "
           "where its strides allow, else a copy. Any dtype.",
    .min_in = 1,
    .max_in = 1,
    .n_out = 1,
    .flags = PF_OP_OWN_OUTPUTS | PF_OP_PICKS,
    .attrs = reshape_attrs,
    .n_attrs = PF_COUNT(reshape_attrs),
    .shape = reshape_shape,
    .forward = reshape_forward,
    .backward = reshape_backward,
};

/* ---- transpose and permute ---------------------------------------------------- */

/* *out = a view of t whose dimension d is t's order[d]. */
static int permuted(pf_tensor **out, const pf_tensor *t, const int *order) {
    PF_TRY(pf_tensor_view(out, t));
    for (int d = 0; d < t->rank; d++) {
        (*out)->shape[d] = t->shape[order[d]];
        (*out)->stride[d] = t->stride[order[d]];
    }
    return PF_OK;
}

static int transpose_order(const pf_call *c, int *order) {
    int rank = c->in[0]->rank;
    int a, b;
    PF_TRY(pf_dim((int)c->attr[0].i, rank, c->op->name, &a));
    PF_TRY(pf_dim((int)c->attr[1].i, rank, c->op->name, &b));
    for (int d = 0; d < rank; d++) order[d] = d;
    order[a] = b;
    order[b] = a;
    return PF_OK;
}

static int permute_order(const pf_call *c, int *order) {
    int rank = c->in[0]->rank;
    const pf_attr *wanted = &c->attr[0];
    bool seen[PF_MAX_RANK] = {false};
    if (wanted->n != rank)
        return pf_shape_fail(c, "the order must name all %d dimensions, it names %d", rank,
                             wanted->n);
    for (int d = 0; d < rank; d++) {
        int64_t dim = wanted->list[d];
        if (dim < -rank || dim >= rank)
            return pf_shape_fail(c, "there is no dimension %s (%s to %s)", pf_place_dim(dim),
                                 pf_place_dim(-rank), pf_place_dim(rank - 1));
        order[d] = (int)(dim < 0 ? dim + rank : dim);
        if (seen[order[d]])
            return pf_shape_fail(c, "dimension %s stands twice in the order",
                                 pf_place_dim(order[d]));
        seen[order[d]] = true;
    }
    return PF_OK;
}

enum { TRANSPOSE, PERMUTE }; /* pf_op.of */

/* Dimension d of the result is dimension order[d] of x. */
static int order_of(const pf_call *c, int *order) {
    return c->op->of == TRANSPOSE ? transpose_order(c, order) : permute_order(c, order);
}

static int order_shape(pf_call *c) {
    const pf_tensor *x = c->in[0];
    int order[PF_MAX_RANK];
    int64_t shape[PF_MAX_RANK];
    PF_TRY(order_of(c, order));
    for (int d = 0; d < x->rank; d++) shape[d] = x->shape[order[d]];
    return pf_set_shape(c, 0, x->dtype, x->rank, shape);
}

static int order_forward(pf_call *c) {
    int order[PF_MAX_RANK];
    PF_TRY(order_of(c, order));
    return permuted(&c->out[0], c->in[0], order);
}

static int order_backward(pf_call *c) {
    int order[PF_MAX_RANK], back[PF_MAX_RANK] = {0};
    pf_tensor *dx;
    if (!c->need[0]) return PF_OK;
    PF_TRY(order_of(c, order));
    for (int d = 0; d < c->in[0]->rank; d++) back[order[d]] = d;
    PF_TRY(permuted(&dx, c->dout[0], back));
    return give(c, 0, dx);
}

static const pf_attr_info transpose_attrs[] = {
    {.name = "a", .kind = PF_ATTR_DIM, .def = -2, .doc = "one dimension"},
    {.name = "b", .kind = PF_ATTR_DIM, .def = -1, .doc = "the one it changes places with"},
};

const pf_op pf_op_transpose = {
    .name = "transpose",
    .of = TRANSPOSE,
    .args = "x",
    .results = "y",
    .doc = "y is a view of x with the dimensions `a` and `b` swapped; the last two when not "
           "given. Any dtype.",
    .min_in = 1,
    .max_in = 1,
    .n_out = 1,
    .flags = PF_OP_OWN_OUTPUTS | PF_OP_PICKS,
    .attrs = transpose_attrs,
    .n_attrs = PF_COUNT(transpose_attrs),
    .shape = order_shape,
    .forward = order_forward,
    .backward = order_backward,
};

static const pf_attr_info permute_attrs[] = {
    {.name = "order",
     .kind = PF_ATTR_DIMS,
     .required = true,
     .doc = "all dimensions of x, in the order they have in y"},
};

const pf_op pf_op_permute = {
    .name = "permute",
    .of = PERMUTE,
    .args = "x",
    .results = "y",
    .doc = "y is a view of x whose dimensions stand in the given order. Any dtype.",
    .min_in = 1,
    .max_in = 1,
    .n_out = 1,
    .flags = PF_OP_OWN_OUTPUTS | PF_OP_PICKS,
    .attrs = permute_attrs,
    .n_attrs = PF_COUNT(permute_attrs),
    .shape = order_shape,
    .forward = order_forward,
    .backward = order_backward,
};

/* ---- slice -------------------------------------------------------------------- */

/* The half-open range [first, end) along dim. */
typedef struct range {
    int dim;
    int64_t first, end;
} range;

static int slice_range(const pf_call *c, range *r) {
    const pf_tensor *x = c->in[0];
    PF_TRY(pf_dim((int)c->attr[0].i, x->rank, c->op->name, &r->dim));
    int64_t size = x->shape[r->dim];
    r->first = c->attr[1].i < 0 ? c->attr[1].i + size : c->attr[1].i;
    r->end = c->attr[2].i < 0 ? c->attr[2].i + size : c->attr[2].i;
    if (c->attr[2].i == PF_INDEX_END) r->end = size;
    if (r->first < 0 || r->first > r->end || r->end > size)
        return pf_shape_fail(c,
                             "the range [%lld, %lld) (from 0, end excluded) does not lie in "
                             "dimension %d (from the end) of size %lld",
                             (long long)c->attr[1].i, (long long)r->end, r->dim - x->rank,
                             (long long)size);
    return PF_OK;
}

/* *out = a view of t's part [first, end) along dim. */
static int sliced(pf_tensor **out, const pf_tensor *t, const range *r) {
    PF_TRY(pf_tensor_view(out, t));
    (*out)->shape[r->dim] = r->end - r->first;
    /* A part without elements may lie anywhere; staying put keeps the offset inside. */
    if (r->end > r->first) (*out)->offset += r->first * t->stride[r->dim];
    return PF_OK;
}

static int slice_shape(pf_call *c) {
    range r;
    int64_t shape[PF_MAX_RANK];
    PF_TRY(slice_range(c, &r));
    for (int d = 0; d < c->in[0]->rank; d++) shape[d] = c->in[0]->shape[d];
    shape[r.dim] = r.end - r.first;
    return pf_set_shape(c, 0, c->in[0]->dtype, c->in[0]->rank, shape);
}

static int slice_forward(pf_call *c) {
    range r;
    PF_TRY(slice_range(c, &r));
    return sliced(&c->out[0], c->in[0], &r);
}

static int slice_backward(pf_call *c) {
    range r;
    pf_tensor *slot, *part;
    if (!c->need[0]) return PF_OK;
    PF_TRY(slice_range(c, &r));
    PF_TRY(pf_grad_slot(c, 0, &slot));
    PF_TRY(sliced(&part, slot, &r));
    PF_TRY(pf_call_hold(c, part));
    return pf_add_into(c->engine, part, false, c->dout[0], 1);
}

static const pf_attr_info slice_attrs[] = {
    {.name = "dim", .kind = PF_ATTR_DIM, .def = 0, .doc = "the dimension to cut"},
    {.name = "first",
     .kind = PF_ATTR_INDEX,
     .def = 0,
     .doc = "first position kept; negative from the end"},
    {.name = "end",
     .kind = PF_ATTR_INDEX,
     .def = (double)PF_INDEX_END,
     .doc = "position after the last one kept; negative from the end; not given: the end"},
};

const pf_op pf_op_slice = {
    .name = "slice",
    .args = "x",
    .results = "y",
    .doc = "y is a view of the part of x from `first` to before `end` along `dim`. Any dtype.",
    .min_in = 1,
    .max_in = 1,
    .n_out = 1,
    .flags = PF_OP_OWN_OUTPUTS | PF_OP_PICKS,
    .attrs = slice_attrs,
    .n_attrs = PF_COUNT(slice_attrs),
    .shape = slice_shape,
    .forward = slice_forward,
    .backward = slice_backward,
};

/* ---- concat ------------------------------------------------------------------- */

/* Inputs agree in dtype and in all sizes but dimension dim, which adds up. */
static int concat_shape(pf_call *c) {
    const pf_tensor *first = c->in[0];
    int64_t shape[PF_MAX_RANK];
    int dim;
    PF_TRY(pf_dim((int)c->attr[0].i, first->rank, c->op->name, &dim));
    for (int d = 0; d < first->rank; d++) shape[d] = first->shape[d];
    for (int i = 1; i < c->n_in; i++) {
        const pf_tensor *t = c->in[i];
        PF_TRY(pf_want(c, i, first->dtype));
        if (t->rank != first->rank)
            return pf_shape_fail(c, "%s has %d dimensions, the first has %d",
                                 pf_op_arg_name(c->op, i), t->rank, first->rank);
        for (int d = 0; d < first->rank; d++)
            if (d != dim && t->shape[d] != shape[d])
                return pf_shape_fail(c,
                                     "%s differs in dimension %d (from the end); only "
                                     "dimension %d may differ",
                                     pf_op_arg_name(c->op, i), d - first->rank, dim - first->rank);
        if (__builtin_add_overflow(shape[dim], t->shape[dim], &shape[dim]))
            return pf_shape_fail(c, "together too large");
    }
    return pf_set_shape(c, 0, first->dtype, first->rank, shape);
}

/* Moves r on to the part that input i has in the result. */
static void next_part(const pf_call *c, int i, range *r) {
    r->first = r->end;
    r->end += c->in[i]->shape[r->dim];
}

static int concat_forward(pf_call *c) {
    range r = {0};
    PF_TRY(pf_dim((int)c->attr[0].i, c->in[0]->rank, c->op->name, &r.dim));
    for (int i = 0; i < c->n_in; i++) {
        pf_tensor *part;
        next_part(c, i, &r);
        PF_TRY(sliced(&part, c->out[0], &r));
        PF_TRY(pf_call_hold(c, part));
        if (part->dtype == PF_F32)
            PF_TRY(pf_add_into(c->engine, part, true, c->in[i], 1));
        else
            PF_TRY(pf_tensor_copy(part, c->in[i]));
    }
    return PF_OK;
}

static int concat_backward(pf_call *c) {
    range r = {0};
    PF_TRY(pf_dim((int)c->attr[0].i, c->dout[0]->rank, c->op->name, &r.dim));
    for (int i = 0; i < c->n_in; i++) {
        pf_tensor *part;
        next_part(c, i, &r);
        if (!c->need[i]) continue;
        PF_TRY(sliced(&part, c->dout[0], &r));
        PF_TRY(give(c, i, part));
    }
    return PF_OK;
}

static const pf_attr_info concat_attrs[] = {
    {.name = "dim", .kind = PF_ATTR_DIM, .def = 0, .doc = "the dimension that adds up"},
};

const pf_op pf_op_concat = {
    .name = "concat",
    .args = "tensors",
    .results = "y",
    .doc = "y is the inputs one after another along `dim`; they agree in dtype and in all other "
           "dimensions. Any dtype.",
    .min_in = 1,
    .max_in = PF_MAX_IN,
    .n_out = 1,
    .flags = PF_OP_VARIADIC,
    .attrs = concat_attrs,
    .n_attrs = PF_COUNT(concat_attrs),
    .shape = concat_shape,
    .forward = concat_forward,
    .backward = concat_backward,
};
