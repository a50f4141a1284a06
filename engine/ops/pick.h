/*
 * pick.h - elements of a dimension by their places: picked, or added to. An array is seen as
 * (before, n, after), n being the dimension; of a list of m places, each one belongs to a whole
 * slice (list), or every element of (before, m, after) has a place of its own (each). What must
 * hold: a place is looked at before it is followed; additions to one element stand in the order of
 * their places, whatever the threads.
 */
#ifndef PF_PICK_H
#define PF_PICK_H

#include "op.h"

typedef struct pf_pick {
    int64_t before, n, after, m;
    bool each;
    const int32_t *place; /* 0 .. n-1; (before, m, after) or (m) */
} pf_pick;

/* The numbers of before, n and after; of n too many for an i32 place an error. */
int pf_pick_split(pf_pick *pick, const pf_call *c, const pf_tensor *t, int dim);
/* pick->place = the places of input i, none outside n, negative ones taken from the end. */
int pf_pick_read(pf_pick *pick, pf_call *c, int i);
/* to (before, m, after) = elements of from (before, n, after), four bytes each. */
int pf_pick_take(pf_engine *engine, const pf_pick *pick, const void *from, void *to);
/* to (before, n, after) += from (before, m, after); of i32 it wraps around. */
int pf_pick_add(pf_engine *engine, const pf_pick *pick, pf_dtype dtype, const void *from, void *to);

#endif
