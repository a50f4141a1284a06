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

/* Positions 0 .. n - 1 as they are, in runs of PF_TILE. */
int pf_order_plain(pf_order *o, pf_maker *m, int64_t n);
/* n given positions, each once; the order is one room. The list is taken as it is. */
int pf_order_listed(pf_order *o, pf_maker *m, const int32_t *position, int64_t n);
/* Positions 0 .. n - 1 by their room (0 .. rooms - 1; -1: left out), each room ascending, in runs
 * that never cross one. begin (rooms + 1) <- the first place of each room. */
int pf_order_rooms(pf_order *o, pf_maker *m, const int32_t *room, int64_t n, int64_t rooms,
                   int32_t *begin);
/* Of places from .. to - 1, which ascend in position, the first whose position is not below
 * `position`; `to` if there is none. */
int64_t pf_order_find(const pf_order *o, int64_t from, int64_t to, int64_t position);

/* ---- parts: what a rule fills in, and the rest made from it ---- */

/* q, k, lo and hi are set, and maybe cuts; lo >= hi: sees none. Tiles: those that an interval
 * meets. */
int pf_maker_add(pf_maker *m, const pf_pattern_part *part);
/* q, k, first and key are set, and maybe bits; all else follows. */
int pf_maker_add_tiles(pf_maker *m, const pf_pattern_part *part);

#endif
