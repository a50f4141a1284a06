/*
 * heap_test.c - runtime's heap against an allocator that counts: alignment at every size,
 * accounting, budget, what the cache may keep, refusal and retry, life without references,
 * several threads at once.
 */
#include <pthread.h>

#include "check.h"
#include "host.h"
#include "runtime.h"

static bool aligned(const void *p) { return (uintptr_t)p % PF_ALIGN == 0; }

/* Every size from 0 on through the first classes, and around powers of two. */
static void test_heap_sizes(void) {
    host_memory host = {0};
    pf_allocator allocator = {sizeof allocator, host_resize, &host};
    pf_heap *heap;
    CHECK_OK(pf_heap_open(&heap, &allocator, 0));
    int misaligned = 0, overlap = 0, wasteful = 0;
    for (size_t n = 0; n < 70000; n += n < 2200 ? 1 : 997) {
        size_t before = host.bytes;
        unsigned char *a = pf_heap_alloc(heap, n), *b = pf_heap_alloc(heap, n);
        misaligned += !a || !b || !aligned(a) || !aligned(b);
        memset(a, 1, n);
        memset(b, 2, n);
        for (size_t i = 0; i < n; i++) overlap += a[i] != 1;
        wasteful += host.bytes - before > 2 * (n + n / 8 + 192);
        pf_heap_free(heap, a, n);
        pf_heap_free(heap, b, n);
    }
    CHECK(misaligned == 0);
    CHECK(overlap == 0);
    CHECK(wasteful == 0);
    CHECK(pf_heap_live(heap) == 0);
    CHECK(pf_heap_alloc(heap, SIZE_MAX) == NULL && strstr(pf_last_error(), "out of memory"));
    CHECK(pf_heap_alloc(heap, SIZE_MAX - 100) == NULL);
    unsigned char *zero = pf_heap_zalloc(heap, 1000);
    int nonzero = 0;
    for (int i = 0; i < 1000; i++) nonzero += zero[i] != 0;
    CHECK(nonzero == 0);
    pf_heap_free(heap, zero, 1000);
    pf_heap_free(heap, NULL, 10);
    pf_heap_release(heap);
    CHECK(host.blocks == 0 && host.bytes == 0 && host.wrong == 0);
}

/* [callbacks.2] */
static void test_heap_accounting(void) {
    host_memory host = {0};
    pf_allocator allocator = {sizeof allocator, host_resize, &host};
    pf_heap *heap;
    CHECK_OK(pf_heap_open(&heap, &allocator, 0));
    size_t own = host.bytes;
    void *a = pf_heap_alloc(heap, 100000), *b = pf_heap_alloc(heap, 5000);
    CHECK(pf_heap_live(heap) == host.bytes - own);
    CHECK(pf_heap_live(heap) >= 105000);
    size_t peak = pf_heap_peak(heap);
    CHECK(peak == pf_heap_live(heap));
    pf_heap_free(heap, a, 100000);
    CHECK(pf_heap_peak(heap) == peak && pf_heap_live(heap) < 6000);
    pf_heap_reset_peak(heap);
    CHECK(pf_heap_peak(heap) == pf_heap_live(heap));

    /* the same again costs the host nothing, nor does a size of the same class */
    long calls = host.calls;
    a = pf_heap_alloc(heap, 99999);
    CHECK(host.calls == calls);
    pf_heap_free(heap, a, 99999);
    pf_heap_trim(heap);
    CHECK(host.bytes - own == pf_heap_live(heap));
    pf_heap_free(heap, b, 5000);
    CHECK(pf_heap_live(heap) == 0);
    pf_heap_release(heap);
    CHECK(host.blocks == 0 && host.wrong == 0);
}

static void test_heap_budget(void) {
    host_memory host = {0};
    pf_allocator allocator = {sizeof allocator, host_resize, &host};
    pf_heap *heap;
    const size_t mega = 1 << 20;
    CHECK_OK(pf_heap_open(&heap, &allocator, 10 * mega));
    size_t own = host.bytes;
    void *a = pf_heap_alloc(heap, 6 * mega);
    CHECK(a != NULL);
    size_t live = pf_heap_live(heap), peak = pf_heap_peak(heap);
    CHECK(pf_heap_alloc(heap, 5 * mega) == NULL);
    CHECK(strstr(pf_last_error(), "5242880") && strstr(pf_last_error(), "10485760"));
    CHECK(pf_heap_live(heap) == live && pf_heap_peak(heap) == peak);
    /* what is cached gives way */
    pf_heap_free(heap, a, 6 * mega);
    CHECK(host.bytes - own >= 6 * mega);
    a = pf_heap_alloc(heap, 9 * mega);
    CHECK(a != NULL);
    CHECK(host.bytes - own <= 10 * mega);
    pf_heap_free(heap, a, 9 * mega);
    /* many small blocks use the budget up, too */
    void *small[2048];
    int got = 0;
    while (got < 2048 && (small[got] = pf_heap_alloc(heap, 10000)) != NULL) got++;
    CHECK(got > 850 && got < 1049);
    CHECK(host.bytes - own <= 10 * mega);
    while (got-- > 0) pf_heap_free(heap, small[got], 10000);
    pf_heap_release(heap);
    CHECK(host.blocks == 0 && host.wrong == 0);
}

