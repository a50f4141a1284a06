/*
 * reduce_rows.c - the shapes of reductions, and their rows: see reduce.h. What must hold: row r is
 * element r of the result, whatever the strides.
 */
#include "reduce.h"

/* ---- shapes ------------------------------------------------------------------- */

static int dim_attr(const pf_call *c) {
    int k = 0;
    while (c->op->attrs[k].kind != PF_ATTR_DIM) k++;
    return k;
}

int pf_reduced_dim(const pf_call *c, int *dim) {
    *dim = (int)c->attr[dim_attr(c)].i;
    if (*dim == PF_DIM_ALL) return PF_OK;
    return pf_dim(*dim, c->in[0]->rank, c->op->name, dim);
}

int64_t pf_reduced_count(const pf_tensor *x, int dim) {
    return dim == PF_DIM_ALL ? pf_tensor_numel(x) : x->shape[dim];
}

int pf_reduce_shape(pf_call *c, pf_dtype result, bool needs_some) {
    const pf_tensor *x = c->in[0];
    int64_t shape[PF_MAX_RANK];
    int dim, rank = 0;
    PF_TRY(pf_reduced_dim(c, &dim));
    if (needs_some && pf_reduced_count(x, dim) == 0)
        return pf_shape_fail(c, "there is no %s of no elements", c->op->name);
    for (int d = 0; d < x->rank; d++) {
        bool lost = dim == PF_DIM_ALL || d == dim;
        if (lost && !c->attr[dim_attr(c) + 1].i) continue;
        shape[rank++] = lost ? 1 : x->shape[d];
    }
    return pf_set_shape(c, 0, result, rank, shape);
}

/* ---- rows of x and of the result ---------------------------------------------- */

/* Rows of x (operand 0), of up to two tensors of the result's shape (1, 2) and of one more
 * of x's shape (3). Over all elements x is one row, for which it has to be contiguous:
 * `x` and `like_x` are then compact already. */
static int along(pf_call *c, pf_rows *rows, const pf_tensor *x, const pf_tensor *const small[2],
                 const pf_tensor *like_x) {
    int dim;
    PF_TRY(pf_reduced_dim(c, &dim));
    bool all = dim == PF_DIM_ALL;
    pf_tensor flat[PF_ROWS_OPS];
    const pf_tensor *operand[PF_ROWS_OPS];
    for (int k = 0; k < PF_ROWS_OPS; k++) {
        const pf_tensor *t = k == 0 ? x : k == 3 ? like_x : small[k - 1];
        bool is_small = k == 1 || k == 2;
        flat[k] = is_small && !all ? pf_keep_header(t, x->rank, dim) : *t;
        if (all) {
            flat[k].rank = 1;
            flat[k].shape[0] = is_small ? 1 : pf_tensor_numel(x);
            flat[k].stride[0] = 1;
        }
        operand[k] = &flat[k];
    }
    pf_rows_make(rows, c->engine, flat[0].rank, flat[0].shape, all ? 0 : dim, PF_ROWS_OPS, operand);
    return PF_OK;
}

/* x itself, or a contiguous copy where all elements make one row. */
static int row_source(pf_call *c, pf_tensor **x) {
    *x = c->in[0];
    return c->attr[dim_attr(c)].i == PF_DIM_ALL ? pf_call_compact(c, c->in[0], x) : PF_OK;
}

int pf_reduce_rows(pf_call *c, int buffers, pf_row_fn fn, void *context) {
    pf_tensor *x;
    pf_rows rows;
    PF_TRY(row_source(c, &x));
    PF_TRY(along(c, &rows, x, (const pf_tensor *[2]){c->out[0], c->out[0]}, x));
    return pf_rows_run(c->engine, &rows, buffers, fn, context);
}

int pf_reduce_pull(pf_call *c, int buffers, pf_row_fn fn, void *context) {
    const pf_tensor *y = c->op->uses & PF_USES_OUT(0) ? c->out[0] : c->dout[0];
    pf_tensor *dx, *x;
    pf_rows rows;
    PF_TRY(pf_grad_slot(c, 0, &dx));
    PF_TRY(row_source(c, &x));
    PF_TRY(along(c, &rows, x, (const pf_tensor *[2]){c->dout[0], y}, dx));
    return pf_rows_run(c->engine, &rows, buffers, fn, context);
}

int pf_reduce_slot(pf_call *c, pf_rows *rows) {
    pf_tensor *dx;
    PF_TRY(pf_grad_slot(c, 0, &dx));
    return along(c, rows, dx, (const pf_tensor *[2]){c->dout[0], c->dout[0]}, dx);
}
