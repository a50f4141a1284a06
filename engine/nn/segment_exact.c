/*
 * segment_exact.c - attention of a segment that looks at the keys of others themselves: all ranks'
 * keys and values are collected, and their gradients added up where they came from. So exact
 * attention can judge the other kinds on the same segments; what it moves and holds grows with the
 * row.
 */
#include <string.h>

#include "segment_link.h"

enum { KEYS, VALUES, SIDES };

/* Rows from .. from + n - 1 of every head of whole (B, H, L, d), to or from a block of them. */
static void copy_part(float *whole, const int64_t *shape, int64_t from, int64_t n, float *part,
                      bool out, bool add) {
    int64_t width = shape[3], each = n * width;
    for (int64_t h = 0; h < shape[0] * shape[1]; h++) {
        float *a = whole + (h * shape[2] + from) * width, *b = part + h * each;
        for (int64_t i = 0; i < each && add; i++) b[i] += a[i];
        if (!add) memcpy(out ? b : a, out ? a : b, (size_t)each * sizeof(float));
    }
}

static int64_t rows_of(const pf_segmented *q, int s) {
    return pf_segment_first(q, s + 1) - pf_segment_first(q, s);
}

/* *whole (B, H, L, d), lasting: of every rank's x (B, H, n, d). */
static int gather(const pf_link *l, pf_engine *e, int status, pf_tensor *x, pf_tensor **whole) {
    const pf_segmented *q = l->q;
    const int64_t shape[4] = {x->shape[0], x->shape[1], q->length, x->shape[3]};
    int64_t row = shape[0] * shape[1] * shape[3];
    size_t list = (size_t)q->n * sizeof(size_t), bytes = (size_t)(row * shape[2]) * sizeof(float);
    size_t *each = pf_heap_alloc(l->heap, list);
    float *all = pf_heap_alloc(l->heap, bytes);
    pf_tensor *flat = NULL;
    if (status >= 0 && (!each || !all)) status = PF_ENOMEM;
    if (status >= 0) status = pf_tensor_compact(&flat, e, x);
    if (status >= 0) status = pf_tensor_make_lasting(whole, l->heap, PF_F32, 4, shape);
    for (int s = 0; s < q->n && each; s++) each[s] = (size_t)(row * rows_of(q, s)) * sizeof(float);
    status = pf_comm_collect_all(e, status, flat ? pf_f32(flat) : NULL, each, all);
    float *part = all;
    for (int s = 0; s < q->n && status >= 0; s++) {
        copy_part(pf_f32(*whole), shape, pf_segment_first(q, s), rows_of(q, s), part, false, false);
        part += row * rows_of(q, s);
    }
    pf_tensor_release(&flat);
    if (each) pf_heap_free(l->heap, each, list);
    if (all) pf_heap_free(l->heap, all, bytes);
    return status;
}

/* The gradient of this rank's rows: the sum of what all ranks have for them, in their order. */
static int add_back(pf_call *c, const pf_link *l, int side) {
    const pf_segmented *q = l->q;
    const int64_t *shape = c->out[side]->shape;
    int64_t floats = shape[0] * shape[1] * shape[2] * shape[3];
    int64_t first = pf_segment_first(q, l->segment);
    float *all = pf_call_alloc(c, (size_t)(floats * q->n) * sizeof(float));
    pf_tensor *own = c->dout[side], *flat = NULL, *grad = NULL;
    int status = all ? PF_OK : PF_ENOMEM;
    if (status >= 0 && !own) {
        status = pf_call_make(c, PF_F32, 4, shape, &own);
        if (status >= 0) status = pf_tensor_fill(own, 0);
    }
    if (status >= 0) status = pf_call_compact(c, own, &flat);
    if (status >= 0) status = pf_call_make(c, PF_F32, 4, c->in[side]->shape, &grad);
    if (status >= 0) status = pf_tensor_fill(grad, 0);
    PF_TRY(pf_comm_collect(c->engine, status, flat ? pf_f32(flat) : NULL,
                           (size_t)floats * sizeof(float), all));
    PF_HOLDS(all && grad);
    for (int r = 0; r < q->n; r++)
        copy_part(all + r * floats, shape, first, rows_of(q, l->segment), pf_f32(grad), true, true);
    return c->need[side] ? pf_grad_give(c, side, grad) : PF_OK;
}

static int gather_backward(pf_call *c) {
    const pf_link *l = pf_linked_context(c);
    PF_TRY(add_back(c, l, KEYS));
    return add_back(c, l, VALUES);
}

static const pf_op gather_op = {.name = "segments' keys",
                                .args = "k, v",
                                .results = "k, v",
                                .min_in = SIDES,
                                .max_in = SIDES,
                                .n_out = SIDES,
                                .backward = gather_backward};

static int gather_both(pf_engine *e, const pf_run *run, pf_tensor *const *side, pf_tensor **all) {
    pf_link *l;
    PF_TRY(pf_link_make(&l, run, NULL));
    pf_tensor **kept = pf_link_kept(l);
    int status = PF_OK;
    for (int i = 0; i < SIDES && status >= 0 && !pf_link_again(run); i++)
        status = gather(l, e, PF_OK, side[i], &kept[i]);
    if (status < 0) {
        pf_link_free(l);
        return status;
    }
    for (int i = 0; i < SIDES; i++) all[i] = pf_tensor_retain(kept[i]);
    return pf_record_linked(e, &gather_op, l, pf_link_free, side, SIDES, all, SIDES);
}

/* Queries see as many keys as stand up to their own place. */
static int limit(pf_tensor **limits, pf_engine *e, int64_t first, int64_t length) {
    PF_TRY(pf_tensor_make(limits, e, PF_I32, 1, &length));
    for (int64_t i = 0; i < length; i++) pf_i32(*limits)[i] = (int32_t)(first + i + 1);
    return PF_OK;
}

int pf_segment_attend_all(pf_tensor **y, pf_engine *e, const pf_attention *a, const pf_run *run,
                          pf_tensor *const *given) {
    const pf_segmented *q = run->slice->segmented;
    pf_tensor *in[PF_ATTENTION_INPUTS], *all[SIDES] = {NULL}, *limits = NULL;
    pf_tensor *made[PF_ATTENTION_OUTPUTS] = {NULL};
    if (q->pass.documents && q->n > 1)
        return pf_fail(PF_EINVAL,
                       "%s attention takes no packed documents in segments: give each a "
                       "row",
                       a->kind->name);
    memcpy(in, given, sizeof in);
    int status = gather_both(e, run, given + PF_IN_K, all);
    if (status >= 0 && a->causal)
        status = limit(&limits, e, run->slice->first, given[PF_IN_Q]->shape[2]);
    in[PF_IN_K] = all[KEYS], in[PF_IN_V] = all[VALUES];
    in[PF_IN_LIMITS] = limits, in[PF_IN_MASK] = q->pass.mask;
    if (status >= 0) status = pf_attend_rows(made, e, a, in, false);
    pf_tensor_release(&limits);
    for (int i = 0; i < SIDES; i++) pf_tensor_release(&all[i]);
    *y = made[0];
    return status;
}
