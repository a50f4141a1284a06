/*
 * overlap_test.c - what the last lane's backward completes may travel while it goes on: the same
 * bits as at the step, on any number of ranks, whichever of them do it; groups leave before the
 * backward has ended, but those of parameters that later nodes still give to; and a step that fails
 * halfway is none, on all ranks, and the next one is as if it had never begun.
 */
#include "lanes_support.h"
#include "overlap.h"

enum { LANES = 8, ROWS = 2, LENGTH = 20, ALL = -1 };

typedef struct {
    const char *model, *optimizer; /* options */
    int steps, lanes;              /* 0: LANES */
    int overlaps;                  /* a bit for each rank that overlaps */
    int64_t group;
    int fails;   /* 1 + the rank whose last lane fails at even steps, in the midst of backward */
    int apart;   /* that vote's number is a multiple of this one; 0: any */
    bool partly; /* odd lanes reach one parameter alone */
    uint64_t bits[RANKS_MOST]; /* of weights, moments and norms */
    int left[RANKS_MOST];      /* groups that had left when the backward ended, over all steps */
    int groups;
} training;

static int lanes_of(const training *t) { return t->lanes ? t->lanes : LANES; }

/* ---- a lane ---- */

/* Fails in the backward, when it comes to `x` again. */
static int broken(void *context, pf_engine *e, pf_tensor *const *in, int n, pf_tensor **y) {
    (void)n;
    int *calls = context;
    if (++*calls == 2) return pf_fail(PF_EHOST, "the second run fails");
    pf_tensor *two[] = {in[0], in[0]};
    return pf_op_apply(e, pf_op_find(e, "mul"), two, 2, NULL, y);
}

/* The loss, and beside it a part that only backward finds out to be none: of the first parameter,
 * whose gradient is the last to be whole. */
static int spoil(pf_engine *e, pf_module *m, pf_tensor **loss, int *calls) {
    pf_tensor *w, *y = NULL, *mean = NULL, *both = NULL;
    const pf_recomputed f = {.size = sizeof f, .run = broken, .context = calls};
    PF_TRY(pf_module_tensor_at(m, 0, NULL, &w, NULL));
    PF_TRY(pf_recompute(&y, e, &f, &w, 1));
    PF_TRY(pf_op_apply(e, pf_op_find(e, "mean"), &y, 1, NULL, &mean));
    pf_tensor *in[] = {*loss, mean};
    PF_TRY(pf_op_apply(e, pf_op_find(e, "add"), in, 2, NULL, &both));
    pf_tensor_release(loss), pf_tensor_release(&y), pf_tensor_release(&mean);
    *loss = both;
    return PF_OK;
}

static int loss_of(pf_engine *e, pf_module *m, const training *t, int step, int lane,
                   pf_tensor **loss) {
    const uint32_t salt = (uint32_t)(100 * step + 2 * lane);
    pf_tensor *x = some_ids(e, ROWS, LENGTH, salt), *target = some_ids(e, ROWS, LENGTH, salt + 1);
    pf_tensor *y = NULL, *w = NULL;
    pf_pass pass = {
        .size = sizeof pass, .training = true, .step = (uint64_t)step, .micro = (uint64_t)lane};
    int status = PF_OK;
    if (t->partly && lane % 2 == 1) {
        status = pf_module_tensor_at(m, 0, NULL, &w, NULL);
        if (status >= 0) status = pf_op_apply(e, pf_op_find(e, "mean"), &w, 1, NULL, loss);
    } else {
        status = pf_module_forward(&y, e, m, x, &pass);
        if (status >= 0) status = pf_cross_entropy(loss, e, y, target);
    }
    pf_tensor_release(&x), pf_tensor_release(&target), pf_tensor_release(&y);
    return status;
}

