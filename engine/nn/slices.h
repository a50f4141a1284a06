/*
 * slices.h - inside the floor nn/: a row that goes through a model one slice of positions after
 * another, for training (sliced.c) and for evaluation (evaluate.c). Between two slices stands a
 * state of the whole model, whose tensors are copies that nothing else holds.
 */
#ifndef PF_SLICES_H
#define PF_SLICES_H

#include "module.h"

typedef struct pf_slices {
    pf_engine *e;
    pf_module *m;
    pf_tensor *x, *target; /* (B, L), ...; (B, L) i32, contiguous */
    pf_pass pass;          /* of the whole row */
    int64_t batch, length;
    int64_t n;       /* slices */
    int64_t each;    /* positions of a slice, the last one may have fewer; 0: n even ones */
    uint64_t *calls; /* (n): random calls before a slice */
    bool *keep;      /* (B) */
} pf_slices;

/* Room for n slices, and the target; x, pass, n and each are set. */
int pf_slices_open(pf_slices *s, pf_tensor *target);
void pf_slices_close(pf_slices *s);
/* What stands before the first one, where its inputs have been read (a memory's sums): first of
 * all, without a gradient. */
int pf_slices_state(pf_slices *s, pf_state **state);
/* The same, recorded where a tape is open. cotangent: the gradient of it, or NULL; again: it was
 * run before. */
int pf_slices_begin(pf_slices *s, pf_state **state, const pf_state *cotangent, bool again);

int64_t pf_slice_first(const pf_slices *s, int64_t i);
/* The module on slice i, from the state, which moves on; run: whatever else it is to be told.
 * score NULL: nothing is wanted but the state. again: it was run before. */
int pf_slice_run(pf_slices *s, int64_t i, const pf_run *run, bool again, pf_score *score);
/* The same without a gradient, and on to what stands before slice i + 1. */
int pf_slice_pass(pf_slices *s, int64_t i, pf_state *state, bool again, pf_score *score);
/* Items whose document at the beginning of slice i is not the one before it begin anew. gradient:
 * the state holds gradients. */
void pf_slice_cut(pf_slices *s, int64_t i, pf_state *state, bool gradient);

#endif
