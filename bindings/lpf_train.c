/*
 * lpf_train.c - optimizers. A step of the engine's, which also counts on the training step that
 * keys dropout.
 */
#include "lpf.h"

#include <math.h>
#include <string.h>

#include "performer_comm.h"

/* The model is the box's uservalue: it outlives the optimizer. */
pf_optimizer **lpf_new_optimizer(lua_State *L, int model_index) {
    model_index = lua_absindex(L, model_index);
    pf_optimizer **box = lpf_new(L, LPF_OPTIMIZER, sizeof *box);
    lua_pushvalue(L, model_index);
    lua_setiuservalue(L, -2, 1);
    return box;
}

pf_optimizer *lpf_check_optimizer(lua_State *L, int index, const char *where) {
    pf_optimizer **box = luaL_testudata(L, index, LPF_OPTIMIZER);
    lpf_enter(L);
    if (!box || !*box)
        return lpf_raise(L, "%s: an optimizer is needed, got %s", where, lpf_kind(L, index)), NULL;
    return *box;
}

/* new_optimizer(type, model, options) */
static int optimizer_new(lua_State *L) {
    const char *type = luaL_checkstring(L, 1);
    pf_module *model = lpf_check_module(L, 2, type);
    pf_engine *engine = lpf_engine(L);
    pf_config *options = lpf_to_config(L, 3, type);
    lpf_result(L, pf_config_set_string(options, "type", type));
    pf_optimizer **slot = lpf_new_optimizer(L, 2);
    lpf_result(L, pf_optimizer_new(slot, engine, model, options));
    return 1;
}

/* (optimizer, options): the rate and the clip. */
static int read_step(lua_State *L) {
    static const char *const allowed[] = {"lr", "clip", NULL};
    lpf_check_optimizer(L, 1, "step");
    lpf_check_options(L, 2, allowed, "step");
    const double lr = lpf_opt_number(L, 2, "lr", -INFINITY);
    const double clip = lpf_opt_number(L, 2, "clip", 0);
    if (!(lr >= 0 || lr == -INFINITY)) return lpf_raise(L, "step: lr must be at least 0");
    if (!(clip >= 0)) return lpf_raise(L, "step: clip must be at least 0");
    lpf_check_optimizer(L, 1, "step"); /* a metamethod might close it */
    lua_pushnumber(L, lr);
    lua_pushnumber(L, clip);
    return 2;
}

/* Of what is wrong with what this rank gives (on top) the others hear, who are at the step. */
static int refuse_step(lua_State *L) {
    pf_engine *engine = lpf_engine(L);
    pf_comm_info info = {.size = sizeof info};
    if (pf_comm_about(engine, &info) < 0 || info.ranks == 1 || info.lost) return lua_error(L);
    pf_optimizer **box = luaL_testudata(L, 1, LPF_OPTIMIZER);
    const int status = pf_set_error(lpf_status_of(L, -1), lua_tostring(L, -1));
    lpf_result(L, box && *box ? pf_optimizer_give_up(*box, engine, status)
                              : pf_comm_settle(engine, status));
    return 0;
}

/* opt:step{lr =, clip =}: the gradient's norm before clipping, and how many projections were
 * drawn anew. lr not given: the optimizer's own, made with, loaded or its row's default. */
static int optimizer_step(lua_State *L) {
    lua_settop(L, 2);
    lua_pushcfunction(L, read_step);
    lua_pushvalue(L, 1);
    lua_pushvalue(L, 2);
    if (lua_pcall(L, 2, 2, 0) != LUA_OK) return refuse_step(L);
    const double lr = lua_tonumber(L, -2), clip = lua_tonumber(L, -1);
    pf_engine *engine = lpf_engine(L);
    double norm = 0;
    pf_optimizer *optimizer = lpf_take_out(L, 1); /* a layer's after_step might close it */
    int status = pf_optimizer_step(optimizer, engine, lr, clip, &norm);
    lpf_put_back(L, 1, optimizer);
    lpf_result(L, status);
    lpf_enter(L)->step = pf_optimizer_steps(optimizer);
    lua_pushnumber(L, norm);
    lua_pushinteger(L, pf_optimizer_drawn(optimizer));
    return 2;
}

