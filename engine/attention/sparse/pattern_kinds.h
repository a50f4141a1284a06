/*
 * pattern_kinds.h - what kinds of attention that are patterns share: a call of listed_attention by
 * the rule of their row, and what it costs.
 */
#ifndef PF_PATTERN_KINDS_H
#define PF_PATTERN_KINDS_H

#include "attention.h"
#include "pattern.h"

/* A kind's `call`: the row's rule, with options and buckets of `a`, over in (PF_REACH_INPUTS). */
int pf_pattern_kind_call(pf_tensor **out, pf_engine *e, const pf_attention *a, pf_tensor *const *in,
                         bool exit);
/* Of its scores; 0: 1 / sqrt(d). */
static inline double pf_pattern_kind_scale(const pf_attention *a) {
    return a->kind->rooms ? a->kind->rooms->scale(a) : 0;
}
/* A kind's `flops`, from the keys that the rule says a query sees. */
void pf_pattern_kind_flops(const pf_attention *a, const pf_attention_shape *shape, double *forward,
                           double *backward);
/* The work of a query that sees so many keys. */
void pf_pattern_kind_work(const pf_attention_shape *shape, double keys, double *forward,
                          double *backward);

#endif
