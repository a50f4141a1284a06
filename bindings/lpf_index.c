/*
 * lpf_index.c - t[key] and t[key] = value: by a position of the first dimension, by a list of one
 * entry a dimension ({ {1, 3}, -1, {} }: a range with its last, a position, all), or by a mask.
 * Reading is made of op rows, and so has gradients; writing is a change in place.
 *
 * A tensor as a key is a mask of 1 and 0 and nothing else: positions as a tensor have the same
 * dtype, and go to t:index_select.
 */
#include "lpf.h"

#include <math.h>
#include <string.h>

/* The box that a list names, as the engine counts. */
typedef struct {
    int n; /* entries */
    int64_t first[PF_MAX_RANK], end[PF_MAX_RANK];
    bool one[PF_MAX_RANK], whole[PF_MAX_RANK];
} box;

static pf_tensor *living(lua_State *L, const char *where) {
    lpf_enter(L);
    return lpf_check_living(L, 1, where);
}

/* ---- reading a key ------------------------------------------------------------ */

/* The place of a position in dimension d of t. */
static int64_t place_in(lua_State *L, const pf_tensor *t, int d, int64_t position,
                        const char *where) {
    int64_t n = pf_tensor_size(t, d), at = lpf_place(position, n);
    if (at < 0)
        lpf_raise(L, "%s: position %lld, dimension %d has %lld (they count from 1)", where,
                  (long long)position, (int)lpf_told(d), (long long)n);
    return at;
}

/* A table on top of the stack has n entries and no names, which would go unheard. */
static void check_list(lua_State *L, int64_t n, const char *where) {
    for (lua_pushnil(L); lua_next(L, -2); lua_pop(L, 1)) {
        lua_Integer i = lua_isinteger(L, -2) ? lua_tointeger(L, -2) : 0;
        if (i < 1 || i > n)
            lpf_raise(L,
                      "%s: '%s' is no place in a list: entries follow one another, without names, "
                      "and {} stands for all",
                      where, luaL_tolstring(L, -2, NULL));
    }
}

/* Entry d, a table on top of the stack: {} or {first, last}. */
static void read_range(lua_State *L, const pf_tensor *t, int d, box *b, const char *where) {
    int64_t n = pf_tensor_size(t, d), count = (int64_t)lua_rawlen(L, -1);
    check_list(L, count, where);
    b->whole[d] = count == 0;
    b->first[d] = 0, b->end[d] = n;
    if (b->whole[d]) return;
    if (count != 2)
        lpf_raise(L, "%s: a range is {first, last}, or {} for all; dimension %d has one of %lld",
                  where, (int)lpf_told(d), (long long)count);
    int64_t bound[2];
    for (int i = 0; i < 2; i++) {
        lua_rawgeti(L, -1, i + 1);
        bound[i] = lpf_check_whole(L, -1, where, i == 0 ? "the first" : "the last");
        lua_pop(L, 1);
    }
    b->first[d] = bound[0], b->end[d] = bound[1];
    if (!lpf_range(&b->first[d], &b->end[d], n))
        lpf_raise(L, "%s: from %lld to %lld, but dimension %d has %lld (positions count from 1)",
                  where, (long long)bound[0], (long long)bound[1], (int)lpf_told(d), (long long)n);
}

/* The list at 2. */
static void read_box(lua_State *L, const pf_tensor *t, box *b, const char *where) {
    int64_t n = (int64_t)lua_rawlen(L, 2);
    lua_pushvalue(L, 2);
    check_list(L, n, where);
    lua_pop(L, 1);
    if (n > pf_tensor_rank(t))
        lpf_raise(L, "%s: %lld entries, but the tensor has %d dimensions", where, (long long)n,
                  pf_tensor_rank(t));
    b->n = (int)n;
    for (int d = 0; d < b->n; d++) {
        b->one[d] = b->whole[d] = false;
        if (lua_rawgeti(L, 2, d + 1) == LUA_TTABLE) {
            read_range(L, t, d, b, where);
        } else if (lua_type(L, -1) == LUA_TNUMBER) {
            b->one[d] = true;
            b->first[d] = place_in(L, t, d, lpf_check_whole(L, -1, where, "a position"), where);
            b->end[d] = b->first[d] + 1;
        } else {
            lpf_raise(L, "%s: an entry is a position, {first, last} or {}, not %s", where,
                      lpf_kind(L, -1));
        }
        lua_pop(L, 1);
    }
}

