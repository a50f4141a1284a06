/*
 * grad_cases.h - inputs for the gradient check of every differentiable op. A row names an
 * op, its inputs and its attributes in words:
 *   inputs: one word an input, kind and sizes: n normal, p in 0.5 .. 1.5, k normal but away
 *           from 0 (for ops with a kink there), d distinct (for maxima), i ids 0 .. 4,
 *           j ids -1 .. 4, m mask of 0 and 1, t runs 0 0 1 1 2 2 ...; "-" is absent
 *   attrs:  name=number, or name=a,b,c for lists
 *   out:    which output is judged
 */
#ifndef PF_GRAD_CASES_H
#define PF_GRAD_CASES_H

#include "check.h"
#include "tape.h"

typedef struct {
    const char *op, *inputs, *attrs;
    int out;
} grad_case;

static const grad_case grad_cases[] = {
    {"add", "n3,4 n4", "", 0},
    {"add", "n2,1,3 n4,1", "", 0},
    {"sub", "n3,4 n3,1", "", 0},
    {"mul", "n3,4 n4", "", 0},
    {"mul", "n300 n300", "", 0},
    {"div", "n3,4 p3,4", "", 0},
    {"pow", "p3,4 n3,4", "", 0},
    {"maximum", "d3,4 d3,4", "", 0},
    {"neg", "n7", "", 0},
    {"exp", "n7", "", 0},
    {"log", "p7", "", 0},
    {"sqrt", "p7", "", 0},
    {"square", "n7", "", 0},
    {"tanh", "n7", "", 0},
    {"sigmoid", "n7", "", 0},
    {"relu", "k17", "", 0},
    {"requ", "k17", "", 0},
    {"gelu", "n17", "", 0},
    {"gelu_tanh", "n17", "", 0},
    {"silu", "n17", "", 0},
    {"elu", "k17", "", 0},
    {"abs", "k17", "", 0},
    {"cos", "n7", "", 0},
    {"sin", "n7", "", 0},
    {"affine", "n7", "scale=-1.5 shift=2", 0},
    {"sum", "n3,4", "", 0},
    {"sum", "n3,4,5", "dim=1", 0},
    {"mean", "n3,4", "", 0},
    {"mean", "n3,4,5", "dim=0 keep=1", 0},
    {"max", "d3,4", "", 0},
    {"max", "d3,4", "dim=1", 0},
    {"logsumexp", "n3,4", "dim=0", 0},
    {"softmax", "n3,4", "dim=0", 0},
    {"softmax", "n5,30", "", 0},
    {"log_softmax", "n3,4", "dim=-1", 0},
    {"matmul", "n3,4 n4,5", "", 0},
    {"matmul", "n2,3,4 n2,4,5", "", 0},
    {"matmul", "n2,3,4 n4,2", "", 0},
    {"linear", "n2,3,4 n5,4 n5", "", 0},
    {"linear", "n3,4 n5,4", "", 0},
    {"linear", "n2,3,4 n5,4 n5", "act=1", 0},
    {"linear", "n3,4 n5,4 n5", "act=2", 0},
    {"linear", "n3,4 n5,4", "act=4", 0},
    {"reshape", "n3,4", "shape=2,6", 0},
    {"transpose", "n2,3,4", "a=0 b=2", 0},
    {"permute", "n2,3,4", "order=2,0,1", 0},
    {"slice", "n3,6", "dim=1 first=1 end=4", 0},
    {"concat", "n3,2 n3,4", "dim=1", 0},
    {"layernorm", "n5,8 n8 n8", "", 0},
    {"layernorm", "n300,4 n4", "", 0},
    {"rmsnorm", "n2,5,8 n8", "eps=0.1", 0},
    {"rmsnorm", "n300,4 n4", "", 0},
    {"add_layernorm", "n5,8 n5,8 n8 n8", "", 0},
    {"add_layernorm", "n5,8 n5,8 n8 n8", "", 1},
    {"add_layernorm", "n300,4 n300,4 n4", "", 1},
    {"add_rmsnorm", "n2,5,8 n2,5,8 n8", "eps=0.1", 0},
    {"add_rmsnorm", "n300,4 n300,4 n4", "", 1},
    {"embedding", "n5,3 i2,4", "", 0},
    {"embedding", "n5,150 i9", "", 0},
    {"cross_entropy", "n6,5 j6", "", 0},
    {"cross_entropy", "n2,3,700 i2,3", "reduction=1", 0},
    {"cross_entropy", "n6,5 j6", "reduction=2", 0},
    {"mean_square", "n3,4 n3,4", "", 0},
    {"dropout", "n40", "p=0.4", 0},
    {"dropout", "n5", "p=0", 0},
    {"rotary", "n2,2,3,4", "", 0},
    {"rotary", "n2,2,3,6 i2,3", "halves=1 offset=5 dims=4", 0},
    {"swiglu", "n3,4 n3,4", "", 0},
    {"swiglu", "n700 n700", "", 0},
    {"short_conv", "n2,7,3 n4,3", "", 0},
    {"short_conv", "n2,6,3 n3,3 t2,6 m2,6", "causal=0", 0},
    {"split_heads", "n2,3,12", "heads=2", 0},
    {"split_heads", "n2,3,12", "heads=2", 2},
    {"favor", "n1,2,5,4 n1,2,7,4 n1,2,7,3 c8,4", "", 0},
    {"favor", "n2,2,7,4 n2,2,7,4 n2,2,7,3 c2,8,4 m2,7 t2,7", "causal=1", 0},
    {"favor", "n1,2,7,4 n1,2,7,4 n1,2,7,3 c8,4 - - p1,2,8,3 p1,2,8 c1,2", "causal=1 state=1", 0},
    {"favor", "n1,2,7,4 n1,2,7,4 n1,2,7,3", "map=relu", 0},
    {"favor", "n1,2,7,4 n1,2,7,4 n1,2,7,3", "map=elu causal=1", 0},
    {"linear_attention", "p1,2,5,4 p1,2,7,4 n1,2,7,3", "", 0},
    {"linear_attention", "p1,2,7,4 p1,2,7,4 n1,2,7,3", "causal=1", 0},
    {"exact_attention", "n2,2,5,4 n2,2,7,4 n2,2,7,3 m2,7", "", 0},
    {"exact_attention", "n1,2,7,4 n1,2,7,4 n1,2,7,3", "causal=1", 0},
    {"identity_attention", "n1,2,7,4 n1,2,7,4 n1,2,7,3", "", 0},
    {"log_partition", "n2,2,5,4 n2,2,7,4 c2,8,4 m2,7", "", 0},
    {"log_partition", "n1,2,7,4 n1,2,7,4 c8,4", "causal=1 eps=0.1", 0},
    {"log_partition", "k1,2,7,4 k1,2,5,4", "map=relu", 0},
    {"log_partition", "k1,2,7,4 k1,2,7,4", "map=abs causal=1 ratio=0.3", 0},
    {"log_partition", "n2,2,5,4 n2,2,7,4 - m2,7", "exact=1", 0},
    {"log_partition", "n1,2,7,4 n1,2,7,4", "exact=1 causal=1 scale=0.6", 0},
};

