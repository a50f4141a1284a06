/*
 * tiles.c - see tiles.h. What must hold: a row's bits depend on the row, on B and on k. The own
 * block_gemm adds along k in an order of its own for every row, so tiles of any size will do and
 * the number of threads may choose them. The BLAS picks its inner loops by the size of a call, so
 * where it stands in every call has one size: that is what the padding is for. Where a sum over
 * many rows is cut in stretches, the cut follows from the problem alone.
 */
#include "tiles.h"

#include <string.h>

/* ---- matrices ----------------------------------------------------------------- */

/* Layout of (rows, cols) with strides rs, cs as a BLAS matrix; false when it is none. */
static bool blas_layout(pf_matrix *m, int64_t rs, int64_t cs) {
    int64_t rows = m->rows, cols = m->cols;
    if (rows == 0 || cols == 0) {
        m->ld = pf_max(cols, 1);
        return true;
    }
    if ((cols <= 1 || cs == 1) && (rows <= 1 || rs >= pf_max(cols, 1))) {
        m->transposed = false;
        m->ld = rows <= 1 ? pf_max(cols, 1) : rs;
        return true;
    }
    if ((rows <= 1 || rs == 1) && (cols <= 1 || cs >= pf_max(rows, 1))) {
        m->transposed = true;
        m->ld = cols <= 1 ? pf_max(rows, 1) : cs;
        return true;
    }
    return false;
}

int pf_matrix_open(pf_matrix *m, pf_call *c, const pf_tensor *t) {
    *m = (pf_matrix){.rows = t->shape[t->rank - 2], .cols = t->shape[t->rank - 1]};
    if (!blas_layout(m, t->stride[t->rank - 2], t->stride[t->rank - 1])) {
        pf_tensor *copy;
        PF_TRY(pf_call_compact(c, t, &copy));
        t = copy;
        blas_layout(m, t->stride[t->rank - 2], t->stride[t->rank - 1]);
    }
    m->data = pf_f32(t);
    m->batch = pf_tensor_place(t);
    m->batch.rank = t->rank - 2;
    return PF_OK;
}

pf_matrix pf_matrix_flip(const pf_matrix *m) {
    pf_matrix f = *m;
    f.rows = m->cols;
    f.cols = m->rows;
    f.transposed = !m->transposed;
    return f;
}

/* All rows of all items as one matrix, if they are evenly spaced: then a weight's gradient is one
 * product, not one an item. */
static bool flatten(const pf_matrix *m, pf_matrix *flat) {
    int64_t items = pf_shape_numel(m->batch.rank, m->batch.shape);
    if (m->transposed) return false;
    *flat = *m;
    flat->batch.rank = 0;
    if (items == 1) return true;
    /* A single row an item leaves the distance of the items as the distance of the rows. */
    int64_t expect = m->rows * m->ld;
    for (int d = m->batch.rank - 1; d >= 0; d--) {
        if (m->batch.shape[d] == 1) continue;
        if (m->batch.stride[d] != expect) return false;
        expect *= m->batch.shape[d];
    }
    flat->rows = m->rows * items;
    return true;
}

/* ---- one tile ----------------------------------------------------------------- */

enum { LEAST_ROWS = 128, LEAST_COLS = 256 }; /* smallest tile of the own kernel */

typedef struct tile_run {
    const pf_tiles *job;
    pf_iter kept, reduced; /* operands c, a, b */
    int64_t n_kept, n_reduced;
    int64_t row_tiles, col_tiles;
} tile_run;

/* The level's own kernel: faster than the BLAS on tiles, and its bits need no padding. */
static bool own_kernel(const pf_tiles *job) { return job->engine->kern->block_gemm; }

/* Rows first .. first+count-1 of A, filled up with zeros to `tile` rows in A's own layout. */
static void pad_rows(const pf_matrix *a, const float *data, int64_t first, int64_t count,
                     int64_t tile, float *out) {
    int64_t k = a->cols;
    size_t row = sizeof(float);
    if (a->transposed) {
        for (int64_t j = 0; j < k; j++) {
            memcpy(out + j * tile, data + j * a->ld + first, row * (size_t)count);
            memset(out + j * tile + count, 0, row * (size_t)(tile - count));
        }
        return;
    }
    for (int64_t i = 0; i < count; i++)
        memcpy(out + i * k, data + (first + i) * a->ld, row * (size_t)k);
    memset(out + count * k, 0, row * (size_t)((tile - count) * k));
}

