/*
 * pieces.h - many small blocks that live and die together, such as the nodes of a tree: cut one
 * behind the other from larger blocks of a heap, which all go back when the last piece is dropped.
 */
#ifndef PF_PIECES_H
#define PF_PIECES_H

#include "heap.h"

typedef struct pf_pieces pf_pieces; /* NULL stands for plain C memory, piece by piece */

/* A store in `heap` (NULL: *pieces = NULL). It ends with its last piece, or by pf_pieces_close
 * while it never had one. */
int pf_pieces_open(pf_pieces **pieces, pf_heap *heap);
void pf_pieces_close(pf_pieces *pieces);
void *pf_piece_take(pf_pieces *pieces, size_t bytes); /* NULL: out of memory, with a message */
void pf_piece_drop(void *at);                         /* NULL: nothing */
pf_pieces *pf_pieces_of(const void *at);              /* where it was taken from */
pf_heap *pf_pieces_heap(const pf_pieces *pieces);

#endif
