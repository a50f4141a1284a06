/* nn_test.c - modules: names, trees, messages, gradients, isolation, training. */
#include "nn_support.h"

/* ---- structure ---- */

static void test_names(pf_engine *e) {
    static const char *const names[] = {
        "embedding.weight", "blocks.1.norm1.weight", "blocks.1.attention.projection",
        "blocks.1.attention.qkv.weight", "blocks.1.attention.out.weight", "blocks.1.norm2.weight",
        "blocks.1.mlp.up.weight", "blocks.1.mlp.down.weight", "blocks.2.norm1.weight",
    };
    pf_module *m = small_model(e, "'kernel': {'features': 24}");
    const char *name;
    pf_tensor *t;
    bool trained;
    for (int i = 0; i < PF_COUNT(names); i++) {
        CHECK_OK(pf_module_tensor_at(m, i, &name, &t, &trained));
        CHECK(strcmp(name, names[i]) == 0);
        CHECK(trained == !strstr(name, "projection"));
        CHECK(pf_tensor_requires_grad(t) == trained);
    }
    CHECK(pf_module_tensor_count(m) == 16);
    CHECK_FAILS(PF_ENOTFOUND, pf_module_tensor_at(m, 99, &name, &t, &trained));
    pf_module_release(&m);
    m = small_model(e, "'tied': false");
    int last = pf_module_tensor_count(m) - 1;
    CHECK_OK(pf_module_tensor_at(m, last, &name, &t, &trained));
    CHECK(strcmp(name, "head.weight") == 0 && pf_tensor_size(t, 0) == 11);
    pf_module_release(&m);
}

/* Names and shapes of a and b agree; with `values` the numbers too. */
static void check_same(pf_module *a, pf_module *b, bool values) {
    int n = pf_module_tensor_count(a);
    CHECK(n == pf_module_tensor_count(b));
    for (int i = 0; i < n && n == pf_module_tensor_count(b); i++) {
        const char *na, *nb;
        pf_tensor *ta, *tb;
        CHECK_OK(pf_module_tensor_at(a, i, &na, &ta, NULL));
        CHECK_OK(pf_module_tensor_at(b, i, &nb, &tb, NULL));
        CHECK(strcmp(na, nb) == 0 && pf_same_shape(ta, tb));
        if (!values) continue;
        float *va = numbers(ta), *vb = numbers(tb);
        CHECK(memcmp(va, vb, (size_t)pf_tensor_numel(ta) * sizeof *va) == 0);
        free(va), free(vb);
    }
}

static void test_tree(pf_engine *e) {
    for (int i = 0; i < PF_COUNT(causal_kinds); i++) {
        pf_module *a = small_model(e, causal_kinds[i]), *b = NULL;
        pf_config *tree = NULL, *again = NULL, *back = NULL;
        char *one = NULL, *two = NULL;
        CHECK_OK(pf_module_tree(&tree, a));
        CHECK_OK(pf_json_write(&one, tree, true));
        CHECK_OK(pf_json_parse(&back, one, strlen(one)));
        CHECK_OK(pf_module_build(&b, e, back));
        check_same(a, b, false);
        CHECK_OK(pf_module_tree(&again, b));
        CHECK_OK(pf_json_write(&two, again, true));
        CHECK(strcmp(one, two) == 0);
        pf_text_free(one), pf_text_free(two);
        pf_config_free(tree), pf_config_free(again), pf_config_free(back);
        pf_module_release(&a), pf_module_release(&b);
    }
}

