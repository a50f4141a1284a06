/*
 * untouched_test.c - what belongs to the process is after every public call as it was before: the
 * settings of OpenMP, of floating point and of the locale, signals, folder, mask of new files,
 * descriptors, environment and rand(); and nothing was printed, or left where the process stands.
 * In LIVING_IN_A_HOST.md: [ends.2], [process.1], [process.2], [process.3], [process.4],
 * [process.7], [signals.1], [float.2], [locale.2].
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <fenv.h>
#include <locale.h>
#include <omp.h>
#include <sched.h>
#include <signal.h>
#include <sys/stat.h>

#include "border.h"

#include "border_calls.h"

extern char **environ;

/* ---- what belongs to the process -------------------------------------------------- */

enum { SIGNALS = 65, DESCRIPTORS = 256, TEXT = 4096 };

typedef struct {
    int omp_threads, omp_dynamic, omp_levels, omp_limit;
    int rounding;
    unsigned control; /* of SSE: masks, rounding, denormals; without the flags */
    char locale[TEXT], folder[TEXT];
    locale_t of_thread;
    sigset_t mask;
    void (*handlers[SIGNALS])(int);
    int flags[SIGNALS];
    void *signal_stack;
    mode_t new_files;
    cpu_set_t processors;
    bool open[DESCRIPTORS];
    size_t environment; /* a sum over its places and texts */
} process;

static size_t sum_environment(void) {
    size_t sum = (size_t)environ;
    for (char **entry = environ; *entry; entry++) {
        for (const char *c = *entry; *c; c++) sum = sum * 31 + (unsigned char)*c;
        sum = sum * 31 + (size_t)*entry;
    }
    return sum;
}

static void look_at_signals(process *p) {
    stack_t stack = {0};
    sigprocmask(SIG_SETMASK, NULL, &p->mask);
    sigaltstack(NULL, &stack);
    p->signal_stack = stack.ss_sp;
    for (int i = 1; i < SIGNALS; i++) {
        struct sigaction action = {0};
        if (sigaction(i, NULL, &action) != 0) continue; /* the C library's own */
        p->handlers[i] = action.sa_handler;
        p->flags[i] = action.sa_flags;
    }
}

static void look(process *p) {
    memset(p, 0, sizeof *p);
    p->omp_threads = omp_get_max_threads(), p->omp_dynamic = omp_get_dynamic();
    p->omp_levels = omp_get_max_active_levels(), p->omp_limit = omp_get_thread_limit();
    p->rounding = fegetround();
#if defined(__x86_64__)
    p->control = __builtin_ia32_stmxcsr() & ~0x3fu;
#endif
    snprintf(p->locale, sizeof p->locale, "%s", setlocale(LC_ALL, NULL));
    p->of_thread = uselocale((locale_t)0);
    look_at_signals(p);
    if (!getcwd(p->folder, sizeof p->folder)) p->folder[0] = '\0';
    umask(p->new_files = umask(0));
    sched_getaffinity(0, sizeof p->processors, &p->processors);
    for (int fd = 0; fd < DESCRIPTORS; fd++) p->open[fd] = fcntl(fd, F_GETFD) >= 0;
    p->environment = sum_environment();
}

static int same(bool good, const char *what) {
    if (!good) border_fail(what);
    return !good;
}

static int compare(const process *a, const process *b) {
    int failed = 0;
    failed += same(a->omp_threads == b->omp_threads, "OpenMP's number of threads");
    failed += same(a->omp_dynamic == b->omp_dynamic, "OpenMP's dynamic threads");
    failed += same(a->omp_levels == b->omp_levels, "OpenMP's levels");
    failed += same(a->omp_limit == b->omp_limit, "OpenMP's limit");
    failed += same(a->rounding == b->rounding, "rounding");
    failed += same(a->control == b->control, "floating-point control");
    failed += same(!strcmp(a->locale, b->locale), "the locale");
    failed += same(a->of_thread == b->of_thread, "the thread's locale");
    failed += same(!strcmp(a->folder, b->folder), "the working directory");
    failed += same(a->new_files == b->new_files, "umask");
    failed += same(CPU_EQUAL(&a->processors, &b->processors), "processors");
    failed += same(!memcmp(a->open, b->open, sizeof a->open), "open descriptors");
    failed += same(a->environment == b->environment, "the environment");
    failed += same(a->signal_stack == b->signal_stack, "the stack of signals");
    for (int i = 1; i < SIGNALS; i++) {
        bool kept = a->handlers[i] == b->handlers[i] && a->flags[i] == b->flags[i];
        failed += same(kept, "what a signal does");
        failed += same(sigismember(&a->mask, i) == sigismember(&b->mask, i), "the signal mask");
    }
    return failed;
}

/* ---- a call ------------------------------------------------------------------------- */

static int next_random;
static bool is_on_hold(const char *call) { return strcmp(call, "pf_checkpoint_hold") == 0; }

/* A hold is an open folder until its engine closes: one that no program of the host's inherits. */
static int forget_hold(const process *before, process *after) {
    int kept = 0, inherited = 0;
    for (int fd = 0; fd < DESCRIPTORS; fd++) {
        if (before->open[fd] || !after->open[fd]) continue;
        kept++;
        inherited += !(fcntl(fd, F_GETFD) & FD_CLOEXEC);
        after->open[fd] = false;
    }
    return same(kept == 1 && !inherited, "a descriptor that programs inherit");
}

