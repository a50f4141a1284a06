/*
 * lanes_test.c - a step in lanes has the same bits on any number of ranks: weights, moments and
 * norms after some steps, for every rule, with tables of which a lane touches a few rows, with
 * parameters that some lanes don't reach, and with threads. One lane is a step without lanes.
 */
#include "lanes_support.h"
#include "optimizer.h"
#include "tree.h"

enum { STEPS = 4, ROWS = 2, LENGTH = 20 };

/* ---- a training in lanes ---- */

typedef struct {
    const char *model, *optimizer; /* options */
    int lanes;                     /* 0: none are set */
    bool partly;                   /* odd lanes reach one parameter alone */
    uint64_t bits[RANKS_MOST];     /* of all weights, moments and norms at the end */
} training;

static int apply(pf_engine *e, const char *op, pf_tensor *a, pf_tensor *b, pf_tensor **out) {
    int index = pf_op_find(e, op);
    pf_tensor *in[] = {a, b};
    return index < 0 ? index : pf_op_apply(e, index, in, b ? 2 : 1, NULL, out);
}

/* Forward and backward of lane `lane` of `lanes` of a step, whose rows no other has. */
static int run_lane(pf_engine *e, pf_module *m, const training *t, int step, int lane, int lanes) {
    pf_tape *tape = NULL;
    pf_tensor *x = some_ids(e, ROWS, LENGTH, (uint32_t)(100 * step + 2 * lane));
    pf_tensor *target = some_ids(e, ROWS, LENGTH, (uint32_t)(100 * step + 2 * lane + 1));
    pf_tensor *y = NULL, *loss = NULL, *seed = NULL, *weight = NULL;
    pf_pass pass = {.size = sizeof pass, .training = true, .step = (uint64_t)step};
    int status = pf_tape_open(&tape, e);
    if (status >= 0 && t->partly && lane % 2 == 1) {
        status = pf_module_tensor_at(m, 0, NULL, &weight, NULL);
        if (status >= 0) status = apply(e, "mul", weight, weight, &y);
        if (status >= 0) status = apply(e, "mean", y, NULL, &loss);
    } else {
        if (status >= 0) status = pf_module_forward(&y, e, m, x, &pass);
        if (status >= 0) status = pf_cross_entropy(&loss, e, y, target);
    }
    if (status >= 0) status = pf_tensor_full(&seed, e, PF_F32, 0, NULL, 1.0 / lanes);
    if (status >= 0) status = pf_tape_backward(tape, loss, seed);
    pf_tensor_release(&x), pf_tensor_release(&target), pf_tensor_release(&y);
    pf_tensor_release(&loss), pf_tensor_release(&seed);
    pf_tape_close(&tape);
    return status;
}

static int run_step(pf_engine *e, pf_module *m, pf_optimizer *o, training *t, int rank, int step) {
    int lanes = t->lanes ? t->lanes : 1, first, last;
    double norm = 0;
    pf_lanes_of(lanes, pf_comm_ranks(e), rank, &first, &last);
    for (int lane = first; lane < last; lane++) {
        PF_TRY(run_lane(e, m, t, step, lane, lanes));
        if (lanes > 1) PF_TRY(pf_optimizer_fold(o, e));
    }
    PF_TRY(pf_optimizer_step(o, e, 1e-2, 0.5, &norm));
    t->bits[rank] = hash_bytes(t->bits[rank], &norm, sizeof norm);
    return PF_OK;
}

static int train(pf_engine *e, int rank, void *context) {
    training *t = context;
    pf_module *m = small_model(e, t->model);
    pf_config *options = options_of(t->optimizer);
    pf_optimizer *o = NULL;
    int status = pf_optimizer_new(&o, e, m, options);
    if (status >= 0 && t->lanes) status = pf_optimizer_set_lanes(o, e, t->lanes);
    t->bits[rank] = HASH_START;
    for (int step = 1; step <= STEPS && status >= 0; step++)
        status = run_step(e, m, o, t, rank, step);
    if (status >= 0) status = hash_weights(&t->bits[rank], m);
    if (status >= 0) status = hash_kept(&t->bits[rank], e, o);
    pf_config_free(options);
    pf_optimizer_close(&o);
    pf_module_release(&m);
    return status;
}

static uint64_t bits_of(training t, int ranks, int threads) {
    return bits_on(ranks, threads, train, &t, t.bits);
}

