/*
 * module.h - front header of the floor nn/: a module is a node {type, options, children} with
 * named tensors. One row of the layer table holds all that is known of a type; config.json,
 * Lua constructors, help and docs follow from it.
 *
 * A layer has one function, `run`, for all its ways of working (pf_run_mode). Most layers look at
 * neither mode nor state: what they do to a row depends on that row alone.
 */
#ifndef PF_MODULE_H
#define PF_MODULE_H

#include "attention.h"

/* The option `attention` of layers: a kind, or auto, or what older files hold, "kernel": then the
 * kernel's name says it, else it is the first kind. */
#define PF_ATTENTION_OF_KERNEL "kernel"
extern const char pf_attention_choices[]; /* attention_choice.c */
#define PF_ATTENTION_CHOICES pf_attention_choices

typedef struct pf_slot {
    char *name;
    pf_tensor *tensor;
    bool trained;
    bool derived; /* made again at every build: not in the walk, not saved */
} pf_slot;

typedef struct pf_child {
    char *name;        /* its part of the path: "1", "attention" */
    pf_module *module; /* retained */
} pf_child;

/* The choices of a pool (layer_pool.c). */
#define PF_POOLS "mean|first|last|attention"

/* A tensor that layers of a type read beside x, by its name in the pass (inputs.c). */
typedef struct pf_input_info {
    const char *name, *doc; /* doc begins with the shape */
    bool required;
} pf_input_info;

/* How a layer is run:
 *   FORWARD  x (B, L, D), or ids (B, L): a whole sequence, without a state. What training runs, and
 *            all that a model can do that sees the future.
 *   PREFILL  x (B, L, D): the next L positions of a stream, whose state moves on by L.
 *   STEP     x (B, D): the next position alone. Not recorded, as PREFILL.
 *   SLICE    x (B, L, D): the next L positions of a training sequence (sliced.c); recorded.
 * Whichever way a token comes, its row is the same to rounding. */
typedef enum { PF_RUN_FORWARD, PF_RUN_PREFILL, PF_RUN_STEP, PF_RUN_SLICE } pf_run_mode;

/* A slice of a longer sequence in training (sliced.c): the state is what earlier slices left, its
 * tensors part of the graph. A layer reads them, never writes to them, and puts those that it
 * leaves to the next slice in their place: backward comes to the next slice first, and finds the
 * gradient of this one's exit in that of the next one's entry. */
typedef struct pf_part {
    int64_t first;               /* place of its first position */
    pf_tensor *documents, *mask; /* (B, L) i32, of the whole sequence; NULL */
    /* Of a sequence that goes on from rows before it (carry.c): so many of their last positions
     * stand in front, and its first document has had `before` (B) i32 of them; NULL: none. */
    int64_t ahead;
    pf_tensor *before;
    /* The slice is a segment (sequence.h): what stands before it comes from there, and no state
     * holds any tensor. NULL: it does not. */
    struct pf_segmented *segmented;
} pf_part;
enum { PF_SLICE_LEAST = 16 }; /* positions: no layer but attention looks back further */

enum { PF_HIDDEN_ALL = -1 };

/* What a layer is run with; a parent hands it on to its children (run.c). */
typedef struct pf_run {
    pf_run_mode mode;
    const pf_pass *pass;  /* never NULL; a streaming run has a quiet one */
    pf_state *state;      /* this layer's own node; NULL in FORWARD and for parts */
    bool last;            /* only the last position's output is wanted (a layer may give all) */
    int64_t hidden;       /* wanted are the states behind so many blocks; PF_HIDDEN_ALL: those that
                           * the head would read; 0: what the layer gives */
    const pf_part *slice; /* in SLICE alone */
    const pf_state *cotangent; /* in SLICE, of `state` once the slice has left it; NULL: none yet */
    struct pf_choices *choices; /* of a run that is kept, or is a part of one; NULL: none is held */
} pf_run;

/* A run that ends in a loss against targets, so that logits need not be whole. */
typedef struct pf_score {
    pf_tensor *target;      /* (B, L) i32, -1 not counted */
    bool each, likeliest;   /* the loss of each position, not their mean; the likeliest ids too */
    pf_tensor *loss, *best; /* what comes of it: (), or (B, L); (B, L) i32, or NULL */
} pf_score;
void pf_score_release(pf_score *score); /* what came of it */

