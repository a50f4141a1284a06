/*
 * softmax_block.c - see softmax_block.h: loading a tile, its scores, and what they come to, forward
 * and backward.
 */
#include "softmax_block.h"

#include <math.h>
#include <string.h>

#include "gemm.h"

enum { STRIPE = 64 }; /* columns that a sum takes in turn, on the widest level */

static float *carve(void **scratch, int64_t n) {
    return pf_carve(scratch, (size_t)n * sizeof(float));
}

static void carve_all(pf_tile *t, const pf_softmax *op, void **scratch) {
    t->q = carve(scratch, PF_TILE * op->d);
    t->k = carve(scratch, PF_TILE * op->d);
    t->v = carve(scratch, PF_TILE * op->dv);
    t->p = carve(scratch, (int64_t)PF_TILE * PF_TILE);
    t->dp = carve(scratch, (int64_t)PF_TILE * PF_TILE);
    t->o = carve(scratch, PF_TILE * op->dv);
    t->part = carve(scratch, PF_TILE * op->dv);
    t->dk = carve(scratch, PF_TILE * op->d);
    t->dvalue = carve(scratch, PF_TILE * op->dv);
    t->dq = carve(scratch, PF_TILE * op->d);
    t->g = carve(scratch, PF_TILE * op->dv);
    t->panel = carve(scratch, PF_PANEL);
}

/* What carve_all cuts, measured from address 0. */
size_t pf_tile_bytes(const pf_softmax *op) {
    pf_tile t;
    void *end = NULL;
    carve_all(&t, op, &end);
    return (size_t)(uintptr_t)end;
}

void pf_tile_open(pf_tile *t, const pf_softmax *op, int64_t segment, int64_t head, void *scratch) {
    t->op = op;
    t->kern = op->kern;
    t->seg = &op->reach.list[segment];
    t->head = head;
    t->kv = head / op->group;
    t->cut = NULL;
    t->dq_sum = NULL;
    carve_all(t, op, &scratch);
}

/* ---- loading ---- */

/* Rows that a product takes of `n`: all of a tile where bits depend on the shape of the call. */
static int64_t taken(const pf_tile *t, int64_t n) { return pf_block_rows(t->kern, n, PF_TILE); }

/* to (PF_TILE, width) <- scale * rows of `head`, whose places count from `start`; then 0. */
static void load(const pf_tile *t, const pf_heads *rows, int64_t head, int64_t start,
                 const pf_places *places, float scale, float *to) {
    int64_t width = rows->width, n = places->n;
    for (int64_t i = 0; i < n; i++) {
        const float *row = pf_heads_row(rows, t->seg->item, head, start + pf_place_at(places, i));
        t->kern->scale(width, scale, row, to + i * width);
    }
    memset(to + n * width, 0, (size_t)((taken(t, n) - n) * width) * sizeof(float));
}

static void load_queries(const pf_tile *t, const pf_heads *rows, float scale, float *to) {
    load(t, rows, t->head, t->seg->q_start, &t->queries, scale, to);
}

void pf_tile_queries(pf_tile *t, pf_places queries) {
    t->queries = queries;
    t->most = 0;
    t->least = t->seg->length;
    for (int64_t i = 0; i < queries.n; i++) {
        t->sees[i] = (int32_t)pf_softmax_limit(t->op, t->seg, pf_place_at(&queries, i));
        t->most = pf_max(t->most, t->sees[i]);
        t->least = pf_min(t->least, t->sees[i]);
    }
}

/* Where query i's log-sum-exp stands. */
static float *lse_of(const pf_tile *t, int64_t i) {
    int64_t head = t->seg->item * t->op->H + t->head;
    return t->op->lse + head * t->op->Lq + t->seg->q_start + pf_place_at(&t->queries, i);
}

static float *out_of(const pf_tile *t, int64_t i) {
    return pf_heads_row(&t->op->out, t->seg->item, t->head,
                        t->seg->q_start + pf_place_at(&t->queries, i));
}

/* Rows that products can't take, since 0 NaN is NaN: where no gradient arrived they are out of it,
 * as those without a key are. */
static void find_bad_rows(pf_tile *t) {
    int64_t d = t->op->d, dv = t->op->dv;
    t->n_bad_rows = 0;
    for (int64_t i = 0; i < t->queries.n; i++) {
        if (isfinite(t->lse[i]) && isfinite(t->delta[i])) continue;
        float *g = t->g + i * dv;
        if (t->lse[i] != -INFINITY && t->kern->sumsq(dv, g) != 0) {
            t->bad_rows[t->n_bad_rows++] = (int32_t)i;
            continue;
        }
        t->lse[i] = -INFINITY;
        memset(t->q + i * d, 0, (size_t)d * sizeof(float));
        memset(g, 0, (size_t)dv * sizeof(float));
    }
}

