/*
 * rooms.h - patterns by rooms: keys that were given one number (a bucket, a cluster), ascending in
 * position. A query looks at the last `window` members of its own room before n_i, in full
 * attention at `window` to each side of its own place.
 *
 * What must hold. The numbers are given (buckets.c), so what a query sees is decided by its own
 * number and those of the keys before n_i alone: nothing later chooses for it, a prefix of the
 * sequence keeps its sets, and streaming has those of training. Chunks of the sorted sequence, as
 * the published form of LSH attention has them, do not: their borders move with later tokens.
 * A key of number ~b is masked: it takes no place in room b, but the query there has that room. A
 * query's own place is i + Lk - Lq, whatever it sees.
 */
#ifndef PF_ROOMS_H
#define PF_ROOMS_H

#include "pattern_maker.h"

/* The options of the rules, with which those of their kinds begin. */
#define PF_LSH_RULE_OPTIONS                                                                        \
    PF_ROOM_WINDOW("bucket"), {                                                                    \
        .name = "pairs", .kind = PF_OPT_STRING, .string = "once", .choices = "once|count",         \
        .doc = "a pair that several rounds hold counts once, as the paper has it, or count: as "   \
               "often, as Trax and Transformers have it"                                           \
    }
#define PF_ROUTING_RULE_OPTIONS PF_ROOM_WINDOW("cluster")
/* `window` of a rule whose rooms are called `what`. */
#define PF_ROOM_WINDOW(what)                                                                       \
    {                                                                                              \
        .name = "window", .kind = PF_OPT_INT, .number = 128, .low = 1, .high = INT32_MAX,          \
        .doc = "last keys of its own " what " that a query looks at, itself counted; full "        \
               "attention: to each side of it"                                                     \
    }

/* A part of the rooms that numbers of queries and of keys, (Lk) each, make; cuts: pairs of earlier
 * parts are left out. */
int pf_rooms_add(pf_maker *m, const pf_ask *ask, const int32_t *query, const int32_t *key,
                 int64_t window, bool cuts);

#endif
