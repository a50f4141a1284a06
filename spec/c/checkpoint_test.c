/*
 * checkpoint_test.c - checkpoints of models and optimizers: the same bits come back and go
 * on as the same bits, and what does not fit is refused by name.
 */
#include "check.h"
#include "folder.h"
#include "module.h"
#include "scratch.h"

static pf_engine *engine;
static char dir[256];

/* A new run folder's path: it stands until the next call. */
static const char *run_folder(const char *name) {
    static char run[300];
    snprintf(run, sizeof run, "%s/%s", dir, name);
    scratch_remove(run);
    return run;
}

static pf_config *parse(const char *text) {
    pf_config *node = NULL;
    CHECK_OK(pf_json_parse(&node, text, strlen(text)));
    return node;
}

static pf_module *build(pf_engine *e, const char *text) {
    pf_config *tree = parse(text);
    pf_module *module = NULL;
    CHECK_OK(pf_module_build(&module, e, tree));
    pf_config_free(tree);
    return module;
}

static const char tiny[] =
    "{\"type\":\"performer\",\"options\":{\"vocab\":11,\"dim\":8,\"layers\":2,\"heads\":2,"
    "\"length\":16,\"causal\":true,\"kernel\":{\"name\":\"softmax\",\"features\":8}}}";
static const char two_layers[] = "{\"type\":\"chain\",\"children\":["
                                 "{\"type\":\"linear\",\"options\":{\"from\":3,\"to\":4}},"
                                 "{\"type\":\"linear\",\"options\":{\"from\":4,\"to\":2}}]}";

static bool same_tensor(const pf_tensor *a, const pf_tensor *b) {
    bool same = pf_tensor_numel(a) == pf_tensor_numel(b);
    for (int64_t i = 0; same && i < pf_tensor_numel(a); i++) {
        double x = 0, y = 1;
        same = pf_tensor_get(a, i, &x) >= 0 && pf_tensor_get(b, i, &y) >= 0 && x == y;
    }
    return same;
}

static bool same_module(const pf_module *a, const pf_module *b) {
    int n = pf_module_tensor_count(a);
    bool same = n > 0 && n == pf_module_tensor_count(b);
    for (int i = 0; same && i < n; i++) {
        const char *x, *y;
        pf_tensor *t, *u;
        bool p, q;
        same = pf_module_tensor_at(a, i, &x, &t, &p) >= 0 &&
               pf_module_tensor_at(b, i, &y, &u, &q) >= 0 && !strcmp(x, y) && p == q &&
               same_tensor(t, u);
    }
    return same;
}

static int train_step(pf_module *module, pf_optimizer *optimizer) {
    pf_tensor *ids = NULL, *y = NULL, *seed = NULL;
    pf_tape *tape = NULL;
    pf_pass pass = {.size = sizeof pass, .training = true};
    int64_t shape[PF_MAX_RANK], in[2] = {1, 5};
    int status = pf_tensor_full(&ids, engine, PF_I32, 2, in, 3);
    if (status >= 0) status = pf_tape_open(&tape, engine);
    if (status >= 0) status = pf_module_forward(&y, engine, module, ids, &pass);
    for (int i = 0; status >= 0 && i < pf_tensor_rank(y); i++) shape[i] = pf_tensor_size(y, i);
    if (status >= 0) status = pf_tensor_full(&seed, engine, PF_F32, pf_tensor_rank(y), shape, 0.5);
    for (int64_t i = 0; status >= 0 && i < pf_tensor_numel(seed); i += 3) {
        status = pf_tensor_set(seed, i, -1);
    }
    if (status >= 0) status = pf_tape_backward(tape, y, seed);
    pf_tensor_release(&y);
    pf_tensor_release(&seed);
    pf_tensor_release(&ids);
    pf_tape_close(&tape);
    if (status >= 0) status = pf_optimizer_step(optimizer, engine, 1e-2, 0, NULL);
    return status;
}

