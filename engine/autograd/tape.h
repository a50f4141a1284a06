/*
 * tape.h - front header of the floor autograd/: running ops on the graph.
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

/* True when an op on something of the graph would be recorded now. */
bool pf_tape_records(const pf_engine *engine);

/* Hides the open tape: between pause and resume nothing is recorded, and new tensors
 * still belong to the tape. */
pf_tape *pf_tape_pause(pf_engine *engine);
void pf_tape_resume(pf_tape *tape);

/* pf_tape_backward from several results of one tape at once, each with its seed (NULL: 1). */
int pf_tape_backward_all(pf_tape *tape, pf_tensor *const *outs, const pf_tensor *const *seeds,
                         int64_t n_outs);

/* What a function that backward runs a second time leaves beside its result, for a tape that was
 * walked before: tensors that are of no use on this one, with their gradients from there (NULL:
 * none). */
typedef struct pf_ends {
    pf_tensor *const *out;
    pf_tensor *const *seed;
    int64_t n;
} pf_ends;
/* What the last run of part i left; borrowed until the next. */
typedef int (*pf_ends_fn)(void *context, int64_t i, pf_ends *ends);

/* pf_recompute of a function that leaves more than its result (its only part is 0). */
int pf_recompute_ends(pf_tensor **y, pf_engine *e, const pf_recomputed *f, pf_ends_fn ends,
                      pf_tensor *const *inputs, int n);

/* Reversible residuals (reversible.c): branch i = 0 .. n-1 adds to one half what it makes of the
 * other, y = branch(context, i, x, beside). `context` is taken over in any case; release is called
 * once, when no branch will be run again. a, b become the caller's. beside (n_beside, at most
 * PF_BESIDE): tensors that branches read, which get their gradients; borrowed. */
enum { PF_BESIDE = 16 };
typedef int (*pf_branch_fn)(void *context, pf_engine *engine, int64_t i, pf_tensor *x,
                            pf_tensor *const *beside, pf_tensor **y);
typedef struct pf_branches {
    pf_branch_fn run;
    pf_ends_fn ends; /* what branch i leaves; NULL: nothing */
    void (*release)(void *context);
    void *context;
    int64_t n;
    pf_tensor *const *beside;
    int n_beside;
} pf_branches;
int pf_reversible(pf_tensor **a, pf_tensor **b, pf_engine *e, const pf_branches *branches,
                  pf_tensor *x1, pf_tensor *x2);

/* A node of `op`, a row of no table that has a backward alone, with what its backward is to know:
 * made from in, out[i] is on the open tape afterwards, maybe as a header of its own. `context` is
 * taken over in any case, and released at once where nothing is recorded. */
int pf_record_linked(pf_engine *e, const pf_op *op, void *context, void (*release)(void *),
                     pf_tensor *const *in, int n_in, pf_tensor **out, int n_out);
void *pf_linked_context(const pf_call *c); /* in the backward of such a node */

/* finite.c: looking for numbers that are not finite, which costs nothing while nobody does. A layer
 * enters by its name, and leaves with what that gave. */
int pf_finite_enter(const pf_engine *e, const char *name);
void pf_finite_leave(const pf_engine *e, int before);
/* The forward or the backward of a segment of rows begins. */
void pf_finite_segment(const pf_engine *e, int segment);
/* PF_ENUMERIC of a NaN in what a layer gives, that no op gave it. */
int pf_finite_given(const pf_engine *e, const pf_tensor *y);
static inline bool pf_finite_looks(const pf_engine *e) { return e->own[PF_OWN_FINITE].thing; }

/* leaves.c: who hears of it when a leaf's gradient is whole, in the next backward of a tape that
 * stands in no other's. What fails there fails the backward; what watches stays until `end`. */
typedef struct pf_leaf_watch {
    int (*whole)(void *context, pf_tensor *leaf); /* nothing more is added to its gradient */
    int (*between)(void *context);                /* between nodes, of tapes inside it, too */
    void (*end)(void *context, int status);       /* the backward is through */
    void *context;
} pf_leaf_watch;
void pf_leaves_watch(pf_engine *engine, const pf_leaf_watch *watch); /* borrowed; NULL: nobody */
/* Does a backward run that it watches? It does from within what the backward calls. */
bool pf_leaves_walks(const pf_engine *engine, const pf_leaf_watch *watch);
/* It hears of nothing any more, not of the end either. */
void pf_leaves_unwatch(pf_engine *engine, const pf_leaf_watch *watch);

/* For pf_engine_close: tapes that are still open lose their engine; closing them later is
 * safe and frees what they hold. */
void pf_tape_abandon(pf_engine *engine);

/* The gradient of a leaf, a table, becomes `value` (n, width) in the n rows `row` (ascending) and
 * zero in all others. */
int pf_leaf_take_rows(pf_engine *engine, pf_tensor *leaf, pf_tensor *row, const pf_tensor *value);

#endif
