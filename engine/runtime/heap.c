/*
 * heap.c - the heap behind everything the engine allocates.
 *
 * A block from the host is [slack][header][PF_ALIGN-aligned bytes the caller sees]; the
 * header knows where the host's block began. Sizes are rounded up to classes, eight a power
 * of two, so that at most an eighth is lost and a freed block fits the next request like it.
 *
 * What must hold, under the lock: `live` is the host bytes of blocks that callers hold,
 * `cached` of blocks that wait; live + cached never exceeds the budget. The host's allocator
 * is called outside the lock. The heap dies when it has neither references nor blocks: every
 * block that a caller holds keeps it alive, so a tensor needs no reference of its own.
 */
#include "heap.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "fork.h"
#include "status.h"

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
typedef struct block {
    struct block *next; /* in its class's list, while cached; &in_use while a caller has it */
    void *raw;          /* what the host gave */
} block;

static block in_use; /* a mark that is no block */

enum {
    EXTRA = PF_ALIGN - 1 + (int)sizeof(block), /* bytes the host is asked for beside the class */
    FINE_LOG = 9,                              /* up to 512 bytes: every multiple of 64 */
    CLASSES = 8 + (64 - FINE_LOG) * 8
};
/* The cache may hold this much whatever was ever live. */
static const size_t cache_floor = (size_t)4 << 20;

struct pf_heap {
    pf_allocator allocator;
    size_t budget;
    pf_spin lock;
    size_t refs, blocks;      /* under the lock, like all that follows */
    atomic_size_t live, peak; /* written under the lock, read without */
    size_t cached, mark;      /* mark: the highest live ever, resets do not touch it */
    void *kept;               /* the block that goes with the heap, or NULL */
    size_t kept_bytes;
    bool uncached;
    block *cache[CLASSES];
};

/* ---- size classes ---- */

static int log2_floor(size_t n) { return 63 - __builtin_clzll((unsigned long long)n); }

/* The class that holds `bytes`, and its size. False when no such block can exist. Up to 512 bytes
 * each multiple of 64 is a class; above, between 2^k and 2^(k+1), each multiple of 2^(k-3). */
