/*
 * api_stream.c - generating with a model: a prompt goes through prefill in slices, then a
 * step a token, and a sampler picks from the logits. The module is only retained, so that
 * streams on any number of engines share its weights. What is drawn depends on the seed
 * and the position alone. A step frees all it makes, and the heap's cache hands the same
 * blocks to the next one.
 */
#include <math.h>
#include <string.h>

#include "module.h"

enum { SLICE = 1024 }; /* prompt tokens a prefill: bounds what a long prompt needs */

struct pf_stream {
    pf_engine *engine;
    pf_heap *heap;
    pf_module *model; /* retained */
    pf_state *state;
    pf_tensor *token; /* (1) i32, of a step */
    int64_t vocab;    /* 0: not known yet */
    bool ready;       /* logits stand */
    float *logits;    /* of the next token */
    double *weight;   /* work of the sampler, with `order` */
    int32_t *order;
    uint8_t *allow;   /* NULL: all */
};

/* ---- logits ---- */

static int make_vocab(pf_stream *s, int64_t vocab) {
    if (s->vocab == vocab) return 0;
    if (s->vocab) {
        return pf_fail(PF_ESHAPE, "stream: %lld logits where the vocabulary has %lld",
                       (long long)vocab, (long long)s->vocab);
    }
    if (vocab < 1 || vocab > INT32_MAX) {
        return pf_fail(PF_ESHAPE, "stream: the model gives %lld logits", (long long)vocab);
    }
    size_t n = (size_t)vocab;
    s->logits = pf_heap_alloc(s->heap, n * sizeof *s->logits);
    s->weight = pf_heap_alloc(s->heap, n * sizeof *s->weight);
    s->order = pf_heap_alloc(s->heap, n * sizeof *s->order);
    if (!s->logits || !s->weight || !s->order) {
        if (s->logits) pf_heap_free(s->heap, s->logits, n * sizeof *s->logits);
        if (s->weight) pf_heap_free(s->heap, s->weight, n * sizeof *s->weight);
        if (s->order) pf_heap_free(s->heap, s->order, n * sizeof *s->order);
        s->logits = NULL, s->weight = NULL, s->order = NULL;
        return PF_ENOMEM;
    }
    s->vocab = vocab;
    return 0;
}

/* Keeps the last row of y, (1, V) or (1, L, V). */
static int keep_logits(pf_stream *s, pf_tensor *y) {
    pf_tensor *last = NULL;
    if (y->rank < 2 || y->rank > 3 || y->shape[0] != 1 || y->dtype != PF_F32) {
        return pf_fail(PF_ESHAPE, "stream: the model gives %s, must be logits (1, L, vocab)",
                       pf_shape_of(y));
    }
    int64_t vocab = y->shape[y->rank - 1];
    PF_TRY(make_vocab(s, vocab));
    if (y->rank == 2) {
        last = pf_tensor_retain(y);
    } else {
        PF_TRY(pf_tensor_view(&last, y));
        last->offset += (y->shape[1] - 1) * y->stride[1];
        last->shape[1] = 1;
    }
    int status = pf_tensor_read(last, s->logits, (size_t)vocab * sizeof *s->logits);
    pf_tensor_release(&last);
    s->ready = status >= 0;
    return status;
}

static int step(pf_stream *s, int32_t id) {
    pf_tensor *y = NULL;
    PF_TRY(pf_tensor_write(s->token, &id, sizeof id));
    PF_TRY(pf_module_step(&y, s->engine, s->model, s->token, s->state));
    int status = keep_logits(s, y);
    pf_tensor_release(&y);
    return status;
}

static int prefill(pf_stream *s, const int32_t *ids, int64_t n) {
    pf_tensor *x = NULL, *y = NULL;
    int64_t shape[2] = {1, n};
    PF_TRY(pf_tensor_make_lasting(&x, s->heap, PF_I32, 2, shape));
    int status = pf_tensor_write(x, ids, (size_t)n * sizeof *ids);
    if (status >= 0) status = pf_module_prefill_last(&y, s->engine, s->model, x, s->state);
    if (status >= 0) status = keep_logits(s, y);
    pf_tensor_release(&y);
    pf_tensor_release(&x);
    return status;
}

