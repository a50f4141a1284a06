/*
 * counting.h - the parts of a layer of the host that counts its calls in each stream's state, and a
 * map of the host's. A test writes the step itself, which says when it fails.
 */
#ifndef PF_COUNTING_H
#define PF_COUNTING_H

#include "calls.h"
#include "check.h"
#include "performer_attention.h"

typedef struct {
    int calls;
} counting;

/* Of whole rows: what comes in. */
static inline int count_forward(void *context, pf_engine *e, pf_tensor *x, const pf_pass *pass,
                                pf_tensor **y) {
    (void)context, (void)pass;
    return pf_affine(y, e, x, 1, 0);
}

/* The call's number in its stream, from 1; it counts before anything can fail, as a careless host
 * would. */
static inline int count_call(void **state) {
    if (!*state) *state = calloc(1, sizeof(counting));
    return ++((counting *)*state)->calls;
}

static inline void count_release(void *context, void *state) {
    (void)context;
    free(state);
}

static inline int count_fork(void *context, pf_engine *e, void *state, int64_t batch,
                             const int64_t *rows, int64_t n, void **copy) {
    (void)context, (void)e, (void)batch, (void)rows, (void)n;
    *copy = memcpy(malloc(sizeof(counting)), state, sizeof(counting));
    return PF_OK;
}

static inline pf_host_layer counting_layer(int (*step)(void *context, pf_engine *e, pf_tensor *x,
                                                       void **state, pf_tensor **y),
                                           void *context) {
    return (pf_host_layer){.size = sizeof(pf_host_layer),
                           .forward = count_forward,
                           .step = step,
                           .release_state = count_release,
                           .fork_state = count_fork,
                           .context = context};
}

/* phi(x) = sigmoid(x) */
static inline int sigmoid_map(pf_engine *e, pf_tensor *x, pf_tensor **phi) {
    pf_attr attrs[PF_MAX_ATTR];
    int sigmoid = pf_op_find(e, "sigmoid");
    PF_TRY(pf_op_defaults(e, sigmoid, attrs));
    return pf_op_apply(e, sigmoid, &x, 1, attrs, phi);
}

#endif
