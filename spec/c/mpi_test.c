/*
 * mpi_test.c - the plugin for MPI, by mpirun on this machine: sums over lanes have the same bits on
 * 1 to 4 ranks, verbs agree; a rank that is killed, or leaves without a word, ends all the others
 * with a message and exit code 75; what is given up is written to no more. With each MPI that is
 * there (Open MPI, MPICH), the plugin made by the one line that performer_transport.h has, of that
 * header alone. Where there is no mpirun, only that this is told.
 *
 *   mpi_test                        runs the others, each under mpirun
 *   mpi_test WHAT [SUMS [NUMBERS]]  a rank: see the table `kinds`; .ci/cluster starts some, too
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <dlfcn.h>
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "check.h"
#include "host.h"
#include "tree.h"

enum { LANES = 8, MOST = 1 << 18 };
static int sums = 5, numbers = 70001;

/* ---- a rank ---- */

static float number_of(int lane, int64_t i) {
    uint32_t x = (uint32_t)(lane * 7919 + i * 104729 + 12345);
    x ^= x << 13, x ^= x >> 17, x ^= x << 5;
    return ((float)(x & 0xffff) - 32768) * ldexpf(1, (int)(x >> 16) % 20 - 10);
}

static float node_of(int first, int count, int64_t i) {
    if (count == 1) return number_of(first, i);
    return node_of(first, count / 2, i) + node_of(first + count / 2, count / 2, i);
}

static int sum_up(pf_engine *e, uint64_t *bits) {
    static float own[PF_LANE_NODES][MOST], sum[MOST];
    const float *list[PF_LANE_NODES];
    pf_lane_node nodes[PF_LANE_NODES];
    pf_reduction *r = NULL;
    int first, last;
    pf_lanes_of(LANES, pf_comm_ranks(e), pf_comm_rank(e), &first, &last);
    int n = pf_lane_nodes(first, last, nodes);
    for (int k = 0; k < n; k++) {
        list[k] = own[k];
        for (int64_t i = 0; i < numbers; i++)
            own[k][i] = node_of(nodes[k].first, nodes[k].count, i);
    }
    PF_TRY(pf_reduction_open(&r, e, PF_OK, LANES, numbers));
    int status = pf_reduction_run(r, list, numbers, sum);
    pf_reduction_close(&r);
    *bits = 14695981039346656037u;
    for (size_t i = 0; i < (size_t)numbers * sizeof *sum; i++)
        *bits = (*bits ^ ((const unsigned char *)sum)[i]) * 1099511628211u;
    return status;
}

/* `rank` does something else at the fourth step; somebody may wait for the first. */
static int work(pf_engine *e, int rank, void (*other)(void)) {
    uint64_t bits = 0, all[64];
    for (int i = 0; i < sums; i++) {
        pf_comm_at(e, (uint64_t)i + 1);
        if (i == 3 && pf_comm_rank(e) == rank && other) other();
        PF_TRY(sum_up(e, &bits));
        if (i == 0 && pf_comm_rank(e) == 0) printf("going\n"), fflush(stdout);
    }
    PF_TRY(pf_comm_collect(e, PF_OK, &bits, sizeof bits, all));
    for (int r = 0; r < pf_comm_ranks(e); r++)
        if (all[r] != bits) return pf_fail(PF_EHOST, "rank %d has other bits", r);
    if (pf_comm_rank(e) == 0) printf("bits %016llx\n", (unsigned long long)bits);
    return PF_OK;
}

static void die(void) { raise(SIGKILL); }
static void stay(void) { pause(); }

static int sum(pf_engine *e, pf_transport *t) {
    pf_comm_info info = {.size = sizeof info};
    PF_TRY(pf_comm_about(e, &info));
    if (t->rank == 0) printf("name %s\ncpus %d\n%s", t->name, info.cpus_free, info.warnings);
    return work(e, -1, NULL);
}
static int dies(pf_engine *e, pf_transport *t) { return (void)t, work(e, 1, die); }
static int leaves(pf_engine *e, pf_transport *t) { return (void)t, work(e, 1, stay); }

/* ---- what is given up ---- */

enum { LARGE = 1 << 23 };

