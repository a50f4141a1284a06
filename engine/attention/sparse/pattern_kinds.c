/*
 * pattern_kinds.c - see pattern_kinds.h: the kinds sliding, strided, fixed and bigbird, each a rule
 * (patterns.def) as an attention that a layer can have. Their options are the rule's.
 */
#include "pattern_kinds.h"

#include <math.h>

#include "listed.h"
#include "pattern_state.h"

int pf_pattern_kind_call(pf_tensor **out, pf_engine *e, const pf_attention *a, pf_tensor *const *in,
                         bool exit) {
    pf_tensor *all[PF_LISTED_INPUTS] = {NULL}, *words = NULL;
    pf_attr attr[PF_MAX_ATTR];
    (void)exit;
    pf_op_fill_defaults(&pf_op_listed_attention, attr);
    attr[PF_SOFTMAX_CAUSAL].i = a->causal;
    attr[PF_SOFTMAX_SCALE].f = pf_pattern_kind_scale(a);
    attr[PF_SOFTMAX_DROPOUT].f = a->dropout;
    attr[PF_SOFTMAX_DRAW].i = (int64_t)a->draw;
    for (int i = 0; i < PF_REACH_INPUTS; i++) all[i] = in[i];
    PF_TRY(pf_pattern_words(&words, e, a->kind->rule, a->option, NULL, 0));
    all[PF_LISTED_RELATIVE] = a->relative;
    all[PF_LISTED_PATTERN] = words;
    all[PF_LISTED_BUCKETS] = a->buckets;
    int status = pf_apply(e, &pf_op_listed_attention, all, PF_LISTED_INPUTS, attr, out);
    pf_tensor_release(&words);
    return status;
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

/* A row of kinds.def; behind its words what streams remember, and how it goes by parts of a row. */
#define PATTERN_KIND(kind, text, kept, prefill_of, merge_of, part_of, why, why_of)                 \
    const pf_attention_kind pf_kind_##kind = {                                                     \
        .name = #kind,                                                                             \
        .doc = (text),                                                                             \
        .takes = PF_TAKES_ALL,                                                                     \
        .drops = true,                                                                             \
        .rule = &pf_pattern_rule_##kind,                                                           \
        .call = pf_pattern_kind_call,                                                              \
        .state = &(kept),                                                                          \
        .open = pf_pattern_open,                                                                   \
        .widths = pf_pattern_widths,                                                               \
        .prefill = (prefill_of),                                                                   \
        .merge = (merge_of),                                                                       \
        .part = (part_of),                                                                         \
        .no_part = (why),                                                                          \
        .no_part_of = (why_of),                                                                    \
        .flops = pf_pattern_kind_flops,                                                            \
    }
/* Of rules that list keys anywhere before a query. */
#define KEEPS_ALL(kind, text)                                                                      \
    PATTERN_KIND(kind, text, pf_state_pattern, pf_pattern_prefill, pf_pattern_merge, NULL,         \
                 "keeps all keys of a row, and has no state of fixed size to hand from slice to "  \
                 "slice; train in slices with windows or linear attention",                        \
                 NULL)

PATTERN_KIND(sliding,
             "A window of keys around each query, dilated or not, and global tokens "
             "(Longformer).",
             pf_state_window, pf_window_prefill, pf_window_merge, pf_window_part, NULL,
             pf_window_no_part);
KEEPS_ALL(strided, "A window, and every so many-th key before it (Sparse Transformer).");
KEEPS_ALL(fixed, "The query's own block, and the last keys of every block (Sparse Transformer).");
KEEPS_ALL(bigbird, "Blocks: a window of them, the first and last, and random ones (Big Bird).");
