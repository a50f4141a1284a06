/*
 * hosted_test.c - the engine's work on threads of the host's: the same bits as on its own, for any
 * number of threads and whatever the host does with the job (none of it, all on one thread, more
 * than was asked for, late on threads that come and go, a parallel region of OpenMP's); its threads
 * are left as they were; a failure of its own comes out of the call. And the engine's own threads:
 * their names, their stack.
 * In LIVING_IN_A_HOST.md: [threads.9], [threads.10].
 */
#include <fenv.h>
#include <omp.h>
#include <pthread.h>
#include <sched.h>

#include "child.h"
#include "nn_support.h"

#ifdef __SANITIZE_THREAD__
#define THREADS_WATCHED 1
#else
#define THREADS_WATCHED 0
#endif

/* ---- a host's pool ---- */

enum { MOST = 8 };

static volatile float one = 1, three = 3;

/* Threads that wait for calls; submit and wait, as pools have them. */
typedef struct {
    pthread_mutex_t lock;
    pthread_cond_t work, done;
    pthread_t thread[MOST];
    int threads, left, inside; /* calls that nobody has begun; begun and not over */
    void (*fn)(void *);
    void *argument;
    bool quit;
    int jobs, strange; /* threads that were found changed after a call */
} host_pool;

static void *host_thread(void *context) {
    host_pool *p = context;
    const int threads = omp_get_max_threads();
    const float third = (float)(1 / 3.0); /* to nearest, as a new thread rounds */
    pthread_mutex_lock(&p->lock);
    while (!p->quit) {
        if (p->left == 0) {
            pthread_cond_wait(&p->work, &p->lock);
            continue;
        }
        p->left--, p->inside++;
        pthread_mutex_unlock(&p->lock);
        p->fn(p->argument);
        bool strange = one / three != third || omp_get_max_threads() != threads;
        pthread_mutex_lock(&p->lock);
        p->strange += strange;
        if (--p->inside == 0) pthread_cond_broadcast(&p->done);
    }
    pthread_mutex_unlock(&p->lock);
    return NULL;
}

static void host_pool_open(host_pool *p, int threads) {
    *p = (host_pool){.threads = threads};
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->work, NULL), pthread_cond_init(&p->done, NULL);
    for (int i = 0; i < threads; i++)
        CHECK(pthread_create(&p->thread[i], NULL, host_thread, p) == 0);
}

static void host_pool_close(host_pool *p) {
    pthread_mutex_lock(&p->lock);
    p->quit = true;
    pthread_cond_broadcast(&p->work);
    pthread_mutex_unlock(&p->lock);
    for (int i = 0; i < p->threads; i++) pthread_join(p->thread[i], NULL);
    pthread_mutex_destroy(&p->lock);
    pthread_cond_destroy(&p->work), pthread_cond_destroy(&p->done);
}

static int run_on_pool(void *context, int n, void (*work)(void *), void *argument) {
    host_pool *p = context;
    pthread_mutex_lock(&p->lock);
    p->fn = work, p->argument = argument, p->left = n, p->jobs++;
    pthread_cond_broadcast(&p->work);
    while (p->left > 0 || p->inside > 0) pthread_cond_wait(&p->done, &p->lock);
    pthread_mutex_unlock(&p->lock);
    return PF_OK;
}

/* ---- other hosts ---- */

static int run_nothing(void *context, int n, void (*work)(void *), void *argument) {
    (void)n, (void)work, (void)argument;
    ++*(int *)context;
    return PF_OK;
}

static int run_here(void *context, int n, void (*work)(void *), void *argument) {
    ++*(int *)context;
    for (int i = 0; i < n; i++) work(argument);
    return PF_OK;
}

static int run_too_often(void *context, int n, void (*work)(void *), void *argument) {
    ++*(int *)context;
    for (int i = 0; i < 3 * n; i++) work(argument);
    return PF_OK;
}

static int run_on_openmp(void *context, int n, void (*work)(void *), void *argument) {
    ++*(int *)context;
#pragma omp parallel num_threads(n)
    work(argument);
    return PF_OK;
}

/* Threads that come for a call and go: late, in no order, every third of them does not start. */
typedef struct {
    void (*work)(void *);
    void *argument;
    unsigned late; /* microseconds */
} late_call;

static void *late_thread(void *context) {
    const late_call *c = context;
    usleep(c->late);
    c->work(c->argument);
    return NULL;
}

