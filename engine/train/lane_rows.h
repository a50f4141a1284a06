/*
 * lane_rows.h - the gradient of a table in the rows that a lane has touched: a few of millions. Two
 * of them add up in the rows that either has.
 */
#ifndef PF_LANE_ROWS_H
#define PF_LANE_ROWS_H

#include "tensor.h"

typedef struct {
    pf_tensor *row;   /* (n) i32, ascending; NULL: there are none */
    pf_tensor *value; /* (n, width) */
} pf_lane_rows;

/* The listed n rows of a gradient (rows, width). */
int pf_lane_rows_take(pf_lane_rows *rows, pf_engine *e, const pf_tensor *grad, const int32_t *row,
                      int64_t n);
/* left + right, in place of left; right is let go of. A row that one of them lacks is zeros
 * there, and so is a side that has none. */
int pf_lane_rows_add(pf_lane_rows *left, pf_lane_rows *right, pf_engine *e, int64_t width);
void pf_lane_rows_close(pf_lane_rows *rows);

/* The same of all numbers: left <- left + right (n), in any number of threads; NULL: zeros. */
int pf_lane_add(pf_engine *e, float *left, const float *right, int64_t n);

#endif
