/*
 * ops_elementwise_test.c - elementwise and unary ops, reductions, softmax, movement, and the
 * registry with its errors, on every kernel level and for 1 to 4 threads.
 */
#include "ops_support.h"

/* ---- elementwise and unary ---------------------------------------------------- */

static int judged; /* which of the family */

static double one_binary(double a, double b) {
    switch (judged) {
    case 0:
        return a + b;
    case 1:
        return a - b;
    case 2:
        return a * b;
    case 3:
        return a / b;
    case 4:
        return pow(a, b);
    case 5:
        return a > b ? a : b;
    default:
        return a < b ? a : b;
    }
}

static void judge_binary(const pf_attr *attr, int n, const dense *in, dense *out) {
    (void)attr, (void)n;
    for (int64_t i = 0; i < out->n; i++) {
        int64_t at[PF_MAX_RANK];
        places(out, i, at);
        out->v[i] = one_binary(in[0].v[broadcast_index(&in[0], out->rank, at)],
                               in[1].v[broadcast_index(&in[1], out->rank, at)]);
    }
}

static pf_tensor *positive(pf_tensor *t) {
    for (int64_t i = 0; i < pf_tensor_numel(t); i++) pf_f32(t)[i] = fabsf(pf_f32(t)[i]);
    return t;
}

static void test_elementwise(void) {
    static const struct {
        int ra;
        int64_t a[3];
        int rb;
        int64_t b[3];
    } shapes[] = {
        {3, {2, 3, 5}, 3, {2, 3, 5}}, {2, {3, 5}, 1, {5}},
        {2, {3, 5}, 2, {3, 1}},       {3, {2, 1, 5}, 3, {1, 3, 1}},
        {0, {0}, 2, {4, 3}},          {0, {0}, 0, {0}},
        {3, {2, 3, 4}, 2, {3, 1}},    {1, {1}, 1, {7}},
        {2, {0, 3}, 1, {3}},          {3, {3, 1, 70}, 3, {3, 300, 70}},
        {2, {300, 270}, 2, {300, 1}}, {1, {33}, 2, {1100, 33}},
        {0, {0}, 2, {300, 301}},
    };
    static const char *names[] = {"add", "sub", "mul", "div", "pow", "maximum", "minimum"};
    uint64_t before = 0;
    for (int o = 0; o < PF_COUNT(names); o++) {
        judged = o;
        /* The two extremes have the same numbers, none of which is a step away from a tie. */
        if (o == 5) before = random_state;
        if (o == 6) random_state = before;
        for (int k = 0; k < PF_COUNT(shapes); k++) {
            pf_tensor *a = filled(shapes[k].ra, shapes[k].a),
                      *b = filled(shapes[k].rb, shapes[k].b);
            if (o == 4) positive(a);
            const bool big = pf_tensor_numel(a) + pf_tensor_numel(b) > 1000;
            check_op(names[o], judge_binary, INPUTS(a, b), NULL, 1e-5, big ? 1 : 20);
        }
    }
}

static const char *unary_names[] = {"neg",     "exp",  "log",  "sqrt", "square",    "tanh",
                                    "sigmoid", "relu", "requ", "gelu", "gelu_tanh", "silu",
                                    "elu",     "abs",  "cos",  "sin",  "affine"};
enum { LOG = 2, SQRT = 3, AFFINE = 16 };

static double one_unary(double x) {
    switch (judged) {
    case 0:
        return -x;
    case 1:
        return exp(x);
    case LOG:
        return log(x);
    case SQRT:
        return sqrt(x);
    case 4:
        return x * x;
    case 5:
        return tanh(x);
    case 6:
        return 1 / (1 + exp(-x));
    case 7:
        return x > 0 ? x : 0;
    case 8:
        return x > 0 ? x * x : 0;
    case 9:
        return x * 0.5 * erfc(-x / sqrt(2));
    case 10:
        return 0.5 * x * (1 + tanh(sqrt(2 / acos(-1)) * (x + 0.044715 * x * x * x)));
    case 11:
        return x / (1 + exp(-x));
    case 12:
        return x > 0 ? x : exp(x) - 1;
    case 13:
        return fabs(x);
    case 14:
        return cos(x);
    case 15:
        return sin(x);
    default:
        return 2.5 * x - 0.75; /* affine */
    }
}

