/*
 * adamw.c - AdamW (Loshchilov and Hutter 2017), at step t:
 *   m = beta1 m + (1 - beta1) g         v = beta2 v + (1 - beta2) g^2
 *   p = p - lr (m / (1 - beta1^t) / (sqrt(v / (1 - beta2^t)) + eps) + decay p)
 */
#include <math.h>

#include "adam.h"

static const pf_option_info adamw_options[] = {
    PF_RULE_LR(3e-4),
    PF_RULE_DECAY(0.1),
    PF_ADAM_OPTIONS(0.9, 0.98, 1e-9),
};

/* The means begin at zero: C1 and C2 make up for that in the first steps. */
enum { BETA1, BETA2, EPS, C1, C2 };

void pf_adam_begin(const pf_optimizer_rule *rule, const pf_config *options, uint64_t step,
                   float *c) {
    double beta1 = pf_rule_option(rule, options, "beta1");
    double beta2 = pf_rule_option(rule, options, "beta2");
    c[BETA1] = (float)beta1, c[BETA2] = (float)beta2;
    c[EPS] = (float)pf_rule_option(rule, options, "eps");
    c[C1] = (float)(1 / (1 - pow(beta1, (double)step)));
    c[C2] = (float)(1 / (1 - pow(beta2, (double)step)));
}

void pf_adam_range(const pf_update *u) {
    const float *c = u->c;
    u->kern->adamw(u->n, u->p, u->g, u->moment[0], u->moment[1], u->gscale, u->lr, c[BETA1],
                   c[BETA2], c[EPS], u->decay, c[C1], c[C2]);
}

static void adamw_begin(const pf_config *options, uint64_t step, float *c) {
    pf_adam_begin(&pf_optimizer_adamw, options, step, c);
}

const pf_optimizer_rule pf_optimizer_adamw = {
    .name = "adamw",
    .doc = "AdamW: a step by the mean gradient over the root of the mean squared one. arXiv "
           "1711.05101.",
    .options = adamw_options,
    .n_options = PF_COUNT(adamw_options),
    .mean = "beta1",
    .squares = true,
    .n_moments = 2,
    .moment = {"m", "v"},
    .begin = adamw_begin,
    .range = pf_adam_range,
};