/* ---- reading the words ---- */

/* Numbers separated by commas; returns how many. */
static int read_list(const char *text, int64_t *list) {
    int n = 0;
    char *end = (char *)(uintptr_t)text;
    do {
        list[n++] = strtoll(text, &end, 10);
        text = end + 1;
    } while (*end == ',' && n < PF_MAX_RANK);
    return n;
}

static double grad_case_value(char kind, const pf_rng *rng, int64_t i, int64_t last) {
    float normal, uniform;
    pf_rng_fill_normal(rng, (uint64_t)i, 1, &normal);
    pf_rng_fill_uniform(rng, (uint64_t)(i + (1 << 20)), 1, &uniform);
    switch (kind) {
    case 'p':
        return 0.5 + (double)uniform;
    case 'k':
        return normal < 0 ? (double)normal - 0.4 : (double)normal + 0.4;
    case 'd':
        return fmod((double)(i * 7), 23) * 0.5 + (double)uniform * 0.2;
    case 'i':
        return (double)pf_rng_below(rng, (uint64_t)i, 5);
    case 'j':
        return (double)pf_rng_below(rng, (uint64_t)i, 6) - 1;
    case 'm':
        return i % 5 != 2;
    case 't':
        return (double)(i % last / 2);
    default:
        return (double)normal;
    }
}

