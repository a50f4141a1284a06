/*
 * wrap_test.c - the host's memory as a tensor: no copy is made, writes are seen on both sides, it
 * is given back once, by whoever lets go of it last, on whatever thread and after the engine; what
 * is only read is refused in words wherever it would be written to; an address that is aligned to
 * its elements alone gives the bits of any other.
 * In LIVING_IN_A_HOST.md: [lifetimes.6].
 */
#include <pthread.h>

#include "autograd_support.h"
#include "nn_support.h"
#include "scarce.h"

enum { N = 6, M = 5 };

static void count(void *context) { ++*(int *)context; }

static pf_tensor *wrapped(pf_engine *e, float *data, int *released) {
    pf_tensor *t = NULL;
    CHECK_OK(pf_tensor_wrap(&t, e, PF_F32, 2, (int64_t[]){N, M}, data, count, released));
    return t;
}

static pf_tensor *only_read(pf_engine *e, const float *data, int *released) {
    pf_tensor *t = NULL;
    CHECK_OK(pf_tensor_wrap_const(&t, e, PF_F32, 2, (int64_t[]){N, M}, data, count, released));
    return t;
}

static void fill_with(float *data, int64_t n, float from) {
    for (int64_t i = 0; i < n; i++) data[i] = from + 0.25f * (float)(i % 11);
}

/* ---- no copy ---- */

static void test_both_sides(pf_engine *e) {
    float data[N * M];
    int released = 0;
    double got = 0;
    fill_with(data, N * M, 1);
    size_t live = live_bytes(e);
    pf_tensor *t = wrapped(e, data, &released), *y = NULL;
    CHECK(live_bytes(e) - live < 1024 && pf_tensor_data(t) == data && !pf_tensor_read_only(t));
    data[7] = 42;
    CHECK_OK(pf_tensor_get(t, 7, &got));
    CHECK(got == 42);
    CHECK_OK(pf_tensor_set(t, 8, -3));
    CHECK(data[8] == -3);
    CHECK_OK(pf_tensor_fill(t, 2));
    CHECK(data[0] == 2 && data[N * M - 1] == 2);
    CHECK_OK(pf_affine(&y, e, t, 3, 0));
    CHECK(pf_f32(y)[5] == 6 && data[5] == 2);
    pf_tensor_release(&y);
    CHECK(released == 0);
    pf_tensor_release(&t);
    CHECK(released == 1 && live_bytes(e) == live);
}

/* Nobody is told: then the host knows by itself. A failed call gives nothing back. */
static void test_not_released(pf_engine *e) {
    float data[N * M + 1] = {0};
    int released = 0;
    pf_tensor *t = NULL;
    const int64_t shape[] = {N, M}, bad[] = {N, -1};
    CHECK_OK(pf_tensor_wrap(&t, e, PF_F32, 2, shape, data, NULL, NULL));
    pf_tensor_release(&t);
    char *odd = (char *)data + 2;
    CHECK_FAILS(PF_EINVAL, pf_tensor_wrap(&t, e, PF_F32, 2, shape, odd, count, &released));
    CHECK(strstr(pf_last_error(), "multiple of 4"));
    CHECK_FAILS(PF_ESHAPE, pf_tensor_wrap(&t, e, PF_F32, 2, bad, data, count, &released));
    CHECK_FAILS(PF_EINVAL, pf_tensor_wrap(&t, e, PF_F32, 2, shape, NULL, count, &released));
    CHECK(!t && released == 0);
    CHECK_OK(pf_tensor_wrap(&t, e, PF_I32, 1, (int64_t[]){0}, data, count, &released));
    pf_tensor_release(&t);
    CHECK(released == 1);
}

static void test_scarce(void) {
    scarce s = {0};
    float data[N * M];
    pf_engine *e = scarce_engine(&s);
    for (int64_t at = 0; at < 2; at++) {
        int released = 0;
        pf_tensor *t = NULL;
        scarce_begins(&s, at);
        CHECK_FAILS(PF_ENOMEM,
                    pf_tensor_wrap(&t, e, PF_F32, 2, (int64_t[]){N, M}, data, count, &released));
        scarce_ends(&s);
        CHECK(!t && released == 0);
    }
    pf_engine_close(&e);
    CHECK(s.live == 0);
}

