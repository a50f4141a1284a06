/*
 * lpf_create.c - more constructors: randint, randperm, eye, linspace; and elements as bytes of
 * other types, in and out: frombytes, tobytes.
 */
#include "lpf.h"

#include <stdlib.h>
#include <string.h>

/* Sizes as numbers from `index` on, or as one list; returns the argument after them. */
static int check_sizes(lua_State *L, int index, const char *where, int *rank, int64_t *shape) {
    bool list = lua_istable(L, index);
    int most = list ? (int)lua_rawlen(L, index) : lua_gettop(L) - index + 1, n = 0;
    for (; n < most; n++) {
        if (list) lua_rawgeti(L, index, n + 1);
        int at = list ? -1 : index + n;
        if (!list && lua_type(L, at) != LUA_TNUMBER) break;
        if (n == PF_MAX_RANK) lpf_raise(L, "%s: at most %d dimensions", where, PF_MAX_RANK);
        shape[n] = lpf_check_whole(L, at, where, "a size");
        if (shape[n] < 0) lpf_raise(L, "%s: a size is negative (%lld)", where, (long long)shape[n]);
        if (list) lua_pop(L, 1);
    }
    *rank = n;
    return list ? index + 1 : index + n;
}

/* Nothing may stand at `index` or behind it. */
static void check_end(lua_State *L, int index, const char *where) {
    if (lua_gettop(L) >= index)
        lpf_raise(L, "%s: too many arguments, the first of them %s", where, lpf_kind(L, index));
}

static int made(lua_State *L, int status, pf_tensor *const *t) {
    lpf_result(L, status);
    lpf_made(L, *t);
    return 1;
}

/* ---- random ------------------------------------------------------------------- */

/* randint(low, high, sizes): both may come, as with math.random. */
static int make_randint(lua_State *L) {
    int rank;
    int64_t shape[PF_MAX_RANK];
    int64_t low = lpf_check_whole(L, 1, "randint", "the lowest"),
            high = lpf_check_whole(L, 2, "randint", "the highest");
    check_end(L, check_sizes(L, 3, "randint", &rank, shape), "randint");
    pf_engine *engine = lpf_engine(L);
    pf_tensor **t = lpf_new_tensor(L);
    int status = pf_tensor_randint(t, engine, rank, shape, low, high);
    if (lpf_collect_for(L, status)) status = pf_tensor_randint(t, engine, rank, shape, low, high);
    return made(L, status, t);
}

/* randperm(n): the positions 1 .. n in a random order. */
static int make_randperm(lua_State *L) {
    int64_t n = lpf_check_whole(L, 1, "randperm", "n");
    check_end(L, 2, "randperm");
    pf_engine *engine = lpf_engine(L);
    pf_tensor **t = lpf_new_tensor(L);
    int status = pf_tensor_randperm(t, engine, n);
    if (lpf_collect_for(L, status)) status = pf_tensor_randperm(t, engine, n);
    lpf_result(L, status);
    lpf_tell_places(L, *t);
    return made(L, PF_OK, t);
}

/* ---- others ------------------------------------------------------------------- */

/* eye(n [, m] [, options]) */
static int make_eye(lua_State *L) {
    static const char *const allowed[] = {"dtype", NULL};
    int64_t n = lpf_check_whole(L, 1, "eye", "n"), m = n;
    int next = 2;
    if (lua_type(L, 2) == LUA_TNUMBER) m = lpf_check_whole(L, next++, "eye", "m");
    lpf_check_options(L, next, allowed, "eye");
    const char *dtype = lpf_opt_string(L, next, "dtype", "f32");
    if (strcmp(dtype, "f32") != 0 && strcmp(dtype, "i32") != 0)
        return lpf_raise(L, "eye: dtype must be \"f32\" or \"i32\", got \"%s\"", dtype);
    check_end(L, next + 1, "eye");
    pf_engine *engine = lpf_engine(L);
    pf_tensor **t = lpf_new_tensor(L);
    const pf_dtype of = *dtype == 'f' ? PF_F32 : PF_I32;
    int status = pf_tensor_eye(t, engine, of, n, m);
    if (lpf_collect_for(L, status)) status = pf_tensor_eye(t, engine, of, n, m);
    return made(L, status, t);
}

