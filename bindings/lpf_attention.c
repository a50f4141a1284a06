/*
 * lpf_attention.c - what kernels need from the engine: projections, and the check of their
 * options. The kernel objects themselves are Lua (performer/kernel.lua).
 */
#include "lpf.h"

/* draw_projection{features, head_dim, heads, seed, layer, epoch, iid, regular}. */
static int draw_projection(lua_State *L) {
    static const char *const allowed[] = {"features", "head_dim", "heads",   "seed", "layer",
                                          "epoch",    "iid",      "regular", NULL};
    lpf_check_options(L, 1, allowed, "projection");
    pf_projection_options o = {.size = sizeof o};
    o.features = lpf_opt_integer(L, 1, "features", 0);
    o.head_dim = lpf_opt_integer(L, 1, "head_dim", 0);
    o.heads = lpf_opt_integer(L, 1, "heads", 0);
    o.seed = (uint64_t)lpf_opt_integer(L, 1, "seed", 0);
    o.layer = (uint64_t)lpf_opt_integer(L, 1, "layer", 0);
    o.epoch = (uint64_t)lpf_opt_integer(L, 1, "epoch", 0);
    o.iid = lpf_opt_bool(L, 1, "iid", false);
    o.regular = lpf_opt_bool(L, 1, "regular", false);
    pf_engine *engine = lpf_engine(L);
    pf_tensor **t = lpf_new_tensor(L);
    lpf_result(L, pf_projection_draw(t, engine, &o));
    lpf_made(L, *t);
    return 1;
}

/* check_kernel(options, head_dim): raises with the reason. */
static int check_kernel(lua_State *L) {
    const int64_t head_dim = luaL_checkinteger(L, 2);
    lpf_enter(L);
    const pf_config *options = lpf_to_config(L, 1, "kernel");
    lpf_result(L, pf_kernel_check(options, head_dim));
    return 0;
}

static const luaL_Reg functions[] = {
    {"draw_projection", draw_projection}, {"check_kernel", check_kernel}, {NULL, NULL}};

void lpf_open_attention(lua_State *L) { luaL_setfuncs(L, functions, 0); }
