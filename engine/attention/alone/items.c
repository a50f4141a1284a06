/*
 * items.c - the softmax over a fixed set of items (items.h): opening a set, and items that join and
 * leave it, one pass over them. What is asked of it: items_ask.c.
 * The use of FAVOR+ that no sparsity pattern serves: the sum needs every item (paper, section
 * 1; recommender softmax, pointer networks). Not differentiable; log_partition is.
 *
 * A change is built apart, from all its rows, and then joined or subtracted: a failure, also a
 * cancel, leaves the set as it was. Sums are in double, in the order of the rows.
 *
 * It takes the rows three times: once for their log-shifts, which say what levels there are; then,
 * a round at a time, their features; then the sums, whose tasks have SLICE features each and walk
 * all rows of the round, so that the order of additions does not depend on the threads.
 */
#include <math.h>
#include <string.h>

#include "items.h"

enum {
    ROUND = 1024, /* items encoded at a time */
    SLICE = 32,   /* features that a task sums */
    WIDEST = 1 << 20
};

/* ---- opening ---- */

/* The kernel of the set, with one projection for all of it, and the width of what it makes. */
static int open_kernel(pf_items *s, pf_engine *engine, pf_kernel *given) {
    pf_kernel *kernel = given ? pf_kernel_retain(given) : NULL;
    int status = kernel ? PF_OK : pf_kernel_open(&kernel, engine, NULL, NULL);
    if (status >= 0) status = pf_kernel_bind(&s->kernel, engine, kernel, s->dim, 0);
    pf_kernel_release(&kernel);
    PF_TRY(status);
    PF_TRY(pf_kernel_no_reference(s->kernel, false, "items", "a set of items changes"));
    const pf_tensor *W = s->kernel->projection;
    if (W && W->rank != 2) {
        return pf_fail(PF_ESHAPE, "items: projection is %s, must be (features, %lld)",
                       pf_shape_of(W), (long long)s->dim);
    }
    return pf_kernel_width(&s->r, engine, s->kernel, 0);
}

int pf_items_open(pf_items **items, pf_engine *engine, const pf_items_options *options) {
    PF_OUT(items);
    PF_OPEN(engine);
    PF_NEED(options);
    pf_items_options o = {0};
    PF_TRY(pf_options_take(&o, sizeof o, options, "items"));
    if (o.dim < 1 || o.dim > WIDEST || o.value_dim < 0 || o.value_dim > WIDEST) {
        return pf_fail(PF_EINVAL,
                       "items: dim is %lld and value_dim %lld; from 1, from 0, to %d are possible",
                       (long long)o.dim, (long long)o.value_dim, WIDEST);
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

void pf_items_close(pf_items **items) {
    pf_items *s = items ? *items : NULL;
    if (!s) return;
    *items = NULL;
    pf_levels_close(&s->levels);
    pf_kernel_release(&s->kernel);
    if (s->z) pf_heap_free(s->heap, s->z, pf_items_gathered_bytes(s));
    pf_heap *heap = s->heap;
    pf_heap_free(heap, s, sizeof *s);
    pf_heap_release(heap);
}

int64_t pf_items_count(const pf_items *items) {
    return items ? pf_levels_count(&items->levels) : 0;
}

int64_t pf_items_bytes(const pf_items *s) {
    if (!s) return 0;
    int64_t bytes = pf_levels_bytes(&s->levels) + (int64_t)sizeof *s;
    return bytes + (s->z ? (int64_t)pf_items_gathered_bytes(s) : 0);
}

void pf_items_encoding(pf_encoding *encoding, const pf_engine *engine, const pf_items *s) {
    if (pf_kernel_given(s->kernel)) {
        pf_encoding_given(encoding, engine->kern, s->r, 1);
    } else {
        pf_encoding_of(encoding, s->kernel, engine->kern);
    }
}

/* A host's map is asked for features of (1, 1, n, dim), as ops take rows, and detached: a set
 * outlives any tape. */
int pf_items_rows(pf_tensor **rows, pf_items *s, pf_engine *engine, pf_side side,
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

/* Task: the log-shifts of one block of all items. */
static void shift_task(void *context, int64_t block, void *scratch) {
    change *c = context;
    pf_encoded keys;
    int64_t first = block * PF_ENCODED_BLOCK, n = pf_items_block_rows(c->n, block);
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
    int64_t first = block * PF_ENCODED_BLOCK, n = pf_items_block_rows(c->rows, block),
            r = c->items->r;
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
        for (int64_t i = 0; v && i < dv; i++) {
            double value = (double)v[i], *s = z + (1 + i) * r;
            for (int64_t a = 0; a < until - from; a++) s[a] += phi[a] * value;
        }
    }
}

/* ROUND items: their weights in their levels, their features, and their part of the sums. */
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

int pf_items_check(const pf_tensor *t, int64_t rows, int64_t width, const char *what,
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

/* A set has values or has none, and so has every change of it. */
static int check_change(const pf_items *s, const pf_tensor *keys, const pf_tensor *values,
                        const char *what) {
    PF_TRY(pf_items_check(keys, -1, s->dim, what, "keys"));
    if (s->value_dim == 0) {
        if (!values) return PF_OK;
        return pf_fail(PF_EINVAL, "items: %s: this set was opened without values", what);
    }
    if (!values) return pf_fail(PF_EINVAL, "items: %s: this set has values; give them", what);
    return pf_items_check(values, keys->shape[0], s->value_dim, what, "values");
}

/* Work space of a change, in one block: sum, weight, f, shift. */
static size_t space_bytes(const pf_items *s, int64_t n) {
    return ROUND * (sizeof(double *) + sizeof(double)) + (size_t)(ROUND * s->r + n) * sizeof(float);
}

/* Built apart, then joined or subtracted as a whole. */
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

/* Rows are encoded twice, and each feature is a factor of all values. */
static int charge(const pf_items *s, const pf_engine *engine, int64_t rows) {
    const double n = (double)rows, d = (double)s->dim, dv = (double)s->value_dim, r = (double)s->r;
    return pf_charge(engine, PF_WORK_OP + pf_work_of(n * (d + dv), n * r * (2 * d + 1 + dv)));
}

/* Adding and taking out are one pass but for its last step. */
static int change_items(pf_items *s, pf_engine *engine, const pf_tensor *keys,
                        const pf_tensor *values, bool removed) {
    PF_TRY(check_change(s, keys, values, removed ? "remove" : "add"));
    PF_TRY(charge(s, engine, keys->shape[0]));
    change c = {.items = s, .engine = engine, .n = keys->shape[0]};
    pf_items_encoding(&c.encoding, engine, s);
    pf_tensor *k = NULL, *v = NULL;
    int status = pf_items_rows(&k, s, engine, PF_SIDE_KEY, keys);
    if (status >= 0 && values) status = pf_tensor_compact(&v, engine, values);
    if (status >= 0) status = run_change(&c, s, k, v, removed);
    pf_tensor_release(&k);
    pf_tensor_release(&v);
    return status;
}

int pf_items_add(pf_items *items, pf_engine *engine, const pf_tensor *keys,
                 const pf_tensor *values) {
    PF_OPEN(engine);
    PF_NEED(items, keys);
    return change_items(items, engine, keys, values, false);
}

int pf_items_remove(pf_items *items, pf_engine *engine, const pf_tensor *keys,
                    const pf_tensor *values) {
    PF_OPEN(engine);
    PF_NEED(items, keys);
    return change_items(items, engine, keys, values, true);
}
