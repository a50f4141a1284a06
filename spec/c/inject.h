/* inject.h - system calls that fail when a test wants them to. */
#ifndef PF_INJECT_H
#define PF_INJECT_H

#include <errno.h>
#include <string.h>

#include "file.h"

typedef enum { FAIL_IO, FAIL_SPACE, INTERRUPT, SHORT, FAIL_FOREVER, MODES } fail_mode;

static struct {
    fail_mode mode;
    int at, count; /* which call fails, calls so far */
    const char *hit;
    bool no_exchange, no_lock;
    /* What was done, a letter each: f a file is synced, d a folder, r a rename, x an exchange. */
    char done[256];
    int n_done;
} inject;

static void note(char letter) {
    if (inject.n_done < (int)sizeof inject.done - 1) inject.done[inject.n_done++] = letter;
}

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
static int fake_sync(int fd) {
    struct stat info;
    if (strike("sync")) return -1;
    note(fstat(fd, &info) == 0 && S_ISDIR(info.st_mode) ? 'd' : 'f');
    return 0;
}
static int fake_close(int fd) {
    int error = 0, result = pf_file_libc.close(fd);
    if (strike("close")) result = -1, error = errno;
    if (error) errno = error;
    return result;
}
static int fake_stat(int fd, struct stat *info) {
    return strike("stat") ? -1 : pf_file_libc.stat(fd, info);
}
static int fake_look(const char *p, struct stat *info) {
    return strike("look") ? -1 : pf_file_libc.look(p, info);
}
static ssize_t fake_read_link(const char *p, char *out, size_t n) {
    return strike("read_link") ? -1 : pf_file_libc.read_link(p, out, n);
}
static int fake_set_mode(int fd, mode_t mode) {
    return strike("set_mode") ? -1 : pf_file_libc.set_mode(fd, mode);
}
static int fake_lock(int fd) {
    if (strike("lock")) return -1;
    errno = ENOLCK;
    return inject.no_lock ? -1 : pf_file_libc.lock(fd);
}
static int fake_rename(const char *a, const char *b) {
    int result = strike("rename") ? -1 : pf_file_libc.rename(a, b);
    if (result == 0) note('r');
    return result;
}
static int fake_exchange(const char *a, const char *b) {
    if (strike("exchange")) return -1;
    errno = ENOSYS;
    int result = inject.no_exchange ? -1 : pf_file_libc.exchange(a, b);
    if (result == 0) note('x');
    return result;
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
    .open = fake_open,
    .read_at = fake_read,
    .write = fake_write,
    .sync = fake_sync,
    .close = fake_close,
    .stat = fake_stat,
    .look = fake_look,
    .read_link = fake_read_link,
    .set_mode = fake_set_mode,
    .lock = fake_lock,
    .rename = fake_rename,
    .exchange = fake_exchange,
    .make_dir = fake_make_dir,
    .unlink = fake_unlink,
    .remove_dir = fake_remove_dir,
    .open_dir = fake_open_dir,
    .next = fake_next,
};

static void inject_at(fail_mode mode, int at) {
    inject.mode = mode;
    inject.at = at;
    inject.count = 0;
    inject.hit = NULL;
    memset(inject.done, 0, sizeof inject.done);
    inject.n_done = 0;
    pf_file_hook(&fakes);
}

#endif
