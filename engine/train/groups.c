/*
 * groups.c - parameters with options of their own: `groups`, a list of maps, each with a `match`
 * (pf_name_matches), a factor of the learning rate and whatever of the rule's options is another
 * there. The first group that a parameter's name fits is the parameter's. What kind of parameter
 * it is, weight of a linear layer or table, say the layers.
 */
#include <stdio.h>
#include <string.h>

#include "optimizer.h"
#include "row_set.h"

enum { NAMED = 4 }; /* names in a message about a group that fits none */

static const pf_option_info own_options[] = {
    {.name = "match",
     .kind = PF_OPT_STRING,
     .required = true,
     .doc = "pattern of the parameters' names, \"embedding\" or \"blocks.*.bias|head\""},
    {.name = "lr_scale",
     .kind = PF_OPT_NUMBER,
     .number = 1,
     .low = 0,
     .high = 1e6,
     .doc = "factor of the learning rate"},
    {.name = "rows",
     .kind = PF_OPT_STRING,
     .choices = "touched|all",
     .doc = "what a step moves: all rows, or those alone that have a gradient, without memory of a "
            "mean gradient (beta1 or momentum 0) unless the group gives one; touched by default "
            "in the table of ngrams"},
};

/* Belongs to the optimizer as a whole. */
static bool is_common(const char *name) {
    return strcmp(name, "lr") == 0 || strcmp(name, "type") == 0 || pf_rule_shares(name);
}

/* A group's rows: its own, and the rule's. */
static int check_group(const pf_optimizer_rule *rule, const pf_config *group, const char *where) {
    pf_option_info rows[PF_COUNT(own_options) + PF_RULE_OPTIONS];
    int n = PF_COUNT(own_options);
    memcpy(rows, own_options, sizeof own_options);
    for (int i = 0; i < rule->n_options; i++)
        if (!is_common(rule->options[i].name)) rows[n++] = rule->options[i];
    return pf_config_check(group, rows, n, where);
}

/* A pattern that fits no tensor of the model is a slip. */
static int check_match(const pf_optimizer *o, const char *pattern, const char *where) {
    const char *name, *some[NAMED] = {"", "", "", ""};
    int n = pf_module_tensor_count(o->module), trained = 0;
    for (int i = 0; i < n; i++) {
        bool counts;
        PF_TRY(pf_module_tensor_at(o->module, i, &name, NULL, &counts));
        if (pf_name_matches(pattern, name)) return PF_OK;
        if (counts && trained < NAMED) some[trained++] = name;
    }
    return n < 0 ? n
                 : pf_fail(PF_EINVAL,
                           "%s: 'match' = '%s' fits no parameter; they are called %s%s%s%s%s%s%s%s",
                           where, pattern, some[0], trained > 1 ? ", " : "", some[1],
                           trained > 2 ? ", " : "", some[2], trained > 3 ? ", " : "", some[3],
                           n > NAMED ? " ..." : "");
}

/* The optimizer's options with those of `group` (NULL: none) over them; NULL: no memory. */
static pf_config *merge(const pf_optimizer *o, const pf_config *group) {
    pf_config *all = pf_config_copy_in(o->heap, o->options);
    int status = all ? PF_OK : PF_ENOMEM;
    if (all) pf_config_remove(all, "groups");
    for (int i = 0; status >= 0 && i < pf_config_size(group); i++)
        status = pf_config_set(all, pf_config_key(group, i),
                               pf_config_copy_beside(all, pf_config_at(group, i)));
    if (status >= 0) return all;
    pf_config_free(all);
    return NULL;
}

/* Of rows that are touched now and then: a mean gradient would be added up once where a step over
 * all rows adds it until it is forgotten, so a gradient counts once and whole. */
static int make_twin(pf_optimizer *o, int i, const pf_config *given) {
    pf_group *g = &o->group[o->n_groups + i];
    *g = (pf_group){.lr_scale = o->group[i].lr_scale,
                    .options = pf_config_copy_in(o->heap, o->group[i].options)};
    if (!g->options) return pf_fail(PF_ENOMEM, "optimizer: no memory");
    const char *mean = o->rule->mean;
    if (!mean || pf_config_get(given, mean)) return PF_OK;
    return pf_config_set_number(g->options, mean, 0);
}

static int make_group(pf_optimizer *o, int i, const pf_config *given) {
    char where[64];
    snprintf(where, sizeof where, "%s: groups[%s]", o->rule->name, pf_place(i));
    if (given) {
        PF_TRY(check_group(o->rule, given, where));
        PF_TRY(check_match(o, pf_config_string(pf_config_get(given, "match")), where));
    }
    pf_group *g = &o->group[i];
    g->lr_scale = pf_config_number_of(given, own_options, PF_COUNT(own_options), "lr_scale");
    g->rows = pf_config_string_of(given, own_options, PF_COUNT(own_options), "rows");
    g->options = merge(o, given);
    return g->options ? make_twin(o, i, given) : pf_fail(PF_ENOMEM, "optimizer: no memory");
}

