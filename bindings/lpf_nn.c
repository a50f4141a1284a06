/*
 * lpf_nn.c - modules: a box with one reference to an engine's module. The constructors of
 * pf.nn stand on new_module; everything that is known of a type comes from the layer table.
 */
#include "lpf.h"

#include <string.h>

/* ---- boxes -------------------------------------------------------------------- */

pf_module **lpf_new_module(lua_State *L) { return lpf_new(L, LPF_MODULE, sizeof(pf_module *)); }

void lpf_push_module(lua_State *L, pf_module *m) {
    pf_module **box = lpf_new_module(L);
    *box = pf_module_retain(m);
}

pf_module *lpf_check_module(lua_State *L, int index, const char *where) {
    pf_module **box = luaL_testudata(L, index, LPF_MODULE);
    if (!box || !*box)
        return lpf_raise(L, "%s: a module is needed, got %s", where, lpf_kind(L, index)), NULL;
    return *box;
}

/* Argument 1 of a method. */
static pf_module *self(lua_State *L, const char *where) {
    lpf_enter(L);
    return lpf_check_module(L, 1, where);
}

static int module_gc(lua_State *L) {
    lpf_enter(L);
    pf_module_release(luaL_checkudata(L, 1, LPF_MODULE));
    return 0;
}

/* Boxes are many, modules one. */
static int module_eq(lua_State *L) {
    pf_module **a = luaL_testudata(L, 1, LPF_MODULE), **b = luaL_testudata(L, 2, LPF_MODULE);
    lua_pushboolean(L, a && b && *a == *b);
    return 1;
}

/* ---- making ------------------------------------------------------------------- */

/* A kernel among the options is plain data there; beside it goes the handle by which the layer
 * finds this very object: its map in Lua, its given projection. */
static void name_kernel(lua_State *L, int index, pf_config *options) {
    if (!lua_istable(L, index)) return;
    lua_getfield(L, index, "kernel");
    const pf_kernel *kernel = lpf_test_kernel(L, -1);
    if (kernel) {
        pf_config **config = lpf_config_slot(L);
        lpf_result(L, pf_kernel_config(config, kernel));
        pf_config *named = *config;
        *config = NULL; /* set takes it, also on failure */
        lpf_result(L, pf_config_set(options, "kernel", named));
        lua_pop(L, 1);
    }
    lua_pop(L, 1);
}

/* new_module(type, options, children): children is a list of modules. */
static int module_new(lua_State *L) {
    const char *type = lpf_check_text(L, 1, "nn", "the type");
    luaL_checktype(L, 3, LUA_TTABLE);
    int n = (int)lua_rawlen(L, 3);
    pf_engine *engine = lpf_engine(L);
    pf_config *options = lpf_to_config(L, 2, type);
    name_kernel(L, 2, options);
    pf_module **children = lua_newuserdatauv(L, ((size_t)n + 1) * sizeof *children, 0);
    for (int i = 0; i < n; i++) {
        lua_rawgeti(L, 3, i + 1);
        children[i] = lpf_check_module(L, -1, type); /* the list keeps it alive */
        lua_pop(L, 1);
    }
    pf_module **box = lpf_new_module(L);
    lpf_result(L, pf_module_new(box, engine, type, options, children, n));
    return 1;
}

/* build(tree): what tree() gave. */
static int module_build(lua_State *L) {
    pf_engine *engine = lpf_engine(L);
    const pf_config *tree = lpf_to_config(L, 1, "build");
    pf_module **box = lpf_new_module(L);
    lpf_drop_dead(L);
    lpf_context *before = lpf_ask_layers(lpf_enter(L));
    const int status = pf_module_build(box, engine, tree);
    lpf_ask_layers(before);
    lpf_result(L, status);
    return 1;
}

/* ---- running ------------------------------------------------------------------ */

