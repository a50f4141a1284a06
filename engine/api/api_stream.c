/*
 * api_stream.c - generating with a model: a prompt goes through prefill in slices, then a
 * step a token, and a sampler picks from the logits (api_sample.c). A stream is a batch of
 * sequences in step. The module is only retained, so that streams on any number of engines
 * share its weights. A step frees all it makes, and the heap's cache hands the same blocks
 * to the next one.
 *
 * A call that moves a stream on is all or nothing, whatever it fails of and in which slice of a
 * prompt: state (state/undo.c), position and logits are then what they were.
 */
#include <string.h>

#include "state_file.h"
#include "stream.h"

/* ---- logits ---- */

int pf_stream_coming(pf_stream *s, pf_tensor *y) {
    pf_tensor *last = NULL;
    int64_t batch = s->state->batch;
    if (y->rank < 2 || y->rank > 3 || y->shape[0] != batch || y->dtype != PF_F32) {
        return pf_fail(PF_ESHAPE, "stream: the model gives %s, must be logits (%lld, L, vocab)",
                       pf_shape_of(y), (long long)batch);
    }
    int64_t vocab = y->shape[y->rank - 1];
    PF_TRY(pf_sampler_room(&s->pick, s->heap, batch, vocab));
    if (y->rank == 2) {
        last = pf_tensor_retain(y);
    } else {
        PF_TRY(pf_tensor_view(&last, y));
        last->offset += (y->shape[1] - 1) * y->stride[1];
        last->shape[1] = 1;
    }
    int status =
        pf_tensor_read(last, s->pick.coming, (size_t)(batch * vocab) * sizeof *s->pick.coming);
    pf_tensor_release(&last);
    return status;
}

void pf_stream_keep(pf_stream *s) {
    pf_sampler_keep(&s->pick);
    s->ready = true;
}

/* ---- moving on ---- */

/* One token of every sequence; ids `stride` apart. */
static int step(pf_stream *s, const int32_t *ids, size_t stride, pf_tensor **y) {
    for (int64_t b = 0; b < s->state->batch; b++) pf_i32(s->token)[b] = ids[(size_t)b * stride];
    return pf_module_step(y, s->engine, s->model, s->token, s->state);
}

/* n tokens of every sequence; rows of ids `stride` apart. */
static int prefill(pf_stream *s, const int32_t *ids, int64_t n, size_t stride, pf_tensor **y) {
    pf_tensor *x = NULL;
    int64_t shape[2] = {s->state->batch, n};
    PF_TRY(pf_tensor_make_lasting(&x, s->heap, PF_I32, 2, shape));
    for (int64_t b = 0; b < shape[0]; b++) {
        memcpy(pf_i32(x) + b * n, ids + (size_t)b * stride, (size_t)n * sizeof *ids);
    }
    int status = pf_module_prefill_last(y, s->engine, s->model, x, s->state);
    pf_tensor_release(&x);
    return status;
}

int pf_stream_slice(pf_stream *s, const int32_t *ids, int64_t n, size_t stride, pf_tensor **y) {
    return n == 1 ? step(s, ids, stride, y) : prefill(s, ids, n, stride, y);
}

/* ids (batch, n): rows n apart, of which each slice takes the next part. *y: of the last one. */
static int run_slices(pf_stream *s, const int32_t *ids, size_t n, pf_tensor **y) {
    for (size_t at = 0; at < n; at += PF_STREAM_SLICE) {
        int64_t part = (int64_t)(n - at < PF_STREAM_SLICE ? n - at : PF_STREAM_SLICE);
        pf_tensor_release(y);
        PF_TRY(pf_progress_at(s->engine, "reading a prompt", (int64_t)at, (int64_t)n));
        PF_TRY(pf_stream_slice(s, ids + at, part, n, y));
    }
    return PF_OK;
}

/* All or nothing: n > 0 tokens of every sequence are fed and, with `next`, the one that follows is
 * drawn; or state, logits and position are what they were. */
static int move_on(pf_stream *s, const int32_t *ids, size_t n, const pf_sampling *sampling,
                   int32_t *next) {
    pf_tensor *y = NULL;
    PF_TRY(pf_state_begin(s->state));
    int status = run_slices(s, ids, n, &y);
    if (status >= 0) status = pf_stream_coming(s, y);
    if (status >= 0) pf_sampler_note(&s->pick, ids, (int64_t)n, n);
    if (status >= 0 && next) {
        status = pf_sampler_draw(&s->pick, s->engine, s->pick.coming, s->state->position, sampling,
                                 next);
    }
    if (status >= 0) pf_stream_keep(s);
    pf_tensor_release(&y);
    return pf_state_end(s->state, s->engine, status);
}

/* ---- opening ---- */

