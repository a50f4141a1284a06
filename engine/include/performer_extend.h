/*
 * performer_extend.h - the page of Performer's public interface for models of several inputs,
 * and for hosts that write parts of a model themselves: layers, recomputation, the check of their
 * gradients and of their numbers, and a yardstick for their speed. performer.h includes it; its
 * manners hold here.
 */
#ifndef PERFORMER_EXTEND_H
#define PERFORMER_EXTEND_H

#include "performer.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- limits of a part ------------------------------------------------------------------
 * Bounds (pf_limits) of a part of what is done with an engine: a client, a script, a call. A meter
 * counts while it is entered; meters that are entered one inside the other all count, and so does
 * pf_engine_limit. Bytes are those of what was made while it was the innermost, for as long as
 * they are held, whoever lets go of them. */

typedef struct pf_meter pf_meter;
typedef struct {
    size_t size;
    size_t bytes, peak; /* held, and their highest mark since the bounds were set */
    uint64_t work;
    double seconds;
    int depth;
    bool over; /* a bound of work or time was reached */
} pf_usage;

/* Not yet entered. One that is opened inside another's counts its bytes there too. limits NULL: it
 * only counts. */
PF_API int pf_meter_open(pf_meter **meter, pf_engine *engine, const pf_limits *PF_NULLABLE limits);
/* Leaves it; what was made under it stays. */
PF_API void pf_meter_close(pf_meter **meter);
/* Other bounds from now on, with work and time at 0 and nothing over. */
PF_API int pf_meter_limit(pf_meter *meter, const pf_limits *PF_NULLABLE limits);
/* Another bound of its bytes alone, and the counts go on; 0: none. What is held may be more. */
PF_API int pf_meter_bound(pf_meter *meter, size_t bytes);
/* From here to the leave it counts. One that is over, or the host's cancel, is refused. */
PF_API int pf_meter_enter(pf_meter *meter);
/* With all that were entered inside it; of one that is not entered nothing. */
PF_API void pf_meter_leave(pf_meter *meter);
/* For a while: bytes are those of `meter`, which is borrowed, in place of the innermost's, as where
 * what it stands for goes on inside another part; nothing else is other. NULL, or another engine's:
 * the innermost's again. Gives what stood so before, for who puts it back. */
PF_API pf_meter *pf_engine_lend_meter(pf_engine *engine, pf_meter *PF_NULLABLE meter);
/* Calls of this thread that take no engine (pf_tensor_read, _write, _copy, _fill, _set_row,
 * _set_part, _set_masked, _to_bytes, pf_tokenizer_encode, _decode) stop as calls of `engine` do,
 * and run on its threads, until the next call of this function, which gives what stood before.
 * NULL: none again; it must come before the engine closes. A tensor that was being written keeps
 * what had been written when it stopped. */
PF_API pf_engine *pf_engine_lend(pf_engine *PF_NULLABLE engine);
PF_API int pf_meter_usage(const pf_meter *meter, pf_usage *usage);
/* Bytes that somebody else holds, such as a Lua state, count as the engine's own, in the budget of
 * the meter (entered or not) and of the engine: `bytes` in place of `old_bytes`, before they are
 * allocated or after they were freed. Over it PF_ENOMEM, and nothing has changed; fewer always
 * fit. */
PF_API int pf_meter_bytes(pf_meter *meter, size_t old_bytes, size_t bytes);
/* The same with the memory, from the host's allocator, as lua_Alloc is told it: of block NULL
 * old_bytes says nothing, bytes 0 frees, fewer never fail. NULL: no room. */
PF_API void *pf_meter_resize(pf_meter *meter, void *PF_NULLABLE block, size_t old_bytes,
                             size_t bytes);
/* Counts work that is about to be done outside the engine, in all that are entered; 0 only looks,
 * at the cancel flag too: PF_OK, PF_ECANCEL or PF_ELIMIT. */
PF_API int pf_engine_charge(pf_engine *engine, uint64_t work);
/* So many levels deeper, or with a negative number up again. PF_ELIMIT: that is too deep, and
 * nothing has changed. */
PF_API int pf_engine_nest(pf_engine *engine, int levels);

