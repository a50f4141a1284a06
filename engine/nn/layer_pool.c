/*
 * layer_pool.c - one vector of a sequence: the mean of its positions, the first, the last, or a
 * mean weighted by attention of one learned query.
 *
 * All four are exact attention of one query, whose mask leaves hidden positions out: by a query of
 * zeros all weights are equal, and where the mask leaves one position its weight is 1, to the bit.
 */
#include "module.h"

typedef enum { MEAN, FIRST, LAST, ATTENTION } pool_kind; /* places in PF_POOLS */

static const pf_option_info pool_options[] = {
    {.name = "of",
     .kind = PF_OPT_STRING,
     .string = "mean",
     .choices = PF_POOLS,
     .doc = "which of the positions that are there: all alike, the first, the last, or all by the "
            "weights of a learned query, which begin alike"},
    {.name = "dim",
     .kind = PF_OPT_INT,
     .low = 0,
     .high = 1 << 20,
     .doc = "width of the learned query, D; of attention alone"},
};

typedef struct pool_self {
    pool_kind of;
} pool_self;

static int pool_build(pf_module *m, pf_engine *e) {
    pool_self *self = m->self;
    int64_t dim = pf_option_int(m, "dim");
    self->of = (pool_kind)pf_choice_place(PF_POOLS, pf_option_text(m, "of"));
    if (self->of != ATTENTION) return PF_OK;
    if (dim == 0) {
        return pf_fail(PF_EINVAL, "pool: by attention it has a query of its own, as wide as x: the "
                                  "option dim");
    }
    return pf_module_param(m, e, "query", 1, &dim, "zeros");
}

/* (B, 1, 1, D) */
static int query(const pf_module *m, pf_engine *e, const pf_tensor *x, pf_tensor **q) {
    int64_t shape[4] = {x->shape[0], 1, 1, x->shape[2]};
    pf_tensor *own = pf_module_tensor(m, "query"), *zeros = NULL;
    PF_TRY(pf_tensor_make(&zeros, e, PF_F32, 4, shape));
    int status = pf_tensor_fill(zeros, 0);
    if (status >= 0 && own) {
        status = pf_add(q, e, zeros, own);
    } else if (status >= 0) {
        *q = pf_tensor_retain(zeros);
    }
    pf_tensor_release(&zeros);
    return status;
}

/* Of one row of a mask (NULL: all there) the first or the last position alone. */
static void keep_one(int32_t *to, const int32_t *row, int64_t length, bool last) {
    for (int64_t i = 0; i < length; i++) {
        int64_t at = last ? length - 1 - i : i;
        if (row && row[at] == 0) continue;
        to[at] = 1;
        return;
    }
}

/* *one (B, L) i32: a single position of each row. */
static int mask_of_one(pf_engine *e, const pf_tensor *x, const pf_tensor *mask, bool last,
                       pf_tensor **one) {
    int64_t B = x->shape[0], L = x->shape[1], shape[2] = {B, L};
    pf_tensor *rows = NULL;
    if (mask) PF_TRY(pf_tensor_compact(&rows, e, mask));
    int status = pf_tensor_make(one, e, PF_I32, 2, shape);
    if (status >= 0) status = pf_tensor_fill(*one, 0);
    for (int64_t b = 0; b < B && status >= 0; b++) {
        keep_one(pf_i32(*one) + b * L, rows ? pf_i32(rows) + b * L : NULL, L, last);
    }
    pf_tensor_release(&rows);
    return status;
}

static int pool(const pf_module *m, pf_engine *e, pf_tensor *x, pf_tensor *mask, pf_tensor **y) {
    int64_t rows[4] = {x->shape[0], 1, x->shape[1], x->shape[2]}, flat[2] = {rows[0], rows[3]};
    pf_tensor *in[PF_REACH_INPUTS] = {[PF_IN_MASK] = mask}, *out = NULL;
    pf_attr attr[PF_MAX_ATTR];
    pf_op_fill_defaults(&pf_op_exact_attention, attr);
    int status = query(m, e, x, &in[PF_IN_Q]);
    if (status >= 0) status = pf_reshape(&in[PF_IN_K], e, x, 4, rows);
    in[PF_IN_V] = in[PF_IN_K];
    if (status >= 0) {
        status = pf_apply(e, &pf_op_exact_attention, in, PF_REACH_INPUTS, attr, &out);
    }
    if (status >= 0) status = pf_reshape(y, e, out, 2, flat);
    pf_tensor_release(&out);
    pf_tensor_release(&in[PF_IN_Q]);
    pf_tensor_release(&in[PF_IN_K]);
    return status;
}

/* x (B, L, D) -> (B, D); a row of which nothing is there gives zeros */
static int pool_run(pf_module *m, pf_engine *e, const pf_run *run, pf_tensor *x, pf_tensor **y) {
    const pool_self *self = m->self;
    pf_tensor *one = NULL;
    int64_t dim = pf_option_int(m, "dim");
    if (x->rank != 3 || (dim > 0 && x->shape[2] != dim)) {
        return pf_fail(PF_ESHAPE, "pool: x is %s, must be (B, L, D)%s", pf_shape_of(x),
                       dim > 0 ? " with D as the option dim says" : "");
    }
    if (run->pass->documents) {
        return pf_fail(PF_EINVAL, "pool: it makes one vector of a row, which documents are several "
                                  "sequences of; give every one a row");
    }
    bool single = self->of == FIRST || self->of == LAST;
    if (single) PF_TRY(mask_of_one(e, x, run->pass->mask, self->of == LAST, &one));
    int status = pool(m, e, x, single ? one : run->pass->mask, y);
    pf_tensor_release(&one);
    return status;
}

static bool pool_whole(const pf_module *m) {
    (void)m;
    return true;
}

static int pool_state(const pf_module *m, pf_engine *e, int64_t batch, pf_state **state) {
    (void)m, (void)e, (void)batch, (void)state;
    return pf_fail(PF_EINVAL,
                   "pool: it makes one vector of a whole sequence, so it can't stream or "
                   "be trained in slices");
}

const pf_layer pf_layer_pool = {
    .name = "pool",
    .doc = "One vector of a sequence, of the positions that its mask keeps: x (B, L, D) -> (B, D).",
    .options = pool_options,
    .n_options = PF_COUNT(pool_options),
    .self_bytes = sizeof(pool_self),
    .build = pool_build,
    .run = pool_run,
    .whole = pool_whole,
    .state = pool_state,
};
