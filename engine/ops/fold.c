/*
 * fold.c - see fold.h. The full index space splits in kept dimensions (those of `to`) and
 * reduced ones. Two ways through it, chosen by the last dimension that is larger than 1:
 *   columns  it is kept: a task owns a stretch of `to` and adds whole runs onto it;
 *   rows     it is reduced: a task owns elements of `to` and sums runs in double.
 * A huge row is cut in blocks of fixed length whose partial sums are added in order.
 *
 * What must hold: which way is taken, where pieces begin and the order of every addition follow
 * from shapes and strides. Threads only decide who computes a kept element, never how: each is
 * summed by one task from first to last, or in blocks that no task cuts.
 */
#include "fold.h"

#include <math.h>
#include <string.h>

enum { BLOCK = 65536, ROUND = 256 };
enum { FEW_COLUMNS = 64, MANY_COLUMNS = 256 }; /* least stretch of columns a task owns */

typedef struct fold {
    const pf_fold_job *job;
    const pf_kern *kern;
    float *to;
    const float *x[PF_FOLD_IN];
    pf_iter kept;    /* operand 0: to, then x */
    pf_iter reduced; /* the same operands; `to` stands still */
    int64_t n_kept, n_reduced;
    int64_t grain;   /* kept elements (columns), or blocks of them (rows), a task */
    int64_t blocks;  /* rows: partial sums an element */
    double *partial; /* (n_kept, blocks), NULL when blocks is 1 */
} fold;

/* ---- operands of one piece ---------------------------------------------------- */

const float *pf_gather_run(const pf_kern *kern, const float *p, int64_t stride, int64_t n,
                           float *buffer) {
    if (stride == 1) return p;
    if (stride == 0 && n > 0)
        kern->fill(n, p[0], buffer);
    else
        for (int64_t i = 0; i < n; i++) buffer[i] = p[i * stride];
    return buffer;
}

/* f on n elements of each operand, at x with strides; the result is g, or operand 0
 * itself when there is no f. */
static const float *piece(const fold *w, int64_t n, const float *const *at, const int64_t *stride,
                          float buffers[][PF_FOLD_PIECE], float *g) {
    const float *x[PF_FOLD_IN] = {NULL};
    for (int k = 0; k < w->job->n; k++)
        x[k] = pf_gather_run(w->kern, at[k], stride[k], n, buffers[k]);
    if (!w->job->f) return x[0];
    w->job->f(w->job->context, n, x, g);
    return g;
}

/* to[i * stride] (+)= scale * g[i] */
static void store(const fold *w, float *to, int64_t stride, int64_t n, const float *g) {
    float scale = (float)w->job->scale;
    if (stride == 1 && !w->job->overwrite) {
        w->kern->axpy(n, scale, g, to);
    } else if (stride == 1) {
        if (g != to || scale != 1.0f) w->kern->scale(n, scale, g, to);
    } else {
        for (int64_t i = 0; i < n; i++)
            to[i * stride] = (w->job->overwrite ? 0.0f : to[i * stride]) + scale * g[i];
    }
}

/* Where kept element `index` lies in each operand. *left: elements until its run ends; so far
 * the operands step evenly. */
static void kept_at(const fold *w, int64_t index, float **to, const float **x, int64_t *left) {
    int64_t offset[PF_ITER_MAX];
    pf_iter_place(&w->kept, index, offset);
    *to = w->to + offset[0];
    for (int k = 0; k < w->job->n; k++) x[k] = w->x[k] + offset[k + 1];
    *left = w->kept.inner - index % w->kept.inner;
}

/* ---- nothing reduced ---------------------------------------------------------- */

/* True when pieces need no buffer: f reads the operands in place and writes into `to`. Then a
 * piece may be a whole run; else it is as long as the buffers on the stack. */
static bool direct(const fold *w) {
    if (!w->job->overwrite || !w->job->f || w->kept.inner_stride[0] != 1) return false;
    for (int k = 0; k < w->job->n; k++)
        if (w->kept.inner_stride[k + 1] != 1) return false;
    return true;
}

