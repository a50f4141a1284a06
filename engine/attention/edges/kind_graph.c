/*
 * kind_graph.c - the kind graph: softmax attention over the edges that a call brings (edges.h). It
 * remembers nothing: the edges are of a whole sequence, and those of a position that has yet to
 * come can't be told.
 */
#include "edges.h"

enum { SCALE };
static const pf_option_info graph_options[] = {
    {.name = "scale", .kind = PF_OPT_NUMBER, .doc = "of the scores q.k; 0: 1 / sqrt(d)"},
};

static int graph_call(pf_tensor **out, pf_engine *e, const pf_attention *a, pf_tensor *const *in,
                      bool exit) {
    pf_attr attr[PF_MAX_ATTR];
    pf_tensor *all[PF_EDGE_INPUTS] = {[PF_IN_EDGES] = a->edges, [PF_IN_EDGE_BIAS] = a->edge_bias};
    (void)exit;
    for (int i = 0; i < PF_REACH_INPUTS; i++) all[i] = in[i];
    pf_op_fill_defaults(&pf_op_edge_attention, attr);
    attr[PF_EDGE_CAUSAL].i = a->causal;
    attr[PF_EDGE_SCALE].f = a->option[SCALE];
    attr[PF_EDGE_DROPOUT].f = a->dropout;
    attr[PF_EDGE_DRAW].i = (int64_t)a->draw;
    return pf_apply(e, &pf_op_edge_attention, all, PF_EDGE_INPUTS, attr, out);
}

/* Of one edge: how many a position has no shape says. */
static void graph_flops(const pf_attention *a, const pf_attention_shape *shape, double *forward,
                        double *backward) {
    (void)a;
    double widths = (double)(shape->head_dim + shape->value_dim);
    *forward = 2 * widths;
    *backward = 5 * widths;
}

const pf_attention_kind pf_kind_graph = {
    .name = "graph",
    .doc = "Softmax attention over the edges of a graph that the call brings; its work is told of "
           "one edge a position.",
    .takes = PF_TAKES_ALL,
    .edges = true,
    .drops = true,
    .options = graph_options,
    .n_options = PF_COUNT(graph_options),
    .call = graph_call,
    .no_stream =
        ": its edges are of a whole sequence, and a position that has yet to come has none",
    .no_part = "sees what its edges say, anywhere in a row, so a row can't go in slices",
    .flops = graph_flops,
};
