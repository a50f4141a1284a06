/*
 * folder_own_test.c - what a writer may touch: only its own run's checkpoints are removed or
 * written over, one writer is at work in a run folder, and nothing gets its final name before it is
 * on the disk.
 */
#include <fcntl.h>
#include <sys/wait.h>

#include "file.h"
#include "folder_lock.h"
#include "folder_support.h"

/* ---- whose it is --------------------------------------------------------------- */

static void copy_folder(const char *from, const char *to) {
    char command[1200];
    snprintf(command, sizeof command, "cp -R '%s' '%s'", from, to);
    CHECK(system(command) == 0);
}

static void put_note(const char *folder) {
    mkdir(folder, 0777);
    CHECK(scratch_write(scratch_path("%s/notes.txt", folder), "precious", 8) == 0);
}

static bool has_note(const char *folder) {
    size_t bytes;
    char *text = scratch_read(scratch_path("%s/notes.txt", folder), &bytes);
    bool good = text && bytes == 8 && !memcmp(text, "precious", 8);
    free(text);
    return good;
}

/* A run of steps 10, 20 ... 60 that keeps one, among folders that are not its own. */
static void test_not_removed(void) {
    char run[300], other[300], elsewhere[300];
    snprintf(other, sizeof other, "%s/other", dir);
    snprintf(elsewhere, sizeof elsewhere, "%s/elsewhere", dir);
    snprintf(run, sizeof run, "%s", run_folder("mixed"));
    CHECK_OK(save_step(engine, other, 2, 3, 0));
    CHECK_OK(save_step(engine, run, 10, 3, 1));
    put_note(scratch_path("%s/step-1", run));                                      /* by hand */
    copy_folder(scratch_path("%s/step-2", other), scratch_path("%s/step-2", run)); /* another's */
    CHECK(scratch_write(scratch_path("%s/step-3", run), "a file", 6) == 0);
    copy_folder(scratch_path("%s/step-10", run), scratch_path("%s/step-4", run)); /* renamed */
    put_note(elsewhere);
    CHECK(symlink(elsewhere, scratch_path("%s/step-5", run)) == 0);
    copy_folder(scratch_path("%s/step-10", run), scratch_path("%s/real", dir));
    CHECK(symlink(scratch_path("%s/real", dir), scratch_path("%s/step-6", run)) == 0);
    CHECK_OK(save_step(engine, run, 20, 3, 1));
    CHECK(scratch_count(run, "step-10") == 0);
    put_note(scratch_path("%s/step-20", run)); /* a file of the user's in a folder of ours */
    CHECK_OK(save_step(engine, run, 30, 3, 1));
    mkdir(scratch_path("%s/step-30/more", run), 0777);
    for (uint64_t step = 40; step <= 60; step += 10) CHECK_OK(save_step(engine, run, step, 3, 1));
    CHECK(has_note(scratch_path("%s/step-1", run)) && has_note(elsewhere));
    CHECK(load_step(scratch_path("%s/step-2", run)) == 2);
    CHECK(load_step(scratch_path("%s/step-4", run)) == 10);
    CHECK(load_step(scratch_path("%s/real", dir)) == 10);
    CHECK(has_note(scratch_path("%s/step-20", run)));
    CHECK(load_step(scratch_path("%s/step-20", run)) == 20);
    CHECK(load_step(scratch_path("%s/step-30", run)) == 30);
    CHECK(scratch_count(run, "step-") == 9 && load_step(run) == 60); /* 1 to 6, 20, 30, 60 */
}

/* What would be written over moves away instead, whole, and its name is said. */
static void test_set_aside(void) {
    char run[300];
    snprintf(run, sizeof run, "%s", run_folder("aside"));
    mkdir(run, 0777);
    put_note(scratch_path("%s/step-7", run));
    warnings = 0;
    CHECK_OK(save_step(engine, run, 7, 3, 1));
    CHECK(warnings == 1 && strstr(warning, "it is now step-7.aside"));
    CHECK(has_note(scratch_path("%s/step-7.aside", run)) && load_step(run) == 7);
    CHECK_OK(save_step(engine, run, 7, 4, 1)); /* its own: written over */
    CHECK(warnings == 1 && scratch_count(run, "") == 3);
    put_note(scratch_path("%s/step-7", run));
    CHECK_OK(save_step(engine, run, 7, 5, 1));
    CHECK(warnings == 2 && strstr(warning, "step-7.aside-2"));
    CHECK(has_note(scratch_path("%s/step-7.aside-2", run)));
    CHECK(has_note(scratch_path("%s/step-7.aside", run)) && load_step(run) == 7);
}

