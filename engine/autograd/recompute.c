/*
 * recompute.c - gradient checkpointing: a part of the graph that is one node, keeps nothing
 * but its inputs, and makes its activations again when backward comes to it (Chen et al.
 * 2016, "Training Deep Nets with Sublinear Memory Cost").
 *
 * What holds. Forward runs on a paused tape of its own, so that all that it makes, scripts'
 * intermediates too, is gone when it returns; the result alone passes on to the tape around.
 * Backward runs it again on an open tape of its own, over views of the inputs that are
 * leaves there, and walks that: gradients of parameters gather as ever, those of the inputs
 * are handed on. A second run that gives other bits is an error, and no gradient. A walk that
 * breaks off leaves no leaf a gradient: the outermost tape keeps a list of those that inner ones
 * wrote to.
 */
#include <string.h>
#include <xxhash.h>

#include "calls.h"
#include "node.h"

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

/* Headers of our own on the inputs, outside every graph; NULL stays NULL. The function works on
 * these, so that in backward they can be leaves of the inner tape while the inputs themselves
 * stay what they are on the outer one. */
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

static int run(pf_engine *e, const pf_recomputed *f, pf_tensor *const *in, int n, pf_tensor **y) {
    *y = NULL;
    uint64_t before = pf_failures();
    int status = f->run(f->context, e, in, n, y);
    if (status < 0) pf_callback_failed(status, before, "recompute: the function");
    if (status >= 0 && !*y) status = pf_fail(PF_EHOST, "recompute: the function gave no result");
    if (status < 0) pf_tensor_release(y);
    return status;
}

/* Of the result's bits. Ops give the same ones every time, so that any other is the function's. */
static int checksum(pf_engine *e, const pf_tensor *y, uint64_t *sum) {
    pf_tensor *flat;
    PF_TRY(pf_tensor_compact(&flat, e, y));
    *sum = XXH3_64bits(pf_f32(flat), (size_t)pf_tensor_numel(flat) * pf_dtype_size(flat->dtype));
    pf_tensor_release(&flat);
    return PF_OK;
}

/* ---- backward ---- */

static bool is_one_of(pf_tensor *const *list, int n, const pf_tensor *t) {
    for (int i = 0; i < n; i++)
        if (list[i] == t) return true;
    return false;
}

/* The leaves of a recorded inner tape, but for `own`, go on the list of the outermost one: before
 * they are written to, so that a failure here finds nothing to undo. */
static int list_leaves(const pf_tape *tape, pf_tensor *const *own, int n_own) {
    pf_tape *host = tape->host;
    for (int64_t n = 0; n < tape->n; n++) {
        for (int i = 0; i < tape->nodes[n].n_in; i++) {
            pf_tensor *leaf = tape->nodes[n].edge[i].to.leaf;
            if (!leaf || is_one_of(own, n_own, leaf)) continue;
            PF_TRY(pf_leaf_list_add(&host->given, host->heap, leaf));
        }
    }
    return PF_OK;
}

int pf_tape_open_inside(pf_tape **tape, const pf_walk *walk) {
    PF_TRY(pf_tape_open(tape, walk->tape->engine));
    (*tape)->first_began = walk->node->recompute.changes;
    (*tape)->second_began = pf_changes();
    (*tape)->host = walk->tape->host ? walk->tape->host : walk->tape;
    return PF_OK;
}

/* Backward from y, where it is of the tape, and from those ends that are. */
static int walk_from(pf_tape *tape, pf_tensor *y, const pf_tensor *dy, const pf_ends *ends) {
    pf_heap *heap = tape->heap;
    size_t bytes = (size_t)(ends->n + 1) * sizeof(pf_tensor *);
    pf_tensor **outs = pf_heap_alloc(heap, bytes);
    const pf_tensor **seeds = pf_heap_alloc(heap, bytes);
    int64_t n = 0;
    int status = outs && seeds ? PF_OK : PF_ENOMEM;
    if (status >= 0 && pf_made_by(tape, y)) outs[0] = y, seeds[0] = dy, n = 1;
    for (int64_t i = 0; i < ends->n && status >= 0; i++) {
        if (ends->seed[i] && pf_made_by(tape, ends->out[i]))
            outs[n] = ends->out[i], seeds[n++] = ends->seed[i];
    }
    if (status >= 0 && n > 0) status = pf_tape_backward_all(tape, outs, seeds, n);
    pf_heap_free(heap, outs, bytes);
    pf_heap_free(heap, seeds, bytes);
    return status;
}

