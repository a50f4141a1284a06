/*
 * edge_scores.c - what an edge weighs before the softmax, a row each:
 *
 *     dot     s_ij = scale q_i . k_j
 *     gat     s_ij = LeakyReLU(q_i + k_j)        q, k (B, H, L, 1): the two halves a_1 . W h_i and
 *             a_2 . W h_j of "Graph Attention Networks" (Velickovic et al. 2018, equation 3)
 *     gatv2   s_ij = a . LeakyReLU(q_i + k_j)    q = W_1 h, k = W_2 h, a a vector for each head
 *             ("How Attentive are Graph Attention Networks?", Brody et al. 2022, equation 7)
 *
 * With z = q_i + k_j and l its LeakyReLU, l' = 1 where z > 0, else `slope`; on the way back from dS
 *
 *     dq_i = sum_j dS_ij a l'(z),   dk_j = sum_i dS_ij a l'(z),   da = sum dS_ij l(z)
 *
 * with the product channel by channel. gat is gatv2 of one channel with a = 1.
 */
#include "edges.h"

static const float *query_row(const pf_edge_work *w) {
    return pf_heads_row(&w->op->q, w->item, w->head, w->i);
}

static const float *key_row(const pf_edge_work *w, int64_t n) {
    return pf_heads_row(&w->op->k, w->item, w->kv, pf_edge_from(&w->op->graph, w->seen[n]));
}

/* ---- dot ---- */

static void weigh_dot(pf_edge_work *w) {
    int64_t d = w->op->d;
    w->kern->scale(d, w->op->scale, query_row(w), w->q);
    for (int64_t n = 0; n < w->n; n++) w->p[n] = w->kern->dot(d, w->q, key_row(w, n));
}

static void pull_query_dot(pf_edge_work *w, float *dq) {
    for (int64_t n = 0; n < w->n; n++) {
        w->kern->axpy(w->op->d, w->op->scale * w->dp[n], key_row(w, n), dq);
    }
}

static void pull_key_dot(pf_edge_work *w, float ds, const float *q, const float *k, float *dk) {
    (void)k;
    w->kern->axpy(w->op->d, w->op->scale * ds, q, dk);
}

/* ---- gat, gatv2 ---- */

/* l'(z): 1, or slope where z has a minus. Chosen by bits: a branch that signs of z decide is
 * guessed wrong half of the time, and keeps loops from becoming vectors. */
static inline float slope_at(float z, float slope) {
    union {
        float value;
        uint32_t bits;
    } x = {z}, one = {1}, below = {slope};
    uint32_t minus = 0u - (x.bits >> 31);
    one.bits = (one.bits & ~minus) | (below.bits & minus);
    return one.value;
}

static void weigh_gat(pf_edge_work *w) {
    float q = query_row(w)[0], slope = w->op->slope;
    for (int64_t n = 0; n < w->n; n++) {
        float z = q + key_row(w, n)[0];
        w->p[n] = z * slope_at(z, slope);
    }
}

static void pull_query_gat(pf_edge_work *w, float *dq) {
    float q = query_row(w)[0], sum = 0;
    for (int64_t n = 0; n < w->n; n++) {
        sum += w->dp[n] * slope_at(q + key_row(w, n)[0], w->op->slope);
    }
    dq[0] += sum;
}

static void pull_key_gat(pf_edge_work *w, float ds, const float *q, const float *k, float *dk) {
    dk[0] += ds * slope_at(q[0] + k[0], w->op->slope);
}

/* z (d) <- LeakyReLU(q + k) */
static void add_leaky(int64_t d, float slope, const float *restrict q, const float *restrict k,
                      float *restrict z) {
    for (int64_t c = 0; c < d; c++) z[c] = (q[c] + k[c]) * slope_at(q[c] + k[c], slope);
}

/* to (d) += ds a l'(q + k) */
static void add_slopes(int64_t d, float slope, float ds, const float *restrict a,
                       const float *restrict q, const float *restrict k, float *restrict to) {
    for (int64_t c = 0; c < d; c++) to[c] += ds * a[c] * slope_at(q[c] + k[c], slope);
}

static const float *vector_of(const pf_edge_work *w) { return w->op->weight + w->head * w->op->d; }

static void weigh_gatv2(pf_edge_work *w) {
    int64_t d = w->op->d;
    for (int64_t n = 0; n < w->n; n++) {
        add_leaky(d, w->op->slope, query_row(w), key_row(w, n), w->z);
        w->p[n] = w->kern->dot(d, vector_of(w), w->z);
    }
}

static void pull_query_gatv2(pf_edge_work *w, float *dq) {
    int64_t d = w->op->d;
    for (int64_t n = 0; n < w->n; n++) {
        const float *k = key_row(w, n);
        add_slopes(d, w->op->slope, w->dp[n], vector_of(w), query_row(w), k, dq);
        add_leaky(d, w->op->slope, query_row(w), k, w->z);
        w->kern->axpy(d, w->dp[n], w->z, w->da);
    }
}

static void pull_key_gatv2(pf_edge_work *w, float ds, const float *q, const float *k, float *dk) {
    add_slopes(w->op->d, w->op->slope, ds, vector_of(w), q, k, dk);
}

const pf_edge_score pf_edge_scores[] = {
    [PF_SCORE_DOT] = {"dot", weigh_dot, pull_query_dot, pull_key_dot},
    [PF_SCORE_GAT] = {"gat", weigh_gat, pull_query_gat, pull_key_gat},
    [PF_SCORE_GATV2] = {"gatv2", weigh_gatv2, pull_query_gatv2, pull_key_gatv2},
};
