/*
 * layer_performer.c - the whole language model: embedding (with an n-gram memory beside it,
 * if wished), positions, blocks, a last norm and the head, which is the embedding's own table
 * unless tied is false.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "module.h"

static const pf_option_info performer_options[] = {
    {.name = "vocab",
     .kind = PF_OPT_INT,
     .low = 1,
     .high = 1 << 24,
     .required = true,
     .doc = "number of tokens"},
    {.name = "layers",
     .kind = PF_OPT_INT,
     .number = 4,
     .low = 1,
     .high = 4096,
     .doc = "number of blocks"},
#include "options_block.def"
    {.name = "positions",
     .kind = PF_OPT_STRING,
     .string = "rotary",
     .choices = "rotary|sinusoidal|learned|none",
     .doc = "how a position knows where it is: rotary turns pairs of a head's channels "
            "(rotary_pairs), sinusoidal adds sin to even channels and cos to odd ones"},
    {.name = "length",
     .kind = PF_OPT_INT,
     .number = 1024,
     .low = 1,
     .high = 1 << 24,
     .doc = "longest document of learned positions (the others have no limit), and the length "
            "that attention auto chooses for"},
    {.name = "tied",
     .kind = PF_OPT_BOOL,
     .number = 1,
     .doc = "the head is the embedding's table; false: a matrix of its own"},
    {.name = "final_norm",
     .kind = PF_OPT_BOOL,
     .number = PF_OPT_NONE,
     .later = true,
     .doc = "a norm between the last block and the head; not given: but with residual post"},
    {.name = "head_bias",
     .kind = PF_OPT_BOOL,
     .number = PF_OPT_NONE,
     .later = true,
     .doc = "a bias a token behind the head's matrix, the embedding's table too; not given: none"},
    {.name = "reversible",
     .kind = PF_OPT_BOOL,
     .doc = "the blocks as a reversible layer, whose activations do not grow with depth; another "
            "architecture, with the same parameters; recompute then has no effect"},
    {.name = "ngrams",
     .kind = PF_OPT_TREE,
     .doc = "options of an ngrams layer, whose rows join the embedding's; none: no such layer"},
};

typedef struct performer_self {
    int ngrams, positions, blocks, norm, head; /* children; -1: none */
    double dropout;
    pf_tensor *head_bias; /* (vocab) of a tied head, the slot's; NULL: none */
} performer_self;

/* ---- building ---- */

static int make_positions(pf_module *m, pf_engine *e, const char *kind) {
    pf_config *o = pf_module_pass_on(m, "positions");
    /* Waves as high as the embedding's rows, so that neither drowns the other. */
    o = pf_options_number(o, "scale", sqrt(2 / pf_option_number(m, "dim")));
    return pf_module_inner(m, e, "positions", "positions", pf_options_string(o, "kind", kind));
}

static int make_ngrams(pf_module *m, pf_engine *e, const pf_config *options) {
    pf_config *o = pf_options_number(pf_config_copy(options), "dim", pf_option_number(m, "dim"));
    return pf_module_inner(m, e, "ngrams", "ngrams", o);
}

static int make_block(pf_module *m, pf_engine *e, int64_t layer, pf_module **block) {
    bool rotary = strcmp(pf_option_text(m, "positions"), "rotary") == 0;
    pf_config *o = pf_options_number(pf_module_pass_on(m, "block"), "layer", (double)layer);
    o = pf_options_bool(o, "rotary", rotary);
    if (!o) return pf_fail(PF_ENOMEM, "performer: no memory for the options");
    int status = pf_module_new(block, e, "block", o, NULL, 0);
    pf_config_free(o);
    if (status < 0) return pf_fail_in(status, "performer");
    return status;
}

static int make_blocks(pf_module *m, pf_engine *e) {
    int64_t layers = pf_option_int(m, "layers");
    size_t bytes = (size_t)layers * sizeof(pf_module *);
    pf_module *chain = NULL, **block = pf_heap_zalloc(m->heap, bytes);
    if (!block) return PF_ENOMEM;
    int status = PF_OK;
    for (int64_t i = 0; i < layers && status >= 0; i++) status = make_block(m, e, i, &block[i]);
    const char *type = pf_option_int(m, "reversible") ? "reversible" : "chain";
    if (status >= 0) status = pf_module_new(&chain, e, type, NULL, block, (int)layers);
    if (status >= 0) status = pf_module_adopt(m, "blocks", chain);
    pf_module_release(&chain);
    for (int64_t i = 0; i < layers; i++) pf_module_release(&block[i]);
    pf_heap_free(m->heap, block, bytes);
    return status;
}

/* Blocks that end in a norm need no other. */
static bool has_final_norm(const pf_module *m) {
    double own = pf_option_number(m, "final_norm");
    return isnan(own) ? strcmp(pf_option_text(m, "residual"), "post") != 0 : own != 0;
}

