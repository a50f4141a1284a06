/*
 * api_sample.c - see sample.h: greedy, by temperature, among the top_k likeliest, among the
 * likeliest that reach the share top_p, among those of at least min_p times the likeliest's share;
 * logits of tokens that were fed pay the repetition penalty before all that. Ids are ordered no
 * further than they are needed.
 *
 * The likeliest ids come off a heap (sift, pop), so k of V cost V + k log V. A draw takes one
 * uniform number: the id is the one at which the running sum of weights passes it.
 */
#include <math.h>
#include <string.h>

#include "sample.h"

/* ---- room ---- */

static size_t logits_bytes(const pf_sampler *s) {
    return (size_t)(s->batch * s->vocab) * sizeof *s->logits;
}

static void free_rows(pf_sampler *s, pf_heap *heap) {
    size_t n = (size_t)s->vocab;
    if (s->logits) pf_heap_free(heap, s->logits, logits_bytes(s));
    if (s->coming) pf_heap_free(heap, s->coming, logits_bytes(s));
    if (s->seen) pf_heap_free(heap, s->seen, (size_t)(s->batch * s->vocab));
    if (s->weight) pf_heap_free(heap, s->weight, n * sizeof *s->weight);
    if (s->order) pf_heap_free(heap, s->order, n * sizeof *s->order);
    s->logits = s->coming = NULL, s->seen = NULL, s->weight = NULL, s->order = NULL;
    s->batch = s->vocab = 0;
}

void pf_sampler_free(pf_sampler *s, pf_heap *heap) {
    free_rows(s, heap);
    if (s->allow) pf_heap_free(heap, s->allow, (size_t)s->n_allow);
    *s = (pf_sampler){0};
}

/* The work space of one row serves all of them, one after the other. */
int pf_sampler_room(pf_sampler *s, pf_heap *heap, int64_t batch, int64_t vocab) {
    if (s->vocab == vocab && s->batch == batch) return PF_OK;
    if (s->vocab) {
        return pf_fail(PF_ESHAPE, "stream: %lld logits where the vocabulary has %lld",
                       (long long)vocab, (long long)s->vocab);
    }
    int64_t shape[2] = {batch, vocab};
    if (vocab < 1 || vocab > INT32_MAX) {
        return pf_fail(PF_ESHAPE, "stream: the model gives %lld logits", (long long)vocab);
    }
    if (s->allow && s->n_allow != vocab) {
        return pf_fail(PF_ESHAPE, "stream: allow is for %lld tokens, the vocabulary has %lld",
                       (long long)s->n_allow, (long long)vocab);
    }
    PF_TRY(pf_shape_valid(2, shape, PF_F32, "stream"));
    size_t n = (size_t)vocab;
    s->batch = batch, s->vocab = vocab;
    s->logits = pf_heap_alloc(heap, logits_bytes(s));
    s->coming = pf_heap_alloc(heap, logits_bytes(s));
    s->seen = pf_heap_zalloc(heap, (size_t)(batch * vocab));
    s->weight = pf_heap_alloc(heap, n * sizeof *s->weight);
    s->order = pf_heap_alloc(heap, n * sizeof *s->order);
    if (s->logits && s->coming && s->seen && s->weight && s->order) return PF_OK;
    free_rows(s, heap);
    return PF_ENOMEM;
}

void pf_sampler_note(pf_sampler *s, const int32_t *ids, int64_t n, size_t stride) {
    for (int64_t i = 0; i < s->batch * s->vocab; i++) s->seen[i] &= 1;
    for (int64_t b = 0; b < s->batch; b++) {
        uint8_t *seen = s->seen + b * s->vocab;
        const int32_t *row = ids + (size_t)b * stride;
        for (int64_t i = 0; i < n; i++) {
            /* A model may read ids that it never writes. */
            if (row[i] >= 0 && row[i] < s->vocab && !seen[row[i]]) seen[row[i]] = 2;
        }
    }
}

void pf_sampler_keep(pf_sampler *s) {
    memcpy(s->logits, s->coming, logits_bytes(s));
    for (int64_t i = 0; i < s->batch * s->vocab; i++) s->seen[i] = s->seen[i] != 0;
}

int pf_sampler_allow(pf_sampler *s, pf_heap *heap, const uint8_t *allow, int64_t n) {
    uint8_t *own = NULL;
    if (allow) {
        if (n < 1 || (s->vocab && n != s->vocab)) {
            return pf_fail(PF_ESHAPE, "stream: allow is for %lld tokens, the vocabulary has %lld",
                           (long long)n, (long long)s->vocab);
        }
        own = pf_heap_alloc(heap, (size_t)n);
        if (!own) return PF_ENOMEM;
        memcpy(own, allow, (size_t)n);
    }
    if (s->allow) pf_heap_free(heap, s->allow, (size_t)s->n_allow);
    s->allow = own;
    s->n_allow = own ? n : 0;
    return PF_OK;
}

