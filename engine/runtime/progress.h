/*
 * progress.h - what a long call is at, told to the host now and then (pf_options.progress), which
 * may end it. Long loops ask here instead of pf_check_cancel, on the thread that made the call and
 * never inside a task.
 */
#ifndef PF_PROGRESS_H
#define PF_PROGRESS_H

#include "engine.h"

/* Who is told, and when it was last. Lies in the engine's heap. */
struct pf_progress {
    pf_progress_fn fn;
    void *context;
    double every, last; /* seconds */
    bool telling;       /* a call of the host's own inside the callback tells nothing */
};

/* NULL where the options ask for none. */
int pf_progress_open(struct pf_progress **progress, pf_heap *heap, const pf_options *options);
void pf_progress_close(struct pf_progress **progress, pf_heap *heap);

/* pf_check_cancel, and where it is time tells that `done` of `total` (0: nobody knows) are done. */
int pf_progress_at(const pf_engine *engine, const char *what, int64_t done, int64_t total);

#endif
