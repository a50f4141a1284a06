/*
 * lpf_tape.c - the tape userdata. `local tape <close> = pf.tape()` frees every activation
 * at scope exit; a tape that was forgotten closes with the collector. Tapes nest: an outer
 * one that closes takes the inner ones with it.
 */
#include "lpf.h"

/* Closes `tape` and every tape opened after it. */
static void close_down_to(lpf_context *ctx, lpf_tape *tape) {
    if (!tape->tape) return;
    bool more = true;
    while (more && ctx->tape) {
        lpf_tape *top = ctx->tape;
        more = top != tape;
        ctx->tape = top->outer;
        top->outer = NULL;
        pf_tape_close(&top->tape);
    }
}

void lpf_close_tapes(lpf_context *ctx, const lpf_tape *tape) {
    while (ctx->tape && ctx->tape != tape) close_down_to(ctx, ctx->tape);
}

/* The weak table from each tape's address to its userdata. */
static void push_known(lua_State *L) {
    if (luaL_getsubtable(L, LUA_REGISTRYINDEX, "performer.tapes")) return;
    lua_newtable(L);
    lua_pushliteral(L, "v");
    lua_setfield(L, -2, "__mode");
    lua_setmetatable(L, -2);
}

/* tape(): the innermost one from now on. */
static int tape_new(lua_State *L) {
    pf_engine *engine = lpf_engine(L);
    lpf_context *ctx = lpf_enter(L);
    lpf_tape *tape = lpf_new(L, LPF_TAPE, sizeof *tape);
    push_known(L);
    if (ctx->tape) { /* it must not be collected before the inner one */
        lua_rawgetp(L, -1, ctx->tape);
        lua_setiuservalue(L, -3, 1);
    }
    lua_pushvalue(L, -2);
    lua_rawsetp(L, -2, tape);
    lua_pop(L, 1);
    lpf_result(L, pf_tape_open(&tape->tape, engine));
    tape->outer = ctx->tape;
    ctx->tape = tape;
    return 1;
}

static int tape_close(lua_State *L) {
    close_down_to(lpf_enter(L), luaL_checkudata(L, 1, LPF_TAPE));
    return 0;
}

/* A seed that is a number, as a tensor of the loss's shape. */
static const pf_tensor *number_seed(lua_State *L, const pf_tensor *loss) {
    int64_t shape[PF_MAX_RANK];
    int rank = pf_tensor_rank(loss);
    for (int d = 0; d < rank; d++) shape[d] = pf_tensor_size(loss, d);
    pf_tensor **seed = lpf_new_tensor(L);
    lpf_result(L, pf_tensor_full(seed, lpf_engine(L), PF_F32, rank, shape, lua_tonumber(L, 3)));
    return *seed;
}

/* tape:backward(loss [, seed]): the loss is a scalar, or the seed is its gradient, a tensor, or one
 * number for all of it. */
static int tape_backward(lua_State *L) {
    lpf_tape *tape = luaL_checkudata(L, 1, LPF_TAPE);
    if (!tape->tape) return lpf_raise(L, "backward: the tape has closed");
    lpf_enter(L);
    pf_tensor *loss = lpf_check_tensor(L, 2, "backward", "loss");
    const pf_tensor *seed = NULL;
    if (lua_type(L, 3) == LUA_TNUMBER)
        seed = number_seed(L, loss);
    else if (!lua_isnoneornil(L, 3))
        seed = lpf_check_tensor(L, 3, "backward", "seed");
    lpf_result(L, pf_tape_backward(tape->tape, loss, seed));
    return 0;
}

static int tape_tostring(lua_State *L) {
    const lpf_tape *tape = luaL_checkudata(L, 1, LPF_TAPE);
    lua_pushstring(L, tape->tape ? "tape, open" : "tape, closed");
    return 1;
}

/* ---- checking gradients ------------------------------------------------------- */

typedef struct {
    lpf_context *ctx;
    int function; /* in the registry */
    pf_tensor *const *inputs;
    int n;
    pf_tensor **loss;
} check_call;

static int check_body(lua_State *L) {
    const check_call *c = lua_touserdata(L, 1);
    luaL_checkstack(L, c->n + 4, "too many inputs");
    lua_rawgeti(L, LUA_REGISTRYINDEX, c->function);
    for (int i = 0; i < c->n; i++) lpf_push_tensor(L, c->inputs[i]);
    lua_call(L, c->n, 1);
    *c->loss = pf_tensor_retain(lpf_check_tensor(L, -1, "check.gradient", "the function's result"));
    return 0;
}

/* Called once for each point where the function is looked at. */
static int check_function(void *context, pf_engine *engine, pf_tensor *const *inputs, int n,
                          pf_tensor **loss) {
    (void)engine;
    const check_call *made = context;
    check_call call = {made->ctx, made->function, inputs, n, loss};
    return lpf_protect(made->ctx, check_body, &call);
}

/* gradcheck(f, inputs, seed): the largest relative error, and how many directions were judged. */
static int gradcheck(lua_State *L) {
    luaL_checktype(L, 1, LUA_TFUNCTION);
    luaL_checktype(L, 2, LUA_TTABLE);
    uint64_t seed = (uint64_t)lpf_check_whole(L, 3, "check.gradient", "seed");
    int n = (int)lua_rawlen(L, 2);
    pf_engine *engine = lpf_engine(L);
    pf_tensor **inputs = lua_newuserdatauv(L, ((size_t)n + 1) * sizeof *inputs, 0);
    for (int i = 0; i < n; i++) {
        lua_rawgeti(L, 2, i + 1);
        inputs[i] = lpf_check_tensor(L, -1, "check.gradient", "an input"); /* the list holds it */
        lua_pop(L, 1);
    }
    lua_pushvalue(L, 1);
    check_call call = {lpf_enter(L), luaL_ref(L, LUA_REGISTRYINDEX), inputs, n, NULL};
    double worst = 0;
    int judged = pf_gradcheck(engine, check_function, &call, inputs, n, seed, &worst);
    luaL_unref(L, LUA_REGISTRYINDEX, call.function);
    lpf_result(L, judged);
    lua_pushnumber(L, worst);
    lua_pushinteger(L, judged);
    return 2;
}

static const luaL_Reg methods[] = {
    {"backward", tape_backward}, {"close", tape_close}, {NULL, NULL}};
static const luaL_Reg meta[] = {
    {"__gc", tape_close}, {"__close", tape_close}, {"__tostring", tape_tostring}, {NULL, NULL}};

void lpf_open_tape(lua_State *L) {
    lpf_class(L, LPF_TAPE, methods, meta);
    lua_pushcfunction(L, tape_new);
    lua_setfield(L, -2, "tape");
    lua_pushcfunction(L, gradcheck);
    lua_setfield(L, -2, "gradcheck");
}
