/*
 * cache.c - streaming attention: opening a node, prefill (the parallel form, which takes the
 * state and returns it) and the step. favor: stream.c. exact: the keys and values so
 * far are kept. Streaming is not differentiable; states lie outside any tape.
 */
#include <string.h>

#include "operator.h"

enum { K_CACHE, V_CACHE };
enum { FIRST_ROOM = 64 }; /* positions that a cache has room for from its first key on */

static const pf_state_kind state_exact = {
    .name = "exact",
    .tensor = {"keys", "values"},
    .grows = true,
};

/* ---- opening ---- */

static int open_exact(pf_state *s, int64_t heads, int64_t d, int64_t dv) {
    int64_t shape[4] = {s->batch, heads, 0, d};
    s->kind = &state_exact;
    PF_TRY(pf_shape_valid(4, shape, PF_F32, "attention state"));
    PF_TRY(pf_tensor_make_lasting(&s->tensor[K_CACHE], s->heap, PF_F32, 4, shape));
    shape[3] = dv;
    PF_TRY(pf_shape_valid(4, shape, PF_F32, "attention state"));
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
        status = pf_favor_open(*state, a, heads, head_dim, value_dim);
    } else if (a->kind == PF_ATTEND_EXACT) {
        status = open_exact(*state, heads, head_dim, value_dim);
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
    bool given = a->kernel.map == &pf_map_given;
    const pf_op *op = given ? &pf_op_linear_attention : &pf_op_favor;
    PF_TRY(pf_favor_settle(s, e, a));
    pf_tensor *in[PF_FAVOR_INPUTS] = {
        [PF_FAVOR_Q] = q,
        [PF_FAVOR_K] = k,
        [PF_FAVOR_V] = v,
        [PF_FAVOR_PROJECTION] = a->projection,
        [PF_FAVOR_FACTORS] = a->factors,
        [PF_FAVOR_ENTRY_S] = s->tensor[PF_S],
        [PF_FAVOR_ENTRY_Z] = s->tensor[PF_Z],
        [PF_FAVOR_ENTRY_SHIFT] = s->tensor[PF_SHIFT],
        [PF_FAVOR_DECAY] = a->decay,
        [PF_FAVOR_TILTS] = a->tilts,
    };
    pf_tensor *made[PF_MAX_OUT] = {NULL};
    pf_attr attr[PF_MAX_ATTR];
    pf_op_fill_defaults(op, attr);
    pf_favor_attrs(attr, &a->kernel, true, true);
    PF_TRY(run_lasting(e, op, in, PF_FAVOR_INPUTS, attr, made));
    *out = made[0];
    pf_favor_take(s, made + 1);
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
static int append(pf_state *s, int which, pf_tensor *x) {
    pf_tensor *cache = s->tensor[which], *view = NULL;
    int64_t need = s->position + x->shape[2];
    if (need > cache->shape[2]) {
        int64_t room = pf_max(pf_max(2 * cache->shape[2], FIRST_ROOM), need);
        int64_t shape[4] = {cache->shape[0], cache->shape[1], room, cache->shape[3]};
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
    PF_TRY(cache_view(&view, cache, s->position, x->shape[2]));
    int status = pf_tensor_copy(view, x);
    pf_tensor_release(&view);
    return status;
}

int pf_exact_append(pf_state *s, const pf_state *later) {
    for (int i = K_CACHE; i <= V_CACHE; i++) {
        pf_tensor *rows = NULL;
        PF_TRY(cache_view(&rows, later->tensor[i], 0, later->position));
        int status = append(s, i, rows);
        pf_tensor_release(&rows);
        PF_TRY(status);
    }
    return 0;
}

static int prefill_exact(pf_tensor **out, pf_engine *e, const pf_attend *a, pf_state *s,
                         pf_tensor *q, pf_tensor *k, pf_tensor *v) {
    PF_TRY(append(s, K_CACHE, k));
    PF_TRY(append(s, V_CACHE, v));
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

/* The widths d of q and k and dv of v that the state was opened for. */
static void widths_of(const pf_attend *a, const pf_state *s, int64_t *d, int64_t *dv) {
    const pf_tensor *w = a->projection, *held = s->tensor[0];
    if (a->kind == PF_ATTEND_EXACT) {
        *d = held->shape[3];
        *dv = s->tensor[V_CACHE]->shape[3];
    } else {
        *d = w ? w->shape[w->rank - 1] : held->shape[2] / a->kernel.map->width;
        *dv = held->shape[3];
    }
}

/* q (B, H, L, d), k (B, Hkv, L, d), v (B, Hkv, L, dv) of the state's batch and sizes. */
static int check_rows(const pf_attend *a, const pf_state *s, const pf_tensor *q, const pf_tensor *k,
                      const pf_tensor *v) {
    const pf_tensor *all[3] = {q, k, v}, *held = s->tensor[0];
    static const char *const names[3] = {"q", "k", "v"};
    for (int i = 0; i < 3; i++) {
        PF_TRY(pf_tensor_check(all[i], PF_F32, "attention state", names[i]));
        bool fits = all[i]->rank == 4 && all[i]->shape[0] == s->batch &&
                    all[i]->shape[2] == q->shape[2] && (i < 2 || all[i]->shape[1] == k->shape[1]);
        if (!fits) {
            return pf_fail(PF_ESHAPE,
                           "attention state: %s is %s, must be (batch, heads, "
                           "length, width) with batch %lld, like q %s",
                           names[i], pf_shape_of(all[i]), (long long)s->batch, pf_shape_of(q));
        }
    }
    if (!held) return 0;
    if (k->shape[1] != held->shape[1] || q->shape[1] % held->shape[1] != 0) {
        return pf_fail(PF_ESHAPE, "attention state: q is %s, k %s, but the state has %lld heads",
                       pf_shape_of(q), pf_shape_of(k), (long long)held->shape[1]);
    }
    int64_t d, dv;
    widths_of(a, s, &d, &dv);
    if (q->shape[3] == d && k->shape[3] == d && v->shape[3] == dv) return 0;
    return pf_fail(PF_ESHAPE,
                   "attention state: q is %s, k %s, v %s, but the state is for queries "
                   "and keys of width %lld and values of width %lld",
                   pf_shape_of(q), pf_shape_of(k), pf_shape_of(v), (long long)d, (long long)dv);
}

int pf_attend_prefill(pf_tensor **out, pf_engine *e, const pf_attend *a, pf_state *state,
                      pf_tensor *q, pf_tensor *k, pf_tensor *v) {
    PF_TRY(check_rows(a, state, q, k, v));
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

int pf_attend_step(pf_tensor **out, pf_engine *e, const pf_attend *a, pf_state *state, pf_tensor *q,
                   pf_tensor *k, pf_tensor *v) {
    PF_TRY(check_rows(a, state, q, k, v));
    if (q->shape[2] != 1) {
        return pf_fail(PF_ESHAPE, "step: q is %s, but a step takes one position; use prefill",
                       pf_shape_of(q));
    }
    if (a->kind != PF_ATTEND_FAVOR) return pf_attend_prefill(out, e, a, state, q, k, v);
    PF_TRY(pf_favor_step(out, e, a, state, q, k, v));
    state->position += 1;
    return 0;
}