static int wait_for(pf_transport *t, int bad, int ticket) {
    for (int done = 0; !bad && !done;) bad = t->test(t->self, ticket, &done);
    return bad ? pf_fail(PF_EIO, "error %d", bad) : PF_OK;
}
static int say(pf_transport *t, int to, int tag) {
    char byte = 1;
    int ticket = -1, bad = t->send(t->self, to, tag, &byte, 1, &ticket);
    return wait_for(t, bad, ticket);
}
static int hear(pf_transport *t, int from, int tag, void *data, size_t bytes) {
    int ticket = -1, bad = t->receive(t->self, from, tag, data, bytes, &ticket);
    return wait_for(t, bad, ticket);
}

/* Rank 1 awaits a message, gives up, and has its memory for itself when the message comes. */
static int await_in_vain(pf_transport *t, unsigned char *memory, unsigned char *other) {
    int ticket = -1, written = 0;
    char byte;
    if (t->receive(t->self, 0, 5, memory, LARGE, &ticket)) return pf_fail(PF_EIO, "receive");
    if (t->cancel(t->self) != 0) return pf_fail(PF_EHOST, "what had not begun was not taken back");
    memset(memory, 2, LARGE);
    PF_TRY(say(t, 0, 6));
    PF_TRY(hear(t, 0, 7, &byte, 1)); /* behind the message that nobody awaits */
    for (int i = 0; i < LARGE; i++) written += memory[i] != 2;
    if (written) return pf_fail(PF_EHOST, "%d bytes were written to", written);
    PF_TRY(hear(t, 0, 8, &byte, 1));
    PF_TRY(hear(t, 0, 5, other, LARGE));
    return other[LARGE - 1] == 1 ? PF_OK : pf_fail(PF_EHOST, "the message has not come");
}

/* Rank 0 gives up its part while rank 1 does not take it, and is told that it is under way. */
static int send_in_vain(pf_transport *t, unsigned char *memory) {
    int ticket = -1, held;
    char byte;
    memset(memory, 1, LARGE);
    PF_TRY(hear(t, 1, 6, &byte, 1));
    if (t->send(t->self, 1, 5, memory, LARGE, &ticket)) return pf_fail(PF_EIO, "send");
    PF_TRY(say(t, 1, 7));
    held = t->cancel(t->self);
    if (held != 1) return pf_fail(PF_EHOST, "%d messages are held, not the one", held);
    PF_TRY(say(t, 1, 8));
    for (int i = 0; i < 20 && held; i++) held = t->cancel(t->self);
    return held ? pf_fail(PF_EHOST, "it was taken, and is held") : PF_OK;
}

static int given_up(pf_engine *e, pf_transport *t) {
    unsigned char *memory = malloc(LARGE), *other = malloc(LARGE);
    int status = t->rank == 0   ? send_in_vain(t, memory)
                 : t->rank == 1 ? await_in_vain(t, memory, other)
                                : PF_OK;
    free(memory), free(other);
    return pf_comm_agree(e, status);
}

/* ---- what goes in parts ---- */

static unsigned char byte_of(size_t i, int message) {
    return (unsigned char)(i * 7 + i / 251 + (size_t)message);
}

/* Rank 0's messages to rank 1, of lengths around those at which the plugin cuts, all at once. */
static int in_parts(pf_engine *e, pf_transport *t) {
    static const size_t sizes[] = {0, 1, 59999, 60000, 60001, 120000, 1200000, 1200001, 300000};
    enum { N = PF_COUNT(sizes) };
    unsigned char *data[N];
    int ticket[N], bad = 0, wrong = 0;
    for (int k = 0; k < N; k++) {
        data[k] = malloc(sizes[k] + 1);
        for (size_t i = 0; i < sizes[k]; i++) data[k][i] = t->rank == 0 ? byte_of(i, k) : 0;
        data[k][sizes[k]] = 77;
        if (t->rank == 0) bad |= t->send(t->self, 1, 5, data[k], sizes[k], &ticket[k]);
        if (t->rank == 1) bad |= t->receive(t->self, 0, 5, data[k], sizes[k], &ticket[k]);
    }
    for (int k = 0; k < N && t->rank < 2; k++) bad |= wait_for(t, bad, ticket[k]);
    for (int k = 0; k < N; k++) {
        for (size_t i = 0; i < sizes[k] && t->rank == 1; i++) wrong += data[k][i] != byte_of(i, k);
        wrong += data[k][sizes[k]] != 77;
        free(data[k]);
    }
    if (wrong) bad = pf_fail(PF_EHOST, "%d bytes are others", wrong);
    return pf_comm_agree(e, bad);
}

