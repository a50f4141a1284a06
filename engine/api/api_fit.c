/*
 * api_fit.c - see fit.h.
 */
#include "fit.h"

#include <string.h>

#define REPORTED 8 /* tensors that don't fit, named in one message */

/* What does not fit, in words; the first few of it. */
typedef struct {
    pf_text text;
    int n;
} misfit;

/* "; kind 'name' shape", and where the two sides differ also the model's. */
static void add_misfit(misfit *m, const char *kind, const char *name, const char *shape,
                       const char *wanted) {
    if (m->n++ >= REPORTED) return;
    pf_text_print(&m->text, "%s%s'", m->n > 1 ? "; " : "", kind);
    pf_text_put(&m->text, name, strlen(name));
    pf_text_print(&m->text, "' %s", shape);
    if (wanted) pf_text_print(&m->text, " in the file, %s in the model", wanted);
}

static int check_tensor(misfit *m, const pf_st_entry *entry, const pf_tensor *tensor) {
    pf_dtype dtype;
    PF_TRY(pf_st_dtype_loads_as(entry, &dtype));
    bool same = entry->rank == tensor->rank;
    for (int i = 0; same && i < entry->rank; i++) same = entry->shape[i] == tensor->shape[i];
    const char *shape = pf_shape_text(entry->rank, entry->shape);
    if (!same)
        add_misfit(m, "", entry->name, shape, pf_shape_of(tensor));
    else if (dtype != tensor->dtype) {
        add_misfit(m, "", entry->name, entry->dtype.name, pf_dtype_name(tensor->dtype));
    }
    return PF_OK;
}

static int find_entry(const void *file, const char *name) {
    return pf_safetensors_find(file, name);
}

/* to[j]: the tensor of the model that entry j of the file goes into, or lends to. former: it can
 * have a former name there. */
static int match(misfit *m, pf_safetensors *s, bool former, pf_module *module, pf_tensor **to) {
    int n = pf_module_tensor_count(module);
    for (int i = 0; i < n; i++) {
        const char *name;
        pf_tensor *tensor;
        bool learned;
        PF_TRY(pf_module_tensor_learned(module, i, &name, &tensor, &learned));
        int place = pf_safetensors_find(s, name);
        if (place < 0 && former) place = pf_find_former(name, find_entry, s);
        if (place < 0 || to[place]) {
            add_misfit(m, "missing: ", name, pf_shape_of(tensor), NULL);
            continue;
        }
        to[place] = tensor;
        PF_TRY(check_tensor(m, &s->entry[place], tensor));
        /* What isn't learned (projections, centroids) moves on by itself, and is small. */
        s->entry[place].lent = learned && pf_safetensors_lies(s, &s->entry[place]);
    }
    for (int j = 0; j < s->n; j++) {
        const pf_st_entry *entry = &s->entry[j];
        if (to[j]) continue;
        add_misfit(m, "unexpected: ", entry->name, pf_shape_text(entry->rank, entry->shape), NULL);
    }
    return n < 0 ? n : PF_OK;
}

static int check_fit(pf_engine *engine, pf_safetensors *s, bool former, pf_module *module,
                     pf_tensor **to) {
    misfit m = {.text.heap = engine->heap};
    int status = match(&m, s, former, module, to);
    if (status >= 0 && m.n > 0) {
        if (m.n > REPORTED) pf_text_print(&m.text, "; and %d more", m.n - REPORTED);
        status = pf_fail(PF_EFORMAT, "%s does not fit the model: %s", s->file.path,
                         m.text.failed ? "out of memory for the list" : m.text.data);
    }
    pf_text_close(&m.text);
    return status;
}

int pf_fit_model(pf_engine *engine, pf_safetensors *s, bool former, pf_module *module) {
    size_t bytes = (size_t)s->n * sizeof(pf_tensor *);
    pf_tensor **to = pf_heap_zalloc(engine->heap, bytes);
    if (!to) return PF_ENOMEM;
    int status = check_fit(engine, s, former, module, to);
    for (int j = 0; status >= 0 && j < s->n; j++)
        status = s->entry[j].lent ? PF_OK : pf_tensor_settle(to[j]);
    if (status >= 0) status = pf_safetensors_read(engine, s, to);
    pf_heap_free(engine->heap, to, bytes);
    return status;
}

void pf_aside_free(pf_aside *a, pf_engine *engine) {
    for (int j = 0; a->to && j < a->n; j++) pf_tensor_release(&a->fresh[j]);
    pf_heap_free(engine->heap, a->to, 2 * (size_t)a->n * sizeof *a->to);
}

int pf_aside_read(pf_aside *a, pf_engine *engine, pf_safetensors *s, bool former,
                  pf_module *module) {
    *a = (pf_aside){.n = s->n};
    a->to = pf_heap_zalloc(engine->heap, 2 * (size_t)s->n * sizeof *a->to);
    if (!a->to) return PF_ENOMEM;
    a->fresh = a->to + s->n;
    PF_TRY(check_fit(engine, s, former, module, a->to));
    for (int j = 0; j < s->n; j++) {
        const pf_tensor *to = a->to[j];
        PF_TRY(pf_tensor_make_lasting(&a->fresh[j], engine->heap, to->dtype, to->rank, to->shape));
    }
    return pf_safetensors_read(engine, s, a->fresh);
}

/* Tensors of one shape and dtype: nothing can fail. */
int pf_aside_put(const pf_aside *a) {
    for (int j = 0; j < a->n; j++) {
        PF_TRY(pf_tensor_copy(a->to[j], a->fresh[j]));
        pf_tensor_touch(a->to[j], "a load");
    }
    return PF_OK;
}

/* ---- moments ---- */

typedef struct {
    pf_safetensors s;
    pf_engine *engine;
} moments;

static const char *name_at(const void *file, int i) {
    return ((const moments *)file)->s.entry[i].name;
}

static int find_moment(const void *file, const char *name) {
    return pf_safetensors_find(&((const moments *)file)->s, name);
}

static int about_moment(const void *file, int i, pf_dtype *dtype, int *rank,
                        const int64_t **shape) {
    const pf_st_entry *entry = &((const moments *)file)->s.entry[i];
    *rank = entry->rank;
    *shape = entry->shape;
    return pf_st_dtype_loads_as(entry, dtype);
}

static int read_moment(void *file, int i, int64_t first, int64_t n, float *out) {
    moments *m = file;
    return pf_safetensors_read_part(m->engine, &m->s, i, first, n, out);
}

int pf_fit_moments(pf_engine *engine, const char *folder, bool former, pf_optimizer *optimizer,
                   bool fresh, const pf_config *config) {
    moments m = {.engine = engine};
    char *path;
    PF_TRY(pf_path(&path, engine, "%s/optimizer.safetensors", folder));
    int status = pf_safetensors_open(&m.s, engine, path, NULL);
    if (status >= 0) {
        const pf_saved file = {&m, m.s.n, name_at, find_moment, about_moment, read_moment};
        status = pf_optimizer_restore(optimizer, &file, former, fresh, config);
        pf_safetensors_close(&m.s);
    }
    pf_path_free(path);
    return status;
}
