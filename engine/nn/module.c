/*
 * module.c - the life of a module: allocation, children, slots, reference counts, and the
 * walk that gives every tensor of a tree its path. A module's structure stands once its
 * constructor returns (type "lua" may still add tensors), so that streams on several
 * engines can read it at the same time; the walk is made when first asked for, under a lock.
 *
 * A tree is walked by recursion, shared modules as often as they are met: both are bounded when a
 * module is made (PF_MODULES, PF_MODULE_DEPTH), so that nobody else has to count.
 */
#include <sched.h>
#include <stdio.h>
#include <string.h>

#include "module.h"

char *pf_heap_text(pf_heap *heap, const char *text) {
    size_t bytes = strlen(text) + 1;
    char *copy = pf_heap_alloc(heap, bytes);
    if (copy) memcpy(copy, text, bytes);
    return copy;
}

void pf_heap_text_free(pf_heap *heap, char *text) {
    if (text) pf_heap_free(heap, text, strlen(text) + 1);
}

/* ---- options ---- */

double pf_option_number(const pf_module *m, const char *name) {
    const pf_config *value = pf_config_get(m->options, name);
    if (value) return pf_config_number(value);
    return pf_config_number_of(NULL, m->type->options, m->type->n_options, name);
}

const char *pf_option_text(const pf_module *m, const char *name) {
    const pf_config *value = pf_config_get(m->options, name);
    if (value) return pf_config_string(value);
    return pf_config_string_of(NULL, m->type->options, m->type->n_options, name);
}

bool pf_option_part(const pf_module *m, const char *name, const char *whole) {
    double own = pf_option_number(m, name);
    return isnan(own) ? pf_option_int(m, whole) != 0 : own != 0;
}

int pf_option_useless(const pf_module *m, const pf_engine *e, const char *name, const char *needs) {
    if (e->loading) return PF_OK;
    return pf_fail(PF_EINVAL, "%s: '%s' does nothing here: it is for %s; leave it out",
                   m->type->name, name, needs);
}

/* ---- children and slots ---- */

int pf_module_adopt(pf_module *m, const char *name, pf_module *child) {
    PF_TRY(
        pf_heap_grow(m->heap, (void **)&m->child, &m->cap_child, m->n_child + 1, sizeof *m->child));
    char *copy = pf_heap_text(m->heap, name);
    if (!copy) return PF_ENOMEM;
    m->child[m->n_child++] = (pf_child){copy, pf_module_retain(child)};
    return PF_OK;
}

/* Every tensor of a module comes in here; the tensor is retained, the name copied. */
static int add_slot(pf_module *m, const char *name, pf_tensor *tensor, bool trained, bool derived) {
    if (pf_module_tensor(m, name)) {
        return pf_fail(PF_EINVAL, "%s: there is a tensor '%s' already", m->type->name, name);
    }
    PF_TRY(pf_heap_grow(m->heap, (void **)&m->slot, &m->cap_slot, m->n_slot + 1, sizeof *m->slot));
    char *copy = pf_heap_text(m->heap, name);
    if (!copy) return PF_ENOMEM;
    m->slot[m->n_slot++] = (pf_slot){copy, pf_tensor_retain(tensor), trained, derived};
    return PF_OK;
}

int pf_module_trained(pf_module *m, const char *name, pf_tensor *tensor) {
    PF_TRY(pf_tensor_require_grad(tensor, true));
    return add_slot(m, name, tensor, true, false);
}

int pf_module_buffer(pf_module *m, const char *name, pf_tensor *tensor) {
    return add_slot(m, name, tensor, false, false);
}

int pf_module_share(pf_module *m, const char *name, pf_tensor *tensor) {
    return add_slot(m, name, tensor, true, false);
}

int pf_module_derived(pf_module *m, const char *name, pf_tensor *tensor) {
    return add_slot(m, name, tensor, false, true);
}

int pf_module_param(pf_module *m, pf_engine *e, const char *name, int rank, const int64_t *shape,
                    const char *init) {
    pf_tensor *t = NULL;
    PF_TRY(pf_shape_valid(rank, shape, PF_F32, m->type->name));
    PF_TRY(pf_tensor_make_parameter(&t, e, PF_F32, rank, shape));
    int status = pf_init_fill(t, e, init);
    if (status >= 0) status = pf_module_trained(m, name, t);
    pf_tensor_release(&t);
    return status;
}

/* Times that a module lost tensors, in the whole process: a walk made before may name them. */
static atomic_uint_least64_t drops;

