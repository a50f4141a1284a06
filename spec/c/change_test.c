/*
 * change_test.c - changes in place as a C host makes them: through the pointer that it was handed,
 * by writes of arrays, by rows; and that changes of different threads are told apart.
 */
#include <pthread.h>

#include "autograd_support.h"

/* loss = sum(x^2) on an open tape. */
static pf_tensor *square_sum(pf_engine *e, pf_tensor *x) {
    pf_tensor *y = NULL;
    CHECK_OK(call_one(&y, e, &pf_op_square, x));
    CHECK_OK(then(&y, e, &pf_op_sum));
    return y;
}

typedef void (*change_fn)(pf_tensor *x);
static pf_engine *x_engine; /* where ops of a change run */

static void by_write(pf_tensor *x) {
    float numbers[3] = {1, 2, 3};
    CHECK_OK(pf_tensor_write(x, numbers, sizeof numbers));
}
static void by_set(pf_tensor *x) { CHECK_OK(pf_tensor_set(x, 1, 5)); }
static void by_pointer(pf_tensor *x) {
    float *data = pf_tensor_data(x);
    data[0] = 7;
    pf_tensor_changed(x);
}
static void by_view(pf_tensor *x) {
    pf_tensor *view = NULL;
    CHECK_OK(pf_tensor_view(&view, x));
    CHECK_OK(pf_tensor_fill(view, 4));
    pf_tensor_release(&view);
}

static int multiply(pf_tensor *x) {
    pf_tensor *in[2] = {x, x};
    return pf_op_apply_in_place(x_engine, pf_op_find(x_engine, "mul"), in, 2, NULL);
}
/* By a view, of which nobody says that it wants a gradient. */
static void in_place(pf_tensor *x) {
    pf_tensor *view = NULL;
    CHECK_OK(pf_tensor_view(&view, x));
    CHECK_OK(multiply(view));
    pf_tensor_release(&view);
}

static void test_refused(void) {
    static const struct {
        change_fn change;
        const char *named;
    } ways[] = {{by_write, "write"},
                {by_set, "an assignment"},
                {by_pointer, "its owner"},
                {by_view, "fill_"},
                {in_place, "mul_"}};
    pf_engine e;
    open_engine(&e, 1, NULL);
    x_engine = &e;
    for (int i = 0; i < PF_COUNT(ways); i++) {
        pf_tape *tape = NULL;
        pf_tensor *x = vector(&e, 3, 1);
        CHECK_OK(pf_tape_open(&tape, &e));
        pf_tensor *loss = square_sum(&e, x);
        ways[i].change(x);
        CHECK_FAILS(PF_ESTATE, pf_tape_backward(tape, loss, NULL));
        CHECK(strstr(pf_last_error(), "backward of square (op 1 on this tape)"));
        CHECK(strstr(pf_last_error(), ways[i].named));
        CHECK(!has_grad(&e, x));
        pf_tensor_release(&loss);
        pf_tape_close(&tape);
        pf_tensor_release(&x);
    }
    pf_runtime_close(&e);
}

/* An op in place on a leaf that backward would read again is refused at once, on the open tape and
 * on those around it; the gradient is what it was. */
static void test_refused_at_the_call(void) {
    pf_engine e;
    open_engine(&e, 1, NULL);
    x_engine = &e;
    pf_tape *outer = NULL, *inner = NULL;
    pf_tensor *x = vector(&e, 3, 1);
    CHECK_OK(pf_tape_open(&outer, &e));
    pf_tensor *loss = square_sum(&e, x);
    const float before = pf_f32(x)[2];
    CHECK_FAILS(PF_ESTATE, multiply(x));
    CHECK(strstr(pf_last_error(), "mul_: x [3] requires a gradient, and backward of square "));
    CHECK_OK(pf_tape_open(&inner, &e));
    CHECK_FAILS(PF_ESTATE, multiply(x));
    pf_tape_close(&inner);
    CHECK(pf_f32(x)[2] == before);
    CHECK_OK(pf_tape_backward(outer, loss, NULL));
    CHECK(has_grad(&e, x));
    CHECK_OK(multiply(x)); /* nobody reads it any more */
    pf_tensor_release(&loss);
    pf_tape_close(&outer);
    CHECK_OK(multiply(x));
    pf_tensor_release(&x);
    pf_runtime_close(&e);
}