static void copy_rows(float *to, int64_t ldt, const float *from, int64_t ldf, int64_t rows,
                      int64_t cols) {
    for (int64_t i = 0; i < rows; i++)
        memcpy(to + i * ldt, from + i * ldf, sizeof(float) * (size_t)cols);
}

/* C's tile at `c` (count, n) = beta C + A B, in one call of the full tile's shape. */
static void padded_tile(const pf_tiles *job, int64_t row, int64_t count, int64_t n, const float *a,
                        const float *b, float beta, float *c, void *scratch) {
    int64_t tile = job->rows, k = job->a->cols;
    float *rows = pf_carve(&scratch, sizeof(float) * (size_t)(tile * k));
    float *result = pf_carve(&scratch, sizeof(float) * (size_t)(tile * n));
    int64_t ld = job->a->transposed ? tile : pf_max(k, 1);
    pad_rows(job->a, a, row, count, tile, rows);
    if (beta != 0.0f) {
        copy_rows(result, n, c, job->c->ld, count, n);
        memset(result + count * n, 0, sizeof(float) * (size_t)((tile - count) * n));
    }
    pf_gemm(job->a->transposed, job->b->transposed, tile, n, k, 1.0f, rows, ld, b, job->b->ld, beta,
            result, n);
    copy_rows(c, job->c->ld, result, n, count, n);
}

/* What follows a finished tile (rows, n) at c while it is in the caches. ones: n of them. */
static void finish_tile(const pf_tiles *job, int64_t rows, int64_t n, const float *bias, float *c,
                        float *ones) {
    const pf_kern *kern = job->engine->kern;
    float *slope = job->slope ? job->slope + (c - job->c->data) : NULL;
    if (slope) kern->fill(n, 1.0f, ones);
    for (int64_t i = 0; i < rows; i++) {
        float *y = c + i * job->c->ld, *s = slope ? slope + i * job->c->ld : NULL;
        if (bias) kern->binary(PF_BINARY_ADD, n, y, 1, bias, 1, y);
        if (!job->act) continue;
        if (s) {
            kern->fill(n, 0.0f, s);
            kern->unary_grad(*job->act, n, y, y, ones, s);
        }
        kern->unary(*job->act, n, y, y);
    }
}

/* Task of a product cut along k: (stretch, row tile, column tile), columns fastest. */
static void stretch_task(void *context, int64_t task, void *scratch) {
    const tile_run *run = context;
    const pf_tiles *job = run->job;
    const pf_matrix *a = job->a, *b = job->b, *c = job->c;
    int64_t col = task % run->col_tiles * job->cols;
    int64_t row = task / run->col_tiles % run->row_tiles * job->rows;
    int64_t part = task / run->col_tiles / run->row_tiles, from = part * job->stretch;
    int64_t k = pf_min(job->stretch, a->cols - from);
    const float *at_a = a->data + (a->transposed ? from * a->ld + row : row * a->ld + from);
    const float *at_b = b->data + (b->transposed ? col * b->ld + from : from * b->ld + col);
    pf_block_gemm(job->engine->kern, a->transposed, b->transposed, pf_min(job->rows, c->rows - row),
                  pf_min(job->cols, c->cols - col), k, at_a, a->ld, at_b, b->ld,
                  job->overwrite ? 0.0f : 1.0f, c->data + (part * c->rows + row) * c->ld + col,
                  c->ld, scratch);
}

/* Task: (item, row tile, column tile), columns fastest: neighbours share the rows of A that are in
 * the cache. Products that are summed (C has size 1 in a batch dimension) follow each other in
 * the batch's order within one task. */