/* opt:set_lanes(n): a step's batch in n parts, each folded when its backward is through. */
static int optimizer_set_lanes(lua_State *L) {
    pf_optimizer *optimizer = lpf_check_optimizer(L, 1, "set_lanes");
    const int64_t lanes = lpf_check_whole(L, 2, "set_lanes", "the number of lanes");
    if (lanes < 1 || lanes >= 1 << 16)
        return lpf_raise(L, "set_lanes: %lld lanes; from 1 to 65535 are possible",
                         (long long)lanes);
    lpf_result(L, pf_optimizer_set_lanes(optimizer, lpf_engine(L), (int)lanes));
    return 0;
}

/* opt:fold(): what has gathered is the gradient of the next lane. */
static int optimizer_fold(lua_State *L) {
    pf_optimizer *optimizer = lpf_check_optimizer(L, 1, "fold");
    lpf_result(L, pf_optimizer_fold(optimizer, lpf_engine(L)));
    return 0;
}

/* opt:overlap(): the next backward is this rank's last of the step. */
static int optimizer_overlap(lua_State *L) {
    pf_optimizer *optimizer = lpf_check_optimizer(L, 1, "overlap");
    lpf_result(L, pf_optimizer_overlap(optimizer, lpf_engine(L)));
    return 0;
}

/* opt:backward_segments(batch, {segments =, chain =, training =, step =, watch =, micro =, counted
 * =}): the loss of whole rows, of which this rank has its segments. */
static int optimizer_backward_segments(lua_State *L) {
    static const char *const allowed[] = {"segments", "chain", "training", "step",
                                          "watch",    "micro", "counted",  NULL};
    static const char where[] = "backward_segments";
    lpf_check_optimizer(L, 1, where);
    luaL_checktype(L, 2, LUA_TTABLE);
    lua_settop(L, 3);
    lpf_check_options(L, 3, allowed, where);
    lua_getiuservalue(L, 1, 1);
    pf_pass pass = lpf_read_pass(L, lpf_check_module(L, -1, where), 2, 0);
    pass.training = lpf_opt_bool(L, 3, "training", true);
    pass.step = lpf_opt_count(L, 3, "step", pass.step);
    pass.watch = lpf_opt_bool(L, 3, "watch", pass.watch);
    pass.micro = lpf_opt_count(L, 3, "micro", 0);
    pass.counted = lpf_opt_count(L, 3, "counted", 0);
    const pf_segments segments = {.size = sizeof segments,
                                  .segments = (int)lpf_opt_integer(L, 3, "segments", 1),
                                  .chain = lpf_opt_bool(L, 3, "chain", false)};
    lua_getfield(L, 2, "input");
    lua_getfield(L, 2, "target");
    pf_tensor *target = lpf_check_tensor(L, -1, where, "target");
    pf_tensor *x = lpf_check_tensor(L, -2, where, "input");
    double loss = 0;
    pf_engine *engine = lpf_engine(L);
    lpf_check_optimizer(L, 1, where);
    pf_optimizer *optimizer = lpf_take_out(L, 1); /* a layer's code might close it */
    int status =
        pf_optimizer_backward_segments(&loss, engine, optimizer, x, target, &pass, &segments);
    lpf_put_back(L, 1, optimizer);
    lpf_result(L, status);
    lua_pushnumber(L, loss);
    return 1;
}

static int optimizer_steps(lua_State *L) {
    lua_pushinteger(L, (lua_Integer)pf_optimizer_steps(lpf_check_optimizer(L, 1, "steps")));
    return 1;
}

static int optimizer_model(lua_State *L) {
    lpf_check_optimizer(L, 1, "model");
    lua_getiuservalue(L, 1, 1);
    return 1;
}

