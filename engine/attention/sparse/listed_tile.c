/*
 * listed_tile.c - see listed.h: what the queries of a tile see of its keys. An interval of places,
 * cut by how many keys a query sees at all; what bits, earlier parts and a query's own place take
 * out of it are marks, which most tiles have no need of.
 */
#include <string.h>

#include "listed.h"

enum { MARKS = PF_TILE * PF_TILE };
enum { FEW = 24 }; /* keys that are looked at one by one, and not with all of a tile */

size_t pf_listed_bytes(const pf_softmax *op) { return pf_tile_bytes(op) + MARKS; }

void pf_listed_tile(pf_tile *t, uint8_t **marks, const pf_listed *op, int64_t segment, int64_t head,
                    void *scratch) {
    *marks = pf_carve(&scratch, MARKS);
    pf_tile_open(t, &op->s, segment, head, scratch);
}

pf_places pf_listed_run(const pf_order *o, int64_t run) {
    int64_t first = o->first[run];
    return (pf_places){.n = o->first[run + 1] - first,
                       .first = first,
                       .at = o->position ? o->position + first : NULL};
}

/* from, to of every query, and whether they hide anything. Keys of an interval ascend, so that a
 * limit leaves its beginning. */
static void intervals(pf_tile *t, const pf_pattern_part *p, int64_t q_first) {
    const pf_places *keys = &t->keys;
    int64_t n = keys->n;
    bool limited = t->least < t->seg->length;
    t->hides = false;
    for (int64_t i = 0; i < t->queries.n; i++) {
        int64_t from = 0, to = n;
        if (p->lo) {
            from = pf_max(0, pf_min(p->lo[q_first + i] - keys->first, n));
            to = pf_max(from, pf_min(p->hi[q_first + i] - keys->first, n));
        }
        if (limited && !keys->at) to = pf_max(from, pf_min(to, t->sees[i] - keys->first));
        while (limited && keys->at && to > from && keys->at[to - 1] >= t->sees[i]) to--;
        t->from[i] = (int32_t)from;
        t->to[i] = (int32_t)to;
        t->hides = t->hides || from > 0 || to < n;
    }
}

/* ---- marks ---- */

static void mark_bits(const pf_tile *t, const uint64_t *bits, uint8_t *marks) {
    for (int64_t i = 0; i < t->queries.n; i++) {
        const uint64_t *word = bits + i * (PF_TILE / 64);
        for (int64_t j = 0; j < t->keys.n; j++) {
            marks[i * PF_TILE + j] |= !(word[j / 64] >> j % 64 & 1);
        }
    }
}

/* A tile's keys by their places in an earlier part, more than FEW of them in cells of 2^shift
 * places from `low` on: an interval's keys are those of few cells. One without a place has none. */
typedef struct {
    int32_t place[PF_TILE], low, high;
    int shift;
    uint8_t key[PF_TILE], first[PF_TILE + 1]; /* keys of cell c: first[c] .. first[c + 1] - 1 */
} cells;

static int64_t cell_of(const cells *c, int32_t place) { return (place - c->low) >> c->shift; }

static void fill_cells(cells *c, const pf_tile *t, const pf_pattern_part *p) {
    uint8_t next[PF_TILE];
    c->low = INT32_MAX, c->high = -1, c->shift = 0;
    for (int64_t j = 0; j < t->keys.n; j++) {
        int32_t at = (int32_t)pf_order_place(&p->k, pf_place_at(&t->keys, j));
        c->place[j] = at;
        if (at >= 0 && at < c->low) c->low = at;
        if (at > c->high) c->high = at;
    }
    if (c->high < 0 || t->keys.n <= FEW) return;
    while (cell_of(c, c->high) >= PF_TILE) c->shift++;
    memset(c->first, 0, sizeof c->first);
    for (int64_t j = 0; j < t->keys.n; j++) {
        if (c->place[j] >= 0) c->first[cell_of(c, c->place[j]) + 1]++;
    }
    for (int64_t n = 0; n < PF_TILE; n++) {
        next[n] = c->first[n];
        c->first[n + 1] = (uint8_t)(c->first[n + 1] + c->first[n]);
    }
    for (int64_t j = 0; j < t->keys.n; j++) {
        if (c->place[j] >= 0) c->key[next[cell_of(c, c->place[j])]++] = (uint8_t)j;
    }
}

/* What an earlier part has. */
static void mark_earlier(const pf_tile *t, const pf_pattern_part *p, uint8_t *marks) {
    cells c;
    fill_cells(&c, t, p);
    for (int64_t i = 0; i < t->queries.n; i++) {
        int64_t at = pf_order_place(&p->q, pf_place_at(&t->queries, i));
        int32_t lo = at < 0 ? 0 : p->lo[at], hi = at < 0 ? 0 : p->hi[at];
        uint8_t *row = marks + i * PF_TILE;
        if (lo >= hi || hi <= c.low || lo > c.high) continue;
        int64_t n = 0, end = PF_TILE;
        if (t->keys.n > FEW) {
            n = c.first[cell_of(&c, lo > c.low ? lo : c.low)];
            end = c.first[cell_of(&c, hi - 1 < c.high ? hi - 1 : c.high) + 1];
        }
        if (end - n > FEW) {
            for (int64_t j = 0; j < t->keys.n; j++) row[j] |= c.place[j] >= lo && c.place[j] < hi;
            continue;
        }
        for (; n < end; n++) {
            int32_t place = c.place[c.key[n]];
            row[c.key[n]] |= place >= lo && place < hi;
        }
    }
}

/* Its own place a query sees only where it sees nothing else. Both mostly ascend. */
static void mark_self(const pf_tile *t, uint8_t *marks) {
    int64_t ahead = pf_tile_ahead(t->seg), n = t->keys.n, j = 0;
    for (int64_t i = 0; i < t->queries.n; i++) {
        int64_t own = pf_place_at(&t->queries, i) + ahead;
        uint8_t *row = marks + i * PF_TILE;
        if (t->keys.at && j > 0 && t->keys.at[j - 1] >= own) j = 0;
        while (t->keys.at && j < n && t->keys.at[j] < own) j++;
        if (t->keys.at && j < n && t->keys.at[j] == own) row[j] = 1;
        if (!t->keys.at && own >= t->keys.first && own < t->keys.first + t->keys.n) {
            row[own - t->keys.first] = 1;
        }
    }
}

void pf_listed_look(pf_tile *t, uint8_t *marks, const pf_listed_pattern *pattern,
                    const pf_listed_part *part, int64_t q_run, int64_t tile) {
    const pf_pattern_part *p = &part->p;
    intervals(t, p, p->q.first[q_run]);
    t->cut = NULL;
    if (!p->bits && !p->cuts && !pattern->self_last) return;
    memset(marks, 0, (size_t)(t->queries.n * PF_TILE));
    t->cut = marks;
    if (p->bits) mark_bits(t, p->bits + tile * PF_TILE_WORDS, marks);
    for (const pf_listed_part *b = pattern->part; p->cuts && b < part; b++) {
        mark_earlier(t, &b->p, marks);
    }
    if (pattern->self_last) mark_self(t, marks);
}

int64_t pf_listed_self(const pf_softmax *op, const pf_segment *seg, int64_t i) {
    int64_t own = i + pf_tile_ahead(seg);
    if (own < 0 || own >= pf_softmax_limit(op, seg, i)) return -1;
    return pf_mask_keeps(op->mask, seg->item, seg->start + own) ? own : -1;
}
