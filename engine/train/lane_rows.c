/* lane_rows.c - see lane_rows.h. A failure leaves both sides as they were. */
#include "lane_rows.h"

#include <string.h>

#include "kern.h"

void pf_lane_rows_close(pf_lane_rows *rows) {
    pf_tensor_release(&rows->row);
    pf_tensor_release(&rows->value);
}

static int make(pf_lane_rows *rows, pf_engine *e, int64_t n, int64_t width) {
    int64_t shape[] = {n, width};
    *rows = (pf_lane_rows){0};
    int status = pf_tensor_make_lasting(&rows->row, e->heap, PF_I32, 1, shape);
    if (status >= 0) status = pf_tensor_make_lasting(&rows->value, e->heap, PF_F32, 2, shape);
    if (status < 0) pf_lane_rows_close(rows);
    return status;
}

int pf_lane_rows_take(pf_lane_rows *rows, pf_engine *e, const pf_tensor *grad, const int32_t *row,
                      int64_t n) {
    int64_t width = pf_tensor_numel(grad) / pf_max(grad->shape[0], 1);
    PF_TRY(make(rows, e, n, width));
    for (int64_t i = 0; i < n; i++) {
        pf_i32(rows->row)[i] = row[i];
        memcpy(pf_f32(rows->value) + i * width, pf_f32(grad) + row[i] * width,
               (size_t)width * sizeof(float));
    }
    return PF_OK;
}

/* to (width) <- a + b; a row that is not there is zeros. */
static void add_row(float *to, const float *a, const float *b, int64_t width) {
    for (int64_t i = 0; i < width; i++) to[i] = (a ? a[i] : 0) + (b ? b[i] : 0);
}

/* How many rows either side has; with `to`, fills it. */
static int64_t join(const pf_lane_rows *left, const pf_lane_rows *right, int64_t width,
                    const pf_lane_rows *to) {
    const int32_t *a = pf_i32(left->row), *b = pf_i32(right->row);
    int64_t n_a = pf_tensor_numel(left->row), n_b = pf_tensor_numel(right->row);
    int64_t i = 0, j = 0, n = 0;
    for (; i < n_a || j < n_b; n++) {
        bool from_a = j == n_b || (i < n_a && a[i] <= b[j]);
        bool from_b = i == n_a || (j < n_b && b[j] <= a[i]);
        if (to) {
            pf_i32(to->row)[n] = from_a ? a[i] : b[j];
            add_row(pf_f32(to->value) + n * width, from_a ? pf_f32(left->value) + i * width : NULL,
                    from_b ? pf_f32(right->value) + j * width : NULL, width);
        }
        i += from_a, j += from_b;
    }
    return n;
}

int pf_lane_rows_add(pf_lane_rows *left, pf_lane_rows *right, pf_engine *e, int64_t width) {
    static const int32_t none = 0;
    pf_lane_rows sum, *lacks = !left->row ? left : !right->row ? right : NULL;
    const pf_lane_rows *other = lacks == left ? right : left;
    if (lacks && !other->row) return PF_OK;
    if (lacks) PF_TRY(pf_lane_rows_take(lacks, e, other->value, &none, 0));
    PF_TRY(make(&sum, e, join(left, right, width, NULL), width));
    join(left, right, width, &sum);
    pf_lane_rows_close(left);
    pf_lane_rows_close(right);
    *left = sum;
    return PF_OK;
}

/* ---- whole gradients ---- */

enum { ADD_GRAIN = 1 << 15 };

typedef struct {
    const pf_kern *kern;
    float *x;
    const float *y; /* NULL: zeros */
} add_job;

static void add_range(void *context, int64_t first, int64_t last) {
    const add_job *j = context;
    if (j->y) {
        j->kern->axpy(last - first, 1, j->y + first, j->x + first);
        return;
    }
    for (int64_t i = first; i < last; i++) j->x[i] += 0.0f;
}

int pf_lane_add(pf_engine *e, float *left, const float *right, int64_t n) {
    add_job j = {e->kern, left, right};
    return pf_parallel_range(e, n, ADD_GRAIN, add_range, &j);
}
