/*
 * folder_own.c - see folder_own.h. What can't be looked at counts as somebody else's: a mistake
 * in this direction keeps a folder too many.
 */
#include "folder_own.h"

#include <errno.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "folder_list.h"

enum { ASIDES = 1000 }; /* names that are tried */

/* ---- the run's name ---- */

/* No two runs have the same: of when, by whom and where. It has no part in any training, so it
 * comes from no seed. */
static void new_name(char name[PF_HASH_TEXT], const char *run) {
    static atomic_uint count;
    struct {
        struct timespec now, since;
        uint64_t process, turn;
        char run[PF_HASH_TEXT];
    } key;
    memset(&key, 0, sizeof key);
    clock_gettime(CLOCK_REALTIME, &key.now);
    clock_gettime(CLOCK_MONOTONIC, &key.since);
    key.process = (uint64_t)getpid();
    key.turn = atomic_fetch_add(&count, 1u);
    pf_hash_bytes(run, strlen(run), key.run);
    pf_hash_bytes(&key, sizeof key, name);
}

int pf_run_name(char name[PF_HASH_TEXT], pf_engine *engine, const char *run) {
    uint64_t latest;
    char *folder;
    pf_manifest m = {0};
    if (pf_mark_read_in(engine, run, "LATEST", &latest) >= 0) {
        PF_TRY(pf_step_path(&folder, engine, run, latest));
        bool told = pf_manifest_read(&m, engine, folder) >= 0 && m.run[0];
        pf_path_free(folder);
        if (told) return memcpy(name, m.run, sizeof m.run), PF_OK;
    }
    new_name(name, run);
    return PF_OK;
}

/* ---- whose a step is ---- */

/* A folder itself, not a link to one. */
static bool is_real_folder(pf_engine *engine, const char *path) {
    pf_file_info info;
    return pf_disk_look(engine, path, &info) >= 0 && info.kind == PF_ENTRY_FOLDER;
}

/* Ends the list of a folder at the first name that its manifest does not list. */
static int find_other(void *to, const char *name) {
    bool listed = !strcmp(name, PF_MANIFEST_FILE) || pf_manifest_has(to, name);
    return listed ? 0 : -EEXIST;
}

/* Nothing lies in the folder but what its manifest lists. */
static bool only_listed(pf_engine *engine, pf_manifest *m, const char *folder) {
    return pf_disk_list(engine, folder, find_other, m) >= 0;
}

static bool is_there(pf_engine *engine, const char *path) {
    pf_file_info info;
    return pf_disk_look(engine, path, &info) != -ENOENT;
}

pf_step_owner pf_step_owner_of(pf_engine *engine, const char *run, uint64_t step,
                               const char *name) {
    pf_manifest m;
    char *path;
    pf_step_owner owner = PF_STEP_OTHER;
    if (pf_step_path(&path, engine, run, step) < 0) return owner;
    if (!is_there(engine, path)) {
        owner = PF_STEP_ABSENT;
    } else if (is_real_folder(engine, path) && pf_manifest_read(&m, engine, path) >= 0 &&
               !strcmp(m.run, name) && m.step == step) {
        owner = only_listed(engine, &m, path) ? PF_STEP_OWN : PF_STEP_FILLED;
    }
    pf_path_free(path);
    return owner;
}

/* ---- out of the way ---- */

static int free_name(char **aside, pf_engine *engine, const char *path) {
    for (int i = 1; i <= ASIDES; i++) {
        PF_TRY(i == 1 ? pf_path(aside, engine, "%s.aside", path)
                      : pf_path(aside, engine, "%s.aside-%d", path, i));
        if (!is_there(engine, *aside)) return PF_OK;
        pf_path_free(*aside);
    }
    *aside = NULL;
    return pf_fail(PF_EIO, "%s stands in the way, and is not this run's: move it", path);
}

/* Synced before its name is taken by another. */
static int rename_aside(pf_engine *engine, const char *run, const char *path, const char *aside) {
    int result = pf_disk_rename(engine, path, aside);
    if (result < 0) return pf_file_fail(result, "rename", path);
    int status = pf_dir_sync(engine, run);
    if (status < 0) pf_disk_rename(engine, aside, path);
    return status;
}

int pf_step_set_aside(char **aside, pf_engine *engine, const char *run, uint64_t step) {
    char *path;
    *aside = NULL;
    PF_TRY(pf_step_path(&path, engine, run, step));
    int status = free_name(aside, engine, path);
    if (status >= 0) status = rename_aside(engine, run, path, *aside);
    pf_path_free(path);
    if (status < 0) {
        pf_path_free(*aside);
        *aside = NULL;
        return status;
    }
    pf_log(engine, PF_LOG_WARN,
           "checkpoint: step-%" PRIu64 " in %s is not known to be of this run; it is now %s", step,
           run, pf_path_name(*aside));
    return PF_OK;
}
