/*
 * lanes.c - the gradients of a step's lanes, folded one after the other and joined over all ranks.
 *
 * What must hold: every number of the sum is added in the order of tree.h, on whatever rank the
 * additions are made. So what a lane has nothing of counts as zeros there: +0 is added to what
 * meets it, which makes a -0 a +0, here as anywhere else. Of an entry that no lane of any rank has
 * reached there is no gradient, and it stays as it is.
 */
#include "lanes.h"

#include <string.h>

#include "overlap.h"
#include "shard.h"
#include "terms.h"

/* ---- beginning anew ---- */

static void forget(pf_optimizer *o, int status) {
    struct pf_lanes *l = o->lanes;
    pf_overlap_drop(o, status);
    const bool held = pf_overlap_holds(o);
    while (l->n > 0) pf_lanes_let_go(o, &l->node[--l->n], held);
    l->next = l->lane[0], l->end = l->segment[1];
    l->leaf = -1;
    l->failed = false;
}

/* What is on its way to other ranks stays until they know that the step has failed. */
void pf_lanes_drop(pf_optimizer *o, int status) {
    if (!o->lanes) return;
    pf_overlap_rest(o);
    o->lanes->failed = pf_overlap_waits(o);
    if (!o->lanes->failed) forget(o, status);
}

/* A layer's backward may call whatever a script can. */
int pf_lanes_check(pf_optimizer *o) {
    struct pf_lanes *l = o->lanes;
    if (pf_overlap_walks(o))
        return pf_fail(PF_ESTATE, "optimizer: the step's last backward still runs, and its sum "
                                  "leaves meanwhile: wait for its end");
    if (!l || !l->failed) return PF_OK;
    if (pf_overlap_waits(o))
        return pf_fail(PF_ESTATE,
                       "optimizer: the step has failed on this rank, and a part of it is "
                       "on its way to the others: say so to them first (a vote does)");
    forget(o, PF_ESTATE);
    return PF_OK;
}

/* Lanes that were left, of an optimizer that has nothing else. */
static void let_go(void *left) {
    pf_optimizer *o = left;
    pf_heap *heap = o->heap;
    pf_lanes_close(o);
    pf_heap_free(heap, o, sizeof *o);
    pf_heap_release(heap);
}

/* Other ranks may be taking in what this one gives up, and send what it has begun to wait for: so
 * all of it stays until they know. false: there is no memory for that. */
static bool leave(pf_optimizer *o) {
    pf_optimizer *left = pf_heap_zalloc(o->heap, sizeof *left);
    if (!left) return false;
    left->heap = pf_heap_retain(o->heap);
    left->n = o->n, left->lanes = o->lanes;
    pf_overlap_leave(o, let_go, left);
    o->lanes = NULL;
    return true;
}

void pf_lanes_close(pf_optimizer *o) {
    if (!o->lanes || (pf_overlap_waits(o) && leave(o))) return;
    const bool waits = pf_overlap_waits(o);
    forget(o, waits ? pf_fail(PF_ESTATE, "optimizer: a step was given up halfway") : PF_OK);
    pf_overlap_close(o);
    pf_heap_free(o->heap, o->lanes, sizeof *o->lanes);
    o->lanes = NULL;
}

static void deal(pf_optimizer *o, const pf_engine *e, pf_leaves leaves) {
    struct pf_lanes *l = o->lanes;
    pf_overlap_close(o); /* its nodes are others */
    l->count = pf_leaf_count(&leaves);
    l->leaf = -1;
    l->leaves = leaves;
    pf_leaves_of(&leaves, pf_comm_ranks(e), pf_comm_rank(e), l->lane, l->segment);
    l->next = l->lane[0], l->end = l->segment[1];
}

