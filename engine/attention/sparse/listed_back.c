/*
 * listed_back.c - see listed.h: the backward of listed_attention, part after part, each in two
 * passes that redo the weights of their tiles (softmax_block.h):
 *
 *     by key     a chunk of key runs, the group's heads and all query runs that see any of them:
 *                dk, dv, and dq of those queries whose tiles all lie in the chunk
 *     by query   a run of the other queries, with its tiles: dq
 *
 * so that few heads on many threads are many tasks, and windows pay for the second pass only at
 * the chunks' borders. dq of a row grows over its tiles in the order of keys, in either pass, and
 * dk and dv over theirs in the order of heads and queries: their bits don't tell which it was.
 */
#include <math.h>
#include <string.h>

#include "listed.h"

/* The loaded keys with entries from .. to - 1 of their run's list, of one head. */
static void spread_tiles(pf_tile *t, uint8_t *marks, const pf_listed_pass *pass,
                         const pf_listed_pattern *pattern, int64_t from, int64_t to) {
    const pf_softmax *s = &pass->op->s;
    const pf_listed_part *part = &pattern->part[pass->part];
    const pf_pattern_part *p = &part->p;
    for (int64_t i = from; i < to; i++) {
        int64_t run = p->query[i];
        pf_tile_queries(t, pf_listed_run(&p->q, run));
        pf_tile_load_back(t);
        pf_listed_look(t, marks, pattern, part, run, p->tile ? p->tile[i] : 0);
        pf_tile_weights_back(t);
        pf_tile_spread_distances(t);
        pf_tile_spread(t, s->need_q && pf_listed_whole(part, run), true);
    }
}

/* Task: key runs, each with its query runs; or a span of one key run's. */
static void key_task(void *context, int64_t task, void *scratch) {
    const pf_listed_pass *pass = context;
    const pf_softmax *s = &pass->op->s;
    pf_listed_task at = pf_listed_task_at(pass, task);
    const pf_pattern_part *p = &at.part->p;
    int64_t heads = pass->op->by_head ? 1 : s->group; /* that share the pattern */
    pf_tile t;
    uint8_t *marks;
    pf_listed_tile(&t, &marks, pass->op, at.segment, at.head, scratch);
    if (at.partial) t.dk = at.partial, t.dvalue = at.partial + PF_TILE * s->d;
    for (int64_t run = at.run; run < at.run + at.runs; run++) {
        int64_t from = at.partial ? at.from : p->back[run];
        int64_t to = at.partial ? at.to : p->back[run + 1];
        if (from == to) continue;
        pf_tile_keys(&t, pf_listed_run(&p->k, run));
        pf_tile_begin_keys(&t);
        for (int64_t g = 0; g < heads; g++) {
            t.head = at.head + g;
            spread_tiles(&t, marks, pass, at.pattern, from, to);
        }
        if (!at.partial) pf_tile_put_keys(&t);
    }
}

/* Task: a run of queries with its tiles, or a span of them. */
static void query_task(void *context, int64_t task, void *scratch) {
    const pf_listed_pass *pass = context;
    pf_listed_task at = pf_listed_task_at(pass, task);
    const pf_pattern_part *p = &at.part->p;
    if (at.from == at.to || (pass->fused && pf_listed_whole(at.part, at.run))) return;
    pf_tile t;
    uint8_t *marks;
    pf_listed_tile(&t, &marks, pass->op, at.segment, at.head, scratch);
    pf_tile_queries(&t, pf_listed_run(&p->q, at.run));
    pf_tile_load_back(&t);
    t.dq_sum = at.partial;
    if (at.partial) memset(at.partial, 0, (size_t)(PF_TILE * t.op->d) * sizeof(float));
    for (int64_t i = at.from; i < at.to; i++) {
        pf_tile_keys(&t, pf_listed_run(&p->k, p->key[i]));
        pf_listed_look(&t, marks, at.pattern, at.part, at.run, i);
        pf_tile_weights_back(&t);
        pf_tile_spread(&t, true, false);
    }
}

/* Task: the long runs of a segment and head, from the sums of their spans. */
static void join_task(void *context, int64_t pair, void *scratch) {
    const pf_listed_pass *pass = context;
    const pf_softmax *s = &pass->op->s;
    int64_t segment = pair / pass->heads, head = pair % pass->heads;
    if (pass->slot[pair] == pass->slot[pair + 1]) return;
    if (pass->by_key) head = head * s->group + pass->group;
    const pf_listed_part *part = &pf_listed_of(pass->op, segment, head)->part[pass->part];
    const pf_listed_side *side = pass->by_key ? &part->by_key : &part->by_query;
    const pf_order *order = pass->by_key ? &part->p.k : &part->p.q;
    pf_tile t;
    uint8_t *marks;
    pf_listed_tile(&t, &marks, pass->op, segment, head, scratch);
    for (int64_t run = 0; run < order->runs; run++) {
        int64_t spans = pf_listed_spans(side, run);
        for (int64_t i = 0; spans > 1 && i < spans; i++) {
            float *sum = pf_listed_partial(pass, pair, side, run, i);
            if (pass->by_key) {
                t.keys = pf_listed_run(order, run);
                t.dk = sum, t.dvalue = sum + PF_TILE * s->d;
                pf_tile_put_keys(&t);
            } else {
                t.queries = pf_listed_run(order, run);
                pf_tile_add_queries(&t, 1, sum);
            }
        }
    }
}