static const char PLAIN[] = "'causal': true, 'kernel': {'name': 'relu'}";
static const char TABLE[] = "'causal': true, 'kernel': {'name': 'softmax', 'features': 8}, "
                            "'ngrams': {'longest': 3, 'buckets': 64}";

static void test_any_ranks(void) {
    static const int counts[] = {1, 2, 3, 4, 5, 8};
    const training trainings[] = {
        {.model = PLAIN, .optimizer = "{'type': 'adamw'}"},
        {.model = TABLE, .optimizer = "{'type': 'adamw', 'ema': 0.9}"},
        {.model = TABLE, .optimizer = "{'type': 'muon'}"},
        {.model = TABLE, .optimizer = "{'type': 'adamw'}", .partly = true},
        {.model = PLAIN, .optimizer = "{'type': 'lion'}", .partly = true},
    };
    for (int i = 0; i < PF_COUNT(trainings); i++) {
        for (int lanes = 2; lanes <= 8; lanes += lanes == 3 ? 2 : lanes == 5 ? 3 : 1) {
            training t = trainings[i];
            t.lanes = lanes;
            uint64_t one = bits_of(t, 1, 1);
            for (int k = 1; k < PF_COUNT(counts) && counts[k] <= lanes; k++)
                CHECK(bits_of(t, counts[k], 1 + k % 2) == one);
        }
    }
}

/* One lane is what there was; and each of two ranks without lanes is one. */
static void test_one_lane(void) {
    training none = {.model = TABLE, .optimizer = "{'type': 'adamw'}"}, one = none, two = none;
    one.lanes = 1, two.lanes = 2;
    CHECK(bits_of(none, 1, 1) == bits_of(one, 1, 2));
    CHECK(bits_of(two, 2, 1) != bits_of(one, 1, 1));
}

/* Two ranks that are given a gradient of 3 each step by 6. */
static int step_by_hand(pf_engine *e, int rank, void *context) {
    pf_module *m = layer_of(e, "linear", "{'from': 2, 'to': 1}");
    pf_tensor *b = pf_module_tensor(m, "bias");
    pf_config *sgd = options_of("{'type': 'sgd', 'momentum': 0}");
    pf_optimizer *o = NULL;
    double value = 0, norm = 0;
    PF_TRY(pf_optimizer_new(&o, e, m, sgd));
    PF_TRY(pf_tensor_make_lasting(&b->grad, e->heap, PF_F32, 1, b->shape));
    PF_TRY(pf_tensor_fill(b->grad, 3));
    PF_TRY(pf_optimizer_step(o, e, 0.5, 0, &norm));
    PF_TRY(pf_tensor_get(b, 0, &value));
    *(int *)context += norm != 6 || value != -3 || pf_optimizer_steps(o) != 1;
    b->grad_stale = false;
    PF_TRY(pf_tensor_fill(b->grad, rank == 1 ? NAN : 3)); /* what one can't do, none does */
    *(int *)context += pf_optimizer_step(o, e, 0.5, 0, &norm) != PF_ENUMERIC;
    PF_TRY(pf_tensor_get(b, 0, &value));
    *(int *)context += value != -3 || pf_optimizer_steps(o) != 1;
    pf_config_free(sgd);
    pf_optimizer_close(&o);
    pf_module_release(&m);
    return PF_OK;
}

static void test_by_hand(void) {
    ranks_world w = {.ranks = 2, .whole = true};
    int wrong = 0;
    ranks_run(&w, step_by_hand, &wrong);
    CHECK(wrong == 0 && w.status[0] == PF_OK && w.status[1] == PF_OK);
}

/* Rank 1 can't: it has no memory for the sum, then by its limit once gradients are weighed. No rank
 * moves, and what was not yet added is there for the next time. */
