/*
 * lpf_config.c - plain data both ways: Lua values to pf_config trees (options, config.json,
 * state.json) and back, and JSON text.
 *
 * A tree under construction hangs under a userdata from its first node on, so an error in
 * the middle frees it. Keys are written in sorted order, so equal tables give equal files.
 * An object with a `__config` metafield (a kernel) stands for what that function returns.
 */
#include "bounded.h"
#include "lpf.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define LPF_CONFIG "performer.config"
#define LPF_LIST   "performer.list" /* metatable: an empty table that is a list */

enum { MAX_DEPTH = 60, MAX_KEYS = 16384 /* of a stranger's map: they are sorted in one go */ };

enum { NODE_BYTES = 128, PAY_AT = 4096 }; /* of a node, about, and paid for at a time */

/* What a tree hangs under; it lies in plain C memory, which a script's meter pays for here. */
typedef struct {
    pf_config *node; /* the first: what others have of it */
    size_t paid;
} owner;

typedef struct {
    lua_State *L;
    const char *where;
    owner *of;
    pf_meter *meter; /* NULL: nobody pays */
    size_t owed;
} conversion;

/* ---- owners ------------------------------------------------------------------- */

pf_config **lpf_config_slot(lua_State *L) {
    owner *own = lpf_new(L, LPF_CONFIG, sizeof *own);
    return &own->node;
}

pf_config *lpf_take_config(lua_State *L, pf_config *node) {
    *lpf_config_slot(L) = node;
    return node;
}

pf_config *lpf_new_config(lua_State *L, pf_config_kind kind) {
    pf_config **slot = lpf_config_slot(L);
    *slot = pf_config_new(kind);
    if (!*slot) lpf_result(L, PF_ENOMEM);
    return *slot;
}

static int config_gc(lua_State *L) {
    owner *own = luaL_checkudata(L, 1, LPF_CONFIG);
    pf_config_free(own->node);
    if (own->paid) pf_meter_bytes(lpf_enter(L)->meter, own->paid, 0);
    *own = (owner){NULL, 0};
    return 0;
}

/* Before so many bytes are asked for. */
static void pay(conversion *c, size_t bytes) {
    bounded_charge(c->L, 1);
    c->owed += bytes;
    if (!c->meter || c->owed < PAY_AT) return;
    lpf_result(c->L, pf_meter_bytes(c->meter, 0, c->owed));
    c->of->paid += c->owed;
    c->owed = 0;
}

/* ---- Lua to plain data -------------------------------------------------------- */

/* Where a new node goes: the root's slot, a list, or a map's key. */
typedef struct {
    pf_config **root;
    pf_config *parent;
    const char *key;
} place;

/* Hangs `node` (owned from now on) in its place. */
static pf_config *attach(conversion *c, const place *at, pf_config *node) {
    if (!node) lpf_result(c->L, PF_ENOMEM);
    if (at->root)
        *at->root = node;
    else if (at->key)
        lpf_result(c->L, pf_config_set(at->parent, at->key, node));
    else
        lpf_result(c->L, pf_config_push(at->parent, node));
    return node;
}

static void convert(conversion *c, const place *at, int depth);

