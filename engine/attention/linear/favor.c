/*
 * favor.c - the rows favor and linear_attention: the linear-attention operator as an op.
 *
 * favor encodes q and k by a feature map; linear_attention is given the features. Both
 * take an entry state and return the exit state, differentiable in S and z (the log-scale
 * is a constant: attention does not depend on it). Saved for the backward: out, one
 * denominator a row, when causal one running maximum a key and a state every PF_SPAN keys, else
 * one state a key head (documents in full attention sweep their keys again).
 *
 * Nothing of size (L, r) is saved: features are cheaper to make again than to write and read.
 */
#include "attention.h"
#include "operator.h"

enum { SAVED_DENOMINATOR, SAVED_RUNNING, SAVED_STATES };

#define LINEAR_ATTRS                                                                               \
    {"causal", PF_ATTR_BOOL, 0, false, NULL, "position i sees keys 1 .. i"}, {                     \
        "state", PF_ATTR_BOOL, 0, false, NULL, "return the exit state too"                         \
    }
static const pf_attr_info linear_attrs[] = {LINEAR_ATTRS};
static const pf_attr_info favor_attrs[] = {
    LINEAR_ATTRS,
#include "kernel_attrs.def"
};
#undef LINEAR_ATTRS

/* linear_attention is favor without a kernel: its rows are features. */
static bool is_given(const pf_call *c) { return c->op == &pf_op_linear_attention; }

static bool is_causal(const pf_call *c) { return pf_reach_causal(c, c->attr[PF_A_CAUSAL].i != 0); }

/* Entry state: all three or none, shaped (B, Hk, r, dv), (B, Hk, r), (B, Hk). */
static int check_entry(const pf_call *c, const int64_t *state) {
    int given = !!c->in[PF_IN_ENTRY_S] + !!c->in[PF_IN_ENTRY_Z] + !!c->in[PF_IN_ENTRY_SHIFT];
    if (given == 0) return PF_OK;
    if (given < 3) {
        return pf_fail(PF_EINVAL, "%s: entry_s, entry_z and entry_shift go together", c->op->name);
    }
    static const int rank[3] = {4, 3, 2};
    for (int i = 0; i < 3; i++) {
        const pf_tensor *t = c->in[PF_IN_ENTRY_S + i];
        PF_TRY(pf_tensor_check(t, PF_F32, c->op->name, pf_op_arg_name(c->op, PF_IN_ENTRY_S + i)));
        bool fits = t->rank == rank[i] && pf_tensor_contiguous(t);
        for (int k = 0; fits && k < rank[i]; k++) fits = t->shape[k] == state[k];
        if (!fits) {
            return pf_shape_fail(c, "%s must be %s and contiguous",
                                 pf_op_arg_name(c->op, PF_IN_ENTRY_S + i),
                                 pf_shape_text(rank[i], state));
        }
    }
    return PF_OK;
}

/* What the op is to be told of its rows: with a kernel or as features; *r: their width. */
static int check_kernel(const pf_call *c, int64_t d, int64_t *r) {
    *r = d;
    if (is_given(c)) return PF_OK;
    return pf_call_kernel_check(c, PF_A_KERNEL, PF_IN_KERNEL, c->in[PF_IN_K]->shape[1], d, r);
}

/* q, k, v and the output, the kernel, who sees whom, and the states. The width of given features is
 * that of the rows. */
static int favor_shape(pf_call *c) {
    int64_t d, r;
    bool causal = c->attr[PF_A_CAUSAL].i != 0;
    PF_TRY(pf_reach_rows(c, &d));
    PF_TRY(check_kernel(c, d, &r));
    PF_TRY(pf_reach_check(c, causal));
    if (is_causal(c) && !c->in[PF_IN_LIMITS] &&
        c->in[PF_IN_Q]->shape[2] != c->in[PF_IN_K]->shape[2]) {
        return pf_shape_fail(c, "causal attention needs as many queries as keys, or limits");
    }
    int64_t state[4] = {c->in[PF_IN_Q]->shape[0], c->in[PF_IN_K]->shape[1], r,
                        c->in[PF_IN_V]->shape[3]};
    PF_TRY(check_entry(c, state));
    for (int o = PF_OUT_EXIT_S; o < PF_LINEAR_OUTPUTS; o++) {
        if (!c->attr[PF_A_STATE].i) {
            c->shape[o].rank = -1;
        } else {
            PF_TRY(pf_set_shape(c, o, PF_F32, 5 - o, state));
        }
    }
    return PF_OK;
}

