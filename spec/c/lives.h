/*
 * lives.h - many lives of one kind, one after the other: the process has no more memory and no more
 * open files at the end than when it had warmed up. A sanitizer keeps what was freed, so that under
 * one files alone are counted.
 */
#ifndef PF_LIVES_H
#define PF_LIVES_H

#include <fcntl.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "check.h"

enum { LIVES_SPARE = 1 << 20 };

static inline long lives_resident(void) {
    long pages = 0, all = 0;
    FILE *f = fopen("/proc/self/statm", "r");
    CHECK(f && fscanf(f, "%ld %ld", &all, &pages) == 2);
    if (f) fclose(f);
    return SANITIZED ? 0 : pages * sysconf(_SC_PAGESIZE);
}

static inline int lives_descriptors(void) {
    int n = 0;
    for (int fd = 0; fd < 64; fd++) n += fcntl(fd, F_GETFD) >= 0;
    return n;
}

/* So many lives, after so many to warm up. Pages that the system makes huge, when it finds the
 * time, would count two megabytes at once. */
static inline void lives_of(const char *what, void (*one)(void), int warm, int lives) {
    prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0);
    for (int i = 0; i < warm; i++) one();
    long before = lives_resident();
    int files = lives_descriptors();
    for (int i = 0; i < lives; i++) one();
    long grown = lives_resident() - before;
    if (grown > LIVES_SPARE) fprintf(stderr, "  %s: %ld bytes more\n", what, grown);
    CHECK(grown <= LIVES_SPARE && lives_descriptors() == files);
}

#endif
