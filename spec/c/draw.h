/* draw.h - the random numbers of an engine, one by one, as a host gets them. */
#ifndef PF_DRAW_H
#define PF_DRAW_H

#include "check.h"
#include "performer.h"

/* The next number that the engine draws. */
static inline float draw(pf_engine *engine) {
    const int64_t shape[] = {1};
    pf_tensor *t = NULL;
    CHECK_OK(pf_tensor_rand(&t, engine, 1, shape, false));
    const float value = ((const float *)pf_tensor_data(t))[0];
    pf_tensor_release(&t);
    return value;
}

#endif
