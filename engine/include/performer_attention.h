/*
 * performer_attention.h - the second half of Performer's public interface: kernels, attention
 * without a model around it, streaming states, the softmax that stands alone (sets of items,
 * weights, log-partitions), and the error of an estimate, told and measured.
 *
 * Manners are those of performer.h. Attention tensors are (B, H, L, d): batch, heads, length,
 * width. H heads of queries may share Hk heads of keys, H a multiple of Hk.
 */
#ifndef PERFORMER_ATTENTION_H
#define PERFORMER_ATTENTION_H

#include "performer.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- kernels ------------------------------------------------------------------------ */

/* A kernel: a feature map with its options and, where it has random features, a projection.
 * Counted; it may be used by many states and layers, also after its engine's other things are
 * gone, and does not change once it is open. */
typedef struct pf_kernel pf_kernel;

typedef enum { PF_SIDE_QUERY, PF_SIDE_KEY } pf_side;

/* A feature map of the host's own: phi (B, H, L, r) of x (B, H, L, d), not scaled, made of ops
 * (so that gradients pass) and of no more than x and constants: it is asked with rows of any
 * batch and length. */
typedef struct {
    size_t size;
    int (*map)(void *context, pf_engine *engine, pf_side side, pf_tensor *x, pf_tensor **phi);
    void (*release)(void *context); /* the kernel is gone; or NULL */
    void *context;
    const pf_named *parameters; /* that it learns with: leaves, which the layers that take the
                                   kernel train and save as parameters.NAME; copied, retained */
    int n_parameters;
} pf_host_map;

/* options: a map of `name` (softmax, relu, ...; NULL: softmax) and any options of pf_describe's
 * `kernel`; or of the name of a kernel of the host's that is open, which is then retained.
 * projection (features, head_dim), or (heads, features, head_dim), is copied; NULL: drawn from
 * the options' seed when a use says for how many heads of what width, and kept. "given" names
 * features that the caller makes himself. */
PF_API int pf_kernel_open(pf_kernel **kernel, pf_engine *engine,
                          const pf_config *PF_NULLABLE options, pf_tensor *PF_NULLABLE projection);
/* A kernel like any other around `map`, whose release is called when it has gone, not on failure.
 * Models keep its name in their config, and find it by that when they are built from there; not
 * by PF_UNNAMED_KERNEL, which any may have that was given no name of its own. */
#define PF_UNNAMED_KERNEL "custom"
PF_API int pf_kernel_open_host(pf_kernel **kernel, pf_engine *engine, const char *name,
                               const pf_host_map *map);
/* The same kernel with another tilt A (maps that take one), and the same projection. */
PF_API int pf_kernel_tilted(pf_kernel **fitted, pf_engine *engine, pf_kernel *kernel, double tilt);
PF_API pf_kernel *pf_kernel_retain(pf_kernel *kernel);
PF_API void pf_kernel_release(pf_kernel **kernel);
/* Whether anything but the caller holds it: another who retained it, a layer, a state. */
PF_API bool pf_kernel_shared(const pf_kernel *kernel);

PF_API bool pf_kernel_is_host(const pf_kernel *kernel); /* its map is the host's */
/* Its options, name included; borrowed. */
PF_API const pf_config *pf_kernel_options(const pf_kernel *kernel);
/* The options as a layer takes them, to be freed: with a `handle` by which the layer finds this
 * very kernel, its host's map or given projection too, as long as it is open. */
PF_API int pf_kernel_config(pf_config **config, const pf_kernel *kernel);
/* What the options come to for heads of head_dim (0: the kernel's own), with presets and
 * defaults filled in: a map {features (0: not projected), scale, ratio, eps, tilt}: phi = ratio
 * f(W scale q) + eps. Not of the host's maps. */
PF_API int pf_kernel_settings(pf_config **settings, const pf_kernel *kernel, int64_t head_dim);
/* The projection for `heads` heads of keys, given or drawn once: (heads, features, head_dim), or
 * (features, head_dim) where it is one for all or heads is 0; NULL where there is none. factors
 * (may be NULL): favor's input of that name, of a Hadamard product that is worth them. */
PF_API int pf_kernel_projection(pf_tensor **projection, pf_tensor **PF_NULLABLE factors,
                                pf_engine *engine, pf_kernel *kernel, int64_t head_dim,
                                int64_t heads);
/* x (B, H, L, d) -> phi (B, H, L, r) by the plain definition, without any stabiliser. */
PF_API int pf_kernel_features(pf_tensor **phi, pf_engine *engine, pf_kernel *kernel, pf_side side,
                              pf_tensor *x);
