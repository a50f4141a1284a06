/*
 * rule_sliding.c - windows (Longformer, Beltagy 2020, 3.1). Query i at place p sees key j iff
 *
 *     -ahead <= (p - j) / s <= back   and   (p - j) mod s = 0        s: the dilation
 *
 * or j is one of the first `global` tokens, or p is. `window` counts keys that are seen, the
 * query's own among them, so back = window - 1 for causal attention; full attention has `window`
 * keys to each side, or `ahead` to the right.
 *
 * Parts: the window, of queries that are not global; the global columns before it; the global rows.
 * A window leaves of the columns what lies before it, an interval; only a dilated one has gaps, and
 * there the columns are cut.
 */
#include "pattern_maker.h"

enum { WINDOW, AHEAD, DILATION, GLOBAL, OPTIONS };

static const pf_option_info options[OPTIONS] = {
    [WINDOW] = {.name = "window",
                .kind = PF_OPT_INT,
                .number = 256,
                .low = 1,
                .high = INT32_MAX,
                .doc =
                    "keys that a query sees, itself included; full attention: to each side of it"},
    [AHEAD] = {.name = "ahead",
               .kind = PF_OPT_INT,
               .number = -1,
               .low = -1,
               .high = INT32_MAX,
               .doc = "full attention: keys to the right of a query; -1: window, as to the left"},
    [DILATION] = {.name = "dilation",
                  .kind = PF_OPT_INT,
                  .number = 1,
                  .low = 1,
                  .high = INT32_MAX,
                  .doc = "the window takes one key in so many, and reaches so many times as far"},
    [GLOBAL] = {.name = "global",
                .kind = PF_OPT_INT,
                .low = 0,
                .high = INT32_MAX,
                .doc = "first tokens that see all, and that all see"},
};

/* A window around places, in positions. */
typedef struct {
    const pf_ask *ask;
    int64_t back, ahead, dilation, global;
} window;

static window window_of(const pf_ask *a) {
    const double *o = a->option;
    int64_t s = (int64_t)o[DILATION], width = (int64_t)o[WINDOW];
    int64_t ahead = o[AHEAD] < 0 ? width : (int64_t)o[AHEAD];
    return (window){a, s * (a->causal ? width - 1 : width), a->causal ? 0 : s * ahead, s,
                    (int64_t)o[GLOBAL]};
}

/* Query i has a key and is not global: the window is its own. */
static bool slides(const window *w, int64_t place) { return place >= w->global; }

/* lo, hi (Lq) of keys in their own order: dilation 1. */
static void plain_intervals(const window *w, int32_t *lo, int32_t *hi) {
    for (int64_t i = 0; i < w->ask->Lq; i++) {
        int64_t place = pf_ask_place(w->ask, i);
        lo[i] = hi[i] = 0;
        if (!slides(w, place)) continue;
        lo[i] = (int32_t)pf_ask_before(w->ask, place - w->back);
        hi[i] =
            (int32_t)pf_min(pf_ask_before(w->ask, place + w->ahead + 1), pf_ask_limit(w->ask, i));
    }
}

static int add_plain(pf_maker *m, const window *w) {
    pf_pattern_part part = {.cuts = false};
    int32_t *lo = pf_maker_numbers(m, w->ask->Lq), *hi = pf_maker_numbers(m, w->ask->Lq);
    if (!lo || !hi) return PF_ENOMEM;
    PF_TRY(pf_order_plain(&part.q, m, w->ask->Lq));
    PF_TRY(pf_order_plain(&part.k, m, w->ask->Lk));
    plain_intervals(w, lo, hi);
    part.lo = lo;
    part.hi = hi;
    return pf_maker_add(m, &part);
}

/* Rooms of a dilated window: residues of places, of which there are no more than places. */
static int64_t rooms_of(const window *w) {
    return pf_min(w->dilation, pf_max(w->ask->Lq, w->ask->Lk + w->ask->skipped));
}

static void residues(const window *w, int32_t *q_room, int32_t *k_room) {
    for (int64_t i = 0; i < w->ask->Lq; i++) {
        int64_t place = pf_ask_place(w->ask, i);
        q_room[i] = slides(w, place) ? (int32_t)(place % w->dilation) : -1;
    }
    for (int64_t j = 0; j < w->ask->Lk; j++) {
        k_room[j] = (int32_t)(pf_ask_position(w->ask, j) % w->dilation);
    }
}

static void dilated_intervals(const window *w, const pf_pattern_part *part, const int32_t *begin,
                              int32_t *lo, int32_t *hi) {
    const pf_ask *a = w->ask;
    for (int64_t r = 0; r < part->q.n; r++) {
        int64_t i = pf_order_position(&part->q, r), place = pf_ask_place(a, i);
        const int32_t *room = begin + place % w->dilation;
        int64_t end = pf_min(pf_ask_before(a, place + w->ahead + 1), pf_ask_limit(a, i));
        lo[r] =
            (int32_t)pf_order_find(&part->k, room[0], room[1], pf_ask_before(a, place - w->back));
        hi[r] = (int32_t)pf_order_find(&part->k, room[0], room[1], end);
    }
}

