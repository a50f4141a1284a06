/*
 * lpf_survey.c - the error of kernels told beforehand, the lengths at which exact and linear
 * attention cross, and what a model's attention saw in training (performer/advise.lua).
 */
#include "lpf.h"

#include <string.h>

static void set_number(lua_State *L, const char *key, double value) {
    lua_pushnumber(L, value);
    lua_setfield(L, -2, key);
}

static void set_integer(lua_State *L, const char *key, int64_t value) {
    lua_pushinteger(L, value);
    lua_setfield(L, -2, key);
}

/* {rel_mse, coupled_rel_mse, bias} */
static void push_prediction(lua_State *L, const pf_prediction *p) {
    lua_createtable(L, 0, 3);
    set_number(L, "rel_mse", p->rel_mse);
    set_number(L, "coupled_rel_mse", p->coupled_rel_mse);
    set_number(L, "bias", p->bias);
}

static void set_predictions(lua_State *L, const pf_prediction *mean, const pf_prediction *middle) {
    push_prediction(L, mean);
    lua_setfield(L, -2, "mean");
    push_prediction(L, middle);
    lua_setfield(L, -2, "middle");
}

/* predict_kernel(options, head_dim, sum, difference): {rel_mse, coupled_rel_mse, bias}. */
static int predict_kernel(lua_State *L) {
    int64_t head_dim = luaL_checkinteger(L, 2);
    double sum = luaL_checknumber(L, 3), difference = luaL_checknumber(L, 4);
    pf_prediction p;
    lpf_enter(L);
    lpf_result(L, pf_kernel_predict(&p, lpf_to_config(L, 1, "kernel"), head_dim, sum, difference));
    push_prediction(L, &p);
    return 1;
}

/* ---- surveys ------------------------------------------------------------------ */

/* One head of a survey: its pairs, their lengths, what the theory says of them, and, where
 * features were drawn, what was measured. */
static void push_head(lua_State *L, const pf_survey *h, bool measured) {
    lua_createtable(L, 0, 12);
    set_integer(L, "pairs", h->pairs);
    set_number(L, "query", h->query);
    set_number(L, "key", h->key);
    set_number(L, "sum", h->sum);
    set_number(L, "difference", h->difference);
    set_number(L, "median", h->median);
    set_number(L, "largest", h->largest);
    set_predictions(L, &h->mean, &h->middle);
    if (!measured) return;
    set_number(L, "measured_rel_mse", h->measured_rel_mse);
    set_number(L, "measured_deviation", h->measured_deviation);
    set_number(L, "bias", h->bias);
    set_number(L, "bias_sigma", h->bias_sigma);
}

/* survey_kernel(options, q, k, {causal, rows, draws, projection}): one table a head. */
static int survey_kernel(lua_State *L) {
    static const char *const allowed[] = {"causal", "rows", "draws", "projection", NULL};
    lua_settop(L, 4);
    const pf_tensor *q = lpf_check_tensor(L, 2, "survey", "q");
    const pf_tensor *k = lpf_check_tensor(L, 3, "survey", "k");
    lpf_check_options(L, 4, allowed, "survey");
    pf_survey_options o = {.size = sizeof o};
    o.causal = lpf_opt_bool(L, 4, "causal", false);
    o.rows = lpf_opt_integer(L, 4, "rows", 0);
    o.draws = (int)lpf_opt_integer(L, 4, "draws", 0);
    if (!lua_isnil(L, 4) && lua_getfield(L, 4, "projection") != LUA_TNIL)
        o.projection = lpf_check_tensor(L, -1, "survey", "projection");
    pf_engine *engine = lpf_engine(L);
    int n = pf_tensor_rank(q) == 4 ? (int)pf_tensor_size(q, 1) : 0;
    pf_survey *heads = lua_newuserdatauv(L, (size_t)n * sizeof *heads + 1, 0);
    const pf_config *options = lpf_to_config(L, 1, "kernel");
    lpf_result(L, pf_kernel_survey(heads, n, engine, options, q, k, &o));
    lua_createtable(L, n, 0);
    for (int i = 0; i < n; i++) {
        push_head(L, &heads[i], o.draws > 0 || o.projection);
        lua_rawseti(L, -2, i + 1);
    }
    return 1;
}

/* ---- crossovers --------------------------------------------------------------- */

/* crossover_length(head_dim, features, causal) */
static int crossover_length(lua_State *L) {
    double length = 0;
    lpf_result(L, pf_crossover_length(&length, lpf_engine(L), luaL_checkinteger(L, 1),
                                      luaL_checkinteger(L, 2), lua_toboolean(L, 3) != 0));
    lua_pushnumber(L, length);
    return 1;
}

/* crossover_table(): {{head_dim, features, causal, length}, ...} */
static int crossover_table(lua_State *L) {
    const pf_engine *engine = lpf_engine(L);
    pf_crossover_row row;
    lua_newtable(L);
    for (int i = 0; pf_crossover_at(engine, i, &row) >= 0; i++) {
        lua_createtable(L, 0, 4);
        set_integer(L, "head_dim", row.head_dim);
        set_integer(L, "features", row.features);
        lua_pushboolean(L, row.causal);
        lua_setfield(L, -2, "causal");
        set_number(L, "length", row.length);
        lua_rawseti(L, -2, i + 1);
    }
    return 1;
}

/* use_crossover(table or nil): true; nil, message, code for a table that is none. */
static int use_crossover(lua_State *L) {
    pf_engine *engine = lpf_engine(L);
    lua_settop(L, 1);
    const pf_config *table = lua_isnil(L, 1) ? NULL : lpf_to_config(L, 1, "crossover");
    int failed = lpf_outside(L, pf_crossover_use(engine, table));
    if (failed) return failed;
    lua_pushboolean(L, true);
    return 1;
}

/* ---- what a model saw --------------------------------------------------------- */

/* attention_lines(model): {{layer, head, map, features, step, query, key, sum, ...}, ...} */
static int attention_lines(lua_State *L) {
    lpf_enter(L);
    const pf_module *m = lpf_check_module(L, 1, "attention_report");
    int n = lpf_result(L, pf_module_attention_count(m));
    lua_createtable(L, n, 0);
    for (int i = 0; i < n; i++) {
        pf_attention_line line;
        lpf_result(L, pf_module_attention_at(m, i, &line));
        lua_createtable(L, 0, 11);
        lua_pushstring(L, line.layer);
        lua_setfield(L, -2, "layer");
        lua_pushstring(L, line.map);
        lua_setfield(L, -2, "map");
        lpf_push_place(L, line.head);
        lua_setfield(L, -2, "head");
        set_integer(L, "features", line.features);
        set_integer(L, "step", (int64_t)line.step);
        set_number(L, "query", line.query);
        set_number(L, "key", line.key);
        set_number(L, "sum", line.sum);
        set_number(L, "median", line.median);
        set_predictions(L, &line.mean, &line.middle);
        lua_rawseti(L, -2, i + 1);
    }
    return 1;
}

static const luaL_Reg functions[] = {{"predict_kernel", predict_kernel},
                                     {"survey_kernel", survey_kernel},
                                     {"crossover_length", crossover_length},
                                     {"crossover_table", crossover_table},
                                     {"use_crossover", use_crossover},
                                     {"attention_lines", attention_lines},
                                     {NULL, NULL}};

void lpf_open_survey(lua_State *L) { luaL_setfuncs(L, functions, 0); }
