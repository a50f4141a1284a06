/*
 * bounded_string.c - the functions of Lua's string and utf8 libraries that can take long for what
 * they are given, paying as they go. Same results and complaints as Lua 5.4's own.
 */
#include "bounded_libraries.h"

#include <ctype.h>
#include <limits.h>
#include <string.h>

#include "bounded.h"
#include "bounded_match.h"

/* ---- positions ---------------------------------------------------------------- */

/* A first position, from the end where negative, as at least 1. */
static size_t first_of(lua_Integer position, size_t n) {
    if (position > 0) return (size_t)position;
    if (position == 0 || position < -(lua_Integer)n) return 1;
    return n + (size_t)position + 1;
}

/* ---- find, match -------------------------------------------------------------- */

static bool is_plain(const char *pattern, size_t n) {
    static const char special[] = "^$*+?.([%-";
    for (size_t i = 0; i < n; i++)
        if (memchr(special, pattern[i], sizeof special - 1)) return false;
    return true;
}

static int push_found(lua_State *L, const char *text, const char *from, size_t n) {
    lua_pushinteger(L, from - text + 1);
    lua_pushinteger(L, from - text + (lua_Integer)n);
    return 2;
}

static int find_pattern(lua_State *L, const char *text, size_t n, size_t begin, bool find) {
    size_t pattern_n;
    const char *pattern = luaL_checklstring(L, 2, &pattern_n), *at = text + begin;
    const bool anchored = *pattern == '^';
    match_state ms;
    match_begin(&ms, L, text, n, pattern, pattern_n);
    do {
        ms.level = 0;
        ms.depth = MATCH_DEPTH;
        const char *to = match_at(&ms, at, pattern + anchored);
        if (!to) continue;
        match_pay(&ms);
        if (!find) return match_push(&ms, at, to);
        return push_found(L, text, at, (size_t)(to - at)) + match_push(&ms, NULL, NULL);
    } while (at++ < ms.text_end && !anchored);
    match_pay(&ms);
    luaL_pushfail(L);
    return 1;
}

static int find_or_match(lua_State *L, bool find) {
    size_t n, what_n;
    const char *text = luaL_checklstring(L, 1, &n), *what = luaL_checklstring(L, 2, &what_n);
    const size_t begin = first_of(luaL_optinteger(L, 3, 1), n) - 1;
    if (begin > n) {
        luaL_pushfail(L);
        return 1;
    }
    bounded_charge(L, what_n / BOUNDED_BYTES);
    if (!find || !(lua_toboolean(L, 4) || is_plain(what, what_n)))
        return find_pattern(L, text, n, begin, find);
    const char *found = match_plain(L, text + begin, n - begin, what, what_n);
    if (found) return push_found(L, text, found, what_n);
    luaL_pushfail(L);
    return 1;
}

static int string_find(lua_State *L) { return find_or_match(L, true); }
static int string_match(lua_State *L) { return find_or_match(L, false); }

/* ---- gmatch ------------------------------------------------------------------- */

/* Upvalues: the text, the pattern, where to go on, where the last match ended (-1: none yet). */
static int next_match(lua_State *L) {
    size_t n, pattern_n;
    const char *text = lua_tolstring(L, lua_upvalueindex(1), &n);
    const char *pattern = lua_tolstring(L, lua_upvalueindex(2), &pattern_n);
    const lua_Integer begin = lua_tointeger(L, lua_upvalueindex(3));
    const lua_Integer last = lua_tointeger(L, lua_upvalueindex(4));
    match_state ms;
    match_begin(&ms, L, text, n, pattern, pattern_n);
    if (begin > (lua_Integer)n) return 0;
    for (const char *at = text + begin; at <= ms.text_end; at++) {
        ms.level = 0;
        ms.depth = MATCH_DEPTH;
        const char *to = match_at(&ms, at, pattern);
        if (!to || to - text == last) continue;
        match_pay(&ms);
        lua_pushinteger(L, to - text);
        lua_copy(L, -1, lua_upvalueindex(3));
        lua_replace(L, lua_upvalueindex(4));
        return match_push(&ms, at, to);
    }
    match_pay(&ms);
    return 0;
}

static int string_gmatch(lua_State *L) {
    size_t n;
    luaL_checklstring(L, 1, &n);
    luaL_checkstring(L, 2);
    const size_t begin = first_of(luaL_optinteger(L, 3, 1), n) - 1;
    lua_settop(L, 2);
    lua_pushinteger(L, (lua_Integer)(begin > n ? n + 1 : begin));
    lua_pushinteger(L, -1);
    lua_pushcclosure(L, next_match, 4);
    return 1;
}

