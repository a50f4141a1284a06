/*
 * sums.c - the running state of a key head and its cotangent: entry and exit, a block's
 * keys into S, z and M, a block's queries into T, y.
 *
 *     S <- e^(M - M') S + sum_j e^(l_j - M') k'_j v_j^T,   z likewise with 1 for v,   M' >= M
 *
 * A block's own sum begins at 0 and joins the state in one step, so that a long sequence is not
 * one long chain of single additions, and so that the sum may be made before the state is known
 * (wave.c): both ways round once, and give the same bits. Two orders stand for one result:
 *
 *     pf_work_absorb              own sum, then beta S + own in the product's last step
 *     pf_work_own, pf_work_join   own sum into another place, then own += beta S
 *
 * Both compute fma(beta, S, own) for every number. block_gemm promises that of its beta; where the
 * BLAS makes the product, which promises nothing, absorb goes the second way itself (ds).
 */
#include <math.h>
#include <string.h>

#include "operator.h"

/* Of n floats. */
static size_t bytes_of(int64_t n) { return (size_t)n * sizeof(float); }

/* Only an item's first segment takes an entry state: a document begins from nothing. */
void pf_work_load_state(pf_work *w) {
    const pf_operator *op = w->op;
    int64_t at = w->item * op->Hk + w->kv, rdv = op->r * op->dv;
    if (op->entry_s && w->seg->first) {
        memcpy(w->s, op->entry_s + at * rdv, bytes_of(rdv));
        memcpy(w->z, op->entry_z + at * op->r, bytes_of(op->r));
        w->M = op->entry_shift[at];
        return;
    }
    memset(w->s, 0, bytes_of(rdv));
    memset(w->z, 0, bytes_of(op->r));
    w->M = -INFINITY;
}

/* Likewise the last one alone gives an exit state. */
void pf_work_store_state(const pf_work *w) {
    const pf_operator *op = w->op;
    if (!op->exit_s || !w->seg->last) return;
    int64_t at = w->item * op->Hk + w->kv, rdv = op->r * op->dv;
    memcpy(op->exit_s + at * rdv, w->s, bytes_of(rdv));
    memcpy(op->exit_z + at * op->r, w->z, bytes_of(op->r));
    op->exit_shift[at] = w->M;
}

/* to (n) += beta from, in one rounding as block_gemm adds beta C; beta 0 reads nothing. */
static void join(const pf_work *w, int64_t n, float beta, const float *from, float *to) {
    if (beta != 0) w->kern->axpy(n, beta, from, to);
}

/* to (r, dv) <- beta to + f^T x, with f (rows, r), x (rows, dv). */
static void outer(pf_work *w, int64_t rows, const float *f, const float *x, float beta, float *to) {
    const pf_operator *op = w->op;
    int64_t r = op->r, dv = op->dv;
    if (w->kern->block_gemm || beta == 0) {
        pf_work_gemm(w, true, false, r, dv, rows, f, op->r, x, dv, beta, to, dv);
        return;
    }
    pf_work_gemm(w, true, false, r, dv, rows, f, op->r, x, dv, 0, w->ds, dv);
    join(w, r * dv, beta, to, w->ds);
    memcpy(to, w->ds, bytes_of(r * dv));
}

/* to (r) <- beta to + sum_i c_i f_i */
static void weighted(pf_work *w, int64_t rows, const float *f, const float *c, float beta,
                     float *to) {
    int64_t r = w->op->r;
    memset(w->dz, 0, bytes_of(r));
    w->kern->rows_sum(rows, r, w->op->r, f, c, w->dz);
    join(w, r, beta, to, w->dz);
    memcpy(to, w->dz, bytes_of(r));
}

/* s, z <- beta s, z + the loaded keys' own sums at scale `to`. */
static void add_keys(pf_work *w, float to, float beta, float *s, float *z) {
    pf_decays(w, w->k_rows, w->shift, to, w->leave);
    pf_work_scale_values(w);
    outer(w, w->k_rows, w->fk, w->vs, beta, s);
    weighted(w, w->k_rows, w->fk, w->leave, beta, z);
}

/* Values that are not finite, last of all: their rows of v are 0 in the product, and NaN or inf
 * reach S by a key's own features only. */
static void add_bad_values(const pf_work *w, float *s) {
    const pf_operator *op = w->op;
    for (int64_t k = 0; k < w->n_bad; k++) {
        int64_t j = w->bad[k];
        const float *row = pf_heads_row(&op->v, w->item, w->kv, w->seg->start + w->first + j);
        for (int64_t a = 0; a < op->r; a++) {
            w->kern->axpy(op->dv, w->leave[j] * w->fk[j * op->r + a], row, s + a * op->dv);
        }
    }
}

void pf_work_absorb(pf_work *w, float to) {
    add_keys(w, to, pf_decay(w->M, to), w->s, w->z);
    add_bad_values(w, w->s);
    w->M = to;
}

void pf_work_own(pf_work *w, float to, float *s, float *z) { add_keys(w, to, 0, s, z); }

void pf_work_join(const pf_work *w, float to, float *s, float *z) {
    float stay = pf_decay(w->M, to);
    join(w, w->op->r * w->op->dv, stay, w->s, s);
    join(w, w->op->r, stay, w->z, z);
    add_bad_values(w, s);
}

void pf_work_load_cotangent(pf_work *w) {
    const pf_operator *op = w->op;
    int64_t at = w->item * op->Hk + w->kv, rdv = op->r * op->dv;
    memset(w->t, 0, bytes_of(rdv));
    memset(w->y, 0, bytes_of(op->r));
    if (!w->seg->last) return;
    if (op->dexit_s) memcpy(w->t, op->dexit_s + at * rdv, bytes_of(rdv));
    if (op->dexit_z) memcpy(w->y, op->dexit_z + at * op->r, bytes_of(op->r));
}

void pf_work_store_cotangent(const pf_work *w, float factor) {
    const pf_operator *op = w->op;
    if (!op->dentry_s || !w->seg->first) return;
    int64_t at = w->item * op->Hk + w->kv, rdv = op->r * op->dv;
    w->kern->scale(rdv, factor, w->t, op->dentry_s + at * rdv);
    w->kern->scale(op->r, factor, w->y, op->dentry_z + at * op->r);
}

void pf_work_collect(pf_work *w, const float *g, const float *rho, float beta) {
    outer(w, w->q_rows, w->fq, g, beta, w->t);
    weighted(w, w->q_rows, w->fq, rho, beta, w->y);
}

void pf_work_join_cotangent(const pf_work *w, float beta, const float *t, const float *y) {
    join(w, w->op->r * w->op->dv, beta, t, w->t);
    join(w, w->op->r, beta, y, w->y);
}
