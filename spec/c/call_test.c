/*
 * call_test.c - what a call holds: temporaries are gone when its forward, or its backward, has
 * ended, also when it failed, ran out of memory or asked for too many; a tensor that is taken as
 * it is takes no place. And the table: every row by its index, as many inputs as there may be.
 */
#include "autograd_support.h"
#include "fold.h"

enum { N = 1000 };

/* What the row of the test does in one direction. */
static struct {
    int copies, blocks;
    bool fails;
    size_t live; /* seen at its end */
} way;

static int take(pf_call *c, const pf_tensor *t) {
    for (int i = 0; i < way.copies; i++) {
        pf_tensor *copy, *same;
        PF_TRY(pf_call_compact(c, t, &copy));
        CHECK(copy != t && pf_tensor_contiguous(copy) && pf_same_shape(copy, t));
        PF_TRY(pf_call_compact(c, copy, &same));
        CHECK(same == copy);
    }
    for (int i = 0; i < way.blocks; i++) {
        pf_tensor *made;
        PF_TRY(pf_call_make(c, PF_F32, t->rank, t->shape, &made));
        if (!pf_call_alloc(c, (size_t)i)) return PF_ENOMEM;
    }
    way.live = pf_heap_live(c->engine->heap);
    return way.fails ? pf_fail(PF_ENUMERIC, "as asked") : PF_OK;
}

static int shape(pf_call *c) { return pf_same_as(c, 0, 0); }

static int forward(pf_call *c) {
    PF_TRY(take(c, c->in[0]));
    return pf_add_into(c->engine, c->out[0], true, c->in[0], c->op->of);
}

static int backward(pf_call *c) {
    PF_TRY(take(c, c->dout[0]));
    return pf_grad_give(c, 0, c->dout[0]);
}

static const pf_op row = {.name = "holder",
                          .args = "x",
                          .results = "y",
                          .min_in = 1,
                          .max_in = 1,
                          .n_out = 1,
                          .of = 3,
                          .shape = shape,
                          .forward = forward,
                          .backward = backward};

/* A (10, N) view whose rows do not follow each other. */
static pf_tensor *apart(pf_engine *e) {
    pf_tensor *all, *view;
    CHECK_OK(pf_tensor_make_lasting(&all, e->heap, PF_F32, 2, (const int64_t[]){N, 10}));
    CHECK_OK(pf_tensor_fill(all, 2));
    CHECK_OK(pf_permute(&view, e, all, 2, (const int[]){1, 0}));
    pf_tensor_release(&all);
    return view;
}

static void test_forward(void) {
    pf_engine e;
    host h;
    open_engine(&e, 1, &h);
    pf_tensor *x = apart(&e), *y = NULL;
    size_t before = pf_heap_live(e.heap), one = 10 * N * sizeof(float);
    way.copies = 4, way.blocks = 3;
    CHECK_OK(call_one(&y, &e, &row, x));
    CHECK(way.live >= before + 8 * one); /* y, four copies, three made */
    CHECK(pf_heap_live(e.heap) < before + 2 * one);
    CHECK(pf_f32(y)[7] == 6);
    pf_tensor_release(&y);
    CHECK(pf_heap_live(e.heap) == before);

    way.fails = true;
    CHECK_FAILS(PF_ENUMERIC, call_one(&y, &e, &row, x));
    CHECK(pf_heap_live(e.heap) == before);
    way.fails = false;
    way.copies = PF_MAX_HELD; /* those alone fit */
    way.blocks = 0;
    CHECK_OK(call_one(&y, &e, &row, x));
    pf_tensor_release(&y);
    way.blocks = 1;
    CHECK_FAILS(PF_EINVAL, call_one(&y, &e, &row, x));
    CHECK(strstr(pf_last_error(), "holder: holds more than") != NULL);
    CHECK(pf_heap_live(e.heap) == before);

    way.copies = 4, way.blocks = 3;
    for (long left = 0; left < 12; left++) {
        pf_heap_trim(e.heap);
        h.left = left;
        int status = call_one(&y, &e, &row, x);
        h.left = -1;
        CHECK(status == PF_ENOMEM || status >= 0);
        pf_tensor_release(&y);
        CHECK(pf_heap_live(e.heap) == before);
    }
    pf_tensor_release(&x);
    pf_runtime_close(&e);
}

