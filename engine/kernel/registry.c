/*
 * registry.c - the kernels that are open in an engine, newest first, so that options can name
 * one: a layer's options are plain data, and a map of the host's own or a given projection is
 * not. There are two ways to name:
 *
 *     handle   the number of an open kernel, in the options that pf_kernel_config gives out for
 *              the one call that carries them; any kernel has one
 *     name     of a kernel of the host's, when a model is built from a file, which keeps no handles
 *
 * The list does not own: a kernel leaves it when its last reference goes, and an engine that
 * closes first leaves its kernels listed nowhere. A kernel and its engine may be closed in either
 * order, so each must find the other gone: `place` is the pointer that points at a kernel in the
 * list (the list's first, or a neighbour's next), and NULL when it is in none.
 */
#include <string.h>

#include "kernel.h"

/* What the engine owns of it. */
typedef struct {
    pf_kernel *first;
} kernel_list;

/* Numbers given so far, by all engines: one names nothing in an engine that is not its own, and
 * none comes back. */
static atomic_uint_fast64_t opened;

/* The engine closes: kernels that are still held lie in no list, and lose their handle. */
static void close_list(pf_engine *e, void *thing) {
    kernel_list *list = thing;
    for (pf_kernel *k = list->first; k; k = k->next) k->place = NULL;
    pf_heap_free(e->heap, list, sizeof *list);
}

static kernel_list *list_of(const pf_engine *e) { return e->own[PF_OWN_KERNELS].thing; }

/* In front; the list is made with the first kernel. */
int pf_kernel_enlist(pf_kernel *k, pf_engine *e) {
    if (!list_of(e)) {
        kernel_list *list = pf_heap_zalloc(e->heap, sizeof *list);
        if (!list) return PF_ENOMEM;
        pf_engine_own(e, PF_OWN_KERNELS, list, close_list);
    }
    kernel_list *list = list_of(e);
    k->number = atomic_fetch_add(&opened, 1) + 1;
    k->next = list->first;
    k->place = &list->first;
    if (k->next) k->next->place = &k->next;
    list->first = k;
    return PF_OK;
}

void pf_kernel_leave(pf_kernel *k) {
    if (!k->place) return;
    *k->place = k->next;
    if (k->next) k->next->place = k->place;
    k->place = NULL;
}

uint64_t pf_kernel_handle(const pf_kernel *kernel) { return kernel->place ? kernel->number : 0; }

static pf_kernel *newest(const pf_engine *e) { return list_of(e) ? list_of(e)->first : NULL; }

/* A handle of a kernel that has closed, or of another engine's, is the caller's mistake. */
static int by_number(pf_kernel **kernel, const pf_engine *e, double number) {
    for (pf_kernel *k = newest(e); k; k = k->next) {
        if ((double)k->number != number) continue;
        *kernel = k;
        return PF_OK;
    }
    return pf_fail(PF_ENOTFOUND, "kernel: the one that the options name is not open");
}

/* Two of one name are no answer: which one was meant can't be known from data. No more can it of
 * one that has the name of all that were given none. */
static int by_name(pf_kernel **kernel, const pf_engine *e, const char *name) {
    pf_kernel *found = NULL;
    if (strcmp(name, PF_UNNAMED_KERNEL) == 0) {
        return pf_fail(PF_EINVAL,
                       "kernel: there is no '%s' to be told from others: all of the host's that "
                       "were given no name are called so; name the kernel, to build a model from "
                       "data, or load into a model that has it",
                       name);
    }
    for (pf_kernel *k = newest(e); k; k = k->next) {
        if (!k->host.map || strcmp(pf_kernel_name(k), name) != 0) continue;
        if (found) {
            return pf_fail(PF_EINVAL,
                           "kernel: two of the host's own are named '%s'; give each a "
                           "name, to build a model from data",
                           name);
        }
        found = k;
    }
    if (found) *kernel = found;
    return PF_OK;
}

/* A name that is none of ours and no open kernel's is not our business: whoever resolves the
 * options says so. */
int pf_kernel_named(pf_kernel **kernel, pf_engine *e, const pf_config *options) {
    const pf_config *number = options ? pf_config_get(options, "handle") : NULL;
    const pf_config *text = options ? pf_config_get(options, "name") : NULL;
    const char *name = text ? pf_config_string(text) : NULL;
    *kernel = NULL;
    if (number && e->loading) {
        return pf_fail(PF_EINVAL, "kernel: a file has no kernel that is open: no 'handle'");
    }
    if (number) return by_number(kernel, e, pf_config_number(number));
    return name && !pf_map_find(name) ? by_name(kernel, e, name) : PF_OK;
}
