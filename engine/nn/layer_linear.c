/*
 * layer_linear.c - linear and embedding: a matrix, and a table of rows.
 */
#include <math.h>

#include "module.h"

static const pf_option_info linear_options[] = {
    {.name = "from",
     .kind = PF_OPT_INT,
     .low = 1,
     .high = 1 << 24,
     .required = true,
     .doc = "width of the input"},
    {.name = "to",
     .kind = PF_OPT_INT,
     .low = 1,
     .high = 1 << 24,
     .required = true,
     .doc = "width of the output"},
    {.name = "bias", .kind = PF_OPT_BOOL, .number = 1, .doc = "adds a learned vector"},
    {.name = "init",
     .kind = PF_OPT_NUMBER,
     .number = 1,
     .low = 0,
     .high = 1e3,
     .doc = "standard deviation of the first weights, in units of 1/sqrt(from)"},
    {.name = "act",
     .kind = PF_OPT_STRING,
     .string = "none",
     .choices = "none|" PF_ACTS,
     .doc = "activation of the output"},
};

typedef struct linear_self {
    int act; /* place in the choices */
} linear_self;

/* weight (to, from), bias (to) */
static int linear_build(pf_module *m, pf_engine *e) {
    linear_self *self = m->self;
    self->act = pf_choice_place("none|" PF_ACTS, pf_option_text(m, "act"));
    int64_t from = pf_option_int(m, "from");
    int64_t shape[2] = {pf_option_int(m, "to"), from};
    char init[PF_INIT_TEXT];
    pf_init_text(init, "normal", pf_option_number(m, "init") / sqrt((double)from));
    PF_TRY(pf_module_param(m, e, "weight", 2, shape, init));
    return pf_option_int(m, "bias") ? pf_module_param(m, e, "bias", 1, shape, "zeros") : PF_OK;
}

/* x (..., from) -> (..., to) */
static int linear_run(pf_module *m, pf_engine *e, const pf_run *run, pf_tensor *x, pf_tensor **y) {
    const linear_self *self = m->self;
    pf_tensor *weight = m->slot[0].tensor, *bias = m->n_slot > 1 ? m->slot[1].tensor : NULL;
    return pf_linear_act(y, e, x, weight, bias, self->act, run->mode == PF_RUN_STEP);
}

const pf_layer pf_layer_linear = {
    .name = "linear",
    .doc = "y = act(x weight^T + bias), on the last dimension.",
    .options = linear_options,
    .n_options = PF_COUNT(linear_options),
    .width = "to",
    .self_bytes = sizeof(linear_self),
    .build = linear_build,
    .run = linear_run,
};

pf_config *pf_linear_options(int64_t from, int64_t to, bool bias, double init) {
    pf_config *o = pf_options_number(pf_config_new(PF_MAP), "from", (double)from);
    o = pf_options_bool(pf_options_number(o, "to", (double)to), "bias", bias);
    return pf_options_number(o, "init", init);
}

static const pf_option_info embedding_options[] = {
    {.name = "vocab",
     .kind = PF_OPT_INT,
     .low = 1,
     .high = 1 << 24,
     .required = true,
     .doc = "number of tokens"},
    {.name = "dim",
     .kind = PF_OPT_INT,
     .low = 1,
     .high = 1 << 20,
     .required = true,
     .doc = "model width D"},
    {.name = "init",
     .kind = PF_OPT_NUMBER,
     .number = 1,
     .low = 0,
     .high = 1e3,
     .doc = "standard deviation of the first rows, in units of 1/sqrt(dim)"},
};

/* weight (vocab, dim) */
static int embedding_build(pf_module *m, pf_engine *e) {
    int64_t shape[2] = {pf_option_int(m, "vocab"), pf_option_int(m, "dim")};
    char init[PF_INIT_TEXT];
    pf_init_text(init, "normal", pf_option_number(m, "init") / sqrt((double)shape[1]));
    return pf_module_param(m, e, "weight", 2, shape, init);
}

/* ids (...) i32 -> (..., D) */
static int embedding_run(pf_module *m, pf_engine *e, const pf_run *run, pf_tensor *x,
                         pf_tensor **y) {
    (void)run;
    return pf_embedding(y, e, m->slot[0].tensor, x);
}

const pf_layer pf_layer_embedding = {
    .name = "embedding",
    .doc = "Rows of a table by token id: ids (B, L) -> (B, L, D).",
    .options = embedding_options,
    .n_options = PF_COUNT(embedding_options),
    .width = "dim",
    .build = embedding_build,
    .run = embedding_run,
};
