/*
 * host.h - an allocator as a host would bring it: counts calls, blocks and bytes, checks that
 * sizes come back as they went, gives blocks at the worst alignment, and fails on demand
 * (the n-th allocation, once or from there on).
 */
#ifndef PF_HOST_H
#define PF_HOST_H

#include <stdlib.h>
#include <string.h>

#include "performer.h"

typedef struct {
    long calls;   /* allocations asked for */
    long fail_at; /* number of the allocation that fails, from 1; 0: none */
    int fail_on;  /* ... and all after it */
    long blocks;  /* outstanding */
    size_t bytes; /* outstanding */
    int wrong;    /* sizes that did not come back as they went */
    pf_allocator allocator;
} host_memory;

enum { HOST_FRONT = 24 }; /* keeps the size, and shifts a block to an odd multiple of 8 */

static inline void *host_resize(void *context, void *block, size_t old_bytes, size_t bytes) {
    host_memory *host = context;
    if (!block) {
        host->calls++;
        if (host->fail_at &&
            (host->fail_on ? host->calls >= host->fail_at : host->calls == host->fail_at))
            return NULL;
        char *raw = malloc(bytes + HOST_FRONT);
        if (!raw) return NULL;
        memcpy(raw, &bytes, sizeof bytes);
        host->blocks++;
        host->bytes += bytes;
        return raw + HOST_FRONT;
    }
    char *raw = (char *)block - HOST_FRONT;
    size_t had;
    memcpy(&had, raw, sizeof had);
    if (had != old_bytes || bytes != 0) host->wrong++;
    host->blocks--;
    host->bytes -= had;
    free(raw);
    return NULL;
}

static inline pf_options host_options(host_memory *host) {
    pf_options options = PF_OPTIONS_DEFAULT;
    host->allocator = (pf_allocator){sizeof host->allocator, host_resize, host};
    options.allocator = &host->allocator;
    return options;
}

#endif
