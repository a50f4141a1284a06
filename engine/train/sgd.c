/*
 * sgd.c - gradient descent with momentum:
 *   m = momentum m + g                  p = (1 - lr decay) p - lr m
 */
#include "rule.h"

static const pf_option_info sgd_options[] = {
    PF_RULE_LR(0.1),
    {.name = "momentum",
     .kind = PF_OPT_NUMBER,
     .number = 0.9,
     .low = 0,
     .high = 0.999999,
     .doc = "memory of the gradient"},
    PF_RULE_DECAY(0),
};

enum { MOMENTUM };

static void sgd_begin(const pf_config *options, uint64_t step, float *c) {
    (void)step;
    c[MOMENTUM] = (float)pf_rule_option(&pf_optimizer_sgd, options, "momentum");
}

static void sgd_range(const pf_update *u) {
    float *m = u->moment[0];
    u->kern->scale(u->n, u->c[MOMENTUM], m, m);
    u->kern->axpy(u->n, u->gscale, u->g, m);
    if (u->decay > 0) u->kern->scale(u->n, 1 - u->lr * u->decay, u->p, u->p);
    u->kern->axpy(u->n, -u->lr, m, u->p);
}

const pf_optimizer_rule pf_optimizer_sgd = {
    .name = "sgd",
    .doc = "Gradient descent with momentum.",
    .options = sgd_options,
    .n_options = PF_COUNT(sgd_options),
    .mean = "momentum",
    .n_moments = 1,
    .moment = {"m"},
    .begin = sgd_begin,
    .range = sgd_range,
};
