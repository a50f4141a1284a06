/*
 * sequence.c - a training step over the segments of rows (sequence.h): this rank's, first to last
 * each on a tape of its own, and back from the last.
 *
 * What must hold: ranks leave together. A failure on one of them is told to all at their next
 * verb, or ends the talk; then none of them has a gradient.
 */
#include "sequence.h"

#include <stdio.h>
#include <string.h>

#include "tree.h"

/* A segment's forward, which waits for its backward. */
typedef struct pf_segment_run {
    pf_tape *tape;
    pf_state *nodes; /* that say which layer is which */
    pf_score score;
    pf_tensor *share; /* what the gradient begins with */
    double loss;
    uint64_t calls;
    pf_pass pass;
} pf_segment_run;

int64_t pf_segment_first(const pf_segmented *q, int s) { return s * q->length / q->n; }

/* ---- what a model needs ---- */

static bool has_own_state(const pf_layer *type) {
    return type->state && type->state != pf_state_of_children;
}

static int check_module(const pf_module *m, bool causal) {
    const pf_layer *type = m->type;
    if (type->segments) return type->segments(m, causal);
    if (!has_own_state(type) && !(type->whole && type->whole(m))) return PF_OK;
    return pf_fail(PF_EINVAL,
                   "a row can't go through '%s' in segments: it looks at other positions",
                   type->name);
}

/* A module's place in the model, as its tensors are called. */
typedef struct path {
    const struct path *above;
    const char *name; /* NULL: the model itself */
} path;

static void write_path(const path *at, char *text, size_t bytes) {
    size_t n = 0;
    if (!at->name) return;
    write_path(at->above, text, bytes);
    n = strlen(text);
    snprintf(text + n, bytes - n, "%s%s", n ? "." : "", at->name);
}

static int check_tree(const pf_module *m, const path *at, bool causal) {
    int status = check_module(m, causal);
    for (int i = 0; i < m->n_child && status >= 0; i++) {
        const path below = {at, m->child[i].name};
        PF_TRY(check_tree(m->child[i].module, &below, causal));
    }
    if (status >= 0 || !at->name) return status;
    char text[128] = "";
    write_path(at, text, sizeof text);
    return pf_fail_in(status, "%s", text);
}

static int check_all(const pf_module *m, bool causal) {
    const path top = {NULL, NULL};
    return check_tree(m, &top, causal);
}

int pf_segments_check(const pf_module *m, bool chain, bool together) {
    int status = check_all(m, chain || !together);
    return status < 0 ? pf_fail_in(status, "segments") : PF_OK;
}

/* ---- the tree of places ---- */

static int make_nodes(pf_state **node, pf_engine *e, const pf_module *m, int64_t batch,
                      int64_t position, int *places) {
    PF_TRY(pf_state_new(node, e, batch, m->n_child));
    pf_state *s = *node;
    s->position = position;
    s->place = (*places)++;
    for (int i = 0; i < m->n_child; i++)
        PF_TRY(make_nodes(&s->child[i], e, m->child[i].module, batch, position, places));
    return PF_OK;
}

/* ---- a segment ---- */

static int64_t targets_in(const pf_segmented *q, int64_t first, int64_t end) {
    int64_t n = 0;
    for (int64_t b = 0; b < q->batch; b++) {
        const int32_t *id = pf_i32(q->target) + b * q->length;
        for (int64_t t = first; t < end; t++) n += id[t] >= 0;
    }
    return n;
}

/* The segment's part of the mean over all targets. */
static int share_of(const pf_segmented *q, pf_segment_run *r, int64_t targets) {
    double value = 0, part = (double)targets / (double)q->counted;
    PF_TRY(pf_tensor_get(r->score.loss, 0, &value));
    r->loss = part * value;
    return pf_tensor_full(&r->share, q->e, PF_F32, 0, NULL, part);
}

/* Random calls of a step that each segment has for itself. */
enum { CALLS = 1 << 20 };

