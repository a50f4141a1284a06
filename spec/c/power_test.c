/*
 * power_test.c - power fails after every call that changes a disk: what was not synced is lost,
 * names or bytes or any part of both (power.h; 4 kinds, 20 with PF_LONG in the environment). What
 * must hold: what is found is whole, old or new, without a warning; and new, once the call had
 * returned. And every sync is needed: where one of them does nothing, some loss does harm. In
 * LIVING_IN_A_HOST.md: [files.4].
 */
#include "folder_support.h"
#include "power.h"

enum { MUTANT_KINDS = 16 };

static power_disk *disk;
static pf_engine *other; /* that finds the disk after the loss */

typedef struct {
    const char *name;
    void (*before)(void);
    int (*run)(void);
    bool (*good)(bool done); /* of the engine's disk: what is found; done: `run` has returned */
    bool no_exchange;
    int least; /* syncs that it has at least */
    int idle;  /* the last of them, that it alone does not need: LATEST says what it said before */
} scenario;

/* ---- what is done, and found ---- */

/* A step folder is whole, or its name is free. */
static bool steps_are_whole(void) {
    bool good = true;
    for (int step = 1; step <= 4; step++) {
        char path[32];
        snprintf(path, sizeof path, "run/step-%d", step);
        good = good && (!pf_is_there(engine, path) || load_step(path) == step);
    }
    return good;
}

static bool finds(int64_t old, int64_t new, bool done) {
    int64_t found = load_step("run");
    return (found == new || (!done && found == old)) && warnings == 0 && steps_are_whole();
}

static void nothing(void) {}
static void two_steps(void) {
    CHECK_OK(save_step(engine, "run", 1, 3, 0));
    CHECK_OK(save_step(engine, "run", 2, 3, 0));
}

static int save_first(void) { return save_step(engine, "deep/er/run", 1, 3, 0); }
static bool is_first(bool done) {
    int64_t found = load_step("deep/er/run");
    return warnings == 0 && (found == 1 || (!done && found == PF_ENOTFOUND));
}

static int save_new(void) { return save_step(engine, "run", 3, 3, 1); }
static bool is_new(bool done) { return finds(2, 3, done); }

static int save_again(void) { return save_step(engine, "run", 2, 4, 0); }
static bool is_again(bool done) { return finds(2, 2, done); }

static int save_kept(void) { return save_step(engine, "run", 3, 3, 0); }

/* Somebody's folder stands where the step goes: it must not be lost. */
static void foreign(void) {
    two_steps();
    CHECK_OK(pf_file_make_folder(engine, "run/step-3"));
    CHECK_OK(pf_file_write(engine, "run/step-3/note", "kept", 4));
}
static bool is_foreign(bool done) {
    char text[4];
    const char *place =
        pf_is_there(engine, "run/step-3/note") ? "run/step-3/note" : "run/step-3.aside/note";
    bool kept = pf_file_read(engine, place, 0, text, 4) >= 0 && !memcmp(text, "kept", 4);
    int64_t found = load_step("run");
    return kept && warnings == 0 && (found == 3 || (!done && found == 2));
}

static void best_is_one(void) {
    two_steps();
    CHECK_OK(pf_folder_mark(engine, "run", "BEST", 1));
}
static int mark_best(void) { return pf_folder_mark(engine, "run", "BEST", 2); }
static bool is_best(bool done) {
    int64_t best = load_step("run/BEST");
    return best == 2 || (!done && best == 1);
}

static int save_tensor(double value) {
    pf_tensor *t = NULL;
    int64_t n = 40;
    PF_TRY(pf_tensor_full(&t, engine, PF_F32, 1, &n, value));
    const pf_named named = {"x", t};
    int status = pf_safetensors_save(engine, "state", &named, 1, NULL);
    pf_tensor_release(&t);
    return status;
}
static void old_tensor(void) { CHECK_OK(save_tensor(1)); }
static int new_tensor(void) { return save_tensor(2); }
static bool is_tensor(bool done) {
    pf_named *list = NULL;
    int n = 0;
    if (pf_safetensors_load(engine, "state", &list, &n, NULL) < 0) return false;
    bool good = n == 1 && (filled(list[0].tensor, 2) || (!done && filled(list[0].tensor, 1)));
    pf_named_free(list, n);
    return good;
}

static pf_config *data_options(const char *path) {
    pf_config *options = pf_config_new(PF_MAP);
    CHECK_OK(pf_config_set_string(options, "path", path));
    return options;
}
static int make_shards(void) {
    static const char text[] = ">a\nMKLVAAG\n>b\nMKLIAAAGG\n>c\nMMKLL\n>d\nACDEF\n";
    PF_TRY(pf_memory_lend(engine, "memory:proteins", text, sizeof text - 1));
    pf_config *options = data_options("memory:proteins");
    int status = pf_data_shard(engine, options, "shards");
    pf_config_free(options);
    return status;
}
static bool are_shards(bool done) {
    pf_data *data = NULL;
    pf_data_info info = {.size = sizeof info};
    if (!pf_is_there(engine, "shards")) return !done;
    pf_config *options = data_options("shards");
    int status = pf_data_open(&data, engine, options);
    if (status >= 0) status = pf_data_counts(data, PF_ALL, NULL, NULL);
    if (status >= 0) status = pf_data_info_of(data, PF_ALL, &info);
    pf_data_close(&data);
    pf_config_free(options);
    return status >= 0 && info.documents == 4;
}

