/*
 * layer_host.c - a layer that lives in the host or in a script: forward and step call
 * back. In a tree it is only a name; whoever builds the tree must know it (build.c).
 */
#include "module.h"

static const pf_option_info host_options[] = {
    {.name = "name", .kind = PF_OPT_STRING, .required = true, .doc = "what the script calls it"},
};

/* What came of a call of the host. `before`: pf_failures() then; a code of the host's own has left
 * no message, and the one that stands is of something else. */
static int called(const pf_module *m, const char *what, int status, uint64_t before) {
    if (status >= 0) return status;
    return pf_callback_failed(status, before, "%s: the layer's %s", pf_option_text(m, "name"),
                              what);
}

static int check_made(const pf_module *m, const char *what, int status, uint64_t before,
                      pf_tensor **y) {
    status = called(m, what, status, before);
    if (status >= 0 && !*y) {
        status = pf_fail(PF_EHOST, "%s: the layer returned no tensor", pf_option_text(m, "name"));
    }
    if (status < 0) pf_tensor_release(y);
    return status;
}

/* What its parts of a row hand on, as the host has it. */
static const pf_state_kind host_parts = {
    .name = "host",
    .tensor = {"1", "2", "3", "4", "5"},
    .parts_only = (1u << PF_STATE_TENSORS) - 1,
    .anew = (1u << PF_STATE_TENSORS) - 1,
};

/* On a copy of what the host keeps: a call that fails, here or later, leaves it as it was. */
static int call_step(pf_module *m, pf_engine *e, const pf_run *run, pf_tensor *x, pf_tensor **y) {
    const pf_host_layer *host = &m->host;
    uint64_t before = pf_failures();
    *y = NULL;
    PF_TRY(called(m, "fork_state", pf_state_renew_host(run->state, e), before));
    int status = host->step(host->context, e, x, &run->state->host, y);
    return check_made(m, "step", status, before, y);
}

/* Row t of x (B, L, ...) as a step: y (B, ...) goes to row t of all (B, L, ...), which the
 * first row makes. */
static int prefill_row(pf_module *m, pf_engine *e, const pf_run *run, pf_tensor *x, int64_t t,
                       pf_tensor **all) {
    int64_t shape[PF_MAX_RANK];
    pf_tensor *slice = NULL, *row = NULL, *y = NULL, *place = NULL;
    shape[0] = x->shape[0];
    for (int i = 2; i < x->rank; i++) shape[i - 1] = x->shape[i];
    int status = pf_slice(&slice, e, x, 1, t, t + 1);
    if (status >= 0) status = pf_reshape(&row, e, slice, x->rank - 1, shape);
    if (status >= 0) status = call_step(m, e, run, row, &y);
    if (status >= 0 && (y->rank < 1 || y->rank >= PF_MAX_RANK)) {
        status =
            pf_fail(PF_ESHAPE, "%s: a step returned %s", pf_option_text(m, "name"), pf_shape_of(y));
    }
    if (status >= 0) {
        shape[0] = y->shape[0], shape[1] = 1;
        for (int i = 1; i < y->rank; i++) shape[i + 1] = y->shape[i];
        int rank = y->rank + 1;
        pf_replace(&row, y);
        y = NULL;
        status = pf_reshape(&y, e, row, rank, shape);
        shape[1] = x->shape[1];
        if (status >= 0 && !*all) status = pf_tensor_make(all, e, y->dtype, rank, shape);
    }
    if (status >= 0) status = pf_slice(&place, e, *all, 1, t, t + 1);
    if (status >= 0) status = pf_tensor_copy(place, y);
    pf_tensor_release(&place);
    pf_tensor_release(&y);
    pf_tensor_release(&row);
    pf_tensor_release(&slice);
    return status;
}

static int call_forward(pf_module *m, pf_engine *e, const pf_run *run, pf_tensor *x,
                        pf_tensor **y) {
    const pf_host_layer *host = &m->host;
    pf_tensor *input;
    for (int i = 0; i < m->n_reads; i++) {
        if (m->reads[i].required) PF_TRY(pf_run_need(&input, m, run, m->reads[i].name));
    }
    uint64_t before = pf_failures();
    int status = host->forward(host->context, e, x, run->pass, y);
    return check_made(m, "forward", status, before, y);
}

