/*
 * exact.c - exact softmax attention, the judge:
 *
 *     out_i = sum_j softmax_j(scale q_i . k_j) v_j,     scale = 1 / sqrt(d)
 *
 * Blockwise with a running log-sum-exp, so no (Lq, Lk) array exists: a block of queries
 * meets one block of keys after the other. Products have one fixed shape, short blocks are
 * padded; what a query may not see is set to -inf before the exponential, and values that
 * are not finite join row by row, so nothing leaks from the future. Saved: out and one
 * log-sum-exp a row; the backward redoes the weights,
 *
 *     dS_ij = P_ij (dout_i . v_j - dout_i . out_i)
 *     dq = scale dS k,  dk = scale dS^T q,  dv = P^T dout.
 */
#include <math.h>
#include <string.h>

#include "linear.h"

enum { Q, K, V, MASK, DOCUMENTS, DECAY, INPUTS };
enum { A_CAUSAL, A_SCALE, A_COUNT };
enum { BLOCK = 128 };

typedef struct {
    pf_engine *engine;
    const pf_kern *kern;
    int64_t B, H, Lq, Lk, d, dv, q_blocks;
    int64_t ahead; /* causal: query i sees keys up to i + ahead, ahead = Lk - Lq */
    float scale;
    bool causal;
    pf_rows q, k, v, out, dout, dq, dk, dvalue;
    bool need_q, need_k, need_v;
    const pf_tensor *mask;
    const float *decay; /* (H); NULL: none */
    float *lse; /* (B, H, Lq) */
    pf_segments segments;
} exact_op;

/* One pair of blocks: queries from `i0`, keys from `j0` of a segment. */
typedef struct {
    const exact_op *op;
    const pf_kern *kern;
    const pf_segment *seg;
    int64_t head, q_length, k_length;
    float *q, *k, *v;   /* (BLOCK, d), (BLOCK, d), (BLOCK, dv); q scaled, v finite */
    float *p, *dp;      /* (BLOCK, BLOCK) */
    float *o, *part;    /* (BLOCK, dv) */
    float *dk, *dvalue; /* (BLOCK, d), (BLOCK, dv) */
    float *dq;          /* (BLOCK, d) */
    float *g;           /* (BLOCK, dv) */
    float *lse, *block_lse;
    float *panel;       /* of block_gemm */
    int32_t bad[BLOCK];
    int64_t n_bad;
} exact_work;

static float *carve(void **scratch, int64_t n) {
    return pf_carve(scratch, (size_t)n * sizeof(float));
}

static void carve_all(exact_work *w, const exact_op *op, void **scratch) {
    w->q = carve(scratch, BLOCK * op->d);
    w->k = carve(scratch, BLOCK * op->d);
    w->v = carve(scratch, BLOCK * op->dv);
    w->p = carve(scratch, BLOCK * BLOCK);
    w->dp = carve(scratch, BLOCK * BLOCK);
    w->o = carve(scratch, BLOCK * op->dv);
    w->part = carve(scratch, BLOCK * op->dv);
    w->dk = carve(scratch, BLOCK * op->d);
    w->dvalue = carve(scratch, BLOCK * op->dv);
    w->dq = carve(scratch, BLOCK * op->d);
    w->g = carve(scratch, BLOCK * op->dv);
    w->lse = carve(scratch, BLOCK);
    w->block_lse = carve(scratch, BLOCK);
    w->panel = carve(scratch, PF_PANEL);
}

static size_t work_bytes(const exact_op *op) {
    exact_work w;
    void *end = NULL;
    carve_all(&w, op, &end);
    return (size_t)(uintptr_t)end;
}

static void open_work(exact_work *w, const exact_op *op, int64_t segment, int64_t head,
                      void *scratch) {
    *w = (exact_work){.op = op, .kern = op->kern, .seg = &op->segments.list[segment]};
    w->head = head;
    w->k_length = w->seg->length;
    w->q_length = op->Lq == op->Lk ? w->seg->length : op->Lq;
    carve_all(w, op, &scratch);
}