static void map_range(void *context, int64_t first, int64_t last) {
    const fold *w = context;
    bool in_place = direct(w);
    float buffers[PF_FOLD_IN][PF_FOLD_PIECE], g[PF_FOLD_PIECE];
    while (first < last) {
        float *to;
        const float *x[PF_FOLD_IN] = {NULL};
        int64_t n;
        kept_at(w, first, &to, x, &n);
        n = pf_min(n, last - first);
        if (!in_place) n = pf_min(n, PF_FOLD_PIECE);
        /* cppcheck-suppress legacyUninitvar ; piece writes there first */
        float *result = in_place || (w->job->overwrite && w->kept.inner_stride[0] == 1) ? to : g;
        const float *done = piece(w, n, x, w->kept.inner_stride + 1, buffers, result);
        store(w, to, w->kept.inner_stride[0], n, done);
        first += n;
    }
}

/* ---- one element ------------------------------------------------------------- */

/* In float by the kernel, whose order is fixed; in double where that overflowed on the way. */
static double sum_piece(const pf_kern *kern, int64_t n, const float *x) {
    float sum = kern->sum(n, x);
    if (isfinite(sum)) return (double)sum;
    double total = 0;
    for (int64_t i = 0; i < n; i++) total += (double)x[i];
    return total;
}

/* The sum over reduced elements first .. last-1 at x: pieces in double. */
static double sum_row(const fold *w, const float *const *x, int64_t first, int64_t last) {
    float buffers[PF_FOLD_IN][PF_FOLD_PIECE], g[PF_FOLD_PIECE];
    double total = 0;
    while (first < last) {
        int64_t offset[PF_ITER_MAX];
        pf_iter_place(&w->reduced, first, offset);
        int64_t left = w->reduced.inner - first % w->reduced.inner;
        int64_t n = pf_min(pf_min(left, last - first), PF_FOLD_PIECE);
        const float *from[PF_FOLD_IN] = {NULL};
        for (int k = 0; k < w->job->n; k++) from[k] = x[k] + offset[k + 1];
        const float *done = piece(w, n, from, w->reduced.inner_stride + 1, buffers, g);
        total += sum_piece(w->kern, n, done);
        first += n;
    }
    return total;
}

static void store_one(const fold *w, float *to, double total) {
    float value = (float)(total * w->job->scale);
    *to = w->job->overwrite ? value : *to + value;
}

/* ---- columns: whole runs of kept elements are added --------------------------- */

/* Running sums of n columns. Every ROUND runs they join the total: the error grows with
 * ROUND and the number of rounds, not with that of the runs. */
typedef struct columns {
    int64_t n, pending;
    float sum[PF_FOLD_PIECE], *total;
} columns;

static void end_round(const fold *w, columns *s, int64_t added) {
    s->pending += added;
    if (s->pending < ROUND) return;
    w->kern->binary(PF_BINARY_ADD, s->n, s->total, 1, s->sum, 1, s->total);
    memset(s->sum, 0, sizeof(float) * (size_t)s->n);
    s->pending = 0;
}

/* A run of the reduced space, piece after piece; `at` is moved along it. */
static void add_pieces(const fold *w, columns *s, const float **at) {
    float buffers[PF_FOLD_IN][PF_FOLD_PIECE], g[PF_FOLD_PIECE];
    for (int64_t j = 0; j < w->reduced.inner; j++) {
        const float *done = piece(w, s->n, at, w->kept.inner_stride + 1, buffers, g);
        w->kern->binary(PF_BINARY_ADD, s->n, s->sum, 1, done, 1, s->sum);
        for (int k = 0; k < w->job->n; k++) at[k] += w->reduced.inner_stride[k + 1];
        end_round(w, s, 1);
    }
}

/* The same for plain sums of contiguous columns: many rows a call. */
static void add_rows(const fold *w, columns *s, const float *x) {
    int64_t ld = w->reduced.inner_stride[1];
    for (int64_t j = 0; j < w->reduced.inner;) {
        int64_t rows = pf_min(ROUND - s->pending, w->reduced.inner - j);
        w->kern->rows_sum(rows, s->n, ld, x + j * ld, NULL, s->sum);
        end_round(w, s, rows);
        j += rows;
    }
}

