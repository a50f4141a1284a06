/* norm_exact.h - rows that the fast norms get wrong: in double, from the row itself. */
#ifndef PF_NORM_EXACT_H
#define PF_NORM_EXACT_H

#include "base.h"

typedef struct pf_norm_row {
    int64_t n;
    bool rms;
    double eps;
    const float *x, *w, *b, *dy; /* (n); b may be NULL; dy: backward */
} pf_norm_row;

/* By what the fast norm made of a row (mean 0 for rmsnorm): its squares overflowed or sank, or its
 * mean is so much larger than its spread that the rounding of the mean shows. NaN is odd too. */
static inline bool pf_norm_is_odd(float mean, float rstd) {
    const float product = mean * rstd;
    return !(rstd > 1e-18f && rstd < 1e12f && product < 1024 && product > -1024);
}

/* y (n), and the row's mean and rstd. */
void pf_norm_exact(const pf_norm_row *row, float *y, float *mean, float *rstd);
/* dx, dw, db (the last two may be NULL) are added to. */
void pf_norm_exact_grad(const pf_norm_row *row, float *dx, float *dw, float *db);

#endif
