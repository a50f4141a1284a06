/*
 * scan_test.c - what stands before each part of a row is joined in one order, however many ranks
 * hold the parts: against the definition, by elements that tell every join they were in; forwards
 * and backwards, leaf after leaf, with messages that are late; and what ranks hear of one that
 * fails.
 */
#include "ranks.h"
#include "scan.h"
#include "tensor_support.h"
#include "tree.h"

enum { LEAVES = 13 };

/* Leaves `first` .. `last` - 1, in whatever direction, and a number for the joins that made it. */
typedef struct {
    int32_t first, last;
    uint64_t joins;
} run_of;

static run_of leaf_of(int i) { return (run_of){i, i + 1, (uint64_t)i * 2654435761u + 1}; }

static run_of joined(run_of near, run_of far) {
    uint64_t joins = near.joins * 6364136223846793005u + (far.joins ^ far.joins >> 29) * 40503u;
    return (run_of){near.first < far.first ? near.first : far.first,
                    near.last > far.last ? near.last : far.last, joins};
}

/* Runs that don't meet are told, once. */
static int join(void *context, pf_engine *e, void *near, const void *far) {
    run_of *a = near;
    const run_of *b = far;
    (void)e;
    if (a->first != b->last && a->last != b->first) ++*(atomic_int *)context;
    *a = joined(*a, *b);
    return PF_OK;
}

/* ---- the definition ---- */

/* 2^k leaves from place `at` on; places are counted from the end backwards. */
static run_of node(int at, int count, int leaves, bool back) {
    if (count == 1) return leaf_of(back ? leaves - 1 - at : at);
    return joined(node(at + count / 2, count / 2, leaves, back), node(at, count / 2, leaves, back));
}

static run_of before(int leaf, int leaves, bool back) {
    int place = back ? leaves - 1 - leaf : leaf, end = place;
    run_of all = {-1, -1, 0};
    for (int k = 1; k <= place; k <<= 1) {
        if (!(place & k)) continue;
        run_of next = node(end - k, k, leaves, back);
        all = end == place ? next : joined(all, next);
        end -= k;
    }
    return all;
}

static bool same(run_of a, run_of b) {
    return a.first == b.first && a.last == b.last && a.joins == b.joins;
}

/* ---- over ranks ---- */

typedef struct {
    int leaves;
    atomic_int apart;
    int wrong[RANKS_MOST];
} scans;

static int scan_all(pf_engine *e, int rank, void *context) {
    scans *s = context;
    const pf_monoid m = {sizeof(run_of), join, &s->apart};
    int first, last;
    run_of own[LEAVES], entry[LEAVES], total;
    pf_lanes_of(s->leaves, pf_comm_ranks(e), rank, &first, &last);
    for (int back = 0; back < 2; back++) {
        for (int i = first; i < last; i++) {
            own[i - first] = leaf_of(i);
            entry[i - first] = (run_of){-1, -1, 0};
        }
        PF_TRY(pf_comm_scan(e, PF_OK, &m, s->leaves, own, entry, back));
        for (int i = first; i < last; i++)
            s->wrong[rank] += !same(entry[i - first], before(i, s->leaves, back)) ||
                              !same(own[i - first], leaf_of(i));
    }
    PF_TRY(pf_comm_total(e, PF_OK, &m, s->leaves, own, &total));
    run_of expected = leaf_of(s->leaves - 1);
    if (s->leaves > 1) expected = joined(expected, before(s->leaves - 1, s->leaves, false));
    s->wrong[rank] += !same(total, expected);
    return PF_OK;
}

static void check_ranks(int leaves, int ranks, double late) {
    ranks_world w = {.ranks = ranks, .late = late};
    scans s = {.leaves = leaves};
    int good = 0;
    ranks_run(&w, scan_all, &s);
    for (int r = 0; r < ranks; r++) good += w.status[r] == PF_OK && s.wrong[r] == 0;
    CHECK(good == ranks && s.apart == 0);
}

static void test_ranks(void) {
    for (int leaves = 1; leaves <= LEAVES; leaves++)
        for (int ranks = 1; ranks <= leaves; ranks++) check_ranks(leaves, ranks, 0);
    check_ranks(LEAVES, LEAVES, 0.002);
    check_ranks(LEAVES, 5, 0.002);
}

/* ---- one rank, without a comm ---- */

static void test_alone(void) {
    pf_engine e = engine_of(1, NULL);
    atomic_int apart = 0;
    const pf_monoid m = {sizeof(run_of), join, &apart};
    pf_scan scan = {.engine = &e, .monoid = &m}, other = scan;
    for (int i = 0; i < LEAVES; i++) {
        run_of entry = {-1, -1, 0}, leaf = leaf_of(i), was = before(i, LEAVES, false);
        CHECK_OK(pf_scan_before(&scan, &entry));
        CHECK(same(entry, was));
        CHECK_OK(pf_scan_push(&scan, &leaf));
        if (i != 10) continue; /* on another rank from here on: 11 is three nodes */
        CHECK_OK(pf_scan_expect(&other, scan.count));
        CHECK(other.n == 3 && scan.n == 3);
        for (int k = 0; k < scan.n; k++) memcpy(other.node[k], scan.node[k], m.bytes);
    }
    run_of next = leaf_of(11), entry;
    CHECK_OK(pf_scan_push(&other, &next));
    CHECK_OK(pf_scan_before(&other, &entry));
    run_of expected = before(12, LEAVES, false);
    CHECK(same(entry, expected));
    pf_scan_close(&scan);
    pf_scan_close(&other);
    scans s = {.leaves = LEAVES};
    CHECK_OK(scan_all(&e, 0, &s));
    CHECK(s.wrong[0] == 0 && apart == 0);
    pf_runtime_close(&e);
}