/* A budget is met to the byte: what two blocks cost is enough for two, one byte less is not. */
static void test_heap_border(void) {
    pf_heap *heap;
    CHECK_OK(pf_heap_open(&heap, NULL, 0));
    void *one = pf_heap_alloc(heap, 3000);
    size_t cost = pf_heap_live(heap);
    pf_heap_free(heap, one, 3000);
    pf_heap_release(heap);
    for (size_t less = 0; less < 2; less++) {
        CHECK_OK(pf_heap_open(&heap, NULL, 7));
        CHECK(pf_heap_set_budget(heap, 2 * cost - less) == 7); /* as one that it was opened with */
        one = pf_heap_alloc(heap, 3000);
        void *two = pf_heap_alloc(heap, 3000);
        CHECK(one && (two != NULL) == (less == 0));
        CHECK(pf_heap_live(heap) == (less ? cost : 2 * cost));
        pf_heap_free(heap, one, 3000);
        pf_heap_free(heap, two, 3000);
        pf_heap_release(heap);
    }
}

/* Ever new sizes must not pile up in the cache. */
static void test_heap_cache_bound(void) {
    host_memory host = {0};
    pf_allocator allocator = {sizeof allocator, host_resize, &host};
    pf_heap *heap;
    size_t most = 0;
    CHECK_OK(pf_heap_open(&heap, &allocator, 0));
    for (size_t n = 1 << 20; n < (size_t)24 << 20; n += n / 7) {
        void *p = pf_heap_alloc(heap, n);
        CHECK(p != NULL);
        if (host.bytes > most) most = host.bytes;
        pf_heap_free(heap, p, n);
    }
    CHECK(most <= pf_heap_peak(heap) * 3 / 2 + (8 << 20));
    pf_heap_release(heap);
    CHECK(host.blocks == 0);
}

/* A host that refuses once is asked again after the cache has been given back. */
static void test_heap_retry(void) {
    host_memory host = {0};
    pf_allocator allocator = {sizeof allocator, host_resize, &host};
    pf_heap *heap;
    CHECK_OK(pf_heap_open(&heap, &allocator, 0));
    void *a = pf_heap_alloc(heap, 100000);
    pf_heap_free(heap, a, 100000);
    host.fail_at = host.calls + 1;
    a = pf_heap_alloc(heap, 200000);
    CHECK(a != NULL && host.blocks == 2);
    host.fail_at = host.calls + 1, host.fail_on = 1;
    size_t live = pf_heap_live(heap), peak = pf_heap_peak(heap);
    CHECK(pf_heap_alloc(heap, 300000) == NULL);
    CHECK(pf_heap_live(heap) == live && pf_heap_peak(heap) == peak);
    host.fail_at = 0;
    pf_heap_free(heap, a, 200000);
    pf_heap_release(heap);
    CHECK(host.blocks == 0 && host.wrong == 0);
    host.fail_at = host.calls + 1;
    CHECK_FAILS(PF_ENOMEM, pf_heap_open(&heap, &allocator, 0));
}

/* Blocks outlive the last reference and take the heap with them. */
static void test_heap_life(void) {
    host_memory host = {0};
    pf_allocator allocator = {sizeof allocator, host_resize, &host};
    pf_heap *heap;
    CHECK_OK(pf_heap_open(&heap, &allocator, 0));
    void *a = pf_heap_alloc(heap, 1000), *b = pf_heap_alloc(heap, 3000);
    void *c = pf_heap_alloc(heap, 9000);
    pf_heap_free(heap, c, 9000);
    CHECK(pf_heap_retain(heap) == heap);
    pf_heap_release(heap);
    CHECK(host.blocks == 4);
    pf_heap_release(heap);
    CHECK(host.blocks == 3); /* the cache is gone */
    pf_heap_free(heap, a, 1000);
    CHECK(host.blocks == 2); /* at once: an orphan caches nothing */
    a = pf_heap_alloc(heap, 64);
    CHECK(a != NULL);
    pf_heap_free(heap, a, 64);
    pf_heap_free(heap, b, 3000);
    CHECK(host.blocks == 0 && host.wrong == 0);
}

