/*
 * small_stack_test.c - every public call, and work that is deep, on threads whose stack is small: a
 * host that has hundreds of threads gives each of them little. In LIVING_IN_A_HOST.md: [threads.6],
 * [threads.7].
 */
#include <pthread.h>

#include "border.h"

#include "border_calls.h"

/* What is promised. Sanitizers put room between all that lies on a stack. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { SCALE = 8 };
#else
enum { SCALE = 1 };
#endif
enum { ENGINE_STACK = 64 * 1024 * SCALE, SCRIPT_STACK = 512 * 1024 * SCALE };
enum { LEVEL_STACK = 512 * SCALE, LEVELS = 1000 }; /* of layers in layers, which no file has */

/* PF_STACK in the environment: bytes, to find the least by hand. */
static size_t stack_of(size_t promised) {
    const char *word = getenv("PF_STACK");
    return word ? (size_t)strtoul(word, NULL, 10) : promised;
}

static int on_thread(size_t stack, void *(*work)(void *), void *context) {
    pthread_attr_t attributes;
    pthread_t thread;
    void *failed = (void *)1;
    pthread_attr_init(&attributes);
    if (pthread_attr_setstacksize(&attributes, stack_of(stack)) != 0) return 1;
    if (pthread_create(&thread, &attributes, work, context) != 0) return 1;
    pthread_join(thread, &failed);
    pthread_attr_destroy(&attributes);
    return failed != NULL;
}

/* ---- every call ----------------------------------------------------------------------- */

static void *call(void *context) {
    const border_row *row = context;
    if (!border_frees(row)) row->call(-1);
    return NULL;
}

static int call_on_thread(const border_row *row) {
    bool script = strstr(row->name, "script") != NULL;
    return on_thread(script ? SCRIPT_STACK : ENGINE_STACK, call, (void *)row);
}

/* ---- deep work ------------------------------------------------------------------------- */

static int parse(const char *open, const char *close, int depth) {
    static char text[1 << 16];
    pf_config *node = NULL;
    size_t at = 0;
    for (int i = 0; i < depth; i++) at += (size_t)sprintf(text + at, "%s", open);
    at += (size_t)sprintf(text + at, "1");
    for (int i = 0; i < depth; i++) at += (size_t)sprintf(text + at, "%s", close);
    const int status = pf_json_parse(&node, text, at);
    pf_config_free(node);
    return status;
}

/* Layers in layers, as deep as a file may have them. */
static int build_deep(pf_engine *e, int depth) {
    static char text[1 << 16];
    pf_config *tree = NULL;
    pf_module *model = NULL;
    size_t at = 0;
    for (int i = 0; i < depth; i++)
        at += (size_t)sprintf(text + at, "{\"type\": \"chain\", \"children\": [");
    at += (size_t)sprintf(text + at, "{\"type\": \"rmsnorm\", \"options\": {\"dim\": 8}}");
    for (int i = 0; i < depth; i++) at += (size_t)sprintf(text + at, "]}");
    int status = pf_json_parse(&tree, text, at);
    if (status >= 0) status = pf_module_build(&model, e, tree);
    pf_module_release(&model);
    pf_config_free(tree);
    return status;
}

/* One training step, a checkpoint, and tokens from it. */
static int train_and_stream(pf_engine *e, const char *folder) {
    pf_module *model = NULL, *loaded = NULL;
    pf_optimizer *optimizer = NULL;
    pf_tape *tape = NULL;
    pf_tensor *loss = NULL;
    pf_stream *stream = NULL;
    int32_t next = 0;
    const pf_sampling sampling = {.size = sizeof sampling, .temperature = 1, .top_k = 5};
    int failed = pf_module_build(&model, e, B.tree) < 0;
    failed += pf_optimizer_new(&optimizer, e, model, NULL) < 0;
    failed += pf_tape_open(&tape, e) < 0;
    failed += pf_module_loss(&loss, e, model, B.ids, B.ids, NULL) < 0;
    failed += pf_tape_backward(tape, loss, NULL) < 0;
    failed += pf_optimizer_step(optimizer, e, 0.01, 1, NULL) < 0;
    pf_tape_close(&tape);
    failed += pf_checkpoint_save(e, folder, 1, model, optimizer, NULL, NULL, 1) < 0;
    failed += pf_model_load(&loaded, e, folder) < 0;
    failed += pf_stream_open(&stream, e, loaded) < 0;
    for (int i = 0; i < 8; i++) failed += pf_stream_next(stream, next, &sampling, &next) < 0;
    pf_tensor_release(&loss), pf_stream_close(&stream), pf_module_release(&loaded);
    pf_optimizer_close(&optimizer), pf_module_release(&model);
    return failed;
}

static int work(pf_cpu cpu) {
    const int64_t shape[] = {300, 300};
    char folder[96];
    pf_options options = pf_options_default();
    pf_engine *e = NULL;
    pf_tensor *x = NULL, *y = NULL;
    options.threads = 2, options.cpu = cpu;
    snprintf(folder, sizeof folder, "%s/run", B.path);
    int failed = pf_engine_open(&e, &options) < 0 || pf_tensor_rand(&x, e, 2, shape, true) < 0;
    failed += pf_op_apply(e, pf_op_find(e, "matmul"), (pf_tensor *const[]){x, x}, 2, NULL, &y) < 0;
    failed += parse("[", "]", 63) < 0 || parse("{\"a\":", "}", 63) < 0;
    failed += parse("[", "]", 5000) >= 0;
    failed += build_deep(e, 30) < 0;
    failed += train_and_stream(e, folder);
    pf_tensor_release(&x), pf_tensor_release(&y);
    pf_engine_close(&e);
    if (failed) fprintf(stderr, "  %s\n", pf_last_error());
    return failed;
}

