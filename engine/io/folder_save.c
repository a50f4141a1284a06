/*
 * folder_save.c - writing checkpoints: see folder.h for the layout and the protocol. What
 * must hold after every single step of pf_folder_save, should the process end there: the
 * newest complete checkpoint under its final name loads, and none that is incomplete has a
 * final name.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "folder.h"
#include "folder_list.h"
#include "folder_lock.h"
#include "folder_own.h"

/* ---- taking away -------------------------------------------------------------- */

static void remove_temp(pf_engine *engine, const char *run, const char *name) {
    char *path;
    if (pf_path(&path, engine, "%s/%s", run, name) < 0) return;
    if (pf_disk_remove(engine, path) < 0) pf_dir_remove(engine, path);
    pf_path_free(path);
}

/* A replacement that was cut short: the old folder gets its name back, unless the new one
 * has arrived. */
static void recover_old(pf_engine *engine, const char *run, uint64_t step) {
    char *path = NULL, *old = NULL;
    bool good = pf_step_path(&path, engine, run, step) >= 0 &&
                pf_path(&old, engine, "%s/.step-%" PRIu64 ".old", run, step) >= 0;
    if (good && pf_is_there(engine, old)) {
        if (pf_is_there(engine, path))
            pf_dir_remove(engine, old);
        else
            pf_disk_rename(engine, old, path);
    }
    pf_path_free(old);
    pf_path_free(path);
}

static int clean(pf_engine *engine, const char *run, bool alone) {
    pf_listing l;
    PF_TRY(pf_listing_read(&l, engine, run));
    for (int i = 0; i < l.n_temp; i++) {
        if (alone || pf_temp_is_dead(l.temp[i])) remove_temp(engine, run, l.temp[i]);
    }
    for (int i = 0; i < l.n; i++) recover_old(engine, run, l.step[i]);
    pf_listing_free(&l);
    return PF_OK;
}

/* Renamed first, that it is so synced, then emptied: a folder with a final name is complete or
 * absent. */
static bool drop_step(pf_engine *engine, const char *run, uint64_t step) {
    char *path = NULL, *temp = NULL;
    bool good =
        pf_step_path(&path, engine, run, step) >= 0 &&
        pf_path(&temp, engine, "%s/.step-%" PRIu64 ".tmp-%ld", run, step, (long)getpid()) >= 0;
    good = good && pf_disk_rename(engine, path, temp) >= 0 && pf_dir_sync(engine, run) >= 0;
    good = good && pf_dir_remove(engine, temp);
    pf_path_free(temp);
    pf_path_free(path);
    return good;
}

/* Only what the run wrote counts, and goes. Steps above the one just written belong to another
 * course of the run: they stay. */
static void prune(pf_engine *engine, const char *run, uint64_t newest, const char *name, int keep) {
    pf_listing l;
    uint64_t best;
    if (keep <= 0) return;
    int status = pf_mark_read_in(engine, run, "BEST", &best);
    bool has_best = status >= 0;
    /* A BEST that can't be read might name any of them. */
    if (has_best || status == PF_ENOTFOUND) status = pf_listing_read(&l, engine, run);
    if (status < 0) {
        pf_log(engine, PF_LOG_WARN, "checkpoint: old ones are not removed: %s", pf_last_error());
        return;
    }
    for (int i = 0, kept = 0; i < l.n; i++) {
        if (l.step[i] > newest) continue;
        pf_step_owner owner = pf_step_owner_of(engine, run, l.step[i], name);
        if (owner < PF_STEP_FILLED) continue;
        if (kept++ < keep || owner == PF_STEP_FILLED || (has_best && l.step[i] == best)) continue;
        if (drop_step(engine, run, l.step[i])) continue;
        pf_log(engine, PF_LOG_WARN, "checkpoint: step-%" PRIu64 " in %s could not be removed",
               l.step[i], run);
    }
    pf_listing_free(&l);
}

/* ---- writing ------------------------------------------------------------------ */

typedef int (*put_fn)(pf_writer *w, pf_engine *engine, const void *what);

/* A folder that is being written: where it lies, and the name that it will have. */
typedef struct {
    pf_engine *engine;
    const char *temp, *path;
} place;

