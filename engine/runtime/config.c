/*
 * config.c - the tree of plain data, and the check of options against their table. What must
 * hold: a node has one parent or none, so freeing a root frees everything once; freeing needs
 * no stack, however deep a tree is. Nodes live in plain C memory: they pass between hosts,
 * bindings and engines.
 */
#include "config.h"

#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "status.h"

enum { COPY_DEPTH = 1000, WORD_MAX = 64, CHOICES_MAX = 48 };

/* A list and a map are an array of children; a map has a key beside each, in the order of their
 * coming. Maps are small: a key is looked for one by one. */
struct pf_config {
    pf_config_kind kind;
    double number; /* NUMBER, and BOOL as 0 or 1 */
    char *string;  /* STRING */
    pf_config *parent;
    int n, room; /* LIST and MAP */
    pf_config **child;
    char **key; /* MAP */
};

/* ---- nodes ---- */

static pf_config *no_memory(void) {
    pf_fail(PF_ENOMEM, "config: out of memory");
    return NULL;
}

static char *copy_text(const char *text) {
    size_t bytes = strlen(text) + 1;
    char *copy = malloc(bytes);
    return copy ? memcpy(copy, text, bytes) : (char *)no_memory();
}

pf_config *pf_config_new(pf_config_kind kind) {
    pf_config *node = calloc(1, sizeof *node);
    if (!node) return no_memory();
    node->kind = kind;
    return node;
}

pf_config *pf_config_new_number(double value) {
    pf_config *node = pf_config_new(PF_NUMBER);
    if (node) node->number = value;
    return node;
}

pf_config *pf_config_new_bool(bool value) {
    pf_config *node = pf_config_new(PF_BOOL);
    if (node) node->number = value;
    return node;
}

pf_config *pf_config_new_string(const char *value) {
    pf_config *node = pf_config_new(PF_STRING);
    if (!node) return NULL;
    node->string = copy_text(value ? value : "");
    if (node->string) return node;
    free(node);
    return NULL;
}

static void free_one(pf_config *node) {
    free(node->string);
    free(node->child);
    free(node->key);
    free(node);
}

/* Goes down to a leaf, frees it, goes on from its parent, whose `n` says how many are left: a
 * tree of any depth needs no stack. A node that still stands in a parent is the parent's to
 * free. */
void pf_config_free(pf_config *root) {
    if (!root || root->parent) return;
    for (pf_config *node = root;;) {
        if (node->n > 0) {
            node->n--;
            if (node->key) free(node->key[node->n]);
            node = node->child[node->n];
            continue;
        }
        pf_config *parent = node->parent;
        free_one(node);
        if (!parent) return;
        node = parent;
    }
}

/* ---- looking ---- */

pf_config_kind pf_config_kind_of(const pf_config *node) { return node ? node->kind : PF_NULL; }

int pf_config_size(const pf_config *node) { return node ? node->n : 0; }

const char *pf_config_key(const pf_config *map, int index) {
    return map && map->key && index >= 0 && index < map->n ? map->key[index] : NULL;
}

pf_config *pf_config_at(const pf_config *node, int index) {
    return node && index >= 0 && index < node->n ? node->child[index] : NULL;
}

static int find_key(const pf_config *map, const char *key) {
    if (!map || map->kind != PF_MAP || !key) return -1;
    for (int i = 0; i < map->n; i++)
        if (strcmp(map->key[i], key) == 0) return i;
    return -1;
}

pf_config *pf_config_get(const pf_config *map, const char *key) {
    int i = find_key(map, key);
    return i < 0 ? NULL : map->child[i];
}

double pf_config_number(const pf_config *node) { return node ? node->number : 0.0; }

const char *pf_config_string(const pf_config *node) { return node ? node->string : NULL; }

/* ---- building ---- */

/* Room for one more entry. */
static int grow(pf_config *node) {
    if (node->n < node->room) return PF_OK;
    if (node->room > (1 << 28)) return pf_fail(PF_ENOMEM, "config: a node with too many entries");
    int room = node->room ? 2 * node->room : 8;
    pf_config **child = realloc(node->child, (size_t)room * sizeof *child);
    if (!child) return no_memory(), PF_ENOMEM;
    node->child = child;
    if (node->kind == PF_MAP) {
        char **key = realloc(node->key, (size_t)room * sizeof *key);
        if (!key) return no_memory(), PF_ENOMEM;
        node->key = key;
    }
    node->room = room;
    return PF_OK;
}