static void judge_unary(const pf_attr *attr, int n, const dense *in, dense *out) {
    (void)attr, (void)n;
    for (int64_t i = 0; i < out->n; i++) out->v[i] = one_unary(in[0].v[i]);
}

static void test_unary(void) {
    static const pf_attr affine[] = {{.f = 2.5}, {.f = -0.75}};
    for (judged = 0; judged < PF_COUNT(unary_names); judged++) {
        const char *name = unary_names[judged];
        const pf_attr *attr = judged == AFFINE ? affine : NULL;
        check_op(name, judge_unary, INPUTS(positive(TENSOR(3, 7, 37))), attr, 1e-5, 20);
        if (judged == LOG || judged == SQRT) continue;
        check_op(name, judge_unary, INPUTS(TENSOR(270, 131)), attr, 1e-5, 1);
        check_op(name, judge_unary, INPUTS(TENSOR(5, 0)), attr, 1e-5, 1);
        check_op(name, judge_unary, INPUTS(scalar()), attr, 1e-5, 1);
    }
}

/* ---- along a dimension -------------------------------------------------------- */

/* Sum, mean, max, argmax, logsumexp of the elements of x that meet in out[o]. */
static void judge_reduce(const pf_attr *attr, int n, const dense *in, dense *out) {
    (void)n;
    const dense *x = &in[0];
    const bool all = attr[0].i == PF_DIM_ALL;
    const int dim = (int)(attr[0].i < 0 && !all ? attr[0].i + x->rank : attr[0].i);
    const double count = all ? (double)x->n : (double)x->shape[dim];
    int64_t inner = 1;
    for (int d = dim + 1; !all && d < x->rank; d++) inner *= x->shape[d];
    const int64_t length = all ? x->n : x->shape[dim];
    for (int64_t o = 0; o < out->n; o++) {
        const int64_t start = all ? 0 : o / inner * length * inner + o % inner;
        double sum = 0, most = -INFINITY, exps = 0, place = 0;
        for (int64_t i = 0; i < length; i++) {
            const double v = x->v[start + i * (all ? 1 : inner)];
            sum += v;
            exps += exp(v);
            if (v > most) most = v, place = (double)i;
        }
        const double results[] = {sum, sum / count, most, place, log(exps)};
        out->v[o] = results[judged];
    }
}

static void judge_softmax(const pf_attr *attr, int n, const dense *in, dense *out) {
    (void)n;
    const dense *x = &in[0];
    const int dim = (int)(attr[0].i < 0 ? attr[0].i + x->rank : attr[0].i);
    int64_t inner = 1;
    for (int d = dim + 1; d < x->rank; d++) inner *= x->shape[d];
    for (int64_t i = 0; i < x->n; i++) {
        const int64_t start = i / (inner * x->shape[dim]) * inner * x->shape[dim] + i % inner;
        double exps = 0;
        for (int64_t j = 0; j < x->shape[dim]; j++) exps += exp(x->v[start + j * inner]);
        out->v[i] = judged == 0 ? exp(x->v[i]) / exps : x->v[i] - log(exps);
    }
}

