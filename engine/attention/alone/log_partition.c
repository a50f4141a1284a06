/*
 * log_partition.c - the row log_partition: log sum_j phi(q_i).phi(k_j), the normaliser of
 * attention by itself (paper, eq. 4: log of the diagonal of D), differentiable, by the way of a
 * kind that tells its sums (partition.h).
 *
 * What must hold: the numbers come of double sums, and nothing is saved: a backward makes the sums
 * again, which costs what the forward cost and keeps no (B, H, L) arrays between them.
 */
#include <math.h>
#include <string.h>

#include "kernel_attrs.h"
#include "partition.h"

enum { Q, K, MASK, KERNEL, INPUTS = KERNEL + PF_KERNEL_INPUTS };
enum { A_CAUSAL, A_ATTENTION, A_KERNEL, A_COUNT = A_KERNEL + PF_KERNEL_ATTRS };

static const pf_attr_info attrs[A_COUNT] = {
    {"causal", PF_ATTR_BOOL, 0, false, NULL, "position i sees keys 1 .. i"},
    {"attention", PF_ATTR_CHOICE, 0, false, PF_KIND_CHOICES,
     "the kind whose weights are summed: favor, by features; exact, exp(scale^2 q_i.k_j) itself, "
     "in quadratic time and without a projection"},
#include "kernel_attrs.def"
};

static const pf_attention_kind *kind_of(const pf_call *c) {
    return pf_kind_at((int)c->attr[A_ATTENTION].i);
}

/* What the kind takes of a kernel: all of it, or none of its tensors. */
static int check_kernel(const pf_call *c) {
    const pf_attention_kind *kind = kind_of(c);
    const int64_t *shape = c->in[K]->shape;
    int64_t r;
    if (!kind->sums) return pf_partition_untold(kind, "log_partition");
    if (kind->takes_kernel)
        return pf_call_kernel_check(c, A_KERNEL, KERNEL, shape[1], shape[3], &r);
    for (int i = KERNEL; i < INPUTS; i++) {
        if (!c->in[i]) continue;
        return pf_fail(PF_EINVAL, "log_partition: %s takes no %s", kind->name,
                       pf_op_arg_name(c->op, i));
    }
    return PF_OK;
}

/* q (B, H, Lq, d), k (B, H, Lk, d) -> (B, H, Lq): heads are not grouped here. */
static int partition_shape(pf_call *c) {
    const pf_tensor *q = c->in[Q], *k = c->in[K], *mask = c->in[MASK];
    PF_TRY(pf_want(c, Q, PF_F32));
    PF_TRY(pf_want(c, K, PF_F32));
    bool fit = q->rank == 4 && k->rank == 4 && q->shape[0] == k->shape[0] &&
               q->shape[1] == k->shape[1] && q->shape[3] == k->shape[3] && q->shape[3] >= 1;
    if (!fit) {
        return pf_shape_fail(c, "they must be (batch, heads, length, width), alike but for the "
                                "length");
    }
    if (c->attr[A_CAUSAL].i && q->shape[2] != k->shape[2]) {
        return pf_shape_fail(c, "causal needs as many queries as keys");
    }
    if (mask &&
        (mask->rank != 2 || mask->shape[0] != k->shape[0] || mask->shape[1] != k->shape[2])) {
        return pf_shape_fail(c, "mask must be (batch, length) = [%lld, %lld]",
                             (long long)k->shape[0], (long long)k->shape[2]);
    }
    PF_TRY(check_kernel(c));
    return pf_set_shape(c, 0, PF_F32, 3, q->shape);
}

/* ---- forward and backward ---- */

static int fill(pf_partition *p, pf_call *c) {
    const pf_tensor *q = c->in[Q];
    const pf_attention_kind *kind = kind_of(c);
    int64_t d = q->shape[3];
    *p = (pf_partition){.engine = c->engine,
                        .sums = kind->sums,
                        .causal = c->attr[A_CAUSAL].i != 0,
                        .B = q->shape[0],
                        .H = q->shape[1],
                        .Lk = c->in[K]->shape[2],
                        .n = q->shape[2],
                        .mask = c->in[MASK]};
    PF_TRY(pf_call_heads(c, c->in[Q], &p->q));
    PF_TRY(pf_call_heads(c, c->in[K], &p->k));
    if (kind->takes_kernel) return pf_call_encoding(&p->encoding, c, A_KERNEL, KERNEL, p->H, d);
    double scale = c->attr[A_KERNEL + PF_KERNEL_AT_scale].f;
    kind->sums->encoding(&p->encoding, NULL, c->engine->kern, d, scale);
    return PF_OK;
}

/* size, sum and top (B, H, n) in one block. */
static int run_sums(pf_partition *p, pf_call *c) {
    int64_t n = p->B * p->H * p->n;
    p->sum = pf_call_alloc(c, (size_t)n * (2 * sizeof(double) + sizeof(float)));
    if (!p->sum) return PF_ENOMEM;
    p->size = p->sum + n;
    p->top = (float *)(p->size + n);
    return pf_partition_run(p);
}

/* s_i + M_i + log R_i; no key in reach is -inf. */
static int partition_forward(pf_call *c) {
    pf_partition p;
    PF_TRY(fill(&p, c));
    PF_TRY(run_sums(&p, c));
    float *out = pf_f32(c->out[0]);
    for (int64_t i = 0; i < p.B * p.H * p.n; i++) {
        double size = p.size[i] + (double)p.top[i];
        out[i] = p.sum[i] == 0 ? -INFINITY : (float)(size + log(p.sum[i]));
    }
    return PF_OK;
}

