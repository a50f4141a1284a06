/*
 * run.c - running modules: all ways of working go through one dispatcher, which
 * moves every layer's position on and puts the path of a failing layer before its message.
 * A streaming run is never recorded, and all or nothing: when it fails midway its state is what it
 * was before (state/undo.c).
 */
#include <string.h>

#include "module.h"

/* A random call is keyed by its number in its step, that step, and its micro-step: so many bits. */
enum { CALL_BITS = 20, STEP_BITS = 24, MICRO_BITS = 19 };

/* ---- the dispatcher ---- */

/* The state now stands behind x: one position in a step (and of ids (B)), else all of L. */
static void move_on(const pf_run *run, const pf_tensor *x) {
    if (!run->state) return;
    bool step = run->mode == PF_RUN_STEP;
    int64_t n = step || x->rank < 2 ? 1 : x->shape[1];
    if (!run->state->row) run->state->position += n;
    for (int64_t b = 0; run->state->row && b < run->state->batch; b++) {
        run->state->row[b]->position += n;
    }
}

/* Are states gathered, of a layer that doesn't take them by itself (rows.c)? */
static bool rows_apart(const pf_module *m, const pf_run *run) {
    if (!run->state || !run->state->row || !m->type->state) return false;
    return m->type->state != pf_state_of_children && m->type->rows != PF_ROWS_TOGETHER;
}

int pf_run_module(pf_module *m, pf_engine *e, const pf_run *run, pf_tensor *x, pf_tensor **y) {
    *y = NULL;
    PF_TRY(pf_progress_at(e, "running layers", 0, 0));
    bool trains = run->mode == PF_RUN_FORWARD || run->mode == PF_RUN_SLICE;
    bool recompute = m->recompute && trains && pf_tape_records(e);
    if (rows_apart(m, run)) {
        PF_TRY(pf_run_rows(m, e, run, x, y));
        move_on(run, x);
        return PF_OK;
    }
    PF_TRY(recompute ? pf_run_recompute(m, e, run, x, y) : m->type->run(m, e, run, x, y));
    move_on(run, x);
    return PF_OK;
}

int pf_run_scored(pf_module *m, pf_engine *e, const pf_run *run, pf_tensor *x, pf_score *score) {
    pf_tensor *y = NULL;
    score->loss = score->best = NULL;
    if (m->type->score && !(m->recompute && pf_tape_records(e))) {
        PF_TRY(pf_check_cancel(e));
        PF_TRY(m->type->score(m, e, run, x, score));
        move_on(run, x);
        return PF_OK;
    }
    PF_TRY(pf_run_module(m, e, run, x, &y));
    int status = pf_score_logits(score, e, y);
    pf_tensor_release(&y);
    return status;
}

/* The failure of child i, with its name. Children within children make one path, as their tensors
 * are called: "blocks.2.attention.qkv: ", or "layer 3.norm1: " where the first is a number. */
static int named(const pf_module *m, int i, int status) {
    static _Thread_local uint64_t path; /* the failure whose message begins with one */
    const char *name = m->child[i].name, *text = pf_message_marked();
    if (status == PF_ECANCEL || status == PF_ELIMIT) return status;
    const char *layer = name[strspn(name, "0123456789")] ? "" : "layer ";
    if (path == pf_failures()) {
        if (strncmp(text, "layer ", strlen("layer ")) == 0) text += strlen("layer ");
        (void)pf_fail(status, "%s%s.%s", layer, name, text);
    } else {
        (void)pf_fail_in(status, "%s%s", layer, name);
    }
    path = pf_failures();
    return status;
}

static int run_named(pf_module *m, int i, pf_engine *e, const pf_run *run, pf_tensor *x,
                     pf_tensor **y) {
    int before = pf_finite_enter(e, m->child[i].name);
    int status = pf_run_module(m->child[i].module, e, run, x, y);
    if (status >= 0) status = pf_finite_given(e, *y);
    if (status < 0) pf_tensor_release(y);
    pf_finite_leave(e, before);
    return status < 0 ? named(m, i, status) : status;
}

/* *inner: the run of child i, with its node of the state. All positions are wanted of it: only m
 * knows what becomes of them, so `last` goes no deeper by itself. */
