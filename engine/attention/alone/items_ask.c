/*
 * items_ask.c - what is asked of a set of items: the log of its sum, the mean of its values, the
 * probability of chosen items, each in O(m (d + dv)) a query, whatever N.
 *
 * What must hold: a query's bits do not depend on the queries beside it, nor on the threads; the
 * numbers are those of the sums as they are when it is asked.
 *
 * Levels are gathered into one z (double) and one S (float) at the first question after a change:
 * z makes log Z and the denominators, where digits count; of S a product of floats is enough.
 */
#include <math.h>
#include <string.h>

#include "items.h"

/* ---- log-partition and expectation ---- */

/* z and S of all levels in units of the highest; only after a change. What lies far below it is 0
 * there, as it would be in a sum. */
static int gather(pf_items *s) {
    if (s->z && !s->stale) return PF_OK;
    if (!s->z) s->z = pf_heap_alloc(s->heap, pf_items_gathered_bytes(s));
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

/* Task: a block of queries. log Z = s + top + log phi(x).z, with what the map left out, twice: of
 * the query's features and of the items'. */
static void question_task(void *context, int64_t task, void *scratch) {
    const question *q = context;
    const pf_items *s = q->items;
    pf_encoded block;
    int64_t first = task * PF_ENCODED_BLOCK, n = pf_items_block_rows(q->n, task);
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

static int charge(const question *q, const pf_engine *engine) {
    const double n = (double)q->n, d = (double)q->items->dim, r = (double)q->items->r;
    const double outputs = q->expectation ? (double)q->items->value_dim : 0;
    return pf_charge(engine, PF_WORK_OP + pf_work_of(n * (d + outputs), n * r * (d + 1 + outputs)));
}

/* One question of contiguous rows: tasks are blocks of queries, each against the whole sum. */
static int ask(question *q, pf_items *s, pf_engine *engine, const pf_tensor *queries) {
    q->items = s;
    q->queries = pf_f32(queries);
    q->n = queries->shape[0];
    PF_TRY(charge(q, engine));
    PF_TRY(gather(s));
    pf_items_encoding(&q->encoding, engine, s);
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
    int status = pf_items_rows(&x, s, engine, PF_SIDE_QUERY, queries);
    if (status >= 0) status = ask(&q, s, engine, x);
    pf_tensor_release(&x);
    if (status < 0) pf_tensor_release(out);
    return status;
}

int pf_items_log_partition(pf_tensor **out, pf_items *items, pf_engine *engine,
                           const pf_tensor *queries) {
    PF_OUT(out);
    PF_OPEN(engine);
    PF_NEED(items, queries);
    PF_TRY(pf_items_check(queries, -1, items->dim, "log_partition", "queries"));
    return answer(out, items, engine, queries, false);
}

int pf_items_expectation(pf_tensor **out, pf_items *items, pf_engine *engine,
                         const pf_tensor *queries) {
    PF_OUT(out);
    PF_OPEN(engine);
    PF_NEED(items, queries);
    PF_TRY(pf_items_check(queries, -1, items->dim, "expectation", "queries"));
    if (items->value_dim == 0) {
        return pf_fail(PF_EINVAL, "items: expectation: this set was opened without values");
    }
    return answer(out, items, engine, queries, true);
}

/* ---- probabilities of chosen items ---- */

/* P(y | x) = phi(x).phi(y) / Z(x): estimated, or for softmax kernels with exp(x.y) itself above the
 * estimated Z, which has one error less. */
typedef struct {
    const question *q;
    const pf_engine *engine;
    atomic_int stopped; /* why a task was broken off, or 0 */
    const float *keys;  /* (k, d) */
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

/* A task's keys are however many: between two blocks it looks whether to go on. */
static bool goes_on(chances *c) {
    int status = pf_stopped(c->engine);
    if (status < 0) atomic_store(&c->stopped, status);
    return status >= 0;
}

/* Task: a block of queries against all chosen keys, block by block. */
static void chances_task(void *context, int64_t task, void *scratch) {
    chances *c = context;
    const question *q = c->q;
    int64_t first = task * PF_ENCODED_BLOCK, n = pf_items_block_rows(q->n, task), d = q->encoding.d;
    pf_encoded queries, keys;
    pf_encoded_open(&queries, &q->encoding, 0, false, &scratch);
    pf_encoded_open(&keys, &q->encoding, 0, false, &scratch);
    double *score =
        pf_carve(&scratch, (size_t)PF_ENCODED_BLOCK * PF_ENCODED_BLOCK * sizeof(double));
    pf_encoded_fill(&queries, PF_SIDE_QUERY, q->queries, d, NULL, first, n);
    for (int64_t j0 = 0; j0 < c->k && goes_on(c); j0 += PF_ENCODED_BLOCK) {
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

/* Keys are encoded once for every block of queries. */
static int charge_pairs(const chances *c, const pf_engine *engine) {
    const double k = (double)c->k, d = (double)c->q->items->dim, r = (double)c->q->items->r;
    const double blocks = (double)pf_ceil_div(c->q->n, PF_ENCODED_BLOCK), n = (double)c->q->n;
    return pf_charge(engine, pf_work_of(n * k, blocks * k * r * d + n * k * (c->estimate ? r : d)));
}

/* The queries are asked for their sums first, then meet the keys. */
static int run_chances(chances *c, question *q, pf_items *s, pf_engine *engine,
                       const pf_tensor *queries, const pf_tensor *keys) {
    size_t bytes = 2 * (size_t)queries->shape[0] * sizeof(double);
    q->sum = pf_heap_alloc(s->heap, bytes);
    if (!q->sum) return PF_ENOMEM;
    q->size = q->sum + queries->shape[0];
    c->keys = pf_f32(keys);
    c->k = keys->shape[0];
    int status = ask(q, s, engine, queries);
    if (status >= 0) status = charge_pairs(c, engine);
    if (status >= 0) {
        size_t scratch = 2 * pf_encoded_bytes(&q->encoding, false) +
                         (size_t)PF_ENCODED_BLOCK * PF_ENCODED_BLOCK * sizeof(double);
        status = pf_parallel(engine, pf_ceil_div(q->n, PF_ENCODED_BLOCK), scratch, chances_task, c);
        if (status >= 0) status = pf_stopped_fail(engine, atomic_load(&c->stopped));
    }
    pf_heap_free(s->heap, q->sum, bytes);
    return status;
}

int pf_items_probability(pf_tensor **out, pf_items *items, pf_engine *engine,
                         const pf_tensor *queries, const pf_tensor *keys, unsigned flags) {
    PF_OUT(out);
    PF_OPEN(engine);
    PF_NEED(items, queries, keys);
    pf_items *s = items;
    PF_TRY(pf_items_check(queries, -1, s->dim, "probability", "queries"));
    PF_TRY(pf_items_check(keys, -1, s->dim, "probability", "keys"));
    question q = {0};
    chances c = {.q = &q, .engine = engine, .log = (flags & PF_ITEMS_LOG) != 0};
    c.estimate = (flags & PF_ITEMS_ESTIMATE) != 0 || !s->kernel->spec.map->softmax;
    int64_t shape[2] = {queries->shape[0], keys->shape[0]};
    pf_tensor *x = NULL, *y = NULL;
    PF_TRY(pf_tensor_make(out, engine, PF_F32, 2, shape));
    c.out = pf_f32(*out);
    int status = pf_items_rows(&x, s, engine, PF_SIDE_QUERY, queries);
    if (status >= 0) status = pf_items_rows(&y, s, engine, PF_SIDE_KEY, keys);
    if (status >= 0) status = run_chances(&c, &q, s, engine, x, y);
    pf_tensor_release(&x);
    pf_tensor_release(&y);
    if (status < 0) pf_tensor_release(out);
    return status;
}