/* to (BLOCK, width) <- scale * rows first .. of the segment, 0 past `length`. */
static void load(const exact_work *w, const pf_rows *rows, int64_t first, int64_t length,
                 float scale, float *to) {
    int64_t n = pf_min(BLOCK, length - first), width = rows->width;
    for (int64_t i = 0; i < n; i++) {
        const float *row = pf_rows_at(rows, w->seg->item, w->head, w->seg->start + first + i);
        w->kern->scale(width, scale, row, to + i * width);
    }
    memset(to + n * width, 0, (size_t)((BLOCK - n) * width) * sizeof(float));
}

/* v with rows that are not finite listed and zeroed. */
static void load_values(exact_work *w, int64_t first) {
    int64_t dv = w->op->dv;
    load(w, &w->op->v, first, w->k_length, 1, w->v);
    w->n_bad = 0;
    for (int64_t j = 0; j < BLOCK; j++) {
        if (isfinite(w->kern->sumsq(dv, w->v + j * dv))) continue;
        w->bad[w->n_bad++] = (int32_t)j;
        memset(w->v + j * dv, 0, (size_t)dv * sizeof(float));
    }
}

static bool sees(const exact_work *w, int64_t i, int64_t j) {
    return j < w->k_length && !(w->op->causal && j > i + w->op->ahead);
}

/* Row i of p loses `decay` a token of distance to key j; `ahead` is j - i at their origins. */
static void forget(exact_work *w, float decay, int64_t ahead) {
    for (int64_t i = 0; i < BLOCK; i++) {
        float *row = w->p + i * BLOCK;
        for (int64_t j = 0; j < BLOCK; j++) row[j] += decay * (float)(ahead + j - i);
    }
}

/* p (BLOCK, BLOCK) <- scores, -inf where query i0+i may not see key j0+j. */
static void scores(exact_work *w, int64_t i0, int64_t j0) {
    const exact_op *op = w->op;
    pf_block_gemm(w->kern, false, true, BLOCK, BLOCK, op->d, w->q, op->d, w->k, op->d, 0, w->p,
                  BLOCK, w->panel);
    bool edge = op->causal && j0 + BLOCK > i0 + op->ahead;
    if (op->decay) forget(w, op->decay[w->head], j0 - i0 - op->ahead);
    bool plain = !edge && !op->mask && j0 + BLOCK <= w->k_length;
    if (plain) return;
    bool keep[BLOCK];
    for (int64_t j = 0; j < BLOCK; j++) {
        keep[j] = j0 + j < w->k_length &&
                  pf_mask_keeps(op->mask, w->seg->item, w->seg->start + j0 + j);
    }
    for (int64_t i = 0; i < BLOCK; i++) {
        float *row = w->p + i * BLOCK;
        for (int64_t j = 0; j < BLOCK; j++) {
            if (!keep[j] || !sees(w, i0 + i, j0 + j)) row[j] = -INFINITY;
        }
    }
}

/* Bad values reach the queries that see them: to_i += p_ij v_j. */
static void add_bad_values(exact_work *w, int64_t i0, int64_t j0, float *to) {
    for (int64_t n = 0; n < w->n_bad; n++) {
        int64_t j = w->bad[n];
        int64_t at = w->seg->start + j0 + j;
        if (!pf_mask_keeps(w->op->mask, w->seg->item, at)) continue;
        const float *row = pf_rows_at(&w->op->v, w->seg->item, w->head, at);
        for (int64_t i = 0; i < BLOCK; i++) {
            if (!sees(w, i0 + i, j0 + j)) continue;
            w->kern->axpy(w->op->dv, w->p[i * BLOCK + j], row, to + i * w->op->dv);
        }
    }
}

/* Joins a block's own softmax into the running one: o, lse. */
static void join_block(exact_work *w) {
    int64_t dv = w->op->dv;
    for (int64_t i = 0; i < BLOCK; i++) {
        float a = w->lse[i], b = w->block_lse[i], top = a > b ? a : b;
        if (b == -INFINITY) continue;
        if (isnan(b)) top = b;
        float total = top + logf((a == -INFINITY ? 0 : expf(a - top)) + expf(b - top));
        w->kern->scale(dv, a == -INFINITY ? 0 : expf(a - total), w->o + i * dv, w->o + i * dv);
        w->kern->axpy(dv, expf(b - total), w->part + i * dv, w->o + i * dv);
        w->lse[i] = total;
    }
}

