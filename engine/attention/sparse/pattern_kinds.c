/*
 * pattern_kinds.c - see pattern_kinds.h: the kinds sliding, strided, fixed and bigbird, each a rule
 * (patterns.def) as an attention that a layer can have. Their options are the rule's.
 */
#include "pattern_kinds.h"

#include <math.h>

#include "listed.h"

int pf_pattern_kind_apply(pf_tensor **out, pf_engine *e, const pf_attention *a, double scale,
                          pf_tensor *const *in) {
    pf_tensor *all[PF_LISTED_INPUTS] = {NULL}, *words = NULL;
    pf_attr attr[PF_MAX_ATTR];
    pf_op_fill_defaults(&pf_op_listed_attention, attr);
    attr[PF_SOFTMAX_CAUSAL].i = a->causal;
    attr[PF_SOFTMAX_SCALE].f = scale;
    attr[PF_SOFTMAX_DROPOUT].f = a->dropout;
    attr[PF_SOFTMAX_DRAW].i = (int64_t)a->draw;
    for (int i = 0; i < PF_REACH_INPUTS; i++) all[i] = in[i];
    PF_TRY(pf_pattern_words(&words, e, a->kind->rule, a->option, NULL, 0));
    all[PF_LISTED_PATTERN] = words;
    all[PF_LISTED_BUCKETS] = a->buckets;
    int status = pf_apply(e, &pf_op_listed_attention, all, PF_LISTED_INPUTS, attr, out);
    pf_tensor_release(&words);
    return status;
}

int pf_pattern_kind_call(pf_tensor **out, pf_engine *e, const pf_attention *a, pf_tensor *const *in,
                         bool exit) {
    (void)exit;
    return pf_pattern_kind_apply(out, e, a, 0, in);
}

/* Scores and weighted values; the backward five products of their size. */
void pf_pattern_kind_work(const pf_attention_shape *shape, double keys, double *forward,
                          double *backward) {
    double all = (double)shape->length;
    keys = fmin(keys, shape->causal ? (all + 1) / 2 : all);
    double widths = (double)(shape->head_dim + shape->value_dim);
    *forward = 2 * keys * widths;
    *backward = 5 * keys * widths;
}

void pf_pattern_kind_flops(const pf_attention *a, const pf_attention_shape *shape, double *forward,
                           double *backward) {
    double keys = a->kind->rule->keys(a->option, (double)shape->length, shape->causal);
    pf_pattern_kind_work(shape, keys, forward, backward);
}

int pf_pattern_kind_fits(const pf_attention *a, bool causal, const pf_tensor *q,
                         const pf_tensor *k) {
    if (!a->kind->rule) return PF_OK;
    pf_ask ask = {.where = a->kind->name,
                  .option = a->option,
                  .Lq = q->shape[2],
                  .Lk = k->shape[2],
                  .causal = causal,
                  .ahead = k->shape[2] - q->shape[2]};
    return pf_pattern_fits(a->kind->rule, &ask);
}

/* A row of kinds.def. */
#define PATTERN_KIND(kind, text)                                                                   \
    const pf_attention_kind pf_kind_##kind = {                                                     \
        .name = #kind,                                                                             \
        .doc = text,                                                                               \
        .takes = PF_TAKES_ALL,                                                                     \
        .drops = true,                                                                             \
        .rule = &pf_pattern_rule_##kind,                                                           \
        .call = pf_pattern_kind_call,                                                              \
        .no_stream = "keeps no state yet that knows which keys it will be asked for",              \
        .no_part = "has no state to hand from slice to slice",                                     \
        .flops = pf_pattern_kind_flops,                                                            \
    }

PATTERN_KIND(sliding, "A window of keys around each query, dilated or not, and global tokens "
                      "(Longformer).");
PATTERN_KIND(strided, "A window, and every so many-th key before it (Sparse Transformer).");
PATTERN_KIND(fixed,
             "The query's own block, and the last keys of every block (Sparse Transformer).");
PATTERN_KIND(bigbird, "Blocks: a window of them, the first and last, and random ones (Big Bird).");
