/*
 * account.h - who pays for a heap's bytes: an account counts what one user of an engine holds (a
 * script, a call), within a bound of its own beside the heap's budget. A block belongs to the
 * account that stands when it is allocated, until it is freed, whoever frees it; what it counts its
 * parents count too. All under the lock of the heap, which calls these.
 *
 * An account that is closed stays while any of its blocks does, for its parents' sake.
 */
#ifndef PF_ACCOUNT_H
#define PF_ACCOUNT_H

#include "base.h"

struct pf_account {
    struct pf_account *parent;
    size_t most; /* 0: no bound of its own */
    size_t used, peak;
    size_t refs; /* blocks, children, and who opened it */
};

/* Counts `bytes` in all of them, or in none: whose bound is in the way, else NULL. */
static inline struct pf_account *pf_account_pay(struct pf_account *account, size_t bytes) {
    for (struct pf_account *a = account; a; a = a->parent)
        if (a->most && (a->used > a->most || bytes > a->most - a->used)) return a;
    for (struct pf_account *a = account; a; a = a->parent) a->used += bytes;
    return NULL;
}

/* What was paid for is there: before that it may still be refused, and is no highest mark. */
static inline void pf_account_raise(struct pf_account *account) {
    for (struct pf_account *a = account; a; a = a->parent)
        if (a->used > a->peak) a->peak = a->used;
}

static inline void pf_account_refund(struct pf_account *account, size_t bytes) {
    for (struct pf_account *a = account; a; a = a->parent) a->used -= bytes;
}

#endif