static int enter_child(const pf_module *m, int i, const pf_run *run, pf_run *inner) {
    *inner = *run;
    inner->last = false;
    inner->hidden = 0;
    if (!run->state) return PF_OK;
    if (i >= run->state->n_child || !run->state->child[i]) {
        return pf_fail(PF_ESTATE, "%s: the state is not one of this model", m->type->name);
    }
    inner->state = run->state->child[i];
    if (run->cotangent) inner->cotangent = run->cotangent->child[i];
    return PF_OK;
}

int pf_run_child(pf_module *m, int i, pf_engine *e, const pf_run *run, pf_tensor *x,
                 pf_tensor **y) {
    pf_run inner;
    PF_TRY(enter_child(m, i, run, &inner));
    return run_named(m, i, e, &inner, x, y);
}

int pf_run_child_scored(pf_module *m, int i, pf_engine *e, const pf_run *run, pf_tensor *x,
                        pf_score *score) {
    pf_run inner;
    PF_TRY(enter_child(m, i, run, &inner));
    int before = pf_finite_enter(e, m->child[i].name);
    int status = pf_run_scored(m->child[i].module, e, &inner, x, score);
    pf_finite_leave(e, before);
    return status < 0 ? named(m, i, status) : status;
}

int pf_run_through(pf_module *m, int i, pf_engine *e, const pf_run *run, pf_tensor **h) {
    pf_tensor *y = NULL;
    if (i < 0) return PF_OK;
    PF_TRY(pf_run_child(m, i, e, run, *h, &y));
    pf_replace(h, y);
    return PF_OK;
}

/* As pf_run_module, by the type's own op. */
static int run_sum(pf_module *m, pf_engine *e, const pf_run *run, pf_tensor *x, pf_tensor *h,
                   pf_tensor **sum, pf_tensor **y) {
    PF_TRY(pf_check_cancel(e));
    PF_TRY(m->type->run_sum(m, e, x, h, sum, y));
    move_on(run, *sum);
    return PF_OK;
}

int pf_run_child_sum(pf_module *m, int i, pf_engine *e, const pf_run *run, pf_tensor *x,
                     pf_tensor *h, pf_tensor **sum, pf_tensor **y) {
    pf_module *child = m->child[i].module;
    pf_run inner;
    *sum = *y = NULL;
    PF_TRY(enter_child(m, i, run, &inner));
    if (child->type->run_sum) {
        int before = pf_finite_enter(e, m->child[i].name);
        int status = run_sum(child, e, &inner, x, h, sum, y);
        pf_finite_leave(e, before);
        return status < 0 ? named(m, i, status) : PF_OK;
    }
    PF_TRY(pf_add(sum, e, x, h));
    int status = run_named(m, i, e, &inner, *sum, y);
    if (status < 0) pf_tensor_release(sum);
    return status;
}

int pf_run_branch(pf_module *m, int i, pf_engine *e, const pf_run *run, int which, pf_tensor *x,
                  pf_tensor **y) {
    pf_module *child = m->child[i].module;
    pf_run inner;
    *y = NULL;
    PF_TRY(pf_check_cancel(e));
    PF_TRY(enter_child(m, i, run, &inner));
    int before = pf_finite_enter(e, m->child[i].name);
    int status = child->type->branch(child, e, &inner, which, x, y);
    pf_finite_leave(e, before);
    return status < 0 ? named(m, i, status) : PF_OK;
}

int pf_run_part(pf_module *m, int i, pf_engine *e, const pf_run *run, pf_tensor *x, pf_tensor **y) {
    pf_run inner = {.mode = run->mode, .pass = run->pass, .choices = run->choices};
    return run_named(m, i, e, &inner, x, y);
}

int pf_run_only(pf_module *m, int i, pf_engine *e, const pf_run *run, pf_tensor *x, pf_tensor **y) {
    pf_run inner;
    PF_TRY(enter_child(m, i, run, &inner));
    inner.last = run->last;
    inner.hidden = run->hidden;
    return run_named(m, i, e, &inner, x, y);
}

int pf_run_hidden(pf_module *m, int i, pf_engine *e, const pf_run *run, pf_tensor *x,
                  pf_tensor **y) {
    pf_run inner;
    PF_TRY(enter_child(m, i, run, &inner));
    inner.last = run->last;
    inner.hidden = PF_HIDDEN_ALL;
    return run_named(m, i, e, &inner, x, y);
}

