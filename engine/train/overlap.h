/*
 * overlap.h - inside the floor train/: how the nodes of a step's lanes (lanes.h) become their sum
 * at each number's owner (shard.h), in groups of parameters, the last ones first: which is the
 * order in which backward is through with them. So groups may leave while the last lane's backward
 * runs (pf_optimizer_overlap); what has not left by then goes at the step. The bits are the same.
 */
#ifndef PF_OVERLAP_H
#define PF_OVERLAP_H

#include "lanes.h"
#include "scatter.h"

enum { PF_OVERLAP_GROUP = 1 << 20 }; /* numbers of a group at least, and of a piece for each rank */

struct pf_overlap {
    pf_engine *engine; /* retained */
    pf_scatter *scatter;
    int n_groups, given; /* the first so many have left */
    int *group;          /* of each entry; -1: it is not dealt */
    int *missing;        /* of each group: entries that are not folded */
    char *in;            /* of each group, which entries are its */
    const float **own;   /* as pf_scatter_begin wants them */
    float **sum;
    pf_leaf_watch watch;
    bool begun;
};

/* Makes it, for the lanes as they are dealt, where ranks share the optimizer. */
int pf_overlap_ready(pf_optimizer *o, pf_engine *e);
void pf_overlap_close(pf_optimizer *o);
/* The next backward is the last of the step's: its parameters leave while it runs. */
void pf_overlap_watch(pf_optimizer *o);
bool pf_overlap_walks(const pf_optimizer *o); /* does it run? Then it is what calls */
void pf_overlap_rest(const pf_optimizer *o);  /* one that has not begun is not it */
/* What has not left yet, of those entries that some rank has; waits for all. A verb. */
int pf_overlap_end(const pf_optimizer *o, const char *there);
void pf_overlap_drop(const pf_optimizer *o, int status);
/* What is on its way stays; let_go(left) closes it when it has come. */
void pf_overlap_leave(const pf_optimizer *o, void (*let_go)(void *left), void *left);
/* Is a part of the step on its way? */
bool pf_overlap_waits(const pf_optimizer *o);
bool pf_overlap_holds(const pf_optimizer *o);

#endif
