/*
 * layer_head.c - heads on a trunk: classifier and regressor, of a whole sequence or of every
 * position. The trunk is any layer that gives (B, L, D); of a model with a head it is what that
 * head reads, so that a language model becomes a classifier with the weights that it has.
 */
#include <string.h>

#include "module.h"

static const pf_option_info classifier_options[] = {
    {.name = "classes",
     .kind = PF_OPT_INT,
     .low = 1,
     .high = 1 << 24,
     .required = true,
     .doc = "number of classes"},
#include "options_head.def"
};

static const pf_option_info regressor_options[] = {
    {.name = "values",
     .kind = PF_OPT_INT,
     .number = 1,
     .low = 1,
     .high = 1 << 24,
     .doc = "how many numbers are estimated"},
#include "options_head.def" /* NOLINT(readability-duplicate-include): the same rows again */
};

enum { TRUNK }; /* child */

typedef struct head_self {
    int pool, hidden, output; /* children; -1: none */
    int64_t dim;
    double dropout;
} head_self;

/* ---- building ---- */

/* What the trunk gives; what only the host knows an option has to say. */
static int resolve_width(pf_module *m, head_self *self) {
    int64_t own = pf_option_int(m, "dim"), trunk = pf_module_hidden_width(m->child[TRUNK].module);
    self->dim = own > 0 ? own : trunk;
    if (self->dim > 0 && (own == 0 || trunk <= 0 || own == trunk)) return PF_OK;
    if (self->dim > 0) {
        return pf_fail(PF_EINVAL, "%s: dim is %lld, but the trunk gives %lld", m->type->name,
                       (long long)own, (long long)trunk);
    }
    return pf_fail(PF_EINVAL,
                   "%s: how wide the trunk's output is its layers don't say: give the "
                   "option dim",
                   m->type->name);
}

static int make_pool(pf_module *m, pf_engine *e, head_self *self) {
    pf_config *o =
        pf_options_string(pf_config_new_in(m->heap, PF_MAP), "of", pf_option_text(m, "pool"));
    self->pool = m->n_child;
    return pf_module_inner(m, e, "pool", "pool", pf_options_number(o, "dim", (double)self->dim));
}

static int head_build(pf_module *m, pf_engine *e) {
    head_self *self = m->self;
    const int64_t hidden = pf_option_int(m, "hidden");
    bool bias = pf_option_int(m, "bias") != 0;
    self->dropout = pf_option_number(m, "dropout");
    self->pool = self->hidden = -1;
    PF_TRY(resolve_width(m, self));
    if (strcmp(pf_option_text(m, "of"), "token") != 0) PF_TRY(make_pool(m, e, self));
    if (hidden > 0) {
        pf_config *o = pf_linear_options(m, self->dim, hidden, bias, 1);
        self->hidden = m->n_child;
        o = pf_options_string(o, "act", pf_option_text(m, "act"));
        PF_TRY(pf_module_inner(m, e, "hidden", "linear", o));
    }
    self->output = m->n_child;
    const int64_t last = hidden > 0 ? hidden : self->dim;
    pf_config *o = pf_linear_options(m, last, pf_option_int(m, m->type->width), bias, 1);
    return pf_module_inner(m, e, "output", "linear", o);
}

/* ---- running ---- */

/* x as the trunk takes it -> (B, n) of a sequence; (B, L, n), or (B, n) in a step, of a position */
static int head_run(pf_module *m, pf_engine *e, const pf_run *run, pf_tensor *x, pf_tensor **y) {
    const head_self *self = m->self;
    pf_tensor *h = NULL;
    PF_TRY(pf_run_hidden(m, TRUNK, e, run, x, &h));
    int rank = run->mode == PF_RUN_STEP ? 2 : 3, status = PF_OK;
    if (h->rank != rank || h->shape[rank - 1] != self->dim) {
        status =
            pf_fail(PF_ESHAPE, "%s: the trunk gives %s, must be %s with D = %lld", m->type->name,
                    pf_shape_of(h), rank == 2 ? "(B, D)" : "(B, L, D)", (long long)self->dim);
    }
    if (status >= 0) status = pf_run_through(m, self->pool, e, run, &h);
    if (status >= 0) status = pf_run_through(m, self->hidden, e, run, &h);
    if (status >= 0) status = pf_run_dropout(e, run, self->dropout, &h);
    if (status >= 0) status = pf_run_child(m, self->output, e, run, h, y);
    pf_tensor_release(&h);
    return status;
}

#define HEAD_HOOKS                                                                                 \
    .min_children = 1, .max_children = 1, .self_bytes = sizeof(head_self), .build = head_build,    \
    .run = head_run, .state = pf_state_of_children

const pf_layer pf_layer_classifier = {
    .name = "classifier",
    .doc = "Logits of classes, for cross_entropy: of a sequence (B, classes), or of every position "
           "(B, L, classes), from the states of its child, in Lua trunk = it.",
    .options = classifier_options,
    .n_options = PF_COUNT(classifier_options),
    .width = "classes",
    HEAD_HOOKS,
};

const pf_layer pf_layer_regressor = {
    .name = "regressor",
    .doc = "Estimates of numbers, for mean_square: of a sequence (B, values), or of every position "
           "(B, L, values), from the states of its child, in Lua trunk = it.",
    .options = regressor_options,
    .n_options = PF_COUNT(regressor_options),
    .width = "values",
    HEAD_HOOKS,
};
