/*
 * layer_block.c - the Performer block, two residual branches. By the option `residual`:
 *   pre     h = x + attention(conv(norm1(x)))     y = h + mlp(norm2(h))
 *   post    h = norm1(x + attention(conv(x)))     y = norm2(h + mlp(h))
 *   rezero  h = x + a attention(conv(x))          y = h + b mlp(h)
 * With token_shift a layer shift stands before conv, or attention, and before mlp.
 * A sum and the norm behind it are one op where the norm's type has one.
 * Dropout is that of attention and mlp, on what they add.
 *
 * A decoder's block (option cross) has a third branch between the two, of the same form:
 * cross-attention, with its own norm or scale. Where branches are taken by twos (reversible) it is
 * part of the first one: f(x) = attention(..) + cross(cross_norm(x + attention(..))).
 */
#include <string.h>

#include "module.h"

static const pf_option_info block_options[] = {
#include "options_block.def"
    {.name = "rotary",
     .kind = PF_OPT_BOOL,
     .doc = "rotary positions on queries and keys, in pairs as rotary_pairs says"},
#include "options_relative.def"
#include "options_place.def"
};

typedef enum { PRE, POST, REZERO } residual_kind; /* places in the option's choices */

enum { ATTENTION, MLP, CROSS, PARTS }; /* branches */

typedef struct block_self {
    residual_kind residual;
    bool grouped; /* attention is of several layers, from its place on (block_heads.c) */
    int conv;     /* children; -1: none */
    int shift[PARTS], norm[PARTS], part[PARTS];
    pf_tensor *scale[PARTS]; /* (1), rezero's, borrowed from the slots; NULL: none */
} block_self;

/* Attention or mlp, with the biases that the options say of it. */
static int make_part(pf_module *m, pf_engine *e, const char *name, const char *type,
                     const char *bias) {
    pf_config *o = pf_module_pass_on(m, type);
    o = pf_options_bool(o, "bias", pf_option_part(m, bias, "bias"));
    bool grouped = ((block_self *)m->self)->grouped && strcmp(name, "attention") == 0;
    return grouped ? pf_block_make_groups(m, e, o) : pf_module_inner(m, e, name, type, o);
}

/* The norm and the scale of branch i, and the branch. */
static int make_branch(pf_module *m, pf_engine *e, int i, const char *const *name) {
    enum { NAME, TYPE, NORM, BIAS, SCALE };
    block_self *self = m->self;
    int64_t dim = pf_option_int(m, "dim"), one = 1;
    self->norm[i] = self->residual == REZERO ? -1 : m->n_child;
    if (self->norm[i] >= 0) PF_TRY(pf_module_norm(m, e, name[NORM], dim));
    if (self->residual == REZERO) PF_TRY(pf_module_param(m, e, name[SCALE], 1, &one, "zeros"));
    self->scale[i] = pf_module_tensor(m, name[SCALE]);
    self->part[i] = m->n_child;
    return make_part(m, e, name[NAME], name[TYPE], name[BIAS]);
}

/* Behind all other children: a block without it keeps its places. */
static int make_cross(pf_module *m, pf_engine *e) {
    static const char *const names[] = {"cross", "cross_attention", "cross_norm", "attention_bias",
                                        "cross_scale"};
    block_self *self = m->self;
    self->part[CROSS] = self->shift[CROSS] = -1;
    if (pf_option_int(m, "cross")) return make_branch(m, e, CROSS, names);
    return pf_option_int(m, "memory_dim") ? pf_option_useless(m, e, "memory_dim", "cross = true")
                                          : PF_OK;
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
    static const char *const attention[] = {"attention", "attention", "norm1", "attention_bias",
                                            "attention_scale"};
    static const char *const mlp[] = {"mlp", "mlp", "norm2", "mlp_bias", "mlp_scale"};
    block_self *self = m->self;
    int64_t conv = pf_option_int(m, "conv");
    m->recompute = pf_option_int(m, "recompute") != 0;
    self->residual =
        (residual_kind)pf_choice_place("pre|post|rezero", pf_option_text(m, "residual"));
    PF_TRY(pf_attention_decide(m, e));
    PF_TRY(pf_kernel_complete(m, e));
    PF_TRY(pf_block_local_heads(m, e));
    PF_TRY(pf_block_settle_groups(m, e));
    self->grouped = pf_config_get(m->options, "head_groups") != NULL;
    PF_TRY(make_branch(m, e, ATTENTION, attention));
    PF_TRY(make_branch(m, e, MLP, mlp));
    self->conv = conv == 0 ? -1 : m->n_child;
    if (conv > 0) {
        pf_config *o = pf_options_number(pf_module_pass_on(m, "conv"), "width", (double)conv);
        PF_TRY(pf_module_inner(m, e, "conv", "conv", o));
    }
    PF_TRY(make_shifts(m, e));
    return make_cross(m, e);
}