static int run_lane(pf_engine *e, pf_module *m, pf_optimizer *o, training *t, int step, int lane,
                    bool last) {
    const int rank = pf_comm_rank(e);
    int calls = 0;
    pf_tape *tape = NULL;
    pf_tensor *loss = NULL, *seed = NULL;
    PF_TRY(pf_tape_open(&tape, e));
    if (!last) /* it is for the last one alone */
        CHECK(pf_optimizer_overlap(o, e) == PF_ESTATE);
    int status = loss_of(e, m, t, step, lane, &loss);
    if (status >= 0 && last && step % 2 == 0 && t->fails == rank + 1)
        status = spoil(e, m, &loss, &calls);
    if (status >= 0) status = pf_tensor_full(&seed, e, PF_F32, 0, NULL, 1.0 / lanes_of(t));
    if (status >= 0 && last && t->overlaps >> rank & 1) status = pf_optimizer_overlap(o, e);
    if (status >= 0) status = pf_tape_backward(tape, loss, seed);
    if (status >= 0 && o->lanes && o->lanes->overlap && o->lanes->overlap->begun) {
        t->left[rank] += o->lanes->overlap->given;
        t->groups = o->lanes->overlap->n_groups;
    }
    pf_tensor_release(&loss), pf_tensor_release(&seed);
    pf_tape_close(&tape);
    return status;
}

static int run_step(pf_engine *e, pf_module *m, pf_optimizer *o, training *t, int step) {
    const int rank = pf_comm_rank(e);
    int first, last, status = PF_OK;
    double norm = 0;
    pf_lanes_of(lanes_of(t), pf_comm_ranks(e), rank, &first, &last);
    for (int lane = first; lane < last && status >= 0; lane++) {
        status = run_lane(e, m, o, t, step, lane, lane == last - 1);
        if (status >= 0) status = pf_optimizer_fold(o, e);
    }
    while (e->comm && t->apart && (e->comm->number + 1) % (uint32_t)t->apart)
        PF_TRY(pf_comm_agree(e, PF_OK));
    status = pf_comm_settle(e, status);
    if (status == PF_EHOST) {
        CHECK(t->fails && step % 2 == 0 && strstr(pf_last_error(), "the second run fails"));
        pf_lanes_drop(o, status); /* what is folded elsewhere is of no step */
        for (int i = 0; i < o->n; i++) pf_tensor_clear_grad(o->entry[i].param);
        return PF_OK;
    }
    PF_TRY(status);
    PF_TRY(pf_optimizer_step(o, e, 1e-2, 0.5, &norm));
    t->bits[rank] = hash_bytes(t->bits[rank], &norm, sizeof norm);
    return PF_OK;
}

static int train(pf_engine *e, int rank, void *context) {
    training *t = context;
    pf_module *m = small_model(e, t->model);
    pf_config *options = options_of(t->optimizer ? t->optimizer : "{'type': 'adamw'}");
    pf_optimizer *o = NULL;
    int status = m ? pf_optimizer_new(&o, e, m, options) : PF_EINVAL;
    if (status >= 0) status = pf_optimizer_set_lanes(o, e, lanes_of(t));
    if (status >= 0) o->lanes->group = t->group;
    t->bits[rank] = HASH_START;
    for (int step = 1; step <= t->steps && status >= 0; step++) status = run_step(e, m, o, t, step);
    if (status >= 0) status = hash_weights(&t->bits[rank], m);
    if (status >= 0) status = hash_kept(&t->bits[rank], e, o);
    pf_config_free(options);
    pf_optimizer_close(&o);
    pf_module_release(&m);
    return status;
}

/* ---- the same bits ---- */

#define PLAIN "'causal': true, 'kernel': {'name': 'relu'}"

static const training trainings[] = {
    {.model = PLAIN ", 'dropout': 0.2"},
    {.model = PLAIN ", 'recompute': true, 'dropout': 0.2"},
    {.model = PLAIN ", 'reversible': true"},
    {.model = PLAIN ", 'ngrams': {'longest': 3, 'buckets': 64}"},
    {.model = PLAIN ", 'act': 'swiglu', 'kv_heads': 1", .partly = true},
    {.model = "'causal': true, 'attention': 'exact', 'positions': 'learned'",
     .optimizer = "{'type': 'muon', 'ema': 0.01}"},
    {.model = PLAIN, .lanes = 11},
};