/* ---- whoever lets go last ---- */

static void *let_go(void *tensor) {
    pf_tensor *t = tensor;
    pf_tensor_release(&t);
    return NULL;
}

static void test_last_reference(void) {
    float data[N * M];
    int released = 0;
    fill_with(data, N * M, 0);
    pf_engine *e = engine_of(1, 1);
    pf_tensor *t = wrapped(e, data, &released), *view = NULL, *held = pf_tensor_retain(t);
    CHECK_OK(pf_slice(&view, e, t, 0, 2, 4));
    CHECK(pf_tensor_data(view) == data + 2 * M);
    pf_tensor_release(&t), pf_tensor_release(&held);
    CHECK(released == 0);
    pf_engine_close(&e);
    CHECK(released == 0 && pf_f32(view)[0] == data[2 * M]);
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, let_go, view) == 0);
    pthread_join(thread, NULL);
    CHECK(released == 1);
}

/* A tape keeps it while backward needs it, and never owns it. */
static void test_tape(pf_engine *e) {
    float data[N * M];
    int released = 0;
    fill_with(data, N * M, 1);
    pf_tape *tape = NULL;
    CHECK_OK(pf_tape_open(&tape, e));
    pf_tensor *t = wrapped(e, data, &released), *y = NULL, *loss = NULL;
    CHECK_OK(pf_tensor_require_grad(t, true));
    CHECK_OK(call_one(&y, e, &pf_op_square, t));
    CHECK_OK(sum_all(&loss, e, y));
    CHECK_OK(pf_tape_backward(tape, loss, NULL));
    CHECK(t->grad && pf_f32(t->grad)[3] == 2 * data[3]);
    pf_tensor_release(&y), pf_tensor_release(&loss);
    pf_tape_close(&tape);
    CHECK(pf_tensor_alive(t) && released == 0);
    pf_tensor_release(&t);
    CHECK(released == 1);
}

/* A gradient of the host's is not written over, though backward alone holds it. */
static void test_seed(pf_engine *e) {
    float seed[N * M], before[N * M];
    int released = 0;
    fill_with(seed, N * M, 1);
    memcpy(before, seed, sizeof before);
    pf_tensor *x = leaf(e, 2, (int64_t[]){N, M}, 1), *w = leaf(e, 1, (int64_t[]){M}, 2);
    pf_tensor *g = wrapped(e, seed, &released), *y = NULL, *sum = NULL;
    pf_tape *tape = NULL;
    CHECK_OK(pf_tape_open(&tape, e));
    CHECK_OK(pf_add_rmsnorm(&sum, &y, e, x, x, w, 1e-6));
    CHECK_OK(pf_tape_backward(tape, sum, g));
    pf_tensor_release(&g), pf_tensor_release(&sum), pf_tensor_release(&y);
    pf_tape_close(&tape);
    CHECK(memcmp(seed, before, sizeof seed) == 0);
    pf_tensor_release(&x), pf_tensor_release(&w);
    CHECK(released == 1);
}

/* ---- only read ---- */

static bool refused(int status) {
    return status == PF_ESTATE && strstr(pf_last_error(), "only read") != NULL;
}

/* A constant lies where nobody may write: a write that is not refused would be the end. */
static void test_read_only(pf_engine *e) {
    static const float data[N * M] = {1, 1.5f, [M] = 2};
    float row[M] = {0};
    int released = 0;
    pf_tensor *t = only_read(e, data, &released), *view = NULL, *other = NULL;
    CHECK(pf_tensor_read_only(t) && pf_tensor_data(t) == data && !pf_tensor_read_only(NULL));
    CHECK_OK(pf_slice(&view, e, t, 0, 0, 1));
    CHECK(pf_tensor_read_only(view));
    CHECK_OK(pf_tensor_detach(&other, e, t));
    CHECK(!pf_tensor_read_only(other) && memcmp(pf_f32(other), data, sizeof data) == 0);
    CHECK(refused(pf_tensor_set(t, 0, 1)) && refused(pf_tensor_fill(t, 1)));
    CHECK(refused(pf_tensor_write(view, row, sizeof row)));
    CHECK(refused(pf_tensor_copy(t, other)) && refused(pf_tensor_set_row(t, 0, view)));
    CHECK_OK(pf_tensor_copy(other, t));
    pf_tensor_release(&t), pf_tensor_release(&other);
    CHECK(released == 0);
    pf_tensor_release(&view);
    CHECK(released == 1);
}