static int grad_case_input(pf_tensor **t, pf_engine *e, const char *word, int index) {
    int64_t shape[PF_MAX_RANK];
    *t = NULL;
    if (word[0] == '-') return PF_OK;
    int rank = read_list(word + 1, shape);
    pf_dtype dtype = strchr("ijmt", word[0]) ? PF_I32 : PF_F32;
    PF_TRY(pf_tensor_make_lasting(t, e->heap, dtype, rank, shape));
    pf_rng rng = pf_rng_make(17, PF_DRAW_USER, 100 + (uint64_t)index, 0);
    for (int64_t i = 0; i < pf_tensor_numel(*t); i++)
        PF_TRY(pf_tensor_set(*t, i, grad_case_value(word[0], &rng, i, shape[rank - 1])));
    return strchr("npkd", word[0]) ? pf_tensor_require_grad(*t, true) : PF_OK;
}

/* The place of the word that `text` begins with in "a|b|c". */
static int64_t read_choice(const char *choices, const char *text) {
    size_t length = strcspn(text, " ");
    for (int64_t place = 0;; place++) {
        size_t n = strcspn(choices, "|");
        if (n == length && strncmp(choices, text, n) == 0) return place;
        if (!choices[n]) return strtoll(text, NULL, 10);
        choices += n + 1;
    }
}

static int grad_case_attrs(const pf_op_info *info, const char *text, pf_attr *attrs) {
    while (*text) {
        size_t length = strcspn(text, "=");
        int k = 0;
        while (k < info->n_attrs && (strlen(info->attrs[k].name) != length ||
                                     strncmp(info->attrs[k].name, text, length) != 0))
            k++;
        if (k == info->n_attrs)
            return pf_fail(PF_ENOTFOUND, "%s: no attribute %s", info->name, text);
        text += length + 1;
        pf_attr_kind kind = info->attrs[k].kind;
        if (kind == PF_ATTR_FLOAT)
            attrs[k].f = strtod(text, NULL);
        else if (kind == PF_ATTR_DIMS || kind == PF_ATTR_INTS)
            attrs[k].n = read_list(text, attrs[k].list);
        else if (kind == PF_ATTR_CHOICE)
            attrs[k].i = read_choice(info->attrs[k].choices, text);
        else
            attrs[k].i = strtoll(text, NULL, 10);
        text += strcspn(text, " ");
        text += strspn(text, " ");
    }
    return PF_OK;
}

/* ---- running a case ---- */

typedef struct {
    const pf_op *op;
    pf_attr attrs[PF_MAX_ATTR];
    pf_tensor *in[PF_MAX_IN]; /* all inputs, NULL absent */
    int n_in, out;
} grad_case_call;

static int grad_case_apply(void *context, pf_engine *e, pf_tensor *const *inputs, int n,
                           pf_tensor **y) {
    grad_case_call *call = context;
    pf_tensor *out[PF_MAX_OUT] = {NULL};
    (void)inputs, (void)n;
    PF_TRY(pf_apply_drawn(e, call->op, call->in, call->n_in, call->attrs, 77, out));
    *y = out[call->out];
    out[call->out] = NULL;
    for (int o = 0; o < PF_MAX_OUT; o++) pf_tensor_release(&out[o]);
    return PF_OK;
}

static int grad_case_judge(pf_engine *e, grad_case_call *call, double *worst) {
    pf_tensor *present[PF_MAX_IN];
    int n = 0;
    for (int i = 0; i < call->n_in; i++)
        if (call->in[i]) present[n++] = call->in[i];
    return pf_gradcheck(e, grad_case_apply, call, present, n, 23, worst);
}

/* What pf_gradcheck says of the case. */
static int run_grad_case(pf_engine *e, int index, const grad_case *test, double *worst) {
    grad_case_call call = {.out = test->out};
    pf_op_info info;
    int status = pf_op_at(e, index, &info);
    call.op = pf_registry_find(e, test->op);
    if (status >= 0) status = pf_op_defaults(e, index, call.attrs);
    if (status >= 0) status = grad_case_attrs(&info, test->attrs, call.attrs);
    for (const char *word = test->inputs; status >= 0 && *word; call.n_in++) {
        status = grad_case_input(&call.in[call.n_in], e, word, call.n_in);
        word += strcspn(word, " ");
        word += strspn(word, " ");
    }
    if (status >= 0) status = grad_case_judge(e, &call, worst);
    for (int i = 0; i < call.n_in; i++) pf_tensor_release(&call.in[i]);
    return status;
}

#endif
