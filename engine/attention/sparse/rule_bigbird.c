/*
 * rule_bigbird.c - blocks (Big Bird, Zaheer 2020, section 2; internal construction). A query of
 * block B sees the keys of
 *
 *     its window, blocks B - w .. B + w;  the first g blocks, and the last g;  r random blocks
 *
 * and queries of the first and last g blocks see all. Causal attention knows what is before a query
 * alone: its window is B - w .. B, its global blocks the first, and its random blocks lie before
 * the window.
 *
 * Random blocks are drawn from those that are seen by nothing else, by a number that depends on
 * (seed, layer, head, B), never on the process or on earlier draws; causal ones not on the length
 * either, so that a prefix keeps its graph. One part: runs are blocks, so a tile is a pair of them.
 */
#include "pattern_maker.h"
#include "rng.h"

enum { BLOCK, WINDOW, GLOBAL, RANDOM, SEED, LAYER, OPTIONS };
enum { RANDOM_MAX = 64 };

static const pf_option_info options[OPTIONS] = {
    [BLOCK] = {.name = "block",
               .kind = PF_OPT_INT,
               .number = 64,
               .low = 1,
               .high = INT32_MAX,
               .doc = "positions of a block"},
    [WINDOW] = {.name = "window_blocks",
                .kind = PF_OPT_INT,
                .number = 3,
                .low = 1,
                .high = INT32_MAX,
                .doc = "blocks around a query, its own in the middle (odd); causal attention sees "
                       "those up to its own"},
    [GLOBAL] = {.name = "global_blocks",
                .kind = PF_OPT_INT,
                .number = 1,
                .low = 0,
                .high = INT32_MAX,
                .doc = "first blocks, and in full attention last ones, that see all, and that all "
                       "see"},
    [RANDOM] = {.name = "random",
                .kind = PF_OPT_INT,
                .number = 3,
                .low = 0,
                .high = RANDOM_MAX,
                .doc = "blocks drawn for each block of queries, from those not seen already"},
    [SEED] = {.name = "seed",
              .kind = PF_OPT_INT,
              .low = 0,
              .high = 9007199254740992.0,
              .doc = "of the random blocks"},
    [LAYER] = {.name = "layer",
               .kind = PF_OPT_INT,
               .low = 0,
               .high = 1 << 20,
               .doc = "which layer's random blocks"},
};

static int check(const double *option, const char *where) {
    if ((int64_t)option[WINDOW] % 2 == 1) return PF_OK;
    return pf_fail(PF_EINVAL, "%s: window_blocks = %lld have no middle; it is an odd number", where,
                   (long long)option[WINDOW]);
}

/* Of one segment: blocks of keys, and what every block of queries has in common. */
typedef struct {
    const pf_ask *ask;
    int64_t block, side, global, random, q_blocks, k_blocks;
} graph;

static graph graph_of(const pf_ask *a) {
    const double *o = a->option;
    int64_t block = (int64_t)o[BLOCK], last = 0;
    for (int64_t i = 0; i < a->Lq; i++) last = pf_max(last, pf_ask_place(a, i) + 1);
    return (graph){.ask = a,
                   .block = block,
                   .side = (int64_t)o[WINDOW] / 2,
                   .global = (int64_t)o[GLOBAL],
                   .random = (int64_t)o[RANDOM],
                   .q_blocks = pf_ceil_div(last, block),
                   .k_blocks = pf_ceil_div(a->Lk + a->skipped, block)};
}

/* The first of the last global blocks: none in causal attention. */
static int64_t last_global(const graph *g) {
    if (g->ask->causal) return g->k_blocks;
    return pf_max(g->k_blocks - g->global, pf_min(g->global, g->k_blocks));
}

/* random distinct numbers below n, ascending, to `to` (Floyd 1987); all where there are fewer. */
static int64_t draw(const graph *g, int64_t query, int64_t n, int32_t *to) {
    const double *o = g->ask->option;
    uint64_t layer = (uint64_t)o[LAYER] << 32 | (uint64_t)g->ask->head;
    pf_rng rng = pf_rng_make((uint64_t)o[SEED], PF_DRAW_PATTERN, layer, (uint64_t)query);
    int64_t count = pf_min(g->random, n);
    for (int64_t k = 0; k < count; k++) {
        int64_t top = n - count + k, at = k;
        int32_t number = (int32_t)pf_rng_below(&rng, (uint64_t)k, (uint64_t)top + 1);
        for (int64_t i = 0; i < k; i++) {
            if (to[i] == number) number = (int32_t)top;
        }
        for (; at > 0 && to[at - 1] > number; at--) to[at] = to[at - 1];
        to[at] = number;
    }
    return count;
}

/* Key blocks from .. to - 1 go to the list, as far as it does not have them. */
static int64_t append(int32_t *to, int64_t n, int64_t from, int64_t end) {
    if (n > 0) from = pf_max(from, to[n - 1] + 1);
    for (int64_t b = from; b < end; b++) to[n++] = (int32_t)b;
    return n;
}

/* Key blocks of query block `query`, ascending, to `to` (k_blocks); returns how many. What is not
 * drawn is left, window, right: three ranges; free blocks lie between them. */
