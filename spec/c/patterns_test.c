/*
 * patterns_test.c - what must hold of every pattern, and Lua can't see (pattern.h): runs of at most
 * PF_TILE places that cover an order, each position once; tiles ascending, and transposed the same
 * ones; intervals within their tiles, ascending in position, none of them idle; inverse orders
 * where a later part cuts. For each rule of the table, with options drawn at random, causal, full
 * and under limits.
 */
#include <stdlib.h>
#include <string.h>

#include "attention.h"
#include "check.h"
#include "pattern.h"
#include "rng.h"

enum { TRIALS = 60, ROUNDS = 2, LONGEST = 400 };

static pf_rng draws;
static uint64_t drawn;

static int64_t below(int64_t n) { return (int64_t)pf_rng_below(&draws, drawn++, (uint64_t)n); }

/* ---- parts ---- */

static void check_order(const pf_order *o, int64_t length) {
    bool seen[LONGEST] = {false};
    CHECK(o->first[0] == 0 && o->first[o->runs] == o->n);
    for (int64_t r = 0; r < o->runs; r++) {
        int32_t n = o->first[r + 1] - o->first[r];
        CHECK(n > 0 && n <= PF_TILE);
    }
    for (int64_t r = 0; r < o->n; r++) {
        int64_t at = pf_order_position(o, r);
        CHECK(at >= 0 && at < length && !seen[at]);
        seen[at] = true;
        if (o->place) CHECK(o->place[at] == r);
    }
    for (int64_t at = 0; at < length && o->place; at++) CHECK(seen[at] || o->place[at] == -1);
}

static int64_t tile_of(const pf_pattern_part *p, int64_t query, int64_t key) {
    for (int64_t t = p->first[query]; t < p->first[query + 1]; t++) {
        if (p->key[t] == key) return t;
    }
    return -1;
}

static void check_tiles(const pf_pattern_part *p) {
    int64_t tiles = 0;
    CHECK(p->first[0] == 0 && p->back[0] == 0 && p->first[p->q.runs] == p->back[p->k.runs]);
    for (int64_t r = 0; r < p->q.runs; r++) {
        for (int64_t t = p->first[r]; t < p->first[r + 1]; t++) {
            CHECK(p->key[t] >= 0 && p->key[t] < p->k.runs);
            CHECK(t == p->first[r] || p->key[t] > p->key[t - 1]);
        }
    }
    for (int64_t r = 0; r < p->k.runs; r++) {
        for (int64_t t = p->back[r]; t < p->back[r + 1]; t++, tiles++) {
            int64_t at = tile_of(p, p->query[t], r);
            CHECK(at >= 0 && (!p->tile || p->tile[t] == at));
            CHECK(t == p->back[r] || p->query[t] > p->query[t - 1]);
        }
    }
    CHECK(tiles == p->first[p->q.runs]);
}

static int64_t run_of(const pf_order *o, int64_t place) {
    int64_t run = 0;
    while (o->first[run + 1] <= place) run++;
    return run;
}

/* Every key of an interval is in a tile, and every tile has a key of an interval. */
static void check_intervals(const pf_pattern_part *p) {
    bool *used = calloc((size_t)p->first[p->q.runs] + 1, 1);
    for (int64_t i = 0; i < p->q.n; i++) {
        int64_t run = run_of(&p->q, i);
        for (int64_t r = p->lo[i]; r < p->hi[i]; r++) {
            int64_t tile = tile_of(p, run, run_of(&p->k, r));
            CHECK(r >= 0 && r < p->k.n && tile >= 0);
            CHECK(r == p->lo[i] || pf_order_position(&p->k, r) > pf_order_position(&p->k, r - 1));
            if (tile >= 0) used[tile] = true;
        }
    }
    for (int64_t t = 0; t < p->first[p->q.runs]; t++) CHECK(used[t]);
    free(used);
}

/* Bits of pairs that are past the end of a run are none. */
static void check_bits(const pf_pattern_part *p) {
    for (int64_t r = 0; r < p->q.runs; r++) {
        for (int64_t t = p->first[r]; t < p->first[r + 1]; t++) {
            const uint64_t *bits = p->bits + t * PF_TILE_WORDS;
            int64_t rows = p->q.first[r + 1] - p->q.first[r], some = 0;
            int64_t keys = p->k.first[p->key[t] + 1] - p->k.first[p->key[t]];
            for (int64_t n = 0; n < PF_TILE * PF_TILE; n++) {
                bool set = bits[n / 64] >> n % 64 & 1;
                CHECK(!set || (n / PF_TILE < rows && n % PF_TILE < keys));
                some += set;
            }
            CHECK(some > 0);
        }
    }
}

