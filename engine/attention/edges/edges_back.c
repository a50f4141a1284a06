/*
 * edges_back.c - edge_attention on the way back (edges.h), in three passes that each write what is
 * their own, so that no sum needs atomics:
 *
 *   by query   P_ij = e^(s_ij - lse_i) and dS_ij = P_ij (dout_i . v_j - sum_j P_ij dout_i . v_j),
 *              kept a number an edge and head; dq, and a part of the gradient of `weight` a task
 *   by key     over the transposed list: dv_j = sum_i P_ij dout_i, and dk
 *   by edge    the bias gets dS itself, summed over items, and over heads where they share it
 *
 * Dropout acts on weights where they meet values: on P in dv and on dout_i . v_j in dS.
 */
#include <math.h>
#include <string.h>

#include "edges.h"

enum { EDGE_GRAIN = 4096 };

/* ---- by query ---- */

/* p <- P, dp <- dS of the edges seen, and both to their places in (B, H, E). */
static void weights_back(pf_edge_work *w, float lse) {
    const pf_edge_op *op = w->op;
    const float *dout = pf_heads_row(&op->dout, w->item, w->head, w->i);
    float *p = op->p + pf_edge_plane(w), *ds = op->need_score ? op->ds + pf_edge_plane(w) : NULL;
    w->kern->affine(w->n, 1, -lse, w->p, w->p);
    w->kern->unary(PF_UNARY_EXP, w->n, w->p, w->p);
    for (int64_t n = 0; n < w->n; n++) {
        float keep = pf_edge_keep(w, n);
        int32_t j = pf_edge_from(&op->graph, w->seen[n]);
        p[w->seen[n]] = keep == 0 ? 0 : keep * w->p[n];
        if (!ds) continue;
        const float *v = pf_heads_row(&op->v, w->item, w->kv, j);
        w->dp[n] = keep == 0 ? 0 : keep * w->kern->dot(op->dv, dout, v);
    }
    if (!ds) return;
    float delta = w->kern->dot(w->n, w->p, w->dp);
    for (int64_t n = 0; n < w->n; n++) {
        w->dp[n] = w->p[n] * (w->dp[n] - delta);
        ds[w->seen[n]] = w->dp[n];
    }
}

/* Whether query i gets a gradient; one without is out of all sums, since 0 NaN is NaN. */
static bool is_asked(const pf_edge_work *w, int64_t i) {
    const float *dout = pf_heads_row(&w->op->dout, w->item, w->head, i);
    for (int64_t c = 0; c < w->op->dv; c++) {
        if (dout[c] != 0) return true;
    }
    return false;
}

static void backward_query(pf_edge_work *w, int64_t i) {
    const pf_edge_op *op = w->op;
    const int64_t *first = op->graph.to.first + i;
    size_t bytes = (size_t)(first[1] - first[0]) * sizeof(float);
    float lse = op->lse[(w->item * op->H + w->head) * op->Lq + i], one = 1;
    memset(op->p + pf_edge_plane(w) + first[0], 0, bytes);
    if (op->need_score) memset(op->ds + pf_edge_plane(w) + first[0], 0, bytes);
    w->kern->fill(op->d, 0, w->row);
    if (lse != -INFINITY && is_asked(w, i)) {
        pf_edge_look(w, i);
        if (w->n > 0) weights_back(w, lse);
        if (w->n > 0 && (op->need_q || op->dweights)) op->score->pull_query(w, w->row);
    }
    if (op->need_q) pf_heads_put(w->kern, &op->dq, w->item, w->head, i, 1, &one, 0, w->row);
}

/* Task: queries in a row, of one item and head. */
static void query_task(void *context, int64_t task, void *scratch) {
    const pf_edge_op *op = context;
    const pf_edge_ends *to = &op->graph.to;
    int64_t part = task % to->tasks, pair = task / to->tasks;
    pf_edge_work w;
    pf_edge_open(&w, op, pair / op->H, pair % op->H, scratch);
    w.kern->fill(op->d, 0, w.da);
    for (int64_t i = to->task[part]; i < to->task[part + 1]; i++) backward_query(&w, i);
    if (op->dweights) memcpy(op->dweights + task * op->d, w.da, (size_t)op->d * sizeof(float));
}

