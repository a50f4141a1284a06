/*
 * forward.c - whole rows through a model, recorded on the open tape: forward, hidden states and
 * the loss. A row that goes on from rows before it (pass.carry) is one slice (slices.c), whose
 * entry state is constant and whose exit state is copied out of the graph.
 */
#include "slices.h"

/* What is asked of a row: y, or the score. */
typedef struct {
    pf_tensor **y;
    int64_t hidden;
    pf_score *score;
} wanted;

static int run_carried(pf_slices *s, const wanted *w) {
    pf_state *state = NULL;
    PF_TRY(pf_slices_state(s, &state));
    const pf_run run = {.state = state, .hidden = w->hidden};
    int status =
        w->y ? pf_slices_forward(s, &run, w->y) : pf_slice_run(s, 0, &run, false, w->score);
    if (status >= 0) status = pf_carry_leave(s, state);
    pf_state_close(&state);
    if (status < 0) w->y ? pf_tensor_release(w->y) : pf_score_release(w->score);
    return status;
}

/* own: the call's pass, checked. */
static int go_on(pf_engine *e, pf_module *m, pf_tensor *x, pf_tensor *target, const pf_pass *own,
                 const wanted *w) {
    pf_slices s = {.e = e, .m = m, .x = x, .pass = *own, .n = 1};
    int status = pf_slices_open(&s, target);
    if (status >= 0) status = run_carried(&s, w);
    return pf_slices_close(&s, status);
}

static int run_row(pf_engine *e, pf_module *m, pf_tensor *x, pf_tensor *target,
                   const pf_pass *given, const wanted *w) {
    pf_pass own;
    uint64_t calls = 0;
    PF_TRY(pf_pass_take(&own, given));
    if (!own.calls) own.calls = &calls;
    PF_TRY(pf_pass_check(&own, m, x));
    if (target) PF_TRY(pf_score_check(target, x, "loss"));
    if (own.carry) return go_on(e, m, x, target, &own, w);
    const pf_run run = {.mode = PF_RUN_FORWARD, .pass = &own, .hidden = w->hidden};
    return w->y ? pf_run_module(m, e, &run, x, w->y) : pf_run_scored(m, e, &run, x, w->score);
}

int pf_module_forward(pf_tensor **y, pf_engine *engine, pf_module *module, pf_tensor *x,
                      const pf_pass *pass) {
    PF_OUT(y);
    PF_OPEN(engine);
    PF_NEED(module, x);
    return run_row(engine, module, x, NULL, pass, &(wanted){.y = y});
}

int pf_module_hidden(pf_tensor **y, pf_engine *engine, pf_module *module, pf_tensor *x,
                     const pf_pass *pass, int64_t blocks) {
    PF_OUT(y);
    PF_OPEN(engine);
    PF_NEED(module, x);
    if (blocks < 0 || (blocks > 0 && !module->type->hidden_width)) {
        return pf_fail(PF_EINVAL, "hidden: %s has no block %lld that states could be had behind",
                       module->type->name, (long long)blocks);
    }
    const wanted w = {.y = y, .hidden = blocks > 0 ? blocks : PF_HIDDEN_ALL};
    return run_row(engine, module, x, NULL, pass, &w);
}

int pf_module_loss(pf_tensor **loss, pf_engine *engine, pf_module *module, pf_tensor *x,
                   pf_tensor *target, const pf_pass *pass) {
    PF_OUT(loss);
    PF_OPEN(engine);
    PF_NEED(module, x, target);
    pf_score score = {.target = target};
    PF_TRY(run_row(engine, module, x, target, pass, &(wanted){.score = &score}));
    *loss = score.loss;
    return PF_OK;
}
