/*
 * buckets.c - which bucket of its head a position is in, by its own row alone: the rows
 * lsh_buckets and nearest_cluster.
 *
 *     lsh       argmax of [x R, -x R] for a Gaussian R (d, b / 2): of two rows at an angle a, each
 *               half space of b = 2 holds both or none with P = 1 - a / pi (Andoni et al. 2015;
 *               Reformer, arXiv 2001.04451, section 2). Of many buckets b = b1 b2 the number is
 *               h1 + b1 h2, each h from columns of its own.
 *     clusters  argmax of x . mu: the nearest one where the centroids mu are of one length
 *               (Routing Transformer, arXiv 2003.05997).
 *
 * What must hold: a position's number depends on neither its place nor its neighbours, so that a
 * stream, a prefix and a packed row find the same one: products are chains of their own
 * (block_gemm), and where the BLAS would stand in a row goes by itself. Equal numbers go to the
 * lower bucket, and NaN is never the largest, so that a row of nothing else is in bucket 0. No
 * gradient: the choice is constant but for jumps.
 */
#include <math.h>

#include "attention.h"
#include "gemm.h"

enum { X, TABLE, MASK, INPUTS };
enum { BLOCK = 128 }; /* rows of a task, and columns of a product */
enum { A_FIRST, A_COUNT };

typedef struct {
    const pf_kern *kern;
    int64_t H, L, d, rounds, blocks;
    int64_t columns; /* of the table of one head and round */
    bool clusters;   /* the table is (columns, d) and has one sign, else (d, columns) and two */
    int64_t first;   /* buckets of the first of two factors; 0: one factor */
    pf_heads x;
    const float *table; /* (H, rounds, d, columns), or (H, columns, d) */
    const pf_tensor *mask;
    int32_t *out; /* (B, H, rounds, L) */
} buckets_op;

/* A block of rows against columns of a table: the largest product of each row so far and its
 * column, and the same of the products with their signs turned. */
typedef struct {
    const float *rows; /* (n, d), row stride ld */
    int64_t n, ld;
    float *u, *panel; /* (BLOCK, BLOCK), of block_gemm */
    float top[2][BLOCK];
    int32_t at[2][BLOCK];
} work;

/* u (n, columns <= BLOCK) = rows times columns `from` .. of the table */
static void product(const buckets_op *op, const work *w, const float *table, int64_t from,
                    int64_t columns) {
    int64_t step = op->clusters ? op->d : op->columns;
    const float *b = table + (op->clusters ? from * step : from);
    if (op->kern->block_gemm) {
        pf_block_gemm(op->kern, false, op->clusters, w->n, columns, op->d, w->rows, w->ld, b, step,
                      0, w->u, BLOCK, w->panel);
        return;
    }
    for (int64_t i = 0; i < w->n; i++) {
        const float *row = w->rows + i * w->ld;
        float *u = w->u + i * BLOCK;
        if (op->clusters) {
            op->kern->gemv(columns, op->d, b, step, row, NULL, u);
            continue;
        }
        op->kern->fill(columns, 0, u);
        for (int64_t p = 0; p < op->d; p++) op->kern->axpy(columns, row[p], b + p * step, u);
    }
}

/* The largest of u, from column `from` on, counted from 0: the first of equal ones. */
static void seek(work *w, int64_t from, int64_t columns, int side) {
    float sign = side == 0 ? 1 : -1;
    for (int64_t i = 0; i < w->n; i++) {
        const float *u = w->u + i * BLOCK;
        for (int64_t a = 0; a < columns; a++) {
            if (!(sign * u[a] > w->top[side][i])) continue;
            w->top[side][i] = sign * u[a];
            w->at[side][i] = (int32_t)(from + a);
        }
    }
}

/* number (n) += weight * the bucket that columns `from` .. from + columns - 1 give. */
static void choose(const buckets_op *op, work *w, const float *table, int64_t from, int64_t columns,
                   int64_t weight, int32_t *number) {
    for (int64_t i = 0; i < w->n; i++) {
        w->top[0][i] = w->top[1][i] = -INFINITY;
        w->at[0][i] = w->at[1][i] = 0;
    }
    for (int64_t a = 0; a < columns; a += BLOCK) {
        int64_t n = pf_min(BLOCK, columns - a);
        product(op, w, table, from + a, n);
        for (int side = 0; side < (op->clusters ? 1 : 2); side++) seek(w, a, n, side);
    }
    for (int64_t i = 0; i < w->n; i++) {
        bool turned = w->top[1][i] > w->top[0][i];
        number[i] += (int32_t)(weight * (turned ? columns + w->at[1][i] : w->at[0][i]));
    }
}

