/*
 * drive.c - runs a fuzz target where there is no libFuzzer: with any compiler, the same inputs
 * every time. It knows nothing of what the code does with them, but goes on from inputs that were
 * taken as good.
 *
 *   NAME_fuzz [INPUTS [SEED]]   that many inputs (20,000; 10 million where PF_LONG is set)
 *   NAME_fuzz FILE...           these alone, to see a crash again
 *   NAME_fuzz --seeds DIR       writes what it begins with, for libFuzzer to begin with
 *
 * The target runs in a child, and each input is in memory that both see before it is tried: so
 * whatever ends the child, a signal, a sanitizer or too much time, the parent has the input, and
 * writes it into a file. An input costs no call of the system: those took a fifth of the time.
 */
#include "drive.h"

#include <dirent.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { INPUTS = 20000, LONG = 10000000, TOLD = 1000000, POOL = 512, SECONDS = 20 };

typedef struct {
    uint8_t *data;
    size_t size;
} input;

/* What is changed: the seeds, and behind them good inputs, the newest in the place of any. */
static input pool[POOL];
static int seeds, filled;

/* What is tried, where the parent sees it. */
static struct {
    long number;
    size_t size;
    uint8_t data[FUZZ_MOST];
} * now;

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static void keep(int place, const uint8_t *data, size_t size) {
    uint8_t *copy = malloc(size + 1);
    if (!copy) fail("malloc");
    if (size) memcpy(copy, data, size);
    free(pool[place].data);
    pool[place] = (input){copy, size};
    if (place == filled) filled++;
}

static void add(const uint8_t *data, size_t size) {
    if (filled < POOL / 2 && size <= FUZZ_MOST) keep(filled, data, size);
}

static size_t read_file(const char *path, uint8_t *data) {
    FILE *file = fopen(path, "rb");
    if (!file) fail(path);
    size_t size = fread(data, 1, FUZZ_MOST, file);
    fclose(file);
    return size;
}

static void add_folder(const char *path) {
    static uint8_t data[FUZZ_MOST];
    struct dirent **names;
    char file[PATH_MAX + 258];
    int n = scandir(path, &names, NULL, alphasort); /* the same order everywhere */
    for (int i = 0; i < n; i++) {
        snprintf(file, sizeof file, "%s/%s", path, names[i]->d_name);
        if (names[i]->d_name[0] != '.') add(data, read_file(file, data));
        free(names[i]);
    }
    if (n >= 0) free(names);
}

static void begin(const char *name) {
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/%s", PF_FUZZ_SEEDS, name);
    add_folder(path);
    if (fuzz_seeds) fuzz_seeds(add);
    if (filled == 0) add((const uint8_t *)"performer", 9);
    seeds = filled;
}

/* The next input, made from one of the pool: half of them from a seed, for what is good is most
 * often what has little left in it. */
static size_t make(uint8_t *data, uint64_t number, uint64_t seed) {
    fuzz_begin(number * 0x2545f4914f6cdd1d + seed);
    const input *from = &pool[fuzz_below((uint64_t)(fuzz_below(2) ? seeds : filled))];
    const input *beside = &pool[fuzz_below((uint64_t)filled)];
    size_t size = from->size;
    fuzz_other(beside->data, beside->size);
    if (size) memcpy(data, from->data, size);
    for (uint64_t times = 1 + fuzz_below(3); times > 0; times--) {
        size = LLVMFuzzerCustomMutator && fuzz_below(8)
                   ? LLVMFuzzerCustomMutator(data, size, FUZZ_MOST, (unsigned)fuzz_below(1u << 31))
                   : LLVMFuzzerMutate(data, size, FUZZ_MOST);
    }
    return size;
}

/* Of every SECONDS of CPU; the same input as the last time is a fault as well. */
static void look(int signal_number) {
    static long seen = -1;
    if (seen == now->number) {
        signal(signal_number, SIG_DFL);
        raise(signal_number);
    }
    seen = now->number;
}

