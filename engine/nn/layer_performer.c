/*
 * layer_performer.c - the whole language model: embedding (with an n-gram memory beside it, if
 * wished), positions, blocks, a last norm and the head, which is the embedding's own table unless
 * the options say otherwise.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "module.h"

#define HEAD_ACT "gelu"

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
    {.name = "shared",
     .kind = PF_OPT_BOOL,
     .later = true,
     .doc = "all blocks are one, applied `layers` times (ALBERT, Universal Transformer): its "
            "weights and its projection stand once, streams remember for each time"},
    {.name = "embedding_dim",
     .kind = PF_OPT_INT,
     .low = 0,
     .high = 1 << 20,
     .later = true,
     .doc = "width of the embedding and what is added to it, before a linear layer makes it dim "
            "wide (ALBERT's factors); 0: dim, and no such layer"},
    {.name = "embedding_norm",
     .kind = PF_OPT_BOOL,
     .later = true,
     .doc = "a norm over the embedding with its positions (BERT)"},
#include "options_block.def"
    {.name = "attentions",
     .kind = PF_OPT_TREE,
     .later = true,
     .doc = "in Lua attention = {\"exact\", \"favor\", ...}: each layer's attention in place of "
            "`attention`, a name or {name = NAME, OPTION = ...}; as many as layers, or a number "
            "that divides them, which then go round"},
    {.name = "kernels",
     .kind = PF_OPT_TREE,
     .later = true,
     .doc = "in Lua kernel = {{...}, ...}: each layer's kernel in place of `kernel`; as many as "
            "layers, or a number that divides them"},
    {.name = "positions",
     .kind = PF_OPT_STRING,
     .string = "rotary",
     .choices = "rotary|sinusoidal|learned|axial|axial_sinusoidal|none|relative",
     .doc =
         "how a position knows where it is: rotary turns pairs of a head's channels "
         "(rotary_pairs), sinusoidal adds sin to even channels and cos to odd ones, learned "
         "adds rows of a table, the axial ones add them for each of the axes, relative gives the "
         "scores of a window a term by distance (Transformer-XL)"},
    {.name = "axes",
     .kind = PF_OPT_TREE,
     .later = true,
     .doc = "sizes of the axes of axial positions, the last one counting fastest, as {height, "
            "width, colours}"},
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
    {.name = "head",
     .kind = PF_OPT_STRING,
     .choices = "tied|linear|transform",
     .later = true,
     .doc = "what makes logits: tied, the embedding's table, behind a linear layer where that has "
            "a width of its own; linear, a matrix of its own; transform, BERT's head for masked "
            "tokens, a linear layer with activation and norm before the table (before a matrix "
            "with tied = false); not given: as tied says"},
    {.name = "head_act",
     .kind = PF_OPT_STRING,
     .string = HEAD_ACT,
     .choices = PF_ACTS,
     .later = true,
     .doc = "activation of the head transform"},
    {.name = "head_bias",
     .kind = PF_OPT_BOOL,
     .number = PF_OPT_NONE,
     .later = true,
     .doc = "a bias a token behind the head's matrix or table; not given: with head transform"},
    {.name = "reversible",
     .kind = PF_OPT_BOOL,
     .doc = "the blocks as a reversible layer, whose activations do not grow with depth; another "
            "architecture, with the same parameters; recompute then has no effect"},
    {.name = "types",
     .kind = PF_OPT_INT,
     .low = 0,
     .high = 1 << 24,
     .later = true,
     .doc = "types of tokens, rows of a table that the input types chooses from (BERT); 0: none"},
    {.name = "ngrams",
     .kind = PF_OPT_TREE,
     .doc = "options of an ngrams layer, whose rows join the embedding's; none: no such layer"},
};

typedef struct performer_self {
    /* children; -1: none */
    int ngrams, positions, types, embedding_norm, widen, blocks, norm;
    int before_head[2], head; /* narrow, or transform and its norm; the matrix */
    int64_t width;            /* of the embedding */
    double dropout;
    pf_tensor *head_bias; /* (vocab) of a tied head, the slot's; NULL: none */
} performer_self;