static size_t work_bytes(const buckets_op *op) {
    size_t panel = op->kern->block_gemm ? (size_t)pf_panel_floats(BLOCK, op->d) : 0;
    return sizeof(work) + PF_ALIGN + ((size_t)BLOCK * BLOCK + panel) * sizeof(float);
}

/* Task: a block of one head's positions, in all rounds. */
static void buckets_task(void *context, int64_t task, void *scratch) {
    const buckets_op *op = context;
    int64_t at = task % op->blocks * BLOCK, pair = task / op->blocks;
    int64_t item = pair / op->H, head = pair % op->H, size = op->d * op->columns;
    work *w = pf_carve(&scratch, sizeof *w);
    w->u = scratch;
    w->panel = w->u + (size_t)BLOCK * BLOCK;
    w->rows = pf_heads_row(&op->x, item, head, at);
    w->n = pf_min(BLOCK, op->L - at), w->ld = op->x.row;
    for (int64_t t = 0; t < op->rounds; t++) {
        int32_t *number = op->out + (pair * op->rounds + t) * op->L + at;
        const float *table = op->table + (head * op->rounds + t) * size;
        int64_t half = op->first / 2;
        for (int64_t i = 0; i < w->n; i++) number[i] = 0;
        if (half > 0) choose(op, w, table, 0, half, 1, number);
        choose(op, w, table, half, op->columns - half, half > 0 ? op->first : 1, number);
        for (int64_t i = 0; op->mask && i < w->n; i++) {
            if (!pf_mask_keeps(op->mask, item, at + i)) number[i] = ~number[i];
        }
    }
}

/* ---- rows ---- */

/* x (B, H, L, d), mask (B, L), and a table of `rank` dimensions whose first is H -> (B, H, rounds,
 * L) i32 */
static int shape_of(pf_call *c, int rank, const char *form, int64_t rounds) {
    const pf_tensor *x = c->in[X], *table = c->in[TABLE], *mask = c->in[MASK];
    int64_t out[4] = {x->shape[0], x->shape[1], rounds, x->shape[2]};
    bool fits =
        table->rank == rank && table->shape[0] == x->shape[1] && table->shape[2] == x->shape[3];
    if (!fits) {
        return pf_shape_fail(c, "%s must be %s with H = %lld, d = %lld",
                             pf_op_arg_name(c->op, TABLE), form, (long long)x->shape[1],
                             (long long)x->shape[3]);
    }
    if (mask && (mask->rank != 2 || mask->shape[0] != x->shape[0] || mask->shape[1] != x->shape[2]))
        return pf_shape_fail(c, "mask must be (batch, length) = [%lld, %lld]",
                             (long long)x->shape[0], (long long)x->shape[2]);
    return pf_set_shape(c, 0, PF_I32, 4, out);
}

static int check_rows(pf_call *c) {
    PF_TRY(pf_want(c, X, PF_F32));
    PF_TRY(pf_want(c, TABLE, PF_F32));
    if (c->in[X]->rank == 4 && c->in[X]->shape[3] > 0) return PF_OK;
    return pf_shape_fail(c, "x must be (batch, heads, length, width)");
}

/* Buckets that r columns give, of which the first factor takes `first` / 2. */
static int check_factors(const pf_call *c, int64_t r, int64_t first) {
    int64_t second = 2 * r - first, most = INT32_MAX;
    if (r < 1 || r > most / 2) {
        return pf_shape_fail(c, "rotations must have columns, one for two buckets, at most 2^30");
    }
    if (first == 0) return PF_OK;
    if (first >= 2 && first % 2 == 0 && second >= 2 && second <= most / first) return PF_OK;
    return pf_fail(PF_EINVAL,
                   "%s: first is %lld, but of the %lld buckets that %lld columns give in two "
                   "factors it must be an even number, from 2 to %lld, and the product below 2^31",
                   c->op->name, (long long)first, (long long)(2 * r), (long long)r,
                   (long long)(2 * r - 2));
}

