/* pick.c - see pick.h. */
#include "pick.h"

#include <string.h>

#include "kern.h"
#include "looks.h"

enum { GRAIN = 16384, COLUMNS = 64 };

typedef uint32_t __attribute__((may_alias)) word;

typedef struct {
    const pf_pick *pick;
    const pf_kern *kern;
    bool whole; /* of i32 */
    const void *from;
    void *to;
    pf_looks *looks; /* of additions */
} pick_job;

int pf_pick_split(pf_pick *pick, const pf_call *c, const pf_tensor *t, int dim) {
    *pick = (pf_pick){.n = t->shape[dim]};
    pick->before = pf_shape_numel(dim, t->shape);
    pick->after = pf_shape_numel(t->rank - dim - 1, t->shape + dim + 1);
    return pf_want_places(c, pick->n);
}

int pf_pick_read(pf_pick *pick, pf_call *c, int i) {
    int64_t count = pf_tensor_numel(c->in[i]), n = pick->n;
    pf_tensor *given;
    PF_TRY(pf_call_compact(c, c->in[i], &given));
    const int32_t *value = pf_i32(given);
    int32_t *place = pf_call_alloc(c, (size_t)count * sizeof *place);
    if (!place) return PF_ENOMEM;
    for (int64_t at = 0; at < count; at++) {
        if (at % PF_LOOK == 0) PF_TRY(pf_check_cancel(c->engine));
        if (value[at] < -n || value[at] >= n)
            return pf_fail(PF_EINVAL,
                           "%s: there is no position %s in a dimension of %lld: element %s of "
                           "%s %s",
                           c->op->name, pf_place_dim(value[at]), (long long)n, pf_place(at),
                           pf_op_arg_name(c->op, i), pf_shape_of(c->in[i]));
        place[at] = (int32_t)(value[at] < 0 ? value[at] + n : value[at]);
    }
    pick->place = place;
    return PF_OK;
}

/* ---- picking ------------------------------------------------------------------ */

/* Rows first .. last-1 of (before, m), `after` elements each. */
static void take_slices(void *context, int64_t first, int64_t last) {
    const pick_job *job = context;
    const pf_pick *p = job->pick;
    const word *from = job->from;
    word *to = job->to;
    for (int64_t row = first; row < last; row++) {
        const word *source = from + (row / p->m * p->n + p->place[row % p->m]) * p->after;
        if (p->after == 1)
            to[row] = *source;
        else
            memcpy(to + row * p->after, source, (size_t)p->after * sizeof *to);
    }
}

static void take_each(void *context, int64_t first, int64_t last) {
    const pick_job *job = context;
    const pf_pick *p = job->pick;
    const word *from = job->from;
    word *to = job->to;
    for (int64_t row = first; row < last; row++) {
        const word *block = from + row / p->m * p->n * p->after;
        for (int64_t a = 0, at = row * p->after; a < p->after; a++, at++)
            to[at] = block[p->place[at] * p->after + a];
    }
}

int pf_pick_take(pf_engine *engine, const pf_pick *pick, const void *from, void *to) {
    pick_job job = {.pick = pick, .from = from, .to = to};
    int64_t rows = pick->after > 0 ? pick->before * pick->m : 0;
    return pf_parallel_range(engine, rows, pf_max(1, GRAIN / pf_max(1, pick->after)),
                             pick->each ? take_each : take_slices, &job);
}

/* ---- adding ------------------------------------------------------------------- */

/* Columns a .. a + n-1 of one place's slice. */
static void add_run(const pick_job *job, int64_t from, int64_t to, int64_t n) {
    if (!job->whole) {
        job->kern->axpy(n, 1.0f, (const float *)job->from + from, (float *)job->to + to);
        return;
    }
    const uint32_t *x = (const uint32_t *)job->from + from;
    uint32_t *y = (uint32_t *)job->to + to;
    for (int64_t i = 0; i < n; i++) y[i] += x[i];
}

/* The same where each has its own. */
static void add_each(const pick_job *job, int64_t from, int64_t block, int64_t a, int64_t n) {
    const pf_pick *p = job->pick;
    for (int64_t i = 0; i < n; i++) {
        int64_t to = block + p->place[from + i] * p->after + a + i;
        if (job->whole)
            ((uint32_t *)job->to)[to] += ((const uint32_t *)job->from)[from + i];
        else
            ((float *)job->to)[to] += ((const float *)job->from)[from + i];
    }
}

/* Strips first .. last-1 of all blocks: at most COLUMNS columns each, all their places in order. */
static void add_strips(void *context, int64_t first, int64_t last) {
    const pick_job *job = context;
    const pf_pick *p = job->pick;
    int64_t strips = pf_ceil_div(p->after, COLUMNS);
    for (int64_t strip = first; strip < last; strip++) {
        int64_t b = strip / strips, a = strip % strips * COLUMNS, n = pf_min(COLUMNS, p->after - a);
        for (int64_t at = 0, end = 0; pf_next_piece(job->looks, p->m, &at, &end);)
            for (int64_t j = at; j < end; j++) {
                int64_t from = (b * p->m + j) * p->after + a, block = b * p->n * p->after;
                if (p->each)
                    add_each(job, from, block, a, n);
                else
                    add_run(job, from, block + p->place[j] * p->after + a, n);
            }
    }
}

int pf_pick_add(pf_engine *engine, const pf_pick *pick, pf_dtype dtype, const void *from,
                void *to) {
    pf_looks looks = {.engine = engine};
    pick_job job = {pick, engine->kern, dtype == PF_I32, from, to, &looks};
    int64_t strips = pick->before * pf_ceil_div(pick->after, COLUMNS);
    int64_t cost = pf_max(1, pick->m * pf_min(pick->after, COLUMNS));
    int64_t grain = pf_max(1, GRAIN / cost);
    return pf_looks_end(&looks, pf_parallel_range(engine, strips, grain, add_strips, &job));
}
