/*
 * linear_block.c - what the full and the causal schedule share: a task's work space, the
 * features of one block of keys or queries, answers and cotangents of its queries, and the way
 * back through a block of features. Every buffer is `block` rows, padded; see linear.h.
 */
#include <math.h>
#include <string.h>

#include "linear.h"

static float *carve(void **scratch, int64_t n) {
    return pf_carve(scratch, (size_t)n * sizeof(float));
}

static int32_t *carve_numbers(void **scratch, int64_t n) {
    return pf_carve(scratch, (size_t)n * sizeof(int32_t));
}

static void carve_keys(pf_work *w, const pf_operator *op, void **scratch) {
    int64_t C = op->block;
    w->xk = carve(scratch, C * op->d);
    w->fk = carve(scratch, C * op->r);
    w->v = carve(scratch, C * op->dv);
    w->vs = carve(scratch, C * op->dv);
    w->shift = carve(scratch, C);
    w->run = carve(scratch, C);
    w->leave = carve(scratch, C);
    w->bad = carve_numbers(scratch, C);
}

static void carve_queries(pf_work *w, const pf_operator *op, void **scratch) {
    int64_t C = op->block;
    w->at = carve_numbers(scratch, C);
    w->sees = carve_numbers(scratch, C);
    w->xq = carve(scratch, C * op->d);
    w->fq = carve(scratch, C * op->r);
    w->top = carve(scratch, C);
    w->e = carve(scratch, C);
    w->den = carve(scratch, C);
    w->rho = carve(scratch, C);
    w->o = carve(scratch, C * op->dv);
    w->a = op->causal ? carve(scratch, C * C) : NULL;
    w->factor = carve(scratch, C);
}

static void carve_backward(pf_work *w, const pf_operator *op, void **scratch) {
    int64_t C = op->block, state = op->r * op->dv + op->r;
    w->b = op->causal ? carve(scratch, C * C) : NULL;
    w->g = carve(scratch, C * op->dv);
    w->df = carve(scratch, C * op->r);
    w->dk = carve(scratch, C * op->r);
    w->dvalue = carve(scratch, C * op->dv);
    w->t = carve(scratch, state);
    w->y = w->t + op->r * op->dv;
    w->t2 = op->causal ? carve(scratch, state) : NULL;
    w->u = op->map->needs_u && op->projected ? carve(scratch, C * op->m) : NULL;
    if (!op->causal || op->wave) return;
    w->states = carve(scratch, pf_span_chunks(op) * state);
    w->known = carve(scratch, pf_span_chunks(op) * pf_known_floats(op));
}

/* Cuts the work space; with *scratch NULL-based it only measures. */
static void carve_all(pf_work *w, const pf_operator *op, void **scratch, bool backward) {
    w->s = carve(scratch, op->r * op->dv);
    w->z = carve(scratch, op->r);
    carve_keys(w, op, scratch);
    carve_queries(w, op, scratch);
    w->half = carve(scratch, op->block);
    w->coef = carve(scratch, op->block);
    w->bias = op->map->tilted ? carve(scratch, op->m) : NULL;
    w->ds = op->engine->kern->block_gemm ? NULL : carve(scratch, op->r * op->dv);
    w->dz = carve(scratch, op->r);
    w->panel = carve(scratch, PF_PANEL);
    if (op->projected) {
        const float *factors = op->factors ? op->factors + w->kv * op->factors_head : NULL;
        pf_projector_open(&w->projector, w->kern, op->m, op->d, w->w, factors, w->panel, scratch);
    }
    if (backward) carve_backward(w, op, scratch);
}

size_t pf_work_bytes(const pf_operator *op, bool backward) {
    pf_work w = {0};
    void *end = NULL;
    carve_all(&w, op, &end, backward);
    return (size_t)(uintptr_t)end;
}

void pf_work_open(pf_work *w, const pf_operator *op, int64_t task, void *scratch, bool backward) {
    *w = (pf_work){.op = op, .kern = op->engine->kern};
    w->seg = &op->reach.list[task / op->Hk];
    w->item = w->seg->item;
    w->kv = task % op->Hk;
    w->head = w->kv * op->group;
    w->decay = op->decay ? op->decay[w->kv] : 0;
    w->w = op->projected ? op->projection + w->kv * op->projection_head : NULL;
    carve_all(w, op, &scratch, backward);
    w->args = op->args;
    if (op->map->tilted) {
        double tilt = op->tilts ? (double)op->tilts[w->kv] : op->tilt;
        pf_map_tilt(&w->args, tilt, w->w, op->d, w->bias);
    }
}