void pf_module_drop_slots(pf_module *m, int first) {
    for (int i = first; i < m->n_slot; i++) {
        pf_tensor_release(&m->slot[i].tensor);
        pf_heap_text_free(m->heap, m->slot[i].name);
    }
    if (m->n_slot > first) m->n_slot = first;
    atomic_fetch_add(&drops, 1);
}

pf_tensor *pf_module_tensor(const pf_module *m, const char *name) {
    for (int i = 0; i < m->n_slot; i++) {
        if (strcmp(m->slot[i].name, name) == 0) return m->slot[i].tensor;
    }
    return NULL;
}

/* ---- making and releasing ---- */

static void drop_walk(pf_module *m) {
    m->walk_slots = -1;
    for (int i = 0; i < m->n_walk; i++) pf_heap_text_free(m->heap, m->walk[i].name);
    m->n_walk = 0;
}

/* A host's own names; others are the row's. */
static void free_reads(pf_module *m) {
    if (m->reads == m->type->inputs) return;
    for (int i = 0; i < m->n_reads; i++) pf_heap_text_free(m->heap, (char *)m->reads[i].name);
    pf_heap_free(m->heap, (pf_input_info *)m->reads, PF_INPUTS * sizeof *m->reads);
}

/* The last reference is gone; children and tensors may live on elsewhere. */
static void destroy(pf_module *m) {
    pf_heap *heap = m->heap;
    drop_walk(m);
    pf_heap_free(heap, m->walk, (size_t)m->cap_walk * sizeof *m->walk);
    for (int i = 0; i < m->n_child; i++) {
        pf_module_release(&m->child[i].module);
        pf_heap_text_free(heap, m->child[i].name);
    }
    pf_heap_free(heap, m->child, (size_t)m->cap_child * sizeof *m->child);
    for (int i = 0; i < m->n_slot; i++) {
        pf_tensor_release(&m->slot[i].tensor);
        pf_heap_text_free(heap, m->slot[i].name);
    }
    pf_heap_free(heap, m->slot, (size_t)m->cap_slot * sizeof *m->slot);
    if (m->self && m->type->drop) m->type->drop(m->self);
    if (m->self) pf_heap_free(heap, m->self, m->type->self_bytes);
    pf_config_free(m->options);
    if (m->host.release) m->host.release(m->host.context);
    free_reads(m);
    pf_heap_free(heap, m, sizeof *m);
    pf_heap_release(heap);
}

/* What a file can hold is all that is built from it: else a few bytes would ask for gigabytes. */
static int take_from_file(const pf_module *m, pf_loading *loading) {
    loading->modules--;
    loading->tensors -= m->n_slot;
    if (loading->modules >= 0 && loading->tensors >= 0) return PF_OK;
    return pf_fail(PF_EFORMAT, "model: more %s than the tensors of the file are for",
                   loading->tensors < 0 ? "tensors" : "layers");
}

/* How large and how deep the tree is, now that it is complete. */
static int measure(pf_module *m) {
    m->modules = 1;
    for (int i = 0; i < m->n_child; i++) {
        const pf_module *child = m->child[i].module;
        m->modules += child->modules; /* each at most PF_MODULES: it can't overflow */
        if (child->depth >= m->depth) m->depth = child->depth + 1;
    }
    if (m->modules > PF_MODULES) {
        return pf_fail(PF_EINVAL,
                       "%s: a model of more than %d layers, shared ones counted as often as they "
                       "stand in it",
                       m->type->name, PF_MODULES);
    }
    if (m->depth <= PF_MODULE_DEPTH) return PF_OK;
    return pf_fail(PF_EINVAL, "%s: layers nest deeper than %d", m->type->name, PF_MODULE_DEPTH);
}

/* Given children first, called "1", "2" ..., then what the type's `build` makes. */
static int fill(pf_module *m, pf_engine *e, pf_module *const *children, int n) {
    char name[16];
    for (int i = 0; i < n; i++) {
        snprintf(name, sizeof name, "%d", i + 1);
        PF_TRY(pf_module_adopt(m, name, children[i]));
    }
    m->n_given = n;
    if (m->type->self_bytes) {
        m->self = pf_heap_zalloc(m->heap, m->type->self_bytes);
        if (!m->self) return PF_ENOMEM;
    }
    if (m->type->build) PF_TRY(m->type->build(m, e));
    PF_TRY(measure(m));
    if (e->loading) return take_from_file(m, e->loading);
    return m->type->derive ? m->type->derive(m) : PF_OK;
}