/* How a layer with a weight W (to, from) has an adapter beside it, scale B A, with A (rank, from)
 * drawn and B (to, rank) zeros: makes it, as two slots more; says what it has, rank 0 for none; and
 * ends it, with or without its having become a part of the weight. */
typedef struct pf_adapting {
    int (*make)(pf_module *m, pf_engine *e, int64_t rank, double scale);
    int64_t (*rank)(const pf_module *m, double *scale);
    void (*end)(pf_module *m, bool fold);
} pf_adapting;

/* How a layer with a state takes a step of many sequences at positions of their own, each with a
 * node of its own (run->state->row; rows.c). One without a state takes all at once. */
typedef enum {
    PF_ROWS_ALONE,    /* one after the other */
    PF_ROWS_TOGETHER, /* all at once: `run` hands the state on to children, or reads the rows */
    PF_ROWS_JOINED    /* all at once, their tensors laid side by side: small ones, of one shape
                       * whatever the position */
} pf_rows_way;

/* All that is known of a type of layer: a row of the layer table, with hooks that module.c and
 * run.c call. A hook that is NULL has nothing to do. */
typedef struct pf_layer {
    const char *name, *doc;
    const pf_option_info *options;
    int n_options;
    int min_children, max_children; /* that the caller gives; max < 0: any number */
    const char *width; /* the option that says how many numbers a position of y has; NULL: as many
                        * as the last child gives, or x has */
    const char *hidden_width; /* of a type that has a head: that option of what the head reads */
    int64_t (*width_of)(const pf_module *m, bool hidden); /* of a type whose children say both */
    const pf_input_info *inputs; /* read beside x, in the pass or when a stream begins */
    int n_inputs;
    bool few_rows;     /* its first tensor is a table of which a step reads a few rows: optimizers
                        * move those alone */
    size_t self_bytes; /* of the layer's own resolved struct, zeroed, freed with the module */
    void (*drop)(void *self); /* what that struct owns, before it is freed; NULL: nothing */

    /* Once, when a module is made, or built from a file: makes tensors and inner children, whose
     * order is that of their names in files, and resolves options into m->self, so that a run
     * need not look up names. Options are checked and complete; given children are there. */
    int (*build)(pf_module *m, pf_engine *e);

    /* What follows from options and is in no file: tensors that are `derived`. Called once the
     * parameters have their numbers, maybe a second time. */
    int (*derive)(pf_module *m);

    /* *y = the layer of x, in whatever mode; x, parameters and, beside its own, states stay as they
     * are. pf_run_module calls it and moves the position of the state on; a layer runs its
     * children with pf_run_child and never by this hook, so that states and the names in
     * messages follow. */
    int (*run)(pf_module *m, pf_engine *e, const pf_run *run, pf_tensor *x, pf_tensor **y);

    /* sum = x + h and y = run(sum) in one op, which saves a walk over memory where a residual ends
     * and a norm begins. pf_run_child_sum calls it, and without it adds and runs. */
    int (*run_sum)(pf_module *m, pf_engine *e, pf_tensor *x, pf_tensor *h, pf_tensor **sum,
                   pf_tensor **y);

    /* Of a layer of two residual branches, x + f0(x), then x + f1(x): *y = f0(x) or f1(x), without
     * the sum, which the reversible layer makes otherwise (layer_reversible.c). */
    int (*branch)(pf_module *m, pf_engine *e, const pf_run *run, int which, pf_tensor *x,
                  pf_tensor **y);

    /* The same as `run` with the cross-entropy of what it gives, in pieces: for layers that make
     * logits, or have a child that does. pf_run_scored calls it; NULL: the logits are whole. */
    int (*score)(pf_module *m, pf_engine *e, const pf_run *run, pf_tensor *x, pf_score *score);

    /* Can it not run slices of a row? NULL: it can, whatever its options. */
    bool (*whole)(const pf_module *m);

    /* Of a layer whose rows look at other rows: fails where it can't run segments of a row
     * (sequence.h), each of which may be on a rank of its own. causal: only what stands before one
     * is to be had. NULL: it can where it has no state but its children's and is not `whole`. */
    int (*segments)(const pf_module *m, bool causal);

    /* Of a type with a head: *y = the head of h, what `run` gives when hidden states are wanted. */
    int (*head)(pf_module *m, pf_engine *e, const pf_run *run, pf_tensor *h, pf_tensor **y);

    /* Of a type with several outputs: y[i] = output i, in forward mode; how many, and their names.
     * What `run` gives is the first. */
    int (*outputs)(pf_module *m, pf_engine *e, const pf_run *run, pf_tensor *x, pf_tensor **y);
    int (*output_count)(const pf_module *m);
    const char *(*output_name)(const pf_module *m, int i);

    /* The layer's empty memory for `batch` sequences: its node of the tree that run->state comes
     * from. pf_state_of calls it for streams and slices; NULL: the layer remembers nothing. */
    int (*state)(const pf_module *m, pf_engine *e, int64_t batch, pf_state **state);
    pf_rows_way rows; /* of a type whose `state` is not pf_state_of_children */

    /* What a stream of several inputs begins with: fills run->state, the layer's fresh node, from
     * run->pass->inputs, recorded in SLICE. pf_begin_module calls it; NULL: its children begin,
     * where they have nodes of their own. */
    int (*begin)(pf_module *m, pf_engine *e, const pf_run *run);

    /* A low-rank adapter beside its weight (trainable.c); NULL: the layer takes none. */
    const pf_adapting *adapting;

    /* What follows an optimizer's step, counted from 1: a projection that is due is drawn anew and
     * counted in *drawn, tilts move. pf_module_after_step calls it on the whole tree, never while
     * a run is under way: backward reads the projection that forward had. */
    int (*after_step)(pf_module *m, pf_engine *e, uint64_t step, int *drawn);

    /* What training runs gather (f32, contiguous) for `after_step` to go by, which clears it: a sum
     * over the step's rows, so that lanes and ranks add theirs up. NULL: nothing. */
    pf_tensor *(*notes)(const pf_module *m);
} pf_layer;