/* ---- by key ---- */

/* row <- dk (d), then dv (dv), of key j from the heads of its group. */
static void gather_key(pf_edge_work *w, int64_t j) {
    const pf_edge_op *op = w->op;
    const pf_graph *g = &op->graph;
    const float *k = pf_heads_row(&op->k, w->item, w->kv, j);
    w->kern->fill(op->d + op->dv, 0, w->row);
    for (w->head = w->kv * op->group; w->head < (w->kv + 1) * op->group; w->head++) {
        int64_t plane = pf_edge_plane(w);
        for (int64_t n = g->from.first[j]; n < g->from.first[j + 1]; n++) {
            int64_t e = g->back[n], i = pf_edge_to(g, e);
            float p = op->p[plane + e], ds = op->need_k ? op->ds[plane + e] : 0;
            if (op->need_v && p != 0) {
                const float *dout = pf_heads_row(&op->dout, w->item, w->head, i);
                w->kern->axpy(op->dv, p, dout, w->row + op->d);
            }
            if (ds == 0) continue;
            const float *q = pf_heads_row(&op->q, w->item, w->head, i);
            op->score->pull_key(w, ds, q, k, w->row);
        }
    }
}

/* Task: keys in a row, of one item and head of keys. */
static void key_task(void *context, int64_t task, void *scratch) {
    const pf_edge_op *op = context;
    const pf_edge_ends *from = &op->graph.from;
    int64_t part = task % from->tasks, pair = task / from->tasks;
    float one = 1;
    pf_edge_work w;
    pf_edge_open(&w, op, pair / op->Hk, pair % op->Hk * op->group, scratch);
    for (int64_t j = from->task[part]; j < from->task[part + 1]; j++) {
        gather_key(&w, j);
        if (op->need_k) pf_heads_put(w.kern, &op->dk, w.item, w.kv, j, 1, &one, 0, w.row);
        if (op->need_v)
            pf_heads_put(w.kern, &op->dvalue, w.item, w.kv, j, 1, &one, 0, w.row + op->d);
    }
}

/* ---- by edge ---- */

typedef struct {
    const pf_edge_op *op;
    float *to; /* (E, bias_heads) */
} bias_job;

/* An edge of the graph has a number of its own (check_numbers), so each element is one range's. */
static void bias_range(void *context, int64_t begin, int64_t end) {
    const bias_job *job = context;
    const pf_edge_op *op = job->op;
    int64_t E = op->graph.n, heads = op->bias_heads, pairs = op->B * op->H;
    for (int64_t e = begin; e < end; e++) {
        float *to = job->to + pf_edge_number(&op->graph, e) * heads;
        for (int64_t pair = 0; pair < pairs; pair++) to[pair % heads] += op->ds[pair * E + e];
    }
}

static int check_numbers(pf_call *c, const pf_graph *g) {
    char *met = pf_call_alloc(c, (size_t)pf_max(g->n, 1));
    if (!met) return PF_ENOMEM;
    memset(met, 0, (size_t)g->n);
    for (int64_t e = 0; e < g->n; e++) {
        int32_t number = pf_edge_number(g, e);
        if (met[number]++) {
            return pf_fail(PF_EINVAL, "edge_attention: two edges have the number %s",
                           pf_place(number));
        }
    }
    return PF_OK;
}

/* Zeros like input i, to be given when they are whole. */
static int zeros_like(pf_call *c, int i, pf_tensor **t) {
    PF_TRY(pf_call_make(c, PF_F32, c->in[i]->rank, c->in[i]->shape, t));
    return pf_tensor_fill(*t, 0);
}

