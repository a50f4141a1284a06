/*
 * stream.c - the kind favor: linear attention over whole rows (favor.c), part by part, and
 * streaming in constant memory: one step, its sums, their merge.
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
 *
 * A call is all or nothing (state/undo.c): what it changes it makes anew. Of a step that would be
 * all of the state, but S and z change only where M rises, and by a factor: a step reads them by
 * it, and they are scaled in place when the call is over and stays.
 */
#include <math.h>
#include <string.h>

#include "attention.h"
#include "operator.h"

enum { RECENT = 512 };

/* S (B, Hk, r, dv), z (B, Hk, r), shift (B, Hk), and the same sums of the last `recent` steps. */
enum { PF_S, PF_Z, PF_SHIFT, PF_S_RECENT, PF_Z_RECENT };
static void keep_scaled(pf_state *s, const pf_engine *e);
static const pf_state_kind state_favor = {
    .name = "favor",
    .keep = keep_scaled,
    .tensor = {"s", "z", "shift", "s_recent", "z_recent"},
    .steps_only = 1u << PF_S_RECENT | 1u << PF_Z_RECENT,
    .anew = 1u << PF_S | 1u << PF_Z | 1u << PF_SHIFT,
    .log_scale = 1u << PF_SHIFT,
};

/* ---- whole rows ---- */

/* The kernel's op: favor, or the operator itself where the features are made before it; its
 * attributes, and the kernel's inputs behind the others. */
static const pf_op *op_of(const pf_kernel *kernel, bool causal, bool exit, pf_attr *attr,
                          pf_tensor **in) {
    const pf_op *op = pf_kernel_given(kernel) ? &pf_op_linear_attention : &pf_op_favor;
    pf_op_fill_defaults(op, attr);
    attr[PF_A_CAUSAL].i = causal;
    attr[PF_A_STATE].i = exit;
    if (pf_kernel_given(kernel)) return op;
    pf_kernel_to_attrs(kernel, attr + PF_A_KERNEL);
    pf_kernel_to_inputs(kernel, in + PF_IN_KERNEL);
    return op;
}

/* pf_apply, or pf_apply_lasting for what must outlive a tape. */
typedef int (*apply_fn)(pf_engine *e, const pf_op *op, pf_tensor *const *in, int n,
                        const pf_attr *attrs, pf_tensor **out);

/* given (PF_LINEAR_INPUTS) -> out, exit_s, exit_z, exit_shift. A host's map is asked for its
 * features here: the operator then sees nothing but rows. */
static int run(apply_fn apply, pf_tensor **out, pf_engine *e, const pf_attention *a,
               pf_tensor *const *given, bool causal, bool exit) {
    pf_attr attr[PF_MAX_ATTR];
    pf_tensor *in[PF_FAVOR_INPUTS] = {NULL}, *made[PF_MAX_OUT] = {NULL}, *rows[2] = {NULL};
    memcpy(in, given, PF_LINEAR_INPUTS * sizeof *in);
    int status = pf_kernel_rows(&rows[0], e, a->kernel, PF_SIDE_QUERY, in[PF_IN_Q]);
    if (status >= 0) {
        status = pf_kernel_rows(&rows[1], e, a->kernel, PF_SIDE_KEY, in[PF_IN_K]);
    }
    if (status >= 0) {
        in[PF_IN_Q] = rows[0], in[PF_IN_K] = rows[1];
        const pf_op *op = op_of(a->kernel, causal, exit, attr, in);
        status = apply(e, op, in, op->max_in, attr, made);
    }
    for (int i = 0; i < 2; i++) pf_tensor_release(&rows[i]);
    for (int i = 0; status >= 0 && i < (exit ? PF_LINEAR_OUTPUTS : 1); i++) out[i] = made[i];
    return status;
}

/* Every query sees all keys of its document: there the published versions' maximum is one
 * number. */
static bool is_full(const pf_attention *a, pf_tensor *const *in, bool exit) {
    static const int parts[] = {PF_IN_DECAY, PF_IN_LIMITS, PF_IN_PREFIX, PF_IN_ENTRY_S};
    for (int i = 0; i < PF_COUNT(parts); i++)
        if (in[parts[i]]) return false;
    return !a->causal && !exit;
}

