/*
 * lpf_arith.c - t[i] and the operators of tensors, each made of op rows. A number mixed with
 * a tensor needs no tensor of its own where the op affine does the same.
 */
#include "lpf.h"

#include <string.h>

/* t[position]: a slice of one, without its dimension. */
int lpf_index_first(lua_State *L, pf_tensor *t, int64_t position) {
    const int rank = pf_tensor_rank(t);
    if (rank == 0) return lpf_raise(L, "index: a scalar tensor has no positions");
    const int64_t n = pf_tensor_size(t, 0), at = position > 0 ? position - 1 : position + n;
    if (position == 0 || at < 0 || at >= n)
        return lpf_raise(L,
                         "index: position %lld, the first dimension has %lld (they count from 1)",
                         (long long)position, (long long)n);
    const lpf_op *slice = lpf_find_op(L, "slice"), *reshape = lpf_find_op(L, "reshape");
    pf_attr attr[LPF_MAX_ATTR];
    lpf_result(L, pf_op_defaults(lpf_engine(L), slice->index, attr));
    for (int k = 0; k < slice->info.n_attrs; k++) {
        if (slice->info.attrs[k].kind == PF_ATTR_DIM) attr[k].i = 0;
        if (slice->info.attrs[k].kind == PF_ATTR_INDEX)
            attr[k].i = strcmp(lpf_attr_name(&slice->info.attrs[k]), "last") == 0 ? at + 1 : at;
    }
    lpf_run(L, slice, &t, 1, attr);
    pf_tensor *row = lpf_test_tensor(L, -1);
    pf_attr shape[LPF_MAX_ATTR];
    lpf_result(L, pf_op_defaults(lpf_engine(L), reshape->index, shape));
    shape[0].n = rank - 1;
    for (int d = 1; d < rank; d++) shape[0].list[d - 1] = pf_tensor_size(t, d);
    return lpf_run(L, reshape, &row, 1, shape);
}

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
    const int at = *number_first ? 1 : 2;
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

static int meta_unm(lua_State *L) {
    pf_tensor *t = lpf_check_tensor(L, 1, "neg", "x");
    if (pf_tensor_dtype(t) == PF_F32) return named(L, "neg", &t, 1);
    lua_settop(L, 1);
    lua_pushinteger(L, 0);
    lua_insert(L, 1);
    return binary(L, "sub");
}

static const luaL_Reg operators[] = {{"__add", meta_add}, {"__sub", meta_sub}, {"__mul", meta_mul},
                                     {"__div", meta_div}, {"__pow", meta_pow}, {"__unm", meta_unm},
                                     {NULL, NULL}};

void lpf_open_arith(lua_State *L) {
    luaL_getmetatable(L, LPF_TENSOR);
    luaL_setfuncs(L, operators, 0);
    lua_pop(L, 1);
}
