/*
 * start.c - see start.h.
 */
#include "start.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <lauxlib.h>
#include <lualib.h>

#include "console.h"
#include "coroutines.h"
#include "lpf.h"
#include "process.h"
#include "run.h"

/* ---- what failed ---------------------------------------------------------------- */

/* Says what was thrown, which is on top, and gives the exit code. */
static int report(lua_State *L, int status) {
    char text[LPF_THROWN];
    const int stopped = lua_istable(L, -1) ? 0 : process_stopped();
    if (stopped) return stopped;
    bool chosen = false;
    int code = lpf_host_thrown(L, text, &chosen);
    if (!chosen) code = lpf_end_of_ranks(L, text, code);
    lpf_plain(text, true);
    if (text[0]) fprintf(stderr, "performer: %s\n", text);
    return status == LUA_ERRFILE ? MISUSE : code;
}

/* PF_CPU is the user's word as an option is: one that no engine opens with is misuse. */
static bool check_environment(void) {
    if (!getenv("PF_CPU")) return true;
    pf_engine *engine = NULL;
    pf_options options = PF_OPTIONS_DEFAULT;
    options.threads = 1;
    const int status = pf_engine_open(&engine, &options);
    pf_engine_close(&engine);
    if (status >= 0) return true;
    fprintf(stderr, "performer: %s\n", pf_last_error());
    return false;
}

static int find_advice(lua_State *L) {
    lua_getglobal(L, "require");
    lua_pushliteral(L, "performer.repl.hints");
    lua_call(L, 1, 1);
    lua_getfield(L, -1, "of_script");
    lua_pushvalue(L, 1);
    lua_pushvalue(L, 2);
    lua_call(L, 2, 1);
    return 1;
}

/* The text on top, of what Lua couldn't run, with what may have been meant; as it is where that is
 * not known. source: the script, where no file has it, or NULL. */
static void advise(lua_State *L, const char *source) {
    const char *text = lua_type(L, -1) == LUA_TSTRING ? lua_tostring(L, -1) : "";
    if (!strstr(text, "attempt to ") && !strstr(text, " near ") && !strstr(text, " not found:") &&
        !strstr(text, "number expected, got "))
        return;
    lua_pushcfunction(L, find_advice);
    lua_pushvalue(L, -2);
    lua_pushstring(L, source);
    if (lua_pcall(L, 2, 1, 0) == LUA_OK && lua_isstring(L, -1))
        lua_replace(L, -2);
    else
        lua_pop(L, 1);
}

/* A text gets advice and a traceback; anything else that was thrown stays what it is. */
static int traceback(lua_State *L) {
    if (!lua_isstring(L, 1)) return 1;
    lua_settop(L, 1);
    advise(L, lua_tostring(L, lua_upvalueindex(1)));
    lpf_host_trace(L);
    if (lua_rawlen(L, 2) > 0) lua_pushliteral(L, "\n"), lua_insert(L, 2);
    lua_concat(L, lua_gettop(L));
    return 1;
}

/* ---- pieces ---------------------------------------------------------------------- */

static int prepare(lua_State *L) {
    const start_request *request = lua_touserdata(L, 1);
    luaL_requiref(L, "performer.run", luaopen_performer_run, 0);
    luaL_requiref(L, "performer.leave", luaopen_performer_leave, 0);
    lpf_open_coroutines(L);
    if (request->prompt) process_listen(L);
    const char *file = request->file ? request->file : request->program;
    lpf_host_arguments(L, file, request->program, request->argc,
                       (const char *const *)request->argv);
    lua_setglobal(L, "arg");
    return 0;
}

/* pf and nn, as a prompt has them: what one writes there should not begin with `require`. */
static int bind_names(lua_State *L) {
    lua_getglobal(L, "require");
    lua_pushliteral(L, "performer");
    lua_call(L, 1, 1);
    lua_getfield(L, -1, "nn");
    lua_setglobal(L, "nn");
    lua_setglobal(L, "pf");
    return 0;
}

static int run_code(lua_State *L) {
    const char *code = lua_touserdata(L, 1);
    if (luaL_loadbuffer(L, code, strlen(code), "=(command line)") != LUA_OK) return lua_error(L);
    lua_call(L, 0, 0);
    return 0;
}

/* Runs a piece that may have arguments, from a body that has them on its stack. */
static int call(lua_State *L, lua_CFunction body, const void *argument, bool prompt) {
    const int base = lua_gettop(L) + 1;
    lua_pushstring(L, body == run_code ? argument : NULL);
    lua_pushcclosure(L, traceback, 1);
    lua_pushcfunction(L, body);
    lua_pushlightuserdata(L, (void *)argument);
    const int status = prompt ? process_call(L, 1, 0, base) : lua_pcall(L, 1, 0, base);
    lua_remove(L, base);
    return status == LUA_OK ? DONE : report(L, status);
}

/* The script's own words, behind the chunk that gets them. */
static void push_words(lua_State *L, const start_request *request) {
    luaL_checkstack(L, request->argc + 8, "too many arguments");
    for (int i = 0; i < request->argc; i++) lua_pushstring(L, request->argv[i]);
}

