/*
 * ops_a_test.c - the first half of the ops: elementwise, unary, reductions, softmax, matrix
 * products, movement. Every op is held against a plain double version of itself (values),
 * and against that version's central differences (gradients), contiguous and strided, with
 * slots that are fresh and slots that hold something. All of it runs for every kernel level
 * and for 1 to 4 threads, and must give the same bits for every number of threads.
 */
#include "check.h"

#include "kern.h"
#include "op.h"

static pf_engine engine;
static uint64_t hash; /* of every float that an op has produced since open_engine */
static uint64_t random_state;

/* ---- engine, random numbers, tensors ------------------------------------------ */

static int open_engine(int threads, pf_cpu cpu) {
    pf_options options = PF_OPTIONS_DEFAULT;
    options.threads = threads;
    options.cpu = cpu;
    memset(&engine, 0, sizeof engine);
    const int status = pf_runtime_open(&engine, &options);
    if (status < 0) return status;
    hash = 14695981039346656037u;
    random_state = 1;
    return pf_ops_register(&engine);
}

/* In (-1.2, -0.2) or (0.2, 1.2): away from the kinks at 0. */
static float draw(void) {
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    const float u = (float)(random_state >> 40) / 16777216.0f;
    return random_state >> 39 & 1 ? 0.2f + u : -0.2f - u;
}

static pf_tensor *filled(int rank, const int64_t *shape) {
    pf_tensor *t = NULL;
    CHECK_OK(pf_tensor_make(&t, &engine, PF_F32, rank, shape));
    float *x = pf_f32(t);
    for (int64_t i = 0; i < pf_tensor_numel(t); i++) x[i] = draw();
    return t;
}

#define SHAPE(...) (const int64_t[]){__VA_ARGS__}
#define RANK(...) ((int)(sizeof(SHAPE(__VA_ARGS__)) / sizeof(int64_t)))
#define TENSOR(...) filled(RANK(__VA_ARGS__), SHAPE(__VA_ARGS__))

static pf_tensor *scalar(void) { return filled(0, SHAPE(1)); }

/* The same numbers, laid out otherwise: 1 transposed (last two), 2 every second element. */
static pf_tensor *relaid(const pf_tensor *t, int how) {
    int64_t shape[PF_MAX_RANK];
    pf_tensor *store = NULL, *view = NULL;
    const int last = t->rank - 1;
    if (t->rank < (how == 1 ? 2 : 1)) how = 0;
    memcpy(shape, t->shape, sizeof shape);
    if (how == 1) {
        shape[last] = t->shape[last - 1];
        shape[last - 1] = t->shape[last];
    }
    if (how == 2) shape[last] *= 2;
    CHECK_OK(pf_tensor_make(&store, &engine, t->dtype, t->rank, shape));
    CHECK_OK(pf_tensor_fill(store, NAN));
    CHECK_OK(pf_tensor_view(&view, store));
    if (how == 1) {
        view->stride[last] = store->stride[last - 1];
        view->stride[last - 1] = store->stride[last];
    }
    if (how == 2) view->stride[last] = 2;
    for (int d = 0; d < t->rank; d++) view->shape[d] = t->shape[d];
    CHECK_OK(pf_tensor_copy(view, t));
    pf_tensor_release(&store);
    return view;
}

static void absorb(const pf_tensor *t) {
    for (int64_t i = 0; i < pf_tensor_numel(t); i++) {
        double value = 0;
        pf_tensor_get(t, i, &value);
        const float f = (float)value;
        uint32_t bits;
        memcpy(&bits, &f, sizeof bits);
        hash = (hash ^ bits) * 1099511628211u;
    }
}

/* ---- dense doubles, the judges' arrays ---------------------------------------- */

typedef struct dense {
    int rank;
    int64_t shape[PF_MAX_RANK], n;
    double *v;
} dense;

static dense dense_of(const pf_tensor *t) {
    dense d = {.rank = t->rank, .n = pf_tensor_numel(t)};
    memcpy(d.shape, t->shape, sizeof d.shape);
    d.v = malloc(sizeof(double) * (size_t)(d.n + 1));
    for (int64_t i = 0; i < d.n; i++) pf_tensor_get(t, i, &d.v[i]);
    return d;
}

