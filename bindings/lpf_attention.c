/*
 * lpf_attention.c - what kernels need from the engine: projections, and the check of their
 * options. The kernel objects themselves are Lua (performer/kernel.lua).
 */
#include "lpf.h"

/* The options table at 1: {features, head_dim, heads, seed, layer, epoch, rows, norms}. Its
 * strings stay the table's. */
static pf_projection_options read_projection(lua_State *L) {
    static const char *const allowed[] = {"features", "head_dim", "heads", "seed", "layer",
                                          "epoch",    "rows",     "norms", NULL};
    lpf_check_options(L, 1, allowed, "projection");
    pf_projection_options o = {.size = sizeof o};
    o.features = lpf_opt_integer(L, 1, "features", 0);
    o.head_dim = lpf_opt_integer(L, 1, "head_dim", 0);
    o.heads = lpf_opt_integer(L, 1, "heads", 0);
    o.seed = (uint64_t)lpf_opt_integer(L, 1, "seed", 0);
    o.layer = (uint64_t)lpf_opt_integer(L, 1, "layer", 0);
    o.epoch = (uint64_t)lpf_opt_integer(L, 1, "epoch", 0);
    o.rows = lpf_opt_string(L, 1, "rows", NULL);
    o.norms = lpf_opt_string(L, 1, "norms", NULL);
    return o;
}

static int draw_with(lua_State *L,
                     int (*draw)(pf_tensor **, pf_engine *, const pf_projection_options *)) {
    const pf_projection_options o = read_projection(L);
    pf_engine *engine = lpf_engine(L);
    pf_tensor **t = lpf_new_tensor(L);
    lpf_result(L, draw(t, engine, &o));
    lpf_made(L, *t);
    return 1;
}

/* draw_projection(options), draw_factors(options): the matrix, or its Hadamard factors. */
static int draw_projection(lua_State *L) { return draw_with(L, pf_projection_draw); }
static int draw_factors(lua_State *L) { return draw_with(L, pf_projection_factors); }

/* check_kernel(options, head_dim): raises with the reason. */
static int check_kernel(lua_State *L) {
    int64_t head_dim = luaL_checkinteger(L, 2);
    lpf_enter(L);
    const pf_config *options = lpf_to_config(L, 1, "kernel");
    lpf_result(L, pf_kernel_check(options, head_dim));
    return 0;
}

/* settle_kernel(options, head_dim) -> {features, scale, ratio, eps, tilt}. */
static int settle_kernel(lua_State *L) {
    int64_t head_dim = luaL_checkinteger(L, 2);
    pf_kernel_settings s;
    lpf_enter(L);
    const pf_config *options = lpf_to_config(L, 1, "kernel");
    lpf_result(L, pf_kernel_settle(options, head_dim, &s));
    lua_createtable(L, 0, 5);
    lua_pushinteger(L, s.features);
    lua_setfield(L, -2, "features");
    const struct {
        const char *name;
        double value;
    } numbers[] = {{"scale", s.scale}, {"ratio", s.ratio}, {"eps", s.eps}, {"tilt", s.tilt}};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        lua_pushnumber(L, numbers[i].value);
        lua_setfield(L, -2, numbers[i].name);
    }
    return 1;
}

/* project_kernel(options, head_dim, heads or nil) -> the projection or nil, its factors or nil. */
static int project_kernel(lua_State *L) {
    int64_t head_dim = luaL_checkinteger(L, 2), heads = luaL_optinteger(L, 3, 0);
    pf_engine *engine = lpf_engine(L);
    const pf_config *options = lpf_to_config(L, 1, "kernel");
    pf_tensor **t = lpf_new_tensor(L), **factors = lpf_new_tensor(L);
    lpf_result(L, pf_kernel_project(t, factors, engine, options, head_dim, heads));
    if (!*t) return 0;
    lpf_made(L, *t);
    if (!*factors) return lua_pop(L, 1), 1;
    lpf_made(L, *factors);
    return 2;
}

/* best_tilt(s, head_dim) -> A. */
static int best_tilt(lua_State *L) {
    lua_pushnumber(L, pf_kernel_best_tilt(luaL_checknumber(L, 1), luaL_checkinteger(L, 2)));
    return 1;
}

static const luaL_Reg functions[] = {{"draw_projection", draw_projection},
                                     {"draw_factors", draw_factors},
                                     {"check_kernel", check_kernel},
                                     {"settle_kernel", settle_kernel},
                                     {"project_kernel", project_kernel},
                                     {"best_tilt", best_tilt},
                                     {NULL, NULL}};

void lpf_open_attention(lua_State *L) { luaL_setfuncs(L, functions, 0); }
