/*
 * sandbox_load.c - load, require and collectgarbage, for strangers. Text only; into their own
 * environment; and no longer than the parser takes a moment for: it has no hook, and walks lists of
 * jumps.
 */
#include "sandbox.h"

#include <ctype.h>
#include <lauxlib.h>
#include <string.h>

#include "bounded.h"
#include "lpf.h"

static const char BYTECODE[] = "it is bytecode, which is not loaded here: give the source text";

static bool is_bytecode(const char *text, size_t n) { return n > 0 && text[0] == LUA_SIGNATURE[0]; }

/* ---- what a text costs the parser --------------------------------------------- */

static bool is_jump(const char *word, size_t n) {
    static const char *const words[] = {"and", "or", "elseif", "then", "goto", "break"};
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++)
        if (strlen(words[i]) == n && memcmp(words[i], word, n) == 0) return true;
    return false;
}

/* Words and labels that the parser keeps in lists, in texts and comments, too. */
static int count_jumps(const char *text, size_t n) {
    int jumps = 0;
    for (size_t i = 0; i < n; i++) {
        if (text[i] == ':' && i + 1 < n && text[i + 1] == ':') jumps++;
        const size_t from = i;
        while (i < n && (isalnum((unsigned char)text[i]) || text[i] == '_')) i++;
        if (i == from) continue;
        jumps += is_jump(text + from, i - from);
        i--; /* what stands right behind the word may begin a label */
    }
    return jumps;
}

/* NULL, or why it is not compiled. */
static const char *too_much(lua_State *L, const char *text, size_t n) {
    bounded_charge(L, n);
    if (is_bytecode(text, n)) return BYTECODE;
    if (n > BOUNDED_CHUNK) return "a chunk of more than 1 MB in a sandbox";
    if (count_jumps(text, n) > BOUNDED_JUMPS) return "a chunk with more than 8192 jumps";
    return NULL;
}

typedef struct {
    const char *text;
    size_t n;
} rest;

/* A name is looked for among all locals of all functions around it: a look every few of them. */
static const char *next_piece(lua_State *L, void *ud, size_t *n) {
    enum { PIECE = 512 };
    rest *left = ud;
    const char *piece = left->text;
    bounded_look(L);
    *n = left->n < PIECE ? left->n : PIECE;
    left->text += *n;
    left->n -= *n;
    return *n > 0 ? piece : NULL;
}

static int compile(lua_State *L, const char *text, size_t n, const char *name, const char *mode) {
    rest left = {text, n};
    return lua_load(L, next_piece, &left, name, mode);
}

int sandbox_compile(lua_State *L, const char *text, size_t n, const char *name) {
    const char *why = bounded_is_stranger(bounded_of(L)) ? too_much(L, text, n) : NULL;
    if (!why && is_bytecode(text, n)) why = BYTECODE;
    if (!why) return compile(L, text, n, name, "t");
    lua_pushfstring(L, "%s: %s", name + 1, why); /* behind its "@" or "=" */
    return LUA_ERRSYNTAX;
}

/* ---- load --------------------------------------------------------------------- */

/* The pieces that the function at 1 gives, as one text. */
static int gather(lua_State *L) {
    luaL_Buffer b;
    size_t bytes = 0;
    luaL_buffinit(L, &b);
    for (;;) {
        bounded_charge(L, 1);
        lua_pushvalue(L, 1);
        lua_call(L, 0, 1);
        if (lua_isnil(L, -1)) break;
        if (!lua_isstring(L, -1)) return luaL_error(L, "reader function must return a string");
        size_t n;
        lua_tolstring(L, -1, &n);
        if (n == 0) break;
        bytes += n;
        if (bytes > BOUNDED_CHUNK) return luaL_error(L, "a chunk of more than 1 MB in a sandbox");
        luaL_addvalue(&b);
    }
    lua_pop(L, 1);
    luaL_pushresult(&b);
    return 1;
}

static int failed(lua_State *L) {
    luaL_pushfail(L);
    lua_insert(L, -2);
    return 2;
}

/* load(chunk, name, mode, env); upvalue 1: the environment where none is given. */
static int load_text(lua_State *L) {
    const bool given = !lua_isnone(L, 4), is_text = lua_isstring(L, 1);
    const char *mode = luaL_optstring(L, 3, "t");
    const char *name = luaL_optstring(L, 2, is_text ? lua_tostring(L, 1) : "=(load)");
    if (!is_text) luaL_checktype(L, 1, LUA_TFUNCTION);
    lua_settop(L, 4);
    if (is_text) {
        lua_pushvalue(L, 1);
    } else {
        lua_pushcfunction(L, gather);
        lua_pushvalue(L, 1);
        if (lua_pcall(L, 1, 1, 0) != LUA_OK) return failed(L);
    }
    size_t n;
    const char *text = lua_tolstring(L, 5, &n), *why = too_much(L, text, n);
    if (why) {
        lua_pushstring(L, why);
        return failed(L);
    }
    if (compile(L, text, n, name, strchr(mode, 't') ? "t" : "") != LUA_OK) return failed(L);
    lua_pushvalue(L, given ? 4 : lua_upvalueindex(1));
    if (!lua_setupvalue(L, -2, 1)) lua_pop(L, 1);
    return 1;
}

/* loader(env): load, for that environment. */
static int make_load(lua_State *L) {
    lua_settop(L, 1);
    lua_pushcclosure(L, load_text, 1);
    return 1;
}

/* ---- require ------------------------------------------------------------------ */

/* Not in Lua: of `return require "os"` nothing would be left that knows its line. */
static int require_own(lua_State *L) {
    lua_settop(L, 1);
    lua_pushliteral(L, "performer");
    if (lua_rawequal(L, 1, -1)) {
        lua_pushvalue(L, lua_upvalueindex(1));
        return 1;
    }
    return luaL_error(L, "module '%s' not found: a sandboxed script has 'performer' alone",
                      luaL_tolstring(L, 1, NULL));
}

/* requirer(performer): require, which gives that one. */
static int make_require(lua_State *L) {
    lua_settop(L, 1);
    lua_pushcclosure(L, require_own, 1);
    return 1;
}

/* ---- collectgarbage ----------------------------------------------------------- */

/* A whole collection is paid for by what it walks through. */
static int collect(lua_State *L) {
    static const char *const words[] = {"collect", "step", "count", "isrunning", NULL};
    const int word = luaL_checkoption(L, 1, "collect", words);
    const int kilobytes = lua_gc(L, LUA_GCCOUNT);
    if (word == 2) {
        lua_pushnumber(L, kilobytes + lua_gc(L, LUA_GCCOUNTB) / 1024.0);
    } else if (word == 3) {
        lua_pushboolean(L, 1);
    } else {
        bounded_charge(L, (uint64_t)kilobytes * 1024 / BOUNDED_BYTES);
        lpf_collect(L);
        lua_pushinteger(L, 0);
    }
    return 1;
}

void sandbox_add_load(lua_State *L) {
    static const luaL_Reg functions[] = {{"loader", make_load},
                                         {"requirer", make_require},
                                         {"collectgarbage", collect},
                                         {NULL, NULL}};
    luaL_setfuncs(L, functions, 0);
}
