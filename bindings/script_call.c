/*
 * script_call.c - names of a script: the functions that the host calls, its own functions that the
 * script calls, and other globals.
 *
 * A name is a path of fields from the environment that the script's chunks run in, by the rules of
 * Lua's own indexing, so that a metatable has its say.
 */
#include <string.h>

#include "script.h"

/* ---- names -------------------------------------------------------------------- */

static bool indexable(lua_State *L, int index) {
    if (lua_istable(L, index)) return true;
    const bool has = luaL_getmetafield(L, index, "__index") != LUA_TNIL;
    if (has) lua_pop(L, 1);
    return has;
}

/* The field whose name stands before `end`, of what is on top and in its place; nil of anything
 * that has no fields. */
static void step(lua_State *L, const char *name, const char *end) {
    if (indexable(L, -1)) {
        lua_pushlstring(L, name, (size_t)(end - name));
        lua_gettable(L, -2);
    } else {
        lua_pushnil(L);
    }
    lua_remove(L, -2);
}

/* Pushes the holder of the last field of the name, which is returned. make: tables on the way are
 * made where there is nothing. */
static const char *push_holder(lua_State *L, const pf_script *s, const char *name, bool make) {
    lua_rawgeti(L, LUA_REGISTRYINDEX, s->environment);
    for (const char *dot; (dot = strchr(name, '.')) != NULL; name = dot + 1) {
        lua_pushvalue(L, -1);
        step(L, name, dot);
        if (make && lua_isnil(L, -1) && indexable(L, -2)) {
            lua_pop(L, 1);
            lua_newtable(L);
            lua_pushlstring(L, name, (size_t)(dot - name));
            lua_pushvalue(L, -2);
            lua_settable(L, -4);
        }
        lua_remove(L, -2);
    }
    return name;
}

static void push_named(lua_State *L, const pf_script *s, const char *name) {
    const char *last = push_holder(L, s, name, false);
    step(L, last, last + strlen(last));
}

/* The name of a function that may have been meant, in the same table; pushed, or "". */
static const char *push_hint(lua_State *L, const pf_script *s, const char *name) {
    enum { MANY = 128 };
    const char *names[MANY], *last = push_holder(L, s, name, false);
    int n = 0;
    const bool table = lua_istable(L, -1);
    if (table) lua_pushnil(L);
    while (table && lua_next(L, -2)) {
        if (n < MANY && lua_type(L, -2) == LUA_TSTRING && lua_isfunction(L, -1))
            names[n++] = lua_tostring(L, -2); /* the table keeps it alive */
        lua_pop(L, 1);
    }
    const char *near = pf_nearest(last, names, n);
    if (!near) return "";
    return lua_pushfstring(L, " (did you mean '%s'?)", near);
}

static void push_function(lua_State *L, const pf_script *s, const char *name) {
    push_named(L, s, name);
    if (lua_isfunction(L, -1)) return;
    if (luaL_getmetafield(L, -1, "__call") != LUA_TNIL) {
        lua_pop(L, 1);
        return;
    }
    const char *kind = lua_isnil(L, -1) ? NULL : lpf_kind(L, -1);
    if (kind)
        lua_pushfstring(L, "%s: '%s' is a %s, no function", s->name, name, kind);
    else
        lua_pushfstring(L, "%s: there is no function '%s'%s", s->name, name, push_hint(L, s, name));
    lpf_remember(L, PF_ENOTFOUND);
    lua_error(L);
}

/* ---- calls of the host's ------------------------------------------------------ */

typedef struct {
    pf_script *script;
    const char *function;
    const pf_value *args;
    int n_args;
    pf_value *results;
    int max_results, made;
} call_job;

static const char *result_name(lua_State *L, const char *function, int i) {
    return lua_pushfstring(L, "%s: result %s of '%s'", "pf_script_call",
                           lua_pushfstring(L, "%d", i), function);
}

static int call_body(lua_State *L) {
    call_job *job = lua_touserdata(L, 1);
    luaL_checkstack(L, job->n_args + 8, "too many arguments");
    push_function(L, job->script, job->function);
    const int base = lua_gettop(L) - 1;
    for (int i = 0; i < job->n_args; i++) lpf_push_value(L, &job->args[i]);
    lua_call(L, job->n_args, LUA_MULTRET);
    int n = lua_gettop(L) - base;
    if (n > job->max_results) n = job->max_results;
    for (int i = 0; i < n; i++) {
        const char *what = result_name(L, job->function, i);
        lpf_take_value(L, base + 1 + i, &job->results[i], what);
    }
    job->made = n;
    return 0;
}

static void clear_all(pf_value *values, int n) {
    for (int i = 0; i < n; i++) pf_value_clear(&values[i]);
}

int pf_script_call(pf_script *script, const char *function, const pf_value *args, int n_args,
                   pf_value *results, int max_results, const pf_limits *limits) {
    lpf_script_quiet();
    for (int i = 0; results && i < max_results; i++) results[i] = pf_value_nil();
    LPF_NEED(script);
    LPF_NEED(function);
    if (n_args < 0 || max_results < 0)
        return lpf_script_refuse(PF_EINVAL, "pf_script_call: a number of values is negative");
    if (n_args > 0) LPF_NEED(args);
    if (max_results > 0) LPF_NEED(results);
    int status = lpf_values_check(__func__, "argument", args, n_args);
    if (status < 0) return status;
    call_job job = {script, function, args, n_args, results, max_results, 0};
    status = lpf_script_enter(script, __func__, call_body, &job, limits);
    if (status < 0) clear_all(results, max_results);
    return status < 0 ? status : job.made;
}

