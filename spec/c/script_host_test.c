/*
 * script_host_test.c - scripts that live in a host: several on one engine that don't see each
 * other, models that a script makes and the host runs, closing in any order, memory that runs out,
 * and memory that stays flat.
 * In LIVING_IN_A_HOST.md: [scripts.1].
 */
#include <malloc.h>

#include "scarce.h"
#include "script_support.h"

/* ---- apart from each other ---- */

static const char APART[] =
    "local nn = require 'performer'.nn\n"
    "function define(name) nn.define(name, function() return nn.rmsnorm(2) end) end\n"
    "function knows(name) return (pcall(nn.build, { type = 'lua', name = name })) end\n";

static bool knows(pf_script *s, const char *name) {
    pf_value known = call_one(s, "knows", pf_value_text(name, strlen(name)));
    return known.kind == PF_VALUE_BOOL && known.as.boolean;
}

static void define(pf_script *s, const char *name) {
    const pf_value v = pf_value_text(name, strlen(name));
    CHECK_OK(pf_script_call(s, "define", &v, 1, NULL, 0, NULL));
}

static void test_apart(void) {
    pf_engine *engine = new_engine();
    int asked = 0;
    CHECK_OK(pf_engine_resolve_layers(engine, host_layer, &asked));
    pf_script *a = new_script(engine, APART), *b = new_script(engine, APART);
    pf_script *c = new_script(engine, APART); /* which defines none */
    CHECK_OK(load(a, "secret = 1 string.mine = 2 package.loaded.mine = 3"));
    CHECK_OK(
        load(b, "assert(secret == nil and string.mine == nil and not pcall(require, 'mine'))"));
    define(a, "a");
    define(b, "b");
    CHECK(knows(a, "a") && knows(b, "b") && !knows(a, "b") && !knows(b, "a"));
    CHECK(!knows(c, "a") && !knows(c, "b"));
    CHECK(knows(a, "host's") && knows(b, "host's") && knows(c, "host's") && asked > 0);
    /* A model of the host's may have layers of any. */
    CHECK(build_named(engine, "a") == PF_OK && build_named(engine, "b") == PF_OK);
    CHECK(build_named(engine, "host's") == PF_OK);
    pf_script_close(&a);
    CHECK(build_named(engine, "a") == PF_ENOTFOUND && build_named(engine, "b") == PF_OK);
    CHECK(knows(b, "b"));
    pf_script_close(&b);
    pf_script_close(&c);
    void *context = NULL;
    CHECK(pf_engine_layer_resolver(engine, &context) == host_layer && context == &asked);
    pf_engine_close(&engine);
}

/* ---- models ---- */

static const char MODEL[] =
    "local pf = require 'performer'\n"
    "function make() return pf.nn.performer { vocab = 256, dim = 16, layers = 2, heads = 2,\n"
    "  causal = true, kernel = pf.kernel.softmax { features = 16 } } end\n"
    "function lua_model() return coroutine.wrap(function() return pf.nn.chain {\n"
    "  pf.nn.embedding { vocab = 32, dim = 8 },\n"
    "  { by_position = true, forward = function(self, x) if bad then error 'bad layer' end\n"
    "    return x * 2 end },\n"
    "  pf.nn.linear { from = 8, to = 32 } } end)() end\n"
    "function read(model, ids) return model(ids):totable()[1][3][1] end\n";

static pf_module *made(pf_script *s, const char *name) {
    pf_value model;
    CHECK(pf_script_call(s, name, NULL, 0, &model, 1, NULL) == 1);
    if (model.kind != PF_VALUE_MODULE) fprintf(stderr, "  %s\n", pf_script_error());
    CHECK(model.kind == PF_VALUE_MODULE);
    return model.as.module; /* whose reference is the caller's from here on */
}

