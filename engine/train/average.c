/*
 * average.c - averages of the weights, in which the noise of single steps cancels (Polyak and
 * Juditsky 1992): after step t
 *   a = a + (1 - r) (p - a)        r = min(ema, (1 + t) / (10 + t))
 * so that the weights before training have no part in it after a few steps, whatever `ema` is. To
 * be run or saved, averages and weights change places; a step or a checkpoint of the optimizer then
 * waits until they have changed back. Buffers (projections) have no average.
 */
#include <math.h>
#include <string.h>

#include "optimizer.h"

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
    job j = {pf_f32(p->param), pf_f32(average_of(p)), (float)(1 - rate)};
    return pf_parallel_range(e, pf_tensor_numel(p->param), GRAIN, move_range, &j);
}

static void swap(float *a, float *b, int64_t n) {
    float held[PIECE];
    for (int64_t i = 0; i < n; i += PIECE) {
        size_t bytes = (size_t)pf_min(PIECE, n - i) * sizeof *held;
        memcpy(held, a + i, bytes);
        memcpy(a + i, b + i, bytes);
        memcpy(b + i, held, bytes);
    }
}

void pf_average_swap(pf_optimizer *o) {
    for (int i = 0; i < o->n; i++) {
        const pf_entry *p = &o->entry[i];
        swap(pf_f32(p->param), pf_f32(average_of(p)), pf_tensor_numel(p->param));
        pf_tensor_touch(p->param, "an optimizer's averages");
    }
    o->averaged = !o->averaged;
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
    if (optimizer->averaged != average) pf_average_swap(optimizer);
    return PF_OK;
}

bool pf_optimizer_has_average(const pf_optimizer *optimizer) {
    return optimizer && optimizer->ema > 0;
}
