/*
 * identity.c - the kind identity: attention that returns its values, the paper's X (OPT) line,
 * the limit of speed. Its gradients for q and k are zeros, so that a block's projections still
 * run both ways.
 */
#include "attention.h"

static int identity_shape(pf_call *c) {
    int64_t d;
    PF_TRY(pf_reach_rows(c, &d));
    PF_TRY(pf_reach_check(c, true));
    if (c->in[PF_IN_Q]->shape[2] == c->in[PF_IN_K]->shape[2]) return PF_OK;
    return pf_shape_fail(c, "identity attention needs as many queries as keys");
}

/* x (B, Hk, L, dv) as (B, Hk, group, L, dv), its heads standing for a group each: a view. */
static int as_groups(pf_tensor **y, const pf_tensor *x, int64_t group) {
    PF_TRY(pf_tensor_view(y, x));
    pf_tensor *t = *y;
    t->rank = 5;
    for (int i = 4; i > 2; i--) {
        t->shape[i] = x->shape[i - 1];
        t->stride[i] = x->stride[i - 1];
    }
    t->shape[2] = group;
    t->stride[2] = 0;
    return PF_OK;
}

/* The same of a tensor with H heads: their own rows. */
static int by_groups(pf_tensor **y, const pf_tensor *x, int64_t group) {
    PF_TRY(as_groups(y, x, group));
    (*y)->shape[1] = x->shape[1] / group;
    (*y)->stride[1] = x->stride[1] * group;
    (*y)->stride[2] = x->stride[1];
    return PF_OK;
}

/* Every head of a group returns its key head's values. */
static int identity_forward(pf_call *c) {
    const pf_tensor *q = c->in[0], *v = c->in[2];
    int64_t H = q->shape[1], group = v->shape[1] > 0 ? H / v->shape[1] : 1;
    if (group == 1) return pf_tensor_view(&c->out[0], v);
    pf_tensor *from = NULL, *to = NULL;
    PF_TRY(pf_heads_output(&c->out[0], c->engine, v->shape[0], H, v->shape[2], v->shape[3]));
    int status = as_groups(&from, v, group);
    if (status >= 0) status = by_groups(&to, c->out[0], group);
    if (status >= 0) status = pf_tensor_copy(to, from);
    pf_tensor_release(&from);
    pf_tensor_release(&to);
    return status;
}

static int give_zeros(pf_call *c, int i) {
    const int64_t *s = c->in[i]->shape;
    pf_tensor *zero = NULL;
    PF_TRY(pf_heads_output(&zero, c->engine, s[0], s[1], s[2], s[3]));
    int status = pf_tensor_fill(zero, 0);
    if (status >= 0) status = pf_grad_give(c, i, zero);
    pf_tensor_release(&zero);
    return status;
}

/* The gradients of a group's heads in one, the first head first. */
static int give_sum(pf_call *c, int64_t group) {
    const pf_tensor *v = c->in[2];
    pf_tensor *sum = NULL, *dout = NULL;
    pf_heads to, from;
    PF_TRY(pf_heads_ready(c->engine, c->dout[0], &dout, &from));
    int status =
        pf_heads_output(&sum, c->engine, v->shape[0], v->shape[1], v->shape[2], v->shape[3]);
    if (status >= 0) status = pf_tensor_fill(sum, 0);
    if (status >= 0) {
        to = pf_heads_of(sum);
        int64_t H = v->shape[1], L = v->shape[2], rows = v->shape[0] * H * group * L;
        for (int64_t i = 0; i < rows; i++) {
            int64_t at = i % L, h = i / L % (H * group), b = i / L / (H * group);
            c->engine->kern->axpy(to.width, 1, pf_heads_row(&from, b, h, at),
                                  pf_heads_row(&to, b, h / group, at));
        }
        status = pf_grad_give(c, 2, sum);
    }
    pf_tensor_release(&dout);
    pf_tensor_release(&sum);
    return status;
}

static int identity_backward(pf_call *c) {
    for (int i = 0; i < 2; i++) {
        if (c->need[i]) PF_TRY(give_zeros(c, i));
    }
    if (!c->need[2]) return PF_OK;
    int64_t Hk = c->in[2]->shape[1], group = Hk > 0 ? c->in[0]->shape[1] / Hk : 1;
    return group == 1 ? pf_grad_give(c, 2, c->dout[0]) : give_sum(c, group);
}

const pf_op pf_op_identity_attention = {
    .name = "identity_attention",
    .args = "q, k, v, " PF_REACH_ARGS,
    .results = "out",
    .doc = "Returns v (each key head's to all heads of its group); zero gradients for q and k. "
           "Takes what exact_attention takes, and reads only v. The limit of speed (paper, section "
           "4.1).",
    .min_in = 3,
    .max_in = PF_REACH_INPUTS,
    .n_out = 1,
    .flags = PF_OP_OWN_OUTPUTS,
    .shape = identity_shape,
    .forward = identity_forward,
    .backward = identity_backward,
};

/* ---- the kind ---- */

/* Who sees whom makes no difference, so only the rows are handed on. */
static int identity_call(pf_tensor **out, pf_engine *e, const pf_attention *a, pf_tensor *const *in,
                         bool exit) {
    (void)a, (void)exit;
    return pf_apply(e, &pf_op_identity_attention, in, 3, NULL, out);
}

static int identity_prefill(pf_tensor **out, pf_engine *e, const pf_attention *a, pf_state *s,
                            pf_tensor *q, pf_tensor *k, pf_tensor *v) {
    (void)a, (void)s;
    pf_tensor *in[3] = {q, k, v};
    return pf_apply_lasting(e, &pf_op_identity_attention, in, 3, NULL, out);
}

static int identity_part(pf_tensor **out, pf_engine *e, const pf_attention *a, pf_state *s,
                         pf_tensor *const *in) {
    (void)s;
    return identity_call(out, e, a, in, false);
}

static void identity_flops(const pf_attention_shape *shape, double *forward, double *backward) {
    (void)shape;
    *forward = *backward = 0;
}

const pf_attention_kind pf_kind_identity = {
    .name = "identity",
    .doc = "Returns its values: the limit of speed (paper, section 4.1).",
    .call = identity_call,
    .prefill = identity_prefill,
    .part = identity_part,
    .flops = identity_flops,
};
