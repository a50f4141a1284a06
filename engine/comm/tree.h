/*
 * tree.h - sums over the lanes of a step, in an order that no number of ranks changes.
 *
 * A lane is a fixed part of a step's rows, G of them a step. T(a, 1) is what lane a gives;
 *
 *     T(a, n) = T(a, m) + T(a + m, n - m),    m the largest power of two below n
 *
 * and a step's sum is T(0, G). Rank r of P makes the lanes [r G / P, (r + 1) G / P). Those of its
 * lanes that make up whole nodes of the tree it adds itself; the nodes travel, and whoever owns a
 * part of the numbers adds the rest. So 1 to G ranks have the same bits.
 *
 * Rows in segments (nn/sequence.h), S each, have a leaf for each segment of each lane, lane after
 * lane: T(0, G S). Groups of n ranks have lanes as ranks have them else, and of each lane rank k of
 * its group has the segments [k S / n, (k + 1) S / n).
 */
#ifndef PF_TREE_H
#define PF_TREE_H

#include "exchange.h"

enum { PF_LANE_NODES = 32 }; /* of a rank at most: lanes are counted in 16 bits */

typedef struct {
    int first, count;
} pf_lane_node;

/* The lanes of a rank: first .. last - 1. */
void pf_lanes_of(int lanes, int ranks, int rank, int *first, int *last);
/* The whole nodes, of 2^k lanes from a multiple of 2^k on, that they make up, in order; how many
 * there are. */
int pf_lane_nodes(int first, int last, pf_lane_node nodes[PF_LANE_NODES]);

/* What a step's sum is over; row_ranks is n. */
typedef struct {
    int lanes, segments, row_ranks;
} pf_leaves;
static inline int pf_leaf_count(const pf_leaves *l) { return l->lanes * l->segments; }
/* A rank's lanes and, of each, its segments. */
void pf_leaves_of(const pf_leaves *l, int ranks, int rank, int lanes[2], int segments[2]);
/* The whole nodes of the leaves of a rank; < 0: more than PF_LANE_NODES. */
int pf_leaf_nodes(const pf_leaves *l, int ranks, int rank, pf_lane_node nodes[PF_LANE_NODES]);

/* The nodes of all ranks in order: whose each is, and its numbers while they are added. */
typedef struct {
    pf_lane_node lanes;
    int rank;
    const float *x;
} pf_summand;
typedef struct {
    pf_engine *engine;
    pf_leaves leaves;
    int ranks, rank;
    pf_summand *part;
    int n, n_own;
} pf_summands;
int pf_summands_open(pf_summands *parts, pf_engine *engine, const pf_leaves *leaves);
/* sum (n) <- T(0, lanes) of part[i].x (n); `sum` may be one of them. A failure ends the talk. */
int pf_summands_add(const pf_summands *parts, int64_t n, float *sum);
void pf_summands_close(pf_summands *parts);

/* Sums of arrays of at most `most` numbers, one after the other, for all ranks. Opening is a verb:
 * the ranks agree on `status`, and from then on only what ends the talk can fail. One rank adds by
 * itself. */
typedef struct pf_reduction pf_reduction;
int pf_reduction_open(pf_reduction **reduction, pf_engine *engine, int status, int lanes,
                      int64_t most);
/* sum (n) <- T(0, lanes) of what all ranks have: own[i] (n) is the i-th of this rank's nodes. `sum`
 * may be one of them. */
int pf_reduction_run(pf_reduction *reduction, const float *const *own, int64_t n, float *sum);
void pf_reduction_close(pf_reduction **reduction);

#endif
