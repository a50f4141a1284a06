/*
 * adam.c - Adam (Kingma and Ba 2014) as PyTorch has it: weight decay is coupled, which means that
 * it is a part of the gradient and so of both moments. At step t:
 *   g = g + decay p
 *   m = beta1 m + (1 - beta1) g         v = beta2 v + (1 - beta2) g^2
 *   p = p - lr m / (1 - beta1^t) / (sqrt(v / (1 - beta2^t)) + eps)
 */
#include "adam.h"

enum { PIECE = 1 << 10 };

static const pf_option_info adam_options[] = {
    PF_RULE_LR(1e-3),
    {.name = "decay",
     .kind = PF_OPT_NUMBER,
     .number = 0,
     .low = 0,
     .high = 1e3,
     .doc = "this times a matrix is added to its gradient"},
    PF_ADAM_OPTIONS(0.9, 0.999, 1e-8),
};

static void adam_begin(const pf_config *options, uint64_t step, float *c) {
    pf_adam_begin(&pf_optimizer_adam, options, step, c);
}

static void adam_range(const pf_update *u) {
    float g[PIECE];
    for (int64_t i = 0; i < u->n; i += PIECE) {
        pf_update part = *u;
        part.n = pf_min(PIECE, u->n - i);
        part.p += i, part.moment[0] += i, part.moment[1] += i;
        u->kern->scale(part.n, u->gscale, u->g + i, g);
        if (u->decay > 0) u->kern->axpy(part.n, u->decay, part.p, g);
        part.g = g, part.gscale = 1, part.decay = 0;
        pf_adam_range(&part);
    }
}

const pf_optimizer_rule pf_optimizer_adam = {
    .name = "adam",
    .doc = "Adam as PyTorch has it: decay is a part of the gradient, not of the step. arXiv "
           "1412.6980.",
    .options = adam_options,
    .n_options = PF_COUNT(adam_options),
    .mean = "beta1",
    .squares = true,
    .n_moments = 2,
    .moment = {"m", "v"},
    .begin = adam_begin,
    .range = adam_range,
};
