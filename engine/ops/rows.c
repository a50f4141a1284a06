/* rows.c - see rows.h. */
#include "rows.h"

#include <string.h>

enum { GRAIN = 16384 }; /* elements a task */

void pf_rows_make(pf_rows *rows, pf_engine *engine, int rank, const int64_t *shape, int dim,
                  int n_ops, const pf_tensor *const *operands) {
    pf_tensor header[PF_ROWS_OPS];
    const pf_tensor *pointer[PF_ROWS_OPS];
    int64_t others[PF_MAX_RANK];
    int left = 0;
    memset(header, 0, sizeof header);
    memset(rows, 0, sizeof *rows);
    for (int d = 0; d < rank; d++)
        if (d != dim) others[left++] = shape[d];
    for (int k = 0; k < n_ops; k++) {
        const pf_tensor *t = operands[k];
        header[k].rank = left;
        for (int d = 0, to = 0; d < rank; d++) {
            if (d == dim) continue;
            header[k].shape[to] = t->shape[d];
            header[k].stride[to++] = t->stride[d];
        }
        /* A single element needs no stride; 1 spares the gather. */
        rows->stride[k] = shape[dim] == 1 ? 1 : t->shape[dim] == 1 ? 0 : t->stride[dim];
        rows->base[k] = pf_f32(t);
        pointer[k] = &header[k];
    }
    rows->kern = engine->kern;
    rows->n = shape[dim];
    rows->count = pf_shape_numel(left, others);
    pf_iter_make(&rows->it, left, others, n_ops, pointer);
}

void pf_rows_at(const pf_rows *rows, int64_t index, float **at) {
    int64_t offset[PF_ITER_MAX];
    pf_iter_place(&rows->it, index, offset);
    for (int k = 0; k < rows->it.n; k++) at[k] = rows->base[k] + offset[k];
}

void pf_row_put(const pf_rows *rows, int k, float *at, const float *from) {
    if (at == from) return;
    for (int64_t i = 0; i < rows->n; i++) at[i * rows->stride[k]] = from[i];
}

float *pf_row_open(const pf_rows *rows, int k, float *at, float *buffer) {
    if (rows->stride[k] == 1) return at;
    for (int64_t i = 0; i < rows->n; i++) buffer[i] = at[i * rows->stride[k]];
    return buffer;
}

typedef struct rows_job {
    const pf_rows *rows;
    pf_row_fn fn;
    void *context;
    int64_t grain; /* rows a task */
} rows_job;

static void rows_task(void *context, int64_t task, void *scratch) {
    const rows_job *job = context;
    int64_t last = pf_min(job->rows->count, (task + 1) * job->grain);
    for (int64_t row = task * job->grain; row < last; row++)
        job->fn(job->rows, job->context, row, scratch);
}

int pf_rows_run(pf_engine *engine, const pf_rows *rows, int buffers, pf_row_fn fn, void *context) {
    rows_job job = {rows, fn, context, pf_max(1, GRAIN / pf_max(1, rows->n))};
    size_t bytes;
    if (!pf_mul_size((size_t)rows->n, sizeof(float) * (size_t)buffers, &bytes))
        return pf_fail(PF_ENOMEM, "rows of %lld elements: too long", (long long)rows->n);
    return pf_parallel(engine, pf_ceil_div(rows->count, job.grain), bytes, rows_task, &job);
}

pf_tensor pf_keep_header(const pf_tensor *t, int rank, int dim) {
    pf_tensor h = pf_tensor_place(t);
    if (t->rank == rank) return h;
    h.rank = rank;
    for (int d = 0, from = 0; d < rank; d++) {
        bool lost = dim == PF_DIM_ALL || d == dim;
        h.shape[d] = lost ? 1 : t->shape[from];
        h.stride[d] = lost ? 0 : t->stride[from];
        if (!lost) from++;
    }
    return h;
}
