/*
 * recompute.c - gradient checkpointing: a part of the graph that is one node, keeps nothing
 * but its inputs, and makes its activations again when backward comes to it (Chen et al.
 * 2016, "Training Deep Nets with Sublinear Memory Cost").
 *
 * What holds. Forward runs on a paused tape of its own, so that all that it makes, scripts'
 * intermediates too, is gone when it returns; the result alone passes on to the tape around.
 * Backward runs it again on an open tape of its own, over views of the inputs that are
 * leaves there, and walks that: gradients of parameters gather as ever, those of the inputs
 * are handed on. A walk that breaks off leaves no leaf a gradient: the outermost tape keeps
 * a list of those that inner ones wrote to.
 */
#include <string.h>

#include "calls.h"
#include "node.h"

/* ---- what forward notes ---- */

void pf_note_op(const pf_tape *tape, const pf_op *op, pf_tensor *const *in, int n_in) {
    pf_note *note = tape->note;
    for (int i = 0; i < n_in; i++) {
        const pf_tensor *t = in[i];
        if (!t || t->dtype != PF_F32) continue;
        note->wanted |= t->requires_grad;
        if (t->tape == note->outer && t->tape_id == note->outer_id) note->captured = op->name;
    }
}

/* ---- running ---- */

typedef struct {
    pf_tensor *t[PF_MAX_IN];
    int n;
} views;

/* What a script still holds is a plain view from now on. */
static void drop_views(views *v) {
    for (int i = 0; i < v->n; i++) {
        if (v->t[i]) pf_tensor_require_grad(v->t[i], false);
        pf_tensor_release(&v->t[i]);
    }
}

/* Headers of our own on the inputs, outside every graph; NULL stays NULL. */
static int make_views(views *v, pf_tensor *const *in, int n) {
    memset(v, 0, sizeof *v);
    v->n = n;
    for (int i = 0; i < n; i++) {
        int status = in[i] ? pf_tensor_view(&v->t[i], in[i]) : PF_OK;
        if (status >= 0) continue;
        drop_views(v);
        return status;
    }
    return PF_OK;
}

static int run(pf_engine *e, const pf_again *f, pf_tensor *const *in, int n, pf_tensor **y) {
    *y = NULL;
    int status = f->run(f->context, e, in, n, y);
    if (status >= 0 && !*y) status = pf_fail(PF_EHOST, "recompute: the function gave no result");
    if (status < 0) pf_tensor_release(y);
    return status;
}

/* ---- backward ---- */

static bool is_one_of(pf_tensor *const *list, int n, const pf_tensor *t) {
    for (int i = 0; i < n; i++)
        if (list[i] == t) return true;
    return false;
}

int pf_tape_list_leaves(const pf_tape *tape, pf_tensor *const *own, int n_own) {
    pf_tape *host = tape->host;
    for (int64_t n = 0; n < tape->n; n++) {
        for (int i = 0; i < tape->nodes[n].n_in; i++) {
            pf_tensor *leaf = tape->nodes[n].to[i].leaf;
            if (!leaf || is_one_of(own, n_own, leaf)) continue;
            PF_TRY(pf_heap_grow(host->heap, (void **)&host->given, &host->cap_given,
                                host->n_given + 1, sizeof *host->given));
            host->given[host->n_given++] = pf_tensor_retain(leaf);
        }
    }
    return PF_OK;
}

int pf_tape_open_inside(pf_tape **tape, const pf_walk *walk) {
    PF_TRY(pf_tape_open(tape, walk->tape->engine));
    (*tape)->host = walk->tape->host ? walk->tape->host : walk->tape;
    return PF_OK;
}

int pf_tape_link(pf_tape *tape, pf_tensor **y, bool *linked) {
    pf_tensor *same = NULL;
    *linked = pf_made_by(tape, *y);
    if (*linked || !pf_in_graph(tape->engine, *y)) return PF_OK;
    PF_TRY(pf_reshape(&same, tape->engine, *y, (*y)->rank, (*y)->shape));
    pf_tensor_release(y);
    *y = same;
    *linked = true;
    return PF_OK;
}

static int check_same(const pf_call *c, const pf_tensor *y) {
    PF_TRY(pf_tensor_check(y, PF_F32, "recompute", "result"));
    if (pf_same_shape(y, c->dout[0])) return PF_OK;
    return pf_fail(PF_ESHAPE,
                   "recompute: the function gave %s at first and %s when it was run "
                   "again",
                   pf_shape_of(c->dout[0]), pf_shape_of(y));
}

/* The second run draws the same random numbers as the first. */
static int run_again(pf_engine *e, const pf_rerun *rerun, const views *in, pf_tensor **y) {
    uint64_t seed = e->seed, draws = e->draws;
    e->seed = rerun->seed;
    e->draws = rerun->draws;
    int status = run(e, &rerun->f, in->t, in->n, y);
    e->seed = seed;
    e->draws = draws;
    return status;
}

/* Runs and walks on `tape`; afterwards the views hold their gradients. */
static int differentiate(pf_call *c, pf_tape *tape, const pf_rerun *rerun, const views *in) {
    pf_tensor *y = NULL;
    bool linked = false;
    int status = run_again(c->engine, rerun, in, &y);
    if (status >= 0) status = check_same(c, y);
    if (status >= 0) status = pf_tape_link(tape, &y, &linked);
    if (status >= 0 && linked) status = pf_tape_list_leaves(tape, in->t, in->n);
    if (status >= 0 && linked) status = pf_tape_backward(tape, y, c->dout[0]);
    pf_tensor_release(&y);
    return status;
}

