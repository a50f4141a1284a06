/*
 * adam.h - what the rules of Adam's family share: the options of its moments, and its step, which
 * adamw.c states.
 */
#ifndef PF_ADAM_H
#define PF_ADAM_H

#include "rule.h"

/* Rows of an options table. */
#define PF_ADAM_OPTIONS(first, second, small)                                                      \
    {.name = "beta1",                                                                              \
     .kind = PF_OPT_NUMBER,                                                                        \
     .number = (first),                                                                            \
     .low = 0,                                                                                     \
     .high = 0.999999,                                                                             \
     .doc = "memory of the mean gradient"},                                                        \
        {.name = "beta2",                                                                          \
         .kind = PF_OPT_NUMBER,                                                                    \
         .number = (second),                                                                       \
         .low = 0,                                                                                 \
         .high = 0.9999999,                                                                        \
         .doc = "memory of the squared gradient"},                                                 \
    {                                                                                              \
        .name = "eps", .kind = PF_OPT_NUMBER, .number = (small), .low = 0, .high = 1,              \
        .doc = "added to the root of the squared gradient"                                         \
    }

enum { PF_ADAM_CONSTANTS = 5 }; /* of pf_update's c, the first ones */

/* Fills them; a rule's `begin` and `range`, of moments {mean, mean square}. */
void pf_adam_begin(const pf_optimizer_rule *rule, const pf_config *options, uint64_t step,
                   float *c);
void pf_adam_range(const pf_update *u);

#endif