/* x of model(x [, pass]) or model(batch [, pass]), and the pass; a batch has an `input`. */
static pf_tensor *read_call(lua_State *L, pf_module *m, pf_pass *pass) {
    lua_settop(L, 3);
    bool batch = lua_istable(L, 2);
    *pass = lpf_read_pass(L, m, batch ? 2 : 0, 3);
    if (batch && lua_getfield(L, 2, "input") == LUA_TNIL)
        lpf_raise(L, "%s: x must be a tensor, got %s", pf_module_type(m),
                  lua_rawlen(L, 2) > 0 ? "a table (pf.tensor makes one of a list)"
                                       : "nil as the input of a batch");
    return lpf_check_tensor(L, batch ? -1 : 2, pf_module_type(m), "x");
}

/* The box of the state that rows go on from (in the options or the batch, and on the stack), empty
 * while the model runs, so that nobody closes it; NULL: there is none. */
static pf_state **take_carry(lua_State *L, const pf_pass *pass) {
    for (int at = 3; pass->carry && at >= 2; at--) {
        if (!lua_istable(L, at)) continue;
        lua_getfield(L, at, "carry");
        pf_state **box = luaL_testudata(L, -1, LPF_STATE);
        lua_pop(L, 1);
        if (!box || *box != pass->carry) continue;
        *box = NULL;
        return box;
    }
    return NULL;
}

static void give_back(pf_state **box, const pf_pass *pass) {
    if (box) *box = pass->carry;
}

/* hidden >= 0: what pf_module_hidden gives, not the output. */
static int call(lua_State *L, int64_t hidden) {
    pf_module *m = self(L, hidden < 0 ? "forward" : "hidden");
    pf_pass pass;
    pf_tensor *x = read_call(L, m, &pass);
    pf_engine *engine = lpf_engine(L);
    pf_tensor **y = lpf_new_tensor(L);
    pf_state **carry = take_carry(L, &pass);
    int status = hidden < 0 ? pf_module_forward(y, engine, m, x, &pass)
                            : pf_module_hidden(y, engine, m, x, &pass, hidden);
    give_back(carry, &pass);
    lpf_result(L, status);
    lpf_made(L, *y);
    return 1;
}

static int module_call(lua_State *L) { return call(L, -1); }

/* model:hidden(x [, pass [, block]]) */
static int module_hidden(lua_State *L) {
    lua_Integer block = luaL_optinteger(L, 4, 0);
    if (block < 1 && !lua_isnoneornil(L, 4))
        return lpf_raise(L, "hidden: blocks count from 1, got %lld", (long long)block);
    return call(L, block);
}

/* Input and target of the batch at 2; both stay on the stack while the model runs. */
static void read_batch(lua_State *L, const char *where, pf_tensor **x, pf_tensor **target) {
    lua_getfield(L, 2, "input");
    lua_getfield(L, 2, "target");
    *target = lpf_check_tensor(L, -1, where, "target");
    *x = lpf_check_tensor(L, -2, where, "input");
}

/* model:loss(batch [, pass]): the mean cross entropy, on the open tape. */
static int module_loss(lua_State *L) {
    pf_module *m = self(L, "loss");
    luaL_checktype(L, 2, LUA_TTABLE);
    lua_settop(L, 3);
    const pf_pass pass = lpf_read_pass(L, m, 2, 3);
    pf_tensor *x, *target;
    read_batch(L, "loss", &x, &target);
    pf_engine *engine = lpf_engine(L);
    pf_tensor **loss = lpf_new_tensor(L);
    pf_state **carry = take_carry(L, &pass);
    int status = pf_module_loss(loss, engine, m, x, target, &pass);
    give_back(carry, &pass);
    lpf_result(L, status);
    lpf_made(L, *loss);
    return 1;
}

/* The option `carry` at 3, which stays on the stack. */
static void read_carry(lua_State *L, pf_pass *pass, const char *where) {
    if (!lua_istable(L, 3) || lua_getfield(L, 3, "carry") == LUA_TNIL) return;
    pass->carry = lpf_check_stream_state(L, -1, where);
}

