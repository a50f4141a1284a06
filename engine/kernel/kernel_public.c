/*
 * kernel_public.c - what a host asks of a kernel: its options and what they come to, its
 * projection, and features of rows by the plain definition.
 */
#include "kernel_attrs.h"

const pf_config *pf_kernel_options(const pf_kernel *kernel) {
    return kernel ? kernel->options : NULL;
}

/* The options as data that a layer takes: with the handle by which it finds this very kernel. */
int pf_kernel_config(pf_config **config, const pf_kernel *kernel) {
    PF_OUT(config);
    PF_NEED(kernel);
    uint64_t handle = pf_kernel_handle(kernel);
    *config = pf_config_copy_in(kernel->heap, kernel->options);
    if (!*config) return pf_fail(PF_ENOMEM, "kernel: no memory for its options");
    int status = handle ? pf_config_set_number(*config, "handle", (double)handle) : PF_OK;
    if (status >= 0) return PF_OK;
    pf_config_free(*config);
    *config = NULL;
    return status;
}

/* What the options come to: defaults of map and preset filled in. */
static int fill_settings(pf_config *map, const pf_kernel_spec *spec) {
    int64_t m = spec->features > 0 ? spec->features : spec->head_dim;
    double ratio = (double)pf_map_args_of(spec->map, NULL, m, &spec->numbers).ratio;
#define PF_NUMBER(name, value, least, most, text)                                                  \
    PF_TRY(pf_config_set_number(map, #name, spec->numbers.name));
#include "numbers.def"
#undef PF_NUMBER
    PF_TRY(pf_config_set_number(map, "ratio", ratio));
    return pf_config_set_number(map, "features", (double)spec->features);
}

int pf_kernel_settings(pf_config **settings, const pf_kernel *kernel, int64_t head_dim) {
    PF_OUT(settings);
    PF_NEED(kernel);
    pf_kernel_spec spec = kernel->spec;
    if (pf_kernel_given(kernel)) {
        return pf_fail(PF_EINVAL, "kernel '%s' has no settings: it is what its map does",
                       pf_kernel_name(kernel));
    }
    if (!kernel->is_bound) PF_TRY(pf_kernel_resolve(&spec, kernel->options, head_dim));
    if (spec.head_dim < 1) {
        return pf_fail(PF_EINVAL, "kernel: settings depend on head_dim; give it");
    }
    *settings = pf_config_new_in(kernel->heap, PF_MAP);
    int status = *settings ? fill_settings(*settings, &spec) : PF_ENOMEM;
    if (status >= 0) return PF_OK;
    pf_config_free(*settings);
    *settings = NULL;
    return status;
}

/* NULL where the kernel does not project: no error. */
int pf_kernel_projection(pf_tensor **projection, pf_tensor **factors, pf_engine *engine,
                         pf_kernel *kernel, int64_t head_dim, int64_t heads) {
    PF_OUT(projection);
    PF_OPEN(engine);
    PF_NEED(kernel);
    pf_kernel *bound = NULL;
    if (factors) *factors = NULL;
    if (pf_kernel_given(kernel)) return PF_OK;
    if (head_dim == 0) head_dim = kernel->spec.head_dim;
    /* A softmax map is projected always; how often, only the width may say. */
    if (kernel->spec.features == 0 && !kernel->spec.map->softmax) return PF_OK;
    PF_TRY(pf_kernel_bind(&bound, engine, kernel, head_dim, heads));
    if (bound->projection) *projection = pf_tensor_retain(bound->projection);
    if (factors && bound->factors) *factors = pf_tensor_retain(bound->factors);
    pf_kernel_release(&bound);
    return PF_OK;
}

/* By the plain definition (features.c); a host's map has no other than itself. */
int pf_kernel_features(pf_tensor **phi, pf_engine *engine, pf_kernel *kernel, pf_side side,
                       pf_tensor *x) {
    PF_OUT(phi);
    PF_OPEN(engine);
    PF_NEED(kernel, x);
    pf_kernel *bound = NULL;
    pf_attr attr[PF_KERNEL_ATTRS];
    pf_tensor *in[1 + PF_KERNEL_INPUTS] = {x};
    PF_TRY(pf_tensor_check(x, PF_F32, "features", "x"));
    if (x->rank != 4) {
        return pf_fail(PF_ESHAPE, "features: x is %s, must be (batch, heads, length, head_dim)",
                       pf_shape_of(x));
    }
    if (pf_kernel_given(kernel)) return pf_kernel_rows(phi, engine, kernel, side, x);
    PF_TRY(pf_kernel_bind(&bound, engine, kernel, x->shape[3], x->shape[1]));
    pf_kernel_to_attrs(bound, attr);
    pf_kernel_to_inputs(bound, in + 1);
    int status = pf_apply(engine, &pf_op_features, in, 1 + PF_KERNEL_INPUTS, attr, phi);
    pf_kernel_release(&bound);
    return status;
}
