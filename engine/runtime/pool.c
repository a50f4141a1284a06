/*
 * pool.c - see pool.h. `generation` counts the jobs; a worker that sees a new one looks under
 * the lock whether the job is still open, and then counts as inside until it has left. The
 * caller closes the job and waits for nobody but those inside. All who wait spin a little
 * first, since the next job of a training step is microseconds away.
 *
 * A fork leaves the workers behind, perhaps with the lock held: a pool that finds itself in a
 * child (`forks`) touches nothing of theirs, and begins anew with workers of the child's.
 */
#include "pool.h"

#include <omp.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>

#include "fork.h"
#include "fpu.h"
#include "number.h"
#include "status.h"

/* About 50 microseconds; the next job of a training step is nearer than that. */
enum { SPINS = 2000 };

enum { NAME = 16 }; /* bytes of a thread's name, as Linux has them */

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
    pf_fpu fpu; /* the caller's settings */
    /* the caller's alone */
    int wanted, started;
    char name[NAME]; /* of all of them, before their numbers */
    size_t stack;    /* 0: the system's choice */
    bool tried;      /* to start them: once, at the first job */
    unsigned forks;  /* pf_forks() of the process whose threads the workers are */
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
    char name[NAME];
    pf_print(name, sizeof name, "%.10s-%d", pool->name, self->number);
    pthread_setname_np(pthread_self(), name); /* for debuggers; without it all is as well */
    omp_set_num_threads(1);                   /* this thread's own */
    while (wait_for_work(pool, seen)) {
        seen = atomic_load(&pool->generation);
        if (pool->open) {
            atomic_fetch_add(&pool->inside, 1);
            pthread_mutex_unlock(&pool->lock);
            pf_fpu_set(&pool->fpu);
            pool->fn(pool->context, self->number);
            pthread_mutex_lock(&pool->lock);
            if (atomic_fetch_sub(&pool->inside, 1) == 1) pthread_cond_signal(&pool->idle);
        }
        pthread_mutex_unlock(&pool->lock);
    }
    pthread_mutex_unlock(&pool->lock);
    return NULL;
}

/* Signals are the host's threads' business, but for those that a thread brings on itself: the
 * host's crash handler must see a fault in a worker. What profilers and limits of processor time
 * send to whoever runs comes to workers if it comes to the thread that starts them. */
static void choose_signals(const sigset_t *callers, sigset_t *blocked) {
    static const int faults[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGTRAP, SIGSYS};
    static const int sent[] = {SIGPROF, SIGVTALRM, SIGXCPU};
    sigfillset(blocked);
    for (int i = 0; i < PF_COUNT(faults); i++) sigdelset(blocked, faults[i]);
    for (int i = 0; i < PF_COUNT(sent); i++)
        if (!sigismember(callers, sent[i])) sigdelset(blocked, sent[i]);
}

static void start_with(pf_pool *pool, const pthread_attr_t *attributes) {
    for (int i = 0; i < pool->wanted; i++) {
        worker *w = &pool->workers[i];
        *w = (worker){.pool = pool, .number = i + 1};
        if (pthread_create(&w->thread, attributes, worker_main, w) != 0) break;
        pool->started++;
    }
}

/* Workers inherit the mask. */
static void start_workers(pf_pool *pool) {
    sigset_t blocked, before;
    pthread_attr_t attributes;
    pool->tried = true;
    if (pthread_attr_init(&attributes) != 0) return;
    bool good = !pool->stack || pthread_attr_setstacksize(&attributes, pool->stack) == 0;
    good = good && pthread_sigmask(SIG_SETMASK, NULL, &before) == 0;
    if (good) {
        choose_signals(&before, &blocked);
        if (pthread_sigmask(SIG_SETMASK, &blocked, NULL) == 0) start_with(pool, &attributes);
        pthread_sigmask(SIG_SETMASK, &before, NULL);
    }
    pthread_attr_destroy(&attributes);
}

/* Also in place of what lies in a child's copy, whatever state the fork found it in. */
static void make_locks(pf_pool *pool) {
    pthread_mutex_init(&pool->lock, NULL);
    pthread_cond_init(&pool->work, NULL);
    pthread_cond_init(&pool->idle, NULL);
    pool->forks = pf_forks();
}

static bool left_behind(const pf_pool *pool) { return pool->forks != pf_forks(); }

/* In a child: as pf_pool_open left it. */
static void begin_anew(pf_pool *pool) {
    make_locks(pool);
    pool->inside = pool->sleepers = pool->started = 0;
    pool->open = pool->tried = false;
}

int pf_pool_open(pf_pool **pool, pf_heap *heap, int workers, const pf_workers *options) {
    *pool = NULL;
    if (workers == 0) return PF_OK;
    pf_pool *p = pf_heap_zalloc(heap, pool_bytes(workers));
    if (!p) return PF_ENOMEM;
    p->wanted = workers;
    p->stack = options->stack;
    pf_print(p->name, sizeof p->name, "%.10s", options->name ? options->name : "performer");
    make_locks(p);
    *pool = p;
    return PF_OK;
}

static void stop_workers(pf_pool *p) {
    pthread_mutex_lock(&p->lock);
    p->quit = true;
    pthread_cond_broadcast(&p->work);
    pthread_mutex_unlock(&p->lock);
    for (int i = 0; i < p->started; i++) pthread_join(p->workers[i].thread, NULL);
    pthread_cond_destroy(&p->idle);
    pthread_cond_destroy(&p->work);
    pthread_mutex_destroy(&p->lock);
}

/* In a child there is nobody to join, and destroying a condition waits for those asleep on it. */
void pf_pool_close(pf_pool **pool, pf_heap *heap) {
    pf_pool *p = *pool;
    *pool = NULL;
    if (!p) return;
    if (!left_behind(p)) stop_workers(p);
    pf_heap_free(heap, p, pool_bytes(p->wanted));
}

static void open_job(pf_pool *pool, pf_job_fn fn, void *context) {
    pthread_mutex_lock(&pool->lock);
    pool->fn = fn;
    pool->context = context;
    pf_fpu_get(&pool->fpu);
    pool->open = true;
    atomic_fetch_add(&pool->generation, 1);
    if (pool->sleepers > 0) pthread_cond_broadcast(&pool->work);
    pthread_mutex_unlock(&pool->lock);
}

/* `fn` and `context` lie on the caller's stack: nobody may be inside when this returns, and after
 * `open` is false nobody can enter. */
static void close_job(pf_pool *pool) {
    pthread_mutex_lock(&pool->lock);
    pool->open = false;
    pthread_mutex_unlock(&pool->lock);
    for (int i = 0; i < SPINS && atomic_load(&pool->inside) > 0; i++) pause_briefly();
    pthread_mutex_lock(&pool->lock);
    while (atomic_load(&pool->inside) > 0) pthread_cond_wait(&pool->idle, &pool->lock);
    pthread_mutex_unlock(&pool->lock);
}

int pf_pool_run(pf_pool *pool, pf_job_fn fn, void *context) {
    if (left_behind(pool)) begin_anew(pool);
    if (!pool->tried) start_workers(pool);
    open_job(pool, fn, context);
    fn(context, 0);
    if (left_behind(pool)) /* a signal handler forked: what the workers had taken is not done */
        return pf_fail(PF_ESTATE, "the process was forked in the middle of this call; in the "
                                  "child its result is lost");
    close_job(pool);
    return PF_OK;
}
