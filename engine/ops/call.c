/*
 * call.c - one call of a row: its checks, its forward and backward, and what it holds.
 *
 * What holds: a row's functions see no missing or dead input and no malformed attribute, and
 * need not release anything. Temporaries die with the forward, before the call is recorded, so
 * that a tape keeps outputs and saved tensors alone; those of a backward die before the next
 * node's, so that a gradient that was given away is its receiver's own.
 */
#include "op.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "number.h"

/* ---- temporaries -------------------------------------------------------------- */

static void release_held(pf_engine *engine, pf_held *held) {
    pf_tensor *t = held->what;
    if (held->bytes > 0)
        pf_heap_free(engine->heap, held->what, held->bytes);
    else
        pf_tensor_release(&t);
}

/* Last to first, as a host's allocator likes it. */
static void let_go(pf_call *c) {
    while (c->n_held > 0) release_held(c->engine, &c->held[--c->n_held]);
}

static int hold(pf_call *c, pf_held held) {
    if (!held.what) return PF_OK;
    if (c->n_held < PF_MAX_HELD) {
        c->held[c->n_held++] = held;
        return PF_OK;
    }
    release_held(c->engine, &held);
    return pf_fail(PF_EINVAL, "%s: holds more than %d temporaries", c->op->name, PF_MAX_HELD);
}

int pf_call_hold(pf_call *c, pf_tensor *t) { return hold(c, (pf_held){t, 0}); }

void *pf_call_alloc(pf_call *c, size_t bytes) {
    bytes = bytes > 0 ? bytes : 1; /* 0 would be a tensor */
    void *block = pf_heap_alloc(c->engine->heap, bytes);
    return hold(c, (pf_held){block, bytes}) < 0 ? NULL : block;
}

int pf_call_make(pf_call *c, pf_dtype dtype, int rank, const int64_t *shape, pf_tensor **out) {
    PF_TRY(pf_tensor_make(out, c->engine, dtype, rank, shape));
    return pf_call_hold(c, *out);
}

/* The caller of an op keeps what it gave: a tensor that is taken as it is needs no holding. */
int pf_call_compact(pf_call *c, const pf_tensor *t, pf_tensor **out) {
    *out = (pf_tensor *)t;
    if (!t || pf_tensor_contiguous(t)) return PF_OK;
    PF_TRY(pf_tensor_compact(out, c->engine, t));
    return pf_call_hold(c, *out);
}

/* ---- what a row says of its arguments ----------------------------------------- */

void pf_op_fill_defaults(const pf_op *op, pf_attr *attrs) {
    for (int k = 0; k < op->n_attrs; k++) {
        attrs[k] = (pf_attr){.n = 0};
        if (op->attrs[k].kind == PF_ATTR_FLOAT)
            attrs[k].f = op->attrs[k].def;
        else
            attrs[k].i = (int64_t)op->attrs[k].def;
    }
}

const char *pf_op_arg_name(const pf_op *op, int i) {
    static _Thread_local char buffers[8][40];
    static _Thread_local unsigned turn;
    char *out = buffers[turn++ % 8];
    const char *p = op->args, *last = op->args;
    int at = 0;
    for (; at < i && (p = strchr(p, ',')) != NULL; at++) last = ++p;
    last += strspn(last, " [");
    int length = (int)strcspn(last, ", ]");
    /* A variadic op names its inputs once: "tensors", so the third is tensors[2]. */
    if (op->flags & PF_OP_VARIADIC || at < i)
        snprintf(out, sizeof buffers[0], "%.*s[%s]", length < 20 ? length : 20, last, pf_place(i));
    else
        snprintf(out, sizeof buffers[0], "%.*s", length < 38 ? length : 38, last);
    return out;
}

/* ---- for shape rules ---------------------------------------------------------- */

int pf_want(const pf_call *c, int i, pf_dtype dtype) {
    if (pf_tensor_alive(c->in[i]) && c->in[i]->dtype == dtype) return PF_OK; /* no name is made */
    return pf_tensor_check(c->in[i], dtype, c->op->name, pf_op_arg_name(c->op, i));
}

