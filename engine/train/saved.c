/*
 * saved.c - what a checkpoint holds of an optimizer, and back from there. It holds the tensors of
 * the same parameters, by name, or it is refused whole: one that was frozen then, or is now, has
 * none. `tables` = "touched" says that it moved its tables in touched rows; one without went over
 * all rows, and goes on so, to the same bits. Where parameters are dealt to ranks (shard.h) rank 0
 * gets all of it before, and each reads its own part of the file, which knows no ranks.
 */
#include <math.h>
#include <string.h>

#include "shard.h"

/* ---- to rank 0 ---- */

static int make_whole(const pf_optimizer *o) {
    for (int i = 0; i < o->n; i++) {
        const pf_entry *p = &o->entry[i];
        for (int k = 0; k < p->n_kept && p->dealt; k++)
            PF_TRY(pf_tensor_make_lasting(&o->shard->whole[i * PF_KEPT_MAX + k], o->heap, PF_F32,
                                          p->param->rank, p->param->shape));
    }
    return PF_OK;
}

/* own: one a stretch. The k-th kept tensors of all entries that have so many. */
static int collect(const pf_optimizer *o, pf_engine *e, int k, const float **own) {
    const struct pf_shard *s = o->shard;
    pf_deal *d = s->deal;
    for (int64_t i = d->from[d->rank]; i < d->from[d->rank + 1]; i++) {
        const pf_entry *p = &o->entry[d->stretch[i].array];
        own[i - d->from[d->rank]] = k < p->n_kept ? pf_f32(p->kept[k].tensor) : NULL;
    }
    for (int i = 0; i < o->n; i++) {
        const pf_tensor *whole = s->whole[i * PF_KEPT_MAX + k];
        s->array[i] = whole ? pf_f32(whole) : NULL;
    }
    return pf_deal_collect(d, e, own, s->array);
}

int pf_optimizer_gather(const pf_optimizer *o, pf_engine *e) {
    struct pf_shard *s = o->shard;
    int status = pf_shard_check(o, e);
    if (status >= 0) status = pf_average_check(o, "checkpoint of the optimizer");
    pf_shard_forget(o);
    size_t bytes = (size_t)(s ? s->deal->n : 0) * sizeof(float *);
    const float **own = s ? pf_heap_alloc(e->heap, bytes) : NULL;
    if (status >= 0 && s && !own) status = PF_ENOMEM;
    if (status >= 0 && s && s->deal->rank == 0) status = make_whole(o);
    status = pf_comm_agree(e, status);
    for (int k = 0; k < PF_KEPT_MAX && status >= 0 && s; k++) status = collect(o, e, k, own);
    if (own) pf_heap_free(e->heap, own, bytes);
    if (s) s->gathered = status >= 0 && s->deal->rank == 0;
    if (status < 0) pf_shard_forget(o);
    return status;
}

void pf_optimizer_let_go(const pf_optimizer *o) { pf_shard_forget(o); }

static int check_gathered(const pf_optimizer *o) {
    if (!o->shard || o->shard->gathered) return PF_OK;
    return pf_fail(PF_ESTATE, "optimizer: each rank has a part of what is saved; all of them save "
                              "together, and rank 0 writes");
}

/* ---- to a file ---- */

static int count_kept(const pf_optimizer *o) {
    int n = 0;
    for (int i = 0; i < o->n; i++) n += o->entry[i].n_kept;
    return n;
}

/* Entry by entry. */
int pf_optimizer_tensors(const pf_optimizer *o, pf_named **list, int *n) {
    int count = count_kept(o), at = 0;
    PF_TRY(pf_average_check(o, "checkpoint of the optimizer"));
    PF_TRY(check_gathered(o));
    pf_named *all = pf_heap_alloc(o->heap, (size_t)count * sizeof *all);
    if (!all) return PF_ENOMEM;
    for (int i = 0; i < o->n; i++) {
        for (int k = 0; k < o->entry[i].n_kept; k++) {
            const pf_kept *kept = &o->entry[i].kept[k];
            pf_tensor *whole = o->entry[i].dealt ? o->shard->whole[i * PF_KEPT_MAX + k] : NULL;
            all[at++] = (pf_named){kept->name, whole ? whole : kept->tensor};
        }
    }
    *list = all;
    *n = count;
    return PF_OK;
}