static int give_all(pf_call *c, const views *in) {
    for (int i = 0; i < in->n; i++) {
        pf_tensor *view = in->t[i];
        if (!c->need[i] || !view->grad || view->grad_stale) continue;
        PF_TRY(pf_grad_give(c, i, view->grad));
    }
    return PF_OK;
}

static int again_backward(pf_call *c) {
    const pf_walk *walk = c->grad_context;
    pf_tape *tape = NULL;
    views in;
    if (!c->dout[0]) return PF_OK;
    PF_TRY(make_views(&in, c->in, c->n_in));
    for (int i = 0; i < in.n; i++)
        if (c->need[i]) in.t[i]->requires_grad = true;
    int status = pf_tape_open_inside(&tape, walk);
    if (status >= 0) status = differentiate(c, tape, &walk->node->rerun, &in);
    pf_tape_close(&tape);
    if (status >= 0) status = give_all(c, &in);
    drop_views(&in);
    return status;
}

/* No row of the table: nothing but this file makes such a node. */
static const pf_op again_op = {.name = "recompute",
                               .args = "x",
                               .results = "y",
                               .max_in = PF_MAX_IN,
                               .n_out = 1,
                               .uses = PF_USES_ALL_IN,
                               .backward = again_backward};

/* ---- forward ---- */

/* What ran must not have done to the tapes around it. */
static int check_tapes(const pf_engine *e, const pf_hidden *h) {
    if (e->tape != h->scratch)
        return pf_fail(PF_ESTATE, "recompute: a tape that was opened inside is still open");
    if (h->scratch->outer != h->outer)
        return pf_fail(PF_ESTATE, "recompute: the tape around it was closed inside");
    return PF_OK;
}

static int check_captured(const pf_note *note, pf_tensor *const *results, int n) {
    const char *what = note->captured;
    for (int i = 0; i < n; i++) {
        bool itself = results[i]->tape == note->outer && results[i]->tape_id == note->outer_id;
        if (itself && !what) what = "the result";
    }
    if (!what) return PF_OK;
    return pf_fail(PF_EINVAL,
                   "recompute: %s read a tensor that was computed on the open tape and "
                   "is no input; hand it over as one, or its gradient is lost (detach says that "
                   "none is wanted)",
                   what);
}

int pf_hidden_begin(pf_hidden *h, pf_engine *e) {
    *h = (pf_hidden){.outer = e->tape, .note = {.outer = e->tape, .outer_id = e->tape->id}};
    PF_TRY(pf_tape_open(&h->scratch, e));
    h->scratch->paused = 1;
    h->scratch->note = &h->note;
    return PF_OK;
}

int pf_hidden_end(pf_hidden *h, pf_engine *e, int status, pf_tensor **results, int n) {
    int kept = check_tapes(e, h);
    if (status >= 0) status = kept;
    if (status >= 0) status = check_captured(&h->note, results, n);
    for (int i = 0; i < n && status >= 0; i++) pf_tensor_pass_on(results[i], h->scratch, h->outer);
    pf_tape_close(&h->scratch);
    for (int i = 0; i < n && status < 0; i++) pf_tensor_release(&results[i]);
    return status;
}

/* Runs f where nothing is recorded and all but *y dies at the end. */
static int run_hidden(pf_engine *e, const pf_again *f, pf_tensor *const *in, int n, bool *wanted,
                      pf_tensor **y) {
    pf_hidden hidden;
    views own;
    PF_TRY(make_views(&own, in, n));
    int status = pf_hidden_begin(&hidden, e);
    if (status >= 0) {
        status = run(e, f, own.t, n, y);
        status = pf_hidden_end(&hidden, e, status, y, 1);
    }
    *wanted = hidden.note.wanted;
    drop_views(&own);
    return status;
}

/* The node that stands for all of it; takes f over when it succeeds. */
static int record(pf_engine *e, const pf_rerun *rerun, pf_tensor *const *in, int n, pf_tensor **y) {
    pf_call c;
    memset(&c, 0, sizeof c);
    c.engine = e;
    c.op = &again_op;
    c.n_in = n;
    if (n > 0) memcpy(c.in, in, (size_t)n * sizeof *in);
    c.out[0] = *y;
    int status = pf_tape_record(e->tape, &c);
    *y = c.out[0]; /* the tape may have wanted a header of its own */
    if (status >= 0) e->tape->nodes[e->tape->n - 1].rerun = *rerun;
    return status;
}

static int recompute(pf_tensor **y, pf_engine *e, const pf_again *f, pf_tensor *const *in, int n,
                     bool *taken) {
    bool wanted = false;
    pf_rerun rerun = {.f = *f, .seed = e->seed, .draws = e->draws};
    if (!pf_tape_records(e)) return run(e, f, in, n, y);
    PF_TRY(run_hidden(e, f, in, n, &wanted, y));
    for (int i = 0; i < n; i++) wanted |= pf_in_graph(e, in[i]);
    if (!wanted) return PF_OK;
    int status = record(e, &rerun, in, n, y);
    *taken = status >= 0;
    if (status < 0) pf_tensor_release(y);
    return status;
}

int pf_recompute(pf_tensor **y, pf_engine *engine, const pf_again *f, pf_tensor *const *inputs,
                 int n) {
    *y = NULL;
    if (!f) return pf_fail(PF_EINVAL, "recompute: no function");
    int status = PF_OK;
    bool taken = false;
    if (!engine || !f->run)
        status = pf_fail(PF_EINVAL, "recompute: no %s", engine ? "function" : "engine");
    else if (n < 0 || n > PF_MAX_IN)
        status = pf_fail(PF_EINVAL, "recompute: %d inputs, at most %d are possible", n, PF_MAX_IN);
    else
        status = recompute(y, engine, f, inputs, n, &taken);
    if (!taken && f->release) f->release(f->context);
    return status < 0 ? status : PF_OK;
}
