/*
 * optim.c - optimizers: their parameters and moments, and a step. Which update it is says the rule
 * alone (rule.h), with which options the parameter's group (groups.c). Weight decay shrinks
 * matrices only, never norms and biases. A step changes either every parameter that has a gradient,
 * or nothing: whatever can fail, on any rank, is known before a number moves. Averages, redraws and
 * tilts follow it.
 *
 * What is trained is fixed when an optimizer is made: a parameter that does not require a gradient
 * then has neither moments nor an average.
 */
#include <float.h>
#include <math.h>
#include <string.h>

#include "lanes.h"
#include "shard.h"

enum { GRAIN = 1 << 14 }; /* numbers a task: the same for any number of threads */

/* ---- making ---- */

/* Zeros like the parameter, or as many as are this rank's; files call them "<param>.<word>". */
static int keep(pf_optimizer *o, pf_entry *p, const char *word) {
    pf_kept *k = &p->kept[p->n_kept++];
    const int64_t *shape = p->dealt ? &p->own : p->param->shape;
    k->name = pf_heap_joined(o->heap, p->name, word);
    if (!k->name) return PF_ENOMEM;
    PF_TRY(
        pf_tensor_make_lasting(&k->tensor, o->heap, PF_F32, p->dealt ? 1 : p->param->rank, shape));
    return pf_tensor_fill(k->tensor, 0);
}

/* How the rule takes an entry, by its group's options. */
static void place_entry(const pf_optimizer *o, pf_entry *p) {
    const pf_optimizer_rule *rule = o->rule;
    p->group = pf_group_of(o, p->name);
    p->whole = rule->takes_whole && p->param->rank == 2 &&
               rule->takes_whole(o->group[p->group].options, p->linear);
    p->moments = p->whole ? rule->whole_moments : rule->n_moments;
}

/* What is kept of it. */
static int fill_entry(pf_optimizer *o, pf_entry *p) {
    for (int i = 0; i < p->moments; i++) PF_TRY(keep(o, p, o->rule->moment[i]));
    if (o->ema == 0) return PF_OK;
    PF_TRY(keep(o, p, "ema"));
    memcpy(pf_f32(p->kept[p->moments].tensor), pf_f32(p->param) + p->own_first,
           (size_t)p->own * sizeof(float));
    return PF_OK;
}

/* In walk order. */
static int list_entries(pf_optimizer *o) {
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
        if (!trained || !tensor->requires_grad) continue;
        if (!pf_tensor_contiguous(tensor) || tensor->dtype != PF_F32) {
            return pf_fail(PF_EINVAL, "optimizer: parameter '%s' must be contiguous f32", name);
        }
        if (pf_tensor_read_only(tensor)) {
            return pf_fail(PF_ESTATE,
                           "optimizer: parameter '%s' lies in memory that is only read: load the "
                           "model without mapping it, or freeze what is not to be trained",
                           name);
        }
        pf_entry *p = &o->entry[o->n++];
        p->param = pf_tensor_retain(tensor);
        p->name = pf_heap_text(o->heap, name);
        if (!p->name) return PF_ENOMEM;
    }
    return o->n ? PF_OK
                : pf_fail(PF_EINVAL, "optimizer: the module has no parameters%s",
                          count ? " that require a gradient" : "");
}

/* Work space for whole matrices, here, so that a step can't fail for lack of it halfway. */
static int make_room(pf_optimizer *o) {
    int64_t most = 0;
    for (int i = 0; i < o->n; i++) {
        const int64_t *shape = o->entry[i].param->shape;
        if (o->entry[i].whole && o->entry[i].own)
            most = pf_max(most, o->rule->whole_room(shape[0], shape[1]));
    }
    if (most == 0) return PF_OK;
    o->room_bytes = (size_t)most * sizeof *o->room;
    o->room = pf_heap_alloc(o->heap, o->room_bytes);
    return o->room ? PF_OK : PF_ENOMEM;
}

static int fill(pf_optimizer *o, pf_engine *engine) {
    PF_TRY(list_entries(o));
    PF_TRY(pf_groups_make(o));
    PF_TRY(pf_groups_find_kinds(o));
    for (int i = 0; i < o->n; i++) place_entry(o, &o->entry[i]);
    PF_TRY(pf_groups_choose_rows(o));
    PF_TRY(pf_shard_make(o, engine));
    for (int i = 0; i < o->n; i++) {
        PF_TRY(pf_check_cancel(engine));
        PF_TRY(fill_entry(o, &o->entry[i]));
    }
    return make_room(o);
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
    o->options = options ? pf_config_copy_in(o->heap, options) : pf_config_new_in(o->heap, PF_MAP);
    o->ema = pf_rule_shared(options, "ema");
    int status = o->options ? fill(o, engine) : pf_fail(PF_ENOMEM, "optimizer: no memory");
    if (status < 0) {
        pf_optimizer_close(&o);
        return status;
    }
    *optimizer = o;
    return PF_OK;
}

