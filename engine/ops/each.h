/*
 * each.h - the elementwise loop of ops whose operands are not all f32, as fold.h is the one of
 * those that are: operand 0 is written, the others are broadcast to its shape. Elements are
 * worked out one by one, so that neither threads nor the place in a run show in their bits.
 */
#ifndef PF_EACH_H
#define PF_EACH_H

#include "op.h"

/* n elements that lie evenly in every operand; steps are in elements. */
typedef struct pf_run_at {
    int64_t n;
    void *at[PF_ITER_MAX];
    int64_t step[PF_ITER_MAX];
} pf_run_at;

typedef void (*pf_each_fn)(const void *context, const pf_run_at *run);

/* Runs fn over all elements of operand[0], which no other operand overlaps. */
int pf_each(pf_engine *engine, int n, const pf_tensor *const *operand, pf_each_fn fn,
            const void *context);

/* For shape rules: inputs i and j are of one dtype, whichever. */
int pf_want_alike(const pf_call *c, int i, int j);
/* ... and output 0 has the broadcast shape of inputs first .. first + n - 1. */
int pf_broadcast_shape(pf_call *c, pf_dtype dtype, int first, int n);

/* NOLINTBEGIN(bugprone-macro-parentheses): types stand without */

/* void name(context, run): y[i] = expression of a and b, elements of type X, over runs. Neighbours
 * have a loop of their own, of which the compiler makes vectors. */
#define PF_EACH_2(name, Y, X, expression)                                                          \
    static void name(const void *context, const pf_run_at *r) {                                    \
        (void)context;                                                                             \
        Y *restrict y = r->at[0];                                                                  \
        const X *pa = r->at[1], *pb = r->at[2];                                                    \
        const int64_t sy = r->step[0], sa = r->step[1], sb = r->step[2];                           \
        if (sy == 1 && sa == 1 && sb == 1) {                                                       \
            for (int64_t i = 0; i < r->n; i++) {                                                   \
                const X a = pa[i], b = pb[i];                                                      \
                y[i] = (expression);                                                               \
            }                                                                                      \
            return;                                                                                \
        }                                                                                          \
        for (int64_t i = 0; i < r->n; i++) {                                                       \
            const X a = pa[i * sa], b = pb[i * sb];                                                \
            y[i * sy] = (expression);                                                              \
        }                                                                                          \
    }

/* The same of one element, a. */
#define PF_EACH_1(name, Y, X, expression)                                                          \
    static void name(const void *context, const pf_run_at *r) {                                    \
        (void)context;                                                                             \
        Y *restrict y = r->at[0];                                                                  \
        const X *pa = r->at[1];                                                                    \
        const int64_t sy = r->step[0], sa = r->step[1];                                            \
        if (sy == 1 && sa == 1) {                                                                  \
            for (int64_t i = 0; i < r->n; i++) {                                                   \
                const X a = pa[i];                                                                 \
                y[i] = (expression);                                                               \
            }                                                                                      \
            return;                                                                                \
        }                                                                                          \
        for (int64_t i = 0; i < r->n; i++) {                                                       \
            const X a = pa[i * sa];                                                                \
            y[i * sy] = (expression);                                                              \
        }                                                                                          \
    }

/* NOLINTEND(bugprone-macro-parentheses) */

#endif
