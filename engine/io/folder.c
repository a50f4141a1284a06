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

#include "folder_list.h"

/* What is looked for: a whole checkpoint, and one that `use` can do its work with. */
typedef struct {
    pf_engine *engine;
    bool contents;
    pf_purpose purpose;
    pf_use_fn use; /* NULL: to be found is enough */
    void *context;
    bool settled; /* the checkpoint is whole, so what failed would fail with no other */
} search;

#define WEIGHTS "model.safetensors"

/* Every file that is listed, but those of training where nobody asks for them. */
static int verify(search *s, const pf_manifest *m, const char *folder, bool contents,
                  const char *unread) {
    static const char *const training[] = {"state.json", "optimizer.safetensors",
                                           "carried.safetensors", NULL};
    const char *missing;
    PF_TRY(pf_manifest_verify(m, s->engine, folder, contents, unread, training, &missing));
    if (s->purpose == PF_FOR_MODEL || !missing) return PF_OK;
    return pf_fail(PF_EFORMAT,
                   "%s in %s is missing: the folder is enough for running its model, not for going "
                   "on with the training",
                   missing, folder);
}

/* `use` reads the weights and sums them up on the way. Where it fails over what is in files, they
 * are summed up by themselves: damage is told from a file that is whole and wrong. */
static int use_whole(search *s, const pf_manifest *m, const char *folder) {
    char why[1024];
    int status = s->use(s->context, s->engine, folder, pf_manifest_hash(m, WEIGHTS));
    if (status == PF_EFORMAT) {
        snprintf(why, sizeof why, "%s", pf_last_error());
        PF_TRY(verify(s, m, folder, true, NULL));
        pf_fail(status, "%s", why);
    }
    s->settled = true;
    return status;
}

static int try_folder(search *s, const char *folder) {
    pf_manifest m;
    PF_TRY(pf_manifest_read(&m, s->engine, folder));
    PF_TRY(verify(s, &m, folder, s->contents, s->use ? WEIGHTS : NULL));
    bool complete = pf_manifest_has(&m, WEIGHTS) && pf_manifest_has(&m, "config.json");
    if (complete) return s->use ? use_whole(s, &m, folder) : PF_OK;
    return pf_fail(PF_EFORMAT,
                   "%s is no checkpoint: its manifest lacks config.json or "
                   "model.safetensors",
                   folder);
}

/* What a cut replacement has left of step-N; *old NULL: nothing. */
static int find_old(search *s, char **old, const char *run, uint64_t step) {
    bool there = false;
    PF_TRY(pf_path(old, s->engine, "%s/.step-%" PRIu64 ".old", run, step));
    int status = pf_look_for(s->engine, *old, &there, NULL);
    if (status >= 0 && there) return PF_OK;
    pf_path_free(*old);
    *old = NULL;
    return status;
}

