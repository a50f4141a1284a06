/*
 * source.c - open, poll and read. A FIFO is opened without waiting for its writer, so that the
 * wait is ours: poll, with a look at the cancel flag ten times a second.
 */
#include "source.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    WAIT_MS = 100,
    TELL_AFTER = 20, /* waits: two seconds without a byte */
    STEP = 1 << 20   /* bytes between two looks at the cancel flag */
};

static int open_failed(const char *name) {
    int status = errno == ENOENT || errno == ENOTDIR ? PF_ENOTFOUND : PF_EIO;
    return pf_fail(status, "%s: %s", name, strerror(errno));
}

/* What kind of thing was opened. */
static int look(pf_source *s) {
    struct stat about;
    if (fstat(s->fd, &about) != 0) return open_failed(s->name);
    mode_t mode = about.st_mode;
    if (S_ISDIR(mode)) return pf_fail(PF_EIO, "%s: is a folder; name a file in it", s->name);
    if (S_ISBLK(mode) || (S_ISCHR(mode) && !isatty(s->fd)))
        return pf_fail(PF_EIO, "%s: is a device, no file; name a file or a pipe", s->name);
    s->waits = !S_ISREG(mode);
    s->once = s->waits || !s->own;
    if (s->waits) return PF_OK;
    s->modified[0] = about.st_mtim.tv_sec;
    s->modified[1] = about.st_mtim.tv_nsec;
    off_t here = lseek(s->fd, 0, SEEK_CUR);
    s->size = pf_max(0, (int64_t)about.st_size - pf_max(0, (int64_t)here));
    return PF_OK;
}

int pf_source_open(pf_source *s, pf_engine *engine, const char *path) {
    bool standard = strcmp(path, "-") == 0 || strcmp(path, "/dev/stdin") == 0;
    *s = (pf_source){.engine = engine, .name = path, .size = -1};
    if (standard) {
        s->name = "the standard input";
        s->fd = STDIN_FILENO;
    } else {
        s->fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
        s->own = s->fd >= 0;
    }
    int status = s->fd < 0 ? open_failed(path) : look(s);
    if (status < 0) pf_source_close(s);
    return status;
}

/* Until there is something to read, or the end. */
static int wait_for_bytes(pf_source *s) {
    for (int waits = 1;; waits++) {
        struct pollfd one = {.fd = s->fd, .events = POLLIN};
        PF_TRY(pf_progress_at(s->engine, "waiting for data", s->n, 0));
        int ready = poll(&one, 1, WAIT_MS);
        if (ready > 0) return PF_OK;
        if (ready < 0 && errno != EINTR && errno != EAGAIN)
            return pf_fail(PF_EIO, "%s: waiting failed: %s", s->name, strerror(errno));
        if (waits < TELL_AFTER || s->told) continue;
        s->told = true;
        pf_log(s->engine, PF_LOG_WARN, "%s: waiting for somebody to write into it", s->name);
    }
}

int64_t pf_source_read(pf_source *s, uint8_t *bytes, size_t room) {
    size_t done = 0;
    while (done < room) {
        PF_TRY(s->waits ? wait_for_bytes(s)
                        : pf_progress_at(s->engine, "reading data", s->n + (int64_t)done, 0));
        ssize_t got = read(s->fd, bytes + done, (size_t)pf_min(STEP, (int64_t)(room - done)));
        if (got == 0) break;
        if (got > 0) done += (size_t)got;
        if (got < 0 && errno != EINTR && errno != EAGAIN)
            return pf_fail(PF_EIO, "%s: reading failed: %s", s->name, strerror(errno));
    }
    s->n += (int64_t)done;
    return (int64_t)done;
}

int pf_source_check(const pf_source *s) {
    struct stat about;
    if (s->size < 0) return PF_OK;
    if (fstat(s->fd, &about) != 0) return open_failed(s->name);
    if (about.st_mtim.tv_sec == s->modified[0] && about.st_mtim.tv_nsec == s->modified[1])
        return PF_OK;
    return pf_fail(PF_EIO, "%s: was changed while it was read; read it again when it is finished",
                   s->name);
}

void pf_source_close(pf_source *s) {
    if (s->own) close(s->fd);
    s->own = false;
}