/* ---- random numbers of a part ----------------------------------------------------------
 * Seed and count of draws of such a part: an engine that is lent them for its time draws what it
 * would have drawn without it, before and after. */

typedef struct pf_random pf_random;
/* From the engine's own seed, with nothing drawn. */
PF_API int pf_random_open(pf_random **random, pf_engine *engine);
/* In any order with its engine; lent still, the engine draws its own again. */
PF_API void pf_random_close(pf_random **random);
/* For a while: draws and pf_seed are those of `random`, which is borrowed. NULL, or another
 * engine's: the engine's own again. Gives what stood so before, for who puts it back. */
PF_API pf_random *pf_engine_lend_random(pf_engine *engine, pf_random *PF_NULLABLE random);

/* ---- several inputs and outputs --------------------------------------------------------
 * Layers may read tensors beside x, by name: a decoder its memory, a model of pairs the type of
 * every token. A call gives them in its pass (`inputs`), a stream and a state take them when they
 * are opened. A name that no layer reads is refused, and so is a call without one that is required;
 * shapes are the layer's to check. At most PF_INPUTS of them. */
#define PF_INPUTS 16

/* How many inputs the layers of the tree read; and number `index` of them, borrowed: what a parent
 * says of a name goes before what its children say. */
PF_API int pf_module_input_count(const pf_module *module);
PF_API int pf_module_input_at(const pf_module *module, int index, const char **name,
                              bool *PF_NULLABLE required);
/* The states that the model's head reads, (B, L, D); of a model without a head its output.
 * blocks > 0: those of a performer behind so many of its blocks, without its last norm. */
PF_API int pf_module_hidden(pf_tensor **y, pf_engine *engine, pf_module *module, pf_tensor *x,
                            const pf_pass *PF_NULLABLE pass, int64_t blocks);
/* A model of several tasks has as many outputs, by name; any other has one. outputs: as many as
 * pf_module_output_count says, which become the caller's; from one run of what they share. */
PF_API int pf_module_output_count(const pf_module *module);
PF_API int pf_module_output_at(const pf_module *module, int index, const char **name);
PF_API int pf_module_outputs(pf_tensor **outputs, pf_engine *engine, pf_module *module,
                             pf_tensor *x, const pf_pass *PF_NULLABLE pass);
/* pf_module_state and pf_stream_open_batch for a model of several inputs. What streams keep of them
 * is made here, once, and is in their states from then on. */
PF_API int pf_module_state_inputs(pf_state **state, pf_engine *engine, const pf_module *module,
                                  int batch, const pf_named *inputs, int n);
PF_API int pf_stream_open_inputs(pf_stream **stream, pf_engine *engine, pf_module *model,
                                 int64_t batch, const pf_named *inputs, int n);

/* ---- layers of the host's --------------------------------------------------------------
 * A layer that lives in the host (or in Lua): forward and step call back. Its streaming state
 * is a pointer of its own, NULL before the first step; a state must not outlive its module. */

