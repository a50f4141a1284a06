/*
 * deal.h - numbers that are dealt to ranks: of several arrays each rank owns stretches, which end
 * to end are its shard. It alone needs their sum over the lanes (tree.h), it alone changes them,
 * and then all get them from it.
 *
 * In a round every rank moves a piece of its own shard, whatever arrays that lies in: so all ranks
 * add, send and receive at the same time, though each array may be one rank's.
 */
#ifndef PF_DEAL_H
#define PF_DEAL_H

#include "exchange.h"

enum { PF_DEAL_PIECE = 1 << 16 };

typedef struct {
    int array;
    int64_t first, n;
} pf_stretch;

/* A place in a shard: a stretch, and how many of its numbers lie before. */
typedef struct {
    int64_t stretch, over;
} pf_deal_place;

/* What a round moves of a shard: n numbers, in one stretch or, packed, in several. */
typedef struct {
    pf_deal_place place;
    int64_t n;
    pf_stretch first;
} pf_deal_piece;

typedef struct {
    pf_heap *heap; /* held by whoever holds the deal */
    int arrays, ranks, rank;
    pf_stretch *stretch; /* of rank r: from[r] .. from[r + 1] - 1 */
    int64_t n, capacity, *from;
    int64_t longest; /* shard */
    const char *in;  /* which arrays a pass is of; NULL: all */
    pf_deal_piece *piece;
    pf_message *list; /* two for each rank */
} pf_deal;

int pf_deal_open(pf_deal **deal, pf_engine *engine, int arrays);
/* Of ranks in order, and of each one's arrays. */
int pf_deal_add(pf_deal *deal, int rank, pf_stretch stretch);
void pf_deal_close(pf_deal **deal);

/* Is all of a piece where a message can take it from, or put it to? */
static inline bool pf_deal_lies_whole(const pf_deal_piece *p) { return p->first.n == p->n; }
/* How long pieces are at most. */
int64_t pf_deal_most(const pf_deal *deal);
/* A pass over the shards, of those arrays i alone where in[i] is: the first pieces of all ranks,
 * and each time the next ones; false: there are no more. */
void pf_deal_begin(pf_deal *deal, const char *in);
bool pf_deal_round(pf_deal *deal);
/* The next numbers of a rank's shard from `place` on, at most so many, in one stretch; n = 0: there
 * are none. */
pf_stretch pf_deal_next(const pf_deal *deal, int rank, pf_deal_place *place, int64_t most);
void pf_deal_pack(const pf_deal *deal, int rank, const float *const *array, float *to);

/* Room for what follows, before the ranks agree on it. */
int pf_deal_ready(const pf_deal *deal, pf_engine *engine);
/* What each rank has in its stretches of the arrays (with in[i]; NULL: of all) all have there. The
 * ranks have agreed; only what ends the talk can fail. */
int pf_deal_spread(pf_deal *deal, pf_engine *engine, const char *in, float *const *array);
/* The same for rank 0 alone, and of numbers that lie apart: own[i] are those of this rank's i-th
 * stretch; whole[i], of rank 0, is array i, or NULL: it is left out there, and own is NULL. */
int pf_deal_collect(pf_deal *deal, pf_engine *engine, const float *const *own, float *const *whole);

#endif
