/*
 * create.c - more tensors that come with contents: random whole numbers and orders, the unit
 * matrix, equal steps. What must hold: as fill.c says; a random one is a function of the engine's
 * seed and the number of the draw.
 */
#include <math.h>
#include <string.h>

#include "tensor.h"

enum { GRAIN = 1 << 14 }; /* also between two looks at the cancel flag */

/* A new tensor whose contents count as work. */
static int make(pf_tensor **t, pf_engine *engine, pf_dtype dtype, int rank, const int64_t *shape) {
    PF_TRY(pf_tensor_make(t, engine, dtype, rank, shape));
    int status = pf_charge(engine, PF_WORK_OP + pf_work_of((double)pf_tensor_numel(*t), 0));
    if (status < 0) pf_tensor_release(t);
    return status;
}

/* ---- random ------------------------------------------------------------------- */

typedef struct {
    pf_rng rng;
    int64_t low, n;
    int32_t *out;
} draw_job;

static void draw_range(void *context, int64_t first, int64_t last) {
    const draw_job *job = context;
    for (int64_t i = first; i < last; i++)
        job->out[i] =
            (int32_t)(job->low + (int64_t)pf_rng_below(&job->rng, (uint64_t)i, (uint64_t)job->n));
}

int pf_tensor_randint(pf_tensor **t, pf_engine *engine, int rank, const int64_t *shape, int64_t low,
                      int64_t high) {
    PF_OUT(t);
    PF_OPEN(engine);
    PF_NEED_ARRAY(shape, rank);
    if (low > high || low < INT32_MIN || high > INT32_MAX)
        return pf_fail(PF_EINVAL, "randint: from %lld to %lld; both are i32, the first the lower",
                       (long long)low, (long long)high);
    PF_TRY(make(t, engine, PF_I32, rank, shape));
    draw_job job = {pf_rng_make(engine->seed, PF_DRAW_USER, engine->draws, 0), low, high - low + 1,
                    pf_i32(*t)};
    int status = pf_parallel_range(engine, pf_tensor_numel(*t), GRAIN, draw_range, &job);
    if (status < 0)
        pf_tensor_release(t);
    else
        engine->draws++;
    return status;
}

/* Fisher and Yates, from the front: each place changes with one up to it. */
int pf_tensor_randperm(pf_tensor **t, pf_engine *engine, int64_t n) {
    PF_OUT(t);
    PF_OPEN(engine);
    if (n < 0 || n > INT32_MAX)
        return pf_fail(PF_EINVAL, "randperm: %lld, must be 0 to %d", (long long)n, INT32_MAX);
    PF_TRY(make(t, engine, PF_I32, 1, &n));
    pf_rng rng = pf_rng_make(engine->seed, PF_DRAW_USER, engine->draws, 0);
    int32_t *out = pf_i32(*t);
    int status = PF_OK;
    for (int64_t i = 0; i < n && status >= 0; i++) {
        if (i % GRAIN == 0) status = pf_check_cancel(engine);
        int64_t at = (int64_t)pf_rng_below(&rng, (uint64_t)i, (uint64_t)i + 1);
        out[i] = out[at]; /* where at is i, undefined for a moment */
        out[at] = (int32_t)i;
    }
    if (status < 0)
        pf_tensor_release(t);
    else
        engine->draws++;
    return status;
}

/* ---- others ------------------------------------------------------------------- */

int pf_tensor_eye(pf_tensor **t, pf_engine *engine, pf_dtype dtype, int64_t rows, int64_t columns) {
    PF_OUT(t);
    PF_OPEN(engine);
    if (!pf_dtype_find(dtype))
        return pf_fail(PF_EDTYPE, "eye: no dtype has the number %d", (int)dtype);
    const pf_dtype_row *row = pf_dtype_find(dtype);
    const double one = 1;
    PF_TRY(make(t, engine, dtype, 2, (int64_t[]){rows, columns}));
    char *data = pf_tensor_data(*t);
    memset(data, 0, (size_t)pf_tensor_numel(*t) * row->bytes);
    for (int64_t i = 0; i < pf_min(rows, columns); i++)
        row->store(data + (size_t)(i * columns + i) * row->bytes, 1, &one, 1);
    return PF_OK;
}

int pf_tensor_linspace(pf_tensor **t, pf_engine *engine, double a, double b, int64_t n) {
    PF_OUT(t);
    PF_OPEN(engine);
    if (n < 0 || !isfinite(a) || !isfinite(b))
        return pf_fail(PF_EINVAL,
                       "linspace: from %g to %g in %lld; numbers, and at least 0 of them", a, b,
                       (long long)n);
    const pf_dtype_row *row = pf_dtype_find(PF_F32);
    if (!pf_dtype_fits(row, a, false) || !pf_dtype_fits(row, b, false))
        return pf_fail(PF_EINVAL, "linspace: from %g to %g: an f32 tensor cannot hold %g", a, b,
                       pf_dtype_fits(row, a, false) ? b : a);
    PF_TRY(make(t, engine, PF_F32, 1, &n));
    float *out = pf_f32(*t);
    for (int64_t i = 0; i < n; i++) {
        double part = n > 1 ? (double)i / (double)(n - 1) : 0;
        out[i] = (float)(part < 1 ? a * (1 - part) + b * part : b);
    }
    return PF_OK;
}
