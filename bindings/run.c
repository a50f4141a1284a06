/*
 * run.c - see run.h. Nothing of the outer state's may raise while the script is open: what came of
 * it is kept in a `run_job` until it has closed.
 */
#include "run.h"

#include <stdio.h>
#include <string.h>

#include "host.h"
#include "lpf.h"
#include "script.h"

typedef struct {
    const char *path, *lua_dir;
    bool sandbox, aside; /* aside: what it prints goes to stderr */
    pf_limits limits;
    int argc;
    const char **argv;
    /* what came of it */
    int status, code;
    pf_usage usage;
    char message[LPF_THROWN];
} run_job;

/* ---- the script --------------------------------------------------------------- */

/* As stock Lua's, which strangers don't have: each line is there before what comes after it. */
static void print_line(void *context, const char *text, size_t bytes) {
    const run_job *job = context;
    FILE *to = job->aside ? stderr : stdout;
    fwrite(text, 1, bytes, to);
    fputc('\n', to);
    fflush(to);
}

/* What stands in the script's error, into the job. */
static void take_error(run_job *job, bool ran) {
    const char *text = pf_script_error();
    const int chosen = lpf_script_exit(&text);
    snprintf(job->message, sizeof job->message, "%s", text);
    job->code = chosen >= 0 ? chosen : ran ? 1 : 2;
}

static void run(run_job *job, pf_engine *engine) {
    const pf_script_options options = {.size = sizeof options,
                                       .sandbox = job->sandbox,
                                       .limits = &job->limits,
                                       .print = job->sandbox || job->aside ? print_line : NULL,
                                       .print_context = job,
                                       .lua_dir = job->lua_dir};
    pf_script *script = NULL;
    bool ran = false;
    job->status = pf_script_open(&script, engine, &options);
    if (job->status >= 0)
        job->status =
            lpf_script_run_file(script, job->path, "performer", job->argc, job->argv, &ran);
    if (job->status < 0) take_error(job, ran || !script);
    if (script) pf_script_usage(script, &job->usage);
    pf_script_close(&script);
}

/* ---- the state that asks for it ----------------------------------------------- */

static void read_job(lua_State *L, run_job *job) {
    static const char *const allowed[] = {"path", "args",    "sandbox", "bytes",
                                          "work", "seconds", "aside",   NULL};
    lpf_check_options(L, 1, allowed, "run");
    job->path = lpf_opt_string(L, 1, "path", NULL);
    if (!job->path) lpf_raise(L, "run: a path is needed");
    job->sandbox = lpf_opt_bool(L, 1, "sandbox", false);
    job->aside = lpf_opt_bool(L, 1, "aside", false);
    job->limits.size = sizeof job->limits;
    job->limits.bytes = lpf_opt_count(L, 1, "bytes", 0);
    job->limits.work = lpf_opt_count(L, 1, "work", 0);
    job->limits.seconds = lpf_opt_number(L, 1, "seconds", 0);
    lua_getfield(L, LUA_REGISTRYINDEX, "performer.home");
    job->lua_dir = lua_pushfstring(L, "%s..", luaL_checkstring(L, -1));
    job->usage.size = sizeof job->usage;
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

/* Want of memory that no limit stands behind is an error like others. */
static bool is_limit(const run_job *job) {
    const bool bytes = job->limits.bytes > 0 || job->sandbox;
    return job->status == PF_ELIMIT || job->status == PF_ECANCEL ||
           (job->status == PF_ENOMEM && bytes);
}

static int run_within(lua_State *L) {
    lua_settop(L, 1);
    run_job *job = lua_newuserdatauv(L, sizeof *job, 0);
    memset(job, 0, sizeof *job);
    read_job(L, job);
    read_arguments(L, job);
    run(job, lpf_engine(L));
    lpf_enter(L);
    if (job->status >= 0) {
        lua_pushboolean(L, 1);
        push_usage(L, &job->usage);
        return 2;
    }
    lua_pushnil(L);
    lua_pushstring(L, job->message);
    if (is_limit(job))
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
