/*
 * listed.c - the op listed_attention, exact softmax attention over a pattern (listed.h), and its
 * forward:
 *
 *     out_i = sum_(j in S_i) softmax_j(scale q_i . k_j) v_j
 *
 * with S_i the keys that both the pattern and reach.h let query i see. A query that the rule of a
 * pattern keeps from itself (`self_last`) and that sees nothing else takes its own value.
 *
 * Tiles of a run come in the order of their keys, and a window that is as wide as the sequence has
 * exact attention's tiles: then all bits are those of exact attention.
 */
#include <math.h>
#include <string.h>

#include "attention.h"
#include "listed.h"
#include "pattern_maker.h"

/* ---- forward ---- */

/* Task: a run of queries against its tiles, or a span of them. */
static void forward_task(void *context, int64_t task, void *scratch) {
    const pf_listed_pass *pass = context;
    pf_listed_task at = pf_listed_task_at(pass, task);
    const pf_pattern_part *p = &at.part->p;
    pf_tile t;
    uint8_t *marks;
    if (at.from == at.to && pass->part > 0) return;
    pf_listed_tile(&t, &marks, pass->op, at.segment, at.head, scratch);
    pf_tile_queries(&t, pf_listed_run(&p->q, at.run));
    pf_tile_load(&t);
    if (at.partial) t.o = at.partial;
    if (at.partial || (pass->part == 0 && p->q.n == t.seg->q_length))
        pf_tile_begin(&t);
    else
        pf_tile_resume(&t);
    for (int64_t i = at.from; i < at.to; i++) {
        pf_tile_keys(&t, pf_listed_run(&p->k, p->key[i]));
        pf_listed_look(&t, marks, at.pattern, at.part, at.run, i);
        pf_tile_join(&t);
    }
    if (at.partial)
        memcpy(at.partial + PF_TILE * pass->op->s.dv, t.lse, sizeof t.lse);
    else
        pf_tile_put(&t);
}

/* Task: the long runs of a segment and head, from the sums of their spans. */
static void join_task(void *context, int64_t pair, void *scratch) {
    const pf_listed_pass *pass = context;
    int64_t segment = pair / pass->heads, head = pair % pass->heads;
    const pf_listed_pattern *pattern = pf_listed_of(pass->op, segment, head);
    if (pass->slot[pair] == pass->slot[pair + 1]) return;
    const pf_listed_part *part = &pattern->part[pass->part];
    pf_tile t;
    uint8_t *marks;
    pf_listed_tile(&t, &marks, pass->op, segment, head, scratch);
    for (int64_t run = 0; run < part->p.q.runs; run++) {
        int64_t spans = pf_listed_spans(&part->by_query, run);
        if (spans == 1) continue;
        pf_tile_queries(&t, pf_listed_run(&part->p.q, run));
        pf_tile_resume(&t);
        for (int64_t i = 0; i < spans; i++) {
            const float *sum = pf_listed_partial(pass, pair, &part->by_query, run, i);
            pf_tile_join_sum(&t, sum, sum + PF_TILE * pass->op->s.dv);
        }
        pf_tile_put(&t);
    }
}

/* Task: queries of a segment and head that a first part does not begin see nothing yet. */
static void blank_task(void *context, int64_t pair, void *scratch) {
    const pf_listed *op = context;
    const pf_softmax *s = &op->s;
    int64_t segment = pair / s->H, head = pair % s->H;
    const pf_segment *seg = &s->reach.list[segment];
    const pf_listed_pattern *pattern = pf_listed_of(op, segment, head);
    (void)scratch;
    if (pattern->n > 0 && pattern->part[0].p.q.n == seg->q_length &&
        pattern->part[0].by_query.slots == 0)
        return;
    float *lse = s->lse + (seg->item * s->H + head) * s->Lq + seg->q_start;
    for (int64_t i = 0; i < seg->q_length; i++) {
        lse[i] = -INFINITY;
        memset(pf_heads_row(&s->out, seg->item, head, seg->q_start + i), 0,
               (size_t)s->dv * sizeof(float));
    }
}

/* Task: of a segment and head the queries that saw nothing but themselves. */
static void self_task(void *context, int64_t pair, void *scratch) {
    const pf_listed *op = context;
    const pf_softmax *s = &op->s;
    const pf_segment *seg = &s->reach.list[pair / s->H];
    int64_t head = pair % s->H;
    const float *lse = s->lse + (seg->item * s->H + head) * s->Lq + seg->q_start;
    (void)scratch;
    if (!pf_listed_of(op, pair / s->H, head)->self_last) return;
    for (int64_t i = 0; i < seg->q_length; i++) {
        int64_t own = lse[i] == -INFINITY ? pf_listed_self(s, seg, i) : -1;
        if (own < 0) continue;
        float factor = pf_softmax_factor(s, seg, head, i, own);
        if (factor == 0) continue;
        s->kern->scale(s->dv, factor,
                       pf_heads_row(&s->v, seg->item, head / s->group, seg->start + own),
                       pf_heads_row(&s->out, seg->item, head, seg->q_start + i));
    }
}

