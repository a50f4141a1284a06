/*
 * slices.h - inside the floor nn/: a row that goes through a model one slice of positions after
 * another, for training (sliced.c), for evaluation (evaluate.c), and where it goes on from rows
 * before it (carry.c). Between two slices stands a state of the whole model, whose tensors are
 * copies that nothing else holds.
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
    int64_t n;         /* slices */
    int64_t each;      /* positions of a slice, the last one may have fewer; 0: n even ones */
    uint64_t *calls;   /* (n): random calls before a slice */
    bool *keep;        /* (B) */
    pf_part whole;     /* documents and mask of the row, and of what is before it */
    pf_state *carried; /* the row goes on from it; NULL */
} pf_slices;

/* Room for n slices, and the target (NULL: none); x, pass, n and each are set. */
int pf_slices_open(pf_slices *s, pf_tensor *target);
/* What is carried stays as it was where status < 0. Returns status. */
int pf_slices_close(pf_slices *s, int status);
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
/* The module on all of a row of one slice, from the state: y, as `run` has it. */
int pf_slices_forward(pf_slices *s, const pf_run *run, pf_tensor **y);
/* Items whose document at the beginning of slice i is not the one before it begin anew. gradient:
 * the state holds gradients. */
void pf_slice_cut(pf_slices *s, int64_t i, pf_state *state, bool gradient);

/* ---- carry.c: what pass.carry asks for ----
 * Enters the row; what is carried becomes what stands behind it, of `state`'s numbers, if the row
 * goes on from anything; and the end of the call, before which nothing is for good. */
int pf_carry_enter(pf_slices *s);
int pf_carry_leave(pf_slices *s, const pf_state *state);
void pf_carry_end(pf_slices *s, int status);

#endif
