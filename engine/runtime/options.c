/*
 * options.c - options against their table: what is unknown, of the wrong kind, out of range or
 * missing is told by name, with the nearest name that there is.
 */
#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "config.h"
#include "number.h"
#include "status.h"

enum { WORD_MAX = 64, CHOICES_MAX = 48 };

/* ---- the nearest name ---- */

/* Edit distance of two words shorter than WORD_MAX, a swap of neighbours counting once and
 * the case of letters not at all. now[j] is the distance of the first i letters of a from the
 * first j of b; `last` is that row for i - 1, `before` for i - 2, which only a swap asks. */
static int distance(const char *a, const char *b) {
    int row[3][WORD_MAX + 1], *before = row[0], *last = row[1], *now = row[2];
    int na = (int)strlen(a), nb = (int)strlen(b);
    for (int j = 0; j <= nb; j++) last[j] = j, before[j] = 0;
    for (int i = 1; i <= na; i++) {
        now[0] = i;
        for (int j = 1; j <= nb; j++) {
            int ca = tolower((unsigned char)a[i - 1]), cb = tolower((unsigned char)b[j - 1]);
            int best = last[j - 1] + (ca != cb);
            if (last[j] + 1 < best) best = last[j] + 1;
            if (now[j - 1] + 1 < best) best = now[j - 1] + 1;
            if (i > 1 && j > 1 && ca == tolower((unsigned char)b[j - 2]) &&
                cb == tolower((unsigned char)a[i - 2]) && before[j - 2] + 1 < best)
                best = before[j - 2] + 1;
            now[j] = best;
        }
        int *spare = before;
        before = last, last = now, now = spare;
    }
    return last[nb];
}

static bool has_letters_of(const char *a, const char *b) {
    for (; *b; b++) {
        if (!strchr(a, tolower((unsigned char)*b)) && !strchr(a, toupper((unsigned char)*b)))
            return false;
    }
    return true;
}

/* Up to four letters another letter makes another word: min is no sin, tan no tanh, long no log. A
 * slip has all letters of the name, or lacks one inside, or a last s or digit more or less. */
static bool is_other_word(const char *word, const char *name, size_t longer) {
    if (longer > 4 || (has_letters_of(word, name) && has_letters_of(name, word))) return false;
    const size_t n = strlen(word), m = strlen(name);
    if (n > 0 && n + 1 == m && word[n - 1] == name[m - 1]) return false;
    const char *more = n > m ? word : name;
    if (n == m || strncmp(word, name, n < m ? n : m) != 0) return true;
    return more[longer - 1] != 's' && !isdigit((unsigned char)more[longer - 1]);
}

/* A hand that slips seldom slips at the first letter: acos is no cos, shape no reshape. */
static bool begins_alike(const char *a, const char *b) {
    const int a0 = tolower((unsigned char)a[0]), b0 = tolower((unsigned char)b[0]);
    return a0 == b0 || (a0 == tolower((unsigned char)b[1]) && b0 == tolower((unsigned char)a[1]));
}

/* So many letters may differ in the longer of two words: further words are near by accident. */
static int may_differ(size_t longer) { return longer < 3 ? 0 : longer < 8 ? 1 : 2; }

const char *pf_nearest(const char *word, const char *const *names, int n) {
    const char *best = NULL;
    int least = WORD_MAX;
    if (!word || !names || strlen(word) >= WORD_MAX) return NULL;
    for (int i = 0; i < n; i++) {
        if (!names[i] || strlen(names[i]) >= WORD_MAX) continue;
        const int far = distance(word, names[i]);
        const size_t longer = strlen(strlen(word) > strlen(names[i]) ? word : names[i]);
        if (far >= least || (far > 0 && far > may_differ(longer))) continue;
        if (is_other_word(word, names[i], longer) || !begins_alike(word, names[i])) continue;
        least = far;
        best = names[i];
    }
    return best;
}

/* ---- options against their table ---- */

