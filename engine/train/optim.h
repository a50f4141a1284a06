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
/* Ranks that train together keep a part of it each. Saving then is theirs together: a verb, after
 * which rank 0 has all of it until pf_optimizer_let_go, and alone can list it (PF_ESTATE
 * elsewhere). With one rank there is nothing to do. A restore takes what is the rank's own. */
int pf_optimizer_gather(const pf_optimizer *o, pf_engine *engine);
void pf_optimizer_let_go(const pf_optimizer *o);

/* rules.c, schedule.c: set `optimizers` and `schedules` of `to` (pf_describe). */
int pf_optimizers_describe(pf_config *to);
int pf_schedules_describe(pf_config *to);

#endif
