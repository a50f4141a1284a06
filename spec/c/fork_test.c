/*
 * fork_test.c - an engine in a forked child: before its first use, after it, while another thread
 * is in the middle of a call, with OpenMP and the BLAS used before. The child closes it, and works
 * with it to the same bits. Each child has a time limit of its own: what hangs is a failure.
 */
#include <omp.h>
#include <pthread.h>

#include "child.h"
#include "nn_support.h"

/* ---- work ---------------------------------------------------------------------- */

typedef struct {
    pf_engine *engine;
    pf_module *model;
    float want[11];    /* logits after ids */
    float product[64]; /* of a product that the threads share */
} worked;

/* A large product and a stream of a model; 0, or how many steps failed. */
static int work_with(worked *w, float logits[11], float product[64]) {
    const int64_t shape[2] = {512, 512};
    const int32_t ids[5] = {1, 4, 2, 8, 5};
    pf_tensor *x = NULL, *y = NULL;
    pf_attr attrs[8];
    pf_stream *s = NULL;
    int bad = 0, op = pf_op_find(w->engine, "matmul");
    bad += pf_tensor_full(&x, w->engine, PF_F32, 2, shape, 0) < 0;
    for (int i = 0; i < 512 * 512; i++) pf_f32(x)[i] = (float)(i % 251) * 0.01f;
    bad += pf_op_defaults(w->engine, op, attrs) < 0;
    bad += pf_op_apply(w->engine, op, (pf_tensor *const[]){x, x}, 2, attrs, &y) < 0;
    if (y) memcpy(product, pf_f32(y) + 1000, 64 * sizeof *product);
    bad += pf_stream_open(&s, w->engine, w->model) < 0 || pf_stream_feed(s, ids, 5) < 0;
    if (bad == 0) memcpy(logits, pf_stream_logits(s, NULL), 11 * sizeof *logits);
    pf_stream_close(&s);
    pf_tensor_release(&x), pf_tensor_release(&y);
    return bad;
}

static int use(void *context) {
    worked *w = context;
    float logits[11] = {0}, product[64] = {0};
    int bad = work_with(w, logits, product);
    return bad + (memcmp(logits, w->want, sizeof logits) != 0) +
           (memcmp(product, w->product, sizeof product) != 0);
}

static int close_it(void *context) {
    worked *w = context;
    pf_module_release(&w->model);
    pf_engine_close(&w->engine);
    return w->engine != NULL;
}

static int use_and_close(void *context) { return use(context) + close_it(context); }

/* A child of the child, after the child has workers of its own. */
static int use_twice(void *context) {
    int bad = use(context);
    return bad + (in_child(use_and_close, context) != 0) + close_it(context);
}

/* An engine of the child's own beside what it inherited. */
static int use_another(void *context) {
    worked *inherited = context, own = *inherited;
    pf_options options = PF_OPTIONS_DEFAULT;
    options.threads = 3;
    options.cpu = inherited->engine->cpu;
    int bad = pf_engine_open(&own.engine, &options) < 0;
    bad += bad ? 0 : use(&own);
    pf_engine_close(&own.engine);
    return bad + use_and_close(inherited);
}

static worked open_work(int threads, pf_cpu cpu) {
    pf_options options = PF_OPTIONS_DEFAULT;
    worked w = {0};
    options.threads = threads;
    options.seed = 3;
    options.cpu = cpu;
    CHECK_OK(pf_engine_open(&w.engine, &options));
    w.model = small_model(w.engine, "'causal': true");
    return w;
}

/* ---- states -------------------------------------------------------------------- */

/* [fork.1] */
static void test_states(int threads, pf_cpu cpu) {
    worked other = open_work(2, cpu), w = open_work(threads, cpu);
    CHECK(work_with(&other, w.want, w.product) == 0);
    CHECK(in_child(close_it, &w) == 0); /* no worker has started yet */
    CHECK(in_child(use_and_close, &w) == 0);
    CHECK(use(&w) == 0);
    for (int turn = 0; turn < 5; turn++) { /* workers that spin, and workers that sleep */
        usleep(turn % 2 ? 2000 : 0);
        CHECK(in_child(close_it, &w) == 0);
        CHECK(in_child(use_and_close, &w) == 0);
    }
    CHECK(in_child(use_twice, &w) == 0);
    CHECK(in_child(use_another, &w) == 0);
    CHECK(use(&w) == 0); /* and the parent goes on */
    close_it(&w), close_it(&other);
}

