/*
 * favor_step.h - the sums that the kind favor remembers of a stream, and a step, which adds a key
 * to them and asks them: stream.c says what they are.
 */
#ifndef PF_FAVOR_STEP_H
#define PF_FAVOR_STEP_H

#include "attention.h"
#include "operator.h"

/* S (B, Hk, r, dv), z (B, Hk, r), shift (B, Hk), and the same sums of the last `recent` steps. */
enum { PF_S, PF_Z, PF_SHIFT, PF_S_RECENT, PF_Z_RECENT };

typedef struct {
    const pf_kern *kern;
    const float *decay; /* (H) or NULL */
    int64_t H, r, dv, recent;
    float *s, *z, *shift, *s_recent, *z_recent;
} pf_favor_sums;

/* The state's numbers as loops see them. */
pf_favor_sums pf_favor_sums_of(pf_state *s, const pf_engine *e, const pf_attention *a);

/* Recent steps join the large sums, in tensors of the state's own. */
int pf_favor_settle(pf_state *s, pf_engine *e, const pf_attention *a);

/* q, k, v (B, H or Hk, 1, width) -> out (B, H, 1, dv): the kind's row `step`. One a call. */
int pf_favor_step(pf_tensor **out, pf_engine *e, const pf_attention *a, pf_state *s, pf_tensor *q,
                  pf_tensor *k, pf_tensor *v);

/* The factors of a step that stays: the kind's `keep`. */
void pf_favor_keep(pf_state *s, const pf_engine *e);

#endif
