/*
 * lane_tables.c - the gradients of tables, joined over ranks: the rows that each rank's nodes have
 * touched go to all, who add them in the order of tree.h, each for itself.
 */
#include <string.h>

#include "lanes.h"

/* The nodes of one table: of all ranks, in order. */
typedef struct {
    pf_engine *engine;
    int64_t width;
    pf_lane_node *lanes;
    pf_lane_part *part;
    int n;
} table;

/* The lanes of all nodes; one rank's are its own. */
static int list_nodes(const struct pf_lanes *l, int ranks, pf_lane_node *lanes, int *n_of) {
    int n = 0;
    for (int r = 0; r < ranks; r++) {
        n_of[r] = pf_leaf_nodes(&l->leaves, ranks, r, lanes + n);
        n += n_of[r];
    }
    return n;
}

/* T(first, count), let go of in its parts. */
static int add_tree(const table *t, int first, int count, pf_lane_part *sum) {
    pf_lane_part right = {0};
    int half = 1;
    for (int i = 0; i < t->n; i++) {
        if (t->lanes[i].first != first || t->lanes[i].count != count) continue;
        *sum = t->part[i];
        t->part[i] = (pf_lane_part){0};
        return PF_OK;
    }
    while (2 * half < count) half *= 2;
    PF_TRY(add_tree(t, first, half, sum));
    int status = add_tree(t, first + half, count - half, &right);
    if (status >= 0) status = pf_lane_rows_add(&sum->rows, &right.rows, t->engine, t->width);
    pf_lane_rows_close(&right.rows);
    return status;
}

/* A rank's rows of a table, node after node: how many each has, and then rows and numbers. */
static int64_t rows_of(const pf_lane_part *part) {
    return part->rows.row ? pf_tensor_numel(part->rows.row) : -1;
}

static size_t bytes_of(const int64_t *rows, int n, int64_t width) {
    int64_t sum = 0;
    for (int k = 0; k < n; k++) sum += pf_max(rows[k], 0);
    return (size_t)sum * (sizeof(int32_t) + (size_t)width * sizeof(float));
}

static char *put(char *to, const void *from, size_t bytes) {
    memcpy(to, from, bytes);
    return to + bytes;
}

static void pack(char *to, const struct pf_lanes *l, int entry, int64_t width) {
    for (int k = 0; k < l->n; k++) {
        const pf_lane_rows *r = &l->node[k].part[entry].rows;
        if (!r->row) continue;
        size_t n = (size_t)pf_tensor_numel(r->row);
        to = put(to, pf_i32(r->row), n * sizeof(int32_t));
        to = put(to, pf_f32(r->value), n * (size_t)width * sizeof(float));
    }
}

static int unpack(const char **from, pf_engine *e, pf_lane_part *part, int64_t n, int64_t width) {
    int64_t shape[] = {n, width};
    if (n < 0) return PF_OK;
    PF_TRY(pf_tensor_make_lasting(&part->rows.row, e->heap, PF_I32, 1, shape));
    PF_TRY(pf_tensor_make_lasting(&part->rows.value, e->heap, PF_F32, 2, shape));
    size_t row_bytes = (size_t)n * sizeof(int32_t), bytes = (size_t)(n * width) * sizeof(float);
    memcpy(pf_i32(part->rows.row), *from, row_bytes);
    memcpy(pf_f32(part->rows.value), *from + row_bytes, bytes);
    *from += row_bytes + bytes;
    return PF_OK;
}

/* Everything that a join over ranks needs, in one block. */
typedef struct {
    int ranks;
    int *n_of; /* nodes of each rank */
    pf_lane_node *lanes;
    pf_lane_part *part;
    int64_t *rows, own[PF_LANE_NODES]; /* of each node, PF_LANE_NODES a rank; of this rank's */
    size_t *bytes;
} gathering;