/* A model built again under another seed redraws from the stream it had. */
static void test_kernel_seed(pf_engine *e) {
    pf_engine *other = engine_of(1, 999);
    pf_module *a = small_model(e, "'kernel': {'features': 24, 'redraw': 2}"), *b = NULL;
    pf_config *tree = NULL;
    CHECK_OK(pf_module_tree(&tree, a));
    CHECK_OK(pf_module_build(&b, other, tree));
    CHECK_OK(pf_module_redraw(e, a, 4, NULL));
    CHECK_OK(pf_module_redraw(other, b, 4, NULL));
    pf_tensor *wa, *wb;
    const char *name;
    CHECK_OK(pf_module_tensor_at(a, 2, &name, &wa, NULL));
    CHECK_OK(pf_module_tensor_at(b, 2, NULL, &wb, NULL));
    float *va = numbers(wa), *vb = numbers(wb);
    CHECK(strstr(name, "projection") && memcmp(va, vb, (size_t)pf_tensor_numel(wa) * 4) == 0);
    free(va), free(vb);
    pf_config_free(tree);
    pf_module_release(&a), pf_module_release(&b);
    pf_engine_close(&other);
}

/* A layer that stands twice keeps one set of weights, through its tree too. */
static void test_shared(pf_engine *e) {
    pf_module *a = layer_of(e, "linear", "{'from': 4, 'to': 4}"), *chain = NULL, *again = NULL;
    pf_module *children[3] = {a, layer_of(e, "linear", "{'from': 4, 'to': 4}"), a};
    pf_config *tree = NULL;
    CHECK_OK(pf_module_new(&chain, e, "chain", NULL, children, 3));
    CHECK(pf_module_tensor_count(chain) == 4);
    CHECK_OK(pf_module_tree(&tree, chain));
    CHECK_OK(pf_module_build(&again, e, tree));
    check_same(chain, again, false);
    CHECK(pf_module_child(again, 0) == pf_module_child(again, 2));
    CHECK(pf_module_child(again, 0) != pf_module_child(again, 1));
    pf_config_free(tree);
    pf_module_release(&children[1]);
    pf_module_release(&a), pf_module_release(&chain), pf_module_release(&again);
}

static void test_seed(void) {
    pf_engine *a = engine_of(1, 5), *b = engine_of(2, 5), *c = engine_of(1, 6);
    const char *kind = "'kernel': {'features': 24}, 'conv': 4";
    pf_module *ma = small_model(a, kind), *mb = small_model(b, kind), *mc = small_model(c, kind);
    check_same(ma, mb, true);
    float *wa = numbers(pf_module_tensor(pf_module_child(ma, 0), "weight"));
    float *wc = numbers(pf_module_tensor(pf_module_child(mc, 0), "weight"));
    CHECK(distance(wa, wc, 11 * 16) > 0.1);
    free(wa), free(wc);
    pf_module_release(&ma), pf_module_release(&mb), pf_module_release(&mc);
    pf_engine_close(&a), pf_engine_close(&b), pf_engine_close(&c);
}

/* ---- messages ---- */

static void check_refused(pf_engine *e, const char *type, const char *text, int status,
                          const char *part) {
    pf_config *options = options_of(text);
    pf_module *m = NULL;
    CHECK_FAILS(status, pf_module_new(&m, e, type, options, NULL, 0));
    CHECK(!m);
    if (!strstr(pf_last_error(), part)) {
        fprintf(stderr, "  '%s' lacks '%s'\n", pf_last_error(), part);
    }
    CHECK(strstr(pf_last_error(), part));
    pf_config_free(options);
}

