/*
 * log_partition.c - the row log_partition: log sum_j phi(q_i).phi(k_j), the normaliser of
 * attention by itself (paper, eq. 4: log of the diagonal of D), differentiable.
 *
 *     rho_i = dLoss/dout_i / R_i           (R, z, M, l of partition.h)
 *     dphi(q_i) = rho_i z_i                dphi(k_j) = e^(l_j - M) y_j,   y_j = sum rho_i q'_i
 *
 * over the queries i that see key j. Causal: y runs backwards and is kept in units of the
 * M that stands at j, so every factor is at most 1. The backward redoes the sums; nothing is
 * saved. exact: P_ij = softmax, dq = scale^2 g_i P k, dk = scale^2 (g P)^T q.
 */
#include <math.h>
#include <string.h>

#include "partition.h"

enum { Q, K, PROJECTION, MASK, TILTS, INPUTS };
enum { A_MAP, A_SCALE, A_EPS, A_RATIO, A_TILT, A_CAUSAL, A_EXACT, A_COUNT };

static const pf_attr_info attrs[A_COUNT] = {
    {"map", PF_ATTR_CHOICE, 0, false, PF_MAP_CHOICES, "feature map"},
    {"scale", PF_ATTR_FLOAT, 0, false, NULL,
     "x = scale q; 0: d^(-1/4) for softmax and exact, 1 for the others"},
    {"eps", PF_ATTR_FLOAT, -1, false, NULL, "added to every feature; -1: the map's own"},
    {"ratio", PF_ATTR_FLOAT, 0, false, NULL, "phi = ratio f(u) + eps; 0: the map's own"},
    {"tilt", PF_ATTR_FLOAT, 0, false, NULL, "A of softmax_plus, below 1/4"},
    {"causal", PF_ATTR_BOOL, 0, false, NULL, "position i sees keys 1 .. i"},
    {"exact", PF_ATTR_BOOL, 0, false, NULL,
     "log sum_j exp(scale^2 q_i.k_j) itself, in quadratic time; takes no projection"},
};

static const pf_map *map_of(const pf_call *c) { return pf_map_at((int)c->attr[A_MAP].i); }

static int check_projection(const pf_call *c) {
    const pf_tensor *W = c->in[PROJECTION];
    bool exact = c->attr[A_EXACT].i != 0;
    if (!W && (exact || !map_of(c)->softmax)) return 0;
    if (!W) {
        return pf_fail(PF_EINVAL,
                       "log_partition: the map '%s' needs a projection (features, "
                       "head_dim); draw one with a kernel",
                       map_of(c)->name);
    }
    if (exact) return pf_fail(PF_EINVAL, "log_partition: exact takes no projection");
    PF_TRY(pf_tensor_check(W, PF_F32, "log_partition", "projection"));
    int64_t H = c->in[Q]->shape[1], d = c->in[Q]->shape[3];
    if ((W->rank == 2 || (W->rank == 3 && W->shape[0] == H)) && W->shape[W->rank - 1] == d &&
        W->shape[W->rank - 2] >= 1) {
        return 0;
    }
    return pf_shape_fail(c, "projection must be (features, %lld) or (%lld, features, %lld)",
                         (long long)d, (long long)H, (long long)d);
}

static int partition_shape(pf_call *c) {
    const pf_tensor *q = c->in[Q], *k = c->in[K], *mask = c->in[MASK];
    PF_TRY(pf_want(c, Q, PF_F32));
    PF_TRY(pf_want(c, K, PF_F32));
    bool fit = q->rank == 4 && k->rank == 4 && q->shape[0] == k->shape[0] &&
               q->shape[1] == k->shape[1] && q->shape[3] == k->shape[3] && q->shape[3] >= 1;
    if (!fit)
        return pf_shape_fail(c, "they must be (batch, heads, length, width), alike but "
                                "for the length");
    if (c->attr[A_CAUSAL].i && q->shape[2] != k->shape[2]) {
        return pf_shape_fail(c, "causal needs as many queries as keys");
    }
    if (mask &&
        (mask->rank != 2 || mask->shape[0] != k->shape[0] || mask->shape[1] != k->shape[2])) {
        return pf_shape_fail(c, "mask must be (batch, length) = [%lld, %lld]",
                             (long long)k->shape[0], (long long)k->shape[2]);
    }
    PF_TRY(check_projection(c));
    const pf_map *map = c->attr[A_EXACT].i ? &pf_map_given : map_of(c);
    PF_TRY(pf_attend_tilt(c, TILTS, c->attr[A_TILT].f, map, q->shape[1]));
    return pf_set_shape(c, 0, PF_F32, 3, q->shape);
}

/* ---- filling ---- */

enum { HELD = 4 };