/* What a save of step 2 over step 2 left that ended in the middle, with all its calls done. */
static power_disk *cut;
static int cut_at;
static void keep_cut(void *context) {
    (void)context;
    if (disk->calls != cut_at) return;
    cut = power_copy(disk);
}
static void cut_save(void) {
    two_steps();
    disk->after = keep_cut;
    cut_at = disk->calls + 30;
    CHECK_OK(save_step(engine, "run", 2, 4, 0));
    CHECK(cut != NULL);
    power_close_disk(&disk);
    disk = cut, cut = NULL;
}

/* ---- the losses ---- */

static struct {
    const scenario *of;
    int kinds, bad, first_bad_call, first_bad_kind;
    bool quick; /* ends with the first harm */
} loss;

/* Is what is found after a loss of this kind good? */
static bool survives(int kind, bool done) {
    power_disk *left = power_fail(disk, kind);
    pf_engine *own = engine;
    left->access.exchange = disk->access.exchange;
    engine = other;
    pf_engine_files(engine, &left->access);
    warnings = 0;
    bool good = loss.of->good(done);
    good = good && left->open == 0;
    engine = own;
    power_close_disk(&left);
    return good;
}

static void lose(bool done) {
    for (int kind = 0; kind < loss.kinds && !(loss.quick && loss.bad); kind++) {
        if (survives(kind, done)) continue;
        if (!loss.bad++) loss.first_bad_call = disk->calls, loss.first_bad_kind = kind;
    }
}

static void lose_now(void *context) {
    (void)context;
    lose(false);
}

/* The scenario, with power failing after each of its calls; sync number `unsync` (< 0: none) does
 * nothing. How many syncs it has. */
static int run_losing(const scenario *s, int unsync, int kinds) {
    memset(&loss, 0, sizeof loss);
    loss.of = s;
    loss.kinds = kinds;
    loss.quick = unsync >= 0;
    disk = power_open_disk();
    if (s->no_exchange) disk->access.exchange = NULL;
    pf_engine_files(engine, &disk->access);
    s->before();
    if (s->no_exchange) disk->access.exchange = NULL;
    pf_engine_files(engine, &disk->access);
    int calls = disk->calls, syncs = disk->syncs;
    disk->unsync = unsync < 0 ? -1 : syncs + unsync;
    disk->after = lose_now;
    CHECK_OK(s->run());
    disk->after = NULL;
    lose(true);
    syncs = disk->syncs - syncs;
    loss.first_bad_call -= calls;
    CHECK(disk->open == 0);
    pf_engine_files(engine, NULL);
    power_close_disk(&disk);
    return syncs;
}

static void test_losses(const scenario *s, int kinds) {
    int syncs = run_losing(s, -1, kinds);
    if (loss.bad)
        fprintf(stderr, "  %s: %d losses do harm, the first of kind %d after call %d\n", s->name,
                loss.bad, loss.first_bad_kind, loss.first_bad_call);
    CHECK(loss.bad == 0);
    CHECK(syncs >= s->least);
    for (int i = 0; i < syncs; i++) {
        run_losing(s, i, MUTANT_KINDS);
        if (!loss.bad && i < syncs - s->idle)
            fprintf(stderr, "  %s: nothing needs sync %d of %d\n", s->name, i, syncs);
        CHECK(loss.bad > 0 || i >= syncs - s->idle);
    }
}

int main(void) {
    static const scenario scenarios[] = {
        {"a new run", nothing, save_first, is_first, false, 12, 1},
        {"a new step, an old one goes", two_steps, save_new, is_new, false, 11, 0},
        {"a step again", two_steps, save_again, is_again, false, 10, 1},
        {"a step again, without exchange", two_steps, save_again, is_again, true, 10, 1},
        {"somebody's folder", foreign, save_kept, is_foreign, false, 11, 0},
        {"a mark", best_is_one, mark_best, is_best, false, 2, 0},
        {"a file of tensors", old_tensor, new_tensor, is_tensor, false, 2, 0},
        {"shards", nothing, make_shards, are_shards, false, 6, 0},
        {"what a cut save left", cut_save, save_new, is_new, false, 10, 0},
    };
    pf_options options = PF_OPTIONS_DEFAULT;
    options.threads = 1;
    options.log = on_log;
    folder_open();
    CHECK_OK(pf_engine_open(&other, &options));
    for (int i = 0; i < PF_COUNT(scenarios); i++)
        test_losses(&scenarios[i], getenv("PF_LONG") ? 20 : POWER_KINDS);
    pf_engine_close(&other);
    return folder_close();
}