static int never(void *context, pf_engine *e, pf_tensor *x, const pf_pass *pass, pf_tensor **y) {
    (void)context, (void)pass;
    return pf_affine(y, e, x, 1, 0);
}

/* An optimizer trains what it may write to; the rest may be frozen. */
static void test_optimizer(pf_engine *e) {
    const pf_host_layer layer = {.size = sizeof layer, .forward = never};
    float data[N * M] = {0};
    int released = 0;
    pf_module *m = NULL;
    pf_optimizer *o = NULL;
    pf_tensor *t = only_read(e, data, &released), *own = NULL;
    CHECK_OK(pf_tensor_full(&own, e, PF_F32, 1, (int64_t[]){M}, 1));
    CHECK_OK(pf_module_host(&m, e, "mine", &layer, NULL, 0));
    CHECK_OK(pf_module_add_tensor(m, "table", t, true));
    CHECK_OK(pf_module_add_tensor(m, "scale", own, true));
    CHECK(refused(pf_optimizer_new(&o, e, m, NULL)) && strstr(pf_last_error(), "'table'"));
    CHECK_OK(pf_module_freeze(m, "table", true));
    CHECK_OK(pf_optimizer_new(&o, e, m, NULL));
    pf_optimizer_close(&o);
    pf_module_release(&m);
    pf_tensor_release(&t), pf_tensor_release(&own);
    CHECK(released == 1);
}

/* ---- alignment ---- */

/* The bits of a product do not depend on where its inputs begin. */
static void test_alignment(void) {
    enum { ROWS = 37, WIDTH = 29 };
    static float a[ROWS * WIDTH + 32], b[ROWS * WIDTH + 32];
    for (pf_cpu cpu = PF_CPU_GENERIC; cpu <= PF_CPU_AVX512; cpu++) {
        pf_options options = PF_OPTIONS_DEFAULT;
        pf_engine *e = NULL;
        float first[ROWS * ROWS];
        options.cpu = cpu, options.threads = 2;
        if (pf_engine_open(&e, &options) < 0) continue; /* not on this machine */
        for (int shift = 0; shift < 17; shift += shift ? 5 : 1) {
            pf_tensor *x = NULL, *w = NULL, *y = NULL;
            const int64_t shape[] = {ROWS, WIDTH};
            fill_with(a + shift, ROWS * WIDTH, -1), fill_with(b + shift, ROWS * WIDTH, 0.1f);
            CHECK_OK(pf_tensor_wrap(&x, e, PF_F32, 2, shape, a + shift, NULL, NULL));
            CHECK_OK(pf_tensor_wrap_const(&w, e, PF_F32, 2, shape, b + shift, NULL, NULL));
            CHECK_OK(pf_linear(&y, e, x, w, NULL));
            if (shift == 0) memcpy(first, pf_f32(y), sizeof first);
            CHECK(memcmp(first, pf_f32(y), sizeof first) == 0);
            pf_tensor_release(&x), pf_tensor_release(&w), pf_tensor_release(&y);
        }
        pf_engine_close(&e);
    }
}

int main(void) {
    pf_engine *e = engine_of(2, 11);
    test_both_sides(e);
    test_not_released(e);
    test_scarce();
    test_last_reference();
    test_tape(e);
    test_seed(e);
    test_read_only(e);
    test_optimizer(e);
    test_alignment();
    pf_engine_close(&e);
    return CHECK_REPORT();
}
