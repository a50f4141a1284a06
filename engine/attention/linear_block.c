/*
 * linear_block.c - what the full and the causal schedule share: a task's work space, the
 * features of one block of rows, the state and its log-scale, and the way back through a
 * block of features. Every buffer is `block` rows, padded; see linear.h.
 */
#include <math.h>
#include <string.h>

#include "linear.h"

static float *carve(void **scratch, int64_t n) {
    return pf_carve(scratch, (size_t)n * sizeof(float));
}

/* Cuts the work space; with *scratch NULL-based it only measures. */
static void carve_all(pf_work *w, const pf_operator *op, void **scratch, bool backward) {
    int64_t C = op->block, r = op->r, d = op->d, dv = op->dv;
    w->s = carve(scratch, r * dv);
    w->z = carve(scratch, r);
    w->x = carve(scratch, C * d);
    w->x2 = carve(scratch, C * d);
    w->fq = carve(scratch, C * r);
    w->fk = carve(scratch, C * r);
    w->a = carve(scratch, C * C);
    w->v = carve(scratch, C * dv);
    w->vs = carve(scratch, C * dv);
    w->o = carve(scratch, C * dv);
    w->half = carve(scratch, C);
    w->shift = carve(scratch, C);
    w->run = carve(scratch, C);
    w->den = carve(scratch, C);
    w->e = carve(scratch, C);
    w->rho = carve(scratch, C);
    w->coef = carve(scratch, C);
    w->bad = pf_carve(scratch, (size_t)C * sizeof(int32_t));
    w->panel = carve(scratch, PF_PANEL);
    if (!backward) return;
    w->b = carve(scratch, C * C);
    w->g = carve(scratch, C * dv);
    w->df = carve(scratch, C * r);
    w->t = carve(scratch, r * dv);
    w->y = carve(scratch, r);
}

size_t pf_work_bytes(const pf_operator *op, bool backward) {
    pf_work w;
    void *end = NULL;
    carve_all(&w, op, &end, backward);
    return (size_t)(uintptr_t)end;
}

void pf_work_open(pf_work *w, const pf_operator *op, int64_t task, void *scratch, bool backward) {
    *w = (pf_work){.op = op, .kern = op->engine->kern};
    w->seg = &op->segments.list[task / op->H];
    w->item = w->seg->item;
    w->head = task % op->H;
    w->decay = op->decay ? op->decay[w->head] : 0;
    w->w = op->projected ? op->projection + w->head * op->projection_head : NULL;
    carve_all(w, op, &scratch, backward);
}

void pf_work_begin(pf_work *w, int64_t first) {
    w->rows = pf_block_rows(w->kern, pf_work_rows(w, first), w->op->block);
}

void pf_work_gemm(pf_work *w, bool ta, bool tb, int64_t m, int64_t n, int64_t k, const float *a,
                  int64_t lda, const float *b, int64_t ldb, float beta, float *c, int64_t ldc) {
    pf_block_gemm(w->kern, ta, tb, m, n, k, a, lda, b, ldb, beta, c, ldc, w->panel);
}

/* x (rows, d) <- scale * rows first ..; 0 past the end. */
static void load_rows(const pf_work *w, const pf_rows *rows, int64_t first, float *x) {
    const pf_operator *op = w->op;
    int64_t n = pf_work_rows(w, first);
    for (int64_t i = 0; i < n; i++) {
        const float *row = pf_rows_at(rows, w->item, w->head, w->seg->start + first + i);
        w->kern->scale(op->d, op->scale, row, x + i * op->d);
    }
    memset(x + n * op->d, 0, (size_t)((w->rows - n) * op->d) * sizeof(float));
}

/* f (rows, r) and shift (rows) of the scaled rows x (rows, d). */
static void encode(pf_work *w, pf_side side, const float *x, float *f) {
    const pf_operator *op = w->op;
    int64_t C = w->rows;
    if (op->projected) {
        pf_work_gemm(w, false, true, C, op->m, op->d, x, op->d, w->w, op->d, 0, f, op->r);
        if (op->map->softmax) {
            for (int64_t i = 0; i < C; i++) {
                w->half[i] = 0.5f * w->kern->sumsq(op->d, x + i * op->d);
            }
        }
    } else {
        memcpy(f, x, (size_t)(C * op->d) * sizeof(float));
    }
    op->map->encode(&op->args, side, C, op->r, f, w->half, w->shift);
}

void pf_work_queries(pf_work *w, int64_t first) {
    load_rows(w, &w->op->q, first, w->x);
    encode(w, PF_SIDE_QUERY, w->x, w->fq);
}

void pf_work_keys(pf_work *w, int64_t first) {
    const pf_operator *op = w->op;
    load_rows(w, &op->k, first, w->x2);
    encode(w, PF_SIDE_KEY, w->x2, w->fk);
    int64_t n = pf_work_rows(w, first);
    for (int64_t i = 0; i < w->rows; i++) {
        if (i < n && pf_mask_keeps(op->mask, w->item, w->seg->start + first + i)) {
            w->shift[i] += w->decay * (float)i;
            continue;
        }
        memset(w->fk + i * op->r, 0, (size_t)op->r * sizeof(float));
        w->shift[i] = -INFINITY;
    }
}