struct pf_module {
    atomic_int refs;
    pf_heap *heap;
    const pf_layer *type;
    pf_config *options; /* owned; every option that has a default is in it */
    pf_child *child;    /* first the given ones, then those that build made */
    int n_child, n_given;
    int64_t cap_child;
    pf_slot *slot;
    int n_slot;
    int64_t cap_slot;
    void *self;
    bool recompute;     /* a tape keeps the input alone, backward runs it again (build sets) */
    pf_host_layer host; /* type "lua" */
    const pf_input_info *reads; /* the type's inputs, or the host's own */
    int n_reads;
    int64_t modules; /* in the tree, shared ones as often as they are met */
    int depth;
    atomic_flag walking; /* guards what follows */
    pf_slot *walk;       /* the tree's tensors by path; tensors borrowed */
    int n_walk;
    int64_t cap_walk, walk_slots; /* slots of the tree when `walk` was made; -1: not made */
    uint64_t walk_drops;          /* pf_module_drop_slots calls before that */
};

/* ---- the layer table (build.c) ---- */
#define PF_LAYER(name) extern const pf_layer pf_layer_##name;
#include "layers.def"
#undef PF_LAYER
extern const pf_layer pf_layer_host;
const pf_layer *pf_layer_find(const char *name); /* NULL: none */
int pf_layers_describe(pf_config *to);           /* sets `layers` of it (pf_describe) */

/* ---- making modules (module.c, build.c, init.c) ---- */
int pf_module_make(pf_module **module, pf_engine *e, const pf_layer *type, pf_config *options,
                   pf_module *const *children, int n_children); /* takes options, unchecked */
/* What build left to do when the numbers came from a file, of the whole tree. */
int pf_module_derive(pf_module *m);
/* An inner child for build. Takes `options` (NULL: out of memory). */
int pf_module_inner(pf_module *m, pf_engine *e, const char *name, const char *type,
                    pf_config *options);
int pf_module_adopt(pf_module *m, const char *name, pf_module *child); /* retained */
/* o with one option more; NULL (and o freed) out of memory, as when o is NULL. */
pf_config *pf_options_number(pf_config *o, const char *key, double value);
pf_config *pf_options_bool(pf_config *o, const char *key, bool value);
pf_config *pf_options_string(pf_config *o, const char *key, const char *value);
/* layer_norm.c: an inner norm of the type and with the eps and bias that m's options say. */
int pf_module_norm(pf_module *m, pf_engine *e, const char *name, int64_t dim);
/* Options of a linear layer; NULL out of memory. */
pf_config *pf_linear_options(const pf_module *m, int64_t from, int64_t to, bool bias, double init);
/* Writes the seed into m's option `kernel`, so that a redraw after loading draws from the
 * same stream: every layer that has the option calls it first. */
