/*
 * lpf_make.c - constructors: pf.tensor from nested tables, zeros, ones, full, rand, randn,
 * arange. Options come last: {dtype = "f32" | "i32"}.
 */
#include "lpf.h"

#include <math.h>
#include <string.h>

static const char *const make_options[] = {"dtype", NULL};

/* dtype of the options at `index`, if there are any. */
static pf_dtype check_dtype(lua_State *L, int index, const char *where) {
    lpf_check_options(L, index, make_options, where);
    const char *name = lpf_opt_string(L, index, "dtype", "f32");
    if (strcmp(name, "f32") == 0) return PF_F32;
    if (strcmp(name, "i32") != 0)
        lpf_raise(L, "%s: dtype must be \"f32\" or \"i32\", got \"%s\"", where, name);
    return PF_I32;
}

/* An empty list, or one with elements; a table with names only is options. */
static bool is_list(lua_State *L, int index) {
    if (!lua_istable(L, index)) return false;
    if (lua_rawlen(L, index) > 0) return true;
    lua_pushnil(L);
    if (!lua_next(L, index)) return true;
    lua_pop(L, 2);
    return false;
}

/* Sizes as numbers from argument 1 on, or as one list; returns the argument after them. */
static int check_sizes(lua_State *L, const char *where, int *rank, int64_t *shape) {
    bool list = is_list(L, 1);
    int most = list ? (int)lua_rawlen(L, 1) : lua_gettop(L);
    int n = 0;
    for (; n < most; n++) {
        if (list) lua_rawgeti(L, 1, n + 1);
        int at = list ? -1 : n + 1;
        if (!list && lua_type(L, at) != LUA_TNUMBER) break;
        if (n == PF_MAX_RANK) lpf_raise(L, "%s: at most %d dimensions", where, PF_MAX_RANK);
        shape[n] = lpf_check_whole(L, at, where, "a size");
        if (shape[n] < 0) lpf_raise(L, "%s: a size is negative (%lld)", where, (long long)shape[n]);
        if (list) lua_pop(L, 1);
    }
    *rank = n;
    return list ? 2 : n + 1;
}

/* Nothing may follow the options at `index`. */
static void check_end(lua_State *L, int index, const char *where) {
    if (lua_gettop(L) > index) lpf_raise(L, "%s: options come last", where);
}

/* zeros, ones, full: sizes, then the value where one is given by the caller, then options. */
static int make_full(lua_State *L, const char *where, bool value_given, double value) {
    int rank;
    int64_t shape[PF_MAX_RANK];
    int next = check_sizes(L, where, &rank, shape);
    if (value_given) {
        if (lua_type(L, next) != LUA_TNUMBER)
            return lpf_raise(L, "%s: the value must be a number, got %s", where, lpf_kind(L, next));
        value = lua_tonumber(L, next++);
    }
    pf_dtype dtype = check_dtype(L, next, where);
    check_end(L, next, where);
    pf_engine *engine = lpf_engine(L);
    pf_tensor **t = lpf_new_tensor(L);
    int status = pf_tensor_full(t, engine, dtype, rank, shape, value);
    if (lpf_collect_for(L, status)) status = pf_tensor_full(t, engine, dtype, rank, shape, value);
    lpf_result(L, status);
    lpf_made(L, *t);
    return 1;
}

static int make_zeros(lua_State *L) { return make_full(L, "zeros", false, 0); }
static int make_ones(lua_State *L) { return make_full(L, "ones", false, 1); }

static int make_filled(lua_State *L) {
    if (!lua_istable(L, 1))
        return lpf_raise(L, "full: the sizes must be a list, as in full({2, 3}, value)");
    return make_full(L, "full", true, 0);
}

static int make_random(lua_State *L, const char *where, bool normal) {
    int rank;
    int64_t shape[PF_MAX_RANK];
    int next = check_sizes(L, where, &rank, shape);
    if (check_dtype(L, next, where) != PF_F32)
        return lpf_raise(L, "%s: random tensors are f32", where);
    check_end(L, next, where);
    pf_engine *engine = lpf_engine(L);
    pf_tensor **t = lpf_new_tensor(L);
    int status = pf_tensor_rand(t, engine, rank, shape, normal);
    if (lpf_collect_for(L, status)) status = pf_tensor_rand(t, engine, rank, shape, normal);
    lpf_result(L, status);
    lpf_made(L, *t);
    return 1;
}

static int make_rand(lua_State *L) { return make_random(L, "rand", false); }
static int make_randn(lua_State *L) { return make_random(L, "randn", true); }

/* arange(n [, options]): 0 .. n - 1: ids, which count from 0 in Lua too. */
static int make_arange(lua_State *L) {
    int64_t n = lpf_check_whole(L, 1, "arange", "n");
    if (n < 0) return lpf_raise(L, "arange: n is negative (%lld)", (long long)n);
    if (lua_isnumber(L, 2))
        return lpf_raise(L, "arange: takes n alone, for 0 to n - 1; from a to b it is a + "
                            "pf.arange(b - a + 1), in steps of s times s, or pf.linspace");
    pf_dtype dtype = check_dtype(L, 2, "arange");
    pf_engine *engine = lpf_engine(L);
    pf_tensor **t = lpf_new_tensor(L);
    int status = pf_tensor_arange(t, engine, dtype, n);
    if (lpf_collect_for(L, status)) status = pf_tensor_arange(t, engine, dtype, n);
    lpf_result(L, status);
    lpf_made(L, *t);
    return 1;
}

