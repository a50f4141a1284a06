/*
 * tensor.h - front header of the floor tensor/: storage, tensor, shapes, views.
 *
 * A tensor is a view (shape, strides, offset, in elements) of a reference-counted storage.
 * A storage made while a tape is open belongs to that tape: when the tape closes, its
 * bytes go back and every tensor on it is dead (storage->data == NULL). Only ops/ and
 * below look at data; a dead tensor is refused by pf_tensor_check.
 */
#ifndef PF_TENSOR_H
#define PF_TENSOR_H

#include <stdatomic.h>

#include "runtime.h"

/* Memory that is no heap's: the host's, or a file's. */
typedef struct pf_lender {
    bool lends;
    bool fixed;                     /* nobody writes to it */
    void (*release)(void *context); /* when the last reference has gone; NULL: nobody asks */
    void *context;
} pf_lender;

typedef struct pf_storage {
    atomic_int refs;
    pf_heap *heap; /* alive as long as this block is */
    void *data;    /* NULL: died with its tape */
    size_t bytes;
    pf_lender lender;               /* of the data */
    struct pf_tape *tape;           /* owner, or NULL */
    struct pf_storage *next, *prev; /* the owner's list */
    /* change.c: the last write in place */
    atomic_uint_fast64_t changed; /* its number; 0: none since the storage was made */
    _Atomic(const char *) change; /* what wrote, for messages */
    atomic_uint_fast64_t source;  /* where a copy's numbers came from: see pf_tensor_touch_from */
} pf_storage;

/* Every tape starts with this, so that the tensor floor can keep the list of what it owns. */
typedef struct pf_owner {
    pf_storage *first;
} pf_owner;

struct pf_tensor {
    atomic_int refs;
    pf_heap *heap;       /* where this header lies; alive as long as it does */
    pf_storage *storage; /* NULL: a ghost, shape without data */
    pf_dtype dtype;
    int rank;
    int64_t shape[PF_MAX_RANK];
    int64_t stride[PF_MAX_RANK]; /* elements */
    int64_t offset;
    /* autograd */
    bool requires_grad;   /* a leaf that wants a gradient */
    bool grad_stale;      /* grad holds old numbers: overwrite, don't add */
    int awaited;          /* of a leaf: contributions to grad, while somebody waits (leaves.c) */
    pf_tensor *grad;      /* owned */
    pf_tensor *grad_rows; /* owned, i32, ascending: grad is 0 in all other rows of the first
                           * dimension, also where it is stale; NULL: that is not known */
    struct pf_tape *tape; /* tape whose node made this tensor, or NULL */
    uint64_t tape_id;     /* ... and its number: addresses come back */
    int node, slot;       /* ... which node, which of its outputs */
};

/* ---- dtypes: a row each (dtype.c) ---- */
typedef struct pf_dtype_row {
    const char *name;      /* "f32", as people write it */
    const char *file_name; /* "F32", as safetensors writes it */
    const char *element;   /* "float", what a C host has an array of */
    size_t bytes;          /* an element */
    bool whole;            /* whole numbers from low to high; else any, rounded (0: unbounded) */
    double low, high;
    int64_t counts; /* 0, 1, ... counts - 1 are all held exactly */
    /* n elements, `step` elements apart, to doubles and from them. */
    void (*load)(double *out, const void *from, int64_t step, int64_t n);
    void (*store)(void *to, int64_t step, const double *in, int64_t n); /* values that fit */
} pf_dtype_row;

const pf_dtype_row *pf_dtype_find(pf_dtype dtype); /* NULL: there is no such dtype */
/* Can the row hold the value as it is, or (cut) once it is cut toward zero? */
bool pf_dtype_fits(const pf_dtype_row *row, double value, bool cut);

/* ---- making ---- */
int pf_tensor_make(pf_tensor **t, pf_engine *engine, pf_dtype dtype, int rank,
                   const int64_t *shape);
/* Outside the open tape: parameters, gradients, states. */
int pf_tensor_make_lasting(pf_tensor **t, pf_heap *heap, pf_dtype dtype, int rank,
                           const int64_t *shape);
/* The same, of a parameter: a shape alone while engine->loading, until pf_tensor_settle gives it
 * storage, whose numbers are undefined. */
int pf_tensor_make_parameter(pf_tensor **t, pf_engine *engine, pf_dtype dtype, int rank,
                             const int64_t *shape);
int pf_tensor_settle(pf_tensor *t); /* nothing where it has storage */
/* The same with numbers that lie elsewhere, which are given back also when this fails. */
int pf_tensor_settle_lent(pf_tensor *t, const void *data, pf_lender lender);
/* Same shape as `like`, but laid out so that dimension order `order` (outermost first) is
 * contiguous; e.g. (B,H,L,d) stored as (B,L,H,d) with order {0,2,1,3}. */
int pf_tensor_make_ordered(pf_tensor **t, pf_engine *engine, pf_dtype dtype, int rank,
                           const int64_t *shape, const int *order);
/* A new header on the same storage; the caller changes shape, stride, offset. No graph. */
int pf_tensor_view(pf_tensor **view, const pf_tensor *t);
int pf_tensor_ghost(pf_tensor **ghost, const pf_tensor *t);
/* *out = t retained if contiguous, else a contiguous copy. No graph. */
int pf_tensor_compact(pf_tensor **out, pf_engine *engine, const pf_tensor *t);
/* The numbers of `from` over to's, which has its shape and dtype and another storage: the caller
 * has looked at both, and tells of the change. */
