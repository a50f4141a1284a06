/*
 * inputs.c - tensors that layers read beside x: named ones of the pass. Who reads which the rows
 * of the layers say, and layers of the host's for themselves.
 *
 * What must hold: a name that nobody reads is refused, so that no misspelt input is passed over in
 * silence; a layer that misses one says its name. What a parent says of a name goes before what its
 * children say: it may make for them what they require.
 */
#include <string.h>

#include "module.h"

/* ---- who reads what ---- */

typedef struct {
    pf_input_info list[PF_INPUTS];
    int n;
} reading;

static int place_of(const reading *r, const char *name) {
    for (int i = 0; i < r->n; i++) {
        if (strcmp(r->list[i].name, name) == 0) return i;
    }
    return -1;
}

static int gather(reading *r, const pf_module *m) {
    for (int i = 0; i < m->n_reads; i++) {
        if (place_of(r, m->reads[i].name) >= 0) continue;
        if (r->n == PF_INPUTS) {
            return pf_fail(PF_EINVAL, "%s: its layers read more than %d inputs", m->type->name,
                           PF_INPUTS);
        }
        r->list[r->n++] = m->reads[i];
    }
    for (int i = 0; i < m->n_child; i++) PF_TRY(gather(r, m->child[i].module));
    return PF_OK;
}

static int unknown(const reading *r, const pf_module *m, const char *name) {
    const char *names[PF_INPUTS];
    for (int i = 0; i < r->n; i++) names[i] = r->list[i].name;
    char told[PF_NAMES_TOLD];
    return pf_fail(PF_EINVAL,
                   "%s: no layer of it reads an input '%s'%s; a layer of the host's says in its "
                   "`inputs` what it reads",
                   m->type->name, name, pf_names_told(told, sizeof told, name, names, r->n));
}

int pf_inputs_check(const pf_module *m, const pf_pass *pass) {
    reading r = {.n = 0};
    if (pass->n_inputs == 0) return PF_OK;
    if (!pass->inputs || pass->n_inputs < 0 || pass->n_inputs > PF_INPUTS) {
        return pf_fail(PF_EINVAL, "%s: %d inputs are given, 0 to %d are possible", m->type->name,
                       pass->n_inputs, PF_INPUTS);
    }
    PF_TRY(gather(&r, m));
    for (int i = 0; i < pass->n_inputs; i++) {
        const pf_named *input = &pass->inputs[i];
        if (!input->name || !input->tensor) {
            return pf_fail(PF_EINVAL, "%s: input %s has no %s", m->type->name, pf_place(i),
                           input->name ? "tensor" : "name");
        }
        if (place_of(&r, input->name) < 0) return unknown(&r, m, input->name);
        for (int k = 0; k < i; k++) {
            if (strcmp(pass->inputs[k].name, input->name) != 0) continue;
            return pf_fail(PF_EINVAL, "%s: the input '%s' is given twice", m->type->name,
                           input->name);
        }
    }
    return PF_OK;
}

int pf_module_input_count(const pf_module *module) {
    reading r = {.n = 0};
    if (!module) return 0;
    PF_TRY(gather(&r, module));
    return r.n;
}

int pf_module_input_at(const pf_module *module, int index, const char **name, bool *required) {
    reading r = {.n = 0};
    PF_NEED(module, name);
    *name = NULL;
    PF_TRY(gather(&r, module));
    if (index < 0 || index >= r.n) {
        return pf_fail(PF_ENOTFOUND, "module: there is no input %s; it reads %d", pf_place(index),
                       r.n);
    }
    *name = r.list[index].name;
    if (required) *required = r.list[index].required;
    return PF_OK;
}

/* ---- layers of the host's ---- */

/* A pass has words of its own, and a batch of a script's its input and target. */
static bool is_taken(const char *name) {
#define KEY(name) #name,
    static const char *const taken[] = {"input", "target", "batch",
                                        PF_PASS_FIELDS(KEY, KEY, KEY, KEY, KEY, KEY)};
#undef KEY
    for (int i = 0; i < PF_COUNT(taken); i++) {
        if (strcmp(taken[i], name) == 0) return true;
    }
    return false;
}

