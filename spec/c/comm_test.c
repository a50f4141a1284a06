/*
 * comm_test.c - the verbs between ranks, each a thread with an engine: identity for one; one
 * verdict, one word and the same bytes for all; sums whose bits no number of ranks changes. How a
 * talk begins and ends is talk_test.c's.
 */
#include "exchange.h"
#include "ranks.h"
#include "tensor_support.h"
#include "tree.h"

static void test_one_rank(void) {
    pf_engine engine = engine_of(1, NULL);
    pf_tensor *t = counted(&engine, 2, 3);
    int32_t one = 5, all = 0;
    CHECK(!engine.comm && pf_comm_rank(&engine) == 0 && pf_comm_ranks(&engine) == 1);
    CHECK_OK(pf_comm_sum(&engine, &t, 1));
    CHECK(pf_f32(t)[0] == 0 && pf_f32(t)[5] == 5);
    CHECK(pf_comm_agree(&engine, 7) == 7);
    CHECK_OK(pf_comm_collect(&engine, PF_OK, &one, sizeof one, &all));
    CHECK(all == 5);
    CHECK_OK(pf_comm_share(&engine, PF_OK, 0, &one, sizeof one));
    pf_fail(PF_EIO, "x");
    CHECK(pf_comm_agree(&engine, PF_EIO) == PF_EIO && strcmp(pf_last_error(), "x") == 0);
    pf_tensor_release(&t);
    pf_runtime_close(&engine);
}

/* ---- agreeing ---- */

typedef struct {
    int failing[2];         /* ranks; -1: none */
    int status[RANKS_MOST]; /* of the agreement */
    char text[RANKS_MOST][512];
    pf_comm_word word[RANKS_MOST];
    int after[RANKS_MOST]; /* of the one after it */
} verdicts;

static int agree_once(pf_engine *engine, int rank, void *context) {
    verdicts *v = context;
    int status = 3;
    for (int i = 0; i < 2; i++)
        if (rank == v->failing[i]) status = pf_fail(PF_EIO - i, "disk %d is full", rank);
    v->word[rank] = (pf_comm_word){
        .size = sizeof(pf_comm_word), .flags = 1u << rank, .count = {rank, 1}, .most = rank % 3};
    v->status[rank] = pf_comm_agree_on(engine, status, &v->word[rank]);
    snprintf(v->text[rank], sizeof v->text[0], "%s", pf_last_error());
    v->after[rank] = pf_comm_agree(engine, 0);
    return PF_OK;
}

static void check_agreed(int ranks, int bad, int worse, double late) {
    verdicts v = {.failing = {bad, worse}};
    ranks_world w = {.ranks = ranks, .late = late};
    char text[128] = "";
    int first = bad < 0 ? worse : worse < 0 ? bad : bad < worse ? bad : worse, same = 0;
    int expected = first < 0 ? 3 : first == bad ? PF_EIO : PF_EIO - 1;
    if (first >= 0)
        snprintf(text, sizeof text, "rank %d of %d on here: disk %d is full", first, ranks, first);
    ranks_run(&w, agree_once, &v);
    for (int r = 0; r < ranks; r++) {
        const pf_comm_word *word = &v.word[r];
        same += w.status[r] == PF_OK && v.status[r] == expected && v.after[r] == PF_OK &&
                (first < 0 || strcmp(v.text[r], text) == 0) && word->flags == (1u << ranks) - 1 &&
                word->count[0] == ranks * (ranks - 1) / 2 && word->count[1] == ranks &&
                word->most == (ranks > 2 ? 2 : ranks - 1) &&
                word->most_of == (ranks > 2 ? 2 : ranks - 1);
    }
    CHECK(same == ranks);
}

static void test_agree(void) {
    for (int ranks = 1; ranks <= 9; ranks++) {
        check_agreed(ranks, -1, -1, 0);
        for (int bad = 0; bad < ranks; bad++) check_agreed(ranks, bad, -1, 0);
    }
    check_agreed(7, 5, 2, 0.002);
    check_agreed(8, 0, 7, 0.002);
}

/* ---- bytes for all ---- */

