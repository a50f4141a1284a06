/*
 * linear.h - the one linear-attention operator, as its files share it.
 *
 * With features phi(q_i) = e^(s_i) q'_i and phi(k_j) = e^(l_j) k'_j (paper, eq. 4, 11):
 *
 *     out_i = sum_j w_ij v_j / sum_j w_ij,   w_ij = e^(l_j - M_i) q'_i . k'_j
 *
 * e^(s_i) cancels. M_i is the running maximum of l up to position i (causal) or over all
 * keys (full): every factor is at most 1. State: S = sum_j e^(l_j - M) k'_j v_j^T (r, dv),
 * z = sum_j e^(l_j - M) k'_j (r) and M, one scalar a head. A row whose denominator is
 * below PF_TINY_DENOMINATOR has no key in reach: its output and gradients are 0.
 *
 * A causal head may forget: with a decay D >= 0 a token, w_ij has the factor e^(-D (i - j)).
 * In the block it is D j added to l_j, with M in the same coordinates, and M moves down by
 * D rows when the next block begins, so no number grows with the sequence.
 *
 * All products run on blocks of `block` rows that start at the segment's first row, so a
 * row's bits depend on its own sequence up to it, and nothing else: block_gemm's bits do not
 * depend on the shape, and where the BLAS stands in, short blocks are padded with empty rows
 * (features 0, log-shift -inf).
 */
#ifndef PF_LINEAR_H
#define PF_LINEAR_H

#include "gemm.h"
#include "kern.h"
#include "maps.h"

#define PF_TINY_DENOMINATOR 0x1p-80f

/* Rows a product takes. Measured (README, speed diary): the causal part costs C (r + dv)
 * a token, small blocks cost GEMM rate. */
enum { PF_FULL_BLOCK = 128, PF_CAUSAL_BLOCK = 64 };

/* An independent sequence: positions start .. start + length - 1 of batch item b. */
typedef struct pf_segment {
    int32_t item;
    bool first, last; /* takes the entry state, gives the exit state */
    int64_t start, length;
} pf_segment;

typedef struct pf_segments {
    pf_segment *list;
    int64_t n;
    size_t bytes;
} pf_segments;

/* A (B, H, L, width) tensor: base pointer and element strides; the last stride is 1. */
typedef struct pf_rows {
    float *data;
    int64_t item, head, row; /* strides */
    int64_t width;
} pf_rows;

static inline float *pf_rows_at(const pf_rows *r, int64_t item, int64_t head, int64_t row) {
    return r->data + item * r->item + head * r->head + row * r->row;
}

typedef struct pf_operator {
    pf_engine *engine;
    const pf_map *map;
    pf_map_args args;
    int64_t B, H, Lq, Lk, d, dv, m, r, block;
    float scale;
    bool causal, projected;
    const float *projection; /* (m, d) or (H, m, d) */
    int64_t projection_head; /* stride between heads, 0 when shared */
    pf_rows q, k, v, out;
    const pf_tensor *mask;   /* (B, Lk), f32 or i32; NULL */
    const float *decay;      /* (H) log-decay a token, causal; NULL: none */
    float *denominator;      /* (B, H, Lq) */
    float *running;          /* (B, H, Lk): M_j; (B, H) at the last row for full */
    const float *entry_s, *entry_z, *entry_shift; /* (B, H, r, dv), (B, H, r), (B, H) */
    float *exit_s, *exit_z, *exit_shift;
    pf_segments segments;
    /* backward */
    pf_rows dout, dq, dk, dvalue;
    bool need_q, need_k, need_v;
    const float *dexit_s, *dexit_z;
    float *dentry_s, *dentry_z;
} pf_operator;

