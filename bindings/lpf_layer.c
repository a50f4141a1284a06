/*
 * lpf_layer.c - layers that live in Lua: a table with tensors and a `forward` (and a `step`
 * if it is to stream) behind an engine's host module.
 *
 * The C module keeps the table (lpf_keep.c). An error of the Lua functions is kept aside while
 * the engine unwinds, and goes on as it was (lpf_protect, lpf_result).
 */
#include "lpf.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    lpf_context *s;
    int self;
} lua_layer;

typedef struct {
    lua_layer *layer;
    pf_tensor *x, **y;
    const pf_pass *pass;
    void **state;
    const pf_named *inputs; /* of begin: n_inputs, for streams of `batch` */
    int n_inputs;
    int64_t batch;
    pf_tensor *const *entry; /* of part: n_entry; what goes on, *n_exit */
    pf_tensor **exit;
    int n_entry, *n_exit;
    uint64_t step; /* of after_step */
} layer_call;

/* ---- callbacks ---------------------------------------------------------------- */

/* Pushes the layer's function `name` and the layer. */
static void push_function(lua_State *L, const lua_layer *layer, const char *name) {
    lpf_push_kept(L, layer->self);
    if (lua_getfield(L, -1, name) == LUA_TNIL) lpf_raise(L, "the layer has no '%s'", name);
    lua_insert(L, -2);
}

/* "model.lua:12: gate: its forward must return a tensor, got nil": where the function stands. */
static int refuse_result(lua_State *L, const layer_call *c, const char *what, const char *wanted,
                         int index) {
    lua_Debug ar;
    const char *got = lpf_kind(L, index);
    push_function(L, c->layer, what);
    lua_getfield(L, -1, "name");
    const char *name = lua_type(L, -1) == LUA_TSTRING ? lua_tostring(L, -1) : "layer";
    lua_pushvalue(L, -3);
    lua_getinfo(L, ">S", &ar);
    lua_pushfstring(L, "%s:%d: %s: its %s must return %s, got %s", ar.short_src, ar.linedefined,
                    name, what, wanted, got);
    return lua_error(L);
}

static void take_result(lua_State *L, int index, const layer_call *c, const char *what) {
    index = lua_absindex(L, index);
    pf_tensor *y = lpf_test_tensor(L, index);
    if (!y) refuse_result(L, c, what, "a tensor", index);
    *c->y = pf_tensor_retain(y);
}

static int forward_body(lua_State *L) {
    const layer_call *c = lua_touserdata(L, 1);
    push_function(L, c->layer, "forward");
    lpf_push_tensor(L, c->x);
    lpf_push_pass(L, c->pass);
    lua_call(L, 3, 1);
    take_result(L, -1, c, "forward");
    return 0;
}

/* step(self, x, state): state is a table that lasts, and may be replaced by a second result. */
static int step_body(lua_State *L) {
    const layer_call *c = lua_touserdata(L, 1);
    if (!*c->state) {
        lua_newtable(L);
        *c->state = (void *)(intptr_t)luaL_ref(L, LUA_REGISTRYINDEX);
    }
    const int state = (int)(intptr_t)*c->state;
    push_function(L, c->layer, "step");
    lpf_push_tensor(L, c->x);
    lua_rawgeti(L, LUA_REGISTRYINDEX, state);
    lua_call(L, 3, 2);
    if (!lua_isnil(L, -1) && !lua_istable(L, -1))
        refuse_result(L, c, "step", "a tensor, and a table or nothing behind it", -1);
    if (lua_isnil(L, -1))
        lua_pop(L, 1);
    else
        lua_rawseti(L, LUA_REGISTRYINDEX, state);
    take_result(L, -1, c, "step"); /* last: what raises after it would leak it */
    return 0;
}

