/*
 * script.c - opening and closing scripts, and loading chunks into them.
 *
 * A script has the standard libraries, but what would reach past it into the host's process is
 * another function: os.exit ends the script, not the host, and print may go to the host.
 */
#include <stdio.h>
#include <string.h>

#include <lualib.h>

#include "host.h"
#include "sandbox.h"
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

/* print(...): a line to the host, who may not want it. */
static int script_print(lua_State *L) {
    const pf_script *s = lua_touserdata(L, lua_upvalueindex(1));
    const int n = lua_gettop(L);
    luaL_Buffer line;
    if (!s->print) return 0;
    luaL_buffinit(L, &line);
    for (int i = 1; i <= n; i++) {
        if (i > 1) luaL_addchar(&line, '\t');
        luaL_tolstring(L, i, NULL);
        luaL_addvalue(&line);
    }
    luaL_pushresult(&line);
    size_t bytes;
    const char *text = lua_tolstring(L, -1, &bytes);
    lpf_context *ctx = lpf_enter(L);
    lpf_locale_hosts(ctx, true);
    s->print(s->print_context, text, bytes);
    lpf_locale_hosts(ctx, false);
    return 0;
}

static void replace(lua_State *L, pf_script *s) {
    if (s->print || s->sandbox) {
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
    lua_pushcfunction(L, bounded_libraries);
    lua_call(L, 0, 0);
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
    s->context->hosted = true;
    s->context->meter = s->meter;
    lua_pushglobaltable(L);
    s->environment = luaL_ref(L, LUA_REGISTRYINDEX);
    return 0;
}

typedef struct {
    pf_script *script;
    const char *libraries;
} sandbox_job;

/* In the place of its globals, a table of what a stranger may name. */
static int sandbox_body(lua_State *L) {
    const sandbox_job *job = lua_touserdata(L, 1);
    lua_pushcfunction(L, sandbox_environment);
    lua_getfield(L, LUA_REGISTRYINDEX, "performer.require");
    lua_call(L, 0, 1);
    lua_pushstring(L, job->libraries);
    lua_call(L, 2, 1);
    luaL_unref(L, LUA_REGISTRYINDEX, job->script->environment);
    job->script->environment = luaL_ref(L, LUA_REGISTRYINDEX);
    lua_pushnil(L); /* it is there */
    lua_setfield(L, LUA_REGISTRYINDEX, "performer.require");
    return 0;
}

static int protected(lua_State *L, lua_CFunction body, void *job) {
    lua_pushcfunction(L, body);
    lua_pushlightuserdata(L, job);
    return lua_pcall(L, 1, 0, 0);
}

/* Its libraries, performer, and what its chunks may name of them. */
static int furnish(pf_script *s, const pf_script_options *options) {
    char dir[LPF_PATH], scripts[LPF_PATH];
    lpf_places places = {.lua_dir = options->lua_dir};
    if (!options->lua_dir && lpf_find_own_files(dir, scripts))
        places = (lpf_places){.lua_dir = dir, .scripts = scripts};
    int status = protected(s->L, open_body, s);
    if (status == LUA_OK) status = lpf_host_bind(s->L, s->engine, &places);
    if (status == LUA_OK && !places.lua_dir) status = protected(s->L, lpf_script_find_files, s);
    if (status == LUA_OK) status = protected(s->L, core_body, s);
    sandbox_job job = {s, options->libraries};
    if (status == LUA_OK && s->sandbox) status = protected(s->L, sandbox_body, &job);
    return lpf_script_ended(s->bounded, status == LUA_OK ? PF_OK : lpf_script_thrown(s->L, status));
}

/* What a stranger draws, seeds and names is nobody else's. */
static int set_apart(pf_script *s) {
    const int status = pf_random_open(&s->random, s->engine);
    if (status < 0) return lpf_script_refuse(status, "%s", pf_last_error());
    s->context->plain = newlocale(LC_ALL_MASK, "C", (locale_t)0);
    if (!s->context->plain) return lpf_script_refuse(PF_ENOMEM, "script: out of memory");
    s->context->random = s->random;
    s->context->stranger = true;
    return PF_OK;
}

static int open_state(pf_script *s, const pf_script_options *options) {
    const bool firm = options->limits && options->limits->bytes > 0;
    const unsigned flags = s->sandbox ? BOUNDED_STRANGER : firm ? BOUNDED_FIRM : 0;
    int status = bounded_open(&s->bounded, s->engine, s->meter, flags);
    if (status < 0) return lpf_script_refuse(status, "script: out of memory");
    s->L = lua_newstate(bounded_resize, s->bounded);
    if (!s->L) return lpf_script_refuse(PF_ENOMEM, "script: out of memory");
    status = bounded_watch(s->L, s->bounded);
    if (status < 0) return lpf_script_refuse(status, "script: out of memory");
    status = furnish(s, options);
    if (status < 0) return status;
    s->context->files = options->files || !s->sandbox ? options->files : sandbox_files();
    if (s->sandbox) status = set_apart(s);
    if (status < 0 || !options->limits) return status;
    s->bytes = options->limits->bytes;
    return pf_meter_limit(s->meter, options->limits); /* its work begins here */
}

/* Lua, its libraries and performer's take so much, and what finds no room is told so. */
enum { OPENING = 900000 };

static int tell_bytes(int status, const pf_script_options *options) {
    const size_t bytes = options->limits ? options->limits->bytes : 0;
    if (status != PF_ENOMEM || bytes == 0 || bytes > (size_t)2 * OPENING) return status;
    return lpf_script_refuse(
        status,
        "pf_script_open: limits.bytes is %zu, and opening a script takes about "
        "%d of them",
        bytes, OPENING);
}

/* It lies in memory that its own meter pays for. */
static int new_script(pf_script **script, pf_engine *engine, const pf_limits *limits) {
    pf_meter *meter = NULL;
    int status = pf_meter_open(&meter, engine, limits);
    if (status < 0) return lpf_script_refuse(status, "%s", pf_last_error());
    pf_script *s = pf_meter_resize(meter, NULL, 0, sizeof *s);
    if (!s) {
        pf_meter_close(&meter);
        return lpf_script_refuse(PF_ENOMEM, "script: out of memory");
    }
    memset(s, 0, sizeof *s);
    s->meter = meter;
    s->engine = pf_engine_retain(engine);
    *script = s;
    return PF_OK;
}

int pf_script_open(pf_script **script, pf_engine *engine, const pf_script_options *options) {
    pf_script_options own = {.size = sizeof own};
    pf_limits limits = {.size = sizeof limits};
    pf_script *s = NULL;
    lpf_script_quiet();
    LPF_NEED(script);
    *script = NULL;
    LPF_NEED(engine);
    if (pf_engine_closed(engine))
        return lpf_script_refuse(PF_ESTATE, "pf_script_open: its engine has closed");
    int status = pf_options_take(&own, sizeof own, options, "pf_script_open");
    if (status >= 0) status = pf_options_take(&limits, sizeof limits, own.limits, "pf_script_open");
    if (status < 0) return lpf_script_refuse(status, "%s", pf_last_error());
    if (own.libraries && !own.sandbox)
        return lpf_script_refuse(PF_EINVAL, "pf_script_open: libraries are chosen for a sandbox");
    if (own.limits) own.limits = &limits;
    status = lpf_script_check_dir("pf_script_open", own.lua_dir);
    if (status < 0) return status;
    status = new_script(&s, engine, own.limits);
    if (!s) return tell_bytes(status, &own);
    s->sandbox = own.sandbox;
    s->print = own.print, s->print_context = own.print_context;
    snprintf(s->name, sizeof s->name, "%s", own.name ? own.name : "script");
    status = open_state(s, &own);
    if (status < 0)
        lpf_script_drop(s);
    else
        *script = s;
    return tell_bytes(status, &own);
}

void pf_script_close(pf_script **script) {
    if (!script || !*script) return;
    pf_script *s = *script;
    *script = NULL;
    lpf_script_drop(s);
}

int pf_script_limit(pf_script *script, const pf_limits *limits) {
    pf_limits own = {.size = sizeof own};
    lpf_script_quiet();
    LPF_NEED(script);
    int status = pf_options_take(&own, sizeof own, limits, __func__);
    if (status >= 0) status = pf_meter_limit(script->meter, limits ? &own : NULL);
    if (status < 0) return lpf_script_refuse(status, "%s", pf_last_error());
    script->bytes = own.bytes;
    script->set++;
    bounded_firm(script->bounded, own.bytes > 0);
    return PF_OK;
}

int pf_script_usage(const pf_script *script, pf_usage *usage) {
    lpf_script_quiet();
    LPF_NEED(script);
    LPF_NEED(usage);
    const int status = pf_meter_usage(script->meter, usage);
    return status < 0 ? lpf_script_refuse(status, "%s", pf_last_error()) : status;
}

pf_engine *pf_script_engine(const pf_script *script) { return script ? script->engine : NULL; }

/* ---- loading ------------------------------------------------------------------ */

typedef struct {
    pf_script *script;
    const char *name, *text;
    size_t bytes;
    const char *path; /* of a file; NULL: a chunk in memory */
    int argc;
    const char *const *argv; /* its `...` */
    int failed;              /* LUA_OK, or how compiling ended */
    bool ran;                /* it has compiled */
} load_job;

/* Where `require` looks in place of the current folder, the first chunk says. */
static void place(lua_State *L, pf_script *s, const char *path) {
    if (!s->placed) lpf_host_folder(L, path ? path : "/");
    s->placed = true;
}

/* What `#!` begins is the system's, and a byte order mark nobody's. */
static size_t skip_first(const char *text, size_t bytes) {
    size_t at = bytes >= 3 && memcmp(text, "\xEF\xBB\xBF", 3) == 0 ? 3 : 0;
    if (at < bytes && text[at] == '#')
        while (at < bytes && text[at] != '\n') at++; /* the line's end stays, for the numbers */
    return at;
}

static int compile(lua_State *L, const load_job *job) {
    const char *name = lua_pushfstring(L, job->path ? "@%s" : "=%s", job->name);
    const size_t from = job->path ? skip_first(job->text, job->bytes) : 0;
    return sandbox_compile(L, job->text + from, job->bytes - from, name);
}

static int load_body(lua_State *L) {
    load_job *job = lua_touserdata(L, 1);
    place(L, job->script, job->path);
    job->failed = compile(L, job);
    if (job->failed != LUA_OK) return lua_error(L);
    job->ran = true;
    lua_rawgeti(L, LUA_REGISTRYINDEX, job->script->environment);
    lua_setupvalue(L, -2, 1);
    luaL_checkstack(L, job->argc + 8, "too many arguments");
    for (int i = 0; i < job->argc; i++) lua_pushstring(L, job->argv[i]);
    lua_call(L, job->argc, 0);
    return 0;
}

/* What does not compile is a matter of its text's form. */
static int load(load_job *job, const char *where) {
    int status = lpf_script_enter(job->script, where, load_body, job, NULL);
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

/* Through the engine's access to files, into memory that the script pays for; before it is entered,
 * for a stranger's script has no access of its own. */
static int load_file(load_job *job, const char *where) {
    pf_script *s = job->script;
    int64_t bytes = 0;
    if (s->closing || pf_engine_closed(s->engine)) return load(job, where); /* which says so */
    int status = pf_file_size(s->engine, job->path, &bytes);
    if (status < 0) return lpf_script_refuse(status, "%s", pf_last_error());
    const size_t room = (size_t)bytes + 1;
    char *text = pf_meter_resize(s->meter, NULL, 0, room);
    if (!text) return lpf_script_refuse(PF_ENOMEM, "script: no room for %s", job->path);
    status = pf_file_read(s->engine, job->path, 0, text, (size_t)bytes);
    job->name = job->path, job->text = text, job->bytes = (size_t)bytes;
    s->held++;
    status = status < 0 ? lpf_script_refuse(status, "%s", pf_last_error()) : load(job, where);
    pf_meter_resize(s->meter, text, room, 0);
    s->held--;
    if (s->closing) lpf_script_drop(s);
    return status;
}

int pf_script_load_file(pf_script *script, const char *path) {
    lpf_script_quiet();
    LPF_NEED(script);
    LPF_NEED(path);
    load_job job = {.script = script, .path = path};
    return load_file(&job, __func__);
}

/* ---- a script in one call ------------------------------------------------------ */

typedef struct {
    const load_job *file;
    const char *program;
} arguments_job;

static int arguments_body(lua_State *L) {
    const arguments_job *job = lua_touserdata(L, 1);
    const load_job *file = job->file;
    lua_rawgeti(L, LUA_REGISTRYINDEX, file->script->environment);
    lpf_host_arguments(L, file->path, job->program, file->argc, file->argv);
    lua_setfield(L, -2, "arg");
    return 0;
}

int lpf_script_run_file(pf_script *script, const char *path, const char *program, int argc,
                        const char *const *argv, bool *ran) {
    load_job file = {.script = script, .path = path, .argc = argc, .argv = argv};
    arguments_job arguments = {&file, program};
    int status = lpf_script_enter(script, __func__, arguments_body, &arguments, NULL);
    if (status >= 0) status = load_file(&file, __func__);
    if (ran) *ran = file.ran;
    return status;
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
    int status = pf_script_open(&script, engine, NULL);
    if (status < 0) return status;
    status = lpf_script_run_file(script, path, "performer", argc, argv, NULL);
    pf_script_close(&script); /* what is collected now may fail in turn */
    return status < 0 ? lpf_script_refuse(status, "%s", pf_script_error()) : status;
}