/* ---- before the ranks open ---- */

/* As in a container without the right: no reading of another process's memory. */
static void cage(void) {
    struct sock_filter lines[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_process_vm_readv, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)};
    struct sock_fprog program = {PF_COUNT(lines), lines};
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program);
}

/* The host begins MPI, for one thread. */
static void begin_mpi(void) {
    void *plugin = dlopen(getenv("PERFORMER_TRANSPORT"), RTLD_NOW);
    union {
        void *object;
        int (*function)(int *, char ***);
    } init = {.object = plugin ? dlsym(plugin, "MPI_Init") : NULL};
    if (init.object) init.function(NULL, NULL);
}

/* One rank begins MPI and says nothing. */
static void mute(void) {
    const char *rank = getenv("OMPI_COMM_WORLD_RANK");
    if (!rank) rank = getenv("PMI_RANK");
    if (!rank || strcmp(rank, "1") != 0) return;
    begin_mpi();
    pause();
}

static const struct {
    const char *name;
    double timeout; /* short where it passes: a busy machine needs the long one */
    void (*before)(void);
    int (*run)(pf_engine *e, pf_transport *t);
} kinds[] = {{"sum", 30, NULL, sum},
             {"dies", 30, NULL, dies},
             {"leaves", 5, NULL, leaves},
             {"given_up", 30, NULL, given_up},
             {"caged", 30, cage, sum},
             {"mute", 5, mute, sum},
             {"cut", 5, NULL, sum},
             {"in_parts", 30, NULL, in_parts},
             {"one_thread", 30, begin_mpi, sum}};

/* MPI_Abort may not return. */
static void *leave(void *argument) {
    sleep(5);
    _exit(75);
    return argument;
}

static int run_rank(const char *what) {
    pf_options options = {.size = sizeof options, .threads = 1};
    pf_transport *transport = NULL;
    pf_engine e;
    int k = 0;
    while (k < PF_COUNT(kinds) - 1 && strcmp(kinds[k].name, what) != 0) k++;
    int status = pf_runtime_open(&e, &options);
    if (kinds[k].before) kinds[k].before();
    if (status >= 0) status = pf_transport_load(&transport, NULL, kinds[k].timeout);
    if (status >= 0) status = pf_comm_open(&e, transport, kinds[k].timeout, NULL);
    if (status >= 0) status = kinds[k].run(&e, transport);
    if (status < 0) {
        pthread_t thread;
        fprintf(stderr, "%s\n", pf_last_error());
        pthread_create(&thread, NULL, leave, NULL);
        pf_comm_abort(&e, 75);
        _exit(75);
    }
    pf_runtime_close(&e); /* the ranks with it */
    return 0;
}

/* ---- all of them ---- */

#ifdef PF_MPI_SOURCE

typedef struct {
    const char *name, *compiler, *mpirun;
    int killed; /* its exit code where it ended a rank */
} flavour;

/* Root, and more ranks than cores: as Open MPI 4 and 5 want to be told, and MPICH need not. */
static const char *const ALLOWED =
    "OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1 "
    "PRTE_MCA_rmaps_default_mapping_policy=:oversubscribe ASAN_OPTIONS=detect_leaks=0";

/* Runs a command; what it wrote in text. */
static int run(char *text, size_t bytes, const char *format, ...) {
    char command[4096];
    va_list args;
    va_start(args, format);
    vsnprintf(command, sizeof command, format, args);
    va_end(args);
    FILE *out = popen(command, "r");
    size_t n = fread(text, 1, bytes - 1, out);
    text[n] = 0;
    for (char rest[4096]; fread(rest, 1, sizeof rest, out) > 0;) continue; /* a closed pipe kills */
    int code = pclose(out);
    return code < 0 ? code : WIFEXITED(code) ? WEXITSTATUS(code) : 128;
}

static int mpirun(const flavour *f, const char *self, const char *what, int ranks, char *text,
                  size_t bytes) {
    return run(text, bytes, "%s timeout -k 5 60 %s -n %d '%s' %s 2>&1", ALLOWED, f->mpirun, ranks,
               self, what);
}