/* begin(self, inputs, batch): the table that step gets; without a begin that of the inputs. */
static int begin_body(lua_State *L) {
    const layer_call *c = lua_touserdata(L, 1);
    lua_createtable(L, 0, c->n_inputs);
    for (int i = 0; i < c->n_inputs; i++) {
        lpf_push_tensor(L, c->inputs[i].tensor);
        lua_setfield(L, -2, c->inputs[i].name);
    }
    lpf_push_kept(L, c->layer->self);
    if (lua_getfield(L, -1, "begin") == LUA_TNIL) {
        lua_pop(L, 2);
    } else {
        lua_insert(L, -2);
        lua_rotate(L, -3, 2);
        lua_pushinteger(L, (lua_Integer)c->batch);
        lua_call(L, 3, 1);
    }
    if (!lua_istable(L, -1))
        refuse_result(L, c, "begin", "the table that step gets", lua_gettop(L));
    *c->state = (void *)(intptr_t)luaL_ref(L, LUA_REGISTRYINDEX);
    return 0;
}

/* The Lua state is for the thread of its own engine: another's may share the weights of a model,
 * but not what runs in a script. */
static int call_layer(const lua_layer *layer, const pf_engine *engine, lua_CFunction body,
                      void *call) {
    const pf_engine *own = layer->s->engine; /* NULL: the script has closed */
    if (!own || engine == own) return lpf_protect(layer->s, body, call);
    return pf_set_error(PF_ESTATE, "layer: it is written in Lua, in a script of another engine: "
                                   "build the model in a script of this one");
}

static int call_within_pass(const lua_layer *layer, const pf_engine *engine, lua_CFunction body,
                            layer_call *call) {
    lpf_context *s = layer->s;
    if (engine != s->engine) return call_layer(layer, engine, body, call); /* which says why not */
    const pf_pass *outer = s->pass;
    s->pass = call->pass;
    const int status = call_layer(layer, engine, body, call);
    s->pass = outer;
    return status;
}

static int layer_begin(void *context, pf_engine *engine, const pf_named *inputs, int n,
                       int64_t batch, void **state) {
    lua_layer *layer = context;
    layer_call call = {
        .layer = layer, .state = state, .inputs = inputs, .n_inputs = n, .batch = batch};
    return call_layer(layer, engine, begin_body, &call);
}

static int layer_forward(void *context, pf_engine *engine, pf_tensor *x, const pf_pass *pass,
                         pf_tensor **y) {
    lua_layer *layer = context;
    layer_call call = {.layer = layer, .x = x, .y = y, .pass = pass};
    return call_within_pass(layer, engine, forward_body, &call);
}

static int layer_step(void *context, pf_engine *engine, pf_tensor *x, void **state, pf_tensor **y) {
    lua_layer *layer = context;
    layer_call call = {.layer = layer, .x = x, .y = y, .state = state};
    return call_layer(layer, engine, step_body, &call);
}

/* The list at `index` of at most PF_HOST_PARTS tensors, or nil, becomes what goes on. */
static void take_exit(lua_State *L, int index, const layer_call *c) {
    static const char wanted[] = "a tensor and a list of at most 5 that go on";
    if (lua_isnil(L, index)) return;
    if (!lua_istable(L, index) || lua_rawlen(L, index) > PF_HOST_PARTS)
        refuse_result(L, c, "part", wanted, index);
    const int n = (int)lua_rawlen(L, index);
    for (int i = 0; i < n; i++) {
        lua_rawgeti(L, index, i + 1);
        pf_tensor *t = lpf_test_tensor(L, -1);
        if (!t) refuse_result(L, c, "part", wanted, lua_gettop(L));
        c->exit[i] = pf_tensor_retain(t);
        *c->n_exit = i + 1;
        lua_pop(L, 1);
    }
}

