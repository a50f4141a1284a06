/*
 * script_sandbox_test.c - a stranger's script in a host (performer_lua.h): it is given no files but
 * those that the host hands in, while the host's own functions and calls have theirs; and nothing
 * that an engine has once for all who use it is other for the host afterwards.
 */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "draw.h"
#include "performer_lua.h"

static char path[] = "/tmp/script_sandbox_testXXXXXX";

static const char library[] =
    "pf = require 'performer'\n"
    "function load(path) return pf.load(path) ~= nil end\n"
    "function save(path) return pf.save(path, {a = pf.ones(1)}) == true end\n"
    "function asked(path) return host.load(path) end\n"
    "layer = pf.nn.chain { { w = pf.ones(1), forward = function(_, x)\n"
    "  seen = pf.load(where) ~= nil\n"
    "  return x\n"
    "end } }\n"
    "function model() return layer end\n";

/* Does f(path) of the script say true? */
static bool says(pf_script *script, const char *f, const char *file) {
    const pf_value argument = pf_value_text(file, strlen(file));
    pf_value result = pf_value_nil();
    CHECK(pf_script_call(script, f, &argument, 1, &result, 1, NULL) == 1);
    return result.kind == PF_VALUE_BOOL && result.as.boolean;
}

static int host_load(void *context, pf_script *script, const pf_value *args, int n_args,
                     pf_value *results) {
    int64_t bytes = 0;
    (void)context, (void)n_args;
    results[0] =
        pf_value_bool(pf_file_size(pf_script_engine(script), args[0].as.text, &bytes) >= 0);
    return 1;
}

static pf_script *open_script(pf_engine *engine, const pf_file_access *files) {
    pf_script_options options = {.size = sizeof options, .sandbox = true, .files = files};
    pf_script *script = NULL;
    CHECK_OK(pf_script_open(&script, engine, &options));
    CHECK_OK(pf_script_set_function(script, "host.load", host_load, NULL));
    CHECK_OK(pf_script_load(script, "library", library, sizeof library - 1));
    return script;
}

/* What the stranger's layer sees of a file when the host calls its model. */
static bool layer_sees(pf_script *script, pf_engine *engine, const char *file) {
    const pf_value where = pf_value_text(file, strlen(file));
    pf_value model = pf_value_nil(), seen = pf_value_nil();
    const int64_t shape[] = {1, 1};
    pf_tensor *x = NULL, *y = NULL;
    CHECK_OK(pf_script_set(script, "where", &where));
    CHECK(pf_script_call(script, "model", NULL, 0, &model, 1, NULL) == 1);
    CHECK_OK(pf_tensor_full(&x, engine, PF_F32, 2, shape, 1));
    CHECK_OK(pf_module_forward(&y, engine, model.as.module, x, NULL));
    CHECK_OK(pf_script_get(script, "seen", &seen));
    pf_tensor_release(&x);
    pf_tensor_release(&y);
    pf_value_clear(&model);
    return seen.kind == PF_VALUE_BOOL && seen.as.boolean;
}

/* ---- what is not there ---- */

/* What it says ends so. */
static void ends(pf_script *script, const char *text, const char *wanted) {
    CHECK(pf_script_load(script, "chunk", text, strlen(text)) < 0);
    char first[1024];
    snprintf(first, sizeof first, "%s", pf_script_error());
    first[strcspn(first, "\n")] = 0;
    const size_t n = strlen(first), m = strlen(wanted);
    const bool good = n >= m && !strcmp(first + n - m, wanted);
    if (!good) fprintf(stderr, "  not '%s': %s\n", wanted, first);
    CHECK(good);
}

