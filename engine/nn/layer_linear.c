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
    int act;      /* place in the choices */
    int own;      /* slots of the layer itself; behind them A and B of an adapter */
    double scale; /* of the adapter */
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
    if (pf_option_int(m, "bias")) PF_TRY(pf_module_param(m, e, "bias", 1, shape, "zeros"));
    self->own = m->n_slot;
    return PF_OK;
}

/* *y += scale (x A^T) B^T, then the activation */
static int add_adapter(const pf_module *m, pf_engine *e, pf_tensor *x, bool step, pf_tensor **y) {
    const linear_self *self = m->self;
    pf_tensor *low = NULL, *part = NULL, *scaled = NULL, *sum = NULL;
    int status = pf_linear_act(&low, e, x, m->slot[self->own].tensor, NULL, 0, step);
    if (status >= 0) status = pf_affine(&scaled, e, low, self->scale, 0);
    if (status >= 0)
        status = pf_linear_act(&part, e, scaled, m->slot[self->own + 1].tensor, NULL, 0, step);
    if (status >= 0) status = pf_add(&sum, e, *y, part);
    pf_tensor_release(y);
    if (status >= 0) status = pf_act(y, e, sum, self->act);
    pf_tensor_release(&low), pf_tensor_release(&scaled);
    pf_tensor_release(&part), pf_tensor_release(&sum);
    return status;
}

/* x (..., from) -> (..., to) */
static int linear_run(pf_module *m, pf_engine *e, const pf_run *run, pf_tensor *x, pf_tensor **y) {
    const linear_self *self = m->self;
    pf_tensor *weight = m->slot[0].tensor, *bias = self->own > 1 ? m->slot[1].tensor : NULL;
    bool adapted = m->n_slot > self->own, step = run->mode == PF_RUN_STEP;
    PF_TRY(pf_linear_act(y, e, x, weight, bias, adapted ? 0 : self->act, step));
    return adapted ? add_adapter(m, e, x, step, y) : PF_OK;
}

/* Neither an activation nor an adapter stands between the product and the logits. */
static int linear_score(pf_module *m, pf_engine *e, const pf_run *run, pf_tensor *x,
                        pf_score *score) {
    const linear_self *self = m->self;
    pf_tensor *weight = m->slot[0].tensor, *bias = self->own > 1 ? m->slot[1].tensor : NULL;
    if (self->act == 0 && m->n_slot == self->own) {
        return pf_linear_cross_entropy(&score->loss, score->likeliest ? &score->best : NULL, e, x,
                                       weight, bias, score->target, score->each);
    }
    pf_tensor *y = NULL;
    PF_TRY(linear_run(m, e, run, x, &y));
    int status = pf_score_logits(score, e, y);
    pf_tensor_release(&y);
    return status;
}

/* ---- adapters ---- */

static int make_adapter(pf_module *m, pf_engine *e, int64_t rank, double scale) {
    linear_self *self = m->self;
    int64_t a[2] = {rank, pf_option_int(m, "from")}, b[2] = {pf_option_int(m, "to"), rank};
    char init[PF_INIT_TEXT];
    pf_init_text(init, "normal", 1 / sqrt((double)a[1]));
    int status = pf_module_param(m, e, "adapter.a", 2, a, init);
    if (status >= 0) status = pf_module_param(m, e, "adapter.b", 2, b, "zeros");
    if (status < 0) pf_module_drop_slots(m, self->own);
    self->scale = scale;
    return status;
}

static int64_t adapter_rank(const pf_module *m, double *scale) {
    const linear_self *self = m->self;
    if (m->n_slot == self->own) return 0;
    if (scale) *scale = self->scale;
    return m->slot[self->own].tensor->shape[0];
}

/* W += scale B A, each number a sum in double precision */
static void fold_adapter(pf_module *m) {
    const linear_self *self = m->self;
    const pf_tensor *a = m->slot[self->own].tensor, *b = m->slot[self->own + 1].tensor;
    int64_t rank = a->shape[0], from = a->shape[1], to = b->shape[0];
    const float *A = pf_f32(a), *B = pf_f32(b);
    float *W = pf_f32(m->slot[0].tensor);
    for (int64_t i = 0; i < to * from; i++) {
        double sum = 0;
        for (int64_t k = 0; k < rank; k++)
            sum += (double)B[i / from * rank + k] * (double)A[k * from + i % from];
        W[i] = (float)((double)W[i] + self->scale * sum);
    }
    pf_tensor_touch(m->slot[0].tensor, "an adapter that became part of it");
}

static void end_adapter(pf_module *m, bool fold) {
    const linear_self *self = m->self;
    if (adapter_rank(m, NULL) == 0) return;
    if (fold) fold_adapter(m);
    pf_module_drop_slots(m, self->own);
}

static const pf_adapting linear_adapting = {make_adapter, adapter_rank, end_adapter};

const pf_layer pf_layer_linear = {
    .name = "linear",
    .doc = "y = act(x weight^T + bias), on the last dimension.",
    .options = linear_options,
    .n_options = PF_COUNT(linear_options),
    .width = "to",
    .self_bytes = sizeof(linear_self),
    .build = linear_build,
    .run = linear_run,
    .score = linear_score,
    .adapting = &linear_adapting,
};

pf_config *pf_linear_options(const pf_module *m, int64_t from, int64_t to, bool bias, double init) {
    pf_config *o = pf_options_number(pf_config_new_in(m->heap, PF_MAP), "from", (double)from);
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
