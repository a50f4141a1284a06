/*
 * by_place.c - ops that read or add to elements by their places along a dimension: gather,
 * index_select, scatter_add, masked_select, flip (pick.h does the work).
 *
 * What holds: no place outside the dimension is ever followed, also when the caller changed them
 * between forward and backward; places that stand several times add up in their order.
 */
#include "fold.h"
#include "looks.h"
#include "pick.h"

/* Any dtype, unless said. */

static const pf_attr_info dim_attrs[] = {
    {.name = "dim", .kind = PF_ATTR_DIM, .required = true, .doc = "the dimension"},
};

/* The gradient of input 0: what arrived, added to where it was read. */
static int add_back(pf_call *c, const pf_pick *pick) {
    pf_tensor *dy, *dx;
    PF_TRY(pf_call_compact(c, c->dout[0], &dy));
    PF_TRY(pf_grad_slot(c, 0, &dx));
    return pf_pick_add(c->engine, pick, PF_F32, pf_f32(dy), pf_f32(dx));
}

/* ---- gather and index_select --------------------------------------------------- */

enum { GATHER, INDEX_SELECT }; /* pf_op.of */

/* Index and x agree in all dimensions but `dim`. */
static int same_but(const pf_call *c, const pf_tensor *index, const pf_tensor *x, int dim) {
    bool same = index->rank == x->rank;
    for (int d = 0; same && d < x->rank; d++) same = d == dim || index->shape[d] == x->shape[d];
    if (same) return PF_OK;
    return pf_shape_fail(c, "the index must be shaped like x in all dimensions but %s",
                         pf_place_dim(dim));
}

static int pick_shape(pf_call *c) {
    const pf_tensor *x = c->in[0], *index = c->in[1];
    int64_t shape[PF_MAX_RANK];
    int dim;
    PF_TRY(pf_want(c, 1, PF_I32));
    PF_TRY(pf_dim((int)c->attr[0].i, x->rank, c->op->name, &dim));
    if (c->op->of == GATHER) {
        PF_TRY(same_but(c, index, x, dim));
        return pf_set_shape(c, 0, x->dtype, index->rank, index->shape);
    }
    if (index->rank != 1) return pf_shape_fail(c, "the index must be (n)");
    for (int d = 0; d < x->rank; d++) shape[d] = d == dim ? index->shape[0] : x->shape[d];
    return pf_set_shape(c, 0, x->dtype, x->rank, shape);
}

static int picked(pf_pick *pick, pf_call *c) {
    int dim;
    PF_TRY(pf_dim((int)c->attr[0].i, c->in[0]->rank, c->op->name, &dim));
    PF_TRY(pf_pick_split(pick, c, c->in[0], dim));
    pick->each = c->op->of == GATHER;
    pick->m = c->in[1]->shape[pick->each ? dim : 0];
    return pf_pick_read(pick, c, 1);
}

static int pick_forward(pf_call *c) {
    pf_pick pick;
    pf_tensor *x;
    PF_TRY(picked(&pick, c));
    PF_TRY(pf_call_compact(c, c->in[0], &x));
    return pf_pick_take(c->engine, &pick, pf_f32(x), pf_f32(c->out[0]));
}

static int pick_backward(pf_call *c) {
    pf_pick pick;
    if (!c->need[0]) return PF_OK;
    PF_TRY(picked(&pick, c));
    return add_back(c, &pick);
}

#define PICK(which)                                                                                \
    .of = (which), .args = "x, index", .results = "y", .min_in = 2, .max_in = 2, .n_out = 1,       \
    .flags = PF_OP_PICKS, .uses = PF_USES_IN(1), .places = PF_USES_IN(1), .attrs = dim_attrs,      \
    .n_attrs = PF_COUNT(dim_attrs), .shape = pick_shape, .forward = pick_forward,                  \
    .backward = pick_backward

const pf_op pf_op_gather = {
    PICK(GATHER),
    .name = "gather",
    .doc = "For each element of index (i32) the element of x that stands at that position of `dim` "
           "and at its own in the others: index has the shape of x but for its size along `dim`. "
           "Positions from the end are negative; positions that stand twice add up their "
           "gradients. Any dtype.",
};

const pf_op pf_op_index_select = {
    PICK(INDEX_SELECT),
    .name = "index_select",
    .doc = "The slices of x at the positions index (n) i32 along `dim`, in that order: y has n "
           "along `dim`. Positions from the end are negative; those that stand twice add up their "
           "gradients. Any dtype.",
};

/* ---- scatter_add ---------------------------------------------------------------- */

