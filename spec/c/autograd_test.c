/*
 * autograd_test.c - the tape: lifetimes, aliasing, accumulation, nesting, failures in the
 * middle, failing allocations, equal bits, steady state.
 */
#include "autograd_support.h"

/* ---- rows of our own, right and wrong ---- */

/* Writes half of a gradient, then fails. */
static int failing_backward(pf_call *c) {
    bool fresh;
    pf_tensor *dx;
    PF_TRY(pf_grad_fresh(c, 0, &fresh, &dx));
    return pf_fail(PF_ENUMERIC, "broke off");
}

static int greedy_backward(pf_call *c) {
    pf_tensor *t;
    return pf_grad_slot(c, 1, &t);
}

/* Asks for both slots before it writes either, as an op that fills both in one loop does. */
static int both_backward(pf_call *c) {
    bool fresh[2];
    pf_tensor *grad[2];
    double dy;
    for (int k = 1; k >= 0; k--) PF_TRY(pf_grad_fresh(c, k, &fresh[k], &grad[k]));
    for (int64_t i = 0; i < pf_tensor_numel(c->dout[0]); i++) {
        PF_TRY(pf_tensor_get(c->dout[0], i, &dy));
        for (int k = 0; k < 2; k++) {
            float *g = &pf_f32(grad[k])[i];
            *g = (fresh[k] ? 0 : *g) + (float)dy;
        }
    }
    return PF_OK;
}

static const pf_op both_op = {.name = "both",
                              .args = "a, b",
                              .min_in = 2,
                              .max_in = 2,
                              .n_out = 1,
                              .shape = same_shape,
                              .forward = double_forward,
                              .backward = both_backward};
static const pf_op failing_op = {.name = "failing",
                                 .args = "x",
                                 .min_in = 1,
                                 .max_in = 1,
                                 .n_out = 1,
                                 .shape = same_shape,
                                 .forward = double_forward,
                                 .backward = failing_backward};
static const pf_op greedy_op = {.name = "greedy",
                                .args = "x, y",
                                .min_in = 2,
                                .max_in = 2,
                                .n_out = 1,
                                .shape = same_shape,
                                .forward = double_forward,
                                .backward = greedy_backward};

/* ---- lifetimes ---- */

static void test_lifetime(void) {
    pf_engine e;
    open_engine(&e, 1, NULL);
    pf_tensor *w = vector(&e, 6, 1), *y, *view, *z = NULL, *loss;
    pf_tape *tape;
    CHECK_OK(pf_tape_open(&tape, &e));
    CHECK_OK(call_one(&y, &e, &pf_op_exp, w));
    CHECK_OK(pf_reshape(&view, &e, w, 2, (const int64_t[]){2, 3}));
    CHECK(pf_in_graph(&e, y) && pf_in_graph(&e, view) && pf_in_graph(&e, w));
    pf_tape *paused = pf_tape_pause(&e);
    CHECK(!pf_in_graph(&e, y));
    pf_tape_resume(paused);
    CHECK_FAILS(PF_ESTATE, pf_tensor_require_grad(y, true));
    pf_tape *address = tape;
    pf_tape_close(&tape);
    pf_tape_close(&tape);
    CHECK(tape == NULL && !pf_tensor_alive(y) && pf_tensor_alive(view));
    CHECK_FAILS(PF_ESTATE, call_one(&z, &e, &pf_op_exp, y));
    CHECK(z == NULL);
    /* A new tape, very likely at the old address: the old view is no part of it. */
    CHECK_OK(pf_tape_open(&tape, &e));
    CHECK(tape == address);
    CHECK(!pf_in_graph(&e, view));
    CHECK_OK(sum_all(&loss, &e, view));
    CHECK_FAILS(PF_EINVAL, pf_tape_backward(tape, loss, NULL));
    pf_tensor_release(&loss);
    CHECK_OK(sum_all(&loss, &e, w));
    CHECK_OK(pf_tape_backward(tape, loss, NULL));
    CHECK_FAILS(PF_ESTATE, pf_tape_backward(tape, loss, NULL));
    CHECK(!pf_in_graph(&e, w));
    pf_tape_close(&tape);
    pf_tensor_release(&loss);
    pf_tensor_release(&view);
    pf_tensor_release(&y);
    pf_tensor_release(&w);
    pf_runtime_close(&e);
}

