/*
 * tile.c - tile: x several times along its dimensions. A copy of x at a time; along dimensions of
 * size 1 all at once.
 */
#include "fold.h"

/* How often dimension d of the result has x: the counts are aligned from the right. */
static int64_t times(const pf_call *c, int rank, int d) {
    int at = d - (rank - c->attr[0].n);
    return at < 0 ? 1 : c->attr[0].list[at];
}

static int tile_shape(pf_call *c) {
    const pf_tensor *x = c->in[0];
    int64_t shape[PF_MAX_RANK];
    int rank = c->attr[0].n > x->rank ? c->attr[0].n : x->rank;
    for (int d = 0; d < rank; d++) {
        int own = d - (rank - x->rank);
        int64_t n = times(c, rank, d);
        if (n < 0) return pf_shape_fail(c, "a count is at least 0, not %lld", (long long)n);
        if (__builtin_mul_overflow(n, own < 0 ? 1 : x->shape[own], &shape[d]))
            return pf_shape_fail(c, "the result is too large");
    }
    return pf_set_shape(c, 0, x->dtype, rank, shape);
}

/* Walks the copies of x in y: `dim` are x's sizes in y's dimensions, but where it has 1 all of y's,
 * `n` how many copies stand there. Calls with a view of each. */
typedef int (*copy_fn)(pf_call *c, pf_tensor *part);

static int each_copy(pf_call *c, const pf_tensor *y, const pf_tensor *x, copy_fn fn) {
    int64_t size[PF_MAX_RANK] = {0}, n[PF_MAX_RANK] = {0}, copies = 1;
    PF_HOLDS(y->rank >= 0);
    for (int d = 0; d < y->rank; d++) {
        int own = d - (y->rank - x->rank);
        bool unit = own < 0 || x->shape[own] == 1;
        size[d] = unit ? y->shape[d] : x->shape[own];
        n[d] = unit ? 1 : times(c, y->rank, d);
        copies *= n[d];
    }
    for (int64_t i = 0; i < copies && pf_tensor_numel(y) > 0; i++) {
        pf_tensor part = pf_tensor_place(y);
        int64_t rest = i;
        for (int d = y->rank - 1; d >= 0; d--) {
            part.offset += rest % n[d] * size[d] * y->stride[d];
            part.shape[d] = size[d];
            rest /= n[d];
        }
        PF_TRY(fn(c, &part));
        PF_TRY(pf_check_cancel(c->engine));
    }
    return PF_OK;
}

/* Of i32 too: where it is stretched, by a view of it that is. */
static int put_copy(pf_call *c, pf_tensor *part) {
    const pf_tensor *x = c->in[0];
    if (part->dtype == PF_F32) return pf_add_into(c->engine, part, true, x, 1);
    pf_tensor from = pf_tensor_place(x);
    from.rank = part->rank;
    for (int d = 0; d < part->rank; d++) {
        int own = d - (part->rank - x->rank);
        from.shape[d] = part->shape[d];
        from.stride[d] = own < 0 || x->shape[own] == 1 ? 0 : x->stride[own];
    }
    return pf_tensor_copy(part, &from);
}

static int tile_forward(pf_call *c) { return each_copy(c, c->out[0], c->in[0], put_copy); }

static int add_copy(pf_call *c, pf_tensor *part) {
    pf_tensor *dx;
    PF_TRY(pf_grad_slot(c, 0, &dx));
    return pf_fold(&(pf_fold_job){
        .engine = c->engine,
        .to = dx,
        .rank = part->rank,
        .shape = part->shape,
        .n = 1,
        .x = {part},
        .scale = 1,
    });
}

static int tile_backward(pf_call *c) {
    pf_tensor *dx;
    if (!c->need[0]) return PF_OK;
    PF_TRY(pf_grad_slot(c, 0, &dx)); /* also where there is no copy */
    return each_copy(c, c->dout[0], c->in[0], add_copy);
}

static const pf_attr_info tile_attrs[] = {
    {.name = "counts",
     .kind = PF_ATTR_INTS,
     .required = true,
     .doc = "how often along each dimension, aligned from the right"},
};

const pf_op pf_op_tile = {
    .name = "tile",
    .args = "x",
    .results = "y",
    .doc = "y has x as often as `counts` says along each dimension, one copy behind the other: x "
           "(2, 3) with {2, 1} is (4, 3). More counts than dimensions put new ones before the "
           "first. Any dtype.",
    .min_in = 1,
    .max_in = 1,
    .n_out = 1,
    .flags = PF_OP_PICKS,
    .attrs = tile_attrs,
    .n_attrs = PF_COUNT(tile_attrs),
    .shape = tile_shape,
    .forward = tile_forward,
    .backward = tile_backward,
};
