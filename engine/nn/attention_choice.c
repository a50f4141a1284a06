/*
 * attention_choice.c - attention "auto": exact attention below the length from which on linear
 * attention is faster (attention/auto.c), FAVOR+ from there on. Decided once, when a model is
 * built: the choice replaces "auto" in the options, and `chosen` says why, so that what is
 * saved and loaded never decides again.
 */
#include <stdio.h>
#include <string.h>

#include "module.h"

static const char *text_of(const pf_config *map, const char *key) {
    const pf_config *value = map ? pf_config_get(map, key) : NULL;
    return value ? pf_config_string(value) : NULL;
}

static bool is(const char *text, const char *word) { return text && strcmp(text, word) == 0; }

/* Is there something to decide: attention "auto", or the kernel's name where that one says? */
static bool asked(const pf_module *m) {
    const char *attention = pf_option_text(m, "attention");
    return is(attention, "auto") ||
           (is(attention, "kernel") &&
            is(text_of(pf_config_get(m->options, "kernel"), "name"), "auto"));
}

/* The kernel that is chosen from: softmax features, of whatever map, at their own scale. */
static int candidate(const pf_module *m, pf_kernel *kernel) {
    pf_config *options = pf_config_get(m->options, "kernel");
    int64_t head_dim = pf_option_int(m, "head_dim");
    if (head_dim == 0) head_dim = pf_option_int(m, "dim") / pf_option_int(m, "heads");
    if (is(text_of(options, "name"), "auto")) {
        PF_TRY(pf_config_set_string(options, "name", "softmax"));
    }
    PF_TRY(pf_kernel_resolve(kernel, options, head_dim));
    const pf_config *scale = options ? pf_config_get(options, "scale") : NULL;
    if (kernel->map->softmax && (!scale || pf_config_number(scale) == 0)) return 0;
    return pf_fail(PF_EINVAL,
                   "%s: attention 'auto' takes exact attention or features that "
                   "estimate it, so its kernel is a softmax one with its own scale; "
                   "choose 'favor' or 'exact'",
                   m->type->name);
}

int pf_attention_decide(pf_module *m, const pf_engine *e) {
    if (!asked(m)) return 0;
    pf_kernel kernel;
    double crossover;
    char why[160];
    int64_t length = pf_option_int(m, "length");
    bool causal = pf_option_int(m, "causal") != 0;
    if (length < 1) {
        return pf_fail(PF_EINVAL,
                       "%s: attention 'auto' needs the option length, the sequence "
                       "length to choose for",
                       m->type->name);
    }
    PF_TRY(candidate(m, &kernel));
    int64_t r = kernel.features * kernel.map->width;
    PF_TRY(pf_crossover_length(&crossover, e, kernel.head_dim, r, causal));
    bool exact = (double)length < crossover;
    snprintf(why, sizeof why, "auto: length %lld is %s %.0f, from where %lld features are faster%s",
             (long long)length, exact ? "below" : "not below", crossover, (long long)r,
             causal ? ", causal" : "");
    PF_TRY(pf_config_set_string(m->options, "chosen", why));
    return pf_config_set_string(m->options, "attention", exact ? "exact" : "favor");
}
