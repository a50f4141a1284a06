/*
 * pattern_show.c - what a pattern says, without an attention around it: which keys each query sees,
 * and how many. For judges, pictures, and whoever asks whether a window counts the query itself.
 *
 * Both ops read parts as an attention does: what a part hides, hides here.
 */
#include <string.h>

#include "attention.h"
#include "pattern.h"

enum { PATTERN, LIMITS, BUCKETS, INPUTS };
enum { A_LENGTH, A_KEYS, A_CAUSAL, A_HEAD, A_COUNT };
enum { LONGEST = 1 << 24 }; /* queries and keys: what is told is a number a query, or a pair */

static const pf_attr_info attrs[A_COUNT] = {
    [A_LENGTH] = {.name = "length", .kind = PF_ATTR_INT, .required = true, .doc = "queries"},
    [A_KEYS] = {.name = "keys",
                .kind = PF_ATTR_INT,
                .def = -1,
                .doc = "keys; -1: as many as queries"},
    [A_CAUSAL] = {.name = "causal", .kind = PF_ATTR_BOOL, .doc = "queries see no later key"},
    [A_HEAD] = {.name = "head", .kind = PF_ATTR_INT, .doc = "whose random blocks, from 0"},
};

static int64_t keys_of(const pf_call *c) {
    return c->attr[A_KEYS].i < 0 ? c->attr[A_LENGTH].i : c->attr[A_KEYS].i;
}

static int check(const pf_call *c) {
    int64_t Lq = c->attr[A_LENGTH].i, Lk = keys_of(c);
    PF_TRY(pf_want(c, PATTERN, PF_I32));
    if (Lq < 0 || Lq > LONGEST || Lk > LONGEST) {
        return pf_shape_fail(c, "%s = %lld must be 0 to %d",
                             Lq < 0 || Lq > LONGEST ? "length" : "keys",
                             (long long)(Lq < 0 || Lq > LONGEST ? Lq : Lk), LONGEST);
    }
    if (c->attr[A_HEAD].i < 0 || c->attr[A_HEAD].i > INT32_MAX) {
        return pf_shape_fail(c, "there is no head %lld", (long long)c->attr[A_HEAD].i);
    }
    const pf_tensor *limits = c->in[LIMITS], *buckets = c->in[BUCKETS];
    if (limits) PF_TRY(pf_want(c, LIMITS, PF_I32));
    if (buckets) PF_TRY(pf_want(c, BUCKETS, PF_I32));
    if (limits && (limits->rank != 1 || limits->shape[0] != Lq)) {
        return pf_shape_fail(c, "limits must be (length) = [%lld]", (long long)Lq);
    }
    if (!buckets || (buckets->rank == 2 && buckets->shape[1] == Lk)) return PF_OK;
    return pf_shape_fail(c, "buckets must be (rounds, keys) = [rounds, %lld]", (long long)Lk);
}

static int check_limits(const pf_call *c, const int32_t *limit, int64_t Lq, int64_t Lk) {
    for (int64_t i = 0; i < Lq && limit; i++) {
        if (limit[i] >= 0 && limit[i] <= Lk) continue;
        return pf_fail(PF_EINVAL, "%s: limits are counts from 0 to %lld, but query %s has %d",
                       c->op->name, (long long)Lk, pf_place(i), limit[i]);
    }
    return PF_OK;
}

/* What is asked, of the inputs; option (PF_PATTERN_OPTIONS). */
static int make_ask(pf_ask *ask, double *option, const pf_pattern_rule **rule, pf_call *c) {
    pf_tensor *words, *limits, *buckets;
    PF_TRY(pf_call_compact(c, c->in[PATTERN], &words));
    PF_TRY(pf_call_compact(c, c->in[LIMITS], &limits));
    PF_TRY(pf_call_compact(c, c->in[BUCKETS], &buckets));
    *ask = (pf_ask){.Lq = c->attr[A_LENGTH].i,
                    .Lk = keys_of(c),
                    .causal = c->attr[A_CAUSAL].i != 0 || limits,
                    .limit = limits ? pf_i32(limits) : NULL,
                    .head = c->attr[A_HEAD].i,
                    .bucket = buckets ? pf_i32(buckets) : NULL,
                    .rounds = buckets ? buckets->shape[0] : 0,
                    .bucket_step = buckets ? buckets->shape[1] : 0};
    ask->ahead = ask->Lk - ask->Lq;
    PF_TRY(pf_pattern_read(rule, option, ask, words, c->op->name));
    PF_TRY(check_limits(c, ask->limit, ask->Lq, ask->Lk));
    if ((*rule)->buckets != (buckets != NULL)) {
        return pf_fail(PF_EINVAL,
                       buckets ? "%s: %s goes by no bucket numbers: leave buckets out"
                               : "%s: %s goes by bucket numbers: give buckets (rounds, keys)",
                       c->op->name, (*rule)->name);
    }
    return pf_pattern_fits(*rule, ask);
}

