/*
 * layer_cross.c - cross-attention: queries from x, keys and values from another sequence, the input
 * `memory`. Every position of x sees all of the memory, but for what its mask hides.
 *
 * A stream takes the memory once, when it begins. A kind that carries a state (linear attention)
 * then keeps the sums over the memory alone, in constant size: a step reads S and z, and no key.
 * Any other keeps keys, values and mask. In slices of a training row it is the same, recorded: the
 * sums are tensors of the graph that every slice hands on as it found them, and backward brings
 * their gradient to the first one, which made them.
 */
#include <math.h>

#include "attention_layer.h"

static const pf_option_info cross_options[] = {
#define PF_CROSS_OPTIONS
#include "options_attention.def"
#undef PF_CROSS_OPTIONS
    {.name = "memory_dim",
     .kind = PF_OPT_INT,
     .low = 0,
     .high = 1 << 20,
     .doc = "width of the memory; 0: dim"},
#include "options_place.def"
};

static const pf_input_info cross_inputs[] = {
    {"memory", "(B, Lm, memory_dim), what keys and values are made of", true},
    {"memory_mask", "(B, Lm) i32: 1 keep, 0 not there", false},
};

enum { QUERY, KEY_VALUE, OUT }; /* children */
enum { K, V };
/* Of kinds that carry none: what a stream keeps of the memory. */
enum { KEYS, VALUES, MASK };
/* Added to a layer's place: its attention draws from the place itself. */
enum { APART = 1 << 16 };

/* As much of a kind's own state as an entry is. */
static const pf_state_kind memory_sums = {
    .name = "memory sums",
    .tensor = {"s", "z", "shift"},
    .log_scale = 1u << 2,
};
/* `position` of the node is the memory's length. */
static const pf_state_kind memory_rows = {
    .name = "memory rows",
    .tensor = {"keys", "values", "mask"},
    .grows = true,
};

/* ---- building ---- */

static int64_t memory_dim(const pf_module *m) {
    int64_t own = pf_option_int(m, "memory_dim");
    return own > 0 ? own : pf_option_int(m, "dim");
}

/* The room of a query is that of the key at its own place. */
static int check_rooms(const pf_attention_kind *kind) {
    if (!kind->rooms) return PF_OK;
    return pf_fail(
        PF_EINVAL,
        "cross_attention: %s attention looks from each position's own room, and a memory "
        "has other positions; take another attention",
        kind->name);
}

static int cross_build(pf_module *m, pf_engine *e) {
    attention_self *self = m->self;
    self->dropout = pf_option_number(m, "dropout");
    self->drops = pf_option_number(m, "attention_dropout");
    self->apart = APART;
    PF_TRY(pf_attention_heads(m, self));
    PF_TRY(pf_attention_resolve(m, e, self));
    PF_TRY(check_rooms(self->attention.kind));
    PF_TRY(pf_attention_drops(self->attention.kind, self->drops));
    if (self->attention.kind->edges) {
        return pf_fail(PF_EINVAL,
                       "cross_attention: %s attention is of one sequence, and here keys "
                       "are another's; take another attention",
                       self->attention.kind->name);
    }
    PF_TRY(pf_attention_tilts(m, e, self));
    int64_t dim = pf_option_int(m, "dim"), inner = self->heads * self->head_dim;
    int64_t both = 2 * self->kv_heads * self->head_dim;
    double last = 1 / sqrt(2 * pf_option_number(m, "layers"));
    bool bias = pf_option_int(m, "bias") != 0;
    PF_TRY(pf_module_inner(m, e, "query", "linear", pf_linear_options(m, dim, inner, bias, 1)));
    PF_TRY(pf_module_inner(m, e, "key_value", "linear",
                           pf_linear_options(m, memory_dim(m), both, bias, 1)));
    PF_TRY(pf_module_inner(m, e, "out", "linear", pf_linear_options(m, inner, dim, bias, last)));
    return pf_option_int(m, "qk_norm") ? pf_attention_norms(m, e, self) : PF_OK;
}

/* ---- rows as heads ---- */

/* Columns from .. from + heads d - 1 of x (B, L, ...) -> (B, heads, L, d), a view */
static int heads_of(pf_engine *e, pf_tensor *x, int64_t from, int64_t heads, int64_t d,
                    pf_tensor **y) {
    static const int order[4] = {0, 2, 1, 3};
    int64_t shape[4] = {x->shape[0], x->shape[1], heads, d};
    pf_tensor *columns = NULL, *rows = NULL;
    PF_TRY(pf_slice(&columns, e, x, 2, from, from + heads * d));
    int status = pf_reshape(&rows, e, columns, 4, shape);
    if (status >= 0) status = pf_permute(y, e, rows, 4, order);
    pf_tensor_release(&rows);
    pf_tensor_release(&columns);
    return status;
}

