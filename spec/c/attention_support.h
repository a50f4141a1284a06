/*
 * attention_support.h - running the engine's attentions in C tests: the attentions (every
 * map of the registry, plain and projected, and exact), the forms (what a query sees), the
 * inputs of a trial, and calls by the names of an op's inputs. A map or an input that the
 * engine gains is met here by its name alone.
 */
#ifndef PF_ATTENTION_SUPPORT_H
#define PF_ATTENTION_SUPPORT_H

#include "attention_oracle.h"

enum {
    IN_Q,
    IN_K,
    IN_V,
    IN_PROJECTION,
    IN_MASK,
    IN_DOCUMENTS,
    IN_S,
    IN_Z,
    IN_SHIFT,
    IN_DECAY,
    IN_LIMITS,
    IN_PREFIX,
    IN_OFFSETS,
    IN_TILTS,
    N_INPUTS
};
static const char *const input_names[N_INPUTS] = {
    "q",       "k",           "v",     "projection", "mask",   "documents",  "entry_s",
    "entry_z", "entry_shift", "decay", "limits",     "prefix", "cu_seqlens", "tilts",
};

typedef struct {
    pf_tensor *t[N_INPUTS];
} inputs;

static pf_engine *engine;

/* False where the machine lacks the level. */
static inline bool open_engine(int threads, pf_cpu cpu) {
    pf_options options = PF_OPTIONS_DEFAULT;
    pf_info info = {.size = sizeof info};
    options.threads = threads;
    options.cpu = cpu;
    if (pf_engine_open(&engine, &options) < 0) return false;
    pf_engine_info(engine, &info);
    return cpu == PF_CPU_BEST || info.cpu == cpu;
}

/* ---- attentions ---- */

enum { MAX_ATTENTIONS = 64 };

/* Settings of a kernel that no map has by itself. */
typedef struct {
    double scale, ratio, eps; /* 0, 0, -1: the map's own */
} settings;
static const settings own = {0, 0, -1}, others = {0.4, 0.3, 0.05};

static inline void add_attention(attention *list, int *n, const pf_map *map, int64_t features,
                                 const settings *s) {
    attention *a = &list[*n];
    if (*n == MAX_ATTENTIONS) exit(1);
    *a = (attention){.map = map};
    snprintf(a->name, sizeof a->name, "%s%s%s", map ? map->name : "exact",
             map && features && !map->softmax ? ", projected" : "", s == &own ? "" : ", set");
    ++*n;
    if (!map) return;
    pf_config *options = pf_config_new(PF_MAP);
    CHECK_OK(pf_config_set_string(options, "name", map->name));
    CHECK_OK(pf_config_set_number(options, "features", (double)features));
    CHECK_OK(pf_config_set_number(options, "seed", 7));
    CHECK_OK(pf_config_set_number(options, "scale", s->scale));
    CHECK_OK(pf_config_set_number(options, "ratio", s->ratio));
    CHECK_OK(pf_config_set_number(options, "eps", s->eps));
    if (map->tilted) CHECK_OK(pf_config_set_number(options, "tilt", -0.05));
    CHECK_OK(pf_kernel_resolve(&a->kernel, options, D));
    pf_config_free(options);
}

/* Exact attention, then every map of the registry: projected, and plain where it can be. */
static inline int list_attentions(attention *list) {
    int n = 0;
    add_attention(list, &n, NULL, 0, &own);
    for (int i = 0; pf_map_at(i); i++) {
        add_attention(list, &n, pf_map_at(i), M, &own);
        if (!pf_map_at(i)->softmax) add_attention(list, &n, pf_map_at(i), 0, &own);
    }
    return n;
}

/* Every map, projected, with a scale, a ratio and an eps that are not its own. */
static inline int list_set_attentions(attention *list) {
    int n = 0;
    for (int i = 0; pf_map_at(i); i++) add_attention(list, &n, pf_map_at(i), M, &others);
    return n;
}

/* ---- forms ---- */