static void watch(void) {
    struct sigaction action = {.sa_handler = look, .sa_flags = SA_RESTART};
    struct itimerval timer = {.it_value = {.tv_sec = SECONDS}, .it_interval = {.tv_sec = SECONDS}};
    if (sigaction(SIGPROF, &action, NULL) < 0 || setitimer(ITIMER_PROF, &timer, NULL) < 0)
        fail("the timer");
}

static void try(const uint8_t *data, size_t size) {
    uint8_t *exact = malloc(size ? size : 1); /* a step over its end is seen */
    if (!exact) fail("malloc");
    if (size) memcpy(exact, data, size), memcpy(now->data, data, size);
    now->size = size;
    now->number++;
    LLVMFuzzerTestOneInput(exact, size);
    free(exact);
}

static void tell(const char *name, long inputs) {
    printf("%s: %ld inputs from %d seeds, %ld good, %.1f s\n", name, inputs, seeds, fuzz_good,
           (double)clock() / CLOCKS_PER_SEC);
    fflush(stdout);
}

static void run(const char *name, long inputs, uint64_t seed) {
    static uint8_t data[FUZZ_MOST];
    begin(name);
    watch();
    for (int i = 0; i < seeds; i++) try(pool[i].data, pool[i].size);
    for (long i = 0; i < inputs; i++) {
        long good = fuzz_good;
        size_t size = make(data, (uint64_t)i, seed);
        try(data, size);
        if ((i + 1) % TOLD == 0 && i + 1 < inputs) tell(name, i + 1);
        if (fuzz_good == good) continue;
        keep(filled < POOL ? filled : seeds + (int)fuzz_below((uint64_t)(POOL - seeds)), data,
             size);
    }
    tell(name, inputs);
    for (int i = 0; i < filled; i++) free(pool[i].data);
    if (fuzz_good == 0) {
        fprintf(stderr, "%s: not one input was good: nothing was tried\n", name);
        exit(1);
    }
}

static void write_file(const char *path, const uint8_t *data, size_t size) {
    FILE *file = fopen(path, "wb");
    if (!file || fwrite(data, 1, size, file) != size || fclose(file) != 0) fail(path);
}

/* The child has ended badly: why, and the input. */
static void blame(const char *name, int status) {
    const char *base = getenv("TMPDIR");
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/performer-%s-%ld", base && *base ? base : "/tmp", name,
             (long)getpid());
    write_file(path, now->data, now->size);
    fprintf(stderr, "%s: %s %d; the last input, number %ld, is in %s\n", name,
            WIFSIGNALED(status) ? "signal" : "exit code",
            WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status), now->number, path);
}

/* In a child; 0: it came to its end. */
static int run_child(const char *name, long inputs, uint64_t seed) {
    int status = 0;
    now = mmap(NULL, sizeof *now, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (now == MAP_FAILED) fail("mmap");
    pid_t child = fork();
    if (child < 0) fail("fork");
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        run(name, inputs, seed);
        exit(0);
    }
    if (waitpid(child, &status, 0) < 0) fail("waitpid");
    if (status != 0) blame(name, status);
    return status != 0;
}

static void write_seeds(const char *name, const char *folder) {
    char path[PATH_MAX];
    begin(name);
    for (int i = 0; i < seeds; i++) {
        snprintf(path, sizeof path, "%s/%03d", folder, i);
        write_file(path, pool[i].data, pool[i].size);
    }
    printf("%d files in %s\n", seeds, folder);
}

int main(int argc, char **argv) {
    const char *slash = strrchr(argv[0], '/'), *name = slash ? slash + 1 : argv[0];
    char *end = NULL;
    if (argc == 3 && !strcmp(argv[1], "--seeds")) return write_seeds(name, argv[2]), 0;
    long inputs = argc > 1 ? strtol(argv[1], &end, 10) : getenv("PF_LONG") ? LONG : INPUTS;
    if (end && *end) {
        static uint8_t data[FUZZ_MOST];
        for (int i = 1; i < argc; i++) LLVMFuzzerTestOneInput(data, read_file(argv[i], data));
        return 0;
    }
    int failed = run_child(name, inputs, argc > 2 ? strtoull(argv[2], NULL, 10) : 1);
    printf("%d passed, %d failed\n", !failed, failed != 0);
    return failed != 0;
}