/* ---- walking the pairs ---- */

typedef void pair_taker(void *context, int64_t query, int64_t key);

typedef struct {
    const pf_pattern *pattern;
    const pf_ask *ask;
    pair_taker *take;
    void *context;
} walk;

static bool hidden(const walk *w, int part, int64_t i, int64_t j) {
    const pf_pattern_part *p = &w->pattern->part[part];
    if (j >= pf_ask_limit(w->ask, i)) return true;
    for (int earlier = 0; p->cuts && earlier < part; earlier++) {
        if (pf_pattern_has(&w->pattern->part[earlier], i, j)) return true;
    }
    return false;
}

/* The pairs of tile t of a part: query run a, key run b. */
static void walk_tile(const walk *w, int part, int64_t t, int64_t a, int64_t b) {
    const pf_pattern_part *p = &w->pattern->part[part];
    const uint64_t *bits = p->bits ? p->bits + t * PF_TILE_WORDS : NULL;
    for (int64_t i = p->q.first[a]; i < p->q.first[a + 1]; i++) {
        int64_t from = p->k.first[b], to = p->k.first[b + 1], x = i - p->q.first[a];
        if (p->lo) from = pf_max(from, p->lo[i]), to = pf_min(to, p->hi[i]);
        for (int64_t r = from; r < to; r++) {
            int64_t y = r - p->k.first[b];
            if (bits && !(bits[2 * x + y / 64] >> y % 64 & 1)) continue;
            int64_t query = pf_order_position(&p->q, i), key = pf_order_position(&p->k, r);
            if (!hidden(w, part, query, key)) w->take(w->context, query, key);
        }
    }
}

static void walk_pairs(const walk *w) {
    for (int n = 0; n < w->pattern->n; n++) {
        const pf_pattern_part *p = &w->pattern->part[n];
        for (int64_t a = 0; a < p->q.runs; a++) {
            for (int64_t t = p->first[a]; t < p->first[a + 1]; t++) {
                walk_tile(w, n, t, a, p->key[t]);
            }
        }
    }
}

/* A query that sees its own key only where it sees nothing else: of every row with another key the
 * diagonal is taken out, and rows without get it. */
static bool own_key(const pf_ask *a, int64_t i, int64_t *key) {
    *key = i + a->ahead;
    return *key >= 0 && *key < pf_ask_limit(a, i);
}

/* ---- the ops ---- */

static void take_pair(void *context, int64_t query, int64_t key) {
    const pf_tensor *matrix = context;
    pf_i32(matrix)[query * matrix->shape[1] + key]++;
}

static void settle_self(const pf_ask *a, int32_t *row, int64_t i) {
    int64_t own, others = 0;
    if (!own_key(a, i, &own)) return;
    for (int64_t j = 0; j < a->Lk; j++) others += j != own && row[j];
    row[own] = others == 0;
}

static int matrix_shape(pf_call *c) {
    PF_TRY(check(c));
    int64_t shape[2] = {c->attr[A_LENGTH].i, keys_of(c)};
    return pf_set_shape(c, 0, PF_I32, 2, shape);
}

static int matrix_forward(pf_call *c) {
    pf_ask ask;
    pf_pattern pattern;
    pf_pattern_store store = {.call = c};
    const pf_pattern_rule *rule;
    double option[PF_PATTERN_OPTIONS];
    int32_t *to = pf_i32(c->out[0]);
    PF_TRY(make_ask(&ask, option, &rule, c));
    PF_TRY(pf_pattern_make(&pattern, &store, rule, &ask));
    memset(to, 0, (size_t)(ask.Lq * ask.Lk) * sizeof *to);
    walk w = {&pattern, &ask, take_pair, c->out[0]};
    walk_pairs(&w);
    for (int64_t i = 0; i < ask.Lq && pattern.self_last; i++) settle_self(&ask, to + i * ask.Lk, i);
    return PF_OK;
}

typedef struct {
    int32_t *count;
    int32_t *own; /* (Lq): how often the query's own key is among them; NULL: nobody asks */
    int64_t ahead;
} counter;

