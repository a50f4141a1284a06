/*
 * callback_test.c - what a callback of the host's says of its failure (performer.h): its text where
 * it left one, else one that names the callback, and never the message of something before. Any
 * negative status comes back as it was given.
 * In LIVING_IN_A_HOST.md: [callbacks.1].
 */
#include "check.h"
#include "performer_attention.h"

/* What the callback at work does: leaves `text`, where there is one, and fails with `status`. */
static struct {
    int status;
    const char *text;
    int released;
} host;

static int fail(void) { return host.text ? pf_set_error(host.status, host.text) : host.status; }

static int run(void *context, pf_engine *engine, pf_tensor *const *inputs, int n, pf_tensor **y) {
    (void)context, (void)engine, (void)inputs, (void)n, (void)y;
    return fail();
}

static int resolve(void *context, pf_engine *engine, const char *name, pf_module *const *children,
                   int n, pf_module **module) {
    (void)context, (void)engine, (void)name, (void)children, (void)n, (void)module;
    return fail();
}

static int map(void *context, pf_engine *engine, pf_side side, pf_tensor *x, pf_tensor **phi) {
    (void)context, (void)engine, (void)side, (void)x, (void)phi;
    return fail();
}

static void release(void *context) {
    (void)context;
    host.released++;
}

/* ---- every way to be called back ---- */

static int call_recompute(pf_engine *e, pf_tensor *x) {
    const pf_recomputed f = {.size = sizeof f, .run = run, .release = release};
    pf_tensor *y = NULL;
    int status = pf_recompute(&y, e, &f, &x, 1);
    CHECK(!y);
    return status;
}

static int call_gradcheck(pf_engine *e, pf_tensor *x) {
    double worst;
    return pf_gradcheck(e, run, NULL, &x, 1, 1, &worst);
}

static int call_resolver(pf_engine *e, pf_tensor *x) {
    const char *text = "{\"type\": \"lua\", \"name\": \"mine\"}";
    pf_config *tree = NULL;
    pf_module *module = NULL;
    (void)x;
    CHECK_OK(pf_json_parse(&tree, text, strlen(text)));
    CHECK_OK(pf_engine_resolve_layers(e, resolve, NULL));
    int status = pf_module_build(&module, e, tree);
    CHECK(!module);
    pf_config_free(tree);
    return status;
}

static int call_map(pf_engine *e, pf_tensor *x) {
    const pf_host_map own = {.size = sizeof own, .map = map};
    pf_kernel *kernel = NULL;
    pf_tensor *phi = NULL;
    CHECK_OK(pf_kernel_open_host(&kernel, e, "mine", &own));
    int status = pf_kernel_features(&phi, e, kernel, PF_SIDE_KEY, x);
    CHECK(!phi);
    pf_kernel_release(&kernel);
    return status;
}

/* ---- a layer of the host, with a state from the first step on ---- */

static int forward(void *context, pf_engine *engine, pf_tensor *x, const pf_pass *pass,
                   pf_tensor **y) {
    (void)context, (void)engine, (void)x, (void)pass, (void)y;
    return fail();
}

static int step(void *context, pf_engine *engine, pf_tensor *x, void **state, pf_tensor **y) {
    static int kept;
    (void)context, (void)engine;
    *state = &kept;
    *y = pf_tensor_retain(x);
    return PF_OK;
}

static int fork_state(void *context, pf_engine *engine, void *state, int64_t batch,
                      const int64_t *rows, int64_t n, void **copy) {
    (void)context, (void)engine, (void)state, (void)batch, (void)rows, (void)n, (void)copy;
    return fail();
}

static int save_state(void *context, pf_engine *engine, void *state, pf_named **tensors, int *n,
                      pf_config **data) {
    (void)context, (void)engine, (void)state, (void)tensors, (void)n, (void)data;
    return fail();
}

static void release_state(void *context, void *state) { (void)context, (void)state; }

static pf_module *open_layer(pf_engine *e) {
    const pf_host_layer layer = {.size = sizeof layer,
                                 .forward = forward,
                                 .step = step,
                                 .release_state = release_state,
                                 .fork_state = fork_state,
                                 .save_state = save_state};
    pf_module *module = NULL;
    CHECK_OK(pf_module_host(&module, e, "mine", &layer, NULL, 0));
    return module;
}

static int call_forward(pf_engine *e, pf_tensor *x) {
    pf_module *module = open_layer(e);
    pf_tensor *y = NULL;
    int status = pf_module_forward(&y, e, module, x, NULL);
    CHECK(!y);
    pf_module_release(&module);
    return status;
}

/* A state that has seen one step, forked or saved. */
static int call_state(pf_engine *e, pf_tensor *x, bool save) {
    pf_module *module = open_layer(e);
    pf_state *state = NULL, *copy = NULL;
    pf_tensor *y = NULL;
    CHECK_OK(pf_module_state(&state, e, module, 1));
    CHECK_OK(pf_module_step(&y, e, module, x, state));
    int status = save ? pf_module_state_save(e, module, state, "/tmp/never-written")
                      : pf_state_fork(&copy, e, state);
    CHECK(!copy);
    pf_tensor_release(&y);
    pf_state_close(&state);
    pf_module_release(&module);
    return status;
}

