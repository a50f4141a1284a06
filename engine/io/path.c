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
    return pf_fail(status, "%s %s: %s", verb, path, strerror_r(-error, buffer, sizeof buffer));
}

bool pf_path_in_memory(const char *path) {
    return strncmp(path, PF_MEMORY_PATH, sizeof PF_MEMORY_PATH - 1) == 0;
}

int pf_path(char **path, const char *format, ...) {
    va_list args;
    va_start(args, format);
    int length = vasprintf(path, format, args);
    va_end(args);
    if (length >= 0) return PF_OK;
    *path = NULL;
    return pf_fail(PF_ENOMEM, "path: out of memory");
}

const char *pf_path_name(const char *path) {
    const char *slash = strrchr(path, '/');
    if (slash) return slash + 1;
    return pf_path_in_memory(path) ? path + sizeof PF_MEMORY_PATH - 1 : path;
}

int pf_path_parent(char **parent, const char *path) {
    const char *name = pf_path_name(path);
    if (name == path) return pf_path(parent, ".");
    int length = (int)(name - path);
    if (length > 1 && path[length - 1] == '/') length--; /* all but the root's own */
    return pf_path(parent, "%.*s", length, path);
}
