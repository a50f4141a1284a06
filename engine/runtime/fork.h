/*
 * fork.h - what a fork leaves whole. Of all threads only the one that called fork lives on in the
 * child, so a lock that another held would stay shut, and workers are gone without having left.
 * Hence: spin locks that no fork finds shut, and a count by which a pool sees that its workers
 * stayed behind.
 */
#ifndef PF_FORK_H
#define PF_FORK_H

#include <stdatomic.h>

#include "base.h"

/* Held for a few instructions, and never while somebody else's code runs: fork takes them all. */
typedef struct pf_spin {
    atomic_flag taken;
    struct pf_spin *next, *prev; /* all that are open */
} pf_spin;

int pf_spin_open(pf_spin *spin); /* PF_ENOMEM; the place must not move until it is closed */
void pf_spin_close(pf_spin *spin);
void pf_spin_lock(pf_spin *spin);
void pf_spin_unlock(pf_spin *spin);

/* Forks between the process that first opened a lock and this one: another number than before
 * means that this is a child, and that nobody's threads but the caller's came along. */
unsigned pf_forks(void);

#endif
