/*
 * fit.h - weights of a file and the tensors of a model: held against each other by name, shape and
 * dtype, and then read. What doesn't fit is told with the first few names.
 */
#ifndef PF_FIT_H
#define PF_FIT_H

#include "module.h"
#include "safetensors.h"

/* Names and shapes are all checked before a number is read, or a byte for it is asked for. former:
 * tensors can have former names in the file. What fails on the way leaves numbers of both. */
int pf_fit_model(pf_engine *engine, pf_safetensors *s, bool former, pf_module *module);

/* The numbers of a file beside a model that stands, for which they are: what can't be read to the
 * end leaves it as it was. */
typedef struct {
    pf_tensor **to, **fresh; /* (n) each: the model's, borrowed, and the file's */
    int n;
} pf_aside;

int pf_aside_read(pf_aside *a, pf_engine *engine, pf_safetensors *s, bool former,
                  pf_module *module); /* to be freed in any case */
int pf_aside_put(const pf_aside *a);  /* into the model: tensors of one shape and dtype */
void pf_aside_free(pf_aside *a, pf_engine *engine);

#endif
