/*
 * names.c - patterns of the names of tensors and layers: "blocks.1.mlp.up.weight" is made of parts
 * between dots, and a pattern without wildcards stands for a run of whole parts.
 */
#include <string.h>

#include "module.h"

/* Does pattern[0 .. n-1], with `*` for any run and `?` for one character, fit the whole name? The
 * last `*` alone has to be tried anew. */
static bool fits_whole(const char *pattern, size_t n, const char *name) {
    const char *end = pattern + n, *star = NULL, *from = NULL;
    while (*name) {
        if (pattern < end && *pattern == '*') {
            star = pattern++, from = name;
        } else if (pattern < end && (*pattern == '?' || *pattern == *name)) {
            pattern++, name++;
        } else if (star) {
            pattern = star + 1, name = ++from;
        } else {
            return false;
        }
    }
    while (pattern < end && *pattern == '*') pattern++;
    return pattern == end;
}

/* Is pattern[0 .. n-1] a run of whole parts of the name? */
static bool fits_parts(const char *pattern, size_t n, const char *name) {
    for (const char *at = name; n > 0 && at; at = strchr(at, '.')) {
        if (*at == '.') at++;
        if (strncmp(at, pattern, n) == 0 && (at[n] == '\0' || at[n] == '.')) return true;
    }
    return false;
}

bool pf_name_matches(const char *pattern, const char *name) {
    for (const char *at = pattern; at;) {
        const char *bar = strchr(at, '|');
        size_t n = bar ? (size_t)(bar - at) : strlen(at);
        bool wild = memchr(at, '*', n) || memchr(at, '?', n);
        if (wild ? fits_whole(at, n, name) : fits_parts(at, n, name)) return true;
        at = bar ? bar + 1 : NULL;
    }
    return false;
}
