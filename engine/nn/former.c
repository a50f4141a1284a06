/*
 * former.c - the names that tensors had in the files of earlier versions.
 *
 * 0.1.0 made the attention of a kernel of the host's as a layer of type "lua", whose children had
 * numbers: a dropout layer where there was one, then `out`, then `qkv`; `decay` lay in `buffers`.
 * Its definition of the same name (pf_layer_resolver) makes an attention layer now. Only a file
 * whose tree has layers of this type is read so: in any other, what lies at these places is a layer
 * of its own, whatever its shape.
 */
#include <stdio.h>
#include <string.h>

#include "module.h"

/* Where the part of the last attention in a path begins that the layer of Lua's called otherwise
 * ("qkv.weight", "out.bias", "decay"), or NULL. */
static const char *attention_part(const char *name) {
    const char *last = NULL;
    for (const char *at = name; at; at = strchr(at, '.')) {
        if (*at == '.') at++;
        if (!strncmp(at, "qkv.", 4) || !strncmp(at, "out.", 4) || !strcmp(at, "decay")) last = at;
    }
    return last;
}

bool pf_tree_has_former(const pf_config *tree) {
    const char *type = pf_config_string(pf_config_get(tree, "type"));
    if (type && strcmp(type, pf_layer_host.name) == 0) return true;
    const pf_config *children = pf_config_get(tree, "children");
    for (int i = 0; i < pf_config_size(children); i++) {
        if (pf_tree_has_former(pf_config_at(children, i))) return true;
    }
    return false;
}

int pf_find_former(const char *name, pf_find_name find, const void *list) {
    char former[512];
    const char *part = attention_part(name);
    if (!part || strlen(name) + sizeof "buffers." > sizeof former) return -1;
    size_t prefix = (size_t)(part - name), room = sizeof former - prefix;
    memcpy(former, name, prefix);
    if (part[0] == 'd') {
        snprintf(former + prefix, room, "buffers.%s", part);
    } else {
        snprintf(former + prefix, room, "3%s", part + 3);
        int qkv = find(list, former) >= 0 ? 3 : 2;
        former[prefix] = (char)('0' + (part[0] == 'q' ? qkv : qkv - 1));
    }
    return find(list, former);
}
