/*
 * rule_listed.c - a pattern that a host gives as lists: of every block of `block` queries the
 * blocks of keys that it sees; with blocks of 1, of every query its keys. The list is
 *
 *     query blocks, key blocks, first (query blocks + 1), key (first[query blocks])
 *
 * with the keys of a block ascending, each once, and it is for sequences of so many blocks alone.
 *
 * Blocks of some size are runs, and a tile is a pair of them. Small ones share runs of PF_TILE, and
 * each tile has a bit for each of its pairs.
 */
#include <string.h>

#include "pattern_maker.h"

enum { BLOCK, OPTIONS };
enum { Q_BLOCKS, K_BLOCKS, FIRST };
enum { SMALL = 32 };

static const pf_option_info options[OPTIONS] = {
    [BLOCK] = {.name = "block",
               .kind = PF_OPT_INT,
               .number = 1,
               .low = 1,
               .high = INT32_MAX,
               .doc = "positions of a block; 1: the list is of positions"},
};

/* The list, read. */
typedef struct {
    const pf_ask *ask;
    int64_t block, q_blocks, k_blocks;
    const int32_t *first, *key;
} lists;

static lists lists_of(const pf_ask *a) {
    int64_t q_blocks = a->list[Q_BLOCKS];
    return (lists){.ask = a,
                   .block = (int64_t)a->option[BLOCK],
                   .q_blocks = q_blocks,
                   .k_blocks = a->list[K_BLOCKS],
                   .first = a->list + FIRST,
                   .key = a->list + FIRST + q_blocks + 1};
}

/* ---- checks ---- */

static int no_list(const pf_ask *a) {
    return pf_fail(PF_EINVAL,
                   "%s: the list of a pattern is: blocks of queries, blocks of keys, where the "
                   "list of each begins and where the last ends, then the lists",
                   a->where);
}

static const char *noun(const lists *l, bool key) {
    if (l->block == 1) return key ? "key" : "query";
    return key ? "block" : "block of queries";
}

/* The keys of one block of queries: in range, ascending, each once. */
static int check_row(const lists *l, int64_t q) {
    for (int64_t t = l->first[q]; t < l->first[q + 1]; t++) {
        int64_t key = l->key[t], before = t > l->first[q] ? l->key[t - 1] : -1;
        if (key < 0 || key >= l->k_blocks) {
            return pf_fail(PF_EINVAL, "%s: %s %s lists %s %s, but there are %lld", l->ask->where,
                           noun(l, false), pf_place(q), noun(l, true), pf_place(key),
                           (long long)l->k_blocks);
        }
        if (key > before) continue;
        return pf_fail(PF_EINVAL, "%s: %s %s lists %s %s %s", l->ask->where, noun(l, false),
                       pf_place(q), noun(l, true), pf_place(key),
                       key == before ? "twice" : "out of order");
    }
    return PF_OK;
}

static int check_list(const pf_ask *a) {
    if (a->n_list < FIRST + 1 || a->list[Q_BLOCKS] < 0 || a->list[K_BLOCKS] < 0 ||
        a->list[Q_BLOCKS] > a->n_list - FIRST - 1) {
        return no_list(a);
    }
    lists l = lists_of(a);
    int64_t n = a->n_list - FIRST - 1 - l.q_blocks;
    if (l.first[0] != 0 || l.first[l.q_blocks] != n) return no_list(a);
    for (int64_t q = 0; q < l.q_blocks; q++) {
        if (l.first[q + 1] < l.first[q] || l.first[q + 1] > n) return no_list(a);
    }
    for (int64_t q = 0; q < l.q_blocks; q++) PF_TRY(check_row(&l, q));
    return PF_OK;
}

/* A list is for one length, which blocks tell but for the last one's. */
static int check_length(const lists *l) {
    const pf_ask *a = l->ask;
    int64_t q = pf_ceil_div(a->Lq, l->block), k = pf_ceil_div(a->Lk, l->block);
    if (q == l->q_blocks && k == l->k_blocks) return PF_OK;
    if (l->block == 1) {
        return pf_fail(
            PF_EINVAL, "%s: the pattern is for %lld queries and %lld keys, not for %lld and %lld",
            a->where, (long long)l->q_blocks, (long long)l->k_blocks, (long long)q, (long long)k);
    }
    return pf_fail(PF_EINVAL,
                   "%s: the pattern is for %lld and %lld blocks of %lld, but %lld queries and %lld "
                   "keys are %lld and %lld",
                   a->where, (long long)l->q_blocks, (long long)l->k_blocks, (long long)l->block,
                   (long long)a->Lq, (long long)a->Lk, (long long)q, (long long)k);
}

/* ---- large blocks: runs ---- */

/* begin (blocks + 1) <- where blocks of n positions begin. */
static void cut_blocks(const lists *l, int64_t n, int64_t blocks, int32_t *begin) {
    for (int64_t b = 0; b <= blocks; b++) begin[b] = (int32_t)pf_min(b * l->block, n);
}

/* An order that stands as it is, in blocks, and the first run of each. */
static int order_blocks(pf_order *o, int64_t **runs, pf_maker *m, const lists *l, int64_t n,
                        int64_t blocks) {
    int32_t *begin = pf_maker_numbers(m, blocks + 1);
    *runs = pf_maker_take(m, (size_t)(blocks + 1) * sizeof **runs);
    if (!begin || !*runs) return PF_ENOMEM;
    cut_blocks(l, n, blocks, begin);
    pf_order_room_runs(begin, blocks, *runs);
    return pf_order_cut(o, m, n, begin, blocks);
}