/* Features of queries and keys, the state's update and its reading, and within causal chunks
 * scores and values: as pf_attention_flops has it, of shapes alone. */
static double favor_products(const pf_call *c) {
    const int64_t *q = c->in[PF_IN_Q]->shape, *k = c->in[PF_IN_K]->shape;
    double queries = (double)(q[0] * q[1]) * (double)q[2];
    double keys = (double)(k[0] * k[1]) * (double)k[2], dv = (double)c->in[PF_IN_V]->shape[3], m;
    double features = pf_call_kernel_products(c, PF_IN_KERNEL, queries + keys, q[3], &m);
    double chunks = is_causal(c) ? queries * PF_CAUSAL_BLOCK * (m + dv) : 0;
    return features + (queries + keys) * m * (dv + 1) + chunks;
}

/* ---- filling the operator ---- */

static int fill_encoding(pf_operator *op, pf_call *c) {
    int64_t d = c->in[PF_IN_Q]->shape[3], heads = c->in[PF_IN_K]->shape[1];
    if (is_given(c))
        pf_encoding_given(&op->encoding, c->engine->kern, d, 1);
    else
        PF_TRY(pf_call_encoding(&op->encoding, c, PF_A_KERNEL, PF_IN_KERNEL, heads, d));
    op->d = d, op->m = op->encoding.m, op->r = op->encoding.r;
    return PF_OK;
}

static void fill_sizes(pf_operator *op, const pf_call *c) {
    const pf_tensor *q = c->in[PF_IN_Q], *k = c->in[PF_IN_K];
    op->engine = c->engine;
    op->B = q->shape[0], op->H = q->shape[1], op->Lq = q->shape[2];
    op->Hk = k->shape[1], op->Lk = k->shape[2], op->dv = c->in[PF_IN_V]->shape[3];
    op->group = op->Hk > 0 ? op->H / op->Hk : 0;
    op->causal = is_causal(c);
    op->block = op->causal ? PF_CAUSAL_BLOCK : PF_FULL_BLOCK;
    op->mask = c->in[PF_IN_MASK];
}

/* *data: the numbers of t in a row; t NULL: NULL. */
static int take_numbers(pf_call *c, const pf_tensor *t, const float **data) {
    pf_tensor *flat;
    PF_TRY(pf_call_compact(c, t, &flat));
    *data = flat ? pf_f32(flat) : NULL;
    return PF_OK;
}

/* What forward and backward share: all but outputs and gradients. */
static int fill(pf_operator *op, pf_call *c) {
    fill_sizes(op, c);
    PF_TRY(fill_encoding(op, c));
    PF_TRY(pf_call_heads(c, c->in[PF_IN_Q], &op->q));
    PF_TRY(pf_call_heads(c, c->in[PF_IN_K], &op->k));
    PF_TRY(pf_call_heads(c, c->in[PF_IN_V], &op->v));
    PF_TRY(take_numbers(c, c->in[PF_IN_DECAY], &op->decay));
    PF_TRY(take_numbers(c, c->in[PF_IN_ENTRY_S], &op->entry_s));
    PF_TRY(take_numbers(c, c->in[PF_IN_ENTRY_Z], &op->entry_z));
    PF_TRY(take_numbers(c, c->in[PF_IN_ENTRY_SHIFT], &op->entry_shift));
    return pf_reach_make(&op->reach, c, PF_SPAN, true);
}

/* ---- forward ---- */

/* States that the backward starts from; they fit in what it would take to make them again. */
static int make_states(pf_call *c, pf_operator *op) {
    int64_t state = op->r * op->dv + op->r;
    int64_t shape[3] = {op->B, op->Hk, state + 1};
    if (op->causal) {
        shape[0] = op->reach.spans;
        shape[2] = state;
    }
    bool any = op->causal ? op->reach.spans > 0 : op->reach.n == op->B;
    if (!c->record || !any) return PF_OK;
    PF_TRY(pf_tensor_make(&c->saved[SAVED_STATES], c->engine, PF_F32, 3, shape));
    op->saved = pf_f32(c->saved[SAVED_STATES]);
    return PF_OK;
}

