/*
 * rules.c - the table of optimizers: found by name, checked against their options, described.
 */
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
    return pf_fail(PF_EINVAL, "optimizer: 'type' must be one of %s, got '%s'%s%s%s",
                   type_option.choices, type ? type : "?", near ? " (did you mean '" : "",
                   near ? near : "", near ? "'?)" : "");
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

int pf_optimizers_describe(pf_config *to) {
    pf_config *list, *row;
    PF_TRY(pf_describe_list(&list, to, "optimizers"));
    for (int i = 0; i < PF_COUNT(rules); i++) {
        PF_TRY(pf_describe_map(&row, list, NULL));
        PF_TRY(pf_config_set_string(row, "name", rules[i]->name));
        PF_TRY(pf_config_set_string(row, "doc", rules[i]->doc));
        PF_TRY(pf_describe_options(row, rules[i]->options, rules[i]->n_options));
    }
    return PF_OK;
}
