/*
 * pattern_maker.h - what a rule makes its parts of: orders of queries and keys, and parts over them
 * by intervals, by tiles or by pairs. All memory is the maker's.
 */
#ifndef PF_PATTERN_MAKER_H
#define PF_PATTERN_MAKER_H

#include "pattern.h"

struct pf_maker {
    pf_pattern *pattern;
    pf_pattern_store *store;
};

/* bytes, 64-aligned and undefined; NULL with PF_ENOMEM's message. */
void *pf_maker_take(pf_maker *m, size_t bytes);
int32_t *pf_maker_numbers(pf_maker *m, int64_t n);

/* ---- orders ---- */

/* The order of o->position (NULL: as they stand), n places, in runs of at most PF_TILE that never
 * cross one of the rooms that begin (rooms + 1) tells the first places of. */
int pf_order_cut(pf_order *o, pf_maker *m, int64_t n, const int32_t *begin, int64_t rooms);
/* Positions 0 .. n - 1 as they are, in runs of PF_TILE. */
int pf_order_plain(pf_order *o, pf_maker *m, int64_t n);
/* n given positions, each once; the order is one room. The list is taken as it is. */
int pf_order_listed(pf_order *o, pf_maker *m, const int32_t *position, int64_t n);
/* Positions 0 .. n - 1 by their room (0 .. rooms - 1; -1: left out), each room ascending, in runs
 * that never cross one. begin (rooms + 1) <- the first place of each room. */
int pf_order_rooms(pf_order *o, pf_maker *m, const int32_t *room, int64_t n, int64_t rooms,
                   int32_t *begin);
/* runs (rooms + 1) <- the first run of each room. */
void pf_order_room_runs(const int32_t *begin, int64_t rooms, int64_t *runs);

/* ---- parts: what a rule fills in, and the rest made from it ---- */

/* q, k, lo and hi are set, and maybe cuts; lo >= hi: sees none. Tiles: those that an interval
 * meets. */
int pf_maker_add(pf_maker *m, const pf_pattern_part *part);
/* q, k, first and key are set, and maybe bits; all else follows. */
int pf_maker_add_tiles(pf_maker *m, const pf_pattern_part *part);

/* ---- intervals.c: parts that rules have in common ---- */

/* A window around the query's place p: keys at positions p + from .. p + to, those in reach. */
typedef struct pf_span {
    int64_t from, to;
    int64_t least; /* queries at places below have none */
    bool cuts;
} pf_span;
#define PF_FAR ((int64_t)1 << 40) /* further than any key */

/* Queries and keys as they stand; of each query the places lo .. hi - 1 (Lq). */
int pf_maker_add_plain(pf_maker *m, const pf_ask *a, const int32_t *lo, const int32_t *hi);
int pf_maker_add_window(pf_maker *m, const pf_ask *a, const pf_span *span);
/* The same of keys at places p, p - step, p + step, p - 2 step ... alone. */
int pf_maker_add_residues(pf_maker *m, const pf_ask *a, int64_t step, const pf_span *span);
/* Some keys, at n ascending places, of which each query sees the first hi (Lq). */
int pf_maker_add_columns(pf_maker *m, const pf_ask *a, const int32_t *place, int64_t n,
                         const int32_t *hi, bool cuts);
/* Some queries, n of them, which see all that is in reach. */
int pf_maker_add_rows(pf_maker *m, const pf_ask *a, const int32_t *query, int64_t n);

#endif
