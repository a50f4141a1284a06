/*
 * api_serving.c - a running batch that sequences join and leave at their own positions. Its states
 * are those of single streams and stay so: a step gathers their nodes (state/rows.c), so that
 * layers without a state take all sequences in one pass and attention steps each one's own state.
 * Joining, leaving and moving out copy nothing and disturb nobody; a sequence has the bits of a
 * stream, since it is one.
 */
#include <string.h>

#include "serving.h"

/* ---- sequences ---- */

static pf_sequence *find(const pf_serving *s, int64_t id) {
    for (int64_t i = 0; i < s->n; i++) {
        if (s->all[i]->id == id) return s->all[i];
    }
    return NULL;
}

static int need(pf_sequence **q, const pf_serving *s, int64_t id) {
    *q = find(s, id);
    if (*q) return PF_OK;
    return pf_fail(PF_ENOTFOUND, "serving: there is no sequence %lld%s", (long long)id,
                   id > 0 && id <= s->ids ? " any more: it has left" : "");
}

static void free_ids(pf_heap *heap, int32_t **ids, int64_t n) {
    if (*ids) pf_heap_free(heap, *ids, (size_t)n * sizeof **ids);
    *ids = NULL;
}

static void close_sequence(pf_sequence **sequence, pf_heap *heap) {
    pf_sequence *q = *sequence;
    *sequence = NULL;
    if (!q) return;
    pf_stream_close(&q->stream);
    free_ids(heap, &q->prompt, q->n_prompt);
    free_ids(heap, &q->stops, q->n_stops);
    pf_heap_free(heap, q, sizeof *q);
}

static int copy_ids(pf_heap *heap, int32_t **own, const int32_t *ids, int64_t n) {
    if (n == 0) return PF_OK;
    *own = pf_heap_alloc(heap, (size_t)n * sizeof *ids);
    if (!*own) return PF_ENOMEM;
    memcpy(*own, ids, (size_t)n * sizeof *ids);
    return PF_OK;
}

/* ---- joining ---- */

static int check_options(const pf_sequence_options *o) {
    if (o->tokens < 0) {
        return pf_fail(PF_EINVAL, "serving: tokens must be at least 0, got %lld",
                       (long long)o->tokens);
    }
    if (o->n_stops < 0 || o->n_stops > INT32_MAX || (o->n_stops > 0 && !o->stops)) {
        return pf_fail(PF_EINVAL, "serving: stops are %lld, and %s", (long long)o->n_stops,
                       o->stops ? "there can't be so many" : "their list is NULL");
    }
    for (int64_t i = 0; i < o->n_stops; i++) {
        if (o->stops[i] >= 0) continue;
        return pf_fail(PF_EINVAL, "serving: stop %s is %d, which is no token", pf_place(i),
                       (int)o->stops[i]);
    }
    return PF_OK;
}

/* What options say of a sequence that has its stream. */
static int take_options(pf_sequence *q, pf_heap *heap, const pf_sequence_options *o) {
    PF_TRY(pf_sampling_take(&q->sampling, o->sampling));
    PF_TRY(copy_ids(heap, &q->stops, o->stops, o->n_stops));
    q->n_stops = o->n_stops;
    q->most = o->tokens;
    return o->allow ? pf_stream_allow(q->stream, o->allow, o->n_allow) : PF_OK;
}

/* Behind the others, with an id of its own. The list has room: nothing can fail any more. */
static void add(pf_serving *s, pf_sequence *q, int64_t *id) {
    q->id = ++s->ids;
    q->last = -1;
    s->all[s->n++] = q;
    *id = q->id;
}

static int make_room(pf_serving *s) {
    if (s->capacity > 0 && s->n >= s->capacity) {
        return pf_fail(PF_ESTATE,
                       "serving: it holds %lld sequences, which is its capacity; let one leave "
                       "first (those that have ended are counted)",
                       (long long)s->n);
    }
    PF_TRY(pf_heap_grow(s->heap, (void **)&s->all, &s->cap, s->n + 1, sizeof *s->all));
    return PF_OK;
}

/* The sequence's stream: a new one, or a copy of `stream`. */
static int open_stream(pf_sequence *q, pf_serving *s, const pf_stream *stream,
                       const pf_sequence_options *o) {
    if (stream) return pf_stream_fork(&q->stream, stream);
    return pf_stream_open_inputs(&q->stream, s->engine, s->model, 1, o->inputs, o->n_inputs);
}