static void test_along(void) {
    static const char *names[] = {"sum", "mean", "max", "argmax", "logsumexp"};
    for (int o = 0; o < PF_COUNT(names); o++) {
        const int samples = o == 3 ? 0 : 40;
        judged = o;
        for (int dim = -1; dim <= 3; dim++)
            for (int keep = 0; keep < 2; keep++) {
                const pf_attr attr[] = {{.i = dim == 3 ? PF_DIM_ALL : dim}, {.i = keep}};
                check_op(names[o], judge_reduce, INPUTS(TENSOR(3, 4, 5)), attr, 1e-5, samples);
                if (keep || dim < 1) continue;
                const int64_t rows = o < 2 ? 700 : 90; /* sums: several blocks and tasks */
                check_op(names[o], judge_reduce, INPUTS(TENSOR(2, rows, 130)), attr, 5e-5,
                         samples ? 2 : 0);
            }
        const pf_attr all[] = {{.i = PF_DIM_ALL}, {.i = 0}};
        check_op(names[o], judge_reduce, INPUTS(scalar()), all, 1e-5, samples);
    }
    judged = 0;
    const pf_attr first[] = {{.i = 0}, {.i = 0}};
    check_op("sum", judge_reduce, INPUTS(TENSOR(0, 3)), first, 1e-5, 1);
    judged = 4;
    check_op("logsumexp", judge_reduce, INPUTS(TENSOR(0, 3)), first, 1e-5, 1);
    for (int o = 0; o < 2; o++) {
        const char *name = o ? "log_softmax" : "softmax";
        judged = o;
        for (int dim = -1; dim < 3; dim++) {
            const pf_attr attr[] = {{.i = dim}};
            check_op(name, judge_softmax, INPUTS(TENSOR(3, 4, 5)), attr, 1e-5, 60);
        }
        check_op(name, judge_softmax, INPUTS(TENSOR(150, 133)), NULL, 1e-5, 1);
        check_op(name, judge_softmax, INPUTS(TENSOR(4, 0)), NULL, 1e-5, 1);
    }
}

/* Rows of -inf, ties and NaN. */
static void test_edges(void) {
    static const float values[] = {-INFINITY, -INFINITY, -INFINITY, 2, 7, 7, 1, NAN, 3};
    static const struct {
        const char *op;
        int n;
        float want[9];
    } cases[] = {
        {"softmax", 3, {0, 0, 0}},     {"log_softmax", 3, {-INFINITY, -INFINITY, -INFINITY}},
        {"logsumexp", 1, {-INFINITY}}, {"max", 3, {-INFINITY, 7, NAN}},
        {"argmax", 3, {0, 1, 1}},
    };
    pf_tensor *x = TENSOR(3, 3);
    memcpy(pf_f32(x), values, sizeof values);
    for (int k = 0; k < PF_COUNT(cases); k++) {
        pf_call c;
        set_call(&c, cases[k].op, &x, 1, NULL);
        c.attr[0].i = -1;
        CHECK_OK(pf_call_forward(&c));
        for (int i = 0; i < cases[k].n; i++) {
            double got;
            CHECK_OK(pf_tensor_get(c.out[0], i, &got));
            CHECK(near(got, (double)cases[k].want[i], 0));
        }
        if (c.op->backward) {
            sink s = {.base = {&sink_ops}, .fresh = true};
            c.grad_context = &s;
            c.need[0] = true;
            c.dout[0] = filled(c.out[0]->rank, c.out[0]->shape);
            CHECK_OK(pf_call_backward(&c));
            /* Rows of -inf have no gradient, except that max gives it to the first. */
            for (int i = k == 3 ? 1 : 0; i < 3; i++) CHECK(pf_f32(s.grad[0])[i] == 0);
            if (k == 3) CHECK(pf_f32(s.grad[0])[4] == 0 || pf_f32(s.grad[0])[5] == 0);
            pf_tensor_release(&s.grad[0]);
            pf_tensor_release(&c.dout[0]);
        }
        pf_call_release(&c);
    }
    pf_tensor_release(&x);
}

/* ---- movement ----------------------------------------------------------------- */

static int moved_case;

static void judge_moved(const pf_attr *attr, int n, const dense *in, dense *out) {
    (void)attr, (void)n;
    for (int64_t i = 0; i < out->n; i++) {
        int64_t at[PF_MAX_RANK], from = i;
        places(out, i, at);
        if (moved_case == 1) from = (at[0] * 3 + at[2]) * 4 + at[1];     /* (2,3,4) 1<->2 */
        if (moved_case == 2) from = (at[1] * 3 + at[2]) * 4 + at[0];     /* order 2, 0, 1 */
        if (moved_case == 3) from = (at[0] * 3 + at[1] + 1) * 4 + at[2]; /* dim 1 from 1 */
        if (moved_case == 4) from = (at[0] * 3 + at[1]) * 4 + at[2] + 1; /* dim -1: [1, 3) */
        out->v[i] = in[0].v[from];
    }
}