static void test_refusals(void) {
    pf_engine e;
    open_engine(&e, 1, NULL);
    pf_tensor *w = vector(&e, 3, 1), *y, *ids;
    int64_t three = 3, four = 4;
    CHECK_OK(pf_tensor_make_lasting(&ids, e.heap, PF_I32, 1, &three));
    CHECK_FAILS(PF_EDTYPE, pf_tensor_require_grad(ids, true));
    pf_tape *tape;
    CHECK_OK(pf_tape_open(&tape, &e));
    CHECK_OK(call_one(&y, &e, &pf_op_exp, w));
    CHECK_FAILS(PF_ESHAPE, pf_tape_backward(tape, y, NULL));
    CHECK_FAILS(PF_EINVAL, pf_tape_backward(tape, w, NULL));
    pf_tensor *seed;
    CHECK_OK(pf_tensor_make(&seed, &e, PF_F32, 1, &four));
    CHECK_FAILS(PF_ESHAPE, pf_tape_backward(tape, y, seed));
    CHECK_FAILS(PF_EINVAL, pf_tape_backward(tape, NULL, NULL));
    pf_tape *inner;
    CHECK_OK(pf_tape_open(&inner, &e));
    CHECK_FAILS(PF_ESTATE, pf_tape_backward(tape, y, seed));
    pf_tape_close(&inner);
    pf_tape_abandon(&e);
    CHECK_FAILS(PF_ESTATE, pf_tape_backward(tape, y, seed));
    pf_tape_close(&tape);
    pf_tensor_release(&seed);
    pf_tensor_release(&y);
    pf_tensor_release(&ids);
    pf_tensor_release(&w);
    pf_runtime_close(&e);
}

/* ---- one tensor used twice, gradients given without a copy ---- */

static double zero(double x) { return 0 * x; }
static double two_x(double x) { return 2 * x; }
static double two(double x) { return 2 + 0 * x; }
static double two_x_plus_one(double x) { return 2 * x + 1; }

static void twice(pf_engine *e, const pf_op *op, double (*expected)(double)) {
    pf_tensor *x = vector(e, 700, 1), *y = NULL, *in[2] = {x, x};
    pf_tape *tape;
    size_t live = pf_heap_live(e->heap);
    CHECK_OK(pf_tape_open(&tape, e));
    CHECK_OK(pf_apply(e, op, in, 2, NULL, &y));
    CHECK_OK(then(&y, e, &pf_op_sum));
    CHECK_OK(pf_tape_backward(tape, y, NULL));
    pf_tape_close(&tape);
    CHECK(grad_is(e, x, expected));
    pf_tensor_release(&y);
    pf_tensor_require_grad(x, false);
    CHECK(pf_heap_live(e->heap) == live);
    pf_tensor_release(&x);
}

/* The same with the doubled tensor in the middle of the graph. */
static void twice_inside(pf_engine *e, const pf_op *op, double (*expected)(double)) {
    pf_tensor *x = vector(e, 700, 1), *m = NULL, *y = NULL;
    pf_tape *tape;
    size_t live = pf_heap_live(e->heap);
    CHECK_OK(pf_tape_open(&tape, e));
    CHECK_OK(pf_affine(&m, e, x, 1, 0));
    pf_tensor *in[2] = {m, m};
    CHECK_OK(pf_apply(e, op, in, 2, NULL, &y));
    CHECK_OK(then(&y, e, &pf_op_sum));
    CHECK_OK(pf_tape_backward(tape, y, NULL));
    pf_tape_close(&tape);
    CHECK(grad_is(e, x, expected));
    pf_tensor_release(&m);
    pf_tensor_release(&y);
    pf_tensor_require_grad(x, false);
    CHECK(pf_heap_live(e->heap) == live);
    pf_tensor_release(&x);
}

static void test_twice(void) {
    pf_engine e;
    open_engine(&e, 2, NULL);
    twice(&e, &pf_op_mul, two_x);
    twice(&e, &pf_op_add, two);
    twice(&e, &pf_op_sub, zero);
    twice_inside(&e, &pf_op_mul, two_x);
    twice_inside(&e, &pf_op_add, two);
    twice_inside(&e, &pf_op_sub, zero);
    twice(&e, &both_op, two);
    twice_inside(&e, &both_op, two);
    /* m feeds a residual: add gives one tensor to both sides, mul adds to it later. */
    pf_tensor *x = vector(&e, 9, 1), *m, *s, *y;
    pf_tape *tape;
    CHECK_OK(pf_tape_open(&tape, &e));
    CHECK_OK(pf_affine(&m, &e, x, 1, 0));
    CHECK_OK(call_two(&s, &e, &pf_op_mul, m, m));
    CHECK_OK(pf_add(&y, &e, m, s));
    CHECK_OK(then(&y, &e, &pf_op_sum));
    CHECK_OK(pf_tape_backward(tape, y, NULL));
    pf_tape_close(&tape);
    CHECK(grad_is(&e, x, two_x_plus_one));
    pf_tensor *all[4] = {x, m, s, y};
    for (int i = 0; i < 4; i++) pf_tensor_release(&all[i]);
    pf_runtime_close(&e);
}

