/*
 * attention.h - front header of the floor: kinds of attention, each a row.
 *
 * A kind is what stands between queries, keys and values: favor (linear, by a kernel's
 * features), exact (softmax, quadratic), identity (none). kinds.def lists them; a row holds all
 * that anybody has to know of one, so nobody outside a kind's own files asks which kind it is.
 */
#ifndef PF_ATTENTION_FLOOR_H
#define PF_ATTENTION_FLOOR_H

#include "kernel.h"
#include "reach.h"
#include "state.h"

/* The op rows of this floor. */
#define PF_OP(name) extern const pf_op pf_op_##name;
#include "attention.def"
#undef PF_OP
int pf_attention_register(pf_engine *engine);

enum { PF_KIND_OPTIONS = 12 }; /* at most, of one kind */

/* One attention, ready to run. */
typedef struct pf_attention {
    const struct pf_attention_kind *kind;
    pf_kernel *kernel; /* bound; of kinds that take one, else NULL */
    pf_tensor *decay;  /* (Hk) log-decay a token, causal; NULL: none */
    pf_tensor *table;  /* of kinds with rooms: what tells them apart; else NULL */
    bool causal;
    double option[PF_KIND_OPTIONS]; /* its kind's own, in their order; a choice by its place */
    double dropout;                 /* of this call, of kinds that drop weights; 0: none */
    uint64_t draw;                  /* and which mask */
    pf_tensor *edges, *edge_bias;   /* of this call, of kinds that read them (edges/edges.h) */
    pf_tensor *relative;            /* of this call, of windows: (B, H, Lq, W), what scores gain by
                                     * distance (sparse/listed.h) */
    pf_tensor *buckets;             /* of this call, (B, H, rounds, L) i32 of the new keys */
} pf_attention;

/* Who sees whom, and a decay: what a kind may take; kinds.c refuses what it doesn't. */
#define PF_TAKES(input) (1u << PF_IN_##input)
#define PF_TAKES_ALL                                                                               \
    (PF_TAKES(MASK) | PF_TAKES(DOCUMENTS) | PF_TAKES(DECAY) | PF_TAKES(LIMITS) |                   \
     PF_TAKES(PREFIX) | PF_TAKES(CU_SEQLENS))

/* Inputs of a call by PF_IN_* (reach.h), and an entry state behind them (PF_ENTRY_INPUTS). */
enum { PF_ENTRY_INPUTS = 3, PF_ATTENTION_INPUTS = PF_REACH_INPUTS + PF_ENTRY_INPUTS };
/* Outputs: out, and an exit state where there is one. */
enum { PF_ATTENTION_OUTPUTS = 1 + PF_ENTRY_INPUTS };

/* alone/partition.h: weights and their sums. */
struct pf_sums;
extern const struct pf_sums pf_sums_linear, pf_sums_exact;

/* How a kind tells which room each position is in (sparse/): by a table, one a head, that a layer
 * holds as a buffer. Tables and rooms are of as many heads of keys as of queries. */
typedef struct pf_rooms {
    const char *table; /* its name in a layer and in files */
    /* Keys are the queries, at length 1: the layer makes none. */
    bool (*shared)(const pf_attention *a);
    int64_t (*rounds)(const pf_attention *a); /* rows of numbers that are told */
    /* Of a call that is given its table, or the numbers (the other is NULL, or both are): options
     * that were not given are as the tensor says; fails where one that was says otherwise. */
    int (*settle)(pf_attention *a, const pf_config *options, const pf_tensor *table,
                  const pf_tensor *numbers);
    double (*scale)(const pf_attention *a); /* of the scores; 0: 1 / sqrt(d) */
    /* The table for heads of width d, drawn from the engine's seed and a place in the model. */
    int (*make)(pf_tensor **table, pf_engine *e, const pf_attention *a, int64_t heads, int64_t d,
                uint64_t place);
    /* *numbers (B, H, rounds, L) of q and k (B, H, L, d), as they are before positions turn them;
     * mask (B, L) of keys, NULL: all there. */
    int (*tell)(pf_tensor **numbers, pf_engine *e, const pf_attention *a, pf_tensor *q,
                pf_tensor *k, pf_tensor *mask);
    /* Of tables that move while a model trains; NULL: they stay. `sums`, shaped like the table but
     * for a last dimension one longer, gathers what the rows of a forward say; a step that is over
     * moves the table and clears them. */
    int (*note)(const pf_attention *a, pf_tensor *sums, pf_engine *e, pf_tensor *q, pf_tensor *k,
                pf_tensor *numbers);
    int (*move)(const pf_attention *a, pf_tensor *sums, pf_engine *e);
} pf_rooms;

