/*
 * exact.c - exact softmax attention, the judge:
 *
 *     out_i = sum_j softmax_j(scale q_i . k_j) v_j,     scale = 1 / sqrt(d)
 *
 * over the keys that query i sees: all, or the first n_i of its segment (causal, a staircase, a
 * prefix: reach.h). Query head h of H reads key head h / (H / Hk).
 *
 * Blockwise with a running log-sum-exp, so no (Lq, Lk) array exists: a block of queries
 * meets one block of keys after the other. Of each pair of blocks
 *
 *     p (queries, keys) = softmax of the scores of these keys alone,  b_i its log-sum-exp
 *     t_i = log(e^(a_i) + e^(b_i)),  o_i <- e^(a_i - t_i) o_i + e^(b_i - t_i) (p v)_i,  a_i <- t_i
 *
 * where o_i is the answer from the keys so far, normalised, and a_i their log-sum-exp: every
 * factor is at most 1, and o_i is right after each block.
 *
 * Products have one fixed shape, short blocks are padded; what a query may not see is set to -inf
 * before the exponential, and values that are not finite join row by row, so nothing leaks from
 * the future. A block that no query of the pair sees anything of is left out whole.
 *
 * Saved: out and one log-sum-exp a row; the backward redoes the weights, P_ij = e^(s_ij - a_i),
 *
 *     dS_ij = P_ij (dout_i . v_j - dout_i . out_i)
 *     dq = scale dS k,  dk = scale dS^T q,  dv = P^T dout.
 *
 * Dropout acts on weights where they meet values, and so on P in dv and on dout_i . v_j in dS; sums
 * of weights, and dout_i . out_i, stay as they are.
 *
 * Forward a task is a block of queries, backward a head of keys: its blocks outside, so that dk and
 * dv are finished while they are in the cache, and all queries that see them inside. Heads of a
 * group are one task then, since they add to the same dk and dv.
 */
#include <math.h>
#include <string.h>

#include "attention.h"
#include "dropout.h"
#include "gemm.h"

enum { Q = PF_IN_Q, K = PF_IN_K, V = PF_IN_V };
enum { A_CAUSAL, A_SCALE, A_DROPOUT, A_DRAW, A_COUNT };
enum { BLOCK = 128 };

typedef struct {
    const pf_kern *kern;
    int64_t B, H, Hk, group, Lq, Lk, d, dv, q_blocks;
    int64_t ahead; /* causal without limits: query i sees i + 1 + ahead keys, ahead = Lk - Lq */
    float scale;
    bool causal;
    pf_heads q, k, v, out, dout, dq, dk, dvalue;
    bool need_q, need_k, need_v;
    const pf_tensor *mask;
    const float *decay; /* (Hk); NULL: none */
    bool dropped;       /* weights are, by `drops` */
    pf_drops drops;
    float *lse; /* (B, H, Lq) */
    pf_reach reach;
} exact_op;

/*
 * One pair of blocks: queries from `i0`, keys from `j0` of a segment. Loaded rows past the end are
 * 0: queries there see nothing, keys there are seen by nobody.
 *
 * Forward o, lse gather what the keys so far give, part, block_lse are of the running block. On the
 * way back o and g are out and dout of the loaded queries, and dq, dk, dvalue grow: dk and dvalue
 * over the queries of one block of keys, dq row by row in the gradient itself.
 */
typedef struct {
    const exact_op *op;
    const pf_kern *kern;
    const pf_segment *seg;
    int64_t head, kv, q_length, k_length;
    float *q, *k, *v;   /* (BLOCK, d), (BLOCK, d), (BLOCK, dv); q scaled, v finite */
    float *p, *dp;      /* (BLOCK, BLOCK) */
    float *o, *part;    /* (BLOCK, dv) */
    float *dk, *dvalue; /* (BLOCK, d), (BLOCK, dv) */
    float *dq;          /* (BLOCK, d) */
    float *g;           /* (BLOCK, dv) */
    float *lse, *block_lse;
    int32_t *sees; /* (BLOCK): how many keys of the segment each query sees */
    float *panel;  /* of block_gemm */
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
    w->sees = pf_carve(scratch, BLOCK * sizeof(int32_t));
}

