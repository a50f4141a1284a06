/*
 * attention_layer.h - what the layers that attend share: heads, kernel and norms, resolved from
 * options of the same names, and what becomes of them after a step (attention_make.c); how they
 * run (layer_attention.c); and what some of them have beside.
 */
#ifndef PF_ATTENTION_LAYER_H
#define PF_ATTENTION_LAYER_H

#include "module.h"

typedef struct attention_self {
    pf_attention attention; /* owns its kernel */
    int64_t heads, kv_heads, head_dim;
    bool rotary, halves, relative;
    bool split; /* global tokens have weights of their own (option global_weights) */
    double base, dropout, drops; /* drops: option attention_dropout */
    pf_tensor *q_norm, *k_norm;  /* (d) scales, borrowed from the slots; NULL: no norm */
    bool shared;                 /* keys are the queries at length 1: the layer makes none */
    uint64_t
        apart; /* added to the place in the model: a projection unlike that place's other one */
} attention_self;

/* attention_make.c. Which layer's projection: the layer's place, or what the kernel says. */
uint64_t pf_attention_place(const pf_module *m);
/* self->heads, kv_heads, head_dim. */
int pf_attention_heads(pf_module *m, attention_self *self);
/* self->attention: the kind, and its kernel, drawn for this layer's place and heads. */
int pf_attention_resolve(pf_module *m, pf_engine *e, attention_self *self);
int pf_attention_norms(pf_module *m, pf_engine *e, attention_self *self); /* of option qk_norm */
int pf_attention_decay(pf_module *m, pf_engine *e, attention_self *self); /* of option decay */
int pf_attention_tilts(pf_module *m, pf_engine *e, attention_self *self);
/* attention_rooms.c: of kinds that put positions into rooms. What a build makes of it, and what
 * follows from options; keys (B, H, L, d) of queries; the numbers of rows q, k and v (side), which
 * a training run notes, and where; and what a step that is over does to the table by the notes of
 * all rows. Without rooms nothing. */
int pf_attention_rooms(pf_module *m, pf_engine *e, attention_self *self, uint64_t place);
int pf_attention_rooms_derive(pf_module *m);
int pf_attention_share(const pf_module *m, pf_engine *e, pf_tensor *q, pf_tensor **k);
int pf_attention_number(const pf_module *m, pf_engine *e, const pf_run *run, pf_tensor **side,
                        pf_tensor **numbers);
pf_tensor *pf_attention_notes(const pf_module *m);
int pf_attention_move(pf_module *m, pf_engine *e);
/* attention_dropout.c: can a kind drop a share p inside attention? */
int pf_attention_drops(const pf_attention_kind *kind, double p);
/* What a training run drops of attention to keys (B, Hk, L, d), in `a` or in *mask, which is that
 * given (NULL: none) otherwise; the caller's. */
int pf_attention_drop_some(pf_attention *a, pf_engine *e, const pf_run *run, double p,
                           const pf_tensor *keys, pf_tensor *given, pf_tensor **mask);
/* attention_edges.c: the inputs `edges` and `edge_bias`, and those of a run in `a` where its kind
 * reads them. */
enum { PF_EDGES_READ = 2 };
extern const pf_input_info pf_edge_inputs[PF_EDGES_READ];
int pf_attention_read_edges(pf_attention *a, const pf_module *m, const pf_run *run);
/* attention_relative.c, option relative: parameters and waves; what scores of a run gain by their
 * distances (B, H, L, n), and *q (B, H, L, d) as the keys are to meet it. Without the option they
 * do nothing. */
int pf_relative_build(pf_module *m, pf_engine *e, attention_self *self);
int pf_relative_derive(pf_module *m);
int pf_relative_scores(pf_module *m, pf_engine *e, const pf_run *run, pf_tensor **q,
                       pf_tensor **relative);
/* attention_rows.c: of a run that goes on from rows before it, where those are kept as inputs of
 * the layer (pf_state_rows): *all, the n rows before x and x; positions of both; side (q, k, v of
 * both) as those of x, with the others where attention goes on from; what is left to the next row.
 * Of any other run n is 0 and nothing is done. */
int pf_rows_join(pf_engine *e, const pf_run *run, pf_tensor *x, pf_tensor **all, int64_t *n);
int pf_rows_positions(pf_engine *e, int64_t n, pf_tensor **positions);
int pf_rows_enter(pf_engine *e, const pf_run *run, int64_t n, pf_tensor **side);
int pf_rows_leave(pf_engine *e, const pf_run *run, pf_tensor *all);
/* RMS norm over each head's channels with one scale for all heads, in place; scale NULL: none. */
int pf_attention_normalise(pf_engine *e, pf_tensor *scale, pf_tensor **x);
/* (B, H, L, d) -> (B, L, H d) */
int pf_attention_join(const attention_self *self, pf_engine *e, pf_tensor *x, pf_tensor **y);
/* x (B, L, D), or (B, D) in a step -> the same, by what the layer makes of rows (B, L, D). */
typedef int (*pf_rows_fn)(pf_module *m, pf_engine *e, const pf_run *run, pf_tensor *x,
                          pf_tensor **y);
int pf_attention_run(pf_module *m, pf_engine *e, const pf_run *run, pf_tensor *x, pf_rows_fn rows,
                     pf_tensor **y);
/* Hooks of the layers' rows. */
int pf_attention_derive(pf_module *m);
int pf_attention_after_step(pf_module *m, pf_engine *e, uint64_t step, int *drawn);
void pf_attention_drop(void *self);

#endif
