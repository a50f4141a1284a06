/*
 * index.h - finding one of many by a hash: places 0, 1, ... in a list of the caller's own, whose
 * entries the caller compares. Names that come from files are hashed with a number that differs
 * from run to run, so that nobody can write a file whose names all meet in one cell.
 */
#ifndef PF_INDEX_H
#define PF_INDEX_H

#include "heap.h"

typedef struct pf_index {
    pf_heap *heap; /* NULL: plain C memory */
    struct pf_index_cell *cell;
    uint32_t cells, n; /* cells: 0, or a power of two above n */
} pf_index;

uint64_t pf_hash_text(const char *text);
uint64_t pf_hash_pointer(const void *pointer);

/* Begins as {.heap = heap}. PF_ENOMEM leaves it as it was. */
int pf_index_put(pf_index *index, uint64_t hash, int place);
void pf_index_close(pf_index *index); /* empty again */
/* The next place that was put under `hash`, or -1; *probe is 0 at first:
 * for (uint32_t probe = 0; (i = pf_index_next(index, hash, &probe)) >= 0;) compare ... */
int pf_index_next(const pf_index *index, uint64_t hash, uint32_t *probe);

#endif
