/*
 * evaluate.c - how good a model is on a row: losses, and how often its likeliest id is right, in
 * the memory of one slice. A causal model whose layers hand on states of fixed size reads long
 * rows slice by slice, and rows that go on from those before; how many positions a slice has is no
 * question of the machine, and so the bits are none.
 */
#include "slices.h"

/* Positions between two states that a causal forward saves (attention/linear/operator.h), of which
 * a whole row's sums are made in the same pieces. */
enum { SLICE = 4128 };

static void add(pf_evaluation *to, const pf_tensor *target, const pf_score *score) {
    const int32_t *id = pf_i32(target), *best = pf_i32(score->best);
    const float *loss = pf_f32(score->loss);
    for (int64_t i = 0; i < pf_tensor_numel(target); i++) {
        if (id[i] < 0) continue;
        to->loss += (double)loss[i];
        to->right += best[i] == id[i];
        to->tokens++;
    }
}

/* A row that is one slice, or whose model looks at it as a whole. */
static int run_whole(const pf_slices *s, pf_score *score) {
    uint64_t calls = 0;
    pf_pass pass = s->pass;
    pf_run run = {.mode = PF_RUN_FORWARD, .pass = &pass};
    if (!pass.calls) pass.calls = &calls;
    pf_tape *tape = pf_tape_pause(s->e);
    int status = pf_run_scored(s->m, s->e, &run, s->x, score);
    pf_tape_resume(tape);
    return status;
}

static int evaluate_whole(pf_slices *s, pf_evaluation *to) {
    pf_score score = {.target = s->target, .each = true, .likeliest = true};
    PF_TRY(run_whole(s, &score));
    add(to, s->target, &score);
    pf_score_release(&score);
    return PF_OK;
}

static int evaluate_slice(pf_slices *s, int64_t i, pf_state *state, pf_evaluation *to) {
    pf_score score = {.each = true, .likeliest = true};
    pf_tensor *target = NULL;
    PF_TRY(pf_part_of(&target, s->e, s->target, pf_slice_first(s, i), pf_slice_first(s, i + 1)));
    int status = pf_slice_pass(s, i, state, false, &score);
    if (status >= 0) add(to, target, &score);
    pf_score_release(&score);
    pf_tensor_release(&target);
    return status;
}

static int evaluate_slices(pf_slices *s, pf_evaluation *to) {
    pf_state *state = NULL;
    PF_TRY(pf_slices_state(s, &state));
    int status = PF_OK;
    for (int64_t i = 0; i < s->n && status >= 0; i++) status = evaluate_slice(s, i, state, to);
    if (status >= 0) status = pf_carry_leave(s, state);
    pf_state_close(&state);
    return status;
}

/* How many slices; asked < 1: as the row and the model have it. */
static int count_slices(pf_slices *s, int64_t asked) {
    int64_t length = s->x->shape[1];
    bool whole = asked < 1 && (s->pass.prefix || length <= SLICE || pf_module_whole(s->m));
    if (s->pass.carry) whole = false;
    s->each = asked < 1 ? SLICE : asked;
    s->n = whole ? 1 : pf_max(1, pf_ceil_div(length, s->each));
    if (whole || asked < 1) return PF_OK;
    if (asked < PF_SLICE_LEAST) {
        return pf_fail(PF_EINVAL, "evaluate: a slice of %lld positions; it has at least %d",
                       (long long)asked, PF_SLICE_LEAST);
    }
    if (s->pass.prefix && s->n > 1) {
        return pf_fail(PF_EINVAL, "evaluate: a prefix is seen from everywhere, and so has to be in "
                                  "the same slice; leave one out");
    }
    return PF_OK;
}

int pf_module_evaluate(pf_evaluation *result, pf_engine *engine, pf_module *module, pf_tensor *x,
                       pf_tensor *target, const pf_pass *pass, int64_t slice_length) {
    PF_OPEN(engine);
    PF_NEED(result, module, x, target);
    pf_evaluation own = {.size = sizeof own};
    pf_slices s = {.e = engine, .m = module, .x = x};
    PF_TRY(pf_result_give(result, &own, sizeof own, "evaluate"));
    PF_TRY(pf_pass_take(&s.pass, pass));
    PF_TRY(pf_pass_check(&s.pass, module, x));
    PF_TRY(pf_score_check(target, x, "evaluate"));
    PF_TRY(count_slices(&s, slice_length));
    int status = pf_slices_open(&s, target);
    bool slices = s.n > 1 || s.carried;
    if (status >= 0) status = slices ? evaluate_slices(&s, &own) : evaluate_whole(&s, &own);
    status = pf_slices_close(&s, status);
    return status < 0 ? status : pf_result_give(result, &own, sizeof own, "evaluate");
}