static int pass_bytes(pf_engine *engine, int rank, void *context) {
    int *wrong = context;
    const int ranks = pf_comm_ranks(engine);
    for (int root = 0; root < ranks; root++) {
        int32_t data[100], all[RANKS_MOST * 100];
        for (int i = 0; i < 100; i++) data[i] = rank == root ? 1000 * root + i : -1;
        PF_TRY(pf_comm_share(engine, PF_OK, root, data, sizeof data));
        for (int i = 0; i < 100; i++) wrong[rank] += data[i] != 1000 * root + i;
        for (int i = 0; i < 100; i++) data[i] = rank * 7 + i + root;
        PF_TRY(pf_comm_collect(engine, PF_OK, data, sizeof data, all));
        for (int i = 0; i < 100 * ranks; i++) wrong[rank] += all[i] != i / 100 * 7 + i % 100 + root;
        int status = pf_comm_share(engine, rank == root ? pf_fail(PF_ENOMEM, "no room") : PF_OK,
                                   (root + 1) % ranks, data, sizeof data);
        wrong[rank] += status != PF_ENOMEM || data[0] != rank * 7 + root; /* nothing has moved */
    }
    return PF_OK;
}

static void test_bytes(void) {
    for (int ranks = 1; ranks <= 9; ranks++) {
        ranks_world w = {.ranks = ranks, .late = ranks == 5 ? 0.001 : 0};
        int wrong[RANKS_MOST] = {0}, sum = 0;
        ranks_run(&w, pass_bytes, wrong);
        for (int r = 0; r < ranks; r++) sum += wrong[r] + (w.status[r] != PF_OK);
        CHECK(sum == 0);
    }
}

static void test_direct(void) {
    ranks_world w = {.ranks = 5, .direct = true};
    int wrong[RANKS_MOST] = {0};
    ranks_run(&w, pass_bytes, wrong);
    for (int r = 0; r < 5; r++) CHECK(wrong[r] == 0 && w.status[r] == PF_OK);
    CHECK(w.given_up == 0 && w.closed == 5); /* by the engine's closing */
}

static int in_pieces(pf_engine *engine, int rank, void *context) {
    engine->comm->piece = 7;
    return pass_bytes(engine, rank, context);
}

static void test_pieces(void) {
    ranks_world w = {.ranks = 3, .late = 0.0001};
    int wrong[RANKS_MOST] = {0};
    ranks_run(&w, in_pieces, wrong);
    for (int r = 0; r < 3; r++) CHECK(wrong[r] == 0 && w.status[r] == PF_OK);
}

/* ---- sums over lanes ---- */

enum { SUMMED = 70001 }; /* two pieces, and a tail */

typedef struct {
    int lanes;
    int64_t n;
    float *sum[RANKS_MOST];
} lane_sums;

/* What lane l has at position i: of all sizes, so that the order of additions shows. */
static float lane_number(int lane, int64_t i) {
    uint32_t x = (uint32_t)(lane * 7919 + i * 104729 + 12345);
    x ^= x << 13, x ^= x >> 17, x ^= x << 5;
    return ((float)(x & 0xffff) - 32768) * ldexpf(1, (int)(x >> 16) % 20 - 10);
}

/* The sum of a node, leaf by leaf: the definition. */
static float node_sum(int first, int count, int64_t i) {
    int half = 1;
    if (count == 1) return lane_number(first, i);
    while (2 * half < count) half *= 2;
    return node_sum(first, half, i) + node_sum(first + half, count - half, i);
}

static int sum_lanes(pf_engine *engine, int rank, void *context) {
    lane_sums *s = context;
    pf_lane_node nodes[PF_LANE_NODES];
    float *own[PF_LANE_NODES];
    int first, last;
    pf_lanes_of(s->lanes, pf_comm_ranks(engine), rank, &first, &last);
    int n = pf_lane_nodes(first, last, nodes);
    for (int k = 0; k < n; k++) {
        own[k] = malloc((size_t)s->n * sizeof(float));
        for (int64_t i = 0; i < s->n; i++) own[k][i] = node_sum(nodes[k].first, nodes[k].count, i);
    }
    s->sum[rank] = malloc((size_t)s->n * sizeof(float));
    pf_reduction *r = NULL;
    int status = pf_reduction_open(&r, engine, PF_OK, s->lanes, s->n);
    for (int twice = 0; twice < 2 && status >= 0; twice++)
        status = pf_reduction_run(r, (const float *const *)own, s->n, s->sum[rank]);
    pf_reduction_close(&r);
    for (int k = 0; k < n; k++) free(own[k]);
    return status;
}

