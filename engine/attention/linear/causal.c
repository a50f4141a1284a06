/*
 * causal.c - linear attention where query i sees keys 1 .. n_i, in chunks of keys (paper,
 * eq. 11 and appendix; the schedule is reference form (c): state between chunks, products
 * inside one). Plainly causal: n_i = i. A query belongs to the chunk that its last key is in:
 *
 *     out_i = [ e^(M_in - M_i) S^T q'_i + sum_(j <= n_i) A_ij v_j ] / R_i
 *     A_ij  = e^(l_j - M_i) q'_i . k'_j,   R_i likewise with z and 1 for S and v
 *     S    <- e^(M_in - M_out) S + sum_j e^(l_j - M_out) k'_j v_j^T
 *
 * With C keys a chunk a token costs r dv for the state and C (r + dv) for the chunk's own
 * products, instead of L (d + dv) for softmax attention: PF_CAUSAL_BLOCK is where that, and the
 * rate of products of C rows, are best together.
 *
 * M_i is the running maximum of l up to key n_i, so every factor is at most 1 and no query
 * meets what comes after: masked products are set to 0, not multiplied by 0, and values that
 * are not finite join row by row, after the products.
 */
#include <math.h>
#include <string.h>

#include "operator.h"

float pf_causal_keys(pf_work *w, int64_t first) {
    float top = w->M;
    pf_work_keys(w, first);
    pf_work_values(w, first);
    for (int64_t j = 0; j < w->keys; j++) {
        if (w->shift[j] > top) top = w->shift[j];
        w->run[j] = top;
    }
    return top;
}

/* ---- the queries of a chunk ---- */

/* Places of the segment's queries, in their order, that see at most `limit` keys. */
static int64_t queries_up_to(const pf_work *w, int64_t limit) {
    const pf_reach *reach = &w->op->reach;
    if (!reach->limit) return pf_min(limit, w->seg->q_length);
    int64_t place = w->item * reach->Lq + w->seg->q_start, low = 0, high = w->seg->q_length;
    while (low < high) {
        int64_t middle = (low + high) / 2;
        int64_t query = w->item * reach->Lq + reach->order[place + middle];
        if (reach->limit[query] <= limit) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

/* Queries that see no key at all belong to the first chunk: their answer is 0, or the entry
 * state's. */
int64_t pf_causal_queries(const pf_work *w, int64_t first, int64_t *n) {
    int64_t from = first > 0 ? queries_up_to(w, first) : 0;
    *n = queries_up_to(w, first + w->op->block) - from;
    return from;
}

/* A query that sees none of the chunk's keys has the M that the chunk began with. */
void pf_causal_load(pf_work *w, int64_t at, int64_t n) {
    const pf_reach *reach = &w->op->reach;
    pf_work_queries(w, at, n);
    for (int64_t i = 0; i < n; i++) {
        int64_t limit = reach->limit ? reach->limit[w->item * reach->Lq + w->at[i]] : at + i + 1;
        w->sees[i] = (int32_t)(limit - w->first);
        w->top[i] = w->sees[i] > 0 ? w->run[w->sees[i] - 1] : w->M;
        w->e[i] = pf_decay(w->M, w->top[i]);
    }
    for (int64_t i = n; i < w->q_rows; i++) w->e[i] = 0;
}

/* ---- forward ---- */

/* Values that are not finite reach the queries that see them. */
static void add_bad_values(pf_work *w) {
    const pf_operator *op = w->op;
    for (int64_t k = 0; k < w->n_bad; k++) {
        int64_t j = w->bad[k];
        const float *row = pf_heads_row(&op->v, w->item, w->kv, w->seg->start + w->first + j);
        for (int64_t i = 0; i < w->queries; i++) {
            if (w->sees[i] <= j) continue;
            w->kern->axpy(op->dv, w->a[i * op->block + j], row, w->o + i * op->dv);
        }
    }
}

/* n queries, from place `at` on, against the state before the chunk and the chunk's keys. */
static void answer_block(pf_work *w, int64_t at, int64_t n) {
    int64_t r = w->op->r, dv = w->op->dv;
    pf_causal_load(w, at, n);
    pf_work_gemm(w, false, false, w->q_rows, dv, r, w->fq, r, w->s, dv, 0, w->o, dv);
    w->kern->rows_dot(w->q_rows, r, r, w->fq, w->z, w->coef);
    pf_stair_scores(w, r, w->fq, w->fk, w->a);
    pf_stair_decay(w, w->a, w->den);
    for (int64_t i = 0; i < n; i++) {
        w->den[i] += w->e[i] * w->coef[i];
        if (w->e[i] != 1) w->kern->scale(dv, w->e[i], w->o + i * dv, w->o + i * dv);
    }
    pf_stair_apply(w, w->a, dv, w->v, w->o);
    add_bad_values(w);
    pf_work_answer(w);
}

static void answer_chunk(pf_work *w) {
    int64_t C = w->op->block, n, from = pf_causal_queries(w, w->first, &n);
    for (int64_t g = 0; g < w->op->group; g++) {
        w->head = w->kv * w->op->group + g;
        for (int64_t i = 0; i < n; i += C) answer_block(w, from + i, pf_min(C, n - i));
    }
}

/* At the first key of a span the state goes to those that are kept. */
static void keep_state(const pf_work *w, int64_t first) {
    const pf_operator *op = w->op;
    if (!op->saved || first == 0 || first % PF_SPAN != 0) return;
    int64_t rdv = op->r * op->dv, place = w->seg->spans + first / PF_SPAN - 1;
    float *to = op->saved + (place * op->Hk + w->kv) * (rdv + op->r);
    memcpy(to, w->s, (size_t)rdv * sizeof(float));
    memcpy(to + rdv, w->z, (size_t)op->r * sizeof(float));
}

void pf_causal_answer(pf_work *w) {
    const pf_operator *op = w->op;
    float *running = op->running + (w->item * op->Hk + w->kv) * op->Lk + w->seg->start;
    keep_state(w, w->first);
    answer_chunk(w);
    memcpy(running + w->first, w->run, (size_t)w->keys * sizeof(float));
}

void pf_causal_forward(void *op, int64_t task, void *scratch) {
    pf_work w;
    pf_work_open(&w, op, task, scratch, false);
    pf_work_load_state(&w);
    int64_t chunks = pf_causal_chunks(&w);
    for (int64_t n = 0; n < chunks; n++) {
        float top = pf_causal_keys(&w, n * w.op->block);
        pf_causal_answer(&w);
        pf_work_absorb(&w, top);
        w.M -= w.decay * (float)w.keys; /* seen from the next chunk's first row */
    }
    pf_work_store_state(&w);
}
