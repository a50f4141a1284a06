/*
 * favor.c - the rows favor and linear_attention: the linear-attention operator as an op.
 *
 * favor encodes q and k by a feature map; linear_attention is given the features. Both
 * take an entry state and return the exit state, differentiable in S and z (the log-scale
 * is a constant: attention does not depend on it). Saved for the backward: out, one
 * denominator a row, when causal one running maximum a key and a state every PF_SPAN keys, else
 * one state a key head (documents in full attention sweep their keys again).
 */
#include <string.h>

#include "operator.h"

enum {
    Q = PF_FAVOR_Q,
    K = PF_FAVOR_K,
    V = PF_FAVOR_V,
    PROJECTION = PF_FAVOR_PROJECTION,
    MASK = PF_FAVOR_MASK,
    DOCUMENTS = PF_FAVOR_DOCUMENTS,
    ENTRY_S = PF_FAVOR_ENTRY_S,
    ENTRY_Z = PF_FAVOR_ENTRY_Z,
    ENTRY_SHIFT = PF_FAVOR_ENTRY_SHIFT,
    DECAY = PF_FAVOR_DECAY,
    TILTS = PF_FAVOR_TILTS,
    LIMITS = PF_FAVOR_LIMITS,
    PREFIX = PF_FAVOR_PREFIX,
    FACTORS = PF_FAVOR_FACTORS
};
enum { OUT, EXIT_S, EXIT_Z, EXIT_SHIFT, OUTPUTS };
enum { A_MAP, A_SCALE, A_EPS, A_CAUSAL, A_STATE, A_RATIO, A_TILT, A_COUNT };
enum { SAVED_DENOMINATOR, SAVED_RUNNING, SAVED_STATES };

static const pf_attr_info favor_attrs[A_COUNT] = {
    {"map", PF_ATTR_CHOICE, 0, false, PF_MAP_CHOICES, "feature map"},
    {"scale", PF_ATTR_FLOAT, 0, false, NULL,
     "x = scale q; 0: d^(-1/4) for softmax maps, 1 for the others"},
    {"eps", PF_ATTR_FLOAT, -1, false, NULL, "added to every feature; -1: the map's own"},
    {"causal", PF_ATTR_BOOL, 0, false, NULL, "position i sees keys 1 .. i"},
    {"state", PF_ATTR_BOOL, 0, false, NULL, "return the exit state too"},
    {"ratio", PF_ATTR_FLOAT, 0, false, NULL, "phi = ratio f(u) + eps; 0: the map's own"},
    {"tilt", PF_ATTR_FLOAT, 0, false, NULL, "A of softmax_plus, below 1/4"},
};

void pf_favor_attrs(pf_attr *attr, const pf_kernel *kernel, bool causal, bool state) {
    int map = 0;
    while (pf_map_at(map) && pf_map_at(map) != kernel->map) map++;
    attr[A_MAP].i = pf_map_at(map) ? map : 0; /* a given map has no place: it is not read */
    attr[A_SCALE].f = kernel->scale;
    attr[A_EPS].f = kernel->eps;
    attr[A_CAUSAL].i = causal;
    attr[A_STATE].i = state;
    attr[A_RATIO].f = kernel->ratio;
    attr[A_TILT].f = kernel->tilt;
}

/* linear_attention has the same attributes, so that both rows share their functions; the
 * first three are fixed there. */
static bool is_given(const pf_call *c) { return c->op == &pf_op_linear_attention; }

static const pf_map *map_of(const pf_call *c) {
    return is_given(c) ? &pf_map_given : pf_map_at((int)c->attr[A_MAP].i);
}

/* Queries see a first part of the keys: those up to their own place, to a limit or a prefix. */
static bool is_causal(const pf_call *c) {
    return c->attr[A_CAUSAL].i != 0 || c->in[LIMITS] || c->in[PREFIX];
}

