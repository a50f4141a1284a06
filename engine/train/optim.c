/*
 * optim.c - AdamW (Loshchilov and Hutter 2017) and SGD with momentum. Weight decay shrinks
 * matrices only, never norms and biases. A step changes either every parameter that has a
 * gradient, or, when the gradient is not finite, nothing. All of it runs on fixed ranges.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "clip.h"
#include "kern.h"

enum { GRAIN = 1 << 14, MOMENTS = 2 };

typedef struct entry {
    char *name;       /* the parameter's path */
    pf_tensor *param; /* retained */
    pf_tensor *moment[MOMENTS];
    char *moment_name[MOMENTS]; /* "<param>.m", "<param>.v" */
} entry;

/* One row of what an optimiser is. */
typedef struct method {
    const char *name;
    const pf_option_info *options;
    int n_options;
    int moments;
} method;

struct pf_optimizer {
    pf_heap *heap;
    pf_module *module; /* retained */
    const method *method;
    pf_config *options;
    entry *entry;
    int n, capacity;
    uint64_t steps;
};

static const pf_option_info adamw_options[] = {
    {.name = "type",
     .kind = PF_OPT_STRING,
     .string = "adamw",
     .choices = "adamw",
     .doc = "the optimizer"},
    {.name = "lr",
     .kind = PF_OPT_NUMBER,
     .number = 3e-4,
     .low = 0,
     .high = 1e6,
     .doc = "learning rate of a step that is not given its own"},
    {.name = "decay",
     .kind = PF_OPT_NUMBER,
     .number = 0.1,
     .low = 0,
     .high = 1e3,
     .doc = "weight decay of matrices, times the learning rate"},
    {.name = "beta1",
     .kind = PF_OPT_NUMBER,
     .number = 0.9,
     .low = 0,
     .high = 0.999999,
     .doc = "memory of the mean gradient"},
    {.name = "beta2",
     .kind = PF_OPT_NUMBER,
     .number = 0.98,
     .low = 0,
     .high = 0.9999999,
     .doc = "memory of the squared gradient"},
    {.name = "eps",
     .kind = PF_OPT_NUMBER,
     .number = 1e-9,
     .low = 0,
     .high = 1,
     .doc = "added to the root of the squared gradient"},
};

static const pf_option_info sgd_options[] = {
    {.name = "type",
     .kind = PF_OPT_STRING,
     .string = "sgd",
     .choices = "sgd",
     .doc = "the optimizer"},
    {.name = "lr",
     .kind = PF_OPT_NUMBER,
     .number = 0.1,
     .low = 0,
     .high = 1e6,
     .doc = "learning rate of a step that is not given its own"},
    {.name = "momentum",
     .kind = PF_OPT_NUMBER,
     .number = 0.9,
     .low = 0,
     .high = 0.999999,
     .doc = "memory of the gradient"},
    {.name = "decay",
     .kind = PF_OPT_NUMBER,
     .number = 0,
     .low = 0,
     .high = 1e3,
     .doc = "weight decay of matrices, times the learning rate"},
};

static const method methods[] = {
    {"adamw", adamw_options, PF_COUNT(adamw_options), 2},
    {"sgd", sgd_options, PF_COUNT(sgd_options), 1},
};

static double option(const pf_optimizer *o, const char *name) {
    return pf_config_number_of(o->options, o->method->options, o->method->n_options, name);
}

/* ---- making ---- */

static int find_method(const pf_config *options, const method **found) {
    const pf_config *text = options ? pf_config_get(options, "type") : NULL;
    const char *name = text ? pf_config_string(text) : methods[0].name;
    for (int i = 0; name && i < PF_COUNT(methods); i++) {
        if (strcmp(methods[i].name, name) != 0) continue;
        *found = &methods[i];
        return 0;
    }
    return pf_fail(PF_EINVAL, "optimizer: type must be adamw or sgd, got '%s'", name ? name : "?");
}

static char *moment_name(pf_heap *heap, const char *name, char letter) {
    size_t n = strlen(name);
    char *text = pf_heap_alloc(heap, n + 3);
    if (text) snprintf(text, n + 3, "%s.%c", name, letter);
    return text;
}