/* The row makes its outputs itself: out with its heads side by side, and exit states only where
 * they are asked for. Denominators and running maxima are written anyway, so they are saved
 * whether or not a backward may follow: the call drops what nobody needs. */
static int make_outputs(pf_call *c, pf_operator *op) {
    PF_TRY(pf_heads_output(&c->out[PF_OUT], c->engine, op->B, op->H, op->Lq, op->dv));
    op->out = pf_heads_of(c->out[PF_OUT]);
    int64_t rows[3] = {op->B, op->H, op->Lq};
    PF_TRY(pf_tensor_make(&c->saved[SAVED_DENOMINATOR], c->engine, PF_F32, 3, rows));
    op->denominator = pf_f32(c->saved[SAVED_DENOMINATOR]);
    if (op->causal) {
        rows[1] = op->Hk, rows[2] = op->Lk;
        PF_TRY(pf_tensor_make(&c->saved[SAVED_RUNNING], c->engine, PF_F32, 3, rows));
        op->running = pf_f32(c->saved[SAVED_RUNNING]);
    }
    PF_TRY(make_states(c, op));
    if (!c->attr[PF_A_STATE].i) return PF_OK;
    for (int o = PF_OUT_EXIT_S; o < PF_LINEAR_OUTPUTS; o++) {
        PF_TRY(pf_tensor_make(&c->out[o], c->engine, PF_F32, c->shape[o].rank, c->shape[o].dim));
    }
    op->exit_s = pf_f32(c->out[PF_OUT_EXIT_S]);
    op->exit_z = pf_f32(c->out[PF_OUT_EXIT_Z]);
    op->exit_shift = pf_f32(c->out[PF_OUT_EXIT_SHIFT]);
    return PF_OK;
}

static int favor_forward(pf_call *c) {
    pf_operator op = {0};
    PF_TRY(fill(&op, c));
    PF_TRY(make_outputs(c, &op));
    return pf_linear_run(&op, false);
}

/* ---- backward ---- */

/* dout (zeros when only the state was used) and the exit state's gradients. */
static int fill_cotangents(pf_call *c, pf_operator *op) {
    pf_tensor *dout = c->dout[PF_OUT];
    if (!dout) {
        PF_TRY(pf_heads_output(&dout, c->engine, op->B, op->H, op->Lq, op->dv));
        PF_TRY(pf_call_hold(c, dout));
        PF_TRY(pf_tensor_fill(dout, 0));
    }
    PF_TRY(pf_call_heads(c, dout, &op->dout));
    PF_TRY(take_numbers(c, c->dout[PF_OUT_EXIT_S], &op->dexit_s));
    return take_numbers(c, c->dout[PF_OUT_EXIT_Z], &op->dexit_z);
}

/* Gradients that are given when they are whole; NULL: not wanted, or written into the slot. */
typedef struct {
    pf_tensor *q, *k, *v, *s, *z;
} favor_gradients;

/* The operator writes both of the entry state, or neither. */
static int make_gradients(pf_call *c, pf_operator *op, favor_gradients *g) {
    op->need_q = c->need[PF_IN_Q], op->need_k = c->need[PF_IN_K], op->need_v = c->need[PF_IN_V];
    if (op->need_q) PF_TRY(pf_heads_gradient(c, PF_IN_Q, &g->q, &op->dq));
    if (op->need_k) PF_TRY(pf_heads_gradient(c, PF_IN_K, &g->k, &op->dk));
    if (op->need_v) PF_TRY(pf_heads_gradient(c, PF_IN_V, &g->v, &op->dvalue));
    if (!c->need[PF_IN_ENTRY_S] && !c->need[PF_IN_ENTRY_Z]) return PF_OK;
    PF_TRY(pf_call_make(c, PF_F32, 4, c->in[PF_IN_ENTRY_S]->shape, &g->s));
    PF_TRY(pf_call_make(c, PF_F32, 3, c->in[PF_IN_ENTRY_Z]->shape, &g->z));
    op->dentry_s = pf_f32(g->s);
    op->dentry_z = pf_f32(g->z);
    return PF_OK;
}

