/*
 * engine.c - opening and closing the runtime part of an engine: options, heap, threads, CPU
 * level; the logger. What must hold: nothing of the host's is changed, and a failed open leaves
 * nothing behind.
 */
#include "engine.h"

#include <omp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "cpu.h"
#include "meter.h"
#include "number.h"
#include "progress.h"

enum { MAX_THREADS = 1024, LEAST_STACK = 64 << 10 };

static int read_workers(pf_workers *out, const pf_workers *given) {
    *out = (pf_workers){.size = sizeof *out};
    PF_TRY(pf_options_take(out, sizeof *out, given, "workers"));
    if (out->stack == 0 || out->stack >= LEAST_STACK) return PF_OK;
    return pf_fail(PF_EINVAL, "workers: a stack of %zu bytes; at least %d are needed", out->stack,
                   LEAST_STACK);
}

/* What is no choice among several, and could be taken for a default, is none. */
static int read_options(pf_options *out, const pf_options *given) {
    *out = (pf_options)PF_OPTIONS_DEFAULT;
    PF_TRY(pf_options_take(out, sizeof *out, given, "engine"));
    if (out->log_level > PF_LOG_SILENT)
        return pf_fail(PF_EINVAL,
                       "engine: options.log_level is %d, must be PF_LOG_DEBUG (%d) to "
                       "PF_LOG_SILENT (%d)",
                       (int)out->log_level, PF_LOG_DEBUG, PF_LOG_SILENT);
    if (!(out->progress_every >= 0))
        return pf_fail(PF_EINVAL, "engine: options.progress_every is %g: seconds, or 0 for a tenth",
                       out->progress_every);
    if (out->threads < 0 || out->threads > MAX_THREADS)
        return pf_fail(PF_EINVAL, "engine: options.threads is %d, must be 0 to %d", out->threads,
                       MAX_THREADS);
    return PF_OK;
}

/* What a host gives is whole, or nothing of it is taken. */
static int take_files(pf_file_access *files, const pf_file_access *given) {
    pf_file_access own = {.size = sizeof own};
    if (given) PF_TRY(pf_options_take(&own, sizeof own, given, "files"));
    if (given && (!own.open || !own.about || !own.read_at || !own.close))
        return pf_fail(PF_EINVAL, "files: open, about, read_at and close are needed");
    *files = own;
    return PF_OK;
}

int pf_engine_files(pf_engine *engine, const pf_file_access *access) {
    PF_OPEN(engine);
    return take_files(&engine->files, access);
}

const pf_file_access *pf_engine_lend_files(pf_engine *engine, const pf_file_access *access) {
    if (!engine) return NULL;
    const pf_file_access *before = engine->lent;
    engine->lent = access;
    return before;
}

/* *engine is overwritten; on failure it holds nothing that has to be closed. */
int pf_runtime_open(pf_engine *engine, const pf_options *options) {
    pf_options o;
    memset(engine, 0, sizeof *engine);
    PF_TRY(read_options(&o, options));
    PF_TRY(read_workers(&engine->workers, o.workers));
    PF_TRY(take_files(&engine->files, o.files));
    PF_TRY(pf_cpu_choose(o.cpu, &engine->cpu));
    PF_TRY(pf_heap_open(&engine->heap, o.allocator, o.memory));
    if (o.no_cache) pf_heap_uncached(engine->heap);
    int threads = o.threads ? o.threads : omp_get_max_threads();
    engine->threads = threads < 1 ? 1 : threads > MAX_THREADS ? MAX_THREADS : threads;
    engine->seed = o.seed;
    engine->log = o.log;
    engine->log_context = o.log_context;
    engine->log_level = o.log_level;
    engine->cancel = o.cancel;
    engine->memory = o.memory;
    int workers = engine->workers.run ? 0 : engine->threads - 1;
    int status = pf_pool_open(&engine->pool, engine->heap, workers, &engine->workers);
    engine->workers.name = NULL; /* the pool has a copy */
    if (status >= 0) status = pf_progress_open(&engine->progress, engine->heap, &o);
    if (status < 0) pf_runtime_close(engine);
    return status;
}

/* Tensors and modules that outlive the engine keep the heap, but not its cache. */
void pf_runtime_close(pf_engine *engine) {
    if (engine->closed) return;
    for (int slot = 0; slot < PF_OWN_SLOTS; slot++) pf_engine_own(engine, slot, NULL, NULL);
    pf_pool_close(&engine->pool, engine->heap);
    pf_progress_close(&engine->progress, engine->heap);
    pf_heap_free(engine->heap, engine->scratch, engine->scratch_bytes * (size_t)engine->threads);
    pf_heap_pays(engine->heap, NULL);
    pf_heap_free(engine->heap, engine->limit, sizeof *engine->limit);
    engine->scratch = NULL;
    engine->scratch_bytes = 0;
    engine->meter = engine->limit = engine->payer = NULL;
    engine->closed = true;
    pf_heap *heap = engine->heap; /* the engine may go with it */
    pf_heap_trim(heap);
    pf_heap_release(heap);
}

int pf_engine_check(const pf_engine *engine, const char *where) {
    if (!engine) return pf_fail(PF_EINVAL, "%s: engine is NULL", where);
    return engine->closed ? pf_fail(PF_ESTATE, "%s: its engine has closed", where) : PF_OK;
}

pf_engine *pf_engine_retain(pf_engine *engine) {
    if (engine) pf_heap_hold(engine->heap);
    return engine;
}

void pf_engine_release(pf_engine **engine) {
    pf_engine *e = engine ? *engine : NULL;
    if (!e) return;
    *engine = NULL;
    pf_heap_drop(e->heap);
}

bool pf_engine_closed(const pf_engine *engine) { return engine && engine->closed; }

void pf_engine_own(pf_engine *engine, pf_own_slot slot, void *thing, pf_own_close close) {
    void *before = engine->own[slot].thing;
    pf_own_close close_before = engine->own[slot].close;
    engine->own[slot].thing = thing;
    engine->own[slot].close = close;
    if (before && close_before) close_before(engine, before);
}

void pf_log(const pf_engine *engine, pf_log_level level, const char *format, ...) {
    char text[1024], read[1024];
    if (!engine->log || level < engine->log_level || level >= PF_LOG_SILENT) return;
    va_list args;
    va_start(args, format);
    int length = pf_vprint(text, sizeof text, format, args);
    va_end(args);
    if (length < 0) return;
    pf_places_from(0, text, read, sizeof read);
    engine->log(engine->log_context, level, read);
}

void pf_engine_reset_peak(pf_engine *engine) {
    if (engine) pf_heap_reset_peak(engine->heap);
}
