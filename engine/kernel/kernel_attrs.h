/*
 * kernel_attrs.h - how an op takes a kernel: a map and its numbers as attributes, and three
 * inputs, side by side in this order, so that every op that maps rows reads them with the same
 * functions.
 */
#ifndef PF_KERNEL_ATTRS_H
#define PF_KERNEL_ATTRS_H

#include "encoder.h"

extern const pf_op pf_op_features; /* features.c */

/* Attributes, from some place `first` of the op's table on, where it includes
 * kernel_attrs.def: the map, then the numbers. */
enum {
    PF_KERNEL_MAP,
#define PF_NUMBER(name, value, least, most, text) PF_KERNEL_AT_##name,
#include "numbers.def"
#undef PF_NUMBER
    PF_KERNEL_ATTRS
};

/* Inputs, from some place `first` on: projection (m, d) or (heads, m, d), tilts (heads),
 * factors (projection.h). */
enum { PF_KERNEL_PROJECTION, PF_KERNEL_TILTS, PF_KERNEL_FACTORS, PF_KERNEL_INPUTS };
#define PF_KERNEL_ARGS "[projection], [tilts], [factors]"

/* The attributes of a kernel, and its tensors (borrowed). */
void pf_kernel_to_attrs(const pf_kernel *kernel, pf_attr *attrs);
void pf_kernel_to_inputs(const pf_kernel *kernel, pf_tensor **in);

/* For shape rules: rows of `heads` heads of keys of width d. *r: width of the features. */
int pf_call_kernel_check(const pf_call *c, int first_attr, int first_in, int64_t heads, int64_t d,
                         int64_t *r);
/* Multiplications that features of `rows` rows of width d cost, and *m: about how many they are; of
 * shapes alone. Without a projection: d. */
double pf_call_kernel_products(const pf_call *c, int first_in, double rows, int64_t d, double *m);
/* For forward and backward, after the check; contiguous copies are the call's. */
int pf_call_encoding(pf_encoding *encoding, pf_call *c, int first_attr, int first_in, int64_t heads,
                     int64_t d);

#endif
