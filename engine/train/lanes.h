/*
 * lanes.h - inside the floor train/: the gradients of a step in lanes (comm/tree.h), which is what
 * makes their sum the same bits on any number of ranks. A lane's gradient is taken out of the
 * parameters when its backward is through, and added to those before it as far as they make up a
 * whole node; before the step all nodes of all ranks become the parameters' gradient.
 */
#ifndef PF_LANES_H
#define PF_LANES_H

#include "lane_rows.h"
#include "optimizer.h"
#include "tree.h"

/* What a node has of one entry: all numbers, or of a table those of the touched rows; or nothing,
 * where no loss reached it, which adds as zeros do. */
typedef struct {
    pf_tensor *dense;
    pf_lane_rows rows;
} pf_lane_part;

typedef struct {
    pf_lane_node lanes;
    pf_lane_part *part; /* one an entry */
} pf_lane_sum;

struct pf_lanes {
    int count, first, last; /* of the step; of this rank: first .. last - 1 */
    int next;               /* the lane that is folded next */
    pf_lane_sum node[PF_LANE_NODES];
    int n;
};

void pf_lanes_close(pf_optimizer *o);
/* Forgets what has been folded: the step begins anew. */
void pf_lanes_drop(pf_optimizer *o);
/* All lanes become the gradients of the entries; a verb, where there are ranks. status: of this
 * rank so far. Without lanes nothing happens with one rank, and with several each is a lane. */
int pf_lanes_join(pf_optimizer *o, pf_engine *e, int status);

#endif