static int make_moments(pf_optimizer *o, entry *p) {
    for (int i = 0; i < o->method->moments; i++) {
        p->moment_name[i] = moment_name(o->heap, p->name, "mv"[i]);
        if (!p->moment_name[i]) return PF_ENOMEM;
        PF_TRY(pf_tensor_make_lasting(&p->moment[i], o->heap, PF_F32, p->param->rank,
                                      p->param->shape));
        PF_TRY(pf_tensor_fill(p->moment[i], 0));
    }
    return 0;
}

static int fill_entries(pf_optimizer *o) {
    int count = pf_module_tensor_count(o->module);
    if (count < 0) return count;
    o->entry = pf_heap_zalloc(o->heap, (size_t)count * sizeof *o->entry);
    if (!o->entry) return PF_ENOMEM;
    o->capacity = count;
    for (int i = 0; i < count; i++) {
        const char *name;
        pf_tensor *tensor;
        bool trained;
        PF_TRY(pf_module_tensor_at(o->module, i, &name, &tensor, &trained));
        if (!trained) continue;
        if (!pf_tensor_contiguous(tensor) || tensor->dtype != PF_F32) {
            return pf_fail(PF_EINVAL, "optimizer: parameter '%s' must be contiguous f32", name);
        }
        entry *p = &o->entry[o->n++];
        p->param = pf_tensor_retain(tensor);
        p->name = pf_heap_text(o->heap, name);
        if (!p->name) return PF_ENOMEM;
        PF_TRY(make_moments(o, p));
    }
    return o->n ? 0 : pf_fail(PF_EINVAL, "optimizer: the module has no parameters");
}

int pf_optimizer_new(pf_optimizer **optimizer, pf_engine *engine, pf_module *module,
                     const pf_config *options) {
    const method *found = NULL;
    *optimizer = NULL;
    if (!module) return pf_fail(PF_EINVAL, "optimizer: the module is NULL");
    PF_TRY(find_method(options, &found));
    PF_TRY(pf_config_check(options, found->options, found->n_options, found->name));
    pf_optimizer *o = pf_heap_zalloc(engine->heap, sizeof *o);
    if (!o) return PF_ENOMEM;
    o->heap = pf_heap_retain(engine->heap);
    o->module = pf_module_retain(module);
    o->method = found;
    o->options = options ? pf_config_copy(options) : pf_config_new(PF_MAP);
    int status = o->options ? fill_entries(o) : pf_fail(PF_ENOMEM, "optimizer: no memory");
    if (status < 0) {
        pf_optimizer_close(&o);
        return status;
    }
    *optimizer = o;
    return 0;
}

static void close_entry(pf_heap *heap, entry *p) {
    for (int i = 0; i < MOMENTS; i++) {
        pf_tensor_release(&p->moment[i]);
        pf_heap_text_free(heap, p->moment_name[i]);
    }
    pf_tensor_release(&p->param);
    pf_heap_text_free(heap, p->name);
}

void pf_optimizer_close(pf_optimizer **optimizer) {
    if (!optimizer || !*optimizer) return;
    pf_optimizer *o = *optimizer;
    pf_heap *heap = o->heap;
    *optimizer = NULL;
    if (o->entry) {
        for (int i = 0; i < o->n; i++) close_entry(heap, &o->entry[i]);
        pf_heap_free(heap, o->entry, (size_t)o->capacity * sizeof *o->entry);
    }
    pf_module_release(&o->module);
    pf_config_free(o->options);
    pf_heap_free(heap, o, sizeof *o);
    pf_heap_release(heap);
}

/* ---- a step ---- */

typedef struct update {
    const pf_kern *kern;
    float *p, *m, *v;
    const float *g;
    float gscale, lr, b1, b2, eps, decay, c1, c2;
} update;

static void adamw_range(void *context, int64_t first, int64_t last) {
    const update *u = context;
    u->kern->adamw(last - first, u->p + first, u->g + first, u->m + first, u->v + first, u->gscale,
                   u->lr, u->b1, u->b2, u->eps, u->decay, u->c1, u->c2);
}

