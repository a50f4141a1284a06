/*
 * heads.c - see heads.h: reading heads where they stand, and writing their gradients.
 *
 * Loops want the last stride to be 1, no more; so most views of heads (split_heads', slices of
 * positions) are read as they lie, and only a transposed width is copied.
 */
#include "heads.h"

pf_heads pf_heads_of(const pf_tensor *t) {
    return (pf_heads){pf_f32(t), t->stride[0], t->stride[1], t->stride[2], t->shape[3], false};
}

int pf_heads_ready(pf_engine *e, pf_tensor *x, pf_tensor **t, pf_heads *rows) {
    if (x->stride[3] == 1 || x->shape[3] == 1) {
        *t = pf_tensor_retain(x);
    } else {
        PF_TRY(pf_tensor_compact(t, e, x));
    }
    *rows = pf_heads_of(*t);
    return PF_OK;
}

int pf_call_heads(pf_call *c, pf_tensor *x, pf_heads *rows) {
    if (x->stride[3] != 1 && x->shape[3] != 1) PF_TRY(pf_call_compact(c, x, &x));
    *rows = pf_heads_of(x);
    return PF_OK;
}

int pf_heads_output(pf_tensor **t, pf_engine *e, int64_t B, int64_t H, int64_t L, int64_t width) {
    static const int order[4] = {0, 2, 1, 3};
    int64_t shape[4] = {B, H, L, width};
    return pf_tensor_make_ordered(t, e, PF_F32, 4, shape, order);
}

int pf_heads_own_gradient(pf_call *c, int i, pf_tensor **t, pf_heads *rows) {
    const pf_tensor *x = c->in[i];
    PF_TRY(pf_heads_output(t, c->engine, x->shape[0], x->shape[1], x->shape[2], x->shape[3]));
    *rows = pf_heads_of(*t);
    return pf_call_hold(c, *t);
}

/* A receiver that takes what it is given gets a tensor of our layout, which costs nothing; one
 * that would copy or add it gets its numbers written into place. */
int pf_heads_gradient(pf_call *c, int i, pf_tensor **t, pf_heads *rows) {
    pf_tensor *slot;
    bool fresh;
    *t = NULL;
    if (!pf_grad_gathers(c, i)) return pf_heads_own_gradient(c, i, t, rows);
    PF_TRY(pf_grad_fresh(c, i, &fresh, &slot));
    *rows = pf_heads_of(slot);
    rows->add = !fresh;
    return PF_OK;
}
