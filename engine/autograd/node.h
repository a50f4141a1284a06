/*
 * node.h - inside the autograd floor only: what a tape is made of.
 *
 * A node is one recorded call. It keeps of its inputs and outputs what the op's `uses`
 * names; the others are ghosts (shapes without data). Where the gradient of input i goes
 * stands in to[i]: to a leaf, to output `slot` of an earlier node, or nowhere. Nodes are
 * numbered in the order of recording, so every edge points to a smaller number.
 */
#ifndef PF_NODE_H
#define PF_NODE_H

#include "kern.h"
#include "tape.h"

typedef struct pf_target {
    pf_tensor *leaf; /* retained, or NULL */
    int node, slot;  /* node -1: the gradient is not wanted */
} pf_target;

/* What a node runs again in backward (recompute.c, reversible.c): held from recording to the
 * drop, when f.release is called. */
typedef struct pf_rerun {
    pf_again f;
    pf_branch_fn branch; /* of a reversible node: n_branches of them, on f.context */
    int64_t n_branches;
    uint64_t seed, draws; /* of the engine, before the first run */
} pf_rerun;

typedef struct pf_node {
    const pf_op *op;
    uint64_t draw;
    pf_rerun rerun; /* f.run NULL: none */
    int n_in;
    pf_attr *attr; /* op->n_attrs of them */
    pf_tensor *in[PF_MAX_IN];
    pf_target to[PF_MAX_IN];
    pf_tensor *out[PF_MAX_OUT];
    pf_tensor *saved[PF_MAX_SAVED];
    pf_tensor *grad[PF_MAX_OUT]; /* NULL until the first contribution */
} pf_node;

struct pf_tape {
    pf_owner owner;    /* first: the tensor floor keeps its list here */
    pf_engine *engine; /* NULL: the engine closed before the tape */
    pf_heap *heap;     /* retained */
    pf_tape *outer;
    uint64_t id; /* differs from that of every other tape of the process */
    pf_node *nodes;
    int64_t n, capacity;
    int paused;
    bool walked;          /* backward has begun: nothing is recorded any more */
    bool walking;         /* backward is running */
    bool doomed;          /* closed from inside its own backward */
    struct pf_note *note; /* what is asked about ops while this tape is paused; or NULL */
    /* A tape inside a node's backward: the outermost one that is being walked, whose list
     * names every leaf that such tapes gave a gradient to, in case the walk breaks off. */
    pf_tape *host;
    pf_tensor **given; /* retained */
    int64_t n_given, cap_given;
};

/* Ops under a paused tape, as the tape `outer` around it would have seen them. */
typedef struct pf_note {
    const pf_tape *outer; /* never looked into: it may have closed */
    uint64_t outer_id;
    bool wanted;          /* an op read a leaf that wants a gradient */
    const char *captured; /* the op that read what was made on `outer`; NULL: none did */
} pf_note;

static inline bool pf_made_by(const pf_tape *tape, const pf_tensor *t) {
    return t->tape == tape && t->tape_id == tape->id;
}

/* Appends the call as a node: takes its saved tensors, links its outputs. On failure the
 * tape is as before and the call still owns everything. */
int pf_tape_record(pf_tape *tape, pf_call *c);
void pf_node_drop(pf_tape *tape, pf_node *node); /* everything but the targets */
void pf_node_drop_targets(pf_node *node);

/* The grad_context of one node's backward. */
typedef struct pf_walk {
    pf_grad_sink sink;
    pf_tape *tape;
    pf_node *node;
    pf_tensor *extra[PF_MAX_IN]; /* own gradient of an input that stands twice in the node */
} pf_walk;

extern const pf_grad_ops pf_walk_ops;
/* Adds a gradient to output `slot` of `node`, before the walk. */
int pf_walk_seed(pf_tape *tape, int node, int slot, pf_tensor *grad);
/* Adds the gradients of inputs that stood twice; always drops them. */
int pf_walk_fold(pf_walk *walk, pf_call *c, int status);

/* ---- recompute.c, for reversible.c too ---- */
/* Between begin and end nothing is recorded, and all that is made, but for the results, is gone
 * at the end. note.wanted then tells whether a leaf was read. */
typedef struct pf_hidden {
    pf_tape *scratch;
    pf_tape *outer;
    pf_note note;
} pf_hidden;
int pf_hidden_begin(pf_hidden *h, pf_engine *e);
/* Releases the results where status, or what is found, is a failure. */
int pf_hidden_end(pf_hidden *h, pf_engine *e, int status, pf_tensor **results, int n);
/* A tape inside the backward of a node. */
int pf_tape_open_inside(pf_tape **tape, const pf_walk *walk);
/* *y as the last word of `tape`: a result that is an input or a parameter itself needs a node
 * there to take its gradient. *linked: it has one. */
int pf_tape_link(pf_tape *tape, pf_tensor **y, bool *linked);
/* The leaves of a recorded inner tape, but for `own`, go on the list of the outermost one: before
 * they are written to, so that a failure here finds nothing to undo. */
int pf_tape_list_leaves(const pf_tape *tape, pf_tensor *const *own, int n_own);

/* Tells tape->note of an op on these inputs (recompute.c). */
void pf_note_op(const pf_tape *tape, const pf_op *op, pf_tensor *const *in, int n_in);

#endif