static int step_without_one(pf_engine *e, int rank, void *context) {
    int *wrong = context;
    pf_module *m = layer_of(e, "linear", "{'from': 2, 'to': 1}");
    pf_tensor *b = pf_module_tensor(m, "bias");
    pf_config *options = options_of("{'type': 'sgd', 'momentum': 0, 'ema': 0.5}");
    pf_optimizer *o = NULL;
    const pf_limits most = {.size = sizeof most, .work = 1};
    double value = 0, norm = 0;
    PF_TRY(pf_optimizer_new(&o, e, m, options));
    PF_TRY(pf_tensor_make_lasting(&b->grad, e->heap, PF_F32, 1, b->shape));
    PF_TRY(pf_tensor_fill(b->grad, 3));
    if (rank == 1) pf_heap_set_budget(e->heap, pf_heap_live(e->heap));
    *wrong += pf_optimizer_step(o, e, 0.5, 0, &norm) != PF_ENOMEM;
    pf_heap_set_budget(e->heap, 0);
    PF_TRY(pf_tensor_get(b->grad, 0, &value));
    *wrong += value != 3 || b->grad_stale;
    if (rank == 1) PF_TRY(pf_engine_limit(e, &most));
    *wrong += pf_optimizer_step(o, e, 0.5, 0, &norm) != PF_ELIMIT;
    if (rank == 1) PF_TRY(pf_engine_limit(e, NULL));
    PF_TRY(pf_tensor_get(b, 0, &value));
    *wrong += value != 0 || pf_optimizer_steps(o) != 0 || !b->grad_stale;
    b->grad_stale = false;
    PF_TRY(pf_tensor_fill(b->grad, 3));
    PF_TRY(pf_optimizer_step(o, e, 0.5, 0, &norm));
    PF_TRY(pf_tensor_get(b, 0, &value));
    *wrong += norm != 6 || value != -3 || pf_optimizer_steps(o) != 1;
    pf_config_free(options);
    pf_optimizer_close(&o);
    pf_module_release(&m);
    return PF_OK;
}

static void test_without_one(void) {
    ranks_world w = {.ranks = 2, .whole = true};
    int wrong = 0;
    ranks_run(&w, step_without_one, &wrong);
    CHECK(wrong == 0 && w.status[0] == PF_OK && w.status[1] == PF_OK);
    if (w.status[0] < 0 || w.status[1] < 0) fprintf(stderr, "  %s, %s\n", w.text[0], w.text[1]);
}

/* ---- what follows a step ---- */

/* A layer that gives x back, and after a step leaves rank 1 no memory for what comes behind it. */
static int same_x(void *context, pf_engine *e, pf_tensor *x, const pf_pass *pass, pf_tensor **y) {
    (void)context, (void)pass;
    return pf_tensor_view(y, x) < 0 || !e ? PF_ENOMEM : PF_OK;
}

static int take_memory(void *context, pf_engine *e, uint64_t step) {
    if (*(const int *)context == 1 && step == 2) pf_heap_set_budget(e->heap, pf_heap_live(e->heap));
    return PF_OK;
}

/* { that layer, attention whose centroids move after every step, which takes memory } */
static int make_moved(pf_module **m, pf_engine *e, int *rank) {
    const pf_host_layer greedy = {
        .size = sizeof greedy, .context = rank, .forward = same_x, .after_step = take_memory};
    pf_module *child[2] = {NULL, layer_of(e, "attention",
                                          "{'dim': 8, 'heads': 1, 'causal': true, "
                                          "'attention': 'routing'}")};
    int status = pf_module_host(&child[0], e, "greedy", &greedy, NULL, 0);
    if (status >= 0) status = pf_module_new(m, e, "chain", NULL, child, 2);
    pf_module_release(&child[0]), pf_module_release(&child[1]);
    return status;
}

static int give_gradient(pf_engine *e, pf_tensor *w) {
    pf_tensor_clear_grad(w);
    if (!w->grad) PF_TRY(pf_tensor_make_lasting(&w->grad, e->heap, PF_F32, w->rank, w->shape));
    w->grad_stale = false;
    return pf_tensor_fill(w->grad, 3);
}

typedef struct {
    int wrong;
    uint64_t bits[2], steps[2];
} moving;

/* The first weights that are trained move in every step; what follows the second one fails on rank
 * 1: both are told, and the weights of both have moved. */
static int step_and_move(pf_engine *e, int rank, void *context) {
    moving *d = context;
    pf_module *m = NULL;
    pf_config *options = options_of("{'type': 'sgd', 'momentum': 0}");
    pf_optimizer *o = NULL;
    pf_tensor *w = NULL;
    bool trained = false;
    PF_TRY(make_moved(&m, e, &rank));
    PF_TRY(pf_optimizer_new(&o, e, m, options));
    for (int i = 0; !trained; i++) PF_TRY(pf_module_tensor_at(m, i, NULL, &w, &trained));
    for (int step = 1; step <= 2; step++) {
        PF_TRY(give_gradient(e, w));
        const int status = pf_optimizer_step(o, e, 0.5, 0, NULL);
        pf_heap_set_budget(e->heap, 0);
        d->wrong += status != (step == 2 ? PF_ENOMEM : PF_OK);
    }
    d->wrong += !strstr(pf_last_error(), rank == 0 ? "rank 1 of 2 on here: " : "memory");
    d->steps[rank] = pf_optimizer_steps(o);
    d->bits[rank] = hash_tensor(HASH_START, w);
    d->wrong += pf_comm_agree(e, PF_OK) != PF_OK; /* they are in step, and can end together */
    pf_config_free(options);
    pf_optimizer_close(&o);
    pf_module_release(&m);
    return PF_OK;
}

