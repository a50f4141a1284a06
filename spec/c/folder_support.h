/* folder_support.h - run folders of small checkpoints, for the tests that write and break them. */
#ifndef PF_FOLDER_SUPPORT_H
#define PF_FOLDER_SUPPORT_H

#include "check.h"
#include "folder.h"
#include "scratch.h"

static pf_engine *engine;
static char dir[256];
static int warnings;
static char warning[1024]; /* the last one */

static inline void on_log(void *context, pf_log_level level, const char *message) {
    (void)context;
    if (level != PF_LOG_WARN) return;
    warnings++;
    snprintf(warning, sizeof warning, "%s", message);
}

/* ---- a small checkpoint: every number in it is its step ------------------------ */

static inline int save_step(pf_engine *e, const char *run, uint64_t step, int64_t size, int keep) {
    pf_named weights[2] = {{"a", NULL}, {"b", NULL}}, moment = {"a.m", NULL};
    pf_config *config = pf_config_new(PF_MAP), *state = pf_config_new(PF_MAP);
    pf_config *tokenizer = pf_config_new_string("byte");
    pf_parts parts = {weights, 2, true, &moment, 1, NULL, config, state, tokenizer, NULL, 0, NULL};
    int status = pf_tensor_full(&weights[0].tensor, e, PF_F32, 1, &size, (double)step);
    if (status >= 0) status = pf_tensor_full(&weights[1].tensor, e, PF_I32, 0, NULL, (double)step);
    if (status >= 0) status = pf_tensor_full(&moment.tensor, e, PF_F32, 1, &size, -(double)step);
    if (status >= 0) status = pf_config_set_string(config, "type", "chain");
    if (status >= 0) status = pf_config_set_number(state, "step", (double)step);
    if (status >= 0) status = pf_folder_save(e, run, step, &parts, keep);
    for (int i = 0; i < 2; i++) pf_tensor_release(&weights[i].tensor);
    pf_tensor_release(&moment.tensor);
    pf_config_free(config);
    pf_config_free(state);
    pf_config_free(tokenizer);
    return status;
}

/* True when all of a tensor's values are `value`. */
static inline bool filled(const pf_tensor *t, double value) {
    bool good = true;
    for (int64_t i = 0; i < pf_tensor_numel(t); i++) {
        double got = NAN;
        good = pf_tensor_get(t, i, &got) >= 0 && got == value && good;
    }
    return good;
}

static inline int64_t read_file_of(const char *folder, const char *name, double sign, double step) {
    pf_named *list = NULL;
    int n = 0;
    bool good = true;
    if (pf_safetensors_load(engine, scratch_path("%s/%s", folder, name), &list, &n, NULL) < 0) {
        return -1;
    }
    for (int i = 0; i < n; i++) good = good && filled(list[i].tensor, sign * step);
    pf_named_free(list, n);
    return good ? n : -1;
}

/* Finds and reads a checkpoint whole; its step, or a negative status, or -1000 when what it
 * holds is not of one piece. */
static inline int64_t load_step(const char *path) {
    char *folder = NULL;
    pf_config *state = NULL;
    int status = pf_folder_find(engine, &folder, path, true, PF_FOR_TRAINING);
    if (status >= 0) status = pf_folder_config(&state, engine, folder, "state.json");
    if (status < 0) {
        pf_path_free(folder);
        return status;
    }
    double step = pf_config_number(pf_config_get(state, "step"));
    bool good = read_file_of(folder, "model.safetensors", 1, step) == 2 &&
                read_file_of(folder, "optimizer.safetensors", -1, step) == 1;
    pf_config_free(state);
    pf_path_free(folder);
    return good ? (int64_t)step : -1000;
}

/* A new run folder's path: it stands until the next call. */
static inline const char *run_folder(const char *name) {
    static char run[300];
    snprintf(run, sizeof run, "%s/%s", dir, name);
    scratch_remove(run);
    return run;
}

/* The engine of the test, and its folder. */
static inline void folder_open(void) {
    pf_options options = PF_OPTIONS_DEFAULT;
    options.threads = 1;
    options.log = on_log;
    options.allocator = &scratch_allocator;
    CHECK_OK(pf_engine_open(&engine, &options));
    scratch_open(dir, sizeof dir);
}

static inline int folder_close(void) {
    scratch_remove(dir);
    pf_engine_close(&engine);
    CHECK(scratch_held == 0);
    return CHECK_REPORT();
}

#endif