/* x (B, L, D) -> queries (B, H, L, d) */
static int queries(pf_module *m, pf_engine *e, const pf_run *run, pf_tensor *x, pf_tensor **q) {
    const attention_self *self = m->self;
    pf_tensor *rows = NULL;
    PF_TRY(pf_run_part(m, QUERY, e, run, x, &rows));
    int status = heads_of(e, rows, 0, self->heads, self->head_dim, q);
    if (status >= 0) status = pf_attention_normalise(e, self->q_norm, q);
    pf_tensor_release(&rows);
    return status;
}

/* The memory of the run, of B sequences, and its mask (NULL: none), borrowed. */
static int find_memory(const pf_module *m, const pf_run *run, int64_t B, pf_tensor **memory,
                       pf_tensor **mask) {
    int64_t width = memory_dim(m);
    PF_TRY(pf_run_need(memory, m, run, "memory"));
    const pf_tensor *t = *memory;
    PF_TRY(pf_tensor_check(t, PF_F32, "cross_attention", "memory"));
    if (t->rank != 3 || t->shape[0] != B || t->shape[2] != width) {
        return pf_fail(
            PF_ESHAPE,
            "cross_attention: the input 'memory' is %s, must be (B, Lm, memory_dim) with "
            "B = %lld and memory_dim = %lld",
            pf_shape_of(t), (long long)B, (long long)width);
    }
    return pf_run_may(mask, m, run, "memory_mask", B, t->shape[1]);
}

/* side[K], side[V] (B, Hkv, Lm, d) of the memory */
static int keys(pf_module *m, pf_engine *e, const pf_run *run, pf_tensor *memory,
                pf_tensor **side) {
    const attention_self *self = m->self;
    int64_t width = self->kv_heads * self->head_dim;
    pf_tensor *rows = NULL;
    PF_TRY(pf_run_part(m, KEY_VALUE, e, run, memory, &rows));
    int status = heads_of(e, rows, 0, self->kv_heads, self->head_dim, &side[K]);
    if (status >= 0) status = heads_of(e, rows, width, self->kv_heads, self->head_dim, &side[V]);
    if (status >= 0) status = pf_attention_normalise(e, self->k_norm, &side[K]);
    pf_tensor_release(&rows);
    return status;
}

/* ---- what a stream begins with ---- */

/* A node of its own below the layer's: its position is not the stream's. */
static int cross_state(const pf_module *m, pf_engine *e, int64_t batch, pf_state **state) {
    const attention_self *self = m->self;
    const pf_attention *a = &self->attention;
    int64_t shape[4] = {batch, self->kv_heads, 0, self->head_dim}, mask[3] = {batch, 1, 0};
    PF_TRY(pf_state_new(state, e, batch, 1));
    pf_state **node = &(*state)->child[0];
    int status;
    if (a->kind->carries) {
        status = pf_attend_state(node, e, a, batch, self->kv_heads, shape[3], shape[3]);
        if (status >= 0) (*node)->kind = &memory_sums;
        for (int i = PF_ENTRY_INPUTS; status >= 0 && i < PF_STATE_TENSORS; i++) {
            pf_tensor_release(&(*node)->tensor[i]);
        }
    } else {
        status = pf_state_new(node, e, batch, 0);
        if (status >= 0) (*node)->kind = &memory_rows;
        for (int i = KEYS; i <= VALUES && status >= 0; i++) {
            status = pf_tensor_make_lasting(&(*node)->tensor[i], (*node)->heap, PF_F32, 4, shape);
        }
        if (status >= 0) {
            status = pf_tensor_make_lasting(&(*node)->tensor[MASK], (*node)->heap, PF_I32, 3, mask);
        }
    }
    if (status < 0) pf_state_close(state);
    return status;
}

/* No query, or no key: (B, heads, 0, d). */
static int nothing(pf_engine *e, int64_t B, int64_t heads, int64_t d, pf_tensor **t) {
    int64_t shape[4] = {B, heads, 0, d};
    return pf_tensor_make(t, e, PF_F32, 4, shape);
}