static void places(const dense *d, int64_t index, int64_t *at) {
    for (int k = d->rank - 1; k >= 0; k--) {
        at[k] = index % d->shape[k];
        index /= d->shape[k];
    }
}

/* The element of d at place `at` of a shape of `rank`, broadcast. */
static int64_t broadcast_index(const dense *d, int rank, const int64_t *at) {
    int64_t index = 0;
    for (int k = 0; k < d->rank; k++) {
        const int64_t i = at[k + rank - d->rank];
        index = index * d->shape[k] + (d->shape[k] == 1 ? 0 : i);
    }
    return index;
}

typedef void (*judge_fn)(const pf_attr *attr, int n_in, const dense *in, dense *out);

/* ---- gradients: a sink of our own --------------------------------------------- */

typedef struct sink {
    pf_grad_sink base;
    bool fresh; /* slots are new; else they hold 1 */
    pf_tensor *grad[PF_MAX_IN];
} sink;

static int sink_slot(pf_call *c, int i, bool want_fresh, bool *fresh, pf_tensor **t) {
    sink *s = c->grad_context;
    *fresh = false;
    if (!s->grad[i]) {
        PF_TRY(pf_tensor_make(&s->grad[i], c->engine, PF_F32, c->in[i]->rank, c->in[i]->shape));
        *fresh = want_fresh && s->fresh;
        PF_TRY(pf_tensor_fill(s->grad[i], *fresh ? NAN : s->fresh ? 0 : 1));
    }
    *t = s->grad[i];
    return PF_OK;
}

static int sink_give(pf_call *c, int i, pf_tensor *given) {
    pf_tensor *t;
    bool fresh;
    CHECK(pf_same_shape(given, c->in[i]));
    PF_TRY(sink_slot(c, i, false, &fresh, &t));
    for (int64_t k = 0; k < pf_tensor_numel(t); k++) {
        double old, more;
        pf_tensor_get(t, k, &old);
        pf_tensor_get(given, k, &more);
        pf_tensor_set(t, k, old + more);
    }
    return PF_OK;
}

static const pf_grad_ops sink_ops = {sink_slot, sink_give};

/* ---- one call against its judge ----------------------------------------------- */

static void set_call(pf_call *c, const char *name, pf_tensor *const *in, int n,
                     const pf_attr *attrs) {
    memset(c, 0, sizeof *c);
    c->engine = &engine;
    c->op = pf_registry_find(&engine, name);
    c->n_in = n;
    c->record = true;
    for (int i = 0; i < n; i++) c->in[i] = in[i];
    if (!c->op) {
        fprintf(stderr, "%s\n", pf_last_error());
        exit(1);
    }
    pf_op_fill_defaults(c->op, c->attr);
    for (int k = 0; attrs && k < c->op->n_attrs; k++) c->attr[k] = attrs[k];
}

static bool near(double got, double want, double tolerance) {
    if (isnan(want)) return isnan(got);
    if (isinf(want)) return got == want;
    return fabs(got - want) <= tolerance * (1 + fabs(want));
}

static void compare(const char *what, const pf_tensor *t, const dense *want, double tolerance) {
    for (int64_t i = 0; i < want->n; i++) {
        double got = 0;
        pf_tensor_get(t, i, &got);
        if (near(got, want->v[i], tolerance)) continue;
        fprintf(stderr, "%s, element %lld of %s: %.9g, not %.9g\n", what, (long long)i,
                pf_shape_of(t), got, want->v[i]);
        CHECK(!"value");
        return;
    }
    CHECK(true);
}

static double judged_loss(const pf_call *c, judge_fn judge, const dense *in, dense *out,
                          const dense *dy) {
    double loss = 0;
    judge(c->attr, c->n_in, in, out);
    for (int64_t i = 0; i < out->n; i++) loss += out->v[i] * dy->v[i];
    return loss;
}