/* The host had a team of threads; the engine's regions of one thread ask nothing of it. */
static void test_after_openmp(void) {
    int sum = 0;
    worked w = open_work(2, PF_CPU_BEST);
#pragma omp parallel for num_threads(3) reduction(+ : sum)
    for (int i = 0; i < 100; i++) sum += i;
    CHECK(sum == 4950 && work_with(&w, w.want, w.product) == 0);
    CHECK(in_child(use_and_close, &w) == 0);
    close_it(&w);
}

typedef struct {
    worked *busy, *idle;
    atomic_int stop, started;
    int bad;
} traffic;

static void *keep_busy(void *context) {
    traffic *t = context;
    while (!atomic_load(&t->stop)) {
        t->bad += use(t->busy);
        atomic_store(&t->started, 1);
    }
    return NULL;
}

/* Blocks of the busy engine's heap, the idle engine's work, and the end of both. */
static int in_traffic(void *context) {
    traffic *t = context;
    pf_heap *heap = t->busy->engine->heap;
    int bad = 0;
    for (size_t n = 1; n < 100000; n *= 3) {
        void *block = pf_heap_alloc(heap, n);
        bad += !block;
        pf_heap_free(heap, block, n);
    }
    return bad + use_and_close(t->idle) + close_it(t->busy);
}

/* Another thread works while this one forks: its engine can be closed, every other one used.
 * [fork.2] */
static void test_in_the_middle(void) {
    worked busy = open_work(3, PF_CPU_BEST), idle = open_work(2, PF_CPU_BEST);
    traffic t = {.busy = &busy, .idle = &idle};
    pthread_t thread;
    CHECK(work_with(&idle, idle.want, idle.product) == 0);
    memcpy(busy.want, idle.want, sizeof busy.want);
    memcpy(busy.product, idle.product, sizeof busy.product);
    CHECK(pthread_create(&thread, NULL, keep_busy, &t) == 0);
    while (!atomic_load(&t.started)) usleep(100);
    for (int i = 0; i < 40; i++) CHECK(in_child(in_traffic, &t) == 0);
    atomic_store(&t.stop, 1);
    pthread_join(thread, NULL);
    CHECK(t.bad == 0);
    close_it(&busy), close_it(&idle);
}

/* ---- a fork inside a call ------------------------------------------------------ */

typedef struct {
    pthread_t caller;
    atomic_int forked;
    pid_t child;
} forking;

/* As a signal handler might, on the caller's thread. */
static void fork_once(void *context, int64_t task, void *scratch) {
    forking *f = context;
    (void)task, (void)scratch;
    if (!pthread_equal(pthread_self(), f->caller)) {
        while (!atomic_load(&f->forked)) usleep(10); /* some tasks are left for the caller */
        return;
    }
    if (atomic_exchange(&f->forked, 1)) return;
    f->child = fork();
    if (f->child == 0) alarm(CHILD_SECONDS);
}

/* What the workers had taken is lost in the child: it is told so, and the next call works.
 * [fork.3] */
static void test_fork_inside(void) {
    worked w = open_work(3, PF_CPU_BEST);
    CHECK(work_with(&w, w.want, w.product) == 0);
    forking f = {.caller = pthread_self()};
    fflush(NULL);
    int status = pf_parallel(w.engine, 1000, 0, fork_once, &f);
    if (f.forked && f.child == 0) {
        bool told = status == PF_ESTATE && strstr(pf_last_error(), "forked");
        CHILD_EXIT(told && !use(&w) && !close_it(&w) ? 0 : 1);
    }
    CHECK(status == PF_OK && f.forked);
    CHECK(waitpid(f.child, &status, 0) == f.child && WIFEXITED(status) && !WEXITSTATUS(status));
    CHECK(use(&w) == 0);
    close_it(&w);
}

int main(void) {
    test_states(2, PF_CPU_BEST);
    test_states(4, PF_CPU_BEST);
    test_states(2, PF_CPU_GENERIC); /* products by the BLAS */
    test_after_openmp();
    test_in_the_middle();
    test_fork_inside();
    return CHECK_REPORT();
}
