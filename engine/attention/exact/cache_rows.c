/*
 * cache_rows.c - see cache_rows.h.
 */
#include "cache_rows.h"

#include <string.h>

enum { FIRST_ROOM = 64 }; /* rows that a cache has room for from its first key on */

int pf_cache_view(pf_tensor **view, pf_tensor *cache, int64_t first, int64_t n) {
    PF_TRY(pf_tensor_view(view, cache));
    (*view)->offset += first * cache->stride[2];
    (*view)->shape[2] = n;
    return PF_OK;
}

/* n rows of `from` to rows of `to`. */
static int copy_rows(pf_tensor *to, int64_t at, pf_tensor *from, int64_t first, int64_t n) {
    pf_tensor *target = NULL, *source = NULL;
    if (n == 0) return PF_OK;
    int status = pf_cache_view(&target, to, at, n);
    if (status >= 0) status = pf_cache_view(&source, from, first, n);
    if (status >= 0) status = pf_tensor_copy(target, source);
    pf_tensor_release(&target);
    pf_tensor_release(&source);
    return status;
}

int pf_cache_cut(pf_tensor **cut, pf_heap *heap, pf_tensor *like, int64_t room, int64_t front,
                 int64_t from, int64_t n) {
    int64_t shape[4] = {like->shape[0], like->shape[1], room, like->shape[3]};
    PF_TRY(pf_tensor_make_lasting(cut, heap, like->dtype, 4, shape));
    int status = copy_rows(*cut, 0, like, 0, front);
    if (status >= 0) status = copy_rows(*cut, front, like, from, n);
    if (status < 0) pf_tensor_release(cut);
    return status;
}

int pf_cache_append(pf_state *s, int which, pf_tensor *x) {
    int64_t held = pf_state_held(s), need = held + x->shape[2];
    int64_t room = s->tensor[which]->shape[2];
    if (need > room) {
        pf_tensor *larger = NULL;
        room = pf_max(pf_max(2 * room, FIRST_ROOM), need);
        PF_TRY(pf_cache_cut(&larger, s->heap, s->tensor[which], room, held, 0, 0));
        pf_tensor_release(&s->tensor[which]);
        s->tensor[which] = larger;
    }
    return copy_rows(s->tensor[which], held, x, 0, x->shape[2]);
}
