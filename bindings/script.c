/*
 * script.c - opening and closing scripts, and loading chunks into them.
 *
 * A script has the standard libraries, but what would reach past it into the host's process is
 * another function: os.exit ends the script, not the host, and print may go to the host.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <lualib.h>

#include "host.h"
#include "script.h"

/* ---- what stands in for the standard libraries' -------------------------------- */

/* os.exit([code]): as pf.exit. */
static int script_exit(lua_State *L) {
    lua_Integer code =
        lua_isnoneornil(L, 1) || (lua_isboolean(L, 1) && lua_toboolean(L, 1)) ? 0 : 1;
    if (lua_type(L, 1) == LUA_TNUMBER) code = luaL_checkinteger(L, 1) & 255; /* as a process's */
    lua_createtable(L, 0, 2);
    lua_pushinteger(L, code);
    lua_setfield(L, -2, "code");
    lua_pushliteral(L, "");
    lua_setfield(L, -2, "message");
    return lua_error(L);
}

/* print(...): a line to the host. */
static int script_print(lua_State *L) {
    const pf_script *s = lua_touserdata(L, lua_upvalueindex(1));
    const int n = lua_gettop(L);
    luaL_Buffer line;
    luaL_buffinit(L, &line);
    for (int i = 1; i <= n; i++) {
        if (i > 1) luaL_addchar(&line, '\t');
        luaL_tolstring(L, i, NULL);
        luaL_addvalue(&line);
    }
    luaL_pushresult(&line);
    size_t bytes;
    const char *text = lua_tolstring(L, -1, &bytes);
    lpf_enter(L);
    s->print(s->print_context, text, bytes);
    return 0;
}

static void replace(lua_State *L, pf_script *s) {
    if (s->print) {
        lua_pushlightuserdata(L, s);
        lua_pushcclosure(L, script_print, 1);
        lua_setglobal(L, "print");
    }
    lua_getglobal(L, "os");
    lua_pushcfunction(L, script_exit);
    lua_setfield(L, -2, "exit");
    lua_pop(L, 1);
}

/* ---- opening ------------------------------------------------------------------ */

/* performer as `require` gives it, also where scripts have no require. */
static int require_performer(lua_State *L) {
    lua_pushvalue(L, lua_upvalueindex(1));
    lua_pushliteral(L, "performer");
    lua_call(L, 1, 1);
    return 1;
}

static int open_body(lua_State *L) {
    pf_script *s = lua_touserdata(L, 1);
    luaL_openlibs(L);
    replace(L, s);
    lua_getglobal(L, "require");
    lua_pushcclosure(L, require_performer, 1);
    lua_setfield(L, LUA_REGISTRYINDEX, "performer.require");
    return 0;
}

/* The classes that values are of have to be there before the first value. */
static int core_body(lua_State *L) {
    pf_script *s = lua_touserdata(L, 1);
    luaL_requiref(L, "performer.core", luaopen_performer_core, false);
    s->context = lpf_enter(L);
    lua_pushglobaltable(L);
    s->environment = luaL_ref(L, LUA_REGISTRYINDEX);
    return 0;
}

static int protected(lua_State *L, lua_CFunction body, pf_script *s) {
    lua_pushcfunction(L, body);
    lua_pushlightuserdata(L, s);
    return lua_pcall(L, 1, 0, 0);
}

static int open_state(pf_script *s, const char *given_dir) {
    char dir[LPF_PATH], scripts[LPF_PATH];
    lpf_places places = {.lua_dir = given_dir};
    if (!given_dir && lpf_find_own_files(dir, scripts))
        places = (lpf_places){.lua_dir = dir, .scripts = scripts};
    s->L = luaL_newstate();
    if (!s->L) return lpf_script_refuse(PF_ENOMEM, "script: out of memory");
    int status = protected(s->L, open_body, s);
    if (status == LUA_OK) status = lpf_host_bind(s->L, s->engine, &places);
    if (status == LUA_OK) status = protected(s->L, core_body, s);
    return status == LUA_OK ? PF_OK : lpf_script_thrown(s->L, status);
}

int pf_script_open(pf_script **script, pf_engine *engine, const pf_script_options *options) {
    pf_script_options own = {.size = sizeof own};
    lpf_script_quiet();
    LPF_NEED(script);
    *script = NULL;
    LPF_NEED(engine);
    if (pf_engine_closed(engine))
        return lpf_script_refuse(PF_ESTATE, "pf_script_open: its engine has closed");
    int status = pf_options_take(&own, sizeof own, options, "pf_script_open");
    if (status < 0) return lpf_script_refuse(status, "%s", pf_last_error());
    pf_script *s = calloc(1, sizeof *s);
    if (!s) return lpf_script_refuse(PF_ENOMEM, "script: out of memory");
    s->engine = pf_engine_retain(engine);
    s->print = own.print, s->print_context = own.print_context;
    snprintf(s->name, sizeof s->name, "%s", own.name ? own.name : "script");
    status = open_state(s, own.lua_dir);
    if (status < 0)
        lpf_script_drop(s);
    else
        *script = s;
    return status;
}