/* One position of a layer that looks at no other: x (B, ...) as rows of one. */
static int position(pf_module *m, pf_engine *e, const pf_run *run, pf_tensor *x, pf_tensor **y) {
    pf_tensor *row = NULL, *out = NULL;
    int64_t shape[PF_MAX_RANK] = {x->shape[0], 1};
    for (int i = 1; i < x->rank && i + 1 < PF_MAX_RANK; i++) shape[i + 1] = x->shape[i];
    PF_TRY(pf_reshape(&row, e, x, x->rank + 1, shape));
    int status = call_forward(m, e, run, row, &out);
    if (status >= 0 && (out->rank < 2 || out->shape[1] != 1)) {
        status = pf_fail(PF_ESHAPE, "%s: it looks at one position alone, but made %s of %s",
                         pf_option_text(m, "name"), pf_shape_of(out), pf_shape_of(row));
    }
    if (status >= 0) {
        for (int i = 2; i < out->rank; i++) shape[i - 1] = out->shape[i];
        shape[0] = out->shape[0];
        status = pf_reshape(y, e, out, out->rank - 1, shape);
    }
    pf_tensor_release(&out);
    pf_tensor_release(&row);
    return status;
}

static int prefill(pf_module *m, pf_engine *e, const pf_run *run, pf_tensor *x, pf_tensor **y) {
    if (x->rank < 2 || x->shape[1] < 1) {
        return pf_fail(PF_ESHAPE, "%s: x is %s; a prefill is (B, L, ...) with L at least 1",
                       pf_option_text(m, "name"), pf_shape_of(x));
    }
    for (int64_t t = 0; t < x->shape[1]; t++) {
        int status = prefill_row(m, e, run, x, t, y);
        if (status >= 0) continue;
        pf_tensor_release(y);
        return status;
    }
    return PF_OK;
}

/* The exit takes the entry's place in the node; NULL behind it. */
static int call_part(pf_module *m, pf_engine *e, const pf_run *run, pf_tensor *x, pf_tensor **y) {
    const pf_host_layer *host = &m->host;
    pf_state *s = run->state;
    pf_tensor *exit[PF_HOST_PARTS] = {NULL};
    int n = 0, made = 0;
    if (!host->part) {
        return pf_fail(PF_EINVAL,
                       "%s: a layer of the host can't be trained in slices: it may look at "
                       "positions of other slices (by_position says that it does not, and part "
                       "what it hands on)",
                       pf_option_text(m, "name"));
    }
    while (n < PF_HOST_PARTS && s->tensor[n]) n++;
    uint64_t before = pf_failures();
    int status = host->part(host->context, e, x, run->pass, s->tensor, n, exit, &made, y);
    status = check_made(m, "part", status, before, y);
    for (int i = 0; i < made && status >= 0; i++) {
        if (exit[i] && exit[i]->rank > 0 && exit[i]->shape[0] == s->batch) continue;
        status = pf_fail(PF_ESHAPE, "%s: what its part hands on must be tensors of %lld rows",
                         pf_option_text(m, "name"), (long long)s->batch);
    }
    if (status < 0) pf_tensor_release(y);
    for (int i = 0; i < PF_HOST_PARTS && status < 0; i++) pf_tensor_release(&exit[i]);
    for (int i = 0; i < PF_HOST_PARTS && status >= 0; i++) pf_replace(&s->tensor[i], exit[i]);
    return status;
}

static int host_run(pf_module *m, pf_engine *e, const pf_run *run, pf_tensor *x, pf_tensor **y) {
    bool alone = m->host.by_position;
    if (run->slice && !alone) return call_part(m, e, run, x, y);
    if (!run->state || run->slice) return call_forward(m, e, run, x, y);
    if (run->mode == PF_RUN_STEP) {
        return alone ? position(m, e, run, x, y) : call_step(m, e, run, x, y);
    }
    return alone ? call_forward(m, e, run, x, y) : prefill(m, e, run, x, y);
}

