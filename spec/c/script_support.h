/* script_support.h - what the tests of scripts share: an engine and a script on it, chunks in
 * memory, and calls with one argument and one result. */
#ifndef PF_SCRIPT_SUPPORT_H
#define PF_SCRIPT_SUPPORT_H

#include "check.h"
#include "performer_lua.h"

static inline pf_engine *new_engine(void) {
    pf_engine *engine = NULL;
    pf_options options = PF_OPTIONS_DEFAULT;
    options.seed = 42, options.threads = 1;
    CHECK_OK(pf_engine_open(&engine, &options));
    return engine;
}

static inline int load(pf_script *script, const char *text) {
    const int status = pf_script_load(script, "chunk", text, strlen(text));
    if (status < 0) pf_set_error(status, pf_script_error());
    return status;
}

static inline pf_script *new_script(pf_engine *engine, const char *text) {
    pf_script *script = NULL;
    CHECK_OK(pf_script_open(&script, engine, NULL));
    CHECK_OK(load(script, text));
    return script;
}

/* A call without arguments and results. */
static inline int call(pf_script *script, const char *name) {
    return pf_script_call(script, name, NULL, 0, NULL, 0, NULL);
}

/* A call of one argument, whose one result is the caller's. */
static inline pf_value call_one(pf_script *script, const char *name, pf_value argument) {
    pf_value result;
    const int n = pf_script_call(script, name, &argument, 1, &result, 1, NULL);
    if (n != 1) fprintf(stderr, "  %s: %d, %s\n", name, n, pf_script_error());
    check_one(n == 1, name, __FILE__, __LINE__);
    return result;
}

static inline double call_number(pf_script *script, const char *name, double x) {
    pf_value result = call_one(script, name, pf_value_number(x));
    const double number =
        result.kind == PF_VALUE_INTEGER ? (double)result.as.integer : result.as.number;
    check_one(result.kind == PF_VALUE_NUMBER || result.kind == PF_VALUE_INTEGER, name, __FILE__,
              __LINE__);
    pf_value_clear(&result);
    return number;
}

static inline bool says(const char *text) {
    const bool said = strstr(pf_script_error(), text) != NULL;
    if (!said) fprintf(stderr, "  not '%s': %s\n", text, pf_script_error());
    return said;
}

/* Builds the layer of Lua of this name. */
static inline int build_named(pf_engine *engine, const char *name) {
    pf_config *tree = pf_config_new(PF_MAP);
    pf_module *module = NULL;
    pf_config_set_string(tree, "type", "lua");
    pf_config_set_string(tree, "name", name);
    const int status = pf_module_build(&module, engine, tree);
    pf_config_free(tree);
    pf_module_release(&module);
    return status;
}

/* A host's own maker of layers, which knows "host's" alone; *context: how often it was asked. */
static inline int host_layer(void *context, pf_engine *engine, const char *name,
                             pf_module *const *children, int n, pf_module **module) {
    (void)children, (void)n;
    ++*(int *)context;
    if (strcmp(name, "host's") != 0) return PF_ENOTFOUND;
    pf_config *options = pf_config_new(PF_MAP);
    pf_config_set_number(options, "dim", 2);
    const int status = pf_module_new(module, engine, "rmsnorm", options, NULL, 0);
    pf_config_free(options);
    return status;
}

static inline size_t held(pf_engine *engine) {
    size_t live = 0;
    pf_engine_memory(engine, &live, NULL);
    return live;
}

#endif
