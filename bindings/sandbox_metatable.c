/*
 * sandbox_metatable.c - setmetatable and what goes with it, for strangers: a table that is one's
 * metatable never comes to hold __gc or __mode, neither before nor after.
 *
 * After: a table that is a metatable has a hidden metatable of its own, whose __newindex looks at
 * every new key. Hidden, for getmetatable and setmetatable show and take the script's. Where the
 * script gives a metatable to a metatable (classes that inherit), the hidden one does what that
 * one says: __index, __newindex and __call as it stands at the time, the rest as it stood when it
 * was set.
 */
#include "sandbox.h"

#include <lauxlib.h>
#include <string.h>

#include "bounded.h"

static const char shown_key = 's'; /* in a hidden metatable: the script's own, or false */
static const char plain_key = 'p'; /* registry: the hidden one of metatables without one */

/* ---- what is refused ---------------------------------------------------------- */

static void refuse(lua_State *L, const char *word) {
    luaL_error(L, "a sandboxed script can't have '%s' in a metatable", word);
}

static void check_key(lua_State *L, int index) {
    if (lua_type(L, index) != LUA_TSTRING) return;
    const char *word = lua_tostring(L, index);
    if (strcmp(word, "__gc") == 0 || strcmp(word, "__mode") == 0) refuse(L, word);
}

static void check_metatable(lua_State *L, int index) {
    static const char *const words[] = {"__gc", "__mode"};
    for (int i = 0; i < 2; i++) {
        lua_pushstring(L, words[i]);
        if (lua_rawget(L, index) != LUA_TNIL) refuse(L, words[i]);
        lua_pop(L, 1);
    }
}

/* ---- hidden metatables -------------------------------------------------------- */

/* Is there, of the table at `index`? Then pushes what it shows: a table, or false. */
static bool push_shown(lua_State *L, int index) {
    if (!lua_getmetatable(L, index)) return false;
    lua_rawgetp(L, -1, &shown_key);
    lua_remove(L, -2);
    if (!lua_isnil(L, -1)) return true;
    lua_pop(L, 1);
    return false;
}

/* The script's own metatable's field, pushed; upvalue 1 is that metatable, or false. */
static int push_own(lua_State *L, const char *event) {
    if (!lua_istable(L, lua_upvalueindex(1))) {
        lua_pushnil(L);
        return LUA_TNIL;
    }
    lua_pushstring(L, event);
    return lua_rawget(L, lua_upvalueindex(1));
}

/* Each of these may look the key at 2 up in some thousand tables, a long text by its bytes, and
 * come to the next of these: no instruction of the script's runs between them. */
static void pay(lua_State *L) {
    const bool text = lua_type(L, 2) == LUA_TSTRING;
    bounded_charge(L, text ? 1 + lua_rawlen(L, 2) / BOUNDED_BYTES : 1);
}

static int hidden_newindex(lua_State *L) {
    lua_settop(L, 3);
    pay(L);
    check_key(L, 2);
    const int kind = push_own(L, "__newindex");
    if (kind == LUA_TNIL) {
        lua_settop(L, 3);
        lua_rawset(L, 1);
        return 0;
    }
    if (kind == LUA_TFUNCTION) {
        lua_insert(L, 1);
        lua_call(L, 3, 0);
        return 0;
    }
    lua_replace(L, 1);
    lua_settable(L, 1);
    return 0;
}

static int hidden_index(lua_State *L) {
    lua_settop(L, 2);
    pay(L);
    const int kind = push_own(L, "__index");
    if (kind == LUA_TNIL) return 1;
    if (kind == LUA_TFUNCTION) {
        lua_insert(L, 1);
        lua_call(L, 2, 1);
        return 1;
    }
    lua_pushvalue(L, 2);
    lua_gettable(L, 3);
    return 1;
}

static int called(lua_State *L, int status, lua_KContext unused) {
    (void)status;
    (void)unused;
    return lua_gettop(L);
}

static int hidden_call(lua_State *L) {
    bounded_charge(L, 1);
    if (push_own(L, "__call") == LUA_TNIL) return luaL_error(L, "attempt to call a table value");
    lua_insert(L, 1);
    lua_callk(L, lua_gettop(L) - 1, LUA_MULTRET, 0, called);
    return lua_gettop(L);
}

static void add_hidden(lua_State *L, const char *event, lua_CFunction f, int shown) {
    lua_pushvalue(L, shown);
    lua_pushcclosure(L, f, 1);
    lua_setfield(L, -2, event);
}

/* The pair on top, whose value it takes off, into the table below, if its key is an event's. */
static void copy_event(lua_State *L) {
    bounded_charge(L, 1);
    const bool event = lua_type(L, -2) == LUA_TSTRING && strncmp(lua_tostring(L, -2), "__", 2) == 0;
    if (!event) {
        lua_pop(L, 1);
        return;
    }
    lua_pushvalue(L, -2);
    lua_insert(L, -2);
    lua_rawset(L, -4);
}

