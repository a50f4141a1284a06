/* nn_test.c - modules that run: gradients, isolation of items, causality, documents, hosts. */
#include "calls_support.h"
#include "nn_support.h"

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
        "'kernel': {'name': 'softmax', 'features': 24}",
        "'kernel': {'name': 'elu'}, 'conv': 3",
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
                if (s < 0 || s >= L || document[s] != document[t] || pf_i32(c.mask)[b * L + s] == 0)
                    continue;
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
    if (status >= 0) status = call_two(&product, e, &pf_op_mul, side[1], side[2]);
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
    pf_host_layer layer = {
        .size = sizeof layer, .forward = host_forward, .step = host_step, .context = context};
    return pf_module_host(module, e, name, &layer, children, n);
}

static int built(pf_engine *e, const char *tree) {
    pf_module *m = NULL;
    pf_config *node = options_of(tree);
    int status = pf_module_build(&m, e, node);
    pf_config_free(node);
    pf_module_release(&m);
    return status;
}

/* A host's layer has a name and no options: alone, in a tree, and with some that nobody reads. */
static void test_host_options(pf_engine *e) {
    CHECK_OK(built(e, "{'type': 'lua', 'name': 'x'}"));
    CHECK_OK(built(e, "{'type': 'lua', 'name': 'x', 'options': {}}"));
    CHECK_OK(built(e, "{'type': 'chain', 'children': [{'type': 'lua', 'name': 'x'}]}"));
    CHECK_FAILS(PF_EFORMAT, built(e, "{'type': 'chain', 'children': [{'type': 'lua', "
                                     "'name': 'x', 'options': {'width': 3}}]}"));
    CHECK(strstr(pf_last_error(), "layer 'x' lives in a script or a host and can't be given"));
}

static void test_host(pf_engine *e) {
    host_context context = {0, 0};
    pf_host_layer layer = {.size = sizeof layer,
                           .forward = host_forward,
                           .step = host_step,
                           .release = host_release,
                           .release_state = host_release_state,
                           .context = &context};
    pf_module *m = NULL, *again = NULL, *child = layer_of(e, "linear", "{'from': 2, 'to': 2}");
    pf_tensor *t = NULL, *x = NULL, *y = NULL;
    int64_t two = 2, shape[3] = {2, 5, 2};
    CHECK_FAILS(PF_EINVAL, pf_module_host(&m, e, "mine", &layer, (pf_module *[]){child, NULL}, 2));
    CHECK(strstr(pf_last_error(), "child 1 is NULL"));
    CHECK(strstr(pf_last_error_from(1), "child 2 is NULL"));
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
    CHECK_OK(pf_engine_resolve_layers(e, resolve, &context));
    CHECK_OK(pf_module_build(&again, e, tree));
    CHECK(again && pf_module_child_count(again) == 1);
    test_host_options(e);
    CHECK_OK(pf_engine_resolve_layers(e, NULL, NULL));
    pf_config_free(tree);
    pf_tensor_release(&t), pf_tensor_release(&x), pf_tensor_release(&y);
    pf_module_release(&again), pf_module_release(&child), pf_module_release(&m);
    CHECK(context.released == 1);
}

int main(void) {
    pf_engine *e = engine_of(2, 11), *single = engine_of(1, 11);
    test_gradients(single); /* thousands of tiny forwards */
    test_conv(single);
    test_heads(single);
    test_items(e);
    test_causality(e);
    test_documents(e);
    test_host(e);
    pf_engine_close(&single);
    size_t live = live_bytes(e);
    pf_engine_close(&e);
    CHECK(live <= 1 << 16);
    return CHECK_REPORT();
}
