/* zlib_heap.h - zlib's memory is the engine's too: [bytes][what it sees], aligned for anything. */
#ifndef PF_ZLIB_HEAP_H
#define PF_ZLIB_HEAP_H

#include <string.h>

#include <zlib.h>

#include "runtime.h"

enum { PF_ZLIB_FRONT = 16 };

/* For zalloc and zfree; opaque is the heap. */
static inline void *pf_zlib_take(void *heap, uInt n, uInt size) {
    size_t bytes = (size_t)n * size + PF_ZLIB_FRONT;
    char *block = pf_heap_alloc(heap, bytes);
    if (!block) return NULL;
    memcpy(block, &bytes, sizeof bytes);
    return block + PF_ZLIB_FRONT;
}

static inline void pf_zlib_give(void *heap, void *seen) {
    char *block = (char *)seen - PF_ZLIB_FRONT;
    size_t bytes;
    memcpy(&bytes, block, sizeof bytes);
    pf_heap_free(heap, block, bytes);
}

#endif