/* What carve_all cuts, measured from address 0. */
static size_t work_bytes(const exact_op *op) {
    exact_work w;
    void *end = NULL;
    carve_all(&w, op, &end);
    return (size_t)(uintptr_t)end;
}

static void open_work(exact_work *w, const exact_op *op, int64_t segment, int64_t head,
                      void *scratch) {
    *w = (exact_work){.op = op, .kern = op->kern, .seg = &op->reach.list[segment]};
    w->head = head;
    w->kv = head / op->group;
    w->k_length = w->seg->length;
    w->q_length = w->seg->q_length;
    carve_all(w, op, &scratch);
}

/* to (BLOCK, width) <- scale * n rows of `head` from position `start` on, then 0. */
static void load(const exact_work *w, const pf_heads *rows, int64_t head, int64_t start, int64_t n,
                 float scale, float *to) {
    int64_t width = rows->width;
    for (int64_t i = 0; i < n; i++) {
        const float *row = pf_heads_row(rows, w->seg->item, head, start + i);
        w->kern->scale(width, scale, row, to + i * width);
    }
    memset(to + n * width, 0, (size_t)((BLOCK - n) * width) * sizeof(float));
}

static int64_t query_rows(const exact_work *w, int64_t i0) {
    return pf_min(BLOCK, w->q_length - i0);
}

/* Queries are scaled as they are loaded: scores, and dk, are then plain products. */
static void load_queries(const exact_work *w, const pf_heads *rows, int64_t i0, float scale,
                         float *to) {
    load(w, rows, w->head, w->seg->q_start + i0, query_rows(w, i0), scale, to);
}

static void load_keys(const exact_work *w, const pf_heads *rows, int64_t j0, float *to) {
    load(w, rows, w->kv, w->seg->start + j0, pf_min(BLOCK, w->k_length - j0), 1, to);
}

/* v with rows that are not finite listed and zeroed. */
static void load_values(exact_work *w, int64_t first) {
    int64_t dv = w->op->dv;
    load_keys(w, &w->op->v, first, w->v);
    w->n_bad = 0;
    for (int64_t j = 0; j < BLOCK; j++) {
        if (isfinite(w->kern->sumsq(dv, w->v + j * dv))) continue;
        w->bad[w->n_bad++] = (int32_t)j;
        memset(w->v + j * dv, 0, (size_t)dv * sizeof(float));
    }
}

/* How many keys query i of the segment sees. */
static int64_t limit_of(const exact_work *w, int64_t i) {
    const exact_op *op = w->op;
    const int32_t *limit = op->reach.limit;
    if (limit) return limit[w->seg->item * op->Lq + w->seg->q_start + i];
    return op->causal ? pf_min(i + 1 + op->ahead, w->k_length) : w->k_length;
}

/* sees (BLOCK) of the queries at i0, 0 past the end; returns the largest, *least the smallest of
 * the real ones. */
static int64_t load_limits(exact_work *w, int64_t i0, int64_t *least) {
    int64_t n = query_rows(w, i0), most = 0;
    *least = w->k_length;
    for (int64_t i = 0; i < BLOCK; i++) {
        w->sees[i] = i < n ? (int32_t)limit_of(w, i0 + i) : 0;
        most = pf_max(most, w->sees[i]);
        if (i < n) *least = pf_min(*least, w->sees[i]);
    }
    return most;
}

/* p gains `decay` a key, from the first of the block on: a query that forgets loses the same
 * wherever it stands, and what all its scores have in common cancels. `from`: of the block. */
static void forget(exact_work *w, float decay, int64_t i, int64_t from) {
    float *row = w->p + i * BLOCK;
    for (int64_t j = 0; j < BLOCK; j++) row[j] += decay * (float)(from + j + 1 - w->sees[i]);
}