static void *work_here(void *context) { return work(*(pf_cpu *)context) ? context : NULL; }

static void remove_run(void) {
    char command[128];
    snprintf(command, sizeof command, "rm -rf %s/run", B.path);
    CHECK(system(command) == 0);
}

/* A chain in a chain ... of the host's making, run, told, and let go of. */
static void *nest(void *context) {
    const int64_t shape[] = {1, 8};
    pf_module *module = NULL, *outer = NULL;
    pf_config *options = pf_config_new(PF_MAP), *tree = NULL;
    pf_tensor *x = NULL, *y = NULL;
    int failed = pf_config_set(options, "dim", pf_config_new_number(8)) < 0;
    failed += pf_module_new(&module, B.engine, "rmsnorm", options, NULL, 0) < 0;
    for (int i = 0; i < LEVELS && !failed; i++) {
        failed += pf_module_new(&outer, B.engine, "chain", NULL, &module, 1) < 0;
        pf_module_release(&module);
        module = outer;
    }
    failed += pf_tensor_full(&x, B.engine, PF_F32, 2, shape, 1) < 0;
    failed += pf_module_forward(&y, B.engine, module, x, NULL) < 0;
    failed += pf_module_tensor_count(module) != 1 || pf_module_tree(&tree, module) < 0;
    if (failed) fprintf(stderr, "  %s\n", pf_last_error());
    pf_config_free(tree), pf_config_free(options);
    pf_tensor_release(&x), pf_tensor_release(&y), pf_module_release(&module);
    return failed ? context : NULL;
}

static int nest_on_thread(const border_row *row) {
    return on_thread(ENGINE_STACK + (size_t)LEVELS * LEVEL_STACK, nest, (void *)row);
}

/* ---- scripts ---------------------------------------------------------------------------- */

/* As deep as Lua lets C functions call each other, patterns and the parser among them. */
static const char *const scripts[] = {
    "local function f(n) return (('x'):gsub('.', function() return n > 0 and f(n - 1) end)) end"
    " assert(not pcall(f, 1000)) assert(f(150))",
    "local text = ('('):rep(190) .. '1' .. (')'):rep(190) assert(load('return ' .. text))",
    "assert(not load(('{'):rep(5000)))",
    "local pf = require 'performer' local t = {} for i = 1, 7 do t = { t } end"
    " pf.json.encode(t) pf.randn(64, 64):matmul(pf.ones(64, 64)):sum():item()",
    "local co = coroutine.wrap(function() local function g(n) return n == 0 and 0 or 1 + g(n - 1)"
    " end return g(10000) end) assert(co() == 10000)",
    "local function h(n) local co = coroutine.wrap(h) if n > 0 then co(n - 1) end end"
    " assert(h(150) == nil) assert(not pcall(h, 1000))"};

static void *run_script(void *context) {
    char path[96];
    snprintf(path, sizeof path, "%s/deep.lua", B.path);
    FILE *file = fopen(path, "w");
    if (!file) return context;
    fputs(context, file), fclose(file);
    const int status = pf_script_run(B.engine, path, 0, NULL);
    if (status < 0) fprintf(stderr, "  %s\n", pf_script_error());
    unlink(path);
    return status < 0 ? context : NULL;
}

static const char *script;
static int script_on_thread(const border_row *row) {
    (void)row;
    return on_thread(SCRIPT_STACK, run_script, (void *)script);
}

static pf_cpu level;
static int work_on_thread(const border_row *row) {
    (void)row;
    return on_thread(ENGINE_STACK, work_here, &level);
}

/* ---- threads that come and go ------------------------------------------------------------- */

static void *fail_once(void *context) {
    (void)context;
    pf_module *model = NULL;
    bool good = !pf_last_error()[0] && pf_model_load(&model, B.engine, "/no/such") < 0 &&
                strstr(pf_last_error(), "/no/such");
    return good ? NULL : &B;
}

/* Kilobytes that the process holds. */
static long resident(void) {
    long pages = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    if (file && fscanf(file, "%*d %ld", &pages) != 1) pages = 0;
    if (file) fclose(file);
    return pages * 4;
}

/* A message is its thread's own, and what a thread had goes with it. */
static void test_coming_and_going(void) {
    int failed = 0;
    for (int i = 0; i < 100; i++) failed += on_thread(SCRIPT_STACK, fail_once, NULL);
    const long before = resident();
    for (int i = 0; i < 2000; i++) failed += on_thread(SCRIPT_STACK, fail_once, NULL);
    CHECK(failed == 0);
    CHECK(SCALE > 1 || resident() - before < 512);
}

int main(void) {
    static const border_row deep = {.name = "deep work"}, nested = {.name = "layers in layers"},
                            scripted = {.name = "deep scripts"};
    border_open();
    for (size_t i = 0; i < sizeof border_rows / sizeof *border_rows; i++) {
        border_run(&border_rows[i], call_on_thread);
    }
    pf_tape_close(&B.tape);
    for (level = PF_CPU_GENERIC; level <= PF_CPU_BEST; level += PF_CPU_BEST) {
        border_run(&deep, work_on_thread);
        remove_run();
    }
    border_run(&nested, nest_on_thread);
    for (size_t i = 0; i < sizeof scripts / sizeof *scripts; i++) {
        script = scripts[i];
        border_run(&scripted, script_on_thread);
    }
    test_coming_and_going();
    border_close();
    pf_engine_close(&B.engine);
    return CHECK_REPORT();
}