/* One seed for two leaves: nobody's numbers are another's. */
static void test_seed_is_not_shared(void) {
    pf_engine e;
    open_engine(&e, 1, NULL);
    pf_tensor *a = vector(&e, 4, 1), *b = vector(&e, 4, 2), *y, *seed = vector(&e, 4, 3);
    pf_tensor_require_grad(seed, false);
    float before[4];
    pf_tensor_read(seed, before, sizeof before);
    pf_tape *tape;
    CHECK_OK(pf_tape_open(&tape, &e));
    pf_tensor *c, *d;
    CHECK_OK(pf_affine(&c, &e, a, 1, 0));
    CHECK_OK(pf_add(&d, &e, c, b)); /* gives the seed to c and b ... */
    CHECK_OK(pf_add(&y, &e, d, c)); /* ... and to d and c */
    CHECK_OK(pf_tape_backward(tape, y, seed));
    pf_tape_close(&tape);
    bool good = true;
    for (int i = 0; i < 4; i++)
        good = good && pf_f32(seed)[i] == before[i] && pf_f32(b->grad)[i] == before[i] &&
               pf_f32(a->grad)[i] == 2 * before[i];
    CHECK(good);
    CHECK(a->grad->storage != b->grad->storage && b->grad->storage != seed->storage);
    CHECK(a->grad->storage->tape == NULL && pf_tensor_alive(b->grad));
    pf_tensor *all[6] = {a, b, c, d, y, seed};
    for (int i = 0; i < 6; i++) pf_tensor_release(&all[i]);
    pf_runtime_close(&e);
}

/* ---- gradients of leaves add up ---- */

static void backward_of(pf_engine *e, pf_tensor *x, const pf_op *op) {
    pf_tensor *y;
    pf_tape *tape;
    CHECK_OK(pf_tape_open(&tape, e));
    CHECK_OK(call_one(&y, e, op, x));
    CHECK_OK(then(&y, e, &pf_op_sum));
    CHECK_OK(pf_tape_backward(tape, y, NULL));
    pf_tape_close(&tape);
    pf_tensor_release(&y);
}

static double minus_one(double x) { return -1 + 0 * x; }
static double two_x_minus_one(double x) { return 2 * x - 1; }

static void test_accumulation(void) {
    pf_engine e;
    open_engine(&e, 1, NULL);
    pf_tensor *x = vector(&e, 50, 1), *held;
    CHECK(!has_grad(&e, x));
    backward_of(&e, x, &pf_op_square);
    CHECK(grad_is(&e, x, two_x));
    CHECK_OK(pf_tensor_grad(&held, &e, x));
    backward_of(&e, x, &pf_op_neg);
    CHECK(grad_is(&e, x, two_x_minus_one));
    CHECK(fabsf(pf_f32(held)[7] - 2 * pf_f32(x)[7]) < 1e-6f); /* held before: unchanged */
    pf_tensor_release(&held);
    pf_tensor_clear_grad(x);
    CHECK(!has_grad(&e, x));
    pf_tensor *storage = x->grad;
    backward_of(&e, x, &pf_op_neg);
    CHECK(grad_is(&e, x, minus_one) && x->grad == storage); /* overwritten in place */
    CHECK_OK(pf_tensor_require_grad(x, false));
    CHECK(!has_grad(&e, x));
    pf_tensor_release(&x);
    pf_runtime_close(&e);
}