/* ---- gsub --------------------------------------------------------------------- */

/* The replacement text at 3, with its %0 to %9 filled in. */
static void add_text(match_state *ms, luaL_Buffer *b, const char *from, const char *to) {
    size_t n;
    const char *rest = lua_tolstring(ms->L, 3, &n), *end = rest + n, *at;
    bounded_charge(ms->L, n / BOUNDED_BYTES);
    for (; (at = memchr(rest, MATCH_ESCAPE, (size_t)(end - rest))) != NULL; rest = at + 2) {
        match_step(ms);
        luaL_addlstring(b, rest, (size_t)(at - rest));
        if (at[1] == MATCH_ESCAPE) {
            luaL_addchar(b, at[1]);
        } else if (at[1] == '0') {
            luaL_addlstring(b, from, (size_t)(to - from));
        } else if (isdigit((unsigned char)at[1])) {
            match_push_one(ms, at[1] - '1', from, to);
            luaL_addvalue(b);
        } else {
            luaL_error(ms->L, "invalid use of '%c' in replacement string", MATCH_ESCAPE);
        }
    }
    luaL_addlstring(b, rest, (size_t)(end - rest));
}

/* What stands for the match from..to; false: it stays as it is. */
static bool add_value(match_state *ms, luaL_Buffer *b, const char *from, const char *to, int kind) {
    lua_State *L = ms->L;
    if (kind == LUA_TFUNCTION) {
        lua_pushvalue(L, 3);
        lua_call(L, match_push(ms, from, to), 1);
    } else if (kind == LUA_TTABLE) {
        match_push_one(ms, 0, from, to);
        lua_gettable(L, 3);
    } else {
        add_text(ms, b, from, to);
        return true;
    }
    if (!lua_toboolean(L, -1)) {
        lua_pop(L, 1);
        luaL_addlstring(b, from, (size_t)(to - from));
        return false;
    }
    if (!lua_isstring(L, -1))
        luaL_error(L, "invalid replacement value (a %s)", luaL_typename(L, -1));
    luaL_addvalue(b);
    return true;
}

static int string_gsub(lua_State *L) {
    size_t n, pattern_n;
    const char *at = luaL_checklstring(L, 1, &n), *pattern = luaL_checklstring(L, 2, &pattern_n);
    const int kind = lua_type(L, 3);
    const lua_Integer most = luaL_optinteger(L, 4, (lua_Integer)n + 1);
    luaL_argexpected(L,
                     kind == LUA_TNUMBER || kind == LUA_TSTRING || kind == LUA_TFUNCTION ||
                         kind == LUA_TTABLE,
                     3, "string/function/table");
    const bool anchored = *pattern == '^';
    const char *last = NULL;
    lua_Integer count = 0;
    bool changed = false;
    luaL_Buffer b;
    luaL_buffinit(L, &b);
    match_state ms;
    match_begin(&ms, L, at, n, pattern, pattern_n);
    while (count < most) {
        ms.level = 0;
        ms.depth = MATCH_DEPTH;
        const char *to = match_at(&ms, at, pattern + anchored);
        if (to && to != last) {
            count++;
            changed = add_value(&ms, &b, at, to, kind) || changed;
            at = last = to;
        } else if (at < ms.text_end) {
            luaL_addchar(&b, *at++);
        } else {
            break;
        }
        if (anchored) break;
    }
    match_pay(&ms);
    if (changed) {
        luaL_addlstring(&b, at, (size_t)(ms.text_end - at));
        luaL_pushresult(&b);
    } else {
        lua_pushvalue(L, 1);
    }
    lua_pushinteger(L, count);
    return 2;
}

/* ---- rep ---------------------------------------------------------------------- */

/* Pieces that double: as long as the result, not as the count. */
static void repeat(char *to, const char *unit, size_t unit_n, size_t bytes) {
    size_t done = unit_n < bytes ? unit_n : bytes;
    memcpy(to, unit, done);
    while (done < bytes) {
        const size_t n = done < bytes - done ? done : bytes - done;
        memcpy(to + done, to, n);
        done += n;
    }
}

