/* progress.c - see progress.h. */
#include "progress.h"

/* Seconds between two calls, where the host doesn't say. */
static const double a_tenth = 0.1;

int pf_progress_open(struct pf_progress **progress, pf_heap *heap, const pf_options *options) {
    *progress = NULL;
    if (!options->progress) return PF_OK;
    struct pf_progress *p = *progress = pf_heap_alloc(heap, sizeof *p);
    if (!p) return PF_ENOMEM;
    double every = options->progress_every > 0 ? options->progress_every : a_tenth;
    *p = (struct pf_progress){options->progress, options->progress_context, every, pf_clock(),
                              false};
    return PF_OK;
}

void pf_progress_close(struct pf_progress **progress, pf_heap *heap) {
    pf_heap_free(heap, *progress, sizeof **progress);
    *progress = NULL;
}

int pf_progress_at(const pf_engine *engine, const char *what, int64_t done, int64_t total) {
    struct pf_progress *p = engine->progress;
    PF_TRY(pf_check_cancel(engine));
    if (!p || p->telling || engine->shield > 0) return PF_OK;
    double now = pf_clock();
    if (now - p->last < p->every) return PF_OK;
    p->last = now;
    p->telling = true;
    int status = p->fn(p->context, what, (uint64_t)done, (uint64_t)total);
    p->telling = false;
    return status == 0 ? PF_OK : pf_fail(PF_ECANCEL, "cancelled by the host while %s", what);
}