/* part(self, x, entry, pass): y, exit; entry and exit are lists, nil before the first slice. */
static int part_body(lua_State *L) {
    const layer_call *c = lua_touserdata(L, 1);
    push_function(L, c->layer, "part");
    lpf_push_tensor(L, c->x);
    if (c->n_entry == 0)
        lua_pushnil(L);
    else
        lua_createtable(L, c->n_entry, 0);
    for (int i = 0; i < c->n_entry; i++) {
        lpf_push_tensor(L, c->entry[i]);
        lua_rawseti(L, -2, i + 1);
    }
    lpf_push_pass(L, c->pass);
    lua_call(L, 4, 2);
    take_exit(L, lua_gettop(L), c);
    take_result(L, -2, c, "part");
    return 0;
}

static int layer_part(void *context, pf_engine *engine, pf_tensor *x, const pf_pass *pass,
                      pf_tensor *const *entry, int n, pf_tensor **exit, int *n_exit,
                      pf_tensor **y) {
    lua_layer *layer = context;
    layer_call call = {.layer = layer,
                       .x = x,
                       .y = y,
                       .pass = pass,
                       .entry = entry,
                       .n_entry = n,
                       .exit = exit,
                       .n_exit = n_exit};
    return call_within_pass(layer, engine, part_body, &call);
}

static int after_step_body(lua_State *L) {
    const layer_call *c = lua_touserdata(L, 1);
    push_function(L, c->layer, "after_step");
    lua_pushinteger(L, (lua_Integer)c->step);
    lua_call(L, 2, 0);
    return 0;
}

static int layer_after_step(void *context, pf_engine *engine, uint64_t step) {
    lua_layer *layer = context;
    layer_call call = {.layer = layer, .step = step};
    return call_layer(layer, engine, after_step_body, &call);
}

static void layer_release_state(void *context, void *state) {
    const lua_layer *layer = context;
    if (layer->s->main && state)
        luaL_unref(layer->s->main, LUA_REGISTRYINDEX, (int)(intptr_t)state);
}

/* ---- copies and files of states ------------------------------------------------ */

/* What becomes of a layer's state is Lua's business: performer/state.lua hands over
 * {copy, save, load} once. */
static const char hooks_key = 'h';

typedef struct {
    void *state, **made;
    const int64_t *rows;
    int64_t n, batch;
    const pf_named *given; /* of a file */
    pf_named **tensors;
    int n_given, *count;
    const pf_config *data;
    pf_config **plain;
} state_call;

/* layer_states{copy, save, load} */
static int set_hooks(lua_State *L) {
    luaL_checktype(L, 1, LUA_TTABLE);
    lua_settop(L, 1);
    lua_rawsetp(L, LUA_REGISTRYINDEX, &hooks_key);
    return 0;
}

static void push_hook(lua_State *L, const char *name) {
    if (lua_rawgetp(L, LUA_REGISTRYINDEX, &hooks_key) != LUA_TTABLE)
        lpf_raise(L, "performer.state is not loaded");
    lua_getfield(L, -1, name);
}

static void keep_state(lua_State *L, const state_call *c) {
    *c->made = (void *)(intptr_t)luaL_ref(L, LUA_REGISTRYINDEX);
}

static int copy_body(lua_State *L) {
    const state_call *c = lua_touserdata(L, 1);
    push_hook(L, "copy");
    lua_rawgeti(L, LUA_REGISTRYINDEX, (int)(intptr_t)c->state);
    lua_pushnil(L);
    if (c->rows) {
        lua_createtable(L, (int)c->n, 0);
        for (int64_t i = 0; i < c->n; i++) {
            lpf_push_place(L, c->rows[i]);
            lua_rawseti(L, -2, i + 1);
        }
        lua_replace(L, -2);
    }
    lua_pushinteger(L, c->batch);
    lua_call(L, 3, 1);
    keep_state(L, c);
    return 0;
}

