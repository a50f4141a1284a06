/*
 * sums_exact.c - sums over keys of exp(scale^2 q_i.k_j) themselves (partition.h): the log-sum-exp
 * of the scores, block by block, in quadratic time: the judge. Nothing of size Lq x Lk exists.
 *
 * Backward: P_ij = softmax, dq = scale^2 g_i P k, dk = scale^2 (g P)^T q.
 */
#include <math.h>
#include <string.h>

#include "partition.h"

/* Scores scale^2 q.k of the loaded blocks into a (rows, keys; PF_ENCODED_BLOCK). */
static void scores(const pf_encoded *queries, const pf_encoded *keys, float *a) {
    int64_t d = queries->encoder.of->d;
    pf_block_gemm(queries->encoder.of->kern, false, true, queries->rows, keys->rows, d, queries->x,
                  d, keys->x, d, 0, a, PF_ENCODED_BLOCK, queries->panel);
}

/* Joins one row's scores of keys j0 .. into (top, sum): sum of e^(score - top). */
static void join_scores(const pf_partition *p, int64_t item, int64_t i, int64_t j0, int64_t n,
                        const float *score, float *top, double *sum) {
    for (int64_t j = 0; j < n; j++) {
        if (!pf_partition_sees(p, item, i, j0 + j) || score[j] == -INFINITY) continue;
        if (!(score[j] <= *top)) {
            *sum *= *top == -INFINITY ? 0 : exp((double)*top - (double)score[j]);
            *top = score[j];
        }
        *sum += exp((double)score[j] - (double)*top);
    }
}

/* One block of chosen queries against all keys that the last of them sees. */
static void exact_block(const pf_partition *p, int64_t task, int64_t first, pf_encoded *q,
                        pf_encoded *k, float *a) {
    int64_t item = task / p->H, head = task % p->H, n = pf_min(PF_ENCODED_BLOCK, p->n - first);
    pf_encoded_load(q, pf_heads_row(&p->q, item, head, 0), p->q.row, p->at, first, n);
    int64_t last = p->at ? p->at[first + n - 1] : first + n - 1;
    int64_t end = p->causal ? pf_min(p->Lk, last + 1) : p->Lk;
    for (int64_t i = 0; i < n; i++) {
        p->top[task * p->n + first + i] = -INFINITY;
        p->sum[task * p->n + first + i] = 0;
        if (p->size) p->size[task * p->n + first + i] = 0;
    }
    for (int64_t j0 = 0; j0 < end; j0 += PF_ENCODED_BLOCK) {
        int64_t keys = pf_min(PF_ENCODED_BLOCK, p->Lk - j0);
        if (pf_partition_stopped(p)) return;
        pf_encoded_load(k, pf_heads_row(&p->k, item, head, 0), p->k.row, NULL, j0, keys);
        scores(q, k, a);
        for (int64_t i = 0; i < n; i++) {
            join_scores(p, item, first + i, j0, keys, a + i * PF_ENCODED_BLOCK,
                        &p->top[task * p->n + first + i], &p->sum[task * p->n + first + i]);
        }
    }
}

static size_t exact_bytes(const pf_partition *p) {
    return 2 * pf_encoded_bytes(&p->encoding, false) +
           (size_t)PF_ENCODED_BLOCK * PF_ENCODED_BLOCK * sizeof(float);
}

/* Task: one head of one item, its chosen queries block by block. */
static void exact_task(void *context, int64_t task, void *scratch) {
    const pf_partition *p = context;
    pf_encoded q, k;
    pf_encoded_open(&q, &p->encoding, task % p->H, false, &scratch);
    pf_encoded_open(&k, &p->encoding, task % p->H, false, &scratch);
    float *a = pf_carve(&scratch, (size_t)PF_ENCODED_BLOCK * PF_ENCODED_BLOCK * sizeof(float));
    for (int64_t first = 0; first < p->n; first += PF_ENCODED_BLOCK) {
        exact_block(p, task, first, &q, &k, a);
    }
}

/* ---- backward ---- */

/* a (BLOCK, BLOCK) <- g_i P_ij of query block i0 and key block j0, 0 where not seen. */
static void weigh(const pf_partition_back *op, int64_t task, int64_t i0, int64_t n, int64_t j0,
                  int64_t keys, int64_t rows, float *a) {
    const pf_partition *p = &op->p;
    for (int64_t i = 0; i < rows; i++) {
        float *row = a + i * PF_ENCODED_BLOCK;
        int64_t at = task * p->n + i0 + i;
        for (int64_t j = 0; j < PF_ENCODED_BLOCK; j++) {
            bool seen = i < n && j < keys && p->sum[at] != 0 &&
                        pf_partition_sees(p, task / p->H, i0 + i, j0 + j);
            double weight = seen ? exp((double)row[j] - (double)p->top[at]) / p->sum[at] : 0;
            row[j] = seen ? (float)((double)op->g[at] * weight) : 0;
        }
    }
}

