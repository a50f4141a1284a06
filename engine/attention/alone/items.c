/*
 * items.c - the softmax over a fixed set of items (items.h): one pass over N items, then
 * log-partition and expectation in O(m (d + dv)) a query, whatever N; items join and leave.
 * The use of FAVOR+ that no sparsity pattern serves: the sum needs every item (paper, section
 * 1; recommender softmax, pointer networks). Not differentiable; log_partition is.
 *
 * A change is built apart, from all its rows, and then joined or subtracted: a failure, also a
 * cancel, leaves the set as it was. Sums are in double, in the order of the rows.
 */
#include <math.h>
#include <string.h>

#include "items.h"

enum { ROUND = 1024, SLICE = 32 }; /* items encoded at a time; features that a task sums */

/* ---- opening ---- */

/* The kernel of the set, with one projection for all of it, and the width of what it makes. */
static int open_kernel(pf_items *s, pf_engine *engine, pf_kernel *given) {
    pf_kernel *kernel = given ? pf_kernel_retain(given) : NULL;
    int status = kernel ? PF_OK : pf_kernel_open(&kernel, engine, NULL, NULL);
    if (status >= 0) status = pf_kernel_bind(&s->kernel, engine, kernel, s->dim, 0);
    pf_kernel_release(&kernel);
    PF_TRY(status);
    const pf_tensor *W = s->kernel->projection;
    if (W && W->rank != 2) {
        return pf_fail(PF_ESHAPE, "items: projection is %s, must be (features, %lld)",
                       pf_shape_of(W), (long long)s->dim);
    }
    return pf_kernel_width(&s->r, engine, s->kernel, 0);
}

int pf_items_open(pf_items **items, pf_engine *engine, const pf_items_options *options) {
    pf_items_options o = {0};
    memcpy(&o, options, options->size < sizeof o ? options->size : sizeof o);
    *items = NULL;
    if (o.dim < 1 || o.value_dim < 0) {
        return pf_fail(PF_EINVAL, "items: dim must be at least 1 and value_dim at least 0");
    }
    pf_items *s = pf_heap_zalloc(engine->heap, sizeof *s);
    if (!s) return PF_ENOMEM;
    s->heap = pf_heap_retain(engine->heap);
    s->dim = o.dim, s->value_dim = o.value_dim;
    s->top = -INFINITY;
    int status = open_kernel(s, engine, o.kernel);
    pf_levels_open(&s->levels, s->heap, s->r, s->value_dim);
    if (status < 0)
        pf_items_close(&s);
    else
        *items = s;
    return status;
}

static size_t gathered_bytes(const pf_items *s) {
    return (size_t)s->r * sizeof(double) + (size_t)(s->r * s->value_dim) * sizeof(float);
}

void pf_items_close(pf_items **items) {
    pf_items *s = *items;
    *items = NULL;
    if (!s) return;
    pf_levels_close(&s->levels);
    pf_kernel_release(&s->kernel);
    if (s->z) pf_heap_free(s->heap, s->z, gathered_bytes(s));
    pf_heap *heap = s->heap;
    pf_heap_free(heap, s, sizeof *s);
    pf_heap_release(heap);
}

int64_t pf_items_count(const pf_items *items) { return pf_levels_count(&items->levels); }

int64_t pf_items_bytes(const pf_items *s) {
    int64_t bytes = pf_levels_bytes(&s->levels) + (int64_t)sizeof *s;
    return bytes + (s->z ? (int64_t)gathered_bytes(s) : 0);
}

static void open_encoding(pf_encoding *encoding, const pf_engine *engine, const pf_items *s) {
    if (pf_kernel_given(s->kernel)) {
        pf_encoding_given(encoding, engine->kern, s->r, 1);
    } else {
        pf_encoding_of(encoding, s->kernel, engine->kern);
    }
}

/* *rows: x (n, dim) as the encoding takes it, contiguous: itself, or what the host's map makes of
 * it, (n, r). */