int pf_optimizer_set_lanes(pf_optimizer *o, pf_engine *engine, int lanes) {
    PF_OPEN(engine);
    PF_NEED(o);
    int ranks = pf_comm_ranks(engine);
    if (lanes < ranks || lanes >= 1 << 16) {
        return pf_fail(PF_EINVAL,
                       "optimizer: %d lanes for %d ranks; there must be at least one for "
                       "each, and fewer than 65536",
                       lanes, ranks);
    }
    if (pf_overlap_walks(o)) return pf_lanes_check(o);
    struct pf_lanes *l = lanes > 1 ? pf_heap_zalloc(o->heap, sizeof *l) : NULL;
    if (lanes > 1 && !l) return PF_ENOMEM;
    pf_lanes_close(o);
    o->lanes = l;
    if (l) deal(o, engine, (pf_leaves){lanes, 1, 1});
    return PF_OK;
}

/* Nodes of a lane that is folded in part, beyond those of the whole one: of suffixes of so many. */
static int room_for(int64_t segments) {
    int room = 0;
    for (int64_t n = 1; n < segments; n *= 2) room += 2;
    return room;
}

/* Of rows in segments the lanes are leaves. */
static int check_leaves(const pf_leaves *l, int count, int ranks) {
    pf_lane_node nodes[PF_LANE_NODES];
    const int groups = ranks / l->row_ranks;
    if (count % l->segments != 0 || l->lanes < groups) {
        return pf_fail(PF_EINVAL,
                       "optimizer: %d lanes are not enough for rows in %d segments, on %d rank%s "
                       "that have %d row%s at a time; there must be as many lanes as segments, for "
                       "each row, or a multiple of that",
                       count, l->segments, ranks, ranks == 1 ? "" : "s", groups,
                       groups == 1 ? "" : "s");
    }
    for (int r = 0; r < ranks; r++) {
        const int n = pf_leaf_nodes(l, ranks, r, nodes);
        if (n < 0 || n + room_for(pf_ceil_div(l->segments, l->row_ranks)) > PF_LANE_NODES)
            return pf_fail(
                PF_EINVAL,
                "optimizer: rank %d of %d has %d lanes in parts of %d segments, more than "
                "%d sums at once; give fewer lanes, or fewer ranks a row",
                r, ranks, l->lanes / groups, l->segments, PF_LANE_NODES);
    }
    return PF_OK;
}

int pf_lanes_shape(pf_optimizer *o, pf_engine *e, int segments) {
    struct pf_lanes *l = o->lanes;
    const int count = l ? l->count : 1, row = segments > 1 ? pf_comm_row_size(e) : 1;
    const pf_leaves leaves = {count / segments, segments, row};
    if (!l) return segments == 1 ? PF_OK : check_leaves(&leaves, count, pf_comm_ranks(e));
    if (l->leaves.segments == segments && l->leaves.row_ranks == row) return PF_OK;
    if (l->n > 0)
        return pf_fail(PF_ESTATE,
                       "optimizer: a step has all its rows in as many segments, but it "
                       "began with rows in %d, and these are in %d",
                       l->leaves.segments, segments);
    PF_TRY(check_leaves(&leaves, count, pf_comm_ranks(e)));
    deal(o, e, leaves);
    return PF_OK;
}

/* ---- folding ---- */

int pf_lanes_fold(pf_optimizer *o, pf_engine *e) {
    PF_TRY(pf_lanes_check(o));
    const bool begun = o->lanes && o->lanes->leaf >= 0;
    if (!begun) PF_TRY(pf_lanes_open_leaf(o));
    int status = pf_lanes_take(o, e);
    if (status < 0 && !begun) {
        pf_lanes_cut_leaf(o);
        return status;
    }
    if (status >= 0) status = pf_lanes_add(o, e);
    if (status < 0) pf_lanes_drop(o, status);
    pf_overlap_rest(o);
    return status;
}

int pf_optimizer_fold(pf_optimizer *o, pf_engine *e) {
    PF_OPEN(e);
    PF_NEED(o);
    PF_TRY(pf_lanes_shape(o, e, 1));
    return pf_lanes_fold(o, e);
}

