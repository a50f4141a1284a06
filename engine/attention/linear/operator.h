/*
 * operator.h - the one linear-attention operator, as its files share it.
 *
 * With features phi(q_i) = e^(s_i) q'_i and phi(k_j) = e^(l_j) k'_j (paper, eq. 4, 11):
 *
 *     out_i = sum_j w_ij v_j / sum_j w_ij,   w_ij = e^(l_j - M_i) q'_i . k'_j
 *
 * e^(s_i) cancels. M_i is the maximum of l over the keys that query i sees: every factor is at
 * most 1. State: S = sum_j e^(l_j - M) k'_j v_j^T (r, dv), z = sum_j e^(l_j - M) k'_j (r) and
 * M, one scalar a head. A row whose denominator is below PF_TINY_DENOMINATOR has no key in
 * reach: its output and gradients are 0.
 *
 * Who sees whom: all keys (full), or keys 1 .. n_i (causal: n_i = i; a staircase: any n_i; a
 * prefix: n_i = max(i, prefix)), in each segment on its own. Queries go by their n_i, so that
 * they meet the running state where it holds just the chunks before their last key's.
 *
 * A head may forget: with a decay D >= 0 a token, w_ij has the factor e^(-D (n_i - j)): the
 * query stands at the last key that it sees. In the block it is D j added to l_j, with M in the
 * same coordinates, and M moves down by D rows when the next block begins, so no number grows
 * with the sequence.
 *
 * Grouped heads: H query heads on Hk heads of keys, values, projection, decay and state; query
 * head h reads key head h / (H / Hk). One task is one key head of one segment, with all query
 * heads of its group, so the group's features of keys are made once and the gradients of its
 * keys are summed head after head.
 *
 * All products run on blocks of `block` rows that start at the segment's first row, so a
 * row's bits depend on its own sequence up to its last key, and nothing else: block_gemm's bits
 * do not depend on the shape, and where the BLAS stands in, short blocks are padded with empty
 * rows (features 0, log-shift -inf).
 */
#ifndef PF_OPERATOR_H
#define PF_OPERATOR_H

#include "gemm.h"
#include "kernel_attrs.h"
#include "reach.h"

#define PF_TINY_DENOMINATOR 0x1p-80f

/* Rows a product takes, multiples of the register tiles' 6 and 12. Measured (DIARY.md): the
 * causal part costs C (r + dv) a token, small blocks cost GEMM rate. */
enum { PF_FULL_BLOCK = 132, PF_CAUSAL_BLOCK = 48 };

/* Keys between two states that a causal forward saves for its backward: 4,128. */
enum { PF_SPAN_CHUNKS = 86, PF_SPAN = PF_SPAN_CHUNKS * PF_CAUSAL_BLOCK };

/* Inputs of the operator's two rows after those of pf_reach: an entry state, and favor's kernel. */
enum {
    PF_IN_ENTRY_S = PF_REACH_INPUTS,
    PF_IN_ENTRY_Z,
    PF_IN_ENTRY_SHIFT,
    PF_LINEAR_INPUTS,
    PF_IN_KERNEL = PF_LINEAR_INPUTS,
    PF_FAVOR_INPUTS = PF_IN_KERNEL + PF_KERNEL_INPUTS
};
/* Their attributes, and favor's kernel after them. */
enum { PF_A_CAUSAL, PF_A_STATE, PF_LINEAR_ATTRS, PF_A_KERNEL = PF_LINEAR_ATTRS };
enum { PF_OUT, PF_OUT_EXIT_S, PF_OUT_EXIT_Z, PF_OUT_EXIT_SHIFT, PF_LINEAR_OUTPUTS };

/* One run of the operator: sizes, who reads what, and where results go. favor.c fills it from the
 * op's call, whose temporaries its pointers are; everything else only reads it, from many threads
 * at once (`wave` alone is set by wave.c, before its threads start). Tasks write to rows of their
 * own: out, denominator, running, saved, exit and gradients need no lock. */