/* Tiles of every run of queries; key NULL: counted in first. Those that no query reaches are none,
 * so that what a list says of the future costs nothing. */
static void list_tiles(const lists *l, const pf_pattern_part *p, const int64_t *q_runs,
                       const int64_t *k_runs, int64_t *first, int32_t *key) {
    int64_t tiles = 0;
    first[0] = 0;
    for (int64_t q = 0; q < l->q_blocks; q++) {
        for (int64_t run = q_runs[q]; run < q_runs[q + 1]; run++) {
            int64_t most = 0;
            for (int64_t i = p->q.first[run]; i < p->q.first[run + 1]; i++) {
                most = pf_max(most, pf_ask_limit(l->ask, i));
            }
            for (int64_t t = l->first[q]; t < l->first[q + 1]; t++) {
                for (int64_t r = k_runs[l->key[t]]; r < k_runs[l->key[t] + 1]; r++) {
                    if (p->k.first[r] >= most) break;
                    if (key) key[tiles] = (int32_t)r;
                    tiles++;
                }
            }
            first[run + 1] = tiles;
        }
    }
}

static int add_blocks(pf_maker *m, const lists *l) {
    pf_pattern_part part = {.cuts = false};
    int64_t *q_runs, *k_runs;
    PF_TRY(order_blocks(&part.q, &q_runs, m, l, l->ask->Lq, l->q_blocks));
    PF_TRY(order_blocks(&part.k, &k_runs, m, l, l->ask->Lk, l->k_blocks));
    int64_t *first = pf_maker_take(m, (size_t)(part.q.runs + 1) * sizeof *first);
    if (!first) return PF_ENOMEM;
    list_tiles(l, &part, q_runs, k_runs, first, NULL);
    int32_t *key = pf_maker_numbers(m, first[part.q.runs]);
    if (!key) return PF_ENOMEM;
    list_tiles(l, &part, q_runs, k_runs, first, key);
    part.first = first;
    part.key = key;
    return pf_maker_add_tiles(m, &part);
}

/* ---- small blocks: bits ---- */

/* One run of queries at a time: which key runs it meets, and the number of each one's tile. */
typedef struct {
    const lists *l;
    const pf_pattern_part *part;
    int64_t *tile; /* (key runs): -1: not met */
} scan;

/* Of every pair of a run's queries: marks the key's run (bits NULL), or sets the pair's bit. */
static void walk_run(const scan *s, int64_t run, uint64_t *bits) {
    const lists *l = s->l;
    int64_t i0 = s->part->q.first[run], end = s->part->q.first[run + 1];
    for (int64_t i = i0; i < end; i++) {
        int64_t q = i / l->block, limit = pf_ask_limit(l->ask, i);
        for (int64_t t = l->first[q]; t < l->first[q + 1]; t++) {
            int64_t j = l->key[t] * l->block, last = pf_min(j + l->block, limit);
            for (; j < last; j++) {
                int64_t r = j % PF_TILE;
                if (!bits)
                    s->tile[j / PF_TILE] = 0;
                else
                    bits[s->tile[j / PF_TILE] * PF_TILE_WORDS + 2 * (i - i0) + r / 64] |=
                        (uint64_t)1 << r % 64;
            }
        }
    }
}

/* The key runs that a run meets, to `key` (NULL: counted) from number `tiles` on, which s->tile
 * then holds; returns the number behind the last. */
static int64_t meet(const scan *s, int64_t run, int64_t tiles, int32_t *key) {
    for (int64_t r = 0; r < s->part->k.runs; r++) s->tile[r] = -1;
    walk_run(s, run, NULL);
    for (int64_t r = 0; r < s->part->k.runs; r++) {
        if (s->tile[r] < 0) continue;
        if (key) key[tiles] = (int32_t)r;
        s->tile[r] = tiles++;
    }
    return tiles;
}

static int add_pairs(pf_maker *m, const lists *l) {
    pf_pattern_part part = {.cuts = false};
    PF_TRY(pf_order_plain(&part.q, m, l->ask->Lq));
    PF_TRY(pf_order_plain(&part.k, m, l->ask->Lk));
    scan s = {l, &part, pf_maker_take(m, (size_t)part.k.runs * sizeof(int64_t))};
    int64_t *first = pf_maker_take(m, (size_t)(part.q.runs + 1) * sizeof *first);
    if (!s.tile || !first) return PF_ENOMEM;
    first[0] = 0;
    for (int64_t r = 0; r < part.q.runs; r++) first[r + 1] = meet(&s, r, first[r], NULL);
    size_t bytes = (size_t)first[part.q.runs] * PF_TILE_WORDS * sizeof(uint64_t);
    int32_t *key = pf_maker_numbers(m, first[part.q.runs]);
    uint64_t *bits = pf_maker_take(m, bytes);
    if (!key || !bits) return PF_ENOMEM;
    memset(bits, 0, bytes);
    for (int64_t r = 0; r < part.q.runs; r++) {
        meet(&s, r, first[r], key);
        walk_run(&s, r, bits);
    }
    part.first = first;
    part.key = key;
    part.bits = bits;
    return pf_maker_add_tiles(m, &part);
}

static int build(pf_maker *m, const pf_ask *a) {
    lists l = lists_of(a);
    PF_TRY(check_length(&l));
    return l.block < SMALL ? add_pairs(m, &l) : add_blocks(m, &l);
}

const pf_pattern_rule pf_pattern_rule_listed = {
    .name = "listed",
    .doc = "Lists of one's own: of each query the keys, or of each block of queries the blocks of "
           "keys, that it sees; for one length.",
    .options = options,
    .n_options = OPTIONS,
    .check_list = check_list,
    .build = build,
};
