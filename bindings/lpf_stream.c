/*
 * lpf_stream.c - streaming: `stream` generates tokens from a model, `state` is the memory of
 * a model or of one attention, moved on by prefill and step.
 */
#include "lpf.h"

#include <string.h>

/* ---- states ------------------------------------------------------------------- */

pf_state **lpf_new_stream_state(lua_State *L) { return lpf_new(L, LPF_STATE, sizeof(pf_state *)); }

pf_state *lpf_check_stream_state(lua_State *L, int index, const char *where) {
    pf_state **box = luaL_testudata(L, index, LPF_STATE);
    lpf_enter(L);
    if (!box) lpf_raise(L, "%s: a state is needed, got %s", where, lpf_kind(L, index));
    if (!*box) lpf_raise(L, "%s: the state has been closed", where);
    return *box;
}

static int state_close(lua_State *L) {
    pf_state **box = luaL_checkudata(L, 1, LPF_STATE);
    lpf_enter(L);
    pf_state_close(box);
    return 0;
}

static int state_fork(lua_State *L) {
    const pf_state *state = lpf_check_stream_state(L, 1, "fork");
    pf_engine *engine = lpf_engine(L);
    pf_state **box = lpf_new_stream_state(L);
    lua_getiuservalue(L, 1, 1); /* what the first keeps alive */
    lua_setiuservalue(L, -2, 1);
    lpf_result(L, pf_state_fork(box, engine, state));
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

static int state_save(lua_State *L) {
    const pf_state *state = lpf_check_stream_state(L, 1, "save");
    const char *path = lpf_check_text(L, 2, "save", "the path");
    const int failed = lpf_outside(L, pf_state_save(lpf_engine(L), state, path));
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

static int state_attend(lua_State *L, attend_fn fn, const char *where) {
    pf_state *state = lpf_check_stream_state(L, 1, where);
    pf_tensor *q = lpf_check_tensor(L, 2, where, "q"), *k = lpf_check_tensor(L, 3, where, "k");
    pf_tensor *v = lpf_check_tensor(L, 4, where, "v");
    pf_engine *engine = lpf_engine(L);
    pf_tensor **out = lpf_new_tensor(L);
    lpf_result(L, fn(out, engine, state, q, k, v));
    lpf_made(L, *out);
    return 1;
}

static int state_prefill(lua_State *L) { return state_attend(L, pf_attention_prefill, "prefill"); }
static int state_step(lua_State *L) { return state_attend(L, pf_attention_step, "step"); }

/* attention_state(kernel config, projection or nil, batch, heads, head_dim, value_dim) */
static int state_open(lua_State *L) {
    pf_attention_state_options o = {.size = sizeof o};
    pf_engine *engine = lpf_engine(L);
    o.projection = lpf_test_tensor(L, 2);
    o.batch = lpf_check_whole(L, 3, "attention.state", "batch");
    o.heads = lpf_check_whole(L, 4, "attention.state", "heads");
    o.head_dim = lpf_check_whole(L, 5, "attention.state", "head_dim");
    o.value_dim = lpf_check_whole(L, 6, "attention.state", "value_dim");
    o.kernel = lpf_to_config(L, 1, "attention.state");
    pf_state **box = lpf_new_stream_state(L);
    lua_pushvalue(L, 2);
    lua_setiuservalue(L, -2, 1);
    lpf_result(L, pf_attention_state_open(box, engine, &o));
    return 1;
}

/* ---- streams ------------------------------------------------------------------ */

static pf_stream *check_stream(lua_State *L, const char *where) {
    pf_stream **box = luaL_testudata(L, 1, LPF_STREAM);
    lpf_enter(L);
    if (!box) lpf_raise(L, "%s: a stream is needed, got %s", where, lpf_kind(L, 1));
    if (!*box) lpf_raise(L, "%s: the stream has been closed", where);
    return *box;
}

/* open_stream(model) */
static int stream_open(lua_State *L) {
    pf_module *model = lpf_check_module(L, 1, "stream");
    pf_engine *engine = lpf_engine(L);
    pf_stream **box = lpf_new(L, LPF_STREAM, sizeof *box);
    lua_pushvalue(L, 1);
    lua_setiuservalue(L, -2, 1);
    lpf_result(L, pf_stream_open(box, engine, model));
    lpf_enter(L)->streams++;
    return 1;
}

static int stream_close(lua_State *L) {
    pf_stream **box = luaL_checkudata(L, 1, LPF_STREAM);
    lpf_enter(L);
    pf_stream_close(box);
    return 0;
}

static pf_sampling read_sampling(lua_State *L, int index) {
    static const char *const allowed[] = {"temperature", "top_k", "top_p", "seed", NULL};
    const lpf_state *s = lpf_enter(L);
    pf_sampling o = {.size = sizeof o, .top_p = 1};
    lpf_check_options(L, index, allowed, "sampling");
    o.temperature = lpf_opt_number(L, index, "temperature", 0);
    o.top_k = (int)lpf_opt_integer(L, index, "top_k", 0);
    o.top_p = lpf_opt_number(L, index, "top_p", 1);
    o.seed = (uint64_t)lpf_opt_integer(L, index, "seed", (int64_t)s->streams);
    if (!(o.temperature >= 0)) lpf_raise(L, "sampling: temperature must be at least 0");
    if (o.top_k < 0) lpf_raise(L, "sampling: top_k must be at least 0");
    if (!(o.top_p > 0 && o.top_p <= 1)) lpf_raise(L, "sampling: top_p must be in (0, 1]");
    return o;
}

static int stream_feed(lua_State *L) {
    pf_stream *stream = check_stream(L, "feed");
    size_t n;
    const int32_t *ids = lpf_ids(L, 2, "feed", &n);
    lpf_result(L, pf_stream_feed(stream, ids, n));
    lua_settop(L, 1);
    return 1;
}

static int stream_next(lua_State *L) {
    pf_stream *stream = check_stream(L, "next");
    const int64_t token = lpf_check_whole(L, 2, "next", "the token");
    if (token < 0 || token > INT32_MAX)
        return lpf_raise(L, "next: no token %lld", (long long)token);
    const pf_sampling sampling = read_sampling(L, 3);
    int32_t next = 0;
    lpf_result(L, pf_stream_next(stream, (int32_t)token, &sampling, &next));
    lua_pushinteger(L, next);
    return 1;
}

static int stream_sample(lua_State *L) {
    pf_stream *stream = check_stream(L, "sample");
    const pf_sampling sampling = read_sampling(L, 2);
    int32_t next = 0;
    lpf_result(L, pf_stream_sample(stream, &sampling, &next));
    lua_pushinteger(L, next);
    return 1;
}

/* allow(ids): from now on only these are sampled; allow(): all. */
static int stream_allow(lua_State *L) {
    pf_stream *stream = check_stream(L, "allow");
    int64_t vocab = 0;
    if (lua_isnoneornil(L, 2)) {
        lpf_result(L, pf_stream_allow(stream, NULL, 0));
        return 0;
    }
    if (!pf_stream_logits(stream, &vocab)) return lpf_raise(L, "allow: feed the stream first");
    size_t n;
    const int32_t *ids = lpf_ids(L, 2, "allow", &n);
    uint8_t *allow = lua_newuserdatauv(L, (size_t)vocab, 0);
    memset(allow, 0, (size_t)vocab);
    for (size_t i = 0; i < n; i++) {
        if (ids[i] < 0 || ids[i] >= vocab) return lpf_raise(L, "allow: no token %d", (int)ids[i]);
        allow[ids[i]] = 1;
    }
    lpf_result(L, pf_stream_allow(stream, allow, vocab));
    return 0;
}

/* A copy of the logits that stand, (vocab). */
static int stream_logits(lua_State *L) {
    pf_stream *stream = check_stream(L, "logits");
    int64_t n = 0;
    const float *logits = pf_stream_logits(stream, &n);
    if (!logits) return lpf_raise(L, "logits: feed the stream first");
    pf_tensor **t = lpf_new_tensor(L);
    lpf_result(L, pf_tensor_empty(t, lpf_engine(L), PF_F32, 1, &n));
    lpf_result(L, pf_tensor_write(*t, logits, (size_t)n * sizeof *logits));
    lpf_made(L, *t);
    return 1;
}

static int stream_bytes(lua_State *L) {
    lua_pushinteger(L, pf_stream_bytes(check_stream(L, "bytes")));
    return 1;
}

static int stream_tostring(lua_State *L) {
    pf_stream **box = luaL_checkudata(L, 1, LPF_STREAM);
    if (*box)
        lua_pushfstring(L, "stream, %I bytes of state", (lua_Integer)pf_stream_bytes(*box));
    else
        lua_pushliteral(L, "stream, closed");
    return 1;
}

/* next_seed(): another one each time, in the same order in every run. */
static int next_seed(lua_State *L) {
    lua_pushinteger(L, (lua_Integer)lpf_enter(L)->streams);
    return 1;
}

static const luaL_Reg state_methods[] = {{"prefill", state_prefill}, {"step", state_step},
                                         {"fork", state_fork},       {"save", state_save},
                                         {"bytes", state_bytes},     {"position", state_position},
                                         {"close", state_close},     {NULL, NULL}};

static const luaL_Reg state_meta[] = {
    {"__gc", state_close}, {"__close", state_close}, {"__tostring", state_tostring}, {NULL, NULL}};

static const luaL_Reg stream_methods[] = {{"feed", stream_feed},     {"next", stream_next},
                                          {"sample", stream_sample}, {"allow", stream_allow},
                                          {"logits", stream_logits}, {"bytes", stream_bytes},
                                          {"close", stream_close},   {NULL, NULL}};

static const luaL_Reg stream_meta[] = {{"__gc", stream_close},
                                       {"__close", stream_close},
                                       {"__tostring", stream_tostring},
                                       {NULL, NULL}};

static const luaL_Reg functions[] = {{"attention_state", state_open},
                                     {"open_stream", stream_open},
                                     {"next_seed", next_seed},
                                     {NULL, NULL}};

void lpf_open_stream(lua_State *L) {
    lpf_class(L, LPF_STATE, state_methods, state_meta);
    lpf_class(L, LPF_STREAM, stream_methods, stream_meta);
    luaL_setfuncs(L, functions, 0);
}