static int check_projection(const pf_call *c, int64_t d, int64_t *m) {
    const pf_tensor *w = c->in[PROJECTION];
    const pf_map *map = map_of(c);
    *m = d;
    if (!w) {
        if (!map->softmax) return 0;
        return pf_fail(PF_EINVAL,
                       "%s: the map '%s' needs a projection (features, head_dim); "
                       "draw one with a kernel",
                       c->op->name, map->name);
    }
    PF_TRY(pf_tensor_check(w, PF_F32, c->op->name, "projection"));
    int64_t H = c->in[K]->shape[1];
    bool fits = (w->rank == 2 || (w->rank == 3 && w->shape[0] == H)) &&
                w->shape[w->rank - 1] == d && w->shape[w->rank - 2] >= 1;
    if (!fits) {
        return pf_shape_fail(c, "projection must be (features, %lld) or (%lld, features, %lld)",
                             (long long)d, (long long)H, (long long)d);
    }
    *m = w->shape[w->rank - 2];
    return 0;
}

/* Entry state: all three or none, shaped (B, Hk, r, dv), (B, Hk, r), (B, Hk). */
static int check_entry(const pf_call *c, const int64_t *state) {
    int given = !!c->in[ENTRY_S] + !!c->in[ENTRY_Z] + !!c->in[ENTRY_SHIFT];
    if (given == 0) return 0;
    if (given < 3) {
        return pf_fail(PF_EINVAL, "%s: entry_s, entry_z and entry_shift go together", c->op->name);
    }
    static const int rank[3] = {4, 3, 2};
    for (int i = 0; i < 3; i++) {
        const pf_tensor *t = c->in[ENTRY_S + i];
        PF_TRY(pf_tensor_check(t, PF_F32, c->op->name, pf_op_arg_name(c->op, ENTRY_S + i)));
        bool fits = t->rank == rank[i] && pf_tensor_contiguous(t);
        for (int k = 0; fits && k < rank[i]; k++) fits = t->shape[k] == state[k];
        if (!fits) {
            return pf_shape_fail(c, "%s must be %s and contiguous",
                                 pf_op_arg_name(c->op, ENTRY_S + i), pf_shape_text(rank[i], state));
        }
    }
    return 0;
}

/* factors (blocks, rounds + 1, d), or one a key head, beside the projection that they give. */
static int check_factors(const pf_call *c, int64_t m, int64_t d) {
    const pf_tensor *t = c->in[FACTORS];
    if (!t) return 0;
    PF_TRY(pf_tensor_check(t, PF_F32, c->op->name, "factors"));
    int64_t want[4] = {c->in[K]->shape[1], pf_hadamard_blocks(m, d), pf_hadamard_rounds(d) + 1, d};
    int shared = t->rank == 3;
    bool fits = c->in[PROJECTION] && (shared || t->rank == 4);
    for (int i = shared; fits && i < 4; i++) fits = t->shape[i - shared] == want[i];
    if (fits) return 0;
    return pf_shape_fail(c, "factors must be %s, or such a one a head, beside the projection",
                         pf_shape_text(3, want + 1));
}

static int favor_shape(pf_call *c) {
    int64_t d, m;
    PF_TRY(pf_attend_grouped(c, &d));
    PF_TRY(check_projection(c, d, &m));
    PF_TRY(check_factors(c, m, d));
    PF_TRY(pf_attend_masks(c, MASK, DOCUMENTS));
    PF_TRY(pf_attend_reach(c, DOCUMENTS, LIMITS));
    if (is_causal(c) && !c->in[LIMITS] && c->in[Q]->shape[2] != c->in[K]->shape[2]) {
        return pf_shape_fail(c, "causal attention needs as many queries as keys, or limits");
    }
    PF_TRY(pf_attend_decay(c, DECAY, is_causal(c)));
    PF_TRY(pf_attend_tilt(c, TILTS, c->attr[A_TILT].f, map_of(c), c->in[K]->shape[1]));
    int64_t state[4] = {c->in[Q]->shape[0], c->in[K]->shape[1], m * map_of(c)->width,
                        c->in[V]->shape[3]};
    PF_TRY(check_entry(c, state));
    for (int o = EXIT_S; o < OUTPUTS; o++) {
        if (!c->attr[A_STATE].i) {
            c->shape[o].rank = -1;
        } else {
            PF_TRY(pf_set_shape(c, o, PF_F32, 5 - o, state));
        }
    }
    return 0;
}

/* ---- filling the operator ---- */

typedef struct {
    pf_operator op;
    pf_tensor *held[7]; /* compacted inputs */
} favor_call;

static void release_call(favor_call *f) {
    for (int i = 0; i < PF_COUNT(f->held); i++) pf_tensor_release(&f->held[i]);
    if (f->op.engine) pf_reach_free(&f->op.reach, f->op.engine);
}

