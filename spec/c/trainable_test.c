/* trainable_test.c - what of a model is trained, as a C host says it: adapters and frozen
 * parameters, whole or not at all where memory is short. */
#include "nn_support.h"
#include "scarce.h"

/* Adapters come and go whole: a refused call leaves the model as it was, and a tensor that has gone
 * is in no walk, nor in that of a module above. */
static void test_adapters(pf_engine *e) {
    pf_module *m = small_model(e, "'tied': false"), *above = NULL, *again = NULL;
    pf_config *tree = NULL;
    CHECK_OK(pf_module_new(&above, e, "chain", NULL, &m, 1));
    int n = pf_module_tensor_count(m);
    CHECK_FAILS(PF_EINVAL, pf_module_adapt(e, m, "nothing", 2, 1));
    CHECK_FAILS(PF_EINVAL, pf_module_adapt(e, m, "mlp", 0, 1));
    CHECK(pf_module_adapt(e, m, "mlp.up|head", 2, 1) == 3);
    CHECK_FAILS(PF_EINVAL, pf_module_adapt(e, m, "*", 2, 1));
    CHECK(pf_module_tensor_count(m) == n + 6 && pf_module_tensor_count(above) == n + 6);
    CHECK_OK(pf_module_tree(&tree, m));
    CHECK_OK(pf_module_build(&again, e, tree));
    CHECK(pf_module_tensor_count(again) == n + 6);
    CHECK(pf_module_merge(m) == 3 && pf_module_merge(m) == 0);
    CHECK(pf_module_adapt(e, m, "qkv", 2, 1) == 2);
    for (int i = 0; i < n + 4; i++) {
        const char *name;
        bool trained;
        CHECK_OK(pf_module_tensor_at(above, i, &name, NULL, &trained));
        CHECK(trained == (strstr(name, "adapter") != NULL));
    }
    CHECK_FAILS(PF_EINVAL, pf_module_freeze(m, "nothing", true));
    CHECK(pf_module_freeze(m, "adapter", true) == 4 && pf_module_freeze(m, "head", false) == 1);
    pf_config_free(tree);
    pf_module_release(&again);
    pf_module_release(&above);
    pf_module_release(&m);
}

/* The tree as text, to be freed. */
static char *text_of(pf_module *m) {
    pf_config *tree = NULL;
    char *text = NULL;
    CHECK_OK(pf_module_tree(&tree, m));
    CHECK_OK(pf_json_write(&text, tree, false));
    pf_config_free(tree);
    return text;
}

typedef int (*change)(pf_engine *e, pf_module *m);
static int adapt_all(pf_engine *e, pf_module *m) { return pf_module_adapt(e, m, "*", 2, 1); }
static int freeze_some(pf_engine *e, pf_module *m) {
    (void)e;
    return pf_module_freeze(m, "mlp|norm", true);
}
static int merge(pf_engine *e, pf_module *m) {
    (void)e;
    return pf_module_merge(m);
}

/* At whatever allocation f fails, the model is what it was, and nothing is lost. */
static void check_whole(pf_engine *e, scarce *s, pf_module *m, change f, int64_t least) {
    char *before = text_of(m);
    int64_t n = 0;
    for (int status = -1; status < 0 && n < 2000; n++) {
        scarce_begins(s, n);
        status = f(e, m);
        scarce_ends(s);
        char *after = text_of(m);
        CHECK(status >= 0 || (status == PF_ENOMEM && strcmp(before, after) == 0));
        CHECK(status < 0 || strcmp(before, after) != 0);
        pf_text_free(after);
    }
    CHECK(n > least && n < 2000);
    pf_text_free(before);
}

static void test_memory(void) {
    scarce s = {0};
    pf_engine *e = scarce_engine(&s);
    pf_module *m = small_model(e, "'kernel': {'features': 8}");
    check_whole(e, &s, m, freeze_some, 0); /* the walk is made */
    CHECK(pf_module_freeze(m, "*", false) > 0);
    check_whole(e, &s, m, adapt_all, 20);
    check_whole(e, &s, m, merge, 1);
    pf_module_release(&m);
    pf_engine_close(&e);
    CHECK(s.live == 0);
}

int main(void) {
    pf_engine *e = engine_of(2, 11);
    test_adapters(e);
    test_memory();
    size_t live = live_bytes(e);
    pf_engine_close(&e);
    CHECK(live <= 1 << 16);
    return CHECK_REPORT();
}
