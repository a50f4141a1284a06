/*
 * edges_open.c - what forward and backward of edge_attention share: the call as loops see it, and
 * one query with the edges that it sees and their scores.
 */
#include <math.h>

#include "edges.h"

/* ---- the call ---- */

/* low, high (B, Lq): where reach leaves a query not all of the keys. */
static int fill_reach(pf_edge_op *op, pf_call *c) {
    bool causal = pf_reach_causal(c, c->attr[PF_EDGE_CAUSAL].i != 0);
    if (!causal && !c->in[PF_IN_DOCUMENTS] && !c->in[PF_IN_CU_SEQLENS]) return PF_OK;
    pf_reach reach;
    PF_TRY(pf_reach_make(&reach, c, 0, false));
    size_t bytes = (size_t)pf_max(op->B * op->Lq, 1) * sizeof(int32_t);
    int32_t *low = pf_call_alloc(c, bytes), *high = pf_call_alloc(c, bytes);
    if (!low || !high) return PF_ENOMEM;
    int64_t ahead = op->Lk - op->Lq;
    for (int64_t n = 0; n < reach.n; n++) {
        const pf_segment *s = &reach.list[n];
        int64_t at = s->item * op->Lq + s->q_start;
        for (int64_t i = 0; i < s->q_length; i++) {
            int64_t sees = causal ? pf_min(i + 1 + ahead, s->length) : s->length;
            if (reach.limit) sees = reach.limit[at + i];
            low[at + i] = (int32_t)s->start;
            high[at + i] = (int32_t)(s->start + sees);
        }
    }
    op->low = low, op->high = high;
    return PF_OK;
}

/* Numbers that lie in a row; NULL where there are none. */
static int fill_numbers(pf_call *c, int i, const float **numbers) {
    pf_tensor *t;
    PF_TRY(pf_call_compact(c, c->in[i], &t));
    *numbers = t ? pf_f32(t) : NULL;
    return PF_OK;
}

static int fill_graph(pf_edge_op *op, pf_call *c) {
    pf_tensor *edges;
    PF_TRY(pf_call_compact(c, c->in[PF_IN_EDGES], &edges));
    return pf_graph_read(&op->graph, c, edges, op->Lq, op->Lk);
}

/* All but outputs and gradients. seed: of dropout. */
int pf_edge_fill(pf_edge_op *op, pf_call *c, uint64_t seed) {
    const pf_tensor *q = c->in[PF_IN_Q], *k = c->in[PF_IN_K], *bias = c->in[PF_IN_EDGE_BIAS];
    double p = c->attr[PF_EDGE_DROPOUT].f, scale = c->attr[PF_EDGE_SCALE].f;
    *op = (pf_edge_op){.kern = c->engine->kern,
                       .B = q->shape[0],
                       .H = q->shape[1],
                       .Lq = q->shape[2],
                       .d = q->shape[3],
                       .Hk = k->shape[1],
                       .Lk = k->shape[2],
                       .dv = c->in[PF_IN_V]->shape[3],
                       .score = &pf_edge_scores[c->attr[PF_EDGE_SCORE].i],
                       .slope = (float)c->attr[PF_EDGE_SLOPE].f,
                       .mask = c->in[PF_IN_MASK],
                       .bias_heads = bias && bias->rank == 2 ? bias->shape[1] : 1,
                       .dropped = p > 0};
    op->group = op->Hk > 0 ? op->H / op->Hk : 0;
    op->scale = (float)(scale != 0 ? scale : 1 / sqrt((double)op->d));
    op->drops = pf_drops_of(op->kern, p, seed, (uint64_t)c->attr[PF_EDGE_DRAW].i);
    PF_TRY(fill_numbers(c, PF_IN_DECAY, &op->decay));
    PF_TRY(fill_numbers(c, PF_IN_EDGE_BIAS, &op->bias));
    PF_TRY(fill_numbers(c, PF_IN_EDGE_WEIGHT, &op->weight));
    PF_TRY(pf_call_heads(c, c->in[PF_IN_Q], &op->q));
    PF_TRY(pf_call_heads(c, c->in[PF_IN_K], &op->k));
    PF_TRY(pf_call_heads(c, c->in[PF_IN_V], &op->v));
    PF_TRY(fill_graph(op, c));
    return fill_reach(op, c);
}