static void fill_sizes(pf_operator *op, const pf_call *c) {
    const pf_tensor *q = c->in[Q], *w = c->in[PROJECTION];
    op->engine = c->engine;
    op->map = map_of(c);
    op->B = q->shape[0], op->H = q->shape[1], op->Lq = q->shape[2], op->d = q->shape[3];
    op->Lk = c->in[K]->shape[2], op->dv = c->in[V]->shape[3];
    op->Hk = c->in[K]->shape[1];
    op->group = op->Hk > 0 ? op->H / op->Hk : 0;
    op->causal = is_causal(c);
    op->projected = w != NULL;
    op->m = w ? w->shape[w->rank - 2] : op->d;
    op->r = op->m * op->map->width;
    op->block = op->causal ? PF_CAUSAL_BLOCK : PF_FULL_BLOCK;
    op->scale = is_given(c) ? 1 : (float)pf_map_scale(op->map, c->attr[A_SCALE].f, op->d);
    op->tilt = c->attr[A_TILT].f;
    op->args =
        pf_map_args_of(op->map, c->engine->kern, op->m, c->attr[A_EPS].f, c->attr[A_RATIO].f);
    op->mask = c->in[MASK];
}

static int fill_call(favor_call *f, pf_call *c) {
    pf_operator *op = &f->op;
    fill_sizes(op, c);
    PF_TRY(pf_rows_ready(c->engine, c->in[Q], &f->held[0], &op->q));
    PF_TRY(pf_rows_ready(c->engine, c->in[K], &f->held[1], &op->k));
    PF_TRY(pf_rows_ready(c->engine, c->in[V], &f->held[2], &op->v));
    if (op->projected) {
        PF_TRY(pf_tensor_compact(&f->held[3], c->engine, c->in[PROJECTION]));
        op->projection = pf_f32(f->held[3]);
        op->projection_head = c->in[PROJECTION]->rank == 3 ? op->m * op->d : 0;
    }
    if (op->projected && c->in[FACTORS]) {
        PF_TRY(pf_tensor_compact(&f->held[6], c->engine, c->in[FACTORS]));
        op->factors = pf_f32(f->held[6]);
        bool own = c->in[FACTORS]->rank == 4;
        op->factors_head = own ? pf_tensor_numel(c->in[FACTORS]) / op->Hk : 0;
    }
    if (c->in[DECAY]) {
        PF_TRY(pf_tensor_compact(&f->held[4], c->engine, c->in[DECAY]));
        op->decay = pf_f32(f->held[4]);
    }
    if (c->in[TILTS]) {
        PF_TRY(pf_tensor_compact(&f->held[5], c->engine, c->in[TILTS]));
        op->tilts = pf_f32(f->held[5]);
        PF_TRY(pf_attend_tilt_values(c->op->name, op->tilts, op->Hk));
    }
    if (c->in[ENTRY_S]) {
        op->entry_s = pf_f32(c->in[ENTRY_S]);
        op->entry_z = pf_f32(c->in[ENTRY_Z]);
        op->entry_shift = pf_f32(c->in[ENTRY_SHIFT]);
    }
    pf_reach_inputs in = pf_reach_of(c, DOCUMENTS, LIMITS);
    return pf_reach_make(&op->reach, c->engine, &in, true);
}

/* ---- forward ---- */

/* States that the backward starts from; they fit in what it would take to make them again. */
static int make_states(pf_call *c, pf_operator *op) {
    int64_t state = op->r * op->dv + op->r;
    int64_t shape[3] = {op->B, op->Hk, state + 1};
    if (op->causal) {
        shape[0] = op->reach.spans;
        shape[2] = state;
    }
    bool any = op->causal ? op->reach.spans > 0 : op->reach.n == op->B;
    if (!c->record || !any) return 0;
    PF_TRY(pf_tensor_make(&c->saved[SAVED_STATES], c->engine, PF_F32, 3, shape));
    op->saved = pf_f32(c->saved[SAVED_STATES]);
    return 0;
}

