/*
 * sandbox_run.c - see sandbox_run.h. Nothing of the inner state's is called unprotected, and
 * nothing of the outer one's may raise while the inner one is open: what came of it is kept in a
 * `run_job` until it has closed.
 */
#include "sandbox_run.h"

#include <stdio.h>
#include <string.h>

#include <lauxlib.h>
#include <lualib.h>

#include "bounded.h"
#include "host.h"
#include "lpf.h"
#include "sandbox.h"

typedef struct {
    pf_engine *engine;
    const char *home;        /* where performer's Lua files lie */
    const char *text, *name; /* "@FILE" */
    size_t bytes;            /* of the text */
    bool sandbox;
    pf_limits limits;
    int argc;
    const char **argv;
    /* what came of it */
    int status, code;
    pf_usage usage;
    char message[LPF_THROWN];
} run_job;

/* ---- the inner state ---------------------------------------------------------- */

static run_job *job_of(lua_State *L) { return lua_touserdata(L, lua_upvalueindex(1)); }

/* performer, loaded into the state's own globals; on the stack. */
static void require_performer(lua_State *L, const run_job *job) {
    lpf_bind_engine(L, job->engine);
    luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_PRELOAD_TABLE);
    lua_pushcfunction(L, luaopen_performer_core);
    lua_setfield(L, -2, "performer.core");
    lua_getglobal(L, "package");
    const int package = lua_gettop(L);
    lua_getfield(L, package, "path");
    lua_pushfstring(L, "%s../?.lua;%s../?/init.lua;%s", job->home, job->home,
                    job->sandbox ? "" : lua_tostring(L, -1));
    lua_setfield(L, package, "path");
    lua_settop(L, 0);
    lua_getglobal(L, "require");
    lua_pushliteral(L, "performer");
    lua_call(L, 1, 1);
}

/* Leaves the environment of the script's chunk: nil where that is the state's own. */
static int prepare(lua_State *L) {
    const run_job *job = job_of(L);
    luaL_openlibs(L);
    lua_pushcfunction(L, bounded_libraries);
    lua_call(L, 0, 0);
    require_performer(L, job);
    if (!job->sandbox) return 0;
    lua_pushcfunction(L, sandbox_environment);
    lua_insert(L, 1);
    lua_call(L, 1, 1);
    return 1;
}

/* A message handler. Where the hook has raised nothing of the script's may run, and a traceback at
 * each of its __close functions would take long. */
static int traceback(lua_State *L) {
    const char *message = lua_tostring(L, 1);
    if (message && !bounded_over(bounded_of(L))) luaL_traceback(L, L, message, 1);
    return 1;
}

static void set_arguments(lua_State *L, const run_job *job) {
    lua_createtable(L, job->argc, 1);
    lua_pushstring(L, job->name + (job->name[0] == '@'));
    lua_rawseti(L, -2, 0);
    for (int i = 0; i < job->argc; i++) {
        lua_pushstring(L, job->argv[i]);
        lua_rawseti(L, -2, i + 1);
    }
    lua_setfield(L, 1, "arg");
}

/* With the environment at 1. */
static int run_script(lua_State *L) {
    run_job *job = job_of(L);
    set_arguments(L, job);
    if (sandbox_compile(L, job->text, job->bytes, job->name) != LUA_OK) {
        job->code = 2;
        return lua_error(L);
    }
    lua_pushvalue(L, 1);
    lua_setupvalue(L, -2, 1);
    luaL_checkstack(L, job->argc, "too many arguments");
    for (int i = 0; i < job->argc; i++) lua_pushstring(L, job->argv[i]);
    lua_call(L, job->argc, 0);
    return 0;
}

static int call(lua_State *L, lua_CFunction body, run_job *job, int n_args, int n_results) {
    const int base = lua_gettop(L) - n_args + 1;
    lua_pushcfunction(L, traceback);
    lua_insert(L, base);
    lua_pushlightuserdata(L, job);
    lua_pushcclosure(L, body, 1);
    lua_insert(L, base + 1);
    const int status = lua_pcall(L, n_args, n_results, base);
    lua_remove(L, base);
    return status;
}

/* What was thrown, on top, into the job. */
static void take_error(lua_State *L, run_job *job, bounded *b, int status) {
    const int code = lpf_host_thrown(L, job->message, NULL); /* may run the script's code, too */
    if (job->code != 2) job->code = code;
    job->status = status == LUA_ERRMEM ? PF_ENOMEM : PF_EHOST;
    if (status == LUA_ERRMEM) snprintf(job->message, sizeof job->message, "%s", pf_last_error());
    if (!bounded_over(b)) return;
    job->status = bounded_over(b);
    snprintf(job->message, sizeof job->message, "%s", bounded_why(b));
}