static int make_head(pf_module *m, pf_engine *e) {
    performer_self *self = m->self;
    int64_t dim = pf_option_int(m, "dim"), vocab = pf_option_int(m, "vocab");
    bool bias = pf_option_number(m, "head_bias") == 1, tied = pf_option_int(m, "tied") != 0;
    self->head = tied ? -1 : m->n_child;
    if (!tied) {
        return pf_module_inner(m, e, "head", "linear", pf_linear_options(dim, vocab, bias, 1));
    }
    if (bias) PF_TRY(pf_module_param(m, e, "head_bias", 1, &vocab, "zeros"));
    self->head_bias = pf_module_tensor(m, "head_bias");
    return PF_OK;
}

static int performer_build(pf_module *m, pf_engine *e) {
    performer_self *self = m->self;
    const char *kind = pf_option_text(m, "positions");
    bool added = strcmp(kind, "sinusoidal") == 0 || strcmp(kind, "learned") == 0;
    self->dropout = pf_option_number(m, "dropout");
    PF_TRY(pf_attention_decide(m, e));
    PF_TRY(pf_kernel_complete(m, e));
    PF_TRY(pf_module_inner(m, e, "embedding", "embedding", pf_module_pass_on(m, "embedding")));
    const pf_config *ngrams = pf_config_get(m->options, "ngrams");
    self->ngrams = ngrams ? m->n_child : -1;
    if (ngrams) PF_TRY(make_ngrams(m, e, ngrams));
    self->positions = added ? m->n_child : -1;
    if (added) PF_TRY(make_positions(m, e, kind));
    self->blocks = m->n_child;
    PF_TRY(make_blocks(m, e));
    self->norm = has_final_norm(m) ? m->n_child : -1;
    if (self->norm >= 0) PF_TRY(pf_module_norm(m, e, "norm", pf_option_int(m, "dim")));
    return make_head(m, e);
}

/* ---- running ---- */

/* *h (B, L, D), or (B, D), plus the rows of the n-grams that end at the ids */
static int add_ngrams(pf_module *m, pf_engine *e, const pf_run *run, pf_tensor *ids,
                      pf_tensor **h) {
    const performer_self *self = m->self;
    pf_tensor *rows = NULL, *y = NULL;
    if (self->ngrams < 0) return PF_OK;
    PF_TRY(pf_run_child(m, self->ngrams, e, run, ids, &rows));
    int status = pf_add(&y, e, *h, rows);
    pf_tensor_release(&rows);
    if (status >= 0) pf_replace(h, y);
    return status;
}

/* (B, L, D) -> (B, 1, D), the last position */
static int keep_last(pf_engine *e, pf_tensor **h) {
    pf_tensor *y = NULL;
    int64_t length = (*h)->shape[1];
    if (length < 2) return PF_OK;
    PF_TRY(pf_slice(&y, e, *h, 1, length - 1, length));
    pf_replace(h, y);
    return PF_OK;
}

static int head(pf_module *m, pf_engine *e, const pf_run *run, pf_tensor *h, pf_tensor **y) {
    const performer_self *self = m->self;
    if (self->head >= 0) return pf_run_child(m, self->head, e, run, h, y);
    pf_tensor *table = m->child[0].module->slot[0].tensor;
    if (run->mode == PF_RUN_STEP) return pf_linear_act(y, e, h, table, self->head_bias, 0, true);
    return pf_linear(y, e, h, table, self->head_bias);
}

/* ids (B, L), or (B) in a step -> logits (B, L, vocab), or (B, vocab) */
static int performer_run(pf_module *m, pf_engine *e, const pf_run *run, pf_tensor *x,
                         pf_tensor **y) {
    const performer_self *self = m->self;
    int rank = run->mode == PF_RUN_STEP ? 1 : 2;
    if (x->rank != rank || x->dtype != PF_I32) {
        return pf_fail(x->rank != rank ? PF_ESHAPE : PF_EDTYPE,
                       "performer: x is %s %s, must be ids %s i32", pf_shape_of(x),
                       pf_dtype_name(x->dtype), rank == 1 ? "(B)" : "(B, L)");
    }
    pf_tensor *h = pf_tensor_retain(x);
    int status = pf_run_through(m, 0, e, run, &h);
    if (status >= 0) status = add_ngrams(m, e, run, x, &h);
    if (status >= 0) status = pf_run_through(m, self->positions, e, run, &h);
    if (status >= 0) status = pf_run_dropout(e, run, self->dropout, &h);
    if (status >= 0) status = pf_run_through(m, self->blocks, e, run, &h);
    if (status >= 0 && run->last && rank == 2) status = keep_last(e, &h);
    if (status >= 0) status = pf_run_through(m, self->norm, e, run, &h);
    if (status >= 0) status = head(m, e, run, h, y);
    pf_tensor_release(&h);
    return status;
}

const pf_layer pf_layer_performer = {
    .name = "performer",
    .doc = "A language model: token ids (B, L) -> logits (B, L, vocab), through blocks of linear "
           "attention.",
    .options = performer_options,
    .n_options = PF_COUNT(performer_options),
    .width = "vocab",
    .self_bytes = sizeof(performer_self),
    .build = performer_build,
    .run = performer_run,
    .state = pf_state_of_children,
};
