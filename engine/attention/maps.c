/*
 * maps.c - the list of feature maps, and what a kernel's options mean. pf_kernel_options is
 * the one source of names, defaults and ranges for C, Lua and the command line.
 */
#include <math.h>
#include <string.h>

#include "maps.h"

static const pf_map *const maps[] = {&pf_map_softmax, &pf_map_relu, &pf_map_elu};

const pf_option_info pf_kernel_options[] = {
    {.name = "name", .kind = PF_OPT_STRING, .string = "softmax",
     .doc = "feature map: softmax, relu, elu; a layer also takes exact and identity"},
    {.name = "features", .kind = PF_OPT_INT, .low = 0, .high = 1 << 20,
     .doc = "random projections m; 0: 4 x head_dim for softmax, no projection for the others"},
    {.name = "head_dim", .kind = PF_OPT_INT, .low = 0, .high = 4096,
     .doc = "head width d; 0: the layer's"},
    {.name = "seed", .kind = PF_OPT_INT, .low = 0, .high = 9007199254740992.0,
     .doc = "of the projection; 0: the engine's seed"},
    {.name = "layer", .kind = PF_OPT_INT, .low = 0, .high = 1 << 20,
     .doc = "which layer's projection"},
    {.name = "redraw", .kind = PF_OPT_INT, .low = 0, .high = 1e9,
     .doc = "training steps between two draws of the projection; 0: never"},
    {.name = "scale", .kind = PF_OPT_NUMBER, .low = 0, .high = 1e6,
     .doc = "x = scale q; 0: d^(-1/4) for softmax, 1 for the others"},
    {.name = "eps", .kind = PF_OPT_NUMBER, .number = -1, .low = -1, .high = 1,
     .doc = "added to every feature; -1: the map's own (relu 1e-3, others 0)"},
    {.name = "orthogonal", .kind = PF_OPT_BOOL, .number = 1,
     .doc = "block-orthogonal rows; false: independent Gaussian rows"},
    {.name = "regular", .kind = PF_OPT_BOOL, .doc = "rows of norm sqrt(d) (SMREG)"},
    {.name = "per_head", .kind = PF_OPT_BOOL, .number = 1,
     .doc = "a projection of its own for every head; false: one for all"},
};
const int pf_kernel_option_count = PF_COUNT(pf_kernel_options);

int pf_map_count(void) { return PF_COUNT(maps); }

const pf_map *pf_map_at(int index) {
    return index >= 0 && index < PF_COUNT(maps) ? maps[index] : NULL;
}

const pf_map *pf_map_find(const char *name) {
    for (int i = 0; i < PF_COUNT(maps); i++) {
        if (strcmp(maps[i]->name, name) == 0) return maps[i];
    }
    return NULL;
}

double pf_map_scale(const pf_map *map, double scale, int64_t head_dim) {
    if (scale > 0) return scale;
    return map->softmax ? pow((double)pf_max(head_dim, 1), -0.25) : 1;
}

static int unknown_map(const char *name) {
    const char *names[PF_COUNT(maps)];
    for (int i = 0; i < PF_COUNT(maps); i++) names[i] = maps[i]->name;
    const char *near = pf_nearest(name, names, PF_COUNT(maps));
    if (near) {
        return pf_fail(PF_EINVAL, "kernel: there is no '%s' (did you mean '%s'?)", name, near);
    }
    return pf_fail(PF_EINVAL, "kernel: there is no '%s'; there are " PF_MAP_CHOICES, name);
}

int pf_kernel_resolve(pf_kernel *kernel, const pf_config *options, int64_t head_dim) {
    PF_TRY(pf_config_check(options, pf_kernel_options, pf_kernel_option_count, "kernel"));
#define NUMBER(name) \
    pf_config_number_of(options, pf_kernel_options, pf_kernel_option_count, name)
    const char *name =
        pf_config_string_of(options, pf_kernel_options, pf_kernel_option_count, "name");
    int64_t own = (int64_t)NUMBER("head_dim");
    if (own != 0 && head_dim != 0 && own != head_dim) {
        return pf_fail(PF_EINVAL, "kernel: head_dim is %lld, but the heads are %lld wide",
                       (long long)own, (long long)head_dim);
    }
    const pf_map *map = pf_map_find(name);
    if (!map) return unknown_map(name);
    int64_t d = head_dim ? head_dim : own;
    *kernel = (pf_kernel){
        .map = map,
        .features = (int64_t)NUMBER("features"),
        .head_dim = d,
        .scale = pf_map_scale(map, NUMBER("scale"), d),
        .eps = NUMBER("eps") < 0 ? map->eps : NUMBER("eps"),
        .seed = (uint64_t)NUMBER("seed"),
        .redraw = (int64_t)NUMBER("redraw"),
        .iid = NUMBER("orthogonal") == 0,
        .regular = NUMBER("regular") != 0,
        .per_head = NUMBER("per_head") != 0,
    };
#undef NUMBER
    if (map->softmax && kernel->features == 0) kernel->features = 4 * d;
    if (map->softmax && kernel->eps != 0) {
        return pf_fail(PF_EINVAL, "kernel: softmax features take no eps (they need none: the "
                                  "stabiliser is exact)");
    }
    return 0;
}

int pf_kernel_draw(pf_tensor **projection, pf_engine *engine, const pf_kernel *kernel,
                   int64_t heads, uint64_t layer, uint64_t epoch) {
    if (kernel->features == 0) return 0;
    pf_projection_options o = {
        .size = sizeof o, .features = kernel->features, .head_dim = kernel->head_dim,
        .heads = kernel->per_head ? heads : 0,
        .seed = kernel->seed ? kernel->seed : engine->seed, .layer = layer, .epoch = epoch,
        .iid = kernel->iid, .regular = kernel->regular,
    };
    if (!*projection) return pf_projection_draw(projection, engine, &o);
    return pf_projection_fill(*projection, engine, &o);
}

/* ---- public: tables for help, docs and checks ---- */

int pf_map_info_at(int index, pf_map_info *info) {
    const pf_map *map = pf_map_at(index);
    if (!map) return pf_fail(PF_ENOTFOUND, "there are only %d feature maps", PF_COUNT(maps));
    *info = (pf_map_info){map->name, map->doc, map->softmax, map->positive, map->eps};
    return 0;
}

int pf_kernel_check(const pf_config *kernel, int64_t head_dim) {
    pf_kernel resolved;
    return pf_kernel_resolve(&resolved, kernel, head_dim);
}

int pf_kernel_option_at(int index, struct pf_option_doc *option) {
    static _Thread_local char numbers[PF_COUNT(pf_kernel_options)][PF_DEFAULT_TEXT];
    if (index < 0 || index >= pf_kernel_option_count) {
        return pf_fail(PF_ENOTFOUND, "a kernel has only %d options", pf_kernel_option_count);
    }
    *option = pf_option_describe(&pf_kernel_options[index], numbers[index]);
    return 0;
}
