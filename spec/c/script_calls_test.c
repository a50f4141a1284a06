/*
 * script_calls_test.c - calls between a host and its scripts: functions by name, the host's own
 * functions, calls inside calls, and how each end of a script comes out as a status and a text.
 * In LIVING_IN_A_HOST.md: [scripts.2].
 */
#include <unistd.h>

#include "script_support.h"

/* ---- functions by name ---- */

static void test_names(pf_script *s) {
    pf_value v[4];
    CHECK_OK(
        load(s, "game = { level = 3 }\n"
                "function game.update(dt) return dt * 2, 'second', game.level end\n"
                "game.player = { name = setmetatable({}, { __call = function() return 9 end }) }\n"
                "function nothing() end\n"
                "function many() return table.unpack({}, 1, 300) end\n"));
    pf_value dt = pf_value_number(1.5);
    CHECK(pf_script_call(s, "game.update", &dt, 1, v, 4, NULL) == 3);
    CHECK(v[0].as.number == 3 && v[1].kind == PF_VALUE_TEXT && v[2].as.integer == 3);
    CHECK(v[3].kind == PF_VALUE_NIL);
    for (int i = 0; i < 4; i++) pf_value_clear(&v[i]);
    CHECK(pf_script_call(s, "game.update", &dt, 1, v, 1, NULL) == 1); /* the others are dropped */
    CHECK(pf_script_call(s, "game.update", &dt, 1, NULL, 0, NULL) == 0);
    CHECK(pf_script_call(s, "nothing", NULL, 0, v, 2, NULL) == 0 && v[1].kind == PF_VALUE_NIL);
    CHECK(pf_script_call(s, "many", NULL, 0, v, 4, NULL) == 4);
    CHECK(pf_script_call(s, "game.player.name", NULL, 0, v, 1, NULL) == 1 && v[0].as.integer == 9);
    CHECK_FAILS(PF_ENOTFOUND, call(s, "game.updte"));
    CHECK(says("there is no function 'game.updte' (did you mean 'update'?)"));
    CHECK_FAILS(PF_ENOTFOUND, call(s, "game.level"));
    CHECK(says("'game.level' is a number, no function"));
    CHECK_FAILS(PF_ENOTFOUND, call(s, "gone.update"));
    CHECK_FAILS(PF_ENOTFOUND, call(s, ""));
    CHECK_FAILS(PF_ENOTFOUND, call(s, "game.level.x.y"));
}

/* ---- functions of the host's ---- */

typedef struct {
    int calls, status;
    pf_tensor *tensor;
    pf_script *other;
    const char *name;
} host;

static int describe(void *context, pf_script *script, const pf_value *args, int n,
                    pf_value *results) {
    host *h = context;
    h->calls++;
    CHECK(pf_script_engine(script) != NULL);
    results[0] = pf_value_integer(n);
    results[1] = n > 0 ? args[0] : pf_value_nil(); /* borrowed, as it came */
    results[2] = pf_value_text("text", 4);
    return 3;
}

static int make_tensor(void *context, pf_script *script, const pf_value *args, int n,
                       pf_value *results) {
    const int64_t shape[] = {3};
    (void)context, (void)args, (void)n;
    const int status =
        pf_tensor_full(&results[0].as.tensor, pf_script_engine(script), PF_F32, 1, shape, 4);
    if (status < 0) return status;
    results[0].kind = PF_VALUE_TENSOR, results[0].owned = true; /* it goes over to the script */
    return 1;
}

static int lend_tensor(void *context, pf_script *script, const pf_value *args, int n,
                       pf_value *results) {
    (void)script, (void)args, (void)n;
    results[0] = pf_value_tensor(((host *)context)->tensor);
    return 1;
}

static int fail(void *context, pf_script *script, const pf_value *args, int n, pf_value *results) {
    const host *h = context;
    (void)script;
    if (n > 0) pf_set_error(h->status, args[0].as.text);
    (void)pf_value_copy(&results[0], &(pf_value){PF_VALUE_TEXT, false, 4, {.text = "leak"}});
    return h->status;
}

