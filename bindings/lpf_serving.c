/*
 * lpf_serving.c - a running batch that sequences join and leave: model:serve. The serving is out of
 * its box while it works (lpf_take_out), for layers in Lua may be called by it; and as an
 * allocation may collect what closes it, a method looks into the box when it has made all that it
 * needs.
 */
#include "lpf.h"

#include <string.h>

static pf_serving *check_serving(lua_State *L, const char *where) {
    pf_serving **box = luaL_testudata(L, 1, LPF_SERVING);
    lpf_enter(L);
    if (!box) return lpf_raise(L, "%s: a serving is needed, got %s", where, lpf_kind(L, 1)), NULL;
    if (!*box) lpf_raise(L, "%s: the serving has been closed, or is at work", where);
    return *box;
}

/* open_serving(model, options) */
static int serving_open(lua_State *L) {
    pf_module *model = lpf_check_module(L, 1, "serve");
    const pf_serving_options o = {.size = sizeof o,
                                  .capacity = lpf_opt_integer(L, 2, "capacity", 0),
                                  .slice = lpf_opt_integer(L, 2, "slice", 0)};
    pf_engine *engine = lpf_engine(L);
    pf_serving **box = lpf_new(L, LPF_SERVING, sizeof *box);
    lua_pushvalue(L, 1);
    lua_setiuservalue(L, -2, 1);
    lpf_result(L, pf_serving_open(box, engine, model, &o));
    return 1;
}

static int serving_close(lua_State *L) {
    pf_serving **box = luaL_checkudata(L, 1, LPF_SERVING);
    lpf_enter(L);
    pf_serving_close(box);
    return 0;
}

/* ---- joining and leaving ---- */

static int64_t check_id(lua_State *L, const char *where) {
    return lpf_check_whole(L, 2, where, "the sequence's id");
}

/* Of the model that the serving at 1 keeps. */
static const pf_named *read_inputs(lua_State *L, int index, int *n) {
    lua_getiuservalue(L, 1, 1);
    return lpf_read_inputs(L, lpf_check_module(L, -1, "join"), index, "join", n);
}

/* What joined as `id` is to draw from the ids at `index`; out it goes where they are none. */
static void allow_first(lua_State *L, int64_t id, int index) {
    int64_t vocab = 0;
    int32_t wrong = -1;
    pf_serving_logits(check_serving(L, "join"), id, &vocab);
    const uint8_t *allow = vocab ? lpf_allowed(L, index, "join", vocab, &wrong) : NULL;
    pf_serving *s = check_serving(L, "join");
    int status = allow ? pf_serving_allow(s, id, allow, vocab) : PF_OK;
    if (allow && status >= 0) return;
    pf_serving_leave(s, id);
    lpf_result(L, status);
    if (vocab) lpf_raise(L, "join: allow has %d, which is no token", (int)wrong);
    lpf_raise(L, "join: allow needs a vocabulary, and the model's last layer is in Lua; join a "
                 "stream that was fed, or allow after the first step");
}

/* join(prompt or stream, sampling, tokens, stops or nil, allow or nil, inputs): the id. */
static int serving_join(lua_State *L) {
    check_serving(L, "join");
    pf_stream **stream = luaL_testudata(L, 2, LPF_STREAM);
    lua_settop(L, 7);
    if (stream && !*stream) return lpf_raise(L, "join: the stream has been closed, or is at work");
    const pf_sampling sampling = lpf_read_sampling(L, 3);
    pf_sequence_options o = {.size = sizeof o, .sampling = &sampling};
    size_t n = 0, n_stops = 0;
    int64_t id = 0;
    o.tokens = lpf_opt_whole(L, 4, "join", "tokens", 0);
    if (!stream) o.inputs = read_inputs(L, 7, &o.n_inputs); /* cuts the stack there */
    const int32_t *prompt = stream ? NULL : lpf_ids(L, 2, "join", &n);
    if (!lua_isnil(L, 5)) o.stops = lpf_ids(L, 5, "join", &n_stops);
    o.n_stops = (int64_t)n_stops;
    if (!lua_isnil(L, 6)) lpf_ids(L, 6, "join", &n_stops); /* raises before anything has joined */
    pf_serving *s = lpf_take_out(L, 1);
    int status = stream ? pf_serving_join_stream(s, *stream, &o, &id)
                        : pf_serving_join(s, prompt, n, &o, &id);
    lpf_put_back(L, 1, s);
    lpf_result(L, status);
    if (!lua_isnil(L, 6)) allow_first(L, id, 6);
    lpf_enter(L)->streams++;
    lua_pushinteger(L, id);
    return 1;
}

