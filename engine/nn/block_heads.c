/*
 * block_heads.c - a block whose heads are not all alike (option head_groups): several attention
 * layers read the same input, each with a share of the heads and a kernel, or a kind, of its own.
 * Their outputs are summed: what one matrix makes of all heads side by side is the sum of what its
 * parts make of each. Dropout acts on the sum.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "module.h"

static const pf_option_info group_options[] = {
    {.name = "heads", .kind = PF_OPT_INT, .low = 1, .high = 4096, .required = true},
    {.name = "attention", .kind = PF_OPT_STRING, .choices = PF_ATTENTION_CHOICES},
    {.name = PF_ATTENTION_OPTIONS, .kind = PF_OPT_TREE},
    {.name = "kernel", .kind = PF_OPT_TREE},
};

static pf_config *list_of(const pf_module *m) { return pf_config_get(m->options, "head_groups"); }

int pf_block_groups(const pf_module *m) {
    const pf_config *list = list_of(m);
    return list ? pf_config_size(list) : 1;
}

static int64_t heads_of(const pf_config *group) {
    return (int64_t)pf_config_number(pf_config_get(group, "heads"));
}

/* ---- options ---- */

static int check_group(const pf_module *m, const pf_config *group, int i) {
    char where[64];
    snprintf(where, sizeof where, "%s: head_groups: %s", m->type->name, pf_place(i));
    if (pf_config_kind_of(group) != PF_MAP) {
        return pf_fail(PF_EINVAL, "%s must be {heads = N, kernel = {...}, attention = KIND}",
                       where);
    }
    PF_TRY(pf_config_check(group, group_options, PF_COUNT(group_options), where));
    const pf_config *kind = pf_config_get(group, "attention");
    if (!kind || strcmp(pf_config_string(kind), "auto") != 0) return PF_OK;
    return pf_fail(PF_EINVAL, "%s: 'auto' chooses for all heads at once; name a kind", where);
}

static int check_groups(const pf_module *m, const pf_config *list) {
    int64_t sum = 0, heads = pf_option_int(m, "heads"), kv_heads = pf_option_int(m, "kv_heads");
    if (pf_config_kind_of(list) != PF_LIST || pf_config_size(list) == 0) {
        return pf_fail(PF_EINVAL, "%s: head_groups must be a list of at least one", m->type->name);
    }
    for (int i = 0; i < pf_config_size(list); i++) {
        const pf_config *group = pf_config_at(list, i);
        PF_TRY(check_group(m, group, i));
        sum += heads_of(group);
        if (heads_of(group) * kv_heads % heads == 0) continue;
        return pf_fail(PF_EINVAL,
                       "%s: head_groups: %s has %lld of %lld heads, and no whole share of %lld "
                       "kv_heads",
                       m->type->name, pf_place(i), (long long)heads_of(group), (long long)heads,
                       (long long)kv_heads);
    }
    if (sum == heads) return PF_OK;
    return pf_fail(PF_EINVAL, "%s: head_groups have %lld heads together, must be %lld, as heads",
                   m->type->name, (long long)sum, (long long)heads);
}

/* Groups that draw with one seed would draw the same rows. */
static int part_seed(pf_config *kernel, int i) {
    const pf_config *seed = pf_config_get(kernel, "seed");
    if (i == 0 || !seed) return PF_OK;
    uint64_t other = (uint64_t)pf_config_number(seed) + (uint64_t)i * 0x9e3779b97f4aU;
    return pf_config_set_number(kernel, "seed", (double)(other & ((UINT64_C(1) << 53) - 1)));
}

/* The group's own kernel, or a copy of the whole's, with a seed. */
static int settle_kernel(const pf_module *m, const pf_engine *e, pf_config *group, int i) {
    pf_config *own = pf_config_get(group, "kernel");
    const pf_config *whole = pf_config_get(m->options, "kernel");
    if (own && pf_config_get(own, "seed")) return PF_OK;
    if (!own) {
        own = whole ? pf_config_copy_beside(group, whole) : pf_config_new_beside(group, PF_MAP);
        PF_TRY(pf_config_set(group, "kernel", own));
        own = pf_config_get(group, "kernel");
    }
    PF_TRY(pf_kernel_seed(own, e));
    return part_seed(own, i);
}

/* ---- local heads ---- */

/* {heads, attention, attention_options}; window 0: heads alone. NULL: out of memory. */
static pf_config *group_of(pf_heap *heap, double heads, double window) {
    pf_config *group = pf_options_number(pf_config_new_in(heap, PF_MAP), "heads", heads);
    if (window == 0) return group;
    group = pf_options_string(group, "attention", "sliding");
    pf_config *own = pf_options_number(pf_config_new_in(heap, PF_MAP), "window", window);
    if (group && own && pf_config_set(group, PF_ATTENTION_OPTIONS, own) >= 0) return group;
    pf_config_free(group);
    return NULL;
}