/* The gradient of a permuted output arrives as a view, which the row copies. */
static int walk(pf_engine *e, pf_tensor *leaf) {
    pf_tape *tape;
    pf_tensor *y = NULL, *z = NULL, *seed = NULL;
    PF_TRY(pf_tape_open(&tape, e));
    way.copies = way.blocks = 0;
    int status = call_one(&y, e, &row, leaf);
    if (status >= 0) status = pf_permute(&z, e, y, 2, (const int[]){1, 0});
    if (status >= 0) status = pf_tensor_make(&seed, e, PF_F32, 2, z->shape);
    if (status >= 0) status = pf_tensor_fill(seed, 1);
    way.copies = 2, way.blocks = 1;
    if (status >= 0) status = pf_tape_backward(tape, z, seed);
    pf_tensor_release(&y);
    pf_tensor_release(&z);
    pf_tensor_release(&seed);
    pf_tape_close(&tape);
    return status;
}

static void test_backward(void) {
    pf_engine e;
    open_engine(&e, 1, NULL);
    pf_tensor *x = leaf(&e, 2, (const int64_t[]){10, N}, 1);
    CHECK_OK(walk(&e, x)); /* makes x's gradient */
    size_t before = pf_heap_live(e.heap);
    CHECK_OK(walk(&e, x));
    CHECK(pf_heap_live(e.heap) == before);
    way.fails = true;
    CHECK_FAILS(PF_ENUMERIC, walk(&e, x));
    way.fails = false;
    CHECK(pf_heap_live(e.heap) == before);
    pf_tensor_release(&x);
    pf_runtime_close(&e);
}

static void test_table(void) {
    pf_engine e;
    open_engine(&e, 1, NULL);
    for (int i = 0; i < pf_op_count(&e); i++) {
        const pf_op *op = pf_registry_row(&e, i);
        CHECK(op && pf_op_find(&e, op->name) == i);
    }
    CHECK(!pf_registry_row(&e, -1) && !pf_registry_row(&e, pf_op_count(&e)));
    const pf_op *many[PF_MAX_OPS];
    for (int i = 0; i < PF_MAX_OPS; i++) many[i] = &row;
    CHECK_FAILS(PF_EINVAL, pf_registry_add(&e, many, PF_MAX_OPS));
    pf_runtime_close(&e);
}

/* y = concat of as many vectors as an op takes, each of which gets its own gradient. */
static void test_many_inputs(void) {
    pf_engine e;
    open_engine(&e, 1, NULL);
    pf_tensor *in[PF_MAX_IN + 1], *y, *square, *loss;
    pf_tape *tape;
    for (int i = 0; i <= PF_MAX_IN; i++) in[i] = vector(&e, 3, (uint64_t)i);
    CHECK_OK(pf_tape_open(&tape, &e));
    CHECK_OK(pf_apply(&e, &pf_op_concat, in, PF_MAX_IN, NULL, &y));
    CHECK_OK(call_one(&square, &e, &pf_op_square, y));
    CHECK_OK(sum_all(&loss, &e, square));
    CHECK_OK(pf_tape_backward(tape, loss, NULL));
    for (int i = 0; i < PF_MAX_IN; i++) {
        pf_tensor *grad;
        CHECK_OK(pf_tensor_grad(&grad, &e, in[i]));
        CHECK(grad && pf_f32(grad)[2] == 2 * pf_f32(in[i])[2]);
        pf_tensor_release(&grad);
    }
    pf_tensor_release(&loss);
    pf_tensor_release(&square);
    pf_tensor_release(&y);
    CHECK_FAILS(PF_EINVAL, pf_apply(&e, &pf_op_concat, in, PF_MAX_IN + 1, NULL, &y));
    pf_tape_close(&tape);
    for (int i = 0; i <= PF_MAX_IN; i++) pf_tensor_release(&in[i]);
    pf_runtime_close(&e);
}

int main(void) {
    test_forward();
    test_backward();
    test_table();
    test_many_inputs();
    return CHECK_REPORT();
}
