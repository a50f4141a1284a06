/*
 * host_test.c - an engine among a host's own threads, signals, callbacks and environment: what
 * LIVING_IN_A_HOST.md says of them, sentence by sentence.
 */
#include <dirent.h>
#include <fenv.h>
#include <pthread.h>
#include <signal.h>
#include <sys/time.h>

#include "child.h"
#include "nn_support.h"
#include "scratch.h"

extern char **environ;

/* ---- the environment ------------------------------------------------------------ */

/* In place of the C library's, for all that this program links: who asks for what. */
static char asked[4096];

char *getenv(const char *name) {
    const size_t n = strlen(name), at = strlen(asked);
    if (at + n + 2 < sizeof asked) sprintf(asked + at, "%s ", name);
    for (char **entry = environ; environ && *entry; entry++)
        if (!strncmp(*entry, name, n) && (*entry)[n] == '=') return *entry + n + 1;
    return NULL;
}

/* [process.5] */
static void test_environment(void) {
    pf_engine *e = NULL;
    asked[0] = '\0';
    CHECK_OK(pf_engine_open(&e, NULL));
    CHECK(!strcmp(asked, "PF_CPU "));
    asked[0] = '\0';
    pf_module *model = small_model(e, "'causal': true"), *none = NULL;
    pf_stream *s = NULL;
    CHECK_OK(pf_stream_open(&s, e, model));
    CHECK_OK(pf_stream_feed(s, &(int32_t){1}, 1));
    CHECK_FAILS(PF_ENOTFOUND, pf_model_load(&none, e, "/no/such/folder"));
    CHECK(asked[0] == '\0');
    pf_stream_close(&s), pf_module_release(&model), pf_engine_close(&e);
}

/* ---- threads ---------------------------------------------------------------------- */

static int threads_here(void) {
    int n = -2; /* the folder itself and its parent */
    DIR *dir = opendir("/proc/self/task");
    while (dir && readdir(dir)) n++;
    if (dir) closedir(dir);
    return n;
}

static int product(pf_engine *e, float *out) {
    const int64_t shape[2] = {384, 384};
    pf_tensor *x = NULL, *y = NULL;
    pf_attr attrs[8];
    const int op = pf_op_find(e, "matmul");
    int bad = pf_tensor_full(&x, e, PF_F32, 2, shape, 0) < 0 || pf_op_defaults(e, op, attrs) < 0;
    for (int i = 0; !bad && i < 384 * 384; i++) pf_f32(x)[i] = (float)(i % 251) * 0.01f;
    bad = bad || pf_op_apply(e, op, (pf_tensor *const[]){x, x}, 2, attrs, &y) < 0;
    if (!bad) memcpy(out, pf_f32(y), 64 * sizeof *out);
    pf_tensor_release(&x), pf_tensor_release(&y);
    return bad;
}

/* [process.6] A worker that was joined may still be seen for an instant. */
static void test_workers(void) {
    const int before = threads_here();
    float out[64];
    pf_engine *e = engine_of(4, 1);
    CHECK(threads_here() == before);
    CHECK(product(e, out) == 0 && threads_here() == before + 3);
    pf_engine_close(&e);
    for (int i = 0; i < 1000 && threads_here() != before; i++) usleep(1000);
    CHECK(threads_here() == before);
}

typedef struct {
    pf_engine *engine;
    float out[64];
    char message[256];
    int bad;
} turn;

static void *open_here(void *context) {
    turn *t = context;
    t->engine = engine_of(3, 1);
    return NULL;
}

/* Whose last message is empty until its own call fails. */
static void *work_here(void *context) {
    turn *t = context;
    pf_module *model = NULL;
    t->bad = product(t->engine, t->out) + (pf_last_error()[0] != '\0');
    t->bad += pf_model_load(&model, t->engine, "/no/such/there") != PF_ENOTFOUND;
    snprintf(t->message, sizeof t->message, "%s", pf_last_error());
    return NULL;
}

static void *close_here(void *context) {
    turn *t = context;
    pf_engine_close(&t->engine);
    return NULL;
}

