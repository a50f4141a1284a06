/*
 * ship_test.c - a model that is shipped: the folder that pf_model_save makes, and a checkpoint that
 * what only training needs has been taken out of, are enough for every use of the model, whose bits
 * are those of the checkpoint; going on with the training is refused in a sentence; what is there
 * is held against the manifest as ever. In LIVING_IN_A_HOST.md: [files.6].
 */
#include "check.h"
#include "module.h"
#include "performer_attention.h"
#include "scratch.h"

static pf_engine *engine;
static char dir[256];

static const char tiny[] =
    "{\"type\":\"performer\",\"options\":{\"vocab\":11,\"dim\":8,\"layers\":2,\"heads\":2,"
    "\"length\":16,\"causal\":true,\"kernel\":{\"name\":\"softmax\",\"features\":8}}}";

static pf_module *build(void) {
    pf_config *tree = NULL;
    pf_module *module = NULL;
    CHECK_OK(pf_json_parse(&tree, tiny, sizeof tiny - 1));
    CHECK_OK(pf_module_build(&module, engine, tree));
    pf_config_free(tree);
    return module;
}

/* A run with a checkpoint of all that there is. */
static void save_run(const char *run, pf_module *module) {
    pf_config *options = pf_config_new(PF_MAP), *state = pf_config_new(PF_MAP);
    pf_config *tokenizer = pf_config_new_string("byte");
    pf_optimizer *optimizer = NULL;
    pf_state *carried = NULL;
    CHECK_OK(pf_config_set_string(options, "type", "adamw"));
    CHECK_OK(pf_optimizer_new(&optimizer, engine, module, options));
    CHECK_OK(pf_module_carry(&carried, engine, module, 1, 0));
    CHECK_OK(pf_checkpoint_save_carried(engine, run, 3, module, optimizer, carried, state,
                                        tokenizer, 0));
    pf_state_close(&carried);
    pf_optimizer_close(&optimizer);
    pf_config_free(options);
    pf_config_free(state);
    pf_config_free(tokenizer);
}

/* What a stream of the model says after a prompt: the logits, summed. */
static double voice(pf_module *module) {
    const int32_t prompt[] = {1, 2, 3, 4};
    pf_stream *stream = NULL;
    int64_t n = 0;
    double sum = 0;
    CHECK_OK(pf_stream_open(&stream, engine, module));
    CHECK_OK(pf_stream_feed(stream, prompt, 4));
    const float *logits = pf_stream_logits(stream, &n);
    for (int64_t i = 0; i < n; i++) sum += logits[i] * (double)(i + 1);
    pf_stream_close(&stream);
    return sum;
}

static bool is_there(const char *folder, const char *name) {
    return access(scratch_path("%s/%s", folder, name), F_OK) == 0;
}

/* Every way to the model of a folder without what training needs. */
static void check_model(const char *folder, double wanted) {
    pf_module *module = NULL;
    pf_config *state = NULL, *tokenizer = NULL, *info = NULL;
    CHECK_OK(pf_model_load(&module, engine, folder));
    CHECK(voice(module) == wanted);
    pf_serving *serving = NULL;
    CHECK_OK(pf_serving_open(&serving, engine, module, NULL));
    pf_serving_close(&serving);
    CHECK_OK(pf_checkpoint_restore(engine, folder, module, NULL, NULL, NULL));
    pf_module_release(&module);
    CHECK_OK(pf_model_load_mapped(&module, engine, folder));
    CHECK(voice(module) == wanted);
    pf_module_release(&module);
    CHECK_OK(pf_checkpoint_load(engine, folder, &module, NULL, &state, &tokenizer));
    CHECK(voice(module) == wanted && pf_config_number(pf_config_get(state, "step")) == 0);
    CHECK(tokenizer && !strcmp(pf_config_string(tokenizer), "byte"));
    CHECK_OK(pf_inspect(&info, engine, folder));
    CHECK(pf_config_get(info, "config") && pf_config_number(pf_config_get(info, "params")) > 0);
    pf_module_release(&module);
    pf_config_free(state);
    pf_config_free(tokenizer);
    pf_config_free(info);
}

/* A byte of the weights is another. */
static void check_damage(const char *folder) {
    const char *path = scratch_path("%s/model.safetensors", folder);
    pf_module *module = NULL;
    size_t bytes = 0;
    char *data = scratch_read(path, &bytes);
    data[bytes - 1] ^= 1;
    CHECK(scratch_write(path, data, bytes) == 0);
    CHECK_FAILS(PF_EFORMAT, pf_model_load(&module, engine, folder));
    CHECK(strstr(pf_last_error(), "model.safetensors") && strstr(pf_last_error(), "damaged"));
    data[bytes - 1] ^= 1;
    CHECK(scratch_write(path, data, bytes) == 0);
    CHECK_OK(pf_model_load(&module, engine, folder));
    pf_module_release(&module);
    free(data);
}