/* A stranger is told what it has in the place of what it asks for, at its own line. */
static void test_told(pf_engine *engine) {
    const char *no_files = "a sandboxed script has no files, but those that its host gives it";
    const pf_script_options options = {.size = sizeof options, .sandbox = true};
    pf_script *s = NULL;
    CHECK_OK(pf_script_open(&s, engine, &options));
    CHECK_OK(pf_script_load(s, "chunk", "pf = require 'performer'", 24));
    ends(s, "assert(pf.load('x'))", no_files);
    CHECK(strncmp(pf_script_error(), "chunk:1: open x: ", 17) == 0);
    ends(s, "assert(pf.checkpoint.model('x'))", no_files);
    ends(s, "assert(pf.data.open { path = 'x' })", no_files);
    ends(s, "assert(pf.file.write('memory:x', 'y'))", no_files);
    ends(s, "io.open('x')", "print a line, return a value, or call what the host gives");
    ends(s, "os.execute('x')", "a sandboxed script has no processes");
    ends(s, "dofile('x')", "a sandboxed script has no files: load(text) compiles a text");
    ends(s, "\n return require 'os'", "'os' not found: a sandboxed script has 'performer' alone");
    CHECK(strncmp(pf_script_error(), "chunk:2: ", 9) == 0);
    ends(s, "string.dump(print)", "a sandboxed script has no bytecode: hand on the source text");
    ends(s, "assert(load('\\27Lua'))",
         "it is bytecode, which is not loaded here: give the source "
         "text");
    ends(s, "assert(load(('x = 1::l::'):rep(9000)))", "a chunk with more than 8192 jumps");
    ends(s, "error('mine', 0)", "mine");
    CHECK(!strcmp(pf_script_error(), "mine\nstack traceback:\n\t[C]: in function 'error'\n\t"
                                     "chunk:1: in main chunk") ||
          strstr(pf_script_error(), "chunk:1: in main chunk"));
    CHECK(!strstr(pf_script_error(), "[C]: in ?"));
    pf_script_close(&s);
}

/* Bytes are no file: a stranger's own are read without any, and nothing of them stays. */
static void test_bytes(pf_engine *engine) {
    pf_script *s = open_script(engine, NULL);
    pf_tensor *t = NULL;
    const int64_t shape[] = {3};
    const void *data = NULL;
    size_t n = 0;
    CHECK_OK(pf_tensor_full(&t, engine, PF_F32, 1, shape, 7));
    CHECK_OK(pf_safetensors_save(engine, "memory:made", &(pf_named){"a", t}, 1, NULL));
    CHECK_OK(pf_memory_get(engine, "memory:made", &data, &n));
    const pf_value bytes = pf_value_text(data, n);
    CHECK_OK(pf_script_set(s, "bytes", &bytes));
    const char *text = "local t = assert(pf.load { bytes = bytes })\n"
                       "assert(t.a:sum():item() == 21)\n"
                       "local _, why = pf.load { bytes = 'nonsense' }\n"
                       "assert(why:find 'memory:bytes', why)\n"
                       "assert(not pcall(pf.load, { bytes = 1 }))\n"
                       "local d = assert(pf.data.open { bytes = ('line of text\\n'):rep(99) })\n"
                       "assert(d:tokenizer():size() == 256)\n"
                       "assert(pf.load('memory:bytes') == nil and pf.load('memory:made') == nil)";
    const int status = pf_script_load(s, "chunk", text, strlen(text));
    if (status < 0) fprintf(stderr, "  %s\n", pf_script_error());
    CHECK(status == 0);
    pf_script_close(&s);
    CHECK_FAILS(PF_ENOTFOUND, pf_memory_get(engine, "memory:bytes", &data, &n));
    CHECK_OK(pf_file_remove(engine, "memory:made"));
    pf_tensor_release(&t);
}

/* ---- what an engine has once ---- */