static void judge_concat(const pf_attr *attr, int n, const dense *in, dense *out) {
    const int dim = (int)attr[0].i;
    for (int64_t i = 0; i < out->n; i++) {
        int64_t at[PF_MAX_RANK];
        int k = 0;
        places(out, i, at);
        for (; k < n - 1 && at[dim] >= in[k].shape[dim]; k++) at[dim] -= in[k].shape[dim];
        int64_t from = 0;
        for (int d = 0; d < in[k].rank; d++) from = from * in[k].shape[d] + at[d];
        out->v[i] = in[k].v[from];
    }
}

static void test_movement(void) {
    static const pf_attr shapes[] = {
        {.n = 1, .list = {24}},         {.n = 2, .list = {6, -1}},
        {.n = 4, .list = {2, 3, 2, 2}}, {.n = 3, .list = {1, 24, 1}},
        {.n = 4, .list = {2, 1, 3, 4}}, {.n = 3, .list = {4, 3, 2}},
    };
    moved_case = 0;
    for (int k = 0; k < PF_COUNT(shapes); k++)
        check_op("reshape", judge_moved, INPUTS(TENSOR(2, 3, 4)), &shapes[k], 0, 30);
    check_op("reshape", judge_moved, INPUTS(TENSOR(1, 1)), (const pf_attr[]){{.n = 0}}, 0, 1);
    check_op("reshape", judge_moved, INPUTS(scalar()), (const pf_attr[]){{.n = 2, .list = {1, 1}}},
             0, 1);
    check_op("reshape", judge_moved, INPUTS(TENSOR(0, 3)),
             (const pf_attr[]){{.n = 2, .list = {3, -1}}}, 0, 1);
    moved_case = 1;
    check_op("transpose", judge_moved, INPUTS(TENSOR(2, 3, 4)),
             (const pf_attr[]){{.i = 1}, {.i = -1}}, 0, 30);
    moved_case = 2;
    check_op("permute", judge_moved, INPUTS(TENSOR(2, 3, 4)),
             (const pf_attr[]){{.n = 3, .list = {2, 0, -2}}}, 0, 30);
    moved_case = 3;
    check_op("slice", judge_moved, INPUTS(TENSOR(2, 3, 4)),
             (const pf_attr[]){{.i = 1}, {.i = -2}, {.i = PF_INDEX_END}}, 0, 30);
    check_op("slice", judge_moved, INPUTS(TENSOR(2, 3, 4)),
             (const pf_attr[]){{.i = 1}, {.i = 3}, {.i = 3}}, 0, 30);
    moved_case = 4;
    check_op("slice", judge_moved, INPUTS(TENSOR(2, 3, 4)),
             (const pf_attr[]){{.i = -1}, {.i = 1}, {.i = -1}}, 0, 30);
    check_op("concat", judge_concat, INPUTS(TENSOR(2, 3), TENSOR(2, 0), TENSOR(2, 4)),
             (const pf_attr[]){{.i = 1}}, 0, 30);
    check_op("concat", judge_concat, INPUTS(TENSOR(2, 3), TENSOR(5, 3)), NULL, 0, 30);
    check_op("concat", judge_concat, INPUTS(TENSOR(2, 3)), NULL, 0, 30);
}