/* Queries are scaled as they are loaded: scores, and dk, are then plain products. */
void pf_tile_load(pf_tile *t) { load_queries(t, &t->op->q, t->op->scale, t->q); }

void pf_tile_load_back(pf_tile *t) {
    int64_t dv = t->op->dv;
    pf_tile_load(t);
    load_queries(t, &t->op->dout, 1, t->g);
    load_queries(t, &t->op->out, 1, t->o);
    for (int64_t i = 0; i < t->queries.n; i++) {
        t->lse[i] = *lse_of(t, i);
        t->delta[i] = t->kern->dot(dv, t->g + i * dv, t->o + i * dv);
    }
    find_bad_rows(t);
}

/* Where row j of the loaded keys, or of their values, stands. */
static const float *key_row(const pf_tile *t, const pf_heads *rows, int64_t j) {
    return pf_heads_row(rows, t->seg->item, t->kv, t->seg->start + pf_place_at(&t->keys, j));
}

static void load_keys(const pf_tile *t, const pf_heads *rows, float *to) {
    load(t, rows, t->kv, t->seg->start, &t->keys, 1, to);
}

/* Lists rows x (n, width) that are not finite. */
static int64_t list_bad(const pf_tile *t, int64_t n, int64_t width, const float *x, int32_t *bad) {
    int64_t n_bad = 0;
    for (int64_t j = 0; j < n; j++) {
        if (!isfinite(t->kern->sumsq(width, x + j * width))) bad[n_bad++] = (int32_t)j;
    }
    return n_bad;
}

static void clear_rows(int64_t n, const int32_t *row, int64_t width, float *x) {
    for (int64_t i = 0; i < n; i++) memset(x + row[i] * width, 0, (size_t)width * sizeof(float));
}

static void load_mask(pf_tile *t) {
    t->keeps_all = true;
    for (int64_t j = 0; t->op->mask && j < PF_TILE; j++) {
        t->keep[j] = j >= t->keys.n || pf_mask_keeps(t->op->mask, t->seg->item,
                                                     t->seg->start + pf_place_at(&t->keys, j));
        t->keeps_all = t->keeps_all && t->keep[j];
    }
}

void pf_tile_keys(pf_tile *t, pf_places keys) {
    t->keys = keys;
    load_keys(t, &t->op->k, t->k);
    load_keys(t, &t->op->v, t->v);
    t->n_bad = list_bad(t, keys.n, t->op->dv, t->v, t->bad);
    t->n_bad_keys = t->op->need_q ? list_bad(t, keys.n, t->op->d, t->k, t->bad_keys) : 0;
    clear_rows(t->n_bad, t->bad, t->op->dv, t->v);
    load_mask(t);
}

/* ---- scores ---- */

/* Query i of the tile sees the key in column j. */
static bool sees(const pf_tile *t, int64_t i, int64_t j) {
    return j >= t->from[i] && j < t->to[i] && (t->keeps_all || t->keep[j]) &&
           !(t->cut && t->cut[i * PF_TILE + j]);
}

/* How many places the key in column j stands before query i's last one; below 0: behind it. What a
 * stream let go of is counted. */
static int64_t distance(const pf_tile *t, int64_t i, int64_t j) {
    int64_t at = pf_place_at(&t->keys, j);
    if (t->seg->first && at < t->op->kept) at -= t->op->skipped;
    return t->sees[i] - 1 - at;
}

/* The numbers of query i's distances, in `rows`. */
static float *distances_of(const pf_tile *t, const pf_heads *rows, int64_t i) {
    return pf_heads_row(rows, t->seg->item, t->head, t->seg->q_start + pf_place_at(&t->queries, i));
}

/* Scores gain the number of their distance. */
static void add_distances(pf_tile *t, int64_t i) {
    const float *row = distances_of(t, &t->op->relative, i);
    float *p = t->p + i * PF_TILE;
    for (int64_t j = t->from[i]; j < pf_min(t->to[i], t->keys.n); j++) {
        int64_t D = distance(t, i, j);
        if (D >= 0 && D < t->op->distances) p[j] += row[D];
    }
}

void pf_tile_spread_distances(const pf_tile *t) {
    for (int64_t i = 0; t->op->need_relative && i < t->queries.n; i++) {
        float *row = distances_of(t, &t->op->drelative, i);
        const float *dp = t->dp + i * PF_TILE;
        for (int64_t j = t->from[i]; j < pf_min(t->to[i], t->keys.n); j++) {
            int64_t D = distance(t, i, j);
            if (D >= 0 && D < t->op->distances) row[D] += dp[j];
        }
    }
}

