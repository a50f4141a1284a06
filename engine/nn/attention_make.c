/*
 * attention_make.c - what the layers that attend are made of: heads, the kind of attention with its
 * kernel, scales of queries and keys, decays and tilts; and what becomes of them after a step. All
 * that is drawn or given in numbers stands in the layer's slots, and is saved with it.
 */
#include <math.h>
#include <string.h>

#include "attention_layer.h"

/* ---- building ---- */

/* kv_heads 0: as many heads of keys and values as of queries. */
static int resolve_key_heads(pf_module *m, attention_self *self) {
    self->kv_heads = pf_option_int(m, "kv_heads");
    if (self->kv_heads == 0) self->kv_heads = self->heads;
    if (self->heads % self->kv_heads == 0) return PF_OK;
    return pf_fail(PF_EINVAL, "attention: heads %lld is not a multiple of kv_heads %lld",
                   (long long)self->heads, (long long)self->kv_heads);
}

int pf_attention_heads(pf_module *m, attention_self *self) {
    int64_t dim = pf_option_int(m, "dim");
    self->heads = pf_option_int(m, "heads");
    PF_TRY(resolve_key_heads(m, self));
    self->head_dim = pf_option_int(m, "head_dim");
    if (self->head_dim == 0) {
        if (dim % self->heads != 0) {
            return pf_fail(PF_EINVAL,
                           "attention: dim %lld is not a multiple of heads %lld; give "
                           "head_dim, or other heads",
                           (long long)dim, (long long)self->heads);
        }
        self->head_dim = dim / self->heads;
    }
    if (self->rotary && self->head_dim % 2 != 0) {
        return pf_fail(PF_EINVAL,
                       "attention: rotary positions turn pairs of channels, and "
                       "head_dim %lld is odd",
                       (long long)self->head_dim);
    }
    return PF_OK;
}

/* Which layer's projection: the layer's place, or what the kernel says where it has none. */
uint64_t pf_attention_place(const pf_module *m) {
    const attention_self *self = m->self;
    const pf_config *own = pf_config_get(pf_config_get(m->options, "kernel"), "layer");
    int64_t layer = pf_option_int(m, "layer");
    return (uint64_t)(layer > 0 || !own ? layer : (int64_t)pf_config_number(own)) + self->apart;
}

/* The kernel's tensors are the layer's buffers: saved with it, and filled when it is loaded.
 * Factors lie beside the projection: after a redraw its options don't give them. */
static int hold_kernel(pf_module *m, const pf_kernel *kernel) {
    if (kernel->projection) PF_TRY(pf_module_buffer(m, "projection", kernel->projection));
    if (kernel->factors) PF_TRY(pf_module_buffer(m, "projection_factors", kernel->factors));
    int n;
    const pf_named *learned = pf_kernel_parameters(kernel, &n);
    for (int i = 0; i < n; i++) {
        char *name = pf_heap_joined(m->heap, "parameters", learned[i].name);
        int status = name ? pf_module_share(m, name, learned[i].tensor) : PF_ENOMEM;
        pf_heap_text_free(m->heap, name);
        PF_TRY(status);
    }
    return PF_OK;
}

/* A kernel of the host's that is named like a kind would be that kind, here and from files. */
static int check_open(pf_engine *e, const pf_config *options) {
    const pf_attention_kind *kind = pf_kind_of_kernel(options);
    pf_kernel *open = NULL;
    if (!kind) return PF_OK;
    PF_TRY(pf_kernel_named(&open, e, options));
    if (!open) return PF_OK;
    return pf_fail(PF_EINVAL,
                   "attention: '%s' is a kind of attention, and a kernel of the host's has its "
                   "name; give the kernel another",
                   kind->name);
}

/* The kind, and its kernel, drawn for this layer's place and heads. */
int pf_attention_resolve(pf_module *m, pf_engine *e, attention_self *self) {
    pf_attention *a = &self->attention;
    PF_TRY(pf_attention_decide(m, e));
    PF_TRY(pf_kernel_complete(m, e));
    PF_TRY(pf_attention_kind_of(m, &a->kind));
    PF_TRY(pf_attention_settle(a, pf_config_get(m->options, PF_ATTENTION_OPTIONS), "attention"));
    pf_attention_set_layer(a, pf_attention_place(m));
    a->causal = pf_option_int(m, "causal") != 0;
    if (!e->loading) PF_TRY(pf_attention_fits_some(a, a->causal));
    pf_config *kernel = pf_config_get(m->options, "kernel");
    PF_TRY(check_open(e, kernel));
    if (!a->kind->takes_kernel) return pf_kernel_check_names(kernel, "attention");
    PF_TRY(pf_kernel_build(&a->kernel, e, kernel, self->head_dim, self->kv_heads,
                           pf_attention_place(m)));
    if (a->causal)
        PF_TRY(pf_kernel_no_reference(a->kernel, false, "attention", "a causal layer has none"));
    return hold_kernel(m, a->kernel);
}

