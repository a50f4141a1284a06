/*
 * lpf_state.c - streaming states: the memory of a model or of one attention, moved on by
 * prefill and step, forked, reordered, merged, saved and loaded. A state keeps its model
 * alive (user value 1), or nothing.
 */
#include "lpf.h"

#include <string.h>

static int state_close(lua_State *L) {
    pf_state **box = luaL_checkudata(L, 1, LPF_STATE);
    lpf_enter(L);
    pf_state_close(box);
    return 0;
}

/* fork(): a second one that goes on from here by itself. */
static int state_fork(lua_State *L) {
    lpf_check_stream_state(L, 1, "fork");
    pf_engine *engine = lpf_engine(L);
    pf_state **box = lpf_new_stream_state(L); /* may collect what closes the first */
    lua_getiuservalue(L, 1, 1);               /* what the first keeps alive */
    lua_setiuservalue(L, -2, 1);
    lpf_result(L, pf_state_fork(box, engine, lpf_check_stream_state(L, 1, "fork")));
    return 1;
}

static int state_bytes(lua_State *L) {
    lua_pushinteger(L, pf_state_bytes(lpf_check_stream_state(L, 1, "bytes")));
    return 1;
}

static int state_position(lua_State *L) {
    lua_pushinteger(L, pf_state_position(lpf_check_stream_state(L, 1, "position")));
    return 1;
}

static int state_batch(lua_State *L) {
    lua_pushinteger(L, pf_state_batch(lpf_check_stream_state(L, 1, "batch")));
    return 1;
}

/* reorder(rows): row b becomes what row rows[b] was; the state itself. */
static int state_reorder(lua_State *L) {
    lpf_check_stream_state(L, 1, "reorder");
    size_t n;
    const int64_t *rows = lpf_place_list(L, 2, "reorder", "rows", &n);
    pf_state *state = lpf_check_stream_state(L, 1, "reorder");
    lpf_result(L, pf_state_reorder(lpf_engine(L), state, rows, (int64_t)n));
    lua_settop(L, 1);
    return 1;
}

/* append(more): the sequences of another state behind its own; the state itself. */
static int state_append(lua_State *L) {
    pf_state *state = lpf_check_stream_state(L, 1, "append");
    const pf_state *more = lpf_check_stream_state(L, 2, "append");
    lpf_result(L, pf_state_append(lpf_engine(L), state, more));
    lua_settop(L, 1);
    return 1;
}

/* merge(later): the state of both segments; the state itself. */
static int state_merge(lua_State *L) {
    pf_state *state = lpf_check_stream_state(L, 1, "merge");
    const pf_state *later = lpf_check_stream_state(L, 2, "merge");
    lpf_result(L, pf_state_merge(lpf_engine(L), state, later));
    lua_settop(L, 1);
    return 1;
}

/* save(path): a model's state with its model. */
static int state_save(lua_State *L) {
    const pf_state *state = lpf_check_stream_state(L, 1, "save");
    const char *path = lpf_check_text(L, 2, "save", "the path");
    pf_engine *engine = lpf_engine(L);
    lua_getiuservalue(L, 1, 1);
    pf_module **model = luaL_testudata(L, -1, LPF_MODULE);
    int status = model && *model ? pf_module_state_save(engine, *model, state, path)
                                 : pf_state_save(engine, state, path);
    int failed = lpf_outside(L, status);
    if (failed) return failed;
    lua_pushboolean(L, true);
    return 1;
}

static int state_tostring(lua_State *L) {
    pf_state **box = luaL_checkudata(L, 1, LPF_STATE);
    if (*box)
        lua_pushfstring(L, "state after %I tokens, %I bytes", (lua_Integer)pf_state_position(*box),
                        (lua_Integer)pf_state_bytes(*box));
    else
        lua_pushliteral(L, "state, closed");
    return 1;
}

typedef int (*attend_fn)(pf_tensor **, pf_engine *, pf_state *, pf_tensor *, pf_tensor *,
                         pf_tensor *);

