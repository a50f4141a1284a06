/*
 * attend.c - running the attention a layer names (favor, exact, identity), and the rows of
 * this floor for the engine's op table.
 */
#include "operator.h"

static const pf_op *const rows[] = {
#define PF_OP(name) &pf_op_##name,
#include "attention.def"
#undef PF_OP
};

int pf_attention_register(pf_engine *engine) {
    return pf_registry_add(engine, rows, PF_COUNT(rows));
}

static int call_favor(pf_tensor **out, pf_engine *e, const pf_attend *a, pf_tensor *const *in) {
    pf_attr attr[PF_MAX_ATTR];
    pf_tensor *made[PF_MAX_OUT] = {NULL};
    pf_op_fill_defaults(&pf_op_favor, attr);
    pf_favor_attrs(attr, &a->kernel, a->causal, false);
    PF_TRY(pf_apply(e, &pf_op_favor, in, PF_FAVOR_INPUTS, attr, made));
    *out = made[0];
    return 0;
}

static int call_exact(pf_tensor **out, pf_engine *e, const pf_attend *a, pf_tensor *const *in) {
    pf_attr attr[PF_MAX_ATTR];
    pf_op_fill_defaults(&pf_op_exact_attention, attr);
    attr[0].i = a->causal;
    return pf_apply(e, &pf_op_exact_attention, in, PF_EXACT_INPUTS, attr, out);
}

int pf_attend_call(pf_tensor **out, pf_engine *e, const pf_attend *a, pf_tensor *q, pf_tensor *k,
                   pf_tensor *v, pf_tensor *mask, pf_tensor *documents, pf_tensor *prefix) {
    pf_tensor *exact[PF_EXACT_INPUTS] = {
        [PF_EXACT_Q] = q,
        [PF_EXACT_K] = k,
        [PF_EXACT_V] = v,
        [PF_EXACT_MASK] = mask,
        [PF_EXACT_DOCUMENTS] = documents,
        [PF_EXACT_DECAY] = a->decay,
        [PF_EXACT_PREFIX] = prefix,
    };
    pf_tensor *favor[PF_FAVOR_INPUTS] = {
        [PF_FAVOR_Q] = q,
        [PF_FAVOR_K] = k,
        [PF_FAVOR_V] = v,
        [PF_FAVOR_PROJECTION] = a->projection,
        [PF_FAVOR_FACTORS] = a->factors,
        [PF_FAVOR_MASK] = mask,
        [PF_FAVOR_DOCUMENTS] = documents,
        [PF_FAVOR_DECAY] = a->decay,
        [PF_FAVOR_TILTS] = a->tilts,
        [PF_FAVOR_PREFIX] = prefix,
    };
    if (prefix && !a->causal) {
        return pf_fail(PF_EINVAL, "attention: a prefix is for causal attention (causal = true)");
    }
    switch (a->kind) {
    case PF_ATTEND_IDENTITY:
        return pf_apply(e, &pf_op_identity_attention, exact, 3, NULL, out);
    case PF_ATTEND_EXACT:
        return call_exact(out, e, a, exact);
    default:
        return call_favor(out, e, a, favor);
    }
}
