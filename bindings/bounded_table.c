/*
 * bounded_table.c - Lua's table library, paying for every element that it touches: a range may be
 * as long as numbers go, and what an element is read and written by, functions in C. Same results
 * and complaints as Lua 5.4's own.
 */
#include "bounded_libraries.h"

#include <limits.h>

#include "bounded.h"

enum { READ = 1, WRITE = 2, LENGTH = 4 };

static bool has(lua_State *L, const char *event) {
    lua_pushstring(L, event);
    return lua_rawget(L, -2) != LUA_TNIL;
}

/* A table, or what does as one by its metatable. */
static void check(lua_State *L, int index, int what) {
    if (lua_type(L, index) == LUA_TTABLE) return;
    const int top = lua_gettop(L);
    const bool will_do = lua_getmetatable(L, index) && (!(what & READ) || has(L, "__index")) &&
                         (lua_settop(L, top + 1), !(what & WRITE) || has(L, "__newindex")) &&
                         (lua_settop(L, top + 1), !(what & LENGTH) || has(L, "__len"));
    lua_settop(L, top);
    if (!will_do) luaL_checktype(L, index, LUA_TTABLE);
}

static lua_Integer length(lua_State *L, int index, int what) {
    check(L, index, what | LENGTH);
    return luaL_len(L, index);
}

/* Copies t[from] to u[to], which are at these indices. */
static void copy(lua_State *L, int t, lua_Integer from, int u, lua_Integer to) {
    bounded_charge(L, 1);
    lua_geti(L, t, from);
    lua_seti(L, u, to);
}

/* ---- insert, remove, move ----------------------------------------------------- */

static int table_insert(lua_State *L) {
    lua_Integer end = (lua_Integer)((lua_Unsigned)length(L, 1, READ | WRITE) + 1), at = end;
    switch (lua_gettop(L)) {
    case 2:
        break;
    case 3:
        at = luaL_checkinteger(L, 2);
        luaL_argcheck(L, (lua_Unsigned)at - 1u < (lua_Unsigned)end, 2, "position out of bounds");
        for (lua_Integer i = end; i > at; i--) copy(L, 1, i - 1, 1, i);
        break;
    default:
        return luaL_error(L, "wrong number of arguments to 'insert'");
    }
    lua_seti(L, 1, at);
    return 0;
}

static int table_remove(lua_State *L) {
    const lua_Integer n = length(L, 1, READ | WRITE);
    lua_Integer at = luaL_optinteger(L, 2, n);
    if (at != n)
        luaL_argcheck(L, (lua_Unsigned)at - 1u <= (lua_Unsigned)n, 2, "position out of bounds");
    lua_geti(L, 1, at);
    for (; at < n; at++) copy(L, 1, at + 1, 1, at);
    lua_pushnil(L);
    lua_seti(L, 1, at);
    return 1;
}

static int table_move(lua_State *L) {
    const lua_Integer first = luaL_checkinteger(L, 2), last = luaL_checkinteger(L, 3),
                      to = luaL_checkinteger(L, 4);
    const int target = lua_isnoneornil(L, 5) ? 1 : 5;
    check(L, 1, READ);
    check(L, target, WRITE);
    if (last >= first) {
        luaL_argcheck(L, first > 0 || last < LUA_MAXINTEGER + first, 3,
                      "too many elements to move");
        const lua_Integer n = last - first + 1;
        luaL_argcheck(L, to <= LUA_MAXINTEGER - n + 1, 4, "destination wrap around");
        if (to > last || to <= first || (target != 1 && !lua_compare(L, 1, target, LUA_OPEQ)))
            for (lua_Integer i = 0; i < n; i++) copy(L, 1, first + i, target, to + i);
        else
            for (lua_Integer i = n - 1; i >= 0; i--) copy(L, 1, first + i, target, to + i);
    }
    lua_pushvalue(L, target);
    return 1;
}

/* ---- concat, unpack, sort ----------------------------------------------------- */

static void add_field(lua_State *L, luaL_Buffer *b, lua_Integer i) {
    bounded_charge(L, 1);
    lua_geti(L, 1, i);
    if (!lua_isstring(L, -1))
        luaL_error(L, "invalid value (%s) at index %I in table for 'concat'", luaL_typename(L, -1),
                   (LUAI_UACINT)i);
    luaL_addvalue(b);
}

static int table_concat(lua_State *L) {
    lua_Integer last = length(L, 1, READ);
    size_t n;
    const char *between = luaL_optlstring(L, 2, "", &n);
    lua_Integer i = luaL_optinteger(L, 3, 1);
    last = luaL_optinteger(L, 4, last);
    luaL_Buffer b;
    luaL_buffinit(L, &b);
    for (; i < last; i++) {
        add_field(L, &b, i);
        luaL_addlstring(&b, between, n);
    }
    if (i == last) add_field(L, &b, i);
    luaL_pushresult(&b);
    return 1;
}

static int table_unpack(lua_State *L) {
    const lua_Integer first = luaL_optinteger(L, 2, 1);
    const lua_Integer last = luaL_opt(L, luaL_checkinteger, 3, luaL_len(L, 1));
    if (first > last) return 0;
    const lua_Unsigned n = (lua_Unsigned)last - (lua_Unsigned)first;
    if (n >= (unsigned)bounded_values(L) || !lua_checkstack(L, (int)n + 1))
        return luaL_error(L, "too many results to unpack");
    for (lua_Integer i = first;; i++) {
        bounded_charge(L, 1);
        lua_geti(L, 1, i);
        if (i == last) return (int)n + 1;
    }
}

/* The order that was given, or Lua's own. */
static int compare(lua_State *L) {
    const bool texts = lua_type(L, 1) == LUA_TSTRING && lua_type(L, 2) == LUA_TSTRING;
    bounded_charge(L, 1 + (texts ? (lua_rawlen(L, 1) + lua_rawlen(L, 2)) / BOUNDED_BYTES : 0));
    if (lua_isnil(L, lua_upvalueindex(1))) {
        lua_pushboolean(L, lua_compare(L, 1, 2, LUA_OPLT));
        return 1;
    }
    lua_settop(L, 2);
    lua_pushvalue(L, lua_upvalueindex(1));
    lua_insert(L, 1);
    lua_call(L, 2, 1);
    return 1;
}

/* Lua's own, whose every comparison is paid for; it complains of an order that is no function. */
static int table_sort(lua_State *L) {
    if (lua_isnoneornil(L, 2) || lua_isfunction(L, 2)) {
        if (lua_gettop(L) == 0) return bounded_stock(L);
        lua_settop(L, 2);
        lua_pushcclosure(L, compare, 1);
    }
    return bounded_stock(L);
}

const luaL_Reg bounded_table[] = {{"insert", table_insert},
                                  {"remove", table_remove},
                                  {"move", table_move},
                                  {"concat", table_concat},
                                  {"unpack", table_unpack},
                                  {"sort", table_sort},
                                  {NULL, NULL}};