static int make_linspace(lua_State *L) {
    double a = lpf_check_number(L, 1, "linspace", "the first"),
           b = lpf_check_number(L, 2, "linspace", "the last");
    int64_t n = lpf_check_whole(L, 3, "linspace", "n");
    check_end(L, 4, "linspace");
    pf_engine *engine = lpf_engine(L);
    pf_tensor **t = lpf_new_tensor(L);
    int status = pf_tensor_linspace(t, engine, a, b, n);
    if (lpf_collect_for(L, status)) status = pf_tensor_linspace(t, engine, a, b, n);
    return made(L, status, t);
}

/* ---- bytes -------------------------------------------------------------------- */

static bool check_big(lua_State *L, int index, const char *where) {
    static const char *const allowed[] = {"big_endian", NULL};
    lpf_check_options(L, index, allowed, where);
    return lpf_opt_bool(L, index, "big_endian", false);
}

/* frombytes(string, type, shape [, {big_endian}]) */
static int make_frombytes(lua_State *L) {
    int rank;
    int64_t shape[PF_MAX_RANK];
    size_t size;
    if (lua_type(L, 1) != LUA_TSTRING)
        return lpf_raise(L, "frombytes: a string is needed, got %s", lpf_kind(L, 1));
    const char *bytes = lua_tolstring(L, 1, &size);
    const char *type = lpf_check_text(L, 2, "frombytes", "the type");
    if (!lua_istable(L, 3))
        return lpf_raise(L, "frombytes: the shape must be a list, got %s", lpf_kind(L, 3));
    check_sizes(L, 3, "frombytes", &rank, shape);
    bool big = check_big(L, 4, "frombytes");
    check_end(L, 5, "frombytes");
    pf_engine *engine = lpf_engine(L);
    pf_tensor **t = lpf_new_tensor(L);
    int status = pf_tensor_from_bytes(t, engine, type, big, bytes, size, rank, shape);
    if (lpf_collect_for(L, status))
        status = pf_tensor_from_bytes(t, engine, type, big, bytes, size, rank, shape);
    return made(L, status, t);
}

/* Bytes of an element of a type, by the digits of its name: "bf16"; of what is none, 0 to 8. */
static size_t bytes_of(const char *type) {
    const char *digits = type + strcspn(type, "0123456789");
    unsigned long bits = strtoul(digits, NULL, 10);
    return bits <= 64 ? bits / 8 : 0;
}

/* t:tobytes([type] [, {big_endian}]): the elements, row-major; of its own type equal strings are
 * equal bits. */
static int tensor_tobytes(lua_State *L) {
    lpf_enter(L);
    const pf_tensor *t = lpf_check_living(L, 1, "tobytes");
    const char *type = pf_dtype_name(pf_tensor_dtype(t));
    int next = 2;
    if (!lua_istable(L, 2) && !lua_isnoneornil(L, 2))
        type = lpf_check_text(L, 2, "tobytes", "the type");
    if (!lua_istable(L, 2)) next = 3;
    bool big = check_big(L, next, "tobytes");
    check_end(L, next + 1, "tobytes");
    lpf_charge(L, pf_tensor_numel(t));
    size_t bytes = (size_t)pf_tensor_numel(t) * bytes_of(type);
    luaL_Buffer b;
    char *data = luaL_buffinitsize(L, &b, bytes);
    int status;
    LPF_LENT(L, status, pf_tensor_to_bytes(t, type, big, data, bytes));
    if (lpf_collect_for(L, status))
        LPF_LENT(L, status, pf_tensor_to_bytes(t, type, big, data, bytes));
    lpf_result(L, status);
    luaL_pushresultsize(&b, bytes);
    return 1;
}

static const luaL_Reg functions[] = {
    {"randint", make_randint},   {"randperm", make_randperm},   {"eye", make_eye},
    {"linspace", make_linspace}, {"frombytes", make_frombytes}, {NULL, NULL}};

static const luaL_Reg methods[] = {{"tobytes", tensor_tobytes}, {NULL, NULL}};

void lpf_open_create(lua_State *L) {
    luaL_setfuncs(L, functions, 0);
    lpf_add_methods(L, LPF_TENSOR, methods);
}