/* What the call prints goes to a file, whose size is then looked at. */
static int untouched(const border_row *row, void (*more)(void)) {
    process before, after;
    FILE *printed = tmpfile();
    const int out = dup(1), err = dup(2);
    fflush(NULL);
    dup2(fileno(printed), 1), dup2(fileno(printed), 2);
    srand(7), rand();
    look(&before);
    if (row && !border_frees(row)) row->call(-1);
    if (more) more();
    look(&after);
    fflush(NULL);
    dup2(out, 1), dup2(err, 2), close(out), close(err);
    int failed = same(rand() == next_random, "rand()");
    failed += row && is_on_hold(row->name) ? forget_hold(&before, &after) : 0;
    struct stat written = {0};
    fstat(fileno(printed), &written);
    failed += same(written.st_size == 0, "printed something");
    fclose(printed);
    return failed + compare(&before, &after);
}

static int untouched_by(const border_row *row) { return untouched(row, NULL); }

/* The same with a NULL in each place, in which a message is made. */
static const border_row *failing;
static int null_at;
static void call_with_null(void) { failing->call(null_at); }

static int untouched_by_failures(const border_row *row) {
    int failed = 0;
    failing = row;
    for (null_at = 0; null_at < row->n; null_at++) {
        if (row->parameter[null_at].pointer && !row->parameter[null_at].nullable)
            failed += untouched(NULL, call_with_null);
    }
    return failed;
}

/* No call depends on what errno was. */
static int whatever_errno(const border_row *row) {
    static const int values[] = {0, EINTR, ERANGE, ENOMEM};
    bool repeatable =
        !strstr(row->name, "close") && !strstr(row->name, "release") && !strstr(row->name, "free");
    int failed = 0, first = 0;
    for (int i = 0; repeatable && i < 4; i++) {
        errno = values[i];
        border_answer answer = row->call(0); /* NULL first: its end is the same each time */
        if (i == 0) first = answer.status;
        failed += same(answer.status == first, "another status under another errno");
    }
    return failed;
}

/* ---- settings that are easily lost ----------------------------------------------------- */

static void on_signal(int number) { (void)number; }

static char empty[] = "/tmp/untouchedXXXXXX";

static void set_up(void) {
    sigset_t some;
    srand(7), rand(), next_random = rand();
    omp_set_num_threads(3), omp_set_dynamic(1), omp_set_max_active_levels(2);
    fesetround(FE_UPWARD);
    CHECK(setlocale(LC_ALL, "C.utf8") || setlocale(LC_ALL, "C.UTF-8"));
    sigemptyset(&some), sigaddset(&some, SIGUSR1), sigaddset(&some, SIGCHLD);
    sigprocmask(SIG_BLOCK, &some, NULL);
    signal(SIGPIPE, SIG_IGN), signal(SIGUSR2, on_signal), signal(SIGFPE, on_signal);
    umask(027);
    CHECK(mkdtemp(empty) && chdir(empty) == 0);
}

/* Work on several threads, files, a script: what no row of the border does. */
static void work(void) {
    const int64_t shape[] = {400, 400};
    pf_options options = pf_options_default();
    pf_engine *e = NULL;
    pf_tensor *x = NULL, *y = NULL;
    pf_module *model = NULL;
    char folder[96], script[96];
    options.threads = 3;
    snprintf(folder, sizeof folder, "%s/run", B.path);
    snprintf(script, sizeof script, "%s/script.lua", B.path);
    CHECK_OK(pf_engine_open(&e, &options));
    CHECK_OK(pf_tensor_rand(&x, e, 2, shape, true));
    CHECK_OK(pf_op_apply(e, pf_op_find(e, "matmul"), (pf_tensor *const[]){x, x}, 2, NULL, &y));
    CHECK_OK(pf_checkpoint_save(e, folder, 1, B.module, NULL, NULL, NULL, 1));
    CHECK_OK(pf_model_load(&model, e, folder));
    FILE *file = fopen(script, "w");
    fputs("local pf = require 'performer' pf.randn(64, 64):matmul(pf.ones(64, 64)):sum():item()"
          " pf.json.encode { 1.5 }",
          file);
    fclose(file);
    CHECK(pf_script_run(e, script, 0, NULL) == PF_OK);
    pf_tensor_release(&x), pf_tensor_release(&y), pf_module_release(&model);
    pf_engine_close(&e);
    unlink(script);
}

static void remove_run(void) {
    char command[128];
    snprintf(command, sizeof command, "rm -r %s/run", B.path);
    CHECK(system(command) == 0);
}

static int entries(const char *folder) {
    int n = 0;
    DIR *dir = opendir(folder);
    while (dir && readdir(dir)) n++;
    if (dir) closedir(dir);
    return n;
}

int main(void) {
    border_open();
    set_up();
    for (size_t i = 0; i < sizeof border_rows / sizeof *border_rows; i++) {
        border_run(&border_rows[i], untouched_by);
        border_run(&border_rows[i], untouched_by_failures);
        if (border_rows[i].kind == BORDER_STATUS) border_run(&border_rows[i], whatever_errno);
    }
    snprintf(border_doing, 4096, "work on three threads");
    CHECK(untouched(NULL, work) == 0);
    remove_run();
    CHECK(entries(".") == 2); /* itself and its parent */
    fesetround(FE_TONEAREST);
    border_close();
    pf_engine_close(&B.engine);
    CHECK(chdir("/") == 0 && rmdir(empty) == 0);
    return CHECK_REPORT();
}