static void test_what_follows_fails(void) {
    ranks_world w = {.ranks = 2, .whole = true};
    moving d = {0};
    ranks_run(&w, step_and_move, &d);
    CHECK(w.status[0] == PF_OK && w.status[1] == PF_OK);
    CHECK(d.wrong == 0 && d.steps[0] == 2 && d.steps[1] == 2 && d.bits[0] == d.bits[1]);
    for (int r = 0; r < 2; r++)
        if (w.status[r] < 0) fprintf(stderr, "  rank %d: %s\n", r, w.text[r]);
}

/* ---- misuse and failure ---- */

static int misuse(pf_engine *e, int rank, void *context) {
    pf_module *m = small_model(e, PLAIN);
    pf_optimizer *o = NULL;
    int *wrong = context;
    training t = {.lanes = 4};
    double before = 0, after = 0;
    pf_tensor *w = NULL;
    PF_TRY(pf_optimizer_new(&o, e, m, NULL));
    PF_TRY(pf_module_tensor_at(m, 0, NULL, &w, NULL));
    PF_TRY(pf_tensor_get(w, 0, &before));
    *wrong += pf_optimizer_fold(o, e) != PF_ESTATE;
    *wrong += pf_optimizer_set_lanes(o, e, 1) != PF_EINVAL; /* fewer than ranks */
    PF_TRY(pf_optimizer_set_lanes(o, e, 4));
    PF_TRY(run_lane(e, m, &t, 1, 2 * rank, 4));
    PF_TRY(pf_optimizer_fold(o, e));
    if (rank == 0) { /* the other one has folded one of its two */
        PF_TRY(run_lane(e, m, &t, 1, 1, 4));
        PF_TRY(pf_optimizer_fold(o, e));
        *wrong += pf_optimizer_fold(o, e) != PF_ESTATE;
    }
    *wrong += pf_optimizer_step(o, e, 1e-2, 1, NULL) != PF_ESTATE;
    *wrong +=
        !strstr(pf_last_error(), "rank 1 of 2 on here: optimizer: lane 4 of this rank's 3 to 4 is");
    PF_TRY(pf_tensor_get(w, 0, &after));
    *wrong += before != after || pf_optimizer_steps(o) != 0;
    for (int lane = 2 * rank; lane < 2 * rank + 2; lane++) { /* and the step begins anew */
        PF_TRY(run_lane(e, m, &t, 1, lane, 4));
        PF_TRY(pf_optimizer_fold(o, e));
    }
    PF_TRY(run_lane(e, m, &t, 1, 2 * rank, 4)); /* a fifth one */
    *wrong += pf_optimizer_step(o, e, 1e-2, 1, NULL) != PF_ESTATE;
    *wrong += !strstr(pf_last_error(), "has a gradient that is of no lane");
    for (int i = 0; i < pf_module_tensor_count(m); i++) {
        PF_TRY(pf_module_tensor_at(m, i, NULL, &w, NULL));
        pf_tensor_clear_grad(w);
    }
    for (int lane = 2 * rank; lane < 2 * rank + 2; lane++) {
        PF_TRY(run_lane(e, m, &t, 1, lane, 4));
        PF_TRY(pf_optimizer_fold(o, e));
    }
    int status = pf_optimizer_step(o, e, 1e-2, 1, NULL);
    pf_optimizer_close(&o);
    pf_module_release(&m);
    return status;
}

/* ---- what a script gives each rank in its own way ---- */

typedef struct {
    double lr, clip;
    int lanes, steps; /* before */
    const char *optimizer;
} terms;

static int fold_lanes(pf_engine *e, pf_module *m, pf_optimizer *o, int rank, int lanes) {
    training t = {.lanes = lanes};
    int first, last;
    pf_lanes_of(lanes, pf_comm_ranks(e), rank, &first, &last);
    for (int lane = first; lane < last; lane++) {
        PF_TRY(run_lane(e, m, &t, 1, lane, lanes));
        PF_TRY(pf_optimizer_fold(o, e));
    }
    return PF_OK;
}

