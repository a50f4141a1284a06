/*
 * lpf_tensor.c - the tensor userdata: a box with one reference to an engine's tensor.
 *
 * Boxes are small and the bytes behind them large, so the collector is told what was
 * allocated: when the debt passes what is live, a full collection runs. Inside a tape only
 * headers count, because the bytes die with the tape anyway.
 */
#include "lpf.h"
#include "performer_extend.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- boxes -------------------------------------------------------------------- */

pf_tensor **lpf_new_tensor(lua_State *L) { return lpf_new(L, LPF_TENSOR, sizeof(pf_tensor *)); }

/* Lua's collector counts the boxes, a few bytes each, and would let a loop hold gigabytes behind
 * them. A full collection whenever the debt has reached what is live keeps the memory within
 * about twice of that, and the collector's time in proportion to what is made. */
void lpf_made(lua_State *L, const pf_tensor *t) {
    lpf_context *ctx = lpf_enter(L);
    ctx->debt += 256; /* the header and the box */
    if (t && !ctx->tape)
        ctx->debt += (size_t)pf_tensor_numel(t) * pf_dtype_size(pf_tensor_dtype(t));
    if (ctx->debt < ctx->trigger) return;
    if (!lpf_collect(L)) return;
    ctx->debt = 0;
    size_t live, peak;
    pf_engine_memory(lpf_engine(L), &live, &peak);
    ctx->trigger = live > LPF_MIN_TRIGGER ? live : LPF_MIN_TRIGGER;
}

/* The budget may be full of tensors that nothing holds any more: the caller tries once again. */
bool lpf_collect_for(lua_State *L, int status) {
    if (status != PF_ENOMEM) return false;
    lpf_drop_dead(L); /* twice: what finalizers of the first let go */
    return true;
}

/* As an op's elements count (pf.limit); raises where they are too many. */
void lpf_charge(lua_State *L, int64_t elements) {
    lpf_result(L, pf_engine_charge(lpf_engine(L), 64 + (uint64_t)elements / 16));
}

void lpf_push_tensor(lua_State *L, pf_tensor *t) {
    if (!t) {
        lua_pushnil(L);
        return;
    }
    pf_tensor **box = lpf_new_tensor(L);
    *box = pf_tensor_retain(t);
    lpf_enter(L)->debt += 64; /* a box alone: the tensor was counted when it was made */
}

pf_tensor *lpf_test_tensor(lua_State *L, int index) {
    pf_tensor **box = luaL_testudata(L, index, LPF_TENSOR);
    return box ? *box : NULL;
}

pf_tensor *lpf_check_tensor(lua_State *L, int index, const char *where, const char *what) {
    pf_tensor *t = lpf_test_tensor(L, index);
    if (!t) lpf_raise(L, "%s: %s must be a tensor, got %s", where, what, lpf_kind(L, index));
    return t;
}

pf_tensor *lpf_check_living(lua_State *L, int index, const char *where) {
    pf_tensor *t = lpf_check_tensor(L, index, where, "self");
    if (!pf_tensor_alive(t))
        lpf_raise(L, "%s: the tensor's tape has closed (use :detach() to keep one)", where);
    return t;
}

/* Argument 1 of a method; dead or alive, it has a shape. */
static pf_tensor *self(lua_State *L, const char *where) {
    pf_tensor *t = lpf_check_tensor(L, 1, where, "self");
    lpf_enter(L);
    return t;
}

/* Self, alive: its numbers may be read. */
static pf_tensor *living(lua_State *L, const char *where) {
    lpf_enter(L);
    return lpf_check_living(L, 1, where);
}

/* A temporary block owned by the Lua stack. */
static void *block_of(lua_State *L, int64_t n, size_t size) {
    return lua_newuserdatauv(L, n > 0 ? (size_t)n * size : 1, 0);
}

/* ---- looking ------------------------------------------------------------------ */

