/*
 * lion.c - Lion (Chen et al. 2023, "Symbolic Discovery of Optimization Algorithms"):
 *   p = p - lr (sign(beta1 m + (1 - beta1) g) + decay p)
 *   m = beta2 m + (1 - beta2) g
 * Every number moves by lr or not at all, so lr is three to ten times smaller than AdamW's and
 * decay larger by as much.
 */
#include "rule.h"

static const pf_option_info lion_options[] = {
    PF_RULE_LR(1e-4),
    PF_RULE_DECAY(0.3),
    {.name = "beta1",
     .kind = PF_OPT_NUMBER,
     .number = 0.9,
     .low = 0,
     .high = 0.999999,
     .doc = "weight of the mean gradient beside this step's, for the sign"},
    {.name = "beta2",
     .kind = PF_OPT_NUMBER,
     .number = 0.99,
     .low = 0,
     .high = 0.9999999,
     .doc = "memory of the mean gradient"},
};

enum { BETA1, REST1, BETA2, REST2 };

static void lion_begin(const pf_config *options, uint64_t step, float *c) {
    double beta1 = pf_rule_option(&pf_optimizer_lion, options, "beta1");
    double beta2 = pf_rule_option(&pf_optimizer_lion, options, "beta2");
    (void)step;
    c[BETA1] = (float)beta1, c[REST1] = (float)(1 - beta1);
    c[BETA2] = (float)beta2, c[REST2] = (float)(1 - beta2);
}

static void lion_range(const pf_update *u) {
    float *restrict p = u->p, *restrict m = u->moment[0];
    const float *restrict g = u->g;
    float beta1 = u->c[BETA1], rest1 = u->c[REST1], beta2 = u->c[BETA2], rest2 = u->c[REST2];
    float gscale = u->gscale, lr = u->lr, keep = 1 - u->lr * u->decay;
    for (int64_t i = 0; i < u->n; i++) {
        float x = gscale * g[i], mix = beta1 * m[i] + rest1 * x;
        float move = mix > 0 ? lr : mix < 0 ? -lr : 0;
        p[i] = keep * p[i] - move;
        m[i] = beta2 * m[i] + rest2 * x;
    }
}

const pf_optimizer_rule pf_optimizer_lion = {
    .name = "lion",
    .doc = "Lion: a step by the sign of the mean gradient, with one moment instead of AdamW's "
           "two. arXiv 2302.06675.",
    .options = lion_options,
    .n_options = PF_COUNT(lion_options),
    .mean = "beta1",
    .n_moments = 1,
    .moment = {"m"},
    .begin = lion_begin,
    .range = lion_range,
};