static int run_scored(pf_segmented *q, int s, pf_segment_run *r) {
    int64_t first = pf_segment_first(q, s), end = pf_segment_first(q, s + 1);
    const pf_part slice = {
        .first = first, .documents = q->pass.documents, .mask = q->pass.mask, .segmented = q};
    const pf_run run = {.mode = PF_RUN_SLICE, .pass = &r->pass, .state = r->nodes, .slice = &slice};
    pf_tensor *x = NULL;
    r->calls = (uint64_t)s * (CALLS / (uint64_t)q->n);
    r->pass = q->pass;
    r->pass.calls = &r->calls;
    r->pass.mask = r->pass.documents = NULL;
    PF_TRY(pf_part_of(&r->pass.mask, q->e, q->pass.mask, first, end));
    PF_TRY(pf_part_of(&r->pass.documents, q->e, q->pass.documents, first, end));
    PF_TRY(pf_part_of(&r->score.target, q->e, q->target, first, end));
    int status = pf_part_of(&x, q->e, q->x, first, end);
    if (status >= 0) status = pf_run_scored(q->m, q->e, &run, x, &r->score);
    pf_tensor_release(&x);
    return status < 0 ? status : share_of(q, r, targets_in(q, first, end));
}

static int run_segment(pf_segmented *q, int s) {
    pf_segment_run *r = &q->run[s - q->first];
    int places = 0;
    q->segment = s;
    pf_finite_segment(q->e, s);
    PF_TRY(make_nodes(&r->nodes, q->e, q->m, q->batch, pf_segment_first(q, s), &places));
    PF_TRY(pf_tape_open(&r->tape, q->e));
    return run_scored(q, s, r);
}

static void end_segment(pf_segmented *q, int s) {
    pf_segment_run *r = &q->run[s - q->first];
    pf_score_release(&r->score);
    pf_tensor_release(&r->score.target);
    pf_tensor_release(&r->pass.mask);
    pf_tensor_release(&r->pass.documents);
    pf_tensor_release(&r->share);
    pf_tape_close(&r->tape);
    pf_state_close(&r->nodes);
    for (int i = 0; i < q->places; i++)
        for (int k = 0; k < PF_KEPT; k++)
            pf_tensor_release(&q->kept[(s - q->first) * q->places + i][k]);
}

static int walk_segment(pf_segmented *q, int s) {
    pf_segment_run *r = &q->run[s - q->first];
    q->segment = s; /* of second runs */
    pf_finite_segment(q->e, s);
    if (pf_in_graph(q->e, r->score.loss))
        PF_TRY(pf_tape_backward(r->tape, r->score.loss, r->share));
    end_segment(q, s);
    q->passed = s == q->first;
    return q->how->leaf ? q->how->leaf(q->how->context, q->e, s) : PF_OK;
}

static int run_all(pf_segmented *q) {
    for (int s = q->first; s < q->last; s++) PF_TRY(run_segment(q, s));
    for (int s = q->last - 1; s >= q->first; s--) PF_TRY(walk_segment(q, s));
    return PF_OK;
}

/* ---- the step ---- */

/* A sum that broke off is no gradient. */
static void forget(const pf_module *m) {
    pf_tensor *t = NULL;
    for (int i = pf_module_tensor_count(m) - 1; i >= 0; i--)
        if (pf_module_tensor_at(m, i, NULL, &t, NULL) >= 0) pf_tensor_clear_grad(t);
}

static size_t place_bytes(const pf_segmented *q) {
    return (size_t)q->places * sizeof(pf_segment_place);
}
static size_t kept_bytes(const pf_segmented *q) {
    return (size_t)((q->last - q->first) * q->places) * sizeof *q->kept;
}
static size_t run_bytes(const pf_segmented *q) {
    return (size_t)(q->last - q->first) * sizeof *q->run;
}

static int64_t count_modules(const pf_module *m) {
    int64_t n = 1;
    for (int i = 0; i < m->n_child; i++) n += count_modules(m->child[i].module);
    return n;
}

