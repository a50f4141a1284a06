/*
 * bounded_libraries.h - what the files of bounded_libraries.c share: the functions that stand in
 * the places of Lua's own. Each of them has the one that it replaces as its first upvalue.
 */
#ifndef BOUNDED_LIBRARIES_H
#define BOUNDED_LIBRARIES_H

#include <lauxlib.h>
#include <lua.h>

/* Goes on as the function that the running one stands for, with the arguments as they are. */
static inline int bounded_stock(lua_State *L) { return lua_tocfunction(L, lua_upvalueindex(1))(L); }

extern const luaL_Reg bounded_string[], bounded_utf8[], bounded_table[], bounded_coroutine[];

#endif
