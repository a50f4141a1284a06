/*
 * lpf_items.c - sets of items: the softmax over a fixed set, asked and changed.
 */
#include "lpf.h"

/* ---- items -------------------------------------------------------------------- */

static pf_items *check_items(lua_State *L, const char *where) {
    pf_items **box = luaL_testudata(L, 1, LPF_ITEMS);
    lpf_enter(L);
    if (!box)
        return lpf_raise(L, "%s: a set of items is needed, got %s", where, lpf_kind(L, 1)), NULL;
    if (!*box) lpf_raise(L, "%s: the set of items has been closed, or is at work", where);
    return *box;
}

/* items(kernel or nil, dim, value_dim) */
static int items_open(lua_State *L) {
    pf_items_options o = {.size = sizeof o};
    pf_engine *engine = lpf_engine(L);
    o.kernel = lpf_opt_kernel(L, 1, "attention.items");
    o.dim = lpf_check_whole(L, 2, "attention.items", "dim");
    o.value_dim = lpf_check_whole(L, 3, "attention.items", "value_dim");
    pf_items **box = lpf_new(L, LPF_ITEMS, sizeof *box);
    lpf_result(L, pf_items_open(box, engine, &o));
    return 1;
}

static int items_close(lua_State *L) {
    pf_items **box = luaL_checkudata(L, 1, LPF_ITEMS);
    lpf_enter(L);
    pf_items_close(box);
    return 0;
}

typedef int (*change_fn)(pf_items *, pf_engine *, const pf_tensor *, const pf_tensor *);

/* items:add(keys [, values]), items:remove(keys [, values]); the set itself. */
static int change(lua_State *L, change_fn fn, const char *where) {
    check_items(L, where);
    const pf_tensor *keys = lpf_check_tensor(L, 2, where, "keys"), *values = NULL;
    if (!lua_isnoneornil(L, 3)) values = lpf_check_tensor(L, 3, where, "values");
    pf_engine *engine = lpf_engine(L);
    pf_items *items = lpf_take_out(L, 1);
    int status = fn(items, engine, keys, values);
    lpf_put_back(L, 1, items);
    lpf_result(L, status);
    lua_settop(L, 1);
    return 1;
}

static int items_add(lua_State *L) { return change(L, pf_items_add, "add"); }
static int items_remove(lua_State *L) { return change(L, pf_items_remove, "remove"); }

typedef int (*question_fn)(pf_tensor **, pf_items *, pf_engine *, const pf_tensor *);

/* items:log_partition(queries), items:expectation(queries). */
static int ask(lua_State *L, question_fn fn, const char *where) {
    check_items(L, where);
    const pf_tensor *queries = lpf_check_tensor(L, 2, where, "queries");
    pf_engine *engine = lpf_engine(L);
    pf_tensor **out = lpf_new_tensor(L);
    pf_items *items = lpf_take_out(L, 1);
    int status = fn(out, items, engine, queries);
    lpf_put_back(L, 1, items);
    lpf_result(L, status);
    lpf_made(L, *out);
    return 1;
}

static int items_log_partition(lua_State *L) {
    return ask(L, pf_items_log_partition, "log_partition");
}

static int items_expectation(lua_State *L) { return ask(L, pf_items_expectation, "expectation"); }

/* probability(queries, keys [, {estimate, log}]) */
static int items_probability(lua_State *L) {
    static const char *const allowed[] = {"estimate", "log", NULL};
    check_items(L, "probability");
    const pf_tensor *queries = lpf_check_tensor(L, 2, "probability", "queries");
    const pf_tensor *keys = lpf_check_tensor(L, 3, "probability", "keys");
    lpf_check_options(L, 4, allowed, "probability");
    unsigned flags = lpf_opt_bool(L, 4, "estimate", false) ? PF_ITEMS_ESTIMATE : 0;
    if (lpf_opt_bool(L, 4, "log", false)) flags |= PF_ITEMS_LOG;
    pf_engine *engine = lpf_engine(L);
    pf_tensor **out = lpf_new_tensor(L);
    pf_items *items = lpf_take_out(L, 1);
    int status = pf_items_probability(out, items, engine, queries, keys, flags);
    lpf_put_back(L, 1, items);
    lpf_result(L, status);
    lpf_made(L, *out);
    return 1;
}

static int items_count(lua_State *L) {
    lua_pushinteger(L, pf_items_count(check_items(L, "count")));
    return 1;
}

static int items_bytes(lua_State *L) {
    lua_pushinteger(L, pf_items_bytes(check_items(L, "bytes")));
    return 1;
}

static int items_tostring(lua_State *L) {
    pf_items **box = luaL_checkudata(L, 1, LPF_ITEMS);
    if (*box)
        lua_pushfstring(L, "set of %I items, %I bytes", (lua_Integer)pf_items_count(*box),
                        (lua_Integer)pf_items_bytes(*box));
    else
        lua_pushliteral(L, "set of items, closed");
    return 1;
}

static const luaL_Reg methods[] = {{"add", items_add},
                                   {"remove", items_remove},
                                   {"log_partition", items_log_partition},
                                   {"expectation", items_expectation},
                                   {"probability", items_probability},
                                   {"count", items_count},
                                   {"bytes", items_bytes},
                                   {"close", items_close},
                                   {NULL, NULL}};

static const luaL_Reg meta[] = {
    {"__gc", items_close}, {"__close", items_close}, {"__tostring", items_tostring}, {NULL, NULL}};

static const luaL_Reg functions[] = {{"items", items_open}, {NULL, NULL}};

void lpf_open_items(lua_State *L) {
    lpf_class(L, LPF_ITEMS, methods, meta);
    luaL_setfuncs(L, functions, 0);
}
