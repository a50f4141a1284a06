/*
 * build.c - the layer table, and modules from and to plain data. A tree is
 * {type, options, children}; a layer that exists only in the host is {type: "lua", name,
 * children}; a module that stands in a tree twice is written once and then named by the
 * order in which modules were completed: {type: "shared", node: 3}.
 */
#include <stdio.h>
#include <string.h>

#include "module.h"

enum { MAX_DEPTH = 64 };

static const pf_layer *const layers[] = {
#define PF_LAYER(name) &pf_layer_##name,
#include "layers.def"
#undef PF_LAYER
};

const pf_layer *pf_layer_find(const char *name) {
    for (int i = 0; i < PF_COUNT(layers); i++) {
        if (strcmp(layers[i]->name, name) == 0) return layers[i];
    }
    return NULL;
}

static int unknown_layer(const char *type) {
    const char *names[PF_COUNT(layers)];
    for (int i = 0; i < PF_COUNT(layers); i++) names[i] = layers[i]->name;
    char told[PF_NAMES_TOLD];
    return pf_fail(PF_ENOTFOUND, "there is no layer '%s'%s", type,
                   pf_names_told(told, sizeof told, type, names, PF_COUNT(layers)));
}

/* ---- a new module ---- */

static bool is_default(const pf_config *value, const pf_option_info *o) {
    if (o->kind == PF_OPT_TREE) return false;
    if (o->kind != PF_OPT_STRING) return pf_config_number(value) == o->number;
    return o->string && strcmp(pf_config_string(value), o->string) == 0;
}

/* Writes the defaults of what is not given into `options`, null standing for that: a file must not
 * change its meaning when a default changes later. Options that came later stand there only where
 * they are not the default. */
static int fill_defaults(pf_config *options, const pf_layer *type) {
    for (int i = 0; i < type->n_options; i++) {
        const pf_option_info *o = &type->options[i];
        const pf_config *given = pf_config_get(options, o->name);
        bool null = given && pf_config_kind_of(given) == PF_NULL;
        bool told = given && !null;
        if (null || (told && o->later && is_default(given, o))) pf_config_remove(options, o->name);
        if (told || o->later) continue;
        int status = PF_OK;
        if (o->kind == PF_OPT_BOOL) {
            status = pf_config_set_bool(options, o->name, o->number != 0);
        } else if (o->kind == PF_OPT_STRING) {
            if (o->string) status = pf_config_set_string(options, o->name, o->string);
        } else if (o->kind != PF_OPT_TREE) {
            status = pf_config_set_number(options, o->name, o->number);
        }
        PF_TRY(status);
    }
    return PF_OK;
}

static int check_children(const pf_layer *type, pf_module *const *children, int n) {
    if (n < type->min_children || (type->max_children >= 0 && n > type->max_children)) {
        if (type->max_children == 0) {
            return pf_fail(PF_EINVAL, "%s: takes no children, %d given", type->name, n);
        }
        return pf_fail(PF_EINVAL, "%s: takes %s%d children, %d given", type->name,
                       type->min_children == type->max_children ? "" : "at least ",
                       type->min_children, n);
    }
    for (int i = 0; i < n; i++) {
        if (!children[i])
            return pf_fail(PF_EINVAL, "%s: child %s is NULL", type->name, pf_place(i));
    }
    return PF_OK;
}

int pf_module_new(pf_module **module, pf_engine *engine, const char *type, const pf_config *options,
                  pf_module *const *children, int n_children) {
    PF_OUT(module);
    PF_OPEN(engine);
    PF_NEED(type);
    PF_NEED_ARRAY(children, n_children);
    const pf_layer *row = pf_layer_find(type);
    if (!row) return unknown_layer(type);
    PF_TRY(check_children(row, children, n_children));
    PF_TRY(pf_config_check(options, row->options, row->n_options, row->name));
    pf_heap *heap = engine->heap;
    pf_config *own = options ? pf_config_copy_in(heap, options) : pf_config_new_in(heap, PF_MAP);
    if (!own) return pf_fail(PF_ENOMEM, "%s: no memory for the options", type);
    int status = fill_defaults(own, row);
    if (status < 0) {
        pf_config_free(own);
        return status;
    }
    /* What failed has drawn nothing: a second try draws what the first would have. */
    uint64_t draws = engine->draws;
    status = pf_module_make(module, engine, row, own, children, n_children);
    if (status < 0) engine->draws = draws;
    return status;
}

/* ---- inner children, which `build` of a layer makes ---- */

