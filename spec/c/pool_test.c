/*
 * pool_test.c - what a worker has of its caller: floating-point settings, and the signals that it
 * takes. A fault in a worker reaches the host's handler, and no bit depends on who took a task.
 */
#include <fenv.h>
#include <pthread.h>
#include <signal.h>
#include <sched.h>
#include <sys/mman.h>

#include "child.h"
#include "fpu.h"
#include "ops_support.h"

/* ---- tasks that workers take part in --------------------------------------------- */

enum { TASKS = 64 };

typedef struct {
    pthread_t caller;
    atomic_int by_workers;
    void (*look)(void *context);
    void *context;
} shared_job;

/* The caller holds its tasks back until a worker has done one. */
static void share(void *context, int64_t task, void *scratch) {
    shared_job *job = context;
    (void)task, (void)scratch;
    if (pthread_equal(pthread_self(), job->caller)) {
        while (atomic_load(&job->by_workers) == 0) sched_yield();
        return;
    }
    job->look(job->context);
    atomic_fetch_add(&job->by_workers, 1);
}

static void look_in_workers(pf_engine *e, void (*look)(void *), void *context) {
    shared_job job = {.caller = pthread_self(), .look = look, .context = context};
    CHECK_OK(pf_parallel(e, TASKS, 0, share, &job));
    CHECK(job.by_workers > 0);
}

static pf_engine runtime_of(int threads) {
    pf_engine e;
    pf_options options = PF_OPTIONS_DEFAULT;
    options.threads = threads;
    CHECK_OK(pf_runtime_open(&e, &options));
    return e;
}

/* ---- floating point --------------------------------------------------------------- */

typedef struct {
    float third, minus_third, tiny;
    atomic_int wrong;
} settings;

static volatile float one = 1, three = 3, smallest = 1e-39f;

static settings settings_here(void) {
    return (settings){one / three, -one / three, smallest * one, 0};
}

static void compare_settings(void *context) {
    settings *want = context, here = settings_here();
    want->wrong += memcmp(&here, want, offsetof(settings, wrong)) != 0;
}

/* Settings that change when the workers have long started, and back. [float.1] */
static void test_settings(void) {
    static const int rounds[] = {FE_TONEAREST, FE_UPWARD, FE_TOWARDZERO, FE_DOWNWARD, FE_TONEAREST};
    pf_engine e = runtime_of(3);
    for (int i = 0; i < PF_COUNT(rounds); i++) {
        fesetround(rounds[i]);
        settings want = settings_here();
        look_in_workers(&e, compare_settings, &want);
        CHECK(want.wrong == 0 && fegetround() == rounds[i]);
    }
#if defined(__x86_64__)
    const pf_fpu before = __builtin_ia32_stmxcsr(), flushing = before | 0x8040; /* FTZ, DAZ */
    pf_fpu_set(&flushing);
    settings want = settings_here();
    look_in_workers(&e, compare_settings, &want);
    pf_fpu_set(&before);
    CHECK(want.wrong == 0 && want.tiny == 0);
    want = settings_here();
    look_in_workers(&e, compare_settings, &want);
    CHECK(want.wrong == 0 && want.tiny != 0);
#endif
    pf_runtime_close(&e);
}

/* x * x of numbers whose squares are denormal, and its sum; the bytes of both. */
static void squares(pf_engine *e, float *out, int64_t n) {
    pf_tensor *x = NULL, *y = NULL;
    CHECK_OK(pf_tensor_full(&x, e, PF_F32, 1, &n, 0));
    for (int64_t i = 0; i < n; i++) pf_f32(x)[i] = 1e-22f * (float)(1 + i % 97);
    int op = pf_op_find(e, "mul");
    CHECK_OK(pf_op_apply(e, op, (pf_tensor *const[]){x, x}, 2, NULL, &y));
    memcpy(out, pf_f32(y), (size_t)n * sizeof *out);
    pf_tensor_release(&x), pf_tensor_release(&y);
}

/* An audio thread sets FTZ and DAZ between two calls: all of the result is flushed, or none.
 * [float.1] */
