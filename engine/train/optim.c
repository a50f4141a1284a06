/*
 * optim.c - optimizers: their parameters and moments, a step, and what a checkpoint holds of them.
 * Which update it is says the rule alone (rule.h). Weight decay shrinks matrices only, never norms
 * and biases. A step changes either every parameter that has a gradient, or, when the gradient is
 * not finite, nothing; the kernels' redraws and tilts follow it.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "clip.h"
#include "comm.h"
#include "rule.h"

enum { GRAIN = 1 << 14 }; /* numbers a task: the same for any number of threads */

/* One trained parameter, and what the rule remembers of it. */
typedef struct entry {
    char *name;       /* the parameter's path */
    pf_tensor *param; /* retained */
    pf_tensor *moment[PF_MOMENTS_MAX];
    char *moment_name[PF_MOMENTS_MAX]; /* "<param>.m" */
} entry;

struct pf_optimizer {
    pf_heap *heap;
    pf_module *module; /* retained */
    const pf_optimizer_rule *rule;
    pf_config *options;
    entry *entry;
    int n, capacity; /* entries; there is room for buffers, too */
    uint64_t steps;  /* that are over */
    int drawn;       /* projections, in the last step */
};

static double option(const pf_optimizer *o, const char *name) {
    return pf_rule_option(o->rule, o->options, name);
}

/* ---- making ---- */

/* "<param>.<moment>"; free with pf_heap_text_free. */
static char *moment_name(pf_heap *heap, const char *name, const char *moment) {
    size_t bytes = strlen(name) + strlen(moment) + 2;
    char *text = pf_heap_alloc(heap, bytes);
    if (text) snprintf(text, bytes, "%s.%s", name, moment);
    return text;
}

static int make_moments(pf_optimizer *o, entry *p) {
    for (int i = 0; i < o->rule->n_moments; i++) {
        p->moment_name[i] = moment_name(o->heap, p->name, o->rule->moment[i]);
        if (!p->moment_name[i]) return PF_ENOMEM;
        PF_TRY(pf_tensor_make_lasting(&p->moment[i], o->heap, PF_F32, p->param->rank,
                                      p->param->shape));
        PF_TRY(pf_tensor_fill(p->moment[i], 0));
    }
    return PF_OK;
}

/* In walk order. */
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
    return o->n ? PF_OK : pf_fail(PF_EINVAL, "optimizer: the module has no parameters");
}

int pf_optimizer_new(pf_optimizer **optimizer, pf_engine *engine, pf_module *module,
                     const pf_config *options) {
    PF_OUT(optimizer);
    PF_OPEN(engine);
    PF_NEED(module);
    const pf_optimizer_rule *rule = NULL;
    PF_TRY(pf_rule_resolve(&rule, options));
    pf_optimizer *o = pf_heap_zalloc(engine->heap, sizeof *o);
    if (!o) return PF_ENOMEM;
    o->heap = pf_heap_retain(engine->heap);
    o->module = pf_module_retain(module);
    o->rule = rule;
    o->options = options ? pf_config_copy(options) : pf_config_new(PF_MAP);
    int status = o->options ? fill_entries(o) : pf_fail(PF_ENOMEM, "optimizer: no memory");
    if (status < 0) {
        pf_optimizer_close(&o);
        return status;
    }
    *optimizer = o;
    return PF_OK;
}

