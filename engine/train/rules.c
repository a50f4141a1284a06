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

/* The options that every optimizer has beside its own. */
static const pf_option_info type_option = {
    .name = "type", .kind = PF_OPT_STRING, .choices = choices + 1, .doc = "the optimizer"};
static const pf_option_info shared[] = {
    {.name = "ema",
     .kind = PF_OPT_NUMBER,
     .low = 0,
     .high = 0.9999999,
     .doc = "memory of an average of the weights that is kept beside them, say 0.999; 0: none. "
            "At step t it is at most (1 + t) / (10 + t)"},
    {.name = "groups",
     .kind = PF_OPT_TREE,
     .doc =
         "options of some parameters, {match, lr_scale, rows, decay ...} each: the first one whose "
         "`match` fits a parameter's name. A pattern is a run of whole parts of the name "
         "(\"blocks.1\"), or has * and ? and fits all of it; | stands between several"},
};

static int unknown_type(const char *type) {
    const char *names[PF_COUNT(rules)];
    for (int i = 0; i < PF_COUNT(rules); i++) names[i] = rules[i]->name;
    const char *near = type ? pf_nearest(type, names, PF_COUNT(rules)) : NULL;
    return pf_fail(PF_EINVAL, "optimizer: 'type' must be one of %s, got '%s'%s%s%s",
                   type_option.choices, type ? type : "?", near ? " (did you mean '" : "",
                   near ? near : "", near ? "'?)" : "");
}

/* The rule's rows and those that all have; how many. */
static int all_rows(const pf_optimizer_rule *rule, pf_option_info *rows) {
    memcpy(rows, rule->options, (size_t)rule->n_options * sizeof *rows);
    memcpy(rows + rule->n_options, shared, sizeof shared);
    return rule->n_options + PF_COUNT(shared);
}

static int check(const pf_optimizer_rule *rule, const pf_config *options) {
    pf_option_info rows[PF_RULE_OPTIONS + PF_COUNT(shared) + 1];
    int n = all_rows(rule, rows);
    rows[n++] = type_option;
    return pf_config_check(options, rows, n, rule->name);
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

const char *pf_rule_text(const pf_optimizer_rule *rule, const pf_config *options,
                         const char *name) {
    return pf_config_string_of(options, rule->options, rule->n_options, name);
}

bool pf_rule_shares(const char *name) {
    for (int i = 0; i < PF_COUNT(shared); i++)
        if (strcmp(shared[i].name, name) == 0) return true;
    return false;
}

double pf_rule_shared(const pf_config *options, const char *name) {
    return pf_config_number_of(options, shared, PF_COUNT(shared), name);
}

/* ---- for help and docs ---- */

int pf_optimizers_describe(pf_config *to) {
    pf_config *list, *row;
    PF_TRY(pf_describe_list(&list, to, "optimizers"));
    for (int i = 0; i < PF_COUNT(rules); i++) {
        PF_TRY(pf_describe_map(&row, list, NULL));
        PF_TRY(pf_config_set_string(row, "name", rules[i]->name));
        PF_TRY(pf_config_set_string(row, "doc", rules[i]->doc));
        pf_option_info rows[PF_RULE_OPTIONS + PF_COUNT(shared)];
        PF_TRY(pf_describe_options(row, rows, all_rows(rules[i], rows)));
    }
    return PF_OK;
}
