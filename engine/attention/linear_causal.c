/*
 * linear_causal.c - causal linear attention in chunks (paper, eq. 11 and appendix; the
 * schedule is reference form (c): state between chunks, products inside one).
 *
 *     out_i = [ e^(M_in - M_i) S^T q'_i + sum_(j <= i) A_ij v_j ] / R_i
 *     A_ij  = e^(l_j - M_i) q'_i . k'_j,   R_i likewise with z and 1 for S and v
 *     S    <- e^(M_in - M_out) S + sum_j e^(l_j - M_out) k'_j v_j^T
 *
 * M_i is the running maximum of l up to i, so every factor is at most 1 and position i
 * never sees what comes after it: masked products are set to 0, not multiplied by 0, and
 * values that are not finite join row by row, after the products.
 *
 * Backward, with g~, rho as in linear_full.c and B_ij = e^(l_j - M_i) (g~_i . v_j + rho_i):
 * a forward sweep redoes S for the queries, a reverse sweep carries T and y for keys and
 * values; both redo the features.
 *
 *     dq'_i = e^(M_in - M_i) (S g~_i + rho_i z) + sum_(j <= i) B_ij k'_j
 *     dk'_j = e^(l_j - M_out) (T v_j + y) + sum_(i >= j) B_ij q'_i
 *     dv_j  = e^(l_j - M_out) T^T k'_j + sum_(i >= j) A_ij g~_i
 *     T    <- e^(M_in - M_out) T + sum_i e^(M_in - M_i) q'_i g~_i^T
 */
#include <math.h>
#include <string.h>

#include "linear.h"

/* run[i] = max(M, l_0 .. l_i); e[i] = e^(M - run[i]). */
static void running_maximum(pf_work *w) {
    float top = w->M;
    for (int64_t i = 0; i < w->rows; i++) {
        if (w->shift[i] > top) top = w->shift[i];
        w->run[i] = top;
        w->e[i] = w->M == top && top != -INFINITY ? 1 : pf_decay(w->M, top);
    }
}

/* Row i of a (rows, rows; block): entries j <= i times e^(l_j - M_i), the others 0. In a map
 * without log-shifts all factors are 1, unless the head forgets or an entry state came in at a
 * larger scale. */
static void decay_row(const pf_work *w, float *row, int64_t i, float *factors) {
    int64_t n = i + 1;
    if (w->op->map->softmax || w->run[i] > 0) {
        float M = w->run[i] == -INFINITY ? 0 : w->run[i];
        w->kern->affine(n, 1, -M, w->shift, factors);
        w->kern->unary(PF_UNARY_EXP, n, factors, factors);
        w->kern->binary(PF_BINARY_MUL, n, row, 1, factors, 1, row);
        for (int64_t j = 0; j < n; j++) row[j] = w->shift[j] == -INFINITY ? 0 : row[j];
    }
    memset(row + n, 0, (size_t)(w->rows - n) * sizeof(float));
}

/* a <- A, den[i] <- sum_j A_ij. */
static void inner_weights(pf_work *w) {
    int64_t C = w->op->block, r = w->op->r, n = w->rows;
    pf_work_gemm(w, false, true, n, n, r, w->fq, r, w->fk, r, 0, w->a, C);
    for (int64_t i = 0; i < n; i++) {
        decay_row(w, w->a + i * C, i, w->coef);
        w->den[i] = w->kern->sum(i + 1, w->a + i * C);
    }
}

/* Values that are not finite reach the rows from theirs on. */
static void add_bad_values(pf_work *w, int64_t first, float *o) {
    const pf_operator *op = w->op;
    for (int64_t k = 0; k < w->n_bad; k++) {
        int64_t j = w->bad[k];
        const float *row = pf_rows_at(&op->v, w->item, w->head, w->seg->start + first + j);
        for (int64_t i = j; i < w->rows; i++) {
            w->kern->axpy(op->dv, w->a[i * op->block + j], row, o + i * op->dv);
        }
    }
}

/* The chunk's keys into the state, which moves to the scale of its last row. */
static void advance(pf_work *w, int64_t first) {
    const pf_operator *op = w->op;
    pf_work_rescale(w, w->run[w->rows - 1]);
    pf_work_absorb(w);
    for (int64_t k = 0; k < w->n_bad; k++) {
        int64_t j = w->bad[k];
        const float *row = pf_rows_at(&op->v, w->item, w->head, w->seg->start + first + j);
        for (int64_t a = 0; a < op->r; a++) {
            w->kern->axpy(op->dv, w->e[j] * w->fk[j * op->r + a], row, w->s + a * op->dv);
        }
    }
    w->M -= w->decay * (float)pf_work_rows(w, first); /* seen from the next block's first row */
}