static int check_last(const pf_optimizer *o) {
    const struct pf_lanes *l = o->lanes;
    if (!l) return pf_fail(PF_ESTATE, "overlap: the optimizer's steps have no lanes");
    if (l->leaves.segments > 1)
        return pf_fail(PF_ESTATE, "overlap: rows in segments are folded by their backward");
    if (l->next == l->lane[1] - 1) return PF_OK;
    return pf_fail(PF_ESTATE,
                   "overlap: lane %d is next, and what leaves is a rank's last one, here lane %d",
                   l->next + 1, l->lane[1]);
}

int pf_optimizer_overlap(pf_optimizer *o, pf_engine *e) {
    PF_OPEN(e);
    PF_NEED(o);
    PF_TRY(pf_shard_check(o, e));
    PF_TRY(pf_lanes_check(o));
    if (o->lanes || o->shard) PF_TRY(check_last(o)); /* of one rank, too: a script is for any */
    if (!o->shard) return PF_OK;
    PF_TRY(pf_overlap_ready(o, e));
    if (o->lanes->leaf < 0) PF_TRY(pf_lanes_open_leaf(o));
    pf_overlap_watch(o);
    return PF_OK;
}

/* ---- joining: which entries there are ---- */

/* there (n) <- which entries any lane of any rank has reached. list: room for what each rank says,
 * this one's part first: its terms, and its entries. */
static int agree_on_entries(const pf_optimizer *o, pf_engine *e, int status, const pf_terms *terms,
                            char *list, char **there) {
    const struct pf_lanes *l = o->lanes;
    const size_t bytes = sizeof *terms + (size_t)o->n;
    *there = list ? list + sizeof *terms : NULL;
    if (list) memcpy(list, terms, sizeof *terms);
    for (int i = 0; i < o->n && status >= 0; i++) {
        (*there)[i] = 0;
        for (int k = 0; k < l->n; k++)
            (*there)[i] |= l->node[k].part[i].dense || l->node[k].part[i].rows.row;
    }
    PF_TRY(pf_comm_collect(e, status, list, bytes, list ? list + bytes : NULL));
    PF_HOLDS(list);
    PF_TRY(pf_terms_compare(e, list + bytes, bytes));
    for (int r = 1; r <= pf_comm_ranks(e); r++)
        for (int i = 0; i < o->n; i++) (*there)[i] |= (*there)[(size_t)r * bytes + (size_t)i];
    return PF_OK;
}

/* ---- joining: whole gradients ---- */

static int add_zeros(const pf_optimizer *o, const char *there, int64_t *most) {
    for (int i = 0; i < o->n; i++) {
        if (!there[i] || o->entry[i].touched) continue;
        if (!o->entry[i].dealt) *most = pf_max(*most, pf_tensor_numel(o->entry[i].param));
        PF_TRY(pf_lanes_fill(o, i));
    }
    return PF_OK;
}

/* Whole, on every rank. */
static int join_common(const pf_optimizer *o, pf_reduction *r, const char *there) {
    const struct pf_lanes *l = o->lanes;
    for (int i = 0; i < o->n; i++) {
        const float *own[PF_LANE_NODES];
        if (!there[i] || o->entry[i].touched || o->entry[i].dealt) continue;
        for (int k = 0; k < l->n; k++) own[k] = pf_f32(l->node[k].part[i].dense);
        PF_TRY(pf_reduction_run(r, own, pf_tensor_numel(o->entry[i].param),
                                pf_f32(l->node[0].part[i].dense)));
    }
    return PF_OK;
}

/* The sum, or this rank's part of it, is the gradient from here on. */
static void hand_over(const pf_optimizer *o, const char *there) {
    for (int i = 0; i < o->n; i++) {
        pf_tensor *p = o->entry[i].param, **sum = &o->lanes->node[0].part[i].dense;
        if (!there[i] || o->entry[i].touched) continue;
        pf_tensor_release(&p->grad);
        pf_tensor_release(&p->grad_rows);
        p->grad = *sum;
        p->grad_stale = false;
        *sum = NULL;
    }
}

