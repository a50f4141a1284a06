/*
 * saved.c - what a checkpoint holds of an optimizer, and back from there. It holds the tensors of
 * the same parameters, by name, or it is refused whole: one that was frozen then, or is now, has
 * none. `tables` = "touched" says that it moved its tables in touched rows; one without went over
 * all rows, and goes on so, to the same bits. Where parameters are dealt to ranks (shard.h) rank 0
 * gets all of it before, and each takes its own part of what it reads: a file knows no ranks.
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

/* What a file holds, by name. */
typedef struct {
    const pf_named *list;
    int n;
    bool former; /* pf_tree_has_former */
    pf_index places;
} names;

static int index_names(names *file) {
    for (int i = 0; i < file->n; i++)
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

/* The tensor saved for the k-th that is kept of `p`, or NULL with a message. */
static const pf_tensor *saved_tensor(const pf_entry *p, int k, const names *file) {
    const pf_kept *kept = &p->kept[k];
    int at = find_named(file, kept->name);
    if (at < 0 && file->former) at = pf_find_former(kept->name, find_named, file);
    if (at < 0) {
        pf_fail(PF_EFORMAT,
                "optimizer: '%s' is missing: that parameter was not trained, or without that "
                "option, when this was saved",
                kept->name);
        return NULL;
    }
    const pf_tensor *saved = file->list[at].tensor;
    if (saved->dtype != PF_F32 || !pf_same_shape(saved, p->param)) {
        pf_fail(PF_EFORMAT, "optimizer: '%s' is %s %s, must be %s f32", kept->name,
                pf_shape_of(saved), pf_dtype_name(saved->dtype), pf_shape_of(p->param));
        return NULL;
    }
    return saved;
}

static bool is_kept(const pf_optimizer *o, const char *name) {
    for (int i = 0; i < o->n; i++)
        for (int k = 0; k < o->entry[i].n_kept; k++)
            if (strcmp(o->entry[i].kept[k].name, name) == 0) return true;
    return false;
}

/* All that is kept has been found, each in a place of its own. */
static int check_no_more(const pf_optimizer *o, const names *file) {
    int more = file->n - count_kept(o);
    if (more == 0) return PF_OK;
    for (int i = 0; i < file->n; i++) {
        if (is_kept(o, file->list[i].name)) continue;
        return pf_fail(PF_EFORMAT,
                       "optimizer: %d tensors of parameters that are not trained here (frozen "
                       "since?), or of another option: the first is '%s'",
                       more, file->list[i].name);
    }
    return PF_OK;
}

/* A rank takes its own numbers of it. */
static int take_own(const pf_entry *p, int k, const pf_tensor *saved) {
    pf_tensor *to = p->kept[k].tensor;
    if (!p->dealt) return pf_tensor_copy(to, saved);
    memcpy(pf_f32(to), pf_f32(saved) + p->own_first, (size_t)p->own * sizeof(float));
    return PF_OK;
}

/* Looks at everything before it changes anything. */
static int restore_tensors(pf_optimizer *o, const names *file) {
    for (int i = 0; i < o->n; i++) {
        for (int k = 0; k < o->entry[i].n_kept; k++)
            if (!saved_tensor(&o->entry[i], k, file)) return PF_EFORMAT;
    }
    PF_TRY(check_no_more(o, file));
    for (int i = 0; i < o->n; i++) {
        for (int k = 0; k < o->entry[i].n_kept; k++) {
            PF_TRY(take_own(&o->entry[i], k, saved_tensor(&o->entry[i], k, file)));
        }
    }
    return PF_OK;
}

int pf_optimizer_restore(pf_optimizer *o, const pf_named *list, int n, bool former,
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
    names file = {.list = list, .n = n, .former = former, .places.heap = o->heap};
    int status = index_names(&file);
    if (status >= 0) status = restore_tensors(o, &file);
    pf_index_close(&file.places);
    if (status < 0) return status;
    o->steps = (uint64_t)count;
    o->all_rows = !pf_config_get(config, "tables");
    return pf_groups_choose_rows(o);
}
