/*
 * items.h - a fixed set of items under a softmax, as its files share it.
 *
 * With phi as in partition.h, the set is z = sum_j phi(y_j) (r) and
 * S = sum_j phi(y_j) v_j^T (r, dv):
 *
 *     log Z(x) = log phi(x).z,   E(x) = S^T phi(x) / phi(x).z
 *
 * Items come and go, so sums must bear subtraction. They are kept in double and in *levels*:
 * level n holds the items whose log-shift l lies in (WIDTH (n - 1), WIDTH n], in units of
 * e^(WIDTH n). Within a level terms differ in size by e^16 at most, so what a removal leaves
 * behind is at most about N e^16 2^-53 (N 1e-9) of a remaining item's size; a level that has
 * no item left is dropped with its rounding. At most LEVELS levels exist: below the lowest of
 * them, 1,000 nats under the largest item, items share it.
 */
#ifndef PF_ITEMS_H
#define PF_ITEMS_H

#include "partition.h"

enum { PF_ITEMS_WIDTH = 16, PF_ITEMS_LEVELS = 64 };

typedef struct pf_level {
    int64_t number, count;
    double *sum; /* z (r), then S^T (dv, r): loops run along features */
} pf_level;

/* Levels in ascending order; of one set, or of what is added to it or taken from it. */
typedef struct pf_levels {
    pf_heap *heap;
    int64_t r, dv, n;
    int64_t lowest;  /* number of the level that items further down share; INT64_MIN: none */
    int64_t nothing; /* items of size 0 (their |x|^2 is out of the float range) */
    pf_level list[PF_ITEMS_LEVELS];
} pf_levels;

struct pf_items {
    pf_heap *heap;
    pf_kernel *kernel;      /* bound to one projection for all */
    int64_t dim, value_dim; /* value_dim 0: no values */
    int64_t r;
    pf_levels levels;
    bool stale; /* the next query gathers first */
    double *z;  /* (r) of all levels, in units of e^top; owned */
    float *s;   /* (dv, r) likewise, behind z */
    double top; /* -inf: no item */
};

static inline size_t pf_items_gathered_bytes(const pf_items *s) {
    return (size_t)s->r * sizeof(double) + (size_t)(s->r * s->value_dim) * sizeof(float);
}
/* Rows in block number `block` of n. */
static inline int64_t pf_items_block_rows(int64_t n, int64_t block) {
    return pf_min(PF_ENCODED_BLOCK, n - block * PF_ENCODED_BLOCK);
}

/* ---- items.c, for items_ask.c ---- */
/* t is f32 and (rows, width), or (any count, width) with rows -1; `what` is asked, `name` is t. */
int pf_items_check(const pf_tensor *t, int64_t rows, int64_t width, const char *what,
                   const char *name);
void pf_items_encoding(pf_encoding *encoding, const pf_engine *engine, const pf_items *items);
/* *rows: x (n, dim) as the encoding takes it, contiguous: itself, or what the host's map makes of
 * it, (n, r). */
int pf_items_rows(pf_tensor **rows, pf_items *items, pf_engine *engine, pf_side side,
                  const pf_tensor *x);

/* ---- items_levels.c ---- */
void pf_levels_open(pf_levels *levels, pf_heap *heap, int64_t r, int64_t dv);
void pf_levels_close(pf_levels *levels);
int64_t pf_levels_count(const pf_levels *levels);
int64_t pf_levels_bytes(const pf_levels *levels);
/* The level of an item of log-shift l, which must be finite. */
int64_t pf_level_number(double l);
/* Makes the levels of n items with log-shifts l (n; -inf: counted as nothing). */
int pf_levels_make(pf_levels *levels, const float *l, int64_t n);
/* Where an item of level `number` is held: its place, or -1. */
int64_t pf_levels_find(const pf_levels *levels, int64_t number);
/* levels += change, which is empty afterwards. */
void pf_levels_join(pf_levels *levels, pf_levels *change);
/* levels -= change, or PF_EINVAL when it has not so many items. */
int pf_levels_leave(pf_levels *levels, const pf_levels *change);

#endif
