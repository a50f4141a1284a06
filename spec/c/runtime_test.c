/*
 * runtime_test.c - the floor runtime: status, random numbers, CPU level, engine options, the
 * parallel loop. The heap has heap_test.c, plain data config_test.c.
 */
#include <omp.h>
#include <pthread.h>

#include "check.h"
#include "host.h"
#include "runtime.h"

/* ---- status ---- */

static void *fail_elsewhere(void *unused) {
    (void)unused;
    pf_fail(PF_EIO, "elsewhere");
    return NULL;
}

static void test_status(void) {
    CHECK(strcmp(pf_status_name(PF_ESHAPE), "PF_ESHAPE") == 0);
    CHECK(strcmp(pf_status_text(PF_ESHAPE), "shapes don't fit") == 0);
    CHECK(strcmp(pf_status_text(7), "ok") == 0);
    CHECK(strcmp(pf_status_name(-55), "PF_UNKNOWN") == 0);
    CHECK(pf_fail(PF_EINVAL, "x is %d", 3) == PF_EINVAL);
    CHECK(strcmp(pf_last_error(), "x is 3") == 0);
    CHECK(pf_fail_in(PF_EIO, "file '%s'", "a") == PF_EIO);
    CHECK(strcmp(pf_last_error(), "file 'a': x is 3") == 0);
    pf_fail(PF_EINVAL, "again: %s", pf_last_error());
    CHECK(strcmp(pf_last_error(), "again: file 'a': x is 3") == 0);

    pthread_t other;
    CHECK(pthread_create(&other, NULL, fail_elsewhere, NULL) == 0);
    pthread_join(other, NULL);
    CHECK(strncmp(pf_last_error(), "again", 5) == 0);

    char longer[5000];
    memset(longer, 'a', sizeof longer - 1);
    longer[sizeof longer - 1] = '\0';
    pf_fail(PF_EINVAL, "%s", longer);
    CHECK(strlen(pf_last_error()) >= 1000);
    for (int i = 0; i < 9; i++) pf_fail_in(PF_EINVAL, "%s", longer);
    CHECK(strlen(pf_last_error()) >= 1000);
    CHECK(strcmp(pf_version(), "0.1.0") == 0);
    CHECK(pf_abi_version() >= 1);
}

/* Is the message this, read from `first`? */
static bool reads(int first, const char *text) {
    return strcmp(pf_last_error_from(first), text) == 0;
}

static void test_places(void) {
    pf_fail(PF_ESHAPE, "x: row %s of %d, dimension %s", pf_place(9), 12, pf_place_dim(-1));
    CHECK(reads(0, "x: row 9 of 12, dimension -1") && reads(1, "x: row 10 of 12, dimension -1"));
    CHECK(strcmp(pf_last_error(), "x: row 9 of 12, dimension -1") == 0);
    pf_fail_in(PF_ESHAPE, "dimension %s, row %s", pf_place_dim(2), pf_place(-1));
    CHECK(reads(1, "dimension 3, row 0: x: row 10 of 12, dimension -1"));
    pf_fail(PF_ESHAPE, "x: row %s of %d, dimension %s", pf_place(9), 12, pf_place_dim(-1));
    /* nested, and taken into another message as it stands */
    pf_fail_in(PF_ESHAPE, "child %s", pf_place(0));
    CHECK(reads(1, "child 1: x: row 10 of 12, dimension -1"));
    pf_fail(PF_ESHAPE, "again: %s", pf_last_error());
    CHECK(reads(0, "again: child 0: x: row 9 of 12, dimension -1"));
    pf_fail(PF_EINVAL, "%s %s %s %s %s %s %s %s", pf_place(0), pf_place(1), pf_place(2),
            pf_place(3), pf_place(4), pf_place(5), pf_place(6), pf_place(INT64_MAX - 1));
    CHECK(reads(1, "1 2 3 4 5 6 7 9223372036854775807"));
    /* a host's own bytes that look like marks leave nothing strange */
    pf_fail(PF_EINVAL, "'%s'",
            "a\x01"
            "b\x02");
    CHECK(reads(1, "'ab'"));
}