int pf_kernel_complete(pf_module *m, const pf_engine *e);
int pf_kernel_seed(pf_config *kernel, const pf_engine *e); /* the same of a kernel's options */
enum { PF_LOCAL_WINDOW = 128 };                            /* where no local_window is given */
/* block_heads.c: a block's option local_heads becomes head_groups. */
int pf_block_local_heads(pf_module *m, const pf_engine *e);
/* Option head_groups of blocks and performers: checked, with a kernel and a seed in each; how many
 * there are (1 without the option); their layers, of attention's options (taken); *h through those
 * from child `first` on. */
int pf_block_settle_groups(pf_module *m, const pf_engine *e);
int pf_block_groups(const pf_module *m);
int pf_block_make_groups(pf_module *m, pf_engine *e, pf_config *options);
/* performer_blocks.c: the lists that say attention and kernel of each layer, checked, with seeds;
 * and the child `blocks`. */
int pf_performer_lists(pf_module *m, const pf_engine *e);
int pf_performer_blocks(pf_module *m, pf_engine *e);
/* attention_choice.c: which kind the options say, "auto" being decided. */
int pf_attention_kind_of(const pf_module *m, const pf_attention_kind **kind);
/* Puts the choice in the place of attention "auto", before pf_kernel_complete. */
int pf_attention_decide(pf_module *m, pf_engine *e);
/* The options ask for no attention but the default's, so that the kernel's name may say one. */
bool pf_attention_open(const pf_module *m);
/* watch.c: what an attention layer keeps of its queries and keys, and the step that
 * looks at them where one is due; q (B, H, L, d), k (B, Hk, L, d). */
int pf_watch_make(pf_module *m, int64_t heads);
void pf_watch_look(const pf_module *m, const pf_engine *e, const pf_attention *a,
                   const pf_pass *pass, const pf_tensor *q, const pf_tensor *k);
/* The mean |x + y|^2 of query head `head`, once for each look; false: nothing new. */
/* after_step.c: the notes of all layers below m, whose order is that of the tree. How many numbers
 * they are; into `block`, and none are left; back from there, to none or more. */
int64_t pf_notes_count(const pf_module *m);
void pf_notes_take(const pf_module *m, float *block);
void pf_notes_put(const pf_module *m, const float *block);
void pf_notes_clear(const pf_module *m);
/* pf_module_after_step where the notes of all rows of the step are on every rank. */
int pf_module_follow(pf_engine *e, pf_module *m, uint64_t step, int *drawn);
/* What the last lane saw stands on all ranks: after the lanes of a step, before a tilt moves. */
int pf_watch_share(pf_engine *e, pf_module *m);
bool pf_watch_take(const pf_module *m, int64_t head, double *sum);
/* trainable.c: what a tree says of what is trained: `adapters` and `frozen`, with names from m on.
 * Both are there only where there are some. */
int pf_module_take_trainable(pf_module *m, pf_engine *e, const pf_config *node);
int pf_module_write_trainable(const pf_module *m, pf_config *node, bool frozen);
/* build.c: the tree without `frozen`, for what a model computes is the same either way. */
int pf_module_bare_tree(pf_config **tree, const pf_module *module);
/* pf_module_tensor_at, but for what a parameter is: frozen ones are learned too. */
int pf_module_tensor_learned(const pf_module *m, int index, const char **name, pf_tensor **tensor,
                             bool *learned);
/* A copy of those of m's options that layer `type` knows too; NULL out of memory. */
pf_config *pf_module_pass_on(const pf_module *m, const char *type);
/* A parameter shaped `shape`, filled by `init` ("normal:0.02", "value:1", "zeros", "ones",
 * "xavier", "fan_in"), keyed by the engine's seed and its place in the build order. */
int pf_module_param(pf_module *m, pf_engine *e, const char *name, int rank, const int64_t *shape,
                    const char *init);
