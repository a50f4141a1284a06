/*
 * sandbox_advice.c - what a stranger's script is told that asks for what a sandbox has not: Lua
 * says "attempt to index a nil value (global 'io')", and nobody there knows what to do.
 */
#include "sandbox.h"

#include <stdio.h>
#include <string.h>

#include <lauxlib.h>

#include "bounded.h"

static const struct {
    const char *name, *advice;
} rows[] = {
    {"global 'io'", "no files and no streams: print a line, return a value, or call what the host "
                    "gives"},
    {"global 'debug'", "no debug library: error(text) tells what failed"},
    {"global 'package'", "no packages: one text, and performer"},
    {"global 'dofile'", "no files: load(text) compiles a text"},
    {"global 'loadfile'", "no files: load(text) compiles a text"},
    {"field 'execute'", "no processes"},
    {"field 'getenv'", "no environment: its host hands in what it is to know"},
    {"field 'exit'", "no end of its own: return from the chunk, or error(text)"},
    {"field 'remove'", "no files"},
    {"field 'rename'", "no files"},
    {"field 'tmpname'", "no files"},
    {"field 'dump'", "no bytecode: hand on the source text"},
};

/* Lua's own words for a nil that was called or indexed end with the name, in brackets. */
static const char *advice_for(const char *text, size_t n) {
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        char ending[40];
        const int m = snprintf(ending, sizeof ending, " a nil value (%s)", rows[i].name);
        const size_t bytes = (size_t)m;
        if (n > bytes && memcmp(text + n - bytes, ending, bytes) == 0) return rows[i].advice;
    }
    return NULL;
}

void sandbox_advise(lua_State *L) {
    size_t n;
    if (lua_type(L, -1) != LUA_TSTRING || !bounded_is_stranger(bounded_of(L))) return;
    const char *text = lua_tolstring(L, -1, &n), *advice = advice_for(text, n);
    if (!advice) return;
    lua_pushfstring(L, "%s; a sandboxed script has %s", text, advice);
    lua_replace(L, -2);
}