static void test_model_round_trip(const char *options_text) {
    const char *run = run_folder("model");
    pf_config *options = parse(options_text);
    pf_config *state = parse("{\"data\":{\"index\":17},\"lr\":0.1}");
    pf_config *tokenizer = parse("{\"type\":\"protein\"}"), *state2 = NULL, *tokenizer2 = NULL;
    pf_module *module = build(engine, tiny), *loaded = NULL, *weights = NULL;
    pf_optimizer *optimizer = NULL, *loaded_optimizer = NULL;
    pf_seed(engine, 0xFFFFFFFFFFFFFFF1u);
    CHECK_OK(pf_optimizer_new(&optimizer, engine, module, options));
    for (int i = 0; i < 3; i++) CHECK_OK(train_step(module, optimizer));
    CHECK_OK(pf_checkpoint_save(engine, run, 3, module, optimizer, state, tokenizer, 2));
    pf_seed(engine, 5);
    CHECK_OK(pf_model_load(&weights, engine, run));
    CHECK(same_module(module, weights) && engine->seed == 5);
    CHECK_OK(pf_checkpoint_load(engine, run, &loaded, &loaded_optimizer, &state2, &tokenizer2));
    CHECK(same_module(module, loaded) && engine->seed == 0xFFFFFFFFFFFFFFF1u);
    CHECK(loaded_optimizer && pf_optimizer_steps(loaded_optimizer) == 3);
    CHECK(pf_config_number(pf_config_get(pf_config_get(state2, "data"), "index")) == 17);
    CHECK(pf_config_number(pf_config_get(state2, "step")) == 3);
    CHECK(!strcmp(pf_config_string(pf_config_get(tokenizer2, "type")), "protein"));
    /* Both go on, and stay the same bits. */
    for (int i = 0; i < 2; i++) {
        CHECK_OK(train_step(module, optimizer));
        CHECK_OK(train_step(loaded, loaded_optimizer));
    }
    CHECK(same_module(module, loaded) && !same_module(module, weights));
    CHECK_OK(pf_checkpoint_restore(engine, run, module, optimizer, NULL, NULL));
    CHECK(same_module(module, weights) && pf_optimizer_steps(optimizer) == 3);
    pf_optimizer_close(&optimizer);
    pf_optimizer_close(&loaded_optimizer);
    pf_module_release(&module);
    pf_module_release(&loaded);
    pf_module_release(&weights);
    pf_config_free(options);
    pf_config_free(state);
    pf_config_free(state2);
    pf_config_free(tokenizer);
    pf_config_free(tokenizer2);
}

static bool says(const char *part) {
    if (strstr(pf_last_error(), part)) return true;
    fprintf(stderr, "  '%s' is not in: %s\n", part, pf_last_error());
    return false;
}

static void test_misfits(void) {
    const char *run = run_folder("misfit");
    pf_module *module = build(engine, two_layers), *before = NULL;
    pf_module *wide = build(engine, "{\"type\":\"chain\",\"children\":["
                                    "{\"type\":\"linear\",\"options\":{\"from\":3,\"to\":4}},"
                                    "{\"type\":\"linear\",\"options\":{\"from\":4,\"to\":5}}]}");
    pf_module *one = build(engine, "{\"type\":\"chain\",\"children\":["
                                   "{\"type\":\"linear\",\"options\":{\"from\":3,\"to\":4}}]}");
    pf_module *none = NULL;
    pf_optimizer *optimizer = NULL;
    pf_config *state = NULL;
    CHECK_OK(pf_checkpoint_save(engine, run, 1, module, NULL, NULL, NULL, 0));
    CHECK_FAILS(PF_EFORMAT, pf_checkpoint_restore(engine, run, wide, NULL, NULL, NULL));
    CHECK(says("'2.weight' [2, 4] in the file, [5, 4] in the model"));
    CHECK_FAILS(PF_EFORMAT, pf_checkpoint_restore(engine, run, one, NULL, NULL, NULL));
    CHECK(says("unexpected: '2.weight' [2, 4]"));
    CHECK_OK(pf_checkpoint_save(engine, run, 2, one, NULL, NULL, NULL, 0));
    CHECK_FAILS(PF_EFORMAT, pf_checkpoint_restore(engine, run, module, NULL, NULL, NULL));
    CHECK(says("missing: '2.weight' [2, 4]") && says("step-2"));
    const char *first = scratch_path("%s/step-1", run);
    CHECK_OK(pf_checkpoint_load(engine, first, &before, &optimizer, &state, NULL));
    CHECK(!optimizer && same_module(module, before)); /* the refused loads changed nothing */
    CHECK(pf_config_number(pf_config_get(state, "step")) == 1);
    CHECK_FAILS(PF_EINVAL, pf_checkpoint_load(engine, run, NULL, &optimizer, NULL, NULL));
    CHECK_FAILS(PF_ENOTFOUND, pf_model_load(&none, engine, scratch_path("%s/none", dir)));
    CHECK(!none);
    pf_config_free(state);
    pf_module_release(&module);
    pf_module_release(&before);
    pf_module_release(&wide);
    pf_module_release(&one);
}