static int run_part(const pf_listed *op, pf_engine *e, int part) {
    pf_listed_pass pass;
    int64_t pairs = op->s.reach.n * op->s.H;
    size_t bytes = pf_listed_bytes(&op->s);
    pf_listed_begin(&pass, op, part, false, 0);
    PF_TRY(pf_parallel(e, pf_listed_tasks(&pass), bytes, forward_task, &pass));
    return op->partial ? pf_parallel(e, pairs, bytes, join_task, &pass) : PF_OK;
}

static int listed_forward(pf_call *c) {
    pf_listed op;
    PF_TRY(pf_softmax_open(&op.s, c, c->engine->seed));
    PF_TRY(pf_listed_open(&op, c));
    PF_TRY(pf_listed_distances(&op, c));
    PF_TRY(pf_softmax_outputs(&op.s, c));
    int64_t pairs = op.s.reach.n * op.s.H;
    PF_TRY(pf_parallel(c->engine, pairs, 0, blank_task, &op));
    for (int i = 0; i < op.parts; i++) PF_TRY(run_part(&op, c->engine, i));
    return op.self_last ? pf_parallel(c->engine, pairs, 0, self_task, &op) : PF_OK;
}

/* ---- the row ---- */

static int check_distances(const pf_call *c) {
    const pf_tensor *t = c->in[PF_LISTED_RELATIVE], *q = c->in[PF_IN_Q];
    if (!t) return PF_OK;
    PF_TRY(pf_want(c, PF_LISTED_RELATIVE, PF_F32));
    bool fits = t->rank == 4;
    for (int i = 0; fits && i < 3; i++) fits = t->shape[i] == q->shape[i];
    if (!fits) return pf_shape_fail(c, "relative must be (batch, heads, queries, distances)");
    if (pf_reach_causal(c, c->attr[PF_SOFTMAX_CAUSAL].i != 0)) return PF_OK;
    return pf_fail(PF_EINVAL, "%s: relative counts back from a query, for causal attention",
                   c->op->name);
}

/* Of a stream, which is no longer than any; so no place of a key overflows. */
static int check_skipped(const pf_call *c) {
    const int64_t skipped = c->attr[PF_LISTED_SKIPPED].i, kept = c->attr[PF_LISTED_KEPT].i;
    if (skipped < 0 || kept < 0) {
        return pf_fail(PF_EINVAL, "%s: skipped and kept are numbers of keys, not negative",
                       c->op->name);
    }
    if (skipped <= PF_FAR && kept <= PF_FAR) return PF_OK;
    return pf_fail(PF_EINVAL, "%s: skipped %lld, kept %lld: a stream has at most %lld keys",
                   c->op->name, (long long)skipped, (long long)kept, (long long)PF_FAR);
}

static int listed_shape(pf_call *c) {
    const pf_tensor *q = c->in[PF_IN_Q], *buckets = c->in[PF_LISTED_BUCKETS];
    PF_TRY(pf_softmax_shape(c));
    if (!c->in[PF_LISTED_PATTERN]) {
        return pf_fail(PF_EINVAL, "%s: give a pattern, which says who sees whom", c->op->name);
    }
    PF_TRY(pf_want(c, PF_LISTED_PATTERN, PF_I32));
    PF_TRY(check_skipped(c));
    PF_TRY(check_distances(c));
    if (!buckets) return PF_OK;
    PF_TRY(pf_want(c, PF_LISTED_BUCKETS, PF_I32));
    bool fits = buckets->rank == 4 && buckets->shape[0] == q->shape[0] &&
                buckets->shape[1] == q->shape[1] && buckets->shape[3] == c->in[PF_IN_K]->shape[2];
    return fits ? PF_OK : pf_shape_fail(c, "buckets must be (batch, heads, rounds, keys)");
}

static const pf_attr_info listed_attrs[] = {
    PF_SOFTMAX_ATTR_ROWS,
    {"skipped", PF_ATTR_INT, 0, false, NULL, "keys that a stream let go of, in the middle"},
    {"kept", PF_ATTR_INT, 0, false, NULL, "keys that it holds before those"},
};

const pf_op pf_op_listed_attention = {
    .name = "listed_attention",
    .args = "q, k, v, " PF_REACH_ARGS ", [pattern], [buckets], [relative]",
    .results = "out",
    .doc =
        "Exact softmax attention over the pairs of a pattern: windows, blocks, lists, buckets. "
        "Inputs as in exact_attention, and pattern, as pf.pattern makes it; who sees whom "
        "besides holds too. buckets (B, H, rounds, Lk), of rules that ask for them: the bucket "
        "of each key, below 0 for none. relative (B, H, Lq, W): what the score of a query and the "
        "key D places before its last one gains, D < W (Transformer-XL's (q + v) . R_D), of "
        "causal attention. A window as wide as the sequence has the bits of "
        "exact_attention.",
    .min_in = 3,
    .max_in = PF_LISTED_INPUTS,
    .n_out = 1,
    .flags = PF_OP_OWN_OUTPUTS,
    .uses = PF_USES_ALL_IN | PF_USES_OUT(0),
    .attrs = listed_attrs,
    .n_attrs = PF_COUNT(listed_attrs),
    .shape = listed_shape,
    .forward = listed_forward,
    .backward = pf_listed_backward,
};