/* step-N, or the .old of it. */
static int try_step(search *s, char **folder, const char *run, uint64_t step) {
    char *path, *old = NULL, why[512];
    PF_TRY(pf_step_path(&path, s->engine, run, step));
    int status = try_folder(s, path);
    if (status == PF_ENOTFOUND && !s->settled) {
        snprintf(why, sizeof why, "%s", pf_last_error());
        status = find_old(s, &old, run, step);
        if (status >= 0) status = old ? try_folder(s, old) : pf_fail(PF_ENOTFOUND, "%s", why);
    }
    if (old) {
        pf_path_free(path);
        path = old;
    }
    if (status >= 0)
        *folder = path;
    else
        pf_path_free(path);
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

/* Only what is wrong in the files of a checkpoint is made good by another one. Where the system
 * refuses to read, memory runs out or the host cancels, an older one would be the wrong one. */
static bool is_damage(int status) { return status == PF_EFORMAT || status == PF_ENOTFOUND; }

static int find_in_list(search *s, char **folder, const char *run, const pf_listing *l) {
    char first[512] = "";
    for (int i = 0; i < l->n; i++) {
        int status = try_step(s, folder, run, l->step[i]);
        if (status >= 0 && i > 0) {
            pf_log(s->engine, PF_LOG_WARN,
                   "checkpoint: %s; going on with step-%" PRIu64 " in %s, an older one", first,
                   l->step[i], run);
        }
        if (status >= 0 || s->settled || !is_damage(status)) return status;
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

static int find_in_run(search *s, char **folder, const char *run) {
    pf_engine *engine = s->engine;
    pf_listing l;
    uint64_t latest = UINT64_MAX;
    int mark = pf_mark_read_in(engine, run, "LATEST", &latest);
    if (mark < 0 && mark != PF_ENOTFOUND) {
        if (!is_damage(mark)) return mark;
        latest = UINT64_MAX;
        pf_log(engine, PF_LOG_WARN, "checkpoint: %s; looking for the newest", pf_last_error());
    }
    PF_TRY(pf_listing_read(&l, engine, run));
    int status = l.blind && mark >= 0 ? pf_listing_add(&l, latest) : PF_OK;
    bool listed = mark < 0;
    for (int i = 0; i < l.n; i++) listed = listed || l.step[i] == latest;
    if (!listed) {
        pf_log(engine, PF_LOG_WARN,
               "checkpoint: step-%" PRIu64 ", which LATEST in %s names, is "
               "missing; looking for an older one",
               latest, run);
    }
    order_steps(&l, latest);
    if (status >= 0) status = find_in_list(s, folder, run, &l);
    pf_listing_free(&l);
    return status;
}

/* "run/BEST": the one it names and no other, since that was asked for. */
static int find_marked(search *s, char **folder, const char *path) {
    uint64_t step;
    char *run;
    PF_TRY(pf_mark_read(s->engine, path, &step));
    PF_TRY(pf_path_parent(&run, s->engine, path));
    int status = try_step(s, folder, run, step);
    pf_path_free(run);
    return status;
}

bool pf_folder_is_mark(pf_engine *engine, const char *path) {
    uint64_t step;
    return pf_mark_read(engine, path, &step) >= 0;
}

/* A folder with a manifest is a checkpoint, one without a run. */
static int is_checkpoint(search *s, const char *path, bool *is) {
    char *manifest;
    PF_TRY(pf_path(&manifest, s->engine, "%s/manifest.json", path));
    int status = pf_look_for(s->engine, manifest, is, NULL);
    pf_path_free(manifest);
    return status;
}

#define WHAT_LOADS                                                                                 \
    "what is loaded is a folder, of a run or a checkpoint, or a mark in a run (RUN/BEST)"

/* Nothing was seen at `path`, and what looked for a mark there has said why. */
static int nothing_there(int status) {
    char why[1024];
    snprintf(why, sizeof why, "%s", pf_last_error());
    return pf_fail(status, "checkpoint: %s; check the path: " WHAT_LOADS, why);
}

static int find(search *s, char **folder, const char *path) {
    bool there, is_folder, checkpoint;
    *folder = NULL;
    if (!*path) return pf_fail(PF_EINVAL, "checkpoint: the path is empty; " WHAT_LOADS);
    PF_TRY(pf_look_for(s->engine, path, &there, &is_folder));
    const char *name = pf_path_name(path);
    if (there && !is_folder && strspn(name, PF_MARK_LETTERS) != strlen(name))
        return pf_fail(PF_EFORMAT, "checkpoint: %s is a file; " WHAT_LOADS, path);
    if (!is_folder) {
        int status = find_marked(s, folder, path);
        return status == PF_ENOTFOUND && !there ? nothing_there(status) : status;
    }
    PF_TRY(is_checkpoint(s, path, &checkpoint));
    if (!checkpoint) return find_in_run(s, folder, path);
    int status = try_folder(s, path);
    if (status >= 0) return pf_path(folder, s->engine, "%s", path);
    return s->settled ? status : pf_fail_in(status, "checkpoint");
}

int pf_folder_find(pf_engine *engine, char **folder, const char *path, bool contents,
                   pf_purpose purpose) {
    search s = {.engine = engine, .contents = contents, .purpose = purpose};
    return find(&s, folder, path);
}

int pf_folder_use(pf_engine *engine, const char *path, pf_purpose purpose, pf_use_fn use,
                  void *context) {
    search s = {
        .engine = engine, .contents = true, .purpose = purpose, .use = use, .context = context};
    char *folder;
    PF_TRY(find(&s, &folder, path));
    pf_path_free(folder);
    return PF_OK;
}

int pf_folder_config(pf_config **config, pf_engine *engine, const char *folder, const char *name) {
    char *path, *text;
    size_t bytes;
    *config = NULL;
    PF_TRY(pf_path(&path, engine, "%s/%s", folder, name));
    int status = pf_file_whole(engine, &text, &bytes, path, PF_JSON_BYTES);
    if (status >= 0) {
        status = pf_json_read(config, engine, text, bytes, path);
        pf_heap_free(engine->heap, text, bytes + 1);
    }
    pf_path_free(path);
    return status == PF_ENOTFOUND ? PF_OK : status;
}