/* x, index and source: index has source's shape, or is the list of its slices' positions. */
static int scatter_shape(pf_call *c) {
    const pf_tensor *x = c->in[0], *index = c->in[1], *source = c->in[2];
    int dim;
    PF_TRY(pf_want(c, 1, PF_I32));
    PF_TRY(pf_want(c, 2, x->dtype));
    PF_TRY(pf_dim((int)c->attr[0].i, x->rank, c->op->name, &dim));
    PF_TRY(same_but(c, source, x, dim));
    bool list = index->rank == 1 && index->shape[0] == source->shape[dim];
    if (!list && !pf_same_shape(index, source))
        return pf_shape_fail(c, "the index must be shaped like the source, or (%lld)",
                             (long long)source->shape[dim]);
    return pf_same_as(c, 0, 0);
}

static int scattered(pf_pick *pick, pf_call *c) {
    int dim;
    PF_TRY(pf_dim((int)c->attr[0].i, c->in[0]->rank, c->op->name, &dim));
    PF_TRY(pf_pick_split(pick, c, c->in[0], dim));
    pick->each = pf_same_shape(c->in[1], c->in[2]);
    pick->m = c->in[2]->shape[dim];
    return pf_pick_read(pick, c, 1);
}

static int scatter_forward(pf_call *c) {
    pf_pick pick;
    pf_tensor *source, *y = c->out[0];
    PF_TRY(scattered(&pick, c));
    PF_TRY(pf_call_compact(c, c->in[2], &source));
    if (y->dtype == PF_F32)
        PF_TRY(pf_add_into(c->engine, y, true, c->in[0], 1));
    else
        PF_TRY(pf_tensor_copy(y, c->in[0]));
    return pf_pick_add(c->engine, &pick, y->dtype, pf_f32(source), pf_f32(y));
}

static int scatter_backward(pf_call *c) {
    const pf_tensor *source = c->in[2];
    pf_pick pick;
    pf_tensor *dy, *ds;
    if (c->need[0]) PF_TRY(pf_grad_give(c, 0, c->dout[0]));
    if (!c->need[2]) return PF_OK;
    PF_TRY(scattered(&pick, c));
    PF_TRY(pf_call_compact(c, c->dout[0], &dy));
    PF_TRY(pf_call_make(c, PF_F32, source->rank, source->shape, &ds));
    PF_TRY(pf_pick_take(c->engine, &pick, pf_f32(dy), pf_f32(ds)));
    return pf_grad_give(c, 2, ds);
}

const pf_op pf_op_scatter_add = {
    .name = "scatter_add",
    .args = "x, index, source",
    .results = "y",
    .doc = "y = x with each element of source added to the element at the position of `dim` that "
           "index (i32) has for it. index is shaped like source, which is shaped like x but for "
           "its size n along `dim`; or index is (n), one position for each whole slice. Positions "
           "from the end are negative; what meets in one place is added in the order of source. "
           "f32, or i32 (wraps around).",
    .min_in = 3,
    .max_in = 3,
    .n_out = 1,
    .uses = PF_USES_IN(1),
    .reads = {PF_USES_NONE},
    .places = PF_USES_IN(1),
    .attrs = dim_attrs,
    .n_attrs = PF_COUNT(dim_attrs),
    .shape = scatter_shape,
    .forward = scatter_forward,
    .backward = scatter_backward,
};

/* ---- masked_select ---------------------------------------------------------------- */

/* How many the mask keeps: the result's first size is in the numbers, not in the shapes. */
static int count_kept(pf_call *c, const int32_t *keep, int64_t n, int64_t *kept) {
    *kept = 0;
    for (int64_t i = 0; i < n; i++) {
        if (i % PF_LOOK == 0) PF_TRY(pf_check_cancel(c->engine));
        if (keep[i] != 0 && keep[i] != 1)
            return pf_fail(PF_EINVAL, "%s: a mask is of 1 and 0, element %s of mask %s is %d",
                           c->op->name, pf_place(i), pf_shape_of(c->in[1]), keep[i]);
        *kept += keep[i];
    }
    return PF_OK;
}

static int mask_shape(pf_call *c) {
    const pf_tensor *x = c->in[0], *mask = c->in[1];
    int64_t shape[PF_MAX_RANK];
    pf_tensor *keep;
    PF_TRY(pf_want(c, 1, PF_I32));
    bool leads = mask->rank > 0 && mask->rank <= x->rank;
    for (int d = 0; leads && d < mask->rank; d++) leads = mask->shape[d] == x->shape[d];
    if (!leads) return pf_shape_fail(c, "the mask must have the shape of x, or its first sizes");
    PF_TRY(pf_call_compact(c, mask, &keep));
    PF_TRY(count_kept(c, pf_i32(keep), pf_tensor_numel(keep), &shape[0]));
    for (int d = mask->rank; d < x->rank; d++) shape[d - mask->rank + 1] = x->shape[d];
    return pf_set_shape(c, 0, x->dtype, x->rank - mask->rank + 1, shape);
}

