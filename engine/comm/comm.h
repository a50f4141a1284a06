/*
 * comm.h - front header of the floor between ops and autograd: what the ranks that train one
 * model together say to each other. It adds with the kernels and knows no tape. The verbs, and what
 * holds for all of them, stand in performer_comm.h.
 *
 * engine->comm is NULL where there is one rank.
 */
#ifndef PF_COMM_H
#define PF_COMM_H

#include "performer_comm.h"
#include "tensor.h"

enum { PF_COMM_HOST = 64, PF_COMM_TEXT = 256, PF_COMM_TIMEOUT = 60 };

typedef struct pf_comm pf_comm;

int pf_comm_rank(const pf_engine *engine);  /* 0 where there is one */
int pf_comm_ranks(const pf_engine *engine); /* 1 there */

/* ---- group.c ---- */
/* How many ranks share a row: all, unless pf_comm_row_ranks says less. */
int pf_comm_row_size(const pf_engine *engine);
/* As it is when the ranks open; closing. */
int pf_comm_open_row(pf_engine *engine);
void pf_comm_close_row(pf_engine *engine, pf_comm *all);
bool pf_comm_is_told(const pf_engine *engine); /* has a rank told the others of a failure? */
/* Between the two the verbs are those of the ranks that share this one's row. Gives what leaving
 * takes. */
pf_comm *pf_comm_enter_row(pf_engine *engine);
void pf_comm_leave_row(pf_engine *engine, pf_comm *all);

/* Each of the n tensors (contiguous f32) becomes its sum over the ranks: the gradients of a step,
 * after the ranks' own rows and before their norm. */
int pf_comm_sum(pf_engine *engine, pf_tensor *const *tensors, int n);

/* ---- plugin.c ---- */
/* Opens the transport of a plugin: the file that is named, or $PERFORMER_TRANSPORT, or
 * libperformer_mpi.so beside this library or wherever the loader looks. PF_ENOTFOUND where there is
 * none. timeout: seconds that it waits for the other ranks, 0: 60. The plugin stays loaded. */
int pf_transport_load(pf_transport **transport, const char *file, double timeout);

#endif
