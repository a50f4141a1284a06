/*
 * shapes.c - shape rules and row access that every attention op shares: inputs 0, 1, 2
 * are q (B, H, Lq, d), k (B, Hk, Lk, d), v (B, Hk, Lk, dv); Hk = H unless the op groups heads.
 */
#include "operator.h"

static int check_rank(const pf_call *c, int i) {
    if (c->in[i]->dtype != PF_F32) {
        return pf_fail(PF_EDTYPE, "%s: %s must be f32, got %s", c->op->name,
                       pf_op_arg_name(c->op, i), pf_dtype_name(c->in[i]->dtype));
    }
    if (c->in[i]->rank == 4) return 0;
    return pf_shape_fail(c, "%s must have 4 dimensions (batch, heads, length, width)",
                         pf_op_arg_name(c->op, i));
}

static int check_heads(const pf_call *c, bool grouped) {
    const pf_tensor *q = c->in[0], *k = c->in[1], *v = c->in[2];
    if (q->shape[0] != k->shape[0] || k->shape[0] != v->shape[0]) {
        return pf_shape_fail(c, "the batches must agree");
    }
    int64_t H = q->shape[1], Hk = k->shape[1];
    if (v->shape[1] != Hk || (!grouped && Hk != H)) {
        return pf_shape_fail(c, "the heads must agree");
    }
    if (Hk == H || (Hk > 0 && H > 0 && H % Hk == 0)) return 0;
    return pf_shape_fail(c,
                         "the heads must agree, or those of %s be a multiple of "
                         "those of %s and %s",
                         pf_op_arg_name(c->op, 0), pf_op_arg_name(c->op, 1),
                         pf_op_arg_name(c->op, 2));
}

static int check_shapes(pf_call *c, bool grouped, int64_t *width) {
    for (int i = 0; i < 3; i++) PF_TRY(check_rank(c, i));
    PF_TRY(check_heads(c, grouped));
    const pf_tensor *q = c->in[0], *k = c->in[1], *v = c->in[2];
    if (q->shape[3] != k->shape[3]) {
        return pf_shape_fail(c, "the last dimension of %s (%lld) and %s (%lld) must agree",
                             pf_op_arg_name(c->op, 0), (long long)q->shape[3],
                             pf_op_arg_name(c->op, 1), (long long)k->shape[3]);
    }
    if (k->shape[2] != v->shape[2]) {
        return pf_shape_fail(c, "%s has %lld positions, %s has %lld", pf_op_arg_name(c->op, 1),
                             (long long)k->shape[2], pf_op_arg_name(c->op, 2),
                             (long long)v->shape[2]);
    }
    if (q->shape[3] < 1 || v->shape[3] < 1) return pf_shape_fail(c, "widths must be at least 1");
    *width = q->shape[3];
    int64_t out[4] = {q->shape[0], q->shape[1], q->shape[2], v->shape[3]};
    return pf_set_shape(c, 0, PF_F32, 4, out);
}

int pf_attend_shapes(pf_call *c, int64_t *width) { return check_shapes(c, false, width); }
int pf_attend_grouped(pf_call *c, int64_t *width) { return check_shapes(c, true, width); }

static int check_pair(const pf_call *c, const pf_tensor *t, int64_t B, int64_t L,
                      const char *what) {
    if (t->rank == 2 && t->shape[0] == B && t->shape[1] == L) return 0;
    return pf_shape_fail(c, "%s must be (batch, length) = [%lld, %lld]", what, (long long)B,
                         (long long)L);
}

int pf_attend_masks(const pf_call *c, int mask, int documents) {
    int64_t B = c->in[0]->shape[0], Lq = c->in[0]->shape[2], Lk = c->in[1]->shape[2];
    if (c->in[mask]) PF_TRY(check_pair(c, c->in[mask], B, Lk, "mask"));
    if (!c->in[documents]) return 0;
    PF_TRY(check_pair(c, c->in[documents], B, Lk, "documents"));
    PF_TRY(pf_tensor_check(c->in[documents], PF_I32, c->op->name, "documents"));
    if (Lq == Lk) return 0;
    return pf_shape_fail(c, "documents need as many queries as keys");
}

/* limits (B, Lq) or (Lq), prefix (B). */
static int check_limits(const pf_call *c, const pf_tensor *limits, const pf_tensor *prefix) {
    int64_t B = c->in[0]->shape[0], Lq = c->in[0]->shape[2], Lk = c->in[1]->shape[2];
    if (limits) {
        PF_TRY(pf_tensor_check(limits, PF_I32, c->op->name, "limits"));
        bool one = limits->rank == 1 && limits->shape[0] == Lq;
        if (!one) PF_TRY(check_pair(c, limits, B, Lq, "limits"));
    }
    if (!prefix) return 0;
    PF_TRY(pf_tensor_check(prefix, PF_I32, c->op->name, "prefix"));
    if (limits) return pf_shape_fail(c, "limits and prefix don't go together: limits say it all");
    if (prefix->rank != 1 || prefix->shape[0] != B) {
        return pf_shape_fail(c, "prefix must be (batch) = [%lld]", (long long)B);
    }
    if (Lq == Lk) return 0;
    return pf_shape_fail(c, "a prefix needs as many queries as keys");
}

