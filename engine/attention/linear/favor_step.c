/*
 * favor_step.c - see favor_step.h. A call is all or nothing (state/undo.c): what it changes it
 * makes anew. Of a step that would be all of the state, but S and z change only where M rises, and
 * by a factor: a step reads them by it, and they are scaled in place when the call is over and
 * stays.
 */
#include <math.h>
#include <string.h>

#include "favor_step.h"

enum { RECENT = 512 };

/* ---- settling ----
 *
 * A settled state has no recent steps: s and z are all of it, and M is seen from the last token.
 * Everything but a step wants it settled, and leaves it so. */

pf_favor_sums pf_favor_sums_of(pf_state *s, const pf_engine *e, const pf_attention *a) {
    const pf_tensor *S = s->tensor[PF_S];
    return (pf_favor_sums){
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

/* One head of one sequence: the recent sums join the large ones, and M moves down by the tokens
 * that a forgetting head has let pass meanwhile. */
static void settle_task(void *context, int64_t task, void *scratch) {
    const pf_favor_sums *o = context;
    int64_t r = o->r, size = o->r * o->dv;
    (void)scratch;
    o->kern->axpy(size, 1, o->s_recent + task * size, o->s + task * size);
    o->kern->axpy(r, 1, o->z_recent + task * r, o->z + task * r);
    memset(o->s_recent + task * size, 0, (size_t)size * sizeof(float));
    memset(o->z_recent + task * r, 0, (size_t)r * sizeof(float));
    if (o->decay) o->shift[task] -= o->decay[task % o->H] * (float)o->recent;
}

int pf_favor_settle(pf_state *s, pf_engine *e, const pf_attention *a) {
    if (s->recent == 0) return PF_OK;
    for (int i = PF_S; i <= PF_Z_RECENT; i++) PF_TRY(pf_state_renew(s, e, i));
    pf_favor_sums o = pf_favor_sums_of(s, e, a);
    PF_TRY(pf_parallel(e, s->batch * o.H, 0, settle_task, &o));
    s->recent = 0;
    return PF_OK;
}

/* ---- a step ---- */

/* Of one state. */
typedef struct {
    pf_favor_sums sum; /* s and z are read, the others are this step's own */
    float *scale;      /* (B, Hk): what s and z are to be multiplied by */
    const float *s_before, *z_before,
        *shift_before;  /* the recent sums and M that it goes on from */
    pf_tensor *made[4]; /* what it leaves in the places of shift and the recent sums; the scale */
} step_sums;

/* Of a batch that is one state, or of sequences that have a state each. */
typedef struct {
    step_sums *state;
    int64_t n, tasks; /* of states; heads of one state's sequences */
    int64_t H, r, dv;
    pf_encoding encoding;
    pf_heads q, k, v, out;
    int64_t group;
} step_op;

/* The running head, and room for one row and for the sums on their new scale. */
typedef struct {
    pf_encoder encoder;
    float *row, *f; /* (d), (r) */
    float *s, *z;   /* (r, dv), (r) */
} step_head;

static size_t head_bytes(const step_op *o) {
    int64_t r = o->encoding.r;
    return pf_encoder_bytes(&o->encoding, 1, PF_ENCODE_ONE) +
           (size_t)(o->encoding.d + r * (o->dv + 2)) * sizeof(float) + 4 * (size_t)PF_ALIGN;
}

static void open_head(step_head *s, const step_op *o, int64_t head, void *scratch) {
    int64_t r = o->encoding.r;
    s->row = pf_carve(&scratch, (size_t)o->encoding.d * sizeof(float));
    s->f = pf_carve(&scratch, (size_t)r * sizeof(float));
    s->z = pf_carve(&scratch, (size_t)r * sizeof(float));
    s->s = pf_carve(&scratch, (size_t)(r * o->dv) * sizeof(float));
    pf_encoder_open(&s->encoder, &o->encoding, head, 1, PF_ENCODE_ONE, NULL, &scratch);
}

/* Features of one row x (d) into s->f, returns the log-shift. */
static float encode_row(step_head *s, pf_side side, const float *x) {
    const pf_encoding *n = s->encoder.of;
    float shift = 0;
    n->kern->scale(n->d, n->scale, x, s->row);
    float half = 0.5f * n->kern->sumsq(n->d, s->row);
    pf_encode(&s->encoder, side, 1, s->row, &half, s->f, &shift);
    return shift;
}

/* n rows of width dv: to = keep from + add f v^T, in one walk where there is nothing to scale. */
static void add_key(const pf_kern *kern, int64_t n, int64_t dv, float keep, const float *from,
                    float add, const float *f, const float *v, float *to) {
    if (keep != 1) {
        kern->scale(n * dv, keep, from, to);
        from = to;
    }
    for (int64_t i = 0; i < n; i++) kern->axpy_to(dv, add * f[i], v, from + i * dv, to + i * dv);
}

/* The recent sums of head `task` of a state with the key of features f and log-shift l. A key
 * larger than all before makes all sums smaller, and M rises by 1 at least, so that a slowly rising
 * l costs a rounding of S once in a while, and not at every step. */
static void join(const step_sums *step, int64_t task, const float *f, float l, const float *v) {
    const pf_favor_sums *o = &step->sum;
    int64_t r = o->r, size = r * o->dv;
    const float *s_before = step->s_before + task * size, *z_before = step->z_before + task * r;
    float *s = o->s_recent + task * size, *z = o->z_recent + task * r, one = 1;
    float M = step->shift_before[task], top = M;
    if (l > M) top = M == -INFINITY ? l : fmaxf(l, M + 1);
    o->shift[task] = top;
    step->scale[task] = l > M ? pf_decay(M, top) : 1;
    if (l == -INFINITY) {
        memcpy(s, s_before, (size_t)size * sizeof(float));
        memcpy(z, z_before, (size_t)r * sizeof(float));
        return;
    }
    float keep = step->scale[task], add = pf_decay(l, top);
    add_key(o->kern, r, o->dv, keep, s_before, add, f, v, s);
    add_key(o->kern, 1, r, keep, z_before, add, &one, f, z);
}

/* The settled sums of head `task` by the step's factor: themselves where that is 1. */
static void scaled_sums(const step_sums *o, int64_t task, step_head *h, const float **s,
                        const float **z) {
    const pf_favor_sums *n = &o->sum;
    int64_t size = n->r * n->dv;
    *s = n->s + task * size, *z = n->z + task * n->r;
    if (o->scale[task] == 1) return;
    n->kern->scale(size, o->scale[task], *s, h->s);
    n->kern->scale(n->r, o->scale[task], *z, h->z);
    *s = h->s, *z = h->z;
}

/* out (dv) of a query with features f; 0 where no key is in reach. */
static void answer(const pf_favor_sums *o, int64_t task, const float *s, const float *z,
                   const float *f, float *out) {
    int64_t r = o->r, dv = o->dv;
    const float *s_recent = o->s_recent + task * r * dv;
    float den = o->kern->dot(r, f, z) + o->kern->dot(r, f, o->z_recent + task * r);
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
    const step_sums *state = &o->state[task / o->tasks];
    int64_t b = task / o->H, h = task % o->H, own = task % o->tasks;
    step_head head;
    const float *s, *z;
    open_head(&head, o, h, scratch);
    float l = encode_row(&head, PF_SIDE_KEY, pf_heads_row(&o->k, b, h, 0));
    if (state->sum.decay) l += state->sum.decay[h] * (float)state->sum.recent;
    join(state, own, head.f, l, pf_heads_row(&o->v, b, h, 0));
    scaled_sums(state, own, &head, &s, &z);
    for (int64_t i = h * o->group; i < (h + 1) * o->group; i++) {
        encode_row(&head, PF_SIDE_QUERY, pf_heads_row(&o->q, b, i, 0));
        answer(&state->sum, own, s, z, head.f, pf_heads_row(&o->out, b, i, 0));
    }
}

/* Rows of q, k, v as the operator takes them, and how to walk them; out (B, H, 1, dv). */
static int open_step(step_op *o, pf_engine *e, const pf_attention *a, pf_tensor *const *qkv,
                     pf_tensor **rows, pf_tensor **held, pf_tensor **out) {
    pf_heads *heads[3] = {&o->q, &o->k, &o->v};
    const pf_tensor *q = qkv[0];
    for (int i = 0; i < 2; i++) {
        PF_TRY(pf_kernel_rows_wide(&rows[i], e, a->kernel, i ? PF_SIDE_KEY : PF_SIDE_QUERY, qkv[i],
                                   o->r));
    }
    for (int i = 0; i < 3; i++) {
        PF_TRY(pf_heads_ready(e, i < 2 ? rows[i] : qkv[i], &held[i], heads[i]));
    }
    if (pf_kernel_given(a->kernel)) {
        pf_encoding_given(&o->encoding, e->kern, o->r, 1);
    } else {
        pf_encoding_of(&o->encoding, a->kernel, e->kern);
    }
    PF_TRY(pf_heads_output(out, e, q->shape[0], q->shape[1], 1, o->dv));
    o->out = pf_heads_of(*out);
    return PF_OK;
}

/* What the step reads of a state and makes for it. One step a call (state/undo.c): the factors of
 * a second one would meet sums that still lack those of the first. */
static int open_sums(step_sums *o, pf_state *s, pf_engine *e, const pf_attention *a) {
    if (s->due) return pf_fail(PF_ESTATE, "attention: a call takes one step");
    if (s->recent >= RECENT) PF_TRY(pf_favor_settle(s, e, a));
    const pf_tensor *like[] = {s->tensor[PF_SHIFT], s->tensor[PF_S_RECENT], s->tensor[PF_Z_RECENT],
                               s->tensor[PF_SHIFT]};
    for (int i = 0; i < PF_COUNT(like); i++) {
        const pf_tensor *t = like[i];
        PF_TRY(pf_tensor_make_lasting(&o->made[i], s->heap, PF_F32, t->rank, t->shape));
    }
    o->sum = pf_favor_sums_of(s, e, a);
    o->shift_before = o->sum.shift;
    o->s_before = o->sum.s_recent, o->z_before = o->sum.z_recent;
    o->sum.shift = pf_f32(o->made[0]);
    o->sum.s_recent = pf_f32(o->made[1]), o->sum.z_recent = pf_f32(o->made[2]);
    o->scale = pf_f32(o->made[3]);
    return PF_OK;
}

/* The states of a step: of its rows where it is gathered. */
static pf_state *state_at(pf_state *s, int64_t i) { return s->row ? s->row[i] : s; }

static int open_states(step_op *o, pf_state *s, pf_engine *e, const pf_attention *a) {
    const pf_tensor *S = state_at(s, 0)->tensor[PF_S];
    o->H = S->shape[1], o->r = S->shape[2], o->dv = S->shape[3];
    o->n = s->row ? s->batch : 1;
    o->tasks = s->row ? o->H : s->batch * o->H;
    o->state = pf_heap_zalloc(e->heap, (size_t)o->n * sizeof *o->state);
    if (!o->state) return PF_ENOMEM;
    for (int64_t i = 0; i < o->n; i++) PF_TRY(open_sums(&o->state[i], state_at(s, i), e, a));
    return PF_OK;
}

static void close_states(step_op *o, pf_engine *e) {
    if (!o->state) return;
    for (int64_t i = 0; i < o->n; i++) {
        pf_tensor **made = o->state[i].made;
        for (int k = 0; k < PF_COUNT(o->state->made); k++) pf_tensor_release(&made[k]);
    }
    pf_heap_free(e->heap, o->state, (size_t)o->n * sizeof *o->state);
}

/* What open_sums made is the state's, once the step has filled it. */
static void take_step(pf_state *s, pf_tensor **made) {
    for (int i = PF_SHIFT; i <= PF_Z_RECENT; i++) {
        pf_tensor_release(&s->tensor[i]);
        s->tensor[i] = made[i - PF_SHIFT];
        made[i - PF_SHIFT] = NULL;
    }
    s->due = made[3];
    made[3] = NULL;
    s->recent++;
}

/* Few heads have a factor but at the very beginning. */
void pf_favor_keep(pf_state *s, const pf_engine *e) {
    const pf_tensor *S = s->tensor[PF_S];
    int64_t r = S->shape[2], size = r * S->shape[3];
    float *sum = pf_f32(S), *z = pf_f32(s->tensor[PF_Z]);
    for (int64_t i = 0; i < pf_tensor_numel(s->due); i++) {
        float keep = pf_f32(s->due)[i];
        if (keep == 1) continue;
        e->kern->scale(size, keep, sum + i * size, sum + i * size);
        e->kern->scale(r, keep, z + i * r, z + i * r);
    }
}

/* A step makes no tape: what it holds it releases itself. */
int pf_favor_step(pf_tensor **out, pf_engine *e, const pf_attention *a, pf_state *s, pf_tensor *q,
                  pf_tensor *k, pf_tensor *v) {
    step_op o = {.group = q->shape[1] / k->shape[1]};
    pf_tensor *qkv[3] = {q, k, v}, *rows[2] = {NULL}, *held[3] = {NULL};
    *out = NULL;
    int status = open_states(&o, s, e, a);
    if (status >= 0) status = open_step(&o, e, a, qkv, rows, held, out);
    if (status >= 0) status = pf_parallel(e, o.n * o.tasks, head_bytes(&o), step_task, &o);
    for (int64_t i = 0; i < o.n && status >= 0; i++) take_step(state_at(s, i), o.state[i].made);
    if (status < 0) pf_tensor_release(out);
    for (int i = 0; i < 2; i++) pf_tensor_release(&rows[i]);
    for (int i = 0; i < 3; i++) pf_tensor_release(&held[i]);
    close_states(&o, e);
    return status;
}
