/*
 * load_test.c - checkpoints whose files lie. A manifest's checksums are the sender's own, so all of
 * a folder can be whole and yet claim anything: a load that is refused asks for no more memory
 * than the files justify, one that runs out of memory says so and never calls it damage, and one
 * that succeeds has the contents.
 */
#include "check.h"
#include "folder.h"
#include "host.h"
#include "module.h"
#include "scratch.h"

static pf_engine *engine;
static char dir[256];
static const char *run;

static pf_module *build(const char *text) {
    pf_config *tree = NULL;
    pf_module *module = NULL;
    CHECK_OK(pf_json_parse(&tree, text, strlen(text)));
    CHECK_OK(pf_module_build(&module, engine, tree));
    pf_config_free(tree);
    return module;
}

/* The folder's manifest over again, for what its files are now; their bytes. */
static size_t seal(const char *folder) {
    static const char *const names[] = {"config.json", "state.json", "model.safetensors",
                                        "optimizer.safetensors"};
    pf_manifest m = {0};
    char hash[PF_HASH_TEXT];
    size_t all = 0, bytes;
    for (int i = 0; i < PF_COUNT(names); i++) {
        char *raw = scratch_read(scratch_path("%s/%s", folder, names[i]), &bytes);
        if (!raw) continue; /* saved without an optimizer */
        pf_hash_bytes(raw, bytes, hash);
        CHECK_OK(pf_manifest_add(&m, names[i], (int64_t)bytes, hash));
        all += bytes;
        free(raw);
    }
    unlink(scratch_path("%s/manifest.json", folder));
    CHECK_OK(pf_manifest_write(&m, engine, folder, folder));
    return all;
}

/* run/step-1: the weights of a small linear layer under a config.json of the test's. */
static size_t lie(const char *config) {
    pf_module *module = build("{\"type\":\"linear\",\"options\":{\"from\":3,\"to\":4}}");
    scratch_remove(run);
    CHECK_OK(pf_checkpoint_save(engine, run, 1, module, NULL, NULL, NULL, 0));
    pf_module_release(&module);
    const char *path = scratch_path("%s/step-1/config.json", run);
    CHECK(scratch_write(path, config, strlen(config)) == 0);
    return seal(scratch_path("%s/step-1", run));
}

/* Loads with an engine of its own; *peak: the most bytes that it asked for. */
static int load(size_t *peak) {
    host_memory h = {0};
    pf_options o = host_options(&h);
    pf_engine *e = NULL;
    pf_module *module = NULL;
    pf_info before = {.size = sizeof before}, after = {.size = sizeof after};
    o.threads = 1;
    CHECK_OK(pf_engine_open(&e, &o));
    pf_engine_info(e, &before);
    int status = pf_model_load(&module, e, run);
    pf_engine_info(e, &after);
    *peak = after.peak - before.live;
    CHECK((status >= 0) == (module != NULL));
    pf_module_release(&module);
    pf_engine_close(&e);
    CHECK(h.blocks == 0 && h.bytes == 0);
    return status;
}

/* Refused over what the file says, for at most `factor` times its bytes and a megabyte. */
static void refused(const char *config, size_t factor, const char *part) {
    size_t peak, bytes = lie(config);
    CHECK_FAILS(PF_EFORMAT, load(&peak));
    CHECK(strstr(pf_last_error(), part) != NULL);
    if (!strstr(pf_last_error(), part)) fprintf(stderr, "  %s\n", pf_last_error());
    CHECK(peak <= factor * bytes + (1u << 20));
    if (peak > factor * bytes + (1u << 20)) fprintf(stderr, "  %s: %zu\n", part, peak);
}

