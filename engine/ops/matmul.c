/*
 * matmul.c - the product of matrices, batched and broadcast as numpy's. A vector on the left
 * is one row, on the right one column, and that dimension is lost again in the result.
 */
#include "tiles.h"

/* a as (..., M, K) or b as (..., K, N): vectors get the dimension of size 1 they lack. */
static pf_tensor as_matrix(const pf_tensor *t, bool left) {
    pf_tensor h = pf_tensor_place(t);
    if (t->rank != 1) return h;
    h.rank = 2;
    h.shape[0] = left ? 1 : t->shape[0];
    h.shape[1] = left ? t->shape[0] : 1;
    h.stride[0] = left ? t->shape[0] * t->stride[0] : t->stride[0];
    h.stride[1] = left ? t->stride[0] : 1;
    return h;
}

/* ---- shape -------------------------------------------------------------------- */

static int inner_mismatch(const pf_call *c, const pf_tensor *a, const pf_tensor *b) {
    int64_t k = a->shape[a->rank - 1], got = b->shape[b->rank - 2];
    bool vector = c->in[1]->rank == 1;
    const char *hint = "";
    if (!vector && b->shape[b->rank - 1] == k)
        hint = "; b transposed in its last two dimensions would fit";
    else if (c->in[0]->rank > 1 && a->shape[a->rank - 2] == got)
        hint = "; a transposed in its last two dimensions would fit";
    return pf_shape_fail(c, "a's last dimension (%lld) must equal b's %s (%lld)%s", (long long)k,
                         vector ? "only one" : "second to last", (long long)got, hint);
}

/* a (..., M, K), b (..., K, N) -> (..., M, N); M or N is lost where a or b is a vector. */
static int matmul_shape(pf_call *c) {
    int64_t shape[PF_MAX_RANK];
    int rank, axis;
    for (int i = 0; i < 2; i++) {
        PF_TRY(pf_want(c, i, PF_F32));
        if (c->in[i]->rank == 0)
            return pf_shape_fail(c, "%s is a scalar; use mul", pf_op_arg_name(c->op, i));
    }
    const pf_tensor a = as_matrix(c->in[0], true), b = as_matrix(c->in[1], false);
    if (a.shape[a.rank - 1] != b.shape[b.rank - 2]) return inner_mismatch(c, &a, &b);
    if (pf_shape_broadcast(a.rank - 2, a.shape, b.rank - 2, b.shape, &rank, shape, &axis) < 0)
        return pf_shape_fail(c,
                             "batch dimension %d (from the end) disagrees; sizes must be equal "
                             "or 1, aligned from the right",
                             axis - (int)pf_max(a.rank, b.rank));
    if (c->in[0]->rank > 1) shape[rank++] = a.shape[a.rank - 2];
    if (c->in[1]->rank > 1) shape[rank++] = b.shape[b.rank - 1];
    return pf_set_shape(c, 0, PF_F32, rank, shape);
}

/* Every number of the result is a sum over K. */
static double matmul_products(const pf_call *c) {
    const pf_tensor *a = c->in[0];
    double n = (double)a->shape[a->rank - 1];
    for (int d = 0; d < c->shape[0].rank; d++) n *= (double)c->shape[0].dim[d];
    return n;
}

/* ---- operands ----------------------------------------------------------------- */

/* The result, or its gradient, with the dimensions that vectors lost. */
static pf_tensor result_matrix(const pf_call *c, const pf_tensor *y) {
    pf_tensor h = pf_tensor_place(y);
    if (c->in[1]->rank == 1) {
        h.shape[h.rank] = 1;
        h.stride[h.rank++] = 1;
    }
    if (c->in[0]->rank == 1) {
        int at = h.rank - 1;
        h.shape[h.rank] = h.shape[at];
        h.stride[h.rank] = h.stride[at];
        h.rank++;
        h.shape[at] = 1;
        h.stride[at] = pf_max(1, h.shape[at + 1] * h.stride[at + 1]);
    }
    return h;
}

/* The three matrices of a call; dy strides like the output's gradient. */
typedef struct matmul_job {
    pf_matrix a, b, y;
    int rank; /* batch */
    int64_t batch[PF_MAX_RANK];
    bool one_row; /* a is a vector */
} matmul_job;