static void check_pattern(const pf_pattern *pattern, const pf_ask *ask) {
    int64_t tiles = 0;
    CHECK(pattern->Lq == ask->Lq && pattern->Lk == ask->Lk);
    for (int n = 0; n < pattern->n; n++) {
        const pf_pattern_part *p = &pattern->part[n];
        check_order(&p->q, ask->Lq);
        check_order(&p->k, ask->Lk);
        check_tiles(p);
        if (p->lo) check_intervals(p);
        if (p->bits) check_bits(p);
        for (int earlier = 0; p->cuts && earlier < n; earlier++) {
            const pf_pattern_part *e = &pattern->part[earlier];
            CHECK(e->lo && (!e->q.position || e->q.place) && (!e->k.position || e->k.place));
        }
        tiles += p->first[p->q.runs];
    }
    CHECK(tiles == pattern->tiles);
}

/* ---- what is asked ---- */

static int choices_of(const pf_option_info *row) {
    int choices = 1;
    for (const char *c = row->choices; *c; c++) choices += *c == '|';
    return choices;
}

/* Options that go together: small enough to meet each other's edges, or (wild) now and then the
 * largest that there are. */
static void draw_options(const pf_pattern_rule *rule, double *option, bool wild) {
    do {
        for (int i = 0; i < rule->n_options; i++) {
            const pf_option_info *row = &rule->options[i];
            double most = fmin(row->high, below(4) == 0 ? 300 : 12);
            option[i] = row->low + (double)below((int64_t)(most - row->low) + 1);
            if (wild && below(2)) option[i] = row->high - (double)below(2);
            if (row->kind == PF_OPT_STRING) option[i] = (double)below(choices_of(row));
        }
    } while (rule->check && rule->check(option, "test") < 0);
}

/* A list for blocks of the drawn option, whose first is `block`. */
static int64_t draw_list(int32_t *list, const double *option, int64_t Lq, int64_t Lk) {
    int64_t q = pf_ceil_div(Lq, (int64_t)option[0]), k = pf_ceil_div(Lk, (int64_t)option[0]);
    int32_t *first = list + 2, *key = first + q + 1;
    int64_t n = 0;
    list[0] = (int32_t)q, list[1] = (int32_t)k, first[0] = 0;
    for (int64_t i = 0; i < q; i++) {
        for (int64_t j = 0; j < k; j++) {
            if (below(5) == 0) key[n++] = (int32_t)j;
        }
        first[i + 1] = (int32_t)n;
    }
    return 3 + q + n;
}

static int32_t list[3 + LONGEST + LONGEST * LONGEST], limit[LONGEST], bucket[ROUNDS * LONGEST];

static pf_ask draw_ask(const pf_pattern_rule *rule, const double *option, int form) {
    pf_ask a = {.where = "test", .option = option, .rounds = ROUNDS, .bucket = bucket};
    a.Lk = below(2) ? 1 + below(LONGEST) : 1 + below(3);
    a.Lq = form == 1 || rule->buckets ? a.Lk : 1 + below(a.Lk);
    a.ahead = a.Lk - a.Lq;
    a.causal = form > 0;
    a.limit = form == 2 ? limit : NULL;
    a.head = below(4);
    a.bucket_step = a.Lk;
    for (int64_t i = 0; i < a.Lq; i++) limit[i] = (int32_t)below(a.Lk + 1);
    for (int64_t j = 0; j < ROUNDS * a.Lk; j++) {
        bucket[j] = (int32_t)below(5);
        if (below(9) == 0) bucket[j] = ~bucket[j];
    }
    a.list = list;
    a.n_list = rule->check_list ? draw_list(list, option, a.Lq, a.Lk) : 0;
    return a;
}

/* ---- a call, which lends its memory ---- */

static int shape(pf_call *c) { return pf_set_shape(c, 0, PF_I32, 0, NULL); }