/* "[2, 3]" */
static int shape_text(lua_State *L) {
    luaL_Buffer b;
    luaL_buffinit(L, &b);
    luaL_addchar(&b, '[');
    lua_Integer n = luaL_len(L, 1);
    for (lua_Integer i = 1; i <= n; i++) {
        if (i > 1) luaL_addstring(&b, ", ");
        lua_geti(L, 1, i);
        luaL_tolstring(L, -1, NULL);
        lua_remove(L, -2);
        luaL_addvalue(&b);
    }
    luaL_addchar(&b, ']');
    luaL_pushresult(&b);
    return 1;
}

/* t:shape(): the list of its sizes, which prints as one does. */
static int tensor_shape(lua_State *L) {
    const pf_tensor *t = self(L, "shape");
    int rank = pf_tensor_rank(t);
    lua_createtable(L, rank, 0);
    for (int d = 0; d < rank; d++) {
        lua_pushinteger(L, pf_tensor_size(t, d));
        lua_rawseti(L, -2, d + 1);
    }
    luaL_setmetatable(L, "performer.shape");
    return 1;
}

/* t:size(dim) */
static int tensor_size(lua_State *L) {
    const pf_tensor *t = self(L, "size");
    int rank = pf_tensor_rank(t);
    if (lua_isnoneornil(L, 2))
        return lpf_raise(L, "size: say of which dimension, as t:size(1); t:shape() has all");
    int64_t dim = lpf_check_whole(L, 2, "size", "dim"), at = lpf_place(dim, rank);
    if (at < 0)
        return lpf_raise(L, "size: dim is %d, the tensor has %d dimensions (they count from 1)",
                         (int)dim, rank);
    lua_pushinteger(L, pf_tensor_size(t, (int)at));
    return 1;
}

static int tensor_rank(lua_State *L) {
    lua_pushinteger(L, pf_tensor_rank(self(L, "rank")));
    return 1;
}

static int tensor_numel(lua_State *L) {
    lua_pushinteger(L, pf_tensor_numel(self(L, "numel")));
    return 1;
}

static int tensor_dtype(lua_State *L) {
    lua_pushstring(L, pf_dtype_name(pf_tensor_dtype(self(L, "dtype"))));
    return 1;
}

static int tensor_alive(lua_State *L) {
    lua_pushboolean(L, pf_tensor_alive(self(L, "alive")));
    return 1;
}

static int tensor_len(lua_State *L) {
    const pf_tensor *t = self(L, "#");
    if (pf_tensor_rank(t) == 0) return lpf_raise(L, "#: a scalar tensor has no length");
    lua_pushinteger(L, pf_tensor_size(t, 0));
    return 1;
}

/* The numbers, or of a dead tensor what is still known. */
static int tensor_tostring(lua_State *L) {
    const pf_tensor *t = self(L, "tostring");
    char **text = lpf_text_slot(L);
    if (pf_tensor_alive(t) && pf_tensor_show(text, t) >= 0) {
        lua_pushstring(L, *text);
        return 1;
    }
    lua_pushcfunction(L, tensor_shape);
    lua_pushvalue(L, 1);
    lua_call(L, 1, 1);
    lua_pushfstring(L, "tensor %s %s, dead: its tape has closed", luaL_tolstring(L, -1, NULL),
                    pf_dtype_name(pf_tensor_dtype(t)));
    return 1;
}

/* Boxes are many, tensors one: equal is the same tensor, not the same numbers. */
static int tensor_eq(lua_State *L) {
    const pf_tensor *a = lpf_test_tensor(L, 1), *b = lpf_test_tensor(L, 2);
    lua_pushboolean(L, a && a == b);
    return 1;
}

/* ---- numbers out and in ------------------------------------------------------- */

/* A NaN's sign says nothing, and Lua's print shows it. */
static void push_float(lua_State *L, double value) {
    lua_pushnumber(L, isnan(value) ? (double)NAN : value);
}

