/*
 * partition.h - the softmax that stands alone, as its files share it: rows through the feature map
 * with their true size, and the sums over keys that normalise them.
 *
 * With phi(q_i) = e^(s_i) q'_i and phi(k_j) = e^(l_j) k'_j,
 *
 *     z_i = sum_j e^(l_j - M_i) k'_j,   M_i = max_j l_j,   R_i = q'_i . z_i,
 *     log sum_j phi(q_i).phi(k_j) = s_i + M_i + log R_i,   w_ij = e^(l_j - M_i) q'_i.k'_j / R_i
 *
 * over the keys j that query i sees. s_i holds what the map leaves out of its features because
 * it cancels in attention (m^(-1/2) of SM+, twice): here it counts. Sums over keys are in
 * double. With `exact` the same names stand for the softmax itself: M_i + log R_i is its
 * log-sum-exp of scale^2 q_i.k_j, and s_i is 0.
 */
#ifndef PF_PROBE_H
#define PF_PROBE_H

#include "operator.h"

enum { PF_PROBE_BLOCK = 128 }; /* rows that a product takes */

/* A kernel ready to encode rows of width d. */
typedef struct pf_encoder {
    const pf_kern *kern;
    const pf_map *map;
    pf_map_args args;
    int64_t d, m, r;
    float scale;
    const float *w;    /* (m, d) or (H, m, d); NULL: not projected */
    int64_t w_head;    /* stride between heads, 0 when shared */
    const float *tilt; /* (H), of tilted maps; NULL: `tilted` for all */
    double tilted;
} pf_encoder;

/* The encoder of one head, with work space for a block of rows: f becomes the features
 * (rows, r), shift their log-shifts. */
typedef struct pf_encoded {
    const pf_encoder *encoder;
    pf_map_args args;
    const float *w;
    float *x, *half, *f, *shift, *bias, *panel;
    float *u, *df, *coef; /* for the way back */
    int64_t rows;         /* that the products of this block take */
} pf_encoded;

/* W: contiguous, (m, d) or (H, m, d), or NULL. tilt: (H), contiguous, or NULL: the kernel's. */
int pf_encoder_open(pf_encoder *encoder, pf_engine *engine, const pf_kernel *kernel,
                    const pf_tensor *W, const pf_tensor *tilt, int64_t d);
/* What a head's block takes of the scratch; `backward`: to pull gradients too. */
size_t pf_encoded_bytes(const pf_encoder *encoder, bool backward);
void pf_encoded_open(pf_encoded *block, const pf_encoder *encoder, int64_t head, bool backward,
                     void **scratch);
/* Loads n <= PF_PROBE_BLOCK rows of x, scaled: row i is at[first + i], or first + i with at
 * NULL. Rows past the end become 0. */
void pf_encode_load(pf_encoded *block, const float *x, int64_t stride, const int64_t *at,
                    int64_t first, int64_t n);
/* The same, and encodes them. */
void pf_encode(pf_encoded *block, pf_side side, const float *x, int64_t stride, const int64_t *at,
               int64_t first, int64_t n);
/* block->df holds dLoss/dfeatures of the n encoded rows -> to (n rows, d; stride). */
void pf_encode_pull(pf_encoded *block, pf_side side, int64_t n, float *to, int64_t stride);

/* Sums over keys for chosen queries of every item and head. */
typedef struct pf_partition {
    pf_engine *engine;
    pf_encoder encoder;
    bool exact, causal; /* causal: the query at position p sees keys 0 .. p */
    int64_t B, H, Lk;
    pf_rows q, k;
    const pf_tensor *mask; /* (B, Lk); NULL */
    const int64_t *at;     /* (n) positions of the queries, ascending; NULL: 0 .. n-1 */
    int64_t n;
    double *size; /* s (B, H, n); NULL: not wanted */
    double *sum;  /* R (B, H, n); 0: no key in reach */
    float *top;   /* M (B, H, n); -inf: no key */
} pf_partition;

int pf_partition_run(pf_partition *p); /* fills size, sum, top */

/* The running sum over keys of one head. */
typedef struct pf_sweep {
    const pf_partition *p;
    int64_t item, head, at; /* at: of item and head together */
    int64_t r;
    pf_encoded q, k;
    double *z; /* (r) */
    float M;
    int64_t keys;        /* taken in so far */
    int64_t from, until; /* keys that k holds encoded */
} pf_sweep;
size_t pf_sweep_bytes(const pf_partition *p, bool backward);
void pf_sweep_open(pf_sweep *s, const pf_partition *p, int64_t task, bool backward, void **scratch);
void pf_sweep_take(pf_sweep *s, int64_t end); /* the keys before `end` that are not in yet */
double pf_sweep_sum(const pf_sweep *s, const float *f); /* R of a query; 0: no key in reach */

/* Scores scale^2 q.k of the loaded blocks into a (rows, keys; PF_PROBE_BLOCK). */
void pf_exact_scores(const pf_encoded *queries, const pf_encoded *keys, float *a);
/* The query of row i sees key j of item b. */
static inline bool pf_partition_sees(const pf_partition *p, int64_t b, int64_t i, int64_t j) {
    if (p->causal && j > (p->at ? p->at[i] : i)) return false;
    return pf_mask_keeps(p->mask, b, j);
}

/* Kernel options of a public call -> kernel, or exact. */
int pf_probe_kernel(pf_kernel *kernel, bool *exact, const pf_config *options, const pf_tensor *W,
                    int64_t head_dim, const char *where);

#endif
