/*
 * stream.c - the streaming state of linear attention: one step, its sums, their merge.
 *
 * A step (paper, eq. 11; log-scales as in operator.h) with the key's log-shift l:
 *
 *     M' = max(M, l),  S <- e^(M - M') S + e^(l - M') k' v^T,  z likewise,
 *     out = S^T q' / z . q'
 *
 * Two things keep float32 exact over any number of tokens. A sum of 100,000 terms loses the
 * low digits of each new one, always to the same side where keys are alike; so a step adds
 * to sums of the last RECENT steps only, and these join the large ones when they are full.
 * And a scale that creeps would round S at every step; so M rises by at least 1.
 *
 * A head that forgets: while sums are open, e^(-D) a token is D n added to the n-th step's
 * log-shift, with M in the same coordinates; M moves down once, when they are settled.
 */
#include <math.h>
#include <string.h>

#include "operator.h"

enum { RECENT = 512 };

const pf_state_kind pf_state_favor = {
    .name = "favor",
    .tensor = {"s", "z", "shift", "s_recent", "z_recent"},
};

/* m of the projection, or head_dim. */
static int64_t projections_of(const pf_attend *a, int64_t d) {
    return a->projection ? a->projection->shape[a->projection->rank - 2] : d;
}

int pf_favor_open(pf_state *s, const pf_attend *a, int64_t heads, int64_t d, int64_t dv) {
    int64_t shape[4] = {s->batch, heads, projections_of(a, d) * a->kernel.map->width, dv};
    static const int rank[] = {4, 3, 2, 4, 3};
    PF_TRY(pf_shape_valid(4, shape, PF_F32, "attention state"));
    s->kind = &pf_state_favor;
    for (int i = PF_S; i <= PF_Z_RECENT; i++) {
        PF_TRY(pf_tensor_make_lasting(&s->tensor[i], s->heap, PF_F32, rank[i], shape));
        PF_TRY(pf_tensor_fill(s->tensor[i], i == PF_SHIFT ? -INFINITY : 0));
    }
    return 0;
}

/* ---- settling ---- */

typedef struct {
    const pf_kern *kern;
    const float *decay; /* (H) or NULL */
    int64_t H, r, dv, recent;
    float *s, *z, *shift, *s_recent, *z_recent;
} sums;

static sums sums_of(pf_state *s, const pf_engine *e, const pf_attend *a) {
    const pf_tensor *S = s->tensor[PF_S];
    return (sums){
        .kern = e->kern,
        .decay = a->decay ? pf_f32(a->decay) : NULL,
        .recent = s->recent,
        .H = S->shape[1],
        .r = S->shape[2],
        .dv = S->shape[3],
        .s = pf_f32(S),
        .z = pf_f32(s->tensor[PF_Z]),
        .shift = pf_f32(s->tensor[PF_SHIFT]),
        .s_recent = pf_f32(s->tensor[PF_S_RECENT]),
        .z_recent = pf_f32(s->tensor[PF_Z_RECENT]),
    };
}

static void settle_task(void *context, int64_t task, void *scratch) {
    const sums *o = context;
    int64_t r = o->r, size = o->r * o->dv;
    (void)scratch;
    o->kern->axpy(size, 1, o->s_recent + task * size, o->s + task * size);
    o->kern->axpy(r, 1, o->z_recent + task * r, o->z + task * r);
    memset(o->s_recent + task * size, 0, (size_t)size * sizeof(float));
    memset(o->z_recent + task * r, 0, (size_t)r * sizeof(float));
    if (o->decay) o->shift[task] -= o->decay[task % o->H] * (float)o->recent;
}

int pf_favor_settle(pf_state *s, pf_engine *e, const pf_attend *a) {
    if (s->recent == 0) return 0;
    sums o = sums_of(s, e, a);
    PF_TRY(pf_parallel(e, s->batch * o.H, 0, settle_task, &o));
    s->recent = 0;
    return 0;
}

void pf_favor_take(pf_state *s, pf_tensor **exit) {
    for (int i = PF_S; i <= PF_SHIFT; i++) {
        pf_tensor_release(&s->tensor[i]);
        s->tensor[i] = exit[i];
    }
}

/* ---- a step ---- */

typedef struct {
    sums sum;
    const pf_attend *a;
    pf_map_args args;
    pf_rows q, k, v, out;
    int64_t group, d;
} step_op;

/* The running head: its part of the kernel, and room for one row. */
typedef struct {
    const step_op *op;
    pf_map_args args;
    const float *w; /* (m, d), NULL: not projected */
    float *row, *f; /* (d), (r) */
} step_head;

