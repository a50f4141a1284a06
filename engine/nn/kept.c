/*
 * kept.c - layers whose forward is run a second time in backward (option recompute, layer
 * reversible).
 *
 * What is kept is all that the second run has to find as the first did: the module, the pass with
 * its tensors, the number of the first random call, so that dropout draws the same mask, and what
 * layers chose (choices.c). Weights and projections are read where they are: they change after
 * backward.
 *
 * In slices (sliced.c) that is the state before the slice too, whose tensors are leaves, so that
 * the second run gives them their gradients as it gives parameters theirs. The state that it
 * leaves has its gradient already, from the slice after it: the walk of the second run begins
 * there too.
 */
#include "module.h"

/* ---- trees of tensors ---- */

int pf_state_shell(pf_state **shell, pf_engine *e, const pf_state *from) {
    PF_TRY(pf_state_new(shell, e, from->batch, from->n_child));
    pf_state *s = *shell;
    s->kind = from->kind;
    s->mark = from->mark;
    s->position = from->position;
    s->recent = from->recent;
    s->keep = from->keep;
    s->place = from->place;
    for (int k = 0; k < PF_STATE_TENSORS; k++) s->tensor[k] = pf_tensor_retain(from->tensor[k]);
    for (int i = 0; i < from->n_child; i++) {
        int status = from->child[i] ? pf_state_shell(&s->child[i], e, from->child[i]) : PF_OK;
        if (status >= 0) continue;
        pf_state_close(shell);
        return status;
    }
    return PF_OK;
}

int pf_state_each(pf_state *a, const pf_state *b, pf_place_fn f, void *context) {
    for (int k = 0; k < PF_STATE_TENSORS; k++) {
        if (a->tensor[k]) PF_TRY(f(a, b, k, context));
    }
    for (int i = 0; i < a->n_child; i++) {
        if (a->child[i]) PF_TRY(pf_state_each(a->child[i], b ? b->child[i] : NULL, f, context));
    }
    return PF_OK;
}

/* ---- a run that is kept for a second one ---- */

/* In slices what stands before this one. */
static int keep_entry(pf_kept_run *k, const pf_run *run) {
    if (!run->slice) return PF_OK;
    k->slice = *run->slice;
    pf_tensor_retain(k->slice.documents);
    pf_tensor_retain(k->slice.mask);
    pf_tensor_retain(k->slice.before);
    k->live = run->state;
    return pf_state_shell(&k->entry, k->e, run->state);
}

int pf_kept_run_make(pf_kept_run **kept, pf_module *m, pf_engine *e, const pf_run *run,
                     int64_t parts) {
    pf_kept_run *k = pf_heap_zalloc(e->heap, sizeof *k + (size_t)parts * sizeof *k->piece);
    *kept = k;
    if (!k) return PF_ENOMEM;
    k->heap = pf_heap_retain(e->heap);
    k->m = pf_module_retain(m);
    k->e = e;
    k->run = *run;
    k->parts = parts;
    int status = pf_pass_retain(&k->pass, k->heap, run->pass);
    if (status >= 0) status = keep_entry(k, run);
    if (status >= 0) return PF_OK;
    pf_kept_run_free(k);
    *kept = NULL;
    return status;
}

void pf_kept_run_free(void *kept) {
    pf_kept_run *k = kept;
    pf_heap *heap = k->heap;
    pf_state_close(&k->entry);
    pf_state_close(&k->again);
    pf_tensor_release(&k->slice.documents);
    pf_tensor_release(&k->slice.mask);
    pf_tensor_release(&k->slice.before);
    pf_pass_release(&k->pass, heap);
    pf_module_release(&k->m);
    for (int64_t i = 0; i < k->parts; i++) pf_choices_free(&k->piece[i].choices, heap);
    pf_heap_free(heap, k->end, (size_t)k->cap_end * sizeof(pf_tensor *));
    pf_heap_free(heap, k, sizeof *k + (size_t)k->parts * sizeof *k->piece);
    pf_heap_release(heap);
}

