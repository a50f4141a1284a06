/*
 * state.c - making, forking, reordering, counting and closing trees of states, and what a row in
 * parts begins with.
 *
 * What must hold: nothing here knows what a tensor means, only that its first dimension is the
 * batch; a copy shares no numbers with what it was made of; a failure leaves the tree as it was.
 */
#include <math.h>
#include <string.h>

#include "state.h"

int pf_state_new(pf_state **state, pf_engine *e, int64_t batch, int n_child) {
    pf_state *s = pf_heap_zalloc(e->heap, sizeof *s);
    if (!s) return PF_ENOMEM;
    s->heap = pf_heap_retain(e->heap);
    s->batch = batch;
    if (n_child > 0) {
        s->child = pf_heap_zalloc(e->heap, (size_t)n_child * sizeof(pf_state *));
        if (!s->child) {
            pf_state_close(&s);
            return PF_ENOMEM;
        }
        s->n_child = n_child;
    }
    *state = s;
    return PF_OK;
}

pf_state_own *pf_state_own_retain(pf_state_own *own) {
    atomic_fetch_add(&own->refs, 1);
    return own;
}

/* The last reference frees it, by whoever made it. */
void pf_state_own_release(pf_state_own **own) {
    pf_state_own *o = *own;
    *own = NULL;
    if (o && atomic_fetch_sub(&o->refs, 1) == 1) o->drop(o);
}

void pf_state_close(pf_state **state) {
    if (!state || !*state) return;
    pf_state *s = *state;
    *state = NULL;
    for (int i = 0; i < s->n_child; i++) pf_state_close(&s->child[i]);
    if (s->row) pf_heap_free(s->heap, s->row, (size_t)s->batch * sizeof(pf_state *));
    if (s->child) pf_heap_free(s->heap, s->child, (size_t)s->n_child * sizeof(pf_state *));
    for (int i = 0; i < PF_STATE_TENSORS; i++) pf_tensor_release(&s->tensor[i]);
    pf_tensor_release(&s->due);
    if (s->host && s->layer.release_state) s->layer.release_state(s->layer.context, s->host);
    pf_state_own_release(&s->own);
    pf_heap *heap = s->heap;
    pf_heap_free(heap, s, sizeof *s);
    pf_heap_release(heap);
}

/* Of the tensors; what hosts and several states together hold is not counted. */
int64_t pf_state_bytes(const pf_state *state) {
    int64_t bytes = 0;
    for (int i = 0; state && i < PF_STATE_TENSORS; i++) {
        const pf_tensor *t = state->tensor[i];
        if (t) bytes += pf_tensor_numel(t) * (int64_t)pf_dtype_size(t->dtype);
    }
    for (int i = 0; state && i < state->n_child; i++) {
        if (state->child[i]) bytes += pf_state_bytes(state->child[i]);
    }
    return bytes;
}

int64_t pf_state_position(const pf_state *state) { return state ? state->position : 0; }
int64_t pf_state_batch(const pf_state *state) { return state ? state->batch : 0; }

/* ---- rows of another state ---- */

/* *to (n, ...) <- row rows[i] of from (B, ...); rows NULL: all of them, as they are. */
static int take_rows(pf_tensor **to, pf_state *s, const pf_tensor *from, const int64_t *rows) {
    int64_t shape[PF_MAX_RANK];
    memcpy(shape, from->shape, sizeof shape);
    shape[0] = s->batch;
    PF_TRY(pf_shape_valid(from->rank, shape, from->dtype, "reorder"));
    PF_TRY(pf_tensor_make_lasting(to, s->heap, from->dtype, from->rank, shape));
    size_t row = pf_dtype_size(from->dtype) * (size_t)(pf_tensor_numel(from) / from->shape[0]);
    char *data = pf_tensor_data(*to);
    const char *source = (const char *)from->storage->data;
    source += (size_t)from->offset * pf_dtype_size(from->dtype);
    if (row == 0) return PF_OK;
    for (int64_t b = 0; b < s->batch; b++) {
        memcpy(data + (size_t)b * row, source + (size_t)(rows ? rows[b] : b) * row, row);
    }
    return PF_OK;
}

/* What a layer of the host keeps only the host can copy. */
static int copy_host(pf_state *to, pf_engine *e, const pf_state *from, const int64_t *rows) {
    to->layer = from->layer;
    if (!from->host) return PF_OK;
    if (!from->layer.fork_state) {
        return pf_fail(PF_ESTATE, "state: a layer of the host keeps a state that can't be copied");
    }
    uint64_t before = pf_failures();
    int status = from->layer.fork_state(from->layer.context, e, from->host, from->batch, rows,
                                        to->batch, &to->host);
    if (status >= 0) return PF_OK;
    return pf_callback_failed(status, before, "state: the fork_state of a layer of the host");
}

