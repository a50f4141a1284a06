/*
 * attention_edges.c - what layers that attend over the edges of a graph read beside x. The graph is
 * of the call, not of the model, so that a model trains on many.
 */
#include "attention_layer.h"

const pf_input_info pf_edge_inputs[PF_EDGES_READ] = {
    {"edges", "(E, 3) i32, the graph as the op `edges` makes it, for graph attention", true},
    {"edge_bias", "(E) or (E, H), by the edges' numbers: added to their scores", false},
};

int pf_attention_read_edges(pf_attention *a, const pf_module *m, const pf_run *run) {
    if (!a->kind->edges) return PF_OK;
    PF_TRY(pf_run_need(&a->edges, m, run, "edges"));
    a->edge_bias = pf_run_input(run, "edge_bias");
    return PF_OK;
}
