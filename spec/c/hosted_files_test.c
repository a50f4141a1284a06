/*
 * hosted_files_test.c - an access to files that a host gives: one that can do little, one that
 * lies, one whose bytes come slowly; files in memory; two engines with one each. In
 * LIVING_IN_A_HOST.md: [files.1], [files.2], [files.3], [files.7].
 */
#include <limits.h>
#include <stdatomic.h>

#include "folder_support.h"
#include "power.h"

static pf_engine *open_with(const pf_file_access *files) {
    pf_options options = PF_OPTIONS_DEFAULT;
    pf_engine *e = NULL;
    options.threads = 1;
    options.files = files;
    options.log = on_log;
    CHECK_OK(pf_engine_open(&e, &options));
    return e;
}

/* ---- options ---- */

static void test_options(void) {
    pf_file_access access = *pf_file_system();
    pf_options options = PF_OPTIONS_DEFAULT;
    pf_engine *e = NULL;
    options.files = &access;
    access.size = 0;
    CHECK_FAILS(PF_EINVAL, pf_engine_open(&e, &options));
    access.size = sizeof access;
    access.about = NULL;
    CHECK_FAILS(PF_EINVAL, pf_engine_open(&e, &options));
    CHECK(!e && strstr(pf_last_error(), "about"));
    access = *pf_file_system();
    CHECK_OK(pf_engine_open(&e, &options));
    access.open = NULL; /* it was copied */
    CHECK_FAILS(PF_ENOTFOUND, pf_inspect(&(pf_config *){NULL}, e, "/no/such/thing"));
    CHECK_FAILS(PF_EINVAL, pf_engine_files(e, &access));
    CHECK_OK(pf_engine_files(e, NULL));
    pf_engine_close(&e);
}

/* ---- a host that can do little ---- */

/* Reads and no more: a run is found by LATEST, and nothing can be written. */
static void test_reads_only(void) {
    power_disk *disk = power_open_disk();
    pf_engine_files(engine, &disk->access);
    CHECK_OK(save_step(engine, "run", 1, 3, 0));
    CHECK_OK(save_step(engine, "run", 2, 3, 0));
    const pf_file_access least = {.size = sizeof least,
                                  .context = disk,
                                  .open = power_open,
                                  .about = power_about,
                                  .read_at = power_read_at,
                                  .close = power_close};
    pf_engine_files(engine, &least);
    warnings = 0;
    CHECK(load_step("run") == 2 && warnings == 0);
    CHECK(load_step("run/step-1") == 1 && load_step("run/LATEST") == 2);
    CHECK_FAILS(PF_ENOTFOUND, (int)load_step("other"));
    CHECK_FAILS(PF_EIO, save_step(engine, "run", 3, 3, 0));
    CHECK(strstr(pf_last_error(), "Read-only"));
    CHECK_FAILS(PF_EIO, pf_file_write(engine, "x", "x", 1));
    CHECK_FAILS(PF_EIO, pf_file_remove(engine, "run/LATEST"));
    CHECK_FAILS(PF_EIO, pf_file_list(engine, "run", power_count, &(int){0}));
    CHECK_FAILS(PF_EIO, pf_file_make_folder(engine, "new"));
    CHECK(load_step("run") == 2 && disk->open == 0);
    pf_engine_files(engine, NULL);
    power_close_disk(&disk);
}

/* Without what only some have: links, locks, exchange, syncs. */
static void test_writes_simply(void) {
    power_disk *disk = power_open_disk();
    pf_file_access simple = disk->access;
    simple.look = NULL, simple.lock = NULL, simple.exchange = NULL, simple.sync = NULL;
    simple.read_link = NULL;
    pf_engine_files(engine, &simple);
    CHECK_OK(pf_checkpoint_hold(engine, "run"));
    for (int i = 0; i < 2; i++) CHECK_OK(save_step(engine, "run", 1, 3, 1));
    CHECK_OK(save_step(engine, "run", 2, 3, 1));
    CHECK(load_step("run") == 2);
    CHECK_FAILS(PF_ENOTFOUND, (int)load_step("run/step-1")); /* it was taken away */
    CHECK_OK(pf_file_remove(engine, "run"));
    CHECK_FAILS(PF_ENOTFOUND, (int)load_step("run"));
    CHECK(disk->open == 0);
    pf_engine_files(engine, NULL);
    power_close_disk(&disk);
}

