/*
 * apply.c - running an op on the graph: forward, then a node when someone may ask for
 * gradients later. Without an open tape, or when no input is part of its graph, the op
 * saves nothing.
 */
#include <stddef.h>
#include <string.h>

#include "node.h"

/* Draws of calls from outside lie in the upper half, those of layers in the lower. */
#define OUTSIDE_DRAW ((uint64_t)1 << 63)

/* A paused tape around a hidden run (recompute.c) asks what the ops under it read. */
static void note_op(const pf_tape *tape, const pf_op *op, pf_tensor *const *in, int n_in) {
    pf_note *note = tape->note;
    for (int i = 0; i < n_in; i++) {
        pf_tensor *t = in[i];
        if (!t || t->dtype != PF_F32) continue;
        if (t->requires_grad && note->status >= 0)
            note->status = pf_leaf_list_add(&note->read, tape->heap, t);
        if (t->tape == note->outer && t->tape_id == note->outer_id) note->captured = op->name;
    }
}

static bool to_record(const pf_engine *engine, const pf_op *op, pf_tensor *const *in, int n_in) {
    if ((op->flags & PF_OP_NO_GRAD) || !op->backward) return false;
    const pf_tape *tape = engine->tape;
    if (tape && tape->note && tape->paused == 1) note_op(tape, op, in, n_in);
    for (int i = 0; i < n_in; i++)
        if (pf_in_graph(engine, in[i])) return true;
    return false;
}

/* A call of inputs and attributes (NULL: the defaults) that has not begun. */
static int set_call(pf_call *c, pf_engine *engine, const pf_op *op, pf_tensor *const *in, int n_in,
                    const pf_attr *attrs) {
    if (n_in < 0 || n_in > PF_MAX_IN)
        return pf_fail(PF_EINVAL, "%s: %d inputs, at most %d are possible", op->name, n_in,
                       PF_MAX_IN);
    memset(c, 0, offsetof(pf_call, attr));
    c->engine = engine;
    c->op = op;
    c->n_in = n_in;
    if (n_in > 0) memcpy(c->in, in, (size_t)n_in * sizeof *in);
    memset(c->attr + op->n_attrs, 0, (size_t)(PF_MAX_ATTR - op->n_attrs) * sizeof *c->attr);
    if (!attrs)
        pf_op_fill_defaults(op, c->attr);
    else if (op->n_attrs > 0)
        memcpy(c->attr, attrs, (size_t)op->n_attrs * sizeof *attrs);
    return PF_OK;
}

static int forward(pf_call *c) {
    PF_TRY(pf_call_forward(c));
    return pf_finite_looks(c->engine) ? pf_finite_forward(c) : PF_OK;
}

int pf_apply_drawn(pf_engine *engine, const pf_op *op, pf_tensor *const *in, int n_in,
                   const pf_attr *attrs, uint64_t draw, pf_tensor **out) {
    for (int o = 0; o < op->n_out; o++) out[o] = NULL;
    pf_call c; /* 3 kB, half of it attributes */
    PF_TRY(set_call(&c, engine, op, in, n_in, attrs));
    c.draw = draw;
    c.record = to_record(engine, op, in, n_in);
    PF_TRY(pf_check_inputs(engine, op, in, n_in));
    int status = forward(&c);
    if (status >= 0 && c.record) status = pf_tape_record(engine->tape, &c);
    if (status < 0) {
        pf_call_release(&c);
        return status;
    }
    /* What is saved is the node's now, or nobody's. */
    for (int s = 0; s < PF_MAX_SAVED; s++) pf_tensor_release(&c.saved[s]);
    memcpy(out, c.out, (size_t)op->n_out * sizeof *out);
    return PF_OK;
}

int pf_apply(pf_engine *engine, const pf_op *op, pf_tensor *const *in, int n_in,
             const pf_attr *attrs, pf_tensor **out) {
    return pf_apply_drawn(engine, op, in, n_in, attrs, 0, out);
}

int pf_op_apply(pf_engine *engine, int index, pf_tensor *const *inputs, int n_inputs,
                const pf_attr *attrs, pf_tensor **outputs) {
    PF_OPEN(engine);
    PF_NEED(outputs);
    PF_NEED_ARRAY(inputs, n_inputs);
    const pf_op *op = pf_registry_row(engine, index);
    if (!op) return PF_ENOTFOUND;
    uint64_t draw = 0;
    if (op->flags & PF_OP_RANDOM) draw = OUTSIDE_DRAW | engine->draws;
    int status = pf_apply_drawn(engine, op, inputs, n_inputs, attrs, draw, outputs);
    if (status >= 0 && draw) engine->draws++; /* one that failed has drawn nothing */
    return status;
}

/* ---- in place ----------------------------------------------------------------- */

static int check_place(const pf_call *c, const pf_tensor *to) {
    const pf_tensor *y = c->out[0];
    if (pf_same_shape(to, y)) return PF_OK;
    return pf_fail(PF_ESHAPE, "%s: %s %s would become %s, but in place it keeps its shape",
                   c->op->in_place, pf_op_arg_name(c->op, 0), pf_shape_of(to), pf_shape_of(y));
}

/* The result is whole before the first number is written, so inputs may overlap as they like. */
int pf_op_apply_in_place(pf_engine *engine, int index, pf_tensor *const *inputs, int n_inputs,
                         const pf_attr *attrs) {
    PF_OPEN(engine);
    PF_NEED_ARRAY(inputs, n_inputs);
    pf_call c;
    const pf_op *op = pf_registry_row(engine, index);
    if (!op) return PF_ENOTFOUND;
    if (!op->in_place)
        return pf_fail(PF_EINVAL, "%s: it has no form in place; copy its result", op->name);
    PF_TRY(set_call(&c, engine, op, inputs, n_inputs, attrs));
    pf_tensor *to = n_inputs > 0 ? inputs[0] : NULL;
    PF_TRY(pf_tensor_check(to, to ? to->dtype : PF_F32, op->in_place, pf_op_arg_name(op, 0)));
    PF_TRY(pf_tensor_check_writable(to, op->in_place));
    PF_TRY(pf_check_leaf(engine, to, op->in_place));
    int status = forward(&c);
    if (status >= 0) status = check_place(&c, to);
    if (status >= 0) {
        pf_tensor_put(to, c.out[0]);
        pf_tensor_touch_from_any(to, n_inputs, inputs, op->in_place);
    }
    pf_call_release(&c);
    return status;
}
