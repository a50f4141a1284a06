/*
 * lpf_pass.c - what a call of a model is told beside its input: options of a pass and tensors by
 * name, read from a script's tables and pushed for a layer in Lua.
 *
 * Inside a layer in Lua a call begins with the pass around it. Of the inputs of that one it takes
 * those that its model reads; a name that nobody reads is refused where a call from outside says
 * it.
 */
#include "lpf.h"

#include <string.h>

#define KEY(name) #name,
static const char *const fields[] = {PF_PASS_FIELDS(KEY, KEY, KEY, PF_PASS_NONE, PF_PASS_NONE, KEY)
                                         NULL};
#undef KEY

/* ---- names ---------------------------------------------------------------------- */

/* Names of m's inputs; how many. */
static int names_of(lua_State *L, const pf_module *m, const char *names[PF_INPUTS]) {
    const int n = lpf_result(L, pf_module_input_count(m));
    for (int i = 0; i < n; i++) lpf_result(L, pf_module_input_at(m, i, &names[i], NULL));
    return n;
}

/* ---- reading -------------------------------------------------------------------- */

/* An object whose class says so (__tensor) stands for the tensor in that field: a graph for its
 * edges. Its class may say which field holds the positions that it is for (__length). */
static void unwrap(lua_State *L, int64_t length, const char *key) {
    if (!lua_istable(L, -1) || luaL_getmetafield(L, -1, "__tensor") == LUA_TNIL) return;
    if (length >= 0 && luaL_getmetafield(L, -2, "__length") != LUA_TNIL) {
        lua_pushvalue(L, -1);
        lua_gettable(L, -4);
        const int64_t own = lua_tointeger(L, -1);
        if (own != length)
            lpf_raise(L, "%s: a graph of %lld %s, but x has %lld positions", key, (long long)own,
                      lua_tostring(L, -2), (long long)length);
        lua_pop(L, 2);
    }
    lua_gettable(L, -2);
    lua_remove(L, -2);
}

/* Positions of x, which stands at 2 or is the `input` of a batch there; -1: nothing to go by. */
static int64_t length_of(lua_State *L) {
    const bool batch = lua_istable(L, 2);
    if (batch) lua_getfield(L, 2, "input");
    const pf_tensor *x = lpf_test_tensor(L, batch ? -1 : 2);
    const int64_t length = x && pf_tensor_rank(x) > 1 ? pf_tensor_size(x, 1) : -1;
    if (batch) lua_pop(L, 1);
    return length;
}

/* Stays on the stack while the model runs; NULL: nil. */
static pf_tensor *get_tensor(lua_State *L, int table, const char *key, const char *where,
                             int64_t length) {
    luaL_checkstack(L, 6, "too many inputs");
    if (lua_getfield(L, table, key) == LUA_TNIL) return NULL;
    unwrap(L, length, key);
    return lpf_check_tensor(L, -1, where, key);
}

