/*
 * attention_choice.c - attention "auto": of the kinds that estimate softmax attention, the one that
 * is fastest for rows of the option `length` (kinds tell from which length on they are).
 * Decided once, when a model is built: the choice replaces "auto" in the options, and `chosen` says
 * why, so that what is saved and loaded never decides again.
 */
#include <stdio.h>
#include <string.h>

#include "module.h"

const char pf_attention_choices[] = ""
#define PF_KIND(name) #name "|"
#include "kinds.def"
#undef PF_KIND
                                    "auto|" PF_ATTENTION_OF_KERNEL;

static const char *text_of(const pf_config *map, const char *key) {
    const pf_config *value = map ? pf_config_get(map, key) : NULL;
    return value ? pf_config_string(value) : NULL;
}

static bool is(const char *text, const char *word) { return text && strcmp(text, word) == 0; }

bool pf_attention_open(const pf_module *m) {
    const char *attention = pf_option_text(m, "attention");
    return is(attention, PF_ATTENTION_OF_KERNEL) || is(attention, pf_kind_at(0)->name);
}

/* Is there something to decide: attention "auto", or, as older scripts say it, a kernel named so
 * where no other attention is asked for? */
static bool asked(const pf_module *m) {
    const char *kernel = text_of(pf_config_get(m->options, "kernel"), "name");
    return is(pf_option_text(m, "attention"), "auto") ||
           (pf_attention_open(m) && is(kernel, "auto"));
}

/* The kernel that is chosen from: softmax features, of whatever map, at their own scale. */
static int candidate(const pf_module *m, pf_engine *e, pf_kernel_spec *kernel) {
    pf_config *options = pf_config_get(m->options, "kernel");
    int64_t head_dim = pf_option_int(m, "head_dim");
    if (head_dim == 0) head_dim = pf_option_int(m, "dim") / pf_option_int(m, "heads");
    if (is(text_of(options, "name"), "auto")) {
        PF_TRY(pf_config_set_string(options, "name", "softmax"));
    }
    pf_kernel *own = NULL; /* a map of the host's: none that estimates */
    PF_TRY(pf_kernel_named(&own, e, options));
    const pf_config *scale = options ? pf_config_get(options, "scale") : NULL;
    if (!own || !pf_kernel_given(own)) {
        PF_TRY(pf_kernel_resolve(kernel, options, head_dim));
        if (kernel->map->softmax && (!scale || pf_config_number(scale) == 0)) return PF_OK;
    }
    return pf_fail(PF_EINVAL,
                   "%s: attention 'auto' takes exact attention or features that "
                   "estimate it, so its kernel is a softmax one with its own scale; "
                   "choose another attention",
                   m->type->name);
}

/* The kind with the longest length of those that are not above `length`; *from: that length. */
static int fastest(const pf_attention_kind **kind, double *from, double *above, const pf_engine *e,
                   const pf_attention_shape *shape) {
    const pf_attention_kind *k;
    *kind = NULL, *from = -1, *above = 0;
    for (int i = 0; (k = pf_kind_at(i)) != NULL; i++) {
        double length;
        if (!k->from_length) continue;
        PF_TRY(k->from_length(&length, e, shape));
        if ((double)shape->length < length && (*above == 0 || length < *above)) *above = length;
        if ((double)shape->length < length || length <= *from) continue;
        *kind = k, *from = length;
    }
    return PF_OK;
}

/* Nothing to decide is no error; what can't be decided is. */
int pf_attention_decide(pf_module *m, pf_engine *e) {
    if (!asked(m)) return PF_OK;
    pf_kernel_spec kernel;
    const pf_attention_kind *kind;
    double from, above;
    char why[160];
    int64_t length = pf_option_int(m, "length");
    bool causal = pf_option_int(m, "causal") != 0;
    if (length < 1) {
        return pf_fail(PF_EINVAL,
                       "%s: attention 'auto' needs the option length, the sequence "
                       "length to choose for",
                       m->type->name);
    }
    PF_TRY(candidate(m, e, &kernel));
    pf_attention_shape shape = {.size = sizeof shape,
                                .head_dim = kernel.head_dim,
                                .value_dim = kernel.head_dim,
                                .features = kernel.features * kernel.map->width,
                                .length = length,
                                .causal = causal};
    PF_TRY(fastest(&kind, &from, &above, e, &shape));
    snprintf(why, sizeof why, "auto: length %lld is %s %.0f, from where %lld features are faster%s",
             (long long)length, above > 0 ? "below" : "not below", above > 0 ? above : from,
             (long long)shape.features, causal ? ", causal" : "");
    PF_TRY(pf_config_set_string(m->options, "chosen", why));
    return pf_config_set_string(m->options, "attention", kind->name);
}