/* ---- pf.tensor ---------------------------------------------------------------- */

typedef struct {
    lua_State *L;
    int rank;
    int64_t shape[PF_MAX_RANK];
    double *out; /* next element */
    bool whole;  /* i32: only whole numbers fit */
} nest;

/* The shape along the first elements of nested tables at the top of the stack. */
static void nest_shape(nest *t) {
    lua_State *L = t->L;
    lua_pushvalue(L, 1);
    while (lua_istable(L, -1)) {
        if (t->rank == PF_MAX_RANK) lpf_raise(L, "tensor: at most %d dimensions", PF_MAX_RANK);
        t->shape[t->rank++] = (int64_t)lua_rawlen(L, -1);
        lua_rawgeti(L, -1, 1);
        lua_remove(L, -2);
    }
    lua_pop(L, 1);
}

/* The number at the top of the stack. An i32 tensor takes no fraction, which would be cut. */
static void nest_element(nest *t) {
    lua_State *L = t->L;
    if (lua_type(L, -1) != LUA_TNUMBER)
        lpf_raise(L, "tensor: an element must be a number, got %s", lpf_kind(L, -1));
    double value = lua_tonumber(L, -1);
    if (t->whole &&
        !(value == floor(value) && fabs(value) <= 2147483648.0 && value != 2147483648.0))
        lpf_raise(L, "tensor: %.14g is no 32-bit whole number", value);
    if (!t->whole && isinf((float)value) && !isinf(value))
        lpf_raise(L, "tensor: an f32 tensor cannot hold %.14g", value);
    *t->out++ = value;
}

/* Copies the table at the top of the stack, which has to have the shape from `dim` on. */
static void nest_copy(nest *t, int dim) {
    lua_State *L = t->L;
    luaL_checkstack(L, 4, "tensor");
    if (dim == t->rank) {
        nest_element(t);
        return;
    }
    if (!lua_istable(L, -1))
        lpf_raise(L, "tensor: a number stands where a list of %lld is needed (dimension %d)",
                  (long long)t->shape[dim], (int)lpf_told(dim));
    if ((int64_t)lua_rawlen(L, -1) != t->shape[dim])
        lpf_raise(L, "tensor: the lists of dimension %d have %lld and %lld elements",
                  (int)lpf_told(dim), (long long)t->shape[dim], (long long)lua_rawlen(L, -1));
    for (int64_t i = 1; i <= t->shape[dim]; i++) {
        lua_rawgeti(L, -1, i);
        nest_copy(t, dim + 1);
        lua_pop(L, 1);
    }
}

/* tensor(numbers [, options]): a number or nested lists. The shape is that of the first elements;
 * the copy checks that all others have it. */
static int make_tensor(lua_State *L) {
    if (lpf_test_tensor(L, 1))
        return lpf_raise(L, "tensor: the argument is a tensor already; :detach() copies it");
    if (!lua_istable(L, 1) && lua_type(L, 1) != LUA_TNUMBER)
        return lpf_raise(L, "tensor: a number or nested lists of numbers are needed, got %s",
                         lpf_kind(L, 1));
    if (lua_type(L, 2) == LUA_TNUMBER)
        return lpf_raise(L, "tensor: takes nested lists of numbers; one of a shape is made by "
                            "pf.zeros(2, 3), and pf.ones, pf.full, pf.rand, pf.randn");
    pf_dtype dtype = check_dtype(L, 2, "tensor");
    check_end(L, 2, "tensor");
    pf_engine *engine = lpf_engine(L);
    nest t = {.L = L, .whole = dtype == PF_I32};
    nest_shape(&t);
    pf_tensor **out = lpf_new_tensor(L);
    lpf_result(L, pf_tensor_empty(out, engine, dtype, t.rank, t.shape));
    size_t n = (size_t)pf_tensor_numel(*out);
    double *values = lua_newuserdatauv(L, (n ? n : 1) * sizeof *values, 0);
    t.out = values;
    lua_pushvalue(L, 1);
    nest_copy(&t, 0);
    lua_pop(L, 1);
    lpf_result(L, pf_tensor_write(*out, values, n * sizeof *values));
    lua_pop(L, 1);
    lpf_made(L, *out);
    return 1;
}

static const luaL_Reg functions[] = {
    {"tensor", make_tensor}, {"zeros", make_zeros}, {"ones", make_ones},     {"full", make_filled},
    {"rand", make_rand},     {"randn", make_randn}, {"arange", make_arange}, {NULL, NULL}};

void lpf_open_make(lua_State *L) { luaL_setfuncs(L, functions, 0); }
