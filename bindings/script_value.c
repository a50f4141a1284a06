/*
 * script_value.c - values between the host and Lua: a pf_value onto the stack, and what is on the
 * stack as a pf_value. Tensors and modules go across as references to the same object.
 */
#include <stdlib.h>
#include <string.h>

#include "script.h"

#define VALUES "performer.values"

/* ---- of the host's side ---- */

static void release(pf_value *v) {
    switch (v->kind) {
    case PF_VALUE_TEXT:
        free((char *)(uintptr_t)v->as.text);
        return;
    case PF_VALUE_TENSOR:
        pf_tensor_release(&v->as.tensor);
        return;
    case PF_VALUE_MODULE:
        pf_module_release(&v->as.module);
        return;
    case PF_VALUE_DATA:
        pf_config_free(v->as.data);
        return;
    default:
        return;
    }
}

void pf_value_clear(pf_value *value) {
    if (!value) return;
    if (value->owned) release(value);
    *value = pf_value_nil();
}

static char *copy_text(const char *text, size_t bytes) {
    char *copy = malloc(bytes + 1);
    if (!copy) return NULL;
    if (bytes > 0) memcpy(copy, text, bytes);
    copy[bytes] = 0;
    return copy;
}

/* What it points to, where that is NULL. */
static const char *wrong(const pf_value *v) {
    switch (v->kind) {
    case PF_VALUE_TEXT:
        return v->as.text || v->bytes == 0 ? NULL : "a text";
    case PF_VALUE_TENSOR:
        return v->as.tensor ? NULL : "a tensor";
    case PF_VALUE_MODULE:
        return v->as.module ? NULL : "a module";
    case PF_VALUE_DATA:
        return v->as.data ? NULL : "plain data";
    default:
        return NULL;
    }
}

/* *v, which borrows, owns what it points to from here on; false: out of memory, and it is nil. */
static bool own(pf_value *v) {
    switch (v->kind) {
    case PF_VALUE_TEXT:
        v->as.text = copy_text(v->as.text, v->bytes);
        break;
    case PF_VALUE_TENSOR:
        pf_tensor_retain(v->as.tensor);
        break;
    case PF_VALUE_MODULE:
        pf_module_retain(v->as.module);
        break;
    case PF_VALUE_DATA:
        v->as.data = pf_config_copy(v->as.data);
        break;
    default:
        break;
    }
    v->owned = v->kind >= PF_VALUE_TEXT;
    if (!v->owned || !wrong(v)) return true;
    *v = pf_value_nil();
    return false;
}

int pf_value_copy(pf_value *copy, const pf_value *value) {
    LPF_NEED(copy);
    *copy = pf_value_nil();
    LPF_NEED(value);
    const int status = lpf_values_check(__func__, "value", value, 1);
    if (status < 0) return status;
    *copy = *value;
    if (own(copy)) return PF_OK;
    return lpf_script_refuse(PF_ENOMEM, "pf_value_copy: out of memory");
}

int lpf_values_check(const char *where, const char *what, const pf_value *values, int n) {
    for (int i = 0; i < n; i++) {
        const char *null = wrong(&values[i]);
        if (null)
            return lpf_script_refuse(PF_EINVAL, "%s: %s %d is %s that is NULL", where, what, i,
                                     null);
        if ((unsigned)values[i].kind > PF_VALUE_DATA)
            return lpf_script_refuse(PF_EINVAL, "%s: %s %d is of no kind that there is, %d", where,
                                     what, i, (int)values[i].kind);
    }
    return PF_OK;
}

/* ---- onto the stack ---- */

/* Methods that are written in Lua belong to tensors and models as any others do. */
static void need_binding(lua_State *L) {
    if (lua_getfield(L, LUA_REGISTRYINDEX, "performer.require") != LUA_TFUNCTION) {
        lua_pop(L, 1);
        return;
    }
    lua_call(L, 0, 0);
    lua_pushnil(L);
    lua_setfield(L, LUA_REGISTRYINDEX, "performer.require");
}

