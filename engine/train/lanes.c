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

#include "shard.h"

/* ---- what a node holds ---- */

static size_t parts_of(const pf_optimizer *o) { return (size_t)o->n * sizeof(pf_lane_part); }

static void let_go(const pf_optimizer *o, pf_lane_sum *sum) {
    for (int i = 0; i < o->n && sum->part; i++) {
        pf_tensor_release(&sum->part[i].dense);
        pf_lane_rows_close(&sum->part[i].rows);
    }
    pf_heap_free(o->heap, sum->part, parts_of(o));
    pf_tensor_release(&sum->notes);
    sum->part = NULL;
}

void pf_lanes_drop(pf_optimizer *o) {
    struct pf_lanes *l = o->lanes;
    if (!l) return;
    while (l->n > 0) let_go(o, &l->node[--l->n]);
    l->next = l->lane[0], l->end = l->segment[1];
}

void pf_lanes_close(pf_optimizer *o) {
    pf_lanes_drop(o);
    pf_heap_free(o->heap, o->lanes, sizeof *o->lanes);
    o->lanes = NULL;
}

static void deal(struct pf_lanes *l, const pf_engine *e, pf_leaves leaves) {
    l->count = pf_leaf_count(&leaves);
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
    struct pf_lanes *l = lanes > 1 ? pf_heap_zalloc(o->heap, sizeof *l) : NULL;
    if (lanes > 1 && !l) return PF_ENOMEM;
    pf_lanes_close(o);
    o->lanes = l;
    if (l) deal(l, engine, (pf_leaves){lanes, 1, 1});
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
    deal(l, e, leaves);
    return PF_OK;
}

/* ---- folding ---- */

static bool has_gradient(const pf_entry *p) { return p->param->grad && !p->param->grad_stale; }

static int take_rows(pf_lane_part *part, pf_engine *e, const pf_tensor *param) {
    pf_tensor *grad;
    pf_touched t = {0};
    PF_TRY(pf_tensor_compact(&grad, e, param->grad));
    int status = pf_touched_find(&t, e, param, grad);
    if (status >= 0) status = pf_lane_rows_take(&part->rows, e, grad, pf_i32(t.rows), t.n);
    pf_tensor_release(&t.rows);
    pf_tensor_release(&grad);
    return status;
}

/* A gradient that somebody else sees, too, is copied; the others are moved, once nothing fails. */
static int take_dense(pf_lane_part *part, const pf_optimizer *o, const pf_tensor *param) {
    if (pf_tensor_own(param->grad)) return PF_OK;
    PF_TRY(pf_tensor_make_lasting(&part->dense, o->heap, PF_F32, param->rank, param->shape));
    return pf_tensor_copy(part->dense, param->grad);
}

/* Notes last: they are moved at once. */
static int take(const pf_optimizer *o, pf_engine *e, pf_lane_sum *sum) {
    for (int i = 0; i < o->n; i++) {
        const pf_entry *p = &o->entry[i];
        if (!has_gradient(p)) continue;
        PF_TRY(p->touched ? take_rows(&sum->part[i], e, p->param)
                          : take_dense(&sum->part[i], o, p->param));
    }
    return pf_lane_notes_take(sum, o);
}

static void move(const pf_optimizer *o, pf_lane_sum *sum) {
    for (int i = 0; i < o->n; i++) {
        const pf_entry *p = &o->entry[i];
        if (!has_gradient(p)) continue;
        if (p->touched || sum->part[i].dense) {
            pf_tensor_clear_grad(p->param);
        } else {
            sum->part[i].dense = p->param->grad;
            p->param->grad = NULL;
            pf_tensor_release(&p->param->grad_rows);
        }
    }
}

static int add_dense(pf_lane_part *left, pf_lane_part *right, pf_engine *e) {
    if (!left->dense) {
        left->dense = right->dense;
        right->dense = NULL;
    }
    if (!left->dense) return PF_OK;
    PF_TRY(pf_lane_add(e, pf_f32(left->dense), right->dense ? pf_f32(right->dense) : NULL,
                       pf_tensor_numel(left->dense)));
    pf_tensor_release(&right->dense);
    return PF_OK;
}