static int give_bias(pf_call *c, const pf_edge_op *op) {
    pf_tensor *sum;
    if (!c->need[PF_IN_EDGE_BIAS]) return PF_OK;
    PF_TRY(check_numbers(c, &op->graph));
    PF_TRY(zeros_like(c, PF_IN_EDGE_BIAS, &sum));
    bias_job job = {op, pf_f32(sum)};
    PF_TRY(pf_parallel_range(c->engine, op->graph.n, EDGE_GRAIN, bias_range, &job));
    return pf_grad_give(c, PF_IN_EDGE_BIAS, sum);
}

/* The tasks' parts, in their order. */
static int give_weight(pf_call *c, const pf_edge_op *op) {
    pf_tensor *sum;
    int64_t tasks = op->graph.to.tasks;
    if (!c->need[PF_IN_EDGE_WEIGHT]) return PF_OK;
    PF_TRY(zeros_like(c, PF_IN_EDGE_WEIGHT, &sum));
    for (int64_t task = 0; task < op->B * op->H * tasks; task++) {
        int64_t head = task / tasks % op->H;
        op->kern->axpy(op->d, 1, op->dweights + task * op->d, pf_f32(sum) + head * op->d);
    }
    return pf_grad_give(c, PF_IN_EDGE_WEIGHT, sum);
}

/* ---- the whole ---- */

/* p, ds and the parts of the gradient of `weight`. */
static int make_room(pf_edge_op *op, pf_call *c) {
    int64_t heads = op->B * op->H, edges = pf_max(heads * op->graph.n, 1);
    op->p = pf_call_alloc(c, (size_t)edges * sizeof(float));
    if (!op->p) return PF_ENOMEM;
    if (op->need_score) {
        op->ds = pf_call_alloc(c, (size_t)edges * sizeof(float));
        if (!op->ds) return PF_ENOMEM;
    }
    if (!c->need[PF_IN_EDGE_WEIGHT]) return PF_OK;
    int64_t parts = pf_max(heads * op->graph.to.tasks * op->d, 1);
    op->dweights = pf_call_alloc(c, (size_t)parts * sizeof(float));
    return op->dweights ? PF_OK : PF_ENOMEM;
}

int pf_edge_backward(pf_call *c) {
    pf_edge_op op;
    pf_tensor *made[3] = {NULL}; /* dq, dk, dv where they are given */
    PF_TRY(pf_edge_fill(&op, c, c->attr[PF_EDGE_DROPOUT].f > 0 ? pf_drops_seed(c, 1) : 0));
    op.lse = pf_f32(c->saved[0]);
    PF_TRY(pf_call_heads(c, c->dout[0], &op.dout));
    op.need_q = c->need[PF_IN_Q], op.need_k = c->need[PF_IN_K], op.need_v = c->need[PF_IN_V];
    op.need_score =
        op.need_q || op.need_k || c->need[PF_IN_EDGE_BIAS] || c->need[PF_IN_EDGE_WEIGHT];
    PF_TRY(make_room(&op, c));
    if (op.need_q) PF_TRY(pf_heads_gradient(c, PF_IN_Q, &made[PF_IN_Q], &op.dq));
    if (op.need_k) PF_TRY(pf_heads_gradient(c, PF_IN_K, &made[PF_IN_K], &op.dk));
    if (op.need_v) PF_TRY(pf_heads_gradient(c, PF_IN_V, &made[PF_IN_V], &op.dvalue));
    size_t bytes = pf_edge_work_bytes(&op);
    PF_TRY(pf_parallel(c->engine, op.B * op.H * op.graph.to.tasks, bytes, query_task, &op));
    if (op.need_k || op.need_v) {
        PF_TRY(pf_graph_turn(&op.graph, c, op.Lk));
        PF_TRY(pf_parallel(c->engine, op.B * op.Hk * op.graph.from.tasks, bytes, key_task, &op));
    }
    for (int i = PF_IN_Q; i <= PF_IN_V; i++)
        if (made[i]) PF_TRY(pf_grad_give(c, i, made[i]));
    PF_TRY(give_bias(c, &op));
    return give_weight(c, &op);
}
