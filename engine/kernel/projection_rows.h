/* projection_rows.h - the directions of a block of rows, as the drawing uses them. */
#ifndef PF_PROJECTION_ROWS_H
#define PF_PROJECTION_ROWS_H

#include "projection.h"

double pf_dot_double(int64_t n, const double *a, const double *b);

/* block (n, d), n <= d, of Gaussian rows -> unit rows of the kind. The Hadamard product comes
 * from `rng` at *word, which moves on. work: PF_ROWS_WORK x d doubles. */
enum { PF_ROWS_WORK = 1 + PF_HADAMARD_ROUNDS / 2 };
void pf_rows_turn(pf_row_kind kind, const pf_rng *rng, uint64_t *word, int64_t n, int64_t d,
                  double *block, double *work);

#endif
