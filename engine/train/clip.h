/* clip.h - the global norm of gradients. */
#ifndef PF_CLIP_H
#define PF_CLIP_H

#include "optim.h"

/* Norm of n contiguous f32 tensors together, and of others whose squares add up to `more`; *bad:
 * the first that is not finite, else -1. */
int pf_grad_norm(pf_engine *e, pf_tensor *const *grads, int n, double more, double *norm, int *bad);

#endif
