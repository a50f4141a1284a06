/*
 * lpf_describe.c - what the engine has, as Lua tables: its ops, layers, kernels, kinds of
 * attention and optimizers (pf_describe), and what a kind of attention costs. performer/tables.lua
 * keeps the tables for whoever asks.
 */
#include <string.h>

#include "performer_attention.h"
#include "lpf.h"

/* Attributes have Lua's names in the description on top, as they have in calls. */
static void name_attrs(lua_State *L) {
    const lpf_context *ctx = lpf_enter(L);
    lua_getfield(L, -1, "ops");
    for (int i = 0; i < ctx->n_ops; i++) {
        const pf_op_info *op = &ctx->ops[i].info;
        for (int k = 0; k < op->n_attrs; k++) {
            const char *name = lpf_attr_name(&op->attrs[k]);
            if (strcmp(name, op->attrs[k].name) == 0) continue;
            lua_rawgeti(L, -1, i + 1);
            lua_getfield(L, -1, "attrs");
            lua_rawgeti(L, -1, k + 1);
            lua_pushstring(L, name);
            lua_setfield(L, -2, "name");
            lua_pop(L, 3);
        }
    }
    lua_pop(L, 1);
}

/* read_tables(ops): pf_describe's tree; ops false: without the ops, which are most of it. */
static int read_tables(lua_State *L) {
    bool ops = lua_toboolean(L, 1);
    lpf_enter(L);
    pf_config **tree = lpf_config_slot(L);
    pf_engine *engine = ops ? lpf_small_engine(L) : NULL;
    int status = pf_describe(tree, engine);
    pf_engine_close(&engine);
    lpf_result(L, status);
    lpf_push_config(L, *tree);
    if (ops) name_attrs(L);
    pf_config_free(*tree); /* now: it is larger than what the collector counts */
    *tree = NULL;
    return 1;
}

/* attention_flops(kind, {head_dim, value_dim, features, length, causal, options}): algorithmic
 * flops of one head and token, forward and backward. */
static int attention_flops(lua_State *L) {
    static const char *const allowed[] = {"head_dim", "value_dim", "features", "length",
                                          "causal",   "options",   NULL};
    const char *kind = lpf_check_text(L, 1, "flops", "a kind of attention");
    lpf_check_options(L, 2, allowed, "flops");
    pf_attention_shape shape = {.size = sizeof shape,
                                .head_dim = lpf_opt_integer(L, 2, "head_dim", 0),
                                .features = lpf_opt_integer(L, 2, "features", 0),
                                .length = lpf_opt_integer(L, 2, "length", 1),
                                .causal = lpf_opt_bool(L, 2, "causal", false)};
    shape.options = lpf_opt_config(L, 2, "options", "flops");
    shape.value_dim = lpf_opt_integer(L, 2, "value_dim", shape.head_dim);
    if (shape.head_dim < 1) return lpf_raise(L, "flops: head_dim is needed, the width of a head");
    double forward, backward;
    lpf_enter(L);
    lpf_result(L, pf_attention_flops(&forward, &backward, kind, &shape));
    lua_pushnumber(L, forward);
    lua_pushnumber(L, backward);
    return 2;
}

static const luaL_Reg functions[] = {
    {"read_tables", read_tables}, {"attention_flops", attention_flops}, {NULL, NULL}};

void lpf_open_describe(lua_State *L) { luaL_setfuncs(L, functions, 0); }
