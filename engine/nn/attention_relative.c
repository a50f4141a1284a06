/*
 * attention_relative.c - Transformer-XL's scores by distance (Dai et al. 2019, arXiv 1901.02860,
 * section 3.3), an option of windows:
 *
 *     score_ij = ((q_i + u) . k_j + (q_i + v) . W s_(i - j)) / sqrt(d)
 *
 * with u, v (H, d) learned, s_D the sinusoid of distance D and W (H d, D) a matrix of its own. The
 * first term is what attention does to queries that u was added to. The second is told for every
 * query and distance of the window (B, H, L, W), by products alone, and attention takes from there
 * what belongs to a pair (listed.h).
 */
#include <math.h>

#include "attention_layer.h"
#include "pattern_state.h"

enum { RELATIVE = 2 };         /* the child, behind qkv and out */
enum { REACH_MOST = 1 << 16 }; /* distances, at most */
enum { FEW = 16 };             /* queries to which W is brought, and not to the distances */

/* ---- building ---- */

static int check(const attention_self *self) {
    const pf_attention *a = &self->attention;
    int64_t n = pf_window_distances(a);
    if (n == 0 || !a->causal) {
        return pf_fail(PF_EINVAL,
                       "attention: relative positions are for causal windows (attention = "
                       "\"sliding\"), not %s%s attention",
                       a->causal ? "" : "full ", a->kind->name);
    }
    if (pf_window_no_part(a)) {
        return pf_fail(PF_EINVAL, "attention: relative positions have no distances of global "
                                  "tokens; leave out `global`, or take other positions");
    }
    if (n <= REACH_MOST) return PF_OK;
    return pf_fail(PF_EINVAL,
                   "attention: relative positions of a window that reaches over %lld "
                   "places; at most %d are possible",
                   (long long)n, REACH_MOST);
}

int pf_relative_build(pf_module *m, pf_engine *e, attention_self *self) {
    int64_t shape[2] = {self->heads, self->head_dim}, dim = pf_option_int(m, "dim");
    self->relative = pf_option_int(m, "relative") != 0;
    if (!self->relative) return PF_OK;
    PF_TRY(check(self));
    if (self->rotary) {
        return pf_fail(PF_EINVAL, "attention: rotary and relative positions both say where a key "
                                  "stands; give one");
    }
    PF_TRY(pf_module_param(m, e, "content_bias", 2, shape, "normal:0.02"));
    PF_TRY(pf_module_param(m, e, "position_bias", 2, shape, "normal:0.02"));
    return pf_module_inner(m, e, "relative", "linear",
                           pf_linear_options(m, dim, self->heads * self->head_dim, false, 1));
}

/* waves (W, D): sin in even channels, cos in odd ones, of every distance of the window. */
int pf_relative_derive(pf_module *m) {
    const attention_self *self = m->self;
    int64_t shape[2] = {0, pf_option_int(m, "dim")};
    pf_tensor *waves = NULL;
    if (!self->relative || pf_module_tensor(m, "waves")) return PF_OK;
    shape[0] = pf_window_distances(&self->attention);
    PF_TRY(pf_tensor_make_lasting(&waves, m->heap, PF_F32, 2, shape));
    for (int64_t c = 0; c < shape[1]; c++) {
        double frequency = pow(10000, -(double)(c - c % 2) / (double)shape[1]);
        for (int64_t D = 0; D < shape[0]; D++) {
            double angle = (double)D * frequency;
            pf_f32(waves)[D * shape[1] + c] = (float)(c % 2 ? cos(angle) : sin(angle));
        }
    }
    int status = pf_module_derived(m, "waves", waves);
    pf_tensor_release(&waves);
    return status;
}

/* ---- running ---- */

/* *y (B, H, L, d) = q + a bias (H, d) */
static int add_bias(pf_module *m, pf_engine *e, const char *name, pf_tensor *q, pf_tensor **y) {
    const attention_self *self = m->self;
    int64_t shape[3] = {self->heads, 1, self->head_dim};
    pf_tensor *bias = NULL;
    PF_TRY(pf_reshape(&bias, e, pf_module_tensor(m, name), 3, shape));
    int status = pf_add(y, e, q, bias);
    pf_tensor_release(&bias);
    return status;
}