/* What the layer reads of the inputs is its state's to keep. */
static int host_begin(pf_module *m, pf_engine *e, const pf_run *run) {
    const pf_host_layer *host = &m->host;
    pf_named list[PF_INPUTS];
    pf_tensor *input;
    int n = 0;
    for (int i = 0; i < m->n_reads; i++) {
        const char *name = m->reads[i].name;
        if (m->reads[i].required) PF_TRY(pf_run_need(&input, m, run, name));
        input = pf_run_input(run, name);
        if (input) list[n++] = (pf_named){name, input};
    }
    if (run->slice) return PF_OK;
    if (!host->step && !host->by_position) {
        return pf_fail(PF_EINVAL, "%s: this layer has no step, so it can't stream",
                       pf_option_text(m, "name"));
    }
    if (m->n_reads == 0) return PF_OK;
    if (!host->begin || host->by_position) {
        return pf_fail(PF_EINVAL, "%s: this layer reads inputs and has no %s, so it can't stream",
                       pf_option_text(m, "name"), host->by_position ? "step" : "begin");
    }
    uint64_t before = pf_failures();
    int status = host->begin(host->context, e, list, n, run->state->batch, &run->state->host);
    return called(m, "begin", status, before);
}

/* What it looks at only the host knows. */
static bool host_whole(const pf_module *m) { return !m->host.by_position && !m->host.part; }

static int host_after_step(pf_module *m, pf_engine *e, uint64_t step, int *drawn) {
    const pf_host_layer *host = &m->host;
    uint64_t before = pf_failures();
    (void)drawn;
    if (!host->after_step) return PF_OK;
    return called(m, "after_step", host->after_step(host->context, e, step), before);
}

static int host_state(const pf_module *m, pf_engine *e, int64_t batch, pf_state **state) {
    if (!m->host.step && !m->host.by_position && !m->host.part) {
        return pf_fail(PF_EINVAL, "%s: this layer has no step, so it can't stream",
                       pf_option_text(m, "name"));
    }
    PF_TRY(pf_state_new(state, e, batch, 0));
    (*state)->layer = m->host;
    if (m->host.part) (*state)->kind = &host_parts;
    return PF_OK;
}

const pf_layer pf_layer_host = {
    .name = "lua",
    .doc = "A layer that lives in the host or in a script.",
    .options = host_options,
    .n_options = PF_COUNT(host_options),
    .max_children = -1,
    .run = host_run,
    .whole = host_whole,
    .begin = host_begin,
    .after_step = host_after_step,
    .state = host_state,
};

int pf_module_host(pf_module **module, pf_engine *engine, const char *name,
                   const pf_host_layer *layer, pf_module *const *children, int n_children) {
    PF_OUT(module);
    PF_OPEN(engine);
    PF_NEED(name, layer);
    PF_NEED_ARRAY(children, n_children);
    pf_host_layer own = {.forward = NULL};
    PF_TRY(pf_options_take(&own, sizeof own, layer, name));
    if (!own.forward) {
        return pf_fail(PF_EINVAL, "%s: a layer of the host needs a forward function", name);
    }
    for (int i = 0; i < n_children; i++) {
        if (!children[i]) return pf_fail(PF_EINVAL, "%s: child %s is NULL", name, pf_place(i));
    }
    pf_config *options = pf_config_new_in(engine->heap, PF_MAP);
    if (!options || pf_config_set_string(options, "name", name) < 0) {
        pf_config_free(options);
        return pf_fail(PF_ENOMEM, "%s: no memory for the options", name);
    }
    PF_TRY(pf_module_make(module, engine, &pf_layer_host, options, children, n_children));
    int status = pf_inputs_of_host(*module, own.inputs);
    if (status < 0) {
        pf_module_release(module);
        return status;
    }
    /* Only now: a module that was not made must not release the caller's context. */
    own.inputs = NULL; /* the caller's words; the module has its own */
    (*module)->host = own;
    (*module)->recompute = own.recompute;
    return PF_OK;
}

int pf_module_add_tensor(pf_module *module, const char *name, pf_tensor *tensor, bool trained) {
    PF_NEED(module, name, tensor);
    if (module->type != &pf_layer_host) {
        return pf_fail(PF_ESTATE,
                       "add_tensor: the tensors of a '%s' layer are its own; only "
                       "layers of the host take more",
                       module->type->name);
    }
    return trained ? pf_module_trained(module, name, tensor)
                   : pf_module_buffer(module, name, tensor);
}
