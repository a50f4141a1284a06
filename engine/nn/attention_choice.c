/*
 * attention_choice.c - which kind of attention a layer's options say, and those options as they are
 * saved, so that a file says it too. Attention "auto" is, of the kinds that estimate softmax
 * attention, the one that is fastest for rows of the option `length` (kinds tell from which length
 * on they are). Decided once, when a model is built: the choice replaces "auto" in the options, and
 * `chosen` says why, so that what is saved and loaded never decides again.
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
    PF_HOLDS(*kind); /* exact attention, from 0 on */
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

/* ---- the kind, and what is saved of it ---- */

/* The kind that the options say: `attention`, or, as scripts and files of before have it, the
 * kernel's name where that is a kind's and no other attention was asked for. */
int pf_attention_kind_of(const pf_module *m, const pf_attention_kind **kind) {
    const char *name = pf_option_text(m, "attention");
    *kind = pf_attention_open(m) ? pf_kind_of_kernel(pf_config_get(m->options, "kernel")) : NULL;
    if (*kind) return PF_OK;
    return pf_kind_find(kind, strcmp(name, PF_ATTENTION_OF_KERNEL) == 0 ? NULL : name,
                        m->type->name);
}

/* A kernel named like a kind beside the default says that kind: `attention` then holds it, as
 * whoever reads the options or the file would otherwise read the default. "kernel", which files of
 * before hold, stays: their streams know the model by its options. */
static int say_kind(pf_module *m, const pf_attention_kind *kind) {
    if (strcmp(pf_option_text(m, "attention"), pf_kind_at(0)->name) != 0) return PF_OK;
    return pf_config_set_string(m->options, "attention", kind->name);
}

/* Writes the seed that a kernel draws from, so that a model that is built from its options on
 * another engine draws the same projections. A kernel of the host's draws none. */
int pf_kernel_seed(pf_config *kernel, const pf_engine *e) {
    const pf_config *name = pf_config_get(kernel, "name"), *seed = pf_config_get(kernel, "seed");
    if (name && pf_config_string(name) && !pf_map_find(pf_config_string(name))) return PF_OK;
    /* Any other seed that is no number above 0 is the kernel's to refuse. */
    if (seed && (pf_config_kind_of(seed) != PF_NUMBER || pf_config_number(seed) != 0)) return PF_OK;
    uint64_t own = e->seed & ((UINT64_C(1) << 53) - 1); /* what a number of JSON holds */
    return pf_config_set_number(kernel, "seed", own ? (double)own : 1);
}

/* The options of attention as they are to be saved: with its kind, and of kinds that take a kernel
 * with a seed. */
int pf_kernel_complete(pf_module *m, const pf_engine *e) {
    const pf_attention_kind *kind;
    pf_config *kernel = pf_config_get(m->options, "kernel");
    PF_TRY(pf_attention_kind_of(m, &kind));
    PF_TRY(say_kind(m, kind));
    if (!kind->takes_kernel) return PF_OK;
    if (!kernel) {
        PF_TRY(pf_config_set(m->options, "kernel", pf_config_new_beside(m->options, PF_MAP)));
        kernel = pf_config_get(m->options, "kernel");
    }
    return pf_kernel_seed(kernel, e);
}
