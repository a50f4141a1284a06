/*
 * pattern.c - making patterns (pattern.h): memory in blocks of the call, orders, parts.
 *
 * A part's tiles follow from its intervals: a query run meets the key runs that any of its
 * queries' intervals touches. They are found by a count that rises where an interval begins and
 * falls behind its end, so that a run costs its queries and its tiles, not their product. All is
 * O(places + tiles).
 */
#include <string.h>

#include "pattern_maker.h"

/* ---- memory ---- */

enum { FIRST_BLOCK = 1 << 16 };

void pf_pattern_rewind(pf_pattern_store *store) { store->at = 0, store->used = 0; }

/* A block behind the last, twice as large, or as large as it must be. */
static int open_block(pf_pattern_store *s, size_t bytes) {
    if (s->n == PF_COUNT(s->block)) {
        return pf_fail(PF_EINVAL, "%s: its patterns need more blocks of memory than %d",
                       s->call->op->name, s->n);
    }
    size_t size = s->n > 0 ? 2 * s->block[s->n - 1].bytes : FIRST_BLOCK;
    if (size < bytes) size = bytes;
    char *base = pf_call_alloc(s->call, size);
    if (!base) return PF_ENOMEM;
    s->block[s->n].base = base;
    s->block[s->n++].bytes = size;
    return PF_OK;
}

void *pf_maker_take(pf_maker *m, size_t bytes) {
    pf_pattern_store *s = m->store;
    bytes = (size_t)pf_round_up((int64_t)bytes, PF_ALIGN);
    while (s->at < s->n && s->used + bytes > s->block[s->at].bytes) s->at++, s->used = 0;
    if (s->at == s->n && open_block(s, bytes) < 0) return NULL;
    void *taken = s->block[s->at].base + s->used;
    s->used += bytes;
    return taken;
}

int32_t *pf_maker_numbers(pf_maker *m, int64_t n) {
    return pf_maker_take(m, (size_t)n * sizeof(int32_t));
}

/* ---- orders ---- */

int pf_order_cut(pf_order *o, pf_maker *m, int64_t n, const int32_t *begin, int64_t rooms) {
    const int32_t *position = o->position;
    *o = (pf_order){.n = n, .position = position};
    for (int64_t r = 0; r < rooms; r++) o->runs += pf_ceil_div(begin[r + 1] - begin[r], PF_TILE);
    int32_t *first = pf_maker_numbers(m, o->runs + 1);
    if (!first) return PF_ENOMEM;
    o->first = first;
    for (int64_t r = 0; r < rooms; r++) {
        for (int32_t at = begin[r]; at < begin[r + 1]; at += PF_TILE) *first++ = at;
    }
    *first = (int32_t)o->n;
    return PF_OK;
}

int pf_order_plain(pf_order *o, pf_maker *m, int64_t n) { return pf_order_listed(o, m, NULL, n); }

int pf_order_listed(pf_order *o, pf_maker *m, const int32_t *position, int64_t n) {
    int32_t room[2] = {0, (int32_t)n};
    o->position = position;
    return pf_order_cut(o, m, n, room, 1);
}

/* begin (rooms + 1) <- first places, by counting; returns how many positions have a room. */
static int64_t count_rooms(const int32_t *room, int64_t n, int64_t rooms, int32_t *begin) {
    memset(begin, 0, (size_t)(rooms + 1) * sizeof *begin);
    for (int64_t i = 0; i < n; i++) {
        if (room[i] >= 0) begin[room[i] + 1]++;
    }
    for (int64_t r = 0; r < rooms; r++) begin[r + 1] += begin[r];
    return begin[rooms];
}

static bool in_order(const int32_t *position, int64_t n) {
    for (int64_t r = 0; r < n; r++) {
        if (position[r] != r) return false;
    }
    return true;
}