static int product(pf_tensor **y, pf_engine *e, pf_tensor *a, pf_tensor *b) {
    pf_tensor *in[2] = {a, b};
    return pf_apply(e, &pf_op_matmul, in, 2, NULL, y);
}

/* Many queries: *y (B, H, L, n) = far (W s_D), with W s of all distances first. waves (n, D). */
static int by_distances(pf_module *m, pf_engine *e, const pf_run *run, pf_tensor *far,
                        pf_tensor *waves, pf_tensor **y) {
    static const int order[3] = {1, 2, 0};
    const attention_self *self = m->self;
    int64_t shape[3] = {waves->shape[0], self->heads, self->head_dim};
    pf_tensor *rows = NULL, *heads = NULL, *turned = NULL;
    int status = pf_run_part(m, RELATIVE, e, run, waves, &rows);
    if (status >= 0) status = pf_reshape(&heads, e, rows, 3, shape);
    if (status >= 0) status = pf_permute(&turned, e, heads, 3, order);
    if (status >= 0) status = product(y, e, far, turned);
    pf_tensor_release(&turned);
    pf_tensor_release(&heads);
    pf_tensor_release(&rows);
    return status;
}

/* Few queries: *y = (far W) s_D, which costs no product of W with each distance. */
static int by_queries(pf_module *m, pf_engine *e, pf_tensor *far, pf_tensor *waves, pf_tensor **y) {
    static const int order[2] = {1, 0};
    const attention_self *self = m->self;
    int64_t shape[3] = {self->heads, self->head_dim, waves->shape[1]};
    pf_tensor *weight = pf_module_tensor(m->child[RELATIVE].module, "weight");
    pf_tensor *heads = NULL, *wide = NULL, *turned = NULL;
    int status = pf_reshape(&heads, e, weight, 3, shape);
    if (status >= 0) status = product(&wide, e, far, heads);
    if (status >= 0) status = pf_permute(&turned, e, waves, 2, order);
    if (status >= 0) status = product(y, e, wide, turned);
    pf_tensor_release(&turned);
    pf_tensor_release(&wide);
    pf_tensor_release(&heads);
    return status;
}

/* An adapter beside W is a part of the layer alone. */
static bool is_plain(const pf_module *linear) {
    double scale;
    return linear->type->adapting->rank(linear, &scale) == 0;
}

static int scores(pf_module *m, pf_engine *e, const pf_run *run, pf_tensor *q, pf_tensor **y) {
    const attention_self *self = m->self;
    int64_t L = q->shape[2], held = run->state ? run->state->position : 0;
    pf_tensor *far = NULL, *scaled = NULL, *waves = pf_module_tensor(m, "waves"), *near = NULL;
    int64_t n = pf_min(waves->shape[0], held + L);
    bool few = run->state && !run->slice && L < FEW && is_plain(m->child[RELATIVE].module);
    int status = pf_slice(&near, e, waves, 0, 0, n);
    if (status >= 0) status = add_bias(m, e, "position_bias", q, &far);
    if (status >= 0) {
        status = pf_affine(&scaled, e, far, 1 / sqrt((double)self->head_dim), 0);
    }
    if (status >= 0) {
        status = few ? by_queries(m, e, scaled, near, y) : by_distances(m, e, run, scaled, near, y);
    }
    pf_tensor_release(&scaled);
    pf_tensor_release(&far);
    pf_tensor_release(&near);
    return status;
}

int pf_relative_scores(pf_module *m, pf_engine *e, const pf_run *run, pf_tensor **q,
                       pf_tensor **relative) {
    const attention_self *self = m->self;
    pf_tensor *near = NULL;
    if (!self->relative) return PF_OK;
    PF_TRY(scores(m, e, run, *q, relative));
    int status = add_bias(m, e, "content_bias", *q, &near);
    if (status >= 0) pf_replace(q, near);
    return status;
}
