/*
 * outside.h - what the library asks of the C library past the engine's allocator: malloc, calloc
 * and realloc of a test program are its own, count what is asked between outside_begin and
 * outside_end, and say no where the test does. Not in programs with a sanitizer, whose they are:
 * there nothing is counted.
 *
 * What the C library (opendir, qsort), the loader and libgomp ask for themselves is left out: some
 * of them end the process where they get nothing, and no library can help that.
 */
#ifndef PF_OUTSIDE_H
#define PF_OUTSIDE_H

#include <dlfcn.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define OUTSIDE_COUNTED 0
#else
#define OUTSIDE_COUNTED 1
#endif

static struct {
    bool on;
    const int *asleep;    /* above 0 the test itself is at work */
    bool (*refuse)(void); /* shall this one fail? NULL: none */
    long n, quiet;        /* asked for; of those by who is left out */
} outside;

static inline void outside_begin(bool (*refuse)(void), const int *asleep) {
    outside.refuse = refuse, outside.asleep = asleep;
    outside.n = outside.quiet = 0, outside.on = true;
}
static inline void outside_end(void) { outside.on = false; }

#if OUTSIDE_COUNTED
extern void *__libc_malloc(size_t bytes);
extern void *__libc_calloc(size_t n, size_t bytes);
extern void *__libc_realloc(void *block, size_t bytes);
extern void __libc_free(void *block);

/* False: this one is to fail. caller: where the call came from. */
static inline bool outside_allows(void *caller) {
    static _Thread_local bool inside;
    Dl_info info;
    if (!outside.on || inside || *outside.asleep > 0) return true;
    inside = true;
    const char *name = dladdr(caller, &info) && info.dli_fname ? info.dli_fname : "";
    bool quiet = strstr(name, "libgomp") || strstr(name, "ld-linux") || strstr(name, "libc.so");
    outside.n += !quiet, outside.quiet += quiet;
    bool allows = quiet || !outside.refuse || !outside.refuse();
    inside = false;
    if (!allows) errno = ENOMEM;
    return allows;
}

#define OUTSIDE_SEEN __attribute__((visibility("default"))) /* by the libraries too */
OUTSIDE_SEEN void *malloc(size_t bytes) {
    return outside_allows(__builtin_return_address(0)) ? __libc_malloc(bytes) : NULL;
}
OUTSIDE_SEEN void *calloc(size_t n, size_t bytes) {
    return outside_allows(__builtin_return_address(0)) ? __libc_calloc(n, bytes) : NULL;
}
OUTSIDE_SEEN void *realloc(void *block, size_t bytes) {
    return outside_allows(__builtin_return_address(0)) ? __libc_realloc(block, bytes) : NULL;
}
#else
#define __libc_realloc realloc
#define __libc_free    free
#endif

/* For the engine's allocator, which is no outside. */
static inline void *outside_resize(void *block, size_t bytes) {
    if (bytes > 0) return __libc_realloc(block, bytes);
    __libc_free(block);
    return NULL;
}

#endif