static const form forms[] = {
    {.name = "full"},
    {.name = "causal", .causal = true},
    {.name = "cross, fewer queries", .cross = 1},
    {.name = "cross, more queries", .cross = 2},
    {.name = "full, masked", .mask = true},
    {.name = "causal, masked", .causal = true, .mask = true},
    {.name = "full, packed", .documents = true},
    {.name = "causal, packed", .causal = true, .documents = true},
    {.name = "causal, packed, masked", .causal = true, .documents = true, .mask = true},
    {.name = "causal, forgetting", .causal = true, .decay = true},
    {.name = "causal, forgetting, packed, masked",
     .causal = true,
     .decay = true,
     .mask = true,
     .documents = true},
    {.name = "full, one projection", .shared = true},
    {.name = "full, entry state", .entry = true},
    {.name = "causal, entry state", .causal = true, .entry = true},
    {.name = "causal, forgetting, entry state", .causal = true, .decay = true, .entry = true},
    {.name = "staircase", .limits = true, .cross = 1},
    {.name = "staircase, one for all", .limits = true, .shared = true, .cross = 2},
    {.name = "staircase, masked", .limits = true, .mask = true},
    {.name = "staircase, forgetting", .limits = true, .decay = true, .cross = 1},
    {.name = "prefix", .causal = true, .prefix = true},
    {.name = "prefix, masked", .causal = true, .prefix = true, .mask = true},
    {.name = "prefix, forgetting", .causal = true, .prefix = true, .decay = true},
    {.name = "full, packed by offsets", .offsets = true},
    {.name = "causal, packed by offsets", .causal = true, .offsets = true},
    {.name = "full, grouped", .grouped = true},
    {.name = "causal, grouped", .causal = true, .grouped = true},
    {.name = "causal, grouped, packed, masked",
     .causal = true,
     .grouped = true,
     .documents = true,
     .mask = true},
    {.name = "causal, grouped, forgetting, entry state",
     .causal = true,
     .grouped = true,
     .decay = true,
     .entry = true},
    {.name = "staircase, grouped", .limits = true, .grouped = true, .cross = 1},
};

/* A trial of about L positions. One item where the form or the length asks for it. */
static inline trial make_trial(const attention *a, const form *f, int64_t L) {
    trial t = {a, f, f->offsets || L > PF_FULL_BLOCK ? 1 : 2, 2, 2, L, L, 0};
    if (f->cross == 1) t.Lq = L / 2 + 3;
    if (f->cross == 2) t.Lk = L / 3 + 1;
    if (f->grouped) t.H = 4;
    return t;
}

/* ---- inputs ---- */

static inline pf_tensor *empty_tensor(pf_dtype dtype, int rank, const int64_t *shape) {
    pf_tensor *t = NULL;
    CHECK_OK(pf_tensor_make_lasting(&t, engine->heap, dtype, rank, shape));
    if (!t) exit(1);
    return t;
}

static inline pf_tensor *random_tensor(int rank, const int64_t *shape, uint64_t seed) {
    pf_tensor *t = empty_tensor(PF_F32, rank, shape);
    pf_rng rng = pf_rng_make(seed, PF_DRAW_USER, 0, 0);
    pf_rng_fill_normal(&rng, 0, pf_tensor_numel(t), pf_f32(t));
    return t;
}

/* A row of queries or keys, drawn again until every |u_a| is above 1e-3: away from kinks. */
static inline void draw_row(const trial *t, const float *w, pf_rng *rng, int64_t index,
                            float *row) {
    const attention *a = t->a;
    double scale = a->map ? a->kernel.numbers.scale : pow(D, -0.25);
    for (int64_t attempt = 0; attempt < 1000; attempt++) {
        double x[D], u[M], nearest = INFINITY, square = 0;
        pf_rng_fill_normal(rng, (uint64_t)((index * 1000 + attempt) * D), D, row);
        for (int i = 0; i < D; i++) square += scale * scale * (double)row[i] * (double)row[i];
        for (int i = 0; i < D; i++) {
            if (t->norm > 0) row[i] *= (float)sqrt(t->norm / square);
            x[i] = row[i];
        }
        if (!a->map) return;
        project_row(a, w, x, u);
        for (int64_t c = 0; c < (projections(a) ? projections(a) : D); c++) {
            nearest = fmin(nearest, fabs(u[c]));
        }
        if (nearest > 1e-3) return;
    }
}

