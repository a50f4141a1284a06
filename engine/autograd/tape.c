/*
 * tape.c - opening, recording, walking and closing a tape.
 *
 * What holds: engine->tape is the innermost open tape, tapes form a chain through `outer`;
 * every storage made while a tape is innermost is on its list and dies when it closes. A
 * tensor names its tape by address and by number, because addresses come back.
 *
 * A tape is walked once. The walk frees each node behind it, so that there is nothing left to
 * walk again, and no op may record meanwhile: what backward computes is not part of the graph.
 * Ops that run a forward inside their backward (recompute.c, reversible.c) open a tape of their
 * own for it, which stands inside this one and is walked and closed before they return.
 */
#include <stddef.h>
#include <string.h>

#include "node.h"

/* Numbers tapes across all engines of the process. */
static atomic_uint_fast64_t tape_count = 1;

/* ---- what a node keeps ---- */

static size_t block_bytes(const pf_node *node) {
    return (size_t)node->n_in * sizeof *node->edge + (size_t)node->op->n_attrs * sizeof *node->attr;
}

/* All that backward reads: it goes as soon as the node has been walked, so that memory falls
 * while the walk goes on. */
static void drop_node(pf_tape *tape, pf_node *node) {
    for (int i = 0; node->edge && i < node->n_in; i++) pf_tensor_release(&node->edge[i].in);
    for (int o = 0; o < PF_MAX_OUT; o++) {
        pf_tensor_release(&node->out[o]);
        pf_tensor_release(&node->grad[o]);
    }
    for (int s = 0; s < PF_MAX_SAVED; s++) pf_tensor_release(&node->saved[s]);
    pf_heap_free(tape->heap, node->place, PF_PLACE_BYTES);
    node->place = NULL;
    if (node->recompute.f.release) node->recompute.f.release(node->recompute.f.context);
    node->recompute.f = (pf_recomputed){0};
}

/* The leaves last until the walk has ended: one that breaks off takes their gradients back. */
static void drop_edges(pf_tape *tape, pf_node *node) {
    if (!node->edge) return;
    for (int i = 0; i < node->n_in; i++) pf_tensor_release(&node->edge[i].to.leaf);
    pf_heap_free(tape->heap, node->edge, block_bytes(node));
    node->edge = NULL;
    pf_leaf_list_drop(&node->recompute.read, tape->heap);
}

/* ---- opening and closing ---- */

int pf_tape_open(pf_tape **tape, pf_engine *engine) {
    PF_OUT(tape);
    PF_OPEN(engine);
    pf_tape *t = pf_heap_zalloc(engine->heap, sizeof *t);
    if (!t) return PF_ENOMEM;
    t->engine = engine;
    t->heap = pf_heap_retain(engine->heap);
    t->id = atomic_fetch_add(&tape_count, 1);
    t->opened = pf_changes();
    t->outer = engine->tape;
    if (t->outer) {
        t->first_began = t->outer->first_began;
        t->second_began = t->outer->second_began;
    }
    engine->tape = t;
    *tape = t;
    return PF_OK;
}

/* Takes the tape out of its engine's chain, wherever in it it stands: a host may close an outer
 * tape before an inner one. */
static void unlink_tape(pf_tape *tape) {
    if (!tape->engine) return;
    pf_tape **link = &tape->engine->tape;
    while (*link && *link != tape) link = &(*link)->outer;
    if (*link) *link = tape->outer;
}

static void free_tape(pf_tape *tape) {
    for (int64_t i = tape->n - 1; i >= 0; i--) {
        drop_node(tape, &tape->nodes[i]);
        drop_edges(tape, &tape->nodes[i]);
    }
    pf_owner_close(&tape->owner);
    pf_heap *heap = tape->heap;
    pf_leaf_list_drop(&tape->given, heap);
    pf_heap_free(heap, tape->nodes, (size_t)tape->capacity * sizeof *tape->nodes);
    pf_heap_free(heap, tape, sizeof *tape);
    pf_heap_release(heap);
}