/* ---- t[key] --------------------------------------------------------------------- */

static const lpf_op *defaults_of(lua_State *L, const char *name, pf_attr *attr) {
    const lpf_op *op = lpf_find_op(L, name);
    lpf_result(L, pf_op_defaults(lpf_engine(L), op->index, attr));
    return op;
}

static pf_attr *attr_of(const lpf_op *op, pf_attr *attr, const char *name) {
    int k = 0;
    while (k + 1 < op->info.n_attrs && strcmp(op->info.attrs[k].name, name) != 0) k++;
    return &attr[k];
}

/* The part of the tensor on top in place of it. */
static void push_slice(lua_State *L, pf_tensor *t, int dim, int64_t first, int64_t end) {
    pf_attr attr[LPF_MAX_ATTR];
    const lpf_op *op = defaults_of(L, "slice", attr);
    attr_of(op, attr, "dim")->i = dim;
    attr_of(op, attr, "first")->i = first;
    attr_of(op, attr, "end")->i = end;
    lpf_run(L, op, &t, 1, attr);
    lua_remove(L, -2);
}

/* A view of argument 1: slices, and then without the dimensions that one position was named of. */
static int push_box(lua_State *L, const box *b) {
    pf_attr attr[LPF_MAX_ATTR];
    const lpf_op *squeeze = defaults_of(L, "squeeze", attr);
    pf_attr *dims = attr_of(squeeze, attr, "dims");
    dims->n = 0;
    lua_pushvalue(L, 1);
    for (int d = 0; d < b->n; d++) {
        if (!b->whole[d]) push_slice(L, lpf_test_tensor(L, -1), d, b->first[d], b->end[d]);
        if (b->one[d]) dims->list[dims->n++] = d;
    }
    if (dims->n == 0) return 1;
    pf_tensor *t = lpf_test_tensor(L, -1);
    return lpf_run(L, squeeze, &t, 1, attr);
}

static int masked(lua_State *L, pf_tensor *t, pf_tensor *mask) {
    pf_attr attr[LPF_MAX_ATTR];
    const lpf_op *op = defaults_of(L, "masked_select", attr);
    return lpf_run(L, op, (pf_tensor *[]){t, mask}, 2, attr);
}

/* t[position], t[{...}], t[mask]; t.name is a method. */
static int tensor_index(lua_State *L) {
    box b = {0};
    if (lua_type(L, 2) == LUA_TSTRING) return lpf_find_method(L, LPF_TENSOR, true);
    pf_tensor *t = living(L, "index");
    if (lua_type(L, 2) == LUA_TNUMBER) {
        int64_t position = lpf_check_whole(L, 2, "index", "the position");
        if (pf_tensor_rank(t) == 0) return lpf_raise(L, "index: a scalar tensor has no positions");
        int64_t n = pf_tensor_size(t, 0), at = lpf_place(position, n);
        if (at < 0)
            return lpf_raise(
                L, "index: position %lld, the first dimension has %lld (they count from 1)",
                (long long)position, (long long)n);
        b = (box){.n = 1, .first = {at}, .end = {at + 1}, .one = {true}};
        return push_box(L, &b);
    }
    if (lpf_test_tensor(L, 2)) return masked(L, t, lpf_test_tensor(L, 2));
    if (!lua_istable(L, 2))
        return lpf_raise(L,
                         "a tensor is indexed by a position, a list of positions and ranges, a "
                         "mask or a method's name, not %s",
                         lpf_kind(L, 2));
    read_box(L, t, &b, "index");
    return push_box(L, &b);
}

/* ---- t[key] = value --------------------------------------------------------------- */

/* The value at 3: a tensor, or a number as one of t's dtype. */
static const pf_tensor *value_for(lua_State *L, const pf_tensor *t) {
    const pf_tensor *from = lpf_test_tensor(L, 3);
    if (from) return from;
    if (lua_type(L, 3) != LUA_TNUMBER)
        lpf_raise(L, "assignment: a number or a tensor is needed, got %s", lpf_kind(L, 3));
    const double value = lua_tonumber(L, 3);
    if (pf_tensor_dtype(t) == PF_F32 && isinf((float)value) && !isinf(value))
        lpf_raise(L, "assignment: an f32 tensor cannot hold %.14g", value);
    return lpf_scalar(L, 3, pf_tensor_dtype(t), "assignment");
}

