/*
 * ping.c - what the links between ranks do, through the transport that Performer uses: how long a
 * short message takes, bytes a second of a long one, and the sum of a gradient, which goes to the
 * owners of its parts and comes back. Rank 0 prints them, and the words for the simulator.
 *
 *   mpirun -n 2 --hostfile hosts --map-by ppr:1:node build/release/examples/ping [MB [PLUGIN]]
 */
#define _POSIX_C_SOURCE 200112L
#include <dlfcn.h>
#include <performer_transport.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { SHORT = 16, LONG = 4 << 20, SHARE = 1 << 18, TIMES = 20, SUMS = 5, TIMEOUT = 60 };

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* A message that the transport refuses ends all ranks. */
static void check(pf_transport *t, int bad) {
    if (!bad) return;
    fprintf(stderr, "ping: rank %d: %s failed with %d\n", t->rank, t->name, bad);
    t->abort(t->self, 1);
    exit(1);
}

static void finish(pf_transport *t, int ticket) {
    for (int done = 0; !done;) {
        check(t, t->test(t->self, ticket, &done));
        if (!done) sched_yield(); /* ranks may be more than cores */
    }
}

/* ---- one link: rank 0 and the last ---- */

/* Half of the shortest way there and back. */
static double ping(pf_transport *t, char *data, size_t bytes) {
    int other = t->rank ? 0 : t->ranks - 1, ticket;
    double best = 1e9;
    for (int i = 0; i < TIMES; i++) {
        double start = now();
        for (int way = 0; way < 2; way++) {
            if ((way == 0) == (t->rank == 0))
                check(t, t->send(t->self, other, 0, data, bytes, &ticket));
            else
                check(t, t->receive(t->self, other, 0, data, bytes, &ticket));
            finish(t, ticket);
        }
        double seconds = (now() - start) / 2;
        if (seconds < best) best = seconds;
    }
    return best;
}

/* ---- a sum: part j of everybody's numbers to rank j, and j's part to everybody ---- */

/* Sends to all and receives from all, the next rank first; in: room for a part of each. */
static void trade(pf_transport *t, const char *out, size_t step, char *in, size_t part) {
    int *ticket = malloc((size_t)t->ranks * 2 * sizeof *ticket), n = 0;
    check(t, !ticket);
    for (int far = 1; far < t->ranks; far++) {
        int to = (t->rank + far) % t->ranks, from = (t->rank + t->ranks - far) % t->ranks;
        check(t, t->receive(t->self, from, 1, in + (size_t)from * part, part, &ticket[n++]));
        check(t, t->send(t->self, to, 1, out + (size_t)to * step, part, &ticket[n++]));
    }
    for (int i = 0; i < n; i++) finish(t, ticket[i]);
    free(ticket);
}

/* The best time of a sum of `bytes`, in rounds with parts of SHARE as the engine has them; adding
 * is left out. */
static double sum(pf_transport *t, char *own, char *all, size_t bytes) {
    size_t round = (size_t)SHARE * (size_t)t->ranks;
    double best = 1e9;
    for (int i = 0; i < SUMS; i++) {
        trade(t, all, 0, own, SHORT); /* all begin together, more or less */
        double start = now();
        for (size_t at = 0; at < bytes; at += round) {
            size_t part = (bytes - at < round ? bytes - at : round) / (size_t)t->ranks;
            trade(t, own + at, part, all + at, part);
            trade(t, own + at + (size_t)t->rank * part, 0, all + at, part);
        }
        double seconds = now() - start;
        if (seconds < best) best = seconds;
    }
    return best;
}

/* ---- all of it ---- */

static pf_transport *open_transport(const char *file) {
    char why[256] = "";
    union {
        void *object;
        int (*function)(pf_transport **transport, double timeout, char *message, size_t bytes);
    } open;
    pf_transport *t = NULL;
    void *plugin = dlopen(file, RTLD_NOW | RTLD_LOCAL);
    open.object = plugin ? dlsym(plugin, "pf_transport_open") : NULL;
    if (!open.object)
        fprintf(stderr, "ping: %s: %s\n", file, dlerror());
    else if (open.function(&t, TIMEOUT, why, sizeof why) != 0)
        fprintf(stderr, "ping: %s: %s\n", file, why);
    return t;
}

static void measure(pf_transport *t, char *own, char *all, size_t bytes) {
    double wait = 0, rate = 1;
    if (t->rank == 0 || t->rank == t->ranks - 1) {
        wait = ping(t, own, SHORT);
        double one = ping(t, own, LONG), two = ping(t, own, 2 * LONG);
        rate = LONG / (two > one ? two - one : one);
    }
    double seconds = sum(t, own, all, bytes);
    if (t->rank != 0) return;
    printf("%s, %d ranks\n", t->name, t->ranks);
    printf("link: %.1f us, %.0f MB/s; sum of %.1f MB: %.2f ms\n", 1e6 * wait, 1e-6 * rate,
           1e-6 * (double)bytes, 1e3 * seconds);
    printf("performer bench ranks --simulate --hosts %d --link %.1f:%.0f\n", t->ranks, 1e6 * wait,
           1e-6 * rate);
}

int main(int argc, char **argv) {
    double mb = argc > 1 ? strtod(argv[1], NULL) : 16;
    const char *named = getenv("PERFORMER_TRANSPORT");
    if (!(mb >= 16 && mb <= 1024)) {
        fprintf(stderr, "ping: '%s' is no size: give 16 to 1024 (MB)\n", argv[1]);
        return 2;
    }
    pf_transport *t = open_transport(argc > 2 ? argv[2] : named ? named : "libperformer_mpi.so");
    if (!t) return 1;
    size_t bytes = (size_t)(1e6 * mb);
    char *own = calloc(1, bytes), *all = calloc(1, bytes);
    int good = own && all && t->ranks > 1;
    if (good) measure(t, own, all, bytes);
    if (t->ranks < 2) fprintf(stderr, "ping: one rank: start two or more, with mpirun -n 2\n");
    if (!good && t->ranks > 1) t->abort(t->self, 1);
    t->close(t->self);
    free(own), free(all);
    return good ? 0 : 1;
}
