/*
 * trainable.c - what of a model is trained: parameters that are frozen, and adapters of low rank
 * beside linear layers (Hu et al. 2021, arXiv 2106.09685). A parameter is frozen whose tensor wants
 * no gradient; an adapter is two tensors more in its layer (layer_linear.c). The root of a tree
 * names both, since inner layers have no node of their own there.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "module.h"

enum { NAMES_BYTES = 200, RANK_MOST = 1 << 20 };

/* Some of the names that there are, for a message about a pattern that fits none. */
typedef struct {
    char text[NAMES_BYTES];
    size_t end;
} names;

static void note(names *some, const char *name) {
    size_t room = sizeof some->text - some->end, bytes = strlen(name);
    if (bytes + 8 > room) return;
    snprintf(some->text + some->end, room, "%s%s", some->end ? ", " : "", name);
    some->end += bytes + (some->end ? 2 : 0);
}

/* ---- layers with adapters by name ---- */

static int64_t rank_of(const pf_module *m, double *scale) {
    return m->type->adapting ? m->type->adapting->rank(m, scale) : 0;
}

/* A walk over the layers that can have adapters and whose names fit, and what each is to be. */
typedef struct visit {
    int (*each)(struct visit *v, pf_module *m);
    const char *pattern; /* NULL: all */
    pf_engine *e;
    int64_t rank, most; /* the highest rank that a weight met can have */
    double scale;
    pf_config *list; /* of a tree, to be written */
    int n;           /* that `each` counted */
    names others;    /* that did not fit */
    char path[PF_NAME_BYTES + 1];
} visit;

static int visit_layer(visit *v, pf_module *m) {
    if (!m->type->adapting) return PF_OK;
    if (!v->pattern || pf_name_matches(v->pattern, v->path)) return v->each(v, m);
    note(&v->others, v->path);
    return PF_OK;
}

static int visit_all(visit *v, pf_module *m, size_t end) {
    size_t room = sizeof v->path - end;
    PF_TRY(visit_layer(v, m));
    for (int i = 0; i < m->n_child; i++) {
        int n = snprintf(v->path + end, room, "%s%s", end ? "." : "", m->child[i].name);
        if (n < 0 || (size_t)n >= room) {
            return pf_fail(PF_EINVAL, "model: a layer's name has more than %d bytes",
                           PF_NAME_BYTES);
        }
        PF_TRY(visit_all(v, m->child[i].module, end + (size_t)n));
    }
    v->path[end] = '\0';
    return PF_OK;
}

static int refuse_adapted(visit *v, pf_module *m) {
    if (rank_of(m, NULL) > 0) {
        return pf_fail(PF_EINVAL, "adapt: '%s' has an adapter already; merge it first", v->path);
    }
    const int64_t *shape = m->slot[0].tensor->shape;
    v->most = pf_max(v->most, pf_min(shape[0], shape[1]));
    v->n++;
    return PF_OK;
}

/* A shared layer is met more than once and has one adapter. */
static int make_adapter(visit *v, pf_module *m) {
    if (rank_of(m, NULL) > 0) return PF_OK;
    v->n++;
    return m->type->adapting->make(m, v->e, v->rank, v->scale);
}

static int drop_adapter(visit *v, pf_module *m) {
    (void)v;
    m->type->adapting->end(m, false);
    return PF_OK;
}

static int check_folds(visit *v, pf_module *m) {
    if (rank_of(m, NULL) == 0) return PF_OK;
    int status = pf_tensor_check_writable(m->slot[0].tensor, "merge");
    return status < 0 ? pf_fail_in(status, "%s", v->path) : PF_OK;
}

static int fold_adapter(visit *v, pf_module *m) {
    if (rank_of(m, NULL) > 0) v->n++;
    m->type->adapting->end(m, true);
    return PF_OK;
}

/* {layer, rank, scale} at the end of the list. */
static int write_adapter(visit *v, pf_module *m) {
    double scale;
    int64_t rank = rank_of(m, &scale);
    pf_config *row;
    if (rank == 0) return PF_OK;
    PF_TRY(pf_describe_map(&row, v->list, NULL));
    PF_TRY(pf_config_set_string(row, "layer", v->path));
    PF_TRY(pf_config_set_number(row, "rank", (double)rank));
    return pf_config_set_number(row, "scale", scale);
}

static int begin_visit(visit **v, pf_module *m, const char *pattern) {
    *v = pf_heap_zalloc(m->heap, sizeof **v);
    if (!*v) return PF_ENOMEM;
    (*v)->pattern = pattern;
    return PF_OK;
}