static int take_rows(pf_tensor **rows, pf_items *s, pf_engine *engine, pf_side side,
                     const pf_tensor *x) {
    pf_tensor *flat = NULL, *view = NULL, *phi = NULL;
    PF_TRY(pf_tensor_compact(&flat, engine, x));
    if (!pf_kernel_given(s->kernel)) {
        *rows = flat;
        return PF_OK;
    }
    int status = pf_tensor_view(&view, flat);
    if (status >= 0) {
        int64_t n = x->shape[0], shape[4] = {1, 1, n, s->dim};
        view->rank = 4;
        memcpy(view->shape, shape, sizeof shape);
        pf_shape_strides(4, view->shape, view->stride);
        status = pf_kernel_rows_wide(&phi, engine, s->kernel, side, view, s->r);
    }
    if (status >= 0) status = pf_tensor_detach(rows, engine, phi);
    if (status >= 0) { /* (1, 1, n, r), and nobody else has it */
        (*rows)->rank = 2;
        (*rows)->shape[0] = x->shape[0], (*rows)->shape[1] = s->r;
        pf_shape_strides(2, (*rows)->shape, (*rows)->stride);
    }
    pf_tensor_release(&flat);
    pf_tensor_release(&view);
    pf_tensor_release(&phi);
    return status;
}

/* ---- changing ---- */

typedef struct {
    const pf_items *items;
    pf_encoding encoding;
    pf_engine *engine;
    const float *keys, *values; /* (n, d), (n, dv) or NULL; contiguous */
    int64_t n;
    float *shift; /* (n) */
    pf_levels levels;
    /* the round that runs: items first .. first+rows-1 */
    int64_t first, rows;
    float *f;       /* (ROUND, r) */
    double *weight; /* (ROUND): e^(l - its level), 0 for those of size 0 */
    double **sum;   /* (ROUND): its level's sums */
} change;

static int64_t block_rows(int64_t n, int64_t block) {
    return pf_min(PF_ENCODED_BLOCK, n - block * PF_ENCODED_BLOCK);
}

/* Task: the log-shifts of one block of all items. */
static void shift_task(void *context, int64_t block, void *scratch) {
    change *c = context;
    pf_encoded keys;
    int64_t first = block * PF_ENCODED_BLOCK, n = block_rows(c->n, block);
    pf_encoded_open(&keys, &c->encoding, 0, false, &scratch);
    pf_encoded_fill(&keys, PF_SIDE_KEY, c->keys, c->encoding.d, NULL, first, n);
    memcpy(c->shift + first, keys.shift, (size_t)n * sizeof(float));
    /* NaN features with a finite shift: of a row without log-shifts. */
    for (int64_t i = 0; i < n; i++) {
        float size = c->encoding.kern->sum(c->items->r, keys.f + i * c->items->r);
        if (!isfinite(size)) c->shift[first + i] = NAN;
    }
}

/* Task: the features of one block of the round. */
static void feature_task(void *context, int64_t block, void *scratch) {
    change *c = context;
    pf_encoded keys;
    int64_t first = block * PF_ENCODED_BLOCK, n = block_rows(c->rows, block), r = c->items->r;
    pf_encoded_open(&keys, &c->encoding, 0, false, &scratch);
    pf_encoded_fill(&keys, PF_SIDE_KEY, c->keys, c->encoding.d, NULL, c->first + first, n);
    memcpy(c->f + first * r, keys.f, (size_t)(n * r) * sizeof(float));
}

/* Task: SLICE features of all items of the round, in order. */
static void sum_task(void *context, int64_t slice, void *scratch) {
    change *c = context;
    (void)scratch;
    int64_t r = c->items->r, dv = c->items->value_dim;
    int64_t from = slice * SLICE, until = pf_min(r, from + SLICE);
    double phi[SLICE];
    for (int64_t j = 0; j < c->rows; j++) {
        if (c->weight[j] == 0) continue;
        const float *f = c->f + j * r + from, *v = c->values;
        double *z = c->sum[j] + from;
        if (v) v += (c->first + j) * dv;
        for (int64_t a = 0; a < until - from; a++) {
            phi[a] = c->weight[j] * (double)f[a];
            z[a] += phi[a];
        }
        for (int64_t i = 0; i < dv; i++) {
            double value = (double)v[i], *s = z + (1 + i) * r;
            for (int64_t a = 0; a < until - from; a++) s[a] += phi[a] * value;
        }
    }
}

