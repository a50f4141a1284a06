/*
 * layer_attention.c - multi-head attention with any kernel. One matrix makes q, k and v
 * (rows q, then k, then v; q and v alone where keys are queries); the heads are views of its
 * output, and the output's heads lie side by side, so that nothing is copied but what rotary
 * positions and norms rewrite.
 *
 * Which kind of attention it is the options say, and the kind's row does the rest: nothing here
 * asks which one it is. Whole rows, a prompt, a step and a part of a training row differ only in
 * which of the kind's functions the same q, k and v go to (attend).
 */
#include <math.h>
#include <string.h>

#include "attention_layer.h"
#include "sequence.h"

static const pf_option_info attention_options[] = {
#include "options_attention.def"
    {.name = "rotary",
     .kind = PF_OPT_BOOL,
     .doc = "rotary positions on queries and keys, in pairs as rotary_pairs says"},
#include "options_relative.def"
#include "options_place.def"
};

enum { QKV, OUT, GLOBAL_QKV }; /* children, the last of option global_weights */
enum { NUMBERS = 3, SIDES };   /* behind q, k and v: of rooms, of kinds that have some */

/* ---- building ---- */

/* Queries of global tokens see by weights of their own, all others by the layer's. */
static int split_weights(pf_module *m, attention_self *self) {
    self->split = pf_option_int(m, "global_weights") != 0;
    if (!self->split || pf_attention_split_queries(&self->attention, false)) return PF_OK;
    return pf_fail(PF_EINVAL,
                   "attention: global_weights are for global tokens, and %s attention has none "
                   "here; sliding attention with global = 1 or more does",
                   self->attention.kind->name);
}

static int attention_build(pf_module *m, pf_engine *e) {
    attention_self *self = m->self;
    self->rotary = pf_option_int(m, "rotary") != 0;
    self->halves = strcmp(pf_option_text(m, "rotary_pairs"), "halves") == 0;
    self->base = pf_option_number(m, "rotary_base");
    self->dropout = pf_option_number(m, "dropout");
    self->drops = pf_option_number(m, "attention_dropout");
    PF_TRY(pf_attention_heads(m, self));
    PF_TRY(pf_attention_resolve(m, e, self));
    PF_TRY(pf_attention_drops(self->attention.kind, self->drops));
    if (!self->attention.kind->edges) m->n_reads = 0;
    PF_TRY(pf_attention_decay(m, e, self));
    PF_TRY(pf_attention_tilts(m, e, self));
    PF_TRY(split_weights(m, self));
    PF_TRY(pf_attention_rooms(m, e, self, pf_attention_place(m)));
    int64_t dim = pf_option_int(m, "dim"), inner = self->heads * self->head_dim;
    double last = 1 / sqrt(2 * pf_option_number(m, "layers"));
    int64_t all = inner + (self->shared ? 1 : 2) * self->kv_heads * self->head_dim;
    bool bias = pf_option_int(m, "bias") != 0;
    PF_TRY(pf_module_inner(m, e, self->shared ? "qv" : "qkv", "linear",
                           pf_linear_options(m, dim, all, bias, 1)));
    PF_TRY(pf_module_inner(m, e, "out", "linear", pf_linear_options(m, inner, dim, bias, last)));
    if (self->split) {
        PF_TRY(
            pf_module_inner(m, e, "global_qkv", "linear", pf_linear_options(m, dim, all, bias, 1)));
    }
    PF_TRY(pf_relative_build(m, e, self));
    return pf_option_int(m, "qk_norm") ? pf_attention_norms(m, e, self) : PF_OK;
}

/* ---- running ---- */

/* (B, H, L, d) -> (B, L, H d): a view, since attention lays its heads side by side */
int pf_attention_join(const attention_self *self, pf_engine *e, pf_tensor *x, pf_tensor **y) {
    static const int order[4] = {0, 2, 1, 3};
    int64_t shape[3] = {x->shape[0], x->shape[2], self->heads * self->head_dim};
    pf_tensor *rows = NULL;
    PF_TRY(pf_permute(&rows, e, x, 4, order));
    int status = pf_reshape(y, e, rows, 3, shape);
    pf_tensor_release(&rows);
    return status;
}

