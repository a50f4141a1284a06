/*
 * savers_test.c - training in slices, recomputed and reversible blocks where memory runs out,
 * where the host cancels, and for any number of threads: the same bits, no half of a gradient,
 * nothing leaked.
 */
#include "host.h"
#include "nn_support.h"

enum { BATCH = 2, LENGTH = 48, SLICES = 3 };

typedef struct {
    const char *saver; /* an option */
    int64_t slices;    /* 0: the whole on a tape */
    int levels;        /* of their states */
} saver;

static pf_module *model_of(pf_engine *e, const saver *s) {
    char text[512];
    snprintf(text, sizeof text,
             "{'vocab': 11, 'dim': 8, 'layers': 2, 'heads': 2, 'causal': true, 'conv': 3, "
             "'dropout': 0.2, 'decay': 1, 'ngrams': {'longest': 3, 'buckets': 16}, "
             "'kernel': {'name': 'softmax', 'features': 8}, '%s': true}",
             s->saver);
    return layer_of(e, "performer", text);
}

/* A host that raises its cancel flag at one of the engine's calls to its allocator. */
typedef struct {
    host_memory memory;
    long calls, cancel_at; /* cancel_at: < 0: never */
    atomic_int cancel;
} moody_host;

static void *moody_resize(void *context, void *block, size_t old_bytes, size_t bytes) {
    moody_host *h = context;
    if (h->cancel_at >= 0 && h->calls++ == h->cancel_at) atomic_store(&h->cancel, 1);
    return host_resize(&h->memory, block, old_bytes, bytes);
}

static int step(pf_engine *e, pf_module *m, pf_tensor *ids, const saver *s, double *loss) {
    pf_pass pass = {.size = sizeof pass, .training = true, .step = 16};
    if (s->slices > 0) {
        const pf_slicing how = {.size = sizeof how, .slices = s->slices, .levels = s->levels};
        return pf_module_backward_sliced(loss, e, m, ids, ids, &pass, &how);
    }
    pf_tape *tape = NULL;
    pf_tensor *y = NULL, *total = NULL;
    PF_TRY(pf_tape_open(&tape, e));
    int status = pf_module_forward(&y, e, m, ids, &pass);
    if (status >= 0) status = pf_cross_entropy(&total, e, y, ids);
    if (status >= 0) status = pf_tensor_get(total, 0, loss);
    if (status >= 0) status = pf_tape_backward(tape, total, NULL);
    pf_tensor_release(&total);
    pf_tensor_release(&y);
    pf_tape_close(&tape);
    return status;
}

static int count_grads(const pf_module *m, bool drop) {
    int n = 0;
    for (int i = 0; i < pf_module_tensor_count(m); i++) {
        pf_tensor *t = NULL;
        CHECK_OK(pf_module_tensor_at(m, i, NULL, &t, NULL));
        n += t->grad && !t->grad_stale;
        if (drop) pf_tensor_release(&t->grad), pf_tensor_release(&t->grad_rows);
    }
    return n;
}

static int count_trained(const pf_module *m) {
    int n = 0;
    bool trained = false;
    for (int i = 0; i < pf_module_tensor_count(m); i++) {
        if (pf_module_tensor_at(m, i, NULL, NULL, &trained) >= 0) n += trained;
    }
    return n;
}

/* Scratch and cached blocks, so that every allocation asks the host. */
static void drop_spare(pf_engine *e) {
    pf_heap_free(e->heap, e->scratch, e->scratch_bytes * (size_t)e->threads);
    e->scratch = NULL;
    e->scratch_bytes = 0;
    pf_heap_trim(e->heap);
}

static void test_allocation_failures(const saver *s) {
    host_memory h = {0};
    pf_engine *e = NULL;
    pf_options o = host_options(&h);
    o.threads = 2;
    CHECK_OK(pf_engine_open(&e, &o));
    pf_module *m = model_of(e, s);
    pf_tensor *ids = some_ids(e, BATCH, LENGTH, 1);
    count_trained(m); /* the list of tensors is made at the first asking */
    drop_spare(e);
    size_t live = pf_heap_live(e->heap);
    int status = PF_ENOMEM;
    long refusals = 0;
    bool good = true;
    double loss;
    for (; status < 0 && refusals < 5000 && good; refusals++) {
        h.calls = 0;
        h.fail_at = refusals + 1;
        h.fail_on = 1;
        status = step(e, m, ids, s, &loss);
        h.fail_at = 0;
        good = (status == PF_OK || status == PF_ENOMEM) && e->tape == NULL;
        good = good && count_grads(m, true) == (status == PF_OK ? count_trained(m) : 0);
        drop_spare(e);
        good = good && pf_heap_live(e->heap) == live;
    }
    CHECK(good && status == PF_OK && refusals > 100);
    pf_tensor_release(&ids);
    pf_module_release(&m);
    pf_engine_close(&e);
    CHECK(h.blocks == 0 && h.bytes == 0 && h.wrong == 0);
}

static void test_cancel(const saver *s) {
    bool good = true;
    int stopped = 0;
    for (long at = 0; at < 4000 && good; at += 37) {
        moody_host h = {.cancel_at = -1};
        pf_engine *e = NULL;
        pf_options o = PF_OPTIONS_DEFAULT;
        o.threads = 1;
        o.cancel = &h.cancel;
        o.allocator = &(pf_allocator){sizeof(pf_allocator), moody_resize, &h};
        CHECK_OK(pf_engine_open(&e, &o));
        pf_module *m = model_of(e, s);
        pf_tensor *ids = some_ids(e, BATCH, LENGTH, 1);
        double loss;
        pf_heap_trim(e->heap);
        h.cancel_at = at;
        int status = step(e, m, ids, s, &loss);
        stopped += status == PF_ECANCEL;
        good = (status == PF_OK || status == PF_ECANCEL) && e->tape == NULL;
        good = good && count_grads(m, true) == (status == PF_OK ? count_trained(m) : 0);
        pf_tensor_release(&ids);
        pf_module_release(&m);
        pf_engine_close(&e);
        good = good && h.memory.blocks == 0 && h.memory.wrong == 0;
        if (h.calls <= at) break; /* the step is over before */
    }
    CHECK(good && stopped > 3);
}

