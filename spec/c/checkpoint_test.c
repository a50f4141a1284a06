/*
 * checkpoint_test.c - checkpoint folders: what is saved comes back, any damage is found and
 * named, every system call may fail, and a writer may be killed at any moment.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>

#include "check.h"
#include "folder.h"
#include "module.h"
#include "scratch.h"

static pf_engine *engine;
static char dir[256];
static int warnings;
static char warning[1024]; /* the last one */

static void on_log(void *context, pf_log_level level, const char *message) {
    (void)context;
    if (level != PF_LOG_WARN) return;
    warnings++;
    snprintf(warning, sizeof warning, "%s", message);
}

static size_t held; /* bytes that engines with this allocator have not given back */

static void *count_bytes(void *context, void *block, size_t old_bytes, size_t bytes) {
    (void)context;
    void *moved = bytes ? realloc(block, bytes) : NULL;
    if (bytes == 0) free(block);
    if (moved || bytes == 0) held = held - old_bytes + bytes;
    return moved;
}

/* ---- a small checkpoint: every number in it is its step ------------------------ */

static int save_step(pf_engine *e, const char *run, uint64_t step, int64_t size, int keep) {
    pf_named weights[2] = {{"a", NULL}, {"b", NULL}}, moment = {"a.m", NULL};
    pf_config *config = pf_config_new(PF_MAP), *state = pf_config_new(PF_MAP);
    pf_config *tokenizer = pf_config_new_string("byte");
    pf_parts parts = {weights, 2, true, &moment, 1, NULL, config, state, tokenizer};
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
static bool filled(const pf_tensor *t, double value) {
    bool good = true;
    for (int64_t i = 0; i < pf_tensor_numel(t); i++) {
        double got = NAN;
        good = pf_tensor_get(t, i, &got) >= 0 && got == value && good;
    }
    return good;
}

static int64_t read_file_of(const char *folder, const char *name, double sign, double step) {
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
static int64_t load_step(const char *path) {
    char *folder = NULL;
    pf_config *state = NULL;
    int status = pf_folder_find(engine, &folder, path, true);
    if (status >= 0) status = pf_folder_config(&state, folder, "state.json");
    if (status < 0) {
        free(folder);
        return status;
    }
    double step = pf_config_number(pf_config_get(state, "step"));
    bool good = read_file_of(folder, "model.safetensors", 1, step) == 2 &&
                read_file_of(folder, "optimizer.safetensors", -1, step) == 1;
    pf_config_free(state);
    free(folder);
    return good ? (int64_t)step : -1000;
}

/* A new run folder's path: it stands until the next call. */
static const char *run_folder(const char *name) {
    static char run[300];
    snprintf(run, sizeof run, "%s/%s", dir, name);
    scratch_remove(run);
    return run;
}

/* ---- the layout ---------------------------------------------------------------- */

static void test_layout(void) {
    const char *run = run_folder("deep/er/run");
    CHECK_FAILS(PF_ENOTFOUND, (int)load_step(run));
    CHECK_OK(save_step(engine, run, 7, 5, 0));
    CHECK(load_step(run) == 7);
    CHECK(load_step(scratch_path("%s/step-7", run)) == 7);
    CHECK(load_step(scratch_path("%s/LATEST", run)) == 7);
    CHECK(load_step(scratch_path("%s/", run)) == 7);
    CHECK(scratch_count(scratch_path("%s/step-7", run), "") == 6);
    CHECK(scratch_count(run, "") == 2);
    CHECK_FAILS(PF_ENOTFOUND, (int)load_step(scratch_path("%s/step-8", run)));
    CHECK_FAILS(PF_ENOTFOUND, (int)load_step(scratch_path("%s/deep", dir))); /* no checkpoints */
    CHECK(strstr(pf_last_error(), "manifest.json") != NULL);
    CHECK_FAILS(PF_EFORMAT, (int)load_step(scratch_path("%s/step-7/config.json", run)));
}

static void test_replace(void) {
    const char *run = run_folder("replace");
    CHECK_OK(save_step(engine, run, 3, 5, 0));
    CHECK_OK(save_step(engine, run, 3, 9, 0)); /* same step, other content */
    CHECK(load_step(run) == 3);
    CHECK(scratch_count(run, ".") == 0 && scratch_count(run, "step-") == 1);
    CHECK_OK(save_step(engine, run, 16777216, 1, 0));
    CHECK(scratch_count(run, "step-16777216") == 1 && load_step(run) == 16777216);
    mkdir(scratch_path("%s/step-18446744073709551616", run), 0777); /* beyond 64 bits: no step */
    mkdir(scratch_path("%s/step-0003", run), 0777);
    CHECK(load_step(run) == 16777216);
}

static void test_prune(void) {
    const char *run = run_folder("prune");
    for (uint64_t step = 1; step <= 3; step++) CHECK_OK(save_step(engine, run, step * 10, 3, 2));
    CHECK(scratch_count(run, "step-") == 2 && load_step(run) == 30);
    CHECK_FAILS(PF_ENOTFOUND, pf_folder_mark(run, "BEST", 10)); /* it is gone */
    CHECK_FAILS(PF_EINVAL, pf_folder_mark(run, "../x", 20));
    CHECK_OK(pf_folder_mark(run, "BEST", 20));
    CHECK_OK(save_step(engine, run, 40, 3, 2));
    CHECK_OK(save_step(engine, run, 50, 3, 1));
    CHECK(scratch_count(run, "step-") == 2); /* 50 and the best one */
    CHECK(load_step(scratch_path("%s/BEST", run)) == 20);
    CHECK_OK(pf_folder_mark(run, "BEST", 50));
    CHECK_OK(save_step(engine, run, 60, 3, 1));
    CHECK(scratch_count(run, "step-20") == 0 && scratch_count(run, "step-") == 2);
    /* Going back: what is newer than the step written stays, and is not loaded first. */
    CHECK_OK(save_step(engine, run, 55, 3, 1));
    CHECK(scratch_count(run, "step-60") == 1 && load_step(run) == 55);
    CHECK(scratch_write(scratch_path("%s/BEST", run), "nonsense", 8) == 0);
    warnings = 0;
    CHECK_OK(save_step(engine, run, 56, 3, 1)); /* nothing is removed on a BEST that lies */
    CHECK(warnings == 1 && scratch_count(run, "step-55") == 1);
    CHECK_FAILS(PF_EFORMAT, (int)load_step(scratch_path("%s/BEST", run)));
}

/* ---- damage -------------------------------------------------------------------- */

static void test_every_byte(void) {
    static const char *const names[] = {"config.json", "state.json", "tokenizer.json",
                                        "model.safetensors", "optimizer.safetensors",
                                        "manifest.json"};
    const char *run = run_folder("bytes");
    CHECK_OK(save_step(engine, run, 1, 3, 0));
    char folder[300];
    snprintf(folder, sizeof folder, "%s/step-1", run);
    for (int f = 0; f < PF_COUNT(names); f++) {
        char path[400];
        size_t bytes;
        int found = 0;
        snprintf(path, sizeof path, "%s/%s", folder, names[f]);
        char *raw = scratch_read(path, &bytes);
        for (size_t i = 0; raw && i < bytes; i++) {
            raw[i] = (char)(raw[i] ^ 1 << (i % 8));
            scratch_write(path, raw, bytes);
            found += load_step(folder) == PF_EFORMAT && strstr(pf_last_error(), names[f]) &&
                     strstr(pf_last_error(), "damaged");
            raw[i] = (char)(raw[i] ^ 1 << (i % 8));
        }
        CHECK(found == (int)bytes && bytes > 0);
        scratch_write(path, raw, bytes - 1); /* cut */
        CHECK(load_step(folder) == PF_EFORMAT && strstr(pf_last_error(), names[f]));
        char *longer = calloc(bytes + 1, 1);
        memcpy(longer, raw, bytes);
        scratch_write(path, longer, bytes + 1); /* grown */
        CHECK(load_step(folder) == PF_EFORMAT && strstr(pf_last_error(), names[f]));
        unlink(path);
        CHECK(load_step(folder) < 0);
        CHECK(f == 5 || strstr(pf_last_error(), "missing"));
        scratch_write(path, raw, bytes);
        CHECK(load_step(folder) == 1);
        free(longer);
        free(raw);
    }
}

static void damage(const char *run, int step, const char *name) {
    const char *path = scratch_path("%s/step-%d/%s", run, step, name);
    size_t bytes;
    char *raw = scratch_read(path, &bytes);
    if (raw) raw[bytes - 1] ^= 1;
    CHECK(raw && scratch_write(path, raw, bytes) == 0);
    free(raw);
}

static void test_fallback(void) {
    const char *run = run_folder("fallback");
    for (uint64_t step = 1; step <= 4; step++) CHECK_OK(save_step(engine, run, step, 3, 0));
    warnings = 0;
    damage(run, 4, "model.safetensors");
    CHECK(load_step(run) == 3 && warnings == 1);
    CHECK(strstr(warning, "model.safetensors in ") && strstr(warning, "step-4 is damaged"));
    CHECK(strstr(warning, "going on with step-3"));
    CHECK(load_step(scratch_path("%s/step-4", run)) == PF_EFORMAT); /* asked for by name */
    CHECK(load_step(scratch_path("%s/LATEST", run)) == PF_EFORMAT);
    unlink(scratch_path("%s/step-3/manifest.json", run));
    CHECK(load_step(run) == 2);
    scratch_remove(scratch_path("%s/step-4", run));
    CHECK(load_step(run) == 2);
    CHECK(scratch_write(scratch_path("%s/LATEST", run), "step-99\n", 8) == 0);
    CHECK(load_step(run) == 2);
    CHECK(scratch_write(scratch_path("%s/LATEST", run), "step-../1", 9) == 0);
    CHECK(load_step(run) == 2);
    unlink(scratch_path("%s/LATEST", run));
    CHECK(load_step(run) == 2);
    damage(run, 2, "state.json");
    damage(run, 1, "optimizer.safetensors");
    CHECK(load_step(run) == PF_EFORMAT);
    CHECK(strstr(pf_last_error(), "step-3") && strstr(pf_last_error(), "others"));
}

/* A hostile manifest: whole by its own checksum, but naming files elsewhere. */
static void test_manifest_names(void) {
    static const char *const names[] = {"../x", "/etc/passwd", "a/b", ".hidden", "", "x y"};
    pf_manifest m = {0};
    char hash[PF_HASH_TEXT], again[PF_HASH_TEXT];
    pf_hash_bytes("abc", 3, hash);
    CHECK(!strcmp(hash, "06b05ab6733a618578af5f94892f3950")); /* XXH3-128 of "abc" */
    for (int i = 0; i < PF_COUNT(names); i++) {
        CHECK_FAILS(PF_EFORMAT, pf_manifest_add(&m, names[i], 1, hash));
    }
    CHECK_OK(pf_manifest_add(&m, "x.json", 1, hash));
    CHECK_FAILS(PF_EFORMAT, pf_manifest_add(&m, "x.json", 1, hash));
    CHECK_FAILS(PF_EFORMAT, pf_manifest_add(&m, "y.json", -1, hash));
    memcpy(again, hash, sizeof again);
    again[0] = 'G';
    CHECK_FAILS(PF_EFORMAT, pf_manifest_add(&m, "y.json", 1, again));
}

/* ---- every system call fails once, or from then on ------------------------------ */

typedef enum { FAIL_IO, FAIL_SPACE, INTERRUPT, SHORT, FAIL_FOREVER, MODES } fail_mode;

static struct {
    fail_mode mode;
    int at, count; /* which call fails, calls so far */
    const char *hit;
    bool no_exchange, no_lock;
} inject;

static bool strike(const char *call) {
    int now = inject.count++;
    if (now < inject.at || (now > inject.at && inject.mode != FAIL_FOREVER)) return false;
    inject.hit = call;
    if (inject.mode == SHORT) return false;
    errno = inject.mode == FAIL_SPACE ? ENOSPC : inject.mode == INTERRUPT ? EINTR : EIO;
    return true;
}

/* Half of what was asked for is read or written now. */
static bool is_hit(void) { return inject.mode == SHORT && inject.count == inject.at + 1; }

static int fake_open(const char *p, int flags, mode_t mode) {
    return strike("open") ? -1 : pf_file_libc.open(p, flags, mode);
}
static ssize_t fake_read(int fd, void *out, size_t n, off_t at) {
    if (strike("read_at")) return -1;
    return pf_file_libc.read_at(fd, out, is_hit() ? (n + 1) / 2 : n, at);
}
static ssize_t fake_write(int fd, const void *in, size_t n) {
    if (strike("write")) return -1;
    return pf_file_libc.write(fd, in, is_hit() ? (n + 1) / 2 : n);
}
/* No power fails here, so nothing is really synced: the test would take minutes. */
static int fake_sync(int fd) { return (void)fd, strike("sync") ? -1 : 0; }
static int fake_close(int fd) {
    int error = 0, result = pf_file_libc.close(fd);
    if (strike("close")) result = -1, error = errno;
    if (error) errno = error;
    return result;
}
static int fake_stat(int fd, struct stat *s) { return strike("stat") ? -1 : pf_file_libc.stat(fd, s); }
static int fake_lock(int fd) {
    if (strike("lock")) return -1;
    errno = ENOLCK;
    return inject.no_lock ? -1 : pf_file_libc.lock(fd);
}
static int fake_rename(const char *a, const char *b) {
    return strike("rename") ? -1 : pf_file_libc.rename(a, b);
}
static int fake_exchange(const char *a, const char *b) {
    if (strike("exchange")) return -1;
    errno = ENOSYS;
    return inject.no_exchange ? -1 : pf_file_libc.exchange(a, b);
}
static int fake_make_dir(const char *p, mode_t mode) {
    return strike("make_dir") ? -1 : pf_file_libc.make_dir(p, mode);
}
static int fake_unlink(const char *p) { return strike("unlink") ? -1 : pf_file_libc.unlink(p); }
static int fake_remove_dir(const char *p) {
    return strike("remove_dir") ? -1 : pf_file_libc.remove_dir(p);
}
static DIR *fake_open_dir(const char *p) {
    return strike("open_dir") ? NULL : pf_file_libc.open_dir(p);
}
static struct dirent *fake_next(DIR *d) { return strike("next") ? NULL : pf_file_libc.next(d); }

static const pf_file_ops fakes = {
    fake_open, fake_read, fake_write, fake_sync, fake_close, fake_stat, fake_lock, fake_rename,
    fake_exchange, fake_make_dir, fake_unlink, fake_remove_dir, fake_open_dir, fake_next,
};

static void inject_at(fail_mode mode, int at) {
    inject.mode = mode;
    inject.at = at;
    inject.count = 0;
    inject.hit = NULL;
    pf_file_hook(&fakes);
}

static int open_files(void) { return scratch_count("/proc/self/fd", ""); }

/* Taking away may fail by itself, and then leaves what the next save takes away. */
static bool only_cleans(const char *call) {
    return call && (!strcmp(call, "unlink") || !strcmp(call, "remove_dir") ||
                    !strcmp(call, "open_dir") || !strcmp(call, "next") || !strcmp(call, "rename"));
}

/* Saves `step` into a run that holds steps 1 and 2, with call `at` failing. Returns false
 * when the save needs fewer calls. */
static bool save_with_failure(fail_mode mode, int at, uint64_t step) {
    const char *run = run_folder("inject");
    pf_info before, after;
    inject_at(INTERRUPT, -1); /* no failure yet, only the fast sync */
    CHECK_OK(save_step(engine, run, 1, 3, 0));
    CHECK_OK(save_step(engine, run, 2, 3, 0));
    int files = open_files();
    pf_engine_info(engine, &before);
    inject_at(mode, at);
    int status = save_step(engine, run, step, 4, 2);
    bool reached = inject.hit != NULL;
    const char *hit = inject.hit;
    pf_file_hook(NULL);
    pf_engine_info(engine, &after);
    CHECK(open_files() == files && before.live == after.live);
    int64_t found = load_step(run);
    bool good = found == 2 || found == (int64_t)step;
    if (status >= 0) good = found == (int64_t)step;
    else good = good && pf_last_error()[0] != 0;
    if (mode == SHORT) good = good && status >= 0;
    if (mode != FAIL_FOREVER && !only_cleans(hit)) good = good && scratch_count(run, ".") == 0;
    if (!good) {
        fprintf(stderr, "  mode %d, call %d (%s), step %d: status %d (%s), found %d, %d left\n",
                mode, at, hit ? hit : "none", (int)step, status, pf_last_error(), (int)found,
                scratch_count(run, "."));
    }
    CHECK(good);
    inject_at(INTERRUPT, -1);
    inject.no_exchange = false;
    CHECK_OK(save_step(engine, run, 9, 3, 2)); /* the next one goes well and cleans up */
    pf_file_hook(NULL);
    CHECK(load_step(run) == 9 && scratch_count(run, ".") == 0);
    return reached;
}

static void test_save_failures(void) {
    for (int mode = 0; mode < MODES; mode++) {
        for (int kind = 0; kind < 3; kind++) { /* a new step; a replaced one, both ways */
            int at = 0;
            do inject.no_exchange = kind == 2;
            while (save_with_failure((fail_mode)mode, at++, kind == 0 ? 3 : 2));
            CHECK(at > 50);
        }
    }
}

static void test_load_failures(void) {
    const char *run = run_folder("inject");
    CHECK_OK(save_step(engine, run, 1, 3, 0));
    CHECK_OK(save_step(engine, run, 2, 3, 0));
    for (int mode = 0; mode < MODES; mode++) {
        bool reached = true;
        for (int at = 0; reached; at++) {
            pf_info before, after;
            int files = open_files();
            pf_engine_info(engine, &before);
            inject_at((fail_mode)mode, at);
            int64_t found = load_step(run);
            reached = inject.hit != NULL;
            pf_file_hook(NULL);
            pf_engine_info(engine, &after);
            CHECK(open_files() == files && before.live == after.live);
            if (mode == SHORT) CHECK(found == 2);
            else CHECK(found == 1 || found == 2 || (found < 0 && pf_last_error()[0]));
        }
    }
}

static void test_no_locks(void) {
    const char *run = run_folder("nolocks");
    CHECK_OK(save_step(engine, run, 1, 3, 0));
    pid_t dead = fork();
    if (dead == 0) _exit(0);
    waitpid(dead, NULL, 0);
    mkdir(scratch_path("%s/.step-5.tmp-%ld", run, (long)dead), 0777);
    mkdir(scratch_path("%s/.step-6.tmp-%ld", run, (long)getppid()), 0777); /* alive */
    mkdir(scratch_path("%s/.step-2.tmp-%ld", run, (long)getpid()), 0777);  /* our number */
    inject.no_lock = true;
    inject_at(INTERRUPT, -1);
    CHECK_OK(save_step(engine, run, 2, 3, 0));
    inject.no_lock = false;
    pf_file_hook(NULL);
    CHECK(scratch_count(run, ".step-5") == 0 && scratch_count(run, ".step-6") == 1);
    CHECK(scratch_count(run, ".step-2") == 0);
    int fd = open(run, O_RDONLY | O_DIRECTORY);
    CHECK(pf_file_libc.lock(fd) == 0);
    CHECK_FAILS(PF_ESTATE, save_step(engine, run, 3, 3, 0)); /* another writer */
    close(fd);
    CHECK_OK(save_step(engine, run, 3, 3, 0));
    CHECK(scratch_count(run, ".") == 0); /* under the lock every temporary is dead */
}

/* A replacement in two steps that was cut between them: the old one is found. */
static void test_cut_replacement(void) {
    const char *run = run_folder("cut");
    CHECK_OK(save_step(engine, run, 1, 3, 0));
    CHECK(rename(scratch_path("%s/step-1", run), scratch_path("%s/.step-1.old", run)) == 0);
    CHECK(load_step(run) == 1);
    CHECK_OK(save_step(engine, run, 2, 3, 0));
    CHECK(scratch_count(run, "step-1") == 1 && scratch_count(run, ".") == 0);
}

/* ---- kill -9 -------------------------------------------------------------------- */

/* Saves one checkpoint after the other until it is killed. */
static int write_forever(const char *run, uint64_t step) {
    pf_options options = PF_OPTIONS_DEFAULT;
    options.threads = 1;
    if (pf_engine_open(&engine, &options) < 0) return 1;
    if (write(STDOUT_FILENO, "x", 1) != 1) return 1;
    for (;; step++) {
        if (save_step(engine, run, step, 5000, 2) < 0) return 1;
    }
}

static void kill_a_writer(const char *self, const char *run, uint64_t step, int microseconds) {
    int ready[2];
    char byte, number[24];
    CHECK(pipe(ready) == 0);
    snprintf(number, sizeof number, "%llu", (unsigned long long)step);
    pid_t child = fork();
    if (child == 0) {
        dup2(ready[1], STDOUT_FILENO);
        close(ready[0]);
        close(ready[1]);
        execl(self, self, "--writer", run, number, (char *)NULL);
        _exit(1);
    }
    close(ready[1]);
    CHECK(read(ready[0], &byte, 1) == 1);
    close(ready[0]);
    usleep((useconds_t)microseconds);
    kill(child, SIGKILL);
    int status;
    CHECK(waitpid(child, &status, 0) == child && WIFSIGNALED(status));
}

static void test_kill(const char *self, int kills) {
    const char *run = run_folder("kill");
    int64_t last = 1;
    int unfinished = 0;
    CHECK_OK(save_step(engine, run, 1, 5000, 2));
    srand(12345);
    warnings = 0;
    for (int i = 0; i < kills; i++) {
        kill_a_writer(self, run, (uint64_t)last + (rand() % 2), rand() % 30000);
        int64_t step = load_step(run);
        CHECK(step >= last);
        if (step < last) fprintf(stderr, "  found %d after %d\n", (int)step, (int)last);
        last = step > last ? step : last;
        unfinished += scratch_count(run, ".") > 0;
    }
    CHECK(warnings == 0);      /* LATEST itself was good, each time */
    CHECK(unfinished > 0);     /* some died in the middle of a save */
    CHECK_OK(save_step(engine, run, (uint64_t)last + 1, 5, 2));
    CHECK(scratch_count(run, ".") == 0 && scratch_count(run, "step-") <= 3);
}

/* ---- models and optimisers ------------------------------------------------------ */

static pf_config *parse(const char *text) {
    pf_config *node = NULL;
    CHECK_OK(pf_json_parse(&node, text, strlen(text)));
    return node;
}

static pf_module *build(pf_engine *e, const char *text) {
    pf_config *tree = parse(text);
    pf_module *module = NULL;
    CHECK_OK(pf_module_build(&module, e, tree));
    pf_config_free(tree);
    return module;
}

static const char tiny[] =
    "{\"type\":\"performer\",\"options\":{\"vocab\":11,\"dim\":8,\"layers\":2,\"heads\":2,"
    "\"length\":16,\"causal\":true,\"kernel\":{\"name\":\"softmax\",\"features\":8}}}";
static const char two_layers[] =
    "{\"type\":\"chain\",\"children\":["
    "{\"type\":\"linear\",\"options\":{\"from\":3,\"to\":4}},"
    "{\"type\":\"linear\",\"options\":{\"from\":4,\"to\":2}}]}";

static bool same_tensor(const pf_tensor *a, const pf_tensor *b) {
    bool same = pf_tensor_numel(a) == pf_tensor_numel(b);
    for (int64_t i = 0; same && i < pf_tensor_numel(a); i++) {
        double x = 0, y = 1;
        same = pf_tensor_get(a, i, &x) >= 0 && pf_tensor_get(b, i, &y) >= 0 && x == y;
    }
    return same;
}

static bool same_module(const pf_module *a, const pf_module *b) {
    int n = pf_module_tensor_count(a);
    bool same = n > 0 && n == pf_module_tensor_count(b);
    for (int i = 0; same && i < n; i++) {
        const char *x, *y;
        pf_tensor *t, *u;
        bool p, q;
        same = pf_module_tensor_at(a, i, &x, &t, &p) >= 0 &&
               pf_module_tensor_at(b, i, &y, &u, &q) >= 0 && !strcmp(x, y) && p == q &&
               same_tensor(t, u);
    }
    return same;
}

static int train_step(pf_module *module, pf_optimizer *optimizer) {
    pf_tensor *ids = NULL, *y = NULL, *seed = NULL;
    pf_tape *tape = NULL;
    pf_pass pass = {.size = sizeof pass, .training = true};
    int64_t shape[PF_MAX_RANK], in[2] = {1, 5};
    int status = pf_tensor_full(&ids, engine, PF_I32, 2, in, 3);
    if (status >= 0) status = pf_tape_open(&tape, engine);
    if (status >= 0) status = pf_module_forward(&y, engine, module, ids, &pass);
    for (int i = 0; status >= 0 && i < pf_tensor_rank(y); i++) shape[i] = pf_tensor_size(y, i);
    if (status >= 0) status = pf_tensor_full(&seed, engine, PF_F32, pf_tensor_rank(y), shape, 0.5);
    for (int64_t i = 0; status >= 0 && i < pf_tensor_numel(seed); i += 3) pf_tensor_set(seed, i, -1);
    if (status >= 0) status = pf_tape_backward(tape, y, seed);
    pf_tensor_release(&y);
    pf_tensor_release(&seed);
    pf_tensor_release(&ids);
    pf_tape_close(&tape);
    if (status >= 0) status = pf_optimizer_step(optimizer, engine, 1e-2, 0, NULL);
    return status;
}

static void test_model_round_trip(const char *options_text) {
    const char *run = run_folder("model");
    pf_config *options = parse(options_text), *state = parse("{\"data\":{\"index\":17},\"lr\":0.1}");
    pf_config *tokenizer = parse("{\"type\":\"protein\"}"), *state2 = NULL, *tokenizer2 = NULL;
    pf_module *module = build(engine, tiny), *loaded = NULL, *weights = NULL;
    pf_optimizer *optimizer = NULL, *loaded_optimizer = NULL;
    pf_seed(engine, 0xFFFFFFFFFFFFFFF1u);
    CHECK_OK(pf_optimizer_new(&optimizer, engine, module, options));
    for (int i = 0; i < 3; i++) CHECK_OK(train_step(module, optimizer));
    CHECK_OK(pf_checkpoint_save(engine, run, 3, module, optimizer, state, tokenizer, 2));
    pf_seed(engine, 5);
    CHECK_OK(pf_model_load(&weights, engine, run));
    CHECK(same_module(module, weights) && engine->seed == 5);
    CHECK_OK(pf_checkpoint_load(engine, run, &loaded, &loaded_optimizer, &state2, &tokenizer2));
    CHECK(same_module(module, loaded) && engine->seed == 0xFFFFFFFFFFFFFFF1u);
    CHECK(loaded_optimizer && pf_optimizer_steps(loaded_optimizer) == 3);
    CHECK(pf_config_number(pf_config_get(pf_config_get(state2, "data"), "index")) == 17);
    CHECK(pf_config_number(pf_config_get(state2, "step")) == 3);
    CHECK(!strcmp(pf_config_string(pf_config_get(tokenizer2, "type")), "protein"));
    /* Both go on, and stay the same bits. */
    for (int i = 0; i < 2; i++) {
        CHECK_OK(train_step(module, optimizer));
        CHECK_OK(train_step(loaded, loaded_optimizer));
    }
    CHECK(same_module(module, loaded) && !same_module(module, weights));
    CHECK_OK(pf_checkpoint_restore(engine, run, module, optimizer, NULL, NULL));
    CHECK(same_module(module, weights) && pf_optimizer_steps(optimizer) == 3);
    pf_optimizer_close(&optimizer);
    pf_optimizer_close(&loaded_optimizer);
    pf_module_release(&module);
    pf_module_release(&loaded);
    pf_module_release(&weights);
    pf_config_free(options);
    pf_config_free(state);
    pf_config_free(state2);
    pf_config_free(tokenizer);
    pf_config_free(tokenizer2);
}

static bool says(const char *part) {
    if (strstr(pf_last_error(), part)) return true;
    fprintf(stderr, "  '%s' is not in: %s\n", part, pf_last_error());
    return false;
}

static void test_misfits(void) {
    const char *run = run_folder("misfit");
    pf_module *module = build(engine, two_layers), *before = NULL;
    pf_module *wide = build(engine, "{\"type\":\"chain\",\"children\":["
                                    "{\"type\":\"linear\",\"options\":{\"from\":3,\"to\":4}},"
                                    "{\"type\":\"linear\",\"options\":{\"from\":4,\"to\":5}}]}");
    pf_module *one = build(engine, "{\"type\":\"chain\",\"children\":["
                                   "{\"type\":\"linear\",\"options\":{\"from\":3,\"to\":4}}]}");
    pf_module *none = NULL;
    pf_optimizer *optimizer = NULL;
    pf_config *state = NULL;
    CHECK_OK(pf_checkpoint_save(engine, run, 1, module, NULL, NULL, NULL, 0));
    CHECK_FAILS(PF_EFORMAT, pf_checkpoint_restore(engine, run, wide, NULL, NULL, NULL));
    CHECK(says("'2.weight' [2, 4] in the file, [5, 4] in the model"));
    CHECK_FAILS(PF_EFORMAT, pf_checkpoint_restore(engine, run, one, NULL, NULL, NULL));
    CHECK(says("unexpected: '2.weight' [2, 4]"));
    CHECK_OK(pf_checkpoint_save(engine, run, 2, one, NULL, NULL, NULL, 0));
    CHECK_FAILS(PF_EFORMAT, pf_checkpoint_restore(engine, run, module, NULL, NULL, NULL));
    CHECK(says("missing: '2.weight' [2, 4]") && says("step-2"));
    const char *first = scratch_path("%s/step-1", run);
    CHECK_OK(pf_checkpoint_load(engine, first, &before, &optimizer, &state, NULL));
    CHECK(!optimizer && same_module(module, before)); /* the refused loads changed nothing */
    CHECK(pf_config_number(pf_config_get(state, "step")) == 1);
    CHECK_FAILS(PF_EINVAL, pf_checkpoint_load(engine, run, NULL, &optimizer, NULL, NULL));
    CHECK_FAILS(PF_ENOTFOUND, pf_model_load(&none, engine, scratch_path("%s/none", dir)));
    CHECK(!none);
    pf_config_free(state);
    pf_module_release(&module);
    pf_module_release(&before);
    pf_module_release(&wide);
    pf_module_release(&one);
}

static int host_forward(void *context, pf_engine *e, pf_tensor *x, const pf_pass *pass,
                        pf_tensor **y) {
    (void)context, (void)e, (void)pass;
    *y = pf_tensor_retain(x);
    return 0;
}

static void test_script_layer(void) {
    const char *run = run_folder("script");
    const pf_host_layer layer = {.forward = host_forward};
    pf_module *module = NULL, *loaded = NULL;
    CHECK_OK(pf_module_host(&module, engine, "my_layer", &layer, NULL, 0));
    CHECK_OK(pf_checkpoint_save(engine, run, 1, module, NULL, NULL, NULL, 0));
    CHECK_FAILS(PF_ENOTFOUND, pf_model_load(&loaded, engine, run));
    CHECK(says("my_layer") && says("script") && !loaded);
    pf_module_release(&module);
}

/* Every budget from nothing to enough: clean failures, and no byte kept. */
static void test_load_budget(void) {
    const char *run = run_folder("budget");
    pf_module *module = build(engine, tiny), *loaded = NULL;
    pf_optimizer *optimizer = NULL, *other = NULL;
    bool loads = false;
    CHECK_OK(pf_optimizer_new(&optimizer, engine, module, NULL));
    CHECK_OK(pf_checkpoint_save(engine, run, 1, module, optimizer, NULL, NULL, 0));
    size_t held_before = held;
    for (size_t budget = 4096; !loads && budget < (64u << 20); budget += budget / 8) {
        pf_options options = PF_OPTIONS_DEFAULT;
        pf_engine *small = NULL;
        options.threads = 1;
        options.memory = budget;
        options.allocator.resize = count_bytes;
        if (pf_engine_open(&small, &options) < 0) continue;
        int status = pf_checkpoint_load(small, run, &loaded, &other, NULL, NULL);
        loads = status >= 0;
        CHECK(loads || (status == PF_ENOMEM && !loaded && !other));
        pf_optimizer_close(&other);
        pf_module_release(&loaded);
        pf_engine_close(&small);
        CHECK(held == held_before);
    }
    CHECK(loads);
    pf_optimizer_close(&optimizer);
    pf_module_release(&module);
}

static void test_inspect_run(void) {
    const char *run = run_folder("inspect");
    pf_module *module = build(engine, two_layers);
    pf_config *state = parse("{\"note\":\"x\"}"), *info = NULL;
    const char *paths[] = {run, scratch_path("%s/step-12", run), scratch_path("%s/LATEST", run)};
    CHECK_OK(pf_checkpoint_save(engine, run, 12, module, NULL, state, NULL, 0));
    for (int i = 0; i < 3; i++) {
        CHECK_OK(pf_inspect(&info, engine, paths[i]));
        CHECK(pf_config_size(pf_config_get(info, "tensors")) == 4);
        CHECK(pf_config_number(pf_config_get(info, "params")) == 3 * 4 + 4 + 4 * 2 + 2);
        CHECK(pf_config_number(pf_config_get(info, "bytes")) == 4 * 26);
        const pf_config *type = pf_config_get(pf_config_get(info, "config"), "type");
        CHECK(type && !strcmp(pf_config_string(type), "chain"));
        CHECK(pf_config_get(pf_config_get(info, "state"), "state") != NULL);
        CHECK(strstr(pf_config_string(pf_config_get(info, "checkpoint")), "step-12") != NULL);
        pf_config_free(info);
    }
    pf_config_free(state);
    pf_module_release(&module);
}

int main(int argc, char **argv) {
    pf_options options = PF_OPTIONS_DEFAULT;
    if (argc == 4 && !strcmp(argv[1], "--writer")) {
        return write_forever(argv[2], strtoull(argv[3], NULL, 10));
    }
    options.threads = 1;
    options.log = on_log;
    options.allocator.resize = count_bytes;
    CHECK_OK(pf_engine_open(&engine, &options));
    scratch_open(dir, sizeof dir);
    test_layout();
    test_replace();
    test_prune();
    test_every_byte();
    test_fallback();
    test_manifest_names();
    test_save_failures();
    test_load_failures();
    test_no_locks();
    test_cut_replacement();
    test_kill("/proc/self/exe", argc > 1 ? atoi(argv[1]) : 50);
    test_model_round_trip("{\"type\":\"adamw\",\"lr\":0.01}");
    test_model_round_trip("{\"type\":\"sgd\",\"lr\":0.01,\"momentum\":0.9}");
    test_misfits();
    test_script_layer();
    test_load_budget();
    test_inspect_run();
    scratch_remove(dir);
    pf_engine_close(&engine);
    CHECK(held == 0);
    return CHECK_REPORT();
}
