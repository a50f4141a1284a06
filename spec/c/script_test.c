/*
 * script_test.c - scripts inside a host (performer_lua.h): they run on the host's engine,
 * report what went wrong, and leave nothing behind.
 */
#include <unistd.h>

#include <lauxlib.h>
#include <lualib.h>

#include "script_support.h"

static char path[] = "/tmp/script_testXXXXXX";

/* Runs `text` as a script with one argument. */
static int run(pf_engine *engine, const char *text) {
    const char *const argv[] = {"argument"};
    FILE *file = fopen(path, "w");
    if (!file) return PF_EIO;
    fputs(text, file);
    fclose(file);
    return pf_script_run(engine, path, 1, argv);
}

static void test_run(pf_engine *engine) {
    pf_info before = {.size = sizeof before}, after = {.size = sizeof after};
    pf_engine_info(engine, &before);
    CHECK(run(engine, "local pf = require 'performer'\n"
                      "assert(... == 'argument' and arg[1] == 'argument')\n"
                      "assert(pf.info().seed == 42)\n"
                      "kept = pf.randn(1000)\n"
                      "local w = pf.randn(3, 3):requires_grad()\n"
                      "local tape <close> = pf.tape()\n"
                      "tape:backward((w * w):sum())\n"
                      "layer = pf.nn.chain { { w = pf.ones(3), forward = function(s, x) return x * "
                      "s.w end } }\n"
                      "assert(layer(w):shape()[1] == 3)\n") == PF_OK);
    if (pf_script_error()[0]) fprintf(stderr, "  %s\n", pf_script_error());
    CHECK(pf_script_error()[0] == 0);
    pf_engine_info(engine, &after);
    CHECK(after.live == before.live);
}

static void test_errors(pf_engine *engine) {
    CHECK(run(engine, "local x = 1\nerror 'broken'") == PF_EHOST);
    CHECK(strstr(pf_script_error(), ":2: broken") != NULL);
    CHECK(strstr(pf_script_error(), "stack traceback") != NULL);
    CHECK(strstr(pf_last_error(), ":2: broken") != NULL);
    CHECK(run(engine, "error { code = 2, message = 'said so' }") == PF_EHOST);
    CHECK(strcmp(pf_script_error(), "said so") == 0);
    CHECK(run(engine, "error(setmetatable({}, {__tostring = function() return 'mine' end}))") ==
          PF_EHOST);
    CHECK(strncmp(pf_script_error(), "mine\nstack traceback", 20) == 0);
    CHECK(run(engine, "error(setmetatable({}, {__index = function() error 'strict' end}))") ==
          PF_EHOST);
    CHECK(strstr(pf_script_error(), "the script threw a table that says nothing\n") != NULL);
    CHECK(run(engine, "require 'performer'.exit(3)") == PF_EHOST);
    CHECK(strcmp(pf_script_error(), "the script ended itself with code 3") == 0);
    CHECK(run(engine, "local = 2") == PF_EFORMAT);
    CHECK(pf_script_error()[0] != 0);
    CHECK(pf_script_run(engine, "/no/such/script.lua", 0, NULL) == PF_ENOTFOUND);
    CHECK(pf_script_run(engine, NULL, 0, NULL) == PF_EINVAL);
    /* A forgotten tape must not stay open on the host's engine. */
    CHECK(run(engine, "tape = require 'performer'.tape() error 'gone'") == PF_EHOST);
    const int64_t shape[] = {4};
    pf_tensor *t = NULL;
    CHECK_OK(pf_tensor_full(&t, engine, PF_F32, 1, shape, 1));
    CHECK(run(engine, "return require 'performer'.ones(2)") == PF_OK);
    CHECK(pf_tensor_alive(t));
    pf_tensor_release(&t);
}

/* A Lua state of the host's own, on the host's engine. */
static void test_bind(pf_engine *engine) {
    lua_State *L = luaL_newstate();
    CHECK(L != NULL);
    if (!L) return;
    luaL_openlibs(L);
    CHECK(pf_script_bind(L, engine, NULL) == PF_OK);
    CHECK(lua_istable(L, -1));
    lua_setglobal(L, "pf");
    CHECK(luaL_dostring(L, "return pf.ones(3):sum():item(), pf.info().seed") == LUA_OK);
    CHECK(lua_tonumber(L, -2) == 3 && lua_tointeger(L, -1) == 42);
    CHECK(luaL_dostring(L, "pf.open{}") != LUA_OK);
    pf_engine *other = NULL;
    CHECK_OK(pf_engine_open(&other, NULL));
    CHECK(pf_script_bind(L, other, NULL) == PF_ESTATE);
    CHECK(strstr(pf_script_error(), "bound to another engine already") != NULL);
    CHECK(pf_script_bind(L, engine, NULL) == PF_OK);
    pf_engine_close(&other);
    lua_close(L);
    CHECK(pf_script_bind(NULL, engine, NULL) == PF_EINVAL);
}

