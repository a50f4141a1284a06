/*
 * op.h - front header of the floor ops/: what an op is, and how it is called.
 *
 * An op is one row: names, attributes, shape rule, forward, backward. Everything else
 * (tape, Lua methods, gradient check, documentation) follows from the row. Rows stand
 * beside their functions, one file a family; ops.def lists them, one line each.
 *
 * Who allocates: `shape` makes the outputs' shapes, the caller (pf_call_forward) allocates
 * contiguous outputs, unless the op sets PF_OP_OWN_OUTPUTS and makes them itself (views,
 * other layouts). An output whose rule leaves or sets shape[o].rank = -1 is absent: out[o]
 * stays NULL. Backward asks for gradients slot by slot:
 *   pf_grad_slot(c, i)      tensor to ADD into, contiguous, zeroed when first used;
 *   pf_grad_fresh(c, i, &f) the same, but when *f it is uninitialised: OVERWRITE it;
 *   pf_grad_rows(c, i, row, n, &t)  as the first, of a table in which only the n named rows of
 *                           the first dimension are added to;
 *   pf_grad_give(c, i, t)   hands over a finished tensor of the input's shape (retained);
 *   pf_grad_gathers(c, i)   true: what is given would be copied or added, and a slot saves that;
 *                           false: what is given would be taken as it is.
 * A given tensor may be dout[o] itself or a view of it, and may be given to several slots:
 * the receiver must not add into what others hold. A slot whose c->need[i] is false must
 * not be asked for. dout[o] is NULL where no gradient arrived; otherwise it has the output's
 * shape and any strides, and where it is pf_tensor_own, backward may write over it. In backward
 * in[i] and out[o] that `uses` does not name are ghosts: they have a shape and no data.
 *
 * Temporaries belong to the call: what pf_call_compact, pf_call_make, pf_call_hold and
 * pf_call_alloc hand out lasts until the forward, or the backward, has ended, whatever came of
 * it. So both are straight lines of PF_TRY, and release nothing.
 */
#ifndef PF_OP_H
#define PF_OP_H

#include "tensor.h"

/* Activations that linear takes, after "none". */
#define PF_ACTS "gelu|gelu_tanh|relu|silu|square_relu"

/* Gates of gated linear units, ops of these names (glu.c). */
#define PF_GATES "swiglu|geglu|geglu_tanh|reglu|glu"

/* The value of an optional PF_ATTR_DIM that was not given: "over all dimensions". Also the
 * place of an optional PF_ATTR_INDEX that was not given: "to the end". Both are exact as a
 * double, as defaults have to be. */
#define PF_DIM_ALL   (-1000)
#define PF_INDEX_END ((int64_t)1 << 52)

enum { PF_MAX_IN = 24, PF_MAX_OUT = 4, PF_MAX_SAVED = 6, PF_MAX_ATTR = 16, PF_MAX_HELD = 32 };

/* What backward reads, so that the tape keeps no more. */
#define PF_USES_IN(i)  (1u << (i))
#define PF_USES_OUT(o) (1u << (PF_MAX_IN + (o)))
#define PF_USES_ALL_IN ((1u << PF_MAX_IN) - 1)
#define PF_USES_NONE   (1u << 31)
enum { PF_MAX_READS = 4 };

typedef enum {
    PF_OP_OWN_OUTPUTS = 1, /* forward makes c->out[] itself */
    PF_OP_VARIADIC = 2,    /* takes any number of inputs up to PF_MAX_IN of one kind */
    PF_OP_NO_GRAD = 4,     /* not differentiable: outputs are never part of the graph */
    PF_OP_PICKS = 16,      /* reads no more of its inputs than it writes, or nothing at all */
    PF_OP_RANDOM = 8       /* reads c->draw; pf_op_apply gives every call a new one */
} pf_op_flags;

typedef struct pf_shape {
    pf_dtype dtype;
    int rank;
    int64_t dim[PF_MAX_RANK];
} pf_shape;

/* A tensor (bytes 0) or a block of the engine's heap. */
typedef struct pf_held {
    void *what;
    size_t bytes;
} pf_held;

typedef struct pf_call {
    pf_engine *engine;
    const struct pf_op *op;
    int n_in;
    pf_tensor *in[PF_MAX_IN];   /* NULL: optional and absent */
    pf_shape shape[PF_MAX_OUT]; /* filled by the shape rule */
    pf_tensor *out[PF_MAX_OUT];
    pf_tensor *saved[PF_MAX_SAVED]; /* made by forward when c->record; owned by the call */
    bool record;                    /* a backward may follow */
    uint64_t draw;                  /* for ops with random numbers: the stream's number */
    /* backward */
    pf_tensor *dout[PF_MAX_OUT];
    bool need[PF_MAX_IN];
    void *grad_context;        /* the tape's; see pf_grad_* */
    pf_attr attr[PF_MAX_ATTR]; /* those that the row lacks are 0 */
    /* what the call itself releases at its end; places from n_held on are undefined */
    int n_held;
    pf_held held[PF_MAX_HELD];
} pf_call;