int pf_tape_walk_inside(pf_tape *tape, const pf_recomputation *r, int64_t i, pf_tensor **y,
                        pf_tensor *const *own, int n_own, const pf_tensor *dy) {
    pf_ends ends = {.n = 0};
    /* A result that is an input or a parameter itself needs a node to take its gradient. */
    if (!pf_made_by(tape, *y) && pf_in_graph(tape->engine, *y)) {
        pf_tensor *same;
        PF_TRY(pf_reshape(&same, tape->engine, *y, (*y)->rank, (*y)->shape));
        pf_tensor_release(y);
        *y = same;
    }
    if (r->ends) PF_TRY(r->ends(r->f.context, i, &ends));
    if (tape->n == 0) return PF_OK;
    PF_TRY(list_leaves(tape, own, n_own));
    return walk_from(tape, *y, dy, &ends);
}

static int check_same(const pf_call *c, const pf_recomputation *r, const pf_tensor *y) {
    uint64_t sum;
    PF_TRY(pf_tensor_check(y, PF_F32, "recompute", "result"));
    if (!pf_same_shape(y, c->dout[0]))
        return pf_fail(PF_ESHAPE,
                       "recompute: the function gave %s at first and %s when it was run "
                       "again",
                       pf_shape_of(c->dout[0]), pf_shape_of(y));
    PF_TRY(checksum(c->engine, y, &sum));
    if (sum == r->sum) return PF_OK;
    return pf_fail(PF_ESTATE,
                   "recompute: the function gave other numbers %s when it was run again; what it "
                   "reads beside its inputs must be as it was (a counter, a variable that has "
                   "changed?), and random numbers must be the engine's",
                   pf_shape_of(y));
}

/* Runs f on `tape` and walks it; afterwards the views hold their gradients. The second run
 * draws the same random numbers as the first. */
static int differentiate(pf_call *c, pf_tape *tape, const pf_recomputation *r, const views *in) {
    pf_engine *e = c->engine;
    pf_tensor *y;
    uint64_t seed = e->seed, draws = e->draws;
    e->seed = r->seed;
    e->draws = r->draws;
    int status = run(e, &r->f, in->t, in->n, &y);
    e->seed = seed;
    e->draws = draws;
    if (status >= 0) status = check_same(c, r, y);
    if (status >= 0) status = pf_tape_walk_inside(tape, r, 0, &y, in->t, in->n, c->dout[0]);
    pf_tensor_release(&y);
    return status;
}

static int recompute_backward(pf_call *c) {
    const pf_walk *walk = c->grad_context;
    pf_tape *tape = NULL;
    views in;
    if (!c->dout[0]) return PF_OK;
    PF_TRY(make_views(&in, c->in, c->n_in));
    for (int i = 0; i < in.n; i++)
        if (c->need[i]) in.t[i]->requires_grad = true;
    int status = pf_tape_open_inside(&tape, walk);
    if (status >= 0) status = differentiate(c, tape, &walk->node->recompute, &in);
    pf_tape_close(&tape);
    for (int i = 0; i < in.n && status >= 0; i++) {
        pf_tensor *view = in.t[i];
        if (c->need[i] && view->grad && !view->grad_stale) status = pf_grad_give(c, i, view->grad);
    }
    drop_views(&in);
    return status;
}

/* No row of the table: nothing but this file makes such a node. */
static const pf_op recompute_op = {.name = "recompute",
                                   .args = "x",
                                   .results = "y",
                                   .max_in = PF_MAX_IN,
                                   .n_out = 1,
                                   .uses = PF_USES_ALL_IN,
                                   .backward = recompute_backward};

/* ---- forward ---- */

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

/* The scratch tape records nothing. It is there to own what the function makes, and to note what
 * its ops read: a leaf (then there is something to differentiate), or a tensor of the outer tape
 * that is no input (whose gradient a second run could not pass on). */
int pf_hidden_begin(pf_hidden *h, pf_engine *e) {
    *h = (pf_hidden){.outer = e->tape, .note = {.outer = e->tape, .outer_id = e->tape->id}};
    PF_TRY(pf_tape_open(&h->scratch, e));
    h->scratch->paused = 1;
    h->scratch->note = &h->note;
    return PF_OK;
}

int pf_hidden_keep(pf_hidden *h, pf_ends_fn ends, void *context, int64_t i) {
    pf_ends left = {.n = 0};
    if (!ends) return PF_OK;
    PF_TRY(ends(context, i, &left));
    for (int64_t k = 0; k < left.n; k++) pf_tensor_pass_on(left.out[k], h->scratch, h->outer);
    return PF_OK;
}