static int serving_leave(lua_State *L) {
    pf_serving *s = check_serving(L, "leave");
    lpf_result(L, pf_serving_leave(s, check_id(L, "leave")));
    return 0;
}

/* fork(id): a stream. */
static int serving_fork(lua_State *L) {
    check_serving(L, "fork");
    int64_t id = check_id(L, "fork");
    pf_stream **box = lpf_new_stream(L, 1);
    lpf_result(L, pf_serving_fork(box, check_serving(L, "fork"), id));
    lpf_enter(L)->streams++;
    return 1;
}

/* ---- a step ---- */

static const char *const ends[] = {
    [PF_ENDED_STOP] = "stop", [PF_ENDED_TOKENS] = "tokens", [PF_ENDED_FAILED] = "failed"};

static void set_integer(lua_State *L, const char *key, int64_t value) {
    lua_pushinteger(L, value);
    lua_setfield(L, -2, key);
}

/* ended, and of one that failed message and code, of the table on top. */
static void set_end(lua_State *L, const char *where, int64_t id, int end) {
    if (end == PF_ONGOING) return;
    lua_pushstring(L, ends[end]);
    lua_setfield(L, -2, "ended");
    if (end != PF_ENDED_FAILED) return;
    lpf_failure(L, pf_serving_failure(check_serving(L, where), id));
    lua_setfield(L, -4, "code");
    lua_setfield(L, -3, "message");
    lua_pop(L, 1);
}

/* What the last step made, copied to a block of Lua's. */
static const pf_served *copy_made(lua_State *L, size_t *n) {
    pf_serving_made(check_serving(L, "step"), n);
    const pf_served *made;
    const size_t bytes = *n * sizeof *made;
    pf_served *copy = lua_newuserdatauv(L, bytes + 1, 0);
    made = pf_serving_made(check_serving(L, "step"), n);
    if (bytes > 0) memcpy(copy, made, bytes);
    return copy;
}

/* step(): the list of {id, token, ended, message, code}, and how many go on. */
static int serving_step(lua_State *L) {
    check_serving(L, "step");
    pf_serving *s = lpf_take_out(L, 1);
    int going = pf_serving_step(s);
    lpf_put_back(L, 1, s);
    lpf_result(L, going);
    lpf_forget_error(L); /* what a layer in Lua raised has ended its sequence */
    size_t n;
    const pf_served *made = copy_made(L, &n);
    lua_createtable(L, (int)n, 0);
    for (size_t i = 0; i < n; i++) {
        lua_createtable(L, 0, 3);
        set_integer(L, "id", made[i].id);
        if (made[i].token >= 0) set_integer(L, "token", made[i].token);
        set_end(L, "step", made[i].id, made[i].end);
        lua_rawseti(L, -2, (lua_Integer)i + 1);
    }
    lua_pushinteger(L, going);
    return 2;
}

/* ---- asking ---- */

static int serving_sequence(lua_State *L) {
    const pf_serving *s = check_serving(L, "sequence");
    int64_t id = check_id(L, "sequence");
    pf_sequence_info info = {.size = sizeof info};
    lpf_result(L, pf_serving_sequence(&info, s, id));
    lua_createtable(L, 0, 6);
    set_integer(L, "position", info.position);
    set_integer(L, "waiting", info.waiting);
    set_integer(L, "tokens", info.tokens);
    set_integer(L, "bytes", info.bytes);
    if (info.last >= 0) set_integer(L, "last", info.last);
    set_end(L, "sequence", id, info.end);
    return 1;
}

