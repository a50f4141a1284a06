/* maps.h - the feature maps of this floor; maps.c lists them. */
#ifndef PF_MAPS_H
#define PF_MAPS_H

#include "attention.h"

extern const pf_map pf_map_softmax, pf_map_relu, pf_map_elu;
extern const pf_map pf_map_given; /* not in the list: linear_attention's */

/* The list as choices of an op attribute; a spec holds it against the list. */
#define PF_MAP_CHOICES "softmax|relu|elu"

/* x = scale * q: what `scale` 0 stands for. */
double pf_map_scale(const pf_map *map, double scale, int64_t head_dim);

int pf_projection_fill(pf_tensor *projection, pf_engine *engine, const pf_projection_options *o);

#endif
