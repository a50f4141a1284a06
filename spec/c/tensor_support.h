/*
 * tensor_support.h - what the tests of the tensor floor share: an engine of the runtime only,
 * a counted matrix, a transposed view.
 */
#ifndef PF_TENSOR_SUPPORT_H
#define PF_TENSOR_SUPPORT_H

#include "check.h"
#include "host.h"
#include "tensor.h"

#define SHAPE(...)                                                                                 \
    (const int64_t[]) { __VA_ARGS__ }

static inline pf_engine engine_of(int threads, host_memory *host) {
    pf_engine engine;
    pf_options options = PF_OPTIONS_DEFAULT;
    if (host) options = host_options(host);
    options.threads = threads;
    CHECK_OK(pf_runtime_open(&engine, &options));
    return engine;
}

/* (rows, columns) f32 holding 0, 1, 2 ... */
static inline pf_tensor *counted(pf_engine *e, int64_t rows, int64_t columns) {
    pf_tensor *t;
    CHECK_OK(pf_tensor_empty(&t, e, PF_F32, 2, SHAPE(rows, columns)));
    for (int64_t i = 0; i < rows * columns; i++) pf_f32(t)[i] = (float)i;
    return t;
}

/* A view of a matrix with rows and columns exchanged. */
static inline pf_tensor *transposed(const pf_tensor *t) {
    pf_tensor *v;
    CHECK_OK(pf_tensor_view(&v, t));
    v->shape[0] = t->shape[1], v->shape[1] = t->shape[0];
    v->stride[0] = t->stride[1], v->stride[1] = t->stride[0];
    return v;
}

#endif
