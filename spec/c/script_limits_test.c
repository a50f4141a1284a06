/*
 * script_limits_test.c - limits of an engine, of a script and of a call, over a script's Lua and
 * its tensors alike: what is over ends the call whatever the script catches, what stands outside
 * goes on, and the next call within the limits does.
 */
#include <stdatomic.h>

#include "script_support.h"

static pf_limits within(size_t bytes, uint64_t work, double seconds) {
    pf_limits limits = {.size = sizeof limits, .bytes = bytes, .work = work, .seconds = seconds};
    return limits;
}

static const char WORK[] =
    "pf = require 'performer'\n"
    "function idle() return 1 end\n"
    "function loop() while true do end end\n"
    "function catch() while true do pcall(loop) end end\n"
    "function threads() while true do coroutine.wrap(catch)() end end\n"
    "function ops() local a = pf.ones(64, 64) while true do pcall(a.matmul, a, a) end end\n"
    "function find() return (('a'):rep(1e5)):find(('.-'):rep(30) .. 'b') end\n"
    "function grow() local t = {} for i = 1, 1e9 do t[i] = ('x'):rep(1000) .. i end end\n"
    "function hide() while true do pcall(grow) end end\n"
    "function tensors() local t = {} for i = 1, 1e9 do t[i] = pf.ones(1000) end end\n"
    "function keep() kept = {} for i = 1, 100 do kept[i] = pf.ones(1000) end end\n"
    "layer = pf.nn.chain { { forward = function(self, x) while true do end end } }\n"
    "function layers() return layer(pf.ones(1, 2)) end\n";

static int call_within(pf_script *s, const char *name, const pf_limits *limits) {
    return pf_script_call(s, name, NULL, 0, NULL, 0, limits);
}

static void test_call(pf_script *s) {
    const char *const forever[] = {"loop", "catch", "threads", "ops", "find", "layers"};
    const pf_limits work = within(0, 2000000, 0), seconds = within(0, 0, 0.05);
    for (int i = 0; i < 6; i++) {
        CHECK_FAILS(PF_ELIMIT, call_within(s, forever[i], &work));
        CHECK(says("chunk:") && call_within(s, "idle", &work) == 0);
        CHECK_FAILS(PF_ELIMIT, call_within(s, forever[i], &seconds));
        CHECK(call(s, "idle") == 0);
    }
}

static void test_bytes(pf_engine *engine, pf_script *s) {
    const char *const hungry[] = {"grow", "hide", "tensors"};
    const pf_limits bytes = within(4 << 20, 0, 0);
    CHECK_OK(call(s, "keep"));
    pf_usage usage = {.size = sizeof usage};
    for (int i = 0; i < 3; i++) {
        CHECK_OK(load(s, "collectgarbage()"));
        CHECK_OK(pf_script_usage(s, &usage));
        const size_t before = usage.bytes;
        pf_engine_reset_peak(engine);
        CHECK_FAILS(PF_ENOMEM, call_within(s, hungry[i], &bytes));
        CHECK_OK(pf_script_usage(s, &usage));
        CHECK(usage.bytes <= before + (4 << 20));
        CHECK(call_within(s, "idle", &bytes) == 0);
    }
    CHECK_OK(load(s, "collectgarbage() local t = pf.ones(2000000)")); /* without limits it may */
}

/* What was over is told with the script's own line, wherever below it that came about. */
static void test_place(pf_engine *engine) {
    static const struct {
        const char *text, *says;
    } rows[] = {
        {"local n = 0\nwhile true do n = n + 1 end", "chunk:2: over the limit of 300000 units"},
        {"local function f()\n\n  return ('a'):rep(1e5):find(('.-'):rep(30) .. 'b')\nend\nf()",
         "chunk:3: over the limit"},
        {"\nlocal nn = require 'performer'.nn\nwhile true do\n  nn.linear { from = 2, to = 2 "
         "}\nend",
         "chunk:4: over the limit"},
        {"coroutine.wrap(function()\n  while true do end\nend)()", "chunk:2: over the limit"},
    };
    pf_limits limits = within(0, 300000, 0);
    for (int i = 0; i < 4; i++) {
        pf_script *s = new_script(engine, "");
        CHECK_OK(pf_script_limit(s, &limits));
        CHECK_FAILS(PF_ELIMIT, load(s, rows[i].text));
        CHECK(says(rows[i].says));
        pf_script_close(&s);
    }
    pf_script *s = new_script(engine, "");
    limits = within(4 << 20, 0, 0);
    CHECK_OK(pf_script_limit(s, &limits));
    CHECK_FAILS(PF_ENOMEM,
                load(s, "local t = {}\nfor i = 1, 1e9 do t[i] = ('x'):rep(99) .. i end"));
    CHECK(says("chunk:2: out of memory"));
    pf_script_close(&s);
}

