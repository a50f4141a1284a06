/*
 * shapes.c - what every attention op checks of its inputs (reach.h): q (B, H, Lq, d),
 * k (B, Hk, Lk, d), v (B, Hk, Lk, dv) with H a multiple of Hk, and who sees whom. Shapes only: what
 * numbers they hold is looked at in the forward (segments.c, limits.c), and messages name arguments
 * as the op calls them (phi_q of linear_attention).
 */
#include <math.h>

#include "reach.h"

static int check_rank(const pf_call *c, int i) {
    if (c->in[i]->dtype != PF_F32) {
        return pf_fail(PF_EDTYPE, "%s: %s must be f32, got %s", c->op->name,
                       pf_op_arg_name(c->op, i), pf_dtype_name(c->in[i]->dtype));
    }
    if (c->in[i]->rank == 4) return PF_OK;
    return pf_shape_fail(c, "%s must have 4 dimensions (batch, heads, length, width)",
                         pf_op_arg_name(c->op, i));
}

static int check_heads(const pf_call *c) {
    const pf_tensor *q = c->in[0], *k = c->in[1], *v = c->in[2];
    if (q->shape[0] != k->shape[0] || k->shape[0] != v->shape[0]) {
        return pf_shape_fail(c, "the batch must agree");
    }
    int64_t H = q->shape[1], Hk = k->shape[1];
    if (v->shape[1] != Hk) return pf_shape_fail(c, "the heads must agree");
    if (Hk == H || (Hk > 0 && H > 0 && H % Hk == 0)) return PF_OK;
    return pf_shape_fail(c,
                         "the heads must agree, or those of %s be a multiple of "
                         "those of %s and %s",
                         pf_op_arg_name(c->op, 0), pf_op_arg_name(c->op, 1),
                         pf_op_arg_name(c->op, 2));
}

int pf_reach_rows(pf_call *c, int64_t *width) {
    for (int i = 0; i < 3; i++) PF_TRY(check_rank(c, i));
    PF_TRY(check_heads(c));
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

/* t is (B, L). */
static int check_pair(const pf_call *c, const pf_tensor *t, int64_t B, int64_t L,
                      const char *what) {
    if (t->rank == 2 && t->shape[0] == B && t->shape[1] == L) return PF_OK;
    return pf_shape_fail(c, "%s must be (batch, length) = [%lld, %lld]", what, (long long)B,
                         (long long)L);
}

/* mask and documents (B, Lk). Causal queries of documents may be fewer than keys: the last ones. */
static int check_masks(const pf_call *c, bool causal) {
    const pf_tensor *mask = c->in[PF_IN_MASK], *documents = c->in[PF_IN_DOCUMENTS];
    int64_t B = c->in[0]->shape[0], Lq = c->in[0]->shape[2], Lk = c->in[1]->shape[2];
    if (mask) PF_TRY(check_pair(c, mask, B, Lk, "mask"));
    if (!documents) return PF_OK;
    PF_TRY(check_pair(c, documents, B, Lk, "documents"));
    PF_TRY(pf_tensor_check(documents, PF_I32, c->op->name, "documents"));
    if (Lq == Lk || (causal && Lq < Lk)) return PF_OK;
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
    if (!prefix) return PF_OK;
    PF_TRY(pf_tensor_check(prefix, PF_I32, c->op->name, "prefix"));
    if (limits) return pf_shape_fail(c, "limits and prefix don't go together: limits say it all");
    if (prefix->rank != 1 || prefix->shape[0] != B) {
        return pf_shape_fail(c, "prefix must be (batch) = [%lld]", (long long)B);
    }
    if (Lq == Lk) return PF_OK;
    return pf_shape_fail(c, "a prefix needs as many queries as keys");
}

/* cu_seqlens (documents + 1), another way to say `documents` for a batch of 1. */
static int check_offsets(const pf_call *c, const pf_tensor *offsets, bool documents) {
    if (!offsets) return PF_OK;
    PF_TRY(pf_tensor_check(offsets, PF_I32, c->op->name, "cu_seqlens"));
    if (documents) return pf_shape_fail(c, "documents and cu_seqlens say the same: give one");
    if (offsets->rank != 1 || offsets->shape[0] < 1) {
        return pf_shape_fail(c, "cu_seqlens must be (documents + 1) offsets");
    }
    if (c->in[0]->shape[0] != 1) {
        return pf_shape_fail(c, "cu_seqlens are for a batch of 1, of packed documents");
    }
    if (c->in[0]->shape[2] == c->in[1]->shape[2]) return PF_OK;
    return pf_shape_fail(c, "cu_seqlens need as many queries as keys");
}

int pf_reach_decay(const pf_tensor *t, const char *where) {
    for (int64_t h = 0; h < t->shape[0]; h++) {
        double decay = (double)pf_f32(t)[h * t->stride[0]];
        if (decay >= 0 && isfinite(decay)) continue;
        return pf_fail(PF_EINVAL,
                       "%s: decay of head %s is %g; a key counts exp(-decay) less a token, so it "
                       "is a finite number from 0 on",
                       where, pf_place(h), decay);
    }
    return PF_OK;
}

/* decay (Hk) */
static int check_decay(const pf_call *c, bool causal) {
    const pf_tensor *t = c->in[PF_IN_DECAY];
    if (!t) return PF_OK;
    PF_TRY(pf_tensor_check(t, PF_F32, c->op->name, "decay"));
    if (t->rank != 1 || t->shape[0] != c->in[1]->shape[1]) {
        return pf_shape_fail(c, "decay must be (heads of %s) = [%lld]", pf_op_arg_name(c->op, 1),
                             (long long)c->in[1]->shape[1]);
    }
    if (causal) return pf_reach_decay(t, c->op->name);
    return pf_fail(PF_EINVAL, "%s: decay is for causal attention only", c->op->name);
}

int pf_reach_check(const pf_call *c, bool causal) {
    const pf_tensor *offsets = c->in[PF_IN_CU_SEQLENS], *prefix = c->in[PF_IN_PREFIX];
    const pf_tensor *documents = c->in[PF_IN_DOCUMENTS];
    PF_TRY(check_masks(c, causal));
    PF_TRY(check_limits(c, c->in[PF_IN_LIMITS], prefix));
    PF_TRY(check_offsets(c, offsets, documents != NULL));
    if (prefix && (offsets || documents)) {
        return pf_shape_fail(c, "a prefix is of an item, not of packed documents: give limits");
    }
    if (prefix && !causal) {
        return pf_fail(PF_EINVAL,
                       "%s: a prefix is for causal attention, where keys behind it are seen from "
                       "their own place on: give causal = true",
                       c->op->name);
    }
    return check_decay(c, pf_reach_causal(c, causal));
}