/* May `child` hang under `node`? It must be a root, and not the one that node hangs under. */
static int check_child(const pf_config *node, pf_config_kind kind, const pf_config *child) {
    if (!child) return PF_ENOMEM; /* its maker has left the message */
    if (child->parent) return pf_fail(PF_EINVAL, "config: the node already has a parent");
    for (const pf_config *up = node; up; up = up->parent)
        if (up == child) return pf_fail(PF_EINVAL, "config: a node cannot hold itself");
    if (!node || node->kind != kind)
        return pf_fail(PF_EINVAL, "config: this needs a %s", kind == PF_MAP ? "map" : "list");
    return PF_OK;
}

/* A child that a failure leaves without a parent is freed: it was handed over. One that
 * has a parent, or is above `node`, has an owner already and stays. */
static int refuse_child(const pf_config *node, pf_config *child, int status) {
    bool owned = !child || child->parent;
    for (const pf_config *up = node; up && !owned; up = up->parent) owned = up == child;
    if (!owned) pf_config_free(child);
    return status;
}

int pf_config_push(pf_config *list, pf_config *child) {
    int status = check_child(list, PF_LIST, child);
    if (status == PF_OK) status = grow(list);
    if (status < 0) return refuse_child(list, child, status);
    child->parent = list;
    list->child[list->n++] = child;
    return PF_OK;
}

/* A key that is there keeps its place and gets the new child. */
int pf_config_set(pf_config *map, const char *key, pf_config *child) {
    int status = check_child(map, PF_MAP, child);
    if (status == PF_OK && !key) status = pf_fail(PF_EINVAL, "config: a key is missing");
    if (status < 0) return refuse_child(map, child, status);
    int i = find_key(map, key);
    if (i < 0) {
        status = grow(map);
        char *name = status < 0 ? NULL : copy_text(key);
        if (!name) return refuse_child(map, child, PF_ENOMEM);
        i = map->n++;
        map->key[i] = name;
    } else {
        map->child[i]->parent = NULL;
        pf_config_free(map->child[i]);
    }
    child->parent = map;
    map->child[i] = child;
    return PF_OK;
}

void pf_config_remove(pf_config *map, const char *key) {
    int at = find_key(map, key);
    if (at < 0) return;
    free(map->key[at]);
    map->child[at]->parent = NULL;
    pf_config_free(map->child[at]);
    for (int i = at; i + 1 < map->n; i++) {
        map->key[i] = map->key[i + 1];
        map->child[i] = map->child[i + 1];
    }
    map->n--;
}

int pf_config_set_number(pf_config *map, const char *key, double value) {
    return pf_config_set(map, key, pf_config_new_number(value));
}

int pf_config_set_bool(pf_config *map, const char *key, bool value) {
    return pf_config_set(map, key, pf_config_new_bool(value));
}

int pf_config_set_string(pf_config *map, const char *key, const char *value) {
    return pf_config_set(map, key, pf_config_new_string(value));
}

static pf_config *copy_tree(const pf_config *node, int depth) {
    if (depth > COPY_DEPTH) {
        pf_fail(PF_EINVAL, "config: nested deeper than %d", COPY_DEPTH);
        return NULL;
    }
    pf_config *copy =
        node->kind == PF_STRING ? pf_config_new_string(node->string) : pf_config_new(node->kind);
    if (!copy) return NULL;
    copy->number = node->number;
    for (int i = 0; i < node->n; i++) {
        pf_config *child = copy_tree(node->child[i], depth + 1);
        int status = node->kind == PF_MAP ? pf_config_set(copy, node->key[i], child)
                                          : pf_config_push(copy, child);
        if (status == PF_OK) continue;
        pf_config_free(copy);
        return NULL;
    }
    return copy;
}

pf_config *pf_config_copy(const pf_config *node) { return node ? copy_tree(node, 1) : NULL; }

void pf_text_free(char *text) { free(text); }

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

