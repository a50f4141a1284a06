/* sandbox.c - see sandbox.h. What strangers may name stands in performer/sandbox.lua. */
#include "sandbox.h"

#include <lauxlib.h>

#include "lpf.h"

int sandbox_environment(lua_State *L) {
    luaL_checktype(L, 1, LUA_TTABLE);
    lua_settop(L, 2);
    lua_getglobal(L, "require");
    lua_pushliteral(L, "performer.sandbox");
    lua_call(L, 1, 1); /* a function(pf, libraries, own) */
    lua_pushvalue(L, 1);
    lua_pushvalue(L, 2);
    lua_newtable(L);
    sandbox_add_metatables(L);
    sandbox_add_load(L);
    lua_call(L, 3, 1);
    /* No name of a function is looked for there when an error is told: the script could make the
     * search a long one. */
    lua_newtable(L);
    lua_setfield(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
    return 1;
}
