/*
 * lane_notes.c - what layers note in the runs of a step (pf_layer.notes), in lanes: added in the
 * order of tree.h as gradients are, so that what follows a step (nn/after_step.c) goes by the same
 * bits on any number of ranks. All layers' are one array, one behind the other.
 */
#include "lanes.h"
#include "module.h"

int pf_lane_notes_take(pf_lane_sum *sum, const pf_optimizer *o) {
    const int64_t n = pf_notes_count(o->module);
    if (n == 0) return PF_OK;
    PF_TRY(pf_tensor_make_lasting(&sum->notes, o->heap, PF_F32, 1, &n));
    pf_notes_take(o->module, pf_f32(sum->notes));
    return PF_OK;
}

int pf_lane_notes_add(pf_lane_sum *left, pf_lane_sum *right, pf_engine *e) {
    if (!left->notes) return PF_OK;
    return pf_lane_add(e, pf_f32(left->notes), pf_f32(right->notes), pf_tensor_numel(left->notes));
}

void pf_lane_notes_give_back(const pf_optimizer *o, pf_lane_sum *sum) {
    if (sum->notes) pf_notes_put(o->module, pf_f32(sum->notes));
    pf_tensor_release(&sum->notes);
}

int pf_lanes_join_notes(const pf_optimizer *o, pf_engine *e) {
    struct pf_lanes *l = o->lanes;
    const float *own[PF_LANE_NODES];
    pf_reduction *r;
    if (l->n == 0 || !l->node[0].notes) return PF_OK;
    const int64_t n = pf_tensor_numel(l->node[0].notes);
    for (int k = 0; k < l->n; k++) own[k] = pf_f32(l->node[k].notes);
    int status = pf_reduction_open(&r, e, PF_OK, l->count, n);
    if (status >= 0) status = pf_reduction_run(r, own, n, pf_f32(l->node[0].notes));
    if (status >= 0) {
        pf_notes_clear(o->module); /* of runs behind the last fold: no lane's */
        pf_notes_put(o->module, pf_f32(l->node[0].notes));
    }
    pf_reduction_close(&r);
    return status;
}