int pf_optimizer_config(const pf_optimizer *o, pf_config **config) {
    pf_config *c = pf_config_new_in(o->heap, PF_MAP);
    pf_config *options = pf_config_copy_in(o->heap, o->options);
    *config = NULL;
    int status = c && options ? PF_OK : pf_fail(PF_ENOMEM, "optimizer: no memory");
    if (status >= 0) status = pf_config_set_string(c, "type", o->rule->name);
    if (status >= 0) status = pf_config_set_number(c, "steps", (double)o->steps);
    if (status >= 0 && !o->all_rows) status = pf_config_set_string(c, "tables", "touched");
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

/* ---- from a file ---- */

/* Where a file has the k-th that is kept of `p`. */
static int find_saved(const pf_entry *p, int k, const pf_saved *file, bool former) {
    const char *name = p->kept[k].name;
    const int64_t *shape;
    pf_dtype dtype;
    int rank, at = file->find(file->context, name);
    if (at < 0 && former) at = pf_find_former(name, file->find, file->context);
    if (at < 0)
        return pf_fail(PF_EFORMAT,
                       "optimizer: '%s' is missing: that parameter was not trained, or without "
                       "that option, when this was saved",
                       name);
    PF_TRY(file->about(file->context, at, &dtype, &rank, &shape));
    bool same = dtype == PF_F32 && rank == p->param->rank;
    for (int i = 0; same && i < rank; i++) same = shape[i] == p->param->shape[i];
    if (same) return at;
    return pf_fail(PF_EFORMAT, "optimizer: '%s' is %s %s, must be %s f32", name,
                   pf_shape_text(rank, shape), pf_dtype_name(dtype), pf_shape_of(p->param));
}

static bool is_kept(const pf_optimizer *o, const char *name) {
    for (int i = 0; i < o->n; i++)
        for (int k = 0; k < o->entry[i].n_kept; k++)
            if (strcmp(o->entry[i].kept[k].name, name) == 0) return true;
    return false;
}

/* All that is kept has been found, each in a place of its own. */
static int check_no_more(const pf_optimizer *o, const pf_saved *file) {
    int more = file->n - count_kept(o);
    if (more == 0) return PF_OK;
    for (int i = 0; i < file->n; i++) {
        const char *name = file->name(file->context, i);
        if (is_kept(o, name)) continue;
        return pf_fail(PF_EFORMAT,
                       "optimizer: %d tensors of parameters that are not trained here (frozen "
                       "since?), or of another option: the first is '%s'",
                       more, name);
    }
    return PF_OK;
}

static int check_saved(const pf_optimizer *o, const pf_saved *file, bool former) {
    for (int i = 0; i < o->n; i++)
        for (int k = 0; k < o->entry[i].n_kept; k++)
            PF_TRY(find_saved(&o->entry[i], k, file, former));
    return check_no_more(o, file);
}

/* What is kept on this rank, of which alone anything is read: where each is to stay, or all of it
 * in a row. */
static int read_own(const pf_optimizer *o, const pf_saved *file, bool former, float *aside) {
    for (int i = 0; i < o->n; i++) {
        const pf_entry *p = &o->entry[i];
        for (int k = 0; k < p->n_kept; k++) {
            const int at = find_saved(p, k, file, former);
            float *to = aside ? aside : pf_f32(p->kept[k].tensor);
            PF_TRY(at);
            PF_TRY(file->read(file->context, at, p->own_first, p->own, to));
            if (aside) aside += p->own;
        }
    }
    return PF_OK;
}

static void put_own(const pf_optimizer *o, const float *aside) {
    for (int i = 0; i < o->n; i++) {
        const pf_entry *p = &o->entry[i];
        for (int k = 0; k < p->n_kept; k++, aside += p->own)
            memcpy(pf_f32(p->kept[k].tensor), aside, (size_t)p->own * sizeof *aside);
    }
}

/* Reads everything before it changes anything. */
static int restore_aside(const pf_optimizer *o, const pf_saved *file, bool former) {
    int64_t own = 0;
    for (int i = 0; i < o->n; i++) own += o->entry[i].n_kept * o->entry[i].own;
    const size_t bytes = (size_t)own * sizeof(float);
    float *aside = pf_heap_alloc(o->heap, bytes);
    if (!aside) return PF_ENOMEM;
    int status = read_own(o, file, former, aside);
    if (status >= 0) put_own(o, aside);
    pf_heap_free(o->heap, aside, bytes);
    return status;
}

int pf_optimizer_restore(pf_optimizer *o, const pf_saved *file, bool former, bool fresh,
                         const pf_config *config) {
    const pf_config *type = pf_config_get(config, "type"), *steps = pf_config_get(config, "steps");
    PF_TRY(pf_average_check(o, "load"));
    pf_shard_forget(o);
    const char *name = type ? pf_config_string(type) : NULL;
    if (!name || strcmp(name, o->rule->name) != 0) {
        return pf_fail(PF_EFORMAT, "optimizer: the file is of '%s', this one is '%s'",
                       name ? name : "?", o->rule->name);
    }
    double count = steps ? pf_config_number(steps) : -1;
    if (!(count >= 0 && count <= 9007199254740992.0 && count == floor(count))) {
        return pf_fail(PF_EFORMAT, "optimizer: 'steps' is missing or no count");
    }
    PF_TRY(check_saved(o, file, former));
    PF_TRY(fresh ? read_own(o, file, former, NULL) : restore_aside(o, file, former));
    o->steps = (uint64_t)count;
    o->all_rows = !pf_config_get(config, "tables");
    return pf_groups_choose_rows(o);
}