static int join_all(pf_optimizer *o, pf_engine *e, int status, const char *there) {
    pf_reduction *r;
    int64_t most = 1;
    if (status >= 0) status = add_zeros(o, there, &most);
    if (status >= 0) status = pf_overlap_ready(o, e);
    PF_TRY(pf_reduction_open(&r, e, status, o->lanes->count, most));
    status = join_common(o, r, there);
    if (status >= 0) status = pf_overlap_end(o, there);
    if (status >= 0) hand_over(o, there);
    pf_reduction_close(&r);
    return status;
}

/* ---- joining ---- */

/* With several ranks and no lanes each rank's rows are one. */
static int check_folded(pf_optimizer *o, pf_engine *e, bool *made) {
    *made = !o->lanes;
    if (*made) {
        PF_TRY(pf_optimizer_set_lanes(o, e, pf_comm_ranks(e)));
        PF_TRY(pf_optimizer_fold(o, e));
    }
    PF_TRY(pf_lanes_check(o));
    const struct pf_lanes *l = o->lanes;
    if (l->next != l->lane[1])
        return pf_fail(PF_ESTATE, "optimizer: lane %d of this rank's %d to %d is not folded yet",
                       l->next + 1, l->lane[0] + 1, l->lane[1]);
    for (int i = 0; i < o->n; i++)
        if (pf_has_gradient(&o->entry[i]))
            return pf_fail(PF_ESTATE,
                           "optimizer: '%s' has a gradient that is of no lane: it gathered behind "
                           "the last fold",
                           o->entry[i].name);
    return PF_OK;
}

/* Of a step that fails before anything was added: the one lane that fold took goes back. */
static void give_back(const pf_optimizer *o) {
    const struct pf_lanes *l = o->lanes;
    for (int i = 0; l && l->n == 1 && i < o->n; i++) {
        pf_tensor *p = o->entry[i].param;
        pf_lane_part *part = &l->node[0].part[i];
        if (!part->dense && !part->rows.row) continue;
        if (part->dense && !p->grad) {
            p->grad = part->dense;
            part->dense = NULL;
        }
        p->grad_stale = false;
    }
    if (l && l->n == 1) pf_lane_notes_give_back(o, &o->lanes->node[0]);
}

/* After a failure: without lanes of its own a step that has added nothing can be tried again;
 * else no rank has a gradient, lest some of them be added twice. */
static void undo_join(pf_optimizer *o, bool made, bool begun) {
    if (made && !begun) {
        give_back(o);
        return;
    }
    for (int i = 0; i < o->n; i++) pf_tensor_clear_grad(o->entry[i].param);
    pf_notes_clear(o->module);
}

int pf_lanes_join(pf_optimizer *o, pf_engine *e, int status, double lr, double clip) {
    bool made = false;
    char *there;
    if (!o->lanes && pf_comm_ranks(e) == 1) return status;
    if (status >= 0) status = check_folded(o, e, &made);
    const pf_terms terms = pf_terms_of(o, e, lr, clip);
    size_t bytes = (sizeof terms + (size_t)o->n) * (size_t)(pf_comm_ranks(e) + 1);
    char *list = pf_heap_zalloc(e->heap, bytes);
    if (status >= 0 && !list) status = PF_ENOMEM;
    status = agree_on_entries(o, e, status, &terms, list, &there);
    const bool begun = status >= 0;
    PF_HOLDS(there || !begun);
    if (begun) status = join_all(o, e, status, there);
    if (status >= 0) status = pf_lanes_join_tables(o, e, status, there);
    if (status >= 0) status = pf_lanes_join_notes(o, e);
    if (status < 0) undo_join(o, made || !o->lanes, begun);
    pf_heap_free(e->heap, list, bytes);
    pf_lanes_drop(o, status);
    if (made) pf_lanes_close(o);
    return status;
}