/* ---- a host that lies ---- */

static int64_t reads_more(void *c, void *file, int64_t at, void *out, size_t n) {
    return (void)c, (void)file, (void)at, (void)out, (int64_t)n + 1;
}
static int64_t writes_nothing(void *c, void *file, const void *in, size_t n) {
    return (void)c, (void)file, (void)in, (void)n, 0;
}
static int64_t writes_more(void *c, void *file, const void *in, size_t n) {
    return (void)c, (void)file, (void)in, (int64_t)n + 1;
}
static int is_less_than_nothing(void *c, void *file, pf_file_info *info) {
    return power_about(c, file, info), info->bytes = -5, 0;
}
static int always_interrupted(void *c, const char *path, pf_open_how how, unsigned mode,
                              void **file) {
    return (void)c, (void)path, (void)how, (void)mode, (void)file, -EINTR;
}

/* Numbers that are of no errno.h: the first is none as an int. */
static int64_t reads_no_number(void *c, void *file, int64_t at, void *out, size_t n) {
    return (void)c, (void)file, (void)at, (void)out, (void)n, -((int64_t)1 << 32);
}
static int opens_no_number(void *c, const char *path, pf_open_how how, unsigned mode, void **file) {
    return (void)c, (void)path, (void)how, (void)mode, (void)file, INT_MIN;
}
static int closes_no_number(void *c, void *file) { return power_close(c, file), INT_MIN; }

static void lies(const pf_file_access *access, int (*work)(void)) {
    CHECK_OK(pf_engine_files(engine, access));
    CHECK_FAILS(PF_EIO, work());
}
static int read_one(void) { return pf_file_read(engine, "x", 0, &(char){0}, 1); }
static int write_one(void) { return pf_file_write(engine, "x", "y", 1); }

static void test_lies(void) {
    power_disk *disk = power_open_disk();
    CHECK_OK(pf_engine_files(engine, &disk->access));
    CHECK_OK(pf_file_write(engine, "x", "x", 1));
    pf_file_access access = disk->access;
    access.read_at = reads_more;
    lies(&access, read_one);
    CHECK(strstr(pf_last_error(), " bytes read, more than it was asked for"));
    access.read_at = reads_no_number;
    lies(&access, read_one);
    CHECK(strstr(pf_last_error(), "the access to files answers -4294967296, which is no number"));
    access.close = closes_no_number;
    lies(&access, write_one);
    access.close = disk->access.close;
    access.write = writes_nothing;
    lies(&access, write_one);
    CHECK(strstr(pf_last_error(), "the access to files answers 0 bytes written"));
    access.write = writes_more;
    lies(&access, write_one);
    access.about = is_less_than_nothing;
    lies(&access, read_one);
    CHECK(strstr(pf_last_error(), "look at x: the access to files answers -"));
    access.open = opens_no_number;
    lies(&access, read_one);
    CHECK(strstr(pf_last_error(), "the access to files answers -2147483648, which is no number"));
    access.open = always_interrupted;
    lies(&access, read_one);
    CHECK_OK(pf_engine_files(engine, &disk->access));
    char got = 0;
    CHECK_OK(pf_file_read(engine, "x", 0, &got, 1));
    CHECK(got == 'x' && disk->open == 0);
    pf_engine_files(engine, NULL);
    power_close_disk(&disk);
}

/* An access may say in words why; the next one's number is told as ever. */
static int has_words(void *c, const char *path, pf_open_how how, unsigned mode, void **file) {
    (void)c, (void)how, (void)mode, (void)file;
    if (path[0] == 'y') pf_set_error(PF_EHOST, "no player may read this");
    return -EACCES;
}