typedef struct pf_attention_kind {
    const char *name, *doc;
    bool takes_kernel;
    unsigned takes;                /* bit i: the input PF_IN_* i, of those behind v (PF_TAKES) */
    bool edges;                    /* reads the edges of a graph (pf_attention.edges) */
    bool drops;                    /* drops weights by itself (pf_attention.dropout) */
    bool carries;                  /* has an exit state, that a later call can begin from: the
                                    * first PF_ENTRY_INPUTS tensors of `state` */
    const pf_option_info *options; /* of its own: numbers, switches and choices */
    int n_options;
    const struct pf_pattern_rule *rule; /* of kinds that are patterns: says which keys a query sees,
                                         * and has their options, or the first of them; NULL */
    const pf_state_kind *state;         /* what streaming remembers; NULL: nothing */
    const struct pf_sums *sums;         /* NULL: its weights can't be told */
    const pf_rooms *rooms;              /* NULL: it has none */
    /* Refuses options that each are fine but not together; NULL: all go. */
    int (*check)(const pf_attention *a, const char *where);

    /* Whole rows, recorded: in (PF_ATTENTION_INPUTS) -> out[0 .. PF_ATTENTION_OUTPUTS - 1].
     * exit: the exit state is wanted. */
    int (*call)(pf_tensor **out, pf_engine *e, const pf_attention *a, pf_tensor *const *in,
                bool exit);
    /* Widths d of q and k and dv of v that a node was opened for. */
    void (*widths)(const pf_attention *a, const pf_state *s, int64_t *d, int64_t *dv);
    /* Makes the tensors of a node for heads of keys of width d and values of width dv. */
    int (*open)(pf_state *s, pf_engine *e, const pf_attention *a, int64_t heads, int64_t d,
                int64_t dv);
    /* q (B, H, L, d), k (B, Hk, L, d), v (B, Hk, L, dv), all of this state's sizes: attends to
     * the state and causally to the new keys, and moves the state on, but for its position. NULL:
     * can't stream, and says `no_stream`. */
    int (*prefill)(pf_tensor **out, pf_engine *e, const pf_attention *a, pf_state *s, pf_tensor *q,
                   pf_tensor *k, pf_tensor *v);
    const char *no_stream;
    /* The same for L = 1; NULL: prefill is as good. */
    int (*step)(pf_tensor **out, pf_engine *e, const pf_attention *a, pf_state *s, pf_tensor *q,
                pf_tensor *k, pf_tensor *v);
    bool step_rows; /* step takes a gathered state (state/rows.c) too, of kernels that make features
                     * by themselves */
    /* A part of a longer row in training: attends to a state whose tensors are part of
     * the graph, and leaves the next part's in their place. NULL: says `no_part`. */
    int (*part)(pf_tensor **out, pf_engine *e, const pf_attention *a, pf_state *s,
                pf_tensor *const *in);
    const char *no_part;
    /* Why these options have no part, where others have; NULL: they have. */
    const char *(*no_part_of)(const pf_attention *a);
    /* s becomes the state of its own keys and then those of `later`, which is used up; NULL:
     * nothing is remembered. */
    int (*merge)(pf_state *s, pf_engine *e, const pf_attention *a, pf_state *later);

    /* Algorithmic flops of one head and token, forward and backward. */
    void (*flops)(const pf_attention *a, const pf_attention_shape *shape, double *forward,
                  double *backward);
    /* From which length of rows on it is faster than the kinds before it that estimate the same;
     * NULL: attention "auto" never takes it. */
    int (*from_length)(double *length, const pf_engine *e, const pf_attention_shape *shape);
} pf_attention_kind;

/* ---- kinds.c ---- */
#define PF_KIND(name) extern const pf_attention_kind pf_kind_##name;
#include "kinds.def"
#undef PF_KIND
/* "|favor|exact|..."; the choices of an option. */
extern const char pf_kind_names[];
#define PF_KIND_CHOICES (pf_kind_names + 1)
const pf_attention_kind *pf_kind_at(int index); /* NULL past the last */
int pf_attention_describe(pf_config *to);       /* sets `attention` of it (pf_describe) */
int pf_patterns_describe(pf_config *to);        /* sparse/pattern_rules.c: `patterns` of it */
/* By name, NULL for the first; fails naming the nearest. */
int pf_kind_find(const pf_attention_kind **kind, const char *name, const char *where);
/* The kind that the `name` of a kernel's options says, as older scripts and files do; or NULL. */
const pf_attention_kind *pf_kind_of_kernel(const pf_config *kernel);
/* The name of input i of those that not every kind takes, and whether this one does. */
const char *pf_kind_input_name(int input);
int pf_kind_takes(const pf_attention_kind *kind, int input, const char *where);
/* The kind that the words of a state's file say (pf_alone.words). */
const pf_attention_kind *pf_kind_of_words(const pf_config *words);

