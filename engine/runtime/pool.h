/*
 * pool.h - an engine's worker threads. A job is offered to all of them; the caller works on
 * it too and waits only for those that came: a worker that the system has put aside costs
 * nothing, where the barrier of a parallel region would wait for it. Workers start with the
 * first job, take no signals but their own faults, work under the caller's floating-point
 * settings (else bits would depend on who took a task), and have an OpenMP thread count of one
 * of their own, so that the BLAS is single-threaded in them.
 *
 * After a fork the child's copy of a pool is as new: it closes without the workers, which stayed
 * in the parent, and starts others at its next job.
 */
#ifndef PF_POOL_H
#define PF_POOL_H

#include "heap.h"

typedef struct pf_pool pf_pool;

/* thread: 0 the caller, 1 .. workers. */
typedef void (*pf_job_fn)(void *context, int thread);

/* *pool NULL for no workers. options: their name and stack. */
int pf_pool_open(pf_pool **pool, pf_heap *heap, int workers, const pf_workers *options);
void pf_pool_close(pf_pool **pool, pf_heap *heap); /* joins the workers */

/* Runs fn on the caller and on every worker that comes while the caller is at it. Fewer
 * workers than asked for (none could be started) is no failure. Not from inside a job.
 * PF_ESTATE in a child whose fork came in the middle of it. */
int pf_pool_run(pf_pool *pool, pf_job_fn fn, void *context);

#endif
