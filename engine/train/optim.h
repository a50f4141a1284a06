/* optim.h - front header of the floor train/: optimizers, clipping, schedules. */
#ifndef PF_OPTIM_H
#define PF_OPTIM_H

#include "module.h"

/* What a file holds of an optimizer, for a restore. Names, dtypes and shapes are looked at before a
 * number is read. */
typedef struct pf_saved {
    void *context;
    int n; /* tensors */
    const char *(*name)(const void *context, int i);
    int (*find)(const void *context, const char *name); /* -1: there is none */
    int (*about)(const void *context, int i, pf_dtype *dtype, int *rank, const int64_t **shape);
    /* Numbers first .. first + n - 1 of one that is f32. */
    int (*read)(void *context, int i, int64_t first, int64_t n, float *out);
} pf_saved;

/* For checkpoints (joined in api/): the optimizer's tensors by name ("<param>.m"), borrowed
 * list of pf_named to free with pf_heap_free(heap, list, n * sizeof *list); and its settings
 * and counters as plain data. former: pf_tree_has_former of the model that they were saved with.
 * fresh: the optimizer was made for this, and is closed if it fails; one that stands is as it was
 * then, which takes room for all its numbers aside. */
int pf_optimizer_tensors(const pf_optimizer *o, pf_named **list, int *n);
int pf_optimizer_config(const pf_optimizer *o, pf_config **config); /* type, options, steps */
int pf_optimizer_restore(pf_optimizer *o, const pf_saved *file, bool former, bool fresh,
                         const pf_config *config);
/* Ranks that train together keep a part of it each. Saving then is theirs together: a verb, after
 * which rank 0 has all of it until pf_optimizer_let_go, and alone can list it (PF_ESTATE
 * elsewhere). With one rank there is nothing to do. A restore reads what is the rank's own. */
int pf_optimizer_gather(const pf_optimizer *o, pf_engine *engine);
void pf_optimizer_let_go(const pf_optimizer *o);

/* rules.c, schedule.c: set `optimizers` and `schedules` of `to` (pf_describe). */
int pf_optimizers_describe(pf_config *to);
int pf_schedules_describe(pf_config *to);

#endif