/* A stream without a state: the caller's next step, and `finish` where that fails. */
static int make_stream(pf_stream **stream, pf_engine *engine, pf_module *model) {
    pf_stream *s = pf_heap_zalloc(engine->heap, sizeof *s);
    if (!s) return PF_ENOMEM;
    s->engine = engine;
    s->heap = pf_heap_retain(engine->heap);
    s->model = pf_module_retain(model);
    s->vocab = pf_max(pf_module_width(model), 0);
    *stream = s;
    return PF_OK;
}

/* Closes a stream that could not be made; returns `status`. */
static int finish(pf_stream **stream, int status) {
    if (status < 0) pf_stream_close(stream);
    return status;
}

static int make_token(pf_stream *s) {
    return pf_tensor_make_lasting(&s->token, s->heap, PF_I32, 1, &s->state->batch);
}

/* ---- public ---- */

int pf_stream_open_inputs(pf_stream **stream, pf_engine *engine, pf_module *model, int64_t batch,
                          const pf_named *inputs, int n) {
    PF_OUT(stream);
    PF_OPEN(engine);
    PF_NEED(model);
    PF_NEED_ARRAY(inputs, n);
    PF_TRY(make_stream(stream, engine, model));
    int status = PF_OK;
    if (batch < 1 || batch > INT32_MAX) {
        status = pf_fail(PF_EINVAL, "stream: the batch must be from 1 to %d, got %lld", INT32_MAX,
                         (long long)batch);
    }
    if (status >= 0) {
        status = pf_module_state_inputs(&(*stream)->state, engine, model, (int)batch, inputs, n);
    }
    if (status >= 0) status = make_token(*stream);
    return finish(stream, status);
}

int pf_stream_open_batch(pf_stream **stream, pf_engine *engine, pf_module *model, int64_t batch) {
    PF_OUT(stream);
    PF_OPEN(engine);
    PF_NEED(model);
    return pf_stream_open_inputs(stream, engine, model, batch, NULL, 0);
}

int pf_stream_open(pf_stream **stream, pf_engine *engine, pf_module *model) {
    PF_OUT(stream);
    PF_OPEN(engine);
    PF_NEED(model);
    return pf_stream_open_batch(stream, engine, model, 1);
}

void pf_stream_close(pf_stream **stream) {
    if (!stream || !*stream) return;
    pf_stream *s = *stream;
    pf_heap *heap = s->heap;
    *stream = NULL;
    pf_sampler_free(&s->pick, heap);
    pf_tensor_release(&s->token);
    pf_state_close(&s->state);
    pf_module_release(&s->model);
    pf_heap_free(heap, s, sizeof *s);
    pf_heap_release(heap);
}

int pf_stream_feed(pf_stream *stream, const int32_t *ids, size_t n) {
    PF_NEED(stream);
    PF_OPEN(stream->engine);
    PF_NEED_ARRAY(ids, n);
    if (n > (size_t)PTRDIFF_MAX / sizeof *ids / (size_t)stream->state->batch) {
        return pf_fail(PF_EINVAL, "stream: %zu ids a sequence are more than memory holds", n);
    }
    return n > 0 ? move_on(stream, ids, n, NULL, NULL) : PF_OK;
}

/* Feed and sample in one, for one sequence. */
int pf_stream_next(pf_stream *stream, int32_t token, const pf_sampling *sampling, int32_t *next) {
    PF_NEED(stream, next);
    PF_OPEN(stream->engine);
    if (stream->state->batch != 1) {
        return pf_fail(PF_EINVAL,
                       "stream: next is for one sequence, this is a batch of %lld; "
                       "feed and sample",
                       (long long)stream->state->batch);
    }
    return move_on(stream, &token, 1, sampling, next);
}

int pf_stream_sample(pf_stream *stream, const pf_sampling *sampling, int32_t *next) {
    PF_NEED(stream, next);
    PF_OPEN(stream->engine);
    PF_TRY(pf_state_check(stream->state));
    if (!stream->ready)
        return pf_fail(PF_ESTATE, "stream: nothing has been fed, so there is nothing to sample "
                                  "from: feed a prompt of at least one token first");
    return pf_sampler_draw(&stream->pick, stream->engine, stream->pick.logits,
                           stream->state->position, sampling, next);
}

/* The vocabulary, or 0 where only the host's layers know it before logits stand. */
static int64_t vocab_of(const pf_stream *s) { return s->ready ? s->pick.vocab : s->vocab; }

int pf_stream_allow(pf_stream *stream, const uint8_t *allow, int64_t n) {
    PF_NEED(stream);
    PF_OPEN(stream->engine);
    int64_t vocab = vocab_of(stream);
    if (allow && vocab && n != vocab) {
        return pf_fail(PF_ESHAPE, "stream: allow is for %lld tokens, the vocabulary has %lld",
                       (long long)n, (long long)vocab);
    }
    return pf_sampler_allow(&stream->pick, stream->heap, allow, n);
}