/* total[0 .. n-1] = sum over the reduced space of the pieces at x. */
static void sum_columns(const fold *w, int64_t n, const float *const *x, float *total) {
    columns s = {.n = n, .total = total};
    bool plain = !w->job->f && w->kept.inner_stride[1] == 1;
    memset(total, 0, sizeof(float) * (size_t)n);
    for (int64_t run = 0; run < w->reduced.outer; run++) {
        int64_t offset[PF_ITER_MAX];
        const float *at[PF_FOLD_IN] = {NULL};
        pf_iter_at(&w->reduced, run, offset);
        for (int k = 0; k < w->job->n; k++) at[k] = x[k] + offset[k + 1];
        if (plain)
            add_rows(w, &s, at[0]);
        else
            add_pieces(w, &s, at);
    }
    w->kern->binary(PF_BINARY_ADD, n, total, 1, s.sum, 1, total);
}

/* The columns whose sum overflowed on its way, on its own and in double. */
static void sum_again(const fold *w, int64_t n, const float *const *x, const bool *again,
                      float *to) {
    for (int64_t i = 0; i < n; i++) {
        const float *at[PF_FOLD_IN] = {NULL};
        if (!again[i]) continue;
        for (int k = 0; k < w->job->n; k++) at[k] = x[k] + i * w->kept.inner_stride[k + 1];
        store_one(w, to + i * w->kept.inner_stride[0], sum_row(w, at, 0, w->n_reduced));
    }
}

static void column_range(void *context, int64_t first, int64_t last) {
    const fold *w = context;
    float total[PF_FOLD_PIECE];
    while (first < last) {
        float *to;
        const float *x[PF_FOLD_IN] = {NULL};
        int64_t n;
        kept_at(w, first, &to, x, &n);
        n = pf_min(pf_min(n, last - first), PF_FOLD_PIECE);
        sum_columns(w, n, x, total);
        bool overflowed = !isfinite(w->kern->sum(n, total));
        bool again[PF_FOLD_PIECE];
        for (int64_t i = 0; overflowed && i < n; i++) {
            again[i] = !isfinite(total[i]);
            if (again[i]) total[i] = 0;
        }
        store(w, to, w->kept.inner_stride[0], n, total);
        if (overflowed) sum_again(w, n, x, again, to);
        first += n;
    }
}

/* ---- rows: runs of reduced elements are summed -------------------------------- */

/* Task `index` of (kept element, block) pairs. */
static void row_range(void *context, int64_t first, int64_t last) {
    const fold *w = context;
    for (int64_t index = first; index < last; index++) {
        int64_t element = index / w->blocks, block = index % w->blocks;
        float *to;
        const float *x[PF_FOLD_IN] = {NULL};
        int64_t left;
        kept_at(w, element, &to, x, &left);
        double total = sum_row(w, x, block * BLOCK, pf_min(w->n_reduced, (block + 1) * BLOCK));
        if (w->partial)
            w->partial[index] = total;
        else
            store_one(w, to, total);
    }
}

/* Few long rows: their blocks are tasks too, so that one row still keeps all threads busy. */
static int fold_rows(fold *w) {
    size_t bytes = 0;
    w->blocks = pf_max(1, pf_ceil_div(w->n_reduced, BLOCK));
    w->grain = pf_max(1, PF_FOLD_GRAIN / pf_max(1, w->n_reduced));
    if (w->blocks > 1) {
        if (!pf_mul_size((size_t)w->n_kept * sizeof(double), (size_t)w->blocks, &bytes))
            return pf_fail(PF_ENOMEM, "partial sums: too many");
        w->partial = pf_heap_alloc(w->job->engine->heap, bytes);
        if (!w->partial) return PF_ENOMEM;
    }
    int status = pf_parallel_range(w->job->engine, w->n_kept * w->blocks, w->grain, row_range, w);
    for (int64_t e = 0; w->partial && status >= 0 && e < w->n_kept; e++) {
        float *to;
        const float *x[PF_FOLD_IN] = {NULL};
        int64_t left;
        double total = 0;
        for (int64_t b = 0; b < w->blocks; b++) total += w->partial[e * w->blocks + b];
        kept_at(w, e, &to, x, &left);
        store_one(w, to, total);
    }
    if (w->partial) pf_heap_free(w->job->engine->heap, w->partial, bytes);
    return status;
}