static int fill(pf_partition *p, pf_call *c, pf_tensor **held) {
    const pf_tensor *q = c->in[Q];
    int64_t d = q->shape[3];
    *p = (pf_partition){.engine = c->engine,
                        .exact = c->attr[A_EXACT].i != 0,
                        .causal = c->attr[A_CAUSAL].i != 0,
                        .B = q->shape[0],
                        .H = q->shape[1],
                        .Lk = c->in[K]->shape[2],
                        .n = q->shape[2],
                        .mask = c->in[MASK]};
    const pf_map *map = p->exact ? &pf_map_given : map_of(c);
    pf_kernel kernel = {.map = map,
                        .head_dim = d,
                        .scale =
                            pf_map_scale(p->exact ? &pf_map_softmax : map, c->attr[A_SCALE].f, d),
                        .eps = c->attr[A_EPS].f < 0 ? map->eps : c->attr[A_EPS].f,
                        .ratio = c->attr[A_RATIO].f,
                        .tilt = c->attr[A_TILT].f};
    PF_TRY(pf_rows_ready(c->engine, c->in[Q], &held[0], &p->q));
    PF_TRY(pf_rows_ready(c->engine, c->in[K], &held[1], &p->k));
    if (c->in[PROJECTION]) PF_TRY(pf_tensor_compact(&held[2], c->engine, c->in[PROJECTION]));
    if (c->in[TILTS]) {
        PF_TRY(pf_tensor_compact(&held[3], c->engine, c->in[TILTS]));
        PF_TRY(pf_attend_tilt_values(c->op->name, pf_f32(held[3]), p->H));
    }
    return pf_encoder_open(&p->encoder, c->engine, &kernel, held[2], held[3], d);
}

static void release(pf_tensor **held, int n) {
    for (int i = 0; i < n; i++) pf_tensor_release(&held[i]);
}

/* size, sum and top (B, H, n) in one block of the heap. */
static size_t sums_bytes(const pf_partition *p) {
    return (size_t)(p->B * p->H * p->n) * (2 * sizeof(double) + sizeof(float));
}

static int make_sums(pf_partition *p) {
    p->sum = pf_heap_alloc(p->engine->heap, sums_bytes(p));
    if (!p->sum) return PF_ENOMEM;
    p->size = p->sum + p->B * p->H * p->n;
    p->top = (float *)(p->size + p->B * p->H * p->n);
    return 0;
}

static void free_sums(pf_partition *p) {
    if (p->sum) pf_heap_free(p->engine->heap, p->sum, sums_bytes(p));
    p->sum = NULL;
}

/* ---- forward ---- */

static int run_forward(pf_partition *p, pf_call *c, pf_tensor **held) {
    PF_TRY(fill(p, c, held));
    PF_TRY(make_sums(p));
    PF_TRY(pf_partition_run(p));
    float *out = pf_f32(c->out[0]);
    for (int64_t i = 0; i < p->B * p->H * p->n; i++) {
        double size = p->size[i] + (double)p->top[i];
        out[i] = p->sum[i] == 0 ? -INFINITY : (float)(size + log(p->sum[i]));
    }
    return 0;
}

static int partition_forward(pf_call *c) {
    pf_partition p = {0};
    pf_tensor *held[HELD] = {NULL};
    int status = run_forward(&p, c, held);
    free_sums(&p);
    release(held, HELD);
    return status;
}

/* ---- backward ---- */

typedef struct {
    pf_partition p;
    bool need_q, need_k;
    const float *g; /* (B, H, n) */
    float *dq, *dk; /* (B, H, n, d), (B, H, Lk, d), contiguous */
} backward_op;

/* What one head needs beside the sweep. */
typedef struct {
    const backward_op *op;
    pf_sweep s;
    double *rho, *y; /* (n), (r) */
    float *top;      /* (n): M at each query */
} backward_work;

static size_t backward_bytes(const backward_op *op) {
    int64_t own = op->p.encoder.r * (int64_t)sizeof(double) +
                  op->p.n * (int64_t)(sizeof(double) + sizeof(float));
    return pf_sweep_bytes(&op->p, true) + (size_t)own + 3 * PF_ALIGN;
}

static void open_backward(backward_work *w, const backward_op *op, int64_t task, void *scratch) {
    w->op = op;
    pf_sweep_open(&w->s, &op->p, task, true, &scratch);
    w->y = pf_carve(&scratch, (size_t)w->s.r * sizeof(double));
    w->rho = pf_carve(&scratch, (size_t)op->p.n * sizeof(double));
    w->top = pf_carve(&scratch, (size_t)op->p.n * sizeof(float));
    memset(w->y, 0, (size_t)w->s.r * sizeof(double));
}