static int copy_tree(pf_state **copy, pf_engine *e, const pf_state *from, const int64_t *rows,
                     int64_t n);

/* Copies rows of what `from` holds into the fresh node `to`. */
static int copy_node(pf_state *to, pf_engine *e, const pf_state *from, const int64_t *rows) {
    to->kind = from->kind;
    to->mark = from->mark;
    to->position = from->position;
    to->recent = from->recent;
    to->keep = from->keep;
    PF_TRY(copy_host(to, e, from, rows));
    if (from->own) to->own = pf_state_own_retain(from->own);
    for (int i = 0; i < PF_STATE_TENSORS; i++) {
        if (from->tensor[i]) PF_TRY(take_rows(&to->tensor[i], to, from->tensor[i], rows));
    }
    for (int i = 0; i < from->n_child; i++) {
        if (from->child[i]) PF_TRY(copy_tree(&to->child[i], e, from->child[i], rows, to->batch));
    }
    return PF_OK;
}

/* The whole tree for n sequences, sequence i being rows[i] of `from`. */
static int copy_tree(pf_state **copy, pf_engine *e, const pf_state *from, const int64_t *rows,
                     int64_t n) {
    PF_TRY(pf_state_new(copy, e, n, from->n_child));
    int status = copy_node(*copy, e, from, rows);
    if (status < 0) pf_state_close(copy);
    return status;
}

int pf_state_fork(pf_state **copy, pf_engine *engine, const pf_state *state) {
    PF_OUT(copy);
    PF_OPEN(engine);
    PF_NEED(state);
    PF_TRY(pf_state_check(state));
    return copy_tree(copy, engine, state, NULL, state->batch);
}

/* Rows may come twice or not at all (beam search): the new tree has n sequences. */
int pf_state_reorder(pf_engine *engine, pf_state *state, const int64_t *rows, int64_t n) {
    PF_OPEN(engine);
    PF_NEED(state);
    PF_NEED_ARRAY(rows, n);
    pf_state *other = NULL;
    if (n < 1) return pf_fail(PF_EINVAL, "reorder: at least one row is needed");
    PF_TRY(pf_state_check(state));
    for (int64_t i = 0; i < n; i++) {
        if (rows[i] >= 0 && rows[i] < state->batch) continue;
        return pf_fail(PF_EINVAL, "reorder: there is no row %s in a state of %lld sequences",
                       pf_place(rows[i]), (long long)state->batch);
    }
    PF_TRY(copy_tree(&other, engine, state, rows, n));
    pf_state held = *state; /* the new tree moves in, the old one goes */
    *state = *other;
    *other = held;
    pf_state_close(&other);
    return PF_OK;
}

/* ---- parts of a row in training ----
 *
 * The tree that carries a row from part to part holds tensors of the graph, and in the backward the
 * gradients that come for them: same places, same masks of the kind. */

/* What only steps write is dropped: a part neither reads nor makes it. */
void pf_state_begin_parts(pf_state *state) {
    for (int i = 0; i < state->n_child; i++) {
        if (state->child[i]) pf_state_begin_parts(state->child[i]);
    }
    for (int k = 0; state->kind && k < PF_STATE_TENSORS; k++) {
        if (state->kind->steps_only >> k & 1) pf_tensor_release(&state->tensor[k]);
    }
}

/* Where a packed document begins anew no number of the one before may pass, in either direction:
 * the state is that of no token, and its gradient 0. */
void pf_state_begin_anew(pf_state *state, const bool *keep, bool gradient) {
    for (int i = 0; i < state->n_child; i++) {
        if (state->child[i]) pf_state_begin_anew(state->child[i], keep, gradient);
    }
    for (int k = 0; state->kind && state->batch > 0 && k < PF_STATE_TENSORS; k++) {
        pf_tensor *t = state->tensor[k];
        if (!t || !(state->kind->anew >> k & 1)) continue;
        int64_t row = pf_tensor_numel(t) / state->batch;
        bool nothing_is_low = (state->kind->log_scale >> k & 1) && !gradient;
        for (int64_t b = 0; b < state->batch; b++) {
            if (keep[b]) continue;
            float *first = pf_f32(t) + b * row; /* or of i32, whose 0 is the same */
            if (!nothing_is_low) memset(first, 0, (size_t)row * sizeof *first);
            for (int64_t i = 0; i < row && nothing_is_low; i++) first[i] = -INFINITY;
        }
        pf_tensor_touch(t, "a new document");
    }
}