int pf_hidden_end(pf_hidden *h, pf_engine *e, int status, pf_tensor **results, int n) {
    /* What ran must have left the tapes around it as they were. */
    if (status >= 0 && e->tape != h->scratch)
        status = pf_fail(PF_ESTATE, "recompute: a tape that was opened inside is still open");
    else if (status >= 0 && h->scratch->outer != h->outer)
        status = pf_fail(PF_ESTATE, "recompute: the tape around it was closed inside");
    if (status >= 0) status = h->note.status;
    if (status >= 0) status = check_captured(&h->note, results, n);
    for (int i = 0; i < n && status >= 0; i++) pf_tensor_pass_on(results[i], h->scratch, h->outer);
    pf_tape_close(&h->scratch);
    for (int i = 0; i < n && status < 0; i++) pf_tensor_release(&results[i]);
    return status;
}

/* Runs f where nothing is recorded and all but *y dies at the end. */
static int run_hidden(pf_engine *e, pf_recomputation *r, pf_tensor *const *in, int n,
                      pf_tensor **y) {
    pf_hidden hidden;
    views own;
    PF_TRY(make_views(&own, in, n));
    int status = pf_hidden_begin(&hidden, e);
    if (status >= 0) {
        status = run(e, &r->f, own.t, n, y);
        if (status >= 0) status = pf_hidden_keep(&hidden, r->ends, r->f.context, 0);
        status = pf_hidden_end(&hidden, e, status, y, 1);
        r->read = hidden.note.read;
    }
    drop_views(&own);
    return status;
}

int pf_record_recomputation(pf_engine *e, const pf_op *op, const pf_recomputation *r,
                            pf_tensor *const *in, int n_in, pf_tensor **out, int n_out) {
    pf_call c = {.engine = e, .op = op, .n_in = n_in};
    PF_TRY(pf_check_inputs(e, op, in, n_in));
    if (n_in > 0) memcpy(c.in, in, (size_t)n_in * sizeof *in);
    memcpy(c.out, out, (size_t)n_out * sizeof *out);
    int status = pf_tape_record(e->tape, &c);
    memcpy(out, c.out, (size_t)n_out * sizeof *out);
    if (status >= 0) e->tape->nodes[e->tape->n - 1].recompute = *r;
    return status;
}

int pf_record_linked(pf_engine *e, const pf_op *op, void *context, void (*release)(void *),
                     pf_tensor *const *in, int n_in, pf_tensor **out, int n_out) {
    const pf_recomputation r = {.f = {.release = release, .context = context},
                                .changes = pf_changes()};
    bool records = pf_tape_records(e);
    int status = records ? pf_record_recomputation(e, op, &r, in, n_in, out, n_out) : PF_OK;
    if (!records || status < 0) release(context);
    return status;
}

void *pf_linked_context(const pf_call *c) {
    return ((const pf_walk *)c->grad_context)->node->recompute.f.context;
}

/* *taken: a node holds f from now on. */
static int recompute(pf_tensor **y, pf_engine *engine, pf_recomputation *r,
                     pf_tensor *const *inputs, int n, bool *taken) {
    PF_OUT(y);
    PF_OPEN(engine);
    PF_NEED_ARRAY(inputs, n);
    if (!r->f.run) return pf_fail(PF_EINVAL, "recompute: no function");
    if (n < 0 || n > PF_MAX_IN)
        return pf_fail(PF_EINVAL, "recompute: %d inputs, at most %d are possible", n, PF_MAX_IN);
    if (!pf_tape_records(engine)) return run(engine, &r->f, inputs, n, y);
    r->seed = engine->seed, r->draws = engine->draws, r->changes = pf_changes();
    PF_TRY(run_hidden(engine, r, inputs, n, y));
    bool wanted = r->read.n > 0;
    for (int i = 0; i < n; i++) wanted |= pf_in_graph(engine, inputs[i]);
    if (!wanted) return PF_OK;
    int status = checksum(engine, *y, &r->sum);
    if (status >= 0) status = pf_record_recomputation(engine, &recompute_op, r, inputs, n, y, 1);
    *taken = status >= 0;
    if (status < 0) pf_tensor_release(y);
    return status;
}

int pf_recompute_ends(pf_tensor **y, pf_engine *engine, const pf_recomputed *f, pf_ends_fn ends,
                      pf_tensor *const *inputs, int n) {
    pf_recomputed own = {.run = NULL};
    if (y) *y = NULL;
    PF_NEED(f);
    PF_TRY(pf_options_take(&own, sizeof own, f, "recompute"));
    pf_recomputation r = {.f = own, .ends = ends};
    bool taken = false;
    int status = recompute(y, engine, &r, inputs, n, &taken);
    if (!taken && r.read.leaf) pf_leaf_list_drop(&r.read, engine->heap);
    if (!taken && own.release) own.release(own.context);
    return status < 0 ? status : PF_OK;
}

int pf_recompute(pf_tensor **y, pf_engine *engine, const pf_recomputed *f, pf_tensor *const *inputs,
                 int n) {
    return pf_recompute_ends(y, engine, f, NULL, inputs, n);
}