/* ---- running ---- */

/* *h = what branch `which` makes of *h, normed before if need be: all but the sum */
static int run_branch(pf_module *m, pf_engine *e, const pf_run *run, int which, pf_tensor **h) {
    const block_self *self = m->self;
    int status = pf_run_through(m, self->shift[which], e, run, h);
    if (status >= 0 && which == ATTENTION) status = pf_run_through(m, self->conv, e, run, h);
    if (status >= 0) {
        status = which == ATTENTION && self->grouped
                     ? pf_block_run_groups(m, self->part[which], e, run, h)
                     : pf_run_through(m, self->part[which], e, run, h);
    }
    if (status < 0 || !self->scale[which]) return status;
    pf_tensor *in[2] = {*h, self->scale[which]}, *y = NULL;
    PF_TRY(pf_apply(e, &pf_op_mul, in, 2, NULL, &y));
    pf_replace(h, y);
    return PF_OK;
}

/* *y = branch `which` of x, with its norm where that stands before it */
static int one_branch(pf_module *m, pf_engine *e, const pf_run *run, int which, pf_tensor *x,
                      pf_tensor **y) {
    const block_self *self = m->self;
    *y = pf_tensor_retain(x);
    int status = self->residual == PRE ? pf_run_through(m, self->norm[which], e, run, y) : PF_OK;
    if (status >= 0) status = run_branch(m, e, run, which, y);
    if (status < 0) pf_tensor_release(y);
    return status;
}

/* The two halves' branches, cross-attention within the first: *y += cross(x + *y) */
static int block_branch(pf_module *m, pf_engine *e, const pf_run *run, int which, pf_tensor *x,
                        pf_tensor **y) {
    const block_self *self = m->self;
    pf_tensor *sum = NULL, *h = NULL, *both = NULL;
    PF_TRY(one_branch(m, e, run, which, x, y));
    if (which != ATTENTION || self->part[CROSS] < 0) return PF_OK;
    int status = pf_add(&sum, e, x, *y);
    if (status >= 0) status = one_branch(m, e, run, CROSS, sum, &h);
    if (status >= 0) status = pf_add(&both, e, *y, h);
    pf_tensor_release(&sum);
    pf_tensor_release(&h);
    pf_replace(y, both);
    return status;
}

/* *sum += *h, and *h = norm(*sum), in one op */
static int sum_and_norm(pf_module *m, pf_engine *e, const pf_run *run, int norm, pf_tensor **sum,
                        pf_tensor **h) {
    pf_tensor *next = NULL, *y = NULL;
    PF_TRY(pf_run_child_sum(m, norm, e, run, *sum, *h, &next, &y));
    pf_replace(sum, next);
    pf_replace(h, y);
    return PF_OK;
}

/* Pre: a sum and the norm of the next branch are one op. */
static int run_pre(pf_module *m, pf_engine *e, const pf_run *run, pf_tensor *x, pf_tensor **y) {
    const block_self *self = m->self;
    pf_tensor *sum = pf_tensor_retain(x), *h = NULL;
    int status = one_branch(m, e, run, ATTENTION, x, &h);
    if (status >= 0 && self->part[CROSS] >= 0) {
        status = sum_and_norm(m, e, run, self->norm[CROSS], &sum, &h);
        if (status >= 0) status = run_branch(m, e, run, CROSS, &h);
    }
    if (status >= 0) status = sum_and_norm(m, e, run, self->norm[MLP], &sum, &h);
    if (status >= 0) status = run_branch(m, e, run, MLP, &h);
    if (status >= 0) status = pf_add(y, e, sum, h);
    pf_tensor_release(&h);
    pf_tensor_release(&sum);
    return status;
}

/* Post and rezero: *h = norm(*h + f(*h)), or *h + a f(*h) */
static int add_branch(pf_module *m, pf_engine *e, const pf_run *run, int which, pf_tensor **h) {
    const block_self *self = m->self;
    pf_tensor *f = NULL, *sum = NULL, *y = NULL;
    PF_TRY(one_branch(m, e, run, which, *h, &f));
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
    int status = add_branch(m, e, run, ATTENTION, y);
    if (status >= 0 && self->part[CROSS] >= 0) status = add_branch(m, e, run, CROSS, y);
    if (status >= 0) status = add_branch(m, e, run, MLP, y);
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