/* ---- one query ---- */

static float *carve(void **scratch, int64_t n) {
    return pf_carve(scratch, (size_t)n * sizeof(float));
}

static void carve_all(pf_edge_work *w, const pf_edge_op *op, void **scratch) {
    int64_t n = op->graph.widest;
    w->seen = pf_carve(scratch, (size_t)n * sizeof *w->seen);
    w->p = carve(scratch, n);
    w->dp = carve(scratch, n);
    w->keep = carve(scratch, n + 3);
    w->q = carve(scratch, op->d);
    w->z = carve(scratch, op->d);
    w->da = carve(scratch, op->d);
    w->row = carve(scratch, op->d + op->dv);
}

/* What carve_all cuts, measured from address 0. */
size_t pf_edge_work_bytes(const pf_edge_op *op) {
    pf_edge_work w;
    void *end = NULL;
    carve_all(&w, op, &end);
    return (size_t)(uintptr_t)end;
}

void pf_edge_open(pf_edge_work *w, const pf_edge_op *op, int64_t item, int64_t head,
                  void *scratch) {
    *w = (pf_edge_work){.op = op, .kern = op->kern, .item = item, .head = head};
    w->kv = head / op->group;
    carve_all(w, op, &scratch);
}

/* The rows of query i's edges that reach leaves it. */
static void find_seen(pf_edge_work *w) {
    const pf_edge_op *op = w->op;
    const pf_graph *g = &op->graph;
    int64_t at = w->item * op->Lq + w->i;
    int32_t low = op->low ? op->low[at] : 0, high = op->low ? op->high[at] : (int32_t)op->Lk;
    w->n = 0;
    for (int64_t e = g->to.first[w->i]; e < g->to.first[w->i + 1]; e++) {
        int32_t j = pf_edge_from(g, e);
        if (j >= low && j < high && pf_mask_keeps(op->mask, w->item, j)) {
            w->seen[w->n++] = (int32_t)e;
        }
    }
}

/* What a score has beside its ends: the edge's bias, and the decay to the last key in reach. */
static void add_given(pf_edge_work *w) {
    const pf_edge_op *op = w->op;
    int64_t column = op->bias_heads > 1 ? w->head : 0;
    for (int64_t n = 0; op->bias && n < w->n; n++) {
        int64_t number = pf_edge_number(&op->graph, w->seen[n]);
        w->p[n] += op->bias[number * op->bias_heads + column];
    }
    if (!op->decay) return;
    int32_t high = op->high[w->item * op->Lq + w->i];
    for (int64_t n = 0; n < w->n; n++) {
        int32_t j = pf_edge_from(&op->graph, w->seen[n]);
        w->p[n] += op->decay[w->kv] * (float)(j + 1 - high);
    }
}

/* keep <- the factors of all edges of the query. Element (item, head, row of the graph) of the
 * mask, from a multiple of 4 on. */
static void draw(pf_edge_work *w) {
    const pf_edge_op *op = w->op;
    const int64_t *first = op->graph.to.first + w->i;
    int64_t plane = (w->item * op->H + w->head) * pf_round_up(op->graph.n, 4);
    w->kept = first[0] / 4 * 4;
    w->kern->fill(first[1] - w->kept, 1, w->keep);
    pf_drops_apply(&op->drops, plane + w->kept, first[1] - w->kept, w->keep, w->keep);
}

void pf_edge_look(pf_edge_work *w, int64_t i) {
    w->i = i;
    find_seen(w);
    if (w->n == 0) return;
    w->op->score->weigh(w);
    if (w->op->bias || w->op->decay) add_given(w);
    if (w->op->dropped) draw(w);
}