void pf_tape_close(pf_tape **tape) {
    if (!tape || !*tape) return;
    pf_tape *t = *tape;
    *tape = NULL;
    if (t->walking) { /* a callback inside backward closed it: backward does, at its end */
        t->doomed = true;
        return;
    }
    unlink_tape(t);
    free_tape(t);
}

void pf_tape_abandon(pf_engine *engine) {
    while (engine->tape) {
        pf_tape *t = engine->tape;
        engine->tape = t->outer;
        t->outer = NULL;
        t->engine = NULL;
        t->watch = NULL; /* who watches may go before the walk ends */
    }
}

pf_tape *pf_tape_pause(pf_engine *engine) {
    if (engine->tape) engine->tape->paused++;
    return engine->tape;
}

void pf_tape_resume(pf_tape *tape) {
    if (tape && tape->paused > 0) tape->paused--;
}

bool pf_tape_records(const pf_engine *engine) {
    return engine->tape && pf_is_recording(engine->tape);
}

bool pf_in_graph(const pf_engine *engine, const pf_tensor *t) {
    if (!pf_tape_records(engine) || !t || t->dtype != PF_F32) return false;
    return t->requires_grad || pf_made_by(engine->tape, t);
}

/* ---- recording ---- */

/* Retains t itself when backward reads its numbers, else keeps its shape, and its strides,
 * so that a gradient can be laid out like it. */
static int keep(pf_tensor **kept, pf_tensor *t, bool used) {
    if (!t) return PF_OK;
    if (used) {
        *kept = pf_tensor_retain(t);
        return PF_OK;
    }
    PF_TRY(pf_tensor_ghost(kept, t));
    memcpy((*kept)->stride, t->stride, sizeof t->stride);
    return PF_OK;
}

/* A tensor of an outer tape, or one that was made under a pause, is a constant here. */
static pf_target target_of(const pf_tape *tape, pf_tensor *t) {
    pf_target to = {.leaf = NULL, .node = -1, .slot = 0};
    if (!t || t->dtype != PF_F32) return to;
    if (t->requires_grad) {
        to.leaf = pf_tensor_retain(t);
    } else if (pf_made_by(tape, t)) {
        to.node = t->node;
        to.slot = t->slot;
    }
    return to;
}

/* An op may return a header that someone else holds; the graph needs one of its own. */
static int own_header(pf_tensor **t) {
    if (atomic_load(&(*t)->refs) == 1) return PF_OK;
    pf_tensor *view;
    PF_TRY(pf_tensor_view(&view, *t));
    pf_tensor_release(t);
    *t = view;
    return PF_OK;
}

static int fill_node(pf_tape *tape, pf_node *node, pf_call *c) {
    const pf_op *op = c->op;
    node->op = op;
    node->draw = c->draw;
    node->changes = pf_changes();
    node->n_in = c->n_in;
    node->edge = pf_heap_zalloc(tape->heap, block_bytes(node));
    if (!node->edge) return PF_ENOMEM;
    node->attr = (pf_attr *)(node->edge + c->n_in);
    memcpy(node->attr, c->attr, (size_t)op->n_attrs * sizeof *node->attr);
    for (int i = 0; i < c->n_in; i++) {
        node->edge[i].to = target_of(tape, c->in[i]);
        PF_TRY(keep(&node->edge[i].in, c->in[i], op->uses & PF_USES_IN(i)));
    }
    for (int o = 0; o < op->n_out; o++) {
        if (c->out[o]) PF_TRY(own_header(&c->out[o]));
        PF_TRY(keep(&node->out[o], c->out[o], op->uses & PF_USES_OUT(o)));
    }
    return pf_finite_note(tape, node);
}