/* m = momentum m + g;  p = (1 - lr decay) p - lr m */
static void sgd_range(void *context, int64_t first, int64_t last) {
    const update *u = context;
    int64_t n = last - first;
    u->kern->scale(n, u->b1, u->m + first, u->m + first);
    u->kern->axpy(n, u->gscale, u->g + first, u->m + first);
    if (u->decay > 0) u->kern->scale(n, 1 - u->lr * u->decay, u->p + first, u->p + first);
    u->kern->axpy(n, -u->lr, u->m + first, u->p + first);
}

static update settings(const pf_optimizer *o, const pf_engine *e, double lr, double gscale) {
    update u = {.kern = e->kern, .lr = (float)lr, .gscale = (float)gscale};
    if (o->method->moments == 1) {
        u.b1 = (float)option(o, "momentum");
        return u;
    }
    double t = (double)o->steps + 1, b1 = option(o, "beta1"), b2 = option(o, "beta2");
    u.b1 = (float)b1, u.b2 = (float)b2, u.eps = (float)option(o, "eps");
    u.c1 = (float)(1 / (1 - pow(b1, t)));
    u.c2 = (float)(1 / (1 - pow(b2, t)));
    return u;
}

static int update_entry(const pf_optimizer *o, pf_engine *e, update u, const entry *p,
                        const pf_tensor *grad) {
    u.p = pf_f32(p->param), u.g = pf_f32(grad);
    u.m = pf_f32(p->moment[0]);
    u.v = p->moment[1] ? pf_f32(p->moment[1]) : NULL;
    u.decay = p->param->rank >= 2 ? (float)option(o, "decay") : 0;
    return pf_parallel_range(e, pf_tensor_numel(p->param), GRAIN,
                             o->method->moments == 1 ? sgd_range : adamw_range, &u);
}

/* The gradients that stand, contiguous and retained, and whose they are. */
static int collect(const pf_optimizer *o, pf_engine *e, pf_tensor **grads, int *owner, int *n) {
    *n = 0;
    for (int i = 0; i < o->n; i++) {
        const pf_tensor *p = o->entry[i].param;
        if (!p->grad || p->grad_stale) continue;
        PF_TRY(pf_tensor_compact(&grads[*n], e, p->grad));
        owner[(*n)++] = i;
    }
    return 0;
}

/* Not to be stopped halfway: a cancel waits for the end of the step. */
static int update_all(const pf_optimizer *o, pf_engine *e, const update *u, pf_tensor *const *grads,
                      const int *owner, int n) {
    const atomic_int *cancel = e->cancel;
    int status = 0;
    e->cancel = NULL;
    for (int i = 0; i < n && status >= 0; i++) {
        status = update_entry(o, e, *u, &o->entry[owner[i]], grads[i]);
    }
    e->cancel = cancel;
    return status;
}

static int apply(pf_optimizer *o, pf_engine *e, double lr, double clip, pf_tensor *const *grads,
                 const int *owner, int n, double *norm) {
    double total = 0;
    int bad;
    PF_TRY(pf_grad_norm(e, grads, n, &total, &bad));
    if (norm) *norm = total;
    if (bad >= 0) {
        return pf_fail(PF_ENUMERIC,
                       "optimizer: the gradient of '%s' is not finite (step %llu); "
                       "nothing was changed",
                       o->entry[owner[bad]].name, (unsigned long long)(o->steps + 1));
    }
    update u = settings(o, e, lr, clip > 0 && total > clip ? clip / total : 1);
    PF_TRY(update_all(o, e, &u, grads, owner, n));
    o->steps++;
    for (int i = 0; i < o->n; i++) pf_tensor_clear_grad(o->entry[i].param);
    return 0;
}

int pf_optimizer_step(pf_optimizer *optimizer, pf_engine *engine, double lr, double clip,
                      double *norm) {
    pf_optimizer *o = optimizer;
    int n = 0;
    if (lr < 0) lr = option(o, "lr");
    if (!isfinite(lr) || !isfinite(clip)) {
        return pf_fail(PF_EINVAL, "optimizer: lr is %g and clip %g; both must be finite", lr, clip);
    }
    size_t bytes = (size_t)o->n * (sizeof(pf_tensor *) + sizeof(int));
    pf_tensor **grads = pf_heap_zalloc(engine->heap, bytes);
    if (!grads) return PF_ENOMEM;
    int *owner = (int *)(grads + o->n);
    int status = collect(o, engine, grads, owner, &n);
    if (status >= 0) status = apply(o, engine, lr, clip, grads, owner, n, norm);
    for (int i = 0; i < o->n; i++) pf_tensor_release(&grads[i]);
    pf_heap_free(engine->heap, grads, bytes);
    return status;
}

