/* maps.h - the feature maps of this floor; maps.def lists them. */
#ifndef PF_MAPS_H
#define PF_MAPS_H

#include "attention.h"

#define PF_MAP(name) extern const pf_map pf_map_##name;
#include "maps.def"
#undef PF_MAP
extern const pf_map pf_map_given; /* not in the list: linear_attention's */

/* "|softmax|..." and, without the first bar, the choices of an op attribute. */
extern const char pf_map_names[];
#define PF_MAP_CHOICES (pf_map_names + 1)

/* x = scale * q: what `scale` 0 stands for. */
double pf_map_scale(const pf_map *map, double scale, int64_t head_dim);

/* Whose defaults: ours, or those of a published version. */
#define PF_PRESET_CHOICES "own|authors|pytorch"

/* What a preset says of a map for heads of head_dim; each an option's default. */
typedef struct pf_preset {
    double scale, eps;
    bool project;
    int64_t features; /* where projected and not given */
} pf_preset;
pf_preset pf_preset_of(const char *name, const pf_map *map, int64_t head_dim);

#endif