typedef struct pf_operator {
    pf_engine *engine;
    pf_encoding encoding; /* of queries and keys; d, m, r are repeated here */
    int64_t B, H, Hk, group, Lq, Lk, d, dv, m, r; /* group: query heads a key head */
    int64_t block;                                /* rows a product takes */
    bool causal; /* queries see a first part of their segment's keys */
    bool wave;   /* runs as one: what a span holds is shared (wave.c) */
    pf_heads q, k, v, out;
    pf_reach reach;
    const pf_tensor *mask; /* (B, Lk), f32 or i32; NULL */
    const float *decay;    /* (Hk) log-decay a token, causal; NULL: none */
    /* What a backward starts from: written forward, read backward, kept between them by the call's
     * saved tensors (favor.c). */
    float *denominator; /* (B, H, Lq); 0: no key in reach */
    float *running;     /* (B, Hk, Lk): M_j; causal */
    float *saved;       /* states of spans or key heads; NULL: none */
    /* The state before the first key and after the last: (B, Hk, r, dv), (B, Hk, r), (B, Hk). */
    const float *entry_s, *entry_z, *entry_shift;
    float *exit_s, *exit_z, *exit_shift;
    /* Backward: gradients that came, and those that are wanted. */
    pf_heads dout, dq, dk, dvalue;
    bool need_q, need_k, need_v;
    const float *dexit_s, *dexit_z;
    float *dentry_s, *dentry_z;
} pf_operator;

/*
 * The running task: one segment of one key head, with its work space. One thread owns it.
 *
 * Keys and queries have `block` rows each, of which the first `keys` and `queries` are real, and
 * k_rows and q_rows are those that products take (pf_block_rows). Rows between are empty: features
 * 0, log-shift -inf, so that they add nothing. Rows behind are undefined.
 *
 * A block goes through in this order: keys and values are loaded; the queries that see their last
 * key here are loaded against them, head after head of the group; then the keys join the state.
 * So within a chunk the keys' part stays while the queries' is filled again and again.
 */
typedef struct pf_work {
    /* What the task is: pf_work_open sets it. The schedules move `head` through the group. */
    const pf_operator *op;
    const pf_kern *kern;
    const pf_segment *seg;
    int64_t item, kv, head; /* kv: key head; head: query head */
    pf_encoder encoder;     /* of this key head */
    float decay;            /* of this head; positions count from the block's first row */

    /* The state before the running block, at scale e^M: pf_work_load_state, then pf_work_absorb
     * or, in a wave and backward, wherever s and z are pointed. */
    float *s, *z; /* (r, dv), (r) */
    float M;

    /* The loaded keys: pf_work_keys and pf_work_values. `run` is causal.c's, forward from the
     * keys, backward from what the forward saved; `leave` and vs stand after they were summed
     * (sums.c), or made for their gradients. Pulling dk overwrites xk. Full attention puts values
     * that are not finite back into v: there everybody sees them. */
    int64_t first, keys, k_rows; /* first: of the segment */
    float *xk, *fk;              /* (block, d) scaled, (block, r) */
    float *v, *vs;               /* (block, dv): values, 0 where not finite; the same, scaled */
    float *shift, *run, *leave;  /* l, M up to the row, e^(l - M_out) */
    int32_t *bad;                /* rows of v that are not finite */
    int64_t n_bad;

    /* The loaded queries: pf_work_queries, then pf_causal_load says what they see. They come in
     * the order of what they see, so `sees` ascends. Pulling dq overwrites xq. */
    int64_t queries, q_rows;
    int32_t *at, *sees; /* position in the item; keys of the block that it sees */
    float *xq, *fq;     /* (block, d) scaled, (block, r) */
    float *top, *e;     /* causal: M_i, e^(M - M_i): of what the state holds for query i */

    /* Their answers (forward), or what came back for them: pf_work_answer reads o and den,
     * pf_work_cotangents makes g and rho. Backward o is free, and takes a part of dvalue. */
    float *den, *rho;
    float *o, *g; /* (block, dv) */

    /* Causal: (queries, keys) of the chunk, A and B of the formulas (stair.c). */
    float *a, *b;  /* (block, block) */
    float *factor; /* (block): e^(l - M_i) of one query */

    /* Of one function: nothing stands here from one call to the next. */
    float *half, *coef; /* (block) */

    /* Backward: gradients of the loaded rows, before and after the map's pull. */
    float *df, *dk; /* (block, r): of queries' and of keys' features */
    float *dvalue;  /* (block, dv) */

    /* Sums of one block, before they join (sums.c). */
    float *ds, *dz; /* (r, dv) where the BLAS makes it, (r) */

    /* Backward: the cotangent of the state behind the running block, T and y. The causal schedule
     * makes a chunk's own part in the other place, t2, and swaps the two. */
    float *t, *y; /* (r, dv), (r) */
    float *t2;    /* (r, dv), then (r) */

    /* Causal backward, a span at a time: what its sweep forward left for its way back. In a wave
     * both are shared, and lie there. */
    float *states; /* before each chunk, (r, dv) and (r) */
    float *known;  /* the same chunks' fk and shift */

    pf_packed packed; /* full backward: S, then T; strips NULL where few rows come */
    float *panel;     /* of block_gemm */
} pf_work;

