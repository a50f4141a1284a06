/*
 * api_state.c - writing streaming states to files (state_file.h): the tree of tensors, whose
 * state it is, and the checksums. Joins attention, nn and io.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "json.h"
#include "state_file.h"

void pf_state_file_free(pf_state_file *f) {
    pf_named_free(f->list, f->n);
    pf_config_free(f->meta);
    pf_config_free(f->positions);
    pf_config_free(f->recent);
    pf_config_free(f->hosts);
    *f = (pf_state_file){0};
}

int pf_state_place(char below[PF_STATE_PATH], const char *path, int i) {
    int n = snprintf(below, PF_STATE_PATH, "%s%d.", path, i + 1);
    if (n > 0 && n < PF_STATE_PATH) return PF_OK;
    return pf_fail(PF_EINVAL, "state: the model is nested too deep for a file");
}

static int by_name(const void *a, const void *b) {
    return strcmp(((const pf_named *)a)->name, ((const pf_named *)b)->name);
}

void pf_state_sort(pf_named *list, int n) {
    if (n > 1) qsort(list, (size_t)n, sizeof *list, by_name);
}

/* ---- checksums ---- */

/* For texts of any length; pf_text_print is for short ones. */
static void put(pf_text *text, const char *s) { pf_text_put(text, s, strlen(s)); }

/* "name f32[2, 3] hash" of one tensor. */
static int digest_tensor(pf_text *text, pf_engine *e, const char *name, const pf_tensor *t) {
    char hash[PF_HASH_TEXT];
    pf_tensor *flat = NULL;
    PF_TRY(pf_tensor_compact(&flat, e, t));
    size_t bytes = (size_t)pf_tensor_numel(flat) * pf_dtype_size(flat->dtype);
    pf_hash_bytes(bytes ? pf_tensor_data(flat) : "", bytes, hash);
    pf_tensor_release(&flat);
    put(text, name);
    pf_text_print(text, " %s%s ", pf_dtype_name(t->dtype), pf_shape_of(t));
    pf_text_print(text, "%s\n", hash);
    return PF_OK;
}

static int finish_digest(pf_text *text, int status, char hash[PF_HASH_TEXT]) {
    if (status >= 0 && text->failed) status = pf_fail(PF_ENOMEM, "state: no memory");
    if (status >= 0) pf_hash_bytes(text->data, text->size, hash);
    pf_text_close(text);
    return status;
}

int pf_state_digest(const pf_state_file *f, char hash[PF_HASH_TEXT]) {
    static const char *const keys[] = {"format", "version", "kind",     "model",     "kernel",
                                       "batch",  "heads",   "head_dim", "value_dim", "positions",
                                       "recent", "hosts",   "host",     "keep",      "form"};
    const int later = PF_COUNT(keys) - 3; /* files of before have none of these */
    pf_text text = {.heap = f->engine->heap};
    int status = PF_OK;
    for (int i = 0; i < PF_COUNT(keys); i++) {
        const pf_config *value = pf_config_get(f->meta, keys[i]);
        const char *plain = value ? pf_config_string(value) : NULL;
        if (!value && i >= later) continue;
        pf_text_print(&text, "%s=", keys[i]);
        put(&text, plain ? plain : "");
        put(&text, "\n");
    }
    for (int i = 0; i < f->n && status >= 0; i++) {
        status = digest_tensor(&text, f->engine, f->list[i].name, f->list[i].tensor);
    }
    return finish_digest(&text, status, hash);
}

int pf_module_digest(pf_engine *e, const pf_module *module, char hash[PF_HASH_TEXT]) {
    pf_text text = {.heap = e->heap};
    pf_config *tree = NULL;
    int n = pf_module_tensor_count(module);
    int status = n < 0 ? n : pf_module_bare_tree(&tree, module);
    if (status >= 0) status = pf_json_put(&text, tree, false);
    for (int i = 0; i < n && status >= 0; i++) {
        const char *name;
        pf_tensor *t;
        bool trained;
        status = pf_module_tensor_at(module, i, &name, &t, &trained);
        if (status >= 0) status = digest_tensor(&text, e, name, t);
    }
    pf_config_free(tree);
    return finish_digest(&text, status, hash);
}

/* ---- collecting ---- */

static int no_memory(void) { return pf_fail(PF_ENOMEM, "state: no memory to write it"); }

/* Adds tensor `t` (retained) under path + name. */
static int add_tensor(pf_state_file *f, const char *path, const char *name, pf_tensor *t) {
    if (f->n == f->capacity) {
        int capacity = f->capacity ? 2 * f->capacity : 16;
        pf_named *list = realloc(f->list, (size_t)capacity * sizeof *list);
        if (!list) return no_memory();
        f->list = list, f->capacity = capacity;
    }
    size_t bytes = strlen(path) + strlen(name) + 1;
    char *full = malloc(bytes);
    if (!full) return no_memory();
    snprintf(full, bytes, "%s%s", path, name);
    pf_named *added = &f->list[f->n++];
    added->name = full, added->tensor = pf_tensor_retain(t);
    return PF_OK;
}

