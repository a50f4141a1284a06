/*
 * identity.c - the rows identity_attention and features.
 *
 * identity_attention returns its values: the paper's X (OPT) line, the limit of speed. Its
 * gradients for q and k are zeros, so that a block's projections still run both ways.
 * features is the plain definition of a map, without any stabiliser, for reading and tests.
 */
#include <math.h>

#include "operator.h"

enum {
    MASK = PF_EXACT_MASK,
    DOCUMENTS = PF_EXACT_DOCUMENTS,
    DECAY = PF_EXACT_DECAY,
    LIMITS = PF_EXACT_LIMITS
};

static int identity_shape(pf_call *c) {
    int64_t d;
    PF_TRY(pf_attend_grouped(c, &d));
    PF_TRY(pf_attend_masks(c, MASK, DOCUMENTS));
    PF_TRY(pf_attend_reach(c, DOCUMENTS, LIMITS));
    PF_TRY(pf_attend_decay(c, DECAY, true));
    if (c->in[0]->shape[2] == c->in[1]->shape[2]) return 0;
    return pf_shape_fail(c, "identity attention needs as many queries as keys");
}

/* x (B, Hk, L, dv) as (B, Hk, group, L, dv), its heads standing for a group each: a view. */
static int as_groups(pf_tensor **y, const pf_tensor *x, int64_t group) {
    PF_TRY(pf_tensor_view(y, x));
    pf_tensor *t = *y;
    t->rank = 5;
    for (int i = 4; i > 2; i--) {
        t->shape[i] = x->shape[i - 1];
        t->stride[i] = x->stride[i - 1];
    }
    t->shape[2] = group;
    t->stride[2] = 0;
    return 0;
}

/* The same of a tensor with H heads: their own rows. */
static int by_groups(pf_tensor **y, const pf_tensor *x, int64_t group) {
    PF_TRY(as_groups(y, x, group));
    (*y)->shape[1] = x->shape[1] / group;
    (*y)->stride[1] = x->stride[1] * group;
    (*y)->stride[2] = x->stride[1];
    return 0;
}

/* Every head of a group returns its key head's values. */
static int identity_forward(pf_call *c) {
    const pf_tensor *q = c->in[0], *v = c->in[2];
    int64_t H = q->shape[1], group = v->shape[1] > 0 ? H / v->shape[1] : 1;
    if (group == 1) return pf_tensor_view(&c->out[0], v);
    pf_tensor *from = NULL, *to = NULL;
    PF_TRY(pf_heads_output(&c->out[0], c->engine, v->shape[0], H, v->shape[2], v->shape[3]));
    int status = as_groups(&from, v, group);
    if (status >= 0) status = by_groups(&to, c->out[0], group);
    if (status >= 0) status = pf_tensor_copy(to, from);
    pf_tensor_release(&from);
    pf_tensor_release(&to);
    return status;
}

static int give_zeros(pf_call *c, int i) {
    const int64_t *s = c->in[i]->shape;
    pf_tensor *zero = NULL;
    PF_TRY(pf_heads_output(&zero, c->engine, s[0], s[1], s[2], s[3]));
    int status = pf_tensor_fill(zero, 0);
    if (status >= 0) status = pf_grad_give(c, i, zero);
    pf_tensor_release(&zero);
    return status;
}

/* The gradients of a group's heads in one, the first head first. */
static int give_sum(pf_call *c, int64_t group) {
    const pf_tensor *v = c->in[2];
    pf_tensor *sum = NULL, *dout = NULL;
    pf_rows to, from;
    PF_TRY(pf_rows_ready(c->engine, c->dout[0], &dout, &from));
    int status =
        pf_heads_output(&sum, c->engine, v->shape[0], v->shape[1], v->shape[2], v->shape[3]);
    if (status >= 0) status = pf_tensor_fill(sum, 0);
    if (status >= 0) {
        to = pf_rows_of(sum);
        int64_t H = v->shape[1], L = v->shape[2], rows = v->shape[0] * H * group * L;
        for (int64_t i = 0; i < rows; i++) {
            int64_t at = i % L, h = i / L % (H * group), b = i / L / (H * group);
            c->engine->kern->axpy(to.width, 1, pf_rows_at(&from, b, h, at),
                                  pf_rows_at(&to, b, h / group, at));
        }
        status = pf_grad_give(c, 2, sum);
    }
    pf_tensor_release(&dout);
    pf_tensor_release(&sum);
    return status;
}

static int identity_backward(pf_call *c) {
    for (int i = 0; i < 2; i++) {
        if (c->need[i]) PF_TRY(give_zeros(c, i));
    }
    if (!c->need[2]) return 0;
    int64_t Hk = c->in[2]->shape[1], group = Hk > 0 ? c->in[0]->shape[1] / Hk : 1;
    return group == 1 ? pf_grad_give(c, 2, c->dout[0]) : give_sum(c, group);
}