void lpf_push_value(lua_State *L, const pf_value *v) {
    luaL_checkstack(L, 8, "values");
    switch (v->kind) {
    case PF_VALUE_NIL:
        lua_pushnil(L);
        return;
    case PF_VALUE_BOOL:
        lua_pushboolean(L, v->as.boolean);
        return;
    case PF_VALUE_INTEGER:
        lua_pushinteger(L, v->as.integer);
        return;
    case PF_VALUE_NUMBER:
        lua_pushnumber(L, v->as.number);
        return;
    case PF_VALUE_TEXT:
        lua_pushlstring(L, v->as.text ? v->as.text : "", v->bytes);
        return;
    case PF_VALUE_TENSOR:
        need_binding(L);
        lpf_push_tensor(L, v->as.tensor);
        return;
    case PF_VALUE_MODULE:
        need_binding(L);
        lpf_push_module(L, v->as.module);
        return;
    case PF_VALUE_DATA:
        lpf_push_config(L, v->as.data);
        return;
    }
}

/* ---- from the stack ---- */

static bool borrow_object(lua_State *L, int index, pf_value *v, const char *what) {
    pf_module **module;
    pf_tensor *tensor = lpf_test_tensor(L, index);
    if (tensor) {
        if (!pf_tensor_alive(tensor)) {
            lua_pushfstring(L, "%s is a tensor whose tape has closed (use :detach() to keep one)",
                            what);
            lpf_raise_as(L, PF_ESTATE);
        }
        *v = pf_value_tensor(tensor);
    } else if ((module = luaL_testudata(L, index, LPF_MODULE)) && *module) {
        *v = pf_value_module(*module);
    }
    return v->kind != PF_VALUE_NIL;
}

/* What stands for itself as plain data, too: tables, kernels. */
static void borrow_data(lua_State *L, int index, pf_value *v, const char *what) {
    *v = pf_value_data(lpf_to_config(L, index, what));
}

void lpf_borrow_value(lua_State *L, int index, pf_value *v, const char *what) {
    luaL_checkstack(L, 8, "values");
    *v = pf_value_nil();
    switch (lua_type(L, index)) {
    case LUA_TNIL:
        return;
    case LUA_TBOOLEAN:
        *v = pf_value_bool(lua_toboolean(L, index) != 0);
        return;
    case LUA_TNUMBER:
        *v = lua_isinteger(L, index) ? pf_value_integer(lua_tointeger(L, index))
                                     : pf_value_number(lua_tonumber(L, index));
        return;
    case LUA_TSTRING:
        v->as.text = lua_tolstring(L, index, &v->bytes);
        v->kind = PF_VALUE_TEXT;
        return;
    case LUA_TLIGHTUSERDATA:
        if (!lua_touserdata(L, index)) return; /* pf.json.null */
        break;
    case LUA_TUSERDATA:
        if (borrow_object(L, index, v, what)) return;
        break;
    default:
        break;
    }
    borrow_data(L, index, v, what);
}

void lpf_take_value(lua_State *L, int index, pf_value *v, const char *what) {
    const int top = lua_gettop(L);
    pf_value borrowed;
    lpf_borrow_value(L, index, &borrowed, what);
    if (borrowed.kind == PF_VALUE_DATA) { /* the tree changes hands */
        *(pf_config **)lua_touserdata(L, -1) = NULL;
        borrowed.owned = true;
    } else if (!own(&borrowed)) {
        lua_pushliteral(L, "not enough memory");
        lpf_raise_as(L, PF_ENOMEM);
    }
    *v = borrowed;
    lua_settop(L, top);
}

/* ---- blocks of them ---- */

typedef struct {
    int n;
    pf_value value[];
} values;

static int values_gc(lua_State *L) {
    values *block = lua_touserdata(L, 1);
    for (int i = 0; i < block->n; i++) pf_value_clear(&block->value[i]);
    return 0;
}

pf_value *lpf_new_values(lua_State *L, int n) {
    values *block = lua_newuserdatauv(L, sizeof *block + (size_t)n * sizeof(pf_value), 0);
    block->n = n;
    for (int i = 0; i < n; i++) block->value[i] = pf_value_nil();
    if (luaL_newmetatable(L, VALUES)) {
        lua_pushcfunction(L, values_gc);
        lua_setfield(L, -2, "__gc");
    }
    lua_setmetatable(L, -2);
    return block->value;
}
