/*
 * weights.c - attention weights one can look at, without the Lq x Lk array: rows, columns, chosen
 * pairs and the largest of a row,
 *
 *     w_ij = e^(l_j - M_i) q'_i . k'_j / R_i          (partition.h; exact: e^(s_ij - M_i) / R_i)
 *
 * which is what attention gives with one-hot values (paper, C.4). Denominators come first, for
 * the chosen queries in ascending order; then a second pass meets the chosen keys. An output
 * row stands where its query stood in the caller's list.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "partition.h"

/* What is asked for: a grid of chosen queries and keys, pairs of them, or the largest of each row.
 * Queries are walked in ascending order, since causal sums only grow, and answered in the
 * caller's. */
typedef struct {
    pf_partition p;
    const int64_t *place;   /* (p.n) where the i-th query's row goes; NULL: i */
    const int64_t *columns; /* chosen keys; paired: the i-th query's own; NULL: all */
    int64_t n_columns;
    bool paired;
    int64_t top;
    float *weights, *entropy;
    int32_t *positions;
} weights_op;

/* A head of one task. */
typedef struct {
    const weights_op *op;
    int64_t item, head, at;
    int64_t i0, n, j0, m; /* queries and keys of the loaded blocks */
    pf_encoded q, k;
    float *a;        /* (BLOCK, BLOCK): weights of the loaded blocks */
    double *entropy; /* (BLOCK) */
} weights_work;

static size_t work_bytes(const weights_op *op) {
    return 2 * pf_encoded_bytes(&op->p.encoding, false) + PF_ALIGN +
           PF_ENCODED_BLOCK * (PF_ENCODED_BLOCK * sizeof(float) + sizeof(double));
}

static void open_work(weights_work *w, const weights_op *op, int64_t head, void *scratch) {
    *w = (weights_work){.op = op, .item = head / op->p.H, .head = head % op->p.H, .at = head};
    pf_encoded_open(&w->q, &op->p.encoding, w->head, false, &scratch);
    pf_encoded_open(&w->k, &op->p.encoding, w->head, false, &scratch);
    w->a = pf_carve(&scratch, (size_t)PF_ENCODED_BLOCK * PF_ENCODED_BLOCK * sizeof(float));
    w->entropy = pf_carve(&scratch, PF_ENCODED_BLOCK * sizeof(double));
}

/* Takes n chosen rows of a side from `first` of the choice on. */
static void take_rows(weights_work *w, pf_side side, const int64_t *at, int64_t first, int64_t n) {
    const pf_partition *p = &w->op->p;
    const pf_heads *rows = side == PF_SIDE_QUERY ? &p->q : &p->k;
    pf_encoded *block = side == PF_SIDE_QUERY ? &w->q : &w->k;
    p->sums->load(block, side, pf_heads_row(rows, w->item, w->head, 0), rows->row, at, first, n);
}

/* Row of the output that the i-th query in ascending order is answered in. */
static int64_t place_of(const weights_op *op, int64_t i) { return op->place ? op->place[i] : i; }

/* w_ij of query i0 + i with key position `key`, the product of their vectors given. */
static float weight_of(const weights_work *w, int64_t i, int64_t key, float product, float shift) {
    const pf_partition *p = &w->op->p;
    int64_t at = w->at * p->n + w->i0 + i;
    if (p->sum[at] == 0 || !pf_partition_sees(p, w->item, w->i0 + i, key)) return 0;
    return (float)p->sums->weight(product, shift, p->top[at], p->sum[at]);
}

/* Position of the j-th chosen key. */
static int64_t key_of(const weights_op *op, int64_t j) { return op->columns ? op->columns[j] : j; }

/* a <- weights of the loaded blocks. */
static void weigh(weights_work *w) {
    const pf_partition *p = &w->op->p;
    int64_t B = PF_ENCODED_BLOCK, width;
    const float *x = p->sums->vectors(&w->q, &width), *y = p->sums->vectors(&w->k, &width);
    pf_block_gemm(p->encoding.kern, false, true, w->q.rows, w->k.rows, width, x, width, y, width, 0,
                  w->a, B, w->q.panel);
    for (int64_t i = 0; i < w->n; i++) {
        for (int64_t j = 0; j < w->m; j++) {
            w->a[i * B + j] =
                weight_of(w, i, key_of(w->op, w->j0 + j), w->a[i * B + j], w->k.shift[j]);
        }
    }
}

/* The key joins the `top` largest of a row, in descending order, when it is one of them. */
static void rank(const weights_op *op, float *weight, int32_t *position, float w, int64_t key) {
    int64_t t = op->top;
    while (t > 0 && (position[t - 1] < 0 || w > weight[t - 1])) t--;
    if (t == op->top) return;
    memmove(weight + t + 1, weight + t, (size_t)(op->top - t - 1) * sizeof *weight);
    memmove(position + t + 1, position + t, (size_t)(op->top - t - 1) * sizeof *position);
    weight[t] = w;
    position[t] = (int32_t)key;
}