/* p (BLOCK, BLOCK) <- scores, -inf where a query may not see key j0+j. least: the fewest keys
 * that a query of the block sees: where that reaches past the block there is nothing to hide. */
static void scores(exact_work *w, int64_t j0, int64_t least) {
    const exact_op *op = w->op;
    pf_block_gemm(w->kern, false, true, BLOCK, BLOCK, op->d, w->q, op->d, w->k, op->d, 0, w->p,
                  BLOCK, w->panel);
    for (int64_t i = 0; op->decay && i < BLOCK; i++) forget(w, op->decay[w->kv], i, j0);
    if (!op->mask && j0 + BLOCK <= least) return;
    bool keep[BLOCK];
    for (int64_t j = 0; j < BLOCK; j++) {
        keep[j] =
            j0 + j < w->k_length && pf_mask_keeps(op->mask, w->seg->item, w->seg->start + j0 + j);
    }
    for (int64_t i = 0; i < BLOCK; i++) {
        float *row = w->p + i * BLOCK;
        for (int64_t j = 0; j < BLOCK; j++) {
            if (!keep[j] || j0 + j >= w->sees[i]) row[j] = -INFINITY;
        }
    }
}

/* x (BLOCK, BLOCK), of the queries at i0 and the keys at j0, without what dropout takes: element
 * (item, head, query, key of the segment). */
static void drop(const exact_work *w, int64_t i0, int64_t j0, float *x) {
    const exact_op *op = w->op;
    if (!op->dropped) return;
    int64_t wide = pf_ceil_div(op->Lk, BLOCK) * BLOCK, n = query_rows(w, i0);
    int64_t row = (w->seg->item * op->H + w->head) * op->Lq + w->seg->q_start + i0;
    for (int64_t i = 0; i < n; i++) {
        pf_drops_apply(&op->drops, (row + i) * wide + j0, BLOCK, x + i * BLOCK, x + i * BLOCK);
    }
}

/* Bad values reach the queries that see them: to_i += p_ij v_j. */
static void add_bad_values(exact_work *w, int64_t j0, float *to) {
    for (int64_t n = 0; n < w->n_bad; n++) {
        int64_t j = w->bad[n];
        int64_t at = w->seg->start + j0 + j;
        if (!pf_mask_keeps(w->op->mask, w->seg->item, at)) continue;
        const float *row = pf_heads_row(&w->op->v, w->seg->item, w->kv, at);
        for (int64_t i = 0; i < BLOCK; i++) {
            if (j0 + j >= w->sees[i] || (w->op->dropped && w->p[i * BLOCK + j] == 0)) continue;
            w->kern->axpy(w->op->dv, w->p[i * BLOCK + j], row, to + i * w->op->dv);
        }
    }
}

/* Joins a block's own softmax into the running one: o, lse. A query that sees none of the block
 * keeps what it has; NaN spreads to the queries that see it. */
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
    load_queries(&w, &op->q, i0, op->scale, w.q);
    memset(w.o, 0, (size_t)(BLOCK * op->dv) * sizeof(float));
    for (int64_t i = 0; i < BLOCK; i++) w.lse[i] = -INFINITY;
    int64_t least, end = load_limits(&w, i0, &least);
    for (int64_t j0 = 0; j0 < end; j0 += BLOCK) {
        load_keys(&w, &op->k, j0, w.k);
        load_values(&w, j0);
        scores(&w, j0, least);
        for (int64_t i = 0; i < BLOCK; i++) {
            w.block_lse[i] = w.kern->softmax(BLOCK, w.p + i * BLOCK, w.p + i * BLOCK);
        }
        drop(&w, i0, j0, w.p);
        pf_block_gemm(w.kern, false, false, BLOCK, op->dv, BLOCK, w.p, BLOCK, w.v, op->dv, 0,
                      w.part, op->dv, w.panel);
        add_bad_values(&w, j0, w.part);
        join_block(&w);
    }
    int64_t n = query_rows(&w, i0), at = w.seg->q_start + i0;
    float *lse = op->lse + (w.seg->item * op->H + w.head) * op->Lq + at;
    memcpy(lse, w.lse, (size_t)n * sizeof(float));
    for (int64_t i = 0; i < n; i++) {
        memcpy(pf_heads_row(&op->out, w.seg->item, w.head, at + i), w.o + i * op->dv,
               (size_t)op->dv * sizeof(float));
    }
}

