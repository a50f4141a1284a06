/*
 * lanes.h - inside the floor train/: the gradients of a step in lanes (comm/tree.h), which is what
 * makes their sum the same bits on any number of ranks. A lane's gradient is taken out of the
 * parameters when its backward is through, and added to those before it as far as they make up a
 * whole node; before the step all nodes of all ranks become the parameters' gradient: of what is
 * dealt to ranks (shard.h) each number at its owner's, and what lies around it is nobody's.
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
    bool folded; /* of a leaf that is open: it is in its node already */
} pf_lane_part;

typedef struct {
    pf_lane_node lanes;
    pf_lane_part *part; /* one an entry */
    pf_tensor *notes;   /* (n) what layers have noted (pf_notes_count); NULL: they note nothing */
} pf_lane_sum;

typedef struct {
    int to, from;
} pf_lane_merge;

struct pf_overlap;
struct pf_lanes {
    int count;               /* of the step: leaves, where rows are in segments */
    pf_leaves leaves;        /* of the step */
    int lane[2], segment[2]; /* this rank's */
    int next, end; /* of lane `next` the segments segment[0] .. end - 1 are not folded, the last
                      first, and nothing of the lanes behind it */
    pf_lane_sum node[PF_LANE_NODES];
    int n;
    bool failed; /* and is to be dropped when all ranks know it */
    int leaf;    /* the node that is being folded, or -1; and what it makes whole, in order */
    pf_lane_merge merge[PF_LANE_NODES];
    int n_merges;
    int64_t group; /* numbers that leave together, at least; 0: as many as is best (overlap.c) */
    struct pf_overlap *overlap; /* NULL: not made yet (overlap.h) */
};

/* What gathers is the next leaf of rows in `segments` segments. */
int pf_lanes_fold(pf_optimizer *o, pf_engine *e);
/* A step of rows in so many segments begins, or goes on: leaves are dealt anew if it is another
 * number than before. */
int pf_lanes_shape(pf_optimizer *o, pf_engine *e, int segments);
void pf_lanes_close(pf_optimizer *o);
/* Forgets what has been folded: the step begins anew. status: why, if something failed. */
void pf_lanes_drop(pf_optimizer *o, int status);
/* Before a leaf, or the step: is there a failed step that can't be dropped yet? */
int pf_lanes_check(pf_optimizer *o);
/* All lanes become the gradients of the entries; a verb, where there are ranks. status: of this
 * rank so far. Without lanes nothing happens with one rank, and with several each is a lane. */
int pf_lanes_join(pf_optimizer *o, pf_engine *e, int status, double lr, double clip);

/* ---- lane_nodes.c ---- */
/* The next leaf is a node of its own, with nothing in it; or is cut off again. */
int pf_lanes_open_leaf(pf_optimizer *o);
void pf_lanes_cut_leaf(const pf_optimizer *o);
/* Entry by entry, while the leaf's backward still runs: what entry i has gathered is whole. Of a
 * failure the step is to be dropped. */
int pf_lanes_fold_entry(const pf_optimizer *o, pf_engine *e, int i);
bool pf_lanes_has(const pf_optimizer *o, int i); /* is it folded so? */
/* All other entries: takes what has gathered, and of a failure the leaf may be cut off; and adds it
 * to what it makes whole, which closes the leaf. */
int pf_lanes_take(const pf_optimizer *o, pf_engine *e);
int pf_lanes_add(const pf_optimizer *o, pf_engine *e);
/* Zeros for what nodes lack of entry i, which some lane has. */
int pf_lanes_fill(const pf_optimizer *o, int i);
/* Is node k only part of another, into which the leaf that is open goes? */
bool pf_lanes_is_gone(const struct pf_lanes *l, int k);
/* held: a transport still has the numbers, which stay where they are. */
void pf_lanes_let_go(const pf_optimizer *o, pf_lane_sum *sum, bool held);
static inline bool pf_has_gradient(const pf_entry *p) {
    return p->param->grad && !p->param->grad_stale;
}

/* ---- lane_tables.c ---- */
/* The same of tables, for the entries that there[i] names; a verb. */
int pf_lanes_join_tables(const pf_optimizer *o, pf_engine *e, int status, const char *there);

/* ---- lane_notes.c ---- */
/* What the model's layers have noted in the lane's runs; right joins left; and after the gradients
 * those of all lanes of all ranks are each layer's: a verb, of models that note something. */
int pf_lane_notes_take(pf_lane_sum *sum, const pf_optimizer *o);
int pf_lane_notes_add(pf_lane_sum *left, pf_lane_sum *right, pf_engine *e);
int pf_lanes_join_notes(const pf_optimizer *o, pf_engine *e);
/* Of a step that is tried again: what take took goes back. */
void pf_lane_notes_give_back(const pf_optimizer *o, pf_lane_sum *sum);

/* Numbers of a row. */
static inline int64_t pf_lane_width(const pf_entry *p) {
    return pf_tensor_numel(p->param) / pf_max(p->param->shape[0], 1);
}

#endif