/* Task: one block of queries against all its keys. */
static void forward_task(void *context, int64_t task, void *scratch) {
    const exact_op *op = context;
    exact_work w;
    int64_t i0 = task % op->q_blocks * BLOCK, pair = task / op->q_blocks;
    open_work(&w, op, pair / op->H, pair % op->H, scratch);
    if (i0 >= w.q_length) return;
    load(&w, &op->q, i0, w.q_length, op->scale, w.q);
    memset(w.o, 0, (size_t)(BLOCK * op->dv) * sizeof(float));
    for (int64_t i = 0; i < BLOCK; i++) w.lse[i] = -INFINITY;
    int64_t end = op->causal ? pf_min(w.k_length, i0 + BLOCK + op->ahead) : w.k_length;
    for (int64_t j0 = 0; j0 < end; j0 += BLOCK) {
        load(&w, &op->k, j0, w.k_length, 1, w.k);
        load_values(&w, j0);
        scores(&w, i0, j0);
        for (int64_t i = 0; i < BLOCK; i++) {
            w.block_lse[i] = w.kern->softmax(BLOCK, w.p + i * BLOCK, w.p + i * BLOCK);
        }
        pf_block_gemm(w.kern, false, false, BLOCK, op->dv, BLOCK, w.p, BLOCK, w.v, op->dv, 0,
                      w.part, op->dv, w.panel);
        add_bad_values(&w, i0, j0, w.part);
        join_block(&w);
    }
    int64_t n = pf_min(BLOCK, w.q_length - i0);
    float *lse = op->lse + (w.seg->item * op->H + w.head) * op->Lq + w.seg->start + i0;
    memcpy(lse, w.lse, (size_t)n * sizeof(float));
    for (int64_t i = 0; i < n; i++) {
        memcpy(pf_rows_at(&op->out, w.seg->item, w.head, w.seg->start + i0 + i),
               w.o + i * op->dv, (size_t)op->dv * sizeof(float));
    }
}

/* ---- backward ---- */

/* p <- P, dp <- dS for the loaded blocks (queries i0, keys j0). */
static void weights_back(exact_work *w, int64_t i0, int64_t j0) {
    const exact_op *op = w->op;
    int64_t at = w->seg->start + i0, n = pf_min(BLOCK, w->q_length - i0);
    const float *lse = op->lse + (w->seg->item * op->H + w->head) * op->Lq + at;
    scores(w, i0, j0);
    pf_block_gemm(w->kern, false, true, BLOCK, BLOCK, op->dv, w->g, op->dv, w->v, op->dv, 0, w->dp,
                  BLOCK, w->panel);
    for (int64_t i = 0; i < BLOCK; i++) {
        float *p = w->p + i * BLOCK, *dp = w->dp + i * BLOCK;
        if (i >= n || lse[i] == -INFINITY) {
            memset(p, 0, BLOCK * sizeof(float));
            memset(dp, 0, BLOCK * sizeof(float));
            continue;
        }
        float delta = w->kern->dot(op->dv, w->g + i * op->dv, w->o + i * op->dv);
        w->kern->affine(BLOCK, 1, -lse[i], p, p);
        w->kern->unary(PF_UNARY_EXP, BLOCK, p, p);
        w->kern->affine(BLOCK, 1, -delta, dp, dp);
        w->kern->binary(PF_BINARY_MUL, BLOCK, dp, 1, p, 1, dp);
    }
}