/* [threads.1] [threads.3] */
static void test_turns(void) {
    static void *(*const turns[])(void *) = {open_here, work_here, work_here, close_here};
    turn t = {0};
    float want[64];
    pf_module *model = NULL;
    pf_engine *e = engine_of(1, 1);
    CHECK(product(e, want) == 0);
    CHECK_FAILS(PF_ENOTFOUND, pf_model_load(&model, e, "/no/such/here"));
    for (int i = 0; i < PF_COUNT(turns); i++) {
        pthread_t thread;
        CHECK(pthread_create(&thread, NULL, turns[i], &t) == 0);
        pthread_join(thread, NULL);
        if (turns[i] == work_here)
            CHECK(!t.bad && !memcmp(want, t.out, sizeof want) && strstr(t.message, "there"));
        memset(t.out, 0, sizeof t.out);
    }
    CHECK(!t.engine && strstr(pf_last_error(), "/no/such/here"));
    pf_engine_close(&e);
}

/* ---- callbacks ---------------------------------------------------------------------- */

static struct {
    pthread_t caller;
    int called, elsewhere, logged;
    char text[1024];
} back;

static void note(void) {
    back.called++;
    back.elsewhere += !pthread_equal(pthread_self(), back.caller);
}

static int forward(void *context, pf_engine *e, pf_tensor *x, const pf_pass *pass, pf_tensor **y) {
    (void)context, (void)pass;
    note();
    pf_tensor *const two[] = {x, x};
    return pf_op_apply(e, pf_op_find(e, "mul"), two, 2, NULL, y); /* it may call, too */
}

static int resolve(void *context, pf_engine *e, const char *name, pf_module *const *children, int n,
                   pf_module **module) {
    const pf_host_layer layer = {.size = sizeof layer, .forward = forward};
    (void)context, (void)children, (void)n;
    note();
    return pf_module_host(module, e, name, &layer, NULL, 0);
}

static int map(void *context, pf_engine *e, pf_side side, pf_tensor *x, pf_tensor **phi) {
    (void)context, (void)side;
    note();
    return pf_op_apply(e, pf_op_find(e, "exp"), &x, 1, NULL, phi);
}

static void log_it(void *context, pf_log_level level, const char *message) {
    (void)context, (void)level;
    note();
    back.logged++;
    snprintf(back.text, sizeof back.text, "%s", message);
}

/* A run whose newest checkpoint is damaged: what falls back says so to the logger. */
static void damage(const char *run) {
    char path[400];
    snprintf(path, sizeof path, "%s/step-2/model.safetensors", run);
    CHECK(truncate(path, 100) == 0);
}

/* [callbacks.3] [callbacks.4] [ends.3]; untouched_test has no logger, and hears nothing. */
static void test_callers_thread(pf_engine *e, const char *run) {
    const int64_t shape[] = {1, 1, 2, 300000};
    const pf_host_map own = {.size = sizeof own, .map = map};
    const char *text = "{\"type\": \"lua\", \"name\": \"mine\"}";
    pf_config *tree = NULL;
    pf_module *mine = NULL, *model = NULL;
    pf_kernel *kernel = NULL;
    pf_tensor *x = NULL, *y = NULL, *phi = NULL;
    back.caller = pthread_self();
    CHECK_OK(pf_tensor_full(&x, e, PF_F32, 4, shape, 0.5));
    CHECK_OK(pf_json_parse(&tree, text, strlen(text)));
    CHECK_OK(pf_engine_resolve_layers(e, resolve, NULL));
    CHECK_OK(pf_module_build(&mine, e, tree));
    CHECK_OK(pf_module_forward(&y, e, mine, x, NULL));
    CHECK_OK(pf_kernel_open_host(&kernel, e, "own", &own));
    CHECK_OK(pf_kernel_features(&phi, e, kernel, PF_SIDE_KEY, x));
    CHECK_OK(pf_model_load(&model, e, run));
    CHECK(back.called >= 4 && back.elsewhere == 0 && back.logged > 0);
    CHECK(strstr(back.text, "step-2") != NULL);
    pf_module_release(&model), pf_kernel_release(&kernel), pf_module_release(&mine);
    pf_tensor_release(&x), pf_tensor_release(&y), pf_tensor_release(&phi);
    pf_config_free(tree);
}

