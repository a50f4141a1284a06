/*
 * shard_test.c - parameters dealt to ranks: the bits of weights, moments, averages and norms are
 * those of one rank, for every rule; a rank has its part of the moments alone; what three ranks
 * save is what one would, and any number goes on from it; and whatever one rank fails at, in
 * memory, by its host's threads or by a number, no rank has moved, or all have.
 *
 * Gradients are made up, so that parameters of several blocks cost little.
 */
#include <stdatomic.h>

#include "lanes.h"
#include "lanes_support.h"
#include "scratch.h"
#include "shard.h"

enum { LANES = 8, STEPS = 3 };

static const char MODEL[] = "{'vocab': 300, 'dim': 128, 'layers': 1, 'heads': 2, 'length': 32, "
                            "'causal': true, 'ngrams': {'longest': 2, 'buckets': 512}, "
                            "'kernel': {'name': 'relu'}}";

/* ---- a training by gradients that are made up ---- */

typedef struct {
    const char *optimizer; /* options */
    bool all_rows;         /* it goes on from a file without touched rows */
    bool partly;           /* some lanes don't reach some parameters, and nobody one of them */
    const char *from, *to; /* folders that it goes on from, and saves to; or NULL */
    int steps;             /* 0: STEPS */
    uint64_t bits[RANKS_MOST];
} training;

static bool reaches(const training *t, int lane, int i) {
    return !t->partly || (i % 5 != 3 && (i + lane) % 3 != 0);
}

/* A gradient from (step, lane, i) alone; of a table few rows. */
static int make_gradient(pf_engine *e, pf_tensor *p, bool table, int step, int lane, int i) {
    int64_t n = pf_tensor_numel(p), width = p->shape[p->rank - 1];
    uint32_t x = (uint32_t)(step * 7919 + lane * 104729 + i * 1299709 + 1);
    pf_tensor_release(&p->grad); /* a stale one */
    PF_TRY(pf_tensor_make_lasting(&p->grad, e->heap, PF_F32, p->rank, p->shape));
    for (int64_t k = 0; k < n; k++) {
        x ^= x << 13, x ^= x >> 17, x ^= x << 5;
        bool zero = table && (k / width + lane + step) % 17 != 0;
        pf_f32(p->grad)[k] = zero ? 0 : ((float)(x & 0xffff) - 32768) * 1e-5f;
    }
    p->grad_stale = false;
    return PF_OK;
}

static int run_lane(pf_engine *e, pf_module *m, const training *t, int step, int lane) {
    for (int i = 0; i < pf_module_tensor_count(m); i++) {
        const char *name;
        pf_tensor *p;
        bool trained;
        PF_TRY(pf_module_tensor_at(m, i, &name, &p, &trained));
        if (trained && reaches(t, lane, i))
            PF_TRY(make_gradient(e, p, strstr(name, "ngrams.weight") != NULL, step, lane, i));
    }
    return PF_OK;
}

static int fold_all(pf_engine *e, pf_module *m, pf_optimizer *o, const training *t, int step) {
    int first, last;
    pf_lanes_of(LANES, pf_comm_ranks(e), pf_comm_rank(e), &first, &last);
    for (int lane = first; lane < last; lane++) {
        PF_TRY(run_lane(e, m, t, step, lane));
        PF_TRY(pf_optimizer_fold(o, e));
    }
    return PF_OK;
}

static int run_steps(pf_engine *e, pf_module *m, pf_optimizer *o, training *t, int rank) {
    int done = (int)pf_optimizer_steps(o), steps = t->steps ? t->steps : STEPS;
    PF_TRY(pf_optimizer_set_lanes(o, e, LANES));
    for (int step = done + 1; step <= done + steps; step++) {
        double norm = 0;
        PF_TRY(fold_all(e, m, o, t, step));
        PF_TRY(pf_optimizer_step(o, e, 1e-2, 0.5, &norm));
        t->bits[rank] = hash_bytes(t->bits[rank], &norm, sizeof norm);
    }
    return PF_OK;
}

/* Also of the averages where the model has them, and of the weights behind that. */
static int hash_all(pf_engine *e, pf_module *m, pf_optimizer *o, uint64_t *bits) {
    PF_TRY(hash_weights(bits, m));
    PF_TRY(hash_kept(bits, e, o));
    if (!pf_optimizer_has_average(o)) return PF_OK;
    PF_TRY(pf_optimizer_use_average(o, true));
    PF_TRY(hash_weights(bits, m));
    PF_TRY(pf_optimizer_use_average(o, false));
    return hash_weights(bits, m);
}

