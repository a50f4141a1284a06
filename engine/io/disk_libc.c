/*
 * disk_libc.c - files as the C library has them: what the engine takes where a host gives nothing
 * of its own. A handle is the descriptor's number with two marks, so that opening needs no memory.
 *
 * A FIFO is opened without waiting for its writer, so that the wait can be ended: a read of a
 * stream polls for a tenth of a second, and then says -EAGAIN.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "disk.h"

enum { WAIT_MS = 100, IN_TURN = 1, STANDARD = 2, MARKS = 2 };

/* ---- handles ---- */

static void *handle_of(int fd, int marks) {
    return (void *)(intptr_t)((((intptr_t)fd + 1) << MARKS) | marks);
}

static int marks_of(const void *file) { return (int)((intptr_t)file & ((1 << MARKS) - 1)); }

static int fd_of(const void *file) { return (int)((intptr_t)file >> MARKS) - 1; }

static int failed(void) { return errno > 0 ? -errno : -EIO; }

/* What a call of the system's gave, or its errno. */
static int answer(int result) { return result < 0 ? failed() : result; }

/* ---- what it is ---- */

static pf_entry_kind kind_of(mode_t mode, bool terminal) {
    if (S_ISREG(mode)) return PF_ENTRY_FILE;
    if (S_ISDIR(mode)) return PF_ENTRY_FOLDER;
    if (S_ISLNK(mode)) return PF_ENTRY_LINK;
    bool device = S_ISBLK(mode) || (S_ISCHR(mode) && !terminal);
    return device ? PF_ENTRY_OTHER : PF_ENTRY_STREAM;
}

static void tell(pf_file_info *info, const struct stat *from, bool terminal) {
    info->kind = kind_of(from->st_mode, terminal);
    info->bytes = info->kind == PF_ENTRY_FILE ? (int64_t)from->st_size : 0;
    info->modified = (int64_t)from->st_mtim.tv_sec * 1000000000 + from->st_mtim.tv_nsec;
    info->volume = (uint64_t)from->st_dev;
    info->number = (uint64_t)from->st_ino;
    info->mode = (unsigned)(from->st_mode & 0777);
}

/* Of what is read from where it stands, what is left. */
static int libc_about(void *context, void *file, pf_file_info *info) {
    struct stat from;
    int fd = fd_of(file);
    (void)context;
    if (fstat(fd, &from) != 0) return failed();
    tell(info, &from, isatty(fd));
    off_t here = marks_of(file) & STANDARD ? lseek(fd, 0, SEEK_CUR) : 0;
    if (here > 0) info->bytes = pf_max(0, info->bytes - (int64_t)here);
    return 0;
}

static int libc_look(void *context, const char *path, pf_file_info *info) {
    struct stat from;
    (void)context;
    if (lstat(path, &from) != 0) return failed();
    tell(info, &from, false);
    return 0;
}

/* ---- opening ---- */

static int open_stream(const char *path, void **file) {
    struct stat from;
    bool standard = strcmp(path, "-") == 0 || strcmp(path, "/dev/stdin") == 0;
    int fd = standard ? STDIN_FILENO : open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC | O_NOCTTY);
    if (fd < 0) return failed();
    bool regular = fstat(fd, &from) == 0 && S_ISREG(from.st_mode);
    *file = handle_of(fd, standard ? STANDARD | IN_TURN : regular ? 0 : IN_TURN);
    return 0;
}

static int libc_open(void *context, const char *path, pf_open_how how, unsigned mode, void **file) {
    static const int flags[] = {
        [PF_OPEN_READ] = O_RDONLY | O_NONBLOCK, /* a pipe must not hang before it is seen as one */
        [PF_OPEN_NEW] = O_WRONLY | O_CREAT | O_EXCL,
        [PF_OPEN_FOLDER] = O_RDONLY | O_DIRECTORY,
    };
    (void)context;
    if (how == PF_OPEN_STREAM) return open_stream(path, file);
    int fd = open(path, flags[how] | O_CLOEXEC | O_NOCTTY, 0666);
    if (fd < 0) return failed();
    /* Not every file system keeps a mode; and without it the file is as good. */
    if (how == PF_OPEN_NEW && mode && fchmod(fd, (mode_t)mode & 0777) != 0) errno = 0;
    *file = handle_of(fd, 0);
    return 0;
}

