/*
 * attend.c - running the attention a layer names (favor, exact, identity), and the rows of
 * this floor for the engine's op table.
 */
#include "linear.h"

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
    PF_TRY(pf_apply(e, &pf_op_favor, in, 10, attr, made));
    *out = made[0];
    return 0;
}

int pf_attend_call(pf_tensor **out, pf_engine *e, const pf_attend *a, pf_tensor *q, pf_tensor *k,
                   pf_tensor *v, pf_tensor *mask, pf_tensor *documents) {
    pf_tensor *exact[6] = {q, k, v, mask, documents, a->decay};
    pf_tensor *favor[10] = {q, k, v, a->projection, mask, documents, NULL, NULL, NULL, a->decay};
    pf_attr attr[PF_MAX_ATTR];
    switch (a->kind) {
    case PF_ATTEND_IDENTITY: return pf_apply(e, &pf_op_identity_attention, exact, 3, NULL, out);
    case PF_ATTEND_EXACT:
        pf_op_fill_defaults(&pf_op_exact_attention, attr);
        attr[0].i = a->causal;
        return pf_apply(e, &pf_op_exact_attention, exact, 6, attr, out);
    default: return call_favor(out, e, a, favor);
    }
}
