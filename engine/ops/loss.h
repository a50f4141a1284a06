/*
 * loss.h - inside the ops floor: cross-entropy of rows of logits, for the op that is given them
 * (loss.c) and the one that makes them a piece at a time (linear_loss.c).
 */
#ifndef PF_LOSS_H
#define PF_LOSS_H

#include "kern.h"
#include "op.h"

enum { PF_REDUCE_MEAN, PF_REDUCE_SUM, PF_REDUCE_NONE };
#define PF_REDUCTION_ATTR                                                                          \
    {                                                                                              \
        .name = "reduction", .kind = PF_ATTR_CHOICE, .def = PF_REDUCE_MEAN,                        \
        .choices = "mean|sum|none",                                                                \
        .doc = "mean over the counted positions, their sum, or the loss of each position"          \
    }

/* Rows of logits x (rows, vocab), and an id each, -1 not counted. */
typedef struct pf_entropy {
    const pf_kern *kern;
    int64_t vocab;
    const float *x;
    const int32_t *id;
    double *loss;  /* (rows) */
    float *norm;   /* (rows, 2): maximum, log of the sum; or NULL */
    int32_t *best; /* (rows): the likeliest id of a counted row, the first of equal ones; or NULL */
    /* backward */
    const float *dy; /* a row's own, or NULL: `scale` for all */
    float scale;
    bool fresh;
    float *dx; /* may be x itself where fresh */
} pf_entropy;

/* ids (contiguous): each -1 or below vocab. */
int pf_entropy_check(const pf_call *c, const pf_tensor *ids, int64_t vocab);
int pf_entropy_run(pf_engine *e, const pf_entropy *job, int64_t rows);
void pf_entropy_reduce(pf_tensor *out, int64_t reduction, const double *loss, const int32_t *id,
                       int64_t rows);
/* Sets job->dy or job->scale from dout[0], for all of the call's ids. */
int pf_entropy_weigh(pf_call *c, int64_t reduction, const int32_t *id, int64_t rows,
                     pf_entropy *job);
/* dx (+)= the gradient of rows whose norms stand. */
int pf_entropy_pull(pf_engine *e, const pf_entropy *job, int64_t rows);

#endif