void pf_work_gemm(pf_work *w, bool ta, bool tb, int64_t m, int64_t n, int64_t k, const float *a,
                  int64_t lda, const float *b, int64_t ldb, float beta, float *c, int64_t ldc) {
    pf_block_gemm(w->kern, ta, tb, m, n, k, a, lda, b, ldb, beta, c, ldc, w->panel);
}

float pf_decay(float a, float b) {
    if (a == -INFINITY) return 0;
    return a == b ? 1 : expf(a - b);
}

void pf_decays(const pf_work *w, int64_t n, const float *x, float b, float *y) {
    w->kern->affine(n, 1, b == -INFINITY ? 0 : -b, x, y);
    w->kern->unary(PF_UNARY_EXP, n, y, y);
}

/* ---- features ---- */

/* f (rows, r) and shift (rows) of the scaled rows x (rows, d). */
static void encode(pf_work *w, pf_side side, int64_t rows, const float *x, float *f,
                   float *shift) {
    const pf_operator *op = w->op;
    if (op->projected) {
        pf_project(&w->projector, rows, x, f, op->r);
        for (int64_t i = 0; op->map->softmax && i < rows; i++) {
            w->half[i] = 0.5f * w->kern->sumsq(op->d, x + i * op->d);
        }
    } else {
        for (int64_t i = 0; i < rows; i++) {
            memcpy(f + i * op->r, x + i * op->d, (size_t)op->d * sizeof(float));
        }
    }
    op->map->encode(&w->args, side, rows, op->r, f, w->half, shift);
}

void pf_work_queries(pf_work *w, int64_t first, int64_t n) {
    const pf_operator *op = w->op;
    int64_t d = op->d, place = w->item * op->reach.Lq + w->seg->q_start + first;
    const int32_t *order = op->reach.order;
    w->queries = n;
    w->q_rows = pf_block_rows(w->kern, n, op->block);
    for (int64_t i = 0; i < n; i++) {
        w->at[i] = order ? order[place + i] : (int32_t)(w->seg->q_start + first + i);
        w->kern->scale(d, op->scale, pf_rows_at(&op->q, w->item, w->head, w->at[i]),
                       w->xq + i * d);
    }
    memset(w->xq + n * d, 0, (size_t)((w->q_rows - n) * d) * sizeof(float));
    encode(w, PF_SIDE_QUERY, w->q_rows, w->xq, w->fq, w->coef); /* their shifts cancel */
}

/* A row that is no key: features 0, log-shift -inf, and nothing of x for the way back. */
static void strike_key(pf_work *w, int64_t i) {
    memset(w->xk + i * w->op->d, 0, (size_t)w->op->d * sizeof(float));
    memset(w->fk + i * w->op->r, 0, (size_t)w->op->r * sizeof(float));
    w->shift[i] = -INFINITY;
}

/* first, keys, k_rows and xk */
static void load_keys(pf_work *w, int64_t first) {
    const pf_operator *op = w->op;
    int64_t n = pf_min(op->block, w->seg->length - first), d = op->d;
    w->first = first;
    w->keys = n;
    w->k_rows = pf_block_rows(w->kern, n, op->block);
    for (int64_t i = 0; i < n; i++) {
        const float *row = pf_rows_at(&op->k, w->item, w->kv, w->seg->start + first + i);
        w->kern->scale(d, op->scale, row, w->xk + i * d);
    }
    memset(w->xk + n * d, 0, (size_t)((w->k_rows - n) * d) * sizeof(float));
}

void pf_work_keys(pf_work *w, int64_t first) {
    const pf_operator *op = w->op;
    load_keys(w, first);
    int64_t n = w->keys;
    encode(w, PF_SIDE_KEY, w->k_rows, w->xk, w->fk, w->shift);
    w->masked = false;
    for (int64_t i = 0; i < n; i++) {
        w->shift[i] += w->decay * (float)i;
        if (pf_mask_keeps(op->mask, w->item, w->seg->start + first + i)) continue;
        strike_key(w, i);
        w->masked = true;
    }
    for (int64_t i = n; i < w->k_rows; i++) strike_key(w, i);
}

void pf_work_point_known(pf_work *w, float *known) {
    w->fk = known;
    w->shift = known + w->op->block * w->op->r;
}