static int run_late(void *context, int n, void (*work)(void *), void *argument) {
    int *calls = context, begun = 0;
    pthread_t thread[MOST];
    late_call call[MOST];
    for (int i = 0; i < n && i < MOST; i++) {
        call[begun] = (late_call){work, argument, (unsigned)(++*calls * 7919 % 200)};
        if (*calls % 3 == 0) continue;
        if (pthread_create(&thread[begun], NULL, late_thread, &call[begun]) == 0) begun++;
    }
    if (*calls % 2) work(argument);
    while (begun > 0) pthread_join(thread[--begun], NULL);
    return PF_OK;
}

static int run_badly(void *context, int n, void (*work)(void *), void *argument) {
    (void)context, (void)n;
    work(argument);
    return pf_set_error(PF_EHOST, "the pool is full");
}

/* ---- the same bits ---- */

/* A training step's loss, a gradient and logits, on an engine of these workers. */
static float *course_of(const pf_workers *workers, int threads) {
    pf_options o = PF_OPTIONS_DEFAULT;
    pf_engine *e = NULL;
    o.threads = threads, o.seed = 5, o.workers = workers;
    CHECK_OK(pf_engine_open(&e, &o));
    pf_module *m = small_model(e, "'causal': true, 'kernel': {'name': 'softmax', 'features': 24}");
    pf_tensor *x = some_ids(e, 3, 64, 1), *loss = NULL;
    pf_tape *tape = NULL;
    float *out = calloc(3 * 64 * 11 + 400, sizeof *out);
    CHECK_OK(pf_tape_open(&tape, e));
    CHECK_OK(pf_module_loss(&loss, e, m, x, x, NULL));
    CHECK_OK(pf_tape_backward(tape, loss, NULL));
    pf_tensor *weight = NULL, *grad = NULL;
    CHECK_OK(pf_module_tensor_at(m, 0, NULL, &weight, NULL));
    CHECK_OK(pf_tensor_grad(&grad, e, weight));
    CHECK_OK(pf_tensor_read(loss, out, sizeof *out));
    memcpy(out + 1, pf_f32(grad), 11 * 16 * sizeof *out);
    pf_tensor_release(&grad), pf_tensor_release(&loss);
    pf_tape_close(&tape);
    float *logits = forward_of(e, m, x, NULL, NULL);
    memcpy(out + 400, logits, 3 * 64 * 11 * sizeof *out);
    free(logits);
    pf_tensor_release(&x);
    pf_module_release(&m);
    pf_engine_close(&e);
    return out;
}

static bool same_course(const float *want, const pf_workers *workers, int threads) {
    float *got = course_of(workers, threads);
    bool same = memcmp(want, got, (3 * 64 * 11 + 400) * sizeof *got) == 0;
    free(got);
    return same;
}

static void test_bits(const float *want) {
    static const int sizes[] = {1, 2, 5};
    for (int i = 0; i < PF_COUNT(sizes); i++) {
        host_pool p;
        host_pool_open(&p, sizes[i]);
        const pf_workers workers = {.size = sizeof workers, .run = run_on_pool, .context = &p};
        CHECK(same_course(want, &workers, 2) && same_course(want, &workers, 5));
        host_pool_close(&p);
        CHECK(p.jobs > 10 && p.strange == 0);
    }
    int (*const odd[])(void *, int, void (*)(void *),
                       void *) = {run_nothing, run_here, run_too_often, run_late, run_on_openmp};
    /* The last is not for the thread sanitizer, to whom OpenMP's barriers are unknown. */
    for (int i = 0; i < PF_COUNT(odd) - THREADS_WATCHED; i++) {
        int calls = 0, before = omp_get_max_threads();
        const pf_workers workers = {.size = sizeof workers, .run = odd[i], .context = &calls};
        CHECK(same_course(want, &workers, 3) && calls > 10);
        CHECK(omp_get_max_threads() == before);
    }
}

/* One thread needs no others. */
static void test_alone(const float *want) {
    int calls = 0;
    const pf_workers workers = {.size = sizeof workers, .run = run_here, .context = &calls};
    CHECK(same_course(want, &workers, 1) && calls == 0);
}

/* ---- what a thread of the host's works under ---- */

typedef struct {
    atomic_int other, wrong;
    float third; /* as the caller's rounding has it */
    pthread_t caller;
} look;