/* The pair of loaded blocks: dq += a k, dk += a^T q, both not yet scaled. */
static void spread(const pf_partition_back *op, int64_t task, int64_t i0, int64_t n, int64_t j0,
                   int64_t keys, pf_encoded *q, pf_encoded *k, float *a) {
    int64_t d = op->p.encoding.d, B = PF_ENCODED_BLOCK;
    const pf_kern *kern = op->p.encoding.kern;
    float *out = q->df; /* (BLOCK, d): r is d */
    if (op->need_q) {
        pf_block_gemm(kern, false, false, q->rows, d, k->rows, a, B, k->x, d, 0, out, d, q->panel);
        kern->axpy(n * d, op->p.encoding.scale, out, op->dq + (task * op->p.n + i0) * d);
    }
    if (!op->need_k) return;
    pf_block_gemm(kern, true, false, k->rows, d, q->rows, a, B, q->x, d, 0, out, d, q->panel);
    kern->axpy(keys * d, op->p.encoding.scale, out, op->dk + (task * op->p.Lk + j0) * d);
}

/* Task: one head of one item. dk grows over blocks of queries, so its rows begin at 0. */
static void exact_backward_task(void *context, int64_t task, void *scratch) {
    const pf_partition_back *op = context;
    const pf_partition *p = &op->p;
    const pf_encoding *e = &p->encoding;
    int64_t item = task / p->H, head = task % p->H;
    pf_encoded q, k;
    pf_encoded_open(&q, e, head, true, &scratch);
    pf_encoded_open(&k, e, head, true, &scratch);
    float *a = pf_carve(&scratch, (size_t)PF_ENCODED_BLOCK * PF_ENCODED_BLOCK * sizeof(float));
    for (int64_t i0 = 0; i0 < p->n; i0 += PF_ENCODED_BLOCK) {
        int64_t n = pf_min(PF_ENCODED_BLOCK, p->n - i0);
        pf_encoded_load(&q, pf_heads_row(&p->q, item, head, 0), p->q.row, NULL, i0, n);
        int64_t end = p->causal ? pf_min(p->Lk, i0 + n) : p->Lk;
        for (int64_t j0 = 0; j0 < end; j0 += PF_ENCODED_BLOCK) {
            int64_t keys = pf_min(PF_ENCODED_BLOCK, p->Lk - j0);
            if (pf_partition_stopped(p)) return;
            pf_encoded_load(&k, pf_heads_row(&p->k, item, head, 0), p->k.row, NULL, j0, keys);
            scores(&q, &k, a);
            weigh(op, task, i0, n, j0, keys, q.rows, a);
            spread(op, task, i0, n, j0, keys, &q, &k, a);
        }
    }
}

static size_t exact_back_bytes(const pf_partition_back *op) {
    return 2 * pf_encoded_bytes(&op->p.encoding, true) +
           (size_t)PF_ENCODED_BLOCK * PF_ENCODED_BLOCK * sizeof(float);
}

/* ---- the row ---- */

static void exact_encoding(pf_encoding *encoding, const pf_kernel *kernel, const pf_kern *kern,
                           int64_t d, double scale) {
    (void)kernel;
    pf_encoding_given(encoding, kern, d, (float)pf_map_scale(&pf_map_softmax, scale, d));
}

static void exact_load(pf_encoded *block, pf_side side, const float *x, int64_t stride,
                       const int64_t *at, int64_t first, int64_t n) {
    (void)side;
    pf_encoded_load(block, x, stride, at, first, n);
}

/* Weights are made of the rows themselves: their products are the scores. */
static const float *rows_of(const pf_encoded *block, int64_t *width) {
    *width = block->encoder.of->d;
    return block->x;
}

static double weight_of(float product, float shift, float top, double sum) {
    (void)shift;
    return exp((double)product - (double)top) / sum;
}

const pf_sums pf_sums_exact = {
    .encoding = exact_encoding,
    .bytes = exact_bytes,
    .run = exact_task,
    .back_bytes = exact_back_bytes,
    .back = exact_backward_task,
    .back_reads = true,
    .load = exact_load,
    .vectors = rows_of,
    .weight = weight_of,
};
