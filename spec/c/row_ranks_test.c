/*
 * row_ranks_test.c - rows in segments, several at a time: groups of ranks share a row each
 * (pf_comm_row_ranks), and a step's lanes go to the groups. However many ranks there are, and
 * however many of them share a row, the bits are those of one rank.
 */
#include "lanes_support.h"
#include "scan.h"
#include "tree.h"

enum { LANES = 4, SEGMENTS = 4, ROWS = 2, LENGTH = 70 };

typedef struct {
    const char *model; /* options */
    bool chain;
    bool together; /* with a rank for each segment alone */
    int row_ranks, steps;
    int fails; /* 1 + the rank whose second lane has an id that there is not */
    uint64_t bits[RANKS_MOST];
} training;

static pf_module *model_of(pf_engine *e, const char *more) {
    char text[512];
    snprintf(text, sizeof text,
             "{'vocab': 11, 'dim': 16, 'layers': 2, 'heads': 2, 'length': 80, %s}", more);
    return layer_of(e, "performer", text);
}

static int run_lane(pf_engine *e, pf_optimizer *o, const training *t, int step, int lane,
                    double *loss) {
    const uint32_t salt = (uint32_t)(100 * step + 2 * lane);
    pf_tensor *x = some_ids(e, ROWS, LENGTH, salt), *target = some_ids(e, ROWS, LENGTH, salt + 1);
    const pf_pass pass = {.size = sizeof pass,
                          .training = true,
                          .step = (uint64_t)step,
                          .micro = (uint64_t)lane,
                          .counted = LANES * ROWS * LENGTH};
    const pf_segments segments = {.size = sizeof segments, .segments = SEGMENTS, .chain = t->chain};
    if (t->fails == 1 + pf_comm_rank(e) && lane % 2 == 1)
        pf_i32(target)[pf_comm_rank(e) % 2 ? LENGTH - 1 : 0] = 1
                                                               << 20; /* in a segment of its own */
    int status = pf_optimizer_backward_segments(loss, e, o, x, target, &pass, &segments);
    pf_tensor_release(&x), pf_tensor_release(&target);
    return status;
}

static int run_step(pf_engine *e, pf_optimizer *o, training *t, int step) {
    const int rank = pf_comm_rank(e), n = pf_comm_row_size(e);
    int first, last;
    double norm = 0, loss[LANES] = {0};
    pf_lanes_of(LANES, pf_comm_ranks(e) / n, rank / n, &first, &last);
    for (int lane = first; lane < last; lane++) PF_TRY(run_lane(e, o, t, step, lane, &loss[lane]));
    PF_TRY(pf_optimizer_step(o, e, 1e-2, 0.5, &norm));
    for (int lane = first; lane < last; lane++) CHECK(loss[lane] > 0);
    t->bits[rank] = hash_bytes(t->bits[rank], &norm, sizeof norm);
    return PF_OK;
}

static int train(pf_engine *e, int rank, void *context) {
    training *t = context;
    pf_module *m = model_of(e, t->model);
    pf_config *options = options_of("{'type': 'adamw'}");
    pf_optimizer *o = NULL;
    int status = pf_comm_row_ranks(e, t->row_ranks);
    if (status >= 0) status = m ? pf_optimizer_new(&o, e, m, options) : PF_EINVAL;
    if (status >= 0) status = pf_optimizer_set_lanes(o, e, LANES * SEGMENTS);
    t->bits[rank] = HASH_START;
    for (int step = 1; step <= t->steps && status >= 0; step++) status = run_step(e, o, t, step);
    if (status >= 0) status = hash_weights(&t->bits[rank], m);
    if (status >= 0) status = hash_kept(&t->bits[rank], e, o);
    status = pf_comm_settle(e, status);
    pf_config_free(options);
    pf_optimizer_close(&o);
    pf_module_release(&m);
    return status;
}

static uint64_t bits_of(training t, int ranks, int row_ranks, int threads) {
    t.row_ranks = row_ranks;
    return bits_on(ranks, threads, train, &t, t.bits);
}

/* ---- bits ---- */

