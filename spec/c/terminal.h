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

/* Its exit code once it has ended; what it shows until then is kept. -1: a signal ended it. */
static inline int terminal_ends(terminal *t) {
    int status = 0;
    while (terminal_take(t)) continue;
    waitpid(t->pid, &status, 0);
    close(t->fd);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

#endif
