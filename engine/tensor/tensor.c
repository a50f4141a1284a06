/*
 * tensor.c - the life of tensors: headers, storages, views, and the list of what a tape
 * owns. What must hold: a storage lives as long as a header refers to it, its data no longer
 * than its tape; every byte comes from a heap, or is lent and given back once. Blocks keep their
 * heap alive by themselves (heap.c), so neither headers nor storages count as references of it.
 */
#include <string.h>

#include "tensor.h"

/* ---- storages ---- */

/* A tape's storages hang in a list with the newest first; those that are nobody's in none. */
static void link_storage(pf_storage *s, struct pf_tape *tape) {
    pf_owner *owner = (pf_owner *)tape;
    s->tape = tape;
    s->next = owner->first;
    if (s->next) s->next->prev = s;
    owner->first = s;
}

static void unlink_storage(pf_storage *s) {
    if (!s->tape) return;
    pf_owner *owner = (pf_owner *)s->tape;
    if (s->prev)
        s->prev->next = s->next;
    else
        owner->first = s->next;
    if (s->next) s->next->prev = s->prev;
    s->next = s->prev = NULL;
    s->tape = NULL;
}

static pf_storage *storage_of(pf_heap *heap, void *data, size_t bytes) {
    pf_storage *s = pf_heap_zalloc(heap, sizeof *s);
    if (!s) return NULL;
    atomic_init(&s->refs, 1);
    s->heap = heap;
    s->data = data;
    s->bytes = bytes;
    return s;
}

/* tape NULL: nobody's. */
static pf_storage *storage_new(pf_heap *heap, struct pf_tape *tape, size_t bytes) {
    void *data = pf_heap_alloc(heap, bytes);
    pf_storage *s = data ? storage_of(heap, data, bytes) : NULL;
    if (!s) pf_heap_free(heap, data, bytes);
    if (s && tape) link_storage(s, tape);
    return s;
}

static void give_back(const pf_lender *lender) {
    if (lender->release) lender->release(lender->context);
}

/* Of memory that is lent; it belongs to no tape, whose end its owner knows nothing of. */
static pf_storage *storage_lent(pf_heap *heap, const void *data, size_t bytes, pf_lender lender) {
    pf_storage *s = storage_of(heap, (void *)data, bytes);
    lender.lends = true;
    if (s) s->lender = lender;
    return s;
}

static void storage_drop_data(pf_storage *s) {
    void *data = s->data;
    s->data = NULL;
    if (s->lender.lends)
        give_back(&s->lender);
    else
        pf_heap_free(s->heap, data, s->bytes);
}

static void storage_release(pf_storage *s) {
    if (!s || atomic_fetch_sub_explicit(&s->refs, 1, memory_order_acq_rel) != 1) return;
    unlink_storage(s);
    storage_drop_data(s);
    pf_heap_free(s->heap, s, sizeof *s);
}

void pf_tensor_pass_on(pf_tensor *t, struct pf_tape *from, struct pf_tape *to) {
    pf_storage *s = t->storage;
    if (!s || !from || s->tape != from) return;
    unlink_storage(s);
    link_storage(s, to);
}

void pf_owner_close(pf_owner *owner) {
    while (owner->first) {
        pf_storage *s = owner->first;
        unlink_storage(s);
        storage_drop_data(s);
    }
}

/* ---- headers ---- */

/* A header without storage, contiguous. */
static pf_tensor *header_new(pf_heap *heap, pf_dtype dtype, int rank, const int64_t *shape) {
    pf_tensor *t = pf_heap_zalloc(heap, sizeof *t);
    if (!t) return NULL;
    atomic_init(&t->refs, 1);
    t->heap = heap;
    t->dtype = dtype;
    t->rank = rank;
    t->node = -1;
    for (int i = 0; i < rank; i++) t->shape[i] = shape[i];
    pf_shape_strides(rank, shape, t->stride);
    return t;
}

/* The tensor itself outlives its tape: what dies is the storage's data, and whoever still holds
 * the tensor is told so by pf_tensor_check. */
static int make(pf_tensor **out, pf_heap *heap, struct pf_tape *tape, pf_dtype dtype, int rank,
                const int64_t *shape) {
    *out = NULL;
    PF_TRY(pf_shape_valid(rank, shape, dtype, "tensor"));
    size_t bytes = (size_t)pf_shape_numel(rank, shape) * pf_dtype_size(dtype);
    pf_tensor *t = header_new(heap, dtype, rank, shape);
    if (!t) return PF_ENOMEM;
    t->storage = storage_new(heap, tape, bytes);
    if (!t->storage) {
        pf_heap_free(heap, t, sizeof *t);
        return pf_fail_in(PF_ENOMEM, "tensor %s %s", pf_shape_text(rank, shape),
                          pf_dtype_name(dtype));
    }
    *out = t;
    return PF_OK;
}