/* (B, heads, L, D) of queries or keys. */
static inline pf_tensor *random_rows(const trial *t, const pf_tensor *w, int64_t heads, int64_t L,
                                     uint64_t seed) {
    pf_tensor *x = empty_tensor(PF_F32, 4, (int64_t[]){t->B, heads, L, D});
    pf_rng rng = pf_rng_make(seed, PF_DRAW_USER, 1, 0);
    for (int64_t row = 0; row < t->B * heads * L; row++) {
        int64_t h = row / L % heads * t->Hkv / heads;
        const float *head = !w ? NULL : pf_f32(w) + (w->rank == 3 ? h * w->stride[0] : 0);
        draw_row(t, head, &rng, row, pf_f32(x) + row * D);
    }
    return x;
}

static inline pf_tensor *draw_projection(const trial *t) {
    pf_tensor *w = NULL;
    pf_kernel_spec kernel = t->a->kernel;
    if (!projections(t->a)) return NULL;
    kernel.per_head = !t->f->shared;
    kernel.layer = 1;
    CHECK_OK(pf_kernel_draw(&w, engine, &kernel, t->Hkv, 0));
    return w;
}

/* Counts: out[i] for i < n as an i32 tensor of `rank` dims. */
static inline pf_tensor *counts(int rank, const int64_t *shape,
                                int64_t (*at)(const trial *, int64_t), const trial *t) {
    pf_tensor *x = empty_tensor(PF_I32, rank, shape);
    for (int64_t i = 0; i < pf_tensor_numel(x); i++) pf_i32(x)[i] = (int32_t)at(t, i);
    return x;
}

static inline int64_t mask_at(const trial *t, int64_t i) {
    return (i % t->Lk + i / t->Lk * 3) % 5 != 0;
}

static inline int64_t document_at(const trial *t, int64_t i) {
    return (i % t->Lk + i / t->Lk * 3) / 29;
}

/* In no order, 0 and all included; climbing where one row of limits serves all items. */
static inline int64_t limit_at(const trial *t, int64_t i) {
    if (t->f->shared) return t->Lq > 1 ? i * t->Lk / (t->Lq - 1) : t->Lk;
    return (i * 37 + 5) % (t->Lk + 1);
}

static inline int64_t prefix_at(const trial *t, int64_t i) { return i ? t->Lk : t->Lk / 3; }

/* Documents of 1 position, none, C + 1, and the rest. */
static inline int64_t offset_at(const trial *t, int64_t i) {
    static const int64_t ends[] = {0, 1, 1, PF_CAUSAL_BLOCK + 2};
    return i < 4 ? pf_min(ends[i], t->Lk) : t->Lk;
}

static inline void make_entry(const trial *t, inputs *x) {
    int64_t r = feature_width(t->a), s[4] = {t->B, t->Hkv, r, DV};
    x->t[IN_S] = random_tensor(4, s, 31);
    x->t[IN_Z] = random_tensor(3, s, 32);
    x->t[IN_SHIFT] = random_tensor(2, s, 33);
    for (int64_t i = 0; i < pf_tensor_numel(x->t[IN_Z]); i++) {
        float *z = pf_f32(x->t[IN_Z]) + i;
        *z = fabsf(*z) + 0.5f;
    }
}

static inline inputs make_inputs(const trial *t) {
    inputs x = {{NULL}};
    const form *f = t->f;
    int64_t rows[2] = {t->B, t->Lk}, limits[2] = {t->B, t->Lq}, ends = 5;
    pf_tensor *w = x.t[IN_PROJECTION] = draw_projection(t);
    x.t[IN_Q] = random_rows(t, w, t->H, t->Lq, 1);
    x.t[IN_K] = random_rows(t, w, t->Hkv, t->Lk, 2);
    x.t[IN_V] = random_tensor(4, (int64_t[]){t->B, t->Hkv, t->Lk, DV}, 3);
    if (f->mask) x.t[IN_MASK] = counts(2, rows, mask_at, t);
    if (f->documents) x.t[IN_DOCUMENTS] = counts(2, rows, document_at, t);
    if (f->limits) {
        x.t[IN_LIMITS] = counts(f->shared ? 1 : 2, limits + f->shared, limit_at, t);
    }
    if (f->prefix) x.t[IN_PREFIX] = counts(1, rows, prefix_at, t);
    if (f->offsets) x.t[IN_OFFSETS] = counts(1, &ends, offset_at, t);
    if (f->entry) make_entry(t, &x);
    if (t->a->map && t->a->map->tilted && !f->shared) {
        x.t[IN_TILTS] = empty_tensor(PF_F32, 1, &t->Hkv);
        for (int64_t h = 0; h < t->Hkv; h++) pf_f32(x.t[IN_TILTS])[h] = h ? -0.02f : -0.1f;
    }
    if (f->decay) {
        x.t[IN_DECAY] = empty_tensor(PF_F32, 1, &t->Hkv);
        for (int64_t h = 0; h < t->Hkv; h++) pf_f32(x.t[IN_DECAY])[h] = h % 2 ? 0.01f : 0.3f;
    }
    return x;
}

