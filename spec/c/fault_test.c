/*
 * fault_test.c - every call to a disk fails, once or from then on: too little is read or written,
 * the disk is broken, full, or interrupts. While saving, loading, training with checkpoints, making
 * shards, and while the next save makes good what a killed one left. What must hold: a status with
 * words or a whole result, nothing open, nothing leaked, nothing lost that was there.
 *
 * With PF_LONG in the environment pairs too: a second call fails some calls after the first. In
 * LIVING_IN_A_HOST.md: [files.5].
 */
#include "folder_support.h"
#include "inject.h"
#include "module.h"
#include "power.h"

static power_disk *disk;

/* What is done on a disk, and what must hold afterwards, whatever failed. */
typedef struct {
    const char *name;
    void (*before)(void);
    int (*run)(void);
    bool (*good)(int status);
    void (*after)(void); /* the disk works again; NULL: nothing more */
    int least;           /* calls that it has at least */
} scenario;

/* ---- saving ---- */

static void two_steps(void) {
    CHECK_OK(save_step(engine, "run", 1, 3, 0));
    CHECK_OK(save_step(engine, "run", 2, 3, 0));
}

/* A step folder is whole, or its name is free: also one that was being taken away. */
static bool steps_are_whole(void) {
    bool good = true;
    for (int step = 1; step <= 9; step++) {
        char path[32];
        snprintf(path, sizeof path, "run/step-%d", step);
        good = good && (!pf_is_there(engine, path) || load_step(path) == step);
    }
    return good;
}

static bool saved(int status, int64_t step) {
    char why[512];
    snprintf(why, sizeof why, "%s", pf_last_error());
    int64_t found = load_step("run");
    bool said = status >= 0 ? found == step : why[0] != '\0';
    return said && (found == 2 || found == step) && steps_are_whole();
}

static int save_new(void) { return save_step(engine, "run", 3, 4, 2); }
static int save_again(void) { return save_step(engine, "run", 2, 4, 2); }
static int save_deep(void) { return save_step(engine, "deep/er/run", 1, 4, 2); }
static bool is_new(int status) { return saved(status, 3); }
static bool is_again(int status) { return saved(status, 2); }
static bool is_deep(int status) {
    int64_t found = load_step("deep/er/run");
    return found == 1 || (status < 0 && found < 0);
}

/* The next one goes well, and cleans up. */
static int count_hidden(void *to, const char *name) { return *(int *)to += name[0] == '.', 0; }
static void save_next(void) {
    int hidden = 0;
    CHECK_OK(save_step(engine, "run", 9, 3, 2));
    CHECK_OK(pf_file_list(engine, "run", count_hidden, &hidden));
    CHECK(load_step("run") == 9 && hidden == 0);
}

static void nothing(void) {}

/* ---- marks, states, single files ---- */

static int mark_best(void) { return pf_folder_mark(engine, "run", "BEST", 1); }
static void best_is_two(void) {
    two_steps();
    CHECK_OK(pf_folder_mark(engine, "run", "BEST", 2));
}
static bool is_marked(int status) {
    int64_t best = load_step("run/BEST");
    return load_step("run") == 2 && best == (status >= 0 ? 1 : best) && (best == 1 || best == 2);
}

static int write_file(void) { return pf_file_write(engine, "file", "new bytes", 9); }
static void old_file(void) { CHECK_OK(pf_file_write(engine, "file", "old", 3)); }
static bool is_file(int status) {
    char text[9] = "";
    int64_t n = 0;
    if (pf_file_size(engine, "file", &n) < 0 || n > 9) return false;
    if (pf_file_read(engine, "file", 0, text, (size_t)n) < 0) return false;
    bool new = n == 9 && !memcmp(text, "new bytes", 9);
    return new || (status < 0 && n == 3 && !memcmp(text, "old", 3));
}

/* ---- loading: what is there is not made worse, and an older one is no answer ---- */

static int load_run(void) { return (int)load_step("run"); }
static bool is_loaded(int status) {
    return status == 2 || (status < 0 && pf_last_error()[0] && load_step("run") == 2);
}

static int remove_run(void) { return pf_file_remove(engine, "run"); }
static bool is_removed(int status) { return status < 0 || !pf_is_there(engine, "run"); }

/* ---- recovering from a kill in the middle of a save ---- */

static power_disk *killed_at;
static int kill_call, killed_behind;

static void keep_killed(void *context) {
    (void)context;
    if (disk->calls == killed_behind) killed_at = power_copy(disk);
}

/* The disk as a save of step 2 over step 2 left it that was killed behind this call. */
static void leave_killed(void) {
    two_steps();
    disk->after = keep_killed;
    killed_behind = disk->calls + kill_call;
    CHECK_OK(save_step(engine, "run", 2, 4, 2));
    disk->after = NULL;
    if (killed_at) {
        power_close_disk(&disk);
        disk = killed_at, killed_at = NULL;
    }
}

