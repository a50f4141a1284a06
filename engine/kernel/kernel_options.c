/*
 * kernel_options.c - the list of feature maps, and what a kernel's options mean.
 * pf_kernel_option_table is the one source of names, defaults and ranges for C, Lua and the
 * command line.
 */
#include <math.h>
#include <string.h>

#include "kernel.h"

static const pf_map *const maps[] = {
#define PF_MAP(name) &pf_map_##name,
#include "maps.def"
#undef PF_MAP
};

const char pf_map_names[] = ""
#define PF_MAP(name) "|" #name
#include "maps.def"
#undef PF_MAP
    ;

const pf_option_info pf_kernel_option_table[] = {
    {.name = "name",
     .kind = PF_OPT_STRING,
     .string = "softmax",
     .doc = "feature map: "
#define PF_MAP(name) #name ", "
#include "maps.def"
#undef PF_MAP
            "or one of the host's own (nn.attention's option attention says which attention)"},
    {.name = "preset",
     .kind = PF_OPT_STRING,
     .string = "own",
     .choices = PF_PRESET_CHOICES,
     .doc = "whose defaults of scale, eps, project, features and stabiliser: authors (JAX: softmax "
            "maps eps 1e-6 and 256 features; the others scale 1, eps 1e-3, not projected), pytorch "
            "(performer-pytorch: scale d^(-1/4), projected, d ln d features, eps 1e-4 for softmax "
            "maps, 1e-3 for the others). Full attention by softmax and softmax_reg then gives "
            "their numbers; causal and streaming attention, and the other softmax maps, measure "
            "eps by position, and differ from theirs the more the longer the rows are"},
    {.name = "features",
     .kind = PF_OPT_INT,
     .low = 0,
     .high = 1 << 20,
     .doc = "random projections m; 0: 4 x head_dim where projected"},
    {.name = "project",
     .kind = PF_OPT_BOOL,
     .doc = "u = W x; false: u = x, of width head_dim. Not given: softmax maps, presets that "
            "project, and kernels with features"},
    {.name = "head_dim",
     .kind = PF_OPT_INT,
     .low = 0,
     .high = 4096,
     .doc = "head width d; 0: the layer's"},
    {.name = "seed",
     .kind = PF_OPT_INT,
     .low = 0,
     .high = 9007199254740992.0,
     .needs = "projection",
     .doc = "of the projection; 0: the engine's seed"},
    {.name = "layer",
     .kind = PF_OPT_INT,
     .low = 0,
     .high = 1 << 20,
     .doc = "which layer's projection"},
    {.name = "redraw",
     .kind = PF_OPT_INT,
     .low = 0,
     .high = 1e9,
     .needs = "projection",
     .doc = "training steps between two draws of the projection; 0: never"},
#define PF_NUMBER(title, value, least, most, text)                                                 \
    {.name = #title,                                                                               \
     .kind = PF_OPT_NUMBER,                                                                        \
     .number = (value),                                                                            \
     .low = (least),                                                                               \
     .high = (most),                                                                               \
     .doc = (text)},
#include "numbers.def"
#undef PF_NUMBER
    {.name = "rows",
     .kind = PF_OPT_STRING,
     .string = "orthogonal",
     .choices = PF_ROWS_CHOICES,
     .needs = "projection",
     .doc = "how the rows of a block of head_dim lie: orthogonal; iid, independent; hadamard, "
            "orthogonal from random signs; simplex, as far apart as they can; given, set from "
            "outside"},
    {.name = "norms",
     .kind = PF_OPT_STRING,
     .string = "chi",
     .choices = PF_NORMS_CHOICES,
     .needs = "projection",
     .doc = "length of a row: chi, as a Gaussian row's; sqrt_d, sqrt(head_dim) (SMREG)"},
    {.name = "per_head",
     .kind = PF_OPT_BOOL,
     .number = 1,
     .needs = "projection",
     .doc = "a projection of its own for every head; false: one for all"},
    {.name = "stabiliser",
     .kind = PF_OPT_STRING,
     .string = "position",
     .choices = PF_STABILISER_CHOICES,
     .doc = "softmax, softmax_reg: what eps is added to. position: features divided by the row's "
            "own largest; reference: as published, exp(u - |x|^2 / 2 - max) with the largest u of "
            "the query or of all keys of the head (of its document), in full attention only. Not "
            "given: the preset's"},
};
const int pf_kernel_option_count = PF_COUNT(pf_kernel_option_table);

