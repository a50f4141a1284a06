/*
 * saved.c - what a checkpoint holds of an optimizer, and back from there. It holds the tensors of
 * the same parameters, by name, or it is refused whole: one that was frozen then, or is now, has
 * none. `tables` = "touched" says that it moved its tables in touched rows; one without went over
 * all rows, and goes on so, to the same bits.
 */
#include <math.h>
#include <string.h>

#include "optimizer.h"

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
    pf_named *all = pf_heap_alloc(o->heap, (size_t)count * sizeof *all);
    if (!all) return PF_ENOMEM;
    for (int i = 0; i < o->n; i++) {
        for (int k = 0; k < o->entry[i].n_kept; k++) {
            const pf_kept *kept = &o->entry[i].kept[k];
            all[at++] = (pf_named){kept->name, kept->tensor};
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

/* The tensor saved for `kept`, or NULL with a message. */
static const pf_tensor *saved_tensor(const pf_kept *kept, const names *file) {
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
    if (saved->dtype != PF_F32 || !pf_same_shape(saved, kept->tensor)) {
        pf_fail(PF_EFORMAT, "optimizer: '%s' is %s %s, must be %s f32", kept->name,
                pf_shape_of(saved), pf_dtype_name(saved->dtype), pf_shape_of(kept->tensor));
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

/* Looks at everything before it changes anything. */
static int restore_tensors(pf_optimizer *o, const names *file) {
    for (int i = 0; i < o->n; i++) {
        for (int k = 0; k < o->entry[i].n_kept; k++)
            if (!saved_tensor(&o->entry[i].kept[k], file)) return PF_EFORMAT;
    }
    PF_TRY(check_no_more(o, file));
    for (int i = 0; i < o->n; i++) {
        for (int k = 0; k < o->entry[i].n_kept; k++) {
            const pf_kept *kept = &o->entry[i].kept[k];
            PF_TRY(pf_tensor_copy(kept->tensor, saved_tensor(kept, file)));
        }
    }
    return PF_OK;
}

int pf_optimizer_restore(pf_optimizer *o, const pf_named *list, int n, bool former,
                         const pf_config *config) {
    const pf_config *type = pf_config_get(config, "type"), *steps = pf_config_get(config, "steps");
    PF_TRY(pf_average_check(o, "load"));
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