static void test_nesting(void) {
    pf_engine e;
    open_engine(&e, 1, NULL);
    pf_tensor *x = vector(&e, 8, 1), *y, *z, *loss;
    pf_tape *outer, *inner;
    size_t live = pf_heap_live(e.heap);
    CHECK_OK(pf_tape_open(&outer, &e));
    CHECK_OK(call_one(&y, &e, &pf_op_square, x));
    CHECK_OK(pf_tape_open(&inner, &e));
    CHECK(!pf_in_graph(&e, y) && pf_in_graph(&e, x)); /* y is a constant in there */
    CHECK_OK(call_one(&z, &e, &pf_op_neg, x));
    CHECK_OK(sum_all(&loss, &e, z));
    CHECK_OK(pf_tape_backward(inner, loss, NULL));
    pf_tensor_release(&loss);
    pf_tape_close(&inner);
    CHECK(!pf_tensor_alive(z) && pf_tensor_alive(y) && grad_is(&e, x, minus_one));
    pf_tensor_release(&z);
    CHECK_OK(sum_all(&loss, &e, y));
    CHECK_OK(pf_tape_backward(outer, loss, NULL));
    CHECK(grad_is(&e, x, two_x_minus_one));
    /* Out of order: the outer tape closes first. */
    CHECK_OK(pf_tape_open(&inner, &e));
    pf_tape_close(&outer);
    CHECK(e.tape == inner && !pf_tensor_alive(y));
    pf_tensor_release(&loss);
    CHECK_OK(sum_all(&loss, &e, x));
    CHECK_OK(pf_tape_backward(inner, loss, NULL));
    pf_tape_close(&inner);
    CHECK(e.tape == NULL);
    pf_tensor_release(&loss);
    pf_tensor_release(&y);
    CHECK_OK(pf_tensor_require_grad(x, false));
    CHECK(pf_heap_live(e.heap) == live);
    pf_tensor_release(&x);
    pf_runtime_close(&e);
}

/* ---- failures ---- */

static void fail_through(const pf_op *op, int n_in, int status) {
    pf_engine e;
    open_engine(&e, 1, NULL);
    pf_tensor *x = vector(&e, 8, 1), *k = vector(&e, 8, 2), *m, *y = NULL;
    pf_tensor_require_grad(k, false);
    backward_of(&e, x, &pf_op_square); /* a gradient stands already */
    size_t live = pf_heap_live(e.heap);
    pf_tape *tape;
    CHECK_OK(pf_tape_open(&tape, &e));
    CHECK_OK(call_one(&m, &e, &pf_op_exp, x));
    pf_tensor *in[2] = {x, k};
    CHECK_OK(pf_apply(&e, op, in, n_in, NULL, &y));
    pf_tensor *s;
    CHECK_OK(call_two(&s, &e, &pf_op_mul, m, y));
    CHECK_OK(then(&s, &e, &pf_op_sum));
    CHECK_FAILS(status, pf_tape_backward(tape, s, NULL));
    CHECK(strstr(pf_last_error(), op->name) != NULL);
    CHECK(!has_grad(&e, x)); /* a sum that broke off is no gradient */
    pf_tape_close(&tape);
    pf_tensor_release(&m);
    pf_tensor_release(&y);
    pf_tensor_release(&s);
    CHECK(pf_heap_live(e.heap) == live);
    pf_tensor_release(&x);
    pf_tensor_release(&k);
    pf_runtime_close(&e);
}

/* A small net: embedding, layernorm, linear, gelu, dropout, residual, cross-entropy. */
enum { NET_LEAVES = 5 };

typedef struct {
    pf_tensor *leaf[NET_LEAVES]; /* table, norm weight, norm bias, weight, bias */
    pf_tensor *ids, *target;
} net;

static int net_make(net *m, pf_engine *e, int64_t rows, int64_t vocab, int64_t width) {
    const int64_t table[2] = {vocab, width}, square[2] = {width, width};
    *m = (net){.leaf = {leaf(e, 2, table, 1), leaf(e, 1, &width, 2), leaf(e, 1, &width, 3),
                        leaf(e, 2, square, 4), leaf(e, 1, &width, 5)}};
    for (int i = 0; i < NET_LEAVES; i++)
        if (!m->leaf[i]) return PF_ENOMEM;
    PF_TRY(pf_tensor_make_lasting(&m->ids, e->heap, PF_I32, 1, &rows));
    PF_TRY(pf_tensor_make_lasting(&m->target, e->heap, PF_I32, 1, &rows));
    for (int64_t i = 0; i < rows; i++) {
        pf_i32(m->ids)[i] = (int32_t)(i * 7 % vocab);
        pf_i32(m->target)[i] = (int32_t)(i * 5 % width) - (i % 4 == 0);
    }
    return PF_OK;
}

static void net_free(net *m) {
    for (int i = 0; i < NET_LEAVES; i++) pf_tensor_release(&m->leaf[i]);
    pf_tensor_release(&m->ids);
    pf_tensor_release(&m->target);
}

static int net_loss(net *m, pf_engine *e, pf_tensor **t) {
    PF_TRY(pf_embedding(&t[0], e, m->leaf[0], m->ids));
    PF_TRY(pf_layernorm(&t[1], e, t[0], m->leaf[1], m->leaf[2], 1e-5));
    PF_TRY(pf_linear(&t[2], e, t[1], m->leaf[3], m->leaf[4]));
    PF_TRY(call_one(&t[3], e, &pf_op_gelu, t[2]));
    PF_TRY(pf_dropout(&t[4], e, t[3], 0.3, 9));
    PF_TRY(pf_swiglu(&t[5], e, t[4], t[2]));
    PF_TRY(pf_rmsnorm(&t[6], e, t[5], m->leaf[1], 1e-5));
    PF_TRY(pf_add(&t[7], e, t[0], t[6]));
    return pf_cross_entropy(&t[8], e, t[7], m->target);
}

