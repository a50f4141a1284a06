/*
 * partition.h - the softmax that stands alone, as its files share it: the sums over keys that
 * normalise rows of weights, and how a kind of attention makes both.
 *
 * With phi(q_i) = e^(s_i) q'_i and phi(k_j) = e^(l_j) k'_j,
 *
 *     z_i = sum_j e^(l_j - M_i) k'_j,   M_i = max_j l_j,   R_i = q'_i . z_i,
 *     log sum_j phi(q_i).phi(k_j) = s_i + M_i + log R_i,   w_ij = e^(l_j - M_i) q'_i.k'_j / R_i
 *
 * over the keys j that query i sees. s_i holds what the map leaves out of its features because
 * it cancels in attention (m^(-1/2) of SM+, twice): here it counts. Sums over keys are in
 * double. For exact attention the same names stand for the softmax itself: M_i + log R_i is its
 * log-sum-exp of scale^2 q_i.k_j, and s_i is 0.
 */
#ifndef PF_PARTITION_H
#define PF_PARTITION_H

#include "attention.h"
#include "encoded.h"
#include "gemm.h"

/* A smaller denominator counts as no key in reach, as in the operator. */
#define PF_TINY_SUM 0x1p-80

/* Sums over keys for chosen queries of every item and head. */
typedef struct pf_partition {
    pf_engine *engine;
    const struct pf_sums *sums;
    pf_encoding encoding;
    bool causal; /* the query at position p sees keys 0 .. p */
    int64_t B, H, Lk;
    pf_heads q, k;
    const pf_tensor *mask; /* (B, Lk); NULL */
    const int64_t *at;     /* (n) positions of the queries, ascending; NULL: 0 .. n-1 */
    int64_t n;
    double *size;        /* s (B, H, n); NULL: not wanted */
    double *sum;         /* R (B, H, n); 0: no key in reach */
    float *top;          /* M (B, H, n); -inf: no key */
    atomic_int *stopped; /* pf_partition_tasks: why a task was broken off, or 0 */
} pf_partition;

/* A task is a head's rows, however many: between two blocks it looks whether to go on. */
static inline bool pf_partition_stopped(const pf_partition *p) {
    int status = pf_stopped(p->engine);
    if (status < 0) atomic_store(p->stopped, status);
    return status < 0;
}
/* A task for each head of each item. */
int pf_partition_tasks(pf_partition *p, size_t bytes, pf_task_fn task, void *context);

/* The way back: rho and gradients of log R (log_partition.c). */
typedef struct pf_partition_back {
    pf_partition p;
    bool need_q, need_k;
    const float *g; /* (B, H, n) */
    float *dq, *dk; /* (B, H, n, d), (B, H, Lk, d), contiguous */
} pf_partition_back;

/* How a kind of attention makes them; a task is one head of one item. */
typedef struct pf_sums {
    /* The encoding of a kernel, or of none with x = scale q (0: d^(-1/4)). */
    void (*encoding)(pf_encoding *encoding, const pf_kernel *kernel, const pf_kern *kern, int64_t d,
                     double scale);
    size_t (*bytes)(const pf_partition *p); /* of the scratch */
    pf_task_fn run;                         /* pf_partition: fills size, sum, top */
    size_t (*back_bytes)(const pf_partition_back *back);
    pf_task_fn back; /* pf_partition_back: fills dq, dk */
    bool back_reads; /* sum and top: they are made first */
    /* A block of rows as weights take it, its vectors (rows, width), and a weight from the
     * product of two of them, the key's log-shift, M and R. */
    void (*load)(pf_encoded *block, pf_side side, const float *x, int64_t stride, const int64_t *at,
                 int64_t first, int64_t n);
    const float *(*vectors)(const pf_encoded *block, int64_t *width);
    double (*weight)(float product, float shift, float top, double sum);
} pf_sums;

int pf_partition_run(pf_partition *p); /* fills size, sum, top */

/* The query of row i sees key j of item b. */
static inline bool pf_partition_sees(const pf_partition *p, int64_t b, int64_t i, int64_t j) {
    if (p->causal && j > (p->at ? p->at[i] : i)) return false;
    return pf_mask_keeps(p->mask, b, j);
}

/* What a public call says of its attention: options' kind and kernel bound for heads of d.
 * *bound (may be NULL afterwards) is the caller's. */
int pf_partition_attention(const pf_attention_kind **kind, pf_kernel **bound, pf_engine *e,
                           const char *attention, pf_kernel *kernel, int64_t d, int64_t heads,
                           const char *where);
/* Says that a kind's weights can't be told, and whose can. */
int pf_partition_untold(const pf_attention_kind *kind, const char *where);

#endif
