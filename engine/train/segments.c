/*
 * segments.c - a training step of rows in segments (nn/sequence.h), each of which is a lane of the
 * optimizer's: so weights have the same bits on any number of ranks, as with lanes of rows.
 */
#include "lanes.h"
#include "sequence.h"

/* Segments come last first. */
static int fold_segment(void *context, pf_engine *engine, int segment) {
    pf_optimizer *o = context;
    const struct pf_lanes *l = o->lanes;
    if (l && l->end - 1 != segment) {
        return pf_fail(PF_ESTATE,
                       "segments: segment %d comes where lane %d is due: a step has one "
                       "batch of rows in segments",
                       segment, l->end - 1);
    }
    return l ? pf_lanes_fold_last(o, engine) : PF_OK;
}

static int check_lanes(const pf_optimizer *o, int segments) {
    const int lanes = o->lanes ? o->lanes->count : 1;
    if (segments == lanes) return PF_OK;
    return pf_fail(PF_ESTATE,
                   "segments: the optimizer has %d lanes, and rows %d segments; there "
                   "must be as many",
                   lanes, segments);
}

int pf_optimizer_backward_segments(double *loss, pf_engine *engine, pf_optimizer *optimizer,
                                   pf_tensor *x, pf_tensor *target, const pf_pass *pass,
                                   const pf_segments *segments) {
    PF_OPEN(engine);
    PF_NEED(loss, optimizer, x, target, segments);
    pf_segments own = {.segments = 0};
    *loss = 0;
    PF_TRY(pf_options_take(&own, sizeof own, segments, "segments"));
    PF_TRY(check_lanes(optimizer, own.segments));
    const pf_segmenting how = {.size = sizeof how,
                               .segments = own.segments,
                               .chain = own.chain,
                               .leaf = fold_segment,
                               .context = optimizer};
    return pf_module_backward_segments(loss, engine, optimizer->module, x, target, pass, &how);
}