/* The tilt A of softmax_plus with the least error where |x + y|^2 has the mean s, x and y being
 * scaled queries and keys (FAVOR++, arXiv 2205.15317): 0 for s = 0, and falling. */
PF_API double pf_kernel_best_tilt(double s, int64_t head_dim);

/* Projection (features, head_dim), or (heads, features, head_dim) for heads > 0, keyed by
 * (seed, layer, head, epoch): the same key gives the same bits. NULL takes the first choice. */
typedef struct {
    size_t size;
    int64_t features, head_dim, heads;
    uint64_t seed, layer, epoch;
    const char *rows;  /* "orthogonal" in blocks of head_dim, "iid", "hadamard", "simplex" */
    const char *norms; /* "chi" (of Gaussian rows), "sqrt_d" (SMREG) */
} pf_projection_options;
PF_API int pf_projection_draw(pf_tensor **projection, pf_engine *engine,
                              const pf_projection_options *options);
/* The same draw, rows "hadamard", in its factors, for products in O(features log head_dim):
 * (blocks, rounds + 1, head_dim), or (heads, ...). */
PF_API int pf_projection_factors(pf_tensor **factors, pf_engine *engine,
                                 const pf_projection_options *options);

/* ---- attention ---------------------------------------------------------------------- */

/* Which attention, with whom each query sees. Tensors may be NULL, and so may all of it. */
typedef struct {
    size_t size;
    const char *attention;    /* a kind: "favor" (NULL), "exact", "identity" ... (pf_describe) */
    pf_kernel *kernel;        /* of kinds that take one; NULL: softmax */
    const pf_config *options; /* of the kind's own, {scale: ...} (pf_describe); NULL: defaults */
    bool causal;
    pf_tensor *mask;       /* (B, Lk): 1 keep, 0 not there */
    pf_tensor *documents;  /* (B, L) i32: attention stays inside runs of equal numbers */
    pf_tensor *cu_seqlens; /* (n + 1) i32 offsets, the same for B = 1 */
    pf_tensor *limits;     /* (B, Lq) or (Lq) i32: how many keys, from the first on, it sees */
    pf_tensor *prefix;     /* (B) i32: so many first keys are seen from everywhere */
    pf_tensor *decay;      /* (Hk): a key counts exp(-decay) less a token of its distance */
    pf_tensor *entry[3];   /* s, z, shift that an earlier segment left (favor) */
    pf_tensor *edges;      /* (E, 3) i32 as the op `edges` makes them (graph) */
    pf_tensor *edge_bias;  /* (E) or (E, H), by their numbers: added to their scores */
    /* Of lsh and routing: (B, H, rounds, Lk) i32, the bucket or cluster of each key, as ops
     * lsh_buckets and nearest_cluster tell them; or by what they are told of k: rotations (H,
     * rounds, d, buckets / 2), centroids (H, clusters, d). Neither: by what the seed draws. */
    pf_tensor *rooms, *table;
} pf_attention_options;
/* q (B, H, Lq, d), k (B, Hk, Lk, d), v (B, Hk, Lk, dv) -> out (B, H, Lq, dv), recorded on an open
 * tape. exit (NULL: not wanted): s (B, Hk, r, dv), z (B, Hk, r), shift (B, Hk) after the last key,
 * of kinds that have them. */
PF_API int pf_attention_call(pf_tensor **out, pf_tensor *PF_NULLABLE exit[3], pf_engine *engine,
                             pf_tensor *q, pf_tensor *k, pf_tensor *v,
                             const pf_attention_options *PF_NULLABLE options);

/* ---- streaming states ------------------------------------------------------------------
 * What a model, or one attention alone (below), remembers of a sequence: constant
 * bytes for linear attention; exact attention keeps keys and values and grows. A state is a
 * batch of sequences in step. */

PF_API int pf_module_state(pf_state **state, pf_engine *engine, const pf_module *module, int batch);
PF_API int pf_module_prefill(pf_tensor **y, pf_engine *engine, pf_module *module, pf_tensor *x,
                             pf_state *state);
/* One position: x (B, D) or ids (B). */
PF_API int pf_module_step(pf_tensor **y, pf_engine *engine, pf_module *module, pf_tensor *x,
                          pf_state *state);