static int favor_call(pf_tensor **out, pf_engine *e, const pf_attention *a, pf_tensor *const *in,
                      bool exit) {
    bool full = is_full(a, in, exit);
    if (full && a->kernel->spec.stabiliser != PF_BY_POSITION)
        return pf_reference_call(out, e, a->kernel, in);
    if (!full)
        PF_TRY(pf_kernel_no_reference(a->kernel, false, "favor",
                                      "causal attention, limits, prefixes, decay and states of a "
                                      "stream have none"));
    return run(pf_apply, out, e, a, in, a->causal, exit);
}

/* ---- states ---- */

static int favor_open(pf_state *s, pf_engine *e, const pf_attention *a, int64_t heads, int64_t d,
                      int64_t dv) {
    int64_t shape[4] = {s->batch, heads, 0, dv};
    static const int rank[] = {4, 3, 2, 4, 3};
    (void)d;
    PF_TRY(
        pf_kernel_no_reference(a->kernel, false, "attention state", "a stream has not seen them"));
    PF_TRY(pf_kernel_width(&shape[2], e, a->kernel, heads));
    PF_TRY(pf_shape_valid(4, shape, PF_F32, "attention state"));
    for (int i = PF_S; i <= PF_Z_RECENT; i++) {
        PF_TRY(pf_tensor_make_lasting(&s->tensor[i], s->heap, PF_F32, rank[i], shape));
        PF_TRY(pf_tensor_fill(s->tensor[i], i == PF_SHIFT ? -INFINITY : 0));
    }
    return PF_OK;
}

static void favor_widths(const pf_attention *a, const pf_state *s, int64_t *d, int64_t *dv) {
    *d = a->kernel->spec.head_dim;
    *dv = s->tensor[PF_S]->shape[3];
}

/* The exit state (taken over) becomes the settled state. */
static void take(pf_state *s, pf_tensor **exit) {
    for (int i = PF_S; i <= PF_SHIFT; i++) {
        pf_tensor_release(&s->tensor[i]);
        s->tensor[i] = exit[i];
    }
}

static void enter(const pf_state *s, pf_tensor **in) {
    in[PF_IN_ENTRY_S] = s->tensor[PF_S];
    in[PF_IN_ENTRY_Z] = s->tensor[PF_Z];
    in[PF_IN_ENTRY_SHIFT] = s->tensor[PF_SHIFT];
}

/* A part of a row in training: entry and exit states are both in the graph (Likhosherstov et al.
 * 2020, "Sub-Linear Memory: How to Make Performers SLiM", section 4). Attention does not depend
 * on the log-scale of a state, so shift is a constant. */
static int favor_part(pf_tensor **out, pf_engine *e, const pf_attention *a, pf_state *s,
                      pf_tensor *const *given) {
    pf_tensor *in[PF_LINEAR_INPUTS] = {NULL}, *made[PF_LINEAR_OUTPUTS] = {NULL};
    memcpy(in, given, PF_REACH_INPUTS * sizeof *in);
    in[PF_IN_DECAY] = a->decay;
    PF_TRY(pf_kernel_no_reference(a->kernel, false, "favor", "a part of a row has not seen them"));
    if (s->position > 0) enter(s, in);
    PF_TRY(run(pf_apply, made, e, a, in, true, true));
    *out = made[0];
    take(s, made + 1);
    return PF_OK;
}

/* ---- settling ----
 *
 * A settled state has no recent steps: s and z are all of it, and M is seen from the last token.
 * Everything but a step wants it settled, and leaves it so. */

typedef struct {
    const pf_kern *kern;
    const float *decay; /* (H) or NULL */
    int64_t H, r, dv, recent;
    float *s, *z, *shift, *s_recent, *z_recent;
} sums;