/* Whole gradients to those who need them. */
static int give_gradients(pf_call *c, const favor_gradients *g) {
    if (g->q) PF_TRY(pf_grad_give(c, PF_IN_Q, g->q));
    if (g->k) PF_TRY(pf_grad_give(c, PF_IN_K, g->k));
    if (g->v) PF_TRY(pf_grad_give(c, PF_IN_V, g->v));
    if (c->need[PF_IN_ENTRY_S]) PF_TRY(pf_grad_give(c, PF_IN_ENTRY_S, g->s));
    if (c->need[PF_IN_ENTRY_Z]) PF_TRY(pf_grad_give(c, PF_IN_ENTRY_Z, g->z));
    return PF_OK;
}

static int favor_backward(pf_call *c) {
    pf_operator op = {0};
    favor_gradients g = {0};
    PF_TRY(fill(&op, c));
    op.out = pf_heads_of(c->out[PF_OUT]);
    op.denominator = pf_f32(c->saved[SAVED_DENOMINATOR]);
    if (op.causal) op.running = pf_f32(c->saved[SAVED_RUNNING]);
    if (c->saved[SAVED_STATES]) op.saved = pf_f32(c->saved[SAVED_STATES]);
    PF_TRY(fill_cotangents(c, &op));
    PF_TRY(make_gradients(c, &op, &g));
    PF_TRY(pf_linear_run(&op, true));
    return give_gradients(c, &g);
}

const pf_op pf_op_favor = {
    .name = "favor",
    .args = "q, k, v, " PF_REACH_ARGS ", [entry_s], [entry_z], [entry_shift], " PF_KERNEL_ARGS,
    .results = "out, exit_s, exit_z, exit_shift",
    .doc =
        "Linear attention (FAVOR+): out_i = sum_j phi(q_i).phi(k_j) v_j / sum_j "
        "phi(q_i).phi(k_j). q (B, H, Lq, d), k (B, Hk, Lk, d), v (B, Hk, Lk, dv) with H a multiple "
        "of Hk: query head h reads key head h / (H / Hk). projection (features, d) or (Hk, "
        "features, d), mask (B, Lk) of 1 keep and 0 not there, documents (B, L) i32: attention "
        "stays inside runs of equal numbers, cu_seqlens (n + 1) i32: the same for B = 1 as offsets "
        "0 .. L. Whom query i sees: all keys; causal, keys 1 .. i; limits (B, Lq) or (Lq) i32, "
        "keys 1 .. limits_i, in any order, 0 for none; prefix (B) i32, keys 1 .. max(i, prefix). "
        "decay (Hk) of numbers D >= 0, not for full attention: key j counts exp(-D (n_i - j)), "
        "n_i being the last key that query i sees. tilts (Hk) of softmax_plus's A, a head each. "
        "Where a map has both signs a denominator can be 0. Below 2^-80 in size it counts as no "
        "key in reach: output and gradients 0. Paper, sections 2.2 to 2.4.",
    .min_in = 3,
    .max_in = PF_FAVOR_INPUTS,
    .n_out = PF_LINEAR_OUTPUTS,
    .flags = PF_OP_OWN_OUTPUTS,
    .uses = PF_USES_ALL_IN | PF_USES_OUT(PF_OUT),
    .attrs = favor_attrs,
    .n_attrs = PF_COUNT(favor_attrs),
    .shape = favor_shape,
    .products = favor_products,
    .forward = favor_forward,
    .backward = favor_backward,
};

const pf_op pf_op_linear_attention = {
    .name = "linear_attention",
    .args = "phi_q, phi_k, v, " PF_REACH_ARGS ", [entry_s], [entry_z], [entry_shift]",
    .results = "out, exit_s, exit_z, exit_shift",
    .doc = "The same operator with features given: phi_q (B, H, Lq, r), phi_k (B, Hk, Lk, r), "
           "v (B, Hk, Lk, dv).",
    .min_in = 3,
    .max_in = PF_LINEAR_INPUTS,
    .n_out = PF_LINEAR_OUTPUTS,
    .flags = PF_OP_OWN_OUTPUTS,
    .uses = PF_USES_ALL_IN | PF_USES_OUT(PF_OUT),
    .attrs = linear_attrs,
    .n_attrs = PF_COUNT(linear_attrs),
    .shape = favor_shape,
    .products = favor_products,
    .forward = favor_forward,
    .backward = favor_backward,
};
