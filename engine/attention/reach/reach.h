/*
 * reach.h - who sees whom, said once for every kind of attention.
 *
 * A batch is cut into segments, independent sequences: items, or packed documents in them. In
 * its segment a query sees all keys, or the first n_i of them: its own place (causal), any
 * number (limits, a staircase) or max(i, prefix). A key mask takes keys out. A kind whose
 * queries see other sets of keys (a pattern) says so beside the limits, as a third way.
 *
 * All attention ops take these inputs in this order, and then their own.
 */
#ifndef PF_REACH_H
#define PF_REACH_H

#include "heads.h"

enum { PF_TILE = 128 }; /* queries or keys, at most, that one product takes of softmax attention */

enum {
    PF_IN_Q,
    PF_IN_K,
    PF_IN_V,
    PF_IN_MASK,
    PF_IN_DOCUMENTS,
    PF_IN_DECAY,
    PF_IN_LIMITS,
    PF_IN_PREFIX,
    PF_IN_CU_SEQLENS,
    PF_REACH_INPUTS
};
#define PF_REACH_ARGS "[mask], [documents], [decay], [limits], [prefix], [cu_seqlens]"

/* An independent sequence: keys start .. start + length - 1 of batch item `item`, and queries
 * q_start .. q_start + q_length - 1 of it (places in the order, where there is one). */
typedef struct pf_segment {
    int32_t item;
    bool first, last; /* takes the entry state, gives the exit state */
    int64_t start, length, q_start, q_length;
    int64_t spans; /* saved states of segments before this one */
} pf_segment;

/* The segments, and in each query's place how many keys of its segment it sees. Causal without
 * more: query i sees i + 1 keys, and neither array is made. */
typedef struct pf_reach {
    pf_segment *list;
    int64_t n, Lq;
    int64_t spans;   /* saved states of all segments */
    int64_t longest; /* segment, in keys */
    int32_t *limit;  /* (B, Lq); NULL */
    int32_t *order;  /* (B, Lq): queries of a segment by their limit, earlier ones first; NULL */
    int64_t queries; /* B Lq, that the arrays hold */
} pf_reach;

/* What says it: inputs of an op, each NULL where it was not given. */
typedef struct pf_reach_inputs {
    const char *op; /* its name, for messages */
    int64_t B, Lq, Lk;
    const pf_tensor *documents, *cu_seqlens, *limits, *prefix;
} pf_reach_inputs;

/* ---- shapes.c: what every attention op checks ---- */
/* q, k, v, with H a multiple of Hk, and the output's shape; *width: d. */
int pf_reach_rows(pf_call *c, int64_t *width);
/* mask, documents, limits, prefix, cu_seqlens; decay, which full attention does not take. */
int pf_reach_check(const pf_call *c, bool causal);
/* Refuses a decay (Hk) that is no number from 0 on. */
int pf_reach_decay(const pf_tensor *decay, const char *where);
/* Queries see a first part of the keys: `causal`, or a limit says so (a prefix is causal). */
static inline bool pf_reach_causal(const pf_call *c, bool causal) {
    return causal || c->in[PF_IN_LIMITS];
}

/* ---- segments.c, limits.c ---- */
/* Who sees whom in this call, whose temporaries the arrays are. span: keys between two saved
 * states, 0: none are counted; sorted: with `order`. */
int pf_reach_make(pf_reach *reach, pf_call *c, int64_t span, bool sorted);
/* Its second half: limit and order, where the inputs say how many keys a query sees. */
int pf_limits_make(pf_reach *reach, pf_call *c, const pf_reach_inputs *in, bool sorted);
/* mask (B, L) at one position; NULL: kept. */
bool pf_mask_keeps(const pf_tensor *mask, int64_t item, int64_t position);

#endif