const char *pf_names_told(char *text, size_t bytes, const char *word, const char *const *names,
                          int n) {
    const char *near = word ? pf_nearest(word, names, n) : NULL;
    if (near) {
        snprintf(text, bytes, " (did you mean '%s'?)", near);
        return text;
    }
    snprintf(text, bytes, n == 0 ? "; there are none" : n == 1 ? "; there is " : "; there are ");
    for (int i = 0; i < n; i++) {
        size_t used = strlen(text);
        /* Room for ", ..." behind it is kept, so that what is cut off says so. */
        bool fits = used + strlen(names[i]) + sizeof ", , ..." <= bytes;
        snprintf(text + used, bytes - used, "%s%s", i ? ", " : "", fits ? names[i] : "...");
        if (!fits) break;
    }
    return text;
}

/* " (did you mean 'x'?)", or nothing. */
static const char *hint(char *text, size_t bytes, const char *word, const char *const *names,
                        int n) {
    const char *near = pf_nearest(word, names, n);
    text[0] = '\0';
    if (near) snprintf(text, bytes, " (did you mean '%s'?)", near);
    return text;
}

/* A value as the message shows it. */
static const char *value_text(const pf_config *node, char *text, size_t bytes) {
    switch (pf_config_kind_of(node)) {
    case PF_NULL:
        return "null";
    case PF_BOOL:
        return pf_config_number(node) != 0.0 ? "true" : "false";
    case PF_LIST:
        return "a list";
    case PF_MAP:
        return "a map";
    case PF_STRING:
        snprintf(text, bytes, "'%.48s'", pf_config_string(node));
        return text;
    case PF_NUMBER:
        break;
    }
    pf_print(text, bytes, "%.16g", pf_config_number(node));
    return text;
}

/* Numbers are doubles: a whole one is exact up to 2^53, and beyond that it is no option. */
static int check_number(const pf_config *value, const pf_option_info *option, const char *where) {
    double v = pf_config_number(value);
    bool whole = option->kind == PF_OPT_INT, ranged = option->low != 0.0 || option->high != 0.0;
    bool good = pf_config_kind_of(value) == PF_NUMBER && isfinite(v);
    if (good && whole) good = v == floor(v) && fabs(v) <= 0x1p53;
    if (good && ranged) good = v >= option->low && v <= option->high;
    if (good) return PF_OK;
    char range[64] = "", got[64];
    if (ranged) pf_print(range, sizeof range, " from %.16g to %.16g", option->low, option->high);
    const char *what = whole ? "whole number" : ranged ? "number" : "finite number";
    return pf_fail(PF_EINVAL, "%s: '%s' must be a %s%s, got %s", where, option->name, what, range,
                   value_text(value, got, sizeof got));
}

/* Cuts "a|b|c" into words inside `buffer`; the number of words. */
static int split_choices(const char *choices, char *buffer, size_t bytes, const char **word) {
    int n = 0;
    snprintf(buffer, bytes, "%s", choices);
    for (char *at = buffer; at && n < CHOICES_MAX;) {
        word[n++] = at;
        at = strchr(at, '|');
        if (at) *at++ = '\0';
    }
    return n;
}

static int check_string(const pf_config *value, const pf_option_info *option, const char *where) {
    char buffer[1024], list[1024], near[96], got[64];
    const char *word[CHOICES_MAX];
    size_t used = 0;
    if (pf_config_kind_of(value) != PF_STRING)
        return pf_fail(PF_EINVAL, "%s: '%s' must be a string, got %s", where, option->name,
                       value_text(value, got, sizeof got));
    if (!option->choices) return PF_OK;
    int n = split_choices(option->choices, buffer, sizeof buffer, word);
    for (int i = 0; i < n; i++) {
        if (strcmp(pf_config_string(value), word[i]) == 0) return PF_OK;
        int length = snprintf(list + used, sizeof list - used, "%s%s", i ? ", " : "", word[i]);
        if (length > 0 && used + (size_t)length < sizeof list) used += (size_t)length;
    }
    list[used] = '\0';
    return pf_fail(PF_EINVAL, "%s: '%s' must be one of %s, got %s%s", where, option->name, list,
                   value_text(value, got, sizeof got),
                   hint(near, sizeof near, pf_config_string(value), word, n));
}

static bool is_texts(const pf_config *value) {
    if (pf_config_kind_of(value) == PF_STRING) return true;
    if (pf_config_kind_of(value) != PF_LIST || pf_config_size(value) == 0) return false;
    for (int i = 0; i < pf_config_size(value); i++)
        if (pf_config_kind_of(pf_config_at(value, i)) != PF_STRING) return false;
    return true;
}

