/*
 * calls.h - short calls of the ops that nn/ composes: each is pf_apply on one row, with
 * its attributes named. All return a status; *y becomes the caller's.
 */
#ifndef PF_CALLS_H
#define PF_CALLS_H

#include "tape.h"

int pf_add(pf_tensor **y, pf_engine *e, pf_tensor *a, pf_tensor *b);
/* scale x + shift */
int pf_affine(pf_tensor **y, pf_engine *e, pf_tensor *x, double scale, double shift);
/* x (..., K) by weight (N, K), bias (N) or NULL -> (..., N) */
int pf_linear(pf_tensor **y, pf_engine *e, pf_tensor *x, pf_tensor *weight, pf_tensor *bias);
/* act: place in "none|" PF_ACTS. step: for a few rows, as in decoding; reads the weights once, as
 * they lie. */
int pf_linear_act(pf_tensor **y, pf_engine *e, pf_tensor *x, pf_tensor *weight, pf_tensor *bias,
                  int act, bool step);
/* The activation alone, by its place in "none|" PF_ACTS; of none, x itself. */
int pf_act(pf_tensor **y, pf_engine *e, pf_tensor *x, int act);
int pf_layernorm(pf_tensor **y, pf_engine *e, pf_tensor *x, pf_tensor *weight, pf_tensor *bias,
                 double eps);
int pf_rmsnorm(pf_tensor **y, pf_engine *e, pf_tensor *x, pf_tensor *weight, double eps);
/* *sum = x + h and *y the norm of it, both the caller's. */
int pf_add_layernorm(pf_tensor **sum, pf_tensor **y, pf_engine *e, pf_tensor *x, pf_tensor *h,
                     pf_tensor *weight, pf_tensor *bias, double eps);
int pf_add_rmsnorm(pf_tensor **sum, pf_tensor **y, pf_engine *e, pf_tensor *x, pf_tensor *h,
                   pf_tensor *weight, double eps);
int pf_embedding(pf_tensor **y, pf_engine *e, pf_tensor *table, pf_tensor *ids);
int pf_reshape(pf_tensor **y, pf_engine *e, pf_tensor *x, int rank, const int64_t *shape);
int pf_permute(pf_tensor **y, pf_engine *e, pf_tensor *x, int rank, const int *order);
/* half open */
int pf_slice(pf_tensor **y, pf_engine *e, pf_tensor *x, int dim, int64_t first, int64_t end);
int pf_dropout(pf_tensor **y, pf_engine *e, pf_tensor *x, double p, uint64_t draw);
/* x (B, H, L, d), positions (B, L) i32 or NULL (0 .. L-1); base 10000; offset added to positions */
int pf_rotary(pf_tensor **y, pf_engine *e, pf_tensor *x, pf_tensor *positions, double base,
              bool halves, int64_t offset);
/* silu(gate) * value */
int pf_swiglu(pf_tensor **y, pf_engine *e, pf_tensor *gate, pf_tensor *value);
/* logits (..., V), ids (...) i32, -1: not counted -> scalar mean in nats */
int pf_cross_entropy(pf_tensor **y, pf_engine *e, pf_tensor *logits, pf_tensor *ids);
/* -> (...), each position's */
int pf_cross_entropy_each(pf_tensor **y, pf_engine *e, pf_tensor *logits, pf_tensor *ids);
/* Either of linear's output, in pieces; best (NULL: not wanted): (...) i32, the likeliest ids. */
int pf_linear_cross_entropy(pf_tensor **y, pf_tensor **best, pf_engine *e, pf_tensor *x,
                            pf_tensor *weight, pf_tensor *bias, pf_tensor *ids, bool each);
/* -> i32, places from 0 */
int pf_argmax(pf_tensor **y, pf_engine *e, pf_tensor *x, int dim);

#endif
