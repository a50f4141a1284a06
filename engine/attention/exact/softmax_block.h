/*
 * softmax_block.h - exact softmax attention on one tile: up to 128 queries of a head against up to
 * 128 keys. Which tiles meet, and what a query sees of one, is said by whoever walks them: exact.c
 * takes all, sparse/listed.c those of a pattern.
 *
 * Of each tile, with the keys that query i sees in it,
 *
 *     p (queries, keys) = softmax of the scores of these keys alone,  b_i its log-sum-exp
 *     t_i = log(e^(a_i) + e^(b_i)),  o_i <- e^(a_i - t_i) o_i + e^(b_i - t_i) (p v)_i,  a_i <- t_i
 *
 * where o_i is the answer from the keys so far, normalised, and a_i their log-sum-exp: every
 * factor is at most 1, and o_i is right after each tile. On the way back, P_ij = e^(s_ij - a_i),
 *
 *     dS_ij = P_ij (dout_i . v_j - dout_i . out_i)
 *     dq = scale dS k,  dk = scale dS^T q,  dv = P^T dout.
 *
 * A score may gain a number of its distance (`relative`), whose gradient is dS itself.
 *
 * Dropout acts on weights where they meet values, and so on P in dv and on dout_i . v_j in dS; sums
 * of weights, and dout_i . out_i, stay as they are.
 *
 * What must hold: products have one fixed shape where the BLAS computes them, so that a row's bits
 * are its own; what a query may not see is set to -inf before the exponential, and rows that are
 * not finite (values; on the way back keys and queries too) join pair by pair, so that nothing
 * leaks from what is not seen; rows past the end are 0 and see nothing.
 */
#ifndef PF_SOFTMAX_BLOCK_H
#define PF_SOFTMAX_BLOCK_H

#include "dropout.h"
#include "reach.h"

/* The attributes that ops of exact softmax begin with. */
enum { PF_SOFTMAX_CAUSAL, PF_SOFTMAX_SCALE, PF_SOFTMAX_DROPOUT, PF_SOFTMAX_DRAW, PF_SOFTMAX_ATTRS };
/* clang-format off */
#define PF_SOFTMAX_ATTR_ROWS                                                                       \
    {"causal", PF_ATTR_BOOL, 0, false, NULL, "query i sees keys 1 .. i + Lk - Lq"},                \
    {"scale", PF_ATTR_FLOAT, 0, false, NULL, "of the scores; 0: 1 / sqrt(d)"},                     \
    {"dropout", PF_ATTR_FLOAT, 0, false, NULL, "share of weights dropped, 0 <= p < 1"},            \
    {"draw", PF_ATTR_INT, 0, false, NULL, "which mask of dropout"}
/* clang-format on */

/* A call: what all its tiles share. */
typedef struct pf_softmax {
    const pf_kern *kern;
    int64_t B, H, Hk, group, Lq, Lk, d, dv;
    float scale;
    bool causal;
    pf_heads q, k, v, out, dout, dq, dk, dvalue;
    bool need_q, need_k, need_v;
    const pf_tensor *mask;
    const float *decay; /* (Hk); NULL: none */
    bool dropped;       /* weights are, by `drops` */
    pf_drops drops;
    float *lse; /* (B, H, Lq) */
    pf_reach reach;
    int64_t skipped, kept; /* of a stream: keys from place `kept` on stand `skipped` further */
    /* What the score of a query and the key D places before its last one gains: relative[D], of
     * D < distances; 0: there is none. */
    int64_t distances;
    pf_heads relative, drelative; /* (B, H, Lq, distances) */
    bool need_relative;
} pf_softmax;

/* Rows of a tile in their segment: `at` (n) if it is there, else `first` and those behind it. */
typedef struct pf_places {
    int64_t n, first;
    const int32_t *at;
} pf_places;

static inline int64_t pf_place_at(const pf_places *p, int64_t i) {
    return p->at ? p->at[i] : p->first + i;
}

/*
 * One tile, and what grows over the tiles that share its queries or its keys. Forward o and lse
 * gather what the keys so far give. On the way back o and g are out and dout of the loaded
 * queries; dk and dvalue grow over the queries of the loaded keys, dq in the gradient itself.
 */
