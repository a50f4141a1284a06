/*
 * part.c - linear attention over one slice of a longer sequence, in training: the operator with
 * an entry state (S, z, shift) from the slice before and an exit state for the next one, both in
 * the graph (Likhosherstov et al. 2020, "Sub-Linear Memory: How to Make Performers SLiM", section
 * 4). Attention does not depend on the log-scale of a state, so shift is a constant.
 */
#include <math.h>

#include "operator.h"

static int attend_linear(pf_tensor **out, pf_engine *e, const pf_attend *a, pf_state *s,
                         pf_tensor *const *side, pf_tensor *mask, pf_tensor *documents) {
    pf_tensor *in[PF_FAVOR_INPUTS] = {
        [PF_FAVOR_Q] = side[0],           [PF_FAVOR_K] = side[1],
        [PF_FAVOR_V] = side[2],           [PF_FAVOR_PROJECTION] = a->projection,
        [PF_FAVOR_FACTORS] = a->factors,  [PF_FAVOR_MASK] = mask,
        [PF_FAVOR_DOCUMENTS] = documents, [PF_FAVOR_DECAY] = a->decay,
        [PF_FAVOR_TILTS] = a->tilts,
    };
    if (s->position > 0) {
        in[PF_FAVOR_ENTRY_S] = s->tensor[PF_S];
        in[PF_FAVOR_ENTRY_Z] = s->tensor[PF_Z];
        in[PF_FAVOR_ENTRY_SHIFT] = s->tensor[PF_SHIFT];
    }
    pf_tensor *made[PF_MAX_OUT] = {NULL};
    pf_attr attr[PF_MAX_ATTR];
    pf_op_fill_defaults(&pf_op_favor, attr);
    pf_favor_attrs(attr, &a->kernel, true, true);
    PF_TRY(pf_apply(e, &pf_op_favor, in, PF_FAVOR_INPUTS, attr, made));
    *out = made[0];
    pf_favor_take(s, made + 1);
    return 0;
}

/* q (B, H, L, d), k, v (B, Hk, L, d) -> out (B, H, L, d) */
int pf_attend_slice(pf_tensor **out, pf_engine *e, const pf_attend *a, pf_state *state,
                    pf_tensor *q, pf_tensor *k, pf_tensor *v, pf_tensor *mask,
                    pf_tensor *documents) {
    pf_tensor *side[3] = {q, k, v};
    if (a->kind == PF_ATTEND_EXACT) {
        return pf_fail(PF_EINVAL, "attention: exact attention has no state of fixed size to hand "
                                  "from slice to slice; train in slices with linear attention");
    }
    if (a->kind == PF_ATTEND_IDENTITY) {
        PF_TRY(pf_apply(e, &pf_op_identity_attention, side, 3, NULL, out));
    } else {
        PF_TRY(attend_linear(out, e, a, state, side, mask, documents));
    }
    state->position += q->shape[2];
    return 0;
}

void pf_slice_begin(pf_state *state) {
    for (int i = 0; i < state->n_child; i++) {
        if (state->child[i]) pf_slice_begin(state->child[i]);
    }
    if (state->kind != &pf_state_favor) return;
    pf_tensor_release(&state->tensor[PF_S_RECENT]);
    pf_tensor_release(&state->tensor[PF_Z_RECENT]);
}

void pf_slice_cut(pf_state *state, const bool *keep, bool gradient) {
    for (int i = 0; i < state->n_child; i++) {
        if (state->child[i]) pf_slice_cut(state->child[i], keep, gradient);
    }
    if (state->kind != &pf_state_favor) return;
    for (int k = PF_S; k <= PF_SHIFT; k++) {
        pf_tensor *t = state->tensor[k];
        if (!t || state->batch == 0) continue;
        int64_t row = pf_tensor_numel(t) / state->batch;
        float fill = k == PF_SHIFT && !gradient ? -INFINITY : 0;
        for (int64_t i = 0; i < state->batch * row; i++) {
            if (!keep[i / row]) pf_f32(t)[i] = fill;
        }
    }
}
