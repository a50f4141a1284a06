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
    bool grows;                           /* rows beyond `position` (dimension 2) are spare room */
    unsigned steps_only;                  /* no part of a row in training needs it */
    unsigned anew;                        /* begins from nothing where a packed document does */
    unsigned log_scale; /* a logarithm: nothing is -inf, and it takes no gradient */
} pf_state_kind;

/* What several states share and own together; the first member of whatever it is. */
typedef struct pf_state_own {
    atomic_int refs;
    void (*drop)(struct pf_state_own *own); /* the last reference is gone */
} pf_state_own;

struct pf_state {
    pf_heap *heap;
    const pf_state_kind *kind; /* NULL: holds no tensor */
    int64_t batch;
    int64_t position; /* tokens seen */
    int64_t recent;   /* steps that the kind holds apart (linear/stream.c); in files */
    pf_tensor *tensor[PF_STATE_TENSORS];
    struct pf_state **child;
    int n_child;
    void *host; /* a host layer's own, with the layer's calls */
    pf_host_layer layer;
    pf_state_own *own; /* of a state that stands alone; retained */
};

int pf_state_new(pf_state **state, pf_engine *e, int64_t batch, int n_child);
pf_state_own *pf_state_own_retain(pf_state_own *own);
void pf_state_own_release(pf_state_own **own); /* takes NULL */

/* What a tree is to begin the parts of a row with: nothing that only steps need. */
void pf_state_begin_parts(pf_state *state);
/* The rows of items that begin anew, where keep[b] is false: a state of nothing, and no
 * gradient. gradient: `state` holds gradients. */
void pf_state_begin_anew(pf_state *state, const bool *keep, bool gradient);

#endif
