/*
 * lpf_stream.c - streaming a model's tokens: feed, sample, fork, reorder, save and load. The
 * states themselves: lpf_state.c.
 *
 * Whatever allocates may collect, and a finalizer of the script's may close what a method works on:
 * so a method looks into the box when it has made all that it needs.
 */
#include "lpf.h"

#include <math.h>
#include <string.h>

/* ---- streams ------------------------------------------------------------------ */

static pf_stream *check_stream(lua_State *L, const char *where) {
    pf_stream **box = luaL_testudata(L, 1, LPF_STREAM);
    lpf_enter(L);
    if (!box) return lpf_raise(L, "%s: a stream is needed, got %s", where, lpf_kind(L, 1)), NULL;
    if (!*box) lpf_raise(L, "%s: the stream has been closed, or is at work", where);
    return *box;
}

pf_stream **lpf_new_stream(lua_State *L, int index) {
    pf_stream **box = lpf_new(L, LPF_STREAM, sizeof *box);
    if (luaL_testudata(L, index, LPF_STREAM) || luaL_testudata(L, index, LPF_SERVING))
        lua_getiuservalue(L, index, 1);
    else
        lua_pushvalue(L, index);
    lua_setiuservalue(L, -2, 1);
    return box;
}

/* open_stream(model, batch [, {INPUT = ...}]) */
static int stream_open(lua_State *L) {
    pf_module *model = lpf_check_module(L, 1, "stream");
    int64_t batch = lpf_check_whole(L, 2, "stream", "batch");
    pf_engine *engine = lpf_engine(L);
    int n;
    const pf_named *inputs = lpf_read_inputs(L, model, 3, "stream", &n);
    pf_stream **box = lpf_new_stream(L, 1);
    lpf_result(L, pf_stream_open_inputs(box, engine, model, batch, inputs, n));
    lpf_enter(L)->streams++;
    return 1;
}

/* load_stream(model, path); nil, message, code */
static int stream_load(lua_State *L) {
    pf_module *model = lpf_check_module(L, 1, "load_stream");
    const char *path = lpf_check_text(L, 2, "load_stream", "the path");
    pf_engine *engine = lpf_engine(L);
    pf_stream **box = lpf_new_stream(L, 1);
    int failed = lpf_loaded(L, pf_stream_load(box, engine, model, path));
    if (failed) return failed;
    lpf_enter(L)->streams++;
    return 1;
}

/* fork(): a second one that goes on from here by itself. */
static int stream_fork(lua_State *L) {
    check_stream(L, "fork");
    pf_stream **box = lpf_new_stream(L, 1);
    lpf_result(L, pf_stream_fork(box, check_stream(L, "fork")));
    return 1;
}

/* reorder(rows): rows count from 1; the stream itself. */
static int stream_reorder(lua_State *L) {
    check_stream(L, "reorder");
    size_t n;
    const int64_t *rows = lpf_place_list(L, 2, "reorder", "rows", &n);
    lpf_result(L, pf_stream_reorder(check_stream(L, "reorder"), rows, (int64_t)n));
    lua_settop(L, 1);
    return 1;
}

static int stream_save(lua_State *L) {
    check_stream(L, "save");
    const char *path = lpf_check_text(L, 2, "save", "the path");
    int failed = lpf_outside(L, pf_stream_save(check_stream(L, "save"), path));
    if (failed) return failed;
    lua_pushboolean(L, true);
    return 1;
}

static int stream_close(lua_State *L) {
    pf_stream **box = luaL_checkudata(L, 1, LPF_STREAM);
    lpf_enter(L);
    pf_stream_close(box);
    return 0;
}