static int64_t blocks_of(const graph *g, int64_t query, int32_t *to) {
    int64_t first = pf_min(g->global, g->k_blocks), last = last_global(g);
    int64_t in_reach = g->ask->causal ? query + 1 : g->k_blocks;
    bool sees_all = query < first || (query >= last && query < g->k_blocks);
    if (sees_all) return append(to, 0, 0, pf_min(in_reach, g->k_blocks));
    int64_t left = pf_max(first, pf_min(query - g->side, last));
    int64_t right = pf_min(last, pf_max(left, query + (g->ask->causal ? 0 : g->side) + 1));
    int64_t before = left - first, after = g->ask->causal ? 0 : last - right;
    int32_t drawn[RANDOM_MAX];
    int64_t count = draw(g, query, before + after, drawn), k = 0;
    int64_t n = append(to, 0, 0, first);
    for (; k < count && drawn[k] < before; k++) to[n++] = (int32_t)(first + drawn[k]);
    n = append(to, n, left, right);
    for (; k < count; k++) to[n++] = (int32_t)(right + drawn[k] - before);
    return append(to, n, last, g->k_blocks);
}

/* Orders by blocks, and the first run of each block. */
typedef struct {
    pf_order *order;
    int64_t *runs;
    int64_t blocks, n;
    bool queries;
} side;

static int order_blocks(const side *s, pf_maker *m, const graph *g) {
    int32_t *room = pf_maker_numbers(m, s->n), *begin = pf_maker_numbers(m, s->blocks + 1);
    if (!room || !begin || !s->runs) return PF_ENOMEM;
    for (int64_t i = 0; i < s->n; i++) {
        int64_t place = s->queries ? pf_ask_place(g->ask, i) : pf_ask_position(g->ask, i);
        room[i] = place < 0 ? -1 : (int32_t)(place / g->block);
    }
    PF_TRY(pf_order_rooms(s->order, m, room, s->n, s->blocks, begin));
    pf_order_room_runs(begin, s->blocks, s->runs);
    return PF_OK;
}

/* The tiles of every query run: all key runs of its block's blocks. key NULL: counted in first. */
static void list_tiles(const graph *g, const int64_t *q_runs, const int64_t *k_runs, int32_t *block,
                       int64_t *first, int32_t *key) {
    int64_t tiles = 0;
    first[0] = 0;
    for (int64_t B = 0; B < g->q_blocks; B++) {
        int64_t n = blocks_of(g, B, block);
        for (int64_t run = q_runs[B]; run < q_runs[B + 1]; run++) {
            for (int64_t i = 0; i < n; i++) {
                for (int64_t r = k_runs[block[i]]; r < k_runs[block[i] + 1]; r++) {
                    if (key) key[tiles] = (int32_t)r;
                    tiles++;
                }
            }
            first[run + 1] = tiles;
        }
    }
}

static int64_t *take_runs(pf_maker *m, int64_t n) {
    return pf_maker_take(m, (size_t)(n + 1) * sizeof(int64_t));
}

static int build(pf_maker *m, const pf_ask *a) {
    graph g = graph_of(a);
    pf_pattern_part part = {.cuts = false};
    side q = {&part.q, take_runs(m, g.q_blocks), g.q_blocks, a->Lq, true};
    side k = {&part.k, take_runs(m, g.k_blocks), g.k_blocks, a->Lk, false};
    PF_TRY(order_blocks(&q, m, &g));
    PF_TRY(order_blocks(&k, m, &g));
    int32_t *block = pf_maker_numbers(m, g.k_blocks);
    int64_t *first = take_runs(m, part.q.runs);
    if (!block || !first) return PF_ENOMEM;
    list_tiles(&g, q.runs, k.runs, block, first, NULL);
    int32_t *key = pf_maker_numbers(m, first[part.q.runs]);
    if (!key) return PF_ENOMEM;
    list_tiles(&g, q.runs, k.runs, block, first, key);
    part.first = first;
    part.key = key;
    return pf_maker_add_tiles(m, &part);
}

static int fits(const pf_ask *a) {
    int64_t block = (int64_t)a->option[BLOCK], global = (int64_t)a->option[GLOBAL];
    int64_t blocks = pf_ceil_div(a->Lk, block);
    if (global <= blocks || a->Lk == 0) return PF_OK;
    return pf_fail(
        PF_EINVAL, "%s: global_blocks = %lld, but %lld tokens are only %lld blocks of %lld",
        a->where, (long long)global, (long long)a->Lk, (long long)blocks, (long long)block);
}

static double keys(const double *o, double length, bool causal) {
    (void)length;
    double window = causal ? o[WINDOW] / 2 : o[WINDOW];
    return o[BLOCK] * (window + o[RANDOM] + o[GLOBAL] * (causal ? 1.5 : 4));
}

const pf_pattern_rule pf_pattern_rule_bigbird = {
    .name = "bigbird",
    .doc = "Blocks: a window of them, first and last ones that see and are seen by all, and random "
           "ones (Big Bird).",
    .options = options,
    .n_options = OPTIONS,
    .by_head = true,
    .check = check,
    .fits = fits,
    .keys = keys,
    .build = build,
};