/* ---- reference.c: full attention by the stabiliser of published versions ---- */
/* given (PF_LINEAR_INPUTS): inputs of the attention. */
int pf_reference_call(pf_tensor **out, pf_engine *e, const pf_kernel *kernel,
                      pf_tensor *const *given);

/* ---- block.c: what full and causal share ---- */
size_t pf_work_bytes(const pf_operator *op, bool backward);
void pf_work_open(pf_work *w, const pf_operator *op, int64_t task, void *scratch, bool backward);
static inline int64_t pf_work_tasks(const pf_operator *op) { return op->reach.n * op->Hk; }
/* C (m, n) = op(A) op(B) + beta C, contiguous but for ldc and the operands' own strides. */
void pf_work_gemm(pf_work *w, bool ta, bool tb, int64_t m, int64_t n, int64_t k, const float *a,
                  int64_t lda, const float *b, int64_t ldb, float beta, float *c, int64_t ldc);
/* Keys first .. of the segment: xk, fk, shift, masked; then v, bad. */
void pf_work_keys(pf_work *w, int64_t first);
void pf_work_values(pf_work *w, int64_t first);
/* fk and shift stand in pf_known_floats floats that last: pf_work_keys writes them there once,
 * and pf_work_known_keys loads the rest beside them. */
void pf_work_point_known(pf_work *w, float *known);
void pf_work_known_keys(pf_work *w, int64_t first);
/* Chunks of the longest span. */
static inline int64_t pf_span_chunks(const pf_operator *op) {
    return pf_max(1, pf_min(PF_SPAN_CHUNKS, pf_ceil_div(op->reach.longest, op->block)));
}
static inline int64_t pf_known_floats(const pf_operator *op) {
    return pf_round_up(op->block * op->r + op->block, 16);
}
/* n queries of the segment, from place `first` of its queries on: at, and xq, fq. `sees` is
 * the caller's. */
void pf_work_queries(pf_work *w, int64_t first, int64_t n);
/* vs (block, dv) <- e^(l - M_out) v, by `leave`. */
void pf_work_scale_values(pf_work *w);
/* Divides o by den and writes out and the denominators of the loaded queries. */
void pf_work_answer(pf_work *w);
/* g (block, dv) <- dout / R, rho <- -(dout . out) / R of the loaded queries; past the end 0. */
void pf_work_cotangents(pf_work *w);
/* w->df + rho z^T or, for keys, w->dk + leave y^T is dLoss/dfeatures: rows of dst = scale (dU W
 * + coef x). */
void pf_work_pull_queries(pf_work *w);
void pf_work_pull_keys(pf_work *w, const float *y);
/* e^(a - b); 0 when a is -inf, 1 when both are the same number. */
float pf_decay(float a, float b);
/* y (n) <- e^(x - b), b -inf as 0. */
void pf_decays(const pf_work *w, int64_t n, const float *x, float b, float *y);

/* ---- sums.c ---- */
void pf_work_load_state(pf_work *w);
void pf_work_store_state(const pf_work *w);
/* S, z <- e^(M - to) S, z + sum_j e^(l_j - to) k'_j (v_j, 1) of the loaded keys; M <- to. Values
 * that are not finite come last. */