static size_t head_bytes(const step_op *o) {
    return (size_t)(o->d + o->args.r + o->args.m) * sizeof(float) + 3 * PF_ALIGN;
}

static step_head open_head(const step_op *o, int64_t head, void *scratch) {
    const pf_attend *a = o->a;
    const pf_tensor *w = a->projection;
    step_head s = {.op = o, .args = o->args};
    s.row = pf_carve(&scratch, (size_t)o->d * sizeof(float));
    s.f = pf_carve(&scratch, (size_t)o->args.r * sizeof(float));
    if (w) s.w = pf_f32(w) + (w->rank == 3 ? head * o->args.m * o->d : 0);
    if (a->kernel.map->tilted) {
        double tilt = a->tilts ? (double)pf_f32(a->tilts)[head] : a->kernel.tilt;
        float *bias = pf_carve(&scratch, (size_t)o->args.m * sizeof(float));
        pf_map_tilt(&s.args, tilt, s.w, o->d, bias);
    }
    return s;
}

/* Features of one row x (d) into s->f, returns the log-shift. */
static float encode_row(step_head *s, pf_side side, const float *x) {
    const pf_kern *kern = s->args.kern;
    int64_t d = s->op->d;
    float shift = 0;
    kern->scale(d, (float)s->op->a->kernel.scale, x, s->row);
    float half = 0.5f * kern->sumsq(d, s->row);
    if (s->w) {
        kern->gemv(s->args.m, d, s->w, d, s->row, NULL, s->f);
    } else {
        memcpy(s->f, s->row, (size_t)d * sizeof(float));
    }
    s->args.map->encode(&s->args, side, 1, s->args.r, s->f, &half, &shift);
    return shift;
}

/* The key with features f and log-shift l joins the sums of head `task`. */
static void join(const sums *o, int64_t task, const float *f, float l, const float *v) {
    int64_t r = o->r, dv = o->dv, size = r * dv;
    float *M = o->shift + task, *s = o->s_recent + task * size, *z = o->z_recent + task * r;
    if (l == -INFINITY) return;
    if (l > *M) {
        float top = *M == -INFINITY ? l : fmaxf(l, *M + 1), keep = pf_decay(*M, top);
        o->kern->scale(size, keep, o->s + task * size, o->s + task * size);
        o->kern->scale(r, keep, o->z + task * r, o->z + task * r);
        o->kern->scale(size, keep, s, s);
        o->kern->scale(r, keep, z, z);
        *M = top;
    }
    float add = pf_decay(l, *M);
    for (int64_t i = 0; i < r; i++) o->kern->axpy(dv, add * f[i], v, s + i * dv);
    o->kern->axpy(r, add, f, z);
}

/* out (dv) of a query with features f; 0 where no key is in reach. */
static void answer(const sums *o, int64_t task, const float *f, float *out) {
    int64_t r = o->r, dv = o->dv;
    const float *s = o->s + task * r * dv, *s_recent = o->s_recent + task * r * dv;
    float den = o->kern->dot(r, f, o->z + task * r) + o->kern->dot(r, f, o->z_recent + task * r);
    memset(out, 0, (size_t)dv * sizeof(float));
    if (fabsf(den) < PF_TINY_DENOMINATOR) return;
    for (int64_t i = 0; i < r; i++) {
        o->kern->axpy(dv, f[i], s + i * dv, out);
        o->kern->axpy(dv, f[i], s_recent + i * dv, out);
    }
    o->kern->scale(dv, 1 / den, out, out);
}

/* One head of keys and the group of query heads that share it. */
static void step_task(void *context, int64_t task, void *scratch) {
    const step_op *o = context;
    int64_t b = task / o->sum.H, h = task % o->sum.H;
    step_head s = open_head(o, h, scratch);
    float l = encode_row(&s, PF_SIDE_KEY, pf_rows_at(&o->k, b, h, 0));
    if (o->sum.decay) l += o->sum.decay[h] * (float)o->sum.recent;
    join(&o->sum, task, s.f, l, pf_rows_at(&o->v, b, h, 0));
    for (int64_t head = h * o->group; head < (h + 1) * o->group; head++) {
        encode_row(&s, PF_SIDE_QUERY, pf_rows_at(&o->q, b, head, 0));
        answer(&o->sum, task, s.f, pf_rows_at(&o->out, b, head, 0));
    }
}

static void fill_kernel(step_op *o, const pf_engine *e, const pf_attend *a, int64_t d) {
    const pf_kernel *kernel = &a->kernel;
    o->a = a;
    o->d = d;
    o->args =
        pf_map_args_of(kernel->map, e->kern, projections_of(a, d), kernel->eps, kernel->ratio);
}

