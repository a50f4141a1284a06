/*
 * overlap.c - see overlap.h. What must hold: groups follow from the model, the number of ranks and
 * nothing else, and leave in their order, so that all ranks count the same ones, whenever each of
 * them sends; and a group leaves while backward runs only where each of its entries has got a
 * gradient, so that it is one that all ranks will send.
 */
#include "overlap.h"

#include <string.h>

#include "shard.h"

/* ---- making ---- */

static size_t lists_of(const pf_optimizer *o) {
    const size_t n = (size_t)o->n;
    return n * (PF_LANE_NODES * sizeof(float *) + sizeof(float *) + 2 * sizeof(int));
}

/* Sets the group of each entry, and how many there are: at most one an entry. */
static void set_groups(const pf_optimizer *o, struct pf_overlap *v, int ranks) {
    const int64_t least = o->lanes->group ? o->lanes->group : PF_OVERLAP_GROUP;
    const int64_t most = pf_max(least, (int64_t)ranks * PF_DEAL_PIECE * !o->lanes->group);
    int64_t numbers = 0;
    for (int i = o->n - 1; i >= 0; i--) {
        v->group[i] = o->entry[i].dealt ? v->n_groups : -1;
        if (!o->entry[i].dealt) continue;
        numbers += pf_tensor_numel(o->entry[i].param);
        if (numbers >= most) numbers = 0, v->n_groups++;
    }
    v->n_groups += numbers > 0;
}

static int fill(const pf_optimizer *o, struct pf_overlap *v, pf_engine *e) {
    v->own = pf_heap_zalloc(e->heap, lists_of(o));
    if (!v->own) return PF_ENOMEM;
    v->sum = (float **)(v->own + (size_t)o->n * PF_LANE_NODES);
    v->group = (int *)(v->sum + o->n);
    v->missing = v->group + o->n;
    set_groups(o, v, o->shard->deal->ranks);
    v->in = pf_heap_alloc(e->heap, (size_t)v->n_groups * (size_t)o->n);
    if (!v->in) return PF_ENOMEM;
    return pf_scatter_open(&v->scatter, e, &o->lanes->leaves, o->shard->deal, v->n_groups);
}

void pf_overlap_close(pf_optimizer *o) {
    struct pf_overlap *v = o->lanes ? o->lanes->overlap : NULL;
    if (!v) return;
    pf_engine *e = v->engine;
    pf_leaves_unwatch(e, &v->watch);
    pf_scatter_close(&v->scatter);
    if (v->in) pf_heap_free(e->heap, v->in, (size_t)v->n_groups * (size_t)o->n);
    if (v->own) pf_heap_free(e->heap, v->own, lists_of(o));
    pf_heap_free(e->heap, v, sizeof *v);
    o->lanes->overlap = NULL;
    pf_engine_release(&e);
}

static int make(pf_optimizer *o, pf_engine *e) {
    struct pf_overlap *v = pf_heap_zalloc(e->heap, sizeof *v);
    if (!v) return PF_ENOMEM;
    v->engine = pf_engine_retain(e);
    o->lanes->overlap = v;
    int status = fill(o, v, e);
    if (status < 0) pf_overlap_close(o);
    return status;
}

/* ---- a step ---- */

bool pf_overlap_holds(const pf_optimizer *o) {
    const struct pf_overlap *v = o->lanes ? o->lanes->overlap : NULL;
    return v && pf_scatter_holds(v->scatter);
}

bool pf_overlap_waits(const pf_optimizer *o) {
    const struct pf_overlap *v = o->lanes ? o->lanes->overlap : NULL;
    return v && v->begun && pf_scatter_waits(v->scatter);
}

static int begin(const pf_optimizer *o, struct pf_overlap *v) {
    memset(v->in, 0, (size_t)v->n_groups * (size_t)o->n);
    memset(v->missing, 0, (size_t)o->n * sizeof *v->missing);
    for (int i = 0; i < o->n; i++) {
        if (v->group[i] < 0) continue;
        v->missing[v->group[i]]++;
        v->in[v->group[i] * o->n + i] = 1;
    }
    v->given = 0;
    PF_TRY(pf_scatter_begin(v->scatter, v->own, v->sum));
    v->begun = true;
    return PF_OK;
}