/* The next run in a folder whose checkpoints were moved away has another name. */
static void test_names(void) {
    char run[300], kept[300];
    snprintf(kept, sizeof kept, "%s", run_folder("kept"));
    snprintf(run, sizeof run, "%s", run_folder("names"));
    CHECK_OK(save_step(engine, run, 1, 3, 0));
    CHECK(rename(run, kept) == 0);
    CHECK_OK(save_step(engine, run, 5, 3, 0));
    copy_folder(scratch_path("%s/step-1", kept), scratch_path("%s/step-1", run));
    CHECK_OK(save_step(engine, run, 6, 3, 1));
    CHECK(load_step(scratch_path("%s/step-1", run)) == 1 && scratch_count(run, "step-5") == 0);
    /* A copy of a whole run goes on as it is: its checkpoints are its own. */
    scratch_remove(kept);
    copy_folder(run, kept);
    CHECK_OK(save_step(engine, kept, 9, 3, 1));
    CHECK(scratch_count(kept, "step-6") == 0 && load_step(run) == 6);
}

/* Step 0 begins a run, and is not what a script without a step writes over one. */
static void test_beginning(void) {
    const char *run = run_folder("begin");
    CHECK_OK(save_step(engine, run, 0, 3, 0));
    CHECK_OK(save_step(engine, run, 0, 4, 0));
    CHECK_OK(save_step(engine, run, 30, 3, 0));
    CHECK_FAILS(PF_ESTATE, save_step(engine, run, 0, 3, 0));
    CHECK(strstr(pf_last_error(), "come to step 30"));
    CHECK(load_step(run) == 30 && load_step(scratch_path("%s/step-0", run)) == 0);
}

/* ---- one writer ---------------------------------------------------------------- */

/* In a process of its own: saves `step` to `run`, after holding it, and then waits to be killed. */
static pid_t other_writer(const char *run, bool hold) {
    int ready[2];
    char byte;
    CHECK(pipe(ready) == 0);
    pid_t child = fork();
    if (child == 0) {
        pf_engine *own = NULL;
        pf_options options = PF_OPTIONS_DEFAULT;
        options.threads = 1;
        bool good = pf_engine_open(&own, &options) >= 0;
        good = good && (!hold || pf_folder_hold(own, run) >= 0) &&
               save_step(own, run, 1, 3, 0) >= 0 && write(ready[1], "x", 1) == 1;
        while (good) pause();
        _exit(1);
    }
    close(ready[1]);
    CHECK(read(ready[0], &byte, 1) == 1);
    close(ready[0]);
    return child;
}

static void end(pid_t child) {
    int status;
    kill(child, SIGKILL);
    CHECK(waitpid(child, &status, 0) == child);
}

static void test_hold(void) {
    char run[300];
    snprintf(run, sizeof run, "%s", run_folder("held/run"));
    pid_t child = other_writer(run, true);
    CHECK_FAILS(PF_ESTATE, pf_folder_hold(engine, run));
    CHECK(strstr(pf_last_error(), "another writer is at work"));
    CHECK_FAILS(PF_ESTATE, save_step(engine, run, 2, 3, 0));
    CHECK_FAILS(PF_ESTATE, pf_folder_mark(engine, run, "BEST", 1));
    CHECK(load_step(run) == 1); /* a reader may stand beside it */
    end(child);
    CHECK_OK(pf_folder_hold(engine, run)); /* killed: the kernel has freed the lock */
    CHECK_OK(pf_folder_hold(engine, scratch_path("%s/../run", run)));
    CHECK_OK(save_step(engine, run, 3, 3, 0));
    CHECK_OK(pf_folder_mark(engine, run, "BEST", 3));
    child = other_writer(run_folder("free"), false);
    CHECK_OK(pf_folder_hold(engine, run_folder("free"))); /* between saves nobody is kept out */
    end(child);
    pf_options options = PF_OPTIONS_DEFAULT;
    pf_engine *second = NULL;
    options.threads = 1;
    CHECK_OK(pf_engine_open(&second, &options));
    CHECK_FAILS(PF_ESTATE, pf_folder_hold(second, run));
    CHECK_FAILS(PF_ESTATE, save_step(second, run, 4, 3, 0));
    pf_engine_close(&second);
    CHECK_OK(save_step(engine, run, 4, 3, 0)); /* the other's end let go of nothing of ours */
}

/* Closing the engine lets others in. */
static void test_let_go(void) {
    const char *run = run_folder("after");
    pf_options options = PF_OPTIONS_DEFAULT;
    pf_engine *first = NULL;
    int files = scratch_count("/proc/self/fd", "");
    options.threads = 1;
    CHECK_OK(pf_engine_open(&first, &options));
    CHECK_OK(pf_folder_hold(first, run));
    CHECK_FAILS(PF_ESTATE, pf_folder_hold(engine, run));
    pf_engine_close(&first);
    CHECK(scratch_count("/proc/self/fd", "") == files);
    CHECK_OK(save_step(engine, run, 1, 3, 0));
}

int main(void) {
    folder_open();
    test_not_removed();
    test_set_aside();
    test_names();
    test_beginning();
    test_hold();
    test_let_go();
    return folder_close();
}
