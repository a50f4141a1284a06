/*
 * looks.h - loops inside of a task that are long by themselves, such as those over one line of
 * millions: they look every so often whether to go on. A task that does not leaves its results
 * half made, and the call that ran it fails.
 */
#ifndef PF_LOOKS_H
#define PF_LOOKS_H

#include <stdatomic.h>

#include "meter.h"

enum { PF_LOOK = 1 << 20 }; /* turns of a loop between two looks */

/* One for all tasks of a call; begins as {.engine = engine}. */
typedef struct pf_looks {
    const pf_engine *engine;
    atomic_int stopped; /* why, or 0 */
} pf_looks;

static inline bool pf_has_stopped(const pf_looks *looks) {
    return atomic_load_explicit(&looks->stopped, memory_order_relaxed) != 0;
}

/* The next turns *at .. *end - 1 of n, where both begin as 0; false: there are none, or no more are
 * wanted. Loops of one piece do not look: the task did. */
static inline bool pf_next_piece(pf_looks *looks, int64_t n, int64_t *at, int64_t *end) {
    if (*end >= n) return false;
    int status = *end > 0 ? pf_stopped(looks->engine) : PF_OK;
    if (status < 0) atomic_store_explicit(&looks->stopped, status, memory_order_relaxed);
    if (pf_has_stopped(looks)) return false;
    *at = *end;
    *end = pf_min(n, *at + PF_LOOK);
    return true;
}

/* What came of the tasks, as pf_parallel (status) and the looks have it. */
static inline int pf_looks_end(const pf_looks *looks, int status) {
    return status < 0 ? status : pf_stopped_fail(looks->engine, atomic_load(&looks->stopped));
}

#endif
