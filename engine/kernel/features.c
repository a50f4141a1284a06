/*
 * features.c - the row features: the plain definition of a map, in double and without any
 * stabiliser, for reading and as the judge of encoder.c.
 */
#include <math.h>

#include "kernel_attrs.h"

enum { X, KERNEL, INPUTS = KERNEL + PF_KERNEL_INPUTS };
enum { LOOK = 256 }; /* rows */

static const pf_attr_info feature_attrs[PF_KERNEL_ATTRS] = {
#include "kernel_attrs.def"
};

static int features_shape(pf_call *c) {
    const pf_tensor *x = c->in[X];
    int64_t r;
    PF_TRY(pf_tensor_check(x, PF_F32, "features", "x"));
    if (x->rank != 4) return pf_shape_fail(c, "x must be (batch, heads, length, head_dim)");
    PF_TRY(pf_call_kernel_check(c, 0, KERNEL, x->shape[1], x->shape[3], &r));
    int64_t out[4] = {x->shape[0], x->shape[1], x->shape[2], r};
    return pf_set_shape(c, 0, PF_F32, 4, out);
}

typedef struct {
    pf_encoding of;
    const float *x; /* (B, H, L, d) */
    float *y;       /* (B, H, L, r) */
    int64_t H, L;
    double scale;
    const pf_engine *engine;
    atomic_int stopped; /* why a task was broken off, or 0 */
} features_op;

/* A task is a head's rows, however many: it looks itself whether to go on. */
static bool is_stopped(features_op *f) {
    int status = pf_stopped(f->engine);
    if (status < 0) atomic_store(&f->stopped, status);
    return status < 0;
}

/* Projects one row in double: u (m), half = |x|^2 / 2. */
static double project(const features_op *f, const float *row, const float *w, double *u) {
    double half = 0, scale = f->scale;
    int64_t d = f->of.d;
    for (int64_t i = 0; i < d; i++) half += 0.5 * scale * scale * row[i] * row[i];
    for (int64_t a = 0; a < f->of.m; a++) {
        double sum = w ? 0 : scale * row[a];
        for (int64_t i = 0; w && i < d; i++) sum += scale * row[i] * w[a * d + i];
        u[a] = sum;
    }
    return half;
}

/* Task: one head of one item. */
static void features_task(void *context, int64_t task, void *scratch) {
    features_op *f = context;
    const pf_encoding *n = &f->of;
    int64_t head = task % f->H;
    double *u = scratch, *log_phi = u + n->m, *sign = log_phi + n->r;
    const float *w = n->projected ? n->w + head * n->w_head : NULL;
    pf_map_args args = n->args;
    if (n->map->tilted) {
        double tilt = n->tilts ? (double)n->tilts[head] : n->numbers.tilt;
        pf_map_tilt(&args, tilt, w, n->d, (float *)(sign + n->r));
    }
    for (int64_t i = task * f->L; i < (task + 1) * f->L; i++) {
        if (i % LOOK == 0 && is_stopped(f)) return;
        double half = project(f, f->x + i * n->d, w, u);
        n->map->define(&args, u, half, log_phi, sign);
        for (int64_t a = 0; a < n->r; a++) {
            f->y[i * n->r + a] = (float)(sign[a] * exp(log_phi[a]));
        }
    }
}

static int features_forward(pf_call *c) {
    const int64_t *shape = c->in[X]->shape;
    features_op f = {.y = pf_f32(c->out[0]), .H = shape[1], .L = shape[2], .engine = c->engine};
    pf_tensor *x;
    PF_TRY(pf_call_compact(c, c->in[X], &x));
    PF_TRY(pf_call_encoding(&f.of, c, 0, KERNEL, shape[1], shape[3]));
    f.x = pf_f32(x);
    f.scale = pf_map_scale(f.of.map, f.of.numbers.scale, shape[3]);
    /* u, log |phi| and signs in double, then the bias of a tilted map */
    size_t bytes = (size_t)(f.of.m + 2 * f.of.r) * sizeof(double) + (size_t)f.of.m * sizeof(float);
    PF_TRY(pf_parallel(c->engine, shape[0] * shape[1], bytes, features_task, &f));
    return pf_stopped_fail(c->engine, atomic_load(&f.stopped));
}

/* In double: four times a product in float. */
static double features_products(const pf_call *c) {
    const int64_t *x = c->in[X]->shape;
    double m;
    return 4 * pf_call_kernel_products(c, KERNEL, (double)(x[0] * x[1] * x[2]), x[3], &m);
}

const pf_op pf_op_features = {
    .name = "features",
    .args = "x, " PF_KERNEL_ARGS,
    .results = "phi",
    .doc = "The plain definition of a feature map, in double, without any stabiliser: x (B, H, "
           "L, d) -> (B, H, L, r). For softmax m^(-1/2) exp(w.x - |x|^2 / 2). Factors are not "
           "read.",
    .min_in = 1,
    .max_in = INPUTS,
    .n_out = 1,
    .flags = PF_OP_NO_GRAD,
    .attrs = feature_attrs,
    .n_attrs = PF_KERNEL_ATTRS,
    .shape = features_shape,
    .products = features_products,
    .forward = features_forward,
};
