/*
 * sums_linear.c - sums over keys by features (partition.h): O(L m) and one vector z (r) in double
 * a head; causal heads walk queries and keys together. Nothing of size Lq x Lk exists, and a
 * sum's bits depend on its own head alone.
 *
 *     rho_i = dLoss/dout_i / R_i           (R, z, M, l of partition.h)
 *     dphi(q_i) = rho_i z_i                dphi(k_j) = e^(l_j - M) y_j,   y_j = sum rho_i q'_i
 *
 * over the queries i that see key j. Causal: y runs backwards and is kept in units of the M that
 * stands at j, so every factor is at most 1. The backward redoes the sums; nothing is saved.
 */
#include <math.h>
#include <string.h>

#include "partition.h"

/* The running sum over keys of one head. */
typedef struct {
    const pf_partition *p;
    int64_t item, head, at; /* at: of item and head together */
    int64_t r;
    pf_encoded q, k;
    double *z; /* (r) */
    float M;
    int64_t keys;        /* taken in so far */
    int64_t from, until; /* keys that k holds encoded */
} sweep;

static size_t sweep_bytes(const pf_partition *p, bool backward) {
    size_t z = (size_t)pf_round_up(p->encoding.r * (int64_t)sizeof(double), PF_ALIGN);
    return 2 * pf_encoded_bytes(&p->encoding, backward) + z;
}

static void open_sweep(sweep *s, const pf_partition *p, int64_t task, bool backward,
                       void **scratch) {
    *s = (sweep){.p = p,
                 .item = task / p->H,
                 .head = task % p->H,
                 .at = task,
                 .r = p->encoding.r,
                 .M = -INFINITY};
    pf_encoded_open(&s->q, &p->encoding, s->head, backward, scratch);
    pf_encoded_open(&s->k, &p->encoding, s->head, backward, scratch);
    s->z = pf_carve(scratch, (size_t)s->r * sizeof(double));
    memset(s->z, 0, (size_t)s->r * sizeof(double));
}

/* z <- z + e^(l - M) f, with M grown to l first where l is larger. NaN spreads. */
static void add_key(sweep *s, const float *f, float l) {
    if (l == -INFINITY) return;
    if (!(l <= s->M)) {
        double keep = s->M == -INFINITY ? 0 : exp((double)s->M - (double)l);
        for (int64_t a = 0; a < s->r; a++) s->z[a] *= keep;
        s->M = l;
    }
    double weight = exp((double)l - (double)s->M);
    for (int64_t a = 0; a < s->r; a++) s->z[a] += weight * (double)f[a];
}

/* Takes in the keys up to `end`, encoding them block by block as they are reached. */
static void take(sweep *s, int64_t end) {
    const pf_partition *p = s->p;
    for (; s->keys < end; s->keys++) {
        if (s->keys >= s->until) {
            if (pf_partition_stopped(p)) return;
            s->from = s->until;
            s->until = pf_min(s->from + PF_ENCODED_BLOCK, p->Lk);
            pf_encoded_fill(&s->k, PF_SIDE_KEY, pf_heads_row(&p->k, s->item, s->head, 0), p->k.row,
                            NULL, s->from, s->until - s->from);
        }
        if (!pf_mask_keeps(p->mask, s->item, s->keys)) continue;
        int64_t j = s->keys - s->from;
        add_key(s, s->k.f + j * s->r, s->k.shift[j]);
    }
}

/* R = f.z, in double; too small counts as none. */
static double sum_of(const sweep *s, const float *f) {
    double sum = 0;
    for (int64_t a = 0; a < s->r; a++) sum += (double)f[a] * s->z[a];
    return fabs(sum) < PF_TINY_SUM ? 0 : sum;
}

static void answer(sweep *s, int64_t i, const float *f, float shift) {
    const pf_partition *p = s->p;
    int64_t to = s->at * p->n + i;
    p->sum[to] = sum_of(s, f);
    p->top[to] = s->M;
    if (p->size) p->size[to] = (double)shift + 2 * s->q.encoder.args.left_out;
}

