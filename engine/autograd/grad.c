/*
 * grad.c - where gradients gather: the slots that an op's backward writes to.
 *
 * What holds: a tensor handed out for writing is contiguous and held by its slot alone,
 * and so nobody else's numbers change; a leaf's gradient lies outside every tape and never
 * shares its numbers with one. An input that stands twice in a node gathers the second
 * gradient apart, so that an op may fill its slots in any order, at the same time.
 */
#include <string.h>

#include "fold.h"
#include "node.h"

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
        pf_tensor *leaf = to->leaf;
        PF_TRY(open_place(&leaf->grad, w->tape, leaf, true, leaf->grad_stale, fresh));
        leaf->grad_stale = false;
        *t = leaf->grad;
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
    PF_TRY(open_place(&leaf->grad, w->tape, leaf, true, leaf->grad_stale, &fresh));
    leaf->grad_stale = false;
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

const pf_grad_ops pf_walk_ops = {.slot = walk_slot, .give = walk_give, .gathers = walk_gathers};

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

/* ---- public: gradients of leaves ---- */

int pf_tensor_require_grad(pf_tensor *t, bool yes) {
    PF_NEED(t);
    if (!yes) {
        t->requires_grad = false;
        pf_tensor_release(&t->grad);
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
 * leaves them as they are. */
int pf_tensor_grad(pf_tensor **grad, pf_engine *engine, pf_tensor *t) {
    PF_OUT(grad);
    PF_OPEN(engine);
    PF_NEED(t);
    (void)engine;
    if (!t->grad || t->grad_stale) return PF_OK;
    return pf_tensor_view(grad, t->grad);
}

void pf_tensor_clear_grad(pf_tensor *t) {
    if (t && t->grad) t->grad_stale = true;
}