typedef struct {
    terms rank[3];
    const char *said;
    int wrong;
} differing;

/* A step of ranks that differ is none, and the next one goes on. */
static int step_apart(pf_engine *e, int rank, void *context) {
    differing *d = context;
    const terms *t = &d->rank[rank];
    pf_module *m = small_model(e, PLAIN);
    pf_config *options =
        options_of(t->optimizer ? t->optimizer : "{'type': 'adamw', 'eps': 1e-6, 'beta1': 0.8}");
    pf_optimizer *o = NULL;
    pf_tensor *w = NULL;
    double before = 0, after = 0;
    PF_TRY(pf_optimizer_new(&o, e, m, options));
    o->steps = (uint64_t)t->steps;
    if (t->lanes) PF_TRY(pf_optimizer_set_lanes(o, e, t->lanes));
    PF_TRY(pf_module_tensor_at(m, 0, NULL, &w, NULL));
    PF_TRY(pf_tensor_get(w, 0, &before));
    if (t->lanes) PF_TRY(fold_lanes(e, m, o, rank, t->lanes));
    d->wrong += pf_optimizer_step(o, e, t->lr, t->clip, NULL) != (d->said ? PF_EINVAL : PF_OK);
    PF_TRY(pf_tensor_get(w, 0, &after));
    if (d->said) {
        d->wrong += !strstr(pf_last_error(), d->said);
        d->wrong += before != after || o->steps != (uint64_t)t->steps;
    }
    pf_optimizer_close(&o);
    PF_TRY(pf_optimizer_new(&o, e, m, NULL));
    int status = pf_optimizer_step(o, e, 1e-2, 1, NULL);
    pf_config_free(options);
    pf_optimizer_close(&o);
    pf_module_release(&m);
    return status;
}

static void check_terms(terms own, terms other, const char *said) {
    differing d = {.rank = {own, own, other}, .said = said};
    ranks_world w = {.ranks = 3, .whole = true};
    ranks_run(&w, step_apart, &d);
    CHECK(d.wrong == 0);
    for (int r = 0; r < 3; r++) {
        CHECK(w.status[r] == PF_OK);
        if (w.status[r] < 0) fprintf(stderr, "  rank %d: %s\n", r, w.text[r]);
    }
}

static void test_terms(void) {
    const terms own = {.lr = 0.25, .clip = 1, .lanes = 6};
    terms other = own;
    check_terms(own, other, NULL);
    other.optimizer = "{'beta1': 0.8, 'eps': 1e-6, 'type': 'adamw'}"; /* in another order */
    check_terms(own, other, NULL);
    other.optimizer = "{'beta1': 0.8, 'eps': 1e-7, 'type': 'adamw'}";
    check_terms(own, other, "rank 2 of 3 on here has other options than rank 0 of 3 on here");
    other = own, other.lr = 0.5;
    check_terms(own, other,
                "rank 2 of 3 on here steps with lr 0.5 and clip 1, and rank 0 of 3 on "
                "here with lr 0.25 and clip 1");
    other = own, other.clip = 0;
    check_terms(own, other, "rank 2 of 3 on here steps with lr 0.25 and clip 0");
    other = own, other.steps = 7;
    check_terms(own, other, "rank 2 of 3 on here has 7 steps behind it, and rank 0 of 3 on here 0");
    other = own, other.lanes = 8;
    check_terms(own, other, "rank 2 of 3 on here has 8 lanes, and rank 0 of 3 on here 6");
    other = own, other.lanes = 0; /* as many as ranks */
    check_terms(own, other, "rank 2 of 3 on here has 3 lanes, and rank 0 of 3 on here 6");
}

static void test_misuse(void) {
    ranks_world w = {.ranks = 2, .whole = true};
    int wrong = 0;
    ranks_run(&w, misuse, &wrong);
    CHECK(wrong == 0 && w.status[0] == PF_OK && w.status[1] == PF_OK);
    if (w.status[0] < 0 || w.status[1] < 0) fprintf(stderr, "  %s, %s\n", w.text[0], w.text[1]);
}

int main(void) {
    test_any_ranks();
    test_one_lane();
    test_by_hand();
    test_without_one();
    test_what_follows_fails();
    test_misuse();
    test_terms();
    return CHECK_REPORT();
}