static inline void free_inputs(inputs *x) {
    for (int i = 0; i < N_INPUTS; i++) pf_tensor_release(&x->t[i]);
}

static inline const int32_t *whole(const pf_tensor *t) { return t ? pf_i32(t) : NULL; }

static inline oracle open_oracle(const trial *t, const inputs *x) {
    const pf_tensor *w = x->t[IN_PROJECTION], *decay = x->t[IN_DECAY], *tilts = x->t[IN_TILTS];
    int64_t rows = t->B * t->H * t->Lq;
    oracle o = {
        .t = t,
        .q = doubles(x->t[IN_Q]),
        .k = doubles(x->t[IN_K]),
        .v = doubles(x->t[IN_V]),
        .w = w ? pf_f32(w) : NULL,
        .w_head = w && w->rank == 3 ? w->stride[0] : 0,
        .decay = decay ? pf_f32(decay) : NULL,
        .tilts = tilts ? pf_f32(tilts) : NULL,
        .mask = whole(x->t[IN_MASK]),
        .documents = whole(x->t[IN_DOCUMENTS]),
        .limits = whole(x->t[IN_LIMITS]),
        .prefix = whole(x->t[IN_PREFIX]),
        .offsets = whole(x->t[IN_OFFSETS]),
        .n_offsets = x->t[IN_OFFSETS] ? pf_tensor_numel(x->t[IN_OFFSETS]) : 0,
        .out = oracle_alloc(rows * DV),
        .share = oracle_alloc(rows),
        .reach = oracle_alloc(rows),
    };
    if (t->f->entry) {
        o.s = doubles(x->t[IN_S]);
        o.z = doubles(x->t[IN_Z]);
        o.shift = doubles(x->t[IN_SHIFT]);
    }
    return o;
}

static inline void close_oracle(oracle *o) {
    double *all[] = {o->q, o->k, o->v, o->s, o->z, o->shift, o->out, o->share, o->reach};
    for (int i = 0; i < PF_COUNT(all); i++) free(all[i]);
}

/* max |out - want| of a head over its largest |want|; any sign: |out den - num| of a row over
 * sum |terms| (largest |v| + |out|), the worst row. The worst head. */
static inline double distance(const trial *t, const oracle *o, const double *out) {
    double worst = 0;
    bool positive = !t->a->map || t->a->map->positive;
    for (int64_t head = 0; head < t->B * t->H; head++) {
        double far = 0, top = 1e-300;
        for (int64_t row = head * t->Lq; row < (head + 1) * t->Lq; row++) {
            for (int64_t at = row * DV; at < (row + 1) * DV; at++) {
                double gap = fabs(out[at] - o->out[at]);
                if (!positive) gap *= o->share[row] / (o->reach[row] + fabs(o->out[at]) + 1e-30);
                far = gap > far || isnan(gap) ? gap : far;
                top = fmax(top, fabs(o->out[at]));
            }
        }
        far /= positive ? top : 1;
        worst = far > worst || isnan(far) ? far : worst;
    }
    return worst;
}

/* Random cotangents; a row that the division leaves few digits counts little. */
static inline pf_tensor *cotangents(const trial *t, const oracle *o) {
    pf_tensor *g = random_tensor(4, (int64_t[]){t->B, t->H, t->Lq, DV}, 9);
    for (int64_t i = 0; i < pf_tensor_numel(g); i++) {
        double share = o->share[i / DV];
        pf_f32(g)[i] *= (float)(share * share * share);
    }
    return g;
}

/* ---- calls ---- */