void pf_tensor_put(pf_tensor *to, const pf_tensor *from);
/* t's numbers, if they belong to tape `from`, belong to `to` from now on. */
void pf_tensor_pass_on(pf_tensor *t, struct pf_tape *from, struct pf_tape *to);
void pf_owner_close(pf_owner *owner); /* every storage of the list dies */

/* ---- looking ---- */
/* Where t's numbers lie, as a header to be changed at will: nobody's, without count or graph.
 * Never `*t`: other threads may be counting references of a tensor that they share. */
pf_tensor pf_tensor_place(const pf_tensor *t);
static inline float *pf_f32(const pf_tensor *t) { return (float *)t->storage->data + t->offset; }
static inline int32_t *pf_i32(const pf_tensor *t) {
    return (int32_t *)t->storage->data + t->offset;
}
/* Nobody else sees these numbers, and they lie in a row. */
static inline bool pf_tensor_own(const pf_tensor *t) {
    return atomic_load(&t->refs) == 1 && atomic_load(&t->storage->refs) == 1 &&
           !t->storage->lender.lends && pf_tensor_contiguous(t);
}
bool pf_same_shape(const pf_tensor *a, const pf_tensor *b);
/* Ready to read: alive, of dtype. Fails naming op and argument. */
int pf_tensor_check(const pf_tensor *t, pf_dtype dtype, const char *op, const char *arg);
/* May its numbers be written over? PF_ESTATE: they lie where nobody writes. */
int pf_tensor_check_writable(const pf_tensor *t, const char *op);

/* `to`, which may be a header of nobody's, := `from` of its shape, any strides, also where they
 * overlap. Of another dtype: every number is held as it is, or PF_EINVAL before any is written.
 * Whoever calls touches. */
int pf_tensor_assign(const pf_tensor *to, const pf_tensor *from);

/* ---- changes in place (change.c) ---- */
/* Every write in place has a number, higher than all before it in the process. What keeps a
 * tensor to read it later keeps the number of that moment too: a storage with a higher one does
 * not hold the numbers any more that were read. */
uint64_t pf_changes(void); /* the number of the last one */
/* The tensor's numbers have just been written over by `what`, a literal. */
void pf_tensor_touch(const pf_tensor *t, const char *what);
/* The same of a copy. Where `from` may have a gradient the storage remembers whose: the number of
 * the tape that made it, or of a leaf PF_OF_LEAF with the number of this change; else 0. */
#define PF_OF_LEAF ((uint64_t)1 << 63)
void pf_tensor_touch_from(const pf_tensor *t, const pf_tensor *from, const char *what);
/* The same of numbers that were made of several tensors, some of them NULL. */
void pf_tensor_touch_from_any(const pf_tensor *t, int n, pf_tensor *const *from, const char *what);
static inline uint64_t pf_tensor_change(const pf_tensor *t) {
    return t->storage ? atomic_load_explicit(&t->storage->changed, memory_order_relaxed) : 0;
}
static inline const char *pf_tensor_change_name(const pf_tensor *t) {
    const char *what = atomic_load_explicit(&t->storage->change, memory_order_relaxed);
    return what ? what : "a write";
}

/* ---- shapes: pure arithmetic ---- */
int64_t pf_shape_numel(int rank, const int64_t *shape);
int pf_shape_valid(int rank, const int64_t *shape, pf_dtype dtype,
                   const char *where); /* rank, sign, overflow */
void pf_shape_strides(int rank, const int64_t *shape, int64_t *stride);
/* The broadcast of two shapes; PF_ESHAPE without a message when they don't fit, with
 * *axis the dimension (of the longer shape) that disagrees. */
int pf_shape_broadcast(int ra, const int64_t *a, int rb, const int64_t *b, int *rank,
                       int64_t *shape, int *axis);
int pf_dim(int dim, int rank, const char *op, int *out); /* negative from the end; checks */
/* "[2, 3, 4]" in a rotating thread-local buffer: good for 8 uses in one message. */
const char *pf_shape_text(int rank, const int64_t *shape);
const char *pf_shape_of(const pf_tensor *t);

/* ---- walking strided memory: outer steps and one inner run ---- */
#define PF_ITER_MAX 4
typedef struct {
    int n;    /* operands */
    int rank; /* outer dimensions left after merging */
    int64_t shape[PF_MAX_RANK];
    int64_t stride[PF_ITER_MAX][PF_MAX_RANK];
    int64_t inner;                     /* elements in an inner run */
    int64_t inner_stride[PF_ITER_MAX]; /* elements; 0 broadcast, 1 contiguous */
    int64_t outer;                     /* number of runs */
} pf_iter;
/* Operands are broadcast to `shape`. Adjacent dimensions merge where every operand allows. */
void pf_iter_make(pf_iter *it, int rank, const int64_t *shape, int n,
                  const pf_tensor *const *operands);
/* Element offsets of run `index` for each operand, counted from pf_f32(operand): the
 * tensor's own offset is not in them. Runs stand in row-major order of `shape`. */
void pf_iter_at(const pf_iter *it, int64_t index, int64_t *offsets);

#endif
