/*
 * hosted.h - a job on threads that the host lends (pf_workers.run) in place of a pool of the
 * engine's own. What must hold: whatever the host does with the job, all of its work is done when
 * the call ends, each part once; on a thread of the host's the caller's floating-point settings
 * stand as long as it works, the BLAS is single-threaded, and then everything is as it was there.
 */
#ifndef PF_HOSTED_H
#define PF_HOSTED_H

#include "pool.h"

/* fn on at most `most` threads, which have the numbers 0 .. most - 1. A failure of the host's comes
 * back, after the caller has done the work alone. */
int pf_hosted_run(const pf_workers *workers, int most, pf_job_fn fn, void *context);

#endif