PF_API void pf_state_close(pf_state **state);
PF_API int64_t pf_state_bytes(const pf_state *state);
PF_API int64_t pf_state_position(const pf_state *state); /* tokens seen */
PF_API int64_t pf_state_batch(const pf_state *state);
/* A copy that goes its own way: the same bits come of the same tokens. */
PF_API int pf_state_fork(pf_state **copy, pf_engine *engine, const pf_state *state);
/* Row b becomes what row rows[b] was (from 0, repeats allowed; n rows from now on): the
 * survivors of a beam search, or one prompt for many. When it fails, nothing has changed. */
PF_API int pf_state_reorder(pf_engine *engine, pf_state *state, const int64_t *rows, int64_t n);
/* The sequences of `more` behind its own; `more` stays. Both are of one model, and have seen as
 * many positions. When it fails, nothing has changed. */
PF_API int pf_state_append(pf_engine *engine, pf_state *state, const pf_state *more);
/* Files of states: safetensors with all that the state is made of, a checksum, and whose it
 * is; what is loaded goes on with the same bits. A model's state belongs to this model with
 * these weights alone. A file that can't be taken fails with PF_EFORMAT. */
PF_API int pf_module_state_save(pf_engine *engine, const pf_module *module, const pf_state *state,
                                const char *path);
PF_API int pf_module_state_load(pf_state **state, pf_engine *engine, const pf_module *module,
                                const char *path);

/* ---- states of attention alone -------------------------------------------------------- */

/* heads: of keys and values; q may have a multiple of them. */
typedef struct {
    size_t size;
    const char *attention; /* as above */
    const pf_config *options;
    pf_kernel *kernel; /* NULL: softmax, where the kind takes one */
    int64_t batch, heads, head_dim, value_dim;
    pf_tensor *decay;       /* (heads): a key counts exp(-decay) less a token; NULL: none */
    pf_tensor *fingerprint; /* numbers that tell kernels apart when states are merged or loaded;
                               NULL: the kernel's own. For kernels "given" */
    pf_tensor *table;       /* of lsh and routing: rotations, centroids, as a call takes them;
                               NULL: by what the seed draws */
} pf_attention_state_options;
PF_API int pf_attention_state_open(pf_state **state, pf_engine *engine,
                                   const pf_attention_state_options *PF_NULLABLE options);
/* What it was opened with, into info as far as its size goes; tensors, kernel, text borrowed. */
PF_API int pf_attention_state_info(const pf_state *state, pf_attention_state_options *info);
/* Fails, saying why, unless the state is one of these options (a size of 0: any). */
PF_API int pf_attention_state_check(pf_engine *engine, const pf_state *state,
                                    const pf_attention_state_options *options);
/* q, k (B, H, L, d), v (B, H, L, dv) -> out (B, H, L, dv): causal attention to everything
 * the state has seen and to the new keys; moves the state on. step: L = 1, O(r dv) a head. */
PF_API int pf_attention_prefill(pf_tensor **out, pf_engine *engine, pf_state *state, pf_tensor *q,
                                pf_tensor *k, pf_tensor *v);
PF_API int pf_attention_step(pf_tensor **out, pf_engine *engine, pf_state *state, pf_tensor *q,
                             pf_tensor *k, pf_tensor *v);
/* `state` of one segment and `later` of the next one, seen from an empty start, become the
 * state of both: with the same kernel. `later` stays. */
PF_API int pf_state_merge(pf_engine *engine, pf_state *state, const pf_state *later);

/* A file holds its kernel and projection; of a kernel of the host's it holds the features' sums,
 * and `options` must bring the kernel (PF_EFORMAT without). options NULL: a state as the file
 * says; else it must be of these options (pf_attention_state_check). */
PF_API int pf_state_save(pf_engine *engine, const pf_state *state, const char *path);
PF_API int pf_state_load(pf_state **state, pf_engine *engine, const char *path,
                         const pf_attention_state_options *PF_NULLABLE options);
/* What such a file holds, to be kept within another (a host layer's save_state): tensors for
 * pf_named_free, which are the state's own until it moves on, and a map of texts; and back. */
PF_API int pf_state_pack(pf_engine *engine, const pf_state *state, pf_named **tensors, int *n,
                         pf_config **metadata);
PF_API int pf_state_unpack(pf_state **state, pf_engine *engine, const pf_named *tensors, int n,
                           const pf_config *metadata);

/* ---- sets of items ------------------------------------------------------------------ */

/* A softmax over a set of items, each a key (d) and, with value_dim > 0, a value: one pass over
 * the items, then O(m (d + value_dim)) a query, whatever their number. Estimates are those of
 * the kernel: of softmax maps with x = scale q (default scale d^(-1/4), so that x.y is
 * q.k / sqrt(d); scale 1 for q.k itself, T^(-1/2) for a temperature T). Not differentiable. */