int pf_tape_record(pf_tape *tape, pf_call *c) {
    if (tape->n >= INT32_MAX) return pf_fail(PF_ESTATE, "tape: more than 2^31 ops on one tape");
    void *nodes = tape->nodes;
    PF_TRY(pf_heap_grow(tape->heap, &nodes, &tape->capacity, tape->n + 1, sizeof(pf_node)));
    tape->nodes = nodes;
    pf_node *node = &tape->nodes[tape->n];
    memset(node, 0, sizeof *node);
    int status = fill_node(tape, node, c);
    if (status < 0) {
        drop_node(tape, node);
        drop_edges(tape, node);
        return status;
    }
    memcpy(node->saved, c->saved, sizeof node->saved);
    memset(c->saved, 0, sizeof c->saved);
    for (int o = 0; o < c->op->n_out; o++) {
        pf_tensor *t = c->out[o];
        if (!t || t->dtype != PF_F32) continue;
        t->tape = tape;
        t->tape_id = tape->id;
        t->node = (int)tape->n;
        t->slot = o;
    }
    tape->n++;
    return PF_OK;
}

/* ---- walking ---- */

static bool lost(const pf_tensor *t) { return t && t->storage && !t->storage->data; }

/* Tensors of an outer tape may have died before this walk. */
static int check_alive(const pf_node *node) {
    bool dead = false;
    for (int i = 0; i < node->n_in; i++) dead = dead || lost(node->edge[i].in);
    for (int o = 0; o < node->op->n_out; o++) dead = dead || lost(node->out[o]);
    for (int s = 0; s < PF_MAX_SAVED; s++) dead = dead || lost(node->saved[s]);
    if (!dead) return PF_OK;
    return pf_fail(PF_ESTATE, "backward: what %s read died with its tape, which closed first",
                   node->op->name);
}

static bool has_grad(const pf_node *node) {
    for (int o = 0; o < node->op->n_out; o++)
        if (node->grad[o]) return true;
    return false;
}

/* The call as forward left it, plus what backward reads. */
static void restore_call(pf_call *c, pf_tape *tape, pf_node *node) {
    memset(c, 0, offsetof(pf_call, held));
    c->engine = tape->engine;
    c->op = node->op;
    c->n_in = node->n_in;
    c->draw = node->draw;
    memcpy(c->attr, node->attr, (size_t)node->op->n_attrs * sizeof *c->attr);
    memcpy(c->out, node->out, sizeof c->out);
    memcpy(c->saved, node->saved, sizeof c->saved);
    memcpy(c->dout, node->grad, sizeof c->dout);
    for (int i = 0; i < node->n_in; i++) {
        const pf_edge *edge = &node->edge[i];
        c->in[i] = edge->in;
        c->need[i] = edge->to.leaf || edge->to.node >= 0;
    }
    for (int o = 0; o < node->op->n_out; o++) {
        c->shape[o].rank = node->out[o] ? node->out[o]->rank : -1;
        if (!node->out[o]) continue;
        c->shape[o].dtype = node->out[o]->dtype;
        memcpy(c->shape[o].dim, node->out[o]->shape, sizeof c->shape[o].dim);
    }
}

static int walk_node(pf_tape *tape, pf_node *node) {
    pf_engine *e = tape->engine;
    PF_TRY(pf_progress_at(e, "going back", tape->n - (node - tape->nodes), tape->n));
    PF_TRY(pf_leaves_look(tape));
    PF_TRY(check_alive(node));
    PF_TRY(pf_check_unchanged(tape, node));
    pf_call c;
    restore_call(&c, tape, node);
    pf_walk walk = {.sink = {.ops = &pf_walk_ops}, .tape = tape, .node = node};
    c.grad_context = &walk;
    int before = pf_finite_return(e, node);
    int status = pf_call_backward(&c);
    if (status >= 0 && !tape->engine) /* by what it called */
        status = pf_fail(PF_ESTATE, "backward: its engine has closed meanwhile");
    status = pf_walk_fold(&walk, &c, status);
    if (status >= 0 && pf_finite_looks(e)) status = pf_finite_backward(tape, node);
    pf_finite_leave(e, before);
    if (status >= 0) return PF_OK;
    if (status == PF_ECANCEL || status == PF_ELIMIT) return status;
    return pf_fail_in(status, "backward of %s", node->op->name);
}