/* RMS norm over each head's channels, with one scale for all heads. */
int pf_attention_normalise(pf_engine *e, pf_tensor *scale, pf_tensor **x) {
    pf_tensor *y = NULL;
    if (!scale) return PF_OK;
    PF_TRY(pf_rmsnorm(&y, e, *x, scale, 1e-6));
    pf_replace(x, y);
    return PF_OK;
}

/* Rotary positions from `offset` on, or those that are given. */
static int rotate(const attention_self *self, pf_engine *e, pf_tensor *positions, int64_t offset,
                  pf_tensor **x) {
    pf_tensor *y = NULL;
    if (!self->rotary) return PF_OK;
    PF_TRY(pf_rotary(&y, e, *x, positions, self->base, self->halves, offset));
    pf_replace(x, y);
    return PF_OK;
}

/* Columns from .. from + H d - 1 of x (B, L, ...) -> (B, H, L, d), a view */
static int heads_of(const attention_self *self, pf_engine *e, pf_tensor *x, int64_t from,
                    pf_tensor **y) {
    static const int order[4] = {0, 2, 1, 3};
    int64_t shape[4] = {x->shape[0], x->shape[1], self->heads, self->head_dim};
    pf_tensor *columns = NULL, *rows = NULL;
    PF_TRY(pf_slice(&columns, e, x, 2, from, from + self->heads * self->head_dim));
    int status = pf_reshape(&rows, e, columns, 4, shape);
    if (status >= 0) status = pf_permute(y, e, rows, 4, order);
    pf_tensor_release(&rows);
    pf_tensor_release(&columns);
    return status;
}

/* qkv (B, L, (H + 2 Hkv) d), or qv (B, L, 2 H d) -> side: q, k, v (B, heads, L, d), normed. */
static int split(const pf_module *m, pf_engine *e, pf_tensor *qkv, pf_tensor **side) {
    const attention_self *self = m->self;
    pf_attr heads[2] = {{.i = self->heads}, {.i = self->kv_heads}};
    if (!self->shared) {
        PF_TRY(pf_apply(e, &pf_op_split_heads, &qkv, 1, heads, side));
        PF_TRY(pf_attention_normalise(e, self->q_norm, &side[0]));
        return pf_attention_normalise(e, self->k_norm, &side[1]);
    }
    PF_TRY(heads_of(self, e, qkv, 0, &side[0]));
    PF_TRY(heads_of(self, e, qkv, self->heads * self->head_dim, &side[2]));
    PF_TRY(pf_attention_normalise(e, self->q_norm, &side[0]));
    return pf_attention_share(m, e, side[0], &side[1]);
}

/* side: q, k, v -> (B, H, L, dv), by the way that the run takes. */
static int attend_to(const pf_attention *a, pf_engine *e, const pf_run *run, pf_tensor **side,
                     pf_tensor *mask, pf_tensor **y) {
    pf_tensor *made[PF_ATTENTION_OUTPUTS] = {NULL};
    pf_tensor *in[PF_ATTENTION_INPUTS] = {
        [PF_IN_Q] = side[0],
        [PF_IN_K] = side[1],
        [PF_IN_V] = side[2],
        [PF_IN_MASK] = mask,
        [PF_IN_DOCUMENTS] = run->pass->documents,
        [PF_IN_DECAY] = a->decay,
        [PF_IN_PREFIX] = run->slice ? NULL : run->pass->prefix,
    };
    if (run->slice && run->slice->segmented) return pf_segment_attend(y, e, a, run, in);
    if (!run->state) {
        if (run->pass->prefix && !a->causal) {
            return pf_fail(PF_EINVAL,
                           "attention: a prefix is for causal attention (causal = true)");
        }
        PF_TRY(pf_attend_rows(made, e, a, in, false));
        *y = made[0];
        return PF_OK;
    }
    pf_state *state = run->state->n_child == 1 ? run->state->child[0] : NULL;
    PF_TRY(pf_attend_check(a, state, "attention"));
    if (run->slice) return pf_attend_part(y, e, a, state, in);
    if (run->mode == PF_RUN_STEP) return pf_attend_step(y, e, a, state, side[0], side[1], side[2]);
    return pf_attend_prefill(y, e, a, state, side[0], side[1], side[2]);
}

