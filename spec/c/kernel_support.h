/*
 * kernel_support.h - a kernel of the host's for C tests, elu(x) + 1 made of ops, which counts its
 * calls and its release, and misbehaves on demand; rows, states and layers to use it with.
 */
#ifndef PF_KERNEL_SUPPORT_H
#define PF_KERNEL_SUPPORT_H

#include "attention.h"
#include "nn_support.h"

enum { B = 2, H = 2, D = 4, DV = 3, L = 9 };

/* ---- a kernel of the host's ---- */

/* What a host keeps beside its map. */
typedef struct {
    int calls, released;
    double factor;          /* of all features: attention does not see it */
    int wide_keys, wide_at; /* misbehaves: keys, or calls from that one on, get twice the width */
    bool fails;
    int code;        /* fails with it, and says nothing; 0: does not */
    pf_tensor *gain; /* (D) that it learns: elu(gain x) + 1; NULL: none */
} mine;

/* f of *x (and of `other`, or NULL) by the op of that name, in the place of *x. */
static inline int op_on(pf_engine *e, const char *name, pf_tensor **x, pf_tensor *other) {
    pf_attr attrs[PF_MAX_ATTR];
    pf_tensor *in[2] = {*x, other}, *y = NULL;
    int index = pf_op_find(e, name);
    PF_TRY(index);
    PF_TRY(pf_op_defaults(e, index, attrs));
    int status = pf_op_apply(e, index, in, other ? 2 : 1, attrs, &y);
    pf_tensor_release(x);
    *x = y;
    return status;
}

/* (.., r) -> (.., 2 r) */
static inline int doubled(pf_engine *e, pf_tensor **x) {
    pf_tensor *both[2] = {*x, *x}, *y = NULL;
    pf_attr attrs[PF_MAX_ATTR];
    int index = pf_op_find(e, "concat");
    PF_TRY(pf_op_defaults(e, index, attrs));
    attrs[0].i = 3;
    int status = pf_op_apply(e, index, both, 2, attrs, &y);
    pf_tensor_release(x);
    *x = y;
    return status;
}

static inline int elu_map(void *context, pf_engine *e, pf_side side, pf_tensor *x,
                          pf_tensor **phi) {
    mine *m = context;
    m->calls++;
    if (m->fails) return pf_fail(PF_EHOST, "the map says no");
    if (m->code) return m->code;
    pf_tensor *y = pf_tensor_retain(x), *z = NULL;
    int status = m->gain ? op_on(e, "mul", &y, m->gain) : PF_OK;
    if (status >= 0) status = op_on(e, "elu", &y, NULL);
    if (status >= 0) status = pf_affine(&z, e, y, m->factor, m->factor);
    pf_tensor_release(&y);
    bool wide = (m->wide_keys && side == PF_SIDE_KEY) || (m->wide_at && m->calls >= m->wide_at);
    if (status >= 0 && wide) status = doubled(e, &z);
    if (status >= 0) *phi = z;
    return status;
}

static inline void elu_release(void *context) { ((mine *)context)->released++; }

static inline int open_mine(pf_kernel **kernel, pf_engine *e, const char *name, mine *m) {
    if (m->factor == 0) m->factor = 1;
    pf_named gain = {"gain", m->gain};
    pf_host_map map = {.size = sizeof map,
                       .map = elu_map,
                       .release = elu_release,
                       .context = m,
                       .parameters = &gain,
                       .n_parameters = m->gain != NULL};
    return pf_kernel_open_host(kernel, e, name, &map);
}

static inline pf_kernel *mine_of(pf_engine *e, const char *name, mine *m) {
    pf_kernel *kernel = NULL;
    CHECK_OK(open_mine(&kernel, e, name, m));
    return kernel;
}

static inline pf_tensor *normals(pf_engine *e, int64_t batch, int64_t heads, int64_t length,
                                 int64_t width) {
    pf_tensor *t = NULL;
    CHECK_OK(pf_tensor_rand(&t, e, 4, (int64_t[]){batch, heads, length, width}, true));
    return t;
}

/* Equal to `bound` of the largest; takes both. */
static inline bool close_to(pf_tensor **a, pf_tensor **b, double bound) {
    bool same = *a && *b && pf_same_shape(*a, *b);
    float *x = same ? numbers(*a) : NULL, *y = same ? numbers(*b) : NULL;
    double far = same ? distance(x, y, pf_tensor_numel(*a)) : INFINITY;
    if (!(far <= bound)) fprintf(stderr, "  %.3g apart\n", far);
    same = far <= bound;
    free(x), free(y);
    pf_tensor_release(a), pf_tensor_release(b);
    return same;
}

/* ---- rows and states ---- */

typedef struct {
    pf_tensor *q, *k, *v;
} rows;

static inline rows rows_of(pf_engine *e, int64_t heads, int64_t length) {
    return (rows){normals(e, B, heads, length, D), normals(e, B, H, length, D),
                  normals(e, B, H, length, DV)};
}

static inline void free_rows(rows *x) {
    pf_tensor_release(&x->q), pf_tensor_release(&x->k), pf_tensor_release(&x->v);
}

static inline pf_state *state_of(pf_engine *e, pf_kernel *kernel) {
    pf_attention_state_options o = {
        .size = sizeof o, .kernel = kernel, .batch = B, .heads = H, .head_dim = D, .value_dim = DV};
    pf_state *s = NULL;
    CHECK_OK(pf_attention_state_open(&s, e, &o));
    return s;
}

/* The same rows through two states; n = 1: a step. */
static inline bool move_both(pf_engine *e, pf_state *s, pf_state *t, int64_t n) {
    rows x = rows_of(e, 2 * H, n);
    pf_tensor *a = NULL, *b = NULL;
    int (*move)(pf_tensor **, pf_engine *, pf_state *, pf_tensor *, pf_tensor *, pf_tensor *) =
        n == 1 ? pf_attention_step : pf_attention_prefill;
    CHECK_OK(move(&a, e, s, x.q, x.k, x.v));
    CHECK_OK(move(&b, e, t, x.q, x.k, x.v));
    free_rows(&x);
    return close_to(&b, &a, 1e-6);
}

static inline pf_tensor *matrix(pf_engine *e, int64_t n, int64_t width) {
    pf_tensor *t = NULL;
    CHECK_OK(pf_tensor_rand(&t, e, 2, (int64_t[]){n, width}, true));
    return t;
}

/* A layer with the same weights whatever its kernel. */
static inline pf_module *attention_of(pf_engine *e, pf_config *kernel) {
    pf_config *o = options_of("{'dim': 8, 'heads': 2, 'causal': true}");
    pf_module *m = NULL;
    pf_seed(e, 5);
    CHECK_OK(pf_config_set(o, "kernel", kernel));
    CHECK_OK(pf_module_new(&m, e, "attention", o, NULL, 0));
    pf_config_free(o);
    return m;
}

#endif
