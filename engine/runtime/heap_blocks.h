/*
 * heap_blocks.h - the lower half of the heap, behind heap.c: what a block is, size classes, the
 * host's side, and the cache of freed blocks.
 *
 * A block from the host is [slack][header][PF_ALIGN-aligned bytes the caller sees]; the
 * header knows where the host's block began. Sizes are rounded up to classes, eight a power
 * of two, so that at most an eighth is lost and a freed block fits the next request like it.
 *
 * What must hold, under the lock: `live` is the host bytes of blocks that callers hold,
 * `cached` of blocks that wait, `charged` what is held outside; their sum never exceeds the
 * budget. The host's allocator is called outside the lock.
 */
#ifndef PF_HEAP_BLOCKS_H
#define PF_HEAP_BLOCKS_H

#include <stdatomic.h>

#include "fork.h"
#include "heap.h"

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define PF_ASAN 1
#endif
#endif
#if defined(__SANITIZE_ADDRESS__)
#define PF_ASAN 1
#endif
#ifdef PF_ASAN
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(at, bytes)   ((void)(at), (void)(bytes))
#define ASAN_UNPOISON_MEMORY_REGION(at, bytes) ((void)(at), (void)(bytes))
#endif

/* Stands right before the bytes that the caller sees. */
typedef struct pf_heap_block {
    struct pf_heap_block
        *next; /* in its class's list, while cached; a mark while a caller has it */
    void *raw; /* what the host gave; of a mark: pf_in_use itself */
} pf_heap_block;

extern pf_heap_block pf_in_use; /* a mark that is no block */

enum {
    PF_BLOCK_EXTRA = PF_ALIGN - 1 + (int)sizeof(pf_heap_block), /* asked for beside the class */
    PF_FINE_LOG = 9, /* up to 512 bytes: multiples of 64 */
    PF_CLASSES = 8 + (64 - PF_FINE_LOG) * 8
};

struct pf_heap {
    pf_allocator allocator;
    size_t budget;
    pf_spin lock;
    size_t refs, blocks;      /* under the lock, like all that follows */
    atomic_size_t live, peak; /* written under the lock, read without */
    atomic_size_t charged;    /* likewise */
    pf_account *pays;         /* for new blocks, or NULL */
    size_t cached, mark;      /* mark: the highest live ever, resets do not touch it */
    void *kept;               /* the block that goes with the heap, or NULL */
    size_t kept_bytes;
    bool uncached;
    pf_heap_block *cache[PF_CLASSES];
};

static inline void pf_heap_lock(pf_heap *h) { pf_spin_lock(&h->lock); }
static inline void pf_heap_unlock(pf_heap *h) { pf_spin_unlock(&h->lock); }
static inline pf_heap_block *pf_header_of(void *bytes) { return (pf_heap_block *)bytes - 1; }

/* The class that holds `bytes`, and its size. False when no such block can exist. */
bool pf_class_of(size_t bytes, int *class, size_t *size);
/* The host's memory as it is. */
void *pf_host_alloc(const pf_allocator *a, size_t bytes);
void pf_host_free(const pf_allocator *a, void *raw, size_t bytes);
/* The same for blocks that change their size: bytes 0 frees, and fewer never fail. What the host's
 * allocator gives is 8 bytes larger, which say how large. */
void *pf_host_resize(const pf_allocator *a, void *block, size_t bytes);
/* Back to the host; `size` is the class's. */
void pf_block_delete(const pf_allocator *a, void *bytes, size_t size);

/* Gives cached blocks back, the largest first, until at most `keep` bytes are cached. */
void pf_cache_shrink(pf_heap *h, size_t keep);
/* What may stay cached beside `live` bytes. Lock held. */
size_t pf_cache_room(const pf_heap *h, size_t live);
/* A block of this class, counted as live, from the cache or from the host; or NULL. */
void *pf_block_take(pf_heap *h, int class, size_t size);

#endif