/* [lifetimes.4]: options, paths and data are the caller's again when the call is over. */
static void test_copied(void) {
    char path[300] = "/tmp/host_copiedXXXXXX", name[] = "weight";
    pf_options options = PF_OPTIONS_DEFAULT;
    pf_allocator allocator = scratch_allocator;
    pf_engine *e = NULL;
    pf_config *map_of = pf_config_new(PF_MAP);
    options.allocator = &allocator;
    CHECK(mkdtemp(path) != NULL);
    CHECK_OK(pf_engine_open(&e, &options));
    memset(&options, 0xff, sizeof options), memset(&allocator, 0xff, sizeof allocator);
    pf_module *model = small_model(e, "'causal': true");
    CHECK_OK(pf_checkpoint_hold(e, path));
    CHECK_OK(pf_config_set_string(map_of, name, name));
    memset(name, 'x', sizeof name - 1);
    CHECK(!strcmp(pf_config_string(pf_config_get(map_of, "weight")), "weight"));
    CHECK_OK(pf_checkpoint_save(e, path, 1, model, NULL, map_of, NULL, 1));
    pf_config_free(map_of);
    pf_module *loaded = NULL;
    CHECK_OK(pf_model_load(&loaded, e, path));
    pf_module_release(&model), pf_module_release(&loaded), pf_engine_close(&e);
    CHECK(scratch_held == 0);
    scratch_remove(path);
}

/* An engine that has worked on several threads, with a file of its own held open. */
static void open_and_close(const char *folder) {
    pf_engine *e = engine_of(3, 1);
    pf_module *model = small_model(e, "'causal': true");
    float out[64];
    CHECK_OK(pf_checkpoint_hold(e, folder));
    CHECK(product(e, out) == 0);
    pf_engine_close(&e), pf_module_release(&model);
}

static long resident(void) {
    long pages = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    if (file && fscanf(file, "%*d %ld", &pages) != 1) pages = 0;
    if (file) fclose(file);
    return pages * (sysconf(_SC_PAGESIZE) / 1024);
}

/* [lifetimes.7], and [lifetimes.3] by test_copied: resident kilobytes, threads, descriptors. */
static void test_over_and_over(const char *folder) {
    const int sanitized = SANITIZED, rounds = getenv("PF_LONG") ? 10000 : sanitized ? 30 : 150;
    for (int i = 0; i < 30; i++) open_and_close(folder);
    const long before = resident();
    const int fd = dup(0);
    close(fd);
    for (int i = 0; i < rounds; i++) open_and_close(folder);
    const int after = dup(0);
    close(after);
    CHECK(after == fd);
    CHECK(sanitized || resident() - before < 1024);
    for (int i = 0; i < 1000 && threads_here() > 1; i++) usleep(1000);
    CHECK(sanitized || threads_here() == 1);
}

/* ---- signals ------------------------------------------------------------------------- */

static atomic_int cancel;
static volatile sig_atomic_t alarms;

static void stop(int number) { (void)number, atomic_store(&cancel, 1); }
static void count_alarm(int number) { (void)number, alarms++; }

static void every(int microseconds) {
    const struct itimerval timer = {{0, microseconds}, {0, microseconds}};
    setitimer(ITIMER_REAL, &timer, NULL);
}

static void *flag_from_elsewhere(void *context) {
    usleep(20000);
    atomic_store((atomic_int *)context, 1);
    return NULL;
}

/* Products until one is cancelled. */
static int until_cancelled(pf_engine *e) {
    float out[64];
    for (int i = 0; i < 100000; i++)
        if (product(e, out)) return strstr(pf_last_error(), "cancelled") != NULL;
    return 0;
}

/* [signals.4] [threads.8]: by a handler on the caller's thread, and by another thread. */
static void test_cancel(void) {
    struct sigaction action = {.sa_handler = stop}, before;
    pf_options options = PF_OPTIONS_DEFAULT;
    pf_engine *e = NULL;
    pthread_t thread;
    float out[64];
    options.threads = 2, options.cancel = &cancel;
    CHECK_OK(pf_engine_open(&e, &options));
    sigaction(SIGALRM, &action, &before);
    every(20000);
    CHECK(until_cancelled(e));
    every(0);
    sigaction(SIGALRM, &before, NULL);
    atomic_store(&cancel, 0);
    CHECK(product(e, out) == 0);
    CHECK(pthread_create(&thread, NULL, flag_from_elsewhere, &cancel) == 0);
    CHECK(until_cancelled(e));
    pthread_join(thread, NULL);
    atomic_store(&cancel, 0);
    pf_engine_close(&e);
}

