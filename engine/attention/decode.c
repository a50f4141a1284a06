/*
 * decode.c - attention one position at a time, and prefill.
 *
 * favor: S, z and the log-scale M move on by one key (paper, eq. 11; the running maximum of
 * linear.h):  M' = max(M, l),  S <- e^(M - M') S + e^(l - M') k' v^T,  z likewise,
 * out = S^T q' / z . q'. Constant bytes, O(r dv) a head. exact: keys and values are kept.
 * Streaming is not differentiable; states lie outside any tape.
 */
#include <math.h>
#include <string.h>

#include "linear.h"

enum { S_STATE, Z_STATE, SHIFT_STATE };
enum { K_CACHE, V_CACHE };

/* ---- opening ---- */

static int open_favor(pf_state *s, const pf_attend *a, int64_t batch, int64_t heads, int64_t d,
                      int64_t dv) {
    int64_t m = a->projection ? a->projection->shape[a->projection->rank - 2] : d;
    int64_t shape[4] = {batch, heads, m * a->kernel.map->width, dv};
    for (int i = S_STATE; i <= SHIFT_STATE; i++) {
        PF_TRY(pf_tensor_make_lasting(&s->tensor[i], s->heap, PF_F32, 4 - i, shape));
        PF_TRY(pf_tensor_fill(s->tensor[i], i == SHIFT_STATE ? -INFINITY : 0));
    }
    return 0;
}

static int open_exact(pf_state *s, int64_t batch, int64_t heads, int64_t d, int64_t dv) {
    int64_t shape[4] = {batch, heads, 64, d};
    PF_TRY(pf_tensor_make_lasting(&s->tensor[K_CACHE], s->heap, PF_F32, 4, shape));
    shape[3] = dv;
    return pf_tensor_make_lasting(&s->tensor[V_CACHE], s->heap, PF_F32, 4, shape);
}

int pf_attend_state(pf_state **state, pf_engine *e, const pf_attend *a, int64_t batch,
                    int64_t heads, int64_t head_dim, int64_t value_dim) {
    if (batch < 1 || heads < 1 || head_dim < 1 || value_dim < 1) {
        return pf_fail(PF_EINVAL, "attention state: batch, heads, head_dim and value_dim must "
                                  "be at least 1");
    }
    PF_TRY(pf_state_new(state, e, batch, 0));
    int status = 0;
    if (a->kind == PF_ATTEND_FAVOR) {
        status = open_favor(*state, a, batch, heads, head_dim, value_dim);
    } else if (a->kind == PF_ATTEND_EXACT) {
        status = open_exact(*state, batch, heads, head_dim, value_dim);
    }
    if (status < 0) pf_state_close(state);
    return status;
}

/* ---- prefill ---- */

/* Runs `op` outside any tape, so that its outputs last. */
static int run_lasting(pf_engine *e, const pf_op *op, pf_tensor *const *in, int n,
                       const pf_attr *attr, pf_tensor **out) {
    pf_tape *tape = e->tape;
    e->tape = NULL;
    int status = pf_apply(e, op, in, n, attr, out);
    e->tape = tape;
    return status;
}

static int prefill_favor(pf_tensor **out, pf_engine *e, const pf_attend *a, pf_state *s,
                         pf_tensor *q, pf_tensor *k, pf_tensor *v) {
    pf_tensor *in[10] = {q, k, v, a->projection, NULL, NULL,
                         s->tensor[0], s->tensor[1], s->tensor[2], a->decay};
    pf_tensor *made[PF_MAX_OUT] = {NULL};
    pf_attr attr[PF_MAX_ATTR];
    pf_op_fill_defaults(&pf_op_favor, attr);
    pf_favor_attrs(attr, &a->kernel, true, true);
    PF_TRY(run_lasting(e, &pf_op_favor, in, 10, attr, made));
    *out = made[0];
    for (int i = S_STATE; i <= SHIFT_STATE; i++) {
        pf_tensor_release(&s->tensor[i]);
        s->tensor[i] = made[1 + i];
    }
    return 0;
}

/* A view of rows first .. first+n-1 (dimension 3) of cache (B, H, capacity, width). */
static int cache_view(pf_tensor **view, pf_tensor *cache, int64_t first, int64_t n) {
    PF_TRY(pf_tensor_view(view, cache));
    (*view)->offset += first * cache->stride[2];
    (*view)->shape[2] = n;
    return 0;
}

