/*
 * registry.c - the op table of an engine: pointers to rows, which each floor adds at open. It
 * never changes afterwards, so that a row's index holds as long as its engine.
 */
#include "op.h"

#include <string.h>

#include "kern.h"

static const pf_op *const ops_rows[] = {
#define PF_OP(name) &pf_op_##name,
#include "ops.def"
#undef PF_OP
};

/* ---- the table ---------------------------------------------------------------- */

int pf_registry_add(pf_engine *engine, const pf_op *const *rows, int n) {
    if (engine->n_ops + n > PF_MAX_OPS)
        return pf_fail(PF_EINVAL, "op table: an engine takes at most %d ops", PF_MAX_OPS);
    for (int i = 0; i < n; i++) engine->ops[engine->n_ops++] = rows[i];
    return PF_OK;
}

int pf_ops_register(pf_engine *engine) {
    /* A level that was not compiled in falls to the next lower one; generic always is. */
    int level = engine->cpu;
    engine->kern = NULL;
    for (; level >= 0 && engine->kern == NULL; level--) {
        engine->kern = pf_kern_table((pf_cpu)level);
        if (engine->kern) engine->cpu = (pf_cpu)level;
    }
    if (!engine->kern) return pf_fail(PF_ENOTFOUND, "kernels: none for level %d", level);
    return pf_registry_add(engine, ops_rows, PF_COUNT(ops_rows));
}

const pf_op *pf_registry_row(const pf_engine *engine, int index) {
    if (index >= 0 && index < engine->n_ops) return engine->ops[index];
    pf_fail(PF_ENOTFOUND, "op table: no op %s, there are %d", pf_place(index), engine->n_ops);
    return NULL;
}

/* ---- the public view ---------------------------------------------------------- */

int pf_op_count(const pf_engine *engine) { return engine ? engine->n_ops : 0; }

int pf_op_at(const pf_engine *engine, int index, pf_op_info *info) {
    PF_OPEN(engine);
    PF_NEED(info);
    const pf_op *op = pf_registry_row(engine, index);
    if (!op) return PF_ENOTFOUND;
    const pf_op_info own = {
        .name = op->name,
        .args = op->args,
        .results = op->results,
        .doc = op->doc,
        .min_inputs = op->min_in,
        .max_inputs = op->max_in,
        .outputs = op->n_out,
        .attrs = op->attrs,
        .n_attrs = op->n_attrs,
        .in_place = op->in_place,
        .differentiable = op->backward != NULL && !(op->flags & PF_OP_NO_GRAD),
        .place_inputs = op->places & PF_USES_ALL_IN,
        .place_outputs = op->places >> PF_MAX_IN,
    };
    return pf_result_give(info, &own, sizeof own, "op_at");
}

int pf_op_find(const pf_engine *engine, const char *name) {
    PF_OPEN(engine);
    PF_NEED(name);
    const char *names[PF_MAX_OPS];
    for (int i = 0; i < engine->n_ops; i++) {
        names[i] = engine->ops[i]->name;
        if (strcmp(names[i], name) == 0) return i;
    }
    const char *near = pf_nearest(name, names, engine->n_ops);
    if (near) return pf_fail(PF_ENOTFOUND, "no op '%s'; did you mean '%s'?", name, near);
    return pf_fail(PF_ENOTFOUND, "no op '%s'", name);
}

int pf_op_defaults(const pf_engine *engine, int index, pf_attr *attrs) {
    PF_OPEN(engine);
    PF_NEED(attrs);
    const pf_op *op = pf_registry_row(engine, index);
    if (!op) return PF_ENOTFOUND;
    pf_op_fill_defaults(op, attrs);
    return PF_OK;
}