static void test_equal_bits(const saver *s) {
    static float first[4096], other[4096];
    double loss = 0, again = 0;
    for (int threads = 1; threads <= 4; threads++) {
        pf_engine *e = engine_of(threads, 3);
        pf_module *m = model_of(e, s);
        pf_tensor *ids = some_ids(e, BATCH, LENGTH, 1);
        CHECK_OK(step(e, m, ids, s, threads == 1 ? &loss : &again));
        int64_t n = 0;
        for (int i = 0; i < pf_module_tensor_count(m); i++) {
            pf_tensor *t = NULL;
            CHECK_OK(pf_module_tensor_at(m, i, NULL, &t, NULL));
            if (!t->grad) continue;
            int64_t size = pf_tensor_numel(t->grad);
            if (n + size > PF_COUNT(first)) break;
            CHECK_OK(pf_tensor_read(t->grad, (threads == 1 ? first : other) + n,
                                    (size_t)size * sizeof(float)));
            n += size;
        }
        CHECK(n > 1000 && (threads == 1 || memcmp(first, other, (size_t)n * sizeof(float)) == 0));
        CHECK(threads == 1 || loss == again);
        pf_tensor_release(&ids);
        pf_module_release(&m);
        pf_engine_close(&e);
    }
}

/* Evaluation in slices where memory runs out: nothing is recorded, nothing leaked, no half of a
 * result. */
static void test_evaluation_failures(void) {
    static const saver none = {"tied", 0, 0};
    host_memory h = {0};
    pf_engine *e = NULL;
    pf_options o = host_options(&h);
    CHECK_OK(pf_engine_open(&e, &o));
    pf_module *m = model_of(e, &none);
    pf_tensor *ids = some_ids(e, BATCH, LENGTH, 1);
    drop_spare(e);
    size_t live = pf_heap_live(e->heap);
    pf_evaluation result = {.size = sizeof result};
    int status = PF_ENOMEM;
    long refusals = 0;
    bool good = true;
    for (; status < 0 && refusals < 5000 && good; refusals++) {
        h.calls = 0;
        h.fail_at = refusals + 1;
        h.fail_on = 1;
        status = pf_module_evaluate(&result, e, m, ids, ids, NULL, LENGTH / SLICES);
        h.fail_at = 0;
        good = status == PF_OK || (status == PF_ENOMEM && result.tokens == 0);
        drop_spare(e);
        good = good && e->tape == NULL && pf_heap_live(e->heap) == live;
    }
    CHECK(good && status == PF_OK && refusals > 100 && result.tokens == BATCH * LENGTH);
    pf_tensor_release(&ids);
    pf_module_release(&m);
    pf_engine_close(&e);
    CHECK(h.blocks == 0 && h.bytes == 0 && h.wrong == 0);
}

static int twice(void *context, pf_engine *e, int64_t i, pf_tensor *x, pf_tensor *const *beside,
                 pf_tensor **y) {
    (void)context, (void)i, (void)beside;
    return pf_affine(y, e, x, 2, 0);
}

/* One branch: a = x1 + 2 x2, b = x2. A loss of b alone leaves x1 without a gradient's worth. */
static void test_unused_half(void) {
    pf_engine *e = engine_of(1, 3);
    pf_tensor *x[2] = {NULL}, *a = NULL, *b = NULL, *seed = NULL;
    int64_t n = 3;
    double g;
    for (int k = 0; k < 2; k++) {
        CHECK_OK(pf_tensor_make_lasting(&x[k], e->heap, PF_F32, 1, &n));
        CHECK_OK(pf_tensor_fill(x[k], k + 1));
        CHECK_OK(pf_tensor_require_grad(x[k], true));
    }
    CHECK_OK(pf_tensor_make_lasting(&seed, e->heap, PF_F32, 1, &n));
    CHECK_OK(pf_tensor_fill(seed, 5));
    pf_tape *tape = NULL;
    CHECK_OK(pf_tape_open(&tape, e));
    const pf_branches branches = {.run = twice, .n = 1};
    CHECK_OK(pf_reversible(&a, &b, e, &branches, x[0], x[1]));
    CHECK_OK(pf_tape_backward(tape, b, seed));
    for (int k = 0; k < 2; k++) {
        CHECK(x[k]->grad && pf_tensor_get(x[k]->grad, 0, &g) >= 0 && g == (k ? 5 : 0));
    }
    pf_tensor_release(&a), pf_tensor_release(&b);
    pf_tape_close(&tape);
    pf_tensor_release(&x[0]), pf_tensor_release(&x[1]), pf_tensor_release(&seed);
    pf_engine_close(&e);
}

int main(void) {
    static const saver savers[] = {{"recompute", 0, 0},
                                   {"reversible", 0, 0},
                                   {"recompute", SLICES, 1},
                                   {"reversible", SLICES, 2}};
    for (int i = 0; i < PF_COUNT(savers); i++) {
        test_allocation_failures(&savers[i]);
        test_cancel(&savers[i]);
        test_equal_bits(&savers[i]);
    }
    test_evaluation_failures();
    test_unused_half();
    return CHECK_REPORT();
}