/* y: the output, or its gradient. */
static int matmul_open(matmul_job *job, pf_call *c, const pf_tensor *y, bool need_a, bool need_b) {
    const pf_tensor a = as_matrix(c->in[0], true), b = as_matrix(c->in[1], false);
    const pf_tensor result = result_matrix(c, y);
    *job = (matmul_job){.rank = result.rank - 2, .one_row = c->in[0]->rank == 1};
    for (int d = 0; d < job->rank; d++) job->batch[d] = result.shape[d];
    PF_TRY(pf_matrix_open(&job->y, c, &result));
    if (need_a) PF_TRY(pf_matrix_open(&job->a, c, &a));
    return need_b ? pf_matrix_open(&job->b, c, &b) : PF_OK;
}

/* Tiles of a row-wise product: fixed and filled up, unless there can only be one row. */
static pf_tiles row_tiles(const matmul_job *job, pf_engine *engine) {
    return (pf_tiles){
        .engine = engine,
        .rank = job->rank,
        .batch = job->batch,
        .rows = job->one_row ? 1 : PF_ROW_TILE,
        .cols = PF_COL_TILE,
        .pad = true,
        .overwrite = true,
    };
}

static int matmul_forward(pf_call *c) {
    matmul_job job;
    PF_TRY(matmul_open(&job, c, c->out[0], true, true));
    pf_tiles tiles = row_tiles(&job, c->engine);
    tiles.a = &job.a;
    tiles.b = &job.b;
    tiles.c = &job.y;
    return pf_tiles_run(&tiles);
}

/* ---- backward ----------------------------------------------------------------- */

/* dA (M, K) += dY (M, N) B^T, summed where a was broadcast. */
static int pull_a(pf_call *c, matmul_job *job) {
    pf_tensor *slot;
    bool fresh;
    pf_matrix da;
    PF_TRY(pf_grad_fresh(c, 0, &fresh, &slot));
    const pf_tensor header = as_matrix(slot, true);
    PF_TRY(pf_matrix_open(&da, c, &header));
    const pf_matrix bt = pf_matrix_flip(&job->b);
    pf_tiles tiles = row_tiles(job, c->engine);
    tiles.a = &job->y;
    tiles.b = &bt;
    tiles.c = &da;
    tiles.overwrite = fresh;
    return pf_tiles_run(&tiles);
}

/* dB (K, N) += A^T dY (M, N), summed where b was broadcast. */
static int pull_b(pf_call *c, matmul_job *job) {
    pf_tensor *slot;
    bool fresh;
    pf_matrix db;
    PF_TRY(pf_grad_fresh(c, 1, &fresh, &slot));
    const pf_tensor header = as_matrix(slot, false);
    PF_TRY(pf_matrix_open(&db, c, &header));
    return pf_tiles_over_rows(&(pf_over_rows){
        .engine = c->engine,
        .left = &job->a,
        .right = &job->y,
        .c = &db,
        .rank = job->rank,
        .batch = job->batch,
        .overwrite = fresh,
    });
}

static int matmul_backward(pf_call *c) {
    matmul_job job;
    PF_TRY(matmul_open(&job, c, c->dout[0], c->need[1], c->need[0]));
    if (c->need[0]) PF_TRY(pull_a(c, &job));
    return c->need[1] ? pull_b(c, &job) : PF_OK;
}

const pf_op pf_op_matmul = {
    .name = "matmul",
    .args = "a, b",
    .results = "y",
    .doc = "y = a b for matrices a (..., M, K) and b (..., K, N): y is (..., M, N). Batch "
           "dimensions broadcast. A vector a (K) is one row, a vector b (K) one column, and y "
           "lacks that dimension. A row of y has the same bits whatever rows follow it.",
    .min_in = 2,
    .max_in = 2,
    .n_out = 1,
    .uses = PF_USES_IN(0) | PF_USES_IN(1),
    .reads = {PF_USES_IN(1), PF_USES_IN(0)},
    .shape = matmul_shape,
    .products = matmul_products,
    .forward = matmul_forward,
    .backward = matmul_backward,
};