/* A third of the longer word may differ, so a name of two letters is near to itself alone. */
const char *pf_nearest(const char *word, const char *const *names, int n) {
    const char *best = NULL;
    int least = WORD_MAX;
    if (!word || strlen(word) >= WORD_MAX) return NULL;
    for (int i = 0; i < n; i++) {
        if (!names[i] || strlen(names[i]) >= WORD_MAX) continue;
        int far = distance(word, names[i]);
        int longer = (int)strlen(strlen(word) > strlen(names[i]) ? word : names[i]);
        if (far > longer / 3 || far >= least) continue;
        least = far;
        best = names[i];
    }
    return best;
}

/* ---- options against their table ---- */

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
    switch (node->kind) {
    case PF_NULL:
        return "null";
    case PF_BOOL:
        return node->number != 0.0 ? "true" : "false";
    case PF_LIST:
        return "a list";
    case PF_MAP:
        return "a map";
    case PF_STRING:
        snprintf(text, bytes, "'%.48s'", node->string);
        return text;
    case PF_NUMBER:
        break;
    }
    snprintf(text, bytes, "%.12g", node->number);
    return text;
}

/* Numbers are doubles: a whole one is exact up to 2^53, and beyond that it is no option. */
static int check_number(const pf_config *value, const pf_option_info *option, const char *where) {
    double v = value->number;
    bool whole = option->kind == PF_OPT_INT, ranged = option->low != 0.0 || option->high != 0.0;
    bool good = value->kind == PF_NUMBER && isfinite(v);
    if (good && whole) good = v == floor(v) && fabs(v) <= 0x1p53;
    if (good && ranged) good = v >= option->low && v <= option->high;
    if (good) return PF_OK;
    char range[64] = "", got[64];
    if (ranged) snprintf(range, sizeof range, " from %.12g to %.12g", option->low, option->high);
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
    if (value->kind != PF_STRING)
        return pf_fail(PF_EINVAL, "%s: '%s' must be a string, got %s", where, option->name,
                       value_text(value, got, sizeof got));
    if (!option->choices) return PF_OK;
    int n = split_choices(option->choices, buffer, sizeof buffer, word);
    for (int i = 0; i < n; i++) {
        if (strcmp(value->string, word[i]) == 0) return PF_OK;
        int length = snprintf(list + used, sizeof list - used, "%s%s", i ? ", " : "", word[i]);
        if (length > 0 && used + (size_t)length < sizeof list) used += (size_t)length;
    }
    list[used] = '\0';
    return pf_fail(PF_EINVAL, "%s: '%s' must be one of %s, got %s%s", where, option->name, list,
                   value_text(value, got, sizeof got),
                   hint(near, sizeof near, value->string, word, n));
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
        if (value->kind != PF_BOOL) must = "true or false";
        break;
    case PF_OPT_TREE:
        if (value->kind != PF_LIST && value->kind != PF_MAP) must = "a list or a map";
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
    char near[96];
    int count = n < PF_COUNT(names) ? n : PF_COUNT(names);
    for (int i = 0; i < count; i++) names[i] = table[i].name;
    return pf_fail(PF_EINVAL, "%s: unknown option '%.64s'%s", where, key,
                   hint(near, sizeof near, key, names, count));
}

/* A null stands for an option that is not given. */
static const pf_config *given(const pf_config *options, const char *name) {
    const pf_config *value = pf_config_get(options, name);
    return value && value->kind != PF_NULL ? value : NULL;
}

/* An empty list stands for an empty map: a Lua table that holds nothing is either. */
int pf_config_check(const pf_config *options, const pf_option_info *table, int n,
                    const char *where) {
    if (options && options->kind != PF_MAP && !(options->kind == PF_LIST && options->n == 0))
        return pf_fail(PF_EINVAL, "%s: options must be a map of names to values", where);
    for (int i = 0; i < pf_config_size(options); i++) {
        const pf_option_info *option = find_option(table, n, options->key[i]);
        if (!option) return unknown_option(options->key[i], table, n, where);
        if (options->child[i]->kind != PF_NULL)
            PF_TRY(check_value(options->child[i], option, where));
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
    if (value) return value->number;
    const pf_option_info *option = find_option(table, n, name);
    return option ? option->number : 0.0;
}

const char *pf_config_string_of(const pf_config *options, const pf_option_info *table, int n,
                                const char *name) {
    const pf_config *value = given(options, name);
    if (value) return value->string;
    const pf_option_info *option = find_option(table, n, name);
    return option ? option->string : NULL;
}
