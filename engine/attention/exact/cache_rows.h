/*
 * cache_rows.h - tensors of a state that grow (pf_state_kind.grows): rows that lie behind each
 * other in dimension 3, (B, heads, room, width), and room behind them.
 */
#ifndef PF_CACHE_ROWS_H
#define PF_CACHE_ROWS_H

#include "state.h"

/* A view of rows first .. first + n - 1. */
int pf_cache_view(pf_tensor **view, pf_tensor *cache, int64_t first, int64_t n);
/* x (B, heads, n, width) behind the rows that are held. The room doubles as needed, so that a row
 * is copied once more on average, however long the sequence grows. A failure leaves the rows. */
int pf_cache_append(pf_state *s, int which, pf_tensor *x);
/* A new one with room for so many rows, which holds of `like` rows 0 .. front - 1, and then rows
 * from .. from + n - 1. */
int pf_cache_cut(pf_tensor **cut, pf_heap *heap, pf_tensor *like, int64_t room, int64_t front,
                 int64_t from, int64_t n);

#endif