/* A host asks a script for a model, and streams from it; the script may go. */
static void test_model(void) {
    pf_engine *engine = new_engine();
    pf_script *s = new_script(engine, MODEL);
    pf_module *model = made(s, "make");
    const int64_t shape[] = {1, 3};
    const int32_t ids[] = {80, 101, 114};
    pf_tensor *x = NULL;
    CHECK_OK(pf_tensor_empty(&x, engine, PF_I32, 2, shape));
    CHECK_OK(pf_tensor_write(x, ids, sizeof ids));
    pf_value args[] = {pf_value_module(model), pf_value_tensor(x)}, whole;
    CHECK(pf_script_call(s, "read", args, 2, &whole, 1, NULL) == 1);
    pf_script_close(&s);
    pf_stream *stream = NULL;
    CHECK_OK(pf_stream_open(&stream, engine, model));
    CHECK_OK(pf_stream_feed(stream, ids, 3));
    const float *logits = pf_stream_logits(stream, NULL);
    CHECK(logits && fabs(logits[0] - whole.as.number) < 1e-4);
    int32_t token = 0;
    const pf_sampling sampling = {.size = sizeof sampling, .temperature = 1, .seed = 3};
    CHECK_OK(pf_stream_sample(stream, &sampling, &token));
    for (int i = 0; i < 50; i++) CHECK_OK(pf_stream_next(stream, token, &sampling, &token));
    CHECK(pf_stream_position(stream) == 53 && token >= 0 && token < 256);
    pf_stream_close(&stream);
    pf_tensor_release(&x);
    pf_module_release(&model);
    pf_engine_close(&engine);
}

/* A layer in Lua, made on a coroutine that is gone, runs for the host, tells it what it raised, and
 * fails once its script has closed. */
static void test_lua_layers(void) {
    pf_engine *engine = new_engine();
    pf_script *s = new_script(engine, MODEL);
    pf_module *model = made(s, "lua_model");
    CHECK_OK(load(s, "collectgarbage() collectgarbage()"));
    pf_stream *stream = NULL;
    int32_t token = 1;
    CHECK_OK(pf_stream_open(&stream, engine, model));
    CHECK_OK(pf_stream_next(stream, token, NULL, &token));
    const pf_value bad = pf_value_bool(true), good = pf_value_nil();
    CHECK_OK(pf_script_set(s, "bad", &bad));
    CHECK_FAILS(PF_EHOST, pf_stream_next(stream, token, NULL, &token));
    CHECK(strstr(pf_last_error(), "bad layer") != NULL);
    CHECK_OK(pf_script_set(s, "bad", &good));
    CHECK_OK(pf_stream_next(stream, token, NULL, &token));
    CHECK_OK(load(s, "assert(not pcall(error))")); /* nothing waits from before */
    pf_script_close(&s);
    CHECK(pf_stream_next(stream, token, NULL, &token) < 0);
    pf_stream_close(&stream);
    pf_module_release(&model);
    pf_engine_close(&engine);
}

/* Weights go on in another engine, whose thread may be another; a script's own layers don't. */
static void test_lua_layers_elsewhere(void) {
    pf_engine *engine = new_engine(), *other = new_engine();
    pf_script *s = new_script(engine, MODEL);
    pf_module *model = made(s, "lua_model"), *plain = made(s, "make");
    pf_stream *stream = NULL;
    int32_t token = 1;
    CHECK_OK(pf_stream_open(&stream, other, plain));
    CHECK_OK(pf_stream_next(stream, token, NULL, &token));
    pf_stream_close(&stream);
    CHECK_OK(pf_stream_open(&stream, other, model));
    CHECK_FAILS(PF_ESTATE, pf_stream_next(stream, 1, NULL, &token));
    CHECK(strstr(pf_last_error(), "another engine") != NULL);
    pf_stream_close(&stream);
    CHECK_OK(pf_stream_open(&stream, engine, model));
    CHECK_OK(pf_stream_next(stream, 1, NULL, &token));
    pf_stream_close(&stream);
    pf_module_release(&model), pf_module_release(&plain);
    pf_script_close(&s);
    pf_engine_close(&other);
    pf_engine_close(&engine);
}

/* ---- closing ---- */

static int called; /* by finalizers */

static int finalized(void *context, pf_script *script, const pf_value *args, int n,
                     pf_value *results) {
    (void)context, (void)args, (void)n, (void)results;
    called++;
    CHECK(pf_script_load(script, "late", "x = 1", 5) == PF_ESTATE);
    return 0;
}