/* The tensors of one node; of a growing one only the rows that are filled: what a cache has to
 * spare is nobody's. */
static int add_node(pf_state_file *f, const pf_state *s, const char *path) {
    for (int i = 0; i < PF_STATE_TENSORS && s->kind; i++) {
        pf_tensor *view = NULL;
        if (!s->tensor[i]) continue;
        PF_TRY(pf_tensor_view(&view, s->tensor[i]));
        if (s->kind->grows) view->shape[2] = pf_state_held(s);
        int status = add_tensor(f, path, s->kind->tensor[i], view);
        pf_tensor_release(&view);
        PF_TRY(status);
    }
    return PF_OK;
}

/* What a layer of the host keeps: its tensors under "path" + "host.", its data by path. */
static int add_host(pf_state_file *f, const pf_state *s, const char *path) {
    pf_named *tensors = NULL;
    pf_config *data = NULL;
    int n = 0;
    if (!s->host) return PF_OK;
    if (!s->layer.save_state) {
        return pf_fail(PF_ESTATE, "state: a layer of the host keeps a state that can't be saved");
    }
    uint64_t before = pf_failures();
    int status = s->layer.save_state(s->layer.context, f->engine, s->host, &tensors, &n, &data);
    if (status < 0) {
        return pf_callback_failed(status, before, "state: the save_state of a layer of the host");
    }
    char below[PF_STATE_PATH + 8];
    snprintf(below, sizeof below, "%shost.", path);
    for (int i = 0; i < n && status >= 0; i++) {
        status = add_tensor(f, below, tensors[i].name, tensors[i].tensor);
    }
    pf_named_free(tensors, n);
    if (!data) data = pf_config_new_beside(f->hosts, PF_MAP);
    if (status < 0) {
        pf_config_free(data);
        return status;
    }
    return data && pf_config_set(f->hosts, path, data) >= 0 ? PF_OK : no_memory();
}

static int push_number(pf_config *list, int64_t value) {
    pf_config *number = pf_config_number_beside(list, (double)value);
    return pf_config_push(list, number) < 0 ? no_memory() : PF_OK;
}

/* A tree in walk order: positions and counts of every node, tensors and hosts' data by its path. */
static int collect(pf_state_file *f, const pf_state *s, const char *path) {
    PF_TRY(push_number(f->positions, s->position));
    PF_TRY(push_number(f->recent, s->recent));
    PF_TRY(add_node(f, s, path));
    PF_TRY(add_host(f, s, path));
    for (int i = 0; i < s->n_child; i++) {
        char below[PF_STATE_PATH];
        PF_TRY(pf_state_place(below, path, i));
        if (s->child[i]) PF_TRY(collect(f, s->child[i], below));
    }
    return PF_OK;
}

/* ---- metadata ---- */

static int set_number(pf_config *meta, const char *key, int64_t value) {
    char text[PF_STATE_NUMBER];
    snprintf(text, sizeof text, "%" PRId64, value);
    return pf_config_set_string(meta, key, text);
}

static int set_json(const pf_state_file *f, const char *key, const pf_config *value) {
    pf_text text = {.heap = f->engine->heap};
    int status = pf_json_put(&text, value, false);
    if (status >= 0) status = pf_config_set_string(f->meta, key, text.data);
    pf_text_close(&text);
    return status;
}

/* The kernel of a state of attention alone, with what it was drawn from the kernel. */
static int add_alone(pf_state_file *f, const pf_state *state) {
    const pf_alone *alone = pf_alone_of(state);
    /* Where features are given, the file counts them as the width of its heads. */
    bool given = pf_kernel_words_given(alone->words);
    int64_t head_dim = given ? state->tensor[0]->shape[2] : alone->head_dim;
    PF_TRY(set_json(f, "kernel", alone->words));
    PF_TRY(set_number(f->meta, "heads", alone->heads));
    PF_TRY(set_number(f->meta, "head_dim", head_dim));
    PF_TRY(set_number(f->meta, "value_dim", alone->value_dim));
    const pf_attention *a = &alone->attention;
    const pf_kernel *kernel = a->kernel;
    if (kernel && pf_kernel_is_host(kernel)) {
        PF_TRY(pf_config_set_string(f->meta, "host", pf_kernel_name(kernel)));
    }
    if (kernel && kernel->projection) {
        PF_TRY(add_tensor(f, "", "projection", kernel->projection));
    }
    if (a->decay) PF_TRY(add_tensor(f, "", "decay", a->decay));
    if (a->table) PF_TRY(add_tensor(f, "", a->kind->rooms->table, a->table));
    if (alone->fingerprint) PF_TRY(add_tensor(f, "", "fingerprint", alone->fingerprint));
    return PF_OK;
}