/* "[name]" may be missing. */
static int add_read(pf_module *m, const char *text) {
    size_t n = strlen(text);
    bool may = n > 2 && text[0] == '[' && text[n - 1] == ']';
    if (may) text++, n -= 2;
    char *name = pf_heap_alloc(m->heap, n + 1);
    if (!name) return PF_ENOMEM;
    memcpy(name, text, n);
    name[n] = 0;
    ((pf_input_info *)m->reads)[m->n_reads++] = (pf_input_info){name, "", !may};
    if (!is_taken(name) && n > 0) return PF_OK;
    return pf_fail(PF_EINVAL, "%s: no input can be called '%s'; call it otherwise",
                   pf_option_text(m, "name"), name);
}

int pf_inputs_of_host(pf_module *m, const char *const *names) {
    int n = 0;
    while (names && n <= PF_INPUTS && names[n]) n++;
    if (n == 0) return PF_OK;
    if (n > PF_INPUTS) {
        return pf_fail(PF_EINVAL, "%s: a layer reads at most %d inputs", pf_option_text(m, "name"),
                       PF_INPUTS);
    }
    m->reads = pf_heap_zalloc(m->heap, PF_INPUTS * sizeof *m->reads);
    if (!m->reads) return PF_ENOMEM;
    for (int i = 0; i < n; i++) PF_TRY(add_read(m, names[i]));
    return PF_OK;
}

/* ---- in a run ---- */

pf_tensor *pf_run_input(const pf_run *run, const char *name) {
    for (int i = 0; i < run->pass->n_inputs; i++) {
        if (strcmp(run->pass->inputs[i].name, name) == 0) return run->pass->inputs[i].tensor;
    }
    return NULL;
}

int pf_pass_with(pf_pass *own, pf_named list[PF_INPUTS], const pf_pass *pass, const char *name,
                 pf_tensor *t) {
    int n = 0;
    *own = *pass;
    for (int i = 0; i < pass->n_inputs; i++) {
        if (strcmp(pass->inputs[i].name, name) != 0) list[n++] = pass->inputs[i];
    }
    if (t && n == PF_INPUTS) {
        return pf_fail(PF_EINVAL, "'%s' would be one input more than %d", name, PF_INPUTS);
    }
    if (t) list[n++] = (pf_named){name, t};
    own->inputs = list, own->n_inputs = n;
    return PF_OK;
}

/* A layer of the host's by the name that its script gave it. */
static const char *called(const pf_module *m) {
    return m->host.forward ? pf_option_text(m, "name") : m->type->name;
}

static const char *doc_of(const pf_module *m, const char *name) {
    for (int i = 0; i < m->n_reads; i++) {
        if (strcmp(m->reads[i].name, name) == 0) return m->reads[i].doc;
    }
    return "";
}

int pf_run_need(pf_tensor **t, const pf_module *m, const pf_run *run, const char *name) {
    *t = pf_run_input(run, name);
    if (*t) return PF_OK;
    const char *doc = doc_of(m, name);
    return pf_fail(PF_EINVAL,
                   "%s: the input '%s' is missing; it is given beside x, by its name%s%s",
                   called(m), name, *doc ? ": " : "", doc);
}

int pf_run_may(pf_tensor **t, const pf_module *m, const pf_run *run, const char *name, int64_t B,
               int64_t L) {
    *t = pf_run_input(run, name);
    if (!*t) return PF_OK;
    PF_TRY(pf_tensor_check(*t, PF_I32, m->type->name, name));
    if ((*t)->rank == 2 && (*t)->shape[0] == B && (*t)->shape[1] == L) return PF_OK;
    return pf_fail(PF_ESHAPE, "%s: the input '%s' is %s, must be [%lld, %lld]: %s", m->type->name,
                   name, pf_shape_of(*t), (long long)B, (long long)L, doc_of(m, name));
}
