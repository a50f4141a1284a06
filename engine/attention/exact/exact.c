/*
 * exact.c - exact softmax attention, the judge:
 *
 *     out_i = sum_j softmax_j(scale q_i . k_j) v_j,     scale = 1 / sqrt(d)
 *
 * over the keys that query i sees: all, or the first n_i of its segment (causal, a staircase, a
 * prefix: reach.h). Query head h of H reads key head h / (H / Hk).
 *
 * Blockwise with a running log-sum-exp, so no (Lq, Lk) array exists: a block of queries meets one
 * block of keys after the other (softmax_block.h has the arithmetic of a pair). A block that no
 * query of the pair sees anything of is left out whole.
 *
 * Forward a task is a block of queries, backward a head of keys: its blocks outside, so that dk and
 * dv are finished while they are in the cache, and all queries that see them inside. Heads of a
 * group are one task then, since they add to the same dk and dv.
 */
#include <string.h>

#include "attention.h"
#include "softmax_block.h"

enum { BLOCK = PF_TILE };

typedef struct {
    pf_softmax s;
    int64_t q_blocks;
    pf_engine *engine;
    atomic_int stopped; /* why a task was broken off, or 0 */
} exact_op;

/* A task is as long as its keys or queries are many: it looks itself whether to go on. */
static bool is_stopped(exact_op *op) {
    int status = pf_stopped(op->engine);
    if (status < 0) atomic_store(&op->stopped, status);
    return status < 0;
}

static int run(exact_op *op, int64_t tasks, pf_task_fn task) {
    PF_TRY(pf_parallel(op->engine, tasks, pf_tile_bytes(&op->s), task, op));
    return pf_stopped_fail(op->engine, atomic_load(&op->stopped));
}

/* The rows of a block from `first` on, of `length`. */
static pf_places block_at(int64_t first, int64_t length) {
    return (pf_places){.n = pf_min(BLOCK, length - first), .first = first};
}

/* Of the loaded keys a query sees those that are among its first n_i. */
static void look(pf_tile *t) {
    int64_t first = t->keys.first;
    t->hides = first + t->keys.n > t->least;
    for (int64_t i = 0; i < t->queries.n; i++) {
        t->from[i] = 0;
        t->to[i] = (int32_t)pf_max(0, pf_min(t->sees[i] - first, t->keys.n));
    }
}

/* Task: one block of queries against all its keys. */
static void forward_task(void *context, int64_t task, void *scratch) {
    exact_op *op = context;
    pf_tile t;
    int64_t i0 = task % op->q_blocks * BLOCK, pair = task / op->q_blocks;
    pf_tile_open(&t, &op->s, pair / op->s.H, pair % op->s.H, scratch);
    if (i0 >= t.seg->q_length) return;
    pf_tile_queries(&t, block_at(i0, t.seg->q_length));
    pf_tile_load(&t);
    pf_tile_begin(&t);
    for (int64_t j0 = 0; j0 < t.most; j0 += BLOCK) {
        if (is_stopped(op)) return;
        pf_tile_keys(&t, block_at(j0, t.seg->length));
        look(&t);
        pf_tile_join(&t);
    }
    pf_tile_put(&t);
}

/* ---- backward ---- */

/* dq of the group's heads <- 0. */
static void clear_queries(const pf_tile *t) {
    const pf_softmax *s = t->op;
    for (int64_t g = 0; g < s->group; g++) {
        for (int64_t i = 0; i < t->seg->q_length; i++) {
            memset(pf_heads_row(&s->dq, t->seg->item, t->kv * s->group + g, t->seg->q_start + i), 0,
                   (size_t)s->d * sizeof(float));
        }
    }
}

/* The loaded keys and all queries of one head that see any of them. */
static void backward_head(pf_tile *t, exact_op *op) {
    const pf_softmax *s = t->op;
    int64_t j0 = t->keys.first;
    bool plain = s->causal && !s->reach.limit; /* queries before `from` see none of them */
    int64_t from = plain ? pf_max(j0 - pf_tile_ahead(t->seg), 0) / BLOCK * BLOCK : 0;
    for (int64_t i0 = from; i0 < t->seg->q_length; i0 += BLOCK) {
        pf_tile_queries(t, block_at(i0, t->seg->q_length));
        if (t->most <= j0) continue;
        if (is_stopped(op)) return;
        pf_tile_load_back(t);
        look(t);
        pf_tile_weights_back(t);
        pf_tile_spread(t, s->need_q, true);
    }
}

/* Task: one key head of one segment; key blocks outside, the group's heads and their query
 * blocks inside. */
static void backward_task(void *context, int64_t task, void *scratch) {
    exact_op *op = context;
    const pf_softmax *s = &op->s;
    pf_tile t;
    pf_tile_open(&t, s, task / s->Hk, task % s->Hk * s->group, scratch);
    if (s->need_q) clear_queries(&t);
    for (int64_t j0 = 0; j0 < t.seg->length; j0 += BLOCK) {
        pf_tile_keys(&t, block_at(j0, t.seg->length));
        pf_tile_begin_keys(&t);
        for (int64_t g = 0; g < s->group; g++) {
            t.head = t.kv * s->group + g;
            backward_head(&t, op);
        }
        pf_tile_put_keys(&t);
    }
}

/* ---- the row ---- */

static int exact_forward(pf_call *c) {
    exact_op op = {.engine = c->engine};
    PF_TRY(pf_softmax_open(&op.s, c, c->engine->seed));
    PF_TRY(pf_softmax_outputs(&op.s, c));
    op.q_blocks = pf_max(pf_ceil_div(op.s.Lq, BLOCK), 1);
    return run(&op, op.s.reach.n * op.s.H * op.q_blocks, forward_task);
}

static int exact_backward(pf_call *c) {
    exact_op op = {.engine = c->engine};
    pf_tensor *made[3];
    PF_TRY(pf_softmax_open_back(&op.s, c, made));
    PF_TRY(run(&op, op.s.reach.n * op.s.Hk, backward_task));
    return pf_softmax_give(c, made);
}

static double exact_products(const pf_call *c) {
    const int64_t *q = c->in[PF_IN_Q]->shape, *v = c->in[PF_IN_V]->shape;
    double pairs = (double)(q[0] * q[1]) * (double)q[2] * (double)v[2];
    return pairs * (double)(q[3] + v[3]);
}

static const pf_attr_info exact_attrs[] = {PF_SOFTMAX_ATTR_ROWS};

const pf_op pf_op_exact_attention = {
    .name = "exact_attention",
    .args = "q, k, v, " PF_REACH_ARGS,
    .results = "out",
    .doc =
        "Exact softmax attention, the quadratic judge: softmax(scale q k^T) v, blockwise. "
        "q (B, H, Lq, d), k (B, Hk, Lk, d), v (B, Hk, Lk, dv), mask, documents, cu_seqlens, limits "
        "and prefix as in favor; decay (Hk), not for full attention: the score of key j loses "
        "decay a token of its distance to the last key that the query sees. No key left: output "
        "and gradients 0. "
        "Weights are dropped, with probability `dropout`, after their softmax, and the others "
        "scaled by 1 / (1 - dropout); the mask is one of (seed, draw).",
    .min_in = 3,
    .max_in = PF_REACH_INPUTS,
    .n_out = 1,
    .flags = PF_OP_OWN_OUTPUTS,
    .uses = PF_USES_ALL_IN | PF_USES_OUT(0),
    .attrs = exact_attrs,
    .n_attrs = PF_COUNT(exact_attrs),
    .shape = pf_softmax_shape,
    .products = exact_products,
    .forward = exact_forward,
    .backward = exact_backward,
};
