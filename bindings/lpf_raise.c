/*
 * lpf_raise.c - errors: misuse and the engine's failures raised as Lua errors, the outside
 * world's returned as nil, message, code.
 *
 * An error of a Lua function that the engine called can't jump over the engine's frames. It is
 * kept aside while they return PF_EHOST (lpf_protect), and goes on as it was where C meets Lua
 * again (lpf_result).
 */
#include "bounded.h"
#include "lpf.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* Here, since an interrupted call ends in an error, which puts lpf_cancel back. */
atomic_int lpf_interrupts;
atomic_int lpf_polled;
atomic_int lpf_cancel;
atomic_int lpf_stopping;
atomic_int lpf_careful;

static const char pending_key = 'p'; /* registry: the error that is kept aside, or false */
static const char raised_key = 'r';  /* registry: the last text that was raised here, or false */
static const char status_key = 's';  /* registry: the engine's status behind it */

/* ---- raising ------------------------------------------------------------------ */

bool lpf_is_ours(lua_State *L, const lua_Debug *ar) {
    lua_getfield(L, LUA_REGISTRYINDEX, "performer.home");
    size_t n = 0;
    const char *home = lua_tolstring(L, -1, &n);
    bool ours = home && ar->source[0] == '@' && strncmp(ar->source + 1, home, n) == 0;
    lua_pop(L, 1);
    return ours;
}

/* "file:line: " of the nearest Lua function that is the user's, or "". */
static void push_where(lua_State *L) {
    lua_Debug ar;
    for (int level = 1; lua_getstack(L, level, &ar); level++) {
        lua_getinfo(L, "Sl", &ar);
        if (ar.currentline > 0 && !lpf_is_ours(L, &ar)) {
            lua_pushfstring(L, "%s:%d: ", ar.short_src, ar.currentline);
            return;
        }
    }
    lua_pushliteral(L, "");
}

void lpf_remember(lua_State *L, int status) {
    lua_pushvalue(L, -1);
    lua_rawsetp(L, LUA_REGISTRYINDEX, &raised_key);
    lua_pushinteger(L, status);
    lua_rawsetp(L, LUA_REGISTRYINDEX, &status_key);
}

static bool ends_in(const char *text, size_t bytes, const char *end, size_t n) {
    return n > 0 && bytes >= n && memcmp(text + bytes - n, end, n) == 0;
}

/* Who catches an error and raises it again puts a position before it, or words. */
int lpf_status_of(lua_State *L, int index) {
    static const char memory[] = "not enough memory"; /* Lua's own */
    size_t bytes, n = 0;
    if (lua_type(L, index) != LUA_TSTRING) return PF_EHOST;
    const char *text = lua_tolstring(L, index, &bytes), *raised = NULL;
    if (lua_rawgetp(L, LUA_REGISTRYINDEX, &raised_key) == LUA_TSTRING)
        raised = lua_tolstring(L, -1, &n);
    lua_rawgetp(L, LUA_REGISTRYINDEX, &status_key);
    int status = (int)lua_tointeger(L, -1);
    if (!raised || !ends_in(text, bytes, raised, n)) status = 0;
    lua_pop(L, 2);
    if (status < 0) return status;
    return ends_in(text, bytes, memory, sizeof memory - 1) ? PF_ENOMEM : PF_EHOST;
}

int lpf_raise_as(lua_State *L, int status) {
    push_where(L);
    lua_insert(L, -2);
    lua_concat(L, 2);
    lpf_remember(L, status);
    return lua_error(L);
}

int lpf_raise_message(lua_State *L) { return lpf_raise_as(L, PF_EINVAL); }

int lpf_raise(lua_State *L, const char *format, ...) {
    char message[2048];
    va_list args;
    va_start(args, format);
    vsnprintf(message, sizeof message, format, args);
    va_end(args);
    luaL_checkstack(L, 8, "error");
    lua_pushstring(L, message);
    return lpf_raise_message(L);
}

const char *lpf_class_of(lua_State *L, int index) {
    if (luaL_getmetafield(L, index, "__name") == LUA_TSTRING) {
        const char *name = lua_tostring(L, -1);
        lua_pop(L, 1);
        if (strncmp(name, "performer.", 10) == 0) return name;
    }
    return luaL_typename(L, index);
}

