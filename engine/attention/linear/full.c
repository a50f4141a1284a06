/*
 * full.c - full (bidirectional) linear attention (paper, eq. 4 and algorithm 1):
 *
 *     S = sum_j phi(k_j) v_j^T,  z = sum_j phi(k_j),   out_i = S^T phi(q_i) / z . phi(q_i)
 *
 * Two sweeps over blocks of rows: keys build the state, queries read it. No feature leaves
 * its block. All queries see the same keys, so M is one number, and e^(M - M_i) is 1: a block of
 * queries is two products and no decay. Keys whose l lies below the largest of all are summed at
 * the largest so far, and rescaled as it grows (pf_work_absorb).
 *
 * The backward takes the state that the forward kept, or sweeps the keys again, then
 *
 *     g~ = dout / R, rho = -(dout . out) / R         (per query row)
 *     dphi(q) = S g~ + rho z,   T = sum phi(q) g~^T,   y = sum rho phi(q)
 *     dphi(k) = T v + y,        dv = T^T phi(k)
 */
#include <math.h>
#include <string.h>

#include "operator.h"

/* Every query sees every value here: those that are not finite pass as they are. */
static void restore_bad_values(pf_work *w) {
    for (int64_t k = 0; k < w->n_bad; k++) {
        int64_t at = w->seg->start + w->first + w->bad[k];
        memcpy(w->v + w->bad[k] * w->op->dv, pf_heads_row(&w->op->v, w->item, w->kv, at),
               (size_t)w->op->dv * sizeof(float));
    }
    w->n_bad = 0;
}

float pf_full_keys(pf_work *w, int64_t first) {
    pf_work_keys(w, first);
    pf_work_values(w, first);
    restore_bad_values(w);
    float top = w->M;
    for (int64_t j = 0; j < w->k_rows; j++) {
        if (w->shift[j] > top) top = w->shift[j];
    }
    return top;
}

/* Keys of the segment -> state. The maximum grows block by block; M is the last one. */
static void sweep_keys(pf_work *w) {
    pf_work_load_state(w);
    for (int64_t first = 0; first < w->seg->length; first += w->op->block) {
        pf_work_absorb(w, pf_full_keys(w, first));
    }
}

/* The state of this task in what the forward keeps: S, z, M. */
static float *saved_state(const pf_work *w) {
    const pf_operator *op = w->op;
    if (!op->saved) return NULL;
    return op->saved + (w->item * op->Hk + w->kv) * (op->r * op->dv + op->r + 1);
}

/* For the backward, where the forward is recorded. */
static void keep_state(const pf_work *w) {
    int64_t rdv = w->op->r * w->op->dv, r = w->op->r;
    float *to = saved_state(w);
    if (!to) return;
    memcpy(to, w->s, (size_t)rdv * sizeof(float));
    memcpy(to + rdv, w->z, (size_t)r * sizeof(float));
    to[rdv + r] = w->M;
}

/* S, z, M as the forward ended with them. */
static void make_state(pf_work *w) {
    int64_t rdv = w->op->r * w->op->dv, r = w->op->r;
    const float *from = saved_state(w);
    if (!from) {
        sweep_keys(w);
        return;
    }
    memcpy(w->s, from, (size_t)rdv * sizeof(float));
    memcpy(w->z, from + rdv, (size_t)r * sizeof(float));
    w->M = from[rdv + r];
}

/* out and denominators of n queries. */
void pf_full_answer(pf_work *w, int64_t first, int64_t n) {
    int64_t dv = w->op->dv, r = w->op->r;
    pf_work_queries(w, first, n);
    pf_work_gemm(w, false, false, w->q_rows, dv, r, w->fq, r, w->s, dv, 0, w->o, dv);
    w->kern->rows_dot(w->q_rows, r, r, w->fq, w->z, w->den);
    pf_work_answer(w);
}

