/*
 * lpf_context.c - what one Lua state has of the binding: its engine, opened at first use or the
 * host's, what must happen before that closes, and the classes of its userdata.
 *
 * The context lies in the registry under a private key, as a userdata whose finalizer comes
 * last (it is made first): tapes and tensors are gone before their engine closes.
 */
#include "lpf.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char context_key = 'c'; /* registry: the context's userdata */

/* In the order of pf_log_level. */
static const char *const level_names[] = {"debug", "info", "warn", "silent"};

/* One function of another file that runs before the engine closes. */
struct lpf_closer {
    void (*close)(lpf_context *);
    lpf_closer *next;
};

/* ---- the context -------------------------------------------------------------- */

/* By the context's userdata, and by every layer and recompute in C that calls into Lua. */
void lpf_context_release(lpf_context *ctx) {
    if (--ctx->refs > 0) return;
    if (ctx->outer_state) lpf_context_release(ctx->outer_state);
    if (ctx->plain) freelocale(ctx->plain);
    free(ctx->ops);
    free(ctx);
}

void lpf_at_close(lua_State *L, void (*close)(lpf_context *)) {
    lpf_context *ctx = lpf_enter(L);
    lpf_closer *closer = malloc(sizeof *closer);
    if (!closer) {
        lpf_raise(L, "performer: out of memory");
        return;
    }
    *closer = (lpf_closer){close, ctx->closers};
    ctx->closers = closer;
}

/* The last one registered runs first. */
static void run_closers(lpf_context *ctx) {
    while (ctx->closers) {
        lpf_closer *closer = ctx->closers;
        ctx->closers = closer->next;
        closer->close(ctx);
        free(closer);
    }
}

/* The Lua state closes: everything that points here may outlive it, but not call back. */
static int context_gc(lua_State *L) {
    lpf_context **box = lua_touserdata(L, 1);
    lpf_context *ctx = *box;
    if (!ctx) return 0;
    *box = NULL;
    ctx->main = ctx->L = NULL;
    run_closers(ctx);
    if (ctx->owned) pf_engine_close(&ctx->engine);
    pf_engine_release(&ctx->engine);
    lpf_context_release(ctx);
    return 0;
}

static lpf_context *context_new(lua_State *L) {
    lpf_context **box = lua_newuserdatauv(L, sizeof *box, 0);
    *box = NULL;
    lua_newtable(L);
    lua_pushcfunction(L, context_gc);
    lua_setfield(L, -2, "__gc");
    lua_setmetatable(L, -2);
    lpf_context *ctx = calloc(1, sizeof *ctx);
    if (!ctx) luaL_error(L, "performer: out of memory");
    *box = ctx;
    ctx->refs = 1;
    ctx->log_ref = LUA_NOREF;
    ctx->trigger = LPF_MIN_TRIGGER;
    lua_rawgeti(L, LUA_REGISTRYINDEX, LUA_RIDX_MAINTHREAD);
    ctx->main = lua_tothread(L, -1);
    lua_pop(L, 1);
    lpf_forget_error(L); /* makes its slot */
    lua_rawsetp(L, LUA_REGISTRYINDEX, &context_key);
    return ctx;
}

/* Every function that Lua calls comes through here before it calls the engine: a callback of the
 * engine's then runs on that thread (a coroutine, perhaps), where the caller's stack is. */
lpf_context *lpf_enter(lua_State *L) {
    lua_rawgetp(L, LUA_REGISTRYINDEX, &context_key);
    lpf_context **box = lua_touserdata(L, -1);
    lua_pop(L, 1);
    lpf_context *ctx = box ? *box : NULL;
    if (!ctx) {
        if (box) luaL_error(L, "performer: this Lua state is closing");
        ctx = context_new(L);
    }
    ctx->L = L;
    return ctx;
}

static _Thread_local lpf_context *asking; /* the state whose code builds a model; NULL: the host */