int pf_overlap_ready(pf_optimizer *o, pf_engine *e) {
    if (!o->shard) return PF_OK;
    if (!o->lanes->overlap) PF_TRY(make(o, e));
    struct pf_overlap *v = o->lanes->overlap;
    if (!v->begun) return begin(o, v);
    if (pf_scatter_goes_on(v->scatter)) return PF_OK;
    return pf_fail(PF_ESTATE,
                   "optimizer: ranks have agreed on a failure since a part of the step's "
                   "sum has left; the step begins anew");
}

/* Where the nodes that this rank ends up with have entry i: of the leaf that is open those that it
 * goes into are left out. */
static void set_places(const pf_optimizer *o, struct pf_overlap *v, int i) {
    const struct pf_lanes *l = o->lanes;
    int n = 0;
    for (int k = 0; k < l->n; k++)
        if (!pf_lanes_is_gone(l, k)) v->own[n++ * o->n + i] = pf_f32(l->node[k].part[i].dense);
    v->sum[i] = (float *)(uintptr_t)v->own[i];
}

/* The next group leaves, with those of its entries that are in it. */
static int give_next(const pf_optimizer *o, struct pf_overlap *v) {
    const char *in = v->in + (size_t)v->given++ * (size_t)o->n;
    for (int i = 0; i < o->n; i++)
        if (in[i]) set_places(o, v, i);
    return pf_scatter_give(v->scatter, in);
}

int pf_overlap_end(const pf_optimizer *o, const char *there) {
    struct pf_overlap *v = o->lanes->overlap;
    if (!v) return PF_OK;
    while (v->given < v->n_groups) {
        char *in = v->in + (size_t)v->given * (size_t)o->n;
        for (int i = 0; i < o->n; i++) in[i] &= there[i];
        PF_TRY(give_next(o, v));
    }
    v->begun = false;
    return pf_scatter_end(v->scatter);
}

void pf_overlap_drop(const pf_optimizer *o, int status) {
    struct pf_overlap *v = o->lanes->overlap;
    if (!v) return;
    pf_overlap_rest(o);
    if (v->begun) pf_scatter_drop(v->scatter, status);
    v->begun = false;
}

void pf_overlap_leave(const pf_optimizer *o, void (*let_go)(void *left), void *left) {
    struct pf_overlap *v = o->lanes->overlap;
    pf_leaves_unwatch(v->engine, &v->watch);
    pf_scatter_leave(v->scatter, let_go, left);
    v->begun = false;
}

/* ---- while backward runs ---- */

static int entry_of(const pf_optimizer *o, const pf_tensor *leaf) {
    for (int i = 0; i < o->n; i++)
        if (o->entry[i].param == leaf) return i;
    return -1;
}

/* Tables, whose touched rows go another way, stay for the end; so does what got no gradient. */
static int take_whole(void *context, pf_tensor *leaf) {
    const pf_optimizer *o = context;
    struct pf_overlap *v = o->lanes->overlap;
    const int i = entry_of(o, leaf);
    if (o->lanes->leaf < 0)
        return pf_fail(PF_ESTATE, "optimizer: the step was given up while its last backward ran");
    if (i < 0 || v->group[i] < 0 || pf_lanes_has(o, i) || !leaf->grad || leaf->grad_stale)
        return PF_OK;
    PF_TRY(pf_lanes_fold_entry(o, v->engine, i));
    PF_TRY(pf_lanes_fill(o, i));
    v->missing[v->group[i]]--;
    while (v->given < v->n_groups && v->missing[v->given] == 0) PF_TRY(give_next(o, v));
    return PF_OK;
}

static int look(void *context) {
    const pf_optimizer *o = context;
    return pf_scatter_poll(o->lanes->overlap->scatter);
}

static void walked(void *context, int status) {
    const pf_optimizer *o = context;
    if (status < 0) o->lanes->failed = true;
}

bool pf_overlap_walks(const pf_optimizer *o) {
    const struct pf_overlap *v = o->lanes ? o->lanes->overlap : NULL;
    return v && pf_leaves_walks(v->engine, &v->watch);
}

void pf_overlap_watch(pf_optimizer *o) {
    struct pf_overlap *v = o->lanes->overlap;
    v->watch = (pf_leaf_watch){.whole = take_whole, .between = look, .end = walked, .context = o};
    pf_leaves_watch(v->engine, &v->watch);
}

void pf_overlap_rest(const pf_optimizer *o) {
    const struct pf_overlap *v = o->lanes->overlap;
    if (v && !pf_overlap_walks(o)) pf_leaves_unwatch(v->engine, &v->watch);
}