/* Gradients in s against central differences of the judge, at up to `samples` places. */
static void compare_gradients(pf_call *c, const sink *s, judge_fn judge, dense *in, dense *out,
                              double tolerance, int samples) {
    const double h = 1e-5;
    dense dy = dense_of(c->dout[0]);
    for (int i = 0; i < c->n_in; i++) {
        if (!c->need[i]) continue;
        CHECK(s->grad[i] != NULL);
        if (!s->grad[i]) continue;
        absorb(s->grad[i]);
        const int64_t step = in[i].n / samples + 1;
        for (int64_t k = 0; k < in[i].n; k += step) {
            const double x = in[i].v[k];
            in[i].v[k] = x + h;
            const double above = judged_loss(c, judge, in, out, &dy);
            in[i].v[k] = x - h;
            const double below = judged_loss(c, judge, in, out, &dy);
            in[i].v[k] = x;
            double got = 0, want = (above - below) / (2 * h) + (s->fresh ? 0 : 1);
            pf_tensor_get(s->grad[i], k, &got);
            if (near(got, want, tolerance)) continue;
            fprintf(stderr, "%s: gradient of %s %s, element %lld: %.9g, not %.9g\n", c->op->name,
                    pf_op_arg_name(c->op, i), pf_shape_of(c->in[i]), (long long)k, got, want);
            CHECK(!"gradient");
            break;
        }
    }
    free(dy.v);
}

static void backward(pf_call *c, judge_fn judge, dense *in, dense *out, double tolerance,
                     int samples) {
    pf_tensor *dy = filled(c->out[0]->rank, c->out[0]->shape);
    pf_tensor *kept[PF_MAX_IN], *out_kept = c->out[0];
    memcpy(kept, c->in, sizeof kept);
    for (int way = 0; way < 3; way++) {
        sink s = {.base = {&sink_ops}, .fresh = way != 1};
        c->grad_context = &s;
        c->dout[0] = relaid(dy, way);
        for (int i = 0; i < c->n_in; i++) c->need[i] = c->in[i] != NULL;
        /* What `uses` does not name is a ghost, as on a tape. */
        for (int i = 0; i < c->n_in; i++)
            if (c->in[i] && !(c->op->uses & PF_USES_IN(i))) pf_tensor_ghost(&c->in[i], kept[i]);
        if (!(c->op->uses & PF_USES_OUT(0))) pf_tensor_ghost(&c->out[0], out_kept);
        CHECK_OK(c->op->backward(c));
        compare_gradients(c, &s, judge, in, out, tolerance, samples);
        for (int i = 0; i < c->n_in; i++) {
            if (c->in[i] != kept[i]) pf_tensor_release(&c->in[i]);
            c->in[i] = kept[i];
            pf_tensor_release(&s.grad[i]);
        }
        if (c->out[0] != out_kept) pf_tensor_release(&c->out[0]);
        c->out[0] = out_kept;
        pf_tensor_release(&c->dout[0]);
    }
    pf_tensor_release(&dy);
}

/* The op on `inputs` (released here) in all layouts. samples 0: no gradient. */
static void check_op(const char *name, judge_fn judge, pf_tensor **inputs, int n,
                     const pf_attr *attrs, double tolerance, int samples) {
    for (int way = 0; way < 3; way++) {
        pf_tensor *in[PF_MAX_IN] = {NULL};
        dense in_d[PF_MAX_IN], out_d;
        pf_call c;
        for (int i = 0; i < n; i++) {
            in[i] = inputs[i] ? relaid(inputs[i], (way + i) % 3) : NULL;
            in_d[i] = inputs[i] ? dense_of(inputs[i]) : (dense){0};
        }
        set_call(&c, name, in, n, attrs);
        const int status = pf_call_forward(&c);
        CHECK_OK(status);
        if (status >= 0) {
            absorb(c.out[0]);
            out_d = dense_of(c.out[0]);
            judge(c.attr, n, in_d, &out_d);
            compare(name, c.out[0], &out_d, tolerance);
            if (samples) backward(&c, judge, in_d, &out_d, fmax(tolerance * 10, 1e-6), samples);
            free(out_d.v);
        }
        pf_call_release(&c);
        for (int i = 0; i < n; i++) {
            free(in_d[i].v);
            pf_tensor_release(&in[i]);
        }
    }
    for (int i = 0; i < n; i++) pf_tensor_release(&inputs[i]);
}