static void test_messages(pf_engine *e) {
    check_refused(e, "liner", "{}", PF_ENOTFOUND, "did you mean 'linear'?");
    check_refused(e, "linear", "{'from': 4}", PF_EINVAL, "to");
    check_refused(e, "linear", "{'from': 4, 'to': 2, 'bais': true}", PF_EINVAL,
                  "did you mean 'bias'?");
    check_refused(e, "linear", "{'from': -4, 'to': 2}", PF_EINVAL, "-4");
    check_refused(e, "mlp", "{'dim': 8, 'act': 'gleu'}", PF_EINVAL, "gelu");
    check_refused(e, "attention", "{'dim': 100, 'heads': 8}", PF_EINVAL, "100");
    check_refused(e, "attention", "{'dim': 100, 'heads': 8}", PF_EINVAL, "heads 8");
    check_refused(e, "attention", "{'dim': 15, 'heads': 3, 'rotary': true}", PF_EINVAL, "odd");
    check_refused(e, "attention", "{'dim': 8, 'heads': 2, 'kernel': {'feature': 4}}", PF_EINVAL,
                  "features");
    check_refused(e, "attention",
                  "{'dim': 8, 'heads': 2, 'kernel': {'name': 'exact', 'feature': 4}}", PF_EINVAL,
                  "features");
    check_refused(e, "performer", "{'vocab': 9, 'dim': 10, 'heads': 4}", PF_EINVAL, "performer");
    check_refused(e, "residual", "{}", PF_EINVAL, "children");
    pf_module *m = small_model(e, "");
    pf_tensor *x = NULL, *y = NULL;
    int64_t shape[2] = {2, 3};
    CHECK_OK(pf_tensor_full(&x, e, PF_F32, 2, shape, 1));
    CHECK_FAILS(PF_EDTYPE, pf_module_forward(&y, e, m, x, NULL));
    CHECK(strstr(pf_last_error(), "[2, 3]"));
    pf_state *state = NULL;
    CHECK_FAILS(PF_EINVAL, pf_module_state(&state, e, m, 1));
    CHECK(strstr(pf_last_error(), "blocks: 1: attention") && strstr(pf_last_error(), "causal"));
    pf_tensor_release(&x);
    pf_module_release(&m);
    m = layer_of(e, "positions", "{'kind': 'learned', 'dim': 2, 'length': 4}");
    int64_t longer[3] = {1, 5, 2};
    CHECK_OK(pf_tensor_full(&x, e, PF_F32, 3, longer, 1));
    CHECK_FAILS(PF_EINVAL, pf_module_forward(&y, e, m, x, NULL));
    pf_tensor_release(&x);
    pf_module_release(&m);
}

static void test_bad_trees(pf_engine *e) {
    static const struct { const char *text; int status; } bad[] = {
        {"{'options': {}}", PF_EFORMAT},
        {"[1]", PF_EFORMAT},
        {"{'type': 'shared', 'node': 1}", PF_EFORMAT},
        {"{'type': 'lua', 'name': 'mine'}", PF_ENOTFOUND},
        {"{'type': 'chain', 'children': {'a': 1}}", PF_EFORMAT},
        {"{'type': 'chain', 'children': [{'type': 'linear'}]}", PF_EINVAL},
    };
    for (int i = 0; i < PF_COUNT(bad); i++) {
        pf_config *tree = options_of(bad[i].text);
        pf_module *m = NULL;
        CHECK_FAILS(bad[i].status, pf_module_build(&m, e, tree));
        CHECK(!m);
        pf_config_free(tree);
    }
}

static void test_table(void) {
    pf_layer_info info;
    int documented = 0, all = 0;
    for (int i = 0; i < pf_layer_count(); i++) {
        CHECK_OK(pf_layer_at(i, &info));
        for (int k = 0; k < info.n_options; k++) {
            all++;
            documented += info.options[k].doc && info.options[k].name;
        }
    }
    CHECK(pf_layer_count() == 15 && all > 60 && documented == all);
    CHECK_FAILS(PF_ENOTFOUND, pf_layer_at(99, &info));
}

/* ---- gradients ---- */

typedef struct {
    pf_module *m;
    pf_tensor *x, *target, *documents, *mask;
} loss_context;

static int loss_of(void *context, pf_engine *e, pf_tensor *const *inputs, int n, pf_tensor **loss) {
    loss_context *c = context;
    pf_pass pass = {.size = sizeof pass, .documents = c->documents, .mask = c->mask};
    pf_tensor *y = NULL;
    (void)inputs, (void)n;
    PF_TRY(pf_module_forward(&y, e, c->m, c->x, &pass));
    int status = pf_cross_entropy(loss, e, y, c->target);
    pf_tensor_release(&y);
    return status;
}