static void count_pair(void *context, int64_t query, int64_t key) {
    counter *n = context;
    n->count[query]++;
    if (n->own && key == query + n->ahead) n->own[query]++;
}

/* Without cuts and bits a tile's pairs need no walk: an interval, or a run, as far as the limit. */
static void count_intervals(const pf_pattern_part *p, const pf_ask *a, int32_t *count) {
    for (int64_t i = 0; i < p->q.n; i++) {
        int64_t query = pf_order_position(&p->q, i), limit = pf_ask_limit(a, query);
        int64_t hi = pf_order_find(&p->k, p->lo[i], pf_max(p->lo[i], p->hi[i]), limit);
        count[query] += (int32_t)(hi - p->lo[i]);
    }
}

static int count_shape(pf_call *c) {
    PF_TRY(check(c));
    int64_t one = 1;
    PF_TRY(pf_set_shape(c, 1, PF_I32, 1, &one));
    return pf_set_shape(c, 0, PF_I32, 1, &c->attr[A_LENGTH].i);
}

static bool all_intervals(const pf_pattern *pattern) {
    for (int n = 0; n < pattern->n; n++) {
        if (pattern->part[n].cuts || !pattern->part[n].lo) return false;
    }
    return true;
}

static void count_all(const walk *w, counter *n) {
    const pf_pattern *pattern = w->pattern;
    if (n->own || !all_intervals(pattern)) {
        walk_pairs(w);
        return;
    }
    for (int i = 0; i < pattern->n; i++) {
        count_intervals(&pattern->part[i], w->ask, n->count);
    }
}

/* Rows with other keys lose their own, rows without gain it. */
static void count_self(const pf_ask *a, const counter *n) {
    for (int64_t i = 0; i < a->Lq; i++) {
        int64_t own;
        if (!own_key(a, i, &own)) continue;
        int32_t others = n->count[i] - n->own[i];
        n->count[i] = others > 0 ? others : 1;
    }
}

static int count_forward(pf_call *c) {
    pf_ask ask;
    pf_pattern pattern;
    pf_pattern_store store = {.call = c};
    const pf_pattern_rule *rule;
    double option[PF_PATTERN_OPTIONS];
    PF_TRY(make_ask(&ask, option, &rule, c));
    PF_TRY(pf_pattern_make(&pattern, &store, rule, &ask));
    counter n = {.count = pf_i32(c->out[0]), .ahead = ask.ahead};
    memset(n.count, 0, (size_t)ask.Lq * sizeof *n.count);
    if (pattern.self_last) {
        n.own = pf_call_alloc(c, (size_t)ask.Lq * sizeof *n.own);
        if (!n.own) return PF_ENOMEM;
        memset(n.own, 0, (size_t)ask.Lq * sizeof *n.own);
    }
    walk w = {&pattern, &ask, count_pair, &n};
    count_all(&w, &n);
    if (pattern.self_last) count_self(&ask, &n);
    *pf_i32(c->out[1]) = (int32_t)pf_min(pattern.tiles, INT32_MAX);
    return PF_OK;
}

const pf_op pf_op_pattern_matrix = {
    .name = "pattern_matrix",
    .args = "pattern, [limits], [buckets]",
    .results = "matrix",
    .doc = "Which keys each query sees by a pattern: (length, keys) i32, 1 where it does. limits "
           "(length) i32: it sees so many of the first keys at most; buckets (rounds, keys) i32 of "
           "patterns that go by them.",
    .min_in = 1,
    .max_in = INPUTS,
    .n_out = 1,
    .flags = PF_OP_NO_GRAD,
    .uses = PF_USES_NONE,
    .attrs = attrs,
    .n_attrs = A_COUNT,
    .shape = matrix_shape,
    .forward = matrix_forward,
};

const pf_op pf_op_pattern_count = {
    .name = "pattern_count",
    .args = "pattern, [limits], [buckets]",
    .results = "count, tiles",
    .doc =
        "How many keys each query sees by a pattern, (length) i32, and (1) i32 how many tiles of "
        "at most 128 queries and 128 keys an attention by it multiplies. Inputs as those of "
        "pattern_matrix.",
    .min_in = 1,
    .max_in = INPUTS,
    .n_out = 2,
    .flags = PF_OP_NO_GRAD,
    .uses = PF_USES_NONE,
    .attrs = attrs,
    .n_attrs = A_COUNT,
    .shape = count_shape,
    .forward = count_forward,
};