static const training trainings[] = {
    {.model = "'causal': true, 'kernel': {'name': 'relu'}, 'dropout': 0.2", .steps = 3},
    {.model = "'causal': true, 'kernel': {'name': 'relu'}", .chain = true, .steps = 2},
    {.model = "'causal': true, 'kernel': {'name': 'softmax', 'features': 8, 'redraw': 2}",
     .steps = 4},
    {.model = "'causal': true, 'kernel': {'name': 'softmax_plus', 'features': 8}, 'conv': 4, "
              "'decay': 1, 'qk_norm': true",
     .steps = 2},
    {.model = "'causal': true, 'kernel': {'name': 'relu'}, 'ngrams': {'longest': 3, 'buckets': 64}",
     .steps = 3},
    {.model = "'causal': true, 'kernel': {'name': 'elu'}, 'reversible': true, 'kv_heads': 1",
     .steps = 2},
    {.model = "'causal': true, 'attention': 'exact'", .together = true, .steps = 2},
    {.model = "'causal': false, 'kernel': {'name': 'relu'}", .together = true, .steps = 2},
};

/* Ranks, and how many of them share a row. */
static const int starts[][2] = {{1, 1}, {4, 4}, {2, 1}, {2, 2}, {3, 1}, {4, 1},
                                {4, 2}, {6, 2}, {6, 3}, {8, 2}, {8, 4}, {16, 4}};

static void test_bits(void) {
    for (int i = 0; i < PF_COUNT(trainings); i++) {
        const training *t = &trainings[i];
        const int *first = t->together ? starts[1] : starts[0];
        const uint64_t one = bits_of(*t, first[0], first[1], 1);
        for (int k = 0; k < PF_COUNT(starts); k++) {
            if (t->together && starts[k][1] != SEGMENTS) continue;
            const uint64_t bits = bits_of(*t, starts[k][0], starts[k][1], 1 + k % 2);
            if (bits != one)
                fprintf(stderr, "  %s: %d ranks, %d a row\n", t->model, starts[k][0], starts[k][1]);
            CHECK(bits == one);
        }
    }
}

/* ---- refusals ---- */

static int ask(pf_engine *e, int rank, void *context) {
    const int *n = context;
    pf_comm_info info = {.size = sizeof info};
    int status = pf_comm_row_ranks(e, rank == 1 ? n[1] : n[0]);
    CHECK_OK(pf_comm_about(e, &info));
    CHECK(info.row_ranks == (status < 0 ? info.ranks : n[0]));
    return status;
}

static void test_sizes(void) {
    static const struct {
        int ranks, n[2], status;
    } cases[] = {{4, {2, 2}, PF_OK},     {4, {1, 1}, PF_OK},     {4, {4, 4}, PF_OK},
                 {4, {3, 3}, PF_EINVAL}, {4, {0, 0}, PF_EINVAL}, {4, {-2, -2}, PF_EINVAL},
                 {4, {2, 4}, PF_EINVAL}, {4, {2, 1}, PF_EINVAL}, {4, {2, 3}, PF_EINVAL},
                 {1, {1, 1}, PF_OK},     {1, {2, 2}, PF_EINVAL}};
    for (int i = 0; i < PF_COUNT(cases); i++) {
        ranks_world w = {.ranks = cases[i].ranks, .threads = 1, .whole = true};
        ranks_run(&w, ask, (void *)(uintptr_t)cases[i].n);
        for (int r = 0; r < w.ranks; r++) CHECK(w.status[r] == cases[i].status);
    }
}

/* Groups that begin again more or less often than others have one talk when they are dealt anew. */
static int deal_again(pf_engine *e, int rank, void *context) {
    training *t = context;
    int status = pf_comm_row_ranks(e, 2);
    if (rank < 2) { /* one of the groups has had a failure */
        pf_comm *all = pf_comm_enter_row(e);
        pf_comm_pass_failure(e, pf_fail(PF_EINVAL, "on purpose"));
        pf_comm_leave_row(e, all);
    }
    CHECK(!e->comm->row->told && e->comm->broken >= 0);
    t->row_ranks = 4;
    return status < 0 ? status : train(e, rank, t);
}

static void test_dealt_again(void) {
    training t = {
        .model = "'causal': true, 'kernel': {'name': 'relu'}", .row_ranks = 4, .steps = 2};
    ranks_world w = {.ranks = 4, .threads = 1, .whole = true, .timeout = 20};
    const uint64_t bits = bits_of(t, 4, 4, 1);
    ranks_run(&w, deal_again, &t);
    for (int r = 0; r < 4; r++) {
        if (w.status[r] < 0) fprintf(stderr, "%s\n", w.text[r]);
        CHECK(w.status[r] == PF_OK && t.bits[r] == bits);
    }
}

