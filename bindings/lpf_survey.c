/*
 * lpf_survey.c - the error of kernels told beforehand, the lengths at which exact and linear
 * attention cross, and what a model's attention saw in training (performer/advise.lua).
 */
#include "lpf.h"

/* predict_kernel(kernel, head_dim, sum, difference): {rel_mse, coupled_rel_mse, bias}. */
static int predict_kernel(lua_State *L) {
    int64_t head_dim = lpf_check_whole(L, 2, "predict", "head_dim");
    double sum = lpf_check_number(L, 3, "predict", "the sum, |x + y|^2,");
    double difference = lpf_check_number(L, 4, "predict", "the difference, |x - y|^2,");
    pf_prediction p = {.size = sizeof p};
    lpf_enter(L);
    const pf_kernel *kernel = lpf_opt_kernel(L, 1, "predict");
    lpf_result(L, pf_kernel_predict(&p, kernel, head_dim, sum, difference));
    lua_createtable(L, 0, 3);
    lua_pushnumber(L, p.rel_mse);
    lua_setfield(L, -2, "rel_mse");
    lua_pushnumber(L, p.coupled_rel_mse);
    lua_setfield(L, -2, "coupled_rel_mse");
    lua_pushnumber(L, p.bias);
    lua_setfield(L, -2, "bias");
    return 1;
}

/* survey_kernel(kernel, q, k, {causal, rows, draws}): one table a head. */
static int survey_kernel(lua_State *L) {
    static const char *const allowed[] = {"causal", "rows", "draws", NULL};
    lua_settop(L, 4);
    const pf_tensor *q = lpf_check_tensor(L, 2, "survey", "q");
    const pf_tensor *k = lpf_check_tensor(L, 3, "survey", "k");
    lpf_check_options(L, 4, allowed, "survey");
    pf_survey_options o = {.size = sizeof o};
    o.causal = lpf_opt_bool(L, 4, "causal", false);
    o.rows = lpf_opt_integer(L, 4, "rows", 0);
    o.draws = (int)lpf_opt_integer(L, 4, "draws", 0);
    pf_engine *engine = lpf_engine(L);
    pf_kernel *kernel = lpf_opt_kernel(L, 1, "survey");
    pf_config **heads = lpf_config_slot(L);
    lpf_result(L, pf_kernel_survey(heads, engine, kernel, q, k, &o));
    lpf_push_config(L, *heads);
    return 1;
}

/* ---- crossovers --------------------------------------------------------------- */

/* crossover_length(head_dim, features, causal) */
static int crossover_length(lua_State *L) {
    double length = 0;
    const int64_t head_dim = lpf_check_whole(L, 1, "attention.crossover", "head_dim");
    const int64_t features = lpf_check_whole(L, 2, "attention.crossover", "features");
    lpf_result(L, pf_crossover_length(&length, lpf_engine(L), head_dim, features,
                                      lua_toboolean(L, 3) != 0));
    lua_pushnumber(L, length);
    return 1;
}

/* crossover_table(): {{head_dim, features, causal, length}, ...} */
static int crossover_table(lua_State *L) {
    pf_config **table = lpf_config_slot(L);
    lpf_result(L, pf_crossover_table(table, lpf_engine(L)));
    lpf_push_config(L, pf_config_get(*table, "rows"));
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
    pf_config **lines = lpf_config_slot(L);
    lpf_result(L, pf_module_attention_report(lines, m));
    lpf_push_config(L, *lines);
    int n = pf_config_size(*lines);
    for (int i = 0; i < n; i++) {
        lua_rawgeti(L, -1, i + 1);
        lua_getfield(L, -1, "head");
        lpf_push_place(L, lua_tointeger(L, -1));
        lua_setfield(L, -3, "head");
        lua_pop(L, 2);
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