static void test_sums(const flavour *f, const char *self) {
    char text[8192], first[32] = "", name[64];
    snprintf(name, sizeof name, "name %s ", f->name);
    for (int ranks = 1; ranks <= 4; ranks++) {
        int code = mpirun(f, self, "sum", ranks, text, sizeof text);
        const char *bits = strstr(text, "bits ");
        CHECK(code == 0 && bits && strstr(text, name));
        if (code != 0 || !bits) fprintf(stderr, "%s\n", text);
        if (ranks == 1 && bits) snprintf(first, sizeof first, "%.21s", bits);
        CHECK(bits && strncmp(bits, first, 21) == 0);
    }
    const int code = mpirun(f, self, "caged", 2, text, sizeof text);
    if (code != 0 || !strstr(text, first)) fprintf(stderr, "caged: %d %s\n", code, text);
    CHECK(code == 0 && strstr(text, first));
}

/* What ends with one of two codes and says why. */
static void check_end(const flavour *f, const char *self, const char *what, int code, int or,
                      const char *said) {
    char text[8192];
    int got = mpirun(f, self, what, 3, text, sizeof text);
    bool good = (got == code || got == or) && strstr(text, said);
    CHECK(good);
    if (!good) fprintf(stderr, "%s %s, code %d: %s\n", f->name, what, got, text);
}

static void test_ends(const flavour *f, const char *self) {
    char text[8192];
    check_end(f, self, "leaves", 75, f->killed, "no answer from rank 1 of 3 on ");
    check_end(f, self, "mute", 75, f->killed, "OMPI_MCA_btl_tcp_if_include");
    check_end(f, self, "given_up", 0, 0, "");
    check_end(f, self, "in_parts", 0, 0, "");
    check_end(f, self, "one_thread", 75, f->killed, "MPI_Init_thread and MPI_THREAD_FUNNELED");
    int code = mpirun(f, self, "dies", 3, text, sizeof text);
    CHECK(code != 0 && code != 124);
}

/* The plugin by the header's one line, from a folder that holds the header alone. */
static bool make_plugin(const flavour *f, const char *folder) {
    char text[8192], path[512];
    int code = run(text, sizeof text,
                   "cp %s/performer_transport.h %s && %s -shared -fPIC -O2 -Wall -Werror -I %s -o "
                   "%s/libperformer_mpi.so %s 2>&1",
                   PF_INCLUDE, folder, f->compiler, folder, folder, PF_MPI_SOURCE);
    CHECK(code == 0);
    if (code != 0) fprintf(stderr, "%s: %s\n", f->compiler, text);
    snprintf(path, sizeof path, "%s/libperformer_mpi.so", folder);
    setenv("PERFORMER_TRANSPORT", path, 1);
    return code == 0;
}

static int test_flavour(const flavour *f, const char *self) {
    char text[1024], folder[] = "/tmp/mpi_test_XXXXXX";
    if (run(text, sizeof text, "%s --version 2>&1 && %s --version 2>&1", f->compiler, f->mpirun))
        return 0;
    CHECK(mkdtemp(folder) != NULL);
    if (make_plugin(f, folder)) {
        test_sums(f, self);
        test_ends(f, self);
    }
    run(text, sizeof text, "rm -r %s", folder);
    return 1;
}

static int test_flavours(const char *self) {
    static const flavour all[] = {{"Open MPI", "mpicc.openmpi", "mpirun.openmpi", 137},
                                  {"MPICH", "mpicc.mpich", "mpirun.mpich", 9}};
    int n = 0;
    for (int i = 0; i < PF_COUNT(all); i++) n += test_flavour(&all[i], self);
    return n;
}

#endif

int main(int argc, char **argv) {
    pf_transport *transport = NULL;
    if (argc > 2) sums = atoi(argv[2]);
    if (argc > 3) numbers = (int)pf_min(atoi(argv[3]), MOST);
    if (argc > 1) return run_rank(argv[1]);
    CHECK(pf_comm_launched() == 0);
    CHECK_FAILS(PF_ENOTFOUND, pf_transport_load(&transport, "/no/such/plugin.so", 0));
    CHECK(strstr(pf_last_error(), "no transport: ") != NULL);
#ifdef PF_MPI_SOURCE
    if (test_flavours(argv[0]) > 0) return CHECK_REPORT();
#endif
    fprintf(stderr, "  no MPI here: the plugin is not tried\n");
    return CHECK_REPORT();
}
