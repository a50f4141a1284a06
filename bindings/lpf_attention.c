/*
 * lpf_attention.c - attention by itself: any kind over whole rows, weights of chosen rows,
 * columns and pairs, log-partitions, and sets of items.
 */
#include "lpf.h"

#include <stdio.h>

/* Option `key` of the table at `index`, a tensor that stays on the stack; NULL for none. */
static pf_tensor *opt_tensor(lua_State *L, int index, const char *key, const char *where) {
    if (lua_isnoneornil(L, index) || lua_getfield(L, index, key) == LUA_TNIL) return NULL;
    return lpf_check_tensor(L, -1, where, key);
}

/* Option `kernel`, likewise. */
static pf_kernel *opt_kernel(lua_State *L, int index, const char *where) {
    if (lua_isnoneornil(L, index)) return NULL;
    lua_getfield(L, index, "kernel");
    return lpf_opt_kernel(L, -1, where);
}

/* ---- whole rows --------------------------------------------------------------- */

/* attention(q, k, v, options): out [, s, z, shift], with options.state. */
static int attention_call(lua_State *L) {
    const char *where = "attention";
    pf_attention_options o = {.size = sizeof o};
    struct {
        const char *name;
        pf_tensor **to;
    } tensors[] = {
        {"mask", &o.mask},        {"documents", &o.documents}, {"cu_seqlens", &o.cu_seqlens},
        {"limits", &o.limits},    {"prefix", &o.prefix},       {"decay", &o.decay},
        {"entry_s", &o.entry[0]}, {"entry_z", &o.entry[1]},    {"entry_shift", &o.entry[2]},
        {"rooms", &o.rooms},      {"table", &o.table}};
    pf_tensor *q = lpf_check_tensor(L, 1, where, "q"), *k = lpf_check_tensor(L, 2, where, "k");
    pf_tensor *v = lpf_check_tensor(L, 3, where, "v");
    pf_engine *engine = lpf_engine(L);
    lua_settop(L, 4);
    luaL_checkstack(L, 24, where);
    o.attention = lpf_opt_string(L, 4, "attention", NULL);
    o.options = lpf_opt_config(L, 4, "options", where);
    o.causal = lpf_opt_bool(L, 4, "causal", false);
    o.kernel = opt_kernel(L, 4, where);
    for (size_t i = 0; i < sizeof tensors / sizeof *tensors; i++)
        *tensors[i].to = opt_tensor(L, 4, tensors[i].name, where);
    bool state = lpf_opt_bool(L, 4, "state", false);
    pf_tensor **out = lpf_new_tensor(L), **box[3], *exit[3] = {NULL};
    for (int i = 0; i < 3; i++) box[i] = lpf_new_tensor(L);
    lpf_result(L, pf_attention_call(out, state ? exit : NULL, engine, q, k, v, &o));
    for (int i = 0; i < 3; i++) *box[i] = exit[i];
    lpf_made(L, *out);
    if (!state) return lua_pop(L, 3), 1;
    for (int i = 0; i < 3; i++) lpf_made(L, *box[i]);
    return 4;
}

/* pattern(rule, options [, list]): the tensor that ops take it as. */
static int pattern(lua_State *L) {
    const char *where = "pattern", *rule = lpf_check_text(L, 1, where, "a rule");
    pf_engine *engine = lpf_engine(L);
    const pf_tensor *list = NULL;
    lua_settop(L, 3);
    const pf_config *options = lua_isnil(L, 2) ? NULL : lpf_to_config(L, 2, where);
    if (!lua_isnil(L, 3)) list = lpf_check_tensor(L, 3, where, "list");
    pf_tensor **out = lpf_new_tensor(L);
    lpf_result(L, pf_pattern_tensor(out, engine, rule, options, list));
    lpf_made(L, *out);
    return 1;
}

/* ---- weights and log-partitions ------------------------------------------------ */

/* The list of positions at `index` as places, NULL for nil. Pushes what holds it. */
static int64_t *read_positions(lua_State *L, int index, const char *what, int64_t *n) {
    *n = 0;
    if (lua_isnoneornil(L, index)) {
        lua_pushnil(L);
        return NULL;
    }
    size_t count;
    char where[64];
    snprintf(where, sizeof where, "attention.weights: %s", what);
    int64_t *list = lpf_place_list(L, index, where, "positions", &count);
    *n = (int64_t)count;
    return list;
}

/* {attention, kernel, scale, mask, causal} of the table at `index`. */
static pf_weights_options read_weights(lua_State *L, int index, const char *where) {
    pf_weights_options o = {.size = sizeof o};
    o.attention = lpf_opt_string(L, index, "attention", NULL);
    o.scale = lpf_opt_number(L, index, "scale", 0);
    o.causal = lpf_opt_bool(L, index, "causal", false);
    o.kernel = opt_kernel(L, index, where);
    o.mask = opt_tensor(L, index, "mask", where);
    return o;
}

/* attention_weights(q, k, {attention, kernel, scale, mask, causal, paired, top, entropy}, rows,
 * columns): weights [, positions from 0, -1 for none] [, entropy] */
static int weights(lua_State *L) {
    const char *where = "attention.weights";
    pf_tensor *q = lpf_check_tensor(L, 1, where, "q"), *k = lpf_check_tensor(L, 2, where, "k");
    pf_engine *engine = lpf_engine(L);
    lua_settop(L, 5);
    pf_weights_options o = read_weights(L, 3, where);
    o.paired = lpf_opt_bool(L, 3, "paired", false);
    o.top = lpf_opt_integer(L, 3, "top", 0);
    bool entropy = lpf_opt_bool(L, 3, "entropy", false);
    o.rows = read_positions(L, 4, "rows", &o.n_rows);
    o.columns = read_positions(L, 5, "columns", &o.n_columns);
    pf_tensor **w = lpf_new_tensor(L), **at = NULL, **h = NULL;
    int results = 1;
    if (o.top != 0) at = lpf_new_tensor(L), results++;
    if (entropy) h = lpf_new_tensor(L), results++;
    lpf_result(L, pf_attention_weights(w, at, h, engine, q, k, &o));
    lpf_made(L, *w);
    if (at) lpf_made(L, *at);
    if (h) lpf_made(L, *h);
    return results;
}

/* log_partition(q, k, {attention, kernel, scale, mask, causal}) */
static int log_partition(lua_State *L) {
    const char *where = "attention.log_partition";
    pf_tensor *q = lpf_check_tensor(L, 1, where, "q"), *k = lpf_check_tensor(L, 2, where, "k");
    pf_engine *engine = lpf_engine(L);
    lua_settop(L, 3);
    pf_weights_options o = read_weights(L, 3, where);
    pf_tensor **out = lpf_new_tensor(L);
    lpf_result(L, pf_attention_log_partition(out, engine, q, k, &o));
    lpf_made(L, *out);
    return 1;
}

static const luaL_Reg functions[] = {{"attention", attention_call},
                                     {"pattern", pattern},
                                     {"attention_weights", weights},
                                     {"log_partition", log_partition},
                                     {NULL, NULL}};

void lpf_open_attention(lua_State *L) { luaL_setfuncs(L, functions, 0); }