int pf_module_trained(pf_module *m, const char *name, pf_tensor *tensor); /* retained */
int pf_module_buffer(pf_module *m, const char *name, pf_tensor *tensor); /* retained, not trained */
int pf_module_share(pf_module *m, const char *name, pf_tensor *tensor);  /* retained, trained */
int pf_module_derived(pf_module *m, const char *name, pf_tensor *tensor); /* retained, not saved */
void pf_module_drop_slots(pf_module *m, int first); /* that one and all behind it */
int pf_init_fill(pf_tensor *t, pf_engine *e, const char *init);
#define PF_INIT_TEXT (PF_NUMBER_TEXT + 10)
void pf_init_text(char out[PF_INIT_TEXT], const char *name, double value); /* "name:value" */
pf_tensor *pf_module_tensor(const pf_module *m, const char *name); /* own slot, borrowed, NULL */
/* "prefix.name", or name alone under an empty prefix; free with pf_heap_text_free. */
char *pf_heap_joined(pf_heap *heap, const char *prefix, const char *name);
char *pf_heap_text(pf_heap *heap, const char *text); /* a copy; free with pf_heap_text_free */
void pf_heap_text_free(pf_heap *heap, char *text);

/* Options by name; they are checked and complete after pf_module_new. */
double pf_option_number(const pf_module *m, const char *name);
static inline int64_t pf_option_int(const pf_module *m, const char *name) {
    return (int64_t)pf_option_number(m, name);
}
const char *pf_option_text(const pf_module *m, const char *name);
/* For build: PF_EINVAL of an option that does nothing without `needs`, which is not so; what a file
 * says builds as it is. */
int pf_option_useless(const pf_module *m, const pf_engine *e, const char *name, const char *needs);
/* A part's own `name`, or where that is not given what `whole` says. */
bool pf_option_part(const pf_module *m, const char *name, const char *whole);

/* ---- passes (pass.c) ---- */
int pf_pass_take(pf_pass *own, const pf_pass *given); /* a caller's; NULL: an empty one */
/* A pass that outlives the call, with its tensors retained; and their end. */
int pf_pass_retain(pf_pass *own, pf_heap *heap, const pf_pass *pass);
void pf_pass_release(pf_pass *pass, pf_heap *heap);
/* Mask, documents and prefix fit x, and m reads the inputs. */
int pf_pass_check(const pf_pass *pass, const pf_module *m, const pf_tensor *x);

/* ---- several inputs (inputs.c) ---- */
/* *own: `pass` with its inputs in `list`, and `name` among them as `t` (NULL: taken out). */
int pf_pass_with(pf_pass *own, pf_named list[PF_INPUTS], const pf_pass *pass, const char *name,
                 pf_tensor *t);
pf_tensor *pf_run_input(const pf_run *run, const char *name); /* borrowed; NULL: not given */
int pf_run_need(pf_tensor **t, const pf_module *m, const pf_run *run, const char *name);
/* A mask or ids that may be missing: (B, L) i32. */
int pf_run_may(pf_tensor **t, const pf_module *m, const pf_run *run, const char *name, int64_t B,
               int64_t L);
/* Every name is one that a layer of m's tree reads, and stands there once. */
int pf_inputs_check(const pf_module *m, const pf_pass *pass);
/* m->reads of a host's layer, from pf_host_layer.inputs; module.c ends them. */
int pf_inputs_of_host(pf_module *m, const char *const *names);

/* ---- choices that a second run finds again (choices.c) ---- */
/* Numbers (i32) that jump where inputs move a little, in the order in which a run made them. */
typedef struct pf_choices {
    pf_tensor **made;
    int64_t n, cap, next; /* of the second run: which one comes */
    bool again;
    struct pf_choices *outer; /* of the run that made this one; of no use to a second run */
} pf_choices;
/* *t: what the first run chose here, retained; NULL: this is the first one, which makes its choice
 * and notes it by pf_run_choose (or a run that nobody repeats). */
int pf_run_chosen(const pf_run *run, pf_engine *e, pf_tensor **t);
int pf_run_choose(const pf_run *run, pf_engine *e, pf_tensor *t);
void pf_choices_free(pf_choices *choices, pf_heap *heap);

/* ---- runs that are kept (kept.c) ---- */
/* A forward that backward will run a second time, in `parts` pieces, each from the input that it
 * had: what a second run has to find as the first did. Of several pieces 2 i and 2 i + 1 are child
 * i's. */
typedef struct pf_kept_run {
    pf_heap *heap; /* retained */
    pf_module *m;  /* retained */
    pf_engine *e;
    pf_run run;              /* the first one's mode, slice and cotangent */
    pf_pass pass;            /* its tensors retained */
    pf_part slice;           /* its tensors retained */
    pf_state *live;          /* the first run's own, borrowed: gone when the second comes */
    pf_state *entry, *again; /* in slices: what stood before, and what the second run leaves */
    pf_tensor **end;         /* the tensors that a piece left, then their gradients */
    int64_t cap_end;
    int64_t parts, runs; /* pieces; how many were run: past `parts` it is the second time */
    struct {
        uint64_t calls;     /* random ones before it */
        pf_choices choices; /* its own */
    } piece[];              /* (parts) */
} pf_kept_run;
int pf_kept_run_make(pf_kept_run **kept, pf_module *m, pf_engine *e, const pf_run *run,
                     int64_t parts);