static int forward(pf_call *c) {
    pf_pattern_store store = {.call = c};
    pf_pattern *pattern = malloc(sizeof *pattern);
    for (int i = 0; pf_pattern_rule_at(i); i++) {
        const pf_pattern_rule *rule = pf_pattern_rule_at(i);
        for (int trial = 0; trial < TRIALS; trial++) {
            double option[PF_PATTERN_OPTIONS] = {0};
            draw_options(rule, option, trial % 4 == 3);
            pf_ask ask = draw_ask(rule, option, trial % 3);
            if (ask.causal ? rule->no_causal : rule->no_full) continue;
            if (rule->check_list) CHECK_OK(rule->check_list(&ask));
            pf_pattern_rewind(&store);
            CHECK_OK(pf_pattern_make(pattern, &store, rule, &ask));
            check_pattern(pattern, &ask);
        }
    }
    CHECK(store.n > 0 && store.n < 12);
    free(pattern);
    return PF_OK;
}

/* A host may write any numbers for words: what is read is in its range, or refused. */
static int words_forward(pf_call *c) {
    pf_pattern_store store = {.call = c};
    pf_pattern *pattern = malloc(sizeof *pattern);
    int refused = 0;
    for (int i = 0; pf_pattern_rule_at(i); i++) {
        const pf_pattern_rule *rule = pf_pattern_rule_at(i), *read;
        for (int trial = 0; trial < 20 * TRIALS; trial++) {
            double option[PF_PATTERN_OPTIONS] = {0}, got[PF_PATTERN_OPTIONS];
            pf_tensor *words = NULL;
            draw_options(rule, option, false);
            pf_ask ask = draw_ask(rule, option, trial % 3);
            CHECK_OK(pf_pattern_words(&words, c->engine, rule, option, ask.list, ask.n_list));
            int64_t n = pf_tensor_numel(words);
            for (int64_t k = below(3); k > 0; k--) {
                int32_t *at = &pf_i32(words)[1 + below(n - 1)];
                *at = below(2) ? (int32_t)below(9) - 3 : *at ^ (int32_t)(1u << below(32));
            }
            int status = pf_pattern_read(&read, got, &ask, words, "test");
            bool answers = status >= 0 && !read->buckets == !rule->buckets;
            pf_pattern_rewind(&store);
            if (answers && pf_pattern_make(pattern, &store, read, &ask) >= 0)
                check_pattern(pattern, &ask);
            else
                refused++;
            pf_tensor_release(&words);
        }
    }
    CHECK(refused > 100);
    free(pattern);
    return PF_OK;
}

/* A window over many keys: tiles and places alone, and blocks that grow. */
static int long_forward(pf_call *c) {
    enum { L = 1000000, WIDTH = 512 };
    pf_pattern_store store = {.call = c};
    pf_pattern *pattern = malloc(sizeof *pattern);
    double option[PF_PATTERN_OPTIONS] = {WIDTH, -1, 1, 0};
    pf_ask ask = {.where = "test", .option = option, .Lq = L, .Lk = L, .causal = true};
    size_t bytes = 0;
    CHECK_OK(pf_pattern_make(pattern, &store, &pf_pattern_rule_sliding, &ask));
    CHECK(pattern->n == 1 && pattern->tiles < 5 * (L / PF_TILE + 1));
    for (int i = 0; i < store.n; i++) bytes += store.block[i].bytes;
    CHECK(bytes < 20 * (size_t)L);
    free(pattern);
    return PF_OK;
}

static void run(pf_engine *engine, int (*body)(pf_call *)) {
    const pf_op probe = {
        .name = "probe", .args = "", .results = "y", .n_out = 1, .shape = shape, .forward = body};
    pf_call *call = calloc(1, sizeof *call);
    call->engine = engine;
    call->op = &probe;
    CHECK_OK(pf_call_forward(call));
    pf_call_release(call);
    free(call);
}

int main(void) {
    pf_options options = PF_OPTIONS_DEFAULT;
    pf_engine *engine;
    draws = pf_rng_make(1, PF_DRAW_USER, 0, 0);
    CHECK_OK(pf_engine_open(&engine, &options));
    run(engine, forward);
    run(engine, words_forward);
    run(engine, long_forward);
    pf_engine_close(&engine);
    return CHECK_REPORT();
}