static int join(pf_serving *s, const int32_t *prompt, int64_t n, const pf_stream *stream,
                const pf_sequence_options *options, int64_t *id) {
    pf_sequence_options o = {.size = sizeof o};
    PF_TRY(pf_options_take(&o, sizeof o, options, "serving"));
    PF_TRY(check_options(&o));
    PF_TRY(make_room(s));
    pf_sequence *q = pf_heap_zalloc(s->heap, sizeof *q);
    if (!q) return PF_ENOMEM;
    int status = open_stream(q, s, stream, &o);
    if (status >= 0) status = take_options(q, s->heap, &o);
    if (status >= 0) status = copy_ids(s->heap, &q->prompt, prompt, n);
    if (status < 0) {
        close_sequence(&q, s->heap);
        return status;
    }
    q->n_prompt = n;
    add(s, q, id);
    return PF_OK;
}

int pf_serving_join(pf_serving *serving, const int32_t *prompt, size_t n,
                    const pf_sequence_options *options, int64_t *id) {
    PF_OUT(id);
    PF_NEED(serving);
    PF_OPEN(serving->engine);
    PF_NEED_ARRAY(prompt, n);
    if (n == 0)
        return pf_fail(PF_EINVAL, "serving: the prompt is empty; a sequence goes on from at least "
                                  "one token: a line's end, or what the tokenizer begins with");
    if (n > (size_t)PTRDIFF_MAX / sizeof *prompt) {
        return pf_fail(PF_EINVAL, "serving: %zu ids are more than memory holds", n);
    }
    return join(serving, prompt, (int64_t)n, NULL, options, id);
}

int pf_serving_join_stream(pf_serving *serving, const pf_stream *stream,
                           const pf_sequence_options *options, int64_t *id) {
    PF_OUT(id);
    PF_NEED(serving, stream);
    PF_OPEN(serving->engine);
    if (stream->engine != serving->engine || stream->model != serving->model) {
        return pf_fail(PF_EINVAL, "serving: the stream is of another %s",
                       stream->engine != serving->engine ? "engine" : "model");
    }
    if (stream->state->batch != 1) {
        return pf_fail(PF_EINVAL, "serving: the stream is a batch of %lld; only one sequence joins",
                       (long long)stream->state->batch);
    }
    if (!stream->ready) {
        return pf_fail(PF_ESTATE, "serving: the stream has no logits: feed it its prompt first");
    }
    return join(serving, NULL, 0, stream, options, id);
}

/* ---- leaving ---- */

void pf_serving_ungather(pf_serving *s) {
    pf_state_close(&s->rows);
    pf_tensor_release(&s->token);
    s->n_gathered = 0;
}

int pf_serving_leave(pf_serving *serving, int64_t id) {
    PF_NEED(serving);
    PF_OPEN(serving->engine);
    pf_sequence *q;
    PF_TRY(need(&q, serving, id));
    pf_serving_ungather(serving);
    int64_t at = 0;
    while (serving->all[at] != q) at++;
    serving->n--;
    memmove(serving->all + at, serving->all + at + 1,
            (size_t)(serving->n - at) * sizeof *serving->all);
    close_sequence(&q, serving->heap);
    return PF_OK;
}

/* A copy in the middle of a prompt knows which tokens it has read, as one that was fed them. */
static int note_read(pf_stream *copy, const pf_sequence *q) {
    if (!q->prompt || q->read == 0 || copy->vocab == 0) return PF_OK;
    PF_TRY(pf_sampler_room(&copy->pick, copy->heap, 1, copy->vocab));
    for (int64_t i = 0; i < q->read; i++) {
        int32_t id = q->prompt[i];
        if (id >= 0 && id < copy->vocab) copy->pick.seen[id] = 1;
    }
    return PF_OK;
}

int pf_serving_fork(pf_stream **stream, const pf_serving *serving, int64_t id) {
    PF_OUT(stream);
    PF_NEED(serving);
    PF_OPEN(serving->engine);
    pf_sequence *q;
    PF_TRY(need(&q, serving, id));
    PF_TRY(pf_stream_fork(stream, q->stream));
    int status = note_read(*stream, q);
    if (status < 0) pf_stream_close(stream);
    return status;
}

/* ---- opening ---- */

static int read_options(pf_serving *s, const pf_serving_options *options) {
    pf_serving_options o = {.size = sizeof o};
    PF_TRY(pf_options_take(&o, sizeof o, options, "serving"));
    if (o.capacity < 0 || o.slice < 0) {
        return pf_fail(PF_EINVAL, "serving: capacity and slice must be at least 0, got %lld, %lld",
                       (long long)o.capacity, (long long)o.slice);
    }
    s->capacity = o.capacity;
    s->slice = o.slice > 0 ? o.slice : PF_STREAM_SLICE;
    return PF_OK;
}