const pf_op pf_op_identity_attention = {
    .name = "identity_attention",
    .args = "q, k, v, [mask], [documents], [decay], [limits], [prefix], [cu_seqlens]",
    .results = "out",
    .doc = "Returns v (each key head's to all heads of its group); zero gradients for q and k. "
           "Takes what exact_attention takes, and reads only v. The limit of speed (paper, section "
           "4.1).",
    .min_in = 3,
    .max_in = PF_EXACT_INPUTS,
    .n_out = 1,
    .flags = PF_OP_OWN_OUTPUTS,
    .shape = identity_shape,
    .forward = identity_forward,
    .backward = identity_backward,
};

/* ---- features ---- */

enum { X, PROJECTION, TILTS, INPUTS };
enum { A_MAP, A_SCALE, A_EPS, A_RATIO, A_TILT, A_COUNT };

static const pf_attr_info feature_attrs[A_COUNT] = {
    {"map", PF_ATTR_CHOICE, 0, false, PF_MAP_CHOICES, "feature map"},
    {"scale", PF_ATTR_FLOAT, 0, false, NULL,
     "x = scale * input; 0: d^(-1/4) for softmax maps, 1 for the others"},
    {"eps", PF_ATTR_FLOAT, -1, false, NULL, "added to every feature; -1: the map's own"},
    {"ratio", PF_ATTR_FLOAT, 0, false, NULL, "phi = ratio f(u) + eps; 0: the map's own"},
    {"tilt", PF_ATTR_FLOAT, 0, false, NULL, "A of softmax_plus, below 1/4"},
};

static int features_shape(pf_call *c) {
    const pf_tensor *x = c->in[X], *w = c->in[PROJECTION];
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
            return pf_shape_fail(c,
                                 "projection must be (features, %lld) or (%lld, features, "
                                 "%lld)",
                                 (long long)d, (long long)x->shape[1], (long long)d);
        }
        m = w->shape[w->rank - 2];
    }
    PF_TRY(pf_attend_tilt(c, TILTS, c->attr[A_TILT].f, map, x->shape[1]));
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
    const float *x, *w, *tilts;
    float *y;
    int64_t H, L, d, m, r, w_head;
    double scale, tilt;
    const pf_map *map;
    pf_map_args args;
} features_op;

static void features_task(void *context, int64_t task, void *scratch) {
    const features_op *f = context;
    double *u = scratch, *log_phi = u + f->m, *sign = log_phi + f->r;
    const float *w = f->w ? f->w + task % f->H * f->w_head : NULL;
    pf_map_args args = f->args;
    if (f->map->tilted) {
        double tilt = f->tilts ? (double)f->tilts[task % f->H] : f->tilt;
        pf_map_tilt(&args, tilt, w, f->d, (float *)(sign + f->r));
    }
    for (int64_t i = task * f->L; i < (task + 1) * f->L; i++) {
        double half = project(f->x + i * f->d, f->scale, f->d, w, f->m, u);
        f->map->define(&args, u, half, log_phi, sign);
        for (int64_t a = 0; a < f->r; a++) {
            f->y[i * f->r + a] = (float)(sign[a] * exp(log_phi[a]));
        }
    }
}

static int features_forward(pf_call *c) {
    pf_tensor *x = NULL, *w = NULL, *tilts = NULL;
    PF_TRY(pf_tensor_compact(&x, c->engine, c->in[X]));
    int status = 0;
    if (c->in[PROJECTION]) status = pf_tensor_compact(&w, c->engine, c->in[PROJECTION]);
    if (status >= 0 && c->in[TILTS]) {
        status = pf_tensor_compact(&tilts, c->engine, c->in[TILTS]);
        if (status >= 0) status = pf_attend_tilt_values("features", pf_f32(tilts), x->shape[1]);
    }
    if (status >= 0) {
        const pf_map *map = pf_map_at((int)c->attr[A_MAP].i);
        int64_t d = x->shape[3], r = c->out[0]->shape[3], m = r / map->width;
        features_op f = {
            pf_f32(x),
            w ? pf_f32(w) : NULL,
            tilts ? pf_f32(tilts) : NULL,
            pf_f32(c->out[0]),
            x->shape[1],
            x->shape[2],
            d,
            m,
            r,
            w && w->rank == 3 ? m * d : 0,
            pf_map_scale(map, c->attr[A_SCALE].f, d),
            c->attr[A_TILT].f,
            map,
            pf_map_args_of(map, c->engine->kern, m, c->attr[A_EPS].f, c->attr[A_RATIO].f)};
        size_t bytes = (size_t)(m + 2 * r) * sizeof(double) + (size_t)m * sizeof(float);
        status = pf_parallel(c->engine, x->shape[0] * x->shape[1], bytes, features_task, &f);
    }
    pf_tensor_release(&tilts);
    pf_tensor_release(&x);
    pf_tensor_release(&w);
    return status;
}

const pf_op pf_op_features = {
    .name = "features",
    .args = "x, [projection], [tilts]",
    .results = "phi",
    .doc = "The plain definition of a feature map, in double, without any stabiliser: x (B, H, "
           "L, d) -> (B, H, L, r). For softmax m^(-1/2) exp(w.x - |x|^2 / 2).",
    .min_in = 1,
    .max_in = INPUTS,
    .n_out = 1,
    .flags = PF_OP_NO_GRAD,
    .attrs = feature_attrs,
    .n_attrs = A_COUNT,
    .shape = features_shape,
    .forward = features_forward,
};
