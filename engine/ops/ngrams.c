/*
 * ngrams.c - the last n tokens of every position as one number: what a hashed n-gram
 * embedding looks up (Pagnoni et al. 2024, "Byte Latent Transformer", section 3.2.1).
 *
 * What holds: a position's numbers depend on the tokens of its own document up to it, and on
 * nothing else. Where the document has fewer than n tokens so far, those it has are taken. What the
 * mask hides is not there: it is left out of the piece, and the tokens before it count at their
 * distance, as a convolution's taps do. So padding on the left is as no padding.
 * Order n has buckets (n - shortest) * buckets .. + buckets - 1, so one table serves all.
 */
#include "op.h"

enum { ROW_GRAIN = 1 };
enum { IDS, DOCUMENTS, BEFORE, MASK };
enum { A_SHORTEST, A_LONGEST, A_BUCKETS };

static const pf_attr_info ngrams_attrs[] = {
    {.name = "shortest", .kind = PF_ATTR_INT, .def = 2, .doc = "tokens of the shortest n-gram"},
    {.name = "longest", .kind = PF_ATTR_INT, .def = 4, .doc = "tokens of the longest n-gram"},
    {.name = "buckets", .kind = PF_ATTR_INT, .def = 65536, .doc = "numbers of each order"},
};

typedef struct {
    int64_t length, kept, shortest, longest, buckets;
    const int32_t *ids, *documents, *mask; /* (B, L) */
    const int32_t *before;                 /* (B, kept) */
    int32_t *to;                           /* (B, L, orders) */
} ngram_job;

/* ids, documents and mask (B, L), before (B, longest - 1) -> (B, L, longest - shortest + 1) */
static int ngrams_shape(pf_call *c) {
    const pf_tensor *ids = c->in[IDS];
    int64_t shortest = c->attr[A_SHORTEST].i, longest = c->attr[A_LONGEST].i;
    PF_TRY(pf_want(c, IDS, PF_I32));
    if (ids->rank != 2) return pf_shape_fail(c, "ids must be (B, L)");
    if (shortest < 1 || longest < shortest || longest > 16) {
        return pf_fail(PF_EINVAL,
                       "ngrams: shortest %lld and longest %lld must be 1 <= shortest "
                       "<= longest <= 16",
                       (long long)shortest, (long long)longest);
    }
    int64_t orders = longest - shortest + 1, buckets = c->attr[A_BUCKETS].i;
    if (buckets < 1 || buckets > INT32_MAX / orders) {
        return pf_fail(PF_EINVAL, "ngrams: buckets is %lld, must be 1 to %lld for %lld orders",
                       (long long)buckets, (long long)(INT32_MAX / orders), (long long)orders);
    }
    for (int i = DOCUMENTS; i <= MASK; i++) {
        const pf_tensor *t = c->in[i];
        int64_t width = i == BEFORE ? longest - 1 : ids->shape[1];
        if (!t) continue;
        PF_TRY(pf_want(c, i, PF_I32));
        if (t->rank != 2 || t->shape[0] != ids->shape[0] || t->shape[1] != width) {
            return pf_shape_fail(c, "%s must be (%lld, %lld)", pf_op_arg_name(c->op, i),
                                 (long long)ids->shape[0], (long long)width);
        }
    }
    int64_t dim[3] = {ids->shape[0], ids->shape[1], orders};
    return pf_set_shape(c, 0, PF_I32, 3, dim);
}

enum { NONE = -1, HIDDEN = -2 };

/* Token at position t of row b; NONE where there is none, nor any before it. t < 0 reads what came
 * before. */
static int32_t token_at(const ngram_job *job, int64_t b, int64_t t, int64_t from) {
    if (t >= 0) {
        const int32_t *document = job->documents ? job->documents + b * job->length : NULL;
        if (document && document[t] != document[from]) return NONE;
        if (job->mask && job->mask[b * job->length + t] == 0) return HIDDEN;
        return job->ids[b * job->length + t];
    }
    if (!job->before || job->documents || t < -job->kept) return NONE;
    return job->before[b * job->kept + job->kept + t];
}

/* The finaliser of SplitMix64: every bit of x moves every bit of the result. */
static uint64_t mix(uint64_t x) {
    x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
    return x ^ x >> 31;
}

static void number_row(const ngram_job *job, int64_t b) {
    int64_t orders = job->longest - job->shortest + 1;
    for (int64_t t = 0; t < job->length; t++) {
        int32_t *to = job->to + (b * job->length + t) * orders;
        uint64_t hash = 0, hole = 0; /* hidden tokens behind the one that comes next */
        bool there = true;
        for (int64_t n = 1; n <= job->longest; n++) {
            int32_t token = there ? token_at(job, b, t - n + 1, t) : NONE;
            there = token >= 0 || token == HIDDEN;
            if (token == HIDDEN) hole++;
            if (token >= 0) {
                hash += (uint64_t)token + (hole << 32) + UINT64_C(0x9e3779b97f4a7c15);
                hash = mix(hash);
                hole = 0;
            }
            if (n < job->shortest) continue;
            int64_t order = n - job->shortest;
            to[order] = (int32_t)(order * job->buckets + (int64_t)(hash % (uint64_t)job->buckets));
        }
    }
}

static void number_rows(void *context, int64_t first, int64_t last) {
    for (int64_t b = first; b < last; b++) number_row(context, b);
}

static int ngrams_forward(pf_call *c) {
    pf_tensor *ids, *documents, *before, *mask;
    PF_TRY(pf_call_compact(c, c->in[IDS], &ids));
    PF_TRY(pf_call_compact(c, c->in[DOCUMENTS], &documents));
    PF_TRY(pf_call_compact(c, c->in[BEFORE], &before));
    PF_TRY(pf_call_compact(c, c->in[MASK], &mask));
    ngram_job job = {
        .length = ids->shape[1],
        .kept = c->attr[A_LONGEST].i - 1,
        .shortest = c->attr[A_SHORTEST].i,
        .longest = c->attr[A_LONGEST].i,
        .buckets = c->attr[A_BUCKETS].i,
        .ids = pf_i32(ids),
        .documents = documents ? pf_i32(documents) : NULL,
        .before = before ? pf_i32(before) : NULL,
        .mask = mask ? pf_i32(mask) : NULL,
        .to = pf_i32(c->out[0]),
    };
    return pf_parallel_range(c->engine, ids->shape[0], ROW_GRAIN, number_rows, &job);
}

const pf_op pf_op_ngrams = {
    .name = "ngrams",
    .args = "ids, [documents], [before], [mask]",
    .results = "numbers",
    .doc =
        "The last n tokens of every position as a number, for n = shortest .. longest: ids "
        "(B, L) i32, documents (B, L) i32, before (B, longest - 1) i32 the tokens that came "
        "earlier (-1: none; not with documents), mask (B, L) i32 of 1 keep and 0 not there -> (B, "
        "L, longest - shortest + 1) i32. What the mask hides is left out of a piece; tokens "
        "before it count at their distance. Order n is hashed into buckets (n - shortest) "
        "buckets .. + buckets - 1.",
    .min_in = 1,
    .max_in = 4,
    .n_out = 1,
    .flags = PF_OP_NO_GRAD,
    .attrs = ngrams_attrs,
    .n_attrs = PF_COUNT(ngrams_attrs),
    .shape = ngrams_shape,
    .forward = ngrams_forward,
};
