/*
 * deal.c - see deal.h. All ranks count the rounds alike, from the deal alone, so that nothing but
 * numbers travels; a piece that lies in several stretches is packed on its way.
 */
#include "deal.h"

#include <string.h>

/* ---- making ---- */

/* In one block with its lists of ranks. */
static size_t block_of(int ranks) {
    return sizeof(pf_deal) + (size_t)ranks * (sizeof(pf_deal_piece) + 2 * sizeof(pf_message)) +
           (size_t)(ranks + 1) * sizeof(int64_t);
}

int pf_deal_open(pf_deal **deal, pf_engine *engine, int arrays) {
    int ranks = pf_comm_ranks(engine);
    pf_deal *d = *deal = pf_heap_zalloc(engine->heap, block_of(ranks));
    if (!d) return PF_ENOMEM;
    d->heap = engine->heap;
    d->arrays = arrays, d->ranks = ranks, d->rank = pf_comm_rank(engine);
    d->piece = (pf_deal_piece *)(d + 1);
    d->list = (pf_message *)(d->piece + ranks);
    d->from = (int64_t *)(d->list + 2 * (size_t)ranks);
    return PF_OK;
}

int pf_deal_add(pf_deal *d, int rank, pf_stretch stretch) {
    void *list = d->stretch;
    int status = pf_heap_grow(d->heap, &list, &d->capacity, d->n + 1, sizeof *d->stretch);
    d->stretch = list;
    PF_TRY(status);
    d->stretch[d->n++] = stretch;
    for (int r = rank + 1; r <= d->ranks; r++) d->from[r] = d->n;
    int64_t shard = 0;
    for (int64_t i = d->from[rank]; i < d->n; i++) shard += d->stretch[i].n;
    d->longest = pf_max(d->longest, shard);
    return PF_OK;
}

void pf_deal_close(pf_deal **deal) {
    pf_deal *d = *deal;
    *deal = NULL;
    if (!d) return;
    pf_heap_free(d->heap, d->stretch, (size_t)d->capacity * sizeof *d->stretch);
    pf_heap_free(d->heap, d, block_of(d->ranks));
}

/* ---- pieces ---- */

int64_t pf_deal_most(const pf_deal *d) { return pf_min(PF_DEAL_PIECE, d->longest); }

pf_stretch pf_deal_next(const pf_deal *d, int rank, pf_deal_place *place, int64_t most) {
    for (; place->stretch < d->from[rank + 1]; place->stretch++, place->over = 0) {
        pf_stretch s = d->stretch[place->stretch];
        if (s.n == place->over || (d->in && !d->in[s.array])) continue;
        s.first += place->over;
        s.n = pf_min(s.n - place->over, most);
        place->over += s.n;
        return s;
    }
    return (pf_stretch){0};
}

/* The piece from `place` on; where the one behind it begins. */
static pf_deal_place measure(const pf_deal *d, int rank, pf_deal_place place, pf_deal_piece *p) {
    *p = (pf_deal_piece){.place = place};
    for (pf_stretch s;; p->n += s.n) {
        s = pf_deal_next(d, rank, &place, PF_DEAL_PIECE - p->n);
        if (s.n == 0) return place;
        if (p->n == 0) p->first = s;
    }
}

void pf_deal_begin(pf_deal *d, const char *in) {
    d->in = in;
    for (int r = 0; r < d->ranks; r++)
        d->piece[r] = (pf_deal_piece){.place = {.stretch = d->from[r]}};
}

bool pf_deal_round(pf_deal *d) {
    bool more = false;
    for (int r = 0; r < d->ranks; r++) {
        pf_deal_piece *p = &d->piece[r], over;
        pf_deal_place next = p->n ? measure(d, r, p->place, &over) : p->place;
        measure(d, r, next, p);
        more |= p->n > 0;
    }
    return more;
}

