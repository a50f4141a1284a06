/*
 * check.h - the C tests' harness: CHECK counts and reports, a test program ends with
 * CHECK_REPORT(), which prints "N passed, N failed" and gives the exit status.
 */
#ifndef PF_CHECK_H
#define PF_CHECK_H

#include <math.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Sanitizers keep what was freed for a while, and need more room, on stacks too. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { SANITIZED = 1 };
#else
enum { SANITIZED = 0 };
#endif

static atomic_int check_passed, check_failed; /* threads check, too */

#define CHECK(condition) check_one((condition) ? 1 : 0, #condition, __FILE__, __LINE__)
#define CHECK_OK(call)                                                                             \
    do {                                                                                           \
        int check_status_ = (call);                                                                \
        if (check_status_ < 0) fprintf(stderr, "  %s\n", pf_last_error());                         \
        check_one(check_status_ >= 0, #call, __FILE__, __LINE__);                                  \
    } while (0)
#define CHECK_FAILS(status, call)                                                                  \
    do {                                                                                           \
        int check_status_ = (call);                                                                \
        check_one(check_status_ == (status) && pf_last_error()[0], #call, __FILE__, __LINE__);     \
    } while (0)
#define CHECK_REPORT()                                                                             \
    (printf("%d passed, %d failed\n", check_passed, check_failed), check_failed != 0)

static inline void check_one(int good, const char *what, const char *file, int line) {
    if (good) {
        check_passed++;
    } else {
        check_failed++;
        fprintf(stderr, "%s:%d: %s\n", file, line, what);
    }
}

#endif
