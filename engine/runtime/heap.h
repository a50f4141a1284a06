/*
 * heap.h - the one way to memory: a reference-counted heap over the host's allocator,
 * with byte accounting, a budget, and a cache of freed blocks so that a steady training
 * step asks the host for nothing. A heap outlives its engine while tensors hold it.
 * Live bytes count what callers hold; cached blocks count against the budget only until
 * an allocation needs the room (they are given back first).
 */
#ifndef PF_HEAP_H
#define PF_HEAP_H

#include "base.h"

typedef struct pf_heap pf_heap;
typedef struct pf_account pf_account; /* account.h */

/* budget 0: none. The heap starts with one reference. */
int pf_heap_open(pf_heap **heap, const pf_allocator *allocator, size_t budget);
pf_heap *pf_heap_retain(pf_heap *heap);
void pf_heap_release(pf_heap *heap); /* frees the cache, and the heap with its last block */
/* `kept`, a block from the heap, goes with it: it is good as long as any other block is held,
 * or the heap itself (hold, drop: as by a block). */
void pf_heap_keep(pf_heap *heap, void *kept, size_t bytes);
void pf_heap_hold(pf_heap *heap);
void pf_heap_drop(pf_heap *heap);

/* Bytes aligned to PF_ALIGN; contents undefined. NULL (with message, PF_ENOMEM) on
 * failure. Free with the same byte count; a second time is ignored while the
 * block is in the cache. size 0 gives a valid pointer. Thread-safe. */
void *pf_heap_alloc(pf_heap *heap, size_t bytes);
void *pf_heap_zalloc(pf_heap *heap, size_t bytes);
void pf_heap_free(pf_heap *heap, void *block, size_t bytes);
/* false: the block was freed and lies in the cache. What went back to the host can't be asked of;
 * without a cache that is all, and valgrind or a sanitizer sees it. */
bool pf_heap_holds(const void *block);
void pf_heap_uncached(pf_heap *heap); /* from now on what is freed goes back to the host at once */
void pf_heap_trim(pf_heap *heap);     /* gives every cached block back to the host */

/* Grows *array (element size `size`) to hold at least `need`; *capacity is updated. */
int pf_heap_grow(pf_heap *heap, void **array, int64_t *capacity, int64_t need, size_t size);

size_t pf_heap_budget(const pf_heap *heap); /* 0: none */
/* Another budget from now on; what it was. */
size_t pf_heap_set_budget(pf_heap *heap, size_t budget);

/* ---- who pays ---- */

/* An account within `parent` (NULL: the heap alone). The last close of all is that of its last
 * block; most 0: no bound. */
int pf_account_open(pf_account **account, pf_heap *heap, pf_account *parent, size_t most);
void pf_account_close(pf_account **account, pf_heap *heap);
void pf_account_bound(pf_account *account, pf_heap *heap, size_t most);
void pf_account_held(const pf_account *account, pf_heap *heap, size_t *used, size_t *peak);
/* What was charged is there now, and counts in the peaks; what is refused yet would not. */
void pf_account_mark(pf_account *account, pf_heap *heap);
/* Who pays for what is allocated from now on (NULL: nobody but the heap); who it was. */
pf_account *pf_heap_pays(pf_heap *heap, pf_account *account);
/* Bytes that are held outside, by Lua for one, in budget and account (NULL: the budget alone):
 * `bytes` in place of `old`. PF_ENOMEM where they don't fit, and then nothing has changed; fewer
 * always fit. Nothing is allocated, and no peak is marked. */
int pf_heap_charge(pf_heap *heap, pf_account *account, size_t old, size_t bytes);
/* Such bytes from the host, as lua_Alloc has it; charging them is another's. */
void *pf_heap_outside(pf_heap *heap, void *block, size_t bytes);
size_t pf_heap_charged(const pf_heap *heap);

size_t pf_heap_live(const pf_heap *heap);
size_t pf_heap_peak(const pf_heap *heap);
void pf_heap_reset_peak(pf_heap *heap); /* peak = live */

#endif
