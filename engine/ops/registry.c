/*
 * registry.c - the op table of an engine, and the one way to run a row's forward.
 *
 * An engine holds a few arrays of row pointers, one a floor, added at open and never
 * changed afterwards; index i counts through them in order. pf_call_forward refuses what
 * no op may see (missing or dead inputs, malformed attributes), so that a row's own
 * functions can trust their call.
 */
#include "op.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "kern.h"

static const pf_op *const ops_rows[] = {
#define PF_OP(name) &pf_op_##name,
#include "ops.def"
#undef PF_OP
};

enum { MAX_NAMES = 256 };

/* ---- the table ---------------------------------------------------------------- */

int pf_registry_add(pf_engine *engine, const pf_op *const *rows, int n) {
    if (engine->n_op_tables >= PF_MAX_OP_TABLES)
        return pf_fail(PF_EINVAL, "op table: an engine takes at most %d tables", PF_MAX_OP_TABLES);
    engine->op_tables[engine->n_op_tables] = rows;
    engine->op_counts[engine->n_op_tables++] = n;
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

/* Row `index`, or NULL beyond the table. */
static const pf_op *row_at(const pf_engine *engine, int index) {
    for (int t = 0; t < engine->n_op_tables && index >= 0; t++) {
        if (index < engine->op_counts[t]) return engine->op_tables[t][index];
        index -= engine->op_counts[t];
    }
    return NULL;
}

static int index_of(const pf_engine *engine, const char *name) {
    const int n = pf_op_count(engine);
    for (int i = 0; i < n; i++)
        if (strcmp(row_at(engine, i)->name, name) == 0) return i;
    return -1;
}

const pf_op *pf_registry_find(const pf_engine *engine, const char *name) {
    return row_at(engine, pf_op_find(engine, name));
}

/* ---- the public view ---------------------------------------------------------- */

int pf_op_count(const pf_engine *engine) {
    int n = 0;
    for (int t = 0; t < engine->n_op_tables; t++) n += engine->op_counts[t];
    return n;
}

static int no_such_index(const pf_engine *engine, int index) {
    return pf_fail(PF_ENOTFOUND, "op table: no op %d, there are %d", index, pf_op_count(engine));
}

int pf_op_at(const pf_engine *engine, int index, pf_op_info *info) {
    const pf_op *op = row_at(engine, index);
    if (!op) return no_such_index(engine, index);
    *info = (pf_op_info){
        .name = op->name,
        .args = op->args,
        .results = op->results,
        .doc = op->doc,
        .min_inputs = op->min_in,
        .max_inputs = op->max_in,
        .outputs = op->n_out,
        .attrs = op->attrs,
        .n_attrs = op->n_attrs,
        .differentiable = op->backward != NULL && !(op->flags & PF_OP_NO_GRAD),
    };
    return PF_OK;
}

int pf_op_find(const pf_engine *engine, const char *name) {
    if (!name) return pf_fail(PF_EINVAL, "op table: a name is needed");
    const int found = index_of(engine, name);
    if (found >= 0) return found;
    const char *names[MAX_NAMES];
    const int n = (int)pf_min(pf_op_count(engine), MAX_NAMES);
    for (int i = 0; i < n; i++) names[i] = row_at(engine, i)->name;
    const char *near = pf_nearest(name, names, n);
    if (near) return pf_fail(PF_ENOTFOUND, "no op '%s'; did you mean '%s'?", name, near);
    return pf_fail(PF_ENOTFOUND, "no op '%s'", name);
}

void pf_op_fill_defaults(const pf_op *op, pf_attr *attrs) {
    for (int k = 0; k < op->n_attrs; k++) {
        attrs[k] = (pf_attr){.n = 0};
        if (op->attrs[k].kind == PF_ATTR_FLOAT)
            attrs[k].f = op->attrs[k].def;
        else
            attrs[k].i = (int64_t)op->attrs[k].def;
    }
}

int pf_op_defaults(const pf_engine *engine, int index, pf_attr *attrs) {
    const pf_op *op = row_at(engine, index);
    if (!op) return no_such_index(engine, index);
    pf_op_fill_defaults(op, attrs);
    return PF_OK;
}

/* ---- names and messages ------------------------------------------------------- */

const char *pf_op_arg_name(const pf_op *op, int i) {
    static _Thread_local char buffers[8][40];
    static _Thread_local unsigned turn;
    char *out = buffers[turn++ % 8];
    const char *p = op->args, *last = op->args;
    int at = 0;
    for (; at < i && (p = strchr(p, ',')) != NULL; at++) last = ++p;
    last += strspn(last, " [");
    const int length = (int)strcspn(last, ", ]");
    /* A variadic op names its inputs once: "tensors", so the third is tensors[2]. */
    if (op->flags & PF_OP_VARIADIC || at < i)
        snprintf(out, sizeof buffers[0], "%.*s[%d]", length < 28 ? length : 28, last, i);
    else
        snprintf(out, sizeof buffers[0], "%.*s", length < 38 ? length : 38, last);
    return out;
}

int pf_want(const pf_call *c, int i, pf_dtype dtype) {
    return pf_tensor_check(c->in[i], dtype, c->op->name, pf_op_arg_name(c->op, i));
}

int pf_shape_fail(const pf_call *c, const char *format, ...) {
    char inputs[480], why[320];
    size_t used = 0;
    inputs[0] = 0;
    for (int i = 0; i < c->n_in && used + 1 < sizeof inputs; i++) {
        if (!c->in[i]) continue;
        const int wrote =
            snprintf(inputs + used, sizeof inputs - used, "%s%s is %s", used ? ", " : "",
                     pf_op_arg_name(c->op, i), pf_shape_of(c->in[i]));
        used += wrote > 0 ? (size_t)wrote : 0;
    }
    va_list args;
    va_start(args, format);
    vsnprintf(why, sizeof why, format, args);
    va_end(args);
    return pf_fail(PF_ESHAPE, "%s: %s; %s", c->op->name, inputs, why);
}

int pf_set_shape(pf_call *c, int o, pf_dtype dtype, int rank, const int64_t *dim) {
    PF_TRY(pf_shape_valid(rank, dim, dtype, c->op->name));
    c->shape[o].dtype = dtype;
    c->shape[o].rank = rank;
    for (int d = 0; d < rank; d++) c->shape[o].dim[d] = dim[d];
    return PF_OK;
}

int pf_same_as(pf_call *c, int o, int input) {
    const pf_tensor *t = c->in[input];
    return pf_set_shape(c, o, t->dtype, t->rank, t->shape);
}

/* ---- running a row ------------------------------------------------------------ */

/* As many inputs as the row takes, present unless optional, and with data. */
static int check_inputs(pf_call *c) {
    const pf_op *op = c->op;
    if (c->n_in < op->min_in || c->n_in > op->max_in)
        return pf_fail(PF_EINVAL, "%s: takes %d to %d inputs (%s), got %d", op->name, op->min_in,
                       op->max_in, op->args, c->n_in);
    for (int i = c->n_in; i < PF_MAX_IN; i++) c->in[i] = NULL;
    for (int i = 0; i < c->n_in; i++) {
        const pf_tensor *t = c->in[i];
        if (!t && (i < op->min_in || op->flags & PF_OP_VARIADIC))
            return pf_fail(PF_EINVAL, "%s: %s is missing", op->name, pf_op_arg_name(op, i));
        if (t && !pf_tensor_alive(t))
            return pf_fail(PF_ESTATE,
                           "%s: %s is dead (its tape has closed); use :detach() to keep it",
                           op->name, pf_op_arg_name(op, i));
    }
    return PF_OK;
}

static int64_t choice_count(const char *choices) {
    int64_t n = 1;
    for (const char *p = choices; (p = strchr(p, '|')) != NULL; p++) n++;
    return n;
}

static int check_attr(const pf_op *op, const pf_attr_info *info, const pf_attr *attr) {
    switch (info->kind) {
    case PF_ATTR_BOOL:
        if (attr->i == 0 || attr->i == 1) return PF_OK;
        return pf_fail(PF_EINVAL, "%s: %s is true (1) or false (0)", op->name, info->name);
    case PF_ATTR_CHOICE:
        if (attr->i >= 0 && attr->i < choice_count(info->choices)) return PF_OK;
        return pf_fail(PF_EINVAL, "%s: %s is one of %s", op->name, info->name, info->choices);
    case PF_ATTR_DIMS:
    case PF_ATTR_INTS:
        if (attr->n >= 0 && attr->n <= PF_MAX_RANK) return PF_OK;
        return pf_fail(PF_EINVAL, "%s: %s takes at most %d numbers, got %d", op->name, info->name,
                       PF_MAX_RANK, attr->n);
    case PF_ATTR_DIM:
        if (attr->i >= INT32_MIN && attr->i <= INT32_MAX) return PF_OK;
        return pf_fail(PF_EINVAL, "%s: %s is no dimension", op->name, info->name);
    case PF_ATTR_INT:
    case PF_ATTR_FLOAT:
    case PF_ATTR_INDEX:
        return PF_OK;
    }
    return pf_fail(PF_EINVAL, "%s: %s is of an unknown kind", op->name, info->name);
}

static int make_outputs(pf_call *c) {
    if (c->op->flags & PF_OP_OWN_OUTPUTS) return PF_OK;
    for (int o = 0; o < c->op->n_out; o++) {
        const pf_shape *s = &c->shape[o];
        if (s->rank < 0) continue;
        const int status = pf_tensor_make(&c->out[o], c->engine, s->dtype, s->rank, s->dim);
        if (status < 0) return pf_fail_in(status, "%s", c->op->name);
    }
    return PF_OK;
}

static int run_forward(pf_call *c) {
    PF_TRY(check_inputs(c));
    for (int k = 0; k < c->op->n_attrs; k++)
        PF_TRY(check_attr(c->op, &c->op->attrs[k], &c->attr[k]));
    PF_TRY(pf_check_cancel(c->engine));
    PF_TRY(c->op->shape(c));
    PF_TRY(make_outputs(c));
    return c->op->forward(c);
}

int pf_call_forward(pf_call *c) {
    for (int o = 0; o < PF_MAX_OUT; o++) {
        c->out[o] = NULL;
        c->shape[o].rank = -1;
    }
    for (int k = 0; k < PF_MAX_SAVED; k++) c->saved[k] = NULL;
    const int status = run_forward(c);
    if (status < 0) pf_call_release(c);
    return status;
}

void pf_call_release(pf_call *c) {
    for (int o = 0; o < PF_MAX_OUT; o++) pf_tensor_release(&c->out[o]);
    for (int k = 0; k < PF_MAX_SAVED; k++) pf_tensor_release(&c->saved[k]);
}
