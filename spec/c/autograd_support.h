/*
 * autograd_support.h - what the tests of the tape and of gradients share: an engine of the
 * lower floors over a counting allocator that can refuse, leaves with random numbers, and
 * the forward of a row of the test's own.
 */
#ifndef PF_AUTOGRAD_SUPPORT_H
#define PF_AUTOGRAD_SUPPORT_H

#include "calls_support.h"
#include "check.h"

/* ---- engines over a counting allocator that can refuse ---- */

typedef struct {
    long calls, frees, left; /* left: allocations until it refuses; < 0: never */
    pf_allocator allocator;
} host;

static inline void *host_resize(void *context, void *block, size_t old_bytes, size_t bytes) {
    host *h = context;
    (void)old_bytes;
    if (bytes == 0) {
        h->frees += block != NULL;
        free(block);
        return NULL;
    }
    if (h->left == 0) return NULL;
    if (h->left > 0) h->left--;
    h->calls++;
    return malloc(bytes);
}

static inline void open_engine(pf_engine *e, int threads, host *h) {
    pf_options options = PF_OPTIONS_DEFAULT;
    options.threads = threads;
    options.seed = 11;
    if (h) {
        *h = (host){.left = -1};
        h->allocator = (pf_allocator){sizeof h->allocator, host_resize, h};
        options.allocator = &h->allocator;
    }
    memset(e, 0, sizeof *e);
    int status = pf_runtime_open(e, &options);
    if (status >= 0) status = pf_ops_register(e);
    if (status >= 0) return;
    fprintf(stderr, "no engine: %s\n", pf_last_error());
    exit(1);
}

static inline pf_tensor *leaf(pf_engine *e, int rank, const int64_t *shape, uint64_t stream) {
    pf_tensor *t = NULL;
    if (pf_tensor_make_lasting(&t, e->heap, PF_F32, rank, shape) < 0) return NULL;
    pf_rng rng = pf_rng_make(5, PF_DRAW_USER, stream, 0);
    pf_rng_fill_normal(&rng, 0, pf_tensor_numel(t), pf_f32(t));
    pf_tensor_require_grad(t, true);
    return t;
}

static inline pf_tensor *vector(pf_engine *e, int64_t n, uint64_t stream) {
    return leaf(e, 1, &n, stream);
}

static inline int sum_all(pf_tensor **y, pf_engine *e, pf_tensor *x) {
    return call_one(y, e, &pf_op_sum, x);
}

/* Replaces *x by op(*x). */
static inline int then(pf_tensor **x, pf_engine *e, const pf_op *op) {
    pf_tensor *y = NULL;
    int status = call_one(&y, e, op, *x);
    pf_tensor_release(x);
    *x = y;
    return status;
}

static inline bool grad_is(pf_engine *e, pf_tensor *t, double (*expected)(double x)) {
    pf_tensor *g = NULL;
    if (pf_tensor_grad(&g, e, t) < 0 || !g) return false;
    bool good = true;
    for (int64_t i = 0; i < pf_tensor_numel(t); i++) {
        double want = expected((double)pf_f32(t)[i]);
        good = good && fabs((double)pf_f32(g)[i] - want) <= 1e-5 * (1 + fabs(want));
    }
    pf_tensor_release(&g);
    return good;
}

static inline bool has_grad(pf_engine *e, pf_tensor *t) {
    pf_tensor *g = NULL;
    bool has = pf_tensor_grad(&g, e, t) == 0 && g;
    pf_tensor_release(&g);
    return has;
}

/* ---- y = 2 x, for rows of a test's own ---- */

static inline int same_shape(pf_call *c) { return pf_same_as(c, 0, 0); }

static inline int double_forward(pf_call *c) {
    for (int64_t i = 0; i < pf_tensor_numel(c->in[0]); i++)
        pf_f32(c->out[0])[i] = 2 * pf_f32(c->in[0])[i];
    return PF_OK;
}

#endif
