/*
 * tape.h - front header of floor 3: running ops on the graph.
 *
 * pf_apply runs an op and, when a tape is open and an input is part of its graph, records
 * it. backward walks the nodes once, last to first; a node's saved tensors, inputs and
 * output gradients are released as soon as it has been walked. Gradients of leaves add to
 * leaf->grad (which lies outside the tape); everything else dies with the tape.
 */
#ifndef PF_TAPE_H
#define PF_TAPE_H

#include "op.h"

/* Runs `op`; out[0 .. n_out-1] become the caller's. attrs NULL: the defaults. */
int pf_apply(pf_engine *engine, const pf_op *op, pf_tensor *const *in, int n_in,
             const pf_attr *attrs, pf_tensor **out);
/* pf_apply for ops with random numbers: `draw` names the stream. */
int pf_apply_drawn(pf_engine *engine, const pf_op *op, pf_tensor *const *in, int n_in,
                   const pf_attr *attrs, uint64_t draw, pf_tensor **out);

/* True when an op on t would be recorded now. */
bool pf_in_graph(const pf_engine *engine, const pf_tensor *t);

/* Hides the open tape: between pause and resume nothing is recorded, and new tensors
 * still belong to the tape. */
pf_tape *pf_tape_pause(pf_engine *engine);
void pf_tape_resume(pf_engine *engine, pf_tape *tape);

/* For pf_engine_close: tapes that are still open lose their engine; closing them later is
 * safe and frees what they hold. */
void pf_tape_abandon(pf_engine *engine);

#endif