/* dq rows += scale dS k; dk, dvalue of the key block grow. */
static void spread(exact_work *w, int64_t i0) {
    const exact_op *op = w->op;
    int64_t d = op->d, dv = op->dv, n = pf_min(BLOCK, w->q_length - i0);
    pf_block_gemm(w->kern, true, false, BLOCK, dv, BLOCK, w->p, BLOCK, w->g, dv, 1, w->dvalue, dv,
                  w->panel);
    pf_block_gemm(w->kern, true, false, BLOCK, d, BLOCK, w->dp, BLOCK, w->q, d, 1, w->dk, d,
                  w->panel);
    if (!op->need_q) return;
    pf_block_gemm(w->kern, false, false, BLOCK, d, BLOCK, w->dp, BLOCK, w->k, d, 0, w->dq, d,
                  w->panel);
    for (int64_t i = 0; i < n; i++) {
        w->kern->axpy(d, op->scale, w->dq + i * d,
                      pf_rows_at(&op->dq, w->seg->item, w->head, w->seg->start + i0 + i));
    }
}

static void store(const exact_work *w, const pf_rows *rows, int64_t first, const float *from) {
    int64_t n = pf_min(BLOCK, w->k_length - first);
    for (int64_t j = 0; j < n; j++) {
        memcpy(pf_rows_at(rows, w->seg->item, w->head, w->seg->start + first + j),
               from + j * rows->width, (size_t)rows->width * sizeof(float));
    }
}

/* Task: one head of one segment; key blocks outside, query blocks inside. */
static void backward_task(void *context, int64_t task, void *scratch) {
    const exact_op *op = context;
    exact_work w;
    open_work(&w, op, task / op->H, task % op->H, scratch);
    for (int64_t i = 0; op->need_q && i < w.q_length; i++) {
        memset(pf_rows_at(&op->dq, w.seg->item, w.head, w.seg->start + i), 0,
               (size_t)op->d * sizeof(float));
    }
    for (int64_t j0 = 0; j0 < w.k_length; j0 += BLOCK) {
        load(&w, &op->k, j0, w.k_length, 1, w.k);
        load_values(&w, j0);
        memset(w.dk, 0, (size_t)(BLOCK * op->d) * sizeof(float));
        memset(w.dvalue, 0, (size_t)(BLOCK * op->dv) * sizeof(float));
        int64_t from = op->causal ? pf_max(j0 - op->ahead, 0) / BLOCK * BLOCK : 0;
        for (int64_t i0 = from; i0 < w.q_length; i0 += BLOCK) {
            load(&w, &op->q, i0, w.q_length, op->scale, w.q); /* scaled: dk needs scale q */
            load(&w, &op->dout, i0, w.q_length, 1, w.g);
            load(&w, &op->out, i0, w.q_length, 1, w.o);
            weights_back(&w, i0, j0);
            spread(&w, i0);
        }
        if (op->need_k) store(&w, &op->dk, j0, w.dk);
        if (op->need_v) store(&w, &op->dvalue, j0, w.dvalue);
    }
}

/* ---- the row ---- */

static int exact_shape(pf_call *c) {
    int64_t d;
    PF_TRY(pf_attend_shapes(c, &d));
    PF_TRY(pf_attend_masks(c, MASK, DOCUMENTS));
    PF_TRY(pf_attend_decay(c, DECAY, c->attr[A_CAUSAL].i != 0));
    if (c->attr[A_CAUSAL].i && c->in[Q]->shape[2] > c->in[K]->shape[2]) {
        return pf_shape_fail(c, "causal attention can't have more queries than keys");
    }
    return 0;
}

static int fill(exact_op *op, pf_call *c, pf_tensor **held) {
    const pf_tensor *q = c->in[Q];
    *op = (exact_op){.engine = c->engine, .kern = c->engine->kern,
                     .B = q->shape[0], .H = q->shape[1], .Lq = q->shape[2], .d = q->shape[3],
                     .Lk = c->in[K]->shape[2], .dv = c->in[V]->shape[3],
                     .causal = c->attr[A_CAUSAL].i != 0, .mask = c->in[MASK]};
    op->ahead = op->Lk - op->Lq;
    if (c->in[DECAY]) {
        PF_TRY(pf_tensor_compact(&held[3], c->engine, c->in[DECAY]));
        op->decay = pf_f32(held[3]);
    }
    double scale = c->attr[A_SCALE].f;
    op->scale = (float)(scale != 0 ? scale : 1 / sqrt((double)op->d));
    op->q_blocks = pf_max(pf_ceil_div(op->Lq, BLOCK), 1);
    PF_TRY(pf_rows_ready(c->engine, c->in[Q], &held[0], &op->q));
    PF_TRY(pf_rows_ready(c->engine, c->in[K], &held[1], &op->k));
    PF_TRY(pf_rows_ready(c->engine, c->in[V], &held[2], &op->v));
    return pf_segments_make(&op->segments, c->engine, op->B, op->Lk, c->in[DOCUMENTS]);
}