/* Every userdata of ours begins with the pointer to what it holds. */
const char *lpf_kind(lua_State *L, int index) {
    const char *name = lpf_class_of(L, index);
    const bool ours = lua_type(L, index) == LUA_TUSERDATA && strncmp(name, "performer.", 10) == 0;
    void *const *box = ours ? lua_touserdata(L, index) : NULL;
    return box && !*box ? lua_pushfstring(L, "a closed %s", name) : name;
}

/* Bytes that follow a first one of UTF-8; -1: it is none. C2 80 .. C2 9F are controls, too. */
static int following(const unsigned char *at) {
    if (*at < 0x80) return *at < 0x20 || *at == 0x7f ? -1 : 0;
    if (*at < 0xc2 || *at > 0xf4 || (*at == 0xc2 && at[1] < 0xa0)) return -1;
    return *at < 0xe0 ? 1 : *at < 0xf0 ? 2 : 3;
}

void lpf_plain(char *text, bool lines) {
    for (unsigned char *at = (unsigned char *)text; *at; at++) {
        if (lines && (*at == '\n' || *at == '\t')) continue;
        const int rest = following(at);
        int n = 0;
        while (n < rest && (at[n + 1] & 0xc0) == 0x80) n++;
        if (n == rest)
            at += n;
        else
            *at = '?';
    }
}

/* ---- what the engine and its callbacks say ------------------------------------ */

void lpf_forget_error(lua_State *L) {
    const char *const slots[] = {&pending_key, &raised_key, &status_key};
    for (int i = 0; i < 3; i++) {
        lua_pushboolean(L, 0);
        lua_rawsetp(L, LUA_REGISTRYINDEX, slots[i]);
    }
}

/* What the body raised, on top: kept for lpf_result, and told for a host that called the engine
 * itself, in whose script no Lua waits for it. */
static int keep_error(lpf_context *ctx, lua_State *L) {
    bounded *b = bounded_of(L);
    const int over = b ? bounded_over(b) : PF_OK;
    const char *text = over                             ? bounded_why(b)
                       : lua_type(L, -1) == LUA_TSTRING ? lua_tostring(L, -1)
                                                        : NULL;
    if (text) pf_set_error(over ? over : PF_EHOST, text);
    if (ctx->hosted && ctx->inside == 0)
        lua_pop(L, 1);
    else
        lua_rawsetp(L, LUA_REGISTRYINDEX, &pending_key);
    return over ? over : PF_EHOST;
}

/* What a limit has cut short would be watched for ever, and no other could begin. */
void lpf_end_watch(lpf_context *ctx, bool before) {
    if (before || !ctx->watching) return;
    pf_finite_end(ctx->engine, 0, NULL);
    ctx->watching = false;
}

/* The body on the thread that called last. */
static int protect(lpf_context *ctx, lua_CFunction body, void *call) {
    lua_State *L = ctx->L;
    const bool watching = ctx->watching;
    lua_pushcfunction(L, body);
    lua_pushlightuserdata(L, call);
    ctx->inside++;
    int status = lua_pcall(L, 1, 0, 0);
    ctx->inside--;
    lpf_end_watch(ctx, watching);
    ctx->L = L; /* the callback may have run others */
    return status == LUA_OK ? PF_OK : keep_error(ctx, L);
}

/* A script's code, which the host calls by way of a model, is within the script's bounds there. */
static int protect_hosted(lpf_context *ctx, lua_CFunction body, void *call) {
    const bool outermost = ctx->inside == 0;
    int status = outermost ? pf_meter_enter(ctx->meter) : PF_OK;
    if (status < 0) return status;
    if (outermost) bounded_begin(bounded_of(ctx->L));
    pf_meter *payer = pf_engine_lend_meter(ctx->engine, ctx->meter);
    const pf_file_access *before = pf_engine_lend_files(ctx->engine, ctx->files);
    const locale_t locale = lpf_locale_enter(ctx);
    status = protect(ctx, body, call);
    lpf_locale_leave(ctx, locale);
    pf_engine_lend_files(ctx->engine, before);
    pf_engine_lend_meter(ctx->engine, payer);
    if (outermost) pf_meter_leave(ctx->meter);
    return status;
}

int lpf_protect(lpf_context *ctx, lua_CFunction body, void *call) {
    if (!ctx->L || !lua_checkstack(ctx->L, 20)) return PF_EHOST;
    return ctx->hosted ? protect_hosted(ctx, body, call) : protect(ctx, body, call);
}