static int check_offsets(const pf_call *c, const pf_tensor *offsets, bool documents) {
    if (!offsets) return 0;
    PF_TRY(pf_tensor_check(offsets, PF_I32, c->op->name, "cu_seqlens"));
    if (documents) return pf_shape_fail(c, "documents and cu_seqlens say the same: give one");
    if (offsets->rank != 1 || offsets->shape[0] < 1) {
        return pf_shape_fail(c, "cu_seqlens must be (documents + 1) offsets");
    }
    if (c->in[0]->shape[0] != 1) {
        return pf_shape_fail(c, "cu_seqlens are for a batch of 1, of packed documents");
    }
    if (c->in[0]->shape[2] == c->in[1]->shape[2]) return 0;
    return pf_shape_fail(c, "cu_seqlens need as many queries as keys");
}

int pf_attend_reach(const pf_call *c, int documents, int first) {
    const pf_tensor *limits = c->in[first], *prefix = c->in[first + 1];
    const pf_tensor *offsets = c->in[first + 2];
    PF_TRY(check_limits(c, limits, prefix));
    PF_TRY(check_offsets(c, offsets, c->in[documents] != NULL));
    if (!prefix || (!offsets && !c->in[documents])) return 0;
    return pf_shape_fail(c, "a prefix is of an item, not of packed documents: give limits");
}

pf_reach_inputs pf_reach_of(const pf_call *c, int documents, int first) {
    return (pf_reach_inputs){
        .op = c->op->name,
        .B = c->in[0]->shape[0],
        .Lq = c->in[0]->shape[2],
        .Lk = c->in[1]->shape[2],
        .documents = c->in[documents],
        .limits = c->in[first],
        .prefix = c->in[first + 1],
        .cu_seqlens = c->in[first + 2],
    };
}

int pf_attend_decay(const pf_call *c, int decay, bool causal) {
    const pf_tensor *t = c->in[decay];
    if (!t) return 0;
    PF_TRY(pf_tensor_check(t, PF_F32, c->op->name, "decay"));
    if (t->rank != 1 || t->shape[0] != c->in[1]->shape[1]) {
        return pf_shape_fail(c, "decay must be (heads of %s) = [%lld]", pf_op_arg_name(c->op, 1),
                             (long long)c->in[1]->shape[1]);
    }
    if (causal) return 0;
    return pf_fail(PF_EINVAL, "%s: decay is for causal attention only", c->op->name);
}

int pf_attend_tilt(const pf_call *c, int tilts, double tilt, const pf_map *map, int64_t heads) {
    const pf_tensor *t = c->in[tilts];
    if (!(tilt < 0.25)) {
        return pf_fail(PF_EINVAL, "%s: tilt must be below 1/4, got %g", c->op->name, tilt);
    }
    if (!t && tilt == 0) return 0;
    if (!map->tilted) {
        return pf_fail(PF_EINVAL, "%s: the map '%s' takes no tilt; softmax_plus does", c->op->name,
                       map->name);
    }
    if (!t) return 0;
    PF_TRY(pf_tensor_check(t, PF_F32, c->op->name, "tilts"));
    if (t->rank == 1 && t->shape[0] == heads) return 0;
    return pf_shape_fail(c, "tilts must be (heads) = [%lld]", (long long)heads);
}

int pf_attend_tilt_values(const char *where, const float *tilts, int64_t heads) {
    for (int64_t h = 0; h < heads; h++) {
        if (tilts[h] < 0.25f) continue; /* a NaN fails too */
        return pf_fail(PF_EINVAL, "%s: tilts must be below 1/4, head %s has %g", where, pf_place(h),
                       (double)tilts[h]);
    }
    return 0;
}

pf_rows pf_rows_of(const pf_tensor *t) {
    return (pf_rows){pf_f32(t), t->stride[0], t->stride[1], t->stride[2], t->shape[3], false};
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

int pf_rows_own_gradient(pf_call *c, int i, pf_tensor **t, pf_rows *rows) {
    const pf_tensor *x = c->in[i];
    PF_TRY(pf_heads_output(t, c->engine, x->shape[0], x->shape[1], x->shape[2], x->shape[3]));
    *rows = pf_rows_of(*t);
    return 0;
}

int pf_rows_gradient(pf_call *c, int i, pf_tensor **t, pf_rows *rows) {
    pf_tensor *slot;
    bool fresh;
    *t = NULL;
    if (!pf_grad_gathers(c, i)) return pf_rows_own_gradient(c, i, t, rows);
    PF_TRY(pf_grad_fresh(c, i, &fresh, &slot));
    *rows = pf_rows_of(slot);
    rows->add = !fresh;
    return 0;
}