static int optimizer_close(lua_State *L) {
    pf_optimizer **box = luaL_checkudata(L, 1, LPF_OPTIMIZER);
    lpf_enter(L);
    pf_optimizer_close(box);
    return 0;
}

static int optimizer_tostring(lua_State *L) {
    pf_optimizer **box = luaL_checkudata(L, 1, LPF_OPTIMIZER);
    if (*box)
        lua_pushfstring(L, "optimizer after %I steps", (lua_Integer)pf_optimizer_steps(*box));
    else
        lua_pushliteral(L, "optimizer, closed");
    return 1;
}

/* use_average(yes): the averages in the weights' place, or the weights back. */
static int optimizer_use_average(lua_State *L) {
    pf_optimizer *optimizer = lpf_check_optimizer(L, 1, "use_average");
    luaL_checktype(L, 2, LUA_TBOOLEAN);
    lpf_result(L, pf_optimizer_use_average(optimizer, lua_toboolean(L, 2)));
    return 0;
}

static int optimizer_has_average(lua_State *L) {
    const pf_optimizer *optimizer = lpf_check_optimizer(L, 1, "has_average");
    lua_pushboolean(L, pf_optimizer_has_average(optimizer));
    return 1;
}

/* schedule_rate(type, options, step) */
static int schedule_rate(lua_State *L) {
    const int64_t step = lpf_check_whole(L, 3, "schedule", "step");
    if (step < 0) return lpf_raise(L, "schedule: step must be at least 0");
    lpf_enter(L);
    pf_config *options = lpf_to_config(L, 2, "schedule");
    lpf_result(L, pf_config_set_string(options, "type", luaL_checkstring(L, 1)));
    double rate;
    lpf_result(L, pf_schedule_rate(&rate, options, (uint64_t)step));
    lua_pushnumber(L, rate);
    return 1;
}

/* finite_begin(); finite_end([step]): true, or false, message, {step, layer, op, phase}. */
static int finite_begin(lua_State *L) {
    lpf_result(L, pf_finite_begin(lpf_engine(L)));
    lpf_enter(L)->watching = true;
    return 0;
}

static int finite_end(lua_State *L) {
    const uint64_t next = lpf_enter(L)->step + 1;
    const uint64_t step =
        lua_isnoneornil(L, 1) ? next : (uint64_t)lpf_check_whole(L, 1, "finite", "step");
    pf_config **report = lpf_config_slot(L);
    int status = pf_finite_end(lpf_engine(L), step, report);
    lpf_enter(L)->watching = false;
    if (status != PF_ENUMERIC) lpf_result(L, status);
    lua_pushboolean(L, status >= 0);
    if (status >= 0) return 1;
    lua_pushstring(L, pf_last_error_from(1));
    lpf_push_config(L, *report);
    return 3;
}

static const luaL_Reg methods[] = {{"step", optimizer_step},
                                   {"set_lanes", optimizer_set_lanes},
                                   {"fold", optimizer_fold},
                                   {"overlap", optimizer_overlap},
                                   {"backward_segments", optimizer_backward_segments},
                                   {"steps", optimizer_steps},
                                   {"model", optimizer_model},
                                   {"use_average", optimizer_use_average},
                                   {"has_average", optimizer_has_average},
                                   {"close", optimizer_close},
                                   {NULL, NULL}};
static const luaL_Reg meta[] = {{"__gc", optimizer_close},
                                {"__close", optimizer_close},
                                {"__tostring", optimizer_tostring},
                                {NULL, NULL}};
static const luaL_Reg functions[] = {{"new_optimizer", optimizer_new},
                                     {"schedule_rate", schedule_rate},
                                     {"finite_begin", finite_begin},
                                     {"finite_end", finite_end},
                                     {NULL, NULL}};

void lpf_open_train(lua_State *L) {
    lpf_class(L, LPF_OPTIMIZER, methods, meta);
    luaL_setfuncs(L, functions, 0);
}