static void test_save(pf_module *module) {
    const char *folder = scratch_path("%s/ship", dir);
    pf_config *tokenizer = pf_config_new_string("byte");
    CHECK_OK(pf_model_save(engine, scratch_path("%s/", folder), module, tokenizer));
    CHECK(scratch_count(folder, "") == 4);
    CHECK(is_there(folder, "config.json") && is_there(folder, "model.safetensors"));
    CHECK(is_there(folder, "tokenizer.json") && is_there(folder, "manifest.json"));
    check_model(folder, voice(module));
    check_damage(folder);
    /* Nothing is written over. */
    CHECK_FAILS(PF_ESTATE, pf_model_save(engine, folder, module, tokenizer));
    CHECK(strstr(pf_last_error(), "there already"));
    CHECK_FAILS(PF_ESTATE,
                pf_model_save(engine, scratch_path("%s/config.json", folder), module, NULL));
    CHECK_FAILS(PF_EINVAL, pf_model_save(engine, "", module, NULL));
    check_model(folder, voice(module));
    /* An empty folder is as good as none; those above are made; memory is a place, too. */
    const char *deep = scratch_path("%s/a/b", dir);
    CHECK_OK(pf_model_save(engine, deep, module, tokenizer));
    CHECK_OK(pf_file_make_folder(engine, scratch_path("%s/a/empty", dir)));
    CHECK_OK(pf_model_save(engine, scratch_path("%s/a/empty", dir), module, tokenizer));
    CHECK(scratch_count(scratch_path("%s/a", dir), ".") == 0); /* nothing temporary is left */
    pf_module *loaded = NULL;
    CHECK_OK(pf_model_save(engine, "memory:ship", module, NULL));
    CHECK_OK(pf_model_load(&loaded, engine, "memory:ship"));
    CHECK(voice(loaded) == voice(module));
    pf_module_release(&loaded);
    CHECK_OK(pf_file_remove(engine, "memory:ship"));
    pf_config_free(tokenizer);
}

/* What only training needs, in any number, may be missing. */
static void test_taken_out(pf_module *module) {
    static const char *const spare[] = {"optimizer.safetensors", "carried.safetensors",
                                        "state.json"};
    const char *run = scratch_path("%s/run", dir), *folder = scratch_path("%s/run/step-3", dir);
    save_run(run, module);
    for (int i = 0; i < 3; i++) {
        pf_module *loaded = NULL;
        pf_optimizer *optimizer = NULL;
        pf_state *carried = NULL;
        CHECK(unlink(scratch_path("%s/%s", folder, spare[i])) == 0);
        if (i == 2) check_model(folder, voice(module));
        if (i == 2) check_model(run, voice(module));
        CHECK_OK(pf_model_load(&loaded, engine, folder));
        pf_module_release(&loaded);
        CHECK_FAILS(PF_EFORMAT,
                    pf_checkpoint_load(engine, folder, &loaded, &optimizer, NULL, NULL));
        CHECK(!loaded && !optimizer &&
              strstr(pf_last_error(), " is missing: the folder is enough "
                                      "for running its model, not for "
                                      "going on with the training"));
        CHECK_FAILS(PF_EFORMAT, pf_checkpoint_carried(&carried, engine, folder, module));
    }
    check_damage(folder);
    CHECK(unlink(scratch_path("%s/config.json", folder)) == 0);
    pf_module *loaded = NULL;
    CHECK_FAILS(PF_EFORMAT, pf_model_load(&loaded, engine, folder));
    CHECK(strstr(pf_last_error(), "config.json in ") && strstr(pf_last_error(), " is missing"));
}

/* What is no folder of a model is told as what it is. */
static void test_paths(pf_module *module) {
    const char *folder = scratch_path("%s/paths", dir);
    pf_module *loaded = NULL;
    CHECK_OK(pf_model_save(engine, folder, module, NULL));
    CHECK_FAILS(PF_EINVAL, pf_model_load(&loaded, engine, ""));
    CHECK(strstr(pf_last_error(), "the path is empty; what is loaded is a folder"));
    static const char *const none[] = {"%s/nowhere", "%s/nowhere/BEST", "%s/BEST"};
    for (size_t i = 0; i < sizeof none / sizeof *none; i++) {
        const char *path = scratch_path(none[i], folder), *text = pf_last_error();
        CHECK_FAILS(PF_ENOTFOUND, pf_model_load(&loaded, engine, path));
        CHECK(strncmp(text, "checkpoint: ", 12) == 0 && strstr(text, path));
        CHECK(strstr(text, "; check the path: what is loaded is a folder"));
    }
    CHECK_FAILS(PF_EFORMAT,
                pf_model_load(&loaded, engine, scratch_path("%s/model.safetensors", folder)));
    CHECK(strstr(pf_last_error(), "is a file; what is loaded is a folder"));
    CHECK_FAILS(PF_EINVAL, pf_checkpoint_save(engine, folder, 1, module, NULL, NULL, NULL, -1));
    CHECK(strstr(pf_last_error(), "keep is -1"));
    /* Names that nobody is to find are in no message. */
    if (geteuid() == 0) return; /* who may write anywhere */
    CHECK(chmod(folder, 0500) == 0);
    CHECK_FAILS(PF_EIO, pf_model_save(engine, scratch_path("%s/x", folder), module, NULL));
    CHECK(!strstr(pf_last_error(), ".tmp"));
    CHECK_FAILS(PF_EIO, pf_file_write(engine, scratch_path("%s/y", folder), "y", 1));
    CHECK(!strstr(pf_last_error(), ".tmp"));
    CHECK(chmod(folder, 0700) == 0);
}

int main(void) {
    pf_options options = PF_OPTIONS_DEFAULT;
    options.threads = 1, options.seed = 5;
    options.allocator = &scratch_allocator;
    CHECK_OK(pf_engine_open(&engine, &options));
    scratch_open(dir, sizeof dir);
    pf_module *module = build();
    test_save(module);
    test_taken_out(module);
    test_paths(module);
    pf_module_release(&module);
    pf_engine_close(&engine);
    scratch_remove(dir);
    CHECK(scratch_held == 0);
    return CHECK_REPORT();
}
