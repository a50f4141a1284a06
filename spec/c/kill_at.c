/*
 * kill_at.c - preloaded by ranks_kill_spec.lua: kills its process with SIGKILL at the n-th call of
 * a function, on one rank: KILL_CALL (MPI_Isend, fsync, rename), KILL_AT, KILL_RANK. Without
 * KILL_AT the calls are counted: each rank's number goes to the file KILL_COUNTS.RANK. KILL_HOW is
 * "stop" (SIGSTOP), or "full": from that call on an fsync finds the disk full.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static long calls;
static int full;

static const char *rank(void) {
    const char *open_mpi = getenv("OMPI_COMM_WORLD_RANK"), *mpich = getenv("PMI_RANK");
    return open_mpi ? open_mpi : mpich ? mpich : "";
}

/* Whether this process is the one that is meant, and this the call that is counted. */
static void count(const char *call) {
    const char *which = getenv("KILL_CALL"), *whose = getenv("KILL_RANK"), *at = getenv("KILL_AT");
    if (!which || strcmp(which, call) != 0 || *rank() == 0) return;
    const char *how = getenv("KILL_HOW");
    calls++;
    if (!at || !whose || strcmp(whose, rank()) != 0 || calls != atol(at)) return;
    if (how && strcmp(how, "full") == 0)
        full = 1;
    else
        kill(getpid(), how && strcmp(how, "stop") == 0 ? SIGSTOP : SIGKILL);
}

__attribute__((destructor)) static void tell(void) {
    const char *path = getenv("KILL_COUNTS");
    char own[4096];
    if (!path || *rank() == 0) return;
    snprintf(own, sizeof own, "%s.%s", path, rank());
    FILE *file = fopen(own, "w");
    if (file) fprintf(file, "%ld\n", calls), fclose(file);
}

/* What stands behind this library; an MPI that the plugin has loaded for itself alone is nowhere in
 * that order, and is asked for by its file. */
static uintptr_t next(const char *name) {
    static const char *const files[] = {"libmpi.so.40", "libmpich.so.12", "libmpi.so.12"};
    void *found = dlsym(RTLD_NEXT, name);
    for (int i = 0; !found && i < (int)(sizeof files / sizeof *files); i++) {
        void *file = dlopen(files[i], RTLD_NOW | RTLD_NOLOAD);
        found = file ? dlsym(file, name) : NULL;
    }
    return (uintptr_t)found;
}

#define NEXT(type, name) ((type)next(name))

/* What is a pointer in one MPI is a number in another; either is as wide as a long where it is
 * handed over. */
int MPI_Isend(long data, long n, long type, long to, long tag, long comm, long request);
int MPI_Isend(long data, long n, long type, long to, long tag, long comm, long request) {
    count("MPI_Isend");
    return NEXT(int (*)(long, long, long, long, long, long, long), "MPI_Isend")(data, n, type, to,
                                                                                tag, comm, request);
}

int fsync(int fd) {
    count("fsync");
    if (full) return errno = ENOSPC, -1;
    return NEXT(int (*)(int), "fsync")(fd);
}

int rename(const char *from, const char *to) {
    count("rename");
    return NEXT(int (*)(const char *, const char *), "rename")(from, to);
}
