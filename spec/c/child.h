/*
 * child.h - work in a forked child, for what may hang or die there: a time limit, and its value.
 */
#ifndef PF_CHILD_H
#define PF_CHILD_H

#include <stdio.h>
#include <stdlib.h> /* exit */
#include <sys/wait.h>
#include <unistd.h>

enum { CHILD_SECONDS = 30 };

/* How a child ends: nothing of its parent's is tidied up. With .ci/coverage it writes counters. */
#ifndef CHILD_EXIT
#define CHILD_EXIT _exit
#endif

/* The value (0 to 127) of `work` in a child; -1 when the child died or hung. */
static inline int in_child(int (*work)(void *), void *context) {
    int status = 0;
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        alarm(CHILD_SECONDS);
        CHILD_EXIT(work(context) & 127);
    }
    if (child < 0 || waitpid(child, &status, 0) != child || !WIFEXITED(status)) return -1;
    return WEXITSTATUS(status);
}

#endif
