/*
 * fill.c - tensors that come with contents: empty, full, arange, random. What must hold: a
 * random tensor is a function of the engine's seed and the number of the draw, for any number
 * of threads; a value that the dtype cannot hold is refused, not bent.
 */
#include <math.h>
#include <string.h>

#include "tensor.h"

enum { GRAIN = 1 << 14, BLOCK = 256 }; /* elements a task; even, as normals come in pairs */

static int check_new(pf_tensor **t, const pf_engine *engine, const char *op) {
    if (!t || !engine) return pf_fail(PF_EINVAL, "%s: an argument is missing", op);
    *t = NULL;
    return PF_OK;
}

static int check_dtype(pf_dtype dtype, const char *op) {
    if (pf_dtype_find(dtype)) return PF_OK;
    return pf_fail(PF_EDTYPE, "%s: no dtype has the number %d", op, (int)dtype);
}

/* What is about to be filled counts as work. */
static int charge(pf_engine *engine, const pf_tensor *t) {
    return pf_charge(engine, PF_WORK_OP + pf_work_of((double)pf_tensor_numel(t), 0));
}

typedef struct {
    const pf_dtype_row *row;
    char *data;
    double value; /* everywhere, or where it counts the first one's */
    bool counts;
} store_job;

static void store_range(void *context, int64_t first, int64_t last) {
    const store_job *job = context;
    double value[BLOCK];
    for (int64_t at = first; at < last; at += BLOCK) {
        int64_t more = pf_min(BLOCK, last - at);
        for (int64_t i = 0; i < more; i++) value[i] = job->counts ? (double)(at + i) : job->value;
        job->row->store(job->data + (size_t)at * job->row->bytes, 1, value, more);
    }
}

/* Of a tensor that is new, whose value fits; on failure it is released. */
static int store_all(pf_tensor **t, pf_engine *engine, double value, bool counts) {
    store_job job = {pf_dtype_find((*t)->dtype), pf_tensor_data(*t), value, counts};
    int status = charge(engine, *t);
    if (status >= 0)
        status = pf_parallel_range(engine, pf_tensor_numel(*t), GRAIN, store_range, &job);
    if (status < 0) pf_tensor_release(t);
    return status;
}

int pf_tensor_empty(pf_tensor **t, pf_engine *engine, pf_dtype dtype, int rank,
                    const int64_t *shape) {
    PF_OUT(t);
    PF_OPEN(engine);
    PF_NEED_ARRAY(shape, rank);
    PF_TRY(check_new(t, engine, "empty"));
    PF_TRY(check_dtype(dtype, "empty"));
    return pf_tensor_make(t, engine, dtype, rank, shape);
}

int pf_tensor_full(pf_tensor **t, pf_engine *engine, pf_dtype dtype, int rank, const int64_t *shape,
                   double value) {
    PF_OUT(t);
    PF_OPEN(engine);
    PF_NEED_ARRAY(shape, rank);
    PF_TRY(check_new(t, engine, "full"));
    PF_TRY(check_dtype(dtype, "full"));
    if (!pf_dtype_fits(pf_dtype_find(dtype), value, false))
        return pf_fail(PF_EINVAL, "full: an %s tensor cannot hold %g", pf_dtype_name(dtype), value);
    PF_TRY(pf_tensor_make(t, engine, dtype, rank, shape));
    return store_all(t, engine, value, false);
}

int pf_tensor_arange(pf_tensor **t, pf_engine *engine, pf_dtype dtype, int64_t n) {
    PF_OUT(t);
    PF_OPEN(engine);
    PF_TRY(check_new(t, engine, "arange"));
    PF_TRY(check_dtype(dtype, "arange"));
    const pf_dtype_row *row = pf_dtype_find(dtype);
    if (n < 0 || n > row->counts)
        return pf_fail(PF_EINVAL, "arange: %lld, must be 0 to %lld for %s to hold every number",
                       (long long)n, (long long)row->counts, row->name);
    PF_TRY(pf_tensor_make(t, engine, dtype, 1, &n));
    return store_all(t, engine, 0, true);
}

typedef struct {
    pf_rng rng;
    float *out;
    bool normal;
} rand_job;

static void rand_range(void *context, int64_t first, int64_t last) {
    const rand_job *job = context;
    if (job->normal)
        pf_rng_fill_normal(&job->rng, (uint64_t)first, last - first, job->out + first);
    else
        pf_rng_fill_uniform(&job->rng, (uint64_t)first, last - first, job->out + first);
}

int pf_tensor_rand(pf_tensor **t, pf_engine *engine, int rank, const int64_t *shape, bool normal) {
    PF_OUT(t);
    PF_OPEN(engine);
    PF_NEED_ARRAY(shape, rank);
    PF_TRY(check_new(t, engine, "rand"));
    PF_TRY(pf_tensor_make(t, engine, PF_F32, rank, shape));
    pf_rng rng = pf_rng_make(engine->seed, PF_DRAW_USER, engine->draws, 0);
    rand_job job = {rng, pf_f32(*t), normal};
    int status = charge(engine, *t);
    if (status >= 0)
        status = pf_parallel_range(engine, pf_tensor_numel(*t), GRAIN, rand_range, &job);
    if (status < 0)
        pf_tensor_release(t);
    else
        engine->draws++;
    return status;
}
