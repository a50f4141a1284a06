/*
 * cast.c - the same numbers in another dtype. What must hold: what the dtype can't hold is refused
 * and never bent; the fraction that i32 has no place for is cut toward zero, as copies do.
 */
#include <math.h>
#include <stdatomic.h>

#include "each.h"

static const pf_attr_info cast_attrs[] = {
    {.name = "dtype",
     .kind = PF_ATTR_CHOICE,
     .required = true,
     .choices = "f32|i32", /* in the order of pf_dtype */
     .doc = "what y is of"},
};

static int cast_shape(pf_call *c) {
    const pf_tensor *x = c->in[0];
    return pf_set_shape(c, 0, (pf_dtype)c->attr[0].i, x->rank, x->shape);
}

/* ---- loops -------------------------------------------------------------------- */

PF_EACH_1(move_f32, float, float, a)
PF_EACH_1(move_i32, int32_t, int32_t, a)
PF_EACH_1(to_f32, float, int32_t, (float)a)

/* Cut toward zero, a is a whole number of 32 bits; NaN is none. */
static bool fits(float a) { return a >= -2147483648.0f && a < 2147483648.0f; }

typedef struct cut_job {
    atomic_bool failed;
} cut_job;

static void to_i32(const void *context, const pf_run_at *r) {
    cut_job *job = (cut_job *)context;
    int32_t *y = r->at[0];
    const float *x = r->at[1];
    bool fine = true;
    for (int64_t i = 0; i < r->n; i++) {
        const float a = x[i * r->step[1]];
        fine &= fits(a);
        y[i * r->step[0]] = fits(a) ? (int32_t)a : 0;
    }
    if (!fine) atomic_store_explicit(&job->failed, true, memory_order_relaxed);
}

/* Names the first number that does not fit. */
static int tell_misfit(const pf_call *c) {
    const pf_tensor *x = c->in[0];
    pf_iter it;
    int64_t offset[PF_ITER_MAX], last = pf_tensor_numel(x) - 1;
    pf_iter_make(&it, x->rank, x->shape, 1, &x);
    for (int64_t i = 0; i <= last; i++) {
        pf_iter_at(&it, i / it.inner, offset);
        const float a = pf_f32(x)[offset[0] + i % it.inner * it.inner_stride[0]];
        if (!fits(a) || i == last)
            return pf_fail(PF_EINVAL,
                           "cast: element %s of x %s is %g, which i32 cannot hold (-2147483648 to "
                           "2147483647, no NaN); clamp bounds numbers, where replaces NaN",
                           pf_place(i), pf_shape_of(x), isnan(a) ? (double)NAN : (double)a);
    }
    return PF_OK;
}

static int cast_forward(pf_call *c) {
    const pf_tensor *operand[2] = {c->out[0], c->in[0]};
    cut_job job;
    atomic_init(&job.failed, false);
    bool from_f32 = c->in[0]->dtype == PF_F32, f32 = c->out[0]->dtype == PF_F32;
    pf_each_fn fn = from_f32 ? (f32 ? move_f32 : to_i32) : (f32 ? to_f32 : move_i32);
    PF_TRY(pf_each(c->engine, 2, operand, fn, &job));
    return atomic_load_explicit(&job.failed, memory_order_relaxed) ? tell_misfit(c) : PF_OK;
}

/* i32 is never part of a graph, so only a cast from f32 to f32 is asked for a gradient. */
static int cast_backward(pf_call *c) {
    return c->need[0] && c->dout[0] ? pf_grad_give(c, 0, c->dout[0]) : PF_OK;
}

const pf_op pf_op_cast = {
    .name = "cast",
    .args = "x",
    .results = "y",
    .doc = "y = a copy of x of another dtype. To i32 fractions are cut toward zero, and NaN, "
           "infinities and what 32 bits don't hold are refused; to f32 whole numbers beyond 2^24 "
           "are rounded to the nearest. An i32 tensor has no gradient.",
    .min_in = 1,
    .max_in = 1,
    .n_out = 1,
    .attrs = cast_attrs,
    .n_attrs = PF_COUNT(cast_attrs),
    .shape = cast_shape,
    .forward = cast_forward,
    .backward = cast_backward,
};
