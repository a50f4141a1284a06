/* optim.h - front header of the floor train/: optimizers, clipping, schedules. */
#ifndef PF_OPTIM_H
#define PF_OPTIM_H

#include "module.h"

/* For checkpoints (joined in api/): the optimizer's tensors by name ("<param>.m"), borrowed
 * list of pf_named to free with pf_heap_free(heap, list, n * sizeof *list); and its settings
 * and counters as plain data. former: pf_tree_has_former of the model that they were saved with. */
int pf_optimizer_tensors(const pf_optimizer *o, pf_named **list, int *n);
int pf_optimizer_config(const pf_optimizer *o, pf_config **config); /* type, options, steps */
int pf_optimizer_restore(pf_optimizer *o, const pf_named *list, int n, bool former,
                         const pf_config *config);

/* A step of `lanes` parts, of which the rank has the first ... last - 1 of pf_lanes_of: 1 with one
 * rank is no lanes at all. Begins the step anew. Between the lanes' backwards each is folded, in
 * order: pf_optimizer_fold takes what has gathered as the next lane's gradient. The step then is
 * by the sum over all lanes of all ranks; without lanes, each rank of several is one. */
int pf_optimizer_set_lanes(pf_optimizer *o, pf_engine *engine, int lanes);
int pf_optimizer_fold(pf_optimizer *o, pf_engine *engine);

/* rules.c, schedule.c: set `optimizers` and `schedules` of `to` (pf_describe). */
int pf_optimizers_describe(pf_config *to);
int pf_schedules_describe(pf_config *to);

#endif