void pf_work_absorb(pf_work *w, float to);
/* The same in two steps and another place: s, z <- the keys' own sum, when S is not yet there;
 * then s, z += e^(M - to) S, z. */
void pf_work_own(pf_work *w, float to, float *s, float *z);
void pf_work_join(const pf_work *w, float to, float *s, float *z);
/* T, y <- the exit state's gradient at the segment's end, or 0. */
void pf_work_load_cotangent(pf_work *w);
/* factor * (T, y) is the gradient of the entry state. */
void pf_work_store_cotangent(const pf_work *w, float factor);
/* T <- beta T + sum_i q'_i g_i^T, y <- beta y + sum_i rho_i q'_i of the loaded queries, with g
 * and rho (block) given. */
void pf_work_collect(pf_work *w, const float *g, const float *rho, float beta);
/* T, y += beta (t, y), what stood there before a block's own. */
void pf_work_join_cotangent(const pf_work *w, float beta, const float *t, const float *y);

/* ---- stair.c: products with a (queries, keys) matrix of which row i has sees[i]
 * entries and zeros behind ---- */
/* c (queries, keys; block) <- x y^T on the stair; x (queries, n), y (keys, n). */
void pf_stair_scores(pf_work *w, int64_t n, const float *x, const float *y, float *c);
/* Row i of c times e^(l_j - M_i), 0 behind its stair, 0 for masked keys; sum (may be NULL)
 * of each row. */
void pf_stair_decay(pf_work *w, float *c, float *sum);
/* to (queries, n) += c y;  to (keys, n) += c^T x */
void pf_stair_apply(pf_work *w, const float *c, int64_t n, const float *y, float *to);
void pf_stair_turned(pf_work *w, const float *c, int64_t n, const float *x, float *to);

/* ---- full.c: blocks, for the wave ---- */
/* Loads a block of keys; the running maximum with them. */
float pf_full_keys(pf_work *w, int64_t first);
void pf_full_answer(pf_work *w, int64_t first, int64_t n);
/* beta: of T, y. */
void pf_full_back_queries(pf_work *w, int64_t first, int64_t n, float beta);
void pf_full_back_keys(pf_work *w, int64_t first);

/* ---- causal.c, causal_back.c: chunks, for the wave ---- */
/* Loads the chunk of keys; run, from M. Returns M after it. */
float pf_causal_keys(pf_work *w, int64_t first);
/* Its queries against S, z, M and its keys; keeps what the backward starts from. */
void pf_causal_answer(pf_work *w);
/* Loads the chunk of keys again, with M and run as they were; known: fk and shift stand where w
 * points. Returns M after it. */
float pf_causal_keys_again(pf_work *w, int64_t first, bool known);
/* The state before the span at key `from` > 0. */
void pf_causal_kept(pf_work *w, int64_t from, float *s, float *z);
/* dq; dk, dvalue and T, y <- the chunk's own parts of them (0 where need be). */
void pf_causal_back_queries(pf_work *w);
/* dk, dvalue += what comes from later chunks by T, y; writes them out. */
void pf_causal_back_keys(pf_work *w, const float *t, const float *y);
/* Places of the segment's queries that see their last key in the block at `first`: from the
 * returned one on, *n. */
int64_t pf_causal_queries(const pf_work *w, int64_t first, int64_t *n);
/* The same for n of them from place `at` on: loads them, with sees, top and e. */
void pf_causal_load(pf_work *w, int64_t at, int64_t n);
static inline int64_t pf_causal_chunks(const pf_work *w) {
    return pf_max(pf_ceil_div(w->seg->length, w->op->block), 1);
}

/* ---- the schedules ---- */
int pf_wave_run(pf_operator *op, bool backward);
/* pf_task_fn over (segment, key head) */
void pf_full_forward(void *op, int64_t task, void *scratch);
void pf_full_backward(void *op, int64_t task, void *scratch);
void pf_causal_forward(void *op, int64_t task, void *scratch);
void pf_causal_backward(void *op, int64_t task, void *scratch);

/* Runs the operator: a task a (segment, key head) where those are many, else a wave (run.c). */
int pf_linear_run(pf_operator *op, bool backward);

#endif