/* What can fail on one rank alone, before any of them begins. */
static int open_sequence(pf_segmented *q, pf_tensor *target) {
    pf_tensor *documents = q->pass.documents, *mask = q->pass.mask;
    q->batch = q->x->shape[0], q->length = q->x->shape[1];
    q->pass.documents = q->pass.mask = NULL;
    q->places = (int)count_modules(q->m);
    q->place = pf_heap_zalloc(q->e->heap, place_bytes(q));
    q->kept = pf_heap_zalloc(q->e->heap, kept_bytes(q));
    q->run = pf_heap_zalloc(q->e->heap, run_bytes(q));
    if (!q->place || !q->kept || !q->run) return PF_ENOMEM;
    PF_TRY(pf_tensor_compact(&q->target, q->e, target));
    if (documents) PF_TRY(pf_tensor_compact(&q->pass.documents, q->e, documents));
    if (mask) PF_TRY(pf_tensor_compact(&q->pass.mask, q->e, mask));
    q->counted =
        q->pass.counted ? (int64_t)q->pass.counted : pf_max(targets_in(q, 0, q->length), 1);
    return PF_OK;
}

static void close_sequence(pf_segmented *q) {
    pf_heap *heap = q->e->heap;
    for (int s = q->last - 1; s >= q->first && q->run && q->kept; s--) end_segment(q, s);
    for (int i = 0; q->place && i < q->places; i++) {
        for (int way = 0; way < 2; way++) {
            pf_segment_place *p = &q->place[i];
            pf_scan_close(&p->scan[way]);
            if (p->box[way]) pf_heap_free(heap, p->box[way], p->bytes[way]);
        }
    }
    pf_heap_free(heap, q->place, place_bytes(q));
    pf_heap_free(heap, q->kept, kept_bytes(q));
    pf_heap_free(heap, q->run, run_bytes(q));
    pf_tensor_release(&q->target);
    pf_tensor_release(&q->pass.documents);
    pf_tensor_release(&q->pass.mask);
}

/* *loss: that of all segments, added in their order. */
static int add_losses(pf_segmented *q, int status, const double *own, double *loss) {
    pf_engine *e = q->e;
    int ranks = pf_comm_ranks(e), first, last;
    size_t bytes = (size_t)q->n * sizeof(double), list = (size_t)ranks * sizeof(size_t);
    double *all = pf_heap_alloc(e->heap, bytes);
    size_t *each = pf_heap_alloc(e->heap, list);
    if (status >= 0 && (!all || !each)) status = PF_ENOMEM;
    for (int r = 0; r < ranks && each; r++) {
        pf_lanes_of(q->n, ranks, r, &first, &last);
        each[r] = (size_t)(last - first) * sizeof(double);
    }
    if (status < 0 || !e->comm) status = pf_comm_settle(e, status);
    if (status >= 0) status = pf_comm_collect_all(e, status, own, each, all);
    PF_HOLDS(all || status < 0);
    for (int s = 0; s < q->n && status >= 0; s++) *loss += all[s];
    if (all) pf_heap_free(e->heap, all, bytes);
    if (each) pf_heap_free(e->heap, each, list);
    return status;
}

static int run_sequence(pf_segmented *q, pf_tensor *target, double *loss) {
    size_t bytes = (size_t)pf_max(q->last - q->first, 1) * sizeof(double);
    double *own = pf_heap_zalloc(q->e->heap, bytes);
    int status = own ? open_sequence(q, target) : PF_ENOMEM;
    status = pf_comm_agree(q->e, status);
    if (status >= 0) {
        PF_HOLDS(own);
        status = run_all(q);
        if (status < 0 && !q->together && !q->passed) pf_comm_pass_failure(q->e, status);
        for (int s = q->first; s < q->last; s++) own[s - q->first] = q->run[s - q->first].loss;
        status = add_losses(q, status, own, loss);
        if (status < 0 && pf_comm_is_told(q->e)) pf_comm_pass_failure(q->e, status);
        if (status < 0) forget(q->m);
    }
    close_sequence(q);
    if (own) pf_heap_free(q->e->heap, own, bytes);
    return status;
}

/* ---- what is asked for ---- */

