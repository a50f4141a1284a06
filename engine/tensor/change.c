/*
 * change.c - what was written in place, and when. What must hold: whoever writes over numbers of
 * a tensor that others may hold calls pf_tensor_touch right after it; what an op writes into its
 * own new outputs is no change. A write through any view is one of the whole storage.
 */
#include "tensor.h"

/* Numbers the writes of all engines of the process: storages are shared between them. */
static atomic_uint_fast64_t change_count;

uint64_t pf_changes(void) { return atomic_load_explicit(&change_count, memory_order_relaxed); }

static bool is_whole(const pf_tensor *t) {
    return (size_t)pf_tensor_numel(t) * pf_dtype_size(t->dtype) >= t->storage->bytes;
}

/* A part that is written over leaves the rest what it was. */
static void set_source(const pf_tensor *t, uint64_t source) {
    if (source || is_whole(t))
        atomic_store_explicit(&t->storage->source, source, memory_order_relaxed);
}

/* Returns the change's number. */
static uint64_t touch(const pf_tensor *t, const char *what) {
    pf_storage *s = t->storage;
    atomic_store_explicit(&s->change, what, memory_order_relaxed);
    uint64_t number = atomic_fetch_add_explicit(&change_count, 1, memory_order_relaxed) + 1;
    atomic_store_explicit(&s->changed, number, memory_order_relaxed);
    return number;
}

void pf_tensor_touch(const pf_tensor *t, const char *what) {
    if (!t || !t->storage) return;
    touch(t, what);
    set_source(t, 0);
}

/* What a copy of a copy holds comes from where the first one's came. */
static uint64_t source_of(const pf_tensor *from, uint64_t number) {
    if (from->requires_grad) return PF_OF_LEAF | number;
    if (from->tape) return from->tape_id;
    return atomic_load_explicit(&from->storage->source, memory_order_relaxed);
}

/* A source of several is the first: there is room for one, and each is refused alike. */
void pf_tensor_touch_from_any(const pf_tensor *t, int n, pf_tensor *const *from, const char *what) {
    uint64_t number = touch(t, what), source = 0;
    for (int i = 0; i < n && source == 0 && t->dtype == PF_F32; i++)
        if (from[i] && from[i]->dtype == PF_F32) source = source_of(from[i], number);
    set_source(t, source);
}

void pf_tensor_touch_from(const pf_tensor *t, const pf_tensor *from, const char *what) {
    pf_tensor_touch_from_any(t, 1, (pf_tensor *const[]){(pf_tensor *)from}, what);
}

void pf_tensor_changed(pf_tensor *t) { pf_tensor_touch(t, "its owner"); }
