/*
 * heads.c - from one projection to the heads of attention: queries, keys and values are
 * views of its output, and their gradients are written where they belong at once.
 */
#include <string.h>

#include "kern.h"
#include "op.h"

enum { PARTS = 3, ROWS = 32 };
enum { A_HEADS, A_KV_HEADS };

/* Heads of part i: queries, or keys and values. */
static int64_t heads_of(const pf_call *c, int i) {
    int64_t kv = c->attr[A_KV_HEADS].i;
    return i > 0 && kv > 0 ? kv : c->attr[A_HEADS].i;
}

static int64_t all_heads(const pf_call *c) { return heads_of(c, 0) + 2 * heads_of(c, 1); }

/* No more heads than numbers of a row, before anything is added up. */
static bool heads_fit(const pf_call *c, int64_t width) {
    int64_t most = width > 0 ? width : INT32_MAX;
    int64_t kv = c->attr[A_KV_HEADS].i;
    if (heads_of(c, 0) < 1 || heads_of(c, 0) > most || kv < 0 || kv > most) return false;
    return width % all_heads(c) == 0;
}

static int heads_shape(pf_call *c) {
    const pf_tensor *x = c->in[0];
    PF_TRY(pf_want(c, 0, PF_F32));
    if (x->rank != 3) return pf_shape_fail(c, "x must be (B, L, (H + 2 Hkv) d)");
    if (!heads_fit(c, x->shape[2])) {
        return pf_shape_fail(c,
                             "the last dimension must be (heads + 2 kv_heads) x d, with %lld "
                             "heads and %lld kv_heads",
                             (long long)heads_of(c, 0), (long long)heads_of(c, 1));
    }
    int64_t d = x->shape[2] / all_heads(c);
    for (int i = 0; i < PARTS; i++) {
        int64_t shape[4] = {x->shape[0], heads_of(c, i), x->shape[1], d};
        PF_TRY(pf_set_shape(c, i, PF_F32, 4, shape));
    }
    return PF_OK;
}

static int heads_forward(pf_call *c) {
    const pf_tensor *x = c->in[0];
    int64_t d = x->shape[2] / all_heads(c), before = 0;
    for (int i = 0; i < PARTS; before += heads_of(c, i++)) {
        pf_tensor *y;
        PF_TRY(pf_tensor_view(&y, x));
        c->out[i] = y;
        y->rank = 4;
        y->offset += before * d * x->stride[2];
        memcpy(y->shape, c->shape[i].dim, 4 * sizeof(int64_t));
        y->stride[0] = x->stride[0];
        y->stride[1] = d * x->stride[2];
        y->stride[2] = x->stride[1];
        y->stride[3] = x->stride[2];
    }
    return PF_OK;
}

typedef struct heads_job {
    const pf_kern *kern;
    int64_t rows, length, d; /* rows = B * L */
    int64_t heads[PARTS], all;
    const pf_tensor *dy[PARTS]; /* (B, H or Hkv, L, d), or NULL */
    float *dx;                  /* (B, L, all d) */
    bool fresh;
} heads_job;

/* dx (d) = or += row of a gradient (stride s), nothing where there is none. */
static void put(const heads_job *job, const float *dy, int64_t s, float *dx) {
    if (dy && s == 1 && job->fresh) {
        memcpy(dx, dy, (size_t)job->d * sizeof *dx);
    } else if (dy && s == 1) {
        job->kern->axpy(job->d, 1, dy, dx);
    } else if (dy) {
        for (int64_t i = 0; i < job->d; i++) dx[i] = (job->fresh ? 0 : dx[i]) + dy[i * s];
    } else if (job->fresh) {
        job->kern->fill(job->d, 0, dx);
    }
}

static void heads_range(void *context, int64_t first, int64_t last) {
    const heads_job *job = context;
    for (int64_t row = first; row < last; row++) {
        int64_t b = row / job->length, t = row % job->length;
        float *dx = job->dx + row * job->all * job->d;
        for (int i = 0; i < PARTS; i++) {
            const pf_tensor *dy = job->dy[i];
            for (int64_t h = 0; h < job->heads[i]; h++, dx += job->d) {
                const float *from =
                    dy ? pf_f32(dy) + b * dy->stride[0] + h * dy->stride[1] + t * dy->stride[2]
                       : NULL;
                put(job, from, dy ? dy->stride[3] : 1, dx);
            }
        }
    }
}

static int heads_backward(pf_call *c) {
    const pf_tensor *x = c->in[0];
    pf_tensor *dx;
    if (!c->need[0]) return PF_OK;
    heads_job job = {.kern = c->engine->kern,
                     .rows = x->shape[0] * x->shape[1],
                     .length = x->shape[1],
                     .all = all_heads(c),
                     .d = x->shape[2] / all_heads(c)};
    for (int i = 0; i < PARTS; i++) {
        job.dy[i] = c->dout[i];
        job.heads[i] = heads_of(c, i);
    }
    PF_TRY(pf_grad_fresh(c, 0, &job.fresh, &dx));
    job.dx = pf_f32(dx);
    return pf_parallel_range(c->engine, job.rows, ROWS, heads_range, &job);
}

static const pf_attr_info heads_attrs[] = {
    {.name = "heads", .kind = PF_ATTR_INT, .required = true, .doc = "attention heads H"},
    {.name = "kv_heads", .kind = PF_ATTR_INT, .doc = "heads Hkv of keys and values; 0: heads"},
};

const pf_op pf_op_split_heads = {
    .name = "split_heads",
    .args = "x",
    .results = "q, k, v",
    .doc = "Views of x (B, L, (H + 2 Hkv) d) as queries (B, H, L, d), keys and values "
           "(B, Hkv, L, d): the columns of x are q, then k, then v, head after head.",
    .min_in = 1,
    .max_in = 1,
    .n_out = PARTS,
    .flags = PF_OP_OWN_OUTPUTS | PF_OP_PICKS,
    .attrs = heads_attrs,
    .n_attrs = PF_COUNT(heads_attrs),
    .shape = heads_shape,
    .forward = heads_forward,
    .backward = heads_backward,
};