static int lsh_shape(pf_call *c) {
    PF_TRY(check_rows(c));
    const pf_tensor *table = c->in[TABLE];
    PF_TRY(shape_of(c, 4, "(H, rounds, d, buckets / 2)", table->rank == 4 ? table->shape[1] : 0));
    return check_factors(c, table->shape[3], c->attr[A_FIRST].i);
}

/* The width is the last dimension. */
static int cluster_shape(pf_call *c) {
    PF_TRY(check_rows(c));
    PF_TRY(shape_of(c, 3, "(H, clusters, d)", 1));
    if (c->in[TABLE]->shape[1] > 0) return PF_OK;
    return pf_shape_fail(c, "there must be at least one centroid");
}

static int run(pf_call *c, bool clusters) {
    const pf_tensor *x = c->in[X], *table = c->in[TABLE];
    pf_tensor *rows;
    buckets_op op = {.kern = c->engine->kern,
                     .H = x->shape[1],
                     .L = x->shape[2],
                     .d = x->shape[3],
                     .rounds = clusters ? 1 : table->shape[1],
                     .columns = table->shape[clusters ? 1 : 3],
                     .clusters = clusters,
                     .first = clusters ? 0 : c->attr[A_FIRST].i,
                     .mask = c->in[MASK],
                     .out = pf_i32(c->out[0])};
    op.blocks = pf_ceil_div(op.L, BLOCK);
    PF_TRY(pf_call_compact(c, c->in[TABLE], &rows));
    op.table = pf_f32(rows);
    PF_TRY(pf_call_heads(c, c->in[X], &op.x));
    return pf_parallel(c->engine, x->shape[0] * op.H * op.blocks, work_bytes(&op), buckets_task,
                       &op);
}

/* x (rows, d) by as many columns in every round. */
static double buckets_products(const pf_call *c) {
    const pf_tensor *table = c->in[TABLE];
    const int64_t *x = c->in[X]->shape;
    double rows = (double)(x[0] * x[2]); /* the table has a part for each head */
    return rows * (double)pf_tensor_numel(table);
}

static int lsh_forward(pf_call *c) { return run(c, false); }
static int cluster_forward(pf_call *c) { return run(c, true); }

static const pf_attr_info lsh_attrs[A_COUNT] = {
    {"first", PF_ATTR_INT, 0, false, NULL,
     "buckets of the first of two factors, where their number is a product b1 b2 and rotations "
     "have (b1 + b2) / 2 columns; 0: one factor"},
};

const pf_op pf_op_lsh_buckets = {
    .name = "lsh_buckets",
    .args = "x, rotations, [mask]",
    .results = "buckets",
    .doc = "The bucket of each position, from 0, by locality-sensitive hashing: argmax of [x R, "
           "-x R], of equal ones the lower. x (B, H, L, d), rotations (H, rounds, d, buckets / 2) "
           "-> (B, H, rounds, L) i32. Two rows at an angle a share one of 2 buckets with the "
           "probability 1 - a / pi. mask (B, L): a position that is not there has ~b, below 0, for "
           "its bucket b. Not differentiable. Reformer, arXiv 2001.04451.",
    .min_in = 2,
    .max_in = INPUTS,
    .n_out = 1,
    .flags = PF_OP_NO_GRAD,
    .attrs = lsh_attrs,
    .n_attrs = A_COUNT,
    .shape = lsh_shape,
    .products = buckets_products,
    .forward = lsh_forward,
};

const pf_op pf_op_nearest_cluster = {
    .name = "nearest_cluster",
    .args = "x, centroids, [mask]",
    .results = "clusters",
    .doc = "The cluster of each position, from 0: the centroid with the largest product x . mu, "
           "which is the nearest where centroids are of one length; of equal ones the lower. x "
           "(B, H, L, d), centroids (H, clusters, d) -> (B, H, 1, L) i32. mask as in lsh_buckets. "
           "Not differentiable. Routing Transformer, arXiv 2003.05997.",
    .min_in = 2,
    .max_in = INPUTS,
    .n_out = 1,
    .flags = PF_OP_NO_GRAD,
    .shape = cluster_shape,
    .products = buckets_products,
    .forward = cluster_forward,
};
