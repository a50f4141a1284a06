/*
 * limits.c - how many keys of its segment each query sees, where that is not simply its own
 * place: a staircase (limits) or a prefix, which is the staircase max(i, prefix). The causal
 * schedule takes queries in the order of their limits; a counting sort keeps equal ones in
 * their own order, so that a query's place depends on limits alone.
 *
 * With packed documents limits still count from the item's first key: a query can't see keys before
 * its own document, and none behind it.
 */
#include <string.h>

#include "reach.h"

/* Queries and items are told as the host counts them. */
static int limit_fail(const pf_reach_inputs *in, int64_t b, int64_t i, int64_t limit) {
    return pf_fail(PF_EINVAL,
                   "%s: limits must be counts from 0 to the number of keys (%lld), but "
                   "query %s of item %s has %lld",
                   in->op, (long long)in->Lk, pf_place(i), pf_place(b), (long long)limit);
}

/* limit (B, Lq) <- the input, (B, Lq) or (Lq). */
static int read_limits(const pf_reach_inputs *in, int32_t *limit) {
    const pf_tensor *t = in->limits;
    int64_t item = t->rank == 2 ? t->stride[0] : 0, step = t->stride[t->rank - 1];
    for (int64_t b = 0; b < in->B; b++) {
        for (int64_t i = 0; i < in->Lq; i++) {
            int32_t n = pf_i32(t)[b * item + i * step];
            if (n < 0 || n > in->Lk) return limit_fail(in, b, i, n);
            limit[b * in->Lq + i] = n;
        }
    }
    return PF_OK;
}

/* limit (B, Lq) <- max(i + 1, prefix): the first `prefix` positions see each other. */
static int read_prefix(const pf_reach_inputs *in, int32_t *limit) {
    for (int64_t b = 0; b < in->B; b++) {
        int32_t prefix = pf_i32(in->prefix)[b * in->prefix->stride[0]];
        if (prefix < 0 || prefix > in->Lk) {
            return pf_fail(PF_EINVAL, "%s: prefix must be 0 to the length (%lld), item %s has %d",
                           in->op, (long long)in->Lk, pf_place(b), prefix);
        }
        for (int64_t i = 0; i < in->Lq; i++) {
            limit[b * in->Lq + i] = (int32_t)pf_max(i + 1, prefix);
        }
    }
    return PF_OK;
}

/* Limits count from the item's first key; a segment's from its own, and end with it. */
static void cut_to_segment(const pf_reach *reach, const pf_segment *s) {
    int32_t *limit = reach->limit + s->item * reach->Lq + s->q_start;
    for (int64_t i = 0; i < s->q_length; i++) {
        limit[i] = (int32_t)pf_max(0, pf_min(limit[i] - s->start, s->length));
    }
}

/* The segment's queries by their limits; begin (length + 2) is work space: first how many queries
 * have each limit, one place up, then where those of a limit begin, which moves on as they go
 * in. */
static void sort_segment(const pf_reach *reach, const pf_segment *s, int32_t *begin) {
    int64_t first = s->item * reach->Lq + s->q_start;
    const int32_t *limit = reach->limit + first;
    memset(begin, 0, (size_t)(s->length + 2) * sizeof(int32_t));
    for (int64_t i = 0; i < s->q_length; i++) begin[limit[i] + 1]++;
    for (int64_t n = 0; n < s->length; n++) begin[n + 1] += begin[n];
    for (int64_t i = 0; i < s->q_length; i++) {
        reach->order[first + begin[limit[i]]++] = (int32_t)(s->q_start + i);
    }
}

static int make_order(pf_reach *reach, pf_call *c, int64_t Lk) {
    int32_t *begin = pf_call_alloc(c, (size_t)(Lk + 2) * sizeof *begin);
    reach->order = pf_call_alloc(c, (size_t)reach->queries * sizeof *reach->order);
    if (!begin || !reach->order) return PF_ENOMEM;
    for (int64_t i = 0; i < reach->n; i++) sort_segment(reach, &reach->list[i], begin);
    return PF_OK;
}

int pf_limits_make(pf_reach *reach, pf_call *c, const pf_reach_inputs *in, bool sorted) {
    if (!in->limits && !in->prefix) return PF_OK;
    reach->limit = pf_call_alloc(c, (size_t)reach->queries * sizeof *reach->limit);
    if (!reach->limit) return PF_ENOMEM;
    PF_TRY(in->limits ? read_limits(in, reach->limit) : read_prefix(in, reach->limit));
    for (int64_t i = 0; i < reach->n; i++) cut_to_segment(reach, &reach->list[i]);
    return sorted ? make_order(reach, c, in->Lk) : PF_OK;
}
