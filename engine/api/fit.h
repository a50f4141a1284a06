/*
 * fit.h - weights of a file and the tensors of a model, moments of one and those of an optimizer:
 * held against each other by name, shape and dtype, and then read. What doesn't fit of a model is
 * told with the first few names.
 */
#ifndef PF_FIT_H
#define PF_FIT_H

#include "module.h"
#include "optim.h"
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

/* Moments, averages and step count of a checkpoint's folder, by the parameters' names: of them this
 * rank's own are read. config: the optimizer's part of state.json. fresh: see optim.h. */
int pf_fit_moments(pf_engine *engine, const char *folder, bool former, pf_optimizer *optimizer,
                   bool fresh, const pf_config *config);

#endif
