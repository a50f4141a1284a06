/*
 * calls.c - the short calls of calls.h. Attributes are found by their names in the op's own
 * table, so that a row may order its attributes as it likes.
 */
#include <string.h>

#include "calls.h"

typedef struct {
    const pf_op *op;
    pf_attr attr[PF_MAX_ATTR];
    int missing; /* attributes asked for that the row has not */
} call;

static call begin(const pf_op *op) {
    call c = {.op = op};
    pf_op_fill_defaults(op, c.attr);
    return c;
}

/* The attribute `name`; a spare one when the row has none such, counted in missing. */
static pf_attr *named(call *c, const char *name) {
    for (int k = 0; k < c->op->n_attrs; k++)
        if (strcmp(c->op->attrs[k].name, name) == 0) return &c->attr[k];
    c->missing++;
    return &c->attr[PF_MAX_ATTR - 1];
}

static void set_int(call *c, const char *name, int64_t value) { named(c, name)->i = value; }
static void set_number(call *c, const char *name, double value) { named(c, name)->f = value; }

static int finish(pf_tensor **y, pf_engine *e, const call *c, pf_tensor *const *in, int n_in,
                  uint64_t draw) {
    *y = NULL;
    if (c->missing) return pf_fail(PF_EINVAL, "%s: its row lacks an attribute", c->op->name);
    return pf_apply_drawn(e, c->op, in, n_in, c->attr, draw, y);
}

static int one(pf_tensor **y, pf_engine *e, const call *c, pf_tensor *x) {
    return finish(y, e, c, &x, 1, 0);
}

static int plain(pf_tensor **y, pf_engine *e, const pf_op *op, pf_tensor *a, pf_tensor *b) {
    pf_tensor *in[2] = {a, b};
    call c = begin(op);
    return finish(y, e, &c, in, 2, 0);
}

int pf_add(pf_tensor **y, pf_engine *e, pf_tensor *a, pf_tensor *b) {
    return plain(y, e, &pf_op_add, a, b);
}

int pf_affine(pf_tensor **y, pf_engine *e, pf_tensor *x, double scale, double shift) {
    call c = begin(&pf_op_affine);
    set_number(&c, "scale", scale);
    set_number(&c, "shift", shift);
    return one(y, e, &c, x);
}

int pf_linear_act(pf_tensor **y, pf_engine *e, pf_tensor *x, pf_tensor *weight, pf_tensor *bias,
                  int act, bool step) {
    pf_tensor *in[3] = {x, weight, bias};
    call c = begin(&pf_op_linear);
    set_int(&c, "act", act);
    set_int(&c, "step", step);
    return finish(y, e, &c, in, bias ? 3 : 2, 0);
}

int pf_linear(pf_tensor **y, pf_engine *e, pf_tensor *x, pf_tensor *weight, pf_tensor *bias) {
    return pf_linear_act(y, e, x, weight, bias, 0, false);
}

int pf_act(pf_tensor **y, pf_engine *e, pf_tensor *x, int act) {
    static const pf_op *const ops[] = {/* in the order of PF_ACTS */
                                       &pf_op_gelu, &pf_op_gelu_tanh, &pf_op_relu, &pf_op_silu,
                                       &pf_op_requ};
    *y = act > 0 ? NULL : pf_tensor_retain(x);
    if (act == 0) return PF_OK;
    call c = begin(ops[act - 1]);
    return one(y, e, &c, x);
}

int pf_layernorm(pf_tensor **y, pf_engine *e, pf_tensor *x, pf_tensor *weight, pf_tensor *bias,
                 double eps) {
    pf_tensor *in[3] = {x, weight, bias};
    call c = begin(&pf_op_layernorm);
    set_number(&c, "eps", eps);
    return finish(y, e, &c, in, bias ? 3 : 2, 0);
}

int pf_rmsnorm(pf_tensor **y, pf_engine *e, pf_tensor *x, pf_tensor *weight, double eps) {
    pf_tensor *in[2] = {x, weight};
    call c = begin(&pf_op_rmsnorm);
    set_number(&c, "eps", eps);
    return finish(y, e, &c, in, 2, 0);
}

/* A norm of x + h. */
static int norm_of_sum(pf_tensor **sum, pf_tensor **y, pf_engine *e, const pf_op *op,
                       pf_tensor *const *in, int n_in, double eps) {
    pf_tensor *out[PF_MAX_OUT] = {NULL};
    call c = begin(op);
    set_number(&c, "eps", eps);
    int status = finish(out, e, &c, in, n_in, 0);
    *sum = out[0], *y = out[1];
    return status;
}

