/*
 * edges_read.c - the tensor of a graph as loops walk it (edges.h): checked, with the place where
 * each node's edges begin, and cut in tasks by the graph alone.
 */
#include "edges.h"

enum { TASK_EDGES = 4096, TASK_NODES = 1024 };

/* Node by node, until the task has its edges or its nodes; a node is never cut. */
static void cut_tasks(pf_edge_ends *ends) {
    int64_t begin = 0;
    ends->task[0] = 0;
    for (int64_t i = 0; i < ends->n; i++) {
        int64_t edges = ends->first[i + 1] - ends->first[begin];
        if (i == begin || (edges <= TASK_EDGES && i - begin < TASK_NODES)) continue;
        ends->task[++ends->tasks] = begin = i;
    }
    if (ends->n > 0) ends->task[++ends->tasks] = ends->n;
}

/* ends->first of the nodes in `column`, from counts; and tasks. */
static int count_ends(pf_edge_ends *ends, pf_call *c, const pf_graph *g, int column, int64_t n) {
    size_t bytes = (size_t)(n + 1) * sizeof(int64_t);
    *ends = (pf_edge_ends){.n = n};
    ends->first = pf_call_alloc(c, bytes);
    ends->task = pf_call_alloc(c, bytes);
    if (!ends->first || !ends->task) return PF_ENOMEM;
    for (int64_t i = 0; i <= n; i++) ends->first[i] = 0;
    for (int64_t e = 0; e < g->n; e++) ends->first[g->edge[e * PF_EDGE_COLUMNS + column] + 1]++;
    for (int64_t i = 0; i < n; i++) ends->first[i + 1] += ends->first[i];
    cut_tasks(ends);
    return PF_OK;
}

/* a stands before b. */
static bool ascends(const int32_t *a, const int32_t *b) {
    for (int i = 0; i < PF_EDGE_COLUMNS; i++) {
        if (a[i] != b[i]) return a[i] < b[i];
    }
    return false;
}

static int check_rows(const pf_graph *g, const pf_call *c, int64_t Lq, int64_t Lk) {
    for (int64_t e = 0; e < g->n; e++) {
        const int32_t *row = g->edge + e * PF_EDGE_COLUMNS;
        int32_t to = row[PF_EDGE_TO], from = row[PF_EDGE_FROM], number = row[PF_EDGE_NUMBER];
        if (to < 0 || to >= Lq || from < 0 || from >= Lk) {
            return pf_fail(PF_EINVAL,
                           "%s: edge %s goes from %s to %s, but there are %lld positions to see "
                           "and %lld that see",
                           c->op->name, pf_place(number), pf_place(from), pf_place(to),
                           (long long)Lk, (long long)Lq);
        }
        if (number >= 0 && number < g->n && (e == 0 || ascends(row - PF_EDGE_COLUMNS, row))) {
            continue;
        }
        return pf_fail(PF_EINVAL,
                       "%s: row %s of edges, %d %d %d, is out of order; edges are as `edges` makes "
                       "them",
                       c->op->name, pf_place(e), to, from, number);
    }
    return PF_OK;
}

int pf_graph_read(pf_graph *graph, pf_call *c, const pf_tensor *edges, int64_t Lq, int64_t Lk) {
    *graph = (pf_graph){.n = edges->shape[0], .edge = pf_i32(edges)};
    PF_TRY(check_rows(graph, c, Lq, Lk));
    PF_TRY(count_ends(&graph->to, c, graph, PF_EDGE_TO, Lq));
    for (int64_t i = 0; i < Lq; i++) {
        graph->widest = pf_max(graph->widest, graph->to.first[i + 1] - graph->to.first[i]);
    }
    return PF_OK;
}

int pf_graph_turn(pf_graph *graph, pf_call *c, int64_t Lk) {
    pf_edge_ends *from = &graph->from;
    PF_TRY(count_ends(from, c, graph, PF_EDGE_FROM, Lk));
    graph->back = pf_call_alloc(c, (size_t)pf_max(graph->n, 1) * sizeof *graph->back);
    if (!graph->back) return PF_ENOMEM;
    /* first[j] moves on to where key j + 1 begins, and is moved back. */
    for (int64_t e = 0; e < graph->n; e++) {
        graph->back[from->first[pf_edge_from(graph, e)]++] = (int32_t)e;
    }
    for (int64_t j = Lk; j > 0; j--) from->first[j] = from->first[j - 1];
    from->first[0] = 0;
    return PF_OK;
}
