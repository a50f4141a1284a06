/*
 * rows.c - a step of many sequences at positions of their own, whose states are gathered in one
 * tree (state/rows.c). Layers that hold nothing of their own take all rows at once, as in a batch;
 * the others one by one, or with their nodes laid side by side.
 *
 * What must hold: a row has the bits that it has alone. What goes through an op together is what
 * an op keeps apart by its own promise; a layer of the host's has made none.
 */
#include "module.h"

/* Row b of x (B, ...) */
static int row_of(pf_tensor **row, pf_engine *e, pf_tensor *x, int64_t b) {
    return pf_slice(row, e, x, 0, b, b + 1);
}

/* y (1, ...) to row b of *all (B, ...), which the first row makes. */
static int put_row(pf_tensor **all, pf_engine *e, const pf_module *m, pf_tensor *y, int64_t b,
                   int64_t batch) {
    pf_tensor *place = NULL;
    if (y->rank < 1 || y->shape[0] != 1) {
        return pf_fail(PF_ESHAPE, "%s: a step of one sequence returned %s", m->type->name,
                       pf_shape_of(y));
    }
    if (!*all) {
        int64_t shape[PF_MAX_RANK] = {batch};
        for (int i = 1; i < y->rank; i++) shape[i] = y->shape[i];
        PF_TRY(pf_tensor_make(all, e, y->dtype, y->rank, shape));
    }
    PF_TRY(row_of(&place, e, *all, b));
    int status = pf_tensor_copy(place, y);
    pf_tensor_release(&place);
    return status;
}

/* Row b of *y by f. */
static int run_row(pf_module *m, pf_engine *e, const pf_run *run, pf_run_row_fn f, pf_tensor **x,
                   int n, int64_t b, pf_tensor **y) {
    pf_tensor *row[PF_ROW_INPUTS] = {NULL}, *made = NULL;
    pf_run alone = *run;
    int status = PF_OK;
    alone.state = run->state->row[b];
    for (int i = 0; i < n && status >= 0; i++) status = row_of(&row[i], e, x[i], b);
    if (status >= 0) status = f(m, e, &alone, row, &made);
    if (status >= 0) status = put_row(y, e, m, made, b, run->state->batch);
    pf_tensor_release(&made);
    for (int i = 0; i < n; i++) pf_tensor_release(&row[i]);
    return status;
}

int pf_run_each_row(pf_module *m, pf_engine *e, const pf_run *run, pf_run_row_fn f, pf_tensor **x,
                    int n, pf_tensor **y) {
    int status = PF_OK;
    *y = NULL;
    for (int64_t b = 0; b < run->state->batch && status >= 0; b++) {
        status = run_row(m, e, run, f, x, n, b, y);
    }
    if (status < 0) pf_tensor_release(y);
    return status;
}

static int run_type(pf_module *m, pf_engine *e, const pf_run *run, pf_tensor **x, pf_tensor **y) {
    return m->type->run(m, e, run, x[0], y);
}

int pf_run_rows(pf_module *m, pf_engine *e, const pf_run *run, pf_tensor *x, pf_tensor **y) {
    pf_run joined = *run;
    if (m->type->rows == PF_ROWS_ALONE) return pf_run_each_row(m, e, run, run_type, &x, 1, y);
    PF_TRY(pf_state_rows_join(&joined.state, e, run->state));
    int status = m->type->run(m, e, &joined, x, y);
    if (status >= 0) status = pf_state_rows_part(run->state, joined.state);
    if (status < 0) pf_tensor_release(y);
    pf_state_close(&joined.state);
    return status;
}