#define INPUTS(...) \
    (pf_tensor *[]){__VA_ARGS__}, (int)(sizeof((pf_tensor *[]){__VA_ARGS__}) / sizeof(pf_tensor *))

/* ---- elementwise and unary ---------------------------------------------------- */

static const char *judged_name;

static double one_binary(double a, double b) {
    if (!strcmp(judged_name, "add")) return a + b;
    if (!strcmp(judged_name, "sub")) return a - b;
    if (!strcmp(judged_name, "mul")) return a * b;
    if (!strcmp(judged_name, "div")) return a / b;
    if (!strcmp(judged_name, "pow")) return pow(a, b);
    return a > b ? a : b;
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
    static const struct { int ra; int64_t a[3]; int rb; int64_t b[3]; } shapes[] = {
        {3, {2, 3, 5}, 3, {2, 3, 5}}, {2, {3, 5}, 1, {5}},          {2, {3, 5}, 2, {3, 1}},
        {3, {2, 1, 5}, 3, {1, 3, 1}}, {0, {0}, 2, {4, 3}},          {0, {0}, 0, {0}},
        {3, {2, 3, 4}, 2, {3, 1}},    {1, {1}, 1, {7}},             {2, {0, 3}, 1, {3}},
        {3, {3, 1, 70}, 3, {3, 300, 70}}, {2, {300, 270}, 2, {300, 1}}, {1, {33}, 2, {1100, 33}},
        {0, {0}, 2, {300, 301}},
    };
    static const char *names[] = {"add", "sub", "mul", "div", "pow", "maximum"};
    for (int o = 0; o < PF_COUNT(names); o++) {
        judged_name = names[o];
        for (int k = 0; k < PF_COUNT(shapes); k++) {
            pf_tensor *a = filled(shapes[k].ra, shapes[k].a), *b = filled(shapes[k].rb, shapes[k].b);
            if (o == 4) positive(a);
            const bool big = pf_tensor_numel(a) + pf_tensor_numel(b) > 1000;
            check_op(names[o], judge_binary, INPUTS(a, b), NULL, 1e-5, big ? 4 : 30);
        }
    }
}

static double one_unary(const char *f, double x) {
    const double tail = 0.5 * erfc(-x / sqrt(2));
    if (!strcmp(f, "neg")) return -x;
    if (!strcmp(f, "exp")) return exp(x);
    if (!strcmp(f, "log")) return log(x);
    if (!strcmp(f, "sqrt")) return sqrt(x);
    if (!strcmp(f, "square")) return x * x;
    if (!strcmp(f, "tanh")) return tanh(x);
    if (!strcmp(f, "sigmoid")) return 1 / (1 + exp(-x));
    if (!strcmp(f, "relu")) return x > 0 ? x : 0;
    if (!strcmp(f, "requ")) return x > 0 ? x * x : 0;
    if (!strcmp(f, "gelu")) return x * tail;
    if (!strcmp(f, "gelu_tanh"))
        return 0.5 * x * (1 + tanh(sqrt(2 / acos(-1)) * (x + 0.044715 * x * x * x)));
    if (!strcmp(f, "silu")) return x / (1 + exp(-x));
    if (!strcmp(f, "elu")) return x > 0 ? x : exp(x) - 1;
    if (!strcmp(f, "abs")) return fabs(x);
    if (!strcmp(f, "cos")) return cos(x);
    if (!strcmp(f, "sin")) return sin(x);
    return 2.5 * x - 0.75; /* affine */
}

static void judge_unary(const pf_attr *attr, int n, const dense *in, dense *out) {
    (void)attr, (void)n;
    for (int64_t i = 0; i < out->n; i++) out->v[i] = one_unary(judged_name, in[0].v[i]);
}