/* Rows from tensors of other shapes and dtypes, and from the tensor itself. */
static void test_rows(void) {
    pf_engine e;
    pf_tensor *x = NULL, *ids = NULL, *row = NULL, *turned = NULL;
    float got[6];
    open_engine(&e, 1, NULL);
    CHECK_OK(pf_tensor_full(&x, &e, PF_F32, 2, (int64_t[]){2, 3}, 0));
    CHECK_OK(pf_tensor_arange(&row, &e, PF_F32, 3));
    CHECK_OK(pf_tensor_set_row(x, 1, row));
    CHECK_OK(pf_tensor_read(x, got, sizeof got));
    CHECK(got[0] == 0 && got[3] == 0 && got[4] == 1 && got[5] == 2);
    CHECK_OK(pf_tensor_view(&turned, x));
    turned->shape[0] = 3, turned->shape[1] = 2, turned->stride[0] = 1, turned->stride[1] = 3;
    pf_tensor_release(&row);
    CHECK_OK(pf_tensor_arange(&row, &e, PF_I32, 2));
    CHECK_OK(pf_tensor_set_row(turned, 2, row));
    CHECK_OK(pf_tensor_read(x, got, sizeof got));
    CHECK(got[2] == 0 && got[5] == 1);
    CHECK_FAILS(PF_ESHAPE, pf_tensor_set_row(x, 0, row));
    CHECK_FAILS(PF_EINVAL, pf_tensor_set_row(x, 2, row));
    CHECK_FAILS(PF_EINVAL, pf_tensor_set_row(x, -1, row));
    CHECK_OK(pf_tensor_full(&ids, &e, PF_I32, 1, (int64_t[]){2}, 0));
    pf_tensor_release(&row);
    CHECK_OK(pf_tensor_full(&row, &e, PF_F32, 0, NULL, 0.5));
    CHECK_FAILS(PF_EINVAL, pf_tensor_set_row(ids, 0, row)); /* no fraction is cut in silence */
    pf_tensor_release(&turned);
    pf_tensor_release(&row);
    pf_tensor_release(&ids);
    pf_tensor_release(&x);
    pf_runtime_close(&e);
}

enum { CHANGES = 20000, THREADS = 4 };

static void *change_often(void *context) {
    pf_tensor *x = context;
    uint64_t last = 0;
    for (int i = 0; i < CHANGES; i++) {
        if (pf_tensor_set(x, 0, i) < 0 || pf_tensor_change(x) <= last) return x;
        last = pf_tensor_change(x);
    }
    return NULL;
}

/* Each has tensors of its own; the numbers of their changes are one sequence. */
static void test_threads(void) {
    pf_engine e;
    pthread_t thread[THREADS];
    pf_tensor *x[THREADS] = {NULL};
    open_engine(&e, 1, NULL);
    uint64_t before = pf_changes();
    for (int i = 0; i < THREADS; i++) x[i] = vector(&e, 2, (uint64_t)i);
    for (int i = 0; i < THREADS; i++) pthread_create(&thread[i], NULL, change_often, x[i]);
    for (int i = 0; i < THREADS; i++) {
        void *broken = x[i];
        pthread_join(thread[i], &broken);
        CHECK(broken == NULL);
    }
    CHECK(pf_changes() == before + (uint64_t)THREADS * CHANGES);
    for (int i = 0; i < THREADS; i++)
        for (int j = 0; j < i; j++) CHECK(pf_tensor_change(x[i]) != pf_tensor_change(x[j]));
    for (int i = 0; i < THREADS; i++) pf_tensor_release(&x[i]);
    pf_runtime_close(&e);
}

int main(void) {
    test_refused();
    test_refused_at_the_call();
    test_rows();
    test_threads();
    return CHECK_REPORT();
}
