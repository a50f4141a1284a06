/*
 * heap_blocks.c - see heap_blocks.h.
 */
#include "heap_blocks.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

pf_heap_block pf_in_use = {NULL, &pf_in_use};

/* The cache may hold this much whatever was ever live. */
static const size_t cache_floor = (size_t)4 << 20;

/* ---- size classes ---- */

static int log2_floor(size_t n) { return 63 - __builtin_clzll((unsigned long long)n); }

/* The class that holds `bytes`, and its size. False when no such block can exist. Up to 512 bytes
 * each multiple of 64 is a class; above, between 2^k and 2^(k+1), each multiple of 2^(k-3). */
bool pf_class_of(size_t bytes, int *class, size_t *size) {
    if (bytes > PTRDIFF_MAX / 2) return false;
    if (bytes < 1) bytes = 1;
    if (bytes <= (size_t)1 << PF_FINE_LOG) {
        *class = (int)((bytes - 1) / PF_ALIGN);
        *size = (size_t)(*class + 1) * PF_ALIGN;
        return true;
    }
    int log = log2_floor(bytes - 1), shift = log - 3;
    size_t eighth = ((bytes - 1) >> shift) + 1; /* 9 .. 16 eighths of 2^log */
    *size = eighth << shift;
    *class = 8 + (log - PF_FINE_LOG) * 8 + (int)eighth - 9;
    return true;
}

/* ---- the host's side ---- */

/* Pages of 2 MB under a large block of the C library's: a stream through memory is a quarter
 * faster, since the processor fetches ahead within a page only. A hint: where the system has
 * no such pages nothing changes. The rest of the first and last page belongs to malloc, whose
 * bytes lie as well in a large page. */
static void hint_pages(void *raw, size_t bytes) {
#ifdef MADV_HUGEPAGE
    enum { PAGE = 4096, WORTH_IT = 256 << 10 };
    if (bytes < WORTH_IT) return;
    uintptr_t first = (uintptr_t)raw & ~(uintptr_t)(PAGE - 1);
    madvise((void *)first, (uintptr_t)raw + bytes - first, MADV_HUGEPAGE);
#else
    (void)raw, (void)bytes;
#endif
}

void *pf_host_alloc(const pf_allocator *a, size_t bytes) {
    if (a->resize) return a->resize(a->context, NULL, 0, bytes);
    void *raw = malloc(bytes);
    if (raw) hint_pages(raw, bytes);
    return raw;
}

void pf_host_free(const pf_allocator *a, void *raw, size_t bytes) {
    if (a->resize)
        a->resize(a->context, raw, bytes, 0);
    else
        free(raw);
}

void *pf_host_resize(const pf_allocator *a, void *block, size_t bytes) {
    if (!a->resize && bytes > 0) return realloc(block, bytes);
    if (!a->resize) return free(block), NULL;
    size_t *raw = block ? (size_t *)block - 1 : NULL, room = raw ? *raw : 0;
    if (block && bytes <= room && bytes > room / 2) return block;
    size_t *fresh = bytes && bytes < PTRDIFF_MAX ? pf_host_alloc(a, bytes + sizeof *raw) : NULL;
    if (!fresh && bytes > 0) return bytes <= room ? block : NULL;
    if (fresh) *fresh = bytes;
    if (fresh && block) memcpy(fresh + 1, block, bytes < room ? bytes : room);
    if (block) pf_host_free(a, raw, room + sizeof *raw);
    return fresh ? fresh + 1 : NULL;
}

/* A fresh block of a class of `size` bytes: its aligned bytes, or NULL. */
static void *block_new(const pf_allocator *a, size_t size) {
    char *raw = pf_host_alloc(a, size + PF_BLOCK_EXTRA);
    if (!raw) return NULL;
    uintptr_t first = (uintptr_t)raw + sizeof(pf_heap_block);
    char *bytes = raw + sizeof(pf_heap_block) + (PF_ALIGN - first % PF_ALIGN) % PF_ALIGN;
    pf_header_of(bytes)->raw = raw;
    return bytes;
}

void pf_block_delete(const pf_allocator *a, void *bytes, size_t size) {
    ASAN_UNPOISON_MEMORY_REGION(bytes, size);
    pf_host_free(a, pf_header_of(bytes)->raw, size + PF_BLOCK_EXTRA);
}

/* ---- lock and cache ---- */