/* What a few bytes claim, in numbers. */
static void test_claims(void) {
    static const char *const claims[][2] = {
        {"{\"type\":\"embedding\",\"options\":{\"vocab\":16777216,\"dim\":64}}", "does not fit"},
        {"{\"type\":\"performer\",\"options\":{\"vocab\":16777216,\"dim\":64}}", "does not fit"},
        {"{\"type\":\"performer\",\"options\":{\"vocab\":256,\"dim\":1048576}}", "does not fit"},
        {"{\"type\":\"performer\",\"options\":{\"vocab\":256,\"dim\":64,\"layers\":4096}}",
         "more tensors than"},
        {"{\"type\":\"performer\",\"options\":{\"vocab\":9,\"dim\":64,\"layers\":1,"
         "\"positions\":\"learned\",\"length\":16777216}}",
         "does not fit"},
        {"{\"type\":\"performer\",\"options\":{\"vocab\":9,\"dim\":1048576,\"layers\":1,"
         "\"positions\":\"sinusoidal\",\"length\":16777216}}",
         "does not fit"},
        {"{\"type\":\"attention\",\"options\":{\"dim\":1048576,\"heads\":4096,\"decay\":1,"
         "\"causal\":true,\"kernel\":{\"name\":\"softmax\",\"features\":1048576}}}",
         "does not fit"},
        {"{\"type\":\"ngrams\",\"options\":{\"dim\":8,\"buckets\":67108864,\"width\":65536}}",
         "does not fit"},
        {"{\"type\":\"positions\",\"options\":{\"dim\":1048576,\"length\":16777216}}",
         "does not fit"},
        {"{\"type\":\"linear\",\"options\":{\"from\":3,\"to\":4,\"width\":5}}", "config.json"},
        {"{\"type\":\"linear\",\"options\":{\"from\":\"3\",\"to\":4}}", "must be"},
        {"{\"type\":\"attention\",\"options\":{\"dim\":10,\"heads\":4}}", "not a multiple"},
    };
    for (int i = 0; i < PF_COUNT(claims); i++) refused(claims[i][0], 2, claims[i][1]);
}

/* Options of a file take no kernel that happens to be open. */
static void test_handle(void) {
    pf_kernel *kernel = NULL;
    pf_config *options = NULL;
    pf_module *module = NULL;
    pf_text text = {0};
    CHECK_OK(pf_kernel_open(&kernel, engine, NULL, NULL));
    CHECK_OK(pf_kernel_config(&options, kernel));
    pf_text_print(&text,
                  "{\"type\":\"attention\",\"options\":{\"dim\":8,\"heads\":2,"
                  "\"kernel\":{\"handle\":%.0f}}}",
                  pf_config_number(pf_config_get(options, "handle")));
    lie(text.data);
    CHECK_FAILS(PF_EFORMAT, pf_model_load(&module, engine, run));
    CHECK(strstr(pf_last_error(), "handle") != NULL);
    pf_kernel_release(&kernel);
    pf_config_free(options);
    pf_text_close(&text);
}

/* state.json's counters are counts, its state a map: nothing else is taken for 0. */
static void test_counters(void) {
    static const char *const lies[] = {
        "{\"format\":1,\"seed\":\"0\",\"draws\":\"-5\"}",
        "{\"format\":1,\"seed\":\"0\",\"draws\":\"5x\"}",
        "{\"format\":1,\"seed\":\"0\",\"draws\":5}",
        "{\"format\":1,\"seed\":\"18446744073709551616\"}",
        "{\"format\":1,\"step\":\"\"}",
        "{\"format\":1,\"state\":\"x\"}",
        "{\"format\":1,\"optimizer\":{\"type\":\"adamw\",\"steps\":0.5,\"options\":{}}}",
    };
    pf_module *module = build("{\"type\":\"linear\",\"options\":{\"from\":3,\"to\":4}}");
    pf_optimizer *optimizer = NULL;
    pf_config *state = NULL;
    CHECK_OK(pf_optimizer_new(&optimizer, engine, module, NULL));
    for (int i = 0; i < PF_COUNT(lies); i++) {
        pf_module *loaded = NULL;
        pf_optimizer *trains = NULL;
        scratch_remove(run);
        CHECK_OK(pf_checkpoint_save(engine, run, 1, module, optimizer, NULL, NULL, 0));
        const char *path = scratch_path("%s/step-1/state.json", run);
        CHECK(scratch_write(path, lies[i], strlen(lies[i])) == 0);
        seal(scratch_path("%s/step-1", run));
        CHECK_FAILS(PF_EFORMAT, pf_checkpoint_load(engine, run, &loaded, &trains, &state, NULL));
        CHECK(!loaded && !trains && !state);
    }
    pf_optimizer_close(&optimizer);
    pf_module_release(&module);
}

