/*
 * pool.c - see pool.h. `generation` counts the jobs; a worker that sees a new one looks under
 * the lock whether the job is still open, and then counts as inside until it has left. The
 * caller closes the job and waits for nobody but those inside. All who wait spin a little
 * first, since the next job of a training step is microseconds away.
 */
#include "pool.h"

#include <omp.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>

#include "status.h"

/* About 50 microseconds; the next job of a training step is nearer than that. */
enum { SPINS = 2000 };

typedef struct {
    pf_pool *pool;
    pthread_t thread;
    int number;
} worker;

struct pf_pool {
    pthread_mutex_t lock;
    pthread_cond_t work, idle; /* a job came (or the end); the last worker left a job */
    atomic_uint generation;    /* jobs so far; changed under the lock, spun on without */
    atomic_int inside;         /* workers at the job; likewise */
    /* under the lock */
    bool open, quit;
    int sleepers; /* workers in pthread_cond_wait: nobody is woken who does not sleep */
    pf_job_fn fn; /* of the open job */
    void *context;
    /* the caller's alone */
    int wanted, started;
    bool tried; /* to start them: once, at the first job */
    worker workers[];
};

static void pause_briefly(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#endif
}

static size_t pool_bytes(int workers) { return sizeof(pf_pool) + (size_t)workers * sizeof(worker); }

/* Waits for a job after `seen`; false: the pool closes. Holds the lock on return. The look while
 * spinning is a guess only: what counts is the one under the lock, under which the caller changes
 * `generation`, so that no job is slept through. */
static bool wait_for_work(pf_pool *pool, unsigned seen) {
    for (int i = 0; i < SPINS && atomic_load(&pool->generation) == seen; i++) pause_briefly();
    pthread_mutex_lock(&pool->lock);
    while (atomic_load(&pool->generation) == seen && !pool->quit) {
        pool->sleepers++;
        pthread_cond_wait(&pool->work, &pool->lock);
        pool->sleepers--;
    }
    return !pool->quit;
}

/* A worker that comes when the job is closed already has missed it and waits for the next: the
 * caller has done its share. Each turn begins with the lock held. */
static void *worker_main(void *argument) {
    const worker *self = argument;
    pf_pool *pool = self->pool;
    unsigned seen = 0;
    omp_set_num_threads(1); /* this thread's own */
    while (wait_for_work(pool, seen)) {
        seen = atomic_load(&pool->generation);
        if (pool->open) {
            atomic_fetch_add(&pool->inside, 1);
            pthread_mutex_unlock(&pool->lock);
            pool->fn(pool->context, self->number);
            pthread_mutex_lock(&pool->lock);
            if (atomic_fetch_sub(&pool->inside, 1) == 1) pthread_cond_signal(&pool->idle);
        }
        pthread_mutex_unlock(&pool->lock);
    }
    pthread_mutex_unlock(&pool->lock);
    return NULL;
}

/* Workers inherit a full signal mask: signals are the host's threads' business. */
static void start_workers(pf_pool *pool) {
    sigset_t all, before;
    pool->tried = true;
    sigfillset(&all);
    if (pthread_sigmask(SIG_SETMASK, &all, &before) != 0) return;
    for (int i = 0; i < pool->wanted; i++) {
        worker *w = &pool->workers[i];
        *w = (worker){.pool = pool, .number = i + 1};
        if (pthread_create(&w->thread, NULL, worker_main, w) != 0) break;
        pool->started++;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

int pf_pool_open(pf_pool **pool, pf_heap *heap, int workers) {
    *pool = NULL;
    if (workers == 0) return PF_OK;
    pf_pool *p = pf_heap_zalloc(heap, pool_bytes(workers));
    if (!p) return PF_ENOMEM;
    p->wanted = workers;
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->work, NULL);
    pthread_cond_init(&p->idle, NULL);
    *pool = p;
    return PF_OK;
}

void pf_pool_close(pf_pool **pool, pf_heap *heap) {
    pf_pool *p = *pool;
    *pool = NULL;
    if (!p) return;
    pthread_mutex_lock(&p->lock);
    p->quit = true;
    pthread_cond_broadcast(&p->work);
    pthread_mutex_unlock(&p->lock);
    for (int i = 0; i < p->started; i++) pthread_join(p->workers[i].thread, NULL);
    pthread_cond_destroy(&p->idle);
    pthread_cond_destroy(&p->work);
    pthread_mutex_destroy(&p->lock);
    pf_heap_free(heap, p, pool_bytes(p->wanted));
}

/* Opens the job, works, closes it, waits for those inside. `fn` and `context` lie on the caller's
 * stack: nobody may be inside when this returns, and after `open` is false nobody can enter. */
void pf_pool_run(pf_pool *pool, pf_job_fn fn, void *context) {
    if (!pool->tried) start_workers(pool);
    pthread_mutex_lock(&pool->lock);
    pool->fn = fn;
    pool->context = context;
    pool->open = true;
    atomic_fetch_add(&pool->generation, 1);
    if (pool->sleepers > 0) pthread_cond_broadcast(&pool->work);
    pthread_mutex_unlock(&pool->lock);
    fn(context, 0);
    pthread_mutex_lock(&pool->lock);
    pool->open = false;
    pthread_mutex_unlock(&pool->lock);
    for (int i = 0; i < SPINS && atomic_load(&pool->inside) > 0; i++) pause_briefly();
    pthread_mutex_lock(&pool->lock);
    while (atomic_load(&pool->inside) > 0) pthread_cond_wait(&pool->idle, &pool->lock);
    pthread_mutex_unlock(&pool->lock);
}