/* Takes `group`. */
static int push(pf_config *list, pf_config *group) {
    return group ? pf_config_push(list, group) : PF_ENOMEM;
}

/* The first heads slide, the others are what the block's options say. */
int pf_block_local_heads(pf_module *m, const pf_engine *e) {
    double n = pf_option_number(m, "local_heads"), heads = pf_option_number(m, "heads");
    if (n == 0) {
        bool asked = pf_option_number(m, "local_window") != PF_LOCAL_WINDOW && !list_of(m);
        return asked ? pf_option_useless(m, e, "local_window", "local_heads = 1 or more") : PF_OK;
    }
    if (list_of(m) || n > heads) {
        return list_of(m) ? pf_fail(PF_EINVAL,
                                    "%s: local_heads and head_groups both say what "
                                    "heads there are; give one",
                                    m->type->name)
                          : pf_fail(PF_EINVAL, "%s: local_heads is %g, and there are %g heads",
                                    m->type->name, n, heads);
    }
    double window = pf_option_number(m, "local_window");
    pf_config *list = pf_config_new_in(m->heap, PF_LIST);
    int status = list ? push(list, group_of(m->heap, n, window)) : PF_ENOMEM;
    if (status >= 0 && n < heads) status = push(list, group_of(m->heap, heads - n, 0));
    if (status < 0) {
        pf_config_free(list);
        return status;
    }
    PF_TRY(pf_config_set(m->options, "head_groups", list));
    return pf_config_set_number(m->options, "local_heads", 0);
}

int pf_block_settle_groups(pf_module *m, const pf_engine *e) {
    pf_config *list = list_of(m);
    if (!list) return PF_OK;
    PF_TRY(check_groups(m, list));
    for (int i = 0; i < pf_config_size(list); i++) {
        PF_TRY(settle_kernel(m, e, pf_config_at(list, i), i));
    }
    return PF_OK;
}

/* ---- layers ---- */

/* o with what the group says, its kind in place of the whole's. */
static pf_config *with_group(pf_config *o, const pf_config *group) {
    if (o && pf_config_get(group, "attention")) pf_config_remove(o, PF_ATTENTION_OPTIONS);
    for (int i = 0; o && i < pf_config_size(group); i++) {
        pf_config *value = pf_config_copy_beside(o, pf_config_at(group, i));
        if (pf_config_set(o, pf_config_key(group, i), value) >= 0) continue;
        pf_config_free(o);
        return NULL;
    }
    return o;
}

/* Options of group i's layer. The first weights of all are as small as those of one layer. */
static pf_config *options_of(const pf_module *m, const pf_config *options, int i) {
    const pf_config *group = pf_config_at(list_of(m), i);
    int64_t n = heads_of(group), heads = pf_option_int(m, "heads");
    int64_t head_dim = pf_option_int(m, "head_dim"), kv_heads = pf_option_int(m, "kv_heads");
    const int64_t own_kv_heads = kv_heads * n / heads;
    double depth = pf_option_number(m, "layers") * (double)heads / (double)n;
    pf_config *o = with_group(options ? pf_config_copy_in(m->heap, options) : NULL, group);
    if (head_dim == 0) head_dim = pf_option_int(m, "dim") / heads;
    o = pf_options_number(o, "head_dim", (double)head_dim);
    o = pf_options_number(o, "kv_heads", (double)own_kv_heads);
    o = pf_options_number(o, "layers", floor(fmin(depth, 4096)));
    return pf_options_number(o, "dropout", 0);
}

int pf_block_make_groups(pf_module *m, pf_engine *e, pf_config *options) {
    char name[32];
    int status = options ? PF_OK : PF_ENOMEM;
    for (int i = 0; i < pf_block_groups(m) && status >= 0; i++) {
        snprintf(name, sizeof name, i > 0 ? "attention%d" : "attention", i + 1);
        status = pf_module_inner(m, e, name, "attention", options_of(m, options, i));
    }
    pf_config_free(options);
    return status;
}

/* *h = the sum of what the groups from child `first` on make of *h */
int pf_block_run_groups(pf_module *m, int first, pf_engine *e, const pf_run *run, pf_tensor **h) {
    pf_tensor *sum = NULL, *y = NULL, *both = NULL;
    int status = PF_OK;
    for (int i = 0; i < pf_block_groups(m) && status >= 0; i++) {
        status = pf_run_child(m, first + i, e, run, *h, &y);
        if (status >= 0 && sum) status = pf_add(&both, e, sum, y);
        if (status >= 0) pf_replace(&sum, both ? both : pf_tensor_retain(y));
        pf_tensor_release(&y);
        both = NULL;
    }
    if (status >= 0) status = pf_run_dropout(e, run, pf_option_number(m, "dropout"), &sum);
    if (status >= 0) pf_replace(h, sum);
    if (status < 0) pf_tensor_release(&sum);
    return status;
}
