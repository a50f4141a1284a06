/*
 * wait.c - how a rank waits. MPI's own calls spin: two seconds of waiting are two seconds of a
 * core. Here a rank looks 200 times in a row, for the microseconds that a quick answer takes, and
 * from then on sleeps between two looks, 50 microseconds at first and a millisecond after a tenth
 * of a second.
 */
#define _POSIX_C_SOURCE 200809L /* NOLINT(bugprone-reserved-identifier): the C library asks it */
#include <sched.h>
#include <time.h>

#include "exchange.h"

enum { SPINS = 200 };

void pf_comm_pause(double start, int turn) {
    if (turn < SPINS) {
        sched_yield();
        return;
    }
    long nanoseconds = pf_clock() - start < 0.1 ? 50000 : 1000000;
    nanosleep(&(struct timespec){.tv_nsec = nanoseconds}, NULL);
}