void pf_work_known_keys(pf_work *w, int64_t first) {
    const pf_operator *op = w->op;
    load_keys(w, first);
    w->masked = false;
    for (int64_t i = 0; i < w->keys; i++) {
        if (pf_mask_keeps(op->mask, w->item, w->seg->start + first + i)) continue;
        memset(w->xk + i * op->d, 0, (size_t)op->d * sizeof(float));
        w->masked = true;
    }
}

void pf_work_values(pf_work *w, int64_t first) {
    const pf_operator *op = w->op;
    int64_t dv = op->dv;
    w->n_bad = 0;
    for (int64_t i = 0; i < w->k_rows; i++) {
        float *to = w->v + i * dv;
        if (w->shift[i] != -INFINITY) {
            const float *row = pf_rows_at(&op->v, w->item, w->kv, w->seg->start + first + i);
            if (isfinite(w->kern->sumsq(dv, row))) {
                memcpy(to, row, (size_t)dv * sizeof(float));
                continue;
            }
            w->bad[w->n_bad++] = (int32_t)i;
        }
        memset(to, 0, (size_t)dv * sizeof(float));
    }
}

/* ---- answers and cotangents ---- */

void pf_work_answer(pf_work *w) {
    const pf_operator *op = w->op;
    int64_t dv = op->dv;
    float *den = op->denominator + (w->item * op->H + w->head) * op->Lq;
    for (int64_t i = 0; i < w->queries; i++) {
        float R = w->den[i], *to = pf_rows_at(&op->out, w->item, w->head, w->at[i]);
        bool reach = !(fabsf(R) < PF_TINY_DENOMINATOR);
        den[w->at[i]] = reach ? R : 0;
        if (reach) {
            w->kern->scale(dv, 1 / R, w->o + i * dv, to);
        } else {
            memset(to, 0, (size_t)dv * sizeof(float));
        }
    }
}

void pf_work_cotangents(pf_work *w) {
    const pf_operator *op = w->op;
    int64_t dv = op->dv;
    const float *den = op->denominator + (w->item * op->H + w->head) * op->Lq;
    for (int64_t i = 0; i < w->q_rows; i++) {
        float *g = w->g + i * dv;
        w->rho[i] = 0;
        if (i >= w->queries || den[w->at[i]] == 0) {
            memset(g, 0, (size_t)dv * sizeof(float));
            continue;
        }
        int64_t at = w->at[i];
        w->kern->scale(dv, 1 / den[at], pf_rows_at(&op->dout, w->item, w->head, at), g);
        w->rho[i] = -w->kern->dot(dv, g, pf_rows_at(&op->out, w->item, w->head, at));
    }
}

/* ---- back through the features ---- */

/* The projected rows again, for maps whose derivative can't be read off the features. */
static const float *input_of(pf_work *w, int64_t rows, const float *x) {
    const pf_operator *op = w->op;
    if (!op->map->needs_u) return NULL;
    if (!op->projected) return x;
    pf_project(&w->projector, rows, x, w->u, op->m);
    return w->u;
}

/* df (rows, r) is dLoss/dfeatures of f, x: x (rows, d) <- dU W + coef x. */
static void pull(pf_work *w, pf_side side, int64_t rows, const float *f, float *df, float *x) {
    const pf_operator *op = w->op;
    int64_t d = op->d;
    op->map->pull(&w->args, side, rows, op->r, f, input_of(w, rows, x), df, w->coef);
    for (int64_t i = 0; i < rows; i++) w->kern->scale(d, w->coef[i], x + i * d, x + i * d);
    if (op->projected) {
        pf_project_back(&w->projector, rows, df, op->r, x);
    } else {
        for (int64_t i = 0; i < rows; i++) w->kern->axpy(d, 1, df + i * op->r, x + i * d);
    }
}

void pf_work_pull_queries(pf_work *w) {
    const pf_operator *op = w->op;
    pull(w, PF_SIDE_QUERY, w->q_rows, w->fq, w->df, w->xq);
    for (int64_t i = 0; i < w->queries; i++) {
        w->kern->scale(op->d, op->scale, w->xq + i * op->d,
                       pf_rows_at(&op->dq, w->item, w->head, w->at[i]));
    }
}

void pf_work_pull_keys(pf_work *w) {
    const pf_operator *op = w->op;
    pull(w, PF_SIDE_KEY, w->k_rows, w->fk, w->dk, w->xk);
    for (int64_t i = 0; i < w->keys; i++) {
        w->kern->scale(op->d, op->scale, w->xk + i * op->d,
                       pf_rows_at(&op->dk, w->item, w->kv, w->seg->start + w->first + i));
    }
}
