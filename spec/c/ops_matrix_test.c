/*
 * ops_matrix_test.c - matmul and linear: values and gradients against plain loops, and the
 * promise that a row's bits depend on the row alone, on every kernel level and for 1 to 4
 * threads.
 */
#include "ops_support.h"

/* ---- matrix products ---------------------------------------------------------- */

static void judge_matmul(const pf_attr *attr, int n, const dense *in, dense *out) {
    (void)attr, (void)n;
    dense a = in[0], b = in[1];
    if (a.rank == 1) a.rank = 2, a.shape[1] = a.shape[0], a.shape[0] = 1;
    if (b.rank == 1) b.rank = 2, b.shape[1] = 1;
    const int64_t rows = a.shape[a.rank - 2], k = a.shape[a.rank - 1], cols = b.shape[b.rank - 1];
    dense batch = *out;
    batch.rank -= (in[0].rank > 1) + (in[1].rank > 1);
    const dense a_batch = {.rank = a.rank - 2, .shape = {a.shape[0], a.shape[1], a.shape[2]}};
    const dense b_batch = {.rank = b.rank - 2, .shape = {b.shape[0], b.shape[1], b.shape[2]}};
    for (int64_t i = 0; i < out->n; i++) {
        const int64_t row = i / cols % rows, col = i % cols, item = i / (rows * cols);
        int64_t at[PF_MAX_RANK];
        places(&batch, item, at);
        const double *x = a.v + (broadcast_index(&a_batch, batch.rank, at) * rows + row) * k;
        const double *y = b.v + broadcast_index(&b_batch, batch.rank, at) * k * cols + col;
        double sum = 0;
        for (int64_t j = 0; j < k; j++) sum += x[j] * y[j * cols];
        out->v[i] = sum;
    }
}

static void test_matmul(void) {
    check_op("matmul", judge_matmul, INPUTS(TENSOR(3, 4), TENSOR(4, 5)), NULL, 1e-5, 30);
    check_op("matmul", judge_matmul, INPUTS(TENSOR(2, 3, 4), TENSOR(4, 5)), NULL, 1e-5, 30);
    check_op("matmul", judge_matmul, INPUTS(TENSOR(3, 4), TENSOR(2, 4, 5)), NULL, 1e-5, 30);
    check_op("matmul", judge_matmul, INPUTS(TENSOR(2, 1, 3, 4), TENSOR(3, 4, 2)), NULL, 1e-5, 30);
    check_op("matmul", judge_matmul, INPUTS(TENSOR(4), TENSOR(4, 5)), NULL, 1e-5, 30);
    check_op("matmul", judge_matmul, INPUTS(TENSOR(3, 4), TENSOR(4)), NULL, 1e-5, 30);
    check_op("matmul", judge_matmul, INPUTS(TENSOR(4), TENSOR(2, 4, 3)), NULL, 1e-5, 30);
    check_op("matmul", judge_matmul, INPUTS(TENSOR(2, 3, 4), TENSOR(4)), NULL, 1e-5, 30);
    check_op("matmul", judge_matmul, INPUTS(TENSOR(4), TENSOR(4)), NULL, 1e-5, 30);
    check_op("matmul", judge_matmul, INPUTS(TENSOR(3, 0), TENSOR(0, 5)), NULL, 1e-5, 1);
    check_op("matmul", judge_matmul, INPUTS(TENSOR(0, 4), TENSOR(4, 5)), NULL, 1e-5, 30);
    check_op("matmul", judge_matmul, INPUTS(TENSOR(0, 3, 4), TENSOR(4, 5)), NULL, 1e-5, 30);
    check_op("matmul", judge_matmul, INPUTS(TENSOR(2, 131, 40), TENSOR(40, 530)), NULL, 1e-5, 2);
    check_op("matmul", judge_matmul, INPUTS(TENSOR(3, 500, 64), TENSOR(64, 72)), NULL, 5e-5, 2);
    check_op("matmul", judge_matmul, INPUTS(TENSOR(256, 33), TENSOR(33, 64)), NULL, 1e-5, 3);
}

/* Activation `act` of linear, in the order of its choices. */
static double act_of(int64_t act, double x) {
    switch (act) {
    case 1:
        return x * 0.5 * (1 + erf(x / sqrt(2)));
    case 2:
        return x * 0.5 * (1 + tanh(sqrt(2 / acos(-1)) * (x + 0.044715 * x * x * x)));
    case 3:
        return fmax(x, 0);
    case 4:
        return x / (1 + exp(-x));
    case 5:
        return fmax(x, 0) * fmax(x, 0);
    default:
        return x;
    }
}

