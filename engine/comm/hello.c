/*
 * hello.c - the first words between ranks. What must hold: the greeting is the same in all
 * versions, so that two of them can tell each other that they are two; and what is found out here
 * is found out by every rank alike, since all have heard the same.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cpu.h"
#include "exchange.h"
#include "gemm.h"
#include "kern.h"

/* The same in all versions. */
typedef struct {
    uint32_t abi, unused;
    char version[24], host[PF_COMM_HOST];
} greeting;

enum { CPU_WORDS = 16, NAME = 128 }; /* 1024 processors */

/* What ranks of one version tell of themselves. */
typedef struct {
    int32_t cpu;     /* the level that its kernels are of */
    int32_t free;    /* processors that it could have */
    int32_t threads; /* of its engine */
    int32_t unused;
    uint64_t bound[CPU_WORDS]; /* those that it has */
    char libc[NAME];
} particulars;

/* ---- greeting ---- */

static int compare_versions(const pf_comm *comm, const greeting *all) {
    for (int r = 1; r < comm->ranks; r++) {
        if (all[r].abi == all->abi && strcmp(all[r].version, all->version) == 0) continue;
        return pf_fail(PF_EINVAL, "%s runs Performer %s and %s %s; install the same everywhere",
                       pf_comm_name(comm, r), all[r].version, pf_comm_name(comm, 0), all->version);
    }
    return PF_OK;
}

static int trade_greetings(pf_engine *engine, const char *host, greeting *all, size_t *bytes,
                           pf_message *list) {
    pf_comm *comm = engine->comm;
    greeting own = {.abi = PF_TRANSPORT_ABI};
    snprintf(own.version, sizeof own.version, "%s", pf_version());
    if (host)
        snprintf(own.host, sizeof own.host, "%s", host);
    else if (gethostname(own.host, sizeof own.host - 1) != 0)
        own.host[0] = 0;
    for (int r = 0; r < comm->ranks; r++) bytes[r] = sizeof own;
    comm->number = 1;
    PF_TRY(pf_comm_swap(engine, PF_VERB_GREET, &own, bytes, (char *)all, list));
    for (int r = 0; r < comm->ranks; r++) {
        all[r].version[sizeof own.version - 1] = all[r].host[PF_COMM_HOST - 1] = 0;
        memcpy(comm->host[r], all[r].host, PF_COMM_HOST);
    }
    return compare_versions(comm, all);
}

/* Other versions may say all that follows in another way: then this was all. */
static int greet(pf_engine *engine, const char *host) {
    const size_t ranks = (size_t)engine->comm->ranks;
    const size_t room = ranks * (sizeof(greeting) + 2 * sizeof(pf_message) + sizeof(size_t));
    greeting *all = pf_heap_alloc(engine->heap, room);
    int status = PF_ENOMEM;
    if (all) {
        pf_message *list = (pf_message *)(all + ranks);
        status = trade_greetings(engine, host, all, (size_t *)(list + 2 * ranks), list);
        pf_heap_free(engine->heap, all, room);
    }
    return status < 0 ? pf_comm_break(engine->comm, status) : PF_OK;
}

/* ---- particulars ---- */

/* The processors of this thread, and how many it could have: the system takes from a wish for all
 * what a container or a batch system doesn't give. */
static void find_processors(particulars *own) {
    cpu_set_t bound, wish;
    if (sched_getaffinity(0, sizeof bound, &bound) != 0) return;
    memset(&wish, 0xff, sizeof wish);
    if (sched_setaffinity(0, sizeof wish, &wish) == 0) {
        if (sched_getaffinity(0, sizeof wish, &wish) == 0) own->free = CPU_COUNT(&wish);
        sched_setaffinity(0, sizeof bound, &bound);
    }
    for (int i = 0; i < 64 * CPU_WORDS; i++)
        if (CPU_ISSET(i, &bound)) own->bound[i / 64] |= (uint64_t)1 << i % 64;
}

static int count_bits(const uint64_t *words) {
    int n = 0;
    for (int i = 0; i < CPU_WORDS; i++) n += __builtin_popcountll(words[i]);
    return n;
}