/* Rows of logits, where some stand; rows NULL: all as they are. */
static int take_rows(pf_sampler *to, pf_heap *heap, const pf_sampler *from, const int64_t *rows,
                     int64_t n) {
    if (!from->vocab) return PF_OK;
    PF_TRY(pf_sampler_room(to, heap, n, from->vocab));
    size_t width = (size_t)from->vocab;
    for (int64_t b = 0; b < n; b++) {
        int64_t row = rows ? rows[b] : b;
        if (row < 0 || row >= from->batch) {
            return pf_fail(PF_EINVAL, "reorder: there is no row %s in a stream of %lld sequences",
                           pf_place(row), (long long)from->batch);
        }
        memcpy(to->logits + (size_t)b * width, from->logits + (size_t)row * width,
               width * sizeof *to->logits);
        for (size_t i = 0; i < width; i++) {
            to->seen[(size_t)b * width + i] = from->seen[(size_t)row * width + i] & 1;
        }
    }
    return PF_OK;
}

/* What is allowed is the same for all rows. */
int pf_sampler_reorder(pf_sampler *to, pf_heap *heap, const pf_sampler *from, const int64_t *rows,
                       int64_t n) {
    int status = take_rows(to, heap, from, rows, n);
    if (status >= 0) status = pf_sampler_allow(to, heap, from->allow, from->n_allow);
    if (status < 0) pf_sampler_free(to, heap);
    return status;
}

int pf_sampler_copy(pf_sampler *to, pf_heap *heap, const pf_sampler *from) {
    return pf_sampler_reorder(to, heap, from, NULL, from->batch);
}

/* ---- one row ---- */

typedef struct {
    const pf_sampler *all;
    const float *logits; /* of the row */
    const uint8_t *seen; /* of the row: a bit of `fed` where it was */
    uint8_t fed;
    double penalty; /* 1: none */
} sampled_row;

static bool allowed(const sampled_row *s, int64_t id) {
    return (!s->all->allow || s->all->allow[id]) && s->logits[id] > -INFINITY;
}

/* What stands for a token's probability: its logit, less likely where it was fed before. */
static float logit(const sampled_row *s, int64_t id) {
    const float x = s->logits[id];
    if (s->penalty == 1 || !(s->seen[id] & s->fed)) return x;
    return (float)(x > 0 ? x / s->penalty : x * s->penalty);
}

/* The likeliest id, the first of equals. */
static int find_best(const sampled_row *s, int32_t *best) {
    int64_t at = -1;
    for (int64_t i = 0; i < s->all->vocab; i++) {
        if (isnan(s->logits[i])) { /* and so is what the penalty makes of it */
            return pf_fail(PF_ENUMERIC, "stream: the logit of token %lld is not a number",
                           (long long)i);
        }
        if (allowed(s, i) && (at < 0 || logit(s, i) > logit(s, at))) at = i;
    }
    if (at < 0) return pf_fail(PF_EINVAL, "stream: no token is allowed");
    *best = (int32_t)at;
    return PF_OK;
}

/* a comes before b: larger logit, then smaller id. */
static bool before(const sampled_row *s, int32_t a, int32_t b) {
    const float of_a = logit(s, a), of_b = logit(s, b);
    return of_a > of_b || (of_a == of_b && a < b);
}

/* Lets the id at place `at` of a heap of n sink to where it belongs. */
static void sift(const sampled_row *s, int64_t n, int64_t at) {
    int32_t *heap = s->all->order, id = heap[at];
    for (int64_t child; (child = 2 * at + 1) < n; at = child) {
        if (child + 1 < n && before(s, heap[child + 1], heap[child])) child++;
        if (!before(s, heap[child], id)) break;
        heap[at] = heap[child];
    }
    heap[at] = id;
}

/* Moves the next likeliest of the first n ids of s->all->order to place n - 1. */
static void pop(const sampled_row *s, int64_t n) {
    int32_t top = s->all->order[0];
    s->all->order[0] = s->all->order[n - 1];
    sift(s, n - 1, 0);
    s->all->order[n - 1] = top;
}

/* Fills s->all->order with the n allowed ids whose weight is at least min_p, the likeliest's being
 * 1, and s->all->weight by id; returns their sum. */