/* What performer costs to load is none of the script's. */
static void run_state(lua_State *L, bounded *b, pf_meter *meter, run_job *job) {
    int status = call(L, prepare, job, 0, 1);
    if (status == LUA_OK) {
        if (lua_isnil(L, -1)) lua_pushglobaltable(L), lua_replace(L, -2);
        pf_meter_limit(meter, &job->limits);
        status = call(L, run_script, job, 1, 0);
    }
    if (status != LUA_OK)
        take_error(L, job, b, status);
    else if (bounded_over(b)) /* at its last instruction */
        job->status = bounded_over(b), snprintf(job->message, LPF_THROWN, "%s", bounded_why(b));
}

static void run_metered(run_job *job, pf_meter *meter) {
    bounded *b = NULL;
    const unsigned flags = job->sandbox            ? BOUNDED_STRANGER
                           : job->limits.bytes > 0 ? BOUNDED_FIRM
                                                   : 0;
    job->status = bounded_open(&b, job->engine, meter, flags);
    if (job->status < 0) return;
    lua_State *L = lua_newstate(bounded_resize, b);
    if (L && bounded_watch(L, b) >= 0)
        run_state(L, b, meter, job);
    else
        job->status = pf_set_error(PF_ENOMEM, "script: no memory for a Lua state");
    if (L) lua_close(L);
    bounded_close(&b);
}

static void run(run_job *job) {
    pf_meter *meter = NULL;
    job->status = pf_meter_open(&meter, job->engine, &job->limits);
    if (job->status >= 0) job->status = pf_meter_enter(meter);
    if (job->status >= 0) {
        const pf_file_access *before =
            pf_engine_lend_files(job->engine, job->sandbox ? sandbox_files() : NULL);
        run_metered(job, meter);
        pf_engine_lend_files(job->engine, before);
        job->usage.size = sizeof job->usage;
        pf_meter_usage(meter, &job->usage);
        pf_meter_leave(meter);
    }
    if (job->status < 0 && !job->message[0] && !job->code)
        snprintf(job->message, sizeof job->message, "%s", pf_last_error());
    pf_meter_close(&meter);
}

/* ---- the outer state ---------------------------------------------------------- */

static void read_job(lua_State *L, run_job *job) {
    static const char *const allowed[] = {"text",  "name", "args",    "sandbox",
                                          "bytes", "work", "seconds", NULL};
    lpf_check_options(L, 1, allowed, "run");
    job->name = lpf_opt_string(L, 1, "name", "=script");
    if (lua_getfield(L, 1, "text") != LUA_TSTRING) lpf_raise(L, "run: a text is needed");
    job->text = lua_tolstring(L, -1, &job->bytes);
    job->sandbox = lpf_opt_bool(L, 1, "sandbox", false);
    job->limits.size = sizeof job->limits;
    job->limits.bytes = lpf_opt_count(L, 1, "bytes", 0);
    job->limits.work = lpf_opt_count(L, 1, "work", 0);
    job->limits.seconds = lpf_opt_number(L, 1, "seconds", 0);
    lua_getfield(L, LUA_REGISTRYINDEX, "performer.home");
    job->home = luaL_checkstring(L, -1);
}

/* The words of args stay on the stack, in their table. */
static void read_arguments(lua_State *L, run_job *job) {
    if (lua_getfield(L, 1, "args") != LUA_TTABLE) return;
    job->argc = (int)luaL_len(L, -1);
    job->argv = lua_newuserdatauv(L, (size_t)(job->argc + 1) * sizeof *job->argv, 0);
    for (int i = 0; i < job->argc; i++) {
        if (lua_rawgeti(L, -2, i + 1) != LUA_TSTRING) lpf_raise(L, "run: args must be texts");
        job->argv[i] = lua_tostring(L, -1);
        lua_pop(L, 1);
    }
}

static void push_usage(lua_State *L, const pf_usage *usage) {
    lua_createtable(L, 0, 4);
    lua_pushnumber(L, usage->seconds);
    lua_setfield(L, -2, "seconds");
    lua_pushinteger(L, (lua_Integer)usage->work);
    lua_setfield(L, -2, "work");
    lua_pushinteger(L, (lua_Integer)usage->bytes);
    lua_setfield(L, -2, "bytes");
    lua_pushinteger(L, (lua_Integer)usage->peak);
    lua_setfield(L, -2, "peak");
}

static bool is_limit(int status) {
    return status == PF_ELIMIT || status == PF_ENOMEM || status == PF_ECANCEL;
}

static int run_within(lua_State *L) {
    lua_settop(L, 1);
    run_job *job = lua_newuserdatauv(L, sizeof *job, 0);
    memset(job, 0, sizeof *job);
    read_job(L, job);
    read_arguments(L, job);
    job->engine = lpf_engine(L);
    run(job);
    lpf_enter(L);
    if (job->status >= 0) {
        lua_pushboolean(L, 1);
        push_usage(L, &job->usage);
        return 2;
    }
    lua_pushnil(L);
    lua_pushstring(L, job->message);
    if (is_limit(job->status))
        lua_pushstring(L, pf_status_name(job->status));
    else
        lua_pushinteger(L, job->code);
    push_usage(L, &job->usage);
    return 4;
}

int luaopen_performer_run(lua_State *L) {
    lua_pushcfunction(L, run_within);
    return 1;
}