static void tile_task(void *context, int64_t task, void *scratch) {
    const tile_run *run = context;
    const pf_tiles *job = run->job;
    const pf_matrix *a = job->a, *b = job->b, *c = job->c;
    int64_t col = task % run->col_tiles * job->cols;
    int64_t row = task / run->col_tiles % run->row_tiles * job->rows;
    int64_t item = task / run->col_tiles / run->row_tiles;
    int64_t n = pf_min(job->cols, c->cols - col), count = pf_min(job->rows, c->rows - row);
    int64_t b_at = b->transposed ? col * b->ld : col;
    int64_t a_at = a->transposed ? row : row * a->ld;
    int64_t base[PF_ITER_MAX], more[PF_ITER_MAX];
    pf_iter_place(&run->kept, item, base);
    float *to = c->data + base[0] + row * c->ld + col;
    float *ones = job->slope ? pf_carve(&scratch, sizeof(float) * (size_t)n) : NULL;
    for (int64_t r = 0; r < run->n_reduced; r++) {
        pf_iter_place(&run->reduced, r, more);
        const float *from_a = a->data + base[1] + more[1];
        const float *from_b = b->data + base[2] + more[2] + b_at;
        float beta = r == 0 && job->overwrite ? 0.0f : 1.0f;
        if (job->pad && count < job->rows && !own_kernel(job))
            padded_tile(job, row, count, n, from_a, from_b, beta, to, scratch);
        else
            pf_block_gemm(job->engine->kern, a->transposed, b->transposed, count, n, a->cols,
                          from_a + a_at, a->ld, from_b, b->ld, beta, to, c->ld, scratch);
    }
    if (run->n_reduced == 0 && job->overwrite)
        for (int64_t i = 0; i < count; i++) job->engine->kern->fill(n, 0.0f, to + i * c->ld);
    if (job->bias || job->act)
        finish_tile(job, count, n, job->bias ? job->bias + col : NULL, to, ones);
}

/* ---- all of them -------------------------------------------------------------- */

/* Tiles of the own kernel: as large as leaves a few tasks for every thread. Their sizes have no
 * part in anybody's bits, so the number of threads may decide. items: products, or parts of one. */
static void size_tiles(pf_tiles *job, int64_t items) {
    static const int64_t sizes[][2] = {
        {512, 1024}, {512, 512}, {256, 512}, {128, 512}, {LEAST_ROWS, LEAST_COLS},
    };
    int64_t threads = job->engine->threads, wanted = threads == 1 ? 1 : 4 * threads;
    for (int i = 0; i < PF_COUNT(sizes); i++) {
        job->rows = sizes[i][0];
        job->cols = sizes[i][1];
        int64_t down = pf_ceil_div(job->c->rows, job->rows);
        if (items * down * pf_ceil_div(job->c->cols, job->cols) >= wanted) break;
    }
}

/* Bytes of scratch a task. */
static int tile_scratch(const pf_tiles *job, size_t *bytes) {
    *bytes = 0;
    if (own_kernel(job)) {
        int64_t k = job->stretch > 0 ? job->stretch : job->a->cols;
        *bytes = (size_t)pf_panel_floats(pf_min(job->rows, job->c->rows), k) * sizeof(float);
    } else if (job->pad && job->c->rows % job->rows != 0) {
        size_t widest = (size_t)pf_min(job->c->cols, job->cols);
        if (!pf_mul_size((size_t)job->a->cols + widest, sizeof(float) * (size_t)job->rows, bytes))
            return pf_fail(PF_ENOMEM, "%lld columns: a tile is too large", (long long)job->a->cols);
        *bytes += 2 * (size_t)PF_ALIGN;
    }
    if (job->slope) *bytes += sizeof(float) * (size_t)job->cols + PF_ALIGN;
    return PF_OK;
}

/* How a job with numbers in C is cut, and its scratch a task. */
static int cut(pf_tiles *job, tile_run *run, int64_t *parts, size_t *bytes) {
    const pf_tensor *operand[3] = {&job->c->batch, &job->a->batch, &job->b->batch};
    run->job = job;
    run->n_kept = pf_split_space(job->rank, job->batch, 3, operand, true, &run->kept);
    run->n_reduced = pf_split_space(job->rank, job->batch, 3, operand, false, &run->reduced);
    *parts = job->stretch > 0 ? pf_ceil_div(job->a->cols, job->stretch) : 1;
    if (own_kernel(job)) {
        size_tiles(job, run->n_kept * *parts);
    } else {
        PF_TRY(pf_blas_need());
    }
    run->row_tiles = pf_ceil_div(job->c->rows, job->rows);
    run->col_tiles = pf_ceil_div(job->c->cols, job->cols);
    return tile_scratch(job, bytes);
}