/* Everybody has the definition's bits. */
static void check_sums(int lanes, int ranks, int64_t n, int threads) {
    lane_sums s = {.lanes = lanes, .n = n};
    ranks_world w = {.ranks = ranks, .threads = threads};
    int64_t wrong = 0;
    ranks_run(&w, sum_lanes, &s);
    for (int r = 0; r < ranks; r++) {
        wrong += w.status[r] != PF_OK;
        for (int64_t i = 0; i < n; i++) {
            float expected = node_sum(0, lanes, i);
            wrong += memcmp(&expected, &s.sum[r][i], sizeof expected) != 0;
        }
        free(s.sum[r]);
    }
    CHECK(wrong == 0);
}

static void test_sums(void) {
    for (int lanes = 1; lanes <= 16; lanes++)
        for (int ranks = 1; ranks <= lanes && ranks <= 8; ranks++) check_sums(lanes, ranks, 300, 1);
    check_sums(64, 7, 300, 1);
    for (int ranks = 1; ranks <= 5; ranks++) check_sums(5, ranks, SUMMED, 1 + ranks % 2);
    check_sums(8, 3, 1, 1);
    check_sums(8, 8, 0, 1);
}

/* Nodes of all ranks follow each other and are whole. */
static void test_nodes(void) {
    int wrong = 0;
    for (int lanes = 1; lanes <= 130; lanes++) {
        for (int ranks = 1; ranks <= lanes; ranks++) {
            int next = 0;
            for (int r = 0; r < ranks; r++) {
                pf_lane_node nodes[PF_LANE_NODES];
                int first, last;
                pf_lanes_of(lanes, ranks, r, &first, &last);
                int n = pf_lane_nodes(first, last, nodes);
                wrong += n < 1 || n > PF_LANE_NODES;
                for (int i = 0; i < n; next += nodes[i++].count)
                    wrong += nodes[i].first != next || nodes[i].first % nodes[i].count != 0;
            }
            wrong += next != lanes;
        }
    }
    CHECK(wrong == 0);
}

static int sum_tensors(pf_engine *engine, int rank, void *context) {
    atomic_int *wrong = context;
    pf_tensor *t[2] = {counted(engine, 2, 3), counted(engine, 1, 4)}, *turned = transposed(t[0]);
    pf_f32(t[0])[5] += (float)rank;
    int status = pf_comm_sum(engine, t, 2);
    float ranks = (float)pf_comm_ranks(engine);
    *wrong +=
        pf_f32(t[0])[5] != 5 * ranks + ranks * (ranks - 1) / 2 || pf_f32(t[1])[3] != 3 * ranks;
    pf_tensor *list[] = {rank == 1 ? turned : t[0]};
    if (status >= 0 && pf_comm_sum(engine, list, 1) != PF_EINVAL) *wrong += 1;
    pf_tensor_release(&t[0]), pf_tensor_release(&t[1]), pf_tensor_release(&turned);
    return status;
}

static void test_tensors(void) {
    ranks_world w = {.ranks = 3};
    atomic_int wrong = 0;
    ranks_run(&w, sum_tensors, &wrong);
    CHECK(wrong == 0 && w.status[0] == PF_OK && w.status[2] == PF_OK);
}

/* Rank 1 fails where the others go on to a sum, and all end with one question. */
static int fail_before_sum(pf_engine *engine, int rank, void *context) {
    int *wrong = (int *)context + rank;
    pf_tensor *t = counted(engine, 1, 4);
    for (int step = 0; step < 3; step++) {
        int status = pf_comm_agree(engine, PF_OK);
        if (status >= 0)
            status = rank == 1 ? pf_fail(PF_ENOMEM, "no room") : pf_comm_sum(engine, &t, 1);
        status = pf_comm_settle(engine, status);
        *wrong += status != PF_ENOMEM || !strstr(pf_last_error(), "rank 1 of 3 on here: no room");
        *wrong += pf_comm_settle(engine, rank == 2 ? 7 : PF_OK) != (rank == 2 ? 7 : PF_OK);
    }
    pf_tensor_release(&t);
    return pf_comm_agree(engine, PF_OK);
}