void pf_kept_run_free(void *kept);
/* What stands beside a run of a piece while it lasts. */
typedef struct pf_kept_pass {
    pf_pass pass;
    uint64_t calls;
    pf_named list[PF_INPUTS];
} pf_kept_pass;
/* The run of piece i now, with `inputs` (kept->pass.n_inputs) in the place of those that it had. */
int pf_kept_run_next(pf_kept_run *kept, int64_t i, pf_tensor *const *inputs, pf_kept_pass *at,
                     pf_run *run);
/* What piece i left to the next slice (pf_ends_fn). */
int pf_kept_run_ends(void *kept, int64_t i, pf_ends *ends);
/* m->type->run in forward mode or on a slice, of which an open tape keeps the input alone: backward
 * runs it again for what the op of each activation needs (option recompute). */
int pf_run_recompute(pf_module *m, pf_engine *e, const pf_run *run, pf_tensor *x, pf_tensor **y);

/* What a layer of windows keeps of rows before, where its inputs are kept (attention_rows.c). */
extern const pf_state_kind pf_state_rows;
/* The child of a carried state that is the model's own (carry.c). */
int pf_carried(pf_state **state, const pf_state *carry);
/* What rows of the model go on from; rows: windows keep inputs of their layers. keep as a file says
 * it, of whatever model. */
int pf_carry_make(pf_state **state, pf_engine *e, const pf_module *module, int64_t batch,
                  int64_t keep, bool rows);

/* A tree of nodes of its own on the same tensors. */
int pf_state_shell(pf_state **shell, pf_engine *e, const pf_state *from);
/* Calls f on every tensor's place of a tree, and on the same place of another one (or NULL). */
typedef int (*pf_place_fn)(pf_state *a, const pf_state *b, int k, void *context);
int pf_state_each(pf_state *a, const pf_state *b, pf_place_fn f, void *context);

/* ---- scores (score.c) ---- */
int pf_score_logits(pf_score *score, pf_engine *e, pf_tensor *logits);
/* What forward has of a target: (B, L) i32 beside x (B, L, ...). */
int pf_score_check(const pf_tensor *target, const pf_tensor *x, const char *where);

/* ---- running (run.c) ---- */
/* Every layer goes through here: cancels, recompute, and the state's position. */
int pf_run_module(pf_module *m, pf_engine *e, const pf_run *run, pf_tensor *x, pf_tensor **y);
/* rows.c: m->type->run in a step with a gathered state, as the type's row says. */
int pf_run_rows(pf_module *m, pf_engine *e, const pf_run *run, pf_tensor *x, pf_tensor **y);
/* A call with sequence b of each of n tensors x alone, and its node of the state: *y is row b of
 * all rows' y. */
enum { PF_ROW_INPUTS = 3 };
typedef int (*pf_run_row_fn)(pf_module *m, pf_engine *e, const pf_run *run, pf_tensor **x,
                             pf_tensor **y);
int pf_run_each_row(pf_module *m, pf_engine *e, const pf_run *run, pf_run_row_fn f, pf_tensor **x,
                    int n, pf_tensor **y);
/* pf_module_step of a gathered state, whose trees have begun a call (state/undo.c). */
int pf_module_step_rows(pf_tensor **y, pf_engine *e, pf_module *m, pf_tensor *x, pf_state *rows);
/* The same and the loss of what it gives, which the layer may make in pieces. */
int pf_run_scored(pf_module *m, pf_engine *e, const pf_run *run, pf_tensor *x, pf_score *score);
int pf_run_child_scored(pf_module *m, int i, pf_engine *e, const pf_run *run, pf_tensor *x,
                        pf_score *score);