static void test_unary(void) {
    static const char *names[] = {"neg",  "exp",  "log",       "sqrt", "square", "tanh",
                                  "sigmoid", "relu", "requ",   "gelu", "gelu_tanh", "silu",
                                  "elu",  "abs",  "cos",       "sin",  "affine"};
    static const pf_attr affine[] = {{.f = 2.5}, {.f = -0.75}};
    for (int o = 0; o < PF_COUNT(names); o++) {
        const pf_attr *attr = o == PF_COUNT(names) - 1 ? affine : NULL;
        judged_name = names[o];
        check_op(names[o], judge_unary, INPUTS(positive(TENSOR(3, 7, 37))), attr, 1e-5, 30);
        if (o == 2 || o == 3) continue;
        check_op(names[o], judge_unary, INPUTS(TENSOR(270, 131)), attr, 1e-5, 4);
        check_op(names[o], judge_unary, INPUTS(TENSOR(5, 0)), attr, 1e-5, 1);
        check_op(names[o], judge_unary, INPUTS(scalar()), attr, 1e-5, 1);
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
        out->v[o] = !strcmp(judged_name, "sum")      ? sum
                    : !strcmp(judged_name, "mean")   ? sum / count
                    : !strcmp(judged_name, "max")    ? most
                    : !strcmp(judged_name, "argmax") ? place
                                                     : log(exps);
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
        out->v[i] = !strcmp(judged_name, "softmax") ? exp(x->v[i]) / exps : x->v[i] - log(exps);
    }
}

static void test_along(void) {
    static const char *names[] = {"sum", "mean", "max", "argmax", "logsumexp"};
    for (int o = 0; o < PF_COUNT(names); o++) {
        const int samples = o == 3 ? 0 : 40;
        judged_name = names[o];
        for (int dim = -1; dim <= 3; dim++)
            for (int keep = 0; keep < 2; keep++) {
                const pf_attr attr[] = {{.i = dim == 3 ? PF_DIM_ALL : dim}, {.i = keep}};
                check_op(names[o], judge_reduce, INPUTS(TENSOR(3, 4, 5)), attr, 1e-5, samples);
                if (keep || dim < 1) continue;
                check_op(names[o], judge_reduce, INPUTS(TENSOR(2, 700, 130)), attr, 5e-5,
                         samples ? 3 : 0); /* sums of 700: 3e-8 of their absolute terms */
            }
        const pf_attr all[] = {{.i = PF_DIM_ALL}, {.i = 0}};
        check_op(names[o], judge_reduce, INPUTS(scalar()), all, 1e-5, samples);
    }
    judged_name = "sum";
    const pf_attr first[] = {{.i = 0}, {.i = 0}};
    check_op("sum", judge_reduce, INPUTS(TENSOR(0, 3)), first, 1e-5, 1);
    judged_name = "logsumexp";
    check_op("logsumexp", judge_reduce, INPUTS(TENSOR(0, 3)), first, 1e-5, 1);
    for (int o = 0; o < 2; o++) {
        judged_name = o ? "log_softmax" : "softmax";
        for (int dim = -1; dim < 3; dim++) {
            const pf_attr attr[] = {{.i = dim}};
            check_op(judged_name, judge_softmax, INPUTS(TENSOR(3, 4, 5)), attr, 1e-5, 60);
        }
        check_op(judged_name, judge_softmax, INPUTS(TENSOR(300, 133)), NULL, 1e-5, 3);
        check_op(judged_name, judge_softmax, INPUTS(TENSOR(4, 0)), NULL, 1e-5, 1);
    }
}