static const char all[] =
    "pf = require 'performer'\n"
    "function draw() return pf.rand(1):item() end\n"
    "function seed() pf.seed(99) pf.nn.linear { from = 4, to = 4 } return host.draw() end\n"
    "function watch() pf.check.finite(function() while true do end end) end\n"
    "function yield() coroutine.wrap(function() pf.check.finite(coroutine.yield) end)() end\n"
    "function watches() return pf.check.finite(function() return host.watch() end) end\n"
    "function define() pf.nn.define('mine', function() return pf.nn.rmsnorm(3) end)\n"
    "  return pf.nn.build { type = 'lua', name = 'mine' }:options().dim end\n"
    "function withheld() for _, name in ipairs { 'open', 'limit', 'reset_peak', 'interrupted',\n"
    "  'term', 'bench_gemm' } do assert(rawget(pf, name) == nil, name) end end\n"
    "layer = pf.nn.chain { { w = pf.ones(1), forward = function(_, x)\n"
    "  pf.seed(99)\n"
    "  return x + pf.rand(1)\n"
    "end } }\n"
    "function model() return layer end\n";

static int host_draw(void *context, pf_script *script, const pf_value *args, int n_args,
                     pf_value *results) {
    (void)context, (void)args, (void)n_args;
    results[0] = pf_value_number(draw(pf_script_engine(script)));
    return 1;
}

static double number(pf_script *script, const char *f) {
    pf_value v = pf_value_nil();
    CHECK(pf_script_call(script, f, NULL, 0, &v, 1, NULL) == 1);
    return v.kind == PF_VALUE_INTEGER ? (double)v.as.integer : v.as.number;
}

static pf_script *open_all(pf_engine *engine) {
    const pf_script_options options = {.size = sizeof options, .sandbox = true};
    pf_script *script = NULL;
    CHECK_OK(pf_script_open(&script, engine, &options));
    CHECK_OK(pf_script_set_function(script, "host.draw", host_draw, NULL));
    CHECK_OK(pf_script_load(script, "all", all, sizeof all - 1));
    return script;
}

/* What the host draws is the same with strangers as without; strangers begin as the seed does. */
static void test_random(pf_engine *engine) {
    float own[3];
    pf_seed(engine, 7);
    for (int i = 0; i < 3; i++) own[i] = draw(engine);
    pf_seed(engine, 7);
    pf_script *a = open_all(engine), *b = open_all(engine);
    CHECK(number(a, "draw") == own[0] && number(b, "draw") == own[0]);
    CHECK(number(a, "seed") == own[0]); /* its host's function draws the host's */
    CHECK(number(a, "draw") != own[1] && number(b, "draw") == own[1]);
    CHECK(draw(engine) == own[1]);
    CHECK(pf_script_load(a, "failed", "pf.seed(5) error 'x'", 20) < 0);
    CHECK(draw(engine) == own[2]);
    pf_script_close(&a);
    pf_script_close(&b);
}

/* A layer that the host runs draws as the host's other layers do, but seeds nothing of its. */
static void test_layer_draws(pf_engine *engine) {
    pf_script *script = open_all(engine);
    pf_value model = pf_value_nil();
    const int64_t shape[] = {1, 1};
    pf_tensor *x = NULL, *y = NULL;
    CHECK(pf_script_call(script, "model", NULL, 0, &model, 1, NULL) == 1);
    CHECK_OK(pf_tensor_full(&x, engine, PF_F32, 2, shape, 0));
    pf_seed(engine, 7);
    const float first = draw(engine), second = draw(engine);
    pf_seed(engine, 7);
    CHECK_OK(pf_module_forward(&y, engine, model.as.module, x, NULL));
    CHECK(((const float *)pf_tensor_data(y))[0] == first && draw(engine) == second);
    pf_tensor_release(&x);
    pf_tensor_release(&y);
    pf_value_clear(&model);
    pf_script_close(&script);
}

static int host_watch(void *context, pf_script *script, const pf_value *args, int n_args,
                      pf_value *results) {
    (void)context, (void)args, (void)n_args, (void)results;
    return pf_script_call(script, "draw", NULL, 0, NULL, 0, NULL); /* inside, it goes on */
}