/* Tasks add to what they find, so it begins at 0. */
static int make_gradient(pf_call *c, int input, pf_tensor **t, float **data) {
    PF_TRY(pf_call_make(c, PF_F32, 4, c->in[input]->shape, t));
    *data = pf_f32(*t);
    return pf_tensor_fill(*t, 0);
}

static int partition_backward(pf_call *c) {
    pf_partition_back op = {.need_q = c->need[Q], .need_k = c->need[K]};
    pf_partition *p = &op.p;
    pf_tensor *g, *dq = NULL, *dk = NULL;
    PF_TRY(fill(p, c));
    PF_TRY(pf_call_compact(c, c->dout[0], &g));
    op.g = pf_f32(g);
    if (op.need_q) PF_TRY(make_gradient(c, Q, &dq, &op.dq));
    if (op.need_k) PF_TRY(make_gradient(c, K, &dk, &op.dk));
    if (p->sums->back_reads) PF_TRY(run_sums(p, c));
    PF_TRY(pf_partition_tasks(p, p->sums->back_bytes(&op), p->sums->back, &op));
    if (op.need_q) PF_TRY(pf_grad_give(c, Q, dq));
    return op.need_k ? pf_grad_give(c, K, dk) : PF_OK;
}

static double partition_products(const pf_call *c) {
    const int64_t *q = c->in[Q]->shape, *k = c->in[K]->shape;
    double queries = (double)(q[0] * q[1]) * (double)q[2], m;
    double keys = (double)(k[0] * k[1]) * (double)k[2];
    if (!kind_of(c)->takes_kernel) return 4 * queries * (double)k[2] * (double)q[3];
    double features = pf_call_kernel_products(c, KERNEL, queries + keys, q[3], &m);
    return 4 * (features + (queries + keys) * m);
}

const pf_op pf_op_log_partition = {
    .name = "log_partition",
    .args = "q, k, [mask], " PF_KERNEL_ARGS,
    .results = "out",
    .doc = "The normaliser of attention by itself: log sum_j phi(q_i).phi(k_j), for softmax maps "
           "an estimate of log sum_j exp(scale^2 q_i.k_j), in O(L m). q (B, H, Lq, d), k (B, H, "
           "Lk, d) -> (B, H, Lq), projection (features, d) or (H, features, d), mask (B, Lk) of "
           "1 keep and 0 not there. No key in reach: -inf, gradients 0; a negative sum (maps of "
           "any sign): NaN. Paper, eq. 4.",
    .min_in = 2,
    .max_in = INPUTS,
    .n_out = 1,
    .uses = PF_USES_ALL_IN,
    .attrs = attrs,
    .n_attrs = A_COUNT,
    .shape = partition_shape,
    .products = partition_products,
    .forward = partition_forward,
    .backward = partition_backward,
};

/* ---- public ---- */

/* The row with the kind's place among the kinds, and the kernel where it takes one. */
static int call(pf_tensor **out, pf_engine *e, const pf_attention_kind *kind,
                const pf_kernel *kernel, pf_tensor *q, pf_tensor *k, const pf_weights_options *o) {
    pf_tensor *in[INPUTS] = {[Q] = q, [K] = k, [MASK] = o->mask};
    pf_attr attr[A_COUNT];
    pf_op_fill_defaults(&pf_op_log_partition, attr);
    attr[A_CAUSAL].i = o->causal;
    while (pf_kind_at((int)attr[A_ATTENTION].i) != kind) attr[A_ATTENTION].i++;
    attr[A_KERNEL + PF_KERNEL_AT_scale].f = o->scale;
    if (kernel) {
        pf_kernel_to_attrs(kernel, attr + A_KERNEL);
        pf_kernel_to_inputs(kernel, in + KERNEL);
    }
    return pf_apply(e, &pf_op_log_partition, in, INPUTS, attr, out);
}

int pf_attention_log_partition(pf_tensor **out, pf_engine *engine, pf_tensor *q, pf_tensor *k,
                               const pf_weights_options *options) {
    PF_OUT(out);
    PF_OPEN(engine);
    PF_NEED(q, k);
    pf_weights_options o = {0};
    const pf_attention_kind *kind;
    pf_kernel *kernel;
    pf_tensor *rows[2] = {NULL};
    PF_TRY(pf_options_take(&o, sizeof o, options, "log_partition"));
    PF_TRY(pf_tensor_check(q, PF_F32, "log_partition", "q"));
    PF_TRY(pf_tensor_check(k, PF_F32, "log_partition", "k"));
    if (q->rank != 4 || k->rank != 4) {
        return pf_fail(PF_ESHAPE,
                       "log_partition: q is %s and k is %s; they must be (batch, heads, "
                       "length, width)",
                       pf_shape_of(q), pf_shape_of(k));
    }
    PF_TRY(pf_partition_attention(&kind, &kernel, engine, o.attention, o.kernel, k->shape[3],
                                  k->shape[1], "log_partition"));
    int status =
        kernel ? pf_kernel_no_reference(kernel, !o.causal, "log_partition", "sums are told without")
               : PF_OK;
    for (int i = 0; i < 2 && kernel && status >= 0; i++) {
        status =
            pf_kernel_rows(&rows[i], engine, kernel, i ? PF_SIDE_KEY : PF_SIDE_QUERY, i ? k : q);
    }
    if (status >= 0) {
        status = call(out, engine, kind, kernel, rows[0] ? rows[0] : q, rows[1] ? rows[1] : k, &o);
    }
    for (int i = 0; i < 2; i++) pf_tensor_release(&rows[i]);
    pf_kernel_release(&kernel);
    return status;
}