static void forget_handle(pf_config *kernel) {
    if (kernel && pf_config_kind_of(kernel) == PF_MAP) pf_config_remove(kernel, "handle");
}

/* Handles named open kernels for this one build: what is kept is plain data. */
static void forget_handles(const pf_config *options) {
    const pf_config *list = pf_config_get(options, "kernels");
    const pf_config *groups = pf_config_get(options, "head_groups");
    forget_handle(pf_config_get(options, "kernel"));
    for (int i = 0; i < pf_config_size(list); i++) forget_handle(pf_config_at(list, i));
    for (int i = 0; i < pf_config_size(groups); i++) {
        const pf_config *group = pf_config_at(groups, i);
        if (pf_config_kind_of(group) == PF_MAP) forget_handle(pf_config_get(group, "kernel"));
    }
}

int pf_module_make(pf_module **module, pf_engine *e, const pf_layer *type, pf_config *options,
                   pf_module *const *children, int n_children) {
    int status = pf_check_cancel(e);
    pf_module *m = status < 0 ? NULL : pf_heap_zalloc(e->heap, sizeof *m);
    if (!m) {
        pf_config_free(options);
        return status < 0 ? status : PF_ENOMEM;
    }
    atomic_flag_clear(&m->walking);
    m->walk_slots = -1;
    atomic_init(&m->refs, 1);
    m->heap = pf_heap_retain(e->heap);
    m->type = type;
    m->reads = type->inputs, m->n_reads = type->n_inputs;
    m->options = options;
    status = fill(m, e, children, n_children);
    forget_handles(options);
    if (status < 0) {
        pf_module_release(&m);
        return status;
    }
    *module = m;
    return PF_OK;
}

pf_module *pf_module_retain(pf_module *module) {
    if (module) atomic_fetch_add_explicit(&module->refs, 1, memory_order_relaxed);
    return module;
}

bool pf_module_shared(const pf_module *module) {
    return module && atomic_load_explicit(&module->refs, memory_order_acquire) > 1;
}

void pf_module_release(pf_module **module) {
    if (!module || !*module) return;
    pf_module *m = *module;
    *module = NULL;
    if (atomic_fetch_sub_explicit(&m->refs, 1, memory_order_acq_rel) == 1) destroy(m);
}

const char *pf_module_type(const pf_module *module) { return module ? module->type->name : NULL; }
const pf_config *pf_module_options(const pf_module *module) {
    return module ? module->options : NULL;
}
int pf_module_child_count(const pf_module *module) { return module ? module->n_child : 0; }

pf_module *pf_module_child(const pf_module *module, int index) {
    return module && index >= 0 && index < module->n_child ? module->child[index].module : NULL;
}

/* ---- the walk ---- */

/* Slots of the whole tree, shared ones as often as they are met. */
static int64_t count_slots(const pf_module *m) {
    int64_t n = m->n_slot;
    for (int i = 0; i < m->n_child; i++) n += count_slots(m->child[i].module);
    return n;
}

char *pf_heap_joined(pf_heap *heap, const char *prefix, const char *name) {
    size_t a = strlen(prefix), b = strlen(name), dot = a > 0;
    char *text = pf_heap_alloc(heap, a + dot + b + 1);
    if (!text) return NULL;
    memcpy(text, prefix, a);
    if (dot) text[a] = '.';
    memcpy(text + a + dot, name, b);
    text[a + dot + b] = 0;
    return text;
}

/* One way down the tree: the path of the module at hand, which grows and shrinks in place, and the
 * tensors that were met. */
typedef struct {
    pf_module *root;
    char *path;
    int64_t room;
    pf_index met;
} walker;

/* ".name" behind the first `at` bytes of the path, or name alone at its beginning; the new end. */
static int64_t extend(walker *w, int64_t at, const char *name) {
    int64_t bytes = (int64_t)strlen(name), dot = at > 0;
    int status = pf_heap_grow(w->root->heap, (void **)&w->path, &w->room, at + dot + bytes + 1, 1);
    if (status < 0) return status;
    if (dot) w->path[at] = '.';
    memcpy(w->path + at + dot, name, (size_t)bytes + 1);
    return at + dot + bytes;
}

static bool was_met(const walker *w, const pf_tensor *tensor) {
    uint32_t probe = 0;
    uint64_t hash = pf_hash_pointer(tensor);
    for (int i; (i = pf_index_next(&w->met, hash, &probe)) >= 0;) {
        if (w->root->walk[i].tensor == tensor) return true;
    }
    return false;
}

