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
        const pf_tensor *t = in[i];
        if (!t || t->dtype != PF_F32) continue;
        note->wanted |= t->requires_grad;
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

int pf_apply_drawn(pf_engine *engine, const pf_op *op, pf_tensor *const *in, int n_in,
                   const pf_attr *attrs, uint64_t draw, pf_tensor **out) {
    for (int o = 0; o < op->n_out; o++) out[o] = NULL;
    if (n_in < 0 || n_in > PF_MAX_IN)
        return pf_fail(PF_EINVAL, "%s: %d inputs, at most %d are possible", op->name, n_in,
                       PF_MAX_IN);
    pf_call c; /* 3 kB, half of it attributes */
    memset(&c, 0, offsetof(pf_call, attr));
    c.engine = engine;
    c.op = op;
    c.n_in = n_in;
    c.draw = draw;
    if (n_in > 0) memcpy(c.in, in, (size_t)n_in * sizeof *in);
    memset(c.attr + op->n_attrs, 0, (size_t)(PF_MAX_ATTR - op->n_attrs) * sizeof *c.attr);
    if (!attrs)
        pf_op_fill_defaults(op, c.attr);
    else if (op->n_attrs > 0)
        memcpy(c.attr, attrs, (size_t)op->n_attrs * sizeof *attrs);
    c.record = to_record(engine, op, in, n_in);
    PF_TRY(pf_check_inputs(engine, op, in, n_in));
    int status = pf_call_forward(&c);
    if (status >= 0 && pf_finite_looks(engine)) status = pf_finite_forward(&c);
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
