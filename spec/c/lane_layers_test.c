/*
 * lane_layers_test.c - a step in lanes has the same bits on any number of ranks for every kind of
 * layer: whatever knows "the batch" (dropout, new draws, what softmax attention sees and the tilts
 * that follow from it, padded rows, tables) is of the lane or agreed.
 */
#include "lanes_support.h"
#include "tree.h"

enum { LANES = 8, ROWS = 2, LENGTH = 20 };

typedef struct {
    const char *model; /* options */
    int steps;
    bool padded; /* the lanes' last rows are not there */
    bool breaks; /* the second step is first one that no rank can take */
    uint64_t bits[RANKS_MOST];
} training;

/* (ROWS, LENGTH): the row of ones and a short one; every fourth lane has nothing in its second. */
static pf_tensor *some_mask(pf_engine *e, int lane) {
    pf_tensor *mask = some_ids(e, ROWS, LENGTH, 1);
    for (int64_t i = 0; i < ROWS * LENGTH; i++)
        pf_i32(mask)[i] = i < LENGTH || (lane % 4 != 3 && i < LENGTH + 5 + lane);
    return mask;
}

static int run_lane(pf_engine *e, pf_module *m, const training *t, int step, int lane,
                    double share) {
    pf_tape *tape = NULL;
    const uint32_t salt = (uint32_t)(100 * step + 2 * lane);
    pf_tensor *x = some_ids(e, ROWS, LENGTH, salt), *target = some_ids(e, ROWS, LENGTH, salt + 1);
    pf_tensor *y = NULL, *loss = NULL, *seed = NULL;
    pf_tensor *mask = t->padded ? some_mask(e, lane) : NULL;
    pf_pass pass = {.size = sizeof pass,
                    .training = true,
                    .step = (uint64_t)step,
                    .micro = (uint64_t)lane,
                    .watch = true,
                    .mask = mask};
    int status = pf_tape_open(&tape, e);
    if (status >= 0) status = pf_module_forward(&y, e, m, x, &pass);
    if (status >= 0) status = pf_cross_entropy(&loss, e, y, target);
    if (status >= 0) status = pf_tensor_full(&seed, e, PF_F32, 0, NULL, share);
    if (status >= 0) status = pf_tape_backward(tape, loss, seed);
    pf_tensor_release(&x), pf_tensor_release(&target), pf_tensor_release(&y);
    pf_tensor_release(&loss), pf_tensor_release(&seed), pf_tensor_release(&mask);
    pf_tape_close(&tape);
    return status;
}

static int run_lanes(pf_engine *e, pf_module *m, pf_optimizer *o, const training *t, int step,
                     bool breaks) {
    int first, last;
    pf_lanes_of(LANES, pf_comm_ranks(e), pf_comm_rank(e), &first, &last);
    for (int lane = first; lane < last; lane++) {
        PF_TRY(run_lane(e, m, t, step, lane, breaks && lane == LANES - 1 ? NAN : 1.0 / LANES));
        PF_TRY(pf_optimizer_fold(o, e));
    }
    return PF_OK;
}

static int run_step(pf_engine *e, pf_module *m, pf_optimizer *o, training *t, int step) {
    const int rank = pf_comm_rank(e);
    double norm = 0;
    if (t->breaks && step == 2) {
        PF_TRY(run_lanes(e, m, o, t, step, true));
        const int status = pf_optimizer_step(o, e, 1e-2, 0.5, &norm);
        if (status != PF_ENUMERIC) return pf_fail(PF_ESTATE, "the step gave %d", status);
    }
    PF_TRY(run_lanes(e, m, o, t, step, false));
    PF_TRY(pf_optimizer_step(o, e, 1e-2, 0.5, &norm));
    t->bits[rank] = hash_bytes(t->bits[rank], &norm, sizeof norm);
    return PF_OK;
}

/* All tensors, also those that are neither trained nor saved. */
static int train(pf_engine *e, int rank, void *context) {
    training *t = context;
    pf_module *m = small_model(e, t->model);
    pf_config *options = options_of("{'type': 'adamw'}");
    pf_optimizer *o = NULL;
    int status = m ? pf_optimizer_new(&o, e, m, options) : PF_EINVAL;
    if (status >= 0) status = pf_optimizer_set_lanes(o, e, LANES);
    t->bits[rank] = HASH_START;
    for (int step = 1; step <= t->steps && status >= 0; step++) status = run_step(e, m, o, t, step);
    if (status >= 0) status = hash_weights(&t->bits[rank], m);
    pf_config *report = NULL; /* what was seen */
    if (status >= 0) status = pf_module_attention_report(&report, m);
    char *text = NULL;
    if (status >= 0) status = pf_json_write(&text, report, false);
    if (text) t->bits[rank] = hash_bytes(t->bits[rank], text, strlen(text));
    free(text);
    pf_config_free(report), pf_config_free(options);
    pf_optimizer_close(&o);
    pf_module_release(&m);
    return status;
}

