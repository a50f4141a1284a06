/*
 * state.c - streaming states: a tree of what layers remember. Making, forking, counting and
 * closing are the same for every kind; what the tensors mean is the layer's business.
 */
#include <string.h>

#include "attention.h"

int pf_state_new(pf_state **state, pf_engine *e, int64_t batch, int n_child) {
    pf_state *s = pf_heap_zalloc(e->heap, sizeof *s);
    if (!s) return PF_ENOMEM;
    s->heap = pf_heap_retain(e->heap);
    s->batch = batch;
    if (n_child > 0) {
        s->child = pf_heap_zalloc(e->heap, (size_t)n_child * sizeof(pf_state *));
        if (!s->child) {
            pf_state_close(&s);
            return PF_ENOMEM;
        }
        s->n_child = n_child;
    }
    *state = s;
    return 0;
}

void pf_state_close(pf_state **state) {
    pf_state *s = *state;
    *state = NULL;
    if (!s) return;
    for (int i = 0; i < s->n_child; i++) pf_state_close(&s->child[i]);
    if (s->child) pf_heap_free(s->heap, s->child, (size_t)s->n_child * sizeof(pf_state *));
    for (int i = 0; i < PF_STATE_TENSORS; i++) pf_tensor_release(&s->tensor[i]);
    if (s->release_host) s->release_host(s->host_context, s->host);
    if (s->attend) {
        pf_tensor_release(&s->attend->projection);
        pf_heap_free(s->heap, s->attend, sizeof *s->attend);
    }
    pf_heap *heap = s->heap;
    pf_heap_free(heap, s, sizeof *s);
    pf_heap_release(heap);
}

/* Copies what `from` holds into the fresh node `to`. */
static int copy_node(pf_state *to, pf_engine *e, const pf_state *from) {
    to->position = from->position;
    if (from->host) {
        return pf_fail(PF_ESTATE, "state: a layer of the host keeps a state that can't be forked");
    }
    to->release_host = from->release_host;
    to->host_context = from->host_context;
    for (int i = 0; i < PF_STATE_TENSORS; i++) {
        if (from->tensor[i]) PF_TRY(pf_tensor_detach(&to->tensor[i], e, from->tensor[i]));
    }
    if (from->attend) {
        to->attend = pf_heap_alloc(to->heap, sizeof *to->attend);
        if (!to->attend) return PF_ENOMEM;
        *to->attend = *from->attend;
        if (to->attend->projection) pf_tensor_retain(to->attend->projection);
    }
    for (int i = 0; i < from->n_child; i++) {
        if (from->child[i]) PF_TRY(pf_state_fork(&to->child[i], e, from->child[i]));
    }
    return 0;
}

int pf_state_fork(pf_state **copy, pf_engine *engine, const pf_state *state) {
    PF_TRY(pf_state_new(copy, engine, state->batch, state->n_child));
    int status = copy_node(*copy, engine, state);
    if (status < 0) pf_state_close(copy);
    return status;
}

int64_t pf_state_bytes(const pf_state *state) {
    int64_t bytes = 0;
    for (int i = 0; i < PF_STATE_TENSORS; i++) {
        const pf_tensor *t = state->tensor[i];
        if (t) bytes += pf_tensor_numel(t) * (int64_t)pf_dtype_size(t->dtype);
    }
    for (int i = 0; i < state->n_child; i++) {
        if (state->child[i]) bytes += pf_state_bytes(state->child[i]);
    }
    return bytes;
}

int64_t pf_state_position(const pf_state *state) { return state->position; }