lpf_context *lpf_ask_layers(lpf_context *ctx) {
    lpf_context *before = asking;
    asking = ctx;
    return before;
}

/* It stays the host's: the Lua state's end doesn't close it, and if the host does, its husk says so
 * to whatever the script calls. */
void lpf_bind_engine(lua_State *L, pf_engine *engine) {
    lpf_context *ctx = lpf_enter(L);
    if (ctx->engine && ctx->engine != engine) {
        lua_pushliteral(L, "script: this Lua state is bound to another engine already");
        lpf_raise_as(L, PF_ESTATE);
    }
    if (ctx->engine == engine) return;
    ctx->engine = pf_engine_retain(engine);
    ctx->owned = false;
}

/* ---- classes ------------------------------------------------------------------ */

/* The method of the table on top that `word` may have meant, or NULL. */
static const char *nearest_method(lua_State *L, const char *word) {
    const char *names[256];
    int n = 0;
    lua_pushnil(L);
    while (n < 256 && lua_next(L, -2)) {
        if (lua_type(L, -2) == LUA_TSTRING) names[n++] = lua_tostring(L, -2);
        lua_pop(L, 1);
    }
    return pf_nearest(word, names, n);
}

/* What messages call one of a class. */
static const char *one_of(lua_State *L, const char *name) {
    name += strlen("performer.");
    if (strcmp(name, "items") == 0) return "a set of items";
    if (strcmp(name, "data") == 0) return "a data set";
    return lua_pushfstring(L, "%s %s", strchr("aeiou", *name) ? "an" : "a", name);
}

int lpf_find_method(lua_State *L, const char *name, bool strict) {
    lua_settop(L, 2);
    luaL_getmetatable(L, name);
    lua_getfield(L, 3, "methods");
    lua_pushvalue(L, 2);
    if (lua_rawget(L, 4) != LUA_TNIL) return 1;
    const char *word = lua_type(L, 2) == LUA_TSTRING ? lua_tostring(L, 2) : NULL;
    if (!word && strict)
        return lpf_raise(L, "%s is indexed by a method's name, not by a %s", one_of(L, name),
                         lpf_kind(L, 2));
    if (!word || strncmp(word, "__", 2) == 0) return 1; /* Lua and its libraries ask for these */
    if (lua_getfield(L, 3, "words") == LUA_TTABLE && lua_getfield(L, -1, word) == LUA_TSTRING)
        return lpf_raise(L, "%s has no method '%s'; %s", one_of(L, name), word,
                         lua_tostring(L, -1));
    lua_settop(L, 4);
    const char *near = nearest_method(L, word);
    if (near)
        return lpf_raise(L, "%s has no method '%s' (did you mean '%s'?)", one_of(L, name), word,
                         near);
    if (strict) return lpf_raise(L, "%s has no method '%s'", one_of(L, name), word);
    lua_pushnil(L);
    return 1;
}

static int class_index(lua_State *L) {
    return lpf_find_method(L, lua_tostring(L, lua_upvalueindex(1)), false);
}

/* The metatable `name` with `meta` in it, locked, and `methods` under "methods". They are what
 * indexing finds, unless meta brings an __index of its own. */
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
        lua_pushstring(L, name);
        lua_pushcclosure(L, class_index, 1);
        lua_setfield(L, -4, "__index");
    }
    lua_pop(L, 1);
    lua_setfield(L, -2, "methods");
    lua_pop(L, 1);
}

void lpf_add_methods(lua_State *L, const char *name, const luaL_Reg *methods) {
    luaL_getmetatable(L, name);
    lua_getfield(L, -1, "methods");
    luaL_setfuncs(L, methods, 0);
    lua_pop(L, 2);
}

/* One user value comes with it, for what the userdata keeps alive. */
void *lpf_new(lua_State *L, const char *name, size_t bytes) {
    void *block = lua_newuserdatauv(L, bytes, 1);
    memset(block, 0, bytes);
    luaL_setmetatable(L, name);
    return block;
}

/* ---- engine ------------------------------------------------------------------- */