static void test_host_functions(pf_engine *engine, pf_script *s) {
    host h = {0};
    const int64_t shape[] = {2};
    CHECK_OK(pf_tensor_full(&h.tensor, engine, PF_F32, 1, shape, 5));
    CHECK_OK(pf_script_set_function(s, "host.describe", describe, &h));
    CHECK_OK(pf_script_set_function(s, "host.tensors.make", make_tensor, &h));
    CHECK_OK(pf_script_set_function(s, "host.tensors.lend", lend_tensor, &h));
    const size_t before = held(engine);
    CHECK_OK(load(s, "local n, first, text = host.describe('x', 2, {})\n"
                     "assert(n == 3 and first == 'x' and text == 'text')\n"
                     "n, first = host.describe({ list = { 1, 2 } })\n"
                     "assert(n == 1 and first.list[2] == 2)\n"
                     "n, first = host.describe()\n"
                     "assert(n == 0 and first == nil)\n"
                     "local t = host.tensors.make()\n"
                     "assert((t + t):totable()[3] == 8)\n"
                     "n, first = host.describe(t)\n"
                     "assert(first == t)\n"
                     "local lent = host.tensors.lend()\n"
                     "assert(lent == host.tensors.lend() and lent:size(1) == 2)\n"
                     "local ok, message = pcall(host.describe, print)\n"
                     "assert(not ok and message:find 'host.describe: argument 1')\n"
                     "collectgarbage() collectgarbage()"));
    CHECK(h.calls == 4 && held(engine) <= before + 4096);
    pf_tensor_release(&h.tensor);
}

static void test_host_failures(pf_script *s) {
    host h = {.status = PF_ENOTFOUND};
    CHECK_OK(pf_script_set_function(s, "fail", fail, &h));
    CHECK_FAILS(PF_ENOTFOUND, load(s, "\nfail 'no such level'"));
    CHECK(says("chunk:2: no such level") && says("stack traceback"));
    CHECK(strstr(pf_last_error(), "chunk:2: no such level") != NULL);
    h.status = -77; /* a number of the host's own */
    CHECK(load(s, "fail 'mine'") == -77);
    CHECK(load(s, "local ok, message = pcall(fail, 'caught') error(message, 0)") == -77);
    CHECK_FAILS(PF_EHOST, load(s, "pcall(fail, 'caught') error 'another'"));
    h.status = PF_EIO;
    CHECK_FAILS(PF_EIO, load(s, "fail()"));
    CHECK(says("chunk:1: fail: the host's function failed"));
    h.status = PF_SCRIPT_RESULTS + 1;
    CHECK_FAILS(PF_EINVAL, load(s, "fail()"));
    CHECK(says("the host's function says 17 results"));
    CHECK_OK(load(s, "assert(not pcall(fail, 'x'))"));
}

/* ---- calls inside calls ---- */

static int again(void *context, pf_script *script, const pf_value *args, int n, pf_value *results) {
    host *h = context;
    h->calls++;
    const int status =
        pf_script_call(h->other ? h->other : script, h->name, args, n, results, 1, NULL);
    return status < 0 ? pf_set_error(status, pf_script_error()) : status;
}

static void test_nested(pf_engine *engine, pf_script *s) {
    host h = {.name = "count"};
    CHECK_OK(pf_script_set_function(s, "again", again, &h));
    CHECK_OK(load(s, "function count(n) if n == 0 then return 0 end return again(n - 1) + 1 end\n"
                     "function threads(n) if n == 0 then return 0 end\n"
                     "  return coroutine.wrap(function() local got = again(n - 1)\n"
                     "    coroutine.yield(got + 1) end)() end\n"));
    CHECK(call_number(s, "count", 10) == 10);
    CHECK(call_number(s, "count", PF_SCRIPT_DEPTH - 1) == PF_SCRIPT_DEPTH - 1);
    pf_value deep = pf_value_integer(PF_SCRIPT_DEPTH);
    CHECK(pf_script_call(s, "count", &deep, 1, NULL, 0, NULL) == PF_ELIMIT);
    CHECK(says("32 calls of scripts are inside each other"));
    CHECK(call_number(s, "count", 10) == 10); /* nothing is left of them */
    h.name = "threads";
    CHECK(call_number(s, "threads", 10) == 10);
    /* Two scripts that call each other. */
    host back = {.other = s, .name = "count"};
    pf_script *other = new_script(engine, "function count(n) return again(n) end");
    CHECK_OK(pf_script_set_function(other, "again", again, &back));
    h.other = other, h.name = "count";
    CHECK(call_number(s, "count", 9) == 9);
    pf_script_close(&other);
    h.other = NULL;
}

/* What is calling must not be closed; where it is, it is at the end. */
static int close_it(void *context, pf_script *script, const pf_value *args, int n,
                    pf_value *results) {
    pf_script **closed = context, *kept = script;
    (void)args, (void)n, (void)results;
    pf_script_close(closed);
    return pf_script_load(kept, "late", "x = 1", 5);
}