static int run_visit(visit *v, pf_module *m, int (*each)(visit *, pf_module *)) {
    v->each = each;
    v->n = 0;
    return visit_all(v, m, 0);
}

static void end_visit(visit *v, pf_module *m) { pf_heap_free(m->heap, v, sizeof *v); }

/* ---- freezing ---- */

static bool of_adapter(const char *name) { return pf_name_matches("adapter", name); }

static bool fits(const char *pattern, const char *name) {
    return pattern ? pf_name_matches(pattern, name) : !of_adapter(name);
}

/* Parameters, frozen or not: buffers have no gradient to want. pattern NULL: all but adapters. */
static int set_frozen(pf_module *m, const char *pattern, bool frozen, names *others) {
    int n = pf_module_tensor_count(m), count = 0;
    for (int i = 0; i < n; i++) {
        const char *name;
        pf_tensor *tensor;
        bool learned;
        PF_TRY(pf_module_tensor_learned(m, i, &name, &tensor, &learned));
        if (!learned) continue;
        if (!fits(pattern, name)) {
            note(others, name);
            continue;
        }
        PF_TRY(pf_tensor_require_grad(tensor, !frozen));
        count++;
    }
    return n < 0 ? n : count;
}

int pf_module_freeze(pf_module *module, const char *pattern, bool frozen) {
    PF_NEED(module, pattern);
    names others = {.end = 0};
    int n = set_frozen(module, pattern, frozen, &others);
    if (n != 0) return n;
    return pf_fail(PF_EINVAL, "%s: '%s' fits no parameter; there are %s ...",
                   frozen ? "freeze" : "unfreeze", pattern, others.text);
}

/* ---- adapters ---- */

/* Every layer is looked at before the first gets its adapter. */
static int adapt(visit *v, pf_module *m) {
    PF_TRY(run_visit(v, m, refuse_adapted));
    if (v->n == 0) {
        return pf_fail(PF_EINVAL, "adapt: '%s' fits no linear layer; there are %s ...", v->pattern,
                       v->others.text);
    }
    if (v->rank > v->most) { /* more numbers than the weights, for nothing */
        return pf_fail(PF_EINVAL, "adapt: rank is %lld, and no weight there has more than %lld",
                       (long long)v->rank, (long long)v->most);
    }
    int status = run_visit(v, m, make_adapter), made = v->n;
    if (status >= 0) {
        names others = {.end = 0};
        status = set_frozen(m, NULL, true, &others);
    }
    if (status >= 0) return made;
    run_visit(v, m, drop_adapter);
    return status;
}

int pf_module_adapt(pf_engine *engine, pf_module *module, const char *pattern, int64_t rank,
                    double scale) {
    PF_OPEN(engine);
    PF_NEED(module, pattern);
    if (rank < 1 || rank > RANK_MOST) {
        return pf_fail(PF_EINVAL, "adapt: rank is %lld, must be 1 to %d", (long long)rank,
                       RANK_MOST);
    }
    if (!isfinite(scale)) return pf_fail(PF_EINVAL, "adapt: scale is %g, must be finite", scale);
    visit *v;
    PF_TRY(begin_visit(&v, module, pattern));
    v->e = engine, v->rank = rank, v->scale = scale;
    uint64_t draws = engine->draws;
    int status = adapt(v, module);
    if (status < 0) engine->draws = draws;
    end_visit(v, module);
    return status;
}

int pf_module_merge(pf_module *module) {
    PF_NEED(module);
    visit *v;
    PF_TRY(begin_visit(&v, module, NULL));
    int status = run_visit(v, module, check_folds); /* all of them before the first is changed */
    if (status >= 0) status = run_visit(v, module, fold_adapter);
    if (status >= 0) status = v->n;
    end_visit(v, module);
    return status;
}

/* ---- in a tree ---- */

static int write_adapters(const pf_module *m, pf_config *node) {
    pf_module *module = (pf_module *)m; /* looked at alone */
    visit *v;
    PF_TRY(begin_visit(&v, module, NULL));
    int status = pf_describe_list(&v->list, node, "adapters");
    if (status >= 0) status = run_visit(v, module, write_adapter);
    if (status >= 0 && pf_config_size(v->list) == 0) pf_config_remove(node, "adapters");
    end_visit(v, module);
    return status;
}

static int write_frozen(const pf_module *m, pf_config *node) {
    pf_config *list = NULL;
    int n = pf_module_tensor_count(m);
    for (int i = 0; i < n; i++) {
        const char *name;
        pf_tensor *tensor;
        bool learned;
        PF_TRY(pf_module_tensor_learned(m, i, &name, &tensor, &learned));
        if (!learned || tensor->requires_grad) continue;
        if (!list) PF_TRY(pf_describe_list(&list, node, "frozen"));
        pf_config *text = pf_config_new_beside(node, PF_NULL);
        if (!text) return PF_ENOMEM;
        PF_TRY(pf_config_become_string(text, name));
        PF_TRY(pf_config_push(list, text));
    }
    return n < 0 ? n : PF_OK;
}