uint64_t pf_optimizer_steps(const pf_optimizer *optimizer) { return optimizer->steps; }

/* ---- for checkpoints ---- */

int pf_optimizer_tensors(const pf_optimizer *o, pf_named **list, int *n) {
    int count = o->n * o->method->moments;
    pf_named *all = pf_heap_alloc(o->heap, (size_t)count * sizeof *all);
    if (!all) return PF_ENOMEM;
    for (int i = 0; i < count; i++) {
        const entry *p = &o->entry[i / o->method->moments];
        int k = i % o->method->moments;
        all[i] = (pf_named){p->moment_name[k], p->moment[k]};
    }
    *list = all;
    *n = count;
    return 0;
}

int pf_optimizer_config(const pf_optimizer *o, pf_config **config) {
    pf_config *c = pf_config_new(PF_MAP), *options = pf_config_copy(o->options);
    *config = NULL;
    int status = c && options ? 0 : pf_fail(PF_ENOMEM, "optimizer: no memory");
    if (status >= 0) status = pf_config_set_string(c, "type", o->method->name);
    if (status >= 0) status = pf_config_set_number(c, "steps", (double)o->steps);
    if (status >= 0) {
        status = pf_config_set(c, "options", options);
        options = NULL;
    }
    pf_config_free(options);
    if (status < 0)
        pf_config_free(c);
    else
        *config = c;
    return status;
}

static const pf_tensor *find_named(const pf_named *list, int n, const char *name) {
    for (int i = 0; i < n; i++) {
        if (strcmp(list[i].name, name) == 0) return list[i].tensor;
    }
    return NULL;
}

/* The tensor saved for moment k of p, or NULL with a message. */
static const pf_tensor *saved_moment(const entry *p, int k, const pf_named *list, int n) {
    const pf_tensor *saved = find_named(list, n, p->moment_name[k]);
    if (!saved) {
        pf_fail(PF_EFORMAT, "optimizer: '%s' is missing", p->moment_name[k]);
        return NULL;
    }
    if (saved->dtype != PF_F32 || !pf_same_shape(saved, p->moment[k])) {
        pf_fail(PF_EFORMAT, "optimizer: '%s' is %s %s, must be %s f32", p->moment_name[k],
                pf_shape_of(saved), pf_dtype_name(saved->dtype), pf_shape_of(p->moment[k]));
        return NULL;
    }
    return saved;
}

/* Looks at everything before it changes anything. */
int pf_optimizer_restore(pf_optimizer *o, const pf_named *list, int n, const pf_config *config) {
    const pf_config *type = pf_config_get(config, "type"), *steps = pf_config_get(config, "steps");
    const char *name = type ? pf_config_string(type) : NULL;
    if (!name || strcmp(name, o->method->name) != 0) {
        return pf_fail(PF_EFORMAT, "optimizer: the file is of '%s', this one is '%s'",
                       name ? name : "?", o->method->name);
    }
    double count = steps ? pf_config_number(steps) : -1;
    if (!(count >= 0 && count <= 9007199254740992.0)) {
        return pf_fail(PF_EFORMAT, "optimizer: 'steps' is missing or no count");
    }
    int moments = o->method->moments;
    for (int i = 0; i < o->n * moments; i++) {
        if (!saved_moment(&o->entry[i / moments], i % moments, list, n)) return PF_EFORMAT;
    }
    for (int i = 0; i < o->n * moments; i++) {
        const entry *p = &o->entry[i / moments];
        PF_TRY(pf_tensor_copy(p->moment[i % moments], saved_moment(p, i % moments, list, n)));
    }
    o->steps = (uint64_t)count;
    return 0;
}
