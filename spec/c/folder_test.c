/*
 * folder_test.c - run folders and checkpoint folders: what is saved comes back, any damage
 * is found and named, and a writer may be killed at any moment. Failing and losing disks are
 * fault_test.c's and power_test.c's.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/wait.h>

#include "folder_support.h"
#include "inject.h"

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
    CHECK_FAILS(PF_ENOTFOUND, pf_folder_mark(engine, run, "BEST", 10)); /* it is gone */
    CHECK_FAILS(PF_EINVAL, pf_folder_mark(engine, run, "../x", 20));
    CHECK_OK(pf_folder_mark(engine, run, "BEST", 20));
    CHECK_OK(save_step(engine, run, 40, 3, 2));
    CHECK_OK(save_step(engine, run, 50, 3, 1));
    CHECK(scratch_count(run, "step-") == 2); /* 50 and the best one */
    CHECK(load_step(scratch_path("%s/BEST", run)) == 20);
    CHECK_OK(pf_folder_mark(engine, run, "BEST", 50));
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
    static const char *const names[] = {"config.json",           "state.json",
                                        "tokenizer.json",        "model.safetensors",
                                        "optimizer.safetensors", "manifest.json"};
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

/* ---- without what a disk may lack ------------------------------------------------ */

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
    inject_into(engine, INTERRUPT, false, -1);
    CHECK_OK(save_step(engine, run, 2, 3, 0));
    inject.no_lock = false;
    inject_end(engine);
    CHECK(scratch_count(run, ".step-5") == 0 && scratch_count(run, ".step-6") == 1);
    CHECK(scratch_count(run, ".step-2") == 0);
    int fd = open(run, O_RDONLY | O_DIRECTORY);
    CHECK(flock(fd, LOCK_EX | LOCK_NB) == 0);
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
    CHECK(warnings == 0);  /* LATEST itself was good, each time */
    CHECK(unfinished > 0); /* some died in the middle of a save */
    CHECK_OK(save_step(engine, run, (uint64_t)last + 1, 5, 2));
    CHECK(scratch_count(run, ".") == 0 && scratch_count(run, "step-") <= 3);
}

int main(int argc, char **argv) {
    if (argc == 4 && !strcmp(argv[1], "--writer")) {
        return write_forever(argv[2], strtoull(argv[3], NULL, 10));
    }
    folder_open();
    test_layout();
    test_replace();
    test_prune();
    test_every_byte();
    test_fallback();
    test_manifest_names();
    test_no_locks();
    test_cut_replacement();
    test_kill("/proc/self/exe", getenv("PF_LONG") ? 5000 : 200);
    return folder_close();
}