/* [signals.5]: a timer of the host's that interrupts every system call that can be interrupted. */
static void test_alarms(pf_engine *e, const char *folder) {
    struct sigaction action = {.sa_handler = count_alarm}, before; /* no SA_RESTART */
    pf_module *model = small_model(e, "'causal': true"), *loaded = NULL;
    sigaction(SIGALRM, &action, &before);
    every(200);
    int failed = 0;
    for (uint64_t i = 1; i <= 20; i++) {
        failed += pf_checkpoint_save(e, folder, i, model, NULL, NULL, NULL, 1) < 0;
        failed += pf_model_load(&loaded, e, folder) < 0;
        pf_module_release(&loaded);
    }
    every(0);
    sigaction(SIGALRM, &before, NULL);
    CHECK(failed == 0 && alarms > 20);
    pf_module_release(&model);
}

/* ---- floating point, and the end --------------------------------------------------------- */

static void on_trap(int number) { (void)number, _exit(9); }

/* Infinity and NaN are numbers like others to the engine: traps on them come to the host. */
static int with_traps(void *context) {
    const int64_t four = 4;
    pf_engine *e = context;
    pf_tensor *x = NULL, *y = NULL;
    if (pf_tensor_full(&x, e, PF_F32, 1, &four, -1) < 0) return 1;
    signal(SIGFPE, on_trap);
    feenableexcept(FE_INVALID | FE_DIVBYZERO);
    const int status = pf_op_apply(e, pf_op_find(e, "sqrt"), &x, 1, NULL, &y);
    return status < 0 ? 1 : 2;
}

static int without_traps(void *context) {
    const int64_t four = 4;
    pf_engine *e = context;
    pf_tensor *x = NULL, *y = NULL;
    double value = 0;
    int failed = pf_tensor_full(&x, e, PF_F32, 1, &four, -1) < 0;
    failed += pf_op_apply(e, pf_op_find(e, "sqrt"), &x, 1, NULL, &y) < 0;
    return failed + (pf_tensor_get(y, 0, &value) < 0 || value == value);
}

/* [float.3] */
static void test_traps(pf_engine *e) {
    CHECK(in_child(with_traps, e) == 9);
    CHECK(in_child(without_traps, e) == 0);
}

static void *work_for_ever(void *context) {
    float out[64];
    while (!product(context, out)) continue;
    return NULL;
}

/* [unload.3]: exit() while a thread is in a call, and workers are at it. */
static int leave(void *context) {
    pthread_t thread;
    pf_engine *e = engine_of(3, 1), *idle = engine_of(3, 2);
    float out[64];
    (void)context;
    if (product(idle, out) || pthread_create(&thread, NULL, work_for_ever, e) != 0) return 1;
    usleep(20000);
    exit(7);
}

int main(void) {
    char run[300];
    pf_options options = PF_OPTIONS_DEFAULT;
    pf_engine *e = NULL;
    test_environment();
    test_workers();
    test_turns();
    test_cancel();
    test_copied();
    scratch_open(run, sizeof run);
    test_over_and_over(run);
    scratch_remove(run);
    CHECK(in_child(leave, NULL) == 7);
    options.log = log_it, options.threads = 3;
    CHECK_OK(pf_engine_open(&e, &options));
    scratch_open(run, sizeof run);
    test_alarms(e, run);
    scratch_remove(run);
    scratch_open(run, sizeof run);
    pf_module *model = small_model(e, "'causal': true");
    for (uint64_t step = 1; step <= 2; step++)
        CHECK_OK(pf_checkpoint_save(e, run, step, model, NULL, NULL, NULL, 0));
    damage(run);
    test_callers_thread(e, run);
    test_traps(e);
    pf_module_release(&model);
    pf_engine_close(&e);
    scratch_remove(run);
    return CHECK_REPORT();
}