int(pf_shape_fail)(const pf_call *c, const char *format, ...) {
    char inputs[480], why[320];
    va_list args; /* first: they may lie in buffers that names rotate through */
    va_start(args, format);
    pf_vprint(why, sizeof why, format, args);
    va_end(args);
    size_t used = 0;
    inputs[0] = 0;
    for (int i = 0; i < c->n_in && used + 1 < sizeof inputs; i++) {
        if (!c->in[i]) continue;
        int wrote = snprintf(inputs + used, sizeof inputs - used, "%s%s is %s", used ? ", " : "",
                             pf_op_arg_name(c->op, i), pf_shape_of(c->in[i]));
        used += wrote > 0 ? (size_t)wrote : 0;
    }
    return pf_fail(PF_ESHAPE, "%s: %s; %s", c->op->name, inputs, why);
}

/* Counted from 1 too, as scripts do. */
int pf_want_places(const pf_call *c, int64_t n) {
    if (n <= INT32_MAX) return PF_OK;
    return pf_shape_fail(c, "no i32 holds the positions of so many elements");
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

/* ---- checks ------------------------------------------------------------------- */

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
            return pf_fail(
                PF_ESTATE,
                "%s: %s is dead (its tape has closed); detach keeps what outlives a tape", op->name,
                pf_op_arg_name(op, i));
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
    case PF_ATTR_NEW_DIM:
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
        int status = pf_tensor_make(&c->out[o], c->engine, s->dtype, s->rank, s->dim);
        if (status < 0) return pf_fail_in(status, "%s", c->op->name);
    }
    return PF_OK;
}

/* ---- the count of work --------------------------------------------------------- */

static double elements_of(const pf_call *c) {
    double n = 0;
    for (int i = 0; i < c->n_in && !(c->op->flags & PF_OP_PICKS); i++)
        if (c->in[i]) n += (double)pf_tensor_numel(c->in[i]);
    for (int o = 0; o < c->op->n_out; o++) {
        double size = c->shape[o].rank < 0 ? 0 : 1;
        for (int d = 0; d < c->shape[o].rank; d++) size *= (double)c->shape[o].dim[d];
        n += size;
    }
    return n;
}

/* A forward, or the `times` it costs, before it runs. A backward is taken for two. */
static int charge(const pf_call *c, int times) {
    if (!c->engine->meter) return pf_check_cancel(c->engine);
    double products = c->op->products ? c->op->products(c) : 0;
    return pf_charge(c->engine, PF_WORK_OP + pf_work_of(times * elements_of(c), times * products));
}

/* ---- running a row ------------------------------------------------------------ */

int pf_call_forward(pf_call *c) {
    for (int o = 0; o < PF_MAX_OUT; o++) {
        c->out[o] = NULL;
        c->shape[o].rank = -1;
    }
    for (int k = 0; k < PF_MAX_SAVED; k++) c->saved[k] = NULL;
    c->n_held = 0;
    int status = check_inputs(c);
    for (int k = 0; k < c->op->n_attrs && status >= 0; k++)
        status = check_attr(c->op, &c->op->attrs[k], &c->attr[k]);
    if (status >= 0) status = c->op->shape(c);
    if (status >= 0) status = charge(c, 1);
    if (status >= 0) status = make_outputs(c);
    if (status >= 0) status = c->op->forward(c);
    let_go(c);
    if (status < 0) pf_call_release(c);
    return status;
}

int pf_call_backward(pf_call *c) {
    c->n_held = 0;
    int status = charge(c, 2);
    if (status >= 0) status = c->op->backward(c);
    let_go(c);
    return status;
}

void pf_call_release(pf_call *c) {
    for (int o = 0; o < PF_MAX_OUT; o++) pf_tensor_release(&c->out[o]);
    for (int k = 0; k < PF_MAX_SAVED; k++) pf_tensor_release(&c->saved[k]);
}
