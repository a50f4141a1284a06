/*
 * folder.c - finding checkpoints: see folder.h for the layout. Nothing in a folder is
 * parsed before its manifest and every size and checksum in it have been verified, and
 * finding writes nothing: a reader may stand beside a writer.
 */
#include "folder.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "folder_list.h"

static int verify(pf_engine *engine, const char *folder, bool contents) {
    pf_manifest m;
    PF_TRY(pf_manifest_read(&m, folder));
    PF_TRY(pf_manifest_verify(&m, engine, folder, contents));
    bool complete = pf_manifest_has(&m, "model.safetensors") && pf_manifest_has(&m, "config.json");
    if (complete) return PF_OK;
    return pf_fail(PF_EFORMAT,
                   "%s is no checkpoint: its manifest lacks config.json or "
                   "model.safetensors",
                   folder);
}

/* step-N, or the .old that a cut replacement has left of it. */
static int try_step(pf_engine *engine, char **folder, const char *run, uint64_t step,
                    bool contents) {
    char *path, *old;
    PF_TRY(pf_step_path(&path, run, step));
    int status = verify(engine, path, contents);
    if (status == PF_ENOTFOUND && pf_path(&old, "%s/.step-%" PRIu64 ".old", run, step) >= 0) {
        if (access(old, F_OK) == 0) {
            free(path);
            path = old;
            status = verify(engine, path, contents);
        } else {
            free(old);
        }
    }
    if (status >= 0)
        *folder = path;
    else
        free(path);
    return status;
}

/* LATEST first, then what is older, newest first, then other courses of the run. */
static void order_steps(pf_listing *l, uint64_t latest) {
    uint64_t *ordered = l->step;
    int below = 0;
    while (below < l->n && ordered[below] > latest) below++;
    for (int turn = 0; turn < below; turn++) { /* rotates the newer ones to the end */
        uint64_t first = ordered[0];
        memmove(ordered, ordered + 1, ((size_t)l->n - 1) * sizeof *ordered);
        ordered[l->n - 1] = first;
    }
}

/* A failure that another checkpoint can make good. */
static bool is_damage(int status) {
    return status == PF_EFORMAT || status == PF_ENOTFOUND || status == PF_EIO ||
           status == PF_EINVAL;
}

static int find_in_list(pf_engine *engine, char **folder, const char *run, const pf_listing *l,
                        bool contents) {
    char first[512] = "";
    for (int i = 0; i < l->n; i++) {
        int status = try_step(engine, folder, run, l->step[i], contents);
        if (status >= 0) {
            if (i > 0) {
                pf_log(engine, PF_LOG_WARN, "checkpoint: %s; going on with step-%" PRIu64, first,
                       l->step[i]);
            }
            return PF_OK;
        }
        if (!is_damage(status)) return status;
        if (i == 0) snprintf(first, sizeof first, "%s", pf_last_error());
    }
    if (l->n == 0) {
        return pf_fail(PF_ENOTFOUND,
                       "checkpoint: none in %s (a checkpoint folder has a "
                       "manifest.json, a run folder has step-N folders)",
                       run);
    }
    return pf_fail(PF_EFORMAT, "checkpoint: %s; %s", first,
                   l->n > 1 ? "the others are damaged too" : "there is no other");
}

static int find_in_run(pf_engine *engine, char **folder, const char *run, bool contents) {
    pf_listing l;
    uint64_t latest = UINT64_MAX;
    int mark = pf_mark_read_in(run, "LATEST", &latest);
    if (mark < 0 && mark != PF_ENOTFOUND) {
        if (!is_damage(mark)) return mark;
        latest = UINT64_MAX;
        pf_log(engine, PF_LOG_WARN, "checkpoint: %s; looking for the newest", pf_last_error());
    }
    PF_TRY(pf_listing_read(&l, run));
    bool listed = mark < 0;
    for (int i = 0; i < l.n; i++) listed = listed || l.step[i] == latest;
    int status = PF_OK;
    if (!listed) {
        pf_log(engine, PF_LOG_WARN,
               "checkpoint: step-%" PRIu64 ", which LATEST in %s names, is "
               "missing; looking for an older one",
               latest, run);
    }
    order_steps(&l, latest);
    status = find_in_list(engine, folder, run, &l, contents);
    pf_listing_free(&l);
    return status;
}

/* "run/BEST": the one it names and no other, since that was asked for. */
static int find_marked(pf_engine *engine, char **folder, const char *path, bool contents) {
    uint64_t step;
    PF_TRY(pf_mark_read(path, &step));
    const char *slash = strrchr(path, '/');
    char *run;
    PF_TRY(slash ? pf_path(&run, "%.*s", (int)(slash - path), path) : pf_path(&run, "."));
    int status = try_step(engine, folder, *run ? run : "/", step, contents);
    free(run);
    return status;
}

bool pf_folder_is_mark(const char *path) {
    uint64_t step;
    return pf_mark_read(path, &step) >= 0;
}

int pf_folder_find(pf_engine *engine, char **folder, const char *path, bool contents) {
    pf_reader r;
    *folder = NULL;
    int status = pf_reader_open(&r, path);
    if (status >= 0) {
        pf_reader_close(&r);
        return find_marked(engine, folder, path, contents);
    }
    if (status != PF_EINVAL) return status; /* missing or unreadable; EINVAL: a folder */
    status = verify(engine, path, contents);
    if (status >= 0) return pf_path(folder, "%s", path);
    char *manifest;
    PF_TRY(pf_path(&manifest, "%s/manifest.json", path));
    bool is_checkpoint = access(manifest, F_OK) == 0;
    free(manifest);
    if (!is_checkpoint) return find_in_run(engine, folder, path, contents);
    return pf_fail_in(status, "checkpoint");
}

int pf_folder_config(pf_config **config, const char *folder, const char *name) {
    char *path, *text;
    size_t bytes;
    *config = NULL;
    PF_TRY(pf_path(&path, "%s/%s", folder, name));
    int status = pf_file_read(&text, &bytes, path, PF_JSON_BYTES);
    if (status == PF_ENOTFOUND) {
        free(path);
        return PF_OK;
    }
    if (status >= 0) {
        status = pf_json_parse(config, text, bytes);
        if (status < 0) status = pf_fail_in(status, "%s", path);
        free(text);
    }
    free(path);
    return status;
}