/* The fields of the table at `index` over what the pass says already. */
static void read_fields(lua_State *L, int index, pf_pass *pass) {
    pf_tensor *t;
#define FLAG(name)   pass->name = lpf_opt_bool(L, index, #name, pass->name);
#define NUMBER(name) pass->name = lpf_opt_count(L, index, #name, pass->name);
#define TENSOR(name)                                                                               \
    if ((t = get_tensor(L, index, #name, "pass", -1)) != NULL) pass->name = t;
#define STATE(name)                                                                                \
    if (lua_getfield(L, index, #name) != LUA_TNIL)                                                 \
        pass->name = lpf_check_stream_state(L, -1, "pass");
    PF_PASS_FIELDS(FLAG, NUMBER, TENSOR, PF_PASS_NONE, PF_PASS_NONE, STATE)
#undef FLAG
#undef NUMBER
#undef TENSOR
#undef STATE
}

static pf_tensor *given(const pf_pass *pass, const char *name) {
    for (int i = 0; i < pass->n_inputs; i++)
        if (strcmp(pass->inputs[i].name, name) == 0) return pass->inputs[i].tensor;
    return NULL;
}

/* Those inputs of m that a table at one of the places says (0: there is none), the last one first,
 * or else the pass around the call; the array stands on the stack. */
static void read_inputs(lua_State *L, const pf_module *m, const int *tables, int n_tables,
                        int64_t length, pf_pass *pass) {
    const char *names[PF_INPUTS];
    const int n = names_of(L, m, names);
    const pf_pass around = *pass;
    pf_named *list = lua_newuserdatauv(L, PF_INPUTS * sizeof *list, 0);
    pass->inputs = list, pass->n_inputs = 0;
    for (int i = 0; i < n; i++) {
        pf_tensor *t = NULL;
        for (int k = n_tables; k-- > 0 && !t;)
            if (tables[k]) t = get_tensor(L, tables[k], names[i], pf_module_type(m), length);
        if (!t) t = given(&around, names[i]);
        if (t) list[pass->n_inputs++] = (pf_named){names[i], t};
    }
}

/* A pass's own words, what m reads, and what the layer around the call was given. */
static void check_words(lua_State *L, const pf_module *m, int index, const pf_pass *around) {
    const char *allowed[2 * (size_t)PF_INPUTS + sizeof fields / sizeof *fields];
    int n = names_of(L, m, allowed);
    for (int i = 0; i < around->n_inputs; i++) allowed[n++] = around->inputs[i].name;
    memcpy(allowed + n, fields, sizeof fields);
    lpf_check_options(L, index, allowed, "pass");
}

/* A batch may hold more than models read; but a tensor whose name is nearly that of an input is a
 * slip, which an optional input would be passed over for. */
static void check_batch(lua_State *L, const pf_module *m, int index) {
    static const char *const others[] = {"input", "target", "targets", "task", "tasks"};
    const char *names[PF_INPUTS + 3];
    int n = names_of(L, m, names);
    names[n++] = "mask", names[n++] = "documents", names[n++] = "prefix";
    lua_pushnil(L);
    while (lua_next(L, index)) {
        bool counts = lua_type(L, -2) == LUA_TSTRING && lpf_test_tensor(L, -1);
        lua_pop(L, 1);
        const char *key = counts ? lua_tostring(L, -1) : NULL;
        for (size_t i = 0; key && i < sizeof others / sizeof *others; i++)
            if (strcmp(key, others[i]) == 0) key = NULL;
        const char *near = key ? pf_nearest(key, names, n) : NULL;
        if (near && strcmp(near, key) != 0)
            lpf_raise(L, "%s: a batch has '%s', which nothing reads (did you mean '%s'?)",
                      pf_module_type(m), key, near);
    }
}

pf_pass lpf_read_pass(lua_State *L, const pf_module *m, int batch, int index) {
    pf_pass pass = lpf_pass_around(lpf_enter(L));
    const bool said = index && !lua_isnoneornil(L, index);
    if (batch) check_batch(L, m, batch);
    if (batch) read_fields(L, batch, &pass);
    if (said) check_words(L, m, index, &pass);
    if (said) read_fields(L, index, &pass);
    const int tables[2] = {batch, said ? index : 0};
    read_inputs(L, m, tables, 2, length_of(L), &pass);
    return pass;
}

const pf_named *lpf_read_inputs(lua_State *L, const pf_module *m, int index, const char *where,
                                int *n) {
    pf_pass pass = {.size = sizeof pass};
    const int table = lua_isnoneornil(L, index) ? 0 : index;
    const char *allowed[PF_INPUTS + 2];
    lua_settop(L, index); /* so that what follows stands behind it */
    const int words = names_of(L, m, allowed);
    allowed[words] = "batch", allowed[words + 1] = NULL;
    lpf_check_options(L, index, allowed, where);
    read_inputs(L, m, &table, 1, -1, &pass);
    *n = pass.n_inputs;
    return pass.inputs;
}

/* ---- pushing -------------------------------------------------------------------- */

void lpf_push_pass(lua_State *L, const pf_pass *pass) {
    lua_newtable(L);
#define FLAG(name)   lua_pushboolean(L, pass->name), lua_setfield(L, -2, #name);
#define NUMBER(name) lua_pushinteger(L, (lua_Integer)pass->name), lua_setfield(L, -2, #name);
#define TENSOR(name) lpf_push_tensor(L, pass->name), lua_setfield(L, -2, #name);
    PF_PASS_FIELDS(FLAG, NUMBER, TENSOR, PF_PASS_NONE, PF_PASS_NONE, PF_PASS_NONE)
#undef FLAG
#undef NUMBER
#undef TENSOR
    for (int i = 0; i < pass->n_inputs; i++) {
        lpf_push_tensor(L, pass->inputs[i].tensor);
        lua_setfield(L, -2, pass->inputs[i].name);
    }
}
