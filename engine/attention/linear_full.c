/*
 * linear_full.c - full (bidirectional) linear attention (paper, eq. 4 and algorithm 1):
 *
 *     S = sum_j phi(k_j) v_j^T,  z = sum_j phi(k_j),   out_i = S^T phi(q_i) / z . phi(q_i)
 *
 * Two sweeps over blocks of rows: keys build the state, queries read it. No feature leaves
 * its block. The backward redoes the key sweep, then
 *
 *     g~ = dout / R, rho = -(dout . out) / R         (per query row)
 *     dphi(q) = S g~ + rho z,   T = sum phi(q) g~^T,   y = sum rho phi(q)
 *     dphi(k) = T v + y,        dv = T^T phi(k)
 */
#include <math.h>
#include <string.h>

#include "linear.h"

/* Every query sees every value here: those that are not finite pass as they are. */
static void restore_bad_values(pf_work *w, int64_t first) {
    for (int64_t k = 0; k < w->n_bad; k++) {
        int64_t at = w->seg->start + first + w->bad[k];
        memcpy(w->v + w->bad[k] * w->op->dv, pf_rows_at(&w->op->v, w->item, w->head, at),
               (size_t)w->op->dv * sizeof(float));
    }
}

/* Keys of the segment -> state. The maximum grows block by block; M is the last one. */
static void sweep_keys(pf_work *w) {
    pf_work_load_state(w);
    for (int64_t first = 0; first < w->seg->length; first += w->op->block) {
        pf_work_begin(w, first);
        pf_work_keys(w, first);
        pf_work_values(w, first);
        restore_bad_values(w, first);
        float top = w->M;
        for (int64_t j = 0; j < w->rows; j++) {
            if (w->shift[j] > top) top = w->shift[j];
        }
        pf_work_rescale(w, top);
        pf_work_absorb(w);
    }
}

/* Queries first .. of the segment: out and denominators. */
static void answer_block(pf_work *w, int64_t first) {
    const pf_operator *op = w->op;
    pf_work_begin(w, first);
    int64_t C = w->rows, dv = op->dv, n = pf_work_rows(w, first);
    pf_work_queries(w, first);
    pf_work_gemm(w, false, false, C, dv, op->r, w->fq, op->r, w->s, dv, 0, w->o, dv);
    w->kern->rows_dot(C, op->r, op->r, w->fq, w->z, w->den);
    float *den = op->denominator + (w->item * op->H + w->head) * op->Lq;
    for (int64_t i = 0; i < n; i++) {
        int64_t at = w->seg->start + first + i;
        bool reach = !(fabsf(w->den[i]) < PF_TINY_DENOMINATOR);
        den[at] = reach ? w->den[i] : 0;
        float *to = pf_rows_at(&op->out, w->item, w->head, at);
        if (reach) {
            w->kern->scale(dv, 1 / w->den[i], w->o + i * dv, to);
        } else {
            memset(to, 0, (size_t)dv * sizeof(float));
        }
    }
}

/* With Lq != Lk there is one segment an item, and it is as long as the side it is used for. */
static pf_segment query_segment(const pf_work *w) {
    pf_segment s = *w->seg;
    if (w->op->Lq != w->op->Lk) s.length = w->op->Lq;
    return s;
}

void pf_full_forward(void *op, int64_t task, void *scratch) {
    pf_work w;
    pf_work_open(&w, op, task, scratch, false);
    sweep_keys(&w);
    pf_work_store_state(&w);
    pf_segment queries = query_segment(&w);
    w.seg = &queries;
    for (int64_t first = 0; first < w.seg->length; first += w.op->block) answer_block(&w, first);
}

