/*
 * kernel_attrs.h - how an op takes a kernel: five attributes and three inputs, side by side in
 * this order, so that every op that maps rows reads them with the same functions.
 */
#ifndef PF_KERNEL_ATTRS_H
#define PF_KERNEL_ATTRS_H

#include "encoder.h"

extern const pf_op pf_op_features; /* features.c */

/* Attributes, from some place `first` of the op's table on. */
enum {
    PF_KERNEL_MAP,
    PF_KERNEL_SCALE,
    PF_KERNEL_EPS,
    PF_KERNEL_RATIO,
    PF_KERNEL_TILT,
    PF_KERNEL_ATTRS
};
#define PF_KERNEL_ATTR_ROWS                                                                        \
    {"map", PF_ATTR_CHOICE, 0, false, PF_MAP_CHOICES, "feature map"},                              \
        {"scale", PF_ATTR_FLOAT,                                                                   \
         0,       false,                                                                           \
         NULL,    "x = scale q; 0: d^(-1/4) for softmax maps and exact scores, 1 for the others"}, \
        {"eps", PF_ATTR_FLOAT, -1, false, NULL, "added to every feature; -1: the map's own"},      \
        {"ratio", PF_ATTR_FLOAT, 0, false, NULL, "phi = ratio f(u) + eps; 0: the map's own"}, {    \
        "tilt", PF_ATTR_FLOAT, 0, false, NULL, "A of softmax_plus, below 1/4"                      \
    }

/* Inputs, from some place `first` on: projection (m, d) or (heads, m, d), tilts (heads),
 * factors (projection.h). */
enum { PF_KERNEL_PROJECTION, PF_KERNEL_TILTS, PF_KERNEL_FACTORS, PF_KERNEL_INPUTS };
#define PF_KERNEL_ARGS "[projection], [tilts], [factors]"

/* The attributes of a kernel, and its tensors (borrowed). */
void pf_kernel_to_attrs(const pf_kernel *kernel, pf_attr *attrs);
void pf_kernel_to_inputs(const pf_kernel *kernel, pf_tensor **in);

static inline const pf_map *pf_call_map(const pf_call *c, int first_attr) {
    return pf_map_at((int)c->attr[first_attr + PF_KERNEL_MAP].i);
}
/* For shape rules: rows of `heads` heads of keys of width d. *r: width of the features. */
int pf_call_kernel_check(const pf_call *c, int first_attr, int first_in, int64_t heads, int64_t d,
                         int64_t *r);
/* For forward and backward, after the check; contiguous copies are the call's. */
int pf_call_encoding(pf_encoding *encoding, pf_call *c, int first_attr, int first_in, int64_t heads,
                     int64_t d);

#endif