static int call_fork(pf_engine *e, pf_tensor *x) { return call_state(e, x, false); }
static int call_save(pf_engine *e, pf_tensor *x) { return call_state(e, x, true); }

static const struct {
    const char *name; /* what a message without a text says */
    int (*call)(pf_engine *e, pf_tensor *x);
} ways[] = {{"recompute: the function", call_recompute},
            {"gradcheck: the function", call_gradcheck},
            {"resolver of layer 'mine'", call_resolver},
            {"kernel 'mine': its map", call_map},
            {"mine: the layer's forward", call_forward},
            {"fork_state of a layer of the host", call_fork},
            {"save_state of a layer of the host", call_save}};
enum { WAYS = sizeof ways / sizeof *ways };

static void test_texts(pf_engine *e, pf_tensor *x) {
    const int statuses[] = {PF_EHOST, PF_ENUMERIC, -77};
    pf_module *module = NULL;
    for (int i = 0; i < WAYS * 3; i++) {
        host.status = statuses[i % 3];
        CHECK_FAILS(PF_ENOTFOUND, pf_model_load(&module, e, "/no/such/folder"));
        host.text = NULL;
        CHECK_FAILS(host.status, ways[i / 3].call(e, x));
        CHECK(strstr(pf_last_error(), ways[i / 3].name) && !strstr(pf_last_error(), "folder"));
        CHECK_FAILS(PF_ENOTFOUND, pf_model_load(&module, e, "/no/such/folder"));
        host.text = "the pump is 100% off";
        CHECK_FAILS(host.status, ways[i / 3].call(e, x));
        CHECK(strstr(pf_last_error(), host.text) && !strstr(pf_last_error(), "folder"));
    }
}

/* A name that the resolver does not know is the library's to explain. */
static void test_unknown(pf_engine *e) {
    host.status = PF_ENOTFOUND, host.text = NULL;
    CHECK_FAILS(PF_ENOTFOUND, call_resolver(e, NULL));
    CHECK(strstr(pf_last_error(), "'mine' lives in a script"));
    CHECK(strstr(pf_last_error(), "a resolver"));
    host.status = PF_OK;
    CHECK_FAILS(PF_EHOST, call_resolver(e, NULL));
    CHECK(strstr(pf_last_error(), "'mine'"));
}

/* A recomputation is taken over in any case, also where the call is no good. */
static void test_taken(pf_engine *e, pf_tensor *x) {
    const pf_recomputed f = {.size = sizeof f, .run = run, .release = release};
    pf_tensor *y = NULL;
    host.released = 0;
    CHECK_FAILS(PF_EINVAL, pf_recompute(NULL, e, &f, &x, 1));
    CHECK_FAILS(PF_EINVAL, pf_recompute(&y, NULL, &f, &x, 1));
    CHECK_FAILS(PF_EINVAL, pf_recompute(&y, e, &f, NULL, 1));
    CHECK(host.released == 3);
}

static void test_set_error(void) {
    char text[8192], place[] = "at \x01"
                               "3\x02 of \x01 x";
    CHECK(pf_set_error(PF_EIO, "disk") == PF_EIO && strcmp(pf_last_error(), "disk") == 0);
    CHECK(pf_set_error(PF_EIO, NULL) == PF_EIO);
    CHECK(strcmp(pf_last_error(), pf_status_text(PF_EIO)) == 0);
    CHECK(pf_set_error(-77, "%s%n") == -77 && strcmp(pf_last_error(), "%s%n") == 0);
    CHECK(pf_set_error(1, "fine") == PF_EINVAL && strstr(pf_last_error(), "pf_set_error"));
    memset(text, 'x', sizeof text);
    text[sizeof text - 1] = '\0';
    CHECK(pf_set_error(PF_EHOST, text) == PF_EHOST);
    CHECK(strlen(pf_last_error()) > 1000 && strlen(pf_last_error()) < sizeof text);
    CHECK(pf_set_error(PF_EHOST, pf_last_error()) == PF_EHOST); /* its own text */
    CHECK(strlen(pf_last_error()) > 1000);
    CHECK(pf_set_error(PF_EHOST, place) == PF_EHOST && !strchr(pf_last_error(), '\x01'));
}

int main(void) {
    const int64_t shape[] = {1, 1, 2, 4};
    pf_engine *e = NULL;
    pf_tensor *x = NULL;
    CHECK_OK(pf_engine_open(&e, NULL));
    CHECK_OK(pf_tensor_full(&x, e, PF_F32, 4, shape, 1));
    test_texts(e, x);
    test_unknown(e);
    test_taken(e, x);
    test_set_error();
    pf_tensor_release(&x);
    pf_engine_close(&e);
    return CHECK_REPORT();
}
