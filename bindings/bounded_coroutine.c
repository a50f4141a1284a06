/*
 * bounded_coroutine.c - Lua's coroutines, of which the bounded knows which one runs: an
 * allocation in it may have to stop it. A coroutine begins with hooks, as it has the one that made
 * it; one that a limit ended is left as it is, for its __close functions would run without.
 */
#include "bounded_libraries.h"

#include "bounded.h"

enum {
    CLOSINGS = 8 /* one in the other: Lua doesn't count the C stack that each of them takes */
};

static lua_State *check_coroutine(lua_State *L) {
    lua_State *co = lua_tothread(L, 1);
    luaL_argexpected(L, co, 1, "thread");
    return co;
}

/* How many results are on top, or -1 and what was thrown. */
static int resume(lua_State *L, lua_State *co, int n) {
    bounded *b = bounded_of(L);
    bounded_charge(L, 1);
    if (!lua_checkstack(co, n)) {
        lua_pushliteral(L, "too many arguments to resume");
        return -1;
    }
    lua_xmove(L, co, n);
    bounded_run(b, co);
    const int status = lua_resume(co, L, n, &n);
    bounded_run(b, L);
    if (status != LUA_OK && status != LUA_YIELD) {
        lua_xmove(co, L, 1);
        return -1;
    }
    if (lua_checkstack(L, n + 1)) {
        lua_xmove(co, L, n);
        return n;
    }
    lua_pop(co, n);
    lua_pushliteral(L, "too many results to resume");
    return -1;
}

static int coroutine_resume(lua_State *L) {
    lua_State *co = check_coroutine(L);
    const int n = resume(L, co, lua_gettop(L) - 1);
    lua_pushboolean(L, n >= 0);
    lua_insert(L, n >= 0 ? -(n + 1) : -2);
    return n >= 0 ? n + 1 : 2;
}

/* Runs its pending __close functions; the status, with what was thrown on top of co. */
static int close_it(lua_State *L, lua_State *co) {
    bounded *b = bounded_of(L);
    bounded_charge(L, 1); /* raises when over */
    if (!bounded_close_begin(b, CLOSINGS)) luaL_error(L, "C stack overflow");
    bounded_run(b, co);
    const int status = lua_resetthread(co);
    bounded_run(b, L);
    bounded_close_end(b);
    return status;
}

static int wrapped(lua_State *L) {
    lua_State *co = lua_tothread(L, lua_upvalueindex(1));
    const int n = resume(L, co, lua_gettop(L));
    if (n >= 0) return n;
    int status = lua_status(co);
    if (status != LUA_OK && status != LUA_YIELD) {
        status = close_it(L, co);
        lua_xmove(co, L, 1);
    }
    if (status != LUA_ERRMEM && lua_type(L, -1) == LUA_TSTRING) {
        luaL_where(L, 1);
        lua_insert(L, -2);
        lua_concat(L, 2);
    }
    return lua_error(L);
}

static int coroutine_create(lua_State *L) {
    luaL_checktype(L, 1, LUA_TFUNCTION);
    bounded_charge(L, BOUNDED_PACE); /* what it may run before its hook is called */
    lua_State *co = lua_newthread(L);
    lua_pushvalue(L, 1);
    lua_xmove(L, co, 1);
    return 1;
}

static int coroutine_wrap(lua_State *L) {
    coroutine_create(L);
    lua_pushcclosure(L, wrapped, 1);
    return 1;
}

/* Of one that is suspended or dead; Lua's own complains of the others. */
static int coroutine_close(lua_State *L) {
    lua_State *co = check_coroutine(L);
    lua_Debug ar;
    const int status = lua_status(co);
    const bool suspended =
        status == LUA_YIELD || (status == LUA_OK && L != co && !lua_getstack(co, 0, &ar));
    if (!suspended && (status == LUA_OK || status == LUA_YIELD)) return bounded_stock(L);
    if (close_it(L, co) == LUA_OK) {
        lua_pushboolean(L, 1);
        return 1;
    }
    lua_pushboolean(L, 0);
    lua_xmove(co, L, 1);
    return 2;
}

const luaL_Reg bounded_coroutine[] = {{"create", coroutine_create},
                                      {"wrap", coroutine_wrap},
                                      {"resume", coroutine_resume},
                                      {"close", coroutine_close},
                                      {NULL, NULL}};
