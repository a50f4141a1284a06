/*
 * public_state.c - states of attention alone (public): a kernel, its projection and one node,
 * with the proof that two of them belong together, and the merge of two segments.
 */
#include <math.h>
#include <string.h>

#include "operator.h"

pf_alone *pf_alone_retain(pf_alone *alone) {
    atomic_fetch_add(&alone->refs, 1);
    return alone;
}

void pf_alone_release(pf_alone **alone) {
    pf_alone *a = *alone;
    *alone = NULL;
    if (!a || atomic_fetch_sub(&a->refs, 1) != 1) return;
    pf_heap *heap = a->heap;
    pf_tensor_release(&a->attend.projection);
    pf_tensor_release(&a->attend.decay);
    pf_tensor_release(&a->fingerprint);
    pf_config_free(a->kernel);
    pf_heap_free(heap, a, sizeof *a);
    pf_heap_release(heap);
}

/* ---- opening ---- */

static int check_projection(const pf_attention_state_options *o, const pf_map *map) {
    const pf_tensor *w = o->projection;
    if (!w) {
        if (!map->softmax) return 0;
        return pf_fail(PF_EINVAL, "attention state: the kernel needs a projection");
    }
    PF_TRY(pf_tensor_check(w, PF_F32, "attention state", "projection"));
    bool fits = (w->rank == 2 || (w->rank == 3 && w->shape[0] == o->heads)) &&
                w->shape[w->rank - 1] == o->head_dim && w->shape[w->rank - 2] >= 1;
    if (fits) return 0;
    return pf_fail(PF_ESHAPE,
                   "attention state: projection is %s, must be (features, %lld) or "
                   "(%lld, features, %lld)",
                   pf_shape_of(w), (long long)o->head_dim, (long long)o->heads,
                   (long long)o->head_dim);
}

static int check_decay(const pf_attention_state_options *o) {
    const pf_tensor *t = o->decay;
    if (!t) return 0;
    PF_TRY(pf_tensor_check(t, PF_F32, "attention state", "decay"));
    if (t->rank == 1 && t->shape[0] == o->heads) return 0;
    return pf_fail(PF_ESHAPE, "attention state: decay is %s, must be (%lld), one a head",
                   pf_shape_of(t), (long long)o->heads);
}

/* Which attention the options' kernel names: a feature map, or "exact", or "given" where the
 * features are the input. */
static int resolve_attend(pf_attend *a, const pf_attention_state_options *o) {
    const pf_config *named = pf_config_get(o->kernel, "name");
    const char *name = named ? pf_config_string(named) : NULL;
    a->causal = true;
    PF_TRY(check_decay(o));
    if (name && strcmp(name, "exact") == 0) {
        a->kind = PF_ATTEND_EXACT;
    } else if (name && strcmp(name, pf_map_given.name) == 0) {
        a->kernel = (pf_kernel){.map = &pf_map_given, .head_dim = o->head_dim, .scale = 1};
    } else {
        PF_TRY(pf_kernel_resolve(&a->kernel, o->kernel, o->head_dim));
        PF_TRY(check_projection(o, a->kernel.map));
    }
    return 0;
}

static int fill_alone(pf_alone *alone, pf_engine *e, const pf_attention_state_options *o) {
    pf_attend *a = &alone->attend;
    PF_TRY(resolve_attend(a, o));
    alone->heads = o->heads, alone->head_dim = o->head_dim, alone->value_dim = o->value_dim;
    bool favor = a->kind == PF_ATTEND_FAVOR, given = favor && a->kernel.map == &pf_map_given;
    alone->kernel = o->kernel ? pf_config_copy(o->kernel) : pf_config_new(PF_MAP);
    if (!alone->kernel) return pf_fail(PF_ENOMEM, "attention state: no memory for the kernel");
    if (favor && !given && o->projection) {
        PF_TRY(pf_tensor_detach(&a->projection, e, o->projection));
    }
    if (o->decay) PF_TRY(pf_tensor_detach(&a->decay, e, o->decay));
    if (o->fingerprint) return pf_tensor_detach(&alone->fingerprint, e, o->fingerprint);
    return favor ? pf_favor_fingerprint(&alone->fingerprint, e, a, o->heads, o->head_dim) : 0;
}

int pf_attention_state_open(pf_state **state, pf_engine *engine,
                            const pf_attention_state_options *options) {
    pf_attention_state_options o = {0};
    *state = NULL;
    memcpy(&o, options, options->size < sizeof o ? options->size : sizeof o);
    if (o.heads < 1 || o.head_dim < 1) {
        return pf_fail(PF_EINVAL, "attention state: heads and head_dim must be at least 1");
    }
    pf_alone *alone = pf_heap_zalloc(engine->heap, sizeof *alone);
    if (!alone) return PF_ENOMEM;
    alone->heap = pf_heap_retain(engine->heap);
    atomic_init(&alone->refs, 1);
    int status = fill_alone(alone, engine, &o);
    if (status >= 0) {
        status = pf_attend_state(state, engine, &alone->attend, o.batch, o.heads, o.head_dim,
                                 o.value_dim);
    }
    if (status >= 0) (*state)->alone = pf_alone_retain(alone);
    pf_alone_release(&alone);
    return status;
}

/* ---- moving on ---- */

