/*
 * where.c - one of two tensors, element by element. What must hold: the element that is not taken
 * leaves no trace, in the result or in a gradient, be it NaN or infinite: it is never multiplied
 * by 0.
 */
#include "fold.h"
#include "each.h"

static int where_shape(pf_call *c) {
    PF_TRY(pf_want(c, 0, PF_I32));
    PF_TRY(pf_want_alike(c, 1, 2));
    return pf_broadcast_shape(c, c->in[1]->dtype, 0, 3);
}

/* Whatever the dtype of a and b, four bytes are moved. */
typedef uint32_t __attribute__((may_alias)) word;

static void choose(const void *context, const pf_run_at *r) {
    (void)context;
    word *y = r->at[0];
    const int32_t *cond = r->at[1];
    const word *a = r->at[2], *b = r->at[3];
    for (int64_t i = 0; i < r->n; i++)
        y[i * r->step[0]] = cond[i * r->step[1]] != 0 ? a[i * r->step[2]] : b[i * r->step[3]];
}

static int where_forward(pf_call *c) {
    const pf_tensor *operand[4] = {c->out[0], c->in[0], c->in[1], c->in[2]};
    return pf_each(c->engine, 4, operand, choose, NULL);
}

/* ---- backward ----------------------------------------------------------------- */

/* dy where the condition is as wanted (0 or 1), else 0. */
static void keep_taken(const void *context, const pf_run_at *r) {
    const bool wanted = *(const bool *)context;
    float *y = r->at[0];
    const int32_t *cond = r->at[1];
    const float *dy = r->at[2];
    for (int64_t i = 0; i < r->n; i++)
        y[i * r->step[0]] = (cond[i * r->step[1]] != 0) == wanted ? dy[i * r->step[2]] : 0.0f;
}

static int where_backward(pf_call *c) {
    const pf_tensor *dy = c->dout[0];
    for (int i = 1; i <= 2; i++) {
        const bool wanted = i == 1;
        bool fresh;
        pf_tensor *slot, *part;
        if (!c->need[i]) continue;
        PF_TRY(pf_call_make(c, PF_F32, dy->rank, dy->shape, &part));
        const pf_tensor *operand[3] = {part, c->in[0], dy};
        PF_TRY(pf_each(c->engine, 3, operand, keep_taken, &wanted));
        if (pf_same_shape(c->in[i], dy)) {
            PF_TRY(pf_grad_give(c, i, part));
            continue;
        }
        PF_TRY(pf_grad_fresh(c, i, &fresh, &slot));
        PF_TRY(pf_fold(&(pf_fold_job){
            .engine = c->engine,
            .to = slot,
            .overwrite = fresh,
            .rank = dy->rank,
            .shape = dy->shape,
            .n = 1,
            .x = {part},
            .scale = 1,
        }));
    }
    return PF_OK;
}

const pf_op pf_op_where = {
    .name = "where",
    .args = "cond, a, b",
    .results = "y",
    .doc = "y = a where cond (i32) is not 0, else b; all three broadcast, a and b are of one "
           "dtype. The element that is not taken gets the gradient 0, and its NaN stays where it "
           "is.",
    .min_in = 3,
    .max_in = 3,
    .n_out = 1,
    .uses = PF_USES_IN(0),
    .shape = where_shape,
    .forward = where_forward,
    .backward = where_backward,
};
