/*
 * terminal.h - a program on a terminal of its own, with somebody who types and reads what it shows.
 */
#ifndef PF_TERMINAL_H
#define PF_TERMINAL_H

#include <errno.h>
#include <poll.h>
#include <pty.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include "check.h"

enum { TERMINAL_SECONDS = 20, SHOWN = 1 << 18 };

typedef struct {
    pid_t pid;
    int fd;
    size_t n, read; /* what it has shown, and how much of it was looked at */
    char shown[SHOWN];
} terminal;

/* Begins argv there. set: NAME=value ..., beside the environment. */
static inline void terminal_open(terminal *t, char *const *argv, const char *const *set) {
    struct winsize size = {.ws_row = 24, .ws_col = 80};
    memset(t, 0, sizeof *t);
    t->pid = forkpty(&t->fd, NULL, NULL, &size);
    if (t->pid == 0) {
        while (*set) putenv((char *)(uintptr_t)*set++);
        execv(argv[0], argv);
        _exit(127);
    }
    CHECK(t->pid > 0);
}

static inline void terminal_type(terminal *t, const char *text) {
    CHECK(write(t->fd, text, strlen(text)) == (ssize_t)strlen(text));
}

/* Takes what it shows; false: it has ended, or nothing came. */
static inline int terminal_take(terminal *t) {
    struct pollfd input = {.fd = t->fd, .events = POLLIN};
    if (poll(&input, 1, TERMINAL_SECONDS * 1000) <= 0) return 0;
    const ssize_t n = read(t->fd, t->shown + t->n, SHOWN - 1 - t->n);
    if (n <= 0) return 0;
    t->n += (size_t)n;
    t->shown[t->n] = 0;
    return 1;
}

/* Waits for a text, behind what was waited for before. */
static inline int terminal_sees(terminal *t, const char *text) {
    for (;;) {
        char *at = strstr(t->shown + t->read, text);
        if (at) {
            t->read = (size_t)(at - t->shown) + strlen(text);
            return 1;
        }
        if (!terminal_take(t)) {
            fprintf(stderr, "  no \"%s\" in: %s\n", text, t->shown + t->read);
            return 0;
        }
    }
}

/* Its exit code once it has ended; what it shows until then is kept. -1: a signal ended it, which
 * is ours where it does not end. `text` (or NULL) is typed twice a second till then: of what comes
 * before a line is edited, the terminal may take a Ctrl-D for its own. */
static inline int terminal_ends_by(terminal *t, const char *text) {
    int status = 0, ended = 0, shows = 1;
    for (int tenth = 0; tenth < 10 * TERMINAL_SECONDS && !ended; tenth++) {
        struct pollfd input = {.fd = t->fd, .events = POLLIN};
        if (text && tenth % 5 == 0 && write(t->fd, text, strlen(text)) < 0) text = NULL;
        if (shows && poll(&input, 1, 100) > 0)
            shows = terminal_take(t);
        else if (!shows)
            usleep(100000);
        ended = waitpid(t->pid, &status, WNOHANG) == t->pid;
    }
    if (!ended) {
        kill(t->pid, SIGKILL);
        waitpid(t->pid, &status, 0);
    }
    while (shows && terminal_take(t)) continue;
    close(t->fd);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static inline int terminal_ends(terminal *t) { return terminal_ends_by(t, NULL); }

#endif
