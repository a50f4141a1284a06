/*
 * identity.c - the kind identity: attention that returns its values, the paper's X (OPT) line,
 * the limit of speed. Its gradients for q and k are zeros, so that a block's projections still
 * run both ways.
 */
#include "attention.h"

/* What it does not read is checked all the same: a model that trains with it trains with others. */
static int identity_shape(pf_call *c) {
    int64_t d;
    PF_TRY(pf_reach_rows(c, &d));
    PF_TRY(pf_reach_check(c, true));
    if (c->in[PF_IN_Q]->shape[2] == c->in[PF_IN_K]->shape[2]) return PF_OK;
    return pf_shape_fail(c, "identity attention needs as many queries as keys");
}

/* Heads of keys stand for a group of heads each: *y (B, Hk, group, L, dv), a view of x, which is
 * (B, Hk, L, dv) with every one repeated, or (B, Hk group, L, dv) with those that it has. */
static int by_groups(pf_call *c, pf_tensor **y, const pf_tensor *x, int64_t Hk, int64_t group) {
    bool repeated = x->shape[1] == Hk;
    PF_TRY(pf_tensor_view(y, x));
    pf_tensor *t = *y;
    t->rank = 5;
    for (int i = 4; i > 2; i--) {
        t->shape[i] = x->shape[i - 1];
        t->stride[i] = x->stride[i - 1];
    }
    t->shape[1] = Hk;
    t->stride[1] = repeated ? x->stride[1] : x->stride[1] * group;
    t->shape[2] = group;
    t->stride[2] = repeated ? 0 : x->stride[1];
    return pf_call_hold(c, t);
}

/* Every head of a group returns its key head's values. */
static int identity_forward(pf_call *c) {
    const pf_tensor *q = c->in[PF_IN_Q], *v = c->in[PF_IN_V];
    int64_t H = q->shape[1], Hk = v->shape[1], group = Hk > 0 ? H / Hk : 1;
    pf_tensor *from, *to;
    if (group == 1) return pf_tensor_view(&c->out[0], v);
    PF_TRY(pf_heads_output(&c->out[0], c->engine, v->shape[0], H, v->shape[2], v->shape[3]));
    PF_TRY(by_groups(c, &from, v, Hk, group));
    PF_TRY(by_groups(c, &to, c->out[0], Hk, group));
    return pf_tensor_copy(to, from);
}

/* Shaped like input i and laid out like an output. */
static int zeros_like(pf_call *c, int i, pf_tensor **zeros) {
    pf_heads rows;
    PF_TRY(pf_heads_own_gradient(c, i, zeros, &rows));
    return pf_tensor_fill(*zeros, 0);
}

/* A slot that is not fresh holds a sum, to which 0 adds nothing. */
static int give_zeros(pf_call *c, int i) {
    pf_tensor *zeros;
    bool fresh;
    if (pf_grad_gathers(c, i)) {
        PF_TRY(pf_grad_fresh(c, i, &fresh, &zeros));
        return fresh ? pf_tensor_fill(zeros, 0) : PF_OK;
    }
    PF_TRY(zeros_like(c, i, &zeros));
    return pf_grad_give(c, i, zeros);
}

/* The gradients of a group's heads in one, the first head first. */
static int give_sum(pf_call *c, int64_t group) {
    const pf_tensor *v = c->in[PF_IN_V];
    int64_t H = v->shape[1] * group, L = v->shape[2], rows = v->shape[0] * H * L;
    pf_tensor *sum;
    pf_heads from;
    PF_TRY(pf_call_heads(c, c->dout[0], &from));
    PF_TRY(zeros_like(c, PF_IN_V, &sum));
    pf_heads to = pf_heads_of(sum);
    for (int64_t i = 0; i < rows; i++) {
        int64_t at = i % L, h = i / L % H, b = i / L / H;
        c->engine->kern->axpy(to.width, 1, pf_heads_row(&from, b, h, at),
                              pf_heads_row(&to, b, h / group, at));
    }
    return pf_grad_give(c, PF_IN_V, sum);
}

static int identity_backward(pf_call *c) {
    int64_t Hk = c->in[PF_IN_V]->shape[1], group = Hk > 0 ? c->in[PF_IN_Q]->shape[1] / Hk : 1;
    if (c->need[PF_IN_Q]) PF_TRY(give_zeros(c, PF_IN_Q));
    if (c->need[PF_IN_K]) PF_TRY(give_zeros(c, PF_IN_K));
    if (!c->need[PF_IN_V]) return PF_OK;
    return group == 1 ? pf_grad_give(c, PF_IN_V, c->dout[0]) : give_sum(c, group);
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

/* Nothing is remembered: streaming returns the new values, as whole rows do. */
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

static void identity_flops(const pf_attention *a, const pf_attention_shape *shape, double *forward,
                           double *backward) {
    (void)a, (void)shape;
    *forward = *backward = 0;
}

const pf_attention_kind pf_kind_identity = {
    .name = "identity",
    .doc = "Returns its values: the limit of speed (paper, section 4.1).",
    .takes = PF_TAKES_ALL,
    .call = identity_call,
    .prefill = identity_prefill,
    .step_rows = true,
    .part = identity_part,
    .flops = identity_flops,
};
