/*
 * lpf_options.c - checked arguments: option tables whose keys must be known, with the nearest
 * name where one is not, and texts and whole numbers by position.
 */
#include "lpf.h"

#include <math.h>
#include <string.h>

/* ---- option tables ------------------------------------------------------------ */

/* Pushes options[key]; LUA_TNIL when there is no table. What stands in the table itself alone, as
 * for lpf_check_options: a metatable's functions could close the very object that waits for them.
 */
static int get_option(lua_State *L, int index, const char *key) {
    if (lua_istable(L, index)) {
        index = lua_absindex(L, index);
        lua_pushstring(L, key);
        return lua_rawget(L, index);
    }
    if (!lua_isnoneornil(L, index))
        lpf_raise(L, "options must be a table, got %s", lpf_kind(L, index));
    lua_pushnil(L);
    return LUA_TNIL;
}

/* A value that is not given, and one of another kind: the default, and an error that names the
 * key. A number in a text is none: "8" for 8 is a mistake, told where it was made. */
double lpf_opt_number(lua_State *L, int index, const char *key, double def) {
    int kind = get_option(L, index, key);
    if (kind != LUA_TNIL && kind != LUA_TNUMBER)
        lpf_raise(L, "%s must be a number, got %s", key, lpf_kind(L, -1));
    double value = kind == LUA_TNIL ? def : lua_tonumber(L, -1);
    lua_pop(L, 1);
    return value;
}

int64_t lpf_opt_integer(lua_State *L, int index, const char *key, int64_t def) {
    int kind = get_option(L, index, key);
    int whole = 1;
    lua_Integer value = kind == LUA_TNIL ? def : lua_tointegerx(L, -1, &whole);
    if (!whole || (kind != LUA_TNIL && kind != LUA_TNUMBER)) {
        const char *text = luaL_tolstring(L, -1, NULL);
        lpf_raise(L, "%s must be a whole number, got %s", key, text);
    }
    lua_pop(L, 1);
    return value;
}

uint64_t lpf_opt_count(lua_State *L, int index, const char *key, uint64_t def) {
    int64_t value = lpf_opt_integer(L, index, key, (int64_t)def);
    if (value < 0) lpf_raise(L, "%s must be at least 0, got %lld", key, (long long)value);
    return (uint64_t)value;
}

bool lpf_opt_bool(lua_State *L, int index, const char *key, bool def) {
    int kind = get_option(L, index, key);
    if (kind != LUA_TNIL && kind != LUA_TBOOLEAN)
        lpf_raise(L, "%s must be true or false, got %s", key, lpf_kind(L, -1));
    bool value = kind == LUA_TNIL ? def : lua_toboolean(L, -1) != 0;
    lua_pop(L, 1);
    return value;
}

const char *lpf_opt_string(lua_State *L, int index, const char *key, const char *def) {
    int kind = get_option(L, index, key);
    if (kind != LUA_TNIL && kind != LUA_TSTRING)
        lpf_raise(L, "%s must be a text, got %s", key, lpf_kind(L, -1));
    /* The table keeps the string alive. */
    const char *value = kind == LUA_TNIL ? def : lpf_check_text(L, -1, "options", key);
    lua_pop(L, 1);
    return value;
}

const char *lpf_hint(lua_State *L, const char *word, const char *const *names, int n) {
    luaL_checkstack(L, 8, "a hint");
    if (lua_getfield(L, LUA_REGISTRYINDEX, LPF_HINT) != LUA_TFUNCTION) { /* without our Lua files */
        const char *near = pf_nearest(word, names, n);
        return near ? lua_pushfstring(L, " (did you mean '%s'?)", near) : "";
    }
    lua_pushstring(L, word);
    lua_createtable(L, n, 0);
    for (int i = 0; i < n; i++) {
        lua_pushstring(L, names[i]);
        lua_rawseti(L, -2, i + 1);
    }
    lua_call(L, 2, 1);
    return lua_tostring(L, -1);
}

void lpf_check_options(lua_State *L, int index, const char *const *allowed, const char *where) {
    if (lua_isnoneornil(L, index)) return;
    if (!lua_istable(L, index))
        lpf_raise(L, "%s: options must be a table, got %s", where, lpf_kind(L, index));
    int n = 0;
    while (allowed[n]) n++;
    lua_pushnil(L);
    while (lua_next(L, index)) {
        lua_pop(L, 1);
        bool text = lua_type(L, -1) == LUA_TSTRING;
        const char *key = text ? lua_tostring(L, -1) : luaL_typename(L, -1);
        int at = text && strlen(key) == lua_rawlen(L, -1) ? 0 : n;
        while (at < n && strcmp(allowed[at], key) != 0) at++;
        if (at < n) continue;
        lpf_raise(L, "%s: unknown option '%s'%s", where, key,
                  text ? lpf_hint(L, key, allowed, n) : "");
    }
}

/* ---- arguments ---------------------------------------------------------------- */

const char *lpf_check_text(lua_State *L, int index, const char *where, const char *what) {
    if (lua_type(L, index) != LUA_TSTRING)
        lpf_raise(L, "%s: %s must be a text, got %s", where, what,
                  lua_isnoneornil(L, index) ? "nothing" : lpf_kind(L, index));
    size_t n;
    const char *text = lua_tolstring(L, index, &n);
    if (strlen(text) != n) /* C would take what stands before it for the whole */
        lpf_raise(L, "%s: %s must not hold a zero byte, got '%s' before one", where, what, text);
    return text;
}

double lpf_check_number(lua_State *L, int index, const char *where, const char *what) {
    if (lua_type(L, index) != LUA_TNUMBER)
        lpf_raise(L, "%s: %s must be a number, got %s", where, what,
                  lua_isnoneornil(L, index) ? "nothing" : lpf_kind(L, index));
    const double value = lua_tonumber(L, index);
    return isnan(value) ? (double)NAN : value; /* C writes one with a sign as "-nan" */
}

int64_t lpf_opt_whole(lua_State *L, int index, const char *where, const char *what, int64_t def) {
    return lua_isnoneornil(L, index) ? def : lpf_check_whole(L, index, where, what);
}

int64_t lpf_check_whole(lua_State *L, int index, const char *where, const char *what) {
    int whole = 0;
    lua_Integer value = lua_tointegerx(L, index, &whole);
    if (whole && lua_type(L, index) == LUA_TNUMBER) return value;
    const char *text = lua_isnoneornil(L, index) ? "nothing" : luaL_tolstring(L, index, NULL);
    lpf_raise(L, "%s: %s must be a whole number, got %s", where, what, text);
    return 0;
}
