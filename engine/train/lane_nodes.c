/*
 * lane_nodes.c - the nodes that a rank has of a step's lanes, and how a leaf becomes part of them:
 * entry by entry, so that those whose gradient is whole needn't wait for the others.
 *
 * What must hold: nodes lie in the order of their lanes, and of each entry the additions are those
 * of tree.h, whenever they are made.
 */
#include <string.h>

#include "lanes.h"

static size_t parts_of(const pf_optimizer *o) { return (size_t)o->n * sizeof(pf_lane_part); }

void pf_lanes_let_go(const pf_optimizer *o, pf_lane_sum *sum, bool held) {
    for (int i = 0; i < o->n && sum->part; i++) {
        if (!held) pf_tensor_release(&sum->part[i].dense);
        pf_lane_rows_close(&sum->part[i].rows);
    }
    pf_heap_free(o->heap, sum->part, parts_of(o));
    pf_tensor_release(&sum->notes);
    sum->part = NULL;
}

/* ---- an entry ---- */

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

static int take(const pf_optimizer *o, pf_engine *e, int i) {
    const pf_entry *p = &o->entry[i];
    pf_lane_part *part = &o->lanes->node[o->lanes->leaf].part[i];
    if (!pf_has_gradient(p)) return PF_OK;
    return p->touched ? take_rows(part, e, p->param) : take_dense(part, o, p->param);
}

