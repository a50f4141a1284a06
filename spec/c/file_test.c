/*
 * file_test.c - what the disk is asked for, and in which order; marks; where a file that is written
 * goes. Checkpoints as a whole are folder_test.c's.
 */
#include "folder_list.h"
#include "folder_support.h"
#include "inject.h"

/* A checkpoint of three files: config.json, model.safetensors, manifest.json. */
static int save(const char *run, uint64_t step) {
    pf_tensor *tensor = NULL;
    pf_config *config = pf_config_new(PF_MAP);
    int64_t shape[1] = {3};
    int status = pf_tensor_full(&tensor, engine, PF_F32, 1, shape, (double)step);
    const pf_named weights = {"x", tensor};
    pf_parts parts = {.weights = &weights, .n_weights = 1, .config = config};
    if (status >= 0) status = pf_folder_save(engine, run, step, &parts, 0);
    pf_config_free(config);
    pf_tensor_release(&tensor);
    return status;
}

/* The step of the checkpoint that `run` means, or a negative status. */
static int found(const char *run) {
    char *folder = NULL;
    int status = pf_folder_find(engine, &folder, run, true, PF_FOR_TRAINING);
    if (status >= 0) status = atoi(strrchr(folder, '-') + 1);
    pf_path_free(folder);
    return status;
}

/* Power may fail at any moment: files are on the disk before the folder that lists them, the folder
 * before the rename that gives it its name, the rename before LATEST says so, LATEST's content
 * before its name, and its name at the end. */
static void test_syncs(void) {
    const char *const whole[] = {"fffdrdfrd", "fffdxdfrd", "fffdrrdfrd"};
    for (int replaced = 0; replaced < 3; replaced++) {
        const char *run = run_folder("syncs");
        CHECK_OK(save(run, 1));
        inject.no_exchange = replaced == 2;
        inject_into(engine, INTERRUPT, false, -1);
        CHECK_OK(save(run, replaced ? 1 : 2));
        inject_end(engine);
        inject.no_exchange = false;
        CHECK(!strcmp(inject.done, whole[replaced]));
        if (strcmp(inject.done, whole[replaced]) != 0) fprintf(stderr, "  %s\n", inject.done);
    }
    const char *path = scratch_path("%s/one", dir);
    inject_into(engine, INTERRUPT, false, -1);
    CHECK_OK(pf_file_write(engine, path, "abc", 3));
    CHECK(!strcmp(inject.done, "frd"));
    inject_into(engine, INTERRUPT, false, -1);
    CHECK_OK(pf_dir_make(engine, scratch_path("%s/new-folder", dir)));
    CHECK(!strcmp(inject.done, "d"));
    inject_end(engine);
}

/* LATEST is "step-N", a line end or none, and nothing else. */
static void test_marks(void) {
    static const char *const bad[] = {"step-1 x",
                                      "step-1\n\n",
                                      "step-1.old",
                                      "step-01",
                                      "step-",
                                      "step-1\nstep-2\n",
                                      " step-1",
                                      "STEP-1",
                                      "step-1\r\n",
                                      "step-18446744073709551616",
                                      ""};
    const char *run = run_folder("marks");
    CHECK_OK(save(run, 1));
    CHECK_OK(save(run, 2));
    const char *latest = scratch_path("%s/LATEST", run);
    uint64_t step;
    for (int i = 0; i < PF_COUNT(bad); i++) {
        CHECK(scratch_write(latest, bad[i], strlen(bad[i])) == 0);
        CHECK_FAILS(PF_EFORMAT, pf_mark_read(engine, latest, &step));
        warnings = 0;
        CHECK(found(run) == 2 && warnings > 0 && strstr(warning, "LATEST"));
    }
    CHECK(scratch_write(latest, "step-1\0\n", 8) == 0);
    CHECK_FAILS(PF_EFORMAT, pf_mark_read(engine, latest, &step));
    char *big = calloc(1, 100);
    memset(big, '1', 99);
    memcpy(big, "step-1\n", 7);
    CHECK(scratch_write(latest, big, 99) == 0);
    CHECK_FAILS(PF_EFORMAT, pf_mark_read(engine, latest, &step));
    free(big);
    CHECK(scratch_write(latest, "step-1", 6) == 0);
    CHECK_OK(pf_mark_read(engine, latest, &step));
    CHECK(step == 1 && found(run) == 1);
}

