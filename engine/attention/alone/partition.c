/*
 * partition.c - sums over keys for chosen queries: the denominators of attention without its
 * numerators, by the way of its kind (sums_linear.c, sums_exact.c).
 */
#include "partition.h"

#include <stdio.h>
#include <string.h>

int pf_partition_tasks(pf_partition *p, size_t bytes, pf_task_fn task, void *context) {
    atomic_int stopped = 0;
    p->stopped = &stopped;
    int status = pf_parallel(p->engine, p->B * p->H, bytes, task, context);
    p->stopped = NULL;
    PF_TRY(status);
    return pf_stopped_fail(p->engine, atomic_load(&stopped));
}

int pf_partition_run(pf_partition *p) {
    return pf_partition_tasks(p, p->sums->bytes(p), p->sums->run, p);
}

int pf_partition_untold(const pf_attention_kind *kind, const char *where) {
    const pf_attention_kind *k;
    char names[96] = "";
    for (int i = 0; (k = pf_kind_at(i)) != NULL; i++) {
        size_t n = strlen(names);
        if (k->sums) snprintf(names + n, sizeof names - n, "%s%s", n > 0 ? ", " : "", k->name);
    }
    return pf_fail(PF_EINVAL, "%s: the weights of %s attention can't be told; those of %s can",
                   where, kind->name, names);
}

int pf_partition_attention(const pf_attention_kind **kind, pf_kernel **bound, pf_engine *e,
                           const char *attention, pf_kernel *kernel, int64_t d, int64_t heads,
                           const char *where) {
    *bound = NULL;
    PF_TRY(pf_kind_find(kind, attention, where));
    if (!(*kind)->sums) return pf_partition_untold(*kind, where);
    if (!(*kind)->takes_kernel) {
        return kernel ? pf_fail(PF_EINVAL, "%s: %s attention takes no kernel", where, (*kind)->name)
                      : PF_OK;
    }
    if (kernel) return pf_kernel_bind(bound, e, kernel, d, heads);
    PF_TRY(pf_kernel_open(&kernel, e, NULL, NULL));
    int status = pf_kernel_bind(bound, e, kernel, d, heads);
    pf_kernel_release(&kernel);
    return status;
}
