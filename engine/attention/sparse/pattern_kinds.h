/*
 * pattern_kinds.h - what kinds of attention that are patterns share: a call of listed_attention by
 * the rule of their row, and what it costs.
 */
#ifndef PF_PATTERN_KINDS_H
#define PF_PATTERN_KINDS_H

#include "attention.h"
#include "pattern.h"

/* The row's rule, with the options of `a`, over in (PF_REACH_INPUTS) and the buckets of `a`; scale
 * of the scores, 0: 1 / sqrt(d). */
int pf_pattern_kind_apply(pf_tensor **out, pf_engine *e, const pf_attention *a, double scale,
                          pf_tensor *const *in);
/* A kind's `call`: the same at 1 / sqrt(d). */
int pf_pattern_kind_call(pf_tensor **out, pf_engine *e, const pf_attention *a, pf_tensor *const *in,
                         bool exit);
/* A kind's `flops`, from the keys that the rule says a query sees. */
void pf_pattern_kind_flops(const pf_attention *a, const pf_attention_shape *shape, double *forward,
                           double *backward);
/* The work of a query that sees so many keys. */
void pf_pattern_kind_work(const pf_attention_shape *shape, double keys, double *forward,
                          double *backward);

#endif