/* Views share their storage. */
static void test_views(void) {
    pf_tensor *x = TENSOR(2, 3, 4), *part = NULL;
    pf_call c;
    set_call(&c, "transpose", &x, 1, NULL);
    CHECK_OK(pf_call_forward(&c));
    CHECK(c.out[0]->storage == x->storage);
    pf_call_release(&c);
    set_call(&c, "reshape", &x, 1, NULL);
    c.attr[0] = (pf_attr){.n = 2, .list = {6, 4}};
    CHECK_OK(pf_call_forward(&c));
    CHECK(c.out[0]->storage == x->storage);
    pf_call_release(&c);
    /* A part of the last dimension can still be cut in heads without a copy. */
    CHECK_OK(pf_tensor_view(&part, x));
    part->shape[2] = 2;
    set_call(&c, "reshape", &part, 1, NULL);
    c.attr[0] = (pf_attr){.n = 4, .list = {2, 3, 2, 1}};
    CHECK_OK(pf_call_forward(&c));
    CHECK(c.out[0]->storage == x->storage && !pf_tensor_contiguous(c.out[0]));
    pf_call_release(&c);
    set_call(&c, "reshape", &part, 1, NULL);
    c.attr[0] = (pf_attr){.n = 1, .list = {12}};
    CHECK_OK(pf_call_forward(&c));
    CHECK(c.out[0]->storage != x->storage);
    pf_call_release(&c);
    pf_tensor_release(&part);
    pf_tensor_release(&x);
}

static void test_integers(void) {
    static const int32_t av[] = {1, -2, INT32_MAX}, bv[] = {1};
    static const int32_t want[5][3] = {{2, -1, INT32_MIN},
                                       {0, -3, INT32_MAX - 1},
                                       {1, -2, INT32_MAX},
                                       {1, 1, INT32_MAX},
                                       {1, -2, 1}};
    static const char *names[] = {"add", "sub", "mul", "maximum", "minimum"};
    pf_tensor *in[2] = {NULL};
    pf_call c;
    CHECK_OK(pf_tensor_make(&in[0], &engine, PF_I32, 1, SHAPE(3)));
    CHECK_OK(pf_tensor_make(&in[1], &engine, PF_I32, 1, SHAPE(1)));
    memcpy(pf_i32(in[0]), av, sizeof av);
    memcpy(pf_i32(in[1]), bv, sizeof bv);
    for (int o = 0; o < PF_COUNT(names); o++) {
        set_call(&c, names[o], in, 2, NULL);
        CHECK_OK(pf_call_forward(&c));
        CHECK(c.out[0]->dtype == PF_I32 && memcmp(pf_i32(c.out[0]), want[o], sizeof want[o]) == 0);
        pf_call_release(&c);
    }
    set_call(&c, "div", in, 2, NULL);
    CHECK_FAILS(PF_EDTYPE, pf_call_forward(&c));
    pf_tensor_release(&in[0]);
    pf_tensor_release(&in[1]);
}

/* ---- errors ------------------------------------------------------------------- */

/* The call fails with `status`, and its message holds `part`. */
static void fails(int status, const char *part, const char *op, pf_tensor **in, int n,
                  const pf_attr *attr) {
    pf_call c;
    set_call(&c, op, in, n, attr);
    const int got = pf_call_forward(&c);
    CHECK(got == status);
    CHECK(strstr(pf_last_error(), part) != NULL);
    if (!strstr(pf_last_error(), part))
        fprintf(stderr, "  \"%s\" lacks \"%s\"\n", pf_last_error(), part);
    CHECK(c.out[0] == NULL);
    for (int i = 0; i < n; i++) pf_tensor_release(&in[i]);
}

