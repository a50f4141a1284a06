/*
 * rooms.c - parts by rooms (rooms.h): two stable counting sorts and a walk through each room, in
 * O(Lq + Lk) but for queries whose limits do not ascend, which search.
 */
#include <stdlib.h>

#include "rooms.h"

typedef struct {
    const pf_ask *ask;
    int64_t window, rooms;
    const int32_t *q_begin, *k_begin; /* (rooms + 1): first places */
} rooms_of;

/* The key at whose place query i stands. */
static int64_t own(const pf_ask *a, int64_t i) { return i + a->ahead; }

/* A query that sees a key stands at one. */
static int check_places(const pf_ask *a) {
    int64_t few = pf_min(a->Lq, -a->ahead);
    bool fits = a->causal || a->ahead == 0;
    for (int64_t i = 0; fits && i < few; i++) fits = pf_ask_limit(a, i) == 0;
    if (fits) return PF_OK;
    return pf_fail(PF_ESHAPE,
                   "%s: a query's room is that of the key at its own place, so %lld queries can't "
                   "look at %lld keys%s",
                   a->where, (long long)a->Lq, (long long)a->Lk,
                   a->causal ? "" : " in full attention");
}

/* ---- numbers as rooms 0 .. rooms - 1 ---- */

/* Of queries that see something by the number of their own place, a masked key's too; -1: none. */
static void rooms_of_queries(const pf_ask *a, const int32_t *number, int32_t *room) {
    for (int64_t i = 0; i < a->Lq; i++) {
        room[i] = -1;
        if (pf_ask_limit(a, i) == 0) continue;
        int32_t at = number[own(a, i)];
        room[i] = at < 0 ? ~at : at;
    }
}

static void rooms_of_keys(const pf_ask *a, const int32_t *number, int32_t *room) {
    for (int64_t j = 0; j < a->Lk; j++) room[j] = number[j] < 0 ? -1 : number[j];
}

static int by_number(const void *a, const void *b) {
    int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
    return (x > y) - (x < y);
}

/* The place of `number` in sorted (n); -1: it is none of them. */
static int32_t place_of(const int32_t *sorted, int64_t n, int32_t number) {
    const int32_t *at = bsearch(&number, sorted, (size_t)n, sizeof number, by_number);
    return at ? (int32_t)(at - sorted) : -1;
}

/* Numbers of more rooms than there are keys by their order among those that some key has. */
static int renumber(pf_maker *m, const pf_ask *a, int32_t *q_room, int32_t *k_room,
                    int64_t *rooms) {
    int32_t *sorted = pf_maker_numbers(m, a->Lk);
    int64_t n = 0, distinct = 0;
    if (!sorted) return PF_ENOMEM;
    for (int64_t j = 0; j < a->Lk; j++) {
        if (k_room[j] >= 0) sorted[n++] = k_room[j];
    }
    qsort(sorted, (size_t)n, sizeof *sorted, by_number);
    for (int64_t j = 0; j < n; j++) {
        if (distinct == 0 || sorted[j] != sorted[distinct - 1]) sorted[distinct++] = sorted[j];
    }
    for (int64_t i = 0; i < a->Lq; i++) q_room[i] = place_of(sorted, distinct, q_room[i]);
    for (int64_t j = 0; j < a->Lk; j++) k_room[j] = place_of(sorted, distinct, k_room[j]);
    *rooms = distinct;
    return PF_OK;
}

static int64_t largest(const int32_t *room, int64_t n) {
    int32_t most = -1;
    for (int64_t i = 0; i < n; i++) most = room[i] > most ? room[i] : most;
    return most;
}

/* q_room (Lq), k_room (Lk) and how many rooms there are. */
static int number_rooms(pf_maker *m, const pf_ask *a, const int32_t *query, const int32_t *key,
                        int32_t *q_room, int32_t *k_room, int64_t *rooms) {
    rooms_of_queries(a, query, q_room);
    rooms_of_keys(a, key, k_room);
    *rooms = 1 + pf_max(largest(q_room, a->Lq), largest(k_room, a->Lk));
    bool sparse = *rooms > 4 * (a->Lq + a->Lk);
    return sparse ? renumber(m, a, q_room, k_room, rooms) : PF_OK;
}

/* ---- intervals ---- */

/* Of the queries of room r, in their order, causally: they mostly see more and more of it. */
static void look_back(const rooms_of *w, const pf_pattern_part *part, int64_t r, int32_t *lo,
                      int32_t *hi) {
    int64_t first = w->k_begin[r], last = w->k_begin[r + 1], at = first, seen = 0;
    for (int64_t p = w->q_begin[r]; p < w->q_begin[r + 1]; p++) {
        int64_t limit = pf_ask_limit(w->ask, pf_order_position(&part->q, p));
        if (limit < seen) at = pf_order_find(&part->k, first, at, limit);
        while (at < last && pf_order_position(&part->k, at) < limit) at++;
        seen = limit;
        lo[p] = (int32_t)pf_max(first, at - w->window);
        hi[p] = (int32_t)at;
    }
}

/* The same to both sides of their own places. */
static void look_around(const rooms_of *w, const pf_pattern_part *part, int64_t r, int32_t *lo,
                        int32_t *hi) {
    int64_t first = w->k_begin[r], last = w->k_begin[r + 1], at = first;
    for (int64_t p = w->q_begin[r]; p < w->q_begin[r + 1]; p++) {
        int64_t here = own(w->ask, pf_order_position(&part->q, p));
        while (at < last && pf_order_position(&part->k, at) < here) at++;
        bool there = at < last && pf_order_position(&part->k, at) == here;
        lo[p] = (int32_t)pf_max(first, at - w->window);
        hi[p] = (int32_t)pf_min(last, at + there + w->window);
    }
}

int pf_rooms_add(pf_maker *m, const pf_ask *a, const int32_t *query, const int32_t *key,
                 int64_t window, bool cuts) {
    rooms_of w = {.ask = a, .window = window};
    pf_pattern_part part = {.cuts = cuts};
    PF_TRY(check_places(a));
    int32_t *q_room = pf_maker_numbers(m, a->Lq), *k_room = pf_maker_numbers(m, a->Lk);
    int32_t *lo = pf_maker_numbers(m, a->Lq), *hi = pf_maker_numbers(m, a->Lq);
    if (!q_room || !k_room || !lo || !hi) return PF_ENOMEM;
    PF_TRY(number_rooms(m, a, query, key, q_room, k_room, &w.rooms));
    int32_t *q_begin = pf_maker_numbers(m, w.rooms + 1),
            *k_begin = pf_maker_numbers(m, w.rooms + 1);
    if (!q_begin || !k_begin) return PF_ENOMEM;
    PF_TRY(pf_order_rooms(&part.q, m, q_room, a->Lq, w.rooms, q_begin));
    PF_TRY(pf_order_rooms(&part.k, m, k_room, a->Lk, w.rooms, k_begin));
    w.q_begin = q_begin, w.k_begin = k_begin;
    for (int64_t r = 0; r < w.rooms; r++) {
        if (a->causal)
            look_back(&w, &part, r, lo, hi);
        else
            look_around(&w, &part, r, lo, hi);
    }
    part.lo = lo;
    part.hi = hi;
    return pf_maker_add(m, &part);
}
