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

typedef struct pf_node {
    const pf_op *op;
    uint64_t draw;
    int n_in;
    pf_attr *attr; /* op->n_attrs of them */
    pf_tensor *in[PF_MAX_IN];
    pf_target to[PF_MAX_IN];
    pf_tensor *out[PF_MAX_OUT];
    pf_tensor *saved[PF_MAX_SAVED];
    pf_tensor *grad[PF_MAX_OUT]; /* NULL until the first contribution */
} pf_node;

struct pf_tape {
    pf_owner owner; /* first: the tensor floor keeps its list here */
    pf_engine *engine; /* NULL: the engine closed before the tape */
    pf_heap *heap;     /* retained */
    pf_tape *outer;
    uint64_t id; /* differs from that of every other tape of the process */
    pf_node *nodes;
    int64_t n, capacity;
    int paused;
    bool walked;  /* backward has begun: nothing is recorded any more */
    bool walking; /* backward is running */
    bool doomed;  /* closed from inside its own backward */
};

/* Appends the call as a node: takes its saved tensors, links its outputs. On failure the
 * tape is as before and the call still owns everything. */
int pf_tape_record(pf_tape *tape, pf_call *c);
void pf_node_drop(pf_tape *tape, pf_node *node);    /* everything but the targets */
void pf_node_drop_targets(pf_node *node);

/* The grad_context of one node's backward. */
typedef struct pf_walk {
    pf_grad_sink sink;
    pf_tape *tape;
    pf_node *node;
    pf_tensor *extra[PF_MAX_IN]; /* own gradient of an input that stands twice in the node */
} pf_walk;

extern const pf_grad_ops pf_walk_ops;
/* Puts a first gradient into output `slot` of `node`. */
int pf_walk_seed(pf_tape *tape, int node, int slot, pf_tensor *grad);
/* Adds the gradients of inputs that stood twice; always drops them. */
int pf_walk_fold(pf_walk *walk, pf_call *c, int status);

#endif
