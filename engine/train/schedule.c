/*
 * schedule.c - the learning rate by step: linear warm-up, then half a cosine down to the
 * floor. A function of the step alone, so that a resumed run continues where it was.
 */
#include <math.h>

#include "optim.h"

double pf_schedule_cosine(uint64_t step, uint64_t warmup, uint64_t steps, double peak,
                          double floor) {
    static const double pi = 3.14159265358979323846;
    if (step < warmup) return peak * (double)step / (double)warmup;
    if (step >= steps) return floor;
    double done = (double)(step - warmup) / (double)(steps - warmup);
    return floor + (peak - floor) * 0.5 * (1 + cos(pi * done));
}
