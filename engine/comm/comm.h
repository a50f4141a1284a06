/*
 * comm.h - front header of the floor between ops and autograd: what the ranks that train one
 * model together say to each other. It adds with the kernels and knows no tape.
 *
 * engine->comm is NULL where there is one rank, and each verb then is the identity and costs a
 * comparison. With more, a verb is collective: every rank calls it at the same point of the step,
 * and each returns the same status and the same bits.
 */
#ifndef PF_COMM_H
#define PF_COMM_H

#include "tensor.h"

/* How ranks reach each other; whoever opens one puts it into the engine and takes it out. */
typedef struct pf_comm {
    int rank, ranks;
    /* x[i] <- the sum of every rank's x[i], added in the same order whatever `ranks` is. */
    int (*sum)(struct pf_comm *comm, float *x, int64_t n);
    /* The worst status of all; a rank that takes another's puts that one's message here. */
    int (*agree)(struct pf_comm *comm, int status);
} pf_comm;

/* Each of the n tensors (contiguous f32) becomes its sum over the ranks: the gradients of a step,
 * after the ranks' own rows and before their norm. */
int pf_comm_sum(pf_engine *engine, pf_tensor *const *tensors, int n);

/* `status`, or the worst one of any rank, with its message and which rank it was: what one rank
 * can't do, none does. Every rank comes here, also one that has failed. */
int pf_comm_agree(pf_engine *engine, int status);

#endif