static int add_owner(pf_state_file *f, const pf_module *module, const pf_state *state) {
    char hash[PF_HASH_TEXT];
    PF_TRY(pf_config_set_string(f->meta, "kind", module ? "model" : "attention"));
    if (!module) return add_alone(f, state);
    PF_TRY(pf_module_digest(f->engine, module, hash));
    return pf_config_set_string(f->meta, "model", hash);
}

int pf_state_fill(pf_state_file *f, const pf_module *module, const pf_state *state,
                  const pf_picked *picked) {
    char hash[PF_HASH_TEXT];
    PF_TRY(pf_state_check(state));
    pf_heap *heap = f->engine->heap;
    f->meta = pf_config_new_in(heap, PF_MAP), f->hosts = pf_config_new_in(heap, PF_MAP);
    f->positions = pf_config_new_in(heap, PF_LIST), f->recent = pf_config_new_in(heap, PF_LIST);
    if (!f->meta || !f->hosts || !f->positions || !f->recent) return no_memory();
    PF_TRY(pf_config_set_string(f->meta, "format", PF_STATE_FORMAT));
    PF_TRY(pf_config_set_string(f->meta, "version", PF_STATE_VERSION));
    PF_TRY(set_number(f->meta, "batch", state->batch));
    PF_TRY(add_owner(f, module, state));
    if (state->kind && state->kind->carries) {
        PF_TRY(set_number(f->meta, "keep", state->keep));
        PF_TRY(pf_config_set_string(f->meta, "form", state->kind->name));
    }
    PF_TRY(collect(f, state, ""));
    if (picked && picked->logits) PF_TRY(add_tensor(f, "", "logits", picked->logits));
    if (picked && picked->seen) PF_TRY(add_tensor(f, "", "seen", picked->seen));
    PF_TRY(set_json(f, "positions", f->positions));
    PF_TRY(set_json(f, "recent", f->recent));
    PF_TRY(set_json(f, "hosts", f->hosts));
    PF_TRY(pf_state_digest(f, hash));
    return pf_config_set_string(f->meta, "checksum", hash);
}

int pf_state_write(pf_engine *e, const pf_module *module, const pf_state *state,
                   const pf_picked *picked, const char *path) {
    pf_state_file f = {.engine = e};
    int status = pf_state_fill(&f, module, state, picked);
    if (status >= 0) status = pf_safetensors_save(e, path, f.list, f.n, f.meta);
    pf_state_file_free(&f);
    return status;
}

/* ---- public ---- */

static int check_alone(const pf_state *state) {
    if (!state->own) {
        return pf_fail(PF_ESTATE, "state: this one belongs to a model; save it with the model");
    }
    if (pf_alone_of(state)->words) return PF_OK;
    return pf_fail(PF_ESTATE, "state: this one takes its sizes from the first keys, and has seen "
                              "none: there is nothing to save");
}

int pf_state_pack(pf_engine *engine, const pf_state *state, pf_named **tensors, int *n,
                  pf_config **metadata) {
    PF_OPEN(engine);
    PF_NEED(state, tensors, n, metadata);
    pf_state_file f = {.engine = engine};
    *tensors = NULL, *n = 0, *metadata = NULL;
    PF_TRY(check_alone(state));
    char hash[PF_HASH_TEXT];
    int status = pf_state_fill(&f, NULL, state, NULL);
    if (status >= 0) {
        pf_state_sort(f.list, f.n);
        status = pf_state_digest(&f, hash);
    }
    if (status >= 0) status = pf_config_set_string(f.meta, "checksum", hash);
    if (status >= 0) {
        *tensors = f.list, *n = f.n, *metadata = f.meta;
        f.list = NULL, f.n = 0, f.meta = NULL;
    }
    pf_state_file_free(&f);
    return status;
}

int pf_state_save(pf_engine *engine, const pf_state *state, const char *path) {
    PF_OPEN(engine);
    PF_NEED(state, path);
    PF_TRY(check_alone(state));
    return pf_state_write(engine, NULL, state, NULL, path);
}

int pf_module_state_save(pf_engine *engine, const pf_module *module, const pf_state *state,
                         const char *path) {
    PF_OPEN(engine);
    PF_NEED(module, state, path);
    if (state->own) {
        return pf_fail(PF_ESTATE,
                       "state: this one is of attention alone, and is saved without a model");
    }
    return pf_state_write(engine, module, state, NULL, path);
}