/* A copy: (vocab). */
static int serving_logits(lua_State *L) {
    check_serving(L, "logits");
    int64_t id = check_id(L, "logits"), n = 0;
    pf_tensor **t = lpf_new_tensor(L);
    const pf_serving *s = check_serving(L, "logits");
    pf_sequence_info info = {.size = sizeof info};
    lpf_result(L, pf_serving_sequence(&info, s, id));
    const float *logits = pf_serving_logits(s, id, &n);
    if (!logits) return lpf_raise(L, "logits: the prompt of sequence %d still waits", (int)id);
    lpf_result(L, pf_tensor_empty(t, lpf_engine(L), PF_F32, 1, &n));
    lpf_result(L, pf_tensor_write(*t, logits, (size_t)n * sizeof *logits));
    lpf_made(L, *t);
    return 1;
}

/* allow(id, ids or nil) */
static int serving_allow(lua_State *L) {
    pf_serving *s = check_serving(L, "allow");
    int64_t id = check_id(L, "allow"), vocab = 0;
    int32_t wrong;
    if (lua_isnoneornil(L, 3)) {
        lpf_result(L, pf_serving_allow(s, id, NULL, 0));
        return 0;
    }
    pf_sequence_info info = {.size = sizeof info};
    lpf_result(L, pf_serving_sequence(&info, s, id));
    pf_serving_logits(s, id, &vocab);
    if (vocab == 0)
        return lpf_raise(L, "allow: the model's last layer is in Lua, and only its output says how "
                            "many tokens there are: allow after the first step");
    const uint8_t *allow = lpf_allowed(L, 3, "allow", vocab, &wrong);
    if (!allow) return lpf_raise(L, "allow: no token %d", (int)wrong);
    lpf_result(L, pf_serving_allow(check_serving(L, "allow"), id, allow, vocab));
    return 0;
}

/* sampling(id, {temperature, top_k, top_p, min_p, repetition_penalty, seed}) */
static int serving_sampling(lua_State *L) {
    check_serving(L, "sampling");
    int64_t id = check_id(L, "sampling");
    const pf_sampling sampling = lpf_read_sampling(L, 3);
    lpf_result(L, pf_serving_sampling(check_serving(L, "sampling"), id, &sampling));
    return 0;
}

static int serving_count(lua_State *L) {
    lua_pushinteger(L, pf_serving_count(check_serving(L, "count")));
    return 1;
}

static int serving_bytes(lua_State *L) {
    lua_pushinteger(L, pf_serving_bytes(check_serving(L, "bytes")));
    return 1;
}

static int serving_tostring(lua_State *L) {
    pf_serving **box = luaL_checkudata(L, 1, LPF_SERVING);
    if (*box)
        lua_pushfstring(L, "serving, %I sequences, %I bytes of state",
                        (lua_Integer)pf_serving_count(*box), (lua_Integer)pf_serving_bytes(*box));
    else
        lua_pushliteral(L, "serving, closed");
    return 1;
}

static const luaL_Reg methods[] = {
    {"join", serving_join},   {"leave", serving_leave},       {"fork", serving_fork},
    {"step", serving_step},   {"sequence", serving_sequence}, {"logits", serving_logits},
    {"allow", serving_allow}, {"sampling", serving_sampling}, {"count", serving_count},
    {"bytes", serving_bytes}, {"close", serving_close},       {NULL, NULL}};

static const luaL_Reg meta[] = {{"__gc", serving_close},
                                {"__close", serving_close},
                                {"__tostring", serving_tostring},
                                {NULL, NULL}};

static const luaL_Reg functions[] = {{"open_serving", serving_open}, {NULL, NULL}};

void lpf_open_serving(lua_State *L) {
    lpf_class(L, LPF_SERVING, methods, meta);
    luaL_setfuncs(L, functions, 0);
}
