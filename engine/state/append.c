/*
 * append.c - sequences of two states in one: the rows of a training that go on from step to step
 * (nn/carry.c), of which each lane has its own.
 */
#include <string.h>

#include "state.h"

static int not_alike(const char *what) {
    return pf_fail(PF_EINVAL,
                   "append: the two states differ in %s; they must be of one model, and have seen "
                   "as many positions",
                   what);
}

static bool same_mark(const pf_state_mark *a, const pf_state_mark *b) {
    for (int i = 0; i < PF_STATE_NUMBERS; i++)
        if (a->number[i] != b->number[i]) return false;
    return a->of == b->of && a->by == b->by;
}

static int check_node(const pf_state *a, const pf_state *b) {
    if (a->kind != b->kind || a->n_child != b->n_child || !same_mark(&a->mark, &b->mark))
        return not_alike("what they are of");
    if (a->position != b->position || a->recent != b->recent) return not_alike("their positions");
    if (a->keep != b->keep) return not_alike("what they keep");
    if (!a->host && !b->host) return PF_OK;
    return pf_fail(PF_ESTATE, "append: a layer of the host keeps a state of its own, which can't "
                              "be joined with another");
}

static bool same_rows(const pf_tensor *a, const pf_tensor *b) {
    if (a->rank != b->rank || a->dtype != b->dtype) return false;
    for (int i = 1; i < a->rank; i++)
        if (a->shape[i] != b->shape[i]) return false;
    return true;
}

/* *view: the numbers of tensor i, (B, ...) in one piece, without the room that a cache spares. */
static int held(pf_tensor **whole, pf_engine *e, const pf_state *s, int i) {
    pf_tensor *view = NULL;
    PF_TRY(pf_tensor_view(&view, s->tensor[i]));
    if (s->kind->grows) view->shape[2] = pf_state_held(s);
    int status = pf_tensor_compact(whole, e, view);
    pf_tensor_release(&view);
    return status;
}

/* *to (Ba + Bb, ...) <- a (Ba, ...), then b (Bb, ...). */
static int join(pf_tensor **to, pf_heap *heap, pf_tensor *a, pf_tensor *b) {
    int64_t shape[PF_MAX_RANK];
    if (!same_rows(a, b)) return not_alike("the shapes of what they hold");
    memcpy(shape, a->shape, sizeof shape);
    shape[0] += b->shape[0];
    PF_TRY(pf_shape_valid(a->rank, shape, a->dtype, "append"));
    PF_TRY(pf_tensor_make_lasting(to, heap, a->dtype, a->rank, shape));
    const size_t first = (size_t)pf_tensor_numel(a) * pf_dtype_size(a->dtype);
    const size_t more = (size_t)pf_tensor_numel(b) * pf_dtype_size(b->dtype);
    if (first) memcpy(pf_tensor_data(*to), pf_tensor_data(a), first);
    if (more) memcpy((char *)pf_tensor_data(*to) + first, pf_tensor_data(b), more);
    return PF_OK;
}

static int join_tensor(pf_state *to, pf_engine *e, const pf_state *a, const pf_state *b, int i) {
    pf_tensor *left = NULL, *right = NULL;
    if (!a->tensor[i] && !b->tensor[i]) return PF_OK;
    if (!a->tensor[i] || !b->tensor[i]) return not_alike("the tensors that they hold");
    int status = held(&left, e, a, i);
    if (status >= 0) status = held(&right, e, b, i);
    if (status >= 0) status = join(&to->tensor[i], to->heap, left, right);
    pf_tensor_release(&left);
    pf_tensor_release(&right);
    return status;
}

/* *joined: the tree of the sequences of a, and behind them those of b. */
static int join_tree(pf_state **joined, pf_engine *e, const pf_state *a, const pf_state *b);

static int join_children(pf_state *to, pf_engine *e, const pf_state *a, const pf_state *b) {
    for (int i = 0; i < a->n_child; i++) {
        if (!a->child[i] != !b->child[i]) return not_alike("their layers");
        if (a->child[i]) PF_TRY(join_tree(&to->child[i], e, a->child[i], b->child[i]));
    }
    return PF_OK;
}

static int join_tree(pf_state **joined, pf_engine *e, const pf_state *a, const pf_state *b) {
    PF_TRY(check_node(a, b));
    PF_TRY(pf_state_new(joined, e, a->batch + b->batch, a->n_child));
    pf_state *to = *joined;
    to->kind = a->kind, to->mark = a->mark, to->layer = a->layer;
    to->position = a->position, to->recent = a->recent, to->keep = a->keep;
    if (a->own) to->own = pf_state_own_retain(a->own);
    int status = PF_OK;
    for (int i = 0; i < PF_STATE_TENSORS && status >= 0; i++) status = join_tensor(to, e, a, b, i);
    if (status >= 0) status = join_children(to, e, a, b);
    if (status < 0) pf_state_close(joined);
    return status;
}

int pf_state_append(pf_engine *engine, pf_state *state, const pf_state *more) {
    PF_OPEN(engine);
    PF_NEED(state, more);
    pf_state *joined = NULL;
    PF_TRY(pf_state_check(state));
    PF_TRY(pf_state_check(more));
    PF_TRY(join_tree(&joined, engine, state, more));
    pf_state left = *state; /* the new tree moves in, the old one goes */
    *state = *joined;
    *joined = left;
    pf_state_close(&joined);
    return PF_OK;
}