/* What many small layers claim. */
static void test_many(void) {
    pf_text text = {0};
    pf_text_put(&text, "{\"type\":\"chain\",\"children\":[", 28);
    for (int i = 0; i < 20000; i++)
        pf_text_print(&text, "%s{\"type\":\"rmsnorm\",\"options\":{\"dim\":1}}", i ? "," : "");
    pf_text_put(&text, "]}", 2);
    refused(text.data, 20, "more tensors than");
    text.size = 28;
    for (int i = 0; i < 20000; i++) pf_text_print(&text, "%s{\"type\":\"dropout\"}", i ? "," : "");
    pf_text_put(&text, "]}", 2);
    refused(text.data, 20, "more layers than");
    text.size = 0;
    pf_text_print(&text, "{\"type\":\"rmsnorm\",\"options\":{");
    for (int i = 0; i < 16000; i++) pf_text_print(&text, "%s\"option%d\":1", i ? "," : "", i);
    pf_text_put(&text, "}}", 2);
    refused(text.data, 20, "unknown option 'option0'");
    pf_text_close(&text);
}

/* Each level holds the one before it twice: 40 levels are 10^12 layers in 4 KB. */
static void test_doubled(void) {
    pf_text text = {0};
    int node = 1;
    for (int level = 0; level < 40; level++)
        pf_text_put(&text, "{\"type\":\"chain\",\"children\":[", 28);
    pf_text_put(&text, "{\"type\":\"dropout\"}", 18);
    for (int level = 0; level < 40; level++, node++)
        pf_text_print(&text, ",{\"type\":\"shared\",\"node\":%d}]}", node);
    refused(text.data, 20, "131072 layers");
    pf_text_close(&text);
}

/* A list of many numbers under a budget: plain data is counted. */
static void test_budget(void) {
    pf_text text = {0};
    pf_text_put(&text, "{\"type\":\"linear\",\"options\":{\"from\":3,\"to\":4},\"x\":[0", 51);
    for (int i = 0; i < 300000; i++) pf_text_put(&text, ",0", 2);
    pf_text_put(&text, "]}", 2);
    size_t peak;
    lie(text.data);
    CHECK_OK(load(&peak));
    CHECK(peak > 300000 * sizeof(double));
    pf_options o = PF_OPTIONS_DEFAULT;
    pf_engine *e = NULL;
    pf_module *module = NULL;
    o.threads = 1;
    o.memory = peak / 2;
    CHECK_OK(pf_engine_open(&e, &o));
    CHECK_FAILS(PF_ENOMEM, pf_model_load(&module, e, run));
    pf_engine_close(&e);
    pf_text_close(&text);
}

static bool same_module(const pf_module *a, const pf_module *b) {
    int n = pf_module_tensor_count(a);
    bool same = n > 0 && n == pf_module_tensor_count(b);
    for (int i = 0; same && i < n; i++) {
        pf_tensor *t, *u;
        same = pf_module_tensor_at(a, i, NULL, &t, NULL) >= 0 &&
               pf_module_tensor_at(b, i, NULL, &u, NULL) >= 0 && pf_same_shape(t, u) &&
               !memcmp(pf_tensor_data(t), pf_tensor_data(u), (size_t)pf_tensor_numel(t) * 4);
    }
    return same;
}

static const char tiny[] =
    "{\"type\":\"performer\",\"options\":{\"vocab\":11,\"dim\":8,\"layers\":2,\"heads\":2,"
    "\"length\":16,\"causal\":true,\"qk_norm\":true,\"decay\":1,\"positions\":\"sinusoidal\","
    "\"ngrams\":{\"buckets\":16},\"kernel\":{\"name\":\"softmax_plus\",\"features\":8}}}";

