/*
 * map_general.c - generalised attention (paper, section 2.2): phi(x)_a = f(u_a) + eps, with
 * u = W x, or u = x without a projection. No log-shift: features are what they are.
 *
 * The pull-back reads f'(u) off the feature itself, so nothing else need be kept.
 */
#include <math.h>
#include <string.h>

#include "kern.h"
#include "maps.h"

/* ---- relu: f(u) = max(u, 0) ---- */

static void relu_encode(const pf_map_args *args, pf_side side, int64_t n, int64_t ld, float *u,
                        const float *half, float *shift) {
    (void)side, (void)half;
    for (int64_t i = 0; i < n; i++) {
        args->kern->unary(PF_UNARY_RELU, args->m, u + i * ld, u + i * ld);
        args->kern->affine(args->m, 1, args->eps, u + i * ld, u + i * ld);
        shift[i] = 0;
    }
}

static void relu_pull(const pf_map_args *args, pf_side side, int64_t n, int64_t ld, const float *f,
                      float *df, float *coef) {
    (void)side;
    for (int64_t i = 0; i < n; i++) {
        for (int64_t a = i * ld; a < i * ld + args->m; a++) df[a] = f[a] > args->eps ? df[a] : 0;
        coef[i] = 0;
    }
}

static void relu_define(const pf_map_args *args, const double *u, double half, double *out) {
    (void)half;
    for (int64_t a = 0; a < args->m; a++) out[a] = fmax(u[a], 0) + (double)args->eps;
}

/* ---- elu + 1: f(u) = u + 1 for u > 0, exp(u) below (Linear Transformer) ---- */

static void elu_encode(const pf_map_args *args, pf_side side, int64_t n, int64_t ld, float *u,
                       const float *half, float *shift) {
    (void)side, (void)half;
    for (int64_t i = 0; i < n; i++) {
        args->kern->unary(PF_UNARY_ELU, args->m, u + i * ld, u + i * ld);
        args->kern->affine(args->m, 1, 1 + args->eps, u + i * ld, u + i * ld);
        shift[i] = 0;
    }
}

/* f' = 1 above 0, f itself (without eps) below. */
static void elu_pull(const pf_map_args *args, pf_side side, int64_t n, int64_t ld, const float *f,
                     float *df, float *coef) {
    (void)side;
    for (int64_t i = 0; i < n; i++) {
        for (int64_t a = i * ld; a < i * ld + args->m; a++) {
            float plain = f[a] - args->eps;
            df[a] *= plain < 1 ? plain : 1;
        }
        coef[i] = 0;
    }
}

static void elu_define(const pf_map_args *args, const double *u, double half, double *out) {
    (void)half;
    for (int64_t a = 0; a < args->m; a++) {
        out[a] = (u[a] > 0 ? u[a] + 1 : exp(u[a])) + (double)args->eps;
    }
}

/* ---- given: the features are the input (linear_attention) ---- */

static void given_encode(const pf_map_args *args, pf_side side, int64_t n, int64_t ld, float *u,
                         const float *half, float *shift) {
    (void)args, (void)side, (void)ld, (void)u, (void)half;
    memset(shift, 0, (size_t)n * sizeof *shift);
}

static void given_pull(const pf_map_args *args, pf_side side, int64_t n, int64_t ld,
                       const float *f, float *df, float *coef) {
    (void)args, (void)side, (void)ld, (void)f, (void)df;
    memset(coef, 0, (size_t)n * sizeof *coef);
}

static void given_define(const pf_map_args *args, const double *u, double half, double *out) {
    (void)half;
    memcpy(out, u, (size_t)args->m * sizeof *out);
}

const pf_map pf_map_relu = {
    .name = "relu",
    .doc = "Generalised attention with relu(u) + eps (Performer-ReLU of the paper).",
    .positive = true, .eps = 1e-3, .width = 1,
    .encode = relu_encode, .pull = relu_pull, .define = relu_define,
};

const pf_map pf_map_elu = {
    .name = "elu",
    .doc = "Generalised attention with elu(u) + 1 + eps (the Linear Transformer's map).",
    .positive = true, .width = 1,
    .encode = elu_encode, .pull = elu_pull, .define = elu_define,
};

const pf_map pf_map_given = {
    .name = "given", .doc = "The features are the input.", .width = 1,
    .encode = given_encode, .pull = given_pull, .define = given_define,
};