/* A folder without the Lua files is refused when it is given, not when something is required. */
static void test_lua_dir(pf_engine *engine) {
    const pf_script_options options = {.size = sizeof options, .lua_dir = "/no/such/folder"};
    pf_script *script = NULL;
    CHECK(pf_script_open(&script, engine, &options) == PF_ENOTFOUND && !script);
    CHECK(strstr(pf_script_error(), "no performer/init.lua in lua_dir '/no/such/folder'"));
    lua_State *L = luaL_newstate();
    luaL_openlibs(L);
    CHECK(pf_script_bind(L, engine, "/no/such/folder") == PF_ENOTFOUND && lua_gettop(L) == 0);
    CHECK(strstr(pf_script_error(), "share/performer/lua"));
    lua_close(L);
}

/* Bound to no engine, a Lua state opens its own. */
static void test_own_engine(void) {
    lua_State *L = luaL_newstate();
    luaL_openlibs(L);
    CHECK(pf_script_bind(L, NULL, NULL) == PF_OK);
    lua_setglobal(L, "pf");
    CHECK(luaL_dostring(L, "pf.open { seed = 5 } assert(pf.info().seed == 5)") == LUA_OK);
    lua_close(L);
}

/* Two scripts on two engines don't see each other; one without an engine is refused, as its
 * warnings could only be printed. */
static void test_engines(pf_engine *engine) {
    pf_engine *other = NULL;
    pf_options options = PF_OPTIONS_DEFAULT;
    options.seed = 7;
    CHECK_OK(pf_engine_open(&other, &options));
    CHECK(run(other, "assert(require 'performer'.info().seed == 7)") == PF_OK);
    CHECK(run(engine, "assert(require 'performer'.info().seed == 42)") == PF_OK);
    CHECK(run(NULL, "require 'performer'.ones(2)") == PF_EINVAL);
    pf_engine_close(&other);
}

static lua_State *bound(pf_engine *engine, const char *layer) {
    lua_State *L = luaL_newstate();
    luaL_openlibs(L);
    CHECK(pf_script_bind(L, engine, NULL) == PF_OK);
    lua_setglobal(L, "pf");
    lua_pushfstring(L, "pf.nn.define('%s', function() return pf.nn.rmsnorm(2) end)", layer);
    CHECK(luaL_dostring(L, lua_tostring(L, -1)) == LUA_OK);
    return L;
}

/* A script that defines layers asks the host for others, and leaves it in its place; of several
 * states, any may close first. */
static void test_resolvers(pf_engine *engine) {
    int asked = 0; /* how often the host was asked for a layer */
    pf_info before = {.size = sizeof before}, after = {.size = sizeof after};
    pf_engine_info(engine, &before);
    CHECK_OK(pf_engine_resolve_layers(engine, host_layer, &asked));
    CHECK(run(engine, "local nn = require 'performer'.nn\n"
                      "nn.define('own', function() return nn.rmsnorm(2) end)\n"
                      "assert(nn.build { type = 'lua', name = 'own' })\n"
                      "assert(nn.build { type = 'lua', name = \"host's\" })\n"
                      "local ok, message = pcall(nn.build, { type = 'lua', name = 'none' })\n"
                      "assert(not ok and message:find 'lives in a script')") == PF_OK);
    CHECK(asked == 2);
    for (int order = 0; order < 2; order++) {
        lua_State *a = bound(engine, "a"), *b = bound(engine, "b");
        CHECK(build_named(engine, "a") == PF_OK && build_named(engine, "b") == PF_OK);
        lua_close(order ? a : b);
        CHECK((build_named(engine, "a") == PF_OK) == !order);
        CHECK((build_named(engine, "b") == PF_OK) == order);
        CHECK(build_named(engine, "host's") == PF_OK);
        lua_close(order ? b : a);
        CHECK(build_named(engine, "a") == PF_ENOTFOUND && build_named(engine, "b") == PF_ENOTFOUND);
        CHECK(build_named(engine, "host's") == PF_OK);
    }
    void *context = engine;
    CHECK(pf_engine_layer_resolver(engine, &context) == host_layer && context == &asked);
    CHECK_OK(pf_engine_resolve_layers(engine, NULL, NULL));
    CHECK(!pf_engine_layer_resolver(engine, NULL) && !pf_engine_layer_resolver(NULL, NULL));
    pf_engine_info(engine, &after);
    CHECK(after.live == before.live);
}