static int add_sums(const pf_optimizer *o, pf_engine *e, pf_lane_sum *left, pf_lane_sum *right) {
    for (int i = 0; i < o->n; i++) {
        pf_lane_part *a = &left->part[i], *b = &right->part[i];
        PF_TRY(o->entry[i].touched
                   ? pf_lane_rows_add(&a->rows, &b->rows, e, pf_lane_width(&o->entry[i]))
                   : add_dense(a, b, e));
    }
    PF_TRY(pf_lane_notes_add(left, right, e));
    left->lanes.count += right->lanes.count;
    let_go(o, right);
    return PF_OK;
}

/* Nodes `at` and at + 1 are the halves of one. */
static bool are_halves(const struct pf_lanes *l, int at) {
    if (at < 0 || at + 1 >= l->n) return false;
    const pf_lane_node *left = &l->node[at].lanes, *right = &l->node[at + 1].lanes;
    return left->count == right->count && left->first + left->count == right->first &&
           left->first % (2 * left->count) == 0;
}

/* Nodes lie in the order of their lanes, wherever the last one came in. */
static int place_of(struct pf_lanes *l, const pf_lane_sum *sum) {
    int at = 0;
    while (at < l->n && l->node[at].lanes.first < sum->lanes.first) at++;
    memmove(&l->node[at + 1], &l->node[at], (size_t)(l->n - at) * sizeof *l->node);
    l->node[at] = *sum;
    l->n++;
    return at;
}

/* Joins what has become whole around node `at`. */
static int merge(const pf_optimizer *o, pf_engine *e, int at) {
    struct pf_lanes *l = o->lanes;
    for (;;) {
        if (are_halves(l, at - 1)) at--;
        if (!are_halves(l, at)) return PF_OK;
        PF_TRY(add_sums(o, e, &l->node[at], &l->node[at + 1]));
        l->n--;
        memmove(&l->node[at + 1], &l->node[at + 2], (size_t)(l->n - at - 1) * sizeof *l->node);
    }
}

int pf_lanes_fold(pf_optimizer *o, pf_engine *e) {
    struct pf_lanes *l = o->lanes;
    if (!l || l->next >= l->lane[1]) {
        return pf_fail(PF_ESTATE, "optimizer: %s",
                       l ? "all lanes of the step are folded" : "its steps have no lanes to fold");
    }
    if (l->n == PF_LANE_NODES)
        return pf_fail(PF_EINVAL, "optimizer: more than %d sums of lanes at once", PF_LANE_NODES);
    const int leaf = l->next * l->leaves.segments + l->end - 1;
    pf_lane_sum sum = {{leaf, 1}, pf_heap_zalloc(o->heap, parts_of(o)), NULL};
    int status = sum.part ? take(o, e, &sum) : PF_ENOMEM;
    if (status < 0) {
        let_go(o, &sum);
        return status;
    }
    move(o, &sum);
    if (--l->end == l->segment[0]) l->next++, l->end = l->segment[1];
    e->shield++; /* a step that is half folded is none */
    status = merge(o, e, place_of(l, &sum));
    e->shield--;
    if (status < 0) pf_lanes_drop(o);
    return status;
}

int pf_optimizer_fold(pf_optimizer *o, pf_engine *e) {
    PF_OPEN(e);
    PF_NEED(o);
    PF_TRY(pf_lanes_shape(o, e, 1));
    return pf_lanes_fold(o, e);
}

/* ---- joining: which entries there are ---- */

/* there (n) <- which entries any lane of any rank has reached. */
static int agree_on_entries(const pf_optimizer *o, pf_engine *e, int status, char *there,
                            char *all) {
    const struct pf_lanes *l = o->lanes;
    for (int i = 0; i < o->n && status >= 0; i++) {
        there[i] = 0;
        for (int k = 0; k < l->n; k++)
            there[i] |= l->node[k].part[i].dense || l->node[k].part[i].rows.row;
    }
    PF_TRY(pf_comm_collect(e, status, there, (size_t)o->n, all));
    for (int i = 0; i < o->n * pf_comm_ranks(e); i++) there[i % o->n] |= all[i];
    return PF_OK;
}

