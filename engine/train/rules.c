/*
 * rules.c - the table of optimizers: found by name, checked against their options, described.
 */
#include <stdio.h>
#include <string.h>

#include "rule.h"

static const pf_optimizer_rule *const rules[] = {
#define PF_OPTIMIZER(name) &pf_optimizer_##name,
#include "optimizers.def"
#undef PF_OPTIMIZER
};

static const char choices[] =
#define PF_OPTIMIZER(name) "|" #name
#include "optimizers.def"
#undef PF_OPTIMIZER
    ;

/* The option that every optimizer has beside its own. */
static const pf_option_info type_option = {
    .name = "type", .kind = PF_OPT_STRING, .choices = choices + 1, .doc = "the optimizer"};

static int unknown_type(const char *type) {
    const char *names[PF_COUNT(rules)];
    for (int i = 0; i < PF_COUNT(rules); i++) names[i] = rules[i]->name;
    const char *near = type ? pf_nearest(type, names, PF_COUNT(rules)) : NULL;
    return pf_fail(PF_EINVAL, "optimizer: 'type' must be one of %s, got '%s'%s%s%s", choices + 1,
                   type ? type : "?", near ? " (did you mean '" : "", near ? near : "",
                   near ? "'?)" : "");
}

/* Against the rule's rows and that of the type. */
static int check(const pf_optimizer_rule *rule, const pf_config *options) {
    pf_option_info rows[PF_RULE_OPTIONS + 1] = {type_option};
    memcpy(rows + 1, rule->options, (size_t)rule->n_options * sizeof *rows);
    return pf_config_check(options, rows, rule->n_options + 1, rule->name);
}

int pf_rule_resolve(const pf_optimizer_rule **rule, const pf_config *options) {
    const pf_config *text = pf_config_get(options, "type");
    const char *type = text ? pf_config_string(text) : rules[0]->name;
    for (int i = 0; type && i < PF_COUNT(rules); i++) {
        if (strcmp(rules[i]->name, type) != 0) continue;
        PF_TRY(check(rules[i], options));
        *rule = rules[i];
        return PF_OK;
    }
    return unknown_type(type);
}

double pf_rule_option(const pf_optimizer_rule *rule, const pf_config *options, const char *name) {
    return pf_config_number_of(options, rule->options, rule->n_options, name);
}

/* ---- for help and docs ---- */

static int set_text(pf_config *map, const char *key, const char *text) {
    return text ? pf_config_set_string(map, key, text) : PF_OK;
}

/* Fills `map`, which hangs in its list already: so no failure has to free it. */
static int describe_option(pf_config *map, const pf_option_info *option) {
    char number[PF_DEFAULT_TEXT];
    struct pf_option_doc doc = pf_option_describe(option, number);
    PF_TRY(set_text(map, "name", doc.name));
    PF_TRY(set_text(map, "kind", doc.kind));
    PF_TRY(set_text(map, "default", doc.def));
    PF_TRY(set_text(map, "choices", doc.choices));
    PF_TRY(set_text(map, "doc", doc.doc));
    return pf_config_set_bool(map, "required", doc.required);
}

static int describe_rule(pf_config *map, const pf_optimizer_rule *rule) {
    PF_TRY(set_text(map, "name", rule->name));
    PF_TRY(set_text(map, "doc", rule->doc));
    pf_config *options = pf_config_new(PF_LIST);
    PF_TRY(pf_config_set(map, "options", options));
    for (int i = 0; i < rule->n_options; i++) {
        pf_config *row = pf_config_new(PF_MAP);
        PF_TRY(pf_config_push(options, row));
        PF_TRY(describe_option(row, &rule->options[i]));
    }
    return PF_OK;
}

int pf_optimizer_describe(pf_config **list) {
    pf_config *all = pf_config_new(PF_LIST);
    int status = all ? PF_OK : PF_ENOMEM;
    for (int i = 0; i < PF_COUNT(rules) && status >= 0; i++) {
        pf_config *row = pf_config_new(PF_MAP);
        status = pf_config_push(all, row);
        if (status >= 0) status = describe_rule(row, rules[i]);
    }
    if (status < 0) {
        pf_config_free(all);
        all = NULL;
    }
    *list = all;
    return status;
}