static void test_words(void) {
    pf_file_access access = *pf_file_system();
    char got;
    access.open = has_words;
    CHECK_OK(pf_engine_files(engine, &access));
    CHECK_FAILS(PF_EIO, pf_file_read(engine, "y", 0, &got, 1));
    CHECK(!strcmp(pf_last_error(), "open y: no player may read this"));
    CHECK_FAILS(PF_EIO, pf_file_read(engine, "x", 0, &got, 1));
    CHECK(strstr(pf_last_error(), "open x: Permission denied"));
    pf_engine_files(engine, NULL);
}

/* ---- bytes that come slowly ---- */

static const char slow_text[] = ">a\nMKLV\n>b\nMKLI\n";
static struct {
    int asked, stop_at;
    atomic_int cancel;
} slow;

static int slow_open(void *c, const char *path, pf_open_how how, unsigned mode, void **file) {
    (void)c, (void)mode;
    if (strcmp(path, "-") != 0 || how != PF_OPEN_STREAM) return -ENOENT;
    *file = &slow;
    return 0;
}
static int slow_about(void *c, void *file, pf_file_info *info) {
    return (void)c, (void)file, info->kind = PF_ENTRY_STREAM, 0;
}
static int64_t slow_read(void *c, void *file, int64_t at, void *out, size_t n) {
    (void)c, (void)file, (void)n;
    if (++slow.asked == slow.stop_at) atomic_store(&slow.cancel, 1);
    if (slow.asked % 3 != 0) return slow.asked % 3 == 1 ? -EAGAIN : -EINTR;
    if (at >= (int64_t)sizeof slow_text - 1) return 0;
    *(char *)out = slow_text[at];
    return 1;
}
static int slow_close(void *c, void *file) { return (void)c, (void)file, 0; }

static int open_stream(pf_engine *e, pf_data **data) {
    pf_config *options = pf_config_new(PF_MAP);
    CHECK_OK(pf_config_set_string(options, "path", "-"));
    int status = pf_data_open(data, e, options);
    pf_config_free(options);
    return status;
}

static void test_streams(void) {
    const pf_file_access access = {.size = sizeof access,
                                   .open = slow_open,
                                   .about = slow_about,
                                   .read_at = slow_read,
                                   .close = slow_close};
    pf_options options = PF_OPTIONS_DEFAULT;
    pf_engine *e = NULL;
    pf_data *data = NULL;
    pf_data_info info = {.size = sizeof info};
    options.threads = 1, options.files = &access, options.cancel = &slow.cancel;
    CHECK_OK(pf_engine_open(&e, &options));
    CHECK_OK(open_stream(e, &data));
    CHECK_OK(pf_data_info_of(data, PF_ALL, &info));
    CHECK(info.documents == 2 && info.once);
    pf_data_close(&data);
    slow.asked = 0, slow.stop_at = 20;
    CHECK_FAILS(PF_ECANCEL, open_stream(e, &data));
    CHECK(slow.asked < 23);
    pf_engine_close(&e);
}

/* ---- engines and what outlives a change ---- */

static int refuses(void *c, const char *path, pf_open_how how, unsigned mode, void **file) {
    return (void)c, (void)path, (void)how, (void)mode, (void)file, -EACCES;
}

static void test_engines(void) {
    power_disk *a = power_open_disk(), *b = power_open_disk();
    pf_engine *ea = open_with(&a->access), *eb = open_with(&b->access);
    int64_t n;
    CHECK_OK(pf_file_write(ea, "x", "of a", 4));
    CHECK_OK(pf_file_write(eb, "x", "of b's", 6));
    CHECK(pf_file_size(ea, "x", &n) == PF_OK && n == 4);
    CHECK(pf_file_size(eb, "x", &n) == PF_OK && n == 6);
    CHECK_OK(pf_checkpoint_hold(ea, "run"));
    CHECK(a->open == 1);
    pf_file_access shut = a->access;
    shut.open = refuses;
    CHECK_OK(pf_engine_files(ea, &shut));
    CHECK_FAILS(PF_EIO, pf_file_size(ea, "x", &n));
    CHECK_OK(pf_engine_files(ea, NULL));
    pf_engine_close(&ea);
    CHECK(a->open == 0); /* by the access that opened it */
    pf_engine_close(&eb);
    power_close_disk(&a);
    power_close_disk(&b);
}