static int make_outputs(pf_call *c, pf_operator *op) {
    PF_TRY(pf_heads_output(&c->out[OUT], c->engine, op->B, op->H, op->Lq, op->dv));
    op->out = pf_rows_of(c->out[OUT]);
    int64_t rows[3] = {op->B, op->H, op->Lq};
    PF_TRY(pf_tensor_make(&c->saved[SAVED_DENOMINATOR], c->engine, PF_F32, 3, rows));
    op->denominator = pf_f32(c->saved[SAVED_DENOMINATOR]);
    if (op->causal) {
        rows[1] = op->Hk, rows[2] = op->Lk;
        PF_TRY(pf_tensor_make(&c->saved[SAVED_RUNNING], c->engine, PF_F32, 3, rows));
        op->running = pf_f32(c->saved[SAVED_RUNNING]);
    }
    PF_TRY(make_states(c, op));
    if (!c->attr[A_STATE].i) return 0;
    for (int o = EXIT_S; o < OUTPUTS; o++) {
        PF_TRY(pf_tensor_make(&c->out[o], c->engine, PF_F32, c->shape[o].rank, c->shape[o].dim));
    }
    op->exit_s = pf_f32(c->out[EXIT_S]);
    op->exit_z = pf_f32(c->out[EXIT_Z]);
    op->exit_shift = pf_f32(c->out[EXIT_SHIFT]);
    return 0;
}

static int favor_forward(pf_call *c) {
    favor_call f = {0};
    pf_operator *op = &f.op;
    int status = fill_call(&f, c);
    if (status >= 0) status = make_outputs(c, op);
    if (status >= 0) status = pf_linear_run(op, false);
    release_call(&f);
    return status;
}

/* ---- backward ---- */

/* q, k, v: NULL where the operator writes into the slot. */
typedef struct {
    pf_tensor *q, *k, *v, *s, *z, *dout, *dexit_s, *dexit_z;
} favor_gradients;

static void release_gradients(favor_gradients *g) {
    pf_tensor **all[] = {&g->q, &g->k, &g->v, &g->s, &g->z, &g->dout, &g->dexit_s, &g->dexit_z};
    for (int i = 0; i < PF_COUNT(all); i++) pf_tensor_release(all[i]);
}

/* dout (zeros when only the state was used) and the exit state's gradients. */
static int fill_cotangents(pf_call *c, pf_operator *op, favor_gradients *g) {
    if (c->dout[OUT]) {
        PF_TRY(pf_rows_ready(c->engine, c->dout[OUT], &g->dout, &op->dout));
    } else {
        PF_TRY(pf_heads_output(&g->dout, c->engine, op->B, op->H, op->Lq, op->dv));
        PF_TRY(pf_tensor_fill(g->dout, 0));
        op->dout = pf_rows_of(g->dout);
    }
    if (c->dout[EXIT_S]) {
        PF_TRY(pf_tensor_compact(&g->dexit_s, c->engine, c->dout[EXIT_S]));
        op->dexit_s = pf_f32(g->dexit_s);
    }
    if (c->dout[EXIT_Z]) {
        PF_TRY(pf_tensor_compact(&g->dexit_z, c->engine, c->dout[EXIT_Z]));
        op->dexit_z = pf_f32(g->dexit_z);
    }
    return 0;
}

static int make_gradients(pf_call *c, pf_operator *op, favor_gradients *g) {
    op->need_q = c->need[Q], op->need_k = c->need[K], op->need_v = c->need[V];
    if (op->need_q) PF_TRY(pf_rows_gradient(c, Q, &g->q, &op->dq));
    if (op->need_k) PF_TRY(pf_rows_gradient(c, K, &g->k, &op->dk));
    if (op->need_v) PF_TRY(pf_rows_gradient(c, V, &g->v, &op->dvalue));
    if (!c->need[ENTRY_S] && !c->need[ENTRY_Z]) return 0;
    PF_TRY(pf_tensor_make(&g->s, c->engine, PF_F32, 4, c->in[ENTRY_S]->shape));
    PF_TRY(pf_tensor_make(&g->z, c->engine, PF_F32, 3, c->in[ENTRY_Z]->shape));
    op->dentry_s = pf_f32(g->s);
    op->dentry_z = pf_f32(g->z);
    return 0;
}