int pf_order_rooms(pf_order *o, pf_maker *m, const int32_t *room, int64_t n, int64_t rooms,
                   int32_t *begin) {
    int64_t kept = count_rooms(room, n, rooms, begin);
    int32_t *position = pf_maker_numbers(m, kept), *next = pf_maker_numbers(m, rooms);
    if (!position || !next) return PF_ENOMEM;
    memcpy(next, begin, (size_t)rooms * sizeof *next);
    for (int64_t i = 0; i < n; i++) {
        if (room[i] >= 0) position[next[room[i]]++] = (int32_t)i;
    }
    o->position = in_order(position, kept) ? NULL : position;
    return pf_order_cut(o, m, kept, begin, rooms);
}

void pf_order_room_runs(const int32_t *begin, int64_t rooms, int64_t *runs) {
    runs[0] = 0;
    for (int64_t r = 0; r < rooms; r++) {
        runs[r + 1] = runs[r] + pf_ceil_div(begin[r + 1] - begin[r], PF_TILE);
    }
}

int64_t pf_order_find(const pf_order *o, int64_t from, int64_t to, int64_t position) {
    while (from < to) {
        int64_t middle = (from + to) / 2;
        if (pf_order_position(o, middle) < position)
            from = middle + 1;
        else
            to = middle;
    }
    return from;
}

/* The run that holds a place: most often the one that would, if all were full. */
static int64_t run_of(const pf_order *o, int64_t place) {
    int64_t low = 0, high = o->runs, full = place / PF_TILE;
    if (o->first[full] <= place && place < o->first[full + 1]) return full;
    while (high - low > 1) {
        int64_t middle = (low + high) / 2;
        if (o->first[middle] <= place)
            low = middle;
        else
            high = middle;
    }
    return low;
}

/* place (length) of an order that is not its own inverse. */
static int invert(pf_order *o, pf_maker *m, int64_t length) {
    if (!o->position || o->place) return PF_OK;
    int32_t *place = pf_maker_numbers(m, length);
    if (!place) return PF_ENOMEM;
    for (int64_t i = 0; i < length; i++) place[i] = -1;
    for (int64_t r = 0; r < o->n; r++) place[o->position[r]] = (int32_t)r;
    o->place = place;
    return PF_OK;
}

/* ---- tiles ---- */

/* Key runs that query run `run` meets, ascending, to `key` (NULL: counted). change (k.runs + 1)
 * is 0 before and after. */
static int64_t meet(const pf_pattern_part *p, int64_t run, int32_t *change, int32_t *key) {
    int64_t low = p->k.runs, high = 0, depth = 0, n = 0;
    for (int64_t i = p->q.first[run]; i < p->q.first[run + 1]; i++) {
        if (p->lo[i] >= p->hi[i]) continue;
        int64_t from = run_of(&p->k, p->lo[i]), to = run_of(&p->k, p->hi[i] - 1) + 1;
        change[from]++;
        change[to]--;
        low = pf_min(low, from);
        high = pf_max(high, to);
    }
    for (int64_t r = low; r <= high && r <= p->k.runs; r++) {
        depth += change[r];
        change[r] = 0;
        if (depth > 0) {
            if (key) key[n] = (int32_t)r;
            n++;
        }
    }
    return n;
}

static int tiles_of_intervals(pf_pattern_part *p, pf_maker *m) {
    int64_t *first = pf_maker_take(m, (size_t)(p->q.runs + 1) * sizeof *first);
    int32_t *change = pf_maker_numbers(m, p->k.runs + 1);
    if (!first || !change) return PF_ENOMEM;
    memset(change, 0, (size_t)(p->k.runs + 1) * sizeof *change);
    first[0] = 0;
    for (int64_t r = 0; r < p->q.runs; r++) first[r + 1] = first[r] + meet(p, r, change, NULL);
    int32_t *key = pf_maker_numbers(m, first[p->q.runs]);
    if (!key) return PF_ENOMEM;
    for (int64_t r = 0; r < p->q.runs; r++) meet(p, r, change, key + first[r]);
    p->first = first;
    p->key = key;
    return PF_OK;
}

