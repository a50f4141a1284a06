/*
 * layer_block.c - the Performer block, two residual branches. By the option `residual`:
 *   pre     h = x + attention(conv(norm1(x)))     y = h + mlp(norm2(h))
 *   post    h = norm1(x + attention(conv(x)))     y = norm2(h + mlp(h))
 *   rezero  h = x + a attention(conv(x))          y = h + b mlp(h)
 * With token_shift a layer shift stands before conv, or attention, and before mlp.
 * A sum and the norm behind it are one op where the norm's type has one.
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

typedef enum { PRE, POST, REZERO } residual_kind; /* places in the option's choices */

typedef struct block_self {
    residual_kind residual;
    int conv, shift[2], norm[2], part[2]; /* children; -1: none. part: attention, mlp */
    pf_tensor *scale[2];                  /* (1), rezero's, borrowed from the slots; NULL: none */
} block_self;

/* Attention or mlp, with the biases that the options say of it. */
static int make_part(pf_module *m, pf_engine *e, const char *type, const char *bias) {
    pf_config *o = pf_module_pass_on(m, type);
    return pf_module_inner(m, e, type, type,
                           pf_options_bool(o, "bias", pf_option_part(m, bias, "bias")));
}

/* The norm and the scale of branch i, and the branch. */
static int make_branch(pf_module *m, pf_engine *e, int i, const char *norm, const char *type,
                       const char *bias, const char *scale) {
    block_self *self = m->self;
    int64_t dim = pf_option_int(m, "dim"), one = 1;
    self->norm[i] = self->residual == REZERO ? -1 : m->n_child;
    if (self->norm[i] >= 0) PF_TRY(pf_module_norm(m, e, norm, dim));
    if (self->residual == REZERO) PF_TRY(pf_module_param(m, e, scale, 1, &one, "zeros"));
    self->scale[i] = pf_module_tensor(m, scale);
    self->part[i] = m->n_child;
    return make_part(m, e, type, bias);
}

static int make_shifts(pf_module *m, pf_engine *e) {
    block_self *self = m->self;
    bool wanted = pf_option_int(m, "token_shift") != 0;
    for (int i = 0; i < 2; i++) {
        self->shift[i] = wanted ? m->n_child : -1;
        if (!wanted) continue;
        pf_config *o = pf_module_pass_on(m, "shift");
        PF_TRY(pf_module_inner(m, e, i == 0 ? "shift1" : "shift2", "shift", o));
    }
    return PF_OK;
}

static int block_build(pf_module *m, pf_engine *e) {
    block_self *self = m->self;
    int64_t conv = pf_option_int(m, "conv");
    m->recompute = pf_option_int(m, "recompute") != 0;
    self->residual =
        (residual_kind)pf_choice_place("pre|post|rezero", pf_option_text(m, "residual"));
    PF_TRY(pf_attention_decide(m, e));
    PF_TRY(pf_kernel_complete(m, e));
    PF_TRY(make_branch(m, e, 0, "norm1", "attention", "attention_bias", "attention_scale"));
    PF_TRY(make_branch(m, e, 1, "norm2", "mlp", "mlp_bias", "mlp_scale"));
    self->conv = conv == 0 ? -1 : m->n_child;
    if (conv > 0) {
        pf_config *o = pf_options_number(pf_module_pass_on(m, "conv"), "width", (double)conv);
        PF_TRY(pf_module_inner(m, e, "conv", "conv", o));
    }
    return make_shifts(m, e);
}

/* ---- running ---- */

/* *h = what branch `which` makes of *h, normed before if need be: all but the sum */
static int run_branch(pf_module *m, pf_engine *e, const pf_run *run, int which, pf_tensor **h) {
    const block_self *self = m->self;
    int status = pf_run_through(m, self->shift[which], e, run, h);
    if (status >= 0 && which == 0) status = pf_run_through(m, self->conv, e, run, h);
    if (status >= 0) status = pf_run_through(m, self->part[which], e, run, h);
    if (status < 0 || !self->scale[which]) return status;
    pf_tensor *in[2] = {*h, self->scale[which]}, *y = NULL;
    PF_TRY(pf_apply(e, &pf_op_mul, in, 2, NULL, &y));
    pf_replace(h, y);
    return PF_OK;
}

/* *y = branch `which` of x, with its norm where that stands before it */
static int block_branch(pf_module *m, pf_engine *e, const pf_run *run, int which, pf_tensor *x,
                        pf_tensor **y) {
    const block_self *self = m->self;
    *y = pf_tensor_retain(x);
    int status = self->residual == PRE ? pf_run_through(m, self->norm[which], e, run, y) : PF_OK;
    if (status >= 0) status = run_branch(m, e, run, which, y);
    if (status < 0) pf_tensor_release(y);
    return status;
}

/* Pre: the first sum and the second norm are one op. */
static int run_pre(pf_module *m, pf_engine *e, const pf_run *run, pf_tensor *x, pf_tensor **y) {
    const block_self *self = m->self;
    pf_tensor *attended = NULL, *sum = NULL, *h = NULL;
    PF_TRY(block_branch(m, e, run, 0, x, &attended));
    int status = pf_run_child_sum(m, self->norm[1], e, run, x, attended, &sum, &h);
    pf_tensor_release(&attended);
    if (status >= 0) status = run_branch(m, e, run, 1, &h);
    if (status >= 0) status = pf_add(y, e, sum, h);
    pf_tensor_release(&h);
    pf_tensor_release(&sum);
    return status;
}

/* Post and rezero: *h = norm(*h + f(*h)), or *h + a f(*h) */
static int add_branch(pf_module *m, pf_engine *e, const pf_run *run, int which, pf_tensor **h) {
    const block_self *self = m->self;
    pf_tensor *f = NULL, *sum = NULL, *y = NULL;
    PF_TRY(block_branch(m, e, run, which, *h, &f));
    int status = self->residual == REZERO
                     ? pf_add(&y, e, *h, f)
                     : pf_run_child_sum(m, self->norm[which], e, run, *h, f, &sum, &y);
    pf_tensor_release(&f);
    pf_tensor_release(&sum);
    if (status >= 0) pf_replace(h, y);
    return status;
}

/* x (B, L, D), or (B, D) in a step -> the same */
static int block_run(pf_module *m, pf_engine *e, const pf_run *run, pf_tensor *x, pf_tensor **y) {
    const block_self *self = m->self;
    if (self->residual == PRE) return run_pre(m, e, run, x, y);
    *y = pf_tensor_retain(x);
    int status = add_branch(m, e, run, 0, y);
    if (status >= 0) status = add_branch(m, e, run, 1, y);
    if (status < 0) pf_tensor_release(y);
    return status;
}

const pf_layer pf_layer_block = {
    .name = "block",
    .doc = "Performer block: attention and mlp, each around a residual.",
    .options = block_options,
    .n_options = PF_COUNT(block_options),
    .width = "dim",
    .self_bytes = sizeof(block_self),
    .build = block_build,
    .run = block_run,
    .branch = block_branch,
    .state = pf_state_of_children,
};
