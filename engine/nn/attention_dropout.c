/*
 * attention_dropout.c - dropout inside attention, in training. A kind that makes weights drops them
 * after their softmax. Linear attention makes none: there whole keys are dropped, for all queries
 * and heads of an item, and what is left is normalised as always (DropAttention by columns, Zehui
 * et al. 2019).
 */
#include "attention_layer.h"
#include "dropout.h"

int pf_attention_drops(const pf_attention_kind *kind, double p) {
    if (p == 0 || kind->drops || kind->takes & PF_TAKES(MASK)) return PF_OK;
    return pf_fail(PF_EINVAL,
                   "attention: %s attention has neither weights nor keys that could be dropped; "
                   "leave attention_dropout out, or take dropout, which drops its output",
                   kind->name);
}

/* (B, L) i32: the keys that `given` (NULL: all) keeps and dropout does not take. */
static int thin(pf_engine *e, const pf_drops *drops, pf_tensor *given, int64_t batch,
                int64_t length, pf_tensor **mask) {
    int64_t shape[2] = {batch, length};
    const float one = 1;
    PF_TRY(pf_tensor_make(mask, e, PF_I32, 2, shape));
    int32_t *keep = pf_tensor_data(*mask);
    for (int64_t at = 0; at < batch * length; at++) {
        float kept;
        pf_drops_apply(drops, 4 * at, 1, &one, &kept);
        keep[at] = kept > 0 && pf_mask_keeps(given, at / length, at % length);
    }
    return PF_OK;
}

int pf_attention_drop_some(pf_attention *a, pf_engine *e, const pf_run *run, double p,
                           const pf_tensor *keys, pf_tensor *given, pf_tensor **mask) {
    bool drops_now = run->pass->training && p > 0;
    uint64_t draw = 0;
    *mask = NULL;
    if (drops_now) PF_TRY(pf_run_draw(run, &draw));
    *mask = pf_tensor_retain(given);
    if (!drops_now) return PF_OK;
    if (a->kind->drops) {
        a->dropout = p, a->draw = draw;
        return PF_OK;
    }
    pf_drops drops = pf_drops_of(e->kern, p, e->seed, draw);
    pf_tensor_release(mask);
    return thin(e, &drops, given, keys->shape[0], keys->shape[2], mask);
}