static size_t gathering_bytes(int ranks) {
    return (size_t)ranks *
           (sizeof(size_t) + sizeof(int) * 2 +
            PF_LANE_NODES * (sizeof(pf_lane_part) + sizeof(int64_t) + sizeof(pf_lane_node)));
}

static void carve(gathering *g, char *block, int ranks) {
    size_t nodes = (size_t)ranks * PF_LANE_NODES;
    g->ranks = ranks;
    g->part = (pf_lane_part *)block;
    g->rows = (int64_t *)(g->part + nodes);
    g->bytes = (size_t *)(g->rows + nodes);
    g->lanes = (pf_lane_node *)(g->bytes + ranks);
    g->n_of = (int *)(g->lanes + nodes);
}

/* The rows of all ranks' nodes of one table. */
static int gather_table(const pf_optimizer *o, pf_engine *e, int entry, gathering *g, table *t) {
    const struct pf_lanes *l = o->lanes;
    size_t total = 0;
    for (int k = 0; k < PF_LANE_NODES; k++)
        g->own[k] = k < l->n ? rows_of(&l->node[k].part[entry]) : -1;
    PF_TRY(pf_comm_collect(e, PF_OK, g->own, sizeof g->own, g->rows));
    for (int r = 0; r < g->ranks; r++) {
        g->bytes[r] = bytes_of(g->rows + (size_t)r * PF_LANE_NODES, g->n_of[r], t->width);
        total += g->bytes[r];
    }
    size_t own_bytes = g->bytes[pf_comm_rank(e)];
    char *all = pf_heap_alloc(e->heap, total), *own = pf_heap_alloc(e->heap, own_bytes);
    int status = all && own ? PF_OK : PF_ENOMEM;
    if (status >= 0) pack(own, l, entry, t->width);
    status = pf_comm_collect_all(e, status, own, g->bytes, all);
    const char *at = all;
    int n = 0;
    for (int r = 0; r < g->ranks && status >= 0; r++)
        for (int k = 0; k < g->n_of[r] && status >= 0; k++)
            status = unpack(&at, e, &t->part[n++], g->rows[r * PF_LANE_NODES + k], t->width);
    pf_heap_free(e->heap, all, total);
    pf_heap_free(e->heap, own, own_bytes);
    return status;
}

static int join_table(const pf_optimizer *o, pf_engine *e, int entry, gathering *g) {
    pf_lane_part sum = {0};
    table t = {e, pf_lane_width(&o->entry[entry]), g->lanes, g->part, 0};
    memset(g->part, 0, (size_t)g->ranks * PF_LANE_NODES * sizeof *g->part);
    t.n = list_nodes(o->lanes, g->ranks, g->lanes, g->n_of);
    int status = gather_table(o, e, entry, g, &t);
    if (status >= 0) status = add_tree(&t, 0, o->lanes->count, &sum);
    if (status >= 0 && sum.rows.row)
        status = pf_leaf_take_rows(e, o->entry[entry].param, sum.rows.row, sum.rows.value);
    for (int i = 0; i < t.n; i++) pf_lane_rows_close(&t.part[i].rows);
    pf_lane_rows_close(&sum.rows);
    return pf_comm_agree(e, status);
}

int pf_lanes_join_tables(const pf_optimizer *o, pf_engine *e, int status, const char *there) {
    int ranks = pf_comm_ranks(e);
    size_t bytes = gathering_bytes(ranks);
    char *block = pf_heap_zalloc(e->heap, bytes);
    gathering g = {0};
    if (status >= 0 && !block) status = PF_ENOMEM;
    if (block) carve(&g, block, ranks);
    status = pf_comm_agree(e, status);
    PF_HOLDS(block || status < 0);
    for (int i = 0; i < o->n && status >= 0; i++)
        if (there[i] && o->entry[i].touched) status = join_table(o, e, i, &g);
    pf_heap_free(e->heap, block, bytes);
    return status;
}