/* The loaded blocks' weights to where they are asked for: as they are, or the largest; entropy
 * sums -p log p in double over the row's blocks. */
static void keep_rows(weights_work *w) {
    const weights_op *op = w->op;
    for (int64_t i = 0; i < w->n; i++) {
        int64_t row = w->at * op->p.n + place_of(op, w->i0 + i);
        const float *a = w->a + i * PF_ENCODED_BLOCK;
        for (int64_t j = 0; op->entropy && j < w->m; j++) {
            double p = (double)a[j];
            w->entropy[i] -= p == 0 ? 0 : p * log(p);
        }
        if (op->top == 0) {
            memcpy(op->weights + row * op->n_columns + w->j0, a, (size_t)w->m * sizeof(float));
            continue;
        }
        for (int64_t j = 0; j < w->m; j++) {
            if (!pf_partition_sees(&op->p, w->item, w->i0 + i, w->j0 + j)) continue;
            rank(op, op->weights + row * op->top, op->positions + row * op->top, a[j], w->j0 + j);
        }
    }
}

/* Task: one block of chosen queries of one head against all chosen keys. */
static void grid_task(void *context, int64_t task, void *scratch) {
    const weights_op *op = context;
    int64_t blocks = pf_ceil_div(op->p.n, PF_ENCODED_BLOCK);
    weights_work w;
    open_work(&w, op, task / blocks, scratch);
    w.i0 = task % blocks * PF_ENCODED_BLOCK;
    w.n = pf_min(PF_ENCODED_BLOCK, op->p.n - w.i0);
    for (int64_t i = 0; i < w.n; i++) {
        int64_t row = w.at * op->p.n + place_of(op, w.i0 + i);
        w.entropy[i] = 0;
        for (int64_t t = row * op->top; t < (row + 1) * op->top; t++) {
            op->weights[t] = 0;
            op->positions[t] = -1;
        }
    }
    take_rows(&w, PF_SIDE_QUERY, op->p.at, w.i0, w.n);
    for (w.j0 = 0; w.j0 < op->n_columns; w.j0 += PF_ENCODED_BLOCK) {
        w.m = pf_min(PF_ENCODED_BLOCK, op->n_columns - w.j0);
        take_rows(&w, PF_SIDE_KEY, op->columns, w.j0, w.m);
        weigh(&w);
        keep_rows(&w);
    }
    for (int64_t i = 0; op->entropy && i < w.n; i++) {
        op->entropy[w.at * op->p.n + place_of(op, w.i0 + i)] = (float)w.entropy[i];
    }
}

/* Task: one block of pairs of one head. */
static void pair_task(void *context, int64_t task, void *scratch) {
    const weights_op *op = context;
    const pf_partition *p = &op->p;
    int64_t blocks = pf_ceil_div(p->n, PF_ENCODED_BLOCK), width;
    weights_work w;
    open_work(&w, op, task / blocks, scratch);
    w.i0 = task % blocks * PF_ENCODED_BLOCK;
    w.n = pf_min(PF_ENCODED_BLOCK, p->n - w.i0);
    take_rows(&w, PF_SIDE_QUERY, p->at, w.i0, w.n);
    take_rows(&w, PF_SIDE_KEY, op->columns, w.i0, w.n);
    const float *a = p->sums->vectors(&w.q, &width), *b = p->sums->vectors(&w.k, &width);
    for (int64_t i = 0; i < w.n; i++) {
        float product = p->encoding.kern->dot(width, a + i * width, b + i * width);
        op->weights[w.at * p->n + place_of(op, w.i0 + i)] =
            weight_of(&w, i, op->columns[w.i0 + i], product, w.k.shift[i]);
    }
}

/* ---- choosing ---- */

/* What lives as long as the call: sorted positions, places, columns; sums of the partition. */
typedef struct {
    pf_engine *engine;
    pf_tensor *q, *k, *rows[2]; /* contiguous ones of what the kernel makes of them */
    pf_kernel *kernel;
    int64_t *choice; /* at (n), place (n), columns (n) */
    size_t choice_bytes;
    double *sums;
    size_t sums_bytes;
} kept;

static void release(kept *h) {
    pf_tensor_release(&h->q);
    pf_tensor_release(&h->k);
    for (int i = 0; i < 2; i++) pf_tensor_release(&h->rows[i]);
    pf_kernel_release(&h->kernel);
    if (h->choice) pf_heap_free(h->engine->heap, h->choice, h->choice_bytes);
    if (h->sums) pf_heap_free(h->engine->heap, h->sums, h->sums_bytes);
}