/* Those of the script count over its calls, until they are set again. */
static void test_script(pf_engine *engine) {
    pf_limits limits = within(8 << 20, 3000000, 0);
    const pf_script_options options = {.size = sizeof options, .limits = &limits};
    pf_script *s = NULL;
    CHECK_OK(pf_script_open(&s, engine, &options));
    CHECK_OK(load(s, WORK));
    pf_usage usage = {.size = sizeof usage};
    CHECK_OK(pf_script_usage(s, &usage));
    CHECK(usage.work < 3000000 && usage.bytes > 100000 && usage.bytes < 8 << 20);
    CHECK_FAILS(PF_ELIMIT, call(s, "catch"));
    CHECK_FAILS(PF_ELIMIT, call(s, "idle"));
    CHECK_FAILS(PF_ELIMIT, load(s, "x = 1"));
    CHECK_OK(pf_script_limit(s, &limits));
    CHECK(call(s, "idle") == 0);
    CHECK_FAILS(PF_ENOMEM, call(s, "hide"));
    CHECK(call(s, "idle") == 0);
    CHECK_OK(pf_script_usage(s, &usage));
    CHECK(usage.peak <= 8 << 20);
    CHECK_OK(pf_script_limit(s, NULL));
    CHECK_OK(load(s, "for i = 1, 1e6 do end local t = pf.ones(4000000)"));
    /* The engine's hold beside them. */
    limits = within(0, 1000000, 0);
    CHECK_OK(pf_engine_limit(engine, &limits));
    CHECK_FAILS(PF_ELIMIT, call(s, "threads"));
    CHECK_OK(pf_engine_limit(engine, NULL));
    CHECK(call(s, "idle") == 0);
    pf_script_close(&s);
}

/* Two scripts: the one that is over does not touch the other, and goes where it is closed. */
static void test_apart(pf_engine *engine) {
    const pf_limits limits = within(1 << 20, 500000, 0);
    const pf_script_options options = {.size = sizeof options, .limits = &limits};
    pf_script *bounded = NULL, *other = new_script(engine, WORK);
    const size_t before = held(engine);
    CHECK_OK(pf_script_open(&bounded, engine, &options));
    CHECK_FAILS(PF_ELIMIT, load(bounded, "while true do end"));
    CHECK(call(other, "idle") == 0);
    pf_script_close(&bounded);
    CHECK(held(engine) == before);
    CHECK(call(other, "idle") == 0);
    pf_script_close(&other);
}

/* Bytes that a sandbox does not open with are always fewer than the message asks for. */
static void test_room(pf_engine *engine) {
    pf_limits limits = within(0, 0, 0);
    const pf_script_options options = {.size = sizeof options, .sandbox = true, .limits = &limits};
    pf_script *s = NULL;
    for (limits.bytes = 600000; !s && limits.bytes < 2000000; limits.bytes += 10000) {
        const int status = pf_script_open(&s, engine, &options);
        if (status >= 0) break;
        CHECK(status == PF_ENOMEM && limits.bytes < 900000);
    }
    CHECK(s != NULL);
    pf_script_close(&s);
}

/* Limits that leave no room for a script, or are none. */
static void test_open(pf_engine *engine) {
    pf_limits limits = within(50000, 0, 0);
    const pf_script_options options = {.size = sizeof options, .limits = &limits};
    const size_t before = held(engine);
    pf_script *s = NULL;
    CHECK_FAILS(PF_ENOMEM, pf_script_open(&s, engine, &options));
    CHECK(!s && held(engine) == before);
    CHECK(says("limits.bytes is 50000, and opening a script takes about 900000 of them"));
    limits.bytes = 850000; /* as the header says */
    CHECK_OK(pf_script_open(&s, engine, &options));
    pf_script_close(&s);
    CHECK(held(engine) == before);
    test_room(engine);
    limits.size = 0;
    CHECK_FAILS(PF_EINVAL, pf_script_open(&s, engine, &options));
    limits = within(0, 0, -1);
    CHECK_FAILS(PF_EINVAL, pf_script_open(&s, engine, &options));
    s = new_script(engine, WORK);
    CHECK_FAILS(PF_EINVAL, pf_script_limit(s, &limits));
    CHECK_FAILS(PF_EINVAL, call_within(s, "idle", &limits));
    CHECK(call(s, "idle") == 0);
    pf_script_close(&s);
    CHECK(held(engine) == before);
}

