/*
 * lpf_context.c - the state behind one Lua state, errors, classes and options.
 *
 * The state lies in the registry under a private key, as a userdata whose finalizer comes
 * last (it is made first): tapes and tensors are gone before their engine closes.
 */
#include "lpf.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

atomic_int lpf_interrupts;
atomic_int lpf_polled;
atomic_int lpf_cancel;

static const char state_key = 's';   /* registry: the state's userdata */
static const char pending_key = 'p'; /* registry: the error a callback raised, or false */

enum { MIN_TRIGGER = 64 << 20 };

/* ---- state -------------------------------------------------------------------- */

void lpf_context_release(lpf_context *s) {
    if (--s->refs > 0) return;
    free(s->ops);
    free(s);
}

/* The Lua state closes: everything that points here may outlive it, but not call back. */
static int state_gc(lua_State *L) {
    lpf_context **box = lua_touserdata(L, 1);
    lpf_context *s = *box;
    if (!s) return 0;
    *box = NULL;
    s->main = s->L = NULL;
    lpf_forget_layers(s);
    if (s->owned) pf_engine_close(&s->engine);
    s->engine = NULL;
    lpf_context_release(s);
    return 0;
}

static lpf_context *state_new(lua_State *L) {
    lpf_context **box = lua_newuserdatauv(L, sizeof *box, 0);
    *box = NULL;
    lua_newtable(L);
    lua_pushcfunction(L, state_gc);
    lua_setfield(L, -2, "__gc");
    lua_setmetatable(L, -2);
    lpf_context *s = calloc(1, sizeof *s);
    if (!s) luaL_error(L, "performer: out of memory");
    *box = s;
    s->refs = 1;
    s->log_ref = LUA_NOREF;
    s->trigger = MIN_TRIGGER;
    lua_rawgeti(L, LUA_REGISTRYINDEX, LUA_RIDX_MAINTHREAD);
    s->main = lua_tothread(L, -1);
    lua_pop(L, 1);
    lua_pushboolean(L, 0); /* the slot must exist: keeping an error can't allocate */
    lua_rawsetp(L, LUA_REGISTRYINDEX, &pending_key);
    lua_rawsetp(L, LUA_REGISTRYINDEX, &state_key);
    return s;
}

lpf_context *lpf_enter(lua_State *L) {
    lua_rawgetp(L, LUA_REGISTRYINDEX, &state_key);
    lpf_context **box = lua_touserdata(L, -1);
    lua_pop(L, 1);
    lpf_context *s = box ? *box : NULL;
    if (!s) {
        if (box) luaL_error(L, "performer: this Lua state is closing");
        s = state_new(L);
    }
    s->L = L;
    return s;
}

void lpf_bind_engine(lua_State *L, pf_engine *engine) {
    lpf_context *s = lpf_enter(L);
    s->engine = engine;
    s->owned = false;
}

/* ---- engine ------------------------------------------------------------------- */

typedef struct {
    lpf_context *s;
    pf_log_level level;
    const char *message;
} log_call;

static int log_body(lua_State *L) {
    static const char *const names[] = {"debug", "info", "warn", "silent"};
    const log_call *c = lua_touserdata(L, 1);
    lua_rawgeti(L, LUA_REGISTRYINDEX, c->s->log_ref);
    lua_pushstring(L, names[c->level]);
    lua_pushstring(L, c->message);
    lua_call(L, 2, 0);
    return 0;
}

static void on_log(void *context, pf_log_level level, const char *message) {
    lpf_context *s = context;
    if (s->log_ref != LUA_NOREF && s->L) {
        log_call call = {s, level, message};
        /* An error in the user's log function must not surface as a failed op's. */
        if (lpf_protect(s, log_body, &call) < 0) {
            lua_pushboolean(s->L, 0);
            lua_rawsetp(s->L, LUA_REGISTRYINDEX, &pending_key);
        }
    } else {
        fprintf(stderr, "performer: %s\n", message);
    }
}