static uint64_t bits_of(training t, int ranks, int threads) {
    return bits_on(ranks, threads, train, &t, t.bits);
}

static const training trainings[] = {
    {.model = "'causal': true, 'kernel': {'name': 'relu'}, 'dropout': 0.2", .steps = 3},
    {.model = "'causal': false, 'kernel': {'name': 'softmax', 'features': 8, 'redraw': 2}, "
              "'attention_dropout': 0.2",
     .steps = 4},
    {.model = "'causal': true, 'kernel': {'name': 'softmax_plus', 'features': 8}", .steps = 18},
    {.model = "'causal': true, 'kernel': {'name': 'softmax_plus', 'features': 8}",
     .steps = 3,
     .padded = true},
    {.model = "'causal': true, 'kernel': {'name': 'softmax', 'features': 8}, 'conv': 4, "
              "'decay': 1, 'qk_norm': true",
     .steps = 3},
    {.model = "'causal': true, 'kernel': {'name': 'relu'}, "
              "'ngrams': {'longest': 3, 'buckets': 64}",
     .steps = 3},
    {.model = "'causal': true, 'kernel': {'name': 'relu'}, 'reversible': true, 'dropout': 0.2",
     .steps = 3},
    {.model = "'causal': true, 'kernel': {'name': 'relu'}, 'recompute': true, 'dropout': 0.2",
     .steps = 3},
    {.model = "'causal': true, 'attention': 'exact', 'attention_dropout': 0.2, "
              "'positions': 'learned', 'norm': 'rmsnorm'",
     .steps = 3},
    {.model = "'causal': true, 'attention': 'sliding', 'attention_options': {'window': 6}, "
              "'attention_dropout': 0.2",
     .steps = 3},
    {.model = "'causal': false, 'attention': 'bigbird', 'attention_options': {'block': 4}",
     .steps = 3},
    {.model = "'causal': true, 'attention': 'lsh', 'attention_options': {'buckets': 4}",
     .steps = 3},
    {.model = "'causal': true, 'attention': 'routing', "
              "'attention_options': {'clusters': 4, 'rate': 0.5}",
     .steps = 3,
     .padded = true},
    {.model = "'causal': false, 'attention': 'routing', 'recompute': true, "
              "'attention_options': {'clusters': 3, 'tied': false, 'rate': 0.5}",
     .steps = 3},
    {.model = "'causal': true, 'attention': 'routing', "
              "'attention_options': {'clusters': 4, 'rate': 0.5}",
     .steps = 3,
     .breaks = true},
    {.model = "'causal': true, 'kernel': {'name': 'elu'}, "
              "'act': 'swiglu', 'kv_heads': 1",
     .steps = 3},
};

static void test_layers(void) {
    static const int counts[] = {1, 2, 3, 4, 5, 8};
    for (int i = 0; i < PF_COUNT(trainings); i++) {
        const uint64_t one = bits_of(trainings[i], 1, 1);
        for (int k = 0; k < PF_COUNT(counts); k++)
            for (int threads = 1; threads <= 2; threads++) {
                const bool same = bits_of(trainings[i], counts[k], threads) == one;
                if (!same) fprintf(stderr, "  %s: %d ranks\n", trainings[i].model, counts[k]);
                CHECK(same);
            }
    }
}

/* A tilt that has not moved would show nothing. */
static void test_tilt_moves(void) {
    CHECK(bits_of((training){.model = trainings[2].model, .steps = 1}, 2, 1) !=
          bits_of((training){.model = trainings[2].model, .steps = 2}, 2, 1));
}

/* Nor would centroids: without a rate other weights come of it. */
static void test_centroids_move(void) {
    static const char still[] = "'causal': true, 'attention': 'routing', "
                                "'attention_options': {'clusters': 4, 'rate': 0}";
    static const char moving[] = "'causal': true, 'attention': 'routing', "
                                 "'attention_options': {'clusters': 4, 'rate': 0.5}";
    CHECK(bits_of((training){.model = still, .steps = 1}, 2, 1) !=
          bits_of((training){.model = moving, .steps = 1}, 2, 1));
}

int main(void) {
    test_layers();
    test_tilt_moves();
    test_centroids_move();
    return CHECK_REPORT();
}
