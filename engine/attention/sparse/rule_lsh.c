/*
 * rule_lsh.c - rooms of hashes (Reformer, arXiv 2001.04451, section 2): in each round a query looks
 * at its own bucket, and what it sees is the union of the rounds. The paper weighs a pair by 1 over
 * the rounds that hold it, which is the union with each pair once; Trax and Transformers leave that
 * out, so that such a pair counts as often.
 */
#include "rooms.h"

enum { WINDOW, PAIRS, OPTIONS };

static const pf_option_info options[OPTIONS] = {PF_LSH_RULE_OPTIONS};

static int build(pf_maker *m, const pf_ask *a) {
    bool once = a->option[PAIRS] == 0;
    for (int64_t t = 0; t < a->rounds; t++) {
        const int32_t *number = a->bucket + t * a->bucket_step;
        PF_TRY(pf_rooms_add(m, a, number, number, (int64_t)a->option[WINDOW], once && t > 0));
    }
    return PF_OK;
}

const pf_pattern_rule pf_pattern_rule_lsh = {
    .name = "lsh",
    .doc = "The last keys of a query's own bucket, in each round of hashing; itself only where it "
           "sees nothing else (Reformer).",
    .options = options,
    .n_options = OPTIONS,
    .buckets = true,
    .self_last = true,
    .build = build,
};
