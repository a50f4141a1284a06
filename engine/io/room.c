/*
 * room.c - asks the system how much memory there is. A container sees the machine's whole memory,
 * and is ended by the system when it takes more than its own, so its limit is read as well.
 */
#include "room.h"

#include <stdio.h>
#include <unistd.h>

/* The number in a file, or `otherwise` where there is none ("max"). */
static double number_in(const char *path, double otherwise) {
    FILE *file = fopen(path, "re");
    unsigned long long n;
    if (!file) return otherwise;
    bool found = fscanf(file, "%llu", &n) == 1;
    fclose(file);
    return found ? (double)n : otherwise;
}

size_t pf_half_of_memory(void) {
    static const char *const limits[] = {"/sys/fs/cgroup/memory.max",
                                         "/sys/fs/cgroup/memory/memory.limit_in_bytes"};
    double bytes = (double)sysconf(_SC_PHYS_PAGES) * (double)sysconf(_SC_PAGESIZE);
    if (bytes <= 0) bytes = 9e15; /* the system does not say */
    for (int i = 0; i < PF_COUNT(limits); i++) {
        double limit = number_in(limits[i], bytes);
        if (limit < bytes) bytes = limit;
    }
    return (size_t)(bytes / 2);
}