/* Document numbers: an item splits at `first`, and again at 2 * first. */
static pf_tensor *some_documents(pf_engine *e, int64_t batch, int64_t length, int64_t first) {
    pf_tensor *t = some_ids(e, batch, length, 0);
    for (int64_t i = 0; i < batch * length; i++) pf_i32(t)[i] = (int32_t)(i % length / first);
    return t;
}

static void check_gradients(pf_engine *e, const char *kind, bool documents) {
    char text[512];
    snprintf(text, sizeof text, "{'vocab': 11, 'dim': 8, 'layers': 1, 'heads': 2, %s}", kind);
    loss_context c = {layer_of(e, "performer", text), some_ids(e, 2, 7, 1), some_ids(e, 2, 7, 2),
                      NULL, NULL};
    pf_tensor *params[64];
    int n = 0;
    if (documents) c.documents = some_documents(e, 2, 7, 3);
    for (int i = 0; i < pf_module_tensor_count(c.m); i++) {
        pf_tensor *t;
        bool trained;
        CHECK_OK(pf_module_tensor_at(c.m, i, NULL, &t, &trained));
        if (trained) params[n++] = t;
    }
    double worst = 0;
    int judged = pf_gradcheck(e, loss_of, &c, params, n, 3, &worst);
    if (worst > 0.02 || judged < n) fprintf(stderr, "  %s: %g, %d\n", kind, worst, judged);
    CHECK(judged >= n && worst <= 0.02);
    pf_tensor_release(&c.x), pf_tensor_release(&c.target), pf_tensor_release(&c.documents);
    pf_module_release(&c.m);
}

static void test_gradients(pf_engine *e) {
    static const char *const kinds[] = {
        "'kernel': {'name': 'softmax', 'features': 24}", "'kernel': {'name': 'elu'}, 'conv': 3",
        "'kernel': {'name': 'exact'}, 'act': 'swiglu', 'positions': 'learned'",
    };
    for (int i = 0; i < PF_COUNT(kinds); i++) {
        check_gradients(e, kinds[i], false);
        check_gradients(e, kinds[i], true);
    }
    for (int i = 0; i < PF_COUNT(causal_kinds); i++) {
        if (strstr(causal_kinds[i], "relu'}")) continue; /* a kink in every feature */
        check_gradients(e, causal_kinds[i], false);
        check_gradients(e, causal_kinds[i], true);
    }
}

typedef struct {
    pf_tensor *documents, *mask;
    bool causal;
} conv_context;

static int conv_of(void *context, pf_engine *e, pf_tensor *const *inputs, int n, pf_tensor **y) {
    const conv_context *c = context;
    pf_tensor *in[4] = {inputs[0], inputs[1], c->documents, c->mask};
    pf_attr attr = {.i = c->causal};
    (void)n;
    return pf_apply(e, &pf_op_short_conv, in, 4, &attr, y);
}

/* short_conv against its formula, and its gradient, with documents and a mask. */
static void test_conv(pf_engine *e) {
    enum { B = 2, L = 150, D = 5, W = 4 };
    int64_t xs[3] = {B, L, D}, ws[2] = {W, D};
    pf_tensor *in[2] = {NULL, NULL}, *y = NULL;
    CHECK_OK(pf_tensor_rand(&in[0], e, 3, xs, true));
    CHECK_OK(pf_tensor_rand(&in[1], e, 2, ws, true));
    conv_context c = {some_documents(e, B, L, 40), some_ids(e, B, L, 4), true};
    for (int causal = 0; causal < 2; causal++) {
        double worst = 0;
        c.causal = causal;
        CHECK_OK(conv_of(&c, e, in, 2, &y));
        float *got = numbers(y), want[B * L * D] = {0};
        for (int i = 0; i < B * L * D; i++) {
            int b = i / (L * D), t = i / D % L, d = i % D;
            for (int j = 0; j < W; j++) {
                int s = t - j + (causal ? 0 : 1);
                const int32_t *document = pf_i32(c.documents) + b * L;
                if (s < 0 || s >= L || document[s] != document[t] ||
                    pf_i32(c.mask)[b * L + s] == 0) continue;
                want[i] += pf_f32(in[1])[j * D + d] * pf_f32(in[0])[(b * L + s) * D + d];
            }
        }
        CHECK(distance(got, want, B * L * D) < 1e-6);
        free(got);
        pf_tensor_release(&y);
        CHECK(pf_gradcheck(e, conv_of, &c, in, 2, 1, &worst) >= 4 && worst < 1e-2);
    }
    pf_tensor_release(&c.documents), pf_tensor_release(&c.mask);
    pf_tensor_release(&in[0]), pf_tensor_release(&in[1]);
}

