/*
 * lpf_op_table.c - the op table in Lua: every row becomes a function pf.<op> and a method t:<op>,
 * and where it has a name in place a method of that (whose calls lpf_ops.c reads). Read once for
 * each Lua state; what the engine knows of an op is not written down here a second time.
 */
#include "lpf.h"

#include <stdlib.h>
#include <string.h>

/* ---- reading ------------------------------------------------------------------ */

/* Cuts "a, b, [mask]" into names. */
static void cut_names(lpf_op *op) {
    const char *p = op->info.args;
    while (*p && op->n_args < LPF_MAX_IN) {
        p += strspn(p, " ,[");
        size_t n = strcspn(p, " ,].");
        if (n == 0) break;
        size_t kept = n < LPF_NAME - 1 ? n : LPF_NAME - 1;
        memcpy(op->arg[op->n_args], p, kept);
        op->arg[op->n_args++][kept] = 0;
        p += strcspn(p, ",");
    }
}

pf_engine *lpf_small_engine(lua_State *L) {
    pf_options options = PF_OPTIONS_DEFAULT;
    options.threads = 1;
    pf_engine *engine = NULL;
    lpf_result(L, pf_engine_open(&engine, &options));
    return engine;
}

static void read_table(lua_State *L, lpf_context *ctx) {
    pf_engine *engine = lpf_small_engine(L);
    int n = pf_op_count(engine);
    ctx->ops = calloc((size_t)n, sizeof *ctx->ops);
    ctx->n_ops = ctx->ops ? n : 0;
    for (int i = 0; i < ctx->n_ops; i++) {
        ctx->ops[i].info.size = sizeof ctx->ops[i].info;
        pf_op_at(engine, i, &ctx->ops[i].info);
        ctx->ops[i].index = i;
        cut_names(&ctx->ops[i]);
    }
    pf_engine_close(&engine);
    if (!ctx->ops) luaL_error(L, "performer: out of memory");
}

const lpf_op *lpf_find_op(lua_State *L, const char *name) {
    const lpf_context *ctx = lpf_enter(L);
    for (int i = 0; i < ctx->n_ops; i++)
        if (strcmp(ctx->ops[i].info.name, name) == 0) return &ctx->ops[i];
    lpf_raise(L, "no op '%s'", name);
    return NULL;
}

/* ---- functions and methods ---------------------------------------------------- */

/* The rows never move or change, so each function keeps a pointer to its own. */
void lpf_open_ops(lua_State *L) {
    lpf_context *ctx = lpf_enter(L);
    if (!ctx->ops) read_table(L, ctx);
    luaL_getmetatable(L, LPF_TENSOR);
    lua_getfield(L, -1, "methods");
    for (int i = 0; i < ctx->n_ops; i++) {
        const char *name = ctx->ops[i].info.name;
        bool fits = ctx->ops[i].info.max_inputs <= LPF_MAX_IN &&
                    ctx->ops[i].info.n_attrs <= LPF_MAX_ATTR &&
                    ctx->ops[i].info.outputs <= LPF_MAX_OUT;
        if (!fits) luaL_error(L, "performer: op '%s' is too wide for the binding", name);
        lua_pushlightuserdata(L, &ctx->ops[i]);
        lua_pushcclosure(L, lpf_call_op, 1);
        if (lua_getfield(L, -2, name) == LUA_TNIL) { /* a method of the class stands first */
            lua_pushvalue(L, -2);
            lua_setfield(L, -4, name);
        }
        lua_pop(L, 1);
        lua_setfield(L, -4, name);
        if (!ctx->ops[i].info.in_place) continue;
        lua_pushlightuserdata(L, &ctx->ops[i]);
        lua_pushcclosure(L, lpf_call_in_place, 1);
        lua_setfield(L, -2, ctx->ops[i].info.in_place);
    }
    lua_pop(L, 2);
}
