/*
 * reversible.c - residual branches whose inputs are made again from their outputs (Gomez et al.
 * 2017, "The Reversible Residual Network"):
 *
 *     a <- a + f_0(b),   b <- b + f_1(a),   a <- a + f_2(b),   ...
 *
 * All branches are one node, which keeps the last a and b alone, so that activations do not grow
 * with depth. Backward takes the branches last to first: with s the half that a branch reads and
 * t the half that it adds to, it runs f(s) on a tape of its own, walks it with t's gradient,
 *
 *     t <- t - f(s),   ds <- ds + (df/ds)^T dt,
 *
 * and has the branch's inputs again, to the rounding of one addition a branch.
 */
#include "calls.h"
#include "kern.h"
#include "fold.h"
#include "node.h"

enum { HALVES = 2 };
#define USES_BESIDE (PF_USES_ALL_IN & ~(PF_USES_IN(0) | PF_USES_IN(1)))

/* half[0] = a, half[1] = b; branch i adds to half i % 2 what it makes of the other. */
static int target_half(int64_t i) { return (int)(i % 2); }

static int run_branch(pf_engine *e, pf_branch_fn run, void *context, int64_t i, pf_tensor *s,
                      pf_tensor *const *beside, const pf_tensor *t, pf_tensor **y) {
    *y = NULL;
    int status = run(context, e, i, s, beside, y);
    if (status >= 0 && !*y) status = pf_fail(PF_EHOST, "reversible: a branch gave no result");
    if (status >= 0) status = pf_tensor_check(*y, PF_F32, "reversible", "branch");
    if (status >= 0 && !pf_same_shape(*y, t)) {
        status = pf_fail(PF_ESHAPE, "reversible: branch %s makes %s, to be added to %s",
                         pf_place(i), pf_shape_of(*y), pf_shape_of(t));
    }
    if (status < 0) pf_tensor_release(y);
    return status;
}

/* ---- backward ---- */

typedef struct {
    pf_tensor *half[2], *grad[2];
} halves;

/* Half t before the branch that made y, outside the inner tape. */
static int undo(pf_engine *e, pf_tape *tape, halves *h, int t, pf_tensor *y) {
    pf_tensor *in[2] = {h->half[t], y}, *before = NULL;
    pf_tape *paused = pf_tape_pause(e);
    int status = pf_apply(e, &pf_op_sub, in, 2, NULL, &before);
    pf_tape_resume(paused);
    if (status < 0) return status;
    pf_tensor_pass_on(before, tape, tape->outer);
    pf_tensor_release(&h->half[t]);
    h->half[t] = before;
    return PF_OK;
}

/* Branch i backward on `tape`; leaf (n): views of the half that it reads, and of what it reads
 * beside it. */
static int walk_branch(pf_call *c, const pf_recomputation *r, pf_tape *tape, int64_t i, halves *h,
                       pf_tensor *const *leaf, int n) {
    pf_tensor *y;
    int t = target_half(i);
    pf_engine *e = c->engine;
    uint64_t seed = e->seed;
    e->seed = r->seed;
    int status = run_branch(e, r->branch, r->f.context, i, leaf[0], leaf + 1, h->half[t], &y);
    e->seed = seed;
    if (status >= 0) status = undo(e, tape, h, t, y);
    if (status >= 0) status = pf_tape_walk_inside(tape, r, i, &y, leaf, n, h->grad[t]);
    pf_tensor_release(&y);
    return status;
}

/* The gradient of the half that was read becomes the leaf's, with what it was added. */
static int take_gradient(pf_engine *e, halves *h, int s, pf_tensor *leaf) {
    if (!leaf->grad || leaf->grad_stale) return PF_OK;
    PF_TRY(pf_add_into(e, leaf->grad, false, h->grad[s], 1));
    pf_tensor_release(&h->grad[s]);
    h->grad[s] = pf_tensor_retain(leaf->grad);
    return PF_OK;
}

/* Views of the half s and of the node's inputs behind x1 and x2, outside every graph. */
static int make_leaves(pf_call *c, const halves *h, int s, pf_tensor **leaf) {
    PF_TRY(pf_tensor_view(&leaf[0], h->half[s]));
    leaf[0]->requires_grad = true;
    for (int k = HALVES; k < c->n_in; k++) {
        PF_TRY(pf_tensor_view(&leaf[k - 1], c->in[k]));
        leaf[k - 1]->requires_grad = c->need[k];
    }
    return PF_OK;
}

/* What a branch reads beside its half gets the branch's part of its gradient. */
static int give_beside(pf_call *c, pf_tensor *const *leaf) {
    for (int k = HALVES; k < c->n_in; k++) {
        pf_tensor *view = leaf[k - 1];
        if (!c->need[k] || !view->grad || view->grad_stale) continue;
        PF_TRY(pf_grad_give(c, k, view->grad));
    }
    return PF_OK;
}

static int back_branch(pf_call *c, int64_t i, halves *h) {
    const pf_walk *walk = c->grad_context;
    pf_tape *tape = NULL;
    pf_tensor *leaf[1 + PF_BESIDE] = {NULL};
    int s = 1 - target_half(i), n = c->n_in - 1;
    int status = make_leaves(c, h, s, leaf);
    if (status >= 0) status = pf_tape_open_inside(&tape, walk);
    if (status >= 0) status = walk_branch(c, &walk->node->recompute, tape, i, h, leaf, n);
    pf_tape_close(&tape);
    if (status >= 0) status = take_gradient(c->engine, h, s, leaf[0]);
    if (status >= 0) status = give_beside(c, leaf);
    for (int k = 0; k < n; k++) {
        if (leaf[k]) pf_tensor_require_grad(leaf[k], false);
        pf_tensor_release(&leaf[k]);
    }
    return status;
}