static void test_bits(void) {
    static const int counts[] = {2, 3, 4, 5, 8};
    for (int i = 0; i < PF_COUNT(trainings); i++) {
        training t = trainings[i];
        t.steps = 3, t.group = 300;
        const uint64_t one = bits_on(1, 1, train, &t, t.bits);
        for (int k = 0; k < 3 * PF_COUNT(counts); k++) {
            const int ranks = counts[k / 3], bits[] = {0, ALL, 0xaa};
            t.overlaps = bits[k % 3];
            const bool same = bits_on(ranks, 1 + k % 2, train, &t, t.bits) == one;
            if (!same) fprintf(stderr, "  %s: %d ranks, %x\n", t.model, ranks, t.overlaps);
            CHECK(same);
        }
    }
}

/* ---- before the end ---- */

/* Of so many groups these had left when two ranks' backward ended, in one step. */
static void check_left(const char *model, int64_t group, int least, int most) {
    training t = {.model = model, .steps = 1, .overlaps = 1, .group = group};
    bits_on(2, 1, train, &t, t.bits);
    const bool well = t.left[0] >= least && t.left[0] <= most && t.left[1] == 0;
    if (!well) fprintf(stderr, "  %s: %d of %d groups\n", model, t.left[0], t.groups);
    CHECK(well);
    CHECK(t.groups >= most);
}

static void test_leaving(void) {
    check_left(PLAIN, 1, 14, 14); /* each parameter is a group, and all have left */
    check_left(PLAIN ", 'recompute': true", 1, 14, 14);
    check_left(PLAIN ", 'reversible': true", 1, 14, 14);
    check_left(PLAIN, 1 << 20, 1, 1); /* all are one */
    check_left(PLAIN ", 'ngrams': {'longest': 2, 'buckets': 64}", 1, 10, 15);
}

/* Parameters that are given to at many places leave behind the last of them. */
typedef struct {
    pf_module *m;
    pf_tensor *leaf[64];
    int n;
} seen;

static int note_leaf(void *context, pf_tensor *leaf) {
    seen *s = context;
    for (int i = 0; i < s->n; i++)
        if (s->leaf[i] == leaf) return PF_OK;
    s->leaf[s->n++] = leaf;
    pf_tensor_clear_grad(leaf); /* whatever comes behind this is seen at the end */
    return PF_OK;
}
static int note_nothing(void *context) { return (void)context, PF_OK; }
static void note_end(void *context, int status) {
    seen *s = context;
    s->n += status < 0 ? 1000 : 0;
}

static void test_whole(void) {
    static const char *const models[] = {PLAIN, PLAIN ", 'recompute': true",
                                         PLAIN ", 'reversible': true", PLAIN ", 'tied': true"};
    for (int i = 0; i < PF_COUNT(models); i++) {
        pf_engine *e = engine_of(1, 3);
        seen s = {.m = small_model(e, models[i])};
        training t = {.model = models[i]};
        const pf_leaf_watch watch = {note_leaf, note_nothing, note_end, &s};
        pf_tape *tape = NULL;
        pf_tensor *loss = NULL;
        CHECK_OK(pf_tape_open(&tape, e));
        CHECK_OK(loss_of(e, s.m, &t, 1, 0, &loss));
        pf_leaves_watch(e, &watch);
        CHECK_OK(pf_tape_backward(tape, loss, NULL));
        int trained = 0;
        for (int k = 0; k < pf_module_tensor_count(s.m); k++) {
            pf_tensor *w;
            bool is;
            CHECK_OK(pf_module_tensor_at(s.m, k, NULL, &w, &is));
            trained += is;
            CHECK(!w->grad || w->grad_stale); /* nothing came behind it */
        }
        CHECK(s.n == trained && s.n >= 14);
        pf_tensor_release(&loss);
        pf_tape_close(&tape);
        pf_module_release(&s.m);
        pf_engine_close(&e);
    }
}

