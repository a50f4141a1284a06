/*
 * score.c - a model's loss against targets: of logits that are whole, for layers that can't make
 * it in pieces (pf_layer.score), and what holds of targets.
 */
#include "module.h"

void pf_score_release(pf_score *score) {
    pf_tensor_release(&score->loss);
    pf_tensor_release(&score->best);
}

int pf_score_check(const pf_tensor *target, const pf_tensor *x, const char *where) {
    if (x->rank >= 2 && target->rank == 2 && target->dtype == PF_I32 &&
        target->shape[0] == x->shape[0] && target->shape[1] == x->shape[1]) {
        return PF_OK;
    }
    return pf_fail(PF_ESHAPE,
                   "%s: x is %s and the target %s %s, must be (B, L, ...) and "
                   "(B, L) i32",
                   where, pf_shape_of(x), pf_shape_of(target), pf_dtype_name(target->dtype));
}

/* logits (B, L, V) */
int pf_score_logits(pf_score *score, pf_engine *e, pf_tensor *logits) {
    PF_TRY(score->each ? pf_cross_entropy_each(&score->loss, e, logits, score->target)
                       : pf_cross_entropy(&score->loss, e, logits, score->target));
    if (!score->likeliest) return PF_OK;
    int status = pf_argmax(&score->best, e, logits, logits->rank - 1);
    if (status < 0) pf_score_release(score);
    return status;
}