static void close_entry(pf_heap *heap, entry *p) {
    for (int i = 0; i < PF_MOMENTS_MAX; i++) {
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

/* The update of one whole parameter, which update_range cuts ranges of. */
typedef struct job {
    const pf_optimizer_rule *rule;
    pf_update whole;
} job;

static void update_range(void *context, int64_t first, int64_t last) {
    const job *j = context;
    pf_update part = j->whole;
    part.n = last - first;
    part.p += first, part.g += first;
    for (int i = 0; i < j->rule->n_moments; i++) part.moment[i] += first;
    j->rule->range(&part);
}

/* What is the same for every parameter of this step. */
static pf_update begin_update(const pf_optimizer *o, const pf_engine *e, double lr, double gscale) {
    pf_update u = {.kern = e->kern, .lr = (float)lr, .gscale = (float)gscale};
    o->rule->begin(o->options, o->steps + 1, u.c);
    return u;
}

static int update_entry(const pf_optimizer *o, pf_engine *e, const pf_update *u, const entry *p,
                        const pf_tensor *grad) {
    job j = {o->rule, *u};
    j.whole.n = pf_tensor_numel(p->param);
    j.whole.p = pf_f32(p->param), j.whole.g = pf_f32(grad);
    for (int i = 0; i < o->rule->n_moments; i++) j.whole.moment[i] = pf_f32(p->moment[i]);
    j.whole.decay = p->param->rank >= 2 ? (float)option(o, "decay") : 0;
    int status = pf_parallel_range(e, j.whole.n, GRAIN, update_range, &j);
    pf_tensor_touch(p->param, "a step of the optimizer");
    return status;
}

/* The n gradients of a step, contiguous and retained, and the entries that they are of. A
 * parameter that took no part in the loss has none, and stays as it is, its moments too. */
typedef struct {
    pf_tensor **list; /* with room for every entry, and `owner` behind it */
    int *owner;
    int n;
} gradients;

static size_t gradients_bytes(const pf_optimizer *o) {
    return (size_t)o->n * (sizeof(pf_tensor *) + sizeof(int));
}

static int gather(const pf_optimizer *o, pf_engine *e, gradients *g) {
    g->list = pf_heap_zalloc(e->heap, gradients_bytes(o));
    if (!g->list) return PF_ENOMEM;
    g->owner = (int *)(g->list + o->n);
    for (int i = 0; i < o->n; i++) {
        const pf_tensor *p = o->entry[i].param;
        if (!p->grad || p->grad_stale) continue;
        PF_TRY(pf_tensor_compact(&g->list[g->n], e, p->grad));
        g->owner[g->n++] = i;
    }
    return PF_OK;
}

static void let_go(const pf_optimizer *o, pf_engine *e, gradients *g) {
    if (!g->list) return;
    for (int i = 0; i < g->n; i++) pf_tensor_release(&g->list[i]);
    pf_heap_free(e->heap, g->list, gradients_bytes(o));
}

static int update_all(const pf_optimizer *o, pf_engine *e, const pf_update *u, const gradients *g) {
    for (int i = 0; i < g->n; i++)
        PF_TRY(update_entry(o, e, u, &o->entry[g->owner[i]], g->list[i]));
    return PF_OK;
}

/* The sum over the ranks first, so that all of them see one norm; then the norm, so that nothing
 * moves before all gradients are known to be finite. */
static int apply(pf_optimizer *o, pf_engine *e, double lr, double clip, const gradients *g,
                 double *norm) {
    double total = 0;
    int bad;
    PF_TRY(pf_comm_sum(e, g->list, g->n));
    PF_TRY(pf_grad_norm(e, g->list, g->n, &total, &bad));
    if (norm) *norm = total;
    if (bad >= 0) {
        return pf_fail(PF_ENUMERIC,
                       "optimizer: the gradient of '%s' is not finite (after %llu steps); "
                       "nothing was changed",
                       o->entry[g->owner[bad]].name, (unsigned long long)o->steps);
    }
    pf_update u = begin_update(o, e, lr, clip > 0 && total > clip ? clip / total : 1);
    e->cancel = NULL; /* until the end of the step */
    PF_TRY(update_all(o, e, &u, g));
    o->steps++;
    for (int i = 0; i < o->n; i++) pf_tensor_clear_grad(o->entry[i].param);
    return PF_OK;
}

/* Once weights move a cancel waits for the end: a run that is saved and resumed halfway would not
 * redraw what was due.
 *
 * With several ranks every one comes here with the same lr and clip, and with a loss that reaches
 * the same parameters: then all sum the same list. Which of them can't is known before any sum,
 * and what fails after it, at the end. */
int pf_optimizer_step(pf_optimizer *optimizer, pf_engine *engine, double lr, double clip,
                      double *norm) {
    PF_OPEN(engine);
    PF_NEED(optimizer);
    pf_optimizer *o = optimizer;
    const atomic_int *cancel = engine->cancel;
    gradients g = {0};
    o->drawn = 0;
    if (lr < 0) lr = option(o, "lr");
    if (!isfinite(lr) || !isfinite(clip)) {
        return pf_fail(PF_EINVAL, "optimizer: lr is %g and clip %g; both must be finite", lr, clip);
    }
    int status = pf_comm_agree(engine, gather(o, engine, &g));
    bool ready = status >= 0;
    if (ready) status = apply(o, engine, lr, clip, &g, norm);
    let_go(o, engine, &g);
    if (status >= 0) status = pf_module_after_step(engine, o->module, o->steps, &o->drawn);
    engine->cancel = cancel;
    return ready ? pf_comm_agree(engine, status) : status;
}

int pf_optimizer_drawn(const pf_optimizer *optimizer) { return optimizer ? optimizer->drawn : 0; }

uint64_t pf_optimizer_steps(const pf_optimizer *optimizer) {
    return optimizer ? optimizer->steps : 0;
}

/* ---- for checkpoints ---- */

/* Moment k of entry i is number i n_moments + k of the list. */
int pf_optimizer_tensors(const pf_optimizer *o, pf_named **list, int *n) {
    int count = o->n * o->rule->n_moments;
    pf_named *all = pf_heap_alloc(o->heap, (size_t)count * sizeof *all);
    if (!all) return PF_ENOMEM;
    for (int i = 0; i < count; i++) {
        const entry *p = &o->entry[i / o->rule->n_moments];
        int k = i % o->rule->n_moments;
        all[i] = (pf_named){p->moment_name[k], p->moment[k]};
    }
    *list = all;
    *n = count;
    return PF_OK;
}

int pf_optimizer_config(const pf_optimizer *o, pf_config **config) {
    pf_config *c = pf_config_new(PF_MAP), *options = pf_config_copy(o->options);
    *config = NULL;
    int status = c && options ? PF_OK : pf_fail(PF_ENOMEM, "optimizer: no memory");
    if (status >= 0) status = pf_config_set_string(c, "type", o->rule->name);
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

/* What a file holds, by name. */
typedef struct {
    const pf_named *list;
    bool former; /* pf_tree_has_former */
    pf_index places;
} names;

static int index_names(names *file, int n) {
    for (int i = 0; i < n; i++)
        PF_TRY(pf_index_put(&file->places, pf_hash_text(file->list[i].name), i));
    return PF_OK;
}

static int find_named(const void *context, const char *name) {
    const names *file = context;
    uint32_t probe = 0;
    uint64_t hash = pf_hash_text(name);
    int i;
    while ((i = pf_index_next(&file->places, hash, &probe)) >= 0 &&
           strcmp(file->list[i].name, name) != 0) {}
    return i;
}

/* The tensor saved for moment k of p, or NULL with a message. */
static const pf_tensor *saved_moment(const entry *p, int k, const names *file) {
    int at = find_named(file, p->moment_name[k]);
    if (at < 0 && file->former) at = pf_find_former(p->moment_name[k], find_named, file);
    if (at < 0) {
        pf_fail(PF_EFORMAT, "optimizer: '%s' is missing", p->moment_name[k]);
        return NULL;
    }
    const pf_tensor *saved = file->list[at].tensor;
    if (saved->dtype != PF_F32 || !pf_same_shape(saved, p->moment[k])) {
        pf_fail(PF_EFORMAT, "optimizer: '%s' is %s %s, must be %s f32", p->moment_name[k],
                pf_shape_of(saved), pf_dtype_name(saved->dtype), pf_shape_of(p->moment[k]));
        return NULL;
    }
    return saved;
}

/* Looks at everything before it changes anything. */
static int restore_moments(pf_optimizer *o, const names *file) {
    int moments = o->rule->n_moments;
    for (int i = 0; i < o->n * moments; i++) {
        if (!saved_moment(&o->entry[i / moments], i % moments, file)) return PF_EFORMAT;
    }
    for (int i = 0; i < o->n * moments; i++) {
        const entry *p = &o->entry[i / moments];
        PF_TRY(pf_tensor_copy(p->moment[i % moments], saved_moment(p, i % moments, file)));
    }
    return PF_OK;
}

int pf_optimizer_restore(pf_optimizer *o, const pf_named *list, int n, bool former,
                         const pf_config *config) {
    const pf_config *type = pf_config_get(config, "type"), *steps = pf_config_get(config, "steps");
    const char *name = type ? pf_config_string(type) : NULL;
    if (!name || strcmp(name, o->rule->name) != 0) {
        return pf_fail(PF_EFORMAT, "optimizer: the file is of '%s', this one is '%s'",
                       name ? name : "?", o->rule->name);
    }
    double count = steps ? pf_config_number(steps) : -1;
    if (!(count >= 0 && count <= 9007199254740992.0 && count == floor(count))) {
        return pf_fail(PF_EFORMAT, "optimizer: 'steps' is missing or no count");
    }
    names file = {.list = list, .former = former, .places.heap = o->heap};
    int status = index_names(&file, n);
    if (status >= 0) status = restore_moments(o, &file);
    pf_index_close(&file.places);
    if (status < 0) return status;
    o->steps = (uint64_t)count;
    return PF_OK;
}
