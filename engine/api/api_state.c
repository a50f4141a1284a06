/*
 * api_state.c - writing a streaming state to a safetensors file: its tree of tensors, named
 * by place ("2.1.s"), and the position as metadata. Joins attention and io.
 */
#include <stdio.h>
#include <string.h>

#include "attention.h"

enum { NAME = 96 };

typedef struct {
    pf_named *list;
    char (*names)[NAME];
    int n;
} state_list;

static int count_tensors(const pf_state *s) {
    int n = 0;
    for (int i = 0; i < PF_STATE_TENSORS; i++) n += s->tensor[i] != NULL;
    for (int i = 0; i < s->n_child; i++) {
        if (s->child[i]) n += count_tensors(s->child[i]);
    }
    return n;
}

static void collect(state_list *to, const pf_state *s, const char *path) {
    for (int i = 0; i < PF_STATE_TENSORS; i++) {
        if (!s->tensor[i]) continue;
        snprintf(to->names[to->n], NAME, "%sstate%d", path, i + 1);
        to->list[to->n] = (pf_named){to->names[to->n], s->tensor[i]};
        to->n++;
    }
    for (int i = 0; i < s->n_child; i++) {
        char below[NAME];
        if (!s->child[i]) continue;
        snprintf(below, NAME, "%.60s%d.", path, i + 1);
        collect(to, s->child[i], below);
    }
}

static int save_list(pf_engine *engine, const state_list *list, const pf_state *state,
                     const char *path) {
    pf_config *metadata = pf_config_new(PF_MAP);
    int status = metadata ? 0 : pf_fail(PF_ENOMEM, "state: no memory for its metadata");
    char position[32];
    snprintf(position, sizeof position, "%lld", (long long)state->position);
    if (status >= 0) status = pf_config_set_string(metadata, "position", position);
    if (status >= 0) status = pf_safetensors_save(engine, path, list->list, list->n, metadata);
    pf_config_free(metadata);
    return status;
}

int pf_state_save(pf_engine *engine, const pf_state *state, const char *path) {
    size_t n = (size_t)count_tensors(state);
    state_list list = {pf_heap_alloc(engine->heap, n * sizeof(pf_named)),
                       pf_heap_alloc(engine->heap, n * NAME), 0};
    int status = PF_ENOMEM;
    if (list.list && list.names) {
        collect(&list, state, "");
        status = save_list(engine, &list, state, path);
    }
    if (list.list) pf_heap_free(engine->heap, list.list, n * sizeof(pf_named));
    if (list.names) pf_heap_free(engine->heap, list.names, n * NAME);
    return status;
}