/* ---- building ---- */

static int make_positions(pf_module *m, pf_engine *e, const char *kind) {
    pf_config *o = pf_module_pass_on(m, "positions");
    /* Waves as high as the embedding's rows, so that neither drowns the other. */
    double width = (double)((performer_self *)m->self)->width;
    o = pf_options_number(pf_options_number(o, "dim", width), "scale", sqrt(2 / width));
    return pf_module_inner(m, e, "positions", "positions", pf_options_string(o, "kind", kind));
}

static int make_ngrams(pf_module *m, pf_engine *e, const pf_config *options) {
    const performer_self *self = m->self;
    pf_config *o =
        pf_options_number(pf_config_copy_in(m->heap, options), "dim", (double)self->width);
    return pf_module_inner(m, e, "ngrams", "ngrams", o);
}

/* The embedding and all that stands between it and the blocks. */
static int make_embedding(pf_module *m, pf_engine *e) {
    performer_self *self = m->self;
    const char *kind = pf_option_text(m, "positions");
    const pf_config *ngrams = pf_config_get(m->options, "ngrams");
    bool added =
        strcmp(kind, "rotary") != 0 && strcmp(kind, "none") != 0 && strcmp(kind, "relative") != 0;
    int64_t dim = pf_option_int(m, "dim"), own = pf_option_int(m, "embedding_dim");
    self->width = own > 0 ? own : dim;
    pf_config *o = pf_module_pass_on(m, "embedding");
    o = pf_options_number(o, "dim", (double)self->width);
    PF_TRY(pf_module_inner(m, e, "embedding", "embedding", o));
    self->ngrams = ngrams ? m->n_child : -1;
    if (ngrams) PF_TRY(make_ngrams(m, e, ngrams));
    self->positions = added ? m->n_child : -1;
    if (added) PF_TRY(make_positions(m, e, kind));
    self->types = pf_option_int(m, "types") > 0 ? m->n_child : -1;
    if (self->types >= 0) {
        o = pf_options_number(pf_module_pass_on(m, "types"), "dim", (double)self->width);
        PF_TRY(pf_module_inner(m, e, "types", "types", o));
    }
    self->embedding_norm = pf_option_int(m, "embedding_norm") ? m->n_child : -1;
    if (self->embedding_norm >= 0) PF_TRY(pf_module_norm(m, e, "embedding_norm", self->width));
    self->widen = own > 0 ? m->n_child : -1;
    if (own == 0) return PF_OK;
    o = pf_linear_options(m, own, dim, pf_option_int(m, "bias") != 0, 1);
    return pf_module_inner(m, e, "widen", "linear", o);
}

/* Blocks that end in a norm need no other. */
static bool has_final_norm(const pf_module *m) {
    double own = pf_option_number(m, "final_norm");
    return isnan(own) ? strcmp(pf_option_text(m, "residual"), "post") != 0 : own != 0;
}

/* What stands between the last norm and the head's table, `width` wide. */
static int make_before_head(pf_module *m, pf_engine *e, bool transform, int64_t width) {
    performer_self *self = m->self;
    int64_t dim = pf_option_int(m, "dim");
    self->before_head[0] = self->before_head[1] = -1;
    if (!transform && (self->widen < 0 || width == dim)) return PF_OK;
    self->before_head[0] = m->n_child;
    bool bias = transform && pf_option_int(m, "bias") != 0;
    pf_config *o = pf_linear_options(m, dim, width, bias, 1);
    if (!transform) return pf_module_inner(m, e, "narrow", "linear", o);
    o = pf_options_string(o, "act", pf_option_text(m, "head_act"));
    PF_TRY(pf_module_inner(m, e, "transform", "linear", o));
    self->before_head[1] = m->n_child;
    return pf_module_norm(m, e, "transform_norm", width);
}