int pf_tiles_run(const pf_tiles *given) {
    pf_tiles job = *given;
    tile_run run = {0};
    int64_t parts;
    size_t bytes;
    if (job.c->rows == 0 || job.c->cols == 0) return PF_OK;
    PF_TRY(cut(&job, &run, &parts, &bytes));
    if (job.stretch > 0)
        return pf_parallel(job.engine, parts * run.row_tiles * run.col_tiles, bytes, stretch_task,
                           &run);
    return pf_parallel(job.engine, run.n_kept * run.row_tiles * run.col_tiles, bytes, tile_task,
                       &run);
}

static void no_task(void *context, int64_t task, void *scratch) {
    (void)context, (void)task, (void)scratch;
}

int pf_tiles_ready(const pf_tiles *given) {
    pf_tiles job = *given;
    tile_run run = {0};
    int64_t parts;
    size_t bytes;
    if (job.c->rows == 0 || job.c->cols == 0) return PF_OK;
    PF_TRY(cut(&job, &run, &parts, &bytes));
    return pf_parallel(job.engine, 1, bytes, no_task, NULL);
}

/* ---- sums over rows ----------------------------------------------------------- */

enum { WIDE = 512, ENOUGH = 8, SHORTEST = 512, SMALL = 1 << 22 };

/* How many of the k rows of `t` go in one stretch: all of them where the tiles alone are enough
 * tasks or the work is small. Depends on the problem only, and on whose kernel runs. */
static int64_t stretch_of(const pf_tiles *t) {
    int64_t m = t->c->rows, n = t->c->cols, k = t->a->cols;
    int64_t rows = own_kernel(t) ? LEAST_ROWS : WIDE;
    int64_t cols = own_kernel(t) ? LEAST_COLS : WIDE;
    int64_t tiles = pf_ceil_div(m, rows) * pf_ceil_div(n, cols);
    if (tiles >= ENOUGH || (double)m * (double)n * (double)k < SMALL) return k;
    int64_t parts = pf_min(pf_ceil_div(ENOUGH, tiles), k / SHORTEST);
    return parts <= 1 ? k : pf_round_up(pf_ceil_div(k, parts), 64);
}

/* The partial sums (parts, m, n) of the stretches, then their sum. */
static int in_stretches(const pf_over_rows *job, const pf_tiles *whole, int64_t stretch) {
    const pf_matrix *c = job->c;
    const int64_t shape[3] = {pf_ceil_div(whole->a->cols, stretch), c->rows, c->cols};
    pf_tensor *parts = NULL;
    PF_TRY(pf_tensor_make(&parts, job->engine, PF_F32, 3, shape));
    const pf_matrix to = {.data = pf_f32(parts), .rows = c->rows, .cols = c->cols, .ld = c->cols};
    pf_tiles tiles = *whole;
    tiles.c = &to;
    tiles.stretch = stretch;
    tiles.overwrite = true;
    int status = pf_tiles_run(&tiles);
    pf_tensor sum = c->batch; /* its storage and offset; (m, n) contiguous */
    sum.rank = 2;
    sum.shape[0] = c->rows;
    sum.shape[1] = c->cols;
    sum.stride[0] = c->ld;
    sum.stride[1] = 1;
    if (status >= 0)
        status = pf_fold(&(pf_fold_job){
            .engine = job->engine,
            .to = &sum,
            .overwrite = job->overwrite,
            .rank = 3,
            .shape = shape,
            .n = 1,
            .x = {parts},
            .scale = 1,
        });
    pf_tensor_release(&parts);
    return status;
}

int pf_tiles_over_rows(const pf_over_rows *job) {
    pf_matrix left, right;
    bool flat = pf_shape_numel(job->c->batch.rank, job->c->batch.shape) == 1 &&
                flatten(job->left, &left) && flatten(job->right, &right) && left.rows == right.rows;
    const pf_matrix lt = pf_matrix_flip(flat ? &left : job->left);
    pf_tiles tiles = {
        .engine = job->engine,
        .a = &lt,
        .b = flat ? &right : job->right,
        .c = job->c,
        .rank = job->rank,
        .batch = job->batch,
        .rows = WIDE,
        .cols = WIDE,
        .overwrite = job->overwrite,
    };
    if (!flat) return pf_tiles_run(&tiles);
    tiles.rank = 0;
    int64_t stretch = stretch_of(&tiles);
    if (stretch < lt.cols) return in_stretches(job, &tiles, stretch);
    return pf_tiles_run(&tiles);
}