/* Divides by the denominators and writes the rows out. */
static void finish_rows(pf_work *w, int64_t first) {
    const pf_operator *op = w->op;
    int64_t n = pf_work_rows(w, first), dv = op->dv;
    int64_t head = w->item * op->H + w->head;
    for (int64_t i = 0; i < n; i++) {
        int64_t at = w->seg->start + first + i;
        bool reach = !(fabsf(w->den[i]) < PF_TINY_DENOMINATOR);
        op->denominator[head * op->Lq + at] = reach ? w->den[i] : 0;
        op->running[head * op->Lk + at] = w->run[i];
        float *to = pf_rows_at(&op->out, w->item, w->head, at);
        if (reach) {
            w->kern->scale(dv, 1 / w->den[i], w->o + i * dv, to);
        } else {
            memset(to, 0, (size_t)dv * sizeof(float));
        }
    }
}

static void forward_chunk(pf_work *w, int64_t first) {
    const pf_operator *op = w->op;
    pf_work_begin(w, first);
    int64_t C = op->block, n = w->rows, r = op->r, dv = op->dv;
    pf_work_keys(w, first);
    memcpy(w->rho, w->shift, (size_t)n * sizeof(float));
    pf_work_queries(w, first); /* overwrites shift with the queries' own, which cancel */
    memcpy(w->shift, w->rho, (size_t)n * sizeof(float));
    pf_work_values(w, first);
    running_maximum(w);
    pf_work_gemm(w, false, false, n, dv, r, w->fq, r, w->s, dv, 0, w->o, dv);
    inner_weights(w);
    w->kern->rows_dot(n, r, r, w->fq, w->z, w->coef);
    for (int64_t i = 0; i < n; i++) {
        w->kern->scale(dv, w->e[i], w->o + i * dv, w->o + i * dv);
        w->den[i] += w->e[i] * w->coef[i];
    }
    pf_work_gemm(w, false, false, n, dv, n, w->a, C, w->v, dv, 1, w->o, dv);
    add_bad_values(w, first, w->o);
    finish_rows(w, first);
    advance(w, first);
}

void pf_causal_forward(void *op, int64_t task, void *scratch) {
    pf_work w;
    pf_work_open(&w, op, task, scratch, false);
    pf_work_load_state(&w);
    for (int64_t first = 0; first < w.seg->length; first += w.op->block) {
        forward_chunk(&w, first);
    }
    pf_work_store_state(&w);
}

/* ---- backward ---- */

/* Features, values and cotangents of a chunk; shift, run, e as in the forward. */
static void load_chunk(pf_work *w, int64_t first) {
    pf_work_begin(w, first);
    int64_t n = w->rows;
    pf_work_keys(w, first);
    memcpy(w->den, w->shift, (size_t)n * sizeof(float));
    pf_work_queries(w, first);
    memcpy(w->shift, w->den, (size_t)n * sizeof(float));
    pf_work_values(w, first);
    pf_work_cotangents(w, first);
}

/* b <- B (block, block). */
static void inner_cotangents(pf_work *w) {
    int64_t C = w->op->block, n = w->rows, dv = w->op->dv;
    pf_work_gemm(w, false, true, n, n, dv, w->g, dv, w->v, dv, 0, w->b, C);
    for (int64_t i = 0; i < n; i++) {
        w->kern->affine(i + 1, 1, w->rho[i], w->b + i * C, w->b + i * C);
        decay_row(w, w->b + i * C, i, w->coef);
        if (w->op->map->softmax) continue;
        for (int64_t j = 0; j <= i; j++) {
            if (w->shift[j] == -INFINITY) w->b[i * C + j] = 0;
        }
    }
}

/* Forward sweep: dq of a chunk, then the state moves on. */
static void backward_queries(pf_work *w, int64_t first) {
    const pf_operator *op = w->op;
    load_chunk(w, first);
    int64_t C = op->block, n = w->rows, r = op->r, dv = op->dv;
    running_maximum(w);
    inner_cotangents(w);
    for (int64_t i = 0; i < n; i++) w->kern->scale(dv, w->e[i], w->g + i * dv, w->o + i * dv);
    pf_work_gemm(w, false, true, n, r, dv, w->o, dv, w->s, dv, 0, w->df, r);
    for (int64_t i = 0; i < n; i++) {
        w->kern->axpy(r, w->e[i] * w->rho[i], w->z, w->df + i * r);
    }
    pf_work_gemm(w, false, false, n, r, n, w->b, C, w->fk, r, 1, w->df, r);
    pf_work_pull(w, PF_SIDE_QUERY, first, w->fq, w->x, &op->dq);
    advance(w, first);
}

/* The chunk's run and e from the saved running maxima: M is the chunk's entry maximum. */
static void saved_maximum(pf_work *w, int64_t first) {
    const pf_operator *op = w->op;
    int64_t n = pf_work_rows(w, first), head = w->item * op->H + w->head;
    const float *running = op->running + head * op->Lk + w->seg->start;
    float entry = op->entry_s && w->seg->first ? op->entry_shift[head] : -INFINITY;
    w->M = first > 0 ? running[first - 1] - w->decay * (float)op->block : entry;
    for (int64_t i = 0; i < w->rows; i++) {
        w->run[i] = running[first + (i < n ? i : n - 1)];
        w->e[i] = w->M == w->run[i] && w->M != -INFINITY ? 1 : pf_decay(w->M, w->run[i]);
    }
}

