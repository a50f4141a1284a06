/*
 * edges.c - the op edge_attention, forward: a task is queries in a row, of one item and
 * head, and walks the edges of each (edges.h).
 *
 * Saved is one log-sum-exp a row; the backward (edges_back.c) makes the weights again.
 */
#include <math.h>

#include "edges.h"

#define SLOPE 0.2 /* where none is given */

static void forward_query(pf_edge_work *w, int64_t i) {
    const pf_edge_op *op = w->op;
    float *out = pf_heads_row(&op->out, w->item, w->head, i), lse = -INFINITY;
    w->kern->fill(op->dv, 0, out);
    pf_edge_look(w, i);
    if (w->n > 0) lse = w->kern->softmax(w->n, w->p, w->p);
    for (int64_t n = 0; n < w->n && lse != -INFINITY; n++) {
        float keep = pf_edge_keep(w, n);
        int32_t j = pf_edge_from(&op->graph, w->seen[n]);
        if (keep == 0) continue;
        w->kern->axpy(op->dv, keep * w->p[n], pf_heads_row(&op->v, w->item, w->kv, j), out);
    }
    op->lse[(w->item * op->H + w->head) * op->Lq + i] = lse;
}

/* Task: queries in a row, of one item and head. */
static void forward_task(void *context, int64_t task, void *scratch) {
    const pf_edge_op *op = context;
    const pf_edge_ends *to = &op->graph.to;
    int64_t part = task % to->tasks, pair = task / to->tasks;
    pf_edge_work w;
    pf_edge_open(&w, op, pair / op->H, pair % op->H, scratch);
    for (int64_t i = to->task[part]; i < to->task[part + 1]; i++) forward_query(&w, i);
}

/* ---- the row ---- */

/* bias (E) or (E, H), weight (H, d) */
static int check_given(pf_call *c, int64_t E, int64_t H, int64_t d) {
    const pf_tensor *bias = c->in[PF_IN_EDGE_BIAS], *weight = c->in[PF_IN_EDGE_WEIGHT];
    if (bias) {
        PF_TRY(pf_want(c, PF_IN_EDGE_BIAS, PF_F32));
        bool fits = bias->rank > 0 && bias->rank < 3 && bias->shape[0] == E &&
                    (bias->rank == 1 || bias->shape[1] == H);
        if (!fits) {
            return pf_shape_fail(c,
                                 "bias must be (edges) = [%lld] or (edges, heads) = [%lld, %lld]",
                                 (long long)E, (long long)E, (long long)H);
        }
    }
    if (!weight) return PF_OK;
    PF_TRY(pf_want(c, PF_IN_EDGE_WEIGHT, PF_F32));
    if (weight->rank == 2 && weight->shape[0] == H && weight->shape[1] == d) return PF_OK;
    return pf_shape_fail(c, "weight must be (heads, width) = [%lld, %lld]", (long long)H,
                         (long long)d);
}

/* What each score is made of. */
static int check_score(pf_call *c, int64_t d) {
    int64_t score = c->attr[PF_EDGE_SCORE].i;
    const char *name = pf_edge_scores[score].name;
    bool weight = c->in[PF_IN_EDGE_WEIGHT] != NULL;
    if (score == PF_SCORE_GAT && d != 1) {
        return pf_shape_fail(c, "the score gat adds one number of the query and one of the key: q "
                                "and k must have width 1");
    }
    if (weight != (score == PF_SCORE_GATV2)) {
        return pf_fail(PF_EINVAL, "edge_attention: the score %s %s", name,
                       weight ? "takes no weight" : "needs its vector: weight (heads, width)");
    }
    if (!isfinite(c->attr[PF_EDGE_SCALE].f) || !isfinite(c->attr[PF_EDGE_SLOPE].f)) {
        return pf_fail(PF_EINVAL, "edge_attention: scale is %g and slope %g, not finite numbers",
                       c->attr[PF_EDGE_SCALE].f, c->attr[PF_EDGE_SLOPE].f);
    }
    if (score == PF_SCORE_DOT && c->attr[PF_EDGE_SLOPE].f != SLOPE) {
        return pf_fail(PF_EINVAL,
                       "edge_attention: slope is of the scores gat and gatv2, and dot has "
                       "none; leave it out");
    }
    if (score == PF_SCORE_DOT || c->attr[PF_EDGE_SCALE].f == 0) return PF_OK;
    return pf_fail(PF_EINVAL, "edge_attention: scale is for the score dot, not for %s", name);
}