static int sum_round(change *c, int64_t first) {
    c->first = first;
    c->rows = pf_min(ROUND, c->n - first);
    for (int64_t j = 0; j < c->rows; j++) {
        double l = (double)c->shift[first + j];
        c->weight[j] = 0;
        if (l == -INFINITY) continue;
        pf_level *level = &c->levels.list[pf_levels_find(&c->levels, pf_level_number(l))];
        c->weight[j] = exp(l - (double)PF_ITEMS_WIDTH * (double)level->number);
        c->sum[j] = level->sum;
    }
    PF_TRY(pf_parallel(c->engine, pf_ceil_div(c->rows, PF_ENCODED_BLOCK),
                       pf_encoded_bytes(&c->encoding, false), feature_task, c));
    return pf_parallel(c->engine, pf_ceil_div(c->items->r, SLICE), 0, sum_task, c);
}

/* A key's size must be a number that levels can tell apart, and values must be finite. */
static int check_rows(const change *c, const char *what) {
    double limit = 0x1p40;
    for (int64_t j = 0; j < c->n; j++) {
        if (isnan(c->shift[j]) || (double)c->shift[j] > limit) {
            return pf_fail(PF_ENUMERIC, "items: %s: key %s of %lld is not finite or too long", what,
                           pf_place(j), (long long)c->n);
        }
        if ((double)c->shift[j] < -limit) c->shift[j] = -INFINITY;
    }
    int64_t dv = c->items->value_dim;
    for (int64_t i = 0; i < c->n * dv; i++) {
        if (isfinite(c->values[i])) continue;
        return pf_fail(PF_ENUMERIC, "items: %s: value %s of %lld is not finite", what,
                       pf_place(i / dv), (long long)c->n);
    }
    return PF_OK;
}

/* Builds the sums of the rows: space is ROUND rows of f, weight and sum behind shift. */
static int build(change *c, const char *what) {
    PF_TRY(pf_parallel(c->engine, pf_ceil_div(c->n, PF_ENCODED_BLOCK),
                       pf_encoded_bytes(&c->encoding, false), shift_task, c));
    PF_TRY(check_rows(c, what));
    PF_TRY(pf_levels_make(&c->levels, c->shift, c->n));
    for (int64_t first = 0; first < c->n; first += ROUND) PF_TRY(sum_round(c, first));
    return PF_OK;
}

static int check_matrix(const pf_tensor *t, int64_t rows, int64_t width, const char *what,
                        const char *name) {
    PF_TRY(pf_tensor_check(t, PF_F32, what, name));
    if (t->rank == 2 && t->shape[1] == width && (rows < 0 || t->shape[0] == rows)) return PF_OK;
    if (rows < 0) {
        return pf_fail(PF_ESHAPE, "items: %s: %s is %s, must be (count, %lld)", what, name,
                       pf_shape_of(t), (long long)width);
    }
    return pf_fail(PF_ESHAPE, "items: %s: %s is %s, must be [%lld, %lld]", what, name,
                   pf_shape_of(t), (long long)rows, (long long)width);
}

static int check_change(const pf_items *s, const pf_tensor *keys, const pf_tensor *values,
                        const char *what) {
    PF_TRY(check_matrix(keys, -1, s->dim, what, "keys"));
    if (s->value_dim == 0) {
        if (!values) return PF_OK;
        return pf_fail(PF_EINVAL, "items: %s: this set was opened without values", what);
    }
    if (!values) return pf_fail(PF_EINVAL, "items: %s: this set has values; give them", what);
    return check_matrix(values, keys->shape[0], s->value_dim, what, "values");
}

/* Work space of a change, in one block: sum, weight, f, shift. */
static size_t space_bytes(const pf_items *s, int64_t n) {
    return ROUND * (sizeof(double *) + sizeof(double)) + (size_t)(ROUND * s->r + n) * sizeof(float);
}

