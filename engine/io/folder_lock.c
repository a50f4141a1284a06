/*
 * folder_lock.c - see folder_lock.h. A lock belongs to the handle that took it, so that
 * an engine's own saves would meet the lock that it holds: what is held stands in a list of the
 * engine's, by the numbers of the folder, since a folder has many paths.
 */
#include "folder_lock.h"

#include <errno.h>

#include "file.h"

typedef struct held_run {
    struct held_run *next;
    uint64_t volume, number;
    pf_file_access io; /* that opened it: the engine may have another by now */
    pf_file file;
} held_run;

/* What the engine keeps in its slot. */
typedef struct {
    held_run *first;
} held_runs;

/* Does this engine hold the folder that `info` is of? */
static bool is_held(const pf_engine *engine, const pf_file_info *info) {
    const held_runs *held = engine->own[PF_OWN_RUNS].thing;
    for (const held_run *h = held ? held->first : NULL; h; h = h->next)
        if (h->volume == info->volume && h->number == info->number) return true;
    return false;
}

static int open_run(pf_file *file, pf_engine *engine, pf_file_info *info, const char *run) {
    int result = pf_disk_open(file, engine, run, PF_OPEN_FOLDER, 0);
    if (result < 0) return pf_file_fail(result, "open", run);
    result = pf_disk_about(file, info);
    if (result >= 0) return PF_OK;
    pf_disk_close(file);
    return pf_file_fail(result, "look at", run);
}

/* 1: locked; 0: the disk has no locks; PF_ESTATE. The file stays open. */
static int lock(const pf_file *file, const char *run) {
    int result = pf_disk_lock(file);
    if (result >= 0) return 1;
    if (result != -EWOULDBLOCK) return 0;
    return pf_fail(PF_ESTATE, "checkpoint: another writer is at work in %s", run);
}

int pf_folder_lock_take(pf_folder_lock *l, pf_engine *engine, const char *run) {
    pf_file_info info = {0};
    *l = (pf_folder_lock){0};
    PF_TRY(open_run(&l->file, engine, &info, run));
    bool held = is_held(engine, &info);
    int status = held ? 0 : lock(&l->file, run);
    l->alone = held || status > 0;
    if (status <= 0) pf_folder_lock_drop(l);
    return status < 0 ? status : PF_OK;
}

void pf_folder_lock_drop(pf_folder_lock *l) { pf_disk_close(&l->file); }

/* ---- for long ---- */

static void let_go(pf_engine *engine, void *runs) {
    held_runs *held = runs;
    for (held_run *h; (h = held->first) != NULL;) {
        held->first = h->next;
        pf_disk_close(&h->file);
        pf_heap_free(engine->heap, h, sizeof *h);
    }
    pf_heap_free(engine->heap, held, sizeof *held);
}

static held_runs *runs_of(pf_engine *engine) {
    if (!engine->own[PF_OWN_RUNS].thing) {
        held_runs *held = pf_heap_zalloc(engine->heap, sizeof *held);
        if (held) pf_engine_own(engine, PF_OWN_RUNS, held, let_go);
    }
    return engine->own[PF_OWN_RUNS].thing;
}

static int remember(pf_engine *engine, const pf_file *file, const pf_file_info *info) {
    held_runs *held = runs_of(engine);
    held_run *h = held ? pf_heap_alloc(engine->heap, sizeof *h) : NULL;
    if (!h) return PF_ENOMEM;
    *h = (held_run){.next = held->first,
                    .volume = info->volume,
                    .number = info->number,
                    .io = *file->io,
                    .file = {&h->io, file->handle}};
    held->first = h;
    return PF_OK;
}

int pf_folder_hold(pf_engine *engine, const char *run) {
    pf_file_info info = {0};
    pf_file file;
    PF_TRY(pf_dir_make(engine, run));
    PF_TRY(open_run(&file, engine, &info, run));
    int status = is_held(engine, &info) ? 0 : lock(&file, run);
    if (status > 0) {
        status = remember(engine, &file, &info);
        if (status >= 0) return PF_OK;
    }
    pf_disk_close(&file);
    return status;
}
