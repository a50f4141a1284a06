/*
 * parallel.c - the engine's one parallel loop, on the threads of its pool or the host's. What must
 * hold: which task runs on which thread is of no consequence; the BLAS sees a single thread inside
 * a task; the host's OpenMP settings are the same after as before, also when the host calls
 * from a region of its own.
 */
#include "parallel.h"

#include <omp.h>

#include "hosted.h"
#include "meter.h"

/* Room for `bytes` of scratch a thread. What it held is of no worth, so the old area goes
 * back before the new one is asked for. */
static int grow_scratch(pf_engine *engine, size_t bytes) {
    if (bytes <= engine->scratch_bytes) return PF_OK;
    size_t threads = (size_t)engine->threads, total;
    if (bytes > PTRDIFF_MAX / 2 ||
        !pf_mul_size((size_t)pf_round_up((int64_t)bytes, PF_ALIGN), threads, &total))
        return pf_fail(PF_ENOMEM, "out of memory: scratch of %zu bytes a thread", bytes);
    pf_heap_free(engine->heap, engine->scratch, engine->scratch_bytes * threads);
    engine->scratch_bytes = 0;
    engine->scratch = pf_heap_alloc(engine->heap, total);
    if (!engine->scratch) return pf_fail_in(PF_ENOMEM, "scratch for %d threads", engine->threads);
    engine->scratch_bytes = total / threads;
    return PF_OK;
}

/* Consecutive tasks that a thread takes at once. Only tasks so many that taking them one by
 * one would cost are bundled, for some 64 turns a thread: one that is held up leaves little for
 * the others to wait for. */
static int64_t chunk_of(int64_t n, int threads) {
    int64_t chunk = n / ((int64_t)threads * 64);
    return pf_max(1, pf_min(chunk, 1 << 20));
}

typedef struct {
    pf_task_fn fn;
    void *context;
    int64_t n, chunk;
    char *scratch; /* `stride` bytes a thread, or NULL */
    size_t stride;
    const pf_engine *engine;
    atomic_llong next;
    atomic_int stopped; /* why tasks were left out, or 0 */
} task_job;

/* Takes tasks until none is left. `next` runs past n by a chunk a thread at most. */
static void take_tasks(void *context, int thread) {
    task_job *job = context;
    char *own = job->scratch ? job->scratch + job->stride * (size_t)thread : NULL;
    for (;;) {
        int64_t first = atomic_fetch_add(&job->next, job->chunk);
        if (first >= job->n) return;
        int64_t end = pf_min(first + job->chunk, job->n);
        for (int64_t task = first; task < end; task++) {
            int status = pf_stopped(job->engine);
            if (status < 0) {
                atomic_store(&job->stopped, status);
                return;
            }
            job->fn(job->context, task, own);
        }
    }
}

/* On the caller the BLAS would use the host's thread count: a region of one thread has a count of
 * its own, and the host's stays as it is. Threads of the host's are asked for outside of it, since
 * they may be OpenMP's. */
static int run_job(pf_engine *engine, task_job *job) {
    bool alone = job->n == 1 || engine->threads == 1;
    int status = PF_OK;
    if (!alone && engine->workers.run) {
        int64_t most = pf_min(engine->threads, pf_ceil_div(job->n, job->chunk));
        status = pf_hosted_run(&engine->workers, (int)most, take_tasks, job);
        /* All is done then, whatever the host says, and what must end goes on. */
        if (engine->shield > 0) return PF_OK;
        engine->refused += status < 0;
        return status;
    }
#pragma omp parallel num_threads(1)
    {
        omp_set_num_threads(1);
        if (alone)
            take_tasks(job, 0);
        else
            status = pf_pool_run(engine->pool, take_tasks, job);
    }
    engine->refused += status < 0;
    return status;
}

int pf_parallel(pf_engine *engine, int64_t n, size_t scratch_bytes, pf_task_fn fn, void *context) {
    if (n <= 0) return PF_OK;
    PF_TRY(grow_scratch(engine, scratch_bytes));
    task_job job = {.fn = fn,
                    .context = context,
                    .n = n,
                    .chunk = chunk_of(n, engine->threads),
                    .scratch = engine->scratch,
                    .stride = engine->scratch_bytes,
                    .engine = engine};
    PF_TRY(run_job(engine, &job));
    return pf_stopped_fail(engine, job.stopped);
}

typedef struct {
    pf_range_fn fn;
    void *context;
    int64_t n, grain;
} range_job;

static void range_task(void *context, int64_t task, void *scratch) {
    const range_job *job = context;
    (void)scratch;
    int64_t first = task * job->grain;
    job->fn(job->context, first, pf_min(first + job->grain, job->n));
}

int pf_parallel_range(pf_engine *engine, int64_t n, int64_t grain, pf_range_fn fn, void *context) {
    if (n <= 0) return PF_OK;
    range_job job = {fn, context, n, pf_max(grain, 1)};
    int64_t tasks = (n - 1) / job.grain + 1;
    return pf_parallel(engine, tasks, 0, range_task, &job);
}