static int train(pf_engine *e, int rank, void *context) {
    training *t = context;
    pf_module *m = NULL;
    pf_optimizer *o = NULL;
    int status = PF_OK;
    t->bits[rank] = HASH_START;
    if (t->from) {
        status = pf_checkpoint_load(e, t->from, &m, &o, NULL, NULL);
    } else {
        pf_config *options = options_of(t->optimizer);
        m = layer_of(e, "performer", MODEL);
        status = pf_optimizer_new(&o, e, m, options);
        pf_config_free(options);
        if (status >= 0 && t->all_rows) {
            o->all_rows = true;
            status = pf_groups_choose_rows(o);
        }
    }
    if (status >= 0) status = run_steps(e, m, o, t, rank);
    if (status >= 0) status = hash_all(e, m, o, &t->bits[rank]);
    if (status >= 0 && t->to) status = pf_checkpoint_save(e, t->to, 1, m, o, NULL, NULL, 0);
    pf_optimizer_close(&o);
    pf_module_release(&m);
    return status;
}

/* Twice in a row, with no verb between: each time all know it. */
static int save_nowhere(pf_engine *e, int rank, void *context) {
    pf_module *m = layer_of(e, "performer", MODEL);
    (void)rank, (void)context;
    for (int i = 0; i < 2; i++)
        CHECK(pf_checkpoint_save(e, "/dev/null/no", 1, m, NULL, NULL, NULL, 0) < 0);
    pf_module_release(&m);
    return pf_comm_agree(e, PF_OK);
}

static void test_saved_nowhere(void) {
    ranks_world w = {.ranks = 3, .whole = true, .timeout = 5};
    ranks_run(&w, save_nowhere, NULL);
    for (int r = 0; r < 3; r++) CHECK(w.status[r] == PF_OK);
}

static uint64_t bits_of(training t, int ranks, int threads) {
    return bits_on(ranks, threads, train, &t, t.bits);
}

static const char GROUPS[] =
    "{'type': 'adamw', 'ema': 0.9, 'groups': [{'match': 'embedding', 'lr_scale': 0.5, 'rows': "
    "'touched'}, {'match': '*norm*', 'beta1': 0.5}, {'match': '*ngrams*', 'rows': 'all'}]}";

static void test_any_ranks(void) {
    static const int counts[] = {2, 3, 5, 8};
    const training trainings[] = {
        {.optimizer = "{'type': 'adamw'}"},
        {.optimizer = "{'type': 'adam', 'ema': 0.99, 'decay': 0.1}", .partly = true},
        {.optimizer = "{'type': 'sgd'}"},
        {.optimizer = "{'type': 'adamw', 'ema': 0.5}", .all_rows = true, .partly = true},
        {.optimizer = "{'type': 'lion', 'ema': 0.9}", .partly = true},
        {.optimizer = "{'type': 'muon', 'ema': 0.9}"},
        {.optimizer = "{'type': 'muon', 'orthogonal': 'all'}", .partly = true},
        {.optimizer = GROUPS, .partly = true},
    };
    for (int i = 0; i < PF_COUNT(trainings); i++) {
        uint64_t one = bits_of(trainings[i], 1, 2);
        for (int k = 0; k < PF_COUNT(counts); k++)
            CHECK(bits_of(trainings[i], counts[k], 1 + (i + k) % 2) == one);
    }
}

/* ---- what a rank keeps ---- */

typedef struct {
    const char *type, *options, *optimizer;
    size_t bytes[RANKS_MOST];
    int64_t numbers[RANKS_MOST];
} keeping;

static int keep(pf_engine *e, int rank, void *context) {
    keeping *k = context;
    pf_module *m = layer_of(e, k->type, k->options);
    pf_config *options = options_of(k->optimizer);
    pf_optimizer *o = NULL;
    size_t before = pf_heap_live(e->heap);
    int status = pf_optimizer_new(&o, e, m, options);
    k->bytes[rank] = pf_heap_live(e->heap) - before;
    for (int i = 0; status >= 0 && i < o->n; i++)
        for (int j = 0; j < o->entry[i].n_kept; j++)
            k->numbers[rank] += pf_tensor_numel(o->entry[i].kept[j].tensor);
    pf_config_free(options);
    pf_optimizer_close(&o);
    pf_module_release(&m);
    return status;
}