/* Rows of -inf, ties and NaN. */
static void test_edges(void) {
    static const float values[] = {-INFINITY, -INFINITY, -INFINITY, 2, 7, 7, 1, NAN, 3};
    static const struct { const char *op; int n; float want[9]; } cases[] = {
        {"softmax", 3, {0, 0, 0}},
        {"log_softmax", 3, {-INFINITY, -INFINITY, -INFINITY}},
        {"logsumexp", 1, {-INFINITY}},
        {"max", 3, {-INFINITY, 7, NAN}},
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
            CHECK_OK(c.op->backward(&c));
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
    check_op("matmul", judge_matmul, INPUTS(TENSOR(256, 33), TENSOR(33, 64)), NULL, 1e-5, 3);
}

static void judge_linear(const pf_attr *attr, int n, const dense *in, dense *out) {
    (void)attr;
    const int64_t width = in[1].shape[0], k = in[1].shape[1];
    for (int64_t i = 0; i < out->n; i++) {
        const double *x = in[0].v + i / width * k, *w = in[1].v + i % width * k;
        double sum = n > 2 && in[2].v ? in[2].v[i % width] : 0;
        for (int64_t j = 0; j < k; j++) sum += x[j] * w[j];
        out->v[i] = sum;
    }
}

static void test_linear(void) {
    for (int step = 0; step < 2; step++) {
        const pf_attr attr[] = {{.i = step}};
        check_op("linear", judge_linear, INPUTS(TENSOR(3, 4), TENSOR(5, 4), TENSOR(5)), attr, 1e-5, 30);
        check_op("linear", judge_linear, INPUTS(TENSOR(3, 4), TENSOR(5, 4)), attr, 1e-5, 30);
        check_op("linear", judge_linear, INPUTS(TENSOR(4), TENSOR(5, 4), NULL), attr, 1e-5, 30);
        check_op("linear", judge_linear, INPUTS(TENSOR(2, 3, 4), TENSOR(5, 4), TENSOR(5)), attr, 1e-5, 30);
        check_op("linear", judge_linear, INPUTS(TENSOR(2, 2, 1, 4), TENSOR(5, 4), TENSOR(5)), attr, 1e-5, 30);
        check_op("linear", judge_linear, INPUTS(TENSOR(2, 0, 4), TENSOR(5, 4), TENSOR(5)), attr, 1e-5, 30);
        check_op("linear", judge_linear, INPUTS(TENSOR(3, 0), TENSOR(5, 0), TENSOR(5)), attr, 1e-5, 1);
        check_op("linear", judge_linear, INPUTS(TENSOR(2, 129, 70), TENSOR(520, 70), TENSOR(520)), attr, 1e-5, 2);
        check_op("linear", judge_linear, INPUTS(TENSOR(2, 128, 33), TENSOR(40, 33), TENSOR(40)), attr, 1e-5, 3);
    }
}

/* ---- movement ----------------------------------------------------------------- */

static int moved_case;

static void judge_moved(const pf_attr *attr, int n, const dense *in, dense *out) {
    (void)attr, (void)n;
    for (int64_t i = 0; i < out->n; i++) {
        int64_t at[PF_MAX_RANK], from = i;
        places(out, i, at);
        if (moved_case == 1) from = (at[0] * 3 + at[2]) * 4 + at[1];       /* (2,3,4) 1<->2 */
        if (moved_case == 2) from = (at[1] * 3 + at[2]) * 4 + at[0];       /* order 2, 0, 1 */
        if (moved_case == 3) from = (at[0] * 3 + at[1] + 1) * 4 + at[2];   /* dim 1 from 1 */
        if (moved_case == 4) from = (at[0] * 3 + at[1]) * 4 + at[2] + 1;   /* dim -1: [1, 3) */
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
        {.n = 1, .list = {24}},           {.n = 2, .list = {6, -1}},   {.n = 4, .list = {2, 3, 2, 2}},
        {.n = 3, .list = {1, 24, 1}},     {.n = 4, .list = {2, 1, 3, 4}}, {.n = 3, .list = {4, 3, 2}},
    };
    moved_case = 0;
    for (int k = 0; k < PF_COUNT(shapes); k++)
        check_op("reshape", judge_moved, INPUTS(TENSOR(2, 3, 4)), &shapes[k], 0, 30);
    check_op("reshape", judge_moved, INPUTS(TENSOR(1, 1)), (const pf_attr[]){{.n = 0}}, 0, 1);
    check_op("reshape", judge_moved, INPUTS(scalar()), (const pf_attr[]){{.n = 2, .list = {1, 1}}}, 0, 1);
    check_op("reshape", judge_moved, INPUTS(TENSOR(0, 3)), (const pf_attr[]){{.n = 2, .list = {3, -1}}}, 0, 1);
    moved_case = 1;
    check_op("transpose", judge_moved, INPUTS(TENSOR(2, 3, 4)), (const pf_attr[]){{.i = 1}, {.i = -1}}, 0, 30);
    moved_case = 2;
    check_op("permute", judge_moved, INPUTS(TENSOR(2, 3, 4)), (const pf_attr[]){{.n = 3, .list = {2, 0, -2}}}, 0, 30);
    moved_case = 3;
    check_op("slice", judge_moved, INPUTS(TENSOR(2, 3, 4)), (const pf_attr[]){{.i = 1}, {.i = -2}, {.i = PF_INDEX_END}}, 0, 30);
    check_op("slice", judge_moved, INPUTS(TENSOR(2, 3, 4)), (const pf_attr[]){{.i = 1}, {.i = 3}, {.i = 3}}, 0, 30);
    moved_case = 4;
    check_op("slice", judge_moved, INPUTS(TENSOR(2, 3, 4)), (const pf_attr[]){{.i = -1}, {.i = 1}, {.i = -1}}, 0, 30);
    check_op("concat", judge_concat, INPUTS(TENSOR(2, 3), TENSOR(2, 0), TENSOR(2, 4)), (const pf_attr[]){{.i = 1}}, 0, 30);
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
    static const int32_t want[4][3] = {{2, -1, INT32_MIN}, {0, -3, INT32_MAX - 1},
                                       {1, -2, INT32_MAX}, {1, 1, INT32_MAX}};
    static const char *names[] = {"add", "sub", "mul", "maximum"};
    pf_tensor *in[2] = {NULL};
    pf_call c;
    CHECK_OK(pf_tensor_make(&in[0], &engine, PF_I32, 1, SHAPE(3)));
    CHECK_OK(pf_tensor_make(&in[1], &engine, PF_I32, 1, SHAPE(1)));
    memcpy(pf_i32(in[0]), av, sizeof av);
    memcpy(pf_i32(in[1]), bv, sizeof bv);
    for (int o = 0; o < 4; o++) {
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

/* ---- errors ------------------------------------------------------------------- */

/* The call fails with `status`, and its message holds `part`. */
static void fails(int status, const char *part, const char *op, pf_tensor **in, int n,
                  const pf_attr *attr) {
    pf_call c;
    set_call(&c, op, in, n, attr);
    const int got = pf_call_forward(&c);
    CHECK(got == status);
    CHECK(strstr(pf_last_error(), part) != NULL);
    if (!strstr(pf_last_error(), part)) fprintf(stderr, "  \"%s\" lacks \"%s\"\n", pf_last_error(), part);
    CHECK(c.out[0] == NULL);
    for (int i = 0; i < n; i++) pf_tensor_release(&in[i]);
}

static void test_errors(void) {
    pf_tensor *dead = NULL, *ids = NULL;
    CHECK_OK(pf_tensor_ghost(&dead, engine.n_op_tables ? (ids = TENSOR(2, 2)) : NULL));
    pf_tensor_release(&ids);
    fails(PF_ESTATE, "matmul: b is dead", "matmul", INPUTS(TENSOR(2, 2), dead), NULL);
    fails(PF_EINVAL, "matmul: b is missing", "matmul", INPUTS(TENSOR(2, 2), NULL), NULL);
    fails(PF_EINVAL, "takes 2 to 2 inputs", "matmul", INPUTS(TENSOR(2, 2)), NULL);
    fails(PF_ESHAPE, "matmul: a is [32, 64], b is [128, 64]; a's last dimension (64) must equal b's second to last (128); b transposed",
          "matmul", INPUTS(TENSOR(32, 64), TENSOR(128, 64)), NULL);
    fails(PF_ESHAPE, "batch dimension 0", "matmul", INPUTS(TENSOR(2, 3, 4), TENSOR(3, 4, 5)), NULL);
    fails(PF_ESHAPE, "a is a scalar", "matmul", INPUTS(scalar(), TENSOR(3)), NULL);
    fails(PF_ESHAPE, "weight transposed would fit", "linear", INPUTS(TENSOR(2, 5), TENSOR(5, 4)), NULL);
    fails(PF_ESHAPE, "bias must be [5]", "linear", INPUTS(TENSOR(2, 4), TENSOR(5, 4), TENSOR(4)), NULL);
    fails(PF_ESHAPE, "add: a is [2, 3], b is [2, 4]; dimension 1", "add", INPUTS(TENSOR(2, 3), TENSOR(2, 4)), NULL);
    CHECK_OK(pf_tensor_arange(&ids, &engine, PF_I32, 3));
    fails(PF_EDTYPE, "add: b", "add", INPUTS(TENSOR(3), ids), NULL);
    fails(PF_ESHAPE, "mean of no elements", "mean", INPUTS(TENSOR(0, 3)), NULL);
    fails(PF_ESHAPE, "no dimension 2", "sum", INPUTS(TENSOR(2, 3)), (const pf_attr[]){{.i = 2}, {.i = 0}});
    fails(PF_EINVAL, "keep is true", "sum", INPUTS(TENSOR(2)), (const pf_attr[]){{.i = 0}, {.i = 7}});
    fails(PF_ESHAPE, "6 elements don't fill [4, -1]", "reshape", INPUTS(TENSOR(2, 3)), (const pf_attr[]){{.n = 2, .list = {4, -1}}});
    fails(PF_ESHAPE, "only one size", "reshape", INPUTS(TENSOR(2, 3)), (const pf_attr[]){{.n = 2, .list = {-1, -1}}});
    fails(PF_EINVAL, "at most 8", "reshape", INPUTS(TENSOR(2, 3)), (const pf_attr[]){{.n = 9}});
    fails(PF_ESHAPE, "stands twice", "permute", INPUTS(TENSOR(2, 3)), (const pf_attr[]){{.n = 2, .list = {0, 0}}});
    fails(PF_ESHAPE, "does not lie in dimension 1", "slice", INPUTS(TENSOR(2, 3)), (const pf_attr[]){{.i = 1}, {.i = 2}, {.i = 5}});
    fails(PF_ESHAPE, "tensors[1] differs in dimension 1", "concat", INPUTS(TENSOR(2, 3), TENSOR(2, 4)), NULL);
    CHECK_FAILS(PF_ENOTFOUND, pf_op_find(&engine, "matmull"));
    CHECK(strstr(pf_last_error(), "'matmul'") != NULL);
}

static void test_registry(void) {
    const int n = pf_op_count(&engine);
    CHECK(n > 40);
    for (int i = 0; i < n; i++) {
        pf_op_info info;
        pf_attr attrs[PF_MAX_ATTR];
        CHECK_OK(pf_op_at(&engine, i, &info));
        CHECK(pf_op_find(&engine, info.name) == i);
        CHECK(info.doc && strlen(info.doc) > 10 && info.args && info.results);
        CHECK_OK(pf_op_defaults(&engine, i, attrs));
        for (int k = 0; k < info.n_attrs; k++) CHECK(info.attrs[k].doc != NULL);
    }
    pf_op_info info;
    CHECK_FAILS(PF_ENOTFOUND, pf_op_at(&engine, n, &info));
    CHECK_FAILS(PF_ENOTFOUND, pf_op_at(&engine, -1, &info));
}

static void test_all(void) {
    test_registry();
    test_elementwise();
    test_unary();
    test_along();
    test_edges();
    test_matmul();
    test_linear();
    test_movement();
    test_views();
    test_integers();
    static const int64_t firsts[] = {1, 5, 127, 128, 129, 300};
    for (int k = 0; k < PF_COUNT(firsts); k++) {
        test_row_bits("matmul", 0, firsts[k]);
        test_row_bits("linear", 0, firsts[k]);
        test_row_bits("linear", 1, firsts[k]);
    }
    test_errors();
}

int main(void) {
    for (int level = PF_CPU_GENERIC; level <= PF_CPU_AVX512; level++) {
        uint64_t first = 0;
        for (int threads = 1; threads <= 4; threads++) {
            if (open_engine(threads, (pf_cpu)level) < 0) continue; /* not on this machine */
            const size_t before = pf_heap_live(engine.heap);
            test_all();
            if (threads == 1) first = hash;
            CHECK(hash == first);
            const size_t scratch = engine.scratch_bytes * (size_t)threads;
            CHECK(pf_heap_live(engine.heap) <= before + scratch + 4096);
            pf_runtime_close(&engine);
        }
    }
    return CHECK_REPORT();
}
