/*
 * bounded_libraries.c - puts functions that pay for what they do in the places of Lua's. They keep
 * Lua's names in messages, for Lua names a function after the field that it was called by.
 */
#include "bounded_libraries.h"

#include <string.h>

#include "bounded.h"

/* ---- those that read their arguments whole ------------------------------------ */

static int counted(lua_State *L) {
    bounded_read(L);
    return bounded_stock(L);
}

static int formatted(lua_State *L) {
    bounded_format(L);
    bounded_read(L);
    return bounded_stock(L);
}

/* format(format, ...): what is quoted goes byte by byte. */
static int string_format(lua_State *L) {
    size_t n = 0, bytes = 0;
    const char *format = luaL_checklstring(L, 1, &n);
    for (int i = 2; i <= lua_gettop(L); i++)
        if (lua_type(L, i) == LUA_TSTRING) bytes += lua_rawlen(L, i);
    bounded_format(L);
    if (bytes > BOUNDED_QUOTED && memchr(format, 'q', n) && bounded_is_stranger(bounded_of(L)))
        luaL_error(L, "texts of more than 1 MB beside a %%q in a sandbox");
    bounded_read(L);
    return bounded_stock(L);
}

/* date(format, ...): each of its letters may be a call of the system's. */
static int os_date(lua_State *L) {
    size_t n = 0;
    luaL_optlstring(L, 1, "", &n);
    bounded_charge(L, n);
    if (n > BOUNDED_DATE && bounded_is_stranger(bounded_of(L)))
        luaL_error(L, "date: a format of more than 4096 bytes in a sandbox");
    return bounded_stock(L);
}

/* Of these functions of Lua's the time goes by the arguments, and by nothing else. */
static const char *const whole[][8] = {{"_G", "print", "tonumber", NULL},
                                       {"string", "upper", "lower", "reverse", "char", NULL},
                                       {"utf8", "char", NULL},
                                       {"math", "max", "min", NULL}};

/* Of these by how many arguments there are, whatever they are. */
static int passed(lua_State *L) {
    bounded_charge(L, (uint64_t)lua_gettop(L));
    return bounded_stock(L);
}

/* ---- xpcall ------------------------------------------------------------------- */

/* The script's handler (upvalue 1), which must not run when the hook has raised: it would without
 * hooks. */
static int handler(lua_State *L) {
    bounded *b = bounded_of(L);
    if (b && bounded_over(b)) return 1;
    lua_settop(L, 1);
    lua_pushvalue(L, lua_upvalueindex(1));
    lua_insert(L, 1);
    lua_call(L, 1, 1);
    return 1;
}

static int finish(lua_State *L, int status, lua_KContext extra) {
    if (status == LUA_OK || status == LUA_YIELD) return lua_gettop(L) - (int)extra;
    lua_pushboolean(L, 0);
    lua_insert(L, -2);
    return 2;
}

static int base_xpcall(lua_State *L) {
    const int n = lua_gettop(L);
    luaL_checktype(L, 2, LUA_TFUNCTION);
    lua_pushvalue(L, 2);
    lua_pushcclosure(L, handler, 1);
    lua_replace(L, 2);
    lua_pushboolean(L, 1);
    lua_pushvalue(L, 1);
    lua_rotate(L, 3, 2);
    return finish(L, lua_pcallk(L, n - 2, LUA_MULTRET, 2, 2, finish), 2);
}

static const luaL_Reg base[] = {{"xpcall", base_xpcall}, {"select", passed}, {NULL, NULL}};
static const luaL_Reg table[] = {{"pack", passed}, {NULL, NULL}};
static const luaL_Reg string[] = {{"format", string_format}, {"packsize", formatted}, {NULL, NULL}};
static const luaL_Reg os[] = {{"date", os_date}, {NULL, NULL}};

/* ---- putting them in their places --------------------------------------------- */

/* In the library on top `with` stands for the function of this name, if there is one. */
static void replace(lua_State *L, const char *name, lua_CFunction with) {
    if (lua_getfield(L, -1, name) == LUA_TFUNCTION && lua_iscfunction(L, -1)) {
        lua_pushcclosure(L, with, 1);
        lua_setfield(L, -2, name);
    } else {
        lua_pop(L, 1);
    }
}

static void replace_all(lua_State *L, const char *library, const luaL_Reg *functions) {
    if (lua_getfield(L, -1, library) == LUA_TTABLE)
        for (const luaL_Reg *f = functions; f->name; f++) replace(L, f->name, f->func);
    lua_pop(L, 1);
}

void bounded_long(lua_State *L) {
    const int top = lua_gettop(L);
    luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
    replace_all(L, "string", bounded_string);
    replace_all(L, "utf8", bounded_utf8);
    replace_all(L, "table", bounded_table);
    lua_settop(L, top);
}

int bounded_libraries(lua_State *L) {
    bounded_long(L);
    lua_settop(L, 0);
    luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
    for (size_t i = 0; i < sizeof whole / sizeof whole[0]; i++) {
        if (lua_getfield(L, 1, whole[i][0]) == LUA_TTABLE)
            for (int n = 1; whole[i][n]; n++) replace(L, whole[i][n], counted);
        lua_pop(L, 1);
    }
    replace_all(L, "_G", base);
    replace_all(L, "table", table);
    replace_all(L, "os", os);
    replace_all(L, "string", string);
    replace_all(L, "coroutine", bounded_coroutine);
    return 0;
}
