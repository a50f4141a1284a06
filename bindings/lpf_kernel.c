/*
 * lpf_kernel.c - kernels as userdata: the engine's own objects, made once and used by layers,
 * states, sets and attention alike; and maps written in Lua, which the engine calls back.
 */
#include "lpf.h"

#include <stdlib.h>
#include <string.h>

pf_kernel *lpf_test_kernel(lua_State *L, int index) {
    pf_kernel **box = luaL_testudata(L, index, LPF_KERNEL);
    return box ? *box : NULL;
}

pf_kernel *lpf_opt_kernel(lua_State *L, int index, const char *where) {
    if (lua_isnoneornil(L, index)) return NULL;
    pf_kernel *kernel = lpf_test_kernel(L, index);
    if (!kernel)
        lpf_raise(L, "%s: a kernel is needed (pf.kernel.softmax{...}), got %s", where,
                  lpf_kind(L, index));
    return kernel;
}

static pf_kernel *self(lua_State *L, const char *where) {
    lpf_enter(L);
    pf_kernel *kernel = lpf_test_kernel(L, 1);
    if (!kernel) lpf_raise(L, "%s: a kernel is needed, got %s", where, lpf_kind(L, 1));
    return kernel;
}

static pf_kernel **new_kernel(lua_State *L) { return lpf_new(L, LPF_KERNEL, sizeof(pf_kernel *)); }

/* ---- opening ------------------------------------------------------------------ */

/* kernel(options, projection or nil) */
static int kernel_open(lua_State *L) {
    pf_engine *engine = lpf_engine(L);
    lua_settop(L, 2);
    pf_tensor *projection = lua_isnil(L, 2) ? NULL : lpf_check_tensor(L, 2, "kernel", "projection");
    const pf_config *options = lpf_to_config(L, 1, "kernel");
    pf_kernel **box = new_kernel(L);
    lpf_result(L, pf_kernel_open(box, engine, options, projection));
    return 1;
}

/* A map in Lua; what it learns is the kernel's. */
typedef struct {
    lpf_context *ctx; /* retained */
    int function;     /* kept (lpf_keep) */
} lua_map;

typedef struct {
    const lua_map *map;
    pf_side side;
    pf_tensor *x, **phi;
} map_call;

static int map_body(lua_State *L) {
    const map_call *c = lua_touserdata(L, 1);
    lpf_push_kept(L, c->map->function);
    lpf_push_tensor(L, c->x);
    lua_pushstring(L, c->side == PF_SIDE_KEY ? "key" : "query");
    lua_call(L, 2, 1);
    *c->phi = pf_tensor_retain(lpf_check_tensor(L, -1, "kernel.custom", "what the map returns"));
    return 0;
}

static int run_map(void *context, pf_engine *engine, pf_side side, pf_tensor *x, pf_tensor **phi) {
    const lua_map *map = context;
    map_call call = {map, side, x, phi};
    if (map->ctx->engine && engine != map->ctx->engine) /* its Lua state is for that one's thread */
        return pf_set_error(PF_ESTATE, "kernel.custom: its map is written in Lua, in a script of "
                                       "another engine: make the kernel in a script of this one");
    return lpf_protect(map->ctx, map_body, &call);
}

static void release_map(void *context) {
    lua_map *map = context;
    lpf_drop_kept(map->ctx, map->function);
    lpf_context_release(map->ctx);
    free(map);
}

static int by_name(const void *a, const void *b) {
    return strcmp(((const pf_named *)a)->name, ((const pf_named *)b)->name);
}

/* {name = tensor} at `index` as a list, pushing what holds it; by name, since layers walk their
 * tensors in this order and a table's own changes from run to run. */
static pf_named *parameters_of(lua_State *L, int index, int *n) {
    *n = 0;
    if (lua_isnil(L, index)) {
        lua_pushnil(L);
        return NULL;
    }
    for (lua_pushnil(L); lua_next(L, index); lua_pop(L, 1)) ++*n;
    pf_named *list = lua_newuserdatauv(L, ((size_t)*n + 1) * sizeof *list, 0);
    int i = 0;
    for (lua_pushnil(L); lua_next(L, index); lua_pop(L, 1)) {
        if (lua_type(L, -2) != LUA_TSTRING)
            lpf_raise(L, "kernel.custom: parameters are {name = tensor}, got a %s as name",
                      lpf_kind(L, -2));
        pf_tensor *t = lpf_check_tensor(L, -1, "kernel.custom", "a parameter");
        list[i++] = (pf_named){lpf_check_text(L, -2, "kernel.custom", "a parameter's name"), t};
    }
    qsort(list, (size_t)*n, sizeof *list, by_name);
    return list;
}

static bool shared(const void *kernel) { return pf_kernel_shared(kernel); }

/* host_kernel(name or nil, map, {name = tensor} or nil) */
static int kernel_open_host(lua_State *L) {
    const char *name =
        lua_isnil(L, 1) ? PF_UNNAMED_KERNEL : lpf_check_text(L, 1, "kernel.custom", "the name");
    luaL_checktype(L, 2, LUA_TFUNCTION);
    lua_settop(L, 3);
    pf_engine *engine = lpf_engine(L);
    pf_host_map host = {.size = sizeof host, .map = run_map, .release = release_map};
    host.parameters = parameters_of(L, 3, &host.n_parameters);
    lpf_kept *box = lpf_new_kept(L, LPF_KERNEL, shared);
    lpf_context *ctx = lpf_enter(L);
    const int kept = lpf_keep(L, box, 2);
    lua_map *map = malloc(sizeof *map); /* nothing may raise until the kernel owns it */
    if (!map) {
        lpf_drop_kept(ctx, kept);
        return lpf_raise(L, "kernel.custom: out of memory");
    }
    *map = (lua_map){ctx, kept};
    ctx->refs++;
    host.context = map;
    int status = pf_kernel_open_host((pf_kernel **)&box->thing, engine, name, &host);
    if (status < 0) release_map(map);
    lpf_result(L, status);
    return 1;
}