/* A tensor that is met again (tied weights) keeps its first name and stands once. */
static int gather_slot(walker *w, const pf_slot *slot, int64_t at) {
    pf_module *root = w->root;
    if (slot->derived || was_met(w, slot->tensor)) return PF_OK;
    int64_t end = extend(w, at, slot->name);
    if (end < 0) return (int)end;
    if (end > PF_NAME_BYTES) {
        return pf_fail(PF_EINVAL,
                       "module: the name of a tensor has %lld bytes, at most %d: %.64s...",
                       (long long)end, PF_NAME_BYTES, w->path);
    }
    char *path = pf_heap_text(root->heap, w->path);
    if (!path) return PF_ENOMEM;
    int status = pf_heap_grow(root->heap, (void **)&root->walk, &root->cap_walk, root->n_walk + 1,
                              sizeof *root->walk);
    if (status >= 0) status = pf_index_put(&w->met, pf_hash_pointer(slot->tensor), root->n_walk);
    if (status < 0) {
        pf_heap_text_free(root->heap, path);
        return status;
    }
    root->walk[root->n_walk++] = (pf_slot){path, slot->tensor, slot->trained, false};
    return PF_OK;
}

/* Own tensors before children's: the order that pf_module_tensor_at promises. */
static int gather(walker *w, const pf_module *m, int64_t at) {
    for (int i = 0; i < m->n_slot; i++) PF_TRY(gather_slot(w, &m->slot[i], at));
    for (int i = 0; i < m->n_child; i++) {
        int64_t end = extend(w, at, m->child[i].name);
        if (end < 0) return (int)end;
        PF_TRY(gather(w, m->child[i].module, end));
    }
    return PF_OK;
}

static int walk(pf_module *m, int64_t slots) {
    walker w = {.root = m, .met.heap = m->heap};
    drop_walk(m);
    int status = gather(&w, m, 0);
    pf_heap_free(m->heap, w.path, (size_t)w.room);
    pf_index_close(&w.met);
    if (status >= 0) m->walk_slots = slots;
    m->walk_drops = atomic_load(&drops);
    return status;
}

/* Is there a walk of tensors that all are there? */
static bool walked(const pf_module *m) {
    return m->walk_slots >= 0 && m->walk_drops == atomic_load(&drops);
}

static void lock(pf_module *m) {
    while (atomic_flag_test_and_set_explicit(&m->walking, memory_order_acquire)) sched_yield();
}

static void unlock(pf_module *m) { atomic_flag_clear_explicit(&m->walking, memory_order_release); }

int pf_module_tensor_count(const pf_module *module) {
    pf_module *m = (pf_module *)module; /* what is remembered changes nothing that a caller sees */
    if (!m) return 0;
    lock(m);
    /* A layer of the host deeper down may have got tensors since: then look again. */
    int64_t slots = count_slots(m);
    int status = walked(m) && m->walk_slots == slots ? PF_OK : walk(m, slots);
    int n = m->n_walk;
    unlock(m);
    return status < 0 ? status : n;
}

/* The list is as the last count left it: to count at every call would take the square of it. */
static int slot_at(const pf_module *module, int index, pf_slot *slot) {
    pf_module *m = (pf_module *)module;
    lock(m);
    int status = walked(m) ? PF_OK : walk(m, count_slots(m));
    int n = m->n_walk;
    if (status >= 0 && index >= 0 && index < n) *slot = m->walk[index];
    unlock(m);
    PF_TRY(status);
    if (slot->tensor) return PF_OK;
    return pf_fail(PF_ENOTFOUND, "module: there is no tensor %s; there are %d", pf_place(index), n);
}

int pf_module_tensor_at(const pf_module *module, int index, const char **name, pf_tensor **tensor,
                        bool *trained) {
    PF_NEED(module);
    pf_slot slot = {0};
    PF_TRY(slot_at(module, index, &slot));
    if (name) *name = slot.name;
    if (tensor) *tensor = slot.tensor;
    if (trained) *trained = slot.trained && slot.tensor->requires_grad;
    return PF_OK;
}

int pf_module_tensor_learned(const pf_module *m, int index, const char **name, pf_tensor **tensor,
                             bool *learned) {
    pf_slot slot = {0};
    PF_TRY(slot_at(m, index, &slot));
    *name = slot.name, *tensor = slot.tensor, *learned = slot.trained;
    return PF_OK;
}

int pf_module_derive(pf_module *m) {
    if (m->type->derive) PF_TRY(m->type->derive(m));
    for (int i = 0; i < m->n_child; i++) PF_TRY(pf_module_derive(m->child[i].module));
    return PF_OK;
}
