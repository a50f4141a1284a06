/*
 * rule.h - what an optimizer is: a row of its options, its moments and its update. A new one is a
 * file with its row and a line in optimizers.def; making, clipping, checkpoints, messages, help
 * and Lua follow from the row, and nothing else asks which one it is.
 *
 * An update goes over fixed ranges of a parameter in parallel and takes every number by itself,
 * so that its bits don't depend on the threads; a rule may take some matrices whole.
 */
#ifndef PF_RULE_H
#define PF_RULE_H

#include "kern.h"
#include "optim.h"

enum { PF_MOMENTS_MAX = 2, PF_RULE_CONSTANTS = 8, PF_RULE_OPTIONS = 16 };

/* A range of one parameter in one step: n numbers, the arrays begin at its first. */
typedef struct pf_update {
    const pf_kern *kern;
    int64_t n;
    float *p, *moment[PF_MOMENTS_MAX];
    const float *g;
    float gscale;               /* what clipping leaves of g */
    float lr, decay;            /* decay 0 where the parameter is no matrix */
    float *room;                /* for a whole matrix: whole_room floats */
    float c[PF_RULE_CONSTANTS]; /* what the rule's `begin` worked out for this step */
} pf_update;

typedef struct pf_optimizer_rule {
    const char *name, *doc;
    const pf_option_info *options; /* `lr` and `decay` among them; what all rules share is added */
    int n_options;
    const char *mean; /* the option that says how long a mean gradient is remembered; or NULL */
    bool squares;     /* a moment is of squared gradients: they have to fit a float */
    int n_moments;    /* numbers remembered of each parameter, zero at first */
    const char *moment[PF_MOMENTS_MAX]; /* what files call them: "m" is saved as "<param>.m" */
    /* The constants c of step `step`, which counts from 1. */
    void (*begin)(const pf_config *options, uint64_t step, float *c);
    void (*range)(const pf_update *u);
    /* Of a rule that takes some matrices whole, else NULL: does it take one, which is the weight of
     * a linear layer inside the model, or not? Then the update of a matrix (rows, cols), of which
     * the first `whole_moments` moments are kept. Its bits don't depend on the threads either. */
    bool (*takes_whole)(const pf_config *options, bool linear);
    int whole_moments;
    int64_t (*whole_room)(int64_t rows, int64_t cols);
    /* Multiplications with an addition, which its work is counted by. */
    double (*whole_products)(const pf_config *options, int64_t rows, int64_t cols);
    /* Room for that, before anything moves: then it can't fail. */
    int (*whole_ready)(pf_engine *e, int64_t rows, int64_t cols);
    int (*whole)(const pf_update *u, pf_engine *e, int64_t rows, int64_t cols);
} pf_optimizer_rule;

/* The options that every rule has, with a default of its own. */
#define PF_RULE_LR(value)                                                                          \
    {                                                                                              \
        .name = "lr", .kind = PF_OPT_NUMBER, .number = (value), .low = 0, .high = 1e6,             \
        .doc = "learning rate of a step that is not given its own"                                 \
    }
#define PF_RULE_DECAY(value)                                                                       \
    {                                                                                              \
        .name = "decay", .kind = PF_OPT_NUMBER, .number = (value), .low = 0, .high = 1e3,          \
        .doc = "weight decay of matrices, times the learning rate"                                 \
    }

#define PF_OPTIMIZER(name) extern const pf_optimizer_rule pf_optimizer_##name;
#include "optimizers.def"
#undef PF_OPTIMIZER

/* rules.c: the rule that options{type} name, once they fit it. */
int pf_rule_resolve(const pf_optimizer_rule **rule, const pf_config *options);
/* An option's value, or its default; the rule must have it. */
double pf_rule_option(const pf_optimizer_rule *rule, const pf_config *options, const char *name);
const char *pf_rule_text(const pf_optimizer_rule *rule, const pf_config *options, const char *name);
/* Is that an option of every rule, beside type, lr and decay; and its value. */
bool pf_rule_shares(const char *name);
double pf_rule_shared(const pf_config *options, const char *name);

#endif