static int put_file(pf_manifest *m, const place *at, const char *name, put_fn put,
                    const void *what) {
    char hash[PF_HASH_TEXT];
    pf_writer w;
    PF_TRY(pf_writer_open_in(&w, at->engine, at->temp, at->path, name));
    int status = put(&w, at->engine, what);
    int64_t size = w.size;
    if (status < 0)
        pf_writer_abort(&w);
    else
        status = pf_writer_commit(&w, hash);
    return status < 0 ? status : pf_manifest_add(m, name, size, hash);
}

static int put_weights(pf_writer *w, pf_engine *engine, const void *what) {
    const pf_parts *parts = what;
    return pf_safetensors_write(engine, w, parts->weights, parts->n_weights, parts->metadata);
}

static int put_moments(pf_writer *w, pf_engine *engine, const void *what) {
    const pf_parts *parts = what;
    return pf_safetensors_write(engine, w, parts->moments, parts->n_moments, NULL);
}

static int put_carried(pf_writer *w, pf_engine *engine, const void *what) {
    const pf_parts *parts = what;
    return pf_safetensors_write(engine, w, parts->carried, parts->n_carried,
                                parts->carried_metadata);
}

/* What is written must be readable: the reader's caps hold here too. */
static int put_json(pf_writer *w, pf_engine *engine, const void *what) {
    pf_text text = {.heap = engine->heap};
    pf_config *back = NULL;
    int status = pf_json_put(&text, what, true);
    pf_text_put(&text, "\n", 1);
    if (status >= 0 && text.failed) status = pf_fail(PF_ENOMEM, "out of memory");
    if (status >= 0) status = pf_writer_put(w, text.data, text.size);
    if (status >= 0) status = pf_json_read(&back, engine, text.data, text.size, "json");
    pf_config_free(back);
    pf_text_close(&text);
    return status;
}

/* name: the run's, "" of a folder that stands alone. */
static int write_parts(const place *at, const pf_parts *parts, const char *name, uint64_t step) {
    pf_manifest m = {.step = step};
    const struct {
        const char *name;
        const pf_config *config;
    } texts[] = {
        {"config.json", parts->config},
        {"state.json", parts->state},
        {"tokenizer.json", parts->tokenizer},
    };
    for (int i = 0; i < PF_COUNT(texts); i++) {
        if (!texts[i].config) continue;
        int status = put_file(&m, at, texts[i].name, put_json, texts[i].config);
        if (status < 0) return pf_fail_in(status, "%s", texts[i].name);
    }
    PF_TRY(put_file(&m, at, "model.safetensors", put_weights, parts));
    if (parts->has_moments) {
        PF_TRY(put_file(&m, at, "optimizer.safetensors", put_moments, parts));
    }
    if (parts->carried) {
        PF_TRY(put_file(&m, at, "carried.safetensors", put_carried, parts));
    }
    snprintf(m.run, sizeof m.run, "%s", name);
    PF_TRY(pf_manifest_write(&m, at->engine, at->temp, at->path));
    return pf_dir_sync(at->engine, at->temp);
}

/* Gives the complete folder `temp` its name; a folder of that name is swapped out, and is
 * then what `temp` holds. */
static int install(pf_engine *engine, const char *temp, const char *path, const char *old) {
    int result = pf_disk_rename(engine, temp, path);
    if (result >= 0) return PF_OK;
    if (result != -ENOTEMPTY && result != -EEXIST) return pf_file_fail(result, "rename to", path);
    result = pf_disk_exchange(engine, temp, path);
    if (result >= 0) return PF_OK;
    if (result != -ENOSYS && result != -EINVAL && result != -EOPNOTSUPP) {
        return pf_file_fail(result, "replace", path);
    }
    /* In two steps: between them the reader and the next writer know .step-N.old. */
    result = pf_disk_rename(engine, path, old);
    if (result < 0) return pf_file_fail(result, "replace", path);
    result = pf_disk_rename(engine, temp, path);
    if (result >= 0) return PF_OK;
    pf_disk_rename(engine, old, path);
    return pf_file_fail(result, "replace", path);
}

