/*
 * gradient_test.c - the checker of gradients: it sees one that is wrong by 2 %, and tells what
 * float32 cannot resolve from what is wrong. The gradients of the op table are held by
 * ops_spec.lua, which calls this checker on the cases in spec/support/cases.lua.
 */
#include "autograd_support.h"
#include "tape.h"

/* 2 % too much. */
static int wrong_backward(pf_call *c) {
    pf_tensor *dx;
    PF_TRY(pf_grad_slot(c, 0, &dx));
    for (int64_t i = 0; i < pf_tensor_numel(dx); i++) {
        double dy;
        PF_TRY(pf_tensor_get(c->dout[0], i, &dy));
        pf_f32(dx)[i] += 2.04f * (float)dy;
    }
    return PF_OK;
}

static const pf_op wrong_op = {.name = "wrong",
                               .args = "x",
                               .min_in = 1,
                               .max_in = 1,
                               .n_out = 1,
                               .shape = same_shape,
                               .forward = double_forward,
                               .backward = wrong_backward};

static int call_wrong(void *context, pf_engine *e, pf_tensor *const *in, int n, pf_tensor **y) {
    (void)context, (void)n;
    return call_one(y, e, &wrong_op, in[0]);
}

/* 1000 + 1e-6 x: float32 cannot resolve the slope. */
static int call_flat(void *context, pf_engine *e, pf_tensor *const *in, int n, pf_tensor **y) {
    (void)context, (void)n;
    return pf_affine(y, e, in[0], 1e-6, 1000);
}

/* Only the first input is used. */
static int call_first(void *context, pf_engine *e, pf_tensor *const *in, int n, pf_tensor **y) {
    (void)context, (void)n;
    return call_one(y, e, &pf_op_exp, in[0]);
}

static void test_gradcheck(void) {
    pf_engine e;
    open_engine(&e, 1, NULL);
    pf_tensor *x[2] = {vector(&e, 5, 1), vector(&e, 5, 2)};
    size_t live = pf_heap_live(e.heap);
    float before[5], after[5];
    pf_tensor_read(x[0], before, sizeof before);
    double worst;
    CHECK(pf_gradcheck(&e, call_wrong, NULL, x, 1, 3, &worst) > 0 && worst > 0.01 && worst < 0.03);
    CHECK(pf_gradcheck(&e, call_flat, NULL, x, 1, 3, &worst) == 0);
    /* Four directions of the input that is used; no slope along the other, so no verdict. */
    CHECK(pf_gradcheck(&e, call_first, NULL, x, 2, 3, &worst) == 4 && worst < 1e-4);
    pf_tensor_read(x[0], after, sizeof after);
    CHECK(memcmp(before, after, sizeof before) == 0);
    CHECK(!has_grad(&e, x[0]) && pf_tensor_requires_grad(x[0]) && e.tape == NULL);
    CHECK(pf_heap_live(e.heap) == live);
    pf_tensor *twice[2] = {x[0], x[0]};
    CHECK_FAILS(PF_EINVAL, pf_gradcheck(&e, call_first, NULL, twice, 2, 3, &worst));
    for (int i = 0; i < 2; i++) pf_tensor_release(&x[i]);
    pf_runtime_close(&e);
}

int main(void) {
    test_gradcheck();
    return CHECK_REPORT();
}
