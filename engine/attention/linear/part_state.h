/*
 * part_state.h - what the keys of one part of a row leave, S, z and M of every head, as an element
 * of a scan (comm/scan.h); and the gradient of what a part begins from, which goes the other way.
 *
 * near + far of a state, with l the positions of `near` and D the decay of a token:
 *
 *     M' = M_far - D l,  M = max(M_near, M'),  S = e^(M_near - M) S_near + e^(M' - M) S_far
 *
 * z likewise; every factor is at most 1. Where a document begins in `near`, nothing of `far` is
 * seen behind it, and S, z, M stay: a scan in segments. A gradient T of a part's entry comes on the
 * scale of that entry's M, as e^C T with C = -M: then the same join adds up what comes to a part's
 * end from all the parts behind it, and the gradient of its own sums is e^(M_own + C) T.
 */
#ifndef PF_PART_STATE_H
#define PF_PART_STATE_H

#include "attention.h"
#include "scan.h"

typedef struct pf_part_shape {
    int64_t batch, heads, r, dv;
    const float *decay; /* (heads) or NULL */
} pf_part_shape;

/* An element's numbers, in a block of pf_part_state_bytes. */
typedef struct pf_part_state {
    int64_t *length;      /* positions of the part */
    int32_t *cut;         /* (batch): a document begins in it */
    float *shift, *z, *s; /* (batch, heads), (.., r), (.., r, dv) */
} pf_part_state;

size_t pf_part_state_bytes(const pf_part_shape *shape);
pf_part_state pf_part_state_at(const pf_part_shape *shape, void *block);
/* The element of no key, of a part without positions. */
void pf_part_state_nothing(const pf_part_shape *shape, void *block);
/* Item b's S, z and M of no key; what the part is stays. */
void pf_part_state_forget(const pf_part_shape *shape, void *block, int64_t b);
/* The join of those that `shape`, which lasts, says. */
pf_monoid pf_part_monoid(pf_part_shape *shape);

#endif
