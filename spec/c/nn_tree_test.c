/* nn_tree_test.c - modules as trees: names, copies, seeds, messages, the table of layers. */
#include "nn_support.h"

/* ---- structure ---- */

static void test_names(pf_engine *e) {
    static const char *const names[] = {
        "embedding.weight",
        "blocks.1.norm1.weight",
        "blocks.1.attention.projection",
        "blocks.1.attention.qkv.weight",
        "blocks.1.attention.out.weight",
        "blocks.1.norm2.weight",
        "blocks.1.mlp.up.weight",
        "blocks.1.mlp.down.weight",
        "blocks.2.norm1.weight",
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

static void test_patterns(void) {
    static const char *const fits[][2] = {
        {"embedding", "embedding.weight"},
        {"blocks.1", "blocks.1.mlp.up.weight"},
        {"mlp.up", "blocks.1.mlp.up.weight"},
        {"blocks.1.mlp.up.weight", "blocks.1.mlp.up.weight"},
        {"blocks.*.bias", "blocks.12.mlp.up.bias"},
        {"*", ""},
        {"*.mlp.*t", "blocks.1.mlp.up.weight"},
        {"blocks.?.*", "blocks.1.norm1.weight"},
        {"head|norm", "norm.weight"},
        {"a*b|embedding", "embedding.weight"},
    };
    static const char *const fails[][2] = {
        {"blocks.1", "blocks.10.mlp.up.weight"},
        {"embed", "embedding.weight"},
        {"mlp.weight", "blocks.1.mlp.up.weight"},
        {"", "norm.weight"},
        {"|", "norm.weight"},
        {"*bias", "norm.weight"},
        {"blocks.?.*", "blocks.12.norm1.weight"},
        {"blocks.*", "xblocks.1"},
    };
    for (int i = 0; i < PF_COUNT(fits); i++) CHECK(pf_name_matches(fits[i][0], fits[i][1]));
    for (int i = 0; i < PF_COUNT(fails); i++) CHECK(!pf_name_matches(fails[i][0], fails[i][1]));
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
    CHECK_OK(pf_module_after_step(e, a, 4, NULL));
    CHECK_OK(pf_module_after_step(other, b, 4, NULL));
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
    check_refused(e, "sequential", "{}", PF_ENOTFOUND, "there are linear, embedding, ");
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
    CHECK(strstr(pf_last_error(), "blocks.1.attention: ") && strstr(pf_last_error(), "causal"));
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
    static const struct {
        const char *text;
        int status;
    } bad[] = {
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

/* A chain around *m, `times` of it; *m is given up. */
static int wrap(pf_engine *e, pf_module **m, int times) {
    pf_module *inner[2] = {*m, *m}, *outer = NULL;
    int status = pf_module_new(&outer, e, "chain", NULL, inner, times);
    if (status < 0) return status;
    pf_module_release(m);
    *m = outer;
    return status;
}

/* As deep as scripts may go: every name is whole, and each level costs what the first does. */
static void test_deep(pf_engine *e) {
    pf_config *options = options_of("{'dim': 2}");
    pf_module *m = NULL;
    const char *name = NULL;
    int depth = 0;
    CHECK_OK(pf_module_new(&m, e, "rmsnorm", options, NULL, 0));
    pf_config_free(options);
    while (depth < PF_MODULE_DEPTH && wrap(e, &m, 1) >= 0) depth++;
    CHECK(depth == PF_MODULE_DEPTH && pf_module_tensor_count(m) == 1);
    CHECK_OK(pf_module_tensor_at(m, 0, &name, NULL, NULL));
    CHECK(strlen(name) == 2 * PF_MODULE_DEPTH + strlen("weight"));
    CHECK(!strncmp(name, "1.1.1.", 6) && !strcmp(name + 2 * PF_MODULE_DEPTH, "weight"));
    CHECK_FAILS(PF_EINVAL, wrap(e, &m, 1));
    CHECK(strstr(pf_last_error(), "nest deeper than 4096"));
    pf_module_release(&m);
}

/* What stands in a tree many times counts as often, and its tensors once. */
static void test_doubled(pf_engine *e) {
    pf_config *options = options_of("{'dim': 2}");
    pf_module *m = NULL;
    int levels = 0;
    CHECK_OK(pf_module_new(&m, e, "rmsnorm", options, NULL, 0));
    pf_config_free(options);
    while (levels < 40 && wrap(e, &m, 2) >= 0) levels++;
    CHECK(levels == 16); /* 2^17 - 1 layers; one more level is 2^18 - 1 */
    CHECK(strstr(pf_last_error(), "131072 layers"));
    CHECK(pf_module_tensor_count(m) == 1);
    pf_module_release(&m);
}

/* What attention saw, under the whole path of a layer 100 deep. */
static void test_report_path(pf_engine *e) {
    pf_config *options = options_of("{'dim': 8, 'heads': 1, 'kernel': {'features': 8}}");
    pf_module *m = NULL;
    pf_tensor *x = NULL, *y = NULL;
    pf_config *lines = NULL;
    pf_pass pass = {.size = sizeof pass, .training = true, .step = 16, .watch = true};
    const int64_t shape[3] = {1, 6, 8};
    CHECK_OK(pf_module_new(&m, e, "attention", options, NULL, 0));
    for (int i = 0; i < 100; i++) CHECK_OK(wrap(e, &m, 1));
    CHECK_OK(pf_tensor_full(&x, e, PF_F32, 3, shape, 0.5));
    CHECK_OK(pf_module_forward(&y, e, m, x, &pass));
    CHECK_OK(pf_module_attention_report(&lines, m));
    CHECK(pf_config_size(lines) == 1);
    const char *path = pf_config_string(pf_config_get(pf_config_at(lines, 0), "layer"));
    CHECK(path && strlen(path) == 199);
    pf_config_free(lines);
    pf_config_free(options);
    pf_tensor_release(&y);
    pf_tensor_release(&x);
    pf_module_release(&m);
}

static int give_back(void *context, pf_engine *e, pf_tensor *x, const pf_pass *pass,
                     pf_tensor **y) {
    (void)context, (void)e, (void)pass;
    *y = pf_tensor_retain(x);
    return 0;
}

/* A layer of the host deep in a tree gets tensors later: the next count finds them. */
static void test_later_tensors(pf_engine *e) {
    const pf_host_layer layer = {.size = sizeof layer, .forward = give_back};
    const int64_t shape[1] = {2};
    pf_module *m = NULL, *host = NULL;
    pf_tensor *tensor = NULL, *at = NULL;
    const char *name = NULL;
    CHECK_OK(pf_module_host(&host, e, "mine", &layer, NULL, 0));
    m = pf_module_retain(host);
    CHECK_OK(wrap(e, &m, 1));
    CHECK(pf_module_tensor_count(m) == 0);
    CHECK_OK(pf_tensor_full(&tensor, e, PF_F32, 1, shape, 1));
    CHECK_OK(pf_module_add_tensor(host, "w", tensor, true));
    CHECK_FAILS(PF_ENOTFOUND, pf_module_tensor_at(m, 0, &name, NULL, NULL));
    CHECK(pf_module_tensor_count(m) == 1);
    CHECK_OK(pf_module_tensor_at(m, 0, &name, &at, NULL));
    CHECK(at == tensor && !strcmp(name, "1.w"));
    pf_tensor_release(&tensor);
    pf_module_release(&host);
    pf_module_release(&m);
}

/* An option that is null is one that was not given, whatever its kind. */
static void test_null_options(pf_engine *e) {
    pf_module *m = small_model(
        e, "'positions': null, 'ngrams': null, 'causal': null, 'kv_heads': null, 'head': null");
    pf_module *same = small_model(e, "");
    pf_config *a = NULL, *b = NULL;
    char *one = NULL, *other = NULL;
    CHECK_OK(pf_module_tree(&a, m));
    CHECK_OK(pf_module_tree(&b, same));
    /* Whatever the order: all of one is in the other, and as many. */
    const pf_config *options = pf_config_get(a, "options"), *plain = pf_config_get(b, "options");
    CHECK(pf_config_size(options) == pf_config_size(plain));
    for (int i = 0; i < pf_config_size(plain); i++) {
        CHECK_OK(pf_json_write(&one, pf_config_at(plain, i), false));
        CHECK_OK(pf_json_write(&other, pf_config_get(options, pf_config_key(plain, i)), false));
        CHECK(strcmp(one, other) == 0);
        pf_text_free(one), pf_text_free(other);
    }
    pf_config_free(a), pf_config_free(b);
    pf_module_release(&m);
    pf_module_release(&same);
}

int main(void) {
    pf_engine *e = engine_of(2, 11);
    test_names(e);
    test_patterns();
    test_tree(e);
    test_kernel_seed(e);
    test_shared(e);
    test_seed();
    test_messages(e);
    test_bad_trees(e);
    test_deep(e);
    test_doubled(e);
    test_later_tensors(e);
    test_report_path(e);
    test_null_options(e);
    size_t live = live_bytes(e);
    pf_engine_close(&e);
    CHECK(live <= 1 << 16);
    return CHECK_REPORT();
}