static void warn(pf_comm *comm, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void warn(pf_comm *comm, const char *format, ...) {
    size_t at = strlen(comm->warnings), room = sizeof comm->warnings - at;
    va_list args;
    va_start(args, format);
    int length = vsnprintf(comm->warnings + at, room, format, args);
    va_end(args);
    if (length < 0 || (size_t)length + 1 >= room)
        comm->warnings[at] = 0; /* whole lines only */
    else
        memcpy(comm->warnings + at + length, "\n", 2);
}

static bool same_host(const pf_comm *comm, int a, int b) {
    return strcmp(comm->host[a], comm->host[b]) == 0;
}

static bool first_of_host(const pf_comm *comm, int rank) {
    for (int r = 0; r < rank; r++)
        if (same_host(comm, r, rank)) return false;
    return true;
}

/* A launcher binds one or two ranks to a core each, unless it is told not to, and all threads of a
 * rank share that: where the ranks of a host together leave processors idle, it is said. */
static void look_at_binding(pf_comm *comm, const particulars *all) {
    for (int r = 0; r < comm->ranks; r++) {
        uint64_t together[CPU_WORDS] = {0};
        if (!first_of_host(comm, r)) continue;
        for (int k = r; k < comm->ranks; k++)
            for (int i = 0; i < CPU_WORDS && same_host(comm, k, r); i++)
                together[i] |= all[k].bound[i];
        if (count_bits(together) >= all[r].free) continue;
        warn(comm, "%s is bound to %d of %d cores: add --bind-to none", pf_comm_name(comm, r),
             count_bits(all[r].bound), (int)all[r].free);
        return;
    }
}

/* More threads than processors share them by turns: a rank that computes keeps another from it, for
 * which all wait. */
static void look_at_threads(pf_comm *comm, const particulars *all) {
    for (int r = 0; r < comm->ranks; r++) {
        int ranks = 0, threads = 0;
        if (!first_of_host(comm, r)) continue;
        for (int k = r; k < comm->ranks; k++) {
            ranks += same_host(comm, k, r);
            threads += same_host(comm, k, r) ? all[k].threads : 0;
        }
        if (ranks < 2 || all[r].free < 1 || threads <= all[r].free) continue;
        warn(comm, "%d ranks on %s have %d threads and %d cores: start fewer, or give them fewer",
             ranks, comm->host[r], threads, (int)all[r].free);
        return;
    }
}

void pf_comm_mind_binding(const pf_engine *engine) {
    particulars own = {.cpu = 0};
    find_processors(&own);
    if (count_bits(own.bound) != 1 || own.free <= 1) return;
    pf_log(engine, PF_LOG_WARN, "ranks: the one rank is bound to 1 of %d cores: add --bind-to none",
           (int)own.free);
}

/* The lowest level of all. */
static void take_level(pf_engine *engine, const particulars *all) {
    pf_comm *comm = engine->comm;
    int lowest = 0;
    bool differ = false;
    for (int r = 1; r < comm->ranks; r++) {
        differ |= all[r].cpu != all->cpu;
        if (all[r].cpu < all[lowest].cpu) lowest = r;
    }
    if (!differ) return;
    const pf_cpu level = (pf_cpu)all[lowest].cpu;
    warn(comm, "%s has kernels of level %s at most: so all add by these",
         pf_comm_name(comm, lowest), pf_cpu_name(level));
    engine->cpu = level;
    if (engine->kern) engine->kern = pf_kern_table(level);
}

/* The first rank that says something else than rank 0 in the field at `offset`. */
static void look_at_names(pf_comm *comm, const char *all, size_t stride, const char *what) {
    PF_HOLDS(all);
    for (int r = 1; r < comm->ranks; r++) {
        const char *other = all + (size_t)r * stride;
        if (strcmp(other, all) == 0) continue;
        warn(comm, "%s has %s, %s %s: %s may round differently, and the bits with it",
             pf_comm_name(comm, r), other, pf_comm_name(comm, 0), all, what);
        return;
    }
}

static int trade_particulars(pf_engine *engine, particulars *all) {
    pf_comm *comm = engine->comm;
    particulars own = {.cpu = (int32_t)engine->cpu, .threads = engine->threads};
    if (!all) return pf_comm_agree(engine, PF_ENOMEM); /* in place of its part */
    find_processors(&own);
    confstr(_CS_GNU_LIBC_VERSION, own.libc, sizeof own.libc); /* another's: "" */
    PF_TRY(pf_comm_collect(engine, PF_OK, &own, sizeof own, all));
    take_level(engine, all);
    look_at_names(comm, all->libc, sizeof *all, "exp and log");
    look_at_binding(comm, all);
    look_at_threads(comm, all);
    comm->place.cpus = count_bits(own.bound), comm->place.cpus_free = own.free;
    return PF_OK;
}

/* Where the kernels are no better than C, products are the BLAS's, which has kernels of its own for
 * each processor. */
static int trade_blas(pf_engine *engine) {
    pf_comm *comm = engine->comm;
    if (engine->cpu != PF_CPU_GENERIC || !engine->kern) return PF_OK;
    const size_t room = (size_t)comm->ranks * NAME;
    char own[NAME] = "", *all = pf_heap_alloc(engine->heap, room);
    snprintf(own, sizeof own, "%s", pf_blas_config());
    int status = pf_comm_collect(engine, all ? PF_OK : PF_ENOMEM, own, sizeof own, all);
    if (status >= 0) look_at_names(comm, all, NAME, "products");
    if (all) pf_heap_free(engine->heap, all, room);
    return status;
}

static void find_place(pf_comm *comm) {
    pf_comm_place *place = &comm->place;
    for (int r = 0; r < comm->ranks; r++) {
        place->hosts += first_of_host(comm, r);
        place->local_ranks += same_host(comm, r, comm->rank);
        place->local_rank += r < comm->rank && same_host(comm, r, comm->rank);
    }
}

int pf_comm_greet(pf_engine *engine, const char *host) {
    pf_comm *comm = engine->comm;
    const size_t room = (size_t)comm->ranks * sizeof(particulars);
    PF_TRY(greet(engine, host));
    find_place(comm);
    particulars *all = pf_heap_zalloc(engine->heap, room);
    int status = trade_particulars(engine, all);
    if (all) pf_heap_free(engine->heap, all, room);
    return status < 0 ? status : trade_blas(engine);
}
