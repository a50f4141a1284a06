/*
 * pattern_rules.c - the table of rules, and a pattern as a tensor of numbers:
 *
 *     mark, rule's number, options, then of each option its double in two words, then the list
 *
 * Options are checked when it is made, and again when an op reads it: a host can write any numbers.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "attention.h"
#include "pattern.h"
#include "performer_attention.h"
#include "projection.h"

enum { MARK = 0x50465031, HEAD = 3 };

static const pf_pattern_rule *const rules[] = {
#define PF_PATTERN(name) &pf_pattern_rule_##name,
#include "patterns.def"
#undef PF_PATTERN
};

const pf_pattern_rule *pf_pattern_rule_at(int index) {
    return index >= 0 && index < PF_COUNT(rules) ? rules[index] : NULL;
}

int pf_pattern_rule_find(const pf_pattern_rule **rule, const char *name, const char *where) {
    const char *names[PF_COUNT(rules)];
    for (int i = 0; i < PF_COUNT(rules); i++) {
        names[i] = rules[i]->name;
        *rule = rules[i];
        if (strcmp(names[i], name) == 0) return PF_OK;
    }
    char told[PF_NAMES_TOLD];
    return pf_fail(PF_EINVAL, "%s: there is no pattern '%s'%s", where, name,
                   pf_names_told(told, sizeof told, name, names, PF_COUNT(rules)));
}

static int describe_rule(pf_config *row, const pf_pattern_rule *rule) {
    PF_TRY(pf_config_set_string(row, "name", rule->name));
    PF_TRY(pf_config_set_string(row, "doc", rule->doc));
    PF_TRY(pf_config_set_bool(row, "causal", !rule->no_causal));
    PF_TRY(pf_config_set_bool(row, "full", !rule->no_full));
    PF_TRY(pf_config_set_bool(row, "by_head", rule->by_head));
    PF_TRY(pf_config_set_bool(row, "buckets", rule->buckets));
    PF_TRY(pf_config_set_bool(row, "lists", rule->check_list != NULL));
    return pf_describe_options(row, rule->options, rule->n_options);
}

int pf_patterns_describe(pf_config *to) {
    pf_config *list, *row;
    PF_TRY(pf_describe_list(&list, to, "patterns"));
    for (int i = 0; i < PF_COUNT(rules); i++) {
        PF_TRY(pf_describe_map(&row, list, NULL));
        PF_TRY(describe_rule(row, rules[i]));
    }
    return PF_OK;
}

/* ---- options ---- */

int pf_pattern_settle(double *option, const pf_pattern_rule *rule, const pf_config *options,
                      const char *where) {
    PF_TRY(pf_config_check(options, rule->options, rule->n_options, where));
    memset(option, 0, PF_PATTERN_OPTIONS * sizeof *option);
    for (int i = 0; i < rule->n_options; i++) {
        const pf_option_info *row = &rule->options[i];
        option[i] =
            row->kind == PF_OPT_STRING
                ? pf_choice_place(row->choices, pf_config_string_of(options, rule->options,
                                                                    rule->n_options, row->name))
                : pf_config_number_of(options, rule->options, rule->n_options, row->name);
    }
    return rule->check ? rule->check(option, where) : PF_OK;
}

static int choices(const char *text) {
    int n = 1;
    for (; *text; text++) n += *text == '|';
    return n;
}

/* From which to which number an option goes, and whether it is a whole one. */
static bool range_of(const pf_option_info *row, double *low, double *high) {
    *low = row->low;
    *high = row->high;
    if (row->kind == PF_OPT_BOOL) *high = 1;
    if (row->kind == PF_OPT_STRING) *high = choices(row->choices) - 1;
    return row->kind != PF_OPT_NUMBER;
}

/* The same of numbers that came in a tensor: any bits. */
static int check_numbers(const pf_pattern_rule *rule, const double *option, const char *where) {
    for (int i = 0; i < rule->n_options; i++) {
        const pf_option_info *row = &rule->options[i];
        double low, high, value = option[i];
        bool whole = range_of(row, &low, &high);
        if (value >= low && value <= high && (!whole || value == floor(value))) continue;
        return pf_fail(PF_EINVAL, "%s: %s of the pattern can't be %g", where, row->name, value);
    }
    return rule->check ? rule->check(option, where) : PF_OK;
}