static int check_positions(const int64_t *at, int64_t n, int64_t length, const char *what) {
    if (n < 0) return pf_fail(PF_EINVAL, "weights: %lld %s", (long long)n, what);
    for (int64_t i = 0; at && i < n; i++) {
        if (at[i] >= 0 && at[i] < length) continue;
        return pf_fail(PF_EINVAL, "weights: %s %s of the list is position %s of %lld", what,
                       pf_place(i), pf_place(at[i]), (long long)length);
    }
    return PF_OK;
}

static int by_position(const void *a, const void *b) {
    const int64_t *x = a, *y = b;
    if (x[0] != y[0]) return x[0] < y[0] ? -1 : 1;
    return x[1] < y[1] ? -1 : x[1] > y[1];
}

/* Chosen queries in ascending order, with their places; pairs take their keys along. */
static int sort_choice(weights_op *op, kept *h, const pf_weights_options *o) {
    int64_t n = o->n_rows;
    size_t rows;
    if (!o->rows) return PF_OK;
    if (!pf_mul_size((size_t)pf_max(n, 1), 5 * sizeof(int64_t), &rows)) return PF_ENOMEM;
    h->choice_bytes = rows;
    h->choice = pf_heap_alloc(h->engine->heap, rows);
    if (!h->choice) return PF_ENOMEM;
    int64_t *at = h->choice, *place = at + n, *columns = place + n, *sorted = columns + n;
    for (int64_t i = 0; i < n; i++) sorted[2 * i] = o->rows[i], sorted[2 * i + 1] = i;
    qsort(sorted, (size_t)n, 2 * sizeof *sorted, by_position);
    for (int64_t i = 0; i < n; i++) {
        at[i] = sorted[2 * i];
        place[i] = sorted[2 * i + 1];
        if (op->paired) columns[i] = o->columns[place[i]];
    }
    op->p.at = at;
    op->place = place;
    if (op->paired) op->columns = columns;
    return PF_OK;
}

/* What goes together, and positions that exist. */
static int check_options(const pf_weights_options *o, int64_t Lq, int64_t Lk) {
    if (!o->rows && !o->columns) {
        return pf_fail(PF_EINVAL, "weights: choose rows (queries), columns (keys) or both");
    }
    PF_TRY(check_positions(o->rows, o->n_rows, Lq, "row"));
    PF_TRY(check_positions(o->columns, o->n_columns, Lk, "column"));
    if (o->paired && (!o->rows || !o->columns || o->n_rows != o->n_columns)) {
        return pf_fail(PF_EINVAL, "weights: pairs need as many rows as columns");
    }
    if (o->top < 0 || o->top > Lk || (o->top > 0 && o->columns)) {
        return pf_fail(PF_EINVAL, "weights: top is for rows alone, in 1 .. %lld (keys), got %lld",
                       (long long)Lk, (long long)o->top);
    }
    return PF_OK;
}

static int check_shapes(const pf_tensor *q, const pf_tensor *k, const pf_weights_options *o) {
    PF_TRY(pf_tensor_check(q, PF_F32, "weights", "q"));
    PF_TRY(pf_tensor_check(k, PF_F32, "weights", "k"));
    bool fit = q->rank == 4 && k->rank == 4 && q->shape[0] == k->shape[0] &&
               q->shape[1] == k->shape[1] && q->shape[3] == k->shape[3] && q->shape[3] >= 1;
    if (!fit || (o->causal && q->shape[2] != k->shape[2])) {
        return pf_fail(PF_ESHAPE,
                       "weights: q is %s, k is %s; they must be (batch, heads, length, "
                       "width), alike but for the length%s",
                       pf_shape_of(q), pf_shape_of(k), fit ? ", which causal needs alike" : "");
    }
    const pf_tensor *mask = o->mask;
    if (mask && !pf_tensor_alive(mask)) return pf_tensor_check(mask, PF_F32, "weights", "mask");
    if (mask &&
        (mask->rank != 2 || mask->shape[0] != k->shape[0] || mask->shape[1] != k->shape[2])) {
        return pf_fail(PF_ESHAPE, "weights: mask is %s, must be [%lld, %lld]", pf_shape_of(mask),
                       (long long)k->shape[0], (long long)k->shape[2]);
    }
    return check_options(o, q->shape[2], k->shape[2]);
}

