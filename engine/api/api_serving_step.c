/*
 * api_serving_step.c - a step of a running batch: slices of the prompts that wait, one pass through
 * the model with the last tokens of all others, a draw for each that has logits.
 *
 * All or nothing: every tree that moves has begun a call (state/undo.c), and all end it with the
 * step's status; what a step finds out of a sequence stands in its `step` until then. Only what is
 * of one sequence alone ends that one: its tree goes back by itself. Where a pass of several fails
 * of no known one, all go back and are made again one by one, which gives the same bits.
 */
#include <stdio.h>

#include "serving.h"

/* ---- what fails ---- */

/* < 0: the engine can't go on, and not a sequence alone. Limits and the cancel flag stay; threads
 * that fail, with whatever code, do so whose work it was. */
static int of_engine(const pf_serving *s, int status) {
    bool known = status == PF_ENOMEM || status == PF_ECANCEL || status == PF_ELIMIT;
    if (known || s->engine->refused != s->refused) return status;
    return pf_check_cancel(s->engine);
}

/* The tree moves on: within a call of its own. */
static int begin(pf_sequence *q) {
    PF_TRY(pf_state_begin(q->stream->state));
    q->step.moves = true;
    return PF_OK;
}

static void end(pf_serving *s, pf_sequence *q, int status) {
    if (q->step.moves) pf_state_end(q->stream->state, s->engine, status);
    q->step.moves = false;
}

/* What has become of sequence q alone: where it failed by itself it goes back, and the step goes
 * on without it. */
static int settle(pf_serving *s, pf_sequence *q, int status) {
    if (status >= 0) return PF_OK;
    snprintf(q->message, sizeof q->message, "%s", pf_message_marked());
    PF_TRY(of_engine(s, status));
    q->step.failed = status;
    end(s, q, status);
    return PF_OK;
}

/* ---- plan ---- */

/* Prompts are read in the order of joining, each in slices from its beginning, so that its bits
 * don't depend on who else is there; nobody overtakes. */
static void plan(pf_serving *s) {
    int64_t room = s->slice;
    for (int64_t i = 0; i < s->n; i++) {
        pf_sequence *q = s->all[i];
        q->step = (pf_sequence_step){0};
        if (q->end) continue;
        int64_t waiting = q->n_prompt - q->read, slice = pf_min(waiting, s->slice);
        if (slice > room) {
            room = 0;
            continue;
        }
        room -= slice;
        q->step.slice = slice;
        q->step.writes = waiting == 0 && q->tokens > 0;
        q->step.draws = slice == waiting;
    }
}

/* ---- reading ---- */

/* The coming logits of q, behind what it reads in this step: of a prompt all that was read. */
static int take_logits(pf_sequence *q, pf_tensor *y) {
    PF_TRY(pf_stream_coming(q->stream, y));
    if (q->prompt)
        pf_sampler_note(&q->stream->pick, q->prompt, q->n_prompt, 0);
    else
        pf_sampler_note(&q->stream->pick, &q->last, 1, 0);
    return PF_OK;
}

/* One run of q's tree: n tokens, and the logits behind them where they are wanted. */
static int run(pf_sequence *q, const int32_t *ids, int64_t n) {
    pf_tensor *y = NULL;
    PF_TRY(begin(q));
    int status = pf_stream_slice(q->stream, ids, n, (size_t)n, &y);
    if (status >= 0 && q->step.draws) status = take_logits(q, y);
    pf_tensor_release(&y);
    return status;
}

static int read_prompts(pf_serving *s) {
    for (int64_t i = 0; i < s->n; i++) {
        pf_sequence *q = s->all[i];
        if (q->step.slice == 0) continue;
        PF_TRY(settle(s, q, run(q, q->prompt + q->read, q->step.slice)));
    }
    return PF_OK;
}

/* ---- one pass of all that write ---- */

static bool is_gathered(const pf_serving *s) {
    bool same = s->rows && s->n_gathered == s->n_running;
    for (int64_t i = 0; i < s->n_running && same; i++) same = s->gathered[i] == s->running[i]->id;
    return same;
}

/* s->rows and s->token are of those that run. */
static int gather(pf_serving *s) {
    int64_t n = s->n_running;
    size_t bytes = (size_t)n * sizeof(pf_state *);
    if (is_gathered(s)) return PF_OK;
    pf_serving_ungather(s);
    PF_TRY(pf_heap_grow(s->heap, (void **)&s->gathered, &s->cap_gathered, n, sizeof *s->gathered));
    pf_state **trees = pf_heap_alloc(s->heap, bytes);
    if (!trees) return PF_ENOMEM;
    for (int64_t i = 0; i < n; i++) {
        trees[i] = s->running[i]->stream->state;
        s->gathered[i] = s->running[i]->id;
    }
    int status = pf_state_gather(&s->rows, s->engine, trees, n);
    pf_heap_free(s->heap, trees, bytes);
    if (status >= 0) status = pf_tensor_make_lasting(&s->token, s->heap, PF_I32, 1, &n);
    if (status < 0) pf_serving_ungather(s);
    s->n_gathered = status < 0 ? 0 : n;
    return status;
}

