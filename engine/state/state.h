/*
 * state.h - front header of the floor: what layers remember while a sequence streams, as a
 * tree of named tensors, one node a layer.
 *
 * What the tensors mean is the business of whoever opened the node; the row of its kind says
 * what the tree has to know of them. All have the batch as first dimension, so forking,
 * reordering, counting, saving and loading are the same for every kind.
 */
#ifndef PF_STATE_H
#define PF_STATE_H

#include "performer_attention.h"
#include "tensor.h"

enum { PF_STATE_TENSORS = 5 };

/* Bit i of a mask speaks of tensor i. */
typedef struct pf_state_kind {
    const char *name;
    const char *tensor[PF_STATE_TENSORS]; /* names, for files and messages */
    bool grows;  /* rows (dimension 2) beyond those that are held (pf_state_held) are spare room */
    bool slides; /* grows, and lets go of rows, which `recent` counts */
    unsigned steps_only; /* no part of a row in training needs it */
    unsigned parts_only; /* only a part leaves it */
    unsigned anew;       /* begins from nothing where a packed document does */
    unsigned log_scale;  /* a logarithm: nothing is -inf, and it takes no gradient */
    bool carries;        /* whole rows go on from it (nn/carry.c), no prefill and no step */
    /* Of a state that is carried from row to row: leaves no more than its last s->keep rows. */
    int (*trim)(pf_state *state, pf_engine *engine);
    /* A call is over and stays: does in place what it has left in `due`. Can't fail. */
    void (*keep)(pf_state *state, const pf_engine *engine);
} pf_state_kind;

/* What several states share and own together; the first member of whatever it is. */
typedef struct pf_state_own {
    atomic_int refs;
    void (*drop)(struct pf_state_own *own); /* the last reference is gone */
} pf_state_own;

/* What a node was when the call that moves it on began (undo.c). */
typedef struct pf_state_before {
    int64_t position, recent;
    pf_tensor *tensor[PF_STATE_TENSORS]; /* retained; none of a kind that only grows */
    void *host;
} pf_state_before;

/* What a node was opened for, beyond its shapes: who opens it says so, and who takes it from a
 * caller compares. */
enum { PF_STATE_NUMBERS = 12 };
typedef struct pf_state_mark {
    const void *of, *by; /* rows of tables: a kind of attention, and the map of its kernel */
    double number[PF_STATE_NUMBERS];
} pf_state_mark;

struct pf_state {
    pf_heap *heap;
    const pf_state_kind *kind; /* NULL: holds no tensor */
    pf_state_mark mark;
    int64_t batch;
    int64_t position; /* tokens seen */
    int64_t recent; /* in files: steps that the kind holds apart (linear/stream.c), or rows that it
                       * let go of (slides) */
    int64_t keep;   /* rows that are carried on at most (trim); 0: all that the kind reads */
    pf_tensor *tensor[PF_STATE_TENSORS];
    struct pf_state **child;
    int n_child;
    int place;  /* of a row in segments: the node's number in its tree (nn/sequence.c) */
    void *host; /* a host layer's own, with the layer's calls */
    pf_host_layer layer;
    pf_state_own *own; /* of a state that stands alone; retained */
    pf_state_before before;
    pf_tensor *due;        /* the kind's `keep` is to use it when the call's outcome stays */
    struct pf_state **row; /* (batch) of a gathered state (rows.c): this node in each tree; NULL */
    bool moving;           /* a call is under way: `before` holds */
    bool touched; /* in it the host's own state was moved on, and there was no copy of it */
    bool broken;  /* of the tree's root: a call was cut short that could not be undone */
};

/* The name of a kind that carries, whose windows keep inputs of layers; files tell of it. */
#define PF_CARRY_ROWS "carry_rows"

/* Rows that a node whose kind grows is made of. */
static inline int64_t pf_state_held(const pf_state *s) {
    return s->position - (s->kind->slides ? s->recent : 0);
}

int pf_state_new(pf_state **state, pf_engine *e, int64_t batch, int n_child);
pf_state_own *pf_state_own_retain(pf_state_own *own);
void pf_state_own_release(pf_state_own **own); /* takes NULL */

/* ---- undo.c: a call that moves a tree on is all or nothing ----
 * Between the two, whoever moves a node on puts new tensors into the places of those that change
 * and never writes to what was there; of a kind that grows, only to rows behind those held. */
int pf_state_begin(pf_state *state); /* PF_ESTATE: the tree is broken */
/* The call is over: status < 0 brings all of the tree back to what it was. Returns status. */
int pf_state_end(pf_state *state, const pf_engine *engine, int status);
/* PF_ESTATE where an interrupted call could not be undone. */
int pf_state_check(const pf_state *state);
/* Tensor i is a copy from now on, which may be written to. */
int pf_state_renew(pf_state *state, pf_engine *engine, int i);
/* What the host keeps for the node is a copy from now on, where the host can make one. */
int pf_state_renew_host(pf_state *state, pf_engine *engine);

/* ---- rows.c: sequences at positions of their own, as one state ----
 * A gathered tree is shaped like those of n single sequences, which it stands for in one step: its
 * nodes hold no tensors and no position, but the same node of each of them, in `row`, borrowed.
 * Nothing is copied, so a sequence has the bits that it has alone. */
int pf_state_gather(pf_state **gathered, pf_engine *e, pf_state *const *trees, int64_t n);
/* Of nodes whose tensors are small and of one shape whatever the position: a node of all rows,
 * whose tensors lie behind each other; and what has become of them back to the rows, in new
 * tensors. */
int pf_state_rows_join(pf_state **joined, pf_engine *e, const pf_state *gathered);
int pf_state_rows_part(pf_state *gathered, const pf_state *joined);

/* What a tree is to begin the parts of a row with: nothing that only steps need. */
void pf_state_begin_parts(pf_state *state);
/* The rows of items that begin anew, where keep[b] is false: a state of nothing, and no
 * gradient. gradient: `state` holds gradients. */
void pf_state_begin_anew(pf_state *state, const bool *keep, bool gradient);

#endif
