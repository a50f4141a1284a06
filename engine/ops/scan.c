/*
 * scan.c - running sums along a dimension. What must hold: each is the sum of its own prefix from
 * first to last, in double (i32: in 64 bits) and rounded once, so that nothing later in the row,
 * and no thread, shows in it.
 */
#include <stdatomic.h>

#include "looks.h"
#include "rows.h"

static const pf_attr_info cumsum_attrs[] = {
    {.name = "dim", .kind = PF_ATTR_DIM, .def = -1, .doc = "the dimension"},
};

static int cumsum_shape(pf_call *c) {
    int dim;
    PF_TRY(pf_dim((int)c->attr[0].i, c->in[0]->rank, c->op->name, &dim));
    return pf_same_as(c, 0, 0);
}

typedef struct scan_job {
    bool back; /* from the last to the first, added to what is there: the gradient */
    atomic_bool failed;
    pf_looks looks;
} scan_job;

/* Operands: what is summed up, and the sums. */
static void scan_f32(const pf_rows *rows, void *context, int64_t row, float *scratch) {
    (void)scratch;
    scan_job *job = context;
    float *at[PF_ROWS_OPS];
    double sum = 0;
    pf_rows_at(rows, row, at);
    for (int64_t first = 0, end = 0; pf_next_piece(&job->looks, rows->n, &first, &end);)
        for (int64_t k = first; k < end; k++) {
            const int64_t i = job->back ? rows->n - 1 - k : k;
            float *y = &at[1][i * rows->stride[1]];
            sum += (double)at[0][i * rows->stride[0]];
            *y = job->back ? *y + (float)sum : (float)sum;
        }
}

static void scan_i32(const pf_rows *rows, void *context, int64_t row, float *scratch) {
    (void)scratch;
    scan_job *job = context;
    float *at[PF_ROWS_OPS];
    int64_t sum = 0;
    bool fine = true;
    pf_rows_at(rows, row, at);
    const int32_t *x = (const int32_t *)(void *)at[0];
    int32_t *y = (int32_t *)(void *)at[1];
    for (int64_t first = 0, end = 0; pf_next_piece(&job->looks, rows->n, &first, &end);)
        for (int64_t i = first; i < end && fine; i++) {
            sum += x[i * rows->stride[0]];
            fine = sum >= INT32_MIN && sum <= INT32_MAX;
            y[i * rows->stride[1]] = (int32_t)(uint32_t)sum;
        }
    if (!fine) atomic_store_explicit(&job->failed, true, memory_order_relaxed);
}

static int scan(pf_call *c, const pf_tensor *from, const pf_tensor *to, pf_row_fn fn,
                scan_job *job) {
    int dim;
    pf_rows rows;
    PF_TRY(pf_dim((int)c->attr[0].i, to->rank, c->op->name, &dim));
    atomic_init(&job->failed, false);
    job->looks.engine = c->engine;
    pf_rows_make(&rows, c->engine, to->rank, to->shape, dim, 2, (const pf_tensor *[]){from, to});
    return pf_looks_end(&job->looks, pf_rows_run(c->engine, &rows, 0, fn, job));
}

static int cumsum_forward(pf_call *c) {
    const pf_tensor *x = c->in[0];
    scan_job job = {.back = false};
    PF_TRY(scan(c, x, c->out[0], x->dtype == PF_F32 ? scan_f32 : scan_i32, &job));
    if (!atomic_load_explicit(&job.failed, memory_order_relaxed)) return PF_OK;
    return pf_fail(PF_EINVAL,
                   "cumsum: of x %s a sum leaves i32 (-2147483648 to 2147483647); cast to f32 and "
                   "it comes rounded",
                   pf_shape_of(x));
}

static int cumsum_backward(pf_call *c) {
    if (!c->need[0]) return PF_OK;
    pf_tensor *dx;
    scan_job job = {.back = true};
    PF_TRY(pf_grad_slot(c, 0, &dx));
    return scan(c, c->dout[0], dx, scan_f32, &job);
}

const pf_op pf_op_cumsum = {
    .name = "cumsum",
    .args = "x",
    .results = "y",
    .doc = "y = at each place the sum of x along `dim` up to it and with it, from the first on, in "
           "double; y is shaped like x. Of i32 in 64 bits; a sum that i32 can't hold is refused.",
    .min_in = 1,
    .max_in = 1,
    .n_out = 1,
    .attrs = cumsum_attrs,
    .n_attrs = PF_COUNT(cumsum_attrs),
    .shape = cumsum_shape,
    .forward = cumsum_forward,
    .backward = cumsum_backward,
};