/* Appends x (B, H, n, width) behind `position` rows; the capacity doubles as needed. */
static int append(pf_state *s, int which, pf_engine *e, pf_tensor *x) {
    pf_tensor *cache = s->tensor[which], *view = NULL;
    int64_t need = s->position + x->shape[2];
    if (need > cache->shape[2]) {
        int64_t shape[4] = {cache->shape[0], cache->shape[1], pf_max(2 * cache->shape[2], need),
                            cache->shape[3]};
        pf_tensor *larger = NULL, *old = NULL, *front = NULL;
        PF_TRY(pf_tensor_make_lasting(&larger, s->heap, PF_F32, 4, shape));
        int status = cache_view(&old, cache, 0, s->position);
        if (status >= 0) status = cache_view(&front, larger, 0, s->position);
        if (status >= 0) status = pf_tensor_copy(front, old);
        pf_tensor_release(&old);
        pf_tensor_release(&front);
        if (status < 0) {
            pf_tensor_release(&larger);
            return status;
        }
        pf_tensor_release(&s->tensor[which]);
        s->tensor[which] = cache = larger;
    }
    (void)e;
    PF_TRY(cache_view(&view, cache, s->position, x->shape[2]));
    int status = pf_tensor_copy(view, x);
    pf_tensor_release(&view);
    return status;
}

static int prefill_exact(pf_tensor **out, pf_engine *e, const pf_attend *a, pf_state *s,
                         pf_tensor *q, pf_tensor *k, pf_tensor *v) {
    PF_TRY(append(s, K_CACHE, e, k));
    PF_TRY(append(s, V_CACHE, e, v));
    int64_t length = s->position + k->shape[2];
    pf_tensor *in[6] = {q, NULL, NULL, NULL, NULL, a->decay};
    pf_attr attr[PF_MAX_ATTR];
    pf_op_fill_defaults(&pf_op_exact_attention, attr);
    attr[0].i = 1;
    int status = cache_view(&in[1], s->tensor[K_CACHE], 0, length);
    if (status >= 0) status = cache_view(&in[2], s->tensor[V_CACHE], 0, length);
    if (status >= 0) status = run_lasting(e, &pf_op_exact_attention, in, 6, attr, out);
    pf_tensor_release(&in[1]);
    pf_tensor_release(&in[2]);
    return status;
}

static int check_rows(const pf_state *s, const pf_tensor *q, const pf_tensor *k,
                      const pf_tensor *v) {
    const pf_tensor *all[3] = {q, k, v};
    static const char *const names[3] = {"q", "k", "v"};
    for (int i = 0; i < 3; i++) {
        PF_TRY(pf_tensor_check(all[i], PF_F32, "attention state", names[i]));
        bool fits = all[i]->rank == 4 && all[i]->shape[0] == s->batch &&
                    all[i]->shape[1] == q->shape[1] && all[i]->shape[2] == q->shape[2];
        if (!fits) {
            return pf_fail(PF_ESHAPE, "attention state: %s is %s, must be (batch, heads, "
                                      "length, width) with batch %lld, like q %s",
                           names[i], pf_shape_of(all[i]), (long long)s->batch, pf_shape_of(q));
        }
    }
    const pf_tensor *S = s->tensor[0];
    if (S && (S->shape[1] != q->shape[1] || s->tensor[1]->rank + 1 < S->rank)) {
        return pf_fail(PF_ESHAPE, "attention state: q is %s, but the state has %lld heads",
                       pf_shape_of(q), (long long)S->shape[1]);
    }
    return 0;
}

int pf_attend_prefill(pf_tensor **out, pf_engine *e, const pf_attend *a, pf_state *state,
                      pf_tensor *q, pf_tensor *k, pf_tensor *v) {
    PF_TRY(check_rows(state, q, k, v));
    if (a->kind == PF_ATTEND_IDENTITY) {
        *out = pf_tensor_retain(v);
    } else if (a->kind == PF_ATTEND_EXACT) {
        PF_TRY(prefill_exact(out, e, a, state, q, k, v));
    } else {
        PF_TRY(prefill_favor(out, e, a, state, q, k, v));
    }
    state->position += q->shape[2];
    return 0;
}