/* ---- functions of the host's -------------------------------------------------- */

typedef struct {
    pf_script *script;
    pf_script_fn function;
    void *context;
    const char *name; /* the upvalue behind this one keeps it */
} host_function;

/* Runs it with what the stack holds; its status. */
static int run_host(lua_State *L, const host_function *f, pf_value *args, int n,
                    pf_value *results) {
    lpf_context *ctx = lpf_enter(L), *asking = lpf_ask_layers(NULL);
    pf_engine *engine = f->script->engine;
    const pf_file_access *files = pf_engine_lend_files(engine, NULL); /* the host has its own ... */
    pf_random *random = pf_engine_lend_random(engine, NULL);          /* ... of both */
    const bounded_stack stack = bounded_to_host(f->script->bounded);
    lpf_locale_hosts(ctx, true);
    const int status = f->function(f->context, f->script, args, n, results);
    lpf_locale_hosts(ctx, false);
    bounded_back(f->script->bounded, stack);
    pf_engine_lend_random(engine, random);
    pf_engine_lend_files(engine, files);
    lpf_ask_layers(asking);
    ctx->L = L;
    return status;
}

static int failed(lua_State *L, const host_function *f, int status) {
    if (status > 0)
        return lpf_raise(L, "%s: the host's function says %d results, at most %d fit", f->name,
                         status, PF_SCRIPT_RESULTS);
    lua_pushstring(L, pf_last_error_from(1));
    return lpf_raise_as(L, status);
}

static int call_host(lua_State *L) {
    const host_function *f = lua_touserdata(L, lua_upvalueindex(1));
    const int n = lua_gettop(L);
    luaL_checkstack(L, PF_SCRIPT_RESULTS + n + 8, "values");
    pf_value *args = lpf_new_values(L, n); /* they borrow: there is nothing to clear */
    for (int i = 0; i < n; i++) {
        const char *what = lua_pushfstring(L, "%s: argument %d", f->name, i + 1);
        lpf_borrow_value(L, i + 1, &args[i], what);
    }
    pf_value *results = lpf_new_values(L, PF_SCRIPT_RESULTS);
    char text[LPF_NAME + 64];
    snprintf(text, sizeof text, "%.60s: the host's function failed", f->name);
    pf_set_error(PF_EHOST, text); /* for one that says nothing */
    const int status = run_host(L, f, args, n, results);
    const int made = status < 0 || status > PF_SCRIPT_RESULTS ? 0 : status;
    if (status != made || lpf_values_check(f->name, "result", results, made) < 0) {
        clear_all(results, PF_SCRIPT_RESULTS);
        return failed(L, f, status != made ? status : PF_EINVAL);
    }
    for (int i = 0; i < made; i++) lpf_push_value(L, &results[i]);
    clear_all(results, PF_SCRIPT_RESULTS); /* what Lua holds is its own */
    return made;
}

typedef struct {
    const pf_script *script;
    const char *name;
    const host_function *function;
    const pf_value *value; /* to set */
    pf_value *result;      /* to get */
} name_job;

/* Sets the field of the name to the value on top. */
static void set_named(lua_State *L, const name_job *job) {
    const char *last = push_holder(L, job->script, job->name, true);
    if (!indexable(L, -1)) {
        lua_pushfstring(L, "%s: '%s' lies in a %s, which has no fields", job->script->name,
                        job->name, lpf_kind(L, -1));
        lpf_remember(L, PF_EINVAL);
        lua_error(L);
    }
    lua_insert(L, -2);
    lua_setfield(L, -2, last);
}

static int set_function_body(lua_State *L) {
    const name_job *job = lua_touserdata(L, 1);
    host_function *f = lua_newuserdatauv(L, sizeof *f, 0);
    *f = *job->function;
    f->name = lua_pushstring(L, job->name);
    lua_pushcclosure(L, call_host, 2);
    set_named(L, job);
    return 0;
}

int pf_script_set_function(pf_script *script, const char *name, pf_script_fn function,
                           void *context) {
    lpf_script_quiet();
    LPF_NEED(script);
    LPF_NEED(name);
    LPF_NEED(function);
    const host_function made = {script, function, context, NULL};
    name_job job = {.script = script, .name = name, .function = &made};
    return lpf_script_enter(script, __func__, set_function_body, &job, NULL);
}

/* ---- globals ------------------------------------------------------------------ */

static int set_body(lua_State *L) {
    const name_job *job = lua_touserdata(L, 1);
    lpf_push_value(L, job->value);
    set_named(L, job);
    return 0;
}

int pf_script_set(pf_script *script, const char *name, const pf_value *value) {
    lpf_script_quiet();
    LPF_NEED(script);
    LPF_NEED(name);
    LPF_NEED(value);
    const int status = lpf_values_check(__func__, "value", value, 1);
    if (status < 0) return status;
    name_job job = {.script = script, .name = name, .value = value};
    return lpf_script_enter(script, __func__, set_body, &job, NULL);
}

static int get_body(lua_State *L) {
    const name_job *job = lua_touserdata(L, 1);
    push_named(L, job->script, job->name);
    lpf_take_value(L, -1, job->result, job->name);
    return 0;
}

int pf_script_get(pf_script *script, const char *name, pf_value *value) {
    lpf_script_quiet();
    if (value) *value = pf_value_nil();
    LPF_NEED(script);
    LPF_NEED(name);
    LPF_NEED(value);
    name_job job = {.script = script, .name = name, .result = value};
    const int status = lpf_script_enter(script, __func__, get_body, &job, NULL);
    if (status < 0) pf_value_clear(value);
    return status;
}