/* ---- kind_options.c ---- */
/* What a row of options says, in `needs`, that acts on what a training step leaves. */
#define PF_NEEDS_TRAINING    "training"
/* Where a layer and a state's file keep them; a map. */
#define PF_ATTENTION_OPTIONS "attention_options"
/* The options of a kind's own, or of its rule. */
const pf_option_info *pf_kind_options(const pf_attention_kind *kind, int *n);
/* Sets a->option of a->kind: `options` (NULL: none) over the defaults, once they fit. */
int pf_attention_settle(pf_attention *a, const pf_config *options, const char *where);
/* Refuses, in a call or a state of attention alone, options that only layers have a use for. */
int pf_attention_of_layers(const pf_attention *a, const pf_config *options, const char *where);
/* Is an option there, with a value? */
bool pf_attention_given(const pf_config *options, const char *name);
/* Sets the option `layer` (whose random numbers these are) of kinds that have one and were not
 * given it. */
void pf_attention_set_layer(pf_attention *a, uint64_t layer);
/* Of kinds that can give the queries of some first tokens weights of their own (option `queries`):
 * from now on those of all the others see nothing (first), or those do. False: it has no such. */
bool pf_attention_split_queries(pf_attention *a, bool first);
/* Of one kind: fails naming the option in which they differ. */
int pf_attention_same_options(const pf_attention *a, const pf_attention *b);
/* Sets PF_ATTENTION_OPTIONS of `words` where there are some. */
int pf_attention_set_words(pf_config *words, const pf_config *options);

/* Refuses a length that the options of a pattern are not for: of a call by itself, since a layer
 * meets short rows too. */
int pf_attention_fits(const pf_attention *a, int64_t Lq, int64_t Lk, bool causal);
/* Refuses options that are for no length at all: of layers and streams. */
int pf_attention_fits_some(const pf_attention *a, bool causal);

/* Whole rows: q (B, H, Lq, d), k (B, Hk, Lk, d), v (B, Hk, Lk, dv) and who sees whom. */
int pf_attend_rows(pf_tensor **out, pf_engine *e, const pf_attention *a, pf_tensor *const *in,
                   bool exit);

/* A node for (batch, heads of keys, head_dim, value_dim). */
int pf_attend_state(pf_state **state, pf_engine *e, const pf_attention *a, int64_t batch,
                    int64_t heads, int64_t head_dim, int64_t value_dim);
/* Refuses a node that was opened for another kind, other options or another kernel's map. */
int pf_attend_check(const pf_attention *a, const pf_state *state, const char *where);
int pf_attend_prefill(pf_tensor **out, pf_engine *e, const pf_attention *a, pf_state *state,
                      pf_tensor *q, pf_tensor *k, pf_tensor *v);
/* L = 1: O(r dv) a head for linear attention. Equal to the parallel form to 1e-5. */
int pf_attend_step(pf_tensor **out, pf_engine *e, const pf_attention *a, pf_state *state,
                   pf_tensor *q, pf_tensor *k, pf_tensor *v);
/* Takes a step all sequences of a gathered state at once? Else they are stepped one by one. */
bool pf_attend_together(const pf_attention *a);
/* Why it has no part, as the end of "KIND attention ..."; NULL: it has. */
const char *pf_attend_no_part(const pf_attention *a);
/* in: rows, mask and documents of the part. */
int pf_attend_part(pf_tensor **out, pf_engine *e, const pf_attention *a, pf_state *state,
                   pf_tensor *const *in);
/* Runs `op` outside any tape, so that its outputs last. */
int pf_apply_lasting(pf_engine *e, const pf_op *op, pf_tensor *const *in, int n,
                     const pf_attr *attrs, pf_tensor **out);

/* ---- public_state.c: a state that stands alone, with what it is made of ---- */
typedef struct pf_alone {
    pf_state_own own; /* first */
    pf_heap *heap;
    pf_attention attention;
    pf_config *words;   /* its kernel, or its kind, as files say it */
    pf_config *options; /* of the kind's own; NULL: its defaults */
    int64_t heads, head_dim, value_dim;
    pf_tensor *fingerprint; /* numbers that two equal kernels share; NULL: none */
} pf_alone;
static inline pf_alone *pf_alone_of(const pf_state *state) { return (pf_alone *)state->own; }
/* alone_rooms.c, of kinds with rooms: attention.table <- the one given (of a->options as it says),
 * or one that is drawn (NULL); and the numbers of new keys (NULL of other kinds), the caller's. */
int pf_alone_table(pf_alone *alone, pf_engine *e, const pf_config *options, pf_tensor *table);
int pf_alone_tell(pf_tensor **numbers, const pf_alone *alone, pf_engine *e, pf_tensor *q,
                  pf_tensor *k);
/* Fails, saying why, unless states of the two may stand for each other. */
int pf_alone_alike(const pf_alone *a, const pf_alone *b);
/* From what a file says: its words, its tensors (NULL where it has none), sizes and batch. */
int pf_alone_restore(pf_state **state, pf_engine *e, const pf_config *words, pf_tensor *projection,
                     const pf_attention_state_options *sizes);

/* Holds a loaded state against `options`, and puts a kernel of the host's in the place of the
 * features that a file has of it. */
int pf_alone_adopt(pf_state *state, pf_engine *e, const pf_attention_state_options *options);

#endif