/* What is written goes where links lead, and takes the place of regular files alone. */
static void test_links(void) {
    const char *real = scratch_path("%s/real", dir), *link = scratch_path("%s/link", dir);
    const char *far = scratch_path("%s/far", dir), *pipe = scratch_path("%s/pipe", dir);
    struct stat info;
    size_t bytes;
    CHECK(scratch_write(real, "old", 3) == 0 && chmod(real, 0640) == 0);
    CHECK(symlink("real", link) == 0 && symlink(link, far) == 0 && mkfifo(pipe, 0600) == 0);
    CHECK_OK(pf_file_write(engine, far, "new!", 4));
    CHECK(lstat(link, &info) == 0 && S_ISLNK(info.st_mode));
    CHECK(lstat(far, &info) == 0 && S_ISLNK(info.st_mode));
    char *text = scratch_read(real, &bytes);
    CHECK(bytes == 4 && !memcmp(text, "new!", 4));
    free(text);
    CHECK(stat(real, &info) == 0 && S_ISREG(info.st_mode) && (info.st_mode & 0777) == 0640);
    unlink(real); /* the link leads nowhere now: the file that it names is made */
    CHECK_OK(pf_file_write(engine, link, "abc", 3));
    CHECK(lstat(link, &info) == 0 && S_ISLNK(info.st_mode));
    CHECK(stat(real, &info) == 0 && info.st_size == 3);
    CHECK_FAILS(PF_EIO, pf_file_write(engine, pipe, "abc", 3));
    CHECK(strstr(pf_last_error(), "pipe") && lstat(pipe, &info) == 0 && S_ISFIFO(info.st_mode));
    CHECK_FAILS(PF_EIO, pf_file_write(engine, "/dev/null", "abc", 3));
    CHECK(stat("/dev/null", &info) == 0 && S_ISCHR(info.st_mode));
    unlink(link);
    CHECK(symlink(".", link) == 0);
    CHECK_FAILS(PF_EIO, pf_file_write(engine, link, "abc", 3));
    CHECK(strstr(pf_last_error(), "folder") && lstat(link, &info) == 0 && S_ISLNK(info.st_mode));
    unlink(link), unlink(far);
    CHECK(symlink("far", link) == 0 && symlink("link", far) == 0);
    CHECK_FAILS(PF_EIO, pf_file_write(engine, link, "abc", 3)); /* round and round */
    CHECK(scratch_count(dir, ".") == 0);                        /* nothing temporary is left */
    /* A folder that is taken away is itself, not what a link of its name leads to. */
    const char *kept = scratch_path("%s/kept", dir);
    unlink(link);
    CHECK(mkdir(kept, 0777) == 0 && symlink("kept", link) == 0);
    CHECK(scratch_write(scratch_path("%s/kept/x", dir), "x", 1) == 0);
    CHECK(pf_dir_remove(engine, link) && lstat(link, &info) < 0);
    CHECK(scratch_count(kept, "x") == 1);
}

/* What a file has is told, wherever the bytes were to begin. */
static void test_beyond(void) {
    char got[8];
    CHECK_OK(pf_file_write(engine, "memory:ten", "0123456789", 10));
    CHECK_OK(pf_file_read(engine, "memory:ten", 8, got, 2));
    CHECK(got[0] == '8' && got[1] == '9');
    CHECK_OK(pf_file_read(engine, "memory:ten", 10, got, 0));
    const int64_t from[] = {8, 10, 500, INT64_MAX};
    for (int i = 0; i < 4; i++) {
        CHECK_FAILS(PF_EFORMAT, pf_file_read(engine, "memory:ten", from[i], got, 3));
        CHECK(strstr(pf_last_error(), scratch_path("3 bytes from byte %lld are asked for, and the "
                                                   "file has 10 in all",
                                                   (long long)from[i])));
    }
}

/* Whole, however long. */
static void test_paths(void) {
    char text[600], wanted[608];
    memset(text, 'a', sizeof text);
    for (int n = 240; n < (int)sizeof text; n += n < 270 ? 1 : 57) {
        char *path = NULL;
        text[n] = 0;
        snprintf(wanted, sizeof wanted, "%s/b-%d", text, n);
        CHECK_OK(pf_path(&path, engine, "%s/b-%d", text, n));
        CHECK(path && !strcmp(path, wanted));
        pf_path_free(path);
        text[n] = 'a';
    }
}

int main(void) {
    folder_open();
    test_syncs();
    test_paths();
    test_marks();
    test_links();
    test_beyond();
    return folder_close();
}