void pf_script_close(pf_script **script) {
    if (!script || !*script) return;
    pf_script *s = *script;
    *script = NULL;
    lpf_script_drop(s);
}

pf_engine *pf_script_engine(const pf_script *script) { return script ? script->engine : NULL; }

/* ---- loading ------------------------------------------------------------------ */

typedef struct {
    pf_script *script;
    const char *name, *text; /* of a chunk in memory */
    size_t bytes;
    const char *path; /* of one in a file */
    int argc;
    const char *const *argv; /* its `...` */
    int failed;              /* LUA_OK, or how compiling ended */
} load_job;

/* Where `require` looks in place of the current folder, the first chunk says. */
static void place(lua_State *L, pf_script *s, const char *path) {
    if (!s->placed) lpf_host_folder(L, path ? path : "/");
    s->placed = true;
}

static int load_body(lua_State *L) {
    load_job *job = lua_touserdata(L, 1);
    place(L, job->script, job->path);
    if (job->path) {
        job->failed = luaL_loadfilex(L, job->path, "t");
    } else {
        const char *name = lua_pushfstring(L, "=%s", job->name);
        job->failed = luaL_loadbufferx(L, job->text, job->bytes, name, "t");
    }
    if (job->failed != LUA_OK) return lua_error(L);
    lua_rawgeti(L, LUA_REGISTRYINDEX, job->script->environment);
    lua_setupvalue(L, -2, 1);
    luaL_checkstack(L, job->argc + 8, "too many arguments");
    for (int i = 0; i < job->argc; i++) lua_pushstring(L, job->argv[i]);
    lua_call(L, job->argc, 0);
    return 0;
}

/* What does not compile is a matter of its text's form. */
static int load(load_job *job, const char *where) {
    int status = lpf_script_enter(job->script, where, load_body, job);
    if (status < 0 && job->failed == LUA_ERRSYNTAX)
        status = lpf_script_refuse(PF_EFORMAT, "%s", pf_script_error());
    return status;
}

int pf_script_load(pf_script *script, const char *name, const char *text, size_t bytes) {
    lpf_script_quiet();
    LPF_NEED(script);
    LPF_NEED(name);
    LPF_NEED(text);
    load_job job = {.script = script, .name = name, .text = text, .bytes = bytes};
    return load(&job, __func__);
}

static int readable(const char *path) {
    if (access(path, R_OK) == 0) return PF_OK;
    return lpf_script_refuse(errno == EIO ? PF_EIO : PF_ENOTFOUND, "script: cannot read %s: %s",
                             path, strerror(errno));
}

int pf_script_load_file(pf_script *script, const char *path) {
    lpf_script_quiet();
    LPF_NEED(script);
    LPF_NEED(path);
    const int status = readable(path);
    load_job job = {.script = script, .path = path};
    return status < 0 ? status : load(&job, __func__);
}

/* ---- a script in one call ------------------------------------------------------ */

static int arguments_body(lua_State *L) {
    const load_job *job = lua_touserdata(L, 1);
    lpf_host_arguments(L, job->path, "performer", job->argc, job->argv);
    return 0;
}

int pf_script_run(pf_engine *engine, const char *path, int argc, const char *const *argv) {
    pf_script *script = NULL;
    lpf_script_quiet();
    LPF_NEED(engine);
    LPF_NEED(path);
    if (argc < 0) return lpf_script_refuse(PF_EINVAL, "pf_script_run: argc is negative");
    if (argc > 0) LPF_NEED(argv);
    if (pf_engine_closed(engine))
        return lpf_script_refuse(PF_ESTATE, "pf_script_run: its engine has closed");
    int status = readable(path);
    if (status >= 0) status = pf_script_open(&script, engine, NULL);
    if (status < 0) return status;
    load_job job = {.script = script, .path = path, .argc = argc, .argv = argv};
    status = lpf_script_enter(script, __func__, arguments_body, &job);
    if (status >= 0) status = load(&job, __func__);
    pf_script_close(&script); /* what is collected now may fail in turn */
    return status < 0 ? lpf_script_refuse(status, "%s", pf_script_error()) : status;
}