/* ---- sampling ---- */

static bool allowed(const pf_stream *s, int64_t id) {
    return (!s->allow || s->allow[id]) && s->logits[id] > -INFINITY;
}

/* The likeliest id, the first of equals. */
static int find_best(const pf_stream *s, int32_t *best) {
    int64_t at = -1;
    for (int64_t i = 0; i < s->vocab; i++) {
        if (isnan(s->logits[i])) {
            return pf_fail(PF_ENUMERIC, "stream: the logit of token %lld is not a number",
                           (long long)i);
        }
        if (allowed(s, i) && (at < 0 || s->logits[i] > s->logits[at])) at = i;
    }
    if (at < 0) return pf_fail(PF_EINVAL, "stream: no token is allowed");
    *best = (int32_t)at;
    return 0;
}

/* a comes before b: larger logit, then smaller id. */
static bool before(const pf_stream *s, int32_t a, int32_t b) {
    return s->logits[a] > s->logits[b] || (s->logits[a] == s->logits[b] && a < b);
}

static void sift(const pf_stream *s, int64_t n, int64_t at) {
    int32_t *heap = s->order, id = heap[at];
    for (int64_t child; (child = 2 * at + 1) < n; at = child) {
        if (child + 1 < n && before(s, heap[child + 1], heap[child])) child++;
        if (!before(s, heap[child], id)) break;
        heap[at] = heap[child];
    }
    heap[at] = id;
}

/* Moves the next likeliest of the first n ids of s->order to place n - 1. */
static void pop(const pf_stream *s, int64_t n) {
    int32_t top = s->order[0];
    s->order[0] = s->order[n - 1];
    sift(s, n - 1, 0);
    s->order[n - 1] = top;
}

/* Fills s->order with the n allowed ids and s->weight by id; returns their sum. */
static double weigh(const pf_stream *s, double temperature, float best, int64_t *n) {
    double sum = 0;
    *n = 0;
    for (int64_t i = 0; i < s->vocab; i++) {
        if (!allowed(s, i)) continue;
        s->order[(*n)++] = (int32_t)i;
        s->weight[i] = exp(((double)s->logits[i] - best) / temperature);
        sum += s->weight[i];
    }
    return sum;
}

/* Leaves in s->order[*first .. n-1] the top_k likeliest of n ids, or of them the fewest
 * that reach the share top_p; returns the sum of their weights. */
static double cut(const pf_stream *s, const pf_sampling *o, double sum, int64_t n, int64_t *first) {
    int64_t kept = o->top_k > 0 ? pf_min(o->top_k, n) : n;
    for (int64_t i = n / 2; i-- > 0;) sift(s, n, i);
    if (o->top_k > 0) { /* the share is one of the top_k */
        sum = 0;
        for (int64_t i = 0; i < kept; i++) {
            pop(s, n - i);
            sum += s->weight[s->order[n - i - 1]];
        }
    }
    double reached = 0;
    int64_t taken = 0;
    for (; taken < kept && (taken == 0 || reached < o->top_p * sum); taken++) {
        if (o->top_k <= 0) pop(s, n - taken);
        reached += s->weight[s->order[n - taken - 1]];
    }
    *first = n - taken;
    return reached;
}

/* The id at which the running sum passes `point`. */
static int32_t walk(const pf_stream *s, int64_t first, int64_t n, double point) {
    double sum = 0;
    for (int64_t i = n - 1; i > first; i--) {
        sum += s->weight[s->order[i]];
        if (point < sum) return s->order[i];
    }
    return s->order[first];
}

static int read_sampling(pf_sampling *o, const pf_sampling *given) {
    *o = (pf_sampling){.size = sizeof *o};
    if (given) memcpy(o, given, given->size < sizeof *o ? given->size : sizeof *o);
    if (o->top_p == 0) o->top_p = 1;
    if (!isfinite(o->temperature) || o->temperature < 0) {
        return pf_fail(PF_EINVAL, "stream: temperature must be at least 0, got %g", o->temperature);
    }
    if (!(o->top_p > 0 && o->top_p <= 1) || o->top_k < 0) {
        return pf_fail(PF_EINVAL, "stream: top_p must be from 0 to 1, top_k at least 0; got %g, %d",
                       o->top_p, o->top_k);
    }
    return 0;
}