/* ---- splitting the space ------------------------------------------------------ */

/* Size and stride of dimension d of the full shape in `t`: 1 and 0 where t lacks it. */
static int64_t size_in(const pf_tensor *t, int rank, int d) {
    int at = d - (rank - t->rank);
    return at < 0 ? 1 : t->shape[at];
}

static int64_t stride_in(const pf_tensor *t, int rank, int d) {
    int at = d - (rank - t->rank);
    return at < 0 || t->shape[at] == 1 ? 0 : t->stride[at];
}

/* The operands become headers that have the dimensions of the space only, broadcast: a dimension
 * that a header lacks, or has with size 1, gets stride 0. */
int64_t pf_split_space(int rank, const int64_t *shape, int n, const pf_tensor *const *operand,
                       bool kept, pf_iter *it) {
    pf_tensor header[PF_ITER_MAX];
    const pf_tensor *pointer[PF_ITER_MAX];
    int64_t own[PF_MAX_RANK];
    int left = 0;
    memset(header, 0, sizeof header);
    for (int d = 0; d < rank; d++) {
        if (shape[d] == 1 || (size_in(operand[0], rank, d) != 1) != kept) continue;
        for (int k = 0; k < n; k++) {
            header[k].shape[left] = shape[d];
            header[k].stride[left] = stride_in(operand[k], rank, d);
        }
        own[left++] = shape[d];
    }
    for (int k = 0; k < n; k++) {
        header[k].rank = left;
        pointer[k] = &header[k];
    }
    pf_iter_make(it, left, own, n, pointer);
    return pf_shape_numel(left, own);
}

void pf_iter_place(const pf_iter *it, int64_t index, int64_t *offsets) {
    int64_t run = index / it->inner, inside = index % it->inner;
    pf_iter_at(it, run, offsets);
    for (int k = 0; k < it->n; k++) offsets[k] += inside * it->inner_stride[k];
}

/* The last dimension larger than 1 is one of `to`. */
static bool last_is_kept(const pf_fold_job *job) {
    for (int d = job->rank - 1; d >= 0; d--)
        if (job->shape[d] != 1) return size_in(job->to, job->rank, d) != 1;
    return true;
}

int pf_fold(const pf_fold_job *job) {
    fold w = {.job = job, .kern = job->engine->kern, .to = pf_f32(job->to)};
    const pf_tensor *operand[PF_ITER_MAX] = {job->to};
    for (int k = 0; k < job->n; k++) {
        operand[k + 1] = job->x[k];
        w.x[k] = pf_f32(job->x[k]);
    }
    w.n_kept = pf_split_space(job->rank, job->shape, job->n + 1, operand, true, &w.kept);
    w.n_reduced = pf_split_space(job->rank, job->shape, job->n + 1, operand, false, &w.reduced);
    if (w.n_kept == 0) return PF_OK;
    if (w.n_reduced == 1)
        return pf_parallel_range(job->engine, w.n_kept, PF_FOLD_GRAIN, map_range, &w);
    if (w.n_reduced == 0 || !last_is_kept(job)) return fold_rows(&w);
    int64_t least = w.n_kept >= (int64_t)8 * MANY_COLUMNS ? MANY_COLUMNS : FEW_COLUMNS;
    w.grain = pf_round_up(pf_max(1, PF_FOLD_GRAIN / w.n_reduced), least);
    return pf_parallel_range(job->engine, w.n_kept, w.grain, column_range, &w);
}

int pf_add_into(pf_engine *engine, const pf_tensor *to, bool overwrite, const pf_tensor *from,
                double scale) {
    return pf_fold(&(pf_fold_job){
        .engine = engine,
        .to = to,
        .overwrite = overwrite,
        .rank = to->rank,
        .shape = to->shape,
        .n = 1,
        .x = {from},
        .scale = scale,
    });
}