/* The trial's kernel, bound to its heads, without an owner: it borrows x. */
static inline pf_kernel bound_kernel(const trial *t, const inputs *x) {
    return (pf_kernel){.spec = t->a->kernel,
                       .is_bound = true,
                       .heads = t->Hkv,
                       .projection = x->t[IN_PROJECTION],
                       .tilts = x->t[IN_TILTS]};
}

static inline const pf_op *op_of(const attention *a) {
    return a->map ? &pf_op_favor : &pf_op_exact_attention;
}

static inline int place_of(const pf_op *op, const char *name) {
    for (int i = 0; i < op->max_in; i++) {
        if (strcmp(pf_op_arg_name(op, i), name) == 0) return i;
    }
    return -1;
}

/* Exact attention has no state to enter; every other input both ops must take. */
static inline bool has_form(const attention *a, const form *f) { return a->map || !f->entry; }

/* out, and with `state` the exit state, into made. */
static inline int call_attention(const trial *t, const inputs *x, bool state, pf_tensor **made) {
    const pf_op *op = op_of(t->a);
    pf_tensor *in[PF_MAX_IN] = {NULL};
    pf_attr attr[PF_MAX_ATTR];
    for (int i = 0; i < N_INPUTS; i++) {
        int place = place_of(op, input_names[i]);
        if (!x->t[i]) continue;
        if (place < 0) return pf_fail(PF_EINVAL, "%s takes no %s", op->name, input_names[i]);
        in[place] = x->t[i];
    }
    pf_op_fill_defaults(op, attr);
    attr[PF_A_CAUSAL].i = t->f->causal;
    if (t->a->map) {
        pf_kernel kernel = bound_kernel(t, x);
        attr[PF_A_STATE].i = state;
        pf_kernel_to_attrs(&kernel, attr + PF_A_KERNEL);
    }
    return pf_apply(engine, op, in, op->max_in, attr, made);
}

/* The inputs that have gradients. */
static const int leaves[] = {IN_Q, IN_K, IN_V, IN_S, IN_Z};
enum { N_LEAVES = 5 };

/* One call, or slices of the sequence chained by their states, as a tape records it. */
typedef int (*call_fn)(const trial *t, const inputs *x, pf_tensor **out);

static inline int call_whole(const trial *t, const inputs *x, pf_tensor **out) {
    pf_tensor *made[PF_MAX_OUT] = {NULL};
    PF_TRY(call_attention(t, x, false, made));
    *out = made[0];
    return 0;
}

/* The gradients of the leaves as doubles, where there are leaves. */
static inline void take_gradients(const inputs *x, double **gradient) {
    for (int i = 0; i < N_LEAVES; i++) {
        pf_tensor *leaf = x->t[leaves[i]], *grad = NULL;
        gradient[i] = NULL;
        if (!leaf) continue;
        CHECK_OK(pf_tensor_grad(&grad, engine, leaf));
        gradient[i] = grad ? doubles(grad) : oracle_alloc(pf_tensor_numel(leaf));
        pf_tensor_release(&grad);
        pf_tensor_clear_grad(leaf);
        CHECK_OK(pf_tensor_require_grad(leaf, false));
    }
}

/* out of `call` and, for cotangent g (NULL: none), the gradients of the leaves. */
static inline pf_tensor *run_call(call_fn call, const trial *t, const inputs *x, pf_tensor *g,
                                  double **gradient) {
    pf_tensor *out = NULL, *kept = NULL;
    pf_tape *tape = NULL;
    if (!g) {
        CHECK_OK(call(t, x, &out));
        return out;
    }
    for (int i = 0; i < N_LEAVES; i++) {
        if (x->t[leaves[i]]) CHECK_OK(pf_tensor_require_grad(x->t[leaves[i]], true));
    }
    CHECK_OK(pf_tape_open(&tape, engine));
    CHECK_OK(call(t, x, &out));
    if (out) CHECK_OK(pf_tape_backward(tape, out, g));
    take_gradients(x, gradient);
    if (out) CHECK_OK(pf_tensor_detach(&kept, engine, out));
    pf_tensor_release(&out);
    pf_tape_close(&tape);
    return kept;
}

static inline pf_tensor *run_attention(const trial *t, const inputs *x, pf_tensor *g,
                                       double **gradient) {
    return run_call(call_whole, t, x, g, gradient);
}

#endif