static int make_head(pf_module *m, pf_engine *e) {
    performer_self *self = m->self;
    const char *kind = pf_option_text(m, "head");
    int64_t dim = pf_option_int(m, "dim"), vocab = pf_option_int(m, "vocab");
    bool transform = kind && strcmp(kind, "transform") == 0;
    bool tied = kind && !transform ? strcmp(kind, "tied") == 0 : pf_option_int(m, "tied") != 0;
    double own_bias = pf_option_number(m, "head_bias");
    bool bias = isnan(own_bias) ? transform : own_bias != 0;
    int64_t width = tied || transform ? self->width : dim;
    PF_TRY(make_before_head(m, e, transform, width));
    self->head = tied ? -1 : m->n_child;
    if (!tied) {
        return pf_module_inner(m, e, "head", "linear", pf_linear_options(m, width, vocab, bias, 1));
    }
    if (bias) PF_TRY(pf_module_param(m, e, "head_bias", 1, &vocab, "zeros"));
    self->head_bias = pf_module_tensor(m, "head_bias");
    return PF_OK;
}

/* Options that would be passed over in silence. */
static int check_useless(const pf_module *m, const pf_engine *e) {
    const char *head = pf_option_text(m, "head");
    bool axial = strncmp(pf_option_text(m, "positions"), "axial", 5) == 0;
    if (pf_config_get(m->options, "axes") && !axial)
        PF_TRY(pf_option_useless(m, e, "axes", "positions = axial or axial_sinusoidal"));
    if (strcmp(pf_option_text(m, "head_act"), HEAD_ACT) != 0 &&
        (!head || strcmp(head, "transform") != 0))
        PF_TRY(pf_option_useless(m, e, "head_act", "head = transform"));
    if (head && strcmp(head, "tied") == 0 && !pf_option_int(m, "tied"))
        PF_TRY(pf_option_useless(m, e, "tied", "models without head = tied"));
    if (pf_option_int(m, "memory_dim") && !pf_option_int(m, "cross"))
        PF_TRY(pf_option_useless(m, e, "memory_dim", "cross = true"));
    return PF_OK;
}

