/*
 * segments.c - a training step of rows in segments (nn/sequence.h), each of which is a lane of the
 * optimizer's, or with several lanes of rows a leaf of one: so weights have the same bits on any
 * number of ranks, as with lanes of rows, whichever ranks share a row.
 */
#include "lanes.h"
#include "sequence.h"

/* Segments come last first. */
static int fold_segment(void *context, pf_engine *engine, int segment) {
    pf_optimizer *o = context;
    const struct pf_lanes *l = o->lanes;
    if (l && l->end - 1 != segment) {
        return pf_fail(PF_ESTATE, "segments: segment %d comes where %d of lane %d is due",
                       segment + 1, l->end, l->next + 1);
    }
    return l ? pf_lanes_fold(o, engine) : PF_OK;
}

/* Before anything is run: are there lanes left, and leaves for these segments? */
static int check_lanes(pf_optimizer *o, pf_engine *e, int segments) {
    if (segments < 1 || segments >= 1 << 16)
        return pf_fail(PF_EINVAL, "segments: %d; from 1 to 65535 are possible", segments);
    PF_TRY(pf_lanes_shape(o, e, segments));
    const struct pf_lanes *l = o->lanes;
    if (!l || l->next < l->lane[1]) return PF_OK;
    return pf_fail(PF_ESTATE,
                   "segments: all %d lanes of this rank are folded: step, or give each "
                   "lane one batch of rows",
                   l->lane[1] - l->lane[0]);
}

int pf_optimizer_backward_segments(double *loss, pf_engine *engine, pf_optimizer *optimizer,
                                   pf_tensor *x, pf_tensor *target, const pf_pass *pass,
                                   const pf_segments *segments) {
    PF_OPEN(engine);
    PF_NEED(loss, optimizer, x, target, segments);
    pf_segments own = {.segments = 0};
    *loss = 0;
    int status = pf_options_take(&own, sizeof own, segments, "segments");
    if (status >= 0) status = check_lanes(optimizer, engine, own.segments);
    const pf_segmenting how = {.size = sizeof how,
                               .segments = own.segments,
                               .chain = own.chain,
                               .leaf = fold_segment,
                               .context = optimizer,
                               .status = status};
    return pf_module_backward_segments(loss, engine, optimizer->module, x, target, pass, &how);
}