/* ---- backward ---- */

/* p <- P as v meets it, dp <- dS for the loaded blocks (queries i0, keys j0); 0 in rows that have
 * no key at all, where the log-sum-exp is -inf, and in those past the end. */
static void weights_back(exact_work *w, int64_t i0, int64_t j0, int64_t least) {
    const exact_op *op = w->op;
    int64_t at = w->seg->q_start + i0, n = query_rows(w, i0);
    const float *lse = op->lse + (w->seg->item * op->H + w->head) * op->Lq + at;
    scores(w, j0, least);
    pf_block_gemm(w->kern, false, true, BLOCK, BLOCK, op->dv, w->g, op->dv, w->v, op->dv, 0, w->dp,
                  BLOCK, w->panel);
    drop(w, i0, j0, w->dp);
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
    drop(w, i0, j0, w->p);
}

/* dq rows += scale dS k; dk, dvalue of the key block grow. q is loaded scaled, k is not. */
static void spread(exact_work *w, int64_t i0) {
    const exact_op *op = w->op;
    int64_t d = op->d, dv = op->dv, n = query_rows(w, i0);
    pf_block_gemm(w->kern, true, false, BLOCK, dv, BLOCK, w->p, BLOCK, w->g, dv, 1, w->dvalue, dv,
                  w->panel);
    pf_block_gemm(w->kern, true, false, BLOCK, d, BLOCK, w->dp, BLOCK, w->q, d, 1, w->dk, d,
                  w->panel);
    if (!op->need_q) return;
    pf_block_gemm(w->kern, false, false, BLOCK, d, BLOCK, w->dp, BLOCK, w->k, d, 0, w->dq, d,
                  w->panel);
    for (int64_t i = 0; i < n; i++) {
        w->kern->axpy(d, op->scale, w->dq + i * d,
                      pf_heads_row(&op->dq, w->seg->item, w->head, w->seg->q_start + i0 + i));
    }
}

/* Finished rows of a block of keys into their gradient. */
static void store(const exact_work *w, const pf_heads *rows, int64_t first, const float *from) {
    int64_t n = pf_min(BLOCK, w->k_length - first), at = w->seg->start + first;
    float one = 1;
    pf_heads_put(w->kern, rows, w->seg->item, w->kv, at, n, &one, 0, from);
}

/* dq of the group's heads <- 0. */
static void clear_queries(exact_work *w) {
    for (int64_t g = 0; g < w->op->group; g++) {
        for (int64_t i = 0; i < w->q_length; i++) {
            memset(pf_heads_row(&w->op->dq, w->seg->item, w->kv * w->op->group + g,
                                w->seg->q_start + i),
                   0, (size_t)w->op->d * sizeof(float));
        }
    }
}

/* The loaded keys and all queries of one head that see any of them. */
static void backward_head(exact_work *w, int64_t j0) {
    const exact_op *op = w->op;
    bool plain = op->causal && !op->reach.limit; /* queries before `from` see none of them */
    int64_t from = plain ? pf_max(j0 - op->ahead, 0) / BLOCK * BLOCK : 0;
    for (int64_t i0 = from; i0 < w->q_length; i0 += BLOCK) {
        int64_t least, most = load_limits(w, i0, &least);
        if (most <= j0) continue;
        load_queries(w, &op->q, i0, op->scale, w->q); /* scaled: dk needs scale q */
        load_queries(w, &op->dout, i0, 1, w->g);
        load_queries(w, &op->out, i0, 1, w->o);
        weights_back(w, i0, j0, least);
        spread(w, i0);
    }
}

