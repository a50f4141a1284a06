/*
 * performer_train.h - the page of Performer's public interface for training: optimizers, averages
 * of the weights, learning rates. performer.h includes it; its manners hold here.
 */
#ifndef PERFORMER_TRAIN_H
#define PERFORMER_TRAIN_H

#include "performer.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- optimizers ------------------------------------------------------------------------
 * A step is: open a tape, forward, loss, backward, pf_optimizer_step. An optimizer's options are
 * `type`, a name of pf_describe's `optimizers` (the first, where none is given), and options of
 * its row, among them `groups`: [{match, lr_scale, rows, ...}], other options for parameters whose
 * names fit. rows: "touched": rows of the first dimension without a gradient stay as they are, the
 * default in the table of an ngrams layer, or "all".
 *
 * It trains the parameters that require a gradient when it is made, and keeps nothing of others. */

PF_API int pf_optimizer_new(pf_optimizer **optimizer, pf_engine *engine, pf_module *module,
                            const pf_config *PF_NULLABLE options);
/* One step, then clears the gradients and does what follows (pf_module_after_step). lr < 0: the
 * optimizer's own. clip 0: none. *norm (may be NULL): gradient norm before clipping. A norm that is
 * not finite fails with PF_ENUMERIC and changes nothing; a parameter that requires a gradient only
 * since the optimizer was made, with PF_ESTATE.
 *
 * The cancel flag, a deadline and a bound of work are looked at before the first weight moves, with
 * the work of the whole step counted; from there it goes on to its end whatever they say, for half
 * a step can't be undone, nor gone on from. So a deadline is passed by at most the update: four
 * times the weights' bytes read and written, and with muon three products of matrices for each of
 * its iterations.
 *
 * Several backward passes before it add up. Where each begins with the seed n / N, of n targets
 * among the N of all passes, the sum is the gradient of the mean over all (pass.counted of
 * pf_module_backward_sliced does the same); pass.micro keys their dropout. */
PF_API int pf_optimizer_step(pf_optimizer *optimizer, pf_engine *engine, double lr, double clip,
                             double *PF_NULLABLE norm);
/* Comes to the others' pf_optimizer_step with a failure of this rank's: its status, which is
 * negative, and the message that stands (pf_set_error). The step is none, on all ranks, and lanes
 * that were folded are dropped. The status; with one rank that is all. */
PF_API int pf_optimizer_give_up(pf_optimizer *optimizer, pf_engine *engine, int status);
/* ---- lanes ---------------------------------------------------------------------------------
 * A step's batch in `lanes` parts, whose gradients are added as a fixed binary tree: the bits are
 * the same on any number of ranks (performer_comm.h) up to that of lanes, of which rank r of P has
 * those from r lanes / P on. 1 with one rank: no lanes. */

/* The optimizer's steps have so many lanes from the next one on; what was folded is dropped. */
PF_API int pf_optimizer_set_lanes(pf_optimizer *optimizer, pf_engine *engine, int lanes);
/* What has gathered in the parameters is the gradient of the next lane of this rank. A step comes
 * when all of them are folded (else PF_ESTATE); without lanes each of several ranks is one. */
PF_API int pf_optimizer_fold(pf_optimizer *optimizer, pf_engine *engine);
/* Said before the last backward of this rank's last lane: what that completes travels to the other
 * ranks while it goes on, instead of at the step. The bits are the same; nothing happens with one
 * rank. Gradients are not to be looked at or changed between that backward and the step. If the
 * backward fails the step begins anew. PF_ESTATE: it is not the last lane's turn, or rows are in
 * segments. */
PF_API int pf_optimizer_overlap(pf_optimizer *optimizer, pf_engine *engine);

/* How rows are cut for the ranks: `segments` parts, each with its lane; of a chain a part waits for
 * the one before, else what stands before each is joined by a scan of states. Of n times as many
 * lanes a step has n batches of rows, and groups of ranks have one each at a time
 * (pf_comm_row_ranks). */
typedef struct {
    size_t size;
    int segments; /* the optimizer has so many lanes, or a multiple */
    bool chain;
} pf_segments;
/* A training step's backward of rows that no rank could hold: x (B, L), target (B, L) i32 and the
 * pass are of whole rows, the same on every rank that shares them, of which each has its segments.
 * *loss: the mean over all targets, the same on these ranks. The lanes are folded by it; what a
 * row's parts say to each other has the same size whatever its length. For the linear kinds of
 * attention, exact attention (which gathers all keys), and what looks at its own position or, as
 * conv and ngrams, a few before. */
PF_API int pf_optimizer_backward_segments(double *loss, pf_engine *engine, pf_optimizer *optimizer,
                                          pf_tensor *x, pf_tensor *target,
                                          const pf_pass *PF_NULLABLE pass,
                                          const pf_segments *segments);

PF_API uint64_t pf_optimizer_steps(const pf_optimizer *optimizer);
PF_API int pf_optimizer_drawn(const pf_optimizer *optimizer); /* projections, in the last step */
/* Averages that stand in the weights' place change back first. */
PF_API void pf_optimizer_close(pf_optimizer **optimizer);

/* ---- averages --------------------------------------------------------------------------
 * With the option `ema` an optimizer keeps an exponential average of the weights, which goes into
 * its checkpoints. */

PF_API bool pf_optimizer_has_average(const pf_optimizer *optimizer);
/* Puts the averages into the model in the weights' place, to be run or saved, or (false) the
 * weights back. Between the two the optimizer neither steps nor is saved or loaded (PF_ESTATE).
 * PF_ESTATE without averages. With several ranks the former is a verb (performer_comm.h): all put
 * them in together. */
PF_API int pf_optimizer_use_average(pf_optimizer *optimizer, bool average);

/* ---- schedules -------------------------------------------------------------------------
 * The learning rate as a function of the step alone, which counts from 1: a run that is resumed
 * goes on where it was. */

/* *rate at `step` of the schedule that options{type} name among pf_describe's `schedules`, by
 * options of its row. */
PF_API int pf_schedule_rate(double *rate, const pf_config *options, uint64_t step);
/* Linear warm-up, then cosine from peak to floor at `steps`. */
PF_API double pf_schedule_cosine(uint64_t step, uint64_t warmup, uint64_t steps, double peak,
                                 double floor);

#ifdef __cplusplus
}
#endif

#endif