static int host_forward(void *context, pf_engine *e, pf_tensor *x, const pf_pass *pass,
                        pf_tensor **y) {
    (void)context, (void)e, (void)pass;
    *y = pf_tensor_retain(x);
    return 0;
}

static void test_script_layer(void) {
    const char *run = run_folder("script");
    const pf_host_layer layer = {.size = sizeof layer, .forward = host_forward};
    pf_module *module = NULL, *loaded = NULL;
    CHECK_OK(pf_module_host(&module, engine, "my_layer", &layer, NULL, 0));
    CHECK_OK(pf_checkpoint_save(engine, run, 1, module, NULL, NULL, NULL, 0));
    CHECK_FAILS(PF_ENOTFOUND, pf_model_load(&loaded, engine, run));
    CHECK(says("my_layer") && says("script") && !loaded);
    pf_module_release(&module);
}

/* Every budget from nothing to enough: clean failures, and no byte kept. */
static void test_load_budget(void) {
    const char *run = run_folder("budget");
    pf_module *module = build(engine, tiny), *loaded = NULL;
    pf_optimizer *optimizer = NULL, *other = NULL;
    bool loads = false;
    CHECK_OK(pf_optimizer_new(&optimizer, engine, module, NULL));
    CHECK_OK(pf_checkpoint_save(engine, run, 1, module, optimizer, NULL, NULL, 0));
    size_t held_before = scratch_held;
    for (size_t budget = 4096; !loads && budget < (64u << 20); budget += budget / 8) {
        pf_options options = PF_OPTIONS_DEFAULT;
        pf_engine *small = NULL;
        options.threads = 1;
        options.memory = budget;
        options.allocator = &scratch_allocator;
        if (pf_engine_open(&small, &options) < 0) continue;
        int status = pf_checkpoint_load(small, run, &loaded, &other, NULL, NULL);
        loads = status >= 0;
        CHECK(loads || (status == PF_ENOMEM && !loaded && !other));
        pf_optimizer_close(&other);
        pf_module_release(&loaded);
        pf_engine_close(&small);
        CHECK(scratch_held == held_before);
    }
    CHECK(loads);
    pf_optimizer_close(&optimizer);
    pf_module_release(&module);
}

static void test_inspect_run(void) {
    const char *run = run_folder("inspect");
    pf_module *module = build(engine, two_layers);
    pf_config *state = parse("{\"note\":\"x\"}"), *info = NULL;
    const char *paths[] = {run, scratch_path("%s/step-12", run), scratch_path("%s/LATEST", run)};
    CHECK_OK(pf_checkpoint_save(engine, run, 12, module, NULL, state, NULL, 0));
    for (int i = 0; i < 3; i++) {
        CHECK_OK(pf_inspect(&info, engine, paths[i]));
        CHECK(pf_config_size(pf_config_get(info, "tensors")) == 4);
        CHECK(pf_config_number(pf_config_get(info, "params")) == 3 * 4 + 4 + 4 * 2 + 2);
        CHECK(pf_config_number(pf_config_get(info, "bytes")) == 4 * 26);
        const pf_config *type = pf_config_get(pf_config_get(info, "config"), "type");
        CHECK(type && !strcmp(pf_config_string(type), "chain"));
        CHECK(pf_config_get(pf_config_get(info, "state"), "state") != NULL);
        CHECK(strstr(pf_config_string(pf_config_get(info, "checkpoint")), "step-12") != NULL);
        pf_config_free(info);
    }
    pf_config_free(state);
    pf_module_release(&module);
}

int main(void) {
    pf_options options = PF_OPTIONS_DEFAULT;
    options.threads = 1;
    options.allocator = &scratch_allocator;
    CHECK_OK(pf_engine_open(&engine, &options));
    scratch_open(dir, sizeof dir);
    test_model_round_trip("{\"type\":\"adamw\",\"lr\":0.01}");
    test_model_round_trip("{\"type\":\"sgd\",\"lr\":0.01,\"momentum\":0.9}");
    test_misfits();
    test_script_layer();
    test_load_budget();
    test_inspect_run();
    scratch_remove(dir);
    pf_engine_close(&engine);
    CHECK(scratch_held == 0);
    return CHECK_REPORT();
}