const pf_map *pf_map_at(int index) {
    return index >= 0 && index < PF_COUNT(maps) ? maps[index] : NULL;
}

const pf_map *pf_map_find(const char *name) {
    for (int i = 0; i < PF_COUNT(maps); i++) {
        if (strcmp(maps[i]->name, name) == 0) return maps[i];
    }
    return NULL;
}

/* The nearest name, or all of them. */
static int unknown_map(const char *name) {
    const char *names[PF_COUNT(maps)];
    for (int i = 0; i < PF_COUNT(maps); i++) names[i] = maps[i]->name;
    const char *near = pf_nearest(name, names, PF_COUNT(maps));
    if (near) {
        return pf_fail(PF_ENOTFOUND, "kernel: there is no '%s' (did you mean '%s'?)", name, near);
    }
    return pf_fail(PF_ENOTFOUND,
                   "kernel: there is no '%s'; there are %s, and the host's own while they are open",
                   name, PF_MAP_CHOICES);
}

/* Features of the kernel after its options `project` and `features`; 0: not projected. */
static int resolve_features(pf_kernel_spec *spec, const pf_config *options,
                            const pf_preset *preset) {
    const pf_config *given = pf_config_get(options, "project");
    bool project = given ? pf_config_number(given) != 0 : spec->features > 0 || preset->project;
    if (spec->map->softmax && !project) {
        return pf_fail(PF_EINVAL, "kernel: %s has no form without a projection (project = false)",
                       spec->map->name);
    }
    if (!project) spec->features = 0;
    if (project && spec->features == 0) spec->features = preset->features;
    return PF_OK;
}

/* What only some maps have. */
static int resolve_map(pf_kernel_spec *spec) {
    const pf_map *map = spec->map;
    if (map->regular) spec->norms = PF_NORMS_SQRT_D;
    if (map->tilted && spec->norms != PF_NORMS_CHI) {
        return pf_fail(PF_EINVAL,
                       "kernel: %s is unbiased for Gaussian rows only; rows of norm "
                       "sqrt(d) are softmax_reg",
                       map->name);
    }
    if (map->tilted || spec->numbers.tilt == 0) return PF_OK;
    return pf_fail(PF_EINVAL, "kernel: %s takes no tilt; softmax_plus does", map->name);
}

/* What the option says, or the preset where it was not given. */
static int resolve_stabiliser(pf_kernel_spec *spec, const pf_config *options, const char *preset) {
    const pf_config *given = pf_config_get(options, "stabiliser");
    bool known = spec->map == &pf_map_softmax || spec->map == &pf_map_softmax_reg;
    bool own = strcmp(preset, "own") == 0;
    if (given) spec->stabiliser = strcmp(pf_config_string(given), "reference") == 0;
    if (!given && known && !own) spec->stabiliser = PF_BY_PRESET;
    if (known || spec->stabiliser == PF_BY_POSITION) return PF_OK;
    return pf_fail(PF_EINVAL,
                   "kernel: stabiliser = \"reference\" is of softmax and softmax_reg; %s has none",
                   spec->map->name);
}

/* A `handle` (registry.c) is no option: it says which open kernel these options are of. */
static int check_options(const pf_config *options) {
    if (!options || !pf_config_get(options, "handle")) {
        return pf_config_check(options, pf_kernel_option_table, pf_kernel_option_count, "kernel");
    }
    pf_config *own = pf_config_copy_alike(options);
    if (!own) return pf_fail(PF_ENOMEM, "kernel: no memory for the options");
    pf_config_remove(own, "handle");
    int status = pf_config_check(own, pf_kernel_option_table, pf_kernel_option_count, "kernel");
    pf_config_free(own);
    return status;
}

enum { WIDEST = 1 << 20 }; /* heads, of whose width there are four times as many features */

/* Options in words -> numbers. What a map or a preset has a default for is told apart from what was
 * given by the option's own default (0, or -1 for eps). */
