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
    CHECK_FAILS(PF_ESTATE, pf_folder_mark(run, "BEST", 1));
    CHECK(load_step(run) == 1); /* a reader may stand beside it */
    end(child);
    CHECK_OK(pf_folder_hold(engine, run)); /* killed: the kernel has freed the lock */
    CHECK_OK(pf_folder_hold(engine, scratch_path("%s/../run", run)));
    CHECK_OK(save_step(engine, run, 3, 3, 0));
    CHECK_OK(pf_folder_mark(run, "BEST", 3));
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

/* ---- first on the disk, then under its name ------------------------------------- */

/* What has been written or made since it was last synced, by path. */
static struct {
    char dirty[64][400], open[64][400];
    int fd[64], n_dirty, n_open, renames, removals;
} disk;

static void set_dirty(const char *path, bool dirty) {
    int at = 0;
    while (at < disk.n_dirty && strcmp(disk.dirty[at], path)) at++;
    if (dirty && at == disk.n_dirty) {
        snprintf(disk.dirty[disk.n_dirty++], sizeof disk.dirty[0], "%s", path);
    } else if (!dirty && at < disk.n_dirty) {
        memmove(disk.dirty[at], disk.dirty[disk.n_dirty - 1], sizeof disk.dirty[0]);
        disk.n_dirty--;
    }
}

static void set_parent_dirty(const char *path) {
    char parent[400];
    snprintf(parent, sizeof parent, "%s", path);
    *strrchr(parent, '/') = 0;
    set_dirty(parent, true);
}

/* Anything dirty that is `path` or lies in it. */
static bool is_dirty(const char *path) {
    for (int i = 0; i < disk.n_dirty; i++) {
        if (!strncmp(disk.dirty[i], path, strlen(path))) return true;
    }
    return false;
}

static int seen_open(const char *path, int flags, mode_t mode) {
    int fd = pf_file_libc.open(path, flags, mode);
    if (fd < 0) return fd;
    disk.fd[disk.n_open] = fd;
    snprintf(disk.open[disk.n_open++ % 64], sizeof disk.open[0], "%s", path);
    if (flags & O_CREAT) set_dirty(path, true), set_parent_dirty(path);
    return fd;
}
static int seen_sync(int fd) {
    for (int i = disk.n_open - 1; i >= 0; i--) {
        if (disk.fd[i] != fd) continue;
        set_dirty(disk.open[i], false);
        break;
    }
    return 0;
}
static int seen_make_dir(const char *path, mode_t mode) {
    if (pf_file_libc.make_dir(path, mode) < 0) return -1;
    set_dirty(path, true), set_parent_dirty(path);
    return 0;
}
static int seen_rename(const char *from, const char *to) {
    if (!strstr(to, ".tmp-")) { /* takes a final name: whole on the disk by now */
        CHECK(!is_dirty(from));
        disk.renames++;
    }
    if (pf_file_libc.rename(from, to) < 0) return -1;
    set_parent_dirty(to);
    return 0;
}
/* Before anything is taken away what came for it stands in the folder on the disk. */
static int seen_remove_dir(const char *path) {
    char parent[400];
    snprintf(parent, sizeof parent, "%s", path);
    *strrchr(parent, '/') = 0;
    for (int i = 0; i < disk.n_dirty; i++) CHECK(strcmp(disk.dirty[i], parent) || disk.removals);
    disk.removals++;
    return pf_file_libc.remove_dir(path);
}

/* The seals of a save, in order: files, their folder, its name, the run folder, LATEST. */
static void test_order(void) {
    char run[300];
    snprintf(run, sizeof run, "%s", run_folder("order"));
    pf_file_ops seen = pf_file_libc;
    seen.open = seen_open, seen.sync = seen_sync, seen.make_dir = seen_make_dir;
    seen.rename = seen_rename, seen.remove_dir = seen_remove_dir;
    CHECK_OK(save_step(engine, run, 1, 3, 0));
    memset(&disk, 0, sizeof disk);
    pf_file_hook(&seen);
    CHECK_OK(save_step(engine, run, 2, 3, 0));
    pf_file_hook(NULL);
    CHECK(disk.renames == 2 && disk.n_open < 64); /* step-2 and LATEST */
    CHECK(disk.n_dirty == 0);                     /* nothing is left to the system's mercy */
}

int main(void) {
    folder_open();
    test_not_removed();
    test_set_aside();
    test_names();
    test_beginning();
    test_hold();
    test_let_go();
    test_order();
    return folder_close();
}
