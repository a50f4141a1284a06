/*
 * each.c - see each.h. What must hold: a task's first and last element follow from the number of
 * elements alone.
 */
#include "each.h"

#include "fold.h"

typedef struct walk {
    pf_iter it;
    void *base[PF_ITER_MAX];
    size_t bytes[PF_ITER_MAX]; /* an element */
    pf_each_fn fn;
    const void *context;
} walk;

static void walk_range(void *context, int64_t first, int64_t last) {
    const walk *w = context;
    while (first < last) {
        int64_t offset[PF_ITER_MAX];
        pf_iter_place(&w->it, first, offset);
        pf_run_at run = {.n = pf_min(w->it.inner - first % w->it.inner, last - first)};
        for (int k = 0; k < w->it.n; k++) {
            run.at[k] = (char *)w->base[k] + offset[k] * (int64_t)w->bytes[k];
            run.step[k] = w->it.inner_stride[k];
        }
        w->fn(w->context, &run);
        first += run.n;
    }
}

int pf_each(pf_engine *engine, int n, const pf_tensor *const *operand, pf_each_fn fn,
            const void *context) {
    walk w = {.fn = fn, .context = context};
    if (pf_tensor_numel(operand[0]) == 0) return PF_OK;
    for (int k = 0; k < n; k++) {
        w.bytes[k] = pf_dtype_size(operand[k]->dtype);
        w.base[k] = (char *)operand[k]->storage->data + operand[k]->offset * (int64_t)w.bytes[k];
    }
    pf_iter_make(&w.it, operand[0]->rank, operand[0]->shape, n, operand);
    return pf_parallel_range(engine, w.it.outer * w.it.inner, PF_FOLD_GRAIN, walk_range, &w);
}

int pf_want_alike(const pf_call *c, int i, int j) {
    const pf_tensor *a = c->in[i], *b = c->in[j];
    if (a->dtype == b->dtype) return PF_OK;
    return pf_fail(PF_EDTYPE, "%s: %s %s is %s and %s %s is %s; cast makes one dtype of them",
                   c->op->name, pf_op_arg_name(c->op, i), pf_shape_of(a), pf_dtype_name(a->dtype),
                   pf_op_arg_name(c->op, j), pf_shape_of(b), pf_dtype_name(b->dtype));
}

int pf_broadcast_shape(pf_call *c, pf_dtype dtype, int first, int n) {
    int64_t shape[PF_MAX_RANK], so_far[PF_MAX_RANK];
    int rank = 0, so_far_rank = 0, axis;
    for (int i = first; i < first + n; i++) {
        const pf_tensor *t = c->in[i];
        if (pf_shape_broadcast(so_far_rank, so_far, t->rank, t->shape, &rank, shape, &axis) < 0)
            return pf_shape_fail(c,
                                 "dimension %d (from the end) disagrees; sizes must be equal or "
                                 "1, aligned from the right",
                                 axis - (int)pf_max(so_far_rank, t->rank));
        so_far_rank = rank;
        for (int d = 0; d < rank; d++) so_far[d] = shape[d];
    }
    return pf_set_shape(c, 0, dtype, rank, shape);
}