static void test_closing(void) {
    for (int order = 0; order < 4; order++) {
        pf_engine *engine = new_engine();
        pf_script *a = new_script(engine, MODEL), *b = new_script(engine, MODEL);
        pf_module *model = made(a, "make");
        CHECK_OK(pf_script_set_function(b, "finalized", finalized, NULL));
        CHECK_OK(load(b, "kept = setmetatable({}, { __gc = function() finalized() end })\n"
                         "tensor = require 'performer'.ones(10)"));
        called = 0;
        if (order & 1) pf_engine_close(&engine);
        pf_script_close(order & 2 ? &b : &a);
        if (!(order & 1)) pf_engine_close(&engine);
        pf_script *left = order & 2 ? a : b;
        CHECK_FAILS(PF_ESTATE, call(left, "make"));
        CHECK(says("its engine has closed"));
        CHECK_FAILS(PF_ESTATE, load(left, "x = 1"));
        CHECK(strcmp(pf_module_type(model), "performer") == 0);
        pf_script_close(&a);
        pf_script_close(&b);
        CHECK(order != 2 || called == 1); /* behind its engine's close there is no memory for it */
        pf_module_release(&model);
    }
}

/* ---- memory ---- */

static int all(pf_engine *engine) {
    pf_script *s = NULL;
    pf_value v;
    int status = pf_script_open(&s, engine, NULL);
    if (status >= 0) status = pf_script_load(s, "model", MODEL, sizeof MODEL - 1);
    if (status >= 0) status = pf_script_call(s, "make", NULL, 0, &v, 1, NULL);
    if (status >= 0) pf_value_clear(&v);
    if (status < 0) CHECK(pf_script_error()[0] != 0);
    pf_script_close(&s);
    return status;
}

/* Each allocation in turn (or some of them all over) is the first of those that fail: the engine's,
 * Lua's and the script's own. */
static void test_scarce(void) {
    scarce memory = {0};
    pf_engine *engine = scarce_engine(&memory);
    CHECK_OK(all(engine));
    const int64_t before = memory.live;
    const int64_t stride = getenv("PF_LONG") ? 1 : 61;
    int64_t at = 0;
    int status = PF_ENOMEM;
    for (; status == PF_ENOMEM; at += stride) {
        scarce_begins(&memory, at);
        status = all(engine);
        CHECK(status == PF_ENOMEM || status >= 0);
        scarce_ends(&memory);
        CHECK(memory.live == before);
    }
    CHECK(status >= 0 && at > 2000);
    pf_engine_close(&engine);
    CHECK(memory.live == 0);
}

/* Over the engine's budget. */
static void test_budget(void) {
    pf_engine *engine = NULL;
    pf_options options = PF_OPTIONS_DEFAULT;
    options.memory = 32 << 20;
    CHECK_OK(pf_engine_open(&engine, &options));
    pf_script *s = new_script(engine, "pf = require 'performer'");
    CHECK_FAILS(PF_ENOMEM, load(s, "pf.ones(1 << 24)"));
    CHECK_FAILS(PF_ENOMEM, load(s, "local t = {} for i = 1, 100 do t[i] = pf.ones(1 << 20) end"));
    CHECK_OK(load(s, "pf.ones(1 << 20)"));
    pf_script_close(&s);
    pf_engine_close(&engine);
}

static void open_many(pf_engine *engine, int n) {
    for (int i = 0; i < n; i++) {
        pf_script *s = new_script(engine, "function f(x) return { x } end");
        pf_value v = call_one(s, "f", pf_value_integer(i));
        pf_value_clear(&v);
        pf_script_close(&s);
    }
}

static void test_flat(void) {
    pf_engine *engine = new_engine();
    open_many(engine, 20);
    const size_t live = held(engine), before = mallinfo2().uordblks;
    open_many(engine, getenv("PF_LONG") ? 10000 : 1000);
    CHECK(held(engine) == live);
#ifndef __SANITIZE_ADDRESS__
    CHECK(mallinfo2().uordblks <= before + 4096);
#endif
    (void)before;
    pf_engine_close(&engine);
}

int main(void) {
    test_apart();
    test_model();
    test_lua_layers();
    test_lua_layers_elsewhere();
    test_closing();
    test_scarce();
    test_budget();
    test_flat();
    return CHECK_REPORT();
}