/* Scores gain `decay` a key, from the first of the segment on: a query that forgets loses the same
 * wherever it stands, and what all its scores have in common cancels. */
static void forget(pf_tile *t, float decay, int64_t i) {
    float *row = t->p + i * PF_TILE;
    for (int64_t j = 0; j < t->keys.n; j++) row[j] -= decay * (float)distance(t, i, j);
}

static void hide(pf_tile *t, int64_t i) {
    float *row = t->p + i * PF_TILE;
    const uint8_t *cut = t->cut ? t->cut + i * PF_TILE : NULL;
    int64_t n = t->keys.n;
    for (int64_t j = 0; j < t->from[i]; j++) row[j] = -INFINITY;
    for (int64_t j = t->to[i]; j < n; j++) row[j] = -INFINITY;
    for (int64_t j = 0; !t->keeps_all && j < n; j++) row[j] = t->keep[j] ? row[j] : -INFINITY;
    for (int64_t j = 0; cut && j < n; j++) row[j] = cut[j] ? -INFINITY : row[j];
}

/* p <- scores, -inf where a query may not see the key. */
static void scores(pf_tile *t) {
    const pf_softmax *op = t->op;
    int64_t n = t->queries.n;
    pf_block_gemm(t->kern, false, true, taken(t, n), taken(t, t->keys.n), op->d, t->q, op->d, t->k,
                  op->d, 0, t->p, PF_TILE, t->panel);
    for (int64_t i = 0; op->decay && i < n; i++) forget(t, op->decay[t->kv], i);
    for (int64_t i = 0; op->distances > 0 && i < n; i++) add_distances(t, i);
    bool hides = t->hides || t->cut || !t->keeps_all;
    for (int64_t i = 0; hides && i < n; i++) hide(t, i);
}

/* x (PF_TILE, PF_TILE) without what dropout takes. Keys in a row are drawn in a row: element
 * (item, head, query, key of the segment), as pf_softmax_factor has it. */
static void drop(const pf_tile *t, float *x) {
    const pf_softmax *op = t->op;
    if (!op->dropped) return;
    int64_t wide = pf_round_up(op->Lk, PF_TILE);
    int64_t first = (t->seg->item * op->H + t->head) * op->Lq + t->seg->q_start;
    for (int64_t i = 0; i < t->queries.n; i++, x += PF_TILE) {
        int64_t query = pf_place_at(&t->queries, i), row = (first + query) * wide;
        if (!t->keys.at) pf_drops_apply(&op->drops, row + t->keys.first, t->keys.n, x, x);
        for (int64_t j = 0; t->keys.at && j < t->keys.n; j++) {
            float factor = pf_softmax_factor(op, t->seg, t->head, query, t->keys.at[j]);
            x[j] = factor == 0 ? 0 : x[j] * factor;
        }
    }
}

/* ---- forward ---- */

void pf_tile_begin(pf_tile *t) {
    memset(t->o, 0, (size_t)(t->queries.n * t->op->dv) * sizeof(float)); /* runs may be short */
    for (int64_t i = 0; i < PF_TILE; i++) t->lse[i] = -INFINITY;
}

void pf_tile_resume(pf_tile *t) {
    load_queries(t, &t->op->out, 1, t->o);
    for (int64_t i = 0; i < PF_TILE; i++) {
        t->lse[i] = i < t->queries.n ? *lse_of(t, i) : -INFINITY;
    }
}

void pf_tile_put(const pf_tile *t) {
    int64_t dv = t->op->dv;
    for (int64_t i = 0; i < t->queries.n; i++) {
        *lse_of(t, i) = t->lse[i];
        memcpy(out_of(t, i), t->o + i * dv, (size_t)dv * sizeof(float));
    }
}

/* Bad values reach the queries that see them: part_i += p_ij v_j. */
static void add_bad_values(pf_tile *t) {
    for (int64_t n = 0; n < t->n_bad; n++) {
        int64_t j = t->bad[n];
        const float *row =
            pf_heads_row(&t->op->v, t->seg->item, t->kv, t->seg->start + pf_place_at(&t->keys, j));
        for (int64_t i = 0; i < t->queries.n; i++) {
            float p = t->p[i * PF_TILE + j];
            if (!sees(t, i, j) || (t->op->dropped && p == 0)) continue;
            t->kern->axpy(t->op->dv, p, row, t->part + i * t->op->dv);
        }
    }
}

