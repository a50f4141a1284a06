/*
 * pattern.h - which keys a query sees, where that is not simply the first n_i of its segment:
 * windows, blocks, hashes, clusters, lists.
 *
 * A rule (patterns.def: one row each) says it in options; a pattern is what a rule makes of one
 * segment: a list of parts. A part is an order of queries and an order of keys, both cut in runs of
 * at most PF_TILE places, the tiles (query run, key run) that meet, the same tiles transposed, and
 * of each query an interval [lo, hi) of key places. Rows are copied in blocks anyway, so an order
 * costs nothing.
 *
 * What must hold. Query i sees the key at place r of a part iff a tile holds the pair,
 * lo[i's place] <= r < hi[i's place], the tile's bits have it, the key is among the first n_i
 * (reach.h: causal, limits, prefix), the key mask keeps it and, where the part cuts, no earlier
 * part's interval has the pair: a union holds a pair once. A position stands at most once in an
 * order. Keys of one interval ascend in position, so that what a limit leaves of it is its
 * beginning. A query stands at its last key, n_i - 1, in all that counts distances: so a prefix of
 * the sequence has the pattern of the whole, and more keys than queries need no rule of their own.
 * Runs never cross a room (a bucket, a cluster, a class of residues) whose end depends on what
 * comes later, so that the past is summed in the same order whatever follows. All is a function of
 * the segment's sizes, limits and bucket numbers, never of threads or neighbours.
 */
#ifndef PF_PATTERN_H
#define PF_PATTERN_H

#include "reach.h"

enum { PF_TILE_WORDS = PF_TILE * PF_TILE / 64, PF_PATTERN_OPTIONS = 12 };

/* Positions in an order, cut in runs. */
typedef struct pf_order {
    int64_t n;               /* places */
    const int32_t *position; /* (n); NULL: place = position */
    const int32_t *place;    /* inverted, -1: none; NULL: place = position, or nobody asks */
    int64_t runs;
    const int32_t *first; /* (runs + 1): first places of the runs */
} pf_order;

typedef struct pf_pattern_part {
    pf_order q, k;
    const int32_t *lo, *hi; /* (q.n): keys at places lo .. hi - 1; NULL: all of the tiles */
    const int64_t *first;   /* (q.runs + 1) into key */
    const int32_t *key;     /* key runs of a query run, ascending */
    const int64_t *back;    /* (k.runs + 1) into query */
    const int32_t *query;   /* query runs of a key run, ascending */
    const uint64_t *bits; /* of each tile, in the order of `key`, PF_TILE_WORDS: bit r % 64 of word
                             * 2 i + r / 64 is the pair (i, r) of the tile; NULL: all pairs */
    const int64_t *tile;  /* with bits: the number in `key` of each entry of `query` */
    bool cuts; /* pairs of earlier parts, all of which have intervals and inverse orders, are left
                * out here */
} pf_pattern_part;

enum { PF_PARTS = 64 };

typedef struct pf_pattern {
    pf_pattern_part part[PF_PARTS];
    int n;
    int64_t Lq, Lk; /* of the segment */
    int64_t tiles;  /* of all parts */
    bool self_last; /* a query sees its own place, i + Lk - Lq, only where it sees nothing else */
} pf_pattern;

static inline int64_t pf_order_position(const pf_order *o, int64_t place) {
    return o->position ? o->position[place] : place;
}
/* -1: it has none. */
static inline int64_t pf_order_place(const pf_order *o, int64_t position) {
    if (o->place) return o->place[position];
    return position < o->n ? position : -1;
}
/* Of places from .. to - 1, which ascend in position, the first whose position is not below
 * `position`; `to` if there is none. */
int64_t pf_order_find(const pf_order *o, int64_t from, int64_t to, int64_t position);
/* Of a part with intervals and inverse orders: does it have the pair of positions? */
static inline bool pf_pattern_has(const pf_pattern_part *p, int64_t query, int64_t key) {
    int64_t i = pf_order_place(&p->q, query), r = pf_order_place(&p->k, key);
    return i >= 0 && r >= 0 && p->lo[i] <= r && r < p->hi[i];
}

/* What a rule is asked: one segment, and where it asks for buckets one head of it. */
typedef struct pf_ask {
    const char *where;    /* for messages */
    const double *option; /* of the rule, in its table's order */
    const int32_t *list;  /* of rules that are given as lists; NULL */
    int64_t n_list;
    int64_t Lq, Lk;        /* queries and keys of the segment */
    bool causal;           /* queries see a first part of the keys */
    const int32_t *limit;  /* (Lq): how many; NULL: min(i + 1 + ahead, Lk), or all */
    int64_t ahead;         /* Lk - Lq of the call */
    int64_t head;          /* whose random blocks these are */
    const int32_t *bucket; /* (rounds, Lk) of this item and head; ~b, below 0: a masked key */
    int64_t bucket_step;   /* numbers between two rounds */
    int64_t rounds;
    int64_t skipped, kept; /* streaming: keys from place `kept` on stand `skipped` further */
} pf_ask;