/* ---- inside each other ---- */

typedef struct {
    pf_limits limits;
    const char *name;
    int status;
} inner;

static int call_inner(void *context, pf_script *script, const pf_value *args, int n,
                      pf_value *results) {
    inner *in = context;
    (void)args, (void)n;
    in->status = pf_script_call(script, in->name, NULL, 0, NULL, 0, &in->limits);
    results[0] = pf_value_integer(in->status);
    return 1;
}

/* What an inner call uses up is its own, unless it is the outer one's too. */
static void test_nested(pf_script *s) {
    inner in = {within(0, 200000, 0), "loop", 0};
    const pf_limits outer = within(0, 2000000, 0);
    CHECK_OK(pf_script_set_function(s, "inner", call_inner, &in));
    CHECK_OK(load(s, "function outer() local n = inner() for i = 1, 1000 do end return n end\n"
                     "function outers() while true do pcall(inner) end end"));
    pf_value v;
    CHECK(pf_script_call(s, "outer", NULL, 0, &v, 1, &outer) == 1);
    CHECK(in.status == PF_ELIMIT && v.as.integer == PF_ELIMIT);
    CHECK_FAILS(PF_ELIMIT, call_within(s, "outers", &outer));
    in = (inner){within(1 << 20, 0, 0), "grow", 0};
    CHECK(pf_script_call(s, "outer", NULL, 0, &v, 1, &outer) == 1);
    CHECK(in.status == PF_ENOMEM);
    CHECK_OK(load(s, "collectgarbage()"));
    in.name = "idle";
    CHECK(pf_script_call(s, "outer", NULL, 0, &v, 1, &outer) == 1 && in.status == 0);
}

static int set_bytes(void *context, pf_script *script, const pf_value *args, int n,
                     pf_value *results) {
    (void)args, (void)n, (void)results;
    return pf_script_limit(script, context);
}

/* Limits that the host sets in the middle of a call stay, whatever limits the call had. */
static void test_set_inside(pf_script *s) {
    pf_limits script = within(6 << 20, 0, 0), outer = within(2 << 20, 0, 0);
    CHECK_OK(load(s, "collectgarbage()"));
    CHECK_OK(pf_script_set_function(s, "set_bytes", set_bytes, &script));
    CHECK_OK(call_within(s, "set_bytes", &outer));
    CHECK_FAILS(PF_ENOMEM, load(s, "local t = pf.ones(4000000)"));
    CHECK_FAILS(PF_ENOMEM, call(s, "hide"));
    CHECK_OK(pf_script_limit(s, NULL));
    CHECK_OK(load(s, "local t = pf.ones(4000000)"));
}

/* A function of the host's whose own frames are large. */
static int from_deep(void *context, pf_script *script, const pf_value *args, int n,
                     pf_value *results) {
    volatile char frames[200000];
    (void)args, (void)n, (void)results;
    frames[0] = frames[sizeof frames - 1] = 1;
    const int status = pf_script_call(script, context, NULL, 0, NULL, 0, NULL);
    return frames[0] ? status : PF_EHOST;
}

/* Garbage is collected in a call from deep within the host, and behind it. */
static void test_deep_host(pf_script *s) {
    const pf_limits limits = within(4 << 20, 0, 0);
    static char name[] = "litter";
    CHECK_OK(pf_script_set_function(s, "deep", from_deep, name));
    CHECK_OK(load(s, "collectgarbage()\n"
                     "function litter() for i = 1, 1e6 do local t = {i} end end\n"
                     "function inside() deep() end\n"
                     "function behind() deep() litter() end"));
    CHECK_OK(call_within(s, "litter", &limits));
    CHECK_OK(call_within(s, "inside", &limits));
    CHECK_OK(call_within(s, "behind", &limits));
}

/* ---- by way of another script ---- */

typedef struct {
    pf_script *script;
    const char *name;
    int status;
} elsewhere;