static double weigh(const sampled_row *s, double temperature, double min_p, float best,
                    int64_t *n) {
    double sum = 0;
    *n = 0;
    for (int64_t i = 0; i < s->all->vocab; i++) {
        if (!allowed(s, i)) continue;
        const double weight = exp(((double)logit(s, i) - best) / temperature);
        if (weight < min_p) continue;
        s->all->order[(*n)++] = (int32_t)i;
        s->all->weight[i] = weight;
        sum += weight;
    }
    return sum;
}

/* Leaves in s->all->order[*first .. n-1] the top_k likeliest of n ids, or of them the fewest
 * that reach the share top_p; returns the sum of their weights. */
static double cut(const sampled_row *s, const pf_sampling *o, double sum, int64_t n,
                  int64_t *first) {
    int64_t kept = o->top_k > 0 ? pf_min(o->top_k, n) : n;
    for (int64_t i = n / 2; i-- > 0;) sift(s, n, i);
    if (o->top_k > 0) { /* the share is one of the top_k */
        sum = 0;
        for (int64_t i = 0; i < kept; i++) {
            pop(s, n - i);
            sum += s->all->weight[s->all->order[n - i - 1]];
        }
    }
    double reached = 0;
    int64_t taken = 0;
    for (; taken < kept && (taken == 0 || reached < o->top_p * sum); taken++) {
        if (o->top_k <= 0) pop(s, n - taken);
        reached += s->all->weight[s->all->order[n - taken - 1]];
    }
    *first = n - taken;
    return reached;
}

/* The id at which the running sum passes `point`. */
static int32_t walk(const sampled_row *s, int64_t first, int64_t n, double point) {
    double sum = 0;
    for (int64_t i = n - 1; i > first; i--) {
        sum += s->all->weight[s->all->order[i]];
        if (point < sum) return s->all->order[i];
    }
    return s->all->order[first];
}

int pf_sampling_take(pf_sampling *o, const pf_sampling *given) {
    *o = (pf_sampling){.size = sizeof *o};
    PF_TRY(pf_options_take(o, sizeof *o, given, "sampling"));
    if (o->top_p == 0) o->top_p = 1;
    if (o->repetition_penalty == 0) o->repetition_penalty = 1;
    if (!isfinite(o->temperature) || o->temperature < 0) {
        return pf_fail(PF_EINVAL, "stream: temperature must be at least 0, got %g", o->temperature);
    }
    if (!(o->top_p > 0 && o->top_p <= 1) || o->top_k < 0) {
        return pf_fail(PF_EINVAL, "stream: top_p must be from 0 to 1, top_k at least 0; got %g, %d",
                       o->top_p, o->top_k);
    }
    if (!(o->min_p >= 0 && o->min_p <= 1)) {
        return pf_fail(PF_EINVAL, "stream: min_p must be from 0 to 1, got %g", o->min_p);
    }
    if (!isfinite(o->repetition_penalty) || o->repetition_penalty <= 0) {
        return pf_fail(PF_EINVAL, "stream: repetition_penalty must be above 0, got %g",
                       o->repetition_penalty);
    }
    return PF_OK;
}

/* ---- all rows ---- */

/* The likeliest where temperature is 0, and where its logit is infinite: nothing is beside it. */
static int draw_row(const sampled_row *s, const pf_sampling *o, uint64_t row, int64_t position,
                    int32_t *next) {
    PF_TRY(find_best(s, next));
    float best = logit(s, *next);
    if (o->temperature == 0 || isinf(best)) return PF_OK;
    int64_t n, first = 0;
    double sum = weigh(s, o->temperature, o->min_p, best, &n);
    if (o->top_k > 0 || o->top_p < 1) sum = cut(s, o, sum, n, &first);
    pf_rng rng = pf_rng_make(o->seed, PF_DRAW_SAMPLE, row, (uint64_t)position);
    *next = walk(s, first, n, pf_rng_uniform(&rng, 0) * sum);
    return PF_OK;
}

int pf_sampler_draw(const pf_sampler *s, const pf_engine *engine, const float *logits,
                    int64_t position, const pf_sampling *sampling, int32_t *next) {
    pf_sampling o;
    PF_TRY(pf_sampling_take(&o, sampling));
    for (int64_t b = 0; b < s->batch; b++) {
        /* What a call under way feeds counts for its own draw alone. */
        const uint8_t fed = logits == s->coming ? 3 : 1;
        sampled_row row = {s, logits + b * s->vocab, s->seen + b * s->vocab, fed,
                           o.repetition_penalty};
        PF_TRY(pf_charge(engine, pf_work_of(4 * (double)s->vocab, 0)));
        PF_TRY(draw_row(&row, &o, (uint64_t)b, position, &next[b]));
    }
    return PF_OK;
}