/* A data set goes on by the access that it was opened by. */
static void test_data_go_on(void) {
    static const char text[] = ">a\nMKLVAAG\n>b\nMKLIAAAGG\n";
    power_disk *disk = power_open_disk();
    pf_engine *e = open_with(&disk->access);
    pf_data *data = NULL;
    pf_tensor *ids = NULL;
    pf_file_access shut = disk->access;
    shut.open = refuses;
    CHECK_OK(pf_memory_lend(e, "memory:proteins", text, sizeof text - 1));
    pf_config *options = pf_config_new(PF_MAP);
    CHECK_OK(pf_config_set_string(options, "path", "memory:proteins"));
    CHECK_OK(pf_data_shard(e, options, "shards"));
    CHECK_OK(pf_config_set_string(options, "path", "shards"));
    CHECK_OK(pf_data_open(&data, e, options));
    CHECK_OK(pf_engine_files(e, &shut));
    CHECK_OK(pf_data_document(&ids, NULL, e, data, PF_ALL, 1));
    pf_tensor_release(&ids);
    pf_data_close(&data);
    CHECK_FAILS(PF_EIO, pf_data_open(&data, e, options));
    pf_config_free(options);
    pf_engine_close(&e);
    power_close_disk(&disk);
}

/* ---- memory ---- */

static void test_memory(void) {
    pf_engine *e = open_with(NULL);
    const char lent[] = "lent bytes";
    const void *data = NULL;
    size_t bytes = 0, live, after;
    pf_engine_memory(e, &live, NULL);
    CHECK_OK(pf_memory_lend(e, "memory:a", lent, sizeof lent));
    CHECK_OK(pf_memory_get(e, "memory:a", &data, &bytes));
    CHECK(data == lent && bytes == sizeof lent);
    CHECK_OK(pf_file_write(e, "memory:/a", "own", 3)); /* takes the place of what was lent */
    CHECK_FAILS(PF_ENOTFOUND, pf_memory_get(e, "memory:./x/../a", &data, &bytes));
    CHECK_OK(pf_memory_get(e, "memory:./a", &data, &bytes));
    CHECK(data != lent && bytes == 3 && memcmp(data, "own", 3) == 0);
    CHECK_FAILS(PF_EINVAL, pf_memory_get(e, "/tmp/a", &data, &bytes));
    CHECK(strstr(pf_last_error(), "memory:") && !data && !bytes);
    CHECK_FAILS(PF_EINVAL, pf_memory_lend(e, "a", lent, sizeof lent));
    CHECK_FAILS(PF_ENOTFOUND, pf_memory_lend(e, "memory:no/a", lent, sizeof lent));
    CHECK_OK(pf_file_make_folder(e, "memory:f/g"));
    CHECK_FAILS(PF_EIO, pf_memory_get(e, "memory:f", &data, &bytes));
    CHECK_FAILS(PF_EIO, pf_memory_lend(e, "memory:f", lent, 1));
    CHECK_FAILS(PF_ENOTFOUND, pf_file_write(e, "memory:a/b", "x", 1));
    CHECK_OK(pf_file_remove(e, "memory:f"));
    CHECK_OK(pf_file_remove(e, "memory:a"));
    CHECK_FAILS(PF_EIO, pf_file_remove(e, "memory:"));
    pf_engine_close(&e);
    pf_engine *again = open_with(NULL);
    CHECK_FAILS(PF_ENOTFOUND, pf_memory_get(again, "memory:a", &data, &bytes));
    pf_engine_memory(again, &after, NULL);
    CHECK(after < live + 4096);
    pf_engine_close(&again);
}

typedef struct {
    const pf_file_access *access;
    int told;
} remover;

/* Whatever it is told of, it removes all three. */
static int remove_all(void *to, const char *name) {
    remover *r = to;
    CHECK(name[0] >= 'a' && name[0] <= 'c');
    r->told++;
    r->access->remove(r->access->context, "memory:full/a");
    r->access->remove(r->access->context, "memory:full/b");
    r->access->remove(r->access->context, "memory:full/c");
    return 0;
}