/* Copies a rank's piece out of the arrays, or into them. */
static void copy_piece(const pf_deal *d, int rank, float *const *array, float *packed, bool out) {
    const pf_deal_piece *p = &d->piece[rank];
    pf_deal_place place = p->place;
    for (int64_t done = 0; done < p->n;) {
        pf_stretch s = pf_deal_next(d, rank, &place, p->n - done);
        float *there = array[s.array] + s.first, *here = packed + done;
        memcpy(out ? here : there, out ? there : here, (size_t)s.n * sizeof *here);
        done += s.n;
    }
}

void pf_deal_pack(const pf_deal *d, int rank, const float *const *array, float *to) {
    copy_piece(d, rank, (float *const *)(uintptr_t)array, to, true);
}

/* ---- everything to all ---- */

int pf_deal_ready(const pf_deal *d, pf_engine *e) {
    PF_TRY(pf_comm_room_for(e, d->ranks * pf_deal_most(d)));
    return pf_comm_room(e, 2 * d->ranks);
}

/* Where a piece is sent from or comes to: its place in the arrays, or the next of the room. */
static float *spot_of(const pf_deal *d, int rank, float *const *array, float **room) {
    const pf_deal_piece *p = &d->piece[rank];
    if (pf_deal_lies_whole(p)) return array[p->first.array] + p->first.first;
    float *spot = *room;
    *room += p->n;
    return spot;
}

static int spread_round(const pf_deal *d, pf_engine *e, float *const *array) {
    float *room = e->comm->room;
    pf_message *out = d->list, *in = d->list + d->ranks;
    const pf_deal_piece *own = &d->piece[d->rank];
    int n_out = 0, n_in = 0;
    float *mine = own->n ? spot_of(d, d->rank, array, &room) : NULL;
    if (own->n && !pf_deal_lies_whole(own)) copy_piece(d, d->rank, array, mine, true);
    for (int far = 1; far < d->ranks; far++) {
        const int r = pf_comm_next(e->comm, far);
        const pf_deal_piece *p = &d->piece[r];
        if (own->n) out[n_out++] = (pf_message){r, mine, (size_t)own->n * sizeof(float)};
        if (p->n)
            in[n_in++] = (pf_message){r, spot_of(d, r, array, &room), (size_t)p->n * sizeof(float)};
    }
    PF_TRY(pf_comm_exchange(e, PF_VERB_SHARE, out, n_out, in, n_in));
    for (int i = 0; i < n_in; i++)
        if (!pf_deal_lies_whole(&d->piece[in[i].rank]))
            copy_piece(d, in[i].rank, array, in[i].data, false);
    return PF_OK;
}

int pf_deal_spread(pf_deal *d, pf_engine *e, const char *in, float *const *array) {
    pf_deal_begin(d, in);
    while (pf_deal_round(d)) PF_TRY(spread_round(d, e, array));
    return PF_OK;
}

/* ---- everything to rank 0 ---- */

/* One stretch of another's, which sends it or gets it. */
static int collect_one(const pf_deal *d, pf_engine *e, int rank, const float *own, float *to,
                       int64_t n) {
    const bool sends = d->rank == rank;
    pf_message m = {sends ? 0 : rank, sends ? (void *)(uintptr_t)own : to,
                    (size_t)n * sizeof(float)};
    return pf_comm_exchange(e, PF_VERB_COLLECT, &m, sends, &m, !sends);
}

int pf_deal_collect(pf_deal *d, pf_engine *e, const float *const *own, float *const *whole) {
    for (int r = 0; r < d->ranks; r++) {
        if (d->rank != 0 && d->rank != r) continue;
        for (int64_t i = d->from[r]; i < d->from[r + 1]; i++) {
            const pf_stretch *s = &d->stretch[i];
            const float *mine = d->rank == r ? own[i - d->from[r]] : NULL;
            float *to = d->rank == 0 ? whole[s->array] : NULL;
            if (!mine && !to) continue; /* left out */
            if (to) to += s->first;
            PF_HOLDS(r != 0 || (mine && to));
            if (r == 0)
                memcpy(to, mine, (size_t)s->n * sizeof *to);
            else
                PF_TRY(collect_one(d, e, r, mine, to, s->n));
        }
    }
    return PF_OK;
}