static int check_count(const pf_segmented *q, int ranks) {
    int64_t length = q->x->shape[1], most = pf_max(1, length / PF_SLICE_LEAST);
    if (q->n < ranks || q->n >= 1 << 16) {
        return pf_fail(PF_EINVAL,
                       "%d segments for %d ranks; there must be at least one for each, and fewer "
                       "than 65536",
                       q->n, ranks);
    }
    if (q->n == 1 || q->n <= most) return PF_OK;
    return pf_fail(PF_EINVAL,
                   "%d segments of %lld positions; a segment has at least %d, so ask for 1 to "
                   "%lld segments",
                   q->n, (long long)length, PF_SLICE_LEAST, (long long)most);
}

static int check_pass(const pf_segmented *q) {
    if (q->pass.prefix)
        return pf_fail(PF_EINVAL, "a prefix is seen from everywhere, and so has to be in the same "
                                  "segment; leave one out");
    if (q->pass.carry)
        return pf_fail(PF_EINVAL, "rows that go on from rows before them (carry) are whole ones");
    if (q->pass.n_inputs > 0)
        return pf_fail(PF_EINVAL, "what is read beside x ('%s') has no segments; leave it out",
                       q->pass.inputs[0].name);
    if (q->pass.counted > INT64_MAX)
        return pf_fail(PF_EINVAL, "counted is %llu, more targets than there can be",
                       (unsigned long long)q->pass.counted);
    return PF_OK;
}

static int check_rows(const pf_segmented *q, pf_tensor *target) {
    PF_TRY(pf_pass_check(&q->pass, q->m, q->x));
    PF_TRY(pf_score_check(target, q->x, "segments"));
    PF_TRY(check_pass(q));
    if (!q->x->requires_grad && !pf_in_graph(q->e, q->x)) return PF_OK;
    return pf_fail(PF_EINVAL,
                   "x %s wants a gradient, which only parameters get here; detach it, or use a "
                   "tape",
                   pf_shape_of(q->x));
}

/* Documents of attention that sees the future would go on to both sides; one that looks at keys of
 * other segments doesn't know where a document began. */
static int check_model(const pf_segmented *q) {
    PF_TRY(check_all(q->m, q->chain || !q->together));
    if (!q->pass.documents || q->n == 1 || !pf_module_whole(q->m)) return PF_OK;
    return pf_fail(PF_EINVAL,
                   "packed documents go through segments in causal models with linear attention; "
                   "this one sees the future, or keys of other segments themselves: take attention "
                   "= \"favor\", or give each document a row");
}

static int check(pf_segmented *q, pf_tensor *target) {
    int ranks = pf_comm_ranks(q->e);
    PF_TRY(check_rows(q, target));
    PF_TRY(check_count(q, ranks));
    pf_lanes_of(q->n, ranks, pf_comm_rank(q->e), &q->first, &q->last);
    q->together = !q->chain && q->n == ranks;
    return check_model(q);
}

int pf_module_backward_segments(double *loss, pf_engine *engine, pf_module *module, pf_tensor *x,
                                pf_tensor *target, const pf_pass *pass, const pf_segmenting *how) {
    PF_OPEN(engine);
    PF_NEED(loss, module, x, target);
    pf_segmenting own = {.segments = 1};
    pf_segmented q = {.e = engine, .m = module, .x = x, .how = &own};
    *loss = 0;
    pf_comm *all = pf_comm_enter_row(engine);
    int status = how ? how->status : PF_OK;
    if (how && status >= 0) status = pf_options_take(&own, sizeof own, how, "segments");
    q.n = own.segments, q.chain = own.chain;
    if (status >= 0) status = pf_pass_take(&q.pass, pass);
    if (status >= 0) status = check(&q, target);
    status = pf_comm_agree(engine, status);
    if (status >= 0) status = run_sequence(&q, target, loss);
    pf_comm_leave_row(engine, all);
    if (status < 0) *loss = 0;
    return status < 0 && !(how && how->status < 0) ? pf_fail_in(status, "segments") : status;
}
