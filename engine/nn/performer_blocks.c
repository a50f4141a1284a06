/*
 * performer_blocks.c - the blocks of a performer: one for each layer, or one for all of them
 * (option shared); with the attention and the kernel that the options say, or that their lists say
 * of each layer (options attentions and kernels).
 */
#include <string.h>

#include "module.h"

/* ---- lists ---- */

/* Entry `layer` of the list that option `name` is; NULL: no such list. It goes round. */
static pf_config *entry_of(const pf_module *m, const char *name, int64_t layer) {
    const pf_config *list = pf_config_get(m->options, name);
    int n = list ? pf_config_size(list) : 0;
    return n > 0 ? pf_config_at(list, (int)(layer % n)) : NULL;
}

/* The name in an entry of attentions; NULL: none. */
static const char *name_of(const pf_config *entry) {
    if (pf_config_kind_of(entry) == PF_STRING) return pf_config_string(entry);
    const pf_config *name =
        pf_config_kind_of(entry) == PF_MAP ? pf_config_get(entry, "name") : NULL;
    return name ? pf_config_string(name) : NULL;
}

static int check_length(const pf_module *m, const char *name) {
    const pf_config *list = pf_config_get(m->options, name);
    int64_t layers = pf_option_int(m, "layers");
    int n = list ? pf_config_size(list) : 0;
    if (!list) return PF_OK;
    if (pf_option_int(m, "shared") && n != 1) {
        return pf_fail(PF_EINVAL,
                       "performer: with shared all layers are one block, so '%s' has 1 entry, "
                       "not %d",
                       name, n);
    }
    if (pf_config_kind_of(list) == PF_LIST && n > 0 && layers % n == 0) return PF_OK;
    return pf_fail(PF_EINVAL,
                   "performer: '%s' has %d entries, and layers is %lld; it is a list of as many, "
                   "or of a number that divides them",
                   name, n, (long long)layers);
}

static int check_attention(const pf_config *entry, int i) {
    const char *name = name_of(entry);
    if (name && strcmp(name, "auto") != 0) return PF_OK;
    return pf_fail(PF_EINVAL,
                   "performer: entry %s of attentions must be a kind of attention, or {name = "
                   "KIND, OPTION = ...}%s",
                   pf_place(i), name ? "; auto chooses for all layers at once" : "");
}

int pf_performer_lists(pf_module *m, const pf_engine *e) {
    const pf_config *attentions = pf_config_get(m->options, "attentions");
    const pf_config *kernels = pf_config_get(m->options, "kernels");
    PF_TRY(check_length(m, "attentions"));
    PF_TRY(check_length(m, "kernels"));
    if ((attentions || kernels) && pf_config_get(m->options, "head_groups")) {
        return pf_fail(PF_EINVAL, "performer: head_groups and lists of each layer's attention or "
                                  "kernel don't go together; leave one out");
    }
    PF_TRY(pf_block_settle_groups(m, e));
    for (int i = 0; attentions && i < pf_config_size(attentions); i++) {
        PF_TRY(check_attention(pf_config_at(attentions, i), i));
    }
    for (int i = 0; kernels && i < pf_config_size(kernels); i++) {
        pf_config *kernel = pf_config_at(kernels, i);
        if (pf_config_kind_of(kernel) != PF_MAP) {
            return pf_fail(PF_EINVAL, "performer: entry %s of kernels must be a map of options",
                           pf_place(i));
        }
        PF_TRY(pf_kernel_seed(kernel, e));
    }
    return PF_OK;
}

/* o with a copy of `value`; NULL (and o freed) out of memory. */
static pf_config *with(pf_config *o, const char *key, const pf_config *value) {
    if (!o || pf_config_set(o, key, pf_config_copy_beside(o, value)) >= 0) return o;
    pf_config_free(o);
    return NULL;
}

/* o with the attention that the list says of a layer. */
static pf_config *with_attention(pf_config *o, const pf_config *entry) {
    o = pf_options_string(o, "attention", name_of(entry));
    if (!o || pf_config_kind_of(entry) != PF_MAP) return o;
    o = with(o, PF_ATTENTION_OPTIONS, entry);
    if (o) pf_config_remove(pf_config_get(o, PF_ATTENTION_OPTIONS), "name");
    return o;
}

/* ---- blocks ---- */

static pf_config *options_of(const pf_module *m, int64_t layer) {
    const pf_config *attention = entry_of(m, "attentions", layer);
    const pf_config *kernel = entry_of(m, "kernels", layer);
    bool rotary = strcmp(pf_option_text(m, "positions"), "rotary") == 0;
    pf_config *o = pf_options_number(pf_module_pass_on(m, "block"), "layer", (double)layer);
    o = pf_options_bool(o, "rotary", rotary);
    o = pf_options_bool(o, "relative", strcmp(pf_option_text(m, "positions"), "relative") == 0);
    if (attention) o = with_attention(o, attention);
    return kernel ? with(o, "kernel", kernel) : o;
}

static int make_block(pf_module *m, pf_engine *e, int64_t layer, pf_module **block) {
    bool listed = entry_of(m, "attentions", 0) || entry_of(m, "kernels", 0);
    pf_config *o = options_of(m, layer);
    if (!o) return pf_fail(PF_ENOMEM, "performer: no memory for the options");
    int status = pf_module_new(block, e, "block", o, NULL, 0);
    pf_config_free(o);
    if (status < 0 && listed) status = pf_fail_in(status, "layer %s", pf_place((int)layer));
    return status < 0 ? pf_fail_in(status, "performer") : status;
}

int pf_performer_blocks(pf_module *m, pf_engine *e) {
    int64_t layers = pf_option_int(m, "layers");
    size_t bytes = (size_t)layers * sizeof(pf_module *);
    pf_module *chain = NULL, **block = pf_heap_zalloc(m->heap, bytes);
    if (!block) return PF_ENOMEM;
    int status = PF_OK;
    for (int64_t i = 0; i < layers && status >= 0; i++) {
        if (i > 0 && pf_option_int(m, "shared")) block[i] = pf_module_retain(block[0]);
        if (!block[i]) status = make_block(m, e, i, &block[i]);
    }
    const char *type = pf_option_int(m, "reversible") ? "reversible" : "chain";
    if (status >= 0) status = pf_module_new(&chain, e, type, NULL, block, (int)layers);
    if (status >= 0) status = pf_module_adopt(m, "blocks", chain);
    pf_module_release(&chain);
    for (int64_t i = 0; i < layers; i++) pf_module_release(&block[i]);
    pf_heap_free(m->heap, block, bytes);
    return status;
}
