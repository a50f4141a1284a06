/*
 * layer_mlp.c - the feed-forward part of a block, and dropout as a layer.
 */
#include <math.h>
#include <string.h>

#include "module.h"

static const pf_option_info mlp_options[] = {
    {.name = "dim",
     .kind = PF_OPT_INT,
     .low = 1,
     .high = 1 << 20,
     .required = true,
     .doc = "model width D"},
#include "options_mlp.def"
    {.name = "bias", .kind = PF_OPT_BOOL, .number = 1, .doc = "biases of the linear layers"},
    {.name = "dropout",
     .kind = PF_OPT_NUMBER,
     .low = 0,
     .high = 0.99,
     .doc = "share of the output dropped in training"},
    {.name = "layers",
     .kind = PF_OPT_INT,
     .number = 1,
     .low = 1,
     .high = 4096,
     .doc = "depth of the model: the last weights start smaller by sqrt(2 layers)"},
};

typedef struct mlp_self {
    const pf_op *gate; /* NULL: not gated */
    double dropout;
} mlp_self;

static int64_t hidden_of(const pf_module *m, bool gated) {
    int64_t dim = pf_option_int(m, "dim"), hidden = pf_option_int(m, "hidden");
    if (hidden > 0) return hidden;
    return gated ? pf_max(8, (8 * dim / 3 + 4) / 8 * 8) : 4 * dim;
}

/* The linear layer that enters the hidden width, activated in the same op if there is no gate. */
static int make_up(pf_module *m, pf_engine *e, int64_t dim, int64_t hidden, bool bias) {
    const mlp_self *self = m->self;
    pf_config *o = pf_linear_options(m, dim, hidden, bias, 1);
    if (!self->gate) o = pf_options_string(o, "act", pf_option_text(m, "act"));
    return pf_module_inner(m, e, "up", "linear", o);
}

/* Children up (hidden, dim), down (dim, hidden), and maybe gate (hidden, dim). */
static int mlp_build(pf_module *m, pf_engine *e) {
    static const pf_op *const gates[] = {&pf_op_swiglu, &pf_op_geglu, &pf_op_geglu_tanh,
                                         &pf_op_reglu, &pf_op_glu}; /* as in PF_GATES */
    mlp_self *self = m->self;
    int place = pf_choice_place(PF_GATES, pf_option_text(m, "act"));
    self->gate = place < 0 ? NULL : gates[place];
    self->dropout = pf_option_number(m, "dropout");
    bool bias = pf_option_int(m, "bias") != 0;
    int64_t dim = pf_option_int(m, "dim"), hidden = hidden_of(m, self->gate != NULL);
    double last = 1 / sqrt(2 * pf_option_number(m, "layers"));
    PF_TRY(make_up(m, e, dim, hidden, bias));
    PF_TRY(pf_module_inner(m, e, "down", "linear", pf_linear_options(m, hidden, dim, bias, last)));
    if (!self->gate) return PF_OK;
    return pf_module_inner(m, e, "gate", "linear", pf_linear_options(m, dim, hidden, bias, 1));
}

/* x (..., D) -> (..., hidden), activated */
static int activate(pf_module *m, pf_engine *e, const pf_run *run, pf_tensor *x, pf_tensor **h) {
    const mlp_self *self = m->self;
    if (!self->gate) return pf_run_part(m, 0, e, run, x, h);
    pf_tensor *in[2] = {NULL, NULL}; /* gate, up */
    int status = pf_run_part(m, 0, e, run, x, &in[1]);
    if (status >= 0) status = pf_run_part(m, 2, e, run, x, &in[0]);
    if (status >= 0) status = pf_apply(e, self->gate, in, 2, NULL, h);
    pf_tensor_release(&in[0]);
    pf_tensor_release(&in[1]);
    return status;
}

/* x (..., D) -> (..., D) */
static int mlp_run(pf_module *m, pf_engine *e, const pf_run *run, pf_tensor *x, pf_tensor **y) {
    const mlp_self *self = m->self;
    pf_tensor *h = NULL;
    PF_TRY(activate(m, e, run, x, &h));
    int status = pf_run_part(m, 1, e, run, h, y);
    pf_tensor_release(&h);
    if (status >= 0) status = pf_run_dropout(e, run, self->dropout, y);
    if (status < 0) pf_tensor_release(y);
    return status;
}

const pf_layer pf_layer_mlp = {
    .name = "mlp",
    .doc = "down(act(up(x))), or down(f(gate(x)) * up(x)) where act is a gate.",
    .options = mlp_options,
    .n_options = PF_COUNT(mlp_options),
    .width = "dim",
    .self_bytes = sizeof(mlp_self),
    .build = mlp_build,
    .run = mlp_run,
};

static const pf_option_info dropout_options[] = {
    {.name = "p",
     .kind = PF_OPT_NUMBER,
     .number = 0.1,
     .low = 0,
     .high = 0.99,
     .doc = "share of the elements dropped in training"},
};

static int dropout_run(pf_module *m, pf_engine *e, const pf_run *run, pf_tensor *x, pf_tensor **y) {
    *y = pf_tensor_retain(x);
    int status = pf_run_dropout(e, run, pf_option_number(m, "p"), y);
    if (status < 0) pf_tensor_release(y);
    return status;
}

const pf_layer pf_layer_dropout = {
    .name = "dropout",
    .doc = "Sets a random share p of the elements to 0 in training and scales the others by "
           "1/(1 - p); passes them through otherwise.",
    .options = dropout_options,
    .n_options = PF_COUNT(dropout_options),
    .run = dropout_run,
};