/* A mark that stands beside its place until it is committed, which asks for no memory. */
static int open_mark(pf_writer *w, pf_engine *engine, const char *path, uint64_t step) {
    char text[40];
    int n = snprintf(text, sizeof text, "step-%" PRIu64 "\n", step);
    PF_TRY(pf_writer_open(w, engine, path));
    int status = pf_writer_put(w, text, (size_t)n);
    if (status < 0) pf_writer_abort(w);
    return status;
}

static int write_mark(pf_engine *engine, const char *run, const char *mark, uint64_t step) {
    char *path;
    pf_writer w;
    PF_TRY(pf_path(&path, engine, "%s/%s", run, mark));
    int status = open_mark(&w, engine, path, step);
    if (status >= 0) status = pf_writer_commit(&w, NULL);
    pf_path_free(path);
    return status;
}

/* What stands under the final name and is not the run's own moves out of the way. */
static int make_way(char **aside, pf_engine *engine, const char *run, uint64_t step,
                    const char *name) {
    pf_step_owner owner = pf_step_owner_of(engine, run, step, name);
    bool stays = owner == PF_STEP_OTHER || owner == PF_STEP_FILLED;
    return stays ? pf_step_set_aside(aside, engine, run, step) : PF_OK;
}

/* The temporary folder. */
static int make_temp(const place *at) {
    int result = pf_disk_make_dir(at->engine, at->temp);
    if (result == -EEXIST) { /* of a dead process with our number */
        pf_dir_remove(at->engine, at->temp);
        result = pf_disk_make_dir(at->engine, at->temp);
    }
    return result < 0 ? pf_file_fail(result, "make folder", at->path) : PF_OK;
}

static int save_named(pf_engine *engine, const char *run, uint64_t step, const pf_parts *parts,
                      const char *name, const char *temp, const char *path) {
    const place at = {engine, temp, path};
    char *old, *aside = NULL;
    PF_TRY(pf_path(&old, engine, "%s/.step-%" PRIu64 ".old", run, step));
    int status = make_temp(&at);
    bool made = status >= 0;
    if (status >= 0) status = write_parts(&at, parts, name, step);
    if (status >= 0) status = make_way(&aside, engine, run, step, name);
    if (status >= 0) status = install(engine, temp, path, old);
    /* The new name is on the disk before anything that it replaced goes. */
    bool installed = status >= 0;
    if (!installed && aside) pf_disk_rename(engine, aside, path); /* nothing came in its place */
    if (installed) status = pf_dir_sync(engine, run);
    if (made) pf_dir_remove(engine, temp); /* half written, or what was replaced, or gone already */
    if (installed) pf_dir_remove(engine, old);
    pf_path_free(aside);
    pf_path_free(old);
    return status;
}

/* A run begins at step 0; what is saved as step 0 over a run that has gone on was given no step. */
static int check_beginning(pf_engine *engine, const char *run, uint64_t step) {
    uint64_t latest;
    if (step > 0 || pf_mark_read_in(engine, run, "LATEST", &latest) < 0 || latest == 0)
        return PF_OK;
    return pf_fail(PF_ESTATE,
                   "%s holds a run that has come to step %" PRIu64
                   ": say which step this is, or choose another folder",
                   run, latest);
}

/* Once the checkpoint has its name, nothing but the disk keeps LATEST from naming it. */
static int save_marked(pf_engine *engine, const char *run, uint64_t step, const pf_parts *parts,
                       const char *name, const char *temp, const char *path, const char *mark) {
    pf_writer latest;
    PF_TRY(open_mark(&latest, engine, mark, step));
    int status = save_named(engine, run, step, parts, name, temp, path);
    if (status >= 0) return pf_writer_commit(&latest, NULL);
    pf_writer_abort(&latest);
    return status;
}

static int save_alone(pf_engine *engine, const char *run, uint64_t step, const pf_parts *parts,
                      int keep, bool alone) {
    char *temp = NULL, *path = NULL, *mark = NULL, name[PF_HASH_TEXT];
    PF_TRY(check_beginning(engine, run, step));
    int status = clean(engine, run, alone);
    if (status >= 0) status = pf_run_name(name, engine, run);
    if (status >= 0) status = pf_step_path(&path, engine, run, step);
    if (status >= 0) {
        status = pf_path(&temp, engine, "%s/.step-%" PRIu64 ".tmp-%ld", run, step, (long)getpid());
    }
    if (status >= 0) status = pf_path(&mark, engine, "%s/LATEST", run);
    if (status >= 0) status = save_marked(engine, run, step, parts, name, temp, path, mark);
    if (status >= 0) prune(engine, run, step, name, keep);
    pf_path_free(temp), pf_path_free(path), pf_path_free(mark);
    return status;
}