/* How many keys query i of the asked segment sees without the rule. */
static inline int64_t pf_ask_limit(const pf_ask *a, int64_t i) {
    if (a->limit) return a->limit[i];
    return a->causal ? pf_max(0, pf_min(i + 1 + a->ahead, a->Lk)) : a->Lk;
}
/* Where the key at `place` of those that are held stands in the sequence, and how many of the
 * held ones stand before a position. Both are the identity where nothing was skipped. */
static inline int64_t pf_ask_position(const pf_ask *a, int64_t place) {
    return place < a->kept ? place : place + a->skipped;
}
static inline int64_t pf_ask_before(const pf_ask *a, int64_t position) {
    if (position > a->kept) position = pf_max(a->kept, position - a->skipped);
    return pf_max(0, pf_min(position, a->Lk));
}
/* Where query i stands: at its last key, -1 without one; in full attention at its own number. */
static inline int64_t pf_ask_place(const pf_ask *a, int64_t i) {
    if (!a->causal) return i;
    int64_t n = pf_ask_limit(a, i);
    return n > 0 ? pf_ask_position(a, n - 1) : -1;
}

typedef struct pf_maker pf_maker; /* pattern_maker.h: grows a pattern part by part */

typedef struct pf_pattern_rule {
    const char *name, *doc;
    const pf_option_info *options;
    int n_options;
    bool by_head;   /* parts differ from head to head (random blocks) */
    bool buckets;   /* asks for bucket numbers: parts differ from item to item and head to head */
    bool self_last; /* of its patterns, but where `build` says otherwise */
    const char *no_causal, *no_full; /* why it has no such form; NULL: it has */
    /* Refuses options that do not go together, naming the number; NULL: all do. */
    int (*check)(const double *option, const char *where);
    /* Of rules that are given by a list: refuses one that is none; NULL: takes no list. */
    int (*check_list)(const pf_ask *ask);
    /* Refuses a length that the options are not for, as a user wants to know who tries one
     * (pf_pattern_fits); a pattern is made for any. NULL: all are fine. */
    int (*fits)(const pf_ask *ask);
    /* Keys that a query of `length` sees on average, as flops count them: near enough to tell what
     * an attention costs. NULL: not told. */
    double (*keys)(const double *option, double length, bool causal);
    /* Adds its parts; memory is the maker's. */
    int (*build)(pf_maker *maker, const pf_ask *ask);
} pf_pattern_rule;

/* ---- pattern_rules.c: the table, and patterns in tensors ---- */
#define PF_PATTERN(name) extern const pf_pattern_rule pf_pattern_rule_##name;
#include "patterns.def"
#undef PF_PATTERN
const pf_pattern_rule *pf_pattern_rule_at(int index); /* NULL past the last */
/* By name; fails naming the nearest. */
int pf_pattern_rule_find(const pf_pattern_rule **rule, const char *name, const char *where);
/* option (PF_PATTERN_OPTIONS) <- `options` (NULL: none) over the defaults, once they fit; a choice
 * by its place. */
int pf_pattern_settle(double *option, const pf_pattern_rule *rule, const pf_config *options,
                      const char *where);

/* A pattern as an op is given it, (n) i32: the rule's number, its options, and a list that a host
 * gives behind. So the tape, change checks and recomputation know it as any other input. */
int pf_pattern_words(pf_tensor **words, pf_engine *e, const pf_pattern_rule *rule,
                     const double *option, const int32_t *list, int64_t n_list);
/* The rule, and in `ask` the list, with `option` (PF_PATTERN_OPTIONS) as its options, of contiguous
 * `words` once they fit; who asks fills in the segment. */
int pf_pattern_read(const pf_pattern_rule **rule, double *option, pf_ask *ask,
                    const pf_tensor *words, const char *where);

/* ---- pattern.c: making patterns ---- */

/* Where patterns of one call lie: in blocks that the call holds, and that a rewound store takes
 * again. Begins as {.call = c}. */
typedef struct pf_pattern_store {
    pf_call *call;
    int n, at;   /* blocks, and which is being filled */
    size_t used; /* bytes of it */
    struct {
        char *base;
        size_t bytes;
    } block[20];
} pf_pattern_store;
void pf_pattern_rewind(pf_pattern_store *store); /* patterns that lie there are gone */

/* The pattern of one segment (and head, of rules that ask for one). Fails where the rule has no
 * such form, or a list is for another length. */
int pf_pattern_make(pf_pattern *pattern, pf_pattern_store *store, const pf_pattern_rule *rule,
                    const pf_ask *ask);
/* What a user who tries a length wants to be told: more global tokens than there are. */
int pf_pattern_fits(const pf_pattern_rule *rule, const pf_ask *ask);

#endif