/* The kind's encoding, and q and k as its loops take them. */
static int fill_rows(weights_op *op, kept *h, pf_tensor *q, pf_tensor *k,
                     const pf_weights_options *o) {
    pf_partition *p = &op->p;
    const pf_attention_kind *kind;
    pf_tensor *x[2] = {q, k};
    PF_TRY(pf_partition_attention(&kind, &h->kernel, h->engine, o->attention, o->kernel,
                                  k->shape[3], k->shape[1], "weights"));
    if (h->kernel) {
        PF_TRY(
            pf_kernel_no_reference(h->kernel, !o->causal, "weights", "weights are told without"));
        PF_TRY(pf_kernel_rows(&h->rows[0], h->engine, h->kernel, PF_SIDE_QUERY, q));
        PF_TRY(pf_kernel_rows_wide(&h->rows[1], h->engine, h->kernel, PF_SIDE_KEY, k,
                                   h->rows[0]->shape[3]));
        x[0] = h->rows[0], x[1] = h->rows[1];
    }
    p->sums = kind->sums;
    p->sums->encoding(&p->encoding, h->kernel, h->engine->kern, x[1]->shape[3], o->scale);
    PF_TRY(pf_heads_ready(h->engine, x[0], &h->q, &p->q));
    return pf_heads_ready(h->engine, x[1], &h->k, &p->k);
}

/* All but the outputs; what is made for it goes to h, on failure too. */
static int fill(weights_op *op, kept *h, pf_tensor *q, pf_tensor *k, const pf_weights_options *o) {
    pf_partition *p = &op->p;
    PF_TRY(check_shapes(q, k, o));
    p->engine = h->engine;
    p->B = q->shape[0], p->H = q->shape[1], p->Lk = k->shape[2];
    p->n = o->rows ? o->n_rows : q->shape[2];
    p->causal = o->causal, p->mask = o->mask;
    op->columns = o->columns;
    op->n_columns = o->columns ? o->n_columns : p->Lk;
    op->paired = o->paired, op->top = o->top;
    PF_TRY(fill_rows(op, h, q, k, o));
    PF_TRY(sort_choice(op, h, o));
    h->sums_bytes = (size_t)(p->B * p->H * p->n) * (sizeof(double) + sizeof(float));
    h->sums = pf_heap_alloc(h->engine->heap, h->sums_bytes);
    if (!h->sums) return PF_ENOMEM;
    p->sum = h->sums;
    p->top = (float *)(p->sum + p->B * p->H * p->n);
    return PF_OK;
}

/* (B, H, n, columns), for pairs (B, H, n), of the largest (B, H, n, top) with their positions. */
static int make_outputs(weights_op *op, pf_tensor **weights, pf_tensor **positions,
                        pf_tensor **entropy) {
    const pf_partition *p = &op->p;
    int64_t shape[4] = {p->B, p->H, p->n, op->top > 0 ? op->top : op->n_columns};
    PF_TRY(pf_shape_valid(4, shape, PF_F32, "weights"));
    PF_TRY(pf_tensor_make(weights, p->engine, PF_F32, op->paired ? 3 : 4, shape));
    op->weights = pf_f32(*weights);
    if (op->top > 0) {
        PF_HOLDS(positions);
        PF_TRY(pf_tensor_make(positions, p->engine, PF_I32, 4, shape));
        op->positions = pf_i32(*positions);
    }
    if (!entropy) return PF_OK;
    PF_TRY(pf_tensor_make(entropy, p->engine, PF_F32, 3, shape));
    op->entropy = pf_f32(*entropy);
    return PF_OK;
}

/* Sums first, then weights: two passes over the keys. */
static int run(weights_op *op) {
    PF_TRY(pf_partition_run(&op->p));
    int64_t tasks = op->p.B * op->p.H * pf_ceil_div(op->p.n, PF_ENCODED_BLOCK);
    return pf_parallel(op->p.engine, tasks, work_bytes(op), op->paired ? pair_task : grid_task, op);
}

int pf_attention_weights(pf_tensor **weights, pf_tensor **positions, pf_tensor **entropy,
                         pf_engine *engine, pf_tensor *q, pf_tensor *k,
                         const pf_weights_options *options) {
    PF_OUT(weights);
    PF_OPEN(engine);
    PF_NEED(q, k, options);
    pf_weights_options o = {0};
    weights_op op = {.p = {.engine = engine}};
    kept h = {.engine = engine};
    if (positions) *positions = NULL;
    if (entropy) *entropy = NULL;
    PF_TRY(pf_options_take(&o, sizeof o, options, "weights"));
    options = &o;
    int status = PF_OK;
    if (options->top > 0 && !positions) {
        status = pf_fail(PF_EINVAL, "weights: top gives positions: take them");
    } else if (entropy && (options->columns || !options->rows)) {
        status = pf_fail(PF_EINVAL, "weights: entropy is of whole rows: choose rows alone");
    }
    if (status >= 0) status = fill(&op, &h, q, k, options);
    if (status >= 0) status = make_outputs(&op, weights, positions, entropy);
    if (status >= 0) status = run(&op);
    release(&h);
    if (status >= 0) return status;
    pf_tensor_release(weights);
    if (positions) pf_tensor_release(positions);
    if (entropy) pf_tensor_release(entropy);
    return status;
}
