/*
 * hosted.c - see hosted.h. Who comes gets the next number, and with it scratch of its own; a job
 * gives out its tasks by itself, so that it is no matter how many come, or when.
 */
#include "hosted.h"

#include <omp.h>
#include <stdatomic.h>

#include "fpu.h"
#include "status.h"

typedef struct {
    pf_job_fn fn;
    void *context;
    int most;
    pf_fpu fpu; /* the caller's settings */
    atomic_int came;
} hosted_job;

/* A region of one thread has an OpenMP thread count of its own. */
static void work_alone(const hosted_job *job, int number) {
#pragma omp parallel num_threads(1)
    {
        omp_set_num_threads(1);
        job->fn(job->context, number);
    }
}

/* Whoever comes beyond the number that was told finds nothing to do. */
static void work(void *argument) {
    hosted_job *job = argument;
    int number = atomic_fetch_add(&job->came, 1);
    pf_fpu before;
    if (number >= job->most) return;
    pf_fpu_get(&before);
    pf_fpu_set(&job->fpu);
    work_alone(job, number);
    pf_fpu_set(&before);
}

int pf_hosted_run(const pf_workers *workers, int most, pf_job_fn fn, void *context) {
    hosted_job job = {.fn = fn, .context = context, .most = most};
    uint64_t before = pf_failures();
    pf_fpu_get(&job.fpu);
    int status = workers->run(workers->context, most, work, &job);
    work_alone(&job, 0); /* what nobody took: all the others have returned */
    if (status >= 0) return PF_OK;
    return pf_callback_failed(status, before, "engine: the host's threads failed");
}
