/*
 * path.c - paths as texts, and what is said of one that failed: see disk.h.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "disk.h"

int pf_file_fail(int error, const char *verb, const char *path) {
    char buffer[128];
    int status = error == -ENOENT || error == -ENOTDIR ? PF_ENOTFOUND
                 : error == -ENOMEM                    ? PF_ENOMEM
                                                       : PF_EIO;
    return pf_fail(status, "%s %s: %s", verb, path, pf_disk_words(error, buffer, sizeof buffer));
}

bool pf_path_in_memory(const char *path) {
    return strncmp(path, PF_MEMORY_PATH, sizeof PF_MEMORY_PATH - 1) == 0;
}

/* A path is [its owner][text], so that it can be freed without a word of who made it. */
typedef struct {
    pf_heap *heap;
    size_t bytes;
} owner;

int pf_path(char **path, const pf_engine *engine, const char *format, ...) {
    char first[256]; /* longer ones are printed twice */
    va_list args;
    va_start(args, format);
    int length = pf_vprint(first, sizeof first, format, args);
    va_end(args);
    size_t bytes = sizeof(owner) + (size_t)pf_max(length, 0) + 1;
    owner *o = pf_heap_alloc(engine->heap, bytes);
    *path = NULL;
    if (!o) return pf_fail(PF_ENOMEM, "path: out of memory");
    *o = (owner){engine->heap, bytes};
    *path = (char *)(o + 1);
    if (length >= 0 && length < (int)sizeof first) return memcpy(*path, first, length + 1), PF_OK;
    va_start(args, format);
    pf_vprint(*path, bytes - sizeof *o, format, args);
    va_end(args);
    return PF_OK;
}

void pf_path_free(char *path) {
    owner *o = path ? (owner *)(void *)path - 1 : NULL;
    if (o) pf_heap_free(o->heap, o, o->bytes);
}

const char *pf_path_name(const char *path) {
    const char *slash = strrchr(path, '/');
    if (slash) return slash + 1;
    return pf_path_in_memory(path) ? path + sizeof PF_MEMORY_PATH - 1 : path;
}

int pf_path_parent(char **parent, const pf_engine *engine, const char *path) {
    const char *name = pf_path_name(path);
    if (name == path) return pf_path(parent, engine, ".");
    int length = (int)(name - path);
    if (length > 1 && path[length - 1] == '/') length--; /* all but the root's own */
    return pf_path(parent, engine, "%.*s", length, path);
}
