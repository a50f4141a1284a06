/*
 * lpf_arith.c - t[i], t[i] = x and the operators of tensors, made of op rows. A number mixed with
 * a tensor needs no tensor of its own where the op affine does the same.
 */
#include "lpf.h"

#include <string.h>

/* ---- positions ---------------------------------------------------------------- */

/* Argument 1, a tensor whose numbers may be read. */
static pf_tensor *living(lua_State *L, const char *where) {
    lpf_enter(L);
    return lpf_check_living(L, 1, where);
}

/* t[position]: a slice of one, without its dimension. */
static int row_at(lua_State *L, pf_tensor *t, int64_t position) {
    int rank = pf_tensor_rank(t);
    if (rank == 0) return lpf_raise(L, "index: a scalar tensor has no positions");
    int64_t n = pf_tensor_size(t, 0), at = lpf_place(position, n);
    if (at < 0)
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

/* t[i] is the i-th of the first dimension; t.name a method. */
static int tensor_index(lua_State *L) {
    if (lua_type(L, 2) == LUA_TNUMBER)
        return row_at(L, living(L, "index"), lpf_check_whole(L, 2, "index", "the position"));
    if (lua_type(L, 2) != LUA_TSTRING)
        return lpf_raise(L, "a tensor is indexed by a position or a method's name, not %s",
                         lpf_kind(L, 2));
    return lpf_find_method(L, LPF_TENSOR, true);
}

/* Numbers of t[position] := a number, or a tensor of the row's element count. */
static int tensor_newindex(lua_State *L) {
    pf_tensor *t = living(L, "assignment");
    if (lua_type(L, 2) == LUA_TSTRING)
        return lpf_raise(L,
                         "assignment: '%s' is no field; rows are set by position (t[1] = 0), "
                         "all else by methods, as t:requires_grad()",
                         lua_tostring(L, 2));
    int64_t at = lpf_check_whole(L, 2, "assignment", "the position");
    int64_t rows = pf_tensor_rank(t) > 0 ? pf_tensor_size(t, 0) : 0;
    int64_t row = lpf_place(at, rows);
    if (row < 0 || row >= rows)
        return lpf_raise(
            L, "assignment: position %lld, the first dimension has %lld (they count from 1)",
            (long long)at, (long long)rows);
    if (lpf_enter(L)->tape && pf_tensor_requires_grad(t))
        return lpf_raise(L,
                         "assignment: a tensor that requires a gradient can't change under a tape");
    int64_t n = pf_tensor_numel(t) / rows;
    const pf_tensor *from = lpf_test_tensor(L, 3);
    if (!from && lua_type(L, 3) != LUA_TNUMBER)
        return lpf_raise(L, "assignment: a number or a tensor is needed, got %s", lpf_kind(L, 3));
    if (from && pf_tensor_numel(from) != n)
        return lpf_raise(L, "assignment: the row has %lld elements, the tensor %lld", (long long)n,
                         (long long)pf_tensor_numel(from));
    if (from) {
        lpf_result(L, pf_tensor_set_row(t, row, from));
        return 0;
    }
    for (int64_t i = 0; i < n; i++)
        lpf_result(L, pf_tensor_set(t, row * n + i, lua_tonumber(L, 3)));
    return 0;
}

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
                                     {"__index", tensor_index},
                                     {"__newindex", tensor_newindex},
                                     {NULL, NULL}};

void lpf_open_arith(lua_State *L) {
    luaL_getmetatable(L, LPF_TENSOR);
    luaL_setfuncs(L, operators, 0);
    lua_pop(L, 1);
}
