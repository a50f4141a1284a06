/*
 * lpf_define.c - layers in Lua by name (nn.define), which models that are loaded find: a script
 * says how a layer of a name is built of its children, and the engine asks for it.
 *
 * Several Lua states may stand behind one engine, one in front of the other: who is asked and does
 * not know the name asks who stood there before. A model that one of them builds finds the layers
 * of that state and the host's; one that the host builds all there are but strangers', who could
 * give another layer than is meant.
 */
#include "lpf.h"

static const char layers_key = 'l'; /* registry: name -> builder, for pf_module_build */

typedef struct {
    const char *name;
    pf_module *const *children;
    int n;
    pf_module **module; /* stays NULL where the name is not known */
} resolve_call;

static int resolve_body(lua_State *L) {
    const resolve_call *c = lua_touserdata(L, 1);
    lua_rawgetp(L, LUA_REGISTRYINDEX, &layers_key);
    if (lua_getfield(L, -1, c->name) == LUA_TNIL) return 0;
    lua_createtable(L, c->n, 0);
    for (int i = 0; i < c->n; i++) {
        lpf_push_module(L, c->children[i]);
        lua_rawseti(L, -2, i + 1);
    }
    lua_call(L, 1, 1);
    *c->module = pf_module_retain(lpf_check_module(L, -1, c->name));
    return 0;
}

/* What this state does not know, or no longer, who was asked before may. */
static int resolve(void *context, pf_engine *engine, const char *name, pf_module *const *children,
                   int n, pf_module **module) {
    lpf_context *ctx = context;
    resolve_call call = {name, children, n, module};
    *module = NULL;
    lpf_context *before = lpf_ask_layers(ctx); /* also of what the builder builds in turn */
    const bool asked = ctx->main && (before ? before == ctx : !ctx->stranger);
    const int status = asked ? lpf_protect(ctx, resolve_body, &call) : PF_OK;
    lpf_ask_layers(before);
    if (status < 0 || *module) return status;
    if (!ctx->outer) return PF_ENOTFOUND;
    return ctx->outer(ctx->outer_context, engine, name, children, n, module);
}

static void start_resolving(lua_State *L, pf_engine *engine) {
    lpf_context *ctx = lpf_enter(L);
    void *outer_context;
    const pf_layer_resolver outer = pf_engine_layer_resolver(engine, &outer_context);
    lpf_result(L, pf_engine_resolve_layers(engine, resolve, ctx));
    ctx->outer = outer, ctx->outer_context = outer_context;
    if (outer != resolve) return;
    ctx->outer_state = outer_context;
    ctx->outer_state->refs++;
}

/* A host's engine outlives the Lua state that found its layers: who was there before is back again,
 * unless another state stands in front by now, which will ask this one in vain. */
static void stop_resolving(lpf_context *ctx) {
    void *now;
    if (!ctx->engine || pf_engine_layer_resolver(ctx->engine, &now) != resolve || now != ctx)
        return;
    const lpf_context *last = ctx;
    while (last->outer_state && !last->outer_state->main) last = last->outer_state;
    if (pf_engine_resolve_layers(ctx->engine, last->outer, last->outer_context) < 0)
        pf_engine_resolve_layers(ctx->engine, NULL, NULL);
}

/* define_layer(name, builder): builder gets the children and returns a module. */
static int layer_define(lua_State *L) {
    lpf_check_text(L, 1, "nn.define", "the name");
    luaL_checktype(L, 2, LUA_TFUNCTION);
    pf_engine *engine = lpf_engine(L);
    if (lua_rawgetp(L, LUA_REGISTRYINDEX, &layers_key) != LUA_TTABLE) { /* the first one */
        lua_newtable(L);
        lua_pushvalue(L, -1);
        lua_rawsetp(L, LUA_REGISTRYINDEX, &layers_key);
        lpf_at_close(L, stop_resolving);
        start_resolving(L, engine);
    }
    lua_pushvalue(L, 2);
    lua_setfield(L, -2, lua_tostring(L, 1));
    return 0;
}

static const luaL_Reg functions[] = {{"define_layer", layer_define}, {NULL, NULL}};

void lpf_open_define(lua_State *L) { luaL_setfuncs(L, functions, 0); }