static void test_close_inside(pf_engine *engine) {
    pf_script *s = new_script(engine, "function quit() stop() end");
    pf_script *open = s;
    CHECK_OK(pf_script_set_function(s, "stop", close_it, &s));
    CHECK(call(open, "quit") == PF_ESTATE);
    CHECK(!s && says("the script is closing"));
}

/* ---- how scripts end ---- */

static void test_statuses(pf_engine *engine, pf_script *s) {
    (void)engine;
    CHECK_OK(load(s, "pf = require 'performer'"));
    CHECK_FAILS(PF_ESHAPE, load(s, "pf.matmul(pf.ones(2, 3), pf.ones(2, 3))"));
    CHECK(says("chunk:1:") && says("[2, 3]"));
    CHECK_FAILS(PF_ESHAPE, load(s, "local co = coroutine.wrap(function()\n"
                                   "  pf.matmul(pf.ones(2, 3), pf.ones(2, 3)) end) co()"));
    CHECK_FAILS(PF_EINVAL, load(s, "pf.nn.linear { from = 2, too = 3 }"));
    CHECK_FAILS(PF_ESHAPE, load(s, "local mine = pf.nn.module { name = 'mine', forward =\n"
                                   "  function(self, x) return x:matmul(x) end }\n"
                                   "pf.nn.chain { pf.nn.chain {}, mine }(pf.ones(2, 3))"));
    CHECK(says("chunk:2: layer 2: matmul: a is [2, 3]"));
    CHECK_FAILS(PF_ENOTFOUND, load(s, "assert(pf.load '/no/such/file.safetensors')"));
    CHECK_FAILS(PF_EHOST, load(s, "error 'mine'"));
    CHECK_FAILS(PF_EHOST, load(s, "error()"));
    CHECK_FAILS(PF_EHOST, load(s, "error {}"));
    CHECK_FAILS(PF_EHOST, load(s, "local t = nil; t.x = 1"));
    CHECK(says("attempt to index a nil value"));
    CHECK_FAILS(PF_EHOST, load(s, "local function f() return f() + 1 end f()"));
    CHECK(says("stack overflow"));
    CHECK_FAILS(PF_EHOST, load(s, "error(setmetatable({}, { __tostring = function() return 'told'\n"
                                  "end }))"));
    CHECK(says("told\nstack traceback"));
    CHECK_FAILS(PF_EHOST, load(s, "error(setmetatable({}, { __tostring = error }))"));
    CHECK_FAILS(PF_EFORMAT, load(s, "local = 2"));
    CHECK(says("chunk:1:"));
    CHECK_OK(load(s, "x = 1"));
    CHECK(pf_script_error()[0] == 0);
}

/* A layer in Lua that fails is between the engine's frames. */
static void test_through_layers(pf_script *s) {
    CHECK_OK(load(s, "layer = pf.nn.chain { { forward = function(self, x)\n"
                     "  return x:matmul(pf.ones(5, 5)) end } }\n"
                     "function through() return layer(pf.ones(2, 3)) end"));
    CHECK_FAILS(PF_ESHAPE, call(s, "through"));
    CHECK(says("chunk:2:"));
}

static void test_exit(pf_script *s) {
    CHECK_OK(load(s, "os.exit()  error 'not here'"));
    CHECK_OK(load(s, "os.exit(true)"));
    CHECK_OK(load(s, "pf.exit(0)"));
    CHECK_FAILS(PF_EHOST, load(s, "os.exit(3)"));
    CHECK(says("the script ended itself with code 3"));
    CHECK_FAILS(PF_EHOST, load(s, "os.exit(false)"));
    CHECK_FAILS(PF_EHOST, load(s, "pf.exit(2, 'no data')"));
    CHECK(strcmp(pf_script_error(), "no data") == 0);
    CHECK_FAILS(PF_EHOST, load(s, "error { code = 0, message = 'not well' }"));
    pf_value v = pf_value_nil();
    CHECK_OK(load(s, "function leave() os.exit(0) end"));
    CHECK(pf_script_call(s, "leave", NULL, 0, &v, 1, NULL) == 0 && v.kind == PF_VALUE_NIL);
}

