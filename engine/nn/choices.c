/*
 * choices.c - what layers chose in a forward that backward runs a second time: buckets of hashes,
 * clusters. A second run that makes its inputs again from outputs (reversible) has them to rounding
 * only, and a choice that flips is another function; so the first run's are held, in the order in
 * which they were made, and the second finds them (pf_choices of module.h).
 *
 * A kept run within another's notes its choices for both. The second run of the outer one is the
 * first of the inner: it finds what the outer holds, and notes that.
 */
#include "module.h"

/* A copy: what is made under a tape dies with it, and the second run has one of its own. */
static int note(pf_choices *c, pf_heap *heap, pf_tensor *t) {
    PF_TRY(pf_heap_grow(heap, (void **)&c->made, &c->cap, c->n + 1, sizeof *c->made));
    pf_tensor **own = &c->made[c->n];
    PF_TRY(pf_tensor_make_lasting(own, heap, t->dtype, t->rank, t->shape));
    c->n++;
    return pf_tensor_read(t, pf_tensor_data(*own),
                          (size_t)pf_tensor_numel(t) * pf_dtype_size(t->dtype));
}

/* The next choice of a list that is read: its own, or that of the run around it; NULL: it is to be
 * made now. */
static int find(pf_choices *c, pf_heap *heap, pf_tensor **t) {
    *t = NULL;
    if (!c) return PF_OK;
    if (!c->again) {
        PF_TRY(find(c->outer, heap, t));
        return *t ? note(c, heap, *t) : PF_OK;
    }
    if (c->next == c->n) return pf_fail(PF_ESTATE, "backward: a layer runs otherwise than it did");
    *t = c->made[c->next++];
    return PF_OK;
}

int pf_run_chosen(const pf_run *run, pf_engine *e, pf_tensor **t) {
    PF_TRY(find(run->choices, e->heap, t));
    pf_tensor_retain(*t);
    return PF_OK;
}

int pf_run_choose(const pf_run *run, pf_engine *e, pf_tensor *t) {
    for (pf_choices *c = run->choices; c; c = c->outer) PF_TRY(note(c, e->heap, t));
    return PF_OK;
}

void pf_choices_free(pf_choices *c, pf_heap *heap) {
    for (int64_t i = 0; i < c->n; i++) pf_tensor_release(&c->made[i]);
    pf_heap_free(heap, c->made, (size_t)c->cap * sizeof(pf_tensor *));
    *c = (pf_choices){.made = NULL};
}