static void close_entry(pf_heap *heap, pf_entry *p) {
    for (int i = 0; i < p->n_kept; i++) {
        pf_tensor_release(&p->kept[i].tensor);
        pf_heap_text_free(heap, p->kept[i].name);
    }
    pf_tensor_release(&p->param);
    pf_heap_text_free(heap, p->name);
}

void pf_optimizer_close(pf_optimizer **optimizer) {
    if (!optimizer || !*optimizer) return;
    pf_optimizer *o = *optimizer;
    pf_heap *heap = o->heap;
    *optimizer = NULL;
    pf_average_leave(o);
    pf_lanes_close(o);
    pf_shard_close(o);
    if (o->entry) {
        for (int i = 0; i < o->n; i++) close_entry(heap, &o->entry[i]);
        pf_heap_free(heap, o->entry, (size_t)o->capacity * sizeof *o->entry);
    }
    pf_groups_free(o);
    if (o->room) pf_heap_free(heap, o->room, o->room_bytes);
    pf_module_release(&o->module);
    pf_config_free(o->options);
    pf_heap_free(heap, o, sizeof *o);
    pf_heap_release(heap);
}

/* ---- a step ---- */

/* The update of one parameter, which update_range cuts ranges of. */
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

static double option(const pf_optimizer *o, const pf_group *g, const char *name) {
    return pf_rule_option(o->rule, g->options, name);
}

/* What is the same for all parameters of a group in this step. */
static void begin_groups(pf_optimizer *o, const pf_engine *e, double lr, double gscale) {
    for (int i = 0; i < 2 * o->n_groups; i++) {
        pf_group *g = &o->group[i];
        g->update = (pf_update){.kern = e->kern,
                                .lr = (float)(lr * g->lr_scale),
                                .gscale = (float)gscale,
                                .room = o->room};
        o->rule->begin(g->options, o->steps + 1, g->update.c);
    }
}

/* Rows of the i-th matrix of a parameter that is taken whole; 0: there is none. */
static int64_t part_rows(const pf_entry *p, int i) {
    return p->part[0] > 0 ? p->part[i] : i == 0 ? p->param->shape[0] : 0;
}

/* The matrices of a parameter, one after the other. */
static int update_whole(const pf_optimizer *o, pf_engine *e, const pf_update *all,
                        const pf_entry *p) {
    int64_t first = 0, cols = p->param->shape[1];
    for (int i = 0; i < PF_PARTS; i++) {
        int64_t rows = part_rows(p, i);
        pf_update u = *all;
        if (rows == 0) continue;
        u.n = rows * cols;
        u.p += first * cols, u.g += first * cols;
        for (int k = 0; k < p->moments; k++) u.moment[k] += first * cols;
        PF_TRY(o->rule->whole(&u, e, rows, cols));
        first += rows;
    }
    return PF_OK;
}

static int run_update(const pf_optimizer *o, pf_engine *e, job *j, const pf_entry *p,
                      const pf_touched *touched) {
    const pf_update *u = &j->whole;
    if (p->whole) return update_whole(o, e, u, p);
    if (!p->touched) return pf_parallel_range(e, u->n, GRAIN, update_range, j);
    return pf_touched_update(touched, e, o->rule, u, u->n / pf_max(p->param->shape[0], 1));
}

static int update_entry(const pf_optimizer *o, pf_engine *e, const pf_entry *p,
                        const pf_tensor *grad, const pf_touched *touched) {
    const pf_group *group = &o->group[p->group];
    job j = {o->rule, group->update};
    pf_update *u = &j.whole;
    if (p->own == 0) return PF_OK;
    u->n = p->own;
    u->p = pf_f32(p->param) + p->own_first, u->g = pf_f32(grad) + p->own_first;
    for (int i = 0; i < p->moments; i++) u->moment[i] = pf_f32(p->kept[i].tensor);
    u->decay = p->param->rank >= 2 ? (float)option(o, group, "decay") : 0;
    return run_update(o, e, &j, p, touched);
}

/* The n gradients of a step, contiguous and retained, and the entries that they are of. A
 * parameter that took no part in the loss has none, and stays as it is, its moments too. */
typedef struct {
    pf_tensor **list;    /* with room for every entry, and the others behind it */
    pf_touched *touched; /* of those from n_all on, whose touched rows alone move */
    int *owner;
    int n, n_all;
} gradients;

static size_t gradients_bytes(const pf_optimizer *o) {
    return (size_t)o->n * (sizeof(pf_tensor *) + sizeof(pf_touched) + sizeof(int));
}

