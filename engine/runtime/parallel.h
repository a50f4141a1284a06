/*
 * parallel.h - the engine's one parallel loop. The work is cut into tasks by the problem
 * alone (never by the thread count), a task writes only what is its own, and so results
 * are the same bits for any number of threads. Inside a task OpenBLAS runs on one thread:
 * the workers of the pool have an OpenMP thread count of one, and the caller works inside a
 * region of one thread with a count of its own; the host's OpenMP settings stay as they are.
 * Tasks run under the caller's floating-point settings (rounding, denormals) on every thread.
 */
#ifndef PF_PARALLEL_H
#define PF_PARALLEL_H

#include "engine.h"

/* `scratch` holds at least the asked bytes, aligned, private to the running thread. */
typedef void (*pf_task_fn)(void *context, int64_t task, void *scratch);

/* Runs fn for task 0 .. n-1. Fails with PF_ENOMEM (scratch), PF_ECANCEL, PF_ELIMIT, or PF_ESTATE (a
 * child's fork came in the middle); after the last three some tasks have not run. Must not be
 * called from inside a task. */
int pf_parallel(pf_engine *engine, int64_t n, size_t scratch_bytes, pf_task_fn fn, void *context);

/* Cuts n elements in fixed ranges of `grain` and runs fn(context, first, last) on each. */
typedef void (*pf_range_fn)(void *context, int64_t first, int64_t last);
int pf_parallel_range(pf_engine *engine, int64_t n, int64_t grain, pf_range_fn fn, void *context);

/* Takes `bytes` (rounded up to PF_ALIGN) from the front of a scratch area. Areas that begin at
 * NULL are only measured: hence sums of numbers, not of pointers. */
static inline void *pf_carve(void **scratch, size_t bytes) {
    void *start = *scratch;
    *scratch = (void *)((uintptr_t)start + (uintptr_t)pf_round_up((int64_t)bytes, PF_ALIGN));
    return start;
}

#endif