/* A watch of numbers ends with the call that began it, however that ends. */
static void test_watch(pf_engine *engine) {
    const pf_limits limits = {.size = sizeof limits, .work = 100000};
    pf_script *script = open_all(engine);
    CHECK_OK(pf_script_set_function(script, "host.watch", host_watch, NULL));
    CHECK(says(script, "watches", ""));
    CHECK_FAILS(PF_ELIMIT, pf_script_call(script, "watch", NULL, 0, NULL, 0, &limits));
    CHECK_OK(pf_script_call(script, "yield", NULL, 0, NULL, 0, NULL));
    CHECK_OK(pf_finite_begin(engine));
    CHECK(pf_script_call(script, "watches", NULL, 0, NULL, 0, NULL) < 0); /* the host's */
    CHECK_OK(pf_finite_end(engine, 1, NULL));
    pf_script_close(&script);
}

static int build_mine(pf_engine *engine, int64_t *dim) {
    pf_config *tree = NULL;
    pf_module *module = NULL;
    CHECK_OK(pf_json_parse(&tree, "{\"type\":\"lua\",\"name\":\"mine\"}", 28));
    const int status = pf_module_build(&module, engine, tree);
    if (status >= 0)
        *dim = (int64_t)pf_config_number(pf_config_get(pf_module_options(module), "dim"));
    pf_module_release(&module);
    pf_config_free(tree);
    return status;
}

/* Models of the host's have no layer of a stranger's, not even in the place of another's. */
static void test_layers(pf_engine *engine) {
    static const char mine[] = "local nn = require 'performer'.nn\n"
                               "nn.define('mine', function() return nn.rmsnorm(5) end)\n";
    int64_t dim = 0;
    pf_script *stranger = open_all(engine), *trusted = NULL;
    CHECK(number(stranger, "define") == 3);
    CHECK_FAILS(PF_ENOTFOUND, build_mine(engine, &dim));
    CHECK_OK(pf_script_open(&trusted, engine, NULL));
    CHECK_OK(pf_script_load(trusted, "mine", mine, sizeof mine - 1));
    CHECK_OK(build_mine(engine, &dim));
    pf_script_close(&stranger);
    stranger = open_all(engine);
    CHECK(number(stranger, "define") == 3); /* it stands in front now */
    CHECK_OK(build_mine(engine, &dim));
    CHECK(dim == 5);
    CHECK_OK(pf_script_call(stranger, "withheld", NULL, 0, NULL, 0, NULL));
    pf_script_close(&trusted);
    pf_script_close(&stranger);
}

int main(void) {
    pf_engine *engine = NULL;
    pf_options options = PF_OPTIONS_DEFAULT;
    options.threads = 1;
    CHECK_OK(pf_engine_open(&engine, &options));
    test_random(engine);
    test_layer_draws(engine);
    test_watch(engine);
    test_layers(engine);
    const int file = mkstemp(path);
    CHECK(file >= 0);
    close(file);
    pf_script *trusted = NULL;
    CHECK_OK(pf_script_open(&trusted, engine, NULL));
    CHECK_OK(pf_script_load(trusted, "library", library, sizeof library - 1));
    CHECK(says(trusted, "save", path) && says(trusted, "save", "memory:own"));
    CHECK(says(trusted, "load", path) && says(trusted, "load", "memory:own"));

    pf_script *stranger = open_script(engine, NULL);
    CHECK(!says(stranger, "load", path) && !says(stranger, "load", "memory:own"));
    CHECK(!says(stranger, "save", path) && !says(stranger, "save", "memory:left"));
    CHECK(says(stranger, "asked", path)); /* the host's function has the host's files */
    CHECK(!says(stranger, "load", path)); /* and nothing of that stays */
    CHECK(!layer_sees(stranger, engine, path));
    int64_t bytes = 0;
    CHECK_OK(pf_file_size(engine, path, &bytes));

    pf_script *handed = open_script(engine, pf_file_system());
    CHECK(says(handed, "load", path) && layer_sees(handed, engine, path));
    CHECK(says(trusted, "load", path));
    test_told(engine);
    test_bytes(engine);
    pf_script_close(&handed);
    pf_script_close(&stranger);
    pf_script_close(&trusted);
    pf_engine_close(&engine);
    unlink(path);
    return CHECK_REPORT();
}