typedef struct pf_items pf_items;
typedef struct {
    size_t size;
    pf_kernel *kernel; /* with one projection (features, dim); NULL: softmax */
    int64_t dim, value_dim;
} pf_items_options;
PF_API int pf_items_open(pf_items **items, pf_engine *engine, const pf_items_options *options);
PF_API void pf_items_close(pf_items **items);
/* keys (n, dim), values (n, value_dim) or NULL without values. All or, on failure, none: rows
 * that are not finite are refused. remove takes out what was added before, by the same keys and
 * values; what is left is as exact as if the others had never been there, to about 1e-9 a
 * removed item of its size. Removing more items than the set has of a size fails. */
PF_API int pf_items_add(pf_items *items, pf_engine *engine, const pf_tensor *keys,
                        const pf_tensor *PF_NULLABLE values);
PF_API int pf_items_remove(pf_items *items, pf_engine *engine, const pf_tensor *keys,
                           const pf_tensor *PF_NULLABLE values);
/* queries (n, dim) -> (n): log of the sum of exp(x.y) over the items; -inf without items, and
 * where no item is in reach (the estimate is below 2^-80 of the largest possible). */
PF_API int pf_items_log_partition(pf_tensor **out, pf_items *items, pf_engine *engine,
                                  const pf_tensor *queries);
/* (n, value_dim): the mean of the values, weighed by the softmax; 0 where log_partition is -inf. */
PF_API int pf_items_expectation(pf_tensor **out, pf_items *items, pf_engine *engine,
                                const pf_tensor *queries);
/* queries (n, dim), keys (k, dim) -> (n, k): exp(x.y - log_partition), x.y being exact for
 * softmax maps: near 1 the estimate of the partition may make it a little more than 1.
 * PF_ITEMS_ESTIMATE: exp(x.y) estimated by the features too, then they sum to 1 over the set;
 * always so for other maps. PF_ITEMS_LOG: logarithms. */
enum { PF_ITEMS_ESTIMATE = 1, PF_ITEMS_LOG = 2 };
PF_API int pf_items_probability(pf_tensor **out, pf_items *items, pf_engine *engine,
                                const pf_tensor *queries, const pf_tensor *keys, unsigned flags);
PF_API int64_t pf_items_count(const pf_items *items);
PF_API int64_t pf_items_bytes(const pf_items *items); /* what it holds; does not grow with N */

/* ---- weights and log-partitions --------------------------------------------------------- */

/* Attention weights of chosen queries and keys, without the (Lq, Lk) array: w_ij, the share of
 * value j in output i of attention with these options. q (B, H, Lq, d), k (B, H, Lk, d);
 * positions count from 0. Chosen:
 *   rows only      (B, H, n_rows, Lk); with top > 0 the largest `top` of each, and positions
 *   columns only   (B, H, Lq, n_columns)
 *   both           (B, H, n_rows, n_columns), or, paired, (B, H, n): rows[i] with columns[i]
 * O(L m) time and, beside the results, O(L) memory a head (exact: quadratic time). */
typedef struct {
    size_t size;
    const char *attention; /* a kind that tells its weights: "favor" (NULL), "exact" */
    pf_kernel *kernel;
    double scale;                  /* of kinds without a kernel: x = scale q; 0: d^(-1/4) */
    pf_tensor *mask;               /* (B, Lk) of 1 keep, 0 not there; NULL */
    bool causal;                   /* Lq = Lk */
    const int64_t *rows, *columns; /* NULL: all */
    int64_t n_rows, n_columns;
    bool paired;
    int64_t top; /* at most Lk; where fewer keys are seen, weight 0, position -1 */
} pf_weights_options;
/* positions (B, H, n_rows, top) i32 with top > 0; entropy (B, H, n_rows) in nats, with rows
 * only, where it is not NULL. */
PF_API int pf_attention_weights(pf_tensor **weights, pf_tensor **PF_NULLABLE positions,
                                pf_tensor **PF_NULLABLE entropy, pf_engine *engine, pf_tensor *q,
                                pf_tensor *k, const pf_weights_options *options);
/* log sum_j exp(x_i.y_j) over the keys that query i sees, estimated by the kernel or exact:
 * q (B, H, Lq, d), k (B, H, Lk, d) -> (B, H, Lq), recorded on an open tape. Of the options,
 * attention, kernel, scale, mask and causal are read. */
PF_API int pf_attention_log_partition(pf_tensor **out, pf_engine *engine, pf_tensor *q,
                                      pf_tensor *k, const pf_weights_options *PF_NULLABLE options);

