/*
 * overlap_fails_test.c - a step that fails while what backward completes travels is none, on all
 * ranks, and the next one is as if it had never begun.
 */
#include "overlap_support.h"

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

/* ---- two optimizers ---- */

/* In turns, each of its own model, as if each were alone; what the one has sent the other waits
 * for. */
static int take_turns(pf_engine *e, int rank, void *context) {
    training t = {.model = PLAIN, .lanes = 2, .overlaps = ALL, .group = 300};
    int *wrong = context;
    pf_module *m[4];
    pf_optimizer *o[4];
    uint64_t bits[4];
    for (int k = 0; k < 4; k++) {
        pf_seed(e, 5); /* all begin with the same weights */
        PF_TRY(begin_two(e, &m[k], &o[k]));
        o[k]->lanes->group = k % 2 ? 0 : 300;
    }
    for (int k = 0; k < 2; k++)
        for (int step = 1; step <= 3; step++) PF_TRY(step_of(e, m[k], o[k], &t, step + k));
    for (int step = 1; step <= 3; step++) {
        PF_TRY(run_lane(e, m[2], o[2], &t, step, rank, true));
        *wrong += pf_optimizer_overlap(o[3], e) != PF_ESTATE ||
                  !strstr(pf_last_error(), "another one is under way");
        PF_TRY(pf_optimizer_fold(o[2], e));
        PF_TRY(pf_optimizer_step(o[2], e, 1e-2, 0.5, NULL));
        PF_TRY(step_of(e, m[3], o[3], &t, step + 1));
    }
    for (int k = 0; k < 4; k++) {
        bits[k] = HASH_START;
        PF_TRY(hash_weights(&bits[k], m[k]));
        pf_optimizer_close(&o[k]);
        pf_module_release(&m[k]);
    }
    *wrong += bits[0] != bits[2] || bits[1] != bits[3] || bits[0] == bits[1];
    return PF_OK;
}

/* A step that one rank gives up in place of taking it is none on all, whatever has left; and with
 * its words. */
static int step_refused(pf_engine *e, int rank, void *context) {
    training t = {.model = PLAIN, .lanes = 2, .overlaps = ALL, .group = 300};
    pf_module *m = NULL;
    pf_optimizer *o = NULL;
    int *wrong = context;
    PF_TRY(begin_two(e, &m, &o));
    PF_TRY(run_lane(e, m, o, &t, 1, rank, true));
    PF_TRY(pf_optimizer_fold(o, e));
    int status = rank == 1 ? pf_optimizer_give_up(o, e, pf_set_error(PF_EHOST, "no more"))
                           : pf_optimizer_step(o, e, 1e-2, 1, NULL);
    *wrong += status != PF_EHOST || strcmp(pf_last_error(), "rank 1 of 2 on here: no more") != 0;
    PF_TRY(run_lane(e, m, o, &t, 2, rank, true)); /* lanes begin anew */
    PF_TRY(pf_optimizer_fold(o, e));
    *wrong += pf_optimizer_give_up(o, e, PF_OK) != PF_EINVAL;
    PF_TRY(run_lane(e, m, o, &t, 2, rank, true));
    PF_TRY(pf_optimizer_fold(o, e));
    *wrong += pf_optimizer_steps(o) != 0;
    return end_two(e, &m, &o);
}

int main(void) {
    test_failure();
    test_failing_again();
    run_two(add_later);
    run_two(give_up);
    run_two(give_up_alone);
    run_two(close_in_group);
    run_two(vote_between);
    run_two(call_within);
    run_two(walk_later);
    run_two(take_turns);
    run_two(step_refused);
    return CHECK_REPORT();
}