/* Can a row not go through the module slice by slice? */
bool pf_module_whole(const pf_module *m);
/* Child i with its node of the state; errors get the child's name. */
int pf_run_child(pf_module *m, int i, pf_engine *e, const pf_run *run, pf_tensor *x, pf_tensor **y);
/* The same in place: *h = child i of *h; i < 0: *h stays. */
int pf_run_through(pf_module *m, int i, pf_engine *e, const pf_run *run, pf_tensor **h);
/* sum = x + h and y = child i of the sum, in one op where the child's type has one. */
int pf_run_child_sum(pf_module *m, int i, pf_engine *e, const pf_run *run, pf_tensor *x,
                     pf_tensor *h, pf_tensor **sum, pf_tensor **y);
int pf_block_run_groups(pf_module *m, int first, pf_engine *e, const pf_run *run, pf_tensor **h);
/* Branch `which` of child i, with its node of the state, whose position stays. */
int pf_run_branch(pf_module *m, int i, pf_engine *e, const pf_run *run, int which, pf_tensor *x,
                  pf_tensor **y);
/* pf_run_child of a child whose output is m's own: what is wanted of m is wanted of it. */
int pf_run_only(pf_module *m, int i, pf_engine *e, const pf_run *run, pf_tensor *x, pf_tensor **y);
/* pf_run_child of what child i's head reads, or, without one, its output; and its head of that. */
int pf_run_hidden(pf_module *m, int i, pf_engine *e, const pf_run *run, pf_tensor *x,
                  pf_tensor **y);
int pf_run_head(pf_module *m, int i, pf_engine *e, const pf_run *run, pf_tensor *h, pf_tensor **y);
/* What run->state is to begin with, of m and of its child i. */
int pf_begin_module(pf_module *m, pf_engine *e, const pf_run *run);
int pf_begin_child(pf_module *m, int i, pf_engine *e, const pf_run *run);
/* Child i, which remembers nothing, as a part of its parent. */
int pf_run_part(pf_module *m, int i, pf_engine *e, const pf_run *run, pf_tensor *x, pf_tensor **y);
int pf_run_draw(const pf_run *run, uint64_t *key); /* of a new random call, in training */
int pf_run_dropout(pf_engine *e, const pf_run *run, double p, pf_tensor **x); /* in place of *x */
/* Numbers a position that m gives; 0: as many as it takes; < 0: only the host knows. */
int64_t pf_module_width(const pf_module *m);
int64_t pf_module_hidden_width(const pf_module *m); /* the same of pf_run_hidden */
int pf_state_of(const pf_module *m, pf_engine *e, int64_t batch, pf_state **state);
/* `state` of a layer that runs its children with pf_run_child: one node a child. */
int pf_state_of_children(const pf_module *m, pf_engine *e, int64_t batch, pf_state **state);
/* pf_module_prefill whose output may be that of the last position only, (B, 1, ...). */
int pf_module_prefill_last(pf_tensor **y, pf_engine *e, pf_module *m, pf_tensor *x,
                           pf_state *state);

/* Positions that start again at every document: (B, L) i32 from document numbers (B, L).
 * *longest (may be NULL): positions in the longest document. */
int pf_document_positions(pf_tensor **positions, pf_engine *e, const pf_tensor *documents,
                          int64_t *longest);
/* The same for the positions of a run, a slice's too. */
int pf_run_positions(pf_tensor **positions, pf_engine *e, const pf_run *run, int64_t *longest);
/* Positions first .. end-1 (from 0) of whole (B, L, ...), contiguous; NULL gives NULL. */
int pf_part_of(pf_tensor **part, pf_engine *e, pf_tensor *whole, int64_t first, int64_t end);

/* ---- patterns of names (names.c) ---- */
/* `*` stands for any run and `?` for one character of the whole name; without them a pattern fits
 * where it is a run of whole parts: "blocks.1" fits "blocks.1.mlp.up.weight", not "blocks.10...".
 * `|` parts alternatives. */
bool pf_name_matches(const char *pattern, const char *name);

/* ---- former names (former.c) ---- */
typedef int (*pf_find_name)(const void *list, const char *name); /* its place, or < 0 */
/* Does a model's tree have layers of the host's: only in a file of such a one lie tensors under
 * the names that earlier versions gave. */
bool pf_tree_has_former(const pf_config *tree);
/* The place in `list`, the names that such a file has, of the tensor that is called `name` today
 * and is not among them: under its former name. < 0: not there either. */
int pf_find_former(const char *name, pf_find_name find, const void *list);

/* *held = next, releasing what it was: for chains of intermediate results. */
static inline void pf_replace(pf_tensor **held, pf_tensor *next) {
    pf_tensor_release(held);
    *held = next;
}

#endif
