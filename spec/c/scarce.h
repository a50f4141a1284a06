/* scarce.h - memory that runs out when a test wants it to: an allocator of which call `at` fails,
 * and all that follow, and an engine that has it. */
#ifndef PF_SCARCE_H
#define PF_SCARCE_H

#include <stdlib.h>

#include "check.h"
#include "performer.h"

typedef struct {
    int64_t at, calls, live;
} scarce;

static void *scarce_resize(void *context, void *block, size_t old, size_t bytes) {
    scarce *s = context;
    if (bytes > old && s->calls++ >= s->at) return NULL;
    s->live += (int64_t)bytes - (int64_t)old;
    if (bytes > 0) return realloc(block, bytes);
    free(block);
    return NULL;
}

/* No call fails, until scarce_begins says which one. */
static void scarce_ends(scarce *s) { s->at = INT64_MAX; }
static void scarce_begins(scarce *s, int64_t at) { s->calls = 0, s->at = at; }

/* One thread, and nothing kept for later. */
static pf_engine *scarce_engine(scarce *s) {
    pf_allocator allocator = {sizeof allocator, scarce_resize, s};
    pf_options options = PF_OPTIONS_DEFAULT;
    options.threads = 1, options.allocator = &allocator, options.no_cache = true;
    pf_engine *e = NULL;
    scarce_ends(s);
    CHECK_OK(pf_engine_open(&e, &options));
    return e;
}

#endif
