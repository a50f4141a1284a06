/*
 * grad.c - where gradients gather: the slots that an op's backward writes to.
 *
 * What holds: a tensor handed out for writing is contiguous and held by its slot alone,
 * and so nobody else's numbers change; a leaf's gradient lies outside every tape and never
 * shares its numbers with one. An input that stands twice in a node gathers the second
 * gradient apart, so that an op may fill its slots in any order, at the same time.
 *
 * A leaf whose gradient began as zeros and was added to in named rows alone, a table that is
 * looked up, knows them (grad_rows). The numbers are whole all the same, for whoever reads them;
 * but to be zeros again costs only those rows. Whatever else may write makes them unknown.
 */
#include <string.h>

#include "fold.h"
#include "node.h"
#include "row_set.h"

enum { FILL_GRAIN = 1 << 16, ROW_GRAIN = 1 << 10 };

/* ---- places ---- */

/* Makes *place ready to be written: *fresh tells that its numbers are undefined. What others
 * hold too (a view handed over, a header that a script has of a leaf's gradient) is replaced by a
 * copy, so that they never see numbers change. lasting: outside every tape. */
static int open_place(pf_tensor **place, pf_tape *tape, const pf_tensor *like, bool lasting,
                      bool stale, bool *fresh) {
    pf_tensor *made;
    *fresh = !*place || stale;
    if (*place && pf_tensor_own(*place)) return PF_OK;
    if (lasting)
        PF_TRY(pf_tensor_make_lasting(&made, like->heap, PF_F32, like->rank, like->shape));
    else
        PF_TRY(pf_tensor_make(&made, tape->engine, PF_F32, like->rank, like->shape));
    int status = *fresh ? PF_OK : pf_add_into(tape->engine, made, true, *place, 1);
    if (status < 0) {
        pf_tensor_release(&made);
        return status;
    }
    pf_tensor_release(place);
    *place = made;
    return PF_OK;
}

/* The same of a leaf's gradient, in any row. */
static int open_leaf(pf_tape *tape, pf_tensor *leaf, bool *fresh) {
    pf_tensor_release(&leaf->grad_rows);
    PF_TRY(open_place(&leaf->grad, tape, leaf, true, leaf->grad_stale, fresh));
    leaf->grad_stale = false;
    return PF_OK;
}

static bool same_target(const pf_target *a, const pf_target *b) {
    if (a->leaf || b->leaf) return a->leaf == b->leaf;
    return a->node >= 0 && a->node == b->node && a->slot == b->slot;
}

/* The input's gradient goes where an earlier input's of this node goes. */
static bool is_twin(const pf_node *node, int i) {
    for (int j = 0; j < i; j++)
        if (same_target(&node->edge[j].to, &node->edge[i].to)) return true;
    return false;
}

static int open_target(pf_walk *w, pf_call *c, int i, bool *fresh, pf_tensor **t) {
    const pf_target *to = &w->node->edge[i].to;
    if (to->leaf) {
        PF_TRY(open_leaf(w->tape, to->leaf, fresh));
        *t = to->leaf->grad;
        return PF_OK;
    }
    pf_tensor **place = &w->tape->nodes[to->node].grad[to->slot];
    PF_TRY(open_place(place, w->tape, c->in[i], false, false, fresh));
    *t = *place;
    return PF_OK;
}

static int check_wanted(const pf_call *c, int i) {
    if (i >= 0 && i < c->n_in && c->need[i]) return PF_OK;
    return pf_fail(PF_EINVAL,
                   "%s: its backward asked for the gradient of %s, which is not "
                   "wanted",
                   c->op->name, pf_op_arg_name(c->op, i));
}

/* ---- what an op's backward calls ---- */

static int walk_slot(pf_call *c, int i, bool want_fresh, bool *fresh, pf_tensor **t) {
    pf_walk *w = c->grad_context;
    PF_TRY(check_wanted(c, i));
    if (is_twin(w->node, i)) {
        PF_TRY(open_place(&w->extra[i], w->tape, c->in[i], false, false, fresh));
        *t = w->extra[i];
    } else {
        PF_TRY(open_target(w, c, i, fresh, t));
    }
    if (!*fresh || want_fresh) return PF_OK;
    memset(pf_f32(*t), 0, (size_t)pf_tensor_numel(*t) * sizeof(float));
    *fresh = false;
    return PF_OK;
}