int pf_module_write_trainable(const pf_module *m, pf_config *node, bool frozen) {
    PF_TRY(write_adapters(m, node));
    return frozen ? write_frozen(m, node) : PF_OK;
}

/* The layer at a path of children's names, or NULL. */
static pf_module *layer_at(pf_module *m, const char *path) {
    while (m && *path) {
        size_t n = strcspn(path, ".");
        pf_module *next = NULL;
        for (int i = 0; i < m->n_child && !next; i++) {
            const char *name = m->child[i].name;
            if (strncmp(name, path, n) == 0 && !name[n]) next = m->child[i].module;
        }
        m = next;
        path += n + (path[n] == '.');
    }
    return m;
}

/* A model from a file gets no more tensors than that has (module.c). */
static int count_loaded(pf_engine *e) {
    if (!e->loading || (e->loading->tensors -= 2) >= 0) return PF_OK;
    return pf_fail(PF_EFORMAT, "model: more adapters than the tensors of the file are for");
}

static int take_adapter(pf_module *m, pf_engine *e, const pf_config *row) {
    const char *path = pf_config_string(pf_config_get(row, "layer"));
    double rank = pf_config_number(pf_config_get(row, "rank"));
    double scale = pf_config_number(pf_config_get(row, "scale"));
    pf_module *layer = path ? layer_at(m, path) : NULL;
    if (!layer || !layer->type->adapting) {
        return pf_fail(PF_EFORMAT,
                       "model: an adapter is for '%.200s', and there is no such linear "
                       "layer",
                       path ? path : "?");
    }
    if (!(rank >= 1 && rank <= RANK_MOST && rank == floor(rank)) || !isfinite(scale)) {
        return pf_fail(PF_EFORMAT, "model: the adapter of '%.200s' has rank %g and scale %g", path,
                       rank, scale);
    }
    if (rank_of(layer, NULL) > 0) return PF_OK; /* shared, and met before */
    PF_TRY(count_loaded(e));
    return layer->type->adapting->make(layer, e, (int64_t)rank, scale);
}

/* The names of a list by their hash. */
typedef struct {
    const pf_config *list;
    pf_index places;
} named;

static bool is_named(const named *all, const char *name) {
    uint32_t probe = 0;
    uint64_t hash = pf_hash_text(name);
    for (int i; (i = pf_index_next(&all->places, hash, &probe)) >= 0;) {
        if (strcmp(pf_config_string(pf_config_at(all->list, i)), name) == 0) return true;
    }
    return false;
}

/* Freezes what is named; how many. */
static int freeze_named(pf_module *m, named *all) {
    int n = pf_module_tensor_count(m), count = 0;
    for (int i = 0; i < pf_config_size(all->list); i++) {
        const char *name = pf_config_string(pf_config_at(all->list, i));
        if (!name) return pf_fail(PF_EFORMAT, "model: 'frozen' must be a list of names");
        PF_TRY(pf_index_put(&all->places, pf_hash_text(name), i));
    }
    for (int i = 0; i < n; i++) {
        const char *name;
        pf_tensor *tensor;
        bool learned;
        PF_TRY(pf_module_tensor_learned(m, i, &name, &tensor, &learned));
        if (!learned || !is_named(all, name)) continue;
        PF_TRY(pf_tensor_require_grad(tensor, false));
        count++;
    }
    return n < 0 ? n : count;
}

static int take_frozen(pf_module *m, const pf_config *list) {
    named all = {.list = list, .places.heap = m->heap};
    int count = freeze_named(m, &all);
    pf_index_close(&all.places);
    if (count < 0 || count == pf_config_size(list)) return count < 0 ? count : PF_OK;
    return pf_fail(PF_EFORMAT, "model: 'frozen' names %d parameters, and %d of them are there",
                   pf_config_size(list), count);
}

int pf_module_take_trainable(pf_module *m, pf_engine *e, const pf_config *node) {
    const pf_config *adapters = pf_config_get(node, "adapters");
    const pf_config *frozen = pf_config_get(node, "frozen");
    for (int i = 0; i < pf_config_size(adapters); i++)
        PF_TRY(take_adapter(m, e, pf_config_at(adapters, i)));
    return frozen ? take_frozen(m, frozen) : PF_OK;
}