/* ---- shards ---- */

static pf_config *data_options(const char *path) {
    pf_config *options = pf_config_new(PF_MAP);
    CHECK_OK(pf_config_set_string(options, "path", path));
    return options;
}
static void proteins(void) {
    static const char text[] = ">a\nMKLVAAG\n>b\nMKLIAAAGG\n>c\nMMKLL\n>d\nACDEF\n";
    CHECK_OK(pf_file_write(engine, "proteins", text, sizeof text - 1));
}
static int make_shards(void) {
    pf_config *options = data_options("proteins");
    int status = pf_data_shard(engine, options, "shards");
    pf_config_free(options);
    return status;
}
static int count_left(void *to, const char *name) {
    return *(int *)to += strstr(name, ".tmp-") != NULL, 0;
}
static bool are_shards(int status) {
    pf_data *data = NULL;
    int left = 0;
    if (!pf_is_there(engine, "shards")) return status < 0;
    pf_config *options = data_options("shards");
    int opened = pf_data_open(&data, engine, options);
    if (opened >= 0) opened = pf_data_counts(data, PF_ALL, NULL, NULL);
    pf_data_close(&data);
    pf_config_free(options);
    pf_file_list(engine, ".", count_left, &left);
    return opened >= 0 && (status < 0 || left == 0);
}
static void shards_again(void) {
    int left = 0;
    if (!pf_is_there(engine, "shards")) CHECK_OK(make_shards());
    CHECK(are_shards(0) && pf_file_list(engine, ".", count_left, &left) == PF_OK && left == 0);
}

/* ---- training, with a checkpoint each step ---- */

enum { STEPS = 3, NUMBERS = 4096 };

static float trained[NUMBERS], undisturbed[NUMBERS];
static int64_t n_trained;

static int read_numbers(pf_module *m) {
    n_trained = 0;
    for (int i = 0; i < pf_module_tensor_count(m); i++) {
        pf_tensor *t;
        PF_TRY(pf_module_tensor_at(m, i, NULL, &t, NULL));
        int64_t n = pf_tensor_numel(t);
        if (n_trained + n > NUMBERS) return pf_fail(PF_EINVAL, "too many numbers for the test");
        PF_TRY(pf_tensor_read(t, trained + n_trained, (size_t)n * sizeof *trained));
        n_trained += n;
    }
    return PF_OK;
}

static int train_step(pf_module *m, pf_optimizer *o, pf_tensor *ids) {
    pf_tape *tape = NULL;
    pf_tensor *loss = NULL;
    PF_TRY(pf_tape_open(&tape, engine));
    int status = pf_module_loss(&loss, engine, m, ids, ids, NULL);
    if (status >= 0) status = pf_tape_backward(tape, loss, NULL);
    pf_tensor_release(&loss);
    pf_tape_close(&tape);
    return status < 0 ? status : pf_optimizer_step(o, engine, 0.01, 0, NULL);
}

/* From step `at` on, whatever becomes of its checkpoints; *missed: a save has failed. */
static int train_on(pf_module *m, pf_optimizer *o, int at, bool *missed) {
    int64_t shape[2] = {1, 6};
    pf_tensor *ids = NULL;
    PF_TRY(pf_tensor_full(&ids, engine, PF_I32, 2, shape, 3));
    int status = PF_OK;
    for (int step = at + 1; status >= 0 && step <= STEPS; step++) {
        status = train_step(m, o, ids);
        int saved_as = pf_checkpoint_save(engine, "train", (uint64_t)step, m, o, NULL, NULL, 2);
        *missed = *missed || saved_as < 0;
    }
    pf_tensor_release(&ids);
    return status < 0 ? status : read_numbers(m);
}

static int train(void) {
    static const char text[] = "{\"type\":\"performer\",\"options\":{\"vocab\":7,\"dim\":4,"
                               "\"layers\":1,\"heads\":1,\"causal\":true}}";
    pf_module *m = NULL;
    pf_optimizer *o = NULL;
    pf_config *tree = NULL, *none = pf_config_new(PF_MAP);
    bool missed = false;
    pf_seed(engine, 5);
    int status = pf_json_parse(&tree, text, sizeof text - 1);
    if (status >= 0) status = pf_module_build(&m, engine, tree);
    if (status >= 0) status = pf_optimizer_new(&o, engine, m, none);
    if (status >= 0) status = train_on(m, o, 0, &missed);
    pf_optimizer_close(&o);
    pf_module_release(&m);
    pf_config_free(tree);
    pf_config_free(none);
    return status < 0 ? status : missed;
}

