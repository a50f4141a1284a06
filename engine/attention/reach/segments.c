/*
 * segments.c - cutting a batch into independent sequences. Without documents each item is
 * one; with them each run of equal numbers is one, and so is each piece between two offsets. Two
 * runs of one number with another between them are two documents: numbers only tell where one ends.
 * Packed documents give the same bits as the same documents alone: a segment's blocks start at
 * its own first row.
 */
#include "reach.h"

static int32_t document_at(const pf_tensor *t, int64_t item, int64_t position) {
    return pf_i32(t)[item * t->stride[0] + position * t->stride[1]];
}

/* Runs of equal numbers in an item; an item without positions is one, so that it has outputs. */
static int64_t count_runs(const pf_tensor *documents, int64_t item, int64_t L) {
    int64_t runs = 1;
    for (int64_t i = 1; i < L; i++) {
        runs += document_at(documents, item, i) != document_at(documents, item, i - 1);
    }
    return runs;
}

/* Positions from .. to - 1 of an item of L keys, of which the last Lq are queries too. */
static pf_segment segment_of(int64_t item, int64_t from, int64_t to, int64_t L, int64_t Lq) {
    int64_t ahead = L - Lq, q_start = pf_max(from - ahead, 0);
    return (pf_segment){.item = (int32_t)item,
                        .first = from == 0,
                        .last = to == L,
                        .start = from,
                        .length = to - from,
                        .q_start = q_start,
                        .q_length = pf_max(to - ahead, 0) - q_start};
}

/* The runs of one item, in their order; returns the place behind them. */
static pf_segment *fill_item(pf_segment *s, const pf_reach_inputs *in, int64_t item) {
    const pf_tensor *documents = in->documents;
    int64_t start = 0, L = in->Lk;
    for (int64_t i = 1; i <= L || i == 1; i++) {
        bool cut = i >= L || document_at(documents, item, i) != document_at(documents, item, i - 1);
        if (!cut) continue;
        *s++ = segment_of(item, start, pf_min(i, L), L, in->Lq);
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
    *s = segment_of(0, 0, 0, in->Lk, in->Lk);
    for (int64_t i = 1; i < in->cu_seqlens->shape[0]; i++) {
        int32_t from = offset_at(in->cu_seqlens, i - 1), to = offset_at(in->cu_seqlens, i);
        if (to > from) *s++ = segment_of(0, from, to, in->Lk, in->Lk);
    }
}

static void fill_documents(pf_segment *s, const pf_reach_inputs *in) {
    for (int64_t b = 0; b < in->B; b++) s = fill_item(s, in, b);
}

/* Whole items, which may have as many queries as they like. */
static void fill_items(pf_segment *s, const pf_reach_inputs *in) {
    for (int64_t b = 0; b < in->B; b++) {
        s[b] = segment_of(b, 0, in->Lk, in->Lk, in->Lk);
        s[b].q_length = in->Lq;
    }
}

static pf_reach_inputs inputs_of(const pf_call *c) {
    return (pf_reach_inputs){
        .op = c->op->name,
        .B = c->in[PF_IN_Q]->shape[0],
        .Lq = c->in[PF_IN_Q]->shape[2],
        .Lk = c->in[PF_IN_K]->shape[2],
        .documents = c->in[PF_IN_DOCUMENTS],
        .limits = c->in[PF_IN_LIMITS],
        .prefix = c->in[PF_IN_PREFIX],
        .cu_seqlens = c->in[PF_IN_CU_SEQLENS],
    };
}

/* Counted before they are filled: the list is one block. */
static int count_segments(const pf_reach_inputs *in, int64_t *n) {
    *n = in->B;
    if (in->documents) {
        *n = 0;
        for (int64_t b = 0; b < in->B; b++) *n += count_runs(in->documents, b, in->Lk);
    } else if (in->cu_seqlens) {
        PF_TRY(check_offsets(in, n));
        *n = pf_max(*n, 1);
    }
    return PF_OK;
}

/* A segment of n keys that is longer than a span leaves a state at each span's first key but its
 * own: where it begins its state is known. */
static int64_t spans_of(int64_t length, int64_t span) {
    return span > 0 ? pf_max(pf_ceil_div(length, span) - 1, 0) : 0;
}

int pf_reach_make(pf_reach *reach, pf_call *c, int64_t span, bool sorted) {
    pf_reach_inputs in = inputs_of(c);
    *reach = (pf_reach){.Lq = in.Lq, .queries = in.B * in.Lq};
    PF_TRY(count_segments(&in, &reach->n));
    reach->list = pf_call_alloc(c, (size_t)reach->n * sizeof(pf_segment));
    if (!reach->list) return PF_ENOMEM;
    if (in.documents)
        fill_documents(reach->list, &in);
    else if (in.cu_seqlens)
        fill_offsets(reach->list, &in);
    else
        fill_items(reach->list, &in);
    for (int64_t i = 0; i < reach->n; i++) {
        pf_segment *s = &reach->list[i];
        s->spans = reach->spans;
        reach->spans += spans_of(s->length, span);
        reach->longest = pf_max(reach->longest, s->length);
    }
    return pf_limits_make(reach, c, &in, sorted);
}

/* Any number but 0 keeps a key; NaN does too. */
bool pf_mask_keeps(const pf_tensor *mask, int64_t item, int64_t position) {
    if (!mask) return true;
    int64_t at = item * mask->stride[0] + position * mask->stride[1];
    return mask->dtype == PF_F32 ? pf_f32(mask)[at] != 0 : pf_i32(mask)[at] != 0;
}
