/*
 * segments.c - cutting a batch into independent sequences. Without documents each item is
 * one; with them each run of equal numbers is one, and so is each piece between two offsets.
 * Packed documents give the same bits as the same documents alone: a segment's blocks start at
 * its own first row.
 */
#include "reach.h"

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

static pf_segment segment_of(int64_t item, int64_t from, int64_t to, int64_t L) {
    return (pf_segment){.item = (int32_t)item,
                        .first = from == 0,
                        .last = to == L,
                        .start = from,
                        .length = to - from,
                        .q_start = from,
                        .q_length = to - from};
}

static pf_segment *fill_item(pf_segment *s, const pf_tensor *documents, int64_t item, int64_t L) {
    int64_t start = 0;
    for (int64_t i = 1; i <= L || i == 1; i++) {
        bool cut = i >= L || document_at(documents, item, i) != document_at(documents, item, i - 1);
        if (!cut) continue;
        *s++ = segment_of(item, start, pf_min(i, L), L);
        start = i;
    }
    return s;
}

static int32_t offset_at(const pf_tensor *t, int64_t i) { return pf_i32(t)[i * t->stride[0]]; }

/* The offsets start at 0, never fall and end at L. *pieces: those that are not empty. */
static int check_offsets(const pf_reach_inputs *in, int64_t *pieces) {
    const pf_tensor *t = in->cu_seqlens;
    int64_t n = t->shape[0] - 1;
    *pieces = 0;
    if (offset_at(t, 0) != 0) {
        return pf_fail(PF_EINVAL, "%s: cu_seqlens must start at 0, it starts at %d", in->op,
                       offset_at(t, 0));
    }
    for (int64_t i = 1; i <= n; i++) {
        int32_t from = offset_at(t, i - 1), to = offset_at(t, i);
        if (to < from) {
            return pf_fail(PF_EINVAL,
                           "%s: cu_seqlens must not decrease, but number %s is %d "
                           "after %d",
                           in->op, pf_place(i), to, from);
        }
        *pieces += to > from;
    }
    if (offset_at(t, n) == in->Lk) return PF_OK;
    return pf_fail(PF_EINVAL, "%s: cu_seqlens must end at the length (%lld), it ends at %d", in->op,
                   (long long)in->Lk, offset_at(t, n));
}

/* An empty document is no segment; of nothing but empty ones one is left. */
static void fill_offsets(pf_segment *s, const pf_reach_inputs *in) {
    *s = segment_of(0, 0, 0, in->Lk);
    for (int64_t i = 1; i < in->cu_seqlens->shape[0]; i++) {
        int32_t from = offset_at(in->cu_seqlens, i - 1), to = offset_at(in->cu_seqlens, i);
        if (to > from) *s++ = segment_of(0, from, to, in->Lk);
    }
}

static void fill_documents(pf_segment *s, const pf_reach_inputs *in) {
    for (int64_t b = 0; b < in->B; b++) s = fill_item(s, in->documents, b, in->Lk);
}

static void fill_items(pf_segment *s, const pf_reach_inputs *in) {
    for (int64_t b = 0; b < in->B; b++) {
        s[b] = segment_of(b, 0, in->Lk, in->Lk);
        s[b].q_length = in->Lq;
    }
}

static int make_segments(pf_reach *reach, pf_engine *e, const pf_reach_inputs *in) {
    int64_t n = in->B;
    if (in->documents) {
        n = 0;
        for (int64_t b = 0; b < in->B; b++) n += count_runs(in->documents, b, in->Lk);
    } else if (in->cu_seqlens) {
        PF_TRY(check_offsets(in, &n));
        n = pf_max(n, 1);
    }
    *reach = (pf_reach){.n = n, .Lq = in->Lq, .queries = in->B * in->Lq};
    reach->list = pf_heap_alloc(e->heap, (size_t)n * sizeof(pf_segment));
    if (!reach->list) return PF_ENOMEM;
    if (in->documents) {
        fill_documents(reach->list, in);
    } else if (in->cu_seqlens) {
        fill_offsets(reach->list, in);
    } else {
        fill_items(reach->list, in);
    }
    for (int64_t i = 0; i < n; i++) {
        reach->list[i].spans = reach->spans;
        reach->longest = pf_max(reach->longest, reach->list[i].length);
        if (in->span == 0) continue;
        reach->spans += pf_max(pf_ceil_div(reach->list[i].length, in->span) - 1, 0);
    }
    return PF_OK;
}

int pf_reach_make(pf_reach *reach, pf_engine *e, const pf_reach_inputs *in, bool sorted) {
    PF_TRY(make_segments(reach, e, in));
    return pf_limits_make(reach, e, in, sorted);
}

void pf_reach_free(pf_reach *reach, pf_engine *e) {
    size_t numbers = (size_t)reach->queries * sizeof(int32_t);
    if (reach->list) pf_heap_free(e->heap, reach->list, (size_t)reach->n * sizeof(pf_segment));
    if (reach->limit) pf_heap_free(e->heap, reach->limit, numbers);
    if (reach->order) pf_heap_free(e->heap, reach->order, numbers);
    *reach = (pf_reach){0};
}

bool pf_mask_keeps(const pf_tensor *mask, int64_t item, int64_t position) {
    if (!mask) return true;
    int64_t at = item * mask->stride[0] + position * mask->stride[1];
    return mask->dtype == PF_F32 ? pf_f32(mask)[at] != 0 : pf_i32(mask)[at] != 0;
}