static void look_around(void *context, int64_t task, void *scratch) {
    look *at = context;
    (void)task;
    *(volatile char *)scratch = 1;
    if (!pthread_equal(pthread_self(), at->caller)) atomic_fetch_add(&at->other, 1);
    atomic_fetch_add(&at->wrong, one / three != at->third || omp_get_max_threads() != 1);
}

static void test_settings(void) {
    host_pool p;
    host_pool_open(&p, 3);
    const pf_workers workers = {.size = sizeof workers, .run = run_on_pool, .context = &p};
    pf_options o = PF_OPTIONS_DEFAULT;
    pf_engine e;
    o.threads = 4, o.workers = &workers;
    CHECK_OK(pf_runtime_open(&e, &o));
    look at = {.caller = pthread_self()};
    fesetround(FE_DOWNWARD);
    at.third = one / three;
    CHECK_OK(pf_parallel(&e, 500, 64, look_around, &at));
    fesetround(FE_TONEAREST);
    CHECK(at.other == 500 && at.wrong == 0); /* this pool has all of it done by its own */
    pf_runtime_close(&e);
    host_pool_close(&p);
    CHECK(p.strange == 0);
}

static void nothing(void *context, int64_t task, void *scratch) {
    (void)scratch;
    ((char *)context)[task]++;
}

/* A failure comes back, with its words; the work was done. */
static void test_failure(void) {
    const pf_workers workers = {.size = sizeof workers, .run = run_badly};
    pf_options o = PF_OPTIONS_DEFAULT;
    pf_engine e;
    char done[50] = {0};
    o.threads = 4, o.workers = &workers;
    CHECK_OK(pf_runtime_open(&e, &o));
    CHECK_FAILS(PF_EHOST, pf_parallel(&e, 50, 0, nothing, done));
    CHECK(strcmp(pf_last_error(), "the pool is full") == 0);
    for (int i = 0; i < 50; i++) CHECK(done[i] == 1);
    pf_runtime_close(&e);
}

/* ---- threads of its own ---- */

typedef struct {
    atomic_int looked;
    char name[32];
    size_t stack;
    pthread_t caller;
} own_look;

static void look_at_own(void *context, int64_t task, void *scratch) {
    own_look *at = context;
    (void)task, (void)scratch;
    if (pthread_equal(pthread_self(), at->caller)) {
        while (atomic_load(&at->looked) == 0) sched_yield();
        return;
    }
    pthread_attr_t attributes;
    pthread_getname_np(pthread_self(), at->name, sizeof at->name);
    if (pthread_getattr_np(pthread_self(), &attributes) == 0) {
        pthread_attr_getstacksize(&attributes, &at->stack);
        pthread_attr_destroy(&attributes);
    }
    atomic_store(&at->looked, 1);
}

static own_look own_threads(const pf_workers *workers) {
    pf_options o = PF_OPTIONS_DEFAULT;
    pf_engine e;
    own_look at = {.caller = pthread_self()};
    o.threads = 2, o.workers = workers;
    CHECK_OK(pf_runtime_open(&e, &o));
    CHECK_OK(pf_parallel(&e, 50, 0, look_at_own, &at));
    pf_runtime_close(&e);
    return at;
}

static void test_own(const float *want) {
    own_look at = own_threads(NULL);
    CHECK(strcmp(at.name, "performer-1") == 0);
    const pf_workers named = {
        .size = sizeof named, .name = "instrument-of-mine", .stack = 256 << 10};
    at = own_threads(&named);
    CHECK(strcmp(at.name, "instrument-1") == 0);
    CHECK(SANITIZED || at.stack == 256 << 10);
    const pf_workers least = {.size = sizeof least, .stack = 64 << 10};
    if (!SANITIZED) CHECK(same_course(want, &least, 4));
    pf_options o = PF_OPTIONS_DEFAULT;
    pf_engine *e = NULL;
    const pf_workers small = {.size = sizeof small, .stack = 4096};
    o.workers = &small;
    CHECK_FAILS(PF_EINVAL, pf_engine_open(&e, &o));
    CHECK(strstr(pf_last_error(), "at least 65536"));
}

int main(void) {
    float *want = course_of(NULL, 1);
    test_bits(want);
    test_alone(want);
    test_settings();
    test_failure();
    test_own(want);
    free(want);
    return CHECK_REPORT();
}