static void encode_block(backward_work *w, pf_side side, int64_t first, int64_t n) {
    const pf_rows *rows = side == PF_SIDE_QUERY ? &w->op->p.q : &w->op->p.k;
    pf_encode(side == PF_SIDE_QUERY ? &w->s.q : &w->s.k, side,
              pf_rows_at(rows, w->s.item, w->s.head, 0), rows->row, NULL, first, n);
}

/* rho, M and dq of the queries first ..; in full heads y too. */
static void query_block(backward_work *w, int64_t first, int64_t n) {
    const pf_partition *p = &w->op->p;
    int64_t r = w->s.r, d = w->op->p.encoder.d;
    encode_block(w, PF_SIDE_QUERY, first, n);
    for (int64_t i = first; i < first + n; i++) {
        const float *f = w->s.q.f + (i - first) * r;
        float *df = w->s.q.df + (i - first) * r;
        if (p->causal) pf_sweep_take(&w->s, i + 1);
        double sum = pf_sweep_sum(&w->s, f);
        w->rho[i] = sum == 0 ? 0 : (double)w->op->g[w->s.at * p->n + i] / sum;
        w->top[i] = w->s.M;
        for (int64_t a = 0; a < r; a++) df[a] = (float)(w->rho[i] * w->s.z[a]);
        if (p->causal) continue;
        for (int64_t a = 0; a < r; a++) w->y[a] += w->rho[i] * (double)f[a];
    }
    if (!w->op->need_q) return;
    pf_encode_pull(&w->s.q, PF_SIDE_QUERY, n, w->op->dq + (w->s.at * p->n + first) * d, d);
}

/* y moves from the position after i to i, and takes in query i. */
static void step_back(backward_work *w, int64_t i, const float *f) {
    int64_t r = w->s.r, n = w->op->p.n;
    double keep = i + 1 < n ? (double)pf_decay(w->top[i], w->top[i + 1]) : 0;
    for (int64_t a = 0; a < r; a++) w->y[a] = keep * w->y[a] + w->rho[i] * (double)f[a];
}

/* dk of the keys first .. */
static void key_block(backward_work *w, int64_t first, int64_t n) {
    const pf_partition *p = &w->op->p;
    int64_t r = w->s.r, d = w->op->p.encoder.d;
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
    pf_encode_pull(&w->s.k, PF_SIDE_KEY, n, w->op->dk + (w->s.at * p->Lk + first) * d, d);
}

static void backward_task(void *context, int64_t task, void *scratch) {
    const backward_op *op = context;
    backward_work w;
    open_backward(&w, op, task, scratch);
    if (!op->p.causal) pf_sweep_take(&w.s, op->p.Lk);
    for (int64_t first = 0; first < op->p.n; first += PF_PROBE_BLOCK) {
        query_block(&w, first, pf_min(PF_PROBE_BLOCK, op->p.n - first));
    }
    if (!op->need_k) return;
    int64_t blocks = pf_ceil_div(op->p.Lk, PF_PROBE_BLOCK);
    for (int64_t b = blocks - 1; b >= 0; b--) {
        int64_t first = b * PF_PROBE_BLOCK;
        key_block(&w, first, pf_min(PF_PROBE_BLOCK, op->p.Lk - first));
    }
}

/* ---- backward, exact ---- */

/* a (BLOCK, BLOCK) <- g_i P_ij of query block i0 and key block j0, 0 where not seen. */
static void weigh(const backward_op *op, int64_t task, int64_t i0, int64_t n, int64_t j0,
                  int64_t keys, int64_t rows, float *a) {
    const pf_partition *p = &op->p;
    for (int64_t i = 0; i < rows; i++) {
        float *row = a + i * PF_PROBE_BLOCK;
        int64_t at = task * p->n + i0 + i;
        for (int64_t j = 0; j < PF_PROBE_BLOCK; j++) {
            bool seen = i < n && j < keys && p->sum[at] != 0 &&
                        pf_partition_sees(p, task / p->H, i0 + i, j0 + j);
            double weight = seen ? exp((double)row[j] - (double)p->top[at]) / p->sum[at] : 0;
            row[j] = seen ? (float)((double)op->g[at] * weight) : 0;
        }
    }
}

/* The pair of loaded blocks: dq += a k, dk += a^T q, both not yet scaled. */
static void spread(const backward_op *op, int64_t task, int64_t i0, int64_t n, int64_t j0,
                   int64_t keys, pf_encoded *q, pf_encoded *k, float *a) {
    int64_t d = op->p.encoder.d, B = PF_PROBE_BLOCK;
    const pf_kern *kern = op->p.encoder.kern;
    float *out = q->df; /* (BLOCK, d): r is d */
    if (op->need_q) {
        pf_block_gemm(kern, false, false, q->rows, d, k->rows, a, B, k->x, d, 0, out, d, q->panel);
        kern->axpy(n * d, op->p.encoder.scale, out, op->dq + (task * op->p.n + i0) * d);
    }
    if (!op->need_k) return;
    pf_block_gemm(kern, true, false, k->rows, d, q->rows, a, B, q->x, d, 0, out, d, q->panel);
    kern->axpy(keys * d, op->p.encoder.scale, out, op->dk + (task * op->p.Lk + j0) * d);
}