/* Bytes from a number or "512M", "4G"; raises for anything else. */
static size_t check_bytes(lua_State *L, int index) {
    double bytes = -1;
    if (lua_type(L, index) == LUA_TNUMBER) {
        bytes = lua_tonumber(L, index);
    } else if (lua_type(L, index) == LUA_TSTRING) {
        char *end;
        bytes = strtod(lua_tostring(L, index), &end);
        const char *units = "kKmMgGtT";
        const char *unit = *end ? strchr(units, *end) : NULL;
        if (unit) {
            for (int i = 0; i <= (unit - units) / 2; i++) bytes *= 1024;
            end++;
        }
        if (*end == 'B' || *end == 'b') end++;
        if (*end || end == lua_tostring(L, index)) bytes = -1;
    }
    if (!(bytes >= 0 && bytes < 9e18))
        lpf_raise(L, "open: memory must be a number of bytes or a text like \"4G\"");
    return (size_t)bytes;
}

static pf_cpu check_cpu(lua_State *L, const char *name) {
    if (strcmp(name, "generic") == 0) return PF_CPU_GENERIC;
    if (strcmp(name, "avx2") == 0) return PF_CPU_AVX2;
    if (strcmp(name, "avx512") == 0) return PF_CPU_AVX512;
    if (strcmp(name, "best") == 0) return PF_CPU_BEST;
    lpf_raise(L, "open: cpu must be generic, avx2, avx512 or best, got '%s'", name);
    return PF_CPU_BEST;
}

static pf_log_level check_level(lua_State *L, const char *name) {
    static const char *const names[] = {"debug", "info", "warn", "silent"};
    for (int i = 0; i < 4; i++)
        if (strcmp(name, names[i]) == 0) return (pf_log_level)i;
    lpf_raise(L, "open: log_level must be debug, info, warn or silent, got '%s'", name);
    return PF_LOG_WARN;
}

static void start_engine(lua_State *L, lpf_context *s, pf_options *options) {
    options->log = on_log;
    options->log_context = s;
    options->cancel = &lpf_cancel;
    lpf_result(L, pf_engine_open(&s->engine, options));
    s->owned = true;
}

pf_engine *lpf_engine(lua_State *L) {
    lpf_context *s = lpf_enter(L);
    if (!s->engine) {
        pf_options options = PF_OPTIONS_DEFAULT;
        options.log_level = PF_LOG_WARN;
        start_engine(L, s, &options);
    }
    return s->engine;
}

int lpf_open_engine(lua_State *L) {
    static const char *const allowed[] = {"threads", "memory",    "seed", "cpu",
                                          "log",     "log_level", NULL};
    lpf_context *s = lpf_enter(L);
    if (s->engine)
        return lpf_raise(L, "open: the engine is already open; call it before first use");
    lpf_check_options(L, 1, allowed, "open");
    pf_options options = PF_OPTIONS_DEFAULT;
    options.threads = (int)lpf_opt_integer(L, 1, "threads", 0);
    options.seed = (uint64_t)lpf_opt_integer(L, 1, "seed", 0);
    options.cpu = check_cpu(L, lpf_opt_string(L, 1, "cpu", "best"));
    options.log_level = check_level(L, lpf_opt_string(L, 1, "log_level", "warn"));
    if (lua_istable(L, 1)) {
        if (lua_getfield(L, 1, "memory") != LUA_TNIL) options.memory = check_bytes(L, -1);
        const int kind = lua_getfield(L, 1, "log");
        if (kind == LUA_TFUNCTION)
            s->log_ref = luaL_ref(L, LUA_REGISTRYINDEX);
        else if (kind != LUA_TNIL)
            lpf_raise(L, "open: log must be a function(level, message)");
    }
    start_engine(L, s, &options);
    return 0;
}

/* ---- errors ------------------------------------------------------------------- */

/* Is a Lua function of the binding itself (performer/nn.lua and friends)? */
static bool is_ours(lua_State *L, const lua_Debug *ar) {
    lua_getfield(L, LUA_REGISTRYINDEX, "performer.home");
    size_t n = 0;
    const char *home = lua_tolstring(L, -1, &n);
    const bool ours = home && ar->source[0] == '@' && strncmp(ar->source + 1, home, n) == 0;
    lua_pop(L, 1);
    return ours;
}

static void push_where(lua_State *L) {
    lua_Debug ar;
    for (int level = 1; lua_getstack(L, level, &ar); level++) {
        lua_getinfo(L, "Sl", &ar);
        if (ar.currentline > 0 && !is_ours(L, &ar)) {
            lua_pushfstring(L, "%s:%d: ", ar.short_src, ar.currentline);
            return;
        }
    }
    lua_pushliteral(L, "");
}