/* ---- some rows of a table ---- */

static void zero_range(void *context, int64_t first, int64_t last) {
    memset((float *)context + first, 0, (size_t)(last - first) * sizeof(float));
}

static int zero_all(pf_engine *e, pf_tensor *t) {
    return pf_parallel_range(e, pf_tensor_numel(t), FILL_GRAIN, zero_range, pf_f32(t));
}

typedef struct {
    float *to;
    const int32_t *row;
    int64_t width;
} rows_job;

static void zero_listed(void *context, int64_t first, int64_t last) {
    const rows_job *j = context;
    for (int64_t i = first; i < last; i++)
        memset(j->to + j->row[i] * j->width, 0, (size_t)j->width * sizeof(float));
}

/* t (V, ...), in the rows listed; NULL: in all. */
static int zero(pf_engine *e, pf_tensor *t, const pf_tensor *rows) {
    if (!rows) return zero_all(e, t);
    rows_job job = {pf_f32(t), pf_i32(rows), pf_tensor_numel(t) / pf_max(t->shape[0], 1)};
    return pf_parallel_range(e, pf_tensor_numel(rows), ROW_GRAIN, zero_listed, &job);
}

/* The rows of `list` (NULL: none) and the n named ones. */
static int join_rows(pf_tensor **joined, const pf_tensor *leaf, const pf_tensor *list,
                     const int32_t *row, int64_t n) {
    pf_row_set set;
    PF_TRY(pf_row_set_open(&set, leaf->heap, leaf->shape[0]));
    if (list) pf_row_set_add(&set, pf_i32(list), pf_tensor_numel(list));
    pf_row_set_add(&set, row, n);
    int status = pf_row_set_list(&set, joined);
    pf_row_set_close(&set);
    return status;
}

/* A leaf's gradient, zero where it begins, of which the named rows will be added to. Whatever
 * fails on the way, no row that is not listed holds a number. */
static int open_rows(pf_tape *tape, pf_tensor *leaf, const int32_t *row, int64_t n) {
    bool began = leaf->grad && !leaf->grad_stale, fresh;
    pf_tensor *joined;
    if (!began && !(leaf->grad && pf_tensor_own(leaf->grad))) pf_tensor_release(&leaf->grad_rows);
    PF_TRY(open_place(&leaf->grad, tape, leaf, true, leaf->grad_stale, &fresh));
    if (fresh) PF_TRY(zero(tape->engine, leaf->grad, leaf->grad_rows));
    leaf->grad_stale = false;
    if (began && !leaf->grad_rows) return PF_OK;
    PF_TRY(join_rows(&joined, leaf, began ? leaf->grad_rows : NULL, row, n));
    pf_tensor_release(&leaf->grad_rows);
    leaf->grad_rows = joined;
    return PF_OK;
}

static int walk_rows(pf_call *c, int i, const int32_t *row, int64_t n, pf_tensor **t) {
    pf_walk *w = c->grad_context;
    pf_tensor *leaf = w->node->edge[i].to.leaf;
    bool fresh;
    PF_TRY(check_wanted(c, i));
    if (leaf && !is_twin(w->node, i)) {
        PF_TRY(open_rows(w->tape, leaf, row, n));
        *t = leaf->grad;
        return PF_OK;
    }
    PF_TRY(walk_slot(c, i, true, &fresh, t));
    return fresh ? zero_all(w->tape->engine, *t) : PF_OK;
}

/* An empty place takes the tensor itself, another one adds it. */
static int give_place(pf_walk *w, pf_tensor **place, pf_tensor *t) {
    if (!*place) {
        *place = pf_tensor_retain(t);
        return PF_OK;
    }
    bool fresh;
    PF_TRY(open_place(place, w->tape, t, false, false, &fresh));
    return pf_add_into(w->tape->engine, *place, false, t, 1);
}

/* A leaf's gradient outlives the tape: it adds, or copies, and never takes the tensor. */
static int give_target(pf_walk *w, int i, pf_tensor *t) {
    const pf_target *to = &w->node->edge[i].to;
    pf_tensor *leaf = to->leaf;
    bool fresh;
    if (!leaf) return give_place(w, &w->tape->nodes[to->node].grad[to->slot], t);
    PF_TRY(open_leaf(w->tape, leaf, &fresh));
    return pf_add_into(w->tape->engine, leaf->grad, fresh, t, 1);
}

