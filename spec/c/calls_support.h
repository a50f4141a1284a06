/*
 * calls_support.h - an op by its row, for tests: one input, or two, and the defaults.
 */
#ifndef CALLS_SUPPORT_H
#define CALLS_SUPPORT_H

#include "calls.h"

static inline int call_one(pf_tensor **y, pf_engine *e, const pf_op *op, pf_tensor *x) {
    return pf_apply(e, op, &x, 1, NULL, y);
}

static inline int call_two(pf_tensor **y, pf_engine *e, const pf_op *op, pf_tensor *a,
                           pf_tensor *b) {
    return pf_apply(e, op, (pf_tensor *[]){a, b}, 2, NULL, y);
}

#endif
