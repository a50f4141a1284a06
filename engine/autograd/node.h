/*
 * node.h - inside the autograd floor only: what a tape is made of.
 *
 * A node is one recorded call. It keeps of its inputs and outputs what the op's `uses`
 * names; the others are ghosts (shapes without data). Where the gradient of input i goes
 * stands in edge[i].to: to a leaf, to output `slot` of an earlier node, or nowhere. Nodes are
 * numbered in the order of recording, so every edge points to a smaller number, and walking
 * from the last to the first meets a node when all that adds to its gradient has been walked.
 */
#ifndef PF_NODE_H
#define PF_NODE_H

#include "kern.h"
#include "tape.h"

typedef struct pf_target {
    pf_tensor *leaf; /* retained, or NULL */
    int node, slot;  /* node -1: the gradient is not wanted */
} pf_target;

typedef struct pf_edge {
    pf_tensor *in; /* NULL: absent */
    pf_target to;
} pf_edge;

/* Leaves that want a gradient, each once; retained. */
typedef struct pf_leaf_list {
    pf_tensor **leaf;
    int64_t n, capacity;
} pf_leaf_list;

/* What backward runs a second time (recompute.c, reversible.c): held from recording to the
 * drop, when f.release is called. */
typedef struct pf_recomputation {
    pf_recomputed f;     /* run NULL: a reversible node, or none */
    pf_branch_fn branch; /* of a reversible node: n_branches of them, on f.context */
    pf_ends_fn ends;     /* NULL: it leaves nothing but its result */
    int64_t n_branches;
    uint64_t seed, draws; /* of the engine, before the first run */
    uint64_t changes;     /* pf_changes then */
    uint64_t sum;         /* of the first run's result, bit by bit */
    pf_leaf_list read;    /* by the first run */
} pf_recomputation;

typedef struct pf_node {
    const pf_op *op;
    uint64_t draw;
    uint64_t changes; /* pf_changes when it was recorded: what it read has not changed till then */
    pf_recomputation recompute;
    int n_in;
    pf_edge *edge; /* n_in of them; in one block with attr */
    pf_attr *attr; /* op->n_attrs of them */
    pf_tensor *out[PF_MAX_OUT];
    pf_tensor *saved[PF_MAX_SAVED];
    pf_tensor *grad[PF_MAX_OUT]; /* NULL until the first contribution */
    char *place; /* PF_PLACE_BYTES: the layer that made it, while somebody looks (finite.c); NULL */
} pf_node;
enum { PF_PLACE_BYTES = 192 };

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
    uint64_t opened;      /* pf_changes then */
    /* Inside a second run: what an op reads must not have changed after the first run began, but
     * by this run itself. */
    uint64_t first_began, second_began;
    /* A tape inside a node's backward: the outermost one that is being walked, whose list
     * names every leaf that such tapes gave a gradient to, in case the walk breaks off. */
    pf_tape *host;
    pf_leaf_list given;
    const pf_leaf_watch *watch; /* of the outermost one that is walked; NULL: nobody (leaves.c) */
    int64_t unknown; /* nodes left, of which nobody knows what leaves they give to; while watched */
};

/* Ops under a paused tape, as the tape `outer` around it would have seen them. */
typedef struct pf_note {
    const pf_tape *outer; /* never looked into: it may have closed */
    uint64_t outer_id;
    pf_leaf_list read;    /* leaves that want a gradient */
    const char *captured; /* the op that read what was made on `outer`; NULL: none did */
    int status;           /* < 0: no memory for the list */
} pf_note;

static inline bool pf_is_recording(const pf_tape *tape) { return !tape->paused && !tape->walked; }

static inline bool pf_made_by(const pf_tape *tape, const pf_tensor *t) {
    return t->tape == tape && t->tape_id == tape->id;
}

/* ---- change_check.c: numbers that were written over ---- */
/* The engine's open tape can take the inputs of `op`: their numbers are those that it made, that
 * a first run read, that have their gradients. */
int pf_check_inputs(const pf_engine *e, const pf_op *op, pf_tensor *const *in, int n_in);
/* What backward of the node reads is what the op had read and made. */
int pf_check_unchanged(const pf_tape *tape, const pf_node *node);
/* No backward to come reads the tensor, a leaf that `op` is about to change. */
int pf_check_leaf(const pf_engine *e, const pf_tensor *t, const char *op);
/* A result of the tape is what its node made. */
int pf_check_result(const pf_tape *tape, const pf_tensor *y, const char *where, const char *what);

/* ---- finite.c, while somebody looks ---- */
/* A call after its forward, and a node after its backward: PF_ENUMERIC of a NaN. */
int pf_finite_forward(const pf_call *c);
int pf_finite_backward(const pf_tape *tape, const pf_node *node);
/* A node notes its layer, and its backward enters it again: pf_finite_leave with what that gave. */
int pf_finite_note(pf_tape *tape, pf_node *node);
int pf_finite_return(const pf_engine *e, const pf_node *node);

/* ---- leaves.c ---- */
int pf_leaf_list_add(pf_leaf_list *list, pf_heap *heap, pf_tensor *leaf);
void pf_leaf_list_drop(pf_leaf_list *list, pf_heap *heap);
/* A walk begins; node n has been walked, or has no part in it; one is about to be; the walk ends.
 * Nothing where nobody watches. */
void pf_leaves_begin(pf_tape *tape);
int pf_leaves_after(pf_tape *tape, int64_t n);
int pf_leaves_look(const pf_tape *tape);
void pf_leaves_end(pf_tape *tape, int status);

/* Appends the call as a node: takes its saved tensors, links its outputs. On failure the
 * tape is as before and the call still owns everything. */
int pf_tape_record(pf_tape *tape, pf_call *c);

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
/* Appends a node of `op`, which no table has, to the open tape. It takes r over when it
 * succeeds; out[i] may become a header of its own. */
int pf_record_recomputation(pf_engine *e, const pf_op *op, const pf_recomputation *r,
                            pf_tensor *const *in, int n_in, pf_tensor **out, int n_out);
/* Between begin and end nothing is recorded, and all that is made, but for the results, is gone
 * at the end. note.read then has the leaves that were read. */
typedef struct pf_hidden {
    pf_tape *scratch;
    pf_tape *outer;
    pf_note note;
} pf_hidden; /* whoever begins it drops note.read, or hands it to a node */
int pf_hidden_begin(pf_hidden *h, pf_engine *e);
/* What part i of a first run left is not gone at the end. */
int pf_hidden_keep(pf_hidden *h, pf_ends_fn ends, void *context, int64_t i);
/* Releases the results where status, or what is found, is a failure. */
int pf_hidden_end(pf_hidden *h, pf_engine *e, int status, pf_tensor **results, int n);
/* A tape inside the backward of a node. */
int pf_tape_open_inside(pf_tape **tape, const pf_walk *walk);
/* Walks such a tape from its result *y, which it may replace, with the gradient dy, and from what
 * part i of r left beside it. Nothing to do where none of them depends on a leaf. own: leaves of
 * the caller's, which a broken walk may leave as they are. */
int pf_tape_walk_inside(pf_tape *tape, const pf_recomputation *r, int64_t i, pf_tensor **y,
                        pf_tensor *const *own, int n_own, const pf_tensor *dy);

#endif