/* ---- failure ---- */

/* A step that fails on one rank, before or behind what others have sent, is none. */
static void test_failure(void) {
    static const int overlaps[] = {ALL, 1, 2, 0};
    for (int ranks = 2; ranks <= 3; ranks++) {
        training t = {.model = PLAIN, .steps = 4, .group = 300, .fails = 1};
        const uint64_t none = bits_on(ranks, 1, train, &t, t.bits);
        for (int k = 0; k < PF_COUNT(overlaps); k++)
            for (t.fails = 1; t.fails <= ranks; t.fails++) {
                t.overlaps = overlaps[k];
                CHECK(bits_on(ranks, 1, train, &t, t.bits) == none);
            }
    }
}

/* However many votes lie between two that fail: a rank that goes on while another still takes in
 * what the step before has left sends nothing that is taken for that. */
static void test_failing_again(void) {
    for (int ranks = 2; ranks <= 3; ranks++) {
        training t = {.model = PLAIN, .steps = 12, .group = 300, .fails = 1};
        const uint64_t none = bits_on(ranks, 1, train, &t, t.bits);
        t.overlaps = ALL, t.apart = PF_SIDE_TALKS;
        for (t.fails = 1; t.fails <= ranks; t.fails++) {
            ranks_world late = {
                .ranks = ranks, .threads = 1, .whole = true, .late = 0.002, .timeout = 5};
            ranks_run(&late, train, &t);
            for (int r = 0; r < ranks; r++) {
                CHECK(late.status[r] == PF_OK && t.bits[r] == none);
                if (late.status[r] < 0) fprintf(stderr, "  rank %d: %s\n", r, late.text[r]);
            }
        }
    }
}

/* A model whose steps have a lane for each of two ranks; and its last step. */
static int begin_two(pf_engine *e, pf_module **m, pf_optimizer **o) {
    *m = small_model(e, PLAIN);
    PF_TRY(pf_optimizer_new(o, e, *m, NULL));
    return pf_optimizer_set_lanes(*o, e, 2);
}
static int end_two(pf_engine *e, pf_module **m, pf_optimizer **o) {
    int status = pf_optimizer_step(*o, e, 1e-2, 1, NULL);
    pf_optimizer_close(o);
    pf_module_release(m);
    return status;
}

/* Another backward behind the one that was to be the last; then steps go on. */
static int add_later(pf_engine *e, int rank, void *context) {
    training t = {.model = PLAIN, .lanes = 2, .overlaps = ALL, .group = 300};
    pf_module *m = NULL;
    pf_optimizer *o = NULL;
    int *wrong = context, status = PF_OK;
    PF_TRY(begin_two(e, &m, &o));
    PF_TRY(run_lane(e, m, o, &t, 1, rank, true));
    if (rank == 1) {
        t.overlaps = 0;
        PF_TRY(run_lane(e, m, o, &t, 1, rank, true));
        status = pf_optimizer_fold(o, e);
        *wrong += status != PF_ESTATE || !strstr(pf_last_error(), "got more gradient behind");
        for (int i = 0; i < o->n; i++) pf_tensor_clear_grad(o->entry[i].param);
    } else {
        PF_TRY(pf_optimizer_fold(o, e));
    }
    status = pf_comm_settle(e, status);
    *wrong += status != PF_ESTATE;
    pf_lanes_drop(o, status);
    t.overlaps = ALL;
    PF_TRY(run_lane(e, m, o, &t, 1, rank, true));
    PF_TRY(pf_optimizer_fold(o, e));
    return end_two(e, &m, &o);
}

/* A step that one rank gives up without a word is found out, and no other's numbers are taken for
 * those of the next. */
