/*
 * pass.c - a layer whose forward is run a second time in backward (option recompute).
 *
 * What is held is all that the second run has to find as the first did: the module, the
 * pass with its tensors, and the number of the first random call, so that dropout draws the
 * same mask. Weights and projections are read where they are: they change after backward.
 */
#include <string.h>

#include "module.h"

typedef struct {
    pf_heap *heap;  /* retained */
    pf_module *m;   /* retained */
    pf_pass pass;   /* its tensors retained */
    uint64_t first; /* where the counter of random calls stood */
    bool ran;       /* the first run is over, and pass.calls gone with it */
} held;

static int run_held(void *context, pf_engine *e, pf_tensor *const *in, int n, pf_tensor **y) {
    held *h = context;
    (void)n;
    pf_pass pass = h->pass;
    uint64_t calls = h->first;
    if (h->ran && pass.calls) pass.calls = &calls;
    pass.again = pass.again || h->ran;
    h->ran = true;
    pf_run run = {.mode = PF_RUN_FORWARD, .pass = &pass};
    return h->m->type->run(h->m, e, &run, in[0], y);
}

static void release_held(void *context) {
    held *h = context;
    pf_heap *heap = h->heap;
    pf_pass_release(&h->pass);
    pf_module_release(&h->m);
    pf_heap_free(heap, h, sizeof *h);
    pf_heap_release(heap);
}

/* x of any shape that the layer takes. */
int pf_run_again(pf_module *m, pf_engine *e, const pf_run *run, pf_tensor *x, pf_tensor **y) {
    held *h = pf_heap_zalloc(e->heap, sizeof *h);
    if (!h) return PF_ENOMEM;
    h->heap = pf_heap_retain(e->heap);
    h->m = pf_module_retain(m);
    h->pass = pf_pass_retain(run->pass);
    h->first = h->pass.calls ? *h->pass.calls : 0;
    pf_recomputed f = {run_held, release_held, h};
    return pf_recompute(y, e, &f, &x, 1);
}
