/*
 * rows.c - many sequences as one state: see state.h. A gathered tree owns its nodes and nothing
 * else. It is good as long as the trees that it was made of, and while no node of theirs comes or
 * goes; positions and tensors are theirs and may change.
 */
#include <string.h>

#include "state.h"

/* *node: the node that stands for `trees`, and below it the same of their children. */
static int gather(pf_state **node, pf_engine *e, pf_state *const *trees, int64_t n);

/* Child i of all rows of s; a child that there is none of stays NULL. */
static int gather_child(pf_state *s, pf_engine *e, int i) {
    size_t bytes = (size_t)s->batch * sizeof(pf_state *);
    if (!s->row[0]->child[i]) return PF_OK;
    pf_state **list = pf_heap_alloc(e->heap, bytes);
    if (!list) return PF_ENOMEM;
    for (int64_t b = 0; b < s->batch; b++) list[b] = s->row[b]->child[i];
    int status = gather(&s->child[i], e, list, s->batch);
    pf_heap_free(e->heap, list, bytes);
    return status;
}

static int gather(pf_state **node, pf_engine *e, pf_state *const *trees, int64_t n) {
    size_t bytes = (size_t)n * sizeof(pf_state *);
    PF_TRY(pf_state_new(node, e, n, trees[0]->n_child));
    pf_state *s = *node;
    s->kind = trees[0]->kind;
    s->mark = trees[0]->mark;
    s->row = pf_heap_alloc(s->heap, bytes);
    int status = s->row ? PF_OK : PF_ENOMEM;
    if (s->row) memcpy(s->row, trees, bytes);
    for (int i = 0; i < s->n_child && status >= 0; i++) status = gather_child(s, e, i);
    if (status < 0) pf_state_close(node);
    return status;
}

int pf_state_gather(pf_state **gathered, pf_engine *e, pf_state *const *trees, int64_t n) {
    *gathered = NULL;
    for (int64_t b = 0; b < n; b++) PF_TRY(pf_state_check(trees[b]));
    return gather(gathered, e, trees, n);
}

/* ---- rows side by side ---- */

static size_t row_bytes(const pf_tensor *t) {
    return (size_t)(pf_tensor_numel(t) / t->shape[0]) * pf_dtype_size(t->dtype);
}

/* t (n, ...) of tensor i of every row (1, ...), which lie whole in memory */
static int join_tensor(pf_state *to, const pf_state *gathered, int i) {
    const pf_tensor *like = gathered->row[0]->tensor[i];
    int64_t shape[PF_MAX_RANK];
    memcpy(shape, like->shape, sizeof shape);
    shape[0] = to->batch;
    PF_TRY(pf_tensor_make_lasting(&to->tensor[i], to->heap, like->dtype, like->rank, shape));
    size_t bytes = row_bytes(like);
    char *data = pf_tensor_data(to->tensor[i]);
    for (int64_t b = 0; b < to->batch && bytes > 0; b++) {
        memcpy(data + (size_t)b * bytes, pf_tensor_data(gathered->row[b]->tensor[i]), bytes);
    }
    return PF_OK;
}

int pf_state_rows_join(pf_state **joined, pf_engine *e, const pf_state *gathered) {
    PF_TRY(pf_state_new(joined, e, gathered->batch, 0));
    int status = PF_OK;
    (*joined)->kind = gathered->kind;
    (*joined)->mark = gathered->mark;
    for (int i = 0; i < PF_STATE_TENSORS && status >= 0; i++) {
        if (gathered->row[0]->tensor[i]) status = join_tensor(*joined, gathered, i);
    }
    if (status < 0) pf_state_close(joined);
    return status;
}

int pf_state_rows_part(pf_state *gathered, const pf_state *joined) {
    for (int i = 0; i < PF_STATE_TENSORS; i++) {
        pf_tensor *t = joined->tensor[i];
        for (int64_t b = 0; t && b < gathered->batch; b++) {
            pf_state *s = gathered->row[b];
            pf_tensor *own = NULL;
            PF_TRY(pf_tensor_make_lasting(&own, s->heap, t->dtype, t->rank, s->tensor[i]->shape));
            size_t bytes = row_bytes(t);
            const char *from = pf_tensor_data(t);
            if (bytes > 0) memcpy(pf_tensor_data(own), from + (size_t)b * bytes, bytes);
            pf_tensor_release(&s->tensor[i]);
            s->tensor[i] = own;
        }
    }
    return PF_OK;
}