static int by_text(const void *a, const void *b) {
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* Number of text keys of the table on top; any other key than 1 .. n raises. */
static lua_Integer count_keys(conversion *c, lua_Integer n) {
    lua_State *L = c->L;
    lua_Integer texts = 0;
    lua_pushnil(L);
    while (lua_next(L, -2)) {
        lua_pop(L, 1);
        bounded_charge(L, 1);
        bool text = lua_type(L, -1) == LUA_TSTRING;
        lua_Integer at = lua_isinteger(L, -1) ? lua_tointeger(L, -1) : 0;
        if (!text && (at < 1 || at > n))
            lpf_raise(L, "%s: keys must be texts, or 1 .. n of a list", c->where);
        texts += text;
    }
    if (texts > 0 && n > 0)
        lpf_raise(L, "%s: a table is either a list or a map, not both", c->where);
    return texts;
}

/* The n text keys of the table on top, sorted; `map` gets them with their values. */
static void convert_map(conversion *c, pf_config *map, lua_Integer n, int depth) {
    lua_State *L = c->L;
    int table = lua_gettop(L);
    if (n > MAX_KEYS && bounded_is_stranger(bounded_of(L)))
        lpf_raise(L, "%s: a map of more than %d keys in a sandbox", c->where, MAX_KEYS);
    const char **keys = lua_newuserdatauv(L, (size_t)n * sizeof *keys + 1, 0);
    lua_Integer i = 0;
    lua_pushnil(L);
    while (i < n && lua_next(L, table)) {
        lua_pop(L, 1);
        keys[i++] = lpf_check_text(L, -1, c->where, "a key"); /* the table keeps it alive */
    }
    lua_settop(L, table + 1);
    qsort(keys, (size_t)n, sizeof *keys, by_text);
    for (i = 0; i < n; i++) {
        lua_pushstring(L, keys[i]);
        lua_rawget(L, table);
        convert(c, &(place){.parent = map, .key = keys[i]}, depth + 1);
        lua_pop(L, 1);
    }
    lua_settop(L, table);
}

/* What stands for itself as plain data (a kernel): false when the value on top does not. */
static bool convert_object(conversion *c, const place *at, int depth) {
    lua_State *L = c->L;
    int kind = luaL_getmetafield(L, -1, "__config");
    if (kind != LUA_TFUNCTION) {
        if (kind != LUA_TNIL) lua_pop(L, 1);
        return false;
    }
    lua_pushvalue(L, -2);
    lua_call(L, 1, 1);
    convert(c, at, depth + 1);
    lua_pop(L, 1);
    return true;
}

/* A list has elements, or is empty and marked as one; any other table is a map. */
static void convert_table(conversion *c, const place *at, int depth) {
    lua_State *L = c->L;
    if (convert_object(c, at, depth)) return;
    lua_Integer n = (lua_Integer)lua_rawlen(L, -1), texts = count_keys(c, n);
    bool list = n > 0;
    if (!list && texts == 0 && luaL_getmetafield(L, -1, "__name") != LUA_TNIL) {
        list = lua_type(L, -1) == LUA_TSTRING && strcmp(lua_tostring(L, -1), LPF_LIST) == 0;
        lua_pop(L, 1);
    }
    pf_config *node = attach(c, at, pf_config_new(list ? PF_LIST : PF_MAP));
    if (!list) convert_map(c, node, texts, depth);
    for (lua_Integer i = 1; i <= n; i++) {
        lua_rawgeti(L, -1, i);
        convert(c, &(place){.parent = node}, depth + 1);
        lua_pop(L, 1);
    }
}

/* A pf_config holds doubles: whole numbers fit up to 2^53. */
static void convert_number(conversion *c, const place *at) {
    lua_State *L = c->L;
    const lua_Number value = lua_tonumber(L, -1);
    const lua_Integer most = (lua_Integer)1 << 53, whole = lua_tointeger(L, -1);
    if (lua_isinteger(L, -1) && (whole > most || whole < -most)) /* as a number it may be rounded */
        lpf_raise(L, "%s: %lld is too large a whole number for plain data", c->where,
                  (long long)lua_tointeger(L, -1));
    attach(c, at, pf_config_new_number(value));
}

/* The value on top of the stack goes to its place. */
static void convert(conversion *c, const place *at, int depth) {
    lua_State *L = c->L;
    luaL_checkstack(L, 10, c->where);
    pay(c, NODE_BYTES + (lua_type(L, -1) == LUA_TSTRING ? lua_rawlen(L, -1) : 0));
    if (depth > MAX_DEPTH)
        lpf_raise(L, "%s: data nest deeper than %d (a cycle?)", c->where, MAX_DEPTH);
    switch (lua_type(L, -1)) {
    case LUA_TNIL:
        attach(c, at, pf_config_new(PF_NULL));
        return;
    case LUA_TBOOLEAN:
        attach(c, at, pf_config_new_bool(lua_toboolean(L, -1)));
        return;
    case LUA_TNUMBER:
        convert_number(c, at);
        return;
    case LUA_TSTRING:
        attach(c, at,
               pf_config_new_string(lpf_check_text(L, -1, c->where, at->key ? at->key : "a text")));
        return;
    case LUA_TTABLE:
        convert_table(c, at, depth);
        return;
    case LUA_TUSERDATA:
        if (convert_object(c, at, depth)) return;
        break;
    case LUA_TLIGHTUSERDATA:
        if (!lua_touserdata(L, -1)) {
            attach(c, at, pf_config_new(PF_NULL));
            return;
        }
        break;
    default:
        break;
    }
    lpf_raise(L, "%s: %s%s%s is no plain data", c->where, at->key ? at->key : "",
              at->key ? ": " : "", lpf_kind(L, -1));
}

pf_config *lpf_to_config(lua_State *L, int index, const char *where) {
    index = lua_absindex(L, index);
    owner *own = lpf_new(L, LPF_CONFIG, sizeof *own);
    conversion c = {.L = L, .where = where, .of = own, .meter = lpf_enter(L)->meter};
    lua_pushvalue(L, index);
    convert(&c, &(place){.root = &own->node}, 0);
    lua_pop(L, 1);
    return own->node;
}

pf_config *lpf_opt_config(lua_State *L, int index, const char *key, const char *where) {
    if (lua_isnoneornil(L, index) || lua_getfield(L, index, key) == LUA_TNIL) return NULL;
    return lpf_to_config(L, -1, where);
}

/* ---- plain data to Lua -------------------------------------------------------- */

/* A list or map with all below it. An empty list is marked, so that it is one when it returns. */
static void push_children(lua_State *L, const pf_config *node, bool map) {
    int n = pf_config_size(node);
    lua_createtable(L, map ? 0 : n, map ? n : 0);
    for (int i = 0; i < n; i++) {
        bounded_charge(L, 1);
        lpf_push_config(L, pf_config_at(node, i));
        if (map)
            lua_setfield(L, -2, pf_config_key(node, i));
        else
            lua_rawseti(L, -2, i + 1);
    }
    if (!map && n == 0) luaL_setmetatable(L, LPF_LIST);
}

/* null is a light userdata (pf.json.null), since nil is no value of a table. Whole numbers become
 * integers, so that 3 is written as 3 again; -0 stays a float. */
void lpf_push_config(lua_State *L, const pf_config *node) {
    luaL_checkstack(L, 4, "plain data");
    switch (node ? pf_config_kind_of(node) : PF_NULL) {
    case PF_NULL:
        lua_pushlightuserdata(L, NULL);
        return;
    case PF_BOOL:
        lua_pushboolean(L, pf_config_number(node) != 0);
        return;
    case PF_NUMBER: {
        double value = pf_config_number(node);
        if (value == floor(value) && fabs(value) <= 9007199254740992.0 &&
            !(value == 0 && signbit(value)))
            lua_pushinteger(L, (lua_Integer)value);
        else
            lua_pushnumber(L, value);
        return;
    }
    case PF_STRING:
        lua_pushstring(L, pf_config_string(node));
        return;
    case PF_LIST:
        push_children(L, node, false);
        return;
    case PF_MAP:
        push_children(L, node, true);
        return;
    }
}

/* ---- JSON --------------------------------------------------------------------- */

static int json_encode(lua_State *L) {
    static const char *const allowed[] = {"indent", NULL};
    luaL_checkany(L, 1);
    lpf_check_options(L, 2, allowed, "json.encode");
    bool indent = lpf_opt_bool(L, 2, "indent", false);
    pf_engine *engine = lpf_enter(L)->engine; /* which a script need not have opened for this */
    const pf_config *node = lpf_to_config(L, 1, "json.encode");
    char **text = lpf_text_slot(L);
    lpf_result(L, engine ? pf_json_write_in(text, engine, node, indent)
                         : pf_json_write(text, node, indent));
    lua_pushstring(L, *text);
    return 1;
}

/* The value, or nil, message, code for text that is no JSON. */
static int json_decode(lua_State *L) {
    if (lua_type(L, 1) != LUA_TSTRING)
        return lpf_raise(L, "json.decode: a text is needed, got %s", lpf_kind(L, 1));
    size_t bytes;
    const char *text = lua_tolstring(L, 1, &bytes);
    pf_engine *engine = lpf_enter(L)->engine;
    pf_config **slot = lpf_config_slot(L);
    int failed = lpf_loaded(L, engine ? pf_json_parse_in(slot, engine, text, bytes)
                                      : pf_json_parse(slot, text, bytes));
    if (failed) return failed;
    lpf_push_config(L, *slot);
    return 1;
}

/* Marks a table as a list, so that an empty one is written as []. */
static int json_list(lua_State *L) {
    if (lua_isnoneornil(L, 1)) {
        lua_settop(L, 0);
        lua_newtable(L);
    }
    luaL_checktype(L, 1, LUA_TTABLE);
    lua_settop(L, 1); /* the metatable goes to the list, not to what came behind it */
    luaL_setmetatable(L, LPF_LIST);
    return 1;
}

static const luaL_Reg json[] = {
    {"encode", json_encode}, {"decode", json_decode}, {"list", json_list}, {NULL, NULL}};

static int text_gc(lua_State *L) {
    char **text = luaL_checkudata(L, 1, "performer.text");
    pf_text_free(*text);
    *text = NULL;
    return 0;
}

char **lpf_text_slot(lua_State *L) { return lpf_new(L, "performer.text", sizeof(char *)); }

void lpf_open_config(lua_State *L) {
    static const luaL_Reg text_meta[] = {{"__gc", text_gc}, {NULL, NULL}};
    static const luaL_Reg none[] = {{NULL, NULL}};
    static const luaL_Reg meta[] = {{"__gc", config_gc}, {"__close", config_gc}, {NULL, NULL}};
    lpf_class(L, LPF_CONFIG, none, meta);
    lpf_class(L, "performer.text", none, text_meta);
    luaL_newmetatable(L, LPF_LIST);
    lua_pop(L, 1);
    luaL_newlib(L, json);
    lua_pushlightuserdata(L, NULL);
    lua_setfield(L, -2, "null");
    lua_setfield(L, -2, "json");
}
