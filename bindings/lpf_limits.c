/*
 * lpf_limits.c - bounds of what a script does with the engine, as pf.open and pf.limit take them.
 */
#include "lpf.h"

#include <limits.h>
#include <math.h>
#include <string.h>

size_t lpf_check_bytes(lua_State *L, int index, const char *where, const char *what) {
    double bytes = -1;
    if (lua_type(L, index) == LUA_TNUMBER) {
        bytes = lua_tonumber(L, index);
    } else if (lua_type(L, index) == LUA_TSTRING) {
        /* Lua reads the number: it takes a point whatever the locale. */
        const char *text = lua_tostring(L, index), *end = text + strspn(text, "0123456789.");
        lua_pushlstring(L, text, (size_t)(end - text));
        if (end > text && lua_stringtonumber(L, lua_tostring(L, -1)) > 0) {
            bytes = lua_tonumber(L, -1);
            lua_pop(L, 1);
        }
        lua_pop(L, 1);
        const char *units = "kKmMgGtT";
        const char *unit = *end ? strchr(units, *end) : NULL;
        if (unit) {
            for (int i = 0; i <= (unit - units) / 2; i++) bytes *= 1024;
            end++;
        }
        if (*end == 'B' || *end == 'b') end++;
        if (*end) bytes = -1;
    }
    if (!(bytes >= 0 && bytes < 9e18))
        lpf_raise(L, "%s: %s must be a number of bytes or a text like \"4G\"", where, what);
    return (size_t)bytes;
}

static double at_least_0(lua_State *L, int index, const char *where, const char *key) {
    double value = lpf_opt_number(L, index, key, 0);
    if (!(value >= 0)) lpf_raise(L, "%s: %s must be 0 or more (0: no limit)", where, key);
    return value;
}

void lpf_check_limits(lua_State *L, int index, const char *where, pf_limits *limits) {
    static const char *const allowed[] = {"bytes", "work", "seconds", "depth", NULL};
    *limits = (pf_limits){.size = sizeof *limits};
    index = lua_absindex(L, index);
    lpf_check_options(L, index, allowed, where);
    if (!lua_istable(L, index)) return;
    if (lua_getfield(L, index, "bytes") != LUA_TNIL)
        limits->bytes = lpf_check_bytes(L, -1, where, "bytes");
    lua_pop(L, 1);
    limits->work = (uint64_t)fmin(at_least_0(L, index, where, "work"), 1e19);
    limits->seconds = at_least_0(L, index, where, "seconds");
    limits->depth = (int)fmin(at_least_0(L, index, where, "depth"), INT32_MAX);
}
