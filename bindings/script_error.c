/*
 * script_error.c - what went wrong in a script, as a status and as a text with the traceback:
 * kept for the thread (pf_script_error), and said to pf_last_error.
 */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "host.h"
#include "sandbox.h"
#include "script.h"

static _Thread_local char script_error[LPF_THROWN];
static _Thread_local int script_exit = -1; /* the code that a script chose; -1: it chose none ... */
static _Thread_local bool exit_silent;     /* ... and no words */

static const char trace_key = 't'; /* registry: where the last error was raised, "", or false */

const char *pf_script_error(void) { return script_error; }

void lpf_script_quiet(void) {
    script_error[0] = 0;
    script_exit = -1;
}

int lpf_script_exit(const char **text) {
    if (script_exit >= 0) *text = exit_silent ? "" : script_error;
    return script_exit;
}

int lpf_script_refuse(int status, const char *format, ...) {
    char text[LPF_THROWN]; /* the arguments may be what stands */
    va_list args;
    va_start(args, format);
    if (vsnprintf(text, sizeof text, format, args) < 0) text[0] = 0;
    va_end(args);
    memcpy(script_error, text, sizeof text);
    script_exit = -1;
    return pf_set_error(status, script_error);
}

/* Where a limit was reached there is no time for it: the script's __close functions may raise it a
 * thousand times over. Nothing of the script's is called here, where no hook would stop it. */
int lpf_script_handler(lua_State *L) {
    if (bounded_over(bounded_of(L))) return 1;
    lpf_host_trace(L);
    lua_rawsetp(L, LUA_REGISTRYINDEX, &trace_key);
    lua_settop(L, 1);
    sandbox_advise(L);
    return 1;
}

/* Puts the traceback behind the text, and forgets it: its slot is there, that needs no memory. */
static void add_trace(lua_State *L) {
    const size_t used = strlen(script_error);
    const bool there = lua_rawgetp(L, LUA_REGISTRYINDEX, &trace_key) == LUA_TSTRING;
    if (there && lua_rawlen(L, -1) > 0)
        snprintf(script_error + used, sizeof script_error - used, "\n%s", lua_tostring(L, -1));
    lua_pop(L, 1);
    if (!there) return;
    lua_pushboolean(L, 0);
    lua_rawsetp(L, LUA_REGISTRYINDEX, &trace_key);
}

int lpf_script_thrown(lua_State *L, int lua_status) {
    bool chosen = false;
    int status = lua_status == LUA_ERRMEM ? PF_ENOMEM : lpf_status_of(L, -1);
    const int code = lpf_host_thrown(L, script_error, &chosen);
    script_exit = chosen ? code : -1;
    exit_silent = !script_error[0];
    if (chosen && code == 0 && !script_error[0]) return PF_OK;
    if (!script_error[0])
        snprintf(script_error, sizeof script_error, "the script ended itself with code %d", code);
    if (!chosen && lua_status != LUA_ERRMEM) add_trace(L);
    pf_set_error(status, script_error);
    return status;
}

int lpf_script_ended(bounded *b, int status) {
    const int over = bounded_over(b);
    if (over) status = lpf_script_refuse(over, "%s", bounded_why(b));
    bounded_forget(b); /* what is still over will be found so again */
    return status;
}