/* Pushes one that shows the table at `shown`. */
static void push_hidden(lua_State *L, int shown) {
    lua_newtable(L);
    lua_pushnil(L);
    while (lua_next(L, shown)) copy_event(L);
    add_hidden(L, "__newindex", hidden_newindex, shown);
    add_hidden(L, "__index", hidden_index, shown);
    add_hidden(L, "__call", hidden_call, shown);
    lua_pushvalue(L, shown);
    lua_rawsetp(L, -2, &shown_key);
}

/* Pushes the one of all metatables that have none of the script's. */
static void push_plain(lua_State *L) {
    if (lua_rawgetp(L, LUA_REGISTRYINDEX, &plain_key) == LUA_TTABLE) return;
    lua_pop(L, 1);
    lua_newtable(L);
    lua_pushboolean(L, 0);
    lua_pushcclosure(L, hidden_newindex, 1);
    lua_setfield(L, -2, "__newindex");
    lua_pushboolean(L, 0);
    lua_rawsetp(L, -2, &shown_key);
    lua_pushvalue(L, -1);
    lua_rawsetp(L, LUA_REGISTRYINDEX, &plain_key);
}

/* The table at `index` is somebody's metatable from here on. */
static void guard(lua_State *L, int index) {
    if (push_shown(L, index)) {
        lua_pop(L, 1);
        return;
    }
    if (lua_getmetatable(L, index))
        push_hidden(L, lua_gettop(L));
    else
        push_plain(L);
    lua_setmetatable(L, index);
}

/* ---- the functions ------------------------------------------------------------ */

/* The metatable that the script sees of the value at 1, pushed; nil: none. */
static void push_visible(lua_State *L) {
    lua_settop(L, 1);
    if (push_shown(L, 1)) {
        if (!lua_istable(L, -1)) lua_pushnil(L);
        return;
    }
    if (!lua_getmetatable(L, 1)) lua_pushnil(L);
}

/* Of metatables that no script set, those of this library, __metatable is all there is to see. */
static int get_metatable(lua_State *L) {
    luaL_checkany(L, 1);
    push_visible(L);
    if (!lua_istable(L, -1)) return 1;
    const int visible = lua_gettop(L);
    lua_pushliteral(L, "__metatable");
    if (lua_rawget(L, visible) != LUA_TNIL) return 1;
    if (!push_shown(L, visible)) return 1; /* the nil */
    lua_pushvalue(L, visible);
    return 1;
}

static int set_metatable(lua_State *L) {
    const int kind = lua_type(L, 2);
    luaL_checktype(L, 1, LUA_TTABLE);
    luaL_argexpected(L, kind == LUA_TNIL || kind == LUA_TTABLE, 2, "nil or table");
    lua_settop(L, 2);
    if (luaL_getmetafield(L, 1, "__metatable") != LUA_TNIL)
        return luaL_error(L, "cannot change a protected metatable");
    if (kind == LUA_TTABLE) {
        check_metatable(L, 2);
        guard(L, 2);
    }
    const bool hides = push_shown(L, 1);
    lua_settop(L, 2);
    if (hides && kind == LUA_TTABLE) push_hidden(L, 2);
    if (hides && kind == LUA_TNIL) push_plain(L);
    lua_setmetatable(L, 1);
    lua_settop(L, 1);
    return 1;
}

static int raw_set(lua_State *L) {
    luaL_checktype(L, 1, LUA_TTABLE);
    luaL_checkany(L, 2);
    luaL_checkany(L, 3);
    lua_settop(L, 3);
    check_key(L, 2);
    lua_rawset(L, 1);
    return 1;
}

/* Marks a list for JSON (upvalue 1), which gives it a metatable: so not a metatable. */
static int json_list(lua_State *L) {
    if (lua_istable(L, 1) && push_shown(L, 1))
        return luaL_error(L, "json.list: a metatable is no list");
    lua_pushvalue(L, lua_upvalueindex(1));
    lua_insert(L, 1);
    lua_call(L, lua_gettop(L) - 1, LUA_MULTRET);
    return lua_gettop(L);
}

/* mark_list(pf.json.list): the same, for strangers. */
static int guard_list(lua_State *L) {
    lua_settop(L, 1);
    lua_pushcclosure(L, json_list, 1);
    return 1;
}

void sandbox_add_metatables(lua_State *L) {
    static const luaL_Reg functions[] = {{"setmetatable", set_metatable},
                                         {"getmetatable", get_metatable},
                                         {"rawset", raw_set},
                                         {"guard_list", guard_list},
                                         {NULL, NULL}};
    luaL_setfuncs(L, functions, 0);
}
