/*
 * change_check.c - no silent wrong gradient after a change in place. A tape records ops alone;
 * fill_, copy_, a step of the optimizer and their like are none. What holds: whatever backward
 * or a second run would read after such a change, and whatever would lose its gradient by one,
 * is an error that names the op and the change. What nobody reads again may change at will. An op
 * in place (add_), which can look at the tape, is refused at its call where it changes a leaf.
 *
 * Changes have numbers that only grow (change.c), so a node keeps one number for all it read.
 */
#include "node.h"

#define ADVICE "change it after backward, or give the op a copy (detach)"

/* ---- inputs of an op ---- */

int pf_check_result(const pf_tape *tape, const pf_tensor *y, const char *where, const char *what) {
    if (pf_tensor_change(y) <= tape->nodes[y->node].changes) return PF_OK;
    return pf_fail(
        PF_ESTATE,
        "%s: %s %s was computed on the open tape and changed in place by %s since, which "
        "no tape records: its gradient would be wrong; compute a new tensor, or change a "
        "copy of it (detach)",
        where, what, pf_shape_of(y), pf_tensor_change_name(y));
}

/* The numbers came by copy_ from something whose gradient this tape would have to find. */
static bool lost_source(const pf_tape *tape, const pf_tensor *t) {
    uint64_t source = atomic_load_explicit(&t->storage->source, memory_order_relaxed);
    if (source & PF_OF_LEAF) return (source & ~PF_OF_LEAF) > tape->opened;
    return source == tape->id;
}

static int check_graph(const pf_tape *tape, const pf_op *op, int i, const pf_tensor *t) {
    if (t->dtype != PF_F32 || op->flags & PF_OP_NO_GRAD) return PF_OK;
    if (pf_made_by(tape, t)) PF_TRY(pf_check_result(tape, t, op->name, pf_op_arg_name(op, i)));
    if (!lost_source(tape, t)) return PF_OK;
    return pf_fail(
        PF_ESTATE,
        "%s: %s %s holds numbers that %s took from what has a gradient on the open tape, "
        "and a copy is not recorded: that gradient would be lost; use the source itself, "
        "or copy its detach() where no gradient is wanted",
        op->name, pf_op_arg_name(op, i), pf_shape_of(t), pf_tensor_change_name(t));
}

static int check_second_run(const pf_tape *tape, const pf_op *op, int i, const pf_tensor *t) {
    uint64_t change = pf_tensor_change(t);
    if (change <= tape->first_began || change > tape->second_began) return PF_OK;
    return pf_fail(
        PF_ESTATE,
        "%s, run again for its gradient: %s %s was changed in place by %s since the first "
        "run; " ADVICE,
        op->name, pf_op_arg_name(op, i), pf_shape_of(t), pf_tensor_change_name(t));
}

int pf_check_inputs(const pf_engine *e, const pf_op *op, pf_tensor *const *in, int n_in) {
    const pf_tape *tape = e->tape;
    if (!tape) return PF_OK;
    for (int i = 0; i < n_in; i++) {
        if (!in[i] || pf_tensor_change(in[i]) == 0) continue;
        PF_TRY(check_second_run(tape, op, i, in[i]));
        if (pf_is_recording(tape)) PF_TRY(check_graph(tape, op, i, in[i]));
    }
    return PF_OK;
}

/* ---- what backward reads ---- */

static unsigned reads_of(const pf_node *node) {
    const pf_op *op = node->op;
    unsigned mask = 0;
    for (int i = 0; i < node->n_in; i++) {
        const pf_target *to = &node->edge[i].to;
        if (!to->leaf && to->node < 0) continue;
        mask |= i < PF_MAX_READS && op->reads[i] ? op->reads[i] : op->uses;
    }
    /* A second run reads all, whoever wants the gradient. */
    return node->recompute.f.run ? op->uses : mask;
}

static int changed(const pf_tape *tape, const pf_node *node, const char *what, const pf_tensor *t) {
    return pf_fail(
        PF_ESTATE,
        "backward of %s (op %lld on this tape): %s %s was changed in place by %s since; " ADVICE,
        node->op->name, (long long)(node - tape->nodes) + 1, what, pf_shape_of(t),
        pf_tensor_change_name(t));
}

int pf_check_unchanged(const pf_tape *tape, const pf_node *node) {
    unsigned mask = reads_of(node);
    for (int i = 0; i < node->n_in; i++) {
        const pf_tensor *t = node->edge[i].in;
        if (t && mask & PF_USES_IN(i) && pf_tensor_change(t) > node->changes)
            return changed(tape, node, pf_op_arg_name(node->op, i), t);
    }
    for (int o = 0; o < node->op->n_out; o++) {
        const pf_tensor *t = node->out[o];
        if (t && mask & PF_USES_OUT(o) && pf_tensor_change(t) > node->changes)
            return changed(tape, node, "its result", t);
    }
    return PF_OK;
}

/* ---- a change that is asked for ---- */

/* The node that reads the tensor's numbers again, or NULL. */
static const pf_node *reader_of(const pf_tape *tape, const pf_tensor *t) {
    for (int64_t k = 0; k < tape->n; k++) {
        const pf_node *node = &tape->nodes[k];
        const unsigned mask = reads_of(node);
        for (int i = 0; i < node->n_in; i++) {
            const pf_tensor *in = node->edge[i].in;
            if (in && mask & PF_USES_IN(i) && in->storage == t->storage) return node;
        }
    }
    return NULL;
}

int pf_check_leaf(const pf_engine *e, const pf_tensor *t, const char *op) {
    if (!pf_tensor_requires_grad(t)) return PF_OK;
    for (const pf_tape *tape = e->tape; tape; tape = tape->outer) {
        const pf_node *node = tape->walked ? NULL : reader_of(tape, t);
        if (!node) continue;
        return pf_fail(
            PF_ESTATE,
            "%s: x %s requires a gradient, and backward of %s (op %lld on the open tape) "
            "would read it again; " ADVICE,
            op, pf_shape_of(t), node->op->name, (long long)(node - tape->nodes) + 1);
    }
    return PF_OK;
}
