/*
 * partition.c - sums over keys for chosen queries (partition.h): the denominators of attention
 * without its numerators. Linear: O(L m) and one vector z (r) in double a head; causal heads
 * walk queries and keys together. Exact: the log-sum-exp of the scores, block by block, the
 * judge. Nothing of size Lq x Lk exists, and a sum's bits depend on its own head alone.
 */
#include <math.h>
#include <string.h>

#include "partition.h"

size_t pf_sweep_bytes(const pf_partition *p, bool backward) {
    size_t z = (size_t)pf_round_up(p->encoder.r * (int64_t)sizeof(double), PF_ALIGN);
    return 2 * pf_encoded_bytes(&p->encoder, backward) + z;
}

void pf_sweep_open(pf_sweep *s, const pf_partition *p, int64_t task, bool backward,
                   void **scratch) {
    *s = (pf_sweep){.p = p,
                    .item = task / p->H,
                    .head = task % p->H,
                    .at = task,
                    .r = p->encoder.r,
                    .M = -INFINITY};
    pf_encoded_open(&s->q, &p->encoder, s->head, backward, scratch);
    pf_encoded_open(&s->k, &p->encoder, s->head, backward, scratch);
    s->z = pf_carve(scratch, (size_t)s->r * sizeof(double));
    memset(s->z, 0, (size_t)s->r * sizeof(double));
}

/* z <- z + e^(l - M) f, with M grown to l first where l is larger. NaN spreads. */
static void add_key(pf_sweep *s, const float *f, float l) {
    if (l == -INFINITY) return;
    if (!(l <= s->M)) {
        double keep = s->M == -INFINITY ? 0 : exp((double)s->M - (double)l);
        for (int64_t a = 0; a < s->r; a++) s->z[a] *= keep;
        s->M = l;
    }
    double weight = exp((double)l - (double)s->M);
    for (int64_t a = 0; a < s->r; a++) s->z[a] += weight * (double)f[a];
}

void pf_sweep_take(pf_sweep *s, int64_t end) {
    const pf_partition *p = s->p;
    for (; s->keys < end; s->keys++) {
        if (s->keys >= s->until) {
            s->from = s->until;
            s->until = pf_min(s->from + PF_PROBE_BLOCK, p->Lk);
            pf_encode(&s->k, PF_SIDE_KEY, pf_rows_at(&p->k, s->item, s->head, 0), p->k.row, NULL,
                      s->from, s->until - s->from);
        }
        if (!pf_mask_keeps(p->mask, s->item, s->keys)) continue;
        int64_t j = s->keys - s->from;
        add_key(s, s->k.f + j * s->r, s->k.shift[j]);
    }
}

double pf_sweep_sum(const pf_sweep *s, const float *f) {
    double sum = 0;
    for (int64_t a = 0; a < s->r; a++) sum += (double)f[a] * s->z[a];
    return fabs(sum) < (double)PF_TINY_DENOMINATOR ? 0 : sum;
}

static void answer(pf_sweep *s, int64_t i, const float *f, float shift) {
    const pf_partition *p = s->p;
    int64_t to = s->at * p->n + i;
    p->sum[to] = pf_sweep_sum(s, f);
    p->top[to] = s->M;
    if (p->size) p->size[to] = (double)shift + 2 * s->q.args.left_out;
}

static void favor_task(void *context, int64_t task, void *scratch) {
    const pf_partition *p = context;
    pf_sweep s;
    pf_sweep_open(&s, p, task, false, &scratch);
    if (!p->causal) pf_sweep_take(&s, p->Lk);
    for (int64_t first = 0; first < p->n; first += PF_PROBE_BLOCK) {
        int64_t n = pf_min(PF_PROBE_BLOCK, p->n - first);
        pf_encode(&s.q, PF_SIDE_QUERY, pf_rows_at(&p->q, s.item, s.head, 0), p->q.row, p->at, first,
                  n);
        for (int64_t i = first; i < first + n; i++) {
            if (p->causal) pf_sweep_take(&s, (p->at ? p->at[i] : i) + 1);
            answer(&s, i, s.q.f + (i - first) * s.r, s.q.shift[i - first]);
        }
    }
}

/* ---- exact ---- */

void pf_exact_scores(const pf_encoded *queries, const pf_encoded *keys, float *a) {
    int64_t d = queries->encoder->d;
    pf_block_gemm(queries->encoder->kern, false, true, queries->rows, keys->rows, d, queries->x, d,
                  keys->x, d, 0, a, PF_PROBE_BLOCK, queries->panel);
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

static void exact_block(const pf_partition *p, int64_t task, int64_t first, pf_encoded *q,
                        pf_encoded *k, float *a) {
    int64_t item = task / p->H, head = task % p->H, n = pf_min(PF_PROBE_BLOCK, p->n - first);
    pf_encode_load(q, pf_rows_at(&p->q, item, head, 0), p->q.row, p->at, first, n);
    int64_t last = p->at ? p->at[first + n - 1] : first + n - 1;
    int64_t end = p->causal ? pf_min(p->Lk, last + 1) : p->Lk;
    for (int64_t i = 0; i < n; i++) {
        p->top[task * p->n + first + i] = -INFINITY;
        p->sum[task * p->n + first + i] = 0;
        if (p->size) p->size[task * p->n + first + i] = 0;
    }
    for (int64_t j0 = 0; j0 < end; j0 += PF_PROBE_BLOCK) {
        int64_t keys = pf_min(PF_PROBE_BLOCK, p->Lk - j0);
        pf_encode_load(k, pf_rows_at(&p->k, item, head, 0), p->k.row, NULL, j0, keys);
        pf_exact_scores(q, k, a);
        for (int64_t i = 0; i < n; i++) {
            join_scores(p, item, first + i, j0, keys, a + i * PF_PROBE_BLOCK,
                        &p->top[task * p->n + first + i], &p->sum[task * p->n + first + i]);
        }
    }
}

static size_t exact_bytes(const pf_partition *p) {
    return 2 * pf_encoded_bytes(&p->encoder, false) +
           PF_PROBE_BLOCK * PF_PROBE_BLOCK * sizeof(float);
}

static void exact_task(void *context, int64_t task, void *scratch) {
    const pf_partition *p = context;
    pf_encoded q, k;
    pf_encoded_open(&q, &p->encoder, task % p->H, false, &scratch);
    pf_encoded_open(&k, &p->encoder, task % p->H, false, &scratch);
    float *a = pf_carve(&scratch, PF_PROBE_BLOCK * PF_PROBE_BLOCK * sizeof(float));
    for (int64_t first = 0; first < p->n; first += PF_PROBE_BLOCK) {
        exact_block(p, task, first, &q, &k, a);
    }
}

int pf_partition_run(pf_partition *p) {
    if (p->exact) {
        return pf_parallel(p->engine, p->B * p->H, exact_bytes(p), exact_task, p);
    }
    return pf_parallel(p->engine, p->B * p->H, pf_sweep_bytes(p, false), favor_task, p);
}
