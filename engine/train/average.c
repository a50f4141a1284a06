/*
 * average.c - averages of the weights, in which the noise of single steps cancels (Polyak and
 * Juditsky 1992): after step t
 *   a = a + (1 - r) (p - a)        r = min(ema, (1 + t) / (10 + t))
 * so that the weights before training have no part in it after a few steps, whatever `ema` is. To
 * be run or saved, averages and weights change places; a step or a checkpoint of the optimizer then
 * waits until they have changed back. Buffers (projections) have no average. What is dealt to ranks
 * (shard.h) doesn't change places: all get the averages from their owners, and keep the weights.
 */
#include <math.h>
#include <string.h>

#include "shard.h"

enum { GRAIN = 1 << 14, PIECE = 1 << 10 };

static pf_tensor *average_of(const pf_entry *p) { return p->kept[p->moments].tensor; }

typedef struct job {
    const float *p;
    float *a;
    float share;
} job;

static void move_range(void *context, int64_t first, int64_t last) {
    const job *j = context;
    for (int64_t i = first; i < last; i++) j->a[i] += j->share * (j->p[i] - j->a[i]);
}

int pf_average_move(const pf_optimizer *o, pf_engine *e, const pf_entry *p, uint64_t step) {
    double t = (double)step, rate = fmin(o->ema, (1 + t) / (10 + t));
    job j = {pf_f32(p->param) + p->own_first, pf_f32(average_of(p)), (float)(1 - rate)};
    return pf_parallel_range(e, p->own, GRAIN, move_range, &j);
}

/* ---- in the weights' place ---- */

static void swap(float *a, float *b, int64_t n) {
    float held[PIECE];
    for (int64_t i = 0; i < n; i += PIECE) {
        size_t bytes = (size_t)pf_min(PIECE, n - i) * sizeof *held;
        memcpy(held, a + i, bytes);
        memcpy(a + i, b + i, bytes);
        memcpy(b + i, held, bytes);
    }
}

/* What each rank has all of changes places. */
static void swap_common(pf_optimizer *o) {
    for (int i = 0; i < o->n; i++) {
        const pf_entry *p = &o->entry[i];
        if (!p->dealt) swap(pf_f32(p->param), pf_f32(average_of(p)), p->own);
        pf_tensor_touch(p->param, "an optimizer's averages");
    }
    o->averaged = !o->averaged;
}

/* Dealt weights go aside, all of them, so that they come back without a word from anybody. */
static void move_aside(const pf_optimizer *o, bool back) {
    float *aside = o->shard->aside;
    for (int i = 0; i < o->n; i++) {
        const pf_entry *p = &o->entry[i];
        int64_t n = pf_tensor_numel(p->param);
        if (!p->dealt) continue;
        float *weights = pf_f32(p->param);
        memcpy(back ? weights : aside, back ? aside : weights, (size_t)n * sizeof *aside);
        aside += n;
    }
}

static void free_aside(const pf_optimizer *o) {
    struct pf_shard *s = o->shard;
    if (s->aside) pf_heap_free(o->heap, s->aside, (size_t)s->n_aside * sizeof *s->aside);
    s->aside = NULL;
}

static int take_aside(const pf_optimizer *o) {
    struct pf_shard *s = o->shard;
    s->n_aside = 0;
    for (int i = 0; i < o->n; i++)
        if (o->entry[i].dealt) s->n_aside += pf_tensor_numel(o->entry[i].param);
    s->aside = pf_heap_alloc(o->heap, (size_t)s->n_aside * sizeof *s->aside);
    return s->aside ? PF_OK : PF_ENOMEM;
}

/* Dealt averages to all ranks, in the weights' place; a verb. */
static int enter_dealt(const pf_optimizer *o, pf_engine *e) {
    int status = pf_shard_check(o, e);
    if (status >= 0) status = take_aside(o);
    if (status >= 0) status = pf_shard_ready(o, e);
    status = pf_comm_agree(e, status);
    if (status >= 0) {
        move_aside(o, false);
        for (int i = 0; i < o->n; i++) {
            const pf_entry *p = &o->entry[i];
            if (p->dealt)
                memcpy(pf_f32(p->param) + p->own_first, pf_f32(average_of(p)),
                       (size_t)p->own * sizeof(float));
        }
        status = pf_shard_spread_all(o, e);
        if (status < 0) move_aside(o, true);
    }
    if (status < 0) free_aside(o);
    return status;
}

void pf_average_leave(pf_optimizer *o) {
    if (!o->averaged) return;
    if (o->shard) {
        move_aside(o, true);
        free_aside(o);
    }
    swap_common(o);
}

int pf_average_check(const pf_optimizer *o, const char *what) {
    if (!o->averaged) return PF_OK;
    return pf_fail(PF_ESTATE,
                   "optimizer: the averages stand in the weights' place; no %s until they have "
                   "changed back",
                   what);
}

int pf_optimizer_use_average(pf_optimizer *optimizer, bool average) {
    PF_NEED(optimizer);
    if (optimizer->ema == 0) {
        return pf_fail(PF_ESTATE,
                       "optimizer: there are no averages; make it with the option 'ema'");
    }
    if (optimizer->averaged == average) return PF_OK;
    if (!average) {
        pf_average_leave(optimizer);
        return PF_OK;
    }
    if (optimizer->shard) {
        PF_OPEN(optimizer->shard->engine);
        PF_TRY(enter_dealt(optimizer, optimizer->shard->engine));
    }
    swap_common(optimizer);
    return PF_OK;
}

bool pf_optimizer_has_average(const pf_optimizer *optimizer) {
    return optimizer && optimizer->ema > 0;
}