/* The caller's counter is gone when the second run comes: it counts in at->calls instead. */
int pf_kept_run_next(pf_kept_run *k, int64_t i, pf_tensor *const *inputs, pf_kept_pass *at,
                     pf_run *run) {
    pf_pass *pass = &at->pass;
    *run = k->run;
    *pass = k->pass;
    run->pass = pass;
    for (int n = 0; n < pass->n_inputs; n++)
        at->list[n] = (pf_named){pass->inputs[n].name, inputs[n]};
    if (pass->n_inputs > 0) pass->inputs = at->list;
    if (k->entry) run->slice = &k->slice;
    run->choices = &k->piece[i].choices;
    if (k->runs++ < k->parts) {
        k->piece[i].calls = pass->calls ? *pass->calls : 0;
        run->choices->outer = k->run.choices;
        return PF_OK;
    }
    at->calls = k->piece[i].calls;
    run->choices->again = true, run->choices->next = 0;
    if (pass->calls) pass->calls = &at->calls;
    pass->again = true;
    if (k->entry && !k->again) PF_TRY(pf_state_shell(&k->again, k->e, k->entry));
    run->state = k->again;
    return PF_OK;
}

static int count_place(pf_state *a, const pf_state *b, int k, void *context) {
    (void)a, (void)b, (void)k;
    ++*(int64_t *)context;
    return PF_OK;
}

typedef struct {
    pf_tensor **out, **seed;
    int64_t n;
} list;

static int add_place(pf_state *a, const pf_state *b, int k, void *context) {
    list *to = context;
    to->out[to->n] = a->tensor[k];
    to->seed[to->n++] = b ? b->tensor[k] : NULL;
    return PF_OK;
}

int pf_kept_run_ends(void *kept, int64_t i, pf_ends *ends) {
    pf_kept_run *k = kept;
    pf_state *left = k->runs <= k->parts ? k->live : k->again;
    const pf_state *cotangent = k->run.cotangent;
    int64_t n = 0;
    if (k->parts > 1) {
        left = left->child[i / 2];
        cotangent = cotangent ? cotangent->child[i / 2] : NULL;
    }
    PF_TRY(pf_state_each(left, NULL, count_place, &n));
    PF_TRY(pf_heap_grow(k->heap, (void **)&k->end, &k->cap_end, 2 * n, sizeof *k->end));
    list all = {k->end, k->end + n, 0};
    PF_TRY(pf_state_each(left, cotangent, add_place, &all));
    *ends = (pf_ends){all.out, all.seed, n};
    return PF_OK;
}

/* ---- option recompute ---- */

static int run_kept(void *context, pf_engine *e, pf_tensor *const *in, int n, pf_tensor **y) {
    pf_kept_run *k = context;
    pf_kept_pass at;
    pf_run run;
    (void)n;
    PF_TRY(pf_kept_run_next(k, 0, in + 1, &at, &run));
    return k->m->type->run(k->m, e, &run, in[0], y);
}

/* x of any shape that the layer takes, and the inputs beside it, which get their gradients too. */
int pf_run_recompute(pf_module *m, pf_engine *e, const pf_run *run, pf_tensor *x, pf_tensor **y) {
    pf_kept_run *kept = NULL;
    PF_TRY(pf_kept_run_make(&kept, m, e, run, 1));
    pf_tensor *in[1 + PF_INPUTS] = {x};
    for (int i = 0; i < kept->pass.n_inputs; i++) in[1 + i] = kept->pass.inputs[i].tensor;
    pf_recomputed f = {sizeof f, run_kept, pf_kept_run_free, kept};
    return pf_recompute_ends(y, e, &f, run->slice ? pf_kept_run_ends : NULL, in,
                             1 + kept->pass.n_inputs);
}
