/*
 * scatter.h - sums over the lanes of a step (tree.h) of what is dealt to ranks (deal.h), where each
 * rank needs the sum of its own stretches alone: half of the bytes of a sum for all. Arrays come
 * one after the other, as they are ready, and their messages travel while the rank goes on.
 */
#ifndef PF_SCATTER_H
#define PF_SCATTER_H

#include "deal.h"
#include "tree.h"

typedef struct pf_scatter pf_scatter;

/* All memory that a pass of so many groups takes. The deal is borrowed, and nobody else's during a
 * pass; no verb. */
int pf_scatter_open(pf_scatter **scatter, pf_engine *engine, const pf_leaves *leaves, pf_deal *deal,
                    int groups);
void pf_scatter_close(pf_scatter **scatter);

/* A pass begins. Its arrays are given in groups, the same on all ranks in the same order, at
 * whatever time on each: own[i * arrays + k] is array k of this rank's i-th node, and sum[k], which
 * may be one of them, gets this rank's stretches. Both are read when the group goes, and what they
 * point to stays until the end. in[k]: array k is of this group; it stays, too. */
int pf_scatter_begin(pf_scatter *scatter, const float *const *own, float *const *sum);
int pf_scatter_give(pf_scatter *scatter, const char *in);
/* Moves what is under way; never waits. < 0: the talk is over. */
int pf_scatter_poll(pf_scatter *scatter);
/* Waits until all that was given is summed; the ranks have agreed to come here. */
int pf_scatter_end(pf_scatter *scatter);
/* Has it begun, and has no vote ended it? */
bool pf_scatter_goes_on(const pf_scatter *scatter);
/* Is something of it on its way? Then it is to end by pf_scatter_end, or at a vote that fails,
 * which comes to all ranks: behind that nothing is. */
bool pf_scatter_waits(const pf_scatter *scatter);
/* The pass ends, by `status` (< 0) and the message that stands. While something is on its way
 * it is given up, and no other can begin until a vote has failed. */
void pf_scatter_drop(pf_scatter *scatter, int status);

/* The same while something is on its way, without giving it up: it stays there until that vote, and
 * so does all memory of it, which let_go(left) then frees, and the scatter with it. */
void pf_scatter_leave(pf_scatter *scatter, void (*let_go)(void *left), void *left);

/* Does the transport still hold what was given, until the process ends? */
bool pf_scatter_holds(const pf_scatter *scatter);

#endif
