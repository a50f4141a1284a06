/*
 * segments.c - cutting a batch into independent sequences. Without documents each item is
 * one; with them each run of equal numbers is one, so packed documents give the same bits
 * as the same documents alone: a segment's blocks start at its own first row.
 */
#include "linear.h"

static int32_t document_at(const pf_tensor *t, int64_t item, int64_t position) {
    return pf_i32(t)[item * t->stride[0] + position * t->stride[1]];
}

static int64_t count_runs(const pf_tensor *documents, int64_t item, int64_t L) {
    int64_t runs = 1;
    for (int64_t i = 1; i < L; i++) {
        runs += document_at(documents, item, i) != document_at(documents, item, i - 1);
    }
    return runs;
}

static pf_segment *fill_item(pf_segment *s, const pf_tensor *documents, int64_t item, int64_t L) {
    int64_t start = 0;
    for (int64_t i = 1; i <= L || i == 1; i++) {
        bool cut = i >= L || (documents && document_at(documents, item, i) !=
                                               document_at(documents, item, i - 1));
        if (!cut) continue;
        *s++ = (pf_segment){(int32_t)item, start == 0, i >= L, start, pf_min(i, L) - start};
        start = i;
    }
    return s;
}

int pf_segments_make(pf_segments *s, pf_engine *e, int64_t B, int64_t L,
                     const pf_tensor *documents) {
    int64_t n = B;
    if (documents) {
        n = 0;
        for (int64_t b = 0; b < B; b++) n += count_runs(documents, b, L);
    }
    *s = (pf_segments){.n = n, .bytes = (size_t)n * sizeof(pf_segment)};
    s->list = pf_heap_alloc(e->heap, s->bytes);
    if (!s->list) return PF_ENOMEM;
    pf_segment *next = s->list;
    for (int64_t b = 0; b < B; b++) {
        if (documents) {
            next = fill_item(next, documents, b, L);
        } else {
            *next++ = (pf_segment){(int32_t)b, true, true, 0, L};
        }
    }
    return 0;
}

void pf_segments_free(pf_segments *s, pf_engine *e) {
    if (s->list) pf_heap_free(e->heap, s->list, s->bytes);
    s->list = NULL;
}

bool pf_mask_keeps(const pf_tensor *mask, int64_t item, int64_t position) {
    if (!mask) return true;
    int64_t at = item * mask->stride[0] + position * mask->stride[1];
    return mask->dtype == PF_F32 ? pf_f32(mask)[at] != 0 : pf_i32(mask)[at] != 0;
}