/* Training never notices; and from the checkpoint that is there it comes to the same numbers. */
static bool is_trained(int status) {
    size_t bytes = (size_t)n_trained * sizeof *trained;
    pf_module *m = NULL;
    pf_optimizer *o = NULL;
    bool missed = false;
    if (undisturbed[0] == 0) memcpy(undisturbed, trained, sizeof trained); /* the last, unhit run */
    if (status < 0 || memcmp(trained, undisturbed, bytes) != 0) return false;
    int found = pf_checkpoint_load(engine, "train", &m, &o, NULL, NULL);
    if (found < 0) return status == 1 && !pf_is_there(engine, "train/LATEST");
    int step = (int)pf_optimizer_steps(o);
    found = train_on(m, o, step, &missed);
    pf_optimizer_close(&o);
    pf_module_release(&m);
    return found >= 0 && !missed && memcmp(trained, undisturbed, bytes) == 0 &&
           (status == 1 || step == STEPS);
}

static void train_whole(void) {
    if (undisturbed[0] == 0) CHECK(train() == 0 && is_trained(0));
    pf_file_remove(engine, "train");
}

static int report(const scenario *s, const char *what, fail_mode mode, bool forever, int at,
                  int status) {
    fprintf(stderr, "  %s: %s: mode %d%s, call %d (%s): status %d (%s)\n", s->name, what, mode,
            forever ? " for ever" : "", at, inject.hit ? inject.hit : "none", status,
            pf_last_error());
    return 0;
}

/* ---- the loop ---- */

/* One run with call `at` failing. False: it was over before. */
static bool run_with_failure(const scenario *s, fail_mode mode, bool forever, int at) {
    pf_info before = {.size = sizeof before}, after = {.size = sizeof after};
    disk = power_open_disk();
    inject.base = &disk->access;
    pf_engine_files(engine, inject.base);
    s->before();
    inject.base = &disk->access; /* it may be another by now */
    pf_engine_info(engine, &before);
    inject.open = 0;
    inject_into(engine, mode, forever, at);
    int status = s->run();
    bool reached = inject.hit != NULL;
    inject_end(engine);
    pf_engine_info(engine, &after);
    bool good = inject.open == 0 && before.live == after.live;
    if (!good) report(s, "left open or leaked", mode, forever, at, status);
    check_one(good, s->name, __FILE__, __LINE__);
    good = s->good(status) && (reached || status >= 0);
    /* What was half done is finished. */
    if (!forever && !inject.also && mode == SHORT) good = good && status >= 0 && status != 1;
    if (!good) report(s, "is wrong", mode, forever, at, status);
    check_one(good, s->name, __FILE__, __LINE__);
    if (s->after) s->after();
    power_close_disk(&disk);
    return reached;
}

static void run_once_and_forever(const scenario *s, fail_mode mode, int step) {
    for (int forever = 0; forever < 2; forever++) {
        int at = 0;
        while (run_with_failure(s, mode, forever, at)) at += step;
        CHECK(at >= s->least);
    }
}

/* Every call; with pairs, another one up to a dozen calls later too. */
static void run_scenario(const scenario *s, bool pairs) {
    for (int mode = 0; mode < MODES; mode++) {
        run_once_and_forever(s, (fail_mode)mode, 1);
        for (inject.also = 1; pairs && inject.also <= 12; inject.also++)
            for (int at = 0; run_with_failure(s, (fail_mode)mode, false, at);) at++;
        inject.also = 0;
    }
}

/* The save after one that was killed behind any of its calls. */
static void run_recovery(bool whole) {
    static const scenario recovery = {"recovering", leave_killed, save_new, is_new, save_next, 80};
    for (kill_call = 1; kill_call < 60; kill_call += whole ? 1 : 7) {
        run_once_and_forever(&recovery, FAIL_IO, whole ? 1 : 3);
        if (whole) run_once_and_forever(&recovery, FAIL_SPACE, 1);
    }
}

int main(void) {
    static const scenario scenarios[] = {
        {"a new step", two_steps, save_new, is_new, save_next, 80},
        {"a step again", two_steps, save_again, is_again, save_next, 80},
        {"a new run", nothing, save_deep, is_deep, NULL, 60},
        {"a mark", best_is_two, mark_best, is_marked, save_next, 10},
        {"a file", old_file, write_file, is_file, NULL, 7},
        {"loading", two_steps, load_run, is_loaded, save_next, 20},
        {"removing", two_steps, remove_run, is_removed, NULL, 10},
        {"shards", proteins, make_shards, are_shards, shards_again, 40},
        {"training", train_whole, train, is_trained, NULL, 100},
    };
    bool whole = getenv("PF_LONG") != NULL;
    folder_open();
    for (int i = 0; i < PF_COUNT(scenarios); i++) run_scenario(&scenarios[i], whole);
    run_recovery(whole);
    return folder_close();
}
