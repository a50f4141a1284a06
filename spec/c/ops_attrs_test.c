/*
 * ops_attrs_test.c - whole numbers at the ends of their range, and beside what means something
 * there, for every attribute of every op of the table: an answer or an error, and under the
 * sanitizers no overflow, division by zero or access outside. Inputs are of shapes that get past
 * the first checks, in random company.
 */
#include "check.h"
#include "performer.h"

enum { TRIALS = 400, MOST_IN = 24 };

static uint64_t state = 1;

static uint64_t next(void) {
    state = state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return state >> 33;
}
static int below(int n) { return (int)(next() % (uint64_t)n); }

static int64_t extreme(void) {
    static const int64_t values[] = {INT64_MIN,
                                     INT64_MIN + 1,
                                     -((int64_t)1 << 62),
                                     INT32_MIN,
                                     -1000,
                                     -3,
                                     -2,
                                     -1,
                                     0,
                                     1,
                                     2,
                                     3,
                                     4,
                                     6,
                                     INT32_MAX,
                                     (int64_t)1 << 32,
                                     (int64_t)1 << 52,
                                     ((int64_t)1 << 62) - 1,
                                     (int64_t)1 << 62,
                                     INT64_MAX - 1,
                                     INT64_MAX};
    return values[below((int)(sizeof values / sizeof *values))];
}

static const struct {
    int rank;
    int64_t shape[PF_MAX_RANK];
} shapes[] = {{0, {0}},       {1, {6}},          {2, {2, 6}},   {2, {6, 6}},
              {3, {1, 2, 6}}, {4, {1, 2, 2, 6}}, {3, {0, 2, 6}}};

static pf_tensor *some_tensor(pf_engine *e, int shape) {
    pf_tensor *t = NULL;
    pf_dtype dtype = below(4) == 0 ? PF_I32 : PF_F32;
    CHECK_OK(pf_tensor_full(&t, e, dtype, shapes[shape].rank, shapes[shape].shape, below(2)));
    return t;
}

static void some_attr(const pf_attr_info *info, pf_attr *attr) {
    switch (info->kind) {
    case PF_ATTR_FLOAT:
        return;
    case PF_ATTR_DIMS:
    case PF_ATTR_INTS:
        attr->n = below(PF_MAX_RANK + 1);
        for (int i = 0; i < attr->n; i++) attr->list[i] = extreme();
        return;
    default:
        if (below(3) > 0) attr->i = extreme();
    }
}

/* 1 where the call was answered. */
static int try_once(pf_engine *e, int index, const pf_op_info *op) {
    pf_attr attr[64];
    pf_tensor *in[MOST_IN] = {NULL}, *out[8] = {NULL};
    int shape = below((int)(sizeof shapes / sizeof *shapes));
    int n = op->min_inputs + below(op->max_inputs - op->min_inputs + 1);
    CHECK_OK(pf_op_defaults(e, index, attr));
    for (int i = 0; i < op->n_attrs; i++) some_attr(&op->attrs[i], &attr[i]);
    for (int i = 0; i < n; i++)
        if (i < op->min_inputs || below(4) == 0)
            in[i] = some_tensor(e, below(4) ? shape : below((int)(sizeof shapes / sizeof *shapes)));
    int status = pf_op_apply(e, index, in, n, attr, out);
    CHECK(status >= 0 || pf_last_error()[0]);
    for (int i = 0; i < n; i++) pf_tensor_release(&in[i]);
    for (int i = 0; i < op->outputs && status >= 0; i++) pf_tensor_release(&out[i]);
    return status >= 0;
}

static void test_every_op(pf_engine *e) {
    int answered = 0;
    for (int index = 0; index < pf_op_count(e); index++) {
        pf_op_info op = {.size = sizeof op};
        CHECK_OK(pf_op_at(e, index, &op));
        for (int i = 0; i < (op.n_attrs ? TRIALS : 0); i++) answered += try_once(e, index, &op);
    }
    CHECK(answered > 500);
}

/* heads + 2 kv_heads wraps around to 0, and to small numbers. */
static void test_heads(pf_engine *e) {
    static const int64_t bad[][2] = {{2, INT64_MAX},
                                     {1, INT64_MAX},
                                     {INT64_MAX, INT64_MAX},
                                     {INT64_MAX, 0},
                                     {2, INT64_MAX / 2 + 1},
                                     {INT64_MIN, 1},
                                     {0, 1},
                                     {1, -1},
                                     {2, INT64_MIN}};
    pf_tensor *x = NULL, *out[3] = {NULL};
    pf_attr attr[2];
    int index = pf_op_find(e, "split_heads");
    CHECK_OK(pf_tensor_full(&x, e, PF_F32, 3, (int64_t[]){1, 2, 6}, 1));
    for (int i = 0; i < (int)(sizeof bad / sizeof *bad); i++) {
        CHECK_OK(pf_op_defaults(e, index, attr));
        attr[0].i = bad[i][0], attr[1].i = bad[i][1];
        CHECK_FAILS(PF_ESHAPE, pf_op_apply(e, index, &x, 1, attr, out));
    }
    attr[0].i = 4, attr[1].i = 1;
    CHECK_OK(pf_op_apply(e, index, &x, 1, attr, out));
    CHECK(pf_tensor_size(out[0], 1) == 4 && pf_tensor_size(out[2], 1) == 1);
    for (int i = 0; i < 3; i++) pf_tensor_release(&out[i]);
    pf_tensor_release(&x);
}

int main(void) {
    pf_engine *e = NULL;
    pf_options options = PF_OPTIONS_DEFAULT;
    options.threads = 1;
    options.memory = (size_t)256 << 20;
    CHECK_OK(pf_engine_open(&e, &options));
    test_every_op(e);
    test_heads(e);
    pf_engine_close(&e);
    return CHECK_REPORT();
}