static int attend(pf_module *m, pf_engine *e, const pf_run *run, bool global, pf_tensor **side,
                  pf_tensor **y) {
    const attention_self *self = m->self;
    pf_attention a = self->attention; /* this call's */
    if (global) pf_attention_split_queries(&a, true);
    pf_tensor *mask = NULL;
    a.buckets = side[NUMBERS];
    PF_TRY(pf_attention_read_edges(&a, m, run));
    int status = pf_attention_drop_some(&a, e, run, self->drops, side[1], run->pass->mask, &mask);
    if (status >= 0) status = pf_relative_scores(m, e, run, &side[0], &a.relative);
    if (status >= 0) status = attend_to(&a, e, run, side, mask, y);
    pf_tensor_release(&a.relative);
    pf_tensor_release(&mask);
    return status;
}

/* Are states gathered, of a kind that takes one sequence? Rooms are told of it alone, too. */
static bool rows_apart(const pf_module *m, const pf_run *run) {
    const attention_self *self = m->self;
    return run->state && run->state->row && !pf_attend_together(&self->attention);
}
static bool rooms_apart(const pf_module *m, const pf_run *run) {
    return rows_apart(m, run) && ((const attention_self *)m->self)->attention.kind->rooms;
}

static int attend_row(pf_module *m, pf_engine *e, const pf_run *run, pf_tensor **x, pf_tensor **y) {
    pf_tensor *side[SIDES] = {pf_tensor_retain(x[0]), x[1], x[2]}; /* q may become another */
    int status = attend(m, e, run, false, side, y);
    pf_tensor_release(&side[0]);
    return status;
}

/* (B, 1) of sequences at positions of their own. */
static int row_positions(pf_engine *e, const pf_state *state, pf_tensor **positions) {
    int64_t shape[2] = {state->batch, 1};
    PF_TRY(pf_tensor_make(positions, e, PF_I32, 2, shape));
    for (int64_t b = 0; b < state->batch; b++) {
        pf_i32(*positions)[b] = (int32_t)state->row[b]->position;
    }
    return PF_OK;
}

/* What turns queries and keys: positions (B, L), or where they are NULL those from *offset on. */
static int find_positions(const attention_self *self, pf_engine *e, const pf_run *run,
                          int64_t before, pf_tensor **positions, int64_t *offset) {
    *offset = 0;
    if (!self->rotary) return PF_OK;
    if (run->pass->documents) { /* from every document's first */
        PF_TRY(pf_run_positions(positions, e, run, NULL));
    } else if (run->state && run->state->row) {
        PF_TRY(row_positions(e, run->state, positions));
    } else if (run->state) {
        *offset = run->state->position - before;
    }
    return pf_rows_positions(e, before, positions);
}

/* qkv, or qv, (B, L, ..) -> (B, H, L, d); global: of queries with weights of their own */
static int mix(pf_module *m, pf_engine *e, const pf_run *run, bool global, int64_t before,
               pf_tensor *qkv, pf_tensor **y) {
    const attention_self *self = m->self;
    pf_tensor *side[SIDES] = {NULL}, *positions = NULL;
    int64_t offset;
    int status = find_positions(self, e, run, before, &positions, &offset);
    if (status >= 0) status = split(m, e, qkv, side);
    if (status >= 0) status = pf_attention_number(m, e, run, side, &side[NUMBERS]);
    for (int i = 0; i < 2 && status >= 0; i++) {
        status = rotate(self, e, positions, offset, &side[i]);
    }
    if (status >= 0) status = pf_rows_enter(e, run, before, side);
    if (status >= 0) {
        status = rows_apart(m, run) ? pf_run_each_row(m, e, run, attend_row, side, 3, y)
                                    : attend(m, e, run, global, side, y);
    }
    bool look = (!run->state || run->slice) && !run->pass->again; /* a second run sees the same */
    if (status >= 0 && look) pf_watch_look(m, e, &self->attention, run->pass, side[0], side[1]);
    for (int i = 0; i < SIDES; i++) pf_tensor_release(&side[i]);
    pf_tensor_release(&positions);
    return status;
}