static int go_elsewhere(void *context, pf_script *script, const pf_value *args, int n,
                        pf_value *results) {
    elsewhere *to = context;
    (void)script, (void)args, (void)n, (void)results;
    to->status = call(to->script, to->name);
    return 0;
}

static size_t bytes_of(pf_script *s) {
    pf_usage usage = {.size = sizeof usage};
    CHECK_OK(pf_script_usage(s, &usage));
    return usage.bytes;
}

/* What a script makes in a call inside another's is its own, and within its own bounds. */
static void test_between(pf_engine *engine) {
    const pf_limits limits = within(4 << 20, 0, 0);
    const pf_script_options options = {.size = sizeof options, .limits = &limits};
    pf_script *a = NULL, *b = new_script(engine, WORK);
    CHECK_OK(pf_script_open(&a, engine, &options));
    CHECK_OK(load(a, WORK));
    elsewhere to_b = {b, "back", 0}, to_a = {a, "tensors", 0};
    CHECK_OK(pf_script_set_function(a, "away", go_elsewhere, &to_b));
    CHECK_OK(pf_script_set_function(b, "back", go_elsewhere, &to_a));
    const size_t before = bytes_of(b);
    CHECK_OK(call(a, "away"));
    CHECK(to_a.status == PF_ENOMEM && to_b.status == 0);
    CHECK(bytes_of(b) < before + 10000 && bytes_of(a) <= 4 << 20);
    CHECK_OK(load(a, "collectgarbage()"));
    to_a.name = "keep"; /* for good */
    const size_t held_by_a = bytes_of(a);
    CHECK_OK(call(a, "away"));
    CHECK(bytes_of(a) > held_by_a + 400000 && bytes_of(b) < before + 10000);
    pf_script_close(&a);
    CHECK(call(b, "idle") == 0);
    pf_script_close(&b);
}

static int close_engine(void *context, pf_script *script, const pf_value *args, int n,
                        pf_value *results) {
    (void)script, (void)args, (void)n, (void)results;
    pf_engine_close(context);
    return 0;
}

/* An engine that is closed in the middle of a call is what the call fails by. */
static void test_closed_inside(void) {
    pf_engine *engine = new_engine();
    pf_script *s = new_script(engine, WORK);
    CHECK_OK(pf_script_set_function(s, "close", close_engine, &engine));
    CHECK_FAILS(PF_ESTATE, load(s, "close() hide()"));
    CHECK(says("its engine has closed"));
    CHECK_FAILS(PF_ESTATE, call(s, "idle"));
    pf_script_close(&s);
}

static int deeper(void *context, pf_script *script, const pf_value *args, int n,
                  pf_value *results) {
    (void)context, (void)args, (void)n, (void)results;
    const int status = pf_script_call(script, "down", NULL, 0, NULL, 0, NULL);
    return status < 0 ? pf_set_error(status, pf_script_error()) : 0;
}

/* A host that calls and is called without an end is told how deep that went. */
static void test_calls_inside(pf_script *s) {
    CHECK_OK(load(s, "level, most = 0, 1e9"));
    CHECK_FAILS(PF_ELIMIT, call(s, "down"));
    CHECK(says("32 calls of scripts are inside each other, as many as may be"));
}

/* Levels of calls inside each other; nothing is left of those that were. */
static void test_depth(pf_script *s) {
    pf_limits limits = {.size = sizeof limits, .depth = 5};
    CHECK_OK(pf_script_set_function(s, "deeper", deeper, NULL));
    CHECK_OK(load(s, "level, most = 0, 5\n"
                     "function down() level = level + 1\n"
                     "  if level < most then deeper() end level = level - 1 end"));
    CHECK_OK(call_within(s, "down", &limits));
    CHECK_OK(load(s, "most = 9"));
    CHECK_FAILS(PF_ELIMIT, call_within(s, "down", &limits));
    CHECK_OK(load(s, "level, most = 0, 5"));
    CHECK_OK(call_within(s, "down", &limits));
}

/* ---- cancel, and models that the host runs ---- */

static void test_cancel(void) {
    pf_engine *engine = NULL;
    pf_options options = PF_OPTIONS_DEFAULT;
    atomic_int cancel = 0;
    options.threads = 1, options.cancel = &cancel;
    CHECK_OK(pf_engine_open(&engine, &options));
    pf_script *s = new_script(engine, WORK);
    atomic_store(&cancel, 1);
    CHECK_FAILS(PF_ECANCEL, call(s, "idle"));
    atomic_store(&cancel, 0);
    CHECK(call(s, "idle") == 0);
    pf_script_close(&s);
    pf_engine_close(&engine);
}