static void test_same_bits(void) {
#if defined(__x86_64__)
    enum { N = 1 << 18 };
    pf_options options = PF_OPTIONS_DEFAULT;
    pf_engine *alone = NULL, *many = NULL;
    options.threads = 1;
    CHECK_OK(pf_engine_open(&alone, &options));
    options.threads = 4;
    CHECK_OK(pf_engine_open(&many, &options));
    float *want = calloc(N, sizeof *want), *got = calloc(N, sizeof *got);
    const pf_fpu before = __builtin_ia32_stmxcsr(), flushing = before | 0x8040;
    int different = 0, zeros[2] = {0};
    for (int turn = 0; turn < 20; turn++) {
        pf_fpu_set(turn % 2 ? &flushing : &before);
        squares(alone, want, N), squares(many, got, N);
        pf_fpu_set(&before);
        different += memcmp(want, got, N * sizeof *got) != 0;
        for (int i = 0; i < N; i++) zeros[turn % 2] += got[i] == 0;
    }
    CHECK(different == 0);
    CHECK(zeros[0] == 0 && zeros[1] == 10 * N);
    free(want), free(got);
    pf_engine_close(&alone), pf_engine_close(&many);
#endif
}

/* ---- signals ---------------------------------------------------------------------- */

static sigset_t workers_mask;

static void read_mask(void *context) {
    static atomic_flag once = ATOMIC_FLAG_INIT;
    (void)context;
    if (!atomic_flag_test_and_set(&once)) pthread_sigmask(SIG_SETMASK, NULL, &workers_mask);
}

/* Faults are open though the caller blocks everything; what is sent to whoever runs is as the
 * caller has it; all others are the host's. */
static int read_masks(void *context) {
    static const int faults[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGTRAP, SIGSYS};
    static const int host[] = {SIGINT, SIGTERM, SIGHUP, SIGALRM, SIGCHLD, SIGUSR1, SIGPIPE};
    static const int sent[] = {SIGPROF, SIGVTALRM, SIGXCPU};
    const int *blocked = context;
    sigset_t all, before;
    int wrong = 0;
    sigfillset(&all);
    if (*blocked) pthread_sigmask(SIG_SETMASK, &all, &before);
    pf_engine e = runtime_of(2);
    look_in_workers(&e, read_mask, NULL);
    pf_runtime_close(&e);
    for (int i = 0; i < PF_COUNT(faults); i++) wrong += sigismember(&workers_mask, faults[i]);
    for (int i = 0; i < PF_COUNT(host); i++) wrong += !sigismember(&workers_mask, host[i]);
    for (int i = 0; i < PF_COUNT(sent); i++)
        wrong += sigismember(&workers_mask, sent[i]) != *blocked;
    return wrong;
}

/* [signals.2] */
static void test_masks(void) {
    for (int blocked = 0; blocked < 2; blocked++) CHECK(in_child(read_masks, &blocked) == 0);
}

enum { PAGE = 4096 };
static char *guarded;
static volatile sig_atomic_t faults_seen;

/* A crash handler that could write a report; this one mends the page. */
static void on_fault(int number) {
    (void)number;
    faults_seen++;
    mprotect(guarded, PAGE, PROT_READ | PROT_WRITE);
}

static void touch(void *context) {
    (void)context;
    guarded[7] = 1;
}

static int fault_in_worker(void *context) {
    struct sigaction action = {.sa_handler = on_fault};
    (void)context;
    sigemptyset(&action.sa_mask);
    guarded = mmap(NULL, PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (guarded == MAP_FAILED || sigaction(SIGSEGV, &action, NULL) != 0) return 2;
    pf_engine e = runtime_of(2);
    look_in_workers(&e, touch, NULL);
    pf_runtime_close(&e);
    return faults_seen >= 1 && guarded[7] == 1 ? 0 : 1;
}

/* [signals.3] */
static void test_fault(void) { CHECK(in_child(fault_in_worker, NULL) == 0); }

int main(void) {
    test_settings();
    test_same_bits();
    test_masks();
    test_fault();
    return CHECK_REPORT();
}