/* Its node of the state has moved on with the hidden states. */
int pf_run_head(pf_module *m, int i, pf_engine *e, const pf_run *run, pf_tensor *h, pf_tensor **y) {
    pf_module *child = m->child[i].module;
    pf_run inner;
    PF_TRY(enter_child(m, i, run, &inner));
    int status = child->type->head(child, e, &inner, h, y);
    return status < 0 ? named(m, i, status) : PF_OK;
}

/* Steps beyond STEP_BITS have room where there are no micro-steps. */
static int check_key(const pf_pass *pass) {
    if (pass->micro == 0 || (pass->micro >> MICRO_BITS == 0 && pass->step >> STEP_BITS == 0))
        return PF_OK;
    return pf_fail(PF_EINVAL,
                   "forward: micro-step %llu of step %llu has no random numbers of its own; the "
                   "first must be below %d, the other below %d",
                   (unsigned long long)pass->micro, (unsigned long long)pass->step, 1 << MICRO_BITS,
                   1 << STEP_BITS);
}

int pf_run_draw(const pf_run *run, uint64_t *key) {
    const pf_pass *pass = run->pass;
    uint64_t call = pass->calls ? (*pass->calls)++ : 0;
    PF_TRY(check_key(pass));
    *key = (pass->micro << (STEP_BITS + CALL_BITS)) + (pass->step << CALL_BITS) + call;
    return PF_OK;
}

int pf_run_dropout(pf_engine *e, const pf_run *run, double p, pf_tensor **x) {
    if (!run->pass->training || p <= 0) return PF_OK;
    pf_tensor *y = NULL;
    uint64_t key;
    PF_TRY(pf_run_draw(run, &key));
    PF_TRY(pf_dropout(&y, e, *x, p, key));
    pf_replace(x, y);
    return PF_OK;
}

int64_t pf_module_width(const pf_module *m) {
    const char *option = m->type->width;
    if (m->type->width_of) return m->type->width_of(m, false);
    if (option) return pf_option_int(m, option);
    if (m->type == &pf_layer_host) return m->host.width > 0 ? m->host.width : -1;
    int64_t width = 0;
    for (int i = m->n_given; i-- > 0 && width == 0;) width = pf_module_width(m->child[i].module);
    return width;
}

bool pf_module_whole(const pf_module *m) {
    if (m->type->whole && m->type->whole(m)) return true;
    for (int i = 0; i < m->n_child; i++)
        if (pf_module_whole(m->child[i].module)) return true;
    return false;
}

int64_t pf_module_hidden_width(const pf_module *m) {
    const char *option = m->type->hidden_width;
    if (m->type->width_of) return m->type->width_of(m, true);
    return option ? pf_option_int(m, option) : pf_module_width(m);
}

/* ---- states ---- */

int pf_state_of(const pf_module *m, pf_engine *e, int64_t batch, pf_state **state) {
    *state = NULL;
    if (m->type->state) return m->type->state(m, e, batch, state);
    return pf_state_new(state, e, batch, 0);
}

int pf_state_of_children(const pf_module *m, pf_engine *e, int64_t batch, pf_state **state) {
    PF_TRY(pf_state_new(state, e, batch, m->n_child));
    for (int i = 0; i < m->n_child; i++) {
        int status = pf_check_cancel(e); /* that of many rows is megabytes a layer */
        if (status >= 0) status = pf_state_of(m->child[i].module, e, batch, &(*state)->child[i]);
        if (status >= 0) continue;
        pf_state_close(state);
        return named(m, i, status);
    }
    return PF_OK;
}

/* What a layer keeps of the inputs is in its node from here on; layers below have nodes of their
 * own where the state is theirs. */
int pf_begin_module(pf_module *m, pf_engine *e, const pf_run *run) {
    if (m->type->begin) return m->type->begin(m, e, run);
    if (m->type->state != pf_state_of_children) return PF_OK;
    for (int i = 0; i < m->n_child; i++) PF_TRY(pf_begin_child(m, i, e, run));
    return PF_OK;
}

int pf_begin_child(pf_module *m, int i, pf_engine *e, const pf_run *run) {
    pf_run inner;
    PF_TRY(enter_child(m, i, run, &inner));
    int status = pf_begin_module(m->child[i].module, e, &inner);
    return status < 0 ? named(m, i, status) : PF_OK;
}

/* ---- public ---- */

