/*
 * lpf_arith.c - the operators of tensors, made of op rows. A number mixed with
 * a tensor needs no tensor of its own where the op affine does the same.
 */
#include "lpf.h"

#include <string.h>

/* ---- operators ---------------------------------------------------------------- */

/* scale * t + shift */
static int affine(lua_State *L, pf_tensor *t, double scale, double shift) {
    const lpf_op *op = lpf_find_op(L, "affine");
    pf_attr attr[LPF_MAX_ATTR];
    lpf_result(L, pf_op_defaults(lpf_engine(L), op->index, attr));
    for (int k = 0; k < op->info.n_attrs; k++) {
        if (strcmp(op->info.attrs[k].name, "scale") == 0) attr[k].f = scale;
        if (strcmp(op->info.attrs[k].name, "shift") == 0) attr[k].f = shift;
    }
    return lpf_run(L, op, &t, 1, attr);
}

/* The op `name` with the attributes it has by default. */
static int named(lua_State *L, const char *name, pf_tensor *const *in, int n) {
    const lpf_op *op = lpf_find_op(L, name);
    pf_attr attr[LPF_MAX_ATTR];
    lpf_result(L, pf_op_defaults(lpf_engine(L), op->index, attr));
    return lpf_run(L, op, in, n, attr);
}

/* An operator of two operands, one of which may be a number. */
static int binary(lua_State *L, const char *name) {
    pf_tensor *in[2];
    for (int i = 0; i < 2; i++) {
        in[i] = lpf_test_tensor(L, i + 1);
        if (!in[i] && lua_type(L, i + 1) != LUA_TNUMBER)
            return lpf_raise(L, "%s: %s and %s don't go together", name, lpf_kind(L, 1),
                             lpf_kind(L, 2));
    }
    for (int i = 0; i < 2; i++)
        if (!in[i]) in[i] = lpf_scalar(L, i + 1, pf_tensor_dtype(in[1 - i]), name);
    return named(L, name, in, 2);
}

/* The f32 tensor and the number of a mixed operation; false when it is none. */
static bool mixed(lua_State *L, pf_tensor **t, double *number, bool *number_first) {
    *number_first = lua_type(L, 1) == LUA_TNUMBER;
    *t = lpf_test_tensor(L, *number_first ? 2 : 1);
    if (!*t || pf_tensor_dtype(*t) != PF_F32) return false;
    int at = *number_first ? 1 : 2;
    *number = lua_type(L, at) == LUA_TNUMBER ? lua_tonumber(L, at) : 0;
    return lua_type(L, at) == LUA_TNUMBER;
}

static int meta_add(lua_State *L) {
    pf_tensor *t;
    double c;
    bool first;
    return mixed(L, &t, &c, &first) ? affine(L, t, 1, c) : binary(L, "add");
}

static int meta_sub(lua_State *L) {
    pf_tensor *t;
    double c;
    bool first;
    if (!mixed(L, &t, &c, &first)) return binary(L, "sub");
    return first ? affine(L, t, -1, c) : affine(L, t, 1, -c);
}

static int meta_mul(lua_State *L) {
    pf_tensor *t;
    double c;
    bool first;
    return mixed(L, &t, &c, &first) ? affine(L, t, c, 0) : binary(L, "mul");
}

/* Dividing by a number is the op div, not a product with its rounded inverse. */
static int meta_div(lua_State *L) { return binary(L, "div"); }

/* The two common exponents have ops of their own, which are faster. */
static int meta_pow(lua_State *L) {
    pf_tensor *t;
    double c;
    bool first;
    if (mixed(L, &t, &c, &first) && !first) {
        if (c == 2) return named(L, "square", &t, 1);
        if (c == 0.5) return named(L, "sqrt", &t, 1);
    }
    return binary(L, "pow");
}

/* neg is of f32; of i32 it is 0 - t. */
static int meta_unm(lua_State *L) {
    pf_tensor *t = lpf_check_tensor(L, 1, "neg", "x");
    if (pf_tensor_dtype(t) == PF_F32) return named(L, "neg", &t, 1);
    lua_settop(L, 1);
    lua_pushinteger(L, 0);
    lua_insert(L, 1);
    return binary(L, "sub");
}

static int meta_idiv(lua_State *L) { return binary(L, "floor_divide"); }
static int meta_mod(lua_State *L) { return binary(L, "remainder"); }

/* Lua makes one boolean of whatever < gives, so there is none for tensors. */
static int meta_compare(lua_State *L) {
    return lpf_raise(L,
                     "< and its like give Lua one boolean; of tensors t:lt(u), le, gt, ge compare "
                     "each element, and the item of one compares as any number");
}

static const luaL_Reg operators[] = {{"__add", meta_add},
                                     {"__sub", meta_sub},
                                     {"__mul", meta_mul},
                                     {"__div", meta_div},
                                     {"__idiv", meta_idiv},
                                     {"__mod", meta_mod},
                                     {"__lt", meta_compare},
                                     {"__le", meta_compare},
                                     {"__pow", meta_pow},
                                     {"__unm", meta_unm},
                                     {NULL, NULL}};

void lpf_open_arith(lua_State *L) {
    luaL_getmetatable(L, LPF_TENSOR);
    luaL_setfuncs(L, operators, 0);
    lua_pop(L, 1);
}
