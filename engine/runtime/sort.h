/*
 * sort.h - sorting in the engine's memory, with a look at the cancel flag now and then. The C
 * library's qsort takes memory beside the budget, and of ten million elements seconds.
 */
#ifndef PF_SORT_H
#define PF_SORT_H

#include "engine.h"

typedef int (*pf_compare_fn)(const void *a, const void *b);

/* Equal elements stay in their order. PF_ENOMEM, PF_ECANCEL, PF_ELIMIT: all are there still, in
 * whatever order. */
int pf_sort(pf_engine *engine, void *array, int64_t n, size_t size, pf_compare_fn compare);

#endif