static void exact_backward_task(void *context, int64_t task, void *scratch) {
    const backward_op *op = context;
    const pf_partition *p = &op->p;
    const pf_encoder *e = &p->encoder;
    int64_t item = task / p->H, head = task % p->H;
    pf_encoded q, k;
    pf_encoded_open(&q, e, head, true, &scratch);
    pf_encoded_open(&k, e, head, true, &scratch);
    float *a = pf_carve(&scratch, PF_PROBE_BLOCK * PF_PROBE_BLOCK * sizeof(float));
    for (int64_t i0 = 0; i0 < p->n; i0 += PF_PROBE_BLOCK) {
        int64_t n = pf_min(PF_PROBE_BLOCK, p->n - i0);
        pf_encode_load(&q, pf_rows_at(&p->q, item, head, 0), p->q.row, NULL, i0, n);
        int64_t end = p->causal ? pf_min(p->Lk, i0 + n) : p->Lk;
        for (int64_t j0 = 0; j0 < end; j0 += PF_PROBE_BLOCK) {
            int64_t keys = pf_min(PF_PROBE_BLOCK, p->Lk - j0);
            pf_encode_load(&k, pf_rows_at(&p->k, item, head, 0), p->k.row, NULL, j0, keys);
            pf_exact_scores(&q, &k, a);
            weigh(op, task, i0, n, j0, keys, q.rows, a);
            spread(op, task, i0, n, j0, keys, &q, &k, a);
        }
    }
}

static int make_gradient(pf_call *c, int input, pf_tensor **t, float **data) {
    const pf_tensor *x = c->in[input];
    PF_TRY(pf_tensor_make(t, c->engine, PF_F32, 4, x->shape));
    PF_TRY(pf_tensor_fill(*t, 0));
    *data = pf_f32(*t);
    return 0;
}

static int run_backward(backward_op *op, pf_call *c, pf_tensor **held) {
    pf_partition *p = &op->p;
    op->need_q = c->need[Q], op->need_k = c->need[K];
    PF_TRY(fill(p, c, held));
    PF_TRY(pf_tensor_compact(&held[HELD], c->engine, c->dout[0]));
    op->g = pf_f32(held[HELD]);
    if (op->need_q) PF_TRY(make_gradient(c, Q, &held[HELD + 1], &op->dq));
    if (op->need_k) PF_TRY(make_gradient(c, K, &held[HELD + 2], &op->dk));
    if (p->exact) {
        PF_TRY(make_sums(p));
        PF_TRY(pf_partition_run(p));
        size_t bytes = 2 * pf_encoded_bytes(&p->encoder, true) +
                       PF_PROBE_BLOCK * PF_PROBE_BLOCK * sizeof(float);
        PF_TRY(pf_parallel(c->engine, p->B * p->H, bytes, exact_backward_task, op));
    } else {
        PF_TRY(pf_parallel(c->engine, p->B * p->H, backward_bytes(op), backward_task, op));
    }
    if (op->need_q) PF_TRY(pf_grad_give(c, Q, held[HELD + 1]));
    return op->need_k ? pf_grad_give(c, K, held[HELD + 2]) : 0;
}

static int partition_backward(pf_call *c) {
    backward_op op = {0};
    pf_tensor *held[HELD + 3] = {NULL};
    int status = run_backward(&op, c, held);
    free_sums(&op.p);
    release(held, HELD + 3);
    return status;
}

const pf_op pf_op_log_partition = {
    .name = "log_partition",
    .args = "q, k, [projection], [mask], [tilts]",
    .results = "out",
    .doc = "The normaliser of attention by itself: log sum_j phi(q_i).phi(k_j), for softmax maps "
           "an estimate of log sum_j exp(scale^2 q_i.k_j), in O(L m). q (B, H, Lq, d), k (B, H, "
           "Lk, d) -> (B, H, Lq), projection (features, d) or (H, features, d), mask (B, Lk) of "
           "1 keep and 0 not there. No key in reach: -inf, gradients 0; a negative sum (maps of "
           "any sign): NaN. Paper, eq. 4.",
    .min_in = 2,
    .max_in = INPUTS,
    .n_out = 1,
    .uses = PF_USES_ALL_IN,
    .attrs = attrs,
    .n_attrs = A_COUNT,
    .shape = partition_shape,
    .forward = partition_forward,
    .backward = partition_backward,
};