static int check_stream(const pf_module *module, const pf_tensor *x, const pf_state *state,
                        int rank, const char *what) {
    if (!module || !x || !state) return pf_fail(PF_EINVAL, "%s: an argument is NULL", what);
    if (x->rank < rank || x->shape[0] != state->batch) {
        return pf_fail(PF_ESHAPE, "%s: x is %s, but the state is of a batch of %lld", what,
                       pf_shape_of(x), (long long)state->batch);
    }
    if (state->kind && state->kind->carries) {
        return pf_fail(PF_EINVAL,
                       "%s: this state is carried from row to row (pass.carry); a "
                       "stream's is another, the model's state",
                       what);
    }
    return PF_OK;
}

/* With the tape hidden: what a stream computes is not differentiated, and lives on when the tape
 * closes. */
static int run_stream(pf_tensor **y, pf_engine *e, pf_module *m, pf_tensor *x, pf_state *state,
                      pf_run_mode mode, bool last) {
    const pf_pass quiet = {.size = sizeof quiet};
    pf_run run = {.mode = mode, .pass = &quiet, .state = state, .last = last};
    bool within = state->moving || state->row; /* a caller's, who begins and ends it */
    if (!within) PF_TRY(pf_state_begin(state));
    pf_tape *tape = pf_tape_pause(e);
    int status = pf_run_module(m, e, &run, x, y);
    pf_tape_resume(tape);
    if (status < 0) pf_tensor_release(y);
    return within ? status : pf_state_end(state, e, status);
}

int pf_module_step(pf_tensor **y, pf_engine *engine, pf_module *module, pf_tensor *x,
                   pf_state *state) {
    PF_OUT(y);
    PF_OPEN(engine);
    PF_NEED(module, x, state);
    PF_TRY(check_stream(module, x, state, 1, "step"));
    return run_stream(y, engine, module, x, state, PF_RUN_STEP, false);
}

int pf_module_prefill(pf_tensor **y, pf_engine *engine, pf_module *module, pf_tensor *x,
                      pf_state *state) {
    PF_OUT(y);
    PF_OPEN(engine);
    PF_NEED(module, x, state);
    PF_TRY(check_stream(module, x, state, 2, "prefill"));
    return run_stream(y, engine, module, x, state, PF_RUN_PREFILL, false);
}

int pf_module_step_rows(pf_tensor **y, pf_engine *e, pf_module *m, pf_tensor *x, pf_state *rows) {
    *y = NULL;
    PF_TRY(check_stream(m, x, rows, 1, "step"));
    return run_stream(y, e, m, x, rows, PF_RUN_STEP, false);
}

int pf_module_prefill_last(pf_tensor **y, pf_engine *e, pf_module *m, pf_tensor *x,
                           pf_state *state) {
    *y = NULL;
    PF_TRY(check_stream(m, x, state, 2, "prefill"));
    return run_stream(y, e, m, x, state, PF_RUN_PREFILL, true);
}

int pf_module_state(pf_state **state, pf_engine *engine, const pf_module *module, int batch) {
    PF_OUT(state);
    PF_OPEN(engine);
    PF_NEED(module);
    return pf_module_state_inputs(state, engine, module, batch, NULL, 0);
}

/* Outside any tape: what is made of the inputs lasts as long as the state. */
static int begin_stream(pf_module *m, pf_engine *e, const pf_pass *pass, pf_state *state) {
    pf_run run = {.mode = PF_RUN_PREFILL, .pass = pass, .state = state};
    pf_tape *tape = e->tape;
    e->tape = NULL;
    int status = pf_begin_module(m, e, &run);
    e->tape = tape;
    return status;
}

int pf_module_state_inputs(pf_state **state, pf_engine *engine, const pf_module *module, int batch,
                           const pf_named *inputs, int n) {
    PF_OUT(state);
    PF_OPEN(engine);
    PF_NEED(module);
    PF_NEED_ARRAY(inputs, n);
    const pf_pass pass = {.size = sizeof pass, .inputs = inputs, .n_inputs = n};
    if (batch < 1) return pf_fail(PF_EINVAL, "state: the batch must be at least 1, got %d", batch);
    PF_TRY(pf_inputs_check(module, &pass));
    PF_TRY(pf_state_of(module, engine, batch, state));
    int status = begin_stream((pf_module *)module, engine, &pass, *state);
    if (status < 0) pf_state_close(state);
    return status;
}