pf_config *pf_module_pass_on(const pf_module *m, const char *type) {
    const pf_layer *inner = pf_layer_find(type);
    pf_config *options = pf_config_new_in(m->heap, PF_MAP);
    for (int i = 0; options && inner && i < inner->n_options; i++) {
        const pf_config *value = pf_config_get(m->options, inner->options[i].name);
        if (!value) continue;
        pf_config *copy = pf_config_copy_beside(options, value);
        if (!copy || pf_config_set(options, inner->options[i].name, copy) < 0) {
            pf_config_free(options);
            return NULL;
        }
    }
    return options;
}

/* o, unless setting an option of it failed. */
static pf_config *kept(pf_config *o, int status) {
    if (status >= 0) return o;
    pf_config_free(o);
    return NULL;
}

pf_config *pf_options_number(pf_config *o, const char *key, double value) {
    return o ? kept(o, pf_config_set_number(o, key, value)) : NULL;
}

pf_config *pf_options_bool(pf_config *o, const char *key, bool value) {
    return o ? kept(o, pf_config_set_bool(o, key, value)) : NULL;
}

pf_config *pf_options_string(pf_config *o, const char *key, const char *value) {
    return o ? kept(o, pf_config_set_string(o, key, value)) : NULL;
}

int pf_module_inner(pf_module *m, pf_engine *e, const char *name, const char *type,
                    pf_config *options) {
    if (!options) return pf_fail(PF_ENOMEM, "%s: no memory for the options", name);
    pf_module *child = NULL;
    int status = pf_module_new(&child, e, type, options, NULL, 0);
    pf_config_free(options);
    if (status < 0) return pf_fail_in(status, "%s", m->type->name);
    status = pf_module_adopt(m, name, child);
    pf_module_release(&child);
    return status;
}

/* ---- from a tree ---- */

/* Children are completed before their parent, so a node may only share what stands before it. */
typedef struct builder {
    pf_engine *e;
    pf_module **done; /* in the order of completion; borrowed */
    int64_t n_done, cap_done;
} builder;

static int build_node(builder *b, const pf_config *node, int depth, pf_module **module);

static int build_shared(builder *b, const pf_config *node, pf_module **module) {
    const pf_config *number = pf_config_get(node, "node");
    double at = number ? pf_config_number(number) : 0;
    if (!(at >= 1 && at <= (double)b->n_done)) {
        return pf_fail(PF_EFORMAT, "model: a shared layer names node %g of %lld", at,
                       (long long)b->n_done);
    }
    *module = pf_module_retain(b->done[(int64_t)at - 1]);
    return PF_OK;
}

/* How a model's tree finds layers that live in the host. */
typedef struct {
    pf_layer_resolver resolve;
    void *context;
} layer_resolver;

static int build_host(builder *b, const pf_config *node, pf_module *const *children, int n,
                      pf_module **module) {
    const pf_config *text = pf_config_get(node, "name");
    const char *name = text ? pf_config_string(text) : NULL;
    if (!name) return pf_fail(PF_EFORMAT, "model: a layer of type 'lua' has no name");
    if (pf_config_size(pf_config_get(node, "options")) > 0) {
        return pf_fail(PF_EFORMAT,
                       "model: layer '%s' lives in a script or a host and can't be given "
                       "`options`; what it needs its name has to tell",
                       name);
    }
    const layer_resolver *host = b->e->own[PF_OWN_LAYERS].thing;
    uint64_t before = pf_failures();
    int status = PF_ENOTFOUND;
    /* A script's own layer may look at the numbers that it makes: they are drawn. */
    pf_loading *loading = b->e->loading;
    b->e->loading = NULL;
    if (host) status = host->resolve(host->context, b->e, name, children, n, module);
    b->e->loading = loading;
    if (status >= 0 && !*module) {
        return pf_fail(PF_EHOST, "model: the host's resolver found layer '%s' and gave none", name);
    }
    if (status >= 0) return status;
    if (status != PF_ENOTFOUND || pf_failures() != before) {
        return pf_callback_failed(status, before, "model: the host's resolver of layer '%s'", name);
    }
    return pf_fail(PF_ENOTFOUND,
                   "model: layer '%s' lives in a script; load this model from "
                   "the script that defines it, in a host with a resolver of its layers",
                   name);
}

/* A node whose children stand. */
static int build_with(builder *b, const pf_config *node, const char *type,
                      pf_module *const *children, int n, pf_module **module) {
    if (strcmp(type, pf_layer_host.name) == 0) return build_host(b, node, children, n, module);
    return pf_module_new(module, b->e, type, pf_config_get(node, "options"), children, n);
}