static void move(const pf_optimizer *o, int i) {
    const pf_entry *p = &o->entry[i];
    pf_lane_part *part = &o->lanes->node[o->lanes->leaf].part[i];
    if (!pf_has_gradient(p)) return;
    if (p->touched || part->dense) {
        pf_tensor_clear_grad(p->param);
        return;
    }
    part->dense = p->param->grad;
    p->param->grad = NULL;
    pf_tensor_release(&p->param->grad_rows);
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

/* Entry i's part of the leaf goes into what the leaf makes whole. */
static int add(const pf_optimizer *o, pf_engine *e, int i) {
    const struct pf_lanes *l = o->lanes;
    for (int k = 0; k < l->n_merges; k++) {
        pf_lane_part *left = &l->node[l->merge[k].to].part[i];
        pf_lane_part *right = &l->node[l->merge[k].from].part[i];
        PF_TRY(o->entry[i].touched
                   ? pf_lane_rows_add(&left->rows, &right->rows, e, pf_lane_width(&o->entry[i]))
                   : add_dense(left, right, e));
    }
    return PF_OK;
}

int pf_lanes_fold_entry(const pf_optimizer *o, pf_engine *e, int i) {
    if (!pf_has_gradient(&o->entry[i])) return PF_OK;
    PF_TRY(take(o, e, i));
    move(o, i);
    e->shield++; /* a step that is half folded is none */
    int status = add(o, e, i);
    e->shield--;
    o->lanes->node[o->lanes->leaf].part[i].folded = true;
    return status;
}

/* ---- a leaf ---- */

/* Nodes i and i + 1 of n are the halves of one. */
static bool are_halves(const pf_lane_node *node, int n, int i) {
    if (i < 0 || i + 1 >= n) return false;
    const pf_lane_node *left = &node[i], *right = &node[i + 1];
    return left->count == right->count && left->first + left->count == right->first &&
           left->first % (2 * left->count) == 0;
}

/* What becomes whole around the leaf: which node is added to which, one after the other. */
static void plan(struct pf_lanes *l) {
    pf_lane_node node[PF_LANE_NODES];
    int place[PF_LANE_NODES], n = l->n, i = l->leaf;
    for (int k = 0; k < n; k++) node[k] = l->node[k].lanes, place[k] = k;
    for (l->n_merges = 0;;) {
        if (are_halves(node, n, i - 1)) i--;
        if (!are_halves(node, n, i)) return;
        l->merge[l->n_merges++] = (pf_lane_merge){place[i], place[i + 1]};
        node[i].count *= 2;
        n--;
        memmove(&node[i + 1], &node[i + 2], (size_t)(n - i - 1) * sizeof *node);
        memmove(&place[i + 1], &place[i + 2], (size_t)(n - i - 1) * sizeof *place);
    }
}

/* Nodes lie in the order of their lanes, wherever the last one came in. */
int pf_lanes_open_leaf(pf_optimizer *o) {
    struct pf_lanes *l = o->lanes;
    if (!l || l->next >= l->lane[1]) {
        return pf_fail(PF_ESTATE, "optimizer: %s",
                       l ? "all lanes of the step are folded" : "its steps have no lanes to fold");
    }
    if (l->n == PF_LANE_NODES)
        return pf_fail(PF_EINVAL, "optimizer: more than %d sums of lanes at once", PF_LANE_NODES);
    const int first = l->next * l->leaves.segments + l->end - 1;
    pf_lane_sum sum = {{first, 1}, pf_heap_zalloc(o->heap, parts_of(o)), NULL};
    if (!sum.part) return PF_ENOMEM;
    int at = 0;
    while (at < l->n && l->node[at].lanes.first < first) at++;
    memmove(&l->node[at + 1], &l->node[at], (size_t)(l->n - at) * sizeof *l->node);
    l->node[at] = sum;
    l->n++;
    l->leaf = at;
    plan(l);
    return PF_OK;
}

static void remove_node(const pf_optimizer *o, int i) {
    struct pf_lanes *l = o->lanes;
    pf_lanes_let_go(o, &l->node[i], false);
    l->n--;
    memmove(&l->node[i], &l->node[i + 1], (size_t)(l->n - i) * sizeof *l->node);
}

void pf_lanes_cut_leaf(const pf_optimizer *o) {
    remove_node(o, o->lanes->leaf);
    o->lanes->leaf = -1;
}

bool pf_lanes_is_gone(const struct pf_lanes *l, int k) {
    for (int m = 0; m < l->n_merges && l->leaf >= 0; m++)
        if (l->merge[m].from == k) return true;
    return false;
}

/* The leaf is in its node; nodes that are no more go, the last first. */
static void close_leaf(const pf_optimizer *o) {
    struct pf_lanes *l = o->lanes;
    for (int k = 0; k < l->n_merges; k++)
        l->node[l->merge[k].to].lanes.count += l->node[l->merge[k].from].lanes.count;
    for (int i = l->n - 1; i >= 0; i--)
        if (pf_lanes_is_gone(l, i)) remove_node(o, i);
    l->leaf = -1;
    if (--l->end == l->segment[0]) l->next++, l->end = l->segment[1];
}

bool pf_lanes_has(const pf_optimizer *o, int i) {
    const struct pf_lanes *l = o->lanes;
    return l->leaf >= 0 && l->node[l->leaf].part[i].folded;
}

int pf_lanes_take(const pf_optimizer *o, pf_engine *e) {
    for (int i = 0; i < o->n; i++) {
        if (!pf_lanes_has(o, i)) {
            PF_TRY(take(o, e, i));
        } else if (pf_has_gradient(&o->entry[i])) {
            return pf_fail(PF_ESTATE,
                           "optimizer: '%s' got more gradient behind the backward that was to be "
                           "the step's last: say overlap before the one that is",
                           o->entry[i].name);
        }
    }
    return pf_lane_notes_take(&o->lanes->node[o->lanes->leaf],
                              o); /* last: they are moved at once */
}

static int add_notes(const pf_optimizer *o, pf_engine *e) {
    struct pf_lanes *l = o->lanes;
    for (int k = 0; k < l->n_merges; k++)
        PF_TRY(pf_lane_notes_add(&l->node[l->merge[k].to], &l->node[l->merge[k].from], e));
    return PF_OK;
}

int pf_lanes_add(const pf_optimizer *o, pf_engine *e) {
    int status = PF_OK;
    for (int i = 0; i < o->n; i++)
        if (!pf_lanes_has(o, i)) move(o, i);
    e->shield++; /* a step that is half folded is none */
    for (int i = 0; i < o->n && status >= 0; i++)
        if (!pf_lanes_has(o, i)) status = add(o, e, i);
    if (status >= 0) status = add_notes(o, e);
    e->shield--;
    if (status >= 0) close_leaf(o);
    return status;
}

/* ---- what a node lacks ---- */

int pf_lanes_fill(const pf_optimizer *o, int i) {
    const struct pf_lanes *l = o->lanes;
    const pf_tensor *p = o->entry[i].param;
    for (int k = 0; k < l->n; k++) {
        pf_tensor **dense = &l->node[k].part[i].dense;
        if (*dense || pf_lanes_is_gone(l, k)) continue;
        PF_TRY(pf_tensor_make_lasting(dense, o->heap, PF_F32, p->rank, p->shape));
        PF_TRY(pf_tensor_fill(*dense, 0));
    }
    return PF_OK;
}
