/*
 * layer_norm.c - layernorm, rmsnorm and scalenorm on the last dimension, of x or of a sum x + h;
 * and the norm that a model's options say.
 */
#include <math.h>
#include <string.h>

#include "module.h"

static const pf_option_info layernorm_options[] = {
    {.name = "dim",
     .kind = PF_OPT_INT,
     .low = 1,
     .high = 1 << 20,
     .required = true,
     .doc = "model width D"},
    {.name = "eps",
     .kind = PF_OPT_NUMBER,
     .number = 1e-5,
     .low = 0,
     .high = 1,
     .doc = "added to the variance"},
    {.name = "bias", .kind = PF_OPT_BOOL, .number = 1, .doc = "adds a learned vector"},
};

static int layernorm_build(pf_module *m, pf_engine *e) {
    int64_t dim = pf_option_int(m, "dim");
    PF_TRY(pf_module_param(m, e, "weight", 1, &dim, "ones"));
    return pf_option_int(m, "bias") ? pf_module_param(m, e, "bias", 1, &dim, "zeros") : PF_OK;
}

/* x (..., D) -> (..., D) */
static int layernorm_run(pf_module *m, pf_engine *e, const pf_run *run, pf_tensor *x,
                         pf_tensor **y) {
    (void)run;
    pf_tensor *bias = m->n_slot > 1 ? m->slot[1].tensor : NULL;
    return pf_layernorm(y, e, x, m->slot[0].tensor, bias, pf_option_number(m, "eps"));
}

static int layernorm_run_sum(pf_module *m, pf_engine *e, pf_tensor *x, pf_tensor *h,
                             pf_tensor **sum, pf_tensor **y) {
    pf_tensor *bias = m->n_slot > 1 ? m->slot[1].tensor : NULL;
    return pf_add_layernorm(sum, y, e, x, h, m->slot[0].tensor, bias, pf_option_number(m, "eps"));
}

const pf_layer pf_layer_layernorm = {
    .name = "layernorm",
    .doc = "(x - mean) / sqrt(variance + eps) * weight + bias, on the last dimension.",
    .options = layernorm_options,
    .n_options = PF_COUNT(layernorm_options),
    .width = "dim",
    .build = layernorm_build,
    .run = layernorm_run,
    .run_sum = layernorm_run_sum,
};

static const pf_option_info rmsnorm_options[] = {
    {.name = "dim",
     .kind = PF_OPT_INT,
     .low = 1,
     .high = 1 << 20,
     .required = true,
     .doc = "model width D"},
    {.name = "eps",
     .kind = PF_OPT_NUMBER,
     .number = 1e-6,
     .low = 0,
     .high = 1,
     .doc = "added to the mean square"},
};

static int rmsnorm_build(pf_module *m, pf_engine *e) {
    int64_t dim = pf_option_int(m, "dim");
    return pf_module_param(m, e, "weight", 1, &dim, "ones");
}

static int rmsnorm_run(pf_module *m, pf_engine *e, const pf_run *run, pf_tensor *x, pf_tensor **y) {
    (void)run;
    return pf_rmsnorm(y, e, x, m->slot[0].tensor, pf_option_number(m, "eps"));
}

static int rmsnorm_run_sum(pf_module *m, pf_engine *e, pf_tensor *x, pf_tensor *h, pf_tensor **sum,
                           pf_tensor **y) {
    return pf_add_rmsnorm(sum, y, e, x, h, m->slot[0].tensor, pf_option_number(m, "eps"));
}

const pf_layer pf_layer_rmsnorm = {
    .name = "rmsnorm",
    .doc = "x / sqrt(mean(x^2) + eps) * weight, on the last dimension.",
    .options = rmsnorm_options,
    .n_options = PF_COUNT(rmsnorm_options),
    .width = "dim",
    .build = rmsnorm_build,
    .run = rmsnorm_run,
    .run_sum = rmsnorm_run_sum,
};

static const pf_option_info scalenorm_options[] = {
    {.name = "dim",
     .kind = PF_OPT_INT,
     .low = 1,
     .high = 1 << 20,
     .required = true,
     .doc = "model width D"},
    {.name = "eps",
     .kind = PF_OPT_NUMBER,
     .number = 1e-6,
     .low = 0,
     .high = 1,
     .doc = "added to the mean square"},
};

/* weight (1), the length that rows get: at first sqrt(D), as rmsnorm's have */
static int scalenorm_build(pf_module *m, pf_engine *e) {
    int64_t one = 1;
    char init[PF_INIT_TEXT];
    pf_init_text(init, "value", sqrt(pf_option_number(m, "dim")));
    return pf_module_param(m, e, "weight", 1, &one, init);
}

/* unit (D), what the weight is stretched by: then it is an rmsnorm with one number as weight. */
static int scalenorm_derive(pf_module *m) {
    int64_t dim = pf_option_int(m, "dim");
    pf_tensor *unit = NULL;
    if (m->n_slot > 1) return PF_OK;
    PF_TRY(pf_tensor_make_lasting(&unit, m->heap, PF_F32, 1, &dim));
    int status = pf_tensor_fill(unit, 1 / sqrt((double)dim));
    if (status >= 0) status = pf_module_derived(m, "unit", unit);
    pf_tensor_release(&unit);
    return status;
}

static int stretched(const pf_module *m, pf_engine *e, pf_tensor **weight) {
    pf_tensor *in[2] = {m->slot[1].tensor, m->slot[0].tensor};
    return pf_apply(e, &pf_op_mul, in, 2, NULL, weight);
}

static int scalenorm_run(pf_module *m, pf_engine *e, const pf_run *run, pf_tensor *x,
                         pf_tensor **y) {
    pf_tensor *weight = NULL;
    (void)run;
    PF_TRY(stretched(m, e, &weight));
    int status = pf_rmsnorm(y, e, x, weight, pf_option_number(m, "eps"));
    pf_tensor_release(&weight);
    return status;
}

static int scalenorm_run_sum(pf_module *m, pf_engine *e, pf_tensor *x, pf_tensor *h,
                             pf_tensor **sum, pf_tensor **y) {
    pf_tensor *weight = NULL;
    PF_TRY(stretched(m, e, &weight));
    int status = pf_add_rmsnorm(sum, y, e, x, h, weight, pf_option_number(m, "eps"));
    pf_tensor_release(&weight);
    return status;
}

const pf_layer pf_layer_scalenorm = {
    .name = "scalenorm",
    .doc = "x / |x| * weight, one number, on the last dimension, with |x|^2 = D (mean(x^2) + eps). "
           "Nguyen and Salazar 2019, arXiv 1910.05895.",
    .options = scalenorm_options,
    .n_options = PF_COUNT(scalenorm_options),
    .width = "dim",
    .build = scalenorm_build,
    .derive = scalenorm_derive,
    .run = scalenorm_run,
    .run_sum = scalenorm_run_sum,
};

/* ---- of a model's options ---- */

int pf_module_norm(pf_module *m, pf_engine *e, const char *name, int64_t dim) {
    const char *type = pf_option_text(m, "norm");
    double eps = pf_option_number(m, "norm_eps");
    pf_config *o = pf_options_number(pf_config_new_in(m->heap, PF_MAP), "dim", (double)dim);
    if (eps > 0) o = pf_options_number(o, "eps", eps);
    if (strcmp(type, pf_layer_layernorm.name) == 0) {
        o = pf_options_bool(o, "bias", pf_option_part(m, "norm_bias", "bias"));
    }
    return pf_module_inner(m, e, name, type, o);
}