/* Row i of y is what the model gives the i-th of those that run. */
static int take_row(pf_serving *s, pf_tensor *y, int64_t i) {
    pf_tensor *row = NULL;
    PF_TRY(pf_tensor_view(&row, y));
    row->offset += i * row->stride[0];
    row->shape[0] = 1;
    int status = take_logits(s->running[i], row);
    pf_tensor_release(&row);
    return settle(s, s->running[i], status);
}

static int run_together(pf_serving *s) {
    pf_tensor *y = NULL;
    PF_TRY(gather(s));
    for (int64_t i = 0; i < s->n_running; i++) pf_i32(s->token)[i] = s->running[i]->last;
    int status = pf_module_step_rows(&y, s->engine, s->model, s->token, s->rows);
    if (status >= 0 && (y->rank != 2 || y->shape[0] != s->n_running)) {
        status = pf_fail(PF_ESHAPE, "serving: the model gives %s, must be logits (%lld, vocab)",
                         pf_shape_of(y), (long long)s->n_running);
    }
    for (int64_t i = 0; i < s->n_running && status >= 0; i++) status = take_row(s, y, i);
    pf_tensor_release(&y);
    return status;
}

/* All that write have begun; those that can't are out. */
static int find_running(pf_serving *s) {
    s->n_running = 0;
    for (int64_t i = 0; i < s->n; i++) {
        pf_sequence *q = s->all[i];
        if (!q->step.writes) continue;
        PF_TRY(settle(s, q, begin(q)));
        if (q->step.moves) s->running[s->n_running++] = q;
    }
    return PF_OK;
}

static int run_one_by_one(pf_serving *s) {
    for (int64_t i = 0; i < s->n_running; i++) {
        pf_sequence *q = s->running[i];
        if (q->step.failed < 0) continue;
        PF_TRY(settle(s, q, run(q, &q->last, 1)));
    }
    return PF_OK;
}

static int write_tokens(pf_serving *s) {
    PF_TRY(find_running(s));
    if (s->n_running > 1) {
        int status = run_together(s);
        if (status >= 0) return PF_OK;
        PF_TRY(of_engine(s, status));
        s->again++;
    }
    for (int64_t i = 0; i < s->n_running; i++) end(s, s->running[i], PF_ESTATE);
    return run_one_by_one(s);
}

/* ---- drawing ---- */

static int draw(pf_sequence *q) {
    const pf_sampler *pick = &q->stream->pick;
    const float *logits = q->step.moves ? pick->coming : pick->logits;
    return pf_sampler_draw(pick, q->stream->engine, logits, q->stream->state->position,
                           &q->sampling, &q->step.token);
}

static int draw_all(pf_serving *s) {
    for (int64_t i = 0; i < s->n; i++) {
        pf_sequence *q = s->all[i];
        if (!q->step.draws || q->step.failed < 0) continue;
        PF_TRY(settle(s, q, draw(q)));
    }
    return PF_OK;
}

/* ---- the end of a step ---- */

static bool stops(const pf_sequence *q, int32_t token) {
    for (int64_t i = 0; i < q->n_stops; i++) {
        if (q->stops[i] == token) return true;
    }
    return false;
}

static void take_token(pf_sequence *q) {
    q->last = q->step.token;
    q->tokens++;
    if (stops(q, q->last)) {
        q->end = PF_ENDED_STOP;
    } else if (q->most > 0 && q->tokens >= q->most) {
        q->end = PF_ENDED_TOKENS;
    }
}

static void take_slice(pf_serving *s, pf_sequence *q) {
    q->read += q->step.slice;
    if (q->prompt && q->read == q->n_prompt) {
        pf_heap_free(s->heap, q->prompt, (size_t)q->n_prompt * sizeof *q->prompt);
        q->prompt = NULL;
    }
}

/* The step has succeeded: q is what it has become. */
static void keep(pf_serving *s, pf_sequence *q) {
    bool failed = q->step.failed < 0, moves = q->step.moves;
    if (q->end) return;
    end(s, q, PF_OK);
    if (failed) {
        q->end = PF_ENDED_FAILED;
        q->status = q->step.failed;
    } else {
        if (moves && q->step.draws) pf_stream_keep(q->stream);
        take_slice(s, q);
        if (q->step.draws) take_token(q);
    }
    if (failed || q->step.draws) {
        s->made[s->n_made++] = (pf_served){q->id, failed ? -1 : q->last, (int32_t)q->end};
    }
}

static int going(const pf_serving *s) {
    int n = 0;
    for (int64_t i = 0; i < s->n; i++) n += !s->all[i]->end;
    return n;
}

int pf_serving_step(pf_serving *serving) {
    PF_NEED(serving);
    PF_OPEN(serving->engine);
    pf_serving *s = serving;
    s->n_made = 0;
    s->refused = s->engine->refused;
    PF_TRY(pf_check_cancel(s->engine));
    PF_TRY(pf_heap_grow(s->heap, (void **)&s->made, &s->cap_made, s->n, sizeof *s->made));
    PF_TRY(pf_heap_grow(s->heap, (void **)&s->running, &s->cap_running, s->n, sizeof *s->running));
    plan(s);
    int status = read_prompts(s);
    if (status >= 0) status = write_tokens(s);
    if (status >= 0) status = draw_all(s);
    for (int64_t i = 0; i < s->n; i++) {
        if (status < 0)
            end(s, s->all[i], status);
        else
            keep(s, s->all[i]);
    }
    return status < 0 ? status : going(s);
}