/* Lua's memory runs out at every place in turn: only that error, and nothing stays behind. */
typedef struct {
    long left;
} limit;

static void *limited(void *context, void *block, size_t old_bytes, size_t bytes) {
    limit *l = context;
    (void)old_bytes;
    if (bytes == 0) {
        free(block);
        return NULL;
    }
    if ((!block || bytes > old_bytes) && l->left-- <= 0) return NULL;
    return realloc(block, bytes);
}

static const char *const SCENARIO =
    "local pf = ...\n"
    "local w = pf.tensor({ { 1, 2 }, { 3, 4 } }):requires_grad()\n"
    "local model = pf.nn.chain { pf.nn.linear { from = 2, to = 2 },\n"
    "  { w = pf.ones(2), forward = function(s, x) return x * s.w end } }\n"
    "local opt = pf.optim.adamw(model, { lr = 1e-3 })\n"
    "do local tape <close> = pf.tape()\n"
    "  tape:backward(model(w):sum()) end\n"
    "opt:step { clip = 1 }\n"
    "local text = pf.json.encode(model:tree())\n"
    "pf.nn.build(pf.nn.linear { from = 2, to = 3 }:tree())\n"
    "local kernel = pf.kernel.softmax { features = 4, head_dim = 2 }\n"
    "local q = pf.randn(1, 1, 3, 2)\n"
    "pf.attention.favor(q, q, q, { kernel = kernel })\n"
    "pf.kernel.custom { map = function(x) return x * x end }\n"
    "do local tape <close> = pf.tape()\n"
    "  tape:backward(pf.recompute(function(x) return x * x end, w):sum()) end\n"
    "assert(pf.json.decode(text).type == 'chain' and tostring(w) and tostring(model))\n";

static int run_scenario(lua_State *L) {
    if (luaL_loadstring(L, SCENARIO) != LUA_OK) return lua_error(L);
    lua_getglobal(L, "pf");
    lua_call(L, 1, 0);
    return 0;
}

static int open_all(lua_State *L) {
    luaL_openlibs(L);
    return 0;
}

/* One state whose allocations fail after `left` of them; true when it got through. */
static bool scenario(pf_engine *engine, long left, bool while_loading) {
    limit l = {1L << 40};
    lua_State *L = lua_newstate(limited, &l);
    if (!L) return false;
    lua_pushcfunction(L, open_all);
    bool through = lua_pcall(L, 0, 0, 0) == LUA_OK;
    if (while_loading) l.left = left;
    through = through && pf_script_bind(L, engine, NULL) == PF_OK;
    if (!through) {
        CHECK(strstr(pf_script_error(), "not enough memory") ||
              strstr(pf_script_error(), "out of memory"));
    } else if (!while_loading) {
        lua_setglobal(L, "pf");
        l.left = left;
        lua_pushcfunction(L, run_scenario);
        through = lua_pcall(L, 0, 0, 0) == LUA_OK;
        const char *text = through ? "" : lua_tostring(L, -1);
        if (!through)
            CHECK(text && (strstr(text, "not enough memory") || strstr(text, "out of memory")));
        if (text && !through && !strstr(text, "memory"))
            fprintf(stderr, "  after %ld: %s\n", left, text);
    }
    l.left = 1L << 40;
    lua_close(L);
    return through;
}

static void test_memory(pf_engine *engine) {
    pf_info before = {.size = sizeof before}, after = {.size = sizeof after};
    CHECK(scenario(engine, 1L << 30, false)); /* the engine's scratch has its size from here on */
    pf_engine_info(engine, &before);
    long left = 0;
    while (!scenario(engine, left, true) && left < 100000) left += 29;
    CHECK(left > 100 && left < 100000);
    left = 0;
    while (!scenario(engine, left, false) && left < 100000) left += 3;
    CHECK(left > 50 && left < 100000);
    pf_engine_info(engine, &after);
    CHECK(after.live == before.live);
}

int main(void) {
    pf_engine *engine = NULL;
    pf_options options = PF_OPTIONS_DEFAULT;
    options.seed = 42;
    const int file = mkstemp(path);
    if (file < 0) return 1;
    close(file);
    CHECK_OK(pf_engine_open(&engine, &options));
    test_run(engine);
    test_errors(engine);
    test_bind(engine);
    test_lua_dir(engine);
    test_own_engine();
    test_engines(engine);
    test_resolvers(engine);
    test_memory(engine);
    pf_engine_close(&engine);
    unlink(path);
    return CHECK_REPORT();
}
