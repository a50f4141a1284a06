/*
 * row_set.h - a set of rows of a table, a bit each: of many names with repetitions it makes the
 * list of distinct ones in ascending order, whatever order they came in.
 */
#ifndef PF_ROW_SET_H
#define PF_ROW_SET_H

#include "op.h"

typedef struct pf_row_set {
    pf_heap *heap;
    int64_t rows;
    uint64_t *word; /* bit r % 64 of word r / 64 */
} pf_row_set;

enum { PF_ROW_SET_MOST = INT32_MAX, PF_ROW_SET_BITS = 64 };

int pf_row_set_open(pf_row_set *set, pf_heap *heap, int64_t rows); /* empty */
void pf_row_set_close(pf_row_set *set);
void pf_row_set_add(pf_row_set *set, const int32_t *row, int64_t n);
/* *list (n) i32, outside every tape. */
int pf_row_set_list(const pf_row_set *set, pf_tensor **list);

#endif