/* dv rows: T^T k' between chunks, A^T g~ inside. */
static void backward_values(pf_work *w, int64_t first, const float *out_scale) {
    const pf_operator *op = w->op;
    int64_t C = op->block, n = w->rows, r = op->r, dv = op->dv;
    inner_weights(w);
    pf_work_gemm(w, false, false, n, dv, r, w->fk, r, w->t, dv, 0, w->o, dv);
    for (int64_t j = 0; j < n; j++) {
        w->kern->scale(dv, out_scale[j], w->o + j * dv, w->o + j * dv);
    }
    pf_work_gemm(w, true, false, n, dv, n, w->a, C, w->g, dv, 1, w->o, dv);
    for (int64_t j = 0; j < pf_work_rows(w, first); j++) {
        float *to = pf_rows_at(&op->dvalue, w->item, w->head, w->seg->start + first + j);
        bool kept = w->shift[j] != -INFINITY;
        w->kern->scale(dv, kept ? 1 : 0, w->o + j * dv, to);
    }
}

/* Reverse sweep: dk and dv of a chunk, then T and y move back. */
static void backward_keys(pf_work *w, int64_t first) {
    const pf_operator *op = w->op;
    load_chunk(w, first);
    int64_t C = op->block, n = w->rows, r = op->r, dv = op->dv;
    saved_maximum(w, first);
    float M_out = w->run[n - 1];
    float *out_scale = w->half; /* free once the features are made */
    for (int64_t j = 0; j < n; j++) out_scale[j] = pf_decay(w->shift[j], M_out);
    if (op->need_v) backward_values(w, first, out_scale);
    if (op->need_k) {
        inner_cotangents(w);
        for (int64_t j = 0; j < n; j++) {
            w->kern->scale(dv, out_scale[j], w->v + j * dv, w->vs + j * dv);
        }
        pf_work_gemm(w, false, true, n, r, dv, w->vs, dv, w->t, dv, 0, w->df, r);
        for (int64_t j = 0; j < n; j++) w->kern->axpy(r, out_scale[j], w->y, w->df + j * r);
        pf_work_gemm(w, true, false, n, r, n, w->b, C, w->fq, r, 1, w->df, r);
        pf_work_pull(w, PF_SIDE_KEY, first, w->fk, w->x2, &op->dk);
    }
    /* T, y to the scale of the chunk's entry. */
    float back = w->M == M_out && M_out != -INFINITY ? 1 : pf_decay(w->M, M_out);
    w->kern->scale(r, back, w->y, w->y);
    for (int64_t i = 0; i < n; i++) {
        w->kern->scale(dv, w->e[i], w->g + i * dv, w->o + i * dv);
        w->rho[i] *= w->e[i];
    }
    w->kern->scale(r * dv, back, w->t, w->t);
    pf_work_gemm(w, true, false, r, dv, n, w->fq, r, w->o, dv, 1, w->t, dv);
    w->kern->rows_sum(n, r, r, w->fq, w->rho, w->y);
}

/* T, y at the end of the segment: the exit state's gradient, or 0. */
static void load_exit(pf_work *w) {
    const pf_operator *op = w->op;
    int64_t at = w->item * op->H + w->head, rdv = op->r * op->dv;
    memset(w->t, 0, (size_t)rdv * sizeof(float));
    memset(w->y, 0, (size_t)op->r * sizeof(float));
    if (!w->seg->last) return;
    if (op->dexit_s) memcpy(w->t, op->dexit_s + at * rdv, (size_t)rdv * sizeof(float));
    if (op->dexit_z) memcpy(w->y, op->dexit_z + at * op->r, (size_t)op->r * sizeof(float));
}

static void store_entry(const pf_work *w) {
    const pf_operator *op = w->op;
    if (!op->dentry_s || !w->seg->first) return;
    int64_t at = w->item * op->H + w->head, rdv = op->r * op->dv;
    memcpy(op->dentry_s + at * rdv, w->t, (size_t)rdv * sizeof(float));
    memcpy(op->dentry_z + at * op->r, w->y, (size_t)op->r * sizeof(float));
}

void pf_causal_backward(void *op, int64_t task, void *scratch) {
    pf_work w;
    pf_work_open(&w, op, task, scratch, true);
    int64_t length = w.seg->length, C = w.op->block;
    if (w.op->need_q) {
        pf_work_load_state(&w);
        for (int64_t first = 0; first < length; first += C) backward_queries(&w, first);
    }
    if (!w.op->need_k && !w.op->need_v && !w.op->dentry_s) return;
    load_exit(&w);
    for (int64_t first = (pf_ceil_div(length, C) - 1) * C; first >= 0; first -= C) {
        backward_keys(&w, first);
    }
    store_entry(&w);
}