/* The exit state of full attention by no query is the memory's sums. */
static int keep_sums(const attention_self *self, pf_engine *e, pf_state *node, pf_tensor **side,
                     pf_tensor *mask) {
    pf_tensor *made[PF_ATTENTION_OUTPUTS] = {NULL};
    pf_tensor *in[PF_ATTENTION_INPUTS] = {
        [PF_IN_K] = side[K], [PF_IN_V] = side[V], [PF_IN_MASK] = mask};
    PF_TRY(nothing(e, node->batch, self->heads, self->head_dim, &in[PF_IN_Q]));
    int status = pf_attend_rows(made, e, &self->attention, in, true);
    pf_tensor_release(&in[PF_IN_Q]);
    pf_tensor_release(&made[0]);
    if (status < 0) return status;
    for (int i = 0; i < PF_ENTRY_INPUTS; i++) pf_replace(&node->tensor[i], made[1 + i]);
    return PF_OK;
}

/* In a row, as states are copied; recorded, as it is. */
static int keep_tensor(pf_engine *e, const pf_run *run, pf_tensor *t, pf_tensor **place) {
    pf_tensor *own = NULL;
    if (run->slice) {
        own = pf_tensor_retain(t);
    } else {
        PF_TRY(pf_tensor_compact(&own, e, t));
    }
    pf_replace(place, own);
    return PF_OK;
}

/* (B, 1, Lm), all there where no mask says otherwise. */
static int keep_mask(pf_engine *e, pf_state *node, pf_tensor *mask, int64_t length) {
    int64_t shape[3] = {node->batch, 1, length};
    pf_tensor *own = NULL, *rows = NULL;
    PF_TRY(pf_tensor_make_lasting(&own, node->heap, PF_I32, 3, shape));
    int status = PF_OK;
    if (mask) {
        status = pf_reshape(&rows, e, mask, 3, shape);
        if (status >= 0) status = pf_tensor_copy(own, rows);
        pf_tensor_release(&rows);
    } else {
        status = pf_tensor_fill(own, 1);
    }
    if (status < 0) {
        pf_tensor_release(&own);
        return status;
    }
    pf_replace(&node->tensor[MASK], own);
    return PF_OK;
}

static int keep_rows(pf_engine *e, const pf_run *run, pf_state *node, pf_tensor **side,
                     pf_tensor *mask) {
    PF_TRY(keep_tensor(e, run, side[K], &node->tensor[KEYS]));
    PF_TRY(keep_tensor(e, run, side[V], &node->tensor[VALUES]));
    return keep_mask(e, node, mask, side[K]->shape[2]);
}

static pf_state *node_of(const pf_run *run) {
    return run->state->n_child == 1 ? run->state->child[0] : NULL;
}

static int cross_begin(pf_module *m, pf_engine *e, const pf_run *run) {
    const attention_self *self = m->self;
    pf_attention a = self->attention;
    pf_state *node = node_of(run);
    pf_tensor *memory, *mask, *kept = NULL, *side[2] = {NULL, NULL};
    if (!node) return pf_fail(PF_ESTATE, "cross_attention: the state is not one of this model");
    PF_TRY(find_memory(m, run, node->batch, &memory, &mask));
    double drops = a.kind->drops ? 0 : self->drops; /* of keys: here, once for all slices */
    int status = keys(m, e, run, memory, side);
    if (status >= 0) status = pf_attention_drop_some(&a, e, run, drops, side[K], mask, &kept);
    if (status >= 0) {
        status = a.kind->carries ? keep_sums(self, e, node, side, kept)
                                 : keep_rows(e, run, node, side, kept);
    }
    pf_tensor_release(&kept);
    if (status >= 0) node->position = memory->shape[1];
    pf_tensor_release(&side[K]);
    pf_tensor_release(&side[V]);
    return status;
}

/* ---- running ---- */

/* q (B, H, L, d) against the memory of the call */
static int attend_call(pf_module *m, pf_engine *e, const pf_run *run, pf_tensor *q,
                       pf_tensor **made) {
    const attention_self *self = m->self;
    pf_attention a = self->attention; /* this call's */
    pf_tensor *memory, *mask, *side[2] = {NULL, NULL};
    pf_tensor *in[PF_ATTENTION_INPUTS] = {[PF_IN_Q] = q};
    PF_TRY(find_memory(m, run, q->shape[0], &memory, &mask));
    int status = keys(m, e, run, memory, side);
    in[PF_IN_K] = side[K], in[PF_IN_V] = side[V];
    if (status >= 0) {
        status = pf_attention_drop_some(&a, e, run, self->drops, side[K], mask, &in[PF_IN_MASK]);
    }
    if (status >= 0) status = pf_attend_rows(made, e, &a, in, false);
    if (status >= 0 && !run->pass->again) {
        pf_pass of_keys = *run->pass;
        of_keys.mask = mask;
        pf_watch_look(m, e, &self->attention, &of_keys, q, side[K]);
    }
    pf_tensor_release(&in[PF_IN_MASK]);
    pf_tensor_release(&side[K]);
    pf_tensor_release(&side[V]);
    return status;
}