/* The part := the value at 3. */
static int set_part(lua_State *L, pf_tensor *t, const int64_t *first, const int64_t *end, int n) {
    const pf_tensor *from = value_for(L, t);
    int64_t elements = 1;
    for (int d = 0; d < pf_tensor_rank(t); d++)
        elements *= d >= n ? pf_tensor_size(t, d) : end[d] == PF_PART_ONE ? 1 : end[d] - first[d];
    lpf_charge(L, elements);
    int status;
    LPF_LENT(L, status, pf_tensor_set_part(t, first, end, n, from));
    if (lpf_collect_for(L, status)) LPF_LENT(L, status, pf_tensor_set_part(t, first, end, n, from));
    return lpf_result(L, status), 0;
}

static int set_masked(lua_State *L, pf_tensor *t, const pf_tensor *mask) {
    const pf_tensor *from = value_for(L, t);
    lpf_charge(L, pf_tensor_numel(mask) + pf_tensor_numel(t));
    int status;
    LPF_LENT(L, status, pf_tensor_set_masked(t, mask, from));
    if (lpf_collect_for(L, status)) LPF_LENT(L, status, pf_tensor_set_masked(t, mask, from));
    return lpf_result(L, status), 0;
}

/* A row takes a tensor of any shape that has as many elements. */
static int set_row(lua_State *L, pf_tensor *t) {
    int64_t at = lpf_check_whole(L, 2, "assignment", "the position");
    int64_t rows = pf_tensor_rank(t) > 0 ? pf_tensor_size(t, 0) : 0;
    int64_t row = lpf_place(at, rows), end = row + 1;
    if (row < 0 || row >= rows)
        return lpf_raise(
            L, "assignment: position %lld, the first dimension has %lld (they count from 1)",
            (long long)at, (long long)rows);
    const pf_tensor *from = lpf_test_tensor(L, 3);
    int64_t n = pf_tensor_numel(t) / rows;
    if (!from) return set_part(L, t, &row, &end, 1);
    if (pf_tensor_numel(from) != n)
        return lpf_raise(L, "assignment: the row has %lld elements, the tensor %lld", (long long)n,
                         (long long)pf_tensor_numel(from));
    lpf_charge(L, 2 * n);
    int status;
    LPF_LENT(L, status, pf_tensor_set_row(t, row, from));
    if (lpf_collect_for(L, status)) LPF_LENT(L, status, pf_tensor_set_row(t, row, from));
    return lpf_result(L, status), 0;
}

static int set_box(lua_State *L, pf_tensor *t) {
    box b;
    read_box(L, t, &b, "assignment");
    for (int d = 0; d < b.n; d++)
        if (b.one[d]) b.end[d] = PF_PART_ONE;
    return set_part(L, t, b.first, b.end, b.n);
}

/* Numbers in place: t[position], t[{...}] or t[mask] := a number, or a tensor. */
static int tensor_newindex(lua_State *L) {
    pf_tensor *t = living(L, "assignment");
    const pf_tensor *mask = lpf_test_tensor(L, 2);
    if (lua_type(L, 2) == LUA_TSTRING)
        return lpf_raise(L,
                         "assignment: '%s' is no field; rows are set by position (t[1] = 0), "
                         "all else by methods, as t:requires_grad()",
                         lua_tostring(L, 2));
    if (lpf_enter(L)->tape && pf_tensor_requires_grad(t))
        return lpf_raise(L,
                         "assignment: a tensor that requires a gradient can't change under a tape");
    if (lua_istable(L, 2)) return set_box(L, t);
    return mask ? set_masked(L, t, mask) : set_row(L, t);
}

static const luaL_Reg operators[] = {
    {"__index", tensor_index}, {"__newindex", tensor_newindex}, {NULL, NULL}};

void lpf_open_index(lua_State *L) {
    luaL_getmetatable(L, LPF_TENSOR);
    luaL_setfuncs(L, operators, 0);
    lua_pop(L, 1);
}