int pf_tensor_make(pf_tensor **t, pf_engine *engine, pf_dtype dtype, int rank,
                   const int64_t *shape) {
    return make(t, engine->heap, engine->tape, dtype, rank, shape);
}

int pf_tensor_make_lasting(pf_tensor **t, pf_heap *heap, pf_dtype dtype, int rank,
                           const int64_t *shape) {
    return make(t, heap, NULL, dtype, rank, shape);
}

int pf_tensor_make_parameter(pf_tensor **t, pf_engine *engine, pf_dtype dtype, int rank,
                             const int64_t *shape) {
    *t = NULL;
    if (!engine->loading) return make(t, engine->heap, NULL, dtype, rank, shape);
    PF_TRY(pf_shape_valid(rank, shape, dtype, "tensor"));
    *t = header_new(engine->heap, dtype, rank, shape);
    return *t ? PF_OK : PF_ENOMEM;
}

static size_t bytes_of(const pf_tensor *t) {
    return (size_t)pf_tensor_numel(t) * pf_dtype_size(t->dtype);
}

int pf_tensor_settle(pf_tensor *t) {
    if (t->storage) return PF_OK;
    t->storage = storage_new(t->heap, NULL, bytes_of(t));
    if (t->storage) return PF_OK;
    return pf_fail_in(PF_ENOMEM, "tensor %s %s", pf_shape_of(t), pf_dtype_name(t->dtype));
}

int pf_tensor_settle_lent(pf_tensor *t, const void *data, pf_lender lender) {
    t->storage = storage_lent(t->heap, data, bytes_of(t), lender);
    if (t->storage) return PF_OK;
    give_back(&lender);
    return PF_ENOMEM;
}

/* What fails gives nothing back: the memory is still the host's. */
static int wrap(pf_tensor **out, pf_engine *engine, pf_dtype dtype, int rank, const int64_t *shape,
                const void *data, pf_lender lender) {
    size_t align = pf_dtype_size(dtype);
    PF_TRY(pf_shape_valid(rank, shape, dtype, "wrap"));
    if ((uintptr_t)data % align != 0) {
        return pf_fail(PF_EINVAL, "wrap: the address %p is no multiple of %zu, the bytes of an %s",
                       data, align, pf_dtype_name(dtype));
    }
    pf_tensor *t = header_new(engine->heap, dtype, rank, shape);
    if (!t) return PF_ENOMEM;
    t->storage = storage_lent(engine->heap, data, bytes_of(t), lender);
    if (!t->storage) {
        pf_heap_free(engine->heap, t, sizeof *t);
        return PF_ENOMEM;
    }
    *out = t;
    return PF_OK;
}

int pf_tensor_wrap(pf_tensor **t, pf_engine *engine, pf_dtype dtype, int rank, const int64_t *shape,
                   void *data, pf_release_fn release, void *context) {
    PF_OUT(t);
    PF_OPEN(engine);
    PF_NEED(data);
    PF_NEED_ARRAY(shape, rank);
    return wrap(t, engine, dtype, rank, shape, data,
                (pf_lender){.release = release, .context = context});
}

int pf_tensor_wrap_const(pf_tensor **t, pf_engine *engine, pf_dtype dtype, int rank,
                         const int64_t *shape, const void *data, pf_release_fn release,
                         void *context) {
    PF_OUT(t);
    PF_OPEN(engine);
    PF_NEED(data);
    PF_NEED_ARRAY(shape, rank);
    return wrap(t, engine, dtype, rank, shape, data,
                (pf_lender){.fixed = true, .release = release, .context = context});
}

int pf_tensor_make_ordered(pf_tensor **t, pf_engine *engine, pf_dtype dtype, int rank,
                           const int64_t *shape, const int *order) {
    PF_TRY(pf_tensor_make(t, engine, dtype, rank, shape));
    int64_t step = 1;
    for (int i = rank - 1; i >= 0; i--) {
        (*t)->stride[order[i]] = step;
        step *= pf_max(shape[order[i]], 1);
    }
    return PF_OK;
}

/* A copy of the header that stands outside the graph. */
int pf_tensor_ghost(pf_tensor **ghost, const pf_tensor *t) {
    pf_tensor *copy = *ghost = header_new(t->heap, t->dtype, t->rank, t->shape);
    return copy ? PF_OK : PF_ENOMEM;
}

int pf_tensor_view(pf_tensor **view, const pf_tensor *t) {
    PF_TRY(pf_tensor_ghost(view, t));
    memcpy((*view)->stride, t->stride, sizeof t->stride);
    (*view)->offset = t->offset;
    (*view)->storage = t->storage;
    if (t->storage) atomic_fetch_add_explicit(&t->storage->refs, 1, memory_order_relaxed);
    return PF_OK;
}

