/*
 * cache.c - the kind exact: softmax attention over whole rows, and streaming with the keys and
 * values so far, which are kept and grow. A step is a prefill of one row. Nothing of fixed size
 * stands for the past, so a row can't be trained part by part.
 */
#include "attention.h"
#include "cache_rows.h"
#include "softmax_block.h"

enum { K_CACHE, V_CACHE };

enum { SCALE };
static const pf_option_info exact_options[] = {
    {.name = "scale", .kind = PF_OPT_NUMBER, .doc = "of the scores q.k; 0: 1 / sqrt(d)"},
};

static void fill_attrs(pf_attr *attr, const pf_attention *a, bool causal) {
    pf_op_fill_defaults(&pf_op_exact_attention, attr);
    attr[PF_SOFTMAX_CAUSAL].i = causal;
    attr[PF_SOFTMAX_SCALE].f = a->option[SCALE];
}

/* It carries no state, so there is no exit to be asked for. */
static int exact_call(pf_tensor **out, pf_engine *e, const pf_attention *a, pf_tensor *const *in,
                      bool exit) {
    pf_attr attr[PF_MAX_ATTR];
    (void)exit;
    fill_attrs(attr, a, a->causal);
    attr[PF_SOFTMAX_DROPOUT].f = a->dropout;
    attr[PF_SOFTMAX_DRAW].i = (int64_t)a->draw;
    return pf_apply(e, &pf_op_exact_attention, in, PF_REACH_INPUTS, attr, out);
}

/* ---- streaming ---- */

static const pf_state_kind state_exact = {
    .name = "exact",
    .tensor = {"keys", "values"},
    .grows = true,
};

/* A cache without room: the first keys make it. */
static int exact_open(pf_state *s, pf_engine *e, const pf_attention *a, int64_t heads, int64_t d,
                      int64_t dv) {
    int64_t shape[4] = {s->batch, heads, 0, d};
    (void)e, (void)a;
    PF_TRY(pf_shape_valid(4, shape, PF_F32, "attention state"));
    PF_TRY(pf_tensor_make_lasting(&s->tensor[K_CACHE], s->heap, PF_F32, 4, shape));
    shape[3] = dv;
    PF_TRY(pf_shape_valid(4, shape, PF_F32, "attention state"));
    return pf_tensor_make_lasting(&s->tensor[V_CACHE], s->heap, PF_F32, 4, shape);
}

static void exact_widths(const pf_attention *a, const pf_state *s, int64_t *d, int64_t *dv) {
    (void)a;
    *d = s->tensor[K_CACHE]->shape[3];
    *dv = s->tensor[V_CACHE]->shape[3];
}

/* The later keys and values stand behind the earlier ones: a concatenation. */
static int exact_merge(pf_state *s, pf_engine *e, const pf_attention *a, pf_state *later) {
    (void)e, (void)a;
    for (int i = K_CACHE; i <= V_CACHE; i++) {
        pf_tensor *rows = NULL;
        PF_TRY(pf_cache_view(&rows, later->tensor[i], 0, later->position));
        int status = pf_cache_append(s, i, rows);
        pf_tensor_release(&rows);
        PF_TRY(status);
    }
    return PF_OK;
}

/* The new keys join the cache, and causal attention over all of it follows. */
static int exact_prefill(pf_tensor **out, pf_engine *e, const pf_attention *a, pf_state *s,
                         pf_tensor *q, pf_tensor *k, pf_tensor *v) {
    PF_TRY(pf_cache_append(s, K_CACHE, k));
    PF_TRY(pf_cache_append(s, V_CACHE, v));
    int64_t length = s->position + k->shape[2];
    pf_tensor *in[PF_REACH_INPUTS] = {[PF_IN_Q] = q, [PF_IN_DECAY] = a->decay};
    pf_attr attr[PF_MAX_ATTR];
    fill_attrs(attr, a, true);
    int status = pf_cache_view(&in[PF_IN_K], s->tensor[K_CACHE], 0, length);
    if (status >= 0) status = pf_cache_view(&in[PF_IN_V], s->tensor[V_CACHE], 0, length);
    if (status >= 0) {
        status = pf_apply_lasting(e, &pf_op_exact_attention, in, PF_REACH_INPUTS, attr, out);
    }
    pf_tensor_release(&in[PF_IN_K]);
    pf_tensor_release(&in[PF_IN_V]);
    return status;
}

/* ---- the kind ---- */

/* Scores and weighted values; the backward five products of their size. */
static void exact_flops(const pf_attention *a, const pf_attention_shape *shape, double *forward,
                        double *backward) {
    (void)a;
    double keys = (double)shape->length;
    if (shape->causal) keys = (keys + 1) / 2;
    double widths = (double)(shape->head_dim + shape->value_dim);
    *forward = 2 * keys * widths;
    *backward = 5 * keys * widths;
}

/* It comes first where rows are short. */
static int exact_from_length(double *length, const pf_engine *e, const pf_attention_shape *shape) {
    (void)e, (void)shape;
    *length = 0;
    return PF_OK;
}

const pf_attention_kind pf_kind_exact = {
    .name = "exact",
    .doc = "Softmax attention itself, in quadratic time: the judge.",
    .takes = PF_TAKES_ALL,
    .drops = true,
    .options = exact_options,
    .n_options = PF_COUNT(exact_options),
    .state = &state_exact,
    .sums = &pf_sums_exact,
    .call = exact_call,
    .widths = exact_widths,
    .open = exact_open,
    .prefill = exact_prefill,
    .no_part = "has no state of fixed size to hand from slice to slice; train in slices with "
               "linear attention or windows",
    .merge = exact_merge,
    .flops = exact_flops,
    .from_length = exact_from_length,
};
