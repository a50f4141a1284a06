/*
 * kind_options.c - the options of a kind's own (a window, a number of rounds): a table in its row,
 * from which calls, states, layers, files, Lua and command lines take them. An attention carries
 * their values in the table's order, so that nothing is looked up by name once it runs.
 */
#include <stdio.h>

#include "attention.h"

static double value_of(const pf_attention_kind *kind, const pf_config *options,
                       const pf_option_info *option) {
    if (option->kind != PF_OPT_STRING) {
        return pf_config_number_of(options, kind->options, kind->n_options, option->name);
    }
    const char *text = pf_config_string_of(options, kind->options, kind->n_options, option->name);
    return pf_choice_place(option->choices, text);
}

int pf_attention_settle(pf_attention *a, const pf_config *options, const char *where) {
    const pf_attention_kind *kind = a->kind;
    char name[96];
    snprintf(name, sizeof name, "%s: %s attention", where, kind->name);
    PF_TRY(pf_config_check(options, kind->options, kind->n_options, name));
    for (int i = 0; i < kind->n_options; i++) {
        a->option[i] = value_of(kind, options, &kind->options[i]);
    }
    return PF_OK;
}

int pf_attention_same_options(const pf_attention *a, const pf_attention *b) {
    for (int i = 0; i < a->kind->n_options; i++) {
        if (a->option[i] == b->option[i]) continue;
        return pf_fail(PF_EINVAL, "attention state: the two differ in %s attention's option '%s'",
                       a->kind->name, a->kind->options[i].name);
    }
    return PF_OK;
}

int pf_attention_set_words(pf_config *words, const pf_config *options) {
    if (!options || pf_config_size(options) == 0) return PF_OK;
    return pf_config_set(words, PF_ATTENTION_OPTIONS, pf_config_copy(options));
}