/* Task: one head of one item. Full heads take all keys in before the first query. */
static void run_task(void *context, int64_t task, void *scratch) {
    const pf_partition *p = context;
    sweep s;
    open_sweep(&s, p, task, false, &scratch);
    if (!p->causal) take(&s, p->Lk);
    for (int64_t first = 0; first < p->n; first += PF_ENCODED_BLOCK) {
        int64_t n = pf_min(PF_ENCODED_BLOCK, p->n - first);
        if (pf_partition_stopped(p)) return;
        pf_encoded_fill(&s.q, PF_SIDE_QUERY, pf_heads_row(&p->q, s.item, s.head, 0), p->q.row,
                        p->at, first, n);
        for (int64_t i = first; i < first + n; i++) {
            if (p->causal) take(&s, (p->at ? p->at[i] : i) + 1);
            answer(&s, i, s.q.f + (i - first) * s.r, s.q.shift[i - first]);
        }
    }
}

/* ---- backward ---- */

/* e^(a - b); 0 when a is -inf, 1 when both are the same number. */
static double decay_of(float a, float b) {
    if (a == -INFINITY) return 0;
    return a == b ? 1 : (double)expf(a - b);
}

/* What one head needs beside the sweep. */
typedef struct {
    const pf_partition_back *op;
    sweep s;
    double *rho, *y; /* (n), (r) */
    float *top;      /* (n): M at each query */
} backward_work;

static size_t backward_bytes(const pf_partition_back *op) {
    int64_t own = op->p.encoding.r * (int64_t)sizeof(double) +
                  op->p.n * (int64_t)(sizeof(double) + sizeof(float));
    return sweep_bytes(&op->p, true) + (size_t)own + 3 * (size_t)PF_ALIGN;
}

static void open_backward(backward_work *w, const pf_partition_back *op, int64_t task,
                          void *scratch) {
    w->op = op;
    open_sweep(&w->s, &op->p, task, true, &scratch);
    w->y = pf_carve(&scratch, (size_t)w->s.r * sizeof(double));
    w->rho = pf_carve(&scratch, (size_t)op->p.n * sizeof(double));
    w->top = pf_carve(&scratch, (size_t)op->p.n * sizeof(float));
    memset(w->y, 0, (size_t)w->s.r * sizeof(double));
}

static void encode_block(backward_work *w, pf_side side, int64_t first, int64_t n) {
    const pf_heads *rows = side == PF_SIDE_QUERY ? &w->op->p.q : &w->op->p.k;
    pf_encoded_fill(side == PF_SIDE_QUERY ? &w->s.q : &w->s.k, side,
                    pf_heads_row(rows, w->s.item, w->s.head, 0), rows->row, NULL, first, n);
}

/* rho, M and dq of the queries first ..; in full heads y too. */
static void query_block(backward_work *w, int64_t first, int64_t n) {
    const pf_partition *p = &w->op->p;
    int64_t r = w->s.r, d = w->op->p.encoding.d;
    encode_block(w, PF_SIDE_QUERY, first, n);
    for (int64_t i = first; i < first + n; i++) {
        const float *f = w->s.q.f + (i - first) * r;
        float *df = w->s.q.df + (i - first) * r;
        if (p->causal) take(&w->s, i + 1);
        double sum = sum_of(&w->s, f);
        w->rho[i] = sum == 0 ? 0 : (double)w->op->g[w->s.at * p->n + i] / sum;
        w->top[i] = w->s.M;
        for (int64_t a = 0; a < r; a++) df[a] = (float)(w->rho[i] * w->s.z[a]);
        if (p->causal) continue;
        for (int64_t a = 0; a < r; a++) w->y[a] += w->rho[i] * (double)f[a];
    }
    if (!w->op->need_q) return;
    pf_encoded_pull(&w->s.q, PF_SIDE_QUERY, n, w->op->dq + (w->s.at * p->n + first) * d, d);
}