static int give_up(pf_engine *e, int rank, void *context) {
    training t = {.model = PLAIN, .lanes = 2, .overlaps = 1, .group = 300};
    pf_module *m = NULL;
    pf_optimizer *o = NULL;
    int *wrong = context;
    PF_TRY(begin_two(e, &m, &o));
    PF_TRY(run_lane(e, m, o, &t, 1, rank, true));
    PF_TRY(pf_optimizer_set_lanes(o, e, 2)); /* on both ranks; of one the half has left */
    if (rank == 1) {
        for (int i = 0; i < o->n; i++) pf_tensor_clear_grad(o->entry[i].param);
    }
    t.overlaps = 0;
    PF_TRY(run_lane(e, m, o, &t, 2, rank, true));
    PF_TRY(pf_optimizer_fold(o, e));
    int status = pf_optimizer_step(o, e, 1e-2, 1, NULL);
    *wrong += status != PF_ESTATE || !strstr(pf_last_error(), "was given up on");
    PF_TRY(run_lane(e, m, o, &t, 2, rank, true)); /* all have heard of it */
    PF_TRY(pf_optimizer_fold(o, e));
    return end_two(e, &m, &o);
}

/* One rank gives up what it has sent and awaits, while the other goes on. */
static int give_up_alone(pf_engine *e, int rank, void *context) {
    training t = {.model = PLAIN, .lanes = 2, .overlaps = ALL};
    pf_module *m = NULL;
    pf_optimizer *o = NULL;
    int *wrong = context, status = PF_OK;
    PF_TRY(begin_two(e, &m, &o));
    for (int round = 0; round < 3 && status >= 0; round++) {
        PF_TRY(run_lane(e, m, o, &t, 1, rank, true));
        t.overlaps = 1;
        if (rank == 1) PF_TRY(pf_optimizer_set_lanes(o, e, 2));
        if (rank == 1) PF_TRY(run_lane(e, m, o, &t, 1, rank, true));
        t.overlaps = ALL;
        PF_TRY(pf_optimizer_fold(o, e));
        *wrong += pf_optimizer_step(o, e, 1e-2, 1, NULL) != PF_ESTATE ||
                  !strstr(pf_last_error(), "was given up on");
        PF_TRY(run_lane(e, m, o, &t, 2, rank, true));
        PF_TRY(pf_optimizer_fold(o, e));
        status = pf_optimizer_step(o, e, 1e-2, 1, NULL);
    }
    pf_optimizer_close(&o);
    pf_module_release(&m);
    return status;
}

/* An optimizer that is closed while another's rows are shared by a group: what is on its way stays
 * until all ranks know. */
static int close_in_group(pf_engine *e, int rank, void *context) {
    training t = {.model = PLAIN, .lanes = 2, .overlaps = ALL, .group = 300};
    pf_module *m = NULL;
    pf_optimizer *o = NULL;
    int *wrong = context;
    PF_TRY(begin_two(e, &m, &o));
    PF_TRY(run_lane(e, m, o, &t, 1, rank, true));
    pf_comm *all = pf_comm_enter_row(e);
    pf_optimizer_close(&o);
    pf_comm_leave_row(e, all);
    *wrong += !all->beside.left;
    pf_module_release(&m);
    *wrong += pf_comm_agree(e, rank == 1 ? pf_fail(PF_EHOST, "no more") : PF_OK) != PF_EHOST;
    *wrong += all->beside.left != NULL;
    PF_TRY(begin_two(e, &m, &o));
    PF_TRY(run_lane(e, m, o, &t, 2, rank, true));
    PF_TRY(pf_optimizer_fold(o, e));
    return end_two(e, &m, &o);
}

/* What ranks agree on in the midst of a step ends it, whoever has sent how much. */
static int vote_between(pf_engine *e, int rank, void *context) {
    training t = {.model = PLAIN, .lanes = 2, .overlaps = 1, .group = 300};
    pf_module *m = NULL;
    pf_optimizer *o = NULL;
    int *wrong = context;
    PF_TRY(begin_two(e, &m, &o));
    PF_TRY(run_lane(e, m, o, &t, 1, rank, true));
    PF_TRY(pf_optimizer_fold(o, e));
    *wrong += pf_comm_agree(e, rank == 1 ? pf_fail(PF_EHOST, "no more") : PF_OK) != PF_EHOST;
    int status = pf_optimizer_step(o, e, 1e-2, 1, NULL);
    *wrong +=
        status != PF_ESTATE || !strstr(pf_last_error(), "rank 0 of 2 on here: optimizer: ranks");
    PF_TRY(run_lane(e, m, o, &t, 2, rank, true));
    PF_TRY(pf_optimizer_fold(o, e));
    return end_two(e, &m, &o);
}