static void test_layers(pf_engine *engine, pf_script *s) {
    pf_limits limits = within(0, 500000, 0);
    pf_value layer;
    CHECK_OK(load(s, "calls = 0 lazy = pf.nn.chain { { forward = function(self, x)\n"
                     "  calls = calls + 1 while calls == 1 do end return x end } }"));
    CHECK_OK(pf_script_get(s, "lazy", &layer));
    const int64_t shape[] = {1, 2};
    pf_tensor *x = NULL, *y = NULL;
    CHECK_OK(pf_tensor_full(&x, engine, PF_F32, 2, shape, 1));
    CHECK_OK(pf_engine_limit(engine, &limits));
    CHECK_FAILS(PF_ELIMIT, pf_module_forward(&y, engine, layer.as.module, x, NULL));
    CHECK_OK(pf_engine_limit(engine, &limits));
    CHECK_OK(pf_module_forward(&y, engine, layer.as.module, x, NULL));
    CHECK_OK(pf_engine_limit(engine, NULL));
    pf_tensor_release(&x);
    pf_tensor_release(&y);
    pf_value_clear(&layer);
}

/* The host runs a stranger's layer: within the script's own limits and files. */
static void test_strangers_layer(pf_engine *engine) {
    const pf_limits limits = within(0, 500000, 0);
    const pf_script_options options = {.size = sizeof options, .sandbox = true, .limits = &limits};
    pf_script *s = NULL;
    CHECK_OK(pf_script_open(&s, engine, &options));
    CHECK_OK(load(s, "local pf = require 'performer'\n"
                     "layer = pf.nn.chain { { forward = function(self, x)\n"
                     "  if what == 'loop' then while true do end end\n"
                     "  if what == 'save' then assert(pf.save('memory:stolen', { x = x })) end\n"
                     "  return x end } }\n"
                     "function save(x) assert(pf.save('/tmp/stolen', { x = x })) end"));
    pf_value layer, what = pf_value_text("loop", 4);
    CHECK_OK(pf_script_get(s, "layer", &layer));
    const int64_t shape[] = {1, 2};
    pf_tensor *x = NULL, *y = NULL;
    int64_t bytes;
    CHECK_OK(pf_tensor_full(&x, engine, PF_F32, 2, shape, 1));
    CHECK_OK(pf_script_set(s, "what", &what));
    CHECK_FAILS(PF_ELIMIT, pf_module_forward(&y, engine, layer.as.module, x, NULL));
    CHECK_FAILS(PF_ELIMIT, pf_module_forward(&y, engine, layer.as.module, x, NULL));
    CHECK_OK(pf_script_limit(s, &limits));
    what = pf_value_text("save", 4);
    CHECK_OK(pf_script_set(s, "what", &what));
    CHECK(pf_module_forward(&y, engine, layer.as.module, x, NULL) < 0);
    CHECK(pf_file_size(engine, "memory:stolen", &bytes) == PF_ENOTFOUND);
    const pf_value argument = pf_value_tensor(x);
    CHECK(pf_script_call(s, "save", &argument, 1, NULL, 0, NULL) < 0);
    CHECK(pf_file_size(engine, "/tmp/stolen", &bytes) == PF_ENOTFOUND);
    what = pf_value_nil();
    CHECK_OK(pf_script_set(s, "what", &what));
    CHECK_OK(pf_module_forward(&y, engine, layer.as.module, x, NULL));
    pf_tensor_release(&x);
    pf_tensor_release(&y);
    pf_value_clear(&layer);
    pf_script_close(&s);
}

/* ---- strangers' scripts ---- */

