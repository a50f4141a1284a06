/*
 * block.c - what the full and the causal schedule share: a task's work space, the
 * features of one block of keys or queries, answers and cotangents of its queries, and the way
 * back through a block of features. Every buffer is `block` rows, padded; see operator.h.
 *
 * The work space is one piece of a thread's scratch. The same functions cut it and, from address
 * 0, measure it, so that the two can't differ.
 */
#include <math.h>
#include <string.h>

#include "operator.h"

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

/* A wave holds a span's states and features for all its threads, so there none has its own. */
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
    if (!op->causal || op->wave) return;
    w->states = carve(scratch, pf_span_chunks(op) * state);
    w->known = carve(scratch, pf_span_chunks(op) * pf_known_floats(op));
}

/* Whether what many blocks multiply by (the projection; S and T of a full backward) is laid out
 * once for all of them as products read it, with the same bits: it pays from some blocks on. */
static bool many_blocks(const pf_operator *op) {
    return op->engine->kern->block_gemm && op->reach.longest >= 4 * op->block;
}

/* Cuts the work space; with *scratch NULL-based it only measures. */
static void carve_all(pf_work *w, const pf_operator *op, void **scratch, bool backward) {
    w->s = carve(scratch, op->r * op->dv);
    w->z = carve(scratch, op->r);
    carve_keys(w, op, scratch);
    carve_queries(w, op, scratch);
    w->half = carve(scratch, op->block);
    w->coef = carve(scratch, op->block);
    w->ds = op->engine->kern->block_gemm ? NULL : carve(scratch, op->r * op->dv);
    w->dz = carve(scratch, op->r);
    w->panel = carve(scratch, PF_PANEL);
    if (many_blocks(op)) {
        bool state = backward && !op->causal && !op->wave;
        w->packed = (pf_packed){.n = op->r, .k = op->dv};
        w->packed.strips = state ? carve(scratch, pf_packed_floats(op->r, op->dv)) : NULL;
    }
    if (backward) carve_backward(w, op, scratch);
}

/* What the task's encoder is opened for. */
static unsigned encoder_use(const pf_operator *op, bool backward) {
    return (backward ? PF_ENCODE_PULL : 0) | (many_blocks(op) ? PF_ENCODE_MANY : 0);
}

size_t pf_work_bytes(const pf_operator *op, bool backward) {
    pf_work w = {0};
    void *end = NULL;
    carve_all(&w, op, &end, backward);
    pf_carve(&end, pf_encoder_bytes(&op->encoding, op->block, encoder_use(op, backward)));
    return (size_t)(uintptr_t)end;
}