/* Of one sequence of several in a step, of a kind with rooms. */
static int mix_row(pf_module *m, pf_engine *e, const pf_run *run, pf_tensor **qkv, pf_tensor **y) {
    return mix(m, e, run, false, 0, *qkv, y);
}

/* x (B, L, D) -> (B, H, L, d) by one matrix for q, k and v */
static int run_heads(pf_module *m, pf_engine *e, const pf_run *run, bool global, pf_tensor *x,
                     pf_tensor **heads) {
    pf_tensor *qkv = NULL, *all = NULL;
    int64_t before;
    PF_TRY(pf_rows_join(e, run, x, &all, &before));
    int status = pf_run_part(m, global ? GLOBAL_QKV : QKV, e, run, all, &qkv);
    if (status >= 0) {
        status = rooms_apart(m, run) ? pf_run_each_row(m, e, run, mix_row, &qkv, 1, heads)
                                     : mix(m, e, run, global, before, qkv, heads);
    }
    if (status >= 0) status = pf_rows_leave(e, run, all);
    pf_tensor_release(&qkv);
    pf_tensor_release(&all);
    return status;
}

/* Rows of global tokens are 0 in what the others see, and the other way round. */
static int add_global(pf_module *m, pf_engine *e, const pf_run *run, pf_tensor *x,
                      pf_tensor **heads) {
    const attention_self *self = m->self;
    pf_tensor *global = NULL, *sum = NULL;
    if (!self->split) return PF_OK;
    PF_TRY(run_heads(m, e, run, true, x, &global));
    int status = pf_add(&sum, e, *heads, global);
    pf_tensor_release(&global);
    if (status >= 0) pf_replace(heads, sum);
    return status;
}

/* x (B, L, D) -> (B, L, D), before dropout */
static int run_rows(pf_module *m, pf_engine *e, const pf_run *run, pf_tensor *x, pf_tensor **y) {
    const attention_self *self = m->self;
    pf_tensor *heads = NULL, *flat = NULL;
    int status = run_heads(m, e, run, false, x, &heads);
    if (status >= 0) status = add_global(m, e, run, x, &heads);
    if (status >= 0) status = pf_attention_join(self, e, heads, &flat);
    if (status >= 0) status = pf_run_part(m, OUT, e, run, flat, y);
    pf_tensor_release(&flat);
    pf_tensor_release(&heads);
    return status;
}

/* x (B, D) as a sequence of one */
static int step(pf_module *m, pf_engine *e, const pf_run *run, pf_tensor *x, pf_rows_fn rows,
                pf_tensor **y) {
    pf_tensor *row = NULL, *out = NULL;
    int64_t shape[3] = {x->shape[0], 1, x->shape[1]};
    int status = pf_reshape(&row, e, x, 3, shape);
    if (status >= 0) status = rows(m, e, run, row, &out);
    if (status >= 0) status = pf_reshape(y, e, out, 2, x->shape);
    pf_tensor_release(&out);
    pf_tensor_release(&row);
    return status;
}