/* to (rows, r) <- x B^T, x (rows, dv) and B (r, dv): S or T, turned or as it stands. */
static void spread(pf_work *w, int64_t rows, const float *x, const float *b, float *to) {
    int64_t r = w->op->r, dv = w->op->dv;
    if (w->packed.strips) {
        pf_packed_gemm(w->kern, &w->packed, rows, x, dv, to, r, w->panel);
    } else {
        pf_work_gemm(w, false, true, rows, r, dv, x, dv, b, dv, 0, to, r);
    }
}

/* dq of n queries; T += phi(q)^T g~, y += phi(q)^T rho. */
void pf_full_back_queries(pf_work *w, int64_t first, int64_t n, float beta) {
    pf_work_queries(w, first, n);
    pf_work_cotangents(w);
    pf_work_collect(w, w->g, w->rho, beta);
    if (!w->op->need_q) return;
    spread(w, w->q_rows, w->g, w->s, w->df);
    pf_work_pull_queries(w);
}

/* One task alone adds its queries' T, y up as they come; a wave joins them (beta 0). */
static void backward_block(pf_work *w, int64_t first, int64_t n) {
    pf_full_back_queries(w, first, n, 1);
}

/* The queries of every head of the group, block by block. */
static void sweep_queries(pf_work *w, void (*block)(pf_work *, int64_t, int64_t)) {
    int64_t C = w->op->block;
    for (int64_t g = 0; g < w->op->group; g++) {
        w->head = w->kv * w->op->group + g;
        for (int64_t first = 0; first < w->seg->q_length; first += C) {
            block(w, first, pf_min(C, w->seg->q_length - first));
        }
    }
}

void pf_full_forward(void *op, int64_t task, void *scratch) {
    pf_work w;
    pf_work_open(&w, op, task, scratch, false);
    sweep_keys(&w);
    pf_work_store_state(&w);
    keep_state(&w);
    sweep_queries(&w, pf_full_answer);
}

/* dv of the loaded keys: e^(l - M) T^T k'. */
static void backward_values(pf_work *w) {
    const pf_operator *op = w->op;
    int64_t dv = op->dv, r = op->r;
    pf_work_gemm(w, false, false, w->k_rows, dv, r, w->fk, op->r, w->t, dv, 0, w->dvalue, dv);
    int64_t at = w->seg->start + w->first;
    pf_heads_put(w->kern, &op->dvalue, w->item, w->kv, at, w->keys, w->leave, 1, w->dvalue);
}

/* dk and dv of a block, from T, y and M. */
void pf_full_back_keys(pf_work *w, int64_t first) {
    const pf_operator *op = w->op;
    pf_work_keys(w, first);
    pf_work_values(w, first);
    pf_decays(w, w->k_rows, w->shift, w->M, w->leave);
    if (op->need_v) backward_values(w);
    if (!op->need_k) return;
    pf_work_scale_values(w);
    spread(w, w->k_rows, w->vs, w->t, w->dk);
    pf_work_pull_keys(w, w->y);
}

void pf_full_backward(void *op, int64_t task, void *scratch) {
    pf_work w;
    pf_work_open(&w, op, task, scratch, true);
    make_state(&w);
    pf_work_load_cotangent(&w);
    if (w.packed.strips) pf_pack(&w.packed, w.s);
    sweep_queries(&w, backward_block);
    if (w.packed.strips) pf_pack(&w.packed, w.t);
    if (w.op->need_k || w.op->need_v) {
        for (int64_t first = 0; first < w.seg->length; first += w.op->block) {
            pf_full_back_keys(&w, first);
        }
    }
    /* The entry state came in at its own scale: S = e^(M_entry - M) S_entry + ... */
    if (w.op->dentry_s && w.seg->first) {
        int64_t at = w.item * w.op->Hk + w.kv;
        pf_work_store_cotangent(&w, pf_decay(w.op->entry_shift[at], w.M));
    }
}