typedef struct pf_op {
    const char *name;
    const char *args; /* "a, b, [mask]" */
    const char *results;
    const char *doc;
    int min_in, max_in, n_out;
    unsigned flags;
    unsigned uses; /* PF_USES_* of backward */
    /* The part of it that the gradient of input i reads; 0: all. What only gradients that nobody
     * wants would read may change before backward. */
    unsigned reads[PF_MAX_READS];
    /* PF_USES_* of i32 tensors that hold positions, which readers count from where they count. */
    unsigned places;
    int of; /* which of its family, for functions that several rows share */
    const pf_attr_info *attrs;
    int n_attrs;
    int (*shape)(pf_call *c);
    /* Multiplications of a forward, from shapes and attributes alone (inputs may be ghosts), for
     * the count of work; NULL: a few for each number that is read or written. */
    double (*products)(const pf_call *c);
    int (*forward)(pf_call *c);
    int (*backward)(pf_call *c);
    /* Its name as a change in place of input 0, whose shape and dtype the result then has to have
     * ("add_"); NULL: it has none. */
    const char *in_place;
} pf_op;

/* Rows of this floor: extern const pf_op pf_op_<name>. */
#define PF_OP(name) extern const pf_op pf_op_##name;
#include "ops.def"
#undef PF_OP

/* ---- the op table (registry.c) ---- */

/* Adds a floor's rows to an engine. */
int pf_registry_add(pf_engine *engine, const pf_op *const *rows, int n);
int pf_ops_register(pf_engine *engine); /* this floor's rows; picks the kernels too */
/* describe.c: sets `ops` of a map to the engine's table (pf_describe). */
int pf_ops_describe(pf_config *to, const pf_engine *engine);
/* Row `index`, or NULL with a message. */
const pf_op *pf_registry_row(const pf_engine *engine, int index);

/* Default attributes of a row. */
void pf_op_fill_defaults(const pf_op *op, pf_attr *attrs);
/* Name of argument i ("weight") for messages, in a rotating thread-local buffer. */
const char *pf_op_arg_name(const pf_op *op, int i);

/* ---- a call (call.c) ---- */

/* Shape rule, allocation and forward, without a tape. Checks count, liveness and attrs. */
int pf_call_forward(pf_call *c);
/* The row's backward, of a call that has grad_context, dout and need. */
int pf_call_backward(pf_call *c);
void pf_call_release(pf_call *c); /* saved tensors and outputs */

/* Temporaries, all borrowed from the call. */
/* *out = t itself where its numbers lie in a row, else a copy. t NULL: *out NULL. */
int pf_call_compact(pf_call *c, const pf_tensor *t, pf_tensor **out);
int pf_call_make(pf_call *c, pf_dtype dtype, int rank, const int64_t *shape, pf_tensor **out);
/* Takes t over, also on failure; NULL is none. */
int pf_call_hold(pf_call *c, pf_tensor *t);
/* As pf_heap_alloc: undefined contents, NULL (with message, PF_ENOMEM) on failure. */
void *pf_call_alloc(pf_call *c, size_t bytes);
/* Input i is alive and of `dtype`; the message names op and argument. */
int pf_want(const pf_call *c, int i, pf_dtype dtype);

/* For shape rules: "matmul: a is [2, 3], b is [4, 5]; <format>" and PF_ESHAPE. */
int pf_shape_fail(const pf_call *c, const char *format, ...) __attribute__((format(printf, 2, 3)));
#ifdef __clang_analyzer__ /* see status.h */
#define pf_shape_fail(c, ...) ((void)pf_shape_fail(c, __VA_ARGS__), PF_ESHAPE)
#endif
int pf_want_places(const pf_call *c, int64_t n); /* an i32 holds the place of each of n elements */
int pf_set_shape(pf_call *c, int o, pf_dtype dtype, int rank, const int64_t *dim);
int pf_same_as(pf_call *c, int o, int input); /* output o is shaped like input */

/* ---- gradients: implemented by autograd, the only caller of backward ---- */

typedef struct pf_grad_ops {
    int (*slot)(pf_call *c, int i, bool want_fresh, bool *fresh, pf_tensor **t);
    int (*rows)(pf_call *c, int i, const int32_t *row, int64_t n, pf_tensor **t);
    int (*give)(pf_call *c, int i, pf_tensor *t);
    bool (*gathers)(const pf_call *c, int i);
} pf_grad_ops;
/* Begins every grad_context. */
typedef struct pf_grad_sink {
    const pf_grad_ops *ops;
} pf_grad_sink;

static inline int pf_grad_slot(pf_call *c, int i, pf_tensor **t) {
    bool fresh;
    return ((pf_grad_sink *)c->grad_context)->ops->slot(c, i, false, &fresh, t);
}
static inline int pf_grad_fresh(pf_call *c, int i, bool *fresh, pf_tensor **t) {
    return ((pf_grad_sink *)c->grad_context)->ops->slot(c, i, true, fresh, t);
}
static inline int pf_grad_rows(pf_call *c, int i, const int32_t *row, int64_t n, pf_tensor **t) {
    return ((pf_grad_sink *)c->grad_context)->ops->rows(c, i, row, n, t);
}
static inline int pf_grad_give(pf_call *c, int i, pf_tensor *t) {
    return ((pf_grad_sink *)c->grad_context)->ops->give(c, i, t);
}
static inline bool pf_grad_gathers(const pf_call *c, int i) {
    return ((pf_grad_sink *)c->grad_context)->ops->gathers(c, i);
}

#endif