static int need_alone(const pf_state *state) {
    if (state->alone) return 0;
    return pf_fail(PF_ESTATE, "attention: this state belongs to a model; use the model's step");
}

int pf_attention_prefill(pf_tensor **out, pf_engine *engine, pf_state *state, pf_tensor *q,
                         pf_tensor *k, pf_tensor *v) {
    PF_TRY(need_alone(state));
    return pf_attend_prefill(out, engine, &state->alone->attend, state, q, k, v);
}

int pf_attention_step(pf_tensor **out, pf_engine *engine, pf_state *state, pf_tensor *q,
                      pf_tensor *k, pf_tensor *v) {
    PF_TRY(need_alone(state));
    return pf_attend_step(out, engine, &state->alone->attend, state, q, k, v);
}

/* ---- do two belong together? ---- */

static int differ(const char *what) {
    return pf_fail(PF_EINVAL, "attention state: the two differ in %s", what);
}

/* Equal but for what two CPU levels may round differently; NaN is equal to NaN. */
static bool near(const pf_tensor *a, const pf_tensor *b) {
    if (!a || !b) return !a && !b;
    if (!pf_same_shape(a, b)) return false;
    for (int64_t i = 0; i < pf_tensor_numel(a); i++) {
        double x = (double)pf_f32(a)[i], y = (double)pf_f32(b)[i];
        bool same = x == y || (isnan(x) && isnan(y));
        if (!same && !(fabs(x - y) <= 1e-5 * fmax(1, fmax(fabs(x), fabs(y))))) return false;
    }
    return true;
}

int pf_alone_alike(const pf_alone *a, const pf_alone *b) {
    if (a->attend.kind != b->attend.kind) return differ("the kind of attention");
    if (a->attend.kernel.map != b->attend.kernel.map) return differ("the feature map");
    if (a->heads != b->heads || a->head_dim != b->head_dim || a->value_dim != b->value_dim) {
        return pf_fail(PF_ESHAPE,
                       "attention state: one has %lld heads of %lld and values of "
                       "%lld, the other %lld, %lld and %lld",
                       (long long)a->heads, (long long)a->head_dim, (long long)a->value_dim,
                       (long long)b->heads, (long long)b->head_dim, (long long)b->value_dim);
    }
    if (!near(a->attend.decay, b->attend.decay)) return differ("the decay of the heads");
    if (!near(a->fingerprint, b->fingerprint)) {
        return differ("the kernel: its options or its projection are not the same");
    }
    return 0;
}

int pf_attention_state_info(const pf_state *state, pf_attention_state_options *info) {
    const pf_alone *a = state->alone;
    if (!a) return pf_fail(PF_ESTATE, "attention: this state belongs to a model");
    *info = (pf_attention_state_options){
        .size = sizeof *info,
        .kernel = a->kernel,
        .projection = a->attend.projection,
        .batch = state->batch,
        .heads = a->heads,
        .head_dim = a->head_dim,
        .value_dim = a->value_dim,
        .decay = a->attend.decay,
        .fingerprint = a->fingerprint,
    };
    return 0;
}

int pf_attention_state_check(pf_engine *engine, const pf_state *state,
                             const pf_attention_state_options *options) {
    pf_attention_state_options o = {0}, own;
    pf_state *wanted = NULL;
    PF_TRY(pf_attention_state_info(state, &own));
    memcpy(&o, options, options->size < sizeof o ? options->size : sizeof o);
    if (o.batch != 0 && o.batch != own.batch) {
        return pf_fail(PF_ESHAPE, "the state is of %lld sequences, wanted are %lld",
                       (long long)own.batch, (long long)o.batch);
    }
    o.batch = 1;
    if (o.heads == 0) o.heads = own.heads;
    if (o.head_dim == 0) o.head_dim = own.head_dim;
    if (o.value_dim == 0) o.value_dim = own.value_dim;
    PF_TRY(pf_attention_state_open(&wanted, engine, &o));
    int status = pf_alone_alike(state->alone, wanted->alone);
    pf_state_close(&wanted);
    return status;
}

/* ---- merging ---- */

int pf_state_merge(pf_engine *engine, pf_state *state, const pf_state *later) {
    pf_state *other = NULL;
    if (!state->alone || !later->alone) {
        return pf_fail(PF_ESTATE, "merge: only states of attention alone can be merged; what a "
                                  "model's layers see depends on all that was before");
    }
    PF_TRY(pf_alone_alike(state->alone, later->alone));
    if (state->batch != later->batch) {
        return pf_fail(PF_ESHAPE, "merge: one state has %lld sequences, the other %lld",
                       (long long)state->batch, (long long)later->batch);
    }
    const pf_attend *a = &state->alone->attend;
    PF_TRY(pf_state_fork(&other, engine, later)); /* it may be the same state */
    int status = 0;
    if (a->kind == PF_ATTEND_FAVOR) {
        status = pf_favor_settle(state, engine, a);
        if (status >= 0) status = pf_favor_settle(other, engine, a);
        if (status >= 0) status = pf_favor_merge(state, engine, a, other);
    } else if (a->kind == PF_ATTEND_EXACT) {
        status = pf_exact_append(state, other);
    }
    if (status >= 0) state->position += other->position;
    pf_state_close(&other);
    return status;
}