/* One step of forward and backward; everything but the gradients is gone afterwards. */
static int net_step(net *m, pf_engine *e, float *loss) {
    pf_tape *tape;
    pf_tensor *t[9] = {NULL};
    PF_TRY(pf_tape_open(&tape, e));
    int status = net_loss(m, e, t);
    if (status >= 0) status = pf_tape_backward(tape, t[8], NULL);
    if (status >= 0 && loss) *loss = pf_f32(t[8])[0];
    pf_tape_close(&tape);
    for (int i = 0; i < 9; i++) pf_tensor_release(&t[i]);
    return status;
}

static void test_allocation_failures(void) {
    pf_engine e;
    host h;
    open_engine(&e, 2, &h);
    net m;
    CHECK_OK(net_make(&m, &e, 12, 10, 8));
    pf_heap_trim(e.heap);
    size_t live = pf_heap_live(e.heap);
    int status = PF_ENOMEM;
    long refusals = 0;
    bool good = true;
    for (; status < 0 && refusals < 2000; refusals++) {
        h.left = refusals;
        status = net_step(&m, &e, NULL);
        h.left = -1;
        good = good && (status == PF_OK || status == PF_ENOMEM) && e.tape == NULL;
        for (int i = 0; i < NET_LEAVES; i++) {
            good = good && (status == PF_OK) == has_grad(&e, m.leaf[i]);
            pf_tensor_release(&m.leaf[i]->grad);
        }
        pf_heap_free(e.heap, e.scratch, e.scratch_bytes * (size_t)e.threads);
        e.scratch = NULL;
        e.scratch_bytes = 0;
        good = good && pf_heap_live(e.heap) == live;
        pf_heap_trim(e.heap);
    }
    CHECK(good && status == PF_OK && refusals > 40);
    net_free(&m);
    pf_runtime_close(&e);
    CHECK(h.calls == h.frees);
}

static void test_steady_state(void) {
    pf_engine e;
    host h;
    open_engine(&e, 2, &h);
    net m;
    CHECK_OK(net_make(&m, &e, 300, 40, 64));
    /* The first step makes the gradients, the second is the first with all of them there. */
    size_t live = 0;
    long calls = 0;
    for (int step = 0; step < 3; step++) {
        live = pf_heap_live(e.heap);
        calls = h.calls;
        CHECK_OK(net_step(&m, &e, NULL));
        for (int i = 0; i < NET_LEAVES; i++) pf_tensor_clear_grad(m.leaf[i]);
    }
    CHECK(h.calls == calls);
    CHECK(pf_heap_live(e.heap) == live);
    net_free(&m);
    pf_runtime_close(&e);
}

static void test_equal_bits(void) {
    enum { ROWS = 700, VOCAB = 90, WIDTH = 80, MOST = VOCAB * WIDTH };
    static float first[NET_LEAVES][MOST], again[MOST];
    float loss = 0, other = 0;
    for (int threads = 1; threads <= 4; threads *= 2) {
        pf_engine e;
        open_engine(&e, threads, NULL);
        net m;
        CHECK_OK(net_make(&m, &e, ROWS, VOCAB, WIDTH));
        CHECK_OK(net_step(&m, &e, threads == 1 ? &loss : &other));
        CHECK(threads == 1 || memcmp(&loss, &other, sizeof loss) == 0);
        for (int i = 0; i < NET_LEAVES; i++) {
            pf_tensor *g = m.leaf[i]->grad;
            size_t bytes = (size_t)pf_tensor_numel(g) * sizeof(float);
            CHECK_OK(pf_tensor_read(g, threads == 1 ? first[i] : again, bytes));
            CHECK(threads == 1 || memcmp(first[i], again, bytes) == 0);
        }
        net_free(&m);
        pf_runtime_close(&e);
    }
    CHECK(isfinite(loss) && loss > 0);
}

int main(void) {
    test_lifetime();
    test_refusals();
    test_twice();
    test_seed_is_not_shared();
    test_accumulation();
    test_nesting();
    fail_through(&failing_op, 1, PF_ENUMERIC);
    fail_through(&greedy_op, 2, PF_EINVAL);
    test_allocation_failures();
    test_steady_state();
    test_equal_bits();
    return CHECK_REPORT();
}