/* q + k v of the heads of one tensor. */
static int heads_of(void *context, pf_engine *e, pf_tensor *const *inputs, int n, pf_tensor **y) {
    pf_tensor *side[PF_MAX_OUT] = {NULL}, *product = NULL;
    pf_attr heads[2] = {{.i = 2}, {.i = 0}};
    (void)context, (void)n;
    int status = pf_apply(e, &pf_op_split_heads, inputs, 1, heads, side);
    if (status >= 0) status = pf_mul(&product, e, side[1], side[2]);
    if (status >= 0) status = pf_add(y, e, side[0], product);
    for (int i = 0; i < 3; i++) pf_tensor_release(&side[i]);
    pf_tensor_release(&product);
    return status;
}

static void test_heads(pf_engine *e) {
    int64_t shape[3] = {2, 5, 3 * 2 * 4};
    pf_tensor *x = NULL, *y = NULL;
    double worst = 0;
    CHECK_OK(pf_tensor_rand(&x, e, 3, shape, true));
    CHECK(pf_gradcheck(e, heads_of, NULL, &x, 1, 1, &worst) >= 2 && worst < 1e-2);
    CHECK_OK(heads_of(NULL, e, &x, 1, &y));
    CHECK(y->rank == 4 && y->shape[1] == 2 && y->shape[2] == 5 && y->shape[3] == 4);
    /* item 1, head 1, position 3, channel 2 */
    const float *row = pf_f32(x) + (5 + 3) * 24;
    double got;
    CHECK_OK(pf_tensor_get(y, ((1 * 2 + 1) * 5 + 3) * 4 + 2, &got));
    CHECK(fabs(got - (row[6] + row[8 + 6] * row[16 + 6])) < 1e-6);
    pf_tensor_release(&x), pf_tensor_release(&y);
}

/* ---- who sees whom ---- */

/* The same bits alone and in a batch, and with trailing padding that the mask hides. */
static void test_items(pf_engine *e) {
    enum { L = 37, V = 11, PAD = 9 };
    static const char *const both[] = {"'kernel': {'features': 24}, 'conv': 4",
                                       "'kernel': {'name': 'relu'}", "'kernel': {'name': 'exact'}"};
    for (int i = 0; i < PF_COUNT(causal_kinds) + PF_COUNT(both); i++) {
        bool causal = i < PF_COUNT(causal_kinds);
        pf_module *m = small_model(e, causal ? causal_kinds[i] : both[i - PF_COUNT(causal_kinds)]);
        pf_tensor *three = some_ids(e, 3, L, 7), *one = some_ids(e, 1, L, 0);
        pf_tensor *padded = some_ids(e, 1, L + PAD, 3), *mask = some_ids(e, 1, L + PAD, 0);
        memcpy(pf_i32(one), pf_i32(three) + L, L * sizeof(int32_t));
        memcpy(pf_i32(padded), pf_i32(one), L * sizeof(int32_t));
        for (int t = 0; t < L + PAD; t++) pf_i32(mask)[t] = t < L;
        float *all = forward_of(e, m, three, NULL, NULL);
        float *alone = forward_of(e, m, one, NULL, NULL);
        float *longer = forward_of(e, m, padded, NULL, mask);
        CHECK(memcmp(all + L * V, alone, L * V * sizeof(float)) == 0);
        if (distance(longer, alone, L * V) > 1e-5) fprintf(stderr, "  kind %d: padding\n", i);
        CHECK(distance(longer, alone, L * V) <= 1e-5);
        free(all), free(alone), free(longer);
        pf_tensor_release(&three), pf_tensor_release(&one);
        pf_tensor_release(&padded), pf_tensor_release(&mask);
        pf_module_release(&m);
    }
}