static int sample(const pf_stream *s, const pf_sampling *given, int32_t *next) {
    pf_sampling o;
    PF_TRY(read_sampling(&o, given));
    PF_TRY(find_best(s, next));
    float best = s->logits[*next];
    if (o.temperature == 0 || isinf(best)) return 0;
    int64_t n, first = 0;
    double sum = weigh(s, o.temperature, best, &n);
    if (o.top_k > 0 || o.top_p < 1) sum = cut(s, &o, sum, n, &first);
    pf_rng rng = pf_rng_make(o.seed, PF_DRAW_SAMPLE, 0, (uint64_t)s->state->position);
    *next = walk(s, first, n, pf_rng_uniform(&rng, 0) * sum);
    return 0;
}

/* ---- public ---- */

int pf_stream_open(pf_stream **stream, pf_engine *engine, pf_module *model) {
    static const int64_t one = 1;
    *stream = NULL;
    if (!model) return pf_fail(PF_EINVAL, "stream: the model is NULL");
    pf_stream *s = pf_heap_zalloc(engine->heap, sizeof *s);
    if (!s) return PF_ENOMEM;
    s->engine = engine;
    s->heap = pf_heap_retain(engine->heap);
    s->model = pf_module_retain(model);
    int status = pf_module_state(&s->state, engine, model, 1);
    if (status >= 0) status = pf_tensor_make_lasting(&s->token, s->heap, PF_I32, 1, &one);
    if (status < 0) {
        pf_stream_close(&s);
        return status;
    }
    *stream = s;
    return 0;
}

void pf_stream_close(pf_stream **stream) {
    if (!stream || !*stream) return;
    pf_stream *s = *stream;
    pf_heap *heap = s->heap;
    size_t n = (size_t)s->vocab;
    *stream = NULL;
    if (s->allow) pf_heap_free(heap, s->allow, n);
    if (n) {
        pf_heap_free(heap, s->logits, n * sizeof *s->logits);
        pf_heap_free(heap, s->weight, n * sizeof *s->weight);
        pf_heap_free(heap, s->order, n * sizeof *s->order);
    }
    pf_tensor_release(&s->token);
    pf_state_close(&s->state);
    pf_module_release(&s->model);
    pf_heap_free(heap, s, sizeof *s);
    pf_heap_release(heap);
}

int pf_stream_feed(pf_stream *stream, const int32_t *ids, size_t n) {
    if (n > 0 && !ids) return pf_fail(PF_EINVAL, "stream: ids is NULL");
    for (size_t at = 0; at < n; at += SLICE) {
        int64_t part = (int64_t)(n - at < SLICE ? n - at : SLICE);
        PF_TRY(part == 1 ? step(stream, ids[at]) : prefill(stream, ids + at, part));
    }
    return 0;
}

int pf_stream_next(pf_stream *stream, int32_t token, const pf_sampling *sampling, int32_t *next) {
    PF_TRY(step(stream, token));
    return sample(stream, sampling, next);
}

int pf_stream_sample(pf_stream *stream, const pf_sampling *sampling, int32_t *next) {
    if (!stream->ready) return pf_fail(PF_ESTATE, "stream: feed a prompt or a token first");
    return sample(stream, sampling, next);
}

int pf_stream_allow(pf_stream *stream, const uint8_t *allow, int64_t n) {
    if (!allow) {
        if (stream->allow) pf_heap_free(stream->heap, stream->allow, (size_t)stream->vocab);
        stream->allow = NULL;
        return 0;
    }
    PF_TRY(make_vocab(stream, n));
    if (!stream->allow) stream->allow = pf_heap_alloc(stream->heap, (size_t)n);
    if (!stream->allow) return PF_ENOMEM;
    memcpy(stream->allow, allow, (size_t)n);
    return 0;
}

const float *pf_stream_logits(const pf_stream *stream, int64_t *n) {
    if (n) *n = stream->ready ? stream->vocab : 0;
    return stream->ready ? stream->logits : NULL;
}

int64_t pf_stream_bytes(const pf_stream *stream) { return pf_state_bytes(stream->state); }
