/*
 * layer_block.c - the pre-norm Performer block:
 *   h = x + attention(conv(norm1(x)))      y = h + mlp(norm2(h))
 * The first sum and norm2 are one op where norm2's type has one.
 * Dropout is that of attention and mlp, on what they add.
 */
#include "module.h"

static const pf_option_info block_options[] = {
#include "options_block.def"
    {.name = "rotary",
     .kind = PF_OPT_BOOL,
     .doc = "rotary positions on queries and keys, in pairs as rotary_pairs says"},
    {.name = "layer",
     .kind = PF_OPT_INT,
     .low = 0,
     .high = 4096,
     .doc = "place in the model: every layer draws a projection of its own"},
    {.name = "layers",
     .kind = PF_OPT_INT,
     .number = 1,
     .low = 1,
     .high = 4096,
     .doc = "depth of the model: residual branches start smaller by sqrt(2 layers)"},
    {.name = "length",
     .kind = PF_OPT_INT,
     .low = 0,
     .high = 1 << 24,
     .doc = "sequence length that attention auto chooses for"},
};

enum { NORM1, ATTENTION, NORM2, MLP, CONV };

/* Attention or mlp, with the biases that the options say of it. */
static int make_part(pf_module *m, pf_engine *e, const char *type, const char *bias) {
    pf_config *o = pf_module_pass_on(m, type);
    return pf_module_inner(m, e, type, type,
                           pf_options_bool(o, "bias", pf_option_part(m, bias, "bias")));
}

static int block_build(pf_module *m, pf_engine *e) {
    int64_t dim = pf_option_int(m, "dim"), conv = pf_option_int(m, "conv");
    m->recompute = pf_option_int(m, "recompute") != 0;
    PF_TRY(pf_attention_decide(m, e));
    PF_TRY(pf_kernel_complete(m, e));
    PF_TRY(pf_module_norm(m, e, "norm1", dim));
    PF_TRY(make_part(m, e, "attention", "attention_bias"));
    PF_TRY(pf_module_norm(m, e, "norm2", dim));
    PF_TRY(make_part(m, e, "mlp", "mlp_bias"));
    if (conv == 0) return PF_OK;
    pf_config *o = pf_options_number(pf_module_pass_on(m, "conv"), "width", (double)conv);
    return pf_module_inner(m, e, "conv", "conv", o);
}

/* *h = attention(conv(norm1(x))) */
static int attend_branch(pf_module *m, pf_engine *e, const pf_run *run, pf_tensor *x,
                         pf_tensor **h) {
    static const int path[] = {NORM1, CONV, ATTENTION};
    int status = PF_OK;
    *h = pf_tensor_retain(x);
    for (int i = 0; i < PF_COUNT(path) && status >= 0; i++) {
        if (path[i] < m->n_child) status = pf_run_through(m, path[i], e, run, h);
    }
    if (status < 0) pf_tensor_release(h);
    return status;
}

/* *h = mlp(norm2(x)) */
static int mlp_branch(pf_module *m, pf_engine *e, const pf_run *run, pf_tensor *x, pf_tensor **h) {
    *h = pf_tensor_retain(x);
    int status = pf_run_through(m, NORM2, e, run, h);
    if (status >= 0) status = pf_run_through(m, MLP, e, run, h);
    if (status < 0) pf_tensor_release(h);
    return status;
}

static int block_branch(pf_module *m, pf_engine *e, const pf_run *run, int which, pf_tensor *x,
                        pf_tensor **y) {
    return which == 0 ? attend_branch(m, e, run, x, y) : mlp_branch(m, e, run, x, y);
}

/* x (B, L, D), or (B, D) in a step -> the same */
static int block_run(pf_module *m, pf_engine *e, const pf_run *run, pf_tensor *x, pf_tensor **y) {
    pf_tensor *attended = NULL, *sum = NULL, *h = NULL;
    PF_TRY(attend_branch(m, e, run, x, &attended));
    int status = pf_run_child_sum(m, NORM2, e, run, x, attended, &sum, &h);
    pf_tensor_release(&attended);
    if (status >= 0) status = pf_run_through(m, MLP, e, run, &h);
    if (status >= 0) status = pf_add(y, e, sum, h);
    pf_tensor_release(&h);
    pf_tensor_release(&sum);
    return status;
}

const pf_layer pf_layer_block = {
    .name = "block",
    .doc = "Pre-norm Performer block: attention and mlp, each around a residual.",
    .options = block_options,
    .n_options = PF_COUNT(block_options),
    .width = "dim",
    .build = block_build,
    .run = block_run,
    .branch = block_branch,
    .state = pf_state_of_children,
};