/* A tape that a call leaves open is closed with it, one of an outer call is not. */
static void test_tapes(pf_engine *engine, pf_script *s) {
    host h = {.name = "inner"};
    CHECK_OK(pf_script_set_function(s, "again", again, &h));
    CHECK_OK(load(s, "function inner() local t = pf.tape() return 1 end\n"
                     "function outer() local w = pf.ones(2):requires_grad()\n"
                     "  local tape <close> = pf.tape()\n"
                     "  local loss = (w * 3):sum() again() tape:backward(loss)\n"
                     "  return w:grad():totable()[1] end\n"
                     "function leave() tape = pf.tape() end"));
    pf_value v = pf_value_nil();
    CHECK(pf_script_call(s, "outer", NULL, 0, &v, 1, NULL) == 1 && v.as.number == 3);
    CHECK_OK(call(s, "leave"));
    pf_tensor *t = NULL;
    CHECK_OK(pf_tensor_arange(&t, engine, PF_F32, 2));
    CHECK_OK(load(s, "assert(tostring(tape) == 'tape, closed') tape = nil collectgarbage()"));
    CHECK(pf_tensor_alive(t));
    pf_tensor_release(&t);
}

/* ---- loading ---- */

static void test_loading(pf_script *s) {
    const char bytecode[] = "\x1bLua";
    CHECK_FAILS(PF_EFORMAT, pf_script_load(s, "binary", bytecode, 4));
    CHECK(says("it is bytecode, which is not loaded here: give the source text"));
    CHECK_FAILS(PF_EHOST, pf_script_load(s, "game/ai.lua", "\n\nerror 'here'", 14));
    CHECK(strncmp(pf_script_error(), "game/ai.lua:3: here", 19) == 0);
    CHECK_OK(pf_script_load(s, "part", "x = 1 garbage", 5));
    CHECK_OK(pf_script_load(s, "empty", "", 0));
    CHECK_FAILS(PF_ENOTFOUND, pf_script_load_file(s, "/no/such/script.lua"));
    CHECK(says("/no/such/script.lua: No such file"));
    CHECK(pf_script_load_file(s, "/") < 0 && says("/"));
}

/* `require` finds what lies beside the first file, and nothing in the current folder. */
static void test_require(pf_engine *engine) {
    char folder[] = "/tmp/script_callsXXXXXX", before[1024], path[64], module[64];
    CHECK(mkdtemp(folder) != NULL && getcwd(before, sizeof before) != NULL);
    snprintf(path, sizeof path, "%s/main.lua", folder);
    snprintf(module, sizeof module, "%s/found_beside.lua", folder);
    FILE *file = fopen(module, "w");
    if (file) fputs("return 5", file), fclose(file);
    file = fopen(path, "w");
    if (file) fputs("found = require 'found_beside'", file), fclose(file);
    pf_script *s = new_script(engine, "");
    CHECK(chdir(folder) == 0);
    CHECK_FAILS(PF_EHOST, load(s, "require 'found_beside'"));
    CHECK(chdir(before) == 0);
    pf_script_close(&s);
    CHECK_OK(pf_script_open(&s, engine, NULL));
    CHECK_OK(pf_script_load_file(s, path));
    CHECK_OK(load(s, "assert(found == 5)"));
    pf_script_close(&s);
    unlink(path), unlink(module), rmdir(folder);
}

/* ---- what it prints ---- */

static void collect(void *context, const char *text, size_t bytes) {
    char *all = context;
    CHECK(strlen(text) == bytes);
    snprintf(all + strlen(all), 256 - strlen(all), "%s|", text);
}

static void test_print(pf_engine *engine) {
    char printed[256] = "";
    const pf_script_options options = {
        .size = sizeof options, .name = "game", .print = collect, .print_context = printed};
    pf_script *s = NULL;
    CHECK_OK(pf_script_open(&s, engine, &options));
    CHECK_OK(load(s, "print('a', 1, nil) print() print(setmetatable({}, { __tostring = function()\n"
                     "return 'object' end }))"));
    CHECK(strcmp(printed, "a\t1\tnil||object|") == 0);
    CHECK_FAILS(PF_ENOTFOUND, call(s, "nothing"));
    CHECK(strncmp(pf_script_error(), "game: ", 6) == 0);
    pf_script_close(&s);
}

int main(void) {
    pf_engine *engine = new_engine();
    pf_script *script = new_script(engine, "");
    test_names(script);
    test_host_functions(engine, script);
    test_host_failures(script);
    test_nested(engine, script);
    test_close_inside(engine);
    test_statuses(engine, script);
    test_through_layers(script);
    test_exit(script);
    test_tapes(engine, script);
    test_loading(script);
    test_require(engine);
    test_print(engine);
    pf_script_close(&script);
    pf_engine_close(&engine);
    return CHECK_REPORT();
}
