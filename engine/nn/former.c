/*
 * former.c - the names that tensors had in the files of earlier versions.
 *
 * 0.1.0 made the attention of a kernel of the host's as a layer of type "lua", whose children had
 * numbers: a dropout layer where there was one, then `out`, then `qkv`; `decay` lay in `buffers`.
 * Its definition of the same name (pf_layer_resolver) makes an attention layer now.
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
