/*
 * rule_routing.c - rooms of clusters (Routing Transformer, arXiv 2003.05997): a query looks at the
 * keys whose nearest centroid is its own. Published code gives each cluster its best tokens of the
 * whole sequence (top-k), which lets the future choose, and leaves tokens out; here every token is
 * in one cluster, by itself.
 *
 * Numbers (2, Lk) are of keys and then of queries, where these are routed apart. Otherwise keys are
 * queries of length 1, the score of a query with itself is the largest there is, and it sees itself
 * only where it sees nothing else.
 */
#include "rooms.h"

enum { WINDOW, OPTIONS };

static const pf_option_info options[OPTIONS] = {PF_ROUTING_RULE_OPTIONS};

static int build(pf_maker *m, const pf_ask *a) {
    const int32_t *query = a->rounds > 1 ? a->bucket + a->bucket_step : a->bucket;
    if (a->rounds > 2) {
        return pf_fail(PF_ESHAPE,
                       "%s: routing takes one row of clusters, or two where queries are "
                       "routed apart from keys, got %lld",
                       a->where, (long long)a->rounds);
    }
    m->pattern->self_last = a->rounds == 1;
    return pf_rooms_add(m, a, query, a->bucket, (int64_t)a->option[WINDOW], false);
}

const pf_pattern_rule pf_pattern_rule_routing = {
    .name = "routing",
    .doc = "The last keys of a query's own cluster (Routing Transformer).",
    .options = options,
    .n_options = OPTIONS,
    .buckets = true,
    .self_last = true,
    .build = build,
};