void pf_work_values(pf_work *w, int64_t first) {
    const pf_operator *op = w->op;
    int64_t n = pf_work_rows(w, first), dv = op->dv;
    w->n_bad = 0;
    for (int64_t i = 0; i < w->rows; i++) {
        float *to = w->v + i * dv;
        bool kept = i < n && w->shift[i] != -INFINITY;
        if (kept) {
            const float *row =
                pf_rows_at(&op->v, w->item, w->head, w->seg->start + first + i);
            if (isfinite(w->kern->sumsq(dv, row))) {
                memcpy(to, row, (size_t)dv * sizeof(float));
                continue;
            }
            w->bad[w->n_bad++] = (int32_t)i;
        }
        memset(to, 0, (size_t)dv * sizeof(float));
    }
}

/* ---- the state ---- */

float pf_decay(float a, float b) { return a == -INFINITY ? 0 : expf(a - b); }

void pf_work_load_state(pf_work *w) {
    const pf_operator *op = w->op;
    int64_t at = w->item * op->H + w->head;
    size_t s_bytes = (size_t)(op->r * op->dv) * sizeof(float);
    if (op->entry_s && w->seg->first) {
        memcpy(w->s, op->entry_s + at * op->r * op->dv, s_bytes);
        memcpy(w->z, op->entry_z + at * op->r, (size_t)op->r * sizeof(float));
        w->M = op->entry_shift[at];
        return;
    }
    memset(w->s, 0, s_bytes);
    memset(w->z, 0, (size_t)op->r * sizeof(float));
    w->M = -INFINITY;
}

void pf_work_store_state(const pf_work *w) {
    const pf_operator *op = w->op;
    if (!op->exit_s || !w->seg->last) return;
    int64_t at = w->item * op->H + w->head;
    memcpy(op->exit_s + at * op->r * op->dv, w->s, (size_t)(op->r * op->dv) * sizeof(float));
    memcpy(op->exit_z + at * op->r, w->z, (size_t)op->r * sizeof(float));
    op->exit_shift[at] = w->M;
}

void pf_work_rescale(pf_work *w, float to) {
    const pf_operator *op = w->op;
    if (to == w->M) return;
    float factor = pf_decay(w->M, to);
    w->kern->scale(op->r * op->dv, factor, w->s, w->s);
    w->kern->scale(op->r, factor, w->z, w->z);
    w->M = to;
}

void pf_work_absorb(pf_work *w) {
    const pf_operator *op = w->op;
    int64_t C = w->rows, dv = op->dv;
    for (int64_t j = 0; j < C; j++) {
        w->e[j] = pf_decay(w->shift[j], w->M);
        w->kern->scale(dv, w->e[j], w->v + j * dv, w->vs + j * dv);
    }
    pf_work_gemm(w, true, false, op->r, dv, C, w->fk, op->r, w->vs, dv, 1, w->s, dv);
    w->kern->rows_sum(C, op->r, op->r, w->fk, w->e, w->z);
}

/* ---- backward ---- */

void pf_work_cotangents(pf_work *w, int64_t first) {
    const pf_operator *op = w->op;
    int64_t n = pf_work_rows(w, first), dv = op->dv;
    const float *den = op->denominator + (w->item * op->H + w->head) * op->Lq;
    for (int64_t i = 0; i < w->rows; i++) {
        int64_t at = w->seg->start + first + i;
        float *g = w->g + i * dv;
        w->rho[i] = 0;
        if (i >= n || den[at] == 0) {
            memset(g, 0, (size_t)dv * sizeof(float));
            continue;
        }
        const float *dout = pf_rows_at(&op->dout, w->item, w->head, at);
        w->kern->scale(dv, 1 / den[at], dout, g);
        w->rho[i] = -w->kern->dot(dv, g, pf_rows_at(&op->out, w->item, w->head, at));
    }
}

void pf_work_pull(pf_work *w, pf_side side, int64_t first, const float *f, float *x,
                  const pf_rows *dst) {
    const pf_operator *op = w->op;
    int64_t C = w->rows, d = op->d, n = pf_work_rows(w, first);
    op->map->pull(&op->args, side, C, op->r, f, w->df, w->coef);
    for (int64_t i = 0; i < C; i++) w->kern->scale(d, w->coef[i], x + i * d, x + i * d);
    if (op->projected) {
        pf_work_gemm(w, false, false, C, d, op->m, w->df, op->r, w->w, d, 1, x, d);
    } else {
        w->kern->axpy(C * d, 1, w->df, x);
    }
    for (int64_t i = 0; i < n; i++) {
        float *to = pf_rows_at(dst, w->item, w->head, w->seg->start + first + i);
        w->kern->scale(d, op->scale, x + i * d, to);
    }
}
