/*
 * reduce_i32.c - reductions of whole numbers, and questions about all of them. What must hold: a
 * result is exact, or the call fails; only a mean is rounded.
 */
#include <stdatomic.h>

#include "reduce.h"

typedef struct whole_job {
    pf_whole which;
    void *y; /* (rows) int32_t, of a mean float */
    atomic_bool failed;
} whole_job;

/* ---- one row ------------------------------------------------------------------ */

enum { BLOCK = INT32_MAX }; /* so many numbers of 32 bits have a sum of 64 */

static int64_t block_sum(int64_t n, const int32_t *x, int64_t step) {
    int64_t sum = 0;
    for (int64_t i = 0; i < n; i++) sum += x[i * step];
    return sum;
}

/* Beyond 64 bits INT64_MAX. */
static int64_t sum_of(int64_t n, const int32_t *x, int64_t step) {
    int64_t sum = 0;
    if (step == 0 && n > 0) return __builtin_mul_overflow(n, *x, &sum) ? INT64_MAX : sum;
    for (int64_t i = 0; i < n; i += BLOCK)
        if (__builtin_add_overflow(sum, block_sum(pf_min(BLOCK, n - i), x + i * step, step), &sum))
            return INT64_MAX;
    return sum;
}

static double mean_of(int64_t n, const int32_t *x, int64_t step) {
    double sum = 0;
    for (int64_t i = 0; i < n; i += BLOCK)
        sum += (double)block_sum(pf_min(BLOCK, n - i), x + i * step, step);
    return sum / (double)n;
}

/* Beyond 2^31 in size a product does not come back but by a 0, which is looked for first. */
static int64_t product_of(int64_t n, const int32_t *x, int64_t step) {
    int64_t product = 1;
    for (int64_t i = 0; i < n; i++)
        if (x[i * step] == 0) return 0;
    for (int64_t i = 0; i < n && product <= -(int64_t)INT32_MIN && product >= INT32_MIN; i++)
        product *= x[i * step];
    return product;
}

/* The first of the largest, or of the smallest. n > 0 */
static int64_t place_of(int64_t n, const int32_t *x, int64_t step, bool largest) {
    int64_t best = 0;
    for (int64_t i = 1; i < n; i++) {
        int32_t a = x[i * step], b = x[best * step];
        if (largest ? a > b : a < b) best = i;
    }
    return best;
}

/* Does any element answer `yes`: not 0, or 0? */
static bool has(int64_t n, const int32_t *x, int64_t step, bool zero) {
    for (int64_t i = 0; i < n; i++)
        if ((x[i * step] == 0) == zero) return true;
    return false;
}

static int64_t reduced(pf_whole which, int64_t n, const int32_t *x, int64_t step) {
    switch (which) {
    case PF_WHOLE_MEAN: /* is no whole number */
        break;
    case PF_WHOLE_SUM:
        return sum_of(n, x, step);
    case PF_WHOLE_PROD:
        return product_of(n, x, step);
    case PF_WHOLE_MAX:
    case PF_WHOLE_MIN:
        return x[place_of(n, x, step, which == PF_WHOLE_MAX) * step];
    case PF_WHOLE_ARGMAX:
    case PF_WHOLE_ARGMIN:
        return place_of(n, x, step, which == PF_WHOLE_ARGMAX);
    case PF_WHOLE_ANY:
        return has(n, x, step, false);
    case PF_WHOLE_ALL:
        return !has(n, x, step, true);
    }
    return 0;
}

/* A view can repeat one number (step 0) more often than memory holds any: so many of it say the
 * same. The sum counts them at once; of a product 1 and -1 go on for ever, by turns. */
static int64_t enough(pf_whole which, int64_t n, int64_t step) {
    if (step != 0 || which == PF_WHOLE_SUM) return n;
    return which == PF_WHOLE_PROD ? pf_min(n, 64 + n % 2) : pf_min(n, 1);
}

static void whole_row(const pf_rows *rows, void *context, int64_t row, float *scratch) {
    (void)scratch;
    whole_job *job = context;
    float *at[PF_ROWS_OPS];
    pf_rows_at(rows, row, at);
    const int32_t *x = (const int32_t *)(void *)at[0];
    const int64_t step = rows->stride[0], n = enough(job->which, rows->n, step);
    if (job->which == PF_WHOLE_MEAN) {
        ((float *)job->y)[row] = (float)mean_of(n, x, step);
        return;
    }
    int64_t y = reduced(job->which, n, x, step);
    if (y >= INT32_MIN && y <= INT32_MAX)
        ((int32_t *)job->y)[row] = (int32_t)y;
    else
        atomic_store_explicit(&job->failed, true, memory_order_relaxed);
}

/* ---- a call ------------------------------------------------------------------- */

int pf_reduce_i32(pf_call *c, pf_whole which) {
    whole_job job = {.which = which, .y = pf_i32(c->out[0])};
    atomic_init(&job.failed, false);
    PF_TRY(pf_reduce_rows(c, 0, whole_row, &job));
    if (!atomic_load_explicit(&job.failed, memory_order_relaxed)) return PF_OK;
    if (which == PF_WHOLE_ARGMAX || which == PF_WHOLE_ARGMIN) /* was found beyond an i32 */
        return pf_want_places(c, INT64_MAX);
    return pf_fail(PF_EINVAL,
                   "%s: of x %s it leaves i32 (-2147483648 to 2147483647); cast to f32 and it "
                   "comes rounded",
                   c->op->name, pf_shape_of(c->in[0]));
}

/* ---- any and all -------------------------------------------------------------- */

static const pf_attr_info question_attrs[] = {PF_REDUCE_ATTRS};

static int question_shape(pf_call *c) {
    const pf_tensor *x = c->in[0];
    if (x->dtype != PF_I32)
        return pf_fail(PF_EDTYPE,
                       "%s: x %s is f32, must be i32; a comparison, as ne(x, 0), makes one of it",
                       c->op->name, pf_shape_of(x));
    return pf_reduce_shape(c, PF_I32, false);
}

static int question_forward(pf_call *c) { return pf_reduce_i32(c, (pf_whole)c->op->of); }

#define QUESTION(which)                                                                            \
    .of = (which), .args = "x", .results = "y", .min_in = 1, .max_in = 1, .n_out = 1,              \
    .flags = PF_OP_NO_GRAD, .attrs = question_attrs, .n_attrs = PF_COUNT(question_attrs),          \
    .shape = question_shape, .forward = question_forward

const pf_op pf_op_any = {
    QUESTION(PF_WHOLE_ANY),
    .name = "any",
    .doc = "y (i32) = 1 where any element of x (i32) is not 0, else 0," PF_REDUCE_ALONG
           " Of no elements 0. Not differentiable.",
};

const pf_op pf_op_all = {
    QUESTION(PF_WHOLE_ALL),
    .name = "all",
    .doc = "y (i32) = 1 where no element of x (i32) is 0, else 0," PF_REDUCE_ALONG
           " Of no elements 1. Not differentiable.",
};