static void test_settle(void) {
    ranks_world w = {.ranks = 3};
    int wrong[3] = {0};
    ranks_run(&w, fail_before_sum, wrong);
    for (int r = 0; r < 3; r++) CHECK(wrong[r] == 0 && w.status[r] == PF_OK);
}

/* All have caught a failure that they were told, and then rank 1 has one of its own: it says so to
 * those that have gone on. */
static int fail_again(pf_engine *engine, int rank, void *context) {
    int *wrong = (int *)context + rank;
    *wrong += pf_comm_agree(engine, rank == 0 ? pf_fail(PF_ENOMEM, "no room") : PF_OK) != PF_ENOMEM;
    int status = rank == 1 ? pf_comm_settle(engine, pf_fail(PF_EFORMAT, "a file of its own"))
                           : pf_comm_agree(engine, PF_OK);
    *wrong += status != PF_EFORMAT;
    *wrong += !strstr(pf_last_error(), "rank 1 of 3 on here: a file of its own");
    *wrong += pf_comm_settle(engine, pf_fail_in(status, "around it")) != PF_EFORMAT; /* is known */
    return pf_comm_agree(engine, PF_OK);
}

static void test_fail_again(void) {
    ranks_world w = {.ranks = 3, .timeout = 2};
    int wrong[3] = {0};
    ranks_run(&w, fail_again, wrong);
    for (int r = 0; r < 3; r++) CHECK(wrong[r] == 0 && w.status[r] == PF_OK);
}

/* Sums are exact as long as they have 64 bits, whatever is in between; what is larger fails on
 * all. */
static int count_high(pf_engine *engine, int rank, void *context) {
    static const int64_t own[3][4] = {{INT64_MAX, INT64_MIN, -1, 7},
                                      {INT64_MAX, INT64_MIN, -5000000000, 0},
                                      {-INT64_MAX, INT64_MAX, 6, -8}};
    int *wrong = (int *)context + rank;
    pf_comm_word word = {.size = sizeof word};
    memcpy(word.count, own[rank], sizeof word.count);
    word.count[1] = rank == 0 ? INT64_MIN : 0;
    *wrong += pf_comm_agree_on(engine, PF_OK, &word) != PF_OK;
    *wrong += word.count[0] != INT64_MAX || word.count[1] != INT64_MIN;
    *wrong += word.count[2] != -4999999995 || word.count[3] != -1;
    memcpy(word.count, own[rank], sizeof word.count);
    *wrong += pf_comm_agree_on(engine, PF_OK, &word) != PF_EINVAL;
    *wrong += !strstr(pf_last_error(), "the sum of their second numbers is beyond 64 bits");
    return pf_comm_agree(engine, PF_OK);
}

static void test_counts(void) {
    ranks_world w = {.ranks = 3};
    int wrong[3] = {0};
    ranks_run(&w, count_high, wrong);
    for (int r = 0; r < 3; r++) CHECK(wrong[r] == 0 && w.status[r] == PF_OK);
}

/* Rank 1 is stopped while it waits for the others, and tells them when it can. */
static int stop_one(pf_engine *engine, int rank, void *context) {
    static atomic_int stop = 1;
    int *wrong = (int *)context + rank;
    if (rank == 1)
        engine->cancel = &stop;
    else
        nanosleep(&(struct timespec){.tv_nsec = 60000000}, NULL);
    *wrong += pf_comm_agree(engine, PF_OK) != PF_OK;
    *wrong += pf_comm_agree(engine, pf_check_cancel(engine)) != PF_ECANCEL;
    *wrong += !strstr(pf_last_error(), "rank 1 of 3 on here: cancelled");
    engine->cancel = NULL;
    return pf_comm_agree(engine, PF_OK);
}

static void test_stopped(void) {
    ranks_world w = {.ranks = 3};
    int wrong[3] = {0};
    ranks_run(&w, stop_one, wrong);
    for (int r = 0; r < 3; r++) CHECK(wrong[r] == 0 && w.status[r] == PF_OK);
}

int main(void) {
    test_one_rank();
    test_agree();
    test_bytes();
    test_direct();
    test_pieces();
    test_nodes();
    test_sums();
    test_tensors();
    test_settle();
    test_fail_again();
    test_counts();
    test_stopped();
    return CHECK_REPORT();
}
