/*
 * mpi_test.c - the plugin for MPI, by mpirun on this machine: sums over lanes have the same bits on
 * 1 to 4 ranks, verbs agree, and a rank that is killed, or leaves without a word, ends all the
 * others with a message and exit code 75. Where there is no plugin or no mpirun, only that this is
 * told.
 *
 *   mpi_test                 runs the others, each under mpirun
 *   mpi_test sum|dies|leaves a rank
 */
#include <signal.h>
#include <unistd.h>

#include "check.h"
#include "host.h"
#include "tree.h"

enum { LANES = 8, NUMBERS = 70001 };

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
    static float own[PF_LANE_NODES][NUMBERS], sum[NUMBERS];
    const float *list[PF_LANE_NODES];
    pf_lane_node nodes[PF_LANE_NODES];
    pf_reduction *r = NULL;
    int first, last;
    pf_lanes_of(LANES, pf_comm_ranks(e), pf_comm_rank(e), &first, &last);
    int n = pf_lane_nodes(first, last, nodes);
    for (int k = 0; k < n; k++) {
        list[k] = own[k];
        for (int64_t i = 0; i < NUMBERS; i++)
            own[k][i] = node_of(nodes[k].first, nodes[k].count, i);
    }
    PF_TRY(pf_reduction_open(&r, e, PF_OK, LANES, NUMBERS));
    int status = pf_reduction_run(r, list, NUMBERS, sum);
    pf_reduction_close(&r);
    *bits = 14695981039346656037u;
    for (size_t i = 0; i < sizeof sum; i++)
        *bits = (*bits ^ ((const unsigned char *)sum)[i]) * 1099511628211u;
    return status;
}

static int work(pf_engine *e, const char *what) {
    uint64_t bits = 0, all[64];
    for (int i = 0; i < 5; i++) {
        pf_comm_at(e, (uint64_t)i + 1);
        if (i == 3 && pf_comm_rank(e) == 1 && strcmp(what, "dies") == 0) raise(SIGKILL);
        if (i == 3 && pf_comm_rank(e) == 1 && strcmp(what, "leaves") == 0) pause();
        PF_TRY(sum_up(e, &bits));
    }
    PF_TRY(pf_comm_collect(e, PF_OK, &bits, sizeof bits, all));
    for (int r = 0; r < pf_comm_ranks(e); r++)
        if (all[r] != bits) return pf_fail(PF_EHOST, "rank %d has other bits", r);
    if (pf_comm_rank(e) == 0) printf("bits %016llx\n", (unsigned long long)bits);
    return PF_OK;
}

static int run_rank(const char *what) {
    pf_options options = {.size = sizeof options, .threads = 1};
    pf_transport *transport = NULL;
    pf_engine e;
    int status = pf_runtime_open(&e, &options);
    if (status >= 0) status = pf_transport_load(&transport, NULL);
    if (status >= 0) status = pf_comm_open(&e, transport, 3, "this machine");
    if (status >= 0) status = work(&e, what);
    if (status < 0) {
        fprintf(stderr, "%s\n", pf_last_error());
        pf_comm_abort(&e, 75);
        _exit(75);
    }
    pf_comm_close(&e);
    pf_runtime_close(&e);
    return 0;
}

/* ---- all of them ---- */

#ifdef PF_MPI_PLUGIN

/* Runs `what` on so many ranks; what it wrote in text. */
static int mpirun(const char *self, const char *what, int ranks, char *text, size_t bytes) {
    char command[4096];
    snprintf(command, sizeof command,
             "ASAN_OPTIONS=detect_leaks=0 timeout -k 5 60 mpirun --allow-run-as-root "
             "--oversubscribe -n %d '%s' %s 2>&1",
             ranks, self, what);
    FILE *out = popen(command, "r");
    size_t n = fread(text, 1, bytes - 1, out);
    text[n] = 0;
    int code = pclose(out);
    return code < 0 ? code : WIFEXITED(code) ? WEXITSTATUS(code) : 128;
}

static void test_sums(const char *self) {
    char text[8192], first[32] = "";
    for (int ranks = 1; ranks <= 4; ranks++) {
        int code = mpirun(self, "sum", ranks, text, sizeof text);
        const char *bits = strstr(text, "bits ");
        CHECK(code == 0 && bits);
        if (code != 0 || !bits) fprintf(stderr, "%s\n", text);
        if (ranks == 1 && bits) snprintf(first, sizeof first, "%.21s", bits);
        CHECK(bits && strncmp(bits, first, 21) == 0);
    }
}

static void test_ends(const char *self) {
    char text[8192];
    int code = mpirun(self, "leaves", 3, text, sizeof text);
    CHECK(code == 75 && strstr(text, "no answer from rank 1 of 3 on this machine for 3 s"));
    if (code != 75) fprintf(stderr, "code %d: %s\n", code, text);
    code = mpirun(self, "dies", 3, text, sizeof text);
    CHECK(code != 0 && code != 124);
}

#endif

int main(int argc, char **argv) {
    pf_transport *transport = NULL;
    if (argc > 1) return run_rank(argv[1]);
    CHECK(pf_comm_launched() == 0);
    CHECK_FAILS(PF_ENOTFOUND, pf_transport_load(&transport, "/no/such/plugin.so"));
    CHECK(strstr(pf_last_error(), "ranks: no transport: ") != NULL);
#ifdef PF_MPI_PLUGIN
    if (system("mpirun --version >/dev/null 2>&1") == 0) {
        setenv("PERFORMER_TRANSPORT", PF_MPI_PLUGIN, 1);
        test_sums(argv[0]);
        test_ends(argv[0]);
        return CHECK_REPORT();
    }
#endif
    fprintf(stderr, "  no MPI here: the plugin is not tried\n");
    return CHECK_REPORT();
}