int pf_favor_step(pf_tensor **out, pf_engine *e, const pf_attend *a, pf_state *s, pf_tensor *q,
                  pf_tensor *k, pf_tensor *v) {
    if (s->recent >= RECENT) PF_TRY(pf_favor_settle(s, e, a));
    step_op o = {.sum = sums_of(s, e, a), .group = q->shape[1] / k->shape[1]};
    pf_tensor *held[3] = {NULL};
    fill_kernel(&o, e, a, q->shape[3]);
    int status = pf_rows_ready(e, q, &held[0], &o.q);
    if (status >= 0) status = pf_rows_ready(e, k, &held[1], &o.k);
    if (status >= 0) status = pf_rows_ready(e, v, &held[2], &o.v);
    if (status >= 0) status = pf_heads_output(out, e, q->shape[0], q->shape[1], 1, o.sum.dv);
    if (status >= 0) {
        o.out = pf_rows_of(*out);
        status = pf_parallel(e, s->batch * o.sum.H, head_bytes(&o), step_task, &o);
        if (status < 0) pf_tensor_release(out);
    }
    if (status >= 0) s->recent++;
    for (int i = 0; i < 3; i++) pf_tensor_release(&held[i]);
    return status;
}

/* ---- merging ---- */

typedef struct {
    sums to, from;
    int64_t length; /* of the later segment */
} merge_op;

/* The earlier sums, as seen from the end of the later segment, and the later ones, both on
 * the larger scale. */
static void merge_task(void *context, int64_t task, void *scratch) {
    const merge_op *o = context;
    const sums *to = &o->to, *from = &o->from;
    int64_t r = to->r, size = r * to->dv;
    float decay = to->decay ? to->decay[task % to->H] : 0;
    float M = to->shift[task] - decay * (float)o->length, later = from->shift[task];
    float top = later > M ? later : M;
    (void)scratch;
    float keep = pf_decay(M, top), add = pf_decay(later, top);
    to->kern->scale(size, keep, to->s + task * size, to->s + task * size);
    to->kern->scale(r, keep, to->z + task * r, to->z + task * r);
    to->kern->axpy(size, add, from->s + task * size, to->s + task * size);
    to->kern->axpy(r, add, from->z + task * r, to->z + task * r);
    to->shift[task] = top;
}

int pf_favor_merge(pf_state *s, pf_engine *e, const pf_attend *a, const pf_state *later) {
    pf_state *from = (pf_state *)(uintptr_t)later; /* read only */
    merge_op o = {sums_of(s, e, a), sums_of(from, e, a), later->position};
    return pf_parallel(e, s->batch * o.to.H, 0, merge_task, &o);
}

/* ---- fingerprints ---- */

enum { PROBES = 4 };

/* Rows of ordinary size, the features of each (both sides) as one weighted sum: numbers that
 * any change of the map, its options or the projection moves. x (d) is work space. */
static void probe_head(step_head *s, float *x, float *to) {
    for (int p = 0; p < PROBES; p++) {
        for (int64_t c = 0; c < s->op->d; c++) x[c] = (float)sin(1 + 3.0 * p + 7.0 * (double)c);
        for (int side = 0; side < 2; side++) {
            double sum = 0;
            *to++ = encode_row(s, side ? PF_SIDE_KEY : PF_SIDE_QUERY, x);
            for (int64_t a = 0; a < s->args.r; a++) sum += cos((double)a) * (double)s->f[a];
            *to++ = (float)sum;
        }
    }
}

int pf_favor_fingerprint(pf_tensor **t, pf_engine *e, const pf_attend *a, int64_t heads,
                         int64_t d) {
    step_op o = {0};
    int64_t shape[2] = {heads, 4 * PROBES + 1};
    fill_kernel(&o, e, a, d);
    size_t room = (size_t)d * sizeof(float), bytes = head_bytes(&o) + room + PF_ALIGN;
    void *scratch = pf_heap_alloc(e->heap, bytes), *rest = scratch;
    if (!scratch) return PF_ENOMEM;
    float *x = pf_carve(&rest, room);
    int status = pf_tensor_make_lasting(t, e->heap, PF_F32, 2, shape);
    for (int64_t h = 0; h < heads && status >= 0; h++) {
        float *to = pf_f32(*t) + h * shape[1];
        step_head s = open_head(&o, h, rest);
        probe_head(&s, x, to);
        to[4 * PROBES] = a->decay ? pf_f32(a->decay)[h] : 0;
    }
    pf_heap_free(e->heap, scratch, bytes);
    return status;
}
