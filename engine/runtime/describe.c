/*
 * describe.c - tables as plain data, for help, docs and command lines. Every floor describes its
 * own table with these (pf_X_describe), and api/ puts the parts together (pf_describe).
 *
 * A node hangs in its parent from the start, so that a failure has nothing to free: whoever
 * made the tree frees all of it.
 */
#include "config.h"
#include "number.h"
#include "status.h"

int pf_describe_list(pf_config **list, pf_config *map, const char *key) {
    *list = pf_config_new_beside(map, PF_LIST);
    return pf_config_set(map, key, *list);
}

int pf_describe_map(pf_config **map, pf_config *parent, const char *key) {
    *map = pf_config_new_beside(parent, PF_MAP);
    return key ? pf_config_set(parent, key, *map) : pf_config_push(parent, *map);
}

int pf_describe_text(pf_config *map, const char *key, const char *text) {
    return text ? pf_config_set_string(map, key, text) : PF_OK;
}

/* A default as one writes it; "" where there is none. */
static int describe_default(pf_config *map, const pf_option_info *o) {
    char number[PF_NUMBER_TEXT] = "";
    const char *text = number;
    if (o->kind == PF_OPT_STRING) {
        text = o->string ? o->string : "";
    } else if (o->kind == PF_OPT_BOOL) {
        text = isnan(o->number) ? "" : o->number != 0 ? "true" : "false";
    } else if (o->kind != PF_OPT_TREE && o->kind != PF_OPT_TEXTS) {
        pf_number_short(number, o->number);
    }
    return pf_config_set_string(map, "default", o->required ? "" : text);
}

static int describe_option(pf_config *map, const pf_option_info *o) {
    static const char *const kinds[] = {"int", "number", "bool", "string", "texts", "tree"};
    PF_TRY(pf_config_set_string(map, "name", o->name));
    PF_TRY(pf_config_set_string(map, "kind", kinds[o->kind]));
    PF_TRY(describe_default(map, o));
    PF_TRY(pf_config_set_bool(map, "required", o->required));
    PF_TRY(pf_describe_text(map, "choices", o->choices));
    PF_TRY(pf_describe_text(map, "needs", o->needs));
    return pf_describe_text(map, "doc", o->doc);
}

int pf_describe_options(pf_config *to, const pf_option_info *table, int n) {
    pf_config *list, *row;
    PF_TRY(pf_describe_list(&list, to, "options"));
    for (int i = 0; i < n; i++) {
        PF_TRY(pf_describe_map(&row, list, NULL));
        PF_TRY(describe_option(row, &table[i]));
    }
    return PF_OK;
}
