/* index.c - see index.h: open addressing, at most three quarters full. */
#include "index.h"

#include <stdlib.h>
#include <string.h>

#include "status.h"

typedef struct pf_index_cell {
    uint32_t hash;
    int32_t place; /* from 1; 0: empty */
} cell;

/* Where the loader put this differs from run to run. */
static uint64_t salt(void) {
    static const char here;
    return (uint64_t)(uintptr_t)&here;
}

static uint64_t mix(uint64_t h) {
    h = (h ^ h >> 32) * UINT64_C(0xD6E8FEB86659FD93);
    return h ^ h >> 32;
}

uint64_t pf_hash_text(const char *text) {
    uint64_t h = mix(salt());
    for (const unsigned char *c = (const unsigned char *)text; *c; c++)
        h = (h ^ *c) * UINT64_C(0x9E3779B97F4A7C15), h ^= h >> 29;
    return mix(h);
}

uint64_t pf_hash_pointer(const void *pointer) { return mix((uint64_t)(uintptr_t)pointer); }

static void put(cell *cells, uint32_t n, uint32_t hash, int32_t place) {
    uint32_t at = hash & (n - 1);
    while (cells[at].place) at = (at + 1) & (n - 1);
    cells[at] = (cell){hash, place};
}

static int widen(pf_index *x) {
    uint32_t n = x->cells ? 2 * x->cells : 16;
    cell *wider = x->heap ? pf_heap_zalloc(x->heap, n * sizeof *wider) : calloc(n, sizeof *wider);
    if (!wider) return x->heap ? PF_ENOMEM : pf_fail(PF_ENOMEM, "out of memory");
    for (uint32_t i = 0; i < x->cells; i++)
        if (x->cell[i].place) put(wider, n, x->cell[i].hash, x->cell[i].place);
    uint32_t count = x->n;
    pf_index_close(x);
    x->cell = wider, x->cells = n, x->n = count;
    return PF_OK;
}

int pf_index_put(pf_index *x, uint64_t hash, int place) {
    if (4 * (uint64_t)(x->n + 1) > 3 * (uint64_t)x->cells) PF_TRY(widen(x));
    put(x->cell, x->cells, (uint32_t)hash, place + 1);
    x->n++;
    return PF_OK;
}

void pf_index_close(pf_index *x) {
    if (x->heap)
        pf_heap_free(x->heap, x->cell, x->cells * sizeof *x->cell);
    else
        free(x->cell);
    x->cell = NULL, x->cells = x->n = 0;
}

int pf_index_next(const pf_index *x, uint64_t hash, uint32_t *probe) {
    if (!x->cells) return -1;
    for (;;) {
        const cell *c = &x->cell[((uint32_t)hash + (*probe)++) & (x->cells - 1)];
        if (!c->place) return -1;
        if (c->hash == (uint32_t)hash) return c->place - 1;
    }
}