/* The running task: one segment of one head, with its work space. */
typedef struct pf_work {
    const pf_operator *op;
    const pf_kern *kern;
    const pf_segment *seg;
    int64_t item, head;
    const float *w;
    float *s, *z;            /* state (r, dv), (r) */
    float M;
    float decay;             /* of this head; positions count from the block's first row */
    /* blocks of `block` rows */
    float *x, *x2;           /* (block, d) scaled queries, scaled keys */
    float *fq, *fk;          /* (block, r) */
    float *a;                /* (block, block) */
    float *b;                /* (block, block) */
    float *v;                /* (block, dv): values, 0 where not finite */
    float *vs;               /* (block, dv) */
    float *o;                /* (block, dv) */
    float *g;                /* (block, dv) */
    float *df;               /* (block, r) */
    float *t, *y;            /* (r, dv), (r) */
    float *half, *shift, *run, *den, *e, *rho, *coef; /* (block) each */
    int32_t *bad;            /* rows of v that are not finite */
    int64_t n_bad;
    int64_t rows;            /* of the running block that products take (pf_block_rows) */
    float *panel;            /* of block_gemm */
} pf_work;

/* linear_block.c: what full and causal share */
size_t pf_work_bytes(const pf_operator *op, bool backward);
void pf_work_open(pf_work *w, const pf_operator *op, int64_t task, void *scratch, bool backward);
/* Starts the block at row `first` of the segment: sets rows. */
void pf_work_begin(pf_work *w, int64_t first);
/* C (m, n) = op(A) op(B) + beta C, contiguous but for ldc and the operands' own strides. */
void pf_work_gemm(pf_work *w, bool ta, bool tb, int64_t m, int64_t n, int64_t k, const float *a,
                  int64_t lda, const float *b, int64_t ldb, float beta, float *c, int64_t ldc);
/* rows first .. first+rows-1 of the segment -> x (scaled), features f, shift (rows) */
void pf_work_queries(pf_work *w, int64_t first);
void pf_work_keys(pf_work *w, int64_t first);
/* v (block, dv) <- values, with rows that are not finite listed in bad and zeroed. */
void pf_work_values(pf_work *w, int64_t first);
void pf_work_load_state(pf_work *w);
void pf_work_store_state(const pf_work *w);
/* e^(a - b); 0 when a is -inf. */
float pf_decay(float a, float b);
/* S, z <- e^(M - to) S, z; M <- to. */
void pf_work_rescale(pf_work *w, float to);
/* S += k'^T (e^(l - M) v), z += ... for the block in fk, shift, v. */
void pf_work_absorb(pf_work *w);
/* g (block, dv) <- dout / R, rho <- -(dout . out) / R; rows past the end 0. */
void pf_work_cotangents(pf_work *w, int64_t first);
/* df holds dLoss/dfeatures of the block f, x: dst rows += or = scale * (dU W + coef x). */
void pf_work_pull(pf_work *w, pf_side side, int64_t first, const float *f, float *x,
                  const pf_rows *dst);
static inline int64_t pf_work_rows(const pf_work *w, int64_t first) {
    return pf_min(w->op->block, w->seg->length - first);
}

/* linear_full.c, linear_causal.c: pf_task_fn over (segment, head) */
void pf_full_forward(void *op, int64_t task, void *scratch);
void pf_full_backward(void *op, int64_t task, void *scratch);
void pf_causal_forward(void *op, int64_t task, void *scratch);
void pf_causal_backward(void *op, int64_t task, void *scratch);

/* segments.c */
int pf_segments_make(pf_segments *s, pf_engine *e, int64_t B, int64_t L,
                     const pf_tensor *documents);
void pf_segments_free(pf_segments *s, pf_engine *e);
/* mask (B, L) at one position; NULL: kept. */
bool pf_mask_keeps(const pf_tensor *mask, int64_t item, int64_t position);

/* favor.c: the attributes of a resolved kernel over attr (already at defaults). */
void pf_favor_attrs(pf_attr *attr, const pf_kernel *kernel, bool causal, bool state);

/* attend_shapes.c: shape rules that the attention ops share */
int pf_attend_shapes(pf_call *c, int64_t *width);
int pf_attend_masks(const pf_call *c, int mask, int documents);
int pf_attend_decay(const pf_call *c, int decay, bool causal);
pf_rows pf_rows_of(const pf_tensor *t);
/* *t: x with last stride 1, itself retained or a compact copy; rows: how to walk it. */
int pf_rows_ready(pf_engine *e, pf_tensor *x, pf_tensor **t, pf_rows *rows);
/* An output (B, H, L, width) laid out as (B, L, H, width), so heads merge without a copy. */
int pf_heads_output(pf_tensor **t, pf_engine *e, int64_t B, int64_t H, int64_t L, int64_t width);

#endif
