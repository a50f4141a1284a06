/*
 * graph_test.c - attention over edges as a C host has it: the public call is the op; tensors of
 * edges that nobody's `edges` made are refused, forward and backward, and never followed; where
 * memory ends in the middle nothing is lost.
 */
#include "check.h"
#include "host.h"
#include "performer_attention.h"

enum { L = 5, D = 3, E = 4 };

static pf_tensor *numbers(pf_engine *e, int rank, const int64_t *shape) {
    pf_tensor *t = NULL;
    CHECK_OK(pf_tensor_rand(&t, e, rank, shape, true));
    return t;
}

static pf_tensor *words(pf_engine *e, int rank, const int64_t *shape, const int32_t *values) {
    pf_tensor *t = NULL;
    CHECK_OK(pf_tensor_empty(&t, e, PF_I32, rank, shape));
    memcpy(pf_tensor_data(t), values, (size_t)pf_tensor_numel(t) * sizeof *values);
    return t;
}

static pf_tensor *rows(pf_engine *e) { return numbers(e, 4, (int64_t[]){1, 2, L, D}); }

static const int32_t good[E * 3] = {0, 1, 2, 0, 4, 0, 2, 2, 3, 4, 0, 1};

/* One call of edge_attention with these edges and a bias, and its backward. */
static int attend(pf_engine *e, const int32_t *edges, pf_tensor *q, pf_tensor *bias) {
    pf_tensor *list = NULL, *y = NULL, *in[11] = {q, q, q};
    pf_attr attr[32];
    pf_tape *tape = NULL;
    int op = pf_op_find(e, "edge_attention");
    int status = pf_tensor_empty(&list, e, PF_I32, 2, (int64_t[]){E, 3});
    if (status >= 0) memcpy(pf_tensor_data(list), edges, E * 3 * sizeof *edges);
    if (status >= 0) status = pf_op_defaults(e, op, attr);
    if (status >= 0) status = pf_tape_open(&tape, e);
    in[9] = list, in[10] = bias;
    if (status >= 0) status = pf_op_apply(e, op, in, 11, attr, &y);
    pf_tensor *sum = NULL, *seed = y;
    int total = pf_op_find(e, "sum");
    if (status >= 0) status = pf_op_defaults(e, total, attr);
    if (status >= 0) status = pf_op_apply(e, total, &seed, 1, attr, &sum);
    if (status >= 0) status = pf_tape_backward(tape, sum, NULL);
    if (tape) pf_tape_close(&tape);
    pf_tensor_release(&sum);
    pf_tensor_release(&y);
    pf_tensor_release(&list);
    return status;
}

static void test_public_call(void) {
    pf_engine *e = NULL;
    CHECK_OK(pf_engine_open(&e, NULL));
    pf_tensor *q = rows(e), *bias = numbers(e, 1, (int64_t[]){E}), *out = NULL, *same = NULL;
    pf_tensor *edges = words(e, 2, (int64_t[]){E, 3}, good);
    pf_attention_options o = {.size = sizeof o, .attention = "graph"};
    CHECK_FAILS(PF_EINVAL, pf_attention_call(&out, NULL, e, q, q, q, &o));
    o.edges = edges, o.edge_bias = bias;
    CHECK_OK(pf_attention_call(&out, NULL, e, q, q, q, &o));
    pf_attr attr[32];
    int op = pf_op_find(e, "edge_attention");
    CHECK_OK(pf_op_defaults(e, op, attr));
    pf_tensor *in[11] = {q, q, q, [9] = edges, [10] = bias};
    CHECK_OK(pf_op_apply(e, op, in, 11, attr, &same));
    float a[2 * L * D], b[2 * L * D];
    CHECK_OK(pf_tensor_read(out, a, sizeof a));
    CHECK_OK(pf_tensor_read(same, b, sizeof b));
    CHECK(memcmp(a, b, sizeof a) == 0 && a[0] != 0 && a[D] == 0);
    pf_tensor_release(&out);
    o.attention = "exact";
    CHECK_FAILS(PF_EINVAL, pf_attention_call(&out, NULL, e, q, q, q, &o));
    pf_tensor_release(&same);
    pf_tensor_release(&edges);
    pf_tensor_release(&bias);
    pf_tensor_release(&q);
    pf_engine_close(&e);
}

static void test_edges_of_anybody(void) {
    static const int32_t bad[][E * 3] = {
        {0, 1, 2, 0, 4, 0, 2, 2, 3, 5, 0, 1},         {0, 1, 2, 0, 5, 0, 2, 2, 3, 4, 0, 1},
        {-1, 1, 2, 0, 4, 0, 2, 2, 3, 4, 0, 1},        {0, -1, 2, 0, 4, 0, 2, 2, 3, 4, 0, 1},
        {0, 4, 2, 0, 1, 0, 2, 2, 3, 4, 0, 1},         {0, 1, 2, 0, 1, 2, 2, 2, 3, 4, 0, 1},
        {0, 1, 4, 0, 4, 0, 2, 2, 3, 4, 0, 1},         {0, 1, -1, 0, 4, 0, 2, 2, 3, 4, 0, 1},
        {0, 1, 2, 0, INT32_MAX, 0, 2, 2, 3, 4, 0, 1}, {INT32_MIN, 1, 2, 0, 4, 0, 2, 2, 3, 4, 0, 1},
        {0, 1, 2, 0, 4, 0, 2, 2, 3, 4, 0, 2},
    };
    pf_engine *e = NULL;
    CHECK_OK(pf_engine_open(&e, NULL));
    pf_tensor *q = rows(e), *bias = numbers(e, 1, (int64_t[]){E});
    CHECK_OK(pf_tensor_require_grad(q, true));
    CHECK_OK(pf_tensor_require_grad(bias, true));
    CHECK_OK(attend(e, good, q, bias));
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        CHECK_FAILS(PF_EINVAL, attend(e, bad[i], q, bias));
    pf_tensor_release(&bias);
    pf_tensor_release(&q);
    pf_engine_close(&e);
}

/* Each allocation of a forward and backward fails once. */
static void test_memory_that_ends(void) {
    for (long at = 1, fine = 0; !fine && at < 1000; at++) {
        host_memory host = {0};
        pf_options options = host_options(&host);
        pf_engine *e = NULL;
        options.threads = 1;
        CHECK_OK(pf_engine_open(&e, &options));
        pf_tensor *q = rows(e), *bias = numbers(e, 1, (int64_t[]){E});
        CHECK_OK(pf_tensor_require_grad(q, true));
        CHECK_OK(pf_tensor_require_grad(bias, true));
        host.fail_at = host.calls + at, host.fail_on = 1;
        int status = attend(e, good, q, bias);
        CHECK(status == PF_ENOMEM || status >= 0);
        fine = status >= 0 && host.calls < host.fail_at;
        host.fail_at = 0;
        CHECK_OK(attend(e, good, q, bias));
        pf_tensor_release(&bias);
        pf_tensor_release(&q);
        pf_engine_close(&e);
        CHECK(host.blocks == 0 && host.wrong == 0);
    }
}

int main(void) {
    test_public_call();
    test_edges_of_anybody();
    test_memory_that_ends();
    return CHECK_REPORT();
}
