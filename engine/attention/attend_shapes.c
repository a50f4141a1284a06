/*
 * attend_shapes.c - shape rules and row access that every attention op shares: inputs 0, 1, 2
 * are q (B, H, Lq, d), k (B, H, Lk, d), v (B, H, Lk, dv).
 */
#include "linear.h"

static int check_rank(const pf_call *c, int i) {
    if (c->in[i]->dtype != PF_F32) {
        return pf_fail(PF_EDTYPE, "%s: %s must be f32, got %s", c->op->name,
                       pf_op_arg_name(c->op, i), pf_dtype_name(c->in[i]->dtype));
    }
    if (c->in[i]->rank == 4) return 0;
    return pf_shape_fail(c, "%s must have 4 dimensions (batch, heads, length, width)",
                         pf_op_arg_name(c->op, i));
}

int pf_attend_shapes(pf_call *c, int64_t *width) {
    for (int i = 0; i < 3; i++) PF_TRY(check_rank(c, i));
    const pf_tensor *q = c->in[0], *k = c->in[1], *v = c->in[2];
    for (int dim = 0; dim < 2; dim++) {
        const char *what = dim == 0 ? "batch (dimension 1)" : "heads (dimension 2)";
        if (q->shape[dim] != k->shape[dim] || k->shape[dim] != v->shape[dim]) {
            return pf_shape_fail(c, "%s must agree", what);
        }
    }
    if (q->shape[3] != k->shape[3]) {
        return pf_shape_fail(c, "the last dimension of %s (%lld) and %s (%lld) must agree",
                             pf_op_arg_name(c->op, 0), (long long)q->shape[3],
                             pf_op_arg_name(c->op, 1), (long long)k->shape[3]);
    }
    if (k->shape[2] != v->shape[2]) {
        return pf_shape_fail(c, "%s has %lld positions (dimension 3), %s has %lld",
                             pf_op_arg_name(c->op, 1), (long long)k->shape[2],
                             pf_op_arg_name(c->op, 2), (long long)v->shape[2]);
    }
    if (q->shape[3] < 1 || v->shape[3] < 1) return pf_shape_fail(c, "widths must be at least 1");
    *width = q->shape[3];
    int64_t out[4] = {q->shape[0], q->shape[1], q->shape[2], v->shape[3]};
    return pf_set_shape(c, 0, PF_F32, 4, out);
}

static int check_pair(const pf_call *c, int i, int64_t B, int64_t L, const char *what) {
    const pf_tensor *t = c->in[i];
    if (t->rank == 2 && t->shape[0] == B && t->shape[1] == L) return 0;
    return pf_shape_fail(c, "%s must be (batch, length) = [%lld, %lld]", what, (long long)B,
                         (long long)L);
}

int pf_attend_masks(const pf_call *c, int mask, int documents) {
    int64_t B = c->in[0]->shape[0], Lq = c->in[0]->shape[2], Lk = c->in[1]->shape[2];
    if (c->in[mask]) PF_TRY(check_pair(c, mask, B, Lk, "mask"));
    if (!c->in[documents]) return 0;
    PF_TRY(check_pair(c, documents, B, Lk, "documents"));
    PF_TRY(pf_tensor_check(c->in[documents], PF_I32, c->op->name, "documents"));
    if (Lq == Lk) return 0;
    return pf_shape_fail(c, "documents need as many queries as keys");
}

int pf_attend_decay(const pf_call *c, int decay, bool causal) {
    const pf_tensor *t = c->in[decay];
    if (!t) return 0;
    PF_TRY(pf_tensor_check(t, PF_F32, c->op->name, "decay"));
    if (t->rank != 1 || t->shape[0] != c->in[0]->shape[1]) {
        return pf_shape_fail(c, "decay must be (heads) = [%lld]", (long long)c->in[0]->shape[1]);
    }
    if (causal) return 0;
    return pf_fail(PF_EINVAL, "%s: decay is for causal attention only", c->op->name);
}

pf_rows pf_rows_of(const pf_tensor *t) {
    return (pf_rows){pf_f32(t), t->stride[0], t->stride[1], t->stride[2], t->shape[3]};
}

int pf_rows_ready(pf_engine *e, pf_tensor *x, pf_tensor **t, pf_rows *rows) {
    if (x->stride[3] == 1 || x->shape[3] == 1) {
        *t = pf_tensor_retain(x);
    } else {
        PF_TRY(pf_tensor_compact(t, e, x));
    }
    *rows = pf_rows_of(*t);
    return 0;
}

int pf_heads_output(pf_tensor **t, pf_engine *e, int64_t B, int64_t H, int64_t L, int64_t width) {
    static const int order[4] = {0, 2, 1, 3};
    int64_t shape[4] = {B, H, L, width};
    return pf_tensor_make_ordered(t, e, PF_F32, 4, shape, order);
}