static int run_change(change *c, pf_items *s, pf_tensor *keys, pf_tensor *values, bool removed) {
    size_t bytes = space_bytes(s, c->n);
    void *space = pf_heap_alloc(s->heap, bytes);
    if (!space) return PF_ENOMEM;
    c->keys = pf_f32(keys);
    c->values = values ? pf_f32(values) : NULL;
    c->sum = space;
    c->weight = (double *)(c->sum + ROUND);
    c->f = (float *)(c->weight + ROUND);
    c->shift = c->f + ROUND * s->r;
    pf_levels_open(&c->levels, s->heap, s->r, s->value_dim);
    int status = build(c, removed ? "remove" : "add");
    if (status >= 0 && removed) status = pf_levels_leave(&s->levels, &c->levels);
    if (status >= 0 && !removed) pf_levels_join(&s->levels, &c->levels);
    if (status >= 0) s->stale = true;
    pf_levels_close(&c->levels);
    pf_heap_free(s->heap, space, bytes);
    return status;
}

static int change_items(pf_items *s, pf_engine *engine, const pf_tensor *keys,
                        const pf_tensor *values, bool removed) {
    PF_TRY(check_change(s, keys, values, removed ? "remove" : "add"));
    change c = {.items = s, .engine = engine, .n = keys->shape[0]};
    open_encoding(&c.encoding, engine, s);
    pf_tensor *k = NULL, *v = NULL;
    int status = take_rows(&k, s, engine, PF_SIDE_KEY, keys);
    if (status >= 0 && values) status = pf_tensor_compact(&v, engine, values);
    if (status >= 0) status = run_change(&c, s, k, v, removed);
    pf_tensor_release(&k);
    pf_tensor_release(&v);
    return status;
}

int pf_items_add(pf_items *items, pf_engine *engine, const pf_tensor *keys,
                 const pf_tensor *values) {
    return change_items(items, engine, keys, values, false);
}

int pf_items_remove(pf_items *items, pf_engine *engine, const pf_tensor *keys,
                    const pf_tensor *values) {
    return change_items(items, engine, keys, values, true);
}

/* ---- asking ---- */

/* z and S of all levels in units of the highest; only after a change. */
static int gather(pf_items *s) {
    if (s->z && !s->stale) return PF_OK;
    if (!s->z) s->z = pf_heap_alloc(s->heap, gathered_bytes(s));
    if (!s->z) return PF_ENOMEM;
    s->s = (float *)(s->z + s->r);
    const pf_levels *v = &s->levels;
    int64_t highest = v->n > 0 ? v->list[v->n - 1].number : 0, n = s->r * (1 + s->value_dim);
    for (int64_t i = 0; i < n; i++) {
        double sum = 0;
        for (int64_t k = 0; k < v->n; k++) {
            double below = (double)PF_ITEMS_WIDTH * (double)(v->list[k].number - highest);
            sum += (v->n > 1 ? exp(below) : 1) * v->list[k].sum[i];
        }
        if (i < s->r)
            s->z[i] = sum;
        else
            s->s[i - s->r] = (float)sum;
    }
    s->top = v->n > 0 ? (double)PF_ITEMS_WIDTH * (double)highest : -INFINITY;
    s->stale = false;
    return PF_OK;
}

typedef struct {
    const pf_items *items;
    pf_encoding encoding;
    const float *queries; /* (n, d) */
    int64_t n;
    float *log_partition; /* (n) or NULL */
    float *expectation;   /* (n, dv) or NULL */
    double *size, *sum;   /* (n): log Z = size + log sum; or NULL */
} question;

static size_t question_bytes(const question *q) {
    size_t rows = (size_t)(PF_ENCODED_BLOCK * q->items->value_dim) * sizeof(float);
    return pf_encoded_bytes(&q->encoding, false) + rows + PF_ALIGN;
}

/* E rows of the encoded block, from S^T phi and the denominators. */
static void expect(const question *q, pf_encoded *block, int64_t first, int64_t n, float *out,
                   const double *sum) {
    int64_t dv = q->items->value_dim, r = q->items->r;
    pf_block_gemm(q->encoding.kern, false, true, block->rows, dv, r, block->f, r, q->items->s, r, 0,
                  out, dv, block->panel);
    for (int64_t i = 0; i < n; i++) {
        float *to = q->expectation + (first + i) * dv;
        for (int64_t k = 0; k < dv; k++) {
            to[k] = sum[i] == 0 ? 0 : (float)((double)out[i * dv + k] / sum[i]);
        }
    }
}