/* model:evaluate(batch [, {slice_length =, carry =}]): {loss =, tokens =, right =}, sums. */
static int module_evaluate(lua_State *L) {
    static const char *const allowed[] = {"slice_length", "carry", NULL};
    pf_module *m = self(L, "evaluate");
    luaL_checktype(L, 2, LUA_TTABLE);
    lua_settop(L, 3);
    lpf_check_options(L, 3, allowed, "evaluate");
    int64_t length = lpf_opt_integer(L, 3, "slice_length", 0);
    pf_pass pass = lpf_read_pass(L, m, 2, 0);
    pf_tensor *x, *target;
    read_carry(L, &pass, "evaluate");
    read_batch(L, "evaluate", &x, &target);
    pf_evaluation result = {.size = sizeof result};
    pf_engine *engine = lpf_engine(L);
    pf_state **carry = take_carry(L, &pass);
    int status = pf_module_evaluate(&result, engine, m, x, target, &pass, length);
    give_back(carry, &pass);
    lpf_result(L, status);
    lua_createtable(L, 0, 3);
    lua_pushnumber(L, result.loss);
    lua_setfield(L, -2, "loss");
    lua_pushinteger(L, result.tokens);
    lua_setfield(L, -2, "tokens");
    lua_pushinteger(L, result.right);
    lua_setfield(L, -2, "right");
    return 1;
}

static pf_slicing read_slicing(lua_State *L, int index) {
    pf_slicing how = {.size = sizeof how};
    how.length = lpf_opt_integer(L, index, "slice_length", 0);
    how.slices = lpf_opt_integer(L, index, "slices", how.length == 0);
    how.levels = (int)lpf_opt_integer(L, index, "levels", 0);
    return how;
}

/* model:outputs(x [, pass]): {name = tensor}. */
static int module_outputs(lua_State *L) {
    pf_module *m = self(L, "outputs");
    pf_pass pass;
    pf_tensor *x = read_call(L, m, &pass);
    pf_engine *engine = lpf_engine(L);
    const int n = pf_module_output_count(m);
    pf_tensor **made = lua_newuserdatauv(L, ((size_t)n + 1) * sizeof *made, 0);
    lua_createtable(L, 0, n);
    pf_tensor ***box = lua_newuserdatauv(L, ((size_t)n + 1) * sizeof *box, 0);
    for (int i = 0; i < n; i++) { /* boxes first: nothing may raise with tensors in hand */
        const char *name;
        lpf_result(L, pf_module_output_at(m, i, &name));
        box[i] = lpf_new_tensor(L);
        lua_setfield(L, -3, name);
    }
    lpf_result(L, pf_module_outputs(made, engine, m, x, &pass));
    for (int i = 0; i < n; i++) *box[i] = made[i];
    for (int i = 0; i < n; i++) lpf_made(L, made[i]);
    lua_pop(L, 1);
    return 1;
}

/* model:backward_sliced(batch, {slices = | slice_length =, levels =, training =, step =, watch =,
 * micro =, counted =, carry =}): the loss. A batch is a table with input and target. */
static int module_backward_sliced(lua_State *L) {
    static const char *const allowed[] = {"slices", "slice_length", "levels",  "training", "step",
                                          "watch",  "micro",        "counted", "carry",    NULL};
    pf_module *m = self(L, "backward_sliced");
    luaL_checktype(L, 2, LUA_TTABLE);
    lua_settop(L, 3);
    lpf_check_options(L, 3, allowed, "backward_sliced");
    const pf_slicing how = read_slicing(L, 3);
    pf_pass pass = lpf_read_pass(L, m, 2, 0);
    pass.training = lpf_opt_bool(L, 3, "training", true);
    pass.step = lpf_opt_count(L, 3, "step", pass.step);
    pass.watch = lpf_opt_bool(L, 3, "watch", pass.watch);
    pass.micro = lpf_opt_count(L, 3, "micro", 0);
    pass.counted = lpf_opt_count(L, 3, "counted", 0);
    pf_tensor *x, *target;
    read_carry(L, &pass, "backward_sliced");
    read_batch(L, "backward_sliced", &x, &target);
    double loss = 0;
    pf_engine *engine = lpf_engine(L);
    pf_state **carry = take_carry(L, &pass);
    int status = pf_module_backward_sliced(&loss, engine, m, x, target, &pass, &how);
    give_back(carry, &pass);
    lpf_result(L, status);
    lua_pushnumber(L, loss);
    return 1;
}