/* Paths that end in a dot name the folder, which may be renamed over; and a folder may be emptied
 * while it is listed. */
static void test_memory_names(void) {
    pf_engine *e = open_with(NULL);
    pf_memory_files *files = NULL;
    pf_file_info info = {.size = sizeof info};
    CHECK_OK(pf_memory_files_open(&files, e));
    const pf_file_access *access = pf_memory_files_access(files);
    void *disk = access->context;
    static const char *const folders[] = {"memory:from",   "memory:to",     "memory:full",
                                          "memory:full/a", "memory:full/b", "memory:full/c"};
    for (int i = 0; i < 6; i++) CHECK(access->make_dir(disk, folders[i]) == 0);
    CHECK(access->rename(disk, "memory:from/.", "memory:to/.") == 0);
    CHECK(access->look(disk, "memory:from", &info) == -ENOENT);
    CHECK(access->look(disk, "memory:to", &info) == 0 && info.kind == PF_ENTRY_FOLDER);
    CHECK(access->make_dir(disk, "memory:to/sub") == 0);
    CHECK(access->rename(disk, "memory:full", "memory:to/sub/..") == -ENOTEMPTY);
    remover r = {access, 0};
    CHECK(access->list(disk, "memory:full", remove_all, &r) == 0);
    CHECK(r.told >= 1 && access->remove(disk, "memory:full") == 0);
    pf_memory_files_close(&files);
    pf_engine_close(&e);
}

/* Folders change places with all that they hold, as a step that is saved again does with the one
 * before; none with what lies in it. */
static void test_memory_exchange(void) {
    pf_engine *e = open_with(NULL);
    pf_memory_files *files = NULL;
    pf_file_info info = {.size = sizeof info};
    CHECK_OK(pf_memory_files_open(&files, e));
    const pf_file_access *access = pf_memory_files_access(files);
    void *disk = access->context;
    static const char *const folders[] = {"memory:a", "memory:a/in", "memory:b", "memory:b/x"};
    for (int i = 0; i < PF_COUNT(folders); i++) CHECK(access->make_dir(disk, folders[i]) == 0);
    CHECK(access->exchange(disk, "memory:a", "memory:b/x") == 0);
    CHECK(access->look(disk, "memory:b/x/in", &info) == 0);
    CHECK(access->look(disk, "memory:a", &info) == 0);
    CHECK(access->look(disk, "memory:a/in", &info) == -ENOENT);
    CHECK(access->exchange(disk, "memory:b", "memory:b/x") == -EINVAL);
    CHECK(access->exchange(disk, "memory:b/x", "memory:b") == -EINVAL);
    CHECK(access->exchange(disk, "memory:b", "memory:b/.") == 0);
    CHECK(access->exchange(disk, "memory:b", "memory:no") == -ENOENT);
    CHECK(access->look(disk, "memory:b/x/in", &info) == 0);
    CHECK_OK(pf_engine_files(e, access));
    for (int i = 1; i <= 2; i++) CHECK_OK(save_step(e, "memory:run", 3, i, 2));
    pf_named *list = NULL;
    int n = 0;
    const char *weights = "memory:run/step-3/model.safetensors";
    CHECK_OK(pf_safetensors_load(e, weights, &list, &n, NULL));
    CHECK(n == 2 && pf_tensor_numel(list[0].tensor) == 2); /* the second one's */
    pf_named_free(list, n);
    CHECK(access->look(disk, "memory:run/.step-3.old", &info) == -ENOENT);
    CHECK_OK(pf_engine_files(e, NULL));
    pf_memory_files_close(&files);
    pf_engine_close(&e);
}

