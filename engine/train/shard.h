/*
 * shard.h - inside the floor train/: what each of several ranks has of an optimizer (ZeRO-1, after
 * Rajbhandari et al. 2020). Each parameter is dealt to all ranks, in blocks of PF_NORM_BLOCK
 * numbers; a rank's own are its shard, and shards are equally large, up to a block. A matrix that
 * the rule takes whole is one rank's; a table of which steps move rows is
 * dealt to nobody: each rank has all that is kept of it.
 *
 * A step sums only a rank's own numbers there, moves them by moments that no other rank has, and
 * then all get the parameters from their owners. The bits are those of one rank: every number is
 * added, weighed and moved by the same calls, wherever that is.
 */
#ifndef PF_SHARD_H
#define PF_SHARD_H

#include "clip.h"
#include "deal.h"
#include "optimizer.h"

struct pf_shard {
    pf_engine *engine; /* retained */
    pf_deal *deal;     /* of the entries */
    float **array;     /* one an entry: what a pass goes over */
    char *in;          /* one an entry: has a gradient in this step */
    pf_tensor **whole; /* PF_KEPT_MAX an entry: on rank 0, between gather and let_go */
    bool gathered;
    float *aside; /* the dealt weights while averages stand in their place */
    int64_t n_aside;
};

/* Once it is known which entries move how: deals them. With one rank each has all of its own. */
int pf_shard_make(pf_optimizer *o, pf_engine *e);
void pf_shard_close(pf_optimizer *o);
/* Lets go of what rank 0 has gathered. */
void pf_shard_forget(const pf_optimizer *o);
/* PF_ESTATE where the engine has other ranks than those it was dealt to. */
int pf_shard_check(const pf_optimizer *o, const pf_engine *e);

/* The norm of the n listed gradients, of entries owner[i], and of others with squares `more`. A
 * verb, status: of this rank so far. One rank sums by itself. */
int pf_shard_norm(const pf_optimizer *o, pf_engine *e, int status, pf_tensor *const *grads,
                  const int *owner, int n, double more, double *norm, int *bad);
/* Room for what follows, before the ranks agree on it. */
int pf_shard_ready(const pf_optimizer *o, pf_engine *e);
/* After an update: the parameters of the n listed entries come from their owners. */
int pf_shard_spread(const pf_optimizer *o, pf_engine *e, const int *owner, int n);
/* All dealt parameters, from their owners. */
int pf_shard_spread_all(const pf_optimizer *o, pf_engine *e);

#endif