/* From each allocation of a load on there is no more memory: that is what it says. */
static void test_sweep(void) {
    pf_module *module = build(tiny), *loaded = NULL;
    pf_optimizer *optimizer = NULL, *other = NULL;
    pf_config *state = NULL;
    scratch_remove(run);
    CHECK_OK(pf_optimizer_new(&optimizer, engine, module, NULL));
    CHECK_OK(pf_checkpoint_save(engine, run, 1, module, optimizer, NULL, NULL, 0));
    CHECK_OK(pf_checkpoint_save(engine, run, 2, module, optimizer, NULL, NULL, 0));
    int status = PF_ENOMEM, points = 0;
    bool good = true;
    for (; status < 0 && good; points++) {
        host_memory h = {0};
        pf_options o = host_options(&h);
        pf_engine *e = NULL;
        o.threads = 1;
        CHECK_OK(pf_engine_open(&e, &o));
        pf_heap_trim(e->heap);
        h.calls = 0;
        h.fail_at = points + 1;
        h.fail_on = 1;
        status = pf_checkpoint_load(e, run, &loaded, &other, &state, NULL);
        good = status == PF_ENOMEM || (status >= 0 && same_module(module, loaded));
        good = good && (status < 0 || pf_config_number(pf_config_get(state, "step")) == 2);
        h.fail_at = 0;
        if (!good) fprintf(stderr, "  point %d: %d %s\n", points, status, pf_last_error());
        pf_config_free(state);
        state = NULL;
        pf_optimizer_close(&other);
        pf_module_release(&loaded);
        pf_engine_close(&e);
        good = good && h.blocks == 0 && h.bytes == 0;
    }
    CHECK(good && points > 500);
    pf_optimizer_close(&optimizer);
    pf_module_release(&module);
}

/* A load draws nothing, and what is drawn after it does not depend on that. */
static void test_draws(void) {
    pf_module *module = NULL, *loaded = NULL;
    pf_seed(engine, 7);
    module = build(tiny);
    uint64_t draws = engine->draws;
    scratch_remove(run);
    CHECK_OK(pf_checkpoint_save(engine, run, 1, module, NULL, NULL, NULL, 0));
    pf_seed(engine, 8);
    CHECK_OK(pf_model_load(&loaded, engine, run));
    CHECK(engine->draws == draws && engine->seed == 8 && same_module(module, loaded));
    pf_module_release(&module);
    pf_module_release(&loaded);
}

/* The flag is up: nobody goes on building, drawing or reading. */
static void test_cancel(void) {
    atomic_int cancel = 0;
    pf_options o = PF_OPTIONS_DEFAULT;
    pf_engine *e = NULL;
    pf_module *module = NULL;
    pf_config *tree = NULL;
    const char *text = "{\"type\":\"embedding\",\"options\":{\"vocab\":16777216,\"dim\":1024}}";
    o.threads = 1;
    o.cancel = &cancel;
    CHECK_OK(pf_engine_open(&e, &o));
    CHECK_OK(pf_json_parse(&tree, text, strlen(text)));
    cancel = 1;
    CHECK_FAILS(PF_ECANCEL, pf_module_build(&module, e, tree));
    CHECK_FAILS(PF_ECANCEL, pf_model_load(&module, e, run));
    CHECK(!module);
    cancel = 0;
    CHECK_OK(pf_model_load(&module, e, run));
    cancel = 1;
    const char *other = scratch_path("%s/cancelled", dir);
    CHECK_FAILS(PF_ECANCEL, pf_checkpoint_save(e, other, 1, module, NULL, NULL, NULL, 0));
    CHECK(scratch_count(other, "step-") == 0 && scratch_count(other, ".") == 0);
    pf_module_release(&module);
    pf_config_free(tree);
    pf_engine_close(&e);
}

int main(void) {
    pf_options options = PF_OPTIONS_DEFAULT;
    options.threads = 1;
    CHECK_OK(pf_engine_open(&engine, &options));
    scratch_open(dir, sizeof dir);
    char path[300];
    snprintf(path, sizeof path, "%s/run", dir);
    run = path;
    test_claims();
    test_handle();
    test_counters();
    test_many();
    test_doubled();
    test_budget();
    test_sweep();
    test_draws();
    test_cancel();
    scratch_remove(dir);
    pf_engine_close(&engine);
    return CHECK_REPORT();
}
