/*
 * slices.c - one slice of a row after another through a model (slices.h).
 *
 * Only states go from slice to slice, so every layer must hold all that it remembers in its
 * state: linear causal attention, short convolutions, n-grams and positions do.
 */
#include "slices.h"

/* A copy of its own, which a view of a slice's rows is not. */
static int settle(pf_state *a, const pf_state *b, int k, void *context) {
    pf_tensor *own = NULL;
    (void)b;
    PF_TRY(pf_tensor_detach(&own, context, a->tensor[k]));
    pf_replace(&a->tensor[k], own);
    return PF_OK;
}

int64_t pf_slice_first(const pf_slices *s, int64_t i) {
    return s->each > 0 ? pf_min(i * s->each, s->length) : i * s->length / s->n;
}

int pf_slices_open(pf_slices *s, pf_tensor *target) {
    s->batch = s->x->shape[0], s->length = s->x->shape[1];
    s->calls = pf_heap_zalloc(s->e->heap, (size_t)s->n * sizeof *s->calls);
    s->keep = pf_heap_zalloc(s->e->heap, (size_t)s->batch * sizeof *s->keep);
    if (!s->calls || !s->keep) return PF_ENOMEM;
    if (target) PF_TRY(pf_tensor_compact(&s->target, s->e, target));
    if (s->pass.carry) return pf_carry_enter(s);
    s->whole = (pf_part){.documents = s->pass.documents, .mask = s->pass.mask};
    return PF_OK;
}

int pf_slices_close(pf_slices *s, int status) {
    pf_carry_end(s, status);
    pf_tensor_release(&s->target);
    pf_heap_free(s->e->heap, s->calls, (size_t)s->n * sizeof *s->calls);
    pf_heap_free(s->e->heap, s->keep, (size_t)s->batch * sizeof *s->keep);
    return status;
}

/* What is carried into the row, without what a new document has nothing to do with. */
static int begin_carried(pf_slices *s, pf_state **state) {
    pf_state *carried;
    s->calls[0] = s->pass.calls ? *s->pass.calls : 0;
    PF_TRY(pf_carried(&carried, s->carried));
    return pf_state_shell(state, s->e, carried);
}

int pf_slices_begin(pf_slices *s, pf_state **state, const pf_state *cotangent, bool again) {
    pf_pass pass = s->pass;
    const pf_part slice = s->whole;
    uint64_t calls = s->pass.calls ? *s->pass.calls : 0;
    PF_TRY(pf_state_of(s->m, s->e, s->batch, state));
    pf_state_begin_parts(*state);
    pass.calls = &calls;
    pass.again = pass.again || again;
    pass.mask = pass.documents = NULL;
    const pf_run run = {.mode = PF_RUN_SLICE,
                        .pass = &pass,
                        .state = *state,
                        .slice = &slice,
                        .cotangent = cotangent};
    int status = pf_begin_module(s->m, s->e, &run);
    if (status < 0) pf_state_close(state);
    s->calls[0] = calls;
    return status < 0 ? status : PF_OK;
}

int pf_slices_state(pf_slices *s, pf_state **state) {
    pf_tape *tape = pf_tape_pause(s->e);
    int status = s->carried ? begin_carried(s, state) : pf_slices_begin(s, state, NULL, false);
    if (status >= 0) status = pf_state_each(*state, NULL, settle, s->e);
    if (status >= 0) pf_slice_cut(s, 0, *state, false);
    if (status < 0) pf_state_close(state);
    pf_tape_resume(tape);
    return status;
}

static int run_part(const pf_slices *s, const pf_run *run, pf_tensor *x, pf_score *score,
                    pf_tensor **wanted) {
    pf_tensor *y = NULL;
    if (wanted) return pf_run_module(s->m, s->e, run, x, wanted);
    if (score) return pf_run_scored(s->m, s->e, run, x, score);
    PF_TRY(pf_run_module(s->m, s->e, run, x, &y));
    pf_tensor_release(&y);
    return PF_OK;
}

/* y: the module's output, in place of a score. */
static int run_slice(pf_slices *s, int64_t i, const pf_run *given, bool again, pf_score *score,
                     pf_tensor **y) {
    pf_pass pass = s->pass;
    pf_tensor *x = NULL;
    int64_t first = pf_slice_first(s, i), end = pf_slice_first(s, i + 1);
    pf_part slice = s->whole;
    slice.first += first;
    uint64_t calls = s->calls[i];
    pf_run run = *given;
    run.mode = PF_RUN_SLICE, run.pass = &pass, run.slice = &slice;
    run.last = !score && !y;
    pass.calls = &calls;
    pass.again = pass.again || again;
    pass.mask = pass.documents = NULL;
    if (score) score->target = NULL; /* the slice's own is let go of, not the caller's */
    int status = pf_part_of(&x, s->e, s->x, first, end);
    if (status >= 0) status = pf_part_of(&pass.mask, s->e, s->pass.mask, first, end);
    if (status >= 0) status = pf_part_of(&pass.documents, s->e, s->pass.documents, first, end);
    if (status >= 0 && score) status = pf_part_of(&score->target, s->e, s->target, first, end);
    if (status >= 0) status = run_part(s, &run, x, score, y);
    if (i + 1 < s->n) s->calls[i + 1] = calls;
    if (score) pf_tensor_release(&score->target);
    pf_tensor_release(&pass.documents);
    pf_tensor_release(&pass.mask);
    pf_tensor_release(&x);
    return status;
}

int pf_slice_run(pf_slices *s, int64_t i, const pf_run *run, bool again, pf_score *score) {
    return run_slice(s, i, run, again, score, NULL);
}

int pf_slices_forward(pf_slices *s, const pf_run *run, pf_tensor **y) {
    return run_slice(s, 0, run, false, NULL, y);
}

void pf_slice_cut(pf_slices *s, int64_t i, pf_state *state, bool gradient) {
    const pf_tensor *d = s->whole.documents;
    int64_t at = s->whole.ahead + pf_slice_first(s, i);
    if (!d || at == 0) return;
    for (int64_t b = 0; b < s->batch; b++) {
        const int32_t *row = pf_i32(d) + b * d->stride[0];
        s->keep[b] = row[at * d->stride[1]] == row[(at - 1) * d->stride[1]];
    }
    pf_state_begin_anew(state, s->keep, gradient);
}

int pf_slice_pass(pf_slices *s, int64_t i, pf_state *state, bool again, pf_score *score) {
    const pf_run run = {.state = state};
    PF_TRY(pf_progress_at(s->e, "going through rows", pf_slice_first(s, i), s->length));
    pf_tape *tape = pf_tape_pause(s->e);
    int status = pf_slice_run(s, i, &run, again, score);
    if (status >= 0) status = pf_state_each(state, NULL, settle, s->e);
    pf_tape_resume(tape);
    if (status >= 0 && i + 1 < s->n) pf_slice_cut(s, i + 1, state, false);
    return status;
}