/* ---- step ---- */

typedef struct {
    const pf_kern *kern;
    const pf_attend *a;
    pf_map_args args;
    pf_rows q, k, v, out;
    const float *w;
    int64_t w_head, H, d, dv, m, r;
    const float *decay; /* (H), NULL: none */
    float *s, *z, *shift;
} step_op;

/* Features of one row x (d): f (r), returns the log-shift. x is scaled in `row`. */
static float encode_row(const step_op *o, pf_side side, const float *x, const float *w,
                        float *row, float *f) {
    float half = 0, shift = 0;
    o->kern->scale(o->d, (float)o->a->kernel.scale, x, row);
    if (w) {
        o->kern->gemv(o->m, o->d, w, o->d, row, NULL, f);
        half = 0.5f * o->kern->sumsq(o->d, row);
    } else {
        memcpy(f, row, (size_t)o->d * sizeof(float));
    }
    o->a->kernel.map->encode(&o->args, side, 1, o->r, f, &half, &shift);
    return shift;
}

static void step_task(void *context, int64_t task, void *scratch) {
    const step_op *o = context;
    int64_t b = task / o->H, h = task % o->H, r = o->r, dv = o->dv;
    const float *w = o->w ? o->w + h * o->w_head : NULL;
    float *row = pf_carve(&scratch, (size_t)o->d * sizeof(float));
    float *f = pf_carve(&scratch, (size_t)r * sizeof(float));
    float *s = o->s + task * r * dv, *z = o->z + task * r, *M = o->shift + task;

    float l = encode_row(o, PF_SIDE_KEY, pf_rows_at(&o->k, b, h, 0), w, row, f);
    float top = l > *M ? l : *M;
    float keep = *M == top ? 1 : pf_decay(*M, top), add = pf_decay(l, top);
    const float *v = pf_rows_at(&o->v, b, h, 0);
    if (keep != 1) {
        o->kern->scale(r * dv, keep, s, s);
        o->kern->scale(r, keep, z, z);
    }
    for (int64_t i = 0; i < r; i++) o->kern->axpy(dv, add * f[i], v, s + i * dv);
    o->kern->axpy(r, add, f, z);
    *M = top - (o->decay ? o->decay[h] : 0); /* seen from the next position */

    encode_row(o, PF_SIDE_QUERY, pf_rows_at(&o->q, b, h, 0), w, row, f);
    float den = o->kern->dot(r, f, z), *out = pf_rows_at(&o->out, b, h, 0);
    bool reach = !(fabsf(den) < PF_TINY_DENOMINATOR);
    memset(out, 0, (size_t)dv * sizeof(float));
    if (!reach) return;
    for (int64_t i = 0; i < r; i++) o->kern->axpy(dv, f[i], s + i * dv, out);
    o->kern->scale(dv, 1 / den, out, out);
}

static int step_favor(pf_tensor **out, pf_engine *e, const pf_attend *a, pf_state *state,
                      pf_tensor *q, pf_tensor *k, pf_tensor *v) {
    const pf_tensor *w = a->projection;
    step_op o = {.kern = e->kern, .a = a, .H = q->shape[1], .d = q->shape[3], .dv = v->shape[3]};
    pf_tensor *held[3] = {NULL};
    o.m = w ? w->shape[w->rank - 2] : o.d;
    o.r = o.m * a->kernel.map->width;
    o.args = (pf_map_args){e->kern, o.m, o.r, (float)a->kernel.eps};
    o.w = w ? pf_f32(w) : NULL;
    o.decay = a->decay ? pf_f32(a->decay) : NULL;
    o.w_head = w && w->rank == 3 ? o.m * o.d : 0;
    o.s = pf_f32(state->tensor[S_STATE]);
    o.z = pf_f32(state->tensor[Z_STATE]);
    o.shift = pf_f32(state->tensor[SHIFT_STATE]);
    int status = pf_rows_ready(e, q, &held[0], &o.q);
    if (status >= 0) status = pf_rows_ready(e, k, &held[1], &o.k);
    if (status >= 0) status = pf_rows_ready(e, v, &held[2], &o.v);
    if (status >= 0) status = pf_heads_output(out, e, q->shape[0], o.H, 1, o.dv);
    if (status >= 0) {
        o.out = pf_rows_of(*out);
        size_t bytes = (size_t)(o.d + o.r) * sizeof(float) + 2 * PF_ALIGN;
        status = pf_parallel(e, q->shape[0] * o.H, bytes, step_task, &o);
        if (status < 0) pf_tensor_release(out);
    }
    for (int i = 0; i < 3; i++) pf_tensor_release(&held[i]);
    return status;
}