int pf_add_layernorm(pf_tensor **sum, pf_tensor **y, pf_engine *e, pf_tensor *x, pf_tensor *h,
                     pf_tensor *weight, pf_tensor *bias, double eps) {
    pf_tensor *in[4] = {x, h, weight, bias};
    return norm_of_sum(sum, y, e, &pf_op_add_layernorm, in, bias ? 4 : 3, eps);
}

int pf_add_rmsnorm(pf_tensor **sum, pf_tensor **y, pf_engine *e, pf_tensor *x, pf_tensor *h,
                   pf_tensor *weight, double eps) {
    pf_tensor *in[3] = {x, h, weight};
    return norm_of_sum(sum, y, e, &pf_op_add_rmsnorm, in, 3, eps);
}

int pf_embedding(pf_tensor **y, pf_engine *e, pf_tensor *table, pf_tensor *ids) {
    return plain(y, e, &pf_op_embedding, table, ids);
}

static int too_many(const char *op, int rank) {
    return pf_fail(PF_EINVAL, "%s: %d dimensions, at most %d are possible", op, rank, PF_MAX_RANK);
}

int pf_reshape(pf_tensor **y, pf_engine *e, pf_tensor *x, int rank, const int64_t *shape) {
    call c = begin(&pf_op_reshape);
    if (rank < 0 || rank > PF_MAX_RANK) return too_many("reshape", rank);
    pf_attr *list = named(&c, "shape");
    list->n = rank;
    for (int d = 0; d < rank; d++) list->list[d] = shape[d];
    return one(y, e, &c, x);
}

int pf_permute(pf_tensor **y, pf_engine *e, pf_tensor *x, int rank, const int *order) {
    call c = begin(&pf_op_permute);
    if (rank < 0 || rank > PF_MAX_RANK) return too_many("permute", rank);
    pf_attr *list = named(&c, "order");
    list->n = rank;
    for (int d = 0; d < rank; d++) list->list[d] = order[d];
    return one(y, e, &c, x);
}

int pf_slice(pf_tensor **y, pf_engine *e, pf_tensor *x, int dim, int64_t first, int64_t end) {
    call c = begin(&pf_op_slice);
    set_int(&c, "dim", dim);
    set_int(&c, "first", first);
    set_int(&c, "end", end);
    return one(y, e, &c, x);
}

int pf_dropout(pf_tensor **y, pf_engine *e, pf_tensor *x, double p, uint64_t draw) {
    call c = begin(&pf_op_dropout);
    set_number(&c, "p", p);
    return finish(y, e, &c, &x, 1, draw);
}

int pf_rotary(pf_tensor **y, pf_engine *e, pf_tensor *x, pf_tensor *positions, double base,
              bool halves, int64_t offset) {
    pf_tensor *in[2] = {x, positions};
    call c = begin(&pf_op_rotary);
    set_number(&c, "base", base);
    set_int(&c, "halves", halves);
    set_int(&c, "offset", offset);
    return finish(y, e, &c, in, positions ? 2 : 1, 0);
}

int pf_swiglu(pf_tensor **y, pf_engine *e, pf_tensor *gate, pf_tensor *value) {
    return plain(y, e, &pf_op_swiglu, gate, value);
}

enum { MEAN = 0, NONE = 2 }; /* of the choices of `reduction` */

int pf_cross_entropy(pf_tensor **y, pf_engine *e, pf_tensor *logits, pf_tensor *ids) {
    return plain(y, e, &pf_op_cross_entropy, logits, ids);
}

int pf_cross_entropy_each(pf_tensor **y, pf_engine *e, pf_tensor *logits, pf_tensor *ids) {
    pf_tensor *in[2] = {logits, ids};
    call c = begin(&pf_op_cross_entropy);
    set_int(&c, "reduction", NONE);
    return finish(y, e, &c, in, 2, 0);
}

int pf_linear_cross_entropy(pf_tensor **y, pf_tensor **best, pf_engine *e, pf_tensor *x,
                            pf_tensor *weight, pf_tensor *bias, pf_tensor *ids, bool each) {
    pf_tensor *in[4] = {x, weight, ids, bias}, *out[PF_MAX_OUT] = {NULL};
    call c = begin(&pf_op_linear_cross_entropy);
    set_int(&c, "reduction", each ? NONE : MEAN);
    set_int(&c, "best", best != NULL);
    int status = finish(out, e, &c, in, bias ? 4 : 3, 0);
    *y = out[0];
    if (best) *best = out[1];
    return status;
}

int pf_argmax(pf_tensor **y, pf_engine *e, pf_tensor *x, int dim) {
    call c = begin(&pf_op_argmax);
    set_int(&c, "dim", dim);
    return one(y, e, &c, x);
}