/* A disk by itself, that is all there is: nobody else sees it, and it sees nothing else. */
static void test_memory_alone(void) {
    pf_engine *e = open_with(NULL);
    pf_memory_files *files = NULL;
    const void *data;
    size_t bytes;
    int64_t n;
    char got[4];
    CHECK_OK(pf_file_write(e, "memory:mine", "mine", 4));
    CHECK_OK(pf_memory_files_open(&files, e));
    const pf_file_access *access = pf_memory_files_access(files);
    void *handle = NULL;
    CHECK(access->open(access->context, "memory:mine", PF_OPEN_READ, 0, &handle) == -ENOENT);
    CHECK(access->open(access->context, "/etc/passwd", PF_OPEN_READ, 0, &handle) == -EACCES);
    CHECK(access->open(access->context, "-", PF_OPEN_STREAM, 0, &handle) == -EACCES);
    CHECK(access->open(access->context, "memory:x", PF_OPEN_NEW, 0, &handle) == 0);
    CHECK(access->write(access->context, handle, "text", 4) == 4);
    CHECK(access->close(access->context, handle) == 0);
    CHECK_FAILS(PF_ENOTFOUND, pf_memory_get(e, "memory:x", &data, &bytes));
    CHECK_OK(pf_engine_files(e, access));
    CHECK_FAILS(PF_EIO, pf_file_size(e, "/etc/passwd", &n));
    CHECK_OK(pf_engine_files(e, NULL));
    CHECK(access->open(access->context, "memory:x", PF_OPEN_READ, 0, &handle) == 0);
    CHECK(access->read_at(access->context, handle, 0, got, 4) == 4 && !memcmp(got, "text", 4));
    CHECK(access->close(access->context, handle) == 0);
    pf_engine_close(&e);
    pf_memory_files_close(&files); /* after its engine, too */
    CHECK(files == NULL);
}

/* As deep as names lead it: no path says it whole, and nobody walks it by a stack. */
static void test_memory_deep(void) {
    pf_engine *e = open_with(NULL);
    pf_memory_files *files = NULL;
    pf_file_info info = {.size = sizeof info};
    CHECK_OK(pf_memory_files_open(&files, e));
    const pf_file_access *access = pf_memory_files_access(files);
    void *disk = access->context;
    bool made = access->make_dir(disk, "memory:t") == 0;
    for (int i = 0; made && i < 300000; i++)
        made = access->make_dir(disk, "memory:x") == 0 &&
               access->rename(disk, "memory:t", "memory:x/t") == 0 &&
               access->rename(disk, "memory:x", "memory:t") == 0;
    CHECK(made);
    char path[6000] = "memory:";
    memset(path + strlen(path), 'n', sizeof path - 8);
    CHECK(access->make_dir(disk, path) == -ENAMETOOLONG);
    for (size_t i = 8; i + 1 < sizeof path; i += 2) path[i] = '/';
    CHECK(access->look(disk, path, &info) == -ENAMETOOLONG);
    pf_memory_files_close(&files);
    CHECK_FAILS(PF_EIO, pf_file_make_folder(e, path));
    pf_engine_close(&e);
}

/* ---- files that close before their engine ---- */

static pf_file_access inner;
static int open_now;

static int counted_open(void *context, const char *path, pf_open_how how, unsigned mode,
                        void **file) {
    const int result = inner.open(context, path, how, mode, file);
    open_now += result >= 0;
    return result;
}

static int counted_close(void *context, void *file) {
    open_now--;
    return inner.close(context, file);
}

/* An engine holds nothing of a disk that is handed on: it may be gone before. */
static void test_memory_held(void) {
    pf_engine *e = open_with(NULL);
    pf_memory_files *files = NULL;
    CHECK_OK(pf_memory_files_open(&files, e));
    inner = *pf_memory_files_access(files);
    pf_file_access counted = inner;
    counted.open = counted_open, counted.close = counted_close;
    CHECK_OK(pf_engine_files(e, &counted));
    pf_engine_lend_files(e, &counted);
    CHECK_OK(pf_checkpoint_hold(e, "memory:run"));
    pf_engine_lend_files(e, NULL);
    CHECK(open_now == 0);
    CHECK_OK(pf_engine_files(e, NULL));
    pf_memory_files_close(&files);
    pf_engine_close(&e);
}

int main(void) {
    folder_open();
    test_options();
    test_reads_only();
    test_writes_simply();
    test_lies();
    test_words();
    test_streams();
    test_engines();
    test_data_go_on();
    test_memory();
    test_memory_names();
    test_memory_exchange();
    test_memory_alone();
    test_memory_deep();
    test_memory_held();
    return folder_close();
}
