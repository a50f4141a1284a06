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
 * A call is all or nothing (state/undo.c): what it changes it makes anew; favor_step.c says how a
 * step does.
 */
#include <math.h>
#include <string.h>

#include "favor_step.h"

static const pf_state_kind state_favor = {
    .name = "favor",
    .keep = pf_favor_keep,
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

/* ---- a prompt ---- */

/* A prompt goes through the operator, from the state to the state. */
static int favor_prefill(pf_tensor **out, pf_engine *e, const pf_attention *a, pf_state *s,
                         pf_tensor *q, pf_tensor *k, pf_tensor *v) {
    pf_tensor *made[PF_LINEAR_OUTPUTS] = {NULL};
    pf_tensor *in[PF_LINEAR_INPUTS] = {
        [PF_IN_Q] = q, [PF_IN_K] = k, [PF_IN_V] = v, [PF_IN_DECAY] = a->decay};
    PF_TRY(pf_favor_settle(s, e, a));
    enter(s, in);
    PF_TRY(run(pf_apply_lasting, made, e, a, in, true, true));
    *out = made[0];
    take(s, made + 1);
    return PF_OK;
}

/* ---- merging ---- */

typedef struct {
    pf_favor_sums to, from;
    int64_t length; /* of the later segment */
} merge_op;

/* The earlier sums, as seen from the end of the later segment, and the later ones, both on
 * the larger scale. */
static void merge_task(void *context, int64_t task, void *scratch) {
    const merge_op *o = context;
    const pf_favor_sums *to = &o->to, *from = &o->from;
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
    PF_TRY(pf_favor_settle(s, e, a));
    PF_TRY(pf_favor_settle(later, e, a));
    for (int i = PF_S; i <= PF_SHIFT; i++) PF_TRY(pf_state_renew(s, e, i));
    merge_op o = {pf_favor_sums_of(s, e, a), pf_favor_sums_of(later, e, a), later->position};
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
    .step = pf_favor_step,
    .step_rows = true,
    .part = favor_part,
    .merge = favor_merge,
    .flops = favor_flops,
    .from_length = favor_from_length,
};