static bool class_of(size_t bytes, int *class, size_t *size) {
    if (bytes > PTRDIFF_MAX / 2) return false;
    if (bytes < 1) bytes = 1;
    if (bytes <= (size_t)1 << FINE_LOG) {
        *class = (int)((bytes - 1) / PF_ALIGN);
        *size = (size_t)(*class + 1) * PF_ALIGN;
        return true;
    }
    int log = log2_floor(bytes - 1), shift = log - 3;
    size_t eighth = ((bytes - 1) >> shift) + 1; /* 9 .. 16 eighths of 2^log */
    *size = eighth << shift;
    *class = 8 + (log - FINE_LOG) * 8 + (int)eighth - 9;
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

static void *host_alloc(const pf_allocator *a, size_t bytes) {
    if (a->resize) return a->resize(a->context, NULL, 0, bytes);
    void *raw = malloc(bytes);
    if (raw) hint_pages(raw, bytes);
    return raw;
}

static void host_free(const pf_allocator *a, void *raw, size_t bytes) {
    if (a->resize)
        a->resize(a->context, raw, bytes, 0);
    else
        free(raw);
}

static block *header_of(void *bytes) { return (block *)bytes - 1; }

/* A fresh block of a class of `size` bytes: its aligned bytes, or NULL. */
static void *block_new(const pf_allocator *a, size_t size) {
    char *raw = host_alloc(a, size + EXTRA);
    if (!raw) return NULL;
    uintptr_t first = (uintptr_t)raw + sizeof(block);
    char *bytes = raw + sizeof(block) + (PF_ALIGN - first % PF_ALIGN) % PF_ALIGN;
    header_of(bytes)->raw = raw;
    return bytes;
}

static void block_delete(const pf_allocator *a, void *bytes, size_t size) {
    ASAN_UNPOISON_MEMORY_REGION(bytes, size);
    host_free(a, header_of(bytes)->raw, size + EXTRA);
}

/* ---- lock and cache ---- */

static void lock(pf_heap *h) { pf_spin_lock(&h->lock); }
static void unlock(pf_heap *h) { pf_spin_unlock(&h->lock); }

static size_t size_of_class(int class) {
    if (class < 8) return (size_t)(class + 1) * PF_ALIGN;
    return (size_t)((class - 8) % 8 + 9) << ((class - 8) / 8 + FINE_LOG - 3);
}

/* Takes the largest cached block out; NULL when there is none. Lock held. */
static void *take_largest(pf_heap *h, size_t *size) {
    for (int class = CLASSES - 1; class >= 0; class --) {
        block *b = h->cache[class];
        if (!b) continue;
        h->cache[class] = b->next;
        *size = size_of_class(class);
        h->cached -= *size + EXTRA;
        return b + 1;
    }
    return NULL;
}

/* Gives cached blocks back, the largest first, until at most `keep` bytes are cached. */
static void shrink_cache(pf_heap *h, size_t keep) {
    for (;;) {
        size_t size = 0;
        lock(h);
        void *bytes = h->cached > keep ? take_largest(h, &size) : NULL;
        unlock(h);
        if (!bytes) return;
        block_delete(&h->allocator, bytes, size);
    }
}

/* What may stay cached beside `live` bytes: within the budget, and within one and a half
 * times what was ever live at once, so that a program of ever new shapes does not pile up
 * blocks of every size. Lock held. */
static size_t cache_room(const pf_heap *h, size_t live) {
    size_t most = h->mark > live ? h->mark : live;
    size_t total = most < SIZE_MAX / 2 ? most + most / 2 : most;
    if (total < live + cache_floor) total = live + cache_floor;
    if (h->budget && total > h->budget) total = h->budget;
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
    lock(h);
    block *b = h->cache[class];
    if (b) {
        h->cache[class] = b->next;
        h->cached -= size + EXTRA;
        count_live(h, size + EXTRA);
    }
    unlock(h);
    return b ? b + 1 : NULL;
}

/* A block from the host, counted as live; makes room first and asks twice. The bytes are
 * counted before the host is asked, so that two threads cannot share the budget's rest. What the
 * cache may hold is found under the lock, given back without it, and looked at again: another
 * thread may have cached meanwhile, and from the fifth look on the whole cache goes. */
static void *from_host(pf_heap *h, size_t size) {
    size_t total = size + EXTRA, peak, mark;
    for (int attempt = 0;; attempt++) {
        lock(h);
        bool fits = !h->budget || (h->live <= h->budget && total <= h->budget - h->live);
        size_t room = fits ? cache_room(h, h->live + total) : 0;
        if (fits && h->cached <= room) break; /* with the lock */
        unlock(h);
        if (!fits) return NULL;
        shrink_cache(h, attempt < 4 ? room : 0);
    }
    peak = h->peak, mark = h->mark;
    count_live(h, total);
    unlock(h);
    void *bytes = block_new(&h->allocator, size);
    if (!bytes) {
        shrink_cache(h, 0);
        bytes = block_new(&h->allocator, size);
    }
    if (bytes) return bytes;
    lock(h);
    h->live -= total;
    h->blocks--;
    /* The marks forget a block that never was, unless others moved them meanwhile. */
    h->peak = peak > h->live ? peak : (size_t)h->live;
    h->mark = mark > h->live ? mark : (size_t)h->live;
    unlock(h);
    return NULL;
}

/* ---- the heap ---- */

int pf_heap_open(pf_heap **heap, const pf_allocator *allocator, size_t budget) {
    pf_allocator a = {.size = sizeof a};
    *heap = NULL;
    PF_TRY(pf_options_take(&a, sizeof a, allocator, "allocator"));
    pf_heap *h = *heap = host_alloc(&a, sizeof *h);
    if (!h) return pf_fail(PF_ENOMEM, "heap: no memory for the heap itself");
    memset(h, 0, sizeof *h);
    h->allocator = a;
    h->budget = budget;
    h->refs = 1;
    int status = pf_spin_open(&h->lock);
    if (status >= 0) return PF_OK;
    *heap = NULL;
    host_free(&a, h, sizeof *h);
    return status;
}

/* One block less. Whoever takes the last one of an orphaned heap is alone with it, whose cache is
 * empty, and ends it. */
void pf_heap_drop(pf_heap *h) {
    int class;
    size_t size;
    lock(h);
    bool dead = --h->blocks == 0 && h->refs == 0;
    unlock(h);
    if (!dead) return;
    pf_allocator a = h->allocator;
    pf_spin_close(&h->lock);
    if (h->kept && class_of(h->kept_bytes, &class, &size)) block_delete(&a, h->kept, size);
    host_free(&a, h, sizeof *h);
}

void pf_heap_hold(pf_heap *h) {
    lock(h);
    h->blocks++;
    unlock(h);
}

/* It is no block that keeps the heap. */
void pf_heap_keep(pf_heap *h, void *kept, size_t bytes) {
    lock(h);
    h->kept = kept;
    h->kept_bytes = bytes;
    h->blocks--;
    unlock(h);
}

pf_heap *pf_heap_retain(pf_heap *h) {
    lock(h);
    h->refs++;
    unlock(h);
    return h;
}

void pf_heap_release(pf_heap *h) {
    if (!h) return;
    lock(h);
    bool last = --h->refs == 0;
    if (last) h->blocks++; /* as if we held a block: the heap lives while the cache goes */
    unlock(h);
    if (!last) return;
    shrink_cache(h, 0);
    pf_heap_drop(h);
}

void pf_heap_trim(pf_heap *h) { shrink_cache(h, 0); }

static void *refuse(const pf_heap *h, size_t bytes) {
    size_t held = pf_heap_live(h);
    if (h->budget)
        pf_fail(PF_ENOMEM, "out of memory: asked for %zu bytes with %zu live, budget %zu", bytes,
                held, h->budget);
    else
        pf_fail(PF_ENOMEM, "out of memory: asked for %zu bytes with %zu live, no budget", bytes,
                held);
    return NULL;
}

void *pf_heap_alloc(pf_heap *h, size_t bytes) {
    int class;
    size_t size;
    if (!class_of(bytes, &class, &size)) return refuse(h, bytes);
    char *p = from_cache(h, class, size);
    if (!p) p = from_host(h, size);
    if (!p) return refuse(h, bytes);
    header_of(p)->next = &in_use;
    ASAN_UNPOISON_MEMORY_REGION(p, size);
    ASAN_POISON_MEMORY_REGION(p + bytes, size - bytes); /* a write past the end is seen */
    return p;
}

void *pf_heap_zalloc(pf_heap *h, size_t bytes) {
    void *p = pf_heap_alloc(h, bytes);
    return p ? memset(p, 0, bytes) : NULL;
}

void pf_heap_uncached(pf_heap *h) {
    h->uncached = true;
    shrink_cache(h, 0);
}

bool pf_heap_holds(const void *p) { return ((const block *)p - 1)->next == &in_use; }

/* The block goes to the cache, from where the next of its class comes, poisoned until then; one
 * that is there already was freed before, and stays. Without a cache (an orphaned heap has none)
 * it counts until the host has it back: the heap outlives its last block. */
void pf_heap_free(pf_heap *h, void *p, size_t bytes) {
    int class;
    size_t size;
    if (!p || !class_of(bytes, &class, &size)) return;
    block *b = header_of(p);
    lock(h);
    bool ours = b->next == &in_use, keep = ours && h->refs > 0 && !h->uncached;
    if (ours) {
        b->next = NULL;
        h->live -= size + EXTRA;
        ASAN_POISON_MEMORY_REGION(p, size);
    }
    if (keep) {
        b->next = h->cache[class];
        h->cache[class] = b;
        h->cached += size + EXTRA;
        h->blocks--;
    }
    unlock(h);
    if (!ours || keep) return;
    block_delete(&h->allocator, p, size);
    pf_heap_drop(h);
}

int pf_heap_grow(pf_heap *h, void **array, int64_t *capacity, int64_t need, size_t size) {
    if (need <= *capacity) return PF_OK;
    int64_t most = (int64_t)(PTRDIFF_MAX / 2 / (size ? size : 1));
    if (need > most)
        return pf_fail(PF_ENOMEM, "out of memory: an array of %lld elements of %zu bytes",
                       (long long)need, size);
    int64_t grown = *capacity > most / 2 ? most : 2 * *capacity;
    grown = pf_max(grown, pf_max(need, pf_min(8, most)));
    void *wider = pf_heap_alloc(h, (size_t)grown * size);
    if (!wider) return PF_ENOMEM;
    if (*array) memcpy(wider, *array, (size_t)*capacity * size);
    pf_heap_free(h, *array, (size_t)*capacity * size);
    *array = wider;
    *capacity = grown;
    return PF_OK;
}

size_t pf_heap_set_budget(pf_heap *h, size_t budget) {
    lock(h);
    size_t before = h->budget;
    h->budget = budget;
    unlock(h);
    return before;
}

size_t pf_heap_budget(const pf_heap *h) { return h->budget; }
size_t pf_heap_live(const pf_heap *h) { return h->live; }
size_t pf_heap_peak(const pf_heap *h) { return h->peak; }

void pf_heap_reset_peak(pf_heap *h) {
    lock(h);
    h->peak = (size_t)h->live;
    unlock(h);
}
