/*
 * lpf_recompute.c - pf.recompute(f, x, ...): a Lua function whose activations are not kept
 * but made again in backward.
 *
 * The second run has to find what the first found. Beside the function that is the pass of
 * the layer around it, or else what a model's call would begin with: its tensors, and the
 * number of its first random call.
 */
#include "lpf.h"

#include <stdlib.h>
#include <string.h>

typedef struct {
    lpf_context *s; /* retained */
    int function;   /* in the registry */
    pf_pass pass;   /* its tensors retained; size 0: there is none */
    uint64_t calls;
    bool ran;
} kept_function;

typedef struct {
    const kept_function *kept;
    pf_tensor *const *inputs;
    int n;
    pf_tensor **y;
} kept_call;

static int run_body(lua_State *L) {
    const kept_call *c = lua_touserdata(L, 1);
    luaL_checkstack(L, c->n + 4, "too many inputs");
    lua_rawgeti(L, LUA_REGISTRYINDEX, c->kept->function);
    for (int i = 0; i < c->n; i++) lpf_push_tensor(L, c->inputs[i]);
    const int base = lua_gettop(L) - c->n - 1;
    lua_call(L, c->n, LUA_MULTRET);
    const int results = lua_gettop(L) - base;
    if (results != 1)
        lpf_raise(L, "recompute: the function must return one tensor, it returned %d values",
                  results);
    *c->y = pf_tensor_retain(lpf_check_tensor(L, -1, "recompute", "the function's result"));
    return 0;
}

static int run_kept(void *context, pf_engine *engine, pf_tensor *const *inputs, int n,
                    pf_tensor **y) {
    (void)engine;
    kept_function *kept = context;
    kept_call call = {kept, inputs, n, y};
    const pf_pass *outer = kept->s->pass;
    pf_pass pass = kept->pass;
    uint64_t calls = kept->calls;
    if (kept->ran && pass.calls) pass.calls = &calls; /* the first one's counter is gone */
    pass.again = pass.again || kept->ran;
    kept->ran = true;
    kept->s->pass = pass.size ? &pass : outer;
    const int status = lpf_protect(kept->s, run_body, &call);
    kept->s->pass = outer;
    return status;
}

/* The array and the names of the pass around may be gone when the second run comes. */
static bool keep_inputs(kept_function *kept) {
    const pf_named *from = kept->pass.inputs;
    const int n = kept->pass.n_inputs;
    pf_named *list = n > 0 ? calloc((size_t)n, sizeof *list) : NULL;
    kept->pass.inputs = list, kept->pass.n_inputs = 0;
    for (int i = 0; list && i < n; i++) {
        list[i].name = strdup(from[i].name);
        if (!list[i].name) return false;
        list[i].tensor = pf_tensor_retain(from[i].tensor);
        kept->pass.n_inputs++;
    }
    return n == 0 || list;
}

static void release_kept(void *context) {
    kept_function *kept = context;
    if (kept->s->main) luaL_unref(kept->s->main, LUA_REGISTRYINDEX, kept->function);
#define RELEASE(name) pf_tensor_release(&kept->pass.name);
    PF_PASS_FIELDS(PF_PASS_NONE, PF_PASS_NONE, RELEASE, PF_PASS_NONE, PF_PASS_NONE, PF_PASS_NONE)
#undef RELEASE
    pf_named *list = (pf_named *)kept->pass.inputs;
    for (int i = 0; i < kept->pass.n_inputs; i++) {
        free((char *)list[i].name);
        pf_tensor_release(&list[i].tensor);
    }
    free(list);
    lpf_context_release(kept->s);
    free(kept);
}

/* The function at `index`, with what stands around this call. */
static kept_function *keep_function(lua_State *L, lpf_context *s, int index) {
    lua_pushvalue(L, index);
    const int function = luaL_ref(L, LUA_REGISTRYINDEX);
    kept_function *kept = calloc(1, sizeof *kept);
    if (!kept) {
        luaL_unref(L, LUA_REGISTRYINDEX, function);
        lpf_raise(L, "recompute: out of memory");
        return NULL;
    }
    kept->s = s;
    s->refs++;
    kept->function = function;
    if (!s->tape && !s->pass) return kept;
    kept->pass = lpf_pass_around(s);
    if (kept->pass.calls) kept->calls = *kept->pass.calls;
#define RETAIN(name) pf_tensor_retain(kept->pass.name);
    PF_PASS_FIELDS(PF_PASS_NONE, PF_PASS_NONE, RETAIN, PF_PASS_NONE, PF_PASS_NONE, PF_PASS_NONE)
#undef RETAIN
    if (keep_inputs(kept)) return kept;
    release_kept(kept);
    lpf_raise(L, "recompute: out of memory");
    return NULL;
}

/* recompute(f, x, ...) */
static int recompute(lua_State *L) {
    luaL_checktype(L, 1, LUA_TFUNCTION);
    pf_engine *engine = lpf_engine(L);
    lpf_context *s = lpf_enter(L);
    pf_tensor *inputs[LPF_MAX_IN];
    const int n = lua_gettop(L) - 1;
    if (n > LPF_MAX_IN)
        return lpf_raise(L, "recompute: %d tensors, at most %d are possible", n, LPF_MAX_IN);
    for (int i = 0; i < n; i++)
        inputs[i] = lpf_check_tensor(L, i + 2, "recompute",
                                     "an input (the function may read anything else by itself)");
    pf_tensor **y = lpf_new_tensor(L);
    const pf_recomputed f = {sizeof f, run_kept, release_kept, keep_function(L, s, 1)};
    lpf_result(L, pf_recompute(y, engine, &f, inputs, n));
    lpf_made(L, *y);
    return 1;
}

static const luaL_Reg functions[] = {{"recompute", recompute}, {NULL, NULL}};

void lpf_open_recompute(lua_State *L) { luaL_setfuncs(L, functions, 0); }
