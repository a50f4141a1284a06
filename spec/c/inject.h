/* inject.h - an access to files that fails when a test wants it to: over the C library's, or over
 * any other. It is a host's, given to the engine by pf_engine_files. */
#ifndef PF_INJECT_H
#define PF_INJECT_H

#include <errno.h>
#include <string.h>

#include "file.h"

typedef enum { FAIL_IO, FAIL_SPACE, INTERRUPT, SHORT, MODES } fail_mode;

static struct {
    const pf_file_access *base; /* NULL: the C library's */
    fail_mode mode;
    bool forever;  /* from the call on, not only once */
    int at, count; /* which call fails, calls so far */
    int also;      /* so many calls after it another fails; 0: none */
    const char *hit;
    int open; /* files that are */
    bool no_exchange, no_lock;
    /* What was done, a letter each: f a file is synced, d a folder, r a rename, x an exchange. */
    char done[256];
    int n_done;
} inject;

static const pf_file_access *base(void) { return inject.base ? inject.base : pf_file_system(); }

#define BASE(call, ...) base()->call(base()->context, __VA_ARGS__)

static void note(char letter) {
    if (inject.n_done < (int)sizeof inject.done - 1) inject.done[inject.n_done++] = letter;
}

/* Does this call fail? Of reads and writes half is done where they are to be short. */
static bool is_hit(const char *call) {
    int now = inject.count++;
    bool again = inject.forever || (inject.also && now == inject.at + inject.also);
    if (inject.at < 0 || now < inject.at || (now > inject.at && !again)) return false;
    inject.hit = inject.hit ? inject.hit : call;
    return true;
}

static int error_of(void) {
    return inject.mode == FAIL_SPACE ? -ENOSPC : inject.mode == INTERRUPT ? -EINTR : -EIO;
}

/* The answer that a call is to give, or 0. */
static int strike(const char *call) {
    return is_hit(call) && inject.mode != SHORT ? error_of() : 0;
}

static int fake_open(void *c, const char *path, pf_open_how how, unsigned mode, void **file) {
    (void)c;
    int error = strike("open");
    int result = error ? error : BASE(open, path, how, mode, file);
    inject.open += result >= 0;
    return result;
}
static int fake_about(void *c, void *file, pf_file_info *info) {
    (void)c;
    int error = strike("about");
    return error ? error : BASE(about, file, info);
}
static int64_t fake_read_at(void *c, void *file, int64_t at, void *out, size_t n) {
    (void)c;
    bool hit = is_hit("read_at");
    if (hit && inject.mode != SHORT) return error_of();
    return BASE(read_at, file, at, out, hit ? (n + 1) / 2 : n);
}
static int64_t fake_write(void *c, void *file, const void *in, size_t n) {
    (void)c;
    bool hit = is_hit("write");
    if (hit && inject.mode != SHORT) return error_of();
    return BASE(write, file, in, hit ? (n + 1) / 2 : n);
}
/* Where no power fails nothing is really synced: a test would take minutes. */
static int fake_sync(void *c, void *file) {
    pf_file_info info = {.size = sizeof info};
    (void)c;
    int error = strike("sync");
    if (error) return error;
    note(BASE(about, file, &info) >= 0 && info.kind == PF_ENTRY_FOLDER ? 'd' : 'f');
    return inject.base && inject.base->sync ? BASE(sync, file) : 0;
}
static int fake_lock(void *c, void *file) {
    (void)c;
    int error = strike("lock");
    if (error) return error;
    return inject.no_lock || !base()->lock ? -ENOLCK : BASE(lock, file);
}
static int fake_close(void *c, void *file) {
    (void)c;
    int result = BASE(close, file), error = strike("close");
    inject.open--;
    return error ? error : result;
}
static int fake_look(void *c, const char *path, pf_file_info *info) {
    (void)c;
    int error = strike("look");
    return error ? error : BASE(look, path, info);
}
static int64_t fake_read_link(void *c, const char *path, char *out, size_t n) {
    (void)c;
    int error = strike("read_link");
    return error ? error : BASE(read_link, path, out, n);
}
static int fake_list(void *c, const char *path, pf_entry_fn each, void *to) {
    (void)c;
    int error = strike("list");
    return error ? error : BASE(list, path, each, to);
}
static int fake_rename(void *c, const char *a, const char *b) {
    (void)c;
    int error = strike("rename");
    int result = error ? error : BASE(rename, a, b);
    if (result >= 0) note('r');
    return result;
}
static int fake_exchange(void *c, const char *a, const char *b) {
    (void)c;
    int error = strike("exchange");
    if (error) return error;
    int result = inject.no_exchange ? -ENOSYS : BASE(exchange, a, b);
    if (result >= 0) note('x');
    return result;
}
static int fake_make_dir(void *c, const char *path) {
    (void)c;
    int error = strike("make_dir");
    return error ? error : BASE(make_dir, path);
}
static int fake_remove(void *c, const char *path) {
    (void)c;
    int error = strike("remove");
    return error ? error : BASE(remove, path);
}

static const pf_file_access fakes = {
    .size = sizeof fakes,
    .open = fake_open,
    .about = fake_about,
    .read_at = fake_read_at,
    .close = fake_close,
    .write = fake_write,
    .sync = fake_sync,
    .lock = fake_lock,
    .look = fake_look,
    .read_link = fake_read_link,
    .list = fake_list,
    .rename = fake_rename,
    .exchange = fake_exchange,
    .make_dir = fake_make_dir,
    .remove = fake_remove,
};

/* From now on call `at` (from 0; < 0: none) of the engine's to its files fails. */
static inline void inject_into(pf_engine *e, fail_mode mode, bool forever, int at) {
    inject.mode = mode;
    inject.forever = forever;
    inject.at = at;
    inject.count = 0;
    inject.hit = NULL;
    memset(inject.done, 0, sizeof inject.done);
    inject.n_done = 0;
    pf_engine_files(e, &fakes);
}

/* No failures any more; files that are open go on through here. */
static inline void inject_end(pf_engine *e) {
    inject.at = -1;
    pf_engine_files(e, inject.base);
}

#endif