/* after_step(step): what an optimizer's step does last; how many projections were drawn. */
static int module_after_step(lua_State *L) {
    pf_module *m = self(L, "after_step");
    int64_t step = lpf_check_whole(L, 2, "after_step", "step");
    int drawn = 0;
    lpf_result(L, pf_module_after_step(lpf_engine(L), m, (uint64_t)step, &drawn));
    lua_pushinteger(L, drawn);
    return 1;
}

/* ---- looking ------------------------------------------------------------------ */

static int module_type(lua_State *L) {
    lua_pushstring(L, pf_module_type(self(L, "type")));
    return 1;
}

/* m:options(): what it was made with, the defaults filled in. */
static int module_options(lua_State *L) {
    const pf_config *options = pf_module_options(self(L, "options"));
    if (options)
        lpf_push_config(L, options);
    else
        lua_newtable(L);
    return 1;
}

/* m:tree(): {type, options, children} all the way down, as config.json has it. */
static int module_tree(lua_State *L) {
    const pf_module *m = self(L, "tree");
    pf_config **slot = lpf_config_slot(L);
    lpf_result(L, pf_module_tree(slot, m));
    lpf_push_config(L, *slot);
    return 1;
}

static int module_len(lua_State *L) {
    lua_pushinteger(L, pf_module_child_count(self(L, "#")));
    return 1;
}

/* Children in order; with a position, that one. */
static int module_children(lua_State *L) {
    pf_module *m = self(L, "children");
    int n = pf_module_child_count(m);
    lua_createtable(L, n, 0);
    for (int i = 0; i < n; i++) {
        lpf_push_module(L, pf_module_child(m, i));
        lua_rawseti(L, -2, i + 1);
    }
    return 1;
}

typedef struct {
    const char *name;
    pf_tensor *tensor;
    bool trained;
} named_tensor;

/* The engine walks the tree in one order always: that of files and of optimizers. */
static int tensor_count(lua_State *L, const pf_module *m) {
    return lpf_result(L, pf_module_tensor_count(m));
}

static named_tensor tensor_at(lua_State *L, const pf_module *m, int i) {
    named_tensor t = {0};
    lpf_result(L, pf_module_tensor_at(m, i, &t.name, &t.tensor, &t.trained));
    return t;
}

/* {name = tensor} of everything that is saved. */
static int module_tensors(lua_State *L) {
    const pf_module *m = self(L, "tensors");
    int n = tensor_count(L, m);
    lua_createtable(L, 0, n);
    for (int i = 0; i < n; i++) {
        const named_tensor t = tensor_at(L, m, i);
        lpf_push_tensor(L, t.tensor);
        lua_setfield(L, -2, t.name);
    }
    return 1;
}

/* Two lists in walk order: the trained tensors, and their names. */
static int module_parameters(lua_State *L) {
    const pf_module *m = self(L, "parameters");
    int n = tensor_count(L, m);
    int count = 0;
    lua_createtable(L, n, 0);
    lua_createtable(L, n, 0);
    for (int i = 0; i < n; i++) {
        const named_tensor t = tensor_at(L, m, i);
        if (!t.trained) continue;
        lpf_push_tensor(L, t.tensor);
        lua_rawseti(L, -3, ++count);
        lua_pushstring(L, t.name);
        lua_rawseti(L, -2, count);
    }
    return 2;
}

/* Numbers: trained ones, and all that are saved. */
static int module_count(lua_State *L) {
    const pf_module *m = self(L, "count");
    int n = tensor_count(L, m);
    int64_t trained = 0, all = 0;
    for (int i = 0; i < n; i++) {
        const named_tensor t = tensor_at(L, m, i);
        all += pf_tensor_numel(t.tensor);
        if (t.trained) trained += pf_tensor_numel(t.tensor);
    }
    lua_pushinteger(L, trained);
    lua_pushinteger(L, all);
    return 2;
}

/* ---- what is trained ----------------------------------------------------------- */

/* freeze(pattern, frozen): how many parameters it fits. */
static int module_freeze(lua_State *L) {
    pf_module *m = self(L, "freeze");
    const char *pattern = lpf_check_text(L, 2, "freeze", "the pattern");
    lua_pushinteger(L, lpf_result(L, pf_module_freeze(m, pattern, lua_toboolean(L, 3))));
    return 1;
}