/* The state's numbers as loops see them. */
static sums sums_of(pf_state *s, const pf_engine *e, const pf_attention *a) {
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

/* One head of one sequence: the recent sums join the large ones, and M moves down by the tokens
 * that a forgetting head has let pass meanwhile. */
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

/* In tensors of its own. */
static int settle(pf_state *s, pf_engine *e, const pf_attention *a) {
    if (s->recent == 0) return PF_OK;
    for (int i = PF_S; i <= PF_Z_RECENT; i++) PF_TRY(pf_state_renew(s, e, i));
    sums o = sums_of(s, e, a);
    PF_TRY(pf_parallel(e, s->batch * o.H, 0, settle_task, &o));
    s->recent = 0;
    return PF_OK;
}

/* A prompt goes through the operator, from the state to the state. */
static int favor_prefill(pf_tensor **out, pf_engine *e, const pf_attention *a, pf_state *s,
                         pf_tensor *q, pf_tensor *k, pf_tensor *v) {
    pf_tensor *made[PF_LINEAR_OUTPUTS] = {NULL};
    pf_tensor *in[PF_LINEAR_INPUTS] = {
        [PF_IN_Q] = q, [PF_IN_K] = k, [PF_IN_V] = v, [PF_IN_DECAY] = a->decay};
    PF_TRY(settle(s, e, a));
    enter(s, in);
    PF_TRY(run(pf_apply_lasting, made, e, a, in, true, true));
    *out = made[0];
    take(s, made + 1);
    return PF_OK;
}

/* ---- a step ---- */

/* Of one state. */
typedef struct {
    sums sum;     /* s and z are read, the others are this step's own */
    float *scale; /* (B, Hk): what s and z are to be multiplied by */
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
           (size_t)(o->encoding.d + r * (o->dv + 2)) * sizeof(float) + 4 * PF_ALIGN;
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
    const sums *o = &step->sum;
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
    const sums *n = &o->sum;
    int64_t size = n->r * n->dv;
    *s = n->s + task * size, *z = n->z + task * n->r;
    if (o->scale[task] == 1) return;
    n->kern->scale(size, o->scale[task], *s, h->s);
    n->kern->scale(n->r, o->scale[task], *z, h->z);
    *s = h->s, *z = h->z;
}

/* out (dv) of a query with features f; 0 where no key is in reach. */
static void answer(const sums *o, int64_t task, const float *s, const float *z, const float *f,
                   float *out) {
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
    if (s->recent >= RECENT) PF_TRY(settle(s, e, a));
    const pf_tensor *like[] = {s->tensor[PF_SHIFT], s->tensor[PF_S_RECENT], s->tensor[PF_Z_RECENT],
                               s->tensor[PF_SHIFT]};
    for (int i = 0; i < PF_COUNT(like); i++) {
        const pf_tensor *t = like[i];
        PF_TRY(pf_tensor_make_lasting(&o->made[i], s->heap, PF_F32, t->rank, t->shape));
    }
    o->sum = sums_of(s, e, a);
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

/* The factors of a step that stays. Few heads have one but at the very beginning. */
static void keep_scaled(pf_state *s, const pf_engine *e) {
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
static int favor_step(pf_tensor **out, pf_engine *e, const pf_attention *a, pf_state *s,
                      pf_tensor *q, pf_tensor *k, pf_tensor *v) {
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

static int favor_merge(pf_state *s, pf_engine *e, const pf_attention *a, pf_state *later) {
    PF_TRY(settle(s, e, a));
    PF_TRY(settle(later, e, a));
    for (int i = PF_S; i <= PF_SHIFT; i++) PF_TRY(pf_state_renew(s, e, i));
    merge_op o = {sums_of(s, e, a), sums_of(later, e, a), later->position};
    return pf_parallel(e, s->batch * o.to.H, 0, merge_task, &o);
}

/* ---- the kind ---- */

/* Features 4 m d of queries and keys, the state 4 r (dv + 1); causal adds the chunk. The backward
 * pulls the gradients through W and twice the state. */
static void favor_flops(const pf_attention *a, const pf_attention_shape *shape, double *forward,
                        double *backward) {
    (void)a;
    double d = (double)shape->head_dim, dv = (double)shape->value_dim, r = (double)shape->features;
    double chunk = shape->causal ? PF_CAUSAL_BLOCK * (r + dv) : 0;
    *forward = 4 * r * d + 4 * r * (dv + 1) + chunk;
    *backward = 4 * r * d + 8 * r * (dv + 1) + 2 * chunk;
}

static int favor_from_length(double *length, const pf_engine *e, const pf_attention_shape *shape) {
    return pf_crossover_length(length, e, shape->head_dim, shape->features, shape->causal);
}

const pf_attention_kind pf_kind_favor = {
    .name = "favor",
    .doc = "Linear attention by a kernel's features (FAVOR+).",
    .takes = PF_TAKES_ALL,
    .takes_kernel = true,
    .carries = true,
    .state = &state_favor,
    .sums = &pf_sums_linear,
    .call = favor_call,
    .widths = favor_widths,
    .open = favor_open,
    .prefill = favor_prefill,
    .step = favor_step,
    .step_rows = true,
    .part = favor_part,
    .merge = favor_merge,
    .flops = favor_flops,
    .from_length = favor_from_length,
};