static void judge_linear(const pf_attr *attr, int n, const dense *in, dense *out) {
    const int64_t width = in[1].shape[0], k = in[1].shape[1];
    for (int64_t i = 0; i < out->n; i++) {
        const double *x = in[0].v + i / width * k, *w = in[1].v + i % width * k;
        double sum = n > 2 && in[2].v ? in[2].v[i % width] : 0;
        for (int64_t j = 0; j < k; j++) sum += x[j] * w[j];
        out->v[i] = act_of(attr[1].i, sum);
    }
}

static void test_linear(void) {
    for (int way = 0; way < 12; way++) {
        const pf_attr attr[] = {{.i = way % 2}, {.i = way / 2}}; /* step, act */
        check_op("linear", judge_linear, INPUTS(TENSOR(3, 4), TENSOR(5, 4), TENSOR(5)), attr, 1e-5,
                 30);
        check_op("linear", judge_linear, INPUTS(TENSOR(3, 4), TENSOR(5, 4)), attr, 1e-5, 30);
        check_op("linear", judge_linear, INPUTS(TENSOR(4), TENSOR(5, 4), NULL), attr, 1e-5, 30);
        check_op("linear", judge_linear, INPUTS(TENSOR(2, 3, 4), TENSOR(5, 4), TENSOR(5)), attr,
                 1e-5, 30);
        check_op("linear", judge_linear, INPUTS(TENSOR(2, 2, 1, 4), TENSOR(5, 4), TENSOR(5)), attr,
                 1e-5, 30);
        check_op("linear", judge_linear, INPUTS(TENSOR(2, 0, 4), TENSOR(5, 4), TENSOR(5)), attr,
                 1e-5, 30);
        check_op("linear", judge_linear, INPUTS(TENSOR(3, 0), TENSOR(5, 0), TENSOR(5)), attr, 1e-5,
                 1);
        check_op("linear", judge_linear, INPUTS(TENSOR(2, 129, 70), TENSOR(520, 70), TENSOR(520)),
                 attr, 1e-5, 2);
        /* Rows enough for a weight gradient in stretches; a bit of every kind of sum. */
        check_op("linear", judge_linear, INPUTS(TENSOR(3, 500, 64), TENSOR(72, 64), TENSOR(72)),
                 attr, 5e-5, 2);
        check_op("linear", judge_linear, INPUTS(TENSOR(2, 128, 33), TENSOR(40, 33), TENSOR(40)),
                 attr, 1e-5, 3);
    }
}

/* ---- a row's bits ------------------------------------------------------------- */

/* out (items, rows, N) = op of x; NULL on failure. */
static pf_tensor *product(const char *op, pf_tensor *x, pf_tensor *w, int step) {
    pf_call c;
    pf_tensor *in[2] = {x, w};
    set_call(&c, op, in, 2, NULL);
    if (c.op->n_attrs) c.attr[0].i = step;
    if (pf_call_forward(&c) < 0) return NULL;
    return c.out[0];
}

/* An item's rows have the same bits alone, in a batch, and with rows after them, be these
 * NaN. `first` rows of item 1 of x (3, 300, 70). */
static void test_row_bits(const char *op, int step, int64_t first) {
    enum { ROWS = 300, K = 70, N = 530 };
    pf_tensor *x = TENSOR(3, ROWS, K), *alone = NULL;
    pf_tensor *w = strcmp(op, "linear") ? TENSOR(K, N) : TENSOR(N, K);
    CHECK_OK(pf_tensor_view(&alone, x));
    alone->rank = 2;
    alone->shape[0] = first;
    alone->shape[1] = K;
    memcpy(alone->stride, x->stride + 1, 2 * sizeof(int64_t));
    alone->offset += ROWS * K;
    pf_tensor *short_out = product(op, alone, w, step), *batch_out = product(op, x, w, step);
    const size_t bytes = sizeof(float) * (size_t)(first * N);
    CHECK(memcmp(pf_f32(short_out), pf_f32(batch_out) + ROWS * N, bytes) == 0);
    for (int64_t i = (ROWS + first) * K; i < 2 * ROWS * K; i++) pf_f32(x)[i] = NAN;
    pf_tensor_release(&batch_out);
    batch_out = product(op, x, w, step);
    CHECK(memcmp(pf_f32(short_out), pf_f32(batch_out) + ROWS * N, bytes) == 0);
    pf_tensor_release(&short_out);
    pf_tensor_release(&batch_out);
    pf_tensor_release(&alone);
    pf_tensor_release(&x);
    pf_tensor_release(&w);
}

static void test_all(void) {
    static const int64_t firsts[] = {1, 5, 127, 128, 129, 300};
    test_matmul();
    test_linear();
    for (int k = 0; k < PF_COUNT(firsts); k++) {
        test_row_bits("matmul", 0, firsts[k]);
        test_row_bits("linear", 0, firsts[k]);
        test_row_bits("linear", 1, firsts[k]);
    }
}

int main(void) { return run_levels(test_all); }
