/*
 * reduce.h - what the ops share that make one number of all elements along a dimension, or of
 * all elements. Their attributes are `dim` and, after it, `keep`; others may stand before or
 * behind these.
 */
#ifndef PF_REDUCE_H
#define PF_REDUCE_H

#include "rows.h"

/* The two attributes. */
#define PF_REDUCE_ATTRS                                                                            \
    {.name = "dim",                                                                                \
     .kind = PF_ATTR_DIM,                                                                          \
     .def = PF_DIM_ALL,                                                                            \
     .doc = "the dimension; not given: over all elements"},                                        \
    {                                                                                              \
        .name = "keep", .kind = PF_ATTR_BOOL, .doc = "keep the dimension with size 1"              \
    }

/* For docs. */
#define PF_REDUCE_ALONG " along `dim`, or over all elements; the dimension is lost unless `keep`."

/* ---- shapes and rows (reduce_rows.c) ---- */

/* The call's dimension, PF_DIM_ALL when not given. */
int pf_reduced_dim(const pf_call *c, int *dim);
/* Elements that one number is made of; dim may be PF_DIM_ALL. */
int64_t pf_reduced_count(const pf_tensor *x, int dim);

/* Output 0 of input 0, whose dtype is looked at by the caller. needs_some: of no elements there is
 * none. */
int pf_reduce_shape(pf_call *c, pf_dtype result, bool needs_some);

/* Runs fn over rows of input 0 (operand 0) and the result's places: row r is element r. */
int pf_reduce_rows(pf_call *c, int buffers, pf_row_fn fn, void *context);
/* The same for a gradient: operands x, dy, y (dy again where the row keeps no y) and the slot, to
 * which fn adds. */
int pf_reduce_pull(pf_call *c, int buffers, pf_row_fn fn, void *context);
/* As the last, with the slot in the place of x too. */
int pf_reduce_slot(pf_call *c, pf_rows *rows);

/* ---- of whole numbers (reduce_i32.c) ---- */

typedef enum {
    PF_WHOLE_SUM,
    PF_WHOLE_MEAN, /* the result is f32 */
    PF_WHOLE_PROD,
    PF_WHOLE_MAX,
    PF_WHOLE_MIN,
    PF_WHOLE_ARGMAX,
    PF_WHOLE_ARGMIN,
    PF_WHOLE_ANY,
    PF_WHOLE_ALL
} pf_whole;

/* The forward of an op whose input 0 is i32. In 64 bits; what i32 can't hold is refused. */
int pf_reduce_i32(pf_call *c, pf_whole which);

#endif