/* ---- the error of an estimate ---------------------------------------------------------- */

/* What theory says of a softmax kernel's estimate phi(x).phi(y) of exp(x.y), with x = scale q
 * and y = scale k: its error relative to exp(x.y), at most 1e300. */
typedef struct {
    size_t size;
    double rel_mse;         /* mean square error with independent rows: for "softmax"
                               (exp(|x + y|^2) - 1) / features */
    double coupled_rel_mse; /* with the rows as the kernel has them: orthogonal rows and those
                               of a simplex err less; given ones count as independent */
    double bias;            /* relative bias; not 0 for rows of norm sqrt(d) only */
} pf_prediction;
/* sum = |x + y|^2, difference = |x - y|^2. Fails for maps that estimate no exp(x.y). */
PF_API int pf_kernel_predict(pf_prediction *prediction, const pf_kernel *kernel, int64_t head_dim,
                             double sum, double difference);

/* The error on real queries and keys, over pairs of sampled ones: at most 4 batch items, `rows`
 * evenly spaced queries and keys of each, every query with every key. */
typedef struct {
    size_t size;
    bool causal;        /* keys up to the query only */
    int64_t rows;       /* 0: 32; at most 256 */
    int draws;          /* projections to measure with, of epochs 0, 1 ...; a given projection is
                           measured once; 0: theory alone */
    const double *tilt; /* of each head; NULL: the kernel's */
} pf_survey_options;
/* q (B, H, Lq, d), k (B, Hk, Lk, d) -> a list of one map a head, to be freed: {pairs; query, key,
 * sum, difference: means of |x|^2, |y|^2, |x + y|^2, |x - y|^2; median, largest of |x + y|^2;
 * mean {rel_mse, coupled_rel_mse, bias} over the pairs, of which the longest are most; middle,
 * the same of the median pair}, and with draws {measured_rel_mse and measured_deviation, its
 * standard error; bias, relative; bias_sigma, in standard errors over the draws}. */
PF_API int pf_kernel_survey(pf_config **heads, pf_engine *engine, pf_kernel *kernel,
                            const pf_tensor *q, const pf_tensor *k,
                            const pf_survey_options *PF_NULLABLE options);

/* What the queries and keys of softmax attention were when a training step last looked (every
 * 16th of pf_pass.step does, and one with pf_pass.watch), and the error that theory tells: a list
 * of one map a head, in walk order, to be freed: {layer: its path, "" for the module itself;
 * head, from 0; map; features; step: when it looked; query, key, sum, median, mean, middle as
 * above}. Layers that no step has looked at have none. */
PF_API int pf_module_attention_report(pf_config **lines, const pf_module *module);

/* The sequence length from which on linear attention with r feature columns is faster than
 * exact attention, forward and backward: what a layer's attention "auto" goes by. Between the
 * rows of a table, measured by `performer bench crossover`, its logarithm is interpolated. */
PF_API int pf_crossover_length(double *length, const pf_engine *engine, int64_t head_dim,
                               int64_t features, bool causal);
/* {rows: [{head_dim, features, causal, length}]}, to be freed. */
PF_API int pf_crossover_table(pf_config **table, const pf_engine *engine);
/* Such a table, every head_dim with every features; copied. NULL: the one that is built in. */
PF_API int pf_crossover_use(pf_engine *engine, const pf_config *PF_NULLABLE table);

/* A pattern, which tells what keys each query sees, as the ops pattern_matrix, pattern_count and
 * listed_attention take it: (n) i32, without a graph. rule: "sliding", "strided" ...; options: of
 * the rule; both as pf_describe's `patterns`. list (n) i32, of rule "listed" alone: how many blocks
 * of queries and of keys there are, where the list of each block of queries begins (from 0), where
 * the last one ends, and then the lists: blocks of keys from 0, ascending, each once. */
PF_API int pf_pattern_tensor(pf_tensor **pattern, pf_engine *engine, const char *rule,
                             const pf_config *PF_NULLABLE options,
                             const pf_tensor *PF_NULLABLE list);

/* Algorithmic flops of one head and token of a kind of attention; recomputation is not counted.
 * features: r, feature columns; length: keys. */
typedef struct {
    size_t size;
    int64_t head_dim, value_dim, features, length;
    bool causal;
    const pf_config *options; /* of the kind's own; NULL: defaults */
} pf_attention_shape;
PF_API int pf_attention_flops(double *forward, double *backward, const char *PF_NULLABLE attention,
                              const pf_attention_shape *shape);

#ifdef __cplusplus
}
#endif

#endif