/* back (k.runs + 1) <- where the entries of each key run begin. */
static void count_back(const pf_pattern_part *p, int64_t tiles, int64_t *back) {
    memset(back, 0, (size_t)(p->k.runs + 1) * sizeof *back);
    for (int64_t t = 0; t < tiles; t++) back[p->key[t] + 1]++;
    for (int64_t r = 0; r < p->k.runs; r++) back[r + 1] += back[r];
}

/* The tiles by key run; the walk ascends in query runs, so each list does. */
static int transpose(pf_pattern_part *p, pf_maker *m) {
    int64_t tiles = p->first[p->q.runs];
    int64_t *back = pf_maker_take(m, (size_t)(p->k.runs + 1) * sizeof *back);
    int64_t *next = pf_maker_take(m, (size_t)p->k.runs * sizeof *next);
    int64_t *tile = p->bits ? pf_maker_take(m, (size_t)tiles * sizeof *tile) : NULL;
    int32_t *query = pf_maker_numbers(m, tiles);
    if (!back || !next || !query || (p->bits && !tile)) return PF_ENOMEM;
    count_back(p, tiles, back);
    memcpy(next, back, (size_t)p->k.runs * sizeof *next);
    for (int64_t r = 0; r < p->q.runs; r++) {
        for (int64_t t = p->first[r]; t < p->first[r + 1]; t++) {
            if (tile) tile[next[p->key[t]]] = t;
            query[next[p->key[t]]++] = (int32_t)r;
        }
    }
    p->back = back;
    p->query = query;
    p->tile = tile;
    return PF_OK;
}

/* ---- parts ---- */

/* A part without tiles is none. */
static int finish(pf_maker *m, pf_pattern_part *part) {
    pf_pattern *pattern = m->pattern;
    if (part->first[part->q.runs] == 0) return PF_OK;
    if (pattern->n == PF_PARTS) {
        return pf_fail(PF_EINVAL, "%s: a pattern has at most %d parts", m->store->call->op->name,
                       PF_PARTS);
    }
    for (int i = 0; part->cuts && i < pattern->n; i++) {
        PF_TRY(invert(&pattern->part[i].q, m, pattern->Lq));
        PF_TRY(invert(&pattern->part[i].k, m, pattern->Lk));
    }
    PF_TRY(transpose(part, m));
    pattern->tiles += part->first[part->q.runs];
    pattern->part[pattern->n++] = *part;
    return PF_OK;
}

int pf_maker_add(pf_maker *m, const pf_pattern_part *part) {
    pf_pattern_part p = *part;
    PF_TRY(tiles_of_intervals(&p, m));
    return finish(m, &p);
}

int pf_maker_add_tiles(pf_maker *m, const pf_pattern_part *part) {
    pf_pattern_part p = *part;
    return finish(m, &p);
}

/* ---- patterns ---- */

int pf_pattern_make(pf_pattern *pattern, pf_pattern_store *store, const pf_pattern_rule *rule,
                    const pf_ask *ask) {
    const char *no = ask->causal ? rule->no_causal : rule->no_full;
    if (no) {
        return pf_fail(PF_EINVAL, "%s: %s attention is never %s: %s", ask->where, rule->name,
                       ask->causal ? "causal" : "full", no);
    }
    pf_maker maker = {.pattern = pattern, .store = store};
    pattern->n = 0;
    pattern->tiles = 0;
    pattern->self_last = rule->self_last;
    pattern->Lq = ask->Lq;
    pattern->Lk = ask->Lk;
    pattern->self_last = rule->self_last;
    return rule->build(&maker, ask);
}

int pf_pattern_fits(const pf_pattern_rule *rule, const pf_ask *ask) {
    return rule->fits ? rule->fits(ask) : PF_OK;
}
