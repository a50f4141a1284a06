/*
 * pass.c - what a call of a model is told beside its input: taken from the caller, checked against
 * the input, and held for who outlives the call.
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
    PF_PASS_FIELDS(PF_PASS_NONE, PF_PASS_NONE, RETAIN, PF_PASS_NONE, PF_PASS_NONE, PF_PASS_NONE)
#undef RETAIN
    return retain_inputs(own, heap, pass);
}

void pf_pass_release(pf_pass *pass, pf_heap *heap) {
    pf_named *list = (pf_named *)pass->inputs;
#define RELEASE(name) pf_tensor_release(&pass->name);
    PF_PASS_FIELDS(PF_PASS_NONE, PF_PASS_NONE, RELEASE, PF_PASS_NONE, PF_PASS_NONE, PF_PASS_NONE)
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