static void test_sandbox(pf_engine *engine) {
    const pf_limits limits = within(16 << 20, 0, 2);
    pf_script_options options = {.size = sizeof options, .sandbox = true, .limits = &limits};
    pf_script *s = NULL;
    CHECK_OK(pf_script_open(&s, engine, &options));
    CHECK_OK(load(s, "pf = require 'performer'\n"
                     "function sum(t) return (t * 2):sum():item() end\n"
                     "function names() return { os = os and type(os.execute), io = type(io),\n"
                     "  debug = type(debug), package = type(package) } end\n"));
    pf_tensor *t = NULL;
    CHECK_OK(pf_tensor_arange(&t, engine, PF_F32, 4));
    pf_value v = call_one(s, "sum", pf_value_tensor(t));
    CHECK(v.as.number == 12);
    CHECK(pf_script_call(s, "names", NULL, 0, &v, 1, NULL) == 1);
    CHECK(strcmp(pf_config_string(pf_config_get(v.as.data, "debug")), "nil") == 0);
    CHECK(strcmp(pf_config_string(pf_config_get(v.as.data, "package")), "nil") == 0);
    pf_value_clear(&v);
    CHECK_FAILS(PF_ELIMIT, load(s, "while true do end"));
    CHECK_OK(pf_script_limit(s, &limits));
    CHECK_FAILS(PF_ENOMEM, load(s, "local s = ('x'):rep(1 << 24) return s .. s"));
    CHECK_FAILS(PF_EFORMAT, pf_script_load(s, "binary", "\x1bLua", 4));
    CHECK(says("binary: it is bytecode, which is not loaded here: give the source text"));
    CHECK_OK(load(s, "x = 1"));
    pf_script_close(&s);
    options.libraries = "string, tabel";
    CHECK(pf_script_open(&s, engine, &options) < 0 && !s && says("tabel"));
    options.libraries = "base, string";
    CHECK_OK(pf_script_open(&s, engine, &options));
    CHECK_OK(load(s, "assert(string and not math)"));
    pf_script_close(&s);
    options.sandbox = false;
    CHECK_FAILS(PF_EINVAL, pf_script_open(&s, engine, &options));
    pf_tensor_release(&t);
}

/* A table that is called in place of itself fills the stack, moving all of it at each step: minutes
 * within one instruction, if it could be as wide as Lua's. */
static void test_stack(pf_engine *engine) {
    const pf_script_options options = {.size = sizeof options, .sandbox = true};
    const char *const fill[] = {
        "pcall(t)", "coroutine.wrap(function() pcall(t) end)()",
        "local function g(...) return ... end g(table.unpack(b)) pcall(t)",
        "local function f(n) return n > 0 and 1 + f(n - 1) or 0 end f(3000) pcall(t)",
        "local function f() return 1 + f() end pcall(f)"};
    for (size_t i = 0; i < sizeof fill / sizeof fill[0]; i++) {
        pf_script *s = NULL;
        CHECK_OK(pf_script_open(&s, engine, &options));
        CHECK_OK(load(s, "b = {} for i = 1, 5000 do b[i] = 97 end b = { table.unpack(b) } "
                         "assert(#b == 5000) text = string.char(table.unpack(b)) "
                         "assert(select('#', text:byte(1, -1)) == 5000)"));
        CHECK_OK(load(s, "assert(select('#', utf8.codepoint(text, 1, -1)) == 5000) b[5001] = 1 "
                         "assert(not pcall(table.unpack, b) and select('#', ('x'):byte(9, 1)) == 0 "
                         "and not pcall(string.byte, text .. 'a', 1, -1) "
                         "and not pcall(utf8.codepoint, text .. 'a', 1, -1)) b[5001] = nil"));
        CHECK_OK(load(s, "local function f(n) return n > 0 and 1 + f(n - 1) or 0 end f(3000)"));
        CHECK_OK(load(s, "m = {} t = setmetatable({}, m) m.__call = function() return 1 end "
                         "assert(t() == 1) m.__call = t"));
        CHECK_FAILS(PF_ENOMEM, load(s, fill[i]));
        CHECK(says("a stack of more than 20480 values in a sandbox"));
        CHECK_OK(load(s, "assert(#b == 5000)"));
        pf_script_close(&s);
    }
}

int main(void) {
    pf_engine *engine = new_engine();
    pf_script *script = new_script(engine, WORK);
    test_call(script);
    test_bytes(engine, script);
    test_nested(script);
    test_set_inside(script);
    test_deep_host(script);
    test_depth(script);
    test_calls_inside(script);
    test_layers(engine, script);
    pf_script_close(&script);
    test_open(engine);
    test_place(engine);
    test_script(engine);
    test_apart(engine);
    test_between(engine);
    test_closed_inside();
    test_cancel();
    test_sandbox(engine);
    test_strangers_layer(engine);
    test_stack(engine);
    pf_engine_close(&engine);
    return CHECK_REPORT();
}
