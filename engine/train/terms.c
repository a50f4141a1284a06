/*
 * terms.c - what all ranks of a step must have alike, and a script may have given each in its own
 * way: the rate, the clip, the lanes, the optimizer's options, the steps that are over. Each rank
 * moves its own part of the weights, so that a difference would stay in them and show nowhere.
 * What must hold: all ranks have heard the same, and find the same.
 */
#include "terms.h"

#include <string.h>

#include "exchange.h"
#include "lanes.h"

/* ---- this rank's ---- */

/* FNV-1a, the same in all processes. */
static const uint64_t EMPTY = 0xcbf29ce484222325u;

static uint64_t mix(uint64_t sum, const void *data, size_t bytes) {
    const unsigned char *at = data;
    for (size_t i = 0; i < bytes; i++) sum = (sum ^ at[i]) * 0x100000001b3u;
    return sum;
}

/* Of a map the order does not count: Lua gives keys as they come. */
static uint64_t mix_tree(uint64_t sum, const pf_config *node) {
    const pf_config_kind kind = pf_config_kind_of(node);
    const char *text = pf_config_string(node);
    const double number = pf_config_number(node);
    uint64_t entries = 0;
    sum = mix(sum, &kind, sizeof kind);
    sum = mix(sum, &number, sizeof number);
    if (text) sum = mix(sum, text, strlen(text) + 1);
    for (int i = 0; i < pf_config_size(node); i++) {
        const char *key = kind == PF_MAP ? pf_config_key(node, i) : NULL;
        if (key)
            entries += mix_tree(mix(EMPTY, key, strlen(key) + 1), pf_config_at(node, i));
        else
            sum = mix_tree(sum, pf_config_at(node, i));
    }
    return mix(sum, &entries, sizeof entries);
}

pf_terms pf_terms_of(const pf_optimizer *o, const pf_engine *e, double lr, double clip) {
    return (pf_terms){.lr = lr,
                      .clip = clip,
                      .steps = o->steps,
                      .lanes = o->lanes ? o->lanes->count : pf_comm_ranks(e),
                      .options = mix_tree(EMPTY, o->options)};
}

/* ---- those of all ---- */

static int compare(const pf_comm *comm, int rank, const pf_terms *its, const pf_terms *first) {
    const char *who = pf_comm_name(comm, rank), *other = pf_comm_name(comm, 0);
    if (its->lanes != first->lanes) {
        return pf_fail(PF_EINVAL, "optimizer: %s has %d lanes, and %s %d; all must have as many",
                       who, (int)its->lanes, other, (int)first->lanes);
    }
    if (its->steps != first->steps) {
        return pf_fail(PF_EINVAL,
                       "optimizer: %s has %llu steps behind it, and %s %llu; all must begin with "
                       "the same checkpoint",
                       who, (unsigned long long)its->steps, other,
                       (unsigned long long)first->steps);
    }
    if (its->options != first->options) {
        return pf_fail(PF_EINVAL,
                       "optimizer: %s has other options than %s (type, lr, decay, groups ...); all "
                       "must have the same",
                       who, other);
    }
    if (its->lr != first->lr || its->clip != first->clip) {
        return pf_fail(PF_EINVAL,
                       "optimizer: %s steps with lr %.9g and clip %.9g, and %s with lr %.9g and "
                       "clip %.9g; all must give the same",
                       who, its->lr, its->clip, other, first->lr, first->clip);
    }
    return PF_OK;
}

int pf_terms_compare(const pf_engine *e, const char *all, size_t stride) {
    pf_terms first, its;
    memcpy(&first, all, sizeof first);
    for (int r = 1; r < pf_comm_ranks(e); r++) {
        memcpy(&its, all + (size_t)r * stride, sizeof its);
        PF_TRY(compare(e->comm, r, &its, &first));
    }
    return PF_OK;
}
