/* one_hot.c - one_hot: a row for each id, 1 at its place. */
#include <string.h>

#include "op.h"

enum { LOOK = 1 << 16 }; /* ids between two looks at the cancel flag */

static int one_hot_shape(pf_call *c) {
    const pf_tensor *ids = c->in[0];
    int64_t shape[PF_MAX_RANK + 1];
    PF_TRY(pf_want(c, 0, PF_I32));
    if (c->attr[0].i < 0)
        return pf_shape_fail(c, "n is %lld, it must be at least 0", (long long)c->attr[0].i);
    for (int d = 0; d < ids->rank; d++) shape[d] = ids->shape[d];
    shape[ids->rank] = c->attr[0].i;
    return pf_set_shape(c, 0, PF_F32, ids->rank + 1, shape);
}

static int one_hot_forward(pf_call *c) {
    int64_t n = c->attr[0].i, count = pf_tensor_numel(c->in[0]);
    float *y = pf_f32(c->out[0]);
    pf_tensor *ids;
    PF_TRY(pf_call_compact(c, c->in[0], &ids));
    memset(y, 0, (size_t)(count * n) * sizeof *y);
    for (int64_t i = 0; i < count; i++) {
        int32_t id = pf_i32(ids)[i];
        if (i % LOOK == 0) PF_TRY(pf_check_cancel(c->engine));
        if (id < 0 || id >= n)
            return pf_fail(PF_EINVAL,
                           "%s: id %d at position %s of ids %s is not in 0 .. n-1, n = %lld",
                           c->op->name, id, pf_place(i), pf_shape_of(c->in[0]), (long long)n);
        y[i * n + id] = 1;
    }
    return PF_OK;
}

static const pf_attr_info one_hot_attrs[] = {
    {.name = "n", .kind = PF_ATTR_INT, .required = true, .doc = "how many ids there are"},
};

const pf_op pf_op_one_hot = {
    .name = "one_hot",
    .args = "ids",
    .results = "y",
    .doc =
        "For each of ids (...) i32, from 0 to n-1, a row of n numbers, 1 at the id's place and 0 "
        "elsewhere: y (..., n) f32.",
    .min_in = 1,
    .max_in = 1,
    .n_out = 1,
    .flags = PF_OP_NO_GRAD | PF_OP_PICKS,
    .attrs = one_hot_attrs,
    .n_attrs = PF_COUNT(one_hot_attrs),
    .shape = one_hot_shape,
    .forward = one_hot_forward,
};