/* The elements as nested tables, from `data` on; returns where it stopped. */
static const char *push_nested(lua_State *L, const pf_tensor *t, int dim, const char *data) {
    if (dim == pf_tensor_rank(t)) {
        if (pf_tensor_dtype(t) == PF_I32)
            lua_pushinteger(L, *(const int32_t *)(const void *)data);
        else
            push_float(L, (double)*(const float *)(const void *)data);
        return data + 4;
    }
    luaL_checkstack(L, 4, "totable"); /* a table a dimension stays there on the way down */
    int64_t n = pf_tensor_size(t, dim);
    lua_createtable(L, n < 1 << 24 ? (int)n : 0, 0);
    for (int64_t i = 0; i < n; i++) {
        data = push_nested(L, t, dim + 1, data);
        lua_rawseti(L, -2, i + 1);
    }
    return data;
}

static int tensor_totable(lua_State *L) {
    const pf_tensor *t = living(L, "totable");
    int64_t n = pf_tensor_numel(t);
    void *data = block_of(L, n, 4);
    int status;
    LPF_LENT(L, status, pf_tensor_read(t, data, (size_t)n * 4));
    lpf_result(L, status);
    push_nested(L, t, 0, data);
    return 1;
}

/* t:item(): the number of a tensor of one element. */
static int tensor_item(lua_State *L) {
    const pf_tensor *t = living(L, "item");
    int64_t n = pf_tensor_numel(t);
    if (n != 1) return lpf_raise(L, "item: the tensor has %lld elements, not 1", (long long)n);
    double value;
    lpf_result(L, pf_tensor_get(t, 0, &value));
    if (pf_tensor_dtype(t) == PF_I32)
        lua_pushinteger(L, (lua_Integer)value);
    else
        push_float(L, value);
    return 1;
}

/* t:copy_(source), t:fill_(number), t:zero_(): new numbers in place; t itself. */
static int tensor_copy(lua_State *L) {
    pf_tensor *t = living(L, "copy_");
    lpf_charge(L, 2 * pf_tensor_numel(t));
    const pf_tensor *from = lpf_check_tensor(L, 2, "copy_", "the source");
    int status;
    LPF_LENT(L, status, pf_tensor_copy(t, from));
    lpf_result(L, status);
    lua_settop(L, 1);
    return 1;
}

static void fill(lua_State *L, pf_tensor *t, double value) {
    int status;
    lpf_charge(L, pf_tensor_numel(t));
    LPF_LENT(L, status, pf_tensor_fill(t, value));
    lpf_result(L, status);
    lua_settop(L, 1);
}

static int tensor_fill(lua_State *L) {
    pf_tensor *t = living(L, "fill_");
    if (lua_type(L, 2) != LUA_TNUMBER)
        return lpf_raise(L, "fill_: the value must be a number, got %s", lpf_kind(L, 2));
    fill(L, t, lua_tonumber(L, 2));
    return 1;
}

static int tensor_zero(lua_State *L) {
    pf_tensor *t = living(L, "zero_");
    fill(L, t, 0);
    return 1;
}

/* t:detach(): a copy that no tape knows, and none takes along when it closes. */
static int tensor_detach(lua_State *L) {
    const pf_tensor *t = living(L, "detach");
    pf_tensor **out = lpf_new_tensor(L);
    int status = pf_tensor_detach(out, lpf_engine(L), t);
    if (lpf_collect_for(L, status)) status = pf_tensor_detach(out, lpf_engine(L), t);
    lpf_result(L, status);
    lpf_made(L, *out);
    return 1;
}

int32_t *lpf_ids(lua_State *L, int index, const char *where, size_t *n) {
    const pf_tensor *t = lpf_test_tensor(L, index);
    if (t) {
        if (pf_tensor_dtype(t) != PF_I32)
            lpf_raise(L, "%s: ids must be an i32 tensor, got f32", where);
        if (!pf_tensor_alive(t)) lpf_raise(L, "%s: the ids' tape has closed", where);
        *n = (size_t)pf_tensor_numel(t);
        int32_t *ids = block_of(L, (int64_t)*n, sizeof *ids);
        lpf_result(L, pf_tensor_read(t, ids, *n * sizeof *ids));
        return ids;
    }
    if (!lua_istable(L, index))
        lpf_raise(L, "%s: ids must be an i32 tensor or a list, got %s", where, lpf_kind(L, index));
    *n = (size_t)lua_rawlen(L, index);
    int32_t *ids = block_of(L, (int64_t)*n, sizeof *ids);
    for (size_t i = 0; i < *n; i++) {
        lua_rawgeti(L, index, (lua_Integer)i + 1);
        int64_t id = lpf_check_whole(L, -1, where, "an id");
        if (id < INT32_MIN || id > INT32_MAX) lpf_raise(L, "%s: an id is out of range", where);
        ids[i] = (int32_t)id;
        lua_pop(L, 1);
    }
    return ids;
}