static int walk_give(pf_call *c, int i, pf_tensor *t) {
    pf_walk *w = c->grad_context;
    PF_TRY(check_wanted(c, i));
    PF_TRY(pf_tensor_check(t, PF_F32, c->op->name, "gradient"));
    if (!pf_same_shape(t, c->in[i]))
        return pf_fail(PF_ESHAPE, "%s: its backward gives a gradient %s for %s, which is %s",
                       c->op->name, pf_shape_of(t), pf_op_arg_name(c->op, i),
                       pf_shape_of(c->in[i]));
    if (is_twin(w->node, i)) return give_place(w, &w->extra[i], t);
    return give_target(w, i, t);
}

static bool walk_gathers(const pf_call *c, int i) {
    const pf_walk *w = c->grad_context;
    const pf_target *to = &w->node->edge[i].to;
    if (!c->need[i]) return false;
    if (is_twin(w->node, i)) return w->extra[i] != NULL;
    return to->leaf || w->tape->nodes[to->node].grad[to->slot];
}

const pf_grad_ops pf_walk_ops = {
    .slot = walk_slot, .rows = walk_rows, .give = walk_give, .gathers = walk_gathers};

int pf_walk_seed(pf_tape *tape, int node, int slot, pf_tensor *grad) {
    pf_walk walk = {.tape = tape};
    return give_place(&walk, &tape->nodes[node].grad[slot], grad);
}

int pf_walk_fold(pf_walk *walk, pf_call *c, int status) {
    for (int i = 0; i < c->n_in; i++) {
        if (walk->extra[i] && status >= 0) status = give_target(walk, i, walk->extra[i]);
        pf_tensor_release(&walk->extra[i]);
    }
    return status;
}

int pf_leaf_take_rows(pf_engine *e, pf_tensor *leaf, pf_tensor *row, const pf_tensor *value) {
    bool fresh;
    if (!(leaf->grad && pf_tensor_own(leaf->grad))) pf_tensor_release(&leaf->grad_rows);
    PF_TRY(open_place(&leaf->grad, NULL, leaf, true, true, &fresh));
    leaf->grad_stale = true; /* until its numbers are whole */
    PF_TRY(zero(e, leaf->grad, leaf->grad_rows));
    int64_t n = pf_tensor_numel(row), width = n ? pf_tensor_numel(value) / n : 0;
    for (int64_t i = 0; i < n; i++)
        memcpy(pf_f32(leaf->grad) + pf_i32(row)[i] * width, pf_f32(value) + i * width,
               (size_t)width * sizeof(float));
    pf_tensor_release(&leaf->grad_rows);
    leaf->grad_rows = pf_tensor_retain(row);
    leaf->grad_stale = false;
    return PF_OK;
}

/* ---- public: gradients of leaves ---- */

int pf_tensor_require_grad(pf_tensor *t, bool yes) {
    PF_NEED(t);
    if (!yes) {
        t->requires_grad = false;
        pf_tensor_release(&t->grad);
        pf_tensor_release(&t->grad_rows);
        return PF_OK;
    }
    /* A parameter may wait for its numbers. */
    if (t->storage || t->dtype != PF_F32)
        PF_TRY(pf_tensor_check(t, PF_F32, "requires_grad", "tensor"));
    if (t->tape)
        return pf_fail(PF_ESTATE,
                       "requires_grad: the tensor %s was computed on a tape; detach it "
                       "first",
                       pf_shape_of(t));
    t->requires_grad = true;
    return PF_OK;
}

bool pf_tensor_requires_grad(const pf_tensor *t) { return t && t->requires_grad; }

/* A header of the caller's own: the next backward sees that the numbers are shared and
 * leaves them as they are. The caller may write to it, in any row. */
int pf_tensor_grad(pf_tensor **grad, pf_engine *engine, pf_tensor *t) {
    PF_OUT(grad);
    PF_OPEN(engine);
    PF_NEED(t);
    (void)engine;
    if (!t->grad || t->grad_stale) return PF_OK;
    pf_tensor_release(&t->grad_rows);
    return pf_tensor_view(grad, t->grad);
}

void pf_tensor_clear_grad(pf_tensor *t) {
    if (t && t->grad) t->grad_stale = true;
}