/* The same against what the state keeps of it */
static int attend_state(const attention_self *self, pf_engine *e, const pf_run *run, pf_tensor *q,
                        pf_tensor **made) {
    pf_attention a = self->attention; /* this call's */
    pf_state *node = node_of(run);
    pf_tensor *in[PF_ATTENTION_INPUTS] = {[PF_IN_Q] = q}, *none = NULL, *mask = NULL;
    if (!node) return pf_fail(PF_ESTATE, "cross_attention: the state is not one of this model");
    int status;
    if (self->attention.kind->carries) {
        status = nothing(e, node->batch, self->kv_heads, self->head_dim, &none);
        in[PF_IN_K] = in[PF_IN_V] = none;
        for (int i = 0; i < PF_ENTRY_INPUTS; i++) in[PF_REACH_INPUTS + i] = node->tensor[i];
    } else {
        int64_t shape[2] = {node->batch, node->position};
        status = pf_reshape(&mask, e, node->tensor[MASK], 2, shape);
        in[PF_IN_K] = node->tensor[KEYS], in[PF_IN_V] = node->tensor[VALUES];
        double drops = a.kind->drops ? self->drops : 0;
        if (status >= 0) {
            status = pf_attention_drop_some(&a, e, run, drops, in[PF_IN_K], mask, &in[PF_IN_MASK]);
        }
    }
    if (status >= 0) status = pf_attend_rows(made, e, &a, in, false);
    pf_tensor_release(&in[PF_IN_MASK]);
    pf_tensor_release(&none);
    pf_tensor_release(&mask);
    return status;
}

/* One sequence of several in a step, each with a memory of its own. */
static int attend_row(pf_module *m, pf_engine *e, const pf_run *run, pf_tensor **q, pf_tensor **y) {
    pf_tensor *made[PF_ATTENTION_OUTPUTS] = {NULL};
    int status = attend_state(m->self, e, run, *q, made);
    *y = made[0];
    return status;
}

/* q (B, H, L, d) -> *y the same, by whatever the run has of the memory */
static int attend(pf_module *m, pf_engine *e, const pf_run *run, pf_tensor *q, pf_tensor **y) {
    pf_tensor *made[PF_ATTENTION_OUTPUTS] = {NULL};
    if (run->state && run->state->row) return pf_run_each_row(m, e, run, attend_row, &q, 1, y);
    int status =
        run->state ? attend_state(m->self, e, run, q, made) : attend_call(m, e, run, q, made);
    *y = made[0];
    return status;
}

/* x (B, L, D) -> (B, L, D), before dropout */
static int run_rows(pf_module *m, pf_engine *e, const pf_run *run, pf_tensor *x, pf_tensor **y) {
    const attention_self *self = m->self;
    pf_tensor *q = NULL, *flat = NULL, *heads = NULL;
    int status = queries(m, e, run, x, &q);
    if (status >= 0) status = attend(m, e, run, q, &heads);
    pf_tensor_release(&q);
    if (status >= 0) status = pf_attention_join(self, e, heads, &flat);
    if (status >= 0) status = pf_run_part(m, OUT, e, run, flat, y);
    pf_tensor_release(&flat);
    pf_tensor_release(&heads);
    return status;
}

static int cross_run(pf_module *m, pf_engine *e, const pf_run *run, pf_tensor *x, pf_tensor **y) {
    return pf_attention_run(m, e, run, x, run_rows, y);
}

const pf_layer pf_layer_cross_attention = {
    .name = "cross_attention",
    .doc =
        "Multi-head attention to another sequence: queries from x (B, L, D), keys and values "
        "from the input memory (B, Lm, memory_dim) -> (B, L, D). All of x sees all of the memory; "
        "streams keep the memory's sums alone where attention is linear.",
    .options = cross_options,
    .n_options = PF_COUNT(cross_options),
    .inputs = cross_inputs,
    .n_inputs = PF_COUNT(cross_inputs),
    .width = "dim",
    .self_bytes = sizeof(attention_self),
    .build = cross_build,
    .derive = pf_attention_derive,
    .run = cross_run,
    .state = cross_state,
    .rows = PF_ROWS_TOGETHER,
    .begin = cross_begin,
    .after_step = pf_attention_after_step,
    .drop = pf_attention_drop,
};