static size_t size_of_class(int class) {
    if (class < 8) return (size_t)(class + 1) * PF_ALIGN;
    return (size_t)((class - 8) % 8 + 9) << ((class - 8) / 8 + PF_FINE_LOG - 3);
}

/* Takes the largest cached block out; NULL when there is none. Lock held. */
static void *take_largest(pf_heap *h, size_t *size) {
    for (int class = PF_CLASSES - 1; class >= 0; class --) {
        pf_heap_block *b = h->cache[class];
        if (!b) continue;
        h->cache[class] = b->next;
        *size = size_of_class(class);
        h->cached -= *size + PF_BLOCK_EXTRA;
        return b + 1;
    }
    return NULL;
}

void pf_cache_shrink(pf_heap *h, size_t keep) {
    for (;;) {
        size_t size = 0;
        pf_heap_lock(h);
        void *bytes = h->cached > keep ? take_largest(h, &size) : NULL;
        pf_heap_unlock(h);
        if (!bytes) return;
        pf_block_delete(&h->allocator, bytes, size);
    }
}

/* The budget for blocks; 0: none left. Lock held. */
static size_t block_budget(const pf_heap *h) {
    if (!h->budget) return SIZE_MAX;
    return h->budget > h->charged ? h->budget - h->charged : 0;
}

/* What may stay cached beside `live` bytes: within the budget, and within one and a half
 * times what was ever live at once, so that a program of ever new shapes does not pile up
 * blocks of every size. Lock held. */
size_t pf_cache_room(const pf_heap *h, size_t live) {
    size_t most = h->mark > live ? h->mark : live;
    size_t total = most < SIZE_MAX / 2 ? most + most / 2 : most;
    if (total < live + cache_floor) total = live + cache_floor;
    if (total > block_budget(h)) total = block_budget(h);
    return total > live ? total - live : 0;
}

/* Lock held, so a read and then a write of the atomics will do. */
static void count_live(pf_heap *h, size_t bytes) {
    size_t live = h->live + bytes;
    h->live = live;
    h->blocks++;
    if (live > h->peak) h->peak = live;
    if (live > h->mark) h->mark = live;
}

/* A cached block of this class, counted as live, or NULL. */
static void *from_cache(pf_heap *h, int class, size_t size) {
    pf_heap_lock(h);
    pf_heap_block *b = h->cache[class];
    if (b) {
        h->cache[class] = b->next;
        h->cached -= size + PF_BLOCK_EXTRA;
        count_live(h, size + PF_BLOCK_EXTRA);
    }
    pf_heap_unlock(h);
    return b ? b + 1 : NULL;
}

/* A block from the host, counted as live; makes room first and asks twice. The bytes are
 * counted before the host is asked, so that two threads cannot share the budget's rest. What the
 * cache may hold is found under the lock, given back without it, and looked at again: another
 * thread may have cached meanwhile, and from the fifth look on the whole cache goes. */
static void *from_host(pf_heap *h, size_t size) {
    size_t total = size + PF_BLOCK_EXTRA, peak, mark;
    for (int attempt = 0;; attempt++) {
        pf_heap_lock(h);
        size_t budget = block_budget(h);
        bool fits = h->live <= budget && total <= budget - h->live;
        size_t room = fits ? pf_cache_room(h, h->live + total) : 0;
        if (fits && h->cached <= room) break; /* with the lock */
        pf_heap_unlock(h);
        if (!fits) return NULL;
        pf_cache_shrink(h, attempt < 4 ? room : 0);
    }
    peak = h->peak, mark = h->mark;
    count_live(h, total);
    pf_heap_unlock(h);
    void *bytes = block_new(&h->allocator, size);
    if (!bytes) {
        pf_cache_shrink(h, 0);
        bytes = block_new(&h->allocator, size);
    }
    if (bytes) return bytes;
    pf_heap_lock(h);
    h->live -= total;
    h->blocks--;
    /* The marks forget a block that never was, unless others moved them meanwhile. */
    h->peak = peak > h->live ? peak : (size_t)h->live;
    h->mark = mark > h->live ? mark : (size_t)h->live;
    pf_heap_unlock(h);
    return NULL;
}

void *pf_block_take(pf_heap *h, int class, size_t size) {
    void *bytes = from_cache(h, class, size);
    return bytes ? bytes : from_host(h, size);
}