static int build_children(builder *b, const pf_config *list, int depth, pf_module **children) {
    for (int i = 0; i < pf_config_size(list); i++) {
        PF_TRY(build_node(b, pf_config_at(list, i), depth + 1, &children[i]));
    }
    return PF_OK;
}

static int build_full(builder *b, const pf_config *node, const char *type, int depth,
                      pf_module **module) {
    const pf_config *list = pf_config_get(node, "children");
    if (list && pf_config_kind_of(list) != PF_LIST) {
        if (pf_config_size(list) > 0) {
            return pf_fail(PF_EFORMAT, "%s: 'children' must be a list", type);
        }
        list = NULL; /* an empty map: what some writers make of an empty list */
    }
    int n = list ? pf_config_size(list) : 0;
    size_t bytes = (size_t)n * sizeof(pf_module *);
    pf_module **children = pf_heap_zalloc(b->e->heap, bytes);
    if (!children) return PF_ENOMEM;
    int status = list ? build_children(b, list, depth, children) : PF_OK;
    if (status >= 0) status = build_with(b, node, type, children, n, module);
    if (status >= 0) status = pf_module_take_trainable(*module, b->e, node);
    if (status >= 0) {
        status = pf_heap_grow(b->e->heap, (void **)&b->done, &b->cap_done, b->n_done + 1,
                              sizeof *b->done);
    }
    if (status >= 0) b->done[b->n_done++] = *module;
    for (int i = 0; i < n; i++) pf_module_release(&children[i]);
    pf_heap_free(b->e->heap, children, bytes);
    if (status < 0) pf_module_release(module);
    return status;
}

static int build_node(builder *b, const pf_config *node, int depth, pf_module **module) {
    *module = NULL;
    if (depth > MAX_DEPTH) {
        return pf_fail(PF_EFORMAT, "model: layers nest deeper than %d", MAX_DEPTH);
    }
    const pf_config *text = pf_config_kind_of(node) == PF_MAP ? pf_config_get(node, "type") : NULL;
    const char *type = text ? pf_config_string(text) : NULL;
    if (!type) return pf_fail(PF_EFORMAT, "model: a node of the tree has no 'type'");
    if (strcmp(type, "shared") == 0) return build_shared(b, node, module);
    PF_TRY(pf_nest(b->e, 1)); /* the host's limit of depth */
    int status = build_full(b, node, type, depth, module);
    pf_nest(b->e, -1);
    return status;
}

int pf_module_build(pf_module **module, pf_engine *engine, const pf_config *tree) {
    PF_OUT(module);
    PF_OPEN(engine);
    PF_NEED(tree);
    builder b = {.e = engine};
    uint64_t draws = engine->draws;
    int status = build_node(&b, tree, 0, module);
    if (status < 0) engine->draws = draws;
    pf_heap_free(engine->heap, b.done, (size_t)b.cap_done * sizeof *b.done);
    return status;
}

static void close_resolver(pf_engine *engine, void *resolver) {
    pf_heap_free(engine->heap, resolver, sizeof(layer_resolver));
}

int pf_engine_resolve_layers(pf_engine *engine, pf_layer_resolver resolve, void *context) {
    PF_OPEN(engine);
    layer_resolver *kept = resolve ? pf_heap_alloc(engine->heap, sizeof *kept) : NULL;
    if (resolve && !kept) return PF_ENOMEM;
    if (kept) *kept = (layer_resolver){resolve, context};
    pf_engine_own(engine, PF_OWN_LAYERS, kept, close_resolver);
    return PF_OK;
}

pf_layer_resolver pf_engine_layer_resolver(const pf_engine *engine, void **context) {
    const layer_resolver *kept = engine ? engine->own[PF_OWN_LAYERS].thing : NULL;
    if (context) *context = kept ? kept->context : NULL;
    return kept ? kept->resolve : NULL;
}

/* ---- to a tree ---- */

/* Numbers nodes as the builder will: in the order in which they are complete. */
typedef struct writer {
    pf_heap *heap;
    const pf_module **done;
    int64_t n_done, cap_done;
    pf_index places;
    pf_config *first; /* the tree lies beside its root */
} writer;

/* Its place in the order of completion, or -1. */
static int place_of(const writer *w, const pf_module *m) {
    uint32_t probe = 0;
    uint64_t hash = pf_hash_pointer(m);
    int i;
    while ((i = pf_index_next(&w->places, hash, &probe)) >= 0) {
        PF_HOLDS(w->done);
        if (w->done[i] == m) break;
    }
    return i;
}