/* What a layer's backward calls while the sum leaves. */
typedef struct {
    pf_optimizer **o;
    enum { FOLD, DEAL, OVERLAP, STEP, CLOSE, CALLS } what;
    int runs, status;
} caller;

static int call(void *context, pf_engine *e, pf_tensor *const *in, int n, pf_tensor **y) {
    (void)n;
    caller *c = context;
    pf_tensor *two[] = {in[0], in[0]};
    if (++c->runs == 2) {
        if (c->what == FOLD) c->status = pf_optimizer_fold(*c->o, e);
        if (c->what == DEAL) c->status = pf_optimizer_set_lanes(*c->o, e, 2);
        if (c->what == OVERLAP) c->status = pf_optimizer_overlap(*c->o, e);
        if (c->what == STEP) c->status = pf_optimizer_step(*c->o, e, 1e-2, 1, NULL);
        if (c->what == CLOSE) pf_optimizer_close(c->o);
    }
    return pf_op_apply(e, pf_op_find(e, "mul"), two, 2, NULL, y);
}

/* Of the last parameter's square: it is called before any other is whole. */
static int backward_that_calls(pf_engine *e, pf_module *m, caller *c) {
    const pf_recomputed f = {.size = sizeof f, .run = call, .context = c};
    const training t = {.model = PLAIN, .lanes = 2};
    pf_tensor *w, *y = NULL, *mean = NULL, *both = NULL, *loss = NULL;
    pf_tape *tape = NULL;
    PF_TRY(pf_tape_open(&tape, e));
    PF_TRY(loss_of(e, m, &t, 1, pf_comm_rank(e), &loss));
    PF_TRY(pf_module_tensor_at(m, pf_module_tensor_count(m) - 1, NULL, &w, NULL));
    PF_TRY(pf_recompute(&y, e, &f, &w, 1));
    PF_TRY(pf_op_apply(e, pf_op_find(e, "mean"), &y, 1, NULL, &mean));
    PF_TRY(pf_op_apply(e, pf_op_find(e, "add"), (pf_tensor *[]){loss, mean}, 2, NULL, &both));
    PF_TRY(pf_optimizer_overlap(*c->o, e));
    int status = pf_tape_backward(tape, both, NULL);
    pf_tensor_release(&y), pf_tensor_release(&mean), pf_tensor_release(&both);
    pf_tensor_release(&loss);
    pf_tape_close(&tape);
    return status;
}

/* Nothing else may begin or end a step meanwhile; the optimizer may go. */
static int call_within(pf_engine *e, int rank, void *context) {
    int *wrong = context, status = PF_OK;
    for (caller c = {.what = FOLD}; c.what < CALLS; c.what++) {
        pf_module *m = small_model(e, PLAIN);
        pf_optimizer *o = NULL;
        c.o = &o, c.runs = c.status = 0;
        PF_TRY(pf_optimizer_new(&o, e, m, NULL));
        PF_TRY(pf_optimizer_set_lanes(o, e, 2));
        o->lanes->group = 1 << 20; /* nothing is on its way where the optimizer is closed */
        status = backward_that_calls(e, m, &c);
        *wrong += (status < 0) != (c.what == STEP); /* the step is none, on all ranks */
        *wrong += (c.status == PF_ESTATE) != (c.what != CLOSE);
        if (o && c.what != STEP) {
            PF_TRY(pf_optimizer_fold(o, e));
            PF_TRY(pf_optimizer_step(o, e, 1e-2, 1, NULL));
        }
        for (int i = 0; o && i < o->n; i++) *wrong += pf_has_gradient(&o->entry[i]);
        pf_optimizer_close(&o);
        pf_module_release(&m);
    }
    return (void)rank, PF_OK;
}