/* Entries stand in walk order, and so does whatever has begun to require a gradient since. */
static int check_known(const pf_optimizer *o) {
    int n = pf_module_tensor_count(o->module), at = 0;
    for (int i = 0; i < n; i++) {
        const char *name;
        pf_tensor *tensor;
        bool trained;
        PF_TRY(pf_module_tensor_at(o->module, i, &name, &tensor, &trained));
        if (!trained || !tensor->requires_grad) continue;
        while (at < o->n && o->entry[at].param != tensor) at++;
        if (at < o->n) continue;
        return pf_fail(PF_ESTATE,
                       "optimizer: '%s' requires a gradient and did not when the optimizer was "
                       "made; make a new one",
                       name);
    }
    return n < 0 ? n : PF_OK;
}

static int gather_some(const pf_optimizer *o, pf_engine *e, gradients *g, bool touched) {
    for (int i = 0; i < o->n; i++) {
        pf_tensor *p = o->entry[i].param;
        if (o->entry[i].touched != touched || !p->grad || p->grad_stale) continue;
        PF_TRY(pf_tensor_compact(&g->list[g->n], e, p->grad));
        g->owner[g->n++] = i;
    }
    return PF_OK;
}

static int gather(const pf_optimizer *o, pf_engine *e, gradients *g) {
    PF_TRY(pf_average_check(o, "step"));
    PF_TRY(check_known(o));
    g->list = pf_heap_zalloc(e->heap, gradients_bytes(o));
    if (!g->list) return PF_ENOMEM;
    g->touched = (pf_touched *)(g->list + o->n);
    g->owner = (int *)(g->touched + o->n);
    PF_TRY(gather_some(o, e, g, false));
    g->n_all = g->n;
    return gather_some(o, e, g, true);
}

static void let_go(const pf_optimizer *o, pf_engine *e, gradients *g) {
    if (!g->list) return;
    for (int i = 0; i < g->n; i++) {
        pf_tensor_release(&g->list[i]);
        pf_tensor_release(&g->touched[i].rows);
    }
    pf_heap_free(e->heap, g->list, gradients_bytes(o));
}

/* The averages of all parameters: of one without a gradient it goes on towards where it stands. */
static int update_all(const pf_optimizer *o, pf_engine *e, const gradients *g) {
    for (int i = 0; i < g->n; i++) {
        pf_tensor_touch(o->entry[g->owner[i]].param, "a step of the optimizer");
        PF_TRY(update_entry(o, e, &o->entry[g->owner[i]], g->list[i], &g->touched[i]));
    }
    for (int i = 0; i < o->n && o->ema > 0; i++)
        PF_TRY(pf_average_move(o, e, &o->entry[i], o->steps + 1));
    return PF_OK;
}

/* The touched rows, and their squares. */
static int find_touched(const pf_optimizer *o, pf_engine *e, const gradients *g, double *more,
                        int *wrong) {
    for (int i = g->n_all; i < g->n; i++) {
        const pf_entry *p = &o->entry[g->owner[i]];
        PF_TRY(pf_touched_find(&g->touched[i], e, p->param, g->list[i]));
        if (*wrong < 0 && !isfinite(g->touched[i].square)) *wrong = i;
        *more += g->touched[i].square;
    }
    return PF_OK;
}

/* The norm of all; *bad: the first gradient that is not finite, or -1. A verb. */
static int measure(const pf_optimizer *o, pf_engine *e, int status, const gradients *g,
                   double *norm, int *bad) {
    double more = 0;
    int wrong = -1;
    if (status >= 0) status = find_touched(o, e, g, &more, &wrong);
    PF_TRY(pf_shard_norm(o, e, status, g->list, g->owner, g->n_all, more, norm, bad));
    if (*bad < 0) *bad = wrong;
    return PF_OK;
}

/* A mean square that once is infinite stays so, and its parameter where it is. */
static int check_squares(const pf_optimizer *o, double norm) {
    if (!o->rule->squares || norm * norm <= (double)FLT_MAX) return PF_OK;
    return pf_fail(PF_ENUMERIC,
                   "optimizer: the gradient's norm is %.3g, whose square is beyond float32 (after "
                   "%llu steps); nothing was changed; clip = 1 takes it",
                   norm, (unsigned long long)o->steps);
}

static double whole_products(const pf_optimizer *o, const pf_entry *p) {
    double products = 0;
    for (int i = 0; p->whole && p->own && i < PF_PARTS; i++)
        products += o->rule->whole_products(o->group[p->group].options, part_rows(p, i),
                                            p->param->shape[1]);
    return products;
}

/* Weights, moments and gradients, read and written, and products: before anything moves. */
static int charge(const pf_optimizer *o, pf_engine *e, const gradients *g) {
    double n = 0, products = 0;
    for (int i = 0; i < g->n; i++) {
        n += (double)o->entry[g->owner[i]].own;
        products += whole_products(o, &o->entry[g->owner[i]]);
    }
    return pf_charge(e, PF_WORK_OP + pf_work_of(8 * n, products));
}