static int reversible_backward(pf_call *c) {
    const pf_recomputation *r = &((const pf_walk *)c->grad_context)->node->recompute;
    halves h = {{NULL, NULL}, {NULL, NULL}};
    int status = PF_OK;
    for (int k = 0; k < 2 && status >= 0; k++) {
        h.half[k] = pf_tensor_retain(c->out[k]);
        h.grad[k] = pf_tensor_retain(c->dout[k]);
        if (h.grad[k]) continue;
        const pf_tensor *y = c->out[k]; /* nothing arrived for this half */
        status = pf_tensor_make(&h.grad[k], c->engine, PF_F32, y->rank, y->shape);
        if (status >= 0) status = pf_tensor_fill(h.grad[k], 0);
    }
    for (int64_t i = r->n_branches - 1; i >= 0 && status >= 0; i--) status = back_branch(c, i, &h);
    for (int k = 0; k < 2; k++) {
        if (status >= 0 && c->need[k]) status = pf_grad_give(c, k, h.grad[k]);
    }
    /* They change from branch to branch, so that the call cannot hold them. */
    for (int k = 0; k < 2; k++) {
        pf_tensor_release(&h.half[k]);
        pf_tensor_release(&h.grad[k]);
    }
    return status;
}

static const pf_op reversible_op = {.name = "reversible",
                                    .args = "x1, x2",
                                    .results = "a, b",
                                    .min_in = HALVES,
                                    .max_in = HALVES + PF_BESIDE,
                                    .n_out = 2,
                                    .uses = PF_USES_OUT(0) | PF_USES_OUT(1) | USES_BESIDE,
                                    .backward = reversible_backward};

/* ---- forward ---- */

/* half[0], half[1], retained on entry, through all branches, in their place. hidden: NULL where
 * they run in the open. */
static int run_all(pf_engine *e, const pf_branches *b, pf_tensor *const *beside, pf_hidden *hidden,
                   pf_tensor **half) {
    for (int64_t i = 0; i < b->n; i++) {
        pf_tensor *y = NULL, *sum = NULL;
        int t = target_half(i);
        PF_TRY(run_branch(e, b->run, b->context, i, half[1 - t], beside, half[t], &y));
        int status = pf_add(&sum, e, half[t], y);
        if (status >= 0 && hidden) status = pf_hidden_keep(hidden, b->ends, b->context, i);
        pf_tensor_release(&y);
        if (status < 0) pf_tensor_release(&sum);
        PF_TRY(status);
        pf_tensor_release(&half[t]);
        half[t] = sum;
    }
    return PF_OK;
}

/* The same where nothing but the ends lasts. */
static int run_hidden(pf_engine *e, const pf_branches *b, pf_tensor **half, pf_leaf_list *read) {
    pf_hidden hidden;
    pf_tensor *beside[PF_BESIDE] = {NULL};
    int status = PF_OK;
    for (int k = 0; k < 2; k++) {
        pf_tensor *view = NULL;
        PF_TRY(pf_tensor_view(&view, half[k])); /* outside the graph */
        pf_tensor_release(&half[k]);
        half[k] = view;
    }
    for (int k = 0; k < b->n_beside && status >= 0; k++) {
        status = pf_tensor_view(&beside[k], b->beside[k]);
    }
    if (status >= 0) status = pf_hidden_begin(&hidden, e);
    if (status >= 0) {
        status = run_all(e, b, beside, &hidden, half);
        status = pf_hidden_end(&hidden, e, status, half, 2);
        *read = hidden.note.read;
    }
    for (int k = 0; k < b->n_beside; k++) pf_tensor_release(&beside[k]);
    return status;
}

static int reversible(pf_engine *e, const pf_branches *b, pf_recomputation *r, pf_tensor *x1,
                      pf_tensor *x2, pf_tensor **half, bool *taken) {
    if (b->n_beside > PF_BESIDE) return pf_fail(PF_EINVAL, "reversible: too many inputs");
    if (!pf_tape_records(e)) return run_all(e, b, b->beside, NULL, half);
    PF_TRY(run_hidden(e, b, half, &r->read));
    bool wanted = r->read.n > 0;
    pf_tensor *in[HALVES + PF_BESIDE] = {x1, x2};
    for (int k = 0; k < b->n_beside; k++) in[HALVES + k] = b->beside[k];
    for (int k = 0; k < HALVES + b->n_beside; k++) wanted |= pf_in_graph(e, in[k]);
    if (!wanted) return PF_OK;
    PF_TRY(pf_record_recomputation(e, &reversible_op, r, in, HALVES + b->n_beside, half, 2));
    *taken = true;
    return PF_OK;
}

/* x1, x2 of one shape, which every branch keeps. */
int pf_reversible(pf_tensor **a, pf_tensor **b, pf_engine *e, const pf_branches *branches,
                  pf_tensor *x1, pf_tensor *x2) {
    pf_tensor *half[2] = {pf_tensor_retain(x1), pf_tensor_retain(x2)};
    pf_recomputation r = {
        .f = {.release = branches->release, .context = branches->context},
        .branch = branches->run,
        .ends = branches->ends,
        .n_branches = branches->n,
        .seed = e->seed,
        .changes = pf_changes(),
    };
    bool taken = false;
    int status = reversible(e, branches, &r, x1, x2, half, &taken);
    if (!taken) pf_leaf_list_drop(&r.read, e->heap);
    if (!taken && branches->release) branches->release(branches->context);
    for (int k = 0; k < 2 && status < 0; k++) pf_tensor_release(&half[k]);
    *a = half[0], *b = half[1];
    return status < 0 ? status : PF_OK;
}