/* ---- neighbours ---- */

static int pass_on(pf_engine *e, int rank, void *context) {
    int *wrong = context, ranks = pf_comm_ranks(e);
    int32_t own[2][3] = {{rank, 1, 2}, {rank, 3, 4}}, in[2][3] = {{-1, 0, 0}, {-1, 0, 0}};
    const void *out[] = {own[0], own[1]};
    void *come[] = {in[0], in[1]};
    for (int turn = 0; turn < 3; turn++)
        PF_TRY(pf_comm_pass(e, rank + 1 < ranks ? rank + 1 : -1, out, 2, rank - 1, come, 2,
                            sizeof own[0]));
    wrong[rank] = in[0][0] != rank - 1 || in[1][0] != rank - 1 || in[1][2] != (rank ? 4 : 0);
    return PF_OK;
}

static void test_neighbours(void) {
    int wrong[RANKS_MOST] = {0}, sum = 0;
    ranks_world w = {.ranks = 4, .late = 0.001};
    ranks_run(&w, pass_on, wrong);
    for (int r = 0; r < 4; r++) sum += wrong[r] + (w.status[r] != PF_OK);
    CHECK(sum == 0);
}

/* ---- failures ---- */

typedef struct {
    int failing, leaves;
    int joins; /* that go well, of the failing rank's; < 0: it fails before */
} failure;

static int failing_join(void *context, pf_engine *e, void *near, const void *far) {
    failure *f = context;
    if (pf_comm_rank(e) == f->failing && f->joins-- == 0) return pf_fail(PF_ENUMERIC, "overflow");
    *(run_of *)near = joined(*(run_of *)near, *(const run_of *)far);
    return PF_OK;
}

static int scan_failing(pf_engine *e, int rank, void *context) {
    failure *f = context;
    const pf_monoid m = {sizeof(run_of), failing_join, f};
    run_of own[LEAVES] = {leaf_of(rank)}, entry[LEAVES];
    int bad = rank == f->failing && f->joins < 0 ? pf_fail(PF_ENOMEM, "no room") : PF_OK;
    int status = pf_comm_scan(e, bad, &m, f->leaves, own, entry, false);
    return pf_comm_settle(e, status);
}

static void test_failures(void) {
    failure f = {.failing = 2, .leaves = 4, .joins = -1};
    ranks_world w = {.ranks = 4, .timeout = 1};
    int told = 0;
    ranks_run(&w, scan_failing, &f);
    for (int r = 0; r < 4; r++)
        told += w.status[r] == PF_ENOMEM && strstr(w.text[r], "rank 2 of 4 on here: no room");
    CHECK(told == 4);
    /* In the middle there is no saying so: the others wait for it as long as they wait for anyone,
     * and none of them goes on. */
    f = (failure){.failing = 2, .leaves = 4, .joins = 0};
    ranks_run(&w, scan_failing, &f);
    CHECK(w.status[2] == PF_ENUMERIC);
    for (int r = 0; r < 4; r++) told += w.status[r] < 0;
    CHECK(told == 8);
    f = (failure){.failing = -1, .leaves = 3};
    ranks_run(&w, scan_failing, &f);
    for (int r = 0; r < 4; r++)
        told += w.status[r] == PF_EINVAL && strstr(w.text[r], "3 leaves for 4 ranks");
    CHECK(told == 12);
}

/* The last rank alone can't make the total of 3: all hear why, and the talk goes on. */
static int fail_total(pf_engine *e, int rank, void *context) {
    failure *f = context;
    const pf_monoid m = {sizeof(run_of), failing_join, f};
    run_of own = leaf_of(rank), total;
    if (pf_comm_total(e, PF_OK, &m, 3, &own, &total) != PF_ENUMERIC)
        return pf_fail(PF_EHOST, "another status");
    if (!strstr(pf_last_error(), "rank 2 of 3 on here: overflow"))
        return pf_fail(PF_EHOST, "another message: %s", pf_last_error());
    return pf_comm_total(e, PF_OK, &m, 3, &own, &total);
}

static void test_total(void) {
    failure f = {.failing = 2, .joins = 1}; /* the scan's own goes well */
    ranks_world w = {.ranks = 3};
    ranks_run(&w, fail_total, &f);
    for (int r = 0; r < 3; r++) CHECK(w.status[r] == PF_OK);
}

int main(void) {
    test_total();
    test_ranks();
    test_alone();
    test_neighbours();
    test_failures();
    return CHECK_REPORT();
}