/* All of it is somewhere once, and nobody has over its part and 2 %. Nor has its heap, whose blocks
 * are up to an eighth larger, but for a muon's room for whole matrices. */
static void check_parts(keeping one, int ranks, bool room) {
    keeping part = one;
    ranks_world w = {.ranks = 1, .whole = true};
    int64_t sum = 0;
    ranks_run(&w, keep, &one);
    w.ranks = ranks;
    ranks_run(&w, keep, &part);
    for (int r = 0; r < ranks; r++) {
        double least = 1.0 / ranks + 0.02;
        sum += part.numbers[r];
        CHECK((double)part.numbers[r] <= least * (double)one.numbers[0]);
        CHECK(room || (double)part.bytes[r] <= 1.125 * least * (double)one.bytes[0]);
    }
    CHECK(sum == one.numbers[0] && sum > 0);
}

static void test_parts(void) {
    const keeping linear = {.type = "linear",
                            .options = "{'from': 1024, 'to': 2048}",
                            .optimizer = "{'type': 'adamw', 'ema': 0.9}"};
    const keeping model = {.type = "performer",
                           .options = "{'vocab': 11, 'dim': 256, 'layers': 6, 'heads': 2, "
                                      "'length': 32, 'kernel': {'name': 'relu'}}",
                           .optimizer = "{'type': 'muon'}"};
    for (int ranks = 2; ranks <= 5; ranks++) check_parts(linear, ranks, false);
    check_parts(model, 2, true);
    check_parts(model, 3, true);
}

/* ---- saved on three ranks ---- */

static void check_same_file(const char *a, const char *b) {
    FILE *left = fopen(a, "rb"), *right = fopen(b, "rb");
    int x = 0, y = 0;
    CHECK(left && right);
    while (left && right && x == y && x != EOF) x = getc(left), y = getc(right);
    CHECK(x == y && x == EOF);
    if (left) fclose(left);
    if (right) fclose(right);
}

static void test_saved(void) {
    static const char *const optimizers[] = {"{'type': 'muon', 'ema': 0.9}", GROUPS};
    static const int counts[] = {1, 2, 4};
    char folder[256];
    scratch_open(folder, sizeof folder);
    for (int i = 0; i < PF_COUNT(optimizers); i++) {
        char three[300], one[300], file[400], other[400];
        snprintf(three, sizeof three, "%s/three-%d", folder, i);
        snprintf(one, sizeof one, "%s/one-%d", folder, i);
        training begin = {.optimizer = optimizers[i], .to = three, .steps = 2};
        bits_of(begin, 3, 1);
        begin.to = one;
        bits_of(begin, 1, 2);
        snprintf(file, sizeof file, "%s/step-1/optimizer.safetensors", three);
        snprintf(other, sizeof other, "%s/step-1/optimizer.safetensors", one);
        check_same_file(file, other);
        training more = {.from = one};
        uint64_t bits = bits_of(more, 1, 1);
        more.from = three;
        for (int k = 0; k < PF_COUNT(counts); k++) CHECK(bits_of(more, counts[k], 1) == bits);
    }
    scratch_remove(folder);
}

/* ---- a rank that fails ---- */

typedef struct {
    const char *optimizer;
    int turns, threads, failed[RANKS_MOST], moved[RANKS_MOST], wrong[RANKS_MOST];
    uint64_t bits[RANKS_MOST];
    void (*arm)(pf_engine *e, pf_optimizer *o, int turn); /* before a step, on each rank */
    void (*disarm)(pf_engine *e);
    const pf_workers *workers; /* of rank 1 */
    const void *cancel;
} failing;

/* The ranks have one status; where it is bad no number differs from before, and the same step goes
 * well afterwards. */
static int fail_once(pf_engine *e, pf_module *m, pf_optimizer *o, failing *f, int turn) {
    const training t = {0};
    const int rank = pf_comm_rank(e), step = (int)pf_optimizer_steps(o) + 1;
    uint64_t before = HASH_START, after = HASH_START;
    int all[RANKS_MOST];
    PF_TRY(fold_all(e, m, o, &t, step));
    PF_TRY(hash_weights(&before, m));
    PF_TRY(hash_kept(&before, e, o));
    f->arm(e, o, turn);
    int status = pf_optimizer_step(o, e, 1e-2, 0.5, NULL);
    f->disarm(e);
    PF_TRY(pf_comm_collect(e, PF_OK, &status, sizeof status, all));
    for (int r = 0; r < pf_comm_ranks(e); r++) f->wrong[rank] += all[r] != status;
    f->failed[rank] += status < 0, f->moved[rank] += status >= 0;
    if (status >= 0) return PF_OK;
    PF_TRY(hash_weights(&after, m));
    PF_TRY(hash_kept(&after, e, o));
    f->wrong[rank] += after != before || (int)pf_optimizer_steps(o) != step - 1;
    PF_TRY(fold_all(e, m, o, &t, step));
    return pf_optimizer_step(o, e, 1e-2, 0.5, NULL);
}