/* What comes later leaves the bits before it alone. */
static void test_causality(pf_engine *e) {
    enum { L = 90, V = 11, T = 70 };
    for (int i = 0; i < PF_COUNT(causal_kinds); i++) {
        pf_module *m = small_model(e, causal_kinds[i]);
        if (strstr(causal_kinds[i], "learned")) {
            pf_module_release(&m);
            m = small_model(e, "'causal': true, 'kernel': {'name': 'relu'}");
        }
        pf_tensor *x = some_ids(e, 1, L, 7);
        float *before = forward_of(e, m, x, NULL, NULL);
        for (int t = T; t < L; t++) pf_i32(x)[t] = (pf_i32(x)[t] + 3) % 11;
        float *after = forward_of(e, m, x, NULL, NULL);
        CHECK(memcmp(before, after, T * V * sizeof(float)) == 0);
        CHECK(memcmp(before, after, L * V * sizeof(float)) != 0);
        free(before), free(after);
        pf_tensor_release(&x);
        pf_module_release(&m);
    }
}

/* A document neither sees its neighbours nor where it lies. */
static void test_documents(pf_engine *e) {
    enum { L = 60, V = 11, FIRST = 25 };
    static const char *const both[] = {"'kernel': {'features': 24}, 'conv': 4",
                                       "'kernel': {'name': 'relu'}", "'kernel': {'name': 'exact'}"};
    for (int i = 0; i < PF_COUNT(causal_kinds) + PF_COUNT(both); i++) {
        bool causal = i < PF_COUNT(causal_kinds);
        pf_module *m = small_model(e, causal ? causal_kinds[i] : both[i - PF_COUNT(causal_kinds)]);
        pf_tensor *x = some_ids(e, 1, L, 7), *documents = some_documents(e, 1, L, FIRST);
        pf_tensor *alone = some_ids(e, 1, FIRST, 0);
        memcpy(pf_i32(alone), pf_i32(x) + FIRST, FIRST * sizeof(int32_t));
        float *before = forward_of(e, m, x, documents, NULL);
        float *own = forward_of(e, m, alone, NULL, NULL);
        for (int t = 0; t < L; t++) {
            if (t / FIRST != 1) pf_i32(x)[t] = (pf_i32(x)[t] + 5) % 11;
        }
        float *after = forward_of(e, m, x, documents, NULL);
        CHECK(memcmp(before + FIRST * V, after + FIRST * V, FIRST * V * sizeof(float)) == 0);
        CHECK(memcmp(before, after, FIRST * V * sizeof(float)) != 0);
        double packed = distance(before + FIRST * V, own, FIRST * V);
        if (packed > 1e-5) fprintf(stderr, "  kind %d: packed %g\n", i, packed);
        CHECK(packed <= 1e-5);
        free(before), free(after), free(own);
        pf_tensor_release(&x), pf_tensor_release(&documents), pf_tensor_release(&alone);
        pf_module_release(&m);
    }
}

/* ---- layers of the host ---- */

typedef struct {
    int released, states;
} host_context;

/* y = x + 1 */
static int host_forward(void *context, pf_engine *e, pf_tensor *x, const pf_pass *pass,
                        pf_tensor **y) {
    (void)context;
    return pass ? pf_affine(y, e, x, 1, 1) : PF_EINVAL;
}