/* The rows that the mask keeps, which must be as many as forward found. */
static int kept_rows(pf_pick *pick, pf_call *c, int64_t rows) {
    const pf_tensor *x = c->in[0], *mask = c->in[1];
    int64_t n = pf_tensor_numel(mask), kept, at = 0;
    pf_tensor *keep;
    *pick = (pf_pick){.before = 1, .n = n, .m = rows};
    pick->after = pf_shape_numel(x->rank - mask->rank, x->shape + mask->rank);
    PF_TRY(pf_want_places(c, n));
    PF_TRY(pf_call_compact(c, mask, &keep));
    PF_TRY(count_kept(c, pf_i32(keep), n, &kept));
    if (kept != rows)
        return pf_fail(PF_ESTATE, "%s: the mask keeps %lld rows, it has kept %lld", c->op->name,
                       (long long)kept, (long long)rows);
    int32_t *place = pf_call_alloc(c, (size_t)rows * sizeof *place);
    if (!place) return PF_ENOMEM;
    for (int64_t i = 0; i < n; i++)
        if (pf_i32(keep)[i]) place[at++] = (int32_t)i;
    pick->place = place;
    return PF_OK;
}

static int mask_forward(pf_call *c) {
    pf_pick pick;
    pf_tensor *x;
    PF_TRY(kept_rows(&pick, c, c->shape[0].dim[0]));
    PF_TRY(pf_call_compact(c, c->in[0], &x));
    return pf_pick_take(c->engine, &pick, pf_f32(x), pf_f32(c->out[0]));
}

static int mask_backward(pf_call *c) {
    pf_pick pick;
    if (!c->need[0]) return PF_OK;
    PF_TRY(kept_rows(&pick, c, c->dout[0]->shape[0]));
    return add_back(c, &pick);
}

const pf_op pf_op_masked_select = {
    .name = "masked_select",
    .args = "x, mask",
    .results = "y",
    .doc = "The elements of x where mask (i32 of 1 and 0) is 1, one after another. The mask has "
           "the shape of x, or its first sizes, and then rows are kept as a whole: mask (A, B) and "
           "x (A, B, D) give (n, D). The size n is in the numbers of the mask. Any dtype.",
    .min_in = 2,
    .max_in = 2,
    .n_out = 1,
    .uses = PF_USES_IN(1),
    .shape = mask_shape,
    .forward = mask_forward,
    .backward = mask_backward,
};

/* ---- flip ------------------------------------------------------------------------ */

static int flip_shape(pf_call *c) {
    int dim;
    PF_TRY(pf_dim((int)c->attr[0].i, c->in[0]->rank, c->op->name, &dim));
    return pf_same_as(c, 0, 0);
}

/* *to, a tensor of x's shape, = x from the last place of the dimension to the first. */
static int flipped(pf_call *c, const pf_tensor *x, pf_tensor *to) {
    pf_pick pick;
    pf_tensor *from;
    int dim;
    PF_TRY(pf_dim((int)c->attr[0].i, x->rank, c->op->name, &dim));
    PF_TRY(pf_pick_split(&pick, c, x, dim));
    int32_t *place = pf_call_alloc(c, (size_t)pick.n * sizeof *place);
    if (!place) return PF_ENOMEM;
    for (int64_t j = 0; j < pick.n; j++) place[j] = (int32_t)(pick.n - 1 - j);
    pick.m = pick.n;
    pick.place = place;
    PF_TRY(pf_call_compact(c, x, &from));
    return pf_pick_take(c->engine, &pick, pf_f32(from), pf_f32(to));
}

static int flip_forward(pf_call *c) { return flipped(c, c->in[0], c->out[0]); }

static int flip_backward(pf_call *c) {
    pf_tensor *dx;
    if (!c->need[0]) return PF_OK;
    PF_TRY(pf_call_make(c, PF_F32, c->dout[0]->rank, c->dout[0]->shape, &dx));
    PF_TRY(flipped(c, c->dout[0], dx));
    return pf_grad_give(c, 0, dx);
}

const pf_op pf_op_flip = {
    .name = "flip",
    .args = "x",
    .results = "y",
    .doc = "y is x with the dimension `dim` from its last position to its first. Any dtype.",
    .min_in = 1,
    .max_in = 1,
    .n_out = 1,
    .flags = PF_OP_PICKS,
    .attrs = dim_attrs,
    .n_attrs = PF_COUNT(dim_attrs),
    .shape = flip_shape,
    .forward = flip_forward,
    .backward = flip_backward,
};