static int fail_often(pf_engine *e, int rank, void *context) {
    failing *f = context;
    pf_module *m = layer_of(e, "performer", MODEL);
    pf_config *options = options_of(f->optimizer);
    pf_optimizer *o = NULL;
    int status = pf_optimizer_new(&o, e, m, options);
    if (status >= 0) status = pf_optimizer_set_lanes(o, e, LANES);
    for (int turn = 0; turn < f->turns && status >= 0; turn++) status = fail_once(e, m, o, f, turn);
    f->bits[rank] = HASH_START;
    if (status >= 0) status = hash_all(e, m, o, &f->bits[rank]);
    pf_config_free(options);
    pf_optimizer_close(&o);
    pf_module_release(&m);
    return status;
}

static void arm_nothing(pf_engine *e, pf_optimizer *o, int turn) { (void)e, (void)o, (void)turn; }
static void disarm_nothing(pf_engine *e) { (void)e; }

/* In the end all is what it is of an undisturbed run. */
static void check_failing(failing f, int ranks) {
    failing none = f;
    none.arm = arm_nothing, none.disarm = disarm_nothing;
    ranks_world w = {.ranks = ranks, .threads = f.threads, .whole = true};
    ranks_run(&w, fail_often, &none);
    w.workers[1] = f.workers, w.cancel[1] = f.cancel;
    ranks_run(&w, fail_often, &f);
    for (int r = 0; r < ranks; r++) {
        if (w.status[r] < 0) fprintf(stderr, "  rank %d: %s\n", r, w.text[r]);
        CHECK(w.status[r] == PF_OK && f.wrong[r] == 0);
        CHECK(f.bits[r] == none.bits[0] && none.failed[r] == 0 && f.failed[r] > 0);
        CHECK(f.turns < 10 || f.moved[r] > 0);
    }
}

/* Rank 1 has a little more memory each time. */
static void arm_memory(pf_engine *e, pf_optimizer *o, int turn) {
    (void)o;
    size_t more = turn == 0 ? 0 : (size_t)32 << turn;
    if (pf_comm_rank(e) == 1) pf_heap_set_budget(e->heap, pf_heap_live(e->heap) + more);
}
static void disarm_memory(pf_engine *e) { pf_heap_set_budget(e->heap, 0); }

/* A host whose threads fail from some call on, and who has done the work all the same. */
static atomic_int calls_left;
static int run_work(void *context, int n, void (*work)(void *argument), void *argument) {
    (void)context, (void)n;
    work(argument);
    return atomic_fetch_sub(&calls_left, 1) > 0 ? 0 : PF_EHOST;
}
static void arm_threads(pf_engine *e, pf_optimizer *o, int turn) {
    (void)o;
    if (pf_comm_rank(e) == 1) atomic_store(&calls_left, 3 * turn);
}
static void disarm_threads(pf_engine *e) {
    if (pf_comm_rank(e) == 1) atomic_store(&calls_left, 1 << 30);
}

/* A number of one rank's, which another one's block has. */
static void arm_number(pf_engine *e, pf_optimizer *o, int turn) {
    pf_tensor *part = o->lanes->node[0].part[turn * 5 % o->n].dense;
    if (part && turn % pf_comm_ranks(e) == pf_comm_rank(e))
        pf_f32(part)[pf_tensor_numel(part) / 2] = turn % 2 ? NAN : INFINITY;
}

static atomic_int stop;
static void arm_cancel(pf_engine *e, pf_optimizer *o, int turn) {
    (void)o, (void)turn;
    if (pf_comm_rank(e) == 1) atomic_store(&stop, 1);
}
static void disarm_cancel(pf_engine *e) {
    if (pf_comm_rank(e) == 1) atomic_store(&stop, 0);
}

