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

#include "deal.h"

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

/* Sums of arrays of at most `most` numbers, one after the other. Opening is a verb: the ranks agree
 * on `status`, and from then on only what ends the talk can fail. One rank adds by itself. */
typedef struct pf_reduction pf_reduction;
int pf_reduction_open(pf_reduction **reduction, pf_engine *engine, int status, int lanes,
                      int64_t most);
/* sum (n) <- T(0, lanes) of what all ranks have: own[i] (n) is the i-th of this rank's nodes. `sum`
 * may be one of them. */
int pf_reduction_run(pf_reduction *reduction, const float *const *own, int64_t n, float *sum);
/* The same where ranks own stretches of several arrays, and each needs the sum of its own alone:
 * half of the bytes. own[i * arrays + k]: the i-th node's array k; sum[k], which may be one of
 * them, gets this rank's stretches. With in[k] alone, or NULL: all. Opened for that deal. */
int pf_reduction_open_dealt(pf_reduction **reduction, pf_engine *engine, int status,
                            const pf_leaves *leaves, int64_t most, const pf_deal *deal);
int pf_reduction_scatter(pf_reduction *reduction, pf_deal *deal, const char *in,
                         const float *const *own, float *const *sum);
void pf_reduction_close(pf_reduction **reduction);

#endif
