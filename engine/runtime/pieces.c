/* pieces.c - see pieces.h. A piece is [its store][the bytes that the caller sees]. */
#include "pieces.h"

#include <stdlib.h>

#include "status.h"

enum { FIRST = 1 << 10, LAST = 1 << 16 }; /* bytes of a chunk: each twice the one before */

typedef struct chunk {
    struct chunk *before;
    size_t bytes;
} chunk;

struct pf_pieces {
    pf_heap *heap;
    chunk *last;
    char *free;         /* the rest of the last chunk */
    size_t left, chunk; /* its bytes; of the next chunk */
    size_t live;        /* pieces */
};

typedef union piece {
    pf_pieces *store;
    double align;
} piece;

int pf_pieces_open(pf_pieces **pieces, pf_heap *heap) {
    pf_pieces *p = *pieces = heap ? pf_heap_zalloc(heap, sizeof *p) : NULL;
    if (!heap) return PF_OK;
    if (!p) return PF_ENOMEM;
    p->heap = heap;
    p->chunk = FIRST;
    return PF_OK;
}

void pf_pieces_close(pf_pieces *p) {
    if (!p) return;
    for (chunk *c = p->last; c;) {
        chunk *before = c->before;
        pf_heap_free(p->heap, c, c->bytes);
        c = before;
    }
    pf_heap_free(p->heap, p, sizeof *p);
}

/* A new last chunk with room for a piece of `bytes`. */
static bool add_chunk(pf_pieces *p, size_t bytes) {
    size_t room = sizeof(chunk) + bytes;
    size_t all = room > p->chunk ? room : p->chunk;
    chunk *c = pf_heap_alloc(p->heap, all);
    if (!c) return false;
    *c = (chunk){p->last, all};
    p->last = c;
    p->free = (char *)(c + 1);
    p->left = all - sizeof *c;
    if (p->chunk < LAST) p->chunk *= 2;
    return true;
}

void *pf_piece_take(pf_pieces *p, size_t bytes) {
    if (bytes > PTRDIFF_MAX / 2) return pf_fail(PF_ENOMEM, "out of memory"), NULL;
    size_t all = (sizeof(piece) + bytes + sizeof(piece) - 1) / sizeof(piece) * sizeof(piece);
    piece *new = NULL;
    if (!p) {
        new = malloc(all);
        if (!new) return pf_fail(PF_ENOMEM, "out of memory: %zu bytes", bytes), NULL;
    } else if (all <= p->left || add_chunk(p, all)) {
        new = (piece *)p->free;
        p->free += all;
        p->left -= all;
        p->live++;
    }
    if (!new) return NULL;
    new->store = p;
    return new + 1;
}

pf_pieces *pf_pieces_of(const void *at) { return ((const piece *)at - 1)->store; }

void pf_piece_drop(void *at) {
    if (!at) return;
    piece *old = (piece *)at - 1;
    if (!old->store)
        free(old);
    else if (--old->store->live == 0)
        pf_pieces_close(old->store);
}

pf_heap *pf_pieces_heap(const pf_pieces *p) { return p ? p->heap : NULL; }