/* No seed: the number of streams opened so far, which is the same in every run of a script. */
pf_sampling lpf_read_sampling(lua_State *L, int index) {
    static const char *const allowed[] = {"temperature",        "top_k", "top_p", "min_p",
                                          "repetition_penalty", "seed",  NULL};
    const lpf_context *ctx = lpf_enter(L);
    pf_sampling o = {.size = sizeof o, .top_p = 1};
    lpf_check_options(L, index, allowed, "sampling");
    o.temperature = lpf_opt_number(L, index, "temperature", 0);
    o.top_k = (int)lpf_opt_integer(L, index, "top_k", 0);
    o.top_p = lpf_opt_number(L, index, "top_p", 1);
    o.min_p = lpf_opt_number(L, index, "min_p", 0);
    o.repetition_penalty = lpf_opt_number(L, index, "repetition_penalty", 1);
    o.seed = (uint64_t)lpf_opt_integer(L, index, "seed", (int64_t)ctx->streams);
    if (!(o.temperature >= 0)) lpf_raise(L, "sampling: temperature must be at least 0");
    if (o.top_k < 0) lpf_raise(L, "sampling: top_k must be at least 0");
    if (!(o.top_p > 0 && o.top_p <= 1)) lpf_raise(L, "sampling: top_p must be in (0, 1]");
    if (!(o.min_p >= 0 && o.min_p <= 1)) lpf_raise(L, "sampling: min_p must be in [0, 1]");
    if (!(o.repetition_penalty > 0 && isfinite(o.repetition_penalty)))
        lpf_raise(L, "sampling: repetition_penalty must be more than 0");
    return o;
}

static void feed(lua_State *L, const int32_t *ids, size_t n) {
    pf_stream *stream = lpf_take_out(L, 1);
    int status = pf_stream_feed(stream, ids, n);
    lpf_put_back(L, 1, stream);
    lpf_result(L, status);
}

/* feed(ids): ids (batch, n), row after row. */
static int stream_feed(lua_State *L) {
    pf_stream *stream = check_stream(L, "feed");
    size_t batch = (size_t)pf_stream_batch(stream);
    size_t n;
    const pf_tensor *t = lpf_test_tensor(L, 2);
    const int32_t *ids = lpf_ids(L, 2, "feed", &n);
    if (n % batch != 0 || (t && pf_tensor_rank(t) == 2 && pf_tensor_size(t, 0) != (int64_t)batch))
        return lpf_raise(L, "feed: ids must be (%d, n), a row a sequence; got %d of them",
                         (int)batch, (int)n);
    feed(L, ids, n / batch);
    lua_settop(L, 1);
    return 1;
}

/* Draws for all sequences: an id, or of a batch the list of them. */
static int push_sample(lua_State *L, const pf_sampling *sampling, const char *where) {
    int64_t batch = pf_stream_batch(check_stream(L, where));
    int32_t *next = lua_newuserdatauv(L, (size_t)batch * sizeof *next, 0);
    lpf_result(L, pf_stream_sample(check_stream(L, where), sampling, next));
    if (batch == 1) {
        lua_pushinteger(L, next[0]);
        return 1;
    }
    lua_createtable(L, (int)batch, 0);
    for (int64_t b = 0; b < batch; b++) {
        lua_pushinteger(L, next[b]);
        lua_rawseti(L, -2, b + 1);
    }
    return 1;
}

/* next(token, sampling), or of a batch next(tokens, sampling). */
static int stream_next(lua_State *L) {
    int64_t batch = pf_stream_batch(check_stream(L, "next"));
    lua_settop(L, 3);
    if (lua_type(L, 2) == LUA_TNUMBER) {
        lua_createtable(L, 1, 0);
        lua_pushvalue(L, 2);
        lua_rawseti(L, -2, 1);
        lua_replace(L, 2);
    }
    const pf_sampling sampling = lpf_read_sampling(L, 3);
    size_t n;
    const int32_t *ids = lpf_ids(L, 2, "next", &n);
    if ((int64_t)n != batch)
        return lpf_raise(L, "next: a token a sequence, %d of them; got %d", (int)batch, (int)n);
    for (size_t i = 0; i < n; i++)
        if (ids[i] < 0) return lpf_raise(L, "next: no token %d", (int)ids[i]);
    feed(L, ids, 1);
    return push_sample(L, &sampling, "next");
}