/* prefill, step of attention alone: q, k (B, H, n, d) and v (B, H, n, dv) give (B, H, n, dv). */
static int state_attend(lua_State *L, attend_fn fn, const char *where) {
    lpf_check_stream_state(L, 1, where);
    pf_tensor *q = lpf_check_tensor(L, 2, where, "q"), *k = lpf_check_tensor(L, 3, where, "k");
    pf_tensor *v = lpf_check_tensor(L, 4, where, "v");
    pf_engine *engine = lpf_engine(L);
    pf_tensor **out = lpf_new_tensor(L);
    pf_state *state = lpf_take_out(L, 1);
    int status = fn(out, engine, state, q, k, v);
    lpf_put_back(L, 1, state);
    lpf_result(L, status);
    lpf_made(L, *out);
    return 1;
}

static int state_prefill(lua_State *L) { return state_attend(L, pf_attention_prefill, "prefill"); }
static int state_step(lua_State *L) { return state_attend(L, pf_attention_step, "step"); }

/* ---- models -------------------------------------------------------------------- */

/* model:step(x, state), model:prefill(x, state): the outputs. */
typedef int (*stream_fn)(pf_tensor **, pf_engine *, pf_module *, pf_tensor *, pf_state *);

static int stream_call(lua_State *L, stream_fn fn, const char *where) {
    lpf_enter(L);
    pf_module *m = lpf_check_module(L, 1, where);
    pf_tensor *x = lpf_check_tensor(L, 2, where, "x");
    lpf_check_stream_state(L, 3, where);
    pf_engine *engine = lpf_engine(L);
    pf_tensor **y = lpf_new_tensor(L);
    pf_state *state = lpf_take_out(L, 3);
    int status = fn(y, engine, m, x, state);
    lpf_put_back(L, 3, state);
    lpf_result(L, status);
    lpf_made(L, *y);
    return 1;
}

static int module_step(lua_State *L) { return stream_call(L, pf_module_step, "step"); }
static int module_prefill(lua_State *L) { return stream_call(L, pf_module_prefill, "prefill"); }

/* model:state([{batch =, INPUT =}]) */
static int module_state(lua_State *L) {
    lpf_enter(L);
    const pf_module *m = lpf_check_module(L, 1, "state");
    int n;
    const pf_named *inputs = lpf_read_inputs(L, m, 2, "state", &n);
    int64_t batch = lpf_opt_integer(L, 2, "batch", 1);
    if (batch < 1 || batch > INT32_MAX)
        return lpf_raise(L, "state: batch must be from 1 to %d, got %lld", INT32_MAX,
                         (long long)batch);
    pf_engine *engine = lpf_engine(L);
    pf_state **box = lpf_new_stream_state(L);
    lua_pushvalue(L, 1); /* a Lua layer's state needs its layer */
    lua_setiuservalue(L, -2, 1);
    lpf_result(L, pf_module_state_inputs(box, engine, m, (int)batch, inputs, n));
    return 1;
}

/* model:carry([{batch =, keep =, form = "keys" | "rows"}]): what rows go on from. */
static int module_carry(lua_State *L) {
    static const char *const allowed[] = {"batch", "keep", "form", NULL};
    lpf_enter(L);
    pf_module *m = lpf_check_module(L, 1, "carry");
    lua_settop(L, 2);
    lpf_check_options(L, 2, allowed, "carry");
    int64_t batch = lpf_opt_integer(L, 2, "batch", 1), keep = lpf_opt_integer(L, 2, "keep", 0);
    pf_engine *engine = lpf_engine(L);
    pf_state **box = lpf_new_stream_state(L);
    lua_pushvalue(L, 1);
    lua_setiuservalue(L, -2, 1);
    const char *form = lpf_opt_string(L, 2, "form", "keys");
    bool rows = strcmp(form, "rows") == 0;
    if (!rows && strcmp(form, "keys") != 0)
        return lpf_raise(L, "carry: form must be \"keys\" or \"rows\", got \"%s\"", form);
    lpf_result(L, (rows ? pf_module_carry_rows : pf_module_carry)(box, engine, m, batch, keep));
    return 1;
}

/* ---- opening and loading ------------------------------------------------------ */

/* {attention, options, kernel, batch, heads, head_dim, value_dim, decay, table} at `index`. What it
 * points to stays on the stack. */