static int add_dilated(pf_maker *m, const window *w) {
    int64_t Lq = w->ask->Lq, Lk = w->ask->Lk, rooms = rooms_of(w);
    pf_pattern_part part = {.cuts = false};
    int32_t *q_room = pf_maker_numbers(m, Lq), *k_room = pf_maker_numbers(m, Lk);
    int32_t *lo = pf_maker_numbers(m, Lq), *hi = pf_maker_numbers(m, Lq);
    int32_t *q_begin = pf_maker_numbers(m, rooms + 1);
    int32_t *k_begin = pf_maker_numbers(m, rooms + 1);
    if (!q_room || !k_room || !lo || !hi || !q_begin || !k_begin) return PF_ENOMEM;
    residues(w, q_room, k_room);
    PF_TRY(pf_order_rooms(&part.q, m, q_room, Lq, rooms, q_begin));
    PF_TRY(pf_order_rooms(&part.k, m, k_room, Lk, rooms, k_begin));
    dilated_intervals(w, &part, k_begin, lo, hi);
    part.lo = lo;
    part.hi = hi;
    return pf_maker_add(m, &part);
}

/* The global keys, of queries that are not: those before a plain window, or all, cut. */
static int add_columns(pf_maker *m, const window *w) {
    const pf_ask *a = w->ask;
    int64_t g = pf_ask_before(a, w->global);
    pf_pattern_part part = {.cuts = w->dilation > 1};
    int32_t *lo = pf_maker_numbers(m, a->Lq), *hi = pf_maker_numbers(m, a->Lq);
    if (!lo || !hi) return PF_ENOMEM;
    PF_TRY(pf_order_plain(&part.q, m, a->Lq));
    PF_TRY(pf_order_plain(&part.k, m, g));
    for (int64_t i = 0; i < a->Lq; i++) {
        int64_t place = pf_ask_place(a, i), end = pf_min(g, pf_ask_limit(a, i));
        if (!part.cuts) end = pf_min(end, pf_ask_before(a, place - w->back));
        lo[i] = 0;
        hi[i] = slides(w, place) ? (int32_t)end : 0;
    }
    part.lo = lo;
    part.hi = hi;
    return pf_maker_add(m, &part);
}

/* The global queries, which see all that is in reach. */
static int add_rows(pf_maker *m, const window *w) {
    const pf_ask *a = w->ask;
    int64_t n = 0;
    pf_pattern_part part = {.cuts = false};
    int32_t *position = pf_maker_numbers(m, a->Lq);
    int32_t *lo = pf_maker_numbers(m, a->Lq), *hi = pf_maker_numbers(m, a->Lq);
    if (!position || !lo || !hi) return PF_ENOMEM;
    for (int64_t i = 0; i < a->Lq; i++) {
        int64_t place = pf_ask_place(a, i);
        if (place < 0 || slides(w, place)) continue;
        position[n] = (int32_t)i;
        lo[n] = 0;
        hi[n++] = (int32_t)pf_ask_limit(a, i);
    }
    PF_TRY(pf_order_listed(&part.q, m, position, n));
    PF_TRY(pf_order_plain(&part.k, m, a->Lk));
    part.lo = lo;
    part.hi = hi;
    return pf_maker_add(m, &part);
}

static int build(pf_maker *m, const pf_ask *ask) {
    window w = window_of(ask);
    PF_TRY(w.dilation > 1 ? add_dilated(m, &w) : add_plain(m, &w));
    if (w.global == 0) return PF_OK;
    PF_TRY(add_columns(m, &w));
    return add_rows(m, &w);
}

static int fits(const pf_ask *a) {
    int64_t global = (int64_t)a->option[GLOBAL];
    if (a->causal && a->option[AHEAD] > 0) {
        return pf_fail(PF_EINVAL,
                       "%s: ahead = %lld looks at later keys, which causal attention never does",
                       a->where, (long long)a->option[AHEAD]);
    }
    if (global <= a->Lk) return PF_OK;
    return pf_fail(PF_EINVAL, "%s: global = %lld, but there are only %lld tokens", a->where,
                   (long long)global, (long long)a->Lk);
}

const pf_pattern_rule pf_pattern_rule_sliding = {
    .name = "sliding",
    .doc = "a window around each query, dilated or not, and first tokens that see and are seen by "
           "all (Longformer)",
    .options = options,
    .n_options = OPTIONS,
    .fits = fits,
    .build = build,
};
