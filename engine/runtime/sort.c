/*
 * sort.c - see sort.h: merges from the bottom up, of runs of RUN elements that were sorted by
 * insertion, from the array to a second one and back.
 */
#include "sort.h"

#include <string.h>

enum { RUN = 16, LOOK = 1 << 14 }; /* elements between two looks */

typedef struct {
    const pf_engine *engine;
    size_t size;
    pf_compare_fn compare;
    int64_t moved; /* elements since the last look */
} sorting;

static int look(sorting *s, int64_t moved) {
    s->moved += moved;
    if (s->moved < LOOK) return PF_OK;
    s->moved = 0;
    return pf_check_cancel(s->engine);
}

/* Elements first .. end - 1, few; `one` has room for an element. */
static void insert_all(const sorting *s, char *array, int64_t first, int64_t end, char *one) {
    for (int64_t i = first + 1; i < end; i++) {
        int64_t to = i;
        memcpy(one, array + (size_t)i * s->size, s->size);
        while (to > first && s->compare(array + (size_t)(to - 1) * s->size, one) > 0) to--;
        memmove(array + (size_t)(to + 1) * s->size, array + (size_t)to * s->size,
                (size_t)(i - to) * s->size);
        memcpy(array + (size_t)to * s->size, one, s->size);
    }
}

/* from[first .. middle - 1] and from[middle .. end - 1] to to[first ..]. */
static int merge(sorting *s, char *to, const char *from, int64_t first, int64_t middle,
                 int64_t end) {
    const char *a = from + (size_t)first * s->size, *a_end = from + (size_t)middle * s->size;
    const char *b = a_end, *b_end = from + (size_t)end * s->size;
    char *out = to + (size_t)first * s->size;
    for (; a < a_end || b < b_end; out += s->size) {
        const char **next = b == b_end || (a < a_end && s->compare(a, b) <= 0) ? &a : &b;
        memcpy(out, *next, s->size);
        *next += s->size;
        PF_TRY(look(s, 1));
    }
    return PF_OK;
}

/* The sorted elements end in `array`, whatever comes between. */
static int sort_between(sorting *s, char *array, char *other, int64_t n) {
    char *from = array, *to = other;
    int status = PF_OK;
    for (int64_t i = 0; i < n && status >= 0; i += RUN) {
        insert_all(s, array, i, pf_min(i + RUN, n), other);
        status = look(s, RUN);
    }
    for (int64_t run = RUN; run < n && status >= 0; run *= 2) {
        for (int64_t i = 0; i < n && status >= 0; i += 2 * run)
            status = merge(s, to, from, i, pf_min(i + run, n), pf_min(i + 2 * run, n));
        if (status < 0) break; /* `from` has all of them */
        char *whole = to;
        to = from;
        from = whole;
    }
    if (from != array) memcpy(array, from, (size_t)n * s->size);
    return status;
}

int pf_sort(pf_engine *engine, void *array, int64_t n, size_t size, pf_compare_fn compare) {
    sorting s = {.engine = engine, .size = size, .compare = compare};
    if (n < 2) return PF_OK;
    char *other = pf_heap_alloc(engine->heap, (size_t)n * size);
    if (!other) return PF_ENOMEM;
    int status = sort_between(&s, array, other, n);
    pf_heap_free(engine->heap, other, (size_t)n * size);
    return status;
}