typedef struct {
    size_t size;
    int (*forward)(void *context, pf_engine *engine, pf_tensor *x, const pf_pass *pass,
                   pf_tensor **y);
    int (*step)(void *context, pf_engine *engine, pf_tensor *x, void **state,
                pf_tensor **y);     /* NULL: can't stream */
    void (*release)(void *context); /* the module is gone */
    void (*release_state)(void *context, void *state);
    void *context;
    /* *copy: a state of n sequences, row b as row rows[b] of `state`, which has `batch`; rows
     * NULL: all of them as they are. A call that moves a stream on does it on such a copy, so that
     * one that fails leaves the state as it was. NULL: its streams can be neither forked nor
     * reordered, and are of no more use after a call that failed. */
    int (*fork_state)(void *context, pf_engine *engine, void *state, int64_t batch,
                      const int64_t *rows, int64_t n, void **copy);
    /* What a state holds, as tensors (an array that is freed with pf_named_free) and plain
     * data (a map, or NULL), and back from there. NULL: its streams can't be saved. */
    int (*save_state)(void *context, pf_engine *engine, void *state, pf_named **tensors, int *n,
                      pf_config **data);
    int (*load_state)(void *context, pf_engine *engine, const pf_named *tensors, int n,
                      const pf_config *data, void **state);
    /* Names of the inputs that it reads beside x, in its pass, "[name]" of one that may be missing;
     * the last is followed by NULL. NULL: none. */
    const char *const *inputs;
    /* The state that a stream of `batch` sequences begins with, from these inputs. NULL: a layer
     * that reads some can't stream. */
    int (*begin)(void *context, pf_engine *engine, const pf_named *inputs, int n, int64_t batch,
                 void **state);
    /* What it makes of a position depends on that position alone: steps, prompts and slices of a
     * training row are calls of `forward` then, and `step` is not needed. */
    bool by_position;
    /* The next positions x (B, L, ...) of a row that is trained, or evaluated, in slices: entry (n)
     * is what the slices before left, n 0 at first; *n_exit tensors of exit, at most
     * PF_HOST_PARTS, batch first, go to the next one. Recorded as any ops are: gradients come back
     * through them. Where a packed document begins, its rows of the entry are 0. */
    int (*part)(void *context, pf_engine *engine, pf_tensor *x, const pf_pass *pass,
                pf_tensor *const *entry, int n, pf_tensor **exit, int *n_exit, pf_tensor **y);
    /* What follows an optimizer's step, counted from 1. */
    int (*after_step)(void *context, pf_engine *engine, uint64_t step);
    int64_t width;  /* numbers that it makes of a position; 0: only its output says */
    bool recompute; /* an open tape keeps its input alone, and backward runs it again */
} pf_host_layer;
#define PF_HOST_PARTS 5
PF_API int pf_module_host(pf_module **module, pf_engine *engine, const char *name,
                          const pf_host_layer *layer, pf_module *const *children, int n_children);
PF_API int pf_module_add_tensor(pf_module *module, const char *name, pf_tensor *tensor,
                                bool trained);
/* How pf_module_build, and so a load, finds the layers of the host's by name: in a tree they are
 * {"type": "lua", "name": NAME, "children": [...]}, and what else they need the name has to tell:
 * options they have none.
 * Children are borrowed; the tensors of a file go into those that the layer has then. A name that
 * it does not know: PF_ENOTFOUND. One resolver an engine; resolve NULL: none. */
typedef int (*pf_layer_resolver)(void *context, pf_engine *engine, const char *name,
                                 pf_module *const *children, int n_children, pf_module **module);
PF_API int pf_engine_resolve_layers(pf_engine *engine, pf_layer_resolver PF_NULLABLE resolve,
                                    void *PF_NULLABLE context);
/* The one that stands, NULL for none, and in *context what it is called with: for a new one that
 * asks it in turn. */
PF_API pf_layer_resolver pf_engine_layer_resolver(const pf_engine *engine,
                                                  void **PF_NULLABLE context);

/* ---- what of a model is trained --------------------------------------------------------
 * Parameters that are frozen take no gradient, and optimizers that are made afterwards keep nothing
 * of them; adapters are small matrices beside large ones that stay. A model's tree says both, so
 * that they survive files. Not for a model while a stream or another thread runs it.
 *
 * A pattern: `*` stands for any run and `?` for one character of the whole name; without them it
 * fits where it is a run of whole parts ("blocks.1", "mlp.up"); `|` parts alternatives. */

/* Freezes the parameters whose names fit, or with frozen false trains them again; how many fit.
 * None: PF_EINVAL with some of the names. */
PF_API int pf_module_freeze(pf_module *module, const char *pattern, bool frozen);
/* Puts a low-rank adapter beside every linear layer (from, to) whose name fits, y = act(x W^T +
 * bias + scale (x A^T) B^T), A (rank, from) drawn and B (to, rank) zeros, so that at first nothing
 * changes; freezes everything but adapters. How many were made. None fits, or one has an adapter:
 * PF_EINVAL, and the model is as it was. arXiv 2106.09685. */
PF_API int pf_module_adapt(pf_engine *engine, pf_module *module, const char *pattern, int64_t rank,
                           double scale);
/* Makes every adapter a part of its weight, W += scale B A: the outputs are the same to rounding.
 * What is frozen stays so. How many there were. */
PF_API int pf_module_merge(pf_module *module);

/* ---- recomputation ---------------------------------------------------------------------
 * Memory for time: a part of a model of which backward keeps the inputs alone. */