int lpf_raise_message(lua_State *L) {
    push_where(L);
    lua_insert(L, -2);
    lua_concat(L, 2);
    return lua_error(L);
}

int lpf_raise(lua_State *L, const char *format, ...) {
    char message[1024];
    va_list args;
    va_start(args, format);
    vsnprintf(message, sizeof message, format, args);
    va_end(args);
    luaL_checkstack(L, 8, "error");
    lua_pushstring(L, message);
    return lpf_raise_message(L);
}

int lpf_result(lua_State *L, int status) {
    if (status >= 0) return status;
    luaL_checkstack(L, 8, "error");
    if (status == PF_EHOST) {
        /* A Lua callback raised: its own error goes on, as if no C had been between. */
        const bool none = lua_rawgetp(L, LUA_REGISTRYINDEX, &pending_key) == LUA_TBOOLEAN;
        lua_pushboolean(L, 0);
        lua_rawsetp(L, LUA_REGISTRYINDEX, &pending_key);
        if (!none) return lua_error(L);
        lua_pop(L, 1);
    }
    if (status == PF_ECANCEL) atomic_store(&lpf_cancel, 0); /* so that a script can clean up */
    const char *message = pf_last_error();
    lua_pushstring(L, message[0] ? message : pf_status_text(status));
    return lpf_raise_message(L);
}

int lpf_outside(lua_State *L, int status) {
    if (status >= 0) return 0;
    if (status != PF_EIO && status != PF_EFORMAT && status != PF_ENOTFOUND)
        return lpf_result(L, status);
    lua_pushnil(L);
    lua_pushstring(L, pf_last_error());
    lua_pushstring(L, pf_status_name(status));
    return 3;
}

int lpf_protect(lpf_context *s, lua_CFunction body, void *call) {
    lua_State *L = s->L;
    if (!L || !lua_checkstack(L, 20)) return PF_EHOST;
    lua_pushcfunction(L, body);
    lua_pushlightuserdata(L, call);
    const int status = lua_pcall(L, 1, 0, 0);
    s->L = L; /* the callback may have run others */
    if (status == LUA_OK) return PF_OK;
    lua_rawsetp(L, LUA_REGISTRYINDEX, &pending_key);
    return PF_EHOST;
}

const char *lpf_kind(lua_State *L, int index) {
    if (luaL_getmetafield(L, index, "__name") == LUA_TSTRING) {
        const char *name = lua_tostring(L, -1);
        lua_pop(L, 1);
        if (strncmp(name, "performer.", 10) == 0) return name;
    }
    return luaL_typename(L, index);
}

/* Edit distance of two short words, swapped neighbours counting once. */
static int distance(const char *a, const char *b) {
    enum { MAX = 40 };
    int row[3][MAX + 1];
    const int n = (int)strlen(a), m = (int)strlen(b);
    if (n > MAX || m > MAX) return MAX;
    for (int j = 0; j <= m; j++) row[0][j] = j;
    for (int i = 1; i <= n; i++) {
        int *now = row[i % 3], *up = row[(i + 2) % 3], *upper = row[(i + 1) % 3];
        now[0] = i;
        for (int j = 1; j <= m; j++) {
            const int change = up[j - 1] + (a[i - 1] != b[j - 1]);
            now[j] = change;
            if (up[j] + 1 < now[j]) now[j] = up[j] + 1;
            if (now[j - 1] + 1 < now[j]) now[j] = now[j - 1] + 1;
            const bool swapped = i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1];
            if (swapped && upper[j - 2] + 1 < now[j]) now[j] = upper[j - 2] + 1;
        }
    }
    return row[n % 3][m];
}

const char *lpf_nearest(const char *word, const char *const *names, int n) {
    const char *best = NULL;
    int least = (int)strlen(word) / 3 + 2;
    for (int i = 0; i < n; i++) {
        const int d = distance(word, names[i]);
        if (d < least) {
            least = d;
            best = names[i];
        }
    }
    return best;
}

/* ---- classes and options ------------------------------------------------------ */