static int check_loss(const pf_tape *tape, const pf_tensor *loss, const pf_tensor *seed) {
    PF_TRY(pf_tensor_check(loss, PF_F32, "backward", "loss"));
    if (!pf_made_by(tape, loss))
        return pf_fail(PF_EINVAL,
                       "backward: the loss %s was not made on this tape from anything "
                       "that requires a gradient",
                       pf_shape_of(loss));
    PF_TRY(pf_check_result(tape, loss, "backward", "the loss"));
    if (!seed && pf_tensor_numel(loss) != 1)
        return pf_fail(PF_ESHAPE,
                       "backward: the loss is %s, not one number: take its sum or mean, "
                       "or give a seed of its shape",
                       pf_shape_of(loss));
    if (!seed) return PF_OK;
    PF_TRY(pf_tensor_check(seed, PF_F32, "backward", "seed"));
    if (!pf_same_shape(seed, loss))
        return pf_fail(PF_ESHAPE, "backward: the seed is %s, the loss %s", pf_shape_of(seed),
                       pf_shape_of(loss));
    return PF_OK;
}

/* The gradient of the loss itself: ones, or the caller's seed seen through an own header. */
static int seed_loss(pf_tape *tape, const pf_tensor *loss, const pf_tensor *seed) {
    pf_tensor *grad = NULL;
    if (seed) {
        PF_TRY(pf_tensor_view(&grad, seed));
    } else {
        PF_TRY(pf_tensor_make(&grad, tape->engine, PF_F32, loss->rank, loss->shape));
        int status = pf_tensor_fill(grad, 1);
        if (status < 0) {
            pf_tensor_release(&grad);
            return status;
        }
    }
    int status = pf_walk_seed(tape, loss->node, loss->slot, grad);
    pf_tensor_release(&grad);
    return status;
}

/* A sum that broke off is no gradient: the leaves of a failed walk have none. */
static void forget_leaves(pf_tape *tape) {
    for (int64_t n = 0; n < tape->n; n++)
        for (int i = 0; i < tape->nodes[n].n_in; i++)
            pf_tensor_clear_grad(tape->nodes[n].edge[i].to.leaf);
    for (int64_t i = 0; i < tape->given.n; i++) pf_tensor_clear_grad(tape->given.leaf[i]);
}

static int check_walk(const pf_tape *tape) {
    if (!tape->engine) return pf_fail(PF_ESTATE, "backward: its engine has closed");
    if (tape->walked)
        return pf_fail(PF_ESTATE, "backward: this tape has been walked already, and its "
                                  "activations are gone; open a new tape and run forward again");
    if (tape->engine->tape != tape)
        return pf_fail(PF_ESTATE, "backward: an inner tape is still open; close it first");
    return PF_OK;
}

int pf_tape_backward_all(pf_tape *tape, pf_tensor *const *outs, const pf_tensor *const *seeds,
                         int64_t n_outs) {
    PF_TRY(check_walk(tape));
    for (int64_t i = 0; i < n_outs; i++) PF_TRY(check_loss(tape, outs[i], seeds[i]));
    pf_engine *e = pf_engine_retain(tape->engine); /* should what a node calls close it */
    tape->walked = tape->walking = true;
    pf_leaves_begin(tape);
    /* From the last node to the first: when one is met, all that reads its outputs has been
     * walked, so its gradient is whole. One without a gradient has no part in the loss. */
    int status = PF_OK;
    for (int64_t i = 0; i < n_outs && status >= 0; i++) status = seed_loss(tape, outs[i], seeds[i]);
    for (int64_t n = tape->n - 1; n >= 0; n--) {
        pf_node *node = &tape->nodes[n];
        if (status >= 0 && has_grad(node)) status = walk_node(tape, node);
        if (status >= 0) status = pf_leaves_after(tape, n);
        drop_node(tape, node);
    }
    if (status < 0) forget_leaves(tape);
    pf_leaves_end(tape, status);
    for (int64_t n = 0; n < tape->n; n++) drop_edges(tape, &tape->nodes[n]);
    tape->walking = false;
    if (tape->doomed) pf_tape_close(&tape);
    pf_engine_release(&e);
    return status < 0 ? status : PF_OK;
}

int pf_tape_backward(pf_tape *tape, pf_tensor *loss, const pf_tensor *seed) {
    PF_NEED(tape, loss);
    return pf_tape_backward_all(tape, &loss, &seed, 1);
}