/* y moves from the position after i to i, and takes in query i. */
static void step_back(backward_work *w, int64_t i, const float *f) {
    int64_t r = w->s.r, n = w->op->p.n;
    double keep = i + 1 < n ? decay_of(w->top[i], w->top[i + 1]) : 0;
    for (int64_t a = 0; a < r; a++) w->y[a] = keep * w->y[a] + w->rho[i] * (double)f[a];
}

/* dk of the keys first .. */
static void key_block(backward_work *w, int64_t first, int64_t n) {
    const pf_partition *p = &w->op->p;
    int64_t r = w->s.r, d = w->op->p.encoding.d;
    encode_block(w, PF_SIDE_KEY, first, n);
    if (p->causal) encode_block(w, PF_SIDE_QUERY, first, n);
    for (int64_t j = first + n - 1; j >= first; j--) {
        float *df = w->s.k.df + (j - first) * r, l = w->s.k.shift[j - first];
        if (p->causal) step_back(w, j, w->s.q.f + (j - first) * r);
        float M = p->causal ? w->top[j] : w->s.M;
        bool kept = pf_mask_keeps(p->mask, w->s.item, j) && l != -INFINITY;
        double weight = kept ? exp((double)l - (double)M) : 0;
        for (int64_t a = 0; a < r; a++) df[a] = kept ? (float)(weight * w->y[a]) : 0;
        if (!kept) memset(w->s.k.f + (j - first) * r, 0, (size_t)r * sizeof(float));
        if (!kept) memset(w->s.k.x + (j - first) * d, 0, (size_t)d * sizeof(float));
    }
    pf_encoded_pull(&w->s.k, PF_SIDE_KEY, n, w->op->dk + (w->s.at * p->Lk + first) * d, d);
}

/* Task: one head of one item: queries forward, which makes rho and M, then keys backward. */
static void back_task(void *context, int64_t task, void *scratch) {
    const pf_partition_back *op = context;
    backward_work w;
    open_backward(&w, op, task, scratch);
    if (!op->p.causal) take(&w.s, op->p.Lk);
    for (int64_t first = 0; first < op->p.n; first += PF_ENCODED_BLOCK) {
        if (pf_partition_stopped(&op->p)) return;
        query_block(&w, first, pf_min(PF_ENCODED_BLOCK, op->p.n - first));
    }
    if (!op->need_k) return;
    int64_t blocks = pf_ceil_div(op->p.Lk, PF_ENCODED_BLOCK);
    for (int64_t b = blocks - 1; b >= 0; b--) {
        int64_t first = b * PF_ENCODED_BLOCK;
        if (pf_partition_stopped(&op->p)) return;
        key_block(&w, first, pf_min(PF_ENCODED_BLOCK, op->p.Lk - first));
    }
}

/* ---- the row ---- */

static size_t run_bytes(const pf_partition *p) { return sweep_bytes(p, false); }

static void linear_encoding(pf_encoding *encoding, const pf_kernel *kernel, const pf_kern *kern,
                            int64_t d, double scale) {
    (void)scale;
    if (pf_kernel_given(kernel)) {
        pf_encoding_given(encoding, kern, d, 1);
    } else {
        pf_encoding_of(encoding, kernel, kern);
    }
}

static const float *features_of(const pf_encoded *block, int64_t *width) {
    *width = block->encoder.of->r;
    return block->f;
}

/* w = e^(l - M) q'.k' / R; a masked or empty key has l = -inf. */
static double weight_of(float product, float shift, float top, double sum) {
    if (shift == -INFINITY) return 0;
    return exp((double)shift - (double)top) / sum * (double)product;
}

const pf_sums pf_sums_linear = {
    .encoding = linear_encoding,
    .bytes = run_bytes,
    .run = run_task,
    .back_bytes = backward_bytes,
    .back = back_task,
    .load = pf_encoded_fill,
    .vectors = features_of,
    .weight = weight_of,
};
