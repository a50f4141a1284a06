/*
 * identity.c - the rows identity_attention and features.
 *
 * identity_attention returns its values: the paper's X (OPT) line, the limit of speed. Its
 * gradients for q and k are zeros, so that a block's projections still run both ways.
 * features is the plain definition of a map, without any stabiliser, for reading and tests.
 */
#include <math.h>

#include "linear.h"

static int identity_shape(pf_call *c) {
    int64_t d;
    PF_TRY(pf_attend_shapes(c, &d));
    if (c->in[0]->shape[2] == c->in[1]->shape[2]) return 0;
    return pf_shape_fail(c, "identity attention needs as many queries as keys");
}

static int identity_forward(pf_call *c) { return pf_tensor_view(&c->out[0], c->in[2]); }

static int identity_backward(pf_call *c) {
    for (int i = 0; i < 2; i++) {
        if (!c->need[i]) continue;
        const int64_t *s = c->in[i]->shape;
        pf_tensor *zero = NULL;
        PF_TRY(pf_heads_output(&zero, c->engine, s[0], s[1], s[2], s[3]));
        int status = pf_tensor_fill(zero, 0);
        if (status >= 0) status = pf_grad_give(c, i, zero);
        pf_tensor_release(&zero);
        PF_TRY(status);
    }
    return c->need[2] ? pf_grad_give(c, 2, c->dout[0]) : 0;
}

const pf_op pf_op_identity_attention = {
    .name = "identity_attention",
    .args = "q, k, v",
    .results = "out",
    .doc = "Returns v; zero gradients for q and k. The limit of speed (paper, section 4.1).",
    .min_in = 3, .max_in = 3, .n_out = 1,
    .flags = PF_OP_OWN_OUTPUTS,
    .shape = identity_shape, .forward = identity_forward, .backward = identity_backward,
};

/* ---- features ---- */

enum { A_MAP, A_SCALE, A_EPS, A_COUNT };

static const pf_attr_info feature_attrs[A_COUNT] = {
    {"map", PF_ATTR_CHOICE, 0, false, PF_MAP_CHOICES, "feature map"},
    {"scale", PF_ATTR_FLOAT, 0, false, NULL,
     "x = scale * input; 0: d^(-1/4) for softmax, 1 for the others"},
    {"eps", PF_ATTR_FLOAT, -1, false, NULL, "added to every feature; -1: the map's own"},
};

static int features_shape(pf_call *c) {
    const pf_tensor *x = c->in[0], *w = c->in[1];
    PF_TRY(pf_tensor_check(x, PF_F32, "features", "x"));
    if (x->rank != 4) return pf_shape_fail(c, "x must be (batch, heads, length, head_dim)");
    int64_t d = x->shape[3], m = d;
    const pf_map *map = pf_map_at((int)c->attr[A_MAP].i);
    if (!w && map->softmax) {
        return pf_fail(PF_EINVAL, "features: the map '%s' needs a projection", map->name);
    }
    if (w) {
        PF_TRY(pf_tensor_check(w, PF_F32, "features", "projection"));
        bool fits = (w->rank == 2 || (w->rank == 3 && w->shape[0] == x->shape[1])) &&
                    w->shape[w->rank - 1] == d;
        if (!fits) {
            return pf_shape_fail(c, "projection must be (features, %lld) or (%lld, features, "
                                    "%lld)",
                                 (long long)d, (long long)x->shape[1], (long long)d);
        }
        m = w->shape[w->rank - 2];
    }
    int64_t out[4] = {x->shape[0], x->shape[1], x->shape[2], m * map->width};
    return pf_set_shape(c, 0, PF_F32, 4, out);
}

/* Projects one row in double: u (m), half = |x|^2 / 2. */
static double project(const float *row, double scale, int64_t d, const float *w, int64_t m,
                      double *u) {
    double half = 0;
    for (int64_t i = 0; i < d; i++) half += 0.5 * scale * scale * row[i] * row[i];
    for (int64_t a = 0; a < m; a++) {
        double sum = w ? 0 : scale * row[a];
        for (int64_t i = 0; w && i < d; i++) sum += scale * row[i] * w[a * d + i];
        u[a] = sum;
    }
    return half;
}

typedef struct {
    const float *x, *w;
    float *y;
    int64_t H, L, d, m, r, w_head;
    double scale;
    const pf_map *map;
    pf_map_args args;
} features_op;

static void features_task(void *context, int64_t task, void *scratch) {
    const features_op *f = context;
    double *u = scratch, *out = u + f->m;
    const float *w = f->w ? f->w + task % f->H * f->w_head : NULL;
    for (int64_t i = task * f->L; i < (task + 1) * f->L; i++) {
        double half = project(f->x + i * f->d, f->scale, f->d, w, f->m, u);
        f->map->define(&f->args, u, half, out);
        for (int64_t a = 0; a < f->r; a++) f->y[i * f->r + a] = (float)out[a];
    }
}

static int features_forward(pf_call *c) {
    pf_tensor *x = NULL, *w = NULL;
    PF_TRY(pf_tensor_compact(&x, c->engine, c->in[0]));
    int status = c->in[1] ? pf_tensor_compact(&w, c->engine, c->in[1]) : 0;
    if (status >= 0) {
        const pf_map *map = pf_map_at((int)c->attr[A_MAP].i);
        int64_t d = x->shape[3], r = c->out[0]->shape[3], m = r / map->width;
        double eps = c->attr[A_EPS].f < 0 ? map->eps : c->attr[A_EPS].f;
        features_op f = {pf_f32(x), w ? pf_f32(w) : NULL, pf_f32(c->out[0]), x->shape[1],
                         x->shape[2], d, m, r, w && w->rank == 3 ? m * d : 0,
                         pf_map_scale(map, c->attr[A_SCALE].f, d), map,
                         {c->engine->kern, m, r, (float)eps}};
        status = pf_parallel(c->engine, x->shape[0] * x->shape[1],
                             (size_t)(m + r) * sizeof(double), features_task, &f);
    }
    pf_tensor_release(&x);
    pf_tensor_release(&w);
    return status;
}

const pf_op pf_op_features = {
    .name = "features",
    .args = "x, [projection]",
    .results = "phi",
    .doc = "The plain definition of a feature map, in double, without any stabiliser: x (B, H, "
           "L, d) -> (B, H, L, r). For softmax m^(-1/2) exp(w.x - |x|^2 / 2).",
    .min_in = 1, .max_in = 2, .n_out = 1,
    .flags = PF_OP_NO_GRAD,
    .attrs = feature_attrs, .n_attrs = A_COUNT,
    .shape = features_shape, .forward = features_forward,
};
