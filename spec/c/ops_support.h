/*
 * ops_support.h - how the tests of ops judge: an op is held against a plain double version
 * of itself (values) and against that version's central differences (gradients), contiguous
 * and strided, with gradient slots that are fresh and slots that hold something. What
 * backward does not declare in `uses` is taken from it.
 */
#ifndef PF_OPS_SUPPORT_H
#define PF_OPS_SUPPORT_H

#include "check.h"

#include "kern.h"
#include "op.h"

static pf_engine engine;
static uint64_t hash; /* of every float that an op has produced since open_engine */
static uint64_t random_state;
static bool judging; /* compare with the judges; else only take the bits */

/* ---- engine, random numbers, tensors ------------------------------------------ */

static inline int open_engine(int threads, pf_cpu cpu) {
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
static inline float draw(void) {
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    const float u = (float)(random_state >> 40) / 16777216.0f;
    return random_state >> 39 & 1 ? 0.2f + u : -0.2f - u;
}

static inline pf_tensor *filled(int rank, const int64_t *shape) {
    pf_tensor *t = NULL;
    CHECK_OK(pf_tensor_make(&t, &engine, PF_F32, rank, shape));
    float *x = pf_f32(t);
    for (int64_t i = 0; i < pf_tensor_numel(t); i++) x[i] = draw();
    return t;
}

#define SHAPE(...)                                                                                 \
    (const int64_t[]) { __VA_ARGS__ }
#define RANK(...)   ((int)(sizeof(SHAPE(__VA_ARGS__)) / sizeof(int64_t)))
#define TENSOR(...) filled(RANK(__VA_ARGS__), SHAPE(__VA_ARGS__))

static inline pf_tensor *scalar(void) { return filled(0, SHAPE(1)); }

/* The same numbers, laid out otherwise: 1 transposed (last two), 2 every second element. */
static inline pf_tensor *relaid(const pf_tensor *t, int how) {
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

/* ---- dense doubles, the judges' arrays ---------------------------------------- */

typedef struct dense {
    int rank;
    int64_t shape[PF_MAX_RANK], n;
    double *v;
} dense;

static inline dense dense_of(const pf_tensor *t) {
    dense d = {.rank = t->rank, .n = pf_tensor_numel(t)};
    memcpy(d.shape, t->shape, sizeof d.shape);
    d.v = malloc(sizeof(double) * (size_t)(d.n + 1));
    CHECK_OK(pf_tensor_read(t, d.v, sizeof(double) * (size_t)d.n));
    return d;
}

static inline void absorb(const pf_tensor *t) {
    dense d = dense_of(t);
    for (int64_t i = 0; i < d.n; i++) {
        const float f = (float)d.v[i];
        uint32_t bits;
        memcpy(&bits, &f, sizeof bits);
        hash = (hash ^ bits) * 1099511628211u;
    }
    free(d.v);
}

static inline void places(const dense *d, int64_t index, int64_t *at) {
    for (int k = d->rank - 1; k >= 0; k--) {
        at[k] = index % d->shape[k];
        index /= d->shape[k];
    }
}

/* The element of d at place `at` of a shape of `rank`, broadcast. */
static inline int64_t broadcast_index(const dense *d, int rank, const int64_t *at) {
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

static inline int sink_slot(pf_call *c, int i, bool want_fresh, bool *fresh, pf_tensor **t) {
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

static inline int sink_rows(pf_call *c, int i, const int32_t *row, int64_t n, pf_tensor **t) {
    bool fresh;
    (void)row, (void)n;
    return sink_slot(c, i, false, &fresh, t);
}

static inline int sink_give(pf_call *c, int i, pf_tensor *given) {
    pf_tensor *t;
    bool fresh;
    CHECK(pf_same_shape(given, c->in[i]));
    PF_TRY(sink_slot(c, i, false, &fresh, &t));
    dense old = dense_of(t), more = dense_of(given);
    for (int64_t k = 0; k < old.n; k++) old.v[k] += more.v[k];
    CHECK_OK(pf_tensor_write(t, old.v, sizeof(double) * (size_t)old.n));
    free(old.v);
    free(more.v);
    return PF_OK;
}

static inline bool sink_gathers(const pf_call *c, int i) {
    const sink *s = c->grad_context;
    return !s->fresh || s->grad[i];
}

static const pf_grad_ops sink_ops = {sink_slot, sink_rows, sink_give, sink_gathers};

/* ---- one call against its judge ----------------------------------------------- */

static inline void set_call(pf_call *c, const char *name, pf_tensor *const *in, int n,
                            const pf_attr *attrs) {
    memset(c, 0, sizeof *c);
    c->engine = &engine;
    c->op = pf_registry_row(&engine, pf_op_find(&engine, name));
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

static inline bool near(double got, double want, double tolerance) {
    if (isnan(want)) return isnan(got);
    if (isinf(want)) return got == want;
    return fabs(got - want) <= tolerance * (1 + fabs(want));
}

static inline void compare(const char *what, const pf_tensor *t, const dense *want,
                           double tolerance) {
    dense got = dense_of(t);
    int64_t i = 0;
    while (i < want->n && near(got.v[i], want->v[i], tolerance)) i++;
    if (i < want->n)
        fprintf(stderr, "%s, element %lld of %s: %.9g, not %.9g\n", what, (long long)i,
                pf_shape_of(t), got.v[i], want->v[i]);
    CHECK(i == want->n);
    free(got.v);
}

/* What the judge says of one input's gradient: central differences at every `step`th element. */
typedef struct slopes {
    int64_t step;
    double *v;
} slopes;

static inline double judged_loss(const pf_call *c, judge_fn judge, const dense *in, dense *out,
                                 const dense *dy) {
    double loss = 0;
    judge(c->attr, c->n_in, in, out);
    for (int64_t i = 0; i < out->n; i++) loss += out->v[i] * dy->v[i];
    return loss;
}

/* Input i's, at up to `samples` places. Layouts change no number: it is asked once for all. */
static inline slopes judged_slopes(const pf_call *c, judge_fn judge, dense *in, int i, dense *out,
                                   const dense *dy, int samples) {
    const double h = 1e-5;
    slopes want = {.step = in[i].n / samples + 1};
    want.v = malloc(sizeof(double) * (size_t)(samples + 1));
    for (int64_t k = 0; k < in[i].n; k += want.step) {
        const double x = in[i].v[k];
        in[i].v[k] = x + h;
        const double above = judged_loss(c, judge, in, out, dy);
        in[i].v[k] = x - h;
        const double below = judged_loss(c, judge, in, out, dy);
        in[i].v[k] = x;
        want.v[k / want.step] = (above - below) / (2 * h);
    }
    return want;
}

/* Gradients in s against the judge's, `want` of each input. */
static inline void compare_gradients(pf_call *c, const sink *s, const slopes *want,
                                     double tolerance) {
    for (int i = 0; i < c->n_in; i++) {
        if (!c->need[i]) continue;
        CHECK(s->grad[i] != NULL);
        if (!s->grad[i]) continue;
        absorb(s->grad[i]);
        if (!judging) continue;
        for (int64_t k = 0; k < pf_tensor_numel(c->in[i]); k += want[i].step) {
            double got = 0, is = want[i].v[k / want[i].step] + (s->fresh ? 0 : 1);
            pf_tensor_get(s->grad[i], k, &got);
            if (near(got, is, tolerance)) continue;
            fprintf(stderr, "%s: gradient of %s %s, element %lld: %.9g, not %.9g\n", c->op->name,
                    pf_op_arg_name(c->op, i), pf_shape_of(c->in[i]), (long long)k, got, is);
            CHECK(!"gradient");
            break;
        }
    }
}

static inline void backward(pf_call *c, const pf_tensor *dy, const slopes *want, double tolerance) {
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
        CHECK_OK(pf_call_backward(c));
        compare_gradients(c, &s, want, tolerance);
        for (int i = 0; i < c->n_in; i++) {
            if (c->in[i] != kept[i]) pf_tensor_release(&c->in[i]);
            c->in[i] = kept[i];
            pf_tensor_release(&s.grad[i]);
        }
        if (c->out[0] != out_kept) pf_tensor_release(&c->out[0]);
        c->out[0] = out_kept;
        pf_tensor_release(&c->dout[0]);
    }
}

/* What one op is held against: all that the layouts of its inputs share. */
typedef struct verdict {
    dense in[PF_MAX_IN], out;
    pf_tensor *dy; /* NULL: no gradient is asked for */
    slopes want[PF_MAX_IN];
} verdict;

/* Of the call, whose forward has run. */
static inline void ask_judge(verdict *j, const pf_call *c, judge_fn judge, int samples) {
    j->out = dense_of(c->out[0]);
    if (samples) j->dy = filled(c->out[0]->rank, c->out[0]->shape);
    if (!judging) return;
    dense dy = {0}, scratch = dense_of(c->out[0]);
    if (samples) dy = dense_of(j->dy);
    for (int i = 0; samples && i < c->n_in; i++)
        if (c->in[i]) j->want[i] = judged_slopes(c, judge, j->in, i, &scratch, &dy, samples);
    judge(c->attr, c->n_in, j->in, &j->out);
    free(scratch.v);
    free(dy.v);
}

/* The op on `inputs` (released here) in all layouts. samples 0: no gradient. */
static inline void check_op(const char *name, judge_fn judge, pf_tensor **inputs, int n,
                            const pf_attr *attrs, double tolerance, int samples) {
    verdict j = {.dy = NULL};
    for (int i = 0; i < n; i++)
        if (inputs[i]) j.in[i] = dense_of(inputs[i]);
    for (int way = 0; way < 3; way++) {
        pf_tensor *in[PF_MAX_IN] = {NULL};
        pf_call c;
        for (int i = 0; i < n; i++) in[i] = inputs[i] ? relaid(inputs[i], (way + i) % 3) : NULL;
        set_call(&c, name, in, n, attrs);
        const int status = pf_call_forward(&c);
        CHECK_OK(status);
        if (status >= 0) {
            absorb(c.out[0]);
            if (!j.out.v) ask_judge(&j, &c, judge, samples);
            if (judging) compare(name, c.out[0], &j.out, tolerance);
            if (samples) backward(&c, j.dy, j.want, fmax(tolerance * 10, 1e-6));
        }
        pf_call_release(&c);
        for (int i = 0; i < n; i++) pf_tensor_release(&in[i]);
    }
    pf_tensor_release(&j.dy);
    free(j.out.v);
    for (int i = 0; i < n; i++) {
        free(j.in[i].v);
        free(j.want[i].v);
        pf_tensor_release(&inputs[i]);
    }
}

#define INPUTS(...)                                                                                \
    (pf_tensor *[]){__VA_ARGS__}, (int)(sizeof((pf_tensor *[]){__VA_ARGS__}) / sizeof(pf_tensor *))

/* Runs `tests` on every kernel level of this machine and for 1 to 4 threads; the judges
 * speak with one thread, the others must give the same bits. Nothing may be left over. */
static inline int run_levels(void (*tests)(void)) {
    for (int level = PF_CPU_GENERIC; level <= PF_CPU_AVX512; level++) {
        uint64_t first = 0;
        for (int threads = 1; threads <= 4; threads++) {
            if (open_engine(threads, (pf_cpu)level) < 0) continue; /* not on this machine */
            const size_t idle = pf_heap_live(engine.heap);
            judging = threads == 1;
            tests();
            if (threads == 1) first = hash;
            CHECK(hash == first);
            pf_heap_free(engine.heap, engine.scratch, engine.scratch_bytes * (size_t)threads);
            engine.scratch = NULL;
            engine.scratch_bytes = 0;
            CHECK(pf_heap_live(engine.heap) == idle);
            pf_runtime_close(&engine);
        }
    }
    return CHECK_REPORT();
}

#endif
