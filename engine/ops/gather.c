/*
 * gather.c - embedding: rows of a table by id.
 *
 * What holds: no id outside the table is ever followed, also when the caller changed the
 * ids between forward and backward. The backward scatters in slices of columns that depend
 * on the width alone; within a slice rows are added in token order, so that a repeated id
 * sums to the same bits for any number of threads.
 */
#include <string.h>

#include "kern.h"
#include "op.h"

enum { TOKEN_GRAIN = 64, COLUMN_SLICE = 64 };

typedef struct {
    const pf_kern *kern;
    int64_t tokens, width;
    const int32_t *id;
    const float *from;
    float *to;
} gather_job;

/* table (V, D), ids (...) i32 -> (..., D) */
static int embedding_shape(pf_call *c) {
    PF_TRY(pf_want(c, 0, PF_F32));
    PF_TRY(pf_want(c, 1, PF_I32));
    const pf_tensor *table = c->in[0], *ids = c->in[1];
    if (table->rank != 2) return pf_shape_fail(c, "the table must be (V, D)");
    if (ids->rank + 1 > PF_MAX_RANK)
        return pf_shape_fail(c, "ids may have at most %d dimensions", PF_MAX_RANK - 1);
    int64_t dim[PF_MAX_RANK];
    for (int d = 0; d < ids->rank; d++) dim[d] = ids->shape[d];
    dim[ids->rank] = table->shape[1];
    return pf_set_shape(c, 0, PF_F32, ids->rank + 1, dim);
}

static int check_ids(const pf_call *c, const int32_t *id, int64_t n, int64_t vocab) {
    for (int64_t i = 0; i < n; i++)
        if (id[i] < 0 || id[i] >= vocab)
            return pf_fail(PF_EINVAL,
                           "%s: id %d at position %s of ids %s is not in 0 .. V-1, "
                           "V = %lld",
                           c->op->name, id[i], pf_place(i), pf_shape_of(c->in[1]),
                           (long long)vocab);
    return PF_OK;
}

static void gather_rows(void *context, int64_t first, int64_t last) {
    const gather_job *job = context;
    size_t bytes = (size_t)job->width * sizeof(float);
    for (int64_t t = first; t < last; t++)
        memcpy(job->to + t * job->width, job->from + job->id[t] * job->width, bytes);
}

/* Columns of one slice, all tokens in order. */
static void scatter_slice(void *context, int64_t first, int64_t last) {
    const gather_job *job = context;
    for (int64_t t = 0; t < job->tokens; t++)
        job->kern->axpy(last - first, 1.0f, job->from + t * job->width + first,
                        job->to + job->id[t] * job->width + first);
}

static int embedding_forward(pf_call *c) {
    int64_t vocab = c->in[0]->shape[0], width = c->in[0]->shape[1];
    int64_t tokens = pf_tensor_numel(c->in[1]);
    pf_tensor *ids, *table;
    if (tokens == 0) return PF_OK;
    PF_TRY(pf_call_compact(c, c->in[1], &ids));
    PF_TRY(check_ids(c, pf_i32(ids), tokens, vocab));
    PF_TRY(pf_call_compact(c, c->in[0], &table));
    gather_job job = {c->engine->kern, tokens,        width,
                      pf_i32(ids),     pf_f32(table), pf_f32(c->out[0])};
    return pf_parallel_range(c->engine, width > 0 ? tokens : 0, TOKEN_GRAIN, gather_rows, &job);
}

static int embedding_backward(pf_call *c) {
    int64_t vocab = c->in[0]->shape[0], width = c->in[0]->shape[1];
    int64_t tokens = pf_tensor_numel(c->in[1]);
    pf_tensor *ids, *dy, *grad;
    if (!c->need[0]) return PF_OK;
    PF_TRY(pf_call_compact(c, c->in[1], &ids));
    PF_TRY(pf_call_compact(c, c->dout[0], &dy));
    PF_TRY(check_ids(c, pf_i32(ids), tokens, vocab));
    PF_TRY(pf_grad_rows(c, 0, pf_i32(ids), tokens, &grad));
    gather_job job = {c->engine->kern, tokens, width, pf_i32(ids), pf_f32(dy), pf_f32(grad)};
    return pf_parallel_range(c->engine, width, COLUMN_SLICE, scatter_slice, &job);
}

const pf_op pf_op_embedding = {
    .name = "embedding",
    .args = "table, ids",
    .results = "rows",
    .doc = "Row ids[i] of the table for each position i: table (V, D), ids (...) i32 in "
           "0 .. V-1 -> (..., D).",
    .min_in = 2,
    .max_in = 2,
    .n_out = 1,
    .flags = PF_OP_PICKS,
    .uses = PF_USES_IN(1),
    .shape = embedding_shape,
    .forward = embedding_forward,
    .backward = embedding_backward,
};