/* All memory that the update takes, and the way of its results to the others. */
static int make_ready(const pf_optimizer *o, pf_engine *e, const gradients *g) {
    for (int k = 0; k < g->n; k++) {
        const pf_entry *p = &o->entry[g->owner[k]];
        for (int i = 0; p->whole && p->own && i < PF_PARTS; i++)
            if (part_rows(p, i))
                PF_TRY(o->rule->whole_ready(e, part_rows(p, i), p->param->shape[1]));
    }
    return pf_shard_ready(o, e);
}

/* The norm first, so that nothing moves before all gradients are known to be finite. gscale: what
 * they are multiplied by. */
static int weigh(const pf_optimizer *o, pf_engine *e, double clip, gradients *g, double *norm,
                 double *gscale) {
    double total = 0;
    int bad, status = gather(o, e, g);
    PF_TRY(measure(o, e, status, g, &total, &bad));
    if (norm) *norm = total;
    if (bad >= 0) {
        PF_HOLDS(g->owner);
        return pf_fail(PF_ENUMERIC,
                       "optimizer: the gradient of '%s' is not finite (after %llu steps); "
                       "nothing was changed",
                       o->entry[g->owner[bad]].name, (unsigned long long)o->steps);
    }
    *gscale = clip > 0 && total > clip ? clip / total : 1;
    PF_TRY(check_squares(o, *gscale * total));
    PF_TRY(charge(o, e, g));
    return make_ready(o, e, g);
}

static void clear_all(const pf_optimizer *o) {
    for (int i = 0; i < o->n; i++) pf_tensor_clear_grad(o->entry[i].param);
}

/* A sum over lanes is no lane's, and would be added again. */
static void forget_sum(const pf_optimizer *o) {
    clear_all(o);
    pf_notes_clear(o->module);
}

static int apply(pf_optimizer *o, pf_engine *e, double lr, double gscale, const gradients *g) {
    begin_groups(o, e, lr, gscale);
    e->shield++; /* until the end of the step */
    int status = update_all(o, e, g);
    if (status < 0) return pf_comm_break(e->comm, status); /* a child of a fork: it is no rank */
    PF_TRY(pf_shard_spread(o, e, g->owner, g->n));
    o->steps++;
    clear_all(o);
    return PF_OK;
}

/* Once weights move a cancel waits for the end: a run that is saved and resumed halfway would not
 * redraw what was due.
 *
 * With several ranks every one comes here, with the same lr and clip. Their lanes become one
 * gradient, each number of it at its owner's (shard.h); which of them can't go on is known before a
 * weight moves, and from there to the end of the update only what ends the talk can fail. What
 * fails in what follows the step, all know at the end. */
int pf_optimizer_step(pf_optimizer *optimizer, pf_engine *engine, double lr, double clip,
                      double *norm) {
    PF_OPEN(engine);
    PF_NEED(optimizer);
    pf_optimizer *o = optimizer;
    const int shield = engine->shield;
    gradients g = {0};
    double gscale = 1;
    o->drawn = 0;
    if (lr < 0) lr = pf_rule_option(o->rule, o->options, "lr");
    pf_shard_forget(o);
    int status = pf_shard_check(o, engine);
    if (status >= 0 && (!isfinite(lr) || !isfinite(clip))) {
        status =
            pf_fail(PF_EINVAL, "optimizer: lr is %g and clip %g; both must be finite", lr, clip);
    }
    if (status >= 0) status = pf_average_check(o, "step");
    status = pf_lanes_join(o, engine, status, lr, clip);
    const bool joined = status >= 0 && (o->lanes || engine->comm);
    if (status >= 0) status = weigh(o, engine, clip, &g, norm, &gscale);
    status = pf_comm_settle(engine, status);
    bool ready = status >= 0;
    if (ready) status = apply(o, engine, lr, gscale, &g);
    if (!ready && joined) forget_sum(o);
    let_go(o, engine, &g);
    if (status >= 0) status = pf_module_follow(engine, o->module, o->steps, &o->drawn);
    engine->shield = shield;
    return ready ? pf_comm_settle(engine, status) : status;
}

int pf_optimizer_give_up(pf_optimizer *optimizer, pf_engine *engine, int status) {
    PF_OPEN(engine);
    PF_NEED(optimizer);
    if (status >= 0)
        status = pf_fail(PF_EINVAL,
                         "optimizer: a step is given up with status %d, not a "
                         "negative one",
                         status);
    return pf_lanes_join(optimizer, engine, status, 0, 0);
}

int pf_optimizer_drawn(const pf_optimizer *optimizer) { return optimizer ? optimizer->drawn : 0; }

uint64_t pf_optimizer_steps(const pf_optimizer *optimizer) {
    return optimizer ? optimizer->steps : 0;
}