static const pf_config *list_of(const pf_optimizer *o) {
    return pf_config_get(o->options, "groups");
}

static size_t groups_bytes(const pf_optimizer *o) {
    return (size_t)o->n_groups * 2 * sizeof *o->group;
}

int pf_groups_make(pf_optimizer *o) {
    const pf_config *list = list_of(o);
    int n = pf_config_size(list);
    if (n > 0 && pf_config_kind_of(list) != PF_LIST)
        return pf_fail(PF_EINVAL, "%s: 'groups' must be a list of maps", o->rule->name);
    o->n_groups = n + 1;
    o->group = pf_heap_zalloc(o->heap, groups_bytes(o));
    if (!o->group) return PF_ENOMEM;
    for (int i = 0; i < n; i++) PF_TRY(make_group(o, i, pf_config_at(list, i)));
    return make_group(o, n, NULL);
}

void pf_groups_free(pf_optimizer *o) {
    if (!o->group) return;
    for (int i = 0; i < 2 * o->n_groups; i++) pf_config_free(o->group[i].options);
    pf_heap_free(o->heap, o->group, groups_bytes(o));
}

int pf_group_of(const pf_optimizer *o, const char *name) {
    const pf_config *list = list_of(o);
    int i = 0;
    while (i < o->n_groups - 1 &&
           !pf_name_matches(pf_config_string(pf_config_get(pf_config_at(list, i), "match")), name))
        i++;
    return i;
}

/* ---- kinds of parameters ---- */

static int find_entry(const pf_optimizer *o, const pf_index *index, const pf_tensor *tensor) {
    uint32_t probe = 0;
    int i;
    while ((i = pf_index_next(index, pf_hash_pointer(tensor), &probe)) >= 0 &&
           o->entry[i].param != tensor) {}
    return i;
}

/* The layer that makes queries, keys and values of attention `m` is three of them. */
static void mark_parts(pf_optimizer *o, const pf_index *index, const pf_module *m) {
    int64_t heads = pf_option_int(m, "heads"), key_heads = pf_option_int(m, "kv_heads");
    if (key_heads == 0) key_heads = heads;
    for (int i = 0; i < m->n_child; i++) {
        const pf_module *child = m->child[i].module;
        if (strcmp(m->child[i].name, "qkv") != 0 || child->n_slot == 0) continue;
        int at = find_entry(o, index, child->slot[0].tensor);
        int64_t all = child->slot[0].tensor->shape[0],
                key = all / (heads + 2 * key_heads) * key_heads;
        for (int k = 0; at >= 0 && k < PF_PARTS; k++)
            o->entry[at].part[k] = k == 0 ? all - 2 * key : key;
    }
}

/* A tensor that a head or a table shares is theirs. */
static void mark(pf_optimizer *o, const pf_index *index, const pf_module *m, bool head) {
    bool linear = m->type == &pf_layer_linear && !head;
    for (int i = 0; i < m->n_slot; i++) {
        int at = find_entry(o, index, m->slot[i].tensor);
        if (at < 0) continue;
        o->entry[at].linear |= linear;
        o->entry[at].other |= !linear;
    }
    int table = m->type->few_rows && m->n_slot ? find_entry(o, index, m->slot[0].tensor) : -1;
    if (table >= 0) o->entry[table].table = true;
    if (m->type == &pf_layer_attention) mark_parts(o, index, m);
    for (int i = 0; i < m->n_child; i++)
        mark(o, index, m->child[i].module, head || strcmp(m->child[i].name, "head") == 0);
}

int pf_groups_find_kinds(pf_optimizer *o) {
    pf_index index = {.heap = o->heap};
    int status = PF_OK;
    for (int i = 0; i < o->n && status >= 0; i++)
        status = pf_index_put(&index, pf_hash_pointer(o->entry[i].param), i);
    if (status >= 0) mark(o, &index, o->module, false);
    for (int i = 0; i < o->n; i++) o->entry[i].linear &= !o->entry[i].other;
    pf_index_close(&index);
    return status;
}

/* ---- rows ---- */

static int choose_rows(const pf_optimizer *o, pf_entry *p) {
    int own = p->group % o->n_groups;
    const char *rows = o->group[own].rows;
    bool asked = rows && strcmp(rows, "touched") == 0;
    bool able = !p->whole && p->param->rank > 0 && p->param->shape[0] <= PF_ROW_SET_MOST;
    p->touched = able && (asked || (!rows && p->table && !o->all_rows));
    p->group = own + (p->touched ? o->n_groups : 0);
    if (!asked || able) return PF_OK;
    return pf_fail(PF_EINVAL, "%s: rows = 'touched' for '%s' %s, %s", o->rule->name, p->name,
                   pf_shape_of(p->param),
                   p->whole ? "which the rule takes whole" : "which has no rows, or too many");
}

int pf_groups_choose_rows(pf_optimizer *o) {
    for (int i = 0; i < o->n; i++) PF_TRY(choose_rows(o, &o->entry[i]));
    return PF_OK;
}
