/*
 * performer_model.h - the page of Performer's public interface for models: modules of layers, the
 * streams that they write, and the folders that they lie in. performer.h includes it; its manners
 * hold here.
 */
#include "performer.h" /* which reads this page in its place: so the guard comes after it */

#ifndef PERFORMER_MODEL_H
#define PERFORMER_MODEL_H

#ifdef __cplusplus
extern "C" {
#endif

/* ---- modules ---------------------------------------------------------------------------
 * Layers and models: a module is a counted node {type, options, children} with named tensors.
 * `options` is a map (borrowed); children are retained. Types and options: pf_describe.
 *
 * A tree has at most PF_MODULES layers, a shared one counted as often as it stands in it, nested at
 * most PF_MODULE_DEPTH deep (64 in a file), and a tensor's name at most PF_NAME_BYTES. A file of
 * weights holds at most 65,536 tensors, its header at most 16 MiB. */
#define PF_MODULES      131072
#define PF_MODULE_DEPTH 4096
#define PF_NAME_BYTES   65536

PF_API int pf_module_new(pf_module **module, pf_engine *engine, const char *type,
                         const pf_config *PF_NULLABLE options, pf_module *const *children,
                         int n_children);
/* From {type, options, children} as plain data, and back. */
PF_API int pf_module_build(pf_module **module, pf_engine *engine, const pf_config *tree);
PF_API int pf_module_tree(pf_config **tree, const pf_module *module);
PF_API pf_module *pf_module_retain(pf_module *module);
PF_API void pf_module_release(pf_module **module);
/* Whether anything but the caller holds it: another who retained it, a model, a stream. */
PF_API bool pf_module_shared(const pf_module *module);
PF_API const char *pf_module_type(const pf_module *module);
PF_API const pf_config *pf_module_options(const pf_module *module);
PF_API int pf_module_child_count(const pf_module *module);
PF_API pf_module *pf_module_child(const pf_module *module, int index);
/* Named tensors of the whole tree in walk order ("blocks.1.attention.query.weight"), borrowed.
 * Parameters are trained, unless frozen; buffers (projections) are saved with them but not trained.
 * The count brings the list up to date where a layer of the host has got tensors since. */
PF_API int pf_module_tensor_count(const pf_module *module);
PF_API int pf_module_tensor_at(const pf_module *module, int index, const char **PF_NULLABLE name,
                               pf_tensor **PF_NULLABLE tensor, bool *PF_NULLABLE trained);

/* What a call is told beside its input, a line a field. The struct is made of this table, and so
 * is whatever copies, holds or reads a pass; a new field goes to the end.
 * FLAG: bool, NUMBER: uint64_t, TENSOR: pf_tensor *, COUNTER: uint64_t *, NAMED: an array of
 * pf_named, and before its name `n_` how many, STATE: pf_state *. */
#define PF_PASS_FIELDS(FLAG, NUMBER, TENSOR, COUNTER, NAMED, STATE)                                \
    FLAG(training)    /* dropout on, and attention looks at its queries and keys now and then */   \
    NUMBER(step)      /* of training, from 1: keys dropout */                                      \
    TENSOR(mask)      /* (B, L) i32: 1 keep, 0 not there; NULL: all there */                       \
    TENSOR(documents) /* (B, L) i32: document of each position, in runs; NULL: one */              \
    COUNTER(calls)    /* random calls so far; leave NULL (a host layer hands on what it got) */    \
    FLAG(watch)       /* attention looks at its queries and keys in this training step */          \
    TENSOR(prefix)    /* (B) i32: the first so many positions are seen from everywhere; NULL: 0 */ \
    FLAG(again)       /* a forward's second run, for its gradient: it notes nothing twice */       \
    NAMED(inputs)     /* what layers read beside x (pf_module_input_at): a decoder's memory ... */ \
    NUMBER(micro)     /* which of a step's forwards, from 0, where it has several: keys dropout */ \
    NUMBER(counted)   /* targets that backward_sliced's mean is of; 0: those of its own x */       \
    STATE(carry)      /* the rows go on from it, and it moves on (pf_module_carry); NULL: anew */
#define PF_PASS_FLAG(name)    bool name;
#define PF_PASS_NUMBER(name)  uint64_t name;
#define PF_PASS_TENSOR(name)  pf_tensor *name;
#define PF_PASS_COUNTER(name) uint64_t *name;
#define PF_PASS_NAMED(name)                                                                        \
    const pf_named *name;                                                                          \
    int n_##name;
#define PF_PASS_STATE(name) pf_state *name;
#define PF_PASS_NONE(name)  /* for kinds that a use of the table has nothing to do with */
typedef struct {
    size_t size;
    PF_PASS_FIELDS(PF_PASS_FLAG, PF_PASS_NUMBER, PF_PASS_TENSOR, PF_PASS_COUNTER, PF_PASS_NAMED,
                   PF_PASS_STATE)
} pf_pass;
PF_API int pf_module_forward(pf_tensor **y, pf_engine *engine, pf_module *module, pf_tensor *x,
                             const pf_pass *PF_NULLABLE pass);
/* What rows go on from that are stretches of longer ones, `batch` side by side: pass.carry of
 * forward, loss, backward_sliced and evaluate. Each call begins where the one before ended, and the
 * state moves on, without its gradient; a row whose first document is another than the last one
 * before it begins anew. keep: of windows, how many keys and values of the rows before are kept; 0:
 * as many as the window sees. Causal models whose attention has a state of fixed size. It is
 * forked, saved and loaded as streams' states are, but takes no prefill and no step. */
PF_API int pf_module_carry(pf_state **state, pf_engine *engine, pf_module *module, int64_t batch,
                           int64_t keep);
/* The same, where windows keep the inputs of their layers instead of keys and values, which are
 * made of them again by the weights as they are then: Transformer-XL to the letter, for keep rows
 * more through the layers' matrices. */
PF_API int pf_module_carry_rows(pf_state **state, pf_engine *engine, pf_module *module,
                                int64_t batch, int64_t keep);
/* The mean cross entropy (nats) of module(x) with target (B, L) i32, -1 not counted: a scalar, on
 * the open tape. A model whose last layer is linear makes its logits a piece at a time, so that
 * they are never whole where they are many: the same bits of the loss as forward and cross_entropy.
 */
PF_API int pf_module_loss(pf_tensor **loss, pf_engine *engine, pf_module *module, pf_tensor *x,
                          pf_tensor *target, const pf_pass *PF_NULLABLE pass);
/* How a row is cut: in so many slices, or in slices of so many positions (the other 0). Their
 * states are kept for backward, on level 1 all of them, on level 2 about the square root of their
 * number at a time, which costs a forward more and gives the same bits; levels 0: 2 where all would
 * take more than 256 MiB. */
typedef struct {
    size_t size;
    int64_t slices, length;
    int levels;
} pf_slicing;
/* A training step in the memory of one slice: the gradient of that loss is added to every
 * parameter's, as a tape's backward would, with x (B, L, ...) in slices one after the other (NULL:
 * in one). For causal models with linear attention or windows; a third more time. */
PF_API int pf_module_backward_sliced(double *loss, pf_engine *engine, pf_module *module,
                                     pf_tensor *x, pf_tensor *target,
                                     const pf_pass *PF_NULLABLE pass,
                                     const pf_slicing *PF_NULLABLE slicing);
/* Losses without a gradient, and hits: the sum of the cross entropy of all counted positions
 * (nats), their number, and how many of them have their target for the likeliest id. A causal
 * model with linear attention reads a long row slice by slice, in the memory of one: of
 * slice_length positions, or with 0 of a length that is the same everywhere, rows below it whole.
 */
typedef struct {
    size_t size;
    double loss;
    int64_t tokens, right;
} pf_evaluation;
PF_API int pf_module_evaluate(pf_evaluation *result, pf_engine *engine, pf_module *module,
                              pf_tensor *x, pf_tensor *target, const pf_pass *PF_NULLABLE pass,
                              int64_t slice_length);
/* What follows training step `step`, counted from 1, and pf_optimizer_step does: draws a new
 * projection into every kernel whose `redraw` is due and adds them to *drawn (may be NULL), and
 * moves the tilts of softmax_plus on. */
PF_API int pf_module_after_step(pf_engine *engine, pf_module *module, uint64_t step,
                                int *PF_NULLABLE drawn);

/* ---- streams ---------------------------------------------------------------------------
 * A language model that reads and writes: a stream feeds ids, keeps the logits that stand, and
 * samples from them. It runs one sequence, or `batch` of them in step; ids and samples are
 * (batch, ...). */

typedef struct {
    size_t size;
    double temperature; /* 0: greedy */
    int top_k;          /* 0: all */
    double top_p;       /* 0 or 1: all */
    uint64_t seed;
    /* Among those whose probability, at the temperature, is at least so many times the likeliest's;
     * 0: all (arXiv 2407.01082). */
    double min_p;
    /* What a token's logit is divided by, or where it is below 0 multiplied, once the sequence has
     * fed it, prompt included; 0 or 1: none (CTRL, arXiv 1909.05858, section 4.1). */
    double repetition_penalty;
} pf_sampling;

PF_API int pf_stream_open(pf_stream **stream, pf_engine *engine, pf_module *model);
PF_API int pf_stream_open_batch(pf_stream **stream, pf_engine *engine, pf_module *model,
                                int64_t batch);
/* Prefill: ids (batch, n), row after row. As every call that moves a stream or a state on, all or
 * nothing: one that fails (memory, cancel, a layer of the host) leaves position, logits and the
 * bits of what follows as they were. Where a layer of the host was moved on and has no fork_state,
 * that can't be: every later use then answers PF_ESTATE. */
PF_API int pf_stream_feed(pf_stream *stream, const int32_t *ids, size_t n);
/* Feeds `token` and samples the next one (sampling NULL: greedy). Of one sequence only. */
PF_API int pf_stream_next(pf_stream *stream, int32_t token, const pf_sampling *PF_NULLABLE sampling,
                          int32_t *next);
/* Samples from the logits that stand, without feeding: next (batch). Row 0 draws as a stream
 * of one sequence does. */
PF_API int pf_stream_sample(pf_stream *stream, const pf_sampling *PF_NULLABLE sampling,
                            int32_t *next);
/* Sampling takes only the ids with allow[id] != 0 from now on; NULL: all. n: the vocabulary, which
 * pf_stream_logits tells (PF_ESHAPE where it is another). */
PF_API int pf_stream_allow(pf_stream *stream, const uint8_t *PF_NULLABLE allow, int64_t n);
/* (batch, n), borrowed; NULL before anything was fed. n: the vocabulary, as the
 * model's layers say; 0 where it ends in a layer of the host's and nothing was fed. */
PF_API const float *pf_stream_logits(const pf_stream *stream, int64_t *PF_NULLABLE n);
PF_API int64_t pf_stream_bytes(const pf_stream *stream);
PF_API int64_t pf_stream_position(const pf_stream *stream); /* tokens fed, of each sequence */
PF_API int64_t pf_stream_batch(const pf_stream *stream);
/* As of states (performer_attention.h), with the logits that stand. The copy is for the same
 * engine. */
PF_API int pf_stream_fork(pf_stream **copy, const pf_stream *stream);
PF_API int pf_stream_reorder(pf_stream *stream, const int64_t *rows, int64_t n);
PF_API int pf_stream_save(const pf_stream *stream, const char *path);
PF_API int pf_stream_load(pf_stream **stream, pf_engine *engine, pf_module *model,
                          const char *path);
PF_API void pf_stream_close(pf_stream **stream);

/* ---- files -----------------------------------------------------------------------------
 * Tensors lie in safetensors files; a model is a checkpoint folder of them with its config, and a
 * run is a folder of checkpoints. Files are written beside, synced, renamed. A path that begins
 * with "memory:" is of the engine's memory (performer_files.h), here as everywhere. */

PF_API int pf_safetensors_save(pf_engine *engine, const char *path, const pf_named *tensors, int n,
                               const pf_config *PF_NULLABLE metadata);
/* *tensors: an array of n entries owned by the caller (pf_named_free). */
PF_API int pf_safetensors_load(pf_engine *engine, const char *path, pf_named **tensors, int *n,
                               pf_config **PF_NULLABLE metadata);
PF_API void pf_named_free(pf_named *tensors, int n);
/* numpy's arrays. Of any order of bytes and of rows; booleans, whole numbers and floating point:
 * those that are no i32 or f32 become one (pf_tensor_from_bytes), PF_EFORMAT where one can't.
 * type NULL: as the tensor is; else "u8" ... "f64" without bf16, as pf_tensor_to_bytes says. */
PF_API int pf_npy_load(pf_tensor **t, pf_engine *engine, const char *path);
PF_API int pf_npy_save(pf_engine *engine, const char *path, const pf_tensor *t,
                       const char *PF_NULLABLE type);
/* The same of .npz, several by name; *tensors is the caller's (pf_named_free). PF_EINVAL to save
 * names that are empty, twice there, or paths that lead out of the file. */
PF_API int pf_npz_load(pf_engine *engine, const char *path, pf_named **tensors, int *n);
PF_API int pf_npz_save(pf_engine *engine, const char *path, const pf_named *tensors, int n,
                       const char *PF_NULLABLE type, bool deflated);
/* {tensors: [{name, dtype, shape, bytes}], params, bytes, metadata} of a safetensors file, a
 * checkpoint folder or a run folder; of folders also checkpoint (the path), config, state,
 * tokenizer. Reads headers and small files only. */
PF_API int pf_inspect(pf_config **info, pf_engine *engine, const char *path);

/* What a checkpoint folder holds, and what for:
 *   config.json, model.safetensors, manifest.json   the model: loading it, to write, to judge, for
 *                                                   vectors, streams and servings, needs no more
 *   tokenizer.json                                  of a model of texts: what its ids stand for, a
 *                                                   text ("byte") or a map with it as its `type`
 *   state.json, optimizer.safetensors, carried.safetensors
 *                                                   training goes on from all of them
 * So the last three may be left out of a folder that is shipped (pf_model_save makes one without
 * them); of what is there, every byte is held against the manifest. */

/* Makes the run folder, and keeps every other writer out of it (they get PF_ESTATE) until the
 * engine closes or its process ends, however it ends. Saving needs no such hold. */
PF_API int pf_checkpoint_hold(pf_engine *engine, const char *dir);
/* Saves model, optimizer (may be NULL) and `state` (a map, may be NULL) to the folder dir/step-N,
 * then LATEST. Of the checkpoints that this run wrote it keeps the newest `keep` and the one BEST
 * names (keep 0: all); what else lies in the folder stays, and a step-N of others is renamed to
 * step-N.aside. Step 0 over a run that has gone on is refused with PF_ESTATE. Of several ranks all
 * come here, and rank 0 writes. */
PF_API int pf_checkpoint_save(pf_engine *engine, const char *dir, uint64_t step, pf_module *module,
                              const pf_optimizer *PF_NULLABLE optimizer,
                              const pf_config *PF_NULLABLE state,
                              const pf_config *PF_NULLABLE tokenizer, int keep);
/* The same with what rows go on from (pf_module_carry), so that the run can go on where it was. */
PF_API int pf_checkpoint_save_carried(pf_engine *engine, const char *dir, uint64_t step,
                                      pf_module *module, const pf_optimizer *PF_NULLABLE optimizer,
                                      const pf_state *PF_NULLABLE carried,
                                      const pf_config *PF_NULLABLE state,
                                      const pf_config *PF_NULLABLE tokenizer, int keep);
/* That of a checkpoint whose weights `module` has; *state NULL: it holds none. */
PF_API int pf_checkpoint_carried(pf_state **state, pf_engine *engine, const char *dir,
                                 pf_module *module);
/* Takes a run folder or a checkpoint folder, verifies the manifest, and falls back to the previous
 * good one with a warning; "DIR/BEST" means the one that mark names, and no other. Results that
 * are not wanted take NULL. Taking the optimizer means going on with the training: the engine's
 * seed and random state become the checkpoint's; a folder that training can't go on from, since
 * files of it have been left out, is refused with PF_EFORMAT. `state` comes back with its step, of
 * a folder without state.json with step 0 alone. */
PF_API int pf_checkpoint_load(pf_engine *engine, const char *dir, pf_module **PF_NULLABLE module,
                              pf_optimizer **PF_NULLABLE optimizer, pf_config **PF_NULLABLE state,
                              pf_config **PF_NULLABLE tokenizer);
/* The same into a model (and optimizer, or NULL) that stand already: of the same tensors. */
PF_API int pf_checkpoint_restore(pf_engine *engine, const char *dir, pf_module *module,
                                 pf_optimizer *PF_NULLABLE optimizer, pf_config **PF_NULLABLE state,
                                 pf_config **PF_NULLABLE tokenizer);
/* dir/MARK names step-N from now on: "BEST". */
PF_API int pf_checkpoint_mark(pf_engine *engine, const char *dir, const char *mark, uint64_t step);
/* The model alone, of a folder as pf_checkpoint_load takes it. */
PF_API int pf_model_load(pf_module **module, pf_engine *engine, const char *dir);
/* The same with the parameters where they lie in the file, mapped and only read: engines and
 * processes that load it so share one copy of them, which the system drops and reads again as it
 * needs memory. They are summed up as ever. What the file has in another form than memory (other
 * dtypes), and what moves on without being trained (projections), is read; so is everything where
 * the access to files maps nothing, and of a path in memory ("memory:"), where one engine has its
 * copy anyhow: pf_tensor_read_only tells which a tensor is. As with
 * pf_tensor_wrap_const nothing trains, restores or merges them; what is frozen may stay so beside
 * adapters. The file must stay as it is as long as the model lives: one that is cut short ends the
 * process with SIGBUS, one that is written to in place changes the weights. Checkpoints here are
 * never written in place; a file that anybody may write to is refused. */
PF_API int pf_model_load_mapped(pf_module **module, pf_engine *engine, const char *dir);
/* A folder to be shipped: dir/config.json, dir/model.safetensors, dir/manifest.json, and
 * dir/tokenizer.json where one is given, written beside and renamed in one step. No run: it has no
 * step-N, and is loaded by its own name. Where `dir` is there already it must hold nothing
 * (PF_ESTATE). */
PF_API int pf_model_save(pf_engine *engine, const char *dir, pf_module *module,
                         const pf_config *PF_NULLABLE tokenizer);

#ifdef __cplusplus
}
#endif

#endif