const float *pf_stream_logits(const pf_stream *stream, int64_t *n) {
    if (n) *n = stream ? vocab_of(stream) : 0;
    return stream && stream->ready ? stream->pick.logits : NULL;
}

int64_t pf_stream_bytes(const pf_stream *s) { return s ? pf_state_bytes(s->state) : 0; }
int64_t pf_stream_position(const pf_stream *s) { return s ? pf_state_position(s->state) : 0; }
int64_t pf_stream_batch(const pf_stream *s) { return s ? pf_state_batch(s->state) : 0; }

/* ---- public: copies and files ---- */

/* The weights are shared, all else is the copy's own. */
int pf_stream_fork(pf_stream **copy, const pf_stream *stream) {
    PF_OUT(copy);
    PF_NEED(stream);
    PF_OPEN(stream->engine);
    PF_TRY(make_stream(copy, stream->engine, stream->model));
    pf_stream *s = *copy;
    int status = pf_state_fork(&s->state, s->engine, stream->state);
    if (status >= 0) status = make_token(s);
    if (status >= 0) status = pf_sampler_copy(&s->pick, s->heap, &stream->pick);
    s->ready = stream->ready;
    return finish(copy, status);
}

/* Sampler, token and state change together: all copies are made before any takes its place. */
int pf_stream_reorder(pf_stream *stream, const int64_t *rows, int64_t n) {
    PF_NEED(stream);
    PF_OPEN(stream->engine);
    PF_NEED_ARRAY(rows, n);
    pf_sampler pick = {0};
    pf_tensor *token = NULL;
    int status = n < 1 ? pf_fail(PF_EINVAL, "reorder: at least one row is needed") : PF_OK;
    if (status >= 0) status = pf_tensor_make_lasting(&token, stream->heap, PF_I32, 1, &n);
    if (status >= 0) {
        status = pf_sampler_reorder(&pick, stream->heap, &stream->pick, rows, n);
    }
    if (status >= 0) status = pf_state_reorder(stream->engine, stream->state, rows, n);
    if (status < 0) {
        pf_sampler_free(&pick, stream->heap);
        pf_tensor_release(&token);
        return status;
    }
    pf_sampler_free(&stream->pick, stream->heap);
    pf_replace(&stream->token, token);
    stream->pick = pick;
    return PF_OK;
}

static void release_picked(pf_picked *picked) {
    pf_tensor_release(&picked->logits);
    pf_tensor_release(&picked->seen);
}

/* What a sampler needs to go on, as tensors. */
static int pick_tensors(pf_picked *picked, const pf_stream *s) {
    const int64_t shape[2] = {s->state->batch, s->pick.vocab}, n = shape[0] * shape[1];
    PF_TRY(pf_tensor_make_lasting(&picked->logits, s->heap, PF_F32, 2, shape));
    PF_TRY(pf_tensor_make_lasting(&picked->seen, s->heap, PF_I32, 2, shape));
    memcpy(pf_f32(picked->logits), s->pick.logits, (size_t)n * sizeof *s->pick.logits);
    for (int64_t i = 0; i < n; i++) pf_i32(picked->seen)[i] = s->pick.seen[i] & 1;
    return PF_OK;
}

/* With the logits where they stand: a loaded stream samples without another token. */
int pf_stream_save(const pf_stream *stream, const char *path) {
    PF_NEED(stream, path);
    PF_OPEN(stream->engine);
    pf_picked picked = {NULL, NULL};
    const pf_stream *s = stream;
    int status = s->ready ? pick_tensors(&picked, s) : PF_OK;
    if (status >= 0) status = pf_state_write(s->engine, s->model, s->state, &picked, path);
    release_picked(&picked);
    return status;
}

/* Which tokens were fed; a file of an older version doesn't say, and none counts. */
static void take_seen(pf_stream *s, pf_tensor *seen) {
    for (int64_t i = 0; i < s->pick.batch * s->pick.vocab; i++) {
        s->pick.seen[i] = pf_i32(seen)[i] != 0;
    }
}

int pf_stream_load(pf_stream **stream, pf_engine *engine, pf_module *model, const char *path) {
    PF_OUT(stream);
    PF_OPEN(engine);
    PF_NEED(model, path);
    pf_picked picked = {NULL, NULL};
    PF_TRY(make_stream(stream, engine, model));
    pf_stream *s = *stream;
    int status = pf_module_state_read(&s->state, engine, model, &picked, path);
    if (status >= 0) status = make_token(s);
    if (status >= 0 && picked.logits) status = pf_stream_coming(s, picked.logits);
    if (status >= 0 && picked.logits) pf_stream_keep(s);
    if (status >= 0 && picked.logits && picked.seen) take_seen(s, picked.seen);
    release_picked(&picked);
    return finish(stream, status);
}
