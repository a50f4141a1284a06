/*
 * heap.c - the heap behind everything the engine allocates, and who pays for it. Blocks and their
 * cache are in heap_blocks.h.
 *
 * The heap dies when it has neither references nor blocks: every block that a caller holds keeps
 * it alive, so a tensor needs no reference of its own.
 */
#include "heap.h"

#include <string.h>

#include "account.h"
#include "heap_blocks.h"
#include "status.h"

/* An account as the heap sees it: what it pays for has its mark. */
typedef struct {
    pf_account own;
    pf_heap_block mark;
} payer;

/* ---- the heap ---- */

int pf_heap_open(pf_heap **heap, const pf_allocator *allocator, size_t budget) {
    pf_allocator a = {.size = sizeof a};
    *heap = NULL;
    PF_TRY(pf_options_take(&a, sizeof a, allocator, "allocator"));
    if (allocator && !a.resize)
        return pf_fail(PF_EINVAL,
                       "allocator: resize is needed; for the C library's memory give no allocator");
    pf_heap *h = *heap = pf_host_alloc(&a, sizeof *h);
    if (!h) return pf_fail(PF_ENOMEM, "heap: no memory for the heap itself");
    memset(h, 0, sizeof *h);
    h->allocator = a;
    h->budget = budget;
    h->refs = 1;
    int status = pf_spin_open(&h->lock);
    if (status >= 0) return PF_OK;
    *heap = NULL;
    pf_host_free(&a, h, sizeof *h);
    return status;
}

/* One block less. Whoever takes the last one of an orphaned heap is alone with it, whose cache is
 * empty, and ends it. */
void pf_heap_drop(pf_heap *h) {
    int class;
    size_t size;
    pf_heap_lock(h);
    bool dead = --h->blocks == 0 && h->refs == 0;
    pf_heap_unlock(h);
    if (!dead) return;
    pf_allocator a = h->allocator;
    pf_spin_close(&h->lock);
    if (h->kept && pf_class_of(h->kept_bytes, &class, &size)) pf_block_delete(&a, h->kept, size);
    pf_host_free(&a, h, sizeof *h);
}

void pf_heap_hold(pf_heap *h) {
    pf_heap_lock(h);
    h->blocks++;
    pf_heap_unlock(h);
}

/* It is no block that keeps the heap. */
void pf_heap_keep(pf_heap *h, void *kept, size_t bytes) {
    pf_heap_lock(h);
    h->kept = kept;
    h->kept_bytes = bytes;
    h->blocks--;
    pf_heap_unlock(h);
}

pf_heap *pf_heap_retain(pf_heap *h) {
    pf_heap_lock(h);
    h->refs++;
    pf_heap_unlock(h);
    return h;
}

void pf_heap_release(pf_heap *h) {
    if (!h) return;
    pf_heap_lock(h);
    bool last = --h->refs == 0;
    if (last) h->blocks++; /* as if we held a block: the heap lives while the cache goes */
    pf_heap_unlock(h);
    if (!last) return;
    pf_cache_shrink(h, 0);
    pf_heap_drop(h);
}

void pf_heap_trim(pf_heap *h) { pf_cache_shrink(h, 0); }

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

/* ---- who pays ---- */

static pf_heap_block *mark_of(pf_account *account) {
    return account ? &((payer *)account)->mark : &pf_in_use;
}

/* Whose block this is: *account (NULL: the heap's alone); false: it is in the cache. */
static bool held_by(const pf_heap_block *b, pf_account **account) {
    if (!b->next || b->next->raw != &pf_in_use) return false;
    *account = b->next == &pf_in_use
                   ? NULL
                   : &((payer *)(void *)((char *)b->next - offsetof(payer, mark)))->own;
    return true;
}

/* One of what holds it less; what of it and of its parents is to be freed, by end_accounts without
 * the lock. Lock held. */
static pf_account *leave_account(pf_account *account) {
    pf_account *ended = NULL;
    for (pf_account *a = account, *parent; a && --a->refs == 0; a = parent) {
        parent = a->parent;
        a->parent = ended;
        ended = a;
    }
    return ended;
}

static void end_accounts(pf_heap *h, pf_account *ended) {
    for (pf_account *next; ended; ended = next) {
        next = ended->parent;
        pf_heap_free(h, ended, sizeof(payer));
    }
}

/* The account that stands counts the bytes; false, with a message: it has no room. */
static bool pay(pf_heap *h, size_t bytes, pf_account **account) {
    pf_heap_lock(h);
    pf_account *a = *account = h->pays, *full = pf_account_pay(a, bytes);
    size_t used = full ? full->used : 0, most = full ? full->most : 0;
    if (a && !full) a->refs++;
    pf_heap_unlock(h);
    if (!full) return true;
    pf_fail(PF_ENOMEM, "out of memory: asked for %zu bytes with %zu held, limit %zu", bytes, used,
            most);
    return false;
}

static void refund(pf_heap *h, size_t bytes, pf_account *account) {
    if (!account) return;
    pf_heap_lock(h);
    pf_account_refund(account, bytes);
    pf_account *ended = leave_account(account);
    pf_heap_unlock(h);
    end_accounts(h, ended);
}