/* ---- tensors ---- */

int pf_pattern_words(pf_tensor **words, pf_engine *e, const pf_pattern_rule *rule,
                     const double *option, const int32_t *list, int64_t n_list) {
    int64_t head = HEAD + 2 * rule->n_options, n = head + n_list;
    PF_TRY(pf_tensor_make_lasting(words, e->heap, PF_I32, 1, &n));
    int32_t *to = pf_i32(*words), number = 0;
    while (rules[number] != rule) number++;
    int32_t begin[HEAD] = {MARK, number, rule->n_options};
    memcpy(to, begin, sizeof begin);
    memcpy(to + HEAD, option, (size_t)rule->n_options * sizeof *option);
    if (n_list > 0) memcpy(to + head, list, (size_t)n_list * sizeof *list);
    return PF_OK;
}

static int no_pattern(const pf_tensor *words, const char *where) {
    return pf_fail(PF_EINVAL, "%s: a pattern is what a rule of patterns makes (pf.pattern), got %s",
                   where, pf_shape_of(words));
}

int pf_pattern_read(const pf_pattern_rule **rule, double *option, pf_ask *ask,
                    const pf_tensor *words, const char *where) {
    PF_TRY(pf_tensor_check(words, PF_I32, where, "pattern"));
    const int32_t *from = pf_i32(words);
    int64_t n = words->rank == 1 ? words->shape[0] : 0;
    if (n < HEAD || from[0] != MARK) return no_pattern(words, where);
    *rule = pf_pattern_rule_at(from[1]);
    if (!*rule || from[2] != (*rule)->n_options) return no_pattern(words, where);
    int64_t head = HEAD + 2 * (*rule)->n_options;
    if (n < head || (n > head && !(*rule)->check_list)) return no_pattern(words, where);
    memset(option, 0, PF_PATTERN_OPTIONS * sizeof *option);
    memcpy(option, from + HEAD, (size_t)(*rule)->n_options * sizeof *option);
    PF_TRY(check_numbers(*rule, option, where));
    ask->option = option;
    ask->where = where;
    ask->list = from + head;
    ask->n_list = n - head;
    return (*rule)->check_list ? (*rule)->check_list(ask) : PF_OK;
}

/* ---- public ---- */

/* (n) i32, contiguous; `list` NULL: none. */
static int check_list(pf_ask *ask, const pf_pattern_rule *rule, const pf_tensor *list) {
    if (!rule->check_list) {
        return list ? pf_fail(PF_EINVAL, "%s takes no list", ask->where) : PF_OK;
    }
    if (!list) return pf_fail(PF_EINVAL, "%s: it is given as a list", ask->where);
    PF_TRY(pf_tensor_check(list, PF_I32, ask->where, "list"));
    if (list->rank != 1 || !pf_tensor_contiguous(list)) {
        return pf_fail(PF_ESHAPE, "%s: the list is (n) numbers in a row, got %s", ask->where,
                       pf_shape_of(list));
    }
    ask->list = pf_i32(list);
    ask->n_list = list->shape[0];
    return rule->check_list(ask);
}

int pf_pattern_tensor(pf_tensor **pattern, pf_engine *engine, const char *rule,
                      const pf_config *options, const pf_tensor *list) {
    PF_OUT(pattern);
    PF_OPEN(engine);
    PF_NEED(rule);
    const pf_pattern_rule *row;
    double option[PF_PATTERN_OPTIONS];
    char where[64];
    PF_TRY(pf_pattern_rule_find(&row, rule, "pattern"));
    snprintf(where, sizeof where, "pattern.%s", row->name);
    PF_TRY(pf_pattern_settle(option, row, options, where));
    pf_ask ask = {.where = where, .option = option};
    PF_TRY(check_list(&ask, row, list));
    return pf_pattern_words(pattern, engine, row, option, ask.list, ask.n_list);
}