static void question_task(void *context, int64_t task, void *scratch) {
    const question *q = context;
    const pf_items *s = q->items;
    pf_encoded block;
    int64_t first = task * PF_ENCODED_BLOCK, n = block_rows(q->n, task);
    double sums[PF_ENCODED_BLOCK];
    pf_encoded_open(&block, &q->encoding, 0, false, &scratch);
    pf_encoded_fill(&block, PF_SIDE_QUERY, q->queries, q->encoding.d, NULL, first, n);
    for (int64_t i = 0; i < n; i++) {
        double sum = 0;
        for (int64_t a = 0; a < s->r; a++) sum += (double)block.f[i * s->r + a] * s->z[a];
        if (fabs(sum) < PF_TINY_SUM || s->top == -INFINITY) sum = 0;
        double size = s->top + (double)block.shift[i] + 2 * block.encoder.args.left_out;
        sums[i] = sum;
        if (q->sum) q->sum[first + i] = sum, q->size[first + i] = size;
        if (!q->log_partition) continue;
        q->log_partition[first + i] = sum == 0 ? -INFINITY : (float)(size + log(sum));
    }
    if (!q->expectation) return;
    float *out = pf_carve(&scratch, (size_t)(PF_ENCODED_BLOCK * s->value_dim) * sizeof(float));
    expect(q, &block, first, n, out, sums);
}

static int ask(question *q, pf_items *s, pf_engine *engine, const pf_tensor *queries) {
    q->items = s;
    q->queries = pf_f32(queries);
    q->n = queries->shape[0];
    PF_TRY(gather(s));
    open_encoding(&q->encoding, engine, s);
    return pf_parallel(engine, pf_ceil_div(q->n, PF_ENCODED_BLOCK), question_bytes(q),
                       question_task, q);
}

/* Makes the output and runs one question of contiguous queries. */
static int answer(pf_tensor **out, pf_items *s, pf_engine *engine, const pf_tensor *queries,
                  bool expectation) {
    question q = {0};
    pf_tensor *x = NULL;
    int64_t shape[2] = {queries->shape[0], s->value_dim};
    PF_TRY(pf_tensor_make(out, engine, PF_F32, expectation ? 2 : 1, shape));
    *(expectation ? &q.expectation : &q.log_partition) = pf_f32(*out);
    int status = take_rows(&x, s, engine, PF_SIDE_QUERY, queries);
    if (status >= 0) status = ask(&q, s, engine, x);
    pf_tensor_release(&x);
    if (status < 0) pf_tensor_release(out);
    return status;
}

int pf_items_log_partition(pf_tensor **out, pf_items *items, pf_engine *engine,
                           const pf_tensor *queries) {
    PF_TRY(check_matrix(queries, -1, items->dim, "log_partition", "queries"));
    return answer(out, items, engine, queries, false);
}

int pf_items_expectation(pf_tensor **out, pf_items *items, pf_engine *engine,
                         const pf_tensor *queries) {
    PF_TRY(check_matrix(queries, -1, items->dim, "expectation", "queries"));
    if (items->value_dim == 0) {
        return pf_fail(PF_EINVAL, "items: expectation: this set was opened without values");
    }
    return answer(out, items, engine, queries, true);
}

/* ---- probabilities of chosen items ---- */

typedef struct {
    const question *q;
    const float *keys; /* (k, d) */
    int64_t k;
    bool estimate, log;
    float *out; /* (n, k) */
} chances;