static pf_attention_state_options read_options(lua_State *L, int index, const char *where) {
    static const char *const allowed[] = {"attention", "options",   "kernel", "batch", "heads",
                                          "head_dim",  "value_dim", "decay",  "table", NULL};
    pf_attention_state_options o = {.size = sizeof o};
    lpf_check_options(L, index, allowed, where);
    o.attention = lpf_opt_string(L, index, "attention", NULL);
    o.options = lpf_opt_config(L, index, "options", where);
    o.batch = lpf_opt_integer(L, index, "batch", 0);
    o.heads = lpf_opt_integer(L, index, "heads", 0);
    o.head_dim = lpf_opt_integer(L, index, "head_dim", 0);
    o.value_dim = lpf_opt_integer(L, index, "value_dim", 0);
    if (lua_getfield(L, index, "decay") != LUA_TNIL)
        o.decay = lpf_check_tensor(L, -1, where, "decay");
    if (lua_getfield(L, index, "table") != LUA_TNIL)
        o.table = lpf_check_tensor(L, -1, where, "table");
    lua_getfield(L, index, "kernel");
    o.kernel = lpf_opt_kernel(L, -1, where);
    return o;
}

/* attention_state(options) */
static int state_open(lua_State *L) {
    pf_engine *engine = lpf_engine(L);
    const pf_attention_state_options o = read_options(L, 1, "attention.state");
    pf_state **box = lpf_new_stream_state(L);
    lpf_result(L, pf_attention_state_open(box, engine, &o));
    return 1;
}

/* load_state(path [, options]): of attention alone; nil, message, code */
static int state_load(lua_State *L) {
    const char *path = lpf_check_text(L, 1, "attention.load_state", "the path");
    pf_engine *engine = lpf_engine(L);
    pf_attention_state_options o = {.size = sizeof o};
    lua_settop(L, 2);
    bool given = !lua_isnil(L, 2);
    if (given) o = read_options(L, 2, "attention.load_state");
    pf_state **box = lpf_new_stream_state(L);
    int failed = lpf_loaded(L, pf_state_load(box, engine, path, given ? &o : NULL));
    return failed ? failed : 1;
}

/* load_model_state(model, path); nil, message, code */
static int model_state_load(lua_State *L) {
    const pf_module *model = lpf_check_module(L, 1, "load_state");
    const char *path = lpf_check_text(L, 2, "load_state", "the path");
    pf_engine *engine = lpf_engine(L);
    pf_state **box = lpf_new_stream_state(L);
    lua_pushvalue(L, 1);
    lua_setiuservalue(L, -2, 1);
    int failed = lpf_loaded(L, pf_module_state_load(box, engine, model, path));
    return failed ? failed : 1;
}

/* state_kernel(state): the name of its kernel ("given": of features) or of its kind; true where
 * its map is written in Lua. Nothing for a model's state. */
static int state_kernel(lua_State *L) {
    const pf_state *state = lpf_check_stream_state(L, 1, "state");
    pf_attention_state_options o = {.size = sizeof o};
    if (pf_attention_state_info(state, &o) < 0) return 0;
    const pf_config *name = o.kernel ? pf_config_get(pf_kernel_options(o.kernel), "name") : NULL;
    lua_pushstring(L, name ? pf_config_string(name) : o.kernel ? "softmax" : o.attention);
    lua_pushboolean(L, o.kernel && pf_kernel_is_host(o.kernel));
    return 2;
}

static const luaL_Reg methods[] = {
    {"prefill", state_prefill}, {"step", state_step},     {"fork", state_fork},
    {"reorder", state_reorder}, {"append", state_append}, {"merge", state_merge},
    {"save", state_save},       {"bytes", state_bytes},   {"position", state_position},
    {"batch", state_batch},     {"close", state_close},   {NULL, NULL}};

static const luaL_Reg meta[] = {
    {"__gc", state_close}, {"__close", state_close}, {"__tostring", state_tostring}, {NULL, NULL}};

static const luaL_Reg functions[] = {{"attention_state", state_open},
                                     {"load_state", state_load},
                                     {"load_model_state", model_state_load},
                                     {"state_kernel", state_kernel},
                                     {NULL, NULL}};

static const luaL_Reg module_methods[] = {{"prefill", module_prefill},
                                          {"step", module_step},
                                          {"state", module_state},
                                          {"carry", module_carry},
                                          {NULL, NULL}};

void lpf_open_state(lua_State *L) {
    lpf_class(L, LPF_STATE, methods, meta);
    lpf_add_methods(L, LPF_MODULE, module_methods);
    luaL_setfuncs(L, functions, 0);
}