/* Another softmax into the running one. A query that sees none of it keeps what it has; NaN
 * spreads to the queries that see it. */
void pf_tile_join_sum(pf_tile *t, const float *o, const float *lse) {
    int64_t dv = t->op->dv;
    for (int64_t i = 0; i < t->queries.n; i++) {
        float a = t->lse[i], b = lse[i], top = a > b ? a : b;
        if (b == -INFINITY) continue;
        if (isnan(b)) top = b;
        float total = top + logf((a == -INFINITY ? 0 : expf(a - top)) + expf(b - top));
        t->kern->scale(dv, a == -INFINITY ? 0 : expf(a - total), t->o + i * dv, t->o + i * dv);
        t->kern->axpy(dv, expf(b - total), o + i * dv, t->o + i * dv);
        t->lse[i] = total;
    }
}

/* p <- softmax of row i alone. Sums take STRIPE columns in turn, and a stripe of which nothing is
 * seen adds 0: it is left out, and the bits are those of the whole row. */
static void weigh(pf_tile *t, int64_t i) {
    float *p = t->p + i * PF_TILE;
    int64_t n = t->keys.n, from = (int64_t)(t->from[i] / STRIPE) * STRIPE;
    int64_t to = pf_max(from, pf_round_up(t->to[i], STRIPE));
    for (int64_t j = n; j < to; j++) p[j] = -INFINITY;
    t->tile_lse[i] = t->kern->softmax(to - from, p + from, p + from);
    memset(p, 0, (size_t)from * sizeof(float));
    memset(p + to, 0, (size_t)(PF_TILE - to) * sizeof(float));
}

void pf_tile_join(pf_tile *t) {
    int64_t dv = t->op->dv, n = t->queries.n, rows = taken(t, n);
    scores(t);
    for (int64_t i = 0; i < n; i++) weigh(t, i);
    memset(t->p + n * PF_TILE, 0, (size_t)((rows - n) * PF_TILE) * sizeof(float));
    drop(t, t->p);
    pf_block_gemm(t->kern, false, false, rows, dv, taken(t, t->keys.n), t->p, PF_TILE, t->v, dv, 0,
                  t->part, dv, t->panel);
    add_bad_values(t);
    pf_tile_join_sum(t, t->part, t->tile_lse);
}

/* ---- backward ---- */

/* Row i of both, of scores and of dout . v: 0 where it sees nothing, and all of it where it has no
 * key at all and its log-sum-exp is -inf. */
static void weigh_back(pf_tile *t, int64_t i) {
    float *p = t->p + i * PF_TILE, *dp = t->dp + i * PF_TILE;
    int64_t from = t->from[i], n = pf_max(0, t->to[i] - from), rest = PF_TILE - from - n;
    if (t->lse[i] == -INFINITY) from = PF_TILE, n = rest = 0;
    memset(p, 0, (size_t)from * sizeof(float));
    memset(dp, 0, (size_t)from * sizeof(float));
    p += from, dp += from;
    t->kern->affine(n, 1, -t->lse[i], p, p);
    t->kern->unary(PF_UNARY_EXP, n, p, p);
    t->kern->affine(n, 1, -t->delta[i], dp, dp);
    t->kern->binary(PF_BINARY_MUL, n, dp, 1, p, 1, dp);
    memset(p + n, 0, (size_t)rest * sizeof(float));
    memset(dp + n, 0, (size_t)rest * sizeof(float));
}

void pf_tile_weights_back(pf_tile *t) {
    int64_t dv = t->op->dv, n = t->queries.n, rows = taken(t, n);
    scores(t);
    pf_block_gemm(t->kern, false, true, rows, taken(t, t->keys.n), dv, t->g, dv, t->v, dv, 0, t->dp,
                  PF_TILE, t->panel);
    drop(t, t->dp);
    for (int64_t i = 0; i < n; i++) weigh_back(t, i);
    memset(t->p + n * PF_TILE, 0, (size_t)((rows - n) * PF_TILE) * sizeof(float));
    memset(t->dp + n * PF_TILE, 0, (size_t)((rows - n) * PF_TILE) * sizeof(float));
    drop(t, t->p);
    for (int64_t b = 0; b < t->n_bad_rows * PF_TILE; b++) {
        int64_t i = t->bad_rows[b / PF_TILE], j = b % PF_TILE;
        if (!sees(t, i, j)) t->p[i * PF_TILE + j] = t->dp[i * PF_TILE + j] = 0;
    }
}