/* A block that is freed twice stays one block; so does a tensor that is released twice. */
static void test_heap_twice(void) {
    host_memory host = {0};
    pf_allocator allocator = {sizeof allocator, host_resize, &host};
    pf_heap *heap;
    CHECK_OK(pf_heap_open(&heap, &allocator, 0));
    void *a = pf_heap_alloc(heap, 100), *other = pf_heap_alloc(heap, 100);
    size_t live = pf_heap_live(heap);
    CHECK(pf_heap_holds(a));
    pf_heap_free(heap, a, 100);
    CHECK(!pf_heap_holds(a) && pf_heap_live(heap) == live / 2);
    pf_heap_free(heap, a, 100);
    CHECK(pf_heap_live(heap) == live / 2);
    void *b = pf_heap_alloc(heap, 100), *c = pf_heap_alloc(heap, 100);
    CHECK(b == a && c != a && c != other);
    pf_heap_free(heap, b, 100), pf_heap_free(heap, c, 100), pf_heap_free(heap, other, 100);
    CHECK(pf_heap_live(heap) == 0);
    pf_heap_release(heap);
    CHECK(host.blocks == 0 && host.wrong == 0);
}

/* Without a cache the host has every block back at once, the last one after the heap's end too. */
static void test_heap_uncached(void) {
    host_memory host = {0};
    pf_allocator allocator = {sizeof allocator, host_resize, &host};
    pf_heap *heap;
    CHECK_OK(pf_heap_open(&heap, &allocator, 0));
    pf_heap_free(heap, pf_heap_alloc(heap, 100), 100);
    CHECK(host.blocks == 2);
    pf_heap_uncached(heap);
    CHECK(host.blocks == 1);
    for (size_t n = 1; n < 10000; n *= 3) pf_heap_free(heap, pf_heap_alloc(heap, n), n);
    CHECK(host.blocks == 1 && pf_heap_live(heap) == 0);
    void *last = pf_heap_alloc(heap, 10);
    pf_heap_release(heap);
    CHECK(host.blocks == 2);
    pf_heap_free(heap, last, 10);
    CHECK(host.blocks == 0 && host.wrong == 0);
}

static void test_heap_grow(void) {
    pf_heap *heap;
    int *array = NULL;
    int64_t capacity = 0;
    CHECK_OK(pf_heap_open(&heap, NULL, 0));
    int wrong = 0;
    for (int i = 0; i < 1000; i++) {
        CHECK_OK(pf_heap_grow(heap, (void **)&array, &capacity, i + 1, sizeof *array));
        array[i] = i;
    }
    for (int i = 0; i < 1000; i++) wrong += array[i] != i;
    CHECK(wrong == 0 && capacity >= 1000);
    CHECK_FAILS(PF_ENOMEM, pf_heap_grow(heap, (void **)&array, &capacity, INT64_MAX, 8));
    CHECK(array[999] == 999);
    pf_heap_free(heap, array, (size_t)capacity * sizeof *array);
    CHECK(pf_heap_live(heap) == 0);
    pf_heap_release(heap);
}

static void *churn(void *context) {
    pf_heap *heap = context;
    unsigned state = 1;
    void *held[16] = {0};
    size_t size[16] = {0};
    for (int i = 0; i < 20000; i++) {
        int k = i % 16;
        pf_heap_free(heap, held[k], size[k]);
        state = state * 1664525u + 1013904223u;
        size[k] = state >> 18;
        held[k] = pf_heap_alloc(heap, size[k]);
    }
    for (int k = 0; k < 16; k++) pf_heap_free(heap, held[k], size[k]);
    return NULL;
}

/* [callbacks.3] */
static void test_heap_threads(void) {
    pf_heap *heap;
    pthread_t thread[4];
    CHECK_OK(pf_heap_open(&heap, NULL, 1 << 20)); /* tight: caches must give way */
    for (int i = 0; i < 4; i++) CHECK(pthread_create(&thread[i], NULL, churn, heap) == 0);
    for (int i = 0; i < 4; i++) pthread_join(thread[i], NULL);
    CHECK(pf_heap_live(heap) == 0 && pf_heap_peak(heap) <= 1 << 20);
    pf_heap_release(heap);
}

int main(void) {
    test_heap_sizes();
    test_heap_accounting();
    test_heap_budget();
    test_heap_border();
    test_heap_cache_bound();
    test_heap_retry();
    test_heap_life();
    test_heap_twice();
    test_heap_uncached();
    test_heap_grow();
    test_heap_threads();
    return CHECK_REPORT();
}
