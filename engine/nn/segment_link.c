/*
 * segment_link.c - the ends of a link between segments: what it knows, and how something goes to
 * the next segment, on this rank or another.
 */
#include "segment_link.h"

#include <string.h>

void pf_link_free(void *context) {
    pf_link *l = context;
    pf_heap_free(l->heap, l, sizeof *l + (size_t)l->shape.heads * sizeof(float));
}

/* shape NULL: of rows. */
int pf_link_make(pf_link **made, const pf_run *run, const pf_part_shape *shape) {
    pf_segmented *q = run->slice->segmented;
    int64_t heads = shape ? shape->heads : 0;
    pf_link *l = pf_heap_zalloc(q->e->heap, sizeof *l + (size_t)heads * sizeof(float));
    *made = l;
    if (!l) return PF_ENOMEM;
    l->q = q, l->heap = q->e->heap;
    l->place = run->state->place;
    l->segment = q->segment;
    if (!shape) return PF_OK;
    l->shape = *shape;
    if (shape->decay) memcpy(l->decay, shape->decay, (size_t)heads * sizeof(float));
    l->shape.decay = shape->decay ? l->decay : NULL;
    return PF_OK;
}

pf_tensor **pf_link_kept(const pf_link *l) {
    const pf_segmented *q = l->q;
    return q->kept[(l->segment - q->first) * q->places + l->place];
}

/* ---- from one segment to the next ---- */

/* The rank that has the segment on the other side of this one; < 0: this rank, or nobody. */
int pf_link_rank(const pf_link *l, bool next) {
    const pf_segmented *q = l->q;
    int rank = pf_comm_rank(q->e), s = l->segment + (next ? 1 : -1);
    if (s < 0 || s >= q->n || (s >= q->first && s < q->last)) return -1;
    return next ? rank + 1 : rank - 1;
}

/* `data` <- what the segment before this one in the direction `way` has given. */
int pf_link_take(const pf_link *l, int way, void *data, size_t bytes) {
    pf_segment_place *p = &l->q->place[l->place];
    int from = pf_link_rank(l, way == PF_BACK);
    if (from >= 0) return pf_comm_pass(l->q->e, -1, NULL, 0, from, &data, 1, bytes);
    if (!p->box[way] || p->bytes[way] != bytes)
        return pf_fail(PF_ESTATE, "segments: nothing of this layer was left by the one before");
    memcpy(data, p->box[way], bytes);
    pf_heap_free(l->heap, p->box[way], bytes);
    p->box[way] = NULL;
    return PF_OK;
}

int pf_link_give(const pf_link *l, int way, const void *data, size_t bytes) {
    pf_segment_place *p = &l->q->place[l->place];
    int to = pf_link_rank(l, way == PF_FORTH);
    if (to >= 0) return pf_comm_pass(l->q->e, to, &data, 1, -1, NULL, 0, bytes);
    p->box[way] = pf_heap_alloc(l->heap, bytes);
    if (!p->box[way]) return PF_ENOMEM;
    p->bytes[way] = bytes;
    memcpy(p->box[way], data, bytes);
    return PF_OK;
}
