/*
 * touched.c - tables of which a step reads a few rows, and moves those alone: a row whose gradient
 * is zero in every number stays as it is, its moments and decay too, as in PyTorch's SparseAdam. A
 * step then costs what it touches, whatever the table holds. Averages (`ema`) go over all rows.
 *
 * Over all rows the one gradient of a rare row moves it for some ten steps, by a mean that is
 * forgotten slowly; SparseAdam leaves that out, and learns a tenth as fast. Hence here a row has no
 * mean gradient: the step is by the gradient itself (groups.c).
 *
 * What holds: which rows are touched say the gradient's numbers. That a leaf knows where they can
 * differ from zero (autograd/grad.c) saves the search and changes no bit. Squares are summed row
 * by row and the rows added in order, whatever the threads.
 */
#include "optimizer.h"
#include "row_set.h"

enum { ROW_GRAIN = 1 << 8, WORD_GRAIN = 1 << 6 };

typedef struct {
    const pf_kern *kern;
    const float *g; /* (rows, width) */
    int64_t rows, width;
    pf_row_set set;
    const int32_t *row;
    double *square; /* one a listed row */
} search;

static double square_of(const search *s, int64_t row) {
    return s->kern->sumsq_double(s->width, s->g + row * s->width);
}

/* Words first .. last-1 of the set: rows that are not zero, NaN included. */
static void search_words(void *context, int64_t first, int64_t last) {
    search *s = context;
    int64_t end = pf_min(last * PF_ROW_SET_BITS, s->rows);
    for (int64_t r = first * PF_ROW_SET_BITS; r < end; r++) {
        int32_t row = (int32_t)r;
        if (square_of(s, r) != 0) pf_row_set_add(&s->set, &row, 1);
    }
}

/* Rows that may differ from zero, of a gradient that knows none. */
static int search_all(pf_tensor **rows, pf_engine *e, search *s) {
    PF_TRY(pf_row_set_open(&s->set, e->heap, s->rows));
    int64_t words = pf_ceil_div(s->rows, PF_ROW_SET_BITS);
    int status = pf_parallel_range(e, words, WORD_GRAIN, search_words, s);
    if (status >= 0) status = pf_row_set_list(&s->set, rows);
    pf_row_set_close(&s->set);
    return status;
}

static void square_listed(void *context, int64_t first, int64_t last) {
    search *s = context;
    for (int64_t i = first; i < last; i++) s->square[i] = square_of(s, s->row[i]);
}

/* Of the listed rows, those that are not zero, to *kept (with room for all). */
static int64_t keep_touched(pf_touched *t, const search *s, int64_t n, int32_t *kept) {
    int64_t count = 0;
    for (int64_t i = 0; i < n; i++) {
        if (s->square[i] == 0) continue;
        t->square += s->square[i];
        kept[count++] = s->row[i];
    }
    return count;
}

int pf_touched_find(pf_touched *t, pf_engine *e, const pf_tensor *param, const pf_tensor *grad) {
    int64_t rows = param->shape[0];
    search s = {.kern = e->kern,
                .g = pf_f32(grad),
                .rows = rows,
                .width = pf_tensor_numel(param) / pf_max(rows, 1)};
    pf_tensor *listed = pf_tensor_retain(param->grad_rows);
    if (!listed) PF_TRY(search_all(&listed, e, &s));
    int64_t n = pf_tensor_numel(listed);
    size_t bytes = (size_t)n * sizeof *s.square;
    s.row = pf_i32(listed);
    s.square = pf_heap_alloc(e->heap, bytes);
    int status = s.square ? pf_tensor_make_lasting(&t->rows, e->heap, PF_I32, 1, &n) : PF_ENOMEM;
    if (status >= 0) status = pf_parallel_range(e, n, ROW_GRAIN, square_listed, &s);
    if (status >= 0) t->n = keep_touched(t, &s, n, pf_i32(t->rows));
    if (s.square) pf_heap_free(e->heap, s.square, bytes);
    pf_tensor_release(&listed);
    return status;
}

/* ---- the update ---- */

typedef struct {
    const pf_optimizer_rule *rule;
    const pf_update *all;
    const int32_t *row;
    int64_t width;
} job;

static void update_listed(void *context, int64_t first, int64_t last) {
    const job *j = context;
    for (int64_t i = first; i < last; i++) {
        int64_t at = j->row[i] * j->width;
        pf_update part = *j->all;
        part.n = j->width;
        part.p += at, part.g += at;
        for (int k = 0; k < j->rule->n_moments; k++) part.moment[k] += at;
        j->rule->range(&part);
    }
}

int pf_touched_update(const pf_touched *t, pf_engine *e, const pf_optimizer_rule *rule,
                      const pf_update *all, int64_t width) {
    job j = {rule, all, pf_i32(t->rows), width};
    return pf_parallel_range(e, t->n, ROW_GRAIN, update_listed, &j);
}
