/*
 * script_sandbox_test.c - a stranger's script in a host (performer_lua.h): it is given no files but
 * those that the host hands in, while the host's own functions and calls have theirs.
 */
#include <unistd.h>

#include "check.h"
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

int main(void) {
    pf_engine *engine = NULL;
    pf_options options = PF_OPTIONS_DEFAULT;
    options.threads = 1;
    CHECK_OK(pf_engine_open(&engine, &options));
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
    pf_script_close(&handed);
    pf_script_close(&stranger);
    pf_script_close(&trusted);
    pf_engine_close(&engine);
    unlink(path);
    return CHECK_REPORT();
}