static int check_value(const pf_config *value, const pf_option_info *option, const char *where) {
    char got[64];
    const char *must = NULL;
    switch (option->kind) {
    case PF_OPT_INT:
    case PF_OPT_NUMBER:
        return check_number(value, option, where);
    case PF_OPT_STRING:
        return check_string(value, option, where);
    case PF_OPT_BOOL:
        if (pf_config_kind_of(value) != PF_BOOL) must = "true or false";
        break;
    case PF_OPT_TEXTS:
        if (!is_texts(value)) must = "a string or a list of strings";
        break;
    case PF_OPT_TREE:
        if (pf_config_kind_of(value) != PF_LIST && pf_config_kind_of(value) != PF_MAP)
            must = "a list or a map";
        break;
    }
    if (!must) return PF_OK;
    return pf_fail(PF_EINVAL, "%s: '%s' must be %s, got %s", where, option->name, must,
                   value_text(value, got, sizeof got));
}

static const pf_option_info *find_option(const pf_option_info *table, int n, const char *name) {
    for (int i = 0; i < n; i++)
        if (strcmp(table[i].name, name) == 0) return &table[i];
    return NULL;
}

static int unknown_option(const char *key, const pf_option_info *table, int n, const char *where) {
    const char *names[128];
    char told[PF_NAMES_TOLD];
    int count = n < PF_COUNT(names) ? n : PF_COUNT(names);
    for (int i = 0; i < count; i++) names[i] = table[i].name;
    return pf_fail(PF_EINVAL, "%s: unknown option '%.64s'%s", where, key,
                   pf_names_told(told, sizeof told, key, names, count));
}

/* A null stands for an option that is not given. */
static const pf_config *given(const pf_config *options, const char *name) {
    const pf_config *value = pf_config_get(options, name);
    return value && pf_config_kind_of(value) != PF_NULL ? value : NULL;
}

/* An empty list stands for an empty map: a Lua table that holds nothing is either. */
int pf_config_check(const pf_config *options, const pf_option_info *table, int n,
                    const char *where) {
    pf_config_kind kind = pf_config_kind_of(options);
    bool empty = kind == PF_LIST && pf_config_size(options) == 0;
    if (options && kind != PF_MAP && !empty)
        return pf_fail(PF_EINVAL, "%s: options must be a map of names to values", where);
    for (int i = 0; i < pf_config_size(options); i++) {
        const char *key = pf_config_key(options, i);
        const pf_config *value = pf_config_at(options, i);
        const pf_option_info *option = find_option(table, n, key);
        if (!option) return unknown_option(key, table, n, where);
        if (pf_config_kind_of(value) != PF_NULL) PF_TRY(check_value(value, option, where));
    }
    for (int i = 0; i < n; i++)
        if (table[i].required && !given(options, table[i].name))
            return pf_fail(PF_EINVAL, "%s: option '%s' is required (%s)", where, table[i].name,
                           table[i].doc ? table[i].doc : "no default");
    return PF_OK;
}

double pf_config_number_of(const pf_config *options, const pf_option_info *table, int n,
                           const char *name) {
    const pf_config *value = given(options, name);
    if (value) return pf_config_number(value);
    const pf_option_info *option = find_option(table, n, name);
    return option ? option->number : 0.0;
}

const char *pf_config_string_of(const pf_config *options, const pf_option_info *table, int n,
                                const char *name) {
    const pf_config *value = given(options, name);
    if (value) return pf_config_string(value);
    const pf_option_info *option = find_option(table, n, name);
    return option ? option->string : NULL;
}

int pf_config_texts(const pf_config *options, const char *name) {
    const pf_config *value = given(options, name);
    if (!value) return 0;
    return pf_config_kind_of(value) == PF_LIST ? pf_config_size(value) : 1;
}

const char *pf_config_text_at(const pf_config *options, const char *name, int i) {
    const pf_config *value = given(options, name);
    return pf_config_string(pf_config_kind_of(value) == PF_LIST ? pf_config_at(value, i) : value);
}