static int performer_build(pf_module *m, pf_engine *e) {
    performer_self *self = m->self;
    PF_TRY(check_useless(m, e));
    self->dropout = pf_option_number(m, "dropout");
    PF_TRY(pf_attention_decide(m, e));
    PF_TRY(pf_kernel_complete(m, e));
    PF_TRY(pf_performer_lists(m, e));
    PF_TRY(make_embedding(m, e));
    self->blocks = m->n_child;
    PF_TRY(pf_performer_blocks(m, e));
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

/* *h behind the first run->hidden of the blocks. */
static int run_blocks(pf_module *m, pf_engine *e, const pf_run *run, pf_tensor **h) {
    const performer_self *self = m->self;
    int64_t n = run->hidden;
    pf_tensor *y = NULL;
    pf_module *blocks = m->child[self->blocks].module;
    if (n > blocks->n_child) {
        return pf_fail(PF_EINVAL,
                       "performer: hidden states behind block %lld are asked for; there "
                       "are %d blocks",
                       (long long)n, blocks->n_child);
    }
    if (blocks->type != &pf_layer_chain) {
        return pf_fail(PF_EINVAL, "performer: between reversible blocks no states can be had, only "
                                  "behind them all");
    }
    PF_TRY(pf_run_only(m, self->blocks, e, run, *h, &y));
    pf_replace(h, y);
    return PF_OK;
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

static pf_tensor *table_of(const pf_module *m) { return m->child[0].module->slot[0].tensor; }

static int head(pf_module *m, pf_engine *e, const pf_run *run, pf_tensor *h, pf_tensor **y) {
    const performer_self *self = m->self;
    if (self->head >= 0) return pf_run_child(m, self->head, e, run, h, y);
    pf_tensor *table = table_of(m);
    if (run->mode == PF_RUN_STEP) return pf_linear_act(y, e, h, table, self->head_bias, 0, true);
    return pf_linear(y, e, h, table, self->head_bias);
}

/* *h, as the blocks leave it, made ready for the table */
static int before_head(pf_module *m, pf_engine *e, const pf_run *run, pf_tensor **h) {
    const performer_self *self = m->self;
    int status = PF_OK;
    for (int i = 0; i < PF_COUNT(self->before_head) && status >= 0; i++) {
        status = pf_run_through(m, self->before_head[i], e, run, h);
    }
    return status;
}

/* h (B, L, D), or (B, D) -> logits */
static int performer_head(pf_module *m, pf_engine *e, const pf_run *run, pf_tensor *h,
                          pf_tensor **y) {
    pf_tensor *x = pf_tensor_retain(h);
    int status = before_head(m, e, run, &x);
    if (status >= 0) status = head(m, e, run, x, y);
    pf_tensor_release(&x);
    return status;
}

/* ids (B, L), or (B) in a step -> what the head reads, (B, L, D) or (B, D) */
static int body(pf_module *m, pf_engine *e, const pf_run *run, pf_tensor *x, pf_tensor **y) {
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
    if (status >= 0) status = pf_run_through(m, self->types, e, run, &h);
    if (status >= 0) status = pf_run_through(m, self->embedding_norm, e, run, &h);
    if (status >= 0) status = pf_run_dropout(e, run, self->dropout, &h);
    if (status >= 0) status = pf_run_through(m, self->widen, e, run, &h);
    if (status >= 0 && run->hidden > 0) {
        status = run_blocks(m, e, run, &h);
        if (status < 0) pf_tensor_release(&h);
        *y = h;
        return status;
    }
    if (status >= 0) status = pf_run_through(m, self->blocks, e, run, &h);
    if (status >= 0 && run->last && rank == 2) status = keep_last(e, &h);
    if (status >= 0) status = pf_run_through(m, self->norm, e, run, &h);
    if (status >= 0 && !run->hidden) status = before_head(m, e, run, &h);
    if (status < 0) pf_tensor_release(&h);
    *y = h;
    return status;
}

/* ids (B, L), or (B) in a step -> logits (B, L, vocab), or (B, vocab) */
static int performer_run(pf_module *m, pf_engine *e, const pf_run *run, pf_tensor *x,
                         pf_tensor **y) {
    pf_tensor *h = NULL;
    PF_TRY(body(m, e, run, x, run->hidden ? y : &h));
    if (run->hidden) return PF_OK;
    int status = head(m, e, run, h, y);
    pf_tensor_release(&h);
    return status;
}

static int performer_score(pf_module *m, pf_engine *e, const pf_run *run, pf_tensor *x,
                           pf_score *score) {
    const performer_self *self = m->self;
    pf_tensor *h = NULL;
    PF_TRY(body(m, e, run, x, &h));
    int status =
        self->head >= 0
            ? pf_run_child_scored(m, self->head, e, run, h, score)
            : pf_linear_cross_entropy(&score->loss, score->likeliest ? &score->best : NULL, e, h,
                                      table_of(m), self->head_bias, score->target, score->each);
    pf_tensor_release(&h);
    return status;
}

const pf_layer pf_layer_performer = {
    .name = "performer",
    .doc = "A language model: token ids (B, L) -> logits (B, L, vocab), through blocks of "
           "attention and mlp.",
    .options = performer_options,
    .n_options = PF_COUNT(performer_options),
    .width = "vocab",
    .hidden_width = "dim",
    .self_bytes = sizeof(performer_self),
    .build = performer_build,
    .run = performer_run,
    .score = performer_score,
    .head = performer_head,
    .state = pf_state_of_children,
};