static int give_gradients(pf_call *c, const favor_gradients *g) {
    if (g->q) PF_TRY(pf_grad_give(c, Q, g->q));
    if (g->k) PF_TRY(pf_grad_give(c, K, g->k));
    if (g->v) PF_TRY(pf_grad_give(c, V, g->v));
    if (c->need[ENTRY_S]) PF_TRY(pf_grad_give(c, ENTRY_S, g->s));
    if (c->need[ENTRY_Z]) PF_TRY(pf_grad_give(c, ENTRY_Z, g->z));
    return 0;
}

static int run_backward(pf_call *c, favor_call *f, favor_gradients *g) {
    pf_operator *op = &f->op;
    PF_TRY(fill_call(f, c));
    op->out = pf_rows_of(c->out[OUT]);
    op->denominator = pf_f32(c->saved[SAVED_DENOMINATOR]);
    if (op->causal) op->running = pf_f32(c->saved[SAVED_RUNNING]);
    if (c->saved[SAVED_STATES]) op->saved = pf_f32(c->saved[SAVED_STATES]);
    PF_TRY(fill_cotangents(c, op, g));
    PF_TRY(make_gradients(c, op, g));
    PF_TRY(pf_linear_run(op, true));
    return give_gradients(c, g);
}

static int favor_backward(pf_call *c) {
    favor_call f = {0};
    favor_gradients g = {0};
    int status = run_backward(c, &f, &g);
    release_gradients(&g);
    release_call(&f);
    return status;
}

const pf_op pf_op_favor = {
    .name = "favor",
    .args = "q, k, v, [projection], [mask], [documents], [entry_s], [entry_z], [entry_shift], "
            "[decay], [tilts], [limits], [prefix], [cu_seqlens], [factors]",
    .results = "out, exit_s, exit_z, exit_shift",
    .doc =
        "Linear attention (FAVOR+): out_i = sum_j phi(q_i).phi(k_j) v_j / sum_j "
        "phi(q_i).phi(k_j). q (B, H, Lq, d), k (B, Hk, Lk, d), v (B, Hk, Lk, dv) with H a multiple "
        "of Hk: query head h reads key head h / (H / Hk). projection (features, d) or (Hk, "
        "features, d), mask (B, Lk) of 1 keep and 0 not there, documents (B, L) i32: attention "
        "stays inside runs of equal numbers, cu_seqlens (n + 1) i32: the same for B = 1 as offsets "
        "0 .. L. Whom query i sees: all keys; causal, keys 1 .. i; limits (B, Lq) or (Lq) i32, "
        "keys 1 .. limits_i, in any order, 0 for none; prefix (B) i32, keys 1 .. max(i, prefix). "
        "decay (Hk) of numbers D >= 0, not for full attention: key j counts exp(-D (n_i - j)), "
        "n_i being the last key that query i sees. tilts (Hk) of softmax_plus's A, a head each. "
        "Where a map has both signs a denominator can be 0. Below 2^-80 in size it counts as no "
        "key in reach: output and gradients 0. Paper, sections 2.2 to 2.4.",
    .min_in = 3,
    .max_in = PF_FAVOR_INPUTS,
    .n_out = OUTPUTS,
    .flags = PF_OP_OWN_OUTPUTS,
    .uses = PF_USES_ALL_IN | PF_USES_OUT(OUT),
    .attrs = favor_attrs,
    .n_attrs = A_COUNT,
    .shape = favor_shape,
    .forward = favor_forward,
    .backward = favor_backward,
};

const pf_op pf_op_linear_attention = {
    .name = "linear_attention",
    .args = "phi_q, phi_k, v, [projection], [mask], [documents], [entry_s], [entry_z], "
            "[entry_shift], [decay], [tilts], [limits], [prefix], [cu_seqlens], "
            "[factors]",
    .results = "out, exit_s, exit_z, exit_shift",
    .doc = "The same operator with features given: phi_q (B, H, Lq, r), phi_k (B, Hk, Lk, r), "
           "v (B, Hk, Lk, dv). Takes no projection and no tilts; map, scale, ratio, eps and tilt "
           "have no effect.",
    .min_in = 3,
    .max_in = PF_FAVOR_INPUTS,
    .n_out = OUTPUTS,
    .flags = PF_OP_OWN_OUTPUTS,
    .uses = PF_USES_ALL_IN | PF_USES_OUT(OUT),
    .attrs = favor_attrs,
    .n_attrs = A_COUNT,
    .shape = favor_shape,
    .forward = favor_forward,
    .backward = favor_backward,
};