/* The kernel of this layer estimates exp(x.y). */
static bool estimates(const attention_self *self) {
    return self->attention.kernel && self->attention.kernel->spec.map->softmax;
}

/* Scales of q and k. Softmax features err with exp(|x + y|^2): there rows start with
 * |x|^2 = 2 (x = d^(-1/4) q) and grow as training asks; elsewhere with every channel 1. */
int pf_attention_norms(pf_module *m, pf_engine *e, attention_self *self) {
    char init[PF_INIT_TEXT];
    double d = (double)self->head_dim;
    pf_init_text(init, "value", estimates(self) ? sqrt(2) * pow(d, -0.25) : 1);
    PF_TRY(pf_module_param(m, e, "q_norm", 1, &self->head_dim, init));
    self->q_norm = pf_module_tensor(m, "q_norm");
    if (self->shared) return PF_OK;
    PF_TRY(pf_module_param(m, e, "k_norm", 1, &self->head_dim, init));
    self->k_norm = pf_module_tensor(m, "k_norm");
    return PF_OK;
}

/* Log-decays of the heads, a geometric row from `decay` to almost none (ALiBi's slopes). */
int pf_attention_decay(pf_module *m, pf_engine *e, attention_self *self) {
    double steepest = pf_option_number(m, "decay");
    if (steepest == 0) return PF_OK;
    PF_TRY(pf_kind_takes(self->attention.kind, PF_IN_DECAY, "attention"));
    if (!self->attention.causal) {
        return pf_fail(PF_EINVAL, "attention: decay is for causal attention (causal = true)");
    }
    pf_tensor *decay = NULL;
    PF_TRY(pf_tensor_make_parameter(&decay, e, PF_F32, 1, &self->kv_heads));
    for (int64_t h = 0; decay->storage && h < self->kv_heads; h++) {
        pf_f32(decay)[h] = (float)(steepest * exp2(-8.0 * (double)h / (double)self->kv_heads));
    }
    int status = pf_module_buffer(m, "decay", decay);
    self->attention.decay = decay; /* the slot holds it */
    pf_tensor_release(&decay);
    return status;
}

/* The tilts of softmax_plus, one a head of keys: saved with the weights, moved by training
 * steps that are over (move_tilt), so that no row sees a tilt that came of a later one. */
int pf_attention_tilts(pf_module *m, pf_engine *e, attention_self *self) {
    pf_kernel *kernel = self->attention.kernel;
    if (!kernel || !kernel->spec.map->tilted) return PF_OK;
    pf_tensor *tilt = NULL;
    PF_TRY(pf_tensor_make_parameter(&tilt, e, PF_F32, 1, &self->kv_heads));
    int status = tilt->storage ? pf_tensor_fill(tilt, kernel->spec.numbers.tilt) : PF_OK;
    if (status >= 0) status = pf_module_buffer(m, "tilt", tilt);
    kernel->tilts = tilt; /* taken over */
    return status;
}

int pf_attention_derive(pf_module *m) {
    const attention_self *self = m->self;
    PF_TRY(pf_attention_rooms_derive(m));
    PF_TRY(pf_relative_derive(m));
    return estimates(self) ? pf_watch_make(m, self->heads) : PF_OK;
}

/* ---- after a step ---- */

/* A part of the way from each tilt to the best one for the queries and keys that the step just
 * over was seen to have (watch.c), if it was looked at. */
static void move_tilt(pf_module *m, const attention_self *self) {
    double part = 0.25;
    const pf_kernel *kernel = self->attention.kernel;
    pf_tensor *tilt = kernel ? kernel->tilts : NULL;
    if (!tilt) return;
    int64_t key_heads = tilt->shape[0], group = self->heads / key_heads;
    for (int64_t h = 0; h < self->heads; h += group) {
        double sum = 0, seen = 0, s = 0;
        for (int64_t g = 0; g < group; g++) {
            if (!pf_watch_take(m, h + g, &s)) continue;
            sum += s;
            seen++;
        }
        if (seen == 0) continue;
        float *a = pf_f32(tilt) + h / group;
        double best = pf_kernel_best_tilt(sum / seen, self->head_dim);
        *a = (float)((double)*a + part * (best - (double)*a));
        pf_tensor_touch(tilt, "a training step");
    }
}

/* New numbers in the same buffers, when a draw is due at this step. */
int pf_attention_after_step(pf_module *m, pf_engine *e, uint64_t step, int *drawn) {
    attention_self *self = m->self;
    move_tilt(m, self);
    PF_TRY(pf_attention_move(m, e));
    pf_kernel *kernel = self->attention.kernel;
    uint64_t every = kernel ? (uint64_t)pf_max(kernel->spec.redraw, 0) : 0;
    if (every == 0 || !kernel->projection || step == 0 || step % every != 0) return PF_OK;
    PF_TRY(pf_kernel_redraw(kernel, e, step / every));
    ++*drawn;
    return PF_OK;
}

/* Decay and norms are the slots'; the kernel is the layer's own. */
void pf_attention_drop(void *self) {
    attention_self *s = self;
    pf_kernel_release(&s->attention.kernel);
}