/* The table of tensors at `index` as an array; count what is complete as it grows. */
static void take_tensors(lua_State *L, int index, const state_call *c) {
    int n = 0;
    for (lua_pushnil(L); lua_next(L, index); lua_pop(L, 1)) n++;
    *c->tensors = calloc((size_t)n + 1, sizeof(pf_named));
    if (!*c->tensors) lpf_raise(L, "save: out of memory");
    for (lua_pushnil(L); lua_next(L, index); lua_pop(L, 1)) {
        char *name = strdup(lpf_check_text(L, -2, "save", "a name in a layer's state"));
        if (!name) lpf_raise(L, "save: out of memory");
        (*c->tensors)[(*c->count)++] = (pf_named){name, pf_tensor_retain(lpf_test_tensor(L, -1))};
    }
}

static int by_name(const void *a, const void *b) {
    return strcmp(((const pf_named *)a)->name, ((const pf_named *)b)->name);
}

static int save_body(lua_State *L) {
    const state_call *c = lua_touserdata(L, 1);
    push_hook(L, "save");
    lua_rawgeti(L, LUA_REGISTRYINDEX, (int)(intptr_t)c->state);
    lua_call(L, 1, 2);
    take_tensors(L, lua_gettop(L) - 1, c);
    qsort(*c->tensors, (size_t)*c->count, sizeof(pf_named), by_name);
    *c->plain = pf_config_copy(lpf_to_config(L, lua_gettop(L), "save"));
    if (!*c->plain) return lpf_raise(L, "save: out of memory");
    return 0;
}

static int load_body(lua_State *L) {
    const state_call *c = lua_touserdata(L, 1);
    push_hook(L, "load");
    lua_createtable(L, 0, c->n_given);
    for (int i = 0; i < c->n_given; i++) {
        lpf_push_tensor(L, c->given[i].tensor);
        lua_setfield(L, -2, c->given[i].name);
    }
    lpf_push_config(L, c->data);
    lua_call(L, 2, 1);
    keep_state(L, c);
    return 0;
}

static int layer_fork_state(void *context, pf_engine *engine, void *state, int64_t batch,
                            const int64_t *rows, int64_t n, void **copy) {
    const lua_layer *layer = context;
    state_call call = {.state = state, .made = copy, .rows = rows, .n = n, .batch = batch};
    return call_layer(layer, engine, copy_body, &call);
}

static int layer_save_state(void *context, pf_engine *engine, void *state, pf_named **tensors,
                            int *n, pf_config **data) {
    const lua_layer *layer = context;
    state_call call = {.state = state, .tensors = tensors, .count = n, .plain = data};
    *tensors = NULL, *n = 0, *data = NULL;
    const int status = call_layer(layer, engine, save_body, &call);
    if (status >= 0) return status;
    pf_named_free(*tensors, *n);
    pf_config_free(*data);
    *tensors = NULL, *n = 0, *data = NULL;
    return status;
}

static int layer_load_state(void *context, pf_engine *engine, const pf_named *tensors, int n,
                            const pf_config *data, void **state) {
    const lua_layer *layer = context;
    state_call call = {.made = state, .given = tensors, .n_given = n, .data = data};
    return call_layer(layer, engine, load_body, &call);
}

static void layer_release(void *context) {
    lua_layer *layer = context;
    lpf_drop_kept(layer->s, layer->self);
    lpf_context_release(layer->s);
    free(layer);
}

/* ---- making ------------------------------------------------------------------- */

/* Adds the tensors of a list of {name, tensor, trained}. */
static void add_tensors(lua_State *L, pf_module *m, int list) {
    const int n = (int)lua_rawlen(L, list);
    for (int i = 1; i <= n; i++) {
        lua_rawgeti(L, list, i);
        lua_rawgeti(L, -1, 1);
        lua_rawgeti(L, -2, 2);
        lua_rawgeti(L, -3, 3);
        const char *name = lpf_check_text(L, -3, "layer", "a tensor's name");
        pf_tensor *t = lpf_check_tensor(L, -2, "layer", name);
        lpf_result(L, pf_module_add_tensor(m, name, t, lua_toboolean(L, -1)));
        lua_pop(L, 4);
    }
}