void pf_tile_add_queries(const pf_tile *t, float factor, const float *dq) {
    int64_t d = t->op->d;
    for (int64_t i = 0; i < t->queries.n; i++) {
        int64_t at = t->seg->q_start + pf_place_at(&t->queries, i);
        t->kern->axpy(d, factor, dq + i * d,
                      t->dq_sum ? t->dq_sum + i * d
                                : pf_heads_row(&t->op->dq, t->seg->item, t->head, at));
    }
}

/* Bad keys reach dq of the queries that see them, row by row. */
static void add_bad_keys(pf_tile *t) {
    int64_t d = t->op->d;
    for (int64_t b = 0; b < t->n_bad_keys * t->queries.n; b++) {
        int64_t j = t->bad_keys[b / t->queries.n], i = b % t->queries.n;
        if (!sees(t, i, j)) continue;
        t->kern->axpy(d, t->dp[i * PF_TILE + j], key_row(t, &t->op->k, j), t->dq + i * d);
    }
}

/* q is loaded scaled, k is not. Keys stay loaded for other queries. */
static void spread_queries(pf_tile *t) {
    int64_t d = t->op->d;
    clear_rows(t->n_bad_keys, t->bad_keys, d, t->k);
    pf_block_gemm(t->kern, false, false, taken(t, t->queries.n), d, taken(t, t->keys.n), t->dp,
                  PF_TILE, t->k, d, 0, t->dq, d, t->panel);
    add_bad_keys(t);
    for (int64_t b = 0; b < t->n_bad_keys; b++) {
        int64_t j = t->bad_keys[b];
        memcpy(t->k + j * d, key_row(t, &t->op->k, j), (size_t)d * sizeof(float));
    }
    pf_tile_add_queries(t, t->op->scale, t->dq);
}

/* Bad rows reach dk and dv of the keys that they see, and are 0 for the product. */
static void add_bad_rows(pf_tile *t) {
    int64_t d = t->op->d, dv = t->op->dv;
    for (int64_t b = 0; b < t->n_bad_rows * t->keys.n; b++) {
        int64_t i = t->bad_rows[b / t->keys.n], j = b % t->keys.n, at = i * PF_TILE + j;
        if (!sees(t, i, j)) continue;
        t->kern->axpy(dv, t->p[at], t->g + i * dv, t->dvalue + j * dv);
        t->kern->axpy(d, t->dp[at], t->q + i * d, t->dk + j * d);
    }
    clear_rows(t->n_bad_rows, t->bad_rows, PF_TILE, t->p);
    clear_rows(t->n_bad_rows, t->bad_rows, PF_TILE, t->dp);
    clear_rows(t->n_bad_rows, t->bad_rows, dv, t->g);
    clear_rows(t->n_bad_rows, t->bad_rows, d, t->q);
}

static void spread_keys(pf_tile *t) {
    int64_t d = t->op->d, dv = t->op->dv, keys = taken(t, t->keys.n), n = taken(t, t->queries.n);
    add_bad_rows(t);
    if (t->op->need_v) {
        pf_block_gemm(t->kern, true, false, keys, dv, n, t->p, PF_TILE, t->g, dv, 1, t->dvalue, dv,
                      t->panel);
    }
    if (t->op->need_k) {
        pf_block_gemm(t->kern, true, false, keys, d, n, t->dp, PF_TILE, t->q, d, 1, t->dk, d,
                      t->panel);
    }
}

/* Queries first: they read the weights of bad rows. */
void pf_tile_spread(pf_tile *t, bool queries, bool keys) {
    if (queries) spread_queries(t);
    if (keys) spread_keys(t);
}

void pf_tile_begin_keys(pf_tile *t) {
    int64_t rows = taken(t, t->keys.n);
    memset(t->dk, 0, (size_t)(rows * t->op->d) * sizeof(float));
    memset(t->dvalue, 0, (size_t)(rows * t->op->dv) * sizeof(float));
}

/* Finished rows of the loaded keys into their gradient. */
static void put_rows(const pf_tile *t, const pf_heads *rows, const float *from) {
    const pf_places *keys = &t->keys;
    float one = 1;
    int64_t n = keys->at ? 1 : keys->n; /* rows that lie in a row */
    for (int64_t j = 0; j < keys->n; j += n) {
        pf_heads_put(t->kern, rows, t->seg->item, t->kv, t->seg->start + pf_place_at(keys, j), n,
                     &one, 0, from + j * rows->width);
    }
}

void pf_tile_put_keys(const pf_tile *t) {
    if (t->op->need_k) put_rows(t, &t->op->dk, t->dk);
    if (t->op->need_v) put_rows(t, &t->op->dvalue, t->dvalue);
}
