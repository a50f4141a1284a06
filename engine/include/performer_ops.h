/*
 * performer_ops.h - the page of Performer's public interface for what is computed: ops, and their
 * gradients. performer.h includes it; its manners hold here.
 */
#ifndef PERFORMER_OPS_H
#define PERFORMER_OPS_H

#include "performer.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- ops -------------------------------------------------------------------------------
 * Whatever is computed is a call of an op: a row of the engine's table with inputs, attributes and
 * outputs. Find its index by name, fill its attributes with their defaults, set some, apply it. */

typedef enum {
    PF_ATTR_INT,
    PF_ATTR_FLOAT,
    PF_ATTR_BOOL,
    PF_ATTR_DIM,    /* a dimension */
    PF_ATTR_DIMS,   /* a list of dimensions */
    PF_ATTR_INTS,   /* a list of sizes */
    PF_ATTR_INDEX,  /* a position along a dimension */
    PF_ATTR_CHOICE, /* one of `choices` "a|b|c"; the number is its place, from 0 */
    PF_ATTR_NEW_DIM /* a dimension that the result has and the first input has not */
} pf_attr_kind;

typedef struct {
    const char *name;
    pf_attr_kind kind;
    double def; /* default; lists default to empty */
    bool required;
    const char *choices;
    const char *doc;
} pf_attr_info;

typedef struct {
    int64_t i; /* INT, BOOL, DIM, INDEX, CHOICE */
    double f;  /* FLOAT */
    int n;     /* DIMS, INTS: the length */
    int64_t list[PF_MAX_RANK];
} pf_attr;

typedef struct {
    size_t size;
    const char *name;
    const char *args;    /* names of the inputs, "q, k, v, [projection]"; [] optional */
    const char *results; /* names of the outputs */
    const char *doc;     /* one paragraph: formula, shapes, source */
    int min_inputs, max_inputs, outputs;
    const pf_attr_info *attrs;
    int n_attrs;
    bool differentiable;
    const char *in_place; /* its name in place of its first input, "add_"; NULL: it has none */
    /* Bit i: input, or output, i holds positions (i32), from 0; negative ones are from the end. */
    uint32_t place_inputs, place_outputs;
} pf_op_info;

PF_API int pf_op_count(const pf_engine *engine);
PF_API int pf_op_at(const pf_engine *engine, int index, pf_op_info *info);
PF_API int pf_op_find(const pf_engine *engine, const char *name); /* index, or PF_ENOTFOUND */
/* Fills attrs[0 .. n_attrs-1] with the defaults of op `index`. */
PF_API int pf_op_defaults(const pf_engine *engine, int index, pf_attr *attrs);
/* Runs op `index`. inputs[i] may be NULL where optional; attrs NULL: defaults. The
 * outputs[0 .. outputs-1] become the caller's. Recorded when a tape is open and an input is part
 * of its graph. */
PF_API int pf_op_apply(pf_engine *engine, int index, pf_tensor *const *inputs, int n_inputs,
                       const pf_attr *PF_NULLABLE attrs, pf_tensor **outputs);
/* Runs op `index`, whose row has a name in place, and writes its result over the numbers of
 * inputs[0], whose shape the result has to have: the others may be broadcast to it, or be views of
 * it. No tape records that, as with pf_tensor_copy; PF_ESTATE: inputs[0] wants a gradient, and a
 * backward to come would read it again. On failure inputs[0] is what it was. */
PF_API int pf_op_apply_in_place(pf_engine *engine, int index, pf_tensor *const *inputs,
                                int n_inputs, const pf_attr *PF_NULLABLE attrs);

/* ---- gradients -------------------------------------------------------------------------
 * Leaves ask for a gradient; a tape records the ops that follow from them, walks back from a loss,
 * and takes every tensor made under it along when it closes. */

PF_API int pf_tensor_require_grad(pf_tensor *t, bool yes); /* f32 leaves */
PF_API bool pf_tensor_requires_grad(const pf_tensor *t);
/* *grad NULL: none yet. */
PF_API int pf_tensor_grad(pf_tensor **grad, pf_engine *engine, pf_tensor *t);
PF_API void pf_tensor_clear_grad(pf_tensor *t);
PF_API int pf_tape_open(pf_tape **tape, pf_engine *engine);
/* Adds dLoss/dleaf to every leaf's gradient. seed NULL: loss is a scalar, seed 1.
 * Walks once: activations are released on the way. PF_ESTATE where a tensor that it reads was
 * changed in place since an op read it. A walk that breaks off leaves the leaves that it reaches
 * without any gradient, those of tapes before it too: a sum begins anew. */
PF_API int pf_tape_backward(pf_tape *tape, pf_tensor *loss, const pf_tensor *PF_NULLABLE seed);
PF_API void pf_tape_close(pf_tape **tape);

#ifdef __cplusplus
}
#endif

#endif