/* Log-scores of n encoded (estimate) or loaded queries and keys into out (n, k; stride). */
static void score_block(const chances *c, const pf_encoded *q, const pf_encoded *k, int64_t n,
                        int64_t keys, double *score) {
    int64_t width = c->estimate ? c->q->items->r : c->q->encoding.d;
    const float *a = c->estimate ? q->f : q->x, *b = c->estimate ? k->f : k->x;
    for (int64_t i = 0; i < n; i++) {
        for (int64_t j = 0; j < keys; j++) {
            double dot = 0;
            for (int64_t t = 0; t < width; t++) {
                dot += (double)a[i * width + t] * (double)b[j * width + t];
            }
            double size = (double)q->shift[i] + (double)k->shift[j] + 2 * q->encoder.args.left_out;
            score[i * PF_ENCODED_BLOCK + j] = c->estimate ? size + log(dot) : dot;
        }
    }
}

static void chances_task(void *context, int64_t task, void *scratch) {
    const chances *c = context;
    const question *q = c->q;
    int64_t first = task * PF_ENCODED_BLOCK, n = block_rows(q->n, task), d = q->encoding.d;
    pf_encoded queries, keys;
    pf_encoded_open(&queries, &q->encoding, 0, false, &scratch);
    pf_encoded_open(&keys, &q->encoding, 0, false, &scratch);
    double *score = pf_carve(&scratch, PF_ENCODED_BLOCK * PF_ENCODED_BLOCK * sizeof(double));
    pf_encoded_fill(&queries, PF_SIDE_QUERY, q->queries, d, NULL, first, n);
    for (int64_t j0 = 0; j0 < c->k; j0 += PF_ENCODED_BLOCK) {
        int64_t count = pf_min(PF_ENCODED_BLOCK, c->k - j0);
        pf_encoded_fill(&keys, PF_SIDE_KEY, c->keys, d, NULL, j0, count);
        score_block(c, &queries, &keys, n, count, score);
        for (int64_t i = 0; i < n; i++) {
            double sum = q->sum[first + i], size = q->size[first + i];
            for (int64_t j = 0; j < count; j++) {
                double p = score[i * PF_ENCODED_BLOCK + j] - size - log(sum);
                if (sum == 0) p = -INFINITY;
                c->out[(first + i) * c->k + j0 + j] = (float)(c->log ? p : exp(p));
            }
        }
    }
}

static int run_chances(chances *c, question *q, pf_items *s, pf_engine *engine,
                       const pf_tensor *queries, const pf_tensor *keys) {
    size_t bytes = 2 * (size_t)queries->shape[0] * sizeof(double);
    q->sum = pf_heap_alloc(s->heap, bytes);
    if (!q->sum) return PF_ENOMEM;
    q->size = q->sum + queries->shape[0];
    c->keys = pf_f32(keys);
    c->k = keys->shape[0];
    int status = ask(q, s, engine, queries);
    if (status >= 0) {
        size_t scratch = 2 * pf_encoded_bytes(&q->encoding, false) +
                         PF_ENCODED_BLOCK * PF_ENCODED_BLOCK * sizeof(double);
        status = pf_parallel(engine, pf_ceil_div(q->n, PF_ENCODED_BLOCK), scratch, chances_task, c);
    }
    pf_heap_free(s->heap, q->sum, bytes);
    return status;
}

int pf_items_probability(pf_tensor **out, pf_items *s, pf_engine *engine, const pf_tensor *queries,
                         const pf_tensor *keys, unsigned flags) {
    PF_TRY(check_matrix(queries, -1, s->dim, "probability", "queries"));
    PF_TRY(check_matrix(keys, -1, s->dim, "probability", "keys"));
    question q = {0};
    chances c = {.q = &q, .log = (flags & PF_ITEMS_LOG) != 0};
    c.estimate = (flags & PF_ITEMS_ESTIMATE) != 0 || !s->kernel->spec.map->softmax;
    int64_t shape[2] = {queries->shape[0], keys->shape[0]};
    pf_tensor *x = NULL, *y = NULL;
    PF_TRY(pf_tensor_make(out, engine, PF_F32, 2, shape));
    c.out = pf_f32(*out);
    int status = take_rows(&x, s, engine, PF_SIDE_QUERY, queries);
    if (status >= 0) status = take_rows(&y, s, engine, PF_SIDE_KEY, keys);
    if (status >= 0) status = run_chances(&c, &q, s, engine, x, y);
    pf_tensor_release(&x);
    pf_tensor_release(&y);
    if (status < 0) pf_tensor_release(out);
    return status;
}
