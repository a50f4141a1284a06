/*
 * sequence.h - a row in segments, each of which may be on a rank of its own: a training step of
 * rows that no rank could hold. Everything but what looks back runs as if a segment were a row.
 * What goes between the segments, layer for layer and both ways, are a state of attention and the
 * few rows that convolutions look at, whatever the length.
 *
 * N segments are a setting of a run, and P ranks, at most N, of a start: rank r has the segments
 * [r N / P, (r + 1) N / P), and all have the row's ids, documents, mask and targets.
 *
 *   scan    a layer makes the state of its segment's own keys, and what stands before each segment
 *           is joined in the order of comm/scan.h. With a rank for each segment all are at the same
 *           layer at once; else one after the other, as a wave, with the same bits: one rank that
 *           has all N is the form that says what bits they are.
 *   chain   a segment goes on from the state that the one before leaves: pf_module_backward_sliced
 *           with its slices on ranks and bit for bit its numbers. Nothing is done twice, but a
 *           layer of a segment waits for that layer of the one before.
 *
 * Attention that sees the future is a scan with a rank for each segment: the states of all keys are
 * added up. Exact attention, with a rank for each, collects all keys, which judges the others.
 *
 * A trainer calls pf_module_backward_segments on every rank of the comm, or of a group that shares
 * rows (pf_comm_row_ranks), for each row of its lane;
 * it adds to the parameters' gradients what this rank's segments give, one after the other, last
 * first, and `leaf` may fold each of them as a leaf of the step's sum (comm/tree.h). So sums over
 * leaves of (lane, segment) have the bits of no number of ranks.
 */
#ifndef PF_SEQUENCE_H
#define PF_SEQUENCE_H

#include "module.h"
#include "scan.h"

typedef struct pf_segmenting {
    size_t size;
    int segments; /* N; each of at least PF_SLICE_LEAST positions */
    bool chain;
    /* After the backward of a segment, whose gradient lies in the parameters; NULL: nothing is to
     * be done there. A failure ends the step. */
    int (*leaf)(void *context, pf_engine *engine, int segment);
    void *context;
    int status; /* < 0: this rank has failed before, which the others of its row hear here */
} pf_segmenting;

/* A verb (comm.h) of a training step: with x (B, L, ...), target (B, L) and pass of whole rows, the
 * same on every rank, as pf_module_loss has them. *loss: the mean over all targets of the rows, or
 * with pass->counted over so many, the same bits on every rank and any number of them. */
int pf_module_backward_segments(double *loss, pf_engine *engine, pf_module *module, pf_tensor *x,
                                pf_tensor *target, const pf_pass *pass, const pf_segmenting *how);
/* Fails where a model can't go in segments, naming the layer. together: each has a rank. */
int pf_segments_check(const pf_module *m, bool chain, bool together);

/* ---- what runs ---- */

/* Of one layer: what goes from segment to segment on this rank, forward and back. */
typedef struct pf_segment_place {
    pf_scan scan[2];
    pf_monoid monoid; /* of the last scan */
    void *box[2];
    size_t bytes[2];
} pf_segment_place;

enum { PF_KEPT = 3 };
typedef struct pf_segmented {
    pf_engine *e;
    pf_module *m;
    pf_tensor *x, *target; /* (B, L, ...); (B, L) i32, contiguous */
    pf_pass pass;          /* of the whole rows; its documents and mask are contiguous */
    int64_t batch, length, counted;
    int n, first, last; /* segments; this rank's */
    bool chain;
    bool together; /* every rank has one segment, and all are at the same layer */
    int places;
    pf_segment_place *place;     /* (places) */
    pf_tensor *(*kept)[PF_KEPT]; /* (last - first, places): what came from others, lasting */
    struct pf_segment_run *run;  /* (last - first), of sequence.c */
    bool passed;                 /* all that goes between segments */
    int segment;                 /* that runs */
    const pf_segmenting *how;
} pf_segmented;

int64_t pf_segment_first(const pf_segmented *q, int s);

/* ---- segment_attend.c, segment_rows.c: for layers, in a run whose slice has `segmented` ---- */
/* in: as pf_attend_rows takes them. */
int pf_segment_attend(pf_tensor **y, pf_engine *e, const pf_attention *a, const pf_run *run,
                      pf_tensor *const *in);
/* segment_exact.c: the same of kinds that look at the keys of other segments themselves. */
int pf_segment_attend_all(pf_tensor **y, pf_engine *e, const pf_attention *a, const pf_run *run,
                          pf_tensor *const *in);
/* *rows: x (B, L, D) with at most `back` rows of before and `ahead` of behind around it; how many
 * there are of before. */
int pf_segment_rows(pf_tensor **rows, int64_t *before, pf_engine *e, const pf_run *run,
                    pf_tensor *x, int64_t back, int64_t ahead);
/* *y was made of these rows; what they are to other segments goes back with it. */
int pf_segment_leave_rows(pf_tensor **y, pf_engine *e, const pf_run *run, pf_tensor *rows,
                          int64_t back);
/* *ids: the `n` ids before the segment, which is not the first. */
int pf_segment_ids(pf_tensor **ids, pf_engine *e, const pf_run *run, int64_t n);

#endif
