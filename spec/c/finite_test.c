/* finite_test.c - the look for numbers that are not finite, as a C host has it. */
#include "nn_support.h"

/* Forward and backward of x through m; the status of whichever failed first. */
static int walk(pf_engine *e, pf_module *m, pf_tensor *x, double seed) {
    pf_tape *tape = NULL;
    pf_tensor *y = NULL, *share = NULL;
    CHECK_OK(pf_tape_open(&tape, e));
    int status = pf_module_forward(&y, e, m, x, NULL);
    if (status >= 0) status = pf_tensor_full(&share, e, PF_F32, y->rank, y->shape, seed);
    if (status >= 0) status = pf_tape_backward(tape, y, share);
    pf_tensor_release(&y), pf_tensor_release(&share);
    pf_tape_close(&tape);
    return status;
}

static bool says(const pf_config *report, const char *key, const char *want) {
    const char *text = pf_config_string(pf_config_get(report, key));
    return text && strcmp(text, want) == 0;
}

int main(void) {
    pf_engine *e = engine_of(1, 3);
    pf_module *layers[2] = {layer_of(e, "linear", "{'from': 2, 'to': 3}"),
                            layer_of(e, "linear", "{'from': 3, 'to': 2}")};
    pf_module *m = NULL;
    pf_tensor *x = NULL, *w = pf_module_tensor(layers[1], "weight");
    const int64_t shape[2] = {1, 2};
    pf_config *report = NULL;
    CHECK_OK(pf_module_new(&m, e, "chain", NULL, layers, 2));
    CHECK_OK(pf_tensor_full(&x, e, PF_F32, 2, shape, 1));
    CHECK_FAILS(PF_ESTATE, pf_finite_end(e, 1, NULL));
    CHECK_OK(pf_finite_begin(e));
    CHECK_FAILS(PF_ESTATE, pf_finite_begin(e));
    CHECK_OK(walk(e, m, x, 1));
    CHECK_OK(pf_finite_end(e, 1, &report));
    CHECK(!report);

    CHECK_OK(pf_tensor_set(w, 4, NAN)); /* forward: [1, 1], and counted from one [2, 2] */
    CHECK_OK(pf_finite_begin(e));
    CHECK_FAILS(PF_ENUMERIC, walk(e, m, x, 1));
    CHECK_FAILS(PF_ENUMERIC, pf_finite_end(e, 12, &report));
    CHECK(strcmp(pf_last_error(),
                 "step 12: forward of linear in 2: its input 'weight' [2, 3] holds "
                 "nan at [1, 1]") == 0);
    CHECK(strstr(pf_last_error_from(1), "nan at [2, 2]"));
    CHECK(says(report, "layer", "2") && says(report, "op", "linear"));
    CHECK(says(report, "phase", "forward"));
    CHECK(pf_config_number(pf_config_get(report, "step")) == 12);
    pf_config_free(report);

    CHECK_OK(pf_tensor_fill(w, 1e30)); /* backward: 1e30 3e30 in the first layer's gradient */
    CHECK_OK(pf_finite_begin(e));
    CHECK_OK(walk(e, m, x, 3e30));
    CHECK_FAILS(PF_ENUMERIC, pf_finite_end(e, 2, NULL));
    CHECK(
        strstr(pf_last_error(), "step 2: backward of linear in 2: the gradient of its input 'x'"));
    CHECK_OK(pf_finite_begin(e)); /* an engine may close while it looks */
    pf_tensor_release(&x);
    pf_module_release(&m), pf_module_release(&layers[0]), pf_module_release(&layers[1]);
    pf_engine_close(&e);
    return CHECK_REPORT();
}