/* A computation that backward runs a second time instead of keeping what it made. `run` must do
 * the same both times: read the same numbers, draw no random ones but through ops, note nothing
 * elsewhere. Backward fails with PF_ESTATE where its result has other bits the second time, or a
 * tensor that it reads was changed between the two. Of what it makes only *y outlives it. What it
 * reads beside `inputs` gets a gradient if it is a leaf; a tensor computed on the open tape must be
 * an input. */
typedef struct {
    size_t size;
    int (*run)(void *context, pf_engine *engine, pf_tensor *const *inputs, int n, pf_tensor **y);
    void (*release)(void *context); /* called once, when it will not be run again; or NULL */
    void *context;
} pf_recomputed;
/* *y = run(inputs). An open tape keeps the inputs alone; its backward runs f again on a tape of
 * its own. The same gradients as without, bit for bit where an input is used by f alone.
 * f is taken over in any case, also on failure. inputs[i] may be NULL; at most 24. */
PF_API int pf_recompute(pf_tensor **y, pf_engine *engine, const pf_recomputed *f,
                        pf_tensor *const *inputs, int n);

/* ---- gradient check --------------------------------------------------------------------
 * What an op, a layer or a loss of one's own has to pass. */

/* Holds the gradient of f against central differences along random directions (keyed by
 * `seed`) of the inputs that require one, or of all f32 inputs when none does. f is called
 * many times, must give the same result for the same inputs, and gives a scalar or any
 * tensor (then a random weighted sum of it is judged). *worst: the largest difference,
 * relative to the derivative; infinite when a gradient is not finite. Returns how many
 * directions were judged: those that float32 cannot resolve (a kink, no slope) are skipped,
 * so 0 says nothing either way. Inputs and their gradients are as before afterwards. */
PF_API int pf_gradcheck(pf_engine *engine,
                        int (*f)(void *context, pf_engine *engine, pf_tensor *const *inputs, int n,
                                 pf_tensor **loss),
                        void *PF_NULLABLE context, pf_tensor *const *inputs, int n, uint64_t seed,
                        double *worst);

/* ---- numbers that are not finite -------------------------------------------------------
 * Where the first one arises: for the one step that is run once more when a loss or a gradient
 * was not finite. It costs a look at every number, and nothing while nobody looks. */

/* From here to pf_finite_end every op's inputs and results are looked at, and every gradient that a
 * backward adds to. What meets a NaN fails with PF_ENUMERIC; an infinity may be meant, and is told
 * at the end. PF_ESTATE inside another begin. */
PF_API int pf_finite_begin(pf_engine *engine);
/* PF_OK where there was no NaN and no +inf; else PF_ENUMERIC, with a message that names step,
 * layer, op, tensor and place of the first, and in *report (may be NULL; the caller's) a map of
 * step, layer ("" outside all), op and phase ("forward" or "backward"); of rows in segments, which
 * run to their end, also segment and order, by which ranks that share rows find the first of all.
 * `step` is the caller's number. PF_ESTATE without a begin. */
PF_API int pf_finite_end(pf_engine *engine, uint64_t step, pf_config **PF_NULLABLE report);

/* ---- the manners of a border -----------------------------------------------------------
 * For libraries on top of this one whose structs begin with their size, too. */

/* Copies what a host's options have of our `bytes` over the defaults in `own`; NULL: all defaults.
 * PF_EINVAL: size 0, or a longer struct that says what we don't know; `where` stands before the
 * message. own's size is then `bytes`. */
PF_API int pf_options_take(void *own, size_t bytes, const void *PF_NULLABLE given,
                           const char *where);
/* The other way: our result into a host's struct, as far as that goes. The host's size stays. */
PF_API int pf_result_give(void *given, const void *own, size_t bytes, const char *where);

/* ---- yardstick -------------------------------------------------------------------------
 * What benchmarks hold their figures against: median seconds of C = A B (m x k by k x n;
 * transposes as given) on one thread, and monotonic seconds. */

PF_API int pf_bench_gemm(pf_engine *engine, int64_t m, int64_t n, int64_t k, bool ta, bool tb,
                         int repeats, double *seconds);
PF_API double pf_clock(void);

#ifdef __cplusplus
}
#endif

#endif
