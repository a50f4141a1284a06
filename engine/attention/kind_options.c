/*
 * kind_options.c - the options of a kind's own (a window, a number of rounds): a table in its row,
 * from which calls, states, layers, files, Lua and command lines take them. An attention carries
 * their values in the table's order, so that nothing is looked up by name once it runs.
 */
#include <stdio.h>
#include <string.h>

#include "attention.h"
#include "pattern.h"

const pf_option_info *pf_kind_options(const pf_attention_kind *kind, int *n) {
    bool own = !kind->rule || kind->options;
    *n = own ? kind->n_options : kind->rule->n_options;
    return own ? kind->options : kind->rule->options;
}

static double value_of(const pf_attention_kind *kind, const pf_config *options, int i) {
    int n;
    const pf_option_info *all = pf_kind_options(kind, &n);
    if (all[i].kind != PF_OPT_STRING) return pf_config_number_of(options, all, n, all[i].name);
    return pf_choice_place(all[i].choices, pf_config_string_of(options, all, n, all[i].name));
}

int pf_attention_settle(pf_attention *a, const pf_config *options, const char *where) {
    char name[96];
    int n;
    const pf_option_info *all = pf_kind_options(a->kind, &n);
    snprintf(name, sizeof name, "%s: %s attention", where, a->kind->name);
    PF_TRY(pf_config_check(options, all, n, name));
    for (int i = 0; i < n; i++) a->option[i] = value_of(a->kind, options, i);
    const pf_pattern_rule *rule = a->kind->rule;
    if (rule && rule->check) PF_TRY(rule->check(a->option, name));
    return a->kind->check ? a->kind->check(a, name) : PF_OK;
}

bool pf_attention_given(const pf_config *options, const char *name) {
    const pf_config *value = pf_config_get(options, name);
    return value && pf_config_kind_of(value) != PF_NULL;
}

int pf_attention_of_layers(const pf_attention *a, const pf_config *options, const char *where) {
    int n;
    const pf_option_info *all = pf_kind_options(a->kind, &n);
    for (int i = 0; i < n; i++) {
        bool layers = all[i].needs && strcmp(all[i].needs, PF_NEEDS_TRAINING) == 0;
        if (!layers || !pf_attention_given(options, all[i].name)) continue;
        return pf_fail(PF_EINVAL,
                       "%s: %s attention: '%s' is for layers, which train; it has no effect here, "
                       "leave it out",
                       where, a->kind->name, all[i].name);
    }
    return PF_OK;
}

void pf_attention_set_layer(pf_attention *a, uint64_t layer) {
    int n;
    const pf_option_info *all = pf_kind_options(a->kind, &n);
    for (int i = 0; i < n; i++) {
        if (strcmp(all[i].name, "layer") == 0 && a->option[i] == 0) a->option[i] = (double)layer;
    }
}

bool pf_attention_split_queries(pf_attention *a, bool first) {
    int n, found = -1;
    const pf_option_info *all = pf_kind_options(a->kind, &n);
    for (int i = 0; i < n; i++) {
        if (strcmp(all[i].name, "queries") == 0) found = i;
        if (strcmp(all[i].name, "global") == 0 && a->option[i] == 0) return false;
    }
    if (found < 0) return false;
    a->option[found] = pf_choice_place(all[found].choices, first ? "global" : "local");
    return true;
}

int pf_attention_same_options(const pf_attention *a, const pf_attention *b) {
    int n;
    const pf_option_info *all = pf_kind_options(a->kind, &n);
    for (int i = 0; i < n; i++) {
        if (a->option[i] == b->option[i]) continue;
        return pf_fail(PF_EINVAL, "attention state: the two differ in %s attention's option '%s'",
                       a->kind->name, all[i].name);
    }
    return PF_OK;
}

int pf_attention_set_words(pf_config *words, const pf_config *options) {
    if (!options || pf_config_size(options) == 0) return PF_OK;
    return pf_config_set(words, PF_ATTENTION_OPTIONS, pf_config_copy(options));
}