static int libc_close(void *context, void *file) {
    (void)context;
    return marks_of(file) & STANDARD ? 0 : answer(close(fd_of(file)));
}

/* ---- bytes ---- */

static int64_t read_in_turn(int fd, void *out, size_t bytes) {
    struct pollfd one = {.fd = fd, .events = POLLIN};
    int ready = poll(&one, 1, WAIT_MS);
    if (ready < 0) return failed();
    if (ready == 0) return -EAGAIN;
    ssize_t got = read(fd, out, bytes);
    return got < 0 ? failed() : got;
}

static int64_t libc_read_at(void *context, void *file, int64_t offset, void *out, size_t bytes) {
    (void)context;
    if (marks_of(file) & IN_TURN) return read_in_turn(fd_of(file), out, bytes);
    ssize_t got = pread(fd_of(file), out, bytes, (off_t)offset);
    return got < 0 ? failed() : got;
}

static int64_t libc_write(void *context, void *file, const void *in, size_t bytes) {
    (void)context;
    ssize_t put = write(fd_of(file), in, bytes);
    return put < 0 ? failed() : put;
}

/* Some file systems (network, FUSE) can't sync a folder and say so with EINVAL. */
static int libc_sync(void *context, void *file) {
    struct stat from;
    (void)context;
    if (fsync(fd_of(file)) == 0) return 0;
    int error = failed();
    bool folder = fstat(fd_of(file), &from) == 0 && S_ISDIR(from.st_mode);
    return error == -EINVAL && folder ? 0 : error;
}

static int libc_lock(void *context, void *file) {
    (void)context;
    return answer(flock(fd_of(file), LOCK_EX | LOCK_NB));
}

static int libc_map(void *context, void *file, size_t bytes, const void **data) {
    (void)context;
    void *at = mmap(NULL, bytes, PROT_READ, MAP_PRIVATE, fd_of(file), 0);
    if (at == MAP_FAILED) return failed();
    *data = at;
    return 0;
}

static void libc_unmap(void *context, const void *data, size_t bytes) {
    (void)context;
    munmap((void *)(uintptr_t)data, bytes);
}

/* ---- names ---- */

static int64_t libc_read_link(void *context, const char *path, char *out, size_t bytes) {
    (void)context;
    ssize_t n = readlink(path, out, bytes);
    return n < 0 ? failed() : n;
}

static int libc_list(void *context, const char *path, pf_entry_fn each, void *to) {
    DIR *dir = opendir(path);
    int result = 0;
    (void)context;
    if (!dir) return failed();
    while (result >= 0) {
        errno = 0;
        const struct dirent *entry = readdir(dir);
        if (!entry) {
            result = errno ? failed() : 0;
            break;
        }
        bool dots = strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0;
        if (!dots) result = each(to, entry->d_name);
    }
    closedir(dir);
    return result;
}

static int libc_rename(void *context, const char *from, const char *to) {
    (void)context;
    return answer(rename(from, to));
}

static int libc_exchange(void *context, const char *a, const char *b) {
    (void)context;
#ifdef RENAME_EXCHANGE
    return answer(renameat2(AT_FDCWD, a, AT_FDCWD, b, RENAME_EXCHANGE));
#else
    (void)a, (void)b;
    return -ENOSYS;
#endif
}

static int libc_make_dir(void *context, const char *path) {
    (void)context;
    return answer(mkdir(path, 0777));
}

static int libc_remove(void *context, const char *path) {
    (void)context;
    return answer(remove(path));
}

const pf_file_access pf_disk_libc = {
    .size = sizeof(pf_file_access),
    .open = libc_open,
    .about = libc_about,
    .read_at = libc_read_at,
    .close = libc_close,
    .write = libc_write,
    .sync = libc_sync,
    .lock = libc_lock,
    .look = libc_look,
    .read_link = libc_read_link,
    .list = libc_list,
    .rename = libc_rename,
    .exchange = libc_exchange,
    .make_dir = libc_make_dir,
    .remove = libc_remove,
    .map = libc_map,
    .unmap = libc_unmap,
};