/* adapt(pattern, rank, scale): how many layers got an adapter. */
static int module_adapt(lua_State *L) {
    pf_module *m = self(L, "adapt");
    const char *pattern = lpf_check_text(L, 2, "adapt", "match");
    const int64_t rank = lpf_check_whole(L, 3, "adapt", "rank");
    const double scale = lpf_check_number(L, 4, "adapt", "scale");
    pf_engine *engine = lpf_engine(L);
    lua_pushinteger(L, lpf_result(L, pf_module_adapt(engine, m, pattern, rank, scale)));
    return 1;
}

/* m:merge(): how many adapters became a part of their weights. */
static int module_merge(lua_State *L) {
    lua_pushinteger(L, lpf_result(L, pf_module_merge(self(L, "merge"))));
    return 1;
}

/* m.name is a method; who looks for layers or tensors where other libraries have them hears where
 * they are. */
static int module_index(lua_State *L) {
    const pf_module *m = self(L, "index");
    if (lua_type(L, 2) == LUA_TNUMBER)
        return lpf_raise(L,
                         "a module is indexed by a method's name, not by a number; the layers in "
                         "it, %d here, are m:children()",
                         pf_module_child_count(m));
    const char *word = lua_type(L, 2) == LUA_TSTRING ? lua_tostring(L, 2) : "";
    luaL_getmetafield(L, 1, "methods");
    if (lua_getfield(L, -1, word) != LUA_TNIL) return 1;
    for (int i = 0, n = tensor_count(L, m); i < n; i++) {
        const char *name = tensor_at(L, m, i).name;
        if (strcmp(name, word) == 0)
            return lpf_raise(L, "a module has no method '%s'; its tensor is m:tensors()[\"%s\"]",
                             word, word);
    }
    return lpf_find_method(L, LPF_MODULE, true);
}

/* m:inputs(): a list of {name =, required =}. */
static int module_inputs(lua_State *L) {
    const pf_module *m = self(L, "inputs");
    const int n = lpf_result(L, pf_module_input_count(m));
    lua_createtable(L, n, 0);
    for (int i = 0; i < n; i++) {
        const char *name;
        bool required;
        lpf_result(L, pf_module_input_at(m, i, &name, &required));
        lua_createtable(L, 0, 2);
        lua_pushstring(L, name);
        lua_setfield(L, -2, "name");
        lua_pushboolean(L, required);
        lua_setfield(L, -2, "required");
        lua_rawseti(L, -2, i + 1);
    }
    return 1;
}

/* Clears every gradient of the tree. */
static int module_clear_grad(lua_State *L) {
    const pf_module *m = self(L, "clear_grad");
    int n = tensor_count(L, m);
    for (int i = 0; i < n; i++) pf_tensor_clear_grad(tensor_at(L, m, i).tensor);
    return 0;
}

static const luaL_Reg methods[] = {
    {"forward", module_call},          {"loss", module_loss},
    {"evaluate", module_evaluate},     {"backward_sliced", module_backward_sliced},
    {"after_step", module_after_step}, {"type", module_type},
    {"options", module_options},       {"tree", module_tree},
    {"children", module_children},     {"tensors", module_tensors},
    {"parameters", module_parameters}, {"count", module_count},
    {"clear_grad", module_clear_grad}, {"merge", module_merge},
    {"hidden", module_hidden},         {"outputs", module_outputs},
    {"inputs", module_inputs},         {NULL, NULL}};

static const luaL_Reg meta[] = {{"__gc", module_gc},       {"__call", module_call},
                                {"__index", module_index}, {"__len", module_len},
                                {"__eq", module_eq},       {NULL, NULL}};

static const luaL_Reg functions[] = {{"new_module", module_new},
                                     {"build", module_build},
                                     {"freeze", module_freeze},
                                     {"adapt", module_adapt},
                                     {NULL, NULL}};

void lpf_open_nn(lua_State *L) {
    lpf_class(L, LPF_MODULE, methods, meta);
    luaL_setfuncs(L, functions, 0);
}