/* ---- passes ---- */

static int run_pass(const pf_listed_pass *pass, pf_engine *e, pf_task_fn task) {
    size_t bytes = pf_listed_bytes(&pass->op->s);
    int64_t pairs = pass->op->s.reach.n * pass->heads;
    PF_TRY(pf_parallel(e, pf_listed_tasks(pass), bytes, task, (void *)pass));
    return pass->op->partial ? pf_parallel(e, pairs, bytes, join_task, (void *)pass) : PF_OK;
}

static int run_part(const pf_listed *op, pf_engine *e, int part) {
    const pf_softmax *s = &op->s;
    pf_listed_pass pass;
    bool by_key = s->need_k || s->need_v || s->need_relative;
    int64_t times = op->by_head ? s->group : 1;
    for (int64_t g = 0; by_key && g < times; g++) {
        pf_listed_begin(&pass, op, part, true, g);
        PF_TRY(run_pass(&pass, e, key_task));
    }
    if (!s->need_q) return PF_OK;
    pf_listed_begin(&pass, op, part, false, 0);
    pass.fused = by_key;
    return run_pass(&pass, e, query_task);
}

/* ---- what parts add to ---- */

typedef struct {
    const pf_heads *rows;
    int64_t heads, n;
} clearing;

static void clear_task(void *context, int64_t pair, void *scratch) {
    const clearing *w = context;
    (void)scratch;
    for (int64_t i = 0; i < w->n; i++) {
        memset(pf_heads_row(w->rows, pair / w->heads, pair % w->heads, i), 0,
               (size_t)w->rows->width * sizeof(float));
    }
}

/* A gradient (B, heads, n, width) that holds nothing yet <- 0, and is added to from here on. */
static int clear(pf_engine *e, pf_heads *rows, int64_t B, int64_t heads, int64_t n) {
    if (rows->add) return PF_OK;
    clearing w = {rows, heads, n};
    rows->add = true;
    return pf_parallel(e, B * heads, 0, clear_task, &w);
}

/* Task: of a segment and key head the values that queries took which see nothing else. */
static void self_task(void *context, int64_t pair, void *scratch) {
    const pf_listed *op = context;
    const pf_softmax *s = &op->s;
    const pf_segment *seg = &s->reach.list[pair / s->Hk];
    int64_t kv = pair % s->Hk;
    (void)scratch;
    for (int64_t head = kv * s->group; head < (kv + 1) * s->group; head++) {
        const float *lse = s->lse + (seg->item * s->H + head) * s->Lq + seg->q_start;
        if (!pf_listed_of(op, pair / s->Hk, head)->self_last) continue;
        for (int64_t i = 0; i < seg->q_length; i++) {
            int64_t own = lse[i] == -INFINITY ? pf_listed_self(s, seg, i) : -1;
            if (own < 0) continue;
            float factor = pf_softmax_factor(s, seg, head, i, own);
            if (factor == 0) continue;
            s->kern->axpy(s->dv, factor, pf_heads_row(&s->dout, seg->item, head, seg->q_start + i),
                          pf_heads_row(&s->dvalue, seg->item, kv, seg->start + own));
        }
    }
}

/* Each pair writes to a place of its own: 0 where none does. */
static int open_distances(pf_listed *op, pf_call *c, pf_tensor **distances) {
    PF_TRY(pf_call_make(c, PF_F32, 4, c->in[PF_LISTED_RELATIVE]->shape, distances));
    op->s.drelative = pf_heads_of(*distances);
    return pf_tensor_fill(*distances, 0);
}

int pf_listed_backward(pf_call *c) {
    pf_listed op;
    pf_softmax *s = &op.s;
    pf_tensor *made[3], *distances = NULL;
    PF_TRY(pf_softmax_open_back(s, c, made));
    PF_TRY(pf_listed_open(&op, c));
    PF_TRY(pf_listed_distances(&op, c));
    if (s->need_q) PF_TRY(clear(c->engine, &s->dq, s->B, s->H, s->Lq));
    s->need_relative = c->need[PF_LISTED_RELATIVE];
    if (s->need_relative) PF_TRY(open_distances(&op, c, &distances));
    if (s->need_k) PF_TRY(clear(c->engine, &s->dk, s->B, s->Hk, s->Lk));
    if (s->need_v) PF_TRY(clear(c->engine, &s->dvalue, s->B, s->Hk, s->Lk));
    for (int i = 0; i < op.parts; i++) PF_TRY(run_part(&op, c->engine, i));
    if (s->need_v && op.self_last) {
        PF_TRY(pf_parallel(c->engine, s->reach.n * s->Hk, 0, self_task, &op));
    }
    if (distances) PF_TRY(pf_grad_give(c, PF_LISTED_RELATIVE, distances));
    return pf_softmax_give(c, made);
}
