/*
 * intervals.c - parts that rules have in common: windows, every so many-th key, some columns, some
 * rows. Each is one interval of key places a query.
 */
#include "pattern_maker.h"

/* lo and hi (n). */
typedef struct {
    int32_t *lo, *hi;
} bounds;

static int take_bounds(bounds *b, pf_maker *m, int64_t n) {
    b->lo = pf_maker_numbers(m, n);
    b->hi = pf_maker_numbers(m, n);
    return b->lo && b->hi ? PF_OK : PF_ENOMEM;
}

static int add(pf_maker *m, pf_pattern_part *part, const int32_t *lo, const int32_t *hi) {
    part->lo = lo;
    part->hi = hi;
    return pf_maker_add(m, part);
}

int pf_maker_add_plain(pf_maker *m, const pf_ask *a, const int32_t *lo, const int32_t *hi) {
    pf_pattern_part part = {.cuts = false};
    PF_TRY(pf_order_plain(&part.q, m, a->Lq));
    PF_TRY(pf_order_plain(&part.k, m, a->Lk));
    return add(m, &part, lo, hi);
}

/* Held keys that a span begins and ends with, for query i; false: it has none. */
static bool reach(const pf_ask *a, const pf_span *span, int64_t i, int64_t *from, int64_t *to) {
    int64_t place = pf_ask_place(a, i);
    *from = *to = 0;
    if (place < 0 || place < span->least) return false;
    *from = pf_ask_before(a, place + span->from);
    *to = pf_min(pf_ask_before(a, place + span->to + 1), pf_ask_limit(a, i));
    return *from < *to;
}

int pf_maker_add_window(pf_maker *m, const pf_ask *a, const pf_span *span) {
    bounds b;
    PF_TRY(take_bounds(&b, m, a->Lq));
    for (int64_t i = 0; i < a->Lq; i++) {
        int64_t from, to;
        reach(a, span, i, &from, &to);
        b.lo[i] = (int32_t)from;
        b.hi[i] = (int32_t)to;
    }
    return pf_maker_add_plain(m, a, b.lo, b.hi);
}

/* ---- every step-th key ---- */

/* Rooms are residues; there are no more than places. */
static int residue_orders(pf_pattern_part *part, pf_maker *m, const pf_ask *a, int64_t step,
                          int64_t least, int32_t **k_begin) {
    int64_t rooms = pf_min(step, pf_max(a->Lq, a->Lk + a->skipped));
    int32_t *q_room = pf_maker_numbers(m, a->Lq), *k_room = pf_maker_numbers(m, a->Lk);
    int32_t *q_begin = pf_maker_numbers(m, rooms + 1);
    *k_begin = pf_maker_numbers(m, rooms + 1);
    if (!q_room || !k_room || !q_begin || !*k_begin) return PF_ENOMEM;
    for (int64_t i = 0; i < a->Lq; i++) {
        int64_t place = pf_ask_place(a, i);
        q_room[i] = place >= 0 && place >= least ? (int32_t)(place % step) : -1;
    }
    for (int64_t j = 0; j < a->Lk; j++) k_room[j] = (int32_t)(pf_ask_position(a, j) % step);
    PF_TRY(pf_order_rooms(&part->q, m, q_room, a->Lq, rooms, q_begin));
    return pf_order_rooms(&part->k, m, k_room, a->Lk, rooms, *k_begin);
}

int pf_maker_add_residues(pf_maker *m, const pf_ask *a, int64_t step, const pf_span *span) {
    pf_pattern_part part = {.cuts = span->cuts};
    int32_t *begin;
    bounds b;
    PF_TRY(take_bounds(&b, m, a->Lq));
    PF_TRY(residue_orders(&part, m, a, step, span->least, &begin));
    for (int64_t r = 0; r < part.q.n; r++) {
        int64_t i = pf_order_position(&part.q, r), from, to;
        const int32_t *room = begin + pf_ask_place(a, i) % step;
        reach(a, span, i, &from, &to);
        b.lo[r] = (int32_t)pf_order_find(&part.k, room[0], room[1], from);
        b.hi[r] = (int32_t)pf_order_find(&part.k, room[0], room[1], to);
    }
    return add(m, &part, b.lo, b.hi);
}

/* ---- columns and rows ---- */

int pf_maker_add_columns(pf_maker *m, const pf_ask *a, const int32_t *place, int64_t n,
                         const int32_t *hi, bool cuts) {
    pf_pattern_part part = {.cuts = cuts};
    int32_t *lo = pf_maker_numbers(m, a->Lq);
    if (!lo) return PF_ENOMEM;
    for (int64_t i = 0; i < a->Lq; i++) lo[i] = 0;
    PF_TRY(pf_order_plain(&part.q, m, a->Lq));
    PF_TRY(pf_order_listed(&part.k, m, place, n));
    return add(m, &part, lo, hi);
}

int pf_maker_add_rows(pf_maker *m, const pf_ask *a, const int32_t *query, int64_t n) {
    pf_pattern_part part = {.cuts = false};
    bounds b;
    PF_TRY(take_bounds(&b, m, n));
    for (int64_t r = 0; r < n; r++) {
        b.lo[r] = 0;
        b.hi[r] = (int32_t)pf_ask_limit(a, query[r]);
    }
    PF_TRY(pf_order_listed(&part.q, m, query, n));
    PF_TRY(pf_order_plain(&part.k, m, a->Lk));
    return add(m, &part, b.lo, b.hi);
}