static void test_failing(void) {
    static const char MUON[] = "{'type': 'muon', 'ema': 0.9}";
    const pf_workers workers = {.size = sizeof workers, .run = run_work};
    atomic_store(&calls_left, 1 << 30);
    check_failing(
        (failing){.optimizer = MUON, .turns = 18, .arm = arm_memory, .disarm = disarm_memory}, 2);
    check_failing((failing){.optimizer = MUON,
                            .turns = 14,
                            .threads = 2,
                            .arm = arm_threads,
                            .disarm = disarm_threads,
                            .workers = &workers},
                  3);
    check_failing((failing){.optimizer = "{'type': 'lion'}",
                            .turns = 9,
                            .arm = arm_number,
                            .disarm = disarm_nothing},
                  3);
    check_failing((failing){.optimizer = MUON,
                            .turns = 1,
                            .arm = arm_cancel,
                            .disarm = disarm_cancel,
                            .cancel = &stop},
                  2);
}

/* One that dies, at any of its messages, ends all the others. */
static void test_deaths(void) {
    bool passed = false;
    for (int at = 1; !passed; at *= 2) {
        training t = {.optimizer = "{'type': 'adamw', 'ema': 0.9}", .steps = 1};
        ranks_world w = {.ranks = 3, .whole = true, .dies = 1, .dies_at = at, .timeout = 1};
        ranks_run(&w, train, &t);
        passed = w.status[0] >= 0;
        for (int r = 0; r < 3; r++) CHECK(w.status[r] == (passed ? PF_OK : PF_EIO));
        CHECK(at < 1 << 20);
    }
}

/* ---- other ranks than it was made for ---- */

static int misuse(pf_engine *e, int rank, void *context) {
    pf_module *m = layer_of(e, "linear", "{'from': 200, 'to': 300}");
    pf_config *options = options_of("{'type': 'adamw', 'ema': 0.9}");
    pf_optimizer *alone = NULL, *o = NULL;
    pf_named *list = NULL;
    int *wrong = context, n = 0;
    pf_comm *comm = e->comm;
    e->comm = NULL;
    PF_TRY(pf_optimizer_new(&alone, e, m, options));
    e->comm = comm;
    PF_TRY(pf_optimizer_new(&o, e, m, options));
    wrong[rank] += pf_optimizer_step(alone, e, 1e-2, 0, NULL) != PF_ESTATE;
    wrong[rank] += !strstr(pf_last_error(), "it was made for 1 ranks, and the engine has 2");
    wrong[rank] += pf_optimizer_gather(alone, e) != PF_ESTATE;
    wrong[rank] += pf_optimizer_tensors(o, &list, &n) != PF_ESTATE; /* a part of it */
    PF_TRY(pf_optimizer_gather(o, e));
    int status = pf_optimizer_tensors(o, &list, &n);
    wrong[rank] += status != (rank == 0 ? PF_OK : PF_ESTATE) || n != (rank == 0 ? 6 : 0);
    if (list) pf_heap_free(e->heap, list, (size_t)n * sizeof *list);
    list = NULL, n = 0;
    PF_TRY(pf_optimizer_step(o, e, 1e-2, 0, NULL)); /* what was gathered is of the past */
    wrong[rank] += pf_optimizer_tensors(o, &list, &n) != PF_ESTATE;
    wrong[rank] += pf_optimizer_step(o, e, rank == 1 ? NAN : 1e-2, 0, NULL) != PF_EINVAL;
    wrong[rank] += !strstr(pf_last_error(), "rank 1 of 2 on here: optimizer: lr is nan");
    PF_TRY(pf_optimizer_use_average(o, true)); /* closing puts the weights back */
    wrong[rank] += pf_optimizer_step(o, e, 1e-2, 0, NULL) != PF_ESTATE;
    wrong[rank] += pf_optimizer_gather(o, e) != PF_ESTATE;
    pf_config_free(options);
    pf_optimizer_close(&alone);
    pf_optimizer_close(&o);
    pf_module_release(&m);
    return PF_OK;
}

static void test_misuse(void) {
    ranks_world w = {.ranks = 2, .whole = true};
    int wrong[RANKS_MOST] = {0};
    ranks_run(&w, misuse, wrong);
    for (int r = 0; r < 2; r++) {
        CHECK(w.status[r] == PF_OK && wrong[r] == 0);
        if (w.status[r] < 0) fprintf(stderr, "  rank %d: %s\n", r, w.text[r]);
    }
}

int main(void) {
    test_any_ranks();
    test_parts();
    test_saved();
    test_saved_nowhere();
    test_failing();
    test_deaths();
    test_misuse();
    return CHECK_REPORT();
}