/* Wherever a message is cut, no mark and no half number is read. */
static void test_places_cut(void) {
    char long_text[2100], prefix[600];
    int strange = 0;
    memset(long_text, '.', sizeof long_text), memset(prefix, '.', sizeof prefix);
    for (size_t n = 2030; n < 2060; n++) {
        long_text[n] = '\0';
        pf_fail(PF_EINVAL, "%s%s", long_text, pf_place(1234567));
        const char *end = pf_last_error() + strspn(pf_last_error(), ".");
        strange += *end != '\0' && strcmp(end, "1234567") != 0;
        strange += strspn(pf_last_error_from(1), ".1234568") != strlen(pf_last_error_from(1));
        long_text[n] = '.';
    }
    for (size_t n = 495; n < 520; n++) {
        prefix[n] = '\0';
        pf_fail(PF_EINVAL, "x");
        pf_fail_in(PF_EINVAL, "%s%s", prefix, pf_place(1234567));
        const char *end = pf_last_error() + strspn(pf_last_error(), ".");
        strange += strcmp(end, ": x") != 0 && strcmp(end, "1234567: x") != 0;
        prefix[n] = '.';
    }
    CHECK(strange == 0);
}

/* ---- random numbers ---- */

/* Known answers of the Random123 distribution. */
static void test_philox(void) {
    static const struct {
        uint32_t counter[4], key[2], out[4];
    } known[] = {
        {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff},
         {0xffffffff, 0xffffffff},
         {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
         {0xa4093822, 0x299f31d0},
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    for (int i = 0; i < PF_COUNT(known); i++) {
        uint32_t out[4];
        pf_philox(known[i].counter, known[i].key, out);
        CHECK(memcmp(out, known[i].out, sizeof out) == 0);
    }
}

static bool same_stream(pf_rng a, pf_rng b) { return memcmp(&a, &b, sizeof a) == 0; }

static void test_streams(void) {
    pf_rng rng = pf_rng_make(1, PF_DRAW_USER, 2, 3);
    CHECK(same_stream(rng, pf_rng_make(1, PF_DRAW_USER, 2, 3)));
    CHECK(!same_stream(rng, pf_rng_make(2, PF_DRAW_USER, 2, 3)));
    CHECK(!same_stream(rng, pf_rng_make(1, PF_DRAW_INIT, 2, 3)));
    CHECK(!same_stream(rng, pf_rng_make(1, PF_DRAW_USER, 3, 3)));
    CHECK(!same_stream(rng, pf_rng_make(1, PF_DRAW_USER, 2, 4)));
    CHECK(!same_stream(rng, pf_rng_make(1, PF_DRAW_USER, 3, 2)));
    CHECK(!same_stream(rng, pf_rng_make(1 + ((uint64_t)1 << 32), PF_DRAW_USER, 2, 3)));

    /* any piece of a fill is the same as the whole */
    enum { N = 1000 };
    float whole[N], piece[N], uniform[N];
    double wide[N];
    pf_rng_fill_normal(&rng, 0, N, whole);
    pf_rng_fill_normal_double(&rng, 0, N, wide);
    pf_rng_fill_uniform(&rng, 0, N, uniform);
    int different = 0;
    for (int first = 0, n = 1; first + n <= N; first += n, n = n % 7 + 1) {
        pf_rng_fill_normal(&rng, (uint64_t)first, n, piece);
        different += memcmp(piece, whole + first, (size_t)n * sizeof *piece) != 0;
        pf_rng_fill_uniform(&rng, (uint64_t)first, n, piece);
        different += memcmp(piece, uniform + first, (size_t)n * sizeof *piece) != 0;
    }
    for (int i = 0; i < N; i++) {
        different += whole[i] != (float)wide[i];
        different += uniform[i] != (float)pf_rng_uniform(&rng, (uint64_t)i);
    }
    CHECK(different == 0);
    /* far into a stream */
    CHECK(pf_rng_u32(&rng, (uint64_t)1 << 40) != pf_rng_u32(&rng, 0));
}

/* Moments within five sigma, range, and evenness. */
static void test_distributions(void) {
    enum { N = 200000 };
    static float x[N];
    double sum = 0, square = 0, cube = 0, fourth = 0, product = 0;
    pf_rng rng = pf_rng_make(7, PF_DRAW_USER, 0, 0);
    pf_rng_fill_normal(&rng, 0, N, x);
    for (int i = 0; i < N; i++) {
        double v = x[i];
        sum += v, square += v * v, cube += v * v * v, fourth += v * v * v * v;
        if (i % 2) product += v * (double)x[i - 1];
    }
    double sigma = 1 / sqrt((double)N);
    CHECK(fabs(sum / N) < 5 * sigma);
    CHECK(fabs(square / N - 1) < 5 * sqrt(2.0) * sigma);
    CHECK(fabs(cube / N) < 5 * sqrt(15.0) * sigma);
    CHECK(fabs(fourth / N - 3) < 5 * sqrt(96.0) * sigma);
    CHECK(fabs(product / (N / 2)) < 5 * sqrt(2.0) * sigma);
    pf_rng_fill_uniform(&rng, 0, N, x);
    int outside = 0;
    sum = 0;
    for (int i = 0; i < N; i++) outside += !(x[i] > 0 && x[i] < 1), sum += (double)x[i];
    CHECK(outside == 0);
    CHECK(fabs(sum / N - 0.5) < 5 * sqrt(1 / 12.0) * sigma);
    /* One of the 128 words whose cell's middle is 1 in float. */
    const pf_rng near_one = pf_rng_make(1, PF_DRAW_USER, 0, 0);
    CHECK(pf_rng_u32(&near_one, 16451306) == 0xFFFFFF8Au);
    pf_rng_fill_uniform(&near_one, 16451306, 1, x);
    CHECK(x[0] < 1);

    int count[7] = {0};
    for (int i = 0; i < 70000; i++) count[pf_rng_below(&rng, (uint64_t)i, 7)]++;
    int uneven = 0;
    for (int i = 0; i < 7; i++) uneven += abs(count[i] - 10000) > 500;
    CHECK(uneven == 0);
    CHECK(pf_rng_below(&rng, 5, 1) == 0 && pf_rng_below(&rng, 5, 0) == 0);
    int high = 0;
    const uint64_t large = ((uint64_t)1 << 63) + 12345;
    for (int i = 0; i < 1000; i++) {
        uint64_t v = pf_rng_below(&rng, (uint64_t)i, large);
        if (v >= large) high = -5000;
        high += v > large / 2;
    }
    CHECK(high > 400 && high < 600);
}

/* ---- cpu and engine ---- */

static void test_cpu(void) {
    pf_cpu best = pf_cpu_detect(), level;
    unsetenv("PF_CPU");
    CHECK_OK(pf_cpu_choose(PF_CPU_BEST, &level));
    CHECK(level == best);
    CHECK_OK(pf_cpu_choose(PF_CPU_GENERIC, &level));
    CHECK(level == PF_CPU_GENERIC);
    CHECK_FAILS(PF_EINVAL, pf_cpu_choose((pf_cpu)7, &level));
    if (best < PF_CPU_AVX512) CHECK_FAILS(PF_EINVAL, pf_cpu_choose(PF_CPU_AVX512, &level));
    setenv("PF_CPU", "generic", 1);
    CHECK_OK(pf_cpu_choose(PF_CPU_BEST, &level));
    CHECK(level == PF_CPU_GENERIC);
    setenv("PF_CPU", "sse9", 1);
    CHECK_FAILS(PF_EINVAL, pf_cpu_choose(PF_CPU_BEST, &level));
    setenv("PF_CPU", "", 1);
    CHECK_OK(pf_cpu_choose(PF_CPU_BEST, &level));
    CHECK(level == best);
    unsetenv("PF_CPU");
    CHECK(strcmp(pf_cpu_name(PF_CPU_AVX2), "avx2") == 0);
}

static char logged[256];

static void keep_log(void *context, pf_log_level level, const char *message) {
    snprintf(logged, sizeof logged, "%s %d %s", (const char *)context, (int)level, message);
}

static void test_engine(void) {
    pf_engine engine;
    CHECK_OK(pf_runtime_open(&engine, NULL));
    CHECK(engine.threads == omp_get_max_threads() && engine.seed == 0 && !engine.tape);
    pf_runtime_close(&engine);
    pf_runtime_close(&engine); /* twice is fine */

    pf_options options = PF_OPTIONS_DEFAULT;
    options.threads = 3;
    options.seed = 99;
    options.log = keep_log;
    options.log_context = "me";
    CHECK_OK(pf_runtime_open(&engine, &options));
    CHECK(engine.threads == 3 && engine.seed == 99);
    pf_log(&engine, PF_LOG_DEBUG, "no %d", 1);
    CHECK(logged[0] == '\0');
    pf_log(&engine, PF_LOG_WARN, "yes %d", 2);
    CHECK(strcmp(logged, "me 2 yes 2") == 0);
    pf_log(&engine, PF_LOG_WARN, "row %s", pf_place(0));
    CHECK(strcmp(logged, "me 2 row 0") == 0);
    engine.draws = 5;
    pf_seed(&engine, 4);
    CHECK(engine.seed == 4 && engine.draws == 0);
    pf_runtime_close(&engine);

    /* a host of an older header: what it does not know keeps its default */
    options.size = offsetof(pf_options, seed);
    CHECK_OK(pf_runtime_open(&engine, &options));
    CHECK(engine.threads == 3 && engine.seed == 0 && !engine.log);
    pf_runtime_close(&engine);
    options.size = 0;
    CHECK_FAILS(PF_EINVAL, pf_runtime_open(&engine, &options));
    options = (pf_options)PF_OPTIONS_DEFAULT;
    options.threads = -1;
    CHECK_FAILS(PF_EINVAL, pf_runtime_open(&engine, &options));
    options.threads = 1;
    options.progress_every = -1;
    CHECK_FAILS(PF_EINVAL, pf_runtime_open(&engine, &options));
    CHECK(strstr(pf_last_error(), "progress_every is -1"));
    options.progress_every = 0;
    options.log_level = (pf_log_level)7;
    CHECK_FAILS(PF_EINVAL, pf_runtime_open(&engine, &options));
    CHECK(strstr(pf_last_error(), "log_level is 7"));
    options.log_level = PF_LOG_WARN;
    const pf_allocator none = {.size = sizeof none}; /* would be the C library's, unsaid */
    options.allocator = &none;
    CHECK_FAILS(PF_EINVAL, pf_runtime_open(&engine, &options));
    CHECK(strstr(pf_last_error(), "allocator: resize is needed"));
    double start = pf_clock();
    CHECK(start > 0 && pf_clock() >= start);
}

static int closed;

/* Things close while the heap that they may lie in is open. */
static void close_thing(pf_engine *engine, void *thing) {
    pf_heap_free(engine->heap, thing, 40);
    closed++;
}

static void test_own(void) {
    pf_engine engine;
    CHECK_OK(pf_runtime_open(&engine, NULL));
    CHECK(!engine.own[PF_OWN_KERNELS].thing);
    void *first = pf_heap_alloc(engine.heap, 40), *second = pf_heap_alloc(engine.heap, 40);
    pf_engine_own(&engine, PF_OWN_KERNELS, first, close_thing);
    CHECK(closed == 0 && engine.own[PF_OWN_KERNELS].thing == first);
    pf_engine_own(&engine, PF_OWN_KERNELS, second, close_thing);
    CHECK(closed == 1 && engine.own[PF_OWN_KERNELS].thing == second);
    pf_engine_own(&engine, PF_OWN_LAYERS, &engine, NULL); /* kept by somebody else */
    pf_runtime_close(&engine);
    CHECK(closed == 2);
}

/* ---- parallel ---- */

typedef struct {
    int *seen;          /* how often each task ran */
    atomic_int threads; /* highest number of threads the BLAS would use inside */
    atomic_int wrong;   /* misaligned or shared scratch */
    atomic_int *cancel;
    int cancel_at;
} probe;

static void probe_task(void *context, int64_t task, void *scratch) {
    probe *p = context;
    /* what OpenBLAS asks: an active region, or the region's own thread count */
    int would = omp_in_parallel() ? 1 : omp_get_max_threads();
    if (would > p->threads) p->threads = would;
    if ((uintptr_t)scratch % PF_ALIGN) p->wrong++;
    int *own = scratch;
    own[0] = (int)task, own[249] = (int)task;
    p->seen[task]++;
    if (own[0] != (int)task || own[249] != (int)task) p->wrong++;
    if (p->cancel && task == p->cancel_at) *p->cancel = 1;
}

static void run_probe(pf_engine *engine, int n) {
    int *seen = calloc((size_t)n + 1, sizeof *seen), wrong = 0;
    probe p = {.seen = seen};
    CHECK_OK(pf_parallel(engine, n, 1000, probe_task, &p));
    for (int i = 0; i < n; i++) wrong += seen[i] != 1;
    CHECK(wrong == 0 && seen[n] == 0);
    CHECK(p.wrong == 0);
    CHECK(p.threads <= 1);
    free(seen);
}

/* [threads.4] */
static void test_parallel(void) {
    static const int counts[] = {0, 1, 2, 3, 17, 1000, 20000};
    for (int threads = 1; threads <= 4; threads++) {
        pf_engine engine;
        pf_options options = PF_OPTIONS_DEFAULT;
        options.threads = threads;
        CHECK_OK(pf_runtime_open(&engine, &options));
        for (int host = 1; host <= 3; host++) {
            omp_set_num_threads(host);
            for (int i = 0; i < PF_COUNT(counts); i++) run_probe(&engine, counts[i]);
            CHECK(omp_get_max_threads() == host);
        }
        pf_runtime_close(&engine);
    }
}

/* Hosts that call from threads of their own region, an engine each. [threads.5] */
static void test_parallel_nested(void) {
    int failures = 0;
    omp_set_num_threads(3);
#pragma omp parallel num_threads(3) reduction(+ : failures)
    {
        int seen[100] = {0}, before = omp_get_max_threads();
        pf_engine engine;
        pf_options options = PF_OPTIONS_DEFAULT;
        options.threads = 2;
        probe p = {.seen = seen};
        failures += pf_runtime_open(&engine, &options) < 0;
        failures += pf_parallel(&engine, 100, 1000, probe_task, &p) < 0;
        for (int i = 0; i < 100; i++) failures += seen[i] != 1;
        failures += p.threads > 1 || p.wrong > 0 || omp_get_max_threads() != before;
        pf_runtime_close(&engine);
    }
    CHECK(failures == 0);
    CHECK(omp_get_max_threads() == 3);
}

static void test_cancel(void) {
    enum { N = 100000 };
    atomic_int cancel = 0;
    pf_engine engine;
    pf_options options = PF_OPTIONS_DEFAULT;
    options.threads = 2;
    options.cancel = &cancel;
    CHECK_OK(pf_runtime_open(&engine, &options));
    int *seen = calloc(N, sizeof *seen), ran = 0;
    probe p = {.seen = seen, .cancel = &cancel, .cancel_at = 10};
    CHECK_OK(pf_check_cancel(&engine));
    CHECK_FAILS(PF_ECANCEL, pf_parallel(&engine, N, 1000, probe_task, &p));
    for (int i = 0; i < N; i++) ran += seen[i];
    CHECK(ran > 0 && ran < N);
    CHECK_FAILS(PF_ECANCEL, pf_check_cancel(&engine));
    CHECK_FAILS(PF_ECANCEL, pf_parallel(&engine, 1, 1000, probe_task, &p));
    cancel = 0;
    p.cancel = NULL;
    CHECK_OK(pf_parallel(&engine, 1, 1000, probe_task, &p));
    free(seen);
    pf_runtime_close(&engine);
}

static void mark_range(void *context, int64_t first, int64_t last) {
    int *seen = context;
    for (int64_t i = first; i < last; i++) seen[i] += first % 100 == 0 ? 1 : 1000;
}

static void test_range_and_scratch(void) {
    host_memory host = {0};
    pf_options options = host_options(&host);
    pf_engine engine;
    int seen[1050] = {0}, wrong = 0;
    options.threads = 2;
    options.memory = 1 << 20;
    CHECK_OK(pf_runtime_open(&engine, &options));
    CHECK_OK(pf_parallel_range(&engine, 1050, 100, mark_range, seen));
    for (int i = 0; i < 1050; i++) wrong += seen[i] != 1;
    CHECK(wrong == 0);
    CHECK_OK(pf_parallel_range(&engine, 0, 100, mark_range, NULL));
    probe p = {.seen = seen};
    CHECK_FAILS(PF_ENOMEM, pf_parallel(&engine, 5, 1 << 20, probe_task, &p));
    CHECK_FAILS(PF_ENOMEM, pf_parallel(&engine, 5, SIZE_MAX - 8, probe_task, &p));
    CHECK_FAILS(PF_ENOMEM, pf_parallel(&engine, 5, SIZE_MAX / 3, probe_task, &p));
    CHECK(seen[0] == 1); /* nothing ran */
    CHECK_OK(pf_parallel(&engine, 5, 1 << 18, probe_task, &p));
    CHECK(p.wrong == 0);
    void *area = engine.scratch, *start = area;
    char *first = pf_carve(&area, 100), *second = pf_carve(&area, 1);
    CHECK(first == start && second == first + 128 && area == second + 64);
    pf_runtime_close(&engine);
    CHECK(host.blocks == 0 && host.wrong == 0);
}

/* Opening and a few loops with the n-th allocation failing, for every n: an error or
 * success, never a leak. [callbacks.2] */
static void test_runtime_failures(void) {
    for (int on = 0; on < 2; on++) {
        bool clean = false;
        for (long n = 1; n < 100 && !clean; n++) {
            host_memory host = {.fail_at = n, .fail_on = on};
            pf_options options = host_options(&host);
            pf_engine engine;
            int seen[10] = {0};
            probe p = {.seen = seen};
            int status = pf_runtime_open(&engine, &options);
            if (status == PF_OK) {
                status = pf_parallel(&engine, 10, 1000, probe_task, &p);
                if (status == PF_OK) status = pf_parallel(&engine, 10, 9000, probe_task, &p);
                pf_runtime_close(&engine);
            }
            CHECK(status == PF_OK || status == PF_ENOMEM);
            CHECK(host.blocks == 0 && host.wrong == 0);
            clean = status == PF_OK && host.calls < n;
        }
        CHECK(clean);
    }
}

int main(void) {
    test_status();
    test_places();
    test_places_cut();
    test_philox();
    test_streams();
    test_distributions();
    test_cpu();
    test_engine();
    test_own();
    test_parallel();
    test_parallel_nested();
    test_cancel();
    test_range_and_scratch();
    test_runtime_failures();
    return CHECK_REPORT();
}