int pf_attend_step(pf_tensor **out, pf_engine *e, const pf_attend *a, pf_state *state,
                   pf_tensor *q, pf_tensor *k, pf_tensor *v) {
    PF_TRY(check_rows(state, q, k, v));
    if (q->shape[2] != 1) {
        return pf_fail(PF_ESHAPE, "step: q is %s, but a step takes one position; use prefill",
                       pf_shape_of(q));
    }
    if (a->kind != PF_ATTEND_FAVOR) return pf_attend_prefill(out, e, a, state, q, k, v);
    PF_TRY(step_favor(out, e, a, state, q, k, v));
    state->position += 1;
    return 0;
}

/* ---- states that stand alone (public) ---- */

static int resolve_attend(pf_attend *a, const pf_attention_state_options *o) {
    const pf_config *named = pf_config_get(o->kernel, "name");
    const char *name = named ? pf_config_string(named) : NULL;
    a->causal = true;
    if (name && strcmp(name, "exact") == 0) {
        a->kind = PF_ATTEND_EXACT;
        return 0;
    }
    if (name && strcmp(name, "identity") == 0) {
        a->kind = PF_ATTEND_IDENTITY;
        return 0;
    }
    a->kind = PF_ATTEND_FAVOR;
    PF_TRY(pf_kernel_resolve(&a->kernel, o->kernel, o->head_dim));
    const pf_tensor *w = o->projection;
    if (!w && a->kernel.map->softmax) {
        return pf_fail(PF_EINVAL, "attention state: the kernel needs a projection");
    }
    if (w && (w->rank < 2 || w->shape[w->rank - 1] != o->head_dim)) {
        return pf_fail(PF_ESHAPE, "attention state: projection is %s, its last dimension must "
                                  "be head_dim (%lld)",
                       pf_shape_of(w), (long long)o->head_dim);
    }
    if (w && w->rank == 3 && w->shape[0] != o->heads) {
        return pf_fail(PF_ESHAPE, "attention state: projection is %s, but there are %lld heads",
                       pf_shape_of(w), (long long)o->heads);
    }
    return 0;
}

int pf_attention_state_open(pf_state **state, pf_engine *engine,
                            const pf_attention_state_options *options) {
    pf_attend a = {0};
    PF_TRY(resolve_attend(&a, options));
    if (a.kind == PF_ATTEND_FAVOR && options->projection) {
        PF_TRY(pf_tensor_detach(&a.projection, engine, options->projection));
    }
    int status = pf_attend_state(state, engine, &a, options->batch, options->heads,
                                 options->head_dim, options->value_dim);
    if (status >= 0) {
        (*state)->attend = pf_heap_alloc(engine->heap, sizeof a);
        if ((*state)->attend) {
            *(*state)->attend = a;
            return 0;
        }
        pf_state_close(state);
        status = PF_ENOMEM;
    }
    pf_tensor_release(&a.projection);
    return status;
}

static int need_alone(const pf_state *state) {
    if (state->attend) return 0;
    return pf_fail(PF_ESTATE, "attention: this state belongs to a model; use the model's step");
}

int pf_attention_prefill(pf_tensor **out, pf_engine *engine, pf_state *state, pf_tensor *q,
                         pf_tensor *k, pf_tensor *v) {
    PF_TRY(need_alone(state));
    return pf_attend_prefill(out, engine, state->attend, state, q, k, v);
}

int pf_attention_step(pf_tensor **out, pf_engine *engine, pf_state *state, pf_tensor *q,
                      pf_tensor *k, pf_tensor *v) {
    PF_TRY(need_alone(state));
    return pf_attend_step(out, engine, state->attend, state, q, k, v);
}