int pf_attention_run(pf_module *m, pf_engine *e, const pf_run *run, pf_tensor *x, pf_rows_fn rows,
                     pf_tensor **y) {
    const attention_self *self = m->self;
    int rank = run->mode == PF_RUN_STEP ? 2 : 3;
    int64_t dim = pf_option_int(m, "dim");
    if (x->rank != rank || x->shape[rank - 1] != dim) {
        return pf_fail(PF_ESHAPE, "%s: x is %s, must be %s with D = %lld", m->type->name,
                       pf_shape_of(x), rank == 2 ? "(B, D)" : "(B, L, D)", (long long)dim);
    }
    int status = rank == 2 ? step(m, e, run, x, rows, y) : rows(m, e, run, x, y);
    if (status >= 0) status = pf_run_dropout(e, run, self->dropout, y);
    if (status < 0) pf_tensor_release(y);
    return status;
}

static int attention_run(pf_module *m, pf_engine *e, const pf_run *run, pf_tensor *x,
                         pf_tensor **y) {
    return pf_attention_run(m, e, run, x, run_rows, y);
}

/* A node of the layer with the attention's own below it: files count both. */
static int attention_state(const pf_module *m, pf_engine *e, int64_t batch, pf_state **state) {
    const attention_self *self = m->self;
    if (!self->attention.causal && self->attention.kind->prefill) {
        return pf_fail(PF_EINVAL, "attention: only a causal model can stream (causal = true)");
    }
    if (self->split) {
        return pf_fail(PF_EINVAL,
                       "attention: a layer with global_weights can't stream: it looks at "
                       "rows by two sets of keys, and is for whole ones");
    }
    PF_TRY(pf_state_new(state, e, batch, 1));
    int status = pf_attend_state(&(*state)->child[0], e, &self->attention, batch, self->kv_heads,
                                 self->head_dim, self->head_dim);
    if (status < 0) pf_state_close(state);
    return status;
}

/* A slice sees what came before it by the state alone. */
static bool attention_whole(const pf_module *m) {
    const attention_self *self = m->self;
    return !self->attention.causal || pf_attend_no_part(&self->attention) || self->split;
}

/* Kinds whose queries see keys by their place alone, which may lie in any segment. */
static bool sees_by_limits(const attention_self *self) {
    const pf_attention_kind *kind = self->attention.kind;
    bool chosen = kind->rule || kind->edges || kind->rooms || self->drops > 0;
    return kind->takes & PF_TAKES(LIMITS) && !chosen;
}

/* Linear attention alone leaves all that its keys are in a state of fixed size. */
static int attention_segments(const pf_module *m, bool causal) {
    const attention_self *self = m->self;
    const pf_attention *a = &self->attention;
    bool states = a->kind->carries && a->kernel, looks = a->kind->state != NULL;
    if (!looks && a->kind->part) return PF_OK; /* a row is its own business */
    if (!states && (causal || !sees_by_limits(self))) {
        return pf_fail(PF_EINVAL,
                       "%s attention looks at keys of other segments themselves, %s; attention = "
                       "\"favor\" looks at a state of theirs",
                       a->kind->name,
                       sees_by_limits(self) ? "for which each needs a rank, and no chain"
                                            : "and can't have them");
    }
    if (self->split)
        return pf_fail(PF_EINVAL, "global tokens are seen from everywhere; leave them out");
    if (a->causal || !causal) return PF_OK;
    return pf_fail(PF_EINVAL, "attention that sees the future needs a rank for each segment, and "
                              "no chain");
}

const pf_layer pf_layer_attention = {
    .name = "attention",
    .doc = "Multi-head attention: x (B, L, D) -> (B, L, D). One matrix makes q, k and v; the "
           "option attention says which attention it is.",
    .options = attention_options,
    .n_options = PF_COUNT(attention_options),
    .width = "dim",
    .inputs = pf_edge_inputs, /* of kinds that read them */
    .n_inputs = PF_EDGES_READ,
    .self_bytes = sizeof(attention_self),
    .build = attention_build,
    .derive = pf_attention_derive,
    .run = attention_run,
    .whole = attention_whole,
    .segments = attention_segments,
    .state = attention_state,
    .rows = PF_ROWS_TOGETHER,
    .after_step = pf_attention_after_step,
    .notes = pf_attention_notes,
    .drop = pf_attention_drop,
};
