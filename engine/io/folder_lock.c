/*
 * folder_lock.c - see folder_lock.h. A lock belongs to the handle that took it, so that
 * an engine's own saves would meet the lock that it holds: what is held stands in a list of the
 * process, by the numbers of the folder, since a folder has many paths.
 */
#include "folder_lock.h"

#include <errno.h>
#include <pthread.h>

#include "file.h"

typedef struct held_run {
    struct held_run *next;
    const pf_heap *heap; /* of the engine that holds it: the same until the engine has closed */
    uint64_t volume, number;
    pf_file_access io; /* that opened it: the engine may have another by now */
    pf_file file;
} held_run;

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static held_run *all;

/* Does this engine hold the folder that `info` is of? */
static bool is_held(const pf_engine *engine, const pf_file_info *info) {
    bool found = false;
    pthread_mutex_lock(&mutex);
    for (const held_run *h = all; h && !found; h = h->next) {
        found = h->heap == engine->heap && h->volume == info->volume && h->number == info->number;
    }
    pthread_mutex_unlock(&mutex);
    return found;
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
    pf_file_info info;
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

static void let_go(pf_engine *engine, void *marker) {
    (void)marker;
    pthread_mutex_lock(&mutex);
    for (held_run **at = &all; *at;) {
        held_run *h = *at;
        if (h->heap != engine->heap) {
            at = &h->next;
            continue;
        }
        *at = h->next;
        pf_disk_close(&h->file);
        pf_heap_free(engine->heap, h, sizeof *h);
    }
    pthread_mutex_unlock(&mutex);
}

static int remember(pf_engine *engine, const pf_file *file, const pf_file_info *info) {
    held_run *h = pf_heap_alloc(engine->heap, sizeof *h);
    if (!h) return PF_ENOMEM;
    *h = (held_run){.heap = engine->heap,
                    .volume = info->volume,
                    .number = info->number,
                    .io = *file->io,
                    .file = {&h->io, file->handle}};
    pthread_mutex_lock(&mutex);
    h->next = all;
    all = h;
    pthread_mutex_unlock(&mutex);
    if (!engine->own[PF_OWN_RUNS].thing) pf_engine_own(engine, PF_OWN_RUNS, &all, let_go);
    return PF_OK;
}

int pf_folder_hold(pf_engine *engine, const char *run) {
    pf_file_info info;
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