/* The layer's `inputs`, a list of names, with NULL behind it; they stand in its table. */
static const char *const *read_names(lua_State *L, int layer, const char *name) {
    if (lua_getfield(L, layer, "inputs") == LUA_TNIL) return NULL;
    if (!lua_istable(L, -1))
        lpf_raise(L, "%s: inputs must be a list of names, got %s", name, lpf_kind(L, -1));
    const int n = (int)lua_rawlen(L, -1), list = lua_gettop(L);
    const char **names = lua_newuserdatauv(L, ((size_t)n + 1) * sizeof *names, 0);
    for (int i = 0; i < n; i++) {
        lua_rawgeti(L, list, i + 1);
        names[i] = lpf_check_text(L, -1, name, "the name of an input");
        lua_pop(L, 1);
    }
    names[n] = NULL;
    return names;
}

static bool field_is_true(lua_State *L, int table, const char *key) {
    lua_getfield(L, table, key);
    const bool yes = lua_toboolean(L, -1);
    lua_pop(L, 1);
    return yes;
}

static bool shared(const void *module) { return pf_module_shared(module); }

/* new_layer(self, name, children, tensors). */
static int layer_new(lua_State *L) {
    luaL_checktype(L, 1, LUA_TTABLE);
    const char *name = lpf_check_text(L, 2, "layer", "its name");
    luaL_checktype(L, 3, LUA_TTABLE);
    luaL_checktype(L, 4, LUA_TTABLE);
    pf_engine *engine = lpf_engine(L);
    lpf_context *s = lpf_enter(L);
    const int n = (int)lua_rawlen(L, 3);
    pf_module **children = lua_newuserdatauv(L, ((size_t)n + 1) * sizeof *children, 0);
    for (int i = 0; i < n; i++) {
        lua_rawgeti(L, 3, i + 1);
        children[i] = lpf_check_module(L, -1, name);
        lua_pop(L, 1);
    }
    const bool streams = field_is_true(L, 1, "step");
    const char *const *names = read_names(L, 1, name);
    lpf_kept *box = lpf_new_kept(L, LPF_MODULE, shared);
    pf_host_layer host = {.size = sizeof host,
                          .forward = layer_forward,
                          .step = streams ? layer_step : NULL,
                          .release = layer_release,
                          .release_state = layer_release_state,
                          .fork_state = layer_fork_state,
                          .save_state = layer_save_state,
                          .load_state = layer_load_state,
                          .inputs = names,
                          .begin = layer_begin,
                          .by_position = field_is_true(L, 1, "by_position"),
                          .part = field_is_true(L, 1, "part") ? layer_part : NULL,
                          .after_step = field_is_true(L, 1, "after_step") ? layer_after_step : NULL,
                          .width = lpf_opt_integer(L, 1, "width", 0),
                          .recompute = field_is_true(L, 1, "recompute")};
    const int kept = lpf_keep(L, box, 1);
    lua_layer *layer = malloc(sizeof *layer); /* nothing may raise until the module owns it */
    if (!layer) {
        lpf_drop_kept(s, kept);
        return lpf_raise(L, "%s: out of memory", name);
    }
    *layer = (lua_layer){s, kept};
    s->refs++;
    host.context = layer;
    pf_module **made = (pf_module **)&box->thing;
    const int status = pf_module_host(made, engine, name, &host, children, n);
    if (status < 0) layer_release(layer); /* the module took nothing over */
    lpf_result(L, status);
    add_tensors(L, *made, 4);
    return 1;
}

static const luaL_Reg functions[] = {
    {"new_layer", layer_new}, {"layer_states", set_hooks}, {NULL, NULL}};

void lpf_open_layer(lua_State *L) { luaL_setfuncs(L, functions, 0); }
