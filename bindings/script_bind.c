/*
 * script_bind.c - Lua states of the host's own: performer bound to an engine in them, and values
 * on and from their stacks.
 */
#include <string.h>

#include "host.h"
#include "script.h"

/* Runs body(L, lightuserdata job) protected, which leaves `n` results. */
static int protected(lua_State *L, lua_CFunction body, void *job, int n) {
    if (!lua_checkstack(L, 8)) return lpf_script_refuse(PF_ENOMEM, "script: out of memory");
    lua_pushcfunction(L, body);
    lua_pushlightuserdata(L, job);
    const int status = lua_pcall(L, 1, n, 0);
    return status == LUA_OK ? PF_OK : lpf_script_thrown(L, status);
}

static int require_body(lua_State *L) {
    lua_getglobal(L, "require");
    lua_pushliteral(L, "performer");
    lua_call(L, 1, 1);
    return 1;
}

int lpf_script_check_dir(const char *where, const char *lua_dir) {
    if (!lua_dir || lpf_has_files(lua_dir)) return PF_OK;
    return lpf_script_refuse(
        PF_ENOTFOUND,
        "%s: there is no performer/init.lua in lua_dir '%s': it is "
        "PREFIX/share/performer/lua of an installed Performer, or build/.../lua",
        where, lua_dir);
}

/* package.searchpath("performer", package.path) */
int lpf_script_find_files(lua_State *L) {
    lua_getglobal(L, "package");
    lua_getfield(L, -1, "searchpath");
    lua_pushliteral(L, "performer");
    lua_getfield(L, -3, "path");
    lua_call(L, 2, 1);
    if (lua_isstring(L, -1)) return 0;
    lua_pushliteral(L,
                    "script: performer's Lua files are neither beside the library or program, nor "
                    "on Lua's path: give lua_dir, PREFIX/share/performer/lua of an installed "
                    "Performer");
    return lpf_raise_as(L, PF_ENOTFOUND);
}

int pf_script_bind(void *lua_state, pf_engine *engine, const char *lua_dir) {
    lua_State *L = lua_state;
    char dir[LPF_PATH], scripts[LPF_PATH];
    lpf_script_quiet();
    LPF_NEED(lua_state);
    if (pf_engine_closed(engine))
        return lpf_script_refuse(PF_ESTATE, "pf_script_bind: its engine has closed");
    if (!lua_checkstack(L, 8)) return lpf_script_refuse(PF_ENOMEM, "script: out of memory");
    const int checked = lpf_script_check_dir("pf_script_bind", lua_dir);
    if (checked < 0) return checked;
    lpf_places places = {.lua_dir = lua_dir};
    if (!lua_dir && lpf_find_own_files(dir, scripts))
        places = (lpf_places){.lua_dir = dir, .scripts = scripts};
    const int status = lpf_host_bind(L, engine, &places);
    if (status != LUA_OK) return lpf_script_thrown(L, status);
    const int found = places.lua_dir ? PF_OK : protected(L, lpf_script_find_files, NULL, 0);
    return found < 0 ? found : protected(L, require_body, NULL, 1);
}

/* ---- values ------------------------------------------------------------------- */

/* The classes of what values hold come with the binding. */
static void need_bound(lua_State *L) {
    if (luaL_getmetatable(L, LPF_MODULE) == LUA_TNIL) {
        lua_pushliteral(L, "script: this Lua state is bound to no engine (pf_script_bind)");
        lpf_raise_as(L, PF_ESTATE);
    }
    lua_pop(L, 1);
}

static int push_body(lua_State *L) {
    need_bound(L);
    lpf_push_value(L, lua_touserdata(L, 1));
    return 1;
}

int pf_script_push(void *lua_state, const pf_value *value) {
    lpf_script_quiet();
    LPF_NEED(lua_state);
    LPF_NEED(value);
    const int status = lpf_values_check(__func__, "value", value, 1);
    if (status < 0) return status;
    return protected(lua_state, push_body, (void *)(uintptr_t)value, 1);
}

static int read_body(lua_State *L) {
    need_bound(L);
    lpf_take_value(L, 1, lua_touserdata(L, 2), "pf_script_read: what is there");
    return 0;
}

int pf_script_read(void *lua_state, int index, pf_value *value) {
    lua_State *L = lua_state;
    lpf_script_quiet();
    if (value) *value = pf_value_nil();
    LPF_NEED(lua_state);
    LPF_NEED(value);
    const int top = lua_gettop(L);
    if (index == 0 || index > top || index < -top)
        return lpf_script_refuse(
            PF_EINVAL, "pf_script_read: nothing is at index %d, the stack holds %d", index, top);
    if (!lua_checkstack(L, 8)) return lpf_script_refuse(PF_ENOMEM, "script: out of memory");
    index = lua_absindex(L, index);
    lua_pushcfunction(L, read_body);
    lua_pushvalue(L, index);
    lua_pushlightuserdata(L, value);
    const int status = lua_pcall(L, 2, 0, 0);
    if (status == LUA_OK) return PF_OK;
    pf_value_clear(value);
    return lpf_script_thrown(L, status);
}