void lpf_class(lua_State *L, const char *name, const luaL_Reg *methods, const luaL_Reg *meta) {
    if (!luaL_newmetatable(L, name)) { /* loaded a second time: the class stands */
        lua_pop(L, 1);
        return;
    }
    luaL_setfuncs(L, meta, 0);
    lua_pushstring(L, name);
    lua_setfield(L, -2, "__metatable"); /* locked */
    lua_newtable(L);
    luaL_setfuncs(L, methods, 0);
    if (lua_getfield(L, -2, "__index") == LUA_TNIL) {
        lua_pushvalue(L, -2);
        lua_setfield(L, -4, "__index");
    }
    lua_pop(L, 1);
    lua_setfield(L, -2, "methods");
    lua_pop(L, 1);
}

void *lpf_new(lua_State *L, const char *name, size_t bytes) {
    void *block = lua_newuserdatauv(L, bytes, 1);
    memset(block, 0, bytes);
    luaL_setmetatable(L, name);
    return block;
}

/* Pushes options[key]; LUA_TNIL when there is no table. */
static int get_option(lua_State *L, int index, const char *key) {
    if (lua_istable(L, index)) return lua_getfield(L, index, key);
    if (!lua_isnoneornil(L, index))
        lpf_raise(L, "options must be a table, got %s", lpf_kind(L, index));
    lua_pushnil(L);
    return LUA_TNIL;
}

double lpf_opt_number(lua_State *L, int index, const char *key, double def) {
    const int kind = get_option(L, index, key);
    if (kind != LUA_TNIL && kind != LUA_TNUMBER)
        lpf_raise(L, "%s must be a number, got %s", key, lpf_kind(L, -1));
    const double value = kind == LUA_TNIL ? def : lua_tonumber(L, -1);
    lua_pop(L, 1);
    return value;
}

int64_t lpf_opt_integer(lua_State *L, int index, const char *key, int64_t def) {
    const int kind = get_option(L, index, key);
    int whole = 1;
    const lua_Integer value = kind == LUA_TNIL ? def : lua_tointegerx(L, -1, &whole);
    if (!whole || (kind != LUA_TNIL && kind != LUA_TNUMBER)) {
        const char *text = luaL_tolstring(L, -1, NULL);
        lpf_raise(L, "%s must be a whole number, got %s", key, text);
    }
    lua_pop(L, 1);
    return value;
}

bool lpf_opt_bool(lua_State *L, int index, const char *key, bool def) {
    const int kind = get_option(L, index, key);
    if (kind != LUA_TNIL && kind != LUA_TBOOLEAN)
        lpf_raise(L, "%s must be true or false, got %s", key, lpf_kind(L, -1));
    const bool value = kind == LUA_TNIL ? def : lua_toboolean(L, -1) != 0;
    lua_pop(L, 1);
    return value;
}

const char *lpf_opt_string(lua_State *L, int index, const char *key, const char *def) {
    const int kind = get_option(L, index, key);
    if (kind != LUA_TNIL && kind != LUA_TSTRING)
        lpf_raise(L, "%s must be a text, got %s", key, lpf_kind(L, -1));
    /* The table keeps the string alive. */
    const char *value = kind == LUA_TNIL ? def : lua_tostring(L, -1);
    lua_pop(L, 1);
    return value;
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
        const bool text = lua_type(L, -1) == LUA_TSTRING;
        const char *key = text ? lua_tostring(L, -1) : luaL_typename(L, -1);
        int at = 0;
        while (at < n && !(text && strcmp(allowed[at], key) == 0)) at++;
        if (at < n) continue;
        const char *near = text ? lpf_nearest(key, allowed, n) : NULL;
        if (near) lpf_raise(L, "%s: unknown option '%s' (did you mean '%s'?)", where, key, near);
        lpf_raise(L, "%s: unknown option '%s'", where, key);
    }
}

const char *lpf_check_text(lua_State *L, int index, const char *where, const char *what) {
    if (lua_type(L, index) != LUA_TSTRING)
        lpf_raise(L, "%s: %s must be a text, got %s", where, what,
                  lua_isnoneornil(L, index) ? "nothing" : lpf_kind(L, index));
    return lua_tostring(L, index);
}

int64_t lpf_check_whole(lua_State *L, int index, const char *where, const char *what) {
    int whole = 0;
    const lua_Integer value = lua_tointegerx(L, index, &whole);
    if (whole && lua_type(L, index) == LUA_TNUMBER) return value;
    const char *text = lua_isnoneornil(L, index) ? "nothing" : luaL_tolstring(L, index, NULL);
    lpf_raise(L, "%s: %s must be a whole number, got %s", where, what, text);
    return 0;
}