/* Task: one key head of one segment; key blocks outside, the group's heads and their query
 * blocks inside. */
static void backward_task(void *context, int64_t task, void *scratch) {
    const exact_op *op = context;
    exact_work w;
    open_work(&w, op, task / op->Hk, task % op->Hk * op->group, scratch);
    if (op->need_q) clear_queries(&w);
    for (int64_t j0 = 0; j0 < w.k_length; j0 += BLOCK) {
        load_keys(&w, &op->k, j0, w.k);
        load_values(&w, j0);
        memset(w.dk, 0, (size_t)(BLOCK * op->d) * sizeof(float));
        memset(w.dvalue, 0, (size_t)(BLOCK * op->dv) * sizeof(float));
        for (int64_t g = 0; g < op->group; g++) {
            w.head = w.kv * op->group + g;
            backward_head(&w, j0);
        }
        if (op->need_k) store(&w, &op->dk, j0, w.dk);
        if (op->need_v) store(&w, &op->dvalue, j0, w.dvalue);
    }
}

/* ---- the row ---- */

static bool is_causal(const pf_call *c) { return pf_reach_causal(c, c->attr[A_CAUSAL].i != 0); }

/* Causal without limits the last query sees the last key, so queries may be fewer (streaming). */
static int exact_shape(pf_call *c) {
    int64_t d;
    PF_TRY(pf_reach_rows(c, &d));
    PF_TRY(pf_reach_check(c, c->attr[A_CAUSAL].i != 0));
    if (c->attr[A_CAUSAL].i && !c->in[PF_IN_LIMITS] && c->in[Q]->shape[2] > c->in[K]->shape[2]) {
        return pf_shape_fail(c, "causal attention can't have more queries than keys");
    }
    double p = c->attr[A_DROPOUT].f;
    if (!(p >= 0 && p < 1))
        return pf_fail(PF_EINVAL, "exact_attention: dropout is %g, not in 0 <= p < 1", p);
    return PF_OK;
}

/* What forward and backward share: all but outputs and gradients. seed: of dropout. */
static int fill(exact_op *op, pf_call *c, uint64_t seed) {
    const pf_tensor *q = c->in[Q];
    double scale = c->attr[A_SCALE].f;
    *op = (exact_op){.kern = c->engine->kern,
                     .B = q->shape[0],
                     .H = q->shape[1],
                     .Lq = q->shape[2],
                     .d = q->shape[3],
                     .Hk = c->in[K]->shape[1],
                     .Lk = c->in[K]->shape[2],
                     .dv = c->in[V]->shape[3],
                     .causal = is_causal(c),
                     .mask = c->in[PF_IN_MASK]};
    double p = c->attr[A_DROPOUT].f;
    op->dropped = p > 0;
    op->drops = pf_drops_of(op->kern, p, seed, (uint64_t)c->attr[A_DRAW].i);
    op->ahead = op->Lk - op->Lq;
    op->group = op->Hk > 0 ? op->H / op->Hk : 0;
    op->scale = (float)(scale != 0 ? scale : 1 / sqrt((double)op->d));
    op->q_blocks = pf_max(pf_ceil_div(op->Lq, BLOCK), 1);
    pf_tensor *decay;
    PF_TRY(pf_call_compact(c, c->in[PF_IN_DECAY], &decay));
    if (decay) op->decay = pf_f32(decay);
    PF_TRY(pf_call_heads(c, c->in[Q], &op->q));
    PF_TRY(pf_call_heads(c, c->in[K], &op->k));
    PF_TRY(pf_call_heads(c, c->in[V], &op->v));
    return pf_reach_make(&op->reach, c, 0, false);
}