static int run_input(lua_State *L) {
    const start_request *request = lua_touserdata(L, 1);
    if (luaL_loadfile(L, NULL) != LUA_OK) return lua_error(L);
    push_words(L, request);
    lua_call(L, request->argc, 0);
    return 0;
}

typedef struct {
    const start_request *request;
    int load_status;
} script;

static int load_file(lua_State *L) {
    script *s = lua_touserdata(L, 1);
    lpf_host_folder(L, s->request->file);
    s->load_status = luaL_loadfile(L, s->request->file);
    return s->load_status == LUA_OK ? 1 : lua_error(L);
}

/* The loaded chunk, with the arguments. */
static int run_loaded(lua_State *L) {
    const script *s = lua_touserdata(L, 1);
    push_words(L, s->request);
    lua_call(L, s->request->argc, 0);
    return 0;
}

/* `require` looks in the file's folder where Lua would in the current one. LUA_OK, or the status
 * with the error on top: a text with traceback, or what else was thrown, as it is. */
static int run_script(lua_State *L, const start_request *request) {
    script s = {request, LUA_OK};
    lua_pushcfunction(L, load_file); /* without a traceback: nothing has run */
    lua_pushlightuserdata(L, &s);
    int status = lua_pcall(L, 1, 1, 0);
    if (s.load_status == LUA_ERRSYNTAX) advise(L, NULL);
    if (status != LUA_OK) return s.load_status != LUA_OK ? s.load_status : status;
    const int base = lua_gettop(L);
    lua_pushnil(L);
    lua_pushcclosure(L, traceback, 1);
    lua_insert(L, base);
    lua_pushcfunction(L, run_loaded);
    lua_insert(L, base + 1);
    lua_pushlightuserdata(L, &s);
    lua_insert(L, base + 2);
    status = lua_pcall(L, 2, 0, base);
    lua_remove(L, base);
    return status;
}

typedef struct {
    const start_request *request;
    int code;
} file_job;

static int file_body(lua_State *L) {
    file_job *job = lua_touserdata(L, 1);
    const int status = run_script(L, job->request);
    job->code = status == LUA_OK ? DONE : report(L, status);
    return 0;
}

static int run_file(lua_State *L, const start_request *request) {
    if (strcmp(request->file, "-") == 0) return call(L, run_input, request, request->prompt);
    file_job job = {request, FAILED};
    const int code = call(L, file_body, &job, request->prompt);
    return code == DONE ? job.code : code;
}

/* performer/repl/ does it; the code that pf.exit gave there, or 0. */
static int run_prompt(lua_State *L) {
    int *code = lua_touserdata(L, 1);
    lua_getglobal(L, "require");
    lua_pushliteral(L, "performer.repl");
    lua_call(L, 1, 1);
    lua_getfield(L, -1, "run");
    luaL_requiref(L, "performer.console", luaopen_performer_console, 0);
    lua_call(L, 1, 1);
    *code = (int)luaL_optinteger(L, -1, DONE);
    return 0;
}

/* ---- all of it -------------------------------------------------------------------- */

static int prompt_after(lua_State *L) {
    int code = DONE;
    lua_pushcfunction(L, run_prompt);
    lua_pushlightuserdata(L, &code);
    const int status = lua_pcall(L, 1, 0, 0);
    return status == LUA_OK ? code : report(L, status);
}

static int run_all(lua_State *L, const start_request *request) {
    int code = call(L, prepare, request, false);
    if (code == DONE && (request->n_code > 0 || request->prompt))
        code = call(L, bind_names, NULL, false);
    if (code != DONE) return code;
    if (request->prompt) process_prompt();
    for (int i = 0; code == DONE && i < request->n_code; i++)
        code = call(L, run_code, request->code[i], request->prompt);
    if (code == DONE && request->file) code = run_file(L, request);
    return request->prompt && !process_ending() ? prompt_after(L) : code;
}

static int open_libraries(lua_State *L) {
    luaL_openlibs(L);
    return 0;
}

/* A state with the standard libraries, whose engine is opened at first use; NULL: out of memory. */
static lua_State *open_state(const lpf_places *places) {
    lua_State *L = luaL_newstate();
    if (!L) return NULL;
    lua_pushcfunction(L, open_libraries);
    if (lua_pcall(L, 0, 0, 0) == LUA_OK && lpf_host_bind(L, NULL, places) == LUA_OK) return L;
    lua_close(L);
    return NULL;
}

int start_run(const start_request *request, const lpf_places *places) {
    const char *file = request->file;
    if (file && strcmp(file, "-") != 0 && access(file, R_OK) != 0) {
        fprintf(stderr, "performer: can't read %s: %s\n", file, strerror(errno));
        return MISUSE;
    }
    if (!check_environment()) return MISUSE;
    lua_State *L = open_state(places);
    if (!L) {
        fprintf(stderr, "performer: out of memory\n");
        return FAILED;
    }
    process_watch(L);
    const int code = run_all(L, request);
    process_watch(NULL);
    lua_close(L);
    return code;
}
