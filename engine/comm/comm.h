/*
 * comm.h - front header of the floor between ops and autograd: what the ranks that train one
 * model together say to each other. It adds with the kernels and knows no tape.
 *
 * engine->comm is NULL where there is one rank, and each verb then is the identity and costs a
 * comparison. With more, a verb is collective: every rank calls it at the same point of the step,
 * and each returns the same status and, by the order of additions, the same bits. A rank that has
 * failed comes too, and says so in place of its part: then all have its status and message.
 *
 * What ends the talk for good is a rank that doesn't answer in time, or is at another verb: from
 * then on every verb answers with that status and message.
 */
#ifndef PF_COMM_H
#define PF_COMM_H

#include "performer_transport.h"
#include "tensor.h"

enum { PF_COMM_HOST = 64, PF_COMM_TEXT = 256 };

typedef struct pf_comm pf_comm;

/* Shakes hands over an open transport, which is the comm's from here on, also after a failure, and
 * puts the comm into the engine. timeout: seconds that a wait lasts without a sign of anybody;
 * 0: 60. host: the name of this machine in messages. All ranks come here; one whose engine adds by
 * another level of kernels is told. */
int pf_comm_open(pf_engine *engine, pf_transport *transport, double timeout, const char *host);
/* Takes it out of the engine and closes the transport. */
void pf_comm_close(pf_engine *engine);
/* Ends every rank, with an exit code, where the transport can; for who can't come to the others. */
void pf_comm_abort(pf_engine *engine, int code);

int pf_comm_rank(const pf_engine *engine);         /* 0 where there is one */
int pf_comm_ranks(const pf_engine *engine);        /* 1 there */
double pf_comm_waited(const pf_engine *engine);    /* seconds spent waiting so far */
void pf_comm_at(pf_engine *engine, uint64_t step); /* what messages call the time */

/* `status`, or the worst one of any rank, with its message and which rank it was: what one rank
 * can't do, none does. Every rank comes here, also one that has failed. */
int pf_comm_agree(pf_engine *engine, int status);

/* The same at the end of work that has verbs in it: where the last of them has failed, all know
 * that, and nobody is asked again. */
int pf_comm_settle(pf_engine *engine, int status);

/* The same, and what the ranks say of themselves becomes what all say together. */
typedef struct {
    uint64_t flags;   /* or-ed */
    int64_t count[4]; /* added */
    double most;      /* the largest ... */
    int most_of;      /* ... and whose it is; set by the call */
} pf_comm_word;
int pf_comm_agree_on(pf_engine *engine, int status, pf_comm_word *word);

/* The verbs below begin with pf_comm_agree(status): none moves a byte unless all can.
 * What `root` has at `data` all have there. */
int pf_comm_share(pf_engine *engine, int status, int root, void *data, size_t bytes);

/* all[r] <- the `bytes` bytes of rank r's `own`: bytes * ranks in all. */
int pf_comm_collect(pf_engine *engine, int status, const void *own, size_t bytes, void *all);
/* The same where rank r has bytes[r], which everybody knows: one behind the other. */
int pf_comm_collect_all(pf_engine *engine, int status, const void *own, const size_t *bytes,
                        void *all);

/* Each of the n tensors (contiguous f32) becomes its sum over the ranks: the gradients of a step,
 * after the ranks' own rows and before their norm. */
int pf_comm_sum(pf_engine *engine, pf_tensor *const *tensors, int n);

/* ---- plugin.c ---- */
/* Opens the transport of a plugin: the file that is named, or $PERFORMER_TRANSPORT, or
 * libperformer_mpi.so beside this library or wherever the loader looks. PF_ENOTFOUND where there is
 * none. The plugin stays loaded. */
int pf_transport_load(pf_transport **transport, const char *file);
/* How many ranks a launcher (mpirun, Slurm) says that it has started; 0: none has. */
int pf_ranks_launched(void);

#endif