static void test_errors(void) {
    pf_tensor *dead = NULL, *ids = NULL;
    CHECK_OK(pf_tensor_ghost(&dead, engine.n_ops ? (ids = TENSOR(2, 2)) : NULL));
    pf_tensor_release(&ids);
    fails(PF_ESTATE, "matmul: b is dead", "matmul", INPUTS(TENSOR(2, 2), dead), NULL);
    fails(PF_EINVAL, "matmul: b is missing", "matmul", INPUTS(TENSOR(2, 2), NULL), NULL);
    fails(PF_EINVAL, "takes 2 to 2 inputs", "matmul", INPUTS(TENSOR(2, 2)), NULL);
    fails(PF_ESHAPE,
          "matmul: a is [32, 64], b is [128, 64]; a's last dimension (64) must equal b's second to "
          "last (128); b transposed",
          "matmul", INPUTS(TENSOR(32, 64), TENSOR(128, 64)), NULL);
    fails(PF_ESHAPE, "batch dimension -3", "matmul", INPUTS(TENSOR(2, 3, 4), TENSOR(3, 4, 5)),
          NULL);
    fails(PF_ESHAPE, "a is a scalar", "matmul", INPUTS(scalar(), TENSOR(3)), NULL);
    fails(PF_ESHAPE, "weight transposed would fit", "linear", INPUTS(TENSOR(2, 5), TENSOR(5, 4)),
          NULL);
    fails(PF_ESHAPE, "bias must be [5]", "linear", INPUTS(TENSOR(2, 4), TENSOR(5, 4), TENSOR(4)),
          NULL);
    fails(PF_ESHAPE, "add: a is [2, 3], b is [2, 4]; dimension -1", "add",
          INPUTS(TENSOR(2, 3), TENSOR(2, 4)), NULL);
    CHECK_OK(pf_tensor_arange(&ids, &engine, PF_I32, 3));
    fails(PF_EDTYPE, "add: a [3] is f32 and b [3] is i32; cast", "add", INPUTS(TENSOR(3), ids),
          NULL);
    fails(PF_ESHAPE, "mean of no elements", "mean", INPUTS(TENSOR(0, 3)), NULL);
    fails(PF_ESHAPE, "no dimension 2", "sum", INPUTS(TENSOR(2, 3)),
          (const pf_attr[]){{.i = 2}, {.i = 0}});
    fails(PF_EINVAL, "keep is true", "sum", INPUTS(TENSOR(2)),
          (const pf_attr[]){{.i = 0}, {.i = 7}});
    fails(PF_ESHAPE, "6 elements don't fill [4, -1]", "reshape", INPUTS(TENSOR(2, 3)),
          (const pf_attr[]){{.n = 2, .list = {4, -1}}});
    fails(PF_ESHAPE, "only one size", "reshape", INPUTS(TENSOR(2, 3)),
          (const pf_attr[]){{.n = 2, .list = {-1, -1}}});
    fails(PF_EINVAL, "at most 8", "reshape", INPUTS(TENSOR(2, 3)), (const pf_attr[]){{.n = 9}});
    fails(PF_ESHAPE, "stands twice", "permute", INPUTS(TENSOR(2, 3)),
          (const pf_attr[]){{.n = 2, .list = {0, 0}}});
    fails(PF_ESHAPE, "does not lie in dimension -1", "slice", INPUTS(TENSOR(2, 3)),
          (const pf_attr[]){{.i = 1}, {.i = 2}, {.i = 5}});
    fails(PF_ESHAPE, "tensors[1] differs in dimension -1", "concat",
          INPUTS(TENSOR(2, 3), TENSOR(2, 4)), NULL);
    CHECK_FAILS(PF_ENOTFOUND, pf_op_find(&engine, "matmull"));
    CHECK(strstr(pf_last_error(), "'matmul'") != NULL);
}

static void test_registry(void) {
    const int n = pf_op_count(&engine);
    CHECK(n > 40);
    for (int i = 0; i < n; i++) {
        pf_op_info info = {.size = sizeof info};
        pf_attr attrs[PF_MAX_ATTR];
        CHECK_OK(pf_op_at(&engine, i, &info));
        CHECK(pf_op_find(&engine, info.name) == i);
        CHECK(info.doc && strlen(info.doc) > 10 && info.args && info.results);
        CHECK_OK(pf_op_defaults(&engine, i, attrs));
        for (int k = 0; k < info.n_attrs; k++) CHECK(info.attrs[k].doc != NULL);
    }
    pf_op_info info = {.size = sizeof info};
    CHECK_FAILS(PF_ENOTFOUND, pf_op_at(&engine, n, &info));
    CHECK_FAILS(PF_ENOTFOUND, pf_op_at(&engine, -1, &info));
}

static void test_all(void) {
    test_registry();
    test_elementwise();
    test_unary();
    test_along();
    test_edges();
    test_movement();
    test_views();
    test_integers();
    test_errors();
}

int main(void) { return run_levels(test_all); }