void pf_work_open(pf_work *w, const pf_operator *op, int64_t task, void *scratch, bool backward) {
    *w = (pf_work){.op = op, .kern = op->engine->kern};
    w->seg = &op->reach.list[task / op->Hk];
    w->item = w->seg->item;
    w->kv = task % op->Hk;
    w->head = w->kv * op->group;
    w->decay = op->decay ? op->decay[w->kv] : 0;
    carve_all(w, op, &scratch, backward);
    pf_encoder_open(&w->encoder, &op->encoding, w->kv, op->block, encoder_use(op, backward),
                    w->panel, &scratch);
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

/* x (rows, d) <- scale times the n rows at `from`, and empty rows; half with them. */
static void load_rows(pf_work *w, const pf_heads *from, int64_t head, int64_t at, int64_t n,
                      float *x, float *half) {
    w->kern->rows_load(n, from->width, w->op->encoding.scale, pf_heads_row(from, w->item, head, at),
                       from->row, x, half);
}

static void empty_rows(int64_t d, int64_t n, int64_t rows, float *x, float *half) {
    memset(x + n * d, 0, (size_t)((rows - n) * d) * sizeof(float));
    memset(half + n, 0, (size_t)(rows - n) * sizeof(float));
}

/* How many of the loaded queries from number i on stand one after the other in their item: rows
 * that can be read and written as one piece. Without an order all do. */
static int64_t run_from(const pf_work *w, int64_t i) {
    int64_t n = 1;
    if (!w->op->reach.order) return w->queries - i;
    while (i + n < w->queries && w->at[i + n] == w->at[i] + n) n++;
    return n;
}

void pf_work_queries(pf_work *w, int64_t first, int64_t n) {
    const pf_operator *op = w->op;
    int64_t d = op->d, place = w->item * op->reach.Lq + w->seg->q_start + first;
    const int32_t *order = op->reach.order;
    w->queries = n;
    w->q_rows = pf_block_rows(w->kern, n, op->block);
    for (int64_t i = 0; i < n; i++) {
        w->at[i] = order ? order[place + i] : (int32_t)(w->seg->q_start + first + i);
    }
    for (int64_t i = 0, k; i < n; i += k) {
        k = run_from(w, i);
        load_rows(w, &op->q, w->head, w->at[i], k, w->xq + i * d, w->half + i);
    }
    empty_rows(d, n, w->q_rows, w->xq, w->half);
    pf_encode(&w->encoder, PF_SIDE_QUERY, w->q_rows, w->xq, w->half, w->fq,
              w->coef); /* a query's own shift cancels: it is not read */
}

/* Makes row i no key: features 0, log-shift -inf, and nothing of x for the way back. The row may
 * hold anything, so it is set, not multiplied. */
static void clear_key(pf_work *w, int64_t i) {
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
    load_rows(w, &op->k, w->kv, w->seg->start + first, n, w->xk, w->half);
    empty_rows(d, n, w->k_rows, w->xk, w->half);
}

/* The map's log-shift, and a decay of D a token as D i on top: l in coordinates of the block's
 * first row (operator.h). */
void pf_work_keys(pf_work *w, int64_t first) {
    const pf_operator *op = w->op;
    load_keys(w, first);
    int64_t n = w->keys;
    pf_encode(&w->encoder, PF_SIDE_KEY, w->k_rows, w->xk, w->half, w->fk, w->shift);
    for (int64_t i = 0; i < n; i++) {
        w->shift[i] += w->decay * (float)i;
        if (pf_mask_keeps(op->mask, w->item, w->seg->start + first + i)) continue;
        clear_key(w, i);
    }
    for (int64_t i = n; i < w->k_rows; i++) clear_key(w, i);
}

void pf_work_point_known(pf_work *w, float *known) {
    w->fk = known;
    w->shift = known + w->op->block * w->op->r;
}

/* fk and shift hold what pf_work_keys left, masked keys and all: x is loaded for the way back. */
void pf_work_known_keys(pf_work *w, int64_t first) {
    const pf_operator *op = w->op;
    load_keys(w, first);
    for (int64_t i = 0; i < w->keys; i++) {
        if (pf_mask_keeps(op->mask, w->item, w->seg->start + first + i)) continue;
        memset(w->xk + i * op->d, 0, (size_t)op->d * sizeof(float));
    }
}

/* A sum of squares tells a row that is not finite, as it goes through the kernel anyway. Values of
 * rows that are no keys count as 0, and are not even looked at. */
void pf_work_values(pf_work *w, int64_t first) {
    const pf_operator *op = w->op;
    int64_t dv = op->dv;
    const float *rows = pf_heads_row(&op->v, w->item, w->kv, w->seg->start + first);
    float *size = w->half;
    w->kern->rows_load(w->keys, dv, 1, rows, op->v.row, w->v, size);
    w->n_bad = 0;
    for (int64_t i = 0; i < w->k_rows; i++) {
        bool there = w->shift[i] != -INFINITY;
        if (there && isfinite(size[i])) continue;
        if (there) w->bad[w->n_bad++] = (int32_t)i;
        memset(w->v + i * dv, 0, (size_t)dv * sizeof(float));
    }
}

void pf_work_scale_values(pf_work *w) {
    int64_t dv = w->op->dv;
    w->kern->rows_scale(w->k_rows, dv, w->leave, 1, w->v, dv, false, w->vs, dv);
}

/* ---- answers and cotangents ---- */

/* A denominator too small to divide by is told to the backward as 0: it makes the same decision. */
void pf_work_answer(pf_work *w) {
    const pf_operator *op = w->op;
    int64_t dv = op->dv;
    float *den = op->denominator + (w->item * op->H + w->head) * op->Lq;
    for (int64_t i = 0; i < w->queries; i++) {
        float R = w->den[i];
        bool reach = !(fabsf(R) < PF_TINY_DENOMINATOR);
        den[w->at[i]] = reach ? R : 0;
        w->coef[i] = reach ? 1 / R : 0;
        if (!reach) memset(w->o + i * dv, 0, (size_t)dv * sizeof(float));
    }
    for (int64_t i = 0, k; i < w->queries; i += k) {
        k = run_from(w, i);
        pf_heads_put(w->kern, &op->out, w->item, w->head, w->at[i], k, w->coef + i, 1,
                     w->o + i * dv);
    }
}

/* Rows without a key in reach divide by 0 first, and are set to 0 then. */
void pf_work_cotangents(pf_work *w) {
    const pf_operator *op = w->op;
    int64_t dv = op->dv;
    const float *den = op->denominator + (w->item * op->H + w->head) * op->Lq;
    for (int64_t i = 0; i < w->queries; i++) w->coef[i] = 1 / den[w->at[i]];
    for (int64_t i = 0, k; i < w->queries; i += k) {
        k = run_from(w, i);
        w->kern->rows_weigh(k, dv, w->coef + i, pf_heads_row(&op->dout, w->item, w->head, w->at[i]),
                            op->dout.row, pf_heads_row(&op->out, w->item, w->head, w->at[i]),
                            op->out.row, w->g + i * dv, w->rho + i);
    }
    for (int64_t i = 0; i < w->q_rows; i++) {
        if (i < w->queries && den[w->at[i]] != 0) continue;
        w->rho[i] = 0;
        memset(w->g + i * dv, 0, (size_t)dv * sizeof(float));
    }
}

/* ---- back through the features ---- */

void pf_work_pull_queries(pf_work *w) {
    const pf_operator *op = w->op;
    pf_encode_pull(&w->encoder, PF_SIDE_QUERY, w->q_rows, w->fq, w->rho, w->z, w->df, w->coef,
                   w->xq);
    for (int64_t i = 0, k; i < w->queries; i += k) {
        k = run_from(w, i);
        pf_heads_put(w->kern, &op->dq, w->item, w->head, w->at[i], k, &op->encoding.scale, 0,
                     w->xq + i * op->d);
    }
}

void pf_work_pull_keys(pf_work *w, const float *y) {
    const pf_operator *op = w->op;
    pf_encode_pull(&w->encoder, PF_SIDE_KEY, w->k_rows, w->fk, w->leave, y, w->dk, w->coef, w->xk);
    pf_heads_put(w->kern, &op->dk, w->item, w->kv, w->seg->start + w->first, w->keys,
                 &op->encoding.scale, 0, w->xk);
}