static int write_node(writer *w, const pf_module *m, pf_config **node);

static int write_children(writer *w, const pf_module *m, pf_config *node) {
    if (m->n_given == 0) return PF_OK;
    pf_config *list = pf_config_new_beside(node, PF_LIST);
    if (!list) return PF_ENOMEM;
    int status = PF_OK;
    for (int i = 0; i < m->n_given && status >= 0; i++) {
        pf_config *child = NULL;
        status = write_node(w, m->child[i].module, &child);
        if (status >= 0) status = pf_config_push(list, child);
    }
    if (status >= 0) return pf_config_set(node, "children", list);
    pf_config_free(list);
    return status;
}

/* A host's layer has its name in the place of options: whoever builds it knows the rest. */
static int write_full(writer *w, const pf_module *m, pf_config *node) {
    PF_TRY(pf_config_set_string(node, "type", m->type->name));
    if (m->type == &pf_layer_host) {
        PF_TRY(pf_config_set_string(node, "name", pf_option_text(m, "name")));
    } else {
        PF_TRY(pf_config_set(node, "options", pf_config_copy_beside(node, m->options)));
    }
    PF_TRY(write_children(w, m, node));
    PF_TRY(pf_heap_grow(w->heap, (void **)&w->done, &w->cap_done, w->n_done + 1, sizeof *w->done));
    PF_TRY(pf_index_put(&w->places, pf_hash_pointer(m), (int)w->n_done));
    w->done[w->n_done++] = m;
    return PF_OK;
}

static int write_shared(pf_config *node, int64_t at) {
    PF_TRY(pf_config_set_string(node, "type", "shared"));
    return pf_config_set_number(node, "node", (double)at);
}

static int write_node(writer *w, const pf_module *m, pf_config **out) {
    pf_config *node =
        w->first ? pf_config_new_beside(w->first, PF_MAP) : pf_config_new_in(w->heap, PF_MAP);
    if (!node) return PF_ENOMEM;
    if (!w->first) w->first = node;
    int at = place_of(w, m);
    int status = at >= 0 ? write_shared(node, at + 1) : write_full(w, m, node);
    if (status < 0) {
        pf_config_free(node);
        return status;
    }
    *out = node;
    return PF_OK;
}

/* frozen: with what is frozen; the root says it of the whole tree. */
static int write_tree(pf_config **tree, const pf_module *module, bool frozen) {
    writer w = {.heap = module->heap, .places.heap = module->heap};
    int status = write_node(&w, module, tree);
    if (status >= 0) status = pf_module_write_trainable(module, *tree, frozen);
    pf_index_close(&w.places);
    pf_heap_free(w.heap, w.done, (size_t)w.cap_done * sizeof *w.done);
    if (status >= 0) return status;
    pf_config_free(*tree);
    *tree = NULL;
    if (status == PF_ENOMEM) return pf_fail(status, "model: no memory for its description");
    return status;
}

int pf_module_tree(pf_config **tree, const pf_module *module) {
    PF_OUT(tree);
    PF_NEED(module);
    return write_tree(tree, module, true);
}

int pf_module_bare_tree(pf_config **tree, const pf_module *module) {
    *tree = NULL;
    return write_tree(tree, module, false);
}

/* ---- the table, for help and docs ---- */

/* `inputs`: {name, required, doc}. */
static int describe_inputs(pf_config *to, const pf_layer *layer) {
    pf_config *list, *row;
    PF_TRY(pf_describe_list(&list, to, "inputs"));
    for (int i = 0; i < layer->n_inputs; i++) {
        const pf_input_info *input = &layer->inputs[i];
        PF_TRY(pf_describe_map(&row, list, NULL));
        PF_TRY(pf_config_set_string(row, "name", input->name));
        PF_TRY(pf_config_set_bool(row, "required", input->required));
        PF_TRY(pf_config_set_string(row, "doc", input->doc));
    }
    return PF_OK;
}

int pf_layers_describe(pf_config *to) {
    pf_config *list, *row;
    PF_TRY(pf_describe_list(&list, to, "layers"));
    for (int i = 0; i < PF_COUNT(layers); i++) {
        PF_TRY(pf_describe_map(&row, list, NULL));
        PF_TRY(pf_config_set_string(row, "type", layers[i]->name));
        PF_TRY(pf_config_set_string(row, "doc", layers[i]->doc));
        PF_TRY(pf_describe_options(row, layers[i]->options, layers[i]->n_options));
        if (layers[i]->n_inputs > 0) PF_TRY(describe_inputs(row, layers[i]));
    }
    return PF_OK;
}
