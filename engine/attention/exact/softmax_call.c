/*
 * softmax_call.c - see softmax_block.h: what the ops of exact softmax check, read and make around
 * their tiles. Saved: out, one log-sum-exp a row, and where weights are dropped the seed.
 */
#include <math.h>

#include "softmax_block.h"

enum { Q = PF_IN_Q, K = PF_IN_K, V = PF_IN_V };

static double dropout_of(const pf_call *c) { return c->attr[PF_SOFTMAX_DROPOUT].f; }

/* Causal without limits the last query sees the last key, so queries may be fewer (streaming). */
int pf_softmax_shape(pf_call *c) {
    int64_t d;
    bool causal = c->attr[PF_SOFTMAX_CAUSAL].i != 0;
    PF_TRY(pf_reach_rows(c, &d));
    PF_TRY(pf_reach_check(c, causal));
    if (causal && !c->in[PF_IN_LIMITS] && c->in[Q]->shape[2] > c->in[K]->shape[2]) {
        return pf_shape_fail(c, "causal attention can't have more queries than keys");
    }
    if (!isfinite(c->attr[PF_SOFTMAX_SCALE].f)) {
        return pf_fail(PF_EINVAL, "%s: scale is %g, not a finite number", c->op->name,
                       c->attr[PF_SOFTMAX_SCALE].f);
    }
    if (dropout_of(c) >= 0 && dropout_of(c) < 1) return PF_OK;
    return pf_fail(PF_EINVAL, "%s: dropout is %g, not in 0 <= p < 1", c->op->name, dropout_of(c));
}

int pf_softmax_open(pf_softmax *op, pf_call *c, uint64_t seed) {
    const pf_tensor *q = c->in[Q];
    double scale = c->attr[PF_SOFTMAX_SCALE].f;
    *op = (pf_softmax){.kern = c->engine->kern,
                       .B = q->shape[0],
                       .H = q->shape[1],
                       .Lq = q->shape[2],
                       .d = q->shape[3],
                       .Hk = c->in[K]->shape[1],
                       .Lk = c->in[K]->shape[2],
                       .dv = c->in[V]->shape[3],
                       .causal = pf_reach_causal(c, c->attr[PF_SOFTMAX_CAUSAL].i != 0),
                       .mask = c->in[PF_IN_MASK],
                       .dropped = dropout_of(c) > 0};
    op->drops = pf_drops_of(op->kern, dropout_of(c), seed, (uint64_t)c->attr[PF_SOFTMAX_DRAW].i);
    op->group = op->Hk > 0 ? op->H / op->Hk : 0;
    op->scale = (float)(scale != 0 ? scale : 1 / sqrt((double)op->d));
    pf_tensor *decay;
    PF_TRY(pf_call_compact(c, c->in[PF_IN_DECAY], &decay));
    if (decay) op->decay = pf_f32(decay);
    PF_TRY(pf_call_heads(c, c->in[Q], &op->q));
    PF_TRY(pf_call_heads(c, c->in[K], &op->k));
    PF_TRY(pf_call_heads(c, c->in[V], &op->v));
    return pf_reach_make(&op->reach, c, 0, false);
}

int pf_softmax_outputs(pf_softmax *op, pf_call *c) {
    int64_t rows[3] = {op->B, op->H, op->Lq};
    if (op->dropped && c->record) PF_TRY(pf_drops_save(c, 1));
    PF_TRY(pf_heads_output(&c->out[0], c->engine, op->B, op->H, op->Lq, op->dv));
    op->out = pf_heads_of(c->out[0]);
    PF_TRY(pf_tensor_make(&c->saved[0], c->engine, PF_F32, 3, rows));
    op->lse = pf_f32(c->saved[0]);
    return PF_OK;
}

/* dq grows tile by tile: it is added to what is there when it is whole. */
static int open_gradient(pf_call *c, int i, pf_tensor **t, pf_heads *rows) {
    PF_TRY(pf_heads_gradient(c, i, t, rows));
    return i == Q && rows->add ? pf_heads_own_gradient(c, i, t, rows) : PF_OK;
}

int pf_softmax_open_back(pf_softmax *op, pf_call *c, pf_tensor *made[3]) {
    PF_TRY(pf_softmax_open(op, c, dropout_of(c) > 0 ? pf_drops_seed(c, 1) : 0));
    op->out = pf_heads_of(c->out[0]);
    op->lse = pf_f32(c->saved[0]);
    PF_TRY(pf_call_heads(c, c->dout[0], &op->dout));
    op->need_q = c->need[Q], op->need_k = c->need[K], op->need_v = c->need[V];
    made[Q] = made[K] = made[V] = NULL;
    if (op->need_q) PF_TRY(open_gradient(c, Q, &made[Q], &op->dq));
    if (op->need_k) PF_TRY(open_gradient(c, K, &made[K], &op->dk));
    if (op->need_v) PF_TRY(open_gradient(c, V, &made[V], &op->dvalue));
    return PF_OK;
}

int pf_softmax_give(pf_call *c, pf_tensor *const made[3]) {
    for (int i = Q; i <= V; i++)
        if (made[i]) PF_TRY(pf_grad_give(c, i, made[i]));
    return PF_OK;
}

int64_t pf_softmax_limit(const pf_softmax *op, const pf_segment *seg, int64_t i) {
    const int32_t *limit = op->reach.limit;
    if (limit) return limit[seg->item * op->Lq + seg->q_start + i];
    return op->causal ? pf_min(i + 1 + pf_tile_ahead(seg), seg->length) : seg->length;
}

float pf_softmax_factor(const pf_softmax *op, const pf_segment *seg, int64_t head, int64_t i,
                        int64_t j) {
    int64_t row = (seg->item * op->H + head) * op->Lq + seg->q_start + i;
    int64_t at = row * pf_round_up(op->Lk, PF_TILE) + j;
    float four[4] = {1, 1, 1, 1}; /* words of the mask come in fours */
    if (op->dropped) pf_drops_apply(&op->drops, at - at % 4, 4, four, four);
    return four[op->dropped ? at % 4 : 0];
}