typedef struct {
    lpf_context *ctx;
    pf_log_level level;
    const char *message;
} log_call;

static int log_body(lua_State *L) {
    const log_call *c = lua_touserdata(L, 1);
    lua_rawgeti(L, LUA_REGISTRYINDEX, c->ctx->log_ref);
    lua_pushstring(L, level_names[c->level]);
    lua_pushstring(L, c->message);
    lua_call(L, 2, 0);
    return 0;
}

/* Called by the engine, so in the middle of a call from Lua, or while it closes. */
static void on_log(void *context, pf_log_level level, const char *message) {
    lpf_context *ctx = context;
    if (ctx->log_ref != LUA_NOREF && ctx->L) {
        log_call call = {ctx, level, message};
        /* An error in the user's log function must not surface as a failed op's. */
        if (lpf_protect(ctx, log_body, &call) < 0) lpf_forget_error(ctx->L);
    } else {
        fprintf(stderr, "performer: %s\n", message);
    }
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
    for (int i = 0; i < 4; i++)
        if (strcmp(name, level_names[i]) == 0) return (pf_log_level)i;
    lpf_raise(L, "open: log_level must be debug, info, warn or silent, got '%s'", name);
    return PF_LOG_WARN;
}

/* Ctrl-C reaches long calls by lpf_cancel. */
static void start_engine(lua_State *L, lpf_context *ctx, pf_options *options) {
    options->log = on_log;
    options->log_context = ctx;
    options->cancel = &lpf_cancel;
    lpf_result(L, pf_engine_open(&ctx->engine, options));
    ctx->owned = true;
}

pf_engine *lpf_engine(lua_State *L) {
    lpf_context *ctx = lpf_enter(L);
    if (!ctx->engine) {
        pf_options options = PF_OPTIONS_DEFAULT;
        options.log_level = PF_LOG_WARN;
        start_engine(L, ctx, &options);
    }
    return ctx->engine;
}

int lpf_open_engine(lua_State *L) {
    static const char *const allowed[] = {"threads", "memory",    "seed",   "cpu",
                                          "log",     "log_level", "limits", NULL};
    lpf_context *ctx = lpf_enter(L);
    if (ctx->engine)
        return lpf_raise(L, "open: the engine is already open; call it before first use");
    lpf_check_options(L, 1, allowed, "open");
    pf_options options = PF_OPTIONS_DEFAULT;
    pf_limits limits;
    options.threads = (int)lpf_opt_integer(L, 1, "threads", 0);
    options.seed = (uint64_t)lpf_opt_integer(L, 1, "seed", 0);
    options.cpu = check_cpu(L, lpf_opt_string(L, 1, "cpu", "best"));
    options.log_level = check_level(L, lpf_opt_string(L, 1, "log_level", "warn"));
    if (lua_istable(L, 1)) {
        if (lua_getfield(L, 1, "memory") != LUA_TNIL)
            options.memory = lpf_check_bytes(L, -1, "open", "memory");
        if (lua_getfield(L, 1, "limits") != LUA_TNIL)
            lpf_check_limits(L, -1, "open", &limits), options.limits = &limits;
        int kind = lua_getfield(L, 1, "log");
        if (kind == LUA_TFUNCTION)
            ctx->log_ref = luaL_ref(L, LUA_REGISTRYINDEX);
        else if (kind != LUA_TNIL)
            lpf_raise(L, "open: log must be a function(level, message)");
    }
    start_engine(L, ctx, &options);
    return 0;
}

/* Of an engine of the script's own: a host's limits are its own business. */
int lpf_limit(lua_State *L) {
    pf_limits limits;
    pf_engine *engine = lpf_engine(L);
    if (!lpf_enter(L)->owned)
        return lpf_raise(L, "limit: the engine is its host's, and so are its limits");
    lpf_check_limits(L, 1, "limit", &limits);
    lpf_result(L, pf_engine_limit(engine, &limits));
    return 0;
}