int pf_account_open(pf_account **account, pf_heap *h, pf_account *parent, size_t most) {
    pf_account *before = pf_heap_pays(h, NULL); /* its own few bytes are the heap's */
    payer *p = pf_heap_zalloc(h, sizeof *p);
    pf_heap_pays(h, before);
    *account = p ? &p->own : NULL;
    if (!p) return PF_ENOMEM;
    *p = (payer){.own = {.parent = parent, .most = most, .refs = 1}, .mark = {.raw = &pf_in_use}};
    pf_heap_lock(h);
    if (parent) parent->refs++;
    pf_heap_unlock(h);
    return PF_OK;
}

void pf_account_close(pf_account **account, pf_heap *h) {
    pf_account *a = *account;
    *account = NULL;
    if (!a) return;
    pf_heap_lock(h);
    a->most = 0;
    pf_account *ended = leave_account(a);
    pf_heap_unlock(h);
    end_accounts(h, ended);
}

void pf_account_bound(pf_account *account, pf_heap *h, size_t most) {
    pf_heap_lock(h);
    account->most = most;
    account->peak = account->used;
    pf_heap_unlock(h);
}

void pf_account_held(const pf_account *account, pf_heap *h, size_t *used, size_t *peak) {
    pf_heap_lock(h);
    *used = account->used;
    *peak = account->peak;
    pf_heap_unlock(h);
}

void pf_account_mark(pf_account *account, pf_heap *h) {
    if (!account) return;
    pf_heap_lock(h);
    pf_account_raise(account);
    pf_heap_unlock(h);
}

pf_account *pf_heap_pays(pf_heap *h, pf_account *account) {
    pf_heap_lock(h);
    pf_account *before = h->pays;
    h->pays = account;
    pf_heap_unlock(h);
    return before;
}

/* Of a heap that has room when the cache is empty the cache goes first. */
int pf_heap_charge(pf_heap *h, pf_account *account, size_t old, size_t bytes) {
    size_t more = bytes > old ? bytes - old : 0, less = old > bytes ? old - bytes : 0, room = 0;
    pf_heap_lock(h);
    size_t held = h->live + h->charged;
    size_t most = h->budget;
    bool fits = !more || !most || (held <= most && more <= most - held);
    const pf_account *full = fits ? pf_account_pay(account, more) : NULL;
    if (full) fits = false, held = full->used, most = full->most;
    if (fits) {
        pf_account_refund(account, less);
        h->charged += more;
        h->charged -= less;
        room = pf_cache_room(h, h->live);
    }
    pf_heap_unlock(h);
    if (fits && more) pf_cache_shrink(h, room);
    if (fits) return PF_OK;
    return pf_fail(
        PF_ENOMEM,
        "out of memory: asked for %zu bytes for objects of a script or of the host, with "
        "%zu held, %s %zu",
        more, held, full ? "limit" : "budget", most);
}

void *pf_heap_outside(pf_heap *h, void *block, size_t bytes) {
    return pf_host_resize(&h->allocator, block, bytes);
}

size_t pf_heap_charged(const pf_heap *h) { return h->charged; }

/* ---- blocks ---- */

void *pf_heap_alloc(pf_heap *h, size_t bytes) {
    int class;
    size_t size;
    pf_account *account;
    if (!pf_class_of(bytes, &class, &size)) return refuse(h, bytes);
    if (!pay(h, size + PF_BLOCK_EXTRA, &account)) return NULL;
    char *p = pf_block_take(h, class, size);
    if (!p) {
        refund(h, size + PF_BLOCK_EXTRA, account);
        return refuse(h, bytes);
    }
    pf_account_mark(account, h);
    pf_header_of(p)->next = mark_of(account);
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
    pf_cache_shrink(h, 0);
}

bool pf_heap_holds(const void *p) {
    pf_account *account;
    return held_by((const pf_heap_block *)p - 1, &account);
}

/* The block goes to the cache, from where the next of its class comes, poisoned until then; one
 * that is there already was freed before, and stays. Without a cache (an orphaned heap has none)
 * it counts until the host has it back: the heap outlives its last block. */
void pf_heap_free(pf_heap *h, void *p, size_t bytes) {
    int class;
    size_t size;
    if (!p || !pf_class_of(bytes, &class, &size)) return;
    pf_heap_block *b = pf_header_of(p);
    pf_account *account = NULL, *ended = NULL;
    pf_heap_lock(h);
    bool ours = held_by(b, &account), keep = ours && h->refs > 0 && !h->uncached;
    if (ours) {
        pf_account_refund(account, size + PF_BLOCK_EXTRA);
        ended = leave_account(account);
        b->next = NULL;
        h->live -= size + PF_BLOCK_EXTRA;
        ASAN_POISON_MEMORY_REGION(p, size);
    }
    if (keep) {
        b->next = h->cache[class];
        h->cache[class] = b;
        h->cached += size + PF_BLOCK_EXTRA;
        h->blocks--;
    }
    pf_heap_unlock(h);
    if (ours && !keep) pf_block_delete(&h->allocator, p, size);
    end_accounts(h, ended);
    if (ours && !keep) pf_heap_drop(h);
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
    pf_heap_lock(h);
    size_t before = h->budget, room;
    h->budget = budget;
    room = pf_cache_room(h, h->live);
    pf_heap_unlock(h);
    pf_cache_shrink(h, room);
    return before;
}

size_t pf_heap_budget(const pf_heap *h) { return h->budget; }
size_t pf_heap_live(const pf_heap *h) { return h->live; }
size_t pf_heap_peak(const pf_heap *h) { return h->peak; }

void pf_heap_reset_peak(pf_heap *h) {
    pf_heap_lock(h);
    h->peak = (size_t)h->live;
    pf_heap_unlock(h);
}