/* How much the engine put before a text that it was told, which it may have cut: the path of the
 * layer whose forward raised it. 0: nothing. */
static size_t path_before(const char *message, const char *text) {
    enum { ENOUGH = 64 }; /* bytes that are no chance */
    const size_t n = strlen(message), all = strlen(text);
    for (size_t k = 1; k < n; k++) {
        const size_t rest = n - k;
        if ((rest == all || (rest < all && rest >= ENOUGH)) && !strncmp(message + k, text, rest))
            return k;
    }
    return 0;
}

/* The length of the "file:line: " that a text begins with. */
static size_t position_of(const char *text) {
    const char *end = text + strcspn(text, "\n");
    for (const char *at = text; (at = memchr(at, ':', (size_t)(end - at))) != NULL; at++) {
        const size_t digits = strspn(at + 1, "0123456789");
        if (digits > 0 && strncmp(at + 1 + digits, ": ", 2) == 0)
            return (size_t)(at - text) + digits + 3;
    }
    return 0;
}

/* The error of a Lua layer on top, a text: with the path of the layer behind its position, where
 * layers in C have theirs. */
static void name_layer(lua_State *L) {
    const char *text = lua_tostring(L, -1), *message = pf_last_error_from(1);
    const size_t path = path_before(message, text), at = position_of(text);
    if (path == 0) return;
    const int status = lpf_status_of(L, -1);
    lua_pushlstring(L, text, at);
    lua_pushlstring(L, message, path);
    lua_pushstring(L, text + at);
    lua_concat(L, 3);
    if (status != PF_EHOST) lpf_remember(L, status);
}

/* The message on top, of a choice that there is none of, with what is meant by it elsewhere. */
static void hint_choice(lua_State *L) {
    if (!strstr(lua_tostring(L, -1), " must be one of ")) return;
    if (lua_getfield(L, LUA_REGISTRYINDEX, LPF_HINT_CHOICE) != LUA_TFUNCTION) {
        lua_pop(L, 1);
        return;
    }
    lua_pushvalue(L, -2);
    if (lua_pcall(L, 1, 1, 0) == LUA_OK && lua_isstring(L, -1))
        lua_replace(L, -2);
    else
        lua_pop(L, 1);
}

int lpf_result(lua_State *L, int status) {
    if (status >= 0) return status;
    luaL_checkstack(L, 8, "error");
    if (status == PF_EHOST) {
        /* A Lua callback raised: its own error goes on, as if no C had been between, but that a
         * text says which layer's it is. */
        bool none = lua_rawgetp(L, LUA_REGISTRYINDEX, &pending_key) == LUA_TBOOLEAN;
        lua_pushboolean(L, 0);
        lua_rawsetp(L, LUA_REGISTRYINDEX, &pending_key);
        if (lua_type(L, -1) == LUA_TSTRING) name_layer(L);
        if (!none) return lua_error(L);
        lua_pop(L, 1);
    }
    lua_pushboolean(L, 0); /* of a callback that reached a limit: what follows says so */
    lua_rawsetp(L, LUA_REGISTRYINDEX, &pending_key);
    const bool bound = bounded_note(L, status);
    if (status == PF_ECANCEL && !bound) atomic_store(&lpf_cancel, 0); /* a script can clean up */
    const char *message = pf_last_error_from(1);
    lua_pushstring(L, message[0] ? message : pf_status_text(status));
    hint_choice(L);
    return lpf_raise_as(L, status);
}

int lpf_outside(lua_State *L, int status) {
    if (status >= 0) return 0;
    if (status != PF_EIO && status != PF_EFORMAT && status != PF_ENOTFOUND)
        return lpf_result(L, status);
    return lpf_failure(L, status);
}

int lpf_failure(lua_State *L, int status) {
    lua_pushnil(L);
    lua_pushstring(L, pf_last_error_from(1));
    lpf_remember(L, status); /* of an assert, which raises the text as it is */
    lua_pushstring(L, pf_status_name(status));
    return 3;
}

int lpf_loaded(lua_State *L, int status) {
    const bool raises =
        status == PF_ENOMEM || status == PF_ECANCEL || status == PF_ELIMIT || status == PF_EHOST;
    return status >= 0 ? 0 : raises ? lpf_result(L, status) : lpf_failure(L, status);
}
