/* tiles.c - see tiles.h. */
#include "tiles.h"

#include <string.h>

/* ---- matrices ----------------------------------------------------------------- */

/* Layout of (rows, cols) with strides rs, cs as a BLAS matrix; false when it is none. */
static bool blas_layout(pf_matrix *m, int64_t rs, int64_t cs) {
    const int64_t rows = m->rows, cols = m->cols;
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

int pf_matrix_open(pf_matrix *m, pf_engine *engine, const pf_tensor *t) {
    *m = (pf_matrix){.rows = t->shape[t->rank - 2], .cols = t->shape[t->rank - 1]};
    if (!blas_layout(m, t->stride[t->rank - 2], t->stride[t->rank - 1])) {
        PF_TRY(pf_tensor_compact(&m->owned, engine, t));
        t = m->owned;
        blas_layout(m, t->stride[t->rank - 2], t->stride[t->rank - 1]);
    }
    m->data = pf_f32(t);
    m->batch = *t;
    m->batch.rank = t->rank - 2;
    return PF_OK;
}

void pf_matrix_close(pf_matrix *m) { pf_tensor_release(&m->owned); }

pf_matrix pf_matrix_flip(const pf_matrix *m) {
    pf_matrix f = *m;
    f.rows = m->cols;
    f.cols = m->rows;
    f.transposed = !m->transposed;
    f.owned = NULL;
    return f;
}

bool pf_matrix_flatten(const pf_matrix *m, pf_matrix *flat) {
    const int64_t items = pf_shape_numel(m->batch.rank, m->batch.shape);
    if (m->transposed) return false;
    *flat = *m;
    flat->owned = NULL;
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

typedef struct tile_run {
    const pf_tiles *job;
    pf_iter kept, reduced; /* operands c, a, b */
    int64_t n_kept, n_reduced;
    int64_t row_tiles, col_tiles;
} tile_run;

/* Rows first .. first+count-1 of A, filled up with zeros to `tile` rows in A's own layout. */
static void pad_rows(const pf_matrix *a, const float *data, int64_t first, int64_t count,
                     int64_t tile, float *out) {
    const int64_t k = a->cols;
    const size_t row = sizeof(float);
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
    const int64_t tile = job->rows, k = job->a->cols;
    float *rows = pf_carve(&scratch, sizeof(float) * (size_t)(tile * k));
    float *result = pf_carve(&scratch, sizeof(float) * (size_t)(tile * n));
    const int64_t ld = job->a->transposed ? tile : pf_max(k, 1);
    pad_rows(job->a, a, row, count, tile, rows);
    if (beta != 0.0f) {
        copy_rows(result, n, c, job->c->ld, count, n);
        memset(result + count * n, 0, sizeof(float) * (size_t)((tile - count) * n));
    }
    pf_gemm(job->a->transposed, job->b->transposed, tile, n, k, 1.0f, rows, ld, b, job->b->ld, beta,
            result, n);
    copy_rows(c, job->c->ld, result, n, count, n);
}

static void add_bias(const pf_tiles *job, int64_t rows, int64_t n, const float *bias, float *c) {
    const pf_kern *kern = job->engine->kern;
    for (int64_t i = 0; i < rows; i++) {
        float *y = c + i * job->c->ld;
        kern->binary(PF_BINARY_ADD, n, y, 1, bias, 1, y);
    }
}

/* Task: (item, row tile, column tile), columns fastest. Summed products follow each other
 * in the batch's order. */
static void tile_task(void *context, int64_t task, void *scratch) {
    const tile_run *run = context;
    const pf_tiles *job = run->job;
    const pf_matrix *a = job->a, *b = job->b, *c = job->c;
    const int64_t col = task % run->col_tiles * job->cols;
    const int64_t row = task / run->col_tiles % run->row_tiles * job->rows;
    const int64_t item = task / run->col_tiles / run->row_tiles;
    const int64_t n = pf_min(job->cols, c->cols - col), count = pf_min(job->rows, c->rows - row);
    const int64_t b_at = b->transposed ? col * b->ld : col;
    const int64_t a_at = a->transposed ? row : row * a->ld;
    int64_t base[PF_ITER_MAX], more[PF_ITER_MAX];
    pf_iter_place(&run->kept, item, base);
    float *to = c->data + base[0] + row * c->ld + col;
    for (int64_t r = 0; r < run->n_reduced; r++) {
        pf_iter_place(&run->reduced, r, more);
        const float *from_a = a->data + base[1] + more[1];
        const float *from_b = b->data + base[2] + more[2] + b_at;
        const float beta = r == 0 && job->overwrite ? 0.0f : 1.0f;
        if (job->pad && count < job->rows)
            padded_tile(job, row, count, n, from_a, from_b, beta, to, scratch);
        else
            pf_gemm(a->transposed, b->transposed, count, n, a->cols, 1.0f, from_a + a_at, a->ld,
                    from_b, b->ld, beta, to, c->ld);
    }
    if (run->n_reduced == 0 && job->overwrite)
        for (int64_t i = 0; i < count; i++) job->engine->kern->fill(n, 0.0f, to + i * c->ld);
    if (job->bias) add_bias(job, count, n, job->bias + col, to);
}

/* ---- all of them -------------------------------------------------------------- */

int pf_tiles_run(const pf_tiles *job) {
    tile_run run = {.job = job};
    const pf_tensor *operand[3] = {&job->c->batch, &job->a->batch, &job->b->batch};
    const int64_t m = job->c->rows, n = job->c->cols, k = job->a->cols;
    if (m == 0 || n == 0) return PF_OK;
    run.n_kept = pf_split_space(job->rank, job->batch, 3, operand, true, &run.kept);
    run.n_reduced = pf_split_space(job->rank, job->batch, 3, operand, false, &run.reduced);
    run.row_tiles = pf_ceil_div(m, job->rows);
    run.col_tiles = pf_ceil_div(n, job->cols);
    size_t bytes = 0;
    if (job->pad && m % job->rows != 0) {
        const size_t widest = (size_t)pf_min(n, job->cols);
        if (!pf_mul_size((size_t)k + widest, sizeof(float) * (size_t)job->rows, &bytes))
            return pf_fail(PF_ENOMEM, "%lld columns: a tile is too large", (long long)k);
        bytes += 2 * PF_ALIGN;
    }
    return pf_parallel(job->engine, run.n_kept * run.row_tiles * run.col_tiles, bytes, tile_task,
                       &run);
}

void pf_tiles_for_weight(pf_tiles *job) {
    static const int64_t sizes[][2] = {{512, 512}, {256, 512}, {256, 256}, {128, 256}, {128, 128}};
    enum { ENOUGH = 8, SMALL = 1 << 20 };
    const int64_t m = job->c->rows, n = job->c->cols;
    job->pad = false;
    for (int i = 0; i < PF_COUNT(sizes); i++) {
        job->rows = sizes[i][0];
        job->cols = sizes[i][1];
        if (pf_ceil_div(m, job->rows) * pf_ceil_div(n, job->cols) >= ENOUGH) return;
        if ((double)m * (double)n * (double)job->a->cols < SMALL) return;
    }
}