/* sample([sampling]): draws from the logits that stand; the stream doesn't move. */
static int stream_sample(lua_State *L) {
    check_stream(L, "sample");
    const pf_sampling sampling = lpf_read_sampling(L, 2);
    return push_sample(L, &sampling, "sample");
}

uint8_t *lpf_allowed(lua_State *L, int index, const char *where, int64_t vocab, int32_t *wrong) {
    size_t n;
    const int32_t *ids = lpf_ids(L, index, where, &n);
    uint8_t *allow = lua_newuserdatauv(L, (size_t)vocab, 0);
    memset(allow, 0, (size_t)vocab);
    for (size_t i = 0; i < n; i++) {
        *wrong = ids[i];
        if (ids[i] < 0 || ids[i] >= vocab) return NULL;
        allow[ids[i]] = 1;
    }
    return allow;
}

/* allow(ids): from now on only these are sampled; allow(): all. */
static int stream_allow(lua_State *L) {
    pf_stream *stream = check_stream(L, "allow");
    int64_t vocab = 0;
    int32_t wrong;
    if (lua_isnoneornil(L, 2)) {
        lpf_result(L, pf_stream_allow(stream, NULL, 0));
        return 0;
    }
    pf_stream_logits(stream, &vocab);
    if (vocab == 0)
        return lpf_raise(L, "allow: feed the stream first: its last layer is in Lua, and only its "
                            "output says how many tokens there are");
    const uint8_t *allow = lpf_allowed(L, 2, "allow", vocab, &wrong);
    if (!allow) return lpf_raise(L, "allow: no token %d", (int)wrong);
    lpf_result(L, pf_stream_allow(check_stream(L, "allow"), allow, vocab));
    return 0;
}

/* A copy of the logits that stand: (vocab), of a batch (batch, vocab). */
static int stream_logits(lua_State *L) {
    check_stream(L, "logits");
    pf_tensor **t = lpf_new_tensor(L);
    pf_stream *stream = check_stream(L, "logits");
    int64_t shape[2] = {pf_stream_batch(stream), 0};
    const float *logits = pf_stream_logits(stream, &shape[1]);
    if (!logits) return lpf_raise(L, "logits: feed the stream first");
    int rank = shape[0] == 1 ? 1 : 2;
    lpf_result(L, pf_tensor_empty(t, lpf_engine(L), PF_F32, rank, shape + 2 - rank));
    size_t bytes = (size_t)(shape[0] * shape[1]) * sizeof *logits;
    lpf_result(L, pf_tensor_write(*t, logits, bytes));
    lpf_made(L, *t);
    return 1;
}

static int stream_bytes(lua_State *L) {
    lua_pushinteger(L, pf_stream_bytes(check_stream(L, "bytes")));
    return 1;
}

static int stream_position(lua_State *L) {
    lua_pushinteger(L, pf_stream_position(check_stream(L, "position")));
    return 1;
}

static int stream_batch(lua_State *L) {
    lua_pushinteger(L, pf_stream_batch(check_stream(L, "batch")));
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

static const luaL_Reg stream_methods[] = {{"feed", stream_feed},
                                          {"next", stream_next},
                                          {"sample", stream_sample},
                                          {"allow", stream_allow},
                                          {"logits", stream_logits},
                                          {"bytes", stream_bytes},
                                          {"fork", stream_fork},
                                          {"reorder", stream_reorder},
                                          {"save", stream_save},
                                          {"batch", stream_batch},
                                          {"position", stream_position},
                                          {"close", stream_close},
                                          {NULL, NULL}};

static const luaL_Reg stream_meta[] = {{"__gc", stream_close},
                                       {"__close", stream_close},
                                       {"__tostring", stream_tostring},
                                       {NULL, NULL}};

static const luaL_Reg functions[] = {{"open_stream", stream_open},
                                     {"load_stream", stream_load},
                                     {"next_seed", next_seed},
                                     {NULL, NULL}};

void lpf_open_stream(lua_State *L) {
    lpf_class(L, LPF_STREAM, stream_methods, stream_meta);
    luaL_setfuncs(L, functions, 0);
}