static int exact_forward(pf_call *c) {
    exact_op op;
    PF_TRY(fill(&op, c, c->engine->seed));
    if (op.dropped && c->record) PF_TRY(pf_drops_save(c, 1));
    PF_TRY(pf_heads_output(&c->out[0], c->engine, op.B, op.H, op.Lq, op.dv));
    op.out = pf_heads_of(c->out[0]);
    int64_t rows[3] = {op.B, op.H, op.Lq};
    PF_TRY(pf_tensor_make(&c->saved[0], c->engine, PF_F32, 3, rows));
    op.lse = pf_f32(c->saved[0]);
    return pf_parallel(c->engine, op.reach.n * op.H * op.q_blocks, work_bytes(&op), forward_task,
                       &op);
}

/* dq grows key block by key block: it is added to what is there when it is whole. */
static int open_gradient(pf_call *c, int i, pf_tensor **t, pf_heads *rows) {
    PF_TRY(pf_heads_gradient(c, i, t, rows));
    return i == Q && rows->add ? pf_heads_own_gradient(c, i, t, rows) : PF_OK;
}

static int exact_backward(pf_call *c) {
    exact_op op;
    pf_tensor *made[3] = {NULL}; /* dq, dk, dv where they are given */
    PF_TRY(fill(&op, c, c->attr[A_DROPOUT].f > 0 ? pf_drops_seed(c, 1) : 0));
    op.out = pf_heads_of(c->out[0]);
    op.lse = pf_f32(c->saved[0]);
    PF_TRY(pf_call_heads(c, c->dout[0], &op.dout));
    op.need_q = c->need[Q], op.need_k = c->need[K], op.need_v = c->need[V];
    if (op.need_q) PF_TRY(open_gradient(c, Q, &made[Q], &op.dq));
    if (op.need_k) PF_TRY(open_gradient(c, K, &made[K], &op.dk));
    if (op.need_v) PF_TRY(open_gradient(c, V, &made[V], &op.dvalue));
    PF_TRY(pf_parallel(c->engine, op.reach.n * op.Hk, work_bytes(&op), backward_task, &op));
    for (int i = Q; i <= V; i++)
        if (made[i]) PF_TRY(pf_grad_give(c, i, made[i]));
    return PF_OK;
}

static const pf_attr_info exact_attrs[A_COUNT] = {
    {"causal", PF_ATTR_BOOL, 0, false, NULL, "query i sees keys 1 .. i + Lk - Lq"},
    {"scale", PF_ATTR_FLOAT, 0, false, NULL, "of the scores; 0: 1 / sqrt(d)"},
    {"dropout", PF_ATTR_FLOAT, 0, false, NULL, "share of weights dropped, 0 <= p < 1"},
    {"draw", PF_ATTR_INT, 0, false, NULL, "which mask of dropout"},
};

const pf_op pf_op_exact_attention = {
    .name = "exact_attention",
    .args = "q, k, v, " PF_REACH_ARGS,
    .results = "out",
    .doc =
        "Exact softmax attention, the quadratic judge: softmax(scale q k^T) v, blockwise. "
        "q (B, H, Lq, d), k (B, Hk, Lk, d), v (B, Hk, Lk, dv), mask, documents, cu_seqlens, limits "
        "and prefix as in favor; decay (Hk), not for full attention: the score of key j loses "
        "decay a token of its distance to the last key that the query sees. No key left: output "
        "and gradients 0. "
        "Weights are dropped, with probability `dropout`, after their softmax, and the others "
        "scaled by 1 / (1 - dropout); the mask is one of (seed, draw).",
    .min_in = 3,
    .max_in = PF_REACH_INPUTS,
    .n_out = 1,
    .flags = PF_OP_OWN_OUTPUTS,
    .uses = PF_USES_ALL_IN | PF_USES_OUT(0),
    .attrs = exact_attrs,
    .n_attrs = A_COUNT,
    .shape = exact_shape,
    .forward = exact_forward,
    .backward = exact_backward,
};