typedef struct pf_tile {
    const pf_softmax *op;
    const pf_kern *kern;
    const pf_segment *seg;
    int64_t head, kv; /* of queries, and of keys */
    pf_places queries, keys;
    /* Set by who walks: query i sees columns from[i] .. to[i] - 1, but for those that the key mask
     * takes and, where there is one, cut (PF_TILE, PF_TILE) marks. hides: there is something else
     * than the mask to hide. */
    int32_t from[PF_TILE], to[PF_TILE];
    const uint8_t *cut;
    bool hides;
    int32_t sees[PF_TILE]; /* how many keys of the segment each query sees: n_i, reach.h */
    int64_t most, least;   /* of these, over the queries that are there */
    float lse[PF_TILE], tile_lse[PF_TILE], delta[PF_TILE];
    bool keep[PF_TILE], keeps_all; /* by the key mask */
    /* Columns whose values, columns whose keys and, on the way back, rows that are not finite. */
    int32_t bad[PF_TILE], bad_keys[PF_TILE], bad_rows[PF_TILE];
    int64_t n_bad, n_bad_keys, n_bad_rows;
    float *q, *k, *v;   /* (PF_TILE, d), (PF_TILE, d), (PF_TILE, dv); q scaled, v finite */
    float *p, *dp;      /* (PF_TILE, PF_TILE) */
    float *o, *part;    /* (PF_TILE, dv) */
    float *dk, *dvalue; /* (PF_TILE, d), (PF_TILE, dv) */
    float *dq;          /* (PF_TILE, d) */
    float *dq_sum;      /* where dq grows; NULL: in the gradient */
    float *g;           /* (PF_TILE, dv) */
    float *panel;       /* of block_gemm */
} pf_tile;

/* ---- softmax_call.c: a call ---- */
/* Shapes of inputs and output, and the attributes. */
int pf_softmax_shape(pf_call *c);
/* All but outputs and gradients. seed: of dropout. */
int pf_softmax_open(pf_softmax *op, pf_call *c, uint64_t seed);
/* Makes out and, as saved[0], lse; the seed becomes saved[1] where weights are dropped. */
int pf_softmax_outputs(pf_softmax *op, pf_call *c);
/* For the backward: what the forward left, and where gradients go; made: dq, dk, dv where they have
 * to be given in the end. */
int pf_softmax_open_back(pf_softmax *op, pf_call *c, pf_tensor *made[3]);
int pf_softmax_give(pf_call *c, pf_tensor *const made[3]);
/* Causal without limits query i of a segment sees i + 1 + ahead keys: the last one sees all. */
static inline int64_t pf_tile_ahead(const pf_segment *seg) { return seg->length - seg->q_length; }
/* How many keys query i of a segment sees. */
int64_t pf_softmax_limit(const pf_softmax *op, const pf_segment *seg, int64_t i);
/* What dropout makes of the weight of query i and key j of a segment: a factor, or 0. */
float pf_softmax_factor(const pf_softmax *op, const pf_segment *seg, int64_t head, int64_t i,
                        int64_t j);

/* ---- softmax_block.c: a tile ---- */
size_t pf_tile_bytes(const pf_softmax *op); /* of `scratch` */
void pf_tile_open(pf_tile *t, const pf_softmax *op, int64_t segment, int64_t head, void *scratch);
/* Which queries, and what they see; then loads them (scaled), for the backward with dout, out, lse
 * and delta. */
void pf_tile_queries(pf_tile *t, pf_places queries);
void pf_tile_load(pf_tile *t);
void pf_tile_load_back(pf_tile *t);
/* Which keys: loads them and their values. */
void pf_tile_keys(pf_tile *t, pf_places keys);

/* The answer so far: nothing, what is in the outputs, and into them. */
void pf_tile_begin(pf_tile *t);
void pf_tile_resume(pf_tile *t);
void pf_tile_put(const pf_tile *t);
/* The loaded keys join the answer; or other keys, of which o (PF_TILE, dv) is the answer and lse
 * (PF_TILE) the log-sum-exp. */
void pf_tile_join(pf_tile *t);
void pf_tile_join_sum(pf_tile *t, const float *o, const float *lse);

/* p <- P as v meets it, dp <- dS of the loaded queries and keys; then, of those asked for, rows of
 * dq += scale dS k, and dk and dvalue grow. */
void pf_tile_weights_back(pf_tile *t);
void pf_tile_spread(pf_tile *t, bool queries, bool keys);
/* dS goes to the distances of its pairs. */
void pf_tile_spread_distances(const pf_tile *t);
/* Rows of the gradient of the loaded queries += factor dq (PF_TILE, d). */
void pf_tile_add_queries(const pf_tile *t, float factor, const float *dq);
/* dk and dvalue <- 0, and into their gradients. */
void pf_tile_begin_keys(pf_tile *t);
void pf_tile_put_keys(const pf_tile *t);

#endif