static int edge_shape(pf_call *c) {
    int64_t d, H;
    double p = c->attr[PF_EDGE_DROPOUT].f;
    const pf_tensor *edges = c->in[PF_IN_EDGES];
    PF_TRY(pf_reach_rows(c, &d));
    PF_TRY(pf_reach_check(c, c->attr[PF_EDGE_CAUSAL].i != 0));
    H = c->in[PF_IN_Q]->shape[1];
    if (!edges) return pf_fail(PF_EINVAL, "edge_attention: edges are missing");
    PF_TRY(pf_want(c, PF_IN_EDGES, PF_I32));
    if (edges->rank != 2 || edges->shape[1] != PF_EDGE_COLUMNS) {
        return pf_shape_fail(c, "edges must be (edges, 3), as `edges` makes them");
    }
    PF_TRY(check_given(c, edges->shape[0], H, d));
    PF_TRY(check_score(c, d));
    if (c->attr[PF_EDGE_CAUSAL].i && !c->in[PF_IN_LIMITS] &&
        c->in[PF_IN_Q]->shape[2] > c->in[PF_IN_K]->shape[2]) {
        return pf_shape_fail(c, "causal attention can't have more queries than keys");
    }
    if (p >= 0 && p < 1) return PF_OK;
    return pf_fail(PF_EINVAL, "edge_attention: dropout is %g, not in 0 <= p < 1", p);
}

static int edge_forward(pf_call *c) {
    pf_edge_op op;
    PF_TRY(pf_edge_fill(&op, c, c->engine->seed));
    if (op.dropped && c->record) PF_TRY(pf_drops_save(c, 1));
    PF_TRY(pf_heads_output(&c->out[0], c->engine, op.B, op.H, op.Lq, op.dv));
    op.out = pf_heads_of(c->out[0]);
    int64_t rows[3] = {op.B, op.H, op.Lq};
    PF_TRY(pf_tensor_make(&c->saved[0], c->engine, PF_F32, 3, rows));
    op.lse = pf_f32(c->saved[0]);
    return pf_parallel(c->engine, op.B * op.H * op.graph.to.tasks, pf_edge_work_bytes(&op),
                       forward_task, &op);
}

/* No matrix product: an edge gathers its rows. */
static double edge_products(const pf_call *c) {
    const int64_t *q = c->in[PF_IN_Q]->shape;
    double edges = (double)c->in[PF_IN_EDGES]->shape[0] * (double)(q[0] * q[1]);
    return 4 * edges * (double)(q[3] + c->in[PF_IN_V]->shape[3]);
}

static const pf_attr_info edge_attrs[PF_EDGE_ATTRS] = {
    {"causal", PF_ATTR_BOOL, 0, false, NULL,
     "of its edges query i sees those from keys 1 .. i + "
     "Lk - Lq"},
    {"score", PF_ATTR_CHOICE, PF_SCORE_DOT, false, PF_EDGE_SCORES, "what an edge weighs"},
    {"scale", PF_ATTR_FLOAT, 0, false, NULL, "of the score dot; 0: 1 / sqrt(d)"},
    {"slope", PF_ATTR_FLOAT, SLOPE, false, NULL, "of LeakyReLU below 0, in gat and gatv2"},
    {"dropout", PF_ATTR_FLOAT, 0, false, NULL, "share of weights dropped, 0 <= p < 1"},
    {"draw", PF_ATTR_INT, 0, false, NULL, "which mask of dropout"},
};

const pf_op pf_op_edge_attention = {
    .name = "edge_attention",
    .args = "q, k, v, " PF_REACH_ARGS ", [edges], [bias], [weight]",
    .results = "out",
    .doc =
        "Softmax attention over the edges of a graph: query i sees the keys that its edges come "
        "from. edges (E, 3) i32 as the op `edges` makes them, the same for all items. Scores: dot, "
        "scale q.k; gat, LeakyReLU(q + k) of q and k of width 1; gatv2, weight . LeakyReLU(q + k), "
        "weight (H, d). bias (E) or (E, H), by the edges' numbers, is added to them. q (B, H, Lq, "
        "d), k (B, Hk, Lk, d), v (B, Hk, Lk, dv), and mask, documents, cu_seqlens, limits, prefix "
        "and decay as in exact_attention. No edge left: output and gradients 0. Weights are "
        "dropped as there, by (seed, draw, item, head, edge). Time and memory go by the edges.",
    .min_in = 3,
    .max_in = PF_EDGE_INPUTS,
    .n_out = 1,
    .flags = PF_OP_OWN_OUTPUTS,
    .uses = PF_USES_ALL_IN,
    .attrs = edge_attrs,
    .n_attrs = PF_EDGE_ATTRS,
    .shape = edge_shape,
    .products = edge_products,
    .forward = edge_forward,
    .backward = pf_edge_backward,
};
