/*
 * pass.c - what a call of a model is told beside its input: taken from the caller, checked against
 * the input, and kept for layers whose forward is run a second time in backward (option recompute,
 * layer reversible).
 *
 * What is kept is all that the second run has to find as the first did: the module, the pass with
 * its tensors, and the number of the first random call, so that dropout draws the same mask.
 * Weights and projections are read where they are: they change after backward.
 */
#include <string.h>

#include "module.h"

/* A host that was built with an older header knows the first fields alone. */
int pf_pass_take(pf_pass *own, const pf_pass *given) {
    *own = (pf_pass){.size = sizeof *own};
    return pf_options_take(own, sizeof *own, given, "pass");
}

/* The caller's array and names may be gone before the pass is. */
static int retain_inputs(pf_pass *own, pf_heap *heap, const pf_pass *pass) {
    own->inputs = NULL, own->n_inputs = 0;
    if (pass->n_inputs == 0) return PF_OK;
    pf_named *list = pf_heap_zalloc(heap, (size_t)pass->n_inputs * sizeof *list);
    if (!list) return PF_ENOMEM;
    own->inputs = list, own->n_inputs = pass->n_inputs;
    for (int i = 0; i < pass->n_inputs; i++) {
        list[i].name = pf_heap_text(heap, pass->inputs[i].name);
        if (!list[i].name) return PF_ENOMEM;
        list[i].tensor = pf_tensor_retain(pass->inputs[i].tensor);
    }
    return PF_OK;
}

int pf_pass_retain(pf_pass *own, pf_heap *heap, const pf_pass *pass) {
    *own = *pass;
#define RETAIN(name) pf_tensor_retain(own->name);
    PF_PASS_FIELDS(PF_PASS_NONE, PF_PASS_NONE, RETAIN, PF_PASS_NONE, PF_PASS_NONE)
#undef RETAIN
    return retain_inputs(own, heap, pass);
}

void pf_pass_release(pf_pass *pass, pf_heap *heap) {
    pf_named *list = (pf_named *)pass->inputs;
#define RELEASE(name) pf_tensor_release(&pass->name);
    PF_PASS_FIELDS(PF_PASS_NONE, PF_PASS_NONE, RELEASE, PF_PASS_NONE, PF_PASS_NONE)
#undef RELEASE
    for (int i = 0; i < pass->n_inputs; i++) {
        pf_heap_text_free(heap, (char *)list[i].name);
        pf_tensor_release(&list[i].tensor);
    }
    if (list) pf_heap_free(heap, list, (size_t)pass->n_inputs * sizeof *list);
}

/* ---- against the input ---- */

/* A (B, L) i32 companion of the input. */
static int check_companion(const pf_tensor *t, const pf_tensor *x, const char *name) {
    if (!t) return PF_OK;
    PF_TRY(pf_tensor_check(t, PF_I32, "forward", name));
    if (t->rank == 2 && x->rank >= 2 && t->shape[0] == x->shape[0] && t->shape[1] == x->shape[1]) {
        return PF_OK;
    }
    return pf_fail(PF_ESHAPE, "forward: %s is %s, x is %s; %s must be (B, L)", name, pf_shape_of(t),
                   pf_shape_of(x), name);
}

/* A (B) i32 companion. */
static int check_prefix(const pf_tensor *t, const pf_tensor *x) {
    if (!t) return PF_OK;
    PF_TRY(pf_tensor_check(t, PF_I32, "forward", "prefix"));
    if (t->rank == 1 && x->rank >= 2 && t->shape[0] == x->shape[0]) return PF_OK;
    return pf_fail(PF_ESHAPE, "forward: prefix is %s, x is %s; prefix must be (B)", pf_shape_of(t),
                   pf_shape_of(x));
}

int pf_pass_check(const pf_pass *pass, const pf_module *m, const pf_tensor *x) {
    PF_TRY(pf_inputs_check(m, pass));
    PF_TRY(check_companion(pass->mask, x, "mask"));
    PF_TRY(check_companion(pass->documents, x, "documents"));
    return check_prefix(pass->prefix, x);
}

/* ---- a run that is kept for a second one ---- */

int pf_kept_run_make(pf_kept_run **kept, pf_module *m, pf_engine *e, const pf_pass *pass,
                     int64_t parts) {
    pf_kept_run *k = pf_heap_zalloc(e->heap, sizeof *k + (size_t)parts * sizeof *k->first);
    *kept = k;
    if (!k) return PF_ENOMEM;
    k->heap = pf_heap_retain(e->heap);
    k->m = pf_module_retain(m);
    k->parts = parts;
    int status = pf_pass_retain(&k->pass, k->heap, pass);
    if (status >= 0) return PF_OK;
    pf_kept_run_free(k);
    *kept = NULL;
    return status;
}

void pf_kept_run_free(void *kept) {
    pf_kept_run *k = kept;
    pf_heap *heap = k->heap;
    pf_pass_release(&k->pass, heap);
    pf_module_release(&k->m);
    pf_heap_free(heap, k, sizeof *k + (size_t)k->parts * sizeof *k->first);
    pf_heap_release(heap);
}

/* The caller's counter is gone when the second run comes: it counts in *calls instead. */
pf_pass pf_kept_run_pass(pf_kept_run *k, int64_t i, pf_tensor *const *inputs, uint64_t *calls,
                         pf_named list[PF_INPUTS]) {
    pf_pass pass = k->pass;
    for (int n = 0; n < pass.n_inputs; n++) list[n] = (pf_named){pass.inputs[n].name, inputs[n]};
    if (pass.n_inputs > 0) pass.inputs = list;
    if (k->runs++ < k->parts) {
        k->first[i] = pass.calls ? *pass.calls : 0;
        return pass;
    }
    *calls = k->first[i];
    if (pass.calls) pass.calls = calls;
    pass.again = true;
    return pass;
}

/* ---- option recompute ---- */

static int run_kept(void *context, pf_engine *e, pf_tensor *const *in, int n, pf_tensor **y) {
    pf_kept_run *k = context;
    uint64_t calls;
    pf_named list[PF_INPUTS];
    pf_pass pass = pf_kept_run_pass(k, 0, in + 1, &calls, list);
    pf_run run = {.mode = PF_RUN_FORWARD, .pass = &pass};
    (void)n;
    return k->m->type->run(k->m, e, &run, in[0], y);
}

/* x of any shape that the layer takes, and the inputs beside it, which get their gradients too. */
int pf_run_recompute(pf_module *m, pf_engine *e, const pf_run *run, pf_tensor *x, pf_tensor **y) {
    pf_kept_run *kept = NULL;
    PF_TRY(pf_kept_run_make(&kept, m, e, run->pass, 1));
    pf_tensor *in[1 + PF_INPUTS] = {x};
    for (int i = 0; i < kept->pass.n_inputs; i++) in[1 + i] = kept->pass.inputs[i].tensor;
    pf_recomputed f = {sizeof f, run_kept, pf_kept_run_free, kept};
    return pf_recompute(y, e, &f, in, 1 + kept->pass.n_inputs);
}
