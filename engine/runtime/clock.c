/* clock.c - seconds by the monotonic clock, for deadlines, progress and whoever measures. */
#include <time.h>

#include "base.h"

double pf_clock(void) {
    struct timespec now;
    if (clock_gettime(CLOCK_MONOTONIC, &now) != 0) return 0.0;
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}
