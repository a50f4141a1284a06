/* overlap_support.h - what tests of sums that travel during backward share: trainings in lanes,
 * whose last lane's backward fails where a test wants it to. */
#ifndef PF_OVERLAP_SUPPORT_H
#define PF_OVERLAP_SUPPORT_H

#include "lanes_support.h"
#include "overlap.h"

#define PLAIN "'causal': true, 'kernel': {'name': 'relu'}"

enum { LANES = 8, ROWS = 2, LENGTH = 20, ALL = -1 };

typedef struct {
    const char *model, *optimizer; /* options */
    int steps, lanes;              /* 0: LANES */
    int overlaps;                  /* a bit for each rank that overlaps */
    int64_t group;
    int fails;   /* 1 + the rank whose last lane fails at even steps, in the midst of backward */
    int nan;     /* 1 + the rank whose last lane's gradient is none at the second step */
    int apart;   /* that vote's number is a multiple of this one; 0: any */
    bool partly; /* odd lanes reach one parameter alone */
    uint64_t bits[RANKS_MOST]; /* of weights, moments and norms */
    int left[RANKS_MOST];      /* groups that had left when the backward ended, over all steps */
    int groups;
} training;

static inline int lanes_of(const training *t) { return t->lanes ? t->lanes : LANES; }

/* ---- a lane ---- */

/* Fails in the backward, when it comes to `x` again. */
static inline int broken(void *context, pf_engine *e, pf_tensor *const *in, int n, pf_tensor **y) {
    (void)n;
    int *calls = context;
    if (++*calls == 2) return pf_fail(PF_EHOST, "the second run fails");
    pf_tensor *two[] = {in[0], in[0]};
    return pf_op_apply(e, pf_op_find(e, "mul"), two, 2, NULL, y);
}

/* The loss, and beside it a part that only backward finds out to be none: of the first parameter,
 * whose gradient is the last to be whole. */
static inline int spoil(pf_engine *e, pf_module *m, pf_tensor **loss, int *calls) {
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

static inline int loss_of(pf_engine *e, pf_module *m, const training *t, int step, int lane,
                          pf_tensor **loss) {
    const uint32_t salt = (uint32_t)(100 * step + 2 * lane);
    pf_tensor *x = NULL, *target = NULL, *y = NULL, *w = NULL;
    pf_pass pass = {
        .size = sizeof pass, .training = true, .step = (uint64_t)step, .micro = (uint64_t)lane};
    int status = try_ids(&x, e, ROWS, LENGTH, salt);
    if (status >= 0) status = try_ids(&target, e, ROWS, LENGTH, salt + 1);
    if (status >= 0 && t->partly && lane % 2 == 1) {
        status = pf_module_tensor_at(m, 0, NULL, &w, NULL);
        if (status >= 0) status = pf_op_apply(e, pf_op_find(e, "mean"), &w, 1, NULL, loss);
    } else if (status >= 0) {
        status = pf_module_forward(&y, e, m, x, &pass);
        if (status >= 0) status = pf_cross_entropy(loss, e, y, target);
    }
    pf_tensor_release(&x), pf_tensor_release(&target), pf_tensor_release(&y);
    return status;
}

static inline int run_lane(pf_engine *e, pf_module *m, pf_optimizer *o, training *t, int step,
                           int lane, bool last) {
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
    if (status >= 0 && last && step == 2 && t->nan == rank + 1) pf_f32(seed)[0] = NAN;
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

/* Its lanes, and its end; a rank that fails on its way there says so. */
static inline int step_of(pf_engine *e, pf_module *m, pf_optimizer *o, training *t, int step) {
    int first, last, status = PF_OK;
    pf_lanes_of(lanes_of(t), pf_comm_ranks(e), pf_comm_rank(e), &first, &last);
    for (int lane = first; lane < last && status >= 0; lane++) {
        status = run_lane(e, m, o, t, step, lane, lane == last - 1);
        if (status >= 0) status = pf_optimizer_fold(o, e);
    }
    return status < 0 ? pf_comm_settle(e, status) : pf_optimizer_step(o, e, 1e-2, 0.5, NULL);
}

static inline int run_step(pf_engine *e, pf_module *m, pf_optimizer *o, training *t, int step) {
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

static inline int train(pf_engine *e, int rank, void *context) {
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

#endif