static int host_step(void *context, pf_engine *e, pf_tensor *x, void **state, pf_tensor **y) {
    host_context *c = context;
    if (!*state) c->states++;
    *state = c;
    return pf_affine(y, e, x, 1, 1);
}

static void host_release(void *context) { ((host_context *)context)->released++; }
static void host_release_state(void *context, void *state) {
    if (state) ((host_context *)context)->states--;
}

static int resolve(void *context, pf_engine *e, const char *name, pf_module *const *children, int n,
                   pf_module **module) {
    pf_host_layer layer = {.forward = host_forward, .step = host_step, .context = context};
    return pf_module_host(module, e, name, &layer, children, n);
}

static void test_host(pf_engine *e) {
    host_context context = {0, 0};
    pf_host_layer layer = {.forward = host_forward, .step = host_step, .release = host_release,
                           .release_state = host_release_state, .context = &context};
    pf_module *m = NULL, *again = NULL, *child = layer_of(e, "linear", "{'from': 2, 'to': 2}");
    pf_tensor *t = NULL, *x = NULL, *y = NULL;
    int64_t two = 2, shape[3] = {2, 5, 2};
    CHECK_OK(pf_module_host(&m, e, "mine", &layer, &child, 1));
    CHECK_OK(pf_tensor_full(&t, e, PF_F32, 1, &two, 3));
    CHECK_OK(pf_module_add_tensor(m, "scale", t, true));
    CHECK_FAILS(PF_EINVAL, pf_module_add_tensor(m, "scale", t, true));
    CHECK(pf_tensor_requires_grad(t) && pf_module_tensor_count(m) == 3);
    CHECK_FAILS(PF_ESTATE, pf_module_add_tensor(child, "scale", t, true));
    pf_state *state = NULL;
    CHECK_OK(pf_tensor_full(&x, e, PF_F32, 3, shape, 2));
    CHECK_OK(pf_module_state(&state, e, m, 2));
    CHECK_OK(pf_module_prefill(&y, e, m, x, state));
    CHECK(y && y->rank == 3 && y->shape[1] == 5 && pf_f32(y)[19] == 3 && context.states == 1);
    CHECK(pf_state_position(state) == 5);
    pf_state_close(&state);
    CHECK(context.states == 0);
    pf_config *tree = NULL;
    CHECK_OK(pf_module_tree(&tree, m));
    CHECK_FAILS(PF_ENOTFOUND, pf_module_build(&again, e, tree));
    CHECK(strstr(pf_last_error(), "'mine'"));
    pf_engine_resolve_layers(e, resolve, &context);
    CHECK_OK(pf_module_build(&again, e, tree));
    CHECK(again && pf_module_child_count(again) == 1);
    pf_engine_resolve_layers(e, NULL, NULL);
    pf_config_free(tree);
    pf_tensor_release(&t), pf_tensor_release(&x), pf_tensor_release(&y);
    pf_module_release(&again), pf_module_release(&child), pf_module_release(&m);
    CHECK(context.released == 1);
}

int main(void) {
    pf_engine *e = engine_of(2, 11), *single = engine_of(1, 11);
    test_names(e);
    test_tree(e);
    test_kernel_seed(e);
    test_shared(e);
    test_seed();
    test_messages(e);
    test_bad_trees(e);
    test_table();
    test_gradients(single); /* thousands of tiny forwards */
    test_conv(single);
    test_heads(single);
    test_items(e);
    test_causality(e);
    test_documents(e);
    test_host(e);
    pf_info info;
    pf_engine_info(e, &info);
    size_t scratch = e->scratch_bytes * (size_t)e->threads;
    scratch += scratch / 8; /* the heap rounds sizes up */
    pf_engine_close(&e), pf_engine_close(&single);
    if (info.live > scratch + (1 << 16)) fprintf(stderr, "  %zu bytes live\n", (size_t)info.live);
    CHECK(info.live <= scratch + (1 << 16));
    return CHECK_REPORT();
}
