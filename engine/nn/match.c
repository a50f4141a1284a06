/*
 * match.c - patterns of tensors' names, for who speaks of some parameters of a model.
 */
#include <string.h>

#include "module.h"

/* The whole name against one pattern of n letters. Where letters differ the last * takes one
 * letter more: there is no other way back. */
static bool fits(const char *pattern, size_t n, const char *name) {
    const char *end = pattern + n, *star = NULL, *from = NULL;
    while (*name) {
        if (pattern < end && *pattern == '*') {
            star = ++pattern, from = name;
        } else if (pattern < end && (*pattern == '?' || *pattern == *name)) {
            pattern++, name++;
        } else if (star) {
            pattern = star, name = ++from;
        } else {
            return false;
        }
    }
    while (pattern < end && *pattern == '*') pattern++;
    return pattern == end;
}

/* A run of whole parts of the name. */
static bool has_parts(const char *parts, size_t n, const char *name) {
    for (const char *at = name; at; at = strchr(at, '.')) {
        if (*at == '.') at++;
        if (strncmp(at, parts, n) == 0 && (at[n] == '\0' || at[n] == '.')) return true;
    }
    return false;
}

bool pf_name_matches(const char *pattern, const char *name) {
    while (*pattern) {
        size_t n = strcspn(pattern, "|"), plain = strcspn(pattern, "|*?");
        if (n > 0 && (plain < n ? fits(pattern, n, name) : has_parts(pattern, n, name)))
            return true;
        pattern += n;
        if (*pattern) pattern++;
    }
    return false;
}