int64_t *lpf_place_list(lua_State *L, int index, const char *where, const char *names, size_t *n) {
    const int32_t *positions = lpf_ids(L, index, where, n);
    int64_t *places = block_of(L, (int64_t)*n, sizeof *places);
    for (size_t i = 0; i < *n; i++) {
        places[i] = lpf_place(positions[i], LPF_NO_END);
        if (places[i] < 0)
            lpf_raise(L, "%s: %s count from 1, got %d", where, names, (int)positions[i]);
    }
    return places;
}

int lpf_push_ids(lua_State *L, const int32_t *ids, size_t n) {
    const int64_t shape[1] = {(int64_t)n};
    pf_tensor **t = lpf_new_tensor(L);
    lpf_result(L, pf_tensor_empty(t, lpf_engine(L), PF_I32, 1, shape));
    lpf_result(L, pf_tensor_write(*t, ids, n * sizeof *ids));
    lpf_made(L, *t);
    return 1;
}

/* ---- gradients ---------------------------------------------------------------- */

/* t:requires_grad([yes = true]); t itself. */
static int tensor_requires_grad(lua_State *L) {
    pf_tensor *t = living(L, "requires_grad");
    bool yes = lua_isnoneornil(L, 2) || lua_toboolean(L, 2);
    lpf_result(L, pf_tensor_require_grad(t, yes));
    lua_settop(L, 1);
    return 1;
}

static int tensor_wants_grad(lua_State *L) {
    lua_pushboolean(L, pf_tensor_requires_grad(self(L, "wants_grad")));
    return 1;
}

/* t:grad(): the gradient, or nil before there is one. */
static int tensor_grad(lua_State *L) {
    pf_tensor *t = self(L, "grad");
    pf_tensor **grad = lpf_new_tensor(L);
    lpf_result(L, pf_tensor_grad(grad, lpf_engine(L), t));
    if (!*grad) lua_pushnil(L);
    return 1;
}

static int tensor_clear_grad(lua_State *L) {
    pf_tensor_clear_grad(self(L, "clear_grad"));
    lua_settop(L, 1);
    return 1;
}

/* The tensor's last box is not its end: a tape, a module or the engine may hold it too. */
static int tensor_gc(lua_State *L) {
    pf_tensor **box = luaL_checkudata(L, 1, LPF_TENSOR);
    pf_tensor_release(box);
    return 0;
}

static const luaL_Reg methods[] = {{"shape", tensor_shape},
                                   {"size", tensor_size},
                                   {"rank", tensor_rank},
                                   {"numel", tensor_numel},
                                   {"dtype", tensor_dtype},
                                   {"alive", tensor_alive},
                                   {"totable", tensor_totable},
                                   {"item", tensor_item},
                                   {"copy_", tensor_copy},
                                   {"fill_", tensor_fill},
                                   {"zero_", tensor_zero},
                                   {"detach", tensor_detach},
                                   {"requires_grad", tensor_requires_grad},
                                   {"grad", tensor_grad},
                                   {"wants_grad", tensor_wants_grad},
                                   {"clear_grad", tensor_clear_grad},
                                   {NULL, NULL}};

static const luaL_Reg meta[] = {{"__gc", tensor_gc},
                                {"__len", tensor_len},
                                {"__tostring", tensor_tostring},
                                {"__eq", tensor_eq},
                                {NULL, NULL}};

void lpf_open_tensor(lua_State *L) {
    lpf_class(L, LPF_TENSOR, methods, meta);
    luaL_newmetatable(L, "performer.shape");
    lua_pushcfunction(L, shape_text);
    lua_setfield(L, -2, "__tostring");
    lua_pop(L, 1);
}