static int kernel_gc(lua_State *L) {
    pf_kernel **box = luaL_checkudata(L, 1, LPF_KERNEL);
    pf_kernel_release(box);
    return 0;
}

/* ---- asking ------------------------------------------------------------------- */

/* kernel:config(): name and options as plain data. */
static int kernel_config(lua_State *L) {
    lpf_push_config(L, pf_kernel_options(self(L, "config")));
    return 1;
}

static int kernel_name(lua_State *L) {
    lua_pushstring(L, pf_config_string(pf_config_get(pf_kernel_options(self(L, "name")), "name")));
    return 1;
}

/* kernel:settings([head_dim]) */
static int kernel_settings(lua_State *L) {
    const pf_kernel *kernel = self(L, "settings");
    int64_t head_dim = lpf_opt_whole(L, 2, "settings", "head_dim", 0);
    pf_config **settings = lpf_config_slot(L);
    lpf_result(L, pf_kernel_settings(settings, kernel, head_dim));
    lpf_push_config(L, *settings);
    return 1;
}

/* kernel:projection(head_dim [, heads]): the matrix and its factors, as far as there are. */
static int kernel_projection(lua_State *L) {
    pf_kernel *kernel = self(L, "projection");
    int64_t head_dim = lpf_opt_whole(L, 2, "projection", "head_dim", 0);
    int64_t heads = lpf_opt_whole(L, 3, "projection", "heads", 0);
    pf_engine *engine = lpf_engine(L);
    pf_tensor **t = lpf_new_tensor(L), **factors = lpf_new_tensor(L);
    lpf_result(L, pf_kernel_projection(t, factors, engine, kernel, head_dim, heads));
    if (!*t) return 0;
    lpf_made(L, *t);
    if (!*factors) return lua_pop(L, 1), 1;
    lpf_made(L, *factors);
    return 2;
}

/* kernel:features(x, "query" | "key") */
static int kernel_features(lua_State *L) {
    static const char *const sides[] = {"query", "key", NULL};
    pf_kernel *kernel = self(L, "features");
    pf_tensor *x = lpf_check_tensor(L, 2, "features", "x");
    int side = 0;
    const char *word = lua_type(L, 3) == LUA_TSTRING ? lua_tostring(L, 3) : NULL;
    while (sides[side] && !(word && strcmp(word, sides[side]) == 0)) side++;
    if (!sides[side])
        return lpf_raise(L, "features: the side is \"query\" or \"key\", got %s",
                         word                    ? word
                         : lua_isnoneornil(L, 3) ? "nothing"
                                                 : lpf_kind(L, 3));
    pf_engine *engine = lpf_engine(L);
    pf_tensor **phi = lpf_new_tensor(L);
    lpf_result(L, pf_kernel_features(phi, engine, kernel, side ? PF_SIDE_KEY : PF_SIDE_QUERY, x));
    lpf_made(L, *phi);
    return 1;
}

/* tilted_kernel(kernel, tilt) */
static int kernel_tilted(lua_State *L) {
    pf_kernel *kernel = self(L, "fit");
    double tilt = luaL_checknumber(L, 2);
    pf_kernel **box = new_kernel(L);
    lpf_result(L, pf_kernel_tilted(box, lpf_engine(L), kernel, tilt));
    return 1;
}

/* kernel_is_custom(kernel): its map is written in Lua. */
static int kernel_is_custom(lua_State *L) {
    const pf_kernel *kernel = lpf_test_kernel(L, 1);
    lua_pushboolean(L, kernel && pf_kernel_is_host(kernel));
    return 1;
}

/* best_tilt(s, head_dim) -> A. */
static int best_tilt(lua_State *L) {
    lua_pushnumber(L, pf_kernel_best_tilt(luaL_checknumber(L, 1), luaL_checkinteger(L, 2)));
    return 1;
}

/* ---- projections by themselves ------------------------------------------------ */

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

static const luaL_Reg methods[] = {{"config", kernel_config},     {"name", kernel_name},
                                   {"settings", kernel_settings}, {"projection", kernel_projection},
                                   {"features", kernel_features}, {NULL, NULL}};

static const luaL_Reg meta[] = {{"__gc", kernel_gc}, {"__config", kernel_config}, {NULL, NULL}};

static const luaL_Reg functions[] = {
    {"kernel", kernel_open},          {"host_kernel", kernel_open_host},
    {"tilted_kernel", kernel_tilted}, {"kernel_is_custom", kernel_is_custom},
    {"best_tilt", best_tilt},         {"draw_projection", draw_projection},
    {"draw_factors", draw_factors},   {NULL, NULL}};

void lpf_open_kernel(lua_State *L) {
    lpf_class(L, LPF_KERNEL, methods, meta);
    luaL_setfuncs(L, functions, 0);
    lua_pushliteral(L, PF_UNNAMED_KERNEL);
    lua_setfield(L, -2, "unnamed_kernel");
}