pf_tensor *pf_tensor_retain(pf_tensor *t) {
    if (t) atomic_fetch_add_explicit(&t->refs, 1, memory_order_relaxed);
    return t;
}

/* A gradient has no gradient of its own, nor has the list of its rows, so this goes one level deep.
 * A tensor that was released through another copy of the pointer is left alone; until its block is
 * given out again it says that it holds no data. */
void pf_tensor_release(pf_tensor **address) {
    pf_tensor *t = address ? *address : NULL;
    if (!t) return;
    *address = NULL;
    if (!pf_heap_holds(t)) return;
    if (atomic_fetch_sub_explicit(&t->refs, 1, memory_order_acq_rel) != 1) return;
    pf_tensor_release(&t->grad);
    pf_tensor_release(&t->grad_rows);
    storage_release(t->storage);
    t->storage = NULL;
    pf_heap_free(t->heap, t, sizeof *t);
}

/* ---- looking ---- */

pf_tensor pf_tensor_place(const pf_tensor *t) {
    pf_tensor place = {.heap = t->heap,
                       .storage = t->storage,
                       .dtype = t->dtype,
                       .rank = t->rank,
                       .offset = t->offset,
                       .node = -1};
    memcpy(place.shape, t->shape, sizeof t->shape);
    memcpy(place.stride, t->stride, sizeof t->stride);
    return place;
}

int pf_tensor_rank(const pf_tensor *t) { return t ? t->rank : 0; }

/* A dimension that is not there has size 0. */
int64_t pf_tensor_size(const pf_tensor *t, int dim) {
    if (!t) return 0;
    int d = dim < 0 ? dim + t->rank : dim;
    return d >= 0 && d < t->rank ? t->shape[d] : 0;
}

int64_t pf_tensor_numel(const pf_tensor *t) { return t ? pf_shape_numel(t->rank, t->shape) : 0; }

pf_dtype pf_tensor_dtype(const pf_tensor *t) { return t ? t->dtype : PF_F32; }

bool pf_tensor_alive(const pf_tensor *t) { return t && t->storage && t->storage->data; }

/* A dimension of size 1 is never stepped along: its stride is of no matter. */
bool pf_tensor_contiguous(const pf_tensor *t) {
    int64_t step = 1;
    if (!t) return false;
    for (int i = t->rank - 1; i >= 0; i--) {
        if (t->shape[i] == 0) return true;
        if (t->shape[i] != 1 && t->stride[i] != step) return pf_tensor_numel(t) == 0;
        step *= t->shape[i];
    }
    return true;
}

int pf_tensor_check(const pf_tensor *t, pf_dtype dtype, const char *op, const char *arg) {
    if (!t) return pf_fail(PF_EINVAL, "%s: %s is missing", op, arg);
    if (!t->storage)
        return pf_fail(PF_ESTATE, "%s: %s %s holds a shape only, no data", op, arg, pf_shape_of(t));
    if (!t->storage->data)
        return pf_fail(PF_ESTATE,
                       "%s: %s %s died with its tape; keep what outlives a tape with detach", op,
                       arg, pf_shape_of(t));
    if (t->dtype != dtype)
        return pf_fail(PF_EDTYPE, "%s: %s %s is %s, must be %s", op, arg, pf_shape_of(t),
                       pf_dtype_name(t->dtype), pf_dtype_name(dtype));
    return PF_OK;
}

/* Does one number stand at several places, as expand makes them? */
static bool repeats(const pf_tensor *t) {
    for (int d = 0; d < t->rank; d++)
        if (t->stride[d] == 0 && t->shape[d] > 1) return true;
    return false;
}

int pf_tensor_check_writable(const pf_tensor *t, const char *op) {
    if (repeats(t))
        return pf_fail(PF_ESTATE,
                       "%s: %s is a view that has one number at several places (expand); detach "
                       "makes a copy that can be written to",
                       op, pf_shape_of(t));
    if (!pf_tensor_read_only(t)) return PF_OK;
    return pf_fail(PF_ESTATE,
                   "%s: %s lies in memory that is only read, a host's or a mapped file's; detach "
                   "makes a copy that can be written to",
                   op, pf_shape_of(t));
}

bool pf_tensor_read_only(const pf_tensor *t) { return t && t->storage && t->storage->lender.fixed; }

void *pf_tensor_data(pf_tensor *t) {
    if (!pf_tensor_alive(t) || !pf_tensor_contiguous(t)) return NULL;
    return (char *)t->storage->data + (size_t)t->offset * pf_dtype_size(t->dtype);
}