int pf_folder_save(pf_engine *engine, const char *run, uint64_t step, const pf_parts *parts,
                   int keep) {
    pf_folder_lock lock = {0};
    int status = pf_dir_make(engine, run);
    if (status >= 0) status = pf_folder_lock_take(&lock, engine, run);
    if (status >= 0) {
        status = save_alone(engine, run, step, parts, keep, lock.alone);
        pf_folder_lock_drop(&lock);
    }
    if (status >= 0) return PF_OK;
    return pf_fail_in(status, "checkpoint: step %" PRIu64 " is not saved", step);
}

/* ---- a folder that stands alone -------------------------------------------------- */

static int is_taken(const char *path) {
    return pf_fail(PF_ESTATE,
                   "%s is there already, with something in it: choose another folder, or remove it",
                   path);
}

/* Renaming asks again whether it is free; asked before, nothing is written in vain. */
static int check_free(pf_engine *engine, const char *path) {
    pf_names names;
    pf_file_info info;
    if (pf_disk_look_through(engine, path, &info) < 0) return PF_OK;
    if (info.kind != PF_ENTRY_FOLDER) return is_taken(path);
    if (pf_names_read(&names, engine, path) < 0) return PF_OK; /* can't be listed */
    const bool free = !pf_names_next(&names, NULL);
    pf_names_free(&names);
    return free ? PF_OK : is_taken(path);
}

static int save_at(const place *at, const char *parent, const pf_parts *parts) {
    PF_TRY(check_free(at->engine, at->path));
    PF_TRY(pf_dir_make(at->engine, parent));
    PF_TRY(make_temp(at));
    int status = write_parts(at, parts, "", 0);
    if (status >= 0) {
        int result = pf_disk_rename(at->engine, at->temp, at->path);
        if (result == -ENOTEMPTY || result == -EEXIST)
            status = is_taken(at->path);
        else if (result < 0)
            status = pf_file_fail(result, "rename to", at->path);
    }
    if (status >= 0) return pf_dir_sync(at->engine, parent);
    pf_dir_remove(at->engine, at->temp);
    return status;
}

int pf_folder_save_alone(pf_engine *engine, const char *folder, const pf_parts *parts) {
    place at = {.engine = engine};
    char *path, *parent = NULL, *temp = NULL;
    PF_TRY(pf_path(&path, engine, "%s", folder));
    for (size_t n = strlen(path); n > 1 && path[n - 1] == '/'; n--) path[n - 1] = 0;
    int status = pf_path_parent(&parent, engine, path);
    if (status >= 0) {
        const char *name = pf_path_name(path);
        status = pf_path(&temp, engine, "%.*s.%s.tmp-%ld", (int)(name - path), path, name,
                         (long)getpid());
    }
    at.path = path, at.temp = temp;
    if (status >= 0) status = save_at(&at, parent, parts);
    pf_path_free(temp), pf_path_free(parent), pf_path_free(path);
    return status < 0 ? pf_fail_in(status, "model: not saved") : PF_OK;
}

int pf_folder_mark(pf_engine *engine, const char *run, const char *mark, uint64_t step) {
    size_t length = strlen(mark);
    char *path;
    pf_folder_lock lock;
    if (length == 0 || length > 32 || strspn(mark, PF_MARK_LETTERS) != length) {
        return pf_fail(PF_EINVAL, "checkpoint: a mark is a word in capitals (BEST), not '%.40s'",
                       mark);
    }
    pf_file_info info;
    PF_TRY(pf_step_path(&path, engine, run, step));
    int result = pf_disk_look_through(engine, path, &info);
    int status = result < 0 ? pf_file_fail(result, "mark", path) : PF_OK;
    pf_path_free(path);
    if (status < 0) return status;
    PF_TRY(pf_folder_lock_take(&lock, engine, run));
    status = write_mark(engine, run, mark, step);
    pf_folder_lock_drop(&lock);
    return status;
}