/* ---- joining: whole gradients ---- */

static int add_zeros(const pf_optimizer *o, const char *there, int64_t *most) {
    const struct pf_lanes *l = o->lanes;
    for (int i = 0; i < o->n; i++) {
        const pf_tensor *p = o->entry[i].param;
        if (!there[i] || o->entry[i].touched) continue;
        if (!o->entry[i].dealt) *most = pf_max(*most, pf_tensor_numel(p));
        for (int k = 0; k < l->n; k++) {
            pf_tensor **dense = &l->node[k].part[i].dense;
            if (*dense) continue;
            PF_TRY(pf_tensor_make_lasting(dense, o->heap, PF_F32, p->rank, p->shape));
            PF_TRY(pf_tensor_fill(*dense, 0));
        }
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

/* What is dealt to ranks, each number at its owner's. list: a pointer for each node's part of each
 * entry. */
static int join_dealt(const pf_optimizer *o, pf_reduction *r, const char *there,
                      const float **list) {
    const struct pf_lanes *l = o->lanes;
    if (!o->shard) return PF_OK;
    for (int i = 0; i < o->n; i++) {
        for (int k = 0; k < l->n && there[i] && o->entry[i].dealt; k++)
            list[k * o->n + i] = pf_f32(l->node[k].part[i].dense);
        o->shard->array[i] = (float *)(uintptr_t)list[i];
    }
    return pf_reduction_scatter(r, o->shard->deal, there, list, o->shard->array);
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

static int join_all(const pf_optimizer *o, pf_engine *e, int status, const char *there) {
    pf_reduction *r;
    int64_t most = 1;
    size_t bytes = (size_t)o->n * PF_LANE_NODES * sizeof(float *);
    const float **list = o->shard ? pf_heap_zalloc(e->heap, bytes) : NULL;
    if (status >= 0 && o->shard && !list) status = PF_ENOMEM;
    if (status >= 0) status = add_zeros(o, there, &most);
    status = pf_reduction_open_dealt(&r, e, status, &o->lanes->leaves, most,
                                     o->shard ? o->shard->deal : NULL);
    if (status >= 0) {
        status = join_common(o, r, there);
        if (status >= 0) status = join_dealt(o, r, there, list);
        if (status >= 0) hand_over(o, there);
        pf_reduction_close(&r);
    }
    if (list) pf_heap_free(e->heap, list, bytes);
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
    const struct pf_lanes *l = o->lanes;
    if (l->next != l->lane[1])
        return pf_fail(PF_ESTATE, "optimizer: lane %d of %d to %d is not folded yet", l->next,
                       l->lane[0], l->lane[1] - 1);
    for (int i = 0; i < o->n; i++)
        if (has_gradient(&o->entry[i]))
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

int pf_lanes_join(pf_optimizer *o, pf_engine *e, int status) {
    bool made = false;
    if (!o->lanes && pf_comm_ranks(e) == 1) return status;
    if (status >= 0) status = check_folded(o, e, &made);
    size_t bytes = (size_t)o->n * (size_t)(pf_comm_ranks(e) + 1);
    char *there = pf_heap_zalloc(e->heap, bytes);
    if (status >= 0 && !there) status = PF_ENOMEM;
    status = agree_on_entries(o, e, status, there, there ? there + o->n : NULL);
    const bool begun = status >= 0;
    if (begun) status = join_all(o, e, status, there);
    if (status >= 0) status = pf_lanes_join_tables(o, e, status, there);
    if (status >= 0) status = pf_lanes_join_notes(o, e);
    if (status < 0) undo_join(o, made || !o->lanes, begun);
    pf_heap_free(e->heap, there, bytes);
    pf_lanes_drop(o);
    if (made) pf_lanes_close(o);
    return status;
}