int pf_kernel_resolve(pf_kernel_spec *spec, const pf_config *options, int64_t head_dim) {
    PF_TRY(check_options(options));
#define NUMBER(name)                                                                               \
    pf_config_number_of(options, pf_kernel_option_table, pf_kernel_option_count, name)
#define CHOICE(name, choices)                                                                      \
    pf_choice_place(choices, pf_config_string_of(options, pf_kernel_option_table,                  \
                                                 pf_kernel_option_count, name))
    const char *name =
        pf_config_string_of(options, pf_kernel_option_table, pf_kernel_option_count, "name");
    int64_t own = (int64_t)NUMBER("head_dim");
    if (head_dim < 0 || head_dim > WIDEST) {
        return pf_fail(PF_EINVAL, "kernel: the heads are %lld wide; at most %d is possible",
                       (long long)head_dim, WIDEST);
    }
    if (own != 0 && head_dim != 0 && own != head_dim) {
        return pf_fail(PF_EINVAL, "kernel: head_dim is %lld, but the heads are %lld wide",
                       (long long)own, (long long)head_dim);
    }
    const pf_map *map = pf_map_find(name);
    if (!map) return unknown_map(name);
    int64_t d = head_dim ? head_dim : own;
    const char *whose =
        pf_config_string_of(options, pf_kernel_option_table, pf_kernel_option_count, "preset");
    pf_preset preset = pf_preset_of(whose, map, d);
    *spec = (pf_kernel_spec){
        .map = map,
        .features = (int64_t)NUMBER("features"),
        .head_dim = d,
        .seed = (uint64_t)NUMBER("seed"),
        .layer = (uint64_t)NUMBER("layer"),
        .redraw = (int64_t)NUMBER("redraw"),
        .rows = (pf_row_kind)CHOICE("rows", PF_ROWS_CHOICES),
        .norms = (pf_norm_kind)CHOICE("norms", PF_NORMS_CHOICES),
        .per_head = NUMBER("per_head") != 0,
    };
#define PF_NUMBER(name, value, least, most, text) spec->numbers.name = NUMBER(#name);
#include "numbers.def"
#undef PF_NUMBER
#undef CHOICE
#undef NUMBER
    if (spec->numbers.scale <= 0) spec->numbers.scale = preset.scale;
    if (spec->numbers.eps < 0 && spec->numbers.eps != -1)
        return pf_fail(PF_EINVAL, "kernel: 'eps' must be from 0 to 1, or -1: the map's own; got %g",
                       spec->numbers.eps);
    if (spec->numbers.eps < 0) spec->numbers.eps = preset.eps;
    if (spec->rows == PF_ROWS_GIVEN && spec->redraw > 0) {
        return pf_fail(PF_EINVAL, "kernel: a given projection is not drawn again; leave out "
                                  "redraw");
    }
    PF_TRY(resolve_features(spec, options, &preset));
    PF_TRY(resolve_stabiliser(spec, options, whose));
    return resolve_map(spec);
}

int pf_kernel_no_reference(const pf_kernel *kernel, bool full, const char *where, const char *why) {
    pf_stabiliser stabiliser = kernel->spec.stabiliser;
    if (stabiliser != PF_BY_REFERENCE && !(full && stabiliser == PF_BY_PRESET)) return PF_OK;
    return pf_fail(PF_EINVAL,
                   "%s: the kernel's stabiliser is \"reference\", whose maximum is one over all "
                   "keys: %s; stabiliser = \"position\" has no such maximum",
                   where, why);
}

int pf_kernel_check_names(const pf_config *options, const char *where) {
    const char *names[PF_COUNT(pf_kernel_option_table)];
    for (int i = 0; i < PF_COUNT(names); i++) names[i] = pf_kernel_option_table[i].name;
    for (int i = 0; i < pf_config_size(options); i++) {
        const char *key = pf_config_key(options, i);
        int found = strcmp(key, "handle") == 0;
        for (int j = 0; j < PF_COUNT(names); j++) found |= strcmp(key, names[j]) == 0;
        if (found) continue;
        char told[PF_NAMES_TOLD];
        return pf_fail(PF_EINVAL, "%s: kernel has no option '%s'%s", where, key,
                       pf_names_told(told, sizeof told, key, names, PF_COUNT(names)));
    }
    return PF_OK;
}