/* A lane that is folded before a backward is the step's: what a later one gives is of no lane. */
static int walk_later(pf_engine *e, int rank, void *context) {
    const training t = {.model = PLAIN, .lanes = 2};
    pf_module *m = NULL;
    pf_optimizer *o = NULL;
    pf_tensor *loss = NULL;
    pf_tape *tape = NULL;
    int *wrong = context;
    PF_TRY(begin_two(e, &m, &o));
    PF_TRY(pf_tape_open(&tape, e));
    PF_TRY(loss_of(e, m, &t, 1, rank, &loss));
    PF_TRY(pf_optimizer_overlap(o, e));
    PF_TRY(pf_optimizer_fold(o, e));
    PF_TRY(pf_tape_backward(tape, loss, NULL));
    *wrong += pf_optimizer_step(o, e, 1e-2, 1, NULL) != PF_ESTATE ||
              !strstr(pf_last_error(), "a gradient that is of no lane");
    pf_tensor_release(&loss);
    pf_tape_close(&tape), pf_optimizer_close(&o);
    pf_module_release(&m);
    return PF_OK;
}

/* Also where a message has not gone before it is taken in. */
static void run_two(int (*fn)(pf_engine *, int, void *)) {
    for (int meets = 0; meets < 2; meets++) {
        ranks_world w = {.ranks = 2, .whole = true, .meets = meets, .late = 0.01, .timeout = 5};
        int wrong = 0;
        ranks_run(&w, fn, &wrong);
        const bool well = wrong == 0 && w.status[0] == PF_OK && w.status[1] == PF_OK;
        if (!well) fprintf(stderr, "  %d wrong, %s, %s\n", wrong, w.text[0], w.text[1]);
        CHECK(well);
    }
}

/* ---- messages that are late, lost or false; ranks that die ---- */

static void test_transport(void) {
    training t = {.model = PLAIN, .steps = 2, .overlaps = ALL, .group = 300};
    const uint64_t one = bits_on(1, 1, train, &t, t.bits);
    ranks_world late = {.ranks = 3, .threads = 1, .whole = true, .late = 0.002, .direct = true};
    ranks_run(&late, train, &t);
    for (int r = 0; r < 3; r++) CHECK(late.status[r] == PF_OK && t.bits[r] == one);
    t.steps = 4;
    t.fails = 1;
    const uint64_t none = bits_on(2, 1, train, &t, t.bits);
    for (t.fails = 1; t.fails <= 3; t.fails++) { /* what is drained comes late, too */
        ranks_run(&late, train, &t);
        for (int r = 0; r < 3; r++) {
            CHECK(late.status[r] == PF_OK && t.bits[r] == none);
            if (late.status[r] < 0) fprintf(stderr, "  rank %d: %s\n", r, late.text[r]);
        }
    }
    t.fails = 0, t.steps = 2;
    for (int at = 20; at < 160; at += 9) {
        ranks_world dies = {
            .ranks = 3, .threads = 1, .whole = true, .timeout = 0.3, .dies = 1, .dies_at = at};
        ranks_run(&dies, train, &t);
        for (int r = 0; r < 3; r++) CHECK(dies.status[r] < 0 || t.bits[r] == one);
        CHECK(dies.status[0] == PF_EIO && dies.status[2] == PF_EIO);
        if (dies.status[0] != PF_EIO) fprintf(stderr, "  at %d: %s\n", at, dies.text[0]);
    }
}

int main(void) {
    test_bits();
    test_leaving();
    test_whole();
    test_failure();
    test_failing_again();
    run_two(add_later);
    run_two(give_up);
    run_two(give_up_alone);
    run_two(close_in_group);
    run_two(vote_between);
    run_two(call_within);
    run_two(walk_later);
    test_transport();
    return CHECK_REPORT();
}