/* dq of a block; T += phi(q)^T g~, y += phi(q)^T rho. */
static void backward_queries(pf_work *w, int64_t first) {
    const pf_operator *op = w->op;
    pf_work_begin(w, first);
    int64_t C = w->rows, r = op->r, dv = op->dv;
    pf_work_queries(w, first);
    pf_work_cotangents(w, first);
    pf_work_gemm(w, true, false, r, dv, C, w->fq, r, w->g, dv, 1, w->t, dv);
    w->kern->rows_sum(C, r, r, w->fq, w->rho, w->y);
    if (!op->need_q) return;
    pf_work_gemm(w, false, true, C, r, dv, w->g, dv, w->s, dv, 0, w->df, r);
    for (int64_t i = 0; i < C; i++) w->kern->axpy(r, w->rho[i], w->z, w->df + i * r);
    pf_work_pull(w, PF_SIDE_QUERY, first, w->fq, w->x, &op->dq);
}

/* dk and dv of a block, from T, y and M. */
static void backward_keys(pf_work *w, int64_t first) {
    const pf_operator *op = w->op;
    pf_work_begin(w, first);
    int64_t C = w->rows, r = op->r, dv = op->dv, n = pf_work_rows(w, first);
    pf_work_keys(w, first);
    pf_work_values(w, first);
    for (int64_t j = 0; j < C; j++) w->e[j] = pf_decay(w->shift[j], w->M);
    if (op->need_v) {
        pf_work_gemm(w, false, false, C, dv, r, w->fk, r, w->t, dv, 0, w->o, dv);
        for (int64_t j = 0; j < n; j++) {
            float *to = pf_rows_at(&op->dvalue, w->item, w->head, w->seg->start + first + j);
            w->kern->scale(dv, w->e[j], w->o + j * dv, to);
        }
    }
    if (!op->need_k) return;
    for (int64_t j = 0; j < C; j++) w->kern->scale(dv, w->e[j], w->v + j * dv, w->vs + j * dv);
    pf_work_gemm(w, false, true, C, r, dv, w->vs, dv, w->t, dv, 0, w->df, r);
    for (int64_t j = 0; j < C; j++) w->kern->axpy(r, w->e[j], w->y, w->df + j * r);
    pf_work_pull(w, PF_SIDE_KEY, first, w->fk, w->x2, &op->dk);
}

/* T, y start from the exit state's gradient, or 0. */
static void load_cotangents(pf_work *w) {
    const pf_operator *op = w->op;
    int64_t at = w->item * op->H + w->head, rdv = op->r * op->dv;
    bool from_exit = w->seg->last;
    if (from_exit && op->dexit_s) {
        memcpy(w->t, op->dexit_s + at * rdv, (size_t)rdv * sizeof(float));
    } else {
        memset(w->t, 0, (size_t)rdv * sizeof(float));
    }
    if (from_exit && op->dexit_z) {
        memcpy(w->y, op->dexit_z + at * op->r, (size_t)op->r * sizeof(float));
    } else {
        memset(w->y, 0, (size_t)op->r * sizeof(float));
    }
}

/* The entry state came in at its own scale: S = e^(M_entry - M) S_entry + ... */
static void store_entry(const pf_work *w) {
    const pf_operator *op = w->op;
    if (!op->dentry_s || !w->seg->first) return;
    int64_t at = w->item * op->H + w->head, rdv = op->r * op->dv;
    float factor = pf_decay(op->entry_shift[at], w->M);
    w->kern->scale(rdv, factor, w->t, op->dentry_s + at * rdv);
    w->kern->scale(op->r, factor, w->y, op->dentry_z + at * op->r);
}

void pf_full_backward(void *op, int64_t task, void *scratch) {
    pf_work w;
    pf_work_open(&w, op, task, scratch, true);
    sweep_keys(&w);
    load_cotangents(&w);
    const pf_segment *keys = w.seg;
    pf_segment queries = query_segment(&w);
    w.seg = &queries;
    for (int64_t first = 0; first < w.seg->length; first += w.op->block) {
        backward_queries(&w, first);
    }
    w.seg = keys;
    for (int64_t first = 0; first < w.seg->length; first += w.op->block) {
        backward_keys(&w, first);
    }
    store_entry(&w);
}