static void release(exact_op *op, pf_tensor **held, int n) {
    for (int i = 0; i < n; i++) pf_tensor_release(&held[i]);
    if (op->engine) pf_segments_free(&op->segments, op->engine);
}

static int run_forward(exact_op *op, pf_call *c, pf_tensor **held) {
    PF_TRY(fill(op, c, held));
    PF_TRY(pf_heads_output(&c->out[0], c->engine, op->B, op->H, op->Lq, op->dv));
    op->out = pf_rows_of(c->out[0]);
    int64_t rows[3] = {op->B, op->H, op->Lq};
    PF_TRY(pf_tensor_make(&c->saved[0], c->engine, PF_F32, 3, rows));
    op->lse = pf_f32(c->saved[0]);
    return pf_parallel(c->engine, op->segments.n * op->H * op->q_blocks, work_bytes(op),
                       forward_task, op);
}

static int exact_forward(pf_call *c) {
    exact_op op = {0};
    pf_tensor *held[4] = {NULL};
    int status = run_forward(&op, c, held);
    release(&op, held, 4);
    return status;
}

static int run_backward(exact_op *op, pf_call *c, pf_tensor **held) {
    PF_TRY(fill(op, c, held));
    op->out = pf_rows_of(c->out[0]);
    op->lse = pf_f32(c->saved[0]);
    PF_TRY(pf_rows_ready(c->engine, c->dout[0], &held[4], &op->dout));
    pf_rows *rows[3] = {&op->dq, &op->dk, &op->dvalue};
    for (int i = 0; i < 3; i++) {
        const pf_tensor *x = c->in[i];
        if (!c->need[i]) continue;
        PF_TRY(pf_heads_output(&held[5 + i], c->engine, x->shape[0], x->shape[1], x->shape[2],
                               x->shape[3]));
        *rows[i] = pf_rows_of(held[5 + i]);
    }
    op->need_q = c->need[Q], op->need_k = c->need[K], op->need_v = c->need[V];
    PF_TRY(pf_parallel(c->engine, op->segments.n * op->H, work_bytes(op), backward_task, op));
    for (int i = 0; i < 3; i++) {
        if (c->need[i]) PF_TRY(pf_grad_give(c, i, held[5 + i]));
    }
    return 0;
}

static int exact_backward(pf_call *c) {
    exact_op op = {0};
    pf_tensor *held[8] = {NULL};
    int status = run_backward(&op, c, held);
    release(&op, held, 8);
    return status;
}

static const pf_attr_info exact_attrs[A_COUNT] = {
    {"causal", PF_ATTR_BOOL, 0, false, NULL, "query i sees keys 1 .. i + Lk - Lq"},
    {"scale", PF_ATTR_FLOAT, 0, false, NULL, "of the scores; 0: 1 / sqrt(d)"},
};

const pf_op pf_op_exact_attention = {
    .name = "exact_attention",
    .args = "q, k, v, [mask], [documents], [decay]",
    .results = "out",
    .doc =
        "Exact softmax attention, the quadratic judge: softmax(scale q k^T) v, blockwise. "
        "q (B, H, Lq, d), k (B, H, Lk, d), v (B, H, Lk, dv), mask (B, Lk) of 1 keep and 0 "
        "not there, documents (B, L) i32, decay (H), causal only: the score loses decay a token of "
        "distance. No key left: output and gradients 0.",
    .min_in = 3,
    .max_in = INPUTS,
    .n_out = 1,
    .flags = PF_OP_OWN_OUTPUTS,
    .uses = PF_USES_ALL_IN | PF_USES_OUT(0),
    .attrs = exact_attrs,
    .n_attrs = A_COUNT,
    .shape = exact_shape,
    .forward = exact_forward,
    .backward = exact_backward,
};
