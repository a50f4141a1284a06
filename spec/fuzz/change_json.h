/* change_json.h - changes to a JSON text that leave it one: a value gives way to another, one of
 * the same text's among them, an entry goes, or stands under another key. */
#ifndef PF_FUZZ_CHANGE_JSON_H
#define PF_FUZZ_CHANGE_JSON_H

#include "fuzz_file.h"

/* A walk through a tree: at 0 it has come to the node that is meant. */
typedef struct {
    int left;
    unsigned how;
    const pf_config *root;
} json_change;

static inline int json_nodes(const pf_config *node) {
    int n = 1;
    for (int i = 0; i < pf_config_size(node); i++) n += json_nodes(pf_config_at(node, i));
    return n;
}

static inline const pf_config *json_node(const pf_config *node, int *left) {
    if ((*left)-- == 0) return node;
    for (int i = 0; i < pf_config_size(node); i++) {
        const pf_config *found = json_node(pf_config_at(node, i), left);
        if (found) return found;
    }
    return NULL;
}

static inline pf_config *json_number(unsigned how, double old) {
    static const double usual[] = {0, 1,   -1, 2,    3,     4,          0.5,   1e300,
                                   8, 1e9, 16, 1e-9, -1e18, 2147483648, 65537, 0x1p53};
    if (how % 4 == 0) return pf_config_new_number(old + 1);
    return pf_config_new_number(usual[how / 4 % 16]);
}

static inline pf_config *json_string(unsigned how, const char *old) {
    char text[128];
    size_t length = old ? strlen(old) : 0, n = 0;
    while (fuzz_words && fuzz_words[n]) n++;
    if (n && how % 2) return pf_config_new_string(fuzz_words[how / 2 % n]);
    if (length > sizeof text / 2) length = sizeof text / 2;
    if (length) memcpy(text, old, length);
    text[LLVMFuzzerMutate((uint8_t *)text, length, sizeof text - 1)] = 0;
    return pf_config_new_string(text);
}

/* What stands in the place of a node; NULL: nothing does. */
static inline pf_config *json_other(const json_change *c, const pf_config *old) {
    unsigned how = c->how / 8;
    int other = (int)(how % (unsigned)json_nodes(c->root));
    switch (c->how % 8) {
    case 0:
        return NULL;
    case 1:
        return pf_config_copy(json_node(c->root, &other));
    case 2:
        return pf_config_new((pf_config_kind)(how % 6));
    case 3:
        return pf_config_new_bool(how % 2);
    case 4:
        return json_string(how, pf_config_string(old));
    default:
        break;
    }
    if (pf_config_kind_of(old) == PF_BOOL) return pf_config_new_bool(!pf_config_number(old));
    if (pf_config_kind_of(old) == PF_STRING) return json_string(how, pf_config_string(old));
    return json_number(how, pf_config_number(old));
}

/* A copy of the tree but for one node. */
static inline pf_config *json_copy(json_change *c, const pf_config *old) {
    pf_config_kind kind = pf_config_kind_of(old);
    if (c->left-- == 0) return json_other(c, old);
    if (kind != PF_LIST && kind != PF_MAP) return pf_config_copy(old);
    pf_config *made = pf_config_new(kind);
    for (int i = 0; i < pf_config_size(old); i++) {
        int before = c->left;
        pf_config *child = json_copy(c, pf_config_at(old, i));
        const char *key = kind == PF_MAP ? pf_config_key(old, i) : NULL;
        if (key && before == 0 && c->how / 8 % 16 == 0) key = "other";
        if (child && (key ? pf_config_set(made, key, child) : pf_config_push(made, child)) < 0)
            __builtin_trap();
    }
    return made;
}

static inline size_t change_json(uint8_t *data, size_t size, size_t max_size, unsigned seed) {
    pf_config *root = NULL;
    char *text = NULL;
    if (seed % 8 == 0 || pf_json_parse(&root, (const char *)data, size) < 0)
        return LLVMFuzzerMutate(data, size, max_size);
    json_change c = {(int)(seed / 8 % (unsigned)json_nodes(root)), seed / 64, root};
    pf_config *made = json_copy(&c, root);
    if (pf_json_write(&text, made, false) >= 0 && strlen(text) <= max_size)
        memcpy(data, text, size = strlen(text));
    if (text) pf_text_free(text);
    pf_config_free(made);
    pf_config_free(root);
    return size;
}

#endif