static int string_rep(lua_State *L) {
    size_t n, between_n;
    const char *text = luaL_checklstring(L, 1, &n);
    const lua_Integer count = luaL_checkinteger(L, 2);
    const char *between = luaL_optlstring(L, 3, "", &between_n);
    if (count <= 0 || n + between_n == 0) {
        lua_pushliteral(L, "");
        return 1;
    }
    if (n + between_n > (size_t)INT_MAX / (size_t)count)
        return luaL_error(L, "resulting string too large");
    const size_t unit = n + between_n, bytes = unit * (size_t)count - between_n;
    char *to = lua_newuserdatauv(L, bytes + 1, 0); /* a buffer would not collect for its room */
    bounded_charge(L, bytes / BOUNDED_BYTES);
    if (between_n > 0 && count > 1) {
        memcpy(to, text, n); /* one unit, from which the rest is copied */
        memcpy(to + n, between, between_n);
        repeat(to, to, unit, bytes);
    } else {
        repeat(to, text, n, bytes);
    }
    lua_pushlstring(L, to, bytes);
    return 1;
}

/* ---- what others read whole --------------------------------------------------- */

/* pack(format, ...): a format's numbers are lengths that are filled up. */
static int string_pack(lua_State *L) {
    size_t n;
    const char *format = luaL_checklstring(L, 1, &n);
    uint64_t bytes = n, number = 0;
    for (size_t i = 0; i <= n; i++) {
        const bool digit = i < n && isdigit((unsigned char)format[i]);
        if (digit && number < (uint64_t)INT32_MAX)
            number = number * 10 + (uint64_t)(format[i] - '0');
        else if (!digit)
            bytes += number, number = 0;
    }
    bounded_charge(L, bytes / 2);
    bounded_format(L);
    bounded_read(L);
    return bounded_stock(L);
}

/* unpack(format, text, from): what it reads is what comes out, or it would cost the whole text to
 * read a number of it. Only a 'z' whose zero is missing reads on to the end in vain. */
static int string_unpack(lua_State *L) {
    size_t n, format_n, bytes = 0;
    const char *format = luaL_checklstring(L, 1, &format_n), *text = luaL_checklstring(L, 2, &n);
    const size_t from = first_of(luaL_optinteger(L, 3, 1), n) - 1;
    bounded_format(L);
    if (from < n && memchr(format, 'z', format_n)) {
        const char *zero = memrchr(text + from, 0, n - from);
        bounded_charge(L, (zero ? (size_t)(text + n - zero) : n - from) / BOUNDED_BYTES);
    }
    const int results = bounded_stock(L);
    for (int i = lua_gettop(L) - results + 1; i <= lua_gettop(L); i++)
        if (lua_type(L, i) == LUA_TSTRING) bytes += lua_rawlen(L, i);
    bounded_charge(L, (uint64_t)results + bytes / BOUNDED_BYTES);
    return results;
}

/* byte(text, from, to), codepoint(text, from, to): a value for each of its bytes, at most. */
static int values_of(lua_State *L) {
    size_t n;
    luaL_checklstring(L, 1, &n);
    const lua_Integer at = luaL_optinteger(L, 2, 1);
    lua_Integer to = luaL_optinteger(L, 3, at);
    const size_t from = first_of(at, n);
    if (to < 0) to += (lua_Integer)n + 1;
    if (to > (lua_Integer)n) to = (lua_Integer)n;
    const uint64_t values = to >= (lua_Integer)from ? (size_t)to - from + 1 : 0;
    bounded_charge(L, values);
    if (values > (uint64_t)bounded_values(L)) return luaL_error(L, "string slice too long");
    return bounded_stock(L);
}

/* len(text, from, to): its bytes are looked at one by one. */
static int utf8_len(lua_State *L) {
    size_t n;
    luaL_checklstring(L, 1, &n);
    const size_t from = first_of(luaL_optinteger(L, 2, 1), n);
    lua_Integer to = luaL_optinteger(L, 3, -1);
    if (to < 0) to += (lua_Integer)n + 1;
    if (to > (lua_Integer)n) to = (lua_Integer)n;
    bounded_charge(L, to > (lua_Integer)from ? ((size_t)to - from) / BOUNDED_BYTES : 0);
    return bounded_stock(L);
}

const luaL_Reg bounded_string[] = {
    {"find", string_find},     {"match", string_match}, {"gmatch", string_gmatch},
    {"gsub", string_gsub},     {"rep", string_rep},     {"pack", string_pack},
    {"unpack", string_unpack}, {"byte", values_of},     {NULL, NULL}};
const luaL_Reg bounded_utf8[] = {{"len", utf8_len}, {"codepoint", values_of}, {NULL, NULL}};