/* As many sums as a rank has room for, those of a lane that is half folded among them. */
static int fold_many(pf_engine *e, int rank, void *context) {
    const int lanes = *(const int *)context;
    pf_module *m = model_of(e, "'causal': true, 'kernel': {'name': 'relu'}");
    const training t = {.model = ""};
    pf_optimizer *o = NULL;
    double loss;
    (void)rank;
    int status = pf_optimizer_new(&o, e, m, NULL);
    if (status >= 0) status = pf_optimizer_set_lanes(o, e, lanes * SEGMENTS);
    for (int lane = 0; lane < lanes && status >= 0; lane++)
        status = run_lane(e, o, &t, 1, lane, &loss);
    if (status >= 0) status = pf_optimizer_step(o, e, 1e-2, 0, NULL);
    pf_optimizer_close(&o);
    pf_module_release(&m);
    return status;
}

static void test_room(void) {
    for (int lanes = PF_LANE_NODES - 2; lanes <= PF_LANE_NODES; lanes += 2) {
        ranks_world w = {.ranks = 2, .threads = 1, .whole = true, .timeout = 20};
        ranks_run(&w, fold_many, &lanes);
        for (int r = 0; r < 2; r++)
            CHECK(w.status[r] == (lanes == PF_LANE_NODES ? PF_EINVAL : PF_OK));
    }
}

/* A rank that fails in the midst of its group's second lane is named on all, whether they share its
 * row or not; and all can close. */
static void test_failure(void) {
    static const int failing[] = {2, 3, 6}; /* with an odd lane */
    for (int i = 0; i < PF_COUNT(failing); i++) {
        training t = {.model = "'causal': true, 'kernel': {'name': 'relu'}",
                      .row_ranks = 2,
                      .steps = 2,
                      .fails = 1 + failing[i]};
        ranks_world w = {.ranks = 8, .threads = 1, .whole = true, .timeout = 20};
        char name[32];
        snprintf(name, sizeof name, "rank %d of 8", failing[i]);
        ranks_run(&w, train, &t);
        for (int r = 0; r < 8; r++) {
            CHECK(w.status[r] < 0 && strstr(w.text[r], name));
            CHECK(!strstr(w.text[r], "on here: rank")); /* it is said once */
        }
    }
}

/* A rank that is lost ends the talk of its group, and so of all. */
/* What one rank of a row finds before it begins, the others of the row hear; and then all go on. */
static int begin_badly(pf_engine *e, int rank, void *context) {
    int *wrong = (int *)context + rank;
    pf_module *m = model_of(e, "'causal': true, 'kernel': {'name': 'relu'}");
    pf_optimizer *o = NULL;
    double loss;
    pf_tensor *x = some_ids(e, ROWS, LENGTH, 1), *target = some_ids(e, ROWS, LENGTH, 2);
    pf_config *options = options_of("{'type': 'sgd'}");
    int status = pf_optimizer_new(&o, e, m, options);
    if (status >= 0) status = pf_optimizer_set_lanes(o, e, LANES * SEGMENTS);
    const pf_segments segments = {.size = sizeof segments, .segments = rank == 2 ? 0 : SEGMENTS};
    if (status >= 0)
        *wrong += pf_optimizer_backward_segments(&loss, e, o, x, target, NULL, &segments) == PF_OK;
    *wrong += !strstr(pf_last_error(), "segments: 0; from 1 to 65535 are possible");
    *wrong += rank != 2 && !strstr(pf_last_error(), "rank 2 of 3 on here: ");
    *wrong += pf_comm_agree(e, status) != PF_OK;
    pf_tensor_release(&x), pf_tensor_release(&target);
    pf_config_free(options);
    pf_optimizer_close(&o);
    pf_module_release(&m);
    return status;
}

static void test_begun_badly(void) {
    ranks_world w = {.ranks = 3, .whole = true, .timeout = 5};
    int wrong[3] = {0};
    ranks_run(&w, begin_badly, wrong);
    for (int r = 0; r < 3; r++) {
        if (w.status[r] < 0) fprintf(stderr, "  rank %d: %s\n", r, w.text[r]);
        CHECK(w.status[r] == PF_OK && wrong[r] == 0);
    }
}

static void test_lost(void) {
    training t = {
        .model = "'causal': true, 'kernel': {'name': 'relu'}", .row_ranks = 2, .steps = 9};
    ranks_world w = {
        .ranks = 4, .threads = 1, .whole = true, .timeout = 0.5, .dies = 3, .dies_at = 400};
    ranks_run(&w, train, &t);
    for (int r = 0; r < 3; r++) CHECK(w.status[r] < 0);
}

int main(void) {
    test_bits();
    test_sizes();
    test_dealt_again();
    test_room();
    test_failure();
    test_begun_badly();
    test_lost();
    return CHECK_REPORT();
}