/* A model that has a state for one sequence can be served. */
static int check_model(pf_engine *engine, const pf_module *model) {
    pf_state *state = NULL;
    int status = pf_state_of(model, engine, 1, &state);
    pf_state_close(&state);
    return status;
}

int pf_serving_open(pf_serving **serving, pf_engine *engine, pf_module *model,
                    const pf_serving_options *options) {
    PF_OUT(serving);
    PF_OPEN(engine);
    PF_NEED(model);
    PF_TRY(check_model(engine, model));
    pf_serving *s = pf_heap_zalloc(engine->heap, sizeof *s);
    if (!s) return PF_ENOMEM;
    s->engine = engine;
    s->heap = pf_heap_retain(engine->heap);
    s->model = pf_module_retain(model);
    int status = read_options(s, options);
    if (status < 0) {
        pf_serving_close(&s);
        return status;
    }
    *serving = s;
    return PF_OK;
}

void pf_serving_close(pf_serving **serving) {
    if (!serving || !*serving) return;
    pf_serving *s = *serving;
    pf_heap *heap = s->heap;
    *serving = NULL;
    pf_serving_ungather(s);
    for (int64_t i = 0; i < s->n; i++) close_sequence(&s->all[i], heap);
    if (s->all) pf_heap_free(heap, s->all, (size_t)s->cap * sizeof *s->all);
    if (s->made) pf_heap_free(heap, s->made, (size_t)s->cap_made * sizeof *s->made);
    if (s->running) pf_heap_free(heap, s->running, (size_t)s->cap_running * sizeof *s->running);
    if (s->gathered) pf_heap_free(heap, s->gathered, (size_t)s->cap_gathered * sizeof *s->gathered);
    pf_module_release(&s->model);
    pf_heap_free(heap, s, sizeof *s);
    pf_heap_release(heap);
}

/* ---- asking ---- */

const pf_served *pf_serving_made(const pf_serving *serving, size_t *n) {
    if (n) *n = serving ? (size_t)serving->n_made : 0;
    return serving && n ? serving->made : NULL;
}

int pf_serving_failure(const pf_serving *serving, int64_t id) {
    PF_NEED(serving);
    PF_OPEN(serving->engine);
    pf_sequence *q;
    PF_TRY(need(&q, serving, id));
    return q->status < 0 ? pf_fail(q->status, "%s", q->message) : PF_OK;
}

int pf_serving_sequence(pf_sequence_info *info, const pf_serving *serving, int64_t id) {
    PF_NEED(info, serving);
    PF_OPEN(serving->engine);
    pf_sequence *q;
    PF_TRY(need(&q, serving, id));
    const pf_sequence_info own = {
        .size = sizeof own,
        .position = pf_stream_position(q->stream),
        .waiting = q->n_prompt - q->read,
        .tokens = q->tokens,
        .bytes = pf_stream_bytes(q->stream),
        .last = q->last,
        .end = q->end,
    };
    return pf_result_give(info, &own, sizeof own, "serving");
}

const float *pf_serving_logits(const pf_serving *serving, int64_t id, int64_t *n) {
    const pf_sequence *q = serving ? find(serving, id) : NULL;
    if (n) *n = 0;
    return q ? pf_stream_logits(q->stream, n) : NULL;
}

int pf_serving_allow(pf_serving *serving, int64_t id, const uint8_t *allow, int64_t n) {
    PF_NEED(serving);
    PF_OPEN(serving->engine);
    pf_sequence *q;
    PF_TRY(need(&q, serving, id));
    return pf_stream_allow(q->stream, allow, n);
}

int pf_serving_sampling(pf_serving *serving, int64_t id, const pf_sampling *sampling) {
    PF_NEED(serving);
    PF_OPEN(serving->engine);
    pf_sequence *q;
    PF_TRY(need(&q, serving, id));
    return pf_sampling_take(&q->sampling, sampling);
}

int64_t pf_serving_count(const pf_serving *serving) { return serving ? serving->n : 0; }

int64_t pf_serving_bytes(const pf_serving *serving) {
    int64_t bytes = 0;
    for (int64_t i = 0; serving && i < serving->n; i++) {
        bytes += pf_stream_bytes(serving->all[i]->stream);
    }
    return bytes;
}
